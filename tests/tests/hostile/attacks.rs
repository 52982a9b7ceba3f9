//! What a peer of either role does to the other, and the tools for more of it.
//!
//! An attack is a name, the frames, and what must become of the session. It looks at nothing
//! itself but what it must wait for.

use spdy_tests::{raw::RawSession, wire::Frame};

use self::After::{Ends, GoAway, Lives};

/// What becomes of a session that was attacked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum After {
    /// It has ended; if anything was said, then GOAWAY with PROTOCOL_ERROR.
    Ends,
    /// The same, by GOAWAY for certain.
    GoAway,
    /// It goes on.
    Lives,
}

/// What the visitor sees whose request the attack answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sees {
    /// An answer of the proxy's own: 502, or 503 where the request may be repeated.
    Error,
    /// A body that does not look whole, or an error in place of the head.
    Cut,
    /// A whole answer with this status.
    Status(u16),
}

pub type Act = fn(&mut RawSession, u32);

pub fn frame(session: &RawSession, frame: &Frame) {
    // The other end may have closed already; what follows finds out.
    let _ = session.writer.write(frame);
}

pub fn octets(session: &RawSession, octets: &[u8]) {
    let _ = session.octets.write(octets);
}

/// A control frame of any type, length and content.
pub fn control(session: &RawSession, version: u8, kind: u8, flags: u8, payload: &[u8]) {
    let len = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let head = [0x80, version, 0, kind, flags, len[1], len[2], len[3]];
    octets(session, &[&head, payload].concat());
}

/// The same frame so often, in large writes.
pub fn flood(session: &RawSession, frame: &Frame, times: usize) {
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

pub fn reply(session: &RawSession, id: u32, pairs: &[(&str, &[u8])]) {
    let _ = session.writer.write_block(pairs, |block| Frame::SynReply { id, fin: false, block });
}

/// A reply as it should be, with more headers.
pub fn ok(session: &RawSession, id: u32, more: &[(&str, &[u8])]) {
    let mut pairs: Vec<(&str, &[u8])> = vec![(":status", b"200 OK"), (":version", b"HTTP/1.1")];
    pairs.extend(more);
    reply(session, id, &pairs);
}

pub fn data(session: &RawSession, id: u32, octets: &[u8], fin: bool) {
    frame(session, &Frame::Data { id, fin, octets: octets.to_vec() });
}

/// A header block that inflates to so many octets; 32 MiB come from 32 KB.
pub fn bomb(session: &RawSession, len: usize, build: impl Fn(Vec<u8>) -> Frame) {
    let zeros = vec![0; len];
    let _ = session.writer.write_block(&[(":status", b"200"), ("x", &zeros)], build);
}

pub fn opened(frame: &Frame) -> Option<u32> {
    match frame {
        Frame::SynStream { id, .. } => Some(*id),
        _ => None,
    }
}

pub fn open(session: &RawSession, id: u32, fin: bool, pairs: &[(&str, &[u8])]) {
    let _ = session.writer.write_block(pairs, |block| Frame::SynStream {
        id,
        associated: 0,
        priority: 3,
        fin,
        unidirectional: false,
        block,
    });
}

pub fn whole(path: &str) -> Vec<(&'static str, &[u8])> {
    vec![
        (":method", b"GET"),
        (":path", path.as_bytes()),
        (":version", b"HTTP/1.1"),
        (":host", b"nas1"),
        (":scheme", b"http"),
    ]
}

pub fn put(path: &str) -> Vec<(&'static str, &[u8])> {
    let mut pairs = whole(path);
    pairs[0].1 = b"PUT";
    pairs
}

/// Waits until a stream was answered, well or not.
pub fn replied(session: &mut RawSession, wanted: u32) {
    let answer = session.wait_for(|frame| match frame {
        Frame::SynReply { id, .. } | Frame::RstStream(id, _) if *id == wanted => Some(()),
        _ => None,
    });
    answer.unwrap();
}

/// What either role does to the other, whatever runs: a name, the frames, what becomes of it. `id`
/// is a stream that the other end knows, or would.
pub const ANYBODY: &[(&str, Act, After)] = &[
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
