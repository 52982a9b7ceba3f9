//! A TCP relay between a program and an HTTP server that writes down what is asked and how much of
//! each answer the program took.
//!
//! It owns the copying, octet for octet, and where one request ends and the next begins. It changes
//! nothing and knows no TLS; which requests are right is the tests' business. Links with delays and
//! faults are [`crate::link`]'s.

use std::{
    io::{self, Read, Write},
    mem,
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
};

use socket2::SockRef;

/// A running relay; it takes no more connections once dropped. Start one for each program that is
/// watched.
#[derive(Debug)]
pub struct Recorder {
    /// Where the program is to connect.
    pub address: SocketAddr,
    shared: Arc<Shared>,
    acceptor: Option<JoinHandle<()>>,
}

/// A request, and what has come back for it so far.
#[derive(Clone, Debug)]
pub struct Exchange {
    /// Number of its connection, from 0.
    pub connection: usize,
    /// Method.
    pub method: String,
    /// Target as it stood on the wire.
    pub target: String,
    /// Names in lower case and values, in order.
    pub headers: Vec<(String, String)>,
    /// Octets that came back, head included, up to the next request of the connection.
    pub octets: u64,
    start: Vec<u8>,
}

impl Recorder {
    /// Listens on a free port of the loopback for connections that go on to `target`.
    ///
    /// # Panics
    /// When there is no port.
    #[must_use]
    pub fn start(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap_or_else(|error| panic!("{error}"));
        let address = listener.local_addr().unwrap_or_else(|error| panic!("{error}"));
        let shared = Arc::new(Shared::default());
        let held = Arc::clone(&shared);
        let acceptor = thread::spawn(move || {
            for (number, client) in listener.incoming().enumerate() {
                if held.ended.load(Ordering::Relaxed) {
                    break;
                }
                // A connection that fails is closed: so the program sees it, too.
                let _ = client.and_then(|client| carry(&held, number, client, target));
            }
        });
        Self { address, shared, acceptor: Some(acceptor) }
    }

    /// The requests so far, in the order of their coming.
    #[must_use]
    pub fn exchanges(&self) -> Vec<Exchange> {
        self.shared.lock().clone()
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::Relaxed);
        // Wakes the acceptor, which then ends.
        let _ = TcpStream::connect(self.address);
        let _ = self.acceptor.take().map(JoinHandle::join);
    }
}

impl Exchange {
    /// The value of a header, given in lower case.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|header| header.0 == name).map(|header| header.1.as_str())
    }

    /// First and last position of a single range that was asked for; the last one is `None` in an
    /// open range.
    #[must_use]
    pub fn range(&self) -> Option<(u64, Option<u64>)> {
        let (first, last) = self.header("range")?.strip_prefix("bytes=")?.split_once('-')?;
        Some((first.parse().ok()?, last.parse().ok()))
    }

    /// Status of the answer, once there is one.
    #[must_use]
    pub fn status(&self) -> Option<u16> {
        str::from_utf8(self.start.get(9..12)?).ok()?.parse().ok()
    }
}

#[derive(Debug, Default)]
struct Shared {
    exchanges: Mutex<Vec<Exchange>>,
    ended: AtomicBool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Vec<Exchange>> {
        self.exchanges.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Carries one connection by two threads, which end with it.
fn carry(
    shared: &Arc<Shared>,
    connection: usize,
    mut client: TcpStream,
    target: SocketAddr,
) -> io::Result<()> {
    let mut server = TcpStream::connect(target)?;
    for stream in [&client, &server] {
        stream.set_nodelay(true)?;
        // A program that stops reading is to be felt by the server soon.
        SockRef::from(stream).set_recv_buffer_size(BUFFER)?;
        SockRef::from(stream).set_send_buffer_size(BUFFER)?;
    }
    let (mut from_client, mut to_server) = (client.try_clone()?, server.try_clone()?);
    let asked = Arc::clone(shared);
    thread::spawn(move || {
        let mut parser = Requests::default();
        let ended = copy(&mut from_client, &mut to_server, |octets| {
            for (method, target, headers) in parser.read(octets) {
                let (octets, start) = (0, Vec::new());
                let new = Exchange { connection, method, target, headers, octets, start };
                asked.lock().push(new);
            }
        });
        // One who has sent all may still wait for the answer; one who has gone does not.
        let how = if ended.is_ok() { Shutdown::Write } else { Shutdown::Both };
        let _ = to_server.shutdown(how);
    });
    let answered = Arc::clone(shared);
    thread::spawn(move || {
        let ended = copy(&mut server, &mut client, |octets| {
            let mut exchanges = answered.lock();
            let own = exchanges.iter_mut().rev().find(|one| one.connection == connection);
            if let Some(own) = own {
                own.octets += octets.len() as u64;
                let missing = STATUS_LINE.saturating_sub(own.start.len()).min(octets.len());
                own.start.extend_from_slice(&octets[..missing]);
            }
        });
        let how = if ended.is_ok() { Shutdown::Write } else { Shutdown::Both };
        let _ = client.shutdown(how);
        if ended.is_err() {
            let _ = server.shutdown(Shutdown::Both);
        }
    });
    Ok(())
}

/// Copies until the end of `from`, and shows each piece before it goes on.
fn copy(from: &mut TcpStream, to: &mut TcpStream, mut see: impl FnMut(&[u8])) -> io::Result<()> {
    let mut buf = vec![0; BUFFER];
    loop {
        let len = from.read(&mut buf)?;
        if len == 0 {
            return Ok(());
        }
        see(&buf[..len]);
        to.write_all(&buf[..len])?;
    }
}

/// Method, target and headers of a request.
type Head = (String, String, Vec<(String, String)>);

/// Finds the heads in what one connection sends.
#[derive(Debug, Default)]
struct Requests {
    held: Vec<u8>,
    /// Octets of a body that are to come; all, where it is in chunks.
    body: u64,
}

impl Requests {
    fn read(&mut self, octets: &[u8]) -> Vec<Head> {
        self.held.extend_from_slice(octets);
        let mut found = Vec::new();
        loop {
            let skipped = self.body.min(self.held.len() as u64);
            self.body -= skipped;
            self.held.drain(..usize::try_from(skipped).unwrap_or(usize::MAX));
            let end = self.held.windows(4).position(|four| four == b"\r\n\r\n");
            let Some(end) = end.filter(|_| self.body == 0) else { return found };
            let rest = self.held.split_off(end + 4);
            let head = String::from_utf8_lossy(&mem::replace(&mut self.held, rest)).into_owned();
            let mut lines = head.lines();
            let mut words = lines.next().unwrap_or_default().split(' ').map(str::to_owned);
            let (method, target) =
                (words.next().unwrap_or_default(), words.next().unwrap_or_default());
            let headers: Vec<_> = lines
                .filter_map(|line| line.split_once(':'))
                .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
                .collect();
            self.body = headers.iter().fold(0, |body, (name, value)| match name.as_str() {
                "content-length" => value.parse().unwrap_or(0),
                "transfer-encoding" => u64::MAX,
                _ => body,
            });
            found.push((method, target, headers));
        }
    }
}

/// Octets that are copied at once, and that each socket may hold in each direction.
const BUFFER: usize = 64 << 10;

/// Octets of an answer that hold its status.
const STATUS_LINE: usize = 12;

#[cfg(test)]
mod tests {
    use std::{
        io::{Read as _, Write as _},
        net::TcpListener,
        thread,
    };

    use super::{Recorder, Requests};
    use crate::{fixture::wait_until, visitor::Visitor};

    #[test]
    fn heads_are_found_in_every_split() {
        let sent = b"PUT /a%20b HTTP/1.1\r\nContent-Length: 30\r\n\r\nGET /no HTTP/1.1\r\n\r\n0123456789\
            GET /c HTTP/1.1\r\nRange: bytes=5-\r\n\r\nPOST /d HTTP/1.1\r\nTransfer-Encoding: chunked\
            \r\n\r\nGET /no HTTP/1.1\r\n\r\n";
        for step in 1..sent.len() {
            let mut requests = Requests::default();
            let heads: Vec<_> = sent.chunks(step).flat_map(|piece| requests.read(piece)).collect();
            let targets: Vec<_> = heads.iter().map(|head| head.1.as_str()).collect();
            assert_eq!(targets, ["/a%20b", "/c", "/d"], "{step}");
            assert_eq!(heads[1].2, [("range".to_owned(), "bytes=5-".to_owned())]);
        }
    }

    #[test]
    fn relay_counts_what_came_back_for_each_request() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let recorder = Recorder::start(listener.local_addr().unwrap());
        let server = thread::spawn(move || {
            let answer = b"HTTP/1.1 206 Partial Content\r\nContent-Length: 3\r\n\r\nabc";
            for (mut connection, _) in (0..2).map(|_| listener.accept().unwrap()) {
                // The requests are short: they come at once.
                let _ = connection.read(&mut [0; 1_000])?;
                connection.write_all(answer)?;
            }
            std::io::Result::Ok(())
        });
        for range in ["5-7", "8-"] {
            let mut visitor = Visitor::connect(recorder.address);
            visitor.send(format!("GET /film HTTP/1.1\r\nHost: x\r\nRange: bytes={range}\r\n\r\n"));
            assert_eq!(visitor.try_head("GET").unwrap().status, 206);
            assert_eq!(visitor.finish().len, 3);
        }
        server.join().unwrap().unwrap();
        let all = 54;
        wait_until("all is written down", || recorder.exchanges().iter().all(|e| e.octets == all));
        let seen = recorder.exchanges();
        assert_eq!(seen.iter().map(|one| one.status()).collect::<Vec<_>>(), [Some(206); 2]);
        assert_eq!(seen[0].range(), Some((5, Some(7))));
        assert_eq!(seen[1].range(), Some((8, None)));
        assert_eq!((seen[1].connection, seen[1].header("host")), (1, Some("x")));
    }
}
