//! The tunnel port: agents dial in, prove who they are, and their tunnels run.
//!
//! It owns accepting, TLS, the PUT handshake and the life of a tunnel. It does not own who may
//! speak for an origin ([`crate::state`]) nor what goes through a tunnel ([`crate::relay`]).

use std::{
    fmt, io,
    net::{SocketAddr, TcpListener},
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use async_io::{Async, Timer};
use blocking::unblock;
use data_encoding::BASE64URL_NOPAD;
use futures_lite::{AsyncReadExt, AsyncWriteExt, future};
use rustls::ServerConfig;
use spdy_protocol::{
    handshake::{Answer, Credentials, Features, HandshakeError, Hello, Put, Welcome, agreed},
    session::{Config, Profile, Side, Trace},
    tunnel::tunnel,
};

use crate::{
    gate::Pass,
    log::{Escaped, Level},
    registry::{ANONYMOUS, Run, Stale, Upstream},
    socket::Socket,
    state::StateError,
    stop::Phase,
    tls::TlsStream,
    worker::{Shared, Worker},
};

/// ALPN names of the tunnel port; an agent that offers none is taken too.
pub(crate) const ALPN: [&[u8]; 2] = [b"spdy-tunnel/1", b"http/1.1"];

/// Accepts agents until the server is told to stop.
pub(crate) async fn accept(worker: Rc<Worker>, listener: Arc<Async<TcpListener>>) {
    let shared = Arc::clone(&worker.shared);
    let accepting = || async {
        loop {
            // Room comes first: who is too many waits in the kernel, and is not refused.
            shared.handshakes.room().await;
            match listener.accept().await {
                Ok((stream, peer)) => {
                    let pass = shared.handshakes.enter().await;
                    let tls = shared.tunnel_tls.config();
                    let task = serve(Rc::clone(&worker), stream, peer, tls, pass);
                    worker.spawn(task);
                }
                Err(error) => {
                    shared.settings.log.warn(format_args!("accept=failed port=tunnel {error}"));
                    Timer::after(ACCEPT_PAUSE).await;
                }
            }
        }
    };
    loop {
        match shared.stop.phase() {
            Phase::Waiting | Phase::Running => {
                future::or(accepting(), shared.stop.reached(Phase::Leaving)).await;
            }
            // Whoever comes now is the successor's, if there will be one.
            Phase::Leaving => drop(shared.stop.changed(Phase::Leaving).await),
            Phase::Draining | Phase::Ended => return,
        }
    }
}

/// What came of a handshake.
enum Shaken {
    /// A tunnel begins; the answer was sent.
    Tunnel(Box<Link>),
    /// A token was registered; the agent comes back with it.
    Registered(String),
}

/// A connection whose handshake is done.
struct Link {
    io: TlsStream<Socket>,
    peer: SocketAddr,
    origin: String,
    hello: Option<Hello>,
    /// Octets that came behind the PUT.
    received: Vec<u8>,
    place: Pass,
}

/// Why a handshake came to nothing.
#[derive(Debug)]
enum Rejected {
    /// The agent was told why.
    Told { status: u16, reason: &'static str, origin: Option<String> },
    /// The connection failed or the agent was too slow.
    Io(io::Error),
}

impl fmt::Display for Rejected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Told { status, reason, origin } => {
                let origin = origin.as_deref().unwrap_or_default();
                write!(f, "status={status} origin={} reason={reason:?}", Escaped(origin))
            }
            Self::Io(error) => write!(f, "cause={}", Escaped(&error.to_string())),
        }
    }
}

impl From<io::Error> for Rejected {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

async fn serve(
    worker: Rc<Worker>,
    stream: Async<std::net::TcpStream>,
    peer: SocketAddr,
    tls: Arc<ServerConfig>,
    pass: Pass,
) {
    let shared = &worker.shared;
    let log = shared.settings.log;
    let deadline = async {
        Timer::after(shared.settings.timings.handshake).await;
        Err(Rejected::Io(io::ErrorKind::TimedOut.into()))
    };
    // Boxed: what a handshake needs is given back before the tunnel's long life begins.
    let shaken = Box::pin(future::or(shake_hands(shared, stream, peer, tls), deadline)).await;
    drop(pass);
    match shaken {
        Ok(Shaken::Tunnel(link)) => run(shared, *link).await,
        Ok(Shaken::Registered(origin)) => {
            log.info(format_args!("token=registered origin={origin} peer={peer}"));
        }
        Err(rejected) => {
            shared.registry.totals.count_refused();
            // Port scanners come by all day; who was told something meant us.
            let level = match &rejected {
                Rejected::Told { .. } => Level::Warn,
                Rejected::Io(_) => Level::Debug,
            };
            log.write(level, format_args!("handshake=refused peer={peer} {rejected}"));
        }
    }
}

async fn shake_hands(
    shared: &Shared,
    stream: Async<std::net::TcpStream>,
    peer: SocketAddr,
    tls: Arc<ServerConfig>,
) -> Result<Shaken, Rejected> {
    let socket = Socket::new(stream)?;
    socket.limit_unsent(shared.settings.bounds.unsent)?;
    let mut io = TlsStream::accept(tls, socket).await?;
    let decided = match read_put(&mut io).await? {
        Ok((put, received)) => decide(shared, put).await.map(|decided| (decided, received)),
        Err(rejected) => Err(rejected),
    };
    let (decided, received) = match decided {
        Ok(decided) => decided,
        Err(Rejected::Told { status, reason, origin }) => {
            let retry_after = (status == 503).then_some(FULL_RETRY);
            let answer = Answer::Refused { status, reason: reason.to_owned(), retry_after };
            io.write_all(&answer.encode()).await?;
            io.close().await?;
            return Err(Rejected::Told { status, reason, origin });
        }
        Err(rejected) => return Err(rejected),
    };
    let is_named = decided.hello.is_some();
    io.write_all(&Answer::Established(is_named.then(|| welcome(shared))).encode()).await?;
    let Some(place) = decided.place else {
        io.close().await?;
        return Ok(Shaken::Registered(decided.origin));
    };
    io.flush().await?;
    let Decided { origin, hello, .. } = decided;
    Ok(Shaken::Tunnel(Box::new(Link { io, peer, origin, hello, received, place })))
}

/// Reads the PUT, and what may have come behind it.
async fn read_put(
    io: &mut TlsStream<Socket>,
) -> Result<Result<(Put, Vec<u8>), Rejected>, Rejected> {
    let told = |status, reason| Ok(Err(Rejected::Told { status, reason, origin: None }));
    let mut octets = Vec::with_capacity(1_024);
    let mut chunk = [0; 2_048];
    loop {
        let read = io.read(&mut chunk).await?;
        if read == 0 {
            return Err(Rejected::Io(io::ErrorKind::UnexpectedEof.into()));
        }
        octets.extend_from_slice(&chunk[..read]);
        match Put::parse(&octets) {
            Ok(Some((put, used))) => return Ok(Ok((put, octets.split_off(used)))),
            Ok(None) if octets.len() < PUT_MAX => {}
            Ok(None) | Err(HandshakeError::TooLarge) => return told(431, "request head too large"),
            Err(HandshakeError::Version) => return told(426, "this proxy speaks v=1"),
            Err(_) => return told(400, "malformed handshake"),
        }
    }
}

/// Whom we let in, and as what.
struct Decided {
    origin: String,
    hello: Option<Hello>,
    /// Room for a tunnel; `None` when a token was registered and no tunnel follows.
    place: Option<Pass>,
}

async fn decide(shared: &Shared, put: Put) -> Result<Decided, Rejected> {
    let Put { credentials, hello, .. } = put;
    let name = hello.as_ref().map(|hello| hello.origin.clone());
    let told = |status, reason| Rejected::Told { status, reason, origin: name.clone() };
    let register = hello.as_ref().and_then(|hello| hello.register);
    let origin = match (credentials, name.clone()) {
        (Credentials::None, _) | (_, None) => {
            if !shared.settings.allow_anonymous || register.is_some() {
                return Err(told(401, "this proxy asks for credentials"));
            }
            ANONYMOUS.to_owned()
        }
        (Credentials::Bearer(token), Some(name)) => {
            let (state, origin) = (shared.state.clone(), name.clone());
            let verified = unblock(move || state.verify(&origin, token.as_bytes(), register)).await;
            if !verified.map_err(|error| state_failed(shared, &error))? {
                return Err(told(401, BAD_TOKEN));
            }
            name
        }
        (Credentials::Join(secret), Some(name)) => {
            let Some(token) = register else {
                return Err(told(400, "a join registers a token"));
            };
            let secret =
                BASE64URL_NOPAD.decode(secret.as_bytes()).map_err(|_| told(401, BAD_JOIN))?;
            let (state, origin) = (shared.state.clone(), name.clone());
            let joined = unblock(move || state.join(&origin, &secret, token)).await;
            if !joined.map_err(|error| state_failed(shared, &error))? {
                return Err(told(401, BAD_JOIN));
            }
            name
        }
    };
    if register.is_some() {
        refresh(shared).await;
        return Ok(Decided { origin, hello, place: None });
    }
    let Some(place) = shared.tunnels.try_enter() else {
        return Err(told(503, "no room for another tunnel"));
    };
    Ok(Decided { origin, hello, place: Some(place) })
}

/// A fault of ours, which the agent hears of without detail.
fn state_failed(shared: &Shared, error: &StateError) -> Rejected {
    shared.settings.log.error(format_args!("state=failed {error}"));
    Rejected::Told { status: 503, reason: "the proxy cannot read its state", origin: None }
}

/// Reads again which origins are paired, and who may come in. `false`: the state folder cannot be
/// read, and all stays as it was.
pub(crate) async fn refresh(shared: &Shared) -> bool {
    let (state, ticket) = (shared.state.clone(), shared.registry.ticket());
    let read = unblock(move || state.origins()).await;
    match read {
        Ok(origins) => {
            shared.registry.set_paired(ticket, origins);
            true
        }
        Err(error) => {
            shared.settings.log.error(format_args!("state=failed {error}"));
            false
        }
    }
}

fn welcome(shared: &Shared) -> Welcome {
    Welcome {
        id: shared.id.clone(),
        can: Features::OURS,
        streams: u32::try_from(shared.settings.bounds.streams).unwrap_or(u32::MAX),
        spread: shared.settings.timings.spread,
        time: Some(SystemTime::now()),
    }
}

/// Runs a tunnel until it ends.
async fn run(shared: &Shared, link: Link) {
    let Link { io, peer, origin, hello, received, place } = link;
    let (profile, features) = agreed(Features::OURS, hello.as_ref().map(|hello| hello.can));
    let mut config = Config::new(Side::Client, profile, Arc::clone(&shared.budget));
    config.stored_only = profile == Profile::Ours && features.stored;
    config.streams = shared.settings.bounds.streams;
    config.grow = true;
    config.timings = shared.settings.timings.session;
    let (log, begun, id) = (shared.settings.log, Instant::now(), shared.registry.next_id());
    if shared.settings.trace {
        config.trace = Some(Trace::new(move |direction, frame| {
            log.info(format_args!("frame={direction:?} tunnel={id} {frame}"));
        }));
    }
    // The proxy's peer opens no streams: the session refuses pushes.
    let (tunnel, _incoming, driver) = tunnel(io, config, received);
    let upstream = Arc::new(Upstream {
        id,
        origin,
        tunnel,
        features,
        run: hello.as_ref().map(|hello| Run {
            instance: hello.instance,
            run: hello.run,
            epoch: hello.epoch,
        }),
        software: hello.map(|hello| hello.software).unwrap_or_default(),
        peer,
        since: SystemTime::now(),
        totals: Default::default(),
    });
    if shared.registry.insert(Arc::clone(&upstream)) == Err(Stale) {
        log.warn(format_args!("tunnel=stale origin={} peer={peer}", upstream.origin));
        return;
    }
    log.info(format_args!(
        "tunnel=up origin={} tunnel={} peer={peer} profile={profile:?} software={}",
        upstream.origin,
        upstream.id,
        Escaped(&upstream.software),
    ));
    match shared.stop.phase() {
        Phase::Waiting | Phase::Running => {}
        // It came while the others were told.
        Phase::Leaving => upstream.tunnel.leave(),
        Phase::Draining | Phase::Ended => upstream.tunnel.drain(),
    }
    let ended = driver.await;
    shared.registry.remove(&upstream);
    let counters = upstream.tunnel.counters();
    let cause = ended.err().map_or_else(|| "agreed".to_owned(), |error| error.to_string());
    log.info(format_args!(
        "tunnel=down origin={} tunnel={} cause={} seconds={} streams={} received={} sent={}",
        upstream.origin,
        upstream.id,
        Escaped(&cause),
        begun.elapsed().as_secs(),
        counters.streams_opened,
        counters.octets_received,
        counters.octets_sent,
    ));
    if shared.settings.trace {
        log.info(format_args!("tunnel={} {counters:?}", upstream.id));
    }
    drop(place);
}

/// Octets of a PUT: more is malformed.
const PUT_MAX: usize = 16_384;
/// One reason for a wrong token and for a name that is not known, so that names cannot be probed.
const BAD_TOKEN: &str = "unknown origin or wrong token";
const BAD_JOIN: &str = "join code is unknown, used or expired";
/// When agents should try again that found us full.
const FULL_RETRY: Duration = Duration::from_secs(60);
/// Pause after a failed accept: the process has no descriptor left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
