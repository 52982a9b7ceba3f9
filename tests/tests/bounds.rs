//! What the programs may need: memory beside many visitors, after many seeks, for an idle tunnel.
//!
//! The bounds are those of docs/testing.md ("Memory"); each test prints what it found.
#![expect(clippy::unwrap_used, reason = "a test that panics has failed, with its line")]

#[path = "scaled/fleet.rs"]
mod fleet;

use std::{
    fs,
    sync::Barrier,
    thread,
    time::{Duration, Instant},
};

use fleet::{Fleet, pair_all};
use spdy_tests::{
    fixture::{Agent, Builds, Proxy, Random, Sha256, TempRoot, join, wait_until},
    http::{Request, wait_for_agent},
    observe::{Debug, descriptors, forget_peak, memory, memory_peak},
    visitor::{End, Visitor},
};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

/// Windows of one tunnel: what its streams may hold unread.
const TUNNEL: u64 = 16 * MIB;
/// What a connection of a visitor may hold: its request, and what is being written to it.
const CONNECTION: u64 = 128 * KIB;
/// What the proxy needs besides: receive buffer, TLS, heads, and what the allocator keeps.
const PROXY_FIXED: u64 = 8 * MIB;
/// What the agent needs for any number of downloads: output of the tunnel, blocks of cold files
/// (1 MiB and 16 KiB a stream), the threads that read them, TLS, and what the allocator keeps.
const AGENT_FIXED: u64 = 8 * MIB;
/// What an idle tunnel may cost the proxy.
const IDLE_TUNNEL: u64 = 24 * KIB;

/// Visitors who download all the time, and those who pause.
const BUSY: usize = 64;
const PAUSED: usize = 20;

/// Both programs, and what they hold when idle.
struct Pair {
    proxy: Proxy,
    agent: Agent,
    idle: [u64; 2],
}

impl Pair {
    fn start(root: &TempRoot) -> Self {
        let proxy = Proxy::start(&["--allow-anonymous"]);
        let agent = Agent::serve(root.path(), proxy.tunnel);
        wait_for_agent(proxy.http);
        let mut pair = Self { proxy, agent, idle: [0; 2] };
        // The first requests make what is kept for good.
        for _ in 0..5 {
            assert_eq!(Request::get("/").send(pair.proxy.http).unwrap().status, 200);
        }
        pair.idle = pair.ids().map(memory);
        pair.ids().into_iter().for_each(forget_peak);
        pair
    }

    fn ids(&self) -> [u32; 2] {
        [self.proxy.program().id(), self.agent.program().id()]
    }

    /// Growth of proxy and agent at their largest since they were idle.
    fn grown(&self) -> [u64; 2] {
        let peaks = self.ids().map(memory_peak);
        [peaks[0].saturating_sub(self.idle[0]), peaks[1].saturating_sub(self.idle[1])]
    }
}

/// 64 visitors download again and again for `time`; 20 pause in a large file for half of it, then go
/// on. Every body must be whole and right, and the programs stay within their bounds.
fn crowd(time: Duration) {
    let root = TempRoot::new();
    let small = root.random_file("small", MIB + 17, 1);
    let large = root.random_file("large", 12 * MIB + 3, 2);
    let pair = Pair::start(&root);
    let http = pair.proxy.http;
    let failed = Debug::of(http).total("requests_failed");
    let started = Barrier::new(BUSY + PAUSED);
    let begun = Instant::now();
    let finished: usize = thread::scope(|scope| {
        let paused: Vec<_> = (0..PAUSED)
            .map(|_| {
                let (started, large) = (&started, &large);
                scope.spawn(move || {
                    let mut visitor = Visitor::get(http, "/large");
                    assert_eq!(visitor.head().status, 200);
                    visitor.read(64 * KIB);
                    started.wait();
                    // A pause is what is tested; there is nothing to wait for but time.
                    thread::sleep(time / 2);
                    let body = visitor.finish();
                    assert_eq!((body.end, &body.sha256), (End::Whole, large));
                })
            })
            .collect();
        let busy: Vec<_> = (0..BUSY)
            .map(|_| {
                let (started, small) = (&started, &small);
                scope.spawn(move || {
                    started.wait();
                    let begun = Instant::now();
                    let mut count = 0;
                    while begun.elapsed() < time || count == 0 {
                        let answer = Request::get("/small").send(http).unwrap();
                        assert_eq!((answer.status, &answer.sha256), (200, small));
                        count += 1;
                    }
                    count
                })
            })
            .collect();
        paused.into_iter().for_each(|visitor| visitor.join().unwrap());
        busy.into_iter().map(|visitor| visitor.join().unwrap()).sum()
    });
    let [proxy, agent] = pair.grown();
    println!(
        "{finished} downloads and {PAUSED} pauses in {:?}: proxy +{} KiB, agent +{} KiB",
        begun.elapsed(),
        proxy / KIB,
        agent / KIB
    );
    let connections = u64::try_from(BUSY + PAUSED).unwrap() * CONNECTION;
    assert!(proxy <= TUNNEL + connections + PROXY_FIXED, "proxy: {proxy}");
    assert!(agent <= AGENT_FIXED, "agent: {agent}");
    let debug = Debug::of(http);
    assert_eq!((debug.total("streams_now"), debug.total("budget_bytes")), (0, 0));
    // Nobody was cut to make room.
    assert_eq!((debug.tunnels("stalled_cut"), debug.total("requests_failed")), (0, failed));
}

#[test]
fn busy_and_paused_visitors_fit_side_by_side() {
    crowd(Duration::from_secs(4));
}

#[test]
#[ignore = "takes a minute: stage long"]
fn pauses_of_half_a_minute_cost_nobody_anything() {
    crowd(Duration::from_secs(60));
}

/// As many who read nothing at all as there are streams: all windows are full at once.
#[test]
fn visitors_who_never_read_hold_no_more_than_the_windows() {
    let root = TempRoot::new();
    root.random_file("large", 64 * MIB, 3);
    root.write("small", b"small");
    let pair = Pair::start(&root);
    let http = pair.proxy.http;
    let mut visitors: Vec<_> = (0..120).map(|_| Visitor::get(http, "/large")).collect();
    for visitor in &mut visitors {
        assert_eq!(visitor.head().status, 200);
    }
    let received = || Debug::of(http).tunnels("received_bytes");
    wait_until("nothing more crosses the tunnel", || {
        let before = received();
        thread::sleep(Duration::from_millis(200));
        received() == before
    });
    // There is room for others still.
    assert_eq!(Request::get("/small").send(http).unwrap().text(), "small");
    let [proxy, agent] = pair.grown();
    println!(
        "{} who do not read: proxy +{} KiB, agent +{} KiB",
        visitors.len(),
        proxy / KIB,
        agent / KIB
    );
    let connections = u64::try_from(visitors.len()).unwrap() * CONNECTION;
    assert!(proxy <= TUNNEL + connections + PROXY_FIXED, "proxy: {proxy}");
    assert!(agent <= AGENT_FIXED, "agent: {agent}");
    assert!(Debug::of(http).total("budget_bytes") <= TUNNEL);
    drop(visitors);
    wait_until("all is given back", || Debug::of(http).total("budget_bytes") == 0);
}

/// Opens, seeks and leaves so many times: memory and descriptors end where they began.
fn seeks(times: usize) {
    let root = TempRoot::new();
    root.random_file("film", 32 * MIB, 4);
    let content = fs::read(root.join("film")).unwrap();
    let pair = Pair::start(&root);
    let http = pair.proxy.http;
    let mut random = fastrand::Rng::with_seed(5);
    let mut seek = |times: usize| {
        for _ in 0..times {
            let at = random.usize(..content.len() - 300_000);
            let len = random.u64(1..300_000);
            let mut visitor = Visitor::connect(http);
            visitor.send(
                format!("GET /film HTTP/1.1\r\nHost: x\r\nRange: bytes={at}-\r\n\r\n").as_bytes(),
            );
            assert_eq!(visitor.head().status, 206);
            visitor.read(len);
            // Gone in the middle, as a player that seeks.
        }
        wait_until("all are forgotten", || {
            let debug = Debug::of(http);
            debug.total("streams_now") == 0 && debug.total("connections_now") == 1
        });
    };
    seek(times / 10);
    let open = pair.ids().map(descriptors);
    let before = pair.ids().map(memory);
    seek(times);
    wait_until("descriptors are where they were", || {
        let now = pair.ids().map(descriptors);
        now[0] <= open[0] && now[1] <= open[1]
    });
    let after = pair.ids().map(memory);
    let grown = [after[0].saturating_sub(before[0]), after[1].saturating_sub(before[1])];
    println!("{times} seeks: proxy +{} KiB, agent +{} KiB", grown[0] / KIB, grown[1] / KIB);
    assert!(grown.iter().all(|grown| *grown <= MIB), "{grown:?}");
    let range = Request { headers: &[("Range", "bytes=-100")], ..Request::get("/film") };
    let answer = range.send(http).unwrap();
    assert_eq!(answer.sha256, Sha256::of(&content[content.len() - 100..]));
}

#[test]
fn seeking_leaves_nothing_behind() {
    seeks(1_000);
}

#[test]
#[ignore = "takes a minute: stage long"]
fn seeking_for_long_leaves_nothing_behind() {
    seeks(10_000);
}

/// What the agent may hold in all, as shipped: 64 streams running and a folder of 100,000 names
/// being read.
const AGENT_SHIPPED: u64 = 6 * MIB;

#[test]
#[ignore = "needs the programs as shipped: stage long"]
fn agent_as_shipped_lists_a_large_folder_beside_64_streams_in_6_mib() {
    let root = TempRoot::new();
    root.random_file("film", 8 * MIB, 7);
    fs::create_dir(root.join("many")).unwrap();
    for number in 0..100_000 {
        fs::File::create(root.join(&format!("many/n{number}"))).unwrap();
    }
    let builds = Builds::shipped();
    let (proxy, config) = (Proxy::of(&builds, &[]), TempRoot::new());
    let path = config.join("agent.conf");
    join(&builds, &proxy.pair("nas1"), &path);
    let agent = Agent::joined(&builds, root.path(), &path, &[]);
    let http = proxy.http;
    wait_for_agent(http);
    let id = agent.program().id();
    let mut steps = vec![memory_peak(id)];
    let mut visitors: Vec<_> = (0..BUSY).map(|_| Visitor::get(http, "/film")).collect();
    for visitor in &mut visitors {
        assert_eq!(visitor.head().status, 200);
    }
    steps.push(memory_peak(id));
    let mut listing = Visitor::connect(http);
    listing.send("GET /many/ HTTP/1.0\r\nHost: nas1\r\n\r\n");
    assert_eq!(listing.head().status, 200);
    steps.push(memory_peak(id));
    for visitor in &mut visitors {
        visitor.read(MIB);
    }
    let page = listing.rest().0;
    assert!(page.ends_with(b"</html>\n"));
    for visitor in &mut visitors {
        assert_eq!(visitor.finish().end, End::Whole);
    }
    steps.push(memory_peak(id));
    let shown: Vec<_> = steps.iter().map(|octets| octets / KIB).collect();
    println!("the agent as shipped, in KiB: idle, with streams, folder read, in all: {shown:?}");
    assert!(steps.iter().all(|held| *held <= AGENT_SHIPPED), "{steps:?}");
}

#[test]
fn uploads_are_never_held_whole() {
    let root = TempRoot::new();
    let pair = Pair::start(&root);
    let body = Random::octets(40 << 20, 6);
    thread::scope(|scope| {
        for n in 0..4 {
            let (body, http) = (&body, pair.proxy.http);
            scope.spawn(move || {
                let answer = Request::with_body("PUT", &format!("/film-{n}"), body).send(http);
                assert_eq!(answer.unwrap().status, 201);
            });
        }
    });
    let [proxy, agent] = pair.grown();
    println!("4 uploads of 40 MiB: proxy +{} KiB, agent +{} KiB", proxy / KIB, agent / KIB);
    assert!(proxy <= PROXY_FIXED, "proxy: {proxy}");
    assert!(agent <= AGENT_FIXED, "agent: {agent}");
    for n in 0..4 {
        let stored = fs::read(root.join(&format!("film-{n}"))).unwrap();
        assert_eq!(Sha256::of(&stored), Sha256::of(&body));
    }
}

#[test]
fn idle_tunnel_costs_the_proxy_little() {
    let (folder, root) = (TempRoot::new(), TempRoot::new());
    root.write("small", b"small");
    let names: Vec<_> = (0..200).map(|n| format!("nas{n}")).collect();
    let pin = pair_all(folder.path(), &names);
    let proxy = Proxy::start_in(folder.path(), &[]);
    let id = proxy.program().id();
    let fleet = Fleet::new();
    let mut figures = Vec::new();
    let mut asked = Visitor::connect(proxy.http);
    for (range, count) in [(0..20, 20), (20..200, 200)] {
        for name in &names[range] {
            fleet.add(fleet::settings(name, root.path(), proxy.tunnel, pin));
        }
        wait_until("all have tunnels", || Debug::of(proxy.http).total("tunnels_now") == count);
        // One exchange each: a tunnel is idle when it has been used.
        for name in &names[usize::try_from(count - count.min(20)).unwrap()..][..20] {
            asked.send(format!("GET /small HTTP/1.1\r\nHost: {name}\r\n\r\n").as_bytes());
            assert_eq!(asked.head().status, 200);
            asked.finish();
        }
        figures.push(memory(id));
    }
    let each = figures[1].saturating_sub(figures[0]) / 180;
    println!("an idle tunnel costs the proxy {each} octets");
    assert!(each <= IDLE_TUNNEL, "{each}");
    drop(fleet);
    wait_until("all are gone", || Debug::of(proxy.http).total("tunnels_now") == 0);
}
