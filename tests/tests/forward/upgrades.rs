//! Connections that change their protocol, WebSocket above all.

use std::{io::Write as _, net::Shutdown, process::Command, thread};

use spdy_tests::{
    fixture::{Pair, Program, Random, Sha256, TempRoot, finished, wait_until},
    http::{Request, Response},
    local::Call,
    observe::Debug,
    peers::script,
    visitor::Visitor,
};

use crate::Forwarded;

/// Says everything again, and `bye` when the visitor has ended.
fn echo(call: &mut Call) {
    if call.asked.all("upgrade") != ["echo"] {
        return call.answer("ordinary");
    }
    call.send("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: Echo\r\nX-Key: 1\r\n\r\n");
    // Behind the head at once.
    call.send("hello");
    loop {
        let octets = call.some().unwrap();
        if octets.is_empty() {
            break;
        }
        call.send(octets);
    }
    call.send("bye");
}

fn upgrade(forwarded: &Forwarded, name: &str) -> Visitor {
    let mut visitor = Visitor::connect(forwarded.pair.proxy.http);
    let head = "Host: nas1\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n";
    visitor.send(format!("GET /x/{name} HTTP/1.1\r\n{head}"));
    visitor
}

#[test]
fn an_upgrade_joins_visitor_and_service_to_both_ends() {
    const LEN: usize = 3_000_000;
    let forwarded = Forwarded::start("", echo);
    let mut visitor = upgrade(&forwarded, "chat");
    let head = visitor.head();
    assert_eq!((head.status, head.header("x-key")), (101, Some("1")));
    assert_eq!(head.header("upgrade"), Some("echo"));
    let asked = forwarded.service.last();
    assert_eq!((asked.all("connection"), asked.all("upgrade")), (vec!["upgrade"], vec!["echo"]));
    let content = Random::octets(LEN, 8);
    let (mut writer, sent) = (visitor.socket(), content.clone());
    let writing = thread::spawn(move || {
        writer.write_all(&sent).unwrap();
        // The other direction stays open.
        writer.shutdown(Shutdown::Write).unwrap();
    });
    let back = visitor.rest().0;
    writing.join().unwrap();
    assert_eq!((&back[..5], &back[back.len() - 3..]), (&b"hello"[..], &b"bye"[..]));
    assert_eq!((back.len(), Sha256::of(&back[5..LEN + 5])), (LEN + 8, Sha256::of(&content)));
    wait_until("no stream is left", || {
        Debug::of(forwarded.pair.proxy.http).total("streams_now") == 0
    });
}

#[test]
fn the_service_may_end_first_and_either_may_vanish() {
    let forwarded = Forwarded::start("", |call| {
        call.send(
            "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n",
        );
        if call.asked.target == "/resets" {
            call.some().unwrap();
            return call.reset();
        }
        call.finish_sending();
        assert_eq!(call.some().unwrap(), b"still here");
        call.wait_gone();
    });
    let mut visitor = upgrade(&forwarded, "chat");
    assert_eq!(visitor.head().status, 101);
    assert!(visitor.rest().0.is_empty());
    // The service has ended its half; ours is open.
    visitor.send("still here");
    drop(visitor);
    forwarded.service.wait_idle();
    let mut visitor = upgrade(&forwarded, "resets");
    assert_eq!(visitor.head().status, 101);
    visitor.send("now");
    forwarded.failed(&["status=101 ", "reason="]);
    wait_until("no stream is left", || {
        Debug::of(forwarded.pair.proxy.http).total("streams_now") == 0
    });
}

#[test]
fn an_upgrade_that_is_declined_is_an_ordinary_answer() {
    let forwarded = Forwarded::start("", echo);
    let mut visitor = Visitor::connect(forwarded.pair.proxy.http);
    for protocol in ["chat", "h2c", "HTTP/2.0"] {
        let head =
            "Host: nas1\r\nConnection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAMAAABk\r\n";
        visitor.send(format!("GET /x/ HTTP/1.1\r\n{head}Upgrade: {protocol}\r\n\r\n"));
        let answer = Response::read(&mut visitor, "GET").unwrap();
        assert_eq!((answer.status, answer.text().as_str()), (200, "ordinary"), "{protocol}");
        // HTTP/2 to a service would open every path of it.
        let passed = forwarded.service.last().all("upgrade").len();
        assert_eq!(passed, usize::from(protocol == "chat"), "{protocol}");
    }
    // A share answers as ever.
    let head = "Host: nas1\r\nConnection: Upgrade\r\nUpgrade: echo\r\n";
    for _ in 0..2 {
        visitor.send(format!("GET /file.txt HTTP/1.1\r\n{head}\r\n"));
        assert_eq!(Response::read(&mut visitor, "GET").unwrap().text(), "a file");
    }
}

#[test]
fn open_connections_leave_room_for_requests_and_uploads() {
    let forwarded = Forwarded::start("", |call| {
        if call.asked.method == "PUT" {
            let (len, _) = call.body().unwrap();
            return call.answer(len.to_string());
        }
        echo(call);
    });
    let mut open: Vec<_> = (0..40).map(|_| upgrade(&forwarded, "chat")).collect();
    for visitor in &mut open {
        assert_eq!(visitor.head().status, 101);
    }
    let sent = Request::with_body("PUT", "/x/", b"abc").send(forwarded.pair.proxy.http);
    assert_eq!(sent.unwrap().text(), "3");
    for visitor in &mut open {
        visitor.send("x");
        visitor.finish_sending();
        assert_eq!(visitor.rest().0, b"helloxbye");
    }
}

#[test]
fn request_that_finds_all_places_taken_reaches_no_service() {
    const PLACES: usize = 64;
    let forwarded = Forwarded::start("", |call| {
        if call.asked.method == "POST" {
            let (len, _) = call.body().unwrap();
            return call.answer(len.to_string());
        }
        echo(call);
    });
    let mut open: Vec<_> = (0..PLACES).map(|_| upgrade(&forwarded, "chat")).collect();
    for visitor in &mut open {
        assert_eq!(visitor.head().status, 101);
    }
    for body in
        ["Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", "Content-Length: 3\r\n\r\nabc"]
    {
        let mut visitor = Visitor::connect(forwarded.pair.proxy.http);
        visitor.send(format!("POST /x/ HTTP/1.1\r\nHost: nas1\r\n{body}"));
        assert_eq!(Response::read(&mut visitor, "POST").unwrap().status, 503);
    }
    let asked = forwarded.service.asked();
    assert!(asked.iter().all(|asked| asked.method == "GET"), "{asked:?}");
}

/// Changes to `tcp` where it is asked to, says the length of the body and then everything again.
fn exec(call: &mut Call) {
    let is_early = call.asked.target.ends_with("early");
    let agrees = call.asked.all("upgrade") == ["tcp"] && !call.asked.target.ends_with("declined");
    let switch = "HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n";
    if agrees && is_early {
        // Before it has read any of the body.
        call.send(switch);
    }
    let (len, digest) = call.body().unwrap();
    if !agrees {
        return call.answer(format!("ordinary {len} {digest}"));
    }
    if !is_early {
        call.send(switch);
    }
    call.send(format!("{len} {digest}\n"));
    loop {
        let octets = call.some().unwrap();
        if octets.is_empty() {
            return call.send("bye");
        }
        call.send(octets);
    }
}

#[test]
fn upgrade_with_a_body_sends_the_body_first() {
    let forwarded = Forwarded::start("", exec);
    let json = b"{\"Detach\":false,\"Tty\":false}".to_vec();
    for (body, kind) in [(json, "json"), (Random::octets(300_000, 3), "large"), (vec![b'x'], "one")]
    {
        let said = format!("{} {}\n", body.len(), Sha256::of(&body));
        for path in ["start", "early"] {
            for expects in [false, true] {
                for split in [0, 1, body.len()] {
                    let what = format!("{kind} {path} {expects} {split}");
                    let expect = if expects { "Expect: 100-continue\r\n" } else { "" };
                    let head = format!(
                        "POST /x/{path} HTTP/1.1\r\nHost: nas1\r\nConnection: Upgrade\r\n\
                         Upgrade: tcp\r\n{expect}Content-Length: {}\r\n\r\n",
                        body.len()
                    );
                    let mut visitor = Visitor::connect(forwarded.pair.proxy.http);
                    if expects {
                        visitor.send(&head);
                        assert_eq!(visitor.head().status, 100, "{what}");
                        visitor.send(&body[..split]);
                    } else {
                        visitor.send([head.as_bytes(), &body[..split]].concat());
                    }
                    // The other protocol may follow in the same packet.
                    visitor.send([&body[split..], b"early"].concat());
                    let head = visitor.head();
                    assert_eq!((head.status, head.header("upgrade")), (101, Some("tcp")), "{what}");
                    visitor.send(" and late");
                    visitor.finish_sending();
                    let rest = String::from_utf8(visitor.rest().0).unwrap();
                    assert_eq!(rest, format!("{said}early and latebye"), "{what}");
                }
            }
        }
        let asked = forwarded.service.last();
        assert_eq!(asked.all("content-length"), [body.len().to_string()]);
        assert_eq!((asked.all("connection"), asked.all("upgrade")), (vec!["upgrade"], vec!["tcp"]));
    }
    wait_until("no stream is left", || {
        Debug::of(forwarded.pair.proxy.http).total("streams_now") == 0
    });
}

#[test]
fn upgrade_with_a_body_that_is_declined_is_an_ordinary_request_with_its_body() {
    let forwarded = Forwarded::start("", exec);
    let mut visitor = Visitor::connect(forwarded.pair.proxy.http);
    let ordinary = format!("ordinary 3 {}", Sha256::of(b"abc"));
    let length = "Content-Length: 3\r\n\r\nabc";
    let chunked = "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n";
    for (method, path, protocol, body, is_asked) in [
        ("POST", "declined", "tcp", length, true),
        // What the agent does not pass on, or cannot tell the end of, is not asked for.
        ("POST", "start", "h2c", length, false),
        ("POST", "start", "HTTP/2.0", length, false),
        ("POST", "start", "tcp", chunked, false),
        ("PUT", "start", "tcp", length, false),
    ] {
        for _ in 0..2 {
            let head = format!("{method} /x/{path} HTTP/1.1\r\nHost: nas1\r\n");
            visitor.send(format!("{head}Connection: Upgrade\r\nUpgrade: {protocol}\r\n{body}"));
            let answer = Response::read(&mut visitor, "POST").unwrap();
            assert_eq!((answer.status, answer.text()), (200, ordinary.clone()), "{protocol}");
            let asked = forwarded.service.last();
            assert_eq!(!asked.all("upgrade").is_empty(), is_asked, "{method} {protocol}");
        }
    }
}

#[test]
fn upload_of_a_form_that_asks_for_an_upgrade_is_answered() {
    let root = TempRoot::new();
    let pair =
        Pair::with(root.path(), &[], &["--allow-write", "--forward", "/x=http://127.0.0.1:9"]);
    let body = "--b\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a.txt\"\r\n\r\n\
        content\r\n--b--\r\n";
    let mut visitor = Visitor::connect(pair.proxy.http);
    visitor.send(format!(
        "POST / HTTP/1.1\r\nHost: nas1\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\
         Content-Type: multipart/form-data; boundary=b\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    ));
    let answer = Response::read(&mut visitor, "POST").unwrap();
    assert_ne!(answer.status, 504, "{}", answer.text());
}

#[test]
fn websocket_programs_talk_through_both_ends() {
    // Debian's, which has the library, whatever else is installed.
    let mut command = Command::new("/usr/bin/python3");
    let server = Program::start("server", command.arg(script("websocket/server.py")));
    let port =
        server.wait_for("its port", |line| line.strip_prefix("listening ").map(str::to_owned));
    let root = TempRoot::new();
    let flag = format!("--forward=/x=http://127.0.0.1:{port}/base");
    let pair = Pair::with(root.path(), &[], &[&flag]);
    let url = format!("ws://{}/x/talk?a=b", pair.proxy.http);
    let mut command = Command::new("/usr/bin/python3");
    let said = finished(command.arg(script("websocket/client.py")).arg(url), "");
    let lines: Vec<_> = said.lines().collect();
    let greeting = Sha256::of("gr\u{fc}\u{df} dich".as_bytes());
    let wanted = [
        "subprotocol talk",
        "path /base/talk?a=b",
        &greeting,
        "echoed",
        "close 1000",
        "rejected 403",
    ];
    assert_eq!(lines, wanted);
    server.wait_for("the close", |line| (line == "closed 1000").then_some(()));
}
