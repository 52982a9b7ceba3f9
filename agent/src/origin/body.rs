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

use rustix::{
    buffer::spare_capacity,
    fs::{Advice, fadvise},
    io::{Errno, ReadWriteFlags, pread, preadv2},
};
use spdy_protocol::{error::StreamError, tunnel::Stream};

use super::{
    listing::Page,
    quota::{Lease, Quota},
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
}

impl fmt::Display for BodyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stream(error) => write!(f, "{error}"),
            Self::Read(error) => write!(f, "file cannot be read: {error}"),
            Self::Short => f.write_str("file became shorter while it was sent"),
        }
    }
}

impl From<StreamError> for BodyError {
    fn from(error: StreamError) -> Self {
        Self::Stream(error.into())
    }
}

impl From<io::Error> for BodyError {
    fn from(error: io::Error) -> Self {
        Self::Stream(error)
    }
}

/// Sends `len` octets of a file from `offset`, the last with FIN; never more, never padding.
/// `sent` counts what went out, also on failure.
pub(crate) async fn send_file(
    stream: &Stream,
    file: OwnedFd,
    offset: u64,
    len: u64,
    pool: &Pool,
    blocks: &Quota,
    sent: &mut u64,
) -> Result<(), BodyError> {
    if len >= SEQUENTIAL {
        // Advice only; a filesystem may not take it.
        let _ = fadvise(&file, offset, NonZeroU64::new(len), Advice::Sequential);
    }
    let file = Arc::new(file);
    let mut cache = Cache::Asks;
    while *sent < len {
        let (at, left) = (offset.saturating_add(*sent), len - *sent);
        match poll_fn(|cx| poll_cached(stream, cx, &file, at, left, cache)).await? {
            Step::Sent(octets) => *sent += octets as u64,
            Step::Cold(next) => {
                cache = next;
                let (size, _lease) = block_size(blocks, left);
                let reader = file.clone();
                let block = pool.run(move || read_block(&reader, at, size)).await?;
                send_octets(stream, &block, block.len() as u64 == left).await?;
                *sent += block.len() as u64;
            }
        }
    }
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

/// Sends a page, making each piece when there is room for it.
pub(crate) async fn send_page(
    stream: &Stream,
    mut page: Page,
    sent: &mut u64,
) -> Result<(), BodyError> {
    while let Some(piece) = page.next_piece() {
        send_octets(stream, piece.as_bytes(), page.is_done()).await?;
        *sent += piece.len() as u64;
    }
    Ok(())
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
    cache: Cache,
) -> Poll<Result<Step, BodyError>> {
    let max = usize::try_from(left).unwrap_or(usize::MAX);
    let mut read = None;
    let written = ready!(stream.poll_write_with(cx, max, true, |room| {
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
fn block_size(blocks: &Quota, left: u64) -> (usize, Option<Lease<'_>>) {
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
