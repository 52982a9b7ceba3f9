//! Requests that are refused before their body was read: clients that send all of it first see why.
#![expect(clippy::unwrap_used, reason = "a test that panics has failed, with its line")]

use std::{
    fs,
    io::{ErrorKind, Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpStream},
    process::{Command, Output},
    time::{Duration, Instant},
};

use spdy_tests::{
    fixture::{Pair, Random, Sha256, TempRoot, tool, wait_until},
    local::Local,
    observe::Debug,
    visitor::Visitor,
};

/// Bodies: beyond what the buffers on the way hold.
const SIZES: [usize; 2] = [16 << 20, 64 << 20];

/// A share that asks for a password and takes uploads of up to 8 MiB.
struct Share {
    pair: Pair,
    root: TempRoot,
    password: String,
}

impl Share {
    fn start(args: &[&str]) -> Self {
        let root = TempRoot::new();
        let args = [&["--allow-write"], args].concat();
        let pair = Pair::with(root.path(), &[], &args);
        Self { pair, root, password: String::new() }
    }

    fn guarded() -> Self {
        let mut share = Self::start(&[]);
        let said = share.pair.proxy.tell(&["access", "nas1", "password"]);
        let password = said.lines().find_map(|line| line.strip_prefix("password "));
        share.password = password.unwrap().to_owned();
        share
    }

    fn http(&self) -> SocketAddr {
        self.pair.proxy.http
    }

    fn url(&self, name: &str) -> String {
        format!("http://{}/{name}", self.http())
    }
}

fn body(folder: &TempRoot, size: usize) -> (std::path::PathBuf, String) {
    let content = Random::octets(size, 7);
    let digest = Sha256::of(&content);
    (folder.write("body", &content), digest)
}

fn run(command: &mut Command) -> Output {
    command.output().unwrap()
}

/// Sends all of a request before it reads, and returns the status line.
fn status_after_all(to: SocketAddr, head: &str, size: usize) -> String {
    let mut stream = TcpStream::connect(to).unwrap();
    stream.write_all(format!("{head}Content-Length: {size}\r\n\r\n").as_bytes()).unwrap();
    let piece = vec![b'x'; 1 << 20];
    for _ in 0..size / piece.len() {
        stream.write_all(&piece).unwrap();
    }
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.contains("\r\nconnection: close\r\n"), "{answer}");
    answer.lines().next().unwrap_or_default().to_owned()
}

#[test]
fn wget_is_asked_for_the_password_and_uploads() {
    let (share, folder) = (Share::guarded(), TempRoot::new());
    for size in SIZES {
        let (path, digest) = body(&folder, size);
        let output = run(Command::new(tool("wget"))
            .args(["--no-config", "--method=PUT", "--user=nas1", "-O-", "--body-file"])
            .arg(&path)
            .arg(format!("--password={}", share.password))
            .arg(share.url("file.bin")));
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(Sha256::of_file(&share.root.join("file.bin")), digest, "{size}");
        fs::remove_file(share.root.join("file.bin")).unwrap();
    }
}

#[test]
fn python_sees_the_status_of_a_refused_upload_and_uploads_with_the_password() {
    const CLIENT: &str = "import http.client, sys
connection = http.client.HTTPConnection(sys.argv[1])
connection.request('PUT', '/file.bin', open(sys.argv[2], 'rb').read())
print(connection.getresponse().status)";
    const OPENER: &str = "import sys, urllib.request
url, path, password = sys.argv[1:]
known = urllib.request.HTTPPasswordMgrWithDefaultRealm()
known.add_password(None, url, 'nas1', password)
opener = urllib.request.build_opener(urllib.request.HTTPBasicAuthHandler(known))
body = open(path, 'rb').read()
print(opener.open(urllib.request.Request(url, data=body, method='PUT')).status)";
    let (share, folder) = (Share::guarded(), TempRoot::new());
    for size in SIZES {
        let (path, digest) = body(&folder, size);
        let python = |script: &str, target: &str| {
            let mut command = Command::new("/usr/bin/python3");
            let output = run(command.args(["-c", script, target]).arg(&path).arg(&share.password));
            let said = String::from_utf8_lossy(&output.stdout).trim().to_owned();
            (said, String::from_utf8_lossy(&output.stderr).into_owned())
        };
        assert_eq!(python(CLIENT, &share.http().to_string()), ("401".into(), String::new()));
        assert!(!share.root.join("file.bin").exists());
        assert_eq!(python(OPENER, &share.url("file.bin")), ("201".into(), String::new()));
        assert_eq!(Sha256::of_file(&share.root.join("file.bin")), digest, "{size}");
        fs::remove_file(share.root.join("file.bin")).unwrap();
    }
}

#[test]
fn every_early_answer_is_seen_by_a_client_that_sends_all_first() {
    let guarded = Share::guarded();
    let open = Share::start(&["--max-upload", "8000000"]);
    let put = |host: &str| format!("PUT /file.bin HTTP/1.1\r\nHost: {host}\r\n");
    let cases = [
        (&guarded, put("nas1"), "401"),
        (&open, put("a b"), "400"),
        (&open, put("nas1"), "413"),
        (&open, "PUT / HTTP/1.1\r\nHost: nas1\r\n".to_owned(), "405"),
        (&open, "POST /none/ HTTP/1.1\r\nHost: nas1\r\n".to_owned(), "415"),
        (&open, format!("{}Origin: http://evil.example\r\n", put("nas1")), "403"),
    ];
    for (share, head, status) in &cases {
        for size in SIZES {
            let line = status_after_all(share.http(), head, size);
            let seen = line.split(' ').nth(1).unwrap_or_default();
            assert_eq!(seen, *status, "{head}");
        }
    }
    let mut open = open;
    open.pair.agent.program_mut().kill();
    wait_until("the agent is away", || Debug::of(open.http()).total("tunnels_now") == 0);
    assert!(status_after_all(open.http(), &put("nas1"), SIZES[0]).contains(" 503 "));
}

#[test]
fn connection_that_was_refused_is_not_kept_for_long() {
    let share = Share::guarded();
    let mut visitor = Visitor::connect(share.http());
    visitor.send("PUT /x HTTP/1.1\r\nHost: nas1\r\nContent-Length: 1000\r\n\r\n");
    assert_eq!(visitor.try_head("PUT").unwrap().status, 401);
    let begun = Instant::now();
    // Nothing more is sent, and the connection is not closed by the client.
    let now = || Debug::of(share.http()).total("connections_now");
    wait_until("only the connection that asks is left", || now() == 1);
    let took = begun.elapsed();
    assert!(took > Duration::from_secs(2) && took < Duration::from_secs(15), "{took:?}");
    let mut socket = visitor.socket();
    let gone = (0..100).find_map(|_| socket.write_all(b"x").err());
    assert!(gone.is_none_or(|error| error.kind() != ErrorKind::WouldBlock));
    let _ = socket.shutdown(Shutdown::Both);
}

#[test]
fn refusal_of_a_service_that_reads_nothing_is_seen() {
    let service = Local::start(|call| {
        call.send("HTTP/1.1 413 Too Large\r\nContent-Length: 4\r\n\r\nbig\n");
        call.finish_sending();
        // Unread bytes would make the kernel drop the answer.
        call.wait_gone();
    });
    let flag = format!("/x=http://{}", service.address());
    let share = Share::start(&["--forward", &flag]);
    for size in SIZES {
        let line = status_after_all(share.http(), "POST /x/ HTTP/1.1\r\nHost: nas1\r\n", size);
        assert_eq!(line.split(' ').nth(1), Some("413"), "{line}");
    }
}
