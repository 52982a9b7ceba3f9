//! The programs under test and what they need around them: folders, files, a TLS identity.
//!
//! It owns how they are started and found. It speaks neither HTTP ([`crate::http`]) nor SPDY
//! ([`crate::wire`]).
//!
//! Helpers of tests: they panic, with what the program printed, instead of returning errors.

mod files;

mod identity;

mod program;

use std::{
    env,
    ffi::OsStr,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, Instant},
};

pub use self::{
    files::{Random, Sha256, TempRoot},
    identity::Identity,
    program::{Pipe, Program},
};

/// Longest wait for something that a program does by itself, such as its listening lines.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// A running `spdy-proxy`; killed when dropped.
#[derive(Debug)]
pub struct Proxy {
    program: Program,
    /// Where HTTP clients connect.
    pub http: SocketAddr,
    /// Where agents connect.
    pub tunnel: SocketAddr,
    state: Option<TempRoot>,
}

impl Proxy {
    /// Starts the proxy on free ports of the loopback with a state folder of its own, then waits
    /// until it listens.
    ///
    /// # Panics
    /// When it does not start.
    #[must_use]
    pub fn start(args: &[&str]) -> Self {
        let state = TempRoot::new();
        let mut proxy = Self::start_in(state.path(), args);
        proxy.state = Some(state);
        proxy
    }

    /// Starts the proxy with a state folder that outlives it.
    ///
    /// # Panics
    /// When it does not start.
    #[must_use]
    pub fn start_in(state: &Path, args: &[&str]) -> Self {
        let mut command = Command::new(binary("spdy-proxy"));
        command.args(["--listen", "127.0.0.1:0", "--tunnel-listen", "127.0.0.1:0", "--state-dir"]);
        command.arg(state).args(args);
        let program = Program::start("spdy-proxy", &mut command);
        let http = program.wait_for("the HTTP address", |line| listening(line, "http"));
        let tunnel = program.wait_for("the tunnel address", |line| listening(line, "tunnel"));
        Self { program, http, tunnel, state: None }
    }

    /// The process.
    #[must_use]
    pub const fn program(&self) -> &Program {
        &self.program
    }

    /// The process, to be ended.
    pub const fn program_mut(&mut self) -> &mut Program {
        &mut self.program
    }

    /// The state folder that [`Proxy::start`] made.
    #[must_use]
    pub fn state_dir(&self) -> Option<&Path> {
        self.state.as_ref().map(TempRoot::path)
    }
}

/// A running `spdy-agent`; killed when dropped.
#[derive(Debug)]
pub struct Agent {
    program: Program,
}

impl Agent {
    /// Starts the agent. It is not waited for: it has no line that says so for every reason to
    /// connect late; see [`crate::http::wait_for_agent`].
    ///
    /// # Panics
    /// When the program is not there.
    #[must_use]
    pub fn start<A: AsRef<OsStr>>(args: &[A]) -> Self {
        let mut command = Command::new(binary("spdy-agent"));
        Self { program: Program::start("spdy-agent", command.args(args)) }
    }

    /// Starts an agent that serves `root`, uploads included, through an anonymous proxy.
    ///
    /// # Panics
    /// When the program is not there.
    #[must_use]
    pub fn serve(root: &Path, proxy: SocketAddr) -> Self {
        let proxy = proxy.to_string();
        let tail = ["--proxy", &proxy, "--insecure", "--allow-write"].map(OsStr::new);
        let mut args = vec![OsStr::new("-r"), root.as_os_str()];
        args.extend(tail);
        Self::start(&args)
    }

    /// The process.
    #[must_use]
    pub const fn program(&self) -> &Program {
        &self.program
    }

    /// The process, to be ended.
    pub const fn program_mut(&mut self) -> &mut Program {
        &mut self.program
    }
}

/// Asks again and again until something is so, for what nobody announces.
///
/// # Panics
/// When it is not after [`PATIENCE`].
pub fn wait_until(what: &str, is_so: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        thread::sleep(Duration::from_millis(5));
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
    let path = profile_dir().join(name);
    assert!(path.is_file(), "{} is missing: run `cargo build --workspace`", path.display());
    path
}

/// The address of a line such as `listening on 127.0.0.1:1443 http`.
fn listening(line: &str, kind: &str) -> Option<SocketAddr> {
    let (_, rest) = line.split_once("listening on ")?;
    let mut words = rest.split_whitespace();
    let address = words.next()?.parse().ok()?;
    (words.next() == Some(kind)).then_some(address)
}

/// `target/debug` of a test in `target/debug/deps`.
fn profile_dir() -> PathBuf {
    let test = env::current_exe().unwrap_or_else(|error| panic!("{error}"));
    let dir = test.ancestors().nth(2);
    dir.map_or_else(|| panic!("{} has no folder above", test.display()), Path::to_path_buf)
}

#[cfg(test)]
mod tests {
    use super::listening;

    #[test]
    fn listening_lines_are_told_apart() {
        let line = "listening on 127.0.0.1:1443 http";
        assert_eq!(listening(line, "http"), "127.0.0.1:1443".parse().ok());
        assert_eq!(listening(line, "tunnel"), None);
        assert_eq!(listening("listening on nothing http", "http"), None);
    }
}
