//! What a service says of its own paths, in the words of visitors: `Location`, `Set-Cookie`.
//!
//! Pure. Bodies are never rewritten: a service whose pages have absolute links needs its own base
//! URL set to the prefix, and `keep-prefix`.

use super::service::Service;

/// A `Location` or `Content-Location`; `hosts`: what visitors call this origin.
///
/// A URL that names the service itself becomes a path, one that names the visitor's host keeps
/// scheme and host (it may lead to https), anything else is not ours and stays.
pub(super) fn location(service: &Service, hosts: &[&[u8]], value: &[u8]) -> Vec<u8> {
    let kept = || value.to_vec();
    let Some((scheme, authority, path)) = split(value) else {
        // Relative ones mean the same below the prefix.
        let path = value.starts_with(b"/").then(|| service.public(value));
        return path.flatten().unwrap_or_else(kept);
    };
    let Some(path) = (match path.first() {
        Some(b'/') => service.public(path),
        _ => service.public(&[b"/", path].concat()),
    }) else {
        return kept();
    };
    if !scheme.eq_ignore_ascii_case(b"https:") && service.is_named(authority) {
        return path;
    }
    if hosts.iter().any(|host| authority.eq_ignore_ascii_case(host)) {
        return [scheme, b"//", authority, &path].concat();
    }
    kept()
}

/// A `Set-Cookie`: its path is the visitor's, its domain goes, since it is the service's.
pub(super) fn cookie(service: &Service, value: &[u8]) -> Vec<u8> {
    // Such a cookie must have the path / (RFC 6265bis 4.1.3.2), or browsers drop it.
    if value.get(..7).is_some_and(|start| start.eq_ignore_ascii_case(b"__Host-")) {
        return value.to_vec();
    }
    let mut attributes = value.split(|octet| *octet == b';');
    let mut cookie = attributes.next().unwrap_or_default().to_vec();
    for attribute in attributes {
        let attribute = attribute.trim_ascii();
        let at = attribute.iter().position(|octet| *octet == b'=').unwrap_or(attribute.len());
        let name = attribute[..at].trim_ascii();
        let path = attribute.get(at + 1..).unwrap_or_default().trim_ascii();
        if name.eq_ignore_ascii_case(b"domain") {
            continue;
        }
        cookie.extend_from_slice(b"; ");
        if name.eq_ignore_ascii_case(b"path") && path.starts_with(b"/") {
            cookie.extend_from_slice(b"Path=");
            cookie.extend_from_slice(&service.public_cookie_path(path));
        } else {
            cookie.extend_from_slice(attribute);
        }
    }
    cookie
}

/// Scheme with its colon (empty in `//host/path`), authority and the rest of a URL.
fn split(value: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let has = |scheme: &[u8]| {
        value.get(..scheme.len()).is_some_and(|start| start.eq_ignore_ascii_case(scheme))
    };
    let scheme = [&b"http:"[..], b"https:", b""].into_iter().find(|scheme| has(scheme))?;
    let (scheme, rest) = value.split_at(scheme.len());
    let rest = rest.strip_prefix(b"//")?;
    let end = rest.iter().position(|octet| b"/?#\\".contains(octet)).unwrap_or(rest.len());
    Some((scheme, &rest[..end], &rest[end..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locations_lead_where_visitors_find_them() {
        let service = Service::parse("/x=http://127.0.0.1:8096").unwrap();
        let base = Service::parse("/x=http://NAS.local/base").unwrap();
        for (service, value, wanted) in [
            (&service, "/web/", "/x/web/"),
            (&service, "/?a=/b#c", "/x/?a=/b#c"),
            (&service, "web/index.html", "web/index.html"),
            (&service, "../up", "../up"),
            (&service, "?q", "?q"),
            (&service, "", ""),
            (&service, "http://127.0.0.1:8096", "/x/"),
            (&service, "HTTP://127.0.0.1:8096/a", "/x/a"),
            (&service, "http://127.0.0.1:8096?q", "/x/?q"),
            (&service, "//127.0.0.1:8096/a", "/x/a"),
            (&service, "https://127.0.0.1:8096/a", "https://127.0.0.1:8096/a"),
            (&service, "http://127.0.0.1/a", "http://127.0.0.1/a"),
            (&service, "http://user@127.0.0.1:8096/a", "http://user@127.0.0.1:8096/a"),
            (&service, "https://Public.example/a", "https://Public.example/x/a"),
            (&service, "https://public.example/x/a", "https://public.example/x/a"),
            (&service, "http://elsewhere/a", "http://elsewhere/a"),
            (&service, "//elsewhere/a", "//elsewhere/a"),
            (&service, "app:/a", "app:/a"),
            (&base, "http://nas.local:80/base/a", "/x/a"),
            (&base, "/base", "/x/"),
            (&base, "/other", "/other"),
            (&base, "http://nas.local/other", "http://nas.local/other"),
        ] {
            let hosts: [&[u8]; 1] = [b"public.example"];
            let location = location(service, &hosts, value.as_bytes());
            assert_eq!(String::from_utf8(location).unwrap(), wanted, "{value}");
        }
    }

    #[test]
    fn cookies_lose_the_domain_and_keep_the_rest() {
        let service = Service::parse("/x=http://h").unwrap();
        for (value, wanted) in [
            ("a=b", "a=b"),
            ("a=b; Path=/; Domain=h; HttpOnly", "a=b; Path=/x/; HttpOnly"),
            (
                "a=\"b c\";path=/d;Secure ;Expires=Thu, 01 Jan",
                "a=\"b c\"; Path=/x/d; Secure; Expires=Thu, 01 Jan",
            ),
            ("a=path=/; SameSite=Lax", "a=path=/; SameSite=Lax"),
            ("a=b; path; domain", "a=b; path"),
            ("__Host-a=b; Path=/; Secure", "__Host-a=b; Path=/; Secure"),
            ("", ""),
        ] {
            let cookie = cookie(&service, value.as_bytes());
            assert_eq!(String::from_utf8(cookie).unwrap(), wanted, "{value}");
        }
    }
}
