//! What can be seen of one proxy's tunnel from outside: who asks must not wait for a supervisor.
//!
//! It owns the state in words, the last error and the log's discipline: a change of state is a
//! line, an attempt is none, and a proxy that stays away gets one line a minute.

use std::{
    cell::{Cell, RefCell},
    net::SocketAddr,
    rc::Rc,
    time::{Duration, Instant},
};

use async_channel::Sender;
use spdy_protocol::{session::Counters, tunnel::Tunnel};

use super::Target;
use crate::{
    backoff::Cause,
    dial::{Address, DialError, Link},
    log::{Log, Quoted},
    verify::Pin,
};

/// Where a tunnel stands, for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Dials.
    Connecting,
    /// Waits before the next dial; until when.
    Waiting(Instant),
    /// Serves.
    Connected,
    /// Was told to end.
    Stopped,
}

impl Stage {
    /// The word for people and machines.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Connecting => "connecting",
            Self::Waiting(_) => "waiting",
            Self::Connected => "connected",
            Self::Stopped => "stopped",
        }
    }
}

/// One proxy as it is now.
#[derive(Clone, Debug)]
pub struct ProxyReport {
    /// Its address as it was configured or named.
    pub address: Address,
    /// Whether another proxy named it (`follow-peers`).
    pub is_peer: bool,
    /// Where its tunnel stands.
    pub stage: Stage,
    /// Since when it is connected or not; a new attempt does not count.
    pub since: Instant,
    /// The address that answered last.
    pub peer: Option<SocketAddr>,
    /// The pin of its key, from the last success.
    pub pin: Option<Pin>,
    /// What it calls itself.
    pub id: String,
    /// The last thing that went wrong: the word of its cause, what it was, when.
    pub error: Option<(&'static str, String, Instant)>,
    /// The counter of connections when the last one was made.
    pub epoch: u64,
    /// Tunnels so far.
    pub tunnels: u64,
    /// What this tunnel, or the last one, has counted.
    pub counters: Counters,
    /// Octets received and sent by all tunnels so far.
    pub octets: (u64, u64),
    /// The proxy's clock less ours at the last handshake, in seconds, if it told its time.
    pub clock_off: Option<i64>,
}

/// See the module.
#[derive(Debug)]
pub(super) struct View {
    pub(super) is_peer: bool,
    /// Whether a peer is still named; one that is not is left when its tunnel ends.
    pub(super) is_wanted: Cell<bool>,
    target: RefCell<Rc<Target>>,
    seen: RefCell<Seen>,
    told: RefCell<Told>,
    /// Told of each change of state.
    changes: Sender<()>,
    /// By when the supervisor has to make its next step.
    due: Cell<Instant>,
    /// Octets received at the last look.
    looked: Cell<u64>,
}

#[derive(Debug)]
struct Seen {
    stage: Stage,
    since: Instant,
    peer: Option<SocketAddr>,
    pin: Option<Pin>,
    id: String,
    error: Option<(&'static str, String, Instant)>,
    epoch: u64,
    tunnels: u64,
    tunnel: Option<Tunnel>,
    /// Of the tunnel before.
    last: Counters,
    octets: (u64, u64),
    clock_off: Option<i64>,
}

/// What the log was told since the last success.
#[derive(Debug, Default)]
struct Told {
    reasons: Vec<String>,
    attempts: u32,
    last: Option<Instant>,
}

impl View {
    pub(super) fn new(target: Rc<Target>, is_peer: bool, changes: Sender<()>) -> Self {
        Self {
            changes,
            // Longer than that no task waits for its first turn.
            due: Cell::new(Instant::now()),
            looked: Cell::new(0),
            is_peer,
            is_wanted: Cell::new(true),
            target: RefCell::new(target),
            seen: RefCell::new(Seen {
                stage: Stage::Connecting,
                since: Instant::now(),
                peer: None,
                pin: None,
                id: String::new(),
                error: None,
                epoch: 0,
                tunnels: 0,
                tunnel: None,
                last: Counters::default(),
                octets: (0, 0),
                clock_off: None,
            }),
            told: RefCell::default(),
        }
    }

    pub(super) fn target(&self) -> Rc<Target> {
        self.target.borrow().clone()
    }

    pub(super) fn set_target(&self, target: Rc<Target>) {
        *self.target.borrow_mut() = target;
    }

    pub(super) fn is_connected(&self) -> bool {
        self.seen.borrow().stage == Stage::Connected
    }

    /// `limit`: the longest dial.
    pub(super) fn on_connecting(&self, limit: Duration) {
        self.seen.borrow_mut().stage = Stage::Connecting;
        self.expect(limit);
    }

    pub(super) fn on_waiting(&self, delay: Duration) {
        let now = Instant::now();
        self.seen.borrow_mut().stage = Stage::Waiting(now.checked_add(delay).unwrap_or(now));
        self.expect(delay);
    }

    pub(super) fn on_stopped(&self) {
        self.seen.borrow_mut().stage = Stage::Stopped;
    }

    pub(super) fn on_connected(&self, link: &Link, epoch: u64) {
        *self.told.borrow_mut() = Told::default();
        let mut seen = self.seen.borrow_mut();
        (seen.stage, seen.since) = (Stage::Connected, Instant::now());
        (seen.peer, seen.pin, seen.epoch) = (Some(link.peer), link.pin, epoch);
        seen.id = link.welcome.as_ref().map(|welcome| welcome.id.clone()).unwrap_or_default();
        seen.clock_off = link.clock_off();
        seen.tunnels += 1;
        self.on_change();
    }

    /// `silence`: the longest that a tunnel lives without an octet.
    pub(super) fn on_tunnel(&self, tunnel: Tunnel, silence: Duration) {
        self.seen.borrow_mut().tunnel = Some(tunnel);
        self.looked.set(0);
        self.expect(silence);
    }

    /// By how much the supervisor has missed its own deadline; none while it makes progress. A
    /// connected one does so by octets that arrive, be it answers to PING, within `silence`.
    pub(super) fn lateness(&self, silence: Duration) -> Duration {
        let seen = self.seen.borrow();
        if let Some(tunnel) = seen.tunnel.as_ref() {
            let received = tunnel.counters().octets_received;
            if self.looked.replace(received) != received {
                self.expect(silence);
            }
        }
        Instant::now().saturating_duration_since(self.due.get())
    }

    /// The state as `status` of a service manager shows it.
    pub(super) fn line(&self) -> String {
        let (seen, address) = (self.seen.borrow(), &self.target.borrow().proxy.address);
        match (&seen.error, seen.stage) {
            (_, Stage::Connected) => format!("connected to {address}"),
            (Some((_, reason, _)), _) => format!("{address}: {}", Quoted(reason)),
            (None, stage) => format!("{address}: {}", stage.word()),
        }
    }

    fn expect(&self, limit: Duration) {
        let now = Instant::now();
        self.due.set(now.checked_add(limit).unwrap_or(now + FAR));
    }

    fn on_change(&self) {
        // Full: whoever is told looks at all that has changed.
        let _ = self.changes.try_send(());
    }

    /// The tunnel is lost, or drains.
    pub(super) fn on_down(&self, counters: Counters, cause: &'static str, reason: String) {
        let mut seen = self.seen.borrow_mut();
        (seen.stage, seen.since) = (Stage::Connecting, Instant::now());
        (seen.tunnel, seen.last) = (None, counters);
        seen.octets.0 += counters.octets_received;
        seen.octets.1 += counters.octets_sent;
        seen.error = Some((cause, reason, Instant::now()));
        self.on_change();
    }

    /// Keeps a reason, and logs it unless it came before since the last success; once in every
    /// `summary` one line says that all is as it was.
    pub(super) fn on_failed(&self, error: &DialError, log: &Log, summary: Duration) {
        let (reason, cause, now) = (error.to_string(), error.cause(), Instant::now());
        let mut told = self.told.borrow_mut();
        told.attempts = told.attempts.saturating_add(1);
        let is_new = told.reasons.len() < REASONS && !told.reasons.contains(&reason);
        let is_due = told.last.is_none_or(|last| now.saturating_duration_since(last) >= summary);
        let address = &self.target.borrow().proxy.address;
        if is_new {
            let line = format_args!(
                "event=connect_failed proxy={address} reason={} action=retrying",
                Quoted(&reason)
            );
            match cause {
                Cause::Network => log.warn(line),
                _ => log.error(line),
            }
            told.reasons.push(reason.clone());
        } else if is_due {
            let away = now.saturating_duration_since(self.seen.borrow().since).as_secs();
            log.warn(format_args!(
                "event=still_down proxy={address} away_s={away} attempts={} reason={}",
                told.attempts,
                Quoted(&reason)
            ));
        }
        if is_new || is_due {
            told.last = Some(now);
        }
        self.seen.borrow_mut().error = Some((cause.word(), reason, now));
        self.on_change();
    }

    pub(super) fn report(&self) -> ProxyReport {
        let seen = self.seen.borrow();
        let live = seen.tunnel.as_ref().map(Tunnel::counters);
        let now = live.unwrap_or_default();
        ProxyReport {
            address: self.target.borrow().proxy.address.clone(),
            is_peer: self.is_peer,
            stage: seen.stage,
            since: seen.since,
            peer: seen.peer,
            pin: seen.pin,
            id: seen.id.clone(),
            error: seen.error.clone(),
            epoch: seen.epoch,
            tunnels: seen.tunnels,
            counters: live.unwrap_or(seen.last),
            clock_off: seen.clock_off,
            octets: (seen.octets.0 + now.octets_received, seen.octets.1 + now.octets_sent),
        }
    }
}

/// Reasons that are told of one absence; more than that is a peer that plays.
const REASONS: usize = 8;
/// Stands in for a time that no clock can show.
const FAR: Duration = Duration::from_secs(86_400 * 365);
