//! The text of `/debug` as JSON, for programs that watch a proxy.
//!
//! It owns the translation only, so that both say the same: `name value` lines become members,
//! lines of `key=value` words become members of the lists `tunnel` and `away`.

use std::collections::BTreeMap;

/// The page as one JSON object, in one line.
#[must_use]
pub(crate) fn json(page: &str) -> String {
    let mut members = Vec::new();
    let mut lists = BTreeMap::from([("away", Vec::new()), ("tunnel", Vec::new())]);
    for line in page.lines() {
        let Some((name, value)) = line.split_once(' ') else { continue };
        match lists.get_mut(name) {
            Some(list) => list.push(object(value)),
            // The first line names the program.
            None if name == "spdy-proxy" => members.push(member("version", value)),
            None => members.push(member(name, value)),
        }
    }
    for (name, list) in lists {
        members.push(format!("{}:[{}]", quoted(name), list.join(",")));
    }
    format!("{{{}}}\n", members.join(","))
}

/// `3 origin=nas1 software="a b"` as an object; the first word has no key and is the id.
fn object(words: &str) -> String {
    let mut members = Vec::new();
    let mut rest = words.trim();
    while !rest.is_empty() {
        let mut is_quoted = false;
        let mut is_escaped = false;
        let end = rest.find(|c| {
            let ends = c == ' ' && !is_quoted;
            is_quoted ^= c == '"' && !is_escaped;
            is_escaped = c == '\\' && !is_escaped;
            ends
        });
        let (word, behind) = rest.split_at(end.unwrap_or(rest.len()));
        let (name, value) = word.split_once('=').unwrap_or(("id", word));
        members.push(member(name, value));
        rest = behind.trim_start();
    }
    format!("{{{}}}", members.join(","))
}

fn member(name: &str, value: &str) -> String {
    let is_number = value.parse::<u64>().is_ok_and(|number| number.to_string() == value);
    let value = match value.strip_prefix('"').and_then(|value| value.strip_suffix('"')) {
        _ if is_number => value.to_owned(),
        // A peer's text: what is escaped stays so, but for quotes and backslashes.
        Some(text) => quoted(&text.replace("\\\"", "\"").replace("\\\\", "\\")),
        None => quoted(value),
    };
    format!("{}:{value}", quoted(name))
}

fn quoted(text: &str) -> String {
    let mut quoted = String::from('"');
    for char in text.chars() {
        match char {
            '"' | '\\' => quoted.extend(['\\', char]),
            '\0'..='\x1f' => quoted.push_str(&format!("\\u{:04x}", u32::from(char))),
            _ => quoted.push(char),
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_stay_numbers_and_a_peers_text_breaks_nothing() {
        let page = "spdy-proxy 0.1.0\nsince 2026-01-01T00:00:00Z\nthreads 4\n\
                    tunnel 3 origin=nas1 peer=[::1]:5 software=\"a \\\"b\\\\ x=1\\u{a}\" sent_bytes=7 \n\
                    away origin=nas2 since=2026-01-01T00:00:00Z\naway origin=nas3\n";
        assert_eq!(
            json(page),
            concat!(
                r#"{"version":"0.1.0","since":"2026-01-01T00:00:00Z","threads":4,"#,
                r#""away":[{"origin":"nas2","since":"2026-01-01T00:00:00Z"},{"origin":"nas3"}],"#,
                r#""tunnel":[{"id":3,"origin":"nas1","peer":"[::1]:5","#,
                r#""software":"a \"b\\ x=1\\u{a}","sent_bytes":7}]}"#,
                "\n"
            )
        );
    }
}
