//! SPDY/3.1 frames between bytes and types, without any state (SPDY/3.1 2.2 and 2.6).
//!
//! It owns the wire constants. It does not know streams, windows or header compression: a header
//! block is a slice here.
//!
//! ```text
//! control: |1| version 15 | type 16 |   data: |0| stream id 31       |
//!          | flags 8 | length 24    |         | flags 8 | length 24  |
//! ```

use std::fmt;

use crate::error::PeerFault;

/// Octets of a frame header.
pub const HEADER: usize = 8;
/// Version in control frames: 3 for SPDY/3 and SPDY/3.1 alike (SPDY/3.1 2.2.1).
pub const VERSION: u16 = 3;
/// Largest stream id, WINDOW_UPDATE delta and window (2^31-1).
pub const MAX_31: u32 = 0x7fff_ffff;

/// Flag of DATA, SYN_STREAM, SYN_REPLY and HEADERS: the sender's last frame of the stream.
pub const FLAG_FIN: u8 = 0x01;
/// Flag of SYN_STREAM: the receiver sends nothing on this stream.
pub const FLAG_UNIDIRECTIONAL: u8 = 0x02;
/// Flag of SETTINGS: forget what was stored.
pub const FLAG_CLEAR_SETTINGS: u8 = 0x01;

/// Type of a SYN_STREAM frame (SPDY/3.1 2.6.1).
pub const SYN_STREAM: u16 = 1;
/// Type of a SYN_REPLY frame (SPDY/3.1 2.6.2).
pub const SYN_REPLY: u16 = 2;
/// Type of a RST_STREAM frame (SPDY/3.1 2.6.3).
pub const RST_STREAM: u16 = 3;
/// Type of a SETTINGS frame (SPDY/3.1 2.6.4).
pub const SETTINGS: u16 = 4;
/// Type of a NOOP frame: SPDY/2 only, dropped on sight.
pub const NOOP: u16 = 5;
/// Type of a PING frame (SPDY/3.1 2.6.5).
pub const PING: u16 = 6;
/// Type of a GOAWAY frame (SPDY/3.1 2.6.6).
pub const GOAWAY: u16 = 7;
/// Type of a HEADERS frame (SPDY/3.1 2.6.7).
pub const HEADERS: u16 = 8;
/// Type of a WINDOW_UPDATE frame (SPDY/3.1 2.6.8).
pub const WINDOW_UPDATE: u16 = 9;
/// Type of a CREDENTIAL frame: SPDY/3 only, ignored.
pub const CREDENTIAL: u16 = 10;

/// SETTINGS id: streams that the other side may have open (SPDY/3.1 2.6.4).
pub const SETTINGS_MAX_CONCURRENT_STREAMS: u32 = 4;
/// SETTINGS id: initial window of streams, in octets (SPDY/3.1 2.6.4).
pub const SETTINGS_INITIAL_WINDOW_SIZE: u32 = 7;

/// Id of a stream, 31 bits: odd ids are the SPDY client's, even ones the server's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId(u32);

impl StreamId {
    /// An id; `None` for 0 and above 2^31-1.
    #[must_use]
    pub const fn new(id: u32) -> Option<Self> {
        if id == 0 || id > MAX_31 { None } else { Some(Self(id)) }
    }

    /// The number on the wire.
    #[must_use]
    pub const fn value(self) -> u32 {
        self.0
    }

    /// Whether a SPDY client opened this stream.
    #[must_use]
    pub const fn is_odd(self) -> bool {
        self.0 % 2 == 1
    }
}

/// Status of a RST_STREAM (SPDY/3.1 2.6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
#[allow(missing_docs, reason = "the names are those of the specification")]
pub enum Status {
    ProtocolError = 1,
    InvalidStream = 2,
    RefusedStream = 3,
    UnsupportedVersion = 4,
    Cancel = 5,
    InternalError = 6,
    FlowControlError = 7,
    StreamInUse = 8,
    StreamAlreadyClosed = 9,
    InvalidCredentials = 10,
    FrameTooLarge = 11,
}

/// Reason of a GOAWAY (SPDY/3.1 2.6.6). Any other number is accepted and kept as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
#[allow(missing_docs, reason = "the names are those of the specification")]
pub enum Reason {
    Ok = 0,
    ProtocolError = 1,
    InternalError = 2,
}

/// The first eight octets of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Header {
    /// A DATA frame; `len` octets of payload follow.
    Data {
        /// Stream id as sent, 0 included.
        stream: u32,
        /// Whether FIN is set.
        fin: bool,
        /// Octets of payload.
        len: usize,
    },
    /// A control frame; `len` octets follow.
    Control {
        /// Version field.
        version: u16,
        /// Type field.
        kind: u16,
        /// Flags field.
        flags: u8,
        /// Octets after the header.
        len: usize,
    },
}

impl Header {
    /// Reads a frame header. Never fails: every bit pattern is one of the two.
    #[must_use]
    pub fn parse(octets: [u8; HEADER]) -> Self {
        let [a, b, c, d, flags, x, y, z] = octets;
        let word = u32::from_be_bytes([a, b, c, d]);
        let len = u32::from_be_bytes([0, x, y, z]) as usize;
        if word & 0x8000_0000 == 0 {
            Self::Data { stream: word, fin: flags & FLAG_FIN != 0, len }
        } else {
            let version = u16::from_be_bytes([a & 0x7f, b]);
            Self::Control { version, kind: u16::from_be_bytes([c, d]), flags, len }
        }
    }
}

/// A control frame. Reserved bits are masked; undefined flags are ignored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Control<'a> {
    /// Opens a stream (SPDY/3.1 2.6.1).
    SynStream {
        /// Id of the new stream, 0 included.
        stream: u32,
        /// Id of the stream that a pushed one belongs to, else 0.
        associated: u32,
        /// 0 (highest) to 7.
        priority: u8,
        /// Whether the opener sends no body.
        fin: bool,
        /// Whether the receiver may send nothing.
        unidirectional: bool,
        /// Compressed header block.
        block: &'a [u8],
    },
    /// Accepts a stream (SPDY/3.1 2.6.2).
    SynReply {
        /// Id of the stream.
        stream: u32,
        /// Whether no body follows.
        fin: bool,
        /// Compressed header block.
        block: &'a [u8],
    },
    /// Ends a stream at once (SPDY/3.1 2.6.3).
    RstStream {
        /// Id of the stream.
        stream: u32,
        /// The status as sent, known or not.
        status: u32,
    },
    /// Parameters of the session (SPDY/3.1 2.6.4).
    Settings(SettingsEntries<'a>),
    /// Measures the round trip or asks for a sign of life (SPDY/3.1 2.6.5).
    Ping(u32),
    /// No stream above `last_good` was or will be processed (SPDY/3.1 2.6.6).
    GoAway {
        /// Highest id of a stream that was accepted, 0 if none.
        last_good: u32,
        /// The reason as sent, known or not.
        reason: u32,
    },
    /// More headers of a stream (SPDY/3.1 2.6.7).
    Headers {
        /// Id of the stream.
        stream: u32,
        /// Whether this is the sender's last frame.
        fin: bool,
        /// Compressed header block.
        block: &'a [u8],
    },
    /// Credit (SPDY/3.1 2.6.8).
    WindowUpdate {
        /// Id of the stream, 0 for the session.
        stream: u32,
        /// Octets of credit; 0 is out of range and has no effect.
        delta: u32,
    },
    /// A type that is skipped: NOOP, CREDENTIAL and all that the specification does not name.
    Skipped(u16),
}

/// The entries of a SETTINGS frame, in wire order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SettingsEntries<'a> {
    octets: &'a [u8],
}

impl<'a> SettingsEntries<'a> {
    /// Ids and values. DEVIATION: the persistence flags of SETTINGS are dropped. Never storing is
    /// legal.
    pub fn iter(&self) -> impl Iterator<Item = (u32, u32)> + use<'a> {
        self.octets.chunks_exact(8).map(|entry| (word(entry, 0) & 0x00ff_ffff, word(entry, 4)))
    }

    /// The first value of an id: a frame may not repeat one (SPDY/3.1 2.6.4).
    #[must_use]
    pub fn first(&self, id: u32) -> Option<u32> {
        self.iter().find(|entry| entry.0 == id).map(|entry| entry.1)
    }
}

impl<'a> Control<'a> {
    /// Reads the octets after a control frame's header.
    ///
    /// # Errors
    /// [`PeerFault::FrameLength`] or [`PeerFault::SettingsCount`].
    pub fn parse(kind: u16, flags: u8, payload: &'a [u8]) -> Result<Self, PeerFault> {
        let at_least = |minimum: usize| {
            if payload.len() < minimum {
                Err(PeerFault::FrameLength { kind, len: payload.len() })
            } else {
                Ok(())
            }
        };
        let exactly = |wanted: usize| {
            if payload.len() == wanted {
                Ok(())
            } else {
                Err(PeerFault::FrameLength { kind, len: payload.len() })
            }
        };
        let fin = flags & FLAG_FIN != 0;
        Ok(match kind {
            SYN_STREAM => {
                at_least(10)?;
                Self::SynStream {
                    stream: word(payload, 0) & MAX_31,
                    associated: word(payload, 4) & MAX_31,
                    priority: payload[8] >> 5,
                    fin,
                    unidirectional: flags & FLAG_UNIDIRECTIONAL != 0,
                    block: &payload[10..],
                }
            }
            SYN_REPLY | HEADERS => {
                at_least(4)?;
                let (stream, block) = (word(payload, 0) & MAX_31, &payload[4..]);
                if kind == SYN_REPLY {
                    Self::SynReply { stream, fin, block }
                } else {
                    Self::Headers { stream, fin, block }
                }
            }
            RST_STREAM => {
                exactly(8)?;
                Self::RstStream { stream: word(payload, 0) & MAX_31, status: word(payload, 4) }
            }
            SETTINGS => {
                at_least(4)?;
                let octets = &payload[4..];
                if !octets.len().is_multiple_of(8) || octets.len() / 8 != word(payload, 0) as usize
                {
                    return Err(PeerFault::SettingsCount);
                }
                Self::Settings(SettingsEntries { octets })
            }
            PING => {
                exactly(4)?;
                Self::Ping(word(payload, 0))
            }
            GOAWAY => {
                exactly(8)?;
                Self::GoAway { last_good: word(payload, 0) & MAX_31, reason: word(payload, 4) }
            }
            WINDOW_UPDATE => {
                exactly(8)?;
                Self::WindowUpdate {
                    stream: word(payload, 0) & MAX_31,
                    delta: word(payload, 4) & MAX_31,
                }
            }
            other => Self::Skipped(other),
        })
    }

    /// Appends the frame to `out`. `Skipped` types carry no payload.
    ///
    /// # Panics
    /// When a header block is above 2^24-11 octets; [`crate::limits::CONTROL_FRAME`] is far below.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match *self {
            Self::SynStream { stream, associated, priority, fin, unidirectional, block } => {
                let flags = if fin { FLAG_FIN } else { 0 }
                    | if unidirectional { FLAG_UNIDIRECTIONAL } else { 0 };
                control(out, SYN_STREAM, flags, 10 + block.len());
                out.extend_from_slice(&stream.to_be_bytes());
                out.extend_from_slice(&associated.to_be_bytes());
                out.extend_from_slice(&[priority << 5, 0]);
                out.extend_from_slice(block);
            }
            Self::SynReply { stream, fin, block } => {
                with_block(out, SYN_REPLY, stream, fin, block);
            }
            Self::Headers { stream, fin, block } => with_block(out, HEADERS, stream, fin, block),
            Self::RstStream { stream, status } => two_words(out, RST_STREAM, stream, status),
            Self::Settings(entries) => {
                let count = entries.octets.len() / 8;
                control(out, SETTINGS, 0, 4 + entries.octets.len());
                out.extend_from_slice(&u24(count));
                out.extend_from_slice(entries.octets);
            }
            Self::Ping(id) => {
                control(out, PING, 0, 4);
                out.extend_from_slice(&id.to_be_bytes());
            }
            Self::GoAway { last_good, reason } => two_words(out, GOAWAY, last_good, reason),
            Self::WindowUpdate { stream, delta } => two_words(out, WINDOW_UPDATE, stream, delta),
            Self::Skipped(kind) => control(out, kind, 0, 0),
        }
    }
}

/// Without header blocks: they hold secrets.
impl fmt::Display for Control<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let flag = |set: bool, name: &'static str| if set { name } else { "" };
        match *self {
            Self::SynStream { stream, associated, priority, fin, unidirectional, block } => {
                let (fin, one_way) = (flag(fin, " fin"), flag(unidirectional, " unidirectional"));
                write!(f, "SYN_STREAM stream={stream} priority={priority}{fin}{one_way}")?;
                if associated != 0 {
                    write!(f, " associated={associated}")?;
                }
                write!(f, " block={}", block.len())
            }
            Self::SynReply { stream, fin, block } => {
                write!(f, "SYN_REPLY stream={stream}{} block={}", flag(fin, " fin"), block.len())
            }
            Self::RstStream { stream, status } => {
                write!(f, "RST_STREAM stream={stream} status={status}")
            }
            Self::Settings(entries) => {
                f.write_str("SETTINGS")?;
                entries.iter().try_for_each(|(id, value)| write!(f, " {id}={value}"))
            }
            Self::Ping(id) => write!(f, "PING id={id}"),
            Self::GoAway { last_good, reason } => {
                write!(f, "GOAWAY last_good={last_good} reason={reason}")
            }
            Self::Headers { stream, fin, block } => {
                write!(f, "HEADERS stream={stream}{} block={}", flag(fin, " fin"), block.len())
            }
            Self::WindowUpdate { stream, delta } => {
                write!(f, "WINDOW_UPDATE stream={stream} delta={delta}")
            }
            Self::Skipped(kind) => write!(f, "type {kind} skipped"),
        }
    }
}

/// The header of a DATA frame.
///
/// # Panics
/// When `len` is above 2^24-1; callers are bounded by [`crate::limits::OUTPUT`].
#[must_use]
pub fn data_header(stream: StreamId, fin: bool, len: usize) -> [u8; HEADER] {
    let [a, b, c, d] = stream.0.to_be_bytes();
    let [_, x, y, z] = u24(len);
    [a, b, c, d, u8::from(fin) * FLAG_FIN, x, y, z]
}

fn with_block(out: &mut Vec<u8>, kind: u16, stream: u32, fin: bool, block: &[u8]) {
    control(out, kind, if fin { FLAG_FIN } else { 0 }, 4 + block.len());
    out.extend_from_slice(&stream.to_be_bytes());
    out.extend_from_slice(block);
}

fn two_words(out: &mut Vec<u8>, kind: u16, first: u32, second: u32) {
    control(out, kind, 0, 8);
    out.extend_from_slice(&first.to_be_bytes());
    out.extend_from_slice(&second.to_be_bytes());
}

fn control(out: &mut Vec<u8>, kind: u16, flags: u8, len: usize) {
    out.extend_from_slice(&(0x8000 | VERSION).to_be_bytes());
    out.extend_from_slice(&kind.to_be_bytes());
    let [_, x, y, z] = u24(len);
    out.extend_from_slice(&[flags, x, y, z]);
}

fn u24(len: usize) -> [u8; 4] {
    let len = u32::try_from(len).ok().filter(|len| *len < 1 << 24);
    len.expect("lengths are bounded far below 2^24 by limits.rs").to_be_bytes()
}

fn word(octets: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([octets[at], octets[at + 1], octets[at + 2], octets[at + 3]])
}

/// Appends a SETTINGS frame with these ids and values, without flags.
pub fn encode_settings(entries: &[(u32, u32)], out: &mut Vec<u8>) {
    let octets: Vec<u8> = entries
        .iter()
        .flat_map(|(id, value)| id.to_be_bytes().into_iter().chain(value.to_be_bytes()))
        .collect();
    Control::Settings(SettingsEntries { octets: &octets }).encode(out);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round_trip(frame: Control<'_>) {
        let mut octets = Vec::new();
        frame.encode(&mut octets);
        let header = Header::parse(octets[..HEADER].try_into().unwrap());
        let Header::Control { version, kind, flags, len } = header else {
            panic!("control frame expected")
        };
        assert_eq!((version, len), (VERSION, octets.len() - HEADER));
        assert_eq!(Control::parse(kind, flags, &octets[HEADER..]), Ok(frame));
    }

    #[test]
    fn every_control_frame_survives_a_round_trip() {
        round_trip(Control::SynStream {
            stream: 1,
            associated: MAX_31,
            priority: 7,
            fin: true,
            unidirectional: true,
            block: b"block",
        });
        round_trip(Control::SynReply { stream: 3, fin: false, block: b"" });
        round_trip(Control::RstStream { stream: 5, status: 0xffff_ffff });
        round_trip(Control::Settings(SettingsEntries { octets: &[1; 16] }));
        round_trip(Control::Ping(2));
        round_trip(Control::GoAway { last_good: 9, reason: 77 });
        round_trip(Control::Headers { stream: MAX_31, fin: true, block: b"x" });
        round_trip(Control::WindowUpdate { stream: 0, delta: MAX_31 });
        round_trip(Control::Skipped(0xf000));
    }

    #[test]
    fn fixed_lengths_are_exact_and_minimums_hold() {
        for (kind, len) in [(RST_STREAM, 8), (PING, 4), (GOAWAY, 8), (WINDOW_UPDATE, 8)] {
            for wrong in [0, len - 1, len + 1] {
                let fault = Err(PeerFault::FrameLength { kind, len: wrong });
                assert_eq!(Control::parse(kind, 0, &vec![0; wrong]), fault);
            }
        }
        for (kind, minimum) in [(SYN_STREAM, 10), (SYN_REPLY, 4), (HEADERS, 4), (SETTINGS, 4)] {
            let short = vec![0; minimum - 1];
            let fault = Err(PeerFault::FrameLength { kind, len: minimum - 1 });
            assert_eq!(Control::parse(kind, 0, &short), fault);
            assert!(Control::parse(kind, 0, &vec![0; minimum]).is_ok());
        }
    }

    #[test]
    fn settings_count_must_match_and_the_first_value_counts() {
        let mut octets = Vec::new();
        encode_settings(&[(4, 100), (7, 1), (7, 2)], &mut octets);
        let Ok(Control::Settings(entries)) = Control::parse(SETTINGS, 0, &octets[HEADER..]) else {
            panic!("settings expected")
        };
        assert_eq!(
            (entries.first(7), entries.first(4), entries.first(1)),
            (Some(1), Some(100), None)
        );
        octets[HEADER + 3] = 2;
        assert_eq!(Control::parse(SETTINGS, 0, &octets[HEADER..]), Err(PeerFault::SettingsCount));
    }

    #[test]
    fn reserved_bits_are_masked() {
        let parsed = Control::parse(WINDOW_UPDATE, 0xff, &[0xff; 8]);
        assert_eq!(parsed, Ok(Control::WindowUpdate { stream: MAX_31, delta: MAX_31 }));
    }

    #[test]
    fn data_header_has_the_layout_of_the_specification() {
        let id = StreamId::new(0x0102_0304).unwrap();
        assert_eq!(data_header(id, true, 0x05_0607), [1, 2, 3, 4, 1, 5, 6, 7]);
        let parsed = Header::parse([1, 2, 3, 4, 1, 5, 6, 7]);
        assert_eq!(parsed, Header::Data { stream: 0x0102_0304, fin: true, len: 0x05_0607 });
    }

    #[test]
    fn stream_ids_have_31_bits_and_are_never_0() {
        assert_eq!(StreamId::new(0), None);
        assert_eq!(StreamId::new(MAX_31 + 1), None);
        assert!(StreamId::new(MAX_31).is_some_and(StreamId::is_odd));
    }
}
