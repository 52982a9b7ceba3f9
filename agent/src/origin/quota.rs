//! An amount that all requests of an origin share.

use std::{cell::Cell, rc::Rc};

/// What is left of an amount; a handle, one thread only.
#[derive(Clone, Debug)]
pub(crate) struct Quota {
    left: Rc<Cell<usize>>,
}

impl Quota {
    pub(crate) fn new(amount: usize) -> Self {
        Self { left: Rc::new(Cell::new(amount)) }
    }

    /// Takes an amount until the lease is dropped; `None` if not so much is left.
    pub(crate) fn lease(&self, amount: usize) -> Option<Lease> {
        self.left.set(self.left.get().checked_sub(amount)?);
        Some(Lease { left: self.left.clone(), amount })
    }

    /// Takes an amount if so much is left behind it for others.
    pub(crate) fn lease_leaving(&self, rest: usize, amount: usize) -> Option<Lease> {
        drop(self.lease(amount.saturating_add(rest))?);
        self.lease(amount)
    }
}

/// Gives its amount back when dropped.
#[derive(Debug)]
pub(crate) struct Lease {
    left: Rc<Cell<usize>>,
    amount: usize,
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.left.set(self.left.get() + self.amount);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lease_comes_back() {
        let quota = Quota::new(3);
        let first = quota.lease(2).unwrap();
        assert!(quota.lease(2).is_none());
        let second = quota.clone().lease(1).unwrap();
        drop(first);
        assert!(quota.lease_leaving(1, 2).is_none() && quota.lease_leaving(0, 2).is_some());
        assert!(quota.lease(2).is_some());
        drop(second);
        assert!(quota.lease(3).is_some());
    }
}
