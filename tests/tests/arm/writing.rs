//! Changes of a share.

use std::{fs, fs::File, path::PathBuf};

use spdy_tests::{
    fixture::{Random, Sha256},
    visitor::Visitor,
};

use super::{Nas, Running};

pub(super) fn files_are_put_moved_and_deleted(nas: &Nas) {
    let running = nas.serve(&["--allow-write"]);
    let content = Random::octets(1_500_003, 7);
    assert_eq!(running.send("PUT", "/a.mkv", &[], &content).status, 201);
    assert_eq!(Sha256::of_file(&nas.share().join("a.mkv")), Sha256::of(&content));
    assert_eq!(running.get("/a.mkv").sha256, Sha256::of(&content));
    let only_new = [("If-None-Match", "*")];
    assert_eq!(running.send("PUT", "/a.mkv", &only_new, b"other").status, 412);
    let tag = running.tag("/a.mkv");
    assert_eq!(running.send("PUT", "/a.mkv", &[("If-Match", "\"other\"")], b"other").status, 412);
    assert_eq!(running.send("PUT", "/a.mkv", &[("If-Match", &*tag)], b"second").status, 204);
    assert_eq!(running.ask("MKCOL", "/folder", &[]).status, 201);
    let there = [("Destination", "/folder/b%ff.mkv")];
    assert_eq!(running.ask("MOVE", "/a.mkv", &there).status, 201);
    assert_eq!(running.get("/folder/b%ff.mkv").text(), "second");
    assert_eq!(running.ask("DELETE", "/folder", &[]).status, 409);
    assert_eq!(running.ask("DELETE", "/folder/b%ff.mkv", &[]).status, 204);
    assert_eq!(running.ask("DELETE", "/folder", &[]).status, 204);
    assert_eq!(fs::read_dir(nas.share()).unwrap().count(), 0);
}

/// What has arrived of an upload, on the disk.
fn part(nas: &Nas) -> PathBuf {
    let entries = fs::read_dir(nas.share()).unwrap().map(|entry| entry.unwrap().path());
    let mut entries = entries.filter(|path| path.to_string_lossy().contains("/.spdy-part-"));
    entries.next().unwrap()
}

fn offset(running: &Running, upload: &str) -> u64 {
    running.ask("HEAD", upload, &[]).headers["upload-offset"].parse().unwrap()
}

pub(super) fn upload_goes_on_beyond_32_bits(nas: &Nas) {
    let running = nas.serve(&["--allow-write"]);
    let content = Random::octets(300_000, 3);
    let begun = running.send("PUT", "/film.mkv", &[("Upload-Complete", "?0")], &content[..100_000]);
    assert_eq!((begun.status, &*begun.headers["upload-offset"]), (201, "100000"));
    let upload = begun.headers["location"].clone();

    // The visitor goes away in the middle.
    let mut visitor = Visitor::connect(running.http());
    visitor.send(format!(
        "PATCH {upload} HTTP/1.1\r\nHost: nas1\r\nContent-Type: application/partial-upload\r\n\
         Upload-Offset: 100000\r\nUpload-Complete: ?0\r\nContent-Length: 200000\r\n\r\n"
    ));
    visitor.send(&content[100_000..200_000]);
    drop(visitor);
    let at = offset(&running, &upload);
    assert!((100_000..=200_000).contains(&at), "{at}");

    // As if the rest of 4 GiB had come: sparse, so that it costs nothing.
    File::options().write(true).open(part(nas)).unwrap().set_len(FAR).unwrap();
    assert_eq!(offset(&running, &upload), FAR);
    let append = |offset: u64, complete, body| {
        let offset = offset.to_string();
        let headers = [
            ("Content-Type", "application/partial-upload"),
            ("Upload-Offset", &*offset),
            ("Upload-Complete", complete),
        ];
        running.send("PATCH", &upload, &headers, body)
    };
    // The same in 32 bits.
    let wrong = append(FAR - (1 << 32), "?1", b"wrong");
    assert_eq!((wrong.status, wrong.headers["upload-offset"].parse()), (409, Ok(FAR)));
    let more = append(FAR, "?0", b"more");
    assert_eq!((more.status, more.headers["upload-offset"].parse()), (204, Ok(FAR + 4)));
    assert_eq!(append(FAR + 4, "?1", b" end").status, 201);
    let film = nas.share().join("film.mkv");
    assert_eq!(fs::metadata(&film).unwrap().len(), FAR + 8);
    for (range, wanted) in [("bytes=0-99999", &content[..100_000]), ("bytes=-8", b"more end")] {
        let answer = running.ask("GET", "/film.mkv", &[("Range", range)]);
        assert_eq!((answer.status, answer.sha256), (206, Sha256::of(wanted)), "{range}");
    }
    assert_eq!(fs::read_dir(nas.share()).unwrap().count(), 1, "something is left");
    assert_eq!(running.ask("DELETE", "/film.mkv", &[]).status, 204);
}

/// 4 GiB and a little.
const FAR: u64 = (1 << 32) + 1_000;
