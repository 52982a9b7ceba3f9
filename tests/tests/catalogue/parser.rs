//! Requests that another parser could read in another way; the proxy is the first to see them.

use spdy_tests::{
    fixture::Sha256,
    http::Response,
    observe::Debug,
    visitor::{End, Visitor},
};

use super::site::{BIG, numbered, site};

#[test]
fn h01_http_1_0_needs_no_host() {
    let ask = |head: &str| {
        let mut visitor = site().visitor();
        visitor.send(head);
        visitor
    };
    let mut visitor = ask("GET /big.txt HTTP/1.0\r\n\r\n");
    let file = Response::read(&mut visitor, "GET").unwrap();
    assert_eq!((file.status, file.sha256), (200, Sha256::of(&numbered(BIG))));
    assert_eq!(visitor.rest(), (Vec::new(), End::Cut));
    // A listing has no length and cannot be chunked: it ends with the connection.
    let mut visitor = ask("GET /dir/ HTTP/1.0\r\nHost: nas1\r\n\r\n");
    let listing = Response::read(&mut visitor, "GET").unwrap();
    assert_eq!((listing.status, listing.headers.get("transfer-encoding")), (200, None));
    // One that asks for it may keep the connection.
    let request = "GET /ten.txt HTTP/1.0\r\nConnection: keep-alive\r\n\r\n";
    let mut visitor = ask(request);
    for _ in 0..2 {
        assert_eq!(Response::read(&mut visitor, "GET").unwrap().status, 200);
        visitor.send(request);
    }
}

cases! { malformed:
    h02_two_hosts_are_400("GET /ten.txt HTTP/1.1\r\nHost: nas1\r\nHost: nas2\r\n\r\n");
    h02_the_same_host_twice_is_400("GET /ten.txt HTTP/1.1\r\nHost: nas1\r\nHost: nas1\r\n\r\n");
    h02_space_in_the_host_is_400("GET /ten.txt HTTP/1.1\r\nHost: nas 1\r\n\r\n");
    h03_space_before_the_colon_is_400("GET /ten.txt HTTP/1.1\r\nHost : nas1\r\n\r\n");
    h03_space_before_another_colon_is_400("GET / HTTP/1.1\r\nHost: nas1\r\nRange : a\r\n\r\n");
    h03_nonsense_is_400("nonsense\r\n\r\n");
}

fn malformed(request: &str) {
    assert_eq!(site().status_of(request), 400);
}

#[test]
fn h04_two_lengths_are_400_or_the_end_of_the_connection() {
    let hidden = "GET /nope HTTP/1.1\r\nHost: nas1\r\n\r\n";
    for lengths in [
        "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
        "Content-Length: 5\r\nContent-Length: 6\r\n",
        "Transfer-Encoding: xchunked\r\n",
    ] {
        let mut visitor = site().visitor();
        let head = format!("POST /ten.txt HTTP/1.1\r\nHost: nas1\r\n{lengths}\r\n");
        visitor.send(format!("{head}0\r\n\r\n{hidden}"));
        if let Ok(answer) = Response::read(&mut visitor, "POST") {
            assert!(matches!(answer.status, 400 | 405 | 501), "{lengths}: {}", answer.status);
        }
        // What follows was never a request of its own.
        assert!(no_more(&mut visitor), "{lengths}");
    }
}

/// Whether the connection ends without another answer.
fn no_more(visitor: &mut Visitor) -> bool {
    visitor.rest().0.is_empty()
}

#[test]
fn h05_malformed_requests_do_not_reach_the_agent() {
    let pair = spdy_tests::fixture::Pair::start(&site().root.join("dir"));
    let ask = |request: String| {
        let mut visitor = Visitor::connect(pair.proxy.http);
        visitor.send(request);
        Response::read(&mut visitor, "GET").unwrap().status
    };
    assert_eq!(ask("GET / HTTP/1.1\r\n\r\n".into()), 400);
    assert_eq!(ask("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n".into()), 400);
    let long = "a".repeat(70_000);
    assert!(matches!(ask(format!("GET /{long} HTTP/1.1\r\nHost: a\r\n\r\n")), 414 | 431));
    let page = Debug::of(pair.proxy.http);
    assert_eq!(page.tunnels("streams_opened"), 0, "{}", page.text);
}
