//! What goes wrong, and that nobody mistakes it for something that went right.

mod support;

use std::{
    io::{ErrorKind, Read, Write},
    sync::atomic::Ordering::Relaxed,
    time::Duration,
};

use spdy_protocol::handshake::{Answer, Credentials};
use support::{
    Proxy,
    agent::{Agent, Role, ask, close, join},
    pattern, wait_until,
};

#[test]
fn a_body_that_is_too_short_never_looks_complete() {
    let proxy = Proxy::start();
    let _agent = Agent::start(&proxy, "nas1");
    for path in ["/short/0", "/short/99999", "/long/20", "/cut/5000"] {
        let mut visitor = proxy.visit();
        visitor.send(&format!("GET {path} HTTP/1.1\r\nHost: nas1\r\n\r\n"));
        let mut octets = visitor.rest().unwrap();
        let end = octets.windows(4).position(|four| four == b"\r\n\r\n").unwrap();
        let body = octets.split_off(end + 4);
        let head = String::from_utf8(octets).unwrap();
        if head.contains("content-length") {
            let (announced, most) =
                if path.starts_with("/long") { (10, 9) } else { (100_000, 99_999) };
            assert!(head.contains(&format!("content-length: {announced}")), "{head}");
            assert!(body.len() <= most, "{path}: {}", body.len());
        } else {
            assert!(head.contains("transfer-encoding: chunked"), "{head}");
            assert!(!body.ends_with(b"0\r\n\r\n"), "{path}");
        }
    }
    assert_eq!(proxy.get("/ping").text(), "ok");
}

#[test]
fn what_a_paused_client_has_not_read_is_delivered_before_the_cut() {
    const LEN: usize = 2_000_000;
    let proxy = Proxy::start();
    let agent = Agent::start(&proxy, "nas1");
    let mut visitor = proxy.visit();
    visitor.send(&format!("GET /cut/{LEN} HTTP/1.1\r\nHost: nas1\r\n\r\n"));
    let before = agent.seen.requests.load(Relaxed);
    wait_until("the agent has broken off", || {
        agent.seen.requests.load(Relaxed) >= before && agent.seen.sent.load(Relaxed) >= LEN as u64
    });
    wait_until("its stream is gone", || agent.tunnel.counters().streams_now == 0);
    let received = visitor.rest().unwrap();
    assert!(received.starts_with(b"HTTP/1.1 200 ") && received.len() > LEN, "{}", received.len());
    assert!(!received.ends_with(b"0\r\n\r\n"));
}

#[test]
fn an_http_1_0_body_without_length_is_cut_by_a_reset() {
    let proxy = Proxy::start();
    let _agent = Agent::start(&proxy, "nas1");
    let mut visitor = proxy.visit();
    visitor.send("GET /cut/5000 HTTP/1.0\r\nHost: nas1\r\n\r\n");
    assert_eq!(visitor.rest().unwrap_err().kind(), ErrorKind::ConnectionReset);
}

#[test]
fn failures_before_the_head_have_their_status_and_cause() {
    let proxy = Proxy::with(|settings| settings.timings.agent = Duration::from_millis(200));
    let nobody = proxy.get("/");
    assert_eq!(nobody.status(), 503);
    let _agent = Agent::start(&proxy, "nas1");
    join(&proxy, &Role::new("nas2"));
    for (host, path, status, cause) in [
        ("nas1", "/reset", 502, "http_response_incomplete"),
        ("nas1", "/silent", 504, "http_response_timeout"),
        ("nas1", "/status/101", 502, "http_protocol_error"),
        ("nas2", "/", 503, "destination_unavailable"),
        ("nas2.example.com:1443", "/", 503, "destination_unavailable"),
    ] {
        let mut visitor = proxy.visit();
        visitor.send(&format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n"));
        let answer = visitor.answer();
        assert_eq!(answer.status(), status, "{path}");
        assert_eq!(answer.header("proxy-status"), [format!("spdy-proxy; error={cause}")]);
        // The connection is still good.
        visitor.send("GET /ping HTTP/1.1\r\nHost: nas1\r\n\r\n");
        assert_eq!(visitor.answer().text(), "ok");
    }
    let _other = Agent::connect(&proxy, &Role::new("nas2"));
    let mut visitor = proxy.visit();
    visitor.send("GET /ping HTTP/1.1\r\nHost: elsewhere\r\n\r\n");
    assert_eq!(visitor.answer().status(), 404);
}

#[test]
fn a_visitor_who_leaves_ends_the_stream() {
    let proxy = Proxy::start();
    let agent = Agent::start(&proxy, "nas1");
    let mut visitor = proxy.visit();
    visitor.send("GET /endless HTTP/1.1\r\nHost: nas1\r\n\r\n");
    visitor.stream.read_exact(&mut [0; 100_000]).unwrap();
    drop(visitor);
    wait_until("the agent's stream fails", || agent.seen.failed.load(Relaxed) == 1);
    wait_until("the slot is free", || agent.tunnel.counters().streams_now == 0);
}

#[test]
fn a_visitor_who_breaks_an_upload_off_never_finishes_it() {
    let proxy = Proxy::start();
    let agent = Agent::start(&proxy, "nas1");
    let mut visitor = proxy.visit();
    visitor.send("POST /echo HTTP/1.1\r\nHost: nas1\r\nContent-Length: 100000\r\n\r\nhalf");
    wait_until("the agent has the request", || {
        let head = agent.seen.head.lock().unwrap();
        head.as_ref().is_some_and(|head| head.path == b"/echo")
    });
    drop(visitor);
    wait_until("the agent's stream fails", || agent.seen.failed.load(Relaxed) == 1);
}

#[test]
fn a_paused_visitor_stops_the_agent_and_may_stay() {
    let proxy = Proxy::with(|settings| {
        settings.timings.idle = Duration::from_millis(50);
        settings.timings.body = Duration::from_millis(50);
        settings.timings.head = Duration::from_millis(50);
    });
    let agent = Agent::start(&proxy, "nas1");
    let mut visitor = proxy.visit();
    visitor.send("GET /big/60000000 HTTP/1.1\r\nHost: nas1\r\n\r\n");
    visitor.stream.read_exact(&mut [0; 1_000]).unwrap();
    // Until nothing more is sent for a while.
    let mut before = u64::MAX;
    while agent.seen.sent.load(Relaxed) != before {
        before = agent.seen.sent.load(Relaxed);
        std::thread::sleep(Duration::from_millis(500));
    }
    // Kernel buffers of two sockets and at most one stream window.
    assert!(before < 40_000_000, "{before} octets went out to a paused visitor");
    let rest = visitor.rest_of(60_000_000 - 1_000 + 200);
    assert!(rest >= 60_000_000 - 1_000, "{rest}");
}

#[test]
fn a_lost_tunnel_is_an_error_and_never_a_hang() {
    let proxy = Proxy::with(|settings| settings.timings.hold = Duration::ZERO);
    let agent = Agent::start(&proxy, "nas1");
    let mut waiting = proxy.visit();
    waiting.send("GET /silent HTTP/1.1\r\nHost: nas1\r\n\r\n");
    let mut reading = proxy.visit();
    reading.send("GET /endless HTTP/1.1\r\nHost: nas1\r\n\r\n");
    reading.stream.read_exact(&mut [0; 100_000]).unwrap();
    wait_until("both have begun", || agent.seen.requests.load(Relaxed) == 3);
    drop(agent);
    let answer = waiting.answer();
    assert_eq!(answer.status(), 502);
    assert_eq!(answer.header("proxy-status"), ["spdy-proxy; error=connection_terminated"]);
    assert!(!reading.rest().unwrap().ends_with(b"0\r\n\r\n"));
    assert_eq!(proxy.get("/ping").status(), 503);
}

#[test]
fn the_newest_tunnel_wins_and_the_old_one_drains() {
    let proxy = Proxy::start();
    let mut old = Agent::start(&proxy, "nas1");
    let mut reading = proxy.visit();
    reading.send("GET /endless HTTP/1.1\r\nHost: nas1\r\n\r\n");
    reading.stream.read_exact(&mut [0; 100_000]).unwrap();
    let mut role = Role::new("nas1");
    role.epoch = 2;
    let new = Agent::connect(&proxy, &role);
    wait_until("the new one is asked", || {
        assert_eq!(proxy.get("/ping").text(), "ok");
        new.seen.requests.load(Relaxed) > 2
    });
    // What the old one had begun goes on, until its visitor has enough.
    reading.stream.read_exact(&mut [0; 1_000_000]).unwrap();
    drop(reading);
    old.ended();
    assert_eq!(proxy.get("/ping").text(), "ok");
}

#[test]
fn a_connection_older_than_the_one_in_use_does_not_replace_it() {
    let proxy = Proxy::start();
    let mut role = Role::new("nas1");
    join(&proxy, &role);
    role.epoch = 5;
    let current = Agent::connect(&proxy, &role);
    role.epoch = 4;
    let late = role.put(Credentials::Bearer(role.token.clone()), None);
    let answer = ask(proxy.tunnel, proxy.pin, &late);
    assert!(matches!(answer, Answer::Refused { status: 409, .. }), "{answer:?}");
    let before = current.seen.requests.load(Relaxed);
    assert_eq!(proxy.get("/ping").text(), "ok");
    assert_eq!(current.seen.requests.load(Relaxed), before + 1);
}

#[test]
fn slow_and_silent_visitors_are_cut_at_their_deadlines() {
    let proxy = Proxy::with(|settings| {
        settings.timings.head = Duration::from_millis(200);
        settings.timings.idle = Duration::from_millis(200);
        settings.timings.body = Duration::from_millis(200);
    });
    let agent = Agent::start(&proxy, "nas1");
    let mut mute = proxy.visit();
    assert_eq!(mute.rest().unwrap(), b"");
    let mut idle = proxy.visit();
    idle.send("GET /ping HTTP/1.1\r\nHost: nas1\r\n\r\n");
    assert_eq!(idle.answer().text(), "ok");
    assert_eq!(idle.rest().unwrap(), b"");
    // A head that drips has one deadline, not one per octet.
    let mut dripping = proxy.visit();
    let begun = std::time::Instant::now();
    let mut is_open = true;
    while is_open && begun.elapsed() < support::LIMIT {
        is_open = dripping.stream.write_all(b"x").is_ok();
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(!is_open);
    let mut body = proxy.visit();
    body.send("POST /echo HTTP/1.1\r\nHost: nas1\r\nContent-Length: 10\r\n\r\nhalf");
    assert_eq!(body.rest().unwrap(), b"");
    wait_until("its stream is given up", || agent.seen.failed.load(Relaxed) == 1);
}

#[test]
fn connections_above_the_bound_wait_for_their_turn() {
    let proxy = Proxy::with(|settings| settings.bounds.connections = 2);
    let agent = Agent::start(&proxy, "nas1");
    let (one, two) = (proxy.visit(), proxy.visit());
    let mut held = [one, two];
    for visitor in &mut held {
        visitor.send("GET /ping HTTP/1.1\r\nHost: nas1\r\n\r\n");
        assert_eq!(visitor.answer().text(), "ok");
    }
    let before = agent.seen.requests.load(Relaxed);
    let mut third = proxy.visit();
    third.send("GET /ping HTTP/1.1\r\nHost: nas1\r\n\r\n");
    for visitor in &mut held {
        visitor.send("GET /ping HTTP/1.1\r\nHost: nas1\r\n\r\n");
        assert_eq!(visitor.answer().text(), "ok");
    }
    assert_eq!(agent.seen.requests.load(Relaxed), before + 2);
    drop(held);
    assert_eq!(third.answer().text(), "ok");
}

#[test]
fn a_server_that_is_told_to_stop_finishes_what_it_began() {
    let mut proxy = Proxy::start();
    let mut agent = Agent::start(&proxy, "nas1");
    let mut idle = proxy.visit();
    idle.send("GET /ping HTTP/1.1\r\nHost: nas1\r\n\r\n");
    assert_eq!(idle.answer().text(), "ok");
    let mut reading = proxy.visit();
    reading.send("GET /big/30000000 HTTP/1.1\r\nHost: nas1\r\n\r\n");
    let head = reading.head();
    assert!(head.contains("content-length: 30000000"));
    proxy.stop.stop();
    assert_eq!(idle.rest().unwrap(), b"");
    let rest = reading.rest().unwrap();
    assert_eq!(rest.len(), 30_000_000);
    assert!(rest == pattern(30_000_000));
    proxy.ended();
    agent.ended();
    assert!(std::net::TcpStream::connect(proxy.http).is_err());
}

#[test]
fn a_server_waits_no_longer_than_its_grace() {
    let mut proxy = Proxy::with(|settings| settings.timings.grace = Duration::from_millis(200));
    let mut agent = Agent::start(&proxy, "nas1");
    let mut waiting = proxy.visit();
    waiting.send("GET /silent HTTP/1.1\r\nHost: nas1\r\n\r\n");
    wait_until("it has begun", || agent.seen.requests.load(Relaxed) == 2);
    proxy.stop.stop();
    proxy.ended();
    agent.ended();
}

#[test]
fn a_tunnel_that_its_agent_closes_is_gone_at_once() {
    let proxy = Proxy::start();
    let mut agent = Agent::start(&proxy, "nas1");
    close(&agent);
    agent.ended();
    wait_until("the proxy knows", || proxy.get("/ping").status() == 503);
    let text = proxy.get("/ping");
    assert!(text.text().contains("has not been connected since"), "{}", text.text());
}
