//! A proxy that is replaced while it serves, and one that is not.

use std::{
    fs,
    net::SocketAddr,
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

use spdy_proxy::{handover::HandoverError, server::Server};
use spdy_tests::{
    fixture::{Agent, Pair, Program, Proxy, TempRoot, binary, tool, wait_until},
    http::{Request, wait_for_agent},
    link::Link,
    observe::{Debug, Signal, signal},
    raw::{Name, RawSession},
    visitor::{End, Visitor},
};

use crate::{anonymous, line, settled};

/// Time between two new visitors: 200 a second.
const PACE: Duration = Duration::from_millis(5);
/// Time over which the agents move.
const SPREAD: [&str; 2] = ["--spread", "1"];

/// A process that was started by one of ours; killed when dropped.
struct Successor(u32);

impl Successor {
    /// The one that `proxy` has handed itself over to.
    fn of(proxy: &Proxy) -> Self {
        Self(proxy.program().wait_for("its successor", |line| {
            line.split_once("server=handed_over process=")?.1.trim().parse().ok()
        }))
    }

    /// The one that `proxy` has just started.
    fn begun(proxy: &Proxy) -> Self {
        let id = proxy.program().id();
        let children = || fs::read_to_string(format!("/proc/{id}/task/{id}/children")).unwrap();
        wait_until("it has a child", || !children().trim().is_empty());
        Self(children().trim().parse().unwrap())
    }

    fn is_alive(&self) -> bool {
        // Whoever adopts it may not have waited for it yet.
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.0)).unwrap_or_default();
        stat.rsplit(')')
            .next()
            .is_some_and(|rest| !rest.trim().is_empty() && !rest.starts_with(" Z"))
    }
}

impl Drop for Successor {
    fn drop(&mut self) {
        if self.is_alive() {
            signal(self.0, Signal::KILL);
        }
    }
}

/// New visitors at a steady pace, each of whom must be served.
struct Crowd {
    stop: Arc<AtomicBool>,
    threads: Vec<thread::JoinHandle<usize>>,
}

impl Crowd {
    fn come(http: SocketAddr) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let threads = 2;
        let come = |_| {
            let stop = Arc::clone(&stop);
            thread::spawn(move || {
                let (begun, mut count) = (Instant::now(), 0);
                while !stop.load(Relaxed) {
                    let answer = Request::get("/small").send(http);
                    let answer = answer.unwrap_or_else(|error| panic!("visitor {count}: {error}"));
                    assert_eq!((answer.status, answer.len), (200, 5), "visitor {count}");
                    count += 1;
                    let next = begun + PACE * threads * u32::try_from(count).unwrap();
                    thread::sleep(next.saturating_duration_since(Instant::now()));
                }
                count
            })
        };
        Self { threads: (0..threads).map(come).collect(), stop }
    }

    /// How many have come.
    fn go(self) -> usize {
        self.stop.store(true, Relaxed);
        self.threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    }
}

fn root() -> TempRoot {
    let root = TempRoot::new();
    root.write("small", b"small");
    root
}

fn exited(proxy: &mut Proxy) -> Option<i32> {
    let mut code = None;
    let begun = Instant::now();
    while code.is_none() && begun.elapsed() < Duration::from_secs(20) {
        code = proxy.program_mut().try_exit().unwrap();
        thread::sleep(Duration::from_millis(5));
    }
    code.and_then(|status| status.code())
}

fn upgrade(proxy: &Proxy) {
    signal(proxy.program().id(), Signal::USR2);
}

/// A pair behind a line on which a large file takes `seconds`.
fn pair(root: &TempRoot, len: u64, seconds: u64) -> (Pair, Link, String) {
    pair_of(Proxy::start(&SPREAD), root, len, seconds)
}

fn pair_of(proxy: Proxy, root: &TempRoot, len: u64, seconds: u64) -> (Pair, Link, String) {
    let sha256 = root.random_file("film", len, 1);
    let link = line(proxy.tunnel, len / seconds);
    let pair = Pair::join(proxy, link.address(), root.path(), &[]);
    (pair, link, sha256)
}

#[test]
fn upgrade_drops_no_visitor_and_no_download() {
    upgrade_under_load(&SPREAD, 6);
}

#[test]
#[ignore = "takes half a minute: stage long"]
fn upgrade_at_full_length_drops_no_visitor_and_no_download() {
    upgrade_under_load(&[], 25);
}

/// A download of so many seconds is under way when the proxy is replaced.
fn upgrade_under_load(args: &[&str], seconds: u64) {
    let root = root();
    let proxy = Proxy::start(args);
    let (mut pair, _link, sha256) = pair_of(proxy, &root, 8 << 20, seconds);
    let http = pair.proxy.http;
    // An agent comes back at once that is sent away within its first second.
    settled(http, "/film");
    let crowd = Crowd::come(http);
    let mut running = Visitor::get(http, "/film");
    running.head();
    running.read(100_000);
    let begun = Instant::now();
    upgrade(&pair.proxy);
    let successor = Successor::of(&pair.proxy);
    let moved = begun.elapsed();
    // The download goes on in the old process, which waits for it.
    assert!(pair.proxy.program_mut().try_exit().unwrap().is_none());
    let body = running.finish();
    assert_eq!((body.end, body.sha256), (End::Whole, sha256));
    assert_eq!(exited(&mut pair.proxy), Some(0));
    let visits = crowd.go();
    eprintln!("{visits} visitors, {moved:?} until the new process had them all");
    assert!(visits > 100 * usize::try_from(seconds).unwrap(), "{visits}");
    // Who asks now asks the new one: its control socket, its page, its tunnel.
    assert!(successor.is_alive());
    assert!(pair.proxy.tell(&["list"]).starts_with("nas1 connected "));
    assert_eq!(Debug::of(http).total("tunnels_now"), 1);
}

#[test]
fn agent_that_is_revoked_after_an_upgrade_loses_its_old_tunnel_too() {
    let root = root();
    let (pair, _link, _) = pair(&root, 8 << 20, 60);
    let http = pair.proxy.http;
    let mut running = Visitor::get(http, "/film");
    running.head();
    running.read(50_000);
    upgrade(&pair.proxy);
    let _successor = Successor::of(&pair.proxy);
    let begun = Instant::now();
    let _ = pair.proxy.tell(&["revoke", "nas1"]);
    assert_ne!(running.finish().end, End::Whole);
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
}

#[test]
fn upgrade_can_be_repeated() {
    let root = root();
    let (mut pair, _link, _) = pair(&root, 1 << 20, 1);
    let http = pair.proxy.http;
    let crowd = Crowd::come(http);
    upgrade(&pair.proxy);
    let first = Successor::of(&pair.proxy);
    assert_eq!(exited(&mut pair.proxy), Some(0));
    signal(first.0, Signal::USR2);
    let second = pair.proxy.program().wait_for("the second", |line| {
        let id = line.split_once("server=handed_over process=")?.1.trim().parse().ok()?;
        (id != first.0).then(|| Successor(id))
    });
    wait_until("the first has ended", || !first.is_alive());
    assert!(crowd.go() > 20);
    assert!(second.is_alive());
    signal(second.0, Signal::TERM);
    wait_until("the second has ended", || !second.is_alive());
}

/// A program that can be replaced by another of the same name.
fn replaceable(root: &TempRoot, state: &TempRoot) -> (Program, SocketAddr, SocketAddr, PathBuf) {
    let path = root.join("spdy-proxy");
    std::os::unix::fs::symlink(binary("spdy-proxy"), &path).unwrap();
    let mut command = Command::new(&path);
    command.args(["--listen", "127.0.0.1:0", "--tunnel-listen", "127.0.0.1:0"]);
    command
        .args(["--debug", "--allow-anonymous", "--spread", "1", "--state-dir"])
        .arg(state.path());
    let program = Program::start("spdy-proxy", &mut command);
    let address = |port: &str| {
        program.wait_for("its address", |line| {
            line.strip_prefix("listening on ")?.strip_suffix(port)?.trim().parse().ok()
        })
    };
    let (http, tunnel) = (address("http"), address("tunnel"));
    (program, http, tunnel, path)
}

#[test]
fn program_that_does_not_start_leaves_the_old_one_serving() {
    let (root, state, served) = (TempRoot::new(), TempRoot::new(), root());
    // Written before anything runs: what is open for writing cannot be started.
    let scripts = [
        ("#!/bin/sh\nexit 3\n", "exit status: 3"),
        // Ready, and gone before it has taken over.
        ("#!/bin/sh\necho ready >&0\nexit 0\n", "the new process was lost"),
    ]
    .map(|(script, said)| {
        let path = root.write(said, script.as_bytes());
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        (path, said)
    });
    let (program, http, tunnel, path) = replaceable(&root, &state);
    let _agent = Agent::serve(served.path(), tunnel);
    wait_for_agent(http);
    let crowd = Crowd::come(http);
    for (script, said) in scripts {
        fs::rename(script, &path).unwrap();
        signal(program.id(), Signal::USR2);
        program.wait_for("its refusal", |line| {
            (line.contains("handover=failed action=serving") && line.contains(said)).then_some(())
        });
    }
    fs::remove_file(&path).unwrap();
    signal(program.id(), Signal::USR2);
    program.wait_for("its refusal", |line| line.contains("cannot be started").then_some(()));
    assert!(crowd.go() > 0);
    // Those who were told to go elsewhere are taken back, and others too.
    let _other = Agent::serve(served.path(), tunnel);
    let tunnels = |program: &Program| {
        program.text().lines().filter(|line| line.contains(" tunnel=up ")).count()
    };
    wait_until("the second agent is in", || tunnels(&program) >= 2);
    assert_eq!(Request::get("/small").send(http).unwrap().status, 200);
}

#[test]
fn program_that_is_never_ready_is_ended() {
    let state = TempRoot::new();
    let mut settings = spdy_proxy::settings::Settings::new(state.path());
    settings.listen = vec![([127, 0, 0, 1], 0).into()];
    settings.tunnel_listen = vec![([127, 0, 0, 1], 0).into()];
    settings.log = spdy_proxy::log::Log::silent();
    settings.timings.ready = Duration::from_millis(300);
    let server = Server::bind(settings).unwrap();
    let operator = server.operator();
    let begun = Instant::now();
    let mut ended = None;
    let told = async {
        let mut command = Command::new("sleep");
        ended = Some(operator.hand_over(command.arg("60")).await);
    };
    server.run_until(told).unwrap();
    assert!(matches!(ended, Some(Err(HandoverError::Silent))), "{ended:?}");
    // It was not waited for, so it was ended.
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
}

#[test]
fn old_process_goes_on_when_the_new_one_dies_while_agents_move() {
    let (proxy, root) = (anonymous(&SPREAD), root());
    // It is told to move, and does not.
    let mut stuck = RawSession::dial(proxy.tunnel, Name::Own).unwrap();
    proxy.wait_for_tunnel("anonymous");
    upgrade(&proxy);
    let goaway = |frame: &spdy_tests::wire::Frame| {
        matches!(frame, spdy_tests::wire::Frame::GoAway(..)).then_some(())
    };
    stuck.wait_for(goaway).unwrap();
    drop(Successor::begun(&proxy));
    proxy.program().wait_for("its words", |line| {
        line.contains("reason=\"the new process was lost\"").then_some(())
    });
    let _agent = Agent::serve(root.path(), proxy.tunnel);
    wait_until("the old one serves", || {
        Request::get("/small").send(proxy.http).is_ok_and(|answer| answer.status == 200)
    });
}

#[test]
fn new_process_is_alone_when_the_old_one_dies_while_agents_move() {
    let (mut proxy, root) = (anonymous(&SPREAD), root());
    let mut stuck = RawSession::dial(proxy.tunnel, Name::Own).unwrap();
    proxy.wait_for_tunnel("anonymous");
    upgrade(&proxy);
    let goaway = |frame: &spdy_tests::wire::Frame| {
        matches!(frame, spdy_tests::wire::Frame::GoAway(..)).then_some(())
    };
    stuck.wait_for(goaway).unwrap();
    let successor = Successor::begun(&proxy);
    proxy.program_mut().kill();
    let _agent = Agent::serve(root.path(), proxy.tunnel);
    wait_until("the new one serves", || {
        Request::get("/small").send(proxy.http).is_ok_and(|answer| answer.status == 200)
    });
    assert!(successor.is_alive());
}

#[test]
fn end_of_the_old_process_ends_a_handover() {
    let mut proxy = anonymous(&SPREAD);
    let _stuck = RawSession::dial(proxy.tunnel, Name::Own).unwrap();
    proxy.wait_for_tunnel("anonymous");
    upgrade(&proxy);
    let successor = Successor::begun(&proxy);
    proxy.program().wait_for("its move", |line| line.contains("server=leaving").then_some(()));
    proxy.program().terminate();
    wait_until("the new one is gone", || !successor.is_alive());
    drop(_stuck);
    assert_eq!(exited(&mut proxy), Some(0));
}

#[test]
fn sockets_of_systemd_are_taken_by_name_and_by_port() {
    let (state, root) = (TempRoot::new(), root());
    let script = r#"
import os, socket, sys
sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(3)]
ports = [s.getsockname()[1] for s in sockets]
print("ports", *ports, flush=True)
fds = [os.dup(s.fileno()) for s in sockets]
for n, fd in enumerate(fds):
    os.dup2(fd, 3 + n, inheritable=True)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="3", LISTEN_FDNAMES="tunnel:http:other")
args = sys.argv[1:] + ["--tunnel-listen", "127.0.0.1:%d" % ports[2]]
os.execv(args[0], args)
"#;
    let mut command = Command::new(tool("python3"));
    command.args(["-c", script]).arg(binary("spdy-proxy"));
    // An address that cannot be listened on: nobody tries.
    command.args(["--listen", "203.0.113.1:1", "--allow-anonymous", "--spread", "1"]);
    command.arg("--debug").arg("--state-dir").arg(state.path());
    let proxy = Program::start("spdy-proxy", &mut command);
    let ports: Vec<u16> = proxy.wait_for("its ports", |line| {
        line.strip_prefix("ports ")?.split(' ').map(|port| port.parse().ok()).collect()
    });
    let at = |n: usize| SocketAddr::from(([127, 0, 0, 1], ports[n]));
    let kinds = ["tunnel", "http", "tunnel"];
    for (n, kind) in kinds.into_iter().enumerate() {
        let line = format!("listening on {} {kind}", at(n));
        proxy.wait_for(&line, |held| (held == line).then_some(()));
    }
    let agent = Agent::serve(root.path(), at(0));
    wait_for_agent(at(1));
    drop(agent);
    let _agent = Agent::serve(root.path(), at(2));
    wait_for_agent(at(1));
    // They are handed on, and still all there is.
    let crowd = Crowd::come(at(1));
    signal(proxy.id(), Signal::USR2);
    let _successor = Successor(proxy.wait_for("its successor", |line| {
        line.split_once("server=handed_over process=")?.1.trim().parse().ok()
    }));
    settled(at(1), "/small");
    assert!(crowd.go() > 0);
}
