//! Peers that behave as the original's two libraries do, in both roles: they die of HEADERS and
//! GOAWAY, lose what follows the handshake too closely, keep no session window, send ids out of
//! order, hold five DATA frames and want credit for whole writes.
#![expect(clippy::unwrap_used, reason = "a test that panics has failed, with its line")]

use std::{
    fs,
    io::{ErrorKind, Read, Write},
    net::TcpStream,
    thread,
    time::Duration,
};

use spdy_tests::{
    amahi::{
        Edition, Fault,
        agent::{self, AmahiAgent},
        proxy::{self, AmahiProxy, AmahiTunnel, Request, Response},
    },
    fixture::{Agent, PATIENCE, Proxy, Random, Sha256, TempRoot, wait_until},
    http::wait_for_agent,
    peers::scenario::{self, Files},
};

const LARGE: u64 = 9 * 1_048_576 + 321;
const SMALLER: u64 = 1_048_576 + 7;
const TOGETHER: u64 = 30;
const UPLOAD: usize = 300_000;

#[test]
fn originals_agree_with_each_other() {
    for edition in [Edition::Seed, Edition::Head] {
        let files = Served::new();
        let proxy =
            AmahiProxy::bind(proxy::Options { edition, ..proxy::Options::default() }).unwrap();
        let options = agent::Options { edition, ..agent::Options::default() };
        let (agent, mut tunnel) = thread::scope(|scope| {
            let tunnel = scope.spawn(|| proxy.accept().unwrap());
            let agent = AmahiAgent::start(proxy.address, files.root.path(), options).unwrap();
            (agent, tunnel.join().unwrap())
        });
        files.fetch(&mut tunnel);
        let answers = tunnel.exchange(&[files.upload()]).unwrap();
        let answer = answers[0].as_ref().unwrap();
        assert_eq!((answer.status, answer.sha256.clone()), (201, files.upload_answer()));
        assert_eq!(tunnel.faults(), []);
        // Many visitors at once are what the original's agent cannot take from its own proxy.
        let faults = agent.faults();
        assert!(!faults.is_empty());
        assert!(faults.iter().all(|fault| matches!(fault, Fault::OverlappingOpen(_))));
        assert!(!agent.is_ended());
    }
}

#[test]
fn our_proxy_fetches_from_original_agent() {
    let files = Files::new();
    let proxy = Proxy::start(&["--allow-anonymous"]);
    let options = agent::Options::default();
    let agent = AmahiAgent::start(proxy.tunnel, &files.served(), options).unwrap();
    wait_for_agent(proxy.http);
    scenario::fetch_all(proxy.http, &files);
    scenario::upload(proxy.http, &files);
    assert_eq!(agent.faults(), []);
    assert!(!agent.is_ended());
}

#[test]
fn our_proxy_lets_the_original_agent_go_in_silence() {
    let files = TempRoot::new();
    let mut proxy = Proxy::start(&["--allow-anonymous"]);
    let options = agent::Options::default();
    let agent = AmahiAgent::start(proxy.tunnel, files.path(), options).unwrap();
    wait_for_agent(proxy.http);
    proxy.program().terminate();
    proxy.program_mut().wait_exit(PATIENCE);
    wait_until("the agent's session ends", || agent.is_ended());
    assert_eq!(agent.faults(), []);
}

#[test]
fn body_that_the_original_agent_cuts_does_not_look_complete() {
    const LEN: usize = 64 << 20;
    let files = TempRoot::new();
    files.random_file("film.mkv", LEN as u64, 4);
    let proxy = Proxy::start(&["--allow-anonymous"]);
    let idle = Duration::from_millis(500);
    let options = agent::Options { idle, ..agent::Options::default() };
    let agent = AmahiAgent::start(proxy.tunnel, files.path(), options).unwrap();
    wait_for_agent(proxy.http);

    let mut visitor = TcpStream::connect(proxy.http).unwrap();
    visitor.set_read_timeout(Some(PATIENCE)).unwrap();
    visitor.write_all(b"GET /film.mkv HTTP/1.1\r\nHost: nas\r\n\r\n").unwrap();
    // The visitor pauses until the agent has given up.
    wait_until("the agent cuts the body", || !agent.faults().is_empty());
    assert!(matches!(agent.faults()[..], [Fault::Truncated(_)]));

    let mut received = Vec::new();
    let end = visitor.read_to_end(&mut received);
    let head = received.windows(4).position(|octets| octets == b"\r\n\r\n").unwrap();
    let text = String::from_utf8_lossy(&received[..head]).to_ascii_lowercase();
    assert!(text.contains(&format!("content-length: {LEN}")), "{text}");
    assert!(received.len() - head - 4 < LEN);
    // The connection ends: it neither waits for ever nor goes on with another answer.
    assert!(end.is_ok() || end.is_err_and(|error| error.kind() == ErrorKind::ConnectionReset));
}

#[test]
fn our_agent_serves_original_proxy_of_the_seed() {
    our_agent_serves(proxy::Options::default());
}

#[test]
fn our_agent_serves_original_proxy_of_the_last_edition() {
    our_agent_serves(proxy::Options { edition: Edition::Head, ..proxy::Options::default() });
}

#[test]
fn our_agent_takes_uploads_in_pieces_from_original_proxy() {
    our_agent_serves(proxy::Options { upload_frame: 32_768, ..proxy::Options::default() });
}

#[test]
fn our_agent_never_fills_the_queue_of_a_slow_visitor() {
    let files = Served::new();
    let pace = Duration::from_millis(3);
    let proxy = AmahiProxy::bind(proxy::Options { pace, ..proxy::Options::default() }).unwrap();
    let _agent = Agent::serve(files.root.path(), proxy.address);
    let mut tunnel = proxy.accept().unwrap();
    let requests: Vec<Request> = (0..7).map(|n| Request::get(format!("/{n} of 30.bin"))).collect();
    for (n, answer) in tunnel.exchange(&requests).unwrap().iter().enumerate() {
        assert_eq!(answer.as_ref().map(|answer| &answer.sha256), Ok(&files.smaller[n]));
    }
    assert_eq!(tunnel.faults(), []);
}

#[test]
fn our_agent_leaves_the_original_proxy_in_silence() {
    let files = Served::new();
    let proxy = AmahiProxy::bind(proxy::Options::default()).unwrap();
    let mut agent = Agent::serve(files.root.path(), proxy.address);
    let mut tunnel = proxy.accept().unwrap();
    let answers = tunnel.exchange(&[Request::get("/large.bin")]).unwrap();
    assert_eq!(answers[0].as_ref().map(|answer| answer.len), Ok(LARGE));
    agent.program().terminate();
    agent.program_mut().wait_exit(PATIENCE);
    wait_until("the proxy's session ends", || tunnel.is_ended());
    assert_eq!(tunnel.faults(), []);
}

/// Everything that an original proxy asks of an agent, twice over the same session.
fn our_agent_serves(options: proxy::Options) {
    let files = Served::new();
    let proxy = AmahiProxy::bind(options).unwrap();
    let _agent = Agent::serve(files.root.path(), proxy.address);
    let mut tunnel = proxy.accept().unwrap();
    for _ in 0..2 {
        files.fetch(&mut tunnel);
        let answers = tunnel.exchange(&[files.upload()]).unwrap();
        let status = answers[0].as_ref().map(|answer| answer.status);
        assert!(matches!(status, Ok(200 | 201 | 204)), "{answers:?} {:?}", tunnel.faults());
        let stored = fs::read(files.root.join("uploaded file.bin")).unwrap();
        assert_eq!(Sha256::of(&stored), Sha256::of(&files.upload));
    }
    assert_eq!(tunnel.faults(), []);
}

/// A folder of files with known content.
struct Served {
    root: TempRoot,
    large: String,
    range: String,
    smaller: Vec<String>,
    upload: Vec<u8>,
}

impl Served {
    fn new() -> Self {
        let root = TempRoot::new();
        let large = root.random_file("large.bin", LARGE, 11);
        let range = Sha256::of(&fs::read(root.join("large.bin")).unwrap()[512..=2_047]);
        let smaller = (0..TOGETHER)
            .map(|n| root.random_file(&format!("{n} of 30.bin"), SMALLER, 200 + n))
            .collect();
        Self { root, large, range, smaller, upload: Random::octets(UPLOAD, 12) }
    }

    fn fetch(&self, tunnel: &mut AmahiTunnel) {
        let mut requests = vec![
            Request::get("/large.bin"),
            Request { method: "HEAD", ..Request::get("/large.bin") },
            Request {
                headers: vec![("range", "bytes=512-2047".to_owned())],
                ..Request::get("/large.bin")
            },
            Request::get("/none"),
            Request::get("/"),
        ];
        requests.extend((0..TOGETHER).map(|n| Request::get(format!("/{n} of 30.bin"))));
        let answers = tunnel.exchange(&requests).unwrap();
        let answers: Vec<&Response> = answers
            .iter()
            .map(|answer| answer.as_ref().unwrap_or_else(|e| panic!("{e:?} {:?}", tunnel.faults())))
            .collect();
        assert_eq!((answers[0].status, answers[0].len), (200, LARGE));
        assert_eq!(answers[0].sha256, self.large);
        assert_eq!((answers[1].status, answers[1].len), (200, 0));
        assert_eq!(answers[1].headers["content-length"], LARGE.to_string());
        assert_eq!((answers[2].status, answers[2].len), (206, 1_536));
        assert_eq!(answers[2].headers["content-range"], format!("bytes 512-2047/{LARGE}"));
        assert_eq!(answers[2].sha256, self.range);
        assert_eq!(answers[3].status, 404);
        assert_eq!(answers[4].status, 200);
        for (answer, digest) in answers[5..].iter().zip(&self.smaller) {
            assert_eq!((answer.status, answer.len, &answer.sha256), (200, SMALLER, digest));
        }
    }

    fn upload(&self) -> Request {
        Request {
            method: "PUT",
            headers: vec![("content-length", UPLOAD.to_string())],
            body: Some(self.upload.clone()),
            ..Request::get("/uploaded file.bin")
        }
    }

    /// Digest of what agents answer that store nothing.
    fn upload_answer(&self) -> String {
        let digest = Sha256::of(&self.upload);
        Sha256::of(format!("{{\"length\":{UPLOAD},\"sha256\":\"{digest}\"}}").as_bytes())
    }
}
