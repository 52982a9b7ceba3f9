//! Peers that break the rules: each violation has its reaction (docs/protocol.md), nothing panics,
//! nothing grows beyond its bound.

use fastrand::Rng;
use flate2::{Compress, Compression, FlushCompress};
use spdy_protocol::{
    dictionary::DICTIONARY,
    error::{Error, PeerFault, StreamError, StreamFault},
    frame::{self, Control, HEADER, Header, StreamId, data_header},
    head::RequestHead,
    headers::{Encoder, Headers},
    limits::{BOMBS, CHEAP_FRAMES, CONTROL_FRAME, PING_ANSWERS, STREAMS},
    session::{Key, Profile},
};

use crate::pair::Pair;

/// Writes frames by hand.
struct Raw {
    octets: Vec<u8>,
    encoder: Encoder,
}

impl Raw {
    fn new() -> Self {
        Self { octets: Vec::new(), encoder: Encoder::new() }
    }

    fn control(&mut self, frame: Control<'_>) -> &mut Self {
        frame.encode(&mut self.octets);
        self
    }

    fn syn(&mut self, stream: u32, fin: bool) -> &mut Self {
        let block = self.encoder.encode(&RequestHead::get("/").to_headers().unwrap());
        self.control(Control::SynStream {
            stream,
            associated: 0,
            priority: 3,
            fin,
            unidirectional: false,
            block: &block,
        })
    }

    fn reply(&mut self, stream: u32, fin: bool) -> &mut Self {
        let mut list = Headers::new();
        list.push(":status", b"200").unwrap();
        list.push(":version", b"HTTP/1.1").unwrap();
        let block = self.encoder.encode(&list);
        self.control(Control::SynReply { stream, fin, block: &block })
    }

    fn data(&mut self, stream: u32, len: usize, fin: bool) -> &mut Self {
        self.octets.extend_from_slice(&data_header(StreamId::new(stream).unwrap(), fin, len));
        self.octets.resize(self.octets.len() + len, 0);
        self
    }

    fn reset(&mut self, stream: u32) -> &mut Self {
        self.control(Control::RstStream { stream, status: 5 })
    }

    fn tell_server(&mut self, pair: &mut Pair) -> Result<(), Error> {
        let octets = std::mem::take(&mut self.octets);
        let result = pair.server.session.receive(&octets, pair.now);
        while pair.server.session.poll_event().is_some() {}
        assert_eq!(pair.server.session.audit(), Ok(()));
        result
    }

    fn tell_client(&mut self, pair: &mut Pair) -> Result<(), Error> {
        let octets = std::mem::take(&mut self.octets);
        let result = pair.client.session.receive(&octets, pair.now);
        while pair.client.session.poll_event().is_some() {}
        assert_eq!(pair.client.session.audit(), Ok(()));
        result
    }
}

/// The frames that a session has to say, as (type, first word, second word).
fn said(octets: &[u8]) -> Vec<(u16, u32, u32)> {
    let mut frames = Vec::new();
    let mut rest = octets;
    while !rest.is_empty() {
        let header = Header::parse(rest[..HEADER].try_into().unwrap());
        let len = match header {
            Header::Data { len, .. } => len,
            Header::Control { kind, len, .. } => {
                let word = |at: usize| {
                    let octets = rest.get(HEADER + at..HEADER + at + 4).unwrap_or(&[0; 4]);
                    u32::from_be_bytes(octets.try_into().unwrap())
                };
                frames.push((kind, word(0), word(4)));
                len
            }
        };
        rest = &rest[HEADER + len..];
    }
    frames
}

fn server_says(pair: &mut Pair) -> Vec<(u16, u32, u32)> {
    let octets = pair.server.session.poll_transmit(pair.now).to_vec();
    pair.server.session.transmitted(octets.len());
    said(&octets)
}

fn client_says(pair: &mut Pair) -> Vec<(u16, u32, u32)> {
    let octets = pair.client.session.poll_transmit(pair.now).to_vec();
    pair.client.session.transmitted(octets.len());
    said(&octets)
}

/// A server that has sent its greeting.
fn server() -> (Pair, Raw) {
    server_with(Profile::Ours)
}

fn server_with(profile: Profile) -> (Pair, Raw) {
    let mut pair = Pair::with(Profile::Ours, profile, |_| {});
    server_says(&mut pair);
    (pair, Raw::new())
}

/// A client with one stream open.
fn client() -> (Pair, Raw, Key) {
    let mut pair = Pair::new();
    let key = pair.client.get("/", pair.now);
    client_says(&mut pair);
    (pair, Raw::new(), key)
}

const RST: u16 = frame::RST_STREAM;

fn ends_with(pair: &mut Pair, result: Result<(), Error>, fault: PeerFault) {
    assert_eq!(result, Err(Error::Peer(fault)));
    let said = server_says(pair);
    assert_eq!(said.last().map(|frame| (frame.0, frame.2)), Some((frame::GOAWAY, 1)), "{said:?}");
}

#[test]
fn ids_of_new_streams() {
    for (id, fault) in [
        (0, PeerFault::StreamIdZero),
        (2, PeerFault::StreamIdParity(2)),
        (3, PeerFault::StreamIdNotIncreasing(3)),
    ] {
        let (mut pair, mut raw) = server();
        let result = raw.syn(5, true).syn(id, true).tell_server(&mut pair);
        ends_with(&mut pair, result, fault);
    }
}

#[test]
fn id_already_seen_costs_the_stream() {
    let (mut pair, mut raw) = server();
    raw.syn(5, false).syn(5, true).tell_server(&mut pair).unwrap();
    assert_eq!(server_says(&mut pair), [(RST, 5, 1)]);
    raw.syn(5, true).tell_server(&mut pair).unwrap();
    assert_eq!(server_says(&mut pair), [(RST, 5, 1)]);
}

#[test]
fn amahi_ids_may_come_out_of_order() {
    let (mut pair, mut raw) = server_with(Profile::Amahi);
    raw.syn(1, true).syn(7, true).syn(3, true).syn(5, true).tell_server(&mut pair).unwrap();
    let opened = std::iter::from_fn(|| pair.server.session.accept());
    let ids: Vec<u32> = opened.map(|(key, _)| key.id.value()).collect();
    assert_eq!(ids, [1, 7, 3, 5]);
}

#[test]
fn streams_above_the_limit_are_refused() {
    let (mut pair, mut raw) = server();
    for at in 0..=STREAMS as u32 {
        raw.syn(at * 2 + 1, true);
    }
    raw.tell_server(&mut pair).unwrap();
    assert_eq!(server_says(&mut pair), [(RST, STREAMS as u32 * 2 + 1, 3)]);
}

#[test]
fn replies_that_nobody_waits_for() {
    let (mut pair, mut raw, key) = client();
    raw.reply(9, false).tell_client(&mut pair).unwrap();
    assert_eq!(client_says(&mut pair), [(RST, 9, 2)]);
    raw.reply(1, false).reply(1, false).tell_client(&mut pair).unwrap();
    assert_eq!(client_says(&mut pair), [(RST, 1, 8)]);
    let fault = StreamError::Violation(StreamFault::SecondReply);
    assert_eq!(pair.client.session.failure(key), Some(fault));
}

#[test]
fn reply_after_the_last_frame() {
    let (mut pair, mut raw, _) = client();
    raw.reply(1, false).data(1, 3, true).reply(1, false).tell_client(&mut pair).unwrap();
    assert_eq!(client_says(&mut pair), [(RST, 1, 9)]);
}

#[test]
fn data_out_of_place() {
    let (mut pair, mut raw, _) = client();
    raw.data(1, 10, false).tell_client(&mut pair).unwrap();
    assert_eq!(client_says(&mut pair), [(RST, 1, 1)], "before the reply");
    raw.data(1, 10, false).data(1, 10, true).tell_client(&mut pair).unwrap();
    assert_eq!(client_says(&mut pair), [], "one answer is enough");
    raw.data(77, 10, false).data(77, 10, false).tell_client(&mut pair).unwrap();
    assert_eq!(client_says(&mut pair), [(RST, 77, 2)], "no such stream");
    let (mut pair, mut raw) = server();
    raw.syn(1, true).data(1, 10, false).tell_server(&mut pair).unwrap();
    assert_eq!(server_says(&mut pair), [(RST, 1, 9)], "after FIN");
}

#[test]
fn dropped_data_gives_session_credit_back() {
    let (mut pair, mut raw) = server();
    for _ in 0..300 {
        raw.data(77, 60_000, false).tell_server(&mut pair).unwrap();
        pair.now += std::time::Duration::from_secs(2);
        pair.server.session.handle_timeout(pair.now);
        server_says(&mut pair);
    }
    assert_eq!(pair.server.session.windows(None).unwrap().1, 16 << 20);
}

#[test]
fn headers_out_of_place() {
    let (mut pair, mut raw, _) = client();
    let block = raw.encoder.encode(&Headers::new());
    raw.control(Control::Headers { stream: 1, fin: false, block: &block });
    let block = raw.encoder.encode(&Headers::new());
    raw.control(Control::Headers { stream: 9, fin: false, block: &block });
    raw.tell_client(&mut pair).unwrap();
    assert_eq!(client_says(&mut pair), [(RST, 1, 1), (RST, 9, 2)]);
}

#[test]
fn trailers_are_ignored_and_their_fin_counts() {
    let (mut pair, mut raw, key) = client();
    raw.reply(1, false).data(1, 3, false);
    let block = raw.encoder.encode(&Headers::new());
    raw.control(Control::Headers { stream: 1, fin: true, block: &block });
    raw.tell_client(&mut pair).unwrap();
    assert_eq!(pair.client.read(key, pair.now), Ok((vec![0; 3], true)));
}

#[test]
fn pushed_streams_are_refused_and_their_blocks_read() {
    let (mut pair, mut raw, _) = client();
    raw.syn(2, false).syn(4, false).reply(1, true).tell_client(&mut pair).unwrap();
    assert_eq!(client_says(&mut pair), [(RST, 2, 3), (RST, 4, 3)]);
}

#[test]
fn reset_of_a_stranger_is_never_answered() {
    let (mut pair, mut raw, _) = client();
    raw.reset(99).tell_client(&mut pair).unwrap();
    assert_eq!(client_says(&mut pair), []);
}

#[test]
fn reset_after_the_last_frame_leaves_what_was_received() {
    let (mut pair, mut raw, key) = client();
    raw.reply(1, false).data(1, 5, true).reset(1).tell_client(&mut pair).unwrap();
    assert_eq!(pair.client.read(key, pair.now), Ok((vec![0; 5], true)));
}

#[test]
fn other_versions_are_refused_by_stream() {
    let (mut pair, mut raw) = server();
    raw.syn(1, true);
    raw.octets[1] = 2;
    raw.syn(3, true).tell_server(&mut pair).unwrap();
    assert_eq!(server_says(&mut pair), [(RST, 1, 4)]);
    assert!(pair.server.session.accept().is_some_and(|(key, _)| key.id.value() == 3));
}

#[test]
fn blocks_that_do_not_inflate_end_the_session() {
    for (profile, fault) in [
        (Profile::Ours, PeerFault::HeaderBlockNotStored),
        (Profile::Plain31, PeerFault::HeaderBlock),
    ] {
        let (mut pair, mut raw) = server_with(profile);
        raw.control(Control::SynStream {
            stream: 1,
            associated: 0,
            priority: 0,
            fin: true,
            unidirectional: false,
            block: b"garbage",
        });
        let result = raw.tell_server(&mut pair);
        ends_with(&mut pair, result, fault);
    }
}

#[test]
fn bombs_cost_their_streams_then_the_session() {
    let (mut pair, mut raw) = server_with(Profile::Plain31);
    let mut context = Compress::new(Compression::best(), true);
    context.set_dictionary(DICTIONARY).unwrap();
    let zeros = vec![0; 32 << 20];
    for at in 0..=BOMBS {
        let mut block = Vec::with_capacity(60_000);
        context.compress_vec(&zeros, &mut block, FlushCompress::Sync).unwrap();
        assert!(block.len() < 40_000);
        raw.control(Control::SynStream {
            stream: at * 2 + 1,
            associated: 0,
            priority: 0,
            fin: true,
            unidirectional: false,
            block: &block,
        });
        let result = raw.tell_server(&mut pair);
        if at < BOMBS {
            assert_eq!((result, server_says(&mut pair)), (Ok(()), vec![(RST, at * 2 + 1, 1)]));
        } else {
            ends_with(&mut pair, result, PeerFault::HeaderBombs);
        }
    }
}

#[test]
fn malformed_lists_cost_their_streams() {
    let (mut pair, mut raw) = server_with(Profile::Plain31);
    let mut context = Compress::new(Compression::best(), true);
    context.set_dictionary(DICTIONARY).unwrap();
    let mut block = Vec::with_capacity(1_000);
    let upper = [&[0, 0, 0, 1, 0, 0, 0, 1, b'A', 0, 0, 0, 0][..]].concat();
    context.compress_vec(&upper, &mut block, FlushCompress::Sync).unwrap();
    raw.control(Control::SynStream {
        stream: 1,
        associated: 0,
        priority: 0,
        fin: true,
        unidirectional: false,
        block: &block,
    });
    raw.tell_server(&mut pair).unwrap();
    assert_eq!(server_says(&mut pair), [(RST, 1, 1)]);
}

#[test]
fn wrong_lengths_end_the_session() {
    for (kind, len) in [(frame::PING, 5u8), (frame::GOAWAY, 4), (frame::WINDOW_UPDATE, 0), (RST, 9)]
    {
        let (mut pair, mut raw) = server();
        raw.octets.extend_from_slice(&[0x80, 3, 0, kind as u8, 0, 0, 0, len]);
        raw.octets.resize(8 + usize::from(len), 0);
        // A frame without payload is complete with its header.
        let result = raw.tell_server(&mut pair);
        ends_with(&mut pair, result, PeerFault::FrameLength { kind, len: usize::from(len) });
    }
}

#[test]
fn control_frame_at_the_limit_is_read_and_one_above_is_not() {
    for (len, fits) in [(CONTROL_FRAME, true), (CONTROL_FRAME + 1, false)] {
        let (mut pair, mut raw) = server();
        let [_, a, b, c] = (len as u32).to_be_bytes();
        raw.octets.extend_from_slice(&[0x80, 3, 0, frame::SETTINGS as u8, 0, a, b, c]);
        raw.octets.resize(8 + len, 0);
        let fault =
            if fits { PeerFault::SettingsCount } else { PeerFault::ControlFrameTooLarge { len } };
        assert_eq!(raw.tell_server(&mut pair), Err(Error::Peer(fault)));
    }
}

#[test]
fn unknown_types_are_skipped_by_length() {
    let (mut pair, mut raw) = server();
    for kind in [5u16, 10, 11, 0xf00, 0x7fff] {
        let [a, b] = kind.to_be_bytes();
        raw.octets.extend_from_slice(&[0x80, 3, a, b, 0xff, 0, 1, 0]);
        raw.octets.resize(raw.octets.len() + 256, 0xaa);
    }
    raw.syn(1, true).tell_server(&mut pair).unwrap();
    assert!(pair.server.session.accept().is_some());
}

#[test]
fn windows_do_not_overflow() {
    let (mut pair, mut raw) = server();
    raw.syn(1, true).control(Control::WindowUpdate { stream: 1, delta: frame::MAX_31 });
    raw.tell_server(&mut pair).unwrap();
    assert_eq!(server_says(&mut pair), [(RST, 1, 7)]);
    raw.control(Control::WindowUpdate { stream: 0, delta: frame::MAX_31 });
    let result = raw.tell_server(&mut pair);
    ends_with(&mut pair, result, PeerFault::SessionWindowOverflow);
}

#[test]
fn raised_initial_window_overflows_the_stream_that_was_near_the_limit() {
    let (mut pair, mut raw) = server();
    let near = frame::MAX_31 - 65_536;
    raw.syn(1, true).syn(3, true).control(Control::WindowUpdate { stream: 1, delta: near });
    frame::encode_settings(&[(7, 65_537)], &mut raw.octets);
    raw.tell_server(&mut pair).unwrap();
    assert_eq!(server_says(&mut pair), [(RST, 1, 7)]);
}

#[test]
fn overrun_of_a_stream_window_costs_the_stream_and_foreign_peers_get_slack() {
    for (profile, allowed) in [(Profile::Ours, 65_536), (Profile::Plain31, 131_072)] {
        let (mut pair, mut raw) = server_with(profile);
        raw.syn(1, false).data(1, allowed, false).tell_server(&mut pair).unwrap();
        let resets = |said: Vec<(u16, u32, u32)>| said.into_iter().find(|frame| frame.0 == RST);
        assert_eq!(resets(server_says(&mut pair)), None);
        raw.data(1, 1, false).tell_server(&mut pair).unwrap();
        assert_eq!(resets(server_says(&mut pair)), Some((RST, 1, 7)));
    }
}

#[test]
fn upload_that_ignores_windows_is_taken_from_amahi_up_to_a_bound() {
    let (mut pair, mut raw) = server_with(Profile::Amahi);
    raw.syn(1, false).data(1, 300_000, false).tell_server(&mut pair).unwrap();
    pair.server.session.audit().unwrap();
    let (key, _) = pair.server.session.accept().unwrap();
    assert_eq!(pair.server.read(key, pair.now).unwrap().0.len(), 300_000);
    for _ in 0..20 {
        raw.data(1, 100_000, false).tell_server(&mut pair).unwrap();
    }
    let fault = StreamError::Violation(StreamFault::Overrun);
    assert_eq!(pair.server.session.failure(key), Some(fault));
}

#[test]
fn overrun_of_the_session_window_ends_the_session() {
    let (mut pair, mut raw) = server();
    let mut result = Ok(());
    for at in 0..STREAMS as u32 * 3 {
        // Streams that were reset still take session credit.
        raw.syn(at * 2 + 1, false).data(at * 2 + 1, 65_536, true).reset(at * 2 + 1);
        result = raw.tell_server(&mut pair);
        if result.is_err() {
            break;
        }
    }
    assert_eq!(result, Err(Error::Peer(PeerFault::SessionOverrun)));
}

#[test]
fn pings_that_cannot_be_answered_are_a_flood() {
    let (mut pair, mut raw) = server();
    for _ in 0..PING_ANSWERS {
        raw.control(Control::Ping(1));
    }
    raw.tell_server(&mut pair).unwrap();
    assert_eq!(server_says(&mut pair).len(), PING_ANSWERS);
    for _ in 0..=PING_ANSWERS {
        raw.control(Control::Ping(1));
    }
    let result = raw.tell_server(&mut pair);
    assert_eq!(result, Err(Error::Peer(PeerFault::PingFlood)));
}

#[test]
fn floods_of_cheap_frames_end_the_session() {
    type Flood = fn(&mut Raw, u32);
    let floods: [(&str, Flood); 9] = [
        ("answers that nobody asked for", |raw, _| {
            raw.control(Control::Ping(2));
        }),
        ("id in use, never let go", |raw, _| {
            raw.syn(1, true);
        }),
        ("overflow, never let go", |raw, _| {
            raw.control(Control::WindowUpdate { stream: 1, delta: frame::MAX_31 });
        }),
        ("settings", |raw, _| frame::encode_settings(&[], &mut raw.octets)),
        ("rapid reset", |raw, at| {
            raw.syn(at * 2 + 3, true).reset(at * 2 + 3);
        }),
        ("empty data", |raw, _| {
            raw.data(1, 0, false);
        }),
        ("tiny credit", |raw, _| {
            raw.control(Control::WindowUpdate { stream: 1, delta: 1 });
        }),
        ("unknown", |raw, _| {
            raw.control(Control::Skipped(99));
        }),
        ("strangers", |raw, at| {
            raw.data(at * 2 + 3, 1, false);
        }),
    ];
    for (name, flood) in floods {
        let (mut pair, mut raw) = server();
        raw.syn(1, false).tell_server(&mut pair).unwrap();
        let accepted = pair.server.session.accept();
        let mut results = (0..=CHEAP_FRAMES + 1).map(|at| {
            flood(&mut raw, at);
            raw.tell_server(&mut pair)
        });
        let allowed = results.by_ref().take_while(Result::is_ok).count();
        // A first frame may count as what it is: it ends the stream.
        let bound = CHEAP_FRAMES as usize;
        assert!((bound..=bound + 1).contains(&allowed), "{name}: {allowed}");
        drop(results);
        let fault = Some(&Error::Peer(PeerFault::CheapFrames));
        assert_eq!(pair.server.session.error(), fault, "{name}");
        drop(accepted);
    }
}

/// Peak allocation is bounded by the input and the documented limits: every frame of this soup is
/// one that a hostile peer would pick.
#[test]
fn soup_of_frames_never_panics_and_keeps_every_bound() {
    for seed in 0..300 {
        let mut rng = Rng::with_seed(seed);
        let profile = *rng.choice(&[Profile::Ours, Profile::Plain31, Profile::Amahi]).unwrap();
        let (mut pair, mut raw) = server_with(profile);
        for _ in 0..400 {
            match rng.u32(0..12) {
                0..=2 => {
                    let id = rng.u32(0..300);
                    raw.syn(id, rng.bool());
                }
                3 => {
                    raw.reply(rng.u32(1..20), rng.bool());
                }
                4..=6 => {
                    raw.data(rng.u32(1..300), rng.usize(0..80_000), rng.bool());
                }
                7 => {
                    raw.reset(rng.u32(0..300));
                }
                8 => {
                    let delta = rng.u32(..);
                    raw.control(Control::WindowUpdate { stream: rng.u32(0..20), delta });
                }
                9 => frame::encode_settings(&[(rng.u32(0..9), rng.u32(..))], &mut raw.octets),
                10 => {
                    raw.control(Control::Ping(rng.u32(..)));
                }
                _ => {
                    let garbage: Vec<u8> = (0..rng.usize(0..40)).map(|_| rng.u8(..)).collect();
                    raw.octets.extend_from_slice(&garbage);
                }
            }
            if rng.u32(0..4) == 0 {
                let _ = raw.tell_server(&mut pair);
                let octets = pair.server.session.poll_transmit(pair.now).len();
                pair.server.session.transmitted(rng.usize(0..=octets));
                while let Some((key, _)) = pair.server.session.accept() {
                    if rng.bool() {
                        pair.server.session.release(key);
                    }
                }
                while pair.server.session.poll_event().is_some() {}
                assert_eq!(pair.server.session.audit(), Ok(()), "seed {seed}");
            }
            if pair.server.session.is_closed() {
                break;
            }
        }
    }
}

#[test]
fn data_under_way_to_many_cancelled_streams_is_no_flood() {
    // All visitors leave at once; what their agent has under way was sent in good faith.
    let mut pair = Pair::new();
    let keys: Vec<Key> = (0..STREAMS).map(|_| pair.client.get("/", pair.now)).collect();
    pair.settle();
    let mut raw = Raw::new();
    keys.iter().for_each(|key| {
        raw.reply(key.id.value(), false);
    });
    for _ in 0..20 {
        keys.iter().for_each(|key| {
            raw.data(key.id.value(), 1_000, false);
        });
    }
    keys.iter().for_each(|key| pair.client.session.release(*key));
    let before = pair.client.session.counters().resets_sent;
    assert_eq!(pair.client.session.receive(&raw.octets, pair.now), Ok(()));
    assert_eq!(pair.client.session.counters().resets_sent, before);
}
