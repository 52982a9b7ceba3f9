//! Other people's SPDY stacks as agents and proxies: npm's `spdy-transport` and Debian's Go framer.
//!
//! It owns how their programs (`tests/peers`) are started and what their output means. What they
//! are asked to do is in [`scenario`].

pub mod scenario;

use std::{
    collections::BTreeMap,
    ffi::OsString,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;

use crate::fixture::{Identity, PATIENCE, Pipe, Program, TempRoot, target_dir, tool};

/// Whose stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stack {
    /// npm's `spdy-transport` 3.0.0.
    Node,
    /// The framer of Debian's golang-github-docker-spdystream-dev under flow control of our own.
    Go,
}

impl Stack {
    /// Starts an agent of this stack that serves `root` through the proxy at `proxy`. `flags` are
    /// the program's own.
    ///
    /// # Panics
    /// When the stack is not installed.
    #[must_use]
    pub fn agent(self, proxy: SocketAddr, root: &Path, flags: &[&str]) -> PeerAgent {
        let mut command = self.command("agent");
        command.args(["--proxy", &proxy.to_string(), "--root"]).arg(root).args(flags);
        PeerAgent { program: Program::start(&format!("{self:?} agent"), &mut command) }
    }

    /// Starts a proxy of this stack that sends `wanted` to the first agent that dials it.
    ///
    /// # Panics
    /// When the stack is not installed or does not listen.
    #[must_use]
    pub fn proxy(self, wanted: &[Wanted], flags: &[&str]) -> PeerProxy {
        let root = TempRoot::new();
        let identity = Identity::generate();
        let mut command = self.command("proxy");
        command.arg("--cert").arg(root.write("cert.pem", identity.certificate_pem.as_bytes()));
        command.arg("--key").arg(root.write("key.pem", identity.key_pem.as_bytes()));
        command.args(flags);
        for one in wanted {
            command.args(one.flag());
        }
        let program = Program::start(&format!("{self:?} proxy"), &mut command);
        let address = program.wait_for("its address", |line| {
            let line: Value = serde_json::from_str(line).ok()?;
            (line["event"] == "listening").then(|| line["address"].as_str()?.parse().ok())?
        });
        PeerProxy { program, address, _identity: root }
    }

    fn command(self, role: &str) -> Command {
        match self {
            Self::Node => {
                let modules = installed("node/node_modules");
                let mut command = Command::new(tool("node"));
                command.env("NODE_PATH", modules).arg(script(&format!("node/{role}.js")));
                command
            }
            Self::Go => {
                let mut command = Command::new(installed("spdy-peer-go"));
                command.arg(role);
                command
            }
        }
    }
}

/// An agent of another stack; killed when dropped.
#[derive(Debug)]
pub struct PeerAgent {
    program: Program,
}

impl PeerAgent {
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

/// A proxy of another stack; killed when dropped.
#[derive(Debug)]
pub struct PeerProxy {
    program: Program,
    /// Where it waits for the agent.
    pub address: SocketAddr,
    _identity: TempRoot,
}

impl PeerProxy {
    /// Waits until all requests have been answered and returns the answers in the order of their
    /// ends.
    ///
    /// # Panics
    /// When the program ends with a failure, such as a request without answer or a breach of the
    /// protocol.
    #[must_use]
    pub fn finish(mut self) -> Vec<Exchange> {
        let status = self.program.wait_exit(2 * PATIENCE);
        assert!(status.success(), "{status}:\n{}", self.program.text());
        self.program.lines(Pipe::Stdout).iter().filter_map(|line| Exchange::parse(line)).collect()
    }
}

/// A request that a proxy of another stack is to make.
#[derive(Clone, Debug)]
pub enum Wanted {
    /// GET of a path.
    Get(String),
    /// HEAD of a path.
    Head(String),
    /// GET of the octets from the first to the last, both included.
    Range(u64, u64, String),
    /// PUT of a file.
    Put(PathBuf, String),
}

impl Wanted {
    fn flag(&self) -> [OsString; 2] {
        match self {
            Self::Get(path) => ["--get".into(), path.into()],
            Self::Head(path) => ["--head".into(), path.into()],
            Self::Range(first, last, path) => {
                ["--range".into(), format!("{first}-{last}:{path}").into()]
            }
            Self::Put(file, path) => {
                let mut value = file.clone().into_os_string();
                value.push(":");
                value.push(path);
                ["--put".into(), value]
            }
        }
    }
}

/// An answer that a proxy of another stack received.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exchange {
    /// Method of the request.
    pub method: String,
    /// Path of the request.
    pub path: String,
    /// Status of the answer.
    pub status: u64,
    /// Octets of its body.
    pub len: u64,
    /// SHA-256 of its body, hexadecimal.
    pub sha256: String,
    /// Its headers that have a single value.
    pub headers: BTreeMap<String, String>,
}

impl Exchange {
    fn parse(line: &str) -> Option<Self> {
        let line: Value = serde_json::from_str(line).ok()?;
        let text = |name: &str| line[name].as_str().map(str::to_owned);
        let headers = line["headers"].as_object()?.iter();
        Some(Self {
            method: text("method")?,
            path: text("path")?,
            status: line["status"].as_u64()?,
            len: line["length"].as_u64()?,
            sha256: text("sha256")?,
            headers: headers
                .filter_map(|(name, value)| Some((name.clone(), value.as_str()?.to_owned())))
                .collect(),
        })
    }
}

/// A file below `tests/peers`.
#[must_use]
pub fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("peers").join(name)
}

/// What `scripts/peers-setup.sh` put below the target folder.
///
/// # Panics
/// When it is not there.
#[must_use]
pub fn installed(name: &str) -> PathBuf {
    let path = target_dir().join("peers").join(name);
    assert!(path.exists(), "{} is missing: run scripts/peers-setup.sh", path.display());
    path
}
