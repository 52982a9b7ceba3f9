//! In which order the entries of a folder stand, and a place in that order.
//!
//! It owns the comparison of names and the cursor that a page hands to the next one. It reads
//! nothing.

use std::{cmp::Ordering, fmt};

use percent_encoding::percent_decode;

use super::super::path::encode_segment;

/// By what entries are sorted. Folders come first in every order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) enum Sort {
    /// As people count and spell: `file2` before `file10`, capitals beside small letters.
    #[default]
    Name,
    /// Octets; folders have none.
    Size,
    /// When the content changed last.
    Time,
}

/// An order of entries. Default: by name, ascending.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Order {
    pub(crate) sort: Sort,
    pub(crate) descending: bool,
}

/// What an entry is sorted by.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Key<'a> {
    pub(crate) folder: bool,
    /// Size or seconds; 0 where neither is asked for.
    pub(crate) number: i64,
    pub(crate) name: &'a [u8],
}

impl Order {
    /// Total: only an entry itself is equal to it.
    pub(crate) fn compare(self, a: Key<'_>, b: Key<'_>) -> Ordering {
        let way = |order: Ordering, reverse| if reverse { order.reverse() } else { order };
        b.folder
            .cmp(&a.folder)
            .then_with(|| way(a.number.cmp(&b.number), self.descending))
            // What is of one size stays in the order of names.
            .then_with(|| way(natural(a.name, b.name), self.descending && self.sort == Sort::Name))
    }
}

/// The place behind an entry, whether the entry is still there or not. As text: `d` or `f`, the
/// number of its key, a dot and its name, percent-encoded: `f.film2.mkv`, `f1048576.film2.mkv`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Cursor {
    folder: bool,
    number: i64,
    name: Vec<u8>,
}

impl Cursor {
    /// The place of a key.
    pub(crate) fn of(key: Key<'_>) -> Self {
        Self { folder: key.folder, number: key.number, name: key.name.to_vec() }
    }

    /// The place of a file in the order of names.
    pub(crate) fn of_file(name: &[u8]) -> Self {
        Self { folder: false, number: 0, name: name.to_vec() }
    }

    /// Reads one as it stands in a query; `None` if it is none.
    pub(crate) fn parse(text: &[u8]) -> Option<Self> {
        let text: Vec<u8> = percent_decode(text).collect();
        let dot = text.iter().position(|octet| *octet == b'.')?;
        let (place, name) = (text.get(1..dot)?, &text[dot + 1..]);
        let number = match place {
            b"" => 0,
            place => str::from_utf8(place).ok()?.parse().ok()?,
        };
        let folder = match text.first() {
            Some(b'd') => true,
            Some(b'f') => false,
            _ => return None,
        };
        Some(Self { folder, number, name: name.to_vec() })
    }

    /// What it stands behind.
    pub(crate) fn key(&self) -> Key<'_> {
        Key { folder: self.folder, number: self.number, name: &self.name }
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.folder { "d" } else { "f" })?;
        if self.number != 0 {
            write!(f, "{}", self.number)?;
        }
        write!(f, ".{}", encode_segment(&self.name))
    }
}

/// Compares names number by number and letter by letter, without regard to case as far as the
/// names differ otherwise.
pub(crate) fn natural(a: &[u8], b: &[u8]) -> Ordering {
    // Most names of a large folder begin alike. What is the same on both sides is the same letter
    // or number, up to the last one, which may go on.
    let same = a.iter().zip(b).take_while(|(x, y)| x == y).count();
    let goes_on = |octet: &&u8| octet.is_ascii_digit() || !octet.is_ascii();
    let same = same - a[..same].iter().rev().take_while(goes_on).count();
    let (mut left, mut right) = (&a[same..], &b[same..]);
    while let (Some(&x), Some(&y)) = (left.first(), right.first()) {
        let order;
        if x.is_ascii_digit() && y.is_ascii_digit() {
            let (first, second);
            ((first, left), (second, right)) = (take_number(left), take_number(right));
            order = first.len().cmp(&second.len()).then_with(|| first.cmp(second));
        } else if x.is_ascii() && y.is_ascii() {
            (left, right) = (&left[1..], &right[1..]);
            order = x.to_ascii_lowercase().cmp(&y.to_ascii_lowercase());
        } else {
            let (first, second);
            ((first, left), (second, right)) = (take_letter(left), take_letter(right));
            order = first.cmp(&second);
        }
        if order != Ordering::Equal {
            return order;
        }
    }
    left.len().cmp(&right.len()).then_with(|| a.cmp(b))
}

/// Splits the digits off, without their leading zeros.
fn take_number(text: &[u8]) -> (&[u8], &[u8]) {
    let end = text.iter().position(|octet| !octet.is_ascii_digit()).unwrap_or(text.len());
    let (digits, rest) = text.split_at(end);
    let zeros = digits.iter().position(|octet| *octet != b'0').unwrap_or(digits.len());
    (&digits[zeros..], rest)
}

/// Splits one letter off, as a number without regard to case. Octets that are no UTF-8 come behind
/// all letters.
fn take_letter(text: &[u8]) -> (u32, &[u8]) {
    // No letter is longer than four octets.
    let start = &text[..text.len().min(4)];
    let letter = start.utf8_chunks().next().and_then(|chunk| chunk.valid().chars().next());
    match letter {
        Some(letter) => {
            let small = letter.to_lowercase().next().unwrap_or(letter);
            (u32::from(small), &text[letter.len_utf8()..])
        }
        None => (BEYOND_LETTERS + u32::from(text[0]), &text[1..]),
    }
}

const BEYOND_LETTERS: u32 = 0x11_0000;

#[cfg(test)]
mod tests {
    use super::*;

    fn file(name: &str) -> Key<'_> {
        Key { folder: false, number: 0, name: name.as_bytes() }
    }

    #[test]
    fn order_is_that_of_people() {
        let mut names = ["file10", "b", "File2", "a", "file02", "file1", "2", "10", "\u{e4}"];
        names.sort_by(|a, b| natural(a.as_bytes(), b.as_bytes()));
        let wanted = ["2", "10", "a", "b", "file1", "File2", "file02", "file10", "\u{e4}"];
        assert_eq!(names, wanted);
        assert_eq!(natural(b"x", b"x"), Ordering::Equal);
        assert_ne!(natural(b"x01", b"x1"), Ordering::Equal);
    }

    #[test]
    fn case_is_folded_beyond_ascii() {
        let mut names = ["\u{d6}l 10", "\u{f6}l 2", "\u{d6}L 1", "\u{3a9}1", "\u{3c9}0"];
        names.sort_by(|a, b| natural(a.as_bytes(), b.as_bytes()));
        let wanted = ["\u{d6}L 1", "\u{f6}l 2", "\u{d6}l 10", "\u{3c9}0", "\u{3a9}1"];
        assert_eq!(names, wanted);
    }

    #[test]
    fn order_is_total_for_any_octets() {
        let parts: [&[u8]; 9] =
            [b"", b"a", b"A", b"1", b"01", b"\xff", "\u{e4}".as_bytes(), b"\xc3", b"9"];
        let mut names = Vec::new();
        for a in parts {
            for b in parts {
                names.extend(parts.iter().map(|c| [a, b, c].concat()));
            }
        }
        names.sort();
        names.dedup();
        names.sort_by(|a, b| natural(a, b));
        for (at, name) in names.iter().enumerate() {
            for (other_at, other) in names.iter().enumerate() {
                assert_eq!(natural(name, other), at.cmp(&other_at), "{name:?} {other:?}");
            }
        }
    }

    #[test]
    fn folders_come_first_and_ties_keep_the_order_of_names() {
        let folder = Key { folder: true, ..file("z") };
        for sort in [Sort::Name, Sort::Size, Sort::Time] {
            for descending in [false, true] {
                let order = Order { sort, descending };
                assert_eq!(order.compare(folder, file("a")), Ordering::Less);
                let names = order.compare(file("a"), file("b"));
                let reversed = descending && sort == Sort::Name;
                assert_eq!(names, if reversed { Ordering::Greater } else { Ordering::Less });
                let numbers = order.compare(Key { number: 1, ..file("b") }, file("a"));
                assert_eq!(numbers, if descending { Ordering::Less } else { Ordering::Greater });
            }
        }
    }

    #[test]
    fn cursors_survive_the_way_through_a_link() {
        for (folder, number, name, text) in [
            (false, 0, &b"film 2.mkv"[..], "f.film%202.mkv"),
            (true, 0, b"a.b", "d.a.b"),
            (false, 1_048_576, b"x", "f1048576.x"),
            (false, -5, b"\xff&", "f-5.%FF%26"),
            (false, i64::MAX, b"", "f9223372036854775807."),
        ] {
            let cursor = Cursor::of(Key { folder, number, name });
            assert_eq!(cursor.to_string(), text);
            assert_eq!(Cursor::parse(text.as_bytes()), Some(cursor));
        }
        for text in ["", "x.a", "f", "fx.a", "f99999999999999999999.a", "."] {
            assert_eq!(Cursor::parse(text.as_bytes()), None, "{text}");
        }
    }
}
