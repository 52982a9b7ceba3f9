//! The binary, running.

use std::{
    io::{BufRead, BufReader},
    net::{SocketAddr, TcpStream},
    process::{Child, Command, Stdio},
};

use spdy_proxy::state::{Port, State};

use super::{Folder, Visitor};

pub fn program(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_spdy-proxy"));
    command.args(args).env_remove("STATE_DIRECTORY").env_remove("XDG_STATE_HOME");
    command
}

/// A running program; killed at the end.
pub struct Running {
    pub child: Child,
    pub stderr: BufReader<std::process::ChildStderr>,
    pub http: SocketAddr,
    pub tunnel: SocketAddr,
    pub folder: Folder,
}

impl Running {
    pub fn start(more: &[&str]) -> Self {
        let folder = Folder::new();
        let state = folder.0.to_str().unwrap().to_owned();
        let mut args = vec!["--listen=127.0.0.1:0", "--tunnel-listen", "127.0.0.1:0"];
        args.extend(["--debug", "--state-dir", &state]);
        args.extend(more);
        let mut child = program(&args).stderr(Stdio::piped()).spawn().unwrap();
        let mut stderr = BufReader::new(child.stderr.take().unwrap());
        let mut line = || {
            let mut line = String::new();
            stderr.read_line(&mut line).unwrap();
            line
        };
        let mut address = |suffix: &str| {
            let line = line();
            let address = line.strip_prefix("listening on ").unwrap();
            address.strip_suffix(suffix).unwrap().parse().unwrap()
        };
        let (http, tunnel) = (address(" http\n"), address(" tunnel\n"));
        Self { child, stderr, http, tunnel, folder }
    }

    pub fn state(&self) -> &str {
        self.folder.0.to_str().unwrap()
    }

    /// The pin of its tunnel port.
    pub fn pin(&self) -> [u8; 32] {
        State::open(&self.folder.0).unwrap().identity(Port::Tunnel).unwrap().pin()
    }

    /// Its `/debug` page.
    pub fn debug(&self) -> String {
        let mut visitor = Visitor::new(TcpStream::connect(self.http).unwrap());
        visitor.send("GET /debug HTTP/1.1\r\nHost: x\r\n\r\n");
        visitor.answer().text().to_owned()
    }

    pub fn signal(&self, name: &str) {
        let id = self.child.id().to_string();
        assert!(Command::new("kill").args(["-s", name, &id]).status().unwrap().success());
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
