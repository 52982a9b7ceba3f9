//! Requests that an agent or the proxy refuses: what is repeated, and how their connections end.

mod support;

use std::{
    io::Write as _,
    sync::atomic::Ordering::Relaxed,
    time::{Duration, Instant},
};

use support::{Proxy, agent::Agent, pattern, wait_until};

/// Asks until the next request is one that the agent refuses.
fn until_refused(proxy: &Proxy, agent: &Agent) {
    wait_until("the count is even", || {
        let _ = proxy.get("/ping");
        agent.seen.requests.load(Relaxed).is_multiple_of(2)
    });
}

#[test]
fn a_request_that_was_refused_is_repeated_once() {
    let proxy = Proxy::start();
    let agent = Agent::start(&proxy, "nas1");
    until_refused(&proxy, &agent);
    assert_eq!(proxy.get("/refuse-first").status(), 204);
}

#[test]
fn refused_body_is_repeated_whole_while_all_of_it_is_kept() {
    const KEPT: usize = 64 << 10;
    let proxy = Proxy::start();
    let agent = Agent::start(&proxy, "nas1");
    for (size, status) in
        [(0, 200), (1, 200), (40_000, 200), (KEPT, 200), (KEPT + 1, 503), (1_000_000, 503)]
    {
        for is_chunked in [false, true] {
            for first in [0, 1.min(size), size / 2, size] {
                until_refused(&proxy, &agent);
                let body = pattern(size);
                let mut visitor = proxy.visit();
                // The agent refuses once it has all, or as much as goes out without its credit.
                let most = size.min(KEPT);
                let kind = match is_chunked {
                    true => "Transfer-Encoding: chunked".to_owned(),
                    false => format!("Content-Length: {size}"),
                };
                let head = format!("PUT /refuse-late/{most} HTTP/1.1\r\nHost: nas1\r\n{kind}");
                visitor.send(&format!("{head}\r\n\r\n"));
                for part in [&body[..first], &body[first..]] {
                    if is_chunked && !part.is_empty() {
                        visitor.send(&format!("{:x}\r\n", part.len()));
                    }
                    // It may be refused before all of it was sent.
                    let _ = visitor.stream.write_all(part);
                    if is_chunked && !part.is_empty() {
                        let _ = visitor.stream.write_all(b"\r\n");
                    }
                }
                if is_chunked {
                    let _ = visitor.stream.write_all(b"0\r\n\r\n");
                }
                let answer = visitor.answer();
                let what = format!("{size} bytes, chunked: {is_chunked}, first {first}");
                // A body of one piece may be too much before the agent has seen any of it.
                assert_eq!(answer.status(), status, "{what}");
                if status == 200 {
                    assert!(answer.body == body, "{what}");
                } else {
                    assert_eq!(answer.header("retry-after"), ["1"], "{what}");
                }
            }
        }
    }
}

#[test]
fn refused_body_is_not_repeated_when_nothing_may_be_kept() {
    let proxy = Proxy::with(|settings| settings.bounds.replay = 0);
    let agent = Agent::start(&proxy, "nas1");
    let put = |body: &str| {
        let mut visitor = proxy.visit();
        let len = body.len();
        visitor.send(&format!(
            "PUT /refuse-late/{len} HTTP/1.1\r\nHost: nas1\r\nContent-Length: {len}\r\n\r\n{body}"
        ));
        visitor.answer().status()
    };
    until_refused(&proxy, &agent);
    assert_eq!(put("abc"), 503);
    until_refused(&proxy, &agent);
    assert_eq!(put(""), 200);
}

#[test]
fn request_that_may_have_been_carried_out_is_not_repeated() {
    let proxy = Proxy::start();
    let agent = Agent::start(&proxy, "nas1");
    until_refused(&proxy, &agent);
    let before = agent.seen.requests.load(Relaxed);
    let mut visitor = proxy.visit();
    visitor.send("PUT /lose-late/3 HTTP/1.1\r\nHost: nas1\r\nContent-Length: 3\r\n\r\nabc");
    assert_eq!(visitor.answer().status(), 502);
    assert_eq!(agent.seen.requests.load(Relaxed), before + 1);
    let mut visitor = proxy.visit();
    visitor.send("PUT /silent HTTP/1.1\r\nHost: nas1\r\nContent-Length: 3\r\n\r\nabc");
    wait_until("the agent has it", || agent.seen.requests.load(Relaxed) == before + 2);
    drop(agent);
    assert_eq!(visitor.answer().status(), 502);
}

#[test]
fn connection_behind_a_refusal_lingers_within_its_limits() {
    let limits = [Duration::from_millis(1_500), Duration::from_millis(300)];
    let proxy = Proxy::with(|settings| {
        settings.timings.hold = Duration::ZERO;
        [settings.timings.linger, settings.timings.linger_silence] = limits;
    });
    let refused = || {
        let mut visitor = proxy.visit();
        visitor.send("PUT /x HTTP/1.1\r\nHost: nas1\r\nContent-Length: 999999999999\r\n\r\n");
        assert_eq!(visitor.answer().status(), 503);
        visitor
    };
    // How long bytes are taken that come with this pause.
    let taken = |piece: &[u8], pause: Duration| {
        let mut visitor = refused();
        let begun = Instant::now();
        while visitor.stream.write_all(piece).is_ok() {
            std::thread::sleep(pause);
        }
        begun.elapsed()
    };
    let silent = taken(b"x", limits[1] * 2);
    assert!(silent < limits[0], "{silent:?}");
    for piece in [&b"x"[..], &[0; 65_536]] {
        let busy = taken(piece, Duration::from_millis(5));
        assert!(busy >= limits[0] && busy < limits[0] * 4, "{busy:?}");
    }
    // One that sends as fast as it can keeps nobody else waiting.
    let mut fast = refused();
    let flood = std::thread::spawn(move || while fast.stream.write_all(&[0; 1 << 20]).is_ok() {});
    for _ in 0..20 {
        assert_eq!(proxy.get("/ping").status(), 503);
    }
    flood.join().unwrap();
}
