//! HTTP/1.1 clients that misbehave on purpose: slow, cut anywhere, gone before the answer.
//!
//! It owns one exchange on one connection and what can be told of its fate. What the exchange is
//! for is its caller's.

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    thread,
    time::Duration,
};

use socket2::SockRef;

/// How a body is delimited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    None,
    Length,
    Chunked,
}

/// How a client gives up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    Close,
    Reset,
}

/// A request, and how it is sent.
#[derive(Clone, Debug)]
pub struct Plan {
    pub method: &'static str,
    pub target: String,
    pub headers: Vec<(&'static str, String)>,
    pub body: Vec<u8>,
    pub framing: Framing,
    /// Pieces that the body is sent in; with 0 it goes out with the head.
    pub pieces: usize,
    /// Time before each piece.
    pub pause: Duration,
    /// After how many bytes of the body the client gives up, and how. At its full length the
    /// request is whole, and only the answer is lost.
    pub cut: Option<(usize, Cut)>,
    /// Whether the client waits for `100 Continue` or a second.
    pub expect: bool,
}

/// An answer, its body as far as it came.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: u16,
    headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// Whether the body ended as HTTP says.
    pub is_whole: bool,
}

/// What became of a request.
#[derive(Clone, Debug)]
pub struct Exchange {
    pub answer: Option<Answer>,
    /// Whether somebody was there at all.
    pub connected: bool,
    /// Whether all of the body was sent, its end included.
    pub sent_all: bool,
    /// Bytes of the body that were sent, or may have been.
    pub sent: usize,
    /// Whether nothing came for [`PATIENCE`].
    pub hung: bool,
}

impl Plan {
    pub fn new(method: &'static str, target: &str) -> Self {
        Self {
            method,
            target: target.to_owned(),
            headers: Vec::new(),
            body: Vec::new(),
            framing: Framing::None,
            pieces: 0,
            pause: Duration::ZERO,
            cut: None,
            expect: false,
        }
    }

    pub fn with(mut self, name: &'static str, value: &str) -> Self {
        self.headers.push((name, value.to_owned()));
        self
    }

    pub fn body(mut self, framing: Framing, body: Vec<u8>) -> Self {
        (self.framing, self.body) = (framing, body);
        self
    }

    /// Sends it. `before_end` is called before the last byte goes out.
    pub fn run(&self, to: SocketAddr, before_end: impl FnOnce()) -> Exchange {
        let mut exchange =
            Exchange { answer: None, connected: false, sent_all: false, sent: 0, hung: false };
        match self.attempt(to, before_end, &mut exchange) {
            Err(error) if matches!(error.kind(), TIMED_OUT | io::ErrorKind::WouldBlock) => {
                exchange.hung = true;
            }
            // Whatever else ended the connection, the client does not know more.
            _ => {}
        }
        if !exchange.connected {
            // A proxy that starts again.
            thread::sleep(Duration::from_millis(30));
        }
        exchange
    }

    fn attempt(
        &self,
        to: SocketAddr,
        before_end: impl FnOnce(),
        exchange: &mut Exchange,
    ) -> io::Result<()> {
        let mut stream = TcpStream::connect(to)?;
        exchange.connected = true;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let mut held = Vec::new();
        let head = self.head();
        let pieces = self.split();
        if self.pieces == 0 && self.cut.is_none() && !self.expect {
            before_end();
            let whole = pieces.into_iter().flatten().collect::<Vec<_>>();
            let sent = stream.write_all(&[head.as_bytes(), &whole].concat());
            (exchange.sent_all, exchange.sent) = (true, self.body.len());
            // What was refused early may have been answered before that.
            let answer = read_answer(&mut stream, &mut held, self.method);
            exchange.answer = Some(answer.or_else(|error| sent.and(Err(error)))?);
            return Ok(());
        }
        stream.write_all(head.as_bytes())?;
        // Such a request is whole with its head.
        exchange.sent_all = pieces.is_empty();
        if self.expect && self.framing != Framing::None {
            stream.set_read_timeout(Some(Duration::from_secs(1)))?;
            match read_head(&mut stream, &mut held) {
                Ok((100, _)) => {}
                Ok((status, headers)) => {
                    stream.set_read_timeout(Some(PATIENCE))?;
                    exchange.answer =
                        Some(read_body(&mut stream, &mut held, self.method, status, headers));
                    return Ok(());
                }
                Err(error) if matches!(error.kind(), TIMED_OUT | io::ErrorKind::WouldBlock) => {}
                Err(error) => return Err(error),
            }
            stream.set_read_timeout(Some(PATIENCE))?;
        }
        let cut_at = self.cut.map(|(at, _)| at.min(self.body.len()));
        let mut before_end = Some(before_end);
        let last = pieces.len().saturating_sub(1);
        for (number, piece) in pieces.iter().enumerate() {
            if !self.pause.is_zero() {
                thread::sleep(self.pause);
            }
            if is_readable(&stream)? {
                break;
            }
            let is_data = number < last || self.framing != Framing::Chunked;
            let mut piece = piece.as_slice();
            if let Some(at) = cut_at.filter(|at| *at < self.body.len()) {
                // Of chunked bodies every byte of the framing counts, too.
                let left = at.saturating_sub(exchange.sent);
                piece = &piece[..left.min(piece.len())];
            }
            if number == last
                && let Some(before_end) = before_end.take()
            {
                before_end();
            }
            let written = stream.write_all(piece);
            if is_data {
                exchange.sent += piece.len();
            }
            if written.is_err() {
                break;
            }
            exchange.sent_all = number == last && cut_at.is_none_or(|at| at >= self.body.len());
            if cut_at.is_some_and(|at| at < self.body.len() && exchange.sent >= at) {
                break;
            }
        }
        exchange.sent = exchange.sent.min(self.body.len());
        if let Some((_, cut)) = self.cut {
            if cut == Cut::Reset {
                SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
            }
            return Ok(());
        }
        exchange.answer = Some(read_answer(&mut stream, &mut held, self.method)?);
        Ok(())
    }

    fn head(&self) -> String {
        let mut head = format!("{} {} HTTP/1.1\r\nHost: nas1\r\n", self.method, self.target);
        for (name, value) in &self.headers {
            head += &format!("{name}: {value}\r\n");
        }
        match self.framing {
            Framing::None => {}
            Framing::Length => head += &format!("Content-Length: {}\r\n", self.body.len()),
            Framing::Chunked => head += "Transfer-Encoding: chunked\r\n",
        }
        if self.expect {
            head += "Expect: 100-continue\r\n";
        }
        head + "\r\n"
    }

    /// The body as it goes out; the last piece of a chunked one is its end.
    fn split(&self) -> Vec<Vec<u8>> {
        let size = self.body.len().div_ceil(self.pieces.max(1)).max(1);
        let pieces = self.body.chunks(size);
        match self.framing {
            Framing::None => Vec::new(),
            Framing::Length => pieces.map(<[u8]>::to_vec).collect(),
            Framing::Chunked => {
                let chunk = |piece: &[u8]| {
                    [format!("{:x}\r\n", piece.len()).as_bytes(), piece, b"\r\n"].concat()
                };
                pieces.map(chunk).chain([b"0\r\n\r\n".to_vec()]).collect()
            }
        }
    }
}

impl Answer {
    /// The first value of a header, by its name in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|header| header.0 == name).map(|header| header.1.as_str())
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

fn is_readable(stream: &TcpStream) -> io::Result<bool> {
    stream.set_nonblocking(true)?;
    let peeked = stream.peek(&mut [0]);
    stream.set_nonblocking(false)?;
    Ok(!matches!(peeked, Err(error) if error.kind() == io::ErrorKind::WouldBlock))
}

fn read_answer(stream: &mut TcpStream, held: &mut Vec<u8>, method: &str) -> io::Result<Answer> {
    loop {
        let (status, headers) = read_head(stream, held)?;
        if status >= 200 {
            return Ok(read_body(stream, held, method, status, headers));
        }
    }
}

type Headers = Vec<(String, String)>;

fn read_head(stream: &mut TcpStream, held: &mut Vec<u8>) -> io::Result<(u16, Headers)> {
    loop {
        if let Some(end) = held.windows(4).position(|window| window == b"\r\n\r\n") {
            let head: Vec<u8> = held.drain(..end + 4).collect();
            let text = String::from_utf8_lossy(&head);
            let mut lines = text.lines();
            let status = lines.next().and_then(|line| line.split(' ').nth(1)?.parse().ok());
            let headers = lines.filter_map(|line| {
                let (name, value) = line.split_once(':')?;
                Some((name.to_ascii_lowercase(), value.trim().to_owned()))
            });
            return Ok((status.ok_or(io::ErrorKind::InvalidData)?, headers.collect()));
        }
        more(stream, held)?;
    }
}

fn read_body(
    stream: &mut TcpStream,
    held: &mut Vec<u8>,
    method: &str,
    status: u16,
    headers: Headers,
) -> Answer {
    let mut answer = Answer { status, headers, body: Vec::new(), is_whole: true };
    if method == "HEAD" || matches!(status, 204 | 304) {
        return answer;
    }
    let len = answer.header("content-length").and_then(|len| len.parse::<usize>().ok());
    let is_chunked = answer.header("transfer-encoding").is_some();
    loop {
        let done = match len {
            _ if is_chunked => dechunk(held),
            Some(len) => (held.len() >= len).then(|| held[..len].to_vec()),
            None => None,
        };
        if let Some(body) = done {
            answer.body = body;
            return answer;
        }
        if let Err(error) = more(stream, held) {
            let is_end = error.kind() == io::ErrorKind::UnexpectedEof;
            answer.is_whole = is_end && len.is_none() && !is_chunked;
            answer.body = std::mem::take(held);
            return answer;
        }
    }
}

/// The body, once all of its chunks are there.
fn dechunk(mut held: &[u8]) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let end = held.windows(2).position(|window| window == b"\r\n")?;
        let digits = std::str::from_utf8(&held[..end]).ok()?;
        let len = usize::from_str_radix(digits.split(';').next()?.trim(), 16).ok()?;
        held = &held[end + 2..];
        if len == 0 {
            return Some(body);
        }
        body.extend_from_slice(held.get(..len)?);
        held = held.get(len + 2..)?;
    }
}

fn more(stream: &mut TcpStream, held: &mut Vec<u8>) -> io::Result<()> {
    let mut piece = [0; 65_536];
    loop {
        match stream.read(&mut piece) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(len) => {
                held.extend_from_slice(&piece[..len]);
                return Ok(());
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

const TIMED_OUT: io::ErrorKind = io::ErrorKind::TimedOut;
/// Longest wait of a client for anything.
pub const PATIENCE: Duration = Duration::from_secs(25);
