//! An agent's handshake by hand: any credentials, any box, any run, over TLS of any client.

use std::{
    io::{self, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    sync::Arc,
};

use data_encoding::BASE64URL_NOPAD;
use ring::digest::{SHA256, digest};
use rustls::{ClientConfig, ClientConnection, HandshakeKind, StreamOwned, pki_types::ServerName};
use spdy_protocol::{
    handshake::{Answer, Credentials, Features, Hello, Put},
    join::JoinCode,
};
use spdy_tests::{
    fixture::{PATIENCE, Proxy},
    wire::tls::client_config,
};

/// What an agent says of itself.
#[derive(Clone, Debug)]
pub struct Claim {
    pub origin: String,
    pub credentials: Credentials,
    pub instance: u8,
    pub run: u8,
    pub epoch: u64,
    pub register: Option<[u8; 32]>,
}

/// A handshake that was answered; the connection is open as long as the value lives.
#[derive(Debug)]
pub struct Offered {
    pub answer: Answer,
    /// How TLS came about.
    pub tls: HandshakeKind,
    stream: StreamOwned<ClientConnection, TcpStream>,
    ahead: Vec<u8>,
}

impl Claim {
    pub fn new(origin: &str, credentials: Credentials) -> Self {
        let origin = origin.to_owned();
        Self { origin, credentials, instance: 1, run: 1, epoch: 1, register: None }
    }

    pub fn by_token(origin: &str, token: &str) -> Self {
        Self::new(origin, Credentials::Bearer(token.to_owned()))
    }

    pub fn by_code(code: &str, token: &str) -> Self {
        let code = JoinCode::parse(code).unwrap();
        let secret = Credentials::Join(BASE64URL_NOPAD.encode(&code.secret));
        Self { register: Some(sha256(token.as_bytes())), ..Self::new(&code.origin, secret) }
    }

    /// Pairs and joins an origin with a token of our own choice.
    pub fn joined(proxy: &Proxy, origin: &str, token: &str) -> Self {
        let join = Self::by_code(&proxy.pair(origin), token);
        assert_eq!(join.offer(proxy.tunnel).status(), 200);
        Self::by_token(origin, token)
    }

    pub fn of(&self, instance: u8, run: u8, epoch: u64) -> Self {
        Self { instance, run, epoch, ..self.clone() }
    }

    pub fn offer(&self, proxy: SocketAddr) -> Offered {
        self.offer_by(proxy, &Arc::new(client_config().unwrap())).unwrap()
    }

    /// The same by the TLS of `config`; fails where TLS does.
    pub fn offer_by(&self, proxy: SocketAddr, config: &Arc<ClientConfig>) -> io::Result<Offered> {
        let mut socket = TcpStream::connect(proxy)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.set_nodelay(true)?;
        let name = ServerName::try_from("localhost").unwrap();
        let mut tls = ClientConnection::new(Arc::clone(config), name).map_err(io::Error::other)?;
        while tls.is_handshaking() {
            tls.complete_io(&mut socket)?;
        }
        let kind = tls.handshake_kind().unwrap();
        let mut stream = StreamOwned::new(tls, socket);
        stream.write_all(&self.put().encode())?;
        let mut ahead = Vec::new();
        let mut piece = [0; 1_024];
        loop {
            if let Some((answer, used)) = Answer::parse(&ahead).map_err(io::Error::other)? {
                ahead.drain(..used);
                return Ok(Offered { answer, tls: kind, stream, ahead });
            }
            match stream.read(&mut piece)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                len => ahead.extend_from_slice(&piece[..len]),
            }
        }
    }

    fn put(&self) -> Put {
        let hello = Hello {
            origin: self.origin.clone(),
            instance: [self.instance; 16],
            run: [self.run; 8],
            epoch: self.epoch,
            can: Features::OURS,
            software: "claim/1".to_owned(),
            register: self.register,
        };
        let host = "localhost".to_owned();
        Put { host, credentials: self.credentials.clone(), hello: Some(hello) }
    }
}

impl Offered {
    pub const fn status(&self) -> u16 {
        match &self.answer {
            Answer::Established(_) => 200,
            Answer::Refused { status, .. } => *status,
        }
    }

    pub fn reason(&self) -> &str {
        match &self.answer {
            Answer::Established(_) => "",
            Answer::Refused { reason, .. } => reason,
        }
    }

    /// Reads until the proxy has said GOAWAY (control frame 7) or has ended the connection.
    pub fn is_sent_away(&mut self) -> bool {
        let goaway = [0x80, 3, 0, 7];
        let mut piece = [0; 1_024];
        loop {
            if self.ahead.windows(goaway.len()).any(|window| window == goaway) {
                return true;
            }
            match self.stream.read(&mut piece) {
                Ok(len @ 1..) => self.ahead.extend_from_slice(&piece[..len]),
                _ => return false,
            }
        }
    }
}

pub fn sha256(octets: &[u8]) -> [u8; 32] {
    digest(&SHA256, octets).as_ref().try_into().unwrap()
}
