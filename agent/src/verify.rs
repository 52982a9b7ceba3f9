//! Whether the other end is the proxy that the owner meant, and what shows it who we are in TLS.
//!
//! It owns pins, the CA file, our certificate and the TLS configuration made of them. It does not dial
//! ([`crate::dial`]).

use std::{fmt, path::Path, sync::Arc};

use async_rustls::rustls::{
    self, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::{
        ResolvesClientCert, Resumption,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_cert_signed_by_trust_anchor, verify_server_name,
    },
    crypto::{WebPkiSupportedAlgorithms, ring, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject},
    server::ParsedCertificate,
    sign::{CertifiedKey, SingleCertAndKey},
};
use spdy_protocol::digits::{BASE64, BASE64_NOPAD, BASE64URL, HEX, HEX_ANY_CASE};

/// SHA-256 of a subject public key info: it names a key, whatever certificate it comes in.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Pin(pub [u8; 32]);

impl Pin {
    /// Reads 64 hexadecimal digits or base64, with or without padding.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let octets = match text.len() {
            64 => HEX_ANY_CASE.decode(text),
            44 => BASE64.decode(text),
            _ => BASE64_NOPAD.decode(text).or_else(|| BASE64URL.decode(text)),
        };
        Some(Self(octets?.try_into().ok()?))
    }
}

impl Pin {
    /// The pin of a certificate's key; `None` if it is no certificate.
    #[must_use]
    pub fn of(certificate: &CertificateDer<'_>) -> Option<Self> {
        let certificate = ParsedCertificate::try_from(certificate).ok()?;
        Some(Self(sha256(&certificate.subject_public_key_info())))
    }
}

/// As hexadecimal digits.
impl fmt::Display for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&HEX.encode(&self.0))
    }
}

impl fmt::Debug for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pin({self})")
    }
}

/// How the proxy is told from an impostor.
#[derive(Clone, Debug)]
pub enum Trust {
    /// Its key is one of these. Dates and names in the certificate are ignored: a box without a
    /// clock must come up, and the pin says more than a date.
    Pins(Vec<Pin>),
    /// Its certificate was issued by one of these authorities; dates and names count.
    Authorities(Arc<RootCertStore>),
    /// It is not. For proxies of the original, which have no usable certificate; no token is ever
    /// sent then.
    Insecure,
}

impl Trust {
    /// Reads a PEM file of authorities.
    ///
    /// # Errors
    /// The file cannot be read or holds no certificate that can be one.
    pub fn from_ca_file(path: &Path) -> Result<Self, TrustError> {
        let unreadable = |error: &dyn fmt::Display| TrustError::Unreadable(error.to_string());
        let mut roots = RootCertStore::empty();
        let certificates =
            CertificateDer::pem_file_iter(path).map_err(|error| unreadable(&error))?;
        for certificate in certificates {
            let certificate = certificate.map_err(|error| unreadable(&error))?;
            roots.add(certificate).map_err(|error| unreadable(&error))?;
        }
        if roots.is_empty() {
            return Err(TrustError::Empty);
        }
        Ok(Self::Authorities(Arc::new(roots)))
    }

    /// Whether both believe the same peers.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Pins(one), Self::Pins(other)) => one == other,
            (Self::Authorities(one), Self::Authorities(other)) => one.roots == other.roots,
            (Self::Insecure, Self::Insecure) => true,
            _ => false,
        }
    }

    /// Whether a token may be sent to a peer that passed.
    #[must_use]
    pub const fn is_verified(&self) -> bool {
        !matches!(self, Self::Insecure)
    }

    /// The TLS configuration: TLS 1.3 or 1.2, ALPN `spdy-tunnel/1` and `http/1.1`.
    ///
    /// # Errors
    /// The authorities cannot be used.
    pub fn client_config(&self) -> Result<ClientConfig, TrustError> {
        let provider = Arc::new(ring::default_provider());
        let unusable = |error: &dyn fmt::Display| TrustError::Unusable(error.to_string());
        let algorithms = provider.signature_verification_algorithms;
        let verifier = Arc::new(Verifier { trust: self.clone(), algorithms });
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| unusable(&error))?
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"spdy-tunnel/1".to_vec(), b"http/1.1".to_vec()];
        // One peer, one tunnel: the default keeps room for 256 servers.
        config.resumption = Resumption::in_memory_sessions(2);
        Ok(config)
    }
}

/// Our certificate with its key, in place of a token. Never printed.
#[derive(Clone)]
pub struct Card(Arc<CertifiedKey>);

impl Card {
    /// Reads a certificate, with those between it and its authority, and its key; both PEM.
    ///
    /// # Errors
    /// The file that is wrong with what is wrong in it.
    pub fn from_files<'a>(
        certificate: &'a Path,
        key: &'a Path,
    ) -> Result<Self, (&'a Path, TrustError)> {
        let unreadable = |error: &dyn fmt::Display| TrustError::Unreadable(error.to_string());
        let chain = CertificateDer::pem_file_iter(certificate)
            .and_then(Iterator::collect::<Result<Vec<_>, _>>)
            .map_err(|error| (certificate, unreadable(&error)))?;
        if chain.is_empty() {
            return Err((certificate, TrustError::Empty));
        }
        let made = PrivateKeyDer::from_pem_file(key).map_err(|error| (key, unreadable(&error)))?;
        let made = CertifiedKey::from_der(chain, made, &ring::default_provider());
        let made = made.map_err(|error| (key, TrustError::Unusable(error.to_string())))?;
        Ok(Self(Arc::new(made)))
    }

    /// What TLS asks when the proxy wants to see it.
    #[must_use]
    pub fn resolver(&self) -> Arc<dyn ResolvesClientCert> {
        Arc::new(SingleCertAndKey::from(self.0.clone()))
    }
}

impl fmt::Debug for Card {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Card(..)")
    }
}

/// Why a way to verify the proxy cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TrustError {
    /// The file cannot be read or parsed.
    Unreadable(String),
    /// The file holds no certificate.
    Empty,
    /// TLS refuses it.
    Unusable(String),
}

impl fmt::Display for TrustError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable(reason) => write!(f, "cannot be read: {reason}"),
            Self::Empty => f.write_str("holds no certificate"),
            Self::Unusable(reason) => write!(f, "cannot be used: {reason}"),
        }
    }
}

impl std::error::Error for TrustError {}

/// Holds the proxy to [`Trust`].
#[derive(Debug)]
struct Verifier {
    trust: Trust,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        match &self.trust {
            // Pins are public; there is nothing to hide in how long a comparison takes.
            Trust::Pins(pins) => {
                let key = ParsedCertificate::try_from(end_entity)?.subject_public_key_info();
                let pin = Pin(sha256(&key));
                if !pins.contains(&pin) {
                    let problem = format!("no pin matches the key of the proxy, which is {pin}");
                    return Err(rustls::Error::General(problem));
                }
            }
            // What `WebPkiServerVerifier` does where nobody gives it lists of revoked certificates:
            // reading those is 10 KB of program.
            Trust::Authorities(roots) => {
                let certificate = ParsedCertificate::try_from(end_entity)?;
                let algorithms = self.algorithms.all;
                verify_server_cert_signed_by_trust_anchor(
                    &certificate,
                    roots,
                    intermediates,
                    now,
                    algorithms,
                )?;
                verify_server_name(&certificate, server_name)?;
            }
            Trust::Insecure => {}
        }
        Ok(ServerCertVerified::assertion())
    }

    // A pin, too, says nothing without the signature over the handshake: anybody can show the right
    // certificate.
    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        if !self.trust.is_verified() {
            return Ok(HandshakeSignatureValid::assertion());
        }
        verify_tls12_signature(message, cert, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        if !self.trust.is_verified() {
            return Ok(HandshakeSignatureValid::assertion());
        }
        verify_tls13_signature(message, cert, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// SHA-256 of some octets.
#[must_use]
pub fn sha256(octets: &[u8]) -> [u8; 32] {
    let mut hash = [0; 32];
    hash.copy_from_slice(::ring::digest::digest(&::ring::digest::SHA256, octets).as_ref());
    hash
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pins_are_read_in_both_forms() {
        let pin = Pin(sha256(b"key"));
        let hex = pin.to_string();
        for text in [
            hex.clone(),
            hex.to_uppercase(),
            BASE64.encode(&pin.0),
            BASE64_NOPAD.encode(&pin.0),
            BASE64URL.encode(&pin.0),
        ] {
            assert_eq!(Pin::parse(&text), Some(pin), "{text}");
        }
        for text in ["", "00", &hex[1..], &format!("{hex}0"), &hex.replace('a', "g"), "AAAA"] {
            assert_eq!(Pin::parse(text), None, "{text}");
        }
    }

    #[test]
    fn sha256_is_the_real_one() {
        let empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(Pin(sha256(b"")).to_string(), empty);
    }

    #[test]
    fn ca_file_must_hold_a_certificate() {
        let missing = Trust::from_ca_file(Path::new("/nonexistent/ca.pem"));
        assert!(matches!(missing, Err(TrustError::Unreadable(_))));
        let empty = Trust::from_ca_file(Path::new("/dev/null"));
        assert!(matches!(empty, Err(TrustError::Empty)));
    }
}
