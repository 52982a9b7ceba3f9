//! Many agents whose proxy was killed or restarted: they come back spread as designed, in time, and
//! the proxy bears it.
//!
//! Most are supervisors in this process, some are programs. What is counted is what the proxy says
//! of itself (`/debug`) and, while it is away, the dials to whoever has its port.
#![expect(clippy::unwrap_used, reason = "a test that panics has failed, with its line")]

#[path = "scaled/fleet.rs"]
mod fleet;

use std::{
    fmt,
    io::ErrorKind,
    net::{SocketAddr, TcpListener},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use fleet::{Fleet, pair_all};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use spdy_agent::{dial, supervise::Settings};
use spdy_tests::{
    fixture::{Agent, Builds, PATIENCE, Program, TempRoot, finished, target_dir, wait_until},
    observe::{Debug, Signal, memory_peak, processor_time},
};

/// Back-off cap of design.md.
const CAP: f64 = 30.0;
/// Time over which agents come back after GOAWAY.
const SPREAD: f64 = 15.0;

/// How many, and how fast time passes for them.
struct Crowd {
    agents: usize,
    programs: usize,
    scale: u32,
    builds: Builds,
}

impl Crowd {
    fn time(&self, seconds: f64) -> Duration {
        Duration::from_secs_f64(seconds) / self.scale
    }

    fn proxy(&self, state: &TempRoot, http: SocketAddr, tunnel: SocketAddr) -> Program {
        let mut command = Command::new(&self.builds.proxy);
        command.args(["--listen", &http.to_string(), "--tunnel-listen", &tunnel.to_string()]);
        command.arg("--debug").arg("--state-dir").arg(state.path());
        let program = Program::start("spdy-proxy", &mut command);
        program.wait_for("its addresses", |line| line.ends_with(" tunnel").then_some(()));
        program
    }

    fn scaled(&self, mut settings: Settings) -> Settings {
        let (steps, dial) = (&mut settings.backoff, &mut settings.dial);
        let whole = dial::Timings::default();
        assert_eq!(*dial, whole);
        // Deadlines stay: a machine that is busy with so many is no slower network.
        for duration in [&mut steps.network, &mut steps.network_max, &mut steps.reset] {
            *duration /= self.scale;
        }
        settings
    }
}

/// What was seen of a return.
struct Return {
    /// Until all had tunnels.
    took: Duration,
    /// Most tunnels that came within one second (scaled).
    most: u64,
    cpu: Duration,
    memory: u64,
}

impl fmt::Display for Return {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { took, most, cpu, memory } = self;
        let memory = memory >> 20;
        write!(f, "{took:.1?}, {most} within a second; proxy: {cpu:.1?} CPU, {memory} MiB")
    }
}

/// Watches a proxy that was just started until it has all tunnels.
fn watch(crowd: &Crowd, proxy: &Program, http: SocketAddr, since: Instant) -> Return {
    let wanted = u64::try_from(crowd.agents).unwrap();
    let (second, mut samples) = (crowd.time(1.0), Vec::new());
    let limit = crowd.time(CAP + 10.0) + Duration::from_secs(60);
    loop {
        let now = Debug::of(http).total("tunnels_now");
        samples.push((since.elapsed(), now));
        if now == wanted {
            break;
        }
        assert!(since.elapsed() < limit, "{now} of {wanted}");
        thread::sleep(second / 20);
    }
    let begins = |(at, count): &(Duration, u64)| {
        let last = samples.iter().rfind(|sample| sample.0 <= *at + second);
        last.map_or(0, |last| last.1.saturating_sub(*count))
    };
    Return {
        took: since.elapsed(),
        most: samples.iter().map(begins).max().unwrap_or(0),
        cpu: processor_time(proxy.id()),
        memory: memory_peak(proxy.id()),
    }
}

/// Takes the place of the proxy for a while and counts who dials in each second (scaled).
fn count_dials(crowd: &Crowd, at: SocketAddr, seconds: u32) -> Vec<usize> {
    let listener = TcpListener::bind(at).unwrap();
    listener.set_nonblocking(true).unwrap();
    let (begun, mut counts) = (Instant::now(), vec![0; seconds as usize]);
    loop {
        let second = begun.elapsed().as_nanos() / crowd.time(1.0).as_nanos();
        let second = usize::try_from(second).unwrap();
        let Some(count) = counts.get_mut(second) else { return counts };
        match listener.accept() {
            // Closed at once.
            Ok(_) => *count += 1,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                thread::sleep(Duration::from_millis(1));
            }
            Err(error) => panic!("{error}"),
        }
    }
}

fn returns(crowd: &Crowd) {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }).unwrap();
    let (state, root, configs) = (TempRoot::new(), TempRoot::new(), TempRoot::new());
    root.write("small", b"small");
    let names: Vec<_> = (crowd.programs..crowd.agents).map(|n| format!("nas{n}")).collect();
    let pin = pair_all(state.path(), &names);

    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let mut proxy = crowd.proxy(&state, any, any);
    let address = |kind: &str| {
        proxy.wait_for("its address", |line| {
            line.split_once("listening on ")?.1.strip_suffix(kind)?.trim().parse().ok()
        })
    };
    let (http, tunnel): (SocketAddr, SocketAddr) = (address("http"), address("tunnel"));
    let programs: Vec<_> = (0..crowd.programs)
        .map(|n| {
            let conf = configs.join(&format!("{n}.conf"));
            let mut pair = Command::new(&Builds::beside().proxy);
            pair.args(["pair", &format!("nas{n}"), "--access", "open", "--address"]);
            pair.arg(tunnel.to_string()).arg("--state-dir").arg(state.path());
            let code = finished(&mut pair, "").lines().last().unwrap().to_owned();
            spdy_tests::fixture::join(&Builds::beside(), &code, &conf);
            Agent::joined(&crowd.builds, root.path(), &conf, &[])
        })
        .collect();
    // Two, so that one busy thread of this test is not what is measured.
    let fleets = [Fleet::new(), Fleet::new()];
    for (name, fleet) in names.iter().zip(fleets.iter().cycle()) {
        fleet.add(crowd.scaled(fleet::settings(name, root.path(), tunnel, pin)));
    }
    let begun = Instant::now();
    let first = watch(crowd, &proxy, http, begun);
    println!("{} agents at once: {first}", crowd.agents);

    // Killed, and away for ten seconds.
    proxy.kill();
    let dials = count_dials(crowd, tunnel, 10);
    println!("dials in each second while nobody answers: {dials:?}");
    // Full jitter below a ceiling that doubles: e - 1 times each in the first second, and half as
    // often with each doubling.
    let agents = crowd.agents as f64;
    for (second, dialled) in dials.iter().enumerate() {
        let ceiling = 2_f64.powf(((second + 1) as f64).log2().floor());
        let most = 2.0 * agents * 1.72 / ceiling + 20.0;
        assert!((*dialled as f64) < most.min(2.0 * agents), "second {second}: {dials:?}");
    }
    proxy = crowd.proxy(&state, http, tunnel);
    let killed = watch(crowd, &proxy, http, Instant::now());
    println!("{} agents after a kill and 10 s: {killed}", crowd.agents);
    assert!(killed.took < crowd.time(CAP) + Duration::from_secs(10), "{killed}");

    // The ceiling is 8 s then: a quarter of them in a second, twice that at most.
    assert!((killed.most as f64) < agents / 2.0 + 20.0, "{} in a second", killed.most);

    // Told to end: GOAWAY. Younger tunnels would go on with the back-off of before.
    thread::sleep(crowd.time(61.0));
    let told = Instant::now();
    proxy.signal(Signal::TERM).unwrap();
    assert_eq!(proxy.wait_exit(PATIENCE).code(), Some(0));
    proxy = crowd.proxy(&state, http, tunnel);
    let away = told.elapsed();
    let ended = watch(crowd, &proxy, http, Instant::now());
    println!("{} agents after SIGTERM ({away:.1?} away): {ended}", crowd.agents);
    assert!(ended.took < crowd.time(SPREAD + 10.0) + Duration::from_secs(1), "{ended}");
    // Spread evenly, and who came while nobody listened comes again at once: twice that at most.
    let gap = away.as_secs_f64() / crowd.time(1.0).as_secs_f64();
    let most = 2.0 * (1.0 + gap) * agents / SPREAD + 20.0;
    assert!((ended.most as f64) < most, "{ended}, bound {most}");
    drop((fleets, programs));
    wait_until("all are gone", || Debug::of(http).total("tunnels_now") == 0);
}

#[test]
fn two_hundred_agents_come_back_in_good_order() {
    let built = |name| target_dir().join("debug/examples").join(name);
    let builds = Builds::at(built("scaled-proxy"), built("scaled-agent"));
    returns(&Crowd { agents: 200, programs: 5, scale: 8, builds });
}

#[test]
#[ignore = "takes two minutes: stage long"]
fn two_thousand_agents_come_back_in_good_order() {
    returns(&Crowd { agents: 2_000, programs: 20, scale: 1, builds: Builds::beside() });
}
