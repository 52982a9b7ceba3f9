//! A running agent as its owner meets it: `status`, `doctor`, `rotate`, SIGHUP, and a start before
//! anything that it needs is there.
#![expect(clippy::unwrap_used, reason = "a test that panics has failed, with its line")]

use std::{
    fs,
    net::{SocketAddr, TcpListener},
    os::unix::{
        fs::{FileTypeExt as _, PermissionsExt as _},
        net::UnixListener,
    },
    path::{Path, PathBuf},
    process::Command,
};

use rustix::process::Signal;
use serde_json::Value;
use spdy_tests::{
    fixture::{Builds, PATIENCE, Pipe, Program, Proxy, TempRoot, binary, join, wait_until},
    http::{Request, wait_for_agent},
};

const AGENT: &str = "spdy-agent";

/// A NAS of its own: configuration, sockets and shares in one folder.
struct Nas {
    root: TempRoot,
}

/// What a command said.
#[derive(Debug)]
struct Said {
    code: Option<i32>,
    text: String,
    error: String,
}

impl Said {
    fn has(&self, part: &str) -> bool {
        self.text.lines().any(|line| line.contains(part))
    }
}

impl Nas {
    fn new() -> Self {
        let root = TempRoot::new();
        root.write("served/file", b"served");
        Self { root }
    }

    /// Joined to a proxy; the configuration names the folder.
    fn joined(proxy: &Proxy) -> Self {
        Self::joined_as(proxy, "nas1")
    }

    fn joined_as(proxy: &Proxy, name: &str) -> Self {
        let own = Self::new();
        join(&Builds::beside(), &proxy.pair(name), &own.config());
        own.prepend("root served\n");
        own
    }

    fn config(&self) -> PathBuf {
        self.root.join("agent.conf")
    }

    fn prepend(&self, text: &str) {
        let old = fs::read_to_string(self.config()).unwrap_or_default();
        self.root.write("agent.conf", format!("{text}{old}").as_bytes());
    }

    fn replace(&self, from: &str, to: &str) {
        let text = fs::read_to_string(self.config()).unwrap();
        assert!(text.contains(from), "{from} is not in {text}");
        fs::write(self.config(), text.replace(from, to)).unwrap();
    }

    fn token_file(&self) -> PathBuf {
        let entries = fs::read_dir(self.root.path()).unwrap();
        let is_token = |path: &PathBuf| path.extension().is_some_and(|of| of == "token");
        entries.map(|entry| entry.unwrap().path()).find(is_token).unwrap()
    }

    fn token(&self) -> String {
        fs::read_to_string(self.token_file()).unwrap().trim().to_owned()
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(binary(AGENT));
        command.env("RUNTIME_DIRECTORY", self.root.join("run")).env("HOME", self.root.path());
        command.env_remove("XDG_RUNTIME_DIR").env_remove("XDG_CONFIG_HOME").args(args);
        command
    }

    /// Starts the agent with its configuration.
    fn start(&self) -> Program {
        let agent = Program::start(AGENT, self.command(&["-s", "--config"]).arg(self.config()));
        agent.wait_for("its socket", |line| line.contains("event=control").then_some(()));
        agent
    }

    fn run(&self, args: &[&str]) -> Said {
        let mut program = Program::start(AGENT, &mut self.command(args));
        let code = program.wait_exit(PATIENCE).code();
        let [text, error] = [Pipe::Stdout, Pipe::Stderr].map(|pipe| program.lines(pipe).join("\n"));
        Said { code, text, error }
    }

    /// The same for the agent of the configuration.
    fn ask(&self, args: &[&str]) -> Said {
        let config = self.config();
        self.run(&[args, &["--config", config.to_str().unwrap()]].concat())
    }

    fn wait_for_code(&self, args: &[&str], code: i32) {
        wait_until(&format!("{args:?} ends with {code}"), || self.ask(args).code == Some(code));
    }
}

fn closed() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

fn get(http: SocketAddr, path: &str) -> String {
    Request::get(path).send(http).unwrap().text()
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn status_tells_people_and_programs_how_the_agent_is() {
    let proxy = Proxy::start(&[]);
    let own = Nas::joined(&proxy);
    let nobody = own.ask(&["status"]);
    assert_eq!(nobody.code, Some(1), "{nobody:?}");
    assert!(nobody.text.is_empty() && nobody.error.contains("no agent runs here"), "{nobody:?}");

    let mut agent = own.start();
    wait_for_agent(proxy.http);
    assert_eq!(get(proxy.http, "/file"), "served");
    own.wait_for_code(&["status"], 0);
    let text = own.ask(&["status"]);
    for part in ["nas1", "connected for", &proxy.tunnel.to_string(), "epoch 1", "share / in"] {
        assert!(text.has(part), "no {part:?} in {text:?}");
    }
    let json: Value = serde_json::from_str(&own.ask(&["status", "--json"]).text).unwrap();
    let (first, share) = (&json["proxies"][0], &json["shares"][0]);
    assert_eq!((&json["well"], &json["name"]), (&true.into(), &"nas1".into()), "{json}");
    assert_eq!((&first["state"], &first["epoch"]), (&"connected".into(), &1.into()), "{json}");
    assert_eq!(first["address"], Value::from(proxy.tunnel.to_string()), "{json}");
    assert!(first["streams_opened"].as_u64().unwrap() >= 1, "{json}");
    assert!(first["octets_sent"].as_u64().unwrap() > 6, "{json}");
    assert!(own.root.path().join("agent.conf").exists());
    assert!(fs::read_to_string(own.config()).unwrap().contains(first["pin"].as_str().unwrap()));
    assert_eq!((&share["path"], &share["readable"]), (&"/".into(), &true.into()), "{json}");
    assert_eq!(share["writable"], false, "{json}");
    assert!(share["free"].as_u64().unwrap() <= share["size"].as_u64().unwrap(), "{json}");

    // Only the agent's user may ask.
    let run = own.root.join("run");
    let sockets: Vec<_> = fs::read_dir(&run).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!((sockets.len(), mode(&run), mode(&sockets[0])), (1, 0o700, 0o600));
    assert!(fs::metadata(&sockets[0]).unwrap().file_type().is_socket());
    agent.terminate();
    assert_eq!(agent.wait_exit(PATIENCE).code(), Some(0));
    assert!(!sockets[0].exists());
}

#[test]
fn several_agents_of_one_box_do_not_collide() {
    let proxy = Proxy::start(&["--allow-anonymous"]);
    // Agents of others that run on this machine are told of, too.
    let ours = std::process::id();
    let [nas, other] = ["nas", "other"].map(|name| format!("{name}-{ours}"));
    let own = Nas::joined_as(&proxy, &nas);
    let first = own.start();
    wait_for_agent(proxy.http);
    // One without a file, one with the same file, and what a killed one left behind.
    let served = own.root.join("served");
    let served = served.to_str().unwrap();
    let address = closed().to_string();
    let flags = ["-s", "-r", served, "--insecure", "--name", &other, "--proxy", &address];
    let second = Program::start(AGENT, &mut own.command(&flags));
    second.wait_for("its socket", |line| line.contains("event=control").then_some(()));
    drop(UnixListener::bind(own.root.join("run/process-7.sock")).unwrap());
    let third = own.start();
    let names = |said: &Said| {
        let lines = said.text.lines().filter(|line| line.starts_with("spdy-agent "));
        let mut names: Vec<_> =
            lines.map(|line| line.split(' ').nth(2).unwrap().to_owned()).collect();
        names.retain(|name| name.ends_with(&format!("-{ours}")));
        names.sort();
        names
    };
    let all = own.run(&["status"]);
    assert_eq!((names(&all), all.code), (vec![nas.clone(), nas.clone(), other], Some(1)));
    assert_eq!(names(&own.ask(&["status"])), [nas.as_str(), &nas]);
    drop(third);
    assert_eq!(names(&own.ask(&["status"])), [nas]);
    drop((first, second));
}

#[test]
fn doctor_finds_what_is_wrong_before_the_agent_runs() {
    let proxy = Proxy::start(&[]);
    let own = Nas::joined(&proxy);
    let well = own.ask(&["doctor"]);
    assert_eq!(well.code, Some(0), "{well:?}");
    assert!(
        well.has("ok     ") && well.has("takes our token") && well.has("the clock"),
        "{well:?}"
    );
    let wrong = |parts: &[&str]| {
        let said = own.ask(&["doctor"]);
        assert_eq!(said.code, Some(1), "{said:?}");
        let line = said.text.lines().find(|line| line.starts_with("WRONG  "));
        let line = line.unwrap_or_else(|| panic!("nothing is wrong: {said:?}"));
        for part in parts.iter().chain(&[" -> "]) {
            assert!(line.contains(part), "no {part:?} in {line}");
        }
        // A secret has no place in it.
        assert!(!said.text.contains(&own.token()), "{said:?}");
    };
    let config = fs::read_to_string(own.config()).unwrap();
    let reset = || fs::write(own.config(), &config).unwrap();

    let nobody = closed().to_string();
    own.replace(&proxy.tunnel.to_string(), &nobody);
    wrong(&[&nobody, "refuses connections", "nothing listens"]);
    reset();
    let pin = config.lines().find_map(|line| line.strip_prefix("pin ")).unwrap();
    own.replace(pin, &"7".repeat(64));
    wrong(&["is not who it was", pin, &"7".repeat(64)]);
    reset();
    own.replace("root served", "root missing");
    wrong(&["share /", "missing", "cannot be read", "user "]);
    reset();
    own.prepend("colour blue\n");
    wrong(&["agent.conf:1:", "colour"]);
    reset();
    let token = own.token_file();
    fs::set_permissions(&token, fs::Permissions::from_mode(0o644)).unwrap();
    wrong(&["can be read by others (mode 644)", "chmod 600"]);
    fs::set_permissions(&token, fs::Permissions::from_mode(0o600)).unwrap();
    let right = fs::read_to_string(&token).unwrap();
    fs::write(&token, "another-token\n").unwrap();
    wrong(&["refused with 401", "unknown origin or wrong token", "spdy-agent join"]);
    fs::write(&token, right).unwrap();
    assert_eq!(own.ask(&["doctor"]).code, Some(0));
    own.replace(token.file_name().unwrap().to_str().unwrap(), "none.token");
    wrong(&["none.token", "is missing"]);
    let nothing = own.run(&["doctor", "--config", "/nonexistent/agent.conf"]);
    assert!(nothing.code == Some(1) && nothing.has("/nonexistent/agent.conf"), "{nothing:?}");
}

#[test]
fn doctor_of_a_running_agent_takes_nothing_from_it() {
    let mut proxy = Proxy::start(&[]);
    let own = Nas::joined(&proxy);
    let agent = own.start();
    wait_for_agent(proxy.http);
    own.wait_for_code(&["doctor"], 0);
    let well = own.ask(&["doctor"]);
    assert!(well.has("is connected for") && well.has("the agent runs as"), "{well:?}");
    assert!(well.has("the clock agrees") && well.has("held up"), "{well:?}");
    assert_eq!(agent.text().matches("event=tunnel_up").count(), 1);
    proxy.program_mut().kill();
    own.wait_for_code(&["doctor"], 1);
    let away = own.ask(&["doctor"]);
    assert!(away.has("WRONG") && away.has("refuses connections"), "{away:?}");
}

#[test]
fn rotated_token_takes_over_at_its_first_use() {
    let mut proxy = Proxy::start(&[]);
    let own = Nas::joined(&proxy);
    let agent = own.start();
    wait_for_agent(proxy.http);
    let old = own.token();
    let rotated = own.ask(&["rotate"]);
    assert_eq!(rotated.code, Some(0), "{rotated:?}");
    assert!(rotated.has(&format!("new token for {}", proxy.tunnel)), "{rotated:?}");
    assert!(rotated.has("the running agent knows"), "{rotated:?}");
    let new = own.token();
    assert!(old != new && new.len() == old.len() && mode(&own.token_file()) == 0o600);
    assert!(![&rotated.text, &rotated.error].iter().any(|text| text.contains(&new)));
    // The tunnel was not touched, and the next one is made with the new token.
    assert_eq!(agent.text().matches("event=tunnel_up").count(), 1);
    assert_eq!(get(proxy.http, "/file"), "served");
    drop(agent);
    let again = own.start();
    again.wait_for("its tunnel", |line| line.contains("event=tunnel_up").then_some(()));
    drop(again);
    fs::write(own.token_file(), format!("{old}\n")).unwrap();
    let dead = own.ask(&["doctor"]);
    assert!(dead.code == Some(1) && dead.has("refused with 401"), "{dead:?}");
    fs::write(own.token_file(), format!("{new}\n")).unwrap();

    proxy.program_mut().kill();
    let failed = own.ask(&["rotate"]);
    assert_eq!(failed.code, Some(1), "{failed:?}");
    assert!(failed.error.contains("is as it was") && own.token() == new, "{failed:?}");
    let left: Vec<_> = fs::read_dir(own.root.path()).unwrap().collect();
    assert!(!left.iter().any(|entry| {
        entry.as_ref().unwrap().file_name().to_string_lossy().starts_with(".spdy")
    }));
}

#[test]
fn rotate_says_what_it_cannot_do() {
    let own = Nas::new();
    let none = own.run(&["rotate"]);
    assert!(none.code == Some(64) && none.error.contains("--config"), "{none:?}");
    own.prepend("insecure\n");
    let unjoined = own.ask(&["rotate"]);
    assert!(unjoined.code == Some(64) && unjoined.error.contains("instance"), "{unjoined:?}");
    own.prepend("instance 000102030405060708090a0b0c0d0e0f\n");
    let tokenless = own.ask(&["rotate"]);
    assert!(tokenless.code == Some(1) && tokenless.error.contains("token"), "{tokenless:?}");
}

#[test]
fn sighup_reads_the_configuration_again_and_keeps_the_tunnel() {
    let proxy = Proxy::start(&[]);
    let own = Nas::joined(&proxy);
    own.root.write("more/file", b"more");
    let mut agent = own.start();
    wait_for_agent(proxy.http);
    let told = |what: &str, count: usize| {
        wait_until(what, || agent.text().matches(what).count() == count);
    };
    own.prepend("share more=more\n");
    agent.signal(Signal::HUP).unwrap();
    told("event=reloaded", 1);
    assert_eq!(get(proxy.http, "/more/file"), "more");
    // A slip of the pen is one line, and nothing changes.
    own.prepend("colour blue\n");
    agent.signal(Signal::HUP).unwrap();
    told("event=reload_failed", 1);
    let line =
        agent.wait_for("why", |line| line.contains("event=reload_failed").then(|| line.to_owned()));
    assert!(line.contains("agent.conf:1:") && line.contains("colour"), "{line}");
    assert_eq!(get(proxy.http, "/more/file"), "more");
    own.replace("colour blue\nshare more=more\n", "");
    agent.signal(Signal::HUP).unwrap();
    told("event=reloaded", 2);
    assert_eq!(Request::get("/more/file").send(proxy.http).unwrap().status, 404);
    assert_eq!(agent.text().matches("event=tunnel_up").count(), 1);
    assert_eq!(agent.text().matches("event=tunnel_down").count(), 0);
    agent.terminate();
    assert_eq!(agent.wait_exit(PATIENCE).code(), Some(0));
}

#[test]
fn agent_starts_before_its_proxy_and_its_disk() {
    let own = Nas::new();
    let missing = own.root.join("disk");
    let address = closed();
    let mut command = own.command(&["--insecure", "--proxy", &address.to_string(), "-r"]);
    let mut agent = Program::start(AGENT, command.arg(&missing));
    let waits = |part: &str| {
        agent.wait_for(part, |line| line.contains(part).then_some(()));
    };
    waits("event=share_absent");
    waits("event=connect_failed");
    let proxy = Proxy::start(&["--allow-anonymous", "--tunnel-listen", &address.to_string()]);
    waits("event=tunnel_up");
    let absent = || Request::get("/file").send(proxy.http).unwrap();
    wait_until("the tunnel is in use", || absent().text().contains("disk"));
    assert_eq!(absent().status, 503);
    own.root.write("disk/file", b"late");
    // It looks no more often than every ten seconds, unless it is told to.
    agent.signal(Signal::HUP).unwrap();
    wait_until("the share is there", || get(proxy.http, "/file") == "late");
    for part in ["event=share_absent", "event=connect_failed", "event=share_present"] {
        assert_eq!(agent.text().matches(part).count(), 1, "{part}");
    }
    agent.terminate();
    assert_eq!(agent.wait_exit(PATIENCE).code(), Some(0));
}
