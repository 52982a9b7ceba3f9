//! A machine under qemu-system-aarch64, as `tests/qemu/image` makes it.
//!
//! It owns the process, its console log, its link and the shell in it. What the machine is told is
//! known to the story (`main.rs`).

use std::{
    env, fmt,
    fs::{self, File},
    io::{BufRead, BufReader, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
    sync::mpsc::{Receiver, RecvTimeoutError, channel},
    thread,
    time::{Duration, Instant},
};

use data_encoding::BASE64;
use serde_json::{Value, json};
use spdy_tests::fixture::target_dir;

use crate::shell::Answer;

/// A running machine; ended when dropped. A failure leaves its console log.
pub struct Machine {
    process: Child,
    stdin: ChildStdin,
    lines: Receiver<String>,
    folder: PathBuf,
    started: Instant,
}

impl fmt::Debug for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Machine").field("folder", &self.folder).finish_non_exhaustive()
    }
}

impl Machine {
    /// Boots the image, with `files` as a tar on its second disk, and waits until it is up.
    pub fn boot(image: &Path, files: &[PathBuf]) -> Self {
        let folder = target_dir().join(format!("vm/{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let payload = folder.join("payload.tar");
        let mut tar = Command::new("tar");
        tar.arg("-cf").arg(&payload);
        for file in files {
            tar.arg("-C").arg(file.parent().unwrap()).arg(file.file_name().unwrap());
        }
        assert!(tar.status().unwrap().success());

        let at = |name: &str| folder.join(name).display().to_string();
        let of = |name: &str| image.join(name).display().to_string();
        let mut command = Command::new("qemu-system-aarch64");
        command
            .args(["-M", "virt", "-cpu", "cortex-a53", "-smp", "2", "-m", MEMORY])
            .args(["-accel", "tcg,thread=multi,tb-size=128", "-nodefaults", "-display", "none"])
            .args(["-kernel", &of("kernel"), "-initrd", &of("initrd"), "-append", KERNEL])
            .args([
                "-drive",
                &format!("file={},format=raw,if=none,id=disk,snapshot=on", of("disk")),
            ])
            .args(["-device", "virtio-blk-pci,drive=disk"])
            .args([
                "-drive",
                &format!("file={},format=raw,if=none,id=payload,readonly=on", at("payload.tar")),
            ])
            .args(["-device", "virtio-blk-pci,drive=payload"])
            .args([
                "-netdev",
                "user,id=net",
                "-device",
                "virtio-net-pci,netdev=net,id=nic,romfile=",
            ])
            .args(["-device", "virtio-serial-pci", "-chardev", "stdio,id=shell,signal=off"])
            .args(["-device", "virtserialport,chardev=shell,name=spdy.shell"])
            .args(["-serial", &format!("file:{}", at("console.log"))])
            .args(["-qmp", &format!("unix:{},server=on,wait=off", at("qmp"))])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(File::create(folder.join("qemu.log")).unwrap());
        let mut process = command.spawn().unwrap_or_else(|e| panic!("qemu-system-aarch64: {e}"));
        let (stdin, stdout) = (process.stdin.take().unwrap(), process.stdout.take().unwrap());
        let (sender, lines) = channel();
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        let mut machine = Self { process, stdin, lines, folder, started: Instant::now() };
        machine.wait_until_up();
        machine.run("mkdir /root/payload && tar -xf /dev/vdb -C /root/payload");
        machine
    }

    /// Waits for the first line of the shell, after the start or a reset.
    pub fn wait_until_up(&mut self) {
        let line = self.line("the machine's start");
        assert_eq!(line, "ready running", "state of the system\n{}", self.console());
    }

    /// Runs a script by bash and returns what it prints on both pipes.
    ///
    /// Panics when it fails.
    pub fn run(&mut self, script: &str) -> String {
        let answer = self.try_run(script);
        assert_eq!(answer.status, 0, "{script}\n{}", answer.output);
        answer.output
    }

    /// The same for a script that may fail.
    pub fn try_run(&mut self, script: &str) -> Answer {
        writeln!(self.stdin, "{}", BASE64.encode(script.as_bytes())).unwrap();
        let line = self.line(script);
        let answer = Answer::parse(&line).unwrap_or_else(|| panic!("{script}: {line}"));
        self.note(&format!("$ {script}\n{}= {}\n", answer.output, answer.status));
        answer
    }

    /// Pulls or plugs the machine's cable.
    pub fn set_link(&self, up: bool) {
        self.tell("set_link", &json!({ "name": "nic", "up": up }));
    }

    /// Resets the machine, as power that goes and comes: nothing is written to its disk before.
    pub fn power_cut(&mut self) {
        self.tell("system_reset", &json!({}));
        self.wait_until_up();
    }

    /// Shuts the system down and returns the largest memory that QEMU had, in octets.
    pub fn shut_down(&mut self) -> u64 {
        let peak = spdy_tests::observe::memory_peak(self.process.id());
        let answer = self.try_run("systemctl --no-block poweroff");
        assert_eq!(answer.status, 0, "{}", answer.output);
        // Its pipe ends with the process.
        match self.lines.recv_timeout(PATIENCE) {
            Err(RecvTimeoutError::Disconnected) => {}
            other => panic!("shutting down: {other:?}\n{}", self.console()),
        }
        assert!(self.process.wait().unwrap().success());
        peak
    }

    /// Adds a line to the transcript, which stays beside the console log.
    pub fn note(&self, text: &str) {
        let seconds = self.started.elapsed().as_secs_f32();
        let path = self.folder.join("transcript.log");
        let mut file = File::options().create(true).append(true).open(path).unwrap();
        write!(file, "[{seconds:7.1}] {text}").unwrap();
    }

    fn line(&mut self, what: &str) -> String {
        self.lines.recv_timeout(PATIENCE).unwrap_or_else(|error| {
            let said = fs::read_to_string(self.folder.join("qemu.log")).unwrap_or_default();
            panic!("no answer of the machine ({error}): {what}\n{said}{}", self.console())
        })
    }

    /// The end of the console log.
    fn console(&self) -> String {
        let octets = fs::read(self.folder.join("console.log")).unwrap_or_default();
        let text = String::from_utf8_lossy(&octets);
        let lines: Vec<_> = text.lines().collect();
        lines[lines.len().saturating_sub(CONSOLE_LINES)..].join("\n")
    }

    /// One command of QEMU's monitor.
    fn tell(&self, command: &str, arguments: &Value) {
        let stream = UnixStream::connect(self.folder.join("qmp")).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
        for message in [
            json!({ "execute": "qmp_capabilities" }),
            json!({ "execute": command, "arguments": arguments }),
        ] {
            writeln!(&stream, "{message}").unwrap();
            // The greeting and events come in between.
            loop {
                let line: Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
                assert!(line.get("error").is_none(), "{message}: {line}");
                if line.get("return").is_some() {
                    break;
                }
            }
        }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // Both fail only when it has ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
        if thread::panicking() {
            let console = self.folder.join("console.log");
            eprintln!("the machine's console: {}", console.display());
            eprintln!("what it was told:      {}", self.folder.join("transcript.log").display());
        } else if env::var_os("VM_KEEP").is_none() {
            let _ = fs::remove_dir_all(&self.folder);
        }
    }
}

/// Longest wait for anything that the machine does: it is emulated, beside whatever else runs.
pub const PATIENCE: Duration = Duration::from_secs(300);

const MEMORY: &str = "512M";

const KERNEL: &str = "console=ttyAMA0 root=/dev/vda quiet systemd.show_status=0";

/// Lines of the console that a failure shows; the file has all.
const CONSOLE_LINES: usize = 60;
