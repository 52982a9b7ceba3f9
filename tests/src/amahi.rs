//! Peers that behave as the original's two libraries do, faults included (docs/protocol.md says
//! what a tunnel does to live with them).
//!
//! It owns what both roles share: the editions, and the list of what would have killed or hung the
//! original. Nothing in it is lenient: where the original breaks sometimes, these break always.

pub mod agent;

pub mod proxy;

use std::{
    io::{self, Read},
    sync::{Arc, Mutex},
};

use crate::wire::{Frame, lock, malformed, tls::TlsReader};

/// Which of the two libraries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Edition {
    /// The one that the original was built with (86ed17d): WINDOW_UPDATE of the session kills it.
    Seed,
    /// Its last state: it only warns of that, and its proxy sends such updates itself.
    Head,
}

/// What would have killed or hung the original, or lost it data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// HEADERS: it panics.
    Headers,
    /// GOAWAY: it panics.
    GoAway,
    /// WINDOW_UPDATE for the session: the seed's library panics.
    SessionWindowUpdate,
    /// So many octets came in one read with the end of the handshake; it loses them.
    LostWithHandshake(usize),
    /// SYN_STREAM while the reply to another one was due: it reads header blocks out of order then.
    OverlappingOpen(u32),
    /// A request without `:path`, or a reply without `:status`: it panics.
    IncompleteHead(u32),
    /// More than five DATA frames of a stream were unconsumed: the stream stops for ever.
    QueueFull(u32),
    /// More octets than the stream's window were in flight.
    WindowOverrun(u32),
    /// Nothing came on a stream for too long; the visitor would wait for ever.
    Silence(u32),
    /// A body was ended early because credit for it did not come: it looks complete.
    Truncated(u32),
    /// An upload stood still for longer than the limit and was dropped.
    UploadGap(u32),
    /// The agent opened a stream, or the reply was for none: it panics or ends the session.
    UnexpectedStream(u32),
    /// A frame or header block that cannot be read, or a connection that broke.
    Wire(String),
}

/// The faults so far, of all threads of a peer.
#[derive(Clone, Debug, Default)]
pub struct Faults(Arc<Mutex<Vec<Fault>>>);

impl Faults {
    /// All of them, oldest first.
    #[must_use]
    pub fn all(&self) -> Vec<Fault> {
        lock(&self.0).clone()
    }

    fn add(&self, fault: Fault) {
        lock(&self.0).push(fault);
    }
}

/// The names and values of a header block, in order.
pub type Pairs = Vec<(String, Vec<u8>)>;

fn find<'a>(pairs: &'a Pairs, name: &str) -> Option<&'a [u8]> {
    pairs.iter().find(|pair| pair.0 == name).map(|pair| pair.1.as_slice())
}

/// Reads a request or response with Content-Length: its head, its body, and how many octets came
/// behind it in the same read. Those are lost, as in the original.
fn read_handshake(from: &mut TlsReader) -> io::Result<(String, Vec<u8>, usize)> {
    let mut held = Vec::new();
    let mut piece = [0; 4_096];
    loop {
        if let Some(end) = held.windows(4).position(|octets| octets == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&held[..end]).into_owned();
            let len = head.lines().find_map(|line| {
                let (name, value) = line.split_once(':')?;
                name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse().ok())?
            });
            let body_end = end + 4 + len.unwrap_or(0_usize);
            if held.len() >= body_end {
                return Ok((head, held[end + 4..body_end].to_vec(), held.len() - body_end));
            }
        }
        match from.read(&mut piece)? {
            0 => return Err(malformed("connection ended in the handshake")),
            len => held.extend_from_slice(&piece[..len]),
        }
    }
}

/// What a frame means that the original cannot take, in either role.
fn deadly(frame: &Frame, edition: Edition) -> Option<Fault> {
    match frame {
        Frame::Headers { .. } => Some(Fault::Headers),
        Frame::GoAway(..) => Some(Fault::GoAway),
        Frame::WindowUpdate(0, _) if edition == Edition::Seed => Some(Fault::SessionWindowUpdate),
        _ => None,
    }
}
