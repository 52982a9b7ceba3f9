//! The origin over a tunnel: what comes back for what request.
#![allow(clippy::unwrap_used, reason = "a helper that fails is a failed test")]

mod fixture;

use std::{
    fs,
    future::poll_fn,
    os::unix::fs::{PermissionsExt as _, symlink},
    time::{Duration, SystemTime},
};

use fixture::{Folder, exchange, noise, receive, request, send, with_origin};
use futures_lite::future::{self, poll_once};
use rustix::fs::{Advice, fadvise};
use spdy_agent::origin::Options;
use spdy_protocol::{error::StreamError, frame::Status};

/// A time that every clock of the tests is past.
const OLD: &str = "Sun, 06 Nov 1994 08:49:37 GMT";
const OLD_SECONDS: u64 = 784_111_777;

fn set_modified(path: &std::path::Path, time: SystemTime) {
    fs::File::options().write(true).open(path).unwrap().set_modified(time).unwrap();
}

fn media() -> Folder {
    let folder = Folder::new();
    let ten = folder.write("ten.txt", "0123456789");
    set_modified(&ten, SystemTime::UNIX_EPOCH + Duration::from_secs(OLD_SECONDS));
    folder.write("empty.txt", "");
    folder.write("dir/inner file.MKV", "inner");
    folder.write("page.html", "<script>alert(1)</script>");
    folder.write(".hidden", "hidden");
    folder
}

#[test]
fn get_and_head_of_a_file() {
    let folder = media();
    with_origin(Options::new(folder.path()), |tunnel, _| async move {
        let get = exchange(&tunnel, "GET", "/ten.txt?ignored=1", &[], None).await;
        assert_eq!((get.status(), get.text()), (200, "0123456789"));
        assert_eq!(get.header("content-length"), Some("10"));
        assert_eq!(get.header("content-type"), Some("text/plain; charset=utf-8"));
        assert_eq!(get.header("last-modified"), Some(OLD));
        assert_eq!(get.header("accept-ranges"), Some("bytes"));
        assert_eq!(get.header("cache-control"), Some("private, no-cache"));
        assert_eq!(get.header("x-content-type-options"), Some("nosniff"));
        assert!(get.header("date").is_some());

        let ranged = [("range", "bytes=0-4")];
        let head = exchange(&tunnel, "HEAD", "/ten.txt", &ranged, None).await;
        assert_eq!((head.status(), head.body.len()), (200, 0));
        for name in ["content-length", "content-type", "last-modified", "accept-ranges"] {
            assert_eq!(head.header(name), get.header(name), "{name}");
        }

        let empty = exchange(&tunnel, "GET", "/empty.txt", &[("range", "bytes=0-")], None).await;
        assert_eq!((empty.status(), empty.body.len()), (200, 0));
        let media = exchange(&tunnel, "GET", "/dir/inner%20file.MKV", &[], None).await;
        assert_eq!(media.header("content-type"), Some("video/matroska"));
        let page = exchange(&tunnel, "GET", "/page.html", &[], None).await;
        assert_eq!(page.header("content-security-policy"), Some("sandbox"));
    });
}

#[test]
fn statuses_of_the_catalogue() {
    let folder = media();
    symlink("/etc/passwd", folder.path().join("out")).unwrap();
    symlink("ten.txt", folder.path().join("in")).unwrap();
    let secret = folder.write("secret", "x");
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o000)).unwrap();
    let is_root = fs::read(&secret).is_ok();
    with_origin(Options::new(folder.path()), |tunnel, _| async move {
        for (method, path, status) in [
            ("GET", "/nope", 404),
            ("GET", "/ten.txt/", 404),
            ("GET", "/ten.txt/x", 404),
            ("GET", "/.hidden", 404),
            ("GET", "/../etc/passwd", 400),
            ("GET", "/%2e%2e/x", 400),
            ("GET", "/dir%2finner", 404),
            ("GET", "/%zz", 400),
            ("GET", "/a%00", 400),
            ("GET", "/out", 404),
            ("GET", "/in", 200),
            ("GET", "/secret", if is_root { 200 } else { 403 }),
            ("GET", &format!("/{}", "a".repeat(2_048)), 404),
            ("GET", &format!("/{}", "a".repeat(16_384)), 414),
            ("POST", "/ten.txt", 405),
            ("PUT", "/new", 405),
            ("DELETE", "/ten.txt", 405),
            ("TRACE", "/ten.txt", 405),
            ("BREW", "/ten.txt", 501),
            ("OPTIONS", "/ten.txt", 204),
            ("OPTIONS", "*", 204),
        ] {
            let response = exchange(&tunnel, method, path, &[], None).await;
            assert_eq!(response.status(), status, "{method} {path}");
            assert!(response.header("date").is_some(), "{method} {path}");
            if matches!(status, 204 | 405) {
                assert_eq!(response.header("allow"), Some("GET, HEAD, OPTIONS"));
            }
        }
    });
}

#[test]
fn ranges_and_conditions_of_a_file() {
    let folder = media();
    with_origin(Options::new(folder.path()), |tunnel, _| async move {
        let get = async |headers: &[(&str, &str)]| {
            exchange(&tunnel, "GET", "/ten.txt", headers, None).await
        };
        for (range, status, said, body) in [
            ("bytes=0-4", 206, Some("bytes 0-4/10"), "01234"),
            ("bytes=-3", 206, Some("bytes 7-9/10"), "789"),
            ("bytes=5-999", 206, Some("bytes 5-9/10"), "56789"),
            ("bytes=0-5,3-8", 206, Some("bytes 0-8/10"), "012345678"),
            ("items=0-4", 200, None, "0123456789"),
        ] {
            let response = get(&[("range", range)]).await;
            assert_eq!((response.status(), response.text()), (status, body), "{range}");
            assert_eq!(response.header("content-range"), said, "{range}");
            assert_eq!(response.header("content-length"), Some(body.len().to_string().as_str()));
            assert_eq!(response.header("last-modified"), Some(OLD));
        }
        let none = get(&[("range", "bytes=10-")]).await;
        assert_eq!((none.status(), none.header("content-range")), (416, Some("bytes */10")));

        let same = get(&[("if-modified-since", OLD)]).await;
        assert_eq!((same.status(), same.body.len()), (304, 0));
        assert_eq!(same.header("content-length"), None);
        let range = ("range", "bytes=0-4");
        assert_eq!(get(&[range, ("if-range", OLD)]).await.status(), 206);
        let stale = get(&[("range", "bytes=99-"), ("if-range", "\"zz\"")]).await;
        assert_eq!((stale.status(), stale.body.len()), (200, 10));
        assert_eq!(get(&[range, ("if-modified-since", OLD)]).await.status(), 304);
        assert_eq!(get(&[("if-match", "\"zz\"")]).await.status(), 412);
    });
}

#[test]
fn dates_that_no_header_can_say_do_no_harm() {
    let folder = media();
    let future = SystemTime::now() + Duration::from_secs(86_400 * 400);
    let old = SystemTime::UNIX_EPOCH - Duration::from_secs(315_619_200);
    set_modified(&folder.write("future", "x"), future);
    set_modified(&folder.write("old", "x"), old);
    with_origin(Options::new(folder.path()), |tunnel, _| async move {
        for path in ["/future", "/old"] {
            let response = exchange(&tunnel, "GET", path, &[], None).await;
            assert_eq!((response.status(), response.header("last-modified")), (200, None));
        }
        assert_eq!(exchange(&tunnel, "GET", "/", &[], None).await.status(), 200);
    });
}

#[test]
fn folders_are_listed_and_redirected_to() {
    let folder = media();
    with_origin(Options::new(folder.path()), |tunnel, _| async move {
        let page = exchange(&tunnel, "GET", "/", &[("range", "bytes=0-4")], None).await;
        assert_eq!(page.status(), 200);
        assert_eq!(page.header("content-type"), Some("text/html; charset=utf-8"));
        assert_eq!(page.header("accept-ranges"), None);
        assert!(page.header("content-security-policy").unwrap().contains("default-src 'none'"));
        assert!(page.text().contains("href=\"./dir/\""));
        assert!(page.text().contains("href=\"./ten.txt\""));
        assert!(!page.text().contains(".hidden"));
        let inner = exchange(&tunnel, "GET", "/dir/", &[], None).await;
        assert!(inner.text().contains("href=\"./inner%20file.MKV\""));
        let head = exchange(&tunnel, "HEAD", "/dir/", &[], None).await;
        assert_eq!((head.status(), head.body.len()), (200, 0));

        for (path, location) in [
            ("/dir", "/dir/"),
            ("/dir?x=1", "/dir/?x=1"),
            ("//dir", "/dir"),
            ("//evil.example/..x", "/evil.example/..x"),
        ] {
            let response = exchange(&tunnel, "GET", path, &[], None).await;
            if path.contains("evil") {
                assert_eq!(response.status(), 404);
            } else {
                assert_eq!((response.status(), response.header("location")), (301, Some(location)));
            }
        }
    });
}

#[test]
fn large_files_arrive_whole_in_parallel() {
    for use_openat2 in [true, false] {
        let folder = Folder::new();
        let octets = noise(3_000_001);
        folder.write("large.bin", &octets);
        let options = Options { use_openat2, ..Options::new(folder.path()) };
        with_origin(options, |tunnel, _| async move {
            let get = async |first: usize, last: usize| {
                let range = format!("bytes={first}-{last}");
                let headers = [("range", range.as_str())];
                let response = exchange(&tunnel, "GET", "/large.bin", &headers, None).await;
                assert_eq!(response.status(), 206);
                assert!(response.body == octets[first..=last], "{range}");
            };
            let pair = future::zip(get(0, 3_000_000), get(1, 2_999_999));
            future::zip(pair, future::zip(get(16_384, 16_384), get(65_535, 131_073))).await;
        });
    }
}

#[test]
fn files_that_are_not_in_memory_are_read_from_the_disk() {
    let folder = Folder::new();
    let octets = noise(5 << 20);
    let path = folder.write("cold.bin", &octets);
    with_origin(Options::new(folder.path()), |tunnel, _| async move {
        let get = async || {
            // What is on the disk leaves the page cache; where it cannot, this is one more read.
            let file = fs::File::open(&path).unwrap();
            file.sync_all().unwrap();
            fadvise(&file, 0, None, Advice::DontNeed).unwrap();
            let response = exchange(&tunnel, "GET", "/cold.bin", &[], None).await;
            assert!(response.end.is_ok() && response.body == octets);
        };
        let some = future::zip(get(), future::zip(get(), get()));
        future::zip(some, future::zip(get(), get())).await;
    });
}

#[test]
fn file_that_shrinks_while_it_is_sent_resets_the_stream() {
    let folder = Folder::new();
    let path = folder.write("large.bin", noise(8 << 20));
    with_origin(Options::new(folder.path()), |tunnel, _| async move {
        let stream = tunnel.open(&request("GET", "/large.bin", &[]), 3, true).await.unwrap();
        stream.response().await.unwrap();
        fs::File::options().write(true).open(&path).unwrap().set_len(1 << 20).unwrap();
        let mut received = 0;
        let end = loop {
            match poll_fn(|cx| stream.poll_read_chunk(cx)).await {
                Ok(Some(chunk)) => received += chunk.len(),
                Ok(None) => panic!("a short body looks complete"),
                Err(error) => break error,
            }
        };
        assert_eq!(end, StreamError::Reset(Status::InternalError as u32));
        assert!(received < 8 << 20);
        // The tunnel lives on.
        let next = exchange(&tunnel, "HEAD", "/large.bin", &[], None).await;
        assert_eq!(next.header("content-length"), Some("1048576"));
    });
}

#[test]
fn file_that_grows_or_is_replaced_is_sent_as_it_was_announced() {
    let folder = Folder::new();
    let octets = noise(2 << 20);
    let path = folder.write("a", &octets);
    let other = folder.write("b", noise(10));
    with_origin(Options::new(folder.path()), |tunnel, _| async move {
        let stream = tunnel.open(&request("GET", "/a", &[]), 3, true).await.unwrap();
        poll_once(poll_fn(|cx| stream.poll_read_chunk(cx))).await;
        let mut whole = octets.clone();
        whole.extend_from_slice(&octets);
        // Same file, longer; then the name becomes another file.
        let response = stream.response().await.unwrap();
        assert_eq!(response.headers.get("content-length"), Some(&b"2097152"[..]));
        fs::write(&path, &whole).unwrap();
        fs::rename(&other, &path).unwrap();
        let mut body = Vec::new();
        while let Some(chunk) = poll_fn(|cx| stream.poll_read_chunk(cx)).await.unwrap() {
            body.extend_from_slice(&chunk);
        }
        assert!(body == octets);
    });
}

#[test]
fn paused_readers_do_not_stall_others() {
    let folder = Folder::new();
    folder.write("large.bin", noise(4 << 20));
    folder.write("small.txt", "small");
    with_origin(Options::new(folder.path()), |tunnel, _| async move {
        let mut paused = Vec::new();
        for _ in 0..20 {
            let stream = tunnel.open(&request("GET", "/large.bin", &[]), 3, true).await.unwrap();
            stream.response().await.unwrap();
            paused.push(stream);
        }
        for _ in 0..10 {
            let response = exchange(&tunnel, "GET", "/small.txt", &[], None).await;
            assert_eq!(response.text(), "small");
        }
        for stream in paused {
            let mut received = 0;
            while let Some(chunk) = poll_fn(|cx| stream.poll_read_chunk(cx)).await.unwrap() {
                received += chunk.len();
            }
            assert_eq!(received, 4 << 20);
        }
    });
}

#[test]
fn aborted_requests_close_their_files() {
    let folder = Folder::new();
    folder.write("large.bin", noise(4 << 20));
    let root = folder.path().join("large.bin");
    let open = move || {
        fs::read_dir("/proc/self/fd")
            .unwrap()
            .filter_map(|entry| fs::read_link(entry.unwrap().path()).ok())
            .filter(|target| *target == root)
            .count()
    };
    with_origin(Options::new(folder.path()), |tunnel, _| async move {
        for _ in 0..60 {
            let head = request("GET", "/large.bin", &[("range", "bytes=0-")]);
            let stream = tunnel.open(&head, 3, true).await.unwrap();
            stream.response().await.unwrap();
        }
        // Each reset has arrived when something sent after it was answered; the tasks that they
        // end run before the next answer.
        while open() > 0 {
            exchange(&tunnel, "HEAD", "/large.bin", &[], None).await;
        }
    });
}

#[test]
fn body_that_nobody_wants_does_not_cost_the_answer() {
    let folder = media();
    with_origin(Options::new(folder.path()), |tunnel, _| async move {
        let head = request("POST", "/ten.txt", &[("content-length", "200000")]);
        let stream = tunnel.open(&head, 3, false).await.unwrap();
        let body = noise(200_000);
        let (sent, response) = future::zip(send(&stream, &body, true), receive(&stream)).await;
        sent.unwrap();
        let response = response.unwrap();
        assert_eq!((response.status(), response.end), (405, Ok(())));
    });
}
