//! New tokens under the old ones.
//!
//! It owns the order of things: the new token is on the disk before the proxy hears of it, and gets
//! the old one's name after every proxy that knew the old one said yes. Until the new one is used
//! for the first time the old one is good, so a failure at any point locks nobody out. Blocking
//! file work is done in place, because nothing else runs then.

use std::{
    fmt, fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use spdy_protocol::handshake::{Credentials, Features, Hello, Put};

use crate::{
    config::{self, ConfigError, File},
    dial::{DialError, Dialer, Timings},
    join::{Draft, JoinError, new_token},
    resolve::Resolver,
    supervise::{Proxy, SOFTWARE},
    verify::sha256,
};

/// Why tokens are as they were.
#[derive(Debug)]
pub enum RotateError {
    /// The configuration is wrong, or there is none.
    Config(ConfigError),
    /// Nothing in it has a token.
    NoToken,
    /// A file could not be written.
    Write(JoinError),
    /// A proxy could not be reached, or refused.
    Dial(String, DialError),
}

impl fmt::Display for RotateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Config(error) => error.fmt(f),
            Self::NoToken => f.write_str("no proxy of the configuration is given a token"),
            Self::Write(error) => error.fmt(f),
            Self::Dial(address, error) => write!(f, "{address}: {error}; its token is as it was"),
        }
    }
}

impl std::error::Error for RotateError {}

/// Replaces the tokens of a configuration, file by file, and returns the addresses of their
/// proxies. Safe to drop: a token that was not replaced is good.
///
/// # Errors
/// [`RotateError`]; the files that come before the one that failed were replaced.
pub async fn rotate(config: Option<&Path>, timings: Timings) -> Result<Vec<String>, RotateError> {
    let usage = |problem: &str| RotateError::Config(ConfigError::Usage(problem.to_owned()));
    let Some(path) = config.map(Path::to_owned).or_else(config::default_path) else {
        return Err(usage("no configuration: give --config FILE, or join first"));
    };
    let file = File::load(Some(&path)).map_err(RotateError::Config)?;
    let name = config::name(&config::Options::default(), &file).map_err(RotateError::Config)?;
    let instance = file.instance.ok_or_else(|| {
        usage("the configuration has no instance: what join did not make it cannot rotate")
    })?;
    let known = config::proxies(&config::Options::default(), &file).map_err(RotateError::Config)?;
    let mut files: Vec<(PathBuf, Vec<Proxy>)> = Vec::new();
    for (proxy, token_file) in known {
        // An unverified proxy has never seen it.
        let Some(path) = token_file.filter(|_| proxy.trust.is_verified()) else { continue };
        match files.iter_mut().find(|(known, _)| *known == path) {
            Some((_, proxies)) => proxies.push(proxy),
            None => files.push((path, vec![proxy])),
        }
    }
    if files.is_empty() {
        return Err(RotateError::NoToken);
    }
    let mut done = Vec::new();
    for (path, proxies) in files {
        let token = new_token().map_err(RotateError::Write)?;
        let draft = draft_beside(&path, &token).map_err(RotateError::Write)?;
        for proxy in &proxies {
            let hello = Hello {
                origin: name.clone(),
                instance,
                run: [0; 8],
                epoch: 0,
                can: Features::default(),
                software: SOFTWARE.to_owned(),
                register: Some(sha256(token.as_bytes())),
            };
            register(proxy, hello, timings).await?;
        }
        draft.publish(&path).map_err(RotateError::Write)?;
        done.extend(proxies.iter().map(|proxy| proxy.address.to_string()));
    }
    Ok(done)
}

async fn register(proxy: &Proxy, hello: Hello, timings: Timings) -> Result<(), RotateError> {
    let address = proxy.address.to_string();
    let tls = proxy.client_config().map_err(|error| {
        RotateError::Config(ConfigError::Failure(format!("{address}: {error}")))
    })?;
    let token = proxy.token.as_ref().map(|token| token.secret().to_owned());
    let put = Put {
        host: address.clone(),
        credentials: token.map_or(Credentials::None, Credentials::Bearer),
        hello: Some(hello),
    };
    let resolver = Resolver::system();
    let mut dialer = Dialer::new(proxy.address.clone(), Arc::new(tls), timings, resolver);
    let dialled = dialer.dial(&|| put.clone()).await;
    dialled.map(drop).map_err(|error| RotateError::Dial(address, error))
}

/// The new token under a name of its own, for the same owner as the old one.
fn draft_beside(path: &Path, token: &str) -> Result<Draft, JoinError> {
    let failed = |error: io::Error| JoinError::Write(path.to_owned(), error);
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let mut draft = Draft::create(folder.unwrap_or(Path::new(".")))?;
    draft.write(&format!("{token}\n"))?;
    // Who rotates may be root, and the agent somebody else.
    let old = fs::metadata(path).map_err(failed)?;
    draft.give_to(old.uid(), old.gid())?;
    Ok(draft)
}
