//! What requests share for as long as the agent runs, whatever becomes of the table of shares.
//!
//! A disk that comes or goes, and a reload, make a new [`super::Origin`] while requests of the one
//! before still run. Whatever bounds memory, keeps two changes apart or is remembered for clients
//! must be the same for both, so it is here. It does not own what is served.

use std::{
    cell::RefCell,
    io,
    path::{Path, PathBuf},
    rc::Rc,
    time::Duration,
};

use super::{body, forward, quota::Quota, share::Shared, write::Changes};
use crate::pool::Pool;

/// See the module.
#[derive(Debug)]
pub struct Context {
    pub(super) shared: Shared,
    pub(super) changes: Rc<Changes>,
    /// Blocks of files that are read ahead of their streams.
    pub(super) blocks: Quota,
    /// Threads that look up names of services.
    pub(super) resolver: Rc<Pool>,
    /// Threads by directory of a share: a disk that hangs keeps those of no other share, and a new
    /// table does not bring it more.
    pools: RefCell<Vec<(PathBuf, Rc<Pool>)>>,
    /// What requests waited for pools that are no more.
    waited: RefCell<Duration>,
}

impl Context {
    /// # Errors
    /// The system has no random numbers.
    pub fn new() -> io::Result<Self> {
        let shared =
            Shared::new().map_err(|_| io::Error::other("the system has no random numbers"));
        Ok(Self {
            shared: shared?,
            changes: Rc::default(),
            blocks: Quota::new(body::BLOCKS),
            resolver: Rc::new(Pool::new(forward::RESOLVERS)),
            pools: RefCell::default(),
            waited: RefCell::default(),
        })
    }

    /// The threads of a share's directory, `threads` of them if it is new.
    pub(crate) fn pool(&self, directory: &Path, threads: usize) -> Rc<Pool> {
        let mut pools = self.pools.borrow_mut();
        if let Some((_, pool)) = pools.iter().find(|(known, _)| known == directory) {
            return pool.clone();
        }
        // A share that is gone takes its threads along when its last request has ended.
        pools.retain(|(_, pool)| {
            let is_used = Rc::strong_count(pool) > 1;
            if !is_used {
                *self.waited.borrow_mut() += pool.time_waited();
            }
            is_used
        });
        let pool = Rc::new(Pool::new(threads));
        pools.push((directory.to_owned(), pool.clone()));
        pool
    }

    /// Time that requests have waited for the disks, in sum.
    #[must_use]
    pub fn disk_wait(&self) -> Duration {
        let pools = self.pools.borrow();
        let now: Duration = pools.iter().map(|(_, pool)| pool.time_waited()).sum();
        now + *self.waited.borrow() + self.shared.pool.time_waited()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_of_a_directory_stay_the_same_while_somebody_uses_them() {
        let context = Context::new().unwrap();
        let films = context.pool(Path::new("/films"), 2);
        assert!(Rc::ptr_eq(&films, &context.pool(Path::new("/films"), 2)));
        drop(context.pool(Path::new("/music"), 2));
        assert!(Rc::ptr_eq(&films, &context.pool(Path::new("/films"), 2)));
        context.pool(Path::new("/photos"), 2);
        assert_eq!(context.pools.borrow().len(), 2, "films and photos");
    }
}
