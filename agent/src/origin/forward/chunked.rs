//! Where the data of a chunked body lies (RFC 9112 7.1), in any split.
//!
//! It owns no octets and does no I/O. Extensions and trailers are dropped.

/// Reads a chunked body step by step.
#[derive(Debug, Default)]
pub(super) enum Chunked {
    /// Before the line with a chunk's size.
    #[default]
    Size,
    /// So much of a chunk is to come.
    Data(u64),
    /// Before the line end behind a chunk.
    End,
    /// Behind the last chunk, before a trailer or the end.
    Trailer,
    /// Behind everything.
    Done,
}

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Drop so many octets, then ask again.
    Skip(usize),
    /// So many octets from here on are data, at least one.
    Data(u64),
    /// More octets are needed.
    More,
    /// The body is whole.
    Done,
    /// This is no chunked body.
    Malformed,
}

impl Chunked {
    /// What stands at the start of `octets`, which nothing of was skipped yet.
    pub(super) fn step(&mut self, octets: &[u8]) -> Step {
        let line = || match octets.iter().position(|octet| *octet == b'\n') {
            Some(at) => Ok((octets[..at].strip_suffix(b"\r").unwrap_or(&octets[..at]), at + 1)),
            None if octets.len() > LINE_MAX => Err(Step::Malformed),
            None => Err(Step::More),
        };
        match self {
            // The parser takes a line without a size for the last chunk.
            Self::Size if octets.first().is_some_and(|octet| !octet.is_ascii_hexdigit()) => {
                Step::Malformed
            }
            Self::Size => match httparse::parse_chunk_size(octets) {
                Ok(httparse::Status::Complete((len, size))) => {
                    *self = if size == 0 { Self::Trailer } else { Self::Data(size) };
                    Step::Skip(len)
                }
                Ok(httparse::Status::Partial) if octets.len() <= LINE_MAX => Step::More,
                _ => Step::Malformed,
            },
            Self::Data(left) => Step::Data(*left),
            Self::End => match line() {
                Ok(([], len)) => {
                    *self = Self::Size;
                    Step::Skip(len)
                }
                Ok(_) => Step::Malformed,
                Err(step) => step,
            },
            Self::Trailer => match line() {
                Ok((trailer, len)) => {
                    if trailer.is_empty() {
                        *self = Self::Done;
                    }
                    Step::Skip(len)
                }
                Err(step) => step,
            },
            Self::Done => Step::Done,
        }
    }

    /// So many octets of data were taken.
    pub(super) fn on_taken(&mut self, octets: u64) {
        if let Self::Data(left) = self {
            *left = left.saturating_sub(octets);
            if *left == 0 {
                *self = Self::End;
            }
        }
    }
}

/// Octets of the longest line.
const LINE_MAX: usize = 4_096;

#[cfg(test)]
mod tests {
    use super::*;

    /// The data, and whether the body is whole; `None` if it is malformed. Octets come one piece
    /// after the other.
    fn read(pieces: &[&[u8]]) -> Option<(Vec<u8>, bool)> {
        let (mut chunked, mut held, mut data) = (Chunked::default(), Vec::new(), Vec::new());
        for piece in pieces {
            held.extend_from_slice(piece);
            loop {
                match chunked.step(&held) {
                    Step::Skip(len) => drop(held.drain(..len)),
                    Step::Data(_) if held.is_empty() => break,
                    Step::Data(left) => {
                        let len = held.len().min(usize::try_from(left).unwrap());
                        data.extend(held.drain(..len));
                        chunked.on_taken(len as u64);
                    }
                    Step::More => break,
                    Step::Done => return Some((data, true)),
                    Step::Malformed => return None,
                }
            }
        }
        Some((data, false))
    }

    #[test]
    fn bodies_are_read_in_every_split() {
        let body =
            b"3\r\nabc\r\n0A;x=\"y\"\r\n0123456789\r\n1\r\nz\r\n000\r\nSum: 1\r\nMore: 2\r\n\r\n";
        let wanted = (b"abc0123456789z".to_vec(), true);
        assert_eq!(read(&[body]), Some(wanted.clone()));
        for cut in 0..body.len() {
            let (start, rest) = body.split_at(cut);
            assert_eq!(read(&[start, rest]), Some(wanted.clone()), "{cut}");
            assert!(!read(&[start]).unwrap().1, "{cut}");
        }
    }

    #[test]
    fn nonsense_is_seen() {
        for body in [
            &b"x\r\n"[..],
            b"-1\r\n",
            b"+1\r\n",
            b"\r\n\r\n",
            b"3\r\nabcd\r\n",
            b";x\r\n",
            b"10000000000000000\r\n",
        ] {
            assert_eq!(read(&[body]), None, "{}", body.escape_ascii());
        }
        let endless = [b"0\r\n".to_vec(), vec![b'a'; LINE_MAX + 1]].concat();
        assert_eq!(read(&[&endless]), None);
        let endless = [b"1;".to_vec(), vec![b'a'; LINE_MAX + 1]].concat();
        assert_eq!(read(&[&endless]), None);
    }
}
