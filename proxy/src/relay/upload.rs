//! A request body on its way into a stream, and what of it could be sent once more.
//!
//! It sends one chunk at a time: the next one is asked for when the stream took the last, so that
//! a slow agent slows its client down. Until the response begins, the first bytes are kept as well
//! ([`crate::replay`]), for a request that its agent refused.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes};
use http_body::Body;
use spdy_protocol::{error::StreamError, tunnel::Stream};

use super::failure::Failure;
use crate::{
    replay::{ReplayBudget, ReplayBuffer},
    watch::Watch,
};

/// What was read of a request body.
///
/// ```text
/// Absent
/// Untouched --chunk--> Partial(Held) --end--> Complete(Held)
///     |                    | chunk that is too much
///     |                    v
///     |                Partial(Lost) --end--> Complete(Lost)
///     +--end--> Complete(Held), of no bytes
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// The request has no body.
    Absent,
    /// Nothing was read yet.
    Untouched,
    /// Something was read, and more is to come.
    Partial(Kept),
    /// All of it was read.
    Complete(Kept),
}

/// What is left of the part of a body that was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kept {
    /// All of it is in the replay buffer.
    Held,
    /// Some of it is only where it was sent.
    Lost,
}

/// Copies a body. It asks for `100 (Continue)` by its first poll, as hyper has it.
#[derive(Debug)]
pub(super) struct Upload<B> {
    body: B,
    read: Read,
    replay: ReplayBuffer,
    /// What was read, or is sent once more, and was not sent yet.
    chunk: Bytes,
    /// Whether all of it was sent, and FIN with it if `ends_stream`.
    is_sent: bool,
    /// Whether nothing follows the body in its stream.
    ends_stream: bool,
}

/// Why an upload ended early.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum UploadError {
    /// The client's side failed: the stream must not look finished.
    Visitor,
    /// The stream failed; its response tells why.
    Stream(StreamError),
}

/// How far a body was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Read {
    Absent,
    Untouched,
    Partial,
    Complete,
}

/// Whether a request may be sent to another tunnel after `failure`. `is_safe`: the agent may carry
/// it out twice and answers it in the same way twice.
///
/// What was refused was not begun, so that only its body could be missing. What was lost may have
/// been carried out.
pub(super) fn may_repeat(failure: &Failure, body: Progress, is_safe: bool) -> bool {
    match failure {
        Failure::Refused => body.is_repeatable(),
        Failure::Lost => is_safe && body == Progress::Absent,
        _ => false,
    }
}

impl Progress {
    /// Whether the body can be sent once more from its first byte.
    const fn is_repeatable(self) -> bool {
        match self {
            Self::Absent | Self::Untouched | Self::Partial(Kept::Held) => true,
            Self::Complete(Kept::Held) => true,
            Self::Partial(Kept::Lost) | Self::Complete(Kept::Lost) => false,
        }
    }

    /// Whether the client may still be sending the body.
    pub(super) const fn is_unread(self) -> bool {
        matches!(self, Self::Untouched | Self::Partial(_))
    }
}

impl<B: Body<Data = Bytes> + Unpin> Upload<B> {
    /// The body of one request; what is kept of it is charged to `budget`.
    pub(super) fn new(body: B, budget: Arc<ReplayBudget>) -> Self {
        let is_absent = body.is_end_stream();
        Self {
            body,
            read: if is_absent { Read::Absent } else { Read::Untouched },
            replay: ReplayBuffer::new(budget),
            chunk: Bytes::new(),
            is_sent: is_absent,
            ends_stream: true,
        }
    }

    /// What was read.
    pub(super) const fn progress(&self) -> Progress {
        let kept = if self.replay.is_complete() { Kept::Held } else { Kept::Lost };
        match self.read {
            Read::Absent => Progress::Absent,
            Read::Untouched => Progress::Untouched,
            Read::Partial => Progress::Partial(kept),
            Read::Complete => Progress::Complete(kept),
        }
    }

    /// Whether nothing is left to send.
    pub(super) const fn is_sent(&self) -> bool {
        self.is_sent
    }

    /// Begins from the first byte, in a new stream, which ends with the body if `ends_stream`.
    /// Only while [`may_repeat`] allows it; otherwise the stream gets a body without its start.
    pub(super) fn start(&mut self, ends_stream: bool) {
        self.ends_stream = ends_stream;
        self.is_sent = self.read == Read::Absent;
        self.chunk = Bytes::copy_from_slice(self.replay.bytes());
    }

    /// The stream ends with the body after all.
    pub(super) const fn ends_stream(&mut self) {
        self.ends_stream = true;
    }

    /// The response has begun: the body is not sent once more.
    pub(super) fn commit(&mut self) {
        self.replay.discard();
    }

    /// Copies what it can. Ready when all of it was sent.
    pub(super) fn poll(
        &mut self,
        stream: &Stream,
        watch: &Watch,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), UploadError>> {
        while !self.is_sent {
            let is_last = self.read == Read::Complete;
            if !self.chunk.is_empty() {
                let end = is_last && self.ends_stream;
                let Poll::Ready(written) = stream.poll_write(cx, &self.chunk, end) else {
                    watch.waits_for_agent();
                    return Poll::Pending;
                };
                watch.heard_agent();
                self.chunk.advance(written.map_err(stream_error)?);
                self.is_sent = is_last && self.chunk.is_empty();
            } else if is_last {
                if self.ends_stream {
                    ready!(stream.poll_finish(cx)).map_err(UploadError::Stream)?;
                }
                self.is_sent = true;
            } else {
                let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
                self.take(frame)?;
            }
        }
        Poll::Ready(Ok(()))
    }

    fn take<E>(
        &mut self,
        frame: Option<Result<http_body::Frame<Bytes>, E>>,
    ) -> Result<(), UploadError> {
        match frame {
            None => self.read = Read::Complete,
            Some(Err(_)) => return Err(UploadError::Visitor),
            // Trailers are dropped: no header frame ever follows a body in a tunnel.
            Some(Ok(frame)) => {
                self.read = Read::Partial;
                if let Ok(chunk) = frame.into_data() {
                    self.replay.push(&chunk);
                    self.chunk = chunk;
                    if self.body.is_end_stream() {
                        self.read = Read::Complete;
                    }
                }
            }
        }
        Ok(())
    }
}

/// What the tunnel wrapped.
fn stream_error(error: io::Error) -> UploadError {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<StreamError>());
    UploadError::Stream(inner.copied().unwrap_or(StreamError::SessionEnded))
}

#[cfg(test)]
mod tests {
    use std::{collections::VecDeque, convert::Infallible};

    use http_body::Frame;

    use super::*;
    use crate::replay::REPLAY_MAX;

    /// A body of these chunks.
    #[derive(Debug)]
    struct Chunks(VecDeque<Bytes>);

    impl Body for Chunks {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            Poll::Ready(self.0.pop_front().map(|chunk| Ok(Frame::data(chunk))))
        }
    }

    fn upload(chunks: &[usize], limit: usize) -> Upload<Chunks> {
        let chunks = chunks.iter().map(|len| Bytes::from(vec![7; *len])).collect();
        Upload::new(Chunks(chunks), Arc::new(ReplayBudget::new(limit)))
    }

    /// Takes one chunk, or the end.
    fn read(upload: &mut Upload<Chunks>) -> Progress {
        let frame = upload.body.0.pop_front().map(|chunk| Ok::<_, Infallible>(Frame::data(chunk)));
        upload.take(frame).unwrap();
        upload.progress()
    }

    #[test]
    fn progress_goes_as_drawn() {
        use Kept::{Held, Lost};
        use Progress::{Complete, Partial, Untouched};
        let table: [(&[usize], usize, &[Progress]); 5] = [
            (&[], usize::MAX, &[Complete(Held)]),
            (&[5, 5], usize::MAX, &[Partial(Held), Partial(Held), Complete(Held)]),
            (&[REPLAY_MAX], usize::MAX, &[Partial(Held), Complete(Held)]),
            (&[REPLAY_MAX, 1, 1], usize::MAX, &[Partial(Held), Partial(Lost), Partial(Lost)]),
            (&[5], 0, &[Partial(Lost), Complete(Lost)]),
        ];
        for (chunks, limit, expected) in table {
            let mut upload = upload(chunks, limit);
            assert_eq!(upload.progress(), Untouched);
            let seen: Vec<_> = expected.iter().map(|_| read(&mut upload)).collect();
            assert_eq!(seen, expected, "{chunks:?}");
        }
    }

    #[test]
    fn start_begins_with_all_that_was_read() {
        let mut upload = upload(&[3, 4], usize::MAX);
        upload.start(true);
        assert!(upload.chunk.is_empty() && !upload.is_sent());
        read(&mut upload);
        upload.chunk.advance(2);
        read(&mut upload);
        upload.start(true);
        assert_eq!(upload.chunk.len(), 7);
        read(&mut upload);
        (upload.is_sent, upload.chunk) = (true, Bytes::new());
        upload.start(true);
        assert_eq!((upload.chunk.len(), upload.is_sent()), (7, false));
        upload.commit();
        assert_eq!(upload.progress(), Progress::Complete(Kept::Lost));
    }

    #[test]
    fn request_is_repeated_only_if_nothing_of_it_can_be_missing_or_done_twice() {
        use Kept::{Held, Lost};
        let bodies = [
            (Progress::Absent, true),
            (Progress::Untouched, true),
            (Progress::Partial(Held), true),
            (Progress::Partial(Lost), false),
            (Progress::Complete(Held), true),
            (Progress::Complete(Lost), false),
        ];
        for (body, can) in bodies {
            for is_safe in [false, true] {
                assert_eq!(may_repeat(&Failure::Refused, body, is_safe), can, "{body:?}");
                let asks_again = is_safe && body == Progress::Absent;
                assert_eq!(may_repeat(&Failure::Lost, body, is_safe), asks_again, "{body:?}");
                for failure in [
                    Failure::Visitor,
                    Failure::Reset,
                    Failure::Silent,
                    Failure::Stalled,
                    Failure::Violation(""),
                    Failure::Busy,
                    Failure::Away(None),
                ] {
                    assert!(!may_repeat(&failure, body, is_safe), "{failure:?} {body:?}");
                }
            }
        }
    }
}
