//! A connection to a service: names, addresses, deadlines.
//!
//! Names are resolved each time, so that a service may move; the owner's name never leads to a
//! link-local address, behind which the secrets of routers and clouds are.

use std::{
    io,
    net::{IpAddr, SocketAddr, TcpStream, ToSocketAddrs},
    time::Duration,
};

use async_io::{Async, Timer};
use futures_lite::future::or;
use socket2::{SockRef, TcpKeepalive};

use super::{Failure, service::Service};
use crate::pool::Pool;

/// Connects, trying one address after the other. Safe to drop: nothing stays but the thread that
/// asks the resolver.
pub(super) async fn connect(
    service: &Service,
    resolver: &Pool,
    limit: Duration,
) -> Result<Async<TcpStream>, Failure> {
    let addresses = match service.literal() {
        Some(ip) => vec![SocketAddr::new(ip, service.port())],
        None => resolve(service, resolver, limit).await?,
    };
    // An address that swallows everything must leave the next ones their share.
    let share = limit / u32::try_from(addresses.len()).unwrap_or(1).max(1);
    let mut failure = Failure::Resolve(io::ErrorKind::NotFound.into());
    for address in addresses {
        let connected = deadline(share, Async::<TcpStream>::connect(address)).await;
        match connected {
            Some(Ok(socket)) => {
                tune(&socket);
                return Ok(socket);
            }
            Some(Err(error)) => failure = Failure::Connect(error),
            None => failure = Failure::Late,
        }
    }
    Err(failure)
}

async fn resolve(
    service: &Service,
    resolver: &Pool,
    limit: Duration,
) -> Result<Vec<SocketAddr>, Failure> {
    let (host, port) = (service.host().to_owned(), service.port());
    let asked = resolver.run(move || (host.as_str(), port).to_socket_addrs());
    let found = match deadline(limit, asked).await {
        Some(found) => found.map_err(Failure::Resolve)?,
        None => return Err(Failure::Resolve(io::ErrorKind::TimedOut.into())),
    };
    let mut found: Vec<_> = found.take(ADDRESSES).collect();
    found.retain(|address| !is_link_local(address.ip()));
    if found.is_empty() { Err(Failure::LinkLocal) } else { Ok(found) }
}

/// `None` when the time is over.
async fn deadline<T>(limit: Duration, future: impl Future<Output = T>) -> Option<T> {
    or(async { Some(future.await) }, async {
        Timer::after(limit).await;
        None
    })
    .await
}

fn tune(socket: &Async<TcpStream>) {
    // A socket that takes no option still carries octets.
    let _ = socket.get_ref().set_nodelay(true);
    let socket = SockRef::from(socket.get_ref());
    // What the kernel reads ahead of a visitor who has paused.
    let _ = socket.set_recv_buffer_size(READ_AHEAD);
    // No timer cuts a service that is silent, but one whose machine has gone.
    let _ = socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(PROBE).with_interval(PROBE));
}

/// 169.254.0.0/16 and fe80::/10, also as IPv4 inside IPv6.
fn is_link_local(ip: IpAddr) -> bool {
    match ip.to_canonical() {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    }
}

/// Addresses of a name that are tried.
const ADDRESSES: usize = 8;
/// Octets that the kernel is asked to hold unread of a service; it takes up to twice as many.
const READ_AHEAD: usize = 256 << 10;
/// Silence after which the service's kernel is asked whether it is still there, and then again.
const PROBE: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn link_local_addresses_are_known_in_every_form() {
        for (ip, is) in [
            ("169.254.169.254", true),
            ("::ffff:169.254.0.1", true),
            ("fe80::1", true),
            ("febf::1", true),
            ("fec0::1", false),
            ("169.253.0.1", false),
            ("127.0.0.1", false),
            ("192.168.1.1", false),
            ("::1", false),
            ("fd00::1", false),
        ] {
            assert_eq!(is_link_local(ip.parse().unwrap()), is, "{ip}");
        }
    }
}
