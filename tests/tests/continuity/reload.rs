//! What a running proxy reads again: certificates, records, its configuration.

use std::{
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    sync::Arc,
    time::Duration,
};

use rustls::{ClientConnection, pki_types::ServerName};
use spdy_tests::{
    fixture::{Identity, Program, Proxy, TempRoot, binary, wait_until},
    observe::{Signal, signal},
    wire::tls,
};

use crate::scaled::ScaledProxy;

/// The certificate that a port shows.
fn shown(to: SocketAddr) -> Vec<u8> {
    let config = Arc::new(tls::client_config().unwrap());
    let name = ServerName::try_from("localhost").unwrap();
    let mut tls = ClientConnection::new(config, name).unwrap();
    let mut socket = TcpStream::connect(to).unwrap();
    while tls.is_handshaking() {
        tls.complete_io(&mut socket).unwrap();
    }
    tls.peer_certificates().unwrap()[0].to_vec()
}

fn install(state: &std::path::Path, name: &str, key: &str, certificate: &str) {
    // Each whole or not at all: they may be read at any time.
    for (kind, text) in [("cert", certificate), ("key", key)] {
        fs::write(state.join("new"), text).unwrap();
        fs::rename(state.join("new"), state.join(format!("{name}{kind}.pem"))).unwrap();
    }
}

#[test]
fn new_certificates_are_shown_after_sighup_and_wrong_ones_never() {
    let state = TempRoot::new();
    let proxy = Proxy::start_in(state.path(), &["-t"]);
    let first = shown(proxy.http);
    let tunnel = shown(proxy.tunnel);
    let (one, other) = (Identity::generate(), Identity::generate());
    // A connection of before goes on.
    let mut kept = TcpStream::connect(proxy.http).unwrap();
    let reload = || signal(proxy.program().id(), Signal::HUP);
    install(state.path(), "http-", &one.key_pem, &one.certificate_pem);
    assert_eq!(shown(proxy.http), first);
    reload();
    wait_until("the new one is shown", || shown(proxy.http) == one.certificate);
    assert_eq!(shown(proxy.tunnel), tunnel);

    install(state.path(), "http-", &one.key_pem, &other.certificate_pem);
    reload();
    let line = "certificate=refused port=http";
    proxy.program().wait_for("its complaint", |held| held.contains(line).then_some(()));
    assert_eq!(shown(proxy.http), one.certificate);
    reload();
    fs::remove_file(state.join("http-key.pem")).unwrap();
    reload();
    install(state.path(), "http-", &other.key_pem, &other.certificate_pem);
    reload();
    wait_until("the other is shown", || shown(proxy.http) == other.certificate);
    // Each change was told once.
    assert_eq!(proxy.program().text().matches(line).count(), 1);
    kept.write_all(&[0]).unwrap();
    drop(kept);
}

#[test]
fn changed_certificates_are_found_without_a_signal() {
    let mut state = std::path::PathBuf::new();
    let proxy = ScaledProxy::start(|settings| {
        settings.tls = true;
        settings.timings.files = Duration::from_millis(50);
        state.clone_from(&settings.state_dir);
    });
    let (http, tunnel) = (Identity::generate(), Identity::generate());
    install(&state, "http-", &http.key_pem, &http.certificate_pem);
    install(&state, "", &tunnel.key_pem, &tunnel.certificate_pem);
    wait_until("both are shown", || {
        shown(proxy.http) == http.certificate && shown(proxy.tunnel) == tunnel.certificate
    });
}

#[test]
fn changed_configuration_is_taken_over_and_a_wrong_one_is_not() {
    let (root, state) = (TempRoot::new(), TempRoot::new());
    let config = root.join("proxy.conf");
    let written = |more: &str| {
        let folder = state.path().display();
        let text = format!("listen 127.0.0.1:0\ntunnel-listen 127.0.0.1:0\nstate-dir {folder}\n");
        // Whole or not at all: it may be read at any time.
        fs::write(root.join("new"), text + more).unwrap();
        fs::rename(root.join("new"), &config).unwrap();
    };
    written("");
    let mut command = std::process::Command::new(binary("spdy-proxy"));
    let proxy = Program::start("spdy-proxy", command.arg("--config").arg(&config));
    let http: SocketAddr = proxy.wait_for("its address", |line| {
        line.strip_prefix("listening on ")?.strip_suffix(" http")?.parse().ok()
    });
    let sees_debug = || {
        let mut stream = TcpStream::connect(http).unwrap();
        let head = "GET /debug HTTP/1.1\r\nHost: x\r\n";
        write!(stream, "{head}Connection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer.starts_with("HTTP/1.1 200 ")
    };
    assert!(!sees_debug());
    written("debug perhaps\n");
    signal(proxy.id(), Signal::HUP);
    proxy.wait_for("its refusal", |line| line.contains("configuration=refused").then_some(()));
    assert!(!sees_debug());
    // Nothing in it is new: nothing happens.
    signal(proxy.id(), Signal::HUP);
    written("debug\n");
    signal(proxy.id(), Signal::HUP);
    let id = proxy.wait_for("its successor", |line| {
        line.split_once("server=handed_over process=")?.1.trim().parse::<u32>().ok()
    });
    wait_until("the new settings hold", sees_debug);
    assert_eq!(proxy.text().matches("configuration=refused").count(), 1);
    signal(id, Signal::TERM);
}
