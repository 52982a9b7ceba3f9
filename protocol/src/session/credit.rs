//! Receive windows of streams: credit on delivery, growth for readers that keep up, and what all of
//! it charges to the budgets (docs/design.md, "Bounds that must hold together").

use std::{task::Poll, time::Instant};

use super::{Key, Profile, Session};
use crate::{
    error::StreamError,
    frame::Status,
    limits::{CREDIT_STEP_MAX, INITIAL_WINDOW, STREAM_WINDOW_MAX},
    stream::Inbox,
};

impl Session {
    /// Charges a first window; where the budget is spent, cuts the longest stalled stream.
    pub(super) fn charge_first_window(&mut self, now: Instant) -> bool {
        let octets = INITIAL_WINDOW as usize;
        if self.account.try_open(octets) {
            return true;
        }
        let limit = self.config.timings.cut_stalled;
        let stalled = self.table.iter().filter_map(|(key, stream)| {
            let since = stream.unread_since?;
            (stream.failure.is_none() && now.saturating_duration_since(since) >= limit)
                .then_some((since, key))
        });
        let Some((_, key)) = stalled.min_by_key(|(since, _)| *since) else { return false };
        self.fail(key, StreamError::Stalled);
        self.queue_reset(key.id.value(), Status::Cancel);
        self.counters.stalled_cut += 1;
        self.account.try_open(octets)
    }

    /// Hands octets to the caller and sees to credit, growth and charge.
    pub(super) fn deliver<T>(
        &mut self,
        key: Key,
        now: Instant,
        take: impl FnOnce(&mut Inbox) -> Option<(usize, T)>,
    ) -> Poll<Result<Option<T>, StreamError>> {
        let Some(stream) = self.table.get_mut(key) else {
            return Poll::Ready(Err(StreamError::State));
        };
        let Some((count, taken)) = take(&mut stream.inbox) else {
            return match stream.failure {
                Some(error) if !stream.complete => Poll::Ready(Err(error)),
                None if stream.state.can_receive() => Poll::Pending,
                _ => Poll::Ready(Ok(None)),
            };
        };
        let waited = stream.unread_since.map(|since| now.saturating_duration_since(since));
        stream.unread_since = (!stream.inbox.is_empty()).then_some(now);
        if waited.is_some_and(|waited| waited > self.config.timings.stall) {
            stream.target = INITIAL_WINDOW;
            let backlog = count + stream.inbox.len();
            stream.epoch = (now, -i64::try_from(backlog).unwrap_or(i64::MAX));
        }
        self.see_to_growth(key, count, now);
        self.see_to_credit(key);
        self.see_to_charge(key);
        Poll::Ready(Ok(Some(taken)))
    }

    /// Doubles the window of a stream whose reader took a whole window within two round trips:
    /// then the window, not the reader, sets the pace.
    pub(super) fn see_to_growth(&mut self, key: Key, count: usize, now: Instant) {
        if !self.config.grow || self.profile == Profile::Amahi {
            return;
        }
        let Some(stream) = self.table.get_mut(key) else { return };
        let count = i64::try_from(count).unwrap_or(i64::MAX);
        stream.epoch.1 = stream.epoch.1.saturating_add(count);
        if stream.epoch.1 < i64::from(stream.target) || !stream.state.can_receive() {
            return;
        }
        let took = now.saturating_duration_since(stream.epoch.0);
        stream.epoch = (now, 0);
        let target = stream.target;
        if target == STREAM_WINDOW_MAX {
            return;
        }
        self.liveness.measure(now);
        if self.liveness.round_trip().is_some_and(|round_trip| took <= round_trip * 2) {
            self.grow(key, target.saturating_mul(2).min(STREAM_WINDOW_MAX));
        }
    }

    pub(super) fn grow(&mut self, key: Key, target: u32) {
        let Some(stream) = self.table.get_mut(key) else { return };
        let more = target.saturating_sub(stream.target) as usize;
        if self.account.try_grow(more) {
            stream.charged += more;
            stream.target = target;
            self.counters.largest_window = self.counters.largest_window.max(target);
            self.see_to_credit(key);
        }
    }

    /// Notes credit that is worth a frame.
    pub(super) fn see_to_credit(&mut self, key: Key) {
        let Some(stream) = self.table.get_mut(key) else { return };
        let step = (stream.target / 2).min(CREDIT_STEP_MAX);
        if !stream.credit_due && stream.missing_credit() >= i64::from(step) {
            stream.credit_due = true;
            self.credit_due.push(key);
        }
    }

    /// Gives back to the budgets what the stream cannot hold any more.
    pub(super) fn see_to_charge(&mut self, key: Key) {
        let Some(stream) = self.table.get_mut(key) else { return };
        let holds = stream.holds();
        if holds < stream.charged {
            self.account.release(stream.charged - holds);
            stream.charged = holds;
            self.wake_opener();
        }
    }
}
