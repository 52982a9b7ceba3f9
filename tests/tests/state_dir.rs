//! The state directory: at any depth, one server, nobody else may write there, one bad record harms no
//! other origin.
#![expect(clippy::unwrap_used, reason = "a test that panics has failed, with its line")]

use std::{
    fs,
    io::{Read as _, Write as _},
    net::TcpStream,
    os::unix::{ffi::OsStrExt as _, fs::PermissionsExt as _, fs::symlink},
    path::{Path, PathBuf},
    process::{Command, Output},
    time::{Duration, Instant},
};

use spdy_tests::{
    fixture::{Agent, Builds, Program, Proxy, TempRoot, binary, join, wait_until},
    http::Response,
    observe::signal,
    visitor::Visitor,
};

use rustix::process::Signal;

/// A new directory below `root` whose path has `len` bytes.
fn deep(root: &TempRoot, len: usize) -> PathBuf {
    let mut path = root.path().to_owned();
    loop {
        let left = len.saturating_sub(path.as_os_str().len());
        if left == 0 {
            break;
        }
        // Separators and names; never one byte left for a name.
        let name = if left > 202 { 200 } else { left - 1 };
        path.push("d".repeat(name.max(1)));
    }
    assert_eq!(path.as_os_str().as_bytes().len(), len, "{}", path.display());
    path
}

fn told(state: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(binary("spdy-proxy"));
    command.args(args).arg("--state-dir").arg(state).output().unwrap()
}

fn ok(state: &Path, args: &[&str]) -> String {
    let output = told(state, args);
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn failed(state: &Path, args: &[&str]) -> String {
    let output = told(state, args);
    assert_eq!(output.status.code(), Some(1), "{args:?} {output:?}");
    String::from_utf8(output.stderr).unwrap()
}

const SERVE: [&str; 4] = ["--listen", "127.0.0.1:0", "--tunnel-listen", "127.0.0.1:0"];

/// A proxy on `state` with the agent `nas1`, which serves `file`.
fn serving(state: &Path, root: &TempRoot) -> (Proxy, Agent) {
    let proxy = Proxy::start_in(state, &[]);
    let config = root.join("agent.conf");
    root.write("share/file", b"a file");
    join(&Builds::beside(), &proxy.pair("nas1"), &config);
    let agent = Agent::joined(&Builds::beside(), &root.join("share"), &config, &[]);
    proxy.wait_for_tunnel("nas1");
    (proxy, agent)
}

fn status(proxy: &Proxy) -> u16 {
    get(proxy, "/file").status
}

fn get(proxy: &Proxy, path: &str) -> Response {
    let mut client = Visitor::connect(proxy.http);
    client.send(format!("GET {path} HTTP/1.1\r\nHost: nas1\r\nRange: bytes=0-0\r\n\r\n"));
    Response::read(&mut client, "GET").unwrap()
}

#[test]
fn commands_reach_the_server_in_directories_of_any_depth() {
    for len in [91, 96, 97, 107, 108, 200, 1_100, 3_000] {
        let root = TempRoot::new();
        let state = deep(&root, len);
        let (proxy, _agent) = serving(&state, &root);
        assert_eq!(status(&proxy), 206, "{len}");
        let listed = ok(&state, &["list"]);
        assert!(listed.starts_with("nas1 connected access=open"), "{len}: {listed}");
        assert!(ok(&state, &["status"]).contains("\ntunnels_now 1\n"), "{len}");
        let second = failed(&state, &SERVE);
        assert!(second.contains("another spdy-proxy runs"), "{len}: {second}");
        assert!(ok(&state, &["access", "nas1", "password"]).contains("password "), "{len}");
        assert_eq!(status(&proxy), 401, "{len}");
        let _ = ok(&state, &["access", "nas1", "open"]);
        assert_eq!(status(&proxy), 206, "{len}");
        assert_eq!(ok(&state, &["revoke", "nas1"]), "nas1 is revoked\n");
        assert_eq!(status(&proxy), 503, "{len}");
        assert!(ok(&state, &["list"]).starts_with("nas1 revoked"), "{len}");
    }
}

#[test]
fn command_that_a_running_server_does_not_hear_is_not_told_done() {
    let root = TempRoot::new();
    let state = root.join("state");
    let (proxy, _agent) = serving(&state, &root);
    fs::remove_file(state.join("control.sock")).unwrap();
    for args in [&["revoke", "nas1"][..], &["access", "nas1", "open"], &["pair", "nas2"]] {
        let error = failed(&state, args);
        assert!(error.contains("does not answer on its control socket"), "{args:?}: {error}");
    }
    for args in [&["list"][..], &["status"]] {
        assert!(failed(&state, args).contains("does not answer"), "{args:?}");
    }
    // Nor does another one take its place.
    assert!(failed(&state, &SERVE).contains("another spdy-proxy runs"));
    drop(proxy);
    // A server that was killed leaves nothing that holds up the next.
    assert!(ok(&state, &["access", "nas1", "open"]).contains("holds from the next start"));
    drop(Proxy::start_in(&state, &[]));
}

#[test]
fn server_without_a_control_socket_does_not_start() {
    let root = TempRoot::new();
    let state = root.join("state");
    drop(Proxy::start_in(&state, &[]));
    let in_the_way = state.join("control.new");
    let _ = fs::remove_file(&in_the_way);
    fs::create_dir(&in_the_way).unwrap();
    assert!(failed(&state, &SERVE).contains("cannot make the control socket"));
    fs::remove_dir(&in_the_way).unwrap();
    let lock = state.join("serving");
    fs::remove_file(&lock).unwrap();
    fs::create_dir(&lock).unwrap();
    assert!(failed(&state, &SERVE).contains("serving"));
}

#[test]
fn directory_that_others_can_write_to_is_refused() {
    let root = TempRoot::new();
    for (mode, inside) in [(0o777, ""), (0o775, ""), (0o1777, ""), (0o702, ""), (0o777, "origins")]
    {
        let state = root.join(&format!("{mode:o}{inside}"));
        drop(Proxy::start_in(&state, &[]));
        fs::set_permissions(state.join(inside), fs::Permissions::from_mode(mode)).unwrap();
        for args in [&SERVE[..], &["pair", "nas1"], &["list"]] {
            let error = failed(&state, args);
            let remedy = format!("chmod go-w {}", state.join(inside).display());
            assert!(error.contains(remedy.trim_end_matches('/')), "{mode:o} {args:?}: {error}");
        }
        fs::set_permissions(state.join(inside), fs::Permissions::from_mode(0o755)).unwrap();
        let _ = ok(&state, &["list"]);
    }
}

#[test]
fn download_that_waits_for_a_revoked_agent_is_cut_at_once() {
    let root = TempRoot::new();
    let state = root.join("state");
    let (proxy, mut agent) = serving(&state, &root);
    fs::write(root.join("share/large"), vec![7; 64 << 20]).unwrap();
    // What has just been written has no tag, and is not continued.
    wait_until("it can be continued", || get(&proxy, "/large").headers.contains_key("etag"));
    let begin = || {
        let mut client = TcpStream::connect(proxy.http).unwrap();
        client.write_all(b"GET /large HTTP/1.1\r\nHost: nas1\r\n\r\n").unwrap();
        let mut some = [0; 4_096];
        client.read_exact(&mut some).unwrap();
        client
    };
    let end = |mut client: TcpStream| {
        let begun = Instant::now();
        let mut rest = Vec::new();
        let _ = client.read_to_end(&mut rest);
        assert!(rest.len() < 64 << 20);
        begun.elapsed()
    };
    // One that runs, and one whose agent has gone before.
    let running = begin();
    let _ = ok(&state, &["revoke", "nas1"]);
    assert!(end(running) < Duration::from_secs(10));
    let config = root.join("agent.conf");
    agent.program_mut().kill();
    join(&Builds::beside(), &proxy.pair("nas1"), &config);
    let mut agent = Agent::joined(&Builds::beside(), &root.join("share"), &config, &[]);
    wait_until("it serves again", || status(&proxy) == 206);
    let waiting = begin();
    agent.program_mut().kill();
    wait_until("it is away", || ok(&state, &["list"]).starts_with("nas1 away"));
    let _ = ok(&state, &["revoke", "nas1"]);
    assert!(end(waiting) < Duration::from_secs(10));
}

#[test]
fn unreadable_record_locks_its_origin_alone() {
    let root = TempRoot::new();
    let state = root.join("state");
    let (proxy, _agent) = serving(&state, &root);
    let _ = proxy.pair("nas2");
    let origins = state.join("origins");
    let record = origins.join("nas2");
    let sound = fs::read(&record).unwrap();
    let break_it: [(&str, &dyn Fn()); 8] = [
        ("nothing in it", &|| fs::write(&record, b"").unwrap()),
        ("zeros, as after a power cut", &|| fs::write(&record, [0; 100]).unwrap()),
        ("a directory", &|| fs::create_dir(&record).unwrap()),
        ("no UTF-8", &|| fs::write(&record, b"token \xff\xfe\n").unwrap()),
        ("damaged", &|| fs::write(&record, b"token 12\n").unwrap()),
        ("too long", &|| fs::write(&record, vec![b'#'; 2 << 20]).unwrap()),
        ("a link to nothing", &|| symlink("/nowhere/at/all", &record).unwrap()),
        ("a pipe", &|| {
            assert!(Command::new("mkfifo").arg(&record).status().unwrap().success());
        }),
    ];
    for (what, break_it) in break_it {
        fs::remove_file(&record).unwrap();
        break_it();
        // The other one's rules are taken up all the same.
        let _ = ok(&state, &["access", "nas1", "password"]);
        assert_eq!(status(&proxy), 401, "{what}");
        let _ = ok(&state, &["access", "nas1", "open"]);
        assert_eq!(status(&proxy), 206, "{what}");
        let listed = ok(&state, &["list"]);
        assert!(listed.contains("nas2 unreadable access=locked"), "{what}: {listed}");
        let line = "record=unreadable origin=nas2 action=locked";
        proxy.program().wait_for("the line", |held| held.contains(line).then_some(()));
        // Nothing that it says is written over.
        assert!(failed(&state, &["pair", "nas2"]).contains("nas2"), "{what}");
        assert!(failed(&state, &["revoke", "nas2"]).contains("nas2"), "{what}");
        // A server starts with it, too.
        let moved = root.join(&format!("copy of {what}"));
        assert!(Command::new("cp").arg("-a").arg(&state).arg(&moved).status().unwrap().success());
        drop(Proxy::start_in(&moved, &[]));
        if record.is_dir() && !record.is_symlink() {
            fs::remove_dir(&record).unwrap();
        } else {
            fs::remove_file(&record).unwrap();
        }
        fs::write(&record, &sound).unwrap();
        assert!(ok(&state, &["list"]).contains("nas2 never-joined"), "{what}");
        signal(proxy.program().id(), Signal::HUP);
    }
}

#[test]
fn agent_of_a_record_that_became_unreadable_is_cut() {
    let root = TempRoot::new();
    let state = root.join("state");
    let (proxy, _agent) = serving(&state, &root);
    let record = state.join("origins/nas1");
    let sound = fs::read(&record).unwrap();
    fs::write(&record, b"revoked some day\n").unwrap();
    signal(proxy.program().id(), Signal::HUP);
    wait_until("nobody comes in", || status(&proxy) == 403);
    fs::write(&record, sound).unwrap();
    signal(proxy.program().id(), Signal::HUP);
    wait_until("it serves again", || status(&proxy) == 206);
}

#[test]
fn directory_that_is_too_deep_for_an_address_needs_proc() {
    let without_proc = |state: &Path, args: &[&str]| {
        let script = "mount -t tmpfs none /proc && exec \"$0\" \"$@\"";
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", script]).arg(binary("spdy-proxy"));
        command.args(args).arg("--state-dir").arg(state);
        command
    };
    let root = TempRoot::new();
    let (short, long) = (root.join("short"), deep(&root, 200));
    let tried = without_proc(&short, &["list"]).output().unwrap();
    if String::from_utf8_lossy(&tried.stderr).contains("unshare") {
        println!("not tested: no mount namespaces here");
        return;
    }
    assert!(tried.status.success(), "{tried:?}");
    let program = Program::start("spdy-proxy", &mut without_proc(&short, &SERVE));
    program.wait_for("its address", |line| line.contains("listening on").then_some(()));
    assert!(ok(&short, &["status"]).contains("\nuptime_seconds "));
    assert!(without_proc(&short, &["status"]).status().unwrap().success());
    let refused = without_proc(&long, &SERVE).output().unwrap();
    assert_eq!(refused.status.code(), Some(1));
    let error = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(error.contains("cannot make the control socket"), "{error}");
}
