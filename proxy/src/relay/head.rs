//! Heads between hyper's types and the tunnel's.
//!
//! It owns which headers are added or dropped on the way. Hop-by-hop headers are
//! [`spdy_protocol::head`]'s work; the proxy's share of them (Connection, Transfer-Encoding,
//! Date) is hyper's.

use std::{net::IpAddr, str::FromStr};

use http::{
    HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Version, header, request::Parts,
};
use spdy_protocol::{
    head::{RequestHead, ResponseHead},
    headers::{Headers, InvalidHeader},
};

use super::failure::Failure;

/// Who asks, as far as headers tell the agent.
#[derive(Clone, Copy, Debug)]
pub(super) struct Client {
    /// Its address.
    pub(super) address: IpAddr,
    /// Whether it spoke TLS to us.
    pub(super) is_secure: bool,
    /// Whether its Authorization was for us, and is none of the agent's business.
    pub(super) is_checked: bool,
}

impl Client {
    /// Whether it may speak for others: a front end on this machine may, a stranger may not.
    fn is_trusted(self) -> bool {
        self.address.is_loopback()
    }
}

/// The host that a request is for; empty only in HTTP/1.0.
///
/// # Errors
/// No or several `Host` in HTTP/1.1 (RFC 9112 3.2), or one that no host can be; a target that is
/// an authority alone, which is for CONNECT only (RFC 9112 3.2.3).
pub(super) fn host(parts: &Parts) -> Result<&str, Failure> {
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
    let host = match authority {
        Some(authority) => authority.as_str(),
        None => named.map_or(Ok(""), |named| named.to_str().map_err(|_| BAD_HOST))?,
    };
    let is_host = |octet: u8| octet.is_ascii_graphic() && !b"/@?#\\".contains(&octet);
    if host.len() > HOST_MAX || !host.bytes().all(is_host) {
        return Err(BAD_HOST);
    }
    Ok(host)
}

/// The address that a request comes from: of a front end that may speak for its visitors, the last
/// that it names, which is the one that it saw itself.
pub(super) fn visitor(parts: &Parts, client: Client) -> IpAddr {
    let named = || {
        let all = parts.headers.get_all("x-forwarded-for");
        all.iter().next_back()?.to_str().ok()?.rsplit(',').next()?.trim().parse().ok()
    };
    client.is_trusted().then(named).flatten().unwrap_or(client.address)
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
    host: &str,
    client: Client,
    request_id: &str,
) -> Result<RequestHead, Failure> {
    if parts.method == Method::CONNECT {
        return Err(Failure::Method);
    }
    let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
    let mut head = RequestHead::get(path.as_bytes());
    head.method = parts.method.as_str().to_owned();
    head.host = host.to_owned();
    let proto = trusted(parts, client, "x-forwarded-proto");
    let is_secure = proto.map_or(client.is_secure, |proto| proto == "https");
    head.scheme = if is_secure { "https" } else { "http" }.to_owned();
    let too_large = |InvalidHeader| Failure::HeadTooLarge;
    for (name, value) in &parts.headers {
        if !is_replaced(name, client) {
            head.headers.push(name.as_str(), value.as_bytes()).map_err(too_large)?;
        }
    }
    forwarding(&mut head, parts, host, client, request_id).map_err(too_large)?;
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

fn forwarding(
    head: &mut RequestHead,
    parts: &Parts,
    host: &str,
    client: Client,
    request_id: &str,
) -> Result<(), InvalidHeader> {
    let headers = &mut head.headers;
    let address = client.address.to_string();
    match trusted(parts, client, "x-forwarded-for") {
        Some(before) => {
            headers.push("x-forwarded-for", format!("{before}, {address}").as_bytes())?;
        }
        None => headers.push("x-forwarded-for", address.as_bytes())?,
    }
    headers.push("x-forwarded-proto", head.scheme.as_bytes())?;
    let named = trusted(parts, client, "x-forwarded-host").unwrap_or(host);
    if !named.is_empty() {
        headers.push("x-forwarded-host", named.as_bytes())?;
    }
    headers.push("x-request-id", request_id.as_bytes())
}

/// A header of a front end that may speak for its visitors.
fn trusted<'a>(parts: &'a Parts, client: Client, name: &str) -> Option<&'a str> {
    client.is_trusted().then(|| parts.headers.get(name)?.to_str().ok()).flatten()
}

/// Headers that do not pass as they are: those that we set ourselves, those that we have acted
/// upon, and what a stranger says of who he is.
fn is_replaced(name: &HeaderName, client: Client) -> bool {
    name == header::HOST
        || name == header::EXPECT
        || name == header::AUTHORIZATION && client.is_checked
        || match name.as_str() {
            "x-forwarded-for" | "x-forwarded-proto" | "x-forwarded-host" | "x-request-id" => true,
            "forwarded" | "x-real-ip" => !client.is_trusted(),
            _ => false,
        }
}

const BAD_HOST: Failure = Failure::Request("a host that is none");
/// Octets of the longest host with its port.
const HOST_MAX: usize = 261;

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    fn parts(headers: &[(&'static str, &'static str)]) -> Parts {
        let mut request = Request::builder().method("GET").uri("/a%20b?c=%2F");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    const STRANGER: Client = Client {
        address: IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 7)),
        is_secure: true,
        is_checked: false,
    };
    const FRONT: Client = Client {
        address: IpAddr::V4(std::net::Ipv4Addr::LOCALHOST),
        is_secure: false,
        is_checked: false,
    };

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
        let head = request(&parts, "nas1", STRANGER, "id1").unwrap();
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
    fn a_front_end_on_this_machine_speaks_for_its_visitors() {
        let parts = parts(&[
            ("host", "nas1"),
            ("x-forwarded-for", "198.51.100.1"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-host", "nas1.example.com"),
        ]);
        let head = request(&parts, "nas1", FRONT, "id1").unwrap();
        assert_eq!(head.scheme, "https");
        assert_eq!(all(&head, "x-forwarded-for"), ["198.51.100.1, 127.0.0.1"]);
        assert_eq!(all(&head, "x-forwarded-host"), ["nas1.example.com"]);
    }

    #[test]
    fn a_password_for_us_goes_no_further() {
        let parts = parts(&[("authorization", "Basic x"), ("cookie", "a=b")]);
        let head = request(&parts, "nas1", STRANGER, "").unwrap();
        assert_eq!(all(&head, "authorization"), ["Basic x"]);
        let checked = Client { is_checked: true, ..STRANGER };
        let head = request(&parts, "nas1", checked, "").unwrap();
        assert!(all(&head, "authorization").is_empty());
        assert_eq!(all(&head, "cookie"), ["a=b"]);
    }

    #[test]
    fn a_visitor_is_whom_the_front_end_saw_last() {
        let said = |values: &[&'static str], client| {
            let headers: Vec<_> = values.iter().map(|value| ("x-forwarded-for", *value)).collect();
            visitor(&parts(&headers), client).to_string()
        };
        assert_eq!(said(&["10.0.0.1, 198.51.100.1"], FRONT), "198.51.100.1");
        assert_eq!(said(&["10.0.0.1", "2001:db8::1"], FRONT), "2001:db8::1");
        assert_eq!(said(&["nonsense"], FRONT), "127.0.0.1");
        assert_eq!(said(&[], FRONT), "127.0.0.1");
        assert_eq!(said(&["198.51.100.1"], STRANGER), "192.0.2.7");
    }

    #[test]
    fn hosts_are_demanded_and_checked() {
        assert_eq!(host(&parts(&[])), Err(Failure::Request("no host")));
        let two = parts(&[("host", "a"), ("host", "b")]);
        assert_eq!(host(&two), Err(Failure::Request("several hosts")));
        assert_eq!(host(&parts(&[("host", "a b")])), Err(BAD_HOST));
        assert_eq!(host(&parts(&[("host", "a@b")])), Err(BAD_HOST));
        assert_eq!(host(&parts(&[("host", "[::1]:1443")])), Ok("[::1]:1443"));
        let mut old = parts(&[]);
        old.version = Version::HTTP_10;
        assert_eq!(host(&old), Ok(""));
        let mut absolute = parts(&[("host", "a")]);
        absolute.uri = "http://b:80/x".parse().unwrap();
        assert_eq!(host(&absolute), Ok("b:80"));
        absolute.uri = "http://user@b/x".parse().unwrap();
        assert_eq!(host(&absolute), Err(BAD_HOST));
        assert_eq!(request(&absolute, "b:80", STRANGER, "").unwrap().path, b"/x");
        // `GET x HTTP/1.1` is no way to ask for /.
        absolute.uri = "x".parse().unwrap();
        assert_eq!(host(&absolute), Err(Failure::Request("a target that is none")));
        absolute.method = Method::CONNECT;
        assert_eq!(host(&absolute), Ok("x"));
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
