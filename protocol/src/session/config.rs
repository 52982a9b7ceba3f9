//! What a session is told at its start, and what it tells: plain types.

use std::{fmt, sync::Arc, time::Duration};

use super::Key;
use crate::{
    budget::Budget,
    limits::{STREAMS, Timings},
};

/// SPDY role: the client opens streams with odd ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The proxy.
    Client,
    /// The agent.
    Server,
}

/// How a peer behaves (docs/protocol.md, "Profiles").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Profile {
    /// It named itself in the handshake: the strict protocol.
    Ours,
    /// A foreign stack with the full flow control of SPDY/3.1.
    Plain31,
    /// A nameless peer, treated as Amahi's Go library until it shows that it is not: no HEADERS,
    /// GOAWAY or session WINDOW_UPDATE is sent to it, streams are opened one at a time.
    Amahi,
}

/// Which way a frame goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the peer.
    Received,
    /// To the peer.
    Sent,
}

/// Is shown every frame, without contents: debug output.
#[derive(Clone)]
pub struct Trace(Arc<dyn Fn(Direction, fmt::Arguments<'_>) + Send + Sync>);

impl Trace {
    /// Calls `show` for each frame; it must be quick and must not call the session.
    pub fn new(show: impl Fn(Direction, fmt::Arguments<'_>) + Send + Sync + 'static) -> Self {
        Self(Arc::new(show))
    }

    pub(super) fn show(&self, direction: Direction, frame: fmt::Arguments<'_>) {
        (self.0)(direction, frame);
    }
}

impl fmt::Debug for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Trace")
    }
}

/// What a session is to do.
#[derive(Clone, Debug)]
pub struct Config {
    /// Our role.
    pub side: Side,
    /// What the handshake said of the peer.
    pub profile: Profile,
    /// The peer promised stored header blocks: no inflater is made, anything else ends the session.
    pub stored_only: bool,
    /// Streams at a time, at most [`STREAMS`], the default.
    pub streams: usize,
    /// Streams with a body that the peer may have open at a time; default [`STREAMS`].
    pub uploads: usize,
    /// Whether receive windows of streams grow; default true for the client side only.
    pub grow: bool,
    /// Durations.
    pub timings: Timings,
    /// Budget of the process.
    pub budget: Arc<Budget>,
    /// Debug output; default none.
    pub trace: Option<Trace>,
}

impl Config {
    /// The defaults for a role and a profile.
    #[must_use]
    pub fn new(side: Side, profile: Profile, budget: Arc<Budget>) -> Self {
        Self {
            side,
            profile,
            stored_only: false,
            streams: STREAMS,
            uploads: STREAMS,
            grow: side == Side::Client,
            timings: Timings::default(),
            budget,
            trace: None,
        }
    }
}

/// What a session has counted since it began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Octets received, frame headers included.
    pub octets_received: u64,
    /// Octets handed to the transport, frame headers included.
    pub octets_sent: u64,
    /// Streams opened by either side.
    pub streams_opened: u64,
    /// Streams that hold a slot now.
    pub streams_now: usize,
    /// RST_STREAM frames received.
    pub resets_received: u64,
    /// RST_STREAM frames sent.
    pub resets_sent: u64,
    /// Streams cut because they were the longest stalled when a budget was spent.
    pub stalled_cut: u64,
    /// Largest receive window that a stream grew to, in octets.
    pub largest_window: u32,
    /// Octets that the streams hold of the tunnel's budget now.
    pub budget_used: usize,
    /// Time that streams with something to send waited for credit that was on its way: what a larger
    /// window would save. Sums over streams.
    pub waited_window: Duration,
    /// Time that they waited for credit because nobody read what was sent.
    pub waited_reader: Duration,
    /// Time that they waited for the transport.
    pub waited_output: Duration,
    /// The last measured round trip.
    pub round_trip: Option<Duration>,
}

/// What happened; each is a reason to call the command it names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A stream of the peer waits for [`super::Session::accept`].
    Opened,
    /// [`super::Session::take_head`], [`super::Session::read`] or [`super::Session::take_chunk`] has news: a reply,
    /// DATA, FIN or the stream's failure.
    Readable(Key),
    /// A command that answered `Pending` may be repeated, or the stream failed.
    Writable(Key),
    /// [`super::Session::open`] may be repeated.
    Room,
    /// No stream can be opened any more.
    Closing,
}

/// Why no stream was opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenRefused {
    /// Not now; [`Event::Room`] tells when to try again. (A process budget that other tunnels use
    /// up gives no event: try again after a while too.)
    Wait,
    /// Never again: the session ends or the ids are used up.
    Closed,
    /// The header block is too large for this peer.
    TooLarge,
}
