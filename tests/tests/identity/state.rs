//! The proxy's state folder is moved, restored, shared by mistake; its key is lost.

use std::{fs, os::unix::fs::symlink, path::Path, process::Command, time::Duration};

use spdy_tests::fixture::{Agent, Builds, Pair, Proxy, TempRoot, join, wait_until};

use crate::{joined, served, who};

fn copy(from: &Path, to: &Path) {
    // As an operator does, modes included; the socket of the running one comes along.
    let done = Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap();
    assert!(done.success());
}

fn starts(state: &Path) -> Result<(), String> {
    let mut command = Command::new(Builds::beside().proxy);
    command.args(["--listen", "127.0.0.1:0", "--tunnel-listen", "127.0.0.1:0", "--state-dir"]);
    let output = command.arg(state).output().unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    if output.status.success() { Ok(()) } else { Err(text) }
}

#[test]
fn proxy_that_moved_with_its_state_is_known_to_its_agents() {
    let (root, states) = (served("nas1"), TempRoot::new());
    let (old, new) = (states.join("old"), states.join("new"));
    let mut proxy = Proxy::start_in(&old, &[]);
    let config = states.join("conf/agent.conf");
    join(&Builds::beside(), &proxy.pair("nas1"), &config);
    let agent = joined(&root, &config);
    proxy.wait_for_tunnel("nas1");
    // While it runs nobody else uses the folder, by whatever path.
    symlink(&old, states.join("link")).unwrap();
    for path in [old.clone(), states.join("link")] {
        assert!(starts(&path).unwrap_err().contains("another spdy-proxy"), "{path:?}");
    }
    copy(&old, &new);
    let port = proxy.tunnel.to_string();
    proxy.program().terminate();
    proxy.program_mut().wait_exit(Duration::from_secs(40));
    drop(proxy);
    fs::remove_dir_all(&old).unwrap();
    let moved = Proxy::start_in(&new, &["--tunnel-listen", &port]);
    moved.wait_for_tunnel("nas1");
    assert_eq!(who(&moved), "nas1");
    assert!(!agent.program().text().contains("not trusted"));
}

#[test]
fn spare_key_takes_over_where_the_key_is_lost() {
    let (root, states) = (served("nas1"), TempRoot::new());
    let (state, spare) = (states.join("state"), states.join("spare.pem"));
    let mut proxy = Proxy::start_in(&state, &[]);
    let told = proxy.tell(&["key", "spare", spare.to_str().unwrap()]);
    let pin = told.trim().strip_prefix("spare ").unwrap().to_owned();
    let config = states.join("conf/agent.conf");
    join(&Builds::beside(), &proxy.pair("nas1"), &config);
    let text = fs::read_to_string(&config).unwrap();
    assert!(text.contains(&format!("pin {pin}\n")) && text.matches("\npin ").count() == 2);
    let agent = joined(&root, &config);
    proxy.wait_for_tunnel("nas1");
    let port = proxy.tunnel.to_string();
    let listed = proxy.tell(&["key", "list"]);
    assert!(listed.starts_with("active ") && listed.ends_with(&format!("spare {pin}\n")));
    proxy.program_mut().kill();
    for file in ["key.pem", "cert.pem"] {
        fs::remove_file(state.join(file)).unwrap();
    }
    let told = proxy.tell(&["key", "use", spare.to_str().unwrap()]);
    assert!(told.starts_with(&format!("active {pin} ")), "{told}");
    drop(proxy);
    let next = Proxy::start_in(&state, &["--tunnel-listen", &port]);
    next.wait_for_tunnel("nas1");
    assert_eq!(who(&next), "nas1");
    assert_eq!(next.tell(&["key", "list"]), format!("active {pin}\n"));
    assert!(!agent.program().text().contains("not trusted"));
}

#[test]
fn agent_follows_the_proxies_that_its_own_one_names_if_they_prove_its_pin() {
    let (root, states) = (served("nas1"), TempRoot::new());
    let (first, second) = (states.join("first"), states.join("second"));
    let mut proxy = Proxy::start_in(&first, &[]);
    let config = states.join("conf/agent.conf");
    join(&Builds::beside(), &proxy.pair("nas1"), &config);
    let port = proxy.tunnel.to_string();
    proxy.program().terminate();
    proxy.program_mut().wait_exit(Duration::from_secs(40));
    drop(proxy);
    copy(&first, &second);
    let (peer, stranger) = (Proxy::start_in(&second, &[]), Proxy::start(&[]));
    let named = [peer.tunnel, stranger.tunnel].map(|address| address.to_string());
    // All may have the same list, which names each of them to itself.
    let args =
        ["--tunnel-listen", &port, "--peer", &named[0], "--peer", &named[1], "--peer", &port];
    let mut proxy = Proxy::start_in(&first, &args);
    let agent = Agent::joined(&Builds::beside(), root.path(), &config, &["--follow-peers"]);
    for held in [&proxy, &peer] {
        held.wait_for_tunnel("nas1");
        assert_eq!(who(held), "nas1");
    }
    wait_until("the stranger is not trusted", || {
        let text = agent.program().text();
        text.lines().any(|line| line.contains(&named[1]) && line.contains("not trusted"))
    });
    assert!(!stranger.program().text().contains("status="), "it was sent a PUT");
    assert_eq!(proxy.program().text().matches("tunnel=up ").count(), 1);
    // The first one goes; what it named serves on.
    proxy.program_mut().kill();
    assert_eq!(who(&peer), "nas1");
}

#[test]
fn status_says_what_runs_as_text_and_as_json() {
    let root = served("nas1");
    let pair = Pair::start(root.path());
    assert_eq!(who(&pair.proxy), "nas1");
    let text = pair.proxy.tell(&["status"]);
    for name in ["tunnels_now 1", "requests_2xx 1", "memory_bytes ", "handshakes_refused 0"] {
        assert!(text.contains(name), "{text}");
    }
    let json: serde_json::Value =
        serde_json::from_str(&pair.proxy.tell(&["status", "--json"])).unwrap();
    assert_eq!(json["tunnels_now"], 1);
    assert_eq!(json["tunnel"][0]["origin"], "nas1");
    assert!(json["memory_bytes"].as_u64().unwrap() > 1 << 20);
    let nobody = TempRoot::new();
    let mut command = Command::new(Builds::beside().proxy);
    let output = command.args(["status", "--state-dir"]).arg(nobody.path()).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    wait_until("it is seen", || pair.proxy.tell(&["list"]).contains("software=\"spdy-agent/"));
}
