//! Many small uploads while the programs are restarted and all places for uploads are taken, by
//! clients that repeat what was not stored: what was told as stored must be whole.

use std::{
    collections::BTreeMap,
    fs,
    net::SocketAddr,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU32, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

use fastrand::Rng;
use spdy_tests::fixture::TempRoot;

use super::{
    client::{Framing, Plan},
    content::{LEAST, Op, Value, content, identify},
    judge::Outcome,
    number,
    rig::{Fault, Rig},
    world::{outcome, status},
};

#[test]
fn uploads_under_restarts_are_stored_whole() {
    storm(500);
}

#[test]
#[ignore = "takes minutes: stage long"]
fn thousands_of_uploads_under_restarts_are_stored_whole() {
    storm(5_000);
}

/// What the clients share.
struct Storm {
    seed: u64,
    http: SocketAddr,
    uploads: Op,
    next: AtomicU32,
    done: AtomicBool,
    stored: Mutex<Vec<Op>>,
    statuses: Mutex<BTreeMap<String, usize>>,
}

fn storm(uploads: Op) {
    let seed = number("MODEL_SEED").unwrap_or_else(|| fastrand::u64(..));
    let uploads = number("MODEL_UPLOADS").map_or(uploads, |uploads| Op::try_from(uploads).unwrap());
    println!("seed {seed}, {uploads} uploads");
    let mut rng = Rng::with_seed(seed);
    let root = TempRoot::new();
    let arguments = vec!["--allow-write".to_owned()];
    let round_trip = Duration::from_millis(40);
    let mut rig = Rig::start(root.path().to_owned(), arguments, round_trip);
    let storm = Storm {
        seed,
        http: rig.http(),
        uploads,
        next: AtomicU32::new(0),
        done: AtomicBool::new(false),
        stored: Mutex::default(),
        statuses: Mutex::default(),
    };
    let begun = Instant::now();
    thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|_| {
                let (storm, mut rng) = (&storm, rng.fork());
                scope.spawn(move || storm.upload_all(&mut rng))
            })
            .collect();
        while clients.iter().any(|client| !client.is_finished()) {
            thread::sleep(Duration::from_millis(rng.u64(200..1_500)));
            match rng.u8(..8) {
                0 => rig.apply(Fault::AgentRestart),
                1 | 2 => rig.apply(Fault::AgentReplace),
                3 => rig.apply(Fault::AgentKill),
                4 => rig.apply(Fault::ProxyRestart),
                5 => rig.apply(Fault::ProxyKill),
                _ => storm.take_all_places(&mut rng),
            }
        }
        storm.done.store(true, Relaxed);
    });
    rig.wait_until_served();
    rig.restart_agent();
    rig.wait_until_served();
    let stored = storm.stored.lock().unwrap().clone();
    println!(
        "{uploads} uploads in {:.0} s: {} stored; answers: {:?}",
        begun.elapsed().as_secs_f64(),
        stored.len(),
        storm.statuses.lock().unwrap(),
    );
    println!("faults: {:?}", rig.counts);
    let wrong = storm.wrong(&root, &stored);
    for line in wrong.iter().take(20) {
        println!("VIOLATION {line}");
    }
    assert!(wrong.is_empty(), "seed {seed}: {} of {} are wrong", wrong.len(), stored.len());
    // Otherwise nothing was tried.
    assert!(stored.len() * 10 >= usize::try_from(uploads).unwrap() * 9, "{}", stored.len());
}

impl Storm {
    fn upload_all(&self, rng: &mut Rng) {
        loop {
            let op = self.next.fetch_add(1, Relaxed);
            if op >= self.uploads {
                return;
            }
            let bytes = content(self.seed, op, self.len(op));
            for attempt in 0..ATTEMPTS {
                let (answer, is_stored) = if op.is_multiple_of(5) {
                    self.upload_in_parts(rng, op, &bytes)
                } else {
                    self.put(rng, op, &bytes)
                };
                *self.statuses.lock().unwrap().entry(answer).or_default() += 1;
                if is_stored {
                    self.stored.lock().unwrap().push(op);
                    break;
                }
                if attempt + 1 < ATTEMPTS {
                    *self
                        .statuses
                        .lock()
                        .unwrap()
                        .entry("repeated by the client".to_owned())
                        .or_default() += 1;
                }
                thread::sleep(Duration::from_millis(rng.u64(50..400)));
            }
        }
    }

    /// Bytes of an upload; few are empty.
    fn len(&self, op: Op) -> usize {
        let mut rng = Rng::with_seed(self.seed ^ u64::from(op));
        if rng.u8(..50) == 0 { 0 } else { rng.usize(LEAST..65_537) }
    }

    fn put(&self, rng: &mut Rng, op: Op, bytes: &[u8]) -> (String, bool) {
        let framing = if rng.u8(..3) == 0 { Framing::Length } else { Framing::Chunked };
        let mut plan = Plan::new("PUT", &format!("/{op}")).body(framing, bytes.to_vec());
        if rng.bool() {
            (plan.pieces, plan.pause) = (rng.usize(1..5), Duration::from_millis(rng.u64(..30)));
        }
        let exchange = plan.run(self.http, || ());
        (status(&exchange), outcome(&exchange) == Outcome::Success)
    }

    fn upload_in_parts(&self, rng: &mut Rng, op: Op, bytes: &[u8]) -> (String, bool) {
        let plan = Plan::new("PUT", &format!("/{op}")).with("Upload-Complete", "?0");
        let created = plan.body(Framing::Length, Vec::new()).run(self.http, || ());
        let location = created.answer.as_ref().filter(|answer| answer.status == 201);
        let location = location.and_then(|answer| answer.header("location"));
        let Some(location) = location else { return (status(&created), false) };
        let mut last = "in vain".to_owned();
        for _ in 0..ATTEMPTS {
            let state = Plan::new("HEAD", location).run(self.http, || ());
            let Some(answer) = &state.answer else { continue };
            let at = answer.header("upload-offset").and_then(|at| at.parse::<usize>().ok());
            if answer.status == 404 {
                return ("HEAD 404".to_owned(), false);
            }
            if answer.header("upload-complete") == Some("?1") {
                return ("HEAD complete".to_owned(), true);
            }
            let Some(at) = at.filter(|at| *at <= bytes.len()) else { continue };
            let to = if rng.bool() { bytes.len() } else { rng.usize(at..=bytes.len()) };
            let is_last = to == bytes.len();
            let framing = if rng.bool() { Framing::Length } else { Framing::Chunked };
            let plan = Plan::new("PATCH", location)
                .with("Content-Type", "application/partial-upload")
                .with("Upload-Offset", &at.to_string())
                .with("Upload-Complete", if is_last { "?1" } else { "?0" })
                .body(framing, bytes[at..to].to_vec());
            let exchange = plan.run(self.http, || ());
            last = format!("PATCH {}", status(&exchange));
            if is_last && outcome(&exchange) == Outcome::Success {
                return (last, true);
            }
        }
        (last, false)
    }

    /// As many slow uploads as the agent takes.
    fn take_all_places(&self, rng: &mut Rng) {
        let pause = Duration::from_millis(rng.u64(100..300));
        thread::scope(|scope| {
            for number in 0..16 {
                scope.spawn(move || {
                    let plan = Plan::new("PUT", &format!("/slow{number}"));
                    let mut plan = plan.body(Framing::Length, vec![7; 80]);
                    (plan.pieces, plan.pause) = (8, pause);
                    plan.run(self.http, || ());
                });
            }
        });
    }

    /// What of the files is not as it was sent.
    fn wrong(&self, root: &TempRoot, stored: &[Op]) -> Vec<String> {
        let mut wrong = Vec::new();
        for op in 0..self.uploads {
            let wanted = if self.len(op) == 0 { Value::Empty } else { Value::File(op) };
            let is_told = stored.contains(&op);
            let found = fs::read(root.join(&op.to_string()));
            let found = found.map_or(Value::Absent, |bytes| identify(self.seed, &bytes));
            if found != wanted && (is_told || found != Value::Absent) {
                let told = if is_told { "was told as stored" } else { "was not told as stored" };
                wrong
                    .push(format!("upload {op} of {} bytes {told} and is {found:?}", self.len(op)));
            }
        }
        wrong
    }
}

/// Clients at a time.
const CLIENTS: usize = 8;
/// Times that a client tries to upload a file.
const ATTEMPTS: usize = 12;
