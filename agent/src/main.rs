//! `spdy-agent`: parse, check everything, run, return an exit code.

use std::{
    io::Write as _,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
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
    rotate::RotateError,
    service::Service,
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
    let outcome = match args::parse(std::env::args_os()) {
        Ok(Command::Print(text)) => print(&text),
        Ok(Command::Serve { options, config }) => serve(*options, config),
        Ok(Command::Check { options, config }) => check(*options, config),
        Ok(Command::Join { code, shares, no_start, config }) => {
            join(code, *shares, no_start, config.as_deref())
        }
        Ok(Command::Setup { shares, no_start, config }) => setup(&shares, no_start, config),
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
    let _ = writeln!(std::io::stderr(), "spdy-agent: {line}");
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

impl From<JoinError> for Failure {
    fn from(error: JoinError) -> Self {
        match error {
            JoinError::Config(error) => error.into(),
            error => Self::Other(error.to_string()),
        }
    }
}

fn join(
    code: Option<String>,
    mut shares: Options,
    no_start: bool,
    named: Option<&Path>,
) -> Result<(), Failure> {
    let code = code.map_or_else(join::read_code, Ok)?;
    join::ask_for_share(&mut shares, named)?;
    let joined = block_on(join::join(&code, &shares, named, Timings::default()))?;
    let config = joined.config.display().to_string();
    if let Some(service) = service(&joined.config) {
        print(&format!("joined {} as {}\nconfiguration: {config}\n", joined.address, joined.name))?;
        return run(&service, &joined.config, no_start);
    }
    let found = config::default_path().is_some_and(|default| default == joined.config);
    let what = if shares == Options::default() { " -r DIR" } else { "" };
    let start = if found && Path::new(INIT_SCRIPT).exists() {
        format!("{INIT_SCRIPT} restart")
    } else {
        let named = if found { String::new() } else { format!(" --config {config}") };
        format!("spdy-agent{named}{what}")
    };
    print(&format!(
        "joined {} as {}\nconfiguration: {config}\nstart with: {start}\n",
        joined.address, joined.name
    ))
}

/// The service that runs with this configuration, if we may manage it.
fn service(config: &Path) -> Option<Service> {
    Service::find(Path::new("/")).filter(|_| config == Path::new(config::SYSTEM_FILE))
}

fn setup(shares: &Options, no_start: bool, config: Option<PathBuf>) -> Result<(), Failure> {
    let config = config.unwrap_or_else(|| config::SYSTEM_FILE.into());
    let service = service(&config).ok_or_else(|| {
        let problem = "setup is for root, where systemd runs the service of the package";
        Failure::Other(format!("{problem}, with {}", config::SYSTEM_FILE))
    })?;
    join::add_shares(&config, shares)?;
    run(&service, &config, no_start)
}

/// Makes the service fit the configuration, and starts it unless it has nothing to serve.
fn run(service: &Service, config: &Path, no_start: bool) -> Result<(), Failure> {
    let advice = service.prepare(config).map_err(Failure::Other)?;
    print(&advice.iter().map(|line| format!("note: {line}\n")).collect::<String>())?;
    if no_start {
        return Ok(());
    }
    let source = Source { flags: Options::default(), config: Some(config.to_owned()) };
    if let Err(error) = source.settle(None) {
        return print(&format!(
            "not started: {error}\nshare a folder with: spdy-agent setup -r DIR\n"
        ));
    }
    let answer = service.start(config, PATIENCE).map_err(Failure::Other)?;
    print(&answer.text)
}

fn rotate(config: Option<&Path>) -> Result<(), Failure> {
    let rotated = command::rotate(config);
    say(rotated.map_err(|error| match error {
        RotateError::Config(error) => error.into(),
        error => Failure::Other(error.to_string()),
    })?)?;
    let config = config.map(Path::to_owned).or_else(config::default_path);
    // It was given the old token when it was started.
    match config.and_then(|config| service(&config)) {
        Some(service) => service.refresh().map_err(Failure::Other),
        None => Ok(()),
    }
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
/// Time for the first tunnels of a service.
const PATIENCE: Duration = Duration::from_secs(45);
const EXIT_USAGE: u8 = 64;
const EXIT_FAILURE: u8 = 1;
