//! Sessions after the handshake, frame by frame: an agent and a proxy that do whatever they are
//! told, over real TLS.
//!
//! It owns the PUT and its answer, written by hand. What may be sent and what must come back is the
//! tests' business.

use std::{
    io::{self, Read},
    net::{SocketAddr, TcpListener, TcpStream},
    time::{Duration, Instant},
};

use crate::{
    fixture::{Identity, PATIENCE},
    wire::{
        Frame, FrameReader, FrameWriter,
        block::Inflater,
        tls::{TlsReader, TlsWriter, accept, dial},
    },
};

/// How the other end is told to see us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Name {
    /// As one of its own kind: the strict protocol, header blocks of any form.
    Own,
    /// As the original: no name in the handshake.
    None,
}

/// A session whose handshake is done.
#[derive(Debug)]
pub struct RawSession {
    /// Frames from the other end.
    pub reader: FrameReader,
    /// Frames to it.
    pub writer: FrameWriter,
    /// Octets to it, whatever they are.
    pub octets: TlsWriter,
    /// For the header blocks of `reader`, each of which must be read.
    pub inflater: Inflater,
}

/// A proxy that waits for agents.
#[derive(Debug)]
pub struct RawProxy {
    listener: TcpListener,
    identity: Identity,
    /// Where agents are to dial.
    pub address: SocketAddr,
}

impl RawSession {
    /// Dials a proxy that takes anonymous agents.
    ///
    /// # Errors
    /// Those of the connection, `ConnectionRefused` with the answer when it is no 200.
    pub fn dial(proxy: SocketAddr, name: Name) -> io::Result<Self> {
        let (mut reader, writer) = dial(proxy)?;
        let field = match name {
            Name::Own => HELLO,
            Name::None => "",
        };
        let put = format!(
            "PUT / HTTP/1.1\r\nHost: localhost\r\n{field}Content-Length: 12\r\n\r\nHello from C"
        );
        writer.write(put.as_bytes())?;
        let head = read_message(&mut reader)?;
        if !head.starts_with("HTTP/1.1 200 ") {
            return Err(io::Error::new(io::ErrorKind::ConnectionRefused, head));
        }
        Ok(Self::new(reader, writer))
    }

    fn new(reader: TlsReader, octets: TlsWriter) -> Self {
        Self {
            reader: FrameReader::new(reader),
            writer: FrameWriter::new(octets.clone()),
            octets,
            inflater: Inflater::new(),
        }
    }

    /// Reads on until a frame is wanted, and returns what `wanted` made of it. Header blocks are
    /// read on the way.
    ///
    /// # Errors
    /// Those of the connection, `UnexpectedEof` at its end, `TimedOut` after [`PATIENCE`].
    pub fn wait_for<T>(&mut self, wanted: impl Fn(&Frame) -> Option<T>) -> io::Result<T> {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            let frame = self.read()?.ok_or(io::ErrorKind::UnexpectedEof)?;
            if let Some(found) = wanted(&frame) {
                return Ok(found);
            }
        }
        Err(io::ErrorKind::TimedOut.into())
    }

    /// Reads all frames up to the end of the connection, which must come.
    ///
    /// # Panics
    /// When it does not come before an idle session would end by itself.
    pub fn ends(&mut self) -> Vec<Frame> {
        let deadline = Instant::now() + END;
        let mut frames = Vec::new();
        loop {
            match self.read_within(END) {
                Ok(Some(frame)) => frames.push(frame),
                Ok(None) => return frames,
                Err(error) => match error.kind() {
                    io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
                        panic!("the session does not end; it said {frames:?}")
                    }
                    _ => return frames,
                },
            }
            assert!(Instant::now() < deadline, "the session does not end; it said {frames:?}");
        }
    }

    /// Whether the other end still answers: a PING of ours comes back.
    pub fn is_alive(&mut self, id: u32) -> bool {
        self.writer.write(&Frame::Ping(id)).is_ok()
            && self.wait_for(|frame| (*frame == Frame::Ping(id)).then_some(())).is_ok()
    }

    /// The next frame, within [`PATIENCE`].
    ///
    /// # Errors
    /// Those of the connection.
    pub fn read(&mut self) -> io::Result<Option<Frame>> {
        self.read_within(PATIENCE)
    }

    fn read_within(&mut self, limit: Duration) -> io::Result<Option<Frame>> {
        let frame = self.reader.read(Some(limit))?;
        if let Some(
            Frame::SynStream { block, .. }
            | Frame::SynReply { block, .. }
            | Frame::Headers { block, .. },
        ) = &frame
        {
            self.inflater.pairs(block)?;
        }
        Ok(frame)
    }
}

impl RawProxy {
    /// Listens on a free port of the loopback.
    ///
    /// # Panics
    /// When there is none.
    #[expect(clippy::new_without_default, reason = "it opens a port")]
    #[must_use]
    pub fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0");
        let listener = listener.unwrap_or_else(|error| panic!("{error}"));
        Self::of(listener, Identity::generate())
    }

    /// One that shows this certificate where it is told.
    ///
    /// # Panics
    /// When the listener is none.
    #[must_use]
    pub fn of(listener: TcpListener, identity: Identity) -> Self {
        let address = listener.local_addr().unwrap_or_else(|error| panic!("{error}"));
        Self { listener, identity, address }
    }

    /// Takes the next connection, whatever it wants.
    ///
    /// # Errors
    /// Those of the socket.
    pub fn take(&self) -> io::Result<TcpStream> {
        Ok(self.listener.accept()?.0)
    }

    /// Takes an agent up to its PUT, which it returns.
    ///
    /// # Errors
    /// Those of the connection.
    pub fn meet(&self, socket: TcpStream) -> io::Result<(TlsReader, TlsWriter, String)> {
        let (mut reader, writer) = accept(socket, &self.identity)?;
        let head = read_message(&mut reader)?;
        Ok((reader, writer, head))
    }

    /// Takes the next agent up to its PUT, which it returns.
    ///
    /// # Errors
    /// Those of the connection.
    pub fn accept(&self) -> io::Result<(TlsReader, TlsWriter, String)> {
        self.meet(self.take()?)
    }

    /// Takes the next agent and welcomes it.
    ///
    /// # Errors
    /// Those of the connection.
    pub fn session(&self, name: Name) -> io::Result<RawSession> {
        let (reader, writer, _) = self.accept()?;
        let field = match name {
            Name::Own => WELCOME,
            Name::None => "",
        };
        let answer = format!(
            "HTTP/1.1 200 Connection Established\r\n{field}Content-Length: 12\r\n\r\nHello from P"
        );
        writer.write(answer.as_bytes())?;
        Ok(RawSession::new(reader, writer))
    }
}

/// Reads a head with its body, octet by octet: what follows belongs to the session.
fn read_message(from: &mut TlsReader) -> io::Result<String> {
    from.set_timeout(Some(Duration::from_secs(20)))?;
    let mut head = Vec::new();
    let mut octet = [0];
    let mut take = |into: &mut Vec<u8>| match from.read(&mut octet)? {
        0 => Err(io::Error::from(io::ErrorKind::UnexpectedEof)),
        _ => {
            into.push(octet[0]);
            Ok(())
        }
    };
    while !head.ends_with(b"\r\n\r\n") {
        take(&mut head)?;
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let len = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse().ok())?
    });
    let mut body = Vec::new();
    while body.len() < len.unwrap_or(0) {
        take(&mut body)?;
    }
    Ok(head)
}

/// Longest wait for an end that somebody must bring about: silence alone does it after 35 s.
const END: Duration = Duration::from_secs(15);
/// What an agent of ours says, but that its header blocks may have any form.
const HELLO: &str = "Spdy-Tunnel: v=1, origin=\"raw\", instance=:AAAAAAAAAAAAAAAAAAAAAA==:, \
                     run=:AAAAAAAAAAA=:, epoch=1, can=(), software=\"raw/1\"\r\n";
/// What a proxy of ours says, but that its header blocks may have any form.
const WELCOME: &str = "Spdy-Tunnel: v=1, id=\"raw\", can=(), streams=128, spread=0\r\n";

#[cfg(test)]
mod tests {
    use std::thread;

    use super::{Name, RawProxy, RawSession};
    use crate::wire::Frame;

    #[test]
    fn both_roles_meet() {
        for name in [Name::Own, Name::None] {
            let proxy = RawProxy::new();
            let address = proxy.address;
            let agent = thread::spawn(move || {
                let mut agent = RawSession::dial(address, name).unwrap();
                assert!(agent.wait_for(|frame| (*frame == Frame::Ping(1)).then_some(())).is_ok());
                agent.writer.write(&Frame::Ping(1)).unwrap();
                agent.writer.write(&Frame::GoAway(0, 0)).unwrap();
                agent.writer.shutdown();
            });
            let mut session = proxy.session(name).unwrap();
            assert!(session.is_alive(1));
            assert_eq!(session.ends(), [Frame::GoAway(0, 0)]);
            agent.join().unwrap();
        }
    }
}
