//! DATA that leaves, and whose turn it is: streams that wait are promised room by weight.
//!
//! Room is promised in shares each time the output drains. A stream that does not use its turn loses
//! it, so that a slow disk or a spent window holds up nobody; [`Session::audit`] states the rule.
//! Credit and frames are the peers' matter (SPDY/3.1 2.2.2 and 2.6.8), the sharing is ours.

use std::{io, task::Poll};

use super::{
    Direction, Event, Key, Profile, Session, Side,
    active::Stream,
    output::Output,
    waits::{Leg, Waits},
};
use crate::{error::StreamError, frame, stream::StreamState};

impl Session {
    /// Sends one DATA frame of at most `max` octets, which `fill` writes in place and counts; 0
    /// or an error sends nothing. With `end`, the frame carries FIN if it has all of `max`.
    /// `Pending`: no credit, no room or not its turn; [`Event::Writable`] tells when to repeat it.
    ///
    /// # Errors
    /// Those of `fill`, and [`StreamError`] as an [`io::Error`].
    pub fn write_with<F>(
        &mut self,
        key: Key,
        max: usize,
        end: bool,
        fill: F,
    ) -> Poll<io::Result<usize>>
    where
        F: FnOnce(&mut [u8]) -> io::Result<usize>,
    {
        let session_credit = self.session_send_credit();
        let (profile, side) = (self.profile, self.config.side);
        let stream = match self.table.get_mut(key) {
            Some(stream) if stream.failure.is_none() => stream,
            other => {
                return Poll::Ready(Err(other.map_or(StreamError::State, Stream::failed).into()));
            }
        };
        if !stream.state.can_send() {
            return Poll::Ready(Err(StreamError::State.into()));
        }
        let credit = stream.send_credit(profile, side).min(session_credit);
        if credit == 0 || max == 0 {
            self.owing |= !stream.wants_write;
            stream.wants_write = true;
            if credit == 0 {
                Waits::begin(&mut stream.waiting, Leg::Credit, self.clock);
                if profile == Profile::Ours {
                    // Without a round trip nobody can tell a small window from a slow reader.
                    self.liveness.measure(self.clock);
                }
            }
            self.forfeit(key);
            self.give_turns();
            return Poll::Pending;
        }
        let (pass, priority, turn) = (stream.pass, stream.priority, stream.turn);
        let room = self.output.data_room();
        let wanted = max.min(credit);
        let alone = self.schedule.is_empty() && self.promised == turn;
        let limit = match profile {
            _ if turn > 0 => turn,
            _ if alone => Output::DATA_MAX,
            // Others were promised room and do not use it: theirs is not lost, this is extra.
            _ if self.output.is_empty() => Self::SHARE,
            _ => 0,
        };
        // A sliver of room is left alone: the frame would cost more than it carries.
        if limit == 0 || room < wanted.min(Self::SLIVER) {
            self.forfeit(key);
            let pass = self.schedule.join(key, pass, priority);
            if let Some(stream) = self.table.get_mut(key) {
                stream.pass = pass;
                Waits::begin(&mut stream.waiting, Leg::Output, self.clock);
            }
            self.give_turns();
            return Poll::Pending;
        }
        let limit = if profile == Profile::Amahi { limit.min(Self::AMAHI_FRAME) } else { limit };
        let limit = wanted.min(room).min(limit);
        let filled = match self.output.data(key.id, limit, |octets| {
            let count = fill(octets)?;
            Ok((count, end && count == max))
        }) {
            Ok(count @ 1..) => count,
            nothing => {
                // Its disk may take seconds; those who wait must not.
                self.forfeit(key);
                self.give_turns();
                return Poll::Ready(nothing);
            }
        };
        self.promised -= std::mem::take(&mut stream.turn).min(self.promised);
        self.waits.end(&mut stream.waiting, self.clock, self.liveness.round_trip());
        stream.send_window.consume(filled);
        if profile == Profile::Amahi && side == Side::Server {
            let pushed = stream.in_flight.push_back(u32::try_from(filled).unwrap_or(u32::MAX));
            debug_assert!(pushed.is_ok(), "send_credit() is 0 while the queue is full");
        }
        stream.pass = if turn > 0 {
            self.schedule.after_turn(pass, filled, priority)
        } else {
            self.schedule.after_extra(pass, filled, priority)
        };
        let sent = stream.state.on_data_sent(end && filled == max);
        debug_assert!(sent.is_ok(), "can_send() was checked above");
        self.send_window.consume(filled);
        self.trace(Direction::Sent, format_args!("DATA stream={} len={filled}", key.id.value()));
        self.cheap.on_useful();
        self.settle(key);
        Poll::Ready(Ok(filled))
    }

    /// Sends FIN with an empty DATA frame, unless it was sent. `Pending`: as for `write_with`.
    ///
    /// # Errors
    /// [`StreamError`].
    pub fn finish(&mut self, key: Key) -> Poll<Result<(), StreamError>> {
        let room = self.output.has_control_room();
        let stream = match self.table.get_mut(key) {
            Some(stream) if stream.failure.is_none() => stream,
            other => return Poll::Ready(Err(other.map_or(StreamError::State, Stream::failed))),
        };
        match stream.state {
            StreamState::AwaitingReply { fin: true }
            | StreamState::HalfClosedLocal
            | StreamState::Closed => return Poll::Ready(Ok(())),
            _ if !room => {
                let pass = stream.pass;
                self.schedule.join(key, pass, 0);
                return Poll::Pending;
            }
            _ => {}
        }
        if let Err(error) = stream.state.on_data_sent(true) {
            return Poll::Ready(Err(error));
        }
        self.trace(Direction::Sent, format_args!("DATA stream={} fin len=0", key.id.value()));
        self.output.fin(key.id);
        self.settle(key);
        Poll::Ready(Ok(()))
    }

    /// Promises room to the streams that wait for it, and tells them.
    pub(super) fn give_turns(&mut self) {
        let shares = self.output.data_room().saturating_sub(self.promised) / Self::SHARE;
        if shares == 0 || self.schedule.is_empty() {
            return;
        }
        let (table, events) = (&mut self.table, &mut self.events);
        let (waits, clock, round_trip) = (&mut self.waits, self.clock, self.liveness.round_trip());
        let mut promised = 0;
        self.schedule.deal(shares, Self::SHARE, |key, shares| {
            if let Some(stream) = table.get_mut(key) {
                stream.turn = shares * Self::SHARE + (shares - 1) * frame::HEADER;
                promised += stream.turn;
                waits.end(&mut stream.waiting, clock, round_trip);
                if !std::mem::replace(&mut stream.writable, true) {
                    events.push_back(Event::Writable(key));
                }
            }
        });
        self.promised += promised;
    }

    /// A stream does not use what it was promised.
    pub(super) fn forfeit(&mut self, key: Key) {
        if let Some(stream) = self.table.get_mut(key) {
            self.promised -= std::mem::take(&mut stream.turn).min(self.promised);
        }
    }

    pub(super) fn session_send_credit(&self) -> usize {
        match self.profile {
            Profile::Amahi if !self.session_credit_seen => usize::MAX,
            Profile::Amahi | Profile::Ours | Profile::Plain31 => self.send_window.available(),
        }
    }

    /// Octets that are shared out at a time: with the frame's header they fill a TLS record.
    const SHARE: usize = 16_384 - frame::HEADER;
    /// Largest frame towards an Amahi peer.
    const AMAHI_FRAME: usize = 16_384;
    /// Room below which a frame is not started, in octets.
    pub(super) const SLIVER: usize = 1_024;
}
