//! What the original's tests asked for and more: real files through both programs with real TLS,
//! paired and joined as by hand.
//!
//! It is one thing: the list of what the original's tests asked for and what visitors do, each with
//! its test.
#![expect(clippy::unwrap_used, reason = "a test that panics has failed, with its line")]

use std::{
    fs,
    io::Write,
    net::Shutdown,
    os::unix::ffi::OsStrExt,
    thread,
    time::{Duration, Instant},
};

use smol::{block_on, io::Cursor};
use spdy_protocol::{
    handshake::Features,
    head::{RequestHead, ResponseHead},
    tunnel::Stream,
};
use spdy_tests::{
    fixture::{Pair, Proxy, Random, Sha256, TempRoot, wait_until},
    h1::{Answer, Body, Client, Method, read_exact},
    http::{Request, Response},
    media,
    observe::{Debug, descriptors},
    service::Service,
    visitor::{End, Visitor},
};

/// A pair that serves the media.
fn media_pair() -> Pair {
    Pair::start(media::folder().unwrap())
}

fn media_file(name: &str) -> Vec<u8> {
    fs::read(media::folder().unwrap().join(name)).unwrap()
}

// Reading.

#[test]
fn listing_of_the_root_names_every_file() {
    let pair = media_pair();
    let page = block_on(async { Client::connect(pair.proxy.http).await.get("/").await });
    assert_eq!((page.status, page.header("content-type")), (200, Some("text/html; charset=utf-8")));
    for (name, _) in media::FILES {
        let link = format!("href=\"./{name}\"");
        assert_eq!(page.text().matches(&link).count(), 1, "{name} in\n{}", page.text());
    }
}

#[test]
fn every_link_of_a_listing_leads_to_its_file() {
    let root = TempRoot::new();
    let names: [&[u8]; 12] = [
        b"two words.mkv",
        b"100% #1?.mp4",
        b"quote\"and'amp&lt;.txt",
        b"<b>.txt",
        b"a:b.txt",
        b"\xc3\xbcmlaut \xe2\x82\xac.txt",
        b"not utf-8 \xff.txt",
        b"plus+semi;comma,.txt",
        b"back\\slash.txt",
        b"new\nline.txt",
        b"%2e%2e",
        b"-rf ~",
    ];
    for name in names {
        let path = root.path().join("sub folder").join(std::ffi::OsStr::from_bytes(name));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, name).unwrap();
    }
    root.write("sub folder/.hidden", b"");
    let pair = Pair::start(root.path());
    let visitor = block_on(Client::connect(pair.proxy.http));
    let mut found = block_on(async {
        let top = visitor.get("/").await;
        assert_eq!(entries(&top), ["./sub%20folder/"]);
        let mut found = Vec::new();
        for link in entries(&visitor.get("/sub%20folder/").await) {
            let link = link.strip_prefix("./").unwrap();
            let file = visitor.get(&format!("/sub%20folder/{link}")).await;
            assert_eq!(file.status, 200, "{link}");
            found.push(file.body);
        }
        found
    });
    found.sort();
    let mut names = names.map(<[u8]>::to_vec);
    names.sort();
    assert_eq!(found, names);
}

/// The links of a page that name entries of its folder, in order. All others have a query or lead
/// up.
fn entries(page: &Answer) -> Vec<String> {
    let parts = page.text().split("href=\"./").skip(1);
    let links = parts.map(|part| format!("./{}", part.split('"').next().unwrap()));
    links.filter(|link| link != "./" && !link.contains('?')).collect()
}

#[test]
fn media_arrive_whole_and_with_their_types_over_one_connection() {
    const TYPES: [(&str, &str); 8] = [
        ("film.mp4", "video/mp4"),
        ("film.mkv", "video/matroska"),
        ("film.ts", "video/mp2t"),
        ("film.avi", "video/x-msvideo"),
        ("clip.webm", "video/webm"),
        ("song.mp3", "audio/mpeg"),
        ("picture.png", "image/png"),
        ("notes.txt", "text/plain; charset=utf-8"),
    ];
    let pair = media_pair();
    block_on(async {
        let visitor = Client::connect(pair.proxy.http).await;
        for (name, media_type) in TYPES {
            let answer = visitor.get(&format!("/{name}?t=1")).await;
            let content = media_file(name);
            assert_eq!((answer.status, answer.header("content-type")), (200, Some(media_type)));
            assert_eq!(answer.header("content-length"), Some(&*content.len().to_string()));
            assert_eq!(answer.header("accept-ranges"), Some("bytes"));
            assert_eq!(answer.header("x-content-type-options"), Some("nosniff"));
            assert!(answer.header("last-modified").is_some() && answer.header("date").is_some());
            assert!(answer.body == content, "{name} arrives changed");
        }
    });
    // One connection for all of them, one for this page.
    let page = Debug::of(pair.proxy.http);
    assert_eq!(page.total("connections_accepted"), 2);
    assert_eq!(page.total("requests_2xx"), TYPES.len() as u64);
    assert_eq!(page.total("requests_failed"), 0);
}

#[test]
fn unmodified_files_are_not_sent_again() {
    let pair = media_pair();
    block_on(async {
        let visitor = Client::connect(pair.proxy.http).await;
        let whole = visitor.get("/film.mp4").await;
        let modified = whole.header("last-modified").unwrap();
        let since = |value| visitor.get_with("/film.mp4", "if-modified-since", value);
        for date in [modified, "Fri, 01 Jan 2038 00:00:00 GMT"] {
            let answer = since(date).await;
            assert_eq!((answer.status, answer.body.len()), (304, 0), "{date}");
            assert_eq!(answer.header("last-modified"), Some(modified));
        }
        for date in ["Sat, 01 Jan 2000 00:00:00 GMT", "Sat Jan  1 00:00:00 2000", "yesterday"] {
            let answer = since(date).await;
            assert_eq!((answer.status, answer.body.len()), (200, whole.body.len()), "{date}");
        }
    });
}

#[test]
fn entity_tag_changes_with_the_file() {
    let root = TempRoot::new();
    let path = root.write("film.mkv", b"one");
    let pair = Pair::start(root.path());
    // A file that changed within the last two seconds has no tag yet.
    let tag = || Request::get("/film.mkv").send(pair.proxy.http).unwrap().headers.remove("etag");
    wait_until("the file has an entity tag", || tag().is_some());
    let first = tag().unwrap();
    assert!(first.starts_with('"') && first.ends_with('"'), "{first} is not strong");
    block_on(async {
        let visitor = Client::connect(pair.proxy.http).await;
        assert_eq!(visitor.get_with("/film.mkv", "if-none-match", &first).await.status, 304);
        fs::write(path, b"two").unwrap();
        let changed = visitor.get_with("/film.mkv", "if-none-match", &first).await;
        assert_eq!((changed.status, changed.text()), (200, "two"));
    });
}

#[test]
fn range_in_the_middle_is_exact() {
    let pair = media_pair();
    let content = media_file("film.avi");
    block_on(async {
        let visitor = Client::connect(pair.proxy.http).await;
        let part = visitor.get_with("/film.avi", "range", "bytes=512-2047").await;
        assert_eq!((part.status, part.header("content-length")), (206, Some("1536")));
        let range = format!("bytes 512-2047/{}", content.len());
        assert_eq!(part.header("content-range"), Some(range.as_str()));
        assert_eq!(part.body, &content[512..=2_047]);
        let beyond = visitor.get_with("/film.avi", "range", "bytes=999999999-").await;
        let range = format!("bytes */{}", content.len());
        assert_eq!((beyond.status, beyond.header("content-range")), (416, Some(range.as_str())));
    });
}

/// Safari asks for two octets first and plays nothing unless it gets exactly those; then it wants
/// the whole as a range, and the index at the end.
#[test]
fn safari_gets_what_it_probes_for() {
    let pair = media_pair();
    let content = media_file("film.mp4");
    let len = content.len();
    block_on(async {
        let visitor = Client::connect(pair.proxy.http).await;
        let ranges = [
            ("bytes=0-1".to_owned(), 0..2),
            (format!("bytes=0-{}", len - 1), 0..len),
            (format!("bytes={}-{}", len - 100_000, len - 1), len - 100_000..len),
            (format!("bytes={}-", len - 7), len - 7..len),
            ("bytes=-512".to_owned(), len - 512..len),
            (format!("bytes={}-{}", len - 10, len + 1_000), len - 10..len),
        ];
        for (asked, wanted) in ranges {
            let part = visitor.get_with("/film.mp4", "range", &asked).await;
            let range = format!("bytes {}-{}/{len}", wanted.start, wanted.end - 1);
            assert_eq!((part.status, part.header("content-range")), (206, Some(range.as_str())));
            assert_eq!(part.header("content-length"), Some(&*wanted.len().to_string()), "{asked}");
            assert!(part.body == content[wanted], "{asked}");
        }
    });
}

#[test]
fn offsets_above_four_gigabytes_are_exact() {
    const LEN: u64 = 5 << 30;
    let root = TempRoot::new();
    let file = fs::File::create(root.join("huge.bin")).unwrap();
    file.set_len(LEN).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, b"TAIL", LEN - 4).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, b"middle", (1 << 32) - 3).unwrap();
    let pair = Pair::start(root.path());
    block_on(async {
        let visitor = Client::connect(pair.proxy.http).await;
        let head = visitor.ask(visitor.request(Method::Head, "/huge.bin")).await;
        assert_eq!(head.header("content-length"), Some("5368709120"));
        for (range, wanted) in [
            ("bytes=5368709116-", "TAIL"),
            ("bytes=-4", "TAIL"),
            ("bytes=4294967293-4294967298", "middle"),
        ] {
            let part = visitor.get_with("/huge.bin", "range", range).await;
            assert_eq!((part.status, part.text()), (206, wanted), "{range}");
        }
    });
}

#[test]
fn slow_visitor_gets_everything_and_stalls_nobody() {
    // Far more than all buffers and windows on the way can hold.
    const LEN: usize = 64 << 20;
    let root = TempRoot::new();
    let digest = root.random_file("film.mkv", LEN as u64, 1);
    let small = root.random_file("small.mkv", 1 << 20, 2);
    let pair = Pair::start(root.path());
    let ends = [pair.proxy.program(), pair.agent.program()];
    block_on(async {
        let slow = Client::connect(pair.proxy.http).await;
        let mut response = slow.begin(slow.request(Method::Get, "/film.mkv")).await;
        assert_eq!(response.len(), Some(LEN));
        let mut body = response.take_body();
        let mut hash = Sha256::new();
        let neighbour = Client::connect(pair.proxy.http).await;
        // The slow one reads a little, and again when its neighbour has a whole file.
        for _ in 0..20 {
            hash.update(&read_exact(&mut body, 65_536).await);
            let answer = neighbour.get("/small.mkv").await;
            assert_eq!((answer.status, Sha256::of(&answer.body)), (200, small.clone()));
        }
        // Nobody holds for it what it does not read.
        for end in ends {
            let held = end.cost().unwrap().resident;
            assert!(held < 40 << 20, "{held} octets resident");
        }
        for _ in 20..LEN / 65_536 {
            hash.update(&read_exact(&mut body, 65_536).await);
        }
        assert_eq!(hash.finish(), digest);
        assert_eq!(slow.get("/small.mkv").await.status, 200);
    });
}

#[test]
fn aborted_requests_leave_nothing_behind() {
    let root = TempRoot::new();
    root.random_file("film.mkv", 32 << 20, 3);
    let pair = Pair::start(root.path());
    let http = pair.proxy.http;
    let request = "GET /film.mkv HTTP/1.1\r\nHost: nas1\r\nRange: bytes=1000-\r\n\r\n";
    let abort = || {
        let mut connection = Visitor::connect(http);
        connection.send(request);
        assert_eq!(connection.head().status, 206);
        connection.read(10_000);
    };
    let ids = [pair.proxy.program().id(), pair.agent.program().id()];
    let is_idle = || Debug::of(http).total("streams_now") == 0;
    abort();
    wait_until("the first stream is gone", is_idle);
    let before = ids.map(descriptors);
    for _ in 0..60 {
        abort();
    }
    wait_until("all streams are gone", is_idle);
    wait_until("both programs have closed their files", || {
        ids.map(descriptors).iter().zip(before).all(|(now, before)| *now <= before)
    });
    assert_eq!(Request::get("/film.mkv").send(http).unwrap().len, 32 << 20);
}

// Writing.

/// Sizes of uploads: around frames, records and windows.
const SIZES: [usize; 9] = [0, 1, 2, 16_383, 16_384, 65_537, 1_048_577, 3_000_000, 20 << 20];

#[test]
fn files_that_are_put_are_on_the_disk_as_they_were_sent() {
    let root = TempRoot::new();
    let pair = Pair::with(root.path(), &[], &["--allow-write"]);
    block_on(async {
        let visitor = Client::connect(pair.proxy.http).await;
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
                let path = root.join(&format!("put {size}.bin"));
                assert_eq!(Sha256::of_file(&path), digest, "{size}, chunked: {is_chunked}");
            }
            let back = visitor.get(&format!("/put%20{size}.bin")).await;
            assert_eq!((back.status, back.body.len()), (200, size));
        }
    });
    // Nothing but the files: no temporary ones are left.
    assert_eq!(fs::read_dir(root.path()).unwrap().count(), SIZES.len());
    let page = Debug::of(pair.proxy.http);
    assert_eq!(page.total("connections_accepted"), 2);
}

#[test]
fn put_needs_permission_and_a_place() {
    let root = TempRoot::new();
    root.write("kept.txt", b"kept");
    let put = |pair: &Pair, target: &str| {
        let answer = Request::with_body("PUT", target, b"new").send(pair.proxy.http).unwrap();
        (answer.status, answer.headers.get("allow").cloned())
    };
    let reader = Pair::start(root.path());
    let allowed = Some("GET, HEAD, OPTIONS".to_owned());
    assert_eq!(put(&reader, "/kept.txt"), (405, allowed.clone()));
    assert_eq!(put(&reader, "/new.txt"), (405, allowed));
    drop(reader);
    let writer = Pair::with(root.path(), &[], &["--allow-write"]);
    assert_eq!(put(&writer, "/no/such/folder.txt").0, 409);
    assert_eq!(put(&writer, "/").0, 409);
    assert_eq!(put(&writer, "/%2e%2e/out.txt").0, 400);
    assert_eq!(fs::read(root.join("kept.txt")).unwrap(), b"kept");
    assert_eq!(fs::read_dir(root.path()).unwrap().count(), 1);
}

#[test]
fn put_that_breaks_off_changes_nothing() {
    let root = TempRoot::new();
    root.write("film.mkv", b"old");
    let pair = Pair::with(root.path(), &[], &["--allow-write"]);
    let http = pair.proxy.http;
    let forms = ["Content-Length: 3000000\r\n\r\n", "Transfer-Encoding: chunked\r\n\r\n186a0\r\n"];
    for form in forms {
        let mut connection = Visitor::connect(http);
        connection.send(format!("PUT /film.mkv HTTP/1.1\r\nHost: nas1\r\n{form}"));
        connection.send(Random::octets(100_000, 4));
        wait_until("the upload has begun", || fs::read_dir(root.path()).unwrap().count() == 2);
        drop(connection);
        wait_until("nothing is left of it", || fs::read_dir(root.path()).unwrap().count() == 1);
        assert_eq!(fs::read(root.join("film.mkv")).unwrap(), b"old");
    }
}

#[test]
fn post_to_a_folder_is_refused_and_the_connection_stays() {
    let pair = media_pair();
    block_on(async {
        let visitor = Client::connect(pair.proxy.http).await;
        for target in ["/film.mp4", "/"] {
            for body in ["", "title=The+film"] {
                let mut post = visitor.request(Method::Post, target);
                post.set_body(body);
                let answer = visitor.ask(post).await;
                assert_eq!(answer.status, 405);
                assert_eq!(answer.header("allow"), Some("GET, HEAD, OPTIONS"));
                assert_eq!(answer.header("connection"), None);
                assert_eq!(visitor.get("/notes.txt").await.body, media_file("notes.txt"));
            }
        }
    });
    assert_eq!(Debug::of(pair.proxy.http).total("connections_accepted"), 2);
    // Who still sends when the answer is out reads it, and the end of the connection.
    let mut connection = Visitor::connect(pair.proxy.http);
    let head = "POST / HTTP/1.1\r\nHost: nas1\r\nContent-Length: 3000000\r\n\r\n";
    connection.send(head);
    connection.send(Random::octets(300_000, 5));
    let answer = Response::read(&mut connection, "POST").unwrap();
    assert_eq!((answer.status, answer.headers["connection"].as_str()), (405, "close"));
    connection.finish_sending();
    assert_eq!(connection.rest(), (Vec::new(), End::Cut));
}

#[test]
fn posted_data_reaches_a_service_and_comes_back_intact() {
    let proxy = Proxy::start(&[]);
    let _service = Service::start(&proxy, "nas1", Features::OURS, echo);
    block_on(async {
        let visitor = Client::connect(proxy.http).await;
        for (size, seed) in SIZES.into_iter().zip(100..) {
            for is_chunked in [false, true] {
                let content = Random::octets(size, seed);
                let digest = Sha256::of(&content);
                let mut post = visitor.request(Method::Post, "/form?a=1&b=%20");
                let len = (!is_chunked).then_some(size);
                post.set_body(Body::from_reader(Cursor::new(content), len));
                let answer = visitor.ask(post).await;
                assert_eq!((answer.status, answer.header("x-method")), (200, Some("POST")));
                assert_eq!(answer.header("x-path"), Some("/form?a=1&b=%20"));
                let len = answer.header("x-content-length").map(str::to_owned);
                assert_eq!(len, (!is_chunked).then(|| size.to_string()));
                assert_eq!(answer.text(), format!("{size} {digest}"));
            }
        }
    });
}

/// Answers with what it was asked, and length and digest of the body.
async fn echo(request: RequestHead, stream: Stream) {
    let mut hash = Sha256::new();
    let mut len = 0;
    while let Some(chunk) =
        smol::future::poll_fn(|cx| stream.poll_read_chunk(cx)).await.unwrap_or_default()
    {
        len += chunk.len();
        hash.update(&chunk);
    }
    let mut head = ResponseHead::new(200);
    head.headers.push("x-method", request.method.as_bytes()).unwrap();
    head.headers.push("x-path", &request.path).unwrap();
    if let Some(len) = request.headers.get("content-length") {
        head.headers.push("x-content-length", len).unwrap();
    }
    answer(&stream, &head, format!("{len} {}", hash.finish()).as_bytes()).await;
}

/// Sends a whole answer; a visitor who has gone does not matter.
async fn answer(stream: &Stream, head: &ResponseHead, mut body: &[u8]) {
    let _ = stream.reply(head, body.is_empty()).await;
    while !body.is_empty() {
        let Ok(sent) = smol::future::poll_fn(|cx| stream.poll_write(cx, body, true)).await else {
            return;
        };
        body = &body[sent..];
    }
}

// HTTP as it is spoken.

#[test]
fn head_says_what_get_would() {
    let root = TempRoot::new();
    media::copy(root.path()).unwrap();
    root.write("folder/file.html", b"<p>text");
    let pair = Pair::start(root.path());
    let targets = [
        "/",
        "/folder/",
        "/folder",
        "/film.mp4",
        "/notes.txt",
        "/folder/file.html",
        "/none",
        "/%zz",
    ];
    // Entity tags come two seconds after a change; they must be there for both or for none.
    let tag =
        || Request::get("/folder/file.html").send(pair.proxy.http).unwrap().headers.remove("etag");
    wait_until("all files have an entity tag", || tag().is_some());
    block_on(async {
        let visitor = Client::connect(pair.proxy.http).await;
        for target in targets {
            let get = visitor.get(target).await;
            let head = visitor.ask(visitor.request(Method::Head, target)).await;
            assert_eq!((head.status, head.body.len()), (get.status, 0), "{target}");
            // The length of a page is not known before it is made.
            let about_the_entity = |answer: &Answer| -> Vec<(String, String)> {
                let names = answer.names().into_iter();
                let names = names.filter(|name| {
                    !["date", "x-request-id", "transfer-encoding"].contains(&name.as_str())
                });
                names.map(|name| (name.clone(), answer.header(&name).unwrap().to_owned())).collect()
            };
            assert_eq!(about_the_entity(&head), about_the_entity(&get), "{target}");
            assert!(about_the_entity(&get).len() >= 4, "{target}");
        }
        // HEAD knows no ranges (RFC 9110 14.2).
        let mut ranged = visitor.request(Method::Head, "/film.mp4");
        ranged.insert_header("range", "bytes=0-1");
        let head = visitor.ask(ranged).await;
        let len = media_file("film.mp4").len().to_string();
        assert_eq!((head.status, head.header("content-length")), (200, Some(len.as_str())));
    });
}

#[test]
fn visitors_of_http_1_0_are_served() {
    let pair = media_pair();
    let film = media_file("film.mkv");
    let ask = |head: &str| {
        let mut connection = Visitor::connect(pair.proxy.http);
        connection.send(head);
        connection
    };
    // Without Host; the connection ends with the answer.
    let mut connection = ask("GET /film.mkv HTTP/1.0\r\n\r\n");
    let file = Response::read(&mut connection, "GET").unwrap();
    assert_eq!((file.status, file.len), (200, film.len() as u64));
    assert_eq!(file.sha256, Sha256::of(&film));
    assert_eq!(connection.rest(), (Vec::new(), End::Cut));
    // A listing has no length and cannot be chunked: it ends with the connection.
    let mut connection = ask("GET / HTTP/1.0\r\nHost: nas1\r\n\r\n");
    let listing = Response::read(&mut connection, "GET").unwrap();
    assert_eq!((listing.status, listing.headers.get("transfer-encoding")), (200, None));
    assert!(listing.text().contains("film.mkv"));
    // One that asks for it may keep the connection.
    let request = "GET /notes.txt HTTP/1.0\r\nConnection: keep-alive\r\n\r\n";
    let mut connection = ask(request);
    for _ in 0..2 {
        assert_eq!(Response::read(&mut connection, "GET").unwrap().status, 200);
        connection.send(request);
    }
}

#[test]
fn half_closed_visitors_get_their_answers() {
    let root = TempRoot::new();
    let digest = root.random_file("film.mkv", 8 << 20, 6);
    let pair = Pair::with(root.path(), &[], &["--allow-write"]);
    let mut connection = Visitor::connect(pair.proxy.http);
    let get = "GET /film.mkv HTTP/1.1\r\nHost: nas1\r\n\r\n";
    connection.send(get.repeat(2));
    connection.finish_sending();
    for _ in 0..2 {
        let answer = Response::read(&mut connection, "GET").unwrap();
        assert_eq!((answer.status, &answer.sha256), (200, &digest));
    }
    assert_eq!(connection.rest(), (Vec::new(), End::Cut));
    let mut connection = Visitor::connect(pair.proxy.http);
    connection.send("PUT /new HTTP/1.1\r\nHost: nas1\r\nContent-Length: 3\r\n\r\nabc");
    connection.finish_sending();
    assert_eq!(Response::read(&mut connection, "PUT").unwrap().status, 201);
    assert_eq!(fs::read(root.join("new")).unwrap(), b"abc");
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let pair = media_pair();
    let film = media_file("film.mkv");
    let mut connection = Visitor::connect(pair.proxy.http);
    let request = |method: &str, target: &str, more: &str| {
        format!("{method} {target} HTTP/1.1\r\nHost: nas1\r\n{more}\r\n")
    };
    let mut all = String::new();
    let ranges = [(0, 9), (100, 70_000), (5, 5)];
    for (first, last) in ranges {
        all += &request("GET", "/film.mkv", &format!("Range: bytes={first}-{last}\r\n"));
    }
    all += &request("HEAD", "/film.mkv", "");
    all += &request("GET", "/none", "");
    all += &request("POST", "/", "Content-Length: 3\r\n");
    all += "abc";
    all += &request("GET", "/film.mkv", "");
    connection.send(all);
    for (first, last) in ranges {
        let answer = Response::read(&mut connection, "GET").unwrap();
        assert_eq!((answer.status, answer.sha256), (206, Sha256::of(&film[first..=last])));
    }
    assert_eq!(Response::read(&mut connection, "HEAD").unwrap().status, 200);
    assert_eq!(Response::read(&mut connection, "GET").unwrap().status, 404);
    assert_eq!(Response::read(&mut connection, "POST").unwrap().status, 405);
    assert_eq!(Response::read(&mut connection, "GET").unwrap().sha256, Sha256::of(&film));
}

#[test]
fn body_is_asked_for_only_when_it_is_wanted() {
    let root = TempRoot::new();
    let pair = Pair::with(root.path(), &[], &["--allow-write"]);
    let head = |target: &str, host: &str| {
        format!(
            "PUT {target} HTTP/1.1\r\nHost: {host}\r\nExpect: 100-continue\r\n\
             Content-Length: 5\r\n\r\n"
        )
    };
    let mut connection = Visitor::connect(pair.proxy.http);
    connection.send(head("/a", "nas1"));
    assert_eq!(Response::read(&mut connection, "PUT").unwrap().status, 100);
    connection.send("hello");
    assert_eq!(Response::read(&mut connection, "PUT").unwrap().status, 201);
    assert_eq!(fs::read(root.join("a")).unwrap(), b"hello");
    // Nobody has this name here: that is the answer, without 100.
    let _ = pair.proxy.pair("nas2");
    connection.send(head("/a", "nas2"));
    assert_eq!(Response::read(&mut connection, "PUT").unwrap().status, 503);
}

#[test]
fn malformed_requests_do_not_reach_the_agent() {
    let pair = media_pair();
    for request in [
        "GET / HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost : nas1\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a b\r\n\r\n",
        "nonsense\r\n\r\n",
    ] {
        let mut connection = Visitor::connect(pair.proxy.http);
        connection.send(request);
        assert_eq!(Response::read(&mut connection, "GET").unwrap().status, 400, "{request:?}");
    }
    let mut connection = Visitor::connect(pair.proxy.http);
    connection.send(format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "a".repeat(70_000)));
    assert!(matches!(Response::read(&mut connection, "GET").unwrap().status, 414 | 431));
    let page = Debug::of(pair.proxy.http);
    assert_eq!(page.tunnels("streams_opened"), 0, "{}", page.text);
}

// Headers.

/// What a service sends beside its answers: repeated headers, and those of its own connection.
async fn show_headers(request: RequestHead, stream: Stream) {
    let mut head = ResponseHead::new(200);
    for (name, value) in [
        ("set-cookie", "a=1; Path=/"),
        ("set-cookie", "b=2, c"),
        ("set-cookie", "d=3"),
        ("link", "<a>"),
        ("link", "<b>"),
    ] {
        head.headers.push(name, value.as_bytes()).unwrap();
    }
    let list = |(name, value): (&str, &[u8])| format!("{name}: {}\n", value.escape_ascii());
    let text: String = request.headers.iter().map(list).collect();
    answer(&stream, &head, format!("{}\n{text}", request.host).as_bytes()).await;
}

#[test]
fn repeated_headers_survive_in_both_directions() {
    let proxy = Proxy::start(&[]);
    let _service = Service::start(&proxy, "nas1", Features::OURS, show_headers);
    let cookies = ["a=1; Path=/", "b=2, c", "d=3"];
    let request = Request {
        headers: &[("accept", "text/html"), ("accept", "*/*;q=0.1"), ("cookie", "x=1; y=2")],
        ..Request::get("/")
    };
    let raw = request.send(proxy.http).unwrap();
    assert_eq!(raw.all("set-cookie"), cookies);
    assert_eq!(raw.all("link"), ["<a>", "<b>"]);
    let text = raw.text();
    assert!(text.starts_with(&format!("{}\n", proxy.http)), "{text}");
    for line in ["accept: text/html\naccept: */*;q=0.1\n", "cookie: x=1; y=2\n"] {
        assert!(text.contains(line), "{text}");
    }
    block_on(async {
        let visitor = Client::connect(proxy.http).await;
        let response = visitor.begin(visitor.request(Method::Get, "/")).await;
        let values = response.header("set-cookie").unwrap().iter();
        assert_eq!(values.map(|value| value.as_str()).collect::<Vec<_>>(), cookies);
    });
}

#[test]
fn headers_of_one_connection_do_not_pass_to_the_next() {
    let proxy = Proxy::start(&[]);
    let _service = Service::start(&proxy, "nas1", Features::default(), show_headers);
    let hops = [
        ("connection", "keep-alive, X-Hop"),
        ("x-hop", "1"),
        ("keep-alive", "timeout=5"),
        ("proxy-connection", "keep-alive"),
        ("te", "trailers"),
        ("trailer", "x-sum"),
        ("upgrade", "h2c"),
        ("http2-settings", "AAMAAABk"),
    ];
    let mut connection = Visitor::connect(proxy.http);
    let lines = hops.map(|(name, value)| format!("{name}: {value}\r\n")).concat();
    let head = format!("GET / HTTP/1.1\r\nHost: nas1\r\n{lines}X-Kept: 1\r\n\r\n");
    connection.send(head);
    let answer = Response::read(&mut connection, "GET").unwrap();
    let text = answer.text();
    assert!(text.contains("x-kept: 1\n"), "{text}");
    for (name, _) in hops {
        assert!(!text.contains(&format!("\n{name}:")), "{name} in\n{text}");
    }
    for name in ["connection", "keep-alive", "upgrade"] {
        assert_eq!(answer.all(name), [""; 0], "{name}");
    }
    // Who asks is added, and nobody but a front end on this machine may say so for others.
    for line in ["x-forwarded-for: 127.0.0.1\n", "x-forwarded-proto: http\n", "x-request-id: "] {
        assert!(text.contains(line), "{text}");
    }
}

// Changing the protocol.

#[test]
fn upgrade_towards_a_folder_is_an_ordinary_request() {
    let pair = media_pair();
    let mut connection = Visitor::connect(pair.proxy.http);
    let get =
        "GET /notes.txt HTTP/1.1\r\nHost: nas1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n";
    for _ in 0..2 {
        connection.send(format!("{get}Sec-WebSocket-Version: 13\r\n\r\n"));
        let answer = Response::read(&mut connection, "GET").unwrap();
        assert_eq!((answer.status, answer.all("upgrade").len()), (200, 0));
        assert_eq!(answer.text().as_bytes(), media_file("notes.txt"));
    }
}

#[test]
fn upgrade_joins_visitor_and_service_to_the_end() {
    const LEN: usize = 3_000_000;
    let proxy = Proxy::start(&[]);
    let _service = Service::start(&proxy, "nas1", Features::OURS, change_protocol);
    let mut connection = Visitor::connect(proxy.http);
    // An ordinary request on a connection that is to be upgraded.
    connection.send("GET / HTTP/1.1\r\nHost: nas1\r\n\r\n");
    assert_eq!(Response::read(&mut connection, "GET").unwrap().status, 426);
    connection.send(
        "GET /chat HTTP/1.1\r\nHost: nas1\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\nearly",
    );
    let head = Response::read(&mut connection, "GET").unwrap();
    assert_eq!((head.status, head.headers["upgrade"].as_str()), (101, "echo"));
    assert_eq!(head.headers["connection"].to_ascii_lowercase(), "upgrade");
    assert_eq!(head.headers["sec-websocket-accept"], "yes");
    let content = Random::octets(LEN, 8);
    let (mut writer, sent) = (connection.socket(), content.clone());
    let writing = thread::spawn(move || {
        writer.write_all(&sent).unwrap();
        // The other direction must stay open.
        writer.shutdown(Shutdown::Write).unwrap();
    });
    let back = connection.rest().0;
    writing.join().unwrap();
    assert_eq!(&back[..5], b"early");
    assert_eq!((back.len(), Sha256::of(&back[5..back.len() - 3])), (LEN + 8, Sha256::of(&content)));
    // What the service said after the visitor had closed its half.
    assert_eq!(&back[LEN + 5..], b"bye");
    // One that the service declines is an ordinary answer; the connection goes on.
    let mut connection = Visitor::connect(proxy.http);
    for _ in 0..2 {
        connection
            .send("GET / HTTP/1.1\r\nHost: nas1\r\nConnection: Upgrade\r\nUpgrade: chat\r\n\r\n");
        assert_eq!(Response::read(&mut connection, "GET").unwrap().status, 426);
    }
    wait_until("no stream is left", || Debug::of(proxy.http).total("streams_now") == 0);
}

#[test]
fn upgrade_needs_both_ends() {
    let proxy = Proxy::start(&[]);
    let can = Features { upgrade: false, ..Features::OURS };
    let _service = Service::start(&proxy, "nas1", can, change_protocol);
    let mut connection = Visitor::connect(proxy.http);
    connection.send("GET / HTTP/1.1\r\nHost: nas1\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n");
    assert_eq!(Response::read(&mut connection, "GET").unwrap().status, 426);
}

/// Changes to the protocol `echo`, which says everything again and then `bye`.
async fn change_protocol(request: RequestHead, stream: Stream) {
    if request.upgrade.as_deref() != Some("echo") {
        let mut head = ResponseHead::new(426);
        head.headers.push("content-length", b"5").unwrap();
        return answer(&stream, &head, b"echo\n").await;
    }
    let mut head = ResponseHead::new(101);
    head.headers.push("sec-websocket-accept", b"yes").unwrap();
    stream.reply(&head, false).await.unwrap();
    let (mut reader, mut writer) = (&stream, &stream);
    smol::io::copy(&mut reader, &mut writer).await.unwrap();
    smol::io::AsyncWriteExt::write_all(&mut writer, b"bye").await.unwrap();
    smol::io::AsyncWriteExt::close(&mut writer).await.unwrap();
}

// Who is there.

#[test]
fn absent_agent_is_told_at_once_and_why() {
    let state = TempRoot::new();
    let proxy = Proxy::start_in(state.path(), &[]);
    let ask = |host: &str| {
        let mut connection = Visitor::connect(proxy.http);
        connection.send(format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n"));
        let begun = Instant::now();
        let answer = Response::read(&mut connection, "GET").unwrap();
        assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
        answer
    };
    // Nobody was ever here.
    let never = ask("nas1");
    assert_eq!((never.status, never.text().as_str()), (503, "The origin is not connected.\n"));
    assert_eq!(never.headers["proxy-status"], "spdy-proxy; error=destination_unavailable");
    assert!(never.headers["retry-after"].parse::<u32>().unwrap() > 0);
    let _ = proxy.pair("nas1");
    assert_eq!(ask("nas1").status, 503);
    // One that was here and has gone.
    let service = Service::start(&proxy, "nas1", Features::OURS, show_headers);
    assert_eq!(ask("nas1").status, 200);
    drop(service);
    proxy.program().wait_for("the tunnel's end", |line| line.contains("tunnel=down").then_some(()));
    let gone = ask("nas1");
    assert_eq!(gone.status, 503);
    assert!(gone.text().contains("has not been connected since 20"), "{}", gone.text());
}

#[test]
fn origins_are_told_apart_by_their_names() {
    let pair = media_pair();
    let proxy = &pair.proxy;
    let ask = |host: &str| {
        let mut connection = Visitor::connect(proxy.http);
        connection.send(format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n"));
        Response::read(&mut connection, "GET").unwrap()
    };
    // As long as there is one, every name is its.
    assert!(ask("192.0.2.1:1443").text().contains("film.mkv"));
    let _service = Service::start(proxy, "nas2", Features::OURS, show_headers);
    for host in ["nas1", "NAS1.example.com:1443"] {
        assert!(ask(host).text().contains("film.mkv"), "{host}");
    }
    assert!(ask("nas2.example.com").text().starts_with("nas2.example.com\n"));
    for host in ["nas3", "example.com", "127.0.0.1:1443", "nas"] {
        let unknown = ask(host);
        assert_eq!((unknown.status, unknown.text().as_str()), (404, "No origin has this name.\n"));
        assert_eq!(unknown.headers["proxy-status"], "spdy-proxy; error=destination_not_found");
    }
}

#[test]
fn debug_page_is_for_this_machine_alone() {
    let root = TempRoot::new();
    root.write("debug", b"a file");
    let pair = Pair::start(root.path());
    let from = |proxy: &Proxy, headers: &[(&str, &str)]| {
        Request { headers, ..Request::get("/debug") }.send(proxy.http).unwrap().text()
    };
    let page = from(&pair.proxy, &[]);
    assert!(page.contains("\ntunnel 1 origin=nas1 ") && page.contains("\nthreads "), "{page}");
    // Who comes through a front end on this machine is not on this machine.
    for header in [("x-forwarded-for", "192.0.2.1"), ("forwarded", "for=192.0.2.1")] {
        assert_eq!(from(&pair.proxy, &[header]), "a file");
    }
    drop(pair);
    let open = Proxy::start(&["--debug"]);
    assert!(from(&open, &[("x-forwarded-for", "192.0.2.1")]).contains("\nuptime_seconds "));
}
