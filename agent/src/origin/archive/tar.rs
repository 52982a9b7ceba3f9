//! Entries of a tar archive, as GNU tar writes them: names of any octets and length.
//!
//! It reads nothing and holds nothing but the length of one entry.

use rustix::io::Errno;

use super::{Entry, Writer};

/// A tar archive being written.
#[derive(Debug, Default)]
pub(crate) struct Tar {
    len: u64,
}

impl Writer for Tar {
    fn begin(&mut self, entry: &Entry<'_>, out: &mut Vec<u8>) -> Result<(), Errno> {
        self.len = entry.len;
        if entry.path.len() > NAME {
            // The name with a NUL, as the content of an entry before.
            let len = entry.path.len() as u64 + 1;
            header(out, b"././@LongLink", b'L', 0o644, len, 0);
            out.extend_from_slice(entry.path);
            out.push(0);
            pad(out, len);
        }
        let short = &entry.path[..entry.path.len().min(NAME)];
        let kind = if entry.is_folder() { b'5' } else { b'0' };
        header(out, short, kind, entry.mode(), entry.len, entry.modified);
        Ok(())
    }

    fn content(&mut self, _: &[u8]) {}

    fn end(&mut self, out: &mut Vec<u8>) -> Result<(), Errno> {
        pad(out, self.len);
        Ok(())
    }

    fn finish(&mut self, out: &mut Vec<u8>) -> bool {
        out.resize(out.len() + 2 * UNIT, 0);
        false
    }
}

fn header(out: &mut Vec<u8>, name: &[u8], kind: u8, mode: u32, len: u64, modified: i64) {
    let mut block = [0; UNIT];
    block[..name.len()].copy_from_slice(name);
    octal(&mut block[100..108], mode.into());
    // Owner and group: whoever unpacks it.
    octal(&mut block[108..116], 0);
    octal(&mut block[116..124], 0);
    number(&mut block[124..136], len);
    octal(&mut block[136..148], u64::try_from(modified).unwrap_or(0).min(OCTAL_MAX));
    block[156] = kind;
    block[257..265].copy_from_slice(b"ustar  \0");
    // The sum of all octets, with blanks where it will stand.
    block[148..156].fill(b' ');
    let sum: u64 = block.iter().copied().map(u64::from).sum();
    octal(&mut block[148..155], sum);
    out.extend_from_slice(&block);
}

/// Octal digits up to a NUL; from 8 GiB on binary, with the first bit set.
fn number(field: &mut [u8], value: u64) {
    if value <= OCTAL_MAX {
        return octal(field, value);
    }
    field.fill(0);
    field[0] = 0x80;
    let start = field.len() - 8;
    field[start..].copy_from_slice(&value.to_be_bytes());
}

fn octal(field: &mut [u8], mut value: u64) {
    let (last, digits) = field.split_last_mut().expect("fields are not empty");
    *last = 0;
    for digit in digits.iter_mut().rev() {
        *digit = b'0' + (value & 7) as u8;
        value >>= 3;
    }
}

fn pad(out: &mut Vec<u8>, len: u64) {
    let unit = UNIT as u64;
    out.extend((0..(unit - len % unit) % unit).map(|_| 0));
}

/// Octets of which an archive consists.
const UNIT: usize = 512;
/// Longest name in a header.
const NAME: usize = 100;
/// Eleven octal digits.
const OCTAL_MAX: u64 = (1 << 33) - 1;

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(path: &[u8], len: u64) -> Entry<'_> {
        Entry { path, len, modified: 1_000_000_000, executable: false }
    }

    fn begin(entry: &Entry<'_>) -> Vec<u8> {
        let mut out = Vec::new();
        Tar::default().begin(entry, &mut out).unwrap();
        out
    }

    #[test]
    fn header_has_its_fields_and_its_sum() {
        let block = begin(&entry(b"top/file", 0o1234));
        assert_eq!(block.len(), UNIT);
        assert!(block.starts_with(b"top/file\0"));
        assert_eq!(&block[100..108], b"0000644\0");
        assert_eq!(&block[124..136], b"00000001234\0");
        assert_eq!(&block[136..148], b"07346545000\0");
        assert_eq!(block[156], b'0');
        let sum: u32 = block
            .iter()
            .enumerate()
            .map(|(at, octet)| if (148..156).contains(&at) { 32 } else { u32::from(*octet) })
            .sum();
        assert_eq!(&block[148..156], format!("{sum:06o}\0 ").as_bytes());
        let folder = begin(&entry(b"top/", 0));
        assert_eq!((&folder[100..108], folder[156]), (&b"0000755\0"[..], b'5'));
    }

    #[test]
    fn long_names_stand_in_an_entry_of_their_own() {
        assert_eq!(begin(&entry(&[b'n'; NAME], 0)).len(), UNIT);
        for len in [NAME + 1, 511, 512, 4_000] {
            let name = vec![0xff; len];
            let out = begin(&entry(&name, 0));
            assert_eq!(out.len(), 2 * UNIT + (len + 1).next_multiple_of(UNIT));
            assert_eq!(out[156], b'L');
            assert!(out[UNIT..].starts_with(&name) && out[UNIT + len] == 0);
            assert!(out[out.len() - UNIT..].starts_with(&name[..NAME]));
        }
    }

    #[test]
    fn sizes_and_times_of_any_number_fit() {
        let block = begin(&entry(b"x", OCTAL_MAX));
        assert_eq!(&block[124..136], b"77777777777\0");
        let block = begin(&entry(b"x", 5 << 40));
        assert_eq!(&block[124..136], [0x80, 0, 0, 0, 0, 0, 5, 0, 0, 0, 0, 0]);
        for (modified, text) in [(-5, b"00000000000\0"), (i64::MAX, b"77777777777\0")] {
            let block = begin(&Entry { modified, ..entry(b"x", 0) });
            assert_eq!(&block[136..148], text);
        }
    }

    #[test]
    fn content_is_filled_up_to_whole_units() {
        for (len, padding) in [(0, 0), (1, 511), (511, 1), (512, 0), (513, 511)] {
            let mut tar = Tar::default();
            tar.begin(&entry(b"x", len), &mut Vec::new()).unwrap();
            let mut out = Vec::new();
            tar.end(&mut out).unwrap();
            assert_eq!(out.len(), padding);
        }
    }
}
