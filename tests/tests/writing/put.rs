//! PUT, beyond the cases of the catalogue.

use std::{fs, os::unix::fs::symlink, thread};

use smol::{block_on, io::Cursor};
use spdy_tests::{
    fixture::{Pair, Random, Sha256, TempRoot, finished, tool, wait_until},
    h1::{Body, Client, Method},
    http::{Request, Response},
    observe::Debug,
};

use crate::{Disk, Share, names};

/// Sizes of uploads: around frames, records and windows.
const SIZES: [usize; 9] = [0, 1, 2, 16_383, 16_384, 65_537, 1_048_577, 3_000_000, 20 << 20];

#[test]
fn files_that_are_put_are_on_the_disk_as_they_were_sent() {
    let share = Share::new();
    block_on(async {
        let visitor = Client::connect(share.http()).await;
        for (size, seed) in SIZES.into_iter().zip(1..) {
            for is_chunked in [false, true] {
                let content = Random::octets(size, 2 * seed + u64::from(is_chunked));
                let digest = Sha256::of(&content);
                let target = format!("/put%20{size}.bin");
                let mut put = visitor.request(Method::Put, &target);
                let len = (!is_chunked).then_some(size);
                put.set_body(Body::from_reader(Cursor::new(content), len));
                let answer = visitor.ask(put).await;
                // The chunked one replaces the other.
                assert_eq!(answer.status, if is_chunked { 204 } else { 201 }, "{size}");
                let path = share.root.join(&format!("put {size}.bin"));
                assert_eq!(Sha256::of_file(&path), digest, "{size}, chunked: {is_chunked}");
            }
            let back = visitor.get(&format!("/put%20{size}.bin")).await;
            assert_eq!((back.status, back.body.len()), (200, size));
        }
    });
    // Nothing but the files: no temporary ones are left.
    assert_eq!(share.names().len(), SIZES.len());
    assert_eq!(Debug::of(share.http()).total("connections_accepted"), 2);
}

#[test]
fn replaced_file_has_another_tag_and_the_old_mode() {
    use std::os::unix::fs::PermissionsExt as _;
    let share = Share::new();
    let path = share.root.write("a.txt", b"one");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    let first = share.tag("/a.txt");
    let put = share.send("PUT", "/a.txt", &[], b"two");
    // Another program could still change it within the resolution of its times.
    assert_eq!((put.status, put.headers.get("etag")), (204, None));
    assert_ne!(share.tag("/a.txt"), first);
    assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o640);
}

#[test]
fn preconditions_guard_what_is_there() {
    let share = Share::new();
    share.root.write("a.txt", b"old");
    let tag = share.tag("/a.txt");
    let weak = format!("W/{tag}");
    let gzip = format!("{}-gzip\"", tag.trim_end_matches('"'));
    let (past, future) = ("Sat, 01 Jan 2000 00:00:00 GMT", "Fri, 01 Jan 2038 00:00:00 GMT");
    for (headers, target) in [
        (("if-none-match", "*"), "/a.txt"),
        (("if-none-match", tag.as_str()), "/a.txt"),
        (("if-match", "\"stale\""), "/a.txt"),
        (("if-match", weak.as_str()), "/a.txt"),
        (("if-match", gzip.as_str()), "/a.txt"),
        (("if-unmodified-since", past), "/a.txt"),
        (("if-match", "*"), "/new.txt"),
        (("if-match", tag.as_str()), "/new.txt"),
    ] {
        assert_eq!(share.put(target, &[headers], b"new"), 412, "{target} {headers:?}");
        assert_eq!((share.read("a.txt"), share.names()), (b"old".to_vec(), vec!["a.txt".into()]));
    }
    assert_eq!(share.put("/a.txt", &[("if-unmodified-since", future)], b"1"), 204);
    assert_eq!(share.put("/a.txt", &[("if-match", "*")], b"2"), 204);
    let tag = share.tag("/a.txt");
    let several = format!("\"x\", {tag}");
    assert_eq!(share.put("/a.txt", &[("if-match", &several)], b"3"), 204);
    assert_eq!(share.put("/a.txt", &[("if-match", &tag)], b"4"), 412);
    assert_eq!(share.put("/new.txt", &[("if-none-match", "*")], b"5"), 201);
    assert_eq!((share.read("a.txt"), share.read("new.txt")), (b"3".to_vec(), b"5".to_vec()));
}

#[test]
fn precondition_is_looked_at_again_when_the_body_is_there() {
    let share = Share::new();
    let path = share.root.write("a.txt", b"old");
    let tag = share.tag("/a.txt");
    let head = format!("If-Match: {tag}\r\nContent-Length: 6\r\n");
    let mut visitor = share.begin("PUT", "/a.txt", &head, b"new");
    wait_until("the upload has begun", || share.names().len() > 1);
    fs::write(path, b"by another").unwrap();
    visitor.send(b"est");
    assert_eq!(Response::read(&mut visitor, "PUT").unwrap().status, 412);
    assert_eq!((share.read("a.txt"), share.names().len()), (b"by another".to_vec(), 1));
}

#[test]
fn put_that_breaks_off_changes_nothing() {
    let share = Share::new();
    share.root.write("film.mkv", b"old");
    for form in ["Content-Length: 3000000\r\n", "Transfer-Encoding: chunked\r\n"] {
        let start = if form.starts_with('T') { &b"186a0\r\n"[..] } else { b"" };
        let body = [start, &Random::octets(100_000, 4)].concat();
        let connection = share.begin("PUT", "/film.mkv", form, &body);
        wait_until("the upload has begun", || share.names().len() > 1);
        drop(connection);
        wait_until("nothing is left of it", || share.names().len() == 1);
        assert_eq!(share.read("film.mkv"), b"old");
    }
}

#[test]
fn put_needs_permission_and_a_place() {
    let root = TempRoot::new();
    root.write("kept.txt", b"kept");
    fs::create_dir(root.join("dir")).unwrap();
    symlink("kept.txt", root.join("link")).unwrap();
    symlink("/", root.join("out")).unwrap();
    let reader = Pair::start(root.path());
    let allowed = Some("GET, HEAD, OPTIONS".to_owned());
    for (method, target) in [
        ("PUT", "/kept.txt"),
        ("PUT", "/new.txt"),
        ("DELETE", "/kept.txt"),
        ("MKCOL", "/new"),
        ("MOVE", "/kept.txt"),
        ("POST", "/"),
        ("PATCH", "/kept.txt?upload=00000000000000000000000000000000"),
    ] {
        let answer = Request::with_body(method, target, b"new").send(reader.proxy.http).unwrap();
        let allow = answer.headers.get("allow").cloned();
        assert_eq!((answer.status, allow), (405, allowed.clone()), "{method}");
    }
    drop(reader);
    let share = Share::of(root, &[]);
    let long = format!("/{}", "n".repeat(256));
    for (target, headers, status) in [
        ("/no/such/folder.txt", ("x-none", ""), 409),
        ("/kept.txt/x", ("x-none", ""), 409),
        ("/dir", ("x-none", ""), 409),
        ("/link", ("x-none", ""), 409),
        ("/dir/", ("x-none", ""), 405),
        ("/", ("x-none", ""), 405),
        ("/out/tmp/x", ("x-none", ""), 404),
        ("/.hidden", ("x-none", ""), 404),
        ("/a%2fb", ("x-none", ""), 404),
        ("/%2e%2e/out.txt", ("x-none", ""), 400),
        ("/a%00b", ("x-none", ""), 400),
        ("/a%0ab", ("x-none", ""), 400),
        ("/a%7fb", ("x-none", ""), 400),
        (long.as_str(), ("x-none", ""), 400),
        ("/part", ("content-range", "bytes 0-2/3"), 400),
    ] {
        assert_eq!(share.put(target, &[headers], b"new"), status, "{target}");
    }
    assert_eq!(share.names(), ["dir", "kept.txt", "link", "out"]);
    assert_eq!(share.read("kept.txt"), b"kept");
    // One octet less is a name, and so is what is no text.
    assert_eq!(share.put(&long[..256], &[], b"x"), 201);
    assert_eq!(share.put("/dir/%ff%20%22", &[], b"x"), 201);
}

#[test]
fn full_disk_is_told_and_nothing_is_left() {
    let share = Share::new();
    let Some(disk) = Disk::mount(share.root.join("disk"), "4m") else { return };
    fs::write(share.root.join("disk/old"), b"old").unwrap();
    // Announced: refused before the body is asked for.
    let mut early = share.begin("PUT", "/disk/old", "Content-Length: 5000000\r\n", b"");
    assert_eq!(Response::read(&mut early, "PUT").unwrap().status, 507);
    // Not announced: it goes on until the disk is full.
    let body = [b"44aa20\r\n", &Random::octets(4_500_000, 5)[..]].concat();
    let mut late = share.begin("PUT", "/disk/old", "Transfer-Encoding: chunked\r\n", &[]);
    let _ = late.try_send(&body);
    assert_eq!(Response::read(&mut late, "PUT").unwrap().status, 507);
    // A hundredth of the disk stays free.
    let mut reserve = share.begin("PUT", "/disk/new", "Content-Length: 4180000\r\n", b"");
    assert_eq!(Response::read(&mut reserve, "PUT").unwrap().status, 507);
    assert_eq!(share.names(), ["disk", "disk/old"]);
    assert_eq!(share.read("disk/old"), b"old");
    let body = Random::octets(3_000_000, 6);
    assert_eq!(share.put("/disk/new", &[], &body), 201);
    assert_eq!(share.read("disk/new"), body);
    drop(disk);
}

#[test]
fn large_files_are_refused_before_and_while_they_come() {
    let share = Share::with(&["--max-upload", "100000"]);
    assert_eq!(share.put("/a", &[], &[7; 100_000]), 201);
    let mut visitor = share.begin("PUT", "/b", "Content-Length: 100001\r\n", b"");
    assert_eq!(Response::read(&mut visitor, "PUT").unwrap().status, 413);
    let chunk = [b"186a1\r\n", &[7; 100_001][..], b"\r\n0\r\n\r\n"].concat();
    let mut visitor = share.begin("PUT", "/b", "Transfer-Encoding: chunked\r\n", &chunk);
    assert_eq!(Response::read(&mut visitor, "PUT").unwrap().status, 413);
    assert_eq!(share.names(), ["a"]);
}

#[test]
fn one_of_many_makes_the_file_and_one_of_many_replaces_it() {
    let share = Share::new();
    let race = |headers: &'static str, tag: &str| {
        let mut statuses: Vec<u16> = thread::scope(|scope| {
            let threads: Vec<_> = (0..8)
                .map(|number| {
                    let (share, tag) = (&share, tag.to_owned());
                    scope.spawn(move || {
                        let body = Random::octets(50_000, number);
                        share.put("/a", &[(headers, &tag)], &body)
                    })
                })
                .collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        statuses.sort_unstable();
        statuses
    };
    assert_eq!(race("if-none-match", "*"), [201, 412, 412, 412, 412, 412, 412, 412]);
    let tag = share.tag("/a");
    assert_eq!(race("if-match", &tag), [204, 412, 412, 412, 412, 412, 412, 412]);
    let content = share.read("a");
    assert!((0..8).any(|number| content == Random::octets(50_000, number)));
    assert_eq!(share.names(), ["a"]);
}

#[test]
fn folder_that_becomes_a_link_while_a_file_comes_leads_nowhere() {
    let outside = TempRoot::new();
    let share = Share::new();
    fs::create_dir(share.root.join("dir")).unwrap();
    let mut visitor = share.begin("PUT", "/dir/a", "Content-Length: 6\r\n", b"abc");
    wait_until("the upload has begun", || share.names().len() > 2);
    fs::rename(share.root.join("dir"), share.root.join("moved")).unwrap();
    symlink(outside.path(), share.root.join("dir")).unwrap();
    visitor.send(b"def");
    // Success would be told for what does not lie where it was sent.
    assert_eq!(Response::read(&mut visitor, "PUT").unwrap().status, 503);
    assert_eq!(share.put("/dir/b", &[], b"x"), 404);
    wait_until("nothing is left of it", || share.names() == ["dir", "moved"]);
    assert!(names(outside.path()).is_empty());
}

#[test]
fn curl_puts_a_file_and_reads_it_back() {
    let share = Share::new();
    let from = TempRoot::new();
    let digest = from.random_file("film.mkv", 5 << 20, 9);
    let url = format!("http://{}/", share.http());
    let mut curl = std::process::Command::new(tool("curl"));
    let put = curl.args(["-sS", "--fail", "-T"]).arg(from.join("film.mkv")).arg(&url);
    finished(put.args(["-w", "%{http_code}"]), "");
    assert_eq!(Sha256::of_file(&share.root.join("film.mkv")), digest);
    assert_eq!(Request::get("/film.mkv").send(share.http()).unwrap().sha256, digest);
}
