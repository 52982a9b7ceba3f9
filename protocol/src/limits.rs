//! Every bound of the protocol: its unit, its default and what happens at it.
//!
//! It does not own wire constants (those are in [`crate::frame`]) nor what only one program needs.
//! Numbers come from `docs/design.md`, section "Bounds that must hold together".

use std::time::Duration;

/// Streams of one tunnel at a time, open or not yet read to their end. More: `open` waits, a
/// peer's `SYN_STREAM` is refused with `REFUSED_STREAM`.
pub const STREAMS: usize = 128;

/// Initial window of a stream and of a session, in octets (SPDY/3.1 2.6.8). It stays what the
/// protocol says; growth is by `WINDOW_UPDATE` to the stream that earns it.
pub const INITIAL_WINDOW: u32 = 65_536;

/// Session receive window towards peers that keep one, in octets. It is not the memory bound:
/// the sum of the stream windows is (see [`TUNNEL_BUDGET`]).
pub const SESSION_WINDOW: u32 = 16 << 20;

/// Largest receive window of one stream, in octets.
pub const STREAM_WINDOW_MAX: u32 = 6 << 20;

/// Extra credit that goes out right behind `SYN_STREAM`, in octets, if the budgets have it.
pub const STREAM_WINDOW_HEAD_START: u32 = 192 << 10;

/// Most unread octets before credit is returned, however large the window is: half a window up to
/// here, so that a large window is refilled smoothly and not in two bursts per round trip.
pub const CREDIT_STEP_MAX: u32 = 256 << 10;

/// Sum of the receive windows of one tunnel's streams, in octets. Memory of one tunnel is at most
/// this plus [`OUTPUT`] plus two header blocks.
pub const TUNNEL_BUDGET: usize = 16 << 20;

/// Sum of the receive windows of all streams of a process, in octets.
pub const PROCESS_BUDGET: usize = 256 << 20;

/// Octets that one session keeps for sending. A write takes nothing while they are used up.
pub const OUTPUT: usize = 65_536;

/// Overrun of a stream's window that is tolerated from peers other than our own, in octets: npm's
/// `spdy-transport` sends a whole chunk whenever its window is above 0.
pub const OVERRUN_SLACK: u32 = 65_536;

/// Octets above the window that an upload of an `Amahi` proxy may run ahead: it keeps no windows.
/// Beyond that the stream is reset.
pub const AMAHI_UPLOAD_OVERRUN: u32 = 1 << 20;

/// DATA frames that may be unacknowledged towards an `Amahi` peer: it queues five and one of them
/// is kept for the FIN.
pub const AMAHI_FRAMES_IN_FLIGHT: usize = 4;

/// Largest control frame that is read, in octets after its header. A larger one ends the session
/// (`FRAME_TOO_LARGE`, then GOAWAY); the protocol asks for at least 8192.
pub const CONTROL_FRAME: usize = 65_536;

/// Largest header block that is sent to a peer that did not name itself, in octets.
pub const FOREIGN_HEADER_BLOCK: usize = 8_192;

/// Largest inflated header block, in octets. A larger one costs its stream.
pub const HEADER_BLOCK: usize = 65_536;

/// Most name/value pairs of one header block.
pub const HEADER_PAIRS: usize = 128;

/// Longest name of a header, in octets.
pub const HEADER_NAME: usize = 256;

/// Longest value of a header, in octets.
pub const HEADER_VALUE: usize = 32_768;

/// Refused header blocks (too large once inflated) before the session ends: each costs CPU.
pub const BOMBS: u32 = 16;

/// PING answers that wait to be sent. One more is a flood and ends the session.
pub const PING_ANSWERS: usize = 8;

/// Ids of streams that were reset or closed a moment ago, kept so that frames still under way are
/// told from frames for streams that never were.
/// Twice the streams there can be: when all end at once, and as many again, what their peer has
/// under way is still known.
pub const RECENT_IDS: usize = 2 * STREAMS;

/// Cheap frames (PING, SETTINGS, RST before a reply, empty DATA, tiny WINDOW_UPDATE, unknown
/// types) that a peer may send in a burst. Useful frames and time give them back.
pub const CHEAP_FRAMES: u32 = 1_000;

/// Cheap frames that are given back for each second.
pub const CHEAP_FRAMES_PER_SECOND: u32 = 100;

/// A WINDOW_UPDATE below this many octets is a cheap frame.
pub const TINY_CREDIT: u32 = 256;

/// Uploads that an agent reads at once; more requests with a body are refused.
pub const UPLOADS: usize = 16;

/// Durations of a session. All are settings, so that tests of faults run scaled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timings {
    /// Silence after which a PING is sent on an idle tunnel. Default 25 s, sensible up to 55 s.
    pub idle_ping: Duration,
    /// Silence after which a PING is sent while the peer owes a reply or credit. Default 5 s.
    pub owed_ping: Duration,
    /// Wait for any octet after a PING before the session ends. Default 10 s.
    pub ping_answer: Duration,
    /// Longest time that received session credit is kept back. Default 1 s.
    pub credit_delay: Duration,
    /// Time without reading after which a stream's window falls back to 64 KiB. Default 1 s.
    pub stall: Duration,
    /// Time without reading after which a stream may be cut when a budget is spent. Default 30 s.
    pub cut_stalled: Duration,
    /// Wait of `open` for a free slot or budget before it fails. Default 10 s.
    pub open_wait: Duration,
    /// Silence after 65,536 DATA octets that tells a `Plain31` peer from an `Amahi` one.
    /// Default 1 s.
    pub amahi_probe: Duration,
    /// Pause between the 200 and the first `SYN_STREAM` towards an `Amahi` peer. Default 100 ms.
    pub amahi_pause: Duration,
}

impl Default for Timings {
    fn default() -> Self {
        Self {
            idle_ping: Duration::from_secs(25),
            owed_ping: Duration::from_secs(5),
            ping_answer: Duration::from_secs(10),
            credit_delay: Duration::from_secs(1),
            stall: Duration::from_secs(1),
            cut_stalled: Duration::from_secs(30),
            open_wait: Duration::from_secs(10),
            amahi_probe: Duration::from_secs(1),
            amahi_pause: Duration::from_millis(100),
        }
    }
}
