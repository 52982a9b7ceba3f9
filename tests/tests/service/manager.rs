//! The end of systemd: a socket that programs tell how they are.

use std::{
    os::{
        linux::net::SocketAddrExt as _,
        unix::net::{SocketAddr, UnixDatagram},
    },
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use spdy_tests::fixture::{PATIENCE, Program, TempRoot, tool};

/// Time in which a watchdog wants to hear of a program.
pub(crate) const LIMIT: Duration = Duration::from_secs(1);

pub(crate) struct Manager {
    socket: UnixDatagram,
    address: String,
    _folder: TempRoot,
}

impl Manager {
    /// With a socket in a folder.
    pub(crate) fn new() -> Self {
        let folder = TempRoot::new();
        let path = folder.join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        Self { socket, address: path.to_str().unwrap().to_owned(), _folder: folder }
    }

    /// With one that has an abstract name.
    pub(crate) fn hidden() -> Self {
        let folder = TempRoot::new();
        let name = folder.path().to_str().unwrap();
        let socket = SocketAddr::from_abstract_name(name).unwrap();
        let socket = UnixDatagram::bind_addr(&socket).unwrap();
        Self { socket, address: format!("@{name}"), _folder: folder }
    }

    /// Starts a program as a service with a watchdog.
    pub(crate) fn start(&self, name: &str, command: &mut Command) -> Program {
        let limit = LIMIT.as_micros().to_string();
        command.env("NOTIFY_SOCKET", &self.address).env("WATCHDOG_USEC", limit);
        Program::start(name, command)
    }

    /// What comes next, if it comes in time.
    pub(crate) fn next(&self, patience: Duration) -> Option<String> {
        let mut octets = [0; 4_096];
        self.socket.set_read_timeout(Some(patience.max(Duration::from_millis(1)))).unwrap();
        let len = self.socket.recv(&mut octets).ok()?;
        Some(String::from_utf8(octets[..len].to_vec()).unwrap())
    }

    /// The next message in which all of this stands, and what came before it.
    pub(crate) fn wait_for(&self, parts: &[&str]) -> (String, Vec<String>) {
        let (end, mut before) = (Instant::now() + PATIENCE, Vec::new());
        loop {
            let left = end.saturating_duration_since(Instant::now());
            match self.next(left) {
                Some(said) if parts.iter().all(|part| said.contains(part)) => {
                    return (said, before);
                }
                Some(said) => before.push(said),
                None => panic!("nobody said {parts:?}, but {before:?}"),
            }
        }
    }

    /// Whether the watchdog is fed within so many of its limits, from now on.
    pub(crate) fn is_fed_within(&self, limits: u32) -> bool {
        while self.next(Duration::from_millis(1)).is_some() {}
        let end = Instant::now() + LIMIT * limits;
        while let Some(said) = self.next(end.saturating_duration_since(Instant::now())) {
            if said.contains("WATCHDOG=1") {
                return true;
            }
            if Instant::now() >= end {
                break;
            }
        }
        false
    }
}

/// Keeps a thread in these system calls for as long as this lives; `None`, with the reason printed,
/// where tracing is forbidden.
pub(crate) fn held(thread: u32, calls: &str) -> Option<Program> {
    let trace = ["-qq", "-o", "/dev/null", "-e", &format!("inject={calls}:delay_enter=600000000")];
    let probe = Command::new(tool("strace")).args(["-qq", "-o", "/dev/null", "true"]).output();
    let probe = probe.unwrap();
    if !probe.status.success() {
        let said = String::from_utf8_lossy(&probe.stderr);
        spdy_tests::skip::skipped(format_args!("tracing is forbidden: {said}"));
        return None;
    }
    let mut command = Command::new(tool("strace"));
    command.args(trace).args(["-p", &thread.to_string()]).stdin(Stdio::null());
    Some(Program::start("strace", &mut command))
}
