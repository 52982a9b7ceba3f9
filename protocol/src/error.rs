//! What goes wrong, and who is at fault.
//!
//! [`Error`] ends a session, [`StreamError`] ends a stream; the type decides the frame that tells
//! the peer. It does not own the codes on the wire ([`crate::frame`]).

use std::fmt;

/// Why a session ended other than by agreement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Error {
    /// The peer broke the protocol; it was told by GOAWAY.
    Peer(PeerFault),
    /// The peer was silent although a PING asked it to speak.
    Silent,
    /// The transport ended without GOAWAY while streams were open, or failed.
    Transport(std::io::ErrorKind),
}

/// What a peer did that ends the session (SPDY/3.1 2.4.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerFault {
    /// A frame of fixed length, or one with a minimum, has another length.
    FrameLength {
        /// Type of the frame.
        kind: u16,
        /// Octets after its header.
        len: usize,
    },
    /// The count of a SETTINGS frame does not match its length.
    SettingsCount,
    /// A control frame is longer than [`crate::limits::CONTROL_FRAME`].
    ControlFrameTooLarge {
        /// Octets after its header.
        len: usize,
    },
    /// A stream was opened with id 0.
    StreamIdZero,
    /// A stream was opened with an id of the wrong parity.
    StreamIdParity(u32),
    /// A stream was opened with an id lower than an earlier one.
    StreamIdNotIncreasing(u32),
    /// A header block does not inflate; the rest of the session could not be read.
    HeaderBlock,
    /// A header block of a peer that promised stored blocks is not one.
    HeaderBlockNotStored,
    /// Too many header blocks were refused for their size.
    HeaderBombs,
    /// A WINDOW_UPDATE took the session window above 2^31-1.
    SessionWindowOverflow,
    /// More DATA arrived than the session window allowed.
    SessionOverrun,
    /// More PING frames arrived than answers could be sent.
    PingFlood,
    /// Too many frames that cost the peer nothing.
    CheapFrames,
}

/// Why a stream ended other than by both FINs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamError {
    /// The peer sent RST_STREAM with this status.
    Reset(PeerStatus),
    /// The peer did not process the stream at all: it may be repeated elsewhere.
    Refused,
    /// The peer broke the protocol on this stream; it was told by RST_STREAM.
    Violation(StreamFault),
    /// The session ended, and the stream with it.
    SessionEnded,
    /// We cut the stream: it was the longest stalled when a budget was spent.
    Stalled,
    /// The command does not fit the state of the stream: the caller is at fault.
    State,
}

/// The number in a RST_STREAM as the peer sent it, known or not.
pub type PeerStatus = u32;

/// What a peer did that ends a stream (SPDY/3.1 2.4.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamFault {
    /// The id of a new stream is already in use.
    IdInUse,
    /// The stream is above the advertised number of streams.
    TooManyStreams,
    /// A frame for a stream that is not active.
    NotActive,
    /// A frame after the FIN of the peer.
    AfterFin,
    /// DATA or HEADERS before SYN_REPLY.
    BeforeReply,
    /// A second SYN_REPLY.
    SecondReply,
    /// More DATA than the stream window allowed.
    Overrun,
    /// A WINDOW_UPDATE took the stream window above 2^31-1.
    WindowOverflow,
    /// A header block above the limits.
    HeaderTooLarge,
    /// A name or value that the specification forbids.
    HeaderMalformed,
    /// The frame has another protocol version.
    Version,
    /// A pushed stream; they are always refused.
    Push,
    /// The reply lacks `:status` or `:version`.
    ReplyHead,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Peer(fault) => write!(f, "peer broke the protocol: {fault}"),
            Self::Silent => f.write_str("peer did not answer a ping"),
            Self::Transport(kind) => write!(f, "transport failed: {kind}"),
        }
    }
}

impl std::error::Error for Error {}

impl fmt::Display for PeerFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::FrameLength { kind, len } => write!(f, "frame type {kind} with length {len}"),
            Self::SettingsCount => f.write_str("settings count does not match the length"),
            Self::ControlFrameTooLarge { len } => {
                write!(f, "control frame of {len} octets, limit {}", crate::limits::CONTROL_FRAME)
            }
            Self::StreamIdZero => f.write_str("stream id 0"),
            Self::StreamIdParity(id) => write!(f, "stream id {id} has the wrong parity"),
            Self::StreamIdNotIncreasing(id) => write!(f, "stream id {id} below an earlier one"),
            Self::HeaderBlock => f.write_str("header block does not inflate"),
            Self::HeaderBlockNotStored => f.write_str("header block is not stored"),
            Self::HeaderBombs => f.write_str("too many oversized header blocks"),
            Self::SessionWindowOverflow => f.write_str("session window above 2^31-1"),
            Self::SessionOverrun => f.write_str("more data than the session window"),
            Self::PingFlood => f.write_str("more pings than answers could be sent"),
            Self::CheapFrames => f.write_str("flood of cheap frames"),
        }
    }
}

impl fmt::Display for StreamError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Reset(status) => write!(f, "stream reset by peer with status {status}"),
            Self::Refused => f.write_str("stream refused by peer"),
            Self::Violation(fault) => write!(f, "peer broke the stream: {fault:?}"),
            Self::SessionEnded => f.write_str("session ended"),
            Self::Stalled => f.write_str("stream cut after the longest stall"),
            Self::State => f.write_str("command does not fit the state of the stream"),
        }
    }
}

impl std::error::Error for StreamError {}

impl From<StreamError> for std::io::Error {
    fn from(error: StreamError) -> Self {
        use std::io::ErrorKind;
        let kind = match error {
            StreamError::Reset(_) | StreamError::Stalled => ErrorKind::ConnectionReset,
            StreamError::Refused => ErrorKind::ConnectionRefused,
            StreamError::Violation(_) => ErrorKind::InvalidData,
            StreamError::SessionEnded => ErrorKind::ConnectionAborted,
            StreamError::State => ErrorKind::InvalidInput,
        };
        Self::new(kind, error)
    }
}
