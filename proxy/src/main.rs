//! The program `spdy-proxy`; everything it does is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    spdy_proxy::command::run(std::env::args_os())
}
