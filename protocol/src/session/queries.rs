//! What is asked of a session: its state, its counters, and whether it is sound.

use std::time::{Duration, Instant};

use super::{Counters, Key, Phase, Profile, Session, active::Stream};
use crate::{
    error::{Error, StreamError},
    frame,
    limits::{CHEAP_FRAMES, CONTROL_FRAME, OUTPUT, STREAMS, TUNNEL_BUDGET},
    stream::StreamState,
};

impl Session {
    /// Whether [`Session::poll_transmit`] has something for the transport.
    #[must_use]
    pub fn wants_transmit(&self) -> bool {
        !self.output.is_empty()
            || self.greeting
            || self.goaway.is_some()
            || !self.ping_answers.is_empty()
            || !self.resets.is_empty()
            || !self.credit_due.is_empty()
            || self.liveness.is_due()
    }

    /// Why the session ended, where it did so other than by agreement.
    #[must_use]
    pub const fn error(&self) -> Option<&Error> {
        self.error.as_ref()
    }

    /// Whether the session has ended; what [`Session::poll_transmit`] still has may be sent.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.phase == Phase::Closed
    }

    /// Whether streams can be opened.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.phase == Phase::Open && self.next_id != 0
    }

    /// Whether the peer's request came with FIN on its head (SPDY/3.1 2.3.1): it has no body, not
    /// even an empty one. False for streams that we opened.
    #[must_use]
    pub fn is_head_only(&self, key: Key) -> bool {
        self.table.get(key).is_some_and(|stream| stream.is_head_only)
    }

    /// How the peer behaves, as far as it has shown.
    #[must_use]
    pub const fn profile(&self) -> Profile {
        self.profile
    }

    /// What was counted.
    #[must_use]
    pub fn counters(&self) -> Counters {
        let mut waits = self.waits;
        for (_, stream) in self.table.iter() {
            waits.end(&mut stream.waiting.clone(), self.clock, self.liveness.round_trip());
        }
        Counters {
            waited_window: waits.window,
            waited_reader: waits.reader,
            waited_output: waits.output,
            streams_now: self.table.len(),
            budget_used: self.account.used(),
            round_trip: self.liveness.round_trip(),
            ..self.counters
        }
    }

    /// Streams whose whole request went out at least `age` ago and that have no reply, while the
    /// peer moved no other either: it is alive, and does nothing.
    #[must_use]
    pub fn neglected(&self, age: Duration, now: Instant) -> usize {
        let is_old = |since: Instant| now.saturating_duration_since(since) >= age;
        let owed = |stream: &Stream| {
            stream.state == StreamState::AwaitingReply { fin: true } && is_old(stream.opened)
        };
        if !is_old(self.moved) {
            return 0;
        }
        self.table.iter().filter(|(_, stream)| owed(stream)).count()
    }

    /// Why a stream failed, if it did.
    #[must_use]
    pub fn failure(&self, key: Key) -> Option<StreamError> {
        self.table.get(key).map_or(Some(StreamError::State), |stream| stream.failure)
    }

    /// Octets that wait for the transport.
    #[must_use]
    pub fn output_len(&self) -> usize {
        self.output.waiting().len()
    }

    /// Whether DATA and heads find no room until the transport took something.
    #[must_use]
    pub fn is_output_full(&self) -> bool {
        self.output.data_room() < Self::SLIVER
    }

    /// Credit of a stream, or of the session for `None`, in octets: what we may send, and what the
    /// peer may send. Below zero after an overrun or a lowered initial window.
    #[must_use]
    pub fn windows(&self, key: Option<Key>) -> Option<(i64, i64)> {
        match key {
            None => Some((self.send_window.value(), self.received.window.value())),
            Some(key) => {
                let stream = self.table.get(key)?;
                Some((stream.send_window.value(), stream.receive_window.value()))
            }
        }
    }

    /// Checks what must hold between any two calls; for tests and fuzzing.
    ///
    /// # Errors
    /// The statement that does not hold.
    pub fn audit(&self) -> Result<(), &'static str> {
        let charged: usize = self.table.iter().map(|(_, stream)| stream.charged).sum();
        let under = self.table.iter().any(|(_, stream)| stream.holds() > stream.charged);
        let idle_holds = self.table.is_empty() && !self.schedule.is_empty();
        let turns: usize = self.table.iter().map(|(_, stream)| stream.turn).sum();
        for (broken, statement) in [
            (charged != self.account.used(), "the account is the sum of the charges"),
            (charged > TUNNEL_BUDGET, "charges stay within the tunnel's budget"),
            (under, "a stream charges what it holds"),
            (self.table.len() > STREAMS, "the table is bounded"),
            (self.opened.len() > STREAMS, "unaccepted streams are bounded"),
            (idle_holds, "nobody waits without a stream"),
            (self.promised > turns, "promised room is what streams were promised"),
            (self.output.waiting().len() > OUTPUT_MAX, "the output is bounded"),
            (self.resets.len() > RESETS_MAX, "resets that wait are bounded"),
            (self.credit_due.len() > STREAMS, "credit that waits is bounded"),
            (self.events.len() > EVENTS_MAX, "events that wait are bounded"),
        ] {
            if broken {
                return Err(statement);
            }
        }
        Ok(())
    }
}

/// Most octets that ever wait: the output, its room for control frames, one header block.
const OUTPUT_MAX: usize = OUTPUT + 8_192 + CONTROL_FRAME + frame::HEADER;
/// Most RST_STREAM frames that wait: one a slot, and those that the flood budget allows.
const RESETS_MAX: usize = STREAMS + CHEAP_FRAMES as usize;
/// Most events that wait if nobody takes them: two a slot, and one for each cheap frame or opening.
const EVENTS_MAX: usize = 3 * STREAMS + CHEAP_FRAMES as usize;
