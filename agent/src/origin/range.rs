//! The `Range` header (RFC 9110 14.2) against the length of a file.
//!
//! It does not know whether the range may be used at all (`super::conditional`).

/// What part of a file to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// All of it, with 200.
    Whole,
    /// These octets, first and last included, with 206.
    Range {
        /// First octet.
        first: u64,
        /// Last octet, below the length.
        last: u64,
    },
    /// Nothing that was asked for exists: 416.
    Unsatisfiable,
}

impl Part {
    /// Reads a header value. Several ranges are answered with the whole file, which RFC 9110 14.2
    /// allows; an unknown unit is ignored; a value that is no set of ranges cannot be satisfied.
    pub(crate) fn parse(value: &[u8], len: u64) -> Self {
        let Some(set) = value.iter().position(|octet| *octet == b'=').and_then(|at| {
            value[..at].trim_ascii().eq_ignore_ascii_case(b"bytes").then(|| &value[at + 1..])
        }) else {
            return Self::Whole;
        };
        let (mut asked, mut found) = (0_usize, Self::Unsatisfiable);
        for spec in set.split(|octet| *octet == b',').map(<[u8]>::trim_ascii) {
            // Empty elements of a list are nothing (RFC 9110 5.6.1.2).
            if spec.is_empty() {
                continue;
            }
            let Some(part) = parse_one(spec, len) else { return Self::Unsatisfiable };
            asked += 1;
            if part != Self::Unsatisfiable {
                found = part;
            }
        }
        match found {
            // 206 cannot say "nothing of nothing"; the whole of an empty file can.
            _ if asked > 0 && len == 0 => Self::Whole,
            Self::Range { .. } if asked > 1 => Self::Whole,
            found => found,
        }
    }
}

/// One range; `None` if it is not one.
fn parse_one(spec: &[u8], len: u64) -> Option<Part> {
    let dash = spec.iter().position(|octet| *octet == b'-')?;
    let (first, last) = (&spec[..dash], &spec[dash + 1..]);
    let Some(end) = len.checked_sub(1) else {
        // Of an empty file nothing exists; but the range must still be one.
        return (!first.is_empty() || !last.is_empty())
            .then(|| {
                [first, last].iter().all(|digits| digits.is_empty() || number(digits).is_some())
            })
            .filter(|valid| *valid)
            .map(|_| Part::Unsatisfiable);
    };
    if first.is_empty() {
        let suffix = number(last)?;
        if suffix == 0 {
            return Some(Part::Unsatisfiable);
        }
        return Some(Part::Range { first: len.saturating_sub(suffix), last: end });
    }
    let first = number(first)?;
    let last = if last.is_empty() { end } else { number(last)? };
    if last < first && last != end {
        return None;
    }
    Some(if first > end { Part::Unsatisfiable } else { Part::Range { first, last: last.min(end) } })
}

/// Digits as a number; one that does not fit is as good as the largest.
fn number(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0_u64, |sum, digit| {
        let value = digit.is_ascii_digit().then(|| u64::from(digit - b'0'))?;
        Some(sum.saturating_mul(10).saturating_add(value))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use Part::{Unsatisfiable, Whole};

    const fn part(first: u64, last: u64) -> Part {
        Part::Range { first, last }
    }

    #[test]
    fn ranges_of_ten_octets() {
        let cases = [
            ("bytes=0-4", part(0, 4)),
            ("bytes=-3", part(7, 9)),
            ("bytes=9-", part(9, 9)),
            ("bytes=5-999", part(5, 9)),
            ("bytes=-999", part(0, 9)),
            ("bytes=10-", Unsatisfiable),
            ("bytes=10-20", Unsatisfiable),
            ("bytes=-0", Unsatisfiable),
            ("bytes=5-2", Unsatisfiable),
            ("bytes=12-11", Unsatisfiable),
            ("items=0-4", Whole),
            ("0-4", Whole),
            ("", Whole),
            ("Bytes=0-4", part(0, 4)),
            ("bytes=abc", Unsatisfiable),
            ("bytes=--6", Unsatisfiable),
            ("bytes=-6-", Unsatisfiable),
            ("bytes=10", Unsatisfiable),
            ("bytes=-", Unsatisfiable),
            ("bytes=", Unsatisfiable),
            ("bytes=+1-2", Unsatisfiable),
            ("bytes=0 - 4", Unsatisfiable),
            ("bytes= 0-4 ", part(0, 4)),
            ("bytes=0-0, 9-9", Whole),
            ("bytes=0-1,50-60", Whole),
            ("bytes=20-30,50-60", Unsatisfiable),
            ("bytes=0-1,x", Unsatisfiable),
            ("bytes=,0-4,", part(0, 4)),
            ("bytes=0-99999999999999999999999", part(0, 9)),
            ("bytes=18446744073709551616-", Unsatisfiable),
            ("bytes=99999999999999999999999-99999999999999999999998", Unsatisfiable),
            ("bytes=-99999999999999999999999", part(0, 9)),
            ("bytes=0-", part(0, 9)),
            ("bytes=0-1", part(0, 1)),
            ("bytes=9-9", part(9, 9)),
        ];
        for (value, wanted) in cases {
            assert_eq!(Part::parse(value.as_bytes(), 10), wanted, "{value}");
        }
    }

    #[test]
    fn empty_file_is_whole() {
        for value in ["bytes=0-", "bytes=-5", "bytes=0-0", "bytes=3-,7-"] {
            assert_eq!(Part::parse(value.as_bytes(), 0), Whole, "{value}");
        }
        for value in ["bytes=abc", "bytes=-", "bytes="] {
            assert_eq!(Part::parse(value.as_bytes(), 0), Unsatisfiable, "{value}");
        }
    }

    #[test]
    fn offsets_have_64_bits() {
        const LEN: u64 = 5 << 30;
        let parse = |value: &str| Part::parse(value.as_bytes(), LEN);
        assert_eq!(parse("bytes=5368709116-"), part(LEN - 4, LEN - 1));
        assert_eq!(parse("bytes=-4"), part(LEN - 4, LEN - 1));
        assert_eq!(parse("bytes=4294967290-4294967300"), part(4_294_967_290, 4_294_967_300));
        assert_eq!(Part::parse(b"bytes=1-", u64::MAX), part(1, u64::MAX - 1));
    }

    #[test]
    fn no_value_panics_or_reaches_past_the_end() {
        let mut random = 7_u32;
        let mut next = |below: usize| {
            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (random >> 8) as usize % below
        };
        let alphabet = b"bytes=-,0123456789 \t\xff";
        for _ in 0..20_000 {
            let value: Vec<u8> = (0..next(24)).map(|_| alphabet[next(alphabet.len())]).collect();
            for prefix in [&b""[..], b"bytes="] {
                let value = [prefix, &value].concat();
                for len in [0, 1, 10, u64::MAX] {
                    if let Part::Range { first, last } = Part::parse(&value, len) {
                        assert!(first <= last && last < len, "{}", value.escape_ascii());
                    }
                }
            }
        }
    }
}
