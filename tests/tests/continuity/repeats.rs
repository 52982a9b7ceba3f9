//! Requests with a body that an agent refuses: they are repeated whole, or not at all.

use std::{
    fs, io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering::Relaxed},
    },
    thread,
    time::Duration,
};

use spdy_tests::{
    fixture::{Agent, PATIENCE, Pair, Proxy, TempRoot, wait_until},
    http::{Request, Response, wait_for_agent},
    link::{Link, Settings, Way},
    observe::{Debug, Signal, signal},
    visitor::Visitor,
};

use crate::anonymous;

/// Uploads that an agent without services takes at a time.
const UPLOADS: usize = 16;

/// A share with a file, and every place for uploads taken.
struct Full {
    pair: Pair,
    root: TempRoot,
    slow: Vec<Visitor>,
}

impl Full {
    fn new() -> Self {
        let root = TempRoot::new();
        root.write("old.txt", b"the old notes");
        let pair = Pair::with(root.path(), &[], &["--allow-write"]);
        Self { pair, root, slow: Vec::new() }
    }

    fn http(&self) -> SocketAddr {
        self.pair.proxy.http
    }

    fn fill(&mut self) {
        for at in 0..UPLOADS {
            let mut visitor = Visitor::connect(self.http());
            let head = "HTTP/1.1\r\nHost: n\r\nContent-Length: 1000\r\n\r\nx";
            visitor.send(format!("PUT /slow{at} {head}"));
            self.slow.push(visitor);
        }
        let total = || Debug::of(self.http()).total("streams_now");
        wait_until("all places are taken", || total() == UPLOADS as u64);
    }
}

fn chunked(method: &str, target: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    let head = format!(
        "{method} {target} HTTP/1.1\r\nHost: n\r\nConnection: close\r\n{headers}\
         Transfer-Encoding: chunked\r\n\r\n{:x}\r\n",
        body.len()
    );
    [head.as_bytes(), body, b"\r\n0\r\n\r\n"].concat()
}

fn with_length(target: &str, body: &[u8]) -> Vec<u8> {
    let head = format!(
        "PUT {target} HTTP/1.1\r\nHost: n\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), body].concat()
}

#[test]
fn upload_that_finds_all_places_taken_leaves_the_file_as_it_was() {
    let mut full = Full::new();
    full.fill();
    let large = vec![b'n'; 40_000];
    let larger = vec![b'n'; 300_000];
    for (what, request) in [
        ("small, chunked", chunked("PUT", "/old.txt", "", b"abc")),
        ("small, with a length", with_length("/old.txt", b"abc")),
        ("40,000 bytes, chunked", chunked("PUT", "/old.txt", "", &large)),
        ("40,000 bytes, with a length", with_length("/old.txt", &large)),
        ("300,000 bytes, chunked", chunked("PUT", "/old.txt", "", &larger)),
        ("300,000 bytes, with a length", with_length("/old.txt", &larger)),
    ] {
        for split in [request.len(), request.len() - 6, 20] {
            let mut visitor = Visitor::connect(full.http());
            visitor.send(&request[..split]);
            visitor.send(&request[split..]);
            let answer = Response::read(&mut visitor, "PUT").unwrap();
            assert_eq!(answer.status, 503, "{what}, split at {split}");
            assert_eq!(answer.headers["retry-after"], "1", "{what}");
            assert_eq!(answer.headers["connection"], "close", "{what}");
            assert_eq!(fs::read(full.root.join("old.txt")).unwrap(), b"the old notes", "{what}");
        }
    }
    // With a place the same request is carried out.
    full.slow.pop();
    let total = || Debug::of(full.http()).total("streams_now");
    wait_until("a place is free", || total() < UPLOADS as u64);
    wait_until("the agent has seen it", || {
        let mut visitor = Visitor::connect(full.http());
        visitor.send(chunked("PUT", "/old.txt", "", b"abc"));
        visitor.head().status == 204
    });
    assert_eq!(fs::read(full.root.join("old.txt")).unwrap(), b"abc");
}

#[test]
fn last_part_that_finds_all_places_taken_does_not_complete_the_upload() {
    let mut full = Full::new();
    let begin = Request {
        method: "PUT",
        target: "/new.bin",
        headers: &[("upload-complete", "?0")],
        body: Some(&[b'a'; 1_000]),
    };
    let begun = begin.send(full.http()).unwrap();
    assert_eq!((begun.status, begun.headers["upload-offset"].as_str()), (201, "1000"));
    let upload = begun.headers["location"].clone();
    full.fill();
    let last = "Content-Type: application/partial-upload\r\nUpload-Offset: 1000\r\n\
        Upload-Complete: ?1\r\n";
    let patch = chunked("PATCH", &upload, last, b"bbbbb");
    let mut visitor = Visitor::connect(full.http());
    visitor.send(&patch);
    assert_eq!(visitor.head().status, 503);
    assert!(!full.root.join("new.bin").exists());
    full.slow.clear();
    let status = || {
        let mut visitor = Visitor::connect(full.http());
        visitor.send(&patch);
        visitor.head().status
    };
    wait_until("a place is free", || status() == 201);
    let content = fs::read(full.root.join("new.bin")).unwrap();
    assert_eq!(content, [&[b'a'; 1_000][..], b"bbbbb"].concat());
}

/// Puts numbered files until told to stop, and returns those that were said to be stored.
fn put_until(http: SocketAddr, uploader: usize, stop: &AtomicBool) -> Vec<(String, String)> {
    let mut stored = Vec::new();
    for turn in 0.. {
        if stop.load(Relaxed) {
            break;
        }
        let (name, content) = (format!("{uploader}-{turn}"), format!("notes {uploader} {turn}"));
        let put = || -> io::Result<Response> {
            let mut visitor = Visitor::try_connect(http)?;
            visitor.try_send(&chunked("PUT", &format!("/{name}"), "", content.as_bytes()))?;
            Response::read(&mut visitor, "PUT")
        };
        match put() {
            Ok(answer) if answer.status == 201 => stored.push((name, content)),
            // Nothing was told, or that it failed.
            Ok(answer) if matches!(answer.status, 502..=504) => {}
            Err(_) => {}
            Ok(answer) => panic!("{name}: {} {}", answer.status, answer.text()),
        }
    }
    stored
}

#[test]
fn uploads_during_restarts_of_the_agent_are_stored_whole_or_refused() {
    let proxy = anonymous(&["--hold", "20"]);
    restart_under_uploads(&proxy, proxy.tunnel, 6);
}

#[test]
fn uploads_during_restarts_of_a_distant_agent_are_stored_whole_or_refused() {
    let proxy = anonymous(&["--hold", "20"]);
    let way = Way { delay: Duration::from_millis(20), ..Way::default() };
    let link = Link::start(proxy.tunnel, Settings { up: way, down: way }).unwrap();
    restart_under_uploads(&proxy, link.address(), 3);
}

/// Restarts an agent that dials `address` under four uploaders.
fn restart_under_uploads(proxy: &Proxy, address: SocketAddr, restarts: u32) {
    let root = TempRoot::new();
    let mut agent = Agent::serve(root.path(), address);
    wait_for_agent(proxy.http);
    let stop = Arc::new(AtomicBool::new(false));
    let uploaders: Vec<_> = (0..4)
        .map(|uploader| {
            let (stop, http) = (Arc::clone(&stop), proxy.http);
            thread::spawn(move || put_until(http, uploader, &stop))
        })
        .collect();
    let accepted = || Debug::of(proxy.http).total("requests_2xx");
    for _ in 0..restarts {
        let before = accepted();
        wait_until("uploads are stored", || accepted() > before + 20);
        signal(agent.program().id(), Signal::TERM);
        agent.program_mut().wait_exit(PATIENCE);
        agent = Agent::serve(root.path(), address);
    }
    let before = accepted();
    wait_until("uploads are stored", || accepted() > before + 20);
    stop.store(true, Relaxed);
    let count = AtomicU32::new(0);
    for uploader in uploaders {
        for (name, content) in uploader.join().unwrap() {
            count.fetch_add(1, Relaxed);
            assert_eq!(fs::read_to_string(root.join(&name)).unwrap(), content, "{name}");
        }
    }
    println!("{} uploads were stored", count.into_inner());
}
