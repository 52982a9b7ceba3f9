//! One stream: its state and what waits in it to be read.
//!
//! It owns the transitions (SPDY/3.1 2.3) and the inbox. Windows, ids and frames are the session's.

use std::{collections::VecDeque, mem};

use crate::{
    error::{StreamError, StreamFault},
    limits::INITIAL_WINDOW,
};

/// State of a stream. *Local* is our direction, *remote* the peer's.
///
/// ```text
///          we open                          peer opens
///             |                                 |
///             v                                 v
///     +---------------+                 +---------------+
///     | AwaitingReply |                 |   Unreplied   |
///     | local open/fin|                 | remote open/fin
///     +-------+-------+                 +-------+-------+
///             | SYN_REPLY received              | SYN_REPLY sent
///             +----------------+----------------+
///                              v
///                         +--------+
///              FIN sent   |        |   FIN received
///            +------------|  Open  |-------------+
///            v            |        |             v
///   +-----------------+   +--------+   +------------------+
///   | HalfClosedLocal |                | HalfClosedRemote |
///   +--------+--------+                +---------+--------+
///            | FIN received              FIN sent |
///            +-----------------+------------------+
///                              v
///     RST either way      +--------+
///     from any state ---> | Closed |
///                         +--------+
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamState {
    /// We opened it and wait for SYN_REPLY; `fin`: we have sent ours.
    AwaitingReply {
        /// Whether our FIN is sent.
        fin: bool,
    },
    /// The peer opened it and waits for our SYN_REPLY; `fin`: it has sent its FIN.
    Unreplied {
        /// Whether the peer's FIN has come.
        fin: bool,
    },
    /// Both directions are open.
    Open,
    /// Our FIN is sent.
    HalfClosedLocal,
    /// The peer's FIN has come.
    HalfClosedRemote,
    /// Both FINs, or a reset.
    Closed,
}

use StreamState::{AwaitingReply, Closed, HalfClosedLocal, HalfClosedRemote, Open, Unreplied};

impl StreamState {
    /// SYN_REPLY arrives.
    ///
    /// # Errors
    /// A second reply, or one after the peer's FIN.
    pub fn on_reply_received(&mut self, fin: bool) -> Result<(), StreamFault> {
        *self = match (*self, fin) {
            (AwaitingReply { fin: false }, false) => Open,
            (AwaitingReply { fin: false }, true) => HalfClosedRemote,
            (AwaitingReply { fin: true }, false) => HalfClosedLocal,
            (AwaitingReply { fin: true }, true) => Closed,
            (Open | HalfClosedLocal | Unreplied { fin: false }, _) => {
                return Err(StreamFault::SecondReply);
            }
            (HalfClosedRemote | Closed | Unreplied { fin: true }, _) => {
                return Err(StreamFault::AfterFin);
            }
        };
        Ok(())
    }

    /// DATA or HEADERS arrives.
    ///
    /// # Errors
    /// Before the reply, or after the peer's FIN.
    pub fn on_data_received(&mut self, fin: bool) -> Result<(), StreamFault> {
        *self = match (*self, fin) {
            (AwaitingReply { .. }, _) => return Err(StreamFault::BeforeReply),
            (Unreplied { fin: true } | HalfClosedRemote | Closed, _) => {
                return Err(StreamFault::AfterFin);
            }
            (state, false) => state,
            (Unreplied { fin: false }, true) => Unreplied { fin: true },
            (Open, true) => HalfClosedRemote,
            (HalfClosedLocal, true) => Closed,
        };
        Ok(())
    }

    /// We send SYN_REPLY.
    ///
    /// # Errors
    /// [`StreamError::State`] unless the peer waits for it.
    pub fn on_reply_sent(&mut self, fin: bool) -> Result<(), StreamError> {
        *self = match (*self, fin) {
            (Unreplied { fin: false }, false) => Open,
            (Unreplied { fin: false }, true) => HalfClosedLocal,
            (Unreplied { fin: true }, false) => HalfClosedRemote,
            (Unreplied { fin: true }, true) => Closed,
            _ => return Err(StreamError::State),
        };
        Ok(())
    }

    /// We send DATA.
    ///
    /// # Errors
    /// [`StreamError::State`] before our reply and after our FIN.
    pub fn on_data_sent(&mut self, fin: bool) -> Result<(), StreamError> {
        if !self.can_send() {
            return Err(StreamError::State);
        }
        *self = match (*self, fin) {
            (AwaitingReply { .. }, true) => AwaitingReply { fin: true },
            (Open, true) => HalfClosedLocal,
            (HalfClosedRemote, true) => Closed,
            (state, _) => state,
        };
        Ok(())
    }

    /// RST_STREAM either way, or the end of the session.
    pub fn on_reset(&mut self) {
        *self = Closed;
    }

    /// Whether we may send DATA.
    #[must_use]
    pub const fn can_send(self) -> bool {
        matches!(self, AwaitingReply { fin: false } | Open | HalfClosedRemote)
    }

    /// Whether the peer may still send DATA (after its reply, where it owes one).
    #[must_use]
    pub const fn can_receive(self) -> bool {
        matches!(self, AwaitingReply { .. } | Unreplied { fin: false } | Open | HalfClosedLocal)
    }

    /// Whether the peer owes a SYN_REPLY.
    #[must_use]
    pub const fn is_awaiting_reply(self) -> bool {
        matches!(self, AwaitingReply { .. })
    }
}

/// Octets that arrived and were not read yet, in chunks as they came.
#[derive(Debug, Default)]
pub struct Inbox {
    chunks: VecDeque<Vec<u8>>,
    /// Octets of the first chunk that were read.
    read: usize,
    len: usize,
}

impl Inbox {
    /// Largest chunk, in octets.
    pub const CHUNK: usize = INITIAL_WINDOW as usize;
    /// Up to this size a chunk is grown rather than followed by another, in octets.
    const SMALL: usize = 16_384;

    /// Copies octets in; `more` octets of the same frame will follow, so room for some is kept.
    pub fn push(&mut self, mut octets: &[u8], more: usize) {
        self.len += octets.len();
        if let Some(last) = self.chunks.back_mut() {
            // Small pieces grow one chunk instead of making a chunk each.
            let small = last.len() + octets.len() <= Self::SMALL;
            let room = if small { octets.len() } else { last.capacity() - last.len() };
            let room = room.min(octets.len());
            last.extend_from_slice(&octets[..room]);
            octets = &octets[room..];
        }
        while !octets.is_empty() {
            let (piece, rest) = octets.split_at(octets.len().min(Self::CHUNK));
            // A frame that trickles in must not hold more than a few times what has come of it.
            let ahead = (piece.len() + more).min(piece.len() * 4).min(Self::CHUNK);
            let mut chunk = Vec::with_capacity(ahead.max(piece.len()));
            chunk.extend_from_slice(piece);
            self.chunks.push_back(chunk);
            octets = rest;
        }
    }

    /// Takes the first chunk out, whole.
    pub fn take(&mut self) -> Option<Vec<u8>> {
        let mut chunk = self.chunks.pop_front()?;
        chunk.drain(..mem::take(&mut self.read));
        self.len -= chunk.len();
        Some(chunk)
    }

    /// Copies octets out.
    pub fn read(&mut self, out: &mut [u8]) -> usize {
        let mut filled = 0;
        while let Some(first) = self.chunks.front().filter(|_| filled < out.len()) {
            let octets = &first[self.read..];
            let count = octets.len().min(out.len() - filled);
            out[filled..filled + count].copy_from_slice(&octets[..count]);
            filled += count;
            self.read += count;
            if self.read == first.len() {
                self.chunks.pop_front();
                self.read = 0;
            }
        }
        self.len -= filled;
        filled
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        *self = Self::default();
    }

    /// Octets that wait.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing waits.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATES: [StreamState; 8] = [
        AwaitingReply { fin: false },
        AwaitingReply { fin: true },
        Unreplied { fin: false },
        Unreplied { fin: true },
        Open,
        HalfClosedLocal,
        HalfClosedRemote,
        Closed,
    ];

    /// Every transition there is, as text, so that an added one shows in the diff.
    #[test]
    fn table_of_transitions() {
        type Step = fn(&mut StreamState) -> Result<(), String>;
        fn text<E: std::fmt::Debug>(result: Result<(), E>) -> Result<(), String> {
            result.map_err(|error| format!("{error:?}"))
        }
        let events: [(&str, Step); 9] = [
            ("reply received", |s| text(s.on_reply_received(false))),
            ("reply+fin received", |s| text(s.on_reply_received(true))),
            ("data received", |s| text(s.on_data_received(false))),
            ("data+fin received", |s| text(s.on_data_received(true))),
            ("reply sent", |s| text(s.on_reply_sent(false))),
            ("reply+fin sent", |s| text(s.on_reply_sent(true))),
            ("data sent", |s| text(s.on_data_sent(false))),
            ("data+fin sent", |s| text(s.on_data_sent(true))),
            ("reset", |s| {
                s.on_reset();
                Ok(())
            }),
        ];
        let short = |state: StreamState| match state {
            AwaitingReply { fin: false } => "awaiting",
            AwaitingReply { fin: true } => "awaiting+fin",
            Unreplied { fin: false } => "unreplied",
            Unreplied { fin: true } => "unreplied+fin",
            Open => "open",
            HalfClosedLocal => "local",
            HalfClosedRemote => "remote",
            Closed => "closed",
        };
        let mut table = String::new();
        for (name, event) in events {
            for from in STATES {
                let mut state = from;
                let line = match event(&mut state) {
                    Ok(()) => format!("{name}: {} -> {}\n", short(from), short(state)),
                    Err(error) => {
                        assert_eq!(state, from, "a refused event changes nothing");
                        format!("{name}: {} -> {error}\n", short(from))
                    }
                };
                table.push_str(&line);
            }
        }
        assert_eq!(table, include_str!("stream_transitions.txt"));
    }

    #[test]
    fn inbox_gives_back_what_came_in_any_pieces() {
        let octets: Vec<u8> =
            (0..200_000u32).map(|n| n.to_le_bytes()[0] ^ n.to_le_bytes()[1]).collect();
        for step in [1, 7, 4_096, 65_536, 200_000] {
            let mut inbox = Inbox::default();
            for piece in octets.chunks(step) {
                inbox.push(piece, 65_536 % step);
            }
            assert_eq!(inbox.len(), octets.len());
            let mut out = vec![0; 1_000];
            let mut all = Vec::new();
            let count = inbox.read(&mut out);
            all.extend_from_slice(&out[..count]);
            while let Some(chunk) = inbox.take() {
                assert!(chunk.len() <= Inbox::CHUNK);
                all.extend_from_slice(&chunk);
            }
            assert!(inbox.is_empty() && all == octets);
        }
    }

    #[test]
    fn trickled_frame_holds_little_more_than_what_came() {
        let mut inbox = Inbox::default();
        inbox.push(&[0], 16 << 20);
        assert!(inbox.take().unwrap().capacity() < 64);
    }
}
