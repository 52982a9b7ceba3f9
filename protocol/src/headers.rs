//! Name/value lists and the compressed header blocks that carry them (SPDY/3.1 2.6.10).
//!
//! It owns one compression context per direction: [`Encoder`] writes stored deflate blocks, which
//! need no compressor and leak nothing by their length; [`Decoder`] reads those without an
//! inflater and anything else with one, limits applied while inflating. It does not know what the
//! names mean ([`crate::head`]).

use std::{fmt, str};

use flate2::{Decompress, FlushDecompress, Status};

use crate::{
    dictionary::{DICTIONARY, DICTIONARY_ID},
    error::{PeerFault, StreamFault},
    limits::{HEADER_BLOCK, HEADER_NAME, HEADER_PAIRS, HEADER_VALUE},
};

/// A list of names and values, in order. Names are unique and lower case; several values of one
/// name are joined by NUL.
///
/// It is kept as the wire has it, in one allocation: a list that arrived is not taken apart, and one
/// that is sent is not put together. Lists are short, so looking a name up is a walk.
#[derive(Clone, Default)]
pub struct Headers {
    /// The count, then for each pair the lengths and octets of name and value (SPDY/3.1 2.6.10).
    /// Nothing at all is an empty list too.
    octets: Vec<u8>,
    count: usize,
}

/// A name or value that cannot be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidHeader;

impl fmt::Display for InvalidHeader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("header name or value that SPDY cannot carry")
    }
}

impl std::error::Error for InvalidHeader {}

/// Where a pair lies in its list.
#[derive(Clone, Copy, Debug)]
struct Pair<'a> {
    /// Offset of the pair's first octet.
    start: usize,
    name: &'a [u8],
    value: &'a [u8],
}

impl Pair<'_> {
    const fn end(&self) -> usize {
        self.start + 8 + self.name.len() + self.value.len()
    }

    fn values(&self) -> impl Iterator<Item = &[u8]> {
        self.value.split(|octet| *octet == 0)
    }
}

impl Headers {
    /// An empty list.
    #[must_use]
    pub const fn new() -> Self {
        Self { octets: Vec::new(), count: 0 }
    }

    /// An empty list with room for so many octets.
    #[must_use]
    pub fn with_capacity(octets: usize) -> Self {
        Self { octets: Vec::with_capacity(octets), count: 0 }
    }

    /// Adds a value. The name is lowered; a name that is there already gets one more value. An
    /// empty further value is dropped: joined values must not be empty (SPDY/3.1 2.6.10).
    ///
    /// # Errors
    /// A name that is empty, not ASCII or above the limits; a value with NUL or above the limits;
    /// more pairs than the limit.
    pub fn push(&mut self, name: &str, value: &[u8]) -> Result<(), InvalidHeader> {
        let valid_name = !name.is_empty() && name.len() <= HEADER_NAME && name.is_ascii();
        if !valid_name || value.contains(&0) || value.len() > HEADER_VALUE {
            return Err(InvalidHeader);
        }
        let held = self.pairs().find(|pair| pair.name.eq_ignore_ascii_case(name.as_bytes()));
        if let Some(held) = held {
            let joined = match (held.value, value) {
                (_, []) => return Ok(()),
                ([], value) => value.to_vec(),
                (held, value) => [held, &[0], value].concat(),
            };
            if joined.len() > HEADER_VALUE {
                return Err(InvalidHeader);
            }
            let at = held.start + 4 + held.name.len();
            let (len_at, end) = (at..at + 4, held.end());
            self.octets.splice(at + 4..end, joined.iter().copied());
            self.octets[len_at].copy_from_slice(&word(joined.len()));
            return Ok(());
        }
        if self.count == HEADER_PAIRS {
            return Err(InvalidHeader);
        }
        if self.octets.is_empty() {
            self.octets.extend_from_slice(&word(0));
        }
        self.octets.extend_from_slice(&word(name.len()));
        self.octets.extend(name.bytes().map(|octet| octet.to_ascii_lowercase()));
        self.octets.extend_from_slice(&word(value.len()));
        self.octets.extend_from_slice(value);
        self.set_count(self.count + 1);
        Ok(())
    }

    /// The first value of a name, given in lower case.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&[u8]> {
        self.get_all(name).next()
    }

    /// All values of a name, given in lower case.
    pub fn get_all(&self, name: &str) -> impl Iterator<Item = &[u8]> {
        let held = self.pairs().find(|pair| pair.name == name.as_bytes());
        held.into_iter().flat_map(|pair| pair.value.split(|octet| *octet == 0))
    }

    /// Every name with every one of its values.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.pairs().flat_map(|pair| {
            // Names are ASCII: push() and parse() let nothing else in.
            let name = str::from_utf8(pair.name).unwrap_or_default();
            pair.value.split(|octet| *octet == 0).map(move |value| (name, value))
        })
    }

    /// Removes a name with all its values and returns the first.
    pub fn remove(&mut self, name: &str) -> Option<Vec<u8>> {
        let pair = self.pairs().find(|pair| pair.name == name.as_bytes())?;
        let first = pair.values().next().map(<[u8]>::to_vec);
        let range = pair.start..pair.end();
        self.octets.drain(range);
        self.set_count(self.count - 1);
        first
    }

    /// Number of different names.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.count
    }

    /// Whether there are no names.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Octets of the list on the wire, before compression.
    #[must_use]
    pub fn encoded_len(&self) -> usize {
        self.encoded().len()
    }

    fn encoded(&self) -> &[u8] {
        if self.octets.is_empty() { &[0; 4] } else { &self.octets }
    }

    fn set_count(&mut self, count: usize) {
        self.count = count;
        self.octets[..4].copy_from_slice(&word(count));
    }

    fn pairs(&self) -> impl Iterator<Item = Pair<'_>> {
        let mut start = 4;
        std::iter::from_fn(move || {
            let mut rest = self.octets.get(start..)?;
            let name = split_text(&mut rest)?;
            let value = split_text(&mut rest)?;
            let pair = Pair { start, name, value };
            start = pair.end();
            Some(pair)
        })
    }

    /// Takes an inflated block with every rule of SPDY/3.1 2.6.10 and every limit.
    fn parse(octets: Vec<u8>) -> Result<Self, StreamFault> {
        let count = Self::check(&octets)?;
        Ok(Self { octets, count })
    }

    /// The number of pairs.
    fn check(octets: &[u8]) -> Result<usize, StreamFault> {
        let (count, mut rest) = octets.split_first_chunk().ok_or(StreamFault::HeaderMalformed)?;
        let count = u32::from_be_bytes(*count) as usize;
        if count > HEADER_PAIRS {
            return Err(StreamFault::HeaderTooLarge);
        }
        let mut names: heapless::Vec<&[u8], HEADER_PAIRS> = heapless::Vec::new();
        for _ in 0..count {
            let name = take_text(&mut rest, HEADER_NAME)?;
            let value = take_text(&mut rest, HEADER_VALUE)?;
            let lower = name.iter().all(|octet| octet.is_ascii() && !octet.is_ascii_uppercase());
            let joined =
                !value.contains(&0) || value.split(|octet| *octet == 0).all(|v| !v.is_empty());
            if name.is_empty() || name.contains(&0) || !lower || !joined || names.contains(&name) {
                return Err(StreamFault::HeaderMalformed);
            }
            names.push(name).map_err(|_| StreamFault::HeaderTooLarge)?;
        }
        if rest.is_empty() { Ok(count) } else { Err(StreamFault::HeaderMalformed) }
    }
}

impl PartialEq for Headers {
    fn eq(&self, other: &Self) -> bool {
        self.encoded() == other.encoded()
    }
}

impl Eq for Headers {}

/// Names and sizes only: values may be secrets.
impl fmt::Debug for Headers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = |pair: Pair<'_>| (pair.name.escape_ascii().to_string(), pair.value.len());
        f.debug_map().entries(self.pairs().map(shown)).finish()
    }
}

fn word(len: usize) -> [u8; 4] {
    // Lists are bounded far below: HEADER_PAIRS, HEADER_NAME, HEADER_VALUE.
    u32::try_from(len).unwrap_or(u32::MAX).to_be_bytes()
}

/// A text with its length before it, if it is there whole.
fn split_text<'a>(octets: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (len, rest) = octets.split_first_chunk()?;
    let (text, rest) = rest.split_at_checked(u32::from_be_bytes(*len) as usize)?;
    *octets = rest;
    Some(text)
}

fn take_text<'a>(octets: &mut &'a [u8], limit: usize) -> Result<&'a [u8], StreamFault> {
    let text = split_text(octets).ok_or(StreamFault::HeaderMalformed)?;
    if text.len() > limit { Err(StreamFault::HeaderTooLarge) } else { Ok(text) }
}

/// The zlib header with FDICT and the dictionary's id: it starts a session's first block.
const ZLIB_HEADER: [u8; 6] = {
    let [a, b, c, d] = DICTIONARY_ID.to_be_bytes();
    [0x78, 0x20, a, b, c, d]
};
/// Octets of one stored block.
const STORED_MAX: usize = 65_535;
/// The empty stored block that ends every header block: Go's inflater delivers nothing before it.
const SYNC_FLUSH: [u8; 5] = [0, 0, 0, 0xff, 0xff];

/// Writes header blocks as stored deflate blocks.
#[derive(Debug, Default)]
pub struct Encoder {
    started: bool,
}

impl Encoder {
    /// An encoder at the start of a session.
    #[must_use]
    pub const fn new() -> Self {
        Self { started: false }
    }

    /// The next header block of the session. Blocks must go on the wire in the order of the calls.
    pub fn encode(&mut self, headers: &Headers) -> Vec<u8> {
        let plain = headers.encoded();
        let mut block = Vec::with_capacity(plain.len() + 32);
        if !self.started {
            block.extend_from_slice(&ZLIB_HEADER);
            self.started = true;
        }
        for piece in plain.chunks(STORED_MAX) {
            let len = u16::try_from(piece.len()).unwrap_or(u16::MAX);
            block.push(0);
            block.extend_from_slice(&len.to_le_bytes());
            block.extend_from_slice(&(!len).to_le_bytes());
            block.extend_from_slice(piece);
        }
        block.extend_from_slice(&SYNC_FLUSH);
        block
    }
}

/// What is wrong with a header block: the session ends, or only its stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlockError {
    /// The context is lost; nothing after this block can be read.
    Session(PeerFault),
    /// The block was read to its end and its content is refused.
    Stream(StreamFault),
}

/// Reads header blocks in wire order, those of refused and unknown streams too.
#[derive(Debug)]
pub struct Decoder {
    context: Context,
}

#[derive(Debug)]
enum Context {
    /// The peer promised stored blocks: no inflater exists.
    Stored { started: bool },
    /// An inflater (48 KiB), made at the first block.
    Inflate(Option<Box<Decompress>>),
}

impl Decoder {
    /// A decoder at the start of a session. With `stored_only`, a block in any other form ends the
    /// session: the peer promised so in the handshake.
    #[must_use]
    pub const fn new(stored_only: bool) -> Self {
        let context =
            if stored_only { Context::Stored { started: false } } else { Context::Inflate(None) };
        Self { context }
    }

    /// Reads one block.
    ///
    /// # Errors
    /// See [`BlockError`]. After `Session` the decoder must not be used again.
    pub fn decode(&mut self, block: &[u8]) -> Result<Headers, BlockError> {
        let plain = match &mut self.context {
            Context::Stored { started } => read_stored(block, started)?,
            Context::Inflate(inflater) => inflate(block, inflater)?,
        };
        Headers::parse(plain).map_err(BlockError::Stream)
    }
}

fn read_stored(mut block: &[u8], started: &mut bool) -> Result<Vec<u8>, BlockError> {
    const NOT_STORED: BlockError = BlockError::Session(PeerFault::HeaderBlockNotStored);
    if !*started {
        block = block.strip_prefix(&ZLIB_HEADER).ok_or(NOT_STORED)?;
        *started = true;
    }
    let mut plain = Vec::new();
    loop {
        let ([kind, a, b, c, d], rest) = block.split_first_chunk().ok_or(NOT_STORED)?;
        let len = u16::from_le_bytes([*a, *b]);
        if *kind != 0 || u16::from_le_bytes([*c, *d]) != !len || rest.len() < usize::from(len) {
            return Err(NOT_STORED);
        }
        let (piece, rest) = rest.split_at(usize::from(len));
        // The frame's own limit (limits::CONTROL_FRAME) bounds this: stored blocks do not grow.
        plain.extend_from_slice(piece);
        if rest.is_empty() {
            return if len == 0 { Ok(plain) } else { Err(NOT_STORED) };
        }
        block = rest;
    }
}

fn inflate(block: &[u8], inflater: &mut Option<Box<Decompress>>) -> Result<Vec<u8>, BlockError> {
    const CORRUPT: BlockError = BlockError::Session(PeerFault::HeaderBlock);
    let inflater = inflater.get_or_insert_with(|| Box::new(Decompress::new(true)));
    let mut plain = Vec::with_capacity(1_024);
    // What goes beyond the limit is inflated into this and forgotten: the context must follow.
    let mut nowhere = [0; 4_096];
    let mut too_large = false;
    let mut input = block;
    loop {
        let (read, written) = (inflater.total_in(), inflater.total_out());
        let limit_reached = plain.len() == HEADER_BLOCK;
        let (space, status) = if limit_reached {
            (nowhere.len(), inflater.decompress(input, &mut nowhere, FlushDecompress::Sync))
        } else {
            if plain.len() == plain.capacity() {
                plain.reserve_exact(plain.len().min(HEADER_BLOCK - plain.len()));
            }
            let space = plain.capacity() - plain.len();
            (space, inflater.decompress_vec(input, &mut plain, FlushDecompress::Sync))
        };
        match status {
            // One deflate stream lasts as long as its session (SPDY/3.1 2.6.10.1).
            Ok(Status::StreamEnd) => return Err(CORRUPT),
            Ok(Status::Ok | Status::BufError) => {}
            Err(error) if error.needs_dictionary() == Some(DICTIONARY_ID) => {
                inflater.set_dictionary(DICTIONARY).map_err(|_| CORRUPT)?;
                input = advance(input, inflater.total_in() - read);
                continue;
            }
            Err(_) => return Err(CORRUPT),
        }
        let produced = inflater.total_out() - written;
        too_large |= limit_reached && produced > 0;
        let consumed = inflater.total_in() - read;
        input = advance(input, consumed);
        if input.is_empty() && produced < space as u64 {
            break;
        }
        if produced == 0 && consumed == 0 {
            return Err(CORRUPT);
        }
    }
    if too_large { Err(BlockError::Stream(StreamFault::HeaderTooLarge)) } else { Ok(plain) }
}

fn advance(input: &[u8], consumed: u64) -> &[u8] {
    // An inflater never reads more than it was given; nothing is left if it ever said so.
    usize::try_from(consumed).ok().and_then(|consumed| input.get(consumed..)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use flate2::{Compress, Compression, FlushCompress};

    use super::*;

    fn sample() -> Headers {
        let mut headers = Headers::new();
        headers.push(":method", b"GET").unwrap();
        headers.push("Set-Cookie", b"a=1").unwrap();
        headers.push("set-cookie", b"b=2").unwrap();
        headers
    }

    fn deflate(context: &mut Compress, plain: &[u8]) -> Vec<u8> {
        let mut block = Vec::with_capacity(plain.len() + 1_024);
        context.compress_vec(plain, &mut block, FlushCompress::Sync).unwrap();
        block
    }

    fn with_dictionary() -> Compress {
        let mut context = Compress::new(Compression::best(), true);
        context.set_dictionary(DICTIONARY).unwrap();
        context
    }

    fn list(pairs: &[(&[u8], &[u8])]) -> Vec<u8> {
        let mut plain = u32::try_from(pairs.len()).unwrap().to_be_bytes().to_vec();
        for part in pairs.iter().flat_map(|pair| [pair.0, pair.1]) {
            plain.extend_from_slice(&u32::try_from(part.len()).unwrap().to_be_bytes());
            plain.extend_from_slice(part);
        }
        plain
    }

    #[test]
    fn repeated_names_are_joined_and_come_apart_again() {
        let headers = sample();
        assert_eq!(headers.len(), 2);
        let cookies: Vec<_> = headers.get_all("set-cookie").collect();
        assert_eq!(cookies, [b"a=1", b"b=2"]);
        assert_eq!(headers.iter().count(), 3);
    }

    #[test]
    fn list_is_edited_in_place() {
        let mut headers = sample();
        headers.push("last", b"z").unwrap();
        headers.push("set-cookie", b"c=3").unwrap();
        headers.push("set-cookie", b"").unwrap();
        assert_eq!(headers.get("last"), Some(b"z".as_slice()));
        assert_eq!(headers.get_all("set-cookie").count(), 3);
        assert_eq!(headers.remove("set-cookie"), Some(b"a=1".to_vec()));
        assert_eq!(headers.remove("set-cookie"), None);
        let left: Vec<_> = headers.iter().collect();
        assert_eq!(left, [(":method", b"GET".as_slice()), ("last", b"z")]);
        assert_eq!(headers.remove(":method"), Some(b"GET".to_vec()));
        assert_eq!(headers.remove("last"), Some(b"z".to_vec()));
        assert_eq!((headers.len(), headers), (0, Headers::new()));
    }

    #[test]
    fn first_stored_block_has_its_golden_octets() {
        let mut headers = Headers::new();
        headers.push("a", b"b").unwrap();
        let mut encoder = Encoder::new();
        let plain = [0, 0, 0, 1, 0, 0, 0, 1, b'a', 0, 0, 0, 1, b'b'];
        let mut golden = vec![0x78, 0x20, 0xe3, 0xc6, 0xa7, 0xc2, 0, 14, 0, 0xf1, 0xff];
        golden.extend_from_slice(&plain);
        golden.extend_from_slice(&[0, 0, 0, 0xff, 0xff]);
        assert_eq!(encoder.encode(&headers), golden);
        assert_eq!(encoder.encode(&headers), golden[6..]);
    }

    #[test]
    fn stored_blocks_are_read_with_and_without_an_inflater() {
        let mut encoder = Encoder::new();
        let (mut stored, mut inflating) = (Decoder::new(true), Decoder::new(false));
        for _ in 0..4 {
            let block = encoder.encode(&sample());
            assert_eq!(stored.decode(&block), Ok(sample()));
            assert_eq!(inflating.decode(&block), Ok(sample()));
        }
    }

    #[test]
    fn compressed_blocks_of_one_context_are_read_in_order() {
        let (mut context, mut decoder) = (with_dictionary(), Decoder::new(false));
        for round in 0..20u8 {
            let value = vec![b'v'; usize::from(round) * 100];
            let plain = list(&[(b":path", b"/index.html"), (b"x", &value)]);
            let headers = decoder.decode(&deflate(&mut context, &plain)).unwrap();
            assert_eq!(headers.get("x"), Some(value.as_slice()));
        }
    }

    #[test]
    fn bomb_costs_its_stream_and_the_context_goes_on() {
        let (mut context, mut decoder) = (with_dictionary(), Decoder::new(false));
        let bomb = deflate(&mut context, &vec![0; 32 << 20]);
        assert!(bomb.len() < 40_000, "{}", bomb.len());
        assert_eq!(decoder.decode(&bomb), Err(BlockError::Stream(StreamFault::HeaderTooLarge)));
        let next = deflate(&mut context, &list(&[(b"a", b"b")]));
        assert_eq!(decoder.decode(&next).unwrap().get("a"), Some(b"b".as_slice()));
    }

    #[test]
    fn inflated_size_is_limited_at_the_bound() {
        for (extra, fits) in [(0, true), (1, false)] {
            let (mut context, mut decoder) = (with_dictionary(), Decoder::new(false));
            // Two values fill the block: one alone would pass the limit of a value.
            let half = vec![b'v'; HEADER_VALUE];
            let overhead = 4 + 3 * 8 + 3;
            let rest = vec![b'v'; HEADER_BLOCK - overhead - 2 * HEADER_VALUE.min(32_000) + extra];
            let plain = list(&[(b"a", &half[..32_000]), (b"b", &half[..32_000]), (b"c", &rest)]);
            assert_eq!(plain.len(), HEADER_BLOCK + extra);
            assert_eq!(decoder.decode(&deflate(&mut context, &plain)).is_ok(), fits);
        }
    }

    #[test]
    fn what_the_specification_forbids_is_refused() {
        let cases: [&[(&[u8], &[u8])]; 7] = [
            &[(b"", b"v")],
            &[(b"Upper", b"v")],
            &[(b"a", b"1"), (b"a", b"2")],
            &[(b"a", b"\0v")],
            &[(b"a", b"v\0")],
            &[(b"a", b"v\0\0w")],
            &[(b"a\xff", b"v")],
        ];
        for pairs in cases {
            assert_eq!(Headers::parse(list(pairs)), Err(StreamFault::HeaderMalformed), "{pairs:?}");
        }
        let mut trailing = list(&[(b"a", b"b")]);
        trailing.push(0);
        assert_eq!(Headers::parse(trailing), Err(StreamFault::HeaderMalformed));
        assert!(Headers::parse(list(&[(b"a", b"")])).is_ok());
    }

    #[test]
    fn counts_and_lengths_beyond_the_block_are_refused_before_allocating() {
        for lie in [[0xff; 4], [0, 0, 1, 0]] {
            assert!(Headers::parse(lie.to_vec()).is_err());
        }
        let long_name = vec![b'n'; HEADER_NAME + 1];
        let too_long = list(&[(&long_name, b"v")]);
        assert_eq!(Headers::parse(too_long), Err(StreamFault::HeaderTooLarge));
        let pair: (&[u8], &[u8]) = (b"a", b"b");
        let too_many = list(&vec![pair; HEADER_PAIRS + 1]);
        assert_eq!(Headers::parse(too_many), Err(StreamFault::HeaderTooLarge));
    }

    #[test]
    fn anything_but_stored_ends_the_session_where_stored_was_promised() {
        let mut context = with_dictionary();
        let block = deflate(&mut context, &list(&[(b"a", b"b")]));
        let fault = Err(BlockError::Session(PeerFault::HeaderBlockNotStored));
        assert_eq!(Decoder::new(true).decode(&block), fault);
        let mut cut = Encoder::new().encode(&sample());
        cut.pop();
        assert_eq!(Decoder::new(true).decode(&cut), fault);
    }

    #[test]
    fn garbage_ends_the_session() {
        let fault = Err(BlockError::Session(PeerFault::HeaderBlock));
        assert_eq!(Decoder::new(false).decode(b"not zlib at all"), fault);
        let foreign = { Compress::new(Compression::fast(), true) };
        let mut foreign = foreign;
        let block = deflate(&mut foreign, &list(&[(b"a", b"b")]));
        // Without a dictionary the block is legal zlib, and read.
        assert!(Decoder::new(false).decode(&block).is_ok());
        let mut ended = Vec::with_capacity(1_024);
        with_dictionary().compress_vec(b"\0\0\0\0", &mut ended, FlushCompress::Finish).unwrap();
        assert_eq!(Decoder::new(false).decode(&ended), fault);
    }
}
