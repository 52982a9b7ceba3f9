//! The TCP connection of a tunnel: its options, and an end that loses nothing.
//!
//! It owns how the connection is closed. It does not dial ([`crate::dial`]).

use std::{
    io::{self, IoSlice},
    net::{Shutdown, TcpStream},
    pin::Pin,
    task::{Context, Poll, ready},
};

use async_io::Async;
use futures_lite::{AsyncRead, AsyncWrite};
use socket2::SockRef;

/// A connection whose close sends FIN and is done when the proxy has closed too.
///
/// A socket that is dropped while the proxy still sends (credit, most often) answers with RST, and
/// the kernel forgets what it had not sent yet: the last octets of a file. Whoever closes bounds
/// the wait.
#[derive(Debug)]
pub struct Socket {
    tcp: Async<TcpStream>,
    finished: bool,
    /// Octets that may still be thrown away.
    patience: usize,
}

impl Socket {
    /// Takes a connection over. Small frames must not wait for acknowledgements, and what the
    /// kernel holds unsent is out of reach of priorities. A kernel without these options still
    /// carries the tunnel.
    #[must_use]
    pub fn new(tcp: Async<TcpStream>) -> Self {
        let _ = tcp.get_ref().set_nodelay(true);
        let _ = SockRef::from(tcp.get_ref()).set_tcp_notsent_lowat(NOTSENT_LOWAT);
        Self { tcp, finished: false, patience: DISCARD_MAX }
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tcp).poll_read(cx, buf)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tcp).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tcp).poll_write_vectored(cx, bufs)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.finished {
            self.tcp.get_ref().shutdown(Shutdown::Write)?;
            self.finished = true;
        }
        let mut block = [0; 4_096];
        while self.patience > 0 {
            match ready!(Pin::new(&mut self.tcp).poll_read(cx, &mut block))? {
                0 => break,
                len => self.patience = self.patience.saturating_sub(len),
            }
        }
        Poll::Ready(Ok(()))
    }
}

/// Octets that the kernel may hold unsent (TCP_NOTSENT_LOWAT).
const NOTSENT_LOWAT: u32 = 128 << 10;
/// Octets that are thrown away before the connection is closed all the same: more than the uploads
/// that a proxy may have on the way.
const DISCARD_MAX: usize = 4 << 20;

#[cfg(test)]
mod tests {
    use std::{
        io::{Read as _, Write as _},
        net::TcpListener,
        thread,
    };

    use futures_lite::{AsyncWriteExt as _, future::block_on};

    use super::*;

    /// A megabyte is more than the buffers of a connection hold at its start.
    const MUCH: usize = 1 << 20;

    fn pair() -> (Socket, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (Socket::new(Async::new(near).unwrap()), listener.accept().unwrap().0)
    }

    #[test]
    fn close_loses_nothing_though_the_other_end_goes_on_sending() {
        let (mut near, mut far) = pair();
        let far = thread::spawn(move || {
            let mut received = Vec::new();
            let mut block = [0; 10_000];
            loop {
                // Credit, as it were: it comes at any time.
                far.write_all(&[1; 16]).unwrap();
                match far.read(&mut block).unwrap() {
                    0 => return received.len(),
                    len => received.extend_from_slice(&block[..len]),
                }
            }
        });
        block_on(async {
            near.write_all(&vec![7; MUCH]).await.unwrap();
            near.close().await.unwrap();
        });
        drop(near);
        assert_eq!(far.join().unwrap(), MUCH);
    }

    #[test]
    fn flood_does_not_hold_the_close_up() {
        let (mut near, mut far) = pair();
        let far = thread::spawn(move || while far.write_all(&[0; 65_536]).is_ok() {});
        block_on(near.close()).unwrap();
        assert_eq!(near.patience, 0);
        drop(near);
        far.join().unwrap();
    }
}
