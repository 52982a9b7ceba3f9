//! Agents that answer a visitor's request as they must not.

use spdy_tests::wire::Frame;

use crate::attacks::{
    Act,
    After::{self, Ends, GoAway, Lives},
    Sees::{self, Cut, Error, Status},
    bomb, control, data, frame, octets, ok, opened, reply,
};

/// How an agent answers a visitor's request (stream `id`), what its visitor sees, and what becomes
/// of the tunnel.
pub const AGENTS: &[(&str, Act, Sees, After)] = &[
    ("reset", |s, id| frame(s, &Frame::RstStream(id, 6)), Error, Lives),
    ("reset with status 0", |s, id| frame(s, &Frame::RstStream(id, 0)), Error, Lives),
    ("reset with no known status", |s, id| frame(s, &Frame::RstStream(id, u32::MAX)), Error, Lives),
    (
        "refusal, and again",
        |s, id| {
            frame(s, &Frame::RstStream(id, 3));
            let next = s.wait_for(opened).unwrap();
            frame(s, &Frame::RstStream(next, 3));
        },
        Error,
        Lives,
    ),
    ("DATA before the reply", |s, id| data(s, id, b"early", false), Error, Lives),
    (
        "HEADERS before the reply",
        |s, id| {
            let _ = s.writer.write_block(&[("x", b"y")], |block| Frame::Headers {
                id,
                fin: false,
                block,
            });
        },
        Error,
        Lives,
    ),
    (
        "second reply",
        |s, id| {
            ok(s, id, &[]);
            ok(s, id, &[]);
        },
        Cut,
        Lives,
    ),
    (
        "DATA after FIN",
        |s, id| {
            ok(s, id, &[("content-length", b"2")]);
            data(s, id, b"ok", true);
            data(s, id, b"more", true);
        },
        Status(200),
        Lives,
    ),
    (
        "less than announced",
        |s, id| {
            ok(s, id, &[("content-length", b"10")]);
            data(s, id, b"short", true);
        },
        Cut,
        Lives,
    ),
    (
        "more than announced",
        |s, id| {
            ok(s, id, &[("content-length", b"2")]);
            data(s, id, b"too much of it", true);
        },
        Cut,
        Lives,
    ),
    ("two lengths", |s, id| ok(s, id, &[("content-length", b"2\x003")]), Error, Lives),
    ("a length that is none", |s, id| ok(s, id, &[("content-length", b"-1")]), Error, Lives),
    (
        "endless length",
        |s, id| {
            ok(s, id, &[("content-length", b"99999999999999999999999")]);
        },
        Error,
        Lives,
    ),
    ("no status", |s, id| reply(s, id, &[(":version", b"HTTP/1.1")]), Error, Lives),
    (
        "status of letters",
        |s, id| {
            reply(s, id, &[(":status", b"OK"), (":version", b"HTTP/1.1")]);
        },
        Error,
        Lives,
    ),
    (
        "status 99",
        |s, id| {
            reply(s, id, &[(":status", b"99"), (":version", b"HTTP/1.1")]);
        },
        Error,
        Lives,
    ),
    (
        "status 1000",
        |s, id| {
            reply(s, id, &[(":status", b"1000"), (":version", b"HTTP/1.1")]);
        },
        Error,
        Lives,
    ),
    (
        "status 100",
        |s, id| {
            reply(s, id, &[(":status", b"100"), (":version", b"HTTP/1.1")]);
        },
        Error,
        Lives,
    ),
    (
        "status 101 that nobody asked for",
        |s, id| {
            reply(s, id, &[(":status", b"101"), (":version", b"HTTP/1.1")]);
        },
        Error,
        Lives,
    ),
    ("upper case name", |s, id| ok(s, id, &[("X-Upper", b"1")]), Error, Lives),
    ("empty name", |s, id| ok(s, id, &[("", b"1")]), Error, Lives),
    ("name twice", |s, id| ok(s, id, &[("x", b"1"), ("x", b"2")]), Error, Lives),
    ("name with a blank", |s, id| ok(s, id, &[("x y", b"1")]), Error, Lives),
    (
        "response splitting",
        |s, id| {
            ok(s, id, &[("x", b"1\r\nset-cookie: stolen\r\n\r\nbody")]);
        },
        Error,
        Lives,
    ),
    ("value with a line feed", |s, id| ok(s, id, &[("x", b"1\nx: 2")]), Error, Lives),
    ("value that begins with NUL", |s, id| ok(s, id, &[("x", b"\x00a")]), Error, Lives),
    (
        "129 headers",
        |s, id| {
            let names: Vec<_> = (0..129).map(|n| format!("x-{n}")).collect();
            let pairs: Vec<_> = names.iter().map(|name| (name.as_str(), &b"1"[..])).collect();
            ok(s, id, &pairs);
        },
        Error,
        Lives,
    ),
    ("value of 40 KB", |s, id| ok(s, id, &[("x", &[b'x'; 40_000])]), Error, Lives),
    ("name of 300 octets", |s, id| ok(s, id, &[(&"x".repeat(300), b"1")]), Error, Lives),
    (
        "hop-by-hop headers",
        |s, id| {
            ok(
                s,
                id,
                &[
                    ("transfer-encoding", b"chunked"),
                    ("connection", b"x-secret"),
                    ("x-secret", b"1"),
                    ("keep-alive", b"1"),
                    ("content-length", b"2"),
                ],
            );
            data(s, id, b"ok", true);
        },
        Status(200),
        Lives,
    ),
    (
        "body behind 204",
        |s, id| {
            reply(s, id, &[(":status", b"204"), (":version", b"HTTP/1.1")]);
            data(s, id, b"HTTP/1.1 200 OK\r\n\r\n", true);
        },
        Status(204),
        Lives,
    ),
    (
        "a header bomb",
        |s, id| {
            bomb(s, 32 << 20, |block| Frame::SynReply { id, fin: false, block });
        },
        Error,
        Lives,
    ),
    (
        "many header bombs",
        |s, id| {
            for _ in 0..17 {
                bomb(s, 256 << 10, |block| Frame::Headers { id, fin: false, block });
            }
        },
        Error,
        Ends,
    ),
    (
        "trailers without end",
        |s, id| {
            ok(s, id, &[]);
            let value = [b'x'; 30_000];
            for _ in 0..3_000 {
                let pairs: [(&str, &[u8]); 1] = [("x", &value)];
                let built = |block| Frame::Headers { id, fin: false, block };
                if s.writer.write_block(&pairs, built).is_err() {
                    return;
                }
            }
        },
        Cut,
        Ends,
    ),
    (
        "a push",
        |s, id| {
            let pairs: [(&str, &[u8]); 3] =
                [(":scheme", b"http"), (":host", b"x"), (":path", b"/")];
            let built = |block| Frame::SynStream {
                id: 2,
                associated: id,
                priority: 0,
                fin: false,
                unidirectional: true,
                block,
            };
            s.writer.write_block(&pairs, built).unwrap();
            let refused = |frame: &Frame| matches!(frame, Frame::RstStream(2, _)).then_some(());
            s.wait_for(refused).unwrap();
            ok(s, id, &[("content-length", b"2")]);
            data(s, id, b"ok", true);
        },
        Status(200),
        Lives,
    ),
    (
        "stream of the wrong parity",
        |s, _| {
            let built = |block| Frame::SynStream {
                id: 7,
                associated: 0,
                priority: 0,
                fin: true,
                unidirectional: false,
                block,
            };
            let _ = s.writer.write_block(&[(":path", b"/")], built);
        },
        Error,
        GoAway,
    ),
    (
        "stream window overflow",
        |s, id| {
            frame(s, &Frame::WindowUpdate(id, 0x7fff_ffff));
        },
        Error,
        Lives,
    ),
    (
        "overrun of the stream's window",
        |s, id| {
            ok(s, id, &[]);
            // The visitor's side takes what it can; nobody gives that much credit.
            for _ in 0..1_000 {
                data(s, id, &[0; 16_384], false);
            }
        },
        Cut,
        Lives,
    ),
    ("GOAWAY in place of an answer", |s, _| frame(s, &Frame::GoAway(0, 0)), Error, Ends),
    (
        "GOAWAY, then an answer",
        |s, id| {
            frame(s, &Frame::GoAway(0, 0));
            ok(s, id, &[("content-length", b"2")]);
            data(s, id, b"ok", true);
        },
        Error,
        Ends,
    ),
    (
        "reply of another version",
        |s, id| {
            let mut block = Vec::new();
            let keep = |made: Vec<u8>| {
                block = made;
                Frame::Ping(2)
            };
            s.writer.write_block(&[(":status", b"200")], keep).unwrap();
            control(s, 2, 2, 0, &[&id.to_be_bytes()[..], &block].concat());
            frame(s, &Frame::RstStream(id, 4));
        },
        Error,
        Lives,
    ),
    (
        "half a frame, then the end",
        |s, id| {
            octets(s, &[0x80, 3, 0, 2, 0, 0, 1, 0]);
            octets(s, &id.to_be_bytes());
            s.octets.shutdown();
        },
        Error,
        Ends,
    ),
];
