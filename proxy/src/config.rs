//! Files of `key value` lines: the configuration and the records of origins.
//!
//! It owns the syntax: one pair a line, `#` begins a comment line, the value is the rest of the
//! line without surrounding blanks. It does not know any key.

use std::fmt;

/// One line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Number of the line, from 1.
    pub line: usize,
    /// The word before the first blank.
    pub key: String,
    /// The rest; empty when there is none.
    pub value: String,
}

/// What a file says that its reader cannot accept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConfigError {
    /// A key that nobody knows.
    UnknownKey {
        /// Number of the line.
        line: usize,
        /// The key.
        key: String,
    },
    /// A key that stands twice though it can hold only one value.
    Repeated {
        /// Number of the second line.
        line: usize,
        /// The key.
        key: String,
    },
    /// A value that its key cannot take.
    Value {
        /// Number of the line.
        line: usize,
        /// The key.
        key: String,
        /// What the key takes.
        expected: &'static str,
    },
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownKey { line, key } => write!(f, "line {line}: unknown key {key:?}"),
            Self::Repeated { line, key } => write!(f, "line {line}: {key} stands twice"),
            Self::Value { line, key, expected } => write!(f, "line {line}: {key} takes {expected}"),
        }
    }
}

impl std::error::Error for ConfigError {}

/// Reads all lines of a file in order.
#[must_use]
pub fn parse(text: &str) -> Vec<Entry> {
    let entry = |(at, line): (usize, &str)| {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            return None;
        }
        let (key, value) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        Some(Entry { line: at + 1, key: key.to_owned(), value: value.trim().to_owned() })
    };
    text.lines().enumerate().filter_map(entry).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_keep_their_numbers_and_values_their_blanks_inside() {
        let entries = parse("# comment\n\nlisten  127.0.0.1:0 \r\n  debug\nname\ta  b\n");
        let shown: Vec<_> =
            entries.iter().map(|e| (e.line, e.key.as_str(), e.value.as_str())).collect();
        assert_eq!(shown, [(3, "listen", "127.0.0.1:0"), (4, "debug", ""), (5, "name", "a  b")]);
    }
}
