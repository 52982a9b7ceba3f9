//! The server as a program: its sockets, its signals, its successor.
//!
//! TERM and INT end it. HUP reads keys, certificates and records again and, if the configuration
//! file has changed, does as USR2. USR2 starts the program anew from the same command line and
//! gives way to that process.

use std::{
    env,
    ffi::OsString,
    fs,
    io::{self, Write},
    net::SocketAddr,
    path::PathBuf,
    process,
    time::Duration,
};

use async_io::Timer;
use async_signal::{Signal, Signals};
use futures_lite::{StreamExt, future};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::Failed;
use crate::{
    args::{self, Command, Serve},
    handover::{self, Predecessor},
    inherit::Inherited,
    log::Log,
    notify::notify,
    server::{Operator, Server},
    state::State,
};

/// Serves as `serve` says until told to end; `words` are the command line that said so.
pub(super) fn run(serve: Serve, words: Vec<OsString>) -> Result<(), Failed> {
    let Serve { mut settings, config } = serve;
    if settings.state_dir.as_os_str().is_empty() {
        settings.state_dir = State::default_folder().map_err(Failed::State)?;
    }
    let (log, files) = (settings.log, settings.timings.files);
    let (predecessor, inherited) = if env::var_os(handover::VARIABLE).is_some() {
        let (predecessor, inherited) = Predecessor::from_stdin().map_err(Failed::Io)?;
        (Some(predecessor), inherited)
    } else {
        (None, Inherited::from_systemd(&settings.tunnel_listen).map_err(Failed::Io)?)
    };
    let is_first = predecessor.is_none();
    raise_descriptors();
    let server = Server::bind_with(settings, inherited, predecessor).map_err(Failed::Start)?;
    // Before the lines below: who reads them may send a signal at once.
    let asked = [Signal::Term, Signal::Int, Signal::Hup, Signal::Usr2];
    let signals = Signals::new(asked).map_err(Failed::Io)?;
    let mut lines = String::new();
    let mut announce = |addresses: &[SocketAddr], port: &str| {
        for address in addresses {
            lines.push_str(&format!("listening on {address} {port}\n"));
        }
    };
    announce(server.http_addresses(), "http");
    announce(server.tunnel_addresses(), "tunnel");
    let _ = io::stderr().write_all(lines.as_bytes());
    if is_first {
        tell_systemd(log, "READY=1");
    }
    let program = Program { operator: server.operator(), words, config: Watched::new(config), log };
    let told = program.run(signals, files);
    server.run_until(told).map_err(Failed::Start)?;
    Ok(())
}

/// Takes all descriptors that the system grants: each visitor and each tunnel needs one, and many
/// systems begin with 1,024 for the sake of programs that use `select`.
fn raise_descriptors() {
    let limit = getrlimit(Resource::Nofile);
    // Where it is refused we have what we had.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
}

/// The running program, as its signals see it.
struct Program {
    operator: Operator,
    words: Vec<OsString>,
    config: Watched,
    log: Log,
}

/// A configuration file that may change.
struct Watched {
    file: Option<(PathBuf, String)>,
    /// What it said at the last look: who writes a file has a moment in which it is half of one.
    seen: String,
}

impl Program {
    /// Does what signals and files ask for; returns when the server is to drain.
    async fn run(mut self, mut signals: Signals, files: Duration) {
        loop {
            let look = async {
                if files.is_zero() {
                    future::pending::<()>().await;
                }
                Timer::after(files).await;
                None
            };
            match future::or(signals.next(), look).await {
                Some(Ok(Signal::Hup)) => {
                    self.operator.reload().await;
                    if !self.config.has_changed(true) {
                        continue;
                    }
                }
                Some(Ok(Signal::Usr2)) => {}
                None if self.config.has_changed(false) => {}
                None | Some(Err(_)) => continue,
                Some(Ok(_)) => break,
            }
            if self.is_sound() && future::or(self.give_way(), ended(&mut signals)).await {
                break;
            }
        }
        tell_systemd(self.log, "STOPPING=1");
    }

    /// Whether the command line and the configuration of now can be used at all.
    fn is_sound(&self) -> bool {
        match args::parse(self.words.iter().cloned()) {
            Ok(Command::Serve(_)) => true,
            Ok(_) => false,
            Err(error) => {
                let reason = error.to_string();
                self.log.error(format_args!("configuration=refused reason={reason:?}"));
                false
            }
        }
    }

    /// Whether a new process has taken over.
    async fn give_way(&self) -> bool {
        let mut words = self.words.iter();
        let mut command = process::Command::new(words.next().cloned().unwrap_or_default());
        command.args(words);
        match self.operator.hand_over(&mut command).await {
            Ok(id) => {
                self.log.info(format_args!("server=handed_over process={id}"));
                tell_systemd(self.log, &format!("MAINPID={id}"));
                true
            }
            Err(error) => {
                let reason = error.to_string();
                self.log.error(format_args!("handover=failed action=serving reason={reason:?}"));
                false
            }
        }
    }
}

impl Watched {
    fn new(file: Option<(PathBuf, String)>) -> Self {
        let seen = file.as_ref().map(|(_, text)| text.clone()).unwrap_or_default();
        Self { file, seen }
    }

    /// Whether the file says something new and, unless `now`, did so at the last look. Each change
    /// is told once. A file that cannot be read says what it said.
    fn has_changed(&mut self, now: bool) -> bool {
        let Some((path, used)) = &mut self.file else { return false };
        let Ok(text) = fs::read_to_string(path) else { return false };
        let is_settled = self.seen == text || now;
        let has_changed = is_settled && *used != text;
        if has_changed {
            used.clone_from(&text);
        }
        self.seen = text;
        has_changed
    }
}

/// Ready when the program is told to end.
async fn ended(signals: &mut Signals) -> bool {
    while let Some(signal) = signals.next().await {
        if matches!(signal, Ok(Signal::Term | Signal::Int)) {
            break;
        }
    }
    true
}

fn tell_systemd(log: Log, lines: &str) {
    if let Err(error) = notify(lines) {
        log.warn(format_args!("systemd=unreachable {error}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_file_is_told_once_and_when_it_has_settled() {
        let path = env::temp_dir().join(format!("spdy-proxy-watched-{}", process::id()));
        fs::write(&path, "one").unwrap();
        let mut watched = Watched::new(Some((path.clone(), "one".to_owned())));
        assert!(!watched.has_changed(false) && !watched.has_changed(true));
        fs::write(&path, "tw").unwrap();
        assert!(!watched.has_changed(false));
        fs::write(&path, "two").unwrap();
        assert!(!watched.has_changed(false));
        assert!(watched.has_changed(false) && !watched.has_changed(false));
        fs::write(&path, "three").unwrap();
        assert!(watched.has_changed(true) && !watched.has_changed(false));
        fs::remove_file(&path).unwrap();
        assert!(!watched.has_changed(true));
        assert!(!Watched::new(None).has_changed(true));
    }
}
