//! Names, sizes and times as people and as programs read them.
//!
//! It owns what of a name may stand in a text, and the escapes of JSON. HTML is escaped by the
//! templates, paths in links by `super::super::path`.

use std::fmt::Write as _;

use crate::civil::Civil;

/// A name for people: what is no text, would disturb the page or turn its direction is replaced.
pub(crate) fn shown(name: &[u8]) -> String {
    let disturbs = |c: char| {
        c.is_control()
            || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{2028}' | '\u{2029}')
    };
    let text = String::from_utf8_lossy(name);
    text.chars().map(|c| if disturbs(c) { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

/// A size for people, in powers of ten.
pub(crate) fn size(octets: u64) -> String {
    const UNITS: [&str; 6] = ["kB", "MB", "GB", "TB", "PB", "EB"];
    if octets < 1_000 {
        return format!("{octets} B");
    }
    let (mut tenths, mut unit) = (octets / 100, 0);
    while tenths >= 10_000 && unit + 1 < UNITS.len() {
        tenths /= 1_000;
        unit += 1;
    }
    if tenths < 100 {
        format!("{}.{} {}", tenths / 10, tenths % 10, UNITS[unit])
    } else {
        format!("{} {}", tenths / 10, UNITS[unit])
    }
}

/// A number with its thousands apart.
pub(crate) fn count(number: usize) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A time for people, in UTC; nothing outside the years 0 to 9999.
pub(crate) fn time(seconds: i64) -> String {
    Civil::from_unix(seconds).map_or_else(String::new, |at| {
        format!("{:04}-{:02}-{:02} {:02}:{:02}", at.year, at.month, at.day, at.hour, at.minute)
    })
}

/// A time by RFC 3339, in UTC; `None` outside the years 0 to 9999.
pub(crate) fn rfc3339(seconds: i64) -> Option<String> {
    let at = Civil::from_unix(seconds)?;
    let (date, time) = ((at.year, at.month, at.day), (at.hour, at.minute, at.second));
    let date = format!("{:04}-{:02}-{:02}", date.0, date.1, date.2);
    Some(format!("{date}T{:02}:{:02}:{:02}Z", time.0, time.1, time.2))
}

/// Appends a string of JSON (RFC 8259 7) with its quotes.
pub(crate) fn push_json(out: &mut String, text: &str) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            c if c < ' ' => {
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_readable() {
        for (octets, text) in [
            (0, "0 B"),
            (999, "999 B"),
            (1_000, "1.0 kB"),
            (9_999, "9.9 kB"),
            (10_000, "10 kB"),
            (999_999, "999 kB"),
            (1_000_000, "1.0 MB"),
            (31_457_280, "31 MB"),
            (u64::MAX, "18 EB"),
        ] {
            assert_eq!(size(octets), text);
        }
    }

    #[test]
    fn thousands_stand_apart() {
        for (number, text) in [
            (0, "0"),
            (999, "999"),
            (1_000, "1,000"),
            (100_000, "100,000"),
            (1_234_567, "1,234,567"),
        ] {
            assert_eq!(count(number), text);
        }
    }

    #[test]
    fn times_that_nobody_can_mean_are_left_out() {
        assert_eq!(time(951_782_399), "2000-02-28 23:59");
        assert_eq!(rfc3339(951_782_399).as_deref(), Some("2000-02-28T23:59:59Z"));
        assert_eq!(rfc3339(-1).as_deref(), Some("1969-12-31T23:59:59Z"));
        for seconds in [i64::MIN, i64::MAX, 253_402_300_800] {
            assert_eq!((time(seconds).as_str(), rfc3339(seconds)), ("", None));
        }
    }

    #[test]
    fn names_cannot_disturb_a_page() {
        assert_eq!(shown(b"a\nb\r\t\0\x7f"), "a\u{fffd}b\u{fffd}\u{fffd}\u{fffd}\u{fffd}");
        assert_eq!(shown(b"\xff.txt"), "\u{fffd}.txt");
        assert_eq!(shown("photo\u{202e}gpj.exe".as_bytes()), "photo\u{fffd}gpj.exe");
        // What is written from the right stays as it is.
        let hebrew = "\u{5e9}\u{5dc}\u{5d5}\u{5dd}.txt";
        assert_eq!(shown(hebrew.as_bytes()), hebrew);
    }

    #[test]
    fn json_strings_are_escaped() {
        let mut out = String::new();
        push_json(&mut out, "a\"b\\c\n\u{1}\u{7f}\u{e4}</script>");
        assert_eq!(out, "\"a\\\"b\\\\c\\u000a\\u0001\u{7f}\u{e4}</script>\"");
    }
}
