//! Who gets in: agents that prove who they are, boxes that want one name, floods of strangers.
//! Nobody else does, and the rest is served meanwhile.
//!
//! The programs are those that are run. The other end is a real agent, or a handshake made here.
#![expect(clippy::unwrap_used, reason = "a test that panics has failed, with its line")]

mod boxes;
mod certificates;
mod claim;
mod credentials;
mod floods;
#[path = "../scaled/mod.rs"]
mod scaled;
mod state;

use std::{
    fs,
    path::{Path, PathBuf},
};

use spdy_tests::{
    fixture::{Agent, Builds, Proxy, TempRoot, wait_until},
    http::Request,
};

/// A folder that serves `who`, so that answers tell which box they come from.
fn served(who: &str) -> TempRoot {
    let root = TempRoot::new();
    root.write("who", who.as_bytes());
    root
}

/// Who answers for the origin, or nobody.
fn who(proxy: &Proxy) -> String {
    Request::get("/who").send(proxy.http).map_or_else(|_| String::new(), |answer| answer.text())
}

/// A copy of all that join wrote, as somebody makes who moves an agent to another box; with
/// `instance` if the copy is to be a box of its own.
fn copied(config: &Path, to: &TempRoot, instance: Option<&str>) -> PathBuf {
    let folder = config.parent().unwrap();
    for entry in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
        fs::copy(&entry, to.join(entry.file_name().unwrap().to_str().unwrap())).unwrap();
    }
    let copy = to.join(config.file_name().unwrap().to_str().unwrap());
    if let Some(instance) = instance {
        let text = fs::read_to_string(&copy).unwrap();
        let lines = text.lines().map(|line| match line.starts_with("instance ") {
            true => format!("instance {instance}\n"),
            false => format!("{line}\n"),
        });
        fs::write(&copy, lines.collect::<String>()).unwrap();
    }
    copy
}

fn joined(root: &TempRoot, config: &Path) -> Agent {
    Agent::joined(&Builds::beside(), root.path(), config, &["-s"])
}

/// The token that join wrote beside a configuration.
fn token(config: &Path) -> String {
    let mut files = fs::read_dir(config.parent().unwrap()).unwrap();
    let token = files.find_map(|entry| {
        let path = entry.unwrap().path();
        path.extension().is_some_and(|extension| extension == "token").then_some(path)
    });
    fs::read_to_string(token.unwrap()).unwrap().trim().to_owned()
}

/// The line of `list` for an origin, which begins with its name and `state`.
fn wait_for_state(proxy: &Proxy, origin: &str, state: &str) -> String {
    let line = || {
        let list = proxy.tell(&["list"]);
        let found = list.lines().find(|line| line.starts_with(&format!("{origin} {state}")));
        found.map(str::to_owned)
    };
    wait_until(&format!("{origin} is {state}"), || line().is_some());
    line().unwrap()
}
