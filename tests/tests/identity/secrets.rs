//! Where secrets may be and where they may not.

use std::{
    fs,
    io::Write as _,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use spdy_protocol::join::JoinCode;
use spdy_tests::{
    fixture::{Program, Proxy, Sha256, TempRoot, binary},
    http::{Request, wait_for_agent},
    observe::Debug,
};

#[test]
fn secrets_stay_where_they_belong() {
    let proxy = Proxy::start(&["-s", "--log", "debug"]);
    let state = proxy.state_dir().to_owned();
    let root = TempRoot::new();
    root.write("served/film", b"film");
    let config = root.join("etc/agent.conf");
    let code = proxy.pair("nas1");
    // Through standard input: then it stands in nobody's list of processes.
    let mut joining = Command::new(binary("spdy-agent"))
        .args(["join", "--config"])
        .arg(&config)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let arguments = read(&format!("/proc/{}/cmdline", joining.id()));
    joining.stdin.take().unwrap().write_all(format!("{code}\n").as_bytes()).unwrap();
    let joined = joining.wait_with_output().unwrap();
    assert!(joined.status.success(), "{joined:?}");

    let mut command = Command::new(binary("spdy-agent"));
    command.arg("-r").arg(root.join("served")).arg("--config").arg(&config);
    let agent = Program::start("spdy-agent", command.args(["-s", "--log", "debug"]));
    wait_for_agent(proxy.http);
    let headers = [
        ("Authorization", "Basic dmlzaXRvcjpwYXNzd29yZA=="),
        ("Cookie", "session=secret-of-a-visitor"),
    ];
    let request = Request { headers: &headers, ..Request::get("/film?signature=secret-of-a-link") };
    assert_eq!(request.send(proxy.http).unwrap().text(), "film");
    let missing = Request { headers: &headers, ..Request::get("/none?signature=secret-of-a-link") };
    assert_eq!(missing.send(proxy.http).unwrap().status, 404);
    agent.wait_for("the second request", |line| line.contains("/none").then_some(()));

    let tell = |args: &[&str]| proxy.tell(args).trim().to_owned();
    let spare = root.join("spare.pem");
    let told = tell(&["key", "spare", spare.to_str().unwrap()]);
    let password = tell(&["access", "nas1", "password"]);
    let password = password.lines().find_map(|line| line.strip_prefix("password ")).unwrap();
    let rotation = tell(&["rotate", "nas1"]);
    let debug = Debug::of(proxy.http).text;
    let mut said = vec![
        ("join's arguments", arguments),
        ("join", format!("{joined:?}")),
        ("the agent's log", agent.text()),
        ("the proxy's log", proxy.program().text()),
        ("/debug", debug),
        ("list", tell(&["list"])),
        ("status", tell(&["status", "--json"])),
        ("key spare", told),
        ("key list", tell(&["key", "list"])),
        ("revoke", tell(&["revoke", "nas1"])),
    ];
    // The log up to the end of what the last command brought about.
    proxy.program().wait_for("the cut", |line| line.contains("tunnel=down").then_some(()));
    said.push(("the proxy's log in the end", proxy.program().text()));
    for (name, program) in [("the agent's", &agent), ("the proxy's", proxy.program())] {
        for file in ["cmdline", "environ"] {
            said.push((name, read(&format!("/proc/{}/{file}", program.id()))));
        }
    }
    let token = fs::read_dir(root.join("etc")).unwrap().map(|entry| entry.unwrap().path());
    let token = token.into_iter().find(|path| path.extension().is_some_and(|e| e == "token"));
    let token = read(token.unwrap().to_str().unwrap()).trim().to_owned();
    assert!(token.len() > 40);
    let secret = JoinCode::parse(&code).unwrap().secret;
    let hex: String = secret.iter().map(|octet| format!("{octet:02x}")).collect();
    let (key, kept) = (private_line(&state.join("key.pem")), private_line(&spare));
    let secrets = [
        ("the token", token.as_str()),
        ("the token's hash", &Sha256::of(token.as_bytes())),
        ("the join code", &code),
        ("the join secret", &hex),
        ("the password", password),
        ("the code of the rotation", &rotation),
        ("the key", &key),
        ("the spare key", &kept),
        ("a password", "dmlzaXRvcjpwYXNzd29yZA"),
        ("a cookie", "secret-of-a-visitor"),
        ("a signature", "secret-of-a-link"),
    ];
    for (place, text) in &said {
        for (name, secret) in &secrets {
            assert!(!text.contains(secret), "{name} is in {place}:\n{text}");
        }
    }
    // What has been looked at is what it says.
    assert!(said[2].1.contains("path=/film") && said[2].1.contains("query=redacted"));
    assert!(said[3].1.contains("SYN_STREAM") && said[4].1.contains("origin=nas1"));
    // The proxy keeps hashes only.
    for file in files(&state) {
        let text = String::from_utf8_lossy(&fs::read(&file).unwrap_or_default()).into_owned();
        for (name, secret) in
            secrets.iter().filter(|secret| !["the token's hash", "the key"].contains(&secret.0))
        {
            assert!(!text.contains(secret), "{name} is in {}", file.display());
        }
        let mode = fs::metadata(&file).unwrap().permissions().mode() & 0o077;
        assert!(mode == 0 || file.ends_with("cert.pem"), "{} {mode:o}", file.display());
    }
    for file in files(&root.join("etc")) {
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o077, 0, "{file:?}");
    }
}

/// A line in the middle of a PEM file: octets of the key itself.
fn private_line(path: &Path) -> String {
    let text = fs::read_to_string(path).unwrap();
    let line = text.lines().nth(2).unwrap();
    assert!(line.len() > 40 && text.contains("PRIVATE KEY"));
    line.to_owned()
}

/// All files below a folder.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
        if entry.is_dir() { found.extend(files(&entry)) } else { found.push(entry) }
    }
    assert!(!found.is_empty());
    found
}

fn read(path: &str) -> String {
    String::from_utf8_lossy(&fs::read(path).unwrap()).into_owned()
}
