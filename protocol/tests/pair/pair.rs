//! The pair itself: steps, wires with a delay and any split, and the checks that always hold.

use std::{
    collections::VecDeque,
    sync::Arc,
    task::Poll,
    time::{Duration, Instant},
};

use spdy_protocol::{
    budget::Budget,
    error::{Error, StreamError},
    head::{RequestHead, ResponseHead},
    headers::Headers,
    limits::PROCESS_BUDGET,
    session::{Config, Event, Key, OpenRefused, Profile, Session, Side},
};

/// One end: a session, and what its programs would know of it.
pub struct End {
    pub session: Session,
    pub budget: Arc<Budget>,
    pub opened: Vec<(Key, Headers)>,
    pub error: Option<Error>,
    /// Streams that were told to write.
    pub writable: Vec<Key>,
    /// Octets on their way to this end, with the time at which they arrive.
    wire: VecDeque<(Instant, Vec<u8>)>,
}

pub struct Pair {
    pub client: End,
    pub server: End,
    pub now: Instant,
    pub delay: Duration,
    /// Octets handed over at a time; 0: as they were sent.
    pub split: usize,
    pub cut: bool,
}

/// Octets that tell their stream and their place, so that nothing can be mistaken.
pub fn octet(stream: u32, at: usize) -> u8 {
    let mixed = (at as u32).wrapping_mul(2_654_435_761).wrapping_add(stream.wrapping_mul(40_503));
    (mixed >> 13) as u8
}

pub fn payload(stream: u32, from: usize, len: usize) -> Vec<u8> {
    (from..from + len).map(|at| octet(stream, at)).collect()
}

impl End {
    fn new(side: Side, profile: Profile, now: Instant, change: impl FnOnce(&mut Config)) -> Self {
        let budget = Arc::new(Budget::new(PROCESS_BUDGET));
        let mut config = Config::new(side, profile, Arc::clone(&budget));
        config.stored_only = profile == Profile::Ours;
        change(&mut config);
        let session = Session::new(config, now);
        Self {
            session,
            budget,
            opened: Vec::new(),
            writable: Vec::new(),
            error: None,
            wire: VecDeque::new(),
        }
    }

    fn drain_events(&mut self) {
        while let Some(event) = self.session.poll_event() {
            match event {
                Event::Opened => {
                    while let Some(opened) = self.session.accept() {
                        self.opened.push(opened);
                    }
                }
                Event::Writable(key) => self.writable.push(key),
                _ => {}
            }
        }
    }

    pub fn get(&mut self, path: &str, now: Instant) -> Key {
        self.try_get(path, now).expect("a stream can be opened")
    }

    pub fn try_get(&mut self, path: &str, now: Instant) -> Result<Key, OpenRefused> {
        let head = RequestHead::get(path).to_headers().unwrap();
        self.session.open(&head, 3, true, now)
    }

    pub fn upload(&mut self, path: &str, now: Instant) -> Key {
        let mut head = RequestHead::get(path);
        head.method = "PUT".to_owned();
        self.session
            .open(&head.to_headers().unwrap(), 3, false, now)
            .expect("a stream can be opened")
    }

    pub fn reply(&mut self, key: Key, fin: bool) {
        let head = ResponseHead::new(200).to_headers().unwrap();
        assert_eq!(self.session.reply(key, &head, fin), Poll::Ready(Ok(())));
    }

    /// Writes what is taken of `octets`.
    pub fn write(&mut self, key: Key, octets: &[u8], end: bool) -> usize {
        let polled = self.session.write_with(key, octets.len(), end, |room| {
            room.copy_from_slice(&octets[..room.len()]);
            Ok(room.len())
        });
        match polled {
            Poll::Ready(Ok(count)) => count,
            Poll::Ready(Err(error)) => panic!("write failed: {error}"),
            Poll::Pending => 0,
        }
    }

    /// Reads all there is: the octets, and whether FIN has come.
    pub fn read(&mut self, key: Key, now: Instant) -> Result<(Vec<u8>, bool), StreamError> {
        let mut all = Vec::new();
        loop {
            match self.session.take_chunk(key, now) {
                Poll::Ready(Ok(Some(chunk))) => all.extend_from_slice(&chunk),
                Poll::Ready(Ok(None)) => return Ok((all, true)),
                Poll::Ready(Err(error)) => return Err(error),
                Poll::Pending => return Ok((all, false)),
            }
        }
    }

    pub fn take_opened(&mut self) -> (Key, Headers) {
        assert!(!self.opened.is_empty(), "a stream was opened");
        self.opened.remove(0)
    }
}

impl Pair {
    pub fn new() -> Self {
        Self::with(Profile::Ours, Profile::Ours, |_| {})
    }

    pub fn with(
        client_sees: Profile,
        server_sees: Profile,
        mut change: impl FnMut(&mut Config),
    ) -> Self {
        let now = Instant::now();
        Self {
            client: End::new(Side::Client, client_sees, now, &mut change),
            server: End::new(Side::Server, server_sees, now, &mut change),
            now,
            delay: Duration::ZERO,
            split: 0,
            cut: false,
        }
    }

    /// Moves what can move at this moment: true if anything did.
    pub fn step(&mut self) -> bool {
        let (now, delay, split) = (self.now, self.delay, self.split);
        let mut moved = false;
        for client in [true, false] {
            let (from, to) = if client {
                (&mut self.client, &mut self.server)
            } else {
                (&mut self.server, &mut self.client)
            };
            let octets = from.session.poll_transmit(now).to_vec();
            from.session.transmitted(octets.len());
            moved |= !octets.is_empty();
            from.drain_events();
            if !octets.is_empty() && !self.cut {
                to.wire.push_back((now + delay, octets));
            }
        }
        for end in [&mut self.client, &mut self.server] {
            while end.wire.front().is_some_and(|(at, _)| *at <= now) {
                let (_, octets) = end.wire.pop_front().unwrap();
                let size = if split == 0 { octets.len() } else { split };
                for piece in octets.chunks(size) {
                    if let Err(error) = end.session.receive(piece, now) {
                        end.error = Some(error);
                    }
                    end.drain_events();
                }
                moved = true;
            }
        }
        moved
    }

    /// Steps until nothing moves at this moment.
    pub fn settle(&mut self) {
        let mut steps = 0;
        while self.step() {
            steps += 1;
            assert!(steps < 100_000, "the pair does not come to rest");
        }
    }

    /// Lets time pass, stopping at every deadline and arrival on the way.
    pub fn advance(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            self.settle();
            let deadlines =
                [self.client.session.poll_timeout(), self.server.session.poll_timeout()];
            let arrivals =
                [&self.client, &self.server].map(|end| end.wire.front().map(|(at, _)| *at));
            let next = deadlines.into_iter().chain(arrivals).flatten().min();
            let Some(next) = next.filter(|next| *next <= end) else { break };
            self.now = self.now.max(next);
            self.client.session.handle_timeout(self.now);
            self.server.session.handle_timeout(self.now);
            self.client.drain_events();
            self.server.drain_events();
        }
        self.now = end;
        self.client.session.handle_timeout(end);
        self.server.session.handle_timeout(end);
        self.settle();
    }

    /// After all streams were released: nothing is left, and the windows balance.
    pub fn assert_empty(&self) {
        for end in [&self.client, &self.server] {
            assert_eq!(end.session.counters().streams_now, 0);
            assert_eq!((end.session.counters().budget_used, end.budget.used()), (0, 0));
        }
    }

    /// Everybody lets go of everything.
    pub fn release_all(
        &mut self,
        client: impl IntoIterator<Item = Key>,
        server: impl IntoIterator<Item = Key>,
    ) {
        client.into_iter().for_each(|key| self.client.session.release(key));
        server.into_iter().for_each(|key| self.server.session.release(key));
        self.settle();
    }
}
