//! Visitors: requests that two parsers could read in two ways, and requests without end.

use std::{
    net::SocketAddr,
    thread,
    time::{Duration, Instant},
};

use spdy_tests::{
    fixture::{Agent, Proxy, TempRoot, wait_until},
    http::{Request, wait_for_agent},
    observe::{Debug, forget_peak, memory, memory_peak},
    visitor::Visitor,
};

use crate::{GROWTH, assert_sound, scaled::ScaledProxy};

/// Answers to what one connection sends, by their status, and how it ends.
fn answers(http: SocketAddr, octets: &[u8]) -> (Vec<u16>, String) {
    let mut visitor = Visitor::connect(http);
    // The proxy may have heard enough before the end.
    let _ = visitor.try_send(octets);
    visitor.finish_sending();
    let (said, _) = visitor.rest();
    let text = String::from_utf8_lossy(&said).into_owned();
    let statuses = text.split("HTTP/1.").skip(1);
    let statuses = statuses.filter_map(|rest| rest.get(2..5)?.parse().ok());
    (statuses.collect(), text)
}

#[test]
fn requests_that_two_parsers_could_read_in_two_ways_are_refused() {
    let root = TempRoot::new();
    root.write("small", b"small");
    root.write("smuggled", b"smuggled");
    let proxy = Proxy::start(&["--allow-anonymous"]);
    let _agent = Agent::serve(root.path(), proxy.tunnel);
    wait_for_agent(proxy.http);
    let behind = "GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n";
    // Where does it end, and what is behind it? Nobody else may be asked to guess: one answer at
    // most, and the connection ends.
    let unclear = [
        // One body, two lengths.
        "PUT /a HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nContent-Length: 44\r\n\r\n",
        "PUT /a HTTP/1.1\r\nHost: x\r\nContent-Length: 0, 44\r\n\r\n",
        "PUT /a HTTP/1.1\r\nHost: x\r\nContent-Length: +0\r\n\r\n",
        "PUT /a HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        "PUT /a HTTP/1.1\r\nHost: x\r\nContent-Length: 0x0\r\n\r\n",
        "PUT /a HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999\r\n\r\n",
        "PUT /a HTTP/1.1\r\nHost: x\r\nContent-Length:\r\n\r\n",
        // Codings that are none, or not the last.
        "PUT /a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
        "PUT /a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
        "PUT /a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n",
        "PUT /a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n",
        "PUT /a HTTP/1.0\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        // Chunks that are none.
        "PUT /a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n\r\n",
        "PUT /a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n10000000000000000\r\n\r\n",
        "PUT /a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\naX0\r\n\r\n",
        // Names and lines.
        "GET /small HTTP/1.1\r\nHost : x\r\n\r\n",
        "GET /small HTTP/1.1\r\nHost: x\r\nContent-Length : 44\r\n\r\n",
        "GET /small HTTP/1.1\r\nHost: x\r\n(x): y\r\n\r\n",
        "GET /small HTTP/1.1\r\nHost: x\r\n: y\r\n\r\n",
        "GET /small HTTP/1.1\r\nHost: x\r\nno colon\r\n\r\n",
        "GET /small HTTP/1.1\r\nHost: x\r\nX: a\x00b\r\n\r\n",
        "GET /small HTTP/1.1\r\nHost: x\r\nX: a\rY: b\r\n\r\n",
        "GET /small HTTP/1.1\r\n X: a\r\nHost: x\r\n\r\n",
        "GET /small HTTP/1.1\r\nHost: x\r\nX: a\r\n folded\r\n\r\n",
        // Request lines.
        "GET  /small HTTP/1.1\r\nHost: x\r\n\r\n",
        "GET /small\r\n\r\n",
        "GET /small HTTP/1.1 more\r\nHost: x\r\n\r\n",
        "GET /sm all HTTP/1.1\r\nHost: x\r\n\r\n",
        "GET /small HTTP/2.0\r\nHost: x\r\n\r\n",
        "GET /small HTTP/1.2.3\r\nHost: x\r\n\r\n",
        "G@T /small HTTP/1.1\r\nHost: x\r\n\r\n",
        "GET /sm\x7fall HTTP/1.1\r\nHost: x\r\n\r\n",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        // What follows would belong to the tunnel that it asks for.
        "CONNECT x:443 HTTP/1.1\r\nHost: x:443\r\n\r\n",
    ];
    // The request is wrong, but where it ends is beyond doubt.
    let wrong = [
        "GET /small HTTP/1.1\r\nHost: x\r\nHost: x\r\n\r\n",
        "GET /small HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n",
        "GET /small HTTP/1.1\r\n\r\n",
        "GET /small HTTP/1.1\r\nHost: a b\r\n\r\n",
        "GET /small HTTP/1.1\r\nHost: user@x\r\n\r\n",
        "GET /small HTTP/1.1\r\nHost: x/y\r\n\r\n",
        "GET small HTTP/1.1\r\nHost: x\r\n\r\n",
        "OPTIONS * HTTP/1.1\r\n\r\n",
    ];
    let mut faults = String::new();
    let refused = |status: &u16| matches!(status, 400 | 431 | 501 | 505);
    for request in unclear {
        let (statuses, text) = answers(proxy.http, format!("{request}{behind}").as_bytes());
        if statuses.len() > 1 || !statuses.iter().all(refused) || text.contains("smuggled") {
            faults += &format!("{request:?}: {statuses:?}\n");
        }
    }
    for request in wrong {
        let (statuses, _) = answers(proxy.http, format!("{request}{behind}").as_bytes());
        if !statuses.first().is_some_and(refused) || statuses.get(1).is_some_and(|s| *s != 200) {
            faults += &format!("{request:?}: {statuses:?}\n");
        }
    }
    // Two lengths of one body: the chunks may count, but nothing behind them (RFC 9112 6.1).
    for request in [
        "PUT /a HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "PUT /a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n",
    ] {
        let (statuses, text) = answers(proxy.http, format!("{request}{behind}").as_bytes());
        if statuses.len() > 1 || text.contains("smuggled") {
            faults += &format!("{request:?}: {statuses:?}\n");
        }
    }
    assert!(faults.is_empty(), "\n{faults}");
    let good = [
        ("GET /small HTTP/1.1\r\nHost: x\r\n\r\n", [200, 200]),
        ("\r\nGET /small HTTP/1.1\r\nHost: x\r\n\r\n", [200, 200]),
        ("HEAD /small HTTP/1.1\r\nHOST:x\r\n\r\n", [200, 200]),
        ("GET http://x/small HTTP/1.1\r\nHost: x\r\n\r\n", [200, 200]),
        ("PUT /put HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\na", [201, 200]),
        (
            "PUT /put HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: Chunked\r\n\r\n1;x=y\r\na\r\n0\r\n\r\n",
            [204, 200],
        ),
        ("FOO /small HTTP/1.1\r\nHost: x\r\n\r\n", [501, 200]),
    ];
    for (request, wanted) in good {
        let (statuses, text) = answers(proxy.http, format!("{request}{behind}").as_bytes());
        assert_eq!(statuses, wanted, "{request:?}: {text}");
    }
    assert_sound(proxy.program());
}

#[test]
fn visitors_without_measure_are_cut() {
    let root = TempRoot::new();
    root.write("small", b"small");
    let proxy = Proxy::start(&["--allow-anonymous"]);
    let agent = Agent::serve(root.path(), proxy.tunnel);
    wait_for_agent(proxy.http);
    let id = proxy.program().id();
    let idle = memory(id);
    forget_peak(id);
    let long = |len: usize| "x".repeat(len);
    for (request, wanted) in [
        (format!("GET /{} HTTP/1.1\r\nHost: x\r\n\r\n", long(3_000)), &[404, 414][..]),
        (format!("GET /{} HTTP/1.1\r\nHost: x\r\n\r\n", long(16_384)), &[414]),
        (format!("GET /{} HTTP/1.1\r\nHost: x\r\n\r\n", long(40_000)), &[414, 431]),
        (format!("GET /{} HTTP/1.1\r\nHost: x\r\n\r\n", long(300_000)), &[414, 431]),
        (format!("GET / HTTP/1.1\r\nHost: x\r\nX: {}\r\n\r\n", long(40_000)), &[431]),
        (format!("GET / HTTP/1.1\r\nHost: x\r\nX: {}", long(1_000_000)), &[431]),
        (format!("GET / HTTP/1.1\r\nHost: x\r\n{}", "X: y\r\n".repeat(200_000)), &[431]),
        (format!("GET / HTTP/1.1\r\nHost: {}\r\n\r\n", long(500)), &[400]),
        (format!("{} / HTTP/1.1\r\nHost: x\r\n\r\n", long(200_000)), &[400, 431, 501]),
        (long(1_000_000), &[400, 431]),
        (
            format!(
                "PUT /a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1;{}",
                long(1_000_000)
            ),
            &[400, 502],
        ),
        (
            format!(
                "PUT /a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nx: {}",
                long(1_000_000)
            ),
            &[400, 502],
        ),
    ] {
        let mut visitor = Visitor::connect(proxy.http);
        // What is answered before its end may be reset behind the answer.
        let _ = visitor.try_send(request.as_bytes());
        if let Ok(head) = visitor.try_head("GET") {
            assert!(wanted.contains(&head.status), "{request:.60}: {head:?}");
        } else {
            assert!(request.len() > 200_000, "{request:.60}");
        }
    }
    // Many who never finish their heads, and many who read nothing of what they asked for.
    let mut slow: Vec<_> = (0..200).map(|_| Visitor::connect(proxy.http)).collect();
    for visitor in &mut slow {
        visitor.send(b"GET /small HTTP/1.1\r\nHost: x\r\nX: ");
    }
    let mut greedy: Vec<_> = (0..50).map(|_| Visitor::connect(proxy.http)).collect();
    for visitor in &mut greedy {
        let pipeline = "GET /small HTTP/1.1\r\nHost: x\r\n\r\n".repeat(2_000);
        // It goes as far as buffers do.
        visitor.send_what_fits(pipeline.as_bytes());
    }
    let asked = Instant::now();
    assert_eq!(Request::get("/small").send(proxy.http).unwrap().text(), "small");
    assert!(asked.elapsed() < Duration::from_secs(5), "{:?}", asked.elapsed());
    let grown = memory_peak(id).saturating_sub(idle);
    println!("the proxy grew by at most {} KiB", grown >> 10);
    assert!(grown < GROWTH, "{grown}");
    drop((slow, greedy));
    wait_until("they are forgotten", || Debug::of(proxy.http).total("connections_now") == 1);
    assert_sound(proxy.program());
    assert_sound(agent.program());
}

#[test]
fn slow_loris_is_cut_though_it_never_stops() {
    let proxy = ScaledProxy::start(|settings| settings.timings.head = Duration::from_millis(400));
    let mut loris: Vec<_> = (0..50).map(|_| Visitor::connect(proxy.http)).collect();
    for visitor in &mut loris {
        visitor.send(b"GET / HTTP/1.1\r\n");
    }
    let begun = Instant::now();
    while Debug::of(proxy.http).total("connections_now") > 1 {
        assert!(begun.elapsed() < Duration::from_secs(5), "they are still there");
        for visitor in &mut loris {
            let _ = visitor.try_send(b"x");
        }
        thread::sleep(Duration::from_millis(20));
    }
    assert!(begun.elapsed() >= Duration::from_millis(300), "{:?}", begun.elapsed());
}
