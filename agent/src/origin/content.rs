//! What is in an open file, as a [`Source`]: exactly the octets that were announced.
//!
//! It opens nothing and knows no offsets but from the start.

use std::{num::NonZeroU64, os::fd::OwnedFd};

use rustix::{
    buffer::spare_capacity,
    fs::{Advice, fadvise},
    io::{Errno, pread},
};

use super::reply::Source;

/// A file being read from its start to the length it had when it was opened.
#[derive(Debug)]
pub(crate) struct Content {
    file: OwnedFd,
    at: u64,
    left: u64,
}

impl Content {
    /// Of a file whose length was `len`.
    pub(crate) fn new(file: OwnedFd, len: u64) -> Self {
        if len >= SEQUENTIAL {
            // Advice only; a filesystem may not take it.
            let _ = fadvise(&file, 0, NonZeroU64::new(len), Advice::Sequential);
        }
        Self { file, at: 0, left: len }
    }

    /// Octets that were not read yet.
    pub(crate) const fn left(&self) -> u64 {
        self.left
    }

    /// Blocks. Appends what `out` has room for without growing, at most what is left; of a file
    /// that grew nothing more.
    ///
    /// # Errors
    /// [`SHORT`] for a file that became shorter, and those of the disk.
    pub(crate) fn read(&mut self, out: &mut Vec<u8>) -> Result<(), Errno> {
        let start = out.len();
        if self.left == 0 || start == out.capacity() {
            return Ok(());
        }
        let read = loop {
            match pread(&self.file, spare_capacity(out), self.at) {
                Err(Errno::INTR) => {}
                read => break read? as u64,
            }
        };
        if read == 0 {
            return Err(SHORT);
        }
        if read > self.left {
            out.truncate(start + usize::try_from(self.left).unwrap_or(usize::MAX));
        }
        let read = read.min(self.left);
        (self.at, self.left) = (self.at + read, self.left - read);
        Ok(())
    }
}

impl Source for Content {
    fn next_piece(&mut self) -> Result<Option<Vec<u8>>, Errno> {
        if self.left == 0 {
            return Ok(None);
        }
        let size = usize::try_from(self.left).map_or(BLOCK, |left| left.min(BLOCK));
        let mut block = Vec::with_capacity(size);
        self.read(&mut block)?;
        Ok(Some(block))
    }
}

/// The error of a source whose file ends before its announced length.
pub(crate) const SHORT: Errno = Errno::NODATA;

/// Octets that are read at once by the few bodies that are made from whole files: more than
/// [`super::reply::PIECE`], because each piece costs two changes of threads.
pub(crate) const BLOCK: usize = 64 << 10;

/// Octets from which on the kernel is told that reading goes on in order.
const SEQUENTIAL: u64 = 4 << 20;

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn content(name: &str, octets: &[u8], len: u64) -> Content {
        let unique = format!("spdy-agent-content-{name}-{}", std::process::id());
        let path = std::env::temp_dir().join(unique);
        fs::write(&path, octets).unwrap();
        let file = fs::File::open(&path).unwrap().into();
        fs::remove_file(&path).unwrap();
        Content::new(file, len)
    }

    #[test]
    fn file_that_grew_ends_where_it_was_announced() {
        let octets: Vec<u8> = (0..=255).cycle().take(3 * BLOCK).collect();
        for len in [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK] {
            let mut source = content("grew", &octets, len as u64);
            let mut read = Vec::new();
            while let Some(piece) = source.next_piece().unwrap() {
                assert!(!piece.is_empty() && piece.len() <= BLOCK);
                read.extend(piece);
            }
            assert!(read == octets[..len], "{len}");
        }
    }

    #[test]
    fn file_that_became_shorter_is_an_error() {
        let mut source = content("short", &[7; 100], 101);
        assert_eq!(source.next_piece().unwrap().unwrap(), [7; 100]);
        assert_eq!(source.next_piece(), Err(SHORT));
    }

    #[test]
    fn no_more_is_read_than_there_is_room_for() {
        let mut source = content("room", &[7; 100], 100);
        let mut out = Vec::with_capacity(64);
        out.push(1);
        source.read(&mut out).unwrap();
        assert_eq!((out.len() as u64, out.capacity()), (101 - source.left(), 64));
        source.read(&mut out).unwrap();
        assert_eq!(out.len(), 64);
    }
}
