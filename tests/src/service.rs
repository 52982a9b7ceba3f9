//! An agent made of the protocol crate's own driver, for what no folder answers: services, headers
//! of any kind, upgrades.
//!
//! It owns the way to a running session: join, TLS, PUT. What is answered is a test's business. It
//! says hello as our agent does; agents of other kinds are [`crate::amahi`] and [`crate::peers`].

use std::{
    fmt,
    future::Future,
    io,
    net::{SocketAddr, TcpStream},
    rc::Rc,
    sync::{Arc, mpsc},
    thread::{self, JoinHandle},
};

use async_rustls::{TlsConnector, client::TlsStream};
use data_encoding::BASE64URL_NOPAD;
use ring::digest::{SHA256, digest};
use rustls::pki_types::ServerName;
use smol::{
    Async, LocalExecutor,
    io::{AsyncReadExt, AsyncWriteExt},
};
use spdy_protocol::{
    budget::Budget,
    frame::Reason,
    handshake::{Answer, Credentials, Features, Hello, Put, agreed},
    head::RequestHead,
    join::JoinCode,
    limits,
    session::{Config, Side},
    tunnel::{Driver, Incoming, Stream, Tunnel, tunnel},
};

use crate::{fixture::Proxy, wire::tls};

/// A running agent; its tunnel ends when it is dropped.
pub struct Service {
    tunnel: Tunnel,
    thread: Option<JoinHandle<()>>,
}

impl fmt::Debug for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Service").finish_non_exhaustive()
    }
}

impl Service {
    /// Pairs and joins `origin`, connects with `can` and has each request answered by `serve`.
    /// Returns when the tunnel is in use.
    ///
    /// # Panics
    /// When the proxy does not take it.
    #[must_use]
    pub fn start<F, W>(proxy: &Proxy, origin: &str, can: Features, serve: F) -> Self
    where
        F: Fn(RequestHead, Stream) -> W + Send + 'static,
        W: Future<Output = ()> + 'static,
    {
        let code = JoinCode::parse(&proxy.pair(origin));
        let code = code.unwrap_or_else(|error| panic!("{error}"));
        let (ready, is_ready) = mpsc::channel();
        let (address, origin_name) = (proxy.tunnel, origin.to_owned());
        let thread = thread::spawn(move || {
            let executor = Rc::new(LocalExecutor::new());
            smol::block_on(executor.run(async {
                let connected = connect(address, &origin_name, &code, can).await;
                let (tunnel, mut incoming, driver) =
                    connected.unwrap_or_else(|error| panic!("{error}"));
                // Whoever started this has gone if nobody takes it.
                let _ = ready.send(tunnel);
                let accepting = async {
                    while let Some((head, stream)) = incoming.accept().await {
                        executor.spawn(serve(head, stream)).detach();
                    }
                };
                // The streams that run are dropped with the executor.
                let driving = async {
                    let _ = driver.await;
                };
                smol::future::zip(accepting, driving).await;
            }));
        });
        let tunnel = is_ready.recv().unwrap_or_else(|_| panic!("the service has no tunnel"));
        proxy.wait_for_tunnel(origin);
        Self { tunnel, thread: Some(thread) }
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.tunnel.close(Reason::Ok);
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            assert!(ended.is_ok() || thread::panicking(), "a service panicked");
        }
    }
}

type Io = TlsStream<Async<TcpStream>>;

async fn connect(
    address: SocketAddr,
    origin: &str,
    code: &JoinCode,
    can: Features,
) -> io::Result<(Tunnel, Incoming, Driver)> {
    let token = "token of a test";
    let hello = Hello {
        origin: origin.to_owned(),
        instance: [7; 16],
        run: [1; 8],
        epoch: 1,
        can,
        software: "test-service/1".to_owned(),
        register: None,
    };
    let mut hash = [0; 32];
    hash.copy_from_slice(digest(&SHA256, token.as_bytes()).as_ref());
    let join = Put {
        host: address.to_string(),
        credentials: Credentials::Join(BASE64URL_NOPAD.encode(&code.secret)),
        hello: Some(Hello { register: Some(hash), ..hello.clone() }),
    };
    shake_hands(&mut dial(address).await?, &join).await?;
    let put = Put {
        host: address.to_string(),
        credentials: Credentials::Bearer(token.to_owned()),
        hello: Some(hello),
    };
    let mut io = dial(address).await?;
    let (theirs, received) = shake_hands(&mut io, &put).await?;
    let (profile, features) = agreed(can, theirs);
    let budget = Arc::new(Budget::new(limits::PROCESS_BUDGET));
    let mut config = Config::new(Side::Server, profile, budget);
    config.stored_only = features.stored;
    Ok(tunnel(io, config, received))
}

async fn dial(address: SocketAddr) -> io::Result<Io> {
    let socket = Async::<TcpStream>::connect(address).await?;
    socket.get_ref().set_nodelay(true)?;
    let mut config = tls::client_config()?;
    config.alpn_protocols = vec![b"spdy-tunnel/1".to_vec()];
    let name = ServerName::IpAddress(address.ip().into());
    TlsConnector::from(Arc::new(config)).connect(name, socket).await
}

/// Sends PUT and returns what the proxy can do and the octets behind its answer.
async fn shake_hands(io: &mut Io, put: &Put) -> io::Result<(Option<Features>, Vec<u8>)> {
    io.write_all(&put.encode()).await?;
    io.flush().await?;
    let mut octets = Vec::new();
    loop {
        match Answer::parse(&octets).map_err(io::Error::other)? {
            Some((Answer::Established(welcome), used)) => {
                return Ok((welcome.map(|welcome| welcome.can), octets.split_off(used)));
            }
            Some((refused, _)) => return Err(io::Error::other(format!("{refused:?}"))),
            None => {}
        }
        let mut chunk = [0; 512];
        let read = io.read(&mut chunk).await?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        octets.extend_from_slice(&chunk[..read]);
    }
}
