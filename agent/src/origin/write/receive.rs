//! From DATA frames to a file.
//!
//! It owns how much is held before it is written: [`BATCH`] and the chunk in hand, beside what the
//! window of the stream lets in (64 KiB). 16 uploads at once, as many as a session takes, stay
//! below 2 MiB.

use std::{future::poll_fn, os::fd::OwnedFd, sync::Arc};

use async_channel::Receiver;
use futures_lite::future::{or, poll_once};
use rustix::{
    fs::fdatasync,
    io::{Errno, write},
};
use spdy_protocol::{error::StreamError, head::RequestHead, tunnel::Stream};

use super::{Failure, Problem, room::Promise};
use crate::pool::Pool;

/// Where the bytes of an upload go.
#[derive(Debug)]
pub(super) struct Sink<'a> {
    pool: &'a Pool,
    file: Arc<OwnedFd>,
    chunks: Vec<Vec<u8>>,
    held: usize,
    /// Bytes of the file, with those that are held.
    pub(super) len: u64,
    limit: u64,
    account: Account,
}

/// What was written, and what may be.
#[derive(Debug, Default)]
struct Account {
    /// `None` while a thread works with it, and for good if that was given up.
    promise: Option<Promise>,
    /// Bytes that were written since they were last put on the disk.
    unsynced: u64,
}

impl<'a> Sink<'a> {
    /// Appends to a file of `len` bytes, which may grow to `limit`.
    pub(super) fn new(
        pool: &'a Pool,
        file: Arc<OwnedFd>,
        promise: Option<Promise>,
        len: u64,
        limit: Option<u64>,
    ) -> Self {
        let (limit, account) = (limit.unwrap_or(u64::MAX), Account { promise, unsynced: 0 });
        Self { pool, file, chunks: Vec::new(), held: 0, len, limit, account }
    }

    /// Takes bytes; they are on their way to the disk when [`Sink::flush`] has returned.
    pub(super) async fn push(&mut self, chunk: Vec<u8>) -> Result<(), Problem> {
        let len = self.len.saturating_add(chunk.len() as u64);
        if len > self.limit {
            return Err(TOO_LARGE);
        }
        if self.held > 0 && self.held + chunk.len() > BATCH {
            self.flush().await?;
        }
        self.len = len;
        self.held += chunk.len();
        self.chunks.push(chunk);
        Ok(())
    }

    /// Writes what is held. When that fails none of it counts.
    pub(super) async fn flush(&mut self) -> Result<(), Problem> {
        if self.held == 0 {
            return Ok(());
        }
        let (file, chunks) = (self.file.clone(), std::mem::take(&mut self.chunks));
        let len = std::mem::take(&mut self.held) as u64;
        let mut account = std::mem::take(&mut self.account);
        let write = move || {
            let written = account.write(&file, &chunks, len);
            (account, written)
        };
        let (account, written) = self.pool.run(write).await;
        self.account = account;
        if written.is_err() {
            self.len -= len;
        }
        Ok(written?)
    }
}

impl Account {
    /// Writes if there is room for it. Blocks.
    fn write(&mut self, file: &OwnedFd, chunks: &[Vec<u8>], len: u64) -> Result<(), Errno> {
        // What was written and is not on the disk yet may not be counted by the disk.
        if self.extend(file, self.unsynced.saturating_add(len)).is_err() {
            self.sync(file)?;
            self.extend(file, len)?;
        }
        write_all(file, chunks)?;
        self.unsynced += len;
        if self.unsynced >= SYNC {
            // In small steps, so that the last one does not keep a thread for long.
            self.sync(file)?;
        }
        Ok(())
    }

    fn extend(&mut self, file: &OwnedFd, len: u64) -> Result<(), Errno> {
        self.promise.as_mut().map_or(Ok(()), |promise| promise.extend(file, len))
    }

    /// Puts what was written on the disk.
    fn sync(&mut self, file: &OwnedFd) -> Result<(), Errno> {
        if self.unsynced > 0 {
            fdatasync(file)?;
            if let Some(promise) = &mut self.promise {
                promise.spend(self.unsynced);
            }
            self.unsynced = 0;
        }
        Ok(())
    }
}

/// Copies the body of a request, which has `announced` octets if it was announced. It ends early
/// when `stop` is closed. Whatever ends it, what arrived is written.
pub(super) async fn receive(
    stream: &Stream,
    sink: &mut Sink<'_>,
    announced: Option<u64>,
    stop: Option<&Receiver<()>>,
) -> Result<(), Failure> {
    let before = sink.len;
    let end = loop {
        match next(stream, sink, stop).await {
            Ok(Some(chunk)) => {
                if let Err(problem) = sink.push(chunk).await {
                    break Err(problem.into());
                }
            }
            Ok(None) => break Ok(()),
            Err(failure) => break Err(failure),
        }
    };
    sink.flush().await?;
    end?;
    // Another number than announced: the sender gave up, or somebody cut the request.
    if announced.is_some_and(|announced| sink.len - before != announced) {
        return Err(Problem::new(400, "The body has not the length that was announced.").into());
    }
    Ok(())
}

/// The next chunk. What is held is written when there is nothing to be had at once: a fast sender
/// does not cost a change of threads for each frame, and a slow one finds its octets on the disk.
async fn next(
    stream: &Stream,
    sink: &mut Sink<'_>,
    stop: Option<&Receiver<()>>,
) -> Result<Option<Vec<u8>>, Failure> {
    if stop.is_some_and(Receiver::is_closed) {
        return Err(TAKEN_OVER.into());
    }
    if let Some(next) = poll_once(chunk(stream)).await {
        return Ok(next?);
    }
    sink.flush().await?;
    let Some(stop) = stop else { return Ok(chunk(stream).await?) };
    let arrived = async { Ok(chunk(stream).await?) };
    let stopped = async {
        // Nothing is ever sent.
        let _ = stop.recv().await;
        Err(TAKEN_OVER.into())
    };
    or(arrived, stopped).await
}

/// What has arrived; `None` at the end.
pub(super) async fn chunk(stream: &Stream) -> Result<Option<Vec<u8>>, StreamError> {
    poll_fn(|cx| stream.poll_read_chunk(cx)).await
}

/// The announced length; 400 if it is no number or there are several.
pub(super) fn content_length(request: &RequestHead) -> Result<Option<u64>, Problem> {
    let mut values = request.headers.get_all("content-length");
    let Some(value) = values.next() else { return Ok(None) };
    match (number(value), values.next()) {
        (Some(len), None) => Ok(Some(len)),
        _ => Err(Problem::new(400, "The length is no number.")),
    }
}

/// Digits alone.
pub(super) fn number(value: &[u8]) -> Option<u64> {
    let digits = str::from_utf8(value).ok()?;
    digits.bytes().all(|octet| octet.is_ascii_digit()).then(|| digits.parse().ok()).flatten()
}

/// Blocks.
fn write_all(file: &OwnedFd, chunks: &[Vec<u8>]) -> Result<(), Errno> {
    for chunk in chunks {
        let mut rest = chunk.as_slice();
        while !rest.is_empty() {
            match write(file, rest) {
                Ok(0) => return Err(Errno::IO),
                Ok(len) => rest = &rest[len..],
                Err(Errno::INTR) => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(())
}

pub(super) const TOO_LARGE: Problem =
    Problem::new(413, "The file is larger than this share takes.");
pub(super) const NO_LENGTH: Problem =
    Problem::new(411, "A body is missing; an empty one is announced by Content-Length: 0.");
pub(super) const TAKEN_OVER: Problem =
    Problem::new(409, "A newer request goes on with this upload.");
/// Octets that are collected for one write.
const BATCH: usize = 32 << 10;
/// Bytes after which what was written is put on the disk.
const SYNC: u64 = 8 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_numbers() {
        let length = |values: &[&str]| {
            let mut request = RequestHead::get("/");
            for value in values {
                request.headers.push("content-length", value.as_bytes()).unwrap();
            }
            content_length(&request).map_err(|problem| problem.status)
        };
        assert_eq!(length(&[]), Ok(None));
        assert_eq!(length(&["0"]), Ok(Some(0)));
        assert_eq!(length(&["18446744073709551615"]), Ok(Some(u64::MAX)));
        for bad in [&["+1"][..], &["-1"], &["1x"], &["18446744073709551616"], &["1", "1"]] {
            assert_eq!(length(bad), Err(400), "{bad:?}");
        }
    }
}
