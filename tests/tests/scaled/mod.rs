//! Both programs as libraries in this process, with times so short that a test need not wait.
//!
//! It owns their settings and threads. One of them faces the other program as shipped wherever that
//! is possible: a library only because no flag of the programs scales these times.
#![allow(dead_code, reason = "each test file uses a part")]
#![allow(clippy::unwrap_used, reason = "a fixture that fails is a failed test")]

use std::{
    io::{self, Write},
    net::SocketAddr,
    path::Path,
    sync::{Arc, Mutex},
    thread::JoinHandle,
    time::Duration,
};

use spdy_agent::{
    backoff::Steps,
    dial::{self, Address},
    log as agent_log,
    origin::Options,
    supervise,
    verify::Trust,
};
use spdy_protocol::limits;
use spdy_proxy::{log as proxy_log, server::Server, settings, stop::Stop};
use spdy_tests::fixture::{TempRoot, wait_until};

/// Silence after which an idle tunnel is asked for a sign of life.
pub const IDLE: Duration = Duration::from_millis(400);
/// The same while something is owed.
pub const OWED: Duration = Duration::from_millis(200);
/// Wait for that sign. A busy machine must be able to give it.
pub const ANSWER: Duration = Duration::from_millis(1_500);
/// Longest pause of the agent between two dials, where the network failed.
pub const STEP: Duration = Duration::from_millis(200);

/// The durations of a session, scaled.
pub fn session() -> limits::Timings {
    limits::Timings {
        idle_ping: IDLE,
        owed_ping: OWED,
        ping_answer: ANSWER,
        ..limits::Timings::default()
    }
}

/// A proxy in this process; told to stop and waited for when dropped.
#[derive(Debug)]
pub struct ScaledProxy {
    /// Where HTTP clients connect.
    pub http: SocketAddr,
    /// Where agents connect.
    pub tunnel: SocketAddr,
    /// Its handle.
    pub stop: Stop,
    running: Option<JoinHandle<()>>,
    _state: TempRoot,
}

impl ScaledProxy {
    /// Starts one that takes anonymous agents; `change` has the last word.
    pub fn start(change: impl FnOnce(&mut settings::Settings)) -> Self {
        let state = TempRoot::new();
        let mut settings = settings::Settings::new(state.join("state"));
        settings.listen = vec![([127, 0, 0, 1], 0).into()];
        settings.tunnel_listen = vec![([127, 0, 0, 1], 0).into()];
        settings.allow_anonymous = true;
        settings.debug = true;
        settings.log = proxy_log::Log::silent();
        settings.timings.grace = Duration::from_millis(500);
        settings.timings.spread = Duration::ZERO;
        settings.timings.session = session();
        // Each fault shows, unless a test wants it hidden.
        (settings.timings.hold, settings.timings.splice) = (Duration::ZERO, Duration::ZERO);
        change(&mut settings);
        let server = Server::bind(settings).unwrap();
        Self {
            http: server.http_addresses()[0],
            tunnel: server.tunnel_addresses()[0],
            stop: server.handle(),
            running: Some(std::thread::spawn(move || server.run().unwrap())),
            _state: state,
        }
    }
}

impl Drop for ScaledProxy {
    fn drop(&mut self) {
        self.stop.stop();
        let ended = self.running.take().map(JoinHandle::join);
        assert!(std::thread::panicking() || matches!(ended, Some(Ok(()))), "the proxy panicked");
    }
}

/// An agent in this process; told to end and waited for when dropped.
#[derive(Debug)]
pub struct ScaledAgent {
    lines: Lines,
    stop: Option<smol::channel::Sender<()>>,
    running: Option<JoinHandle<()>>,
}

impl ScaledAgent {
    /// Serves `root` through the proxy at `proxy`, whoever that is; `change` has the last word.
    pub fn serve(
        root: &Path,
        proxy: SocketAddr,
        change: impl FnOnce(&mut supervise::Settings),
    ) -> Self {
        let lines = Lines::default();
        let log = agent_log::Log::writer(agent_log::Level::Debug, Box::new(lines.clone()));
        let mut settings = supervise::Settings::new("scaled", Options::new(root), log);
        settings.grace = Duration::from_millis(500);
        settings.session = session();
        settings.dial = dial::Timings {
            connect: Duration::from_secs(2),
            tls: Duration::from_secs(2),
            handshake: Duration::from_secs(2),
            ..dial::Timings::default()
        };
        settings.backoff = steps();
        settings.proxies = vec![supervise::Proxy {
            address: Address::parse(&proxy.to_string()).unwrap(),
            trust: Trust::Insecure,
            token: None,
            card: None,
        }];
        change(&mut settings);
        let (stop, stopped) = smol::channel::bounded::<()>(1);
        let running = std::thread::spawn(move || {
            let stop = async move {
                // Closed: the only message there is.
                let _ = stopped.recv().await;
            };
            smol::block_on(supervise::run(settings, stop)).unwrap();
        });
        Self { lines, stop: Some(stop), running: Some(running) }
    }

    /// Lines of its log that hold `part`.
    pub fn count(&self, part: &str) -> usize {
        self.lines.text().lines().filter(|line| line.contains(part)).count()
    }

    /// Waits until its log has `count` lines that hold `part`.
    pub fn wait_for(&self, part: &str, count: usize) {
        wait_until(&format!("the agent's log has {part} {count} times"), || {
            self.count(part) >= count
        });
    }

    /// Its log so far.
    pub fn text(&self) -> String {
        self.lines.text()
    }
}

impl Drop for ScaledAgent {
    fn drop(&mut self) {
        self.stop = None;
        let ended = self.running.take().map(JoinHandle::join);
        if std::thread::panicking() {
            eprintln!("--- the agent's log:\n{}---", self.lines.text());
        } else {
            assert!(matches!(ended, Some(Ok(()))), "the agent panicked");
        }
    }
}

/// Waits between dials, scaled.
pub fn steps() -> Steps {
    let short = Duration::from_millis(50);
    Steps {
        network: short,
        network_max: STEP,
        denied: short,
        denied_max: STEP,
        held: short,
        held_max: STEP,
        version: STEP,
        tls: STEP,
        ..Steps::default()
    }
}

#[derive(Clone, Debug, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Lines {
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().unwrap()).into_owned()
    }
}

impl Write for Lines {
    fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(octets);
        Ok(octets.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
