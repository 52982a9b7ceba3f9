//! The proxy where its end would be that of the service: as the first process of a container, and as
//! the child of a manager that goes by it; without free descriptors; and with a configuration that
//! takes for ever to read.
#![expect(clippy::unwrap_used, reason = "a test that panics has failed, with its line")]

use std::{
    fs,
    net::{SocketAddr, TcpStream},
    os::unix::fs::PermissionsExt as _,
    process::Command,
    time::Duration,
};

use rustix::process::Signal;
use spdy_tests::{
    fixture::{PATIENCE, Program, TempRoot, binary, wait_until},
    http::Request,
    observe::signal,
};

struct Contained {
    program: Program,
    http: SocketAddr,
    /// The proxy as this namespace sees it.
    id: u32,
    dir: TempRoot,
}

impl Contained {
    /// Starts `before` with a proxy and its configuration as its last words.
    fn start(dir: TempRoot, before: &mut Command) -> Self {
        let config = dir.join("proxy.conf");
        let text = format!(
            "listen 127.0.0.1:0\ntunnel-listen 127.0.0.1:0\nstate-dir {}\nallow-anonymous\n",
            dir.join("state").display()
        );
        fs::write(&config, text).unwrap();
        before.arg(binary("spdy-proxy")).arg("--config").arg(&config);
        let program = Program::start("spdy-proxy", before);
        let http = program.wait_for("its address", |line| {
            line.strip_prefix("listening on ")?.strip_suffix(" http")?.parse().ok()
        });
        let id = program.id();
        // The last of a line of only children.
        let mut proxy = id;
        while let Some(child) = child_of(proxy) {
            proxy = child;
        }
        Self { program, http, id: proxy, dir }
    }

    fn serves(&self) {
        assert_eq!(Request::get("/").send(self.http).unwrap().status, 503);
    }

    /// Every way to ask for a new process is refused in words, and it serves on.
    fn refuses_to_give_way(&mut self, reason: &str) {
        let refusals = || self.program.text().matches("handover=refused").count();
        let refused = |count| wait_until("it is refused", || refusals() == count);
        self.serves();
        signal(self.id, Signal::USR2);
        refused(1);
        self.program.wait_for("its reason", |line| {
            (line.contains("action=serving") && line.contains(reason)).then_some(())
        });
        self.serves();
        let config = self.dir.join("proxy.conf");
        let text = fs::read_to_string(&config).unwrap();
        fs::write(&config, format!("{text}grace 20\n")).unwrap();
        signal(self.id, Signal::HUP);
        refused(2);
        // Nobody signals: it looks by itself, every five seconds.
        fs::write(&config, format!("{text}grace 21\n")).unwrap();
        refused(3);
        self.serves();
        assert!(self.program.try_exit().unwrap().is_none());
        signal(self.id, Signal::TERM);
        assert_eq!(self.program.wait_exit(PATIENCE).code(), Some(0));
    }
}

fn child_of(id: u32) -> Option<u32> {
    let children = fs::read_to_string(format!("/proc/{id}/task/{id}/children")).unwrap();
    children.split_whitespace().next().map(|child| child.parse().unwrap())
}

#[test]
fn first_process_of_a_container_serves_on_when_it_is_to_give_way() {
    let mut unshare = Command::new("unshare");
    unshare.args(["--pid", "--fork", "--mount-proc"]);
    if !Command::new("unshare")
        .args(["--pid", "--fork", "--mount-proc", "true"])
        .status()
        .is_ok_and(|status| status.success())
    {
        println!("not tested: no PID namespaces here");
        return;
    }
    Contained::start(TempRoot::new(), &mut unshare).refuses_to_give_way("PID 1");
}

#[test]
fn child_of_a_manager_that_goes_by_it_serves_on_when_it_is_to_give_way() {
    let dir = TempRoot::new();
    // A manager by its name, which is all that shows of it: it starts one child and waits for it.
    let tini = dir.join("tini");
    fs::write(&tini, "#!/bin/sh\ntrap : TERM\n\"$@\" &\nwait $!\n").unwrap();
    fs::set_permissions(&tini, fs::Permissions::from_mode(0o755)).unwrap();
    Contained::start(dir, &mut Command::new(tini)).refuses_to_give_way("tini (process");
}

#[test]
fn child_of_a_script_that_ends_with_it_serves_on_when_it_is_to_give_way() {
    let dir = TempRoot::new();
    // The script is what the manager goes by, and it ends with the proxy.
    let (runsv, run) = (dir.join("runsv"), dir.join("run"));
    fs::write(&run, "#!/bin/sh\n\"$@\"\n:\n").unwrap();
    fs::write(&runsv, format!("#!/bin/sh\n{} \"$@\"\n:\n", run.display())).unwrap();
    for script in [&runsv, &run] {
        fs::set_permissions(script, fs::Permissions::from_mode(0o755)).unwrap();
    }
    let mut contained = Contained::start(dir, &mut Command::new(runsv));
    contained.refuses_to_give_way("runsv (process");
}

#[test]
fn shell_as_first_process_of_a_container_is_not_ended_by_an_upgrade() {
    let unshare = ["unshare", "--pid", "--fork", "--mount-proc"];
    let can = Command::new(unshare[0]).args(&unshare[1..]).arg("true").status();
    if !can.is_ok_and(|status| status.success()) {
        println!("not tested: no PID namespaces here");
        return;
    }
    for first in [&["sh", "-c", "\"$@\"; :", "sh"][..], &["timeout", "600"]] {
        let mut command = Command::new(unshare[0]);
        command.args(&unshare[1..]).args(first);
        let mut contained = Contained::start(TempRoot::new(), &mut command);
        contained.refuses_to_give_way(&format!("{} (process 1)", first[0]));
    }
}

#[test]
fn process_without_free_descriptors_says_so_once() {
    let dir = TempRoot::new();
    let mut prlimit = Command::new("prlimit");
    prlimit.arg("--nofile=40:40");
    let proxy = Contained::start(dir, &mut prlimit);
    let held: Vec<_> = (0..100).filter_map(|_| TcpStream::connect(proxy.http).ok()).collect();
    proxy.program.wait_for("its line", |line| {
        line.contains("accept=failed port=http times=1 ").then_some(())
    });
    // Thirty attempts fail in this time at either port, and none of them is told.
    std::thread::sleep(Duration::from_secs(3));
    for port in ["http", "tunnel"] {
        let told = proxy.program.text().matches(&format!("accept=failed port={port} ")).count();
        assert!(told <= 1, "{port} {told}");
    }
    drop(held);
    proxy.serves();
}

#[test]
fn configuration_that_cannot_be_read_holds_up_neither_service_nor_the_end() {
    let mut command = Command::new("env");
    let mut proxy = Contained::start(TempRoot::new(), &mut command);
    let config = proxy.dir.join("proxy.conf");
    fs::remove_file(&config).unwrap();
    // Whoever opens it waits for a writer.
    assert!(Command::new("mkfifo").arg(&config).status().unwrap().success());
    signal(proxy.id, Signal::HUP);
    // It looks by itself every five seconds, too.
    for _ in 0..60 {
        proxy.serves();
        std::thread::sleep(Duration::from_millis(100));
    }
    signal(proxy.id, Signal::TERM);
    assert_eq!(proxy.program.wait_exit(PATIENCE).code(), Some(0));
}
