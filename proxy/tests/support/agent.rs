//! An agent: real TLS, the real handshake, and answers that tests ask for by path.

use std::{
    future::poll_fn,
    net::{SocketAddr, TcpStream},
    rc::Rc,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering::Relaxed},
        mpsc,
    },
    thread::JoinHandle,
};

use async_executor::LocalExecutor;
use async_io::{Async, block_on};
use async_rustls::{TlsConnector, client::TlsStream};
use data_encoding::BASE64URL_NOPAD;
use futures_lite::{AsyncReadExt, AsyncWriteExt, future};
use rustls::{
    ClientConfig, DigitallySignedStruct, Error, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{
        CryptoProvider, ring::default_provider, verify_tls12_signature, verify_tls13_signature,
    },
    pki_types::{CertificateDer, ServerName, UnixTime},
};
use spdy_protocol::{
    budget::Budget,
    error::StreamError,
    frame::{Reason, Status},
    handshake::{Answer, Credentials, Features, Hello, Put, agreed},
    head::{RequestHead, ResponseHead},
    limits,
    session::{Config, Side},
    tunnel::{Stream, Tunnel, tunnel},
};
use spdy_proxy::access::Access;

use super::{LIMIT, Proxy, pattern};

pub type Io = TlsStream<Async<TcpStream>>;

/// A connected agent; it ends without a word at the end.
pub struct Agent {
    pub tunnel: Tunnel,
    pub seen: Arc<Seen>,
    stop: async_channel_like::Sender,
    running: Option<JoinHandle<()>>,
}

/// What an agent has seen.
#[derive(Debug, Default)]
pub struct Seen {
    /// Octets that it could send on `/endless` and `/big`.
    pub sent: AtomicU64,
    /// Streams that failed under it.
    pub failed: AtomicU64,
    /// Requests that it began.
    pub requests: AtomicU64,
    /// The last request head.
    pub head: Mutex<Option<RequestHead>>,
}

/// What a test agent says of itself.
#[derive(Clone, Debug)]
pub struct Role {
    pub origin: String,
    pub token: String,
    pub can: Features,
    pub epoch: u64,
    pub run: [u8; 8],
}

impl Role {
    pub fn new(origin: &str) -> Self {
        Self {
            origin: origin.to_owned(),
            token: format!("token-of-{origin}"),
            can: Features::OURS,
            epoch: 1,
            run: [1; 8],
        }
    }

    pub fn put(&self, credentials: Credentials, register: Option<[u8; 32]>) -> Put {
        let hello = Hello {
            origin: self.origin.clone(),
            instance: [7; 16],
            run: self.run,
            epoch: self.epoch,
            can: self.can,
            software: "test-agent/1".to_owned(),
            register,
        };
        Put { host: "proxy".to_owned(), credentials, hello: Some(hello) }
    }
}

/// SHA-256.
pub fn sha256(octets: &[u8]) -> [u8; 32] {
    ring::digest::digest(&ring::digest::SHA256, octets).as_ref().try_into().unwrap()
}

/// Pairs and joins an origin, with the token of its role.
pub fn join(proxy: &Proxy, role: &Role) {
    proxy.state.set_access(&role.origin, Access::Open).unwrap();
    let secret = proxy.state.pair(&role.origin, LIMIT).unwrap();
    let credentials = Credentials::Join(BASE64URL_NOPAD.encode(&secret));
    let put = role.put(credentials, Some(sha256(role.token.as_bytes())));
    assert!(matches!(ask(proxy.tunnel, proxy.pin, &put), Answer::Established(_)));
}

/// One handshake; the connection is closed behind it.
pub fn ask(address: SocketAddr, pin: [u8; 32], put: &Put) -> Answer {
    block_on(async { shake_hands(&mut dial(address, pin).await, put).await.0 })
}

pub async fn dial(address: SocketAddr, pin: [u8; 32]) -> Io {
    let stream = Async::<TcpStream>::connect(address).await.unwrap();
    stream.get_ref().set_nodelay(true).unwrap();
    let provider = Arc::new(default_provider());
    let verifier = Arc::new(Pinned { pin, provider: Arc::clone(&provider) });
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    let name = ServerName::IpAddress(address.ip().into());
    TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap()
}

pub async fn shake_hands(io: &mut Io, put: &Put) -> (Answer, Vec<u8>) {
    io.write_all(&put.encode()).await.unwrap();
    io.flush().await.unwrap();
    let mut octets = Vec::new();
    loop {
        if let Some((answer, used)) = Answer::parse(&octets).unwrap() {
            return (answer, octets.split_off(used));
        }
        let mut chunk = [0; 512];
        let read = io.read(&mut chunk).await.unwrap();
        assert!(read > 0, "closed inside an answer");
        octets.extend_from_slice(&chunk[..read]);
    }
}

impl Agent {
    /// Joins as `origin` and connects.
    pub fn start(proxy: &Proxy, origin: &str) -> Self {
        let role = Role::new(origin);
        join(proxy, &role);
        Self::connect(proxy, &role)
    }

    /// Connects with the token of `role`, which has joined.
    pub fn connect(proxy: &Proxy, role: &Role) -> Self {
        let put = role.put(Credentials::Bearer(role.token.clone()), None);
        Self::with_put(proxy, put)
    }

    /// Connects with any PUT; the answer must be 200.
    pub fn with_put(proxy: &Proxy, put: Put) -> Self {
        let (address, pin) = (proxy.tunnel, proxy.pin);
        let seen = Arc::new(Seen::default());
        let (ready, is_ready) = mpsc::channel();
        let (stop, stopped) = async_channel_like::pair();
        let kept = Arc::clone(&seen);
        let running = std::thread::spawn(move || {
            let executor = Rc::new(LocalExecutor::new());
            block_on(executor.run(async {
                let mut io = dial(address, pin).await;
                let (answer, received) = shake_hands(&mut io, &put).await;
                let Answer::Established(welcome) = answer else { panic!("{answer:?}") };
                let theirs = welcome.map(|welcome| welcome.can);
                let (profile, features) =
                    agreed(put.hello.map(|h| h.can).unwrap_or_default(), theirs);
                let budget = Arc::new(Budget::new(limits::PROCESS_BUDGET));
                let mut config = Config::new(Side::Server, profile, budget);
                config.stored_only = features.stored;
                let (tunnel, mut incoming, driver) = tunnel(io, config, received);
                ready.send(tunnel).unwrap();
                let accepting = async {
                    while let Some((head, stream)) = incoming.accept().await {
                        let seen = Arc::clone(&kept);
                        executor
                            .spawn(async move {
                                if serve(&head, &stream, &seen).await.is_err() {
                                    seen.failed.fetch_add(1, Relaxed);
                                }
                            })
                            .detach();
                    }
                    future::pending::<()>().await;
                };
                let driving = async {
                    let _ = driver.await;
                };
                future::or(future::or(driving, accepting), stopped.wait()).await;
            }));
        });
        let tunnel = is_ready.recv_timeout(LIMIT).unwrap();
        let agent = Self { tunnel, seen, stop, running: Some(running) };
        if !proxy.is_tls {
            super::wait_until("the tunnel is in use", || proxy.get("/ping").status() == 200);
        }
        agent
    }

    /// Waits until the tunnel has ended by itself.
    pub fn ended(&mut self) {
        self.running.take().unwrap().join().unwrap();
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.stop.send();
        if let Some(running) = self.running.take() {
            let ended = running.join();
            if !std::thread::panicking() {
                ended.unwrap();
            }
        }
    }
}

async fn write(
    stream: &Stream,
    mut octets: &[u8],
    end: bool,
    seen: &Seen,
) -> Result<(), StreamError> {
    if octets.is_empty() && end {
        return poll_fn(|cx| stream.poll_finish(cx)).await;
    }
    while !octets.is_empty() {
        let written = poll_fn(|cx| stream.poll_write(cx, octets, end)).await;
        let written = written.map_err(|_| StreamError::SessionEnded)?;
        seen.sent.fetch_add(written as u64, Relaxed);
        octets = &octets[written..];
    }
    Ok(())
}

async fn read_all(stream: &Stream) -> Result<Vec<u8>, StreamError> {
    let mut body = Vec::new();
    while let Some(chunk) = poll_fn(|cx| stream.poll_read_chunk(cx)).await? {
        body.extend(chunk);
    }
    Ok(body)
}

fn head(status: u16, headers: &[(&str, &str)]) -> ResponseHead {
    let mut head = ResponseHead::new(status);
    for (name, value) in headers {
        head.headers.push(name, value.as_bytes()).unwrap();
    }
    head
}

/// Answers by path: `/NAME` or `/NAME/NUMBER`.
async fn serve(request: &RequestHead, stream: &Stream, seen: &Seen) -> Result<(), StreamError> {
    let before = seen.requests.fetch_add(1, Relaxed);
    *seen.head.lock().unwrap() = Some(request.clone());
    let path = String::from_utf8(request.path.clone()).unwrap();
    let mut parts = path.trim_start_matches('/').split('/');
    let name = parts.next().unwrap();
    let number: usize = parts.next().and_then(|text| text.parse().ok()).unwrap_or(0);
    let length = number.to_string();
    let finish = async || poll_fn(|cx| stream.poll_finish(cx)).await;
    match name {
        "ping" => {
            stream.reply(&head(200, &[("content-length", "2")]), false).await?;
            write(stream, b"ok", true, seen).await
        }
        // What the agent was asked, as text.
        "head" => {
            let mut text = format!("{} {} {}\n", request.method, request.scheme, request.host);
            for (name, value) in request.headers.iter() {
                text += &format!("{name}: {}\n", String::from_utf8_lossy(value));
            }
            let length = text.len().to_string();
            stream.reply(&head(200, &[("content-length", &length)]), false).await?;
            write(stream, text.as_bytes(), true, seen).await
        }
        "big" => {
            stream.reply(&head(200, &[("content-length", &length)]), false).await?;
            write(stream, &pattern(number), true, seen).await
        }
        // FIN in a frame of its own, as foreign agents send it.
        "late-fin" => {
            stream.reply(&head(200, &[("content-length", &length)]), false).await?;
            write(stream, &pattern(number), false, seen).await?;
            finish().await
        }
        "chunked" => {
            stream.reply(&head(200, &[]), false).await?;
            write(stream, &pattern(number), true, seen).await
        }
        "endless" => {
            stream.reply(&head(200, &[]), false).await?;
            loop {
                write(stream, &[7; 16_384], false, seen).await?;
            }
        }
        "echo" => {
            let body = read_all(stream).await?;
            let length = body.len().to_string();
            stream.reply(&head(200, &[("content-length", &length)]), body.is_empty()).await?;
            write(stream, &body, true, seen).await
        }
        // Answers while it still reads.
        "stream-echo" => {
            stream.reply(&head(200, &[]), false).await?;
            while let Some(chunk) = poll_fn(|cx| stream.poll_read_chunk(cx)).await? {
                write(stream, &chunk, false, seen).await?;
            }
            finish().await
        }
        "status" => {
            let status = u16::try_from(number).unwrap();
            let mut head = head(status, &[("etag", "\"x\""), ("connection", "x-private")]);
            head.headers.push("set-cookie", b"a=1").unwrap();
            head.headers.push("set-cookie", b"b=2").unwrap();
            head.headers.push("x-private", b"hop").unwrap();
            stream.reply(&head, true).await
        }
        "only-head" => stream.reply(&head(200, &[("content-length", "1234")]), true).await,
        // A final answer without reading the body.
        "early" => {
            stream.reply(&head(413, &[("content-length", "3")]), false).await?;
            write(stream, b"no\n", true, seen).await?;
            // Holds the stream until the other side gives it up.
            Err(poll_fn(|cx| stream.poll_failed(cx)).await)
        }
        "short" => {
            stream.reply(&head(200, &[("content-length", "100000")]), false).await?;
            write(stream, &pattern(number), true, seen).await
        }
        "long" => {
            stream.reply(&head(200, &[("content-length", "10")]), false).await?;
            write(stream, &pattern(number), true, seen).await
        }
        // Sends a part, then breaks off.
        "cut" => {
            stream.reply(&head(200, &[]), false).await?;
            write(stream, &pattern(number), false, seen).await?;
            // What was written must be on its way before the reset drops it.
            async_io::Timer::after(std::time::Duration::from_millis(100)).await;
            stream.reset(Status::InternalError);
            Ok(())
        }
        "reset" => {
            stream.reset(Status::InternalError);
            Ok(())
        }
        "refuse-first" => {
            if before.is_multiple_of(2) {
                stream.reset(Status::RefusedStream);
                return Ok(());
            }
            stream.reply(&head(204, &[]), true).await
        }
        // Refuses every other time, once it has so much of the body; echoes it otherwise.
        "refuse-late" | "lose-late" => {
            if before.is_multiple_of(2) {
                let mut len = 0;
                while len < number {
                    let chunk = poll_fn(|cx| stream.poll_read_chunk(cx)).await?;
                    len += chunk.map_or(number, |chunk| chunk.len());
                }
                stream.reset(if name == "lose-late" {
                    Status::InternalError
                } else {
                    Status::RefusedStream
                });
                return Ok(());
            }
            let body = read_all(stream).await?;
            let length = body.len().to_string();
            stream.reply(&head(200, &[("content-length", &length)]), body.is_empty()).await?;
            write(stream, &body, true, seen).await
        }
        "silent" => Err(poll_fn(|cx| stream.poll_failed(cx)).await),
        "upgrade" => {
            if request.upgrade.as_deref() != Some("echo") {
                return stream.reply(&head(426, &[]), true).await;
            }
            stream.reply(&head(101, &[("x-service", "echo")]), false).await?;
            while let Some(chunk) = poll_fn(|cx| stream.poll_read_chunk(cx)).await? {
                write(stream, &chunk, false, seen).await?;
            }
            write(stream, b"bye", true, seen).await
        }
        _ => stream.reply(&head(404, &[]), true).await,
    }
}

/// Ends a session at once, as a process that is killed does not; see [`Agent`] for that.
pub fn close(agent: &Agent) {
    agent.tunnel.close(Reason::Ok);
}

/// Takes the certificate whose key is pinned, whatever else it says.
#[derive(Debug)]
struct Pinned {
    pin: [u8; 32],
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let entity = webpki::EndEntityCert::try_from(end_entity).unwrap();
        if sha256(&entity.subject_public_key_info()) == self.pin {
            return Ok(ServerCertVerified::assertion());
        }
        Err(Error::General("wrong pin".to_owned()))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// A signal from a test to the agent's thread.
mod async_channel_like {
    use spdy_proxy::gate::{Gate, Pass};
    use std::sync::Mutex;

    pub struct Sender(Mutex<Option<Pass>>);
    pub struct Receiver(Gate);

    pub fn pair() -> (Sender, Receiver) {
        let gate = Gate::new(1);
        (Sender(Mutex::new(gate.try_enter())), Receiver(gate))
    }

    impl Sender {
        pub fn send(&self) {
            self.0.lock().unwrap().take();
        }
    }

    impl Receiver {
        pub async fn wait(&self) {
            self.0.emptied().await;
        }
    }
}
