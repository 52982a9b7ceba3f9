//! How a proxy is known and how it knows us: what stands in the configuration, and the files that it
//! names.

use std::{
    ffi::OsStr,
    fmt, fs, io,
    path::{Path, PathBuf},
};

use super::ConfigError;
use crate::{
    dial::{Address, Token},
    verify::{Card, Pin, Trust},
};

/// How to know a proxy and be known by it, as it was written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Access {
    /// `ca`: PEM file of authorities.
    pub ca: Option<PathBuf>,
    /// `pin`: SHA-256 of a public key; several are alternatives.
    pub pins: Vec<String>,
    /// `insecure`: nothing is verified.
    pub insecure: bool,
    /// `token-file`: what proves who we are.
    pub token_file: Option<PathBuf>,
    /// `cert`: PEM file of our certificate, in place of a token.
    pub cert: Option<PathBuf>,
    /// `key`: PEM file of its key.
    pub key: Option<PathBuf>,
}

impl Access {
    const fn has_trust(&self) -> bool {
        self.ca.is_some() || !self.pins.is_empty() || self.insecure
    }

    /// The first of several that says how to verify, with the first token file, certificate and key
    /// of all.
    pub(super) fn layered(layers: [&Self; 3]) -> Self {
        let trust = layers.into_iter().find(|layer| layer.has_trust());
        let first = |of: fn(&Self) -> &Option<PathBuf>| {
            layers.into_iter().find_map(|layer| of(layer).clone())
        };
        let (token_file, cert) = (first(|layer| &layer.token_file), first(|layer| &layer.cert));
        let key = first(|layer| &layer.key);
        Self { token_file, cert, key, ..trust.cloned().unwrap_or_default() }
    }
}

pub(super) fn trust(access: &Access, address: &Address) -> Result<Trust, ConfigError> {
    match (&access.ca, access.pins.as_slice(), access.insecure) {
        (None, [], false) => Err(ConfigError::Usage(format!(
            "nothing says how to verify the proxy {address}: \
             give --pin or --ca, or run `spdy-agent join`"
        ))),
        (Some(path), [], false) => Trust::from_ca_file(path)
            .map_err(|error| ConfigError::Failure(format!("ca {} {error}", path.display()))),
        (None, [], true) => Ok(Trust::Insecure),
        (None, pins, false) => {
            let pins = pins.iter().map(|text| {
                Pin::parse(text).ok_or_else(|| {
                    let rule = "is not a SHA-256 in hexadecimal digits or base64";
                    ConfigError::Usage(format!("pin {text} {rule}"))
                })
            });
            Ok(Trust::Pins(pins.collect::<Result<_, _>>()?))
        }
        _ => {
            let problem = "--ca, --pin and --insecure exclude each other";
            Err(ConfigError::Usage(format!("proxy {address}: {problem}")))
        }
    }
}

pub(super) fn card(access: &Access, address: &Address) -> Result<Option<Card>, ConfigError> {
    let usage = |problem| Err(ConfigError::Usage(format!("proxy {address}: {problem}")));
    match (&access.cert, &access.key) {
        (None, None) => Ok(None),
        (Some(_), Some(_)) if access.token_file.is_some() => {
            usage("--cert and --token-file exclude each other")
        }
        (Some(cert), Some(key)) => {
            Card::from_files(cert, key).map(Some).map_err(|(path, error)| {
                ConfigError::Failure(format!("cert or key {} {error}", path.display()))
            })
        }
        _ => usage("--cert and --key go together"),
    }
}

/// The file that a token is from. `credentials`: where a service manager has put its own, which come
/// first by the name of the file that the configuration names, else as `token`.
pub(super) fn token_path(access: &Access, credentials: Option<&Path>) -> Option<PathBuf> {
    let name = access.token_file.as_deref().map_or(Some(OsStr::new("token")), Path::file_name);
    let given = credentials.zip(name).map(|(folder, name)| folder.join(name));
    given.filter(|path| path.exists()).or_else(|| access.token_file.clone())
}

pub(super) fn token(path: &Path) -> Result<Token, ConfigError> {
    let failure = |problem: &dyn fmt::Display| {
        ConfigError::Failure(format!("token-file {}: {problem}", path.display()))
    };
    let text = read_short(path).map_err(|error| failure(&error))?;
    Token::parse(&text).ok_or_else(|| failure(&"holds no token"))
}

/// A file that should be small, and is not read further if it is not.
fn read_short(path: &Path) -> io::Result<String> {
    use io::Read as _;
    let mut text = String::new();
    fs::File::open(path)?.take(SHORT_FILE).read_to_string(&mut text)?;
    Ok(text)
}

const SHORT_FILE: u64 = 4_096;
