//! The driver: one session over any `AsyncRead + AsyncWrite`, and the handles of its streams.
//!
//! It owns every waker, the only clock and the receive buffer. It does not know TCP, TLS or HTTP,
//! and it spawns nothing: whoever starts a tunnel polls its [`Driver`].
//!
//! ```text
//! Stream --poll_write_with--> Session (output) --poll_transmit--> Driver --> io
//! Stream <--poll_read_chunk-- Session (inbox)  <----receive------ Driver <-- io
//! ```

use std::{
    cell::Cell,
    future::{Future, poll_fn},
    io,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake, Waker, ready},
    time::{Duration, Instant},
};

use async_io::Timer;
use futures_lite::{AsyncRead, AsyncWrite, FutureExt};

use crate::{
    error::{Error, StreamError, StreamFault},
    frame::{Reason, Status},
    head::{RequestHead, ResponseHead},
    headers::Headers,
    session::{Config, Counters, Event, Key, OpenRefused, Profile, Session},
};

/// Why a stream could not be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenError {
    /// No slot or budget came free in time: 503 with Retry-After.
    Busy,
    /// The session ended or drains: take another tunnel.
    Closed,
    /// The head cannot be carried, or is too large for the peer: 431.
    Head,
}

impl std::fmt::Display for OpenError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Busy => "no stream came free in time",
            Self::Closed => "tunnel is closing",
            Self::Head => "request head cannot be carried",
        })
    }
}

impl std::error::Error for OpenError {}

/// Starts a session over `io`; `received` came behind the handshake and belongs to it.
#[must_use]
pub fn tunnel<I>(io: I, config: Config, received: Vec<u8>) -> (Tunnel, Incoming, Driver)
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let open_wait = config.timings.open_wait;
    let grace = config.timings.ping_answer;
    let shared = Arc::new(Shared {
        open_wait,
        state: Mutex::new(State {
            session: Session::new(config, now()),
            driver: None,
            acceptor: None,
            openers: Vec::new(),
            streams: Vec::new(),
            unflushed: false,
            flushes: 0,
            broken: None,
        }),
        io: Mutex::new(Some(Box::new(io))),
    });
    let reading = Arc::new(Reading { ready: AtomicBool::new(true), driver: Mutex::new(None) });
    let driver = Driver {
        shared: Arc::clone(&shared),
        received,
        read_waker: Waker::from(Arc::clone(&reading)),
        reading,
        timer: Timer::never(),
        armed: None,
        ending: false,
        grace,
    };
    (Tunnel { shared: Arc::clone(&shared) }, Incoming { shared }, driver)
}

/// Handle of a tunnel: opens streams, watches it, ends it. Clones share the tunnel.
#[derive(Clone, Debug)]
pub struct Tunnel {
    shared: Arc<Shared>,
}

impl Tunnel {
    /// Opens a stream; `end`: no body follows. Waits for a slot or budget for as long as
    /// [`crate::limits::Timings::open_wait`]. Cancel safe.
    ///
    /// # Errors
    /// [`OpenError`]; nothing was sent then.
    pub async fn open(
        &self,
        head: &RequestHead,
        priority: u8,
        end: bool,
    ) -> Result<Stream, OpenError> {
        let headers = head.to_headers().map_err(|_| OpenError::Head)?;
        if let Some(done) = self.try_open(&headers, priority, end, None) {
            return done;
        }
        let deadline = now() + self.shared.open_wait;
        loop {
            // Budget that another tunnel gives back is not announced here: look again by time too.
            let next = deadline.min(now() + Duration::from_millis(200));
            let again = async {
                Timer::at(next).await;
                None
            };
            let room = poll_fn(|cx| {
                self.try_open(&headers, priority, end, Some(cx))
                    .map_or(Poll::Pending, |done| Poll::Ready(Some(done)))
            });
            match room.or(again).await {
                Some(done) => return done,
                None if now() >= deadline => return Err(OpenError::Busy),
                None => {}
            }
        }
    }

    fn try_open(
        &self,
        headers: &Headers,
        priority: u8,
        end: bool,
        cx: Option<&mut Context<'_>>,
    ) -> Option<Result<Stream, OpenError>> {
        let mut state = self.shared.lock();
        match state.session.open(headers, priority, end, now()) {
            Ok(key) => {
                state.pump();
                Some(Ok(Stream { shared: Arc::clone(&self.shared), key }))
            }
            Err(OpenRefused::Closed) => Some(Err(OpenError::Closed)),
            Err(OpenRefused::TooLarge) => Some(Err(OpenError::Head)),
            Err(OpenRefused::Wait) => {
                if let Some(cx) = cx {
                    state.openers.push(cx.waker().clone());
                }
                // Somebody may have been cut to make room.
                state.pump_without_driver();
                None
            }
        }
    }

    /// GOAWAY: nothing new is opened, running streams finish, then the driver ends.
    pub fn drain(&self) {
        let mut state = self.shared.lock();
        state.session.drain();
        state.pump();
    }

    /// GOAWAY with a reason; every stream fails and the driver ends.
    pub fn close(&self, reason: Reason) {
        let mut state = self.shared.lock();
        state.session.close(reason);
        state.pump();
    }

    /// Whether streams can still be opened.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.shared.lock().session.is_open()
    }

    /// What the session has counted.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.shared.lock().session.counters()
    }

    /// How the peer behaves, as far as it has shown.
    #[must_use]
    pub fn profile(&self) -> Profile {
        self.shared.lock().session.profile()
    }
}

/// Streams that the peer opens, in order.
#[derive(Debug)]
pub struct Incoming {
    shared: Arc<Shared>,
}

impl Incoming {
    /// The next stream; `None` when the session has ended. A malformed head is answered with 400
    /// (SPDY/3.1 3.2.1) and not seen here. Cancel safe.
    pub async fn accept(&mut self) -> Option<(RequestHead, Stream)> {
        poll_fn(|cx| self.poll_accept(cx)).await
    }

    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<Option<(RequestHead, Stream)>> {
        let mut state = self.shared.lock();
        while let Some((key, headers)) = state.session.accept() {
            if let Ok(head) = RequestHead::from_headers(headers) {
                return Poll::Ready(Some((head, Stream { shared: Arc::clone(&self.shared), key })));
            }
            if let Ok(refusal) = ResponseHead::new(400).to_headers() {
                // Where even that finds no room, the release below resets the stream.
                let _ = state.session.reply(key, &refusal, true);
            }
            state.session.release(key);
            state.pump();
        }
        if state.session.is_closed() {
            return Poll::Ready(None);
        }
        state.acceptor = Some(cx.waker().clone());
        Poll::Pending
    }
}

/// Moves the octets of one tunnel. It must be polled until it ends; dropping it ends the session
/// as if the transport had failed.
#[derive(Debug)]
pub struct Driver {
    shared: Arc<Shared>,
    /// Octets that came behind the handshake.
    received: Vec<u8>,
    /// What the transport wakes when there is something to read.
    reading: Arc<Reading>,
    read_waker: Waker,
    timer: Timer,
    armed: Option<Instant>,
    /// The session ended and the time for its last frames runs.
    ending: bool,
    /// Time for the last frames of an ended session.
    grace: Duration,
}

/// Whether the transport may have something to read: the driver is woken for many reasons, and a
/// read that finds nothing costs a system call.
#[derive(Debug)]
struct Reading {
    ready: AtomicBool,
    driver: Mutex<Option<Waker>>,
}

impl Wake for Reading {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.ready.store(true, Ordering::Release);
        let driver = self.driver.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(driver) = driver {
            driver.wake();
        }
    }
}

/// Octets that one poll of the driver reads at most; what it brings a stream is handed on as one
/// piece.
const RECEIVE: usize = 65_536;

thread_local! {
    /// The receive buffer of this thread's drivers: an idle tunnel holds none.
    static BUFFER: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

impl Future for Driver {
    /// `Ok`: the session ended by agreement.
    type Output = Result<(), Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        this.keep_waker(cx);
        let more = this.reading.ready.swap(false, Ordering::AcqRel) && this.poll_receive();
        this.poll_transmit(cx);
        if this.shared.lock().session.is_closed() {
            return this.poll_end(cx);
        }
        this.poll_timer(cx);
        if this.shared.lock().session.is_closed() {
            return this.poll_end(cx);
        }
        if more {
            // Let the streams have what was read before more is.
            this.reading.ready.store(true, Ordering::Release);
            cx.waker().wake_by_ref();
        }
        Poll::Pending
    }
}

impl Driver {
    fn keep_waker(&self, cx: &Context<'_>) {
        let mut state = self.shared.lock();
        state.flushes = 0;
        if state.driver.as_ref().is_some_and(|driver| driver.will_wake(cx.waker())) {
            return;
        }
        state.driver = Some(cx.waker().clone());
        drop(state);
        let mut driver = self.reading.driver.lock().unwrap_or_else(PoisonError::into_inner);
        *driver = Some(cx.waker().clone());
    }

    /// Reads what there is, up to one buffer; true if there may be more.
    fn poll_receive(&mut self) -> bool {
        if !self.received.is_empty() {
            let received = std::mem::take(&mut self.received);
            self.receive(&received);
        }
        let mut buffer = BUFFER.take();
        buffer.resize(RECEIVE, 0);
        let (filled, ended) = self.fill(&mut buffer);
        self.receive(&buffer[..filled]);
        let more = filled == buffer.len() && ended.is_none();
        BUFFER.set(buffer);
        if let Some(kind) = ended {
            let mut state = self.shared.lock();
            state.transport_ended(kind);
            state.pump_without_driver();
        }
        more
    }

    /// Octets that were read, and how the transport ended if it did.
    fn fill(&self, buffer: &mut [u8]) -> (usize, Option<io::ErrorKind>) {
        let mut io = self.shared.lock_io();
        let Some(io) = io.as_mut() else { return (0, Some(io::ErrorKind::NotConnected)) };
        let mut cx = Context::from_waker(&self.read_waker);
        let mut filled = 0;
        while filled < buffer.len() {
            match Pin::new(&mut **io).poll_read(&mut cx, &mut buffer[filled..]) {
                Poll::Ready(Ok(0)) => return (filled, Some(io::ErrorKind::UnexpectedEof)),
                Poll::Ready(Ok(count)) => filled += count,
                Poll::Ready(Err(error)) => return (filled, Some(error.kind())),
                Poll::Pending => break,
            }
        }
        (filled, None)
    }

    fn receive(&self, octets: &[u8]) {
        if !octets.is_empty() {
            let mut state = self.shared.lock();
            // The session keeps its error; poll_end() hands it on.
            let _ = state.session.receive(octets, now());
            state.pump_without_driver();
        }
    }

    /// Writes until there is nothing left or the transport takes no more.
    fn poll_transmit(&self, cx: &mut Context<'_>) {
        let mut state = self.shared.lock();
        if let Some(io) = self.shared.lock_io().as_mut() {
            state.transmit(io, cx);
        }
        state.pump_without_driver();
    }

    fn poll_timer(&mut self, cx: &mut Context<'_>) {
        loop {
            let Some(deadline) = self.shared.lock().session.poll_timeout() else { return };
            // Deadlines mostly move on: the timer stays as it is unless it would fire too late.
            if self.armed.is_none_or(|armed| deadline < armed) {
                self.timer.set_at(deadline);
                self.armed = Some(deadline);
            }
            if Pin::new(&mut self.timer).poll(cx).is_pending() {
                return;
            }
            self.armed = None;
            {
                let mut state = self.shared.lock();
                state.session.handle_timeout(now());
                state.pump_without_driver();
            }
            self.poll_transmit(cx);
        }
    }

    /// The session has ended: its last frames go out, then the transport is closed. Both have
    /// `grace`, no more.
    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        let (error, waits, broken) = {
            let state = self.shared.lock();
            let waits = state.session.wants_transmit();
            (state.session.error().cloned(), waits, state.broken.is_some())
        };
        let result = error.map_or(Ok(()), Err);
        // There is nobody to say goodbye to behind a dead transport.
        if !broken && result != Err(Error::Silent) {
            if !std::mem::replace(&mut self.ending, true) {
                self.timer.set_after(self.grace);
            }
            let closed = !waits && self.poll_close(cx).is_ready();
            if !closed && Pin::new(&mut self.timer).poll(cx).is_pending() {
                return Poll::Pending;
            }
        }
        Poll::Ready(result)
    }

    /// Ends our direction and waits for the end of the peer's: closing a socket with something
    /// unread resets it, which can overtake and destroy our last frames.
    fn poll_close(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut io = self.shared.lock_io();
        let Some(io) = io.as_mut() else { return Poll::Ready(()) };
        if ready!(Pin::new(&mut **io).poll_close(cx)).is_err() {
            return Poll::Ready(());
        }
        let mut unread = [0; 1_024];
        while let Ok(1..) = ready!(Pin::new(&mut **io).poll_read(cx, &mut unread)) {}
        Poll::Ready(())
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.session.transport_ended(io::ErrorKind::ConnectionAborted);
        state.driver = None;
        state.pump();
        drop(state);
        // Handles may live on; the connection does not.
        *self.shared.lock_io() = None;
    }
}

/// One stream. Methods take `&self`: one task may read while another writes and a third watches.
/// Dropping it resets the stream (CANCEL) unless both directions are finished.
///
/// Every method is cancel safe: a future or poll that is given up has taken nothing.
#[derive(Debug)]
pub struct Stream {
    shared: Arc<Shared>,
    key: Key,
}

impl Stream {
    /// Id of the stream in its session.
    #[must_use]
    pub const fn id(&self) -> u32 {
        self.key.id.value()
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

/// What a tunnel runs over.
trait Transport: AsyncRead + AsyncWrite + Unpin + Send {}

impl<I: AsyncRead + AsyncWrite + Unpin + Send> Transport for I {}

/// What the driver and the handles of one tunnel share. Where both locks are held, `state` was
/// taken first.
struct Shared {
    open_wait: Duration,
    state: Mutex<State>,
    /// `None` after the driver.
    io: Mutex<Option<Box<dyn Transport>>>,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("state", &self.state).finish_non_exhaustive()
    }
}

/// Octets of output from which on a finished answer is written at once, and not by the driver
/// behind all other tasks.
const FLUSH: usize = 16_384;
/// Writes between two polls of the driver that streams do themselves: it must read, too.
const FLUSHES: u32 = 4;

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic elsewhere is a bug that was reported there; the session itself stays sound.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_io(&self) -> MutexGuard<'_, Option<Box<dyn Transport>>> {
        self.io.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes on the spot what a stream has filled the output with, which saves the way through
    /// the driver; that goes on where this leaves off.
    fn flush(&self, state: &mut State) {
        let Some(driver) = state.driver.clone().filter(|_| state.flushes < FLUSHES) else { return };
        // Busy: the driver of another thread reads.
        let Ok(mut io) = self.io.try_lock() else { return };
        if let Some(io) = io.as_mut() {
            state.flushes += 1;
            state.transmit(io, &mut Context::from_waker(&driver));
        }
    }
}

#[derive(Debug)]
struct State {
    session: Session,
    driver: Option<Waker>,
    acceptor: Option<Waker>,
    openers: Vec<Waker>,
    /// By slot of the session's table.
    streams: Vec<Wakers>,
    /// The transport may hold octets that it has not passed on.
    unflushed: bool,
    /// Writes of streams since the driver was polled.
    flushes: u32,
    /// The transport is dead.
    broken: Option<io::ErrorKind>,
}

/// Who waits for a stream.
#[derive(Debug, Default)]
struct Wakers {
    read: Option<Waker>,
    write: Option<Waker>,
    watch: Option<Waker>,
}

impl State {
    fn transport_ended(&mut self, kind: io::ErrorKind) {
        self.broken = Some(kind);
        self.session.transport_ended(kind);
    }

    /// Writes until there is nothing left or the transport takes no more; `cx` is the driver's.
    fn transmit(&mut self, io: &mut Box<dyn Transport>, cx: &mut Context<'_>) {
        let mut failed = None;
        loop {
            let octets = self.session.poll_transmit(now());
            if octets.is_empty() {
                break;
            }
            match Pin::new(&mut **io).poll_write(cx, octets) {
                Poll::Ready(Ok(0)) => {
                    failed = Some(io::ErrorKind::WriteZero);
                    break;
                }
                Poll::Ready(Ok(count)) => {
                    self.unflushed = true;
                    self.session.transmitted(count);
                }
                Poll::Ready(Err(error)) => {
                    failed = Some(error.kind());
                    break;
                }
                Poll::Pending => break,
            }
        }
        if self.unflushed && failed.is_none() {
            match Pin::new(&mut **io).poll_flush(cx) {
                Poll::Ready(Ok(())) => self.unflushed = false,
                Poll::Ready(Err(error)) => failed = Some(error.kind()),
                Poll::Pending => {}
            }
        }
        if let Some(kind) = failed {
            self.transport_ended(kind);
        }
    }

    /// After a command: hands on events, and wakes the driver if there is something to send.
    fn pump(&mut self) {
        self.pump_without_driver();
        if (self.session.wants_transmit() || self.session.is_closed())
            && let Some(driver) = &self.driver
        {
            driver.wake_by_ref();
        }
    }

    /// The same for the driver itself.
    fn pump_without_driver(&mut self) {
        while let Some(event) = self.session.poll_event() {
            match event {
                Event::Opened => wake(&mut self.acceptor),
                Event::Readable(key) => wake(&mut self.wakers(key).read),
                Event::Writable(key) => {
                    let failed = self.session.failure(key).is_some();
                    let wakers = self.wakers(key);
                    wake(&mut wakers.write);
                    if failed {
                        wake(&mut wakers.watch);
                    }
                }
                Event::Room => self.openers.drain(..).for_each(Waker::wake),
                Event::Closing => {
                    wake(&mut self.acceptor);
                    self.openers.drain(..).for_each(Waker::wake);
                }
            }
        }
    }

    fn wakers(&mut self, key: Key) -> &mut Wakers {
        if self.streams.len() <= key.slot() {
            self.streams.resize_with(key.slot() + 1, Wakers::default);
        }
        &mut self.streams[key.slot()]
    }

    /// The end of a writer's call: keeps its waker, hands on what the call brought about.
    fn parked<T>(&mut self, key: Key, cx: &Context<'_>, polled: Poll<T>) -> Poll<T> {
        if polled.is_pending() {
            // Before the events are handed on: one of them may be for this very stream.
            self.wakers(key).write = Some(cx.waker().clone());
        }
        self.pump();
        polled
    }

    /// The same for a reader.
    fn read<T>(&mut self, key: Key, cx: &Context<'_>, polled: Poll<T>) -> Poll<T> {
        if polled.is_pending() {
            self.wakers(key).read = Some(cx.waker().clone());
        }
        self.pump();
        polled
    }
}

fn wake(waker: &mut Option<Waker>) {
    if let Some(waker) = waker.take() {
        waker.wake();
    }
}

/// The one place below the programs that reads a clock.
fn now() -> Instant {
    Instant::now()
}
