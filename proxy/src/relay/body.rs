//! The body of a response as hyper takes it.
//!
//! It owns that a body which is not whole never looks whole: hyper cuts the connection when
//! `poll_frame` fails, which it does when the head and all that came of the body were written.
//! Chunks come out of the tunnel and go to the socket without a copy; what hyper does not take stays
//! in the stream's window.

use std::{
    fmt,
    pin::Pin,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll, Waker, ready},
};

use async_io::Timer;
use bytes::Bytes;
use futures_lite::future;
use http_body::{Frame, SizeHint};
use hyper::body::Incoming;
use spdy_protocol::{error::StreamError, tunnel::Stream};

use super::{
    Visit,
    splice::{Broken, Repeat, Splice},
    upload::{Upload, UploadError},
};
use crate::registry::Upstream;

/// A text of ours, or what a stream brings.
#[derive(Debug)]
pub(crate) struct Body {
    kind: Kind,
    visit: Rc<Visit>,
}

/// Why a body was cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cut {
    /// The agent sent fewer octets than it had announced.
    Short(u64),
    /// The agent sent more octets than it had announced.
    Long,
    /// The stream failed.
    Stream(StreamError),
    /// The tunnel was lost, and the response did not go on on another.
    Lost(Broken),
    /// The visitor's request body failed while the response was under way.
    Visitor,
}

/// What a body needs of its exchange.
#[derive(Debug)]
pub(super) struct Source {
    pub(super) stream: Stream,
    /// What it takes to go on on another tunnel, where that can be.
    pub(super) repeat: Option<Box<Repeat>>,
    pub(super) upload: Option<Upload<Incoming>>,
    /// Octets to come, where the head said.
    pub(super) length: Option<u64>,
    /// Whether the response can have a body at all.
    pub(super) is_empty: bool,
    pub(super) upstream: Arc<Upstream>,
    pub(super) request_id: String,
    /// Tick of the worker at which the request came.
    pub(super) begun: u32,
}

#[derive(Debug)]
enum Kind {
    Text(Bytes),
    Stream(Streamed),
}

#[derive(Debug)]
struct Streamed {
    /// `None` once FIN was read or the body was cut, and while a splice is looked for.
    stream: Option<Stream>,
    repeat: Option<Box<Repeat>>,
    splice: Option<Splice>,
    upload: Option<Upload<Incoming>>,
    left: Option<u64>,
    is_done: bool,
    /// Why the body ends early, once what came before it is on its way.
    cut: Option<Cut>,
    octets: u64,
    upstream: Arc<Upstream>,
    request_id: String,
    begun: u32,
}

impl fmt::Display for Cut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Short(left) => write!(f, "agent sent {left} octets less than announced"),
            Self::Long => f.write_str("agent sent more octets than announced"),
            Self::Stream(error) => error.fmt(f),
            Self::Lost(broken) => write!(f, "tunnel lost: {broken}"),
            Self::Visitor => f.write_str("visitor broke its request body off"),
        }
    }
}

impl std::error::Error for Cut {}

impl Body {
    /// A body that we have whole.
    pub(crate) fn text(text: impl Into<Bytes>, visit: &Rc<Visit>) -> Self {
        Self { kind: Kind::Text(text.into()), visit: Rc::clone(visit) }
    }

    /// A body that a stream brings.
    pub(super) fn stream(source: Source, visit: &Rc<Visit>) -> Self {
        let streamed = Streamed {
            stream: Some(source.stream),
            repeat: source.repeat,
            splice: None,
            upload: source.upload,
            left: source.length,
            is_done: source.is_empty || source.length == Some(0),
            cut: None,
            octets: 0,
            upstream: source.upstream,
            request_id: source.request_id,
            begun: source.begun,
        };
        Self { kind: Kind::Stream(streamed), visit: Rc::clone(visit) }
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = Cut;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Cut>>> {
        let this = self.get_mut();
        match &mut this.kind {
            Kind::Text(text) if text.is_empty() => Poll::Ready(None),
            Kind::Text(text) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(text))))),
            Kind::Stream(streamed) => {
                if streamed.cut.is_none() {
                    match ready!(streamed.poll_read(&this.visit, cx)) {
                        Ok(chunk) => return Poll::Ready(chunk.map(|chunk| Ok(Frame::data(chunk)))),
                        Err(cut) => streamed.cut(cut, &this.visit),
                    }
                    // hyper drops what it has not written, the head too, at our error. It flushes
                    // when a body has nothing more for now, and asks again afterwards.
                    this.visit.watch.await_flush();
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
                match streamed.cut {
                    Some(cut) if this.visit.watch.is_flushed() => Poll::Ready(Some(Err(cut))),
                    _ => Poll::Pending,
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Text(text) => text.is_empty(),
            Kind::Stream(streamed) => streamed.is_done,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Text(text) => SizeHint::with_exact(text.len() as u64),
            Kind::Stream(streamed) => streamed.left.map(SizeHint::with_exact).unwrap_or_default(),
        }
    }
}

impl Drop for Body {
    fn drop(&mut self) {
        self.visit.watch.end_exchange();
        if let Kind::Stream(streamed) = &mut self.kind
            && streamed.is_done
            && let Some(stream) = streamed.stream.take()
        {
            settle(stream, &self.visit);
        }
        // Otherwise the visitor has gone, or the body was cut: dropping the stream resets it.
    }
}

impl Streamed {
    fn poll_read(
        &mut self,
        visit: &Rc<Visit>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Option<Bytes>, Cut>> {
        loop {
            if let Some(splice) = &mut self.splice {
                let spliced = ready!(splice.poll(cx)).map_err(Cut::Lost)?;
                self.splice = None;
                self.stream = Some(spliced.stream);
                self.repeat = Some(spliced.repeat);
                self.upstream = spliced.upstream;
            }
            match ready!(self.poll_stream(visit, cx)) {
                Err(Cut::Stream(StreamError::SessionEnded)) if self.repeat.is_some() => {
                    self.stream = None;
                    let repeat = self.repeat.take();
                    let splice = |repeat| Splice::new(Rc::clone(visit), repeat, self.octets);
                    self.splice = repeat.map(splice);
                }
                read => return Poll::Ready(read),
            }
        }
    }

    fn poll_stream(
        &mut self,
        visit: &Visit,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Option<Bytes>, Cut>> {
        let Some(stream) = self.stream.as_ref().filter(|_| !self.is_done) else {
            return Poll::Ready(Ok(None));
        };
        if let Some(upload) = &mut self.upload {
            match upload.poll(stream, &visit.watch, cx) {
                Poll::Pending => {}
                // If the stream failed, reading it says why.
                Poll::Ready(Ok(()) | Err(UploadError::Stream(_))) => self.upload = None,
                Poll::Ready(Err(UploadError::Visitor)) => return Poll::Ready(Err(Cut::Visitor)),
            }
        }
        loop {
            let Some(chunk) = ready!(stream.poll_read_chunk(cx)).map_err(Cut::Stream)? else {
                self.is_done = true;
                return Poll::Ready(match self.left {
                    None | Some(0) => Ok(None),
                    Some(left) => Err(Cut::Short(left)),
                });
            };
            if chunk.is_empty() {
                continue;
            }
            let octets = chunk.len() as u64;
            self.octets += octets;
            if let Some(left) = &mut self.left {
                *left = left.checked_sub(octets).ok_or(Cut::Long)?;
                self.is_done = *left == 0;
            }
            return Poll::Ready(Ok(Some(Bytes::from(chunk))));
        }
    }

    fn cut(&mut self, cut: Cut, visit: &Visit) {
        self.cut = Some(cut);
        self.stream = None;
        self.splice = None;
        self.upload = None;
        if cut == Cut::Visitor {
            return;
        }
        self.upstream.totals.count_failed();
        visit.shared().registry.totals.count_failed();
        visit.shared().settings.log.warn(format_args!(
            "exchange=cut origin={} tunnel={} id={} octets={} seconds={} cause={:?}",
            self.upstream.origin,
            self.upstream.id,
            self.request_id,
            self.octets,
            visit.seconds_since(self.begun),
            cut.to_string(),
        ));
    }
}

/// Lets a stream whose response is complete end by its FIN and not by our RST. Where FIN came
/// with the last octets, as our own agents send it, that is at once.
fn settle(stream: Stream, visit: &Visit) {
    let poll = |cx: &mut Context<'_>| stream.poll_read_chunk(cx).map(|_| ());
    if poll(&mut Context::from_waker(Waker::noop())).is_ready() {
        return;
    }
    let limit = visit.shared().settings.timings.handshake;
    visit.worker.spawn(async move {
        // Octets after the announced length are the agent's fault: one read ends it either way.
        let fin = future::poll_fn(|cx| stream.poll_read_chunk(cx).map(|_| ()));
        future::or(fin, async {
            Timer::after(limit).await;
        })
        .await;
    });
}
