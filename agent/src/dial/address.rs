//! Where a proxy is and what proves to it who we are: two checked texts.

use std::fmt;

use async_rustls::rustls::pki_types::ServerName;

/// Host and port of a proxy.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Address {
    host: String,
    port: u16,
}

impl Address {
    /// Reads `name:port`, `v4:port` or `[v6]:port`; `None` if it is none of them.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (host, port) = text.rsplit_once(':')?;
        let port = port.parse().ok().filter(|port| *port != 0)?;
        let host = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
            Some(v6) => v6.parse::<std::net::Ipv6Addr>().ok()?.to_string(),
            // A bare v6 address would leave open which colon begins the port.
            None if host.contains(':') => return None,
            None => host.to_owned(),
        };
        ServerName::try_from(host.as_str()).ok()?;
        Some(Self { host, port })
    }

    /// Name or number, without brackets.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            return write!(f, "[{}]:{}", self.host, self.port);
        }
        write!(f, "{}:{}", self.host, self.port)
    }
}

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
    fn addresses_are_read_and_written() {
        for (text, host) in [
            ("localhost:1444", "localhost"),
            ("proxy.example.com:1", "proxy.example.com"),
            ("127.0.0.1:65535", "127.0.0.1"),
            ("[::1]:1444", "::1"),
        ] {
            let address = Address::parse(text).unwrap();
            assert_eq!(address.host(), host);
            assert_eq!(address.to_string(), text);
        }
        for text in
            ["", "host", ":1", "host:", "host:0", "host:65536", "::1:80", "[::1]", "[x]:1", "a b:1"]
        {
            assert_eq!(Address::parse(text), None, "{text}");
        }
    }

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
