//! An HTTP service as one that runs on a NAS: it records what it gets and answers, octet by octet,
//! what a test wants, right or wrong.
//!
//! It owns connections and the reading of requests. What is answered is a test's business.

use std::{
    fmt,
    io::{self, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use socket2::SockRef;

use crate::{
    fixture::{PATIENCE, Sha256, wait_until},
    visitor,
};

/// A running service on the loopback; ends when dropped, its connections first.
pub struct Local {
    address: SocketAddr,
    shared: Arc<Shared>,
    accepting: Option<JoinHandle<()>>,
}

impl fmt::Debug for Local {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Local").field("address", &self.address).finish_non_exhaustive()
    }
}

#[derive(Default)]
struct Shared {
    asked: Mutex<Vec<Asked>>,
    /// Connections that were made.
    made: AtomicUsize,
    is_ending: AtomicBool,
    handlers: Mutex<Vec<JoinHandle<()>>>,
    /// Whether a handler panicked whose thread was joined already.
    has_panicked: AtomicBool,
}

impl Shared {
    /// Joins the handlers that have ended: a thread keeps its stack until then.
    fn reap(&self) {
        for handler in lock(&self.handlers).extract_if(.., |handler| handler.is_finished()) {
            if handler.join().is_err() {
                self.has_panicked.store(true, SeqCst);
            }
        }
    }
}

/// The head of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// Method.
    pub method: String,
    /// Target as it came.
    pub target: String,
    /// Names in lower case and values, in order.
    pub headers: Vec<(String, String)>,
}

impl Asked {
    /// The values of a header, by its lower-case name, line by line.
    #[must_use]
    pub fn all(&self, name: &str) -> Vec<&str> {
        let lines = self.headers.iter().filter(|header| header.0 == name);
        lines.map(|header| header.1.as_str()).collect()
    }
}

/// One request whose head was read; the connection closes with it.
#[derive(Debug)]
pub struct Call {
    /// What was asked for.
    pub asked: Asked,
    stream: TcpStream,
    held: Vec<u8>,
}

impl Local {
    /// Starts a service; `serve` answers each request in a thread of its own.
    ///
    /// # Panics
    /// When the loopback has no port left.
    #[must_use]
    pub fn start(serve: impl Fn(&mut Call) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap_or_else(|error| panic!("{error}"));
        let address = listener.local_addr().unwrap_or_else(|error| panic!("{error}"));
        let shared = Arc::new(Shared::default());
        let (held, serve) = (Arc::clone(&shared), Arc::new(serve));
        let accepting = thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(stream) = stream else { continue };
                if held.is_ending.load(SeqCst) {
                    return;
                }
                held.made.fetch_add(1, SeqCst);
                held.reap();
                let (shared, serve) = (Arc::clone(&held), Arc::clone(&serve));
                let handler = thread::spawn(move || {
                    // One that left before it had asked is not served.
                    let Ok(mut call) = Call::read(stream) else { return };
                    lock(&shared.asked).push(call.asked.clone());
                    serve(&mut call);
                });
                lock(&held.handlers).push(handler);
            }
        });
        Self { address, shared, accepting: Some(accepting) }
    }

    /// Where it listens.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// The requests so far, in order.
    #[must_use]
    pub fn asked(&self) -> Vec<Asked> {
        lock(&self.shared.asked).clone()
    }

    /// Forgets the requests so far, for runs that last.
    pub fn forget(&self) {
        lock(&self.shared.asked).clear();
    }

    /// The last request.
    ///
    /// # Panics
    /// When there was none.
    #[must_use]
    pub fn last(&self) -> Asked {
        self.asked().pop().unwrap_or_else(|| panic!("nothing was asked for"))
    }

    /// Connections so far.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.shared.made.load(SeqCst)
    }

    /// Waits until every connection has been served to its end.
    ///
    /// # Panics
    /// When one has not in time.
    pub fn wait_idle(&self) {
        wait_until("the service is idle", || {
            lock(&self.shared.handlers).iter().all(JoinHandle::is_finished)
        });
    }
}

impl Drop for Local {
    fn drop(&mut self) {
        self.shared.is_ending.store(true, SeqCst);
        // Wakes who accepts.
        let _ = TcpStream::connect(self.address);
        let accepting = self.accepting.take().map(JoinHandle::join);
        let mut is_well = matches!(accepting, Some(Ok(())));
        is_well &= !self.shared.has_panicked.load(SeqCst);
        let handlers = std::mem::take(&mut *lock(&self.shared.handlers));
        for handler in handlers {
            is_well &= handler.join().is_ok();
        }
        assert!(is_well || thread::panicking(), "a service panicked");
    }
}

impl Call {
    fn read(stream: TcpStream) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let asked = Asked { method: String::new(), target: String::new(), headers: Vec::new() };
        let mut call = Self { asked, stream, held: Vec::new() };
        let first = call.line()?;
        let mut words = first.split(' ');
        let mut word = || words.next().unwrap_or_default().to_owned();
        (call.asked.method, call.asked.target) = (word(), word());
        assert_eq!((word().as_str(), words.next()), ("HTTP/1.1", None), "{first:?}");
        loop {
            let line = call.line()?;
            let Some((name, value)) = line.split_once(':') else { break };
            call.asked.headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
        Ok(call)
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

    /// Sends 200 with a length, and the body.
    ///
    /// # Panics
    /// When the other end is gone.
    pub fn answer(&mut self, body: impl AsRef<[u8]>) {
        let body = body.as_ref();
        self.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len()));
        self.send(body);
    }

    /// Sends octets until nobody takes any for `limit`, or the connection ends: their number, and
    /// whether it was the former.
    ///
    /// # Panics
    /// When the socket takes no timeout.
    pub fn send_until_stalled(&mut self, limit: Duration) -> (u64, bool) {
        self.stream.set_write_timeout(Some(limit)).unwrap_or_else(|error| panic!("{error}"));
        let piece = [b'x'; 65_536];
        let mut sent = 0;
        let ended = loop {
            match self.stream.write(&piece) {
                Ok(len) => sent += len as u64,
                Err(error) => break error,
            }
        };
        self.stream.set_write_timeout(Some(PATIENCE)).unwrap_or_else(|error| panic!("{error}"));
        (sent, ended.kind() == io::ErrorKind::WouldBlock)
    }

    /// Some octets, as they come; none at FIN.
    ///
    /// # Errors
    /// Those of the socket.
    pub fn some(&mut self) -> io::Result<Vec<u8>> {
        if self.held.is_empty() {
            self.more()?;
        }
        Ok(std::mem::take(&mut self.held))
    }

    /// Waits for the end of the connection and drops what comes before.
    pub fn wait_gone(&mut self) {
        while self.some().is_ok_and(|octets| !octets.is_empty()) {}
    }

    /// The whole body of the request: its length and SHA-256.
    ///
    /// # Errors
    /// Those of the socket, a body that ends early, and chunks that are malformed.
    pub fn body(&mut self) -> io::Result<(u64, String)> {
        let (mut len, mut hash) = (0, Sha256::new());
        let mut take = |call: &mut Self, mut left: u64| {
            while left > 0 {
                let mut octets = call.some()?;
                if octets.is_empty() {
                    return Err(io::Error::from(io::ErrorKind::UnexpectedEof));
                }
                let most = usize::try_from(left).unwrap_or(usize::MAX).min(octets.len());
                call.held = octets.split_off(most);
                hash.update(&octets);
                len += octets.len() as u64;
                left -= octets.len() as u64;
            }
            Ok(())
        };
        if let [length] = self.asked.all("content-length")[..] {
            let length = length.parse().map_err(io::Error::other)?;
            take(self, length)?;
        } else if self.asked.all("transfer-encoding") == ["chunked"] {
            loop {
                let size = u64::from_str_radix(&self.line()?, 16).map_err(io::Error::other)?;
                take(self, size)?;
                if !self.line()?.is_empty() {
                    return Err(io::Error::new(
                        io::ErrorKind::InvalidData,
                        "no line end behind a chunk",
                    ));
                }
                if size == 0 {
                    break;
                }
            }
        }
        Ok((len, hash.finish()))
    }

    /// Ends the connection by RST.
    pub fn reset(&self) {
        // The socket may be gone, which is as good.
        let _ = SockRef::from(&self.stream).set_linger(Some(Duration::ZERO));
    }

    /// Sends FIN; what comes can still be read.
    pub fn finish_sending(&self) {
        let _ = self.stream.shutdown(std::net::Shutdown::Write);
    }

    fn line(&mut self) -> io::Result<String> {
        loop {
            if let Some(end) = self.held.iter().position(|octet| *octet == b'\n') {
                let line: Vec<u8> = self.held.drain(..=end).collect();
                let line = line.strip_suffix(b"\r\n");
                let line = line.unwrap_or_else(|| panic!("a line does not end with CRLF"));
                return Ok(String::from_utf8_lossy(line).into_owned());
            }
            if self.more()? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    fn more(&mut self) -> io::Result<usize> {
        visitor::read_more(&mut self.stream, &mut self.held)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::Local;
    use crate::{
        fixture::Sha256,
        http::{Request, Response},
        visitor::Visitor,
    };

    #[test]
    fn requests_are_recorded_and_bodies_read() {
        let service = Local::start(|call| {
            let (len, sha256) = call.body().unwrap();
            call.answer(format!("{len} {sha256}"));
        });
        let wanted = format!("3 {}", Sha256::of(b"abc"));
        let answer = Request::with_body("PUT", "/a?b", b"abc").send(service.address()).unwrap();
        assert_eq!((answer.status, answer.text()), (200, wanted.clone()));
        let mut visitor = Visitor::connect(service.address());
        visitor.send("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n");
        visitor.send("2\r\nbc\r\n0\r\n\r\n");
        assert_eq!(Response::read(&mut visitor, "POST").unwrap().text(), wanted);
        let asked = service.asked();
        assert_eq!((asked[0].method.as_str(), asked[0].target.as_str()), ("PUT", "/a?b"));
        assert_eq!(asked[1].all("transfer-encoding"), ["chunked"]);
        assert_eq!(service.connections(), 2);
        service.wait_idle();
    }
}
