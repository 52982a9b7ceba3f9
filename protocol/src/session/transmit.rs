//! What leaves a session: control frames when there is room, ahead of DATA, then the output.

use std::{mem, time::Instant};

use super::{Event, Key, Phase, Profile, SESSION_TARGET, Session};
use crate::{
    error::Error,
    frame::{self, Control, Reason},
    limits::INITIAL_WINDOW,
    window::Window,
};

impl Session {
    /// Octets for the transport; hand back with [`Session::transmitted`] how many it took. After
    /// the end of the session this is what tells the peer.
    pub fn poll_transmit(&mut self, now: Instant) -> &[u8] {
        self.clock = now;
        self.encode_control(now);
        self.output.waiting()
    }

    /// The transport took the first `count` octets.
    pub fn transmitted(&mut self, count: usize) {
        self.counters.octets_sent += count as u64;
        self.output.advance(count);
        if self.output.is_empty() {
            // A stream that does not use what it was promised must not hold up the others.
            self.promised = 0;
            if self.table.is_empty() {
                self.output.relax();
            }
        }
        if !self.output.is_full() {
            self.wake_opener();
            self.give_turns();
        }
    }

    /// The next event, in order; `None` until something else is put in.
    pub fn poll_event(&mut self) -> Option<Event> {
        let event = self.events.pop_front()?;
        match event {
            Event::Readable(key) => {
                if let Some(stream) = self.table.get_mut(key) {
                    stream.readable = false;
                }
            }
            Event::Writable(key) => {
                if let Some(stream) = self.table.get_mut(key) {
                    stream.writable = false;
                }
            }
            Event::Opened | Event::Room | Event::Closing => {}
        }
        Some(event)
    }

    /// When [`Session::handle_timeout`] must be called; `None` after the end.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        if self.phase == Phase::Closed {
            return None;
        }
        let timings = &self.config.timings;
        let mut deadline = self.liveness.deadline(self.is_owed(), timings);
        // Without room, time alone cannot send credit: the transport wakes the driver first.
        let can_credit = self.profile != Profile::Amahi && self.output.has_control_room();
        if let Some(since) = self.received.since.filter(|_| can_credit) {
            deadline = deadline.min(since + timings.credit_delay);
        }
        if self.profile == Profile::Amahi {
            if self.pausing {
                deadline = deadline.min(self.started + timings.amahi_pause);
            }
            if self.may_keep_session_window() {
                deadline = deadline.min(self.last_seen + timings.amahi_probe);
            }
        }
        Some(deadline)
    }

    /// When [`Session::handle_timeout`] must be called because a command made the peer owe credit:
    /// earlier, perhaps, than [`Session::poll_timeout`] last said, with nothing to send meanwhile.
    /// Once for each time that this happens.
    #[must_use]
    pub fn poll_owing(&mut self) -> Option<Instant> {
        let owing = std::mem::take(&mut self.owing) && self.phase != Phase::Closed;
        owing.then(|| self.liveness.deadline(true, &self.config.timings))
    }

    /// Time has passed: PING, credit that waited long enough, and what silence says of a peer.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.clock = now;
        if self.phase == Phase::Closed {
            return;
        }
        let owed = self.is_owed();
        if !self.liveness.on_timeout(now, owed, &self.config.timings) {
            self.end(Some(Error::Silent));
            return;
        }
        if self.profile == Profile::Amahi {
            let timings = self.config.timings;
            if self.may_keep_session_window() && now >= self.last_seen + timings.amahi_probe {
                self.become_plain31();
            }
            if self.pausing && now >= self.started + timings.amahi_pause {
                self.pausing = false;
                self.wake_opener();
            }
        }
    }

    /// The peer showed that it keeps session windows: from here on the whole of SPDY/3.1 holds.
    pub(super) fn become_plain31(&mut self) {
        if self.profile == Profile::Amahi {
            self.profile = Profile::Plain31;
            self.greeting = true;
            self.wake_opener();
            self.wake_writers();
        }
    }

    /// Lets everybody try again whose window may have credit.
    pub(super) fn wake_writers(&mut self) {
        for key in self.table.keys() {
            self.wake_writer(key);
        }
    }

    pub(super) fn wake_writer(&mut self, key: Key) {
        let (profile, side) = (self.profile, self.config.side);
        let session_credit = self.session_send_credit();
        let Some(stream) = self.table.get_mut(key) else { return };
        if stream.wants_write && stream.send_credit(profile, side).min(session_credit) > 0 {
            stream.wants_write = false;
            self.waits.end(&mut stream.waiting, self.clock, self.liveness.round_trip());
            self.notify_writable(key);
        }
    }

    /// Whether the peer owes a reply, DATA or credit, so that silence is suspicious.
    fn is_owed(&self) -> bool {
        let owes = |stream: &super::active::Stream| {
            stream.state.is_awaiting_reply()
                || stream.wants_write
                || stream.state.can_receive() && stream.receive_window.available() > 0
        };
        !self.output.is_empty() || self.table.iter().any(|(_, stream)| owes(stream))
    }

    /// Whether a nameless peer fell silent exactly where a session window of 64 KiB ends, although
    /// a stream of it has credit. (A paused viewer's stream has none, and tells nothing.)
    fn may_keep_session_window(&self) -> bool {
        let starved = |stream: &super::active::Stream| {
            stream.state.can_receive()
                && stream.receive_window.available() >= INITIAL_WINDOW as usize / 2
        };
        self.data_received == u64::from(INITIAL_WINDOW)
            && self.table.iter().any(|(_, stream)| starved(stream))
    }

    /// Encodes what is due: answers first, then the session's own frames, resets and credit.
    fn encode_control(&mut self, now: Instant) {
        while self.output.has_control_room() {
            let Some(id) = self.ping_answers.pop_front() else { break };
            self.send(&Control::Ping(id));
        }
        if self.greeting && self.output.has_control_room() {
            self.greeting = false;
            self.greet();
        }
        self.encode_resets();
        self.encode_credit(now);
        if self.output.has_control_room()
            && let Some(id) = self.liveness.take_due(now)
        {
            self.send(&Control::Ping(id));
        }
        if self.output.has_control_room()
            && let Some(reason) = self.goaway.take()
        {
            self.say_goodbye(reason);
        }
    }

    pub(super) fn encode_resets(&mut self) {
        while self.output.has_control_room() {
            let Some((stream, status)) = self.resets.pop_front() else { break };
            self.send(&Control::RstStream { stream, status: status as u32 });
        }
    }

    fn greet(&mut self) {
        // Towards a server it says that nothing may be pushed.
        let streams = match self.config.side {
            super::Side::Client => 0,
            super::Side::Server => u32::try_from(self.config.streams).unwrap_or(u32::MAX),
        };
        let mut settings = Vec::with_capacity(20);
        frame::encode_settings(&[(frame::SETTINGS_MAX_CONCURRENT_STREAMS, streams)], &mut settings);
        self.trace(super::Direction::Sent, format_args!("SETTINGS 4={streams}"));
        self.output.append(&settings);
        self.received.target = SESSION_TARGET;
        // A peer that keeps a window is never below it: what a nameless one sent before it showed
        // that it does was not counted by it.
        if self.received.window.value() < 0 {
            self.received.window = Window::new(0);
        }
        self.return_session_credit();
    }

    fn encode_credit(&mut self, now: Instant) {
        let late = |since: Instant| now >= since + self.config.timings.credit_delay;
        let half = self.received.unreturned >= self.received.target / 2;
        if (self.profile != Profile::Amahi || self.session_credit_seen)
            && self.output.has_control_room()
            && (half || self.received.since.is_some_and(late))
        {
            self.return_session_credit();
        }
        let due = mem::take(&mut self.credit_due);
        for (at, key) in due.iter().enumerate() {
            if !self.output.has_control_room() {
                self.credit_due = due[at..].to_vec();
                return;
            }
            let Some(stream) = self.table.get_mut(*key) else { continue };
            stream.credit_due = false;
            let delta = u32::try_from(stream.missing_credit().max(0)).unwrap_or(0);
            if delta > 0 && stream.receive_window.replenish(delta).is_ok() {
                self.send(&Control::WindowUpdate { stream: key.id.value(), delta });
            }
        }
        if self.credit_due.is_empty() {
            // Keeps the allocation of a busy session.
            self.credit_due = due;
            self.credit_due.clear();
        }
    }

    fn return_session_credit(&mut self) {
        let missing = i64::from(self.received.target) - self.received.window.value();
        let delta = u32::try_from(missing.max(0)).unwrap_or(0);
        if delta > 0 && self.received.window.replenish(delta).is_ok() {
            self.send(&Control::WindowUpdate { stream: 0, delta });
        }
        self.received.unreturned = 0;
        self.received.since = None;
    }

    /// DEVIATION: an Amahi peer gets no GOAWAY. It dies of one; the end of the transport tells it
    /// as much.
    fn say_goodbye(&mut self, reason: Reason) {
        if self.profile != Profile::Amahi {
            let last_good = self.last_accepted;
            self.send(&Control::GoAway { last_good, reason: reason as u32 });
        }
    }
}
