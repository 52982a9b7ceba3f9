//! A TCP connection as the rest of the proxy uses it, and as hyper wants it.
//!
//! It owns socket options and the two ways to end a connection: FIN, or RST where a FIN would make
//! a broken body look complete. It does not own TLS or HTTP.
//!
//! hyper gets an adapter of our own: `smol_hyper::rt::FuturesIo` does not say that it can write
//! vectored, so that hyper would copy each body into its head's buffer, and it clears the whole
//! read buffer before each read.

use std::{
    cell::{Cell, RefCell},
    future::poll_fn,
    io::{self, IoSlice},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use async_io::{Async, Timer};
use futures_lite::{AsyncRead, AsyncWrite, future};
use hyper::rt::ReadBufCursor;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use socket2::{SockRef, TcpKeepalive};

use crate::{request_line::RequestLine, status_line::Written, watch::Watch};

/// A TCP connection; clones are the same connection.
#[derive(Clone, Debug)]
pub(crate) struct Socket(Arc<Async<TcpStream>>);

/// How much of a connection its peer has left.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Presence {
    /// It may send.
    Whole,
    /// It has sent FIN: it only listens, or it has gone. That shows only when we write.
    Half,
    /// It has reset the connection.
    Gone,
}

/// What hyper reads and writes: a socket, or TLS over one, that keeps its connection's deadline.
#[derive(Debug)]
pub(crate) struct VisitorIo<S> {
    stream: S,
    watch: Arc<Watch>,
    /// The first request line, until its version was read.
    line: Option<RequestLine>,
    written: Written,
}

/// A socket that listens on `address`. IPv6 sockets take IPv4 too (`[::]` is dual-stack).
pub(crate) fn listen(address: SocketAddr) -> io::Result<Async<TcpListener>> {
    use socket2::{Domain, Protocol, Socket, Type};
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // A restart must not wait for the old connections' TIME_WAIT.
    socket.set_reuse_address(true)?;
    if address.is_ipv6() && address.ip().is_unspecified() {
        socket.set_only_v6(false)?;
    }
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Async::new(TcpListener::from(socket))
}

impl Socket {
    /// Takes an accepted connection over. Small frames and ends of bodies must not wait for ACKs.
    pub(crate) fn new(stream: Async<TcpStream>) -> io::Result<Self> {
        stream.get_ref().set_nodelay(true)?;
        Ok(Self(Arc::new(stream)))
    }

    /// Finds peers that are no more without a word. One that only pauses answers its kernel's
    /// probes, however long.
    pub(crate) fn probe(&self) -> io::Result<()> {
        let probes = TcpKeepalive::new().with_time(PROBE).with_interval(PROBE);
        SockRef::from(self.0.get_ref()).set_tcp_keepalive(&probes)
    }

    /// Bounds what the kernel holds unsent, in octets: what is there is beyond any priority.
    pub(crate) fn limit_unsent(&self, octets: u32) -> io::Result<()> {
        SockRef::from(self.0.get_ref()).set_tcp_notsent_lowat(octets)
    }

    /// Whether the next close, the kernel's after a kill too, sends RST instead of FIN and drops
    /// what is unsent. Default no.
    pub(crate) fn reset_on_close(&self, resets: bool) {
        // It fails only on a socket that is no more, which is as good.
        let _ = SockRef::from(self.0.get_ref()).set_linger(resets.then_some(Duration::ZERO));
    }

    /// What the peer has ended, as far as the kernel knows. Nothing is read.
    pub(crate) fn presence(&self) -> Presence {
        let mut polled = [PollFd::new(self.0.get_ref(), PollFlags::RDHUP)];
        let events = match poll(&mut polled, Some(&Timespec::default())) {
            Ok(_) => polled[0].revents(),
            Err(_) => PollFlags::empty(),
        };
        if events.intersects(PollFlags::HUP | PollFlags::ERR) {
            Presence::Gone
        } else if events.contains(PollFlags::RDHUP) {
            Presence::Half
        } else {
            Presence::Whole
        }
    }

    /// Sends FIN.
    pub(crate) fn finish(&self) {
        // The peer may have reset it already, which is as good.
        let _ = self.0.get_ref().shutdown(Shutdown::Write);
    }

    /// Reads and discards until the peer closes or sends nothing for `silence`. Cancel safe.
    pub(crate) async fn discard(&self, silence: Duration) {
        let last = Cell::new(Instant::now());
        let reading = async {
            let read = |cx: &mut Context<'_>| {
                SCRATCH.with_borrow_mut(|scratch| Pin::new(&mut &*self.0).poll_read(cx, scratch))
            };
            while matches!(poll_fn(read).await, Ok(1..)) {
                last.set(Instant::now());
                // A fast peer always has more: others of this thread have their turn.
                future::yield_now().await;
            }
        };
        let silent = async {
            while let due = last.get() + silence
                && due > Instant::now()
            {
                Timer::at(due).await;
            }
        };
        future::or(reading, silent).await;
    }

    /// Waits until the kernel has sent everything, so that a reset does not drop it. Cancel safe.
    pub(crate) async fn sent(&self) {
        // A socket counts as writable while less than this is unsent. One that fails has nothing.
        if self.limit_unsent(1).is_ok() {
            let _ = self.0.writable().await;
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut &*self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut &*self.0).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut &*self.0).poll_write_vectored(cx, bufs)
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // `Async` would only flush: the peer must see the end though clones are alive.
        self.finish();
        Poll::Ready(Ok(()))
    }
}

impl<S> VisitorIo<S> {
    /// hyper's end of `stream`.
    pub(crate) const fn new(stream: S, watch: Arc<Watch>) -> Self {
        Self { stream, watch, line: Some(RequestLine::new()), written: Written::Flushed }
    }

    /// The stream below, to go on with another protocol.
    pub(crate) fn into_inner(self) -> S {
        self.stream
    }
}

impl<S: AsyncRead + Unpin> hyper::rt::Read for VisitorIo<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut buf: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let read = SCRATCH.with_borrow_mut(|scratch| {
            let most = buf.remaining().min(scratch.len());
            let read = ready!(Pin::new(&mut this.stream).poll_read(cx, &mut scratch[..most]))?;
            if let Some(line) = &mut this.line
                && let Some(claim) = line.read(&mut scratch[..read])
            {
                this.watch.on_claim(claim);
                this.line = None;
            }
            buf.put_slice(&scratch[..read]);
            Poll::Ready(Ok(read))
        });
        match &read {
            Poll::Pending => this.watch.waits_for_visitor(),
            Poll::Ready(_) => this.watch.heard_visitor(),
        }
        read.map_ok(|_| ())
    }
}

impl<S: AsyncWrite + Unpin> hyper::rt::Write for VisitorIo<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let first = bufs.iter().find(|buf| !buf.is_empty());
        if let Some(first) = first
            && let Some(replaced) = this.written.replace(first, &this.watch.old_response)
        {
            // A write that waits is asked for again with the same bytes.
            this.written = replaced.after(0);
            let written = ready!(Pin::new(&mut this.stream).poll_write(cx, &replaced.text))?;
            this.written = replaced.after(written);
            return Poll::Ready(Ok(written));
        }
        this.written = Written::Some;
        Pin::new(&mut this.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        // hyper flushes its own buffer first.
        ready!(Pin::new(&mut this.stream).poll_flush(cx))?;
        this.written = Written::Flushed;
        this.watch.on_flushed();
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_close(cx)
    }
}

/// Silence after which a visitor's kernel is asked whether it is still there, and then again.
const PROBE: Duration = Duration::from_secs(60);
/// Connections that the kernel keeps for us until we accept them.
const BACKLOG: i32 = 1_024;

thread_local! {
    /// Where reads go first: hyper hands out uninitialised memory, and clearing 8 KiB for a
    /// request of 100 octets costs more than copying those.
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; 65_536].into_boxed_slice());
}
