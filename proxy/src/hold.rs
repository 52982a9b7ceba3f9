//! Where visitors of one origin wait while it is away.
//!
//! It owns their places, the moment the origin was lost and the wake-up when it is back. It does
//! not own how long anybody waits nor what for (`crate::relay`).

use std::{
    collections::BTreeMap,
    future::poll_fn,
    sync::{Mutex, MutexGuard, PoisonError},
    task::{Poll, Waker},
    time::{Duration, Instant},
};

use crate::gate::{Gate, Pass};

/// The places of one origin.
#[derive(Debug)]
pub(crate) struct Hold {
    /// For requests that have no tunnel yet. At the bound: 503 at once.
    pub(crate) requests: Gate,
    /// For responses whose tunnel was lost. At the bound: the body is cut.
    pub(crate) responses: Gate,
    state: Mutex<State>,
}

/// How many times an origin had come when somebody looked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Arrivals(u64);

#[derive(Debug, Default)]
struct State {
    lost: Option<Instant>,
    arrivals: u64,
    next: u64,
    /// One entry for each that waits, which goes with it: a waker that is left behind keeps the
    /// memory of its task.
    waiting: BTreeMap<u64, Waker>,
}

/// The entry of one that waits.
struct Waiting<'a> {
    hold: &'a Hold,
    ticket: u64,
}

impl Default for Hold {
    fn default() -> Self {
        Self {
            requests: Gate::new(REQUESTS),
            responses: Gate::new(RESPONSES),
            state: Mutex::default(),
        }
    }
}

impl Hold {
    /// The origin is expected back from now on.
    pub(crate) fn lose(&self) {
        self.lock().lost = Some(Instant::now());
    }

    /// The origin is here, or will never be again: who waits looks again.
    pub(crate) fn wake(&self) {
        let waiting = {
            let mut state = self.lock();
            state.arrivals += 1;
            std::mem::take(&mut state.waiting)
        };
        waiting.into_values().for_each(Waker::wake);
    }

    /// Whether the origin was lost less than `limit` ago.
    pub(crate) fn is_lost_within(&self, limit: Duration) -> bool {
        self.lock().lost.is_some_and(|lost| lost.elapsed() < limit)
    }

    /// To be noted before one looks for a tunnel.
    pub(crate) fn arrivals(&self) -> Arrivals {
        Arrivals(self.lock().arrivals)
    }

    /// Waits until more have come than were `seen`. Cancel safe.
    pub(crate) async fn arrived(&self, seen: Arrivals) {
        let waiting = {
            let mut state = self.lock();
            state.next += 1;
            Waiting { hold: self, ticket: state.next }
        };
        poll_fn(|cx| {
            let mut state = self.lock();
            if state.arrivals != seen.0 {
                return Poll::Ready(());
            }
            state.waiting.insert(waiting.ticket, cx.waker().clone());
            Poll::Pending
        })
        .await;
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it is held.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A place of this origin and one of the process, if both have one.
pub(crate) fn place(own: &Gate, all: &Gate) -> Option<(Pass, Pass)> {
    own.try_enter().zip(all.try_enter())
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.hold.lock().waiting.remove(&self.ticket);
    }
}

/// Requests that wait for one origin at a time.
const REQUESTS: usize = 64;
/// Responses that wait for one origin at a time.
const RESPONSES: usize = 32;

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use futures_lite::future::{block_on, poll_once};

    use super::*;

    #[test]
    fn who_waits_is_woken_once_and_leaves_nothing_behind() {
        let hold = Hold::default();
        let seen = hold.arrivals();
        {
            let mut one = pin!(hold.arrived(seen));
            assert!(block_on(poll_once(one.as_mut())).is_none());
            assert_eq!(hold.lock().waiting.len(), 1);
            hold.wake();
            block_on(one);
            let given_up = pin!(hold.arrived(hold.arrivals()));
            assert!(block_on(poll_once(given_up)).is_none());
        }
        assert!(hold.lock().waiting.is_empty());
        // It came between the look and the wait.
        block_on(hold.arrived(seen));
    }

    #[test]
    fn places_are_bounded_by_origin_and_by_process() {
        let (own, all) = (Gate::new(2), Gate::new(1));
        let held = place(&own, &all);
        assert!(held.is_some() && place(&own, &all).is_none());
        assert_eq!((own.held(), all.held()), (1, 1));
        drop(held);
        assert_eq!((own.held(), all.held()), (0, 0));
    }
}
