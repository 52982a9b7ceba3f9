//! SPDY/3.1 of one tunnel as a machine without I/O: frames in, frames out, both roles.
//!
//! Bytes and time go in ([`Session::receive`], [`Session::handle_timeout`]); after any call that
//! takes `&mut self`, the caller drains [`Session::poll_event`], [`Session::poll_transmit`] and
//! [`Session::poll_timeout`]. It owns stream ids, both windows both ways, header compression,
//! budgets and liveness. It does not own the transport, a clock or a waker
//! (`tunnel` does). SPDY/3.1 section 2.
//!
//! The proxy is [`Side::Client`] although it accepted the TCP connection: a side is a SPDY role.
//!
//! Here are a session's commands; what is asked of it is in `queries`, what arrives in `receive`, what
//! leaves in `transmit`, who may send DATA in `turns`, how it ends in `ending`, and each state of its
//! own has a file (`output`, `liveness`, `flood`, `table`).

mod active;
mod config;
mod credit;
mod ending;
mod flood;
mod liveness;
mod output;
mod queries;
mod receive;
mod table;
mod transmit;
mod turns;
mod waits;

use std::{collections::VecDeque, fmt, io, sync::Arc, task::Poll, time::Instant};

use heapless::Deque;

use self::{
    active::Stream, flood::CheapFrames, liveness::Liveness, output::Output, receive::Input,
    table::Table, waits::Waits,
};
pub use self::{
    config::{Config, Counters, Direction, Event, OpenRefused, Profile, Side, Trace},
    table::Key,
};
use crate::{
    budget::Account,
    error::{Error, StreamError},
    frame::{self, Reason, Status, StreamId},
    headers::{Decoder, Encoder, Headers},
    limits::{
        FOREIGN_HEADER_BLOCK, INITIAL_WINDOW, PING_ANSWERS, RECENT_IDS, SESSION_WINDOW,
        STREAM_WINDOW_HEAD_START, STREAMS,
    },
    schedule::Schedule,
    stream::StreamState,
    window::Window,
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Streams may be opened.
    Open,
    /// GOAWAY was received: we open nothing more. Whoever sent it still may (SPDY/3.1 2.6.6).
    Left,
    /// GOAWAY was sent, nothing is opened by either side: what runs finishes.
    Draining,
    /// Nothing is received any more; what is queued may still be sent.
    Closed,
}

/// One session; see the module.
#[derive(Debug)]
pub struct Session {
    config: Config,
    profile: Profile,
    phase: Phase,
    error: Option<Error>,
    started: Instant,
    /// When anything was last received.
    last_seen: Instant,
    /// An Amahi proxy gave session credit: its last edition does, as its one habit of 3.1.
    session_credit_seen: bool,
    /// An Amahi peer still needs its pause between the 200 and the first SYN_STREAM.
    pausing: bool,

    table: Table<Stream>,
    /// Streams of the peer that were not accepted yet.
    opened: VecDeque<Key>,
    /// Streams that ended a moment ago.
    recent: Deque<StreamId, RECENT_IDS>,
    /// Next id that we open, 0 when they are used up.
    next_id: u32,
    /// Highest stream of the peer that was accepted.
    last_accepted: u32,
    /// Highest id of the peer seen at all.
    highest_seen: u32,
    /// Streams that the peer lets us have.
    peer_streams: usize,
    /// Initial window that the peer set for our DATA.
    peer_window: u32,

    encoder: Encoder,
    decoder: Decoder,
    input: Input,
    output: Output,
    schedule: Schedule<Key>,
    /// Octets of room that streams were promised and have not used.
    promised: usize,

    send_window: Window,
    received: SessionCredit,
    account: Account,

    liveness: Liveness,
    cheap: CheapFrames,
    bombs: u32,

    events: VecDeque<Event>,
    opener_waits: bool,
    /// The peer came to owe credit since [`Session::poll_owing`].
    owing: bool,
    ping_answers: Deque<u32, PING_ANSWERS>,
    resets: VecDeque<(u32, Status)>,
    credit_due: Vec<Key>,
    goaway: Option<Reason>,
    said_goaway: bool,
    /// SETTINGS and session credit are still to be sent.
    greeting: bool,
    data_received: u64,
    /// When the peer last moved a stream on: by SYN_REPLY, DATA or credit for it.
    moved: Instant,
    counters: Counters,
    waits: Waits,
    /// The last time that was put in.
    clock: Instant,
}

/// Our side of the session's receive window.
#[derive(Clone, Copy, Debug)]
struct SessionCredit {
    /// What the peer may send.
    window: Window,
    /// Octets received and not given back.
    unreturned: u32,
    /// When the first of them came.
    since: Option<Instant>,
    /// Size that the window is kept at.
    target: u32,
}

impl Session {
    /// A session at its start. A peer that keeps session windows is greeted with SETTINGS and
    /// session credit.
    #[must_use]
    pub fn new(config: Config, now: Instant) -> Self {
        let greeting = config.profile != Profile::Amahi;
        Self {
            profile: config.profile,
            phase: Phase::Open,
            error: None,
            started: now,
            last_seen: now,
            session_credit_seen: false,
            pausing: config.profile == Profile::Amahi,
            table: Table::new(config.streams.min(STREAMS)),
            opened: VecDeque::new(),
            recent: Deque::new(),
            next_id: if config.side == Side::Client { 1 } else { 2 },
            last_accepted: 0,
            highest_seen: 0,
            peer_streams: STREAMS,
            peer_window: INITIAL_WINDOW,
            encoder: Encoder::new(),
            decoder: Decoder::new(config.stored_only),
            input: Input::default(),
            output: Output::new(),
            schedule: Schedule::new(),
            promised: 0,
            send_window: Window::new(INITIAL_WINDOW),
            received: SessionCredit {
                window: Window::new(INITIAL_WINDOW),
                unreturned: 0,
                since: None,
                target: INITIAL_WINDOW,
            },
            account: Account::new(Arc::clone(&config.budget)),
            liveness: Liveness::new(now, config.side == Side::Client),
            cheap: CheapFrames::new(now),
            bombs: 0,
            events: VecDeque::new(),
            opener_waits: false,
            owing: false,
            ping_answers: Deque::new(),
            resets: VecDeque::new(),
            credit_due: Vec::new(),
            goaway: None,
            said_goaway: false,
            greeting,
            data_received: 0,
            moved: now,
            counters: Counters::default(),
            waits: Waits::default(),
            clock: now,
            config,
        }
    }

    /// Opens a stream with this list (see [`crate::head`]); `fin`: no body follows.
    ///
    /// # Errors
    /// [`OpenRefused`]; nothing was sent then.
    pub fn open(
        &mut self,
        headers: &Headers,
        priority: u8,
        fin: bool,
        now: Instant,
    ) -> Result<Key, OpenRefused> {
        if self.phase != Phase::Open || self.next_id == 0 {
            return Err(OpenRefused::Closed);
        }
        if self.profile != Profile::Ours && headers.encoded_len() + 32 > FOREIGN_HEADER_BLOCK {
            return Err(OpenRefused::TooLarge);
        }
        let ours = self.table.iter().filter(|(key, _)| self.is_ours(key.id)).count();
        let first_window = INITIAL_WINDOW as usize;
        let may_open = ours < self.peer_streams.min(self.config.streams)
            && !self.table.is_full()
            && !self.output.is_full()
            && self.amahi_may_open();
        if !may_open || !self.charge_first_window(now) {
            self.opener_waits = true;
            return Err(OpenRefused::Wait);
        }
        let Some(id) = StreamId::new(self.next_id) else { return Err(OpenRefused::Closed) };
        self.next_id = self.next_id.checked_add(2).filter(|id| *id <= frame::MAX_31).unwrap_or(0);
        self.liveness.on_request(now, &self.config.timings);
        // A stream that was reset frees its slot at the peer before this one needs it.
        self.encode_resets();

        let mut stream = Stream::new(StreamState::AwaitingReply { fin }, priority, now);
        stream.send_window = Window::new(self.peer_window);
        stream.charged = first_window;
        let block = self.encoder.encode(headers);
        self.send(&frame::Control::SynStream {
            stream: id.value(),
            associated: 0,
            priority,
            fin,
            unidirectional: false,
            block: &block,
        });
        let key = self.table.insert(id, stream);
        self.counters.streams_opened += 1;
        if self.config.grow && self.profile != Profile::Amahi {
            self.grow(key, INITIAL_WINDOW + STREAM_WINDOW_HEAD_START);
        }
        Ok(key)
    }

    /// The next stream that the peer opened, with its list.
    pub fn accept(&mut self) -> Option<(Key, Headers)> {
        while let Some(key) = self.opened.pop_front() {
            let head = self.table.get_mut(key).and_then(|stream| stream.head.take());
            if let Some(head) = head {
                return Some((key, head));
            }
        }
        None
    }

    /// Answers a stream of the peer; `fin`: no body follows. `Pending`: [`Event::Writable`] tells
    /// when to repeat it.
    pub fn reply(
        &mut self,
        key: Key,
        headers: &Headers,
        fin: bool,
    ) -> Poll<Result<(), StreamError>> {
        let full = self.output.is_full();
        let large =
            self.profile != Profile::Ours && headers.encoded_len() + 32 > FOREIGN_HEADER_BLOCK;
        let stream = match self.table.get_mut(key) {
            Some(stream) if stream.failure.is_none() => stream,
            other => return Poll::Ready(Err(other.map_or(StreamError::State, Stream::failed))),
        };
        if large {
            return Poll::Ready(Err(StreamError::State));
        }
        if full {
            // Ahead of DATA: a head is what somebody waits for.
            self.schedule.join(key, 0, 0);
            return Poll::Pending;
        }
        if let Err(error) = stream.state.on_reply_sent(fin) {
            return Poll::Ready(Err(error));
        }
        self.cheap.on_useful();
        let block = self.encoder.encode(headers);
        let stream = key.id.value();
        self.send(&frame::Control::SynReply { stream, fin, block: &block });
        self.settle(key);
        Poll::Ready(Ok(()))
    }

    /// Takes the reply's list, once (client side).
    pub fn take_head(&mut self, key: Key) -> Poll<Result<Headers, StreamError>> {
        let Some(stream) = self.table.get_mut(key) else {
            return Poll::Ready(Err(StreamError::State));
        };
        if let Some(head) = stream.head.take() {
            return Poll::Ready(Ok(head));
        }
        match stream.failure {
            Some(error) => Poll::Ready(Err(error)),
            None if stream.state.is_awaiting_reply() => Poll::Pending,
            None => Poll::Ready(Err(StreamError::State)),
        }
    }

    /// Copies received octets; 0 at the peer's FIN. `Pending`: [`Event::Readable`] tells when to
    /// repeat it.
    ///
    /// # Errors
    /// [`StreamError`].
    pub fn read(
        &mut self,
        key: Key,
        out: &mut [u8],
        now: Instant,
    ) -> Poll<Result<usize, StreamError>> {
        self.deliver(key, now, |inbox| {
            let count = inbox.read(out);
            (count > 0 || out.is_empty()).then_some((count, count))
        })
        .map_ok(Option::unwrap_or_default)
    }

    /// Takes received octets as they lie; `None` at the peer's FIN. `Pending`: as for `read`.
    ///
    /// # Errors
    /// [`StreamError`].
    pub fn take_chunk(
        &mut self,
        key: Key,
        now: Instant,
    ) -> Poll<Result<Option<Vec<u8>>, StreamError>> {
        self.deliver(key, now, |inbox| inbox.take().map(|chunk| (chunk.len(), chunk)))
    }

    /// Ends a stream with RST_STREAM, unless it has ended.
    pub fn reset(&mut self, key: Key, status: Status) {
        let Some(stream) = self.table.get_mut(key) else { return };
        if stream.state != StreamState::Closed {
            self.fail(key, StreamError::State);
            self.queue_reset(key.id.value(), status);
        }
    }

    /// The caller needs the stream no more: its slot is freed, and it is reset with CANCEL unless
    /// both directions are finished.
    pub fn release(&mut self, key: Key) {
        if let Some(stream) = self.table.get_mut(key) {
            stream.released = true;
            self.reset(key, Status::Cancel);
            self.settle(key);
        }
    }

    /// Asks the peer to find another session in its own time: GOAWAY goes out, and we open streams
    /// as before. Only a peer of our own understands it so; others are not told yet.
    pub fn leave(&mut self) {
        if self.phase == Phase::Open && self.profile == Profile::Ours {
            self.say_goaway(Reason::Ok);
        }
    }

    /// Asks for an orderly end: GOAWAY goes out, what runs finishes.
    pub fn drain(&mut self) {
        if matches!(self.phase, Phase::Open | Phase::Left) {
            self.phase = Phase::Draining;
            self.say_goaway(Reason::Ok);
            self.events.push_back(Event::Closing);
            self.check_drained();
        }
    }

    /// Asks the peer for a sign of life now, and not only after a silence: for who learnt that the
    /// way to it may have changed. Silence for [`crate::limits::Timings::ping_answer`] is the end.
    pub fn check(&mut self, now: Instant) {
        if self.phase != Phase::Closed {
            self.liveness.check(now);
        }
    }

    /// Ends the session now: GOAWAY with this reason, and every stream fails.
    pub fn close(&mut self, reason: Reason) {
        if self.phase != Phase::Closed {
            self.say_goaway(reason);
            self.end(None);
        }
    }

    fn say_goaway(&mut self, reason: Reason) {
        // Once, but for a reason that tells more than the first.
        if !self.said_goaway || reason != Reason::Ok {
            self.goaway = self.goaway.or(Some(reason));
        }
        self.said_goaway = true;
    }

    /// The transport failed or ended; nothing can be sent any more.
    pub fn transport_ended(&mut self, kind: io::ErrorKind) {
        if self.phase == Phase::Closed {
            return;
        }
        let was_told = matches!(self.phase, Phase::Left | Phase::Draining);
        let by_agreement = was_told && self.table.is_empty();
        self.end((!by_agreement).then_some(Error::Transport(kind)));
    }

    fn trace(&self, direction: Direction, frame: fmt::Arguments<'_>) {
        if let Some(trace) = &self.config.trace {
            trace.show(direction, frame);
        }
    }

    /// Adds a control frame to the output.
    fn send(&mut self, frame: &frame::Control<'_>) {
        self.trace(Direction::Sent, format_args!("{frame}"));
        self.output.control(frame);
    }

    fn is_ours(&self, id: StreamId) -> bool {
        id.is_odd() == (self.config.side == Side::Client)
    }

    /// An Amahi agent mixes up streams that are opened together, and loses what comes right
    /// behind the 200.
    fn amahi_may_open(&self) -> bool {
        self.profile != Profile::Amahi
            || !self.pausing
                && !self.table.iter().any(|(_, stream)| stream.state.is_awaiting_reply())
    }

    fn wake_opener(&mut self) {
        if std::mem::take(&mut self.opener_waits) {
            self.events.push_back(Event::Room);
        }
    }

    fn notify_writable(&mut self, key: Key) {
        if let Some(stream) = self.table.get_mut(key)
            && !std::mem::replace(&mut stream.writable, true)
        {
            self.events.push_back(Event::Writable(key));
        }
    }

    fn notify_readable(&mut self, key: Key) {
        if let Some(stream) = self.table.get_mut(key)
            && !std::mem::replace(&mut stream.readable, true)
        {
            self.events.push_back(Event::Readable(key));
        }
    }

    fn queue_reset(&mut self, stream: u32, status: Status) {
        self.counters.resets_sent += 1;
        self.resets.push_back((stream, status));
    }
}

/// Target of the session's receive window towards a peer that keeps one.
const SESSION_TARGET: u32 = SESSION_WINDOW;
