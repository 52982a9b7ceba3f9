//! One thread's executor, and what all threads of a server share.
//!
//! It owns where tasks are spawned: each belongs to its worker's executor and ends with it. It
//! does not own what the tasks do.

use std::{
    future::Future,
    rc::{Rc, Weak},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, SystemTime},
};

use async_executor::LocalExecutor;
use spdy_protocol::budget::Budget;

use crate::{
    accept_errors::AcceptErrors,
    access::Guard,
    gate::Gate,
    identities::Live,
    lobby::Lobby,
    registry::Registry,
    replay::ReplayBudget,
    settings::Settings,
    state::{Serving, State},
    stop::Stop,
    tls::Clients,
    watch::{Limits, Watches},
};

/// What all threads of a server share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) settings: Settings,
    pub(crate) state: State,
    pub(crate) registry: Registry,
    /// Who vouches for agents with certificates.
    pub(crate) clients: Option<Arc<Clients>>,
    pub(crate) guard: Guard,
    pub(crate) budget: Arc<Budget>,
    pub(crate) stop: Stop,
    /// What the tunnel port shows of itself.
    pub(crate) tunnel_tls: Live,
    /// The same of the HTTP port, where it speaks TLS.
    pub(crate) http_tls: Option<Live>,
    /// Whether systemd opened our sockets.
    pub(crate) is_activated: bool,
    /// What says that we serve on the state folder; `None` when we have handed over, or ended.
    pub(crate) serving: Mutex<Option<Serving>>,
    /// Whether another process has taken over, the control socket too.
    pub(crate) handed_over: AtomicBool,
    pub(crate) since: SystemTime,
    /// What we are called in handshakes.
    pub(crate) id: String,
    /// Connections of clients and of agents that could not be accepted.
    pub(crate) http_errors: AcceptErrors,
    pub(crate) tunnel_errors: AcceptErrors,
    /// Tasks that accept visitors.
    pub(crate) acceptors: Gate,
    pub(crate) connections: Gate,
    pub(crate) tunnels: Gate,
    /// Agents that shake hands.
    pub(crate) handshakes: Lobby,
    /// Visitors who have not asked for anything yet.
    pub(crate) visitors: Lobby,
    /// Requests that wait for their origin.
    pub(crate) held_requests: Gate,
    /// Bytes of request bodies that are kept so that their requests can be repeated.
    pub(crate) replay: Arc<ReplayBudget>,
    /// Responses that wait to go on.
    pub(crate) held_responses: Gate,
    /// Responses that went on on another tunnel.
    pub(crate) spliced: AtomicU64,
    /// Downstream connections accepted.
    pub(crate) accepted: AtomicU64,
    /// Request ids are this, then a count: unique in the process, hardly ever repeated after it.
    pub(crate) id_prefix: u32,
    pub(crate) id_count: AtomicU64,
    /// Turns of each thread's clock.
    pub(crate) beats: Box<[AtomicU32]>,
}

/// One thread's executor with its clock.
#[derive(Debug)]
pub(crate) struct Worker {
    executor: Weak<LocalExecutor<'static>>,
    pub(crate) watches: Watches,
    pub(crate) limits: Limits,
    pub(crate) shared: Arc<Shared>,
}

impl Worker {
    /// A worker that spawns on `executor` while that lives.
    pub(crate) fn new(executor: &Rc<LocalExecutor<'static>>, shared: Arc<Shared>) -> Self {
        let timings = &shared.settings.timings;
        let limits = [timings.head, timings.idle, timings.body, timings.agent];
        // A quarter of the shortest limit is precise enough; a second is what real ones need.
        let shortest = limits.into_iter().min().unwrap_or(TICK_MAX);
        let watches = Watches::new((shortest / 4).clamp(TICK_MIN, TICK_MAX));
        let limits = Limits {
            request: watches.ticks(timings.idle),
            head: watches.ticks(timings.head),
            fresh: watches.ticks(FRESH.min(timings.head)),
            body: watches.ticks(timings.body),
            agent: watches.ticks(timings.agent),
        };
        Self { executor: Rc::downgrade(executor), watches, limits, shared }
    }

    /// Runs a task on this thread until it ends or the server does.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        if let Some(executor) = self.executor.upgrade() {
            executor.spawn(task).detach();
        }
    }
}

impl Shared {
    /// Leaves the state folder to others.
    pub(crate) fn leave_folder(&self) {
        self.serving.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    /// An id for a request, 16 to 24 characters.
    pub(crate) fn request_id(&self) -> String {
        format!("{:08x}{:08x}", self.id_prefix, self.id_count.fetch_add(1, Relaxed))
    }
}

/// Time for the first request of a connection that was made just before the server drains.
const FRESH: Duration = Duration::from_secs(2);
const TICK_MIN: Duration = Duration::from_millis(10);
const TICK_MAX: Duration = Duration::from_secs(1);
