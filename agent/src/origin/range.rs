//! The `Range` header (RFC 9110 14.2) against the length of a file.
//!
//! It does not know whether ranges may be used at all (`super::conditional`).

/// A part of a file; first and last octet included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Range {
    pub(crate) first: u64,
    /// At least `first`, below the length.
    pub(crate) last: u64,
}

/// What of a file to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Selection {
    /// All of it, with 200.
    Whole,
    /// One part, with 206.
    One(Range),
    /// 2 to [`PARTS_MAX`] parts that neither overlap nor touch, as multipart/byteranges.
    Many(Vec<Range>),
    /// Nothing that was asked for exists: 416.
    Unsatisfiable,
}

impl Range {
    pub(crate) const fn len(self) -> u64 {
        self.last - self.first + 1
    }
}

impl Selection {
    /// Reads a header value. An unknown unit is ignored; a value that is no set of ranges cannot be
    /// satisfied; a set of more than [`PARTS_MAX`] parts is answered with the whole file, which RFC
    /// 9110 14.2 allows. Parts keep the order in which they were asked for, and since they do not
    /// overlap they are never more than the file.
    pub(crate) fn parse(value: &[u8], len: u64) -> Self {
        let Some(set) = value.iter().position(|octet| *octet == b'=').and_then(|at| {
            value[..at].trim_ascii().eq_ignore_ascii_case(b"bytes").then(|| &value[at + 1..])
        }) else {
            return Self::Whole;
        };
        let (mut asked, mut parts) = (false, Vec::new());
        for spec in set.split(|octet| *octet == b',').map(<[u8]>::trim_ascii) {
            // Empty elements of a list are nothing (RFC 9110 5.6.1.2).
            if spec.is_empty() {
                continue;
            }
            let Some(spec) = Spec::parse(spec) else { return Self::Unsatisfiable };
            asked = true;
            if let Some(part) = spec.within(len) {
                // Bounds the work, which grows with the square of what is kept.
                if parts.len() == PARTS_HELD {
                    return Self::Whole;
                }
                merge(&mut parts, part);
            }
        }
        match parts.as_slice() {
            // 206 cannot say "nothing of nothing"; the whole of an empty file can.
            [] if asked && len == 0 => Self::Whole,
            [] => Self::Unsatisfiable,
            [one] => Self::One(*one),
            many if many.len() <= PARTS_MAX => Self::Many(parts),
            _ => Self::Whole,
        }
    }
}

/// One element of a set.
enum Spec {
    /// `first-last`; without `last` to the end.
    From(u64, Option<u64>),
    /// `-count`: the last octets.
    Suffix(u64),
}

impl Spec {
    /// `None` if it is not one.
    fn parse(spec: &[u8]) -> Option<Self> {
        let dash = spec.iter().position(|octet| *octet == b'-')?;
        let (first, last) = (&spec[..dash], &spec[dash + 1..]);
        if first.is_empty() {
            return number(last).map(Self::Suffix);
        }
        let first = number(first)?;
        let last = if last.is_empty() { None } else { Some(number(last)?) };
        // Both saturate, so that only what fits can be wrong.
        last.is_none_or(|last| first <= last).then_some(Self::From(first, last))
    }

    /// `None` if nothing of it exists.
    fn within(&self, len: u64) -> Option<Range> {
        let end = len.checked_sub(1)?;
        match *self {
            Self::Suffix(0) => None,
            Self::Suffix(count) => Some(Range { first: len.saturating_sub(count), last: end }),
            Self::From(first, last) if first <= end => {
                Some(Range { first, last: last.map_or(end, |last| last.min(end)) })
            }
            Self::From(..) => None,
        }
    }
}

/// Adds a part; those that it overlaps or touches become one with it, in the place of the first.
fn merge(parts: &mut Vec<Range>, mut part: Range) {
    let mut at = parts.len();
    let mut index = 0;
    while let Some(held) = parts.get(index).copied() {
        // `last` is below the length, so that neither sum overflows.
        if held.first > part.last + 1 || part.first > held.last + 1 {
            index += 1;
            continue;
        }
        part = Range { first: part.first.min(held.first), last: part.last.max(held.last) };
        parts.remove(index);
        at = at.min(index);
        // What has grown may touch one that was passed before.
        index = 0;
    }
    parts.insert(at.min(parts.len()), part);
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

/// Parts of one answer.
const PARTS_MAX: usize = 16;
/// Parts that are kept while a header is read: later ones may still join them.
const PARTS_HELD: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;
    use Selection::{Many, Unsatisfiable, Whole};

    const fn range(first: u64, last: u64) -> Range {
        Range { first, last }
    }

    const fn one(first: u64, last: u64) -> Selection {
        Selection::One(range(first, last))
    }

    fn many<const N: usize>(parts: [(u64, u64); N]) -> Selection {
        Many(parts.iter().map(|(first, last)| range(*first, *last)).collect())
    }

    #[test]
    fn ranges_of_ten_octets() {
        let cases = [
            ("bytes=0-4", one(0, 4)),
            ("bytes=-3", one(7, 9)),
            ("bytes=9-", one(9, 9)),
            ("bytes=5-999", one(5, 9)),
            ("bytes=-999", one(0, 9)),
            ("bytes=10-", Unsatisfiable),
            ("bytes=10-20", Unsatisfiable),
            ("bytes=-0", Unsatisfiable),
            ("bytes=5-2", Unsatisfiable),
            ("bytes=12-11", Unsatisfiable),
            ("items=0-4", Whole),
            ("0-4", Whole),
            ("", Whole),
            ("Bytes=0-4", one(0, 4)),
            ("bytes=abc", Unsatisfiable),
            ("bytes=--6", Unsatisfiable),
            ("bytes=-6-", Unsatisfiable),
            ("bytes=10", Unsatisfiable),
            ("bytes=-", Unsatisfiable),
            ("bytes=", Unsatisfiable),
            ("bytes=+1-2", Unsatisfiable),
            ("bytes=0 - 4", Unsatisfiable),
            ("bytes= 0-4 ", one(0, 4)),
            ("bytes=,0-4,", one(0, 4)),
            ("bytes=0-99999999999999999999999", one(0, 9)),
            ("bytes=18446744073709551616-", Unsatisfiable),
            ("bytes=99999999999999999999999-99999999999999999999998", Unsatisfiable),
            ("bytes=-99999999999999999999999", one(0, 9)),
            ("bytes=0-", one(0, 9)),
            ("bytes=0-1", one(0, 1)),
            ("bytes=9-9", one(9, 9)),
        ];
        for (value, wanted) in cases {
            assert_eq!(Selection::parse(value.as_bytes(), 10), wanted, "{value}");
        }
    }

    #[test]
    fn several_ranges_of_ten_octets() {
        let cases = [
            ("bytes=0-0, 9-9", many([(0, 0), (9, 9)])),
            ("bytes=8-9,0-1", many([(8, 9), (0, 1)])),
            ("bytes=0-1,50-60", one(0, 1)),
            ("bytes=20-30,50-60", Unsatisfiable),
            ("bytes=0-1,x", Unsatisfiable),
            ("bytes=0-5,3-8", one(0, 8)),
            ("bytes=0-4,5-9", one(0, 9)),
            ("bytes=0-1,5-8", many([(0, 1), (5, 8)])),
            ("bytes=0-1,8-9,2-7", one(0, 9)),
            ("bytes=8-9,0-0,2-3,1-1", many([(8, 9), (0, 3)])),
            ("bytes=0-,0-,0-", one(0, 9)),
            ("bytes=-1,-2,0-0", many([(8, 9), (0, 0)])),
        ];
        for (value, wanted) in cases {
            assert_eq!(Selection::parse(value.as_bytes(), 10), wanted, "{value}");
        }
    }

    #[test]
    fn sixteen_parts_are_sent_and_seventeen_are_the_whole() {
        let set = |count: u64| {
            let parts: Vec<_> = (0..count).map(|at| format!("{}-{}", at * 3, at * 3)).collect();
            Selection::parse(format!("bytes={}", parts.join(",")).as_bytes(), 10_000)
        };
        assert!(matches!(set(16), Many(parts) if parts.len() == 16));
        assert_eq!(set(17), Whole);
        assert_eq!(set(1_000), Whole);
        let bits: Vec<_> = (0..1_000).map(|at| format!("{at}-{at}")).collect();
        assert_eq!(
            Selection::parse(format!("bytes={}", bits.join(",")).as_bytes(), 2_000),
            one(0, 999)
        );
    }

    #[test]
    fn empty_file_is_whole() {
        for value in ["bytes=0-", "bytes=-5", "bytes=0-0", "bytes=3-,7-"] {
            assert_eq!(Selection::parse(value.as_bytes(), 0), Whole, "{value}");
        }
        for value in ["bytes=abc", "bytes=-", "bytes="] {
            assert_eq!(Selection::parse(value.as_bytes(), 0), Unsatisfiable, "{value}");
        }
    }

    #[test]
    fn offsets_have_64_bits() {
        const LEN: u64 = 5 << 30;
        let parse = |value: &str| Selection::parse(value.as_bytes(), LEN);
        assert_eq!(parse("bytes=5368709116-"), one(LEN - 4, LEN - 1));
        assert_eq!(parse("bytes=-4"), one(LEN - 4, LEN - 1));
        assert_eq!(parse("bytes=4294967290-4294967300"), one(4_294_967_290, 4_294_967_300));
        assert_eq!(Selection::parse(b"bytes=1-", u64::MAX), one(1, u64::MAX - 1));
        let both = Selection::parse(b"bytes=0-0,2-", u64::MAX);
        assert_eq!(both, many([(0, 0), (2, u64::MAX - 1)]));
    }

    #[test]
    fn no_value_panics_reaches_past_the_end_or_sends_an_octet_twice() {
        let mut random = 7_u32;
        let mut next = |below: usize| {
            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (random >> 8) as usize % below
        };
        let alphabet = b"bytes=-,0123456789 \t\xff";
        for _ in 0..20_000 {
            let value: Vec<u8> = (0..next(40)).map(|_| alphabet[next(alphabet.len())]).collect();
            for prefix in [&b""[..], b"bytes="] {
                let value = [prefix, &value].concat();
                for len in [0, 1, 10, 100, u64::MAX] {
                    let parts = match Selection::parse(&value, len) {
                        Selection::One(part) => vec![part],
                        Many(parts) => parts,
                        Whole | Unsatisfiable => continue,
                    };
                    let mut sum = 0_u64;
                    for part in &parts {
                        assert!(part.first <= part.last && part.last < len);
                        sum = sum.checked_add(part.len()).unwrap();
                    }
                    assert!(sum <= len, "{}", value.escape_ascii());
                }
            }
        }
    }
}
