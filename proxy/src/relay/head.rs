//! Heads between hyper's types and the tunnel's.
//!
//! It owns which headers are added or dropped on the way. What is believed of a client is
//! [`super::client`]'s work, which headers are hop-by-hop [`spdy_protocol::head`]'s; the proxy's own
//! share of them (Connection, Transfer-Encoding, Date) is hyper's.

use std::str::FromStr;

use http::{
    HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Version, header, request::Parts,
};
use spdy_protocol::{
    head::{RequestHead, ResponseHead, is_hop_by_hop},
    headers::{Headers, InvalidHeader},
};

use super::{client::Client, failure::Failure, host::Host};

/// The host that a request is for; empty only in HTTP/1.0.
///
/// # Errors
/// No or several `Host` in HTTP/1.1 (RFC 9112 3.2), or one that no host can be; a target that is
/// an authority alone, which is for CONNECT only (RFC 9112 3.2.3).
pub(super) fn host(parts: &Parts) -> Result<Host<'_>, Failure> {
    let mut hosts = parts.headers.get_all(header::HOST).iter();
    let named = hosts.next();
    if hosts.next().is_some() {
        return Err(Failure::Request("several hosts"));
    }
    if named.is_none() && parts.version >= Version::HTTP_11 {
        return Err(Failure::Request("no host"));
    }
    // The absolute form wins over the header (RFC 9112 3.2.2).
    let authority = parts.uri.authority();
    if authority.is_some() && parts.uri.scheme().is_none() && parts.method != Method::CONNECT {
        return Err(Failure::Request("a target that is none"));
    }
    // Either must be one, also the one that does not count (RFC 9112 3.2).
    let parse = |text| Host::parse(text).ok_or(BAD_HOST);
    let named = named.map(|named| named.to_str().map_err(|_| BAD_HOST).and_then(parse));
    let named = named.unwrap_or(Ok(Host::NONE))?;
    authority.map_or(Ok(named), |authority| parse(authority.as_str()))
}

/// The protocol that a request asks to change to (RFC 9110 7.8): the first that it names.
pub(super) fn upgrade(parts: &Parts) -> Option<&str> {
    let asks = parts.headers.get_all(header::CONNECTION).iter().any(|value| {
        value
            .as_bytes()
            .split(|octet| *octet == b',')
            .any(|option| option.trim_ascii().eq_ignore_ascii_case(b"upgrade"))
    });
    if !asks || parts.version != Version::HTTP_11 {
        return None;
    }
    let first = parts.headers.get(header::UPGRADE)?.to_str().ok()?.split(',').next()?.trim();
    (!first.is_empty()).then_some(first)
}

/// What goes into the tunnel for a request; `upgrade` is left to the caller, who knows the agent.
///
/// # Errors
/// [`Failure::HeadTooLarge`] when SPDY cannot carry it, [`Failure::Method`] for CONNECT.
pub(super) fn request(
    parts: &Parts,
    host: Host<'_>,
    client: Client<'_>,
    request_id: &str,
) -> Result<RequestHead, Failure> {
    if parts.method == Method::CONNECT {
        return Err(Failure::Method);
    }
    let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
    let mut head = RequestHead::get(path.as_bytes());
    head.method = parts.method.as_str().to_owned();
    head.host = host.as_str().to_owned();
    head.scheme = if client.used_tls(&parts.headers) { "https" } else { "http" }.to_owned();
    let too_large = |InvalidHeader| Failure::HeadTooLarge;
    let connection = parts.headers.get_all(header::CONNECTION);
    for (name, value) in &parts.headers {
        // Before ours are added: a client must not have a say in those.
        let is_dropped = is_acted_upon(name, client)
            || client.is_withheld(name)
            || is_hop_by_hop(name.as_str(), connection.iter().map(HeaderValue::as_bytes));
        if !is_dropped {
            head.headers.push(name.as_str(), value.as_bytes()).map_err(too_large)?;
        }
    }
    let named = client.named(&parts.headers, host).ok_or(BAD_FORWARDED_HOST)?;
    let mut add = |name, value: &[u8]| head.headers.push(name, value).map_err(too_large);
    add("x-forwarded-for", &client.forwarded_for(&parts.headers))?;
    add("x-forwarded-proto", head.scheme.as_bytes())?;
    if named != Host::NONE {
        add("x-forwarded-host", named.as_str().as_bytes())?;
    }
    add("x-request-id", request_id.as_bytes())?;
    Ok(head)
}

/// The response for hyper, without a body.
///
/// # Errors
/// A status or header that HTTP cannot carry.
pub(super) fn response(head: &ResponseHead) -> Result<(StatusCode, HeaderMap), Failure> {
    let status = StatusCode::from_u16(head.status)
        .map_err(|_| Failure::Violation("a status out of range"))?;
    let mut headers = HeaderMap::with_capacity(head.headers.len() + 2);
    for (name, value) in head.headers.iter() {
        let name = HeaderName::from_bytes(name.as_bytes());
        let value = HeaderValue::from_bytes(value);
        let (Ok(name), Ok(value)) = (name, value) else {
            return Err(Failure::Violation("a header that HTTP cannot carry"));
        };
        headers.append(name, value);
    }
    Ok((status, headers))
}

/// The length that a response announces.
///
/// # Errors
/// No number, or several that differ (RFC 9112 6.3).
pub(super) fn content_length(headers: &Headers) -> Result<Option<u64>, Failure> {
    let mut lengths = headers.get_all("content-length");
    let Some(first) = lengths.next() else { return Ok(None) };
    let bad = Failure::Violation("a length that is none");
    if lengths.any(|length| length != first) || !first.iter().all(u8::is_ascii_digit) {
        return Err(bad);
    }
    let length = std::str::from_utf8(first).ok().and_then(|text| u64::from_str(text).ok());
    length.map(Some).ok_or(bad)
}

/// Headers that we have acted upon.
fn is_acted_upon(name: &HeaderName, client: Client<'_>) -> bool {
    let is_ours = client.is_checked && name == header::AUTHORIZATION;
    is_ours || name == header::HOST || name == header::EXPECT
}

const BAD_HOST: Failure = Failure::Request("a host that is none");
const BAD_FORWARDED_HOST: Failure = Failure::Request("a forwarded host that is none");

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use http::Request;

    use super::*;

    fn parts(headers: &[(&'static str, &'static str)]) -> Parts {
        let mut request = Request::builder().method("GET").uri("/a%20b?c=%2F");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    const STRANGER: Client<'static> = Client {
        peer: IpAddr::V4(Ipv4Addr::new(192, 0, 2, 7)),
        is_secure: true,
        is_checked: false,
        front_ends: &[],
    };

    fn nas1() -> Host<'static> {
        Host::parse("nas1").unwrap()
    }

    fn all(head: &RequestHead, name: &str) -> Vec<String> {
        let text = |value: &[u8]| String::from_utf8(value.to_vec()).unwrap();
        head.headers.get_all(name).map(text).collect()
    }

    #[test]
    fn a_stranger_cannot_say_who_he_is() {
        let parts = parts(&[
            ("host", "nas1"),
            ("x-forwarded-for", "10.0.0.1"),
            ("x-forwarded-proto", "http"),
            ("forwarded", "for=10.0.0.1"),
            ("x-request-id", "chosen"),
            ("accept", "a"),
            ("accept", "b"),
        ]);
        let head = request(&parts, nas1(), STRANGER, "id1").unwrap();
        assert_eq!(head.path, b"/a%20b?c=%2F");
        assert_eq!(head.scheme, "https");
        assert_eq!(all(&head, "x-forwarded-for"), ["192.0.2.7"]);
        assert_eq!(all(&head, "x-forwarded-proto"), ["https"]);
        assert_eq!(all(&head, "x-forwarded-host"), ["nas1"]);
        assert_eq!(all(&head, "x-request-id"), ["id1"]);
        assert_eq!(all(&head, "accept"), ["a", "b"]);
        assert!(all(&head, "forwarded").is_empty());
        assert!(all(&head, "host").is_empty());
    }

    #[test]
    fn a_trusted_front_end_speaks_for_its_clients() {
        let front_ends = ["127.0.0.1".parse().unwrap()];
        let client = Client {
            peer: IpAddr::V4(Ipv4Addr::LOCALHOST),
            is_secure: false,
            front_ends: &front_ends,
            ..STRANGER
        };
        let lines = [
            ("host", "nas1"),
            ("x-forwarded-for", "203.0.113.66"),
            ("x-forwarded-for", "198.51.100.1"),
            ("x-forwarded-proto", "http"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-host", "nas1.example.com"),
            ("forwarded", "for=198.51.100.1"),
        ];
        let head = request(&parts(&lines), nas1(), client, "id1").unwrap();
        assert_eq!(head.scheme, "https");
        assert_eq!(all(&head, "x-forwarded-for"), ["203.0.113.66, 198.51.100.1, 127.0.0.1"]);
        assert_eq!(all(&head, "x-forwarded-proto"), ["https"]);
        assert_eq!(all(&head, "x-forwarded-host"), ["nas1.example.com"]);
        assert_eq!(all(&head, "forwarded"), ["for=198.51.100.1"]);
        let bad = parts(&[("x-forwarded-host", "a\"<b>")]);
        assert_eq!(request(&bad, nas1(), client, ""), Err(BAD_FORWARDED_HOST));
    }

    #[test]
    fn connection_removes_nothing_of_ours_nor_what_framing_and_access_need() {
        let kept = [
            "authorization",
            "cookie",
            "content-length",
            "range",
            "if-range",
            "if-match",
            "origin",
        ];
        let mut lines = vec![("connection", "close, X-Forwarded-For"), ("x-hop", "1")];
        for name in ["X-Forwarded-Proto, x-forwarded-host", "X-Request-Id,Host", "x-hop"] {
            lines.push(("connection", name));
        }
        for name in kept {
            lines.extend([("connection", name), (name, "1")]);
        }
        let head = request(&parts(&lines), nas1(), STRANGER, "id1").unwrap();
        // As the agent gets it.
        let head = RequestHead::from_headers(head.to_headers().unwrap()).unwrap();
        assert_eq!(all(&head, "x-forwarded-for"), ["192.0.2.7"]);
        assert_eq!(all(&head, "x-forwarded-proto"), ["https"]);
        assert_eq!(all(&head, "x-forwarded-host"), ["nas1"]);
        assert_eq!(all(&head, "x-request-id"), ["id1"]);
        for name in kept {
            assert_eq!(all(&head, name), ["1"], "{name}");
        }
        assert!(all(&head, "x-hop").is_empty() && all(&head, "connection").is_empty());
    }

    #[test]
    fn a_password_for_us_goes_no_further() {
        let parts = parts(&[("authorization", "Basic x"), ("cookie", "a=b")]);
        let head = request(&parts, nas1(), STRANGER, "").unwrap();
        assert_eq!(all(&head, "authorization"), ["Basic x"]);
        let checked = Client { is_checked: true, ..STRANGER };
        let head = request(&parts, nas1(), checked, "").unwrap();
        assert!(all(&head, "authorization").is_empty());
        assert_eq!(all(&head, "cookie"), ["a=b"]);
    }

    #[test]
    fn hosts_are_demanded_and_checked() {
        assert_eq!(host(&parts(&[])), Err(Failure::Request("no host")));
        let two = parts(&[("host", "a"), ("host", "b")]);
        assert_eq!(host(&two), Err(Failure::Request("several hosts")));
        assert_eq!(host(&parts(&[("host", "a b")])), Err(BAD_HOST));
        assert_eq!(host(&parts(&[("host", "a@b")])), Err(BAD_HOST));
        let named = |parts: &Parts| host(parts).map(|host| host.as_str().to_owned());
        assert_eq!(named(&parts(&[("host", "[::1]:1443")])), Ok("[::1]:1443".to_owned()));
        let mut old = parts(&[]);
        old.version = Version::HTTP_10;
        assert_eq!(host(&old), Ok(Host::NONE));
        let mut absolute = parts(&[("host", "a")]);
        absolute.uri = "http://b:80/x".parse().unwrap();
        assert_eq!(named(&absolute), Ok("b:80".to_owned()));
        absolute.headers.insert("host", HeaderValue::from_static("a:80x"));
        assert_eq!(host(&absolute), Err(BAD_HOST));
        absolute.headers.insert("host", HeaderValue::from_static("a"));
        absolute.uri = "http://user@b/x".parse().unwrap();
        assert_eq!(host(&absolute), Err(BAD_HOST));
        assert_eq!(request(&absolute, nas1(), STRANGER, "").unwrap().path, b"/x");
        // `GET x HTTP/1.1` is no way to ask for /.
        absolute.uri = "x".parse().unwrap();
        assert_eq!(host(&absolute), Err(Failure::Request("a target that is none")));
        absolute.method = Method::CONNECT;
        assert_eq!(named(&absolute), Ok("x".to_owned()));
    }

    #[test]
    fn an_upgrade_needs_both_headers() {
        let both = [("connection", "keep-alive, Upgrade"), ("upgrade", "websocket, x")];
        assert_eq!(upgrade(&parts(&both)), Some("websocket"));
        assert_eq!(upgrade(&parts(&both[1..])), None);
        assert_eq!(upgrade(&parts(&both[..1])), None);
        let mut old = parts(&both);
        old.version = Version::HTTP_10;
        assert_eq!(upgrade(&old), None);
    }

    #[test]
    fn repeated_headers_of_a_response_survive() {
        let mut head = ResponseHead::new(200);
        head.headers.push("set-cookie", b"a=1").unwrap();
        head.headers.push("set-cookie", b"b=2").unwrap();
        let (_, headers) = response(&head).unwrap();
        let cookies: Vec<_> = headers.get_all("set-cookie").iter().collect();
        assert_eq!(cookies, ["a=1", "b=2"]);
    }

    #[test]
    fn lengths_are_numbers_and_agree() {
        let length = |values: &[&str]| {
            let mut headers = Headers::new();
            for value in values {
                headers.push("content-length", value.as_bytes()).unwrap();
            }
            content_length(&headers).ok()
        };
        assert_eq!(length(&[]), Some(None));
        assert_eq!(length(&["10", "10"]), Some(Some(10)));
        assert_eq!(length(&["10", "11"]), None);
        assert_eq!(length(&["+10"]), None);
        assert_eq!(length(&["18446744073709551616"]), None);
    }
}
