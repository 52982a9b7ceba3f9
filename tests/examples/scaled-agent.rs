//! `spdy-agent` with every duration an eighth of its own: what tests run where no flag scales it.
//!
//! It owns the scale only. Where its settings come from, what they are and how it serves is the
//! library's, as in the program; it has no commands and no control socket.

use std::{future::pending, process::ExitCode, rc::Rc, time::Duration};

use spdy_agent::{
    args::{self, Command},
    daemon::Source,
    network::{Timings, Watch},
    supervise::{Agent, Settings},
};

/// What durations are divided by.
const SCALE: u32 = 8;

fn main() -> ExitCode {
    match args::parse(std::env::args_os()) {
        Ok(Command::Serve { options, config }) => match serve(Source { flags: *options, config }) {
            Ok(()) => ExitCode::SUCCESS,
            Err(problem) => failed(&problem),
        },
        Ok(_) => failed("only serves"),
        Err(problem) => failed(&problem),
    }
}

fn failed(problem: &str) -> ExitCode {
    eprintln!("scaled-agent: {problem}");
    ExitCode::FAILURE
}

fn serve(source: Source) -> Result<(), String> {
    let mut settings = source.settle(None).map_err(|error| error.to_string())?;
    scale(&mut settings);
    let log = settings.log.clone();
    let agent = Rc::new(Agent::new(settings).map_err(|error| error.to_string())?);
    let held = agent.clone();
    let _watching = agent.spawn(async move {
        let timings = Timings::default();
        let timings = Timings { settle: timings.settle / SCALE, gap: timings.gap / SCALE };
        match Watch::open(timings) {
            Ok(mut watch) => {
                while watch.changed().await.is_ok() {
                    log.debug(format_args!("event=network_changed"));
                    held.network_changed();
                }
            }
            Err(error) => log.warn(format_args!("event=network_unwatched reason={error:?}")),
        }
    });
    smol::block_on(agent.run(pending()));
    Ok(())
}

fn scale(settings: &mut Settings) {
    let (dial, steps) = (&mut settings.dial, &mut settings.backoff);
    let session = &mut settings.session;
    let scaled: [&mut Duration; 24] = [
        &mut dial.resolve,
        &mut dial.fallback,
        &mut dial.connect,
        &mut dial.stagger,
        &mut dial.tls,
        &mut dial.stall,
        &mut dial.handshake,
        &mut dial.whole,
        &mut steps.network,
        &mut steps.network_max,
        &mut steps.reset,
        &mut steps.denied,
        &mut steps.denied_max,
        &mut steps.held,
        &mut steps.held_max,
        &mut steps.version,
        &mut steps.retry_after_max,
        &mut steps.tls,
        &mut session.idle_ping,
        &mut session.owed_ping,
        &mut session.ping_answer,
        &mut session.credit_delay,
        &mut settings.grace,
        &mut settings.look,
    ];
    scaled.into_iter().for_each(|duration| *duration /= SCALE);
}
