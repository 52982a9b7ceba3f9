//! A proxy and agents that were paired and joined as an operator does it.
//!
//! It knows the two command lines and which builds there are, and nothing of what goes on between
//! the programs. Anonymous pairs are [`crate::fixture`]'s.
//!
//! Helpers of tests: they panic, with what the program printed, instead of returning errors.

use std::{
    env,
    io::Write as _,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use crate::fixture::Program;

/// The two programs, wherever they were built.
#[derive(Clone, Debug)]
pub struct Builds {
    /// Path of `spdy-proxy`.
    pub proxy: PathBuf,
    /// Path of `spdy-agent`.
    pub agent: PathBuf,
}

impl Builds {
    /// The programs of the build that the running test belongs to.
    ///
    /// # Panics
    /// When they were not built: `cargo build --workspace` first.
    #[must_use]
    pub fn tested() -> Self {
        let own = own_path();
        // target/PROFILE/deps/test-0123, or a program in target/PROFILE.
        let profile = own.ancestors().skip(1).find(|folder| !folder.ends_with("deps"));
        let profile = profile.unwrap_or_else(|| panic!("{} has no folder", own.display()));
        Self { proxy: profile.join("spdy-proxy"), agent: profile.join("spdy-agent") }.checked()
    }

    /// The programs as shipped: the proxy of profile `release`, the agent of profile `nas`.
    ///
    /// # Panics
    /// When they were not built; `make bench` and `make demo` build them.
    #[must_use]
    pub fn shipped() -> Self {
        let own = own_path();
        let target = own.ancestors().find(|folder| folder.join("release").is_dir());
        let target = target.unwrap_or_else(|| panic!("no release build near {}", own.display()));
        let agent = target.join("nas").join("spdy-agent");
        Self { proxy: target.join("release").join("spdy-proxy"), agent }.checked()
    }

    fn checked(self) -> Self {
        for path in [&self.proxy, &self.agent] {
            assert!(path.is_file(), "{} is not built", path.display());
        }
        self
    }

    /// Starts a proxy on ports that the kernel chooses; `state` is its state folder, `more` come
    /// after the arguments for ports and state.
    ///
    /// # Panics
    /// When it does not come to listen.
    #[must_use]
    pub fn start_proxy(&self, state: &Path, more: &[&str]) -> PairingProxy {
        let mut command = Command::new(&self.proxy);
        command.args(["--listen", "127.0.0.1:0", "--tunnel-listen", "127.0.0.1:0", "--state-dir"]);
        command.arg(state).args(more);
        let program = Program::start("spdy-proxy", &mut command);
        let listening = |kind: &str| program.wait_for(kind, |line| address(line, kind));
        let (http, tunnel) = (listening("http"), listening("tunnel"));
        let (build, state) = (self.proxy.clone(), state.to_owned());
        PairingProxy { program, http, tunnel, build, state }
    }

    /// `spdy-agent join`: writes the configuration `config`. The code goes through standard input.
    ///
    /// # Panics
    /// When the program fails.
    pub fn join(&self, code: &str, config: &Path) {
        let mut command = Command::new(&self.agent);
        let mut child = command
            .args(["join", "--config"])
            .arg(config)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?}: {error}"));
        if let Some(mut stdin) = child.stdin.take() {
            // A program that ended early says below why.
            let _ = writeln!(stdin, "{code}");
        }
        let output = child.wait_with_output().unwrap_or_else(|error| panic!("join: {error}"));
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "join: {}: {said}", output.status);
    }

    /// Starts an agent that serves `root` with a configuration that [`Builds::join`] wrote. It is
    /// not waited for: that its tunnel is up is seen at the proxy.
    ///
    /// # Panics
    /// When it cannot be started.
    #[must_use]
    pub fn start_agent(&self, root: &Path, config: &Path, more: &[&str]) -> Program {
        let mut command = Command::new(&self.agent);
        command.arg("-r").arg(root).arg("--config").arg(config).args(more);
        Program::start("spdy-agent", &mut command)
    }
}

/// A running proxy that agents can be paired with.
#[derive(Debug)]
pub struct PairingProxy {
    /// The process.
    pub program: Program,
    /// Where HTTP clients connect.
    pub http: SocketAddr,
    /// Where agents connect.
    pub tunnel: SocketAddr,
    build: PathBuf,
    state: PathBuf,
}

impl PairingProxy {
    /// `spdy-proxy pair`: a join code for `name` that leads to `address`.
    ///
    /// # Panics
    /// When the program fails or prints nothing.
    #[must_use]
    pub fn pair(&self, name: &str, address: SocketAddr) -> String {
        let mut command = Command::new(&self.build);
        command.args(["pair", name, "--address", &address.to_string(), "--state-dir"]);
        let output = command.arg(&self.state).output();
        let output = output.unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "pair: {}: {said}", output.status);
        let text = String::from_utf8_lossy(&output.stdout);
        let code = text.lines().last().map(str::trim).filter(|line| !line.is_empty());
        code.unwrap_or_else(|| panic!("pair printed no join code: {text}")).to_owned()
    }
}

/// The address of `listening on ADDRESS KIND`.
fn address(line: &str, kind: &str) -> Option<SocketAddr> {
    let (_, rest) = line.split_once("listening on ")?;
    let mut words = rest.split_whitespace();
    let address = words.next()?.parse().ok()?;
    (words.next() == Some(kind)).then_some(address)
}

fn own_path() -> PathBuf {
    env::current_exe().unwrap_or_else(|error| panic!("{error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_of_each_kind_is_read() {
        let line = "info listening on [::1]:1444 tunnel";
        assert_eq!(address(line, "tunnel"), Some("[::1]:1444".parse().unwrap()));
        assert_eq!(address(line, "http"), None);
    }
}
