//! The handle of one stream: what arrives is read, what is written goes into the output.

use std::{
    future::poll_fn,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use futures_lite::{AsyncRead, AsyncWrite};

use super::{FLUSH, Shared, Wakers, now};
use crate::{
    error::{StreamError, StreamFault},
    frame::Status,
    head::ResponseHead,
    session::Key,
};

/// One stream. Methods take `&self`: one task may read while another writes and a third watches.
/// Dropping it resets the stream (CANCEL) unless both directions are finished.
///
/// Every method is cancel safe: a future or poll that is given up has taken nothing.
#[derive(Debug)]
pub struct Stream {
    pub(super) shared: Arc<Shared>,
    pub(super) key: Key,
}

impl Stream {
    /// Id of the stream in its session.
    #[must_use]
    pub const fn id(&self) -> u32 {
        self.key.id.value()
    }

    /// Whether a request came with FIN on its head (server side): it has no body, which is not the
    /// same as an empty one.
    #[must_use]
    pub fn is_head_only(&self) -> bool {
        self.shared.lock().session.is_head_only(self.key)
    }

    /// Waits for the reply (client side), once.
    ///
    /// # Errors
    /// [`StreamError`]. A reply without a proper `:status` resets the stream (SPDY/3.1 3.2.2).
    pub async fn response(&self) -> Result<ResponseHead, StreamError> {
        let headers = poll_fn(|cx| {
            let mut state = self.shared.lock();
            let polled = state.session.take_head(self.key);
            if polled.is_pending() {
                state.wakers(self.key).read = Some(cx.waker().clone());
            }
            polled
        })
        .await?;
        ResponseHead::from_headers(headers).map_err(|_| {
            self.reset(Status::ProtocolError);
            StreamError::Violation(StreamFault::ReplyHead)
        })
    }

    /// Sends the reply (server side); `end`: no body follows.
    ///
    /// # Errors
    /// [`StreamError`]; [`StreamError::State`] for a head that cannot be carried.
    pub async fn reply(&self, head: &ResponseHead, end: bool) -> Result<(), StreamError> {
        let headers = head.to_headers().map_err(|_| StreamError::State)?;
        poll_fn(|cx| {
            let mut state = self.shared.lock();
            let polled = state.session.reply(self.key, &headers, end);
            state.parked(self.key, cx, polled)
        })
        .await
    }

    /// What has arrived, as it lies, in pieces of at most 64 KiB; `None` at the peer's FIN.
    ///
    /// # Errors
    /// [`StreamError`].
    pub fn poll_read_chunk(
        &self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Option<Vec<u8>>, StreamError>> {
        let mut state = self.shared.lock();
        let polled = state.session.take_chunk(self.key, now());
        state.read(self.key, cx, polled)
    }

    /// Room for one DATA frame of at most `max` octets: `fill` writes into it, in place, and counts.
    /// 0 or an error sends nothing and is handed back. With `end`, the frame carries FIN if `fill`
    /// wrote all of `max`. `fill` must not block.
    ///
    /// # Errors
    /// Those of `fill`, and [`StreamError`] as an [`io::Error`].
    pub fn poll_write_with<F>(
        &self,
        cx: &mut Context<'_>,
        max: usize,
        end: bool,
        fill: F,
    ) -> Poll<io::Result<usize>>
    where
        F: FnOnce(&mut [u8]) -> io::Result<usize>,
    {
        let mut state = self.shared.lock();
        if state.session.is_output_full() {
            self.shared.flush(&mut state);
        }
        let polled = state.session.write_with(self.key, max, end, fill);
        if end && state.session.output_len() >= FLUSH {
            // Small answers: the peer can begin with the first while we make the next.
            self.shared.flush(&mut state);
        }
        state.parked(self.key, cx, polled)
    }

    /// Copies octets in; otherwise as [`Stream::poll_write_with`].
    ///
    /// # Errors
    /// [`StreamError`].
    pub fn poll_write(
        &self,
        cx: &mut Context<'_>,
        octets: &[u8],
        end: bool,
    ) -> Poll<io::Result<usize>> {
        if octets.is_empty() {
            let finished = if end { ready!(self.poll_finish(cx)) } else { Ok(()) };
            return Poll::Ready(finished.map(|()| 0).map_err(Into::into));
        }
        self.poll_write_with(cx, octets.len(), end, |room| {
            room.copy_from_slice(&octets[..room.len()]);
            Ok(room.len())
        })
    }

    /// Sends FIN, unless it was sent.
    ///
    /// # Errors
    /// [`StreamError`].
    pub fn poll_finish(&self, cx: &mut Context<'_>) -> Poll<Result<(), StreamError>> {
        let mut state = self.shared.lock();
        let polled = state.session.finish(self.key);
        state.parked(self.key, cx, polled)
    }

    /// Ready when the stream has failed: reset by the peer, or its session ended.
    pub fn poll_failed(&self, cx: &mut Context<'_>) -> Poll<StreamError> {
        let mut state = self.shared.lock();
        if let Some(error) = state.session.failure(self.key) {
            return Poll::Ready(error);
        }
        state.wakers(self.key).watch = Some(cx.waker().clone());
        Poll::Pending
    }

    /// RST_STREAM now, unless the stream has ended.
    pub fn reset(&self, status: Status) {
        let mut state = self.shared.lock();
        state.session.reset(self.key, status);
        state.pump();
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        *state.wakers(self.key) = Wakers::default();
        state.session.release(self.key);
        state.pump();
        if state.session.counters().streams_now == 0 {
            state.streams = Vec::new();
        }
    }
}

impl AsyncRead for &Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let mut state = self.shared.lock();
        let polled = state.session.read(self.key, buf, now());
        state.read(self.key, cx, polled).map_err(Into::into)
    }
}

impl AsyncWrite for &Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Stream::poll_write(&self, cx, buf, false)
    }

    /// What is written is on its way already; there is nothing to flush.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    /// FIN.
    fn poll_close(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_finish(cx).map_err(Into::into)
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut &*self).poll_read(cx, buf)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Stream::poll_write(&self, cx, buf, false)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut &*self).poll_flush(cx)
    }

    fn poll_close(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut &*self).poll_close(cx)
    }
}
