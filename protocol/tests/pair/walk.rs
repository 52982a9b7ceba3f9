//! A seeded random walk over both sides: every command in any order, any delay and split; what
//! must hold is checked at each step.

use std::{collections::BTreeMap, time::Duration};

use fastrand::Rng;
use spdy_protocol::{
    frame::{self, Status},
    head::RequestHead,
    limits::STREAMS,
    session::{Key, Session},
};

use crate::pair::{Pair, payload};

/// What the walk knows of one direction of a stream.
#[derive(Default)]
struct Flow {
    sent: usize,
    received: usize,
    finished: bool,
}

/// One end's view of a stream.
struct Handle {
    key: Key,
    replied: bool,
}

struct Walk {
    pair: Pair,
    rng: Rng,
    client: BTreeMap<u32, Handle>,
    server: BTreeMap<u32, Handle>,
    /// By stream and direction (true: up).
    flows: BTreeMap<(u32, bool), Flow>,
    /// By how much the server's peer lowered the initial window of its DATA.
    lowered: i64,
    octets: usize,
}

impl Walk {
    fn new(seed: u64) -> Self {
        Self {
            pair: Pair::new(),
            rng: Rng::with_seed(seed),
            client: BTreeMap::new(),
            server: BTreeMap::new(),
            flows: BTreeMap::new(),
            lowered: 0,
            octets: 0,
        }
    }

    fn step(&mut self) {
        let now = self.pair.now;
        match self.rng.u32(0..100) {
            0..=9 => self.open(),
            10..=19 => self.reply(),
            20..=44 => self.write(),
            45..=69 => self.read(),
            70..=74 => self.finish(),
            75..=77 => self.end(false),
            78..=80 => self.end(true),
            81..=82 => self.settings(),
            83..=84 => {
                self.pair.delay = Duration::from_millis(self.rng.u64(0..50));
                self.pair.split = *self.rng.choice([0, 0, 1, 13, 1_000, 16_384].iter()).unwrap();
            }
            85 => self.pair.advance(Duration::from_millis(self.rng.u64(0..3_000))),
            86..=95 => {
                self.pair.step();
            }
            _ => self.pair.advance(Duration::from_millis(self.rng.u64(0..20))),
        }
        // The clock never stands still for long: a pair at rest would prove nothing.
        if self.pair.now == now && self.rng.u32(0..10) == 0 {
            self.pair.advance(Duration::from_millis(1));
        }
        self.check();
    }

    fn open(&mut self) {
        let upload = self.rng.bool();
        let mut head = RequestHead::get("/walk");
        if upload {
            // Both directions at once: as `:upgrade` does.
            head.upgrade = Some("walk".to_owned());
        }
        let headers = head.to_headers().unwrap();
        let priority = self.rng.u8(0..8);
        let opened = self.pair.client.session.open(&headers, priority, !upload, self.pair.now);
        let Ok(key) = opened else { return };
        let id = key.id.value();
        self.client.insert(id, Handle { key, replied: false });
        self.flows.insert((id, true), Flow { finished: !upload, ..Flow::default() });
        self.flows.insert((id, false), Flow::default());
    }

    fn reply(&mut self) {
        for (key, _) in std::mem::take(&mut self.pair.server.opened) {
            self.server.insert(key.id.value(), Handle { key, replied: false });
        }
        let Some((key, id)) = self.pick(true, |handle| !handle.replied) else { return };
        let fin = self.rng.u32(0..8) == 0;
        let head = spdy_protocol::head::ResponseHead::new(200).to_headers().unwrap();
        if self.pair.server.session.reply(key, &head, fin).is_ready() {
            self.server.get_mut(&id).unwrap().replied = true;
            self.flows.get_mut(&(id, false)).unwrap().finished |= fin;
        }
    }

    fn write(&mut self) {
        let server = self.rng.bool();
        let Some((key, id)) = self.pick(server, |handle| !server || handle.replied) else { return };
        let flow = self.flows.get_mut(&(id, !server)).unwrap();
        let end = if server { &mut self.pair.server } else { &mut self.pair.client };
        if flow.finished || end.session.failure(key).is_some() {
            return;
        }
        let len = self.rng.usize(1..70_000);
        let seed = id * 2 + u32::from(server);
        let count = end.write(key, &payload(seed, flow.sent, len), false);
        flow.sent += count;
        self.octets += count;
    }

    fn read(&mut self) {
        let server = self.rng.bool();
        let Some((key, id)) = self.pick(server, |_| true) else { return };
        let end = if server { &mut self.pair.server } else { &mut self.pair.client };
        let Ok((octets, fin)) = end.read(key, self.pair.now) else { return };
        let flow = self.flows.get_mut(&(id, server)).unwrap();
        let seed = id * 2 + u32::from(!server);
        assert!(octets == payload(seed, flow.received, octets.len()), "stream {id} is corrupt");
        flow.received += octets.len();
        if fin && end.session.failure(key).is_none() {
            assert!(flow.finished && flow.received == flow.sent, "stream {id} ended short");
        }
    }

    fn finish(&mut self) {
        let server = self.rng.bool();
        let Some((key, id)) = self.pick(server, |handle| !server || handle.replied) else { return };
        let end = if server { &mut self.pair.server } else { &mut self.pair.client };
        if let std::task::Poll::Ready(Ok(())) = end.session.finish(key) {
            self.flows.get_mut(&(id, !server)).unwrap().finished = true;
        }
    }

    /// Reset, or the handle let go.
    fn end(&mut self, release: bool) {
        let server = self.rng.bool();
        let Some((key, id)) = self.pick(server, |_| true) else { return };
        let end = if server { &mut self.pair.server } else { &mut self.pair.client };
        if release {
            end.session.release(key);
            if server { &mut self.server } else { &mut self.client }.remove(&id);
        } else {
            end.session.reset(key, Status::Cancel);
        }
    }

    /// SETTINGS by hand: no session of ours changes them in mid-course.
    fn settings(&mut self) {
        let mut frames = Vec::new();
        if self.rng.bool() {
            let streams = self.rng.u32(0..150);
            frame::encode_settings(&[(4, streams)], &mut frames);
            self.pair.client.session.receive(&frames, self.pair.now).unwrap();
        } else {
            let window = self.rng.u32(0..=65_536);
            frame::encode_settings(&[(7, window)], &mut frames);
            self.pair.server.session.receive(&frames, self.pair.now).unwrap();
            self.lowered = 65_536 - i64::from(window);
        }
    }

    fn pick(&mut self, server: bool, wanted: impl Fn(&Handle) -> bool) -> Option<(Key, u32)> {
        let handles = if server { &self.server } else { &self.client };
        let fitting: Vec<_> = handles.iter().filter(|(_, handle)| wanted(handle)).collect();
        self.rng.choice(fitting).map(|(id, handle)| (handle.key, *id))
    }

    fn check(&self) {
        for end in [&self.pair.client, &self.pair.server] {
            assert_eq!(end.session.audit(), Ok(()));
            assert_eq!(end.error, None, "neither side breaks the protocol");
            assert!(!end.session.is_closed());
            assert_eq!(end.budget.used(), end.session.counters().budget_used);
            assert!(end.session.counters().streams_now <= STREAMS);
        }
    }

    /// With nothing under way, what one end may send is what the other expects.
    fn check_balance(&mut self) {
        self.pair.advance(Duration::from_secs(2));
        assert_eq!(send(&self.pair.client.session, None), receive(&self.pair.server.session, None));
        assert_eq!(send(&self.pair.server.session, None), receive(&self.pair.client.session, None));
        for (id, Handle { key, .. }) in &self.server {
            let Some(client) = self.client.get(id) else { continue };
            let (one, other) = (&self.pair.server.session, &self.pair.client.session);
            if one.failure(*key).is_some() || other.failure(client.key).is_some() {
                continue;
            }
            let lowered = send(one, Some(*key)) + self.lowered;
            assert_eq!(lowered, receive(other, Some(client.key)), "down {id}");
            assert_eq!(send(other, Some(client.key)), receive(one, Some(*key)), "up {id}");
        }
    }
}

fn send(session: &Session, key: Option<Key>) -> i64 {
    session.windows(key).unwrap().0
}

fn receive(session: &Session, key: Option<Key>) -> i64 {
    session.windows(key).unwrap().1
}

fn walk(seed: u64, steps: usize) {
    eprintln!("seed {seed} (SPDY_SEED={seed} repeats it)");
    let mut walk = Walk::new(seed);
    for step in 0..steps {
        walk.step();
        if step % 5_000 == 0 {
            walk.check_balance();
        }
    }
    walk.check_balance();
    let (client, server) = (std::mem::take(&mut walk.client), std::mem::take(&mut walk.server));
    let opened: Vec<_> = std::mem::take(&mut walk.pair.server.opened);
    let server = server.into_values().map(|handle| handle.key);
    let server: Vec<_> = server.chain(opened.into_iter().map(|(key, _)| key)).collect();
    walk.pair.release_all(client.into_values().map(|handle| handle.key), server);
    walk.pair.advance(Duration::from_secs(5));
    for (key, _) in std::mem::take(&mut walk.pair.server.opened) {
        walk.pair.server.session.release(key);
    }
    walk.pair.advance(Duration::from_secs(5));
    walk.pair.assert_empty();
    walk.check_balance();
    assert!(walk.octets > steps * 100, "the walk carried only {} octets", walk.octets);
}

#[test]
fn random_walk_of_a_fixed_seed() {
    walk(20_250_101, 60_000);
}

#[test]
fn random_walk_of_a_fresh_seed() {
    let given = std::env::var("SPDY_SEED").ok().and_then(|text| text.parse().ok());
    walk(given.unwrap_or_else(|| fastrand::u64(..)), 60_000);
}
