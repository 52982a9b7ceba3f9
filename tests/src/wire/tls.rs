//! TLS over a blocking socket, in two halves: reading goes on while a write waits.
//!
//! It owns both handshakes as the original does them: no ALPN, nobody is verified.

use std::{
    io::{self, Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    sync::{Arc, Mutex},
    time::Duration,
};

use rustls::{
    ClientConfig, ClientConnection, Connection, DigitallySignedStruct, Error, ServerConfig,
    ServerConnection, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, ring},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime},
};

use crate::{fixture::Identity, wire::lock};

/// The reading half of a TLS connection.
#[derive(Debug)]
pub struct TlsReader {
    shared: Arc<Shared>,
    /// Octets off the socket that TLS has not taken yet.
    raw: Vec<u8>,
}

impl TlsReader {
    pub(crate) fn set_timeout(&self, limit: Option<Duration>) -> io::Result<()> {
        self.shared.socket.set_read_timeout(limit)
    }
}

impl Read for TlsReader {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        loop {
            {
                let mut tls = lock(&self.shared.tls);
                match tls.reader().read(buf) {
                    // Ended without close_notify, as Go's library and ours may: the frames tell
                    // whether anything is missing.
                    Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(0),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    done => return done,
                }
                if !self.raw.is_empty() {
                    let mut rest = self.raw.as_slice();
                    tls.read_tls(&mut rest)?;
                    let taken = self.raw.len() - rest.len();
                    self.raw.drain(..taken);
                    tls.process_new_packets().map_err(invalid)?;
                    continue;
                }
            }
            let mut piece = [0; 32_768];
            let len = (&self.shared.socket).read(&mut piece)?;
            self.raw.extend_from_slice(&piece[..len]);
            if len == 0 {
                lock(&self.shared.tls).read_tls(&mut io::empty())?;
            }
        }
    }
}

/// The writing half of a TLS connection, for any number of threads.
#[derive(Clone, Debug)]
pub struct TlsWriter {
    shared: Arc<Shared>,
}

impl TlsWriter {
    /// Writes all of `octets`, undivided by what other threads write.
    ///
    /// # Errors
    /// Those of the socket.
    pub fn write(&self, octets: &[u8]) -> io::Result<()> {
        // The order of the locks keeps reading possible while a write waits for the socket.
        let _turn = lock(&self.shared.writing);
        let mut records = Vec::with_capacity(octets.len() + 256);
        {
            let mut tls = lock(&self.shared.tls);
            for piece in octets.chunks(16_384) {
                tls.writer().write_all(piece)?;
                while tls.wants_write() {
                    tls.write_tls(&mut records)?;
                }
            }
        }
        (&self.shared.socket).write_all(&records)
    }

    /// Ends the connection in both directions.
    pub fn shutdown(&self) {
        // Fails only when it has ended already.
        let _ = self.shared.socket.shutdown(Shutdown::Both);
    }
}

/// Dials and does the TLS handshake: no ALPN, no verification, as the original's agent.
///
/// # Errors
/// Those of the socket and of TLS.
pub fn dial(to: SocketAddr) -> io::Result<(TlsReader, TlsWriter)> {
    let config = client_config()?;
    let name = ServerName::try_from("localhost").map_err(io::Error::other)?;
    let tls = ClientConnection::new(Arc::new(config), name).map_err(invalid)?;
    split(Connection::Client(tls), TcpStream::connect(to)?)
}

/// TLS of a client that trusts anyone and offers no protocol.
///
/// # Errors
/// None that the `ring` provider has.
pub fn client_config() -> io::Result<ClientConfig> {
    let provider = Arc::new(ring::default_provider());
    let verifier = Arc::new(TrustAnyone(Arc::clone(&provider)));
    Ok(ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(invalid)?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth())
}

/// Does the TLS handshake of an accepted connection.
///
/// # Errors
/// Those of the socket and of TLS.
pub fn accept(socket: TcpStream, identity: &Identity) -> io::Result<(TlsReader, TlsWriter)> {
    let key = PrivateKeyDer::try_from(identity.key.clone()).map_err(io::Error::other)?;
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(invalid)?
        .with_no_client_auth()
        .with_single_cert(vec![CertificateDer::from(identity.certificate.clone())], key)
        .map_err(invalid)?;
    let tls = ServerConnection::new(Arc::new(config)).map_err(invalid)?;
    split(Connection::Server(tls), socket)
}

#[derive(Debug)]
struct Shared {
    tls: Mutex<Connection>,
    writing: Mutex<()>,
    socket: TcpStream,
}

#[derive(Debug)]
struct TrustAnyone(Arc<CryptoProvider>);

impl ServerCertVerifier for TrustAnyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// Longest that a peer may leave a write waiting, as in the original.
const WRITE_LIMIT: Duration = Duration::from_secs(5);

fn split(mut tls: Connection, mut socket: TcpStream) -> io::Result<(TlsReader, TlsWriter)> {
    socket.set_nodelay(true)?;
    socket.set_write_timeout(Some(WRITE_LIMIT))?;
    socket.set_read_timeout(Some(WRITE_LIMIT))?;
    while tls.is_handshaking() {
        tls.complete_io(&mut socket)?;
    }
    while tls.wants_write() {
        tls.write_tls(&mut socket)?;
    }
    let shared = Arc::new(Shared { tls: Mutex::new(tls), writing: Mutex::new(()), socket });
    Ok((TlsReader { shared: Arc::clone(&shared), raw: Vec::new() }, TlsWriter { shared }))
}

fn invalid(error: Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}
