//! What arrives at a session: the parser that takes octets in any split, and the handling of each
//! frame (SPDY/3.1 2.2, 2.3, 2.6; docs/protocol.md has the table of violations).

use std::time::Instant;

use super::{
    Direction, Event, Key, Phase, Profile, Session, Side, active::Stream, ending::status_of,
};
use crate::{
    error::{Error, PeerFault, StreamError, StreamFault},
    frame::{self, Control, HEADER, Header, Reason, SettingsEntries, Status, StreamId},
    headers::{BlockError, Headers},
    limits::{
        AMAHI_UPLOAD_OVERRUN, BOMBS, CONTROL_FRAME, INITIAL_WINDOW, OVERRUN_SLACK, TINY_CREDIT,
    },
    stream::StreamState,
};

/// Where the parser stands.
#[derive(Debug)]
pub(super) enum Input {
    /// In a frame header.
    Header([u8; HEADER], usize),
    /// In the payload of DATA: its stream unless it is dropped, FIN, octets left.
    Data(Option<Key>, bool, usize),
    /// In a control frame that did not come whole: its header, its octets so far.
    Control(Head, Vec<u8>),
    /// In a control frame of a type that is skipped: octets left.
    Skip(usize),
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Head {
    version: u16,
    kind: u16,
    flags: u8,
    len: usize,
}

impl Default for Input {
    fn default() -> Self {
        Self::Header([0; HEADER], 0)
    }
}

impl Session {
    /// Takes octets from the transport, in any split.
    ///
    /// # Errors
    /// [`Error::Peer`]: the session has ended, GOAWAY waits in [`Session::poll_transmit`].
    pub fn receive(&mut self, mut octets: &[u8], now: Instant) -> Result<(), Error> {
        if octets.is_empty() {
            return Ok(());
        }
        self.counters.octets_received += octets.len() as u64;
        self.liveness.on_received(now);
        (self.last_seen, self.clock) = (now, now);
        while !octets.is_empty() && self.phase != Phase::Closed {
            if let Err(fault) = self.step(&mut octets, now) {
                let error = Error::Peer(fault);
                self.goaway = Some(Reason::ProtocolError);
                self.end(Some(error.clone()));
                return Err(error);
            }
        }
        Ok(())
    }

    /// Takes one piece: a header, a payload, or what there is of one.
    fn step(&mut self, octets: &mut &[u8], now: Instant) -> Result<(), PeerFault> {
        match &mut self.input {
            Input::Header(held, len) => {
                let piece = take(octets, HEADER - *len);
                held[*len..*len + piece.len()].copy_from_slice(piece);
                *len += piece.len();
                if *len == HEADER {
                    let header = Header::parse(*held);
                    self.input = Input::default();
                    self.on_header(header, octets, now)?;
                }
            }
            Input::Data(key, fin, left) => {
                let (key, fin) = (*key, *fin);
                let piece = take(octets, *left);
                *left -= piece.len();
                let left = *left;
                if left == 0 {
                    self.input = Input::default();
                }
                self.on_data(key, piece, fin, left, now);
            }
            Input::Control(head, held) => {
                held.extend_from_slice(take(octets, head.len - held.len()));
                if held.len() == head.len {
                    let (head, held) = (*head, std::mem::take(held));
                    self.input = Input::default();
                    self.on_control(head, &held, now)?;
                }
            }
            Input::Skip(left) => {
                *left -= take(octets, *left).len();
                if *left == 0 {
                    self.input = Input::default();
                }
            }
        }
        Ok(())
    }

    fn on_header(
        &mut self,
        header: Header,
        octets: &mut &[u8],
        now: Instant,
    ) -> Result<(), PeerFault> {
        match header {
            Header::Data { stream, fin, len } => {
                let flag = if fin { " fin" } else { "" };
                self.trace(
                    Direction::Received,
                    format_args!("DATA stream={stream}{flag} len={len}"),
                );
                let key = self.on_data_header(stream, fin, len, now)?;
                if len == 0 {
                    self.on_data(key, &[], fin, 0, now);
                } else {
                    self.input = Input::Data(key, fin, len);
                }
            }
            Header::Control { version, kind, flags, len } => {
                let known = (frame::SYN_STREAM..=frame::WINDOW_UPDATE).contains(&kind);
                if !known || kind == frame::NOOP {
                    self.cheap.on_cheap(now)?;
                    if len > 0 {
                        self.input = Input::Skip(len);
                    }
                } else if len > CONTROL_FRAME {
                    // DEVIATION: an oversized control frame ends the session without RST_STREAM.
                    // Its block stays unread, so nothing could follow.
                    return Err(PeerFault::ControlFrameTooLarge { len });
                } else {
                    let head = Head { version, kind, flags, len };
                    if octets.len() < len {
                        self.input = Input::Control(head, Vec::new());
                    } else {
                        let payload = take(octets, len);
                        self.on_control(head, payload, now)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// The header of a DATA frame: its credit is taken at once, whatever becomes of the payload.
    fn on_data_header(
        &mut self,
        stream: u32,
        fin: bool,
        len: usize,
        now: Instant,
    ) -> Result<Option<Key>, PeerFault> {
        // DEVIATION: overruns of foreign peers are tolerated. See limits.rs for how far.
        let slack = match self.profile {
            Profile::Ours => Some(0),
            Profile::Plain31 => Some(i64::from(OVERRUN_SLACK)),
            Profile::Amahi => None,
        };
        self.received.window.consume(len);
        if slack.is_some_and(|slack| self.received.window.value() < -slack) {
            return Err(PeerFault::SessionOverrun);
        }
        if len == 0 && !fin {
            self.cheap.on_cheap(now)?;
        }
        let Some(key) = self.find_active(stream, now)? else { return Ok(None) };
        let Some(stream) = self.table.get_mut(key) else { return Ok(None) };
        // FIN takes effect with the last octet.
        let mut state = stream.state;
        if let Err(fault) = state.on_data_received(fin) {
            self.violated(key, fault);
            return Ok(None);
        }
        stream.receive_window.consume(len);
        let slack = slack.unwrap_or(i64::from(AMAHI_UPLOAD_OVERRUN));
        if stream.receive_window.value() < -slack {
            self.violated(key, StreamFault::Overrun);
            return Ok(None);
        }
        Ok(Some(key))
    }

    fn on_data(&mut self, key: Option<Key>, octets: &[u8], fin: bool, left: usize, now: Instant) {
        // Session credit returns on receipt, for dropped DATA too; otherwise one paused viewer
        // stops every other stream.
        let len = u32::try_from(octets.len()).unwrap_or(u32::MAX);
        self.received.unreturned = self.received.unreturned.saturating_add(len);
        if len > 0 {
            self.received.since = self.received.since.or(Some(now));
            self.data_received += u64::from(len);
        }
        let Some(key) = key else { return };
        let Some(stream) = self.table.get_mut(key) else { return };
        if stream.failure.is_some() {
            return;
        }
        self.moved = now;
        if !octets.is_empty() {
            stream.inbox.push(octets, left);
            stream.unread_since = stream.unread_since.or(Some(now));
            // Only what a foreign peer sent beyond its window is not charged yet.
            let more = stream.holds().saturating_sub(stream.charged);
            if more > 0 {
                if !self.account.try_open(more) {
                    self.violated(key, StreamFault::Overrun);
                    return;
                }
                stream.charged += more;
            }
        }
        if fin && left == 0 {
            let ended = stream.state.on_data_received(true);
            debug_assert!(ended.is_ok(), "on_data_header() checked it");
        }
        self.notify_readable(key);
        self.settle(key);
    }

    fn on_control(&mut self, head: Head, payload: &[u8], now: Instant) -> Result<(), PeerFault> {
        let control = Control::parse(head.kind, head.flags, payload)?;
        self.trace(Direction::Received, format_args!("{control}"));
        if head.version != frame::VERSION {
            return self.on_other_version(control, now);
        }
        match control {
            Control::SynStream { stream, priority, fin, unidirectional, block, .. } => {
                let headers = self.decode(block)?;
                self.on_syn_stream(stream, priority, fin, unidirectional, headers, now)
            }
            Control::SynReply { stream, fin, block } => {
                let headers = self.decode(block)?;
                self.on_syn_reply(stream, fin, headers, now)
            }
            Control::Headers { stream, fin, block } => {
                let headers = self.decode(block)?;
                self.on_headers(stream, fin, headers, now)
            }
            Control::RstStream { stream, status } => self.on_reset(stream, status, now),
            Control::Settings(entries) => self.on_settings(entries, now),
            Control::Ping(id) => self.on_ping(id, now),
            Control::GoAway { last_good, .. } => {
                self.on_go_away(last_good);
                Ok(())
            }
            Control::WindowUpdate { stream, delta } => self.on_window_update(stream, delta, now),
            Control::Skipped(_) => Ok(()),
        }
    }

    /// Frames of another version are ignored, but their header blocks belong to the context; a
    /// SYN_STREAM is answered (SPDY/3.1 2.2.1).
    fn on_other_version(&mut self, control: Control<'_>, now: Instant) -> Result<(), PeerFault> {
        self.cheap.on_cheap(now)?;
        match control {
            Control::SynStream { stream, block, .. } => {
                let _ = self.decode(block)?;
                if let Some(id) = StreamId::new(stream) {
                    self.remember(id);
                    self.queue_reset(stream, status_of(StreamFault::Version));
                }
            }
            Control::SynReply { block, .. } | Control::Headers { block, .. } => {
                let _ = self.decode(block)?;
            }
            _ => {}
        }
        Ok(())
    }

    /// Reads a header block in wire order, whatever becomes of its stream.
    fn decode(&mut self, block: &[u8]) -> Result<Result<Headers, StreamFault>, PeerFault> {
        match self.decoder.decode(block) {
            Ok(headers) => Ok(Ok(headers)),
            Err(BlockError::Session(fault)) => Err(fault),
            Err(BlockError::Stream(fault)) => {
                if fault == StreamFault::HeaderTooLarge {
                    self.bombs += 1;
                    if self.bombs > BOMBS {
                        return Err(PeerFault::HeaderBombs);
                    }
                }
                Ok(Err(fault))
            }
        }
    }

    fn on_syn_stream(
        &mut self,
        number: u32,
        priority: u8,
        fin: bool,
        unidirectional: bool,
        headers: Result<Headers, StreamFault>,
        now: Instant,
    ) -> Result<(), PeerFault> {
        let id = StreamId::new(number).ok_or(PeerFault::StreamIdZero)?;
        if self.is_ours(id) {
            return Err(PeerFault::StreamIdParity(number));
        }
        if self.phase == Phase::Draining && number > self.last_accepted {
            // Behind our GOAWAY (SPDY/3.1 2.6.6).
            return self.cheap.on_cheap(now);
        }
        if let Some(key) = self.table.find(id) {
            self.violated(key, StreamFault::IdInUse);
            return self.cheap.on_cheap(now);
        }
        if self.is_recent(id) {
            self.queue_reset(number, status_of(StreamFault::IdInUse));
            return self.cheap.on_cheap(now);
        }
        // DEVIATION: ids of an Amahi peer may come in any order. It opens streams concurrently.
        if number <= self.highest_seen && self.profile != Profile::Amahi {
            return Err(PeerFault::StreamIdNotIncreasing(number));
        }
        self.highest_seen = self.highest_seen.max(number);
        let refused = if self.config.side == Side::Client {
            Some(StreamFault::Push)
        // DEVIATION: unidirectional requests are refused. Nobody could be answered.
        } else if unidirectional || self.table.is_full() || !fin && self.uploads_are_full() {
            Some(StreamFault::TooManyStreams)
        } else {
            None
        };
        let first_window = if fin { 0 } else { INITIAL_WINDOW as usize };
        let headers = match (refused, headers) {
            (None, Ok(headers)) if self.account.try_open(first_window) => headers,
            (None, Ok(_)) => return self.refuse(id, StreamFault::TooManyStreams, now),
            (Some(fault), _) | (None, Err(fault)) => return self.refuse(id, fault, now),
        };
        let mut stream = Stream::new(StreamState::Unreplied { fin }, priority, now);
        stream.charged = first_window;
        stream.send_window = super::Window::new(self.peer_window);
        stream.head = Some(headers);
        stream.is_head_only = fin;
        let key = self.table.insert(id, stream);
        self.last_accepted = self.last_accepted.max(number);
        self.counters.streams_opened += 1;
        self.opened.push_back(key);
        self.events.push_back(Event::Opened);
        Ok(())
    }

    fn refuse(&mut self, id: StreamId, fault: StreamFault, now: Instant) -> Result<(), PeerFault> {
        self.remember(id);
        self.queue_reset(id.value(), status_of(fault));
        self.cheap.on_cheap(now)
    }

    fn uploads_are_full(&self) -> bool {
        let uploading =
            |stream: &Stream| stream.state.can_receive() && !stream.state.is_awaiting_reply();
        self.table.iter().filter(|(_, stream)| uploading(stream)).count() >= self.config.uploads
    }

    fn on_syn_reply(
        &mut self,
        stream: u32,
        fin: bool,
        headers: Result<Headers, StreamFault>,
        now: Instant,
    ) -> Result<(), PeerFault> {
        let Some(key) = self.find_active(stream, now)? else { return Ok(()) };
        let Some(stream) = self.table.get_mut(key) else { return Ok(()) };
        let replied = stream.state.on_reply_received(fin).and(headers);
        match replied {
            Ok(headers) => {
                self.moved = now;
                stream.head = Some(headers);
                self.notify_readable(key);
                self.settle(key);
                // An Amahi peer gets one request at a time.
                self.wake_opener();
            }
            Err(fault) => self.violated(key, fault),
        }
        Ok(())
    }

    /// DEVIATION: trailers are ignored. They are read for the context, and their FIN counts.
    fn on_headers(
        &mut self,
        stream: u32,
        fin: bool,
        headers: Result<Headers, StreamFault>,
        now: Instant,
    ) -> Result<(), PeerFault> {
        self.cheap.on_cheap(now)?;
        let Some(key) = self.find_active(stream, now)? else { return Ok(()) };
        let Some(stream) = self.table.get_mut(key) else { return Ok(()) };
        match headers.and_then(|_| stream.state.on_data_received(fin)) {
            Ok(()) => {
                self.notify_readable(key);
                self.settle(key);
            }
            Err(fault) => self.violated(key, fault),
        }
        Ok(())
    }

    fn on_reset(&mut self, number: u32, status: u32, now: Instant) -> Result<(), PeerFault> {
        self.counters.resets_received += 1;
        // RST is never answered with RST (SPDY/3.1 2.4.2).
        let Some(key) = StreamId::new(number).and_then(|id| self.table.find(id)) else {
            return self.cheap.on_cheap(now);
        };
        let Some(stream) = self.table.get_mut(key) else { return Ok(()) };
        if matches!(stream.state, StreamState::Unreplied { .. }) {
            // "Rapid reset": opening and resetting costs us more than the peer.
            self.cheap.on_cheap(now)?;
        }
        if status == Status::RefusedStream as u32 {
            self.fail(key, StreamError::Refused);
        } else {
            self.fail(key, StreamError::Reset(status));
        }
        Ok(())
    }

    fn on_settings(&mut self, entries: SettingsEntries<'_>, now: Instant) -> Result<(), PeerFault> {
        self.cheap.on_cheap(now)?;
        self.become_plain31();
        if let Some(streams) = entries.first(frame::SETTINGS_MAX_CONCURRENT_STREAMS) {
            self.peer_streams = usize::try_from(streams).unwrap_or(usize::MAX);
            self.wake_opener();
        }
        let window = entries.first(frame::SETTINGS_INITIAL_WINDOW_SIZE);
        if let Some(window) = window.filter(|window| *window <= frame::MAX_31) {
            let change = i64::from(window) - i64::from(self.peer_window);
            self.peer_window = window;
            for key in self.table.keys() {
                let Some(stream) = self.table.get_mut(key) else { continue };
                if stream.send_window.shift(change).is_err() {
                    self.violated(key, StreamFault::WindowOverflow);
                }
            }
            self.wake_writers();
        }
        Ok(())
    }

    fn on_ping(&mut self, id: u32, now: Instant) -> Result<(), PeerFault> {
        let ours = (id % 2 == 1) == (self.config.side == Side::Client);
        if ours && self.liveness.on_answer(id, now) {
            return Ok(());
        }
        self.cheap.on_cheap(now)?;
        if ours {
            return Ok(());
        }
        self.ping_answers.push_back(id).map_err(|_| PeerFault::PingFlood)
    }

    fn on_go_away(&mut self, last_good: u32) {
        self.become_plain31();
        if self.phase == Phase::Open {
            self.phase = Phase::Left;
            self.events.push_back(Event::Closing);
            self.wake_opener();
        }
        for key in self.table.keys() {
            if self.is_ours(key.id) && key.id.value() > last_good {
                self.fail(key, StreamError::Refused);
            }
        }
        self.check_drained();
    }

    fn on_window_update(&mut self, stream: u32, delta: u32, now: Instant) -> Result<(), PeerFault> {
        if delta < TINY_CREDIT {
            self.cheap.on_cheap(now)?;
        }
        if stream == 0 {
            // The last edition of Amahi's proxy gives session credit too, and stays what it is: ids
            // out of order, uploads past every window, death by GOAWAY.
            match self.config.side {
                Side::Client => self.become_plain31(),
                Side::Server => self.session_credit_seen = true,
            }
            self.send_window.replenish(delta).map_err(|_| PeerFault::SessionWindowOverflow)?;
            self.wake_writers();
            return Ok(());
        }
        let Some(key) = StreamId::new(stream).and_then(|id| self.table.find(id)) else {
            // For a stream that has ended there is nothing to do (SPDY/3.1 2.6.8).
            return self.cheap.on_cheap(now);
        };
        let Some(stream) = self.table.get_mut(key) else { return Ok(()) };
        if stream.failure.is_some() {
            return self.cheap.on_cheap(now);
        }
        if stream.send_window.replenish(delta).is_err() {
            self.violated(key, StreamFault::WindowOverflow);
            return Ok(());
        }
        stream.acknowledge(delta);
        self.moved = now;
        self.wake_writer(key);
        Ok(())
    }

    /// The stream that a frame is for. A stranger is answered once with RST_STREAM; what ended a
    /// moment ago, or lies behind our GOAWAY, is dropped in silence.
    fn find_active(&mut self, number: u32, now: Instant) -> Result<Option<Key>, PeerFault> {
        let Some(id) = StreamId::new(number) else {
            self.cheap.on_cheap(now)?;
            return Ok(None);
        };
        if let Some(key) = self.table.find(id) {
            let failed = self.table.get(key).is_some_and(|stream| stream.failure.is_some());
            return Ok((!failed).then_some(key));
        }
        if self.is_recent(id) || self.phase == Phase::Draining && !self.is_ours(id) {
            return Ok(None);
        }
        self.refuse(id, StreamFault::NotActive, now)?;
        Ok(None)
    }

    fn is_recent(&self, id: StreamId) -> bool {
        self.recent.iter().any(|recent| *recent == id)
    }

    /// The peer broke the rules of a stream: it ends, and the peer is told.
    fn violated(&mut self, key: Key, fault: StreamFault) {
        // One that has failed already, and waits for its caller to let go, was told why.
        if self.table.get(key).is_none_or(|stream| stream.failure.is_some()) {
            return;
        }
        self.fail(key, StreamError::Violation(fault));
        self.queue_reset(key.id.value(), status_of(fault));
    }
}

fn take<'a>(octets: &mut &'a [u8], limit: usize) -> &'a [u8] {
    let (piece, rest) = octets.split_at(octets.len().min(limit));
    *octets = rest;
    piece
}
