//! The original's proxy: takes one agent's PUT, then opens streams from many visitors at once.
//!
//! It owns one session. Stream ids reach the wire out of order, uploads ignore every window, and a
//! stream holds five DATA frames: a sixth is a fault. It sends no SETTINGS and reads none.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    io,
    net::{SocketAddr, TcpListener},
    sync::{Arc, Condvar, Mutex, PoisonError},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use crate::{
    amahi::{Edition, Fault, Faults, Pairs, deadly, find, read_handshake},
    fixture::{Identity, Sha256},
    wire::{
        Frame, FrameReader, FrameWriter,
        block::Inflater,
        lock,
        tls::{TlsWriter, accept},
    },
};

/// DATA frames that a stream holds.
const QUEUE: usize = 5;

/// Octets of a stream's window.
const WINDOW: usize = 65_536;

/// How the proxy behaves.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// The library. Default: the seed's.
    pub edition: Edition,
    /// Time without a frame after which a stream is given up. Default 10 s.
    pub idle: Duration,
    /// Time that a visitor takes for each frame. Default none.
    pub pace: Duration,
    /// Largest DATA frame of an upload, in octets. Default: the whole body in one.
    pub upload_frame: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            edition: Edition::Seed,
            idle: Duration::from_secs(10),
            pace: Duration::ZERO,
            upload_frame: (1 << 24) - 1,
        }
    }
}

/// A proxy that waits for its agent.
#[derive(Debug)]
pub struct AmahiProxy {
    listener: TcpListener,
    /// Where the agent is to dial.
    pub address: SocketAddr,
    identity: Identity,
    options: Options,
}

impl AmahiProxy {
    /// Listens on a free port of the loopback.
    ///
    /// # Errors
    /// Those of the socket.
    pub fn bind(options: Options) -> io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0))?;
        let address = listener.local_addr()?;
        Ok(Self { listener, address, identity: Identity::generate(), options })
    }

    /// Takes the next agent.
    ///
    /// # Errors
    /// Those of the connection, and a handshake that is none.
    pub fn accept(&self) -> io::Result<AmahiTunnel> {
        let (mut reader, writer) = accept(self.listener.accept()?.0, &self.identity)?;
        let (head, _, lost) = read_handshake(&mut reader)?;
        let faults = Faults::default();
        if lost > 0 {
            faults.add(Fault::LostWithHandshake(lost));
        }
        if !head.starts_with("PUT ") {
            return Err(io::Error::new(io::ErrorKind::InvalidData, head));
        }
        writer.write(
            b"HTTP/1.1 200 Connection Established\r\nContent-Length: 12\r\n\r\nHello from P",
        )?;
        let frames = Arc::new(FrameWriter::new(writer.clone()));
        let streams = Arc::new(Streams::default());
        let session = Session {
            reader: FrameReader::new(reader),
            inflater: Inflater::new(),
            streams: Arc::clone(&streams),
            writer: Arc::clone(&frames),
            faults: faults.clone(),
            edition: self.options.edition,
        };
        let thread = thread::spawn(move || session.run());
        Ok(AmahiTunnel {
            frames,
            streams,
            faults,
            options: self.options,
            next: 1,
            writer,
            thread: Some(thread),
        })
    }
}

/// A visitor's request.
#[derive(Clone, Debug)]
pub struct Request {
    /// Method.
    pub method: &'static str,
    /// Path, decoded as the original sends it: spaces and UTF-8 stay raw.
    pub path: String,
    /// Headers, lower case; several values joined by NUL.
    pub headers: Vec<(&'static str, String)>,
    /// Body; it goes out whatever the windows say.
    pub body: Option<Vec<u8>>,
}

impl Request {
    /// A GET.
    #[must_use]
    pub fn get(path: impl Into<String>) -> Self {
        Self { method: "GET", path: path.into(), headers: Vec::new(), body: None }
    }
}

/// What a visitor got.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// Status.
    pub status: u16,
    /// Headers; of several values the last, as in the original.
    pub headers: BTreeMap<String, String>,
    /// Octets of the body.
    pub len: u64,
    /// SHA-256 of the body, hexadecimal.
    pub sha256: String,
}

/// Why a visitor got nothing, or only a part: in the original it waits for ever.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hung {
    /// RST_STREAM with this status.
    Reset(u32),
    /// The session ended.
    Ended,
    /// A fault of the stream, recorded in [`AmahiTunnel::faults`].
    Faulty,
}

/// A session with an agent; its connection ends when it is dropped.
#[derive(Debug)]
pub struct AmahiTunnel {
    frames: Arc<FrameWriter>,
    streams: Arc<Streams>,
    faults: Faults,
    options: Options,
    next: u32,
    writer: TlsWriter,
    thread: Option<JoinHandle<()>>,
}

impl AmahiTunnel {
    /// Sends all requests at once, ids out of order, and waits for every answer. Answers come in
    /// the order of the requests.
    ///
    /// # Errors
    /// Those of the connection.
    pub fn exchange(&mut self, requests: &[Request]) -> io::Result<Vec<Result<Response, Hung>>> {
        let ids: Vec<u32> = (self.next..).step_by(2).take(requests.len()).collect();
        self.next += 2 * u32::try_from(requests.len()).unwrap_or(u32::MAX);
        for id in &ids {
            self.streams.insert(*id);
        }
        let mut opened = Vec::new();
        for n in scrambled(requests.len()) {
            self.open(ids[n], &requests[n])?;
            let visitor = self.visitor(ids[n]);
            opened.push((n, thread::spawn(move || visitor.read())));
        }
        let mut answers: Vec<(usize, Result<Response, Hung>)> = opened
            .into_iter()
            .map(|(n, thread)| (n, thread.join().unwrap_or(Err(Hung::Faulty))))
            .collect();
        answers.sort_by_key(|answer| answer.0);
        Ok(answers.into_iter().map(|answer| answer.1).collect())
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

    fn open(&self, id: u32, request: &Request) -> io::Result<()> {
        let mut pairs: Vec<(&str, &[u8])> = vec![
            (":method", request.method.as_bytes()),
            (":version", b"HTTP/1.1"),
            (":path", request.path.as_bytes()),
            (":host", b"localhost:1443"),
            (":scheme", b"https"),
        ];
        pairs.extend(request.headers.iter().map(|(name, value)| (*name, value.as_bytes())));
        let fin = request.body.is_none();
        self.frames.write_block(&pairs, |block| Frame::SynStream {
            id,
            associated: 0,
            priority: 0,
            fin,
            unidirectional: false,
            block,
        })?;
        let Some(body) = &request.body else { return Ok(()) };
        for piece in body.chunks(self.options.upload_frame) {
            self.frames.write(&Frame::Data { id, fin: false, octets: piece.to_vec() })?;
        }
        self.frames.write(&Frame::Data { id, fin: true, octets: Vec::new() })
    }

    fn visitor(&self, id: u32) -> Visitor {
        Visitor {
            id,
            streams: Arc::clone(&self.streams),
            frames: Arc::clone(&self.frames),
            faults: self.faults.clone(),
            options: self.options,
        }
    }
}

impl Drop for AmahiTunnel {
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
    inflater: Inflater,
    streams: Arc<Streams>,
    writer: Arc<FrameWriter>,
    faults: Faults,
    edition: Edition,
}

impl Session {
    fn run(mut self) {
        loop {
            match self.reader.read(None) {
                Ok(Some(frame)) => {
                    if let Err(fault) = self.handle(frame) {
                        self.faults.add(fault);
                        break;
                    }
                }
                Ok(None) => break,
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => break,
                Err(error) => {
                    self.faults.add(Fault::Wire(error.to_string()));
                    break;
                }
            }
        }
        self.writer.shutdown();
        self.streams.end();
    }

    /// `Err`: the original is dead.
    fn handle(&mut self, frame: Frame) -> Result<(), Fault> {
        if let Some(fault) = deadly(&frame, self.edition) {
            return Err(fault);
        }
        match frame {
            Frame::SynStream { id, .. } => Err(Fault::UnexpectedStream(id)),
            Frame::SynReply { id, fin, block } => {
                let pairs = self.inflater.pairs(&block);
                let pairs = pairs.map_err(|error| Fault::Wire(error.to_string()))?;
                let has_status = find(&pairs, ":status").is_some();
                if !has_status || pairs.iter().any(|pair| pair.0.is_empty()) {
                    return Err(Fault::IncompleteHead(id));
                }
                self.streams.on_reply(id, pairs, fin)
            }
            Frame::RstStream(id, status) => {
                self.streams.fail(id, Hung::Reset(status));
                Ok(())
            }
            Frame::Data { id, fin, octets } => {
                if let Some(fault) = self.streams.on_data(id, fin, octets) {
                    // Only this visitor hangs.
                    self.faults.add(fault);
                    self.streams.fail(id, Hung::Faulty);
                }
                Ok(())
            }
            // The other side's pings are even.
            Frame::Ping(id) if id % 2 == 0 => {
                let answer = self.writer.write(&Frame::Ping(id));
                answer.map_err(|error| Fault::Wire(error.to_string()))
            }
            _ => Ok(()),
        }
    }
}

#[derive(Debug, Default)]
struct Streams {
    held: Mutex<HashMap<u32, Incoming>>,
    changed: Condvar,
}

/// A stream as the session fills it and its visitor empties it.
#[derive(Debug, Default)]
struct Incoming {
    head: Option<Pairs>,
    /// DATA frames that the visitor has not consumed; an empty one with FIN counts.
    queue: VecDeque<Vec<u8>>,
    /// Octets received and not given back yet.
    in_flight: usize,
    fin: bool,
    hung: Option<Hung>,
    frames: u64,
}

impl Streams {
    fn insert(&self, id: u32) {
        lock(&self.held).insert(id, Incoming::default());
    }

    fn on_reply(&self, id: u32, pairs: Pairs, fin: bool) -> Result<(), Fault> {
        let mut held = lock(&self.held);
        let stream = held.get_mut(&id).ok_or(Fault::UnexpectedStream(id))?;
        stream.head = Some(pairs);
        stream.fin = fin;
        stream.frames += 1;
        self.changed.notify_all();
        Ok(())
    }

    fn on_data(&self, id: u32, fin: bool, octets: Vec<u8>) -> Option<Fault> {
        let mut held = lock(&self.held);
        let stream = held.get_mut(&id)?;
        stream.in_flight += octets.len();
        stream.queue.push_back(octets);
        stream.fin |= fin;
        stream.frames += 1;
        self.changed.notify_all();
        if stream.in_flight > WINDOW {
            return Some(Fault::WindowOverrun(id));
        }
        (stream.queue.len() > QUEUE).then_some(Fault::QueueFull(id))
    }

    fn fail(&self, id: u32, hung: Hung) {
        if let Some(stream) = lock(&self.held).get_mut(&id) {
            stream.hung.get_or_insert(hung);
        }
        self.changed.notify_all();
    }

    fn end(&self) {
        for stream in lock(&self.held).values_mut() {
            stream.hung.get_or_insert(Hung::Ended);
        }
        self.changed.notify_all();
    }
}

struct Visitor {
    id: u32,
    streams: Arc<Streams>,
    frames: Arc<FrameWriter>,
    faults: Faults,
    options: Options,
}

impl Visitor {
    fn read(self) -> Result<Response, Hung> {
        let done = self.read_all();
        lock(&self.streams.held).remove(&self.id);
        done
    }

    fn read_all(&self) -> Result<Response, Hung> {
        let mut hash = Sha256::new();
        let mut len = 0;
        let head = self.wait(|stream| stream.head.take())?;
        while let Some(octets) = self.wait(|stream| match stream.queue.front() {
            Some(octets) => Some(Some(octets.clone())),
            None => stream.fin.then_some(None),
        })? {
            if !self.options.pace.is_zero() {
                // The visitor's own time, not a wait for something.
                thread::sleep(self.options.pace);
            }
            hash.update(&octets);
            len += octets.len() as u64;
            self.consumed(octets.len())?;
        }
        let status = find(&head, ":status").and_then(|status| {
            let digits = std::str::from_utf8(status.get(..3)?).ok()?;
            digits.parse().ok()
        });
        let headers = head.iter().map(|(name, value)| {
            let last = value.rsplit(|octet| *octet == 0).next().unwrap_or_default();
            (name.clone(), String::from_utf8_lossy(last).into_owned())
        });
        Ok(Response {
            status: status.ok_or(Hung::Faulty)?,
            headers: headers.collect(),
            len,
            sha256: hash.finish(),
        })
    }

    /// Takes the first frame off the queue and gives its octets back.
    fn consumed(&self, len: usize) -> Result<(), Hung> {
        if let Some(stream) = lock(&self.streams.held).get_mut(&self.id) {
            stream.queue.pop_front();
            stream.in_flight -= len;
        }
        let Some(delta) = u32::try_from(len).ok().filter(|delta| *delta > 0) else {
            return Ok(());
        };
        let write = |id| self.frames.write(&Frame::WindowUpdate(id, delta));
        let written = write(self.id).and_then(|()| match self.options.edition {
            Edition::Seed => Ok(()),
            Edition::Head => write(0),
        });
        written.map_err(|_| Hung::Ended)
    }

    /// Waits for something of the stream; what has arrived counts before what went wrong.
    fn wait<T>(&self, mut find: impl FnMut(&mut Incoming) -> Option<T>) -> Result<T, Hung> {
        let mut held = lock(&self.streams.held);
        let mut seen = 0;
        let mut since = Instant::now();
        loop {
            let stream = held.get_mut(&self.id).ok_or(Hung::Ended)?;
            if let Some(found) = find(stream) {
                return Ok(found);
            }
            if let Some(hung) = &stream.hung {
                return Err(hung.clone());
            }
            if stream.frames != seen {
                seen = stream.frames;
                since = Instant::now();
            }
            let Some(left) = self.options.idle.checked_sub(since.elapsed()) else {
                self.faults.add(Fault::Silence(self.id));
                return Err(Hung::Faulty);
            };
            let waited = self.streams.changed.wait_timeout(held, left);
            held = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

/// The order in which many requests reach the wire: 1, 3, 13, 7, 9, 5, 11 of ids, then likewise.
fn scrambled(len: usize) -> impl Iterator<Item = usize> {
    const ORDER: [usize; 7] = [0, 1, 6, 3, 4, 2, 5];
    (0..len.div_ceil(ORDER.len()))
        .flat_map(|block| ORDER.map(|n| block * ORDER.len() + n))
        .filter(move |n| *n < len)
}
