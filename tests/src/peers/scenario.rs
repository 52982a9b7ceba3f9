//! What every stack is asked to do, in either role: whole files, ranges, many at once, uploads.
//!
//! It owns the requests and the checks of their answers, not the programs.

use std::{fs, net::SocketAddr, thread};

use serde_json::Value;

use crate::{
    fixture::{Agent, Proxy, Random, Sha256, TempRoot},
    http::{Request, wait_for_agent},
};

use super::{Exchange, Stack, Wanted};

/// Octets of the large file: 9 MiB and a bit, so that nothing divides it.
const LARGE: u64 = 9 * 1_048_576 + 4_321;
/// Octets of each of the files that are fetched together.
const SMALLER: u64 = 2 * 1_048_576 + 77;
/// Files that are fetched together.
const TOGETHER: usize = 16;
/// Octets of an upload.
const UPLOAD: usize = 300_000;
/// The range that is asked for.
const RANGE: (u64, u64) = (65_530, 1_048_600);

/// A folder of files with known content.
#[derive(Debug)]
pub struct Files {
    root: TempRoot,
    large: String,
    range: String,
    smaller: Vec<String>,
    upload: Vec<u8>,
}

impl Files {
    /// Makes the files.
    ///
    /// # Panics
    /// When they cannot be written.
    #[must_use]
    pub fn new() -> Self {
        let root = TempRoot::new();
        let large = root.random_file("served/large.bin", LARGE, 1);
        let content = fs::read(root.join("served/large.bin")).unwrap_or_default();
        let range = content.iter().zip(0..).filter(|(_, at)| (RANGE.0..=RANGE.1).contains(at));
        let range = Sha256::of(&range.map(|(octet, _)| *octet).collect::<Vec<u8>>());
        let smaller = (0..TOGETHER as u64)
            .map(|n| root.random_file(&format!("served/{n} of 16.bin"), SMALLER, 100 + n))
            .collect();
        root.write("served/empty.bin", b"");
        let upload = Random::octets(UPLOAD, 2);
        root.write("upload.bin", &upload);
        Self { root, large, range, smaller, upload }
    }

    /// The folder that the agent serves.
    #[must_use]
    pub fn served(&self) -> std::path::PathBuf {
        self.root.join("served")
    }
}

impl Default for Files {
    fn default() -> Self {
        Self::new()
    }
}

/// Our proxy with an agent of another stack.
///
/// # Panics
/// When anything is not as it must be.
pub fn our_proxy_fetches_from(stack: Stack, flags: &[&str]) {
    let files = Files::new();
    let proxy = Proxy::start(&["--allow-anonymous"]);
    let _agent = stack.agent(proxy.tunnel, &files.served(), flags);
    wait_for_agent(proxy.http);
    // Two values of one name, one header on the tunnel, two again for the visitor.
    let listing = Request::get("/").send(proxy.http).expect("a whole answer");
    let name = format!("{stack:?}").to_lowercase();
    assert_eq!(listing.headers["set-cookie"], format!("peer={name}, role=agent"));
    fetch_all(proxy.http, &files);
    upload(proxy.http, &files);
}

/// The answers to every GET and HEAD through an HTTP port.
///
/// # Panics
/// When one is not as it must be.
pub fn fetch_all(http: SocketAddr, files: &Files) {
    let get = |target: &str| Request::get(target).send(http).expect("a whole answer");

    let large = get("/large.bin");
    assert_eq!((large.status, large.len), (200, LARGE));
    assert_eq!(large.sha256, files.large);

    let head = Request { method: "HEAD", ..Request::get("/large.bin") };
    let head = head.send(http).expect("a whole answer");
    assert_eq!((head.status, head.len), (200, 0));
    assert_eq!(head.headers["content-length"], LARGE.to_string());

    let (first, last) = RANGE;
    let wanted = format!("bytes={first}-{last}");
    let headers = [("Range", wanted.as_str())];
    let range = Request { headers: &headers, ..Request::get("/large.bin") };
    let range = range.send(http).expect("a whole answer");
    assert_eq!((range.status, range.len), (206, last - first + 1));
    assert_eq!(range.headers["content-range"], format!("bytes {first}-{last}/{LARGE}"));
    assert_eq!(range.sha256, files.range);

    let empty = get("/empty.bin");
    assert_eq!((empty.status, empty.len), (200, 0));
    assert_eq!(get("/none.bin").status, 404);

    thread::scope(|scope| {
        for (n, digest) in files.smaller.iter().enumerate() {
            scope.spawn(move || {
                let answer = get(&format!("/{n}%20of%2016.bin"));
                assert_eq!((answer.status, answer.len), (200, SMALLER));
                assert_eq!(&answer.sha256, digest);
            });
        }
    });
}

/// Uploads through an HTTP port, one after the other and several at once, to an agent that answers
/// with what it received.
///
/// # Panics
/// When one is not as it must be.
pub fn upload(http: SocketAddr, files: &Files) {
    let digest = Sha256::of(&files.upload);
    let send = |method: &str, target: &str| {
        let answer = Request::with_body(method, target, &files.upload).send(http);
        let answer = answer.expect("a whole answer");
        assert_eq!(answer.status, 201);
        let received: Value = serde_json::from_str(&answer.text()).expect("JSON");
        assert_eq!(received["length"], UPLOAD);
        assert_eq!(received["sha256"], digest.as_str());
    };
    send("POST", "/form");
    send("PUT", "/new.bin");
    thread::scope(|scope| {
        for n in 0..4 {
            let send = &send;
            scope.spawn(move || send("PUT", &format!("/new-{n}.bin")));
        }
    });
}

/// Our agent with a proxy of another stack.
///
/// # Panics
/// When anything is not as it must be.
pub fn our_agent_serves(stack: Stack, flags: &[&str]) {
    let files = Files::new();
    let proxy = stack.proxy(&wanted(&files), flags);
    let _agent = Agent::serve(&files.served(), proxy.address);
    check(&proxy.finish(), &files);
    assert_stored(&files, 0);
    assert_stored(&files, 1);
}

/// Our agent with a proxy that gives no sign at the start of how it behaves: one download and one
/// upload.
///
/// # Panics
/// When anything is not as it must be.
pub fn our_agent_serves_a_quiet_proxy(stack: Stack, flags: &[&str]) {
    let files = Files::new();
    let upload = Wanted::Put(files.root.join("upload.bin"), "/new-0.bin".to_owned());
    let proxy = stack.proxy(&[Wanted::Get("/large.bin".to_owned()), upload], flags);
    let _agent = Agent::serve(&files.served(), proxy.address);
    let answers = proxy.finish();
    assert_eq!(answers.len(), 2);
    let large = answers.iter().find(|answer| answer.method == "GET").expect("an answer");
    assert_eq!((large.status, large.len, &large.sha256), (200, LARGE, &files.large));
    assert_stored(&files, 0);
}

/// Two other stacks with each other, which proves them both.
///
/// # Panics
/// When anything is not as it must be.
pub fn others_among_themselves(agent: (Stack, &[&str]), proxy: (Stack, &[&str])) {
    let files = Files::new();
    let running = proxy.0.proxy(&wanted(&files), proxy.1);
    let _agent = agent.0.agent(running.address, &files.served(), agent.1);
    let answers = running.finish();
    check(&answers, &files);
    let digest = Sha256::of(&files.upload);
    let expected = format!("{{\"length\":{UPLOAD},\"sha256\":\"{digest}\"}}");
    for answer in answers.iter().filter(|answer| answer.method == "PUT") {
        assert_eq!(answer.sha256, Sha256::of(expected.as_bytes()));
    }
}

fn assert_stored(files: &Files, n: u32) {
    let stored = fs::read(files.served().join(format!("new-{n}.bin")));
    assert_eq!(Sha256::of(&stored.expect("a stored upload")), Sha256::of(&files.upload));
}

/// Everything that a proxy of another stack asks for, all of it at once.
fn wanted(files: &Files) -> Vec<Wanted> {
    let large = "/large.bin".to_owned();
    let upload = files.root.join("upload.bin");
    let mut wanted = vec![
        Wanted::Get(large.clone()),
        Wanted::Head(large.clone()),
        Wanted::Range(RANGE.0, RANGE.1, large),
        Wanted::Get("/empty.bin".to_owned()),
        Wanted::Get("/none.bin".to_owned()),
        Wanted::Put(upload.clone(), "/new-0.bin".to_owned()),
        Wanted::Put(upload, "/new-1.bin".to_owned()),
    ];
    wanted.extend((0..TOGETHER).map(|n| Wanted::Get(format!("/{n}%20of%2016.bin"))));
    wanted
}

fn check(answers: &[Exchange], files: &Files) {
    let find = |method: &str, path: &str, status: u64| {
        let found = answers.iter().find(|answer| {
            (answer.method.as_str(), answer.path.as_str(), answer.status) == (method, path, status)
        });
        found.unwrap_or_else(|| panic!("no {method} {path} {status} in {answers:#?}"))
    };
    assert_eq!(answers.len(), 7 + TOGETHER);
    let large = find("GET", "/large.bin", 200);
    assert_eq!((large.len, &large.sha256), (LARGE, &files.large));
    let head = find("HEAD", "/large.bin", 200);
    assert_eq!((head.len, head.headers["content-length"].clone()), (0, LARGE.to_string()));
    let range = find("GET", "/large.bin", 206);
    assert_eq!((range.len, &range.sha256), (RANGE.1 - RANGE.0 + 1, &files.range));
    assert_eq!(find("GET", "/empty.bin", 200).len, 0);
    find("GET", "/none.bin", 404);
    for n in 0..2 {
        find("PUT", &format!("/new-{n}.bin"), 201);
    }
    for (n, digest) in files.smaller.iter().enumerate() {
        let answer = find("GET", &format!("/{n}%20of%2016.bin"), 200);
        assert_eq!((answer.len, &answer.sha256), (SMALLER, digest));
    }
}
