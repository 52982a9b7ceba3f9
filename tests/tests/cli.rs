//! The programs as somebody uses them who makes mistakes.
//!
//! Every failure is one line on standard error and exit code 64 (usage) or 1.
#![expect(clippy::unwrap_used, reason = "a test that panics has failed, with its line")]

use std::{
    fs,
    net::{SocketAddr, TcpListener},
    os::unix::fs::{PermissionsExt as _, symlink},
    path::Path,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    thread,
};

use rustls::{
    ServerConfig, ServerConnection,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    sign::{CertifiedKey, SingleCertAndKey},
};
use spdy_protocol::join::JoinCode;
use spdy_tests::{
    fixture::{Identity, PATIENCE, Pipe, Program, Proxy, TempRoot, binary, wait_until},
    http::{Request, wait_for_agent},
    observe::Debug,
};

const AGENT: &str = "spdy-agent";
const PROXY: &str = "spdy-proxy";

const USAGE: i32 = 64;
const FAILURE: i32 = 1;

/// What a program that has ended said.
#[derive(Debug)]
struct Ran {
    what: String,
    code: Option<i32>,
    stdout: Vec<String>,
    stderr: Vec<String>,
}

impl Ran {
    /// It failed as it should: nothing on standard output, one line that names the program and
    /// everything of `parts`.
    fn failed(&self, code: i32, parts: &[&str]) {
        assert_eq!(self.code, Some(code), "{self:?}");
        assert!(self.stdout.is_empty(), "{self:?}");
        assert_eq!(self.stderr.len(), 1, "{self:?}");
        let name = self.what.split_whitespace().next().unwrap();
        let said = self.stderr[0].strip_prefix(&format!("{name}: "));
        assert!(said.is_some_and(|said| said.len() > 8), "{self:?}");
        for part in parts {
            assert!(self.stderr[0].contains(part), "no {part:?} in {self:?}");
        }
    }

    fn succeeded(&self) -> &[String] {
        assert_eq!(self.code, Some(0), "{self:?}");
        assert!(self.stderr.is_empty(), "{self:?}");
        &self.stdout
    }
}

/// Runs a program, with a home of its own, to its end.
fn run<A: AsRef<str>>(name: &str, args: &[A]) -> Ran {
    let home = TempRoot::new();
    let mut command = Command::new(binary(name));
    command.args(args.iter().map(AsRef::as_ref));
    for variable in ["XDG_CONFIG_HOME", "XDG_STATE_HOME", "STATE_DIRECTORY"] {
        command.env_remove(variable);
    }
    let mut program = Program::start(name, command.env("HOME", home.path()));
    let code = program.wait_exit(PATIENCE).code();
    let args: Vec<_> = args.iter().map(AsRef::as_ref).collect();
    Ran {
        what: format!("{name} {}", args.join(" ")),
        code,
        stdout: program.lines(Pipe::Stdout),
        stderr: program.lines(Pipe::Stderr),
    }
}

fn words(line: &str) -> Vec<&str> {
    line.split(' ').filter(|word| !word.is_empty()).collect()
}

/// A join code for `nas1` of the proxy whose state folder this is.
fn pair(state: &Path, address: SocketAddr, more: &[&str]) -> String {
    let (state, address) = (state.to_str().unwrap(), address.to_string());
    let mut args = vec!["pair", "nas1", "--state-dir", state, "--address", &address];
    args.extend(more);
    run(PROXY, &args).succeeded().last().unwrap().clone()
}

fn join(code: &str, config: &Path) -> Ran {
    run(AGENT, &["join", code, "--config", config.to_str().unwrap()])
}

/// A proxy that presents a certificate without having its key, as long as the value lives.
struct Impostor {
    address: SocketAddr,
    /// Connections, and those whose handshake went through.
    counts: Arc<(AtomicUsize, AtomicUsize)>,
}

impl Impostor {
    fn new(certificate: &Path) -> Self {
        let certificate = CertificateDer::from_pem_file(certificate).unwrap();
        let own = PrivateKeyDer::try_from(Identity::generate().key).unwrap();
        // Without the check that key and certificate belong together: they do not.
        let key = ring::sign::any_supported_type(&own).unwrap();
        let certified = CertifiedKey::new(vec![certificate], key);
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(SingleCertAndKey::from(certified)));
        let config = Arc::new(config);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let counts = Arc::new((AtomicUsize::new(0), AtomicUsize::new(0)));
        let counted = Arc::clone(&counts);
        // Ends with the test program.
        thread::spawn(move || {
            for socket in listener.incoming() {
                let mut socket = socket.unwrap();
                socket.set_read_timeout(Some(PATIENCE)).unwrap();
                let mut tls = ServerConnection::new(Arc::clone(&config)).unwrap();
                let mut shaken = Ok((0, 0));
                while shaken.is_ok() && tls.is_handshaking() {
                    shaken = tls.complete_io(&mut socket);
                }
                counted.1.fetch_add(usize::from(shaken.is_ok()), SeqCst);
                counted.0.fetch_add(1, SeqCst);
            }
        });
        Self { address, counts }
    }

    fn connections(&self) -> usize {
        self.counts.0.load(SeqCst)
    }

    fn fooled(&self) -> usize {
        self.counts.1.load(SeqCst)
    }
}

#[test]
fn wrong_command_lines_are_usage_errors() {
    let root = TempRoot::new();
    let folder = root.path().to_str().unwrap();
    let serve = format!("-r {folder} --insecure");
    let pin = "0".repeat(64);
    for (line, parts) in [
        (String::new(), &["-r DIR"][..]),
        ("--nonsense".into(), &["--nonsense"]),
        ("-r".into(), &["-r"]),
        ("--root".into(), &["--root"]),
        ("extra".into(), &["extra"]),
        ("status now".into(), &["now"]),
        (format!("-r {folder} doctor"), &["--config"]),
        (format!("{serve} --follow-peers"), &["pin"]),
        (format!("-r {folder}"), &["--pin", "--ca", "join"]),
        (format!("-r {folder} -r {folder}"), &["-r"]),
        (format!("{serve} --allow-write=yes"), &["yes"]),
        (format!("{serve} --log loud"), &["loud"]),
        (format!("{serve} --log=loud"), &["loud"]),
        (format!("{serve} --name NAS_1"), &["NAS_1"]),
        (format!("{serve} --proxy nonsense"), &["nonsense"]),
        (format!("{serve} --proxy=::1:1444"), &["::1:1444"]),
        (format!("{serve} --proxy host:0"), &["host:0"]),
        (format!("{serve} --pin {pin}"), &["--pin", "--insecure"]),
        (format!("{serve} --ca /dev/null"), &["--ca", "--insecure"]),
        (format!("-r {folder} --pin 123"), &["123"]),
        (format!("-r {folder} --pin {pin} --cert /x"), &["--cert", "--key"]),
        (format!("-r {folder} --pin {pin} --key /x"), &["--cert", "--key"]),
        ("join a b".into(), &["b"]),
        ("join --nonsense".into(), &["--nonsense"]),
        (format!("join --proxy {folder}"), &["--proxy"]),
        (format!("-r {folder} join code"), &["--config"]),
    ] {
        run(AGENT, &words(&line)).failed(USAGE, parts);
    }
    for (line, parts) in [
        ("--nonsense", &["--nonsense"][..]),
        ("nonsense", &["nonsense"]),
        ("--listen", &["--listen"]),
        ("--listen nonsense", &["nonsense"]),
        ("--listen=127.0.0.1", &["127.0.0.1"]),
        ("--tunnel-listen 127.0.0.1:65536", &["127.0.0.1:65536"]),
        ("--debug=yes", &["yes"]),
        ("--log loud", &["loud"]),
        ("--threads 0", &["threads"]),
        ("--threads=many", &["many"]),
        ("--grace soon", &["soon"]),
        ("--config /nonexistent/file", &["/nonexistent/file"]),
        ("--state-dir /a --state-dir /b", &["--state-dir"]),
        ("pair", &["name"]),
        ("pair NAS", &["NAS"]),
        ("pair a b", &["b"]),
        ("pair nas1 --address nonsense", &["nonsense"]),
        ("pair nas1 --valid=never", &["never"]),
        ("pair nas1 --access closed", &["closed"]),
        ("access nas1", &["access"]),
        ("access nas1 closed", &["closed"]),
        ("access anonymous open", &["anonymous"]),
        ("list extra", &["extra"]),
        ("rotate", &["name"]),
        ("rotate nas1 --access open", &["--access"]),
        ("revoke NAS", &["NAS"]),
        ("revoke anonymous", &["anonymous"]),
        ("key", &["spare", "use"]),
        ("key spare", &["file"]),
        ("status --json=yes", &["yes"]),
        ("--client-crl /x", &["client-ca"]),
        ("--standby=yes", &["yes"]),
    ] {
        run(PROXY, &words(line)).failed(USAGE, parts);
    }
}

#[test]
fn what_an_agent_cannot_read_is_named() {
    let root = TempRoot::new();
    root.write("served/file", b"x");
    root.write("empty", b"");
    root.write("two words", b"two words");
    let at = |name: &str| root.join(name).to_str().unwrap().to_owned();
    let (served, missing) = (at("served"), at("missing"));
    for (args, part) in [
        (vec!["-r", &at("empty"), "--insecure"], &at("empty")),
        (vec!["-r", &served, "--insecure", "--config", &missing], &missing),
        (vec!["-r", &served, "--ca", &missing], &missing),
        (vec!["-r", &served, "--ca", &at("empty")], &at("empty")),
        (vec!["-r", &served, "--ca", &served], &served),
        (vec!["-r", &served, "--insecure", "--token-file", &missing], &missing),
        (vec!["-r", &served, "--insecure", "--token-file", &at("empty")], &at("empty")),
        (vec!["-r", &served, "--insecure", "--token-file", &at("two words")], &at("two words")),
        (vec!["-r", &served, "--insecure", "--cert", &missing, "--key", &missing], &missing),
        (
            vec!["-r", &served, "--insecure", "--cert", &at("empty"), "--key", &missing],
            &at("empty"),
        ),
    ] {
        run(AGENT, &args).failed(FAILURE, &[part]);
        run(AGENT, &[&["--check"], &args[..]].concat()).failed(FAILURE, &[part]);
    }
    // What is right is only read: nobody is dialled, nothing said.
    let right = run(AGENT, &["--check", "-r", &served, "--insecure", "--proxy", "127.0.0.1:1"]);
    assert!(right.succeeded().is_empty(), "{right:?}");
}

#[test]
fn port_in_use_is_named() {
    let holder = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = holder.local_addr().unwrap().to_string();
    let state = TempRoot::new();
    let state = state.path().to_str().unwrap();
    let first = ["--state-dir", state, "--listen", &taken, "--tunnel-listen", "127.0.0.1:0"];
    run(PROXY, &first).failed(FAILURE, &[&taken]);
    let second = ["--state-dir", state, "--listen", "127.0.0.1:0", "--tunnel-listen", &taken];
    run(PROXY, &second).failed(FAILURE, &[&taken]);
}

#[test]
fn state_folder_that_cannot_be_used_is_named() {
    let ports = ["--listen=127.0.0.1:0", "--tunnel-listen=127.0.0.1:0", "--state-dir"];
    let start = |folder: &Path| {
        let mut args = ports.to_vec();
        args.push(folder.to_str().unwrap());
        run(PROXY, &args)
    };
    let root = TempRoot::new();
    let file = root.write("file", b"");
    start(&file).failed(FAILURE, &[file.to_str().unwrap()]);
    start(Path::new("/proc/none")).failed(FAILURE, &["/proc/none"]);

    let made = Proxy::start_in(&root.join("state"), &[]);
    start(&root.join("state")).failed(FAILURE, &["another spdy-proxy"]);
    drop(made);
    let state = |name: &str| {
        let folder = root.join(name);
        fs::create_dir(&folder).unwrap();
        for file in ["key.pem", "cert.pem"] {
            fs::copy(root.join("state").join(file), folder.join(file)).unwrap();
        }
        folder
    };
    let key = |folder: &Path| folder.join("key.pem").to_str().unwrap().to_owned();
    let certificate = |folder: &Path| folder.join("cert.pem").to_str().unwrap().to_owned();

    let garbage = state("garbage");
    fs::write(garbage.join("key.pem"), "garbage").unwrap();
    start(&garbage).failed(FAILURE, &[&key(&garbage)]);
    let empty = state("empty");
    fs::write(empty.join("cert.pem"), "").unwrap();
    start(&empty).failed(FAILURE, &[&certificate(&empty)]);
    // Not even root reads a folder or a loop.
    let unreadable = state("unreadable");
    fs::remove_file(unreadable.join("key.pem")).unwrap();
    fs::create_dir(unreadable.join("key.pem")).unwrap();
    start(&unreadable).failed(FAILURE, &[&key(&unreadable)]);
    let circle = state("circle");
    fs::remove_file(circle.join("key.pem")).unwrap();
    symlink("key.pem", circle.join("key.pem")).unwrap();
    start(&circle).failed(FAILURE, &[&key(&circle)]);
    // A key without its certificate is an operator's slip: nothing is made over it.
    let alone = state("alone");
    fs::remove_file(alone.join("cert.pem")).unwrap();
    start(&alone).failed(FAILURE, &[&certificate(&alone)]);
    assert!(!alone.join("cert.pem").exists());
    let strange = state("strange");
    fs::write(strange.join("key.pem"), Identity::generate().key_pem).unwrap();
    start(&strange).failed(FAILURE, &["do not belong together"]);
}

#[test]
fn wrong_configuration_is_told_with_its_line() {
    let root = TempRoot::new();
    let folder = root.path().to_str().unwrap().to_owned();
    let wrong = [
        ("root .\n\n# why\ncolour blue\n", 4, "colour"),
        ("root .\nroot .\n", 2, "root"),
        ("root\n", 1, "root"),
        ("allow-write perhaps\n", 1, "perhaps"),
        ("[proxy localhost:1]\nname x\n", 2, "name"),
        ("[nonsense]\n", 1, "nonsense"),
        ("instance 123\n", 1, "instance"),
        ("root .\ninclude missing.conf\n", 2, "missing.conf"),
    ];
    for (text, line, part) in wrong {
        let path = root.write("agent.conf", text.as_bytes());
        let path = path.to_str().unwrap();
        let told = format!("{path}:{line}:");
        for check in [&["--check"][..], &[]] {
            let args = [check, &["--insecure", "--config", path]].concat();
            run(AGENT, &args).failed(USAGE, &[&told, part]);
        }
        let before = fs::read(path).unwrap();
        let state = TempRoot::new();
        let code = pair(state.path(), "127.0.0.1:1".parse().unwrap(), &[]);
        join(&code, Path::new(path)).failed(USAGE, &[&told, part]);
        assert_eq!(fs::read(path).unwrap(), before);
    }
    let wrong = [
        ("listen 127.0.0.1:0\n\n# why\ncolour blue\n", 4, "colour"),
        ("grace 1\ngrace 2\n", 2, "grace"),
        ("log\n", 1, "log"),
        ("tls perhaps\n", 1, "tls"),
    ];
    for (text, line, part) in wrong {
        let path = root.write("proxy.conf", text.as_bytes());
        let path = path.to_str().unwrap();
        let told = format!("line {line}");
        let args = ["--state-dir", &folder, "--config", path];
        run(PROXY, &args).failed(USAGE, &[path, &told, part]);
    }
}

#[test]
fn help_and_version_go_to_stdout() {
    for (name, flag) in [(AGENT, "--allow-write"), (PROXY, "--allow-anonymous")] {
        for help in ["-h", "--help"] {
            let ran = run(name, &[help]);
            let text = ran.succeeded().join("\n");
            assert!(text.starts_with(&format!("Usage: {name} ")), "{text}");
            assert!(text.contains(flag), "{text}");
        }
        let version = format!("{name} {}", env!("CARGO_PKG_VERSION"));
        assert_eq!(run(name, &["--version"]).succeeded(), [version]);
    }
    for (name, command) in [
        (AGENT, "join"),
        (PROXY, "pair"),
        (PROXY, "rotate"),
        (PROXY, "access"),
        (PROXY, "revoke"),
        (PROXY, "key"),
        (PROXY, "list"),
        (PROXY, "status"),
    ] {
        for help in ["-h", "--help"] {
            let ran = run(name, &[command, help]);
            assert!(
                ran.succeeded()[0].starts_with(&format!("Usage: {name} {command} ")),
                "{ran:?}"
            );
        }
    }
}

#[test]
fn values_may_stand_behind_an_equals_sign() {
    let (state, served) = (TempRoot::new(), TempRoot::new());
    served.write("a=b", b"equal");
    let proxy = Proxy::start_in(state.path(), &["--allow-anonymous", "--log=debug", "--grace=1"]);
    let mut command = Command::new(binary(AGENT));
    command.arg(format!("--root={}", served.path().display()));
    command.arg(format!("--proxy={}", proxy.tunnel));
    let agent = Program::start(AGENT, command.args(["--insecure", "--name=equal", "--log=error"]));
    wait_for_agent(proxy.http);
    assert_eq!(Request::get("/a=b").send(proxy.http).unwrap().text(), "equal");
    // The name is the agent's own claim; without a token it is another.
    assert!(Debug::of(proxy.http).text.contains("origin=anonymous"));
    drop(agent);
}

#[test]
fn join_codes_are_good_once_and_in_time() {
    let proxy = Proxy::start(&[]);
    let state = proxy.state_dir();
    let root = TempRoot::new();
    let config = root.join("etc/agent.conf");
    let expired = pair(state, proxy.tunnel, &["--valid", "0"]);
    join(&expired, &config).failed(FAILURE, &["expired"]);
    let mut mistyped = pair(state, proxy.tunnel, &[]);
    let last = mistyped.pop().unwrap();
    mistyped.push(if last == 'a' { 'b' } else { 'a' });
    join(&mistyped, &config).failed(FAILURE, &["mistyped"]);
    join("nonsense", &config).failed(FAILURE, &["not a join code"]);
    run(AGENT, &["join", "--config", config.to_str().unwrap()]).failed(FAILURE, &["no join code"]);
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let elsewhere = pair(state, nobody, &[]);
    join(&elsewhere, &config).failed(FAILURE, &[&nobody.to_string(), "nothing was written"]);
    assert!(!root.join("etc").exists());

    let code = pair(state, proxy.tunnel, &[]);
    // An earlier code dies with the next.
    join(&elsewhere, &config).failed(FAILURE, &[&nobody.to_string()]);
    let joined = join(&code, &config);
    assert!(joined.succeeded().iter().any(|line| line.contains("nas1")), "{joined:?}");
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&config), 0o600);
    assert_eq!(mode(&root.join("etc")), 0o700);
    let second = root.join("second.conf");
    join(&code, &second).failed(FAILURE, &["used"]);
    assert!(!second.exists());
    // Capitals and blanks are how a code is read out.
    let code = pair(state, proxy.tunnel, &[]).to_uppercase();
    let (start, end) = code.split_at(20);
    assert_eq!(join(&format!("{start} {end}\n"), &second).code, Some(0));
}

#[test]
fn join_believes_only_the_proxy_that_made_the_code() {
    let proxy = Proxy::start(&[]);
    let state = proxy.state_dir();
    let root = TempRoot::new();
    let config = root.join("etc/agent.conf");
    let code = pair(state, proxy.tunnel, &[]);
    let parsed = JoinCode::parse(&code).unwrap();

    let strange = JoinCode { pins: vec![[7; 32]], ..parsed.clone() };
    join(&strange.encode(), &config).failed(FAILURE, &["pin", "nothing was written"]);

    let impostor = Impostor::new(&state.join("cert.pem"));
    let stolen = JoinCode { addresses: vec![impostor.address.to_string()], ..parsed };
    let refused = join(&stolen.encode(), &config);
    refused.failed(FAILURE, &[&impostor.address.to_string(), "TLS", "nothing was written"]);
    wait_until("the impostor has seen it", || impostor.connections() == 1);
    assert_eq!(impostor.fooled(), 0);
    assert!(!root.join("etc").exists());
    // The code was not spent on any of them.
    assert_eq!(join(&code, &config).code, Some(0));
}

#[test]
fn running_agent_tells_once_why_it_does_not_trust_its_proxy() {
    let proxy = Proxy::start(&["--allow-anonymous"]);
    let state = proxy.state_dir();
    let code = JoinCode::parse(&pair(state, proxy.tunnel, &[])).unwrap();
    let right: String = code.pins[0].iter().map(|octet| format!("{octet:02x}")).collect();
    let wrong = "7".repeat(64);
    let impostor = Impostor::new(&state.join("cert.pem"));
    let served = TempRoot::new();
    let token = served.write("token", b"a-secret-token\n");
    for (address, pin, reason) in
        [(proxy.tunnel, &wrong, right.as_str()), (impostor.address, &right, "TLS failed")]
    {
        let mut command = Command::new(binary(AGENT));
        command.arg("-r").arg(served.path()).arg("--token-file").arg(&token);
        command.args(["--proxy", &address.to_string(), "--pin", pin, "-s"]);
        let mut agent = Program::start(AGENT, &mut command);
        let line = agent
            .wait_for("why", |line| line.contains("event=connect_failed").then(|| line.to_owned()));
        assert!(line.contains(" error ") && line.contains(reason), "{line}");
        agent.terminate();
        assert_eq!(agent.wait_exit(PATIENCE).code(), Some(0));
        assert_eq!(agent.text().matches("connect_failed").count(), 1);
        assert!(!agent.text().contains("a-secret-token"));
    }
    assert_eq!(impostor.fooled(), 0);
    assert_eq!(Debug::of(proxy.http).total("tunnels_now"), 0);
}

#[test]
fn authority_is_believed_for_its_own_certificates_only() {
    let proxy = Proxy::start(&["--allow-anonymous"]);
    let own = proxy.state_dir().join("cert.pem");
    let root = TempRoot::new();
    root.write("served/small", b"small");
    let other = root.write("other.pem", Identity::generate().certificate_pem.as_bytes());
    let served = root.join("served");
    let start = |ca: &Path| {
        let mut command = Command::new(binary(AGENT));
        command.arg("-r").arg(&served).arg("--ca").arg(ca);
        Program::start(AGENT, command.args(["--proxy", &proxy.tunnel.to_string(), "-s"]))
    };
    let stranger = start(&other);
    stranger.wait_for("why", |line| line.contains("event=connect_failed").then_some(()));
    let _trusting = start(&own);
    wait_for_agent(proxy.http);
    assert_eq!(Request::get("/small").send(proxy.http).unwrap().text(), "small");
}
