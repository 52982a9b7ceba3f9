//! Writing, and that nothing is written where it is not allowed.

use std::{fs, path::Path};

use spdy_tests::{
    fixture::{Pair, Random, Sha256, TempRoot, wait_until},
    http::Request,
};

use super::{
    files::mounted,
    site::{Site, site, writable},
    time::words,
};

/// A folder of its own for a test: its target and where it is.
fn folder(name: &str) -> (&'static Site, std::path::PathBuf) {
    let site = writable();
    let path = site.root.join(name);
    fs::create_dir(&path).unwrap();
    (site, path)
}

fn names(path: &Path) -> Vec<String> {
    let entries = fs::read_dir(path).unwrap();
    let mut names: Vec<_> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn w01_new_file_is_201() {
    let (site, path) = folder("w01");
    let content = Random::octets(300_000, 1);
    assert_eq!(site.put("/w01/new%20file.bin", &[], &content).status, 201);
    assert_eq!(Sha256::of_file(&path.join("new file.bin")), Sha256::of(&content));
    assert_eq!(names(&path), ["new file.bin"]);
}

#[test]
fn w02_replaced_file_is_another_one() {
    let (site, path) = folder("w02");
    fs::write(path.join("a.bin"), "old").unwrap();
    let old = site.tag("/w02/a.bin");
    let answer = site.put("/w02/a.bin", &[], b"new");
    assert!(matches!(answer.status, 200 | 204), "{}", answer.status);
    assert_eq!(site.get("/w02/a.bin").text(), "new");
    let new = site.tag("/w02/a.bin");
    assert_ne!(old, new);
    // Who is told a tag is told the one that holds.
    assert!(answer.headers.get("etag").is_none_or(|tag| *tag == new), "{:?}", answer.headers);
}

#[test]
fn w03_file_that_must_be_new_is_412_when_it_is_there() {
    let (site, path) = folder("w03");
    let put = |content: &[u8]| site.put("/w03/a", &[("If-None-Match", "*")], content).status;
    assert_eq!((put(b"one"), put(b"two")), (201, 412));
    assert_eq!(fs::read(path.join("a")).unwrap(), b"one");
    assert_eq!(names(&path), ["a"]);
}

#[test]
fn w04_stale_tag_is_412_and_leaves_the_file() {
    let (site, path) = folder("w04");
    fs::write(path.join("a"), "old").unwrap();
    let tag = site.tag("/w04/a");
    let put = |tag: &str, content: &[u8]| site.put("/w04/a", &[("If-Match", tag)], content).status;
    assert_eq!(put("\"stale\"", b"new"), 412);
    assert_eq!(put(&format!("W/{tag}"), b"new"), 412);
    assert_eq!(fs::read(path.join("a")).unwrap(), b"old");
    assert!(matches!(put(&tag, b"new"), 200 | 204));
    assert_eq!(
        (put(&tag, b"late"), site.put("/w04/b", &[("If-Match", "*")], b"").status),
        (412, 412)
    );
    assert_eq!(
        (names(&path), fs::read(path.join("a")).unwrap()),
        (vec!["a".into()], b"new".into())
    );
}

#[test]
fn w05_upload_that_breaks_off_changes_nothing() {
    let (site, path) = folder("w05");
    fs::write(path.join("film.mkv"), "old").unwrap();
    let forms = ["Content-Length: 3000000\r\n\r\n", "Transfer-Encoding: chunked\r\n\r\n186a0\r\n"];
    for form in forms {
        let mut visitor = site.visitor();
        visitor.send(format!("PUT /w05/film.mkv HTTP/1.1\r\nHost: nas1\r\n{form}"));
        visitor.send(Random::octets(100_000, 4));
        wait_until("the upload has begun", || names(&path).len() == 2);
        drop(visitor);
        wait_until("nothing is left of it", || names(&path).len() == 1);
        assert_eq!(fs::read(path.join("film.mkv")).unwrap(), b"old");
    }
}

#[test]
fn w06_part_of_a_file_cannot_be_put() {
    let (site, path) = folder("w06");
    fs::write(path.join("a"), "0123456789").unwrap();
    let answer = site.put("/w06/a", &[("Content-Range", "bytes 0-1/10")], b"xx");
    assert_eq!((answer.status, fs::read(path.join("a")).unwrap()), (400, b"0123456789".into()));
}

#[test]
fn w07_missing_parent_is_409() {
    let (site, path) = folder("w07");
    fs::write(path.join("file"), "").unwrap();
    assert_eq!(site.put("/w07/none/a", &[], b"a").status, 409);
    assert_eq!(site.put("/w07/file/a", &[], b"a").status, 409);
    assert_eq!(names(&path), ["file"]);
}

#[test]
fn w08_full_disk_is_507_and_keeps_nothing_of_it() {
    let folder = TempRoot::new();
    let Some(before) = mounted(folder.path(), "1m") else { return };
    let pair = Pair::under(&words(&before), folder.path(), &["--allow-write"]);
    let inside = format!("/proc/{}/root{}", pair.agent.program().id(), folder.path().display());
    let content = Random::octets(3_000_000, 2);
    let put = |target: &str, content: &[u8]| {
        Request::with_body("PUT", target, content).send(pair.proxy.http).unwrap().status
    };
    assert_eq!(put("/small", &content[..200_000]), 201);
    for target in ["/large", "/small"] {
        assert_eq!(put(target, &content), 507, "{target}");
        assert_eq!(names(Path::new(&inside)), ["small"]);
    }
    let small = Path::new(&inside).join("small");
    assert_eq!(Sha256::of_file(&small), Sha256::of(&content[..200_000]));
    // What fits still fits.
    assert_eq!(put("/other", &content[..600_000]), 201);
}

#[test]
fn w09_folder_cannot_be_put() {
    let (site, path) = folder("w09");
    fs::create_dir(path.join("dir")).unwrap();
    fs::write(path.join("dir/a"), "a").unwrap();
    for target in ["/", "/w09/dir", "/w09/dir/"] {
        let status = site.put(target, &[], b"new").status;
        assert!(matches!(status, 405 | 409), "{target}: {status}");
    }
    assert_eq!((names(&path), names(&path.join("dir"))), (vec!["dir".into()], vec!["a".into()]));
}

#[test]
fn w10_nothing_is_written_without_permission() {
    let site = site();
    for (method, target) in [
        ("PUT", "/ten.txt"),
        ("PUT", "/new.txt"),
        ("DELETE", "/ten.txt"),
        ("DELETE", "/dir/"),
        ("MKCOL", "/new"),
        ("MOVE", "/ten.txt"),
        ("PATCH", "/ten.txt"),
        ("POST", "/dir/"),
    ] {
        let headers = [("Destination", "/moved.txt")];
        let request = Request { headers: &headers, ..Request::with_body(method, target, b"new") };
        let answer = request.send(site.pair.proxy.http).unwrap();
        assert!(matches!(answer.status, 403 | 405), "{method} {target}: {}", answer.status);
        let allow = answer.headers.get("allow").is_none_or(|allow| !allow.contains(method));
        assert!(allow, "{method} {target}: {:?}", answer.headers);
    }
    assert_eq!(fs::read(site.root.join("ten.txt")).unwrap(), b"0123456789");
    for name in ["new.txt", "new", "moved.txt"] {
        assert!(!site.root.join(name).exists(), "{name}");
    }
}
