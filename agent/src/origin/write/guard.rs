//! Which requests come from a page of somebody else.
//!
//! It owns what the visitor's own site is, by what the proxy says of the request. Programs send
//! none of these headers and are not refused.

use spdy_protocol::head::RequestHead;

/// Whether a browser says that another site made the request.
pub(super) fn is_foreign(request: &RequestHead) -> bool {
    let mut sites = request.headers.get_all("sec-fetch-site");
    if sites.any(|site| matches!(site.trim_ascii(), b"cross-site" | b"same-site")) {
        return true;
    }
    let mut origins = request.headers.get_all("origin");
    match (origins.next(), origins.next()) {
        (None, _) => false,
        (Some(origin), None) => !is_own(request, origin.trim_ascii()),
        // Two cannot both be it.
        _ => true,
    }
}

/// Whether an authority of a URL with this scheme is where the visitor reached us.
pub(super) fn is_own_host(request: &RequestHead, scheme: &[u8], authority: &[u8]) -> bool {
    let (own_scheme, own) = own(request);
    let own = without_default_port(own, own_scheme);
    !own.is_empty() && without_default_port(authority, scheme).eq_ignore_ascii_case(own)
}

/// Scheme and authority of a URL, and what follows.
pub(super) fn split_url(url: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let at = url.windows(3).position(|three| three == b"://")?;
    let (scheme, rest) = (&url[..at], &url[at + 3..]);
    let end = rest.iter().position(|octet| b"/?#".contains(octet)).unwrap_or(rest.len());
    Some((scheme, &rest[..end], &rest[end..]))
}

fn is_own(request: &RequestHead, origin: &[u8]) -> bool {
    match split_url(origin) {
        Some((scheme, authority, b"")) => {
            scheme.eq_ignore_ascii_case(own(request).0) && is_own_host(request, scheme, authority)
        }
        _ => false,
    }
}

/// Scheme and authority that the visitor used. The proxy replaces what a stranger says in these
/// headers, and a page from elsewhere cannot set them without asking first.
fn own(request: &RequestHead) -> (&[u8], &[u8]) {
    let first = |name| {
        let value = request.headers.get(name)?.split(|octet| *octet == b',').next()?.trim_ascii();
        (!value.is_empty()).then_some(value)
    };
    let scheme = first("x-forwarded-proto").unwrap_or(request.scheme.as_bytes());
    (scheme, first("x-forwarded-host").unwrap_or(request.host.as_bytes()))
}

fn without_default_port<'a>(authority: &'a [u8], scheme: &[u8]) -> &'a [u8] {
    let port: &[u8] = if scheme.eq_ignore_ascii_case(b"https") { b":443" } else { b":80" };
    authority.strip_suffix(port).unwrap_or(authority)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(headers: &[(&str, &str)]) -> RequestHead {
        let mut request = RequestHead::get("/");
        request.scheme = "http".to_owned();
        request.host = "nas1.example:8080".to_owned();
        for (name, value) in headers {
            request.headers.push(name, value.as_bytes()).unwrap();
        }
        request
    }

    #[test]
    fn only_the_own_site_and_programs_may_change() {
        let (proto, host) = ("x-forwarded-proto", "x-forwarded-host");
        let cases: &[(&[(&str, &str)], bool)] = &[
            (&[], false),
            (&[("origin", "http://nas1.example:8080")], false),
            (&[("origin", "HTTP://NAS1.example:8080")], false),
            (&[("origin", "https://nas1.example:8080")], true),
            (&[("origin", "http://nas1.example")], true),
            (&[("origin", "http://nas1.example:8081")], true),
            (&[("origin", "http://nas1.example:8080.evil")], true),
            (&[("origin", "http://nas1.example:8080/")], true),
            (&[("origin", "http://evil.example")], true),
            (&[("origin", "null")], true),
            (&[("origin", "")], true),
            (&[("origin", "http://nas1.example:8080"), ("origin", "http://evil.example")], true),
            (&[("origin", "https://a.example"), (proto, "https"), (host, "a.example")], false),
            (&[("origin", "https://a.example"), (proto, "https"), (host, "a.example:443")], false),
            (&[("origin", "https://a.example:443"), (proto, "https"), (host, "a.example")], false),
            (&[("origin", "http://a.example"), (proto, "http"), (host, "a.example:80")], false),
            (&[("origin", "http://a.example"), (proto, "https"), (host, "a.example")], true),
            (&[("origin", "https://a"), (proto, "https, http"), (host, "a, b")], false),
            (&[("sec-fetch-site", "same-origin")], false),
            (&[("sec-fetch-site", "none")], false),
            (&[("sec-fetch-site", "same-site")], true),
            (&[("sec-fetch-site", "cross-site")], true),
            (&[("sec-fetch-site", "cross-site"), ("origin", "http://nas1.example:8080")], true),
        ];
        for (headers, foreign) in cases {
            assert_eq!(is_foreign(&request(headers)), *foreign, "{headers:?}");
        }
    }

    #[test]
    fn hosts_of_urls_are_compared_without_default_ports() {
        let request = request(&[("x-forwarded-host", "a.example"), ("x-forwarded-proto", "https")]);
        for (url, own) in [
            ("https://a.example/x", true),
            ("https://A.example:443/x", true),
            ("http://a.example:80/x", true),
            ("http://a.example:443/x", false),
            ("https://b.example/x", false),
            ("https:///x", false),
        ] {
            let (scheme, authority, path) = split_url(url.as_bytes()).unwrap();
            assert_eq!(path, b"/x");
            assert_eq!(is_own_host(&request, scheme, authority), own, "{url}");
        }
        assert_eq!(split_url(b"/x"), None);
        assert_eq!(split_url(b"http://a?b").unwrap().2, b"?b");
    }
}
