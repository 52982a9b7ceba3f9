//! The driver's loop: read, write, look at the clock, until the session ends.

use std::{
    cell::Cell,
    future::Future,
    io,
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake, Waker, ready},
    time::Duration,
};

use async_io::Timer;

use super::{Shared, now};
use crate::error::Error;

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
/// Largest payload of a TLS record, in octets.
const RECORD: usize = 16_384;

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
    pub(super) fn new(shared: Arc<Shared>, received: Vec<u8>, grace: Duration) -> Self {
        let reading = Arc::new(Reading { ready: AtomicBool::new(true), driver: Mutex::new(None) });
        Self {
            shared,
            received,
            read_waker: Waker::from(Arc::clone(&reading)),
            reading,
            timer: Timer::never(),
            ending: false,
            grace,
        }
    }

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
        let more = filled + RECORD > buffer.len() && ended.is_none();
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
        // A record that finds less room than it needs is copied once more by the TLS below.
        while filled + RECORD <= buffer.len() {
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
            {
                let mut state = self.shared.lock();
                let Some(deadline) = state.session.poll_timeout() else { return };
                // Deadlines mostly move on: the timer stays as it is unless it would fire too late.
                if state.armed.is_none_or(|armed| deadline < armed) {
                    self.timer.set_at(deadline);
                    state.armed = Some(deadline);
                }
            }
            if Pin::new(&mut self.timer).poll(cx).is_pending() {
                return;
            }
            {
                let mut state = self.shared.lock();
                state.armed = None;
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
        // The same waker as for every read: a transport keeps one, and wakes the one it replaces.
        let mut read_cx = Context::from_waker(&self.read_waker);
        for _ in 0..RECEIVE / unread.len() {
            let read = ready!(Pin::new(&mut **io).poll_read(&mut read_cx, &mut unread));
            if !matches!(read, Ok(1..)) {
                return Poll::Ready(());
            }
        }
        // A peer that never stops sending has its turn like all others, until the time is up.
        cx.waker().wake_by_ref();
        Poll::Pending
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
