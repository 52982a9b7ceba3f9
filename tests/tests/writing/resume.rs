//! Uploads in several requests, as docs/uploads.md has them.

use std::{
    fs,
    process::Command,
    time::{Duration, SystemTime},
};

use spdy_tests::{
    fixture::{Agent, Builds, Random, Sha256, TempRoot, finished, tool, wait_until},
    http::{Request, Response},
};

use crate::{Disk, Share};

const NEW: (&str, &str) = ("upload-complete", "?0");

/// Begins an upload without content.
fn create(share: &Share, target: &str, more: &[(&str, &str)]) -> String {
    let answer = share.send("PUT", target, &[&[NEW], more].concat(), b"");
    assert_eq!((answer.status, answer.headers["upload-offset"].as_str()), (201, "0"));
    assert_eq!(answer.headers["upload-complete"], "?0");
    assert!(answer.headers["upload-limit"].contains("max-age=604800"));
    answer.headers["location"].clone()
}

fn append(share: &Share, upload: &str, offset: usize, complete: bool, body: &[u8]) -> Response {
    let offset = offset.to_string();
    let headers = [
        ("content-type", "application/partial-upload"),
        ("upload-offset", offset.as_str()),
        ("upload-complete", if complete { "?1" } else { "?0" }),
    ];
    share.send("PATCH", upload, &headers, body)
}

fn offset(share: &Share, upload: &str) -> usize {
    let answer = share.ask("HEAD", upload, &[]);
    assert_eq!((answer.status, answer.headers["cache-control"].as_str()), (204, "no-store"));
    assert_eq!(answer.headers["upload-complete"], "?0");
    answer.headers["upload-offset"].parse().unwrap()
}

/// The head of an append that may be cut.
fn head(offset: usize, len: usize, complete: bool) -> String {
    format!(
        "Content-Type: application/partial-upload\r\nUpload-Offset: {offset}\r\n\
         Upload-Complete: ?{}\r\nContent-Length: {len}\r\n",
        u8::from(complete)
    )
}

#[test]
fn upload_that_is_cut_again_and_again_arrives_whole() {
    const LEN: usize = 3_000_000;
    let mut share = Share::new();
    fs::create_dir(share.root.join("new films")).unwrap();
    let content = Random::octets(LEN, 1);
    let upload = create(&share, "/new%20films/a.mkv", &[("upload-length", "3000000")]);
    assert!(upload.starts_with("/new%20films/a.mkv?upload="), "{upload}");
    let seed = 5;
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let (mut at, mut rounds) = (0, 0);
    while at < LEN {
        rounds += 1;
        if rounds == 5 {
            // The same agent again, as after a power cut.
            share.pair.agent.program_mut().kill();
            let (builds, root) = (Builds::beside(), share.root.path());
            share.pair.agent =
                Agent::joined(&builds, root, &share.pair.config(), &["--allow-write"]);
            spdy_tests::http::wait_for_agent(share.http());
        }
        let sent = random.usize(1..600_000).min(LEN - at);
        let piece = &content[at..at + sent];
        let visitor = share.begin("PATCH", &upload, &head(at, LEN - at, true), piece);
        if at + sent < LEN {
            let before = at;
            // Something of it has arrived, and the visitor goes away.
            let part =
                share.names().into_iter().find(|name| name.contains("/.spdy-part-")).unwrap();
            let part = share.root.join(&part);
            wait_until("some octets have arrived", || {
                fs::metadata(&part).unwrap().len() > before as u64
            });
            drop(visitor);
            at = offset(&share, &upload);
            assert!(before < at && at <= before + sent, "{before} {sent} {at}");
        } else {
            let mut visitor = visitor;
            let answer = Response::read(&mut visitor, "PATCH").unwrap();
            assert_eq!((answer.status, answer.headers["upload-complete"].as_str()), (201, "?1"));
            at = LEN;
        }
    }
    assert!(rounds > 5, "{rounds}");
    assert_eq!(Sha256::of_file(&share.root.join("new films/a.mkv")), Sha256::of(&content));
    assert_eq!(share.names(), ["new films", "new films/a.mkv"]);
    // Who lost the last answer is told that it went well, and cannot spoil it.
    let state = share.ask("HEAD", &upload, &[]);
    assert_eq!((state.status, state.headers["upload-complete"].as_str()), (204, "?1"));
    assert_eq!(state.headers["upload-offset"], "3000000");
    let again = append(&share, &upload, LEN, true, b"more");
    assert_eq!((again.status, again.text().contains("#completed-upload")), (400, true));
    assert_eq!(share.status("DELETE", &upload, &[]), 404);
}

#[test]
fn upload_goes_on_where_it_is_and_nowhere_else() {
    let share = Share::new();
    let begun = share.send("PUT", "/a", &[NEW], b"0123");
    assert_eq!((begun.status, begun.headers["upload-offset"].as_str()), (201, "4"));
    let upload = begun.headers["location"].clone();
    for offset in [0, 3, 5] {
        let answer = append(&share, &upload, offset, true, b"xx");
        assert_eq!((answer.status, answer.headers["upload-offset"].as_str()), (409, "4"));
        assert_eq!(answer.headers["content-type"], "application/problem+json");
        assert!(answer.text().contains("#mismatching-upload-offset"));
        assert!(answer.text().contains("\"expected-offset\":4"), "{}", answer.text());
    }
    let answer = append(&share, &upload, 4, false, b"45");
    assert_eq!((answer.status, answer.headers["upload-offset"].as_str()), (204, "6"));
    assert_eq!(answer.headers["upload-complete"], "?0");
    let partial = ("content-type", "application/partial-upload");
    for (headers, status) in [
        (&[("upload-offset", "6"), ("upload-complete", "?1")][..], 415),
        (&[partial, ("upload-complete", "?1")], 400),
        (&[partial, ("upload-offset", "6")], 400),
        (&[partial, ("upload-offset", "-6"), ("upload-complete", "?1")], 400),
        (&[partial, ("upload-offset", "6"), ("upload-complete", "yes")], 400),
    ] {
        assert_eq!(share.send("PATCH", &upload, headers, b"x").status, status, "{headers:?}");
    }
    // It is known by its name and its place together.
    let other = upload.replace("/a?", "/b?");
    let wrong = format!("/a?upload={}", "0".repeat(32));
    for unknown in [other.as_str(), &wrong, "/a?upload=", "/none/a?upload=x"] {
        assert_eq!(append(&share, unknown, 6, true, b"x").status, 404);
        assert_eq!(share.status("HEAD", unknown, &[]), 404);
        assert_eq!(share.status("DELETE", unknown, &[]), 404);
    }
    assert_eq!(offset(&share, &upload), 6);
    assert_eq!(append(&share, &upload, 6, true, b"").status, 201);
    assert_eq!((share.read("a"), share.names()), (b"012345".to_vec(), vec!["a".to_owned()]));
}

#[test]
fn upload_that_is_given_up_leaves_nothing() {
    let share = Share::new();
    share.root.write("a", b"old");
    let upload = create(&share, "/a", &[]);
    assert_eq!(append(&share, &upload, 0, false, b"new").status, 204);
    assert_eq!(share.status("DELETE", &upload, &[]), 204);
    assert_eq!(share.status("HEAD", &upload, &[]), 404);
    assert_eq!((share.read("a"), share.names()), (b"old".to_vec(), vec!["a".to_owned()]));
    // One whose first request breaks off was never known to anybody.
    let head = "Upload-Complete: ?0\r\nContent-Length: 10\r\n";
    let visitor = share.begin("PUT", "/a", head, b"abc");
    wait_until("the upload has begun", || share.names().len() > 1);
    drop(visitor);
    wait_until("nothing is left of it", || share.names().len() == 1);
    // Complete at once is a PUT like others.
    let whole = share.send("PUT", "/a", &[("upload-complete", "?1")], b"whole");
    assert_eq!((whole.status, whole.headers["upload-complete"].as_str()), (204, "?1"));
    assert_eq!((share.read("a"), share.names()), (b"whole".to_vec(), vec!["a".to_owned()]));
}

#[test]
fn lengths_must_agree() {
    let share = Share::new();
    let six = [("upload-length", "6")];
    let upload = create(&share, "/a", &six);
    assert_eq!(share.ask("HEAD", &upload, &[]).headers["upload-length"], "6");
    for body in [&b"1234567"[..], b"12345"] {
        let answer = append(&share, &upload, 0, true, body);
        assert_eq!(
            (answer.status, answer.text().contains("#inconsistent-upload-length")),
            (400, true)
        );
    }
    assert_eq!(offset(&share, &upload), 0);
    let answer = append(&share, &upload, 0, false, b"123");
    assert_eq!(answer.status, 204);
    assert_eq!(append(&share, &upload, 3, true, b"").status, 400);
    // More than was said, without a length that could be refused before: it is over.
    let chunked = "Content-Type: application/partial-upload\r\nUpload-Offset: 3\r\n\
                   Upload-Complete: ?0\r\nTransfer-Encoding: chunked\r\n";
    let mut visitor = share.begin("PATCH", &upload, chunked, b"4\r\nabcd\r\n0\r\n\r\n");
    assert_eq!(Response::read(&mut visitor, "PATCH").unwrap().status, 400);
    assert_eq!(share.status("HEAD", &upload, &[]), 404);
    assert_eq!(share.send("PUT", "/a", &[NEW, six[0]], b"1234567").status, 400);
    assert!(share.names().is_empty());
}

#[test]
fn limits_hold_for_uploads_in_pieces() {
    let share = Share::with(&["--max-upload", "1000"]);
    assert_eq!(share.send("PUT", "/a", &[NEW, ("upload-length", "1001")], b"").status, 413);
    let upload = create(&share, "/a", &[("upload-length", "1000")]);
    let other = create(&share, "/b", &[]);
    assert_eq!(append(&share, &other, 0, false, &[7; 900]).status, 204);
    assert_eq!(append(&share, &other, 900, true, &[7; 101]).status, 413);
    assert_eq!(append(&share, &other, 900, true, &[7; 100]).status, 201);
    assert_eq!(append(&share, &upload, 0, true, &[7; 1_000]).status, 201);
    assert_eq!(share.names(), ["a", "b"]);
}

#[test]
fn full_disk_keeps_what_has_arrived() {
    let share = Share::new();
    let Some(disk) = Disk::mount(share.root.join("disk"), "4m") else { return };
    let target = "/disk/a";
    let large = [NEW, ("upload-length", "5000000")];
    assert_eq!(share.send("PUT", target, &large, b"").status, 507);
    let upload = create(&share, target, &[]);
    let content = Random::octets(4_000_000, 3);
    assert_eq!(append(&share, &upload, 0, false, &content[..2_000_000]).status, 204);
    fs::write(share.root.join("disk/other"), vec![0; 1_000_000]).unwrap();
    assert_eq!(append(&share, &upload, 2_000_000, true, &content[2_000_000..]).status, 507);
    fs::remove_file(share.root.join("disk/other")).unwrap();
    assert_eq!(offset(&share, &upload), 2_000_000);
    assert_eq!(append(&share, &upload, 2_000_000, true, &content[2_000_000..]).status, 201);
    assert_eq!(share.read("disk/a"), content);
    assert_eq!(share.names(), ["disk", "disk/a"]);
    drop(disk);
}

#[test]
fn conditions_hold_when_it_begins_and_when_it_is_whole() {
    let share = Share::new();
    let new_only = [("if-none-match", "*")];
    let upload = create(&share, "/a", &new_only);
    share.root.write("a", b"by another");
    assert_eq!(share.send("PUT", "/a", &[NEW, new_only[0]], b"").status, 412);
    let answer = append(&share, &upload, 0, true, b"new");
    assert_eq!((answer.status, answer.headers["upload-complete"].as_str()), (412, "?1"));
    assert_eq!(share.status("HEAD", &upload, &[]), 404);
    let tag = share.tag("/a");
    let upload = create(&share, "/a", &[("if-match", &tag)]);
    assert_eq!(append(&share, &upload, 0, true, b"new").status, 204);
    assert_eq!((share.read("a"), share.names()), (b"new".to_vec(), vec!["a".to_owned()]));
}

#[test]
fn newer_request_takes_an_upload_over() {
    let share = Share::new();
    let upload = create(&share, "/a", &[]);
    let mut old = share.begin("PATCH", &upload, &head(0, 10, true), b"0123");
    let part = || share.names().into_iter().find(|name| name.starts_with(".spdy-part-"));
    let part = share.root.join(&part().unwrap());
    wait_until("some octets have arrived", || fs::metadata(&part).unwrap().len() == 4);
    // The old one is still open, as on a link that died without a word.
    assert_eq!(offset(&share, &upload), 4);
    assert_eq!(Response::read(&mut old, "PATCH").unwrap().status, 409);
    let mut old = share.begin("PATCH", &upload, &head(4, 6, true), b"45");
    wait_until("more octets have arrived", || fs::metadata(&part).unwrap().len() == 6);
    assert_eq!(append(&share, &upload, 6, true, b"6789").status, 201);
    assert_eq!(Response::read(&mut old, "PATCH").unwrap().status, 409);
    assert_eq!((share.read("a"), share.names()), (b"0123456789".to_vec(), vec!["a".to_owned()]));
}

#[test]
fn uploads_that_wait_are_few_and_not_for_ever() {
    let share = Share::new();
    let mut uploads = Vec::new();
    for number in 0..64 {
        uploads.push(create(&share, &format!("/{number}"), &[]));
    }
    assert_eq!(share.send("PUT", "/more", &[NEW], b"").status, 507);
    // A PUT is none of them.
    assert_eq!(share.put("/more", &[], b"x"), 201);
    assert_eq!(share.status("DELETE", &uploads[0], &[]), 204);
    uploads[0] = create(&share, "/0", &[]);
    let old = SystemTime::now() - Duration::from_secs(7 * 86_400 + 60);
    let part = share.names().into_iter().find(|name| name.starts_with(".spdy-part-")).unwrap();
    let file = fs::File::options().write(true).open(share.root.join(&part)).unwrap();
    file.set_modified(old).unwrap();
    uploads.push(create(&share, "/more", &[]));
    let gone = uploads.iter().filter(|upload| share.status("HEAD", upload, &[]) == 404);
    assert_eq!(gone.count(), 1);
    for upload in uploads {
        share.status("DELETE", &upload, &[]);
    }
    assert_eq!(share.names(), ["more"]);
}

/// The walk of docs/uploads.md.
#[test]
fn curl_uploads_in_pieces() {
    let share = Share::new();
    let from = TempRoot::new();
    let digest = from.random_file("film.mkv", 1_000_000, 9);
    let curl = |args: &[&str]| {
        finished(Command::new(tool("curl")).args(["-sS", "-D", "-"]).args(args), "")
    };
    let value = |head: &str, name: &str| {
        let line = head.lines().find_map(|line| line.strip_prefix(&format!("{name}: ")));
        line.unwrap_or_else(|| panic!("{name} in {head}")).trim().to_owned()
    };
    let url = |path: &str| format!("http://{}{path}", share.http());
    let film = from.join("film.mkv").display().to_string();
    let created = curl(&["-X", "PUT", "-H", "Upload-Complete: ?0", &url("/film.mkv")]);
    let upload = url(&value(&created, "location"));
    // The first part, as cut off.
    let content = fs::read(from.join("film.mkv")).unwrap();
    let part = from.write("part", &content[..400_000]).display().to_string();
    let partial = "Content-Type: application/partial-upload";
    curl(&[
        "-X",
        "PATCH",
        "-H",
        partial,
        "-H",
        "Upload-Offset: 0",
        "-H",
        "Upload-Complete: ?0",
        "--data-binary",
        &format!("@{part}"),
        &upload,
    ]);
    let offset = value(&curl(&["-I", &upload]), "upload-offset");
    assert_eq!(offset, "400000");
    let script = "tail -c +$(($1 + 1)) \"$2\" | \"$3\" -sS -D - -X PATCH -H \"$4\" \
                  -H \"Upload-Offset: $1\" -H 'Upload-Complete: ?1' --data-binary @- \"$5\"";
    let curl = tool("curl").display().to_string();
    let mut rest = Command::new("sh");
    rest.args(["-c", script, "sh", &offset, &film, &curl, partial, &upload]);
    assert!(finished(&mut rest, "").starts_with("HTTP/1.1 201 "));
    assert_eq!(Sha256::of_file(&share.root.join("film.mkv")), digest);
    assert_eq!(Request::get("/film.mkv").send(share.http()).unwrap().sha256, digest);
}
