//! Habits of other people's stacks that were measured but come too seldom to wait for, frame by
//! frame.
#![expect(clippy::unwrap_used, reason = "a test that panics has failed, with its line")]

use std::{io::Read, net::SocketAddr, thread};

use spdy_tests::{
    fixture::{Proxy, Random, Sha256},
    http::{Request, Response, wait_for_agent},
    wire::{Frame, FrameReader, FrameWriter, block::Inflater, tls::dial},
};

/// npm's server forgets a stream once its data is out and answers credit for it with RST_STREAM
/// INVALID_STREAM, now and then ahead of its FIN.
#[test]
fn reset_between_the_data_and_its_fin_costs_nothing() {
    let body = Random::octets(50_000, 21);
    let answer = fetch_from(|id, writer| {
        let len = body.len().to_string();
        reply(id, writer, &[("content-length", len.as_bytes())]);
        for piece in body.chunks(8_192) {
            write(writer, &Frame::Data { id, fin: false, octets: piece.to_vec() });
        }
        write(writer, &Frame::RstStream(id, 2));
        write(writer, &Frame::Data { id, fin: true, octets: Vec::new() });
    });
    assert_eq!((answer.status, answer.len), (200, 50_000));
    assert_eq!(answer.sha256, Sha256::of(&body));
}

/// npm's server asks to keep its settings, names one twice, and has a frame type of its own; NOOP is
/// SPDY/2's.
#[test]
fn settings_of_any_kind_and_unknown_frames_are_no_fault() {
    let answer = fetch_from(|id, writer| {
        write(
            writer,
            &Frame::Settings(vec![(1 << 24 | 7, 1 << 20), (7, 65_536), (0x00ff_ff01, 1)]),
        );
        write(writer, &Frame::Other(0xf000, [&[0, 0, 0, 3][..], b"nas"].concat()));
        write(writer, &Frame::Other(5, Vec::new()));
        reply(id, writer, &[("content-length", b"2")]);
        write(writer, &Frame::WindowUpdate(id, 1));
        write(writer, &Frame::Data { id, fin: true, octets: b"ok".to_vec() });
        // For a stream that is over.
        write(writer, &Frame::WindowUpdate(id, 65_536));
        write(writer, &Frame::RstStream(id, 2));
    });
    assert_eq!((answer.status, answer.text()), (200, "ok".to_owned()));
}

/// Amahi's agent never puts FIN on SYN_REPLY; others do, where there is no body.
#[test]
fn reply_without_body_may_carry_fin() {
    let answer = fetch_from(|id, writer| {
        let pairs: [(&str, &[u8]); 2] = [(":status", b"204 No Content"), (":version", b"HTTP/1.1")];
        let frame = |block| Frame::SynReply { id, fin: true, block };
        writer.write_block(&pairs, frame).unwrap();
    });
    assert_eq!((answer.status, answer.len), (204, 0));
}

/// Other stacks send what belongs to a connection of theirs; ours would not.
#[test]
fn headers_of_the_agents_own_connection_do_not_pass() {
    let hops: [(&str, &[u8]); 6] = [
        ("connection", b"close, X-Private"),
        ("x-private", b"1"),
        ("keep-alive", b"timeout=5"),
        ("proxy-connection", b"close"),
        ("transfer-encoding", b"chunked"),
        ("upgrade", b"h2c"),
    ];
    let answer = fetch_from(|id, writer| {
        let kept: [(&str, &[u8]); 2] = [("content-length", b"2"), ("x-kept", b"1")];
        reply(id, writer, &[&hops[..], &kept].concat());
        write(writer, &Frame::Data { id, fin: true, octets: b"ok".to_vec() });
    });
    assert_eq!((answer.status, answer.text()), (200, "ok".to_owned()));
    assert_eq!((answer.all("x-kept"), answer.all("content-length")), (vec!["1"], vec!["2"]));
    for (name, _) in hops.iter().filter(|(name, _)| *name != "connection") {
        assert_eq!(answer.all(name), [""; 0], "{name}");
    }
    // The visitor's own wish.
    assert_eq!(answer.all("connection"), ["close"]);
}

/// Has the real proxy GET `/asked` from an agent that answers HEAD with 200 and GET as told.
fn fetch_from(answer: impl Fn(u32, &FrameWriter) + Send) -> Response {
    let proxy = Proxy::start(&["--allow-anonymous"]);
    thread::scope(|scope| {
        let (tunnel, http) = (proxy.tunnel, proxy.http);
        let agent = scope.spawn(move || serve(tunnel, answer));
        wait_for_agent(http);
        let answer = Request::get("/asked").send(http).unwrap();
        // Ends the connection and thereby the agent.
        drop(proxy);
        agent.join().unwrap();
        answer
    })
}

fn serve(proxy: SocketAddr, answer: impl Fn(u32, &FrameWriter)) {
    let (mut reader, writer) = dial(proxy).unwrap();
    let put = "PUT / HTTP/1.1\r\nHost: localhost:1444\r\nContent-Length: 12\r\n\r\nHello from C";
    writer.write(put.as_bytes()).unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"Hello from P") {
        let mut octet = [0];
        reader.read_exact(&mut octet).unwrap();
        head.push(octet[0]);
    }
    let (mut reader, writer) = (FrameReader::new(reader), FrameWriter::new(writer));
    let mut inflater = Inflater::new();
    // The proxy is killed at the end, so that the connection may end in any way.
    while let Ok(Some(frame)) = reader.read(None) {
        match frame {
            Frame::SynStream { id, block, .. } => {
                let pairs = inflater.pairs(&block).unwrap();
                if pairs.iter().any(|(name, value)| name == ":method" && value == b"HEAD") {
                    reply(id, &writer, &[]);
                    write(&writer, &Frame::Data { id, fin: true, octets: Vec::new() });
                } else {
                    answer(id, &writer);
                }
            }
            Frame::Ping(id) if id % 2 == 1 => write(&writer, &Frame::Ping(id)),
            _ => {}
        }
    }
}

fn reply(id: u32, writer: &FrameWriter, headers: &[(&str, &[u8])]) {
    let mut pairs: Vec<(&str, &[u8])> = vec![(":status", b"200 OK"), (":version", b"HTTP/1.1")];
    pairs.extend_from_slice(headers);
    writer.write_block(&pairs, |block| Frame::SynReply { id, fin: false, block }).unwrap();
}

fn write(writer: &FrameWriter, frame: &Frame) {
    writer.write(frame).unwrap();
}
