//! The token of a form: who shows a page of ours may post it, a page from elsewhere may not.
//!
//! It owns the key, which lives as long as the process, and how long a token is valid.

use ring::{error::Unspecified, hmac, rand::SystemRandom};
use spdy_protocol::digits::HEX;

/// Makes and knows tokens.
#[derive(Debug)]
pub(crate) struct Secret(hmac::Key);

impl Secret {
    /// A random key.
    ///
    /// # Errors
    /// The system has no random numbers.
    pub(crate) fn new() -> Result<Self, Unspecified> {
        hmac::Key::generate(hmac::HMAC_SHA256, &SystemRandom::new()).map(Self)
    }

    /// The token of a form of a share, valid for [`HOURS`]: digits, a dot, hexadecimal digits.
    pub(crate) fn token(&self, share: &[u8], now: i64) -> String {
        let hour = now.div_euclid(HOUR);
        let tag = hmac::sign(&self.0, &message(share, hour));
        format!("{hour}.{}", HEX.encode(tag.as_ref()))
    }

    /// Whether a token is one of ours, for this share, and not too old.
    pub(crate) fn is_valid(&self, token: &[u8], share: &[u8], now: i64) -> bool {
        let parse = || {
            let (hour, tag) = str::from_utf8(token).ok()?.split_once('.')?;
            Some((hour.parse::<i64>().ok()?, HEX.decode(tag)?))
        };
        parse().is_some_and(|(hour, tag)| {
            let age = now.div_euclid(HOUR).checked_sub(hour);
            age.is_some_and(|age| (0..=HOURS).contains(&age))
                && hmac::verify(&self.0, &message(share, hour), &tag).is_ok()
        })
    }
}

fn message(share: &[u8], hour: i64) -> Vec<u8> {
    [&hour.to_be_bytes(), share].concat()
}

/// Hours that a token is valid at least; it can be one more.
const HOURS: i64 = 24;
/// Seconds.
const HOUR: i64 = 3_600;

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_767_225_600;

    #[test]
    fn token_is_for_one_share_and_one_day() {
        let secret = Secret::new().unwrap();
        let token = secret.token(b"films", NOW);
        let is_valid = |share: &[u8], now| secret.is_valid(token.as_bytes(), share, now);
        assert!(is_valid(b"films", NOW) && is_valid(b"films", NOW + 24 * HOUR));
        assert!(!is_valid(b"films", NOW + 25 * HOUR) && !is_valid(b"films", NOW - HOUR));
        assert!(!is_valid(b"film", NOW) && !is_valid(b"", NOW));
        assert!(!Secret::new().unwrap().is_valid(token.as_bytes(), b"films", NOW));
    }

    #[test]
    fn octets_that_are_no_token_are_refused() {
        let secret = Secret::new().unwrap();
        let token = secret.token(b"", NOW);
        let cut = &token[..token.len() - 2];
        let later = token.replacen('.', "0.", 1);
        for bad in ["", ".", "490896", cut, &later, &token.to_uppercase(), "\u{fc}.00"] {
            // Upper case says the same only if there are no letters.
            assert!(bad == token || !secret.is_valid(bad.as_bytes(), b"", NOW), "{bad}");
        }
        let farthest = format!("{}.00", i64::MIN);
        assert!(!secret.is_valid(farthest.as_bytes(), b"", NOW));
    }
}
