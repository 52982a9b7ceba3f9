//! A visitor who sees every octet and how the connection ends: for bodies that must not look whole.
//!
//! It owns one HTTP/1 connection and the framing of one body at a time. It sends what it is told,
//! valid or not. [`crate::http`] has what exchanges need that are to succeed, [`crate::h1`] the client
//! that is not ours.
//!
//! Nothing here waits longer than [`PATIENCE`]: a test in which it does has found a hang.

use std::{
    io::{self, Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
};

use crate::fixture::{PATIENCE, Sha256};

/// One HTTP/1 connection.
#[derive(Debug)]
pub struct Visitor {
    stream: TcpStream,
    /// Off the socket and not looked at yet.
    held: Vec<u8>,
    framing: Framing,
    len: u64,
    hash: Sha256,
    start: Vec<u8>,
}

/// The head of a response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// Version that it claims, such as `HTTP/1.1`.
    pub version: String,
    /// Status.
    pub status: u16,
    /// Names in lower case and values, in order.
    pub headers: Vec<(String, String)>,
}

/// A body that has ended, one way or another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Body {
    /// Octets, without those of the chunks' heads.
    pub len: u64,
    /// SHA-256 of them, in hexadecimal.
    pub sha256: String,
    /// The first of them, [`START`] at most.
    pub start: Vec<u8>,
    /// How it ended.
    pub end: End,
}

/// How a body ended, as its reader must take it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// As HTTP says: the announced length, the last chunk, or FIN where neither was announced.
    Whole,
    /// FIN before that.
    Cut,
    /// RST.
    Reset,
}

/// What is to come of a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Framing {
    /// So many octets.
    Length(u64),
    /// The line before a chunk.
    ChunkHead,
    /// So many octets of a chunk, then its line end.
    Chunk(u64),
    /// The line end behind a chunk.
    ChunkEnd,
    /// Trailers, up to an empty line.
    Trailers,
    /// Everything up to FIN.
    Open,
    /// Nothing.
    Done,
}

impl Head {
    /// The first value of a header, by its lower-case name.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.all(name).first().copied()
    }

    /// The values of a header, by its lower-case name, line by line.
    #[must_use]
    pub fn all(&self, name: &str) -> Vec<&str> {
        let lines = self.headers.iter().filter(|header| header.0 == name);
        lines.map(|header| header.1.as_str()).collect()
    }
}

impl Visitor {
    /// Connects.
    ///
    /// # Panics
    /// When nobody listens.
    #[must_use]
    pub fn connect(to: SocketAddr) -> Self {
        Self::try_connect(to).unwrap_or_else(|error| panic!("{to}: {error}"))
    }

    /// Connects to somebody who need not be there.
    ///
    /// # Errors
    /// Those of the socket.
    pub fn try_connect(to: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(to)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let (held, hash, start) = (Vec::new(), Sha256::new(), Vec::new());
        Ok(Self { stream, held, framing: Framing::Done, len: 0, hash, start })
    }

    /// Connects and sends a GET of HTTP/1.1.
    ///
    /// # Panics
    /// As [`Visitor::connect`].
    #[must_use]
    pub fn get(to: SocketAddr, target: &str) -> Self {
        let mut visitor = Self::connect(to);
        visitor.send(format!("GET {target} HTTP/1.1\r\nHost: {to}\r\n\r\n"));
        visitor
    }

    /// Connects and sends a GET of HTTP/1.0.
    ///
    /// # Panics
    /// As [`Visitor::connect`].
    #[must_use]
    pub fn get_1_0(to: SocketAddr, target: &str) -> Self {
        let mut visitor = Self::connect(to);
        visitor.send(format!("GET {target} HTTP/1.0\r\nHost: {to}\r\n\r\n"));
        visitor
    }

    /// Sends octets.
    ///
    /// # Panics
    /// When the other end is gone.
    pub fn send(&mut self, octets: impl AsRef<[u8]>) {
        self.try_send(octets.as_ref()).unwrap_or_else(|error| panic!("{error}"));
    }

    /// Sends octets that the other end need not want.
    ///
    /// # Errors
    /// Those of the socket.
    pub fn try_send(&mut self, octets: &[u8]) -> io::Result<()> {
        self.stream.write_all(octets)
    }

    /// Sends as much as the buffers on the way take at once.
    ///
    /// # Panics
    /// When the connection is gone.
    pub fn send_what_fits(&mut self, mut octets: &[u8]) {
        self.stream.set_nonblocking(true).unwrap_or_else(|error| panic!("{error}"));
        while !octets.is_empty() {
            match self.stream.write(octets) {
                Ok(len) => octets = &octets[len..],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => panic!("{error}"),
            }
        }
        self.stream.set_nonblocking(false).unwrap_or_else(|error| panic!("{error}"));
    }

    /// Sends FIN; what was asked for can still be read.
    ///
    /// # Panics
    /// When the connection is gone.
    pub fn finish_sending(&self) {
        self.stream.shutdown(Shutdown::Write).unwrap_or_else(|error| panic!("{error}"));
    }

    /// Reads the next head; its body is read by what follows. `method` is that of the request.
    ///
    /// # Errors
    /// `UnexpectedEof` when the connection ends before, those of the socket, and `InvalidData`.
    pub fn try_head(&mut self, method: &str) -> io::Result<Head> {
        let end = loop {
            if let Some(end) = find(&self.held, b"\r\n\r\n") {
                break end;
            }
            if self.more()? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        };
        let text = String::from_utf8_lossy(&self.held[..end]).into_owned();
        self.held.drain(..end + 4);
        let invalid = || io::Error::new(io::ErrorKind::InvalidData, text.clone());
        let mut lines = text.lines();
        let first = lines.next().unwrap_or_default();
        let status = first.strip_prefix("HTTP/1.").and_then(|rest| rest.get(2..5)?.parse().ok());
        let status = status.ok_or_else(invalid)?;
        let mut headers = Vec::new();
        for line in lines {
            let (name, value) = line.split_once(':').ok_or_else(invalid)?;
            headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
        let version = first.split(' ').next().unwrap_or_default().to_owned();
        let head = Head { version, status, headers };
        self.framing = if method == "HEAD" || matches!(status, 100..200 | 204 | 304) {
            Framing::Done
        } else if head.header("transfer-encoding") == Some("chunked") {
            Framing::ChunkHead
        } else if let Some(len) = head.header("content-length") {
            Framing::Length(len.parse().map_err(|_| invalid())?)
        } else {
            Framing::Open
        };
        (self.len, self.hash, self.start) = (0, Sha256::new(), Vec::new());
        Ok(head)
    }

    /// Reads the head of the answer to a GET.
    ///
    /// # Panics
    /// When there is none.
    pub fn head(&mut self) -> Head {
        self.try_head("GET").unwrap_or_else(|error| panic!("no head: {error}"))
    }

    /// Reads until at least `len` octets of the body were read in all.
    ///
    /// # Panics
    /// When the body ends before.
    pub fn read(&mut self, len: u64) {
        while self.len < len {
            match self.step() {
                Ok(true) => {}
                ended => panic!("body ends ({ended:?}) after {} octets of {len}", self.len),
            }
        }
    }

    /// Reads the body to its end, whatever that is.
    pub fn finish(&mut self) -> Body {
        let end = loop {
            match self.step() {
                Ok(true) => {}
                Ok(false) => break End::Whole,
                Err(end) => break end,
            }
        };
        let (sha256, start) = (self.hash.clone().finish(), self.start.clone());
        Body { len: self.len, sha256, start, end }
    }

    /// Another handle of the socket, so that one thread can write while another reads.
    ///
    /// # Panics
    /// When there is no descriptor left.
    #[must_use]
    pub fn socket(&self) -> TcpStream {
        self.stream.try_clone().unwrap_or_else(|error| panic!("{error}"))
    }

    /// Octets of the body so far.
    #[must_use]
    pub const fn len(&self) -> u64 {
        self.len
    }

    /// Whether no octet of the body was read yet.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Everything up to the end of the connection, and how that ended ([`End::Whole`] never).
    pub fn rest(&mut self) -> (Vec<u8>, End) {
        let end = loop {
            match self.more() {
                Ok(0) => break End::Cut,
                Ok(_) => {}
                Err(error) => break ended(&error),
            }
        };
        (std::mem::take(&mut self.held), end)
    }

    /// Takes some octets of the body; false when it is whole.
    fn step(&mut self) -> Result<bool, End> {
        loop {
            match self.framing {
                Framing::Done => return Ok(false),
                Framing::Length(0) => self.framing = Framing::Done,
                Framing::Chunk(0) => self.framing = Framing::ChunkEnd,
                Framing::Length(left) if !self.held.is_empty() => {
                    self.framing = Framing::Length(left - self.take(left));
                    return Ok(true);
                }
                Framing::Chunk(left) if !self.held.is_empty() => {
                    self.framing = Framing::Chunk(left - self.take(left));
                    return Ok(true);
                }
                Framing::Open if !self.held.is_empty() => {
                    self.take(u64::MAX);
                    return Ok(true);
                }
                Framing::ChunkHead | Framing::ChunkEnd | Framing::Trailers => {
                    if let Some(end) = find(&self.held, b"\r\n") {
                        let line: Vec<u8> = self.held.drain(..end + 2).collect();
                        self.framing = after(self.framing, &line[..end]);
                        continue;
                    }
                    self.fill()?;
                }
                Framing::Length(_) | Framing::Chunk(_) | Framing::Open => self.fill()?,
            }
        }
    }

    /// Counts up to `most` of the held octets as body.
    fn take(&mut self, most: u64) -> u64 {
        let take = usize::try_from(most).unwrap_or(usize::MAX).min(self.held.len());
        self.hash.update(&self.held[..take]);
        let wanted = take.min(START - self.start.len());
        self.start.extend_from_slice(&self.held[..wanted]);
        self.held.drain(..take);
        self.len += take as u64;
        take as u64
    }

    /// Reads more, or tells how the connection ended.
    fn fill(&mut self) -> Result<(), End> {
        match self.more() {
            Ok(0) if self.framing == Framing::Open => {
                self.framing = Framing::Done;
                Ok(())
            }
            Ok(0) => Err(End::Cut),
            Ok(_) => Ok(()),
            Err(error) => Err(ended(&error)),
        }
    }

    fn more(&mut self) -> io::Result<usize> {
        read_more(&mut self.stream, &mut self.held)
    }
}

/// Appends what a socket has to `held`; 0 octets are its end.
pub(crate) fn read_more(stream: &mut TcpStream, held: &mut Vec<u8>) -> io::Result<usize> {
    let mut piece = [0; 65_536];
    loop {
        match stream.read(&mut piece) {
            Ok(len) => {
                held.extend_from_slice(&piece[..len]);
                return Ok(len);
            }
            // With a time limit on the socket, the kernel does not go on after a signal.
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// What follows a line of a chunked body.
///
/// # Panics
/// When the line is none.
fn after(framing: Framing, line: &[u8]) -> Framing {
    let text = String::from_utf8_lossy(line);
    match framing {
        Framing::ChunkHead => {
            let digits = text.split(';').next().unwrap_or_default().trim();
            match u64::from_str_radix(digits, 16) {
                Ok(0) => Framing::Trailers,
                Ok(len) => Framing::Chunk(len),
                Err(_) => panic!("no chunk begins with {text:?}"),
            }
        }
        Framing::ChunkEnd => {
            assert!(line.is_empty(), "no chunk ends with {text:?}");
            Framing::ChunkHead
        }
        _ if line.is_empty() => Framing::Done,
        _ => Framing::Trailers,
    }
}

/// # Panics
/// When the connection did not end at all.
fn ended(error: &io::Error) -> End {
    match error.kind() {
        io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => End::Reset,
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => panic!("nothing comes: a hang"),
        _ => panic!("{error}"),
    }
}

/// Octets of a body that are kept.
pub const START: usize = 16_384;

fn find(octets: &[u8], wanted: &[u8]) -> Option<usize> {
    octets.windows(wanted.len()).position(|window| window == wanted)
}

#[cfg(test)]
mod tests {
    use std::{io::Write, net::TcpListener, thread, time::Duration};

    use socket2::SockRef;

    use super::{Body, End, Visitor};
    use crate::fixture::Sha256;

    /// What a visitor makes of these octets and the end of the connection.
    fn body(octets: &'static [u8], reset: bool) -> Body {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut visitor = Visitor::get(listener.local_addr().unwrap(), "/");
        let server = thread::spawn(move || {
            let mut stream = listener.accept().unwrap().0;
            // What is sent in two pieces may be cut anywhere.
            let (start, rest) = octets.split_at(octets.len() / 2);
            stream.write_all(start).unwrap();
            stream.write_all(rest).unwrap();
            if reset {
                SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
            } else {
                // An unread request would make a reset of the close.
                std::io::Read::read(&mut stream, &mut [0; 512]).unwrap();
            }
        });
        visitor.head();
        let body = visitor.finish();
        server.join().unwrap();
        body
    }

    #[test]
    fn ends_are_told_apart() {
        for (octets, len, end) in [
            (&b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc"[..], 3, End::Whole),
            (b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nabc", 3, End::Cut),
            (
                b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
                3,
                End::Whole,
            ),
            (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n", 3, End::Cut),
            (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nabc", 3, End::Cut),
            (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n", 0, End::Cut),
            (b"HTTP/1.0 200 OK\r\n\r\nabc", 3, End::Whole),
        ] {
            let body = body(octets, false);
            assert_eq!((body.len, body.end), (len, end), "{}", String::from_utf8_lossy(octets));
            assert_eq!(body.start, &b"abc"[..usize::try_from(len).unwrap()]);
            assert_eq!(body.sha256, Sha256::of(&body.start));
        }
    }

    #[test]
    fn reset_is_no_end() {
        assert_eq!(body(b"HTTP/1.0 200 OK\r\n\r\nabc", true).end, End::Reset);
    }
}
