//! The bodies of the fuzz targets: what must hold for any input at all.
//!
//! They depend on `spdy-protocol` alone, so that `fuzz/` can take this file as it is; the corpus is
//! replayed through the same functions by `tests/tests/corpus.rs`. A body panics when something
//! does not hold. It knows no clock: time is part of the input.

use std::{
    io,
    sync::Arc,
    task::Poll,
    time::{Duration, Instant},
};

use spdy_protocol::{
    budget::Budget,
    frame::{self, Control, Header, Reason, Status, StreamId},
    handshake::{Answer, Put},
    head::{RequestHead, ResponseHead},
    headers::{BlockError, Decoder, Encoder, Headers},
    limits::{
        CONTROL_FRAME, HEADER_BLOCK, HEADER_NAME, HEADER_PAIRS, HEADER_VALUE, OUTPUT,
        PROCESS_BUDGET, STREAMS, TUNNEL_BUDGET,
    },
    session::{Config, Event, Key, Profile, Session, Side},
};

/// A frame that is read can be written, and reads the same again.
///
/// # Panics
/// When it does not.
pub fn frame(octets: &[u8]) {
    let Some((first, payload)) = octets.split_first_chunk() else { return };
    match Header::parse(*first) {
        Header::Data { stream, fin, len } => {
            if let Some(id) = StreamId::new(stream) {
                let header = frame::data_header(id, fin, len);
                assert_eq!(Header::parse(header), Header::Data { stream, fin, len });
            }
        }
        Header::Control { kind, flags, len, .. } => {
            let payload = &payload[..payload.len().min(len)];
            let Ok(control) = Control::parse(kind, flags, payload) else { return };
            let mut written = Vec::new();
            control.encode(&mut written);
            let (first, payload) = written.split_first_chunk().expect("a frame has a header");
            let Header::Control { version, kind: again, flags, len } = Header::parse(*first) else {
                panic!("a control frame was written as DATA");
            };
            assert_eq!((version, again, len), (frame::VERSION, kind, payload.len()));
            assert_eq!(Control::parse(kind, flags, payload), Ok(control));
        }
    }
}

/// Header blocks of one session: what is read is within the limits, can be written, and reads the
/// same again.
///
/// Input: an octet (odd: stored blocks only), then blocks, each behind its length in two octets.
///
/// # Panics
/// When it does not.
pub fn headers(octets: &[u8]) {
    let mut input = Input(octets);
    let stored_only = input.octet() % 2 == 1;
    let mut decoder = Decoder::new(stored_only);
    let (mut encoder, mut again) = (Encoder::new(), Decoder::new(true));
    while !input.0.is_empty() {
        let len = usize::from(input.word());
        let block = input.take(len);
        let list = match decoder.decode(block) {
            Ok(list) => list,
            Err(BlockError::Stream(_)) => continue,
            Err(BlockError::Session(_)) => return,
        };
        assert!(list.len() <= HEADER_PAIRS && list.encoded_len() <= HEADER_BLOCK);
        for (name, value) in list.iter() {
            assert!(!name.is_empty() && name.len() <= HEADER_NAME && value.len() <= HEADER_VALUE);
        }
        assert_eq!(again.decode(&encoder.encode(&list)), Ok(list.clone()));
        // A head that is read can be sent on, and then reads the same.
        if let Ok(head) = RequestHead::from_headers(list.clone()) {
            let sent = head.to_headers().expect("a head that was received can be sent");
            assert_eq!(RequestHead::from_headers(sent), Ok(head));
        }
        if let Ok(head) = ResponseHead::from_headers(list) {
            let sent = head.to_headers().expect("a head that was received can be sent");
            assert_eq!(ResponseHead::from_headers(sent), Ok(head));
        }
    }
}

/// Both messages of the handshake: the octets used are those of the message, more octets behind it
/// change nothing, and what was read can be written and read again.
///
/// Input: where to cut (two octets), then the message.
///
/// # Panics
/// When it does not.
pub fn handshake(octets: &[u8]) {
    let mut input = Input(octets);
    let cut = usize::from(input.word());
    let message = input.0;
    let early = &message[..cut.min(message.len())];

    let put = Put::parse(message);
    if let Ok(Some((_, used))) = &put {
        assert!(*used <= message.len());
        assert_eq!(Put::parse(&message[..*used]), put);
    }
    match Put::parse(early) {
        Ok(Some(_)) => assert_eq!(Put::parse(early), put),
        // More octets may be an error, but an error never becomes a message.
        Ok(None) => {}
        Err(_) => assert!(put.is_err()),
    }
    if let Ok(Some((put, _))) = put {
        let written = put.encode();
        let (again, used) = Put::parse(&written).ok().flatten().expect("a PUT that was read");
        assert_eq!(used, written.len());
        assert_eq!((&again.hello, &again.credentials), (&put.hello, &put.credentials));
    }

    let answer = Answer::parse(message);
    if let Ok(Some((_, used))) = &answer {
        assert!(*used <= message.len());
        assert_eq!(Answer::parse(&message[..*used]), answer);
    }
    match Answer::parse(early) {
        Ok(Some(_)) => assert_eq!(Answer::parse(early), answer),
        Ok(None) => {}
        Err(_) => assert!(answer.is_err()),
    }
    if let Ok(Some((Answer::Established(welcome), _))) = answer {
        let written = Answer::Established(welcome.clone()).encode();
        let again = Answer::parse(&written);
        assert_eq!(again, Ok(Some((Answer::Established(welcome), written.len()))));
    }
}

/// A session under anything a peer may send and anything its own driver may ask for: its memory
/// stays bounded, its deadlines move on, and when all is released nothing is left.
///
/// Input: an octet for side and profile, then operations (see `Driven::operate`).
///
/// # Panics
/// When it does not.
pub fn session(octets: &[u8]) {
    let mut input = Input(octets);
    let kind = input.octet();
    let side = if kind & 1 == 0 { Side::Client } else { Side::Server };
    let profile = match kind >> 1 & 3 {
        0 => Profile::Plain31,
        1 => Profile::Amahi,
        _ => Profile::Ours,
    };
    let budget = Arc::new(Budget::new(PROCESS_BUDGET));
    let mut config = Config::new(side, profile, Arc::clone(&budget));
    config.stored_only = kind & 8 != 0;
    if kind & 16 != 0 {
        config.streams = 4;
        config.uploads = 2;
    }
    let now = Instant::now();
    let mut driven = Driven {
        session: Session::new(config, now),
        side,
        now,
        keys: Vec::new(),
        encoder: Encoder::new(),
        accepted: 0,
    };
    let mut steps = 0;
    while !input.0.is_empty() && steps < STEPS {
        driven.operate(&mut input);
        driven.check();
        steps += 1;
    }
    driven.end(&budget);
}

/// A session and what its driver would hold.
struct Driven {
    session: Session,
    side: Side,
    now: Instant,
    keys: Vec<Key>,
    /// The peer's: frames that are built here have header blocks that can be read.
    encoder: Encoder,
    accepted: u64,
}

impl Driven {
    fn operate(&mut self, input: &mut Input<'_>) {
        let operation = input.octet();
        match operation % 24 {
            0..8 => {
                // Raw octets, in pieces of a size that the input chooses.
                let len = usize::from(input.word());
                let octets = input.take(len);
                let size = usize::from(operation).max(1);
                octets.chunks(size).for_each(|piece| self.receive(piece));
            }
            8..14 => {
                let mut frame = Vec::new();
                self.build(input, &mut frame);
                let middle = usize::from(operation) % (frame.len() + 1);
                self.receive(&frame[..middle]);
                self.receive(&frame[middle..]);
            }
            14 => self.pass(Duration::from_millis(u64::from(input.word()))),
            15 => {
                let head = RequestHead::get("/file").to_headers().expect("a plain GET");
                let (priority, fin) = (input.octet() % 8, !input.octet().is_multiple_of(4));
                if let Ok(key) = self.session.open(&head, priority, fin, self.now) {
                    self.keys.push(key);
                }
            }
            16 => {
                let head = ResponseHead::new(200).to_headers().expect("a plain 200");
                if let Some(key) = self.key(input) {
                    let _ = self.session.reply(key, &head, input.octet().is_multiple_of(4));
                }
            }
            17 => self.write(input),
            18 => {
                if let Some(key) = self.key(input) {
                    let _ = self.session.finish(key);
                }
            }
            19 => self.read(input),
            20 => {
                if let Some(key) = self.key(input) {
                    self.session.reset(key, Status::InternalError);
                }
            }
            21 => {
                if let Some(key) = self.key(input) {
                    self.session.release(key);
                    self.keys.retain(|held| *held != key);
                }
            }
            22 => {
                let octets = self.session.poll_transmit(self.now).len();
                self.session.transmitted(octets.min(usize::from(input.word())));
            }
            _ => match input.octet() {
                0 => self.session.drain(),
                1 => self.session.close(Reason::InternalError),
                2 => self.session.transport_ended(io::ErrorKind::ConnectionReset),
                _ => {}
            },
        }
    }

    fn receive(&mut self, octets: &[u8]) {
        let was_closed = self.session.is_closed();
        if self.session.receive(octets, self.now).is_err() {
            assert!(self.session.is_closed() && !was_closed && self.session.error().is_some());
        }
        self.events();
    }

    /// A frame that gets past the first checks more often than chance would.
    fn build(&mut self, input: &mut Input<'_>, out: &mut Vec<u8>) {
        let kind = input.octet();
        let number = u32::from(input.octet() % 32);
        let fin = input.octet().is_multiple_of(4);
        match kind % 8 {
            0 | 1 => {
                let Some(id) = StreamId::new(number) else { return };
                let len = usize::from(input.word() % 4_096);
                out.extend_from_slice(&frame::data_header(id, fin, len));
                out.resize(out.len() + len, kind);
            }
            2 | 3 => {
                let list = match self.side {
                    Side::Server => RequestHead::get("/a").to_headers().ok(),
                    Side::Client => ResponseHead::new(200).to_headers().ok(),
                };
                let block = self.encoder.encode(&list.unwrap_or_else(Headers::new));
                let block = &block[..];
                let control = match (kind % 8, self.side) {
                    (2, Side::Client) => Control::SynReply { stream: number, fin, block },
                    (3, _) if kind >= 128 => Control::Headers { stream: number, fin, block },
                    _ => Control::SynStream {
                        stream: number,
                        associated: 0,
                        priority: kind >> 5,
                        fin,
                        unidirectional: kind & 16 != 0,
                        block,
                    },
                };
                control.encode(out);
            }
            4 => {
                let delta = u32::from(input.word()) << (input.octet() % 16);
                Control::WindowUpdate { stream: number, delta }.encode(out);
            }
            5 => {
                let entries = [(u32::from(input.octet() % 9), u32::from(input.word()) << 8)];
                frame::encode_settings(&entries, out);
            }
            6 => {
                let status = u32::from(input.octet() % 13);
                if fin {
                    Control::GoAway { last_good: number, reason: status }.encode(out);
                } else {
                    Control::RstStream { stream: number, status }.encode(out);
                }
            }
            _ => Control::Ping(number).encode(out),
        }
    }

    fn write(&mut self, input: &mut Input<'_>) {
        let Some(key) = self.key(input) else { return };
        let max = usize::from(input.word());
        let (end, how) = (input.octet().is_multiple_of(4), input.octet());
        let mut offered = 0;
        let written = self.session.write_with(key, max, end, |room| {
            offered = room.len();
            match how % 8 {
                0 => Err(io::ErrorKind::Other.into()),
                1 => Ok(0),
                2 => Ok(room.len() / 2),
                _ => {
                    room.fill(how);
                    Ok(room.len())
                }
            }
        });
        assert!(offered <= max);
        if let Poll::Ready(Ok(count)) = written {
            assert!(count <= offered);
        }
    }

    fn read(&mut self, input: &mut Input<'_>) {
        let Some(key) = self.key(input) else { return };
        match input.octet() % 3 {
            0 => drop(self.session.take_head(key)),
            1 => {
                if let Poll::Ready(Ok(Some(chunk))) = self.session.take_chunk(key, self.now) {
                    assert!(!chunk.is_empty() && chunk.len() <= OUTPUT);
                }
            }
            _ => {
                let mut buf = [0; 257];
                let _ = self.session.read(key, &mut buf, self.now);
            }
        }
    }

    fn key(&self, input: &mut Input<'_>) -> Option<Key> {
        let at = usize::from(input.octet());
        (!self.keys.is_empty()).then(|| self.keys[at % self.keys.len()])
    }

    /// Lets time pass as a driver does: it stops at every deadline on the way.
    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        let mut stops = 0;
        while let Some(deadline) = self.session.poll_timeout().filter(|at| *at <= end) {
            self.now = self.now.max(deadline);
            self.session.handle_timeout(self.now);
            self.events();
            // What is due goes out: a driver whose transport takes octets.
            let octets = self.session.poll_transmit(self.now).len();
            self.session.transmitted(octets);
            self.events();
            stops += 1;
            assert!(stops < 10_000, "deadlines do not move on");
        }
        self.now = end;
        self.session.handle_timeout(end);
        self.events();
    }

    fn events(&mut self) {
        let mut events = 0;
        while let Some(event) = self.session.poll_event() {
            if event == Event::Opened {
                while let Some((key, list)) = self.session.accept() {
                    assert!(list.encoded_len() <= HEADER_BLOCK);
                    assert!(!self.keys.contains(&key));
                    self.keys.push(key);
                    self.accepted += 1;
                }
            }
            events += 1;
            assert!(events < 100_000, "events do not end");
        }
    }

    fn check(&mut self) {
        self.events();
        let counters = self.session.counters();
        assert!(counters.streams_now <= STREAMS);
        assert!(counters.budget_used <= TUNNEL_BUDGET);
        // DATA and control frames, each with its own room, and one header block above both.
        let waiting = self.session.poll_transmit(self.now).len();
        assert!(waiting <= OUTPUT + 16_384 + CONTROL_FRAME, "{waiting} octets wait");
        if self.session.is_closed() {
            assert!(self.session.poll_timeout().is_none() && !self.session.is_open());
        } else {
            assert!(self.session.error().is_none());
        }
    }

    fn end(mut self, budget: &Budget) {
        self.session.transport_ended(io::ErrorKind::UnexpectedEof);
        self.events();
        assert!(self.session.is_closed());
        for key in std::mem::take(&mut self.keys) {
            assert!(self.session.failure(key).is_some(), "{key:?} outlives its session");
            self.session.release(key);
        }
        drop(self.session);
        assert_eq!(budget.used(), 0);
    }
}

/// The input as a source of decisions; 0 when it is used up.
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn octet(&mut self) -> u8 {
        self.take(1).first().copied().unwrap_or(0)
    }

    fn word(&mut self) -> u16 {
        u16::from(self.octet()) << 8 | u16::from(self.octet())
    }

    fn take(&mut self, len: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(len.min(self.0.len()));
        self.0 = rest;
        taken
    }
}

/// Operations of one input: enough to reach any state, few enough to stay quick.
const STEPS: usize = 2_000;
