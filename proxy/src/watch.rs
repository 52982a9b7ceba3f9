//! Deadlines of downstream connections, without a timer or a clock reading per request.
//!
//! A worker's tick counts up; a connection notes the tick at which its present wait has lasted too
//! long, and one sweep per tick looks at all of them. An `async_io::Timer` per request would cost
//! a write to the reactor's eventfd and a wake-up each. It does not know what a wait is for beyond
//! [`Wait`], nor does it end anything: it wakes the task that does.

use std::{
    cell::{Cell, RefCell},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU8, AtomicU32, Ordering::Relaxed},
    },
    task::Waker,
    time::Duration,
};

use crate::{request_line::Claim, status_line::Announcement};

/// What a connection waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Wait {
    /// Nothing that has a deadline: a paused visitor may stay for ever.
    Nothing = 0,
    /// The first octet of the next request.
    Request = 1,
    /// The rest of a request head.
    Head = 2,
    /// The visitor's next octets of a request body.
    Body = 3,
    /// The agent: a reply, or credit to send a request body.
    Agent = 4,
}

/// Ticks that a visitor may let us wait.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// For the first octet of a further request.
    pub(crate) request: u32,
    /// For a whole request head, from its first octet.
    pub(crate) head: u32,
    /// For the next octets of a request body.
    pub(crate) body: u32,
    /// For a first request that has not begun when the server drains.
    pub(crate) fresh: u32,
    /// For the agent's reply, and for its credit while it reads a request body.
    pub(crate) agent: u32,
}

/// The deadline of one connection; shared by its task, its I/O and its exchange.
///
/// ```text
/// Head --begin_exchange--> Exchange --end_exchange--> Idle --first octet--> Head
/// ```
#[derive(Debug)]
pub(crate) struct Watch {
    clock: Arc<AtomicU32>,
    limits: Limits,
    stage: AtomicU8,
    /// Tick at which the wait has lasted too long.
    deadline: AtomicU32,
    wait: AtomicU8,
    closing: AtomicBool,
    /// Whether nothing was ever read.
    fresh: AtomicBool,
    /// Whether all that was written has been flushed since somebody last asked.
    flushed: AtomicBool,
    /// The version of the first request, a [`Claim`].
    claim: AtomicU8,
    /// Whether the next response is for HTTP/1.0.
    pub(crate) old_response: Announcement,
    waker: Mutex<Option<Waker>>,
}

/// Where a connection is.
#[derive(Clone, Copy, Debug)]
#[repr(u8)]
enum Stage {
    Idle = 0,
    Head = 1,
    Exchange = 2,
}

/// All watches of one worker.
#[derive(Debug)]
pub(crate) struct Watches {
    clock: Arc<AtomicU32>,
    tick: Duration,
    held: RefCell<Vec<Arc<Watch>>>,
    is_closing: Cell<bool>,
}

impl Watch {
    /// Nothing is there to read yet.
    pub(crate) fn waits_for_visitor(&self) {
        match self.stage.load(Relaxed) {
            IDLE => self.arm(Wait::Request, self.limits.request),
            EXCHANGE => self.arm(Wait::Body, self.limits.body),
            // The deadline of a head counts from its first octet, however slowly it drips.
            _ => {}
        }
    }

    /// Something was read.
    pub(crate) fn heard_visitor(&self) {
        self.fresh.store(false, Relaxed);
        match self.stage.load(Relaxed) {
            IDLE => {
                self.stage.store(Stage::Head as u8, Relaxed);
                self.arm(Wait::Head, self.limits.head);
            }
            EXCHANGE => self.disarm(),
            _ => {}
        }
    }

    /// The agent owes a reply or credit.
    pub(crate) fn waits_for_agent(&self) {
        self.arm(Wait::Agent, self.limits.agent);
    }

    /// The agent did what it owed.
    pub(crate) fn heard_agent(&self) {
        if self.wait.load(Relaxed) == Wait::Agent as u8 {
            self.disarm();
        }
    }

    /// A request head is complete.
    pub(crate) fn begin_exchange(&self) {
        self.stage.store(Stage::Exchange as u8, Relaxed);
        self.disarm();
    }

    /// Nothing of the exchange is left but what its visitor has not read yet. That is not timed:
    /// hyper reads again only when all is written.
    pub(crate) fn end_exchange(&self) {
        self.stage.store(Stage::Idle as u8, Relaxed);
        self.disarm();
    }

    /// The first request claims this version.
    pub(crate) fn on_claim(&self, claim: Claim) {
        self.claim.store(claim as u8, Relaxed);
    }

    /// Whether the first request claimed this version.
    pub(crate) fn has_claimed(&self, claim: Claim) -> bool {
        self.claim.load(Relaxed) == claim as u8
    }

    /// From now on [`Watch::is_flushed`] asks for a flush that is still to come.
    pub(crate) fn await_flush(&self) {
        self.flushed.store(false, Relaxed);
    }

    /// Nothing that was written waits any more, neither in hyper nor in TLS.
    pub(crate) fn on_flushed(&self) {
        self.flushed.store(true, Relaxed);
    }

    /// Whether there was a flush since [`Watch::await_flush`].
    pub(crate) fn is_flushed(&self) -> bool {
        self.flushed.load(Relaxed)
    }

    /// Starts a wait of at most `ticks`; a wait of the same kind keeps its deadline.
    fn arm(&self, wait: Wait, ticks: u32) {
        if self.wait.load(Relaxed) != wait as u8 {
            self.deadline.store(self.clock.load(Relaxed).wrapping_add(ticks), Relaxed);
            self.wait.store(wait as u8, Relaxed);
        }
    }

    /// Ends the wait.
    pub(crate) fn disarm(&self) {
        self.wait.store(Wait::Nothing as u8, Relaxed);
    }

    /// The wait that has lasted too long, if it has.
    pub(crate) fn expired(&self) -> Option<Wait> {
        let late = self.clock.load(Relaxed).wrapping_sub(self.deadline.load(Relaxed));
        if late > u32::MAX / 2 {
            return None;
        }
        match self.wait.load(Relaxed) {
            1 => Some(Wait::Request),
            2 => Some(Wait::Head),
            3 => Some(Wait::Body),
            4 => Some(Wait::Agent),
            _ => None,
        }
    }

    /// Whether nothing was ever read: who has just connected is not idle.
    pub(crate) fn is_fresh(&self) -> bool {
        self.fresh.load(Relaxed)
    }

    /// The server drains. Who has not begun a first request has little time to.
    fn close(&self) {
        self.closing.store(true, Relaxed);
        if self.is_fresh() {
            self.disarm();
            self.arm(Wait::Head, self.limits.fresh);
        }
        self.wake();
    }

    /// Whether the server drains: no further request on this connection.
    pub(crate) fn is_closing(&self) -> bool {
        self.closing.load(Relaxed)
    }

    /// The task to wake; it stays the same for the life of a connection.
    pub(crate) fn register(&self, waker: &Waker) {
        *self.waker.lock().unwrap_or_else(PoisonError::into_inner) = Some(waker.clone());
    }

    fn wake(&self) {
        let waker = self.waker.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl Watches {
    /// No watches yet. `tick`: how precise deadlines are.
    pub(crate) fn new(tick: Duration) -> Self {
        Self {
            clock: Arc::new(AtomicU32::new(0)),
            tick,
            held: RefCell::new(Vec::new()),
            is_closing: Cell::new(false),
        }
    }

    /// A watch for one connection that has just been made; it is forgotten when the connection
    /// drops its own. Who has just connected has a request to send: no idle time for the first.
    pub(crate) fn add(&self, limits: Limits) -> Arc<Watch> {
        let watch = Arc::new(Watch {
            clock: Arc::clone(&self.clock),
            limits,
            stage: AtomicU8::new(Stage::Head as u8),
            deadline: AtomicU32::new(0),
            wait: AtomicU8::new(Wait::Nothing as u8),
            closing: AtomicBool::new(false),
            fresh: AtomicBool::new(true),
            flushed: AtomicBool::new(false),
            claim: AtomicU8::new(Claim::Known as u8),
            old_response: Announcement::default(),
            waker: Mutex::new(None),
        });
        watch.arm(Wait::Head, limits.head);
        if self.is_closing.get() {
            watch.close();
        }
        self.held.borrow_mut().push(Arc::clone(&watch));
        watch
    }

    /// Ticks that certainly last `duration`.
    pub(crate) fn ticks(&self, duration: Duration) -> u32 {
        let ticks = duration.as_nanos().div_ceil(self.tick.as_nanos().max(1)) + 1;
        u32::try_from(ticks).unwrap_or(u32::MAX).min(u32::MAX / 4)
    }

    /// The tick of now.
    pub(crate) fn now(&self) -> u32 {
        self.clock.load(Relaxed)
    }

    /// How precise deadlines are.
    pub(crate) const fn tick(&self) -> Duration {
        self.tick
    }

    /// One tick has passed: wakes the connections that waited too long.
    pub(crate) fn sweep(&self) {
        self.clock.fetch_add(1, Relaxed);
        self.held.borrow_mut().retain(|watch| {
            if watch.expired().is_some() {
                watch.wake();
            }
            Arc::strong_count(watch) > 1
        });
    }

    /// The server drains: wakes every connection to close when it has finished its exchange.
    pub(crate) fn close(&self) {
        self.is_closing.set(true);
        for watch in self.held.borrow().iter() {
            watch.close();
        }
    }
}

const IDLE: u8 = Stage::Idle as u8;
const EXCHANGE: u8 = Stage::Exchange as u8;

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits { request: 4, head: 3, fresh: 2, body: 2, agent: 1 };

    fn sweep(watches: &Watches, times: u32) {
        for _ in 0..times {
            watches.sweep();
        }
    }

    #[test]
    fn a_dripping_head_expires_after_its_ticks_and_not_before() {
        let watches = Watches::new(Duration::from_millis(10));
        let watch = watches.add(LIMITS);
        sweep(&watches, 2);
        watch.heard_visitor();
        watch.waits_for_visitor();
        assert_eq!(watch.expired(), None);
        sweep(&watches, 1);
        assert_eq!(watch.expired(), Some(Wait::Head));
    }

    #[test]
    fn a_paused_visitor_has_no_deadline_and_an_idle_one_has() {
        let watches = Watches::new(Duration::from_millis(10));
        let watch = watches.add(LIMITS);
        watch.begin_exchange();
        sweep(&watches, 100);
        assert_eq!(watch.expired(), None);
        watch.end_exchange();
        sweep(&watches, 100);
        assert_eq!(watch.expired(), None);
        watch.waits_for_visitor();
        sweep(&watches, 3);
        watch.waits_for_visitor();
        assert_eq!(watch.expired(), None);
        sweep(&watches, 1);
        assert_eq!(watch.expired(), Some(Wait::Request));
        watch.heard_visitor();
        assert_eq!(watch.expired(), None);
        sweep(&watches, 3);
        assert_eq!(watch.expired(), Some(Wait::Head));
    }

    #[test]
    fn who_has_just_connected_may_ask_while_the_server_drains_but_not_for_long() {
        let watches = Watches::new(Duration::from_millis(10));
        let (fresh, heard) = (watches.add(LIMITS), watches.add(LIMITS));
        heard.heard_visitor();
        watches.close();
        let late = watches.add(LIMITS);
        assert!(fresh.is_fresh() && late.is_fresh() && !heard.is_fresh());
        assert!([&fresh, &heard, &late].iter().all(|watch| watch.is_closing()));
        sweep(&watches, 2);
        assert_eq!(fresh.expired(), Some(Wait::Head));
        assert_eq!(late.expired(), Some(Wait::Head));
        assert_eq!(heard.expired(), None);
    }

    #[test]
    fn progress_of_a_body_renews_its_deadline() {
        let watches = Watches::new(Duration::from_millis(10));
        let watch = watches.add(LIMITS);
        watch.begin_exchange();
        for _ in 0..10 {
            watch.waits_for_visitor();
            sweep(&watches, 1);
            assert_eq!(watch.expired(), None);
            watch.heard_visitor();
        }
        watch.waits_for_visitor();
        sweep(&watches, 2);
        assert_eq!(watch.expired(), Some(Wait::Body));
        watch.disarm();
        watch.waits_for_agent();
        sweep(&watches, 1);
        assert_eq!(watch.expired(), Some(Wait::Agent));
    }

    #[test]
    fn a_watch_that_nobody_else_holds_is_forgotten() {
        let watches = Watches::new(Duration::from_secs(1));
        let watch = watches.add(LIMITS);
        drop(watches.add(LIMITS));
        watches.sweep();
        assert_eq!(watches.held.borrow().len(), 1);
        drop(watch);
        watches.sweep();
        assert_eq!(watches.held.borrow().len(), 0);
    }

    #[test]
    fn ticks_last_at_least_the_duration_and_never_wrap() {
        let watches = Watches::new(Duration::from_millis(10));
        assert_eq!(watches.ticks(Duration::from_millis(15)), 3);
        let request = watches.ticks(Duration::MAX);
        let watch = watches.add(Limits { request, ..LIMITS });
        watch.end_exchange();
        watch.waits_for_visitor();
        sweep(&watches, 100);
        assert_eq!(watch.expired(), None);
    }
}
