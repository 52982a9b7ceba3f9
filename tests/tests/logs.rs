//! Standard error that nobody reads: lines are lost, service goes on.
#![expect(clippy::unwrap_used, reason = "a test that panics has failed, with its line")]

use std::{
    fs::File,
    io::{BufRead, BufReader, Read},
    net::SocketAddr,
    os::{fd::OwnedFd, unix::net::UnixStream},
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use rustix::{
    fs::{Mode, OFlags, open},
    io::{FdFlags, fcntl_setfd},
    pipe::{PipeFlags, fcntl_setpipe_size, pipe_with},
    process::{Pid, Signal, kill_process},
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
};
use spdy_tests::{
    fixture::{Builds, PATIENCE, Proxy, TempRoot, binary},
    http::{Request, Response, wait_for_agent},
    visitor::Visitor,
};

/// What stderr is: the end that is read, and the program's.
fn stderrs() -> Vec<(&'static str, File, Stdio)> {
    let pipe = |name, size: Option<usize>| {
        let (read, write) = pipe_with(PipeFlags::CLOEXEC).unwrap();
        if let Some(size) = size {
            fcntl_setpipe_size(&write, size).unwrap();
        }
        (name, File::from(read), Stdio::from(write))
    };
    let (read, write) = UnixStream::pair().unwrap();
    let socket = ("a socket", File::from(OwnedFd::from(read)), OwnedFd::from(write).into());
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let main = openpt(flags).unwrap();
    fcntl_setfd(&main, FdFlags::CLOEXEC).unwrap();
    grantpt(&main).unwrap();
    unlockpt(&main).unwrap();
    let name = ptsname(&main, Vec::new()).unwrap();
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let terminal = open(&*name, flags, Mode::empty()).unwrap();
    vec![
        pipe("a pipe", None),
        pipe("a pipe of one page", Some(4_096)),
        socket,
        ("a terminal", File::from(main), Stdio::from(terminal)),
    ]
}

/// A program whose stderr is read no further than a test wants; killed when dropped.
struct Unread {
    child: Child,
    stderr: Option<BufReader<File>>,
}

impl Unread {
    fn start(command: &mut Command, read: File, write: Stdio) -> Self {
        let child = command.stdin(Stdio::null()).stderr(write).spawn().unwrap();
        // The command holds the end that the program has.
        command.stderr(Stdio::null());
        Self { child, stderr: Some(BufReader::with_capacity(64, read)) }
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.stderr.as_mut().unwrap().read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    fn terminated(&mut self) -> ExitStatus {
        let id = Pid::from_child(&self.child);
        kill_process(id, Signal::TERM).unwrap();
        let end = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < end, "it does not end");
            thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Unread {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn unread_proxy(read: File, write: Stdio) -> (Unread, SocketAddr, TempRoot) {
    let state = TempRoot::new();
    let mut command = Command::new(binary("spdy-proxy"));
    command.args(["--listen", "127.0.0.1:0", "--tunnel-listen", "127.0.0.1:0", "-s"]);
    command.args(["--log", "debug", "--grace", "1", "--state-dir"]).arg(state.path());
    let mut proxy = Unread::start(&mut command, read, write);
    let line = proxy.line();
    let http = line.strip_prefix("listening on ").and_then(|line| line.strip_suffix(" http"));
    let http = http.unwrap_or_else(|| panic!("{line}")).parse().unwrap();
    (proxy, http, state)
}

/// Answers with their statuses to `count` requests on one connection.
fn ask(http: SocketAddr, count: usize, status: u16) {
    let mut client = Visitor::connect(http);
    for _ in 0..count {
        client.send("GET /file HTTP/1.1\r\nHost: nas9.example\r\n\r\n");
        assert_eq!(Response::read(&mut client, "GET").unwrap().status, status);
    }
}

#[test]
fn proxy_serves_and_ends_while_nobody_reads_its_log() {
    for (kind, read, write) in stderrs() {
        println!("{kind}");
        let (mut proxy, http, _state) = unread_proxy(read, write);
        ask(http, 3_000, 503);
        let begun = Instant::now();
        assert_eq!(proxy.terminated().code(), Some(0), "{kind}");
        // Its grace, the last GOAWAYs and the time for its last lines.
        assert!(begun.elapsed() < Duration::from_secs(6), "{kind}: {:?}", begun.elapsed());
    }
}

#[test]
fn proxy_tells_how_many_lines_were_lost_when_its_log_is_read_again() {
    let (_, read, write) = stderrs().remove(1);
    let (mut proxy, http, _state) = unread_proxy(read, write);
    ask(http, 4_000, 503);
    let stderr = proxy.stderr.take().unwrap();
    let (told, lost) = mpsc::channel();
    let reading = thread::spawn(move || {
        let lines = stderr.lines().map_while(Result::ok);
        for line in lines {
            if let Some((_, count)) = line.split_once(" dropped=") {
                let _ = told.send(count.parse::<usize>().unwrap());
            }
        }
    });
    let end = Instant::now() + PATIENCE;
    let lost = loop {
        ask(http, 1, 503);
        match lost.recv_timeout(Duration::from_millis(50)) {
            Ok(lost) => break lost,
            Err(error) => assert!(Instant::now() < end, "{error}"),
        }
    };
    assert!((100..4_000).contains(&lost), "{lost}");
    assert_eq!(proxy.terminated().code(), Some(0));
    reading.join().unwrap();
}

#[test]
fn proxy_says_why_it_ends_behind_all_that_it_said_before() {
    let (_, read, write) = stderrs().remove(0);
    let (mut proxy, ..) = unread_proxy(read, write);
    assert_eq!(proxy.terminated().code(), Some(0));
    let mut rest = String::new();
    proxy.stderr.take().unwrap().read_to_string(&mut rest).unwrap();
    assert!(rest.contains(" info server=draining "), "{rest}");
}

#[test]
fn agent_serves_and_ends_while_nobody_reads_its_log() {
    for (kind, read, write) in stderrs() {
        println!("{kind}");
        let proxy = Proxy::start(&["--allow-anonymous"]);
        let root = TempRoot::new();
        root.write("file", b"a file");
        let mut command = Builds::beside().agent_behind(&[]);
        command.arg("-r").arg(root.path()).args(["--proxy", &proxy.tunnel.to_string()]);
        command
            .args(["--insecure", "-s", "--log", "debug"])
            .env("RUNTIME_DIRECTORY", root.join("run"));
        let mut agent = Unread::start(&mut command, read, write);
        wait_for_agent(proxy.http);
        ask(proxy.http, 2_000, 200);
        // Long lines, too: a page of a pipe is not enough for two.
        let long = format!("/{}", "%20".repeat(1_000));
        for _ in 0..50 {
            assert_eq!(Request::get(&long).send(proxy.http).unwrap().status, 404);
        }
        let begun = Instant::now();
        assert_eq!(agent.terminated().code(), Some(0), "{kind}");
        assert!(begun.elapsed() < Duration::from_secs(6), "{kind}: {:?}", begun.elapsed());
    }
}
