//! Checks what visitors show, and bounds what that costs.
//!
//! A password is checked once: its right credentials are then known by a hash under a key of this
//! process. Until then checks wait in a line of bounded length and run on the blocking pool, few at
//! a time, each with 19 MiB. Whoever was wrong too often is not looked at for a while; what is
//! known to be right comes in all the same, so that nobody locks others out of a shared address.
//!
//! It does not own what a visitor is told (`crate::relay`).

use std::{
    net::IpAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Instant,
};

use blocking::unblock;
use ring::hmac;

use super::{Password, equal};
use crate::{
    failures::{Failures, LIMIT},
    gate::Gate,
    log::Log,
};

/// Checks credentials. Clones are the same guard.
#[derive(Clone, Debug)]
pub(crate) struct Guard {
    shared: Arc<Shared>,
}

/// Why somebody may not come in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Denied {
    /// The user or the password is wrong.
    Wrong,
    /// It was wrong too often; seconds until it is looked at again.
    TooOften(u64),
    /// Too many wait to be checked.
    Busy,
}

#[derive(Debug)]
struct Shared {
    key: hmac::Key,
    failures: Mutex<Failures>,
    /// Checks that run.
    turns: Gate,
    /// Checks that run or wait.
    line: Gate,
    log: Log,
    checked: AtomicU64,
    wrong: AtomicU64,
    has_warned: AtomicBool,
}

impl Guard {
    /// A guard with a key of its own.
    pub(crate) fn new(key: &[u8; 32], log: Log) -> Self {
        let shared = Shared {
            key: hmac::Key::new(hmac::HMAC_SHA256, key),
            failures: Mutex::default(),
            turns: Gate::new(TURNS),
            line: Gate::new(TURNS + WAITING),
            log,
            checked: AtomicU64::new(0),
            wrong: AtomicU64::new(0),
            has_warned: AtomicBool::new(false),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Whether `credentials` are those that were found right before.
    pub(crate) fn knows(&self, password: &Password, credentials: &[u8]) -> bool {
        password.remembered.get().is_some_and(|known| equal(known, &self.tag(credentials)))
    }

    /// Checks `credentials` that somebody at `from` shows. Cancel safe: a check that has begun is
    /// finished, and counts.
    ///
    /// # Errors
    /// [`Denied`].
    pub(crate) async fn check(
        &self,
        password: Arc<Password>,
        credentials: Vec<u8>,
        from: IpAddr,
    ) -> Result<(), Denied> {
        if let Some(decided) = self.decide(&password, &credentials, from) {
            return decided;
        }
        let place = self.shared.line.try_enter().ok_or(Denied::Busy)?;
        let turn = self.shared.turns.enter().await;
        // Those ahead may have made it known, or worn out our patience with this address.
        if let Some(decided) = self.decide(&password, &credentials, from) {
            return decided;
        }
        let guard = self.clone();
        let check = move || {
            // They go when the work is done, not when its visitor is gone.
            let _held = (turn, place);
            guard.shared.checked.fetch_add(1, Relaxed);
            if !password.verify(&credentials) {
                return Err(guard.fail(&password, from));
            }
            let _ = password.remembered.set(guard.tag(&credentials));
            Ok(())
        };
        unblock(check).await
    }

    /// Warns once that passwords are not asked for where they could be overheard.
    pub(crate) fn warn_exposed(&self) {
        if !self.shared.has_warned.swap(true, Relaxed) {
            self.shared.log.warn(format_args!(
                "access=refused reason=\"no password is asked for over plain HTTP that is not \
                 loopback: use -t, or --behind-tls if a front end speaks TLS\""
            ));
        }
    }

    /// Hashes that were computed.
    pub(crate) fn checked(&self) -> u64 {
        self.shared.checked.load(Relaxed)
    }

    /// Wrong credentials that were looked at.
    pub(crate) fn wrong(&self) -> u64 {
        self.shared.wrong.load(Relaxed)
    }

    /// What can be said without computing a hash.
    fn decide(
        &self,
        password: &Password,
        credentials: &[u8],
        from: IpAddr,
    ) -> Option<Result<(), Denied>> {
        if self.knows(password, credentials) {
            return Some(Ok(()));
        }
        if let Some(left) = self.failures().wait(from, Instant::now()) {
            return Some(Err(Denied::TooOften(left.as_secs() + 1)));
        }
        // No other credentials than the known ones are right.
        password.remembered.get().map(|_| Err(self.fail(password, from)))
    }

    fn fail(&self, password: &Password, from: IpAddr) -> Denied {
        self.shared.wrong.fetch_add(1, Relaxed);
        if self.failures().count(from, Instant::now()) == LIMIT {
            let origin = password.user();
            self.shared.log.warn(format_args!("access=blocked origin={origin} peer={from}"));
        }
        Denied::Wrong
    }

    fn failures(&self) -> MutexGuard<'_, Failures> {
        // Each change is one insertion: a panic cannot leave a half.
        self.shared.failures.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tag(&self, credentials: &[u8]) -> [u8; 32] {
        let mut tag = [0; 32];
        tag.copy_from_slice(hmac::sign(&self.shared.key, credentials).as_ref());
        tag
    }
}

/// Hashes that are computed at a time: 38 MiB.
const TURNS: usize = 2;
/// Visitors that wait for that; more get 503.
const WAITING: usize = 16;

#[cfg(test)]
mod tests {
    use futures_lite::future::{block_on, poll_once};

    use super::*;

    const FROM: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));

    fn guard() -> Guard {
        Guard::new(&[7; 32], Log::silent())
    }

    fn password() -> (Arc<Password>, Vec<u8>) {
        let (kept, password) = Password::generate("nas1").unwrap();
        (Arc::new(kept), format!("nas1:{password}").into_bytes())
    }

    #[test]
    fn right_credentials_are_computed_once_and_wrong_ones_never_after_that() {
        let (guard, (kept, right)) = (guard(), password());
        let check = |credentials: &[u8]| {
            block_on(guard.check(Arc::clone(&kept), credentials.to_vec(), FROM))
        };
        assert_eq!(check(b"nas1:wrong"), Err(Denied::Wrong));
        assert!(!guard.knows(&kept, &right));
        assert_eq!(check(&right), Ok(()));
        assert!(guard.knows(&kept, &right) && !guard.knows(&kept, b"nas1:wrong"));
        for _ in 0..3 {
            assert_eq!(check(&right), Ok(()));
            assert_eq!(check(b"nas1:wrong"), Err(Denied::Wrong));
        }
        assert_eq!((guard.checked(), guard.wrong()), (2, 4));
        // Another password is another value, which knows nothing.
        assert!(!guard.knows(&password().0, &right));
    }

    #[test]
    fn too_many_failures_end_the_looking_but_not_for_what_is_known() {
        let (guard, (kept, right)) = (guard(), password());
        let check = |credentials: &[u8], from: IpAddr| {
            block_on(guard.check(Arc::clone(&kept), credentials.to_vec(), from))
        };
        let worn_out = || {
            while check(b"nas1:wrong", FROM) == Err(Denied::Wrong) {}
            check(b"nas1:wrong", FROM)
        };
        assert!(matches!(worn_out(), Err(Denied::TooOften(1..=60))));
        assert_eq!(guard.checked(), 10);
        assert!(matches!(check(&right, FROM), Err(Denied::TooOften(_))));
        assert_eq!(check(&right, IpAddr::from([192, 0, 2, 2])), Ok(()));
        assert_eq!(check(&right, FROM), Ok(()));
        assert_eq!(guard.checked(), 11);
    }

    #[test]
    fn the_line_is_bounded_and_those_in_it_learn_from_those_ahead() {
        let (guard, (kept, right)) = (guard(), password());
        let check = || Box::pin(guard.check(Arc::clone(&kept), right.clone(), FROM));
        // Nobody's turn comes while these are held.
        let turns: Vec<_> = (0..TURNS).map(|_| guard.shared.turns.try_enter().unwrap()).collect();
        let places: Vec<_> = (0..TURNS).map(|_| guard.shared.line.try_enter().unwrap()).collect();
        let mut waiting: Vec<_> = (0..WAITING).map(|_| check()).collect();
        for one in &mut waiting {
            assert!(block_on(poll_once(one)).is_none());
        }
        assert_eq!(block_on(check()), Err(Denied::Busy));
        // Who leaves the line makes room.
        drop(waiting.pop());
        waiting.push(check());
        drop((turns, places));
        for one in waiting {
            assert_eq!(block_on(one), Ok(()));
        }
        assert_eq!(guard.checked(), 1);
        assert_eq!((guard.shared.turns.held(), guard.shared.line.held()), (0, 0));
    }
}
