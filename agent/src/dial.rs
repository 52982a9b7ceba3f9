//! From an address to a connection on which SPDY can begin: resolve, TCP, TLS, handshake.
//!
//! It owns every deadline on that way. It does not decide when to dial again
//! ([`crate::supervise`]) nor whom to trust ([`crate::verify`]).

mod address;

mod race;

mod error;

use std::{
    future::{Future, pending},
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::{Duration, UNIX_EPOCH},
};

use async_io::Timer;
use async_rustls::{
    TlsConnector,
    rustls::{ClientConfig, pki_types::ServerName},
};
use futures_lite::{AsyncReadExt, AsyncWriteExt, future::or};
pub use spdy_protocol::address::Address;
use spdy_protocol::handshake::{self, HandshakeError, Put, Welcome};

use self::race::Race;
pub use self::{
    address::Token,
    error::{DialError, Phase},
};
use crate::{
    civil,
    resolve::{Answer, Resolver},
    socket::Socket,
    verify::Pin,
};

/// The deadlines of a dial. All are settings, so that tests run scaled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timings {
    /// Longest name resolution. Default 10 s.
    pub resolve: Duration,
    /// Head start of the resolver before the addresses of the last success are dialled beside it.
    /// Default 2 s.
    pub fallback: Duration,
    /// Longest time until an address took the connection. Default 10 s.
    pub connect: Duration,
    /// Head start of an address before the next one is tried beside it. Default 250 ms.
    pub stagger: Duration,
    /// Longest TLS handshake. Default 10 s.
    pub tls: Duration,
    /// Head start of an address in TLS before the next one is tried beside it. Default 2 s.
    pub stall: Duration,
    /// Longest PUT and answer. Default 10 s.
    pub handshake: Duration,
    /// Longest dial over all addresses, name resolution not counted. Default 60 s.
    pub whole: Duration,
}

impl Default for Timings {
    fn default() -> Self {
        Self {
            resolve: Duration::from_secs(10),
            fallback: Duration::from_secs(2),
            connect: Duration::from_secs(10),
            stagger: Duration::from_millis(250),
            tls: Duration::from_secs(10),
            stall: Duration::from_secs(2),
            handshake: Duration::from_secs(10),
            whole: Duration::from_secs(60),
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
    resolver: Resolver,
    /// For an address that somebody named: what inside of this network may be dialled, and what
    /// may not be although it is outside.
    named: Option<(IpAddr, Vec<SocketAddr>)>,
    /// The address that answered last, then the others of its name.
    good: Vec<SocketAddr>,
    /// A question that is still open: a slow resolver is not asked again and again.
    asked: Option<Answer>,
}

impl Dialer {
    /// A dialer for `address`.
    #[must_use]
    pub const fn new(
        address: Address,
        tls: Arc<ClientConfig>,
        timings: Timings,
        resolver: Resolver,
    ) -> Self {
        Self { address, tls, timings, resolver, named: None, good: Vec::new(), asked: None }
    }

    /// Makes it a dialer for an address that a proxy named: it dials nothing inside of this machine
    /// or its network (loopback, private, link-local), but for `inside` itself, where that proxy is.
    #[must_use]
    pub fn of_peer(mut self, inside: IpAddr) -> Self {
        self.named = Some((inside, Vec::new()));
        self
    }

    /// A dialer for a named address leaves these out.
    pub fn avoid(&mut self, occupied: Vec<SocketAddr>) {
        if let Some((_, avoided)) = &mut self.named {
            *avoided = occupied;
        }
    }

    /// Where it dials.
    #[must_use]
    pub const fn address(&self) -> &Address {
        &self.address
    }

    /// From now on, dials with these.
    pub fn set(&mut self, tls: Arc<ClientConfig>, timings: Timings) {
        (self.tls, self.timings) = (tls, timings);
    }

    /// Dials and shakes hands; `put` is asked anew for each address that is come that far with.
    /// Nothing is sent before the other end is trusted. Safe to drop: the connection is closed.
    ///
    /// # Errors
    /// Of all addresses, what came farthest; [`DialError::cause`] tells how long to wait.
    pub async fn dial(&mut self, put: &dyn Fn() -> Put) -> Result<Link, DialError> {
        let timings = self.timings;
        let mut race = self.start().await?;
        // Boxed, as the handshake: each future that one is handed through holds it twice.
        let racing = Box::pin(async {
            // Ends: each turn takes an address that was not yet tried.
            loop {
                let (tls, peer) = race.next().await?;
                let shaken = Box::pin(shake_hands(Socket::new(tls), put(), peer));
                match deadline(timings.handshake, Phase::Handshake, shaken).await {
                    Ok(Ok(link)) => return Ok(link),
                    // Whatever its address: the proxy has spoken.
                    Ok(Err(refused @ DialError::Refused { .. })) => return Err(refused),
                    Ok(Err(error)) | Err(error) => race.failed(error),
                }
            }
        });
        let link = match deadline(timings.whole, Phase::Whole, racing).await? {
            Ok(link) => link,
            // The old addresses did not help: what is missing is the resolver.
            Err(error) if error.is_of_connect() => return Err(race.unresolved().unwrap_or(error)),
            Err(error) => return Err(error),
        };
        let mut good = race.into_addresses();
        good.retain(|address| *address != link.peer);
        good.insert(0, link.peer);
        self.good = good;
        Ok(link)
    }

    /// Dials up to TLS and closes the connection: whether there is somebody who is trusted.
    ///
    /// # Errors
    /// As [`Dialer::dial`].
    pub async fn knock(&mut self) -> Result<SocketAddr, DialError> {
        let whole = self.timings.whole;
        let mut race = self.start().await?;
        Ok(deadline(whole, Phase::Whole, race.next()).await??.1)
    }

    /// A race between all addresses that may be dialled: those that the resolver finds, v6 and v4
    /// in turns; where it fails those of the last success, and where it is slow these beside it.
    async fn start(&mut self) -> Result<Race<'_>, DialError> {
        let Self { address, tls, timings, resolver, named, good, asked } = self;
        let (named, longest) = (&*named, timings.resolve);
        let (host, port) = (address.host(), address.port());
        let name = ServerName::try_from(host.to_owned())
            .map_err(|_| DialError::Connect(io::ErrorKind::InvalidInput.into()))?;
        let race = Race::new(TlsConnector::from(tls.clone()), name, *timings);
        let allowed = move |mut addresses: Vec<SocketAddr>| {
            if let Some((inside, avoided)) = named {
                let may = |ip: IpAddr| ip == *inside || !is_inside(ip);
                addresses.retain(|address| may(address.ip()) && !avoided.contains(address));
            }
            if addresses.is_empty() { Err(DialError::Forbidden) } else { Ok(addresses) }
        };
        if let Ok(ip) = host.parse::<IpAddr>() {
            return Ok(race.between(allowed(vec![SocketAddr::new(ip, port)])?));
        }
        let mut asking = Box::pin(async move {
            let asking = find(resolver, asked, host, port);
            allowed(interleave(deadline(longest, Phase::Resolve, asking).await??))
        });
        let head_start = async {
            if good.is_empty() {
                return pending().await;
            }
            Timer::after(timings.fallback).await;
            None
        };
        match or(async { Some(asking.as_mut().await) }, head_start).await {
            Some(Err(error)) if good.is_empty() || !error.is_of_resolver() => Err(error),
            Some(Err(error)) => Ok(race.between(allowed(good.clone())?).without_answer(error)),
            Some(Ok(found)) => Ok(race.between(found)),
            None => Ok(race.between(allowed(good.clone())?).beside(asking)),
        }
    }
}

/// All addresses of a name, at least one. Dropped, the question stays in `asked`.
async fn find(
    resolver: &Resolver,
    asked: &mut Option<Answer>,
    host: &str,
    port: u16,
) -> Result<Vec<SocketAddr>, DialError> {
    let answer = match &mut *asked {
        Some(answer) => answer,
        none => none.insert(resolver.ask(host, port).await),
    };
    let found = answer.await;
    *asked = None;
    match found.map_err(DialError::Resolve)? {
        none if none.is_empty() => Err(DialError::Resolve(io::ErrorKind::NotFound.into())),
        found => Ok(found),
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
    /// Ours; `None` if the kernel does not say it.
    pub local: Option<SocketAddr>,
    /// The pin of its key.
    pub pin: Option<Pin>,
}

impl Link {
    /// The proxy's clock less ours in seconds, if it told its time; asked just after the handshake.
    #[must_use]
    pub fn clock_off(&self) -> Option<i64> {
        let theirs = self.welcome.as_ref()?.time?.duration_since(UNIX_EPOCH).ok()?;
        Some(i64::try_from(theirs.as_secs()).ok()?.saturating_sub(civil::now()))
    }
}

/// Sends PUT and reads the answer, not one octet more than it needs to look at.
async fn shake_hands(mut io: Socket, put: Put, peer: SocketAddr) -> Result<Link, DialError> {
    io.write_all(&put.encode()).await.map_err(DialError::from_tls)?;
    io.flush().await.map_err(DialError::from_tls)?;
    let mut received = Vec::new();
    let mut block = [0; 4_096];
    loop {
        let len = io.read(&mut block).await.map_err(DialError::from_tls)?;
        if len == 0 {
            return Err(DialError::Transport(io::ErrorKind::UnexpectedEof.into()));
        }
        received.extend_from_slice(&block[..len]);
        match handshake::Answer::parse(&received).map_err(DialError::Handshake)? {
            None if received.len() > ANSWER_MAX => {
                return Err(DialError::Handshake(HandshakeError::TooLarge));
            }
            None => {}
            Some((handshake::Answer::Established(welcome), used)) => {
                received.drain(..used.min(received.len()));
                let (pin, local) = (io.pin(), io.local());
                return Ok(Link { io, welcome, received, peer, local, pin });
            }
            Some((handshake::Answer::Refused { status, reason, retry_after }, _)) => {
                return Err(DialError::Refused { status, reason, retry_after });
            }
        }
    }
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

/// Whether an address is of this machine or its network, or none that one can dial at all; also
/// where it hides in one of v6 (mapped, NAT64, 6to4).
fn is_inside(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => {
            let [a, b, ..] = ip.octets();
            let shared = a == 100 && (64..128).contains(&b);
            let beyond_unicast = a == 0 || a >= 224;
            shared || beyond_unicast || ip.is_loopback() || ip.is_private() || ip.is_link_local()
        }
        IpAddr::V6(ip) => {
            let [a, b, c, _, _, _, g, h] = ip.segments();
            let v4 = |high: u16, low: u16| {
                let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
                is_inside(Ipv4Addr::new(a, b, c, d).into())
            };
            let embeds = ip.to_ipv4().is_some() || ip.segments()[..6] == NAT64.segments()[..6];
            (embeds && v4(g, h))
                || (a == 0x2002 && v4(b, c))
                || ip.is_loopback()
                || ip.is_unspecified()
                || ip.is_multicast()
                || ip.is_unique_local()
                || ip.is_unicast_link_local()
                || a & 0xffc0 == 0xfec0
        }
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

/// Octets of an answer to PUT that are read at most.
const ANSWER_MAX: usize = 16_384;
/// Addresses of one name that are tried in one dial.
const ADDRESSES_MAX: usize = 8;
/// The well-known prefix of NAT64, 96 bits long.
const NAT64: Ipv6Addr = Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, 0, 0);

#[cfg(test)]
mod tests {
    use super::*;

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
    fn addresses_inside_are_known_in_every_dress() {
        for text in [
            "127.0.0.1",
            "10.1.2.3",
            "172.16.0.1",
            "192.168.1.1",
            "169.254.169.254",
            "100.64.0.1",
            "0.0.0.0",
            "255.255.255.255",
            "224.0.0.1",
            "::",
            "::1",
            "fe80::1",
            "fd00::1",
            "fec0::1",
            "ff02::1",
            "::ffff:192.168.1.1",
            "::10.0.0.1",
            "64:ff9b::7f00:1",
            "2002:c0a8:101::1",
        ] {
            assert!(is_inside(text.parse().unwrap()), "{text}");
        }
        for text in ["203.0.113.5", "100.128.0.1", "172.32.0.1", "2001:db8::1", "64:ff9b::808:808"]
        {
            assert!(!is_inside(text.parse().unwrap()), "{text}");
        }
    }
}
