//! A whole proxy: binds, serves on its threads, drains, ends.
//!
//! It owns start and end. What it does not own: signals and exit codes ([`crate::command`]), so
//! that another program can embed it.

use std::{
    fmt,
    future::Future,
    io,
    net::{SocketAddr, TcpListener},
    os::unix::net::UnixListener,
    process::Command,
    rc::Rc,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    thread,
    time::{Duration, SystemTime},
};

use async_executor::LocalExecutor;
use async_io::{Async, Timer, block_on};
use blocking::unblock;
use data_encoding::HEXLOWER;
use futures_lite::future;
use ring::rand::{SecureRandom, SystemRandom};
use spdy_protocol::{budget::Budget, frame::Reason};

use crate::{
    accept_errors::AcceptErrors,
    access::{Access, Guard},
    admin::{self, Unpublished},
    downstream,
    gate::Gate,
    handover::{self, HandoverError, Predecessor},
    identities::Live,
    inherit::Inherited,
    lobby::Lobby,
    recycle,
    registry::{ANONYMOUS, Registry},
    replay::ReplayBudget,
    settings::Settings,
    state::{Port, State, StateError},
    stop::{Phase, Stop},
    tls::{Clients, ClientsError, IdentityError},
    upstream,
    worker::{Shared, Worker},
};

/// A server that is bound and does not serve yet.
#[derive(Debug)]
pub struct Server {
    shared: Arc<Shared>,
    ports: Ports,
    http_addresses: Vec<SocketAddr>,
    tunnel_addresses: Vec<SocketAddr>,
    control: Control,
    predecessor: Option<Predecessor>,
}

/// What an operator can ask of a running server, from a task of its first thread.
#[derive(Clone, Debug)]
pub struct Operator {
    shared: Arc<Shared>,
    ports: Ports,
}

/// The control socket.
#[derive(Debug)]
enum Control {
    Bound(Async<UnixListener>),
    /// The predecessor has the name.
    Later(Unpublished),
    /// Another thread has it.
    None,
}

/// Why a server cannot start.
#[derive(Debug)]
pub enum StartError {
    /// An address cannot be listened on.
    Listen(SocketAddr, io::Error),
    /// The state folder, or a key in it, cannot be used.
    State(StateError),
    /// A key and its certificate cannot be used together.
    Identity(IdentityError),
    /// Certificates of agents cannot be verified.
    Clients(ClientsError),
    /// The control socket cannot be made, or another server runs on this state folder.
    Control(io::Error),
    /// No random octets, or no further thread.
    System(io::Error),
}

/// Sockets of both ports, for each thread.
#[derive(Clone, Debug)]
struct Ports {
    http: Vec<Arc<Async<TcpListener>>>,
    tunnel: Vec<Arc<Async<TcpListener>>>,
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Listen(address, error) => write!(f, "cannot listen on {address}: {error}"),
            Self::State(error) => error.fmt(f),
            Self::Identity(error) => error.fmt(f),
            Self::Control(error) if error.kind() == io::ErrorKind::AddrInUse => {
                f.write_str("another spdy-proxy runs on this state folder")
            }
            Self::Control(error) => write!(f, "cannot make the control socket: {error}"),
            Self::Clients(error) => error.fmt(f),
            Self::System(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for StartError {}

impl From<StateError> for StartError {
    fn from(error: StateError) -> Self {
        Self::State(error)
    }
}

impl From<ClientsError> for StartError {
    fn from(error: ClientsError) -> Self {
        Self::Clients(error)
    }
}

impl Server {
    /// Opens the state folder, makes or reads the keys and binds all addresses.
    ///
    /// # Errors
    /// See [`StartError`]; nothing is left bound.
    pub fn bind(settings: Settings) -> Result<Self, StartError> {
        Self::bind_with(settings, Inherited::default(), None)
    }

    /// The same with sockets that are open already. With a `predecessor`, visitors and the control
    /// socket stay its own until it gives way.
    ///
    /// # Errors
    /// See [`StartError`]; nothing is left bound.
    pub fn bind_with(
        settings: Settings,
        inherited: Inherited,
        predecessor: Option<Predecessor>,
    ) -> Result<Self, StartError> {
        let state = State::open(&settings.state_dir)?;
        // Without it, and the control socket, nobody could be revoked: then there is no server.
        let serving = state.serve(predecessor.is_some())?;
        let identity = state.identity(Port::Tunnel)?;
        let clients = match &settings.client_ca {
            Some(ca) => Some(Arc::new(Clients::open(ca, settings.client_crl.as_deref())?)),
            None => None,
        };
        let tunnel_tls =
            Live::new(&state, Port::Tunnel, &identity, &upstream::ALPN, clients.clone())
                .map_err(StartError::Identity)?;
        let http_tls = if settings.tls {
            let identity = state.identity(Port::Http)?;
            let live = Live::new(&state, Port::Http, &identity, &downstream::ALPN, None);
            Some(live.map_err(StartError::Identity)?)
        } else {
            None
        };
        let Inherited { http, tunnel, is_activated } = inherited;
        let (http, http_addresses) = listen(http, is_activated, &settings.listen)?;
        let (tunnel, tunnel_addresses) = listen(tunnel, is_activated, &settings.tunnel_listen)?;
        let control = admin::bind_control(&state).and_then(|unpublished| match predecessor {
            Some(_) => Ok(Control::Later(unpublished)),
            None => unpublished.publish(false).map(Control::Bound),
        });
        let control = control.map_err(StartError::Control)?;
        let registry = Registry::new();
        let origins = state.origins()?;
        let joined: Vec<_> = origins.iter().filter(|origin| origin.joined).cloned().collect();
        let damaged = registry.set_paired(registry.ticket(), origins);
        upstream::warn_of_records(settings.log, damaged);
        registry.expect(joined.iter().map(|origin| origin.name.as_str()));
        let bounds = settings.bounds;
        let (mut prefix, mut key) = ([0; 4], [0; 32]);
        let random = SystemRandom::new();
        random
            .fill(&mut prefix)
            .and_then(|()| random.fill(&mut key))
            .map_err(|_| StartError::System(io::Error::other("no random octets")))?;
        let shared = Shared {
            state,
            registry,
            clients,
            guard: Guard::new(&key, settings.log),
            budget: Arc::new(Budget::new(bounds.budget)),
            stop: if predecessor.is_some() { Stop::waiting() } else { Stop::default() },
            tunnel_tls,
            http_tls,
            is_activated,
            serving: Mutex::new(Some(serving)),
            handed_over: AtomicBool::new(false),
            since: SystemTime::now(),
            // Derived from the key: stable, and different for each proxy of an agent.
            id: HEXLOWER.encode(&identity.pin()[..6]),
            http_errors: AcceptErrors::new("http"),
            tunnel_errors: AcceptErrors::new("tunnel"),
            acceptors: Gate::new(usize::MAX),
            connections: Gate::new(bounds.connections),
            tunnels: Gate::new(bounds.tunnels),
            handshakes: Lobby::new(bounds.handshakes, bounds.waiting, settings.timings.patience),
            // However many come and say nothing, half of the places are for those who speak.
            visitors: Lobby::new(
                (bounds.connections / 4).max(SILENT_MIN),
                (bounds.connections / 4).max(SILENT_MIN),
                settings.timings.patience,
            ),
            held_requests: Gate::new(bounds.held_requests),
            replay: Arc::new(ReplayBudget::new(bounds.replay)),
            held_responses: Gate::new(bounds.held_responses),
            spliced: AtomicU64::new(0),
            accepted: AtomicU64::new(0),
            id_prefix: u32::from_be_bytes(prefix),
            id_count: AtomicU64::new(0),
            beats: (0..settings.threads.max(1)).map(|_| AtomicU32::new(0)).collect(),
            settings,
        };
        let (shared, ports) = (Arc::new(shared), Ports { http, tunnel });
        Ok(Self { shared, ports, http_addresses, tunnel_addresses, control, predecessor })
    }

    /// Addresses of the HTTP port, with the ports that were taken.
    #[must_use]
    pub fn http_addresses(&self) -> &[SocketAddr] {
        &self.http_addresses
    }

    /// Addresses of the tunnel port, with the ports that were taken.
    #[must_use]
    pub fn tunnel_addresses(&self) -> &[SocketAddr] {
        &self.tunnel_addresses
    }

    /// What agents have to pin and what else the state folder knows.
    #[must_use]
    pub fn state(&self) -> &State {
        &self.shared.state
    }

    /// The handle that ends this server, for another thread.
    #[must_use]
    pub fn handle(&self) -> Stop {
        self.shared.stop.clone()
    }

    /// What its operator can ask of it while it runs.
    #[must_use]
    pub fn operator(&self) -> Operator {
        Operator { shared: Arc::clone(&self.shared), ports: self.ports.clone() }
    }

    /// Serves until the handle says stop, then drains for at most the grace setting.
    ///
    /// # Errors
    /// [`StartError::System`] when a thread cannot be started.
    pub fn run(self) -> Result<(), StartError> {
        self.run_until(future::pending())
    }

    /// Serves until `done` is, or until the handle says stop; then drains for at most the grace
    /// setting. The calling thread is one of those that serve.
    ///
    /// # Errors
    /// [`StartError::System`] when a thread cannot be started.
    pub fn run_until(self, done: impl Future<Output = ()>) -> Result<(), StartError> {
        self.warn_of_settings();
        let Self { shared, ports, control, predecessor, .. } = self;
        let mut threads = Vec::new();
        for at in 1..shared.settings.threads {
            let (work, ports) = (Arc::clone(&shared), ports.clone());
            let spawned = thread::Builder::new()
                .name(format!("serve-{at}"))
                .spawn(move || serve(work, at, ports, Control::None, async {}));
            match spawned {
                Ok(thread) => threads.push(thread),
                Err(error) => {
                    shared.stop.advance(Phase::Ended);
                    return Err(StartError::System(error));
                }
            }
        }
        let lead = async {
            let running = future::or(done, shared.stop.reached(Phase::Draining));
            let taking_over = async {
                if let Some(predecessor) = predecessor {
                    predecessor.follow(&shared).await;
                }
                future::pending().await
            };
            let chores = future::or(recycle::watch(&shared), watch_files(&shared));
            future::or(running, future::or(taking_over, chores)).await;
            drain(&shared).await;
        };
        serve(Arc::clone(&shared), 0, ports, control, lead);
        for thread in threads {
            // A thread that panicked has said so on stderr; in release builds the process is gone.
            let _ = thread.join();
        }
        shared.leave_folder();
        Ok(())
    }

    /// Says once what an operator may not expect of who comes in and who does not.
    fn warn_of_settings(&self) {
        let Shared { settings, registry, guard, .. } = &*self.shared;
        if settings.allow_anonymous {
            settings.log.warn(format_args!(
                "access=open origin={ANONYMOUS} reason=\"any agent may be this origin, and every \
                 visitor may use it\""
            ));
        }
        let locked = registry.count_access(|access| *access == Access::Locked);
        if locked > 0 {
            settings.log.warn(format_args!(
                "access=locked origins={locked} reason=\"nobody comes in without a rule: \
                 spdy-proxy access NAME password|open\""
            ));
        }
        if settings.behind_tls && settings.trusted_front_ends.is_empty() {
            settings.log.warn(format_args!(
                "front_ends=none reason=\"all clients of a front end count as one address: \
                 --trusted-front-end ADDRESS of the front end of --behind-tls\""
            ));
        }
        let is_exposed = |address: &SocketAddr| downstream::is_exposed(settings, address);
        let is_local = |address: &SocketAddr| address.ip().to_canonical().is_loopback();
        let mut all = self.http_addresses.iter().chain(&self.tunnel_addresses);
        if self.predecessor.is_none() && all.all(is_local) {
            settings.log.warn(format_args!(
                "listen=loopback reason=\"nobody but this machine reaches either port: \
                 --listen '[::]:1443' --tunnel-listen '[::]:1444'\""
            ));
        }
        let has_password = |access: &Access| matches!(access, Access::Password(_));
        if self.http_addresses.iter().any(is_exposed) && registry.count_access(has_password) > 0 {
            guard.warn_exposed();
        }
    }
}

impl Operator {
    /// The turns of each thread's clock so far: about one a second, unless the thread is stuck.
    #[must_use]
    pub fn beats(&self) -> Vec<u32> {
        self.shared.beats.iter().map(|beat| beat.load(Relaxed)).collect()
    }

    /// Tunnels of agents that there are.
    #[must_use]
    pub fn tunnels(&self) -> usize {
        self.shared.tunnels.held()
    }

    /// Waits until visitors are ours and not another process's. Cancel safe.
    pub async fn took_over(&self) {
        self.shared.stop.reached(Phase::Running).await;
    }

    /// Reads keys, certificates and the records of origins again.
    pub async fn reload(&self) {
        reload_files(&self.shared, true).await;
        upstream::refresh(&self.shared).await;
    }

    /// Starts `command`, whose arguments make it serve as this process does, and gives way to it.
    /// Returns its id when it serves: then this server has to be told to drain. Dropped before
    /// that, it ends the new process, and this one serves on.
    ///
    /// # Errors
    /// [`HandoverError`]: this server serves on.
    pub async fn hand_over(&self, command: &mut Command) -> Result<u32, HandoverError> {
        handover::give_way(&self.shared, &self.ports.http, &self.ports.tunnel, command).await
    }
}

impl Control {
    /// Answers until the server ends.
    async fn serve(self, worker: Rc<Worker>) {
        let shared = Arc::clone(&worker.shared);
        shared.stop.reached(Phase::Running).await;
        let bound = match self {
            Self::Later(unpublished) => unpublished.publish(true),
            Self::Bound(control) => Ok(control),
            Self::None => return,
        };
        match bound {
            Ok(control) => admin::control(worker, control).await,
            Err(error) => shared.settings.log.error(format_args!("control=none {error}")),
        }
    }
}

/// Looks now and then whether keys and certificates have changed.
async fn watch_files(shared: &Arc<Shared>) {
    let interval = shared.settings.timings.files;
    if interval.is_zero() {
        return future::pending().await;
    }
    loop {
        Timer::after(interval).await;
        reload_files(shared, false).await;
        if let Some(clients) = shared.clients.clone()
            && unblock(move || clients.has_changed()).await
            && upstream::refresh(shared).await
        {
            shared.settings.log.info(format_args!("clients=replaced"));
        }
    }
}

async fn reload_files(shared: &Arc<Shared>, now: bool) {
    let shared = Arc::clone(shared);
    unblock(move || {
        for live in [Some(&shared.tunnel_tls), shared.http_tls.as_ref()].into_iter().flatten() {
            live.reload(&shared.state, shared.settings.log, now);
        }
    })
    .await;
}

/// One thread's work until the server has ended.
fn serve(
    shared: Arc<Shared>,
    at: usize,
    ports: Ports,
    control: Control,
    lead: impl Future<Output = ()>,
) {
    let executor = Rc::new(LocalExecutor::new());
    let worker = Rc::new(Worker::new(&executor, Arc::clone(&shared)));
    for listener in ports.http {
        worker.spawn(downstream::accept(Rc::clone(&worker), listener));
    }
    for listener in ports.tunnel {
        worker.spawn(upstream::accept(Rc::clone(&worker), listener));
    }
    worker.spawn(control.serve(Rc::clone(&worker)));
    worker.spawn(tick(Rc::clone(&worker), at));
    let lead = future::zip(lead, shared.stop.reached(Phase::Ended));
    block_on(executor.run(lead));
    // Dropping the executor ends every task that is left.
}

/// Counts the worker's time, and closes its connections when the server drains.
async fn tick(worker: Rc<Worker>, at: usize) {
    let ticking = async {
        loop {
            Timer::after(worker.watches.tick()).await;
            worker.watches.sweep();
            worker.shared.beats[at].fetch_add(1, Relaxed);
        }
    };
    future::or(ticking, worker.shared.stop.reached(Phase::Draining)).await;
    worker.watches.close();
    loop {
        Timer::after(worker.watches.tick()).await;
        worker.watches.sweep();
        worker.shared.beats[at].fetch_add(1, Relaxed);
    }
}

/// Lets what runs finish within the grace time, then ends it.
async fn drain(shared: &Shared) {
    shared.stop.stop();
    shared.settings.log.info(format_args!(
        "server=draining connections={} tunnels={}",
        shared.connections.held(),
        shared.tunnels.held()
    ));
    let finished = async {
        // Visitors first: who has just connected will ask, and needs a tunnel.
        for upstream in shared.registry.upstreams() {
            upstream.tunnel.leave();
        }
        shared.acceptors.emptied().await;
        shared.connections.emptied().await;
        for upstream in shared.registry.upstreams() {
            upstream.tunnel.drain();
        }
        shared.tunnels.emptied().await;
    };
    let grace = async {
        Timer::after(shared.settings.timings.grace).await;
    };
    // Who is revoked meanwhile is told to the process that has taken over.
    let rules = async {
        if shared.handed_over.load(Relaxed) {
            upstream::follow(shared).await;
        }
        future::pending().await
    };
    future::or(future::or(finished, grace), rules).await;
    for upstream in shared.registry.upstreams() {
        upstream.tunnel.close(Reason::Ok);
    }
    // The last GOAWAYs go out; nobody has to take them.
    let sent = shared.tunnels.emptied();
    future::or(sent, async {
        Timer::after(LAST_WORDS).await;
    })
    .await;
    shared.stop.advance(Phase::Ended);
}

type Bound = (Vec<Arc<Async<TcpListener>>>, Vec<SocketAddr>);

fn listen(
    held: Vec<TcpListener>,
    is_activated: bool,
    addresses: &[SocketAddr],
) -> Result<Bound, StartError> {
    let failed = |(address, error)| StartError::Listen(address, error);
    let listening = Inherited::listen(held, is_activated, addresses).map_err(failed)?;
    let addresses = listening.iter().map(|socket| {
        let none = SocketAddr::from(([0, 0, 0, 0], 0));
        socket.get_ref().local_addr().map_err(|error| failed((none, error)))
    });
    let addresses = addresses.collect::<Result<_, _>>()?;
    Ok((listening.into_iter().map(Arc::new).collect(), addresses))
}

/// Silent visitors that are kept however few connections are allowed.
const SILENT_MIN: usize = 4;
/// Time for the GOAWAYs of a server whose grace is over.
const LAST_WORDS: Duration = Duration::from_millis(250);
