//! A whole proxy: binds, serves on its threads, drains, ends.
//!
//! It owns start and end. What it does not own: signals and exit codes ([`crate::command`]), so
//! that another program can embed it.

use std::{
    fmt,
    future::Future,
    io,
    net::{SocketAddr, TcpListener},
    rc::Rc,
    sync::{Arc, atomic::AtomicU64},
    thread,
    time::{Duration, SystemTime},
};

use async_executor::LocalExecutor;
use async_io::{Async, Timer, block_on};
use data_encoding::HEXLOWER;
use futures_lite::future;
use ring::rand::{SecureRandom, SystemRandom};
use rustls::ServerConfig;
use spdy_protocol::{budget::Budget, frame::Reason};

use crate::{
    access::{Access, Guard},
    admin, downstream,
    gate::Gate,
    lobby::Lobby,
    registry::{ANONYMOUS, Registry},
    settings::Settings,
    socket,
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
    control: Option<Async<std::os::unix::net::UnixListener>>,
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

/// Sockets of both ports with their TLS, for each thread.
#[derive(Clone)]
struct Ports {
    http: Vec<Arc<Async<TcpListener>>>,
    tunnel: Vec<Arc<Async<TcpListener>>>,
    http_tls: Option<Arc<ServerConfig>>,
    tunnel_tls: Arc<ServerConfig>,
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

impl fmt::Debug for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ports").field("http", &self.http).field("tunnel", &self.tunnel).finish()
    }
}

impl Server {
    /// Opens the state folder, makes or reads the keys and binds all addresses.
    ///
    /// # Errors
    /// See [`StartError`]; nothing is left bound.
    pub fn bind(settings: Settings) -> Result<Self, StartError> {
        let state = State::open(&settings.state_dir)?;
        let identity = state.identity(Port::Tunnel)?;
        let clients = match &settings.client_ca {
            Some(ca) => Some(Arc::new(Clients::open(ca, settings.client_crl.as_deref())?)),
            None => None,
        };
        let tunnel_tls = identity
            .server_config(&upstream::ALPN, clients.clone())
            .map_err(StartError::Identity)?;
        let http_tls = if settings.tls {
            let identity = state.identity(Port::Http)?;
            Some(identity.server_config(&downstream::ALPN, None).map_err(StartError::Identity)?)
        } else {
            None
        };
        let (http, http_addresses) = listen(&settings.listen)?;
        let (tunnel, tunnel_addresses) = listen(&settings.tunnel_listen)?;
        let control = match admin::bind_control(&state) {
            Ok(control) => Some(control),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                return Err(StartError::Control(error));
            }
            // A state folder with a very long path: everything works but the live `list`.
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                settings.log.warn(format_args!("control=none {error}"));
                None
            }
            Err(error) => return Err(StartError::Control(error)),
        };
        let registry = Registry::new();
        registry.set_paired(registry.ticket(), state.origins()?);
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
            stop: Stop::default(),
            since: SystemTime::now(),
            // Derived from the key: stable, and different for each proxy of an agent.
            id: HEXLOWER.encode(&identity.pin()[..6]),
            connections: Gate::new(bounds.connections),
            tunnels: Gate::new(bounds.tunnels),
            handshakes: Lobby::new(bounds.handshakes, bounds.waiting, settings.timings.patience),
            // However many come and say nothing, half of the places are for those who speak.
            visitors: Lobby::new(
                (bounds.connections / 4).max(SILENT_MIN),
                (bounds.connections / 4).max(SILENT_MIN),
                settings.timings.patience,
            ),
            accepted: AtomicU64::new(0),
            id_prefix: u32::from_be_bytes(prefix),
            id_count: AtomicU64::new(0),
            settings,
        };
        let ports = Ports { http, tunnel, http_tls, tunnel_tls };
        Ok(Self { shared: Arc::new(shared), ports, http_addresses, tunnel_addresses, control })
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
        self.warn_of_access();
        let Self { shared, ports, control, .. } = self;
        let mut threads = Vec::new();
        for at in 1..shared.settings.threads {
            let (work, ports) = (Arc::clone(&shared), ports.clone());
            let spawned = thread::Builder::new()
                .name(format!("serve-{at}"))
                .spawn(move || serve(work, ports, None, async {}));
            match spawned {
                Ok(thread) => threads.push(thread),
                Err(error) => {
                    shared.stop.advance(Phase::Ended);
                    return Err(StartError::System(error));
                }
            }
        }
        let lead = async {
            future::or(done, shared.stop.reached(Phase::Draining)).await;
            drain(&shared).await;
        };
        serve(Arc::clone(&shared), ports, control, lead);
        for thread in threads {
            // A thread that panicked has said so on stderr; in release builds the process is gone.
            let _ = thread.join();
        }
        Ok(())
    }

    /// Says once what an operator may not expect of who comes in and who does not.
    fn warn_of_access(&self) {
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
        let is_exposed = |address: &SocketAddr| downstream::is_exposed(settings, address);
        let has_password = |access: &Access| matches!(access, Access::Password(_));
        if self.http_addresses.iter().any(is_exposed) && registry.count_access(has_password) > 0 {
            guard.warn_exposed();
        }
    }
}

/// One thread's work until the server has ended.
fn serve(
    shared: Arc<Shared>,
    ports: Ports,
    control: Option<Async<std::os::unix::net::UnixListener>>,
    lead: impl Future<Output = ()>,
) {
    let executor = Rc::new(LocalExecutor::new());
    let worker = Rc::new(Worker::new(&executor, Arc::clone(&shared)));
    for listener in ports.http {
        worker.spawn(downstream::accept(Rc::clone(&worker), listener, ports.http_tls.clone()));
    }
    for listener in ports.tunnel {
        worker.spawn(upstream::accept(Rc::clone(&worker), listener, ports.tunnel_tls.clone()));
    }
    if let Some(control) = control {
        worker.spawn(admin::control(Rc::clone(&worker), control));
    }
    worker.spawn(tick(Rc::clone(&worker)));
    let lead = future::zip(lead, shared.stop.reached(Phase::Ended));
    block_on(executor.run(lead));
    // Dropping the executor ends every task that is left.
}

/// Counts the worker's time, and closes its connections when the server drains.
async fn tick(worker: Rc<Worker>) {
    let ticking = async {
        loop {
            Timer::after(worker.watches.tick()).await;
            worker.watches.sweep();
        }
    };
    future::or(ticking, worker.shared.stop.reached(Phase::Draining)).await;
    worker.watches.close();
    loop {
        Timer::after(worker.watches.tick()).await;
        worker.watches.sweep();
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
        // Visitors first: while one is served its tunnel is needed.
        for upstream in shared.registry.upstreams() {
            upstream.tunnel.drain();
        }
        shared.connections.emptied().await;
        shared.tunnels.emptied().await;
    };
    let grace = async {
        Timer::after(shared.settings.timings.grace).await;
    };
    future::or(finished, grace).await;
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

fn listen(addresses: &[SocketAddr]) -> Result<Bound, StartError> {
    let (mut sockets, mut bound) = (Vec::new(), Vec::new());
    for address in addresses {
        let failed = |error| StartError::Listen(*address, error);
        let socket = socket::listen(*address).map_err(failed)?;
        bound.push(socket.get_ref().local_addr().map_err(failed)?);
        sockets.push(Arc::new(socket));
    }
    Ok((sockets, bound))
}

/// Silent visitors that are kept however few connections are allowed.
const SILENT_MIN: usize = 4;
/// Time for the GOAWAYs of a server whose grace is over.
const LAST_WORDS: Duration = Duration::from_millis(250);
