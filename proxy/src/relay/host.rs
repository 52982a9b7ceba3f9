//! The host and port that a request names.
//!
//! It owns their syntax (RFC 3986 3.2.2, 3.2.3; RFC 9110 7.2). It does not own which origin a host
//! leads to ([`crate::registry`]).

use std::net::Ipv6Addr;

/// `host [":" port]`, parsed once. Empty where a request names none (HTTP/1.0, or `Host:` alone).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Host<'a>(&'a str);

impl<'a> Host<'a> {
    /// What a request without a host has.
    pub(super) const NONE: Host<'static> = Host("");

    /// Reads a `Host` value or an authority: a registered name, an IPv4 address or an IPv6 address in
    /// brackets, with a port of 0 to 65535, which may be left out. `None`: it is none of these. Not
    /// taken are userinfo, zones and the brackets of future address families, of which there are none.
    pub(super) fn parse(text: &'a str) -> Option<Self> {
        if text.is_empty() {
            return Some(Host::NONE);
        }
        let port = match text.strip_prefix('[') {
            Some(rest) => {
                let (address, port) = rest.split_once(']')?;
                address.parse::<Ipv6Addr>().ok()?;
                if port.is_empty() { None } else { Some(port.strip_prefix(':')?) }
            }
            None => {
                let (name, port) = match text.split_once(':') {
                    Some((name, port)) => (name, Some(port)),
                    None => (text, None),
                };
                if !is_registered_name(name.as_bytes()) {
                    return None;
                }
                port
            }
        };
        let is_valid = text.len() <= HOST_MAX && port.is_none_or(is_port);
        is_valid.then_some(Self(text))
    }

    pub(super) const fn as_str(self) -> &'a str {
        self.0
    }
}

/// `1*( unreserved / pct-encoded / sub-delims )`; IPv4 addresses are among them.
fn is_registered_name(mut name: &[u8]) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=".contains(&byte);
    if name.is_empty() {
        return false;
    }
    loop {
        name = match name {
            [] => return true,
            [b'%', high, low, rest @ ..] if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => {
                rest
            }
            [byte, rest @ ..] if is_plain(*byte) => rest,
            _ => return false,
        };
    }
}

fn is_port(text: &str) -> bool {
    let is_number = text.bytes().all(|byte| byte.is_ascii_digit());
    is_number && (text.is_empty() || text.parse::<u16>().is_ok())
}

/// Bytes of the longest host with its port.
const HOST_MAX: usize = 261;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_names_and_addresses_with_or_without_a_port() {
        for text in [
            "",
            "nas1",
            "nas1:80",
            "nas1:",
            "NAS1.example.com.:65535",
            "127.0.0.1:0",
            "[::1]",
            "[::1]:1443",
            "[::ffff:192.0.2.1]:",
            "a_b",
            "a%2Db",
            "x~!$&'()*+,;=",
        ] {
            assert_eq!(Host::parse(text).map(Host::as_str), Some(text), "{text:?}");
        }
    }

    #[test]
    fn other_texts_are_no_hosts() {
        for text in [
            "localhost:80x",
            "nas1:80:80",
            "4714::abcd:8001",
            "[::1",
            "extra[::1]:98",
            "a\"<b>",
            "::1",
            ":80",
            "nas1:65536",
            "nas1:+80",
            "nas1:-1",
            "nas1: 80",
            "[]",
            "[]:80",
            "[::1]x",
            "[::1]80",
            "[::1]:80x",
            "[::1]]",
            "[[::1]]",
            "[127.0.0.1]",
            "[nas1]",
            "[v1.x]",
            "[fe80::1%eth0]",
            "[fe80::1%25eth0]",
            "user@nas1",
            "user:pass@nas1",
            "a b",
            "a/b",
            "a?b",
            "a#b",
            "a\\b",
            "a%2",
            "a%zz",
            "a{b}",
            "a|b",
            "a^b",
            "a`b",
            "\u{e4}",
            "a\u{0}b",
            "a\tb",
        ] {
            assert_eq!(Host::parse(text), None, "{text:?}");
        }
        assert!(Host::parse(&"x".repeat(HOST_MAX)).is_some());
        assert!(Host::parse(&"x".repeat(HOST_MAX + 1)).is_none());
    }
}
