//! What the proxy believes of a client: its address, scheme and host, and what it shows to whom.
#![expect(clippy::unwrap_used, reason = "a test that panics has failed, with its line")]

use std::process::Command;

use data_encoding::BASE64;
use spdy_protocol::{
    handshake::Features,
    head::{RequestHead, ResponseHead},
    tunnel::Stream,
};
use spdy_tests::{
    fixture::{Builds, Proxy, TempRoot, binary, finished},
    http::{Request, Response},
    service::Service,
    visitor::Visitor,
};

/// A proxy with a service behind it that answers with the headers that it got.
struct Shown {
    _service: Service,
    proxy: Proxy,
}

impl Shown {
    fn start(args: &[&str]) -> Self {
        let proxy = Proxy::start(args);
        let service = Service::start(&proxy, "nas1", Features::OURS, show);
        Self { _service: service, proxy }
    }

    /// The headers that the service got of a GET with these lines.
    fn of(&self, lines: &str) -> Vec<(String, String)> {
        let answer = self.answer(&format!("GET / HTTP/1.1\r\nHost: nas1\r\n{lines}\r\n"));
        assert_eq!(answer.status, 200, "{lines}");
        let pair = |line: &str| {
            let (name, value) = line.split_once(": ").unwrap();
            (name.to_owned(), value.to_owned())
        };
        answer.text().lines().map(pair).collect()
    }

    fn answer(&self, request: &str) -> Response {
        let mut client = Visitor::connect(self.proxy.http);
        client.send(request);
        Response::read(&mut client, "GET").unwrap()
    }
}

async fn show(request: RequestHead, stream: Stream) {
    let list = |(name, value): (&str, &[u8])| format!("{name}: {}\n", value.escape_ascii());
    let text: String = request.headers.iter().map(list).collect();
    let text = format!("scheme: {}\n{text}", request.scheme);
    let _ = stream.reply(&ResponseHead::new(200), false).await;
    let mut body = text.as_bytes();
    while !body.is_empty() {
        match smol::future::poll_fn(|cx| stream.poll_write(cx, body, true)).await {
            Ok(sent) => body = &body[sent..],
            Err(_) => return,
        }
    }
}

fn all<'h>(headers: &'h [(String, String)], name: &str) -> Vec<&'h str> {
    headers.iter().filter(|(own, _)| own == name).map(|(_, value)| value.as_str()).collect()
}

#[test]
fn client_cannot_remove_headers_of_the_proxy_by_naming_them_in_connection() {
    for args in [&[][..], &["--trusted-front-end", "127.0.0.1"]] {
        let shown = Shown::start(args);
        for name in [
            "X-Forwarded-For",
            "X-Forwarded-Proto",
            "X-Forwarded-Host",
            "X-Request-Id",
            "Host",
            "x-forwarded-for,X-Request-ID",
            "*",
        ] {
            let headers = shown.of(&format!("Connection: close, {name}\r\n"));
            assert_eq!(all(&headers, "x-forwarded-for"), ["127.0.0.1"], "{name}");
            assert_eq!(all(&headers, "x-forwarded-proto"), ["http"], "{name}");
            assert_eq!(all(&headers, "x-forwarded-host"), ["nas1"], "{name}");
            assert_eq!(all(&headers, "x-request-id").len(), 1, "{name}");
        }
        for name in ["authorization", "cookie", "range", "if-match", "if-none-match", "origin"] {
            let headers = shown.of(&format!("Connection: close, {name}\r\n{name}: 1\r\n"));
            assert_eq!(all(&headers, name), ["1"]);
        }
        let headers = shown.of("Connection: close, X-Private\r\nX-Private: 1\r\n");
        assert!(all(&headers, "x-private").is_empty() && all(&headers, "connection").is_empty());
    }
}

#[test]
fn nobody_is_believed_whom_the_operator_does_not_trust() {
    let lines = "X-Forwarded-For: 203.0.113.66\r\nX-Forwarded-For: 198.51.100.7\r\n\
                 X-Forwarded-Proto: https\r\nX-Forwarded-Host: evil.example\r\n\
                 Forwarded: for=198.51.100.7\r\nX-Real-IP: 198.51.100.7\r\nX-Client-IP: 1.1.1.1\r\n\
                 X_Forwarded_For: 1.1.1.1\r\nX-Forwarded-Port: 1\r\nTrue-Client-IP: 1.1.1.1\r\n\
                 X-Request-Id: chosen\r\n";
    for args in [&[][..], &["--trusted-front-end", "192.0.2.0/24"], &["--behind-tls"]] {
        let headers = Shown::start(args).of(lines);
        assert_eq!(all(&headers, "x-forwarded-for"), ["127.0.0.1"], "{args:?}");
        assert_eq!(all(&headers, "x-forwarded-proto"), ["http"]);
        assert_eq!(all(&headers, "scheme"), ["http"]);
        assert_eq!(all(&headers, "x-forwarded-host"), ["nas1"]);
        assert_ne!(all(&headers, "x-request-id"), ["chosen"]);
        for name in [
            "forwarded",
            "x-real-ip",
            "x-client-ip",
            "x_forwarded_for",
            "x-forwarded-port",
            "true-client-ip",
        ] {
            assert!(all(&headers, name).is_empty(), "{name}");
        }
    }
}

#[test]
fn trusted_front_end_passes_on_the_whole_chain_in_one_list() {
    let shown =
        Shown::start(&["--trusted-front-end=10.0.0.0/8", "--trusted-front-end", "127.0.0.1"]);
    let headers =
        shown.of("X-Forwarded-For: 203.0.113.66\r\nX-Forwarded-For: 198.51.100.7 , 10.1.2.3\r\n\
         X-Forwarded-Proto: http\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: evil.example\r\n\
         X-Forwarded-Host: nas.example:8443\r\nForwarded: for=198.51.100.7\r\n");
    let list = "203.0.113.66, 198.51.100.7, 10.1.2.3, 127.0.0.1";
    assert_eq!(all(&headers, "x-forwarded-for"), [list]);
    assert_eq!(all(&headers, "x-forwarded-proto"), ["https"]);
    assert_eq!(all(&headers, "scheme"), ["https"]);
    assert_eq!(all(&headers, "x-forwarded-host"), ["nas.example:8443"]);
    assert_eq!(all(&headers, "forwarded"), ["for=198.51.100.7"]);
    let bad = "GET / HTTP/1.1\r\nHost: nas1\r\nX-Forwarded-Host: a\"<b>\r\n\r\n";
    assert_eq!(shown.answer(bad).status, 400);
}

#[test]
fn passwords_are_limited_by_the_address_of_the_client_itself() {
    // Its own addresses, with ports or not; the chain ends where it cannot be read.
    for (args, forms) in [
        (&["--trusted-front-end", "127.0.0.1"][..], ["198.51.100.1:4711", "198.51.100.1"]),
        (&["--trusted-front-end", "127.0.0.1"], ["[2001:db8::1]:4711", "2001:db8::1"]),
        (&["--trusted-front-end", "127.0.0.1"], ["9.9.9.9, unknown", "8.8.8.8, _hidden"]),
        (&[], ["198.51.100.1", "198.51.100.2"]),
    ] {
        let shown = Shown::start(args);
        let said = shown.proxy.tell(&["access", "nas1", "password"]);
        let password = said.lines().find_map(|line| line.strip_prefix("password ")).unwrap();
        let right = BASE64.encode(format!("nas1:{password}").as_bytes());
        let status = |from: &str, basic: &str| {
            let headers: &[_] =
                &[("Authorization", &*format!("Basic {basic}")), ("X-Forwarded-For", from)];
            Request { headers, ..Request::get("/") }.send(shown.proxy.http).unwrap().status
        };
        for at in 0..10 {
            assert_eq!(status(forms[at % 2], "bmFzMTp3cm9uZw=="), 401, "{forms:?} {at}");
        }
        assert_eq!(status(forms[0], &right), 429, "{forms:?}");
        // Another client of the same front end is not locked out, where there is one.
        let other = if args.is_empty() { 429 } else { 200 };
        assert_eq!(status("192.0.2.9:1", &right), other, "{forms:?}");
    }
}

#[test]
fn host_is_parsed_whole() {
    let shown = Shown::start(&[]);
    let status = |request: &str| shown.answer(request).status;
    for host in [
        "localhost:80x",
        "nas1:80:80",
        "4714::abcd:8001",
        "[::1",
        "extra[::1]:98",
        "a\"<b>",
        "user@nas1",
        "nas1:65536",
        "nas1/x",
        "[fe80::1%25eth0]",
        "[::1]x",
        ":80",
        "a b",
    ] {
        let get = format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n");
        assert_eq!(status(&get), 400, "{host}");
        let absolute = format!("GET http://{host}/ HTTP/1.1\r\nHost: nas1\r\n\r\n");
        // What stands behind a slash is the path.
        assert_eq!(status(&absolute), if host == "nas1/x" { 200 } else { 400 }, "{host}");
        let absolute = format!("GET http://nas1/ HTTP/1.1\r\nHost: {host}\r\n\r\n");
        assert_eq!(status(&absolute), 400, "{host}");
    }
    for host in ["nas1", "nas1:", "nas1:443", "[::1]", "[::1]:80", "127.0.0.1:0", "NAS1.example."] {
        let get = format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n");
        assert_eq!(status(&get), 200, "{host}");
        let absolute = format!("GET http://{host}/ HTTP/1.1\r\nHost: x\r\n\r\n");
        assert_eq!(status(&absolute), 200, "{host}");
    }
}

#[test]
fn debug_page_is_shown_by_the_control_socket_and_by_http_only_with_the_flag() {
    let state = TempRoot::new();
    let mut command = Command::new(binary("spdy-proxy"));
    command.args(["--listen", "127.0.0.1:0", "--tunnel-listen", "127.0.0.1:0", "--state-dir"]);
    let program = spdy_tests::fixture::Program::start("spdy-proxy", command.arg(state.path()));
    let http = program.wait_for("its address", |line| {
        line.strip_prefix("listening on ")?.strip_suffix(" http")?.parse().ok()
    });
    for lines in ["", "X-Forwarded-For: 192.0.2.1\r\n", "Forwarded: for=192.0.2.1\r\n"] {
        let mut client = Visitor::connect(http);
        client.send(format!("GET /debug HTTP/1.1\r\nHost: localhost\r\n{lines}\r\n"));
        assert_ne!(Response::read(&mut client, "GET").unwrap().status, 200);
    }
    let mut status = Command::new(&Builds::beside().proxy);
    let page = finished(status.args(["status", "--state-dir"]).arg(state.path()), "");
    assert!(page.contains("\nuptime_seconds "), "{page}");
}

#[test]
fn proxy_behind_a_front_end_that_it_does_not_trust_says_so_once() {
    let line = "front_ends=none";
    let warned = Proxy::start(&["--behind-tls"]);
    warned.program().wait_for("its warning", |held| held.contains(line).then_some(()));
    for args in [&[][..], &["--behind-tls", "--trusted-front-end", "::1"]] {
        let proxy = Proxy::start(args);
        // Said before the first request is answered.
        let _ = Request::get("/").send(proxy.http).unwrap();
        assert!(!proxy.program().text().contains(line), "{args:?}");
    }
}
