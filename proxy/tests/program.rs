//! The binary: what it prints, its exit codes, its signals, and what it costs while idle.

#![allow(clippy::unwrap_used, reason = "this is a test")]

mod support;

use std::{
    fs,
    io::Read,
    net::{TcpListener, TcpStream},
    os::unix::fs::PermissionsExt,
    process::Output,
    rc::Rc,
};

use async_executor::LocalExecutor;
use async_io::block_on;
use data_encoding::HEXLOWER;
use spdy_protocol::{
    budget::Budget,
    handshake::{Answer, Credentials, agreed},
    join::JoinCode,
    session::{Config, Side},
    tunnel::tunnel,
};
use support::{
    Folder, LIMIT, Visitor,
    agent::{Role, dial, sha256, shake_hands},
    program::{Running, program},
    wait_until,
};

fn run(args: &[&str]) -> Output {
    program(args).output().unwrap()
}

/// Fails with `code` and one line that contains `words`.
fn assert_fails(args: &[&str], code: i32, words: &str) {
    let output = run(args);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(code), "{args:?}: {stderr}");
    assert_eq!(stderr.lines().count(), 1, "{args:?}: {stderr}");
    assert!(stderr.starts_with("spdy-proxy: ") && stderr.contains(words), "{args:?}: {stderr}");
}

#[test]
fn senseless_command_lines_exit_64() {
    assert_fails(&["--nonsense"], 64, "--nonsense");
    assert_fails(&["--listen=nonsense"], 64, "nonsense");
    assert_fails(&["pair"], 64, "name");
    assert_fails(&["pair", "No_Name"], 64, "No_Name");
    assert_fails(&["--config", "/nonexistent/proxy.conf"], 64, "/nonexistent/proxy.conf");
    let folder = Folder::new();
    fs::create_dir_all(&folder.0).unwrap();
    let file = folder.0.join("proxy.conf");
    fs::write(&file, "log warn\nspeed high\n").unwrap();
    assert_fails(&["--config", file.to_str().unwrap()], 64, "line 2: unknown key \"speed\"");
}

#[test]
fn what_cannot_start_exits_1() {
    let folder = Folder::new();
    let state = folder.0.to_str().unwrap();
    let taken = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let free = ["--tunnel-listen", "127.0.0.1:0", "--state-dir", state];
    let args = [&["--listen", &address][..], &free].concat();
    assert_fails(&args, 1, &format!("cannot listen on {address}"));
    let free = ["--listen", "127.0.0.1:0", "--tunnel-listen", "127.0.0.1:0", "--state-dir", state];
    fs::write(folder.0.join("key.pem"), "nonsense").unwrap();
    assert_fails(&free, 1, "key.pem: no private key");
    fs::remove_file(folder.0.join("cert.pem")).unwrap();
    assert_fails(&free, 1, "cert.pem: ");
    let file = folder.0.join("lock").join("below-a-file");
    assert_fails(&["list", "--state-dir", file.to_str().unwrap()], 1, "below-a-file");
}

#[test]
fn a_second_program_on_the_same_state_is_refused() {
    let running = Running::start(&[]);
    let args = ["--listen", "127.0.0.1:0", "--tunnel-listen", "127.0.0.1:0"];
    let args = [&args[..], &["--state-dir", running.state()]].concat();
    assert_fails(&args, 1, "another spdy-proxy");
}

#[test]
fn pair_prints_the_code_alone_and_list_shows_the_origin() {
    let running = Running::start(&[]);
    let state = running.state();
    let pair = ["pair", "nas1", "--access=open", "--address=[::1]:1444", "--state-dir", state];
    let paired = run(&pair);
    assert!(paired.status.success());
    let text = String::from_utf8(paired.stdout).unwrap();
    assert_eq!(text.lines().count(), 1);
    let code = JoinCode::parse(&text).unwrap();
    assert_eq!(code.addresses, ["[::1]:1444"]);
    assert_eq!(code.origin, "nas1");
    let kept = fs::read_to_string(running.folder.0.join("origins/nas1")).unwrap();
    let secret = HEXLOWER.encode(&code.secret);
    assert!(!kept.contains(&secret), "only the hash is kept");
    // The running program knows the name at once.
    let mut visitor = Visitor::new(TcpStream::connect(running.http).unwrap());
    visitor.send("GET / HTTP/1.1\r\nHost: nas1\r\n\r\n");
    assert_eq!(visitor.answer().status(), 503);
    run(&["pair", "nas2", "--access", "open", "--state-dir", state]);
    visitor.send("GET / HTTP/1.1\r\nHost: nas3\r\n\r\n");
    assert_eq!(visitor.answer().status(), 404);
    let socket = running.folder.0.join("control.sock");
    assert_eq!(fs::metadata(socket).unwrap().permissions().mode() & 0o777, 0o600);
    let list =
        |state: &str| String::from_utf8(run(&["list", "--state-dir", state]).stdout).unwrap();
    let live = list(state);
    let expected = "nas1 never-joined access=open join_code_seconds=";
    assert!(live.starts_with(expected), "{live}");
    running.signal("TERM");
    wait_until("the socket is gone", || !running.folder.0.join("control.sock").exists());
    assert!(list(state).starts_with(expected));
}

#[test]
fn signals_end_it_in_order() {
    for signal in ["TERM", "INT"] {
        let mut running = Running::start(&["--grace", "5"]);
        let mut idle = Visitor::new(TcpStream::connect(running.http).unwrap());
        idle.send("GET /debug HTTP/1.1\r\nHost: x\r\n\r\n");
        assert_eq!(idle.answer().status(), 200);
        running.signal(signal);
        let begun = std::time::Instant::now();
        assert_eq!(running.child.wait().unwrap().code(), Some(0));
        assert!(begun.elapsed() < LIMIT / 4);
        let mut lines = String::new();
        running.stderr.read_to_string(&mut lines).unwrap();
        assert!(lines.contains(" info server=draining "), "{lines}");
    }
}

#[test]
fn a_configuration_file_says_the_same_as_flags() {
    let folder = Folder::new();
    fs::create_dir_all(&folder.0).unwrap();
    let file = folder.0.join("proxy.conf");
    fs::write(&file, "# a comment\nlog error\ndebug yes\nallow-anonymous\ngrace 5\n").unwrap();
    let running = Running::start(&["--config", file.to_str().unwrap()]);
    let mut visitor = Visitor::new(TcpStream::connect(running.http).unwrap());
    visitor.send("GET /debug HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: 192.0.2.1\r\n\r\n");
    assert_eq!(visitor.answer().status(), 200);
}

/// Resident octets of the program.
fn resident(running: &Running) -> usize {
    let status = fs::read_to_string(format!("/proc/{}/status", running.child.id())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.split_whitespace().next().unwrap().parse::<usize>().unwrap() * 1_024
}

#[test]
fn an_idle_tunnel_costs_at_most_24_kib() {
    const TUNNELS: usize = 300;
    let running = Running::start(&[]);
    for at in 0..TUNNELS + 1 {
        let role = Role::new(&format!("nas{at}"));
        let hash = HEXLOWER.encode(&sha256(role.token.as_bytes()));
        fs::write(running.folder.0.join("origins").join(&role.origin), format!("token {hash}\n"))
            .unwrap();
    }
    let pin = running.pin();
    let executor = Rc::new(LocalExecutor::new());
    let connect = async |at: usize| {
        let role = Role::new(&format!("nas{at}"));
        let put = role.put(Credentials::Bearer(role.token.clone()), None);
        let mut io = dial(running.tunnel, pin).await;
        let (answer, received) = shake_hands(&mut io, &put).await;
        let Answer::Established(Some(welcome)) = answer else { panic!("{answer:?}") };
        let (profile, features) = agreed(role.can, Some(welcome.can));
        let mut config = Config::new(Side::Server, profile, Budget::new(1 << 20).into());
        config.stored_only = features.stored;
        let (_, _, driver) = tunnel(io, config, received);
        executor.spawn(driver).detach();
    };
    let connected = |count: usize| running.debug().contains(&format!("tunnels_now {count}\n"));
    // The first one pays for what all share.
    block_on(executor.run(connect(0)));
    wait_until("it is up", || connected(1));
    let before = resident(&running);
    block_on(executor.run(async {
        for at in 1..=TUNNELS {
            connect(at).await;
        }
    }));
    wait_until("all are up", || connected(TUNNELS + 1));
    let each = (resident(&running) - before) / TUNNELS;
    println!("an idle tunnel costs {each} octets");
    assert!(each <= 24 << 10, "{each} octets per idle tunnel");
}

#[test]
fn an_idle_connection_of_a_visitor_costs_at_most_32_kib() {
    const CONNECTIONS: usize = 300;
    let running = Running::start(&[]);
    let connect = || {
        let mut visitor = Visitor::new(TcpStream::connect(running.http).unwrap());
        visitor.send("GET /debug HTTP/1.1\r\nHost: x\r\n\r\n");
        assert_eq!(visitor.answer().status(), 200);
        visitor
    };
    let _first = connect();
    let before = resident(&running);
    let held: Vec<_> = (0..CONNECTIONS).map(|_| connect()).collect();
    let each = (resident(&running) - before) / CONNECTIONS;
    println!("an idle connection costs {each} octets");
    assert!(each <= 32 << 10, "{each} octets per idle connection");
    drop(held);
}
