//! Proxies that ask an agent for what there is not, for too much, or in no order.

use spdy_tests::wire::Frame;

use crate::attacks::{
    Act,
    After::{self, Ends, GoAway, Lives},
    bomb, data, frame, octets, ok, open, put, replied, whole,
};

/// What a proxy does to an agent. `id` is a stream that nobody has opened yet.
pub const PROXIES: &[(&str, Act, After)] = &[
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
            bomb(s, 32 << 20, |block| Frame::SynStream {
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
                bomb(s, 256 << 10, |block| Frame::SynStream {
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
        },
        Lives,
    ),
    (
        "downloads that nobody takes",
        |s, id| {
            frame(s, &Frame::Settings(vec![(7, 0x7fff_ffff)]));
            frame(s, &Frame::WindowUpdate(0, 0x7000_0000));
            for id in (id..).step_by(2).take(100) {
                open(s, id, true, &whole("/large"));
            }
            // All are under way, and nothing more is read.
            s.wait_for(|frame| matches!(frame, Frame::Data { .. }).then_some(())).unwrap();
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
