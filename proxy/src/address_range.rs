//! Ranges of IP addresses, as `ADDR` or `ADDR/PREFIX`.
//!
//! It owns their syntax and what lies in them. It does not own what they are good for
//! ([`crate::settings`]).

use std::{fmt, net::IpAddr, str::FromStr};

/// Addresses that have their first bits in common. An IPv4 address and its IPv4-mapped IPv6 form are
/// the same address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AddressRange {
    /// Canonical: never an IPv4-mapped one.
    address: IpAddr,
    /// Bits that count.
    prefix: u32,
}

/// The text is no `ADDR[/PREFIX]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidRange;

impl AddressRange {
    /// Whether `address` lies in the range.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.address, address.to_canonical()) {
            (IpAddr::V4(own), IpAddr::V4(other)) => {
                let differ = u32::from(own) ^ u32::from(other);
                differ.checked_shr(u32::BITS - self.prefix).unwrap_or(0) == 0
            }
            (IpAddr::V6(own), IpAddr::V6(other)) => {
                let differ = u128::from(own) ^ u128::from(other);
                differ.checked_shr(u128::BITS - self.prefix).unwrap_or(0) == 0
            }
            _ => false,
        }
    }
}

impl From<IpAddr> for AddressRange {
    fn from(address: IpAddr) -> Self {
        let address = address.to_canonical();
        Self { address, prefix: bits(address) }
    }
}

impl FromStr for AddressRange {
    type Err = InvalidRange;

    fn from_str(text: &str) -> Result<Self, InvalidRange> {
        let Some((address, prefix)) = text.split_once('/') else {
            return text.parse().map(IpAddr::into).map_err(|_| InvalidRange);
        };
        let address: IpAddr = address.parse().map_err(|_| InvalidRange)?;
        if prefix.is_empty() || !prefix.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(InvalidRange);
        }
        let prefix: u32 = prefix.parse().map_err(|_| InvalidRange)?;
        let canonical = address.to_canonical();
        // ::ffff:10.0.0.0/104 is 10.0.0.0/8; a shorter prefix would reach beyond IPv4.
        let skipped = bits(address) - bits(canonical);
        let prefix = prefix.checked_sub(skipped).ok_or(InvalidRange)?;
        if prefix > bits(canonical) {
            return Err(InvalidRange);
        }
        Ok(Self { address: canonical, prefix })
    }
}

impl fmt::Display for AddressRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

impl fmt::Display for InvalidRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not an IP address, or one with /PREFIX")
    }
}

impl std::error::Error for InvalidRange {}

const fn bits(address: IpAddr) -> u32 {
    match address {
        IpAddr::V4(_) => u32::BITS,
        IpAddr::V6(_) => u128::BITS,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn contains(range: &str, address: &str) -> bool {
        range.parse::<AddressRange>().unwrap().contains(address.parse().unwrap())
    }

    #[test]
    fn range_contains_the_addresses_with_its_first_bits() {
        for (range, inside, outside) in [
            ("127.0.0.1", "127.0.0.1", "127.0.0.2"),
            ("10.0.0.0/8", "10.255.0.1", "11.0.0.0"),
            ("10.0.0.5/31", "10.0.0.4", "10.0.0.6"),
            ("192.0.2.7/32", "192.0.2.7", "192.0.2.6"),
            ("2001:db8::/32", "2001:db8:ffff::1", "2001:db9::"),
            ("::1", "::1", "::2"),
            ("::1/128", "::1", "127.0.0.1"),
            ("0.0.0.0/0", "255.1.2.3", "::1"),
            ("::/0", "ffff::", "127.0.0.1"),
            ("127.0.0.1", "::ffff:127.0.0.1", "::ffff:127.0.0.2"),
            ("::ffff:127.0.0.1", "127.0.0.1", "::1"),
            ("::ffff:10.0.0.0/104", "10.1.2.3", "11.0.0.1"),
        ] {
            assert!(contains(range, inside), "{inside} in {range}");
            assert!(!contains(range, outside), "{outside} in {range}");
        }
    }

    #[test]
    fn other_texts_are_no_ranges() {
        for text in [
            "",
            "/",
            "localhost",
            "127.0.0.1/33",
            "127.0.0.1/",
            "127.0.0.1/+8",
            "::1/129",
            "/8",
            "10.0.0/8",
            "10.0.0.0/8/8",
            "127.0.0.1:80",
            "[::1]",
            "fe80::1%eth0",
            " 127.0.0.1",
            "::ffff:10.0.0.0/95",
            "127.0.0.1/99999999999",
            "010.0.0.1",
        ] {
            assert_eq!(text.parse::<AddressRange>(), Err(InvalidRange), "{text:?}");
        }
    }
}
