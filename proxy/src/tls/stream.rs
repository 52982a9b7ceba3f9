//! TLS over a stream, as the tunnel port uses it.
//!
//! It does over rustls' unbuffered API what futures-rustls does over the buffered one, with one
//! read of the kernel per batch instead of one per record, no buffer while nothing is under way,
//! and each batch of records out by one write. It keeps an incomplete record, plaintext that its
//! reader had no room for, and ciphertext that the stream below did not take. It does not own keys
//! or configurations ([`super`]).

use std::{
    cell::{Cell, RefCell},
    fmt,
    future::poll_fn,
    io::{self, IoSlice},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use futures_lite::{AsyncRead, AsyncWrite};
use rustls::{
    ServerConfig,
    pki_types::CertificateDer,
    server::{ServerConnectionData, UnbufferedServerConnection},
    unbuffered::{
        ConnectionState, EncodeError, EncodeTlsData, EncryptError, UnbufferedStatus, WriteTraffic,
    },
};

/// A TLS connection, server side, over `S`.
pub(crate) struct TlsStream<S> {
    io: S,
    tls: Box<UnbufferedServerConnection>,
    /// Ciphertext that rustls has not taken: less than a record and a read.
    incoming: Vec<u8>,
    /// Plaintext that is still to be read, from `taken`.
    plain: Vec<u8>,
    taken: usize,
    outgoing: Outgoing,
    input: Input,
}

/// Ciphertext that is still to be written: `octets[start..end]`. What lies behind is room that was
/// cleared once and is not cleared again.
#[derive(Default)]
struct Outgoing {
    octets: Vec<u8>,
    start: usize,
    end: usize,
}

/// How far the peer's octets have come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Input {
    Open,
    /// The stream below ended without close_notify.
    Broken,
    /// close_notify came.
    Closed,
}

impl<S> fmt::Debug for TlsStream<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsStream").field("input", &self.input).finish_non_exhaustive()
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> TlsStream<S> {
    /// Shakes hands with a client over `io`. Dropping the future drops the connection.
    ///
    /// # Errors
    /// Those of `io`; `InvalidData` with rustls' error, after the alert was sent as far as `io`
    /// took it.
    pub(crate) async fn accept(config: Arc<ServerConfig>, io: S) -> io::Result<Self> {
        let tls = Box::new(UnbufferedServerConnection::new(config).map_err(io::Error::other)?);
        let mut stream = Self {
            io,
            tls,
            incoming: Vec::new(),
            plain: Vec::new(),
            taken: 0,
            outgoing: Outgoing::default(),
            input: Input::Open,
        };
        poll_fn(|cx| stream.poll_handshake(cx)).await?;
        Ok(stream)
    }

    /// The peer's certificate chain, its own first; verified, if the configuration asks for one.
    pub(crate) fn peer_chain(&self) -> Option<&[CertificateDer<'static>]> {
        self.tls.peer_certificates()
    }

    fn poll_handshake(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            let processed = self.process_kept();
            // An alert goes out with an error, if it can; the error matters more.
            let written = self.poll_outgoing(cx);
            processed?;
            ready!(written)?;
            if !self.tls.is_handshaking() {
                return Poll::Ready(Ok(()));
            }
            if ready!(self.poll_fill(cx))? == 0 {
                return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
            }
        }
    }

    /// Lets rustls see `incoming`.
    fn process_kept(&mut self) -> io::Result<()> {
        self.process_incoming(&mut []).map(|_| ())
    }

    /// Takes records out of `incoming`; returns the octets in `buf`.
    fn process_incoming(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let (mut incoming, mut filled) = (std::mem::take(&mut self.incoming), 0);
        let used = self.process(&mut incoming, buf, &mut filled)?;
        if used < incoming.len() {
            incoming.drain(..used);
            self.incoming = incoming;
        }
        Ok(filled)
    }

    /// Appends what one read brings to `incoming`.
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let mut chunk = [0; HANDSHAKE_READ];
        let read = ready!(Pin::new(&mut self.io).poll_read(cx, &mut chunk))?;
        self.incoming.extend_from_slice(&chunk[..read]);
        Poll::Ready(Ok(read))
    }

    /// Lets rustls take records until it wants more, or until `buf` has no room for another;
    /// `filled` counts what is in `buf`. Returns the octets of `records` that are done with.
    fn process(
        &mut self,
        records: &mut [u8],
        buf: &mut [u8],
        filled: &mut usize,
    ) -> io::Result<usize> {
        let mut used = 0;
        loop {
            let UnbufferedStatus { discard, state } =
                self.tls.process_tls_records(&mut records[used..]);
            used += discard;
            match state {
                Ok(ConnectionState::ReadTraffic(mut traffic)) => {
                    while let Some(record) = traffic.next_record() {
                        let record = record.map_err(invalid)?;
                        used += record.discard;
                        let fits = record.payload.len().min(buf.len() - *filled);
                        let (now, later) = record.payload.split_at(fits);
                        buf[*filled..*filled + fits].copy_from_slice(now);
                        *filled += fits;
                        self.plain.extend_from_slice(later);
                    }
                    if buf.len() - *filled < RECORD && !buf.is_empty() {
                        return Ok(used);
                    }
                }
                Ok(ConnectionState::EncodeTlsData(mut data)) => {
                    self.outgoing.encode(&mut data)?;
                }
                // It is in `outgoing`, which goes out before anything else.
                Ok(ConnectionState::TransmitTlsData(data)) => data.done(),
                Ok(ConnectionState::PeerClosed) => self.input = Input::Closed,
                Ok(ConnectionState::Closed) => {
                    self.input = Input::Closed;
                    return Ok(used);
                }
                Ok(ConnectionState::WriteTraffic(_) | ConnectionState::BlockedHandshake) => {
                    return Ok(used);
                }
                // Early data is never offered.
                Ok(_) => return Err(io::ErrorKind::InvalidData.into()),
                Err(error) => {
                    self.queue_alert();
                    return Err(invalid(error));
                }
            }
        }
    }

    /// After an error: the alert that tells the peer.
    fn queue_alert(&mut self) {
        while self.tls.wants_write() {
            match self.tls.process_tls_records(&mut []).state {
                Ok(ConnectionState::EncodeTlsData(mut data)) => {
                    if self.outgoing.encode(&mut data).is_err() {
                        return;
                    }
                }
                // What arrived before the fault is not read any more.
                Ok(ConnectionState::ReadTraffic(mut traffic)) => {
                    while traffic.next_record().is_some() {}
                }
                _ => return,
            }
        }
    }

    /// Runs `write` in the state in which rustls encrypts.
    fn encrypt(
        &mut self,
        room: usize,
        write: impl FnMut(
            &mut WriteTraffic<'_, ServerConnectionData>,
            &mut [u8],
        ) -> Result<usize, EncryptError>,
    ) -> io::Result<()> {
        self.process_kept()?;
        let state = self.tls.process_tls_records(&mut self.incoming).state;
        // process_kept() has just left it in this state, unless the session is over.
        let Ok(ConnectionState::WriteTraffic(mut traffic)) = state else {
            return Err(io::ErrorKind::BrokenPipe.into());
        };
        self.outgoing.encrypt(&mut traffic, room, write)
    }

    /// Writes what is in `outgoing`.
    fn poll_outgoing(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.outgoing.is_empty() {
            match ready!(Pin::new(&mut self.io).poll_write(cx, self.outgoing.octets()))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                written => self.outgoing.advance(written),
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Reads a batch from the stream below and takes its records; returns the octets in `buf`.
    fn poll_batch(&mut self, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        BATCH.with_borrow_mut(|batch| {
            let kept = self.incoming.len();
            if batch.len() < kept + BATCH_READ {
                batch.resize(kept + BATCH_READ, 0);
            }
            batch[..kept].copy_from_slice(&self.incoming);
            let most = kept + BATCH_READ;
            let read = ready!(Pin::new(&mut self.io).poll_read(cx, &mut batch[kept..most]))?;
            if read == 0 {
                self.input = Input::Broken;
                return Poll::Ready(Ok(0));
            }
            let mut filled = 0;
            let used = self.process(&mut batch[..kept + read], buf, &mut filled)?;
            self.incoming.clear();
            self.incoming.extend_from_slice(&batch[used..kept + read]);
            if self.incoming.is_empty() {
                self.incoming = Vec::new();
            }
            Poll::Ready(Ok(filled))
        })
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for TlsStream<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        loop {
            if this.taken < this.plain.len() {
                let fits = buf.len().min(this.plain.len() - this.taken);
                buf[..fits].copy_from_slice(&this.plain[this.taken..this.taken + fits]);
                this.taken += fits;
                if this.taken == this.plain.len() {
                    this.plain = Vec::new();
                    this.taken = 0;
                }
                return Poll::Ready(Ok(fits));
            }
            if !this.incoming.is_empty() {
                // Whole records may wait there for a reader with room.
                let filled = this.process_incoming(buf)?;
                if filled > 0 {
                    return Poll::Ready(Ok(filled));
                }
            }
            match this.input {
                Input::Open => {}
                Input::Closed => return Poll::Ready(Ok(0)),
                // Without close_notify it may have been cut by anybody.
                Input::Broken => return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into())),
            }
            let was_idle = this.outgoing.is_empty();
            let filled = ready!(this.poll_batch(cx, buf))?;
            if was_idle && !this.outgoing.is_empty() {
                // rustls has something to say; if it cannot go now it goes with the next write.
                // What a writer waits for is left to it: only its waker is waited with.
                let _ = this.poll_outgoing(cx)?;
            }
            if filled > 0 {
                return Poll::Ready(Ok(filled));
            }
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for TlsStream<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        ready!(this.poll_outgoing(cx))?;
        let mut taken = 0;
        for buf in bufs {
            let some = &buf[..buf.len().min(WRITE - taken)];
            if !some.is_empty() {
                let room = some.len() + (some.len() / RECORD + 1) * RECORD_OVERHEAD;
                this.encrypt(room, |traffic, room| traffic.encrypt(some, room))?;
                taken += some.len();
            }
        }
        // What was encrypted is taken, whether it goes out now or later.
        let _ = this.poll_outgoing(cx)?;
        Poll::Ready(Ok(taken))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_outgoing(cx))?;
        Pin::new(&mut this.io).poll_flush(cx)
    }

    fn poll_close(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        // rustls queues it once; where the session is over there is nobody to tell.
        let _ = this.encrypt(ROOM, |traffic, room| traffic.queue_close_notify(room));
        ready!(this.poll_outgoing(cx))?;
        Pin::new(&mut this.io).poll_close(cx)
    }
}

impl Outgoing {
    const fn is_empty(&self) -> bool {
        self.start == self.end
    }

    fn octets(&self) -> &[u8] {
        &self.octets[self.start..self.end]
    }

    /// So many octets were written. An idle stream keeps no buffer: the next write of this thread
    /// takes it.
    fn advance(&mut self, written: usize) {
        self.start += written;
        if self.is_empty() {
            OUTGOING.set(std::mem::take(&mut self.octets));
            (self.start, self.end) = (0, 0);
        }
    }

    fn encode<Data>(&mut self, data: &mut EncodeTlsData<'_, Data>) -> io::Result<()> {
        self.append(ROOM, |room| match data.encode(room) {
            Ok(written) => Ok(Ok(written)),
            Err(EncodeError::InsufficientSize(size)) => Ok(Err(size.required_size)),
            Err(error) => Err(io::Error::other(error)),
        })
    }

    fn encrypt<Data>(
        &mut self,
        traffic: &mut WriteTraffic<'_, Data>,
        room: usize,
        mut write: impl FnMut(&mut WriteTraffic<'_, Data>, &mut [u8]) -> Result<usize, EncryptError>,
    ) -> io::Result<()> {
        self.append(room, |room| match write(traffic, room) {
            Ok(written) => Ok(Ok(written)),
            Err(EncryptError::InsufficientSize(size)) => Ok(Err(size.required_size)),
            Err(error) => Err(io::Error::other(error)),
        })
    }

    /// Lets `write` append; it says what it wrote, or how much room it needs.
    fn append(
        &mut self,
        mut room: usize,
        mut write: impl FnMut(&mut [u8]) -> io::Result<Result<usize, usize>>,
    ) -> io::Result<()> {
        if self.octets.is_empty() {
            self.octets = OUTGOING.take();
        }
        loop {
            if self.octets.len() < self.end + room {
                self.octets.resize(self.end + room, 0);
            }
            match write(&mut self.octets[self.end..])? {
                Ok(written) => {
                    self.end += written;
                    return Ok(());
                }
                Err(required) if required > room => room = required,
                Err(_) => return Err(io::ErrorKind::InvalidData.into()),
            }
        }
    }
}

fn invalid(error: rustls::Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

/// Octets of the largest plaintext of a record.
const RECORD: usize = 16_384;
/// Octets of one read while a session runs.
const BATCH_READ: usize = 64 << 10;
/// Octets of one read while hands are shaken.
const HANDSHAKE_READ: usize = 4_096;
/// Octets that are encrypted for one write.
const WRITE: usize = 64 << 10;
/// Octets that are made room for at first for what has no known length: alerts, tickets.
const ROOM: usize = 1_024;
/// Octets that a record adds to its plaintext, at most (TLS 1.2 with an explicit nonce: 29).
const RECORD_OVERHEAD: usize = 32;

thread_local! {
    /// Ciphertext of the tunnel that is being read: an idle one holds none.
    static BATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
    /// Ciphertext of the tunnel that is being written.
    static OUTGOING: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use async_io::{Async, block_on};
    use async_rustls::{TlsConnector, client};
    use futures_lite::{AsyncReadExt, AsyncWriteExt, future};
    use rustls::{
        ClientConfig, RootCertStore, SupportedProtocolVersion,
        crypto::ring::default_provider,
        pki_types::{CertificateDer, ServerName, pem::PemObject},
        version::{TLS12, TLS13},
    };

    use super::*;
    use crate::tls::{Identity, Made};

    type Client = client::TlsStream<Async<TcpStream>>;
    type Server = TlsStream<Async<TcpStream>>;

    struct Ends {
        server: Arc<ServerConfig>,
        client: Arc<ClientConfig>,
    }

    impl Ends {
        fn new(version: &'static SupportedProtocolVersion) -> Self {
            let made = Made::new(&["localhost"]).unwrap();
            let identity =
                Identity::parse(made.key.as_bytes(), made.certificate.as_bytes()).unwrap();
            let mut roots = RootCertStore::empty();
            let der = CertificateDer::from_pem_slice(made.certificate.as_bytes()).unwrap();
            roots.add(der).unwrap();
            let client = ClientConfig::builder_with_provider(Arc::new(default_provider()))
                .with_protocol_versions(&[version])
                .unwrap()
                .with_root_certificates(roots)
                .with_no_client_auth();
            Self { server: identity.server_config(&[], None).unwrap(), client: Arc::new(client) }
        }

        async fn sockets() -> (Async<TcpStream>, Async<TcpStream>) {
            let listener = Async::<TcpListener>::bind(([127, 0, 0, 1], 0)).unwrap();
            let address = listener.get_ref().local_addr().unwrap();
            let client = Async::<TcpStream>::connect(address).await.unwrap();
            (client, listener.accept().await.unwrap().0)
        }

        async fn shake_hands(&self) -> (Client, Server) {
            let (client, server) = Self::sockets().await;
            let connector = TlsConnector::from(Arc::clone(&self.client));
            let name = ServerName::try_from("localhost").unwrap();
            let accepted = TlsStream::accept(Arc::clone(&self.server), server);
            future::try_zip(connector.connect(name, client), accepted).await.unwrap()
        }
    }

    fn pattern(len: usize) -> Vec<u8> {
        (0..len).map(|at| u8::try_from(at.wrapping_mul(31) >> 3 & 0xff).unwrap()).collect()
    }

    #[test]
    fn both_directions_carry_everything_in_both_versions_at_every_size_of_read() {
        for version in [&TLS12, &TLS13] {
            for size in [1, 100, 5_000, 16_384, 20_000, 65_536, 300_000] {
                block_on(async {
                    let (mut client, mut server) = Ends::new(version).shake_hands().await;
                    let octets = pattern(500_000);
                    let sent = octets.clone();
                    let speaking = async {
                        client.write_all(&sent).await?;
                        client.close().await?;
                        let mut received = Vec::new();
                        client.read_to_end(&mut received).await?;
                        Ok::<_, io::Error>(received)
                    };
                    let answering = async {
                        let (mut received, mut chunk) = (Vec::new(), vec![0; size]);
                        loop {
                            let read = server.read(&mut chunk).await?;
                            if read == 0 {
                                break;
                            }
                            received.extend_from_slice(&chunk[..read]);
                        }
                        server.write_all(&received).await?;
                        server.close().await?;
                        Ok(received)
                    };
                    let (back, forth) = future::try_zip(speaking, answering).await.unwrap();
                    assert!(forth == octets, "{size}");
                    assert!(back == octets, "{size}");
                });
            }
        }
    }

    #[test]
    fn an_idle_stream_holds_no_buffer() {
        block_on(async {
            let (mut client, mut server) = Ends::new(&TLS13).shake_hands().await;
            let mut chunk = [0; 65_536];
            for _ in 0..3 {
                client.write_all(&pattern(40_000)).await.unwrap();
                server.read_exact(&mut chunk[..40_000]).await.unwrap();
                server.write_all(&pattern(40_000)).await.unwrap();
                server.flush().await.unwrap();
                client.read_exact(&mut chunk[..40_000]).await.unwrap();
            }
            let kept = [&server.incoming, &server.plain, &server.outgoing.octets];
            assert_eq!(kept.map(Vec::capacity), [0; 3]);
        });
    }

    #[test]
    fn octets_that_come_with_the_end_of_the_handshake_are_kept() {
        block_on(async {
            let ends = Ends::new(&TLS13);
            let (client, server) = Ends::sockets().await;
            let connector = TlsConnector::from(Arc::clone(&ends.client));
            let name = ServerName::try_from("localhost").unwrap();
            let speaking = async {
                // The connector is done as soon as Finished is queued: both go in one flight.
                let mut client = connector.connect(name, client).await?;
                client.write_all(b"at once").await?;
                Ok(client)
            };
            let accepted = TlsStream::accept(Arc::clone(&ends.server), server);
            let (_client, mut server) = future::try_zip(speaking, accepted).await.unwrap();
            let mut octets = [0; 7];
            server.read_exact(&mut octets).await.unwrap();
            assert_eq!(&octets, b"at once");
        });
    }

    #[test]
    fn new_keys_of_the_client_are_followed() {
        block_on(async {
            let (mut client, mut server) = Ends::new(&TLS13).shake_hands().await;
            for _ in 0..3 {
                client.get_mut().1.refresh_traffic_keys().unwrap();
                client.write_all(b"new keys").await.unwrap();
                client.flush().await.unwrap();
                let mut octets = [0; 8];
                server.read_exact(&mut octets).await.unwrap();
                server.write_all(&octets).await.unwrap();
                client.read_exact(&mut octets).await.unwrap();
                assert_eq!(&octets, b"new keys");
            }
        });
    }

    #[test]
    fn a_stream_that_is_cut_or_forged_is_an_error() {
        block_on(async {
            let (mut client, mut server) = Ends::new(&TLS13).shake_hands().await;
            client.get_mut().0.get_ref().shutdown(std::net::Shutdown::Write).unwrap();
            let cut = server.read(&mut [0; 10]).await.unwrap_err();
            assert_eq!(cut.kind(), io::ErrorKind::UnexpectedEof);
            let (mut client, mut server) = Ends::new(&TLS13).shake_hands().await;
            let forged =
                [23, 3, 3, 0, 20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
            client.get_mut().0.write_all(&forged).await.unwrap();
            let forged = server.read(&mut [0; 10]).await.unwrap_err();
            assert_eq!(forged.kind(), io::ErrorKind::InvalidData);
            server.close().await.unwrap();
            // The client is told by an alert.
            let told = client.read(&mut [0; 10]).await.unwrap_err();
            assert!(told.to_string().contains("BadRecordMac"), "{told}");
        });
    }

    #[test]
    fn a_client_that_speaks_no_tls_is_an_error_and_is_told() {
        block_on(async {
            let ends = Ends::new(&TLS13);
            let (mut client, server) = Ends::sockets().await;
            client.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
            let refused = TlsStream::accept(ends.server, server).await.unwrap_err();
            assert_eq!(refused.kind(), io::ErrorKind::InvalidData);
            let mut alert = Vec::new();
            let _ = client.read_to_end(&mut alert).await;
            assert_eq!(alert.first(), Some(&21));
        });
    }

    #[test]
    fn a_fragmented_message_between_writes_does_no_harm() {
        // The first half of a record waits while we write, then its second half comes.
        block_on(async {
            let (mut client, mut server) = Ends::new(&TLS13).shake_hands().await;
            let mut record = Vec::new();
            std::io::Write::write_all(&mut client.get_mut().1.writer(), b"split").unwrap();
            client.get_mut().1.write_tls(&mut record).unwrap();
            let (one, two) = record.split_at(7);
            client.get_mut().0.write_all(one).await.unwrap();
            let mut octets = [0; 5];
            assert!(future::poll_once(server.read(&mut octets)).await.is_none());
            server.write_all(b"meanwhile").await.unwrap();
            let mut meanwhile = [0; 9];
            client.read_exact(&mut meanwhile).await.unwrap();
            client.get_mut().0.write_all(two).await.unwrap();
            server.read_exact(&mut octets).await.unwrap();
            assert_eq!(&octets, b"split");
        });
    }

    /// A transport that moves at most so many octets at a time.
    struct Crumbs(Async<TcpStream>, usize);

    impl AsyncRead for Crumbs {
        fn poll_read(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            buf: &mut [u8],
        ) -> Poll<io::Result<usize>> {
            let most = self.1.min(buf.len());
            Pin::new(&mut self.0).poll_read(cx, &mut buf[..most])
        }
    }

    impl AsyncWrite for Crumbs {
        fn poll_write(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            buf: &[u8],
        ) -> Poll<io::Result<usize>> {
            let most = self.1.min(buf.len());
            Pin::new(&mut self.0).poll_write(cx, &buf[..most])
        }

        fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_flush(cx)
        }

        fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_close(cx)
        }
    }

    #[test]
    fn records_in_crumbs_are_put_together() {
        for (version, crumb) in [(&TLS12, 1), (&TLS13, 1), (&TLS13, 7), (&TLS13, 16_389)] {
            block_on(async {
                let ends = Ends::new(version);
                let (client, server) = Ends::sockets().await;
                let connector = TlsConnector::from(Arc::clone(&ends.client));
                let name = ServerName::try_from("localhost").unwrap();
                let octets = pattern(40_000);
                let speaking = async {
                    let mut client = connector.connect(name, client).await?;
                    client.write_all(&octets).await?;
                    client.flush().await?;
                    let mut back = vec![0; octets.len()];
                    client.read_exact(&mut back).await?;
                    Ok::<_, io::Error>(back)
                };
                let answering = async {
                    let io = Crumbs(server, crumb);
                    let mut server = TlsStream::accept(Arc::clone(&ends.server), io).await?;
                    let mut received = vec![0; octets.len()];
                    server.read_exact(&mut received).await?;
                    server.write_all(&received).await?;
                    server.flush().await?;
                    Ok(received)
                };
                let (back, received) = future::try_zip(speaking, answering).await.unwrap();
                assert!(received == octets && back == octets, "{crumb}");
            });
        }
    }
}
