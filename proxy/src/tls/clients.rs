//! Agents that are known by a certificate: which authority vouches for them, and for what name.
//!
//! It owns the authority's file, its revocation list, and how both are read again while the server
//! runs. It does not own what the proxy itself has revoked ([`crate::state`]).
//!
//! The tunnel port resumes no TLS session while this is in use (`super::Identity::server_config`):
//! a resumed one would skip the check. Each connection is verified in full.

use std::{
    fmt, fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, RwLock},
    time::SystemTime,
};

use rustls::{
    DigitallySignedStruct, DistinguishedName, Error, RootCertStore, SignatureScheme,
    client::danger::HandshakeSignatureValid,
    crypto::ring::default_provider,
    pki_types::{
        CertificateDer, CertificateRevocationListDer, ServerName, UnixTime,
        pem::{self, PemObject},
    },
    server::{
        WebPkiClientVerifier,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
};

/// Verifies the certificates of agents; those that show none are let through to the PUT.
pub(crate) struct Clients {
    ca: PathBuf,
    crl: Option<PathBuf>,
    verifier: RwLock<Arc<dyn ClientCertVerifier>>,
    files: Mutex<Files>,
}

/// The two files, as they were.
struct Files {
    /// When they were read.
    used: [Stamp; 2],
    /// At the last look: who writes a file has a moment in which it is half of one.
    seen: [Stamp; 2],
}

/// What tells one version of a file from another; `None`: it is not there.
type Stamp = Option<(SystemTime, u64, u64)>;

/// Why certificates of agents cannot be verified.
#[derive(Debug)]
pub enum ClientsError {
    /// A file cannot be read, or is no PEM.
    Read(PathBuf, String),
    /// The authority or the revocation list cannot be used.
    Unusable(PathBuf, String),
}

impl fmt::Display for ClientsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Read(path, cause) => write!(f, "{}: {cause}", path.display()),
            Self::Unusable(path, cause) => write!(f, "{}: cannot be used: {cause}", path.display()),
        }
    }
}

impl std::error::Error for ClientsError {}

impl fmt::Debug for Clients {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Clients").field("ca", &self.ca).field("crl", &self.crl).finish()
    }
}

impl Clients {
    /// Reads the authority's certificates and its revocation lists, both PEM.
    ///
    /// # Errors
    /// [`ClientsError`].
    pub(crate) fn open(ca: &Path, crl: Option<&Path>) -> Result<Self, ClientsError> {
        let used = stamps(ca, crl);
        let verifier = RwLock::new(verifier(ca, crl)?);
        let files = Mutex::new(Files { used, seen: used });
        Ok(Self { ca: ca.to_owned(), crl: crl.map(Path::to_owned), verifier, files })
    }

    /// Whether the files are others than those that were read last, and were so at the last look.
    /// It blocks.
    pub(crate) fn has_changed(&self) -> bool {
        let now = stamps(&self.ca, self.crl.as_deref());
        let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        let is_settled = std::mem::replace(&mut files.seen, now) == now;
        is_settled && files.used != now
    }

    /// Reads both files again; what was in force stays so if they cannot be used.
    ///
    /// # Errors
    /// [`ClientsError`].
    pub(crate) fn reload(&self) -> Result<(), ClientsError> {
        let used = stamps(&self.ca, self.crl.as_deref());
        self.files.lock().unwrap_or_else(PoisonError::into_inner).used = used;
        let verifier = verifier(&self.ca, self.crl.as_deref())?;
        *self.verifier.write().unwrap_or_else(PoisonError::into_inner) = verifier;
        Ok(())
    }

    /// Whether a chain that was good once still is.
    pub(crate) fn is_good(&self, chain: &[CertificateDer<'static>]) -> bool {
        let Some((first, rest)) = chain.split_first() else { return false };
        self.verify_client_cert(first, rest, UnixTime::now()).is_ok()
    }

    fn verifier(&self) -> Arc<dyn ClientCertVerifier> {
        Arc::clone(&self.verifier.read().unwrap_or_else(PoisonError::into_inner))
    }
}

fn stamps(ca: &Path, crl: Option<&Path>) -> [Stamp; 2] {
    let of = |path: &Path| {
        let file = fs::metadata(path).ok()?;
        Some((file.modified().ok()?, file.ino(), file.len()))
    };
    [of(ca), crl.and_then(of)]
}

fn verifier(ca: &Path, crl: Option<&Path>) -> Result<Arc<dyn ClientCertVerifier>, ClientsError> {
    let read =
        |path: &Path, cause: pem::Error| ClientsError::Read(path.to_owned(), cause.to_string());
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(ca).map_err(|cause| read(ca, cause))? {
        let certificate = certificate.map_err(|cause| read(ca, cause))?;
        let added = roots.add(certificate);
        added.map_err(|cause| ClientsError::Unusable(ca.to_owned(), cause.to_string()))?;
    }
    let provider = Arc::new(default_provider());
    let mut builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
        // Those who have none show a token instead.
        .allow_unauthenticated();
    if let Some(crl) = crl {
        let lists = CertificateRevocationListDer::pem_file_iter(crl);
        let lists = lists.and_then(Iterator::collect::<Result<Vec<_>, _>>);
        let lists = lists.map_err(|cause| read(crl, cause))?;
        if lists.is_empty() {
            return Err(ClientsError::Read(crl.to_owned(), "holds no X509 CRL".to_owned()));
        }
        // A list says who is out; an authority above or beside it may have none.
        builder = builder.with_crls(lists).allow_unknown_revocation_status();
    }
    let named = crl.unwrap_or(ca);
    builder.build().map_err(|cause| ClientsError::Unusable(named.to_owned(), cause.to_string()))
}

/// Whether a certificate is for `name`: one of its DNS names if it has any, else its one common
/// name.
pub(crate) fn is_for(certificate: &CertificateDer<'_>, name: &str) -> bool {
    let Ok(entity) = webpki::EndEntityCert::try_from(certificate) else { return false };
    if entity.valid_dns_names().next().is_none() {
        return common_name(entity.subject()) == Some(name.as_bytes());
    }
    ServerName::try_from(name)
        .is_ok_and(|name| entity.verify_is_valid_for_subject_name(&name).is_ok())
}

/// The common name of a subject (X.501 RDNSequence, without its own tag), if there is just one.
fn common_name(mut subject: &[u8]) -> Option<&[u8]> {
    let mut found = None;
    while !subject.is_empty() {
        let mut set = take(&mut subject, |tag| tag == SET)?;
        while !set.is_empty() {
            let mut pair = take(&mut set, |tag| tag == SEQUENCE)?;
            let kind = take(&mut pair, |tag| tag == OBJECT_ID)?;
            let value = take(&mut pair, |_| true)?;
            if kind == COMMON_NAME && found.replace(value).is_some() {
                return None;
            }
        }
    }
    found
}

/// The content of the next element, if it has the right tag; names have no lengths above 16 bit.
fn take<'a>(from: &mut &'a [u8], is_right: impl Fn(u8) -> bool) -> Option<&'a [u8]> {
    let (&tag, &short) = (from.split_off_first()?, from.split_off_first()?);
    let len = match short {
        0..=0x7f => usize::from(short),
        0x81 => usize::from(*from.split_off_first()?),
        0x82 => {
            usize::from(u16::from_be_bytes([*from.split_off_first()?, *from.split_off_first()?]))
        }
        _ => return None,
    };
    from.split_off(..len).filter(|_| is_right(tag))
}

const SET: u8 = 0x31;
const SEQUENCE: u8 = 0x30;
const OBJECT_ID: u8 = 0x06;
/// 2.5.4.3.
const COMMON_NAME: &[u8] = &[0x55, 4, 3];

impl ClientCertVerifier for Clients {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        // No hint: an agent has one certificate at most.
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.verifier().verify_client_cert(end_entity, intermediates, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verifier().verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verifier().verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.verifier().supported_verify_schemes()
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DnType, KeyPair};

    use super::*;

    fn certificate(names: &[&str], commons: &[&str]) -> CertificateDer<'static> {
        let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, "x\u{6}\u{3}\u{55}\u{4}\u{3}nas2");
        for common in commons {
            params.distinguished_name.push(DnType::CommonName, *common);
        }
        let key = KeyPair::generate().unwrap();
        params.self_signed(&key).unwrap().der().clone()
    }

    #[test]
    fn a_certificate_is_for_its_dns_names_or_else_for_its_common_name() {
        let both = certificate(&["nas1", "nas1.example.com"], &["nas2"]);
        assert!(is_for(&both, "nas1") && !is_for(&both, "nas2") && !is_for(&both, "nas"));
        let common = certificate(&[], &["nas2"]);
        assert!(is_for(&common, "nas2") && !is_for(&common, "nas1"));
        let none = certificate(&[], &[]);
        assert!(!is_for(&none, "nas2") && !is_for(&none, ""));
        assert!(!is_for(&CertificateDer::from(vec![1, 2, 3]), "nas1"));
    }

    #[test]
    fn a_subject_that_is_cut_or_odd_has_no_name() {
        let one = [&[SET, 11, SEQUENCE, 9, OBJECT_ID, 3, 0x55, 4, 3, 12, 2][..], b"ab"].concat();
        assert_eq!(common_name(&one), Some(&b"ab"[..]));
        assert_eq!(common_name(&[one.clone(), one.clone()].concat()), None);
        for end in 1..one.len() {
            assert_eq!(common_name(&one[..end]), None);
        }
        for at in 0..one.len() {
            for octet in 0..=255 {
                let mut odd = one.clone();
                odd[at] = octet;
                let _ = common_name(&odd);
            }
        }
    }
}
