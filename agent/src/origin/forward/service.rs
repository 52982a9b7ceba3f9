//! One forwarded service: what the owner wrote, and which path of the service a request means.
//!
//! It owns the syntax of `--forward` and the two ways of a path: from a visitor to the service and
//! back. It is pure; what is done with the paths is `super`'s.

use std::{fmt, net::IpAddr, time::Duration};

use percent_encoding::percent_decode;

/// A service to which requests below a prefix are passed. The owner fixes it: nothing in a request
/// chooses another host, port or base.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// `/x/y`; empty for `/`.
    prefix: String,
    host: String,
    port: u16,
    /// Path on the service below which everything lies; no slash at its end.
    base: String,
    keeps_prefix: bool,
    keeps_host: bool,
    wait: Duration,
}

/// What a request's path means to a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// The prefix without its slash: relative links of the service would lead astray.
    Bare,
    /// The path with its query as it goes to the service.
    At(Vec<u8>),
    /// It would lead out of the base, or mean another host to somebody.
    Astray,
}

impl Service {
    /// Reads `PREFIX=URL[,keep-prefix][,keep-host][,wait=SECONDS]`.
    ///
    /// # Errors
    /// One line that says what is wrong.
    pub fn parse(text: &str) -> Result<Self, String> {
        let fail = |problem: &dyn fmt::Display| Err(format!("forward {text}: {problem}"));
        let Some((prefix, rest)) = text.split_once('=') else {
            return fail(&"is not PREFIX=URL, such as /films=http://127.0.0.1:8096");
        };
        let mut options = rest.split(',');
        let url = options.next().unwrap_or_default();
        let mut service = match Self::parse_url(url) {
            Ok(service) => service,
            Err(problem) => return fail(&problem),
        };
        match prefix.strip_prefix('/') {
            Some("") => {}
            Some(segments) if are_segments(segments) => prefix.clone_into(&mut service.prefix),
            _ => return fail(&"PREFIX must be / or like /x or /x/y, of A-Z a-z 0-9 . _ ~ -"),
        }
        for option in options {
            match option.split_once('=') {
                None if option == "keep-prefix" => service.keeps_prefix = true,
                None if option == "keep-host" => service.keeps_host = true,
                Some(("wait", seconds)) => match seconds.parse() {
                    Ok(seconds @ 1..=WAIT_MAX) => service.wait = Duration::from_secs(seconds),
                    _ => return fail(&format_args!("wait must be 1 to {WAIT_MAX} seconds")),
                },
                _ => {
                    let known = "keep-prefix, keep-host, wait=SECONDS";
                    return fail(&format_args!("option {option:?} is none of {known}"));
                }
            }
        }
        Ok(service)
    }

    fn parse_url(url: &str) -> Result<Self, String> {
        let Some((scheme, rest)) = url.split_once("://") else {
            return Err("URL must begin with http://".to_owned());
        };
        if !scheme.eq_ignore_ascii_case("http") {
            return Err(format!("only http:// services are spoken to, not {scheme}://"));
        }
        if let Some(mark) = rest.chars().find(|c| matches!(c, '@' | '?' | '#')) {
            return Err(format!("URL must have no user, query or fragment ({mark})"));
        }
        let (authority, base) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
        let (host, port) = match authority.strip_prefix('[') {
            Some(v6) => v6.split_once(']').ok_or("URL has a [ without a ]")?,
            None => authority.find(':').map_or((authority, ""), |at| authority.split_at(at)),
        };
        let is_name = |octet: u8| octet.is_ascii_alphanumeric() || b".-_".contains(&octet);
        let valid = if authority.starts_with('[') {
            host.parse::<std::net::Ipv6Addr>().is_ok()
        } else {
            !host.is_empty() && host.len() <= NAME_MAX && host.bytes().all(is_name)
        };
        if !valid {
            return Err(format!("URL has no valid host ({host:?})"));
        }
        let port = match port.strip_prefix(':') {
            None if port.is_empty() => 80,
            digits => digits
                .filter(|digits| digits.bytes().all(|octet| octet.is_ascii_digit()))
                .and_then(|digits| digits.parse().ok())
                .filter(|port| *port != 0)
                .ok_or_else(|| format!("URL has no valid port ({port:?})"))?,
        };
        let base = base.strip_suffix('/').unwrap_or(base);
        if !base.strip_prefix('/').is_none_or(are_segments) {
            return Err("path of the URL must be of A-Z a-z 0-9 . _ ~ - and /".to_owned());
        }
        Ok(Self {
            prefix: String::new(),
            host: host.to_ascii_lowercase(),
            port,
            base: base.to_owned(),
            keeps_prefix: false,
            keeps_host: false,
            wait: WAIT,
        })
    }

    /// Where visitors find it: `/x/y`, or `/`.
    #[must_use]
    pub fn prefix(&self) -> &str {
        if self.prefix.is_empty() { "/" } else { &self.prefix }
    }

    /// Whether it takes every request of a share, named as in [`super::super::ShareOptions`].
    #[must_use]
    pub fn hides(&self, share: &str) -> bool {
        self.prefix.is_empty() || self.prefix[1..] == *share
    }

    /// Longest wait for the first octet of its answer. Default 30 s.
    pub(super) const fn wait(&self) -> Duration {
        self.wait
    }

    /// What of the prefix the service does not see in paths, for `X-Forwarded-Prefix`.
    pub(super) fn hidden_prefix(&self) -> &str {
        if self.keeps_prefix { "" } else { &self.prefix }
    }

    pub(super) const fn keeps_host(&self) -> bool {
        self.keeps_host
    }

    /// The address, where the owner wrote one and no name.
    pub(super) fn literal(&self) -> Option<IpAddr> {
        self.host.parse().ok()
    }

    pub(super) fn host(&self) -> &str {
        &self.host
    }

    pub(super) const fn port(&self) -> u16 {
        self.port
    }

    /// Host and port as `Host` has them.
    pub(super) fn authority(&self) -> String {
        let colon = self.host.contains(':');
        let host = if colon { format!("[{}]", self.host) } else { self.host.clone() };
        if self.port == 80 { host } else { format!("{host}:{}", self.port) }
    }

    /// Whether an authority of a URL names this service.
    pub(super) fn is_named(&self, authority: &[u8]) -> bool {
        let own = self.authority();
        authority.eq_ignore_ascii_case(own.as_bytes())
            || self.port == 80 && authority.eq_ignore_ascii_case(format!("{own}:80").as_bytes())
    }

    /// Whether a path lies at or below the prefix, by whole segments.
    pub(super) fn holds(&self, path: &[u8]) -> bool {
        // `*` belongs to OPTIONS alone.
        path.starts_with(b"/") && is_below(path, self.prefix.as_bytes())
    }

    /// The way of a path that [`Service::holds`] is true of. Below the prefix it goes on octet by
    /// octet, but for octets that no request line can carry: those are percent-encoded.
    pub(super) fn find(&self, path: &[u8]) -> Found {
        let rest = &path[self.prefix.len()..];
        if !rest.starts_with(b"/") {
            return Found::Bare;
        }
        let end = path.iter().position(|octet| *octet == b'?').unwrap_or(path.len());
        let kept = if self.keeps_prefix { path } else { rest };
        let mut found = self.base.clone().into_bytes();
        for octet in kept {
            match octet {
                b'!'..=b'"' | b'$'..=b'~' => found.push(*octet),
                _ => found.extend_from_slice(format!("%{octet:02X}").as_bytes()),
            }
        }
        // `//host/` and `/\host/` name a host where somebody takes them for a URL.
        let is_host = found.starts_with(b"//") || found.starts_with(b"/\\");
        if is_host || climbs(&path[..end]) { Found::Astray } else { Found::At(found) }
    }

    /// Where visitors find what the service calls by this path (a query and a fragment may follow);
    /// `None` if they cannot get there.
    ///
    /// A path that begins with the hidden prefix stays: the service heeds `X-Forwarded-Prefix`.
    pub(super) fn public(&self, path: &[u8]) -> Option<Vec<u8>> {
        let prefix = self.prefix.as_bytes();
        let own = self.own_base();
        if own.is_empty() && is_below(path, prefix) {
            return Some(path.to_vec());
        }
        let rest = path.strip_prefix(own.as_slice()).filter(|_| is_below(path, &own))?;
        let slash: &[u8] = if rest.starts_with(b"/") { b"" } else { b"/" };
        Some([prefix, slash, rest].concat())
    }

    /// The path of a cookie. One that visitors cannot name otherwise is confined to the prefix.
    pub(super) fn public_cookie_path(&self, path: &[u8]) -> Vec<u8> {
        let prefix = self.prefix.as_bytes();
        match self.public(path) {
            Some(path) => path,
            None if path == b"/" || is_below(&self.own_base(), path) => [prefix, b"/"].concat(),
            None => [prefix, path].concat(),
        }
    }

    /// What every path on the service begins with.
    fn own_base(&self) -> Vec<u8> {
        let kept = if self.keeps_prefix { self.prefix.as_str() } else { "" };
        [self.base.as_str(), kept].concat().into_bytes()
    }
}

/// Whether a path is `base` or lies below it, by whole segments.
fn is_below(path: &[u8], base: &[u8]) -> bool {
    let rest = path.strip_prefix(base);
    rest.is_some_and(|rest| rest.first().is_none_or(|octet| b"/?#".contains(octet)))
}

/// Whether somebody could read `..` out of a path: encoded once or twice, behind a backslash, or
/// with parameters.
fn climbs(path: &[u8]) -> bool {
    let mut octets = path.to_vec();
    for _ in 0..3 {
        let mut segments = octets.split(|octet| b"/\\".contains(octet));
        if segments.any(|segment| segment.split(|octet| *octet == b';').next() == Some(b"..")) {
            return true;
        }
        octets = percent_decode(&octets).collect();
    }
    false
}

/// Segments between slashes that mean themselves in every URL.
fn are_segments(text: &str) -> bool {
    let plain = |octet: u8| octet.is_ascii_alphanumeric() || b"._~-".contains(&octet);
    text.split('/').all(|segment| !matches!(segment, "" | "." | "..") && segment.bytes().all(plain))
}

/// Default wait for the first octet of an answer.
const WAIT: Duration = Duration::from_secs(30);
/// Longest wait that can be asked for, in seconds.
const WAIT_MAX: u64 = 3_600;
/// Octets of the longest name.
const NAME_MAX: usize = 253;

#[cfg(test)]
mod tests {
    use super::*;

    fn service(text: &str) -> Service {
        Service::parse(text).unwrap()
    }

    fn found(text: &str, path: &str) -> Option<String> {
        match service(text).find(path.as_bytes()) {
            Found::At(path) => Some(String::from_utf8(path).unwrap()),
            Found::Bare => Some("bare".to_owned()),
            Found::Astray => None,
        }
    }

    fn public(text: &str, path: &str) -> Option<String> {
        service(text).public(path.as_bytes()).map(|path| String::from_utf8(path).unwrap())
    }

    fn cookie(text: &str, path: &str) -> String {
        String::from_utf8(service(text).public_cookie_path(path.as_bytes())).unwrap()
    }

    #[test]
    fn targets_are_read_whole() {
        let plain = service("/x/y=http://NAS.local");
        assert_eq!((plain.prefix(), plain.host(), plain.port()), ("/x/y", "nas.local", 80));
        assert_eq!((plain.authority().as_str(), plain.wait()), ("nas.local", WAIT));
        assert!(plain.literal().is_none() && !plain.keeps_host());
        let all = service("/=HTTP://[fd00::1]:8096/a/b/,keep-prefix,keep-host,wait=120");
        assert_eq!((all.prefix(), all.base.as_str()), ("/", "/a/b"));
        assert_eq!(all.authority(), "[fd00::1]:8096");
        assert_eq!((all.literal(), all.wait().as_secs()), ("fd00::1".parse().ok(), 120));
        assert!(all.keeps_host() && all.keeps_prefix);
    }

    #[test]
    fn wrong_targets_are_one_line_that_names_them() {
        for text in [
            "",
            "/x",
            "=http://h",
            "x=http://h",
            "/x/=http://h",
            "//=http://h",
            "/x//y=http://h",
            "/x/../y=http://h",
            "/.=http://h",
            "/x%20=http://h",
            "/x y=http://h",
            "/x=",
            "/x=h:80",
            "/x=https://h",
            "/x=unix:///run/s",
            "/x=ftp://h",
            "/x=http://",
            "/x=http:///a",
            "/x=http://h:0",
            "/x=http://h:65536",
            "/x=http://h:+80",
            "/x=http://h:",
            "/x=http://[::1",
            "/x=http://[::1]80",
            "/x=http://[fe80::1%25eth0]",
            "/x=http://[h]",
            "/x=http://::1",
            "/x=http://h h",
            "/x=http://user@h",
            "/x=http://h/?q",
            "/x=http://h?q",
            "/x=http://h/#f",
            "/x=http://h/a//b",
            "/x=http://h/../b",
            "/x=http://h/a b",
            "/x=http://h//",
            "/x=http://h,",
            "/x=http://h,keep",
            "/x=http://h,wait=0",
            "/x=http://h,wait=3601",
            "/x=http://h,wait=",
            "/x=http://h,keep-host=1",
        ] {
            let problem = Service::parse(text).unwrap_err();
            assert!(problem.starts_with(&format!("forward {text}: ")), "{problem}");
            assert!(!problem.contains('\n'), "{problem}");
        }
        assert!(Service::parse("/x=https://h").unwrap_err().contains("only http://"));
    }

    #[test]
    fn prefix_is_matched_by_whole_segments() {
        let x = service("/x=http://h");
        for (path, holds) in [
            ("/x", true),
            ("/x?q", true),
            ("/x/", true),
            ("/x/y?q", true),
            ("/xy", false),
            ("/X/", false),
            ("/x%2fy", false),
            ("/%78/", false),
            ("/", false),
            ("//x/", false),
            ("*", false),
        ] {
            assert_eq!(x.holds(path.as_bytes()), holds, "{path}");
        }
        let root = service("/=http://h");
        assert!(root.holds(b"/") && root.holds(b"/x?q") && !root.holds(b"*"));
    }

    #[test]
    fn paths_pass_octet_by_octet_below_the_base() {
        let strip = "/x=http://h/base";
        let keep = "/x=http://h/base,keep-prefix";
        for (path, stripped) in [
            ("/x/", "/base/"),
            (
                "/x/a%2Fb%2fc%20d//e;f=1?q=/../%00&r=http://z/",
                "/base/a%2Fb%2fc%20d//e;f=1?q=/../%00&r=http://z/",
            ),
            ("/x/...", "/base/..."),
            ("/x/..a/b..", "/base/..a/b.."),
            ("/x//evil", "/base//evil"),
            ("/x/http://evil/", "/base/http://evil/"),
            ("/x/a b\u{e4}#c", "/base/a%20b%C3%A4%23c"),
        ] {
            assert_eq!(found(strip, path).as_deref(), Some(stripped), "{path}");
            let kept = stripped.replacen("/base", "/base/x", 1);
            assert_eq!(found(keep, path).as_deref(), Some(kept.as_str()), "{path}");
        }
        for path in ["/x", "/x?q"] {
            assert_eq!(found(strip, path).as_deref(), Some("bare"), "{path}");
        }
        assert_eq!(found("/=http://h", "/a?b").as_deref(), Some("/a?b"));
    }

    #[test]
    fn paths_that_climb_or_name_a_host_are_refused() {
        for path in [
            "/x/..",
            "/x/../",
            "/x/a/../../b",
            "/x/%2e%2e/b",
            "/x/.%2E/b",
            "/x/a%2f..%2fb",
            "/x/..%5cb",
            "/x/..\\b",
            "/x/..;a=b/c",
            "/x/%252e%252e/",
            "/x/..?q",
        ] {
            assert_eq!(found("/x=http://h/base", path), None, "{path}");
        }
        for path in ["/x//evil/", "/x///", "/x/\\evil"] {
            assert_eq!(found("/x=http://h", path), None, "{path}");
        }
        assert_eq!(found("/=http://h", "//evil/"), None);
    }

    #[test]
    fn paths_of_the_service_are_those_of_visitors() {
        for (target, path, wanted) in [
            ("/x=http://h", "/", Some("/x/")),
            ("/x=http://h", "/a?b#c", Some("/x/a?b#c")),
            ("/x=http://h", "/x/a", Some("/x/a")),
            ("/x=http://h", "/xa", Some("/x/xa")),
            ("/x=http://h/base", "/base", Some("/x/")),
            ("/x=http://h/base", "/base?q", Some("/x/?q")),
            ("/x=http://h/base", "/base/a", Some("/x/a")),
            ("/x=http://h/base", "/based", None),
            ("/x=http://h/x/y", "/x/y/a", Some("/x/a")),
            ("/x=http://h,keep-prefix", "/x/a", Some("/x/a")),
            ("/x=http://h,keep-prefix", "/a", None),
            ("/x=http://h/b,keep-prefix", "/b/x/a", Some("/x/a")),
            ("/=http://h", "/a", Some("/a")),
            ("/=http://h/base", "/base/a", Some("/a")),
            ("/=http://h/base", "/base", Some("/")),
        ] {
            assert_eq!(public(target, path).as_deref(), wanted, "{target} {path}");
        }
    }

    #[test]
    fn cookies_stay_below_the_prefix() {
        for (target, path, wanted) in [
            ("/x=http://h", "/", "/x/"),
            ("/x=http://h", "/a", "/x/a"),
            ("/x=http://h", "/x", "/x"),
            ("/x=http://h/b/c", "/", "/x/"),
            ("/x=http://h/b/c", "/b", "/x/"),
            ("/x=http://h/b/c", "/b/c/d", "/x/d"),
            ("/x=http://h/b/c", "/other", "/x/other"),
            ("/x=http://h,keep-prefix", "/", "/x/"),
            ("/x=http://h,keep-prefix", "/x/a", "/x/a"),
            ("/=http://h", "/a", "/a"),
        ] {
            assert_eq!(cookie(target, path), wanted, "{target} {path}");
        }
    }
}
