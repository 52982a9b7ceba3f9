//! A small blocking HTTP/1.1 client over plain TCP, for what a well-behaved client cannot say.
//!
//! It owns just what the tests ask for: it sends what it is given, never decodes, retries or
//! follows, and takes a body that ends early for what it is. The richer client of the tests is
//! [`crate::visitor`].

use std::{
    collections::BTreeMap,
    io::{self, BufRead, BufReader, Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
};

use crate::fixture::{PATIENCE, Sha256, wait_until};

/// A request.
#[derive(Clone, Debug)]
pub struct Request<'a> {
    /// Method.
    pub method: &'a str,
    /// Target as it goes on the wire.
    pub target: &'a str,
    /// Headers besides Host, Content-Length and Connection.
    pub headers: &'a [(&'a str, &'a str)],
    /// Body; `None` sends no Content-Length either.
    pub body: Option<&'a [u8]>,
}

impl<'a> Request<'a> {
    /// A GET without headers of its own.
    #[must_use]
    pub const fn get(target: &'a str) -> Self {
        Self { method: "GET", target, headers: &[], body: None }
    }

    /// A request with a body.
    #[must_use]
    pub const fn with_body(method: &'a str, target: &'a str, body: &'a [u8]) -> Self {
        Self { method, target, headers: &[], body: Some(body) }
    }

    /// Sends the request and reads the whole answer, the body by its digest only.
    ///
    /// # Errors
    /// Those of the socket, an answer that is not HTTP, and a body that ends early or stands still
    /// for [`PATIENCE`].
    pub fn send(&self, to: SocketAddr) -> io::Result<Response> {
        let mut connection = Connection::open(to)?;
        let mut head = format!("{} {} HTTP/1.1\r\nHost: {to}\r\n", self.method, self.target);
        for (name, value) in self.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        if let Some(body) = self.body {
            head.push_str(&format!("Content-Length: {}\r\n", body.len()));
        }
        head.push_str("Connection: close\r\n\r\n");
        connection.write(head.as_bytes())?;
        connection.write(self.body.unwrap_or_default())?;
        connection.answer(self.method)
    }
}

/// A connection that carries whatever is written.
#[derive(Debug)]
pub struct Connection {
    socket: BufReader<TcpStream>,
}

impl Connection {
    /// Connects. Each read has [`PATIENCE`].
    ///
    /// # Errors
    /// Those of the socket.
    pub fn open(to: SocketAddr) -> io::Result<Self> {
        let socket = TcpStream::connect(to)?;
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        Ok(Self { socket: BufReader::with_capacity(65_536, socket) })
    }

    /// Writes octets as they are.
    ///
    /// # Errors
    /// Those of the socket.
    pub fn write(&mut self, octets: impl AsRef<[u8]>) -> io::Result<()> {
        self.socket.get_mut().write_all(octets.as_ref())
    }

    /// Closes the writing half.
    ///
    /// # Errors
    /// Those of the socket.
    pub fn finish(&mut self) -> io::Result<()> {
        self.socket.get_ref().shutdown(Shutdown::Write)
    }

    /// Reads one answer to its end; `method` is that of its request.
    ///
    /// # Errors
    /// Those of the socket, an answer that is not HTTP, and a body that ends early or stands still
    /// for [`PATIENCE`].
    pub fn answer(&mut self, method: &str) -> io::Result<Response> {
        Response::read(&mut self.socket, method == "HEAD")
    }

    /// Reads what comes until the end of the connection.
    ///
    /// # Errors
    /// Those of the socket.
    pub fn rest(&mut self) -> io::Result<Vec<u8>> {
        let mut octets = Vec::new();
        self.socket.read_to_end(&mut octets)?;
        Ok(octets)
    }

    /// Another handle of the socket, so that one thread can write while another reads.
    ///
    /// # Errors
    /// Those of the socket.
    pub fn socket(&self) -> io::Result<TcpStream> {
        self.socket.get_ref().try_clone()
    }
}

impl Read for Connection {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.socket.read(buf)
    }
}

/// An answer that has been read to its end.
#[derive(Clone, Debug)]
pub struct Response {
    /// Status.
    pub status: u16,
    /// Headers by lower-case name; repeated ones joined by ", ".
    pub headers: BTreeMap<String, String>,
    /// Headers as they came, names in lower case.
    lines: Vec<(String, String)>,
    /// Version that the answer claims, `HTTP/1.1`.
    pub version: String,
    /// Octets of the body.
    pub len: u64,
    /// SHA-256 of the body, in hexadecimal.
    pub sha256: String,
    /// The body's first octets, 4,096 at most.
    pub start: Vec<u8>,
}

impl Response {
    /// The start of the body as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.start).into_owned()
    }

    /// The values of a header, given in lower case, line by line.
    #[must_use]
    pub fn all(&self, name: &str) -> Vec<&str> {
        let lines = self.lines.iter().filter(|line| line.0 == name);
        lines.map(|line| line.1.as_str()).collect()
    }

    fn read(from: &mut impl BufRead, is_head: bool) -> io::Result<Self> {
        let line = read_line(from)?;
        let status = line.strip_prefix("HTTP/1.").and_then(|rest| rest.get(2..5)?.parse().ok());
        let mut headers = BTreeMap::new();
        let mut lines = Vec::new();
        loop {
            let line = read_line(from)?;
            if line.is_empty() {
                break;
            }
            let (name, value) = line.split_once(':').ok_or_else(|| malformed(&line))?;
            let (name, value) = (name.to_ascii_lowercase(), value.trim().to_owned());
            headers
                .entry(name.clone())
                .and_modify(|held: &mut String| *held = format!("{held}, {value}"))
                .or_insert_with(|| value.clone());
            lines.push((name, value));
        }
        let status = status.ok_or_else(|| malformed(&line))?;
        let mut response = Self {
            status,
            headers,
            lines,
            version: line.split(' ').next().unwrap_or_default().to_owned(),
            len: 0,
            sha256: String::new(),
            start: Vec::new(),
        };
        let mut hash = Sha256::new();
        if !(is_head || matches!(status, 100..=199 | 204 | 304)) {
            response.read_body(from, &mut hash)?;
        }
        response.sha256 = hash.finish();
        Ok(response)
    }

    fn read_body(&mut self, from: &mut impl BufRead, hash: &mut Sha256) -> io::Result<()> {
        if self.headers.get("transfer-encoding").is_some_and(|value| value == "chunked") {
            loop {
                let line = read_line(from)?;
                let len = line.split(';').next().unwrap_or_default().trim();
                let len = u64::from_str_radix(len, 16).map_err(|_| malformed(&line))?;
                self.take(from, hash, Some(len))?;
                read_line(from)?;
                if len == 0 {
                    return Ok(());
                }
            }
        }
        let len = match self.headers.get("content-length") {
            Some(len) => Some(len.parse().map_err(|_| malformed(len))?),
            None => None,
        };
        self.take(from, hash, len)
    }

    fn take(
        &mut self,
        from: &mut impl BufRead,
        hash: &mut Sha256,
        len: Option<u64>,
    ) -> io::Result<()> {
        let mut left = len.unwrap_or(u64::MAX);
        while left > 0 {
            let held = from.fill_buf()?;
            if held.is_empty() {
                if len.is_some() {
                    let why = format!("body ends {left} octets early, after {}", self.len);
                    return Err(io::Error::new(io::ErrorKind::UnexpectedEof, why));
                }
                return Ok(());
            }
            let take = held.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            hash.update(&held[..take]);
            let wanted = take.min(4_096 - self.start.len());
            self.start.extend_from_slice(&held[..wanted]);
            self.len += take as u64;
            left -= take as u64;
            from.consume(take);
        }
        Ok(())
    }
}

/// Waits until the proxy at `http` has an agent: until it answers something else than 503.
///
/// # Panics
/// When it has none after [`PATIENCE`].
pub fn wait_for_agent(http: SocketAddr) {
    wait_until("the proxy has an agent", || {
        let answer = Request { method: "HEAD", ..Request::get("/") }.send(http);
        answer.is_ok_and(|answer| answer.status != 503)
    });
}

fn read_line(from: &mut impl BufRead) -> io::Result<String> {
    let mut line = Vec::new();
    let len = from.take(65_536).read_until(b'\n', &mut line)?;
    if len == 0 || line.last() != Some(&b'\n') {
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "answer ends in its head"));
    }
    Ok(String::from_utf8_lossy(&line).trim_end().to_owned())
}

fn malformed(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("not HTTP: {what:?}"))
}

#[cfg(test)]
mod tests {
    use std::io::{BufReader, ErrorKind};

    use super::Response;
    use crate::fixture::Sha256;

    fn read(octets: &[u8]) -> std::io::Result<Response> {
        Response::read(&mut BufReader::new(octets), false)
    }

    #[test]
    fn bodies_are_read_by_length_by_chunks_and_to_the_end() {
        let plain = read(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabcdef").unwrap();
        let chunked = read(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n2\r\nbc\r\n0\r\n\r\n",
        );
        let open = read(b"HTTP/1.0 200 OK\r\n\r\nabc").unwrap();
        for response in [plain, chunked.unwrap(), open] {
            assert_eq!((response.status, response.len), (200, 3));
            assert!(response.version.starts_with("HTTP/1."));
            assert_eq!(response.sha256, Sha256::of(b"abc"));
        }
    }

    #[test]
    fn body_that_ends_early_is_an_error() {
        let cut = read(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nabc");
        assert_eq!(cut.unwrap_err().kind(), ErrorKind::UnexpectedEof);
        let cut = read(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n");
        assert_eq!(cut.unwrap_err().kind(), ErrorKind::UnexpectedEof);
    }
}
