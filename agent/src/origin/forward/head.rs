//! Heads between the tunnel's lists and HTTP/1.1 as the service speaks it.
//!
//! It owns which headers are added, changed or dropped on either way and how long a body is (RFC
//! 9112 6). It is pure; hop-by-hop headers are mostly [`spdy_protocol::head`]'s work.

use spdy_protocol::head::{HOP_BY_HOP, RequestHead, ResponseHead};

use super::{Failure, rewrite, service::Service};

/// What follows the head of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outgoing {
    /// Nothing.
    Nothing,
    /// So many octets.
    Length(u64),
    /// A body of unknown length.
    Chunked,
    /// A body of so many octets, then another protocol, if the service agrees.
    Upgrade(u64),
}

/// How the body of an answer ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Incoming {
    /// There is none.
    Nothing,
    /// After so many octets, at least one.
    Length(u64),
    /// With the last chunk.
    Chunked,
    /// With the connection.
    Closed,
    /// It is no body: the protocol was changed.
    Upgraded,
}

/// What stands at the start of some octets.
#[derive(Debug)]
pub(super) enum Parsed {
    /// The head is not whole.
    More,
    /// A head to be skipped, of so many octets (RFC 9110 15.2).
    Interim(usize),
    /// The answer's head of so many octets, and how its body ends.
    Final(usize, ResponseHead, Incoming),
}

/// What the head says of the body; `None` where only the body can tell.
///
/// # Errors
/// A length that is none, or several (RFC 9112 6.3).
pub(super) fn outgoing(request: &RequestHead) -> Result<Option<Outgoing>, Failure> {
    let length = content_length(request.headers.get_all("content-length"));
    let length = length.map_err(|()| Failure::Request("a length that is none"))?;
    if upgrade(request).is_some() {
        // The stream stays open behind the body: its end is where the length says, or at once.
        return Ok(Some(Outgoing::Upgrade(length.unwrap_or(0))));
    }
    let length = length.or_else(|| request.upgrade.is_some().then_some(0));
    Ok(length.map(|length| if length == 0 { Outgoing::Nothing } else { Outgoing::Length(length) }))
}

/// The head as the service gets it.
///
/// # Errors
/// A part that HTTP/1.1 cannot carry: it could be read as two requests.
pub(super) fn request(
    service: &Service,
    request: &RequestHead,
    path: &[u8],
    outgoing: Outgoing,
) -> Result<Vec<u8>, Failure> {
    if !is_token(request.method.as_bytes()) {
        return Err(Failure::Request("a method that is none"));
    }
    let mut head = Vec::with_capacity(request.headers.encoded_len() + path.len() + 256);
    head.extend_from_slice(request.method.as_bytes());
    head.push(b' ');
    head.extend_from_slice(path);
    head.extend_from_slice(b" HTTP/1.1\r\n");
    let keeps_host = service.keeps_host() && !request.host.is_empty();
    let host = if keeps_host { request.host.clone() } else { service.authority() };
    line(&mut head, "host", host.as_bytes());
    for (name, value) in request.headers.iter().filter(|(name, _)| passes(name)) {
        if !is_token(name.as_bytes()) || !value.iter().all(is_text) {
            return Err(Failure::Request("a header that is none"));
        }
        line(&mut head, name, value);
    }
    // One line, however many the tunnel carried (RFC 6265 5.4).
    let cookies: Vec<&[u8]> = request.headers.get_all("cookie").collect();
    if !cookies.iter().copied().flatten().all(is_text) {
        return Err(Failure::Request("a header that is none"));
    }
    if !cookies.is_empty() {
        line(&mut head, "cookie", &cookies.join(&b"; "[..]));
    }
    // What the proxy did not say, it left to us: old ones say nothing.
    for (name, value) in [
        ("x-forwarded-proto", request.scheme.as_bytes()),
        ("x-forwarded-host", request.host.as_bytes()),
    ] {
        if request.headers.get(name).is_none() && !value.is_empty() && value.iter().all(is_text) {
            line(&mut head, name, value);
        }
    }
    if !service.hidden_prefix().is_empty() {
        line(&mut head, "x-forwarded-prefix", service.hidden_prefix().as_bytes());
    }
    line(&mut head, "via", format!("1.1 {PSEUDONYM}").as_bytes());
    match outgoing {
        Outgoing::Nothing if METHODS_WITH_BODY.contains(&request.method.as_str()) => {
            line(&mut head, "content-length", b"0");
        }
        Outgoing::Length(length) | Outgoing::Upgrade(length @ 1..) => {
            line(&mut head, "content-length", length.to_string().as_bytes());
        }
        Outgoing::Chunked => line(&mut head, "transfer-encoding", b"chunked"),
        Outgoing::Nothing | Outgoing::Upgrade(0) => {}
    }
    match upgrade(request) {
        Some(protocol) => {
            line(&mut head, "connection", b"upgrade");
            line(&mut head, "upgrade", protocol.as_bytes());
        }
        None => line(&mut head, "connection", b"close"),
    }
    head.extend_from_slice(b"\r\n");
    Ok(head)
}

/// Whether the request has been here as often as no sane set-up needs: a target that leads back.
pub(super) fn loops(request: &RequestHead) -> bool {
    let count = |value: &[u8]| {
        let own = PSEUDONYM.as_bytes();
        value.windows(own.len()).filter(|window| *window == own).count()
    };
    request.headers.get_all("via").map(count).sum::<usize>() >= ROUNDS
}

/// Reads what the service answers.
///
/// # Errors
/// An answer that is not HTTP/1, or that a tunnel cannot carry.
pub(super) fn parse(
    service: &Service,
    request: &RequestHead,
    octets: &[u8],
) -> Result<Parsed, Failure> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut answer = httparse::Response::new(&mut headers);
    let len = match answer.parse(octets) {
        Ok(httparse::Status::Complete(len)) => len,
        Ok(httparse::Status::Partial) if octets.len() < HEAD_MAX => return Ok(Parsed::More),
        Ok(httparse::Status::Partial) => return Err(Failure::Answer("its head is too large")),
        Err(_) => return Err(Failure::Answer("its head is not HTTP/1")),
    };
    let status = answer.code.filter(|status| *status >= 100).unwrap_or_default();
    let mut head = ResponseHead::new(status);
    let all = |name: &'static str| {
        let named =
            answer.headers.iter().filter(move |header| header.name.eq_ignore_ascii_case(name));
        named.map(|header| header.value)
    };
    if status == 0 {
        return Err(Failure::Answer("its status is none"));
    }
    let codings: Vec<&[u8]> = all("transfer-encoding").collect();
    // Also where no body follows: a length that is none must reach nobody. Beside a transfer coding
    // it means nothing and is dropped.
    let length = match codings[..] {
        [] => content_length(all("content-length")),
        _ => Ok(None),
    };
    let length = length.map_err(|()| Failure::Answer("its length is none"))?;
    let incoming = match status {
        101 => {
            let protocol = upgrade(request).map(str::as_bytes);
            let agreed = protocol.is_some_and(|protocol| {
                all("upgrade").any(|value| value.trim_ascii().eq_ignore_ascii_case(protocol))
            });
            if !agreed {
                return Err(Failure::Answer("it changed to a protocol that nobody asked for"));
            }
            Incoming::Upgraded
        }
        100..=199 => return Ok(Parsed::Interim(len)),
        204 | 304 => Incoming::Nothing,
        _ if request.method == "HEAD" => Incoming::Nothing,
        _ => match (&codings[..], length) {
            ([], None) => Incoming::Closed,
            ([], Some(0)) => Incoming::Nothing,
            ([], Some(length)) => Incoming::Length(length),
            ([coding], _)
                if coding.trim_ascii().eq_ignore_ascii_case(b"chunked")
                    && answer.version == Some(1) =>
            {
                Incoming::Chunked
            }
            _ => return Err(Failure::Answer("it has a transfer coding that we do not have")),
        },
    };
    let hosts: Vec<&[u8]> = request
        .headers
        .get_all("x-forwarded-host")
        .chain([request.host.as_bytes()])
        .filter(|host| !host.is_empty())
        .collect();
    for header in answer.headers.iter() {
        let name = header.name.to_ascii_lowercase();
        let value = match name.as_str() {
            "location" | "content-location" => rewrite::location(service, &hosts, header.value),
            "set-cookie" => rewrite::cookie(service, header.value),
            // It offers ports of the service, which visitors cannot reach.
            "alt-svc" => continue,
            // Once, however often it was said; see below.
            "content-length" => continue,
            _ => header.value.to_vec(),
        };
        let added = head.headers.push(&name, &value);
        added.map_err(|_| Failure::Answer("it has a header that no tunnel carries"))?;
    }
    // Those of HEAD and 304 tell of another answer, one of 204 or 101 of none (RFC 9110 8.6).
    if let Some(length) = length.filter(|_| !matches!(status, 101 | 204)) {
        let added = head.headers.push("content-length", length.to_string().as_bytes());
        added.map_err(|_| Failure::Answer("it has a header that no tunnel carries"))?;
    }
    Ok(Parsed::Final(len, head, incoming))
}

/// The protocol that a request may change to. Not HTTP/2: every path of the service would be open
/// behind it.
fn upgrade(request: &RequestHead) -> Option<&str> {
    let protocol = request.upgrade.as_deref()?;
    let lower = protocol.to_ascii_lowercase();
    let valid = protocol.split('/').all(|part| is_token(part.as_bytes()));
    (valid && !lower.starts_with("h2") && !lower.starts_with("http")).then_some(protocol)
}

/// Whether a header of a visitor goes on as it is.
fn passes(name: &str) -> bool {
    match name {
        "x-forwarded-for" | "x-forwarded-proto" | "x-forwarded-host" => true,
        // What nobody on the way has checked; paths that overrule ours.
        _ if name.starts_with("x-forwarded-") => false,
        "x-original-url" | "x-rewrite-url" => false,
        // To CGI it is HTTP_PROXY, by which a program asks others (CVE-2016-5385).
        "proxy" => false,
        // Services behind CGI take `_`, and with some servers every other sign, for `-`, so it could
        // be any of these. nginx drops such names, too.
        _ if name.bytes().any(|byte| b"!#$%&'*+._`|~^".contains(&byte)) => false,
        // Ours: see request(). `Expect` was the proxy's to answer.
        "host" | "content-length" | "cookie" | "expect" | "proxy-authorization" => false,
        _ => !HOP_BY_HOP.contains(&name),
    }
}

fn line(head: &mut Vec<u8>, name: &str, value: &[u8]) {
    for part in [name.as_bytes(), b": ", value, b"\r\n"] {
        head.extend_from_slice(part);
    }
}

/// One number, however often it is repeated.
fn content_length<'a>(mut values: impl Iterator<Item = &'a [u8]>) -> Result<Option<u64>, ()> {
    let Some(first) = values.next() else { return Ok(None) };
    if values.any(|value| value != first) || !first.iter().all(u8::is_ascii_digit) {
        return Err(());
    }
    std::str::from_utf8(first).ok().and_then(|text| text.parse().ok()).map(Some).ok_or(())
}

fn is_token(octets: &[u8]) -> bool {
    let token = |octet: &u8| octet.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(octet);
    !octets.is_empty() && octets.iter().all(token)
}

fn is_text(octet: &u8) -> bool {
    matches!(octet, b'\t' | b' '..=b'~' | 0x80..)
}

/// What we call ourselves in `Via` (RFC 9110 7.6.3).
const PSEUDONYM: &str = "spdy-agent";
/// Times that a request may have come through an agent.
const ROUNDS: usize = 4;
/// Methods that a service may want a length of, also where nothing follows.
const METHODS_WITH_BODY: [&str; 3] = ["POST", "PUT", "PATCH"];
/// Octets of the longest head of an answer: a tunnel carries no longer one.
pub(super) const HEAD_MAX: usize = 64 << 10;
/// Header lines of an answer.
const HEADERS_MAX: usize = 128;

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(method: &str, headers: &[(&str, &[u8])]) -> RequestHead {
        let mut request = RequestHead::get("/x/");
        request.method = method.to_owned();
        request.host = "nas1.example".to_owned();
        for (name, value) in headers {
            request.headers.push(name, value).unwrap();
        }
        request
    }

    fn service() -> Service {
        Service::parse("/x=http://127.0.0.1:8096").unwrap()
    }

    fn written(service: &Service, asked: &RequestHead, outgoing: Outgoing) -> String {
        String::from_utf8(request(service, asked, b"/a?b", outgoing).unwrap()).unwrap()
    }

    fn read(method: &str, answer: &str) -> Result<Parsed, Failure> {
        parse(&service(), &asked(method, &[]), answer.as_bytes())
    }

    fn incoming(method: &str, answer: &str) -> Incoming {
        match read(method, answer) {
            Ok(Parsed::Final(len, _, incoming)) if len == answer.len() => incoming,
            other => panic!("{answer:?}: {other:?}"),
        }
    }

    #[test]
    fn request_goes_out_with_what_the_service_must_know() {
        let head = asked(
            "GET",
            &[
                ("accept", b"a"),
                ("accept", b"b"),
                ("cookie", b"c=1"),
                ("cookie", b"d=2"),
                ("x-forwarded-for", b"192.0.2.7"),
                ("x-forwarded-proto", b"https"),
                ("via", b"1.1 front"),
            ],
        );
        let text = written(&service(), &head, Outgoing::Nothing);
        assert_eq!(
            text,
            "GET /a?b HTTP/1.1\r\nhost: 127.0.0.1:8096\r\naccept: a\r\naccept: b\r\n\
             x-forwarded-for: 192.0.2.7\r\nx-forwarded-proto: https\r\nvia: 1.1 front\r\n\
             cookie: c=1; d=2\r\nx-forwarded-host: nas1.example\r\nx-forwarded-prefix: /x\r\n\
             via: 1.1 spdy-agent\r\nconnection: close\r\n\r\n"
        );
        let keeps = Service::parse("/x=http://h,keep-host,keep-prefix").unwrap();
        let text = written(&keeps, &head, Outgoing::Nothing);
        assert!(text.contains("\r\nhost: nas1.example\r\n"), "{text}");
        assert!(!text.contains("x-forwarded-prefix"), "{text}");
    }

    #[test]
    fn headers_that_nobody_checked_or_that_are_ours_do_not_pass() {
        let names = [
            "x-forwarded-prefix",
            "x-forwarded-user",
            "x-original-url",
            "x-rewrite-url",
            "x_forwarded_for",
            "x_real_ip",
            "x.original.url",
            "x~forwarded!user",
            "proxy",
            "expect",
            "te",
            "transfer-encoding",
            "connection",
            "proxy-authorization",
            "host",
        ];
        let head = asked("GET", &names.map(|name| (name, &b"evil"[..])));
        let text = written(&service(), &head, Outgoing::Nothing);
        assert!(!text.contains("evil"), "{text}");
    }

    #[test]
    fn a_request_that_could_be_read_as_two_is_refused() {
        for (name, value) in [
            ("a", &b"1\r\nb: 2"[..]),
            ("a", b"1\nb"),
            ("a\r\nb", b""),
            ("a b", b""),
            ("a:b", b""),
            ("cookie", b"a\r\nb"),
        ] {
            let head = asked("GET", &[(name, value)]);
            let refused = request(&service(), &head, b"/", Outgoing::Nothing);
            assert!(matches!(refused, Err(Failure::Request(_))), "{name:?}");
        }
        let head = asked("GET/x", &[]);
        assert!(matches!(
            request(&service(), &head, b"/", Outgoing::Nothing),
            Err(Failure::Request(_))
        ));
    }

    #[test]
    fn bodies_are_announced_as_they_will_come() {
        let outgoing = |values: &[&[u8]]| {
            let lengths: Vec<_> = values.iter().map(|value| ("content-length", *value)).collect();
            outgoing(&asked("POST", &lengths)).ok()
        };
        assert_eq!(outgoing(&[]), Some(None));
        assert_eq!(outgoing(&[b"0"]), Some(Some(Outgoing::Nothing)));
        assert_eq!(outgoing(&[b"7", b"7"]), Some(Some(Outgoing::Length(7))));
        for values in [&[&b"7"[..], b"8"][..], &[b"+7"], &[b""], &[b"18446744073709551616"]] {
            assert_eq!(outgoing(values), None, "{values:?}");
        }
        let post = asked("POST", &[("content-length", b"9")]);
        let ends = |outgoing, wanted: &str| {
            let text = written(&service(), &post, outgoing);
            let end = text.split_once("via: 1.1 spdy-agent\r\n").unwrap().1;
            assert_eq!(end, format!("{wanted}connection: close\r\n\r\n"));
        };
        ends(Outgoing::Nothing, "content-length: 0\r\n");
        ends(Outgoing::Length(7), "content-length: 7\r\n");
        ends(Outgoing::Chunked, "transfer-encoding: chunked\r\n");
    }

    #[test]
    fn upgrades_are_passed_on_but_not_to_http_2() {
        let mut head = asked("GET", &[]);
        for (protocol, passes) in [
            ("websocket", true),
            ("Foo/1", true),
            ("h2c", false),
            ("HTTP/2.0", false),
            ("a\r\nb", false),
            ("", false),
        ] {
            head.upgrade = Some(protocol.to_owned());
            let out = outgoing(&head).unwrap().unwrap();
            assert_eq!(out, if passes { Outgoing::Upgrade(0) } else { Outgoing::Nothing });
            let text = written(&service(), &head, out);
            let wanted = format!("connection: upgrade\r\nupgrade: {protocol}\r\n\r\n");
            assert_eq!(text.ends_with(&wanted), passes, "{text}");
        }
    }

    #[test]
    fn body_before_an_upgrade_has_its_length() {
        let mut head = asked("POST", &[("content-length", b"28")]);
        head.upgrade = Some("tcp".to_owned());
        let out = outgoing(&head).unwrap().unwrap();
        assert_eq!(out, Outgoing::Upgrade(28));
        let text = written(&service(), &head, out);
        let wanted = "content-length: 28\r\nconnection: upgrade\r\nupgrade: tcp\r\n\r\n";
        assert!(text.ends_with(wanted), "{text}");
        // One that is not passed on keeps its body.
        head.upgrade = Some("h2c".to_owned());
        assert_eq!(outgoing(&head).unwrap(), Some(Outgoing::Length(28)));
        head.headers.push("content-length", b"29").unwrap();
        assert!(outgoing(&head).is_err());
    }

    #[test]
    fn requests_that_go_in_circles_are_seen() {
        let via = |values: &[&[u8]]| {
            loops(&asked("GET", &values.iter().map(|value| ("via", *value)).collect::<Vec<_>>()))
        };
        assert!(!via(&[b"1.1 spdy-agent, 1.1 spdy-agent", b"1.1 spdy-agent"]));
        assert!(via(&[b"1.1 spdy-agent, 1.1 spdy-agent", b"1.1 spdy-agent, 1.1 spdy-agent"]));
    }

    #[test]
    fn answers_end_as_their_heads_say() {
        let ok = "HTTP/1.1 200 OK\r\n";
        for (method, head, wanted) in [
            ("GET", "Content-Length: 5\r\n", Incoming::Length(5)),
            ("GET", "Content-Length: 0\r\n", Incoming::Nothing),
            ("GET", "", Incoming::Closed),
            ("GET", "transfer-encoding: Chunked\r\n", Incoming::Chunked),
            ("GET", "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", Incoming::Chunked),
            ("HEAD", "Content-Length: 5\r\n", Incoming::Nothing),
            ("HEAD", "Transfer-Encoding: chunked\r\n", Incoming::Nothing),
        ] {
            assert_eq!(incoming(method, &format!("{ok}{head}\r\n")), wanted, "{method} {head}");
        }
        assert_eq!(incoming("GET", "HTTP/1.0 200 OK\r\n\r\n"), Incoming::Closed);
        for status in ["204 No Content", "304 Not Modified"] {
            let answer = format!("HTTP/1.1 {status}\r\nContent-Length: 5\r\n\r\n");
            assert_eq!(incoming("GET", &answer), Incoming::Nothing);
        }
    }

    #[test]
    fn lengths_that_are_none_are_failures_also_where_no_body_follows() {
        for lengths in
            [&["3", "4"][..], &["x"], &["-1"], &[""], &["1, 2"], &["18446744073709551616"]]
        {
            let lines: String =
                lengths.iter().map(|length| format!("Content-Length: {length}\r\n")).collect();
            for (method, status) in [
                ("GET", "200 OK"),
                ("HEAD", "200 OK"),
                ("HEAD", "404 Not Found"),
                ("GET", "204 No Content"),
                ("GET", "304 Not Modified"),
                ("GET", "103 Early Hints"),
            ] {
                let answer = format!("HTTP/1.1 {status}\r\n{lines}\r\n");
                let parsed = read(method, &answer);
                assert!(
                    matches!(parsed, Err(Failure::Answer(_))),
                    "{method} {answer:?}: {parsed:?}"
                );
            }
        }
    }

    #[test]
    fn a_length_is_told_once_and_only_where_it_means_something() {
        for (method, status, lines, wanted) in [
            ("GET", "200 OK", "Content-Length: 5\r\ncontent-length: 5\r\n", Some("5")),
            ("HEAD", "200 OK", "Content-Length: 007\r\n", Some("7")),
            ("HEAD", "200 OK", "Content-Length: 0\r\n", Some("0")),
            ("HEAD", "200 OK", "Transfer-Encoding: chunked\r\nContent-Length: x\r\n", None),
            ("GET", "200 OK", "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", None),
            ("GET", "304 Not Modified", "Content-Length: 5\r\n", Some("5")),
            ("GET", "204 No Content", "Content-Length: 5\r\n", None),
        ] {
            let answer = format!("HTTP/1.1 {status}\r\n{lines}\r\n");
            let Ok(Parsed::Final(_, head, _)) = read(method, &answer) else {
                panic!("{method} {answer:?}");
            };
            let told: Vec<_> = head.headers.get_all("content-length").collect();
            assert_eq!(told, Vec::from_iter(wanted.map(str::as_bytes)), "{method} {answer:?}");
        }
    }

    #[test]
    fn answers_that_are_not_sound_are_failures() {
        for answer in [
            "nonsense\r\n\r\n",
            "HTTP/2 200 OK\r\n\r\n",
            "HTTP/1.1 099 no\r\n\r\n",
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
            "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
            "HTTP/1.1 200 OK\r\na b: c\r\n\r\n",
        ] {
            assert!(matches!(read("GET", answer), Err(Failure::Answer(_))), "{answer}");
        }
        let long = format!("HTTP/1.1 200 OK\r\na: {}", "b".repeat(HEAD_MAX));
        assert!(matches!(read("GET", &long), Err(Failure::Answer(_))));
        let long = format!("HTTP/1.1 200 OK\r\na: {}\r\n\r\n", "b".repeat(40_000));
        assert!(matches!(read("GET", &long), Err(Failure::Answer(_))));
    }

    #[test]
    fn heads_are_read_in_every_split() {
        let answer = "HTTP/1.1 302 Found\r\nLocation: /a\r\nSet-Cookie: a=b; Path=/\r\n\
                      Set-Cookie: c=d\r\nAlt-Svc: h3=\":443\"\r\nContent-Length: 5\r\n\r\nbody!";
        let end = answer.len() - 5;
        for cut in 0..end {
            assert!(matches!(read("GET", &answer[..cut]), Ok(Parsed::More)), "{cut}");
        }
        let Ok(Parsed::Final(len, head, Incoming::Length(5))) = read("GET", answer) else {
            panic!("no head");
        };
        assert_eq!((len, head.status), (end, 302));
        assert_eq!(head.headers.get("location"), Some(&b"/x/a"[..]));
        let cookies: Vec<_> = head.headers.get_all("set-cookie").collect();
        assert_eq!(cookies, [&b"a=b; Path=/x/"[..], b"c=d"]);
        assert_eq!(head.headers.get("alt-svc"), None);
        assert_eq!(head.headers.get("content-length"), Some(&b"5"[..]));
        let interim = "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\n";
        assert!(matches!(read("GET", interim), Ok(Parsed::Interim(40))));
    }

    #[test]
    fn an_upgrade_must_be_the_one_asked_for() {
        let mut head = asked("GET", &[]);
        head.upgrade = Some("websocket".to_owned());
        let answer = |protocol: &str| {
            let text = format!(
                "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: \
                 {protocol}\r\n\r\n"
            );
            parse(&service(), &head, text.as_bytes())
        };
        assert!(matches!(answer("WebSocket"), Ok(Parsed::Final(_, _, Incoming::Upgraded))));
        assert!(matches!(answer("other"), Err(Failure::Answer(_))));
    }
}
