//! A request body on its way into a stream.
//!
//! It holds one chunk at a time: the next one is asked for when the stream took the last, so that
//! a slow agent slows its visitor down and nothing is kept whole.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes};
use http_body::Body;
use spdy_protocol::{error::StreamError, tunnel::Stream};

use crate::watch::Watch;

/// Copies a body. It asks for `100 (Continue)` by its first poll, as hyper has it.
#[derive(Debug)]
pub(super) struct Upload<B> {
    body: B,
    chunk: Bytes,
    /// Whether `chunk` is the last.
    is_last: bool,
    /// Whether anything was taken from the visitor.
    is_begun: bool,
}

/// Why an upload ended early.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum UploadError {
    /// The visitor's side failed: the stream must not look finished.
    Visitor,
    /// The stream failed; its response tells why.
    Stream(StreamError),
}

impl<B: Body<Data = Bytes> + Unpin> Upload<B> {
    /// `None` when the body is empty: FIN goes with the head.
    pub(super) fn new(body: B) -> Option<Self> {
        let is_empty = body.is_end_stream();
        (!is_empty).then(|| Self { body, chunk: Bytes::new(), is_last: false, is_begun: false })
    }

    /// Whether nothing of the body was read: the request can go elsewhere.
    pub(super) const fn is_untouched(&self) -> bool {
        !self.is_begun
    }

    /// Copies what it can. Ready when FIN was sent.
    pub(super) fn poll(
        &mut self,
        stream: &Stream,
        watch: &Watch,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), UploadError>> {
        loop {
            if !self.chunk.is_empty() {
                let Poll::Ready(written) = stream.poll_write(cx, &self.chunk, self.is_last) else {
                    watch.waits_for_agent();
                    return Poll::Pending;
                };
                watch.heard_agent();
                self.chunk.advance(written.map_err(stream_error)?);
                if self.chunk.is_empty() && self.is_last {
                    return Poll::Ready(Ok(()));
                }
            } else if self.is_last {
                return stream.poll_finish(cx).map_err(UploadError::Stream);
            } else {
                let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
                self.is_begun = true;
                self.read(frame)?;
            }
        }
    }

    fn read<E>(
        &mut self,
        frame: Option<Result<http_body::Frame<Bytes>, E>>,
    ) -> Result<(), UploadError> {
        match frame {
            None => self.is_last = true,
            Some(Err(_)) => return Err(UploadError::Visitor),
            // Trailers are dropped: no header frame ever follows a body in a tunnel.
            Some(Ok(frame)) => {
                if let Ok(chunk) = frame.into_data() {
                    self.chunk = chunk;
                    self.is_last = self.body.is_end_stream();
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
