//! File contents from which every byte can be traced to the operation that sent it.
//!
//! It owns the format: cells of [`CELL`] bytes, each with the operation's number, the length of the
//! whole content, the cell's index and a check value that depends on the seed.

use std::fmt;

/// Number of an operation, unique in a run.
pub type Op = u32;

/// What a directory entry holds.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Value {
    /// There is no such entry.
    Absent,
    /// The whole content that an operation sent.
    File(Op),
    /// A file without content.
    Empty,
    /// A directory.
    Directory,
    /// A symbolic link, with its target.
    Link(String),
    /// Content that no operation sent as a whole: what is wrong with it.
    Broken(String),
}

impl fmt::Debug for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Absent => f.write_str("nothing"),
            Self::File(op) => write!(f, "content of op {op}"),
            Self::Empty => f.write_str("an empty file"),
            Self::Directory => f.write_str("a directory"),
            Self::Link(to) => write!(f, "a link to {to}"),
            Self::Broken(what) => write!(f, "broken content ({what})"),
        }
    }
}

/// The content of `len` bytes that operation `op` sends.
pub fn content(seed: u64, op: Op, len: usize) -> Vec<u8> {
    assert!(len == 0 || len >= LEAST, "too short to be traced");
    let mut bytes = Vec::with_capacity(len + CELL);
    for index in 0..len.div_ceil(CELL) {
        bytes.extend_from_slice(&cell(seed, op, len, index));
    }
    bytes.truncate(len);
    bytes
}

/// What a file of these bytes is.
pub fn identify(seed: u64, bytes: &[u8]) -> Value {
    if bytes.is_empty() {
        return Value::Empty;
    }
    let mut runs: Vec<(Op, usize, usize, usize)> = Vec::new();
    for (at, piece) in bytes.chunks(CELL).enumerate() {
        // The tail of a content may be too short to be read; then it is that of what is before it.
        let last = runs.last().copied().filter(|_| piece.len() < CELL);
        let follows =
            |(op, len, first, count)| cell(seed, op, len, first + count).starts_with(piece);
        if last.is_some_and(follows) {
            if let Some(run) = runs.last_mut() {
                run.3 += 1;
            }
            continue;
        }
        let Some((op, len, index)) = parse(seed, piece) else {
            return Value::Broken(format!("bytes of no operation at {}", at * CELL));
        };
        match runs.last_mut() {
            Some((last, length, first, count))
                if (*last, *length, *first + *count) == (op, len, index) =>
            {
                *count += 1;
            }
            _ => runs.push((op, len, index, 1)),
        }
    }
    match runs.as_slice() {
        [(op, len, 0, _)] if *len == bytes.len() => Value::File(*op),
        [(op, len, 0, _)] => Value::Broken(format!("{} of {len} bytes of op {op}", bytes.len())),
        runs => {
            let parts = runs.iter().take(6).map(|(op, len, first, count)| {
                format!("op {op} cells {first}..{} of {len} bytes", first + count)
            });
            Value::Broken(format!("mixed: {}", parts.collect::<Vec<_>>().join(", ")))
        }
    }
}

fn cell(seed: u64, op: Op, len: usize, index: usize) -> [u8; CELL] {
    let check = check(seed, op, index);
    let text = format!("{op:08x} {len:08x} {index:07x} {check:05x}\n");
    text.as_bytes().try_into().unwrap()
}

fn parse(seed: u64, piece: &[u8]) -> Option<(Op, usize, usize)> {
    let field = |from: usize, to: usize| {
        let text = std::str::from_utf8(piece.get(from..to)?).ok()?;
        u64::from_str_radix(text, 16).ok()
    };
    let op = Op::try_from(field(0, 8)?).ok()?;
    let len = usize::try_from(field(9, 17)?).ok()?;
    // The last cell may end behind that.
    let index = match field(18, 25) {
        Some(index) => usize::try_from(index).ok()?,
        None if piece.len() < CELL => len / CELL,
        None => return None,
    };
    cell(seed, op, len, index).starts_with(piece).then_some((op, len, index))
}

fn check(seed: u64, op: Op, index: usize) -> u64 {
    let mut mixed = seed ^ (u64::from(op) << 32) ^ index as u64;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (mixed ^ (mixed >> 31)) & 0xf_ffff
}

/// Bytes of a cell.
const CELL: usize = 32;
/// Fewest bytes that tell whose they are and how many there must be.
pub const LEAST: usize = 20;

#[test]
fn content_is_told_from_every_piece_of_it_and_from_others() {
    for len in [0, 20, 31, 32, 33, 50, 64, 1_000, 4_096, 70_001] {
        let bytes = content(7, 9, len);
        assert_eq!(bytes.len(), len);
        let whole = if len == 0 { Value::Empty } else { Value::File(9) };
        assert_eq!(identify(7, &bytes), whole);
        for cut in [1, 10, 17, 19, 20, 32, 40, len.saturating_sub(1)] {
            if cut < len {
                let found = identify(7, &bytes[..cut]);
                assert!(matches!(found, Value::Broken(_)), "{len} {cut} {found:?}");
            }
        }
        if len >= CELL {
            assert!(matches!(identify(8, &bytes), Value::Broken(_)));
            let twice = [&bytes[..], &bytes[..]].concat();
            assert!(matches!(identify(7, &twice), Value::Broken(_)));
        }
    }
    let mixed = [&content(7, 1, 96)[..64], &content(7, 2, 96)[64..]].concat();
    let Value::Broken(what) = identify(7, &mixed) else { panic!() };
    assert!(what.starts_with("mixed: op 1 cells 0..2"), "{what}");
    assert!(matches!(identify(7, b"something else"), Value::Broken(_)));
    let hole = [&content(7, 1, 96)[..32], &content(7, 1, 96)[64..]].concat();
    assert!(matches!(identify(7, &hole), Value::Broken(_)));
}
