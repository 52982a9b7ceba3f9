//! `HOST:PORT` of a proxy, as both programs read it: what one prints the other can dial.
//!
//! It owns the syntax. It does not own what a name resolves to.

use std::{
    fmt,
    net::{Ipv4Addr, Ipv6Addr},
};

/// Host and port of a proxy.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Address {
    host: String,
    port: u16,
}

/// Why a text is no [`Address`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddressError {
    /// There is no `:PORT`, 1 to 65535, behind it.
    Port,
    /// A name with letters of other scripts.
    NotAscii,
    /// An IPv6 address without its brackets, or with a zone.
    Ipv6,
    /// Neither a host name nor an IP address.
    Host,
}

impl fmt::Display for AddressError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Port => "no HOST:PORT, with a port of 1 to 65535",
            Self::NotAscii => "no HOST:PORT: give a name with other letters in its xn-- form",
            Self::Ipv6 => "no HOST:PORT: an IPv6 address stands in brackets, without a zone",
            Self::Host => "no HOST:PORT: neither a host name nor an IP address",
        })
    }
}

impl std::error::Error for AddressError {}

impl Address {
    /// Reads `name:port`, `v4:port` or `[v6]:port`. A name has labels of `[A-Za-z0-9_-]` that neither
    /// begin nor end with `-`, at most 63 bytes each and 253 together; its last is not a number.
    ///
    /// # Errors
    /// [`AddressError`].
    pub fn parse(text: &str) -> Result<Self, AddressError> {
        let (host, port) = text.rsplit_once(':').ok_or(AddressError::Port)?;
        let is_number = port.bytes().all(|byte| byte.is_ascii_digit());
        let port = port.parse().ok().filter(|port| is_number && *port != 0);
        let port = port.ok_or(AddressError::Port)?;
        let host = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
            Some(v6) => v6.parse::<Ipv6Addr>().map_err(|_| AddressError::Ipv6)?.to_string(),
            // A bare IPv6 address would leave open which colon begins the port.
            None if host.contains(':') => return Err(AddressError::Ipv6),
            None if !host.is_ascii() => return Err(AddressError::NotAscii),
            None if host.parse::<Ipv4Addr>().is_ok() || is_name(host) => host.to_owned(),
            None => return Err(AddressError::Host),
        };
        Ok(Self { host, port })
    }

    /// Name or number, without brackets.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            return write!(f, "[{}]:{}", self.host, self.port);
        }
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// Whether `host` is a name that a certificate can have, too; a last dot stands for the root.
fn is_name(host: &str) -> bool {
    let name = host.strip_suffix('.').unwrap_or(host);
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    let is_label = |label: &str| {
        (1..=LABEL_MAX).contains(&label.len())
            && label.bytes().all(is_plain)
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let last = name.rsplit('.').next().unwrap_or_default();
    name.len() <= NAME_MAX
        && name.split('.').all(is_label)
        && !last.bytes().all(|byte| byte.is_ascii_digit())
}

/// Bytes of a name and of one of its labels (RFC 1035 2.3.4).
const NAME_MAX: usize = 253;
const LABEL_MAX: usize = 63;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_and_written() {
        for (text, host) in [
            ("localhost:1444", "localhost"),
            ("proxy.example.com:1", "proxy.example.com"),
            ("xn--mller-kva.example:1444", "xn--mller-kva.example"),
            ("my_nas.local.:80", "my_nas.local."),
            ("127.0.0.1:65535", "127.0.0.1"),
            ("[::1]:1444", "::1"),
        ] {
            let address = Address::parse(text).unwrap();
            assert_eq!(address.host(), host);
            assert_eq!(address.to_string(), text);
        }
    }

    #[test]
    fn what_cannot_be_dialled_is_no_address() {
        let long = format!("{}:1", "a.".repeat(127) + "ab");
        let label = format!("{}.example:1", "a".repeat(64));
        for (text, error) in [
            ("", AddressError::Port),
            ("host", AddressError::Port),
            ("host:", AddressError::Port),
            ("host:0", AddressError::Port),
            ("host:65536", AddressError::Port),
            ("host:+80", AddressError::Port),
            ("host:80 ", AddressError::Port),
            ("[::1]", AddressError::Port),
            ("https://host:x", AddressError::Port),
            ("m\u{fc}ller.example:1444", AddressError::NotAscii),
            ("::1:80", AddressError::Ipv6),
            ("[x]:1", AddressError::Ipv6),
            ("[fe80::1%eth0]:1444", AddressError::Ipv6),
            ("[127.0.0.1]:1", AddressError::Ipv6),
            ("https://host:443", AddressError::Ipv6),
            (":1", AddressError::Host),
            (".:1", AddressError::Host),
            ("a..b:1", AddressError::Host),
            ("a b:1", AddressError::Host),
            (" host:1", AddressError::Host),
            ("*.example.com:1444", AddressError::Host),
            ("-x.example:1444", AddressError::Host),
            ("x-.example:1444", AddressError::Host),
            ("user@host:1", AddressError::Host),
            ("host/path:1", AddressError::Host),
            ("1.2.3.999:1", AddressError::Host),
            ("1.2.3:1", AddressError::Host),
            ("[::1:1", AddressError::Ipv6),
            ("a\u{0}b:1", AddressError::Host),
            (&long, AddressError::Host),
            (&label, AddressError::Host),
        ] {
            assert_eq!(Address::parse(text), Err(error), "{text:?}");
        }
    }
}
