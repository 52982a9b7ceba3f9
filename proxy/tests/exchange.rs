//! Requests and responses through a real tunnel: what passes, what is changed, what is refused.

mod support;

use std::{
    io::{Read, Write},
    net::Shutdown,
    sync::atomic::Ordering::Relaxed,
};

use async_io::block_on;
use futures_lite::{AsyncReadExt, AsyncWriteExt};
use spdy_proxy::state::Port;
use support::{
    Proxy, Visitor,
    agent::{Agent, Role, dial},
    pattern, wait_until,
};

#[test]
fn bodies_arrive_whole_with_and_without_a_length() {
    let proxy = Proxy::start();
    let _agent = Agent::start(&proxy, "nas1");
    for size in [0, 1, 4_096, 65_536, 65_537, 3_000_000] {
        for path in ["big", "late-fin", "chunked"] {
            let answer = proxy.get(&format!("/{path}/{size}"));
            assert_eq!(answer.status(), 200);
            assert!(answer.is_whole);
            assert!(answer.body == pattern(size), "{path} {size}");
        }
    }
}

#[test]
fn a_stream_whose_response_is_complete_is_not_reset() {
    let proxy = Proxy::start();
    let agent = Agent::start(&proxy, "nas1");
    for path in ["/big/100000", "/late-fin/100000", "/chunked/100000", "/status/204", "/echo"] {
        assert!(proxy.get(path).is_whole, "{path}");
    }
    wait_until("all streams are done", || agent.tunnel.counters().streams_now == 0);
    assert_eq!(agent.tunnel.counters().resets_received, 0);
    assert_eq!(agent.seen.failed.load(Relaxed), 0);
}

#[test]
fn one_connection_carries_requests_one_after_the_other_and_pipelined() {
    let proxy = Proxy::start();
    let _agent = Agent::start(&proxy, "nas1");
    let mut visitor = proxy.visit();
    for _ in 0..3 {
        visitor.send("GET /big/5 HTTP/1.1\r\nHost: nas1\r\n\r\n");
        assert_eq!(visitor.answer().body, pattern(5));
    }
    visitor.send(&"GET /big/6 HTTP/1.1\r\nHost: nas1\r\n\r\n".repeat(20));
    for _ in 0..20 {
        assert_eq!(visitor.answer().body, pattern(6));
    }
}

#[test]
fn http_1_0_is_served_to_the_end_of_the_connection() {
    let proxy = Proxy::start();
    let _agent = Agent::start(&proxy, "nas1");
    let mut visitor = proxy.visit();
    visitor.send("GET /chunked/100000 HTTP/1.0\r\n\r\n");
    let answer = visitor.answer();
    assert!(answer.head.starts_with("HTTP/1.1 200 "));
    assert!(answer.header("transfer-encoding").is_empty());
    assert!(answer.body == pattern(100_000));
    let mut visitor = proxy.visit();
    for _ in 0..2 {
        visitor.send("GET /big/7 HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
        let answer = visitor.answer();
        assert!(answer.head.starts_with("HTTP/1.1 200 "));
        assert_eq!(answer.body, pattern(7));
    }
}

#[test]
fn a_client_that_half_closes_gets_its_answer() {
    let proxy = Proxy::start();
    let _agent = Agent::start(&proxy, "nas1");
    let mut visitor = proxy.visit();
    visitor.send("GET /big/3000000 HTTP/1.1\r\nHost: nas1\r\n\r\n");
    visitor.stream.shutdown(Shutdown::Write).unwrap();
    assert!(visitor.answer().body == pattern(3_000_000));
    assert_eq!(visitor.rest().unwrap(), b"");
}

#[test]
fn responses_without_a_body_keep_their_headers() {
    let proxy = Proxy::start();
    let _agent = Agent::start(&proxy, "nas1");
    let mut visitor = proxy.visit();
    visitor.send("HEAD /only-head HTTP/1.1\r\nHost: nas1\r\n\r\n");
    let head = visitor.head();
    assert!(head.contains("content-length: 1234"), "{head}");
    for status in [204, 304] {
        visitor.send(&format!("GET /status/{status} HTTP/1.1\r\nHost: nas1\r\n\r\n"));
        let answer = visitor.answer();
        assert_eq!(answer.status(), status);
        assert_eq!(answer.header("etag"), ["\"x\""]);
        assert_eq!(answer.header("content-length"), Vec::<&str>::new());
    }
    visitor.send("GET /big/3 HTTP/1.1\r\nHost: nas1\r\n\r\n");
    assert_eq!(visitor.answer().body, pattern(3));
}

#[test]
fn repeated_headers_pass_and_hop_by_hop_ones_do_not() {
    let proxy = Proxy::start();
    let _agent = Agent::start(&proxy, "nas1");
    let mut visitor = proxy.visit();
    visitor.send("GET /status/200 HTTP/1.1\r\nHost: nas1\r\n\r\n");
    let answer = visitor.answer();
    assert_eq!(answer.header("set-cookie"), ["a=1", "b=2"]);
    assert!(answer.header("x-private").is_empty());
    assert!(answer.header("connection").is_empty());
    assert_eq!(answer.header("date").len(), 1);
    visitor.send(
        "GET /head HTTP/1.1\r\nHost: nas1:1443\r\nConnection: keep-alive, X-Hop\r\nX-Hop: 1\r\n\
         TE: trailers\r\nAccept: a\r\nAccept: b\r\nKeep-Alive: 5\r\n\
         X-Forwarded-For: 192.0.2.1\r\n\r\n",
    );
    let answer = visitor.answer();
    let text = answer.text();
    assert!(text.starts_with("GET http nas1:1443\n"), "{text}");
    assert!(text.contains("accept: a\naccept: b\n"), "{text}");
    assert!(text.contains("x-forwarded-for: 192.0.2.1, 127.0.0.1\n"), "{text}");
    assert!(text.contains("x-forwarded-host: nas1:1443\n"), "{text}");
    assert!(text.contains("x-request-id: "), "{text}");
    for gone in ["x-hop", "te:", "keep-alive", "connection", "transfer-encoding"] {
        assert!(!text.contains(gone), "{gone} in {text}");
    }
}

#[test]
fn request_bodies_arrive_whole_in_either_form() {
    let proxy = Proxy::start();
    let _agent = Agent::start(&proxy, "nas1");
    let mut visitor = proxy.visit();
    for size in [0, 1, 300_000] {
        let body = pattern(size);
        visitor
            .send(&format!("POST /echo HTTP/1.1\r\nHost: nas1\r\nContent-Length: {size}\r\n\r\n"));
        visitor.stream.write_all(&body).unwrap();
        assert!(visitor.answer().body == body, "{size}");
        visitor.send("PUT /echo HTTP/1.1\r\nHost: nas1\r\nTransfer-Encoding: chunked\r\n\r\n");
        for chunk in body.chunks(7_000) {
            visitor.send(&format!("{:x}\r\n", chunk.len()));
            visitor.stream.write_all(chunk).unwrap();
            visitor.send("\r\n");
        }
        visitor.send("0\r\n\r\n");
        assert!(visitor.answer().body == body, "chunked {size}");
    }
}

#[test]
fn a_client_that_expects_100_gets_it_before_its_body() {
    let proxy = Proxy::start();
    let _agent = Agent::start(&proxy, "nas1");
    let mut visitor = proxy.visit();
    let head = "Host: nas1\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n";
    visitor.send(&format!("PUT /echo HTTP/1.1\r\n{head}"));
    assert!(visitor.head().starts_with("HTTP/1.1 100 "));
    visitor.send("hello");
    assert_eq!(visitor.answer().body, b"hello");
    // No agent has this name: the final answer comes at once, without 100.
    let role = Role::new("nas2");
    support::agent::join(&proxy, &role);
    let head = head.replace("nas1", "nas2");
    visitor.send(&format!("PUT /echo HTTP/1.1\r\n{head}"));
    assert_eq!(visitor.answer().status(), 503);
}

#[test]
fn both_directions_stream_at_once() {
    let proxy = Proxy::start();
    let _agent = Agent::start(&proxy, "nas1");
    let mut visitor = proxy.visit();
    let body = pattern(2_000_000);
    let mut writer = visitor.stream.try_clone().unwrap();
    let sent = body.clone();
    let writing = std::thread::spawn(move || {
        let head = format!(
            "POST /stream-echo HTTP/1.1\r\nHost: nas1\r\nContent-Length: {}\r\n\r\n",
            sent.len()
        );
        writer.write_all(head.as_bytes()).unwrap();
        writer.write_all(&sent).unwrap();
    });
    let answer = visitor.answer();
    writing.join().unwrap();
    assert!(answer.is_whole && answer.body == body);
}

#[test]
fn an_early_final_answer_is_read_whole_and_ends_the_connection() {
    let proxy = Proxy::start();
    let agent = Agent::start(&proxy, "nas1");
    let mut visitor = proxy.visit();
    visitor.send("POST /early HTTP/1.1\r\nHost: nas1\r\nContent-Length: 1000000\r\n\r\n");
    visitor.stream.write_all(&pattern(200_000)).unwrap();
    let answer = visitor.answer();
    assert_eq!(answer.status(), 413);
    assert_eq!(answer.header("connection"), ["close"]);
    assert_eq!(answer.body, b"no\n");
    // Still sending must not destroy what was answered.
    let _ = visitor.stream.write_all(&pattern(200_000));
    assert_eq!(visitor.rest().unwrap(), b"");
    wait_until("the agent's stream is given up", || agent.seen.failed.load(Relaxed) == 1);
}

#[test]
fn malformed_requests_are_refused() {
    let proxy = Proxy::start();
    let _agent = Agent::start(&proxy, "nas1");
    let large = format!("GET / HTTP/1.1\r\nHost: nas1\r\nX: {}\r\n\r\n", "x".repeat(40_000));
    let larger = format!("GET / HTTP/1.1\r\nHost: nas1\r\nX: {}\r\n\r\n", "x".repeat(80_000));
    for (request, status) in [
        ("GET / HTTP/1.1\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost : a\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", 400),
        ("CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n", 501),
        (&large, 431),
        (&larger, 431),
    ] {
        let mut visitor = proxy.visit();
        visitor.send(request);
        assert_eq!(visitor.answer().status(), status, "{request:.60}");
    }
    let mut visitor = proxy.visit();
    visitor.send("GET http://nas1/ping HTTP/1.1\r\nHost: elsewhere\r\n\r\n");
    assert_eq!(visitor.answer().text(), "ok");
}

#[test]
fn an_upgrade_joins_both_ends_with_half_close() {
    let proxy = Proxy::start();
    let _agent = Agent::start(&proxy, "nas1");
    let mut visitor = proxy.visit();
    visitor.send(
        "GET /upgrade HTTP/1.1\r\nHost: nas1\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\nearly",
    );
    let head = visitor.head();
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    assert!(head.contains("upgrade: echo") && head.contains("connection: upgrade"), "{head}");
    assert!(head.contains("x-service: echo"), "{head}");
    let body = pattern(200_000);
    visitor.stream.write_all(&body).unwrap();
    visitor.stream.shutdown(Shutdown::Write).unwrap();
    let expected = [b"early", body.as_slice(), b"bye"].concat();
    assert!(visitor.rest().unwrap() == expected);
}

#[test]
fn an_upgrade_that_the_agent_declines_or_cannot_is_an_ordinary_request() {
    let proxy = Proxy::start();
    let agent = Agent::start(&proxy, "nas1");
    let mut visitor = proxy.visit();
    let head = "Host: nas1\r\nConnection: Upgrade\r\nUpgrade: other\r\n\r\n";
    visitor.send(&format!("GET /upgrade HTTP/1.1\r\n{head}"));
    assert_eq!(visitor.answer().status(), 426);
    visitor.send(&format!("GET /ping HTTP/1.1\r\n{head}"));
    assert_eq!(visitor.answer().text(), "ok");
    drop(agent);
    let mut role = Role::new("nas1");
    role.can.upgrade = false;
    role.epoch = 2;
    let agent = Agent::connect(&proxy, &role);
    let head = head.replace("other", "echo");
    visitor.send(&format!("GET /upgrade HTTP/1.1\r\n{head}"));
    assert_eq!(visitor.answer().status(), 426);
    assert_eq!(agent.seen.head.lock().unwrap().as_ref().unwrap().upgrade, None);
}

#[test]
fn tls_for_visitors_carries_the_same() {
    let proxy = Proxy::with(|settings| settings.tls = true);
    let _agent = Agent::start(&proxy, "nas1");
    let pin = proxy.state.identity(Port::Http).unwrap().pin();
    let get = |path: &str| {
        block_on(async {
            let mut io = dial(proxy.http, pin).await;
            let request = format!("GET {path} HTTP/1.1\r\nHost: nas1\r\nConnection: close\r\n\r\n");
            io.write_all(request.as_bytes()).await.unwrap();
            io.flush().await.unwrap();
            let mut answer = Vec::new();
            // A connection that ends without close_notify is an error here.
            let ended = io.read_to_end(&mut answer).await;
            (answer, ended.is_ok())
        })
    };
    wait_until("the tunnel is in use", || get("/ping").0.starts_with(b"HTTP/1.1 200 "));
    let (answer, is_whole) = get("/big/3000000");
    assert!(is_whole && answer.ends_with(&pattern(3_000_000)));
    let (answer, _) = get("/head");
    assert!(String::from_utf8(answer).unwrap().contains("\nGET https nas1\n"));
    let (answer, is_whole) = get("/short/99999");
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n").unwrap();
    assert!(!is_whole && answer.len() - end - 4 == 99_999);
}

#[test]
fn an_upgrade_over_tls_joins_both_ends() {
    let proxy = Proxy::with(|settings| settings.tls = true);
    let _agent = Agent::start(&proxy, "nas1");
    let pin = proxy.state.identity(Port::Http).unwrap().pin();
    let upgrade = || {
        block_on(async {
            let mut io = dial(proxy.http, pin).await;
            let head = "Host: nas1\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n";
            io.write_all(format!("GET /upgrade HTTP/1.1\r\n{head}hello").as_bytes()).await.unwrap();
            io.close().await.unwrap();
            let mut answer = String::new();
            let _ = io.read_to_string(&mut answer).await;
            answer
        })
    };
    let mut answer = String::new();
    wait_until("the tunnel is in use", || {
        answer = upgrade();
        !answer.starts_with("HTTP/1.1 503 ")
    });
    assert!(
        answer.starts_with("HTTP/1.1 101 ") && answer.ends_with("\r\n\r\nhellobye"),
        "{answer}"
    );
}

#[test]
fn debug_page_is_for_everybody_or_for_nobody() {
    let open = Proxy::start();
    let _agent = Agent::start(&open, "nas1");
    let page = open.get("/debug");
    assert!(page.text().contains("tunnels_now 1\n"), "{}", page.text());
    assert!(page.text().contains("software=\"test-agent/1\""), "{}", page.text());
    let closed = Proxy::with(|settings| settings.debug = false);
    let _agent = Agent::start(&closed, "nas1");
    assert_eq!(closed.get("/debug").status(), 404);
}

#[test]
fn many_visitors_share_a_tunnel() {
    let proxy = Proxy::start();
    let agent = Agent::start(&proxy, "nas1");
    let address = proxy.http;
    let visitors: Vec<_> = (0..32)
        .map(|at| {
            std::thread::spawn(move || {
                let mut visitor = Visitor::new(std::net::TcpStream::connect(address).unwrap());
                for turn in 0..20 {
                    let size = 1_000 * at + turn;
                    visitor.send(&format!("GET /big/{size} HTTP/1.1\r\nHost: nas1\r\n\r\n"));
                    assert!(visitor.answer().body == pattern(size));
                }
            })
        })
        .collect();
    for visitor in visitors {
        visitor.join().unwrap();
    }
    assert_eq!(agent.seen.failed.load(Relaxed), 0);
}

#[test]
fn several_threads_serve_the_same_tunnels() {
    let proxy = Proxy::with(|settings| settings.threads = 3);
    let _agent = Agent::start(&proxy, "nas1");
    for _ in 0..30 {
        assert!(proxy.get("/big/100000").body == pattern(100_000));
    }
    let mut visitor = proxy.visit();
    visitor.send("GET /endless HTTP/1.1\r\nHost: nas1\r\n\r\n");
    let mut octets = vec![0; 1_000_000];
    visitor.stream.read_exact(&mut octets).unwrap();
}
