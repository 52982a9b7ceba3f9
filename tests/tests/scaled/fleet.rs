//! Agents of many origins in one process, each with its own tunnel.
//!
//! It owns their thread, and how they are paired without 200 commands. What they are for is the
//! tests'.
#![allow(clippy::unwrap_used, reason = "a fixture that fails is a failed test")]

use std::{
    net::SocketAddr,
    path::Path,
    sync::mpsc,
    thread::{self, JoinHandle},
    time::Duration,
};

use spdy_agent::{
    dial::{Address, Token},
    log::Log,
    origin::Options,
    supervise,
    verify::{Pin, Trust, sha256},
};
use spdy_proxy::{
    access::Access,
    state::{Port, State},
};

/// See the module. Dropping it cuts all tunnels.
#[derive(Debug)]
pub struct Fleet {
    wanted: Option<mpsc::Sender<supervise::Settings>>,
    running: Option<JoinHandle<()>>,
}

impl Fleet {
    /// One without agents.
    pub fn new() -> Self {
        let (wanted, settings) = mpsc::channel::<supervise::Settings>();
        let running = thread::spawn(move || {
            let executor = smol::LocalExecutor::new();
            smol::block_on(executor.run(async {
                loop {
                    match settings.try_recv() {
                        Ok(settings) => {
                            let run = supervise::run(settings, std::future::pending());
                            executor.spawn(run).detach();
                        }
                        Err(mpsc::TryRecvError::Empty) => {
                            smol::Timer::after(Duration::from_millis(5)).await;
                        }
                        // Dropping the executor cuts all tunnels.
                        Err(mpsc::TryRecvError::Disconnected) => return,
                    }
                }
            }));
        });
        Self { wanted: Some(wanted), running: Some(running) }
    }

    /// Starts one more agent.
    pub fn add(&self, settings: supervise::Settings) {
        self.wanted.as_ref().unwrap().send(settings).unwrap();
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        self.wanted = None;
        let ended = self.running.take().map(JoinHandle::join);
        assert!(thread::panicking() || matches!(ended, Some(Ok(()))), "an agent panicked");
    }
}

/// Does in a state folder what `pair` and `join` would do for each name; returns the pin of the
/// proxy.
pub fn pair_all(folder: &Path, names: &[String]) -> Pin {
    let state = State::open(folder).unwrap();
    for name in names {
        state.set_access(name, Access::Open).unwrap();
        let secret = state.pair(name, Duration::from_secs(60)).unwrap();
        assert!(state.join(name, &secret, sha256(token(name).as_bytes())).unwrap());
    }
    Pin(state.identity(Port::Tunnel).unwrap().pin())
}

/// The settings of an agent that [`pair_all`] let in.
pub fn settings(name: &str, root: &Path, tunnel: SocketAddr, pin: Pin) -> supervise::Settings {
    let mut settings = supervise::Settings::new(name, Options::new(root), Log::discard());
    settings.proxies = vec![supervise::Proxy {
        address: Address::parse(&tunnel.to_string()).unwrap(),
        trust: Trust::Pins(vec![pin]),
        token: Token::parse(&token(name)),
        card: None,
    }];
    settings
}

fn token(name: &str) -> String {
    format!("the-token-of-{name}")
}
