//! Everything that a server can be told, with its default, unit and bound.
//!
//! It does not own where settings come from ([`crate::args`]) nor the bounds of the protocol
//! ([`spdy_protocol::limits`]).

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use spdy_protocol::limits;

use crate::{
    address_range::AddressRange,
    log::{Level, Log},
};

/// Settings of one server.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Addresses of the HTTP port. Default 127.0.0.1:1443; port 0 takes a free one.
    pub listen: Vec<SocketAddr>,
    /// Addresses of the tunnel port. Default 127.0.0.1:1444; port 0 takes a free one.
    pub tunnel_listen: Vec<SocketAddr>,
    /// The state folder ([`crate::state::State`]).
    pub state_dir: PathBuf,
    /// Whether the HTTP port speaks TLS. Default no.
    pub tls: bool,
    /// Whether each exchange and what the sessions count is logged. Default no.
    pub trace: bool,
    /// Whether a front end speaks TLS for the HTTP port. Unless it does, or `tls` is on, addresses
    /// that are not loopback refuse origins that ask for a password. Default no.
    pub behind_tls: bool,
    /// Front ends whose word is taken for the address, the scheme and the host of their clients
    /// (X-Forwarded-For, -Proto, -Host and others). Default none, loopback addresses included.
    pub trusted_front_ends: Vec<AddressRange>,
    /// Whether `/debug` answers on the HTTP port, to everybody. Default no: it is for the control
    /// socket.
    pub debug: bool,
    /// Whether agents without credentials are taken, as the origin `anonymous`, which is open to
    /// every visitor. Default no.
    pub allow_anonymous: bool,
    /// PEM file of the authority that vouches for agents with certificates. Default none: agents
    /// show tokens.
    pub client_ca: Option<PathBuf>,
    /// PEM file of revocation lists of that authority. Default none.
    pub client_crl: Option<PathBuf>,
    /// Whether a second box may wait, connected, behind the one that holds its name, and follow
    /// it. Default no: it is refused with 409 while that one is alive.
    pub standby: bool,
    /// `HOST:PORT` of other proxies that agents are told of; those that want to and can verify
    /// them keep a tunnel there, too. Default none, at most [`spdy_protocol::handshake::PEERS`].
    pub peers: Vec<String>,
    /// Where lines go. Default stderr, level info.
    pub log: Log,
    /// Threads that serve, each with its own executor. Default 1, at least 1.
    pub threads: usize,
    /// What may exist at a time.
    pub bounds: Bounds,
    /// How long things may take.
    pub timings: Timings,
}

/// What may exist at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Downstream connections. Default 10,000. More wait in the kernel's queue. A quarter may be
    /// silent, a quarter may wait behind those: of more the oldest of the busiest address is closed.
    pub connections: usize,
    /// Tunnels. Default 10,000. More are refused with 503 and `Retry-After`.
    pub tunnels: usize,
    /// TLS and PUT handshakes of agents in progress. Default 64. More wait for their turn.
    pub handshakes: usize,
    /// Agents that wait to shake hands, about 2 KiB each. Default 1,024. Of more the oldest of the
    /// busiest address is closed.
    pub waiting: usize,
    /// Streams of one tunnel. Default [`limits::STREAMS`]. More wait, then get 503.
    pub streams: usize,
    /// Octets that all streams may hold. Default [`limits::PROCESS_BUDGET`].
    pub budget: usize,
    /// Octets of a request head, and of a response that is gathered for one write. Default 64 KiB,
    /// at least 8 KiB. A connection holds up to twice as much.
    pub buffer: usize,
    /// Octets that the kernel holds unsent for a tunnel. Default 128 KiB.
    pub unsent: u32,
    /// Requests that wait for an origin's return, 64 for each origin at most. Default 1,024. More
    /// get 503 at once.
    pub held_requests: usize,
    /// Responses whose tunnel was lost and that wait to go on, 32 for each origin at most. Default
    /// 256. More are cut.
    pub held_responses: usize,
    /// Bytes of request bodies that are kept until their responses begin, 64 KiB of each at most, so
    /// that a request that its agent refused can be repeated; as much again while they are. Default
    /// 8 MiB. What does not fit is not kept: such a request gets 503 at once.
    pub replay: usize,
}

/// How long things may take. All are settings, so that tests of faults run scaled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timings {
    /// A handshake of an agent, TLS and PUT together. Default 10 s.
    pub handshake: Duration,
    /// Time without progress (TLS done, PUT or request read) after which a handshake, or a visitor
    /// without a request, is closed when another one waits for its place; the oldest of the busiest
    /// address first. Default 2 s.
    pub patience: Duration,
    /// A TLS handshake of a visitor, and each request head from its first octet. Default 30 s.
    pub head: Duration,
    /// Silence of a visitor between two requests. Default 75 s.
    pub idle: Duration,
    /// Silence of a visitor inside a request body. Default 120 s.
    pub body: Duration,
    /// How long a connection goes on being read after a request whose body nobody wants, so that a
    /// client that sends all of it first sees the answer. Default 120 s.
    pub linger: Duration,
    /// Silence of a client meanwhile, after which the connection is closed. Default 5 s.
    pub linger_silence: Duration,
    /// Silence of an agent that owes a reply, or credit for a request body; then 504. Default
    /// 120 s: disks that spin up take 30 s. A dead agent is found sooner by [`Timings::session`].
    pub agent: Duration,
    /// What runs may go on after the server was told to stop. Default 30 s.
    pub grace: Duration,
    /// Time over which agents come back after GOAWAY. Default 15 s.
    pub spread: Duration,
    /// Time for a sign of life from an agent whose name another box asks for. Default 5 s.
    pub probe: Duration,
    /// Time in which processes of one box may displace one another three times; more are two boxes
    /// with one pairing. Default 60 s.
    pub displacements: Duration,
    /// How long a new process may take until it can take over. Default 10 s.
    pub ready: Duration,
    /// How often keys and certificates are looked at for a change, which holds when it was seen
    /// twice. Default 5 s; 0: never.
    pub files: Duration,
    /// How long a request waits for an origin that has just been lost; then 503. Default 10 s; 0:
    /// not at all.
    pub hold: Duration,
    /// How long after its loss an origin is waited for. Default 60 s.
    pub recent: Duration,
    /// How long a response whose tunnel was lost waits to go on on another. Default 60 s; 0: not
    /// at all.
    pub splice: Duration,
    /// How long three requests of a tunnel may go without any sign of the agent's, while nothing
    /// else moves there, before the tunnel is given up. Default 60 s; 0: for ever.
    pub progress: Duration,
    /// Those of the sessions.
    pub session: limits::Timings,
}

impl Settings {
    /// The defaults, with a state folder.
    #[must_use]
    pub fn new(state_dir: impl Into<PathBuf>) -> Self {
        Self {
            listen: vec![SocketAddr::from(([127, 0, 0, 1], HTTP_PORT))],
            tunnel_listen: vec![SocketAddr::from(([127, 0, 0, 1], TUNNEL_PORT))],
            state_dir: state_dir.into(),
            tls: false,
            behind_tls: false,
            trace: false,
            trusted_front_ends: Vec::new(),
            debug: false,
            allow_anonymous: false,
            client_ca: None,
            client_crl: None,
            standby: false,
            peers: Vec::new(),
            log: Log::stderr(Level::Info),
            threads: 1,
            bounds: Bounds::default(),
            timings: Timings::default(),
        }
    }
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            connections: 10_000,
            tunnels: 10_000,
            handshakes: 64,
            waiting: 1_024,
            streams: limits::STREAMS,
            budget: limits::PROCESS_BUDGET,
            buffer: 64 << 10,
            unsent: 128 << 10,
            held_requests: 1_024,
            held_responses: 256,
            replay: 8 << 20,
        }
    }
}

impl Default for Timings {
    fn default() -> Self {
        Self {
            handshake: Duration::from_secs(10),
            patience: Duration::from_secs(2),
            head: Duration::from_secs(30),
            idle: Duration::from_secs(75),
            body: Duration::from_secs(120),
            linger: Duration::from_secs(120),
            linger_silence: Duration::from_secs(5),
            agent: Duration::from_secs(120),
            grace: Duration::from_secs(30),
            spread: Duration::from_secs(15),
            probe: Duration::from_secs(5),
            displacements: Duration::from_secs(60),
            ready: Duration::from_secs(10),
            files: Duration::from_secs(5),
            hold: Duration::from_secs(10),
            recent: Duration::from_secs(60),
            splice: Duration::from_secs(60),
            progress: Duration::from_secs(60),
            session: limits::Timings::default(),
        }
    }
}

/// Default port for visitors: the original's.
pub const HTTP_PORT: u16 = 1443;
/// Default port for agents: the original's.
pub const TUNNEL_PORT: u16 = 1444;
