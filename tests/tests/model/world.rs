//! What all clients of a run share: the model, the violations, the log, and one file operation.
//!
//! It owns how an exchange becomes an event of the model. Which operations there are is with
//! `files`, `uploads` and `trees`; when everything is compared with the disk is `check`'s.

use std::{
    collections::BTreeMap,
    env,
    net::SocketAddr,
    sync::{
        Mutex, MutexGuard, PoisonError, RwLock,
        atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering::Relaxed},
    },
    time::Instant,
};

use super::{
    client::{Answer, Exchange, Plan},
    content::{Op, Value, content},
    judge::{Effect, Key, Model, Outcome, Time},
    pending::Pending,
    tree::{Tree, shown},
};

/// A run.
#[derive(Debug)]
pub struct World {
    pub seed: u64,
    pub tree: Tree,
    pub http: SocketAddr,
    pub model: Mutex<Model>,
    pub pending: Mutex<Vec<Pending>>,
    /// Which of the media lies over the share `disk`. Held for reading by requests that must all
    /// be served by one.
    pub medium: RwLock<usize>,
    /// Clients go on.
    pub running: AtomicBool,
    /// Unfinished uploads of whose creation the client did not hear, at most.
    pub untold: AtomicUsize,
    pub trees: Mutex<super::trees::Trees>,
    start: Instant,
    next: AtomicU32,
    violations: Mutex<Vec<Violation>>,
    counts: Mutex<BTreeMap<String, usize>>,
    log: Mutex<Vec<String>>,
    prints: bool,
}

/// Something that must not be.
#[derive(Clone, Debug)]
pub struct Violation {
    pub kind: String,
    pub at: Time,
}

/// Where a request goes, and what it names there.
#[derive(Clone, Debug)]
pub struct Target {
    pub key: Key,
    pub path: String,
}

impl World {
    pub fn new(seed: u64, tree: Tree, http: SocketAddr) -> Self {
        Self {
            seed,
            medium: RwLock::new(super::tree::BENEATH),
            tree,
            http,
            model: Mutex::default(),
            pending: Mutex::default(),
            running: AtomicBool::new(true),
            untold: AtomicUsize::new(0),
            trees: Mutex::default(),
            start: Instant::now(),
            next: AtomicU32::new(1),
            violations: Mutex::default(),
            counts: Mutex::default(),
            log: Mutex::default(),
            prints: env::var_os("MODEL_LOG").is_some(),
        }
    }

    pub fn now(&self) -> Time {
        Time::try_from(self.start.elapsed().as_micros()).unwrap()
    }

    pub fn op(&self) -> Op {
        self.next.fetch_add(1, Relaxed)
    }

    pub fn content(&self, op: Op, len: usize) -> Vec<u8> {
        content(self.seed, op, len)
    }

    pub fn model(&self) -> MutexGuard<'_, Model> {
        self.model.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One line of the compact log.
    pub fn note(&self, line: &str) {
        let line = format!("{:9.3} {line}", seconds(self.now()));
        if self.prints {
            println!("{line}");
        }
        let mut log = self.log.lock().unwrap();
        log.push(line);
        let len = log.len();
        if len > LOG_MAX {
            log.drain(..len / 2);
        }
    }

    pub fn count(&self, what: &str) {
        *self.counts.lock().unwrap().entry(what.to_owned()).or_default() += 1;
    }

    pub fn counts(&self) -> String {
        let counts = self.counts.lock().unwrap();
        counts.iter().map(|(what, count)| format!("{what} {count}")).collect::<Vec<_>>().join(", ")
    }

    pub fn violations(&self) -> Vec<Violation> {
        self.violations.lock().unwrap().clone()
    }

    /// Tells a violation; the first of its kind with all that is known, the others are counted.
    pub fn violate(&self, kind: &str, text: &str) {
        let at = self.now();
        let mut violations = self.violations.lock().unwrap();
        let before = violations.iter().filter(|violation| violation.kind == kind).count();
        if before < SHOWN {
            println!("VIOLATION {kind} after {:.1} s, seed {}: {text}", seconds(at), self.seed);
        }
        violations.push(Violation { kind: kind.to_owned(), at });
    }

    /// A violation on an entry, with its history.
    pub fn accuse(&self, model: &Model, key: &Key, kind: &str, what: &str) {
        let directory = &self.tree.directories[key.dir];
        let mut text = format!(
            "{}/{}: {what}\n    it began with {:?}",
            directory.label,
            shown(&key.name),
            model.base(key)
        );
        // What was refused matters little.
        let mut history = model.history(key);
        history
            .retain(|event| event.outcome != Outcome::Refused || event.effect == Effect::Nothing);
        let left_out = history.len().saturating_sub(HISTORY);
        if left_out > 0 {
            text += &format!(", then {left_out} more operations");
        }
        for event in history.iter().skip(left_out) {
            let end = if event.end == Time::MAX {
                "?".to_owned()
            } else {
                format!("{:.3}", seconds(event.end))
            };
            text += &format!(
                "\n    {:.3}..{end} {:?} op {} {}",
                seconds(event.start),
                event.outcome,
                event.op,
                event.text
            );
        }
        self.violate(&format!("{kind} ({})", self.tree.area(key.dir)), &text);
    }

    /// What was seen of an entry from `from` on must be what it may have held.
    pub fn see(&self, target: &Target, found: &Value, from: Time, besides: &[Op], how: &str) {
        let (mut model, now) = (self.model(), self.now());
        if model.allows(&target.key, found, from, now, besides) {
            return;
        }
        let what = format!(
            "{how} {} at {:.3}..{:.3} shows {found:?}",
            target.path,
            seconds(from),
            seconds(now)
        );
        let kind = format!("{}-read", model.blame(&target.key, found));
        self.accuse(&model, &target.key, &kind, &what);
        // Told once.
        model.begin(&target.key, 0, "(as it was seen)", from, Effect::Write(found.clone()));
    }

    /// Sends a request that has `effects`, and lets the model know how it went.
    pub fn change(
        &self,
        op: Op,
        plan: &Plan,
        text: &str,
        effects: &[(Key, Effect)],
    ) -> (Exchange, Outcome) {
        let start = self.now();
        {
            let mut model = self.model();
            for (key, effect) in effects {
                model.begin(key, op, text, start, effect.clone());
            }
        }
        let exchange = plan.run(self.http, || ());
        let outcome = outcome(&exchange);
        let status = status(&exchange);
        let now = self.now();
        {
            let mut model = self.model();
            for (key, _) in effects {
                model.end(key, op, now, outcome, &status);
            }
        }
        self.note(&format!("op {op} {text} -> {status}"));
        self.count(&format!("{} {status}", plan.method));
        if exchange.hung {
            self.count("hung");
        }
        if outcome == Outcome::Success && !exchange.sent_all && !plan.body.is_empty() {
            self.violate("told-before-whole", &format!("op {op} {text} -> {status}"));
        }
        (exchange, outcome)
    }

    /// The last lines of the log.
    pub fn log(&self) -> Vec<String> {
        self.log.lock().unwrap().clone()
    }
}

/// What a client may believe after an exchange.
pub fn outcome(exchange: &Exchange) -> Outcome {
    match &exchange.answer {
        Some(answer) => match answer.status {
            200..=399 => Outcome::Success,
            // The tunnel broke, nobody was there, or it took too long: who knows. Of what the
            // agent itself says by these, only refusals of a place are told from that.
            408 | 500 | 502 | 503 | 504 if !is_refusal(answer) => Outcome::Unknown,
            _ => Outcome::Refused,
        },
        // What was not sent whole must not be stored.
        None if !exchange.sent_all => Outcome::Refused,
        None => Outcome::Unknown,
    }
}

fn is_refusal(answer: &Answer) -> bool {
    let text = answer.text();
    text.starts_with("The destination is on") || text.starts_with("The destination is in")
}

/// A status for people.
pub fn status(exchange: &Exchange) -> String {
    match &exchange.answer {
        Some(answer) => answer.status.to_string(),
        None if exchange.hung => "hung".to_owned(),
        None if !exchange.connected => "not connected".to_owned(),
        None if exchange.sent_all => "no answer".to_owned(),
        None => format!("cut at {}", exchange.sent),
    }
}

pub fn seconds(time: Time) -> f64 {
    time as f64 / 1e6
}

/// Lines of the log that are kept.
const LOG_MAX: usize = 20_000;
/// Violations of a kind that are printed.
const SHOWN: usize = 3;
/// Events of a history that are printed.
const HISTORY: usize = 14;
