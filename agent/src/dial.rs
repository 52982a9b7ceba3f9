//! From an address to a connection on which SPDY can begin: resolve, TCP, TLS, handshake.
//!
//! It owns every deadline on that way. It does not decide when to dial again
//! ([`crate::supervise`]) nor whom to trust ([`crate::verify`]).

use std::{
    fmt,
    future::{Future, poll_fn},
    io,
    net::{IpAddr, SocketAddr, TcpStream, ToSocketAddrs},
    pin::Pin,
    sync::Arc,
    task::Poll,
    time::Duration,
};

use async_io::{Async, Timer};
use async_rustls::{
    TlsConnector,
    rustls::{self, ClientConfig, pki_types::ServerName},
};
use futures_lite::{AsyncReadExt, AsyncWriteExt, future::or};
use spdy_protocol::handshake::{Answer, HandshakeError, Put, Welcome};

use crate::{
    backoff::Cause,
    socket::{self, Socket},
};

/// Host and port of a proxy.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Address {
    host: String,
    port: u16,
}

impl Address {
    /// Reads `name:port`, `v4:port` or `[v6]:port`; `None` if it is none of them.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (host, port) = text.rsplit_once(':')?;
        let port = port.parse().ok().filter(|port| *port != 0)?;
        let host = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
            Some(v6) => v6.parse::<std::net::Ipv6Addr>().ok()?.to_string(),
            // A bare v6 address would leave open which colon begins the port.
            None if host.contains(':') => return None,
            None => host.to_owned(),
        };
        ServerName::try_from(host.as_str()).ok()?;
        Some(Self { host, port })
    }

    /// Name or number, without brackets.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            return write!(f, "[{}]:{}", self.host, self.port);
        }
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// What proves to the proxy who we are. Never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    /// Takes a token as a file holds it, white space around it removed; `None` if it is empty, too
    /// long or not printable ASCII.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        let valid = !text.is_empty()
            && text.len() <= TOKEN_MAX
            && text.bytes().all(|octet| octet.is_ascii_graphic());
        valid.then(|| Self(text.to_owned()))
    }

    /// The text that goes to the proxy.
    #[must_use]
    pub fn secret(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}

/// The deadlines of a dial. All are settings, so that tests run scaled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timings {
    /// Longest name resolution. Default 10 s.
    pub resolve: Duration,
    /// Longest time until one of the addresses took the connection. Default 10 s.
    pub connect: Duration,
    /// Head start of an address before the next one is tried beside it. Default 250 ms.
    pub stagger: Duration,
    /// Longest TLS handshake, PUT and answer together. Default 10 s.
    pub handshake: Duration,
}

impl Default for Timings {
    fn default() -> Self {
        Self {
            resolve: Duration::from_secs(10),
            connect: Duration::from_secs(10),
            stagger: Duration::from_millis(250),
            handshake: Duration::from_secs(10),
        }
    }
}

/// Dials one proxy, again and again.
///
/// It remembers the addresses of the last success, for the day on which the resolver is dead but
/// the network is not; no other state survives a dial.
#[derive(Debug)]
pub struct Dialer {
    address: Address,
    tls: Arc<ClientConfig>,
    timings: Timings,
    good: Vec<SocketAddr>,
    resolving: Option<blocking::Task<io::Result<Vec<SocketAddr>>>>,
}

impl Dialer {
    /// A dialer for `address`.
    #[must_use]
    pub const fn new(address: Address, tls: Arc<ClientConfig>, timings: Timings) -> Self {
        Self { address, tls, timings, good: Vec::new(), resolving: None }
    }

    /// Where it dials.
    #[must_use]
    pub const fn address(&self) -> &Address {
        &self.address
    }

    /// Dials and shakes hands. Safe to drop: the connection is closed.
    ///
    /// # Errors
    /// Whatever failed first; [`DialError::cause`] tells how long to wait.
    pub async fn dial(&mut self, put: &Put) -> Result<Link, DialError> {
        let addresses = self.resolve().await?;
        let connecting = connect_any(&addresses, self.timings.stagger);
        let (tcp, peer) = deadline(self.timings.connect, Phase::Connect, connecting)
            .await?
            .map_err(DialError::Connect)?;
        socket::tune(&tcp);
        let server_name = ServerName::try_from(self.address.host.clone())
            .map_err(|_| DialError::Connect(io::ErrorKind::InvalidInput.into()))?;
        let connector = TlsConnector::from(self.tls.clone());
        let link = deadline(self.timings.handshake, Phase::Handshake, async {
            let tls = connector.connect(server_name, tcp).await.map_err(tls_error)?;
            shake_hands(Socket::new(tls), put, peer).await
        })
        .await??;
        self.good = addresses;
        Ok(link)
    }

    /// All addresses of the proxy, v6 and v4 in turns.
    async fn resolve(&mut self) -> Result<Vec<SocketAddr>, DialError> {
        if let Ok(ip) = self.address.host.parse::<IpAddr>() {
            return Ok(vec![SocketAddr::new(ip, self.address.port)]);
        }
        // A resolver that hangs keeps its thread; the next dial goes on waiting for the same
        // answer instead of hanging one more.
        let (host, port) = (self.address.host.clone(), self.address.port);
        let resolving = self.resolving.get_or_insert_with(|| {
            blocking::unblock(move || Ok((host.as_str(), port).to_socket_addrs()?.collect()))
        });
        let answer = deadline(self.timings.resolve, Phase::Resolve, resolving).await;
        let failed = match answer {
            Ok(answer) => {
                self.resolving = None;
                match answer {
                    Ok(found) if !found.is_empty() => return Ok(interleave(found)),
                    Ok(_) => DialError::Resolve(io::ErrorKind::NotFound.into()),
                    Err(error) => DialError::Resolve(error),
                }
            }
            Err(error) => error,
        };
        if self.good.is_empty() { Err(failed) } else { Ok(self.good.clone()) }
    }
}

/// A connection on which the session can begin.
#[derive(Debug)]
pub struct Link {
    /// The connection.
    pub io: Socket,
    /// What the proxy said of itself; `None` for a proxy of the original.
    pub welcome: Option<Welcome>,
    /// Octets that came behind its answer: they belong to the session.
    pub received: Vec<u8>,
    /// The address that answered.
    pub peer: SocketAddr,
}

/// Where the time went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Name resolution.
    Resolve,
    /// TCP.
    Connect,
    /// TLS, PUT and answer.
    Handshake,
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Resolve => "name resolution",
            Self::Connect => "connecting",
            Self::Handshake => "the handshake",
        })
    }
}

/// Why a dial failed.
#[derive(Debug)]
pub enum DialError {
    /// The name has no address, or nobody could be asked.
    Resolve(io::Error),
    /// No address took the connection.
    Connect(io::Error),
    /// A deadline passed.
    Late(Phase),
    /// The other end is not trusted, or does not speak TLS as we do.
    Tls(rustls::Error),
    /// The connection failed during the handshake.
    Transport(io::Error),
    /// The answer to PUT is none.
    Handshake(HandshakeError),
    /// The proxy does not want us.
    Refused {
        /// HTTP status.
        status: u16,
        /// Its reason, one line; from outside.
        reason: String,
        /// `Retry-After`.
        retry_after: Option<Duration>,
    },
}

impl DialError {
    /// What the back-off makes of it.
    #[must_use]
    pub const fn cause(&self) -> Cause {
        match self {
            Self::Tls(_) => Cause::Tls,
            Self::Refused { status, retry_after, .. } => {
                Cause::Refused { status: *status, retry_after: *retry_after }
            }
            Self::Resolve(_)
            | Self::Connect(_)
            | Self::Late(_)
            | Self::Transport(_)
            | Self::Handshake(_) => Cause::Network,
        }
    }
}

impl fmt::Display for DialError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Resolve(error) => write!(f, "name does not resolve: {error}"),
            Self::Connect(error) => write!(f, "cannot connect: {error}"),
            Self::Late(phase) => write!(f, "deadline passed in {phase}"),
            Self::Tls(rustls::Error::General(reason)) => write!(f, "not trusted: {reason}"),
            Self::Tls(error) => write!(f, "TLS failed: {error}"),
            Self::Transport(error) => write!(f, "connection lost in the handshake: {error}"),
            Self::Handshake(_) => f.write_str("the other end does not answer as a proxy"),
            Self::Refused { status, reason, .. } => write!(f, "refused with {status}: {reason}"),
        }
    }
}

impl std::error::Error for DialError {}

/// Sends PUT and reads the answer, not one octet more than it needs to look at.
async fn shake_hands(mut io: Socket, put: &Put, peer: SocketAddr) -> Result<Link, DialError> {
    io.write_all(&put.encode()).await.map_err(tls_error)?;
    io.flush().await.map_err(tls_error)?;
    let mut received = Vec::new();
    let mut block = [0; 4_096];
    loop {
        let len = io.read(&mut block).await.map_err(tls_error)?;
        if len == 0 {
            return Err(DialError::Transport(io::ErrorKind::UnexpectedEof.into()));
        }
        received.extend_from_slice(&block[..len]);
        match Answer::parse(&received).map_err(DialError::Handshake)? {
            None if received.len() > ANSWER_MAX => {
                return Err(DialError::Handshake(HandshakeError::TooLarge));
            }
            None => {}
            Some((Answer::Established(welcome), used)) => {
                received.drain(..used.min(received.len()));
                return Ok(Link { io, welcome, received, peer });
            }
            Some((Answer::Refused { status, reason, retry_after }, _)) => {
                return Err(DialError::Refused { status, reason, retry_after });
            }
        }
    }
}

/// Connects to the first address that answers: each gets a head start, then the next is tried
/// beside it; a failure starts the next at once.
async fn connect_any(
    addresses: &[SocketAddr],
    stagger: Duration,
) -> io::Result<(Async<TcpStream>, SocketAddr)> {
    type Attempt<'a> = Pin<Box<dyn Future<Output = io::Result<Async<TcpStream>>> + 'a>>;
    let mut waiting = addresses.iter().copied();
    let mut running: Vec<(SocketAddr, Attempt<'_>)> = Vec::new();
    let mut timer = Timer::after(Duration::ZERO);
    let mut failure = io::Error::from(io::ErrorKind::AddrNotAvailable);
    poll_fn(|cx| {
        loop {
            let mut failed = false;
            let mut at = 0;
            while at < running.len() {
                match running[at].1.as_mut().poll(cx) {
                    Poll::Ready(Ok(tcp)) => return Poll::Ready(Ok((tcp, running[at].0))),
                    Poll::Ready(Err(error)) => {
                        failure = error;
                        failed = true;
                        drop(running.swap_remove(at));
                    }
                    Poll::Pending => at += 1,
                }
            }
            if !failed && !running.is_empty() && Pin::new(&mut timer).poll(cx).is_pending() {
                return Poll::Pending;
            }
            match waiting.next() {
                Some(address) => {
                    running.push((address, Box::pin(Async::<TcpStream>::connect(address))));
                    timer.set_after(stagger);
                }
                None if running.is_empty() => {
                    let kind = failure.kind();
                    return Poll::Ready(Err(std::mem::replace(&mut failure, kind.into())));
                }
                // Nobody is left to start; only the running ones can wake this task.
                None if !failed => return Poll::Pending,
                None => {}
            }
        }
    })
    .await
}

/// v6 and v4 in turns, the resolver's first kind first.
fn interleave(found: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let first_is_v6 = found.first().is_some_and(SocketAddr::is_ipv6);
    let (first, second): (Vec<_>, Vec<_>) =
        found.into_iter().partition(|address| address.is_ipv6() == first_is_v6);
    let longest = first.len().max(second.len());
    let both = (0..longest).flat_map(|at| [first.get(at), second.get(at)]);
    both.flatten().copied().take(ADDRESSES_MAX).collect()
}

/// What rustls says comes wrapped in an `io::Error`.
fn tls_error(error: io::Error) -> DialError {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        Some(error) => DialError::Tls(error.clone()),
        None => DialError::Transport(error),
    }
}

async fn deadline<T>(
    after: Duration,
    phase: Phase,
    work: impl Future<Output = T>,
) -> Result<T, DialError> {
    or(async { Ok(work.await) }, async {
        Timer::after(after).await;
        Err(DialError::Late(phase))
    })
    .await
}

/// Longest token, in octets.
const TOKEN_MAX: usize = 512;
/// Octets of an answer to PUT that are read at most.
const ANSWER_MAX: usize = 16_384;
/// Addresses of one name that are tried in one dial.
const ADDRESSES_MAX: usize = 8;

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use futures_lite::future::block_on;

    use super::*;

    #[test]
    fn addresses_are_read_and_written() {
        for (text, host) in [
            ("localhost:1444", "localhost"),
            ("proxy.example.com:1", "proxy.example.com"),
            ("127.0.0.1:65535", "127.0.0.1"),
            ("[::1]:1444", "::1"),
        ] {
            let address = Address::parse(text).unwrap();
            assert_eq!(address.host(), host);
            assert_eq!(address.to_string(), text);
        }
        for text in
            ["", "host", ":1", "host:", "host:0", "host:65536", "::1:80", "[::1]", "[x]:1", "a b:1"]
        {
            assert_eq!(Address::parse(text), None, "{text}");
        }
    }

    #[test]
    fn tokens_are_words_and_never_printed() {
        let token = Token::parse(" abc-_=\n").unwrap();
        assert_eq!(token.secret(), "abc-_=");
        assert!(!format!("{token:?}").contains("abc"));
        for text in ["", " ", "a b", "a\nb", "\u{fc}", &"x".repeat(TOKEN_MAX + 1)] {
            assert_eq!(Token::parse(text), None);
        }
    }

    #[test]
    fn families_take_turns() {
        let v4 = |last| SocketAddr::from(([127, 0, 0, last], 1));
        let v6 = |last| SocketAddr::from(([0, 0, 0, 0, 0, 0, 0, last], 1));
        let mixed = interleave(vec![v6(1), v6(2), v6(3), v4(1)]);
        assert_eq!(mixed, [v6(1), v4(1), v6(2), v6(3)]);
        assert_eq!(interleave(vec![v4(1), v4(2)]), [v4(1), v4(2)]);
        assert_eq!(interleave((0..20).map(v4).collect()).len(), ADDRESSES_MAX);
    }

    #[test]
    fn next_address_is_tried_when_one_refuses() {
        let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let open = listener.local_addr().unwrap();
        block_on(async {
            // An hour of head start: only the refusal can start the second.
            let stagger = Duration::from_secs(3_600);
            let (_, peer) = connect_any(&[closed, open], stagger).await.unwrap();
            assert_eq!(peer, open);
            assert!(connect_any(&[closed, closed], stagger).await.is_err());
            assert!(connect_any(&[], stagger).await.is_err());
        });
    }

    #[test]
    fn silent_address_does_not_hold_up_the_next() {
        // A listener whose queue is full drops SYNs: connecting to it neither fails nor succeeds.
        let full =
            socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        full.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
        full.listen(0).unwrap();
        let silent = full.local_addr().unwrap().as_socket().unwrap();
        let _fill = TcpStream::connect(silent).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let open = listener.local_addr().unwrap();
        block_on(async {
            let (_, peer) = connect_any(&[silent, open], Duration::ZERO).await.unwrap();
            assert_eq!(peer, open);
            let alone = [silent];
            let connecting = connect_any(&alone, Duration::ZERO);
            let late = deadline(Duration::from_millis(20), Phase::Connect, connecting);
            assert!(matches!(late.await, Err(DialError::Late(Phase::Connect))));
        });
    }

    #[test]
    fn causes_follow_from_errors() {
        assert_eq!(DialError::Late(Phase::Handshake).cause(), Cause::Network);
        let wrapped =
            io::Error::new(io::ErrorKind::InvalidData, rustls::Error::General("pin".to_owned()));
        assert_eq!(tls_error(wrapped).cause(), Cause::Tls);
        assert_eq!(tls_error(io::ErrorKind::ConnectionReset.into()).cause(), Cause::Network);
    }
}
