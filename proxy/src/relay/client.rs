//! The client of a request: its address, its scheme and the host that it named, as far as they can be
//! believed.
//!
//! It owns which headers of which peer are believed: those of front ends that the operator trusts, of
//! nobody else. It does not own where that list comes from ([`crate::settings`]).

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use http::{HeaderMap, HeaderName};

use super::host::Host;
use crate::address_range::AddressRange;

/// Who asks, as far as headers tell the agent.
#[derive(Clone, Copy, Debug)]
pub(super) struct Client<'s> {
    /// The address at the other end of the connection.
    pub(super) peer: IpAddr,
    /// Whether the connection is TLS.
    pub(super) is_secure: bool,
    /// Whether its Authorization was for us, and is none of the agent's business.
    pub(super) is_checked: bool,
    /// The front ends that may speak for others.
    pub(super) front_ends: &'s [AddressRange],
}

impl Client<'_> {
    /// Whether the peer is a front end that may speak for its clients.
    pub(super) fn is_front_end(&self) -> bool {
        self.is_trusted(self.peer)
    }

    fn is_trusted(&self, address: IpAddr) -> bool {
        self.front_ends.iter().any(|range| range.contains(address))
    }

    /// The address of the client itself: the last in the chain of X-Forwarded-For and the peer that is
    /// not a trusted front end. What cannot be read ends the chain: the client is then whoever said it.
    pub(super) fn address(&self, headers: &HeaderMap) -> IpAddr {
        let mut client = self.peer.to_canonical();
        let mut chain = elements(headers, "x-forwarded-for").rev();
        while self.is_trusted(client) {
            let Some(before) = chain.next().and_then(node) else { break };
            client = before;
        }
        client
    }

    /// Whether the client used TLS, by the last X-Forwarded-Proto of a trusted front end.
    pub(super) fn used_tls(&self, headers: &HeaderMap) -> bool {
        match self.last(headers, "x-forwarded-proto") {
            Some(proto) if proto.eq_ignore_ascii_case(b"https") => true,
            Some(proto) if proto.eq_ignore_ascii_case(b"http") => false,
            _ => self.is_secure,
        }
    }

    /// The host that the client named, by the last X-Forwarded-Host of a trusted front end, else `host`.
    /// `None`: the front end named what cannot be a host.
    pub(super) fn named<'h>(&self, headers: &'h HeaderMap, host: Host<'h>) -> Option<Host<'h>> {
        let Some(named) = self.last(headers, "x-forwarded-host") else { return Some(host) };
        Host::parse(std::str::from_utf8(named).ok()?)
    }

    /// The value of X-Forwarded-For for the service: in one list all that a trusted front end has
    /// said, and the peer (RFC 9110 5.3).
    pub(super) fn forwarded_for(&self, headers: &HeaderMap) -> Vec<u8> {
        let mut list = Vec::new();
        if self.is_front_end() {
            for element in elements(headers, "x-forwarded-for") {
                list.extend_from_slice(element);
                list.extend_from_slice(b", ");
            }
        }
        list.extend_from_slice(self.peer.to_canonical().to_string().as_bytes());
        list
    }

    /// Whether a header of the client's, whatever is its value, does not go on to the service: those
    /// that we set ourselves, and those by which only a trusted front end may tell of its client.
    /// Programs behind CGI take `_`, and with some servers every other sign, for `-`, so all are one.
    pub(super) fn is_withheld(&self, name: &HeaderName) -> bool {
        let dashed;
        let is_sign = |char: char| char != '-' && !char.is_ascii_alphanumeric();
        let is_plain = !name.as_str().contains(is_sign);
        let plain = if is_plain {
            name.as_str()
        } else {
            dashed = name.as_str().replace(is_sign, "-");
            &dashed
        };
        let tells = plain.starts_with("x-forwarded-") || FORWARDING.contains(&plain);
        SET_BY_US.contains(&plain) || tells && !(is_plain && self.is_front_end())
    }

    /// The last element over all lines of a list that a trusted front end has sent.
    fn last<'h>(&self, headers: &'h HeaderMap, name: &'static str) -> Option<&'h [u8]> {
        self.is_front_end().then(|| elements(headers, name).next_back()).flatten()
    }
}

/// The elements of a list header over all of its lines, in order; empty ones are none (RFC 9110
/// 5.6.1).
fn elements<'h>(
    headers: &'h HeaderMap,
    name: &'static str,
) -> impl DoubleEndedIterator<Item = &'h [u8]> {
    let lines = headers.get_all(name).iter();
    let elements = lines.flat_map(|line| line.as_bytes().split(|byte| *byte == b','));
    elements.map(<[u8]>::trim_ascii).filter(|element| !element.is_empty())
}

/// The address of an element of X-Forwarded-For: `IP`, `IPv4:port`, `[IPv6]` or `[IPv6]:port`, in
/// quotes or not. `None`: `unknown`, an obfuscated name, or what nobody can read.
fn node(element: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(element).ok()?;
    let text = text.strip_prefix('"').and_then(|text| text.strip_suffix('"')).unwrap_or(text);
    let bracketed = || text.strip_prefix('[')?.strip_suffix(']')?.parse::<Ipv6Addr>().ok();
    let address = text.parse::<IpAddr>().ok();
    let address = address.or_else(|| text.parse().ok().map(|address: SocketAddr| address.ip()));
    address.or_else(|| bracketed().map(IpAddr::V6)).map(|address| address.to_canonical())
}

/// Headers that the service gets from us, whoever asks.
const SET_BY_US: [&str; 4] =
    ["x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "x-request-id"];
/// Other headers by which front ends tell of their client, beside all of `X-Forwarded-`.
const FORWARDING: [&str; 30] = [
    "cf-connecting-ip",
    "cf-connecting-ipv6",
    "cf-pseudo-ipv4",
    "client-ip",
    "do-connecting-ip",
    "fastly-client-ip",
    "fly-client-ip",
    "forwarded",
    "forwarded-for",
    "front-end-https",
    "http-client-ip",
    "http-x-forwarded-for",
    "proxy-client-ip",
    "true-client-ip",
    "wl-proxy-client-ip",
    "x-appengine-user-ip",
    "x-azure-clientip",
    "x-azure-socketip",
    "x-client-ip",
    "x-cluster-client-ip",
    "x-envoy-external-address",
    "x-forwarded",
    "x-original-forwarded-for",
    "x-original-host",
    "x-originating-ip",
    "x-real-ip",
    "x-remote-addr",
    "x-remote-ip",
    "x-scheme",
    "x-url-scheme",
];

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn headers(lines: &[(&'static str, &str)]) -> HeaderMap {
        let line = |(name, value): &(&'static str, &str)| {
            (HeaderName::from_static(name), HeaderValue::from_bytes(value.as_bytes()).unwrap())
        };
        lines.iter().map(line).collect()
    }

    fn client(peer: &str, front_ends: &[&str], lines: &[&str]) -> (String, String) {
        let front_ends: Vec<_> = front_ends.iter().map(|range| range.parse().unwrap()).collect();
        let lines: Vec<_> = lines.iter().map(|value| ("x-forwarded-for", *value)).collect();
        let headers = headers(&lines);
        let client = Client {
            peer: peer.parse().unwrap(),
            is_secure: false,
            is_checked: false,
            front_ends: &front_ends,
        };
        let list = String::from_utf8(client.forwarded_for(&headers)).unwrap();
        (client.address(&headers).to_string(), list)
    }

    #[test]
    fn client_is_the_last_address_that_is_no_trusted_front_end() {
        let local: &[&str] = &["127.0.0.1"];
        let chain: &[&str] = &["127.0.0.1", "10.0.0.0/8", "2001:db8:f::/48"];
        for (peer, front_ends, lines, address, list) in [
            // Nobody is trusted unless the operator says so, be it loopback.
            ("127.0.0.1", &[][..], &["198.51.100.1"][..], "127.0.0.1", "127.0.0.1"),
            ("192.0.2.7", local, &["198.51.100.1"], "192.0.2.7", "192.0.2.7"),
            ("127.0.0.1", local, &[], "127.0.0.1", "127.0.0.1"),
            ("127.0.0.1", local, &["1.1.1.1"], "1.1.1.1", "1.1.1.1, 127.0.0.1"),
            ("::ffff:127.0.0.1", local, &["1.1.1.1"], "1.1.1.1", "1.1.1.1, 127.0.0.1"),
            // HAProxy adds a line, nginx an element: in both the last was seen by the front end.
            (
                "127.0.0.1",
                local,
                &["203.0.113.66", "198.51.100.7"],
                "198.51.100.7",
                "203.0.113.66, 198.51.100.7, 127.0.0.1",
            ),
            (
                "127.0.0.1",
                local,
                &["203.0.113.66 ,198.51.100.7, ,"],
                "198.51.100.7",
                "203.0.113.66, 198.51.100.7, 127.0.0.1",
            ),
            // Front ends behind front ends.
            (
                "127.0.0.1",
                chain,
                &["6.6.6.6, 198.51.100.7", "10.1.1.1, 2001:db8:f::1"],
                "198.51.100.7",
                "6.6.6.6, 198.51.100.7, 10.1.1.1, 2001:db8:f::1, 127.0.0.1",
            ),
            (
                "127.0.0.1",
                chain,
                &["10.0.0.2, 10.0.0.1"],
                "10.0.0.2",
                "10.0.0.2, 10.0.0.1, 127.0.0.1",
            ),
            ("10.0.0.1", chain, &["127.0.0.1"], "127.0.0.1", "127.0.0.1, 10.0.0.1"),
        ] {
            assert_eq!(client(peer, front_ends, lines), (address.into(), list.into()), "{lines:?}");
        }
    }

    #[test]
    fn addresses_may_have_ports_and_what_is_unreadable_ends_the_chain() {
        for (element, address) in [
            ("198.51.100.1:4711", "198.51.100.1"),
            ("[2001:db8::1]:4711", "2001:db8::1"),
            ("[2001:db8::1]", "2001:db8::1"),
            ("2001:db8::1", "2001:db8::1"),
            ("\"[2001:db8::1]:4711\"", "2001:db8::1"),
            ("::ffff:198.51.100.1", "198.51.100.1"),
            ("[::ffff:198.51.100.1]:1", "198.51.100.1"),
        ] {
            assert_eq!(client("127.0.0.1", &["127.0.0.1"], &[element]).0, address, "{element}");
        }
        for element in [
            "unknown",
            "_hidden",
            "_SEVKISEK",
            "nonsense",
            "198.51.100.1:port",
            "198.51.100.1:99999",
            "198.51.100",
            "1.2.3.4.5",
            "[1.2.3.4]",
            "[::1",
            "fe80::1%eth0",
            "for=198.51.100.1",
            "\u{e4}",
            "198.51.100.1;x",
            "127.0.0.1 198.51.100.1",
        ] {
            let said = client("127.0.0.1", &["127.0.0.1"], &["6.6.6.6", element]).0;
            assert_eq!(said, "127.0.0.1", "{element}");
            let said = client("127.0.0.1", &["127.0.0.0/8"], &["6.6.6.6", element, "127.0.0.9"]).0;
            assert_eq!(said, "127.0.0.9", "{element}");
        }
    }

    #[test]
    fn scheme_and_host_are_the_last_that_a_trusted_front_end_said() {
        let local = ["127.0.0.1".parse().unwrap()];
        let front_end = Client {
            peer: [127, 0, 0, 1].into(),
            is_secure: false,
            is_checked: false,
            front_ends: &local,
        };
        let stranger = Client { peer: [192, 0, 2, 7].into(), ..front_end };
        for (values, used) in [
            (&["https"][..], true),
            (&["HTTPS"], true),
            (&["http"], false),
            (&["https", "http"], false),
            (&["http, https"], true),
            (&["wss"], false),
            (&[], false),
        ] {
            let lines: Vec<_> = values.iter().map(|value| ("x-forwarded-proto", *value)).collect();
            assert_eq!(front_end.used_tls(&headers(&lines)), used, "{values:?}");
            assert!(!stranger.used_tls(&headers(&lines)));
        }
        let own = Host::parse("nas1").unwrap();
        for (values, named) in [
            (&[][..], Some("nas1")),
            (&["nas.example"], Some("nas.example")),
            (&["evil.example", "nas.example:8443"], Some("nas.example:8443")),
            (&["evil.example, nas.example"], Some("nas.example")),
            (&["a\"<b>"], None),
            (&["nas.example:80x"], None),
        ] {
            let lines: Vec<_> = values.iter().map(|value| ("x-forwarded-host", *value)).collect();
            let headers = headers(&lines);
            assert_eq!(front_end.named(&headers, own).map(Host::as_str), named, "{values:?}");
            assert_eq!(stranger.named(&headers, own), Some(own));
        }
    }

    #[test]
    fn only_a_trusted_front_end_tells_of_its_client() {
        let local = ["127.0.0.1".parse().unwrap()];
        let front_end = Client {
            peer: [127, 0, 0, 1].into(),
            is_secure: false,
            is_checked: false,
            front_ends: &local,
        };
        let stranger = Client { peer: [192, 0, 2, 7].into(), ..front_end };
        let is_withheld =
            |client: Client<'_>, name| client.is_withheld(&HeaderName::from_static(name));
        for name in [
            "x-forwarded-for",
            "x_forwarded_for",
            "x.forwarded.for",
            "x-forwarded_proto",
            "x-request-id",
        ] {
            assert!(is_withheld(stranger, name) && is_withheld(front_end, name), "{name}");
        }
        for name in [
            "forwarded",
            "x-real-ip",
            "x-forwarded-port",
            "x-client-ip",
            "true-client-ip",
            "do-connecting-ip",
            "wl-proxy-client-ip",
            "x-envoy-external-address",
        ] {
            assert!(is_withheld(stranger, name) && !is_withheld(front_end, name), "{name}");
        }
        for name in ["x_real_ip", "x_forwarded_port", "x.real.ip", "x~forwarded!port"] {
            assert!(is_withheld(stranger, name) && is_withheld(front_end, name), "{name}");
        }
        for name in ["accept", "authorization", "cookie", "x-other", "user_agent", "a.b"] {
            assert!(!is_withheld(stranger, name) && !is_withheld(front_end, name), "{name}");
        }
    }
}
