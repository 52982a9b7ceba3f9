//! How long to wait before the next dial: a pure function of the cause.
//!
//! It reads no clock and no random source; the supervisor passes both in. The numbers are those of
//! docs/design.md, "Bounds that must hold together".

use std::time::{Duration, Instant};

/// Why there is no tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// Resolving, connecting or the transport failed, or a deadline passed.
    Network,
    /// TLS failed: a wrong pin, an untrusted certificate, a peer that does not speak TLS.
    Tls,
    /// The proxy answered the handshake with this status.
    Refused {
        /// HTTP status.
        status: u16,
        /// `Retry-After`, if it sent one.
        retry_after: Option<Duration>,
    },
    /// The proxy said GOAWAY and asked its agents to come back within this time.
    Goaway {
        /// Time over which agents spread.
        spread: Duration,
    },
}

/// The durations of the back-off. All are settings, so that tests run scaled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Steps {
    /// First ceiling after a network failure; it doubles. Default 1 s.
    pub network: Duration,
    /// Last ceiling after network failures. Default 30 s.
    pub network_max: Duration,
    /// Life of a tunnel after which the next loss counts as the first. Default 60 s.
    pub reset: Duration,
    /// After 401 or 403, at least. Default 60 s.
    pub denied: Duration,
    /// After 401 or 403, at most. Default 300 s.
    pub denied_max: Duration,
    /// After 409, at least. Default 15 s.
    pub held: Duration,
    /// After 409, at most. Default 30 s.
    pub held_max: Duration,
    /// After 426. Default 10 min.
    pub version: Duration,
    /// Longest `Retry-After` and `spread` that are obeyed; to the first is added what network
    /// failures wait. Default 5 min.
    pub retry_after_max: Duration,
    /// After a TLS or pin failure. Default 60 s.
    pub tls: Duration,
}

impl Cause {
    /// Whether a new address or route of this machine may help.
    #[must_use]
    pub const fn is_of_network(self) -> bool {
        // Behind a hotel's portal, TLS fails, too.
        matches!(self, Self::Network | Self::Tls)
    }

    /// The word for people and machines.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Network => "network",
            Self::Tls => "trust",
            Self::Refused { .. } => "refused",
            Self::Goaway { .. } => "goaway",
        }
    }
}

impl Default for Steps {
    fn default() -> Self {
        Self {
            network: Duration::from_secs(1),
            network_max: Duration::from_secs(30),
            reset: Duration::from_secs(60),
            denied: Duration::from_secs(60),
            denied_max: Duration::from_secs(300),
            held: Duration::from_secs(15),
            held_max: Duration::from_secs(30),
            version: Duration::from_secs(600),
            retry_after_max: Duration::from_secs(300),
            tls: Duration::from_secs(60),
        }
    }
}

impl Steps {
    /// The wait before the next dial. `attempt`: how often the ceiling has doubled
    /// ([`Steps::attempt`]). `random`: uniform over all its values; jitter is full, at the cap too.
    #[must_use]
    pub fn delay(&self, cause: Cause, attempt: u32, random: u32) -> Duration {
        let network = || {
            let doubled =
                self.network.saturating_mul(1_u32.checked_shl(attempt).unwrap_or(u32::MAX));
            between(Duration::ZERO, doubled.min(self.network_max), random)
        };
        match cause {
            Cause::Network => network(),
            Cause::Tls => self.tls,
            Cause::Goaway { spread } => between(Duration::ZERO, self.spread(spread), random),
            Cause::Refused { status: 401 | 403, .. } => {
                between(self.denied, self.denied_max, random)
            }
            Cause::Refused { status: 409, .. } => between(self.held, self.held_max, random),
            Cause::Refused { status: 426, .. } => self.version,
            // Jitter on top, because all who were refused together heard the same time.
            Cause::Refused { status: 429 | 503, retry_after: Some(after) } => {
                after.min(self.retry_after_max).saturating_add(network())
            }
            // Any other answer is that of a proxy in trouble, or of something that is none.
            Cause::Refused { .. } => network(),
        }
    }

    /// Time in which an agent is on its way after GOAWAY, if the proxy asks for this much.
    #[must_use]
    pub fn spread(&self, asked: Duration) -> Duration {
        asked.min(self.retry_after_max)
    }

    /// How often the ceiling has doubled after so much time without a tunnel, since the last one
    /// that lived for [`Steps::reset`].
    ///
    /// Time and not tries are counted: with full jitter several tries fit into the first second,
    /// and a proxy that is away for less than that second shall be found again within two.
    #[must_use]
    pub fn attempt(&self, away: Duration) -> u32 {
        let mut ceiling = self.network;
        let mut attempt = 0;
        while ceiling <= away && ceiling < self.network_max && !ceiling.is_zero() {
            ceiling = ceiling.saturating_mul(2);
            attempt += 1;
        }
        attempt
    }
}

/// Time without a tunnel, since the last one that lived for [`Steps::reset`].
#[derive(Clone, Copy, Debug)]
pub struct Absence {
    /// Before the last tunnels, which did not live that long.
    before: Duration,
    since: Instant,
}

impl Absence {
    /// It begins now.
    #[must_use]
    pub const fn new(now: Instant) -> Self {
        Self { before: Duration::ZERO, since: now }
    }

    /// How long it has been; asked while there is no tunnel.
    #[must_use]
    pub fn so_far(&self, now: Instant) -> Duration {
        self.before.saturating_add(now.saturating_duration_since(self.since))
    }

    /// A tunnel is there.
    pub fn on_tunnel(&mut self, now: Instant) {
        *self = Self { before: self.so_far(now), since: now };
    }

    /// The tunnel is lost.
    pub fn on_lost(&mut self, now: Instant, steps: &Steps) {
        if now.saturating_duration_since(self.since) >= steps.reset {
            self.before = Duration::ZERO;
        }
        self.since = now;
    }

    /// A wait is over; one that the proxy asked for is no trouble, and the old tunnel may have
    /// served meanwhile.
    pub fn on_waited(&mut self, now: Instant, cause: Cause) {
        if matches!(cause, Cause::Goaway { .. }) {
            self.since = now;
        }
    }
}

/// `low` plus the share `random / 2^32` of the way to `high`.
fn between(low: Duration, high: Duration, random: u32) -> Duration {
    let span = u64::try_from(high.saturating_sub(low).as_nanos()).unwrap_or(u64::MAX);
    let share = (u128::from(span) * u128::from(random)) >> 32;
    low.saturating_add(Duration::from_nanos(u64::try_from(share).unwrap_or(u64::MAX)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX: u32 = u32::MAX;
    const HALF: u32 = 1 << 31;

    fn refused(status: u16, retry_after: Option<u64>) -> Cause {
        Cause::Refused { status, retry_after: retry_after.map(Duration::from_secs) }
    }

    #[test]
    fn delays_are_those_of_the_design() {
        let goaway = |seconds| Cause::Goaway { spread: Duration::from_secs(seconds) };
        // Cause, attempt, then the delay in ms for random 0, a half and the largest.
        let cases = [
            (Cause::Network, 0, 0, 500, 1_000),
            (Cause::Network, 1, 0, 1_000, 2_000),
            (Cause::Network, 4, 0, 8_000, 16_000),
            (Cause::Network, 5, 0, 15_000, 30_000),
            (Cause::Network, 31, 0, 15_000, 30_000),
            (Cause::Network, 32, 0, 15_000, 30_000),
            (Cause::Network, u32::MAX, 0, 15_000, 30_000),
            (Cause::Tls, 0, 60_000, 60_000, 60_000),
            (Cause::Tls, 9, 60_000, 60_000, 60_000),
            (refused(401, None), 0, 60_000, 180_000, 300_000),
            (refused(403, Some(1)), 3, 60_000, 180_000, 300_000),
            (refused(409, None), 0, 15_000, 22_500, 30_000),
            (refused(426, None), 0, 600_000, 600_000, 600_000),
            (refused(429, Some(7)), 0, 7_000, 7_500, 8_000),
            (refused(429, Some(0)), 2, 0, 2_000, 4_000),
            (refused(503, Some(300)), 9, 300_000, 315_000, 330_000),
            (refused(503, Some(301)), 0, 300_000, 300_500, 301_000),
            (refused(503, None), 0, 0, 500, 1_000),
            (refused(500, None), 2, 0, 2_000, 4_000),
            (goaway(15), 0, 0, 7_500, 15_000),
            (goaway(0), 5, 0, 0, 0),
            (goaway(u64::MAX), 5, 0, 150_000, 300_000),
        ];
        let steps = Steps::default();
        for (cause, attempt, low, middle, high) in cases {
            for (random, wanted) in [(0, low), (HALF, middle), (MAX, high)] {
                let delay = steps.delay(cause, attempt, random);
                let wanted = Duration::from_millis(wanted);
                let off = wanted.abs_diff(delay);
                assert!(off < Duration::from_millis(1), "{cause:?} {attempt} {random}: {delay:?}");
            }
        }
    }

    #[test]
    fn ceiling_doubles_with_the_time_away() {
        let steps = Steps::default();
        let cases = [(0, 0), (999, 0), (1_000, 1), (1_999, 1), (2_000, 2), (16_000, 5)];
        for (away, attempt) in cases {
            assert_eq!(steps.attempt(Duration::from_millis(away)), attempt, "{away} ms");
        }
        assert_eq!(steps.attempt(Duration::MAX), 5);
        let still = Steps { network: Duration::ZERO, ..steps };
        assert_eq!(still.attempt(Duration::from_secs(9)), 0);
    }

    #[test]
    fn absence_counts_neither_long_lives_nor_what_the_proxy_asked_for() {
        let steps = Steps::default();
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut absence = Absence::new(start);
        absence.on_waited(at(3), Cause::Network);
        assert_eq!(absence.so_far(at(5)), Duration::from_secs(5));
        // A short life, then 2 s more.
        absence.on_tunnel(at(5));
        absence.on_lost(at(64), &steps);
        assert_eq!(absence.so_far(at(66)), Duration::from_secs(7));
        absence.on_tunnel(at(66));
        absence.on_lost(at(126), &steps);
        absence.on_waited(at(140), Cause::Goaway { spread: Duration::from_secs(15) });
        assert_eq!(absence.so_far(at(141)), Duration::from_secs(1));
    }

    #[test]
    fn short_absence_ends_within_two_seconds_whatever_the_luck() {
        let steps = Steps::default();
        for seed in 0..200_u32 {
            let (mut away, mut random) = (Duration::ZERO, seed.wrapping_mul(0x9e37_79b9));
            // The proxy is back after 0.999 s; the first dial after that finds it.
            while away < Duration::from_millis(999) {
                random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                away += steps.delay(Cause::Network, steps.attempt(away), random);
            }
            assert!(away < Duration::from_secs(2), "seed {seed}: {away:?}");
        }
    }
}
