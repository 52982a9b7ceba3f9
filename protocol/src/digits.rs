//! Octets as text: hexadecimal, base32 and base64.
//!
//! It owns the alphabets (RFC 4648) and what a text must be to be read: the digits of its alphabet
//! alone, as many as its octets need, no bit set that no octet has. It does not know what the
//! octets are. One small function for all alphabets: a NAS needs none of them to be fast.

/// A way to write octets as text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Digits {
    /// A power of two.
    alphabet: &'static [u8],
    /// Whether `=` fills the last group.
    pads: bool,
    /// Whether capitals are read as small letters.
    ignores_case: bool,
}

/// Hexadecimal in small letters.
pub const HEX: Digits = Digits::new(b"0123456789abcdef");
/// The same; capitals are read, too.
pub const HEX_ANY_CASE: Digits = HEX.ignoring_case();
/// Base32 in small letters, without padding; capitals are read, too.
pub const BASE32: Digits = Digits::new(b"abcdefghijklmnopqrstuvwxyz234567").ignoring_case();
/// Base64 with padding.
pub const BASE64: Digits = Digits { pads: true, ..BASE64_NOPAD };
/// Base64 without padding.
pub const BASE64_NOPAD: Digits =
    Digits::new(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/");
/// Base64 for URLs, without padding.
pub const BASE64URL: Digits =
    Digits::new(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_");

impl Digits {
    const fn new(alphabet: &'static [u8]) -> Self {
        Self { alphabet, pads: false, ignores_case: false }
    }

    const fn ignoring_case(self) -> Self {
        Self { ignores_case: true, ..self }
    }

    /// The text of some octets.
    #[must_use]
    pub fn encode(&self, octets: &[u8]) -> String {
        let mut text = String::new();
        let mut digits = Bits::new(8, self.bits());
        let mut push = |digit: u8| text.push(char::from(self.alphabet[usize::from(digit)]));
        for &octet in octets {
            digits.push(octet);
            while let Some(digit) = digits.pop() {
                push(digit);
            }
        }
        if let Some(digit) = digits.rest() {
            push(digit);
        }
        while self.pads && !text.len().is_multiple_of(PADDED) {
            text.push('=');
        }
        text
    }

    /// The octets of a text; `None` if it is not the one that [`Digits::encode`] makes of them, but
    /// for capitals.
    #[must_use]
    pub fn decode(&self, text: &str) -> Option<Vec<u8>> {
        let mut digits = text.as_bytes();
        if self.pads {
            let padding = digits.iter().rev().take_while(|digit| **digit == b'=').count();
            if !digits.len().is_multiple_of(PADDED) || padding >= PADDED - 1 {
                return None;
            }
            digits = &digits[..digits.len() - padding];
        }
        let mut octets = Vec::new();
        let mut bits = Bits::new(self.bits(), 8);
        for digit in digits {
            let digit = if self.ignores_case { digit.to_ascii_lowercase() } else { *digit };
            let value = self.alphabet.iter().position(|known| *known == digit)?;
            bits.push(u8::try_from(value).ok()?);
            octets.extend(bits.pop());
        }
        // A digit more than the octets need, or one that says more than they do.
        let is_whole = bits.len < self.bits() && bits.rest().unwrap_or(0) == 0;
        is_whole.then_some(octets)
    }

    /// Bits of a digit.
    const fn bits(&self) -> u32 {
        self.alphabet.len().trailing_zeros()
    }
}

/// Bits on their way from groups of one size to groups of another, at most eight each.
struct Bits {
    value: u16,
    len: u32,
    from: u32,
    to: u32,
}

impl Bits {
    const fn new(from: u32, to: u32) -> Self {
        Self { value: 0, len: 0, from, to }
    }

    const fn push(&mut self, group: u8) {
        self.value = self.value << self.from | group as u16;
        self.len += self.from;
    }

    fn pop(&mut self) -> Option<u8> {
        self.len = self.len.checked_sub(self.to)?;
        Some(self.take(self.len))
    }

    /// The bits that fill no group, and zeros.
    fn rest(mut self) -> Option<u8> {
        let missing = self.to - self.len;
        self.value <<= missing;
        (self.len > 0).then(|| self.take(0))
    }

    /// The group above the lowest `len` bits.
    const fn take(&self, len: u32) -> u8 {
        let [_, group] = (self.value >> len & ((1 << self.to) - 1)).to_be_bytes();
        group
    }
}

/// Digits of base64 in a group of whole octets.
const PADDED: usize = 4;

#[cfg(test)]
mod tests {
    use data_encoding as other;

    use super::*;

    /// Each of ours beside that of another implementation.
    const PAIRS: [(Digits, other::Encoding); 5] = [
        (HEX, other::HEXLOWER),
        (HEX_ANY_CASE, other::HEXLOWER_PERMISSIVE),
        (BASE64, other::BASE64),
        (BASE64_NOPAD, other::BASE64_NOPAD),
        (BASE64URL, other::BASE64URL_NOPAD),
    ];

    #[test]
    fn octets_become_the_text_of_another_implementation_and_come_back() {
        let mut random = fastrand::Rng::with_seed(1);
        for len in 0..70 {
            let octets: Vec<u8> = (0..len).map(|_| random.u8(..)).collect();
            for (digits, other) in &PAIRS {
                let text = digits.encode(&octets);
                assert_eq!(text, other.encode(&octets));
                assert_eq!(digits.decode(&text), Some(octets.clone()), "{text}");
            }
            let text = BASE32.encode(&octets);
            assert_eq!(text.to_uppercase(), other::BASE32_NOPAD.encode(&octets));
            assert_eq!(BASE32.decode(&text), Some(octets.clone()));
            assert_eq!(BASE32.decode(&text.to_uppercase()), Some(octets));
        }
    }

    #[test]
    fn what_another_implementation_does_not_read_is_none() {
        let letters = b"Aa0Qgw/_=+-a1z \n\xc3\xa4";
        let mut random = fastrand::Rng::with_seed(2);
        let (mut read, mut refused) = (0, 0);
        for _ in 0..200_000 {
            let len = random.usize(..10);
            let text: Vec<u8> = (0..len).map(|_| letters[random.usize(..letters.len())]).collect();
            let Ok(text) = str::from_utf8(&text) else { continue };
            for (digits, other) in PAIRS.iter().chain(&[(BASE32, other::BASE32_NOPAD_NOCASE)]) {
                if text.trim_end_matches('=').contains('=') {
                    // It reads several padded texts one after the other.
                    assert_eq!(digits.decode(text), None);
                    continue;
                }
                let octets = digits.decode(text);
                assert_eq!(octets, other.decode(text.as_bytes()).ok(), "{text}");
                *if octets.is_some() { &mut read } else { &mut refused } += 1;
            }
        }
        assert!(read > 10_000 && refused > 10_000, "{read} {refused}");
    }
}
