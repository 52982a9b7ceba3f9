//! A machine inside this one: its files over ours, its processes, network and names its own.
//!
//! It owns how one comes up, what is run in it, and its end, after which nothing is left. Its
//! loopback is all the network it has. It needs root, and mounts to be allowed.

use std::{
    fs, io,
    path::PathBuf,
    process::{Command, ExitStatus},
    thread,
    time::{Duration, Instant},
};

use crate::fixture::{PATIENCE, Pipe, Program, TempRoot, output, wait_until};

/// What runs in it from the beginning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Init {
    /// Nothing, as in a chroot.
    None,
    /// systemd, up to `basic.target`.
    Systemd,
}

/// A machine; it ends with its value, with all that runs in it.
#[derive(Debug)]
pub struct Machine {
    holder: Program,
    /// Its first process, as it is called here.
    first: u32,
    folder: TempRoot,
    init: Init,
}

/// What a command has done.
#[derive(Clone, Debug)]
pub struct Done {
    /// How it has ended.
    pub status: ExitStatus,
    /// Its standard output.
    pub output: String,
    /// Its standard error.
    pub errors: String,
}

impl Machine {
    /// Brings one up.
    ///
    /// # Errors
    /// Why there can be none here.
    ///
    /// # Panics
    /// When the system does not answer as Linux does.
    pub fn start(init: Init) -> Result<Self, String> {
        let folder = TempRoot::new();
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/src/machine.sh");
        let name = if init == Init::Systemd { "systemd" } else { "none" };
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", script]).arg(folder.path()).arg(name);
        let mut holder = Program::start("machine", &mut command);
        let is_ready = |holder: &Program| holder.lines(Pipe::Stdout).iter().any(|l| l == "ready");
        while !is_ready(&holder) {
            if holder.ended_within(Duration::from_millis(20)).is_some() && !is_ready(&holder) {
                return Err(holder.text().trim().to_owned());
            }
        }
        let children = format!("/proc/{0}/task/{0}/children", holder.id());
        let children = fs::read_to_string(&children).unwrap_or_else(|e| panic!("{children}: {e}"));
        let first = children.trim().parse().unwrap_or_else(|_| panic!("children: {children:?}"));
        let machine = Self { holder, first, folder, init };
        // `pivot_root` and what follows is quick; then systemd listens.
        wait_until("the machine is itself", || {
            machine.attempt("test ! -d /old", "").status.success()
        });
        if init == Init::Systemd {
            machine.wait_for_systemd()?;
        }
        Ok(machine)
    }

    fn wait_for_systemd(&self) -> Result<(), String> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let done = self.attempt("systemctl is-system-running --wait", "");
            match done.output.trim() {
                // Not all that this machine starts can run there.
                "running" | "degraded" => return Ok(()),
                _ if Instant::now() < deadline => thread::sleep(Duration::from_millis(20)),
                state => return Err(format!("systemd does not come up: {state}{}", done.errors)),
            }
        }
    }

    /// Runs commands of the shell as root and returns what they print.
    ///
    /// # Panics
    /// When they fail.
    pub fn run(&self, script: &str) -> String {
        let done = self.attempt(script, "");
        assert!(done.status.success(), "{script}: {}\n{}{}", done.status, done.output, done.errors);
        done.output
    }

    /// The same with input, and without a panic when they fail.
    ///
    /// # Panics
    /// When there is no `nsenter`.
    #[must_use]
    pub fn attempt(&self, script: &str, input: &str) -> Done {
        let mut command = self.command();
        command.args(["sh", "-euc", script]);
        let done = output(&mut command, input);
        let text = |octets: &[u8]| String::from_utf8_lossy(octets).into_owned();
        Done { status: done.status, output: text(&done.stdout), errors: text(&done.stderr) }
    }

    /// What a command in it begins with.
    #[must_use]
    pub fn command(&self) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--all", "--target", &self.first.to_string()]);
        command.args(["env", "-i", "--chdir=/root", "HOME=/root", "LC_ALL=C.UTF-8", "TERM=dumb"]);
        command.arg("PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
        command
    }

    /// Where a path of it, an absolute one, can be read and written from here.
    #[must_use]
    pub fn path(&self, inside: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{inside}", self.first))
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.holder.kill();
        if self.init == Init::Systemd {
            // The groups are left, and stay busy until the last process is gone.
            let script = "mount -t cgroup2 groups /mnt && cd /mnt && test ! -d $0 || \
                          find $0 -depth -type d -exec rmdir {} +";
            let name = self.folder.path().file_name().map(ToOwned::to_owned).unwrap_or_default();
            let remove = || {
                Command::new("unshare").args(["--mount", "sh", "-c", script]).arg(&name).output()
            };
            let removed =
                |done: io::Result<std::process::Output>| done.is_ok_and(|d| d.status.success());
            if !(0..100).any(|_| removed(remove())) {
                eprintln!("control groups of {} are left", self.folder.path().display());
            }
        }
    }
}
