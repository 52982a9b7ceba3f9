//! The version that the first request line of a connection claims.
//!
//! hyper takes `HTTP/1.0` and `HTTP/1.1` alone and answers everything else with 400. A higher minor
//! version is to be processed as the highest that we have, and another major version is 505 (RFC
//! 9110 6.2, 15.6.6). So the digits are replaced before hyper sees them, and the exchange is told.
//! Only the first request line is looked at: where a later one begins, only hyper knows. It owns
//! nothing else of a request, and never touches a byte behind that line.

/// What a client claims to speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Claim {
    /// HTTP/1.0 or HTTP/1.1, or nothing that can be told.
    Known = 0,
    /// A higher minor version of HTTP/1.
    HigherMinor = 1,
    /// Another major version.
    OtherMajor = 2,
}

/// Reads a request line in pieces of any size.
///
/// ```text
/// Start --byte--> Words --second space--> Name --"HTTP/"--> Major --digit--> Dot --"."--> Minor
///                   |                       |                 |                |            |
///                   +--line end-------------+--anything else--+----------------+--digit-----+--> Done
/// ```
#[derive(Clone, Copy, Debug)]
pub(crate) struct RequestLine {
    state: State,
    claim: Claim,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Only empty lines so far.
    Start,
    /// Method and target, behind so many spaces.
    Words(u8),
    /// So many bytes of [`NAME`].
    Name(usize),
    Major,
    Dot,
    Minor,
    Done,
}

impl RequestLine {
    /// Before the first byte of a connection.
    pub(crate) const fn new() -> Self {
        Self { state: State::Start, claim: Claim::Known }
    }

    /// Takes the next bytes of the connection and replaces the digits of a version that is not
    /// known. Returns the claim when it has read the whole version or there is none.
    pub(crate) fn read(&mut self, bytes: &mut [u8]) -> Option<Claim> {
        for byte in bytes {
            if self.state == State::Done {
                break;
            }
            self.state = self.step(byte);
        }
        (self.state == State::Done).then_some(self.claim)
    }

    fn step(&mut self, byte: &mut u8) -> State {
        match self.state {
            State::Start if matches!(*byte, b'\r' | b'\n') => State::Start,
            State::Start => State::Words(u8::from(*byte == b' ')),
            State::Words(_) if *byte == b'\n' => State::Done,
            State::Words(1) if *byte == b' ' => State::Name(0),
            State::Words(spaces) => State::Words(spaces + u8::from(*byte == b' ')),
            State::Name(at) if *byte == NAME[at] => match at + 1 {
                next if next == NAME.len() => State::Major,
                next => State::Name(next),
            },
            State::Major if byte.is_ascii_digit() => {
                if *byte != b'1' {
                    (*byte, self.claim) = (b'1', Claim::OtherMajor);
                }
                State::Dot
            }
            State::Dot if *byte == b'.' => State::Minor,
            State::Minor if byte.is_ascii_digit() => {
                if self.claim == Claim::Known && *byte > b'1' {
                    self.claim = Claim::HigherMinor;
                }
                if self.claim != Claim::Known {
                    *byte = b'1';
                }
                State::Done
            }
            _ => State::Done,
        }
    }
}

/// What stands before the digits.
const NAME: &[u8] = b"HTTP/";

#[cfg(test)]
mod tests {
    use super::*;

    /// What becomes of `text` in pieces of `len` bytes.
    fn read(text: &str, len: usize) -> (Option<Claim>, String) {
        let mut bytes = text.as_bytes().to_vec();
        let mut line = RequestLine::new();
        let mut claim = None;
        for piece in bytes.chunks_mut(len) {
            claim = line.read(piece);
        }
        (claim, String::from_utf8(bytes).unwrap())
    }

    #[test]
    fn versions_are_replaced_in_the_first_line_and_nowhere_else() {
        let rest = "\r\nHost: x HTTP/1.9\r\n\r\nGET / HTTP/1.9\r\nPOST / HTTP/2.0\r\n";
        for (line, becomes, claim) in [
            ("GET / HTTP/1.1", "GET / HTTP/1.1", Claim::Known),
            ("GET / HTTP/1.0", "GET / HTTP/1.0", Claim::Known),
            ("GET / HTTP/1.2", "GET / HTTP/1.1", Claim::HigherMinor),
            ("\r\n\r\nGET /a?b HTTP/1.9", "\r\n\r\nGET /a?b HTTP/1.1", Claim::HigherMinor),
            ("PRI * HTTP/2.0", "PRI * HTTP/1.1", Claim::OtherMajor),
            ("GET / HTTP/3.7", "GET / HTTP/1.1", Claim::OtherMajor),
            ("GET / HTTP/0.9", "GET / HTTP/1.1", Claim::OtherMajor),
            // Nonsense stays nonsense, for hyper to refuse.
            ("GET / HTTP/1.23", "GET / HTTP/1.13", Claim::HigherMinor),
            ("GET / HTTP/12.1", "GET / HTTP/12.1", Claim::Known),
            ("GET / HTTP/2", "GET / HTTP/1", Claim::OtherMajor),
            ("GET / HTTP/x.2", "GET / HTTP/x.2", Claim::Known),
            ("GET / http/1.2", "GET / http/1.2", Claim::Known),
            ("GET /HTTP/1.2", "GET /HTTP/1.2", Claim::Known),
            ("GET  HTTP/1.2", "GET  HTTP/1.1", Claim::HigherMinor),
            ("GET / a HTTP/1.2", "GET / a HTTP/1.2", Claim::Known),
            ("GET", "GET", Claim::Known),
            (" GET / HTTP/1.2", " GET / HTTP/1.2", Claim::Known),
        ] {
            let (text, expected) = (format!("{line}{rest}"), format!("{becomes}{rest}"));
            for len in 1..=text.len() {
                assert_eq!(read(&text, len), (Some(claim), expected.clone()), "{line:?} {len}");
            }
        }
        assert_eq!(read("GET / HTTP/1.", 3).0, None);
        assert_eq!(read("\r\n", 3).0, None);
    }
}
