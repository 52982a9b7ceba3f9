//! `spdy-agent`: parse, check everything, run, return an exit code.

use std::{io::Write as _, path::Path, process::ExitCode};

use async_io::block_on;
use async_signal::{Signal, Signals};
use futures_lite::{StreamExt as _, future::or};
use spdy_agent::{
    args::{self, Command},
    config::{self, ConfigError, File},
    dial::Timings,
    join::{self, JoinError},
    log::Quoted,
    supervise,
};

/// What ends the program other than well, with its line on stderr.
enum Failure {
    Usage(String),
    Other(String),
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
        Ok(Command::Serve { options, config }) => serve(&options, config.as_deref()),
        Ok(Command::Join { code, config }) => join(code, config.as_deref()),
        Err(problem) => Err(Failure::Usage(problem)),
    };
    let (line, code) = match outcome {
        Ok(()) => return ExitCode::SUCCESS,
        Err(Failure::Usage(line)) => (line, EXIT_USAGE),
        Err(Failure::Other(line)) => (line, EXIT_FAILURE),
    };
    // Nobody may be listening any more; the code says enough.
    let _ = writeln!(std::io::stderr(), "spdy-agent: {line}");
    ExitCode::from(code)
}

fn serve(options: &config::Options, named: Option<&Path>) -> Result<(), Failure> {
    let settings = config::settle(options, &File::load(named)?)?;
    let log = settings.log.clone();
    let signals = || Signals::new([Signal::Term, Signal::Int]);
    let failed = |error: std::io::Error| Failure::Other(format!("signals: {error}"));
    let mut first = signals().map_err(failed)?;
    let mut second = signals().map_err(failed)?;
    for proxy in settings.proxies.iter().filter(|proxy| !proxy.trust.is_verified()) {
        log.warn(format_args!(
            "event=insecure proxy={} text=\"ANYBODY on the way can read and change everything; \
             no token is sent\"",
            proxy.address
        ));
    }
    log.info(format_args!(
        "event=start version={} name={} shares={} proxies={}",
        env!("CARGO_PKG_VERSION"),
        settings.name,
        settings.origin.shares.len(),
        settings.proxies.len()
    ));
    for share in &settings.origin.shares {
        log.info(format_args!(
            "event=share path=/{} folder={} write={}",
            share.name,
            Quoted(&share.path.to_string_lossy()),
            share.writable
        ));
    }
    let stop = async {
        // Ends with the stream of signals, which has no end.
        let _ = first.next().await;
        log.info(format_args!("event=stopping"));
    };
    let cut = async {
        let _ = second.next().await;
        let _ = second.next().await;
        log.warn(format_args!("event=cut reason=\"second signal\""));
        Ok(())
    };
    let ended = block_on(or(supervise::run(settings, stop), cut));
    ended.map_err(|error| Failure::Other(error.to_string()))
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
    let named = if found { String::new() } else { format!(" --config {config}") };
    print(&format!(
        "joined {} as {}\nconfiguration: {config}\nstart with: spdy-agent{named} -r DIR\n",
        joined.address, joined.name
    ))
}

fn print(text: &str) -> Result<(), Failure> {
    let written = std::io::stdout().write_all(text.as_bytes());
    written.map_err(|error| Failure::Other(format!("stdout: {error}")))
}

const EXIT_USAGE: u8 = 64;
const EXIT_FAILURE: u8 = 1;
