//! Keeps a tunnel to every proxy, for ever.
//!
//! It owns the states of a connection to a proxy, the tasks of a tunnel and the shutdown. How to
//! dial and how long to wait are [`crate::dial`]'s and [`crate::backoff`]'s.
//!
//! No state of a failed connection survives it, except how long we have been away and the last
//! addresses that worked.

use std::{
    cell::Cell,
    fmt,
    future::{Future, poll_fn},
    io,
    pin::pin,
    rc::{Rc, Weak},
    sync::Arc,
    task::Poll,
    time::{Duration, Instant},
};

use async_channel::Receiver;
use async_executor::{LocalExecutor, Task};
use async_io::Timer;
use futures_lite::future::or;
use ring::rand::{SecureRandom, SystemRandom};
use spdy_protocol::{
    budget::Budget,
    error::Error,
    frame::Reason,
    handshake::{Credentials, Features, Hello, Put, agreed},
    head::RequestHead,
    limits,
    session::{Config, Side, Trace},
    tunnel::{self, Incoming, Stream, Tunnel},
};

use crate::{
    backoff::{Cause, Steps},
    dial::{self, Address, DialError, Dialer, Link, Token},
    log::{Log, Quoted},
    origin::{self, Origin},
    verify::{Trust, TrustError},
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
}

/// All that an agent needs to run.
#[derive(Clone, Debug)]
pub struct Settings {
    /// One tunnel is kept to each.
    pub proxies: Vec<Proxy>,
    /// The name we are reached by: `[a-z0-9-]{1,63}`.
    pub name: String,
    /// 128 bits that tell this installation from another of the same name.
    pub instance: [u8; 16],
    /// What is served.
    pub origin: origin::Options,
    /// Deadlines of a dial.
    pub dial: dial::Timings,
    /// Waits between dials.
    pub backoff: Steps,
    /// Durations of a session.
    pub session: limits::Timings,
    /// Time that running requests get when the agent is told to end, or when the proxy drains the
    /// tunnel. Default 30 s.
    pub grace: Duration,
    /// Whether every frame is logged (`-s`), without header blocks and contents.
    pub session_debug: bool,
    /// Where lines go.
    pub log: Log,
}

impl Settings {
    /// The defaults for a folder, without any proxy.
    #[must_use]
    pub fn new(name: impl Into<String>, origin: origin::Options, log: Log) -> Self {
        Self {
            proxies: Vec::new(),
            name: name.into(),
            instance: origin.instance,
            origin,
            dial: dial::Timings::default(),
            backoff: Steps::default(),
            session: limits::Timings::default(),
            grace: Duration::from_secs(30),
            session_debug: false,
            log,
        }
    }
}

/// Why an agent cannot start.
#[derive(Debug)]
pub enum StartError {
    /// The folder cannot be served.
    Root(io::Error),
    /// A proxy cannot be verified.
    Trust(TrustError),
    /// The system has no random numbers.
    Random,
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Root(error) => write!(f, "root folder cannot be served: {error}"),
            Self::Trust(error) => write!(f, "authorities: {error}"),
            Self::Random => f.write_str("the system has no random numbers"),
        }
    }
}

impl std::error::Error for StartError {}

/// Runs an agent until `stop` is ready; then it drains its tunnels for at most
/// [`Settings::grace`] and returns.
///
/// It makes its own executor, so that any number of agents can run in one process and each ends
/// with all its tasks. Safe to drop: all tunnels are cut.
///
/// # Errors
/// [`StartError`], before anything is dialled. Later nothing ends it but `stop`.
pub async fn run(settings: Settings, stop: impl Future<Output = ()>) -> Result<(), StartError> {
    let executor = Rc::new(LocalExecutor::new());
    let mut run = [0; 8];
    SystemRandom::new().fill(&mut run).map_err(|_| StartError::Random)?;
    let origin = Origin::new(&settings.origin, settings.log.clone()).map_err(StartError::Root)?;
    let shared = Rc::new(Shared {
        executor: Rc::downgrade(&executor),
        origin: Rc::new(origin),
        budget: Arc::new(Budget::new(limits::PROCESS_BUDGET)),
        run,
        epoch: Cell::new(0),
        settings,
    });
    // Nothing is sent: the channel closes when its only sender is dropped.
    let (running, stopped) = async_channel::bounded::<()>(1);
    let mut supervisors = Vec::new();
    for proxy in &shared.settings.proxies {
        let tls = Arc::new(proxy.trust.client_config().map_err(StartError::Trust)?);
        let dialer = Dialer::new(proxy.address.clone(), tls, shared.settings.dial);
        let supervisor = Supervisor {
            shared: shared.clone(),
            proxy: proxy.clone(),
            dialer,
            stopped: stopped.clone(),
            away: Duration::ZERO,
            since: Instant::now(),
            told: String::new(),
            draining: Vec::new(),
        };
        supervisors.push(executor.spawn(supervisor.run()));
    }
    let work = async {
        stop.await;
        drop(running);
        for supervisor in supervisors {
            supervisor.await;
        }
    };
    executor.run(work).await;
    Ok(())
}

/// What the supervisors of one agent have in common.
struct Shared {
    /// Weak: the tasks hold this, and the executor holds the tasks.
    executor: Weak<LocalExecutor<'static>>,
    origin: Rc<Origin>,
    budget: Arc<Budget>,
    run: [u8; 8],
    epoch: Cell<u64>,
    settings: Settings,
}

impl Shared {
    /// What the tunnel announces. `upgrade` comes with the services that need it.
    const CAN: Features = Features { stored: true, upgrade: false, splice: true };

    fn put(&self, proxy: &Proxy) -> Put {
        let epoch = self.epoch.get() + 1;
        self.epoch.set(epoch);
        let token = proxy.token.as_ref().filter(|_| proxy.trust.is_verified());
        Put {
            host: proxy.address.to_string(),
            credentials: token
                .map_or(Credentials::None, |token| Credentials::Bearer(token.secret().to_owned())),
            hello: Some(Hello {
                origin: self.settings.name.clone(),
                instance: self.settings.instance,
                run: self.run,
                epoch,
                can: Self::CAN,
                software: SOFTWARE.to_owned(),
                register: None,
            }),
        }
    }

    /// Serves what the proxy asks for, until no more can come. A request's task ends with its
    /// stream, and every stream ends with its tunnel.
    async fn accept(&self, tunnel: &Tunnel, incoming: &mut Incoming) -> Accepted {
        loop {
            let mut accept = pin!(incoming.accept());
            let next = poll_fn(|cx| match accept.as_mut().poll(cx) {
                Poll::Ready(Some(request)) => Poll::Ready(Ok(request)),
                Poll::Ready(None) => Poll::Ready(Err(Accepted::Ended)),
                // GOAWAY wakes who accepts.
                Poll::Pending if !tunnel.is_open() => Poll::Ready(Err(Accepted::Last)),
                Poll::Pending => Poll::Pending,
            });
            match next.await {
                Ok((head, stream)) => self.serve(head, stream),
                Err(last) => return last,
            }
        }
    }

    /// Waits for the end of a tunnel that drains; after the grace it is cut.
    async fn finish(
        &self,
        tunnel: &Tunnel,
        incoming: &mut Incoming,
        driver: &mut Task<Result<(), Error>>,
    ) {
        let drained = async {
            while let Some((head, stream)) = incoming.accept().await {
                self.serve(head, stream);
            }
            true
        };
        let grace = self.settings.grace;
        let late = async {
            Timer::after(grace).await;
            false
        };
        if !or(drained, late).await {
            tunnel.close(Reason::Ok);
        }
        // The driver bounds the time that its last frames have.
        let _ = driver.await;
    }

    fn serve(&self, head: RequestHead, stream: Stream) {
        self.spawn(self.origin.clone().serve(head, stream)).detach();
    }

    fn spawn<T: 'static>(&self, task: impl Future<Output = T> + 'static) -> Task<T> {
        let executor = self.executor.upgrade();
        executor.expect("who calls this is a task of that executor").spawn(task)
    }
}

/// Why nothing is accepted any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Accepted {
    /// The proxy said GOAWAY; what it asked for before that still runs.
    Last,
    /// The session has ended.
    Ended,
}

/// Where a supervisor stands.
///
/// ```text
///        start
///          |
///          v        handshake done
///     Connecting ------------------> Connected
///       ^    |                           |
///  wait |    | failed       GOAWAY, lost |
///  over |    v                           |
///     Disconnected <---------------------+
///
///  stop: from Connected after draining, from the others at once
/// ```
enum State {
    /// Waits before the next dial.
    Disconnected(Cause),
    /// Dials.
    Connecting,
    /// Serves.
    Connected(Box<Link>),
    /// Was told to end.
    Stopped,
}

/// Keeps the tunnel to one proxy.
struct Supervisor {
    shared: Rc<Shared>,
    proxy: Proxy,
    dialer: Dialer,
    stopped: Receiver<()>,
    /// Time without a tunnel up to `since`, since the last tunnel that lived long enough.
    away: Duration,
    /// When the last tunnel was lost, or the start.
    since: Instant,
    /// The last reason in the log, so that each is told once and not with every try.
    told: String,
    /// Tunnels that the proxy drains: they finish what runs while a new one is dialled.
    draining: Vec<Task<()>>,
}

impl Supervisor {
    async fn run(mut self) {
        let mut state = State::Connecting;
        loop {
            state = match state {
                State::Disconnected(cause) => self.wait(cause).await,
                State::Connecting => self.connect().await,
                State::Connected(link) => self.serve(*link).await,
                State::Stopped => break,
            };
        }
        let draining = std::mem::take(&mut self.draining);
        for task in draining {
            task.await;
        }
    }

    async fn wait(&mut self, cause: Cause) -> State {
        let steps = &self.shared.settings.backoff;
        let attempt = steps.attempt(self.away.saturating_add(self.since.elapsed()));
        let delay = steps.delay(cause, attempt, random());
        or(stop(&self.stopped, State::Stopped), async {
            Timer::after(delay).await;
            State::Connecting
        })
        .await
    }

    async fn connect(&mut self) -> State {
        let put = self.shared.put(&self.proxy);
        let stopped = self.stopped.clone();
        let dialled = or(stop(&stopped, None), async { Some(self.dialer.dial(&put).await) }).await;
        match dialled {
            None => State::Stopped,
            Some(Ok(link)) => State::Connected(Box::new(link)),
            Some(Err(error)) => {
                self.tell(&error);
                State::Disconnected(error.cause())
            }
        }
    }

    /// Logs a reason once, however often it comes back.
    fn tell(&mut self, error: &DialError) {
        let reason = error.to_string();
        if self.told != reason {
            let line = format_args!(
                "event=connect_failed proxy={} reason={} action=retrying",
                self.proxy.address,
                Quoted(&reason)
            );
            match error.cause() {
                Cause::Network => self.shared.settings.log.warn(line),
                _ => self.shared.settings.log.error(line),
            }
            self.told = reason;
        }
    }

    async fn serve(&mut self, link: Link) -> State {
        let born = Instant::now();
        self.away = self.away.saturating_add(self.since.elapsed());
        self.told.clear();
        let spread = link.welcome.as_ref().map_or(Duration::ZERO, |welcome| welcome.spread);
        let (tunnel, mut incoming, driver) = self.start(link);
        let mut driver = self.shared.spawn(driver);

        let stopped = self.stopped.clone();
        let shared = self.shared.clone();
        let accepted =
            or(stop(&stopped, None), async { Some(shared.accept(&tunnel, &mut incoming).await) })
                .await;
        if accepted.is_none() {
            tunnel.drain();
            shared.finish(&tunnel, &mut incoming, &mut driver).await;
            self.log_down(&tunnel, born, "stopped");
            return State::Stopped;
        }
        if born.elapsed() >= self.shared.settings.backoff.reset {
            self.away = Duration::ZERO;
        }
        self.since = Instant::now();
        if accepted == Some(Accepted::Last) {
            self.log_down(&tunnel, born, "goaway");
            self.draining.retain(|task| !task.is_finished());
            self.draining.push(self.shared.spawn(async move {
                shared.finish(&tunnel, &mut incoming, &mut driver).await;
            }));
            return State::Disconnected(Cause::Goaway { spread });
        }
        // The driver bounds the time that its last frames have.
        match driver.await {
            Err(error) => {
                self.log_down(&tunnel, born, &error.to_string());
                State::Disconnected(Cause::Network)
            }
            Ok(()) => {
                self.log_down(&tunnel, born, "goaway");
                State::Disconnected(Cause::Goaway { spread })
            }
        }
    }

    /// Starts the session.
    fn start(
        &self,
        link: Link,
    ) -> (Tunnel, Incoming, impl Future<Output = Result<(), Error>> + 'static) {
        let theirs = link.welcome.as_ref().map(|welcome| welcome.can);
        let (profile, features) = agreed(Shared::CAN, theirs);
        let mut config = Config::new(Side::Server, profile, self.shared.budget.clone());
        config.stored_only = features.stored;
        config.uploads = limits::UPLOADS;
        config.grow = false;
        config.timings = self.shared.settings.session;
        if self.shared.settings.session_debug {
            let (log, proxy) = (self.shared.settings.log.clone(), self.proxy.address.clone());
            config.trace = Some(Trace::new(move |direction, frame| {
                log.debug(format_args!("event=frame proxy={proxy} {direction:?} {frame}"));
            }));
        }
        let id = link.welcome.as_ref().map_or("", |welcome| welcome.id.as_str());
        self.shared.settings.log.info(format_args!(
            "event=tunnel_up proxy={} peer={} id={} name={} epoch={}",
            self.proxy.address,
            link.peer,
            Quoted(id),
            self.shared.settings.name,
            self.shared.epoch.get()
        ));
        self.shared.settings.log.debug(format_args!(
            "event=session proxy={} profile={profile:?} features={features:?}",
            self.proxy.address
        ));
        tunnel::tunnel(link.io, config, link.received)
    }

    fn log_down(&self, tunnel: &Tunnel, born: Instant, reason: &str) {
        let counters = tunnel.counters();
        self.shared.settings.log.info(format_args!(
            "event=tunnel_down proxy={} reason={} lived_s={} received={} sent={} requests={}",
            self.proxy.address,
            Quoted(reason),
            born.elapsed().as_secs(),
            counters.octets_received,
            counters.octets_sent,
            counters.streams_opened
        ));
    }
}

/// Ready when the agent is told to end.
async fn stop<T>(stopped: &Receiver<()>, value: T) -> T {
    // Closed: the only message there is.
    let _ = stopped.recv().await;
    value
}

fn random() -> u32 {
    let mut octets = [0; 4];
    // Without random numbers the longest wait is the polite one.
    match SystemRandom::new().fill(&mut octets) {
        Ok(()) => u32::from_ne_bytes(octets),
        Err(_) => u32::MAX,
    }
}

/// What we call ourselves in the handshake.
pub const SOFTWARE: &str = concat!("spdy-agent/", env!("CARGO_PKG_VERSION"));
