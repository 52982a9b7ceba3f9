//! Kills, cuts, silence and goodbyes: the other end notices, visitors get an error and never a hang
//! or a short body that looks whole, and service comes back.
//!
//! Both ends are the programs as they are run, with real TLS; where a time has to be scaled, the end
//! that measures it is the library in this process (`scaled`).
#![expect(clippy::unwrap_used, reason = "a test that panics has failed, with its line")]

mod goodbyes;
#[path = "../scaled/mod.rs"]
mod scaled;
mod silence;

use std::{
    fs,
    net::SocketAddr,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use scaled::ScaledAgent;
use spdy_tests::{
    fixture::{Agent, PATIENCE, Program, Proxy, TempRoot, binary, wait_until},
    http::{Request, wait_for_agent},
    link::{Link, Settings, Way},
    observe::{Debug, Signal, descriptors, signal},
    visitor::{End, Visitor},
};

/// Octets of the file that transfers are cut in.
const LARGE: u64 = 48 << 20;
/// Octets that a visitor has of a body when something happens to it.
const SOME: u64 = 20_000;
/// The transfer that FIN would make whole.
const OPEN: &str = "1.0 up to the end";
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

/// A proxy that takes anyone and waits for nobody, so that each fault shows.
fn anonymous() -> Proxy {
    Proxy::start(&["--allow-anonymous", "--hold", "0"])
}

fn agent(root: &Path, address: SocketAddr) -> Agent {
    Agent::serve(root, address)
}

/// Transfers in each way to frame a body, all of them in the middle.
fn transfers(http: SocketAddr) -> Vec<(&'static str, Visitor)> {
    let length = Some("content-length");
    let wanted = [
        ("1.1 with a length", Visitor::get(http, "/large"), length),
        ("1.1 in chunks", Visitor::get(http, "/many/"), Some("transfer-encoding")),
        ("1.0 with a length", Visitor::get_1_0(http, "/large"), length),
        (OPEN, Visitor::get_1_0(http, "/many/"), None),
    ];
    let begin = |(name, mut visitor, framing): (_, Visitor, _)| {
        let head = visitor.head();
        assert_eq!(head.status, 200);
        let framings = ["content-length", "transfer-encoding"];
        assert_eq!(framings.into_iter().find(|name| head.header(name).is_some()), framing);
        visitor.read(SOME);
        (name, visitor)
    };
    wanted.into_iter().map(begin).collect()
}

/// Each visitor sees that its body is not whole.
fn assert_all_cut(transfers: Vec<(&'static str, Visitor)>) {
    for (name, mut visitor) in transfers {
        let body = visitor.finish();
        assert!(body.len < LARGE, "{name} came whole: the test is too late");
        if name == OPEN {
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
    command.arg("--debug").arg("--state-dir").arg(state).args(args);
    let program = Program::start("spdy-proxy again", &mut command);
    program.wait_for("its address", |line| line.contains("listening on").then_some(()));
    program
}

/// `spdy-proxy pair` and `spdy-agent join`; returns the agent's configuration.
fn join(state: &Path, tunnel: SocketAddr, root: &TempRoot) -> std::path::PathBuf {
    let mut pair = Command::new(binary("spdy-proxy"));
    pair.args(["pair", "nas1", "--access", "open", "--address", &tunnel.to_string()]);
    pair.arg("--state-dir").arg(state);
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
