//! Bodies, there and back, at the pace of the slower side.

use std::{
    sync::{Mutex, mpsc},
    thread,
    time::Duration,
};

use spdy_tests::{
    fixture::{PATIENCE, Random, Sha256, wait_until},
    http::{Request, Response},
    observe::{descriptors, forget_peak, memory_peak},
    visitor::{End, Visitor},
};

use crate::Forwarded;

#[test]
fn answers_of_every_framing_arrive_whole() {
    let forwarded = Forwarded::start("", |call| {
        let ok = "HTTP/1.1 200 OK\r\n";
        match call.asked.target.as_str() {
            "/length" => {
                call.send(format!("{ok}Content-Length: 5\r\n\r\nhello, and more than that"))
            }
            "/closed" => call.send(format!("{ok}\r\nhello")),
            "/old" => call.send(
                "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 5\r\n\r\nhello",
            ),
            "/chunked" => {
                let head = format!("{ok}Transfer-Encoding: chunked\r\nTrailer: Sum\r\n\r\n");
                // Octet by octet, so that nothing is ever whole.
                for octet in
                    format!("{head}1;a=b\r\nh\r\n004\r\nello\r\n0\r\nSum: 1\r\n\r\n").bytes()
                {
                    call.send([octet]);
                }
            }
            "/interim" => call.send(format!(
                "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n\
                 {ok}Content-Length: 5\r\n\r\nhello"
            )),
            "/nothing" => call.send("HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n"),
            "/known" => {
                call.send("HTTP/1.1 304 Not Modified\r\nETag: \"a\"\r\nContent-Length: 5\r\n\r\n")
            }
            "/empty" => call.send(format!("{ok}Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n")),
            _ => call.send(format!("{ok}Content-Length: 0\r\n\r\n")),
        }
    });
    // Some over one connection of the visitor, so that an end that is not one would be seen.
    let mut visitor = Visitor::connect(forwarded.pair.proxy.http);
    let mut ask = |method: &str, target: &str| {
        visitor.send(format!("{method} {target} HTTP/1.1\r\nHost: nas1\r\n\r\n"));
        Response::read(&mut visitor, method).unwrap()
    };
    for name in ["length", "closed", "old", "chunked", "interim"] {
        let answer = ask("GET", &format!("/x/{name}"));
        assert_eq!((answer.status, answer.text().as_str()), (200, "hello"), "{name}");
        let length = ["length", "old", "interim"].contains(&name).then_some("5");
        assert_eq!(answer.all("content-length").first().copied(), length, "{name}");
        for header in ["trailer", "sum", "link"] {
            assert!(answer.all(header).is_empty(), "{name} {header}");
        }
    }
    let head = ask("HEAD", "/x/length");
    assert_eq!((head.status, head.len, head.all("content-length")), (200, 0, vec!["5"]));
    assert_eq!(forwarded.service.last().method, "HEAD");
    let nothing = ask("GET", "/x/nothing");
    assert_eq!((nothing.status, nothing.all("content-length").len()), (204, 0));
    assert_eq!((ask("GET", "/x/known").status, ask("GET", "/x/known").len), (304, 0));
    for name in ["empty", "zero"] {
        let answer = ask("GET", &format!("/x/{name}"));
        assert_eq!((answer.status, answer.len), (200, 0), "{name}");
    }
}

#[test]
fn large_bodies_are_the_same_at_both_ends() {
    const LEN: usize = 24 << 20;
    static CONTENT: Mutex<Vec<u8>> = Mutex::new(Vec::new());
    let content = Random::octets(LEN, 5);
    *CONTENT.lock().unwrap() = content.clone();
    let forwarded = Forwarded::start("", |call| {
        let content = CONTENT.lock().unwrap().clone();
        match call.asked.target.as_str() {
            "/length" => call.answer(&content),
            "/chunked" => {
                call.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
                // Chunks of many sizes, from one octet to a megabyte.
                let (mut at, mut size) = (0, 1);
                while at < content.len() {
                    let piece = &content[at..content.len().min(at + size)];
                    call.send(format!("{:X}\r\n", piece.len()));
                    call.send(piece);
                    call.send("\r\n");
                    (at, size) = (at + size, if size > 1 << 20 { 1 } else { size * 3 });
                }
                call.send("0\r\n\r\n");
            }
            "/closed" => {
                call.send("HTTP/1.1 200 OK\r\n\r\n");
                call.send(&content);
            }
            _ => {
                let (len, sha256) = call.body().unwrap();
                call.answer(format!("{len} {sha256}"));
            }
        }
    });
    for name in ["length", "chunked", "closed"] {
        let answer = forwarded.get(&format!("/x/{name}"));
        assert_eq!((answer.len, answer.sha256), (LEN as u64, Sha256::of(&content)), "{name}");
    }
    let wanted = format!("{LEN} {}", Sha256::of(&content));
    let sent = Request::with_body("POST", "/x/up", &content).send(forwarded.pair.proxy.http);
    assert_eq!(sent.unwrap().text(), wanted);
    assert_eq!(forwarded.service.last().all("content-length"), [LEN.to_string()]);
    // The same without a length.
    let mut visitor = Visitor::connect(forwarded.pair.proxy.http);
    visitor.send("PUT /x/up HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n");
    for piece in content.chunks(100_000) {
        visitor.send(format!("{:x}\r\n", piece.len()));
        visitor.send(piece);
        visitor.send("\r\n");
    }
    visitor.send("0\r\n\r\n");
    assert_eq!(Response::read(&mut visitor, "PUT").unwrap().text(), wanted);
    assert_eq!(forwarded.service.last().all("transfer-encoding"), ["chunked"]);
}

#[test]
fn answer_goes_back_while_the_request_still_comes() {
    let forwarded = Forwarded::start("", |call| {
        call.send("HTTP/1.1 200 OK\r\nContent-Length: 30\r\n\r\n");
        for _ in 0..3 {
            let mut octets = Vec::new();
            while octets.len() < 10 {
                octets.extend(call.some().unwrap());
            }
            call.send(octets);
        }
    });
    let mut visitor = Visitor::connect(forwarded.pair.proxy.http);
    visitor.send("POST /x/ HTTP/1.1\r\nHost: h\r\nContent-Length: 30\r\n\r\n");
    visitor.head();
    for round in 1..=3 {
        visitor.send("0123456789");
        visitor.read(10 * round);
    }
    assert_eq!(visitor.finish().start, b"012345678901234567890123456789");
}

#[test]
fn an_early_answer_ends_the_upload() {
    let (gone, is_gone) = mpsc::channel();
    let forwarded = Forwarded::start("", move |call| {
        call.send("HTTP/1.1 413 Content Too Large\r\nContent-Length: 4\r\n\r\nbig\n");
        call.wait_gone();
        gone.send(()).unwrap();
    });
    let mut visitor = Visitor::connect(forwarded.pair.proxy.http);
    visitor.send("PUT /x/ HTTP/1.1\r\nHost: h\r\nContent-Length: 1000000000\r\n\r\n");
    visitor.send(vec![7; 100_000]);
    let answer = Response::read(&mut visitor, "PUT").unwrap();
    assert_eq!((answer.status, answer.text().as_str()), (413, "big\n"));
    is_gone.recv_timeout(Duration::from_secs(10)).unwrap();
}

#[test]
fn an_answer_behind_which_the_service_closes_is_not_lost() {
    let forwarded = Forwarded::start("", |call| {
        call.send("HTTP/1.1 403 Forbidden\r\nContent-Length: 3\r\n\r\nno\n");
        // Closed with the request unread: the kernel sends RST.
    });
    for _ in 0..10 {
        let body = vec![7; 1_000_000];
        let sent = Request::with_body("POST", "/x/", &body).send(forwarded.pair.proxy.http);
        // The proxy closes, too, with our body unread; then even we may not see the answer.
        if let Ok(answer) = sent {
            assert_eq!((answer.status, answer.text().as_str()), (403, "no\n"));
        }
    }
    assert_eq!(forwarded.get("/x/").status, 403);
}

#[test]
fn slow_visitor_stops_the_service_and_leaving_ends_it() {
    let (stalled, has_stalled) = mpsc::channel();
    let forwarded = Forwarded::start("", move |call| {
        call.send("HTTP/1.1 200 OK\r\n\r\n");
        stalled.send(call.send_until_stalled(Duration::from_secs(1))).unwrap();
        // The rest ends by an error, when nobody is there any more.
        stalled.send(call.send_until_stalled(Duration::from_secs(20))).unwrap();
    });
    let mut visitor = forwarded.visit("/x/");
    visitor.head();
    visitor.read(100_000);
    let (sent, is_stalled) = has_stalled.recv_timeout(PATIENCE).unwrap();
    // 6 MiB of window, and what kernels hold on three connections.
    assert!(is_stalled && sent > 100_000 && sent < 32 << 20, "{sent}");
    drop(visitor);
    let (_, is_stalled) = has_stalled.recv_timeout(Duration::from_secs(15)).unwrap();
    assert!(!is_stalled, "the service still waits");
}

#[test]
fn slow_service_stops_the_visitor() {
    let (go, may_go) = mpsc::channel::<()>();
    let may_go = Mutex::new(may_go);
    let forwarded = Forwarded::start("", move |call| {
        may_go.lock().unwrap().recv().unwrap();
        let (len, _) = call.body().unwrap();
        call.answer(len.to_string());
    });
    const LEN: usize = 64 << 20;
    let agent = forwarded.pair.agent.program().id();
    forget_peak(agent);
    let before = memory_peak(agent);
    let mut visitor = Visitor::connect(forwarded.pair.proxy.http);
    visitor.send(format!("PUT /x/ HTTP/1.1\r\nHost: h\r\nContent-Length: {LEN}\r\n\r\n"));
    let (mut socket, body) = (visitor.socket(), vec![7; LEN]);
    socket.set_write_timeout(Some(Duration::from_secs(1))).unwrap();
    let mut sent = 0;
    // Until nothing moves for a second.
    while let Ok(len) = std::io::Write::write(&mut socket, &body[sent..]) {
        sent += len;
    }
    assert!(sent > 0 && sent < 32 << 20, "{sent}");
    let grown = memory_peak(agent).saturating_sub(before);
    assert!(grown < 1 << 20, "{grown}");
    go.send(()).unwrap();
    visitor.send(&body[sent..]);
    assert_eq!(Response::read(&mut visitor, "PUT").unwrap().text(), LEN.to_string());
}

#[test]
fn events_arrive_one_by_one() {
    let (next, is_next) = mpsc::channel::<usize>();
    let is_next = Mutex::new(is_next);
    let forwarded = Forwarded::start(",wait=1", move |call| {
        let chunked = call.asked.target == "/chunked";
        let coding = if chunked { "Transfer-Encoding: chunked\r\n" } else { "" };
        call.send(format!("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n{coding}\r\n"));
        let is_next = is_next.lock().unwrap();
        while let Ok(number @ 1..) = is_next.recv() {
            let event = format!("data: {number}\n\n");
            if chunked {
                call.send(format!("{:x}\r\n{event}\r\n", event.len()));
            } else {
                call.send(event);
            }
        }
        call.send(if chunked { "0\r\n\r\n" } else { "" });
    });
    for name in ["chunked", "closed"] {
        let mut visitor = forwarded.visit(&format!("/x/{name}"));
        assert_eq!(visitor.head().header("content-type"), Some("text/event-stream"));
        for number in 1..=5 {
            if number == 3 {
                // Longer than the wait for an answer: behind its head there is no limit.
                thread::sleep(Duration::from_millis(1_500));
            }
            next.send(number).unwrap();
            visitor.read(9 * number as u64);
        }
        next.send(0).unwrap();
        let body = visitor.finish();
        assert_eq!((body.end, body.len), (End::Whole, 45), "{name}");
    }
}

#[test]
fn visitors_who_leave_cost_nothing() {
    let forwarded = Forwarded::start("", |call| {
        if call.asked.method == "PUT" {
            return call.wait_gone();
        }
        call.send("HTTP/1.1 200 OK\r\n\r\n");
        let (_, is_stalled) = call.send_until_stalled(Duration::from_secs(20));
        assert!(!is_stalled, "nobody said that the visitor has gone");
    });
    let round = || {
        let mut visitor = forwarded.visit("/x/endless");
        visitor.head();
        visitor.read(50_000);
        drop(visitor);
        let mut visitor = Visitor::connect(forwarded.pair.proxy.http);
        visitor.send("PUT /x/ HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\n\r\nabc");
        drop(visitor);
    };
    round();
    forwarded.service.wait_idle();
    let agent = forwarded.pair.agent.program().id();
    let before = descriptors(agent);
    for _ in 0..50 {
        round();
    }
    // The service sees every one of them leave.
    forwarded.service.wait_idle();
    wait_until("all descriptors are closed", || descriptors(agent) <= before);
}

#[test]
fn many_slow_visitors_fit_the_agents_memory() {
    let (stalled, has_stalled) = mpsc::channel();
    let forwarded = Forwarded::start("", move |call| {
        let chunked = call.asked.target == "/chunked";
        call.send("HTTP/1.1 200 OK\r\n");
        call.send(if chunked {
            "Transfer-Encoding: chunked\r\n\r\nfffffffffff\r\n"
        } else {
            "\r\n"
        });
        stalled.send(call.send_until_stalled(Duration::from_secs(1)).0).unwrap();
        call.wait_gone();
    });
    let agent = forwarded.pair.agent.program().id();
    let before = memory_peak(agent);
    let mut visitors: Vec<_> = (0..64)
        .map(|n| forwarded.visit(if n % 2 == 0 { "/x/chunked" } else { "/x/closed" }))
        .collect();
    for visitor in &mut visitors {
        visitor.head();
        visitor.read(1_000);
    }
    for _ in 0..64 {
        assert!(has_stalled.recv_timeout(PATIENCE).unwrap() > 10_000);
    }
    let grown = memory_peak(agent).saturating_sub(before);
    println!("64 services that wait for their visitors: agent {} KiB", grown >> 10);
    assert!(grown < 2 << 20, "{grown}");
}

/// The service answers first, without a length, and reads the body then; the answer ends with it.
#[test]
fn an_early_answer_does_not_stop_the_upload() {
    for is_chunked in [false, true] {
        let (done, is_done) = mpsc::channel();
        let forwarded = Forwarded::start("", move |call| {
            call.send("HTTP/1.1 200 OK\r\n\r\nearly");
            done.send(call.body().map(|(len, _)| len)).unwrap();
        });
        let body = vec![7; 300_000];
        let (framing, body) = if is_chunked {
            let chunks = [b"493e0\r\n", &body[..], b"\r\n0\r\n\r\n"].concat();
            ("Transfer-Encoding: chunked", chunks)
        } else {
            ("Content-Length: 300000", body)
        };
        let mut visitor = Visitor::connect(forwarded.pair.proxy.http);
        visitor.send(format!("PUT /x/ HTTP/1.1\r\nHost: h\r\n{framing}\r\n\r\n"));
        visitor.send(body);
        let len = is_done.recv_timeout(PATIENCE);
        assert!(matches!(len, Ok(Ok(300_000))), "{framing:?}: {len:?}");
        assert_eq!(visitor.head().status, 200, "{framing}");
        assert_eq!(visitor.finish().end, End::Whole, "{framing}");
    }
}

/// The rest of the request comes behind the answer's head, in pieces.
#[test]
fn an_upload_goes_on_behind_an_early_answer() {
    let cases = [200, 404, 500].map(|status| [(status, "keep-alive"), (status, "close")]);
    for (status, connection) in cases.concat() {
        let (done, is_done) = mpsc::channel();
        let forwarded = Forwarded::start("", move |call| {
            call.send(format!("HTTP/1.1 {status} X\r\n\r\nearly"));
            done.send(call.body().map(|(len, _)| len)).unwrap();
        });
        let mut visitor = Visitor::connect(forwarded.pair.proxy.http);
        visitor.send(format!(
            "PUT /x/ HTTP/1.1\r\nHost: h\r\nConnection: {connection}\r\n\
             Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n"
        ));
        assert_eq!(visitor.head().status, status, "{connection}");
        visitor.read(5);
        for _ in 0..3 {
            thread::sleep(Duration::from_millis(10));
            visitor.send("1\r\na\r\n");
        }
        visitor.send("0\r\n\r\n");
        let len = is_done.recv_timeout(Duration::from_secs(5));
        assert!(matches!(len, Ok(Ok(4))), "{status} {connection}: {len:?}");
        assert_eq!(visitor.finish().end, End::Whole, "{connection}");
    }
}
