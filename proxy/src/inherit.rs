//! Listening sockets that somebody else has opened: systemd, or the process before this one.
//!
//! It owns which of them serves which of our ports. It does not own how they come from the process
//! before ([`crate::handover`]).

use std::{
    io,
    net::{SocketAddr, TcpListener},
    os::fd::OwnedFd,
};

use async_io::Async;
use rustix::{
    io::{FdFlags, fcntl_setfd},
    net::sockopt::socket_acceptconn,
};

use crate::socket;

/// Sockets of both ports.
#[derive(Debug, Default)]
pub struct Inherited {
    /// For visitors.
    pub(crate) http: Vec<TcpListener>,
    /// For agents.
    pub(crate) tunnel: Vec<TcpListener>,
    /// Whether a port that has some here listens on no other address, whatever the settings say.
    pub(crate) is_activated: bool,
}

impl Inherited {
    /// The sockets of systemd's socket activation (`LISTEN_FDS`); none if it gave none. One called
    /// `http` or `tunnel` (`FileDescriptorName=`) serves that port. Others serve agents if they
    /// have a port of `tunnel`, the addresses in the settings, else visitors.
    ///
    /// # Errors
    /// A malformed environment, and a descriptor that is no listening TCP socket.
    pub fn from_systemd(tunnel: &[SocketAddr]) -> io::Result<Self> {
        let given = sd_listen_fds::get().map_err(io::Error::other)?;
        let mut inherited = Self { is_activated: !given.is_empty(), ..Self::default() };
        for (name, fd) in given {
            let listener = checked(fd.into_std())?;
            let port = listener.local_addr()?.port();
            let is_tunnel = match name.as_deref() {
                Some("tunnel") => true,
                Some("http") => false,
                _ => tunnel.iter().any(|address| address.port() == port),
            };
            if is_tunnel { &mut inherited.tunnel } else { &mut inherited.http }.push(listener);
        }
        Ok(inherited)
    }

    /// Sockets of a process before this one: `http` of them, in front, are for visitors.
    pub(crate) fn from_predecessor(
        sockets: Vec<OwnedFd>,
        http: usize,
        is_activated: bool,
    ) -> io::Result<Self> {
        let mut http_sockets =
            sockets.into_iter().map(checked).collect::<io::Result<Vec<TcpListener>>>()?;
        let tunnel = http_sockets.split_off(http.min(http_sockets.len()));
        Ok(Self { http: http_sockets, tunnel, is_activated })
    }

    /// Sockets for all of `addresses`: those that are `held` first, new ones where there is none.
    /// What is left of `held` is closed.
    ///
    /// # Errors
    /// The address that cannot be listened on.
    pub(crate) fn listen(
        mut held: Vec<TcpListener>,
        is_activated: bool,
        addresses: &[SocketAddr],
    ) -> Result<Vec<Async<TcpListener>>, (SocketAddr, io::Error)> {
        if is_activated && !held.is_empty() {
            let own = |listener: TcpListener| {
                let address = listener.local_addr();
                let address = address.unwrap_or_else(|_| SocketAddr::from(([0, 0, 0, 0], 0)));
                Async::new(listener).map_err(|error| (address, error))
            };
            return held.into_iter().map(own).collect();
        }
        let mut take = |wanted: &SocketAddr| {
            let is_wanted = |listener: &TcpListener| {
                listener.local_addr().is_ok_and(|held| {
                    held == *wanted || wanted.port() == 0 && held.ip() == wanted.ip()
                })
            };
            let at = held.iter().position(is_wanted)?;
            Some(held.remove(at))
        };
        let listen = |address: &SocketAddr| {
            let listening = match take(address) {
                Some(listener) => Async::new(listener),
                None => socket::listen(*address),
            };
            listening.map_err(|error| (*address, error))
        };
        addresses.iter().map(listen).collect()
    }
}

/// A socket that listens, and that no program we start gets by accident.
fn checked(fd: OwnedFd) -> io::Result<TcpListener> {
    if !socket_acceptconn(&fd)? {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "inherited socket does not listen",
        ));
    }
    fcntl_setfd(&fd, FdFlags::CLOEXEC)?;
    let listener = TcpListener::from(fd);
    // Anything but an IP address fails here.
    listener.local_addr()?;
    Ok(listener)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listener() -> (TcpListener, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        (listener, address)
    }

    fn addresses(listening: &[Async<TcpListener>]) -> Vec<SocketAddr> {
        listening.iter().map(|one| one.get_ref().local_addr().unwrap()).collect()
    }

    #[test]
    fn held_sockets_serve_their_addresses_and_the_others_are_new() {
        let ((one, first), (two, second), (other, gone)) = (listener(), listener(), listener());
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let v6 = "[::1]:0".parse().unwrap();
        let listening =
            Inherited::listen(vec![one, other, two], false, &[second, v6, any]).unwrap();
        let (got, rest) = (addresses(&listening), std::net::TcpStream::connect(gone));
        assert_eq!((got[0], got[2]), (second, first));
        assert!(got[1].is_ipv6());
        // Nobody listens there any more.
        assert!(rest.is_err());
    }

    #[test]
    fn activated_sockets_are_all_there_is() {
        let (one, first) = listener();
        let elsewhere = SocketAddr::from(([127, 0, 0, 1], 1));
        let listening = Inherited::listen(vec![one], true, &[elsewhere]).unwrap();
        assert_eq!(addresses(&listening), [first]);
        let none = Inherited::listen(Vec::new(), true, &["127.0.0.1:0".parse().unwrap()]).unwrap();
        assert_eq!(none.len(), 1);
    }

    #[test]
    fn only_listening_sockets_are_taken() {
        let (listener, address) = listener();
        let connected = std::net::TcpStream::connect(address).unwrap();
        assert!(checked(connected.into()).is_err());
        assert!(checked(std::fs::File::open("/dev/null").unwrap().into()).is_err());
        assert!(checked(listener.into()).is_ok());
    }
}
