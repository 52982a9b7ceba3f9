//! An amount that all requests of an origin share.

use std::cell::Cell;

/// What is left of an amount; one thread only.
#[derive(Debug)]
pub(crate) struct Quota {
    left: Cell<usize>,
}

impl Quota {
    pub(crate) const fn new(amount: usize) -> Self {
        Self { left: Cell::new(amount) }
    }

    /// Takes an amount until the lease is dropped; `None` if not so much is left.
    pub(crate) fn lease(&self, amount: usize) -> Option<Lease<'_>> {
        self.left.set(self.left.get().checked_sub(amount)?);
        Some(Lease { quota: self, amount })
    }
}

/// Gives its amount back when dropped.
#[derive(Debug)]
pub(crate) struct Lease<'a> {
    quota: &'a Quota,
    amount: usize,
}

impl Drop for Lease<'_> {
    fn drop(&mut self) {
        self.quota.left.set(self.quota.left.get() + self.amount);
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
        let second = quota.lease(1).unwrap();
        drop(first);
        assert!(quota.lease(2).is_some());
        drop(second);
        assert!(quota.lease(3).is_some());
    }
}
