//! What proves to a proxy who we are: a checked text. Where it is both programs read alike
//! ([`spdy_protocol::address`]).

use std::fmt;

/// What proves to the proxy who we are. Never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    /// Takes a token as a file holds it, white space around it removed; `None` if it is empty, too
    /// long or not printable ASCII.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        let valid = !text.is_empty()
            && text.len() <= TOKEN_MAX
            && text.bytes().all(|octet| octet.is_ascii_graphic());
        valid.then(|| Self(text.to_owned()))
    }

    /// The text that goes to the proxy.
    #[must_use]
    pub fn secret(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}

/// Longest token, in octets.
const TOKEN_MAX: usize = 512;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_words_and_never_printed() {
        let token = Token::parse(" abc-_=\n").unwrap();
        assert_eq!(token.secret(), "abc-_=");
        assert!(!format!("{token:?}").contains("abc"));
        for text in ["", " ", "a b", "a\nb", "\u{fc}", &"x".repeat(TOKEN_MAX + 1)] {
            assert_eq!(Token::parse(text), None);
        }
    }
}
