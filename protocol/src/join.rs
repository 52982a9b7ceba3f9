//! The join code: what `spdy-proxy pair` prints and `spdy-agent join` reads.
//!
//! One word of text: `spdy` and the format version, then base32 of addresses, origin name, pins
//! and the one-time secret, with a checksum against slips of the hand. It knows nothing of who
//! checks the secret.

use std::fmt;

use flate2::Crc;

use crate::digits::BASE32;

/// Version of the format.
pub const VERSION: u8 = 1;
/// Most addresses of a code.
pub const ADDRESSES: usize = 8;
/// Most pins of a code.
pub const PINS: usize = 8;

const PREFIX: &str = "spdy";

/// See the module.
#[derive(Clone, PartialEq, Eq)]
pub struct JoinCode {
    /// `HOST:PORT` of the proxy's tunnel port, at least one, at most [`ADDRESSES`].
    pub addresses: Vec<String>,
    /// Name of the origin, see [`is_origin_name`].
    pub origin: String,
    /// SHA-256 of the proxy's public keys (SPKI), at least one, at most [`PINS`].
    pub pins: Vec<[u8; 32]>,
    /// Proves once that the code came from the proxy's owner.
    pub secret: [u8; 16],
}

/// Why a text is no join code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JoinCodeError {
    /// Not of the form at all.
    Malformed,
    /// Of a format version that this program does not know.
    Version(u8),
    /// Mistyped or cut.
    Checksum,
}

impl fmt::Display for JoinCodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Malformed => f.write_str("not a join code"),
            Self::Version(version) => {
                write!(f, "join code of version {version}, this program knows {VERSION}")
            }
            Self::Checksum => f.write_str("join code is mistyped or incomplete"),
        }
    }
}

impl std::error::Error for JoinCodeError {}

/// The secret is not shown.
impl fmt::Debug for JoinCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinCode")
            .field("addresses", &self.addresses)
            .field("origin", &self.origin)
            .field("pins", &self.pins.len())
            .finish_non_exhaustive()
    }
}

impl JoinCode {
    /// The code as text, one word.
    ///
    /// # Panics
    /// When a list is above its limit or an address above 255 octets: the caller checked them.
    #[must_use]
    pub fn encode(&self) -> String {
        let mut octets = Vec::new();
        let count = |len: usize, octets: &mut Vec<u8>| {
            octets.push(u8::try_from(len).expect("lists and texts of a code are short"));
        };
        count(self.addresses.len(), &mut octets);
        for text in self.addresses.iter().chain([&self.origin]) {
            count(text.len(), &mut octets);
            octets.extend_from_slice(text.as_bytes());
        }
        count(self.pins.len(), &mut octets);
        octets.extend(self.pins.iter().flatten());
        octets.extend_from_slice(&self.secret);
        let sum = checksum(&octets);
        octets.extend_from_slice(&sum);
        let text = BASE32.encode(&octets);
        format!("{PREFIX}{VERSION}-{text}")
    }

    /// Reads a code; white space around and inside it, upper and lower case do not matter.
    ///
    /// # Errors
    /// [`JoinCodeError`].
    pub fn parse(text: &str) -> Result<Self, JoinCodeError> {
        let word: String = text.split_whitespace().collect::<String>().to_ascii_lowercase();
        let rest = word.strip_prefix(PREFIX).ok_or(JoinCodeError::Malformed)?;
        let (version, text) = rest.split_once('-').ok_or(JoinCodeError::Malformed)?;
        match version.parse() {
            Ok(VERSION) => {}
            Ok(other) => return Err(JoinCodeError::Version(other)),
            Err(_) => return Err(JoinCodeError::Malformed),
        }
        let octets = BASE32.decode(text).ok_or(JoinCodeError::Checksum)?;
        let (mut octets, sum) = octets.split_last_chunk::<4>().ok_or(JoinCodeError::Checksum)?;
        if checksum(octets) != *sum {
            return Err(JoinCodeError::Checksum);
        }
        let code = Self::parse_octets(&mut octets).filter(|_| octets.is_empty());
        code.ok_or(JoinCodeError::Malformed)
    }

    fn parse_octets(octets: &mut &[u8]) -> Option<Self> {
        let count = usize::from(octets.split_off_first().copied()?);
        if count == 0 || count > ADDRESSES {
            return None;
        }
        let addresses = (0..count).map(|_| take_text(octets)).collect::<Option<Vec<_>>>()?;
        let origin = take_text(octets).filter(|name| is_origin_name(name))?;
        let count = usize::from(octets.split_off_first().copied()?);
        if count == 0 || count > PINS {
            return None;
        }
        let pins = (0..count).map(|_| take_array(octets)).collect::<Option<Vec<_>>>()?;
        Some(Self { addresses, origin, pins, secret: take_array(octets)? })
    }
}

/// Whether a text can name an origin: `[a-z0-9-]{1,63}`.
#[must_use]
pub fn is_origin_name(name: &str) -> bool {
    let allowed = |octet: u8| octet.is_ascii_lowercase() || octet.is_ascii_digit() || octet == b'-';
    (1..=63).contains(&name.len()) && name.bytes().all(allowed)
}

fn take_text(octets: &mut &[u8]) -> Option<String> {
    let len = usize::from(octets.split_off_first().copied()?);
    let text = octets.split_off(..len)?;
    String::from_utf8(text.to_vec()).ok()
}

fn take_array<const N: usize>(octets: &mut &[u8]) -> Option<[u8; N]> {
    let (array, rest) = octets.split_first_chunk()?;
    *octets = rest;
    Some(*array)
}

fn checksum(octets: &[u8]) -> [u8; 4] {
    let mut crc = Crc::new();
    crc.update(&[VERSION]);
    crc.update(octets);
    crc.sum().to_be_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code() -> JoinCode {
        JoinCode {
            addresses: vec!["proxy.example.com:1444".to_owned(), "[2001:db8::1]:1444".to_owned()],
            origin: "nas1".to_owned(),
            pins: vec![[1; 32], [2; 32]],
            secret: [3; 16],
        }
    }

    #[test]
    fn code_survives_a_round_trip_case_and_white_space() {
        let text = code().encode();
        assert!(text.is_ascii() && !text.contains(char::is_whitespace));
        assert_eq!(JoinCode::parse(&text), Ok(code()));
        let typed = format!(" {}\n{} ", &text[..20].to_uppercase(), &text[20..]);
        assert_eq!(JoinCode::parse(&typed), Ok(code()));
    }

    #[test]
    fn every_slip_of_one_letter_is_noticed() {
        let text = code().encode();
        for at in "spdy1-".len()..text.len() {
            let mut slip = text.clone().into_bytes();
            slip[at] = if slip[at] == b'a' { b'b' } else { b'a' };
            let read = JoinCode::parse(str::from_utf8(&slip).unwrap());
            assert_eq!(read, Err(JoinCodeError::Checksum), "{at}");
        }
        for end in 6..text.len() {
            assert!(JoinCode::parse(&text[..end]).is_err());
        }
    }

    #[test]
    fn other_texts_get_one_clear_error() {
        assert_eq!(JoinCode::parse(""), Err(JoinCodeError::Malformed));
        assert_eq!(JoinCode::parse("hello"), Err(JoinCodeError::Malformed));
        assert_eq!(JoinCode::parse("spdy9-aaaa"), Err(JoinCodeError::Version(9)));
        assert_eq!(JoinCode::parse("spdyx-aaaa"), Err(JoinCodeError::Malformed));
    }

    #[test]
    fn names_of_origins_fit_a_host_label() {
        assert!(is_origin_name("nas-1") && is_origin_name(&"a".repeat(63)));
        for bad in ["", "NAS", "a.b", "a_b", "\u{e4}", &"a".repeat(64)] {
            assert!(!is_origin_name(bad), "{bad}");
        }
    }
}
