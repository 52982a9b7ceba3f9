//! Services that are not there, say nothing, or break off.

use std::{
    net::{TcpListener, TcpStream},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use spdy_tests::{
    fixture::{PATIENCE, Pair, TempRoot, wait_until},
    http::{Request, Response},
    visitor::{End, Visitor},
};

use crate::Forwarded;

#[test]
fn a_service_that_is_not_there_is_502_at_once() {
    // A port on which nobody listens, as long as this is held.
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let flags = [
        format!("--forward=/refused=http://{closed}"),
        "--forward=/unknown=http://nowhere.invalid".to_owned(),
    ];
    let root = TempRoot::new();
    let pair = Pair::with(root.path(), &[], &flags.each_ref().map(String::as_str));
    for (name, cause, text) in [
        ("refused", "connection_refused", "The service does not take connections.\n"),
        ("unknown", "dns_error", "The service was not found.\n"),
    ] {
        let target = format!("/{name}/secret/path?signature=1");
        let answer = Request::get(&target).send(pair.proxy.http).unwrap();
        assert_eq!((answer.status, answer.text().as_str()), (502, text), "{name}");
        assert_eq!(answer.headers["proxy-status"], format!("spdy-agent; error={cause}"));
        assert_eq!(answer.headers["content-type"], "text/plain; charset=utf-8");
        let head = Request { method: "HEAD", ..Request::get(&target) };
        let head = head.send(pair.proxy.http).unwrap();
        assert_eq!((head.status, head.len), (502, 0), "{name}");
        let line = pair.agent.program().wait_for("the failure", |line| {
            let start = format!("event=forward_failed forward=/{name} status=502 reason=");
            line.contains(&start).then(|| line.to_owned())
        });
        assert!(line.contains(" ms=") && line.contains(" request="), "{line}");
        assert!(!line.contains("signature") && !line.contains("secret"), "{line}");
    }
}

#[test]
fn a_service_that_says_nothing_is_504_by_the_agent() {
    let forwarded = Forwarded::start(",wait=1", |call| call.wait_gone());
    let begun = Instant::now();
    let answer = forwarded.get("/x/?q=secret");
    assert_eq!(
        (answer.status, answer.text().as_str()),
        (504, "The service did not answer in time.\n")
    );
    assert_eq!(answer.headers["proxy-status"], "spdy-agent; error=http_response_timeout");
    let took = begun.elapsed();
    assert!(took >= Duration::from_secs(1) && took < Duration::from_secs(10), "{took:?}");
    forwarded.failed(&["status=504 ", "reason=\"no answer in time\""]);
    // The service's connection is closed.
    forwarded.service.wait_idle();
    // One that takes nothing of a request that does not fit the kernel says nothing either.
    let forwarded = Forwarded::start(",wait=1", |_| thread::sleep(Duration::from_secs(3)));
    let mut visitor = Visitor::connect(forwarded.pair.proxy.http);
    visitor.send("PUT /x/ HTTP/1.1\r\nHost: h\r\nContent-Length: 100000000\r\n\r\n");
    visitor.send_what_fits(&vec![7; 20 << 20]);
    let mut socket = visitor.socket();
    let sending = thread::spawn(move || std::io::Write::write_all(&mut socket, &vec![7; 80 << 20]));
    assert_eq!(visitor.try_head("PUT").unwrap().status, 504);
    drop(visitor);
    // Ends one way or the other: nobody reads it.
    let _ = sending.join().unwrap();
}

#[test]
fn a_slow_upload_is_not_the_services_fault() {
    let forwarded = Forwarded::start(",wait=1", |call| {
        let (len, _) = call.body().unwrap();
        call.answer(len.to_string());
    });
    let mut visitor = Visitor::connect(forwarded.pair.proxy.http);
    visitor.send("PUT /x/ HTTP/1.1\r\nHost: h\r\nContent-Length: 6\r\n\r\nabc");
    thread::sleep(Duration::from_millis(2_500));
    visitor.send("def");
    let answer = Response::read(&mut visitor, "PUT").unwrap();
    assert_eq!((answer.status, answer.text().as_str()), (200, "6"));
}

#[test]
fn a_service_that_does_not_accept_is_504() {
    let (root, backlog) = (TempRoot::new(), 0);
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&std::net::SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    socket.listen(backlog).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    // The one place in its queue.
    let _taken = TcpStream::connect(address).unwrap();
    let flag = format!("--forward=/x=http://{address},wait=1");
    let pair = Pair::with(root.path(), &[], &[&flag]);
    let answer = Request::get("/x/").send(pair.proxy.http).unwrap();
    assert_eq!(answer.status, 504);
    assert_eq!(answer.headers["proxy-status"], "spdy-agent; error=connection_timeout");
}

#[test]
fn nonsense_is_502() {
    let forwarded = Forwarded::start("", |call| {
        let rest = call.asked.target[1..].to_owned();
        call.send(match rest.as_str() {
            "nothing" => String::new(),
            "text" => "220 ftp ready\r\n\r\n".to_owned(),
            "half" => "HTTP/1.1 200 OK\r\nContent-Le".to_owned(),
            "lengths" => {
                "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\na".to_owned()
            }
            "coding" => "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n".to_owned(),
            "switch" => "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n".to_owned(),
            "endless" => format!("HTTP/1.1 200 OK\r\n{}", "a: b\r\n".repeat(20_000)),
            _ => "HTTP/1.1 102 Processing\r\n\r\n".repeat(100),
        });
    });
    for name in ["nothing", "text", "half", "lengths", "coding", "switch", "endless", "interim"] {
        let answer = forwarded.get(&format!("/x/{name}"));
        assert_eq!(answer.status, 502, "{name}");
        assert!(answer.headers["proxy-status"].starts_with("spdy-agent; "), "{name}");
    }
}

#[test]
fn a_length_that_is_none_is_502_also_where_no_body_follows() {
    let forwarded = Forwarded::start("", |call| {
        call.send(match &call.asked.target[1..] {
            "two" => "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\n",
            "text" => "HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
            "unchanged" => "HTTP/1.1 304 Not Modified\r\nContent-Length: x\r\n\r\n",
            _ => "HTTP/1.1 204 No Content\r\nContent-Length: x\r\n\r\n",
        });
    });
    for (method, name) in
        [("HEAD", "two"), ("HEAD", "text"), ("GET", "unchanged"), ("GET", "empty"), ("GET", "text")]
    {
        let target = format!("/x/{name}");
        let request = Request { method, ..Request::get(&target) };
        let answer = request.send(forwarded.pair.proxy.http).unwrap();
        assert_eq!(answer.status, 502, "{method} {name}");
        forwarded.failed(&["status=502 ", "its length is none"]);
    }
}

#[test]
fn a_body_that_breaks_never_looks_whole() {
    let forwarded = Forwarded::start("", |call| {
        let target = call.asked.target.clone();
        call.send(match &target[..4] {
            "/len" => "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello",
            "/chu" => "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
            "/mid" => "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nhello",
            "/bad" => {
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello!\r\n0\r\n\r\n"
            }
            "/nil" => "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n\r\n",
            _ => "HTTP/1.1 200 OK\r\n\r\nhello",
        });
        if target.ends_with("reset") {
            call.reset();
        }
    });
    let names = ["length", "length-reset", "chunked", "chunked-reset", "middle", "bad", "nil"];
    for name in names.into_iter().chain(["open-reset"]) {
        let mut visitor = forwarded.visit(&format!("/x/{name}"));
        // A reset may overtake the head within the agent's machine.
        if let Ok(head) = visitor.try_head("GET") {
            if head.status == 502 {
                assert!(name.ends_with("reset"), "{name}");
                continue;
            }
            assert_ne!(visitor.finish().end, End::Whole, "{name}");
        }
        forwarded.failed(&["status=200 "]);
    }
}

/// The socket tells the upload of the reset, and reads end behind it as if the answer were whole.
#[test]
fn a_reset_that_the_upload_meets_cuts_the_answer() {
    let (reset, wait) = mpsc::channel();
    let wait = std::sync::Mutex::new(wait);
    let forwarded = Forwarded::start("", move |call| {
        call.send("HTTP/1.1 200 OK\r\n\r\nhello");
        wait.lock().unwrap().recv().unwrap();
        call.reset();
    });
    let mut visitor = Visitor::connect(forwarded.pair.proxy.http);
    visitor.send("PUT /x/ HTTP/1.1\r\nHost: h\r\nContent-Length: 100000000\r\n\r\n");
    // The agent waits until the service takes more.
    visitor.send_what_fits(&vec![7; 50 << 20]);
    assert_eq!(visitor.head().status, 200);
    reset.send(()).unwrap();
    assert_ne!(visitor.finish().end, End::Whole);
    forwarded.failed(&["status=200 ", "connection broke"]);
}

#[test]
fn an_upload_that_breaks_never_looks_whole() {
    let (seen, has_seen) = mpsc::channel();
    let forwarded = Forwarded::start("", move |call| {
        seen.send(call.body().map_err(|error| error.kind())).unwrap();
    });
    for (framing, number) in [
        ("Content-Length: 9\r\n\r\nhello", 1),
        ("Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n", 2),
    ] {
        let mut visitor = Visitor::connect(forwarded.pair.proxy.http);
        visitor.send(format!("PUT /x/ HTTP/1.1\r\nHost: h\r\n{framing}"));
        wait_until("the service is asked", || forwarded.service.asked().len() == number);
        drop(visitor);
        assert!(has_seen.recv_timeout(PATIENCE).unwrap().is_err(), "{framing}");
    }
}

#[test]
fn post_whose_answer_breaks_off_is_carried_out_once_and_its_status_is_seen() {
    const TIMES: usize = 1_000;
    let forwarded = Forwarded::start("", |call| {
        let _ = call.body();
        // The break follows the head as closely as it can.
        let kind = match call.asked.target.as_str() {
            "/chunked" => "Transfer-Encoding: chunked\r\n\r\n5\r\nhel",
            "/some" => "Content-Length: 100\r\n\r\nhello",
            _ => "Content-Length: 100\r\n\r\n",
        };
        call.send(format!("HTTP/1.1 200 OK\r\n{kind}"));
    });
    let mut seen = std::collections::BTreeMap::new();
    for (at, path) in ["none", "some", "chunked"].into_iter().cycle().take(TIMES).enumerate() {
        let mut visitor = Visitor::connect(forwarded.pair.proxy.http);
        visitor
            .send(format!("POST /x/{path} HTTP/1.1\r\nHost: nas1\r\nContent-Length: 3\r\n\r\nabc"));
        let head = visitor.try_head("POST").unwrap_or_else(|error| panic!("{at} {path}: {error}"));
        // Where the reset overtakes the head inside the agent, the client is told of that.
        assert!(matches!(head.status, 200 | 502), "{at} {path}: {}", head.status);
        if head.status == 200 {
            assert_ne!(visitor.finish().end, End::Whole, "{at} {path}");
        }
        *seen.entry(head.status).or_insert(0) += 1;
    }
    println!("{seen:?}");
    assert_eq!(forwarded.service.asked().len(), TIMES);
}
