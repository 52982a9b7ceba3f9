//! One process gives its listening sockets to the next, and then its agents and visitors.
//!
//! It owns the two ends of that conversation. It does not own what either process does with its
//! connections meanwhile ([`crate::stop`] names the phases).
//!
//! ```text
//! old (Running)                              new (Waiting), its stdin is the channel
//!   sockets H T A  + descriptors ---------->   state, keys, sockets: takes agents
//!               <------------------- ready
//! (Leaving) GOAWAY to agents, visitors are served by the tunnels of before
//!               <--------------- here NAME    an agent has come
//!   go ------------------------------------>  (Running) takes visitors
//! (Draining)
//! ```
//! The end of the channel before `go` means: to the old one, that it serves on; to the new one,
//! that it is alone.

use std::{
    collections::HashSet,
    fmt,
    io::{self, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    net::TcpListener,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::net::UnixStream,
    },
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use async_io::{Async, Timer};
use futures_lite::{AsyncReadExt, AsyncWriteExt, future};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use spdy_protocol::session::Profile;

use crate::{inherit::Inherited, notify::WATCHDOG_PID, stop::Phase, upstream, worker::Shared};

/// Set for a new process whose stdin is the channel.
pub const VARIABLE: &str = "SPDY_PROXY_HANDOVER";

/// Why a new process has not taken over; the old one serves on.
#[derive(Debug)]
pub enum HandoverError {
    /// It cannot be started.
    Start(io::Error),
    /// It ended before it was ready; it has said why.
    Ended(Option<ExitStatus>),
    /// It was not ready in time, and was killed.
    Silent,
    /// It was lost after it had been ready.
    Lost,
    /// This server ends, or gives way already.
    Phase,
}

/// What the new process hears of the old one.
#[derive(Debug)]
pub struct Predecessor {
    lines: Lines,
}

/// A new process; killed if it is given up.
struct Successor {
    child: Option<Child>,
    lines: Lines,
}

/// A conversation by lines.
#[derive(Debug)]
struct Lines {
    channel: Async<UnixStream>,
    held: Vec<u8>,
}

impl fmt::Display for HandoverError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Start(error) => write!(f, "the new process cannot be started: {error}"),
            Self::Ended(Some(status)) => write!(f, "the new process ended: {status}"),
            Self::Ended(None) => f.write_str("the new process ended"),
            Self::Silent => f.write_str("the new process was not ready in time"),
            Self::Lost => f.write_str("the new process was lost"),
            Self::Phase => f.write_str("this process does not serve any more"),
        }
    }
}

impl std::error::Error for HandoverError {}

/// Starts `command`, whose arguments make it serve as this process does, and gives way to it.
/// Returns its id when visitors are its own; this server is to drain then. Dropped before that, it
/// kills the new process, and this one serves on.
///
/// # Errors
/// [`HandoverError`]: this process serves on.
pub(crate) async fn give_way(
    shared: &Shared,
    http: &[Arc<Async<TcpListener>>],
    tunnel: &[Arc<Async<TcpListener>>],
    command: &mut Command,
) -> Result<u32, HandoverError> {
    if shared.stop.phase() != Phase::Running {
        return Err(HandoverError::Phase);
    }
    let timings = &shared.settings.timings;
    let sockets: Vec<BorrowedFd<'_>> =
        http.iter().chain(tunnel).map(|socket| socket.get_ref().as_fd()).collect();
    let first =
        format!("sockets {} {} {}\n", http.len(), tunnel.len(), u8::from(shared.is_activated));
    let mut successor =
        Successor::start(command, &first, &sockets).map_err(HandoverError::Start)?;
    match within(timings.ready, successor.lines.next()).await {
        Some(Ok(Some(line))) if line == READY => {}
        Some(_) => return Err(HandoverError::Ended(successor.ended().await)),
        None => return Err(HandoverError::Silent),
    }
    let retreat = Retreat(shared);
    shared.stop.advance(Phase::Leaving);
    let upstreams = shared.registry.upstreams();
    shared.settings.log.info(format_args!("server=leaving tunnels={}", upstreams.len()));
    // Others than our own go elsewhere only when they are cut.
    let mut expected: HashSet<&str> = HashSet::new();
    for upstream in upstreams.iter().filter(|upstream| upstream.tunnel.profile() == Profile::Ours) {
        upstream.tunnel.leave();
        expected.insert(&upstream.origin);
    }
    let moved = async {
        while !expected.is_empty() {
            let line = successor.lines.next().await.ok().flatten().ok_or(HandoverError::Lost)?;
            if let Some(name) = line.strip_prefix(HERE) {
                expected.remove(name);
            }
        }
        Ok(())
    };
    within(timings.spread + timings.handshake, moved).await.unwrap_or(Ok(()))?;
    successor.lines.tell(GO).await.map_err(|_| HandoverError::Lost)?;
    shared.handed_over.store(true, Relaxed);
    // It holds the folder since before it was ready.
    shared.leave_folder();
    std::mem::forget(retreat);
    // It is nobody's child from here on.
    let child = successor.child.take();
    Ok(child.map_or(0, |child| child.id()))
}

/// What `work` comes to, unless it takes longer than `limit`.
async fn within<T>(limit: Duration, work: impl Future<Output = T>) -> Option<T> {
    future::or(async { Some(work.await) }, async {
        Timer::after(limit).await;
        None
    })
    .await
}

/// Takes the way back when a handover is given up.
struct Retreat<'a>(&'a Shared);

impl Drop for Retreat<'_> {
    fn drop(&mut self) {
        self.0.stop.retreat();
    }
}

impl Predecessor {
    /// The process that started this one with [`VARIABLE`], and its sockets. Blocks until it has
    /// sent them.
    ///
    /// # Errors
    /// When stdin is no such channel.
    pub fn from_stdin() -> io::Result<(Self, Inherited)> {
        let channel = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
        channel.set_read_timeout(Some(FIRST))?;
        let mut sockets = Vec::new();
        let mut held = Vec::new();
        while !held.contains(&b'\n') {
            let mut octets = [0; LINE];
            let read = receive(&channel, &mut octets, &mut sockets)?;
            held.extend_from_slice(&octets[..read]);
            if read == 0 || held.len() > LINE {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        let mut lines = Lines { channel: Async::new(channel)?, held };
        let malformed = || io::Error::from(io::ErrorKind::InvalidData);
        let line = lines.take().ok_or_else(malformed)?;
        let words = line.strip_prefix("sockets ").ok_or_else(malformed)?.split(' ');
        let numbers: Result<Vec<usize>, _> = words.map(str::parse).collect();
        let Ok(&[http, tunnel, is_activated]) = numbers.as_deref() else { return Err(malformed()) };
        if http.checked_add(tunnel) != Some(sockets.len()) {
            return Err(malformed());
        }
        let inherited = Inherited::from_predecessor(sockets, http, is_activated != 0)?;
        Ok((Self { lines }, inherited))
    }

    /// Tells the predecessor that we are ready, and who has come; returns when it has given way,
    /// or is no more.
    pub(crate) async fn follow(self, shared: &Shared) {
        let is_there = future::or(self.converse(shared), async {
            upstream::follow(shared).await;
            true
        })
        .await;
        // Rules and names may have changed since the last look.
        upstream::refresh(shared).await;
        let how = if is_there { "gave way" } else { "lost" };
        shared.settings.log.info(format_args!("server=serving predecessor={how:?}"));
        shared.stop.advance(Phase::Running);
    }

    /// Whether it gave way; else it is no more.
    async fn converse(mut self, shared: &Shared) -> bool {
        let mut told = HashSet::new();
        let mut is_there = self.lines.tell(READY).await.is_ok();
        while is_there {
            for upstream in shared.registry.upstreams() {
                if is_there && !told.contains(&upstream.origin) {
                    let line = format!("{HERE}{}", upstream.origin);
                    is_there = self.lines.tell(&line).await.is_ok();
                    told.insert(upstream.origin.clone());
                }
            }
            match within(LOOK, self.lines.next()).await {
                Some(Ok(Some(line))) if line == GO => break,
                Some(Ok(None) | Err(_)) => is_there = false,
                _ => {}
            }
        }
        is_there
    }
}

impl Successor {
    fn start(command: &mut Command, first: &str, sockets: &[BorrowedFd<'_>]) -> io::Result<Self> {
        let (ours, theirs) = UnixStream::pair()?;
        command.env(VARIABLE, "1").env_remove(WATCHDOG_PID);
        command.stdin(Stdio::from(OwnedFd::from(theirs)));
        let child = command.spawn();
        // Whoever keeps a copy of their end never hears of theirs.
        command.stdin(Stdio::null());
        let lines = Lines { channel: Async::new(ours)?, held: Vec::new() };
        let successor = Self { child: Some(child?), lines };
        match send(successor.lines.channel.get_ref(), first.as_bytes(), sockets) {
            // It has ended already, which shows in how.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
            sent => sent?,
        }
        Ok(successor)
    }

    /// How it ended, which its end of the channel does a moment before itself.
    async fn ended(&mut self) -> Option<ExitStatus> {
        for _ in 0..MOMENTS {
            match self.child.as_mut()?.try_wait() {
                Ok(None) => drop(Timer::after(MOMENT).await),
                ended => return ended.ok().flatten(),
            }
        }
        None
    }
}

impl Drop for Successor {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            // It has ended already, or does now.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Lines {
    /// The next line; `None` at the end. Cancel safe.
    async fn next(&mut self) -> io::Result<Option<String>> {
        loop {
            if let Some(line) = self.take() {
                return Ok(Some(line));
            }
            let mut octets = [0; LINE];
            let read = self.channel.read(&mut octets).await?;
            if read == 0 || self.held.len() > LINE {
                return Ok(None);
            }
            self.held.extend_from_slice(&octets[..read]);
        }
    }

    async fn tell(&mut self, line: &str) -> io::Result<()> {
        self.channel.write_all(format!("{line}\n").as_bytes()).await
    }

    fn take(&mut self) -> Option<String> {
        let end = self.held.iter().position(|octet| *octet == b'\n')?;
        let line: Vec<u8> = self.held.drain(..=end).collect();
        Some(String::from_utf8_lossy(&line[..end]).into_owned())
    }
}

fn send(channel: &UnixStream, octets: &[u8], sockets: &[BorrowedFd<'_>]) -> io::Result<()> {
    let message = SendAncillaryMessage::ScmRights(sockets);
    let mut space = vec![MaybeUninit::uninit(); message.size()];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !control.push(message) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // The channel is empty: it takes a line at once.
    sendmsg(channel, &[IoSlice::new(octets)], &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}

fn receive(
    channel: &UnixStream,
    octets: &mut [u8],
    sockets: &mut Vec<OwnedFd>,
) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(SOCKETS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut into = [IoSliceMut::new(octets)];
    let read = recvmsg(channel, &mut into, &mut control, RecvFlags::CMSG_CLOEXEC)?.bytes;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(received) = message {
            sockets.extend(received);
        }
    }
    Ok(read)
}

const READY: &str = "ready";
const HERE: &str = "here ";
const GO: &str = "go";
/// Octets of a line: a word and the name of an origin.
const LINE: usize = 128;
/// Sockets that are passed on, the kernel's own bound.
const SOCKETS: usize = 253;
/// Time for the first line, which is sent before the new process runs.
const FIRST: Duration = Duration::from_secs(5);
/// Time for the end of a process that has closed its end of the channel.
const MOMENT: Duration = Duration::from_millis(10);
const MOMENTS: u32 = 100;
/// How often the new process looks who has come.
const LOOK: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use futures_lite::future::block_on;

    use super::*;

    #[test]
    fn sockets_and_lines_come_through_in_any_pieces() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        send(&ours, b"sockets 1 0 0\nhe", &[listener.as_fd()]).unwrap();
        let (mut octets, mut sockets) = ([0; LINE], Vec::new());
        let read = receive(&theirs, &mut octets, &mut sockets).unwrap();
        let got = TcpListener::from(sockets.remove(0));
        assert_eq!(got.local_addr().unwrap(), listener.local_addr().unwrap());
        let held = octets[..read].to_vec();
        let mut lines = Lines { channel: Async::new(theirs).unwrap(), held };
        block_on(async {
            assert_eq!(lines.next().await.unwrap().unwrap(), "sockets 1 0 0");
            let mut other = Lines { channel: Async::new(ours).unwrap(), held: Vec::new() };
            other.tell("re nas1").await.unwrap();
            assert_eq!(lines.next().await.unwrap().unwrap(), "here nas1");
            drop(other);
            assert_eq!(lines.next().await.unwrap(), None);
        });
    }

    #[test]
    fn a_line_without_end_is_the_end() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        std::io::Write::write_all(&mut &ours, &[b'x'; 3 * LINE]).unwrap();
        let mut lines = Lines { channel: Async::new(theirs).unwrap(), held: Vec::new() };
        assert_eq!(block_on(lines.next()).unwrap(), None);
    }
}
