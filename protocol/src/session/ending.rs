//! How streams and the session end, whoever ends them.

use super::{Event, Key, Phase, Session, Side};
use crate::{
    error::{Error, StreamError, StreamFault},
    frame::{Status, StreamId},
    stream::StreamState,
};

impl Session {
    /// Ends a stream without a frame; its writer learns why, and its reader once it has what had
    /// arrived (npm's spdy-transport now and then resets a stream between its data and its FIN).
    /// What we end ourselves is forgotten at once. One that was never accepted
    /// has neither, and goes at once.
    pub(super) fn fail(&mut self, key: Key, error: StreamError) {
        let Some(stream) = self.table.get_mut(key) else { return };
        if let Some(at) = self.opened.iter().position(|opened| *opened == key) {
            self.opened.remove(at);
            stream.released = true;
        }
        if stream.failure.is_none() {
            stream.complete = !stream.state.can_receive();
            stream.failure = Some(error);
        }
        self.waits.end(&mut stream.waiting, self.clock, self.liveness.round_trip());
        stream.state.on_reset();
        if matches!(error, StreamError::State | StreamError::Stalled) {
            stream.inbox.clear();
            stream.unread_since = None;
        }
        self.notify_readable(key);
        self.notify_writable(key);
        self.settle(key);
    }

    /// After a stream may have closed: charge, memory of its id, slot.
    pub(super) fn settle(&mut self, key: Key) {
        self.see_to_charge(key);
        let Some(stream) = self.table.get_mut(key) else { return };
        if stream.state != StreamState::Closed {
            return;
        }
        let (released, charged) = (stream.released, stream.charged);
        self.schedule.leave(key);
        self.forfeit(key);
        self.give_turns();
        if released {
            self.account.release(charged);
            self.table.remove(key);
            self.remember(key.id);
            self.wake_opener();
            self.check_drained();
        }
    }

    pub(super) fn remember(&mut self, id: StreamId) {
        if self.recent.is_full() {
            self.recent.pop_front();
        }
        let pushed = self.recent.push_back(id);
        debug_assert!(pushed.is_ok(), "room was made above");
    }

    /// A session on which nobody opens streams any more ends with its last one.
    pub(super) fn check_drained(&mut self) {
        // Nobody opens towards a client; towards a server, whoever said GOAWAY says when it ends.
        let is_last = match self.phase {
            Phase::Draining => true,
            Phase::Left => self.config.side == Side::Client,
            Phase::Open | Phase::Closed => false,
        };
        if is_last && self.table.is_empty() {
            self.end(None);
        }
    }

    pub(super) fn end(&mut self, error: Option<Error>) {
        self.phase = Phase::Closed;
        self.error = error;
        self.events.push_back(Event::Closing);
        self.wake_opener();
        for key in self.table.keys() {
            self.fail(key, StreamError::SessionEnded);
        }
    }
}

/// A violation and the status that tells the peer (SPDY/3.1 2.4.2; docs/protocol.md).
pub(super) const fn status_of(fault: StreamFault) -> Status {
    match fault {
        StreamFault::IdInUse
        | StreamFault::BeforeReply
        | StreamFault::HeaderTooLarge
        | StreamFault::HeaderMalformed
        | StreamFault::ReplyHead => Status::ProtocolError,
        StreamFault::TooManyStreams | StreamFault::Push => Status::RefusedStream,
        StreamFault::NotActive => Status::InvalidStream,
        StreamFault::AfterFin => Status::StreamAlreadyClosed,
        StreamFault::SecondReply => Status::StreamInUse,
        StreamFault::Overrun | StreamFault::WindowOverflow => Status::FlowControlError,
        StreamFault::Version => Status::UnsupportedVersion,
    }
}
