//! Short outages and planned changes, which nobody sees: responses that go on, requests that wait.
//!
//! The proxy is the program wherever its own times will do; the agent is the library with short
//! waits between its dials, or the program where it is killed.
#![expect(clippy::unwrap_used, reason = "a test that panics has failed, with its line")]

mod handover;
mod hold;
mod refused;
mod reload;
mod repeats;
#[path = "../scaled/mod.rs"]
mod scaled;
mod splice;

use std::net::SocketAddr;

use spdy_tests::{
    fixture::{Proxy, wait_until},
    http::{Request, Response},
    link::{Link, Settings, Way},
    observe::Debug,
};

/// A proxy that takes anyone.
fn anonymous(args: &[&str]) -> Proxy {
    Proxy::start(&[&["--allow-anonymous"], args].concat())
}

/// A link on which a transfer of some MiB can be met in the middle.
fn line(target: SocketAddr, rate: u64) -> Link {
    let way = Way { rate: Some(rate), queue: 64 << 10, ..Way::default() };
    Link::start(target, Settings { up: way, down: way }).unwrap()
}

/// Breaks the line; whoever dials again hears nothing until [`Link::release`].
fn lose(link: &Link, http: SocketAddr) {
    link.hold();
    link.cut();
    wait_until("the proxy has lost the tunnel", || Debug::of(http).total("tunnels_now") == 0);
}

fn get(http: SocketAddr, target: &str) -> Response {
    Request::get(target).send(http).unwrap()
}

/// Waits until the file was left alone for so long that its tag is strong, and returns the tag.
fn settled(http: SocketAddr, target: &str) -> String {
    let tag = || {
        let answer = Request { method: "HEAD", ..Request::get(target) }.send(http).unwrap();
        answer.headers.get("etag").filter(|tag| tag.starts_with('"')).cloned()
    };
    wait_until("the file has a strong tag", || tag().is_some());
    tag().unwrap()
}
