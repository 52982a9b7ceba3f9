//! Kills, cuts, silence and goodbyes: the other end notices, visitors get an error and never a hang
//! or a short body that looks whole, and service comes back.
//!
//! Both ends are the programs as they are run, with real TLS; where a time has to be scaled, the end
//! that measures it is the library in this process (`scaled`).
//!
//! It is one thing: the list of what can happen to two programs and the line between them.
#![expect(clippy::unwrap_used, reason = "a test that panics has failed, with its line")]

mod scaled;

use std::{
    fs,
    net::{SocketAddr, TcpStream},
    path::Path,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use scaled::{ScaledAgent, ScaledProxy};
use spdy_tests::{
    fixture::{Agent, PATIENCE, Program, Proxy, Random, Sha256, TempRoot, binary, wait_until},
    http::{Request, wait_for_agent},
    link::{Link, Settings, Way},
    observe::{Debug, Signal, descriptors, signal},
    visitor::{End, Visitor},
};

/// Octets of the file that transfers are cut in.
const LARGE: u64 = 48 << 20;
/// Octets that a visitor has of a body when something happens to it.
const SOME: u64 = 20_000;
/// A killed peer that was away for less than a second is back within this time.
const BACK: Duration = Duration::from_secs(2);

/// A folder with a large file, and a folder in it whose listing is long.
fn content() -> TempRoot {
    let root = TempRoot::new();
    root.random_file("large", LARGE, 1);
    root.write("small", b"small");
    // Each entry makes more than 400 octets of the page.
    for n in 0..4_000 {
        root.write(&format!("many/{n:0>200}"), b"");
    }
    root
}

/// A link on which a transfer takes long, and which holds little of it.
fn slow(target: SocketAddr) -> Link {
    let way = Way { rate: Some(1 << 20), queue: 64 << 10, ..Way::default() };
    Link::start(target, Settings { up: way, down: way }).unwrap()
}

fn plain(target: SocketAddr) -> Link {
    Link::start(target, Settings::default()).unwrap()
}

/// A proxy that takes anyone, and an agent that serves `root` through `address`.
fn anonymous() -> Proxy {
    Proxy::start(&["--allow-anonymous"])
}

fn agent(root: &Path, address: SocketAddr) -> Agent {
    Agent::serve(root, address)
}

/// How a body is framed, and how its visitor must see that it was cut.
fn transfers(http: SocketAddr) -> Vec<(&'static str, Visitor)> {
    let transfers = vec![
        ("1.1 with a length", Visitor::get(http, "/large")),
        ("1.1 in chunks", Visitor::get(http, "/many/")),
        ("1.0 with a length", Visitor::get_1_0(http, "/large")),
        ("1.0 up to the end", Visitor::get_1_0(http, "/many/")),
    ];
    let framings = [Some("content-length"), Some("transfer-encoding"), Some("content-length")];
    let mut begun = Vec::new();
    for ((name, mut visitor), framing) in
        transfers.into_iter().zip(framings.into_iter().chain([None]))
    {
        let head = visitor.head();
        assert_eq!(head.status, 200);
        let framings = ["content-length", "transfer-encoding"];
        assert_eq!(framings.into_iter().find(|name| head.header(name).is_some()), framing);
        visitor.read(SOME);
        begun.push((name, visitor));
    }
    begun
}

fn assert_all_cut(transfers: Vec<(&'static str, Visitor)>) {
    for (name, mut visitor) in transfers {
        let body = visitor.finish();
        assert!(body.len < LARGE, "{name} came whole: the test is too late");
        if name == "1.0 up to the end" {
            // FIN is how such a body ends when it is whole.
            assert_eq!(body.end, End::Reset, "{name}");
        } else {
            assert_ne!(body.end, End::Whole, "{name}");
        }
    }
}

fn status(http: SocketAddr) -> Option<u16> {
    Request::get("/small").send(http).ok().map(|answer| answer.status)
}

/// Waits until the proxy serves again and returns how long it took since `since`.
fn back_after(http: SocketAddr, since: Instant) -> Duration {
    wait_until("service is back", || status(http) == Some(200));
    since.elapsed()
}

/// A proxy on addresses that it had before.
fn start_again(state: &Path, http: SocketAddr, tunnel: SocketAddr, args: &[&str]) -> Program {
    let mut command = Command::new(binary("spdy-proxy"));
    command.args(["--listen", &http.to_string(), "--tunnel-listen", &tunnel.to_string()]);
    command.arg("--state-dir").arg(state).args(args);
    let program = Program::start("spdy-proxy again", &mut command);
    program.wait_for("its address", |line| line.contains("listening on").then_some(()));
    program
}

/// `spdy-proxy pair` and `spdy-agent join`; returns the agent's configuration.
fn join(state: &Path, tunnel: SocketAddr, root: &TempRoot) -> std::path::PathBuf {
    let mut pair = Command::new(binary("spdy-proxy"));
    pair.args(["pair", "nas1", "--address", &tunnel.to_string(), "--state-dir"]).arg(state);
    let paired = pair.output().unwrap();
    assert!(paired.status.success(), "{}", String::from_utf8_lossy(&paired.stderr));
    let code = String::from_utf8(paired.stdout).unwrap();
    let config = root.join("agent.conf");
    let mut join = Command::new(binary("spdy-agent"));
    let joined = join.args(["join", code.trim(), "--config"]).arg(&config).output().unwrap();
    assert!(joined.status.success(), "{}", String::from_utf8_lossy(&joined.stderr));
    config
}

#[test]
fn killed_agent_leaves_no_body_that_looks_whole() {
    let root = content();
    let proxy = anonymous();
    let link = slow(proxy.tunnel);
    let mut agent = agent(root.path(), link.address());
    wait_for_agent(proxy.http);
    let transfers = transfers(proxy.http);
    let mut uploading = Visitor::connect(proxy.http);
    uploading.send(b"PUT /new HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\nsome");
    wait_until("the upload has begun", || Debug::of(proxy.http).total("streams_now") == 5);
    agent.program_mut().kill();
    assert_all_cut(transfers);
    let refused = uploading.try_head("PUT").unwrap();
    assert_eq!(refused.status, 502);
    assert_eq!(refused.header("proxy-status"), Some("spdy-proxy; error=connection_terminated"));
    // Nobody is there: that is said at once.
    let asked = Instant::now();
    assert_eq!(status(proxy.http), Some(503));
    assert!(asked.elapsed() < Duration::from_secs(1));
    let debug = Debug::of(proxy.http);
    assert_eq!((debug.total("tunnels_now"), debug.total("streams_now")), (0, 0));
    assert_eq!(debug.total("budget_bytes"), 0);
}

#[test]
fn killed_proxy_leaves_no_body_that_looks_whole() {
    let root = content();
    let mut proxy = anonymous();
    let link = slow(proxy.tunnel);
    let agent = agent(root.path(), link.address());
    wait_for_agent(proxy.http);
    let idle = descriptors(agent.program().id());
    let transfers = transfers(proxy.http);
    let mut uploading = Visitor::connect(proxy.http);
    uploading.send(b"PUT /new HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\nsome");
    wait_until("the upload has begun", || fs::read_dir(root.path()).unwrap().count() > 3);
    proxy.program_mut().kill();
    assert_all_cut(transfers);
    assert!(uploading.try_head("PUT").is_err());
    // The agent has nothing open any more, the connection included, and left nothing behind.
    wait_until("the agent has closed its files", || descriptors(agent.program().id()) <= idle);
    wait_until("the upload is gone", || fs::read_dir(root.path()).unwrap().count() == 3);
}

#[test]
fn request_that_a_killed_agent_had_not_answered_gets_502() {
    let root = TempRoot::new();
    root.write("small", b"small");
    let proxy = anonymous();
    let mut agent = agent(root.path(), proxy.tunnel);
    wait_for_agent(proxy.http);
    signal(agent.program().id(), Signal::STOP);
    let mut visitors: Vec<_> = (0..8).map(|_| Visitor::get(proxy.http, "/small")).collect();
    wait_until("all wait", || Debug::of(proxy.http).total("streams_now") == 8);
    agent.program_mut().kill();
    for visitor in &mut visitors {
        assert_eq!(visitor.head().status, 502);
        assert_eq!(visitor.finish().end, End::Whole);
    }
}

#[test]
fn service_is_back_within_two_seconds_whoever_was_killed() {
    let root = TempRoot::new();
    root.write("small", b"small");
    let state = TempRoot::new();
    let mut proxy = Proxy::start_in(state.path(), &["--allow-anonymous"]);
    let (http, tunnel) = (proxy.http, proxy.tunnel);
    let mut first = agent(root.path(), tunnel);
    wait_for_agent(http);

    let killed = Instant::now();
    first.program_mut().kill();
    let _second = agent(root.path(), tunnel);
    let back = back_after(http, killed);
    assert!(back < BACK, "after the agent was killed: {back:?}");

    let killed = Instant::now();
    proxy.program_mut().kill();
    let _again = start_again(state.path(), http, tunnel, &["--allow-anonymous"]);
    let away = killed.elapsed();
    let back = back_after(http, killed);
    // The first pauses of the agent are shorter than a second, whatever chance has it.
    assert!(away < Duration::from_secs(1), "the machine is too busy: {away:?}");
    assert!(back < BACK, "after the proxy was killed: {back:?}");
}

#[test]
fn restarted_proxy_keeps_its_key_and_its_agent_comes_back() {
    let root = TempRoot::new();
    root.write("served/small", b"small");
    let state = TempRoot::new();
    let mut proxy = Proxy::start_in(state.path(), &[]);
    let (http, tunnel) = (proxy.http, proxy.tunnel);
    let config = join(state.path(), tunnel, &root);
    let mut command = Command::new(binary("spdy-agent"));
    command.arg("-r").arg(root.join("served")).arg("--config").arg(&config).arg("-s");
    let agent = Program::start("spdy-agent", &mut command);
    wait_for_agent(http);
    let key = fs::read(state.join("key.pem")).unwrap();

    let killed = Instant::now();
    proxy.program_mut().kill();
    let mut again = start_again(state.path(), http, tunnel, &[]);
    let back = back_after(http, killed);
    assert!(back < BACK, "after a kill: {back:?}");

    again.terminate();
    assert_eq!(again.wait_exit(PATIENCE).code(), Some(0));
    let ended = Instant::now();
    let _third = start_again(state.path(), http, tunnel, &[]);
    let back = back_after(http, ended);
    // GOAWAY asks the agents to come back spread over 15 s.
    assert!(back < Duration::from_secs(17), "after SIGTERM: {back:?}");
    assert_eq!(fs::read(state.join("key.pem")).unwrap(), key);
    drop(agent);
}

#[test]
fn agent_that_waited_long_is_back_within_the_step_in_force() {
    let root = TempRoot::new();
    root.write("small", b"small");
    let state = TempRoot::new();
    let mut proxy = Proxy::start_in(state.path(), &["--allow-anonymous"]);
    let (http, tunnel) = (proxy.http, proxy.tunnel);
    let agent = ScaledAgent::serve(root.path(), tunnel, |_| {});
    wait_for_agent(http);
    proxy.program_mut().kill();
    agent.wait_for("event=connect_failed", 1);
    // Long enough for the steps to have reached the last one, many times.
    let away = Instant::now();
    wait_until("it was away for long", || away.elapsed() > 8 * scaled::STEP);
    let again = start_again(state.path(), http, tunnel, &["--allow-anonymous"]);
    let listening = Instant::now();
    let back = back_after(http, listening);
    assert!(back < scaled::STEP + Duration::from_millis(500), "{back:?}");
    // Told once, however often it was tried.
    assert_eq!(agent.count("event=connect_failed"), 1);
    drop(again);
}

#[test]
fn stopped_agent_is_noticed_and_comes_back() {
    let root = content();
    let proxy = ScaledProxy::start(|_| {});
    let link = slow(proxy.tunnel);
    let agent = agent(root.path(), link.address());
    wait_for_agent(proxy.http);
    // In a transfer; asked and not answered; idle.
    let transfers = transfers(proxy.http);
    let begun = Instant::now();
    signal(agent.program().id(), Signal::STOP);
    let mut asking = Visitor::get(proxy.http, "/small");
    assert_eq!(asking.head().status, 502);
    assert_all_cut(transfers);
    // What the link held has to pass first.
    let limit = scaled::OWED + scaled::ANSWER + Duration::from_millis(1_500);
    assert!(begun.elapsed() < limit, "{:?}", begun.elapsed());
    assert_eq!(status(proxy.http), Some(503));
    let continued = Instant::now();
    signal(agent.program().id(), Signal::CONT);
    let back = back_after(proxy.http, continued);
    assert!(back < BACK, "{back:?}");

    let begun = Instant::now();
    signal(agent.program().id(), Signal::STOP);
    wait_until("the idle tunnel is given up", || Debug::of(proxy.http).total("tunnels_now") == 0);
    let limit = scaled::IDLE + scaled::ANSWER + Duration::from_millis(500);
    assert!(begun.elapsed() < limit, "{:?}", begun.elapsed());
    signal(agent.program().id(), Signal::CONT);
    back_after(proxy.http, Instant::now());
}

#[test]
fn stopped_proxy_is_noticed_and_found_again() {
    let root = content();
    let proxy = anonymous();
    let agent = ScaledAgent::serve(root.path(), proxy.tunnel, |_| {});
    wait_for_agent(proxy.http);
    let mut paused = Visitor::get(proxy.http, "/large");
    paused.head();
    paused.read(SOME);
    let begun = Instant::now();
    signal(proxy.program().id(), Signal::STOP);
    agent.wait_for("event=tunnel_down", 1);
    let limit = scaled::IDLE + scaled::ANSWER + Duration::from_millis(500);
    assert!(begun.elapsed() < limit, "{:?}", begun.elapsed());
    // The kernel takes connections for a stopped proxy; only a deadline ends such a handshake.
    agent.wait_for("deadline passed in the handshake", 1);
    signal(proxy.program().id(), Signal::CONT);
    back_after(proxy.http, Instant::now());
    assert_ne!(paused.finish().end, End::Whole);
}

#[test]
fn black_hole_is_noticed_by_both_ends() {
    let root = content();
    let proxy = ScaledProxy::start(|_| {});
    let link = slow(proxy.tunnel);
    let agent = ScaledAgent::serve(root.path(), link.address(), |_| {});
    wait_for_agent(proxy.http);
    let transfers = transfers(proxy.http);
    let begun = Instant::now();
    link.hold();
    assert_all_cut(transfers);
    agent.wait_for("event=tunnel_down", 1);
    let limit = scaled::OWED.max(scaled::IDLE) + scaled::ANSWER + Duration::from_millis(1_000);
    assert!(begun.elapsed() < limit, "{:?}", begun.elapsed());
    assert_eq!(status(proxy.http), Some(503));
    link.release();
    back_after(proxy.http, Instant::now());
}

#[test]
fn silence_in_a_transfer_ends_it_within_20_seconds() {
    let root = content();
    let proxy = anonymous();
    let link = slow(proxy.tunnel);
    let _agent = agent(root.path(), link.address());
    wait_for_agent(proxy.http);
    let transfers = transfers(proxy.http);
    link.hold();
    let begun = Instant::now();
    let mut asking = Visitor::get(proxy.http, "/small");
    assert!(matches!(asking.head().status, 502..=504));
    assert_all_cut(transfers);
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    // Not sooner either: a line may be silent for a while.
    assert!(begun.elapsed() > Duration::from_secs(10), "{:?}", begun.elapsed());
}

#[test]
#[ignore = "takes 40 s: stage long"]
fn silence_of_an_idle_tunnel_ends_it_within_40_seconds() {
    let root = content();
    let proxy = anonymous();
    let link = plain(proxy.tunnel);
    let agent = agent(root.path(), link.address());
    wait_for_agent(proxy.http);
    link.hold();
    let begun = Instant::now();
    while Debug::of(proxy.http).total("tunnels_now") > 0 {
        assert!(begun.elapsed() < Duration::from_secs(40), "the proxy still has it");
        thread::sleep(Duration::from_millis(50));
    }
    // Not sooner either: an idle line costs nothing but a PING now and then.
    assert!(begun.elapsed() > Duration::from_secs(30), "{:?}", begun.elapsed());
    link.release();
    back_after(proxy.http, Instant::now());
    drop(agent);
}

/// 256 kbit/s and as many downloads as there are streams: PING and its answer wait behind DATA.
#[test]
#[ignore = "takes a minute: stage long"]
fn slow_line_full_of_downloads_keeps_its_tunnel() {
    let root = content();
    let proxy = anonymous();
    let way = Way { rate: Some(32_000), queue: 32 << 10, ..Way::default() };
    let link = Link::start(proxy.tunnel, Settings { up: way, down: way }).unwrap();
    let _agent = agent(root.path(), link.address());
    wait_for_agent(proxy.http);
    let mut visitors: Vec<_> = (0..127).map(|_| Visitor::get(proxy.http, "/large")).collect();
    for visitor in &mut visitors {
        assert_eq!(visitor.head().status, 200);
    }
    let (begun, before) = (Instant::now(), link.forwarded().0);
    while begun.elapsed() < Duration::from_secs(60) {
        assert_eq!((link.accepted(), link.connections()), (1, 1));
        thread::sleep(Duration::from_millis(100));
    }
    let passed = link.forwarded().0 - before;
    assert!(passed > 32_000 * 60 / 2, "the line stood still: {passed}");
    assert_eq!(Debug::of(proxy.http).total("streams_now"), 127);
}

#[test]
fn reset_connection_is_noticed_at_once_and_replaced() {
    let root = content();
    let proxy = anonymous();
    let link = slow(proxy.tunnel);
    let _agent = agent(root.path(), link.address());
    wait_for_agent(proxy.http);
    let mut transfers = transfers(proxy.http);
    // A visitor who paused is told too, when it reads on.
    let paused = transfers.pop().unwrap();
    let cut = Instant::now();
    link.cut();
    assert_all_cut(transfers);
    assert!(cut.elapsed() < Duration::from_secs(1), "{:?}", cut.elapsed());
    let back = back_after(proxy.http, cut);
    assert!(back < BACK, "{back:?}");
    assert_all_cut(vec![paused]);
}

#[test]
fn handshake_that_is_cut_anywhere_is_tried_again() {
    let root = TempRoot::new();
    root.write("small", b"small");
    let proxy = anonymous();
    let idle = descriptors(proxy.program().id());
    // So slow that a handshake can be met in the middle: it has about 800 octets up, 1,100 down.
    let way = Way { rate: Some(8_000), split: Some(64), ..Way::default() };
    let link = Link::start(proxy.tunnel, Settings { up: way, down: way }).unwrap();
    let agent = ScaledAgent::serve(root.path(), link.address(), |_| {});
    let mut cuts = 0;
    for (up, down) in [(1, 0), (100, 0), (1, 1), (1, 400), (1, 800), (400, 1), (600, 1)] {
        let before = link.forwarded();
        wait_until("the handshake has come so far", || {
            let now = link.forwarded();
            now.0 >= before.0 + up && now.1 >= before.1 + down
        });
        link.cut();
        cuts += 1;
        let dialled = link.accepted();
        wait_until("it dials again", || link.accepted() > dialled);
    }
    assert!(link.accepted() > cuts);
    back_after(proxy.http, Instant::now());
    assert!(agent.count("event=connect_failed") > 0);
    wait_until("nothing of them is left", || {
        let debug = Debug::of(proxy.http);
        debug.total("tasks") == debug.total("connections_now") + 1
    });
    // The connection of the tunnel, and one that is about to be closed.
    wait_until("their sockets are closed", || descriptors(proxy.program().id()) <= idle + 2);
}

#[test]
fn slow_handshake_succeeds_in_time_and_is_given_up_after_it() {
    let root = TempRoot::new();
    root.write("small", b"small");
    let way = Way { rate: Some(1_500), split: Some(1), ..Way::default() };
    let settings = Settings { up: way, down: way };
    let patient = anonymous();
    let link = Link::start(patient.tunnel, settings).unwrap();
    let slow_one = agent(root.path(), link.address());
    let hasty = ScaledProxy::start(|settings| {
        settings.timings.handshake = Duration::from_millis(300);
    });
    let hasty_link = Link::start(hasty.tunnel, settings).unwrap();
    let given_up = ScaledAgent::serve(root.path(), hasty_link.address(), |_| {});
    given_up.wait_for("event=connect_failed", 1);
    // Others are served beside it.
    let _other = agent(root.path(), hasty.tunnel);
    back_after(hasty.http, Instant::now());
    let begun = Instant::now();
    back_after(patient.http, begun);
    // One handshake was enough.
    assert_eq!(link.accepted(), 1);
    assert_eq!(given_up.count("event=tunnel_up"), 0);
    drop(slow_one);
}

#[test]
fn terminated_agent_finishes_what_runs_and_exits_well() {
    let root = content();
    let wanted = Sha256::of(&fs::read(root.join("large")).unwrap());
    let proxy = anonymous();
    let mut agent = agent(root.path(), proxy.tunnel);
    wait_for_agent(proxy.http);
    let mut running = Visitor::get(proxy.http, "/large");
    running.head();
    running.read(SOME);
    agent.program().terminate();
    wait_until("nothing new is taken", || status(proxy.http) == Some(503));
    let body = running.finish();
    assert_eq!((body.end, body.sha256), (End::Whole, wanted));
    let finished = Instant::now();
    assert_eq!(agent.program_mut().wait_exit(PATIENCE).code(), Some(0));
    assert!(finished.elapsed() < Duration::from_secs(2), "{:?}", finished.elapsed());
}

#[test]
fn terminated_proxy_finishes_what_runs_and_exits_well() {
    let root = content();
    let wanted = Sha256::of(&fs::read(root.join("large")).unwrap());
    let mut proxy = anonymous();
    let _agent = agent(root.path(), proxy.tunnel);
    wait_for_agent(proxy.http);
    let mut kept = Visitor::get(proxy.http, "/small");
    kept.head();
    kept.read(5);
    let mut running = Visitor::get(proxy.http, "/large");
    running.head();
    running.read(SOME);
    proxy.program().terminate();
    // An idle connection is closed, and nobody can connect any more.
    assert_eq!(kept.rest().1, End::Cut);
    wait_until("the port is closed", || TcpStream::connect(proxy.http).is_err());
    let body = running.finish();
    assert_eq!((body.end, body.sha256), (End::Whole, wanted));
    let finished = Instant::now();
    assert_eq!(proxy.program_mut().wait_exit(PATIENCE).code(), Some(0));
    assert!(finished.elapsed() < Duration::from_secs(2), "{:?}", finished.elapsed());
}

#[test]
fn idle_programs_end_at_once() {
    let root = TempRoot::new();
    let mut proxy = anonymous();
    let mut served = agent(root.path(), proxy.tunnel);
    wait_for_agent(proxy.http);
    let mut lonely = Agent::serve(root.path(), "127.0.0.1:1".parse().unwrap());
    let begun = Instant::now();
    for program in [served.program_mut(), lonely.program_mut(), proxy.program_mut()] {
        program.terminate();
        assert_eq!(program.wait_exit(PATIENCE).code(), Some(0));
    }
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
}

#[test]
fn grace_bounds_the_wait_for_a_paused_visitor() {
    let root = content();
    let mut proxy = Proxy::start(&["--allow-anonymous", "--grace", "1"]);
    let link = slow(proxy.tunnel);
    let agent = agent(root.path(), link.address());
    wait_for_agent(proxy.http);
    let mut paused = Visitor::get(proxy.http, "/large");
    paused.head();
    paused.read(SOME);
    let mut open = Visitor::get_1_0(proxy.http, "/many/");
    open.head();
    let begun = Instant::now();
    proxy.program().terminate();
    assert_eq!(proxy.program_mut().wait_exit(PATIENCE).code(), Some(0));
    let ended = begun.elapsed();
    assert!(ended > Duration::from_millis(900) && ended < Duration::from_secs(3), "{ended:?}");
    assert_ne!(paused.finish().end, End::Whole);
    assert_eq!(open.finish().end, End::Reset);
    drop(agent);
}

#[test]
fn agent_stops_reading_when_its_visitor_is_gone_or_pauses() {
    let root = content();
    let proxy = anonymous();
    let agent = agent(root.path(), proxy.tunnel);
    wait_for_agent(proxy.http);
    let idle = descriptors(agent.program().id());
    let resets = Debug::of(proxy.http).tunnels("resets_sent");
    let mut leaving: Vec<_> = (0..5).map(|_| Visitor::get(proxy.http, "/large")).collect();
    for visitor in &mut leaving {
        visitor.head();
        visitor.read(SOME);
    }
    assert_eq!(Debug::of(proxy.http).total("streams_now"), 5);
    drop(leaving);
    wait_until("their streams are reset", || {
        let debug = Debug::of(proxy.http);
        debug.total("streams_now") == 0 && debug.tunnels("resets_sent") == resets + 5
    });
    wait_until("their files are closed", || descriptors(agent.program().id()) == idle);

    let mut paused = Visitor::get(proxy.http, "/large");
    paused.head();
    paused.read(SOME);
    let held = settled(|| Debug::of(proxy.http).tunnels("received_bytes"));
    // No octet of the file crosses the tunnel any more, and the visitor still gets all of it.
    assert!(held < 5 * LARGE, "{held}");
    let body = paused.finish();
    assert_eq!((body.len, body.end), (LARGE, End::Whole));
}

/// The value of a figure that has stopped growing.
fn settled(figure: impl Fn() -> u64) -> u64 {
    let (mut last, mut since) = (figure(), Instant::now());
    while since.elapsed() < Duration::from_millis(500) {
        thread::sleep(Duration::from_millis(20));
        let now = figure();
        if now != last {
            (last, since) = (now, Instant::now());
        }
    }
    last
}

#[test]
fn upload_that_is_broken_off_leaves_the_old_file() {
    let root = TempRoot::new();
    root.write("kept", b"old");
    root.write("small", b"small");
    let proxy = anonymous();
    let link = plain(proxy.tunnel);
    let _agent = agent(root.path(), link.address());
    wait_for_agent(proxy.http);
    let content = Random::octets(600_000, 3);
    for cut in ["visitor", "tunnel"] {
        let mut uploading = Visitor::connect(proxy.http);
        uploading.send(b"PUT /kept HTTP/1.1\r\nHost: x\r\nContent-Length: 1200000\r\n\r\n");
        uploading.send(&content);
        wait_until("the agent writes", || fs::read_dir(root.path()).unwrap().count() == 3);
        if cut == "visitor" {
            drop(uploading);
        } else {
            link.cut();
            let answer = uploading.try_head("PUT");
            assert!(answer.is_err() || answer.is_ok_and(|head| head.status == 502));
        }
        wait_until("what was written is gone", || fs::read_dir(root.path()).unwrap().count() == 2);
        assert_eq!(fs::read(root.join("kept")).unwrap(), b"old");
        back_after(proxy.http, Instant::now());
    }
}
