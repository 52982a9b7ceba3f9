//! PING both ways as a clockless machine: is the peer alive, and how long is the round trip.
//!
//! Any received octet is life (docs/design.md, "Bounds that must hold together"). It decides when a
//! PING is due and when silence is the end; it does not send.

use std::time::{Duration, Instant};

use crate::limits::Timings;

/// See the module.
#[derive(Debug)]
pub(super) struct Liveness {
    heard: Instant,
    /// A PING that is due or under way.
    ping: Option<Ping>,
    next_id: u32,
    round_trip: Option<Duration>,
    measured: Option<Instant>,
}

#[derive(Clone, Copy, Debug)]
struct Ping {
    asked: Instant,
    sent: Option<(u32, Instant)>,
    /// Something was heard since, whatever it was.
    alive: bool,
}

impl Liveness {
    /// How old a round trip may be before it is measured again while a window grows.
    const FRESH: Duration = Duration::from_secs(1);

    /// PING ids have the parity of the side that sends them (SPDY/3.1 2.6.5).
    pub(super) const fn new(now: Instant, client: bool) -> Self {
        let next_id = if client { 1 } else { 2 };
        Self { heard: now, ping: None, next_id, round_trip: None, measured: None }
    }

    pub(super) fn on_received(&mut self, now: Instant) {
        self.heard = now;
        if let Some(ping) = &mut self.ping {
            ping.alive = true;
        }
    }

    /// A request is about to be sent: on a tunnel that was silent it takes a PING along.
    pub(super) fn on_request(&mut self, now: Instant, timings: &Timings) {
        let silent = now.saturating_duration_since(self.heard) > timings.owed_ping;
        if silent || self.round_trip.is_none() {
            self.ask(now);
        }
    }

    /// A window wants to grow and needs a fresh round trip.
    pub(super) fn measure(&mut self, now: Instant) {
        let fresh = |at: Instant| now.saturating_duration_since(at) < Self::FRESH;
        if !self.measured.is_some_and(fresh) {
            self.ask(now);
        }
    }

    /// The way to the peer may have changed: asks now, unless a question waits for its answer.
    pub(super) fn check(&mut self, now: Instant) {
        // What was heard since an older PING came by the old way.
        self.ping = self.ping.filter(|ping| !ping.alive);
        self.ask(now);
    }

    /// The id of a PING that is to be sent now.
    pub(super) fn take_due(&mut self, now: Instant) -> Option<u32> {
        let ping = self.ping.as_mut().filter(|ping| ping.sent.is_none())?;
        let id = self.next_id;
        // Ids may wrap (SPDY/3.1 2.6.5); 0 is never used.
        self.next_id = self.next_id.checked_add(2).unwrap_or(if id % 2 == 1 { 1 } else { 2 });
        ping.sent = Some((id, now));
        Some(id)
    }

    /// The echo of a PING of ours; false: nobody asked.
    pub(super) fn on_answer(&mut self, id: u32, now: Instant) -> bool {
        let Some((_, sent)) = self.ping.and_then(|ping| ping.sent).filter(|sent| sent.0 == id)
        else {
            return false;
        };
        let sample = now.saturating_duration_since(sent);
        self.round_trip = Some(self.round_trip.map_or(sample, |old| (old + sample) / 2));
        self.measured = Some(now);
        self.ping = None;
        true
    }

    /// When [`Liveness::on_timeout`] has something to do; `owed`: the peer owes a reply or credit.
    pub(super) fn deadline(&self, owed: bool, timings: &Timings) -> Instant {
        match self.ping {
            Some(ping) if !ping.alive => ping.asked + timings.ping_answer,
            _ => self.heard + if owed { timings.owed_ping } else { timings.idle_ping },
        }
    }

    /// Asks for a PING when one is due. False: the peer was silent too long.
    pub(super) fn on_timeout(&mut self, now: Instant, owed: bool, timings: &Timings) -> bool {
        if now < self.deadline(owed, timings) {
            return true;
        }
        if self.ping.is_some_and(|ping| !ping.alive) {
            return false;
        }
        self.ping = None;
        self.ask(now);
        true
    }

    /// Whether a PING is to be sent now.
    pub(super) const fn is_due(&self) -> bool {
        matches!(self.ping, Some(Ping { sent: None, .. }))
    }

    pub(super) const fn round_trip(&self) -> Option<Duration> {
        self.round_trip
    }

    fn ask(&mut self, now: Instant) {
        if self.ping.is_none() {
            self.ping = Some(Ping { asked: now, sent: None, alive: false });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_is_noticed_within_the_documented_time() {
        let timings = Timings::default();
        for (owed, limit) in [(false, 40), (true, 20)] {
            let start = Instant::now();
            let mut liveness = Liveness::new(start, true);
            let mut pings = 0;
            let end = loop {
                let at = liveness.deadline(owed, &timings);
                if !liveness.on_timeout(at, owed, &timings) {
                    break at;
                }
                pings += u32::from(liveness.take_due(at).is_some());
            };
            assert_eq!(pings, 1);
            assert!(end - start <= Duration::from_secs(limit), "{owed}: {:?}", end - start);
        }
    }

    #[test]
    fn any_octet_is_life() {
        let timings = Timings::default();
        let mut now = Instant::now();
        let mut liveness = Liveness::new(now, false);
        for _ in 0..100 {
            now += Duration::from_secs(9);
            liveness.on_received(now);
            assert!(liveness.on_timeout(now, true, &timings));
            liveness.take_due(now);
        }
    }

    #[test]
    fn check_asks_at_once_and_gives_no_more_time_to_one_who_was_asked() {
        let timings = Timings::default();
        let start = Instant::now();
        let mut liveness = Liveness::new(start, false);
        liveness.check(start);
        assert_eq!(liveness.take_due(start), Some(2));
        let limit = start + timings.ping_answer;
        liveness.check(start + Duration::from_secs(9));
        assert_eq!(liveness.take_due(start + Duration::from_secs(9)), None);
        assert_eq!(liveness.deadline(false, &timings), limit);
        // Something was heard, but not the answer: what is asked next is a new question.
        liveness.on_received(start + Duration::from_secs(9));
        liveness.check(start + Duration::from_secs(9));
        assert_eq!(liveness.take_due(start + Duration::from_secs(9)), Some(4));
        assert!(!liveness.on_timeout(start + Duration::from_secs(19), false, &timings));
    }

    #[test]
    fn answer_gives_the_round_trip_and_strangers_do_not() {
        let start = Instant::now();
        let mut liveness = Liveness::new(start, true);
        liveness.measure(start);
        let id = liveness.take_due(start).unwrap();
        liveness.on_answer(id + 2, start + Duration::from_millis(1));
        assert_eq!(liveness.round_trip(), None);
        liveness.on_answer(id, start + Duration::from_millis(30));
        assert_eq!(liveness.round_trip(), Some(Duration::from_millis(30)));
        assert_eq!(liveness.take_due(start), None);
    }
}
