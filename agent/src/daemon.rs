//! The agent as a program that runs for years: signals, new settings, news of the network.
//!
//! It owns what a running agent is told from outside. The tunnels are [`crate::supervise`]'s.

use std::{
    fmt,
    future::pending,
    io,
    path::PathBuf,
    rc::Rc,
    sync::OnceLock,
    time::{Duration, Instant},
};

use async_io::{Timer, block_on};
use async_signal::{Signal, Signals};
use blocking::unblock;
use futures_lite::{StreamExt as _, future::or};
use rustix::{fs::Mode, process::umask};

use crate::{
    config::{self, ConfigError, File, Options},
    control::{Answer, Control},
    doctor::{self, Finding},
    log::{Log, Quoted},
    network::{self, Watch},
    notify::{self, notify},
    status,
    supervise::{Agent, Settings, StartError},
};

/// Where the settings of an agent come from, at its start and whenever it reads them again.
#[derive(Clone, Debug)]
pub struct Source {
    /// The command line, which wins.
    pub flags: Options,
    /// The file that was named.
    pub config: Option<PathBuf>,
}

/// Why the agent ended other than by a signal.
#[derive(Debug)]
pub enum DaemonError {
    /// The settings are wrong.
    Config(ConfigError),
    /// They are right, and still it cannot start.
    Start(StartError),
    /// The system gives no signals.
    Signals(io::Error),
}

impl fmt::Display for DaemonError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Config(error) => error.fmt(f),
            Self::Start(error) => error.fmt(f),
            Self::Signals(error) => write!(f, "signals: {error}"),
        }
    }
}

impl std::error::Error for DaemonError {}

impl Source {
    /// The settings as they are now; `running`: the instance of an agent that has none in its
    /// file, and keeps the one that it made. Reads files, which may block.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn settle(&self, running: Option<[u8; 16]>) -> Result<Settings, ConfigError> {
        let mut file = File::load(self.config.as_deref())?;
        file.instance = file.instance.or(running);
        config::settle(&self.flags, &file)
    }

    /// The file that is read.
    #[must_use]
    pub fn path(&self) -> Option<PathBuf> {
        self.config.clone().or_else(config::default_path)
    }
}

/// Serves until SIGTERM or SIGINT; the second one cuts what the first one lets finish.
///
/// # Errors
/// [`DaemonError`], before anything is dialled.
pub fn serve(source: Source) -> Result<(), DaemonError> {
    // First: a network that comes up while we start is told by SIGHUP, which must not end us.
    // SIGXFSZ ends a process that is not asked: with it a write above the limit for files
    // (RLIMIT_FSIZE) is an error like others, of the one upload.
    let signals = Signals::new([Signal::Term, Signal::Int, Signal::Hup, Signal::Xfsz]);
    let signals = signals.map_err(DaemonError::Signals)?;
    let settings = source.settle(None).map_err(DaemonError::Config)?;
    let log = settings.log.clone();
    mask(&settings);
    announce(&settings);
    let agent = Rc::new(Agent::new(settings).map_err(DaemonError::Start)?);
    let source = Rc::new(source);
    let (stop, stopped) = async_channel::bounded::<()>(1);
    let (cut, was_cut) = async_channel::bounded::<()>(1);
    let control = listen(&source, &log);
    let answering = control
        .clone()
        .map(|control| agent.spawn(converse(agent.clone(), source.clone(), control)));
    let _tasks = [
        agent.spawn(obey(agent.clone(), source, signals, [stop, cut])),
        agent.spawn(watch(agent.clone(), log.clone())),
        agent.spawn(tell(agent.clone(), log)),
    ];
    let stopped = async {
        // Closed: the only message there is.
        let _ = stopped.recv().await;
    };
    block_on(or(agent.run(stopped), async {
        let _ = was_cut.recv().await;
    }));
    drop(answering);
    if let Some(control) = control {
        control.close();
    }
    Ok(())
}

/// Reads the settings again. What is wrong with them is one line in the log, and all stays as it
/// was.
///
/// # Errors
/// What is wrong.
pub async fn reload(agent: &Agent, source: &Source) -> Result<(), String> {
    let (source, instance) = (source.clone(), agent.settings().instance);
    let settled = unblock(move || source.settle(Some(instance))).await;
    let reloaded = match settled {
        Ok(settings) => {
            announce_insecure(&settings);
            let reloaded = agent.reload(settings).await.map_err(|error| error.to_string());
            if reloaded.is_ok() {
                mask(&agent.settings());
            }
            reloaded
        }
        Err(error) => Err(error.to_string()),
    };
    let settings = agent.settings();
    match &reloaded {
        Ok(()) => settings.log.info(format_args!(
            "event=reloaded name={} shares={} proxies={}",
            settings.name,
            settings.origin.shares.len(),
            settings.proxies.len()
        )),
        Err(reason) => settings.log.error(format_args!(
            "event=reload_failed reason={} action=\"all stays as it was\"",
            Quoted(reason)
        )),
    }
    reloaded
}

/// Does what signals ask for; `ends`: dropped one after the other.
async fn obey(
    agent: Rc<Agent>,
    source: Rc<Source>,
    mut signals: Signals,
    ends: [async_channel::Sender<()>; 2],
) {
    let mut ends = ends.into_iter();
    let mut reloading = None;
    while let Some(signal) = signals.next().await {
        let log = agent.settings().log.clone();
        match signal {
            Ok(Signal::Hup) => {
                let (held, source) = (agent.clone(), source.clone());
                // Beside this, so that a disk that hangs does not keep it from ending; the log
                // says what is wrong. One that still runs is given up for the newer one.
                let again = async move {
                    let log = held.settings().log.clone();
                    say(&log, &notify::reloading());
                    let _ = reload(&held, &source).await;
                    say(&log, "READY=1");
                };
                drop(reloading.replace(agent.spawn(again)));
            }
            Ok(Signal::Xfsz) => {}
            _ => {
                let is_first = ends.len() == 2;
                drop(ends.next());
                if is_first {
                    log.info(format_args!("event=stopping"));
                    say(&log, "STOPPING=1\nSTATUS=finishing what runs");
                } else {
                    log.warn(format_args!("event=cut reason=\"second signal\""));
                }
            }
        }
    }
    // The stream of signals has no end; without it the agent would stop here.
    pending().await
}

/// Passes on what the kernel says of the network.
async fn watch(agent: Rc<Agent>, log: Log) {
    loop {
        let failed = match Watch::open(network::Timings::default()) {
            Ok(mut watch) => loop {
                match watch.changed().await {
                    Ok(()) => {
                        log.debug(format_args!("event=network_changed"));
                        agent.network_changed();
                    }
                    Err(error) => break error,
                }
            },
            Err(error) => {
                log.info(format_args!(
                    "event=network_unwatched reason={} action=\"tunnels find out by themselves\"",
                    Quoted(&error.to_string())
                ));
                return;
            }
        };
        log.warn(format_args!("event=network_lost reason={}", Quoted(&failed.to_string())));
        Timer::after(WATCH_PAUSE).await;
    }
}

/// Tells systemd that the agent runs, how its tunnels are, and that their supervisors do their
/// work: whoever is late for his own deadlines is not spoken for.
async fn tell(agent: Rc<Agent>, log: Log) {
    // Whatever is missing yet (network, disks) is waited for: the service is there.
    say(&log, "READY=1");
    let interval = notify::interval();
    let (mut told, mut was_stuck) = (String::new(), false);
    loop {
        let stuck = agent.stuck();
        match &stuck {
            None if interval.is_some() => say(&log, "WATCHDOG=1"),
            Some(proxy) if !was_stuck => log.error(format_args!(
                "event=stuck proxy={proxy} action=\"the watchdog is not fed\""
            )),
            _ => {}
        }
        was_stuck = stuck.is_some();
        let next = Instant::now() + interval.unwrap_or(LOOK);
        // What changes meanwhile is told at once.
        while Instant::now() < next {
            let line = agent.line();
            if line != told {
                say(&log, &format!("STATUS={line}"));
                told = line;
            }
            or(agent.changed(), async {
                Timer::at(next).await;
            })
            .await;
        }
    }
}

fn say(log: &Log, lines: &str) {
    if let Err(error) = notify(lines) {
        log.debug(format_args!("event=systemd_unreachable reason={}", Quoted(&error.to_string())));
    }
}

fn listen(source: &Source, log: &Log) -> Option<Rc<Control>> {
    match Control::open(source.path().as_deref()) {
        Ok(control) => {
            let socket = control.path().to_string_lossy();
            log.debug(format_args!("event=control socket={}", Quoted(&socket)));
            Some(Rc::new(control))
        }
        Err(error) => {
            log.warn(format_args!(
                "event=no_control reason={} action=\"status and doctor cannot ask this agent\"",
                Quoted(&error.to_string())
            ));
            None
        }
    }
}

/// Answers who asks on the socket.
async fn converse(agent: Rc<Agent>, source: Rc<Source>, control: Rc<Control>) {
    // Who comes while this many are served waits in the kernel.
    let (enter, leave) = async_channel::bounded(CALLERS_MAX);
    loop {
        // Both ends are here: this cannot fail.
        let _ = enter.send(()).await;
        match control.accept().await {
            Ok(mut caller) => {
                let (agent, source, leave) = (agent.clone(), source.clone(), leave.clone());
                let held = agent.clone();
                let task = async move {
                    // Who goes away needs no answer.
                    if let Ok(question) = caller.question().await {
                        let _ = caller.answer(&answer(&agent, &source, &question).await).await;
                    }
                    let _ = leave.try_recv();
                };
                held.spawn(task).detach();
            }
            Err(_) => {
                let _ = leave.try_recv();
                Timer::after(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn answer(agent: &Agent, source: &Source, question: &str) -> Answer {
    match question {
        "status" | "json" => {
            let report = agent.report().await;
            let words = if question == "json" { status::json } else { status::text };
            Answer { code: (!status::is_well(&report)).into(), text: words(&report) }
        }
        "doctor" => {
            let (report, settings) = (agent.report().await, agent.settings());
            let findings = doctor::of_running(&report, &settings.proxies, settings.dial).await;
            let code = findings.iter().any(Finding::is_wrong).into();
            Answer { code, text: findings.iter().map(|finding| format!("{finding}\n")).collect() }
        }
        "reload" => match reload(agent, source).await {
            Ok(()) => Answer { code: 0, text: "the running agent knows\n".to_owned() },
            Err(reason) => Answer { code: 1, text: format!("the running agent: {reason}\n") },
        },
        _ => Answer { code: EXIT_USAGE, text: "unknown question\n".to_owned() },
    }
}

/// Sets the umask of the settings; without one, that with which the program was started.
fn mask(settings: &Settings) {
    static INHERITED: OnceLock<Mode> = OnceLock::new();
    let inherited = *INHERITED.get_or_init(|| {
        // The system tells it only to who changes it.
        let inherited = umask(Mode::RWXG | Mode::RWXO);
        umask(inherited);
        inherited
    });
    umask(settings.umask.map_or(inherited, Mode::from_raw_mode));
}

fn announce(settings: &Settings) {
    announce_insecure(settings);
    settings.log.info(format_args!(
        "event=start version={} name={} shares={} proxies={}",
        env!("CARGO_PKG_VERSION"),
        settings.name,
        settings.origin.shares.len(),
        settings.proxies.len()
    ));
    for share in &settings.origin.shares {
        settings.log.info(format_args!(
            "event=share path=/{} folder={} write={}",
            share.name,
            Quoted(&share.path.to_string_lossy()),
            share.writable
        ));
    }
}

fn announce_insecure(settings: &Settings) {
    for proxy in settings.proxies.iter().filter(|proxy| !proxy.trust.is_verified()) {
        settings.log.warn(format_args!(
            "event=insecure proxy={} text=\"ANYBODY on the way can read and change everything; \
             no token is sent\"",
            proxy.address
        ));
    }
}

/// Who is answered at a time.
const CALLERS_MAX: usize = 8;
/// How often supervisors are looked at where no watchdog asks.
const LOOK: Duration = Duration::from_secs(60);
/// Pause after a failed accept: the process has no descriptor left.
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);
/// Exit code of who asks for what does not exist.
const EXIT_USAGE: u8 = 64;
/// Pause before a broken socket of the kernel's is opened again.
const WATCH_PAUSE: Duration = Duration::from_secs(10);
