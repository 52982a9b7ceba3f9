//! A session's stored header blocks, read one by one by other people's inflaters.
#![expect(clippy::unwrap_used, reason = "a test that panics has failed, with its line")]

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
};

use spdy_protocol::headers::{Decoder, Encoder, Headers};
use spdy_tests::{
    fixture::{Random, TempRoot, tool},
    peers::{installed, script},
};

#[test]
fn first_block_has_the_golden_octets() {
    let mut encoder = Encoder::new();
    let first = encoder.encode(&headers(&[(":status", b"200"), (":version", b"HTTP/1.1")]));
    #[rustfmt::skip]
    let golden = [
        0x78, 0x20, 0xe3, 0xc6, 0xa7, 0xc2, // zlib header with FDICT, then the dictionary's id
        0x00, 0x2e, 0x00, 0xd1, 0xff, // stored block of 46 octets
        0, 0, 0, 2, // pairs
        0, 0, 0, 7, b':', b's', b't', b'a', b't', b'u', b's',
        0, 0, 0, 3, b'2', b'0', b'0',
        0, 0, 0, 8, b':', b'v', b'e', b'r', b's', b'i', b'o', b'n',
        0, 0, 0, 8, b'H', b'T', b'T', b'P', b'/', b'1', b'.', b'1',
        0x00, 0x00, 0x00, 0xff, 0xff, // empty stored block
    ];
    assert_eq!(first, golden);
    // The second has no zlib header.
    let second = encoder.encode(&Headers::new());
    assert_eq!(second, [0, 4, 0, 0xfb, 0xff, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff]);
}

#[test]
fn go_reads_stored_blocks_one_by_one() {
    read_back(&mut Command::new(installed("read-blocks-go")));
}

#[test]
fn node_reads_stored_blocks_one_by_one() {
    read_back(Command::new(tool("node")).arg(script("zlib/read_blocks.js")));
}

#[test]
fn python_reads_stored_blocks_one_by_one() {
    read_back(Command::new(tool("python3")).arg(script("zlib/read_blocks.py")));
}

#[test]
fn our_own_decoders_read_stored_blocks_one_by_one() {
    for stored_only in [false, true] {
        let (mut encoder, mut decoder) = (Encoder::new(), Decoder::new(stored_only));
        for list in session() {
            assert_eq!(decoder.decode(&encoder.encode(&list)), Ok(list));
        }
    }
}

/// Has a reader print a session's blocks and compares.
fn read_back(reader: &mut Command) {
    let root = TempRoot::new();
    let mut encoder = Encoder::new();
    let mut blocks = Vec::new();
    for list in session() {
        let block = encoder.encode(&list);
        blocks.extend_from_slice(&u32::try_from(block.len()).unwrap().to_be_bytes());
        blocks.extend_from_slice(&block);
    }
    let blocks = root.write("blocks", &blocks);
    let dictionary = Path::new(env!("CARGO_MANIFEST_DIR"));
    let dictionary = dictionary.join("../protocol/src/spdy3-dictionary.bin");
    let printed = root.join("printed");
    let output = fs::File::create(&printed).unwrap();
    let status = reader.arg(dictionary).arg(blocks).stdin(Stdio::null()).stdout(output).status();
    let status = status.unwrap_or_else(|error| panic!("{reader:?}: {error}"));
    assert!(status.success(), "{reader:?}: {status}");
    let printed = fs::read_to_string(printed).unwrap();
    let lines: Vec<Vec<[String; 2]>> = printed.lines().map(parse).collect();
    let expected: Vec<Vec<[String; 2]>> = session().iter().map(in_hex).collect();
    assert_eq!(lines, expected);
}

/// Heads as they occur, an empty list, and the largest there can be, of octets that are no text.
fn session() -> Vec<Headers> {
    // 65,536 octets in all: the largest block that is read, one octet above a stored block.
    let noise: Vec<u8> = Random::octets(40_000, 5).into_iter().filter(|octet| *octet > 0).collect();
    let largest = headers(&[("x-one", &noise[..32_768]), ("x-two", &noise[..32_738])]);
    assert_eq!(largest.encoded_len(), 65_536);
    let mut repeated = headers(&[(":status", b"200"), (":version", b"HTTP/1.1")]);
    for cookie in ["a=1", "b=2", "c=3"] {
        repeated.push("set-cookie", cookie.as_bytes()).unwrap();
    }
    vec![
        headers(&[
            (":method", b"GET"),
            (":path", b"/films/a film.mkv?x=1"),
            (":version", b"HTTP/1.1"),
            (":host", b"localhost:1443"),
            (":scheme", b"https"),
            ("range", b"bytes=0-"),
            ("accept", b""),
        ]),
        repeated,
        Headers::new(),
        largest,
        headers(&[(":method", b"GET"), (":path", "/süß/日本.mp3".as_bytes())]),
    ]
}

fn headers(pairs: &[(&str, &[u8])]) -> Headers {
    let mut list = Headers::new();
    for (name, value) in pairs {
        list.push(name, value).unwrap();
    }
    list
}

/// Names and values as the readers print them: hexadecimal, several values of a name joined by NUL.
fn in_hex(list: &Headers) -> Vec<[String; 2]> {
    let mut pairs: Vec<(String, Vec<u8>)> = Vec::new();
    for (name, value) in list.iter() {
        match pairs.last_mut() {
            Some(last) if last.0 == name => {
                last.1.push(0);
                last.1.extend_from_slice(value);
            }
            _ => pairs.push((name.to_owned(), value.to_vec())),
        }
    }
    let hex = |octets: &[u8]| octets.iter().map(|octet| format!("{octet:02x}")).collect();
    pairs.iter().map(|(name, value)| [hex(name.as_bytes()), hex(value)]).collect()
}

fn parse(line: &str) -> Vec<[String; 2]> {
    let line: serde_json::Value = serde_json::from_str(line).unwrap();
    let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
    let pairs = line.as_array().unwrap().iter();
    pairs.map(|pair| [text(&pair[0]), text(&pair[1])]).collect()
}
