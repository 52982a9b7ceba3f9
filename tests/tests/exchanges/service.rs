//! The service: it answers as the plan says and writes down what it got.

use std::{
    collections::HashMap,
    io,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering::SeqCst},
    },
    thread,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use rustix::process::{Pid, Signal, kill_process};
use spdy_tests::local::Call;

use crate::{
    judge::{Arrival, Received},
    plan::{Break, Ending, Exchange, Framing, Timing, content},
};

/// What service, clients and disturbances share.
#[derive(Default)]
pub struct Shared {
    /// What is asked now, by its id, with what came of it.
    exchanges: Mutex<HashMap<String, (Exchange, Vec<Arrival>)>>,
    /// Requests that nobody had asked for.
    unknown: Mutex<Vec<String>>,
    /// The proxy's process, to be stopped around an answer.
    pub proxy: AtomicU32,
}

impl Shared {
    /// From now on the service knows these.
    pub fn announce(&self, exchanges: &[Exchange]) {
        let mut held = lock(&self.exchanges);
        for exchange in exchanges {
            held.insert(exchange.id.clone(), (exchange.clone(), Vec::new()));
        }
    }

    /// What came of all that was announced since the last time.
    pub fn take(&self) -> HashMap<String, (Exchange, Vec<Arrival>)> {
        std::mem::take(&mut *lock(&self.exchanges))
    }

    /// Requests that nobody had asked for.
    pub fn unknown(&self) -> Vec<String> {
        lock(&self.unknown).clone()
    }

    /// Answers one request.
    pub fn serve(self: &Arc<Self>, call: &mut Call) {
        match call.asked.target.as_str() {
            "/page" => {
                let _ = call.try_send(&page());
            }
            "/upgrade" => {
                let head = "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\n\
                            Upgrade: websocket\r\n\r\n";
                let _ = call.try_send(head.as_bytes());
                call.wait_gone();
            }
            _ => self.exchange(call),
        }
    }

    fn exchange(self: &Arc<Self>, call: &mut Call) {
        let id = call.asked.all("x-exchange").join(",");
        let Some((exchange, number)) = self.begin(&id, call) else {
            lock(&self.unknown).push(format!("{:?}", call.asked));
            return;
        };
        let timing = exchange.answer.timing;
        if timing == Timing::AtTheEnd && !self.read(call, &id, number) {
            return;
        }
        thread::sleep(Duration::from_millis(exchange.answer.pause_ms));
        if exchange.answer.stops_proxy {
            stop_for_a_moment(self.proxy.load(SeqCst));
        }
        // The agent may have gone, with or without its client.
        let answered = self.answer(call, &exchange, number);
        match timing {
            Timing::AtTheEnd => {}
            Timing::EarlyThenReads
                if answered.is_ok() && exchange.answer.ending == Ending::Whole =>
            {
                self.read(call, &id, number);
            }
            Timing::EarlyThenReads | Timing::EarlyThenCloses => thread::sleep(TIME_TO_READ),
        }
    }

    fn begin(&self, id: &str, call: &Call) -> Option<(Exchange, usize)> {
        let mut held = lock(&self.exchanges);
        let is_asked = |held: &&mut (Exchange, _)| held.0.method == call.asked.method;
        let (exchange, arrivals) = held.get_mut(id).filter(is_asked)?;
        let request = call.asked.all("x-request-id").join(",");
        let body = Received::Unread;
        arrivals.push(Arrival { began: now(), request, body, status_sent: None });
        Some((exchange.clone(), arrivals.len() - 1))
    }

    /// Reads the body and writes down what it is. Whether it is whole.
    fn read(&self, call: &mut Call, id: &str, number: usize) -> bool {
        let body = match call.body() {
            Ok((len, sha256)) => Received::Whole(len, sha256),
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                Received::Malformed(error.to_string())
            }
            Err(_) => Received::Broken,
        };
        let is_whole = matches!(body, Received::Whole(..));
        self.update(id, number, |arrival| arrival.body = body);
        is_whole
    }

    fn update(&self, id: &str, number: usize, change: impl FnOnce(&mut Arrival)) {
        // One that comes behind the end of its round is nobody's any more.
        let mut held = lock(&self.exchanges);
        if let Some(arrival) = held.get_mut(id).and_then(|held| held.1.get_mut(number)) {
            change(arrival);
        }
    }

    fn answer(&self, call: &mut Call, exchange: &Exchange, number: usize) -> io::Result<()> {
        let answer = &exchange.answer;
        let head = answer.head(&exchange.id);
        let part = match answer.ending {
            Ending::Nothing(how) => return broken(call, how),
            Ending::Silent => {
                call.wait_gone();
                return Ok(());
            }
            Ending::InHead(_) => &head[..head.len() / 2],
            Ending::AtHeadEnd(_) => &head[..head.len() - 2],
            _ => &head[..],
        };
        if answer.has_interim {
            call.try_send(b"HTTP/1.1 103 Early Hints\r\nLink: </style.css>\r\n\r\n")?;
        }
        let mut out = part.as_bytes().to_vec();
        let body = content(&exchange.id, answer.len);
        let parts = match answer.ending {
            Ending::InHead(how) | Ending::AtHeadEnd(how) => {
                call.try_send(&out)?;
                return broken(call, how);
            }
            Ending::BehindHead(_) => &body[..0],
            Ending::InBody(_) | Ending::Stalls => {
                &body[..answer.len.div_ceil(2).min(answer.len - 1)]
            }
            _ => &body[..],
        };
        let is_at_once = parts.len() < 2_000 && !answer.is_slow;
        if !is_at_once {
            call.try_send(&out)?;
            out.clear();
            self.update(&exchange.id, number, |arrival| arrival.status_sent = Some(now()));
        }
        let pieces = if answer.is_slow { 4 } else { 2 };
        for piece in parts.chunks(parts.len().div_ceil(pieces).max(1)) {
            if answer.framing == Framing::Chunked {
                out.extend_from_slice(format!("{:x}\r\n", piece.len()).as_bytes());
            }
            out.extend_from_slice(piece);
            if answer.framing == Framing::Chunked {
                out.extend_from_slice(b"\r\n");
            }
            if !is_at_once {
                call.try_send(&out)?;
                out.clear();
            }
            if answer.is_slow {
                thread::sleep(SLOW);
            }
        }
        if answer.framing == Framing::Chunked && answer.ending == Ending::Whole {
            out.extend_from_slice(b"0\r\n\r\n");
        }
        call.try_send(&out)?;
        if is_at_once {
            self.update(&exchange.id, number, |arrival| arrival.status_sent = Some(now()));
        }
        match answer.ending {
            Ending::BehindHead(how) | Ending::InBody(how) => broken(call, how),
            Ending::Stalls => {
                thread::sleep(Duration::from_secs(1));
                broken(call, Break { resets: true, waits: true })
            }
            _ => Ok(()),
        }
    }
}

/// Breaks the connection off; what is here does not end otherwise than by an error.
fn broken(call: &Call, how: Break) -> io::Result<()> {
    if how.waits {
        thread::sleep(TIME_TO_READ);
    }
    if how.resets {
        call.reset();
    }
    Err(io::ErrorKind::ConnectionAborted.into())
}

/// Has a process stand still for [`STOP`], beside whatever is done meanwhile: a long answer waits for it.
fn stop_for_a_moment(process: u32) {
    signal(process, Signal::STOP);
    thread::spawn(move || {
        thread::sleep(STOP);
        signal(process, Signal::CONT);
    });
}

/// Signals a process that may have ended.
fn signal(process: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(process).ok().and_then(Pid::from_raw) {
        let _ = kill_process(pid, signal);
    }
}

fn page() -> Vec<u8> {
    let page = format!("<!doctype html><script>{}</script>", include_str!("page.js"));
    let len = page.len();
    format!("HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: {len}\r\n\r\n{page}")
        .into_bytes()
}

/// Milliseconds since 1970, as the clients count them.
pub fn now() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    u64::try_from(now.as_millis()).unwrap()
}

pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How long the proxy stands still.
const STOP: Duration = Duration::from_millis(50);
/// Within which the agent has read what was sent.
const TIME_TO_READ: Duration = Duration::from_millis(30);
/// Between two pieces of a slow answer.
const SLOW: Duration = Duration::from_millis(20);
