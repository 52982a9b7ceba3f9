//! Entries of a stored zip archive that is written in one go (PKWARE APPNOTE 6.3.10).
//!
//! It owns the list at the end (the central directory) and its bound. Sizes follow the content of
//! a file (data descriptor), although they are known before: the checksum is not, and a reader
//! takes both from one place. Where a number needs more than 32 bits it is written as zip64 says.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use flate2::Crc;
use rustix::io::Errno;

use super::{
    Entry, Writer,
    walk::{Found, Walk},
};
use crate::{civil::Civil, origin::content::BLOCK};

/// A zip archive being written.
#[derive(Debug, Default)]
pub(crate) struct Zip {
    records: Records,
    /// The entry under way, but for its checksum, and its name.
    item: Item,
    name: Vec<u8>,
    crc: Crc,
    list: List,
}

impl Writer for Zip {
    fn begin(&mut self, entry: &Entry<'_>, out: &mut Vec<u8>) -> Result<(), Errno> {
        // Windows takes it for a slash.
        let path: Vec<u8> =
            entry.path.iter().map(|octet| if *octet == b'\\' { b'_' } else { *octet }).collect();
        let inner = path.strip_suffix(b"/").unwrap_or(&path);
        let depth = inner.iter().filter(|octet| **octet == b'/').count();
        let start = inner.iter().rposition(|octet| *octet == b'/').map_or(0, |at| at + 1);
        self.name = inner[start..].to_vec();
        self.item = Item {
            depth: u8::try_from(depth).map_err(|_| Errno::NAMETOOLONG)?,
            folder: entry.is_folder(),
            executable: entry.executable,
            len: entry.len,
            crc: 0,
            modified: u32::try_from(entry.modified.max(0)).unwrap_or(u32::MAX),
        };
        self.crc.reset();
        let item = &self.item;
        let (size, large): (_, &[u64]) =
            if item.is_large() { (u32::MAX, &[0, 0]) } else { (0, &[]) };
        let extra = item.extra(large);
        out.extend_from_slice(b"PK\x03\x04");
        item.common(&path, [0, size, size], &extra, out);
        out.extend_from_slice(&path);
        out.extend_from_slice(&extra);
        Ok(())
    }

    fn content(&mut self, octets: &[u8]) {
        self.crc.update(octets);
    }

    fn end(&mut self, out: &mut Vec<u8>) -> Result<(), Errno> {
        self.item.crc = self.crc.sum();
        let (item, len) = (&self.item, self.item.len);
        if item.has_descriptor() {
            out.extend_from_slice(b"PK\x07\x08");
            out.extend_from_slice(&item.crc.to_le_bytes());
            let width = if item.is_large() { 8 } else { 4 };
            for size in [len; 2] {
                out.extend_from_slice(&size.to_le_bytes()[..width]);
            }
        }
        self.records.push(&self.item, &self.name)
    }

    fn finish(&mut self, out: &mut Vec<u8>) -> bool {
        self.list.write(&mut self.records, out)
    }
}

/// Blocks. Whether the central directory of a folder keeps within its bound. Who cannot be counted
/// within `patience` is believed: the archive itself knows the bound too.
pub(crate) fn fits(mut walk: Walk, patience: Duration) -> bool {
    let begun = Instant::now();
    let mut size = 0;
    while size <= RECORDS_MAX && begun.elapsed() < patience {
        match walk.step() {
            Found::End => return true,
            Found::Nothing => {}
            Found::File | Found::Folder(_) => {
                let inner = walk.path().strip_suffix(b"/").unwrap_or(walk.path());
                size += RECORD + inner.rsplit(|octet| *octet == b'/').next().map_or(0, <[u8]>::len);
            }
        }
    }
    size <= RECORDS_MAX
}

/// What the central directory says of an entry, but for its name and place, which follow from the
/// entries before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Item {
    depth: u8,
    folder: bool,
    executable: bool,
    len: u64,
    crc: u32,
    modified: u32,
}

impl Item {
    const fn is_large(&self) -> bool {
        self.len >= u32::MAX as u64
    }

    /// Without content there is nothing that is not known before.
    const fn has_descriptor(&self) -> bool {
        self.len > 0
    }

    /// Octets that the entry takes, from its header to its descriptor.
    fn span(&self, path_len: usize) -> u64 {
        let (fields, sizes) = if self.is_large() { (20, 24) } else { (0, 16) };
        let descriptor = if self.has_descriptor() { sizes } else { 0 };
        (30 + path_len + self.time().map_or(0, |_| 9)) as u64 + fields + self.len + descriptor
    }

    /// The extended timestamp has 31 bits; without it the DOS time stands alone.
    fn time(&self) -> Option<i32> {
        i32::try_from(self.modified).ok()
    }

    /// The fields that local header and central directory have in common.
    fn common(&self, path: &[u8], [crc, stored, size]: [u32; 3], extra: &[u8], out: &mut Vec<u8>) {
        let needed = if self.is_large() { ZIP64 } else { 20 };
        let utf8 = if str::from_utf8(path).is_ok() { 1 << 11 } else { 0 };
        let descriptor = if self.has_descriptor() { 1 << 3 } else { 0 };
        let (time, date) = dos_time(self.modified);
        for field in [needed, utf8 | descriptor, 0, time, date] {
            out.extend_from_slice(&field.to_le_bytes());
        }
        for field in [crc, stored, size] {
            out.extend_from_slice(&field.to_le_bytes());
        }
        for len in [path.len(), extra.len()] {
            out.extend_from_slice(&u16::try_from(len).unwrap_or(u16::MAX).to_le_bytes());
        }
    }

    /// Extra fields: the time, and numbers that need 64 bits.
    fn extra(&self, large: &[u64]) -> Vec<u8> {
        let mut extra = Vec::new();
        if !large.is_empty() {
            let size = u16::try_from(8 * large.len()).unwrap_or(u16::MAX);
            extra.extend_from_slice(&1_u16.to_le_bytes());
            extra.extend_from_slice(&size.to_le_bytes());
            large.iter().for_each(|number| extra.extend_from_slice(&number.to_le_bytes()));
        }
        if let Some(time) = self.time() {
            extra.extend_from_slice(b"UT\x05\0\x01");
            extra.extend_from_slice(&time.to_le_bytes());
        }
        extra
    }
}

/// Items and names in a few blocks of memory, in the order of the archive. A name is that of its
/// last segment: those before are the folders that the walk was in.
#[derive(Debug, Default)]
struct Records {
    blocks: VecDeque<Vec<u8>>,
    size: usize,
    /// Octets of the first block that were taken.
    taken: usize,
}

impl Records {
    fn push(&mut self, item: &Item, name: &[u8]) -> Result<(), Errno> {
        let len = u16::try_from(name.len()).map_err(|_| Errno::NAMETOOLONG)?;
        let size = RECORD + name.len();
        if self.size + size > RECORDS_MAX {
            return Err(FULL);
        }
        if self.blocks.back().is_none_or(|block| block.len() + size > block.capacity()) {
            self.blocks.push_back(Vec::with_capacity(RECORDS_BLOCK));
        }
        let Some(block) = self.blocks.back_mut() else { return Err(FULL) };
        let kind = u8::from(item.folder) | u8::from(item.executable) << 1;
        block.extend_from_slice(&[item.depth, kind]);
        block.extend_from_slice(&len.to_le_bytes());
        block.extend_from_slice(&item.len.to_le_bytes());
        block.extend_from_slice(&item.crc.to_le_bytes());
        block.extend_from_slice(&item.modified.to_le_bytes());
        block.extend_from_slice(name);
        self.size += size;
        Ok(())
    }

    /// Takes the first; `None` after the last.
    fn pop(&mut self) -> Option<(Item, Vec<u8>)> {
        while self.blocks.front().is_some_and(|block| self.taken == block.len()) {
            self.blocks.pop_front();
            self.taken = 0;
        }
        let rest = self.blocks.front()?.get(self.taken..)?;
        let ([depth, kind], rest) = rest.split_first_chunk()?;
        let (name_len, rest) = rest.split_first_chunk()?;
        let (len, rest) = rest.split_first_chunk()?;
        let (crc, rest) = rest.split_first_chunk()?;
        let (modified, rest) = rest.split_first_chunk()?;
        let name = rest.get(..usize::from(u16::from_le_bytes(*name_len)))?.to_vec();
        self.taken += RECORD + name.len();
        let item = Item {
            depth: *depth,
            folder: kind & 1 != 0,
            executable: kind & 2 != 0,
            len: u64::from_le_bytes(*len),
            crc: u32::from_le_bytes(*crc),
            modified: u32::from_le_bytes(*modified),
        };
        Some((item, name))
    }
}

/// The central directory being written.
#[derive(Debug, Default)]
struct List {
    path: Vec<u8>,
    /// Where in `path` the name of each level begins.
    starts: Vec<usize>,
    /// Where in the archive the next entry begins.
    offset: u64,
    entries: u64,
    size: u64,
}

impl List {
    /// Appends a part; whether there is more.
    fn write(&mut self, records: &mut Records, out: &mut Vec<u8>) -> bool {
        let start = out.len();
        let mut more = true;
        while more && out.len() < BLOCK {
            match records.pop() {
                Some((item, name)) => self.entry(&item, &name, out),
                None => more = false,
            }
        }
        self.size += (out.len() - start) as u64;
        if !more {
            self.end(out);
        }
        more
    }

    fn entry(&mut self, item: &Item, name: &[u8], out: &mut Vec<u8>) {
        let depth = usize::from(item.depth);
        self.path.truncate(self.starts.get(depth).copied().unwrap_or(0));
        self.starts.truncate(depth + 1);
        if self.starts.is_empty() {
            self.starts.push(0);
        }
        self.path.extend_from_slice(name);
        if item.folder {
            self.path.push(b'/');
            self.starts.push(self.path.len());
        }
        let mut large = Vec::new();
        if item.is_large() {
            large.extend([item.len; 2]);
        }
        let size = u32::try_from(item.len).unwrap_or(u32::MAX);
        let offset = u32::try_from(self.offset).unwrap_or(u32::MAX);
        if offset == u32::MAX {
            large.push(self.offset);
        }
        let extra = item.extra(&large);
        let mode: u32 = match (item.folder, item.executable) {
            (true, _) => 0o040_755 << 16 | 0x10,
            (false, true) => 0o100_755 << 16,
            (false, false) => 0o100_644 << 16,
        };
        out.extend_from_slice(b"PK\x01\x02");
        // Made by: Unix, which is what the mode is read for.
        out.extend_from_slice(&(3 << 8 | ZIP64).to_le_bytes());
        item.common(&self.path, [item.crc, size, size], &extra, out);
        // No comment, first disk, nothing known of the content.
        out.extend_from_slice(&[0; 6]);
        out.extend_from_slice(&mode.to_le_bytes());
        out.extend_from_slice(&offset.to_le_bytes());
        out.extend_from_slice(&self.path);
        out.extend_from_slice(&extra);
        self.offset += item.span(self.path.len());
        self.entries += 1;
    }

    fn end(&self, out: &mut Vec<u8>) {
        let entries = u16::try_from(self.entries).unwrap_or(u16::MAX);
        let size = u32::try_from(self.size).unwrap_or(u32::MAX);
        let offset = u32::try_from(self.offset).unwrap_or(u32::MAX);
        if entries == u16::MAX || size == u32::MAX || offset == u32::MAX {
            out.extend_from_slice(b"PK\x06\x06");
            out.extend_from_slice(&44_u64.to_le_bytes());
            out.extend_from_slice(&(3 << 8 | ZIP64).to_le_bytes());
            out.extend_from_slice(&ZIP64.to_le_bytes());
            out.extend_from_slice(&[0; 8]);
            for number in [self.entries, self.entries, self.size, self.offset] {
                out.extend_from_slice(&number.to_le_bytes());
            }
            out.extend_from_slice(b"PK\x06\x07\0\0\0\0");
            out.extend_from_slice(&(self.offset + self.size).to_le_bytes());
            out.extend_from_slice(&1_u32.to_le_bytes());
        }
        out.extend_from_slice(b"PK\x05\x06\0\0\0\0");
        for number in [entries, entries] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        for number in [size, offset] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        out.extend_from_slice(&[0; 2]);
    }
}

/// Time and date as DOS has them, in UTC because no zone is known; from 1980 on.
fn dos_time(modified: u32) -> (u16, u16) {
    match Civil::from_unix(modified.into()).filter(|at| at.year >= 1980) {
        Some(at) => (
            u16::from(at.hour) << 11 | u16::from(at.minute) << 5 | (u16::from(at.second) / 2),
            (at.year - 1980) << 9 | u16::from(at.month) << 5 | u16::from(at.day),
        ),
        None => (0, 1 << 5 | 1),
    }
}

/// The error of an archive with more entries than its end can list.
pub(crate) const FULL: Errno = Errno::OVERFLOW;

/// Octets of the list that are held: about 30,000 entries.
const RECORDS_MAX: usize = 1 << 20;
const RECORDS_BLOCK: usize = 16 << 10;
/// Octets of a record besides its name.
const RECORD: usize = 20;
/// The version of the format that has zip64.
const ZIP64: u16 = 45;

#[cfg(test)]
mod tests {
    use super::*;

    fn item(depth: u8, len: u64) -> Item {
        Item { depth, folder: false, executable: false, len, crc: 7, modified: 1_000_000_000 }
    }

    fn number(octets: &[u8], at: usize, len: usize) -> u64 {
        octets[at..at + len].iter().rev().fold(0, |sum, octet| sum << 8 | u64::from(*octet))
    }

    /// Offsets by name from a central directory, taken apart by hand.
    fn listed(list: &[u8]) -> Vec<(String, u64, u64)> {
        let mut entries = Vec::new();
        let mut at = 0;
        while list[at..].starts_with(b"PK\x01\x02") {
            let len = |at| usize::try_from(number(list, at, 2)).unwrap();
            let (name, extra) = (len(at + 28), len(at + 30));
            let (mut size, mut offset) = (number(list, at + 24, 4), number(list, at + 42, 4));
            let name_at = at + 46;
            let mut field = name_at + name;
            at = field + extra;
            if number(list, field, 2) == 1 {
                field += 4;
                if size == u32::MAX.into() {
                    assert_eq!(number(list, field, 8), number(list, field + 8, 8));
                    size = number(list, field, 8);
                    field += 16;
                }
                if offset == u32::MAX.into() {
                    offset = number(list, field, 8);
                }
            }
            let name = &list[name_at..name_at + name];
            entries.push((String::from_utf8(name.to_vec()).unwrap(), size, offset));
        }
        entries
    }

    fn whole(records: &mut Records) -> Vec<u8> {
        let (mut list, mut out) = (List::default(), Vec::new());
        loop {
            let mut piece = Vec::new();
            let more = list.write(records, &mut piece);
            assert!(piece.len() < BLOCK + 1_000);
            out.extend(piece);
            if !more {
                return out;
            }
        }
    }

    #[test]
    fn places_of_entries_are_those_where_they_were_written() {
        let mut zip = Zip::default();
        let mut out = Vec::new();
        let mut wanted = Vec::new();
        for (path, content) in [
            (&b"top/"[..], &b""[..]),
            (b"top/a/", b""),
            (b"top/a/b/", b""),
            (b"top/a/b/one", b"1"),
            (b"top/a/back\\slash", b"22"),
            (b"top/empty", b""),
            (b"NOT-INCLUDED.txt", b"333"),
        ] {
            let path_text = String::from_utf8(path.to_vec()).unwrap().replace('\\', "_");
            wanted.push((path_text, content.len() as u64, out.len() as u64));
            let entry = Entry { path, len: content.len() as u64, modified: 0, executable: true };
            zip.begin(&entry, &mut out).unwrap();
            zip.content(content);
            out.extend_from_slice(content);
            zip.end(&mut out).unwrap();
        }
        let start = out.len();
        assert!(!zip.finish(&mut out));
        assert_eq!(listed(&out[start..]), wanted);
        let end = &out[out.len() - 22..];
        assert!(end.starts_with(b"PK\x05\x06"));
        assert_eq!((number(end, 10, 2), number(end, 16, 4)), (7, start as u64));
    }

    #[test]
    fn sizes_and_places_above_32_bits_are_zip64() {
        let mut records = Records::default();
        let sizes = [u64::from(u32::MAX) - 1, u32::MAX.into(), 5 << 30, 1];
        for (name, len) in ["a", "b", "c", "d"].iter().zip(sizes) {
            records.push(&item(0, len), name.as_bytes()).unwrap();
        }
        let list = whole(&mut records);
        let entries = listed(&list);
        let mut offset = 0;
        for ((_, size, at), len) in entries.iter().zip(sizes) {
            assert_eq!((*size, *at), (len, offset));
            offset += item(0, len).span(1);
        }
        assert_eq!(entries.len(), 4);
        let end64 = list.windows(4).position(|octets| octets == b"PK\x06\x06").unwrap();
        assert_eq!(number(&list, end64 + 24, 8), 4);
        assert_eq!(number(&list, end64 + 40, 8), end64 as u64);
        assert_eq!(number(&list, end64 + 48, 8), offset);
        let locator = &list[end64 + 56..];
        assert!(locator.starts_with(b"PK\x06\x07"));
        assert_eq!(number(locator, 8, 8), offset + end64 as u64);
        assert_eq!(number(&locator[20..], 16, 4), u32::MAX.into());
    }

    #[test]
    fn span_is_what_is_written() {
        for len in [0, 1, u64::from(u32::MAX) - 1, u64::from(u32::MAX), 1 << 40] {
            for modified in [0, 1 << 31] {
                let mut zip = Zip::default();
                let mut out = Vec::new();
                let entry = Entry { path: b"a/b", len, modified, executable: false };
                zip.begin(&entry, &mut out).unwrap();
                zip.end(&mut out).unwrap();
                assert_eq!(out.len() as u64 + len, zip.item.span(3), "{len} {modified}");
            }
        }
    }

    #[test]
    fn list_is_bounded_and_all_of_it_comes_back() {
        let mut records = Records::default();
        let mut count = 0_u64;
        let mut full = None;
        while full.is_none() {
            let name = format!("{count:x}");
            match records.push(&item(0, count), name.as_bytes()) {
                Ok(()) => count += 1,
                Err(error) => full = Some(error),
            }
        }
        assert_eq!(full, Some(FULL));
        assert!((30_000..60_000).contains(&count), "{count}");
        let held: usize = records.blocks.iter().map(Vec::capacity).sum();
        assert!(held < RECORDS_MAX + RECORDS_MAX / 8, "{held}");
        let list = whole(&mut records);
        let entries = listed(&list);
        assert_eq!(entries.len() as u64, count);
        assert!(entries.iter().zip(0..).all(|(entry, at)| entry.0 == format!("{at:x}")));
        assert!(records.blocks.is_empty());
    }

    #[test]
    fn times_are_those_of_dos() {
        assert_eq!(dos_time(0), (0, 33));
        // 2001-09-09 01:46:40
        assert_eq!(dos_time(1_000_000_000), (1 << 11 | 46 << 5 | 20, 21 << 9 | 9 << 5 | 9));
        assert_eq!(dos_time(u32::MAX).1 >> 9, 126);
    }
}
