//! gzip as a content coding: whether it is wanted, what it is good for, and the coding itself.
//!
//! It owns no headers but the reading of Accept-Encoding (RFC 9110 12.5.3).

use std::{fmt, mem};

use flate2::{Compress, Compression, FlushCompress, Status};
use rustix::io::Errno;
use spdy_protocol::headers::Headers;

use super::{
    conditional,
    reply::{PIECE, Source},
};

/// Whether a request wants gzip at least as much as no coding. Without Accept-Encoding it does not:
/// who does not say so may not know how to read it.
pub(crate) fn is_accepted(headers: &Headers) -> bool {
    let (mut gzip, mut identity, mut any) = (None, None, None);
    for element in headers.get_all("accept-encoding").flat_map(|line| line.split(|o| *o == b',')) {
        let mut parts = element.split(|octet| *octet == b';').map(<[u8]>::trim_ascii);
        let coding = parts.next().unwrap_or_default();
        let quality = parts.next().map_or(Some(1_000), quality);
        if coding.eq_ignore_ascii_case(b"gzip") || coding.eq_ignore_ascii_case(b"x-gzip") {
            gzip = gzip.max(quality);
        } else if coding.eq_ignore_ascii_case(b"identity") {
            identity = quality;
        } else if coding == b"*" {
            any = quality;
        }
    }
    let gzip = gzip.or(any).unwrap_or(0);
    gzip > 0 && gzip >= identity.unwrap_or(0)
}

/// Whether a body of this type and length becomes smaller for less than it costs. What cannot be
/// told beforehand is long.
pub(crate) fn is_worth(media_type: &str, len: Option<u64>) -> bool {
    let bare = media_type.split(';').next().unwrap_or_default();
    let is_text = bare.starts_with("text/")
        || bare.ends_with("+xml")
        || bare.ends_with("+json")
        || OTHER_TEXT.contains(&bare);
    is_text && len.is_none_or(|len| len > SHORTEST)
}

/// The entity tag of what has the tag `etag` in the coding gzip.
pub(crate) fn etag(etag: &str) -> String {
    conditional::variant(etag, "gzip")
}

/// Another source in the coding gzip. It holds one piece of that source, one of its own and, from
/// its first piece on, 272 KiB of zlib's state.
pub(crate) struct Gzip {
    inner: Box<dyn Source>,
    state: Option<Compress>,
    input: Vec<u8>,
    /// Octets of the input that the state has taken.
    used: usize,
    stage: Stage,
}

impl Gzip {
    /// The coding of what `inner` gives.
    pub(crate) fn new(inner: Box<dyn Source>) -> Self {
        Self { inner, state: None, input: Vec::new(), used: 0, stage: Stage::Reading }
    }
}

impl Source for Gzip {
    fn next_piece(&mut self) -> Result<Option<Vec<u8>>, Errno> {
        let mut out = Vec::with_capacity(PIECE);
        for _ in 0..STEPS {
            if self.stage == Stage::Done || out.len() == out.capacity() {
                break;
            }
            if self.stage == Stage::Reading && self.used == self.input.len() {
                self.used = 0;
                // Given back before the next is made.
                drop(mem::take(&mut self.input));
                match self.inner.next_piece()? {
                    Some(piece) => self.input = piece,
                    None => self.stage = Stage::Ending,
                }
            }
            let state = self
                .state
                .get_or_insert_with(|| Compress::new_gzip(Compression::new(LEVEL), WINDOW_BITS));
            let flush = match self.stage {
                Stage::Reading => FlushCompress::None,
                _ => FlushCompress::Finish,
            };
            let before = state.total_in();
            let status = state.compress_vec(&self.input[self.used..], &mut out, flush);
            self.used += usize::try_from(state.total_in() - before).unwrap_or(usize::MAX);
            match status {
                Ok(Status::StreamEnd) => {
                    self.stage = Stage::Done;
                    self.state = None;
                }
                Ok(Status::Ok | Status::BufError) => {}
                // The state is ours alone: it is always given what it needs.
                Err(_) => return Err(Errno::IO),
            }
        }
        Ok(if out.is_empty() && self.stage == Stage::Done { None } else { Some(out) })
    }
}

impl fmt::Debug for Gzip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gzip").field("stage", &self.stage).finish_non_exhaustive()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// More may come from the source.
    Reading,
    /// All was taken; some is still to be given.
    Ending,
    Done,
}

/// A weight in thousandths (RFC 9110 12.4.2); `None` if it is none.
pub(crate) fn quality(parameter: &[u8]) -> Option<u16> {
    let (name, value) = parameter.split_at_checked(2)?;
    if !name.eq_ignore_ascii_case(b"q=") {
        return None;
    }
    let (whole, digits) = match value {
        [whole] | [whole, b'.'] => (whole, &b""[..]),
        [whole, b'.', digits @ ..] if digits.len() <= 3 => (whole, digits),
        _ => return None,
    };
    let mut thousandths = match whole {
        b'0' => 0,
        b'1' => 1_000,
        _ => return None,
    };
    for (digit, weight) in digits.iter().zip([100, 10, 1]) {
        thousandths += u16::from(digit.is_ascii_digit().then(|| digit - b'0')?) * weight;
    }
    (thousandths <= 1_000).then_some(thousandths)
}

/// Bodies that are compressed at a time: each costs memory and a processor that may be slow.
pub(crate) const AT_A_TIME: usize = 2;

/// Text whose type does not say so.
const OTHER_TEXT: [&str; 6] = [
    "application/json",
    "application/xml",
    "application/javascript",
    "application/vnd.apple.mpegurl",
    "audio/mpegurl",
    "application/x-subrip",
];
/// Octets up to which headers and the coding's own cost more than is saved.
const SHORTEST: u64 = 1_024;
/// 7 takes twice the time for a twentieth (docs/decisions.md).
const LEVEL: u32 = 5;
/// 8 KiB: a quarter of what is usual saves 96 KiB of state and costs 4 % of text.
const WINDOW_BITS: u8 = 13;
/// Pieces of the source that one piece may take: one that shrinks to nothing must not hold a thread
/// of the pool.
const STEPS: usize = 4;

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use flate2::{Decompress, FlushDecompress};

    use super::*;

    fn accepts(lines: &[&str]) -> bool {
        let mut headers = Headers::new();
        for line in lines {
            headers.push("accept-encoding", line.as_bytes()).unwrap();
        }
        is_accepted(&headers)
    }

    #[test]
    fn weights_decide() {
        for (line, wanted) in [
            ("gzip", true),
            ("GZIP", true),
            ("x-gzip", true),
            ("gzip, deflate, br, zstd", true),
            ("deflate, gzip;q=0.5", true),
            ("*", true),
            ("br, *;q=0.1", true),
            ("gzip;q=1.000", true),
            ("gzip ; q=0.001", true),
            ("gzip;Q=0.5, identity;q=0.5", true),
            ("identity;q=0, gzip;q=0.1", true),
            ("", false),
            ("identity", false),
            ("gzip;q=0", false),
            ("gzip;q=0.000", false),
            ("gzip;q=0, *", false),
            ("*;q=0", false),
            ("br", false),
            ("gzip;q=0.4, identity;q=0.5", false),
            ("gzip;q=2", false),
            ("gzip;q=1.5", false),
            ("gzip;q=0.5555", false),
            ("gzip;q=-1", false),
            ("gzip;q=", false),
            ("gzip;x=1", false),
            ("notgzip", false),
        ] {
            assert_eq!(accepts(&[line]), wanted, "{line:?}");
        }
        assert!(!accepts(&[]));
        assert!(accepts(&["br", "gzip"]));
        assert!(!accepts(&["identity;q=1", "gzip;q=0.9"]));
    }

    #[test]
    fn text_is_worth_it_and_media_never() {
        for media_type in [
            "text/html; charset=utf-8",
            "text/vtt",
            "application/json",
            "image/svg+xml",
            "application/xhtml+xml",
            "application/dash+xml",
            "application/vnd.apple.mpegurl",
        ] {
            assert!(is_worth(media_type, None), "{media_type}");
            assert!(is_worth(media_type, Some(1_025)));
            assert!(!is_worth(media_type, Some(1_024)));
        }
        for media_type in ["video/mp4", "image/png", "application/zip", "application/epub+zip", ""]
        {
            assert!(!is_worth(media_type, None), "{media_type}");
        }
        assert_eq!(etag("\"x\""), "\"x-gzip\"");
    }

    /// Gives pieces, some of them empty.
    struct Pieces(Vec<Result<Vec<u8>, Errno>>);

    impl Source for Pieces {
        fn next_piece(&mut self) -> Result<Option<Vec<u8>>, Errno> {
            if self.0.is_empty() { Ok(None) } else { self.0.remove(0).map(Some) }
        }
    }

    fn coded(pieces: Vec<Vec<u8>>) -> Vec<u8> {
        let mut gzip = Gzip::new(Box::new(Pieces(pieces.into_iter().map(Ok).collect())));
        let mut out = Vec::new();
        while let Some(piece) = gzip.next_piece().unwrap() {
            assert!(piece.len() <= PIECE);
            out.extend(piece);
        }
        assert!(gzip.next_piece().unwrap().is_none());
        out
    }

    fn read(mut coded: &[u8], len: usize) -> Vec<u8> {
        let mut state = Decompress::new_gzip(15);
        let mut out = Vec::with_capacity(len + 1);
        loop {
            let before = state.total_in();
            let status = state.decompress_vec(coded, &mut out, FlushDecompress::None).unwrap();
            coded = &coded[usize::try_from(state.total_in() - before).unwrap()..];
            if status == Status::StreamEnd {
                assert!(coded.is_empty());
                return out;
            }
        }
    }

    #[test]
    fn pieces_of_any_size_come_back() {
        let mut seed = 7_u32;
        let mut noise = vec![0; 300_000];
        for octet in &mut noise {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            *octet = (seed >> 24) as u8;
        }
        let text = b"00:00:01.000 --> 00:00:02.000\nwords\n\n".repeat(20_000);
        for content in [Vec::new(), b"x".to_vec(), text, vec![0; 3_000_000], noise] {
            for size in [1_000, 65_536] {
                let mut pieces = Vec::new();
                for piece in content.chunks(size) {
                    pieces.extend([Vec::new(), piece.to_vec()]);
                }
                let coded = coded(pieces);
                assert!(coded.starts_with(&[0x1f, 0x8b, 8]));
                assert!(read(&coded, content.len()) == content, "{} by {size}", content.len());
            }
        }
    }

    #[test]
    fn one_piece_takes_a_bounded_part_of_its_source() {
        let pieces = (0..100).map(|_| Ok(vec![0; 65_536])).collect();
        let mut gzip = Gzip::new(Box::new(Pieces(pieces)));
        gzip.next_piece().unwrap().unwrap();
        assert!(gzip.state.as_ref().unwrap().total_in() <= 65_536 * STEPS as u64);
    }

    #[test]
    fn error_of_the_source_is_the_error() {
        let pieces = vec![Ok(vec![1; 10]), Err(Errno::STALE)];
        let mut gzip = Gzip::new(Box::new(Pieces(pieces)));
        assert_eq!(gzip.next_piece(), Err(Errno::STALE));
    }

    #[test]
    fn same_content_gives_the_same_octets() {
        let content = b"words and words ".repeat(1_000);
        assert_eq!(coded(vec![content.clone()]), coded(vec![content]));
        let mut header = [0; 10];
        (&coded(vec![b"x".to_vec()])[..]).read_exact(&mut header).unwrap();
        // No time and no name: the tag is strong.
        assert_eq!(&header[3..8], [0; 5]);
    }
}
