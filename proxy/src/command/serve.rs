//! The server as a program: its sockets, its signals, its successor.
//!
//! TERM and INT end it. HUP reads keys, certificates and records again and, if the configuration
//! file has changed, does as USR2. USR2 starts the program anew from the same command line and
//! gives way to that process, unless the end of this one would be that of the service
//! (`supervisor`): then it says so and serves on.

use std::{
    env,
    ffi::OsString,
    fs,
    net::SocketAddr,
    path::PathBuf,
    pin::pin,
    process,
    time::{Duration, Instant},
};

use async_io::Timer;
use async_signal::{Signal, Signals};
use blocking::unblock;
use futures_lite::{StreamExt, future};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::{Failed, supervisor};
use crate::{
    args::{self, Command, Serve},
    handover::{self, Predecessor},
    inherit::Inherited,
    log::{self, Log},
    notify::{self, notify},
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
    let announce = |addresses: &[SocketAddr], port: &str| {
        for address in addresses {
            log::print(format!("listening on {address} {port}"));
        }
    };
    announce(server.http_addresses(), "http");
    announce(server.tunnel_addresses(), "tunnel");
    let operator = server.operator();
    let told = tell_of_progress(operator.clone(), log, is_first);
    let config = Watched::new(config);
    let program =
        Program { operator, words, config, objection: supervisor::objection(is_first), log };
    let told = future::or(program.run(signals, files), told);
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
    /// Why it must not give way to a new process.
    objection: Option<String>,
    log: Log,
}

/// What has come of a reload.
enum Turn {
    /// Nothing: this process serves on.
    Serving,
    /// This process took over.
    HandedOver(u32),
    /// The program was told to end meanwhile.
    Ended,
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
                    tell_systemd(self.log, &notify::reloading());
                    self.operator.reload().await;
                    match unless_ended(&mut signals, self.config.has_changed(true)).await {
                        Some(true) => {}
                        Some(false) => {
                            tell_systemd(self.log, "READY=1");
                            continue;
                        }
                        None => break,
                    }
                }
                Some(Ok(Signal::Usr2)) => tell_systemd(self.log, &notify::reloading()),
                None => match unless_ended(&mut signals, self.config.has_changed(false)).await {
                    Some(true) => {}
                    Some(false) => continue,
                    None => break,
                },
                Some(Err(_)) => continue,
                Some(Ok(_)) => break,
            }
            let giving_way = async {
                let given = if self.is_sound().await { self.give_way().await } else { None };
                given.map_or(Turn::Serving, Turn::HandedOver)
            };
            let ended = async {
                ended(&mut signals).await;
                Turn::Ended
            };
            match future::or(giving_way, ended).await {
                Turn::Serving => tell_systemd(self.log, "READY=1"),
                Turn::Ended => break,
                // The unit follows it; what we say from now on counts no more.
                Turn::HandedOver(id) => {
                    return tell_systemd(self.log, &format!("MAINPID={id}\nREADY=1"));
                }
            }
        }
        tell_systemd(self.log, "STOPPING=1\nSTATUS=finishing what runs");
    }

    /// Whether a new process may take over, and the command line and the configuration of now can be
    /// used at all.
    async fn is_sound(&self) -> bool {
        // Names are resolved and files are read: not on a thread that serves.
        let words = self.words.clone();
        match unblock(|| args::parse(words)).await {
            Ok(Command::Serve(_)) if self.objection.is_some() => {
                let reason = self.objection.as_deref().unwrap_or_default();
                self.log.error(format_args!("handover=refused action=serving reason={reason:?}"));
                false
            }
            Ok(Command::Serve(_)) => true,
            Ok(_) => false,
            Err(error) => {
                let reason = error.to_string();
                self.log.error(format_args!("configuration=refused reason={reason:?}"));
                false
            }
        }
    }

    /// The process that has taken over, if one has.
    async fn give_way(&self) -> Option<u32> {
        let mut words = self.words.iter();
        let mut command = process::Command::new(words.next().cloned().unwrap_or_default());
        command.args(words);
        match self.operator.hand_over(&mut command).await {
            Ok(id) => {
                self.log.info(format_args!("server=handed_over process={id}"));
                Some(id)
            }
            Err(error) => {
                let reason = error.to_string();
                self.log.error(format_args!("handover=failed action=serving reason={reason:?}"));
                None
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
    async fn has_changed(&mut self, now: bool) -> bool {
        let Some((path, used)) = &mut self.file else { return false };
        let path = path.clone();
        let Ok(text) = unblock(|| fs::read_to_string(path)).await else { return false };
        let is_settled = self.seen == text || now;
        let has_changed = is_settled && *used != text;
        if has_changed {
            used.clone_from(&text);
        }
        self.seen = text;
        has_changed
    }
}

/// What `work` comes to; `None` when it hangs and the program is told to end. Other signals are lost
/// only while it hangs.
async fn unless_ended<T>(signals: &mut Signals, work: impl Future<Output = T>) -> Option<T> {
    let mut work = pin!(async { Some(work.await) });
    let long = async {
        Timer::after(LOOK).await;
        None
    };
    let done = future::or(&mut work, long).await;
    if done.is_some() {
        return done;
    }
    future::or(work, async {
        ended(signals).await;
        None
    })
    .await
}

/// Ready when the program is told to end.
async fn ended(signals: &mut Signals) {
    while let Some(signal) = signals.next().await {
        if matches!(signal, Ok(Signal::Term | Signal::Int)) {
            break;
        }
    }
}

/// Tells systemd that we serve, how many agents are there, and that no thread is stuck: as long as
/// one is, the watchdog is not fed.
async fn tell_of_progress(operator: Operator, log: Log, is_first: bool) {
    if env::var_os("NOTIFY_SOCKET").is_none() {
        return future::pending().await;
    }
    if is_first {
        tell_systemd(log, "READY=1");
    }
    // Until then the unit listens to the process before this one.
    operator.took_over().await;
    let (interval, mut fed, mut told) = (notify::interval(), Instant::now(), None);
    let mut pulse = Pulse::new(interval.unwrap_or_default() * 2, fed);
    let mut was_stuck = false;
    loop {
        let (now, tunnels) = (Instant::now(), operator.tunnels());
        let stuck = pulse.stuck(&operator.beats(), now);
        match (stuck, interval) {
            (None, Some(interval)) if now >= fed => {
                tell_systemd(log, "WATCHDOG=1");
                fed = now + interval;
            }
            (Some(thread), _) if !was_stuck => {
                log.error(format_args!("thread={thread} stuck action=\"watchdog not fed\""));
            }
            _ => {}
        }
        was_stuck = stuck.is_some();
        if told.replace(tunnels) != Some(tunnels) {
            tell_systemd(log, &format!("STATUS=serving, agents connected: {tunnels}"));
        }
        Timer::after(LOOK.min(interval.unwrap_or(LOOK))).await;
    }
}

/// The progress of each thread.
struct Pulse {
    patience: Duration,
    seen: Vec<(u32, Instant)>,
    start: Instant,
}

impl Pulse {
    fn new(patience: Duration, now: Instant) -> Self {
        Self { patience: patience.max(PATIENCE), seen: Vec::new(), start: now }
    }

    /// The first thread that has not turned for longer than we wait.
    fn stuck(&mut self, beats: &[u32], now: Instant) -> Option<usize> {
        self.seen.resize(beats.len(), (0, self.start));
        for (seen, beat) in self.seen.iter_mut().zip(beats) {
            if seen.0 != *beat {
                *seen = (*beat, now);
            }
        }
        self.seen.iter().position(|(_, at)| now.duration_since(*at) > self.patience)
    }
}

fn tell_systemd(log: Log, lines: &str) {
    if let Err(error) = notify(lines) {
        log.warn(format_args!("systemd=unreachable {error}"));
    }
}

/// How often systemd is told what has changed.
const LOOK: Duration = Duration::from_secs(1);
/// The least time in which a thread's clock must turn, which it does once a second.
const PATIENCE: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_that_does_not_turn_is_stuck_until_it_does() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut pulse = Pulse::new(Duration::ZERO, start);
        assert_eq!(pulse.stuck(&[0, 0], at(5)), None);
        assert_eq!(pulse.stuck(&[5, 3], at(6)), None);
        assert_eq!(pulse.stuck(&[9, 3], at(11)), None);
        assert_eq!(pulse.stuck(&[10, 3], at(12)), Some(1));
        assert_eq!(pulse.stuck(&[11, 4], at(13)), None);
    }

    #[test]
    fn a_changed_file_is_told_once_and_when_it_has_settled() {
        let changed = |watched: &mut Watched, now: bool| future::block_on(watched.has_changed(now));
        let path = env::temp_dir().join(format!("spdy-proxy-watched-{}", process::id()));
        fs::write(&path, "one").unwrap();
        let mut watched = Watched::new(Some((path.clone(), "one".to_owned())));
        assert!(!changed(&mut watched, false) && !changed(&mut watched, true));
        fs::write(&path, "tw").unwrap();
        assert!(!changed(&mut watched, false));
        fs::write(&path, "two").unwrap();
        assert!(!changed(&mut watched, false));
        assert!(changed(&mut watched, false) && !changed(&mut watched, false));
        fs::write(&path, "three").unwrap();
        assert!(changed(&mut watched, true) && !changed(&mut watched, false));
        fs::remove_file(&path).unwrap();
        assert!(!changed(&mut watched, true));
        assert!(!changed(&mut Watched::new(None), true));
    }
}
