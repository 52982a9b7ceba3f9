//! `spdy-agent`: parse, check everything, run, return an exit code.

use std::{
    io::Write as _,
    path::{Path, PathBuf},
    process::ExitCode,
};

use async_io::block_on;
use spdy_agent::{
    args::{self, Command},
    command,
    config::{self, ConfigError, Options},
    control::Answer,
    daemon::{self, DaemonError, Source},
    dial::Timings,
    join::{self, JoinError},
    log,
    rotate::RotateError,
    service,
};

/// What ends the program other than well, with its line on stderr.
enum Failure {
    Usage(String),
    Other(String),
    /// It was said on stdout.
    Said(u8),
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        match error {
            ConfigError::Usage(problem) => Self::Usage(problem),
            ConfigError::Failure(problem) => Self::Other(problem),
        }
    }
}

fn main() -> ExitCode {
    let args: Vec<_> = std::env::args_os().collect();
    if let Err(line) = service::hand_over(&args) {
        log::last_line(&format!("spdy-agent: {line}"));
        return ExitCode::from(EXIT_FAILURE);
    }
    let outcome = match args::parse(args) {
        Ok(Command::Print(text)) => print(&text),
        Ok(Command::Serve { options, config }) => serve(*options, config),
        Ok(Command::Check { options, config }) => check(*options, config),
        Ok(Command::Join { code, config }) => join(code, config.as_deref()),
        Ok(Command::Status { json, config }) => {
            command::status(json, config.as_deref()).map_err(Failure::Other).and_then(say)
        }
        Ok(Command::Doctor { config }) => say(command::doctor(config.as_deref())),
        Ok(Command::Rotate { config }) => rotate(config.as_deref()),
        Err(problem) => Err(Failure::Usage(problem)),
    };
    let (line, code) = match outcome {
        Ok(()) => return ExitCode::SUCCESS,
        Err(Failure::Said(code)) => return ExitCode::from(code),
        Err(Failure::Usage(line)) => (line, EXIT_USAGE),
        Err(Failure::Other(line)) => (line, EXIT_FAILURE),
    };
    // Nobody may be listening any more; the code says enough.
    log::last_line(&format!("spdy-agent: {line}"));
    ExitCode::from(code)
}

fn serve(flags: Options, config: Option<PathBuf>) -> Result<(), Failure> {
    daemon::serve(Source { flags, config }).map_err(|error| match error {
        DaemonError::Config(error) => error.into(),
        error => Failure::Other(error.to_string()),
    })
}

fn check(flags: Options, config: Option<PathBuf>) -> Result<(), Failure> {
    Source { flags, config }.settle(None).map(drop).map_err(Failure::from)
}

fn join(code: Option<String>, named: Option<&Path>) -> Result<(), Failure> {
    let joined = code
        .map_or_else(join::read_code, Ok)
        .and_then(|code| block_on(join::join(&code, named, Timings::default())))
        .map_err(|error| match error {
            JoinError::Config(error) => error.into(),
            error => Failure::Other(error.to_string()),
        })?;
    let config = joined.config.display().to_string();
    let found = config::default_path().is_some_and(|default| default == joined.config);
    let start = if found && Path::new(INIT_SCRIPT).exists() {
        format!("{INIT_SCRIPT} restart")
    } else {
        let named = if found { String::new() } else { format!(" --config {config}") };
        format!("spdy-agent{named} -r DIR")
    };
    print(&format!(
        "joined {} as {}\nconfiguration: {config}\nstart with: {start}\n",
        joined.address, joined.name
    ))
}

fn rotate(config: Option<&Path>) -> Result<(), Failure> {
    let rotated = command::rotate(config);
    say(rotated.map_err(|error| match error {
        RotateError::Config(error) => error.into(),
        error => Failure::Other(error.to_string()),
    })?)
}

fn say(answer: Answer) -> Result<(), Failure> {
    print(&answer.text)?;
    if answer.code == 0 { Ok(()) } else { Err(Failure::Said(answer.code)) }
}

fn print(text: &str) -> Result<(), Failure> {
    let written = std::io::stdout().write_all(text.as_bytes());
    written.map_err(|error| Failure::Other(format!("stdout: {error}")))
}

/// Where OpenWrt and others without systemd have our service.
const INIT_SCRIPT: &str = "/etc/init.d/spdy-agent";
const EXIT_USAGE: u8 = 64;
const EXIT_FAILURE: u8 = 1;
