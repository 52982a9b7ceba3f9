//! Why a dial failed, in words for people and as a cause for the back-off.

use std::{fmt, io, time::Duration};

use async_rustls::rustls::{self, CertificateError};
use spdy_protocol::handshake::HandshakeError;

use crate::{backoff::Cause, civil};

/// Where the time went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Name resolution.
    Resolve,
    /// TCP.
    Connect,
    /// TLS.
    Tls,
    /// PUT and answer.
    Handshake,
    /// All of it, over all addresses.
    Whole,
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Resolve => "name resolution",
            Self::Connect => "connecting",
            Self::Tls => "TLS",
            Self::Handshake => "the handshake",
            Self::Whole => "dialling all addresses",
        })
    }
}

/// Why a dial failed.
#[derive(Debug)]
pub enum DialError {
    /// The name has no address, or nobody could be asked.
    Resolve(io::Error),
    /// All addresses of a proxy that another one named are of this machine or its network, or of
    /// that other one.
    Forbidden,
    /// No address took the connection.
    Connect(io::Error),
    /// A deadline passed.
    Late(Phase),
    /// The other end is not trusted, or does not speak TLS as we do.
    Tls(rustls::Error),
    /// The certificate is not valid yet by a clock that is certainly wrong.
    Clock,
    /// The connection failed during the handshake.
    Transport(io::Error),
    /// The answer to PUT is none.
    Handshake(HandshakeError),
    /// The proxy does not want us.
    Refused {
        /// HTTP status.
        status: u16,
        /// Its reason, one line; from outside.
        reason: String,
        /// `Retry-After`.
        retry_after: Option<Duration>,
    },
}

impl DialError {
    /// What the back-off makes of it.
    #[must_use]
    pub const fn cause(&self) -> Cause {
        match self {
            Self::Tls(_) | Self::Forbidden => Cause::Tls,
            Self::Refused { status, retry_after, .. } => {
                Cause::Refused { status: *status, retry_after: *retry_after }
            }
            Self::Resolve(_)
            | Self::Connect(_)
            | Self::Late(_)
            | Self::Clock
            | Self::Transport(_)
            | Self::Handshake(_) => Cause::Network,
        }
    }

    /// How far the dial came: of several addresses the one that came farthest says most.
    pub(super) const fn depth(&self) -> u8 {
        match self {
            Self::Resolve(_) | Self::Forbidden => 0,
            Self::Connect(_) | Self::Late(Phase::Resolve | Phase::Connect | Phase::Whole) => 1,
            Self::Late(Phase::Tls | Phase::Handshake) | Self::Transport(_) => 2,
            Self::Handshake(_) => 3,
            Self::Clock | Self::Tls(_) => 4,
            Self::Refused { .. } => 5,
        }
    }

    /// Whether nobody said where the proxy is.
    pub(super) const fn is_of_resolver(&self) -> bool {
        matches!(self, Self::Resolve(_) | Self::Late(Phase::Resolve))
    }

    /// Whether not even TCP came about.
    pub(super) const fn is_of_connect(&self) -> bool {
        matches!(self, Self::Connect(_) | Self::Late(Phase::Connect))
    }

    /// What rustls says comes wrapped in an `io::Error`.
    pub(super) fn from_tls(error: io::Error) -> Self {
        Self::from_tls_at(error, civil::now())
    }

    fn from_tls_at(error: io::Error, now: i64) -> Self {
        match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
            Some(rustls::Error::InvalidCertificate(
                CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. },
            )) if !civil::is_plausible(now) => Self::Clock,
            Some(error) => Self::Tls(error.clone()),
            None => Self::Transport(error),
        }
    }
}

impl fmt::Display for DialError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Resolve(error) => write!(f, "name does not resolve: {error}"),
            Self::Forbidden => {
                f.write_str("a named proxy must be another one, outside of this network")
            }
            Self::Connect(error) => write!(f, "cannot connect: {error}"),
            Self::Late(phase) => write!(f, "deadline passed in {phase}"),
            Self::Tls(rustls::Error::General(reason)) => write!(f, "not trusted: {reason}"),
            Self::Tls(error) => write!(f, "TLS failed: {error}"),
            Self::Clock => f.write_str("the clock of this machine is not set"),
            Self::Transport(error) => write!(f, "connection lost in the handshake: {error}"),
            Self::Handshake(_) => f.write_str("the other end does not answer as a proxy"),
            Self::Refused { status, reason, .. } => write!(f, "refused with {status}: {reason}"),
        }
    }
}

impl std::error::Error for DialError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_follow_from_errors() {
        assert_eq!(DialError::Late(Phase::Handshake).cause(), Cause::Network);
        let wrapped =
            |error| DialError::from_tls(io::Error::new(io::ErrorKind::InvalidData, error));
        assert_eq!(wrapped(rustls::Error::General("pin".to_owned())).cause(), Cause::Tls);
        // A certificate of tomorrow is wrong, unless it is the clock that is.
        for (now, cause) in [(1_800_000_000, Cause::Tls), (86_400, Cause::Network)] {
            let early = rustls::Error::InvalidCertificate(CertificateError::NotValidYet);
            let early = io::Error::new(io::ErrorKind::InvalidData, early);
            assert_eq!(DialError::from_tls_at(early, now).cause(), cause);
        }
        let reset = DialError::from_tls(io::ErrorKind::ConnectionReset.into());
        assert_eq!(reset.cause(), Cause::Network);
    }
}
