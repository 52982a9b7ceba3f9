//! The programs under test and what they need around them: folders, files, a TLS identity.
//!
//! It owns how they are built, started, paired, joined, found and measured. It speaks neither HTTP
//! ([`crate::http`], [`crate::visitor`]) nor SPDY ([`crate::wire`]).
//!
//! Helpers of tests and of the bench: they panic, with what the program printed, instead of
//! returning errors.

mod pair;

mod program;

mod cost;

mod files;

mod identity;

mod machine;

use std::{
    env,
    ffi::OsStr,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, Instant},
};

pub use self::{
    cost::Cost,
    files::{Random, Sha256, TempRoot},
    identity::Identity,
    machine::{MACHINES, Machine},
    pair::{Agent, Pair, Proxy, join},
    program::{Pipe, Program, finished, output},
};

/// Longest wait for something that a program does by itself, such as its listening lines.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// The two programs, wherever they were built.
#[derive(Clone, Debug)]
pub struct Builds {
    /// Path of `spdy-proxy`.
    pub proxy: PathBuf,
    /// Path of `spdy-agent`.
    pub agent: PathBuf,
    /// Whose agent it is, if not this machine's.
    machine: Option<Machine>,
}

impl Builds {
    /// Programs of this machine, wherever they are.
    #[must_use]
    pub const fn at(proxy: PathBuf, agent: PathBuf) -> Self {
        Self { proxy, agent, machine: None }
    }

    /// The programs of the build that the running test belongs to. With `MODEL_BUILDS=DIR` in the
    /// environment they are those of that directory, such as the build of an older commit; with
    /// `SPDY_MACHINE=NAME` the agent is that of [`Machine::named`].
    ///
    /// # Panics
    /// When they were not built.
    #[must_use]
    pub fn beside() -> Self {
        if let Some(dir) = env::var_os("MODEL_BUILDS").map(PathBuf::from) {
            return Self::at(built(dir.join("spdy-proxy")), built(dir.join("spdy-agent")));
        }
        match env::var("SPDY_MACHINE") {
            Ok(name) => Self::of(Machine::named(&name)),
            Err(_) => {
                Self { proxy: binary("spdy-proxy"), agent: binary("spdy-agent"), machine: None }
            }
        }
    }

    /// The same, but for the agent, which is that of another machine.
    ///
    /// # Panics
    /// When one was not built, or cannot be.
    #[must_use]
    pub fn of(machine: Machine) -> Self {
        Self { machine: Some(machine), ..Self::crossed(machine.target) }
    }

    /// The agent, its arguments to be added, behind the words of another command such as `strace`,
    /// whose process must become the agent's.
    ///
    /// # Panics
    /// When its machine has no emulator.
    #[must_use]
    pub fn agent_behind(&self, before: &[&str]) -> Command {
        let emulator = self.machine.map_or_else(Vec::new, |machine| machine.emulator());
        let words = before.iter().map(OsStr::new).chain(emulator.iter().map(AsRef::as_ref));
        let mut words = words.chain([self.agent.as_os_str()]);
        let mut command = Command::new(words.next().unwrap_or_default());
        command.args(words);
        command
    }

    /// Whether the agent runs in an emulator, whose memory and system calls are not its own.
    #[must_use]
    pub const fn is_emulated(&self) -> bool {
        self.machine.is_some()
    }

    /// The programs as shipped: the proxy of profile `release`, the agent of profile `nas`.
    ///
    /// # Panics
    /// When they were not built; `make bench` builds them.
    #[must_use]
    pub fn shipped() -> Self {
        let target = target_dir();
        Self {
            proxy: built(target.join("release/spdy-proxy")),
            agent: built(target.join("nas/spdy-agent")),
            machine: None,
        }
    }

    /// The agent that `cross/build` makes for a target of Rust, and has made unless it is missing or
    /// older than its sources; with the proxy of the test's build.
    ///
    /// # Panics
    /// When one was not built, or cannot be.
    #[must_use]
    pub fn crossed(target: &str) -> Self {
        Self { proxy: binary("spdy-proxy"), agent: machine::agent(target), machine: None }
    }
}

/// Asks again and again until something is so, for what nobody announces.
///
/// # Panics
/// When it is not after [`PATIENCE`].
pub fn wait_until(what: &str, is_so: impl Fn() -> bool) {
    wait_within(PATIENCE, Duration::from_millis(5), what, is_so);
}

/// The same for as long as `limit`, with a `pause` between two questions: for what is slow, or costs
/// something to ask.
///
/// # Panics
/// When it is not so after `limit`.
pub fn wait_within(limit: Duration, pause: Duration, what: &str, is_so: impl Fn() -> bool) {
    let deadline = Instant::now() + limit;
    while !is_so() {
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        thread::sleep(pause);
    }
}

/// The folder that cargo builds into.
///
/// # Panics
/// When a test does not run from there.
#[must_use]
pub fn target_dir() -> PathBuf {
    profile_dir().parent().map_or_else(|| panic!("no target folder"), Path::to_path_buf)
}

/// A program of this workspace, built by `cargo build` in the profile of the test.
///
/// # Panics
/// When it is not there.
#[must_use]
pub fn binary(name: &str) -> PathBuf {
    built(profile_dir().join(name))
}

/// A program of the machine.
///
/// # Panics
/// When it is not there, with the command that installs it.
#[must_use]
pub fn tool(name: &str) -> PathBuf {
    let paths = env::var_os("PATH").unwrap_or_default();
    let found = env::split_paths(&paths).map(|dir| dir.join(name)).find(|path| path.is_file());
    found.unwrap_or_else(|| panic!("{name} is missing: run scripts/setup.sh test"))
}

fn built(path: PathBuf) -> PathBuf {
    assert!(path.is_file(), "{} is missing: run `cargo build --workspace`", path.display());
    path
}

/// `target/debug` of a test in `target/debug/deps` or of a program in `target/debug`.
fn profile_dir() -> PathBuf {
    let own = env::current_exe().unwrap_or_else(|error| panic!("{error}"));
    let dir = own.ancestors().skip(1).find(|dir| !dir.ends_with("deps"));
    dir.map_or_else(|| panic!("{} has no folder above", own.display()), Path::to_path_buf)
}
