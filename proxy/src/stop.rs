//! How a running server is told to end, from any thread.
//!
//! It owns the phase and the tasks that wait for it. It does not own what a phase means for
//! connections and tunnels ([`crate::server`]).

use std::{
    future::poll_fn,
    sync::{Arc, Mutex, PoisonError},
    task::{Poll, Waker},
};

/// Handle of a running server. Cheap to clone.
///
/// ```text
/// Running --stop()--> Draining --all done, or grace over--> Ended
/// ```
#[derive(Clone, Debug, Default)]
pub struct Stop {
    state: Arc<Mutex<State>>,
}

/// What a server is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// It accepts.
    #[default]
    Running,
    /// It accepts nothing more and finishes what it has.
    Draining,
    /// Nothing is served any more.
    Ended,
}

#[derive(Debug, Default)]
struct State {
    phase: Phase,
    waiting: Vec<Waker>,
}

impl Stop {
    /// Asks the server to drain and end; more calls change nothing.
    pub fn stop(&self) {
        self.advance(Phase::Draining);
    }

    /// What the server is doing.
    #[must_use]
    pub fn phase(&self) -> Phase {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).phase
    }

    /// Waits until `phase`, or one after it, is reached. Cancel safe.
    pub async fn reached(&self, phase: Phase) {
        poll_fn(|cx| {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            if state.phase >= phase {
                return Poll::Ready(());
            }
            if !state.waiting.iter().any(|held| held.will_wake(cx.waker())) {
                state.waiting.push(cx.waker().clone());
            }
            Poll::Pending
        })
        .await;
    }

    pub(crate) fn advance(&self, phase: Phase) {
        let waiting = {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            state.phase = state.phase.max(phase);
            std::mem::take(&mut state.waiting)
        };
        for waker in waiting {
            waker.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_lite::future;

    use super::*;

    #[test]
    fn phases_only_go_forward() {
        let stop = Stop::default();
        let mut ended = std::pin::pin!(stop.reached(Phase::Ended));
        stop.stop();
        assert_eq!(stop.phase(), Phase::Draining);
        assert!(future::block_on(future::poll_once(ended.as_mut())).is_none());
        stop.advance(Phase::Ended);
        stop.stop();
        assert_eq!(stop.phase(), Phase::Ended);
        future::block_on(ended);
    }
}
