//! The tunnel port: agents dial in, prove who they are, and their tunnels run.
//!
//! It owns accepting, TLS, the PUT handshake and the life of a tunnel. It does not own who may
//! speak for an origin ([`crate::state`]) nor what goes through a tunnel ([`crate::relay`]).

use std::{
    fmt, io,
    net::{SocketAddr, TcpListener},
    rc::Rc,
    sync::{Arc, atomic::AtomicBool},
    time::{Duration, Instant, SystemTime},
};

use async_io::{Async, Timer};
use blocking::unblock;
use data_encoding::BASE64URL_NOPAD;
use futures_lite::{AsyncReadExt, AsyncWriteExt, future};
use rustls::{ServerConfig, pki_types::CertificateDer};
use spdy_protocol::{
    handshake::{Answer, Credentials, Features, HandshakeError, Hello, Put, Welcome, agreed},
    session::{Config, Profile, Side, Trace},
    tunnel::{Tunnel, tunnel},
};

use crate::{
    failures::LIMIT,
    gate::Pass,
    lobby::Ticket,
    log::{Escaped, Level, Log},
    registry::{ANONYMOUS, Proof, Refusal, Rules, Run, Upstream, Verdict},
    socket::Socket,
    state::StateError,
    stop::Phase,
    tls::{TlsStream, is_for},
    worker::{Shared, Worker},
};

/// ALPN names of the tunnel port; an agent that offers none is taken too.
pub(crate) const ALPN: [&[u8]; 2] = [b"spdy-tunnel/1", b"http/1.1"];

/// Accepts agents until the server is told to stop.
pub(crate) async fn accept(worker: Rc<Worker>, listener: Arc<Async<TcpListener>>) {
    let shared = Arc::clone(&worker.shared);
    let accepting = || async {
        loop {
            match listener.accept().await {
                Ok((stream, peer)) => {
                    let ticket = shared.handshakes.enter(peer.ip());
                    let tls = shared.tunnel_tls.config();
                    let task = serve(Rc::clone(&worker), stream, peer, tls, ticket);
                    worker.spawn(task);
                }
                Err(error) => {
                    shared.tunnel_errors.count(shared.settings.log, &error);
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
    entry: Entry,
}

/// What a tunnel begins with.
struct Entry {
    proof: Option<Proof>,
    _place: Pass,
    /// The holder of its name that was asked whether it is alive, and is not.
    beaten: Option<u64>,
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
    ticket: Ticket,
) {
    let shared = &worker.shared;
    let log = shared.settings.log;
    let limit = shared.settings.timings.handshake;
    let late = || async {
        Timer::after(limit).await;
        Rejected::Io(io::ErrorKind::TimedOut.into())
    };
    let expelled = || Rejected::Io(io::Error::other(EXPELLED));
    let admitted = async { if ticket.admitted().await { Ok(()) } else { Err(expelled()) } };
    let shaken = match future::or(admitted, async { Err(late().await) }).await {
        Err(rejected) => Err(rejected),
        Ok(()) => {
            let put_out = async {
                ticket.expelled().await;
                expelled()
            };
            let ended = async { Err(future::or(put_out, late()).await) };
            // Boxed: what a handshake needs is not held by those who wait, and is given back
            // before the tunnel's long life begins.
            Box::pin(future::or(shake_hands(shared, stream, peer, tls, &ticket), ended)).await
        }
    };
    let failures = if shaken.is_err() { ticket.failed() } else { 0 };
    drop(ticket);
    match shaken {
        Ok(Shaken::Tunnel(link)) => run(shared, *link).await,
        Ok(Shaken::Registered(origin)) => {
            log.info(format_args!("token=registered origin={origin} peer={peer}"));
        }
        Err(rejected) => {
            shared.registry.totals.count_refused();
            // Port scanners come by all day; who was told something meant us. Who goes on and on
            // does not fill the log.
            let level = match &rejected {
                Rejected::Told { .. } if failures <= LIMIT => Level::Warn,
                _ => Level::Debug,
            };
            let more = if failures == LIMIT { " more=hidden" } else { "" };
            log.write(level, format_args!("handshake=refused peer={peer} {rejected}{more}"));
        }
    }
}

async fn shake_hands(
    shared: &Shared,
    stream: Async<std::net::TcpStream>,
    peer: SocketAddr,
    tls: Arc<ServerConfig>,
    ticket: &Ticket,
) -> Result<Shaken, Rejected> {
    let socket = Socket::new(stream)?;
    socket.limit_unsent(shared.settings.bounds.unsent)?;
    let mut io = TlsStream::accept(tls, socket).await?;
    ticket.progressed();
    let decided = match read_put(&mut io).await? {
        Ok((put, received)) => {
            let chain = io.peer_chain().map(<[_]>::to_vec);
            decide(shared, put, chain, ticket).await.map(|decided| (decided, received))
        }
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
    let Some(entry) = decided.entry else {
        io.close().await?;
        return Ok(Shaken::Registered(decided.origin));
    };
    io.flush().await?;
    let Decided { origin, hello, .. } = decided;
    Ok(Shaken::Tunnel(Box::new(Link { io, peer, origin, hello, received, entry })))
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
    /// `None` when a token was registered and no tunnel follows.
    entry: Option<Entry>,
}

async fn decide(
    shared: &Shared,
    put: Put,
    chain: Option<Vec<CertificateDer<'static>>>,
    ticket: &Ticket,
) -> Result<Decided, Rejected> {
    let Put { credentials, hello, .. } = put;
    let name = hello.as_ref().map(|hello| hello.origin.clone());
    let told = |status, reason| Rejected::Told { status, reason, origin: name.clone() };
    let failed = |error: StateError| state_failed(shared, &error);
    let register = hello.as_ref().and_then(|hello| hello.register);
    let state = shared.state.clone();
    let (origin, proof) = match (credentials, name.clone(), chain) {
        (Credentials::None, Some(name), Some(chain)) if register.is_none() => {
            if name == ANONYMOUS || !is_for(&chain[0], &name) {
                return Err(told(403, "the certificate is for another name"));
            }
            let (origin, certificate) = (name.clone(), chain[0].clone());
            let admitted = unblock(move || state.admit(&origin, &certificate)).await;
            let generation = admitted.map_err(failed)?;
            let generation = generation.ok_or_else(|| told(403, "the certificate is revoked"))?;
            // It may have come by its certificate, and to a record, just now.
            if !shared.registry.is_paired(&name) {
                refresh(shared).await;
            }
            (name, Some(Proof { generation, chain: Some(chain) }))
        }
        (Credentials::None, ..) | (_, None, _) => {
            if !shared.settings.allow_anonymous || register.is_some() {
                return Err(told(401, "this proxy asks for credentials"));
            }
            (ANONYMOUS.to_owned(), None)
        }
        (Credentials::Bearer(token), Some(name), _) => {
            let origin = name.clone();
            let verified = unblock(move || state.verify(&origin, token.as_bytes(), register)).await;
            let generation = verified.map_err(failed)?.ok_or_else(|| told(401, BAD_TOKEN))?;
            (name, Some(Proof { generation, chain: None }))
        }
        (Credentials::Join(secret), Some(name), _) => {
            let Some(token) = register else {
                return Err(told(400, "a join registers a token"));
            };
            let secret =
                BASE64URL_NOPAD.decode(secret.as_bytes()).map_err(|_| told(401, BAD_JOIN))?;
            let origin = name.clone();
            let joined = unblock(move || state.join(&origin, &secret, token)).await;
            if !joined.map_err(failed)? {
                return Err(told(401, BAD_JOIN));
            }
            (name, None)
        }
    };
    // Proven, or taken without: the holder of a name is asked for seconds, which nobody else pays.
    ticket.known();
    if register.is_some() {
        refresh(shared).await;
        return Ok(Decided { origin, hello, entry: None });
    }
    let run = hello.as_ref().map(Run::of);
    let contested = contest(shared, &origin, run.as_ref()).await;
    let beaten = contested.map_err(|refusal| told(409, refusal.reason()))?;
    let Some(place) = shared.tunnels.try_enter() else {
        return Err(told(503, "no room for another tunnel"));
    };
    Ok(Decided { origin, hello, entry: Some(Entry { proof, _place: place, beaten }) })
}

/// Whether a proven agent may come in. Where another box holds its name that one is asked for a
/// sign of life; if none comes, its id is returned: it may be displaced.
async fn contest(shared: &Shared, origin: &str, run: Option<&Run>) -> Result<Option<u64>, Refusal> {
    let rules = rules(shared);
    let holder = match shared.registry.judge(origin, run, rules) {
        Verdict::Enter => return Ok(None),
        Verdict::Refused(refusal) => return Err(refusal),
        Verdict::Contest(holder) => holder,
    };
    if !is_alive(&holder.tunnel, shared.settings.timings.probe).await {
        return Ok(Some(holder.id));
    }
    if shared.registry.has_room_behind(origin, run, rules) { Ok(None) } else { Err(Refusal::Held) }
}

/// Asks an agent for a sign of life, for which it has `patience`.
async fn is_alive(tunnel: &Tunnel, patience: Duration) -> bool {
    let heard = || tunnel.counters().octets_received;
    let (before, deadline) = (heard(), Instant::now() + patience);
    tunnel.check();
    while tunnel.is_open() && Instant::now() < deadline {
        if heard() != before {
            return true;
        }
        Timer::after(PROBE_STEP.min(patience)).await;
    }
    false
}

const fn rules(shared: &Shared) -> Rules {
    let settings = &shared.settings;
    Rules { standby: settings.standby, window: settings.timings.displacements }
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
    let log = shared.settings.log;
    let is_read = match read {
        Ok(origins) => {
            warn_of_records(log, shared.registry.set_paired(ticket, origins));
            true
        }
        Err(error) => {
            log.error(format_args!("state=failed {error}"));
            false
        }
    };
    let Some(clients) = shared.clients.clone() else { return is_read };
    let reloaded = unblock(move || clients.reload()).await;
    if let Err(error) = &reloaded {
        log.error(format_args!("clients=failed {error}"));
    }
    for upstream in shared.registry.upstreams() {
        if !has_good_chain(shared, &upstream) {
            upstream.cut();
        }
    }
    is_read && reloaded.is_ok()
}

/// Tells of records that have become unreadable: their origins alone are locked.
pub(crate) fn warn_of_records(log: Log, damaged: Vec<(String, String)>) {
    for (origin, reason) in damaged {
        log.error(format_args!(
            "record=unreadable origin={origin} action=locked reason={reason:?}"
        ));
    }
}

/// Reads the same again and again, for ever: while two processes serve, only one of them is told of
/// changes.
pub(crate) async fn follow(shared: &Shared) {
    loop {
        Timer::after(FOLLOW).await;
        refresh(shared).await;
    }
}

/// Whether the certificate that an agent came by, if it did, is still good.
fn has_good_chain(shared: &Shared, upstream: &Upstream) -> bool {
    let chain = upstream.proof.as_ref().and_then(|proof| proof.chain.as_ref());
    chain.is_none_or(|chain| shared.clients.as_ref().is_some_and(|clients| clients.is_good(chain)))
}

/// Whether what let an agent in still would. Asked again once its tunnel can be found: before, it
/// could not be cut.
async fn is_still_let_in(shared: &Shared, upstream: &Upstream) -> bool {
    let Some(proof) = &upstream.proof else { return true };
    let (state, origin) = (shared.state.clone(), upstream.origin.clone());
    let generation = unblock(move || state.generation(&origin)).await;
    matches!(generation, Ok(Some(held)) if held == proof.generation)
        && has_good_chain(shared, upstream)
}

/// Asks the tunnels that were displaced at an origin for a sign of life, and cuts those that give
/// none: the responses that wait there go on on the new one.
async fn cut_silent(shared: &Shared, origin: &str) {
    let heard = |upstream: &Upstream| upstream.tunnel.counters().octets_received;
    let leaving = shared.registry.leaving(origin);
    let before: Vec<_> = leaving.iter().map(|upstream| heard(upstream)).collect();
    leaving.iter().for_each(|upstream| upstream.tunnel.check());
    if !leaving.is_empty() {
        Timer::after(shared.settings.timings.probe).await;
    }
    for (upstream, before) in leaving.iter().zip(before) {
        if heard(upstream) == before {
            upstream.cut();
        }
    }
}

/// Notes when an agent was here, for `list`.
async fn note_seen(shared: &Shared, upstream: &Upstream) {
    if upstream.proof.is_some() {
        let (state, origin) = (shared.state.clone(), upstream.origin.clone());
        let software = upstream.software.clone();
        // What is noted is a help, and the log has it too.
        let _ = unblock(move || state.note_seen(&origin, &software)).await;
    }
}

fn welcome(shared: &Shared) -> Welcome {
    Welcome {
        id: shared.id.clone(),
        can: Features::OURS,
        streams: u32::try_from(shared.settings.bounds.streams).unwrap_or(u32::MAX),
        spread: shared.settings.timings.spread,
        time: Some(SystemTime::now()),
        peers: shared.settings.peers.clone(),
    }
}

/// Runs a tunnel until it ends.
async fn run(shared: &Shared, link: Link) {
    let Link { io, peer, origin, hello, received, entry } = link;
    let Entry { proof, _place, beaten } = entry;
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
        run: hello.as_ref().map(Run::of),
        proof,
        is_standby: AtomicBool::new(false),
        software: hello.map(|hello| hello.software).unwrap_or_default(),
        peer,
        since: SystemTime::now(),
        totals: Default::default(),
    });
    let entered = shared.registry.enter(Arc::clone(&upstream), beaten, rules(shared));
    let seat = match entered {
        Ok(seat) => seat,
        Err(refusal) => {
            // Its agent has the 200 already: another one came between.
            let reason = refusal.reason();
            let origin = &upstream.origin;
            log.warn(format_args!("tunnel=refused origin={origin} peer={peer} reason={reason:?}"));
            upstream.cut();
            let _ = driver.await;
            return;
        }
    };
    log.info(format_args!(
        "tunnel={seat} origin={} tunnel={} peer={peer} profile={profile:?} software={}",
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
    let watching = async {
        if !is_still_let_in(shared, &upstream).await {
            upstream.cut();
        }
        note_seen(shared, &upstream).await;
    };
    let ending = future::or(driver, async {
        cut_silent(shared, &upstream.origin).await;
        future::pending().await
    });
    let (ended, ()) = future::zip(ending, watching).await;
    note_seen(shared, &upstream).await;
    if let Some(follows) = shared.registry.remove(&upstream) {
        log.info(format_args!("tunnel=up origin={} tunnel={}", follows.origin, follows.id));
    }
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
}

/// Octets of a PUT: more is malformed.
const PUT_MAX: usize = 16_384;
/// One reason for a wrong token and for a name that is not known, so that names cannot be probed.
const BAD_TOKEN: &str = "unknown origin or wrong token";
const EXPELLED: &str = "others waited";
const BAD_JOIN: &str = "join code is unknown, used or expired";
/// When agents should try again that found us full.
const FULL_RETRY: Duration = Duration::from_secs(60);
/// How often somebody who was asked for a sign of life is looked at.
const PROBE_STEP: Duration = Duration::from_millis(50);
/// How old what one of two processes knows may be.
const FOLLOW: Duration = Duration::from_secs(1);
/// Pause after a failed accept: the process has no descriptor left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
