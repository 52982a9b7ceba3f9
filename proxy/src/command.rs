//! The program: does what the command line asks, and maps what went wrong to an exit code.
//!
//! It owns signals (`serve`), stdout and exit codes. Everything else is below.

mod serve;
mod supervisor;

use std::{
    ffi::OsString,
    fmt::{self, Display},
    io::{self, Write},
    iter,
    path::PathBuf,
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use data_encoding::HEXLOWER;
use spdy_protocol::join::JoinCode;

use crate::{
    access::{Access, Password},
    admin::{self, Answer},
    args::{self, ChangeAccess, Choice, Command, KeyChange, Pair, UsageError},
    log,
    server::StartError,
    settings::TUNNEL_PORT,
    state::{State, StateError},
    status,
};

/// Why the program failed.
#[derive(Debug)]
enum Failed {
    Usage(UsageError),
    State(StateError),
    Start(StartError),
    Io(io::Error),
    /// `access` for a name that is not there.
    Unpaired(String),
    /// `rotate` for an origin whose agent has no token.
    NoToken(String),
    /// `status` without a server.
    NotRunning,
    /// A server runs, and does not answer.
    Silent(io::Error),
    /// The running server could not read the change; its words.
    Untold(String),
}

impl Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Usage(error) => error.fmt(f),
            Self::State(error) => error.fmt(f),
            Self::Start(error) => error.fmt(f),
            Self::Io(error) => error.fmt(f),
            Self::Unpaired(name) => write!(f, "no origin is called {name}: pair it first"),
            Self::NoToken(name) => {
                write!(f, "no agent of {name} has a token that could be replaced: pair it")
            }
            Self::Silent(error) => {
                write!(f, "the running proxy does not answer on its control socket: {error}")
            }
            Self::NotRunning => f.write_str("no spdy-proxy runs on this state folder"),
            Self::Untold(words) => {
                write!(f, "written, but the running proxy did not take it up: {words}")
            }
        }
    }
}

/// Runs the program with its whole command line.
pub fn run(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let words: Vec<_> = args.into_iter().collect();
    let parsed = args::parse(words.iter().cloned()).map_err(Failed::Usage);
    let done = parsed.and_then(|command| match command {
        Command::Serve(serve) => serve::run(*serve, words),
        Command::Pair(pair) => run_pair(&pair),
        Command::Rotate(rotate) => run_rotate(&rotate),
        Command::Access(change) => run_access(&change),
        Command::Revoke { name, state_dir } => run_revoke(&name, state_dir),
        Command::Key { change, state_dir } => run_key(&change, state_dir),
        Command::Status { json, state_dir } => run_status(json, state_dir),
        Command::List { state_dir } => list(state_dir),
        Command::Print(text) => print(&text),
    });
    let code = match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failed) => {
            log::print(format!("spdy-proxy: {failed}"));
            let is_usage = matches!(failed, Failed::Usage(_));
            ExitCode::from(if is_usage { EXIT_USAGE } else { EXIT_FAILURE })
        }
    };
    log::flush(LAST_LINES);
    code
}

fn run_pair(pair: &Pair) -> Result<(), Failed> {
    let state = open(pair.state_dir.clone())?;
    let pins = state.pins().map_err(Failed::State)?;
    let held = state.access(&pair.name).map_err(Failed::State)?.unwrap_or_default();
    let choice = match (pair.access, held) {
        (None, Access::Locked) => Some(Choice::Password),
        (choice, _) => choice,
    };
    if let Some(choice) = choice {
        print(&set_access(&state, &pair.name, choice)?)?;
    }
    let secret = state.pair(&pair.name, pair.valid).map_err(Failed::State)?;
    // The running server learns the name at once.
    reload(&state)?;
    print_code(pair, pins, secret)
}

fn run_rotate(rotate: &Pair) -> Result<(), Failed> {
    let state = open(rotate.state_dir.clone())?;
    let pins = state.pins().map_err(Failed::State)?;
    let secret = state.rotate(&rotate.name, rotate.valid).map_err(Failed::State)?;
    let secret = secret.ok_or_else(|| Failed::NoToken(rotate.name.clone()))?;
    print_code(rotate, pins, secret)
}

fn print_code(pair: &Pair, pins: Vec<[u8; 32]>, secret: [u8; 16]) -> Result<(), Failed> {
    let mut addresses = pair.addresses.clone();
    if addresses.is_empty() {
        addresses.push(format!("127.0.0.1:{TUNNEL_PORT}"));
    }
    let code = JoinCode { addresses, origin: pair.name.clone(), pins, secret };
    print(&format!("{}\n", code.encode()))
}

fn run_revoke(name: &str, state_dir: Option<PathBuf>) -> Result<(), Failed> {
    let state = open(state_dir)?;
    if !state.revoke(name).map_err(Failed::State)? {
        return Err(Failed::Unpaired(name.to_owned()));
    }
    // The running server cuts what is connected.
    reload(&state)?;
    print(&format!("{name} is revoked\n"))
}

fn run_key(change: &KeyChange, state_dir: Option<PathBuf>) -> Result<(), Failed> {
    let state = open(state_dir)?;
    let text = match change {
        KeyChange::Spare(file) => {
            let pin = state.make_spare(file).map_err(Failed::State)?;
            format!("spare {}\n", HEXLOWER.encode(&pin))
        }
        KeyChange::Use(file) => {
            let pin = state.use_spare(file).map_err(Failed::State)?;
            format!("active {} from the next start\n", HEXLOWER.encode(&pin))
        }
        KeyChange::List => {
            let pins = state.pins().map_err(Failed::State)?;
            let names = ["active"].into_iter().chain(iter::repeat("spare"));
            let line =
                |(name, pin): (&str, &[u8; 32])| format!("{name} {}\n", HEXLOWER.encode(pin));
            names.zip(&pins).map(line).collect()
        }
    };
    print(&text)
}

fn run_status(json: bool, state_dir: Option<PathBuf>) -> Result<(), Failed> {
    let page = match admin::ask(&open(state_dir)?, admin::Command::Debug) {
        Answer::Said(page) => page,
        Answer::NotRunning => return Err(Failed::NotRunning),
        Answer::Silent(error) => return Err(Failed::Silent(error)),
    };
    if json { print(&status::json(&page)) } else { print(&page) }
}

fn run_access(change: &ChangeAccess) -> Result<(), Failed> {
    let state = open(change.state_dir.clone())?;
    if state.access(&change.name).map_err(Failed::State)?.is_none() {
        return Err(Failed::Unpaired(change.name.clone()));
    }
    // The password at once: it is written, and nobody can say it again.
    print(&set_access(&state, &change.name, change.access)?)?;
    if !reload(&state)? {
        print("no running spdy-proxy was told: it holds from the next start\n")?;
    }
    Ok(())
}

/// Writes the rule of an origin and returns what visitors have to know.
fn set_access(state: &State, name: &str, choice: Choice) -> Result<String, Failed> {
    let (access, told) = match choice {
        Choice::Open => (Access::Open, String::new()),
        Choice::Password => {
            let made = Password::generate(name);
            let (kept, password) =
                made.ok_or_else(|| Failed::Io(io::Error::other("no random octets")))?;
            let told = format!("user {name}\npassword {password}\n");
            (Access::Password(Arc::new(kept)), told)
        }
    };
    state.set_access(name, access).map_err(Failed::State)?;
    Ok(told)
}

/// Has the running server read the state folder again; `false`: none answers.
fn reload(state: &State) -> Result<bool, Failed> {
    match admin::ask(state, admin::Command::Reload) {
        Answer::NotRunning => Ok(false),
        Answer::Said(answer) if answer == admin::RELOADED => Ok(true),
        Answer::Said(answer) => Err(Failed::Untold(answer.trim().to_owned())),
        Answer::Silent(error) => {
            Err(Failed::Untold(format!("it does not answer on its control socket: {error}")))
        }
    }
}

fn list(state_dir: Option<PathBuf>) -> Result<(), Failed> {
    let state = open(state_dir)?;
    let text = match admin::ask(&state, admin::Command::List) {
        Answer::Said(text) => text,
        Answer::NotRunning => admin::listing_of_files(&state.origins().map_err(Failed::State)?),
        Answer::Silent(error) => return Err(Failed::Silent(error)),
    };
    print(&text)
}

fn open(state_dir: Option<PathBuf>) -> Result<State, Failed> {
    let folder = state_dir.map_or_else(State::default_folder, Ok).map_err(Failed::State)?;
    State::open(folder).map_err(Failed::State)
}

fn print(text: &str) -> Result<(), Failed> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        // Whoever closed the pipe has read what it wanted.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => written.map_err(Failed::Io),
    }
}

/// Time for stderr to take the last lines; who reads it takes them at once.
const LAST_LINES: Duration = Duration::from_secs(1);
/// The command line or the configuration is wrong.
const EXIT_USAGE: u8 = 64;
/// Anything else.
const EXIT_FAILURE: u8 = 1;
