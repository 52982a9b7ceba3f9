//! How urgent a request is: the three bits of its SYN_STREAM.
//!
//! RFC 9218 where the visitor says it; else what a page needs first comes first.

use http::{HeaderMap, header};

/// 0 (most urgent) to 7 for a request of `path` (with query).
pub(super) fn priority(headers: &HeaderMap, path: &str) -> u8 {
    if let Some(urgency) = headers.get("priority").and_then(|value| urgency(value.as_bytes())) {
        return urgency;
    }
    let path = path.split_once('?').map_or(path, |(path, _)| path);
    let name = path.rsplit_once('/').map_or(path, |(_, name)| name);
    let extension = name.rsplit_once('.').map_or("", |(_, extension)| extension);
    let is_one_of = |list: &[&str]| list.iter().any(|one| one.eq_ignore_ascii_case(extension));
    if is_one_of(&PAGES) || (extension.is_empty() && accepts_page(headers)) {
        PAGE
    } else if is_one_of(&ARCHIVES) {
        ARCHIVE
    } else if headers.get(header::RANGE).is_some_and(|range| is_short(range.as_bytes())) {
        SHORT_RANGE
    } else {
        OTHER
    }
}

/// `u` of a `Priority` header (RFC 9218 4.1); later ones win, as in any RFC 9651 Dictionary.
fn urgency(value: &[u8]) -> Option<u8> {
    let members = value.split(|octet| *octet == b',').map(<[u8]>::trim_ascii);
    let mut urgency = members.filter_map(|member| match member.strip_prefix(b"u=")? {
        [digit @ b'0'..=b'7'] | [digit @ b'0'..=b'7', b';', ..] => Some(digit - b'0'),
        _ => None,
    });
    urgency.next_back()
}

fn accepts_page(headers: &HeaderMap) -> bool {
    headers.get(header::ACCEPT).is_some_and(|accept| {
        let accept = accept.as_bytes();
        accept.starts_with(b"text/html") || accept.starts_with(b"application/json")
    })
}

/// Whether a range is one that players fetch to find their way: its end is known and near. The
/// priority of a stream cannot change later, so that `bytes=0-` counts as the whole film it is.
fn is_short(range: &[u8]) -> bool {
    let number = |text: &[u8]| std::str::from_utf8(text).ok()?.trim().parse::<u64>().ok();
    let Some(range) = range.strip_prefix(b"bytes=") else { return false };
    let Some(dash) = range.iter().position(|octet| *octet == b'-') else { return false };
    match (number(&range[..dash]), number(&range[dash + 1..])) {
        (Some(first), Some(last)) => last.saturating_sub(first) < SHORT,
        (None, Some(suffix)) => suffix <= SHORT,
        _ => false,
    }
}

const PAGE: u8 = 1;
const SHORT_RANGE: u8 = 2;
const OTHER: u8 = 3;
const ARCHIVE: u8 = 5;

/// Octets of a range that is still short.
const SHORT: u64 = 256 << 10;

const PAGES: [&str; 4] = ["html", "htm", "json", "css"];
const ARCHIVES: [&str; 10] = ["zip", "tar", "gz", "tgz", "bz2", "xz", "zst", "7z", "rar", "iso"];

#[cfg(test)]
mod tests {
    use super::*;

    fn of(path: &str, headers: &[(&'static str, &'static str)]) -> u8 {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, value.parse().unwrap());
        }
        priority(&map, path)
    }

    #[test]
    fn what_the_visitor_says_comes_first() {
        assert_eq!(of("/a.zip", &[("priority", "u=0")]), 0);
        assert_eq!(of("/", &[("priority", "i, u=7")]), 7);
        assert_eq!(of("/", &[("priority", "u=2;x=1")]), 2);
        assert_eq!(of("/film.mkv", &[("priority", "u=9")]), OTHER);
        assert_eq!(of("/film.mkv", &[("priority", "u=-1, i")]), OTHER);
    }

    #[test]
    fn pages_before_seeks_before_films_before_archives() {
        assert_eq!(of("/a/index.HTML?x=.zip", &[]), PAGE);
        assert_eq!(of("/a/", &[("accept", "text/html,*/*")]), PAGE);
        assert_eq!(of("/a/", &[]), OTHER);
        assert_eq!(of("/a.mkv", &[("range", "bytes=0-1")]), SHORT_RANGE);
        assert_eq!(of("/a.mkv", &[("range", "bytes=-65536")]), SHORT_RANGE);
        assert_eq!(of("/a.mkv", &[("range", "bytes=100-262243")]), SHORT_RANGE);
        assert_eq!(of("/a.mkv", &[("range", "bytes=100-262244")]), OTHER);
        assert_eq!(of("/a.mkv", &[("range", "bytes=0-")]), OTHER);
        assert_eq!(of("/a.mkv", &[("range", "bytes=-")]), OTHER);
        assert_eq!(of("/a.tar.gz", &[]), ARCHIVE);
        assert_eq!(of("/dir.zip/a", &[]), OTHER);
    }
}
