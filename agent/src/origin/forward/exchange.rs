//! One exchange with a service: octets up and down, at the pace of the slower side.
//!
//! It owns nothing but what a read brought and what a socket has not taken: at most
//! [`head::HEAD_MAX`] of an answer's head, [`READ`] behind it, and one chunk of a request's body.
//! The rest waits in the stream's window and in the kernel. Bodies of known length go from the
//! socket into the output of the tunnel without a buffer of ours.

use std::{
    future::poll_fn,
    io::{self, Read as _},
    net::{Shutdown, TcpStream},
    pin::Pin,
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use async_io::{Async, Timer};
use futures_lite::{AsyncRead, AsyncWrite, FutureExt as _};
use spdy_protocol::{error::StreamError, head::RequestHead, head::ResponseHead, tunnel::Stream};

use super::{
    Failure,
    chunked::{Chunked, Step},
    head::{self, Incoming, Outgoing, Parsed},
    service::Service,
};

/// A request that was sent to a service, or is being sent.
#[derive(Debug)]
pub(super) struct Exchange<'e> {
    stream: &'e Stream,
    socket: Async<TcpStream>,
    upload: Option<Upload>,
    /// What was read from the socket and not used.
    held: Held,
    /// When the service last took something.
    since: Instant,
    /// Whether a write has met the service's RST: a socket tells of it only once, and reads end then
    /// as they do at FIN. Behind FIN it is another error (EPIPE).
    is_reset: bool,
}

impl<'e> Exchange<'e> {
    /// `head` goes out first, then what `outgoing` says; `chunk` was read of the stream before.
    pub(super) fn new(
        stream: &'e Stream,
        socket: Async<TcpStream>,
        mut head: Vec<u8>,
        outgoing: Outgoing,
        chunk: Option<Vec<u8>>,
    ) -> Result<Self, Failure> {
        let mut upload = Upload::new(match outgoing {
            // Another protocol begins behind the service's consent: see body().
            Outgoing::Upgrade(0) => Outgoing::Nothing,
            Outgoing::Upgrade(length) => Outgoing::Length(length),
            outgoing => outgoing,
        });
        if let Some(chunk) = chunk {
            upload.take(chunk)?;
        }
        head.append(&mut upload.out);
        upload.out = head;
        let (upload, held, since) = (Some(upload), Held::default(), Instant::now());
        Ok(Self { stream, socket, upload, held, since, is_reset: false })
    }

    /// Sends the request until the answer's head is here. `wait`: how long the service may neither
    /// take nor say anything before its first octet.
    pub(super) async fn answer(
        &mut self,
        service: &Service,
        request: &RequestHead,
        wait: Duration,
    ) -> Result<(ResponseHead, Incoming), Failure> {
        let mut timer = Some(Timer::after(wait));
        let mut interim = 0;
        poll_fn(|cx| {
            self.poll_upload(cx)?;
            loop {
                if self.held.octets().contains(&b'\n') {
                    match head::parse(service, request, self.held.octets())? {
                        Parsed::More => {}
                        Parsed::Interim(len) if interim < INTERIM_MAX => {
                            interim += 1;
                            self.held.skip(len);
                            continue;
                        }
                        Parsed::Interim(_) => {
                            return Poll::Ready(Err(Failure::Answer("it never comes to an end")));
                        }
                        Parsed::Final(len, head, incoming) => {
                            self.held.skip(len);
                            return Poll::Ready(Ok((head, incoming)));
                        }
                    }
                } else if self.held.octets().len() > head::HEAD_MAX {
                    return Poll::Ready(Err(Failure::Answer("its head is not HTTP/1")));
                }
                match self.held.poll_fill(&mut self.socket, cx) {
                    Poll::Ready(Ok(0)) => return Poll::Ready(Err(Failure::Closed)),
                    Poll::Ready(Ok(_)) => timer = None,
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(Failure::Broken(error))),
                    Poll::Pending => break,
                }
            }
            // A visitor who is slow is not the service's fault.
            let is_visitor = self.upload.as_ref().is_some_and(|upload| upload.is_waiting);
            while let Some(late) = &mut timer {
                ready!(late.poll(cx));
                let since = if is_visitor { Instant::now() } else { self.since };
                if since.elapsed() >= wait {
                    return Poll::Ready(Err(Failure::Silent));
                }
                late.set_at(since + wait);
            }
            Poll::Pending
        })
        .await
    }

    /// Passes the answer's body on, and what is left of the request's meanwhile. `sent` counts
    /// what went out, also on failure.
    pub(super) async fn body(&mut self, incoming: Incoming, sent: &mut u64) -> Result<(), Failure> {
        let mut down = Down { incoming, chunked: Chunked::default() };
        let mut is_down = false;
        if incoming == Incoming::Upgraded {
            // What is left of the body goes on as it is, and so does what follows.
            let upload = self.upload.get_or_insert_with(|| Upload::new(Outgoing::Nothing));
            upload.rest = Outgoing::Upgrade(0);
        }
        poll_fn(|cx| {
            self.poll_upload(cx)?;
            if !is_down && self.poll_down(&mut down, sent, cx)?.is_ready() {
                is_down = true;
            }
            // An answer that is complete ends the request; another protocol has two ends.
            let is_done = is_down && (incoming != Incoming::Upgraded || self.upload.is_none());
            if is_done { Poll::Ready(Ok(())) } else { Poll::Pending }
        })
        .await
    }

    /// Goes on with the request's body.
    fn poll_upload(&mut self, cx: &mut Context<'_>) -> Result<(), Failure> {
        let Some(upload) = &mut self.upload else { return Ok(()) };
        match upload.poll(self.stream, &mut self.socket, &mut self.since, cx) {
            Poll::Pending => return Ok(()),
            Poll::Ready(Ok(())) => {}
            // The service takes no more; it may have said why.
            Poll::Ready(Err(Failure::Broken(error))) => {
                self.is_reset = error.kind() == io::ErrorKind::ConnectionReset;
            }
            Poll::Ready(Err(failure)) => return Err(failure),
        }
        self.upload = None;
        Ok(())
    }

    fn poll_down(
        &mut self,
        down: &mut Down,
        sent: &mut u64,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Failure>> {
        loop {
            // Octets that may go on as they are, and whether they are the last.
            let (most, is_end) = match &mut down.incoming {
                Incoming::Nothing => return self.stream.poll_finish(cx).map_err(Failure::Visitor),
                Incoming::Closed | Incoming::Upgraded => (u64::MAX, false),
                Incoming::Length(left) => (*left, true),
                Incoming::Chunked => match down.chunked.step(self.held.octets()) {
                    Step::Data(left) => (left, false),
                    Step::Skip(len) => {
                        self.held.skip(len);
                        continue;
                    }
                    Step::More => match ready!(self.held.poll_fill(&mut self.socket, cx)) {
                        Ok(0) => return Poll::Ready(Err(Failure::Short)),
                        Ok(_) => continue,
                        Err(error) => return Poll::Ready(Err(Failure::Broken(error))),
                    },
                    Step::Done => {
                        down.incoming = Incoming::Nothing;
                        continue;
                    }
                    Step::Malformed => return Poll::Ready(Err(Failure::Answer("a bad chunk"))),
                },
            };
            let octets = match ready!(self.poll_move(most, is_end, cx))? {
                0 if self.is_reset => {
                    let error = io::ErrorKind::ConnectionReset.into();
                    return Poll::Ready(Err(Failure::Broken(error)));
                }
                0 if matches!(down.incoming, Incoming::Closed | Incoming::Upgraded) => {
                    down.incoming = Incoming::Nothing;
                    continue;
                }
                0 => return Poll::Ready(Err(Failure::Short)),
                octets => octets as u64,
            };
            *sent += octets;
            down.chunked.on_taken(octets);
            if let Incoming::Length(left) = &mut down.incoming {
                *left = left.saturating_sub(octets);
                if *left == 0 {
                    // FIN went with the last octet.
                    return Poll::Ready(Ok(()));
                }
            }
        }
    }

    /// Moves up to `most` octets on; `is_end`: with FIN if all of them went. 0 at the service's
    /// FIN.
    fn poll_move(
        &mut self,
        most: u64,
        is_end: bool,
        cx: &mut Context<'_>,
    ) -> Poll<Result<usize, Failure>> {
        let most = usize::try_from(most).unwrap_or(usize::MAX);
        let gone = |error: io::Error| Failure::Visitor(stream_error(&error));
        if !self.held.is_empty() {
            let octets = self.held.octets();
            let octets = &octets[..octets.len().min(most)];
            let is_end = is_end && octets.len() == most;
            let written = ready!(self.stream.poll_write(cx, octets, is_end)).map_err(gone)?;
            self.held.skip(written);
            return Poll::Ready(Ok(written));
        }
        loop {
            let mut read = None;
            let mut socket = self.socket.get_ref();
            let written = ready!(self.stream.poll_write_with(cx, most, is_end, |room| {
                let outcome = socket.read(room);
                read = Some(outcome.as_ref().map_err(io::Error::kind).copied());
                outcome
            }));
            match read {
                Some(Err(io::ErrorKind::WouldBlock)) => {
                    ready!(self.socket.poll_readable(cx)).map_err(Failure::Broken)?;
                }
                Some(Err(io::ErrorKind::Interrupted)) => {}
                Some(Err(kind)) => return Poll::Ready(Err(Failure::Broken(kind.into()))),
                Some(Ok(0)) => return Poll::Ready(Ok(0)),
                Some(Ok(_)) | None => return Poll::Ready(written.map_err(gone)),
            }
        }
    }
}

/// What is to come of an answer.
#[derive(Debug)]
struct Down {
    incoming: Incoming,
    chunked: Chunked,
}

/// A request on its way to the service.
#[derive(Debug)]
struct Upload {
    /// The head, or one chunk with its framing.
    out: Vec<u8>,
    /// Octets of it that the socket took.
    written: usize,
    /// What is to come of the stream.
    rest: Outgoing,
    /// Whether the visitor is waited for.
    is_waiting: bool,
}

impl Upload {
    const fn new(rest: Outgoing) -> Self {
        Self { out: Vec::new(), written: 0, rest, is_waiting: false }
    }

    /// Copies what it can. Ready when all of the request is with the kernel.
    fn poll(
        &mut self,
        stream: &Stream,
        socket: &mut Async<TcpStream>,
        since: &mut Instant,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Failure>> {
        loop {
            self.is_waiting = false;
            while self.written < self.out.len() {
                let octets = &self.out[self.written..];
                match ready!(Pin::new(&mut *socket).poll_write(cx, octets)) {
                    Ok(written) => self.written += written,
                    Err(error) => return Poll::Ready(Err(Failure::Broken(error))),
                }
                *since = Instant::now();
            }
            (self.out, self.written) = (Vec::new(), 0);
            if self.rest == Outgoing::Nothing {
                return Poll::Ready(Ok(()));
            }
            self.is_waiting = true;
            match ready!(stream.poll_read_chunk(cx)).map_err(Failure::Visitor)? {
                Some(chunk) => self.take(chunk)?,
                None => match self.rest {
                    Outgoing::Length(_) => {
                        return Poll::Ready(Err(Failure::Request("a body that is too short")));
                    }
                    Outgoing::Chunked => {
                        self.out = b"0\r\n\r\n".to_vec();
                        self.rest = Outgoing::Nothing;
                    }
                    Outgoing::Upgrade(_) | Outgoing::Nothing => {
                        // The service may have closed already, which is as good.
                        let _ = socket.get_ref().shutdown(Shutdown::Write);
                        return Poll::Ready(Ok(()));
                    }
                },
            }
            *since = Instant::now();
        }
    }

    /// The next of the stream's octets.
    fn take(&mut self, chunk: Vec<u8>) -> Result<(), Failure> {
        match &mut self.rest {
            _ if chunk.is_empty() => return Ok(()),
            Outgoing::Length(left) => {
                *left = left
                    .checked_sub(chunk.len() as u64)
                    .ok_or(Failure::Request("a body that is too long"))?;
                if *left == 0 {
                    self.rest = Outgoing::Nothing;
                }
            }
            Outgoing::Chunked => {
                self.out = format!("{:x}\r\n", chunk.len()).into_bytes();
                self.out.extend_from_slice(&chunk);
                self.out.extend_from_slice(b"\r\n");
                return Ok(());
            }
            Outgoing::Upgrade(_) => {}
            Outgoing::Nothing => return Err(Failure::Request("a body that was not announced")),
        }
        self.out = chunk;
        Ok(())
    }
}

/// Octets off the socket that were not used yet.
#[derive(Debug, Default)]
struct Held {
    octets: Vec<u8>,
    used: usize,
}

impl Held {
    fn octets(&self) -> &[u8] {
        &self.octets[self.used..]
    }

    fn is_empty(&self) -> bool {
        self.octets().is_empty()
    }

    fn skip(&mut self, len: usize) {
        self.used += len;
        if self.is_empty() {
            *self = Self::default();
        }
    }

    /// Reads some more behind what is held. 0 at the service's FIN.
    fn poll_fill(
        &mut self,
        socket: &mut Async<TcpStream>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        self.octets.drain(..std::mem::take(&mut self.used));
        let len = self.octets.len();
        self.octets.resize(len + READ, 0);
        let read = Pin::new(socket).poll_read(cx, &mut self.octets[len..]);
        let more = if let Poll::Ready(Ok(read)) = read { read } else { 0 };
        self.octets.truncate(len + more);
        if self.octets.is_empty() {
            // Nothing is held while nothing comes.
            self.octets = Vec::new();
        }
        read
    }
}

/// What the tunnel wrapped.
fn stream_error(error: &io::Error) -> StreamError {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<StreamError>());
    inner.copied().unwrap_or(StreamError::SessionEnded)
}

/// Octets of one read that is not for the tunnel as it is.
const READ: usize = 4_096;
/// Interim answers (1xx) of one exchange.
const INTERIM_MAX: usize = 16;
