//! Counts what may exist at a time: connections, tunnels, handshakes in progress.
//!
//! It owns the count and the tasks that wait for a place. It does not know what is counted.

use std::{
    future::poll_fn,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Poll, Waker},
};

/// A bound on how many [`Pass`]es exist. Waiting is for few tasks (accept loops).
#[derive(Clone, Debug)]
pub struct Gate {
    state: Arc<Mutex<State>>,
}

/// A place behind a [`Gate`]; dropping it gives the place back.
#[derive(Debug)]
pub struct Pass {
    gate: Gate,
}

#[derive(Debug)]
struct State {
    limit: usize,
    held: usize,
    waiting: Vec<Waker>,
}

impl Gate {
    /// At most `limit` passes at a time; 0 counts as 1.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        let state = State { limit: limit.max(1), held: 0, waiting: Vec::new() };
        Self { state: Arc::new(Mutex::new(state)) }
    }

    /// Waits until there is a place, without taking it. Cancel safe.
    pub async fn room(&self) {
        poll_fn(|cx| {
            let mut state = self.lock();
            if state.held < state.limit {
                return Poll::Ready(());
            }
            state.wait(cx.waker());
            Poll::Pending
        })
        .await;
    }

    /// Waits for a place. Cancel safe.
    pub async fn enter(&self) -> Pass {
        poll_fn(|cx| {
            let mut state = self.lock();
            if state.held < state.limit {
                state.held += 1;
                return Poll::Ready(Pass { gate: self.clone() });
            }
            state.wait(cx.waker());
            Poll::Pending
        })
        .await
    }

    /// A place, if there is one now.
    #[must_use]
    pub fn try_enter(&self) -> Option<Pass> {
        let mut state = self.lock();
        if state.held >= state.limit {
            return None;
        }
        state.held += 1;
        Some(Pass { gate: self.clone() })
    }

    /// Waits until nobody holds a pass. Cancel safe.
    pub async fn emptied(&self) {
        poll_fn(|cx| {
            let mut state = self.lock();
            if state.held == 0 {
                return Poll::Ready(());
            }
            state.wait(cx.waker());
            Poll::Pending
        })
        .await;
    }

    /// Passes that exist now.
    #[must_use]
    pub fn held(&self) -> usize {
        self.lock().held
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // The count stays right whatever a panicking holder did: nothing panics while it is held.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn wait(&mut self, waker: &Waker) {
        if !self.waiting.iter().any(|held| held.will_wake(waker)) {
            self.waiting.push(waker.clone());
        }
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        let waiting = {
            let mut state = self.gate.lock();
            state.held -= 1;
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
    fn a_place_is_waited_for_and_given_back() {
        let gate = Gate::new(2);
        let first = gate.try_enter().unwrap();
        let second = future::block_on(gate.enter());
        assert!(gate.try_enter().is_none());
        assert!(future::block_on(future::poll_once(gate.room())).is_none());
        let mut third = std::pin::pin!(gate.enter());
        assert!(future::block_on(future::poll_once(third.as_mut())).is_none());
        drop(first);
        let third = future::block_on(third);
        assert_eq!(gate.held(), 2);
        drop((second, third));
        future::block_on(gate.room());
        assert_eq!(gate.held(), 0);
        future::block_on(gate.emptied());
    }

    #[test]
    fn a_bound_of_zero_lets_one_in() {
        assert!(Gate::new(0).try_enter().is_some());
    }
}
