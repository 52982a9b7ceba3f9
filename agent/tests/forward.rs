//! Forwarded services over a tunnel whose other end is the test: what no proxy of ours sends.
#![allow(clippy::unwrap_used, reason = "a helper that fails is a failed test")]

mod fixture;

use std::net::{TcpListener, TcpStream};

use async_io::Async;
use fixture::{Folder, exchange, receive, request, send, with_origin};
use futures_lite::{AsyncReadExt as _, AsyncWriteExt as _};
use spdy_agent::origin::{Options, forward::Service};

type Connection = Async<TcpStream>;

/// A service that is the test itself, and options that forward `/x` to it.
fn service(folder: &Folder) -> (Async<TcpListener>, Options) {
    let listener = Async::<TcpListener>::bind(([127, 0, 0, 1], 0)).unwrap();
    let at = listener.get_ref().local_addr().unwrap();
    let mut options = Options::new(folder.path());
    options.forwards = vec![Service::parse(&format!("/x=http://{at}/base")).unwrap()];
    (listener, options)
}

/// The next request, up to the end of its head, and what came behind that.
async fn asked(listener: &Async<TcpListener>) -> (Connection, String, Vec<u8>) {
    let (mut connection, _) = listener.accept().await.unwrap();
    let mut octets = Vec::new();
    loop {
        if let Some(end) = octets.windows(4).position(|window| window == b"\r\n\r\n") {
            let rest = octets.split_off(end + 4);
            return (connection, String::from_utf8(octets).unwrap(), rest);
        }
        let mut piece = [0; 4_096];
        let read = connection.read(&mut piece).await.unwrap();
        assert!(read > 0, "{}", octets.escape_ascii());
        octets.extend_from_slice(&piece[..read]);
    }
}

async fn until_closed(mut connection: Connection) -> Vec<u8> {
    let mut octets = Vec::new();
    // RST is an end, too.
    let _ = connection.read_to_end(&mut octets).await;
    octets
}

#[test]
fn a_stream_that_ends_closes_the_connection_wherever_it_is() {
    let folder = Folder::new();
    let (listener, options) = service(&folder);
    with_origin(options, |tunnel, _| async move {
        let mut switching = request("GET", "/x/", &[]);
        switching.upgrade = Some("echo".to_owned());
        let put = request("PUT", "/x/", &[("content-length", "9")]);
        for (head, is_whole, answer) in [
            (request("GET", "/x/", &[]), true, ""),
            (request("GET", "/x/", &[]), true, "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n1"),
            (request("GET", "/x/", &[]), true, "HTTP/1.1 200 OK\r\n\r\n1"),
            (put.clone(), false, ""),
            (put, false, "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n1"),
            (switching.clone(), false, ""),
            (switching, false, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: echo\r\n\r\n1"),
        ] {
            let stream = tunnel.open(&head, 3, is_whole).await.unwrap();
            let (mut connection, _, _) = asked(&listener).await;
            connection.write_all(answer.as_bytes()).await.unwrap();
            if !answer.is_empty() {
                assert!(stream.response().await.is_ok(), "{answer}");
            }
            drop(stream);
            assert!(until_closed(connection).await.is_empty());
        }
    });
}

#[test]
fn octets_of_another_protocol_wait_for_consent() {
    let folder = Folder::new();
    let (listener, options) = service(&folder);
    with_origin(options, |tunnel, _| async move {
        let mut head = request("GET", "/x/", &[]);
        head.upgrade = Some("echo".to_owned());
        for consents in [false, true] {
            let stream = tunnel.open(&head, 3, false).await.unwrap();
            send(&stream, b"GET /secret HTTP/1.1\r\nHost: h\r\n\r\n", true).await.unwrap();
            let (mut connection, _, rest) = asked(&listener).await;
            assert!(rest.is_empty());
            let answer: &[u8] = if consents {
                b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: echo\r\n\r\n"
            } else {
                b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
            };
            connection.write_all(answer).await.unwrap();
            assert_eq!(stream.response().await.unwrap().status, if consents { 101 } else { 200 });
            if consents {
                assert!(until_closed(connection).await.starts_with(b"GET /secret "));
            } else {
                assert!(until_closed(connection).await.is_empty());
            }
        }
    });
}

#[test]
fn heads_of_other_peers_are_made_sound_or_refused() {
    let folder = Folder::new();
    let (listener, options) = service(&folder);
    with_origin(options, |tunnel, _| async move {
        for (name, value) in
            [("a", "b\r\nc: d"), ("a", "b\nc"), ("a b", "c"), ("content-length", "+1")]
        {
            let answer = exchange(&tunnel, "GET", "/x/", &[(name, value)], None).await;
            assert_eq!(answer.status(), 400, "{name}: {value:?}");
        }
        // Old proxies pass paths on as they got them, and say nothing of the visitor.
        let stream = tunnel.open(&request("GET", "/x/a b\u{e4}", &[]), 3, true).await.unwrap();
        let (mut connection, head, _) = asked(&listener).await;
        assert!(head.starts_with("GET /base/a%20b%C3%A4 HTTP/1.1\r\n"), "{head}");
        assert!(head.contains("\r\nx-forwarded-proto: http\r\n"), "{head}");
        connection.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await.unwrap();
        assert_eq!(receive(&stream).await.unwrap().text(), "ok");
    });
}

#[test]
fn a_body_is_announced_only_if_one_comes() {
    let folder = Folder::new();
    let (listener, options) = service(&folder);
    with_origin(options, |tunnel, _| async move {
        for (method, body, framing, sent) in [
            ("GET", &b""[..], "via: 1.1 spdy-agent\r\nconnection: close\r\n\r\n", &b""[..]),
            ("POST", b"", "content-length: 0\r\nconnection: close\r\n\r\n", b""),
            (
                "GET",
                b"abc",
                "transfer-encoding: chunked\r\nconnection: close\r\n\r\n",
                b"3\r\nabc\r\n0\r\n\r\n",
            ),
            (
                "POST",
                b"abc",
                "transfer-encoding: chunked\r\nconnection: close\r\n\r\n",
                b"3\r\nabc\r\n0\r\n\r\n",
            ),
        ] {
            // FIN comes apart from the head.
            let stream = tunnel.open(&request(method, "/x/", &[]), 3, false).await.unwrap();
            send(&stream, body, true).await.unwrap();
            let (mut connection, head, mut rest) = asked(&listener).await;
            assert!(head.ends_with(framing), "{head}");
            while rest.len() < sent.len() {
                let mut piece = [0; 64];
                let read = connection.read(&mut piece).await.unwrap();
                rest.extend_from_slice(&piece[..read]);
            }
            assert_eq!(rest, sent);
            connection.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await.unwrap();
            assert_eq!(receive(&stream).await.unwrap().status(), 200);
        }
        // A length that the body does not keep to.
        for body in [&b"ab"[..], b"abcd"] {
            let headers = [("content-length", "3")];
            let stream = tunnel.open(&request("PUT", "/x/", &headers), 3, false).await.unwrap();
            send(&stream, body, true).await.unwrap();
            let (connection, _, rest) = asked(&listener).await;
            assert_eq!(receive(&stream).await.unwrap().status(), 400);
            assert!(rest.len() + until_closed(connection).await.len() < 3);
        }
    });
}
