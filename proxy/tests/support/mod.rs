//! A proxy in this process, an agent that speaks real TLS and SPDY to it, and raw HTTP clients.
#![allow(dead_code, reason = "each test file uses a part")]
#![allow(clippy::unwrap_used, reason = "this is a part of tests")]

pub mod agent;
pub mod program;

use std::{
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    path::PathBuf,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    thread::JoinHandle,
    time::Duration,
};

use spdy_proxy::{
    log::Log,
    server::{Server, StartError},
    settings::Settings,
    state::{Port, State},
    stop::Stop,
};

/// Longest wait for anything: a test that reaches it has failed.
pub const LIMIT: Duration = Duration::from_secs(20);

/// A fresh folder, removed at the end.
#[derive(Debug)]
pub struct Folder(pub PathBuf);

impl Folder {
    pub fn new() -> Self {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let name = format!("spdy-proxy-{}-{}", std::process::id(), COUNT.fetch_add(1, Relaxed));
        let path = std::env::temp_dir().join(name);
        let _ = fs::remove_dir_all(&path);
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A running proxy; stopped and joined at the end.
#[derive(Debug)]
pub struct Proxy {
    pub http: SocketAddr,
    pub tunnel: SocketAddr,
    pub state: State,
    pub pin: [u8; 32],
    pub stop: Stop,
    /// Whether visitors speak TLS.
    pub is_tls: bool,
    running: Option<JoinHandle<Result<(), StartError>>>,
    _folder: Folder,
}

impl Proxy {
    pub fn start() -> Self {
        Self::with(|_| {})
    }

    pub fn with(change: impl FnOnce(&mut Settings)) -> Self {
        let folder = Folder::new();
        let mut settings = Settings::new(&folder.0);
        settings.listen = vec![([127, 0, 0, 1], 0).into()];
        settings.tunnel_listen = vec![([127, 0, 0, 1], 0).into()];
        settings.log = Log::silent();
        settings.debug = true;
        settings.trusted_front_ends = vec![std::net::IpAddr::from([127, 0, 0, 1]).into()];
        settings.timings.grace = LIMIT;
        change(&mut settings);
        let is_tls = settings.tls;
        let server = Server::bind(settings).unwrap();
        let state = server.state().clone();
        Self {
            http: server.http_addresses()[0],
            tunnel: server.tunnel_addresses()[0],
            pin: state.identity(Port::Tunnel).unwrap().pin(),
            state,
            stop: server.handle(),
            is_tls,
            running: Some(std::thread::spawn(move || server.run())),
            _folder: folder,
        }
    }

    /// Waits until the server has ended by itself.
    pub fn ended(&mut self) {
        self.running.take().unwrap().join().unwrap().unwrap();
    }

    /// A connection of a visitor.
    pub fn visit(&self) -> Visitor {
        Visitor::new(TcpStream::connect(self.http).unwrap())
    }

    /// One GET on a connection of its own.
    pub fn get(&self, path: &str) -> Answer {
        let mut visitor = self.visit();
        visitor.send(&format!("GET {path} HTTP/1.1\r\nHost: nas1\r\n\r\n"));
        visitor.answer()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.stop.stop();
        if let Some(running) = self.running.take() {
            let ended = running.join();
            if !std::thread::panicking() {
                ended.unwrap().unwrap();
            }
        }
    }
}

/// A client that sees every octet.
#[derive(Debug)]
pub struct Visitor {
    pub stream: TcpStream,
    /// Read and not yet taken.
    ahead: Vec<u8>,
}

/// A response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Head, without the empty line.
    pub head: String,
    pub body: Vec<u8>,
    /// Whether the body ended as HTTP says.
    pub is_whole: bool,
}

impl Answer {
    pub fn status(&self) -> u16 {
        self.head.split(' ').nth(1).unwrap().parse().unwrap()
    }

    /// All values of a header.
    pub fn header(&self, name: &str) -> Vec<&str> {
        let lines = self.head.lines().skip(1).filter_map(|line| line.split_once(": "));
        lines.filter(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value).collect()
    }

    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }
}

impl Visitor {
    pub fn new(stream: TcpStream) -> Self {
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        stream.set_write_timeout(Some(LIMIT)).unwrap();
        Self { stream, ahead: Vec::new() }
    }

    pub fn send(&mut self, text: &str) {
        self.stream.write_all(text.as_bytes()).unwrap();
    }

    /// More octets; 0 at the end. Errors are those of the socket.
    pub fn more(&mut self) -> std::io::Result<usize> {
        let mut chunk = [0; 16_384];
        let read = self.stream.read(&mut chunk)?;
        self.ahead.extend_from_slice(&chunk[..read]);
        Ok(read)
    }

    /// The head of the next response.
    pub fn head(&mut self) -> String {
        loop {
            if let Some(end) = self.ahead.windows(4).position(|four| four == b"\r\n\r\n") {
                let head = self.ahead.drain(..end + 4).collect::<Vec<_>>();
                return String::from_utf8(head[..end].to_vec()).unwrap();
            }
            let read = self.more().unwrap();
            assert!(read > 0, "connection ended after {:?}", String::from_utf8_lossy(&self.ahead));
        }
    }

    /// The next response to a request that was no HEAD.
    pub fn answer(&mut self) -> Answer {
        let head = self.head();
        let mut answer = Answer { head, body: Vec::new(), is_whole: true };
        if matches!(answer.status(), 204 | 304) {
            return answer;
        }
        if let Some(length) = answer.header("content-length").first() {
            let length: usize = length.parse().unwrap();
            answer.is_whole = self.fill(length);
            let length = length.min(self.ahead.len());
            answer.body = self.ahead.drain(..length).collect();
        } else if answer.header("transfer-encoding") == ["chunked"] {
            answer.is_whole = self.chunks(&mut answer.body);
        } else {
            while self.more().unwrap() > 0 {}
            answer.body = std::mem::take(&mut self.ahead);
        }
        answer
    }

    /// The octets up to the end of the connection; `Err` if it ends by a reset.
    pub fn rest(&mut self) -> std::io::Result<Vec<u8>> {
        while self.more()? > 0 {}
        Ok(std::mem::take(&mut self.ahead))
    }

    /// Reads until `most` octets came or the connection waits for the next request.
    pub fn rest_of(&mut self, most: usize) -> usize {
        let mut total = self.ahead.len();
        let mut chunk = vec![0; 65_536];
        self.stream.set_read_timeout(Some(Duration::from_secs(3))).unwrap();
        while total < most {
            match self.stream.read(&mut chunk) {
                Ok(read) if read > 0 => total += read,
                _ => break,
            }
        }
        total
    }

    /// Waits until `length` octets are there; false if the connection ends first.
    fn fill(&mut self, length: usize) -> bool {
        while self.ahead.len() < length {
            match self.more() {
                Ok(read) if read > 0 => {}
                _ => return false,
            }
        }
        true
    }

    fn chunks(&mut self, body: &mut Vec<u8>) -> bool {
        loop {
            let end = loop {
                if let Some(end) = self.ahead.windows(2).position(|two| two == b"\r\n") {
                    break end;
                }
                if !self.fill(self.ahead.len() + 1) {
                    return false;
                }
            };
            let line: Vec<u8> = self.ahead.drain(..end + 2).collect();
            let length = usize::from_str_radix(std::str::from_utf8(&line[..end]).unwrap(), 16);
            let length = length.unwrap();
            if !self.fill(length + 2) {
                return false;
            }
            body.extend(self.ahead.drain(..length));
            self.ahead.drain(..2);
            if length == 0 {
                return true;
            }
        }
    }
}

/// Waits until `is_so`; fails after [`LIMIT`].
pub fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let begun = std::time::Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < LIMIT, "waited too long until {what}");
        std::thread::yield_now();
    }
}

/// Octets that differ everywhere.
pub fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|at| at.wrapping_mul(2_654_435_761).to_le_bytes()[1]).collect()
}
