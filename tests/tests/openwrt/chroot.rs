//! A box without systemd: a folder with busybox in which commands run as if it were the root.
//!
//! It owns the folder and ends what still runs in it. It needs root and a mount namespace.

use std::{
    ffi::OsStr,
    fs,
    io::{BufRead as _, Write as _},
    os::unix::fs::{PermissionsExt as _, symlink},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::OnceLock,
};

use rustix::process::{Pid, Signal, kill_process};
use spdy_tests::{
    fixture::{Proxy, TempRoot, binary, tool, wait_until},
    http::Request,
    source::workspace,
};

/// What a command in the box said.
#[derive(Debug)]
pub struct Said {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

/// The folder.
pub struct Chroot(TempRoot);

impl Chroot {
    /// busybox and what a small system has; `None`, with the reason, where nothing may be mounted.
    pub fn new() -> Option<Self> {
        let mut command = Command::new("unshare");
        let tried = command.args(["--mount", "--propagation", "private"]).args(MOUNT_AND_NOTHING);
        let tried = tried.output().unwrap();
        if !tried.status.success() {
            spdy_tests::skip::skipped(String::from_utf8_lossy(&tried.stderr));
            return None;
        }
        let own = Self(TempRoot::new());
        for folder in
            ["bin", "dev", "etc/init.d", "mnt", "proc", "root", "tmp/run", "usr", "usr/bin"]
        {
            fs::create_dir_all(own.at(folder)).unwrap();
        }
        own.write("dev/null", "");
        // As on OpenWrt, with nothing at /run.
        symlink("tmp", own.at("var")).unwrap();
        fs::copy(tool("busybox"), own.at("bin/busybox")).unwrap();
        own.with_libraries(&binary("spdy-agent"));
        let said = own.run("/bin/busybox --install -s /bin", "");
        assert_eq!(said.code, Some(0), "{said:?}");
        Some(own)
    }

    /// A path in the box, as this machine sees it.
    pub fn at(&self, path: &str) -> PathBuf {
        self.0.join(path.trim_start_matches('/'))
    }

    pub fn read(&self, path: &str) -> String {
        let path = self.at(path);
        fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }

    pub fn write(&self, path: &str, text: &str) {
        self.0.write(path.trim_start_matches('/'), text.as_bytes());
    }

    pub fn mode(&self, path: &str) -> u32 {
        fs::metadata(self.at(path)).unwrap().permissions().mode() & 0o7777
    }

    /// Copies what lies in a folder, modes and all.
    pub fn overlay(&self, folder: &Path) {
        let mut command = Command::new("cp");
        let copied = command.arg("-a").arg(folder.join(".")).arg(self.0.path()).status();
        assert!(copied.unwrap().success());
    }

    /// Runs a script of busybox ash, which ends at its first failure, in the box.
    pub fn run(&self, script: &str, input: &str) -> Said {
        self.run_in("/root", script, input)
    }

    /// The same in a folder of the box.
    pub fn run_in(&self, folder: &str, script: &str, input: &str) -> Said {
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "private", "sh", "-ec", ENTER, "sh"]);
        // Files, not pipes: what goes on in the background would keep them open.
        let (out, err) = (self.0.join("tmp/.out"), self.0.join("tmp/.err"));
        command.arg(self.0.path()).args([folder, script]).stdin(Stdio::piped());
        command.stdout(fs::File::create(&out).unwrap()).stderr(fs::File::create(&err).unwrap());
        let path = "/usr/local/bin:/usr/bin:/usr/sbin:/bin:/sbin";
        command.env_clear().env("PATH", format!("{path}:/usr/bin")).env("HOME", "/root");
        let mut child = command.spawn().unwrap();
        // Who does not read may have ended already.
        let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
        let code = child.wait().unwrap().code();
        let [out, err] = [out, err].map(|path| {
            let text = fs::read(&path).unwrap();
            // Who lists the box does not find them.
            fs::remove_file(path).unwrap();
            String::from_utf8_lossy(&text).into_owned()
        });
        Said { code, out, err }
    }

    /// Runs a script that must succeed, and returns what it printed.
    pub fn tell(&self, script: &str) -> String {
        let said = self.run(script, "");
        assert_eq!(said.code, Some(0), "{script}: {said:?}\nlog: {}", self.log());
        said.out
    }

    /// What went to the log so far.
    pub fn log(&self) -> String {
        fs::read_to_string(self.at("tmp/log")).unwrap_or_default()
    }

    /// Waits until the log has it: syslog writes when it gets to it.
    pub fn logged(&self, what: &str) {
        wait_until(what, || self.log().contains(what));
    }

    /// Files in the box but for RAM and disks, one line each with its mode and size.
    pub fn listing(&self) -> Vec<String> {
        let find = "find / -path /proc -prune -o -path /tmp -prune -o -path /mnt -prune -o \
                    -path /volume1 -prune -o -path /share -prune -o \\( -type f -exec stat -c '%n %a %s' {} + \\) -o \
                    ! -type d -print | grep -v '^/dev'";
        let mut lines: Vec<_> = self.tell(find).lines().map(str::to_owned).collect();
        lines.sort();
        assert!(lines.len() > 100, "{lines:?}");
        lines
    }

    /// Processes in the box.
    pub fn processes(&self) -> Vec<(i32, String)> {
        let own = fs::canonicalize(self.0.path()).unwrap();
        let ids = fs::read_dir("/proc").unwrap().filter_map(|entry| {
            entry.unwrap().file_name().to_str().and_then(|name| name.parse::<i32>().ok())
        });
        let inside = ids
            .filter(|id| fs::read_link(format!("/proc/{id}/root")).is_ok_and(|root| root == own));
        let named = inside.map(|id| {
            let words = fs::read(format!("/proc/{id}/cmdline")).unwrap_or_default();
            (id, String::from_utf8_lossy(&words).replace('\0', " "))
        });
        named.collect()
    }

    /// The agent that runs in the box, if one does.
    pub fn agent(&self) -> Option<i32> {
        let is_agent = |words: &str| words.contains("bin/spdy-agent --config");
        self.processes().into_iter().find(|(_, words)| is_agent(words)).map(|(id, _)| id)
    }

    /// The same once it runs.
    pub fn running(&self) -> i32 {
        wait_until("the agent runs", || self.agent().is_some());
        self.agent().unwrap()
    }

    /// Copies the libraries of a program to where it looks for them.
    fn with_libraries(&self, program: &Path) {
        let output = Command::new("ldd").arg(program).output().unwrap();
        for line in output.stdout.lines() {
            let line = line.unwrap();
            let Some(path) = line.split_whitespace().find(|word| word.starts_with('/')) else {
                continue;
            };
            let inside = self.at(path);
            fs::create_dir_all(inside.parent().unwrap()).unwrap();
            fs::copy(path, inside).unwrap();
        }
    }
}

impl Drop for Chroot {
    fn drop(&mut self) {
        // What starts the agent again goes first.
        let mut left = self.processes();
        left.sort_by_key(|(_, words)| words.contains("--config"));
        for (id, _) in left {
            let _ = kill_process(Pid::from_raw(id).unwrap(), Signal::KILL);
        }
    }
}

/// Waits for a film that was served before, whichever agent serves it now.
pub fn served_again(proxy: &Proxy) {
    wait_until("the film is served again", || {
        let film = Request::get("/films/film").send(proxy.http);
        film.is_ok_and(|response| response.status == 200)
    });
}

/// Programs as `cross/build` leaves them: the agent of this build, small, for this machine, and for
/// each other target a text in its place. Made anew in each run; nothing static is ever dropped.
pub fn dist() -> &'static Path {
    static DIST: OnceLock<PathBuf> = OnceLock::new();
    DIST.get_or_init(|| {
        let dist = Path::new(env!("CARGO_TARGET_TMPDIR")).join("openwrt");
        // It is not there in the first run.
        let _ = fs::remove_dir_all(&dist);
        for target in targets() {
            let own = dist.join(&target).join("spdy-agent");
            fs::create_dir_all(own.parent().unwrap()).unwrap();
            if target == OWN_TARGET {
                let mut command = Command::new(tool("strip"));
                let stripped = command.arg("-o").arg(&own).arg(binary("spdy-agent")).status();
                assert!(stripped.unwrap().success());
            } else {
                fs::write(&own, target).unwrap();
            }
            fs::set_permissions(&own, fs::Permissions::from_mode(0o755)).unwrap();
        }
        package(workspace(), &dist);
        dist
    })
}

/// `openwrt/package` of some source.
pub fn package(source: &Path, dist: &Path) {
    let mut command = Command::new(source.join("openwrt/package"));
    let output = command.env("DIST", dist).env("SOURCE_DATE_EPOCH", "1700000000").output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// The table `openwrt/architectures`: a target, and a name of an architecture.
pub fn architectures() -> Vec<(String, String)> {
    let text = fs::read_to_string(workspace().join("openwrt/architectures")).unwrap();
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let pairs = lines.flat_map(|line| {
        let mut words = line.split_whitespace().map(str::to_owned);
        let target = words.next();
        words.map(move |name| (target.clone().unwrap(), name)).collect::<Vec<_>>()
    });
    pairs.collect()
}

pub fn targets() -> Vec<String> {
    let mut targets: Vec<_> = architectures().into_iter().map(|(target, _)| target).collect();
    targets.sort();
    targets.dedup();
    targets
}

/// The version of the packages.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
/// The target whose place the agent of this build takes.
pub const OWN_TARGET: &str = "x86_64-unknown-linux-musl";

/// The blocks of a language in a page, each with the heading that it stands under.
pub fn blocks(page: &str, language: &str) -> Vec<(String, String)> {
    let text = fs::read_to_string(workspace().join("docs").join(page)).unwrap();
    let (mut heading, mut inside, mut found) = (String::new(), None, Vec::new());
    for line in text.lines() {
        match (&mut inside, line.strip_prefix("```")) {
            (None, None) if line.starts_with("## ") => heading = line[3..].to_owned(),
            (None, Some(of)) => inside = Some((of == language, String::new())),
            (Some((_, block)), None) => *block += &format!("{line}\n"),
            (Some(_), Some(_)) => {
                if let Some((true, block)) = inside.take() {
                    found.push((heading.clone(), block));
                }
            }
            _ => {}
        }
    }
    assert!(inside.is_none() && !found.is_empty(), "{page}");
    found
}

pub fn checked(command: &str, args: &[&str], files: &[PathBuf]) {
    let mut line = Command::new(tool(command));
    let output = line.args(args).args(files.iter().map(AsRef::<OsStr>::as_ref)).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

/// Enters the box, where a shell of busybox prefers its own logread to any other program: $1 its folder, $2 a folder in it, $3 a script.
const ENTER: &str = "mount --rbind /proc \"$1/proc\"; mount --bind /dev/null \"$1/dev/null\"; \
                     exec chroot \"$1\" /bin/busybox ash -ec 'logread() { cat /tmp/log; }; cd \"$1\"; eval \"$2\"' sh \"$2\" \"$3\"";
const MOUNT_AND_NOTHING: [&str; 4] = ["mount", "--bind", "/proc", "/proc"];
