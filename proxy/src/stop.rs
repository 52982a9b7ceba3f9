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
///            predecessor gives way           successor is ready
///   Waiting -----------------------> Running <----------------> Leaving
///                                       |   successor is lost      |
///                                       |                          | all agents have moved,
///                                  stop |                          | or time over
///                                       v                          |
///                                    Draining <--------------------+
///                                       | all done, or grace over
///                                       v
///                                     Ended
/// ```
#[derive(Clone, Debug, Default)]
pub struct Stop {
    state: Arc<Mutex<State>>,
}

/// What a server is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// It accepts agents; another process has the visitors.
    Waiting,
    /// It accepts.
    #[default]
    Running,
    /// It accepts visitors; its agents are on their way to another process.
    Leaving,
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
        self.when(|held| held >= phase).await;
    }

    /// A server that is to take over from another process.
    pub(crate) fn waiting() -> Self {
        let state = State { phase: Phase::Waiting, waiting: Vec::new() };
        Self { state: Arc::new(Mutex::new(state)) }
    }

    /// Waits until the phase is another one than `before`, and returns it. Cancel safe.
    pub(crate) async fn changed(&self, before: Phase) -> Phase {
        self.when(|phase| phase != before).await
    }

    pub(crate) fn advance(&self, phase: Phase) {
        self.change(|held| held.max(phase));
    }

    /// The successor came to nothing: goes on as if there had been none.
    pub(crate) fn retreat(&self) {
        self.change(|held| if held == Phase::Leaving { Phase::Running } else { held });
    }

    async fn when(&self, is_so: impl Fn(Phase) -> bool) -> Phase {
        poll_fn(|cx| {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            if is_so(state.phase) {
                return Poll::Ready(state.phase);
            }
            if !state.waiting.iter().any(|held| held.will_wake(cx.waker())) {
                state.waiting.push(cx.waker().clone());
            }
            Poll::Pending
        })
        .await
    }

    fn change(&self, to: impl FnOnce(Phase) -> Phase) {
        let waiting = {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            state.phase = to(state.phase);
            std::mem::take(&mut state.waiting)
        };
        waiting.into_iter().for_each(Waker::wake);
    }
}

#[cfg(test)]
mod tests {
    use futures_lite::future;

    use super::*;

    #[test]
    fn only_a_lost_successor_takes_a_phase_back() {
        let stop = Stop::waiting();
        stop.retreat();
        assert_eq!(stop.phase(), Phase::Waiting);
        stop.advance(Phase::Running);
        stop.advance(Phase::Leaving);
        assert_eq!(future::block_on(stop.changed(Phase::Running)), Phase::Leaving);
        stop.retreat();
        assert_eq!(stop.phase(), Phase::Running);
        stop.stop();
        stop.retreat();
        assert_eq!(stop.phase(), Phase::Draining);
    }

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
