//! Keeps a tunnel to every proxy, for ever.
//!
//! It owns the settings of a running agent and which proxies there is a keeper for: those of
//! the configuration, which may change while it runs, and those that they name. How to dial and how
//! long to wait are [`crate::dial`]'s and [`crate::backoff`]'s.

mod keeper;

mod shared;

mod view;

mod shares;

use std::{
    cell::{Cell, RefCell},
    fmt,
    future::Future,
    net::IpAddr,
    pin::Pin,
    rc::Rc,
    sync::Arc,
    time::{Duration, SystemTime},
};

use async_channel::{Receiver, Sender};
use async_executor::{LocalExecutor, Task};
use async_rustls::rustls::ClientConfig;
use futures_lite::future::or;
use ring::rand::{SecureRandom, SystemRandom};
use spdy_protocol::{budget::Budget, limits};

use self::{
    keeper::{Keeper, Nudge},
    shared::Shared,
    shares::Shares,
    view::View,
};
pub use self::{
    shares::{ShareReport, examine_share},
    view::{ProxyReport, Stage},
};
use crate::{
    backoff::Steps,
    dial::{self, Address, Token},
    log::Log,
    origin,
    resolve::Resolver,
    verify::{Card, Trust, TrustError},
};

/// One proxy.
#[derive(Clone, Debug)]
pub struct Proxy {
    /// Where it listens for agents.
    pub address: Address,
    /// How it is told from an impostor.
    pub trust: Trust,
    /// What tells it who we are; not sent to a proxy that is not verified.
    pub token: Option<Token>,
    /// The same in TLS, where the proxy asks for it, instead of a token.
    pub card: Option<Card>,
}

impl Proxy {
    /// The TLS configuration to dial it with.
    ///
    /// # Errors
    /// Its authorities cannot be used.
    pub fn client_config(&self) -> Result<ClientConfig, TrustError> {
        let mut config = self.trust.client_config()?;
        if let Some(card) = self.card.as_ref().filter(|_| self.trust.is_verified()) {
            config.client_auth_cert_resolver = card.resolver();
        }
        Ok(config)
    }
}

/// All that an agent needs to run.
#[derive(Clone, Debug)]
pub struct Settings {
    /// One tunnel is kept to each.
    pub proxies: Vec<Proxy>,
    /// Whether proxies that these name are dialled, too, if they prove one of their pins.
    pub follow_peers: bool,
    /// The name we are reached by: `[a-z0-9-]{1,63}`.
    pub name: String,
    /// 128 bits that tell this installation from another of the same name.
    pub instance: [u8; 16],
    /// What is served.
    pub origin: origin::Options,
    /// Shortest time between two looks at the folders, which only requests bring about. Default
    /// 10 s.
    pub look: Duration,
    /// Deadlines of a dial.
    pub dial: dial::Timings,
    /// Finds addresses.
    pub resolver: Resolver,
    /// Waits between dials.
    pub backoff: Steps,
    /// Durations of a session.
    pub session: limits::Timings,
    /// Time that running requests get when the agent is told to end, or, beyond the time that the
    /// proxy asks its agents to come back in, when that says GOAWAY. Default 30 s.
    pub grace: Duration,
    /// Time between two lines about a proxy that stays away. Default 60 s.
    pub summary: Duration,
    /// The umask of the process, `upload-umask`: what nobody may do with uploads. Set by
    /// [`crate::daemon`], for all agents of the process. Default as it was.
    pub umask: Option<u32>,
    /// Time past its own deadlines after which a supervisor counts as stuck. Default 15 s.
    pub slack: Duration,
    /// Whether every frame is logged (`-s`), without header blocks and contents.
    pub session_debug: bool,
    /// Where lines go. An agent that runs changes its level, and neither this nor the resolver.
    pub log: Log,
}

impl Settings {
    /// The defaults for a folder, without any proxy.
    #[must_use]
    pub fn new(name: impl Into<String>, origin: origin::Options, log: Log) -> Self {
        Self {
            proxies: Vec::new(),
            follow_peers: false,
            name: name.into(),
            instance: origin.instance,
            origin,
            look: Duration::from_secs(10),
            dial: dial::Timings::default(),
            resolver: Resolver::system(),
            backoff: Steps::default(),
            session: limits::Timings::default(),
            grace: Duration::from_secs(30),
            summary: Duration::from_secs(60),
            umask: None,
            slack: Duration::from_secs(15),
            session_debug: false,
            log,
        }
    }

    /// The longest that a tunnel lives without an octet.
    const fn silence(&self) -> Duration {
        self.session.idle_ping.saturating_add(self.session.ping_answer)
    }

    fn has_services(&self) -> bool {
        !self.origin.forwards.is_empty()
    }
}

/// Why an agent cannot start, or not with these settings.
#[derive(Debug)]
pub enum StartError {
    /// A proxy cannot be verified.
    Trust(TrustError),
    /// The system has no random numbers.
    Random,
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Trust(error) => write!(f, "authorities: {error}"),
            Self::Random => f.write_str("the system has no random numbers"),
        }
    }
}

impl std::error::Error for StartError {}

/// Runs an agent until `stop` is ready: [`Agent::new`] and [`Agent::run`].
///
/// # Errors
/// [`StartError`], before anything is dialled. Later nothing ends it but `stop`.
pub async fn run(settings: Settings, stop: impl Future<Output = ()>) -> Result<(), StartError> {
    Agent::new(settings)?.run(stop).await;
    Ok(())
}

/// An agent as it is now: for `status` and `doctor`.
#[derive(Clone, Debug)]
pub struct Report {
    /// The name it is reached by.
    pub name: String,
    /// When it was started.
    pub started: SystemTime,
    /// Its proxies: those of the configuration, then those that they named.
    pub proxies: Vec<ProxyReport>,
    /// Its shares.
    pub shares: Vec<ShareReport>,
    /// Time that requests have waited for the disks, in sum.
    pub disk_wait: Duration,
}

/// An agent. It has its own executor, so that any number of agents can run in one process and each
/// ends with all its tasks: dropping it cuts all tunnels.
#[derive(Debug)]
pub struct Agent {
    executor: Rc<LocalExecutor<'static>>,
    shared: Rc<Shared>,
    named: Receiver<Naming>,
    /// What each proxy names now.
    naming: RefCell<Vec<Naming>>,
    keepers: RefCell<Vec<Kept>>,
    /// Keepers that were told to end.
    leaving: RefCell<Vec<Task<()>>>,
    started: SystemTime,
    changed: Receiver<()>,
}

impl Agent {
    /// Makes one; nothing is dialled before [`Agent::run`]. Opens the folders, which may block.
    ///
    /// # Errors
    /// [`StartError`].
    pub fn new(settings: Settings) -> Result<Self, StartError> {
        let executor = Rc::new(LocalExecutor::new());
        let mut run = [0; 8];
        SystemRandom::new().fill(&mut run).map_err(|_| StartError::Random)?;
        let targets = targets(&settings)?;
        let (naming, named) = async_channel::unbounded();
        let (changes, changed) = async_channel::bounded(1);
        let log = settings.log.clone();
        let shares = Shares::open(settings.origin.clone(), settings.look, log.clone());
        let shares = shares.map_err(|_| StartError::Random)?;
        let shared = Rc::new(Shared {
            executor: Rc::downgrade(&executor),
            shares: Rc::new(shares),
            budget: Arc::new(Budget::new(limits::PROCESS_BUDGET)),
            run,
            epoch: Cell::new(0),
            naming,
            changes,
            connected: RefCell::default(),
            settings: RefCell::new(Rc::new(settings)),
            log,
        });
        let agent = Self {
            executor,
            shared,
            named,
            naming: RefCell::default(),
            keepers: RefCell::default(),
            leaving: RefCell::default(),
            started: SystemTime::now(),
            changed,
        };
        targets.into_iter().for_each(|target| agent.keep(target, None));
        Ok(agent)
    }

    /// Keeps the tunnels until `stop` is ready; then it drains them for at most
    /// [`Settings::grace`]. Safe to drop.
    pub async fn run(&self, stop: impl Future<Output = ()>) {
        let work = async {
            or(stop, self.follow()).await;
            let mut tasks = self.leaving.take();
            tasks.extend(self.keepers.take().into_iter().map(Kept::leave));
            for task in tasks {
                task.await;
            }
        };
        self.executor.run(work).await;
    }

    /// Runs something beside the tunnels, for as long as the agent runs and the task is held.
    pub fn spawn(&self, task: impl Future<Output = ()> + 'static) -> Task<()> {
        // One type of task for all: each of its own was 1 KB of program.
        let task: Pin<Box<dyn Future<Output = ()>>> = Box::pin(task);
        self.executor.spawn(task)
    }

    /// Takes other settings. Tunnels to proxies that stay the same are kept, also when only their
    /// token changes; those to proxies that are gone drain; requests that run finish as they began.
    /// Proxies without a tunnel are dialled at once, tunnels are checked.
    ///
    /// # Errors
    /// [`StartError`]: all is as it was.
    pub async fn reload(&self, settings: Settings) -> Result<(), StartError> {
        let targets = targets(&settings)?;
        let old = self.shared.settings();
        self.shared.log.set_level(settings.log.level());
        let (resolver, log) = (old.resolver.clone(), old.log.clone());
        let settings = Settings { resolver, log, ..settings };
        let is_renamed = old.name != settings.name
            || old.instance != settings.instance
            || old.has_services() != settings.has_services();
        self.shared.shares.replace(settings.origin.clone()).await;
        *self.shared.settings.borrow_mut() = Rc::new(settings);
        self.shared.connected.borrow_mut().clear();

        self.leave(|kept| {
            let target = targets.iter().find(|target| target.proxy.address == kept.address());
            if kept.view.is_peer {
                // It has a place in the configuration now, or the name that it knows us by changed.
                return target.is_some() || is_renamed;
            }
            let Some(target) = target else { return true };
            let is_same = kept.view.target().proxy.trust.is_same(&target.proxy.trust);
            kept.view.set_target(target.clone());
            kept.nudge(if is_same && !is_renamed { Nudge::Asked } else { Nudge::Renew });
            false
        });
        for target in targets {
            let is_kept = |kept: &Kept| kept.address() == target.proxy.address;
            if !self.keepers.borrow().iter().any(is_kept) {
                self.keep(target, None);
            }
        }
        self.reconcile();
        Ok(())
    }

    /// Addresses or routes of this machine changed: what failed for want of a network is tried
    /// now, tunnels are checked now. How often that may be is the caller's.
    pub fn network_changed(&self) {
        self.keepers.borrow().iter().for_each(|kept| kept.nudge(Nudge::Network));
    }

    /// Ready when a tunnel has come or gone since the last call, or failed to come.
    pub async fn changed(&self) {
        // Its other end lives as long as this.
        let _ = self.changed.recv().await;
    }

    /// How its tunnels are, in a line without control characters.
    #[must_use]
    pub fn line(&self) -> String {
        let keepers = self.keepers.borrow();
        let lines: Vec<_> = keepers.iter().map(|kept| kept.view.line()).collect();
        lines.join("; ")
    }

    /// The proxy whose supervisor has missed its own deadlines by more than [`Settings::slack`]:
    /// it is stuck, by a fault of ours. To be asked at least once in the time of the shortest of
    /// these deadlines.
    #[must_use]
    pub fn stuck(&self) -> Option<Address> {
        let settings = self.settings();
        let keepers = self.keepers.borrow();
        let is_stuck = |kept: &&Kept| kept.view.lateness(settings.silence()) > settings.slack;
        keepers.iter().find(is_stuck).map(Kept::address)
    }

    /// How it is. Asks the disks of the shares.
    pub async fn report(&self) -> Report {
        let shares = self.shared.shares.report().await;
        let proxies = self.keepers.borrow().iter().map(|kept| kept.view.report()).collect();
        let disk_wait = self.shared.shares.disk_wait();
        let name = self.shared.settings().name.clone();
        Report { name, started: self.started, proxies, shares, disk_wait }
    }

    /// What it runs with.
    #[must_use]
    pub fn settings(&self) -> Rc<Settings> {
        self.shared.settings()
    }

    /// Follows what proxies name.
    async fn follow(&self) {
        while let Ok(named) = self.named.recv().await {
            {
                let mut naming = self.naming.borrow_mut();
                naming.retain(|old| !Rc::ptr_eq(&old.by, &named.by));
                naming.push(named);
            }
            self.reconcile();
        }
    }

    /// Starts and ends keepers for peers, by what is named now.
    fn reconcile(&self) {
        let mut wanted: Vec<(Rc<Target>, IpAddr)> = Vec::new();
        if self.shared.settings().follow_peers {
            let naming = self.naming.borrow();
            let named = naming.iter().flat_map(|naming| {
                let addresses = naming.peers.iter().filter_map(|peer| Address::parse(peer).ok());
                addresses.map(|address| (naming.by.target(), address, naming.from))
            });
            for (by, address, from) in named {
                let is_configured = |kept: &Kept| !kept.view.is_peer && kept.address() == address;
                if wanted.len() < PEERS_MAX
                    && !wanted.iter().any(|(target, _)| target.proxy.address == address)
                    && !self.keepers.borrow().iter().any(is_configured)
                {
                    let proxy = Proxy { address, ..by.proxy.clone() };
                    wanted.push((Rc::new(Target { proxy, tls: by.tls.clone() }), from));
                }
            }
        }
        self.leave(|kept| {
            let named = wanted.iter().find(|(target, _)| target.proxy.address == kept.address());
            if kept.view.is_peer {
                kept.view.is_wanted.set(named.is_some());
                if let Some((target, _)) = named {
                    kept.view.set_target(target.clone());
                }
            }
            // A tunnel that is there is used up to its end.
            kept.task.is_finished() || !kept.view.is_wanted.get() && !kept.view.is_connected()
        });
        for (target, from) in wanted {
            let is_kept = |kept: &Kept| kept.address() == target.proxy.address;
            let peers = self.keepers.borrow().iter().filter(|kept| kept.view.is_peer).count();
            if peers < PEERS_MAX && !self.keepers.borrow().iter().any(is_kept) {
                self.shared.log.info(format_args!("event=peer proxy={}", target.proxy.address));
                self.keep(target, Some(from));
            }
        }
    }

    fn keep(&self, target: Rc<Target>, inside: Option<IpAddr>) {
        let view = Rc::new(View::new(target, inside.is_some(), self.shared.changes.clone()));
        let (stop, stopped) = async_channel::bounded(1);
        let (nudge, nudges) = async_channel::bounded(NUDGES_MAX);
        let keeper = Keeper::new(self.shared.clone(), view.clone(), inside, stopped, nudges);
        let task = self.spawn(keeper.run());
        self.keepers.borrow_mut().push(Kept { view, stop, nudge, task });
    }

    /// Tells those keepers to end of which `is_over` says so.
    fn leave(&self, mut is_over: impl FnMut(&Kept) -> bool) {
        let (over, kept) = self.keepers.take().into_iter().partition(|kept| is_over(kept));
        self.keepers.replace(kept);
        let over: Vec<Kept> = over;
        let mut leaving = self.leaving.borrow_mut();
        leaving.retain(|task| !task.is_finished());
        leaving.extend(over.into_iter().map(Kept::leave));
    }
}

/// A proxy with what its TLS needs.
#[derive(Debug)]
struct Target {
    proxy: Proxy,
    tls: Arc<ClientConfig>,
}

fn targets(settings: &Settings) -> Result<Vec<Rc<Target>>, StartError> {
    let one = |proxy: &Proxy| {
        let tls = Arc::new(proxy.client_config().map_err(StartError::Trust)?);
        Ok(Rc::new(Target { proxy: proxy.clone(), tls }))
    };
    settings.proxies.iter().map(one).collect()
}

/// A keeper as its agent holds it.
#[derive(Debug)]
struct Kept {
    view: Rc<View>,
    /// Nothing is sent: the channel closes when its only sender is dropped.
    stop: Sender<()>,
    nudge: Sender<Nudge>,
    task: Task<()>,
}

impl Kept {
    fn address(&self) -> Address {
        self.view.target().proxy.address.clone()
    }

    fn nudge(&self, nudge: Nudge) {
        // Full: it is about to do what was asked before.
        let _ = self.nudge.try_send(nudge);
    }

    /// Tells the keeper to end; the task is its end.
    fn leave(self) -> Task<()> {
        drop(self.stop);
        self.task
    }
}

/// What a proxy names.
#[derive(Debug)]
struct Naming {
    by: Rc<View>,
    /// Where it is.
    from: IpAddr,
    /// None when its session is over.
    peers: Vec<String>,
}

/// What we call ourselves in the handshake.
pub const SOFTWARE: &str = concat!("spdy-agent/", env!("CARGO_PKG_VERSION"));
/// Most proxies that are dialled because others named them.
const PEERS_MAX: usize = 4;
/// Nudges that may wait for a keeper.
const NUDGES_MAX: usize = 8;

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    const MOMENT: Duration = Duration::from_millis(20);

    /// An agent of a proxy that takes connections and says nothing.
    fn agent(silent: &TcpListener) -> Agent {
        let options = origin::Options::new(std::env::temp_dir());
        let mut settings = Settings::new("nas1", options, Log::discard());
        let address = Address::parse(&silent.local_addr().unwrap().to_string()).unwrap();
        let trust = Trust::Insecure;
        settings.proxies.push(Proxy { address, trust, token: None, card: None });
        (settings.dial.resolve, settings.dial.whole) = (MOMENT, MOMENT);
        (settings.backoff.network, settings.backoff.network_max) = (MOMENT, MOMENT);
        settings.slack = 10 * MOMENT;
        Agent::new(settings).unwrap()
    }

    fn run(agent: &Agent, work: impl Future<Output = ()>) {
        async_io::block_on(or(agent.run(std::future::pending()), work));
    }

    #[test]
    fn supervisor_that_fails_on_time_is_not_stuck() {
        let silent = TcpListener::bind("127.0.0.1:0").unwrap();
        let agent = agent(&silent);
        run(&agent, async {
            for _ in 0..5 {
                // Each is a dial that failed.
                agent.changed().await;
                assert_eq!(agent.stuck(), None);
            }
            assert!(agent.line().contains("deadline"), "{}", agent.line());
        });
    }

    #[test]
    fn supervisor_that_misses_its_own_deadline_is_stuck() {
        let silent = TcpListener::bind("127.0.0.1:0").unwrap();
        let agent = agent(&silent);
        run(&agent, async {
            agent.changed().await;
            // It is polled no more, as if it waited for what never comes.
            drop(std::mem::replace(
                &mut agent.keepers.borrow_mut()[0].task,
                agent.executor.spawn(std::future::pending()),
            ));
            let begun = std::time::Instant::now();
            while agent.stuck().is_none() {
                assert!(begun.elapsed() < Duration::from_secs(20), "nobody misses it");
                async_io::Timer::after(MOMENT).await;
            }
            assert!(begun.elapsed() >= 9 * MOMENT);
        });
    }
}
