//! Responses that break off right behind their head: their clients see what came, and then a cut.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::TcpStream,
    sync::Arc,
};

use rustls::{ClientConnection, StreamOwned, pki_types::ServerName};
use spdy_tests::{
    fixture::Proxy,
    raw::{Name, RawSession},
    visitor::{End, Visitor},
    wire::{Frame, tls},
};

use crate::attacks::opened;

/// RST_STREAM: the agent failed.
const INTERNAL_ERROR: u32 = 6;
/// Bytes that a response with a length announces.
const ANNOUNCED: usize = 1_000;

/// A response that breaks off.
#[derive(Clone, Copy, Debug)]
struct Broken {
    method: &'static str,
    version: &'static str,
    /// Whether it announces [`ANNOUNCED`] bytes.
    has_length: bool,
    /// Bytes of the body that come before the break.
    len: usize,
    /// How many of its three parts (head, body, reset) go out in the first write.
    parts: usize,
}

fn all() -> Vec<Broken> {
    let mut all = Vec::new();
    for method in ["GET", "POST"] {
        for version in ["1.1", "1.0"] {
            for has_length in [true, false] {
                for len in [0, 1, ANNOUNCED - 1] {
                    for parts in [3, 2, 1] {
                        all.push(Broken { method, version, has_length, len, parts });
                    }
                }
            }
        }
    }
    all
}

impl Broken {
    fn request(&self) -> String {
        let body = if self.method == "POST" { "Content-Length: 3\r\n\r\nabc" } else { "\r\n" };
        format!("{} /x HTTP/{}\r\nHost: x\r\n{body}", self.method, self.version)
    }

    fn answer(&self, agent: &mut RawSession) {
        let id = agent.wait_for(opened).unwrap();
        let mut pairs: Vec<(&str, &[u8])> = vec![(":status", b"200 OK"), (":version", b"HTTP/1.1")];
        if self.has_length {
            pairs.push(("content-length", b"1000"));
        }
        let head =
            agent.writer.encode_block(&pairs, |block| Frame::SynReply { id, fin: false, block });
        let mut parts = vec![head.unwrap()];
        if self.len > 0 {
            let octets = vec![b'b'; self.len];
            parts.push(Frame::Data { id, fin: false, octets }.encode());
        } else {
            parts.push(Vec::new());
        }
        parts.push(Frame::RstStream(id, INTERNAL_ERROR).encode());
        agent.octets.write(&parts[..self.parts].concat()).unwrap();
        for part in parts[self.parts..].iter().filter(|part| !part.is_empty()) {
            agent.octets.write(part).unwrap();
        }
    }
}

#[test]
fn head_and_body_that_came_are_delivered_before_the_cut() {
    const TIMES: usize = 1_000;
    let proxy = Proxy::start(&["--allow-anonymous", "--hold", "0"]);
    let mut agent = RawSession::dial(proxy.tunnel, Name::Own).unwrap();
    proxy.wait_for_tunnel("anonymous");
    for broken in all().into_iter().cycle().take(TIMES) {
        let mut visitor = Visitor::connect(proxy.http);
        visitor.send(broken.request());
        broken.answer(&mut agent);
        let head = visitor.try_head(broken.method);
        let head = head.unwrap_or_else(|error| panic!("{broken:?}: no head: {error}"));
        assert_eq!(head.status, 200, "{broken:?}");
        let body = visitor.finish();
        assert_ne!(body.end, End::Whole, "{broken:?}");
        assert_eq!(body.len, broken.len as u64, "{broken:?}: {:?}", body.end);
    }
}

#[test]
fn head_and_body_that_came_are_delivered_before_the_cut_of_tls() {
    let proxy = Proxy::start(&["--allow-anonymous", "--hold", "0", "-t"]);
    let mut agent = RawSession::dial(proxy.tunnel, Name::Own).unwrap();
    proxy.wait_for_tunnel("anonymous");
    let config = Arc::new(tls::client_config().unwrap());
    for broken in all().into_iter().cycle().take(100) {
        let name = ServerName::try_from("localhost").unwrap();
        let connection = ClientConnection::new(Arc::clone(&config), name).unwrap();
        let mut stream = StreamOwned::new(connection, TcpStream::connect(proxy.http).unwrap());
        stream.write_all(broken.request().as_bytes()).unwrap();
        broken.answer(&mut agent);
        let mut received = Vec::new();
        let ended = stream.read_to_end(&mut received).unwrap_err().kind();
        assert!(matches!(ended, ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset), "{ended}");
        let text = String::from_utf8(received).unwrap();
        assert!(text.starts_with("HTTP/1."), "{broken:?}: {text:?}");
        let body = text.split_once("\r\n\r\n").unwrap().1;
        assert_eq!(body.matches('b').count(), broken.len, "{broken:?}");
    }
}

#[test]
fn head_without_a_body_is_whole_whatever_follows() {
    let proxy = Proxy::start(&["--allow-anonymous", "--hold", "0"]);
    let mut agent = RawSession::dial(proxy.tunnel, Name::Own).unwrap();
    proxy.wait_for_tunnel("anonymous");
    let mut visitor = Visitor::connect(proxy.http);
    for _ in 0..20 {
        let broken = Broken { method: "HEAD", version: "1.1", has_length: true, len: 0, parts: 3 };
        visitor.send(broken.request());
        broken.answer(&mut agent);
        let head = visitor.try_head("HEAD").unwrap();
        assert_eq!((head.status, head.header("content-length")), (200, Some("1000")));
    }
}

#[test]
fn lengths_that_contradict_each_other_are_502_for_every_method() {
    let proxy = Proxy::start(&["--allow-anonymous", "--hold", "0"]);
    let mut agent = RawSession::dial(proxy.tunnel, Name::Own).unwrap();
    proxy.wait_for_tunnel("anonymous");
    let long: &[u8] = b"18446744073709551616";
    for (lengths, status) in [
        (&[&b"3"[..], b"4"][..], 502),
        (&[b"x"], 502),
        (&[b"-1"], 502),
        (&[b"3, 3"], 502),
        (&[b""], 502),
        (&[long], 502),
        (&[b"3", b"3"], 200),
    ] {
        for method in ["HEAD", "GET"] {
            let mut visitor = Visitor::connect(proxy.http);
            visitor.send(format!("{method} /x HTTP/1.1\r\nHost: x\r\n\r\n"));
            let id = agent.wait_for(opened).unwrap();
            // A name stands once in a header block, its values between zeros.
            let length = lengths.join(&0);
            let pairs: [(&str, &[u8]); 3] =
                [(":status", b"200 OK"), (":version", b"HTTP/1.1"), ("content-length", &length)];
            let reply = |block| Frame::SynReply { id, fin: method == "HEAD", block };
            agent.writer.write_block(&pairs, reply).unwrap();
            if method == "GET" {
                let body = Frame::Data { id, fin: true, octets: b"abc".to_vec() };
                agent.writer.write(&body).unwrap();
            }
            let head = visitor.try_head(method).unwrap();
            assert_eq!(head.status, status, "{method} {lengths:?}");
            if status == 200 {
                assert_eq!(head.all("content-length"), ["3"]);
            }
        }
    }
}
