//! The few threads on which file work that may block is done.
//!
//! It owns the bound on their number. What runs there is the caller's; it must be a piece of
//! bounded size.

use std::{
    any::Any,
    fmt,
    marker::PhantomData,
    pin::Pin,
    sync::{Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use async_channel::{Receiver, Sender};
use blocking::Task;

/// A bound on blocking work at a time; who comes first is served first.
///
/// Threads are made when there is work and end by themselves when there is none.
pub struct Pool {
    give_back: Sender<()>,
    permits: Receiver<()>,
    waited: Mutex<Duration>,
}

impl Pool {
    /// A pool of `threads` at a time, at least one. Default [`THREADS`].
    #[must_use]
    pub fn new(threads: usize) -> Self {
        let (give_back, permits) = async_channel::bounded(threads.max(1));
        while give_back.try_send(()).is_ok() {}
        Self { give_back, permits, waited: Mutex::default() }
    }

    /// Runs `work` on a thread of the pool, waiting for one if all are busy.
    ///
    /// Dropping the future before the work began drops the work; later the work runs to its end
    /// and its result is lost.
    pub async fn run<T, F>(&self, work: F) -> T
    where
        F: FnOnce() -> T + Send + 'static,
        T: Send + 'static,
    {
        let asked = Instant::now();
        let outcome = self.begin(work).await.await;
        *self.waited() += asked.elapsed();
        outcome
    }

    /// The same up to where a thread has been found: for who wants to wait in pieces.
    pub async fn begin<T, F>(&self, work: F) -> Job<T>
    where
        F: FnOnce() -> T + Send + 'static,
        T: Send + 'static,
    {
        let task = self.start(Box::new(|| Box::new(work()))).await;
        Job { task, result: PhantomData }
    }

    /// One task for all kinds of work and results: each kind of its own was 1 KB of program.
    async fn start(&self, work: Box<dyn FnOnce() -> Outcome + Send>) -> Task<Outcome> {
        // Cannot fail: both ends of the channel are ours. Without a permit the work still runs.
        let permit = Permit(self.permits.recv().await.is_ok().then(|| self.give_back.clone()));
        blocking::unblock(move || {
            // The permit goes with the work and not with the future, because a dropped future
            // does not stop a thread that hangs in a disk.
            let _permit = permit;
            work()
        })
    }
}

/// Work that a thread was found for. Dropping it is as dropping the future of [`Pool::run`].
pub struct Job<T> {
    task: Task<Outcome>,
    result: PhantomData<fn() -> T>,
}

impl<T: 'static> Future for Job<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        let result = ready!(Pin::new(&mut self.task).poll(cx)).downcast();
        Poll::Ready(*result.expect("begin made the work, whose result is a T"))
    }
}

impl<T> fmt::Debug for Job<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.task.fmt(f)
    }
}

/// A result of any type.
type Outcome = Box<dyn Any + Send>;

impl Pool {
    /// Time that whoever called [`Pool::run`] has waited for it, in sum.
    #[must_use]
    pub fn time_waited(&self) -> Duration {
        *self.waited()
    }

    fn waited(&self) -> MutexGuard<'_, Duration> {
        self.waited.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool").field("free", &self.permits.len()).finish_non_exhaustive()
    }
}

/// Gives its place back when dropped.
struct Permit(Option<Sender<()>>);

impl Drop for Permit {
    fn drop(&mut self) {
        if let Some(give_back) = &self.0 {
            // There is room: as many permits as places exist.
            let _ = give_back.try_send(());
        }
    }
}

/// Threads for file work. A disk has one arm; more threads only make it jump.
pub const THREADS: usize = 4;

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicUsize, Ordering},
    };

    use futures_lite::future;

    use super::*;

    #[test]
    fn no_more_than_the_bound_runs_at_once() {
        let pool = Pool::new(2);
        let gate = Arc::new((Mutex::new(false), Condvar::new()));
        let started = Arc::new(AtomicUsize::new(0));
        let (sender, arrived) = async_channel::unbounded();
        let mut jobs: Vec<_> = (0..5)
            .map(|_| {
                let (gate, started, sender) = (gate.clone(), started.clone(), sender.clone());
                Box::pin(pool.run(move || {
                    started.fetch_add(1, Ordering::SeqCst);
                    let _ = sender.try_send(());
                    let guard = gate.0.lock().unwrap();
                    drop(gate.1.wait_while(guard, |open| !*open).unwrap());
                }))
            })
            .collect();
        future::block_on(async {
            for job in &mut jobs {
                assert!(future::poll_once(job).await.is_none());
            }
            arrived.recv().await.unwrap();
            arrived.recv().await.unwrap();
            for job in &mut jobs {
                assert!(future::poll_once(job).await.is_none());
            }
            assert_eq!(started.load(Ordering::SeqCst), 2);
            *gate.0.lock().unwrap() = true;
            gate.1.notify_all();
            for job in jobs {
                job.await;
            }
        });
        assert_eq!(started.load(Ordering::SeqCst), 5);
    }

    #[test]
    fn dropped_waiter_gives_its_place_back() {
        let pool = Pool::new(1);
        future::block_on(async {
            for _ in 0..10 {
                drop(Box::pin(pool.run(|| ())));
                pool.run(|| ()).await;
            }
        });
    }
}
