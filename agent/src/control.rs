//! The socket on which a running agent answers `status`, `doctor` and `rotate`.
//!
//! It owns where the socket lies, who may use it (the user of the agent, and root), and the form of
//! a question: one line, answered by an exit code in a line and a text. What is answered is
//! [`crate::daemon`]'s.

use std::{
    env, fs,
    io::{self, Read as _, Write as _},
    os::unix::{
        fs::{DirBuilderExt as _, PermissionsExt as _},
        net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
    time::Duration,
};

use async_io::{Async, Timer};
use futures_lite::{AsyncReadExt as _, AsyncWriteExt as _, future::or};
use spdy_protocol::digits::HEX;

use crate::verify::sha256;

/// A listening socket.
#[derive(Debug)]
pub struct Control {
    listener: Async<UnixListener>,
    path: PathBuf,
}

/// What an agent answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Exit code for who asked: 0 if all is well.
    pub code: u8,
    /// For standard output.
    pub text: String,
}

/// Somebody who asks.
#[derive(Debug)]
pub struct Caller(Async<UnixStream>);

impl Control {
    /// Listens in the first folder that can be used. `config`: the file that the agent runs with;
    /// the name of the socket follows from it, so that it can be found again, or from the number of
    /// the process.
    ///
    /// # Errors
    /// That of the last folder.
    pub fn open(config: Option<&Path>) -> io::Result<Self> {
        let mut failed = io::Error::from(io::ErrorKind::NotFound);
        for folder in folders(config) {
            match Self::open_in(&folder, config) {
                Ok(control) => return Ok(control),
                Err(error) => failed = error,
            }
        }
        Err(failed)
    }

    /// Where it listens.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The next who asks.
    ///
    /// # Errors
    /// No descriptor is left; it may be tried again after a while.
    pub async fn accept(&self) -> io::Result<Caller> {
        Ok(Caller(self.listener.accept().await?.0))
    }

    /// Takes the name away: nobody finds the agent any more.
    pub fn close(&self) {
        let _ = fs::remove_file(&self.path);
    }

    fn open_in(folder: &Path, config: Option<&Path>) -> io::Result<Self> {
        if !folder.is_dir() {
            fs::DirBuilder::new().mode(0o700).create(folder)?;
        }
        sweep(folder, SWEPT_AFTER);
        let own = config.map_or_else(|| "process".to_owned(), name_of);
        // Another agent may run with the same file, or the one before may not have ended yet.
        let also = folder.join(format!("{own}-{}{SUFFIX}", std::process::id()));
        let bound = match config {
            Some(_) => bind(&folder.join(own + SUFFIX)).or_else(|_| bind(&also)),
            None => bind(&also),
        };
        let (listener, path) = bound?;
        let control = Self { listener: Async::new(listener)?, path };
        fs::set_permissions(&control.path, fs::Permissions::from_mode(0o600))?;
        Ok(control)
    }
}

impl Caller {
    /// What is asked.
    ///
    /// # Errors
    /// It is too long, no text, or does not come in time.
    pub async fn question(&mut self) -> io::Result<String> {
        let mut line = Vec::new();
        let read = async {
            let mut octet = [0];
            while line.len() < QUESTION_MAX && self.0.read(&mut octet).await? > 0 {
                if octet[0] == b'\n' {
                    return String::from_utf8(line).map_err(io::Error::other);
                }
                line.push(octet[0]);
            }
            Err(io::ErrorKind::InvalidData.into())
        };
        or(read, late()).await
    }

    /// Answers.
    ///
    /// # Errors
    /// It went away, or does not read.
    pub async fn answer(mut self, answer: &Answer) -> io::Result<()> {
        let text = format!("{}\n{}", answer.code, answer.text);
        or(self.0.write_all(text.as_bytes()), late()).await
    }
}

/// Asks the agent behind a socket, and waits for at most `patience`. Blocks.
///
/// # Errors
/// Nobody listens there, or not to us, or not in time.
pub fn ask(path: &Path, question: &str, patience: Duration) -> io::Result<Answer> {
    let mut stream = UnixStream::connect(path)?;
    stream.set_read_timeout(Some(patience))?;
    stream.set_write_timeout(Some(patience))?;
    stream.write_all(format!("{question}\n").as_bytes())?;
    let mut text = String::new();
    stream.take(ANSWER_MAX).read_to_string(&mut text)?;
    let (code, text) = text.split_once('\n').ok_or(io::ErrorKind::UnexpectedEof)?;
    let code = code.parse().map_err(|_| io::ErrorKind::InvalidData)?;
    Ok(Answer { code, text: text.to_owned() })
}

/// Sockets of agents: of those that run with a file, if that is `only`, or of all.
#[must_use]
pub fn find(config: Option<&Path>, only: bool) -> Vec<PathBuf> {
    let named = config.filter(|_| only).map(name_of);
    let prefixes = named.as_deref().map_or(PREFIXES.to_vec(), |named| vec![named]);
    let folders = folders(config);
    let all = folders.iter().flat_map(|folder| sockets_in(folder, &prefixes));
    let mut found: Vec<_> = all.take(FOUND_MAX).collect();
    found.sort();
    found.dedup();
    found
}

/// Where sockets may lie, the best place first.
fn folders(config: Option<&Path>) -> Vec<PathBuf> {
    let set = |name| env::var_os(name).filter(|value| !value.is_empty());
    // systemd may give several, separated by colons.
    let runtime = set("RUNTIME_DIRECTORY").map(|folders| {
        let text = folders.to_string_lossy().into_owned();
        PathBuf::from(text.split(':').next().unwrap_or_default())
    });
    let user = set("XDG_RUNTIME_DIR").map(|folder| Path::new(&folder).join("spdy-agent"));
    let beside = config.map(|config| {
        let folder = config.parent().filter(|folder| !folder.as_os_str().is_empty());
        folder.unwrap_or(Path::new(".")).to_owned()
    });
    // OpenWrt up to 24.10 has no /run.
    let system = SYSTEM_FOLDERS.map(Path::new).into_iter().find(|folder| folder.is_dir());
    let system = system.map(|folder| folder.join("spdy-agent"));
    let all = [runtime, system, user, beside];
    let mut folders: Vec<PathBuf> = all.into_iter().flatten().collect();
    folders.dedup();
    folders
}

/// How the name of the socket of an agent begins that runs with this file.
fn name_of(config: &Path) -> String {
    let path = fs::canonicalize(config).unwrap_or_else(|_| config.to_owned());
    let hash = sha256(path.as_os_str().as_encoded_bytes());
    format!("{}{}", PREFIXES[0], HEX.encode(&hash[..8]))
}

/// Binds, over what a killed agent left behind, too.
fn bind(path: &Path) -> io::Result<(UnixListener, PathBuf)> {
    let bound = match UnixListener::bind(path) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => match UnixStream::connect(path) {
            Err(dead) if dead.kind() == io::ErrorKind::ConnectionRefused => {
                fs::remove_file(path)?;
                UnixListener::bind(path)
            }
            _ => Err(error),
        },
        bound => bound,
    };
    Ok((bound?, path.to_owned()))
}

/// Removes what killed agents left behind. A fresh one may be about to listen.
fn sweep(folder: &Path, age: Duration) {
    for path in sockets_in(folder, &PREFIXES).take(FOUND_MAX) {
        let made = fs::metadata(&path).and_then(|meta| meta.modified()).ok();
        let is_old = made.and_then(|made| made.elapsed().ok()).is_some_and(|is| is >= age);
        let is_dead = is_old
            && UnixStream::connect(&path)
                .is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused);
        if is_dead {
            let _ = fs::remove_file(path);
        }
    }
}

fn sockets_in<'p>(folder: &Path, prefixes: &'p [&str]) -> impl Iterator<Item = PathBuf> + use<'p> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter_map(move |entry| {
        let name = entry.file_name();
        let name = name.to_str()?.strip_suffix(SUFFIX)?;
        prefixes.iter().any(|prefix| name.starts_with(prefix)).then(|| entry.path())
    })
}

async fn late<T>() -> io::Result<T> {
    Timer::after(CALLER_MAX).await;
    Err(io::ErrorKind::TimedOut.into())
}

const SYSTEM_FOLDERS: [&str; 2] = ["/run", "/var/run"];
/// How names of sockets begin: `config-HASH`, `process`.
const PREFIXES: [&str; 2] = ["config-", "process-"];
const SUFFIX: &str = ".sock";
/// Octets of a question.
const QUESTION_MAX: usize = 64;
/// Octets of an answer that are read.
const ANSWER_MAX: u64 = 1 << 20;
/// Time that who asks has to ask, and to read the answer.
const CALLER_MAX: Duration = Duration::from_secs(5);
/// Age at which the socket of nobody is removed.
const SWEPT_AFTER: Duration = Duration::from_secs(60);
/// Sockets that are looked at.
const FOUND_MAX: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let name = format!("spdy-agent-control-{}-{name}", std::process::id());
            let path = env::temp_dir().join(name);
            let _ = fs::remove_dir_all(&path);
            Self(path)
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn agents_of_one_folder_do_not_collide_and_outlive_the_dead() {
        let folder = Folder::new("collide");
        let config = folder.0.join("agent.conf");
        let first = Control::open_in(&folder.0, Some(&config)).unwrap();
        let second = Control::open_in(&folder.0, Some(&config)).unwrap();
        assert_ne!(first.path(), second.path());
        let modes = [&folder.0, &first.path]
            .map(|path| fs::metadata(path).unwrap().permissions().mode() & 0o777);
        assert_eq!(modes, [0o700, 0o600]);
        // A killed one leaves its file: the next takes the name over.
        let path = first.path.clone();
        drop(first);
        assert!(path.exists());
        let third = Control::open_in(&folder.0, Some(&config)).unwrap();
        assert_eq!(third.path(), path);
        // What nobody takes over is swept, but not at once.
        let gone = folder.0.join("process-1.sock");
        drop(UnixListener::bind(&gone).unwrap());
        sweep(&folder.0, SWEPT_AFTER);
        assert!(gone.exists());
        sweep(&folder.0, Duration::ZERO);
        assert!(!gone.exists() && path.exists());
        third.close();
        assert!(!path.exists() && second.path().exists());
    }

    #[test]
    fn question_is_one_short_line() {
        let folder = Folder::new("question");
        let control = Control::open_in(&folder.0, None).unwrap();
        let path = control.path.clone();
        let asking = std::thread::spawn(move || {
            let long = UnixStream::connect(&path).unwrap();
            (&long).write_all(&[b'x'; 2 * QUESTION_MAX]).unwrap();
            ask(&path, "status", Duration::from_secs(20)).unwrap()
        });
        async_io::block_on(async {
            assert!(control.accept().await.unwrap().question().await.is_err());
            let mut caller = control.accept().await.unwrap();
            assert_eq!(caller.question().await.unwrap(), "status");
            caller.answer(&Answer { code: 1, text: "a\nb\n".to_owned() }).await.unwrap();
        });
        assert_eq!(asking.join().unwrap(), Answer { code: 1, text: "a\nb\n".to_owned() });
    }
}
