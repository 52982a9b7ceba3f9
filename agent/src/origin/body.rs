//! From a reply to DATA frames.
//!
//! It owns the data path: what the page cache holds goes from there straight into the output of
//! the tunnel, without a copy of ours and without another thread; what it does not hold is read on
//! the pool, one block at a time and only when there is room for it on the way out.

use std::{
    fmt,
    future::poll_fn,
    io::{self, IoSliceMut},
    num::NonZeroU64,
    os::fd::OwnedFd,
    sync::Arc,
    task::{Context, Poll, ready},
};

use futures_lite::future::poll_once;
use rustix::{
    buffer::spare_capacity,
    fs::{Advice, fadvise},
    io::{Errno, ReadWriteFlags, pread, preadv2},
};
use spdy_protocol::{error::StreamError, tunnel::Stream};

use super::{
    archive::FULL,
    content::SHORT,
    quota::{Lease, Quota},
    reply::{Made, Piece},
};
use crate::pool::Pool;

/// Why a body was not sent to its end.
#[derive(Debug)]
pub(crate) enum BodyError {
    /// The visitor went away, or the tunnel did.
    Stream(io::Error),
    /// The file cannot be read.
    Read(Errno),
    /// The file ends before the length that was announced.
    Short,
    /// The folder has more entries than the archive can list.
    Full,
}

impl fmt::Display for BodyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stream(error) => write!(f, "{error}"),
            Self::Read(error) => write!(f, "file cannot be read: {error}"),
            Self::Short => f.write_str("file became shorter while it was sent"),
            Self::Full => f.write_str("folder has more entries than a zip archive may list"),
        }
    }
}

impl From<StreamError> for BodyError {
    fn from(error: StreamError) -> Self {
        Self::Stream(error.into())
    }
}

/// How a source ended.
impl From<Errno> for BodyError {
    fn from(error: Errno) -> Self {
        match error {
            SHORT => Self::Short,
            FULL => Self::Full,
            error => Self::Read(error),
        }
    }
}

impl From<io::Error> for BodyError {
    fn from(error: io::Error) -> Self {
        Self::Stream(error)
    }
}

/// Sends parts of a file and `tail`, the last octet with FIN; never more, never padding. `sent`
/// counts what went out, also on failure.
pub(crate) async fn send_file(
    stream: &Stream,
    file: OwnedFd,
    pieces: &[Piece],
    tail: &[u8],
    pool: &Pool,
    blocks: &Quota,
    sent: &mut u64,
) -> Result<(), BodyError> {
    let file = Arc::new(file);
    let mut cache = Cache::Asks;
    for (at, piece) in pieces.iter().enumerate() {
        let is_last = at + 1 == pieces.len() && tail.is_empty();
        if !piece.head.is_empty() {
            send_octets(stream, &piece.head, false).await?;
            *sent += piece.head.len() as u64;
        }
        if piece.len >= SEQUENTIAL {
            // Advice only; a filesystem may not take it.
            let _ = fadvise(&file, piece.offset, NonZeroU64::new(piece.len), Advice::Sequential);
        }
        let (mut at, mut left) = (piece.offset, piece.len);
        while left > 0 {
            let step = poll_fn(|cx| poll_cached(stream, cx, &file, at, left, is_last, cache));
            let octets = match step.await? {
                Step::Sent(octets) => octets,
                Step::Cold(next) => {
                    cache = next;
                    let (size, _lease) = block_size(blocks, left);
                    let reader = file.clone();
                    let block = pool.run(move || read_block(&reader, at, size)).await?;
                    let end = is_last && block.len() as u64 == left;
                    send_octets(stream, &block, end).await?;
                    block.len()
                }
            } as u64;
            (at, left) = (at.saturating_add(octets), left - octets);
            *sent += octets;
        }
    }
    send_octets(stream, tail, true).await?;
    *sent += tail.len() as u64;
    Ok(())
}

/// Sends octets; `end`: with FIN.
pub(crate) async fn send_octets(
    stream: &Stream,
    mut octets: &[u8],
    end: bool,
) -> Result<(), BodyError> {
    while !octets.is_empty() {
        let taken = poll_fn(|cx| stream.poll_write(cx, octets, end)).await?;
        octets = &octets[taken.min(octets.len())..];
    }
    Ok(())
}

/// Sends what a source makes, each piece when there was room for the one before.
pub(crate) async fn send_made(
    stream: &Stream,
    made: Made,
    pool: &Pool,
    sent: &mut u64,
) -> Result<(), BodyError> {
    let Made { mut source, leases: _leases } = made;
    let mut ready: Option<Vec<u8>> = None;
    loop {
        let next;
        (source, next) = pool
            .run(move || {
                let next = source.next_piece();
                (source, next)
            })
            .await;
        let next = next?;
        if next.as_ref().is_some_and(Vec::is_empty) {
            // Nothing to write, which would tell that nobody waits any more.
            if let Some(gone) = poll_once(poll_fn(|cx| stream.poll_failed(cx))).await {
                return Err(gone.into());
            }
            continue;
        }
        // One piece behind, so that the last goes out with FIN.
        match ready.take() {
            Some(piece) => {
                send_octets(stream, &piece, next.is_none()).await?;
                *sent += piece.len() as u64;
            }
            None if next.is_none() => poll_fn(|cx| stream.poll_finish(cx)).await?,
            None => {}
        }
        if next.is_none() {
            return Ok(());
        }
        ready = next;
    }
}

/// Whether the filesystem can say what it has in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cache {
    /// It is asked before each block.
    Asks,
    /// It cannot: every block is read on the pool.
    Unknown,
}

enum Step {
    /// So many octets went from the page cache into the output.
    Sent(usize),
    /// There is room in the output but the disk must be asked.
    Cold(Cache),
}

fn poll_cached(
    stream: &Stream,
    cx: &mut Context<'_>,
    file: &OwnedFd,
    at: u64,
    left: u64,
    end: bool,
    cache: Cache,
) -> Poll<Result<Step, BodyError>> {
    let max = usize::try_from(left).unwrap_or(usize::MAX);
    let mut read = None;
    let written = ready!(stream.poll_write_with(cx, max, end, |room| {
        let len = room.len().min(max);
        let outcome = match cache {
            Cache::Asks => read_cached(file, &mut room[..len], at),
            Cache::Unknown => Err(Errno::OPNOTSUPP),
        };
        read = Some(outcome);
        outcome.map_err(io::Error::from)
    }));
    Poll::Ready(match read {
        Some(Ok(0)) => Err(BodyError::Short),
        Some(Err(Errno::AGAIN | Errno::INTR)) => Ok(Step::Cold(Cache::Asks)),
        // No such call, no such flag, or not on this filesystem.
        Some(Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL)) => Ok(Step::Cold(Cache::Unknown)),
        Some(Err(error)) => Err(BodyError::Read(error)),
        Some(Ok(_)) | None => written.map(Step::Sent).map_err(BodyError::Stream),
    })
}

/// Reads what is in memory; `AGAIN` if that is nothing.
fn read_cached(file: &OwnedFd, room: &mut [u8], at: u64) -> Result<usize, Errno> {
    preadv2(file, &mut [IoSliceMut::new(room)], at, ReadWriteFlags::NOWAIT)
}

/// A block as large as the budget of all streams allows, but always a small one.
fn block_size(blocks: &Quota, left: u64) -> (usize, Option<Lease>) {
    let wanted = |size: usize| usize::try_from(left).map_or(size, |left| left.min(size));
    let lease = blocks.lease(wanted(BLOCK));
    (wanted(if lease.is_some() { BLOCK } else { SMALL_BLOCK }), lease)
}

/// Blocks. Reads up to `size` octets, fewer only at the end of the file.
fn read_block(file: &OwnedFd, at: u64, size: usize) -> Result<Vec<u8>, BodyError> {
    let mut block = Vec::with_capacity(size);
    while block.len() < size {
        let next = at.saturating_add(block.len() as u64);
        match pread(file, spare_capacity(&mut block), next) {
            Ok(0) => return Err(BodyError::Short),
            Ok(_) => {}
            Err(Errno::INTR) => {}
            Err(error) => return Err(BodyError::Read(error)),
        }
    }
    // The allocator may have given more than was asked for.
    block.truncate(size);
    Ok(block)
}

/// Octets of cold blocks that all streams together may hold beyond a small one each.
pub(crate) const BLOCKS: usize = 1 << 20;
const BLOCK: usize = 64 << 10;
const SMALL_BLOCK: usize = 16 << 10;
/// Octets from which on the kernel is told that reading goes on in order: less is not worth a
/// system call.
const SEQUENTIAL: u64 = 4 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_shrink_when_the_budget_is_spent() {
        let blocks = Quota::new(2 * BLOCK);
        let first = block_size(&blocks, u64::MAX);
        let second = block_size(&blocks, u64::MAX);
        let third = block_size(&blocks, u64::MAX);
        assert_eq!((first.0, second.0, third.0), (BLOCK, BLOCK, SMALL_BLOCK));
        assert_eq!(block_size(&blocks, 5).0, 5);
        drop(first);
        assert_eq!(block_size(&blocks, 5).0, 5);
        assert_eq!(block_size(&blocks, u64::MAX).0, BLOCK);
    }

    #[test]
    fn file_that_became_shorter_is_an_error() {
        let path = std::env::temp_dir().join(format!("spdy-agent-body-{}", std::process::id()));
        std::fs::write(&path, vec![7; 100]).unwrap();
        let file = OwnedFd::from(std::fs::File::open(&path).unwrap());
        assert_eq!(read_block(&file, 90, 10).unwrap(), [7; 10]);
        assert!(matches!(read_block(&file, 90, 11), Err(BodyError::Short)));
        assert!(matches!(read_block(&file, 100, 1), Err(BodyError::Short)));
        let mut room = [0; 16];
        // Just written, so it is in memory; some filesystems cannot say.
        if let Ok(len) = read_cached(&file, &mut room, 90) {
            assert_eq!(len, 10);
            assert_eq!(read_cached(&file, &mut room, 100), Ok(0));
        }
        std::fs::remove_file(&path).unwrap();
    }
}
