//! What those wait for who have something to send: which leg of the way limits the speed.
//!
//! It owns the sums and what a wait for credit means. It reads no clock: times come from whatever
//! was last put into the session.

use std::time::{Duration, Instant};

/// What a stream waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Leg {
    /// Credit of the peer.
    Credit,
    /// Room in the output, and its turn.
    Output,
}

/// A wait under way.
pub(super) type Waiting = Option<(Leg, Instant)>;

/// See the module.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Waits {
    pub(super) window: Duration,
    pub(super) reader: Duration,
    pub(super) output: Duration,
}

impl Waits {
    /// A stream waits, unless it does already.
    pub(super) fn begin(waiting: &mut Waiting, leg: Leg, now: Instant) {
        if waiting.is_none_or(|(before, _)| before != leg) {
            *waiting = Some((leg, now));
        }
    }

    /// What a stream waited for is there, or it is over. Credit is under way for a round trip and
    /// comes in steps; what took more than two of them was held back by who reads.
    pub(super) fn end(
        &mut self,
        waiting: &mut Waiting,
        now: Instant,
        round_trip: Option<Duration>,
    ) {
        let Some((leg, since)) = waiting.take() else { return };
        let waited = now.saturating_duration_since(since);
        match leg {
            Leg::Output => self.output += waited,
            Leg::Credit => {
                let by_window = waited.min(round_trip.unwrap_or_default() * 2);
                self.window += by_window;
                self.reader += waited - by_window;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_are_summed_by_what_they_were_for() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let (mut waits, mut waiting) = (Waits::default(), None);
        Waits::begin(&mut waiting, Leg::Credit, at(0));
        Waits::begin(&mut waiting, Leg::Credit, at(50));
        waits.end(&mut waiting, at(100), Some(Duration::from_millis(20)));
        waits.end(&mut waiting, at(200), None);
        Waits::begin(&mut waiting, Leg::Output, at(200));
        waits.end(&mut waiting, at(207), None);
        let sums = [waits.window, waits.reader, waits.output].map(|sum| sum.as_millis());
        assert_eq!(sums, [40, 60, 7]);
        // A clock that seems to stand still costs nothing.
        Waits::begin(&mut waiting, Leg::Credit, at(300));
        waits.end(&mut waiting, at(299), None);
        assert_eq!(waits.reader.as_millis(), 60);
    }
}
