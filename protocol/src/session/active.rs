//! An active stream as its session keeps it: state, windows, inbox, and who waits for what.

use std::time::Instant;

use heapless::Deque;

use super::{Profile, Side, waits::Waiting};
use crate::{
    error::StreamError,
    headers::Headers,
    limits::{AMAHI_FRAMES_IN_FLIGHT, INITIAL_WINDOW},
    stream::{Inbox, StreamState},
    window::Window,
};

#[derive(Debug)]
pub(super) struct Stream {
    pub(super) state: StreamState,
    pub(super) priority: u8,
    pub(super) opened: Instant,
    pub(super) failure: Option<StreamError>,
    /// All that the peer had to say arrived before the failure, and stays good.
    pub(super) complete: bool,

    pub(super) head: Option<Headers>,
    /// Whether FIN came with the head: nothing that the peer sends follows.
    pub(super) is_head_only: bool,
    pub(super) inbox: Inbox,
    /// What the peer may send.
    pub(super) receive_window: Window,
    /// Size that the receive window is kept at.
    pub(super) target: u32,
    pub(super) charged: usize,
    /// Since when something waits unread.
    pub(super) unread_since: Option<Instant>,
    /// Start of the growth epoch, and what was read in it; below 0 for what lay there before.
    pub(super) epoch: (Instant, i64),

    pub(super) send_window: Window,
    /// DATA frames that an Amahi peer has not acknowledged, in octets each.
    pub(super) in_flight: Deque<u32, AMAHI_FRAMES_IN_FLIGHT>,
    pub(super) wants_write: bool,
    pub(super) waiting: Waiting,
    /// Octets of room that it was promised.
    pub(super) turn: usize,
    pub(super) pass: u64,

    pub(super) readable: bool,
    pub(super) writable: bool,
    pub(super) credit_due: bool,
    pub(super) released: bool,
}

impl Stream {
    pub(super) fn new(state: StreamState, priority: u8, now: Instant) -> Self {
        Self {
            state,
            priority,
            opened: now,
            failure: None,
            complete: false,
            head: None,
            is_head_only: false,
            inbox: Inbox::default(),
            receive_window: Window::new(INITIAL_WINDOW),
            target: INITIAL_WINDOW,
            charged: 0,
            unread_since: None,
            epoch: (now, 0),
            send_window: Window::new(INITIAL_WINDOW),
            in_flight: Deque::new(),
            wants_write: false,
            waiting: None,
            turn: 0,
            pass: 0,
            readable: false,
            writable: false,
            credit_due: false,
            released: false,
        }
    }

    pub(super) fn failed(&mut self) -> StreamError {
        self.failure.unwrap_or(StreamError::State)
    }

    /// Octets of DATA that may be sent on this stream now.
    pub(super) fn send_credit(&self, profile: Profile, side: Side) -> usize {
        match (profile, side) {
            // DEVIATION: uploads to an Amahi agent ignore the windows. It never gives credit for
            // them.
            (Profile::Amahi, Side::Client) => usize::MAX,
            (Profile::Amahi, Side::Server) if self.in_flight.is_full() => 0,
            _ => self.send_window.available(),
        }
    }

    /// Credit that would take the peer's window back to its target, in octets.
    pub(super) fn missing_credit(&self) -> i64 {
        if !self.state.can_receive() {
            return 0;
        }
        let unread = i64::try_from(self.inbox.len()).unwrap_or(i64::MAX);
        i64::from(self.target) - self.receive_window.value() - unread
    }

    /// Octets that the stream holds or may be sent, which is what it charges.
    pub(super) fn holds(&self) -> usize {
        let unread = self.inbox.len();
        if self.state.can_receive() {
            (self.receive_window.available() + unread).max(self.target as usize)
        } else {
            unread
        }
    }

    /// Takes frames of an Amahi peer off the list of those under way.
    pub(super) fn acknowledge(&mut self, delta: u32) {
        let mut left = delta;
        while let Some(first) = self.in_flight.front_mut() {
            if *first > left {
                *first -= left;
                return;
            }
            left -= *first;
            self.in_flight.pop_front();
        }
    }
}
