//! Whose uploads are, and who may do what with them.

use std::{
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown},
    process::Command,
};

use rustix::process::geteuid;
use spdy_tests::{
    fixture::{Pair, Pipe, TempRoot, binary, wait_until},
    http::Request,
    observe::Signal,
};

fn status(pair: &Pair, method: &str, target: &str) -> u16 {
    let body = (method == "PUT").then_some(&b"new"[..]);
    Request { method, body, ..Request::get(target) }.send(pair.proxy.http).unwrap().status
}

#[test]
fn root_gives_uploads_to_whom_the_settings_name() {
    if !geteuid().is_root() {
        spdy_tests::skip::skipped("only root can give files away");
        return;
    }
    let root = TempRoot::new();
    let args = ["--allow-write", "--upload-owner", "4001:4002", "--upload-umask", "027"];
    let pair = Pair::with(root.path(), &[], &args);
    assert_eq!(status(&pair, "MKCOL", "/folder"), 201);
    assert_eq!(status(&pair, "PUT", "/folder/file"), 201);
    for (name, mode) in [("folder", 0o750), ("folder/file", 0o640)] {
        let meta = fs::metadata(root.join(name)).unwrap();
        assert_eq!((meta.uid(), meta.gid(), meta.mode() & 0o777), (4_001, 4_002, mode), "{name}");
    }
}

#[test]
fn group_of_a_setgid_folder_needs_no_powers() {
    if !geteuid().is_root() {
        spdy_tests::skip::skipped("only root can make a folder of another group");
        return;
    }
    let root = TempRoot::new();
    chown(root.path(), None, Some(4_002)).unwrap();
    fs::set_permissions(root.path(), fs::Permissions::from_mode(0o2775)).unwrap();
    let pair = Pair::with(root.path(), &[], &["--allow-write", "--upload-umask", "002"]);
    assert_eq!(status(&pair, "MKCOL", "/folder"), 201);
    assert_eq!(status(&pair, "PUT", "/folder/file"), 201);
    for (name, mode) in [("folder", 0o2775), ("folder/file", 0o664)] {
        let meta = fs::metadata(root.join(name)).unwrap();
        assert_eq!((meta.gid(), meta.mode() & 0o7777), (4_002, mode), "{name}");
    }
}

#[test]
fn umask_that_is_named_no_more_is_the_one_of_the_start_again() {
    let root = TempRoot::new();
    let pair = Pair::with(root.path(), &[], &["--allow-write"]);
    let config = pair.config();
    let plain = fs::read_to_string(&config).unwrap();
    let mode = |name: &str| {
        assert_eq!(status(&pair, "PUT", &format!("/{name}")), 201);
        fs::metadata(root.join(name)).unwrap().mode() & 0o777
    };
    let reloads = |count: usize| {
        let agent = pair.agent.program();
        agent.signal(Signal::HUP).unwrap();
        let is_reload = |line: &&String| line.contains("event=reloaded");
        wait_until("the configuration is read", || {
            agent.lines(Pipe::Stderr).iter().filter(is_reload).count() == count
        });
    };
    let before = mode("before");
    fs::write(&config, format!("upload-umask 077\n{plain}")).unwrap();
    reloads(1);
    assert_eq!(mode("named"), 0o600);
    fs::write(&config, plain).unwrap();
    reloads(2);
    assert_eq!(mode("after"), before);
    assert_ne!(before, 0o600);
}

#[test]
fn settings_that_cannot_be_kept_are_refused_at_the_start() {
    let agent = binary("spdy-agent");
    let agent = agent.to_str().unwrap();
    let serve = [agent, "--insecure", "--proxy", "127.0.0.1:1", "-r", "/"];
    // Who is not root can give nothing away. The program is read by root, wherever it lies.
    let mut plain = vec!["setpriv", "--reuid=4242", "--regid=4242", "--clear-groups"];
    if !geteuid().is_root() {
        plain.clear();
    }
    for (before, flags, code) in [
        (&plain[..], ["--upload-owner", "4001"], 1),
        (&[], ["--upload-owner", "nobody-of-this-name"], 1),
        (&[], ["--upload-umask", "8"], 64),
        (&[], ["--upload-umask", "1777"], 64),
    ] {
        let words: Vec<_> = before.iter().chain(&serve).chain(&flags).copied().collect();
        let output = Command::new(words[0]).args(&words[1..]).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        if said.contains("failed to execute") {
            spdy_tests::skip::skipped_part(format_args!("another user may not run {agent}"));
            continue;
        }
        assert_eq!(output.status.code(), Some(code), "{flags:?}: {said}");
        assert!(said.contains(flags[0].trim_start_matches('-')), "{said}");
    }
}
