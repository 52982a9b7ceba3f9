//! `join` and `setup` as root: what they write, and that the service can then read what it shares.

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown, symlink},
    path::Path,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

use rustix::process::geteuid;
use spdy_tests::{
    fixture::{Proxy, TempRoot, binary},
    http::Request,
};

use crate::workspace;

/// Ids of the service in all tests here.
const SERVICE: (u32, u32) = (4_242, 4_343);

/// The files of a machine below a folder, with a `systemctl` that only notes; none, with the reason
/// printed, where files cannot be given to others.
fn files(version: u32) -> Option<TempRoot> {
    if !geteuid().is_root() {
        spdy_tests::skip::skipped("only root can give files to others");
        return None;
    }
    let root = TempRoot::new();
    fs::set_permissions(root.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let (user, group) = SERVICE;
    let passwd = format!("root:x:0:0::/:\nspdy-agent:x:{user}:{group}::/:\nbob:x:2001:2001::/:\n");
    root.write("etc/passwd", passwd.as_bytes());
    let groups = format!("media:x:2000:\nspdy-agent:x:{group}:\n");
    root.write("etc/group", groups.as_bytes());
    fs::create_dir_all(root.join("run/systemd/system")).unwrap();
    let calls = root.join("calls");
    let calls = calls.display();
    program(&root, "systemctl", &format!("echo \"$*\" >>{calls}\necho systemd {version}"));
    // `--check` finds nothing wrong.
    program(&root, "spdy-agent", "exit 0");
    Some(root)
}

fn program(root: &TempRoot, name: &str, script: &str) {
    let path = root.write(&format!("bin/{name}"), format!("#!/bin/sh\n{script}\n").as_bytes());
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

/// Runs the package's program: its exit code, and what it said.
fn set_up(root: &TempRoot, words: &[&str]) -> (Option<i32>, String) {
    let paths = format!("{}:{}", root.join("bin").display(), std::env::var("PATH").unwrap());
    let mut command = Command::new(workspace().join("systemd/spdy-agent-setup"));
    command.args(words).env("PREFIX", root.path()).env("PATH", paths).env("PATIENCE", "1");
    let output = command.stdin(Stdio::null()).output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8(said).unwrap())
}

/// Makes a folder of the machine with a file in it.
fn folder(root: &TempRoot, name: &str, mode: u32, owner: (u32, u32)) {
    root.write(&format!("{name}/file"), b"x");
    let path = root.join(name);
    chown(&path, Some(owner.0), Some(owner.1)).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
}

/// Writes a configuration and returns the drop-in, without its head and with the machine's folder
/// taken away, and the notes.
fn prepared(root: &TempRoot, lines: &str) -> (Vec<String>, Vec<String>) {
    root.write("etc/spdy-agent/agent.conf", lines.as_bytes());
    let (code, said) = set_up(root, &["setup", "--no-start"]);
    assert_eq!(code, Some(0), "{said}");
    let text = root.join("etc/systemd/system/spdy-agent.service.d/shares.conf");
    let text = fs::read_to_string(text).unwrap();
    let own = root.path().to_str().unwrap();
    let plain = |line: &str| line.replace(own, "");
    let lines = text.lines().map(plain).filter(|line| !line.starts_with(['#', '[']));
    (lines.collect(), said.lines().map(plain).collect())
}

#[test]
fn each_share_gets_the_least_that_lets_the_service_read_it() {
    let Some(root) = files(241) else { return };
    folder(&root, "open", 0o755, (0, 0));
    folder(&root, "inbox", 0o777, (0, 0));
    folder(&root, "of media", 0o750, (0, 2_000));
    folder(&root, "of shadow", 0o750, (0, 42));
    folder(&root, "bob", 0o700, (2_001, 2_001));
    folder(&root, "bob's second", 0o700, (2_001, 2_001));
    folder(&root, "eve", 0o700, (2_002, 2_002));
    folder(&root, "closed/100%: in", 0o755, (0, 0));
    fs::set_permissions(root.join("closed"), fs::Permissions::from_mode(0o700)).unwrap();
    folder(&root, "clo:sed/in", 0o755, (0, 0));
    fs::set_permissions(root.join("clo:sed"), fs::Permissions::from_mode(0o700)).unwrap();
    folder(&root, "of media/in", 0o755, (0, 0));
    folder(&root, "of strangers", 0o750, (0, 2_003));
    folder(&root, "own", 0o700, SERVICE);
    folder(&root, "home/bob/both", 0o777, (2_001, 2_001));
    symlink(root.join("home/bob/both"), root.join("link")).unwrap();
    folder(&root, "tmp/try", 0o755, (0, 0));
    folder(&root, "mixed", 0o755, (0, 0));
    let secret = root.write("mixed/secret", b"");
    fs::set_permissions(secret, fs::Permissions::from_mode(0o600)).unwrap();
    let own = root.path().to_str().unwrap();
    let case = |lines: &[&str]| {
        let lines: String = lines.iter().map(|line| line.replace('@', own) + "\n").collect();
        prepared(&root, &format!("insecure\n{lines}"))
    };
    let none: &[&str] = &[];
    for (lines, drop_in, advice) in [
        (&["root @/open"][..], none, none),
        (&["share-rw in=@/inbox"], &["BindPaths=-/inbox"], none),
        (&["share-rw in=@/open"], &["BindPaths=-/open"], &["setfacl -R -m u:spdy-agent:rwX,"]),
        (&["root @/of media"], &["SupplementaryGroups=2000"], none),
        (&["root @/of shadow"], none, &["setfacl -R -m u:spdy-agent:rX,d:u:spdy-agent:rX '"]),
        (&["share a=@/bob", "share b=@/bob's second"], &["User=2001"], none),
        (
            &["share a=@/bob", "share e=@/eve"],
            &["User=2001"],
            &["/eve cannot be used by the service -> setfacl -R -m u:2001:rX,"],
        ),
        (
            &["root @/closed/100%: in"],
            &[r"TemporaryFileSystem=/closed:ro", r"BindReadOnlyPaths=-/closed/100%%\:\ in"],
            none,
        ),
        // The first pass over the words leaves the escapes of the second.
        (
            &["root @/clo:sed/in"],
            &[r"TemporaryFileSystem=/clo\\\:sed:ro", r"BindReadOnlyPaths=-/clo\:sed/in"],
            none,
        ),
        // systemd would not start a service with the id of nobody.
        (
            &["root @/eve"],
            none,
            &["/eve cannot be used by the service -> setfacl -R -m u:spdy-agent"],
        ),
        (&["root @/of strangers"], none, &["/of strangers cannot be used by the service"]),
        // What a later one needs counts for those before it.
        (&["share i=@/of media/in", "share m=@/of media"], &["SupplementaryGroups=2000"], none),
        (
            &["share o=@/own", "share b=@/bob"],
            &["User=2001"],
            &["/own cannot be used by the service -> setfacl -R -m u:2001:rX,"],
        ),
        // In the place of homes and of /tmp the unit has nothing, by whatever way they are named.
        (&["root @/link"], &["BindReadOnlyPaths=-/home/bob/both"], none),
        (&["root @/tmp/try"], &["BindReadOnlyPaths=-/tmp/try"], none),
        (
            &["share r=@/home/bob/both", "share-rw w=@/home/bob/both"],
            &["BindPaths=-/home/bob/both"],
            none,
        ),
        (&["root @/mixed"], none, &["/mixed can be read, but not all in it, for one \"secret\""]),
        (&["root @/later"], none, &["/later is not there; once it is: spdy-agent setup"]),
        (&["root @/open", "follow-into @/of media"], &["SupplementaryGroups=2000"], none),
        // Uploads of bob's are those of a service that runs as bob.
        (
            &["root @/open", "upload-owner bob:media"],
            &["User=2001", "Group=2000", "SupplementaryGroups=4343"],
            none,
        ),
    ] {
        let (found, said) = case(lines);
        assert_eq!(found, drop_in, "{lines:?}");
        assert_eq!(said.len(), advice.len(), "{lines:?}: {said:?}");
        for (said, part) in said.iter().zip(advice) {
            assert!(said.contains(part), "{lines:?}: {said}");
        }
    }
}

#[test]
fn files_are_the_services_and_nobody_elses() {
    for (version, token_owner) in [(241, (SERVICE.0, 0)), (252, (0, 0)), (253, (0, 0))] {
        let Some(root) = files(version) else { return };
        folder(&root, "open", 0o755, (0, 0));
        let token = root.write("etc/spdy-agent/a 100% token", b"secret");
        fs::set_permissions(&token, fs::Permissions::from_mode(0o600)).unwrap();
        let root_line = format!("root {}\n", root.join("open").display());
        let lines = root_line + "[proxy a:1]\ninsecure\ntoken-file a 100% token\n";
        let (drop_in, advice) = prepared(&root, &lines);
        assert!(advice.is_empty());
        let credential = r"LoadCredential=a\ 100%%\ token:/etc/spdy-agent/a 100%% token";
        let wanted: &[&str] = match version {
            241 => &[],
            252 => &[credential],
            _ => &["Type=notify-reload", "ExecReload=", credential],
        };
        assert_eq!(drop_in, wanted);
        for (name, mode, owner) in [
            ("etc/spdy-agent", 0o750, (0, SERVICE.1)),
            ("etc/spdy-agent/agent.conf", 0o640, (0, SERVICE.1)),
            ("etc/spdy-agent/a 100% token", 0o600, token_owner),
            ("etc/systemd/system/spdy-agent.service.d/shares.conf", 0o644, (0, 0)),
        ] {
            let meta = fs::metadata(root.join(name)).unwrap();
            assert_eq!((meta.uid(), meta.gid()), owner, "{name}, systemd {version}");
            assert_eq!(meta.mode() & 0o777, mode, "{name}, systemd {version}");
        }
    }
}

#[test]
fn file_that_the_service_cannot_read_is_an_error() {
    let Some(root) = files(252) else { return };
    folder(&root, "open", 0o755, (0, 0));
    let line = format!("root {}\n", root.join("open").display());
    let key = root.write("etc/spdy-agent/nas.key", b"key");
    let in_home = format!("[proxy a:1]\nkey {}\n", root.write("root/nas.key", b"key").display());
    for (lines, mode, code) in [
        ("[proxy a:1]\nkey nas.key\n", 0o600, 1),
        ("include nas.key\n", 0o600, 1),
        ("[proxy a:1]\nkey nas.key\n", 0o640, 0),
        // In a home, which the service has not, whatever its mode.
        (&in_home, 0o640, 1),
    ] {
        chown(&key, Some(0), Some(SERVICE.1)).unwrap();
        fs::set_permissions(&key, fs::Permissions::from_mode(mode)).unwrap();
        root.write("etc/spdy-agent/agent.conf", (line.clone() + lines).as_bytes());
        let (found, said) = set_up(&root, &["setup", "--no-start"]);
        assert_eq!(found, Some(code), "{lines}{mode:o}: {said}");
        assert!(code == 0 || said.contains("nas.key: keep it in "), "{said}");
    }
}

#[test]
fn service_that_cannot_connect_is_an_error() {
    let Some(root) = files(252) else { return };
    folder(&root, "open", 0o755, (0, 0));
    let line = format!("root {}\n", root.join("open").display());
    root.write("etc/spdy-agent/agent.conf", line.as_bytes());
    let away = "[ $1 = --check ] || { echo 'proxy a:1: away for 3 s'; exit 1; }";
    program(&root, "spdy-agent", away);
    let (code, said) = set_up(&root, &["setup"]);
    assert!(code == Some(1) && said.contains("not connected: proxy a:1: away"), "{said}");
    let calls = fs::read_to_string(root.join("calls")).unwrap();
    let unit = "spdy-agent.service";
    assert_eq!(calls, format!("--version\ndaemon-reload\nenable {unit}\nrestart {unit}\n"));
    program(&root, "systemctl", "exit 1");
    let (code, said) = set_up(&root, &["setup"]);
    assert!(code == Some(1) && said.contains("systemctl daemon-reload failed"), "{said}");
    // Where systemd does not run, as in an image that is being made, all is written.
    fs::remove_dir(root.join("run/systemd/system")).unwrap();
    assert_eq!(set_up(&root, &["setup"]).0, Some(0));
    root.write("etc/passwd", b"root:x:0:0::/:\n");
    assert_eq!(set_up(&root, &["setup"]).0, Some(1));
}

#[test]
fn mistake_is_told_before_anything_is_changed() {
    let Some(root) = files(252) else { return };
    folder(&root, "open", 0o755, (0, 0));
    let line = format!("root {}\n", root.join("open").display());
    program(&root, "spdy-agent", "echo 'unknown key rot' >&2\nexit 64");
    // One that leaves nothing to serve, too.
    for text in [line.clone() + "rot 13\n", line.replace("root", "rot")] {
        root.write("etc/spdy-agent/agent.conf", text.as_bytes());
        assert_eq!(set_up(&root, &["setup"]), (Some(64), "unknown key rot\n".to_owned()));
    }
    assert!(!root.join("calls").exists() && !root.join("etc/systemd").exists());
    fs::remove_file(root.join("etc/spdy-agent/agent.conf")).unwrap();
    let (code, said) = set_up(&root, &["setup"]);
    assert!(code == Some(1) && said.ends_with("agent.conf: spdy-agent join\n"), "{said}");
    // An id that no name has is the agent's to take, and not systemd's.
    program(&root, "spdy-agent", "exit 0");
    root.write("etc/spdy-agent/agent.conf", (line + "upload-owner bob:2003\n").as_bytes());
    let (code, said) = set_up(&root, &["setup"]);
    assert!(code == Some(1) && said.contains("upload-owner bob:2003: no user or group"), "{said}");
}

#[test]
fn shares_of_the_command_line_take_the_place_of_those_of_their_name() {
    let Some(root) = files(252) else { return };
    let own = root.path().to_str().unwrap();
    for name in ["a", "b c", "d"] {
        folder(&root, name, 0o755, (0, 0));
    }
    let before = "# mine\nroot /old\nallow-write\nshare a=/a\n share-rw b.b = /b\nshare bxb=/x\n\
                  [proxy a:1]\ninsecure\n";
    for (words, after) in [
        (
            &["--share", "b.b=@/b c", "--share-rw=d=@/d"][..],
            "share b.b=@/b c\nshare-rw d=@/d\n# mine\nroot /old\nallow-write\nshare a=/a\n\
             share bxb=/x\n[proxy a:1]\ninsecure\n",
        ),
        (
            &["-r", "@/a", "--allow-write"],
            "root @/a\nallow-write\n# mine\nshare a=/a\n share-rw b.b = /b\nshare bxb=/x\n\
             [proxy a:1]\ninsecure\n",
        ),
        (&[], before),
    ] {
        root.write("etc/spdy-agent/agent.conf", before.as_bytes());
        let mut all = vec!["setup".to_owned(), "--no-start".to_owned()];
        all.extend(words.iter().map(|word| word.replace('@', own)));
        let all: Vec<_> = all.iter().map(String::as_str).collect();
        let (code, said) = set_up(&root, &all);
        assert_eq!(code, Some(0), "{said}");
        let text = fs::read_to_string(root.join("etc/spdy-agent/agent.conf")).unwrap();
        assert_eq!(text, after.replace('@', own));
    }
    for (words, code) in [
        (&["--share", "a"][..], 64),
        (&["--share", ".a=/"], 64),
        (&["--share", "a/b=/"], 64),
        (&["--share"], 64),
        (&["--allow-write"], 64),
        (&["--nonsense"], 64),
        (&["code"], 64),
        (&["-r", "/nowhere"], 1),
    ] {
        let (found, said) = set_up(&root, &[&["setup"], words].concat());
        assert_eq!(found, Some(code), "{words:?}: {said}");
        assert_eq!(said.lines().count(), 1, "{words:?}: {said}");
    }
}

/// A machine with users and the package in namespaces of its own, which runs commands.
struct Machine {
    child: Child,
    commands: ChildStdin,
    answers: BufReader<ChildStdout>,
    _folder: TempRoot,
}

impl Machine {
    /// None, with the reason printed, where there may be none.
    fn start() -> Option<Self> {
        let enter =
            ["-m", "-p", "--fork", "--kill-child", "--mount-proc", "--propagation", "private"];
        let mount = ["mount", "-t", "overlay", "-o", "lowerdir=/tmp:/usr/lib", "overlay", "/mnt"];
        let probe = Command::new("unshare").args(enter).args(mount).output().unwrap();
        if !probe.status.success() {
            let said = String::from_utf8_lossy(&probe.stderr);
            spdy_tests::skip::skipped(format_args!("no namespace: {said}"));
            return None;
        }
        let folder = TempRoot::new();
        let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/service");
        let mut child = Command::new("unshare")
            .args(enter)
            .args(["/bin/sh", "-euc", MACHINE, "machine"])
            .args([folder.path(), &binary("spdy-agent"), &here.join("systemctl")])
            .arg(workspace().join("systemd/spdy-agent-setup"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (commands, answers) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let answers = BufReader::new(answers);
        Some(Self { child, commands, answers, _folder: folder })
    }

    /// Runs a line of shell; its exit code, and what it said.
    fn run(&mut self, line: &str) -> (i32, String) {
        writeln!(self.commands, "{line}").unwrap();
        let mut said = String::new();
        loop {
            let mut line = String::new();
            assert!(self.answers.read_line(&mut line).unwrap() > 0, "the machine ended: {said}");
            match line.trim().strip_prefix("exit code ") {
                Some(code) => return (code.parse().unwrap(), said),
                None => said.push_str(&line),
            }
        }
    }

    /// The same, and it must succeed.
    fn do_(&mut self, line: &str) -> String {
        let (code, said) = self.run(line);
        if code != 0 {
            let log = self.run("cat /run/agent.log").1;
            panic!("{line}: {code}: {said}\n{log}");
        }
        said
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // With it all processes of its own end.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Makes the machine, then does what it is told, a line each.
const MACHINE: &str = r#"
cp -a /etc "$1/etc"
mount --bind "$1/etc" /etc
rm -rf /etc/spdy-agent /etc/systemd/system/spdy-agent.service.d
echo spdy-agent:x:4242:4343::/:/bin/false >>/etc/passwd
echo alice:x:4001:4001::/home/alice:/bin/sh >>/etc/passwd
printf 'spdy-agent:x:4343:\nalice:x:4001:\nmedia:x:4002:\n' >>/etc/group
mount -t tmpfs tmpfs /run
mkdir -p /run/systemd/system /run/bin
cp "$2" /run/bin/spdy-agent
cp "$3" /run/bin/systemctl
mkdir -p "$1/lib/spdy-agent"
cp "$4" "$1/lib/spdy-agent/setup"
mount -t overlay -o "lowerdir=$1/lib:/usr/lib" overlay /usr/lib
mount -t tmpfs -o mode=755 tmpfs /home
mount -t tmpfs -o mode=755 tmpfs /srv
PATH=/run/bin:$PATH
export PATH
while read -r line; do
    code=0
    sh -c "$line" 2>&1 </dev/null || code=$?
    echo "exit code $code"
done
"#;

fn get(proxy: &Proxy, target: &str) -> (u16, String) {
    let answer = Request::get(target).send(proxy.http).unwrap();
    (answer.status, String::from_utf8_lossy(&answer.start).into_owned())
}

#[test]
fn join_is_all_that_serves_a_closed_home() {
    let Some(mut machine) = Machine::start() else { return };
    let proxy = Proxy::start(&[]);
    machine.do_("install -d -m 700 -o alice -g alice /home/alice");
    machine.do_("install -d -m 755 -o alice -g alice /home/alice/films");
    machine.do_("echo film >/home/alice/films/film; echo key >/home/alice/key");
    machine.do_("install -d -m 750 -g media '/srv/of media'; echo song >'/srv/of media/song'");
    machine.do_("install -d -m 700 /srv/closed; install -d -m 777 /srv/closed/in");

    // A folder in a home that nobody else may enter: nothing but that folder is there.
    let code = proxy.pair("nas1");
    let said = machine.do_(&format!("spdy-agent join {code} --share films=/home/alice/films"));
    assert!(said.ends_with(&format!("connected to {}\n", proxy.tunnel)), "{said}");
    assert_eq!(get(&proxy, "/films/film"), (200, "film\n".to_owned()));
    let agent = "/proc/$(cat /run/agent.pid)";
    assert_eq!(machine.do_(&format!("stat -c %u {agent}")), "4242\n");
    assert_eq!(machine.do_(&format!("ls {agent}/root/home/alice")), "films\n");
    let secrets = machine.do_("cat /etc/spdy-agent/*.token");
    let shown = machine.do_(&format!("cat {agent}/environ {agent}/cmdline | tr '\\0' '\\n'"));
    assert!(!shown.contains(secrets.trim()));
    let denied =
        machine.run("setpriv --reuid=4242 --regid=4343 --clear-groups cat /etc/spdy-agent/*.token");
    assert_ne!(denied.0, 0);
    let others = machine.run("setpriv --reuid=4001 --regid=4001 --clear-groups ls /etc/spdy-agent");
    assert_ne!(others.0, 0);

    // More shares later: one by its group, one below a folder of root's, to be written.
    let said =
        machine.do_("spdy-agent setup --share 'songs=/srv/of media' --share-rw in=/srv/closed/in");
    assert!(said.starts_with("connected to "), "{said}");
    assert_eq!(get(&proxy, "/songs/song"), (200, "song\n".to_owned()));
    assert_eq!(get(&proxy, "/films/film").0, 200);
    let put = Request { method: "PUT", body: Some(b"new"), ..Request::get("/in/new") };
    assert_eq!(put.send(proxy.http).unwrap().status, 201);
    assert_eq!(
        machine.do_("cat /srv/closed/in/new; stat -c ' %U %a' /srv/closed/in/new"),
        "new spdy-agent 644\n"
    );

    // The home itself, whose owner the service has to be: uploads are hers then.
    let said = machine.do_("spdy-agent setup --share-rw home=/home/alice");
    assert!(said.starts_with("connected to "), "{said}");
    assert_eq!(machine.do_(&format!("stat -c %u {agent}")), "4001\n");
    assert_eq!(get(&proxy, "/home/key"), (200, "key\n".to_owned()));
    let put = Request { method: "PUT", body: Some(b"new"), ..Request::get("/home/new") };
    assert_eq!(put.send(proxy.http).unwrap().status, 201);
    assert_eq!(machine.do_("stat -c %U /home/alice/new"), "alice\n");

    // A new token is taken up: the service is started anew, because it was given the old one.
    machine.do_("spdy-agent rotate");
    assert!(machine.do_("tail -n 1 /run/calls").starts_with("try-restart "));
    let calls = machine.do_("grep -c '^restart' /run/calls");
    assert_eq!(calls, "3\n");
}

#[test]
fn join_writes_and_does_not_start_what_it_was_told_not_to() {
    let Some(mut machine) = Machine::start() else { return };
    let proxy = Proxy::start(&[]);
    let code = proxy.pair("nas1");
    // Nothing is spent on a typo.
    let (exit, said) = machine.run(&format!("spdy-agent join {code} -r /srv/nowhere --no-start"));
    assert_eq!(exit, 1, "{said}");
    let said = machine.do_(&format!("spdy-agent join {code} -r /srv --no-start"));
    assert!(!said.contains("start with"), "{said}");
    assert_eq!(machine.do_("cat /run/calls"), "--version\n");
    let config = machine.do_("cat /etc/spdy-agent/agent.conf");
    assert!(config.starts_with("root /srv\n"), "{config}");
    // Without a share there is nothing to start, which is no failure of joining.
    let code = proxy.pair("nas2");
    machine.do_("rm -r /etc/spdy-agent");
    let said = machine.do_(&format!("spdy-agent join {code}"));
    assert!(said.contains("spdy-agent setup -r DIR"), "{said}");
    machine.do_("! grep restart /run/calls");
    machine.do_("spdy-agent setup -r /srv");
    assert_eq!(get(&proxy, "/").0, 200);
}

#[test]
fn join_asks_on_a_terminal_for_the_code_and_the_folder() {
    let Some(mut machine) = Machine::start() else { return };
    let proxy = Proxy::start(&[]);
    machine.do_("mkdir /srv/media; echo film >/srv/media/film");
    let code = proxy.pair("nas1");
    // `script` is the terminal.
    let said = machine
        .do_(&format!("printf '{code}\\n/srv/media\\n' | script -qec 'spdy-agent join' /dev/null"));
    assert!(said.contains("join code: ") && said.contains("folder to share, "), "{said}");
    assert!(said.contains(&format!("connected to {}", proxy.tunnel)), "{said}");
    assert_eq!(get(&proxy, "/film"), (200, "film\n".to_owned()));
    // Joined to a second one it shares what it has.
    let second = Proxy::start(&[]);
    let code = second.pair("nas1");
    let said =
        machine.do_(&format!("printf '{code}\\n' | script -qec 'spdy-agent join' /dev/null"));
    assert!(!said.contains("folder to share, "), "{said}");
    assert_eq!(get(&proxy, "/film").0, 200);
    assert_eq!(get(&second, "/film").0, 200);
}
