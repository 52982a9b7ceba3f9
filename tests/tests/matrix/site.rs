//! A proxy and its agent, paired and joined, on a network that can be broken.
//!
//! It owns the programs, the way between them and the clock of a row. What is broken is the rows'.

use std::{
    cell::RefCell,
    fs,
    net::SocketAddr,
    path::PathBuf,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use spdy_tests::{
    fixture::{Builds, Program, TempRoot, binary, finished, target_dir, wait_until},
    http::Request,
    link::{Link, Settings, Way},
    netns::{Network, PROXY},
    observe::{Debug, Signal},
    skip::{skipped, skipped_part},
};

use crate::names::Names;

/// At which speed time passes for the programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// Every duration is an eighth of its own: the libraries of the programs, see
    /// `tests/examples`.
    Scaled,
    /// The programs as they are run.
    Full,
}

impl Pace {
    /// What a time of the design is here.
    pub fn time(self, seconds: f64) -> Duration {
        let whole = Duration::from_secs_f64(seconds);
        if self == Self::Scaled { whole / SCALE } else { whole }
    }

    /// Bits in a second that are for the programs what `bits` are for those at full length.
    pub fn rate(self, bits: u64) -> u64 {
        if self == Self::Scaled { bits * u64::from(SCALE) } else { bits }
    }

    /// What the machine may take beside: it does not pass faster than elsewhere.
    fn slack(self) -> Duration {
        Duration::from_secs(if self == Self::Scaled { 1 } else { 0 })
    }

    fn builds(self) -> Builds {
        let built = |name| target_dir().join("debug/examples").join(name);
        match self {
            Self::Scaled => Builds::at(built("scaled-proxy"), built("scaled-agent")),
            Self::Full => Builds::beside(),
        }
    }
}

/// What leads from the agent to the proxy.
#[derive(Debug)]
enum Line {
    /// Machines of their own.
    Network(Network),
    /// The loopback, where there can be none.
    Link(Option<Link>),
}

impl Line {
    fn any() -> Self {
        network().map_or_else(
            |reason| {
                skipped_part(format_args!("{reason}: an emulated link instead"));
                Self::Link(None)
            },
            Self::Network,
        )
    }
}

/// What stands in front of the agent's command line when it asks a resolver of ours.
type Before = Vec<String>;

/// See the module.
#[derive(Debug)]
pub struct Site {
    pub pace: Pace,
    pub http: SocketAddr,
    pub tunnel: SocketAddr,
    pub state: TempRoot,
    line: Line,
    proxy: RefCell<Option<Program>>,
    agent: RefCell<Option<Program>>,
    before: Before,
    root: TempRoot,
    config: TempRoot,
}

/// What the programs had said when something happened.
#[derive(Clone, Copy, Debug)]
pub struct Mark {
    /// When.
    pub at: Instant,
    agent: usize,
    proxy: usize,
    ups: usize,
}

impl Site {
    /// Starts both, with the tunnel up.
    pub fn start(pace: Pace) -> Self {
        Self::served(pace, Line::any())
    }

    fn served(pace: Pace, line: Line) -> Self {
        let site = Self::on(pace, line, None);
        site.start_agent();
        site.settle();
        site
    }

    /// The same on a network of machines; `None`, with a line that says why, where there can be
    /// none.
    pub fn on_network(pace: Pace) -> Option<Self> {
        network()
            .inspect_err(|reason| skipped(reason))
            .ok()
            .map(|network| Self::served(pace, Line::Network(network)))
    }

    /// Starts the proxy and joins the agent, which knows the proxy by its name only.
    pub fn named(pace: Pace, names: &Names) -> Option<Self> {
        network()
            .inspect_err(|reason| skipped(reason))
            .ok()
            .map(|network| Self::on(pace, Line::Network(network), Some(names)))
    }

    /// Starts the proxy and joins the agent, which does not run yet.
    pub fn paired(pace: Pace) -> Self {
        Self::on(pace, Line::any(), None)
    }

    /// The same on the link emulator, which can be slower than a packet.
    pub fn emulated(pace: Pace) -> Self {
        Self::on(pace, Line::Link(None), None)
    }

    fn on(pace: Pace, line: Line, names: Option<&Names>) -> Self {
        let root = TempRoot::new();
        root.random_file("large", 48 << 20, 1);
        root.write("small", b"small");
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let (http, tunnel) = match &line {
            Line::Network(network) => {
                // This thread is a visitor on the proxy's machine.
                network.proxy.enter().unwrap();
                (any, SocketAddr::from(([0, 0, 0, 0], 1444)))
            }
            Line::Link(_) => (any, any),
        };
        let mut site = Self {
            pace,
            http,
            tunnel,
            state: TempRoot::new(),
            line,
            proxy: RefCell::default(),
            agent: RefCell::default(),
            before: Vec::new(),
            root,
            config: TempRoot::new(),
        };
        site.start_proxy();
        let listening = |kind: &str| {
            let proxy = site.proxy.borrow();
            proxy.as_ref().unwrap().wait_for("its address", |line| {
                let words = line.split_once("listening on ")?.1;
                words.strip_suffix(kind)?.trim().parse().ok()
            })
        };
        (site.http, site.tunnel) = (listening("http"), listening("tunnel"));
        if let Line::Link(link) = &mut site.line {
            *link = Some(Link::start(site.tunnel, Settings::default()).unwrap());
        }
        let address = match (&site.line, names) {
            (Line::Network(network), Some(names)) => {
                names.serve(&network.agent);
                site.before = names.before(&site.config, pace);
                format!("{}:1444", names.name())
            }
            _ => site.dialled().to_string(),
        };
        let mut pair = Command::new(site.pace.builds().proxy);
        pair.args(["pair", "nas1", "--access", "open", "--address", &address, "--state-dir"]);
        let code = finished(pair.arg(site.state.path()), "").lines().last().unwrap().to_owned();
        let mut join = site.agent_command(&binary("spdy-agent"));
        join.arg("join").arg("--config").arg(site.conf());
        site.on_agent(|| finished(&mut join, &format!("{code}\n")));
        site
    }

    /// Waits until the tunnel is there and nothing moves.
    pub fn settle(&self) {
        wait_until("the tunnel serves", || self.status() == Some(200));
        wait_until("it is idle", || Debug::of(self.http).total("streams_now") == 0);
    }

    /// Where the agent dials.
    pub fn dialled(&self) -> SocketAddr {
        match &self.line {
            Line::Network(_) => SocketAddr::new(PROXY, self.tunnel.port()),
            Line::Link(link) => link.as_ref().unwrap().address(),
        }
    }

    /// The network of machines.
    pub fn network(&self) -> &Network {
        match &self.line {
            Line::Network(network) => network,
            Line::Link(_) => panic!("there is none: see Site::on_network"),
        }
    }

    fn conf(&self) -> PathBuf {
        self.config.join("agent.conf")
    }

    fn agent_command(&self, program: &std::path::Path) -> Command {
        let mut words = self.before.clone();
        words.push(program.to_str().unwrap().to_owned());
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]);
        command
    }

    fn on_agent<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        match &self.line {
            Line::Network(network) => network.agent.run(work),
            Line::Link(_) => work(),
        }
    }

    /// Starts the agent.
    pub fn start_agent(&self) {
        let mut command = self.agent_command(&self.pace.builds().agent);
        command.arg("-r").arg(self.root.path()).arg("--config").arg(self.conf());
        let program = self.on_agent(|| Program::start("spdy-agent", &mut command));
        *self.agent.borrow_mut() = Some(program);
    }

    /// Starts the proxy, on the addresses that it had before.
    pub fn start_proxy(&self) {
        let mut command = Command::new(self.pace.builds().proxy);
        command.args(["--listen", &self.http.to_string()]);
        command.args(["--debug", "--tunnel-listen", &self.tunnel.to_string()]);
        let program =
            Program::start("spdy-proxy", command.arg("--state-dir").arg(self.state.path()));
        program.wait_for("its addresses", |line| line.ends_with(" tunnel").then_some(()));
        *self.proxy.borrow_mut() = Some(program);
    }

    /// Ends the proxy at once (SIGKILL).
    pub fn kill_proxy(&self) {
        self.proxy.borrow_mut().as_mut().unwrap().kill();
    }

    pub fn signal_proxy(&self, signal: Signal) {
        self.proxy.borrow().as_ref().unwrap().signal(signal).unwrap();
    }

    pub fn signal_agent(&self, signal: Signal) {
        self.agent.borrow().as_ref().unwrap().signal(signal).unwrap();
    }

    /// Black hole: nothing passes and nobody is told.
    pub fn hole(&self) {
        match &self.line {
            Line::Network(network) => network.hole(),
            Line::Link(link) => link.as_ref().unwrap().hold(),
        }
    }

    /// Ends [`hole`](Self::hole).
    pub fn heal(&self) {
        match &self.line {
            Line::Network(network) => network.heal(),
            Line::Link(link) => link.as_ref().unwrap().release(),
        }
    }

    /// RST to both.
    pub fn reset(&self) {
        match &self.line {
            Line::Network(network) => network.reset(),
            Line::Link(link) => link.as_ref().unwrap().cut(),
        }
    }

    /// A line of so many bits in a second; on an emulated one, for connections to come.
    pub fn limit(&self, bits: u64) {
        match &self.line {
            Line::Network(network) => network.limit(bits),
            Line::Link(link) => {
                let way = Way { rate: Some(bits / 8), queue: 16 << 10, ..Way::default() };
                link.as_ref().unwrap().set(Settings { up: way, down: way });
                self.reset();
                self.settle();
            }
        }
    }

    /// A slow link in place of the way, for an agent that does not run yet.
    pub fn slow_down(&self, bits: u64) {
        let Line::Link(Some(link)) = &self.line else { panic!("see Site::emulated") };
        let way = Way { rate: Some(bits / 8), split: Some(64), ..Way::default() };
        link.set(Settings { up: way, down: way });
    }

    /// How often the agent's log has `part`.
    pub fn agent_said(&self, part: &str) -> usize {
        count(&self.agent, part)
    }

    /// How often the proxy's log has `part`.
    pub fn proxy_said(&self, part: &str) -> usize {
        count(&self.proxy, part)
    }

    /// Now, just before something happens.
    pub fn mark(&self) -> Mark {
        let (agent, proxy) = (self.agent_said(AGENT_DOWN), self.proxy_said(PROXY_DOWN));
        Mark { agent, proxy, ups: self.proxy_said(PROXY_UP), at: Instant::now() }
    }

    /// Waits until `agent` and `proxy`, those that are asked for, have given up the tunnel, and
    /// returns how long that took.
    pub fn noticed(&self, mark: Mark, agent: bool, proxy: bool) -> [Option<Duration>; 2] {
        let [agent, proxy, _] = self.watch(mark, [agent, proxy, false]);
        [agent, proxy]
    }

    /// Waits until both have given up the tunnel and a later one serves, and returns how long each
    /// took.
    pub fn replaced(&self, mark: Mark) -> [Duration; 3] {
        self.watch(mark, [true; 3]).map(Option::unwrap)
    }

    fn watch(&self, mark: Mark, wanted: [bool; 3]) -> [Option<Duration>; 3] {
        let mut seen = [None; 3];
        let limit = mark.at + self.pace.time(90.0) + Duration::from_secs(5);
        while (0..3).any(|at| wanted[at] && seen[at].is_none()) {
            let is_so: [&dyn Fn() -> bool; 3] = [
                &|| self.agent_said(AGENT_DOWN) > mark.agent,
                &|| self.proxy_said(PROXY_DOWN) > mark.proxy,
                // Not before: a request would be news to a tunnel that nobody uses.
                &|| self.proxy_said(PROXY_UP) > mark.ups && self.status() == Some(200),
            ];
            for at in 0..3 {
                if wanted[at] && seen[at].is_none() && is_so[at]() {
                    seen[at] = Some(mark.at.elapsed());
                }
            }
            assert!(Instant::now() < limit, "waits in vain: {seen:?} of {wanted:?}");
            thread::sleep(STEP);
        }
        seen
    }

    /// Waits until a tunnel that came after `mark` serves, and returns how long that took since
    /// `since`.
    pub fn back(&self, mark: Mark, since: Instant) -> Duration {
        let limit = since + self.pace.time(120.0) + Duration::from_secs(5);
        while self.proxy_said(PROXY_UP) <= mark.ups || self.status() != Some(200) {
            assert!(Instant::now() < limit, "no service after {:?}", since.elapsed());
            thread::sleep(STEP);
        }
        since.elapsed()
    }

    /// The same for a proxy that was started anew.
    pub fn back_at_new(&self, since: Instant) -> Duration {
        self.back(Mark { at: since, agent: 0, proxy: 0, ups: 0 }, since)
    }

    /// What a small request gets; `None` when the connection ends instead.
    pub fn status(&self) -> Option<u16> {
        Request::get("/small").send(self.http).ok().map(|answer| answer.status)
    }

    /// Prints the row of the table and holds it against the bounds, which are seconds at full
    /// length.
    pub fn row(&self, name: &str, cells: [Option<(Duration, f64)>; 3]) {
        let pace = self.pace;
        let shown = cells.map(|cell| {
            let cell = cell.map(|(took, bound)| {
                let bound = pace.time(bound);
                format!("{:.1} s ({:.1})", took.as_secs_f64(), bound.as_secs_f64())
            });
            cell.unwrap_or_else(|| "-".to_owned())
        });
        let way = if matches!(self.line, Line::Network(_)) { "" } else { ", emulated link" };
        println!("| {name} | {pace:?}{way} | {} |", shown.join(" | "));
        for (took, bound) in cells.into_iter().flatten() {
            assert!(took <= pace.time(bound) + pace.slack(), "{name}: {took:?}, {bound} s");
        }
    }
}

/// A network, or why there is none.
fn network() -> Result<Network, String> {
    if std::env::var_os("MATRIX_LINK").is_some() {
        return Err("no network namespaces: not wanted (MATRIX_LINK)".to_owned());
    }
    Network::new().map_err(|error| format!("no network namespaces: {error}"))
}

fn count(program: &RefCell<Option<Program>>, part: &str) -> usize {
    let program = program.borrow();
    program.as_ref().map_or(0, |program| program.text().matches(part).count())
}

/// The identity that the proxy's state folder holds, PEM.
pub fn key_of(state: &TempRoot) -> [String; 2] {
    ["cert.pem", "key.pem"].map(|name| fs::read_to_string(state.join(name)).unwrap())
}

/// What durations are divided by; that of `tests/examples`.
const SCALE: u32 = 8;
/// How often it is looked.
const STEP: Duration = Duration::from_millis(10);
const AGENT_DOWN: &str = "event=tunnel_down";
const PROXY_DOWN: &str = "tunnel=down ";
const PROXY_UP: &str = "tunnel=up ";
