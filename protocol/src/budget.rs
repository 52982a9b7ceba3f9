//! Budgets of received octets: of a process, shared by its sessions, and of one tunnel in it.
//!
//! A stream charges what its peer may send plus what waits to be read, so the sum of the charges
//! bounds the memory of all inboxes. What happens when a budget is spent is the session's business.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use crate::limits::{INITIAL_WINDOW, STREAMS, TUNNEL_BUDGET};

/// Octets that all streams of a process may hold (default [`crate::limits::PROCESS_BUDGET`]).
#[derive(Debug)]
pub struct Budget {
    used: AtomicUsize,
    octets: usize,
}

impl Budget {
    /// A budget of this many octets.
    #[must_use]
    pub const fn new(octets: usize) -> Self {
        Self { used: AtomicUsize::new(0), octets }
    }

    /// Octets that are charged now.
    #[must_use]
    pub fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    /// Charges, unless less than `reserve` would be left.
    fn try_charge(&self, octets: usize, reserve: usize) -> bool {
        let fits = |used: usize| {
            let after = used.checked_add(octets)?;
            (after.checked_add(reserve)? <= self.octets).then_some(after)
        };
        self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits).is_ok()
    }

    fn release(&self, octets: usize) {
        self.used.fetch_sub(octets, Ordering::Relaxed);
    }
}

/// What one tunnel has charged to its own budget and to its process's. Dropping it gives all back.
#[derive(Debug)]
pub struct Account {
    used: usize,
    octets: usize,
    process: Arc<Budget>,
}

impl Account {
    /// Octets kept free for the first window of every stream slot, so that growth of some streams
    /// never keeps others from being opened.
    const BASE: usize = STREAMS * INITIAL_WINDOW as usize;

    /// An account of [`TUNNEL_BUDGET`] octets in `process`.
    #[must_use]
    pub const fn new(process: Arc<Budget>) -> Self {
        Self { used: 0, octets: TUNNEL_BUDGET, process }
    }

    /// Charges a stream's first window.
    pub fn try_open(&mut self, octets: usize) -> bool {
        self.try_charge(octets, 0, 0)
    }

    /// Charges growth of a window: out of what is left beside the first windows of all slots, and
    /// never the last quarter of the process's budget.
    pub fn try_grow(&mut self, octets: usize) -> bool {
        self.try_charge(octets, Self::BASE, self.process.octets / 4)
    }

    fn try_charge(&mut self, octets: usize, tunnel_reserve: usize, reserve: usize) -> bool {
        let fits = self.used + octets + tunnel_reserve <= self.octets;
        let charged = fits && self.process.try_charge(octets, reserve);
        if charged {
            self.used += octets;
        }
        charged
    }

    /// Gives back what a stream no longer holds.
    pub fn release(&mut self, octets: usize) {
        debug_assert!(octets <= self.used, "{octets} of {}", self.used);
        self.used -= octets;
        self.process.release(octets);
    }

    /// Octets that are charged now.
    #[must_use]
    pub const fn used(&self) -> usize {
        self.used
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        self.process.release(self.used);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn growth_leaves_room_for_the_first_window_of_every_slot() {
        let process = Arc::new(Budget::new(usize::MAX / 2));
        let mut account = Account::new(Arc::clone(&process));
        assert!(account.try_grow(TUNNEL_BUDGET - Account::BASE));
        assert!(!account.try_grow(1));
        for _ in 0..STREAMS {
            assert!(account.try_open(INITIAL_WINDOW as usize));
        }
        assert!(!account.try_open(1));
        assert_eq!(process.used(), TUNNEL_BUDGET);
        drop(account);
        assert_eq!(process.used(), 0);
    }

    #[test]
    fn process_budget_binds_all_tunnels() {
        let process = Arc::new(Budget::new(100));
        let mut one = Account::new(Arc::clone(&process));
        let mut two = Account::new(Arc::clone(&process));
        assert!(one.try_open(60));
        assert!(!two.try_open(41));
        assert!(two.try_open(40));
        one.release(60);
        assert!(!one.try_grow(36));
        assert!(one.try_grow(35));
    }
}
