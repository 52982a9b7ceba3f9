//! Versions, transfer codings and CONNECT: what is served, what is refused, and that nothing behind
//! a refused request is taken for the next one.

#![expect(clippy::unwrap_used, reason = "a test that panics has failed, with its line")]

mod support;

use std::{io::Write as _, sync::atomic::Ordering::Relaxed};

use support::{Proxy, Visitor, agent::Agent, pattern};

/// A request that must never be answered.
const HIDDEN: &str = "GET /big/77 HTTP/1.1\r\nHost: nas1\r\n\r\n";

/// Sends `request` and one more behind it, and returns the status of the only answer.
fn only_status(proxy: &Proxy, request: &str) -> u16 {
    let mut visitor = proxy.visit();
    visitor.send(&format!("{request}{HIDDEN}"));
    let answer = visitor.answer();
    assert_eq!(answer.header("connection"), ["close"], "{request:?}");
    assert_eq!(visitor.rest().unwrap(), b"", "{request:?}");
    answer.status()
}

fn in_pieces(visitor: &mut Visitor, request: &[u8], len: usize) {
    for piece in request.chunks(len) {
        visitor.stream.write_all(piece).unwrap();
    }
}

#[test]
fn higher_minor_version_is_served_as_http_1_1_and_ends_the_connection() {
    let proxy = Proxy::start();
    let _agent = Agent::start(&proxy, "nas1");
    for version in ["1.2", "1.9"] {
        let get = format!("GET /big/5 HTTP/{version}\r\nHost: nas1\r\n\r\n");
        assert_eq!(only_status(&proxy, &get), 200);
        // What looks like a request line in a body is none.
        let body = "PUT /a HTTP/1.9\r\nGET /b HTTP/2.0\r\n".repeat(300);
        for kind in ["length", "chunked"] {
            let request = match kind {
                "length" => format!("Content-Length: {}\r\n\r\n{body}", body.len()),
                _ => format!(
                    "Transfer-Encoding: chunked\r\n\r\n{:x}\r\n{body}\r\n0\r\n\r\n",
                    body.len()
                ),
            };
            let request = format!("\r\nPUT /echo HTTP/{version}\r\nHost: nas1\r\n{request}");
            for len in [1, 7, 16_384] {
                let mut visitor = proxy.visit();
                in_pieces(&mut visitor, request.as_bytes(), len);
                let answer = visitor.answer();
                assert!(answer.head.starts_with("HTTP/1.1 200 "), "{}", answer.head);
                assert!(answer.body == body.as_bytes(), "{version} {kind} {len}");
            }
        }
    }
}

#[test]
fn ordinary_connection_is_kept_whatever_its_bodies_contain() {
    let proxy = Proxy::start();
    let _agent = Agent::start(&proxy, "nas1");
    let mut visitor = proxy.visit();
    let body = "\r\nGET / HTTP/1.2\r\n".repeat(100);
    let put =
        format!("PUT /echo HTTP/1.1\r\nHost: nas1\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    for len in [16_384, 1, 3] {
        in_pieces(&mut visitor, put.as_bytes(), len);
        assert!(visitor.answer().body == body.as_bytes());
    }
    visitor.send("GET /big/5 HTTP/1.1\r\nHost: nas1\r\n\r\n");
    assert_eq!(visitor.answer().body, pattern(5));
    // Only the first request line of a connection is looked at.
    visitor.send("GET /big/5 HTTP/1.2\r\nHost: nas1\r\n\r\n");
    assert_eq!(visitor.answer().status(), 400);
}

#[test]
fn other_major_versions_are_505() {
    let proxy = Proxy::start();
    let agent = Agent::start(&proxy, "nas1");
    let before = agent.seen.requests.load(Relaxed);
    for request in [
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "GET / HTTP/2.0\r\nHost: nas1\r\n\r\n",
        "GET / HTTP/3.0\r\nHost: nas1\r\n\r\n",
        "GET /debug HTTP/2.0\r\nHost: nas1\r\n\r\n",
        "PUT /f HTTP/2.1\r\nHost: nas1\r\nContent-Length: 3\r\n\r\nabc",
        "CONNECT nas1:443 HTTP/2.0\r\nHost: nas1\r\n\r\n",
    ] {
        assert_eq!(only_status(&proxy, request), 505, "{request:?}");
    }
    assert_eq!(agent.seen.requests.load(Relaxed), before);
}

#[test]
fn transfer_codings_but_chunked_are_refused_and_reach_no_agent() {
    let proxy = Proxy::start();
    let agent = Agent::start(&proxy, "nas1");
    let before = agent.seen.requests.load(Relaxed);
    for (codings, status) in [
        ("Transfer-Encoding: gzip, chunked\r\n", 501),
        ("Transfer-Encoding: deflate, chunked\r\n", 501),
        ("Transfer-Encoding: foo, chunked\r\n", 501),
        ("Transfer-Encoding: foo;a=\"b, c\", chunked\r\n", 501),
        ("Transfer-Encoding: identity, chunked\r\n", 501),
        ("Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n", 501),
        ("Transfer-Encoding: gzip, chunked\r\nContent-Length: 3\r\n", 501),
        ("Transfer-Encoding: chunked, chunked\r\n", 400),
        ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", 400),
        ("Transfer-Encoding: chunked, gzip, chunked\r\n", 400),
    ] {
        for (method, path) in [("PUT", "/echo"), ("POST", "/echo"), ("GET", "/big/5")] {
            let head = format!("{method} {path} HTTP/1.1\r\nHost: nas1\r\n{codings}");
            let request = format!("{head}\r\n3\r\nabc\r\n0\r\n\r\n");
            assert_eq!(only_status(&proxy, &request), status, "{codings}");
        }
    }
    assert_eq!(agent.seen.requests.load(Relaxed), before);
    // These hyper refuses: nobody can tell where such a body ends.
    for coding in ["gzip", "identity", "chunked, gzip", "xchunked"] {
        let mut visitor = proxy.visit();
        let head = format!("PUT /echo HTTP/1.1\r\nHost: nas1\r\nTransfer-Encoding: {coding}\r\n");
        visitor.send(&format!("{head}\r\n3\r\nabc\r\n0\r\n\r\n{HIDDEN}"));
        assert_eq!(visitor.answer().status(), 400, "{coding}");
        assert_eq!(visitor.rest().unwrap(), b"", "{coding}");
    }
    // Names and empty elements as RFC 9110 5.6.1 allows them.
    for coding in ["Chunked", "chunked ", ", chunked"] {
        let mut visitor = proxy.visit();
        let head = format!("PUT /echo HTTP/1.1\r\nHost: nas1\r\nTransfer-Encoding: {coding}\r\n");
        visitor.send(&format!("{head}\r\n3\r\nabc\r\n0\r\n\r\n"));
        assert_eq!(visitor.answer().text(), "abc", "{coding}");
    }
}

#[test]
fn refused_connect_ends_the_connection() {
    let proxy = Proxy::start();
    let _agent = Agent::start(&proxy, "nas1");
    for request in [
        "CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n",
        "CONNECT nas1:443 HTTP/1.1\r\nHost: nas1:443\r\n\r\n",
        "CONNECT nas1:443 HTTP/1.1\r\nHost: nas1:443\r\nContent-Length: 0\r\n\r\n",
    ] {
        assert_eq!(only_status(&proxy, request), 501, "{request:?}");
    }
}
