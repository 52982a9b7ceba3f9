//! One origin: whose tunnel is in use, who waits behind it, and who has to give way.
//!
//! It owns the order among agents that have proven who they are (docs/design.md, "Who holds a
//! name"). It does not own the proof ([`crate::state`]), nor how a holder is asked whether it is
//! alive (`crate::upstream`).

use std::{
    collections::VecDeque,
    fmt,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::{Duration, Instant, SystemTime},
};

use spdy_protocol::handshake::Hello;

use super::{ANONYMOUS, Route, Run, Upstream, Way};
use crate::{access::Access, hold::Hold};

/// What is known of an origin while the server runs.
#[derive(Debug, Default)]
pub(super) struct Origin {
    pub(super) paired: bool,
    pub(super) access: Access,
    /// Whether no agent may speak for it: its record says so, or cannot be read.
    pub(super) revoked: bool,
    /// Whether its record cannot be read.
    pub(super) unreadable: bool,
    /// When the last tunnel in use ended.
    pub(super) left: Option<SystemTime>,
    /// Where visitors wait while it is away.
    pub(super) hold: Arc<Hold>,
    /// The tunnel in use.
    holder: Option<Arc<Upstream>>,
    /// Another box, connected, not used until the holder goes.
    standby: Option<Arc<Upstream>>,
    /// Displaced tunnels that finish what they send, oldest first.
    leaving: VecDeque<Arc<Upstream>>,
    /// The last connection that was taken: what is older comes too late, also when it has gone.
    last: Option<Run>,
    /// When a process of the holding box was displaced by another one, oldest first.
    displaced: VecDeque<Instant>,
}

/// What is settable of the order.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rules {
    /// Whether a second box may wait behind the first.
    pub(crate) standby: bool,
    /// Time in which [`DISPLACEMENTS`] processes of a box may displace one another.
    pub(crate) window: Duration,
}

/// What becomes of a connection whose agent has proven who it is.
#[derive(Debug)]
pub(crate) enum Verdict {
    /// It is taken, whoever holds the name.
    Enter,
    /// It is not.
    Refused(Refusal),
    /// Another box holds the name: whether that one is alive decides.
    Contest(Arc<Upstream>),
}

/// Why a connection is not taken: 409.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// The same process has made a newer one since.
    Stale,
    /// Processes with the same pairing displace one another again and again.
    Contested,
    /// Another box holds the name and is alive.
    Held,
}

/// Where a connection was put.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Seat {
    /// It is in use.
    Holder,
    /// It waits until the holder goes.
    Standby,
}

impl Refusal {
    /// For the agent and the log.
    pub(crate) const fn reason(self) -> &'static str {
        match self {
            Self::Stale => "a newer connection of this agent is in use",
            Self::Contested => "two boxes use this pairing",
            Self::Held => "another box holds this name",
        }
    }
}

impl fmt::Display for Seat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Holder => "up",
            Self::Standby => "standby",
        })
    }
}

impl Origin {
    /// What becomes of a connection to the origin `name`, now.
    pub(super) fn judge(&self, name: &str, run: Option<&Run>, rules: Rules) -> Verdict {
        if let (Some(new), Some(last)) = (run, &self.last)
            && new.is_older_than(last)
        {
            return Verdict::Refused(Refusal::Stale);
        }
        let Some(holder) = self.holder.as_ref().filter(|holder| holder.tunnel.is_open()) else {
            return Verdict::Enter;
        };
        match (run, &holder.run) {
            // Whoever wants may be this one: there is no order but that of their coming.
            _ if name == ANONYMOUS => Verdict::Enter,
            (Some(new), Some(held)) if new.instance == held.instance => {
                let recent = self.displaced.iter().filter(|at| at.elapsed() < rules.window);
                if new.run != held.run && recent.count() >= DISPLACEMENTS {
                    return Verdict::Refused(Refusal::Contested);
                }
                Verdict::Enter
            }
            (Some(_), Some(_)) => Verdict::Contest(Arc::clone(holder)),
            _ => Verdict::Enter,
        }
    }

    /// Whether a connection may wait behind the holder: nobody else does.
    pub(super) fn has_room_behind(&self, run: Option<&Run>, rules: Rules) -> bool {
        let waits = self.standby.as_ref().filter(|waits| waits.tunnel.is_open());
        let instance = |run: &Run| run.instance;
        rules.standby
            && waits.is_none_or(|waits| waits.run.as_ref().map(instance) == run.map(instance))
    }

    /// Takes a connection in and returns where; `beaten`: the holder that was asked in vain.
    pub(super) fn enter(
        &mut self,
        upstream: Arc<Upstream>,
        beaten: Option<u64>,
        rules: Rules,
    ) -> Result<Seat, Refusal> {
        let seat = match self.judge(&upstream.origin, upstream.run.as_ref(), rules) {
            Verdict::Enter => Seat::Holder,
            Verdict::Refused(refusal) => return Err(refusal),
            Verdict::Contest(holder) if beaten == Some(holder.id) => Seat::Holder,
            Verdict::Contest(_) if self.has_room_behind(upstream.run.as_ref(), rules) => {
                Seat::Standby
            }
            Verdict::Contest(_) => return Err(Refusal::Held),
        };
        upstream.is_standby.store(seat == Seat::Standby, Relaxed);
        let replaced = match seat {
            Seat::Standby => self.standby.replace(upstream),
            Seat::Holder => {
                self.last = upstream.run;
                let replaced = self.holder.replace(Arc::clone(&upstream));
                if let Some(replaced) = &replaced
                    && upstream.is_other_process_than(replaced)
                    && replaced.tunnel.is_open()
                {
                    if self.displaced.len() >= DISPLACEMENTS {
                        self.displaced.pop_front();
                    }
                    self.displaced.push_back(Instant::now());
                }
                replaced
            }
        };
        if let Some(replaced) = replaced {
            replaced.tunnel.drain();
            self.leaving.push_back(replaced);
            if self.leaving.len() > LEAVING {
                self.leaving.pop_front().inspect(|oldest| oldest.cut());
            }
        }
        Ok(seat)
    }

    /// A tunnel has ended. Returns the one that takes its place.
    pub(super) fn remove(&mut self, upstream: &Upstream) -> Option<Arc<Upstream>> {
        let is = |held: &Arc<Upstream>| held.id == upstream.id;
        self.leaving.retain(|held| !is(held));
        if self.standby.as_ref().is_some_and(is) {
            self.standby = None;
        }
        if !self.holder.as_ref().is_some_and(is) {
            return None;
        }
        match self.standby.take() {
            Some(standby) if standby.tunnel.is_open() => self.holder = Some(standby),
            // It goes, too, and what it still sends can be cut.
            standby => {
                self.leaving.extend(standby);
                self.holder = None;
            }
        }
        match &self.holder {
            Some(holder) => {
                holder.is_standby.store(false, Relaxed);
                self.last = holder.run;
                self.hold.wake();
            }
            None => {
                self.left = Some(SystemTime::now());
                self.hold.lose();
            }
        }
        self.holder.clone()
    }

    /// Where a request goes, and who may send it.
    pub(super) fn way(&self) -> Way {
        let route = match (&self.holder, &self.standby) {
            (Some(holder), Some(standby)) if !holder.tunnel.is_open() => {
                Route::Tunnel(Arc::clone(standby))
            }
            (Some(holder), _) => Route::Tunnel(Arc::clone(holder)),
            (None, _) => Route::Away(self.left),
        };
        // Nobody waits for an agent that may not come back.
        let hold = (!self.revoked).then(|| Arc::clone(&self.hold));
        Way { access: self.access.clone(), route, hold }
    }

    /// Whether a tunnel is in use.
    pub(super) const fn is_here(&self) -> bool {
        self.holder.is_some()
    }

    /// Displaced tunnels that finish what they send.
    pub(super) fn leaving(&self) -> Vec<Arc<Upstream>> {
        self.leaving.iter().cloned().collect()
    }

    /// All tunnels, the one in use first.
    pub(super) fn upstreams(&self) -> impl Iterator<Item = &Arc<Upstream>> {
        self.holder.iter().chain(&self.standby).chain(&self.leaving)
    }
}

impl Run {
    /// What an agent says of itself.
    pub(crate) const fn of(hello: &Hello) -> Self {
        Self { instance: hello.instance, run: hello.run, epoch: hello.epoch }
    }

    fn is_older_than(&self, other: &Self) -> bool {
        (self.instance, self.run) == (other.instance, other.run) && self.epoch < other.epoch
    }
}

impl Upstream {
    /// Another process of the same box.
    fn is_other_process_than(&self, other: &Self) -> bool {
        matches!((&self.run, &other.run), (Some(new), Some(held))
            if new.instance == held.instance && new.run != held.run)
    }
}

/// A box that is switched off and on displaces its own old process once. Two that were given the
/// same pairing do so for ever.
const DISPLACEMENTS: usize = 3;
/// Displaced tunnels of an origin that may finish; the oldest of more is cut.
const LEAVING: usize = 8;
