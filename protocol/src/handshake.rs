//! The handshake before a session: PUT from the agent, 200 from the proxy (docs/design.md, "The
//! handshake").
//!
//! Both sides, between types and octets, as HTTP/1.1 messages that the original's ends understand
//! too. It does not check credentials and reads nothing: what a parser did not use belongs to the
//! session.

mod fields;

use std::{
    fmt::{self, Write as _},
    str,
    time::{Duration, SystemTime},
};

use self::fields::Fields;
use crate::session::Profile;

/// Version of the handshake that this crate speaks.
pub const VERSION: i64 = 1;
/// Largest head of a message, in octets.
pub const HEAD: usize = 8_192;
/// Largest `Spdy-Tunnel` value, in octets.
pub const FIELD: usize = 4_096;
/// Largest body of a message, in octets.
pub const BODY: usize = 1_024;
/// Longest text that is taken from a peer (names, reasons, software), in octets.
pub const TEXT: usize = 200;
/// Most peers of a proxy that are read or written.
pub const PEERS: usize = 8;

const PUT_BODY: &str = "Hello from C";
const ANSWER_BODY: &str = "Hello from P";
const HEADERS: usize = 32;

/// What an end can do; a feature is used only if both name it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Features {
    /// Sends header blocks as stored deflate blocks only.
    pub stored: bool,
    /// Carries `:upgrade`.
    pub upgrade: bool,
    /// Answers repeated ranges under a strong ETag, so that a lost tunnel can be spliced.
    pub splice: bool,
}

impl Features {
    /// What this version can do.
    pub const OURS: Self = Self { stored: true, upgrade: true, splice: true };

    /// What both can do.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self {
            stored: self.stored && other.stored,
            upgrade: self.upgrade && other.upgrade,
            splice: self.splice && other.splice,
        }
    }
}

/// Profile and features of the session that follows; `theirs` is `None` for a nameless peer.
#[must_use]
pub fn agreed(ours: Features, theirs: Option<Features>) -> (Profile, Features) {
    match theirs {
        Some(theirs) => (Profile::Ours, ours.and(theirs)),
        None => (Profile::Amahi, Features::default()),
    }
}

/// `Authorization` of the PUT.
#[derive(Clone, PartialEq, Eq)]
pub enum Credentials {
    /// None: a nameless agent.
    None,
    /// The agent's token.
    Bearer(String),
    /// The one-time secret of a join code.
    Join(String),
}

/// The kind only: the rest is secret.
impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "None",
            Self::Bearer(_) => "Bearer(..)",
            Self::Join(_) => "Join(..)",
        })
    }
}

/// The agent's `Spdy-Tunnel`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// Name that the agent serves under, see [`crate::join::is_origin_name`].
    pub origin: String,
    /// The box: made by join and kept.
    pub instance: [u8; 16],
    /// The process: made at its start.
    pub run: [u8; 8],
    /// Counts the connections of a run; never a clock.
    pub epoch: u64,
    /// What the agent can do.
    pub can: Features,
    /// Name and version of the agent's software, printable.
    pub software: String,
    /// SHA-256 of a new token (join, rotate): the answer is all that follows, no session.
    pub register: Option<[u8; 32]>,
}

/// What the agent sends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Put {
    /// `Host`, the proxy as the agent knows it.
    pub host: String,
    /// Who the agent is.
    pub credentials: Credentials,
    /// `None`: a nameless (old) agent.
    pub hello: Option<Hello>,
}

/// The proxy's `Spdy-Tunnel`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Welcome {
    /// Name of the proxy.
    pub id: String,
    /// What the proxy can do.
    pub can: Features,
    /// Streams that the proxy wants to have open at most.
    pub streams: u32,
    /// Agents come back spread over this time after GOAWAY, whole seconds.
    pub spread: Duration,
    /// The proxy's clock, for agents without one; whole seconds.
    pub time: Option<SystemTime>,
    /// `host:port` of other proxies that the agent may dial too, at most [`PEERS`]; from outside.
    pub peers: Vec<String>,
}

/// What the proxy answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// 200; `None`: a nameless (old) proxy.
    Established(Option<Welcome>),
    /// Any other status.
    Refused {
        /// HTTP status.
        status: u16,
        /// One line that the agent logs, printable, at most [`TEXT`] octets.
        reason: String,
        /// When to try again.
        retry_after: Option<Duration>,
    },
}

/// Why a message of the handshake is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HandshakeError {
    /// Not HTTP/1.1, not a PUT, or a `Spdy-Tunnel` that is no such dictionary: 400.
    Malformed,
    /// Above [`HEAD`], [`FIELD`] or [`BODY`]: 431.
    TooLarge,
    /// No common version: 426.
    Version,
}

impl fmt::Display for HandshakeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Malformed => f.write_str("malformed handshake"),
            Self::TooLarge => f.write_str("handshake above its limits"),
            Self::Version => write!(f, "no common handshake version, this end speaks {VERSION}"),
        }
    }
}

impl std::error::Error for HandshakeError {}

impl Put {
    /// The message.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut text = String::from("PUT / HTTP/1.1\r\n");
        field(&mut text, "Host", &self.host);
        match &self.credentials {
            Credentials::None => {}
            Credentials::Bearer(token) => {
                field(&mut text, "Authorization", &format!("Bearer {token}"))
            }
            Credentials::Join(secret) => {
                field(&mut text, "Authorization", &format!("Join {secret}"))
            }
        }
        if let Some(hello) = &self.hello {
            field(&mut text, "Spdy-Tunnel", &fields::of_hello(hello));
        }
        body(&mut text, PUT_BODY);
        text.into_bytes()
    }

    /// Reads a message and the number of octets it has; `None`: more are needed.
    ///
    /// # Errors
    /// [`HandshakeError`].
    pub fn parse(octets: &[u8]) -> Result<Option<(Self, usize)>, HandshakeError> {
        let mut headers = [httparse::EMPTY_HEADER; HEADERS];
        let mut request = httparse::Request::new(&mut headers);
        let Some(head) = complete(request.parse(octets), octets)? else { return Ok(None) };
        if request.method != Some("PUT") {
            return Err(HandshakeError::Malformed);
        }
        let Some(end) = end_of_body(request.headers, head, octets)? else { return Ok(None) };
        let credentials = match value(request.headers, "authorization")? {
            None => Credentials::None,
            Some(value) => match value.split_once(' ') {
                Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => {
                    Credentials::Bearer(token.trim().to_owned())
                }
                Some((scheme, secret)) if scheme.eq_ignore_ascii_case("join") => {
                    Credentials::Join(secret.trim().to_owned())
                }
                _ => return Err(HandshakeError::Malformed),
            },
        };
        let host = printable(value(request.headers, "host")?.unwrap_or_default());
        let hello = tunnel_field(request.headers)?.map(|fields| fields.into_hello()).transpose()?;
        Ok(Some((Self { host, credentials, hello }, end)))
    }
}

impl Answer {
    /// The message.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut text = String::new();
        match self {
            Self::Established(welcome) => {
                text.push_str("HTTP/1.1 200 Connection Established\r\n");
                if let Some(welcome) = welcome {
                    field(&mut text, "Spdy-Tunnel", &fields::of_welcome(welcome));
                }
                body(&mut text, ANSWER_BODY);
            }
            Self::Refused { status, reason, retry_after } => {
                let _ = write!(text, "HTTP/1.1 {status} Refused\r\n");
                if let Some(after) = retry_after {
                    field(&mut text, "Retry-After", &after.as_secs().to_string());
                }
                field(&mut text, "Content-Type", "text/plain; charset=utf-8");
                field(&mut text, "Connection", "close");
                body(&mut text, &format!("{}\n", printable(reason)));
            }
        }
        text.into_bytes()
    }

    /// Reads a message and the number of octets it has; `None`: more are needed.
    ///
    /// # Errors
    /// [`HandshakeError`].
    pub fn parse(octets: &[u8]) -> Result<Option<(Self, usize)>, HandshakeError> {
        let mut headers = [httparse::EMPTY_HEADER; HEADERS];
        let mut response = httparse::Response::new(&mut headers);
        let Some(head) = complete(response.parse(octets), octets)? else { return Ok(None) };
        let Some(end) = end_of_body(response.headers, head, octets)? else { return Ok(None) };
        let status = response.code.ok_or(HandshakeError::Malformed)?;
        if status == 200 {
            let welcome =
                tunnel_field(response.headers)?.map(|fields| fields.into_welcome()).transpose()?;
            return Ok(Some((Self::Established(welcome), end)));
        }
        let text = str::from_utf8(&octets[head..end]).unwrap_or_default();
        let first_line = text.lines().next().unwrap_or_default();
        let reason =
            if first_line.is_empty() { response.reason.unwrap_or_default() } else { first_line };
        let seconds =
            value(response.headers, "retry-after")?.and_then(|text| text.trim().parse().ok());
        let retry_after = seconds.map(Duration::from_secs);
        Ok(Some((Self::Refused { status, reason: printable(reason), retry_after }, end)))
    }
}

/// Text of a peer as it may go into logs and pages: printable ASCII, cut at [`TEXT`].
#[must_use]
pub fn printable(text: &str) -> String {
    let shown = |c: char| if c.is_ascii_graphic() || c == ' ' { c } else { '?' };
    text.chars().take(TEXT).map(shown).collect()
}

fn field(text: &mut String, name: &str, value: &str) {
    // A line break in a value would make a second field of it.
    debug_assert!(!value.contains(['\r', '\n']), "{name} is built from checked text");
    let _ = write!(text, "{name}: {}\r\n", value.replace(['\r', '\n'], " "));
}

fn body(text: &mut String, body: &str) {
    let _ = write!(text, "Content-Length: {}\r\n\r\n{body}", body.len());
}

/// Octets of a head that is complete.
fn complete(
    parsed: httparse::Result<usize>,
    octets: &[u8],
) -> Result<Option<usize>, HandshakeError> {
    match parsed {
        Ok(httparse::Status::Complete(head)) if head <= HEAD => Ok(Some(head)),
        Ok(httparse::Status::Partial) if octets.len() <= HEAD => Ok(None),
        Ok(_) | Err(httparse::Error::TooManyHeaders) => Err(HandshakeError::TooLarge),
        Err(_) => Err(HandshakeError::Malformed),
    }
}

/// Where the message ends, once its body is complete.
fn end_of_body(
    headers: &[httparse::Header<'_>],
    head: usize,
    octets: &[u8],
) -> Result<Option<usize>, HandshakeError> {
    if value(headers, "transfer-encoding")?.is_some() {
        return Err(HandshakeError::Malformed);
    }
    let len = match value(headers, "content-length")? {
        None => 0,
        Some(text) if text.len() <= 4 && text.bytes().all(|octet| octet.is_ascii_digit()) => {
            text.parse().map_err(|_| HandshakeError::Malformed)?
        }
        Some(text) if text.bytes().all(|octet| octet.is_ascii_digit()) => usize::MAX,
        Some(_) => return Err(HandshakeError::Malformed),
    };
    if len > BODY {
        return Err(HandshakeError::TooLarge);
    }
    Ok((octets.len() >= head + len).then_some(head + len))
}

/// The one value of a header; two are an error.
fn value<'h>(
    headers: &'h [httparse::Header<'_>],
    name: &str,
) -> Result<Option<&'h str>, HandshakeError> {
    let mut found = headers.iter().filter(|header| header.name.eq_ignore_ascii_case(name));
    let first = found.next();
    if found.next().is_some() {
        return Err(HandshakeError::Malformed);
    }
    first
        .map(|header| str::from_utf8(header.value).map_err(|_| HandshakeError::Malformed))
        .transpose()
}

fn tunnel_field(headers: &[httparse::Header<'_>]) -> Result<Option<Fields>, HandshakeError> {
    match value(headers, "spdy-tunnel")? {
        None => Ok(None),
        Some(text) if text.len() > FIELD => Err(HandshakeError::TooLarge),
        Some(text) => Fields::parse(text).map(Some),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hello() -> Hello {
        Hello {
            origin: "nas1".to_owned(),
            instance: [7; 16],
            run: [9; 8],
            epoch: 7,
            can: Features { stored: true, upgrade: true, splice: true },
            software: "spdy-agent/0.1.0".to_owned(),
            register: Some([1; 32]),
        }
    }

    fn put() -> Put {
        Put {
            host: "proxy.example.com:1444".to_owned(),
            credentials: Credentials::Bearer("secret".to_owned()),
            hello: Some(hello()),
        }
    }

    fn welcome() -> Answer {
        Answer::Established(Some(Welcome {
            id: "p1".to_owned(),
            can: Features::OURS,
            streams: 128,
            spread: Duration::from_secs(15),
            time: Some(SystemTime::UNIX_EPOCH + Duration::from_secs(1_767_225_600)),
            peers: vec!["p2.example.com:1444".to_owned(), "[2001:db8::1]:1444".to_owned()],
        }))
    }

    #[test]
    fn messages_survive_a_round_trip_and_leave_what_follows() {
        let mut octets = put().encode();
        let len = octets.len();
        octets.extend_from_slice(b"\x80\x03session");
        assert_eq!(Put::parse(&octets), Ok(Some((put(), len))));
        let refused = Answer::Refused {
            status: 503,
            reason: "too many tunnels".to_owned(),
            retry_after: Some(Duration::from_secs(30)),
        };
        for answer in [welcome(), Answer::Established(None), refused] {
            let mut octets = answer.encode();
            let len = octets.len();
            octets.push(0x80);
            assert_eq!(Answer::parse(&octets), Ok(Some((answer, len))));
        }
    }

    #[test]
    fn every_shorter_split_asks_for_more() {
        let (put, answer) = (put().encode(), welcome().encode());
        for end in 0..put.len() {
            assert_eq!(Put::parse(&put[..end]), Ok(None), "{end}");
        }
        for end in 0..answer.len() {
            assert_eq!(Answer::parse(&answer[..end]), Ok(None), "{end}");
        }
    }

    #[test]
    fn original_ends_are_understood() {
        let old = b"PUT / HTTP/1.1\r\nHost: localhost:1444\r\nUser-Agent: Go-http-client/1.1\r\n\
            Content-Length: 12\r\n\r\nHello from C";
        let (put, used) = Put::parse(old).unwrap().unwrap();
        assert_eq!((put.credentials, put.hello, used), (Credentials::None, None, old.len()));
        let old = b"HTTP/1.1 200 Connection Established\r\nContent-Length: 12\r\n\r\nHello from P";
        assert_eq!(Answer::parse(old), Ok(Some((Answer::Established(None), old.len()))));
    }

    #[test]
    fn wire_of_the_hello_is_the_documented_one() {
        let text = String::from_utf8(put().encode()).unwrap();
        let wanted = "Spdy-Tunnel: v=1, origin=\"nas1\", instance=:BwcHBwcHBwcHBwcHBwcHBw==:, \
            run=:CQkJCQkJCQk=:, epoch=7, can=(\"stored\" \"upgrade\" \"splice\"), \
            software=\"spdy-agent/0.1.0\", register=:AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=:\r\n";
        assert!(text.contains(wanted), "{text}");
    }

    fn with_field(field: &str) -> Result<Option<(Put, usize)>, HandshakeError> {
        Put::parse(format!("PUT / HTTP/1.1\r\nSpdy-Tunnel: {field}\r\n\r\n").as_bytes())
    }

    #[test]
    fn unknown_keys_are_ignored_and_versions_are_found_in_lists() {
        let rest = "origin=\"a\", instance=:BwcHBwcHBwcHBwcHBwcHBw==:, run=:CQkJCQkJCQk=:, epoch=1";
        let read = with_field(&format!("v=(1 2);x, {rest}, new=?1, can=(\"later\" \"stored\")"));
        let hello = read.unwrap().unwrap().0.hello.unwrap();
        assert_eq!(hello.can, Features { stored: true, ..Features::default() });
        for other in ["v=2", "v=(2 3)", "v=\"1\"", "x=1"] {
            let read = with_field(&format!("{other}, {rest}"));
            assert_eq!(read, Err(HandshakeError::Version), "{other}");
        }
    }

    #[test]
    fn peers_are_few_short_and_left_out_where_there_are_none() {
        let with = |field: &str| {
            let text = format!("HTTP/1.1 200 OK\r\nSpdy-Tunnel: v=1, {field}\r\n\r\n");
            match Answer::parse(text.as_bytes()) {
                Ok(Some((Answer::Established(Some(welcome)), _))) => welcome,
                other => panic!("{other:?}"),
            }
        };
        let many: String = (0..100).map(|at| format!("\"p{at}:1\" ")).collect();
        assert_eq!(with(&format!("peers=({})", many.trim())).peers.len(), PEERS);
        assert_eq!(with("peers=(1 a \"b:2\")").peers, ["b:2"]);
        assert_eq!(with(&format!("peers=(\"{}\")", "x".repeat(300))).peers[0].len(), TEXT);
        let alone = with("id=\"p1\"");
        assert!(alone.peers.is_empty());
        let text = String::from_utf8(Answer::Established(Some(alone)).encode()).unwrap();
        assert!(!text.contains("peers"), "{text}");
    }

    #[test]
    fn bad_input_gets_one_clear_error() {
        for (octets, error) in [
            ("GET / HTTP/1.1\r\n\r\n", HandshakeError::Malformed),
            ("\u{16}\u{3}\u{1}", HandshakeError::Malformed),
            ("PUT / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", HandshakeError::Malformed),
            ("PUT / HTTP/1.1\r\nContent-Length: -1\r\n\r\n", HandshakeError::Malformed),
            ("PUT / HTTP/1.1\r\nContent-Length: 99999999999\r\n\r\n", HandshakeError::TooLarge),
            (
                "PUT / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
                HandshakeError::Malformed,
            ),
            ("PUT / HTTP/1.1\r\nAuthorization: Basic x\r\n\r\n", HandshakeError::Malformed),
            ("PUT / HTTP/1.1\r\nSpdy-Tunnel: v=1, origin=\r\n\r\n", HandshakeError::Malformed),
        ] {
            assert_eq!(Put::parse(octets.as_bytes()), Err(error), "{octets}");
        }
        let endless = [b"PUT / HTTP/1.1\r\nA: ".as_slice(), &[b'a'; HEAD]].concat();
        assert_eq!(Put::parse(&endless), Err(HandshakeError::TooLarge));
        assert_eq!(with_field(&"a,".repeat(FIELD)), Err(HandshakeError::TooLarge));
    }

    #[test]
    fn texts_of_a_peer_are_cut_and_made_printable() {
        assert_eq!(printable("a\u{1b}[31m\u{e4}\n"), "a?[31m??");
        assert_eq!(printable(&"x".repeat(1_000)).len(), TEXT);
    }

    #[test]
    fn credentials_are_never_printed() {
        let shown = format!("{:?}", put());
        assert!(!shown.contains("secret"), "{shown}");
    }

    #[test]
    fn features_need_both_ends() {
        let ours = Features { splice: false, ..Features::OURS };
        let theirs = Features { upgrade: false, ..Features::OURS };
        let (profile, both) = agreed(ours, Some(theirs));
        assert_eq!(
            (profile, both),
            (Profile::Ours, Features { stored: true, ..Features::default() })
        );
        assert_eq!(agreed(Features::OURS, None), (Profile::Amahi, Features::default()));
    }
}
