//! What both programs tell systemd, and when they stop to.

use std::{
    cell::RefCell,
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use spdy_tests::{
    fixture::{Builds, PATIENCE, Pipe, Program, Proxy, TempRoot, binary, join, wait_until},
    http::{Request, wait_for_agent},
};

use crate::manager::{Manager, held};

/// A joined agent's folder: its configuration, its token and a share.
struct Nas(TempRoot);

impl Nas {
    fn joined(proxy: &Proxy) -> Self {
        let root = TempRoot::new();
        let config = root.join("agent.conf");
        join(&Builds::beside(), &proxy.pair("nas1"), &config);
        let text = fs::read_to_string(&config).unwrap();
        root.write("agent.conf", format!("root served\n{text}").as_bytes());
        root.write("served/file", b"served");
        Self(root)
    }

    fn config(&self) -> PathBuf {
        self.0.join("agent.conf")
    }

    fn token_file(&self) -> PathBuf {
        let entries = fs::read_dir(self.0.path()).unwrap().map(|entry| entry.unwrap().path());
        let mut tokens = entries.filter(|path| path.extension().is_some_and(|of| of == "token"));
        tokens.next().unwrap()
    }
}

fn agent(config: &Path) -> Command {
    let mut command = Command::new(binary("spdy-agent"));
    command.arg("--config").arg(config);
    command
}

fn proxy(manager: &Manager, state: &TempRoot, args: &[&str]) -> (Program, SocketAddr, SocketAddr) {
    let mut command = Command::new(binary("spdy-proxy"));
    command.args([
        "--listen",
        "127.0.0.1:0",
        "--tunnel-listen",
        "127.0.0.1:0",
        "--allow-anonymous",
        "--debug",
    ]);
    let program =
        manager.start("spdy-proxy", command.args(args).arg("--state-dir").arg(state.path()));
    let port = |name: &str| {
        program.wait_for(name, |line| {
            line.strip_prefix("listening on ")?.strip_suffix(name)?.trim().parse().ok()
        })
    };
    let (http, tunnel) = (port("http"), port("tunnel"));
    (program, http, tunnel)
}

fn monotonic(said: &str) -> u64 {
    let time = said.lines().find_map(|line| line.strip_prefix("MONOTONIC_USEC="));
    time.unwrap().parse().unwrap()
}

#[test]
fn agent_tells_start_state_reload_and_end() {
    let (manager, proxy) = (Manager::new(), Proxy::start(&[]));
    let nas = Nas::joined(&proxy);
    let mut running = manager.start("spdy-agent", &mut agent(&nas.config()));
    assert_eq!(manager.next(PATIENCE).unwrap(), "READY=1");
    let connected = format!("STATUS=connected to {}", proxy.tunnel);
    manager.wait_for(&[&connected]);
    assert!(manager.is_fed_within(20));

    running.signal(Signal::HUP).unwrap();
    let (first, _) = manager.wait_for(&["RELOADING=1\nMONOTONIC_USEC="]);
    manager.wait_for(&["READY=1"]);
    // What is wrong is a line in the log: the service stays as it was, and ready.
    fs::write(nas.config(), "nonsense\n").unwrap();
    running.signal(Signal::HUP).unwrap();
    let (second, _) = manager.wait_for(&["RELOADING=1"]);
    assert!(monotonic(&first) < monotonic(&second));
    manager.wait_for(&["READY=1"]);

    let gone = format!("STATUS={}: ", proxy.tunnel);
    drop(proxy);
    manager.wait_for(&[&gone]);
    assert!(manager.is_fed_within(20));
    running.terminate();
    manager.wait_for(&["STOPPING=1"]);
    assert!(running.wait_exit(PATIENCE).success());
}

#[test]
fn agent_is_ready_without_any_network() {
    let manager = Manager::hidden();
    let root = TempRoot::new();
    let mut command = Command::new(binary("spdy-agent"));
    // No name server is asked for an address, and nobody listens there.
    command.args(["--insecure", "--proxy", "127.0.0.1:1", "-r"]).arg(root.join("not there yet"));
    let mut running = manager.start("spdy-agent", &mut command);
    assert_eq!(manager.next(PATIENCE).unwrap(), "READY=1");
    // The reason stands in quotes, in one line.
    manager.wait_for(&["STATUS=127.0.0.1:1: \"cannot connect: "]);
    assert!(manager.is_fed_within(20));
    running.terminate();
    assert!(running.wait_exit(PATIENCE).success());
}

#[test]
fn agent_feeds_no_watchdog_of_another_process() {
    let (manager, proxy) = (Manager::new(), Proxy::start(&[]));
    let nas = Nas::joined(&proxy);
    let mut command = agent(&nas.config());
    let running = manager.start("spdy-agent", command.env("WATCHDOG_PID", "1"));
    let (_, before) = manager.wait_for(&["STATUS=connected"]);
    assert!(!before.iter().any(|said| said.contains("WATCHDOG")));
    assert!(!manager.is_fed_within(3));
    running.signal(Signal::HUP).unwrap();
    manager.wait_for(&["READY=1"]);
}

#[test]
fn agent_whose_supervisor_is_stuck_is_not_spoken_for() {
    let (manager, proxy) = (Manager::new(), Proxy::start(&[]));
    let nas = Nas::joined(&proxy);
    let running = manager.start("spdy-agent", &mut agent(&nas.config()));
    manager.wait_for(&["STATUS=connected"]);
    let calls = "epoll_wait,?epoll_pwait,?epoll_pwait2";
    let Some(mut strace) = held(running.id(), calls) else { return };
    wait_until("the watchdog starves", || !manager.is_fed_within(3));
    assert!(!manager.is_fed_within(3));
    // It was not dead: let go, it is spoken for again.
    strace.terminate();
    strace.wait_exit(PATIENCE);
    manager.wait_for(&["WATCHDOG=1"]);
}

#[test]
fn credentials_come_before_files_and_stay_secret() {
    let (manager, proxy) = (Manager::new(), Proxy::start(&[]));
    let nas = Nas::joined(&proxy);
    let (file, folder) = (nas.token_file(), TempRoot::new());
    let token = fs::read_to_string(&file).unwrap();
    let name = file.file_name().unwrap().to_str().unwrap();
    // As with LoadCredential: the service may read its own copy only.
    folder.write(name, token.as_bytes());
    fs::remove_file(&file).unwrap();
    let start = || {
        let mut command = agent(&nas.config());
        manager.start("spdy-agent", command.env("CREDENTIALS_DIRECTORY", folder.path()))
    };
    let running = start();
    manager.wait_for(&["STATUS=connected"]);
    for place in ["cmdline", "environ"] {
        let text = fs::read(format!("/proc/{}/{place}", running.id())).unwrap();
        assert!(!String::from_utf8_lossy(&text).contains(token.trim()), "{place}");
    }
    assert!(!running.text().contains(token.trim()));
    drop(running);

    // Where no file is named: the credential called `token`.
    fs::rename(folder.join(name), folder.join("token")).unwrap();
    let text = fs::read_to_string(nas.config()).unwrap();
    let without = text.lines().filter(|line| !line.starts_with("token-file")).collect::<Vec<_>>();
    fs::write(nas.config(), without.join("\n")).unwrap();
    let _running = start();
    manager.wait_for(&["STATUS=connected"]);
}

#[test]
fn proxy_tells_start_state_reload_and_end() {
    let (manager, state) = (Manager::new(), TempRoot::new());
    let (mut running, http, tunnel) = proxy(&manager, &state, &[]);
    assert_eq!(manager.next(PATIENCE).unwrap(), "READY=1");
    manager.wait_for(&["STATUS=serving, agents connected: 0"]);
    assert!(manager.is_fed_within(20));

    let root = TempRoot::new();
    let mut command = Command::new(binary("spdy-agent"));
    command.args(["--insecure", "--proxy", &tunnel.to_string(), "-r"]).arg(root.path());
    let _agent = Program::start("spdy-agent", &mut command);
    manager.wait_for(&["STATUS=serving, agents connected: 1"]);

    running.signal(Signal::HUP).unwrap();
    manager.wait_for(&["RELOADING=1\nMONOTONIC_USEC="]);
    manager.wait_for(&["READY=1"]);
    wait_for_agent(http);
    running.terminate();
    manager.wait_for(&["STOPPING=1"]);
    assert!(running.wait_exit(PATIENCE).success());
}

#[test]
fn proxy_that_gives_way_names_the_next_one_which_then_speaks() {
    let (manager, state) = (Manager::hidden(), TempRoot::new());
    let (running, http, _) = proxy(&manager, &state, &["--spread", "0"]);
    manager.wait_for(&["WATCHDOG=1"]);
    running.signal(Signal::USR2).unwrap();
    manager.wait_for(&["RELOADING=1"]);
    let (said, _) = manager.wait_for(&["MAINPID="]);
    assert!(said.ends_with("\nREADY=1"));
    let id = said.lines().find_map(|line| line.strip_prefix("MAINPID=")).unwrap();
    let next = Next(Pid::from_raw(id.parse().unwrap()).unwrap());
    // Not by its pipes, which the new one has, too.
    let running = RefCell::new(running);
    wait_until("the old one has ended well", || {
        running.borrow_mut().try_exit().unwrap().is_some_and(|status| status.success())
    });
    // No word of an end, which would be the unit's; and the watchdog is not the old one's.
    while let Some(said) = manager.next(Duration::from_millis(1)) {
        assert!(!said.contains("STOPPING"), "{said}");
    }
    assert!(manager.is_fed_within(20));
    assert_eq!(Request::get("/").send(http).unwrap().status, 503);
    kill_process(next.0, Signal::TERM).unwrap();
    manager.wait_for(&["STOPPING=1"]);
}

/// A process that is nobody's child, ended with its value.
struct Next(Pid);

impl Drop for Next {
    fn drop(&mut self) {
        // Gone, if all went well.
        let _ = kill_process(self.0, Signal::KILL);
    }
}

#[test]
fn proxy_with_one_stuck_thread_is_not_spoken_for() {
    let (manager, state) = (Manager::new(), TempRoot::new());
    let (running, ..) = proxy(&manager, &state, &["--threads", "2"]);
    manager.wait_for(&["WATCHDOG=1"]);
    let thread = || {
        let threads = fs::read_dir(format!("/proc/{}/task", running.id())).unwrap();
        let mut threads = threads.map(|entry| entry.unwrap().path());
        let name = |path: &PathBuf| fs::read_to_string(path.join("comm")).unwrap_or_default();
        threads.find(|path| name(path).trim() == "serve-1")
    };
    wait_until("the second thread has its name", || thread().is_some());
    let thread = thread().unwrap().file_name().unwrap().to_str().unwrap().parse().unwrap();
    let Some(mut strace) = held(thread, "all") else { return };
    // Alone, or with the first one, if it was waiting for the kernel on behalf of both.
    wait_until("the watchdog starves", || !manager.is_fed_within(3));
    assert!(!manager.is_fed_within(3));
    strace.terminate();
    strace.wait_exit(PATIENCE);
    manager.wait_for(&["WATCHDOG=1"]);
}

#[test]
fn proxy_on_loopback_only_warns_once() {
    let warning = "listen=loopback";
    let state = TempRoot::new();
    let manager = Manager::new();
    let (running, ..) = proxy(&manager, &state, &[]);
    running.wait_for("the warning", |line| line.contains(warning).then_some(()));
    running.signal(Signal::HUP).unwrap();
    manager.wait_for(&["RELOADING=1"]);
    manager.wait_for(&["READY=1"]);
    let count = |program: &Program| {
        program.lines(Pipe::Stderr).iter().filter(|line| line.contains(warning)).count()
    };
    assert_eq!(count(&running), 1);
    let state = TempRoot::new();
    let (open, ..) = proxy(&manager, &state, &["--tunnel-listen", "[::]:0"]);
    manager.wait_for(&["WATCHDOG=1"]);
    manager.wait_for(&["STATUS=serving"]);
    assert_eq!(count(&open), 0);
}
