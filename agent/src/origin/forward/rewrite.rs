//! What a service says of its own paths, in the words of visitors: `Location`, `Set-Cookie`.
//!
//! Pure. Bodies are never rewritten: a service whose pages have absolute links needs its own base
//! URL set to the prefix, and `keep-prefix`.

use super::service::Service;

/// A `Location` or `Content-Location`; `hosts`: what visitors call this origin.
///
/// A URL that names the service itself becomes a path, one that names the visitor's host keeps
/// scheme and host (it may lead to https), anything else is not ours and stays. What is rewritten
/// never leads to another host, however a client reads it.
pub(super) fn location(service: &Service, hosts: &[&[u8]], value: &[u8]) -> Vec<u8> {
    let kept = || value.to_vec();
    let Some((scheme, authority, path)) = split(value) else {
        // Relative ones mean the same below the prefix.
        let path = value.starts_with(b"/").then(|| service.public(value)).flatten();
        return path.map_or_else(kept, |path| if path == value { path } else { as_path(path) });
    };
    let Some(path) = (match path.first() {
        Some(b'/') => service.public(path),
        _ => service.public(&[b"/", path].concat()),
    }) else {
        return kept();
    };
    if !scheme.eq_ignore_ascii_case(b"https:") && service.is_named(authority) {
        return as_path(path);
    }
    let is_host =
        authority.iter().all(|byte| byte.is_ascii_alphanumeric() || b".-_:[]".contains(byte));
    if is_host && hosts.iter().any(|host| authority.eq_ignore_ascii_case(host)) {
        return [scheme, b"//", authority, &path].concat();
    }
    kept()
}

/// A path as a reference that means this path: one that begins with two slashes would name a host.
/// Browsers drop tabs and take a backslash for a slash (WHATWG URL 4.4), so such ones count, too.
/// The dot segment goes away when the reference is resolved (RFC 3986 4.2, 5.2.4).
fn as_path(path: Vec<u8>) -> Vec<u8> {
    let mut seen = path.iter().filter(|byte| !b"\t\r\n".contains(byte)).skip(1);
    let names_host = seen.next().is_some_and(|byte| b"/\\".contains(byte));
    if names_host { [b"/.", &path[..]].concat() } else { path }
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

    /// What visitors call this origin.
    const OWN: &str = "public.example";

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
    fn paths_never_become_hosts() {
        let base = Service::parse("/=http://127.0.0.1:8096/base").unwrap();
        let plain = Service::parse("/=http://127.0.0.1:8096").unwrap();
        let below = Service::parse("/x=http://127.0.0.1:8096/base").unwrap();
        for (service, value, wanted) in [
            (&base, "/base//evil.example/a?b", "/.//evil.example/a?b"),
            (&base, "/base/\\evil.example", "/./\\evil.example"),
            (&base, "/base/\t/evil.example", "/./\t/evil.example"),
            (&base, "/base/\t\\\tevil.example", "/./\t\\\tevil.example"),
            (&base, "http://127.0.0.1:8096/base//evil.example/", "/.//evil.example/"),
            (&base, "/base/%09//evil.example/", "/%09//evil.example/"),
            (&base, "/base/", "/"),
            (&base, "/base", "/"),
            (&base, "/base?//evil.example", "/?//evil.example"),
            (&plain, "http://127.0.0.1:8096//evil.example/", "/.//evil.example/"),
            (&plain, "//127.0.0.1:8096//evil.example/", "/.//evil.example/"),
            (&plain, "http://127.0.0.1:8096\\evil.example", "/./\\evil.example"),
            (&plain, "http://127.0.0.1:8096/\\evil.example", "/./\\evil.example"),
            (&plain, "https://public.example//a", "https://public.example//a"),
            // What the service itself sends elsewhere is its own business.
            (&plain, "//evil.example/", "//evil.example/"),
            (&plain, "/\\evil.example/", "/\\evil.example/"),
            (&below, "/base//evil.example", "/x//evil.example"),
            (&below, "http://127.0.0.1:8096/base/\\evil.example", "/x/\\evil.example"),
        ] {
            let hosts: [&[u8]; 1] = [b"public.example"];
            let location = location(service, &hosts, value.as_bytes());
            assert_eq!(String::from_utf8(location).unwrap(), wanted, "{value:?}");
        }
    }

    /// The host that a reference leads to from a page of `public.example`, by RFC 3986 (appendix B).
    fn host_by_rfc(value: &str) -> String {
        let is_scheme = |text: &str| {
            text.starts_with(|c: char| c.is_ascii_alphabetic())
                && text.chars().all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c))
        };
        let (scheme, rest) = match value.split_once(':') {
            Some((scheme, rest)) if is_scheme(scheme) => (scheme, rest),
            _ => ("", value),
        };
        match rest.strip_prefix("//") {
            Some(rest) => rest.split(['/', '?', '#']).next().unwrap_or_default().to_lowercase(),
            None if scheme.is_empty() => OWN.to_owned(),
            None => String::new(),
        }
    }

    /// The same as browsers read it (WHATWG URL, special schemes): no tabs and line ends, `\\` is `/`,
    /// any number of slashes behind a scheme.
    fn host_by_whatwg(value: &str) -> String {
        let value: String = value.chars().filter(|c| !"\t\r\n".contains(*c)).collect();
        let value = value.trim_matches(|c: char| c <= ' ').replace('\\', "/").to_lowercase();
        let behind = ["http:", "https:"].iter().find_map(|scheme| value.strip_prefix(scheme));
        let rest = match behind {
            Some(rest) => rest.trim_start_matches('/'),
            None => match value.strip_prefix("//") {
                Some(rest) => rest.trim_start_matches('/'),
                None => return OWN.to_owned(),
            },
        };
        let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
        authority.rsplit('@').next().unwrap_or_default().to_owned()
    }

    #[test]
    fn rewritten_locations_lead_nowhere_else_by_any_reading() {
        const PARTS: [&str; 21] = [
            "/",
            "//",
            "\\",
            "\t",
            "%09",
            "..",
            ".",
            "evil.example",
            "http:",
            "HTTPS:",
            "127.0.0.1:8096",
            "public.example",
            "/base",
            "/x",
            "x",
            "?",
            "#",
            "@",
            ":",
            ";",
            " ",
        ];
        let services = [
            "/=http://127.0.0.1:8096",
            "/=http://127.0.0.1:8096/base",
            "/=http://127.0.0.1:8096/base/x",
            "/=http://127.0.0.1:8096,keep-prefix,keep-host",
            "/x=http://127.0.0.1:8096",
            "/x=http://127.0.0.1:8096/base",
            "/x=http://127.0.0.1:8096,keep-prefix",
            "/x/x=http://127.0.0.1:8096/base,keep-prefix",
        ]
        .map(|text| Service::parse(text).unwrap());
        let check = |value: &str| {
            for service in &services {
                let hosts: [&[u8]; 2] = [OWN.as_bytes(), b"evil.example@public.example"];
                let rewritten = location(service, &hosts, value.as_bytes());
                let rewritten = String::from_utf8(rewritten).unwrap();
                if rewritten != value {
                    let read = (host_by_rfc(&rewritten), host_by_whatwg(&rewritten));
                    let own = (OWN.to_owned(), OWN.to_owned());
                    assert_eq!(read, own, "{value:?} became {rewritten:?} by {service:?}");
                }
            }
        };
        // Each of up to four parts, alone and behind what leads to the service.
        let most = PARTS.len().pow(4);
        for number in 0..most {
            let (mut rest, mut value) = (number, String::new());
            while rest > 0 {
                value += PARTS[rest % PARTS.len()];
                rest /= PARTS.len();
            }
            check(&value);
            if number < PARTS.len().pow(3) {
                for start in ["/base", "http://127.0.0.1:8096", "//127.0.0.1:8096/base"] {
                    check(&format!("{start}{value}"));
                }
            }
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
