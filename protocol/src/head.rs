//! Request and response heads, to and from the name/value list of SPDY/3.1 3.2.
//!
//! It owns the `:names`, which headers are hop-by-hop and the check that a head is complete. Hop-by-hop
//! headers are removed from what came in: a gateway that adds headers of its own does so afterwards
//! (see [`is_hop_by_hop`]).
//! It does not own compression ([`crate::headers`]) nor any HTTP/1.1 syntax.

use std::fmt;

use crate::headers::{Headers, InvalidHeader};

/// A request line with its headers.
#[derive(Clone, PartialEq, Eq)]
pub struct RequestHead {
    /// Method, upper case as HTTP spells it.
    pub method: String,
    /// Scheme the HTTP client used: `http` or `https`.
    pub scheme: String,
    /// Host and port as the HTTP client named them; empty when it named none (HTTP/1.0).
    pub host: String,
    /// Path with query, raw octets, beginning with `/` (or `*` of OPTIONS).
    pub path: Vec<u8>,
    /// Protocol to upgrade to, where both ends can (`:upgrade`, docs/protocol.md).
    pub upgrade: Option<String>,
    /// All other headers.
    pub headers: Headers,
}

/// A status line with its headers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResponseHead {
    /// Status, 100 to 999.
    pub status: u16,
    /// All headers.
    pub headers: Headers,
}

/// What makes a list of headers no head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeadError {
    /// One of the names that every head carries is missing (SPDY/3.1 3.2.1, 3.2.2).
    Missing(&'static str),
    /// One of them has a value that cannot be.
    Malformed(&'static str),
}

impl fmt::Display for HeadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing(name) => write!(f, "head lacks {name}"),
            Self::Malformed(name) => write!(f, "head has a malformed {name}"),
        }
    }
}

impl std::error::Error for HeadError {}

/// Headers that belong to one connection and never cross the tunnel (SPDY/3.1 3.2.1, RFC 9110
/// 7.6.1); those that `Connection` names go too.
pub const HOP_BY_HOP: [&str; 8] = [
    "connection",
    "keep-alive",
    "proxy-connection",
    "transfer-encoding",
    "te",
    "trailer",
    "upgrade",
    "http2-settings",
];

impl RequestHead {
    /// A GET of `path` without headers; the starting point of callers that build heads.
    #[must_use]
    pub fn get(path: impl Into<Vec<u8>>) -> Self {
        Self {
            method: "GET".to_owned(),
            scheme: "http".to_owned(),
            host: String::new(),
            path: path.into(),
            upgrade: None,
            headers: Headers::new(),
        }
    }

    /// The list that goes on the wire.
    ///
    /// # Errors
    /// When a part is longer than the limits or has an octet that SPDY cannot carry.
    pub fn to_headers(&self) -> Result<Headers, InvalidHeader> {
        let own = self.method.len() + self.path.len() + self.host.len() + OWN_NAMES;
        let mut list = Headers::with_capacity(own + self.headers.encoded_len());
        list.push(":method", self.method.as_bytes())?;
        list.push(":path", &self.path)?;
        list.push(":version", b"HTTP/1.1")?;
        list.push(":host", self.host.as_bytes())?;
        list.push(":scheme", self.scheme.as_bytes())?;
        if let Some(protocol) = &self.upgrade {
            list.push(":upgrade", protocol.as_bytes())?;
        }
        push_end_to_end(&self.headers, &mut list)?;
        Ok(list)
    }

    /// Reads the list of a SYN_STREAM. `:host` may be empty, `:path` may have raw spaces and UTF-8:
    /// old peers send them.
    ///
    /// # Errors
    /// [`HeadError`]; the answer is 400.
    pub fn from_headers(mut list: Headers) -> Result<Self, HeadError> {
        let method = take_text(&mut list, ":method")?;
        let path = list.remove(":path").ok_or(HeadError::Missing(":path"))?;
        take_text(&mut list, ":version")?;
        let host = take_text(&mut list, ":host")?;
        let scheme = take_text(&mut list, ":scheme")?;
        let token = |octet: u8| octet.is_ascii_graphic();
        if method.is_empty() || !method.bytes().all(token) {
            return Err(HeadError::Malformed(":method"));
        }
        let control = |octet: &u8| *octet < 0x20 || *octet == 0x7f;
        if !(path.starts_with(b"/") || path == b"*") || path.iter().any(control) {
            return Err(HeadError::Malformed(":path"));
        }
        if !host.bytes().all(token) {
            return Err(HeadError::Malformed(":host"));
        }
        let upgrade = match list.get(":upgrade") {
            Some(_) => Some(take_text(&mut list, ":upgrade")?),
            None => None,
        };
        Ok(Self { method, scheme, host, path, upgrade, headers: end_to_end(list)? })
    }
}

/// Without values: a path may carry a signature, a header a secret.
impl fmt::Debug for RequestHead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RequestHead")
            .field("method", &self.method)
            .field("path_len", &self.path.len())
            .field("headers", &self.headers)
            .finish_non_exhaustive()
    }
}

impl ResponseHead {
    /// A head without headers.
    #[must_use]
    pub const fn new(status: u16) -> Self {
        Self { status, headers: Headers::new() }
    }

    /// The list that goes on the wire.
    ///
    /// # Errors
    /// When a header is longer than the limits or has an octet that SPDY cannot carry.
    pub fn to_headers(&self) -> Result<Headers, InvalidHeader> {
        let mut list = Headers::with_capacity(OWN_NAMES + self.headers.encoded_len());
        list.push(":status", self.status.to_string().as_bytes())?;
        list.push(":version", b"HTTP/1.1")?;
        push_end_to_end(&self.headers, &mut list)?;
        Ok(list)
    }

    /// Reads the list of a SYN_REPLY; `:status` may be "200" or "200 OK".
    ///
    /// # Errors
    /// [`HeadError`]; the stream is reset with `PROTOCOL_ERROR` (SPDY/3.1 3.2.2).
    pub fn from_headers(mut list: Headers) -> Result<Self, HeadError> {
        let status = take_text(&mut list, ":status")?;
        take_text(&mut list, ":version")?;
        let number =
            status.get(..3).filter(|_| matches!(status.as_bytes().get(3), None | Some(b' ')));
        let status = number
            .filter(|text| text.bytes().all(|octet| octet.is_ascii_digit()))
            .and_then(|text| text.parse().ok())
            .filter(|status| *status >= 100)
            .ok_or(HeadError::Malformed(":status"))?;
        Ok(Self { status, headers: end_to_end(list)? })
    }
}

fn take_text(list: &mut Headers, name: &'static str) -> Result<String, HeadError> {
    let value = list.remove(name).ok_or(HeadError::Missing(name))?;
    String::from_utf8(value).map_err(|_| HeadError::Malformed(name))
}

/// Whether a header belongs to the connection that it came by and goes no further (RFC 9110 7.6.1):
/// its name, in lower case, is one of [`HOP_BY_HOP`], or `connection`, the values of that connection's
/// `Connection` header, names it.
///
/// `Connection` does not reach [`is_always_end_to_end`] fields: a client that names such a field there
/// breaks RFC 9110 7.6.1, and would remove what framing, access and the service rely on.
pub fn is_hop_by_hop<'v>(name: &str, mut connection: impl Iterator<Item = &'v [u8]>) -> bool {
    let names = |value: &[u8]| {
        let mut options = value.split(|byte| *byte == b',');
        options.any(|option| option.trim_ascii().eq_ignore_ascii_case(name.as_bytes()))
    };
    HOP_BY_HOP.contains(&name) || !is_always_end_to_end(name) && connection.any(names)
}

/// Whether a field, its name in lower case, is meant for the recipient of the message whatever
/// `Connection` says: those that frame, select, describe, authenticate or route a message, and those by
/// which gateways tell of themselves and of the client.
#[must_use]
pub fn is_always_end_to_end(name: &str) -> bool {
    END_TO_END.contains(&name) || END_TO_END_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

/// Copies what may cross a tunnel. Sending `:names` other than ours is the caller's mistake.
fn push_end_to_end(from: &Headers, to: &mut Headers) -> Result<(), InvalidHeader> {
    let hops = Hops::of(from);
    for (name, value) in from.iter().filter(|(name, _)| !hops.has(name)) {
        if name.starts_with(':') {
            return Err(InvalidHeader);
        }
        to.push(name, value)?;
    }
    Ok(())
}

/// What is left of a received list without the connection's own headers and unknown `:names`;
/// mostly the list itself.
fn end_to_end(list: Headers) -> Result<Headers, HeadError> {
    let hops = Hops::of(&list);
    let stays = |name: &str| !name.starts_with(':') && !hops.has(name);
    if list.iter().all(|(name, _)| stays(name)) {
        return Ok(list);
    }
    let mut kept = Headers::with_capacity(list.encoded_len());
    for (name, value) in list.iter().filter(|(name, _)| stays(name)) {
        kept.push(name, value).map_err(|_| HeadError::Malformed("header"))?;
    }
    Ok(kept)
}

/// The names that belong to the connection of one list.
struct Hops<'l> {
    /// The list, if it has a `Connection`.
    named: Option<&'l Headers>,
}

impl<'l> Hops<'l> {
    fn of(list: &'l Headers) -> Self {
        Self { named: list.get("connection").is_some().then_some(list) }
    }

    fn has(&self, name: &str) -> bool {
        let values = self.named.map(|list| list.get_all("connection"));
        is_hop_by_hop(name, values.into_iter().flatten())
    }
}

/// Fields of [`is_always_end_to_end`] by their names.
const END_TO_END: [&str; 35] = [
    "age",
    "allow",
    "authorization",
    "cache-control",
    "cookie",
    "date",
    "depth",
    "destination",
    "etag",
    "expect",
    "expires",
    "forwarded",
    "from",
    "host",
    "last-modified",
    "location",
    "max-forwards",
    "origin",
    "overwrite",
    "pragma",
    "prefer",
    "priority",
    "proxy-status",
    "range",
    "referer",
    "retry-after",
    "server",
    "set-cookie",
    "strict-transport-security",
    "user-agent",
    "vary",
    "via",
    "warning",
    "www-authenticate",
    "x-request-id",
];
/// The others by how their names begin.
const END_TO_END_PREFIXES: [&str; 12] = [
    "accept",
    "access-control-",
    "content-",
    "cross-origin-",
    "digest",
    "if-",
    "sec-",
    "upload-",
    "x-content-",
    "x-forwarded-",
    "x-frame-",
    "x-real-ip",
];
/// Octets of the `:names` with their lengths and short values, roughly.
const OWN_NAMES: usize = 128;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn request_survives_the_list_without_its_connection_headers() {
        let mut head = RequestHead::get("/a b?q=\u{e4}");
        head.host = "nas1.example:1443".to_owned();
        head.upgrade = Some("websocket".to_owned());
        for (name, value) in [
            ("Connection", "close, X-Private"),
            ("X-Private", "1"),
            ("Transfer-Encoding", "chunked"),
            ("Range", "bytes=0-"),
        ] {
            head.headers.push(name, value.as_bytes()).unwrap();
        }
        let read = RequestHead::from_headers(head.to_headers().unwrap()).unwrap();
        let mut wanted = head.clone();
        for name in ["connection", "x-private", "transfer-encoding"] {
            wanted.headers.remove(name);
        }
        assert_eq!(read, wanted);
    }

    #[test]
    fn connection_removes_only_what_nobody_else_reads() {
        let kept = [
            "Host",
            "Content-Length",
            "Authorization",
            "Cookie",
            "Range",
            "If-Range",
            "If-Match",
            "X-Forwarded-For",
            "X-Forwarded-Proto",
            "X-Request-Id",
            "Via",
            "Date",
            "Forwarded",
            "X-Real-IP",
            "Accept-Encoding",
            "Sec-Fetch-Site",
            "Origin",
            "Upload-Offset",
        ];
        let removed = ["X-Private", "Keep-Alive", "TE", "Upgrade", "Transfer-Encoding"];
        let mut head = RequestHead::get("/");
        let mut reply = ResponseHead::new(200);
        for headers in [&mut head.headers, &mut reply.headers] {
            headers.push("connection", b"close").unwrap();
            for name in kept.iter().chain(&removed) {
                headers.push("Connection", format!(" {name} ,").as_bytes()).unwrap();
                headers.push(name, b"1").unwrap();
            }
        }
        let head = RequestHead::from_headers(head.to_headers().unwrap()).unwrap();
        let reply = ResponseHead::from_headers(reply.to_headers().unwrap()).unwrap();
        for headers in [&head.headers, &reply.headers] {
            for name in kept {
                assert!(headers.get(&name.to_ascii_lowercase()).is_some(), "{name}");
            }
            for name in removed.iter().chain(&["Connection"]) {
                assert!(headers.get(&name.to_ascii_lowercase()).is_none(), "{name}");
            }
        }
    }

    #[test]
    fn every_name_of_a_request_is_needed() {
        for name in [":method", ":path", ":version", ":host", ":scheme"] {
            let mut list = RequestHead::get("/").to_headers().unwrap();
            list.remove(name);
            assert_eq!(RequestHead::from_headers(list), Err(HeadError::Missing(name)));
        }
    }

    #[test]
    fn status_may_have_a_phrase() {
        for (text, status) in [
            ("200", Some(200)),
            ("404 Not Found", Some(404)),
            ("20", None),
            ("2000", None),
            ("099", None),
        ] {
            let mut list = Headers::new();
            list.push(":status", text.as_bytes()).unwrap();
            list.push(":version", b"HTTP/1.1").unwrap();
            assert_eq!(
                ResponseHead::from_headers(list).ok().map(|head| head.status),
                status,
                "{text}"
            );
        }
    }

    #[test]
    fn paths_begin_with_a_slash_and_have_no_control_octets() {
        for path in ["", "index.html", "http://evil/", "/a\r\nx: y"] {
            let list = RequestHead::get(path).to_headers().unwrap();
            assert_eq!(
                RequestHead::from_headers(list),
                Err(HeadError::Malformed(":path")),
                "{path}"
            );
        }
    }
}
