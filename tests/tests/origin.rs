//! What the original's tests asked for: real files through both programs with real TLS, paired and
//! joined as by hand; services, headers and upgrades on the way; who is there and who is not.
//!
//! What a file or a folder must answer to each request is the catalogue's.
#![expect(clippy::unwrap_used, reason = "a test that panics has failed, with its line")]

use std::{
    fs,
    io::Write,
    net::Shutdown,
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
    h1::{Body, Client, Method},
    http::{Request, Response},
    media,
    observe::Debug,
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

// Bodies of requests.

/// Sizes of uploads: around frames, records and windows.
const SIZES: [usize; 9] = [0, 1, 2, 16_383, 16_384, 65_537, 1_048_577, 3_000_000, 20 << 20];

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
    // Who asks is added.
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
    let proxy = Proxy::start_in(state.path(), &["--hold", "0"]);
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
