//! The load: whole downloads, and many small requests over connections that stay.
//!
//! It speaks just enough HTTP/1.1 for both systems under test and checks every length. It costs
//! little itself: bodies of downloads are counted in the kernel (`MSG_TRUNC`) unless their digest
//! is wanted, and all connections of the small requests hang on one epoll.

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    thread,
    time::{Duration, Instant},
};

use rustix::{
    event::epoll,
    net::{RecvFlags, recv},
};
use spdy_tests::fixture::Sha256;

/// What one download, or several at a time, took.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Download {
    /// From the first request to the last octet.
    pub(crate) time: Duration,
    /// From half of the octets to the last one: without the start of the window's growth.
    pub(crate) second_half: Duration,
}

/// Fetches `path` `count` times at once; each body has `octets` octets.
///
/// # Errors
/// When a connection fails or a status or a length is wrong.
pub(crate) fn downloads(
    address: SocketAddr,
    path: &str,
    octets: u64,
    count: usize,
) -> io::Result<Download> {
    let start = Instant::now();
    let halves = thread::scope(|scope| {
        let running: Vec<_> =
            (0..count).map(|_| scope.spawn(|| download(address, path, octets))).collect();
        running
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|_| Err(io::Error::other("panic"))))
            .collect::<io::Result<Vec<Instant>>>()
    })?;
    let time = start.elapsed();
    let half = halves.into_iter().max().unwrap_or(start);
    Ok(Download { time, second_half: half.elapsed() })
}

/// Returns when half of the body was there.
fn download(address: SocketAddr, path: &str, octets: u64) -> io::Result<Instant> {
    let (stream, early) = request(address, path, octets)?;
    let mut left = octets - early.len() as u64;
    let mut half = None;
    let mut buf = vec![0; 1 << 20];
    while left > 0 {
        // The kernel counts and drops the octets: the client must not be what is measured.
        let received = match recv(&stream, &mut buf[..], RecvFlags::TRUNC) {
            Ok((_, received)) => received as u64,
            Err(rustix::io::Errno::INTR) => continue,
            Err(error) => return Err(error.into()),
        };
        if received == 0 || received > left {
            return Err(io::Error::other(format!("{path}: {left} octets missing or too many")));
        }
        left -= received;
        if half.is_none() && left <= octets / 2 {
            half = Some(Instant::now());
        }
    }
    Ok(half.unwrap_or_else(Instant::now))
}

/// SHA-256 of the body at `path`.
///
/// # Errors
/// As [`downloads`].
pub(crate) fn digest(address: SocketAddr, path: &str, octets: u64) -> io::Result<String> {
    let (mut stream, early) = request(address, path, octets)?;
    let mut context = Sha256::new();
    context.update(&early);
    let mut left = octets - early.len() as u64;
    let mut buf = vec![0; 1 << 18];
    while left > 0 {
        let received = stream.read(&mut buf)?;
        if received == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        context.update(&buf[..received]);
        left = left
            .checked_sub(received as u64)
            .ok_or_else(|| io::Error::other("more octets than announced"))?;
    }
    Ok(context.finish())
}

/// Sends a request and returns the connection with what came of the body behind the head.
fn request(address: SocketAddr, path: &str, octets: u64) -> io::Result<(TcpStream, Vec<u8>)> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {HOST}\r\n\r\n")?;
    let mut received = Vec::new();
    let mut buf = [0; 4_096];
    loop {
        let count = stream.read(&mut buf)?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        received.extend_from_slice(&buf[..count]);
        if let Some(head) = parse(&received)? {
            if head.body != octets {
                let text = format!("{path}: {} octets instead of {octets}", head.body);
                return Err(io::Error::other(text));
            }
            return Ok((stream, received.split_off(head.len)));
        }
    }
}

/// Repeats a GET of `path` on `count` connections for `time`, each sending its next request when
/// the answer is complete. Returns requests per second.
///
/// # Errors
/// When a connection ends or a status or a length is wrong.
pub(crate) fn requests(
    address: SocketAddr,
    path: &str,
    octets: u64,
    count: usize,
    time: Duration,
) -> io::Result<f64> {
    let request = format!("GET {path} HTTP/1.1\r\nHost: {HOST}\r\n\r\n");
    let poll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    let mut connections = Vec::new();
    for number in 0..count {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        let data = epoll::EventData::new_u64(number as u64);
        epoll::add(&poll, &stream, data, epoll::EventFlags::IN)?;
        connections.push(Connection { stream, received: Vec::with_capacity(8_192), whole: None });
    }
    for connection in &mut connections {
        connection.stream.write_all(request.as_bytes())?;
    }
    let mut events = Vec::with_capacity(256);
    let mut done = 0_u64;
    let mut last = Instant::now();
    let start = Instant::now();
    while start.elapsed() < time {
        events.clear();
        epoll::wait(
            &poll,
            rustix::buffer::spare_capacity(&mut events),
            Some(&rustix::event::Timespec { tv_sec: 1, tv_nsec: 0 }),
        )?;
        if events.is_empty() && last.elapsed() > PATIENCE {
            return Err(io::Error::other("no answer any more"));
        }
        for event in &events {
            let number = usize::try_from(event.data.u64()).unwrap_or(usize::MAX);
            let Some(connection) = connections.get_mut(number) else { continue };
            if connection.advance(octets)? {
                done += 1;
                connection.stream.write_all(request.as_bytes())?;
                last = Instant::now();
            }
        }
    }
    Ok(done as f64 / start.elapsed().as_secs_f64())
}

struct Connection {
    stream: TcpStream,
    received: Vec<u8>,
    /// Octets of head and body once the head is there.
    whole: Option<usize>,
}

impl Connection {
    /// Reads what is there; whether an answer is complete.
    fn advance(&mut self, octets: u64) -> io::Result<bool> {
        let mut buf = [0; 16_384];
        let count = match self.stream.read(&mut buf) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
            Err(error) => return Err(error),
        };
        self.received.extend_from_slice(&buf[..count]);
        if self.whole.is_none() {
            let Some(head) = parse(&self.received)? else { return Ok(false) };
            if head.body != octets {
                return Err(io::Error::other(format!("{} octets instead of {octets}", head.body)));
            }
            self.whole = usize::try_from(head.body).ok().map(|body| body + head.len);
        }
        let whole = self.whole.unwrap_or(usize::MAX);
        if self.received.len() < whole {
            return Ok(false);
        }
        if self.received.len() > whole {
            return Err(io::Error::other("more octets than one answer"));
        }
        self.received.clear();
        self.whole = None;
        Ok(true)
    }
}

struct Head {
    /// Octets of the head with its empty line.
    len: usize,
    /// Octets of the body.
    body: u64,
}

/// The head of a 200 with Content-Length; `None` when it is not complete.
fn parse(octets: &[u8]) -> io::Result<Option<Head>> {
    let Some(end) = octets.windows(4).position(|window| window == b"\r\n\r\n") else {
        return Ok(None);
    };
    let head = String::from_utf8_lossy(&octets[..end]);
    let mut lines = head.split("\r\n");
    let status = lines.next().unwrap_or_default();
    if !status.starts_with("HTTP/1.1 200") {
        return Err(io::Error::other(format!("answer: {status}")));
    }
    let body = lines
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
        .and_then(|(_, value)| value.trim().parse().ok())
        .ok_or_else(|| io::Error::other("answer without content-length"))?;
    Ok(Some(Head { len: end + 4, body }))
}

/// Host of every request: a name without meaning to nginx, the address to the proxy.
const HOST: &str = "127.0.0.1";
/// Silence after which a download or the requests are given up.
const PATIENCE: Duration = Duration::from_secs(30);
