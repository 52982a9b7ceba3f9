//! Files by content, and offsets that a 32-bit processor has no word for.

use std::{
    fs::File,
    os::unix::fs::{FileExt as _, symlink},
    time::{Duration, Instant, SystemTime},
};

use serde_json::Value;
use spdy_tests::{
    fixture::{Sha256, wait_until},
    visitor::{End, Visitor},
};

use super::{Nas, set_modified};

pub(super) fn files_arrive_whole(nas: &Nas) {
    let large = nas.home.random_file("share/film.mkv", 3 * (1 << 20) + 17, 1);
    nas.write("empty", b"");
    nas.write("one", b"1");
    let running = nas.serve(&[]);
    let film = running.get("/film.mkv");
    assert_eq!((film.status, film.sha256), (200, large));
    assert_eq!(film.headers["content-length"], film.len.to_string());
    let head = running.ask("HEAD", "/film.mkv", &[]);
    assert_eq!(
        (head.status, head.len, &head.headers["content-length"]),
        (200, 0, &film.len.to_string())
    );
    assert_eq!((running.get("/empty").len, running.get("/one").text().as_str()), (0, "1"));
    assert_eq!(running.get("/missing").status, 404);
}

/// A sparse file of 5 GiB with something to be found on either side of each border.
fn huge(nas: &Nas) {
    let file = File::create(nas.share().join("huge.mkv")).unwrap();
    file.set_len(HUGE).unwrap();
    for (at, octets) in MARKS {
        file.write_all_at(octets, at).unwrap();
    }
}

pub(super) fn parts_beyond_32_bits_are_exact(nas: &Nas) {
    huge(nas);
    let running = nas.serve(&[]);
    let head = running.ask("HEAD", "/huge.mkv", &[]);
    assert_eq!(head.headers["content-length"], "5368709120");
    for (asked, first, body) in [
        ("bytes=2147483640-2147483650", 2_147_483_640, "around 2^31"),
        ("bytes=4294967290-4294967300", 4_294_967_290, "around 2^32"),
        ("bytes=5368709116-", 5_368_709_116, "TAIL"),
        ("bytes=5368709116-9999999999999999999", 5_368_709_116, "TAIL"),
        ("bytes=-4", 5_368_709_116, "TAIL"),
    ] {
        let answer = running.ask("GET", "/huge.mkv", &[("Range", asked)]);
        assert_eq!((answer.status, answer.text().as_str()), (206, body), "{asked}");
        let last = first + body.len() as u64 - 1;
        assert_eq!(answer.headers["content-range"], format!("bytes {first}-{last}/{HUGE}"));
    }
    let nothing = running.ask("GET", "/huge.mkv", &[("Range", "bytes=5368709120-")]);
    assert_eq!(
        (nothing.status, &nothing.headers["content-range"][..]),
        (416, "bytes */5368709120")
    );

    // Several at once, one of them longer than what is read at once.
    let asked = "bytes=5368709116-,4294967290-4294967300,4294967000-4295067299";
    let (head, body) = running.whole("/huge.mkv", &[("Range", asked)]);
    assert_eq!((head.status, head.header("content-length")), (206, Some(&*body.len().to_string())));
    let media_type = head.header("content-type").unwrap();
    let boundary = media_type.strip_prefix("multipart/byteranges; boundary=").unwrap();
    let parts: Vec<_> = parts(&body, boundary.trim_matches('"'));
    let mut long = vec![0; 100_300];
    long[290..301].copy_from_slice(MARKS[1].1);
    // The two that overlap are one.
    assert_eq!(parts.len(), 2);
    for (range, octets) in
        [("5368709116-5368709119", &b"TAIL"[..]), ("4294967000-4295067299", &long)]
    {
        let wanted = format!("bytes {range}/{HUGE}");
        let found =
            parts.iter().find(|part| part.0 == wanted).unwrap_or_else(|| panic!("no {range}"));
        assert!(found.1 == octets, "{range}: other octets");
    }

    // All of it from just below 1 GiB: more than 4 GiB are announced, and a visitor who leaves is
    // no harm.
    let mut visitor = Visitor::connect(running.http());
    visitor.send("GET /huge.mkv HTTP/1.1\r\nHost: nas1\r\nRange: bytes=1073741000-\r\n\r\n");
    assert_eq!(visitor.head().header("content-length"), Some("4294968120"));
    visitor.read(4 << 20);
    drop(visitor);
    // A part that crosses the border, to its end.
    let mut visitor = Visitor::connect(running.http());
    visitor
        .send("GET /huge.mkv HTTP/1.1\r\nHost: nas1\r\nRange: bytes=4290000000-4300000000\r\n\r\n");
    visitor.head();
    let mut part = vec![0; 10_000_001];
    let at = usize::try_from(MARKS[1].0 - 4_290_000_000).unwrap();
    part[at..at + 11].copy_from_slice(MARKS[1].1);
    let body = visitor.finish();
    assert_eq!((body.end, body.sha256), (End::Whole, Sha256::of(&part)));
}

/// `Content-Range` and octets of each part.
fn parts(body: &[u8], boundary: &str) -> Vec<(String, Vec<u8>)> {
    let find = |from: &[u8], what: &[u8]| from.windows(what.len()).position(|some| some == what);
    let delimiter = format!("--{boundary}\r\n");
    let end = format!("\r\n--{boundary}");
    let (mut rest, mut found) = (body, Vec::new());
    while let Some(at) = find(rest, delimiter.as_bytes()) {
        let part = &rest[at + delimiter.len()..];
        let head = find(part, b"\r\n\r\n").unwrap();
        let lines = String::from_utf8(part[..head].to_ascii_lowercase()).unwrap();
        let range = lines.lines().find_map(|line| line.strip_prefix("content-range: ")).unwrap();
        let octets = &part[head + 4..];
        let len = find(octets, end.as_bytes()).unwrap();
        found.push((range.to_owned(), octets[..len].to_vec()));
        rest = &octets[len + 2..];
    }
    found
}

pub(super) fn conditions_hold_for_a_large_file(nas: &Nas) {
    huge(nas);
    let path = nas.share().join("huge.mkv");
    set_modified(&path, SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000));
    let running = nas.serve(&[]);
    let tag = running.tag("/huge.mkv");
    let date = "Sun, 09 Sep 2001 01:46:40 GMT";
    assert_eq!(running.ask("HEAD", "/huge.mkv", &[]).headers["last-modified"], date);
    for (value, status) in [(&*tag, 206), (date, 206)] {
        let headers = [("Range", "bytes=-4"), ("If-Range", value)];
        let answer = running.ask("GET", "/huge.mkv", &headers);
        assert_eq!((answer.status, answer.text().as_str()), (status, "TAIL"), "{value}");
    }
    for value in ["\"other\"", "Sun, 09 Sep 2001 01:46:41 GMT"] {
        // All 5 GiB would come.
        let headers = [("Range", "bytes=-4"), ("If-Range", value)];
        let answer = running.ask("HEAD", "/huge.mkv", &headers);
        assert_eq!(
            (answer.status, &*answer.headers["content-length"]),
            (200, "5368709120"),
            "{value}"
        );
    }
    for (name, value, status) in [
        ("If-None-Match", &*tag, 304),
        ("If-Modified-Since", date, 304),
        ("If-Modified-Since", "Sun, 09 Sep 2001 01:46:39 GMT", 200),
        ("If-Unmodified-Since", "Sun, 09 Sep 2001 01:46:39 GMT", 412),
        ("If-Match", &*tag, 200),
        ("If-Match", "\"other\"", 412),
        // Whose seconds need more than 31 bits.
        ("If-Modified-Since", "Fri, 01 Jan 2100 00:00:00 GMT", 304),
        ("If-Unmodified-Since", "Fri, 01 Jan 2100 00:00:00 GMT", 200),
    ] {
        assert_eq!(
            running.ask("HEAD", "/huge.mkv", &[(name, value)]).status,
            status,
            "{name}: {value}"
        );
    }
    // Another file of the same length and date has another tag.
    File::options().write(true).open(&path).unwrap().write_all_at(b"other", 0).unwrap();
    set_modified(&path, SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000));
    assert_ne!(running.tag("/huge.mkv"), tag);
}

pub(super) fn five_gib_arrive_whole(nas: &Nas) {
    huge(nas);
    let running = nas.serve(&[]);
    let begun = Instant::now();
    let answer = running.get("/huge.mkv");
    println!("5 GiB in {:.0?}", begun.elapsed());
    let digest = Sha256::of_file(&nas.share().join("huge.mkv"));
    assert_eq!((answer.status, answer.len, answer.sha256), (200, HUGE, digest));
    wait_until("all is well", || nas.tell(&["status"]).code == Some(0));
    let json: Value = serde_json::from_str(&nas.tell(&["status", "--json"]).text).unwrap();
    assert!(json["proxies"][0]["octets_sent"].as_u64().unwrap() > HUGE, "{json}");
}

/// Without `openat2`, which qemu-user does not have: the walk is what old kernels get, too.
pub(super) fn names_stay_beneath_the_share(nas: &Nas) {
    nas.home.write("outside/secret", b"secret");
    nas.write("folder/inner/file", b"inside");
    nas.write(".hidden", b"hidden");
    for (to, name) in [
        ("../outside/secret", "out"),
        ("../outside", "folder-out"),
        ("/etc", "absolute"),
        ("folder/inner", "inside"),
        ("../share/folder/inner/file", "out-and-in"),
        ("loop", "loop"),
    ] {
        symlink(to, nas.share().join(name)).unwrap();
    }
    let running = nas.serve(&[]);
    for target in ["/folder/inner/file", "/inside/file"] {
        assert_eq!(running.get(target).text(), "inside", "{target}");
    }
    for target in
        ["/out", "/folder-out/secret", "/absolute/passwd", "/loop", "/out-and-in", "/.hidden"]
    {
        assert_eq!(running.get(target).status, 404, "{target}");
    }
    for target in ["/folder/../../outside/secret", "/%2e%2e/outside/secret"] {
        assert!(matches!(running.get(target).status, 400 | 404), "{target}");
    }
}

const HUGE: u64 = 5 << 30;
const MARKS: [(u64, &[u8]); 3] =
    [(2_147_483_640, b"around 2^31"), (4_294_967_290, b"around 2^32"), (HUGE - 4, b"TAIL")];
