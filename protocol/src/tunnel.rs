//! The driver: one session over any `AsyncRead + AsyncWrite`, and the handles of its streams.
//!
//! It owns every waker, the only clock and the receive buffer. It does not know TCP, TLS or HTTP,
//! and it spawns nothing: whoever starts a tunnel polls its [`Driver`].
//!
//! ```text
//! Stream --poll_write_with--> Session (output) --poll_transmit--> Driver --> io
//! Stream <--poll_read_chunk-- Session (inbox)  <----receive------ Driver <-- io
//! ```

mod driver;
mod stream;

use std::{
    collections::BTreeMap,
    future::poll_fn,
    io,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use async_io::Timer;
use futures_lite::{AsyncRead, AsyncWrite, FutureExt};

pub use self::{driver::Driver, stream::Stream};

use crate::{
    frame::Reason,
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
            openers: BTreeMap::new(),
            next_opener: 0,
            streams: Vec::new(),
            unflushed: false,
            flushes: 0,
            armed: None,
            broken: None,
        }),
        io: Mutex::new(Some(Box::new(io))),
    });
    let driver = Driver::new(Arc::clone(&shared), received, grace);
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
        let opener = Opener::new(&self.shared);
        let deadline = now() + self.shared.open_wait;
        loop {
            // Budget that another tunnel gives back is not announced here: look again by time too.
            let next = deadline.min(now() + Duration::from_millis(200));
            let again = async {
                Timer::at(next).await;
                None
            };
            let room = poll_fn(|cx| {
                self.try_open(&headers, priority, end, Some((&opener, cx)))
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
        waiting: Option<(&Opener<'_>, &Context<'_>)>,
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
                if let Some((opener, cx)) = waiting {
                    state.openers.insert(opener.ticket, cx.waker().clone());
                }
                // Somebody may have been cut to make room.
                state.pump();
                None
            }
        }
    }

    /// GOAWAY to a peer of our own, which is to come back by another tunnel; streams can be opened
    /// here until [`Tunnel::drain`].
    pub fn leave(&self) {
        let mut state = self.shared.lock();
        state.session.leave();
        state.pump();
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

    /// PING now: for who learnt that the way to the peer may have changed. Without any octet from
    /// it in [`crate::limits::Timings::ping_answer`] the session ends.
    pub fn check(&self) {
        let mut state = self.shared.lock();
        state.session.check(now());
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

    /// Requests that the peer has left without a reply for `age`, while no other stream moved.
    #[must_use]
    pub fn neglected(&self, age: Duration) -> usize {
        self.shared.lock().session.neglected(age, now())
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
    /// Who waits to open a stream, by ticket: one entry each, which goes with its [`Opener`].
    openers: BTreeMap<u64, Waker>,
    next_opener: u64,
    /// By slot of the session's table.
    streams: Vec<Wakers>,
    /// The transport may hold octets that it has not passed on.
    unflushed: bool,
    /// Writes of streams since the driver was polled.
    flushes: u32,
    /// When the driver looks at the clock again by itself.
    armed: Option<Instant>,
    /// The transport is dead.
    broken: Option<io::ErrorKind>,
}

/// The place of one call among those that wait to open a stream.
struct Opener<'a> {
    shared: &'a Shared,
    ticket: u64,
}

impl<'a> Opener<'a> {
    fn new(shared: &'a Shared) -> Self {
        let mut state = shared.lock();
        state.next_opener += 1;
        Self { shared, ticket: state.next_opener }
    }
}

impl Drop for Opener<'_> {
    fn drop(&mut self) {
        // A waker that is left behind keeps the memory of its task.
        self.shared.lock().openers.remove(&self.ticket);
    }
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

    /// After a command: hands on events, and wakes the driver if there is something to send, or if its timer
    /// would fire too late.
    fn pump(&mut self) {
        self.pump_without_driver();
        let armed = self.armed;
        let is_late = |due| armed.is_none_or(|armed| due < armed);
        if (self.session.wants_transmit()
            || self.session.is_closed()
            || self.session.poll_owing().is_some_and(is_late))
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
                Event::Room => self.wake_openers(),
                Event::Closing => {
                    wake(&mut self.acceptor);
                    self.wake_openers();
                }
            }
        }
    }

    fn wake_openers(&mut self) {
        std::mem::take(&mut self.openers).into_values().for_each(Waker::wake);
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
#[expect(clippy::disallowed_methods, reason = "this is the driver")]
fn now() -> Instant {
    Instant::now()
}
