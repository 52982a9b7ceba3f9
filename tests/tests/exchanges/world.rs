//! The programs, the line between them, and what happens to them while clients ask.

use std::{
    collections::HashMap,
    fmt::Write as _,
    fs,
    net::TcpListener,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use spdy_tests::{
    fixture::{Agent, Builds, Pair, Proxy, Sha256, TempRoot, target_dir, wait_until},
    link::{Link, Settings},
    local::Local,
    observe::Signal,
    visitor::Visitor,
};

use crate::{
    clients::{CLIENTS, Client},
    judge::{Outcome, Period, Violation, judge},
    plan::{Choices, Disturbance, Exchange, content},
    service::{Shared, now},
};

/// All that takes part.
pub struct World {
    seed: u64,
    clients: Vec<(Client, u64)>,
    pair: Pair,
    link: Link,
    shared: Arc<Shared>,
    service: Local,
    root: TempRoot,
    flag: String,
    counts: HashMap<String, usize>,
    /// What processes printed that have been replaced, and what was done to them.
    log: String,
}

impl World {
    pub fn start(seed: u64) -> Self {
        let shared = Arc::new(Shared::default());
        let serving = Arc::clone(&shared);
        let service = Local::start(move |call| serving.serve(call));
        let root = TempRoot::new();
        let flag = format!("--forward=/x=http://{},wait=3", service.address());
        let proxy = Proxy::start(PROXY);
        let link = Link::start(proxy.tunnel, Settings::default()).unwrap();
        let pair = Pair::join(proxy, link.address(), root.path(), &[&flag]);
        shared.proxy.store(pair.proxy.program().id(), SeqCst);
        let clients =
            CLIENTS.iter().map(|name| (Client::start(name, pair.proxy.http), 0)).collect();
        let (counts, log) = (HashMap::new(), String::new());
        Self { seed, clients, pair, link, shared, service, root, flag, counts, log }
    }

    /// Clients ask and the programs are disturbed for `duration`. What was wrong, with its story.
    pub fn round(&mut self, number: u64, duration: Duration) -> Vec<(Violation, String)> {
        let mut choices = Choices::new(self.seed, &[u64::MAX, number]);
        let delay = Duration::from_millis(if number.is_multiple_of(2) { 0 } else { 40 });
        self.link.set(Settings::round_trip(delay));
        self.link.cut();
        let is_over = AtomicBool::new(false);
        let (sender, outcomes) = mpsc::channel();
        let mut clients = std::mem::take(&mut self.clients);
        let (shared, seed) = (Arc::clone(&self.shared), self.seed);
        let periods = thread::scope(|scope| {
            for (index, (client, next)) in clients.iter_mut().enumerate() {
                let (sender, shared, is_over) = (sender.clone(), &shared, &is_over);
                scope.spawn(move || {
                    while !is_over.load(SeqCst) {
                        let numbers = *next..*next + client.batch();
                        *next = numbers.end;
                        let draw = |number| Exchange::draw(seed, index as u64, number);
                        let exchanges: Vec<_> = numbers.map(draw).collect();
                        shared.announce(&exchanges);
                        let seen = client.perform(&exchanges);
                        assert_eq!(seen.len(), exchanges.len());
                        for (exchange, outcome) in exchanges.into_iter().zip(seen) {
                            sender.send((exchange.id, CLIENTS[index], outcome)).unwrap();
                        }
                    }
                });
            }
            drop(sender);
            let _end = End(&is_over);
            self.disturb(&mut choices, Instant::now() + duration)
        });
        self.clients = clients;
        self.service.wait_idle();
        self.service.forget();
        let mut history = self.shared.take();
        let mut wrong = Vec::new();
        for (id, client, outcome) in outcomes {
            let (exchange, arrivals) = history.remove(&id).unwrap();
            let digest = Sha256::of(&content(&id, exchange.len));
            self.count("exchanges", 1);
            self.count("arrivals", arrivals.len());
            let is_told = outcome.attempts.iter().any(|attempt| attempt.status.is_some());
            self.count("statuses", usize::from(is_told));
            for violation in judge(&exchange, &digest, &arrivals, &outcome, &periods) {
                let story = story(client, &exchange, &arrivals, &outcome, &periods);
                wrong.push((violation, story));
            }
        }
        for period in periods {
            self.count(&format!("{:?}", period.what), 1);
        }
        wrong
    }

    /// Requests that the service got and nobody sent.
    pub fn unknown(&self) -> Vec<String> {
        self.shared.unknown()
    }

    /// What happened, in figures.
    pub fn summary(&self) -> String {
        let mut counts: Vec<_> = self.counts.iter().collect();
        counts.sort();
        counts.iter().map(|(what, count)| format!("{what} {count}, ")).collect()
    }

    /// Writes down what the programs printed; the file.
    pub fn save_log(&mut self) -> PathBuf {
        self.keep_log();
        let path = target_dir().join(format!("exchanges-{}.log", self.seed));
        fs::write(&path, &self.log).unwrap();
        path
    }

    fn keep_log(&mut self) {
        let (agent, proxy) = (self.pair.agent.program(), self.pair.proxy.program());
        write!(self.log, "== agent\n{}== proxy\n{}", agent.text(), proxy.text()).unwrap();
    }

    fn count(&mut self, what: &str, more: usize) {
        *self.counts.entry(what.to_owned()).or_default() += more;
    }

    fn disturb(&mut self, choices: &mut Choices, until: Instant) -> Vec<Period> {
        let mut periods = Vec::new();
        loop {
            let pause = Duration::from_millis(300 + choices.below(1_200));
            thread::sleep(pause.min(until.saturating_duration_since(Instant::now())));
            if Instant::now() >= until {
                return periods;
            }
            let (what, from) = (Disturbance::draw(choices), now());
            writeln!(self.log, "== {from} {what:?}").unwrap();
            self.apply(what);
            periods.push(Period { what, from, to: now() });
        }
    }

    fn apply(&mut self, what: Disturbance) {
        match what {
            Disturbance::AgentTerminated => {
                self.pair.agent.program().terminate();
                // Its grace is 30 s.
                let ended = self.pair.agent.program_mut().ended_within(Duration::from_secs(40));
                let said = || self.pair.agent.program().text();
                assert!(ended.is_some(), "the agent does not end:\n{}", said());
                self.start_agent();
            }
            Disturbance::AgentKilled => {
                self.pair.agent.program_mut().kill();
                self.start_agent();
            }
            Disturbance::AgentReloaded => self.pair.agent.program().signal(Signal::HUP).unwrap(),
            Disturbance::ProxyReloaded => self.signal_proxy(Signal::HUP),
            Disturbance::ProxyHandedOver => self.hand_over(),
            Disturbance::ProxyKilled => {
                let process = self.shared.proxy.load(SeqCst);
                self.signal_proxy(Signal::KILL);
                self.pair.proxy.program_mut().kill();
                wait_until("the proxy has ended", || !is_alive(process));
                // A connection that somebody makes just now may have one of its ports.
                let addresses = [self.pair.proxy.http, self.pair.proxy.tunnel];
                wait_until("its ports are free", || {
                    addresses.iter().all(|address| TcpListener::bind(address).is_ok())
                });
                self.keep_log();
                self.pair.proxy.restart(PROXY);
                self.shared.proxy.store(self.pair.proxy.program().id(), SeqCst);
            }
            Disturbance::LinkCut => self.link.cut(),
            Disturbance::UpgradesFull => {
                let ask = |_| {
                    let mut visitor = Visitor::try_connect(self.pair.proxy.http).ok()?;
                    visitor.try_send(UPGRADE).ok()?;
                    Some(visitor)
                };
                let visitors: Vec<_> = (0..64).filter_map(ask).collect();
                thread::sleep(Duration::from_millis(1_500));
                drop(visitors);
            }
        }
    }

    fn start_agent(&mut self) {
        self.keep_log();
        let config = self.pair.config();
        self.pair.agent =
            Agent::joined(&Builds::beside(), self.root.path(), &config, &[&self.flag]);
    }

    /// Has the proxy replaced by a new process.
    fn hand_over(&self) {
        let old = self.shared.proxy.load(SeqCst);
        self.signal_proxy(Signal::USR2);
        let successor = || {
            let said = self.pair.proxy.program().text();
            let (_, rest) = said.rsplit_once("server=handed_over process=")?;
            rest.split_whitespace().next()?.parse().ok().filter(|process| *process != old)
        };
        // It may have been killed by an earlier disturbance before it could.
        wait_until("the proxy is handed over", || successor().is_some());
        self.shared.proxy.store(successor().unwrap(), SeqCst);
    }

    fn signal_proxy(&self, signal: Signal) {
        spdy_tests::observe::signal(self.shared.proxy.load(SeqCst), signal);
    }
}

impl Drop for World {
    fn drop(&mut self) {
        // A successor is nobody's child of ours.
        let process = self.shared.proxy.load(SeqCst);
        if process != self.pair.proxy.program().id() && is_alive(process) {
            self.signal_proxy(Signal::KILL);
        }
    }
}

/// Tells the clients to end, also when it is dropped by a panic.
struct End<'e>(&'e AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, SeqCst);
    }
}

/// One exchange as it went, in a few lines.
fn story(
    client: &str,
    exchange: &Exchange,
    arrivals: &[crate::judge::Arrival],
    outcome: &Outcome,
    periods: &[Period],
) -> String {
    let near =
        |period: &&Period| period.from < outcome.ended + 2_000 && outcome.began < period.to + 2_000;
    let since = |time: u64| time.saturating_sub(outcome.began);
    let mut text = format!("{client}, began {}\n  plan {exchange:?}\n", outcome.began);
    for arrival in arrivals {
        let sent = arrival.status_sent.map(since);
        let at = since(arrival.began);
        let request = &arrival.request;
        let body = &arrival.body;
        writeln!(text, "  service +{at} ms {request} {body:?}, status sent {sent:?}").unwrap();
    }
    let (took, error) = (since(outcome.ended), &outcome.error);
    writeln!(text, "  client +{took} ms {:?} {error}", outcome.attempts).unwrap();
    for period in periods.iter().filter(near) {
        let from = i128::from(period.from) - i128::from(outcome.began);
        let lasted = period.to - period.from;
        writeln!(text, "  {:?} {from:+} ms, for {lasted} ms", period.what).unwrap();
    }
    text
}

/// Whether a process runs, whoever's child it is.
fn is_alive(process: u32) -> bool {
    let stat = fs::read_to_string(PathBuf::from(format!("/proc/{process}/stat")));
    stat.is_ok_and(|stat| stat.rsplit(')').next().is_some_and(|rest| !rest.starts_with(" Z")))
}

/// Agents move at once when the proxy is handed over.
const PROXY: &[&str] = &["--spread", "1"];
const UPGRADE: &[u8] = b"GET /x/upgrade HTTP/1.1\r\nHost: h\r\nConnection: upgrade\r\n\
                         Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                         Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n";
