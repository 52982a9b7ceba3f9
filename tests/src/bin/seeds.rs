//! Writes the seeds of the fuzz corpora into `fuzz/corpus`, made by our own encoders.
//!
//! Files that a crash left there stay; seeds have the names below and are written anew.

use std::{fs, io, path::Path, sync::Arc, time::Instant};

use flate2::{Compress, Compression, FlushCompress};
use spdy_protocol::{
    budget::Budget,
    dictionary::DICTIONARY,
    frame::{self, Control, StreamId},
    handshake::{Answer, Credentials, Features, Hello, Put, Welcome},
    head::{RequestHead, ResponseHead},
    headers::{Encoder, Headers},
    session::{Config, Profile, Session, Side},
};
use spdy_tests::source::workspace;

fn main() -> io::Result<()> {
    let corpus = workspace().join("fuzz/corpus");
    write(&corpus, "frame", frames())?;
    write(&corpus, "headers", header_blocks())?;
    write(&corpus, "handshake", messages())?;
    write(&corpus, "session", sessions())
}

type Seeds = Vec<(&'static str, Vec<u8>)>;

fn write(corpus: &Path, target: &str, seeds: Seeds) -> io::Result<()> {
    let folder = corpus.join(target);
    fs::create_dir_all(&folder)?;
    for (name, octets) in seeds {
        fs::write(folder.join(format!("seed-{name}")), octets)?;
    }
    Ok(())
}

fn frames() -> Seeds {
    let block = Encoder::new().encode(&request());
    let block = &block[..];
    let controls = [
        (
            "syn-stream",
            Control::SynStream {
                stream: 1,
                associated: 0,
                priority: 3,
                fin: true,
                unidirectional: false,
                block,
            },
        ),
        ("syn-reply", Control::SynReply { stream: 1, fin: false, block }),
        ("rst-stream", Control::RstStream { stream: 1, status: 5 }),
        ("ping", Control::Ping(1)),
        ("go-away", Control::GoAway { last_good: 7, reason: 0 }),
        ("headers", Control::Headers { stream: 3, fin: true, block }),
        ("window-update", Control::WindowUpdate { stream: 0, delta: 65_536 }),
        ("unknown", Control::Skipped(0xf000)),
    ];
    let mut seeds: Seeds = controls
        .into_iter()
        .map(|(name, control)| {
            let mut octets = Vec::new();
            control.encode(&mut octets);
            (name, octets)
        })
        .collect();
    let mut settings = Vec::new();
    frame::encode_settings(&[(4, 100), (7, 65_536)], &mut settings);
    seeds.push(("settings", settings));
    if let Some(id) = StreamId::new(1) {
        seeds.push(("data", [&frame::data_header(id, true, 4)[..], b"data"].concat()));
    }
    seeds
}

fn header_blocks() -> Seeds {
    let mut encoder = Encoder::new();
    let stored: Vec<_> = [request(), response(), request()]
        .iter()
        .map(|list| behind_len(&encoder.encode(list)))
        .collect();
    // As other stacks compress: one stream with the dictionary, a sync flush per block.
    let mut compress = Compress::new(Compression::best(), true);
    let plain: Vec<_> = [request(), response()].iter().map(plain).collect();
    let deflated: Vec<_> = plain
        .iter()
        .enumerate()
        .filter_map(|(number, plain)| {
            if number == 0 {
                compress.set_dictionary(DICTIONARY).ok()?;
            }
            let mut block = Vec::with_capacity(4_096);
            compress.compress_vec(plain, &mut block, FlushCompress::Sync).ok()?;
            Some(behind_len(&block))
        })
        .collect();
    vec![
        ("stored", [&[1][..], &stored.concat()].concat()),
        ("stored-inflated", [&[0][..], &stored.concat()].concat()),
        ("deflated", [&[0][..], &deflated.concat()].concat()),
    ]
}

/// The list as it is before compression: a stored block without its frame of 5 octets, the zlib
/// header before it and the empty block behind it.
fn plain(list: &Headers) -> Vec<u8> {
    let block = Encoder::new().encode(list);
    block[11..block.len() - 5].to_vec()
}

fn behind_len(block: &[u8]) -> Vec<u8> {
    [&len_of(block)[..], block].concat()
}

fn len_of(octets: &[u8]) -> [u8; 2] {
    u16::try_from(octets.len()).unwrap_or(u16::MAX).to_be_bytes()
}

fn messages() -> Seeds {
    let hello = Hello {
        origin: "nas1".to_owned(),
        instance: [7; 16],
        run: [9; 8],
        epoch: 7,
        can: Features::OURS,
        software: "spdy-agent/0.1.0".to_owned(),
        register: None,
    };
    let put = |credentials, hello| Put { host: "p.example:1444".to_owned(), credentials, hello };
    let joining = Hello { register: Some([1; 32]), ..hello.clone() };
    let welcome = Welcome {
        id: "p1".to_owned(),
        can: Features::OURS,
        streams: 128,
        spread: std::time::Duration::from_secs(15),
        time: None,
        peers: vec!["p2.example:1444".to_owned()],
    };
    let refused = Answer::Refused {
        status: 409,
        reason: "the name is held".to_owned(),
        retry_after: Some(std::time::Duration::from_secs(20)),
    };
    let cut = |at: u16, message: Vec<u8>| [&at.to_be_bytes()[..], &message].concat();
    vec![
        ("put", cut(40, put(Credentials::Bearer("token".to_owned()), Some(hello)).encode())),
        ("join", cut(200, put(Credentials::Join("secret".to_owned()), Some(joining)).encode())),
        ("old-agent", cut(0, put(Credentials::None, None).encode())),
        ("welcome", cut(30, Answer::Established(Some(welcome)).encode())),
        ("old-proxy", cut(60, Answer::Established(None).encode())),
        ("refused", cut(90, refused.encode())),
    ]
}

/// What one side of a real exchange receives, and operations that answer it.
fn sessions() -> Seeds {
    let (to_server, to_client) = exchange();
    let raw = |octets: &[u8]| [&[7][..], &len_of(octets), octets].concat();
    // Reply, write, finish, read, time, transmit: see `Driven::operate`.
    let answers: &[u8] = &[
        16, 0, 1, 17, 0, 16, 0, 1, 7, 17, 1, 3, 0, 0, 7, 18, 0, 19, 0, 1, 14, 0x40, 0, 22, 255,
        255, 14, 0xff, 0xff, 21, 0, 23, 0,
    ];
    let reads: &[u8] = &[19, 0, 0, 19, 0, 1, 19, 0, 2, 14, 0x20, 0, 21, 0, 23, 0];
    let opens: &[u8] = &[15, 3, 1, 15, 0, 0, 15, 7, 3, 22, 255, 255];
    let server = [raw(&to_server), answers.to_vec()].concat();
    let client = [opens.to_vec(), raw(&to_client), reads.to_vec()].concat();
    let with = |kind: u8, operations: &[u8]| [&[kind][..], operations].concat();
    vec![
        ("server-ours", with(1 | 2 << 1 | 8, &server)),
        ("server-plain", with(1, &server)),
        ("server-amahi", with(1 | 1 << 1, &server)),
        ("client-ours", with(2 << 1 | 8, &client)),
        ("client-plain", with(0, &client)),
        ("client-amahi", with(1 << 1, &client)),
        ("built-frames", with(1, &BUILT.repeat(4))),
    ]
}

/// Built frames of each kind for a few streams, with reads and time between them.
const BUILT: &[u8] = &[
    8, 3, 1, 1, 9, 3, 3, 4, 10, 0, 3, 1, 2, 0, 11, 4, 3, 1, 255, 255, 3, 12, 5, 0, 7, 7, 0, 64, 13,
    7, 1, 1, 19, 0, 1, 16, 0, 1, 17, 0, 200, 1, 5, 14, 1, 0, 8, 6, 1, 1, 5, 9, 2, 5, 1, 22, 1, 0,
];

/// A client opens three streams, one with a body; a server answers. What each receives.
fn exchange() -> (Vec<u8>, Vec<u8>) {
    let now = Instant::now();
    let session = |side| {
        let budget = Arc::new(Budget::new(1 << 24));
        Session::new(Config::new(side, Profile::Ours, budget), now)
    };
    let (mut client, mut server) = (session(Side::Client), session(Side::Server));
    let upload = client.open(&request(), 2, false, now);
    for _ in 0..2 {
        let _ = client.open(&request(), 3, true, now);
    }
    if let Ok(key) = upload {
        let _ = client.write_with(key, 300, true, |room| {
            room.fill(0x55);
            Ok(room.len())
        });
    }
    let to_server = transmitted(&mut client, now);
    let _ = server.receive(&to_server, now);
    while let Some((key, _)) = server.accept() {
        let _ = server.reply(key, &response(), false);
        let _ = server.write_with(key, 500, true, |room| {
            room.fill(0xaa);
            Ok(room.len())
        });
    }
    let to_client = transmitted(&mut server, now);
    (to_server, to_client)
}

fn transmitted(session: &mut Session, now: Instant) -> Vec<u8> {
    while session.poll_event().is_some() {}
    let octets = session.poll_transmit(now).to_vec();
    session.transmitted(octets.len());
    octets
}

fn request() -> Headers {
    let mut head = RequestHead::get("/films/a.mp4");
    head.host = "nas1.example".to_owned();
    let pushed = head.headers.push("range", b"bytes=512-2047");
    debug_assert!(pushed.is_ok());
    head.to_headers().unwrap_or_default()
}

fn response() -> Headers {
    let mut head = ResponseHead::new(206);
    for cookie in [b"a=1", b"b=2"] {
        let pushed = head.headers.push("set-cookie", cookie);
        debug_assert!(pushed.is_ok());
    }
    head.to_headers().unwrap_or_default()
}
