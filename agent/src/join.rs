//! From a join code to a configuration: makes a token, registers it, writes both files.
//!
//! It owns the order of things, so that a failure leaves nothing behind: the files are made before
//! the single-use code is spent and get their names after the proxy said yes. Blocking file work is
//! done in place, because nothing else runs then.

use std::{
    fmt, fs,
    io::{self, BufRead as _, IsTerminal as _, Read as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, fchown},
    path::{Path, PathBuf},
    sync::Arc,
};

use ring::rand::{SecureRandom, SystemRandom};
use spdy_protocol::{
    digits::BASE64URL,
    handshake::{Credentials, Features, Hello, Put},
    join::{JoinCode, JoinCodeError},
};

use crate::{
    config::{self, ConfigError},
    dial::{Address, DialError, Dialer, Timings},
    resolve::Resolver,
    supervise::SOFTWARE,
    verify::{Pin, Trust, sha256},
};

/// What join did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Joined {
    /// The proxy that took us.
    pub address: String,
    /// The name we are reached by.
    pub name: String,
    /// The configuration file that was written.
    pub config: PathBuf,
}

/// Why join wrote nothing.
#[derive(Debug)]
pub enum JoinError {
    /// The code is none, or of another version, or mistyped.
    Code(JoinCodeError),
    /// The code could not be read.
    Input(io::Error),
    /// The code names no address that can be dialled.
    Address,
    /// The existing configuration is wrong, or there is no place for one.
    Config(ConfigError),
    /// A file could not be written.
    Write(PathBuf, io::Error),
    /// The proxy could not be reached, is not the one that made the code, or refused.
    Dial(String, DialError),
}

impl fmt::Display for JoinError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(JoinCodeError::Malformed) => f.write_str("this is not a join code"),
            Self::Code(JoinCodeError::Checksum) => {
                f.write_str("the join code is mistyped: its checksum is wrong")
            }
            Self::Code(JoinCodeError::Version(version)) => {
                write!(f, "the join code has format {version}, which this version cannot read")
            }
            Self::Input(error) => write!(f, "no join code could be read: {error}"),
            Self::Address => f.write_str("the join code names no address that can be dialled"),
            Self::Config(error) => write!(f, "{error}"),
            Self::Write(path, error) => write!(f, "{}: {error}", path.display()),
            Self::Dial(address, DialError::Refused { status: 401 | 403, .. }) => {
                write!(f, "{address} refused the join code: it is used, expired or revoked")
            }
            Self::Dial(address, error) => write!(f, "{address}: {error}; nothing was written"),
        }
    }
}

impl std::error::Error for JoinError {}

/// Reads a code from the terminal or from standard input.
///
/// # Errors
/// [`JoinError::Input`].
pub fn read_code() -> Result<String, JoinError> {
    let mut code = String::new();
    let stdin = io::stdin().lock();
    if stdin.is_terminal() {
        eprint!("join code: ");
    }
    // One line, bounded: who pipes a film into join gets an error and not a full memory.
    let read = io::BufReader::new(stdin.take(CODE_MAX)).read_line(&mut code);
    match read {
        Ok(0) => Err(JoinError::Input(io::ErrorKind::UnexpectedEof.into())),
        Ok(_) => Ok(code),
        Err(error) => Err(JoinError::Input(error)),
    }
}

/// Registers this machine with the proxy that made the code and writes the configuration to
/// `file`, or to the default place. Safe to drop: nothing is written.
///
/// # Errors
/// [`JoinError`]; nothing was written then.
pub async fn join(code: &str, file: Option<&Path>, timings: Timings) -> Result<Joined, JoinError> {
    let code = JoinCode::parse(code.trim()).map_err(JoinError::Code)?;
    let addresses: Vec<_> =
        code.addresses.iter().filter_map(|text| Address::parse(text).ok()).collect();
    if addresses.is_empty() || code.pins.is_empty() {
        return Err(JoinError::Address);
    }
    let path = file.map(Path::to_owned).or_else(config::path_to_write).ok_or_else(|| {
        let problem = "no place for a configuration: give --config FILE";
        JoinError::Config(ConfigError::Usage(problem.to_owned()))
    })?;
    let text = existing(&path)?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let folder = folder.unwrap_or(Path::new("."));
    let known = config::File::parse(&text, folder).map_err(|(line, problem)| {
        let problem = format!("{}:{line}: {problem}", path.display());
        JoinError::Config(ConfigError::Usage(problem))
    })?;
    let instance = match known.instance {
        Some(instance) => instance,
        None => config::new_instance().map_err(JoinError::Config)?,
    };
    let token = new_token()?;
    let _made = MadeFolder::ensure(folder)?;
    let mut token_file = Draft::create(folder)?;
    let mut config_file = Draft::create(folder)?;

    let pins: Vec<_> = code.pins.iter().copied().map(Pin).collect();
    let put = |address: &Address| Put {
        host: address.to_string(),
        credentials: Credentials::Join(BASE64URL.encode(&code.secret)),
        hello: Some(Hello {
            origin: code.origin.clone(),
            instance,
            run: [0; 8],
            epoch: 0,
            can: Features::default(),
            software: SOFTWARE.to_owned(),
            register: Some(sha256(token.as_bytes())),
        }),
    };
    let address = register(&addresses, &pins, put, timings).await?;

    let token_name = token_name(&path, &address);
    token_file.write(&format!("{token}\n"))?;
    let text = config::with_joined(&text, &code.origin, &instance, &address, &pins, &token_name);
    config_file.write(&text)?;
    token_file.publish(&folder.join(&token_name))?;
    config_file.publish(&path)?;
    _made.keep();
    Ok(Joined { address, name: code.origin, config: path })
}

/// Tries the addresses one after the other; a refusal counts for all, they are one proxy.
async fn register(
    addresses: &[Address],
    pins: &[Pin],
    put: impl Fn(&Address) -> Put,
    timings: Timings,
) -> Result<String, JoinError> {
    let mut failure = JoinError::Address;
    for address in addresses {
        let tls = Trust::Pins(pins.to_vec())
            .client_config()
            .map_err(|error| JoinError::Config(ConfigError::Failure(error.to_string())))?;
        let mut dialer = Dialer::new(address.clone(), Arc::new(tls), timings, Resolver::system());
        match dialer.dial(&|| put(address)).await {
            Ok(_) => return Ok(address.to_string()),
            Err(error) => {
                let refused = matches!(error, DialError::Refused { .. });
                failure = JoinError::Dial(address.to_string(), error);
                if refused {
                    break;
                }
            }
        }
    }
    Err(failure)
}

/// A file that is not there yet. Dropping it removes it.
pub(crate) struct Draft {
    path: PathBuf,
    file: fs::File,
    published: bool,
}

impl Draft {
    pub(crate) fn create(folder: &Path) -> Result<Self, JoinError> {
        let mut random = [0; 8];
        fill(&mut random)?;
        let path = folder.join(format!(".spdy-join-{:016x}", u64::from_ne_bytes(random)));
        let opened = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
        let file = opened.map_err(|error| JoinError::Write(path.clone(), error))?;
        Ok(Self { path, file, published: false })
    }

    pub(crate) fn write(&mut self, text: &str) -> Result<(), JoinError> {
        let written = self.file.write_all(text.as_bytes()).and_then(|()| self.file.sync_all());
        written.map_err(|error| JoinError::Write(self.path.clone(), error))
    }

    /// Gives the file to this owner, if it is not theirs.
    pub(crate) fn give_to(&self, user: u32, group: u32) -> Result<(), JoinError> {
        let given = fchown(&self.file, Some(user), Some(group));
        given.map_err(|error| JoinError::Write(self.path.clone(), error))
    }

    /// Gives the file its name, whoever had it.
    pub(crate) fn publish(mut self, path: &Path) -> Result<(), JoinError> {
        let renamed = fs::rename(&self.path, path);
        renamed.map_err(|error| JoinError::Write(path.to_owned(), error))?;
        self.published = true;
        // Names of files that were just given outlive a power cut only with their folder.
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        let _ = fs::File::open(folder.unwrap_or(Path::new("."))).and_then(|file| file.sync_all());
        Ok(())
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if !self.published {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// The folder of the configuration, removed again if it was made in vain.
struct MadeFolder(Option<PathBuf>);

impl MadeFolder {
    fn ensure(folder: &Path) -> Result<Self, JoinError> {
        if folder.is_dir() {
            return Ok(Self(None));
        }
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(folder);
        made.map_err(|error| JoinError::Write(folder.to_owned(), error))?;
        Ok(Self(Some(folder.to_owned())))
    }

    fn keep(mut self) {
        self.0 = None;
    }
}

impl Drop for MadeFolder {
    fn drop(&mut self) {
        if let Some(folder) = &self.0 {
            let _ = fs::remove_dir(folder);
        }
    }
}

fn existing(path: &Path) -> Result<String, JoinError> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(text),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        Err(error) => Err(JoinError::Write(path.to_owned(), error)),
    }
}

/// 256 bits as text. Only its hash leaves this machine in the end.
pub(crate) fn new_token() -> Result<String, JoinError> {
    let mut octets = [0; 32];
    fill(&mut octets)?;
    Ok(BASE64URL.encode(&octets))
}

fn fill(octets: &mut [u8]) -> Result<(), JoinError> {
    SystemRandom::new().fill(octets).map_err(|_| {
        let problem = "the system has no random numbers";
        JoinError::Config(ConfigError::Failure(problem.to_owned()))
    })
}

/// A file name for the token of a proxy. The configuration's own name is in it: two agents of one
/// folder that know the same proxy have a token each.
fn token_name(config: &Path, address: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || "-.".contains(c) { c } else { '_' };
    let config = config.file_name().unwrap_or_default().to_string_lossy();
    format!("{config}.{address}.token").chars().map(plain).collect()
}

/// Octets that are read as a code at most.
const CODE_MAX: u64 = 8_192;

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn drafts_leave_nothing_unless_published() {
        let folder = std::env::temp_dir().join(format!("spdy-agent-join-{}", std::process::id()));
        let _ = fs::remove_dir_all(&folder);
        {
            let _made = MadeFolder::ensure(&folder).unwrap();
            let mut draft = Draft::create(&folder).unwrap();
            draft.write("secret").unwrap();
            drop(draft);
        }
        assert!(!folder.exists());

        let made = MadeFolder::ensure(&folder).unwrap();
        let mut draft = Draft::create(&folder).unwrap();
        draft.write("secret").unwrap();
        draft.publish(&folder.join("token")).unwrap();
        made.keep();
        let token = folder.join("token");
        assert_eq!(fs::read_to_string(&token).unwrap(), "secret");
        assert_eq!(fs::metadata(&token).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 1);
        fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn token_names_are_file_names() {
        let name = token_name(Path::new("/etc/x/agent.conf"), "proxy.example.com:1444");
        assert_eq!(name, "agent.conf.proxy.example.com_1444.token");
        assert_eq!(token_name(Path::new("a b"), "[::1]:1444"), "a_b.___1__1444.token");
    }

    #[test]
    fn tokens_have_256_bits_and_differ() {
        let token = new_token().unwrap();
        assert_eq!(token.len(), 43);
        assert_ne!(token, new_token().unwrap());
    }
}
