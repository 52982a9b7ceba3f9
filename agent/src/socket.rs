//! The connection of a tunnel: its options, and an end that the proxy sees.
//!
//! It owns how the connection is closed: TLS's goodbye, then FIN, which neither futures-rustls nor
//! `Async` sends. The driver of the tunnel waits for the proxy's end. It does not dial
//! ([`crate::dial`]).

use std::{
    io,
    net::{Shutdown, SocketAddr, TcpStream},
    pin::Pin,
    task::{Context, Poll, ready},
};

use async_io::Async;
use async_rustls::client::TlsStream;
use futures_lite::{AsyncRead, AsyncWrite};
use socket2::SockRef;

use crate::verify;

/// TLS over TCP.
#[derive(Debug)]
pub struct Socket {
    tls: TlsStream<Async<TcpStream>>,
    finished: bool,
}

impl Socket {
    /// Takes a connection over.
    #[must_use]
    pub const fn new(tls: TlsStream<Async<TcpStream>>) -> Self {
        Self { tls, finished: false }
    }

    /// The pin of the key that the other end proved to have.
    #[must_use]
    pub fn pin(&self) -> Option<verify::Pin> {
        verify::Pin::of(self.tls.get_ref().1.peer_certificates()?.first()?)
    }

    /// Our address, if the kernel says it.
    #[must_use]
    pub fn local(&self) -> Option<SocketAddr> {
        self.tls.get_ref().0.get_ref().local_addr().ok()
    }
}

/// Small frames must not wait for acknowledgements, and what the kernel holds unsent is out of
/// reach of priorities. A kernel without these options still carries the tunnel.
pub(crate) fn tune(tcp: &Async<TcpStream>) {
    let _ = tcp.get_ref().set_nodelay(true);
    let _ = SockRef::from(tcp.get_ref()).set_tcp_notsent_lowat(NOTSENT_LOWAT);
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tls).poll_read(cx, buf)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tls).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tls).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.finished {
            ready!(Pin::new(&mut self.tls).poll_close(cx))?;
            self.finished = true;
            self.tls.get_ref().0.get_ref().shutdown(Shutdown::Write)?;
        }
        Poll::Ready(Ok(()))
    }
}

/// Octets that the kernel may hold unsent (TCP_NOTSENT_LOWAT).
const NOTSENT_LOWAT: u32 = 128 << 10;
