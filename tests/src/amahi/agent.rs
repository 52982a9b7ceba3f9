//! The original's agent: dials, says PUT, serves a folder.
//!
//! It owns one session, its uploads read whole before they are answered, and downloads in writes of
//! 32 KiB that wait until they fit into the stream's window. It keeps no session window and ignores
//! SETTINGS.

use std::{
    collections::{HashMap, VecDeque},
    fs::{self, File},
    io::{self, Read, Seek, SeekFrom},
    net::SocketAddr,
    path::{Component, Path, PathBuf},
    str,
    sync::{Arc, Condvar, Mutex, PoisonError},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use crate::{
    amahi::{Edition, Fault, Faults, Pairs, deadly, find, read_handshake},
    fixture::Sha256,
    wire::{
        Frame, FrameReader, FrameWriter,
        block::Inflater,
        lock, malformed,
        tls::{TlsWriter, dial},
    },
};

/// How the agent behaves.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// The library. Default: the seed's.
    pub edition: Edition,
    /// Time without credit after which a body is ended early. Default 10 s.
    pub idle: Duration,
    /// Longest gap in an upload. Default 3 s.
    pub upload_gap: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            edition: Edition::Seed,
            idle: Duration::from_secs(10),
            upload_gap: Duration::from_secs(3),
        }
    }
}

/// A running agent; its connection ends when it is dropped.
#[derive(Debug)]
pub struct AmahiAgent {
    faults: Faults,
    writer: TlsWriter,
    thread: Option<JoinHandle<()>>,
}

impl AmahiAgent {
    /// Dials the proxy, does the handshake and serves `root` from then on.
    ///
    /// # Errors
    /// Those of the connection, and a refusal.
    pub fn start(proxy: SocketAddr, root: &Path, options: Options) -> io::Result<Self> {
        let (mut reader, writer) = dial(proxy)?;
        writer.write(
            b"PUT / HTTP/1.1\r\nHost: localhost:1444\r\nUser-Agent: Go-http-client/1.1\r\n\
              Content-Length: 12\r\n\r\nHello from C",
        )?;
        let (head, body, lost) = read_handshake(&mut reader)?;
        if !head.starts_with("HTTP/1.1 200 ") || body != b"Hello from P" {
            return Err(io::Error::new(io::ErrorKind::ConnectionRefused, head));
        }
        let faults = Faults::default();
        if lost > 0 {
            faults.add(Fault::LostWithHandshake(lost));
        }
        let session = Session {
            reader: FrameReader::new(reader),
            deferred: VecDeque::new(),
            inflater: Inflater::new(),
            unanswered: Arc::default(),
            streams: HashMap::new(),
            root: root.to_owned(),
            writer: Arc::new(FrameWriter::new(writer.clone())),
            faults: faults.clone(),
            options,
        };
        let thread = thread::spawn(move || session.run());
        Ok(Self { faults, writer, thread: Some(thread) })
    }

    /// What would have hurt the original so far.
    #[must_use]
    pub fn faults(&self) -> Vec<Fault> {
        self.faults.all()
    }

    /// Whether the session has ended.
    #[must_use]
    pub fn is_ended(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }
}

impl Drop for AmahiAgent {
    fn drop(&mut self) {
        self.writer.shutdown();
        if let Some(thread) = self.thread.take() {
            // A panic there has been printed.
            let _ = thread.join();
        }
    }
}

struct Session {
    reader: FrameReader,
    /// Frames that came while an upload was read.
    deferred: VecDeque<Frame>,
    inflater: Inflater,
    /// Streams that have no SYN_REPLY yet.
    unanswered: Arc<Mutex<Vec<u32>>>,
    streams: HashMap<u32, Arc<Outgoing>>,
    root: PathBuf,
    writer: Arc<FrameWriter>,
    faults: Faults,
    options: Options,
}

impl Session {
    fn run(mut self) {
        let ended = loop {
            let frame = match self.deferred.pop_front() {
                Some(frame) => Ok(Some(frame)),
                None => self.reader.read(None),
            };
            match frame.and_then(|frame| frame.map_or(Ok(false), |frame| self.handle(frame))) {
                Ok(true) => {}
                Ok(false) => break Ok(()),
                Err(error) => break Err(error),
            }
        };
        if let Err(error) = ended
            && error.kind() != io::ErrorKind::ConnectionReset
        {
            self.faults.add(Fault::Wire(error.to_string()));
        }
        self.writer.shutdown();
        for stream in self.streams.values() {
            stream.close();
        }
    }

    /// Whether the session goes on.
    fn handle(&mut self, frame: Frame) -> io::Result<bool> {
        if let Some(fault) = deadly(&frame, self.options.edition) {
            self.faults.add(fault);
            return Ok(false);
        }
        match frame {
            Frame::SynStream { id, fin, block, .. } => self.on_request(id, fin, &block)?,
            Frame::SynReply { id, .. } => {
                self.faults.add(Fault::UnexpectedStream(id));
                return Ok(false);
            }
            Frame::RstStream(id, _) => {
                if let Some(stream) = self.streams.remove(&id) {
                    stream.close();
                }
            }
            Frame::WindowUpdate(id, delta) => {
                if let Some(stream) = self.streams.get(&id) {
                    stream.credit(delta);
                }
            }
            // The other side's pings are odd.
            Frame::Ping(id) if id % 2 == 1 => self.writer.write(&Frame::Ping(id))?,
            _ => {}
        }
        Ok(true)
    }

    fn on_request(&mut self, id: u32, fin: bool, block: &[u8]) -> io::Result<()> {
        let pairs = self.inflater.pairs(block)?;
        if !lock(&self.unanswered).is_empty() {
            self.faults.add(Fault::OverlappingOpen(id));
        }
        let path = find(&pairs, ":path").map(<[u8]>::to_vec);
        let Some(path) = path.filter(|_| find(&pairs, ":method").is_some()) else {
            self.faults.add(Fault::IncompleteHead(id));
            return Err(malformed("request without :path or :method"));
        };
        lock(&self.unanswered).push(id);
        let body = if fin { Some(Vec::new()) } else { self.read_upload(id)? };
        let Some(body) = body else {
            lock(&self.unanswered).retain(|unanswered| *unanswered != id);
            return Ok(());
        };
        let stream = Arc::new(Outgoing::default());
        self.streams.insert(id, Arc::clone(&stream));
        let exchange = Exchange {
            id,
            stream,
            writer: Arc::clone(&self.writer),
            unanswered: Arc::clone(&self.unanswered),
            faults: self.faults.clone(),
            idle: self.options.idle,
        };
        let root = self.root.clone();
        // Ends with its stream, which ends with the session at the latest.
        thread::spawn(move || exchange.run(&root, &pairs, &path, &body));
        Ok(())
    }

    /// The whole body; nothing else is handled meanwhile. `None` when it stood still.
    fn read_upload(&mut self, upload: u32) -> io::Result<Option<Vec<u8>>> {
        let mut body = Vec::new();
        let mut last = Instant::now();
        loop {
            let left = self.options.upload_gap.saturating_sub(last.elapsed());
            let frame = match self.reader.read(Some(left.max(Duration::from_millis(1)))) {
                Ok(frame) => frame.ok_or_else(|| malformed("session ended in an upload"))?,
                Err(error) if is_timeout(&error) => {
                    self.faults.add(Fault::UploadGap(upload));
                    return Ok(None);
                }
                Err(error) => return Err(error),
            };
            match frame {
                Frame::Data { id, fin, octets } if id == upload => {
                    body.extend_from_slice(&octets);
                    last = Instant::now();
                    if fin {
                        return Ok(Some(body));
                    }
                }
                Frame::RstStream(id, _) if id == upload => return Ok(None),
                frame => {
                    if let Frame::SynStream { id, .. } = frame {
                        self.faults.add(Fault::OverlappingOpen(id));
                    }
                    self.deferred.push_back(frame);
                }
            }
        }
    }
}

/// What the session tells the thread that answers a stream.
#[derive(Debug)]
struct Outgoing {
    /// Credit; `None` once the stream is closed.
    window: Mutex<Option<i64>>,
    changed: Condvar,
}

impl Default for Outgoing {
    fn default() -> Self {
        Self { window: Mutex::new(Some(65_536)), changed: Condvar::new() }
    }
}

impl Outgoing {
    fn credit(&self, delta: u32) {
        if let Some(window) = lock(&self.window).as_mut() {
            *window += i64::from(delta);
        }
        self.changed.notify_all();
    }

    fn close(&self) {
        *lock(&self.window) = None;
        self.changed.notify_all();
    }

    /// Waits until all of `len` fits and takes it.
    fn take(&self, len: usize, idle: Duration) -> Result<(), Stop> {
        let len = i64::try_from(len).unwrap_or(i64::MAX);
        let mut held = lock(&self.window);
        loop {
            let window = held.as_mut().ok_or(Stop::Closed)?;
            if *window >= len {
                *window -= len;
                return Ok(());
            }
            let seen = *window;
            let waited = self.changed.wait_timeout(held, idle);
            let (guard, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
            held = guard;
            if timeout.timed_out() && *held == Some(seen) {
                return Err(Stop::Idle);
            }
        }
    }
}

/// Why a body is not sent to its end.
enum Stop {
    Closed,
    Idle,
    Failed(io::Error),
}

impl From<io::Error> for Stop {
    fn from(error: io::Error) -> Self {
        Self::Failed(error)
    }
}

struct Exchange {
    id: u32,
    stream: Arc<Outgoing>,
    writer: Arc<FrameWriter>,
    unanswered: Arc<Mutex<Vec<u32>>>,
    faults: Faults,
    idle: Duration,
}

impl Exchange {
    fn run(&self, root: &Path, pairs: &Pairs, path: &[u8], body: &[u8]) {
        match self.answer(root, pairs, path, body) {
            Ok(()) | Err(Stop::Closed) => {}
            Err(Stop::Idle) => {
                self.faults.add(Fault::Truncated(self.id));
                // A connection that is gone is seen by the session.
                let _ = self.finish();
            }
            Err(Stop::Failed(error)) if is_gone(&error) => {}
            Err(Stop::Failed(error)) => self.faults.add(Fault::Wire(error.to_string())),
        }
        lock(&self.unanswered).retain(|id| *id != self.id);
    }

    fn answer(&self, root: &Path, pairs: &Pairs, path: &[u8], body: &[u8]) -> Result<(), Stop> {
        let method = find(pairs, ":method").unwrap_or_default();
        if matches!(method, b"PUT" | b"POST") {
            let digest = Sha256::of(body);
            let text = format!("{{\"length\":{},\"sha256\":\"{digest}\"}}", body.len());
            return self.reply(201, &[("content-type", "application/json")], text.as_bytes());
        }
        let Some(file) = locate(root, path) else {
            return self.reply(404, &[], b"404 page not found\n");
        };
        if file.is_dir() {
            let mut names: Vec<String> = fs::read_dir(&file)?
                .filter_map(|entry| Some(entry.ok()?.file_name().to_string_lossy().into_owned()))
                .collect();
            names.sort();
            let text = names.iter().map(|name| format!("<a href=\"{name}\">{name}</a>\n"));
            let text = format!("<pre>\n{}</pre>\n", text.collect::<String>());
            let body = if method == b"HEAD" { "" } else { &text };
            return self.reply(200, &[("content-type", "text/html")], body.as_bytes());
        }
        self.send_file(&file, method == b"HEAD", find(pairs, "range"))
    }

    fn send_file(&self, path: &Path, is_head: bool, range: Option<&[u8]>) -> Result<(), Stop> {
        let mut file = File::open(path)?;
        let size = file.metadata()?.len();
        let mut headers = vec![("accept-ranges", "bytes".to_owned())];
        headers.push(("content-type", "application/octet-stream".to_owned()));
        let (status, first, len) = match range.and_then(|range| parse_range(range, size)) {
            Some((first, last)) => {
                headers.push(("content-range", format!("bytes {first}-{last}/{size}")));
                (206, first, last - first + 1)
            }
            None => (200, 0, size),
        };
        headers.push(("content-length", len.to_string()));
        self.send_head(status, &headers)?;
        if !is_head {
            file.seek(SeekFrom::Start(first))?;
            let mut file = file.take(len);
            let mut piece = vec![0; WRITE];
            loop {
                match read_full(&mut file, &mut piece)? {
                    0 => break,
                    len => self.send(&piece[..len])?,
                }
            }
        }
        self.finish()
    }

    fn reply(&self, status: u16, headers: &[(&str, &str)], body: &[u8]) -> Result<(), Stop> {
        let mut headers: Vec<_> = headers.iter().map(|pair| (pair.0, pair.1.to_owned())).collect();
        headers.push(("content-length", body.len().to_string()));
        self.send_head(status, &headers)?;
        if !body.is_empty() {
            self.send(body)?;
        }
        self.finish()
    }

    /// SYN_REPLY, never with FIN.
    fn send_head(&self, status: u16, headers: &[(&str, String)]) -> Result<(), Stop> {
        let status = status.to_string();
        let mut pairs: Vec<(&str, &[u8])> =
            vec![(":status", status.as_bytes()), (":version", b"HTTP/1.1")];
        pairs.extend(headers.iter().map(|(name, value)| (*name, value.as_bytes())));
        let id = self.id;
        // Before the frame: the next SYN_STREAM may follow it at once.
        lock(&self.unanswered).retain(|unanswered| *unanswered != id);
        Ok(self.writer.write_block(&pairs, |block| Frame::SynReply { id, fin: false, block })?)
    }

    fn send(&self, octets: &[u8]) -> Result<(), Stop> {
        self.stream.take(octets.len(), self.idle)?;
        let octets = octets.to_vec();
        Ok(self.writer.write(&Frame::Data { id: self.id, fin: false, octets })?)
    }

    fn finish(&self) -> Result<(), Stop> {
        let fin = Frame::Data { id: self.id, fin: true, octets: Vec::new() };
        Ok(self.writer.write(&fin)?)
    }
}

/// Octets of one write: what Go's io.Copy takes at a time.
const WRITE: usize = 32_768;

/// The file of a raw or percent-encoded path, if it is there and below the root.
fn locate(root: &Path, path: &[u8]) -> Option<PathBuf> {
    let path = path.split(|octet| *octet == b'?').next()?;
    let mut decoded = Vec::new();
    let mut rest = path;
    while let Some((octet, behind)) = rest.split_first() {
        rest = behind;
        if *octet != b'%' {
            decoded.push(*octet);
            continue;
        }
        let (digits, behind) = rest.split_at_checked(2)?;
        decoded.push(u8::from_str_radix(str::from_utf8(digits).ok()?, 16).ok()?);
        rest = behind;
    }
    let relative = PathBuf::from(String::from_utf8(decoded).ok()?.trim_start_matches('/'));
    let below = relative.components().all(|part| matches!(part, Component::Normal(_)));
    let file = root.join(relative);
    (below && file.exists()).then_some(file)
}

/// First and last octet of "bytes=A-B" or "bytes=A-".
fn parse_range(range: &[u8], size: u64) -> Option<(u64, u64)> {
    let (first, last) = str::from_utf8(range).ok()?.strip_prefix("bytes=")?.split_once('-')?;
    let first = first.parse().ok()?;
    let last = if last.is_empty() { u64::MAX } else { last.parse().ok()? };
    let last = last.min(size.checked_sub(1)?);
    (first <= last).then_some((first, last))
}

fn read_full(from: &mut impl Read, buf: &mut [u8]) -> io::Result<usize> {
    let mut done = 0;
    while done < buf.len() {
        match from.read(&mut buf[done..])? {
            0 => break,
            len => done += len,
        }
    }
    Ok(done)
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock)
}

fn is_gone(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset)
}
