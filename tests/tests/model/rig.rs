//! The programs under test and what is done to them while they serve.
//!
//! It owns the processes, the link between them, and which faults there are.

use std::{
    fs,
    net::SocketAddr,
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

use spdy_tests::{
    fixture::{Agent, Builds, Proxy, TempRoot, join, wait_within},
    link::{Link, Settings},
    observe::{Signal, signal},
};

use super::client::Plan;

/// Something that happens to the programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// SIGTERM, then another process when it has ended.
    AgentRestart,
    /// SIGTERM, and another process at once.
    AgentReplace,
    AgentKill,
    AgentReload,
    ProxyRestart,
    ProxyKill,
    ProxyReload,
    ProxyHandover,
    Cut,
    Silence,
}

/// Both programs.
#[derive(Debug)]
pub struct Rig {
    proxy: Proxy,
    agent: Agent,
    link: Link,
    builds: Builds,
    root: PathBuf,
    config: TempRoot,
    state: TempRoot,
    arguments: Vec<String>,
    /// The process that serves, which may be a successor of the one that was started.
    serving: u32,
    /// How often something was done.
    pub counts: Vec<(Fault, usize)>,
}

impl Rig {
    pub fn start(root: PathBuf, arguments: Vec<String>, round_trip: Duration) -> Self {
        let (state, config, builds) = (TempRoot::new(), TempRoot::new(), Builds::beside());
        let proxy = Proxy::start_in(state.path(), &PROXY);
        let link = Link::start(proxy.tunnel, Settings::round_trip(round_trip)).unwrap();
        let path = config.join("agent.conf");
        join(&builds, &proxy.pair_via("nas1", link.address()), &path);
        let words: Vec<_> = arguments.iter().map(String::as_str).collect();
        let agent = Agent::joined(&builds, &root, &path, &words);
        proxy.wait_for_tunnel("nas1");
        let serving = proxy.program().id();
        let counts = Vec::new();
        Self { proxy, agent, link, builds, root, config, state, arguments, serving, counts }
    }

    pub fn http(&self) -> SocketAddr {
        self.proxy.http
    }

    /// Does something to the programs.
    pub fn apply(&mut self, fault: Fault) {
        match self.counts.iter_mut().find(|count| count.0 == fault) {
            Some(count) => count.1 += 1,
            None => self.counts.push((fault, 1)),
        }
        match fault {
            Fault::AgentRestart => self.restart_agent(),
            Fault::AgentReplace => {
                let new = self.new_agent();
                let mut old = std::mem::replace(&mut self.agent, new);
                old.program().terminate();
                // It drains beside the new one, as long as its requests last.
                thread::spawn(move || old.program_mut().ended_within(Duration::from_secs(40)));
            }
            Fault::AgentKill => {
                self.agent.program_mut().kill();
                self.agent = self.new_agent();
            }
            Fault::AgentReload => signal(self.agent.program().id(), Signal::HUP),
            Fault::ProxyRestart | Fault::ProxyKill => {
                let is_killed = fault == Fault::ProxyKill;
                self.restart_proxy(if is_killed { Signal::KILL } else { Signal::TERM });
                self.bring_back();
            }
            Fault::ProxyReload => self.tell_proxy(Signal::HUP),
            Fault::ProxyHandover => self.hand_over(),
            Fault::Cut => self.link.cut(),
            Fault::Silence => {
                self.link.hold();
                thread::sleep(Duration::from_millis(700));
                self.link.release();
            }
        }
    }

    /// SIGTERM and a new process: after it nothing is left that a start removes.
    pub fn restart_agent(&mut self) {
        self.agent.program().terminate();
        if self.agent.program_mut().ended_within(Duration::from_secs(40)).is_none() {
            self.agent.program_mut().kill();
        }
        self.agent = self.new_agent();
    }

    /// What the programs said that no program should, and whether one has ended by itself.
    pub fn complaints(&mut self) -> Vec<String> {
        let mut complaints = Vec::new();
        for (name, text) in
            [("proxy", self.proxy.program().text()), ("agent", self.agent.program().text())]
        {
            let said = text.lines().filter(|line| line.contains("panicked"));
            complaints.extend(said.map(|line| format!("{name}: {line}")));
        }
        if let Ok(Some(status)) = self.agent.program_mut().try_exit() {
            complaints.push(format!("agent: ended by itself: {status}"));
            self.agent = self.new_agent();
        }
        if !is_alive(self.serving) {
            complaints.push("proxy: ended by itself".to_owned());
            self.restart_proxy(Signal::KILL);
        }
        complaints
    }

    /// Waits until requests are answered.
    pub fn wait_until_served(&self) {
        let pause = Duration::from_millis(50);
        wait_within(Duration::from_secs(60), pause, "requests are answered", || {
            let exchange = Plan::new("HEAD", "/").run(self.http(), || ());
            exchange.answer.is_some_and(|answer| answer.status == 200)
        });
    }

    /// An agent whose proxy has gone again and again waits long before it dials; a new one does not.
    fn bring_back(&mut self) {
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(2) {
            if self.proxy.program().text().contains("tunnel=up origin=nas1 ") {
                return;
            }
            thread::sleep(Duration::from_millis(20));
        }
        self.agent.program_mut().kill();
        self.agent = self.new_agent();
    }

    fn new_agent(&self) -> Agent {
        let words: Vec<_> = self.arguments.iter().map(String::as_str).collect();
        Agent::joined(&self.builds, &self.root, &self.config.join("agent.conf"), &words)
    }

    fn tell_proxy(&self, what: Signal) {
        if is_alive(self.serving) {
            signal(self.serving, what);
        }
    }

    fn restart_proxy(&mut self, how: Signal) {
        self.tell_proxy(how);
        let begun = Instant::now();
        while is_alive(self.serving) {
            if begun.elapsed() > Duration::from_secs(8) {
                self.tell_proxy(Signal::KILL);
            }
            // The child of this process is a zombie until it is asked for.
            let _ = self.proxy.program_mut().try_exit();
            thread::sleep(Duration::from_millis(5));
        }
        self.proxy.program_mut().kill();
        // One that was to take over serves alone once its predecessor is no more.
        for id in self.all_proxies() {
            signal(id, Signal::KILL);
            wait_within(Duration::from_secs(10), Duration::from_millis(5), "its end", || {
                !is_alive(id)
            });
        }
        self.proxy.restart(&PROXY);
        self.serving = self.proxy.program().id();
    }

    fn hand_over(&mut self) {
        let before = self.successors();
        self.tell_proxy(Signal::USR2);
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(12) {
            let after = self.successors();
            if after.len() > before.len() {
                let old = self.serving;
                self.serving = after.last().copied().unwrap_or(old);
                let _ = self.proxy.program_mut().try_exit();
                return;
            }
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// All processes that serve for this test.
    fn all_proxies(&self) -> Vec<u32> {
        let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
        let ids = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        ids.filter(|id| is_alive(*id) && is_ours(*id, &self.builds, &self.state)).collect()
    }

    /// Those that the proxy has handed itself over to.
    fn successors(&self) -> Vec<u32> {
        let text = self.proxy.program().text();
        let find = |line: &str| {
            line.split_once("server=handed_over process=")?.1.trim().parse::<u32>().ok()
        };
        text.lines().filter_map(find).collect()
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        for id in self.all_proxies() {
            signal(id, Signal::KILL);
        }
    }
}

fn is_alive(id: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
    stat.rsplit(')').next().is_some_and(|rest| !rest.trim().is_empty() && !rest.starts_with(" Z"))
}

/// Whether a process is a proxy of this rig: numbers of processes come again.
fn is_ours(id: u32, builds: &Builds, state: &TempRoot) -> bool {
    let words = fs::read(format!("/proc/{id}/cmdline")).unwrap_or_default();
    let has = |part: &[u8]| words.windows(part.len().max(1)).any(|window| window == part);
    has(state.path().as_os_str().as_encoded_bytes())
        && builds.proxy.file_name().is_some_and(|name| has(name.as_encoded_bytes()))
}

/// Times that are short enough for a test.
const PROXY: [&str; 4] = ["--spread", "1", "--grace", "3"];
