//! Compressed header blocks, as Go's library writes them and as anybody's are read.
//!
//! It owns the two zlib contexts; frames are above.

use std::io;

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress};

use crate::wire::{malformed, u32_len};

/// Writes header blocks as Go's library does: zlib level 9, one context, a sync flush per block.
#[derive(Debug)]
pub struct Deflater(Compress);

impl Deflater {
    /// A context at its start.
    ///
    /// # Panics
    /// When the zlib in use cannot preset a dictionary.
    #[expect(clippy::new_without_default, reason = "it allocates a compressor")]
    #[must_use]
    pub fn new() -> Self {
        let mut deflate = Compress::new(Compression::best(), true);
        deflate.set_dictionary(DICTIONARY).unwrap_or_else(|error| panic!("{error}"));
        Self(deflate)
    }

    /// The next block.
    ///
    /// # Errors
    /// Those of zlib.
    pub fn block(&mut self, pairs: &[(&str, &[u8])]) -> io::Result<Vec<u8>> {
        let mut plain = u32_len(pairs.len()).to_be_bytes().to_vec();
        for text in pairs.iter().flat_map(|(name, value)| [name.as_bytes(), value]) {
            plain.extend_from_slice(&u32_len(text.len()).to_be_bytes());
            plain.extend_from_slice(text);
        }
        let mut block = Vec::with_capacity(plain.len() + 64);
        let mut input = plain.as_slice();
        loop {
            let before = self.0.total_in();
            self.0.compress_vec(input, &mut block, FlushCompress::Sync)?;
            let taken = usize::try_from(self.0.total_in() - before).unwrap_or(input.len());
            input = &input[taken..];
            if input.is_empty() && block.len() < block.capacity() {
                return Ok(block);
            }
            block.reserve(256);
        }
    }
}

/// Reads header blocks of any form.
#[derive(Debug)]
pub struct Inflater(Decompress);

impl Inflater {
    /// A context at its start.
    #[expect(clippy::new_without_default, reason = "it allocates a decompressor")]
    #[must_use]
    pub fn new() -> Self {
        Self(Decompress::new(true))
    }

    /// The pairs of the next block, in order.
    ///
    /// # Errors
    /// `InvalidData` when it is none.
    pub fn pairs(&mut self, block: &[u8]) -> io::Result<Vec<(String, Vec<u8>)>> {
        let plain = self.inflate(block)?;
        let mut rest = plain.as_slice();
        let count = take_word(&mut rest)?;
        let mut pairs = Vec::new();
        for _ in 0..count {
            let name = take_text(&mut rest)?;
            let name = String::from_utf8(name).map_err(|_| malformed("name is no text"))?;
            pairs.push((name, take_text(&mut rest)?));
        }
        if rest.is_empty() { Ok(pairs) } else { Err(malformed("octets behind the last pair")) }
    }

    fn inflate(&mut self, mut block: &[u8]) -> io::Result<Vec<u8>> {
        let mut plain = Vec::with_capacity(4_096);
        loop {
            let before = self.0.total_in();
            let done = self.0.decompress_vec(block, &mut plain, FlushDecompress::Sync);
            let taken = usize::try_from(self.0.total_in() - before).unwrap_or(block.len());
            block = &block[taken..];
            match done {
                Err(error) if error.needs_dictionary().is_some() => {
                    self.0.set_dictionary(DICTIONARY).map_err(io::Error::other)?;
                    continue;
                }
                Err(error) => return Err(io::Error::new(io::ErrorKind::InvalidData, error)),
                Ok(_) => {}
            }
            if block.is_empty() && plain.len() < plain.capacity() {
                return Ok(plain);
            }
            if plain.len() > BLOCK_MAX || (taken == 0 && plain.len() < plain.capacity()) {
                return Err(malformed("header block"));
            }
            plain.reserve(4_096);
        }
    }
}

fn take_word(rest: &mut &[u8]) -> io::Result<u32> {
    let (word, behind) = rest.split_first_chunk().ok_or_else(|| malformed("pair cut short"))?;
    *rest = behind;
    Ok(u32::from_be_bytes(*word))
}

fn take_text(rest: &mut &[u8]) -> io::Result<Vec<u8>> {
    let len = take_word(rest)? as usize;
    let (text, behind) = rest.split_at_checked(len).ok_or_else(|| malformed("pair cut short"))?;
    *rest = behind;
    Ok(text.to_vec())
}

/// The dictionary of SPDY/3 header compression.
const DICTIONARY: &[u8] = include_bytes!("../../../protocol/src/spdy3-dictionary.bin");

/// Largest inflated header block that is read, in octets.
const BLOCK_MAX: usize = 1 << 20;

#[cfg(test)]
mod tests {
    use super::{Deflater, Inflater};

    #[test]
    fn blocks_share_one_context_and_start_as_level_nine_does() {
        let (mut deflater, mut inflater) = (Deflater::new(), Inflater::new());
        let long = vec![b'x'; 70_000];
        let pairs: [(&str, &[u8]); 2] = [(":method", b"GET"), ("x-long", &long)];
        for n in 0..3 {
            let block = deflater.block(&pairs).unwrap();
            assert_eq!(block.starts_with(&[0x78, 0xf9, 0xe3, 0xc6, 0xa7, 0xc2]), n == 0);
            assert!(block.ends_with(&[0, 0, 0xff, 0xff]));
            let read = inflater.pairs(&block).unwrap();
            assert_eq!(read, pairs.map(|(name, value)| (name.to_owned(), value.to_vec())));
        }
    }
}
