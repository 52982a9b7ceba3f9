//! `spdy-proxy` with every duration an eighth of its own: what tests run where no flag scales it.
//!
//! It owns the scale only; what is no `spdy-proxy` without a command is done by the program.

use std::{process::ExitCode, time::Duration};

use async_signal::{Signal, Signals};
use smol::stream::StreamExt as _;
use spdy_proxy::{
    args::{self, Command},
    command,
    server::Server,
    settings::Settings,
};

/// What durations are divided by.
const SCALE: u32 = 8;

fn main() -> ExitCode {
    let mut settings = match args::parse(std::env::args_os()) {
        Ok(Command::Serve(serve)) => serve.settings,
        _ => return command::run(std::env::args_os()),
    };
    scale(&mut settings);
    let mut signals = match Signals::new([Signal::Term]) {
        Ok(signals) => signals,
        Err(error) => return failed(&error.to_string()),
    };
    let served = Server::bind(settings).and_then(|server| {
        for address in server.http_addresses() {
            eprintln!("listening on {address} http");
        }
        for address in server.tunnel_addresses() {
            eprintln!("listening on {address} tunnel");
        }
        server.run_until(async move {
            signals.next().await;
        })
    });
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failed(&error.to_string()),
    }
}

fn failed(problem: &str) -> ExitCode {
    eprintln!("scaled-proxy: {problem}");
    ExitCode::FAILURE
}

fn scale(settings: &mut Settings) {
    let timings = &mut settings.timings;
    let session = &mut timings.session;
    let scaled: [&mut Duration; 9] = [
        &mut timings.handshake,
        &mut timings.agent,
        &mut timings.grace,
        &mut timings.spread,
        &mut timings.probe,
        &mut session.idle_ping,
        &mut session.owed_ping,
        &mut session.ping_answer,
        &mut session.credit_delay,
    ];
    scaled.into_iter().for_each(|duration| *duration /= SCALE);
}
