//! Whether addresses, routes or links of this machine changed: what the kernel says over netlink.
//!
//! It owns the socket, which of the kernel's messages is news, how often there is any, and which
//! addresses are ours. What follows from a change is the caller's. Where the socket cannot be had
//! nothing is polled instead: the tunnels' own deadlines find a dead way, too, only later.

use std::{
    io,
    net::{SocketAddr, UdpSocket},
    os::fd::OwnedFd,
    time::{Duration, Instant},
};

use async_io::{Async, Timer};
use futures_lite::future::or;
use rustix::{
    io::Errno,
    net::{
        AddressFamily, RecvFlags, SocketFlags, SocketType, bind, netlink::SocketAddrNetlink, recv,
        socket_with,
    },
};

/// How often there is news.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timings {
    /// Time for all that belongs to one change: an address comes, then its routes. Default 1 s.
    pub settle: Duration,
    /// Shortest time between two news: an interface may flap. Default 5 s.
    pub gap: Duration,
}

impl Default for Timings {
    fn default() -> Self {
        Self { settle: Duration::from_secs(1), gap: Duration::from_secs(5) }
    }
}

/// Whether an address is one of this machine's; nothing that is sent from another arrives. Asks the
/// kernel for a port there: any other refusal, or a kernel that gives every address away
/// (`ip_nonlocal_bind`), counts as yes, and the tunnel's PING decides.
#[must_use]
pub fn is_own(mut address: SocketAddr) -> bool {
    address.set_port(0);
    let refused = UdpSocket::bind(address).err();
    refused.is_none_or(|error| error.kind() != io::ErrorKind::AddrNotAvailable)
}

impl Timings {
    /// When a change that is seen now is told.
    fn settled(&self, last: Option<Instant>, now: Instant) -> Instant {
        let since = last.map_or(Duration::MAX, |last| now.saturating_duration_since(last));
        now + self.settle.max(self.gap.saturating_sub(since))
    }
}

/// Listens for changes.
#[derive(Debug)]
pub struct Watch {
    socket: Async<OwnedFd>,
    timings: Timings,
    known: Known,
    last: Option<Instant>,
}

impl Watch {
    /// Asks the kernel to tell.
    ///
    /// # Errors
    /// The system does not allow it.
    pub fn open(timings: Timings) -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        // Protocol 0 is NETLINK_ROUTE.
        let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, None)?;
        bind(&socket, &SocketAddrNetlink::new(0, GROUPS))?;
        Ok(Self { socket: Async::new(socket)?, timings, known: Known::default(), last: None })
    }

    /// The next change, once it has settled. Cancel safe, but for a change that was settling.
    ///
    /// # Errors
    /// The socket is broken; nothing will come any more.
    pub async fn changed(&mut self) -> io::Result<()> {
        while !self.receive().await? {}
        let settled = self.timings.settled(self.last, Instant::now());
        let rest = async {
            loop {
                if let Err(error) = self.receive().await {
                    break Err(error);
                }
            }
        };
        let over = async {
            Timer::at(settled).await;
            Ok(())
        };
        or(over, rest).await?;
        self.last = Some(Instant::now());
        Ok(())
    }

    /// Takes what the kernel said next; whether that is news.
    async fn receive(&mut self) -> io::Result<bool> {
        let mut block = [0; BLOCK];
        let known = &mut self.known;
        let received = self.socket.read_with(|socket| {
            let (len, _) = recv(socket, &mut block[..], RecvFlags::empty())?;
            Ok(len)
        });
        match received.await {
            Ok(len) => Ok(known.is_news(&block[..len])),
            // It said more than we had room for.
            Err(error) if error.raw_os_error() == Some(Errno::NOBUFS.raw_os_error()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(false),
            Err(error) => Err(error),
        }
    }
}

/// What was said before: routers repeat their addresses all day, and radios their links.
#[derive(Debug, Default)]
struct Known {
    /// Index of the interface, address.
    addresses: Vec<(u32, Vec<u8>)>,
    /// Index of the interface, whether it works.
    links: Vec<(u32, bool)>,
}

impl Known {
    /// Whether one of the messages of a datagram tells something new (rtnetlink(7)).
    fn is_news(&mut self, mut octets: &[u8]) -> bool {
        let mut news = false;
        while let Some(len) = u32_at(octets, 0).and_then(|len| usize::try_from(len).ok()) {
            let Some(message) = octets.get(..len).filter(|_| len >= HEADER) else { break };
            news |= self.is_message_news(u16_at(message, 4).unwrap_or(0), &message[HEADER..]);
            octets = octets.get(len.next_multiple_of(4)..).unwrap_or_default();
        }
        news
    }

    fn is_message_news(&mut self, kind: u16, body: &[u8]) -> bool {
        let index = u32_at(body, 4).unwrap_or(0);
        match kind {
            NEW_ROUTE | DEL_ROUTE => true,
            NEW_LINK | DEL_LINK => {
                let works =
                    kind == NEW_LINK && u32_at(body, 8).is_some_and(|flags| flags & RUNNING != 0);
                let before = self.links.iter().position(|link| link.0 == index);
                let before = before.map(|at| self.links.swap_remove(at).1);
                keep(&mut self.links, (index, works));
                before != Some(works)
            }
            NEW_ADDRESS | DEL_ADDRESS => {
                let address = (index, address(body).unwrap_or_default().to_vec());
                let before = self.addresses.iter().position(|known| *known == address);
                match (kind, before) {
                    (NEW_ADDRESS, Some(_)) => false,
                    (NEW_ADDRESS, None) => {
                        keep(&mut self.addresses, address);
                        true
                    }
                    (_, before) => {
                        before.map(|at| self.addresses.swap_remove(at));
                        true
                    }
                }
            }
            _ => false,
        }
    }
}

/// Remembers one more; the oldest goes for it.
fn keep<T>(known: &mut Vec<T>, one: T) {
    if known.len() == KNOWN_MAX {
        known.remove(0);
    }
    known.push(one);
}

/// IFA_ADDRESS of an ifaddrmsg.
fn address(body: &[u8]) -> Option<&[u8]> {
    let mut rest = body.get(8..)?;
    loop {
        let len = usize::from(u16_at(rest, 0)?);
        if u16_at(rest, 2)? == IFA_ADDRESS {
            return rest.get(4..len);
        }
        rest = rest.get(len.max(4).next_multiple_of(4)..)?;
    }
}

fn u16_at(octets: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(octets.get(at..at + 2)?.try_into().ok()?))
}

fn u32_at(octets: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(octets.get(at..at + 4)?.try_into().ok()?))
}

/// RTMGRP_LINK, RTMGRP_IPV4_IFADDR, _ROUTE, RTMGRP_IPV6_IFADDR, _ROUTE.
const GROUPS: u32 = 0x1 | 0x10 | 0x40 | 0x100 | 0x400;
const NEW_LINK: u16 = 16;
const DEL_LINK: u16 = 17;
const NEW_ADDRESS: u16 = 20;
const DEL_ADDRESS: u16 = 21;
const NEW_ROUTE: u16 = 24;
const DEL_ROUTE: u16 = 25;
const IFA_ADDRESS: u16 = 1;
/// IFF_RUNNING.
const RUNNING: u32 = 0x40;
/// Octets of a message's header.
const HEADER: usize = 16;
/// Octets of a datagram that are looked at; the kernel fills no more for these groups.
const BLOCK: usize = 8_192;
/// Addresses, and links, that are remembered.
const KNOWN_MAX: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u16, body: &[u8]) -> Vec<u8> {
        let len = u32::try_from(HEADER + body.len()).unwrap();
        let mut octets = len.to_ne_bytes().to_vec();
        octets.extend_from_slice(&kind.to_ne_bytes());
        octets.resize(HEADER, 0);
        octets.extend_from_slice(body);
        octets.resize(octets.len().next_multiple_of(4), 0);
        octets
    }

    fn link(kind: u16, index: u32, flags: u32) -> Vec<u8> {
        let body = [[0; 4], index.to_ne_bytes(), flags.to_ne_bytes(), [0; 4]].concat();
        message(kind, &body)
    }

    fn addressed(kind: u16, index: u32, last: u8) -> Vec<u8> {
        let mut body = [[2, 24, 0, 0], index.to_ne_bytes()].concat();
        // A label in front, of a length that needs padding.
        body.extend_from_slice(&[7_u16.to_ne_bytes(), 3_u16.to_ne_bytes()].concat());
        body.extend_from_slice(b"lo\0\0");
        body.extend_from_slice(&[8_u16.to_ne_bytes(), IFA_ADDRESS.to_ne_bytes()].concat());
        body.extend_from_slice(&[192, 0, 2, last]);
        message(kind, &body)
    }

    #[test]
    fn repeated_addresses_and_links_are_no_news() {
        let mut known = Known::default();
        assert!(known.is_news(&addressed(NEW_ADDRESS, 2, 1)));
        assert!(!known.is_news(&addressed(NEW_ADDRESS, 2, 1)));
        assert!(known.is_news(&addressed(NEW_ADDRESS, 3, 1)));
        assert!(known.is_news(&addressed(NEW_ADDRESS, 2, 2)));
        assert!(known.is_news(&addressed(DEL_ADDRESS, 2, 1)));
        assert!(known.is_news(&addressed(NEW_ADDRESS, 2, 1)));
        assert!(known.is_news(&link(NEW_LINK, 2, RUNNING)));
        assert!(!known.is_news(&link(NEW_LINK, 2, RUNNING | 1)));
        assert!(known.is_news(&link(NEW_LINK, 2, 1)));
        assert!(!known.is_news(&link(DEL_LINK, 2, RUNNING)));
        assert!(known.is_news(&link(NEW_LINK, 2, RUNNING)));
    }

    #[test]
    fn own_addresses_are_told_from_others() {
        assert!(is_own("127.0.0.1:1444".parse().unwrap()));
        // For documentation (RFC 5737): nobody has it.
        assert!(!is_own("192.0.2.1:1444".parse().unwrap()));
    }

    #[test]
    fn routes_are_news_wherever_they_stand_in_a_datagram() {
        let mut known = Known::default();
        known.is_news(&addressed(NEW_ADDRESS, 2, 1));
        let both = [addressed(NEW_ADDRESS, 2, 1), message(DEL_ROUTE, &[0; 12])].concat();
        assert!(known.is_news(&both));
        assert!(known.is_news(&message(NEW_ROUTE, &[0; 12])));
        assert!(!known.is_news(&message(3, &[0; 12])));
    }

    #[test]
    fn memory_is_bounded_and_nonsense_harmless() {
        let mut known = Known::default();
        for index in 0..1_000 {
            known.is_news(&addressed(NEW_ADDRESS, index, 1));
            known.is_news(&link(NEW_LINK, index, 0));
        }
        assert_eq!((known.addresses.len(), known.links.len()), (KNOWN_MAX, KNOWN_MAX));
        let whole = [addressed(NEW_ADDRESS, 1, 1), link(NEW_LINK, 1, 0)].concat();
        for end in 0..whole.len() {
            known.is_news(&whole[..end]);
            let mut broken = whole.clone();
            broken[end] = broken[end].wrapping_add(0x7f);
            known.is_news(&broken);
        }
    }

    #[test]
    fn flapping_is_told_once_in_a_while() {
        let timings = Timings::default();
        let now = Instant::now();
        let ago = |seconds| now.checked_sub(Duration::from_secs(seconds));
        let waits = [None, ago(0), ago(3), ago(4), ago(60)]
            .map(|last| (timings.settled(last, now) - now).as_secs());
        assert_eq!(waits, [1, 5, 2, 1, 1]);
    }
}
