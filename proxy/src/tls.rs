//! Keys, certificates and TLS configurations of both ports.
//!
//! It owns how a key is made and read, what its pin is, which certificates of agents are believed
//! (`clients`), and the adapter that speaks TLS over a stream (`stream`). It does not own where the files lie ([`crate::state`]).

mod clients;
mod stream;

use std::{fmt, sync::Arc};

use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256};
use ring::digest;
use rustls::{
    ServerConfig,
    crypto::ring::{Ticketer, default_provider},
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::{NoClientAuth, NoServerSessionStorage, danger::ClientCertVerifier},
};

pub use clients::ClientsError;
pub(crate) use clients::{Clients, is_for};
pub(crate) use stream::TlsStream;

/// A private key with its certificate chain.
pub struct Identity {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    pin: [u8; 32],
}

/// A new key and a certificate that it signed itself, both as PEM.
pub(crate) struct Made {
    /// The private key.
    pub(crate) key: String,
    /// The certificate.
    pub(crate) certificate: String,
}

/// Why an identity cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IdentityError {
    /// The key file is no PEM private key.
    Key,
    /// The certificate file holds no PEM certificate, or one that cannot be read.
    Certificate,
    /// Key and certificate do not belong together, or the key's kind is not supported.
    Mismatch,
    /// No key could be made.
    Made(String),
}

impl fmt::Display for IdentityError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Key => f.write_str("no private key in PEM form"),
            Self::Certificate => f.write_str("no certificate in PEM form"),
            Self::Mismatch => f.write_str("key and certificate do not belong together"),
            Self::Made(cause) => write!(f, "cannot make a key: {cause}"),
        }
    }
}

impl std::error::Error for IdentityError {}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity").field("chain", &self.chain.len()).finish_non_exhaustive()
    }
}

impl Identity {
    /// Reads a key and its chain from PEM texts.
    ///
    /// # Errors
    /// See [`IdentityError`].
    pub fn parse(key: &[u8], certificates: &[u8]) -> Result<Self, IdentityError> {
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|_| IdentityError::Key)?;
        let chain = CertificateDer::pem_slice_iter(certificates)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|_| IdentityError::Certificate)?;
        let first = chain.first().ok_or(IdentityError::Certificate)?;
        let entity =
            webpki::EndEntityCert::try_from(first).map_err(|_| IdentityError::Certificate)?;
        let spki = digest::digest(&digest::SHA256, &entity.subject_public_key_info());
        let pin = spki.as_ref().try_into().map_err(|_| IdentityError::Certificate)?;
        Ok(Self { chain, key, pin })
    }

    /// SHA-256 of the certificate's SubjectPublicKeyInfo: what agents pin.
    #[must_use]
    pub const fn pin(&self) -> [u8; 32] {
        self.pin
    }

    /// TLS 1.3 and 1.2 with this identity. A peer that offers ALPN must offer one of `protocols`;
    /// one that offers none is taken too. With `clients` each peer is asked for a certificate, and
    /// no session is resumed: that would skip the check whether the certificate is still good.
    ///
    /// # Errors
    /// [`IdentityError::Mismatch`].
    pub(crate) fn server_config(
        &self,
        protocols: &[&[u8]],
        clients: Option<Arc<Clients>>,
    ) -> Result<Arc<ServerConfig>, IdentityError> {
        let is_resuming = clients.is_none();
        let verifier: Arc<dyn ClientCertVerifier> = match clients {
            Some(clients) => clients,
            None => Arc::new(NoClientAuth),
        };
        let mut config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|_| IdentityError::Mismatch)?
            .with_client_cert_verifier(verifier)
            .with_single_cert(self.chain.clone(), self.key.clone_key())
            .map_err(|_| IdentityError::Mismatch)?;
        config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
        config.session_storage = Arc::new(NoServerSessionStorage {});
        if is_resuming {
            // Tickets, not a table: a peer that comes back costs no memory while it is away.
            config.ticketer =
                Ticketer::new().map_err(|cause| IdentityError::Made(cause.to_string()))?;
        } else {
            config.send_tls13_tickets = 0;
        }
        Ok(Arc::new(config))
    }
}

impl Made {
    /// A new ECDSA P-256 key; the certificate is for `names`.
    ///
    /// # Errors
    /// [`IdentityError::Made`].
    pub(crate) fn new(names: &[&str]) -> Result<Self, IdentityError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256);
        let key = key.map_err(|cause| IdentityError::Made(cause.to_string()))?;
        Self::signed_by(&key, names)
    }

    /// The same with a key that is there already, as PEM.
    ///
    /// # Errors
    /// [`IdentityError::Key`], [`IdentityError::Made`].
    pub(crate) fn of(key: &str, names: &[&str]) -> Result<Self, IdentityError> {
        Self::signed_by(&KeyPair::from_pem(key).map_err(|_| IdentityError::Key)?, names)
    }

    /// The two as they are used.
    ///
    /// # Errors
    /// None that can be expected.
    pub(crate) fn identity(&self) -> Result<Identity, IdentityError> {
        Identity::parse(self.key.as_bytes(), self.certificate.as_bytes())
    }

    fn signed_by(key: &KeyPair, names: &[&str]) -> Result<Self, IdentityError> {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let certificate = CertificateParams::new(names)
            .and_then(|params| params.self_signed(key))
            .map_err(|cause| IdentityError::Made(cause.to_string()))?;
        Ok(Self { key: key.serialize_pem(), certificate: certificate.pem() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_made_can_be_used_and_its_pin_is_that_of_the_key() {
        let made = Made::new(&["localhost", "127.0.0.1"]).unwrap();
        let identity = Identity::parse(made.key.as_bytes(), made.certificate.as_bytes()).unwrap();
        let key = KeyPair::from_pem(&made.key).unwrap();
        let spki = rcgen::PublicKeyData::subject_public_key_info(&key);
        assert_eq!(identity.pin()[..], *digest::digest(&digest::SHA256, &spki).as_ref());
        assert!(identity.server_config(&[b"http/1.1"], None).is_ok());
    }

    #[test]
    fn foreign_and_broken_files_are_told_apart() {
        let (one, other) = (Made::new(&["a"]).unwrap(), Made::new(&["a"]).unwrap());
        let parse = |key: &str, certificate: &str| {
            Identity::parse(key.as_bytes(), certificate.as_bytes())
                .and_then(|identity| identity.server_config(&[], None).map(|_| ()))
        };
        assert_eq!(parse("nonsense", &one.certificate), Err(IdentityError::Key));
        assert_eq!(parse(&one.key, "nonsense"), Err(IdentityError::Certificate));
        assert_eq!(parse(&one.key, &other.certificate), Err(IdentityError::Mismatch));
        assert_eq!(parse(&one.key, &one.certificate), Ok(()));
    }
}
