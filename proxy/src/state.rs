//! The state folder: keys, certificates and records of origins.
//!
//! It owns paths, modes, the lock and atomic writes; all of it blocks. It does not own the rules
//! of tokens (`record`), of access ([`crate::access`]) nor of keys ([`crate::tls`]).
//!
//! ```text
//! key.pem cert.pem            of the tunnel port, made at first start, kept: agents pin the key
//! http-key.pem http-cert.pem  of the HTTP port with -t, made at first need, to be replaced
//! origins/NAME                one record per origin
//! origins/NAME.seen           when its agent was last here, and what it was; may be lost
//! spare-pins                  of the spare keys, which lie elsewhere; join codes carry them
//! key.pem.old cert.pem.old    those from before a spare key was taken into use
//! lock                        held for each change; a reader needs no lock
//! serving                     locked by each process that serves (`serving`)
//! control.sock, control.new   of the running server (crate::admin)
//! ```

mod keys;
mod record;
mod serving;

use std::{
    env, fmt, fs,
    fs::{File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, fchown},
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use data_encoding::HEXLOWER;
use ring::{
    digest,
    rand::{SecureRandom, SystemRandom},
};
use rustix::{
    fs::{FlockOperation, OFlags, flock},
    process::geteuid,
};
use spdy_protocol::join::is_origin_name;

use crate::{
    access::Access,
    config,
    tls::{Identity, IdentityError, Made},
};
pub use record::Damaged;
use record::{Hash, Record, Verdict};
pub(crate) use serving::{ControlFolder, Serving};

/// An open state folder.
#[derive(Clone, Debug)]
pub struct State {
    folder: PathBuf,
}

/// Which port a key belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Port {
    /// Agents dial it; they pin its key.
    Tunnel,
    /// Visitors use it when TLS is on.
    Http,
}

/// What tells one version of a key and its certificate from another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Stamp([(SystemTime, u64, u64); 2]);

/// One origin as the state folder knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OriginState {
    /// Its name.
    pub name: String,
    /// Whether an agent has joined.
    pub joined: bool,
    /// How long its join code is still good for, if one waits.
    pub join_left: Option<Duration>,
    /// Which visitors may come in.
    pub access: Access,
    /// When its agent was revoked, until it is paired again.
    pub revoked: Option<SystemTime>,
    /// Why its record cannot be used, if it cannot: nobody speaks for it, and nobody comes in.
    pub unreadable: Option<String>,
    /// Changes when those who were let in before have to go.
    pub(crate) generation: u64,
    /// When its agent came or went last, and its software: a peer's text.
    pub seen: Option<(SystemTime, String)>,
}

/// Why the state folder cannot be used.
#[derive(Debug)]
pub enum StateError {
    /// No folder was named and none can be guessed.
    NoFolder,
    /// A file or folder cannot be read or written.
    Io(PathBuf, io::Error),
    /// A record is damaged, in this line.
    Record(PathBuf, Damaged),
    /// A folder that other users can write to, with its mode: they could give themselves access.
    Exposed(PathBuf, u32),
    /// A folder of another user's, with the number of that one.
    Foreign(PathBuf, u32),
    /// Another server runs on the folder.
    Served,
    /// A key or certificate cannot be used.
    Identity(PathBuf, IdentityError),
    /// The name is not `[a-z0-9-]{1,63}`.
    Name(String),
    /// A key that is none of the spare keys whose pins agents know; its pin.
    StrangeKey([u8; 32]),
    /// No further spare key: join codes have no room for its pin.
    Spares,
}

impl fmt::Display for StateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoFolder => f.write_str("no state folder: give --state-dir"),
            Self::Io(path, error) => write!(f, "{}: {error}", path.display()),
            Self::Identity(path, error) => write!(f, "{}: {error}", path.display()),
            Self::Record(path, error) => write!(f, "{}: {error}", path.display()),
            Self::Exposed(path, mode) => write!(
                f,
                "{0}: other users can write there (mode {mode:04o}): chmod go-w {0}",
                path.display()
            ),
            Self::Foreign(path, owner) => {
                write!(f, "{}: belongs to another user, number {owner}", path.display())
            }
            Self::Served => f.write_str("another spdy-proxy runs on this state folder"),
            Self::StrangeKey(pin) => {
                let pin = HEXLOWER.encode(pin);
                write!(f, "no agent knows this key: its pin {pin} is none of the spare ones")
            }
            Self::Spares => write!(f, "there are {} spare keys already", keys::SPARES),
            Self::Name(name) => write!(f, "{name:?} is no name: [a-z0-9-], 1 to 63 characters"),
        }
    }
}

impl std::error::Error for StateError {}

impl State {
    /// The folder that is used when none is named: `$STATE_DIRECTORY` (systemd), else
    /// `/var/lib/spdy-proxy` if it exists, else `spdy-proxy` in the user's state home.
    ///
    /// # Errors
    /// [`StateError::NoFolder`].
    pub fn default_folder() -> Result<PathBuf, StateError> {
        let set = |name| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let system = || Some(PathBuf::from(SYSTEM_FOLDER)).filter(|folder| folder.is_dir());
        let home = || {
            set("XDG_STATE_HOME")
                .or_else(|| Some(set("HOME")?.join(".local/state")))
                .map(|home| home.join("spdy-proxy"))
        };
        set("STATE_DIRECTORY").or_else(system).or_else(home).ok_or(StateError::NoFolder)
    }

    /// Opens a folder and makes what is missing (mode 0700).
    ///
    /// # Errors
    /// [`StateError::Io`], also when the folder cannot be written: there is no fallback.
    pub fn open(folder: impl Into<PathBuf>) -> Result<Self, StateError> {
        let state = Self { folder: folder.into() };
        let origins = state.folder.join(ORIGINS);
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&origins)
            .and_then(|()| give(&File::open(&origins)?, &state.folder))
            .map_err(|error| StateError::Io(origins.clone(), error))?;
        for folder in [&state.folder, &origins] {
            check_private(folder)?;
        }
        // The lock file proves that we can write.
        state.lock()?;
        Ok(state)
    }

    /// The key and certificate of `port`; made when both are missing, kept from then on.
    ///
    /// # Errors
    /// [`StateError::Io`], [`StateError::Identity`].
    pub fn identity(&self, port: Port) -> Result<Identity, StateError> {
        let [key, certificate] = self.identity_paths(port);
        let _lock = self.lock()?;
        if !exists(&key)? && !exists(&certificate)? {
            let made = Made::new(&keys::NAMES)
                .map_err(|error| StateError::Identity(key.clone(), error))?;
            // The certificate first: a key without one would look like an operator's mistake.
            replace(&certificate, made.certificate.as_bytes())?;
            replace(&key, made.key.as_bytes())?;
        }
        let path = |error: &IdentityError| match error {
            IdentityError::Certificate => certificate.clone(),
            _ => key.clone(),
        };
        Identity::parse(&read(&key)?, &read(&certificate)?)
            .map_err(|error| StateError::Identity(path(&error), error))
    }

    /// Which version of the key and certificate of `port` is there; `None` unless both are.
    pub(crate) fn stamp(&self, port: Port) -> Option<Stamp> {
        let of = |path: &PathBuf| {
            let file = fs::metadata(path).ok()?;
            Some((file.modified().ok()?, file.ino(), file.len()))
        };
        let [key, certificate] = &self.identity_paths(port);
        Some(Stamp([of(key)?, of(certificate)?]))
    }

    /// Makes a join secret for `origin` that is good for `valid`. An earlier one dies; the token
    /// of an origin that has joined stays valid until the new secret is used. Nobody may come in
    /// to a new origin before [`State::set_access`].
    ///
    /// # Errors
    /// [`StateError`].
    pub fn pair(&self, origin: &str, valid: Duration) -> Result<[u8; 16], StateError> {
        self.expect(origin, valid, false)
    }

    /// Makes a join secret for the agent of `origin` to come to a new token; the one in use stays
    /// valid until the new one is used. `None`: there is no token to replace.
    ///
    /// # Errors
    /// [`StateError`].
    pub fn rotate(&self, origin: &str, valid: Duration) -> Result<Option<[u8; 16]>, StateError> {
        let has_token = load(&self.record_path(origin)?)?.has_token();
        has_token.then(|| self.expect(origin, valid, true)).transpose()
    }

    /// Takes from the agent of `origin` all that it could come in by, until it is paired again.
    /// `false`: there is no such origin. A running server has to be told
    /// ([`crate::admin::Command::Reload`]); it cuts the agent's tunnels then.
    ///
    /// # Errors
    /// [`StateError`].
    pub fn revoke(&self, origin: &str) -> Result<bool, StateError> {
        let path = self.record_path(origin)?;
        let _lock = self.lock()?;
        if !exists(&path)? {
            return Ok(false);
        }
        let mut record = load(&path)?;
        record.revoke(SystemTime::now());
        replace(&path, record.format().as_bytes())?;
        Ok(true)
    }

    /// Whether a certificate, for which its authority vouches, may speak for `origin`: `None` when
    /// it is revoked, else the generation. A new one is noted, also where there is no record yet.
    ///
    /// # Errors
    /// [`StateError`].
    pub(crate) fn admit(&self, origin: &str, der: &[u8]) -> Result<Option<u64>, StateError> {
        let (path, certificate) = (self.record_path(origin)?, hash(der));
        let mut record = load(&path)?;
        let Some(is_new) = record.admit(certificate) else { return Ok(None) };
        if is_new {
            let _lock = self.lock()?;
            record = load(&path)?;
            if record.admit(certificate).is_none() {
                return Ok(None);
            }
            replace(&path, record.format().as_bytes())?;
        }
        Ok(Some(record.generation()))
    }

    /// What changes when those who were let in before have to go; `None`: no record.
    ///
    /// # Errors
    /// [`StateError`].
    pub(crate) fn generation(&self, origin: &str) -> Result<Option<u64>, StateError> {
        let path = self.record_path(origin)?;
        Ok(if exists(&path)? { Some(load(&path)?.generation()) } else { None })
    }

    /// Notes that the agent of `origin` is or was here until now. May be lost in a power cut.
    ///
    /// # Errors
    /// [`StateError`].
    pub(crate) fn note_seen(&self, origin: &str, software: &str) -> Result<(), StateError> {
        let path = self.record_path(origin)?.with_extension(SEEN);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        // One writer, the server: the new name needs no lock.
        let new = path.with_extension("seen.new");
        let mut options = OpenOptions::new();
        options
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&new)
            .and_then(|mut file| writeln!(file, "seen {now}\nsoftware {software}"))
            .and_then(|()| fs::rename(&new, &path))
            .map_err(|error| StateError::Io(path, error))
    }

    fn seen(&self, origin: &str) -> Option<(SystemTime, String)> {
        let path = self.record_path(origin).ok()?.with_extension(SEEN);
        let entries = config::parse(&fs::read_to_string(path).ok()?);
        let value = |key| entries.iter().find(|entry| entry.key == key).map(|entry| &entry.value);
        let seconds = Duration::from_secs(value("seen")?.parse().ok()?);
        let software = value("software").cloned().unwrap_or_default();
        Some((UNIX_EPOCH.checked_add(seconds)?, software))
    }

    fn expect(&self, origin: &str, valid: Duration, rotates: bool) -> Result<[u8; 16], StateError> {
        let path = self.record_path(origin)?;
        let mut secret = [0; 16];
        SystemRandom::new().fill(&mut secret).map_err(|_| {
            StateError::Io(self.folder.clone(), io::Error::other("no random octets"))
        })?;
        let expires = SystemTime::now().checked_add(valid).unwrap_or(SystemTime::UNIX_EPOCH);
        let _lock = self.lock()?;
        let mut record = load(&path)?;
        record.expect(hash(&secret), expires, rotates);
        replace(&path, record.format().as_bytes())?;
        Ok(secret)
    }

    /// Which visitors may come in to `origin`; `None` when there is no such origin.
    ///
    /// # Errors
    /// [`StateError`].
    pub fn access(&self, origin: &str) -> Result<Option<Access>, StateError> {
        let path = self.record_path(origin)?;
        Ok(if exists(&path)? { Some(load(&path)?.access().clone()) } else { None })
    }

    /// Changes which visitors may come in to `origin`. A running server has to be told
    /// ([`crate::admin::Command::Reload`]).
    ///
    /// # Errors
    /// [`StateError`].
    pub fn set_access(&self, origin: &str, access: Access) -> Result<(), StateError> {
        let path = self.record_path(origin)?;
        let _lock = self.lock()?;
        let mut record = load(&path)?;
        record.set_access(access);
        replace(&path, record.format().as_bytes())
    }

    /// Uses a join secret: `token` (its SHA-256) speaks for `origin` from now on. `false`: unknown
    /// origin, or the secret is unknown, used or expired.
    ///
    /// # Errors
    /// [`StateError::Io`].
    pub fn join(&self, origin: &str, secret: &[u8], token: [u8; 32]) -> Result<bool, StateError> {
        let Ok(path) = self.record_path(origin) else { return Ok(false) };
        // Without the lock first: strangers may ask, and must not hold up those who change records.
        if !load(&path)?.join(&hash(secret), token, SystemTime::now()) {
            return Ok(false);
        }
        let _lock = self.lock()?;
        let mut record = load(&path)?;
        let joined = record.join(&hash(secret), token, SystemTime::now());
        if joined {
            replace(&path, record.format().as_bytes())?;
        }
        Ok(joined)
    }

    /// Whether `token` speaks for `origin`: the generation of its record, or `None`. With `next`
    /// (the SHA-256 of a new token), that one is registered beside it; the same token once more
    /// changes nothing. Unknown origins and wrong tokens take the same way.
    ///
    /// # Errors
    /// [`StateError::Io`].
    pub fn verify(
        &self,
        origin: &str,
        token: &[u8],
        next: Option<[u8; 32]>,
    ) -> Result<Option<u64>, StateError> {
        let (path, token) = (self.record_path(origin).ok(), hash(token));
        // Who only asks whether its token is good must not void the one that is to follow it.
        let next = next.filter(|next| *next != token);
        let read = || path.as_deref().map_or_else(|| Ok(Record::default()), load);
        let record = read()?;
        let verdict = record.verify(&token);
        let Some(path) = path.as_deref() else { return Ok(None) };
        match verdict {
            Verdict::Refused => return Ok(None),
            Verdict::Valid if next.is_none() => return Ok(Some(record.generation())),
            _ => {}
        }
        let _lock = self.lock()?;
        // Again under the lock: another exchange may have changed it.
        let mut record = load(path)?;
        match record.verify(&token) {
            Verdict::Refused => return Ok(None),
            Verdict::Fresh => record.promote(),
            Verdict::Valid => {}
        }
        if let Some(next) = next {
            record.rotate(next);
        }
        replace(path, record.format().as_bytes())?;
        Ok(Some(record.generation()))
    }

    /// All origins, by name. One whose record cannot be read is there, locked: the others are not to
    /// suffer from it.
    ///
    /// # Errors
    /// [`StateError::Io`]: the folder cannot be read.
    pub fn origins(&self) -> Result<Vec<OriginState>, StateError> {
        let folder = self.folder.join(ORIGINS);
        let failed = |error| StateError::Io(folder.clone(), error);
        let mut origins = Vec::new();
        for entry in fs::read_dir(&folder).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name();
            // Anything else is a file being written, or not ours.
            let Some(name) = name.to_str().filter(|name| is_origin_name(name)) else { continue };
            let (record, unreadable) = match load(&folder.join(name)) {
                Ok(record) => (record, None),
                Err(error) => (Record::default(), Some(error.to_string())),
            };
            origins.push(OriginState {
                name: name.to_owned(),
                joined: record.is_joined(),
                join_left: record.join_left(SystemTime::now()),
                access: record.access().clone(),
                revoked: record.revoked(),
                unreadable,
                generation: record.generation(),
                seen: self.seen(name),
            });
        }
        origins.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(origins)
    }

    fn identity_paths(&self, port: Port) -> [PathBuf; 2] {
        let names = match port {
            Port::Tunnel => ["key.pem", "cert.pem"],
            Port::Http => ["http-key.pem", "http-cert.pem"],
        };
        names.map(|name| self.folder.join(name))
    }

    fn record_path(&self, origin: &str) -> Result<PathBuf, StateError> {
        if !is_origin_name(origin) {
            return Err(StateError::Name(origin.to_owned()));
        }
        Ok(self.folder.join(ORIGINS).join(origin))
    }

    /// Waits for the lock; it is held until the file is dropped.
    fn lock(&self) -> Result<File, StateError> {
        let path = self.folder.join("lock");
        let file =
            OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&path);
        file.and_then(|file| {
            give(&file, &self.folder)?;
            flock(&file, FlockOperation::LockExclusive)?;
            Ok(file)
        })
        .map_err(|error| StateError::Io(path, error))
    }
}

/// Gives a file to the owner of its folder: a command of root's leaves nothing behind that the
/// server, as another user, cannot read.
fn give(file: &File, folder: &Path) -> io::Result<()> {
    let (own, owner) = (file.metadata()?, fs::metadata(folder)?);
    if geteuid().is_root() && (own.uid(), own.gid()) != (owner.uid(), owner.gid()) {
        fchown(file, Some(owner.uid()), Some(owner.gid()))?;
    }
    Ok(())
}

/// SHA-256 of a secret: all that is kept of it.
fn hash(secret: &[u8]) -> Hash {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest::digest(&digest::SHA256, secret).as_ref());
    hash
}

fn exists(path: &Path) -> Result<bool, StateError> {
    path.try_exists().map_err(|error| StateError::Io(path.to_owned(), error))
}

fn read(path: &Path) -> Result<Vec<u8>, StateError> {
    fs::read(path).map_err(|error| StateError::Io(path.to_owned(), error))
}

/// The record at `path`; an empty one when there is no file.
fn load(path: &Path) -> Result<Record, StateError> {
    match read_record(path) {
        Ok(text) => {
            Record::parse(&text).map_err(|error| StateError::Record(path.to_owned(), error))
        }
        // A link that leads nowhere is no record that nobody has written yet.
        Err(error) if error.kind() == io::ErrorKind::NotFound && !path.is_symlink() => {
            Ok(Record::default())
        }
        Err(error) => Err(StateError::Io(path.to_owned(), error)),
    }
}

/// The text of a record. What is no ordinary file, or too long for one, is not waited for.
fn read_record(path: &Path) -> io::Result<String> {
    let flags = OFlags::NONBLOCK.bits().cast_signed();
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    let invalid = |what| io::Error::new(io::ErrorKind::InvalidData, what);
    let meta = file.metadata()?;
    if !meta.is_file() || meta.len() > RECORD_MAX {
        return Err(invalid("not a record"));
    }
    let mut bytes = Vec::new();
    file.take(RECORD_MAX).read_to_end(&mut bytes)?;
    let text = String::from_utf8(bytes).map_err(|_| invalid("not a record: not UTF-8"))?;
    // Every record that was ever written has a line.
    if text.trim().is_empty() {
        return Err(invalid("not a record: empty"));
    }
    Ok(text)
}

/// Whether nobody but root and the user that serves can write to a folder: whoever can replaces
/// records.
fn check_private(folder: &Path) -> Result<(), StateError> {
    let meta = fs::metadata(folder).map_err(|error| StateError::Io(folder.to_owned(), error))?;
    if meta.mode() & OTHERS_WRITE != 0 {
        return Err(StateError::Exposed(folder.to_owned(), meta.mode() & 0o7777));
    }
    let own = geteuid();
    // Root works on the folder of the user that serves.
    if own.is_root() || meta.uid() == own.as_raw() || meta.uid() == 0 {
        Ok(())
    } else {
        Err(StateError::Foreign(folder.to_owned(), meta.uid()))
    }
}

/// Writes a file (mode 0600) so that a crash leaves the old or the new content, never a part.
/// The lock is held, so that one name for what is being written is enough.
fn replace(path: &Path, octets: &[u8]) -> Result<(), StateError> {
    let new = path
        .with_file_name(format!(".{}.new", path.file_name().unwrap_or_default().to_string_lossy()));
    let write = || {
        let mut options = OpenOptions::new();
        let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        file.write_all(octets)?;
        path.parent().map_or(Ok(()), |folder| give(&file, folder))?;
        file.sync_all()?;
        fs::rename(&new, path)?;
        // The rename itself must survive a power cut: a token that is lost locks an agent out.
        path.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all())
    };
    write().map_err(|error| StateError::Io(path.to_owned(), error))
}

const ORIGINS: &str = "origins";
/// Extension of the file beside a record: no name of an origin has one.
const SEEN: &str = "seen";
/// Bytes of the longest record: a rule, hashes of certificates, and what others wrote.
const RECORD_MAX: u64 = 1 << 20;
/// Modes that let others than the owner write.
const OTHERS_WRITE: u32 = 0o022;
const SYSTEM_FOLDER: &str = "/var/lib/spdy-proxy";

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    /// A fresh folder, removed at the end.
    pub(super) struct Folder(pub(super) PathBuf);

    impl Folder {
        pub(in crate::state) fn new(name: &str) -> Self {
            let path = env::temp_dir().join(format!("spdy-proxy-{}-{name}", std::process::id()));
            let _ = fs::remove_dir_all(&path);
            Self(path)
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    const HOUR: Duration = Duration::from_secs(3_600);

    #[test]
    fn a_key_is_made_once_private_and_kept() {
        let folder = Folder::new("key");
        let pin = State::open(&folder.0).unwrap().identity(Port::Tunnel).unwrap().pin();
        let again = State::open(&folder.0).unwrap().identity(Port::Tunnel).unwrap().pin();
        assert_eq!(pin, again);
        assert_ne!(pin, State::open(&folder.0).unwrap().identity(Port::Http).unwrap().pin());
        let mode = |path: &str| fs::metadata(folder.0.join(path)).unwrap().permissions().mode();
        assert_eq!(mode("key.pem") & 0o777, 0o600);
        assert_eq!(mode("") & 0o777, 0o700);
    }

    #[test]
    fn an_unreadable_key_is_an_error_that_names_it() {
        let folder = Folder::new("broken");
        let state = State::open(&folder.0).unwrap();
        state.identity(Port::Tunnel).unwrap();
        fs::write(folder.0.join("key.pem"), "nonsense").unwrap();
        let error = state.identity(Port::Tunnel).unwrap_err();
        assert!(matches!(&error, StateError::Identity(path, IdentityError::Key)
            if path.ends_with("key.pem")));
        fs::remove_file(folder.0.join("key.pem")).unwrap();
        assert!(matches!(state.identity(Port::Tunnel).unwrap_err(), StateError::Io(..)));
    }

    #[test]
    fn pairing_joining_and_verifying_go_by_the_files() {
        let folder = Folder::new("pair");
        let state = State::open(&folder.0).unwrap();
        let token = b"token";
        let secret = state.pair("nas1", HOUR).unwrap();
        assert_eq!(state.verify("nas1", token, None).unwrap(), None);
        assert!(!state.join("nas2", &secret, hash(token)).unwrap());
        assert!(!state.join("../nas1", &secret, hash(token)).unwrap());
        assert!(state.join("nas1", &secret, hash(token)).unwrap());
        assert!(!state.join("nas1", &secret, hash(token)).unwrap());
        let other = State::open(&folder.0).unwrap();
        assert!(other.verify("nas1", token, None).unwrap().is_some());
        assert_eq!(other.verify("nas1", b"wrong", None).unwrap(), None);
        assert_eq!(other.verify("nas2", token, None).unwrap(), None);
        assert_eq!(other.verify("..", token, None).unwrap(), None);
        let kept = fs::read_to_string(folder.0.join("origins/nas1")).unwrap();
        assert!(!kept.contains("token token"));
    }

    #[test]
    fn access_is_kept_beside_the_rest_and_read_without_a_lock() {
        let folder = Folder::new("access");
        let state = State::open(&folder.0).unwrap();
        assert_eq!(state.access("nas1").unwrap(), None);
        let secret = state.pair("nas1", HOUR).unwrap();
        assert_eq!(state.access("nas1").unwrap(), Some(Access::Locked));
        state.set_access("nas1", Access::Open).unwrap();
        assert!(state.join("nas1", &secret, hash(b"token")).unwrap());
        assert!(state.verify("nas1", b"token", Some(hash(b"next"))).unwrap().is_some());
        assert_eq!(state.access("nas1").unwrap(), Some(Access::Open));
        assert_eq!(state.origins().unwrap()[0].access, Access::Open);
        assert!(matches!(state.set_access("../x", Access::Open), Err(StateError::Name(_))));
    }

    #[test]
    fn a_rotation_ends_the_old_token_at_the_first_use_of_the_new() {
        let folder = Folder::new("rotate");
        let state = State::open(&folder.0).unwrap();
        let secret = state.pair("nas1", HOUR).unwrap();
        state.join("nas1", &secret, hash(b"old")).unwrap();
        assert_eq!(state.verify("nas1", b"wrong", Some(hash(b"new"))).unwrap(), None);
        assert_eq!(state.verify("nas1", b"new", None).unwrap(), None);
        assert!(state.verify("nas1", b"old", Some(hash(b"new"))).unwrap().is_some());
        assert!(state.verify("nas1", b"old", None).unwrap().is_some());
        assert!(state.verify("nas1", b"new", None).unwrap().is_some());
        assert_eq!(state.verify("nas1", b"old", None).unwrap(), None);
        assert!(state.verify("nas1", b"new", None).unwrap().is_some());
    }

    #[test]
    fn token_that_is_registered_once_more_changes_nothing() {
        let folder = Folder::new("again");
        let state = State::open(&folder.0).unwrap();
        let secret = state.pair("nas1", HOUR).unwrap();
        state.join("nas1", &secret, hash(b"old")).unwrap();
        let again = |token: &[u8]| state.verify("nas1", token, Some(hash(token))).unwrap();
        assert!(again(b"old").is_some());
        state.verify("nas1", b"old", Some(hash(b"new"))).unwrap();
        assert!(again(b"old").is_some() && state.verify("nas1", b"old", None).unwrap().is_some());
        assert!(again(b"new").is_some());
        assert_eq!(again(b"old"), None);
    }

    #[test]
    fn a_revoked_origin_stays_known_and_a_rotation_needs_a_token() {
        let folder = Folder::new("revoke");
        let state = State::open(&folder.0).unwrap();
        assert!(!state.revoke("nas1").unwrap());
        assert_eq!(state.rotate("nas1", HOUR).unwrap(), None);
        let secret = state.pair("nas1", HOUR).unwrap();
        state.join("nas1", &secret, hash(b"token")).unwrap();
        let generation = state.verify("nas1", b"token", None).unwrap();
        assert_eq!(state.generation("nas1").unwrap(), generation);
        let secret = state.rotate("nas1", HOUR).unwrap().unwrap();
        assert!(state.join("nas1", &secret, hash(b"next")).unwrap());
        assert_eq!(state.verify("nas1", b"token", None).unwrap(), generation);
        assert_eq!(state.verify("nas1", b"next", None).unwrap(), generation);
        assert_eq!(state.verify("nas1", b"token", None).unwrap(), None);
        state.note_seen("nas1", "spdy-agent/1 \u{e4}").unwrap();
        assert!(state.revoke("nas1").unwrap());
        assert_eq!(state.verify("nas1", b"next", None).unwrap(), None);
        assert_ne!(state.generation("nas1").unwrap(), generation);
        assert_eq!(state.rotate("nas1", HOUR).unwrap(), None);
        let origins = state.origins().unwrap();
        assert_eq!(origins.len(), 1);
        assert!(origins[0].revoked.is_some() && !origins[0].joined);
        assert_eq!(origins[0].seen.as_ref().unwrap().1, "spdy-agent/1 \u{e4}");
        assert_eq!(state.generation("nas2").unwrap(), None);
    }

    #[test]
    fn certificates_make_a_record_that_is_locked_and_can_be_revoked() {
        let folder = Folder::new("certificates");
        let state = State::open(&folder.0).unwrap();
        let generation = state.admit("nas1", b"der").unwrap();
        assert_eq!(generation, Some(0));
        assert_eq!(state.admit("nas1", b"der").unwrap(), generation);
        assert_eq!(state.access("nas1").unwrap(), Some(Access::Locked));
        assert!(state.revoke("nas1").unwrap());
        assert_eq!(state.admit("nas1", b"other").unwrap(), None);
        state.pair("nas1", HOUR).unwrap();
        assert_eq!(state.admit("nas1", b"der").unwrap(), None);
        assert!(state.admit("nas1", b"other").unwrap().is_some());
        assert!(matches!(state.admit("../x", b"der"), Err(StateError::Name(_))));
    }

    #[test]
    fn an_expired_code_and_an_odd_name_are_refused() {
        let folder = Folder::new("expired");
        let state = State::open(&folder.0).unwrap();
        let secret = state.pair("nas1", Duration::ZERO).unwrap();
        assert!(!state.join("nas1", &secret, hash(b"token")).unwrap());
        assert!(matches!(state.pair("NAS", HOUR), Err(StateError::Name(_))));
        assert!(matches!(state.pair("../x", HOUR), Err(StateError::Name(_))));
        let names: Vec<_> =
            state.origins().unwrap().into_iter().map(|o| (o.name, o.joined)).collect();
        assert_eq!(names, [("nas1".to_owned(), false)]);
    }

    #[test]
    fn a_folder_that_cannot_be_written_is_an_error() {
        let folder = Folder::new("file");
        fs::write(&folder.0, "not a folder").unwrap();
        assert!(matches!(State::open(&folder.0), Err(StateError::Io(..))));
        fs::remove_file(&folder.0).unwrap();
    }

    #[test]
    fn what_root_makes_belongs_to_who_owns_the_folder() {
        if !geteuid().is_root() {
            // As spdy_tests::skip does, which is above this crate.
            let line = "skipped: spdy_proxy::state::tests: only root can give files away\n";
            let _ = std::io::Write::write_all(&mut std::io::stderr(), line.as_bytes());
            return;
        }
        let folder = Folder::new("given");
        fs::create_dir(&folder.0).unwrap();
        std::os::unix::fs::chown(&folder.0, Some(4_242), Some(4_243)).unwrap();
        let state = State::open(&folder.0).unwrap();
        state.identity(Port::Tunnel).unwrap();
        state.pair("nas1", HOUR).unwrap();
        for name in ["lock", "key.pem", "cert.pem", "origins", "origins/nas1"] {
            let meta = fs::metadata(folder.0.join(name)).unwrap();
            assert_eq!((meta.uid(), meta.gid()), (4_242, 4_243), "{name}");
        }
    }
}
