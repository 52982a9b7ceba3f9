//! The page that a browser shows instead of what it asked for.
//!
//! It owns the page's HTML and its headers. It does not own what it says ([`super::failure`]).

use std::time::{Duration, SystemTime};

use http::{HeaderMap, HeaderValue, Method, header, request::Parts};

use crate::log::Utc;

/// Whether a request is that of a browser for something to show.
pub(super) fn is_wanted(parts: &Parts) -> bool {
    let is_page = |range: &str| {
        let mut parameters = range.split(';').map(str::trim);
        let is_html = parameters.next().is_some_and(|kind| kind.eq_ignore_ascii_case("text/html"));
        let is_refused = |parameter: &str| {
            let weight = parameter.strip_prefix("q=").and_then(|weight| weight.parse::<f32>().ok());
            weight == Some(0.0)
        };
        is_html && !parameters.any(is_refused)
    };
    let accepted = parts.headers.get_all(header::ACCEPT).iter();
    let mut ranges = accepted.filter_map(|value| value.to_str().ok()).flat_map(|v| v.split(','));
    matches!(parts.method, Method::GET | Method::HEAD) && ranges.any(is_page)
}

/// A page that says `text` and, for an origin that is away, since when; it asks again by itself
/// after `retry` seconds. `text` and `request_id` are our own words: nothing in them is escaped.
pub(super) fn page(
    text: &str,
    since: Option<SystemTime>,
    retry: Option<u64>,
    request_id: &str,
) -> String {
    let away = since.map_or_else(String::new, |since| {
        let lasting = SystemTime::now().duration_since(since).unwrap_or_default();
        format!("<p>That was {} ago.</p>\n", in_words(lasting))
    });
    let again = retry.map_or_else(String::new, |seconds| {
        format!("<p>This page looks again by itself, every {seconds} seconds.</p>\n")
    });
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width\">\n<title>Not available</title>\n\
         <style>{STYLE}</style>\n<main>\n<h1>Not available now</h1>\n<p>{}</p>\n{away}{again}\
         <p><small>Request {request_id}, {}</small></p>\n</main>\n</html>\n",
        text.trim_end(),
        Utc(SystemTime::now()),
    )
}

/// What browsers have to know of the page.
pub(super) fn add_headers(headers: &mut HeaderMap, retry: Option<u64>) {
    for (name, value) in [
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::VARY, "accept"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    if let Some(seconds) = retry {
        headers.insert(header::REFRESH, seconds.into());
    }
}

fn in_words(lasting: Duration) -> String {
    let minutes = lasting.as_secs() / 60;
    let (count, unit) = match minutes {
        0 => return "less than a minute".to_owned(),
        1..60 => (minutes, "minute"),
        60..2_880 => (minutes / 60, "hour"),
        _ => (minutes / 1_440, "day"),
    };
    format!("{count} {unit}{}", if count == 1 { "" } else { "s" })
}

const STYLE: &str = ":root{color-scheme:light dark}\
    body{font:1.1rem/1.5 system-ui,sans-serif;margin:15vh auto;max-width:34rem;padding:0 1rem}\
    h1{font-size:1.5rem}small{opacity:.7}";
/// Nothing is loaded, run, framed or sent; the hash is that of the style.
const POLICY: &str = "default-src 'none'; \
    style-src 'sha256-1QBtIiXhvCwOGn3X4h9pYC8eauBbI+52CfPtJuP5FSA='; \
    base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

#[cfg(test)]
mod tests {
    use data_encoding::BASE64;
    use http::Request;
    use ring::digest::{SHA256, digest};

    use super::*;

    #[test]
    fn policy_allows_the_style_and_nothing_else() {
        let hash = BASE64.encode(digest(&SHA256, STYLE.as_bytes()).as_ref());
        assert!(POLICY.contains(&format!("'sha256-{hash}'")), "{hash}");
        assert_eq!(POLICY.matches("'none'").count(), 4);
    }

    #[test]
    fn pages_are_for_those_who_accept_them() {
        let wanted = |method: &str, accept: &str| {
            let request = Request::builder().method(method).header("accept", accept).body(());
            is_wanted(&request.unwrap().into_parts().0)
        };
        assert!(wanted("GET", "text/html,application/xhtml+xml,*/*;q=0.8"));
        assert!(wanted("HEAD", "application/json, Text/HTML ; q=0.1"));
        for accept in ["*/*", "text/plain", "text/html;q=0", "text/html-not", ""] {
            assert!(!wanted("GET", accept), "{accept}");
        }
        assert!(!wanted("POST", "text/html"));
    }

    #[test]
    fn page_says_since_when_and_when_it_looks_again() {
        let since = SystemTime::now() - Duration::from_secs(600);
        let text = page("It is away.\n", Some(since), Some(5), "abc");
        assert!(text.contains("<p>It is away.</p>\n<p>That was 10 minutes ago.</p>\n"), "{text}");
        assert!(text.contains("every 5 seconds") && text.contains("Request abc,"));
        assert!(!text.contains("<script") && !text.contains("http"));
        let text = page("Busy.\n", None, None, "abc");
        assert!(!text.contains("ago") && !text.contains("again"));
    }

    #[test]
    fn durations_are_words() {
        let words = |minutes: u64| in_words(Duration::from_secs(minutes * 60 + 59));
        assert_eq!(words(0), "less than a minute");
        assert_eq!((words(1), words(59)), ("1 minute".to_owned(), "59 minutes".to_owned()));
        assert_eq!((words(60), words(2_879)), ("1 hour".to_owned(), "47 hours".to_owned()));
        assert_eq!(words(2_880), "2 days");
    }
}
