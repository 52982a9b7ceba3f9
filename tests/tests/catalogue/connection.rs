//! Connections: several requests, visitors who leave or read slowly, files that change under way.

use std::{
    fs::{self, File},
    io::Write,
    sync::mpsc,
    thread,
};

use spdy_tests::{
    fixture::{Pair, Sha256, TempRoot, wait_until},
    http::{Request, Response},
    observe::{Debug, descriptors, octets_read},
    visitor::{Body, End, Visitor},
};

use super::site::{BIG, numbered, site, writable};

const MIB: u64 = 1 << 20;

fn is_idle(pair: &Pair) -> bool {
    Debug::of(pair.proxy.http).total("streams_now") == 0
}

#[test]
fn k01_pipelined_requests_are_answered_in_order() {
    let big = numbered(BIG);
    let mut visitor = site().visitor();
    let request = |method: &str, target: &str, more: &str| {
        format!("{method} {target} HTTP/1.1\r\nHost: nas1\r\n{more}\r\n")
    };
    let mut all = String::new();
    let ranges = [(0, 9), (100, 70_000), (5, 5)];
    for (first, last) in ranges {
        all += &request("GET", "/big.txt", &format!("Range: bytes={first}-{last}\r\n"));
    }
    all += &request("HEAD", "/big.txt", "");
    all += &request("GET", "/none", "");
    all += &request("POST", "/", "Content-Length: 3\r\n");
    all += "abc";
    all += &request("GET", "/big.txt", "");
    visitor.send(all);
    for (first, last) in ranges {
        let answer = Response::read(&mut visitor, "GET").unwrap();
        assert_eq!((answer.status, answer.sha256), (206, Sha256::of(&big[first..=last])));
    }
    assert_eq!(Response::read(&mut visitor, "HEAD").unwrap().status, 200);
    assert_eq!(Response::read(&mut visitor, "GET").unwrap().status, 404);
    assert_eq!(Response::read(&mut visitor, "POST").unwrap().status, 405);
    assert_eq!(Response::read(&mut visitor, "GET").unwrap().sha256, Sha256::of(&big));
}

#[test]
fn k02_aborted_requests_leave_nothing_behind() {
    let root = TempRoot::new();
    root.random_file("film.mkv", 32 * MIB, 3);
    let pair = Pair::start(root.path());
    let abort = || {
        let mut visitor = Visitor::connect(pair.proxy.http);
        visitor.send("GET /film.mkv HTTP/1.1\r\nHost: nas1\r\nRange: bytes=1000-\r\n\r\n");
        assert_eq!(visitor.head().status, 206);
        visitor.read(10_000);
    };
    let ids = [pair.proxy.program().id(), pair.agent.program().id()];
    abort();
    wait_until("the first stream is gone", || is_idle(&pair));
    let before = ids.map(descriptors);
    for _ in 0..60 {
        abort();
    }
    wait_until("all streams are gone", || is_idle(&pair));
    wait_until("both programs have closed their files", || {
        ids.map(descriptors).iter().zip(before).all(|(now, before)| *now <= before)
    });
    assert_eq!(Request::get("/film.mkv").send(pair.proxy.http).unwrap().len, 32 * MIB);
}

/// More than all buffers and windows on the way hold.
const FILM: u64 = 40 * MIB;

/// What becomes of a body when its file is changed while its visitor pauses; and what it was.
fn changed_under_way(change: impl FnOnce(&TempRoot)) -> (Body, String) {
    let root = TempRoot::new();
    let digest = root.random_file("film.mkv", FILM, 4);
    let pair = Pair::start(root.path());
    let mut visitor = Visitor::get(pair.proxy.http, "/film.mkv");
    assert_eq!(visitor.head().header("content-length"), Some(FILM.to_string().as_str()));
    visitor.read(65_536);
    change(&root);
    let body = visitor.finish();
    // Whatever it was, everybody is alive.
    root.write("ten.txt", b"0123456789");
    assert_eq!(Request::get("/ten.txt").send(pair.proxy.http).unwrap().text(), "0123456789");
    wait_until("no stream is left", || is_idle(&pair));
    (body, digest)
}

#[test]
fn k03_k04_file_that_is_truncated_ends_early_and_only_itself() {
    let (body, _) = changed_under_way(|root| {
        let file = File::options().write(true).open(root.join("film.mkv")).unwrap();
        file.set_len(FILM - 1_000).unwrap();
    });
    // Not whole, and nothing made up for what is missing.
    assert!(body.end != End::Whole && body.len <= FILM - 1_000, "{:?}, {}", body.end, body.len);
}

#[test]
fn k05_file_that_grows_is_sent_as_announced() {
    let (body, digest) = changed_under_way(|root| {
        let mut file = File::options().append(true).open(root.join("film.mkv")).unwrap();
        file.write_all(&[7; 1_000_000]).unwrap();
    });
    assert_eq!((body.end, body.len, body.sha256), (End::Whole, FILM, digest));
}

#[test]
fn k06_file_that_is_replaced_is_sent_to_its_end() {
    let (body, digest) = changed_under_way(|root| {
        root.random_file("other", FILM + 5, 5);
        fs::rename(root.join("other"), root.join("film.mkv")).unwrap();
    });
    assert_eq!((body.end, body.len, body.sha256), (End::Whole, FILM, digest));
}

/// Four read 64 KiB whenever the fifth has read 1 MiB: it must never wait for them, and more than
/// half of what crosses the tunnel is its own.
#[test]
fn k07_slow_readers_do_not_slow_down_a_fast_one() {
    const LEN: u64 = 96;
    let root = TempRoot::new();
    let digest = root.random_file("film.mkv", LEN * MIB, 6);
    let pair = Pair::start(root.path());
    let http = pair.proxy.http;
    thread::scope(|scope| {
        let slow: Vec<_> = (0..4)
            .map(|_| {
                let (sender, turns) = mpsc::channel::<()>();
                let mut visitor = Visitor::get(http, "/film.mkv");
                assert_eq!(visitor.head().status, 200);
                visitor.read(1);
                scope.spawn(move || {
                    while turns.recv().is_ok() {
                        visitor.read(visitor.len() + 65_536);
                    }
                });
                sender
            })
            .collect();
        let received = || Debug::of(http).tunnels("received_bytes");
        let before = received();
        let mut fast = Visitor::get(http, "/film.mkv");
        assert_eq!(fast.head().status, 200);
        for mib in 1..=LEN {
            fast.read(mib * MIB);
            slow.iter().for_each(|turns| turns.send(()).unwrap());
        }
        let body = fast.finish();
        assert_eq!((body.end, body.sha256), (End::Whole, digest));
        let crossed = received() - before;
        println!("{} MiB of {} MiB were the fast one's", LEN, crossed / MIB);
        assert!(crossed < 2 * LEN * MIB, "{crossed}");
    });
    for end in [pair.proxy.program(), pair.agent.program()] {
        let held = end.cost().unwrap().resident;
        assert!(held < 40 * MIB, "{held} octets resident");
    }
}

/// The end of what a visitor sends is not the end of the visitor.
#[test]
fn k08_half_closed_visitors_get_their_answers() {
    let mut visitor = site().visitor();
    visitor.send("GET /big.txt HTTP/1.1\r\nHost: nas1\r\n\r\n".repeat(2));
    visitor.finish_sending();
    for _ in 0..2 {
        let answer = Response::read(&mut visitor, "GET").unwrap();
        assert_eq!((answer.status, answer.sha256), (200, Sha256::of(&numbered(BIG))));
    }
    assert_eq!(visitor.rest(), (Vec::new(), End::Cut));
    let mut visitor = writable().visitor();
    visitor.send("PUT /k08 HTTP/1.1\r\nHost: nas1\r\nContent-Length: 3\r\n\r\nabc");
    visitor.finish_sending();
    assert_eq!(Response::read(&mut visitor, "PUT").unwrap().status, 201);
    assert_eq!(fs::read(writable().root.join("k08")).unwrap(), b"abc");
}

/// A block, and what the tunnel had taken but not sent (docs/design.md, "The data path").
const UNSENT: u64 = (64 << 10) + 2 * (64 << 10);

#[test]
fn k09_agent_stops_reading_when_its_visitor_is_gone() {
    let root = TempRoot::new();
    File::create(root.join("huge.bin")).unwrap().set_len(5 << 30).unwrap();
    let pair = Pair::start(root.path());
    let id = pair.agent.program().id();
    let http = pair.proxy.http;
    let received = || Debug::of(http).tunnels("received_bytes");
    // The answer comes on the tunnel behind the reset.
    let settled = || {
        assert_eq!(Request::get("/none").send(http).unwrap().status, 404);
        octets_read(id)
    };
    for len in [1, 100_000, 8 * MIB, 32 * MIB] {
        let before = (settled(), received());
        let mut visitor = Visitor::get(http, "/huge.bin");
        assert_eq!(visitor.head().status, 200);
        visitor.read(len);
        drop(visitor);
        wait_until("the stream is gone", || is_idle(&pair));
        let read = settled();
        let (read_for_it, crossed) = (read - before.0, received() - before.1);
        println!("of {len} wanted: {read_for_it} read, {crossed} sent");
        assert!(read_for_it <= crossed + UNSENT, "{read_for_it} {crossed}");
        // Nothing goes on behind the back of the stream; its own wake-ups are 8 octets each.
        assert!(settled() - read < 4_096);
    }
}
