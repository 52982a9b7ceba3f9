//! Connections that could not be accepted, for the log: a process without a free descriptor fails ten
//! times a second for as long as that lasts.
//!
//! It owns when the next line is due. It does not own the pause between two attempts.

use std::{
    io,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use crate::log::Log;

/// The failures of one port, over all threads.
#[derive(Debug)]
pub(crate) struct AcceptErrors {
    port: &'static str,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    told: Option<Instant>,
    /// Failures since then.
    count: u64,
}

impl AcceptErrors {
    pub(crate) fn new(port: &'static str) -> Self {
        Self { port, state: Mutex::default() }
    }

    /// Counts a failure; logs the first, and then at most one line a minute.
    pub(crate) fn count(&self, log: Log, error: &io::Error) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(times) = state.count(Instant::now()) {
            log.warn(format_args!("accept=failed port={} times={times} {error}", self.port));
        }
    }
}

impl State {
    /// How many failures a line that is due now stands for.
    fn count(&mut self, now: Instant) -> Option<u64> {
        self.count += 1;
        if self.told.is_some_and(|told| now.duration_since(told) < INTERVAL) {
            return None;
        }
        self.told = Some(now);
        Some(std::mem::take(&mut self.count))
    }
}

/// The least time between two lines.
const INTERVAL: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_failure_is_told_at_once_and_the_others_by_the_minute() {
        let (mut state, start) = (State::default(), Instant::now());
        let mut at = |seconds| state.count(start + Duration::from_secs(seconds));
        assert_eq!((at(0), at(0), at(1), at(59)), (Some(1), None, None, None));
        assert_eq!((at(60), at(61), at(200)), (Some(4), None, Some(2)));
    }
}
