//! SPDY/3.1 on the wire, written a second time: frames here, header blocks in [`block`], TLS in two
//! halves in [`tls`].
//!
//! It owns nothing of a session and shares no code with `spdy-protocol`: what both get wrong the
//! same way would not be seen. Everything blocks.

pub mod block;

pub mod tls;

use std::{
    io::{self, Read},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use self::{
    block::Deflater,
    tls::{TlsReader, TlsWriter},
};

/// A frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// SYN_STREAM.
    SynStream {
        /// Stream.
        id: u32,
        /// Associated stream, 0 for none.
        associated: u32,
        /// Priority, 0 (highest) to 7.
        priority: u8,
        /// FIN.
        fin: bool,
        /// UNIDIRECTIONAL.
        unidirectional: bool,
        /// Header block.
        block: Vec<u8>,
    },
    /// SYN_REPLY.
    SynReply {
        /// Stream.
        id: u32,
        /// FIN.
        fin: bool,
        /// Header block.
        block: Vec<u8>,
    },
    /// RST_STREAM: stream, status.
    RstStream(u32, u32),
    /// SETTINGS: id and value of each entry.
    Settings(Vec<(u32, u32)>),
    /// PING: id.
    Ping(u32),
    /// GOAWAY: last good stream, status.
    GoAway(u32, u32),
    /// HEADERS.
    Headers {
        /// Stream.
        id: u32,
        /// FIN.
        fin: bool,
        /// Header block.
        block: Vec<u8>,
    },
    /// WINDOW_UPDATE: stream (0 the session), octets.
    WindowUpdate(u32, u32),
    /// DATA.
    Data {
        /// Stream.
        id: u32,
        /// FIN.
        fin: bool,
        /// Payload.
        octets: Vec<u8>,
    },
    /// A control frame of another type: type, payload.
    Other(u16, Vec<u8>),
}

impl Frame {
    /// The frame as octets.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let words = |words: &[u32]| words.iter().flat_map(|word| word.to_be_bytes()).collect();
        let with_block = |id: u32, block: &[u8]| [&id.to_be_bytes(), block].concat();
        let (kind, flags, payload): (u16, u8, Vec<u8>) = match self {
            Self::SynStream { id, associated, priority, fin, unidirectional, block } => {
                let mut payload: Vec<u8> = words(&[*id, *associated]);
                payload.extend_from_slice(&[priority << 5, 0]);
                payload.extend_from_slice(block);
                (1, u8::from(*fin) | u8::from(*unidirectional) << 1, payload)
            }
            Self::SynReply { id, fin, block } => (2, u8::from(*fin), with_block(*id, block)),
            Self::RstStream(id, status) => (3, 0, words(&[*id, *status])),
            Self::Settings(entries) => {
                let mut payload: Vec<u8> = words(&[u32_len(entries.len())]);
                payload.extend(entries.iter().flat_map(|(id, value)| {
                    let entry: Vec<u8> = words(&[*id, *value]);
                    entry
                }));
                (4, 0, payload)
            }
            Self::Ping(id) => (6, 0, words(&[*id])),
            Self::GoAway(last, status) => (7, 0, words(&[*last, *status])),
            Self::Headers { id, fin, block } => (8, u8::from(*fin), with_block(*id, block)),
            Self::WindowUpdate(id, delta) => (9, 0, words(&[*id, *delta])),
            Self::Data { id, fin, octets } => {
                let flags_and_len = u32::from(*fin) << 24 | u32_len(octets.len());
                let mut frame: Vec<u8> = words(&[*id, flags_and_len]);
                frame.extend_from_slice(octets);
                return frame;
            }
            Self::Other(kind, payload) => (*kind, 0, payload.clone()),
        };
        let mut frame = vec![0x80, 3];
        frame.extend_from_slice(&kind.to_be_bytes());
        frame.extend_from_slice(&(u32::from(flags) << 24 | u32_len(payload.len())).to_be_bytes());
        frame.extend_from_slice(&payload);
        frame
    }

    /// Reads a whole frame: its first eight octets, then the rest.
    fn parse(head: [u8; 8], payload: Vec<u8>) -> io::Result<Self> {
        let word = |at: usize| -> io::Result<u32> {
            let octets = payload.get(at..at + 4).and_then(|octets| octets.try_into().ok());
            octets.map(u32::from_be_bytes).ok_or_else(|| malformed("short control frame"))
        };
        let id = |at: usize| word(at).map(|word| word & 0x7fff_ffff);
        let fin = head[4] & 1 != 0;
        if head[0] & 0x80 == 0 {
            let id = u32::from_be_bytes([head[0], head[1], head[2], head[3]]);
            return Ok(Self::Data { id, fin, octets: payload });
        }
        Ok(match u16::from_be_bytes([head[2], head[3]]) {
            1 => Self::SynStream {
                id: id(0)?,
                associated: id(4)?,
                priority: payload.get(8).ok_or_else(|| malformed("short SYN_STREAM"))? >> 5,
                fin,
                unidirectional: head[4] & 2 != 0,
                block: payload.get(10..).unwrap_or_default().to_vec(),
            },
            2 => Self::SynReply { id: id(0)?, fin, block: payload[4..].to_vec() },
            3 => Self::RstStream(id(0)?, word(4)?),
            4 => {
                let mut entries = Vec::new();
                for n in 0..word(0)? as usize {
                    entries.push((word(4 + 8 * n)? & 0x00ff_ffff, word(8 + 8 * n)?));
                }
                Self::Settings(entries)
            }
            6 => Self::Ping(word(0)?),
            7 => Self::GoAway(id(0)?, word(4)?),
            8 => Self::Headers { id: id(0)?, fin, block: payload[4..].to_vec() },
            9 => Self::WindowUpdate(id(0)?, id(4)?),
            kind => Self::Other(kind, payload),
        })
    }
}

/// Reads frames; a read that fails or times out loses nothing.
#[derive(Debug)]
pub struct FrameReader {
    from: TlsReader,
    held: Vec<u8>,
}

impl FrameReader {
    /// Reads frames from the first octet on.
    #[must_use]
    pub const fn new(from: TlsReader) -> Self {
        Self { from, held: Vec::new() }
    }

    /// The next frame; `None` at the end of the connection. With a limit, waits no longer than that
    /// for octets.
    ///
    /// # Errors
    /// Those of the connection, `TimedOut` or `WouldBlock` at the limit, and `InvalidData`.
    pub fn read(&mut self, limit: Option<Duration>) -> io::Result<Option<Frame>> {
        self.from.set_timeout(limit)?;
        loop {
            if let Some((head, rest)) = self.held.split_first_chunk::<8>() {
                let len = u32::from_be_bytes([0, head[5], head[6], head[7]]) as usize;
                if rest.len() >= len {
                    let frame = Frame::parse(*head, rest[..len].to_vec());
                    self.held.drain(..8 + len);
                    return frame.map(Some);
                }
            }
            let mut piece = [0; 16_384];
            match self.from.read(&mut piece)? {
                0 if self.held.is_empty() => return Ok(None),
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                len => self.held.extend_from_slice(&piece[..len]),
            }
        }
    }
}

/// Writes frames from any thread; header blocks are compressed in the order in which they go out.
#[derive(Debug)]
pub struct FrameWriter {
    to: TlsWriter,
    deflater: Mutex<Deflater>,
}

impl FrameWriter {
    /// Writes the first frames of a session.
    #[must_use]
    pub fn new(to: TlsWriter) -> Self {
        Self { to, deflater: Mutex::new(Deflater::new()) }
    }

    /// Writes one frame.
    ///
    /// # Errors
    /// Those of the connection.
    pub fn write(&self, frame: &Frame) -> io::Result<()> {
        self.to.write(&frame.encode())
    }

    /// Writes a frame that has a header block of `pairs`.
    ///
    /// # Errors
    /// Those of the connection.
    pub fn write_block(
        &self,
        pairs: &[(&str, &[u8])],
        frame: impl FnOnce(Vec<u8>) -> Frame,
    ) -> io::Result<()> {
        let mut deflater = lock(&self.deflater);
        self.write(&frame(deflater.block(pairs)?))
    }

    /// The same frame as bytes, which must be the next that are written.
    ///
    /// # Errors
    /// Those of the compression.
    pub fn encode_block(
        &self,
        pairs: &[(&str, &[u8])],
        frame: impl FnOnce(Vec<u8>) -> Frame,
    ) -> io::Result<Vec<u8>> {
        Ok(frame(lock(&self.deflater).block(pairs)?).encode())
    }

    /// Ends the connection in both directions.
    pub fn shutdown(&self) {
        self.to.shutdown();
    }
}

/// Locks, whatever a thread that panicked left behind.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(crate) fn malformed(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

pub(crate) fn u32_len(len: usize) -> u32 {
    u32::try_from(len).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::Frame;

    #[test]
    fn frames_are_what_they_were_written_from() {
        let block = b"block".to_vec();
        let frames = [
            Frame::SynStream {
                id: 1,
                associated: 2,
                priority: 3,
                fin: true,
                unidirectional: true,
                block: block.clone(),
            },
            Frame::SynReply { id: 1, fin: false, block: block.clone() },
            Frame::RstStream(1, 5),
            Frame::Settings(vec![(4, 100), (7, 65_536)]),
            Frame::Ping(1),
            Frame::GoAway(1, 0),
            Frame::Headers { id: 1, fin: true, block },
            Frame::WindowUpdate(0, 1),
            Frame::Data { id: 1, fin: true, octets: vec![1, 2, 3] },
            Frame::Other(0xf000, vec![0]),
        ];
        for frame in frames {
            let octets = frame.encode();
            let (head, payload) = octets.split_first_chunk().unwrap();
            assert_eq!(Frame::parse(*head, payload.to_vec()).unwrap(), frame);
        }
    }

    #[test]
    fn frames_have_the_octets_of_the_draft() {
        let update = Frame::WindowUpdate(5, 0x0102_0304).encode();
        assert_eq!(update, [0x80, 3, 0, 9, 0, 0, 0, 8, 0, 0, 0, 5, 1, 2, 3, 4]);
        let data = Frame::Data { id: 3, fin: true, octets: vec![9] }.encode();
        assert_eq!(data, [0, 0, 0, 3, 1, 0, 0, 1, 9]);
    }
}
