//! The program: does what the command line asks, and maps what went wrong to an exit code.
//!
//! It owns signals, stdout and exit codes. Everything else is below.

use std::{
    ffi::OsString,
    fmt::Display,
    io::{self, Write},
    net::SocketAddr,
    path::PathBuf,
    process::ExitCode,
};

use async_signal::{Signal, Signals};
use futures_lite::StreamExt;
use spdy_protocol::join::JoinCode;

use crate::{
    admin,
    args::{self, Command, Pair, UsageError},
    server::{Server, StartError},
    settings::{Settings, TUNNEL_PORT},
    state::{Port, State, StateError},
};

/// Why the program failed.
#[derive(Debug)]
enum Failed {
    Usage(UsageError),
    State(StateError),
    Start(StartError),
    Io(io::Error),
}

/// Runs the program with its whole command line.
pub fn run(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let done = args::parse(args).map_err(Failed::Usage).and_then(|command| match command {
        Command::Serve(serve) => run_server(serve.settings),
        Command::Pair(pair) => run_pair(&pair),
        Command::List { state_dir } => list(state_dir),
        Command::Print(text) => print(&text),
    });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failed) => {
            let (error, code): (&dyn Display, u8) = match &failed {
                Failed::Usage(error) => (error, EXIT_USAGE),
                Failed::State(error) => (error, EXIT_FAILURE),
                Failed::Start(error) => (error, EXIT_FAILURE),
                Failed::Io(error) => (error, EXIT_FAILURE),
            };
            // There is nowhere to complain when stderr is gone.
            let _ = writeln!(io::stderr(), "spdy-proxy: {error}");
            ExitCode::from(code)
        }
    }
}

fn run_server(mut settings: Settings) -> Result<(), Failed> {
    if settings.state_dir.as_os_str().is_empty() {
        settings.state_dir = State::default_folder().map_err(Failed::State)?;
    }
    let server = Server::bind(settings).map_err(Failed::Start)?;
    // Before the lines below: who reads them may send a signal at once.
    let mut signals = Signals::new([Signal::Term, Signal::Int]).map_err(Failed::Io)?;
    let mut lines = String::new();
    let mut announce = |addresses: &[SocketAddr], port: &str| {
        for address in addresses {
            lines.push_str(&format!("listening on {address} {port}\n"));
        }
    };
    announce(server.http_addresses(), "http");
    announce(server.tunnel_addresses(), "tunnel");
    let _ = io::stderr().write_all(lines.as_bytes());
    let told = async {
        signals.next().await;
    };
    server.run_until(told).map_err(Failed::Start)
}

fn run_pair(pair: &Pair) -> Result<(), Failed> {
    let state = open(pair.state_dir.clone())?;
    let pin = state.identity(Port::Tunnel).map_err(Failed::State)?.pin();
    let secret = state.pair(&pair.name, pair.valid).map_err(Failed::State)?;
    // The running server learns the name at once; without one there is nobody to tell.
    let _ = admin::ask(&state, admin::Command::Reload);
    let addresses = if pair.addresses.is_empty() {
        vec![format!("127.0.0.1:{TUNNEL_PORT}")]
    } else {
        pair.addresses.clone()
    };
    let code = JoinCode { addresses, origin: pair.name.clone(), pins: vec![pin], secret };
    print(&format!("{}\n", code.encode()))
}

fn list(state_dir: Option<PathBuf>) -> Result<(), Failed> {
    let state = open(state_dir)?;
    let live = admin::ask(&state, admin::Command::List);
    let text = match live {
        Some(text) => text,
        None => admin::listing_of_files(&state.origins().map_err(Failed::State)?),
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

/// The command line or the configuration is wrong.
const EXIT_USAGE: u8 = 64;
/// Anything else.
const EXIT_FAILURE: u8 = 1;
