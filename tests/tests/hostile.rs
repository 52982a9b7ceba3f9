//! Peers and visitors that do what they must not: the programs neither die nor hang, keep within
//! their memory and go on serving everybody else.
//!
//! The programs are those that are run, with real TLS; the other end is written by hand.
#![expect(clippy::unwrap_used, reason = "a test that panics has failed, with its line")]

mod scaled;

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    thread,
    time::{Duration, Instant},
};

use scaled::ScaledProxy;
use spdy_tests::{
    fixture::{Agent, PATIENCE, Program, Proxy, Random, TempRoot, wait_until},
    http::{Request, wait_for_agent},
    observe::{Debug, descriptors, forget_peak, memory, memory_peak},
    raw::{Name, RawProxy, RawSession},
    visitor::{End, Visitor},
    wire::{Frame, tls::dial},
};

/// What a program may need beyond what it had when idle, whatever one peer does: the windows of a
/// tunnel (16 MiB) and as much again for frames, header blocks, TLS and what the allocator keeps.
const GROWTH: u64 = 32 << 20;

/// What becomes of a session that was attacked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum After {
    /// It has ended; if anything was said, then GOAWAY with PROTOCOL_ERROR.
    Ends,
    /// The same, by GOAWAY for certain.
    GoAway,
    /// It goes on.
    Lives,
}

/// What the visitor sees whose request the attack answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sees {
    /// An answer of the proxy's own: 502, or 503 where the request may be repeated.
    Error,
    /// A body that does not look whole, or an error in place of the head.
    Cut,
    /// A whole answer with this status.
    Status(u16),
}

type Act = fn(&mut RawSession, u32);

use After::{Ends, GoAway, Lives};
use Sees::{Cut, Error, Status};

fn frame(session: &RawSession, frame: &Frame) {
    // The other end may have closed already; what follows finds out.
    let _ = session.writer.write(frame);
}

fn octets(session: &RawSession, octets: &[u8]) {
    let _ = session.octets.write(octets);
}

/// A control frame of any type, length and content.
fn control(session: &RawSession, version: u8, kind: u8, flags: u8, payload: &[u8]) {
    let len = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let head = [0x80, version, 0, kind, flags, len[1], len[2], len[3]];
    octets(session, &[&head, payload].concat());
}

/// The same frame so often, in large writes.
fn flood(session: &RawSession, frame: &Frame, times: usize) {
    let one = frame.encode();
    let many = one.repeat((16_384 / one.len()).max(1));
    let mut left = times * one.len();
    while left > 0 {
        let len = many.len().min(left);
        if session.octets.write(&many[..len]).is_err() {
            return;
        }
        left -= len;
    }
}

fn reply(session: &RawSession, id: u32, pairs: &[(&str, &[u8])]) {
    let _ = session.writer.write_block(pairs, |block| Frame::SynReply { id, fin: false, block });
}

/// A reply as it should be, with more headers.
fn ok(session: &RawSession, id: u32, more: &[(&str, &[u8])]) {
    let mut pairs: Vec<(&str, &[u8])> = vec![(":status", b"200 OK"), (":version", b"HTTP/1.1")];
    pairs.extend(more);
    reply(session, id, &pairs);
}

fn data(session: &RawSession, id: u32, octets: &[u8], fin: bool) {
    frame(session, &Frame::Data { id, fin, octets: octets.to_vec() });
}

/// A header block of about 32 KB that inflates to 32 MiB.
fn bomb(session: &RawSession, build: impl Fn(Vec<u8>) -> Frame) {
    let zeros = vec![0; 32 << 20];
    let _ = session.writer.write_block(&[(":status", b"200"), ("x", &zeros)], build);
}

/// What either role does to the other, whatever runs: a name, the frames, what becomes of it. `id`
/// is a stream that the other end knows, or would.
const ANYBODY: &[(&str, Act, After)] = &[
    ("control frame above the limit", |s, _| octets(s, &[0x80, 3, 0, 2, 0, 1, 0, 1, 0]), GoAway),
    ("largest length", |s, _| octets(s, &[0x80, 3, 0, 8, 0, 255, 255, 255]), GoAway),
    ("short RST_STREAM", |s, _| control(s, 3, 3, 0, &[0; 4]), GoAway),
    ("long PING", |s, _| control(s, 3, 6, 0, &[0; 8]), GoAway),
    ("empty GOAWAY", |s, _| control(s, 3, 7, 0, &[]), GoAway),
    ("short WINDOW_UPDATE", |s, _| control(s, 3, 9, 0, &[0; 7]), GoAway),
    ("empty SYN_REPLY", |s, _| control(s, 3, 2, 0, &[]), GoAway),
    ("empty SYN_STREAM", |s, _| control(s, 3, 1, 0, &[0; 9]), GoAway),
    ("empty HEADERS", |s, _| control(s, 3, 8, 0, &[0; 3]), GoAway),
    (
        "SETTINGS of another count",
        |s, _| control(s, 3, 4, 0, &[0, 0, 0, 2, 0, 0, 0, 4, 0, 0, 0, 1]),
        GoAway,
    ),
    ("SETTINGS of 2^32-1 entries", |s, _| control(s, 3, 4, 0, &[255; 12]), GoAway),
    (
        "header block that does not inflate",
        |s, id| {
            frame(s, &Frame::SynReply { id, fin: false, block: vec![0x55; 100] });
        },
        GoAway,
    ),
    (
        "header block with another dictionary",
        |s, id| {
            frame(s, &Frame::Headers { id, fin: false, block: vec![0x78, 0xbb, 1, 2, 3, 4, 5, 6] });
        },
        GoAway,
    ),
    (
        "session window overflow",
        |s, _| {
            for _ in 0..3 {
                frame(s, &Frame::WindowUpdate(0, 0x7fff_ffff));
            }
        },
        GoAway,
    ),
    (
        "flood of PING",
        |s, _| {
            // One of them is the other end's to answer.
            flood(s, &Frame::Ping(5), 20_000);
            flood(s, &Frame::Ping(6), 20_000);
        },
        Ends,
    ),
    (
        "flood of SETTINGS",
        |s, _| {
            flood(s, &Frame::Settings(vec![(4, 100), (7, 65_536)]), 20_000);
        },
        Ends,
    ),
    (
        "flood of window changes",
        |s, _| {
            for size in [0, 0x7fff_ffff].into_iter().cycle().take(5_000) {
                frame(s, &Frame::Settings(vec![(7, size)]));
            }
        },
        Ends,
    ),
    ("flood of credit of 1", |s, id| flood(s, &Frame::WindowUpdate(id, 1), 20_000), Ends),
    (
        "flood of empty DATA",
        |s, id| {
            flood(s, &Frame::Data { id, fin: false, octets: Vec::new() }, 20_000);
        },
        Ends,
    ),
    ("flood of unknown types", |s, _| flood(s, &Frame::Other(0x77, vec![0; 8]), 20_000), Ends),
    ("flood of RST_STREAM", |s, _| flood(s, &Frame::RstStream(99_999, 5), 20_000), Ends),
    (
        "flood of DATA for nobody",
        |s, _| {
            for id in (0..4_000).map(|n| 100_001 + 2 * n) {
                frame(s, &Frame::Data { id, fin: false, octets: vec![0; 100] });
            }
        },
        Ends,
    ),
    (
        "flood of other versions",
        |s, _| {
            for _ in 0..5_000 {
                control(s, 2, 6, 0, &[0, 0, 0, 2]);
            }
        },
        Ends,
    ),
    ("credit of 0", |s, id| frame(s, &Frame::WindowUpdate(id, 0)), Lives),
    ("credit for nobody", |s, _| frame(s, &Frame::WindowUpdate(77_777, 5)), Lives),
    ("RST_STREAM for nobody", |s, _| frame(s, &Frame::RstStream(77_777, 1)), Lives),
    ("RST_STREAM for stream 0", |s, _| frame(s, &Frame::RstStream(0, 1)), Lives),
    ("SYN_REPLY for nobody", |s, _| ok(s, 77_777, &[]), Lives),
    ("PING that nobody sent", |s, _| frame(s, &Frame::Ping(0)), Lives),
    ("CREDENTIAL", |s, _| frame(s, &Frame::Other(10, vec![1; 40])), Lives),
    ("NOOP", |s, _| frame(s, &Frame::Other(5, Vec::new())), Lives),
    (
        "huge frame of an unknown type",
        |s, _| {
            let len = 0x00ff_ffff;
            octets(s, &[0x80, 3, 0x70, 0, 0, 255, 255, 255]);
            for piece in [0; 65_536].chunks(65_536).cycle().take(255) {
                octets(s, piece);
            }
            octets(s, &vec![0; len - 255 * 65_536]);
        },
        Lives,
    ),
    (
        "SETTINGS with every number",
        |s, _| {
            let all = (0..256).map(|id| (id, u32::MAX)).chain([(4, 100)]);
            frame(
                s,
                &Frame::Settings(all.filter(|entry| entry.0 != 4 || entry.1 == 100).collect()),
            );
        },
        Lives,
    ),
];

/// How an agent answers a visitor's request (stream `id`), what its visitor sees, and what becomes
/// of the tunnel.
const AGENTS: &[(&str, Act, Sees, After)] = &[
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
            bomb(s, |block| Frame::SynReply { id, fin: false, block });
        },
        Error,
        Lives,
    ),
    (
        "many header bombs",
        |s, id| {
            for _ in 0..17 {
                bomb(s, |block| Frame::Headers { id, fin: false, block });
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
        Ends,
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

/// What a proxy does to an agent. `id` is a stream that nobody has opened yet.
const PROXIES: &[(&str, Act, After)] = &[
    ("stream 0", |s, _| open(s, 0, true, &whole("/small")), GoAway),
    ("stream of the wrong parity", |s, _| open(s, 2, true, &whole("/small")), GoAway),
    (
        "streams in falling order",
        |s, _| {
            open(s, 9, true, &whole("/small"));
            open(s, 5, true, &whole("/small"));
        },
        GoAway,
    ),
    (
        "stream that is open",
        |s, id| {
            open(s, id, false, &whole("/new"));
            open(s, id, true, &whole("/small"));
            s.wait_for(|frame| matches!(frame, Frame::RstStream(..)).then_some(())).unwrap();
        },
        Lives,
    ),
    (
        "request without path",
        |s, id| {
            let pairs: Vec<_> =
                whole("/small").into_iter().filter(|pair| pair.0 != ":path").collect();
            open(s, id, true, &pairs);
            replied(s, id);
        },
        Lives,
    ),
    (
        "request without anything",
        |s, id| {
            open(s, id, true, &[]);
            replied(s, id);
        },
        Lives,
    ),
    (
        "paths that are none",
        |s, id| {
            let paths: [&[u8]; 8] = [
                b"",
                b"small",
                b"/../../etc/passwd",
                b"/%2e%2e/%2e%2e/etc/passwd",
                b"/a\x00b",
                b"/\r\nx: y",
                b"//etc/passwd",
                b"*",
            ];
            for (path, id) in paths.into_iter().zip((id..).step_by(2)) {
                let mut pairs = whole("/");
                pairs.retain(|pair| pair.0 != ":path");
                pairs.push((":path", path));
                open(s, id, true, &pairs);
                let said = s.wait_for(|frame| match frame {
                    Frame::SynReply { .. } | Frame::RstStream(..) => Some(frame.clone()),
                    _ => None,
                });
                assert!(said.is_ok(), "{path:?}");
            }
        },
        Lives,
    ),
    (
        "header bomb",
        |s, id| {
            bomb(s, |block| Frame::SynStream {
                id,
                associated: 0,
                priority: 0,
                fin: true,
                unidirectional: false,
                block,
            });
            let refused = |frame: &Frame| matches!(frame, Frame::RstStream(..)).then_some(());
            s.wait_for(refused).unwrap();
        },
        Lives,
    ),
    (
        "many header bombs",
        |s, id| {
            for id in (id..).step_by(2).take(17) {
                bomb(s, |block| Frame::SynStream {
                    id,
                    associated: 0,
                    priority: 0,
                    fin: true,
                    unidirectional: false,
                    block,
                });
            }
        },
        Ends,
    ),
    (
        "more uploads than are taken",
        |s, id| {
            for id in (id..).step_by(2).take(40) {
                open(s, id, false, &put(&format!("/upload-{id}")));
            }
            // 16 wait for their bodies, the others were refused.
            for _ in 0..24 {
                let refused = |frame: &Frame| matches!(frame, Frame::RstStream(_, 3)).then_some(());
                s.wait_for(refused).unwrap();
            }
        },
        Lives,
    ),
    (
        "upload beyond its window",
        |s, id| {
            open(s, id, false, &put("/flood"));
            for _ in 0..64 {
                data(s, id, &[0; 16_384], false);
            }
            s.wait_for(|frame| matches!(frame, Frame::RstStream(..)).then_some(())).unwrap();
        },
        Lives,
    ),
    (
        "upload beyond the session's window",
        |s, id| {
            open(s, id, false, &put("/flood"));
            for _ in 0..1_400 {
                data(s, id, &[0; 16_384], false);
            }
        },
        Lives,
    ),
    (
        "rapid reset",
        |s, id| {
            for id in (id..).step_by(2).take(10_000) {
                open(s, id, true, &whole("/small"));
                frame(s, &Frame::RstStream(id, 5));
            }
        },
        Ends,
    ),
    (
        "more streams than are taken",
        |s, id| {
            frame(s, &Frame::Settings(vec![(7, 0)]));
            for id in (id..).step_by(2).take(400) {
                open(s, id, true, &whole("/large"));
            }
            let refused = |frame: &Frame| matches!(frame, Frame::RstStream(_, 3)).then_some(());
            for _ in 0..400 - 128 {
                s.wait_for(refused).unwrap();
            }
        },
        Lives,
    ),
    (
        "no window, then credit in drops",
        |s, id| {
            frame(s, &Frame::Settings(vec![(7, 0)]));
            open(s, id, true, &whole("/large"));
            for _ in 0..20 {
                frame(s, &Frame::WindowUpdate(id, 1));
            }
            let mut received = 0;
            while received < 20 {
                received += s
                    .wait_for(|frame| match frame {
                        Frame::Data { octets, .. } => Some(octets.len()),
                        _ => None,
                    })
                    .unwrap();
            }
            assert_eq!(received, 20);
        },
        Lives,
    ),
    (
        "replies and answers for nobody",
        |s, id| {
            ok(s, id, &[]);
            ok(s, 2, &[]);
            data(s, id, b"x", true);
            frame(s, &Frame::Headers { id: 0, fin: false, block: Vec::new() });
        },
        Ends,
    ),
    (
        "downloads that nobody takes",
        |s, id| {
            frame(s, &Frame::Settings(vec![(7, 0x7fff_ffff)]));
            frame(s, &Frame::WindowUpdate(0, 0x7000_0000));
            for id in (id..).step_by(2).take(100) {
                open(s, id, true, &whole("/large"));
            }
            // Nothing is read for a while: the agent can only wait.
            thread::sleep(Duration::from_millis(500));
            for id in (id..).step_by(2).take(100) {
                frame(s, &Frame::RstStream(id, 5));
            }
        },
        Lives,
    ),
    (
        "unidirectional stream",
        |s, id| {
            let built = |block| Frame::SynStream {
                id,
                associated: 0,
                priority: 0,
                fin: true,
                unidirectional: true,
                block,
            };
            s.writer.write_block(&whole("/small"), built).unwrap();
            s.wait_for(|frame| matches!(frame, Frame::RstStream(..)).then_some(())).unwrap();
        },
        Lives,
    ),
    (
        "half a frame, then the end",
        |s, _| {
            octets(s, &[0x80, 3, 0, 1, 1, 0, 1, 0, 0, 0]);
            s.octets.shutdown();
        },
        Ends,
    ),
];

fn opened(frame: &Frame) -> Option<u32> {
    match frame {
        Frame::SynStream { id, .. } => Some(*id),
        _ => None,
    }
}

fn open(session: &RawSession, id: u32, fin: bool, pairs: &[(&str, &[u8])]) {
    let _ = session.writer.write_block(pairs, |block| Frame::SynStream {
        id,
        associated: 0,
        priority: 3,
        fin,
        unidirectional: false,
        block,
    });
}

fn whole(path: &str) -> Vec<(&'static str, &[u8])> {
    vec![
        (":method", b"GET"),
        (":path", path.as_bytes()),
        (":version", b"HTTP/1.1"),
        (":host", b"nas1"),
        (":scheme", b"http"),
    ]
}

fn put(path: &str) -> Vec<(&'static str, &[u8])> {
    let mut pairs = whole(path);
    pairs[0].1 = b"PUT";
    pairs
}

/// Waits until a stream was answered, well or not.
fn replied(session: &mut RawSession, wanted: u32) {
    let answer = session.wait_for(|frame| match frame {
        Frame::SynReply { id, .. } | Frame::RstStream(id, _) if *id == wanted => Some(()),
        _ => None,
    });
    answer.unwrap();
}

/// Looks at a session after an attack; `ping` is an id of our own parity.
fn look(name: &str, session: &mut RawSession, after: After, ping: u32) {
    if after == Lives {
        assert!(session.is_alive(ping), "{name}: the session has ended");
        return;
    }
    let frames = session.ends();
    let said = frames.iter().rev().find_map(|frame| match frame {
        Frame::GoAway(_, status) => Some(*status),
        _ => None,
    });
    if after == GoAway {
        assert_eq!(said, Some(1), "{name}: {frames:?}");
    }
}

fn assert_sound(program: &Program) {
    let text = program.text();
    assert!(!text.contains("panicked") && !text.contains("overflow"), "{text}");
}

/// Nothing that is left over from attacks is held.
fn assert_settled(http: SocketAddr) {
    wait_until("the proxy holds nothing", || {
        let debug = Debug::of(http);
        debug.total("streams_now") == 0
            && debug.total("budget_bytes") == 0
            && debug.total("connections_now") == 1
            && debug.total("tasks") == 1 + debug.total("tunnels_now")
    });
}

#[test]
fn proxy_outlives_every_agent() {
    let proxy = Proxy::start(&["--allow-anonymous"]);
    let id = proxy.program().id();
    let (idle, open) = (memory(id), descriptors(id));
    forget_peak(id);
    for &(name, act, after) in ANYBODY {
        let mut session = RawSession::dial(proxy.tunnel, Name::Own).unwrap();
        let mut visitor = Visitor::get(proxy.http, "/x");
        let stream = session.wait_for(opened).unwrap();
        let begun = Instant::now();
        act(&mut session, stream);
        let acted = begun.elapsed();
        look(name, &mut session, after, 2);
        session.octets.shutdown();
        println!("TIMING {name} {acted:?} {:?}", begun.elapsed());
        let status = visitor.head().status;
        assert!(matches!(status, 502 | 503), "{name}: {status}");
        assert_eq!(visitor.finish().end, End::Whole);
    }
    for &(name, act, sees, after) in AGENTS {
        let mut session = RawSession::dial(proxy.tunnel, Name::Own).unwrap();
        let mut visitor = Visitor::get(proxy.http, "/x");
        let stream = session.wait_for(opened).unwrap();
        let seen = thread::spawn(move || {
            let head = visitor.try_head("GET");
            head.map(|head| (head, visitor.finish()))
        });
        let begun = Instant::now();
        act(&mut session, stream);
        let acted = begun.elapsed();
        look(name, &mut session, after, 2);
        session.octets.shutdown();
        println!("TIMING {name} {acted:?} {:?}", begun.elapsed());
        match (seen.join().unwrap(), sees) {
            (Ok((head, body)), Error) => {
                assert!(matches!(head.status, 502 | 503), "{name}: {head:?}");
                assert_eq!(body.end, End::Whole, "{name}");
            }
            (Ok((head, body)), Cut) if head.status == 200 => {
                assert_ne!(body.end, End::Whole, "{name}");
            }
            (Ok((head, _)), Cut) => assert_eq!(head.status, 502, "{name}"),
            (Err(_), Cut) => {}
            (Ok((head, body)), Status(status)) => {
                assert_eq!((head.status, body.end), (status, End::Whole), "{name}");
                for hidden in ["x-secret", "keep-alive", "set-cookie", "transfer-encoding"] {
                    assert_eq!(head.header(hidden), None, "{name}");
                }
            }
            (Err(error), sees) => panic!("{name}: {error} in place of {sees:?}"),
        }
        assert_sound(proxy.program());
    }
    assert_settled(proxy.http);
    let grown = memory_peak(id).saturating_sub(idle);
    println!("the proxy grew by at most {} KiB", grown >> 10);
    assert!(grown < GROWTH, "{grown}");
    wait_until("its sockets are closed", || descriptors(id) <= open + 1);

    let root = TempRoot::new();
    root.write("small", b"small");
    let _agent = Agent::serve(root.path(), proxy.tunnel);
    wait_for_agent(proxy.http);
    assert_eq!(Request::get("/small").send(proxy.http).unwrap().text(), "small");
    assert_sound(proxy.program());
}

#[test]
fn agent_outlives_every_proxy() {
    let root = TempRoot::new();
    root.write("small", b"small");
    root.random_file("large", 4 << 20, 5);
    let good = Proxy::start(&["--allow-anonymous"]);
    let attacks: Vec<_> = ANYBODY.iter().chain(PROXIES).copied().collect();
    let hostile: Vec<_> = attacks.iter().map(|_| RawProxy::new()).collect();
    // One tunnel to each: what one of them does must not be felt by the others.
    let mut args = vec!["-r".to_owned(), root.path().to_str().unwrap().to_owned()];
    args.extend(["--insecure", "--allow-write"].map(str::to_owned));
    for address in hostile.iter().map(|proxy| proxy.address).chain([good.tunnel]) {
        args.extend(["--proxy".to_owned(), address.to_string()]);
    }
    let agent = Agent::start(&args);
    let id = agent.program().id();
    let sessions: Vec<_> = hostile.iter().map(|proxy| proxy.session(Name::Own).unwrap()).collect();
    wait_for_agent(good.http);
    let idle = memory(id);
    forget_peak(id);
    for (&(name, act, after), mut session) in attacks.iter().zip(sessions) {
        let begun = Instant::now();
        act(&mut session, 1);
        let acted = begun.elapsed();
        look(name, &mut session, after, 1);
        println!("TIMING {name} {acted:?} {:?}", begun.elapsed());
        session.octets.shutdown();
        assert_sound(agent.program());
        let answer = Request::get("/small").send(good.http).unwrap();
        assert_eq!(answer.text(), "small", "{name}");
    }
    let grown = memory_peak(id).saturating_sub(idle);
    println!("the agent grew by at most {} KiB", grown >> 10);
    assert!(grown < GROWTH, "{grown}");
    let left = || {
        let entries = std::fs::read_dir(root.path()).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect::<Vec<_>>()
    };
    wait_until("broken uploads are gone", || left().len() == 2);
    assert_eq!(Debug::of(good.http).total("tunnels_now"), 1);
}

/// Streams of octets that may be anything: what comes out is not known, but that all goes on.
#[test]
fn noise_is_outlived_by_both() {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let root = TempRoot::new();
    root.write("small", b"small");
    let proxy = Proxy::start(&["--allow-anonymous"]);
    let rounds = 60;
    let hostile: Vec<_> = (0..rounds).map(|_| RawProxy::new()).collect();
    let mut args = vec!["-r".to_owned(), root.path().to_str().unwrap().to_owned()];
    args.push("--insecure".to_owned());
    for proxy in &hostile {
        args.extend(["--proxy".to_owned(), proxy.address.to_string()]);
    }
    let agent = Agent::start(&args);
    for (round, hostile) in hostile.iter().enumerate() {
        let noise = noise(&mut random);
        let session = hostile.session(Name::Own).unwrap();
        octets(&session, &noise);
        session.octets.shutdown();

        let name = if round % 2 == 0 { Name::Own } else { Name::None };
        let mut session = RawSession::dial(proxy.tunnel, name).unwrap();
        let mut visitor = Visitor::get(proxy.http, "/x");
        session.wait_for(opened).unwrap();
        octets(&session, &noise);
        session.octets.shutdown();
        let head = visitor.try_head("GET");
        if let Ok(head) = head {
            assert!(matches!(head.status, 502 | 503), "round {round} of seed {seed}");
            assert_eq!(visitor.finish().end, End::Whole);
        }
    }
    assert_sound(agent.program());
    assert_sound(proxy.program());
    assert_settled(proxy.http);
    let _good = Agent::serve(root.path(), proxy.tunnel);
    wait_for_agent(proxy.http);
    assert_eq!(Request::get("/small").send(proxy.http).unwrap().text(), "small");
}

/// Frames whose heads are sound now and then, so that noise gets behind the first check.
fn noise(random: &mut fastrand::Rng) -> Vec<u8> {
    let mut all = Vec::new();
    for _ in 0..random.usize(1..40) {
        let len = random.usize(0..200);
        let mut payload: Vec<u8> = (0..len).map(|_| random.u8(..)).collect();
        if random.bool() && len >= 4 {
            payload[..4].copy_from_slice(&random.u32(0..6).to_be_bytes());
        }
        let said = u32::try_from(len).unwrap() + if random.u8(..) < 16 { 1 } else { 0 };
        let said = said.to_be_bytes();
        let head = match random.u8(0..4) {
            0 => [0, 0, 0, random.u8(0..6), random.u8(0..4), said[1], said[2], said[3]],
            _ => [0x80, 3, 0, random.u8(0..12), random.u8(0..4), said[1], said[2], said[3]],
        };
        all.extend_from_slice(&head);
        all.extend_from_slice(&payload);
    }
    all
}

#[test]
fn agent_outlives_answers_that_are_none() {
    let root = TempRoot::new();
    root.write("small", b"small");
    let answers: Vec<Vec<u8>> = vec![
        Random::octets(20_000, 9),
        b"HTTP/1.1 200 Connection Established\r\nContent-Length: 99999999999\r\n\r\n".to_vec(),
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n".to_vec(),
        b"HTTP/1.1 100 Continue\r\n\r\n".to_vec(),
        b"HTTP/1.1 000 \r\n\r\n".to_vec(),
        b"SPDY/3.1 200 OK\r\n\r\n".to_vec(),
        [&b"HTTP/1.1 200 OK\r\nX: "[..], &[b'x'; 100_000]].concat(),
        [&b"HTTP/1.1 200 OK\r\n"[..], &b"X: y\r\n".repeat(10_000)].concat(),
        b"HTTP/1.1 200 OK\r\nSpdy-Tunnel: v=1, id=\"\x1b[2J\", can=(\r\n\r\n".to_vec(),
        b"HTTP/1.1 200 OK\r\nSpdy-Tunnel: v=99\r\nContent-Length: 0\r\n\r\n".to_vec(),
        b"HTTP/1.1 403 Refused\r\nContent-Length: 12\r\n\r\n\x1b[2Jlevel=x\n".to_vec(),
        b"HTTP/1.1 503 Refused\r\nRetry-After: 99999999999999999999\r\nContent-Length: 0\r\n\r\n"
            .to_vec(),
        Vec::new(),
    ];
    let hostile: Vec<_> = answers.iter().map(|_| RawProxy::new()).collect();
    let good = Proxy::start(&["--allow-anonymous"]);
    let mut args = vec!["-r".to_owned(), root.path().to_str().unwrap().to_owned()];
    args.extend(["--insecure".to_owned(), "-s".to_owned()]);
    for address in hostile.iter().map(|proxy| proxy.address).chain([good.tunnel]) {
        args.extend(["--proxy".to_owned(), address.to_string()]);
    }
    let agent = Agent::start(&args);
    for (answer, proxy) in answers.iter().zip(&hostile) {
        let (_, writer, put) = proxy.accept().unwrap();
        assert!(put.starts_with("PUT / HTTP/1.1\r\n") && !put.contains("Authorization"), "{put}");
        // It may have read enough before the end.
        let _ = writer.write(answer);
        writer.shutdown();
    }
    for proxy in &hostile {
        let told = format!("event=connect_failed proxy={}", proxy.address);
        agent.program().wait_for(&told, |line| line.contains(&told).then_some(()));
    }
    wait_for_agent(good.http);
    assert_eq!(Request::get("/small").send(good.http).unwrap().text(), "small");
    assert_sound(agent.program());
    assert!(!agent.program().text().contains('\u{1b}'), "escapes reach the terminal");
}

#[test]
fn what_is_no_handshake_costs_the_proxy_nothing() {
    let root = TempRoot::new();
    root.write("small", b"small");
    let proxy = Proxy::start(&["--allow-anonymous"]);
    let _agent = Agent::serve(root.path(), proxy.tunnel);
    wait_for_agent(proxy.http);
    let id = proxy.program().id();
    let (idle, open) = (memory(id), descriptors(id));
    forget_peak(id);
    // In place of TLS.
    for octets in [
        Random::octets(100_000, 11),
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(),
        vec![0x16, 3, 1, 0xff, 0xff, 1, 0, 0xff, 0xff],
        vec![0; 100_000],
        Vec::new(),
    ] {
        let mut socket = TcpStream::connect(proxy.tunnel).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let _ = socket.write_all(&octets);
        let _ = socket.shutdown(std::net::Shutdown::Write);
        // An alert, then the end; or a reset, where octets were left unread.
        let ended = socket.read_to_end(&mut Vec::new());
        assert!(ended.is_ok_and(|len| len < 100) || octets.len() > 50_000);
    }
    // In place of PUT.
    let endless = |line: &str| line.repeat(1_000_000 / line.len());
    for (put, status) in [
        (String::from_utf8_lossy(&Random::octets(1_000, 12)).into_owned() + "\r\n\r\n", "400"),
        ("GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_owned(), "400"),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned(), "400"),
        ("PUT / HTTP/1.1\r\nHost: x\r\nAuthorization: Magic x\r\n\r\n".to_owned(), "400"),
        ("PUT / HTTP/1.1\r\nContent-Length: 99999999999999\r\n\r\n".to_owned(), "431"),
        ("PUT / HTTP/1.1\r\nSpdy-Tunnel: v=2\r\n\r\n".to_owned(), "426"),
        ("PUT / HTTP/1.1\r\nSpdy-Tunnel: v=1, origin=\"A B\"\r\n\r\n".to_owned(), "400"),
        (format!("PUT / HTTP/1.1\r\n{}", endless("X: y\r\n")), "431"),
        (format!("PUT / HTTP/1.1\r\nX: {}", endless("x")), "431"),
        (format!("PUT /{}", endless("x")), "431"),
        (endless("x"), "4"),
    ] {
        let (mut reader, writer) = dial(proxy.tunnel).unwrap();
        // It need not be read to its end.
        let _ = writer.write(put.as_bytes());
        let mut answer = Vec::new();
        let mut piece = [0; 1_024];
        while let Ok(len @ 1..) = reader.read(&mut piece) {
            answer.extend_from_slice(&piece[..len]);
        }
        let answer = String::from_utf8_lossy(&answer).into_owned();
        // A reset may have overtaken the answer to what was too long.
        let told = answer.starts_with(&format!("HTTP/1.1 {status}"));
        assert!(told || put.len() > 50_000 && answer.is_empty(), "{put:.60}: {answer}");
    }
    let credentials = "PUT / HTTP/1.1\r\nAuthorization: Bearer x\r\nSpdy-Tunnel: v=1, \
                       origin=\"nobody\", instance=:AAAAAAAAAAAAAAAAAAAAAA==:, \
                       run=:AAAAAAAAAAA=:, epoch=1, can=()\r\nContent-Length: 0\r\n\r\n";
    let (mut reader, writer) = dial(proxy.tunnel).unwrap();
    writer.write(credentials.as_bytes()).unwrap();
    let mut start = [0; 12];
    reader.read_exact(&mut start).unwrap();
    assert_eq!(&start, b"HTTP/1.1 401");

    assert_eq!(Request::get("/small").send(proxy.http).unwrap().text(), "small");
    let grown = memory_peak(id).saturating_sub(idle);
    println!("the proxy grew by at most {} KiB", grown >> 10);
    assert!(grown < 4 << 20, "{grown}");
    wait_until("their sockets are closed", || descriptors(id) <= open + 1);
    assert_sound(proxy.program());
}

#[test]
fn half_open_handshakes_hold_nobody_up_for_long() {
    let root = TempRoot::new();
    root.write("small", b"small");
    let proxy = ScaledProxy::start(|settings| {
        settings.timings.handshake = Duration::from_millis(500);
    });
    let _first = Agent::serve(root.path(), proxy.tunnel);
    wait_for_agent(proxy.http);
    // Nothing; the start of TLS; a record that never ends. 64 may shake hands at a time.
    let mut half_open = Vec::new();
    for n in 0..200 {
        let mut socket = TcpStream::connect(proxy.tunnel).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let start: &[u8] = [&[][..], &[0x16, 3, 1], &[0x16, 3, 1, 0x40, 0, 1]][n % 3];
        socket.write_all(start).unwrap();
        half_open.push(socket);
    }
    // Who is through is served as before.
    let asked = Instant::now();
    assert_eq!(Request::get("/small").send(proxy.http).unwrap().text(), "small");
    assert!(asked.elapsed() < Duration::from_secs(1));
    // Who comes behind them has to wait for his turn, and gets it.
    let asked = Instant::now();
    let late = RawSession::dial(proxy.tunnel, Name::Own).unwrap();
    let waited = asked.elapsed();
    assert!(waited < Duration::from_secs(4), "{waited:?}");
    for mut socket in half_open {
        let ended = socket.read_to_end(&mut Vec::new());
        assert!(ended.is_ok() || ended.unwrap_err().kind() == std::io::ErrorKind::ConnectionReset);
    }
    late.octets.shutdown();
}

#[test]
fn handshake_that_drips_is_cut_at_its_deadline() {
    let proxy = ScaledProxy::start(|settings| {
        settings.timings.handshake = Duration::from_millis(700);
    });
    let (mut reader, writer) = dial(proxy.tunnel).unwrap();
    let begun = Instant::now();
    let ended = thread::spawn(move || {
        let ended = reader.read(&mut [0; 100]);
        (begun.elapsed(), ended.map_or(0, |len| len))
    });
    // Each octet is life for TCP and none for the handshake.
    while !ended.is_finished() && begun.elapsed() < PATIENCE {
        if writer.write(b"P").is_err() {
            break;
        }
        thread::sleep(Duration::from_millis(20));
    }
    let (after, len) = ended.join().unwrap();
    assert_eq!(len, 0);
    assert!(after < Duration::from_secs(2), "{after:?}");
}

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
    let bad = [
        // One body, two lengths.
        "PUT /a HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "PUT /a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n",
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
        // Whose?
        "GET /small HTTP/1.1\r\nHost: x\r\nHost: x\r\n\r\n",
        "GET /small HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n",
        "GET /small HTTP/1.1\r\n\r\n",
        "GET /small HTTP/1.1\r\nHost: a b\r\n\r\n",
        "GET /small HTTP/1.1\r\nHost: user@x\r\n\r\n",
        "GET /small HTTP/1.1\r\nHost: x/y\r\n\r\n",
        // Request lines.
        "GET  /small HTTP/1.1\r\nHost: x\r\n\r\n",
        "GET /small\r\n\r\n",
        "GET /small HTTP/1.1 more\r\nHost: x\r\n\r\n",
        "GET /sm all HTTP/1.1\r\nHost: x\r\n\r\n",
        "GET /small HTTP/2.0\r\nHost: x\r\n\r\n",
        "GET /small HTTP/1.2.3\r\nHost: x\r\n\r\n",
        "G@T /small HTTP/1.1\r\nHost: x\r\n\r\n",
        "GET small HTTP/1.1\r\nHost: x\r\n\r\n",
        "GET /sm\x7fall HTTP/1.1\r\nHost: x\r\n\r\n",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "CONNECT x:443 HTTP/1.1\r\nHost: x:443\r\n\r\n",
    ];
    let mut wrong = String::new();
    for request in bad {
        let (statuses, text) = answers(proxy.http, format!("{request}{behind}").as_bytes());
        let refused = |status: &u16| matches!(status, 400 | 431 | 501 | 505);
        let is_refused = statuses.len() <= 1 && statuses.iter().all(refused);
        if !is_refused || text.contains("smuggled") {
            wrong += &format!("{request:?}: {statuses:?}\n");
        }
    }
    assert!(wrong.is_empty(), "\n{wrong}");
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
