//! The bench: our two programs as shipped beside an nginx reverse proxy over a TLS nginx origin.
//!
//! One line per case on standard output, each sample on standard error. Both systems run on
//! loopback with TLS between their two programs, take turns, and the medians are compared.
//! docs/testing.md says what is measured, how, and what came out on which machine.

mod load;
mod nginx;
mod ours;

use std::{
    fs::File,
    io::{self, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    process::ExitCode,
    thread,
    time::{Duration, Instant},
};

use argh::FromArgs;
use spdy_tests::{
    fixture::{Builds, Cost, Pair, Program, TempRoot},
    link::{Link, Settings},
};

/// Measures spdy-proxy and spdy-agent beside nginx.
#[derive(FromArgs)]
struct Options {
    /// smaller files and shorter runs: to see that it works, not to compare
    #[argh(switch)]
    quick: bool,
    /// only this case or group of cases: download, requests, rtt, idle, link, or one such as
    /// download-16
    #[argh(option)]
    only: Option<String>,
    /// only one system: ours or nginx
    #[argh(option)]
    system: Option<String>,
    /// nginx with its default buffers
    #[argh(switch)]
    stock: bool,
    /// samples of each system per case (3)
    #[argh(option, default = "3")]
    rounds: usize,
    /// agents of the idle case (200)
    #[argh(option, default = "200")]
    agents: usize,
}

fn main() -> ExitCode {
    match run(&argh::from_env()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> io::Result<()> {
    let bench = Bench::prepare(options)?;
    bench.describe();
    let plain = |case: &str| bench.wants(case);
    let cases = ["download-1", "download-16", "requests-1", "requests-32", "requests-256"];
    if cases.into_iter().any(plain) {
        let systems = bench.systems(None)?;
        bench.verify(&systems)?;
        for (case, count) in [("download-1", 1), ("download-16", 16)] {
            if bench.wants(case) {
                bench.download(case, &systems, count)?;
            }
        }
        for (case, count) in [("requests-1", 1), ("requests-32", 32), ("requests-256", 256)] {
            if bench.wants(case) {
                bench.requests(case, &systems, count)?;
            }
        }
        for system in &systems {
            let [far, near] = system.programs();
            let (far, near) = (far.cost()?.resident_peak >> 10, near.cost()?.resident_peak >> 10);
            println!("{:<14}{system} {far} + {near} KiB resident at most", "memory");
        }
    }
    for milliseconds in [20, 100, 300] {
        let case = format!("rtt-{milliseconds}");
        if bench.wants(&case) {
            bench.round_trip(&case, Duration::from_millis(milliseconds))?;
        }
    }
    if bench.wants("idle") && bench.builds.is_some() {
        bench.idle(options.agents)?;
    }
    if bench.wants("link") {
        bench.link()?;
    }
    Ok(())
}

/// What is measured with, and how much of it.
struct Bench<'a> {
    options: &'a Options,
    /// `None`: nginx alone.
    builds: Option<Builds>,
    folder: TempRoot,
    large: Content,
    medium: Content,
}

/// A file that is served.
struct Content {
    path: &'static str,
    octets: u64,
    digest: String,
}

enum System {
    Ours(Pair),
    Nginx(nginx::Pair),
}

/// What one run of a case gave.
#[derive(Clone, Copy)]
struct Sample {
    /// Octets or requests per second.
    rate: f64,
    /// Processor seconds of the program that has the files, per octet or request.
    far: f64,
    /// Processor seconds of the program that faces the client, per octet or request.
    near: f64,
}

impl<'a> Bench<'a> {
    fn prepare(options: &'a Options) -> io::Result<Self> {
        let builds = match options.system.as_deref() {
            Some("nginx") => None,
            None | Some("ours") => Some(Builds::shipped()),
            Some(other) => return Err(io::Error::other(format!("no system {other}"))),
        };
        let folder = TempRoot::new();
        let (large, medium) = if options.quick { (256, 64) } else { (1_024, 256) };
        let large = Content::write(&folder, "/large.bin", large << 20)?;
        let medium = Content::write(&folder, "/medium.bin", medium << 20)?;
        Content::write(&folder, SMALL.0, SMALL.1)?;
        Ok(Self { options, builds, folder, large, medium })
    }

    fn wants(&self, case: &str) -> bool {
        self.options.only.as_deref().is_none_or(|only| {
            case.strip_prefix(only).is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
        })
    }

    /// The machine, so that figures can be told apart later.
    fn describe(&self) {
        let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name"));
        let model = model.unwrap_or("unknown processor").trim_matches([':', ' ', '\t']);
        let cores = thread::available_parallelism().map_or(0, usize::from);
        println!("{:<14}{model}, {cores} cores, {} rounds", "machine", self.options.rounds);
    }

    /// Both systems, each with `link` between its two programs.
    fn systems(&self, link: Option<&Links>) -> io::Result<Vec<System>> {
        let root = self.folder.path();
        let via = |address| match link {
            Some(links) => links.to(address),
            None => Ok(address),
        };
        let mut systems = Vec::new();
        if let Some(builds) = &self.builds {
            systems.push(System::Ours(ours::start(builds, root, via)?));
        }
        if self.options.system.as_deref() != Some("ours") {
            systems.push(System::Nginx(nginx::Pair::start(root, self.options.stock, via)?));
        }
        Ok(systems)
    }

    /// Whole content once per system, outside of any measurement.
    fn verify(&self, systems: &[System]) -> io::Result<()> {
        for system in systems {
            let Content { path, octets, digest } = &self.medium;
            if load::digest(system.address(), path, *octets)? != *digest {
                return Err(io::Error::other(format!("{system}: {path} arrives changed")));
            }
        }
        Ok(())
    }

    fn download(&self, case: &str, systems: &[System], count: usize) -> io::Result<()> {
        let Content { path, octets, .. } = &self.large;
        let total = (octets * count as u64) as f64;
        let samples = self.turns(case, systems, |system| {
            let mut time = Duration::ZERO;
            let (far, near) = system.cost_of(|| {
                time = load::downloads(system.address(), path, *octets, count)?.time;
                Ok(())
            })?;
            let rate = total / time.as_secs_f64();
            Ok(Sample { rate, far: far / total, near: near / total })
        })?;
        report(case, systems, &samples, 1e-6, "MB/s", 1e9, "CPU-s/GB");
        Ok(())
    }

    fn requests(&self, case: &str, systems: &[System], count: usize) -> io::Result<()> {
        let time = Duration::from_secs(if self.options.quick { 1 } else { 5 });
        let (path, octets) = SMALL;
        let samples = self.turns(case, systems, |system| {
            let address = system.address();
            load::requests(address, path, octets, count, time / 5)?;
            let mut rate = 0.0;
            let (far, near) = system.cost_of(|| {
                rate = load::requests(address, path, octets, count, time)?;
                Ok(())
            })?;
            let done = rate * time.as_secs_f64();
            Ok(Sample { rate, far: far / done, near: near / done })
        })?;
        report(case, systems, &samples, 1.0, "requests/s", 1e6, "CPU-us/request");
        Ok(())
    }

    /// One download at a time through links with this round trip between the two programs.
    fn round_trip(&self, case: &str, round_trip: Duration) -> io::Result<()> {
        let links = Links { round_trip, links: std::cell::RefCell::default() };
        let systems = self.systems(Some(&links))?;
        // Ten seconds at 6 MiB per round trip, as far as the file goes.
        let content =
            if round_trip > Duration::from_millis(200) { &self.medium } else { &self.large };
        let samples = self.turns(case, &systems, |system| {
            let mut steady = Duration::ZERO;
            let (far, near) = system.cost_of(|| {
                let download = load::downloads(system.address(), content.path, content.octets, 1)?;
                steady = download.second_half;
                Ok(())
            })?;
            let octets = content.octets as f64;
            let rate = octets / 2.0 / steady.as_secs_f64();
            Ok(Sample { rate, far: far / octets, near: near / octets })
        })?;
        report(case, &systems, &samples, 1e-6, "MB/s in the second half", 1e9, "CPU-s/GB");
        let floor = f64::from(6 << 20) / round_trip.as_secs_f64();
        for (system, samples) in systems.iter().zip(&samples) {
            let share = median(samples, |sample| sample.rate) / floor * 100.0;
            println!("{case:<14}{system} {share:.0} % of 6 MiB per round trip");
        }
        Ok(())
    }

    fn idle(&self, agents: usize) -> io::Result<()> {
        let Some(builds) = &self.builds else { return Ok(()) };
        let agents = if self.options.quick { agents.min(20) } else { agents };
        let idle = ours::idle(builds, agents)?;
        println!(
            "{:<14}ours {:.1} KiB of the proxy per tunnel over {} tunnels, {} KiB per agent",
            "idle",
            idle.per_tunnel as f64 / 1_024.0,
            idle.tunnels,
            idle.agent >> 10,
        );
        Ok(())
    }

    /// What the link emulator itself can carry: far more than the cases that use it need.
    fn link(&self) -> io::Result<()> {
        for milliseconds in [0, 100] {
            let (octets, steady, cpu) =
                through_link(self.large.octets, Duration::from_millis(milliseconds))?;
            println!(
                "{:<14}link {milliseconds} ms: {:.0} MB/s in the second half, {:.2} CPU-s/GB",
                "link",
                octets / 2.0 / steady.as_secs_f64() / 1e6,
                cpu.as_secs_f64() * 1e9 / octets
            );
        }
        Ok(())
    }

    /// Lets the systems take turns; samples per system.
    fn turns(
        &self,
        case: &str,
        systems: &[System],
        mut sample: impl FnMut(&System) -> io::Result<Sample>,
    ) -> io::Result<Vec<Vec<Sample>>> {
        let mut samples = vec![Vec::new(); systems.len()];
        for round in 0..self.options.rounds.max(1) {
            for (system, samples) in systems.iter().zip(&mut samples) {
                let got = sample(system)
                    .map_err(|error| io::Error::new(error.kind(), format!("{system}: {error}")))?;
                let Sample { rate, far, near } = got;
                eprintln!("{case} round {round} {system}: {rate:.0}/s, {far:.3e} + {near:.3e} s");
                samples.push(got);
            }
        }
        Ok(samples)
    }
}

impl Content {
    /// Writes pseudo-random octets, which leaves them in the page cache.
    fn write(folder: &TempRoot, path: &'static str, octets: u64) -> io::Result<Self> {
        let digest = folder.random_file(&path[1..], octets, octets);
        // The disk must not be busy with it while others are measured.
        File::open(folder.join(&path[1..]))?.sync_data()?;
        Ok(Self { path, octets, digest })
    }
}

impl System {
    fn address(&self) -> SocketAddr {
        match self {
            Self::Ours(pair) => pair.proxy.http,
            Self::Nginx(pair) => pair.address,
        }
    }

    /// The program that has the files, then the one that faces the client.
    fn programs(&self) -> [&Program; 2] {
        match self {
            Self::Ours(pair) => [pair.agent.program(), pair.proxy.program()],
            Self::Nginx(pair) => [&pair.origin, &pair.proxy],
        }
    }

    /// Processor seconds that the two programs spend while `work` runs.
    fn cost_of(&self, work: impl FnOnce() -> io::Result<()>) -> io::Result<(f64, f64)> {
        let [far, near] = self.programs();
        let before = (far.cost()?.cpu, near.cost()?.cpu);
        work()?;
        let spent = |program: &Program, before| Ok::<_, io::Error>(program.cost()?.cpu - before);
        Ok((spent(far, before.0)?.as_secs_f64(), spent(near, before.1)?.as_secs_f64()))
    }
}

impl std::fmt::Display for System {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Ours(_) => "ours",
            Self::Nginx(_) => "nginx",
        })
    }
}

/// Links with one round trip, kept as long as the systems that use them.
struct Links {
    round_trip: Duration,
    links: std::cell::RefCell<Vec<Link>>,
}

impl Links {
    fn to(&self, target: SocketAddr) -> io::Result<SocketAddr> {
        let link = Link::start(target, Settings::round_trip(self.round_trip))?;
        let address = link.address();
        self.links.borrow_mut().push(link);
        Ok(address)
    }
}

fn report(
    case: &str,
    systems: &[System],
    samples: &[Vec<Sample>],
    rate_scale: f64,
    rate_unit: &str,
    cost_scale: f64,
    cost_unit: &str,
) {
    let mut line = format!("{case:<14}");
    let mut totals = Vec::new();
    for (system, samples) in systems.iter().zip(samples) {
        let rate = median(samples, |sample| sample.rate);
        let cost = median(samples, |sample| sample.far + sample.near) * cost_scale;
        let (far, near) = (
            median(samples, |sample| sample.far) * cost_scale,
            median(samples, |sample| sample.near) * cost_scale,
        );
        line += &format!(
            "{system} {:.0} {rate_unit}, {cost:.2} {cost_unit} ({far:.2} + {near:.2}); ",
            rate * rate_scale
        );
        totals.push((rate, cost));
    }
    if let [ours, nginx] = totals[..] {
        line += &format!("rate x{:.2}, cost x{:.2}", ours.0 / nginx.0, ours.1 / nginx.1);
    }
    println!("{}", line.trim_end_matches([' ', ';']));
}

fn median(samples: &[Sample], of: impl Fn(&Sample) -> f64) -> f64 {
    let mut values: Vec<f64> = samples.iter().map(of).collect();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len() % 2 == 1 { values[middle] } else { (values[middle - 1] + values[middle]) / 2.0 }
}

/// Octets, time of the second half, and processor time of this process (both ends and the link).
fn through_link(octets: u64, round_trip: Duration) -> io::Result<(f64, Duration, Duration)> {
    let target = TcpListener::bind("127.0.0.1:0")?;
    let link = Link::start(target.local_addr()?, Settings::round_trip(round_trip))?;
    let mut dialled = TcpStream::connect(link.address())?;
    let (mut accepted, _) = target.accept()?;
    let before = Cost::of(std::process::id())?.cpu;
    let sender = thread::spawn(move || {
        let block = vec![7; 1 << 16];
        (0..octets / block.len() as u64).try_for_each(|_| accepted.write_all(&block))
    });
    let mut buf = vec![0; 1 << 20];
    let (mut received, mut half) = (0, Instant::now());
    while received < octets {
        let count = dialled.read(&mut buf)? as u64;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if received < octets / 2 && received + count >= octets / 2 {
            half = Instant::now();
        }
        received += count;
    }
    let steady = half.elapsed();
    sender.join().map_err(|_| io::Error::other("sender panicked"))??;
    Ok((octets as f64, steady, Cost::of(std::process::id())?.cpu - before))
}

/// The small file: its path and its octets.
const SMALL: (&str, u64) = ("/small.bin", 4_096);
