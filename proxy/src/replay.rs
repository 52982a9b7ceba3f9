//! The bounded copy of a request body that makes the request repeatable.
//!
//! It owns how many bytes are kept, for one body and for all of the process. It does not own when a
//! request is repeated ([`crate::relay`]).

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

/// Bytes that the copies of all request bodies may take.
#[derive(Debug)]
pub(crate) struct ReplayBudget {
    used: AtomicUsize,
    limit: usize,
}

/// What was read of one request body: all of it, or nothing once it would have been too much.
///
/// Memory is taken in steps that double, up to [`REPLAY_MAX`], and each step is charged to the
/// budget before it is taken. Dropping the buffer gives the charge back.
#[derive(Debug)]
pub(crate) struct ReplayBuffer {
    bytes: Vec<u8>,
    /// Bytes charged to the budget: the capacity of `bytes`.
    charged: usize,
    is_complete: bool,
    budget: Arc<ReplayBudget>,
}

impl ReplayBudget {
    /// A budget of `limit` bytes; 0: no request body is kept.
    pub(crate) const fn new(limit: usize) -> Self {
        Self { used: AtomicUsize::new(0), limit }
    }

    /// Bytes that are charged now.
    pub(crate) fn used(&self) -> usize {
        self.used.load(Relaxed)
    }

    fn try_charge(&self, bytes: usize) -> bool {
        let fits = |used: usize| used.checked_add(bytes).filter(|after| *after <= self.limit);
        self.used.fetch_update(Relaxed, Relaxed, fits).is_ok()
    }

    fn release(&self, bytes: usize) {
        self.used.fetch_sub(bytes, Relaxed);
    }
}

impl ReplayBuffer {
    /// An empty buffer, which takes no memory.
    pub(crate) const fn new(budget: Arc<ReplayBudget>) -> Self {
        Self { bytes: Vec::new(), charged: 0, is_complete: true, budget }
    }

    /// Adds what was read. Where that is too much for this body or for all bodies together, nothing
    /// is kept any more, of what comes later neither.
    pub(crate) fn push(&mut self, chunk: &[u8]) {
        if !self.is_complete {
            return;
        }
        let len = self.bytes.len() + chunk.len();
        if len > self.charged && !self.grow(len) {
            self.discard();
            return;
        }
        self.bytes.extend_from_slice(chunk);
    }

    /// Whether everything that was pushed is here.
    pub(crate) const fn is_complete(&self) -> bool {
        self.is_complete
    }

    /// Everything that was pushed, while [`ReplayBuffer::is_complete`].
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Gives the memory back: the request is not repeated any more.
    pub(crate) fn discard(&mut self) {
        self.is_complete = false;
        self.bytes = Vec::new();
        self.budget.release(std::mem::take(&mut self.charged));
    }

    fn grow(&mut self, len: usize) -> bool {
        let capacity = len.next_power_of_two().max(REPLAY_MIN);
        let grown = capacity <= REPLAY_MAX && self.budget.try_charge(capacity - self.charged);
        if grown {
            self.charged = capacity;
            self.bytes.reserve_exact(capacity - self.bytes.len());
        }
        grown
    }
}

impl Drop for ReplayBuffer {
    fn drop(&mut self) {
        self.discard();
    }
}

/// Bytes of the longest request body that is kept.
pub(crate) const REPLAY_MAX: usize = 64 << 10;
/// Bytes that are taken for the shortest.
const REPLAY_MIN: usize = 512;

#[cfg(test)]
mod tests {
    use super::*;

    fn buffer(limit: usize) -> (Arc<ReplayBudget>, ReplayBuffer) {
        let budget = Arc::new(ReplayBudget::new(limit));
        (Arc::clone(&budget), ReplayBuffer::new(budget))
    }

    #[test]
    fn body_is_kept_up_to_its_limit_and_not_beyond() {
        let (budget, mut buffer) = buffer(usize::MAX);
        assert_eq!((budget.used(), buffer.is_complete()), (0, true));
        for at in 0..REPLAY_MAX {
            buffer.push(&[at.to_le_bytes()[0]]);
            assert!(budget.used() >= at && budget.used() <= REPLAY_MAX);
        }
        assert!(buffer.is_complete() && buffer.bytes().len() == REPLAY_MAX);
        assert!(buffer.bytes().iter().enumerate().all(|(at, byte)| *byte == at.to_le_bytes()[0]));
        buffer.push(b"");
        assert!(buffer.is_complete());
        buffer.push(b"x");
        assert_eq!((budget.used(), buffer.is_complete(), buffer.bytes()), (0, false, &b""[..]));
        // What comes later is no body of its own.
        buffer.push(b"y");
        assert_eq!((budget.used(), buffer.is_complete()), (0, false));
    }

    #[test]
    fn all_bodies_together_stay_within_the_budget() {
        let (budget, mut first) = buffer(REPLAY_MAX + REPLAY_MIN);
        first.push(&[1; REPLAY_MAX]);
        let mut second = ReplayBuffer::new(Arc::clone(&budget));
        second.push(&[2; REPLAY_MIN]);
        assert_eq!(budget.used(), REPLAY_MAX + REPLAY_MIN);
        second.push(&[2]);
        assert!(!second.is_complete() && first.is_complete());
        assert_eq!(budget.used(), REPLAY_MAX);
        drop(first);
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn budget_of_nothing_keeps_nothing() {
        let (budget, mut buffer) = buffer(0);
        buffer.push(b"");
        assert!(buffer.is_complete());
        buffer.push(b"x");
        assert!(!buffer.is_complete());
        assert_eq!(budget.used(), 0);
    }
}
