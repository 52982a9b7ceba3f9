//! Programs that people use, through both programs with real TLS: players, download managers,
//! mirrors, a browser.
//!
//! A [`Recorder`] stands between each of them and the proxy where it matters what they asked for: a
//! seek that reads the whole film shows the same pictures.
#![expect(clippy::unwrap_used, reason = "a test that panics has failed, with its line")]

mod chromium;
mod downloads;
mod films;
mod mirrors;
mod pages;

use std::{path::Path, process::Command};

use spdy_tests::{
    fixture::{Pair, finished, tool, wait_until},
    http::Request,
    recorder::Recorder,
};

/// Runs a program of the machine to its good end and returns its standard output.
fn run(name: &str, args: &[&str]) -> String {
    finished(Command::new(tool(name)).args(args), "")
}

/// Both programs, the agent with a line of its log for each request.
fn pair(root: &Path, agent: &[&str]) -> Pair {
    Pair::with(root, &[], &[&["--log", "debug"], agent].concat())
}

/// A relay to the proxy for one program, and the address of a file behind it.
fn watched(pair: &Pair, name: &str) -> (Recorder, String) {
    let recorder = Recorder::start(pair.proxy.http);
    let address = format!("http://{}/{name}", recorder.address);
    (recorder, address)
}

/// Waits until a file is old enough for a strong tag, which it has only once it is surely written.
fn strong_tag(pair: &Pair, name: &str) -> String {
    let target = format!("/{name}");
    let head = Request { method: "HEAD", ..Request::get(&target) };
    let tag = || head.send(pair.proxy.http).unwrap().headers.remove("etag");
    wait_until("the file has a strong tag", || tag().is_some_and(|tag| tag.starts_with('"')));
    tag().unwrap()
}
