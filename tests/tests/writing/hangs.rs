//! Disks that hang: what lies elsewhere is read and changed all the same.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use spdy_tests::{
    fixture::{Agent, Builds, TempRoot, tool},
    http::{Request, wait_for_agent},
};

use crate::{Share, moves::move_to};

/// A disk that a program answers for, which can be stopped.
struct Hangs {
    program: Child,
    at: PathBuf,
    _image: TempRoot,
}

impl Hangs {
    /// `None`, with the reason, where it cannot be.
    fn mount(at: &Path) -> Option<Self> {
        let dir = TempRoot::new();
        let image = dir.join("image");
        fs::File::create(&image).unwrap().set_len(16 << 20).unwrap();
        let made = Command::new(tool("mkntfs")).args(["-F", "-q", "-Q"]).arg(&image).output();
        if !made.is_ok_and(|output| output.status.success()) {
            spdy_tests::skip::skipped("mkntfs does not work here");
            return None;
        }
        let mut command = Command::new(tool("lowntfs-3g"));
        command.args(["-o", "no_detach"]).arg(&image).arg(at);
        let mut program = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let mounted = || fs::read_to_string("/proc/self/mounts").unwrap();
        let is_mounted = || mounted().contains(at.to_str().unwrap());
        while !is_mounted() && program.try_wait().unwrap().is_none() {
            thread::sleep(Duration::from_millis(5));
        }
        if !is_mounted() {
            spdy_tests::skip::skipped("lowntfs-3g does not mount here");
            return None;
        }
        Some(Self { program, at: at.to_owned(), _image: dir })
    }

    fn signal(&self, name: &str) {
        let pid = self.program.id().to_string();
        assert!(Command::new("kill").args([name, &pid]).status().unwrap().success());
    }
}

impl Drop for Hangs {
    fn drop(&mut self) {
        // Requests that the kernel waits for fail with it.
        let _ = self.program.kill();
        let _ = self.program.wait();
        let _ = Command::new("umount").arg("-l").arg(&self.at).status();
    }
}

#[test]
fn disk_that_hangs_over_a_share_keeps_no_other_waiting() {
    let other = TempRoot::new();
    let named = format!("other={}", other.path().to_str().unwrap());
    let share = Share::with(&["--share", &named]);
    share.root.write("film", b"film");
    assert_eq!(share.status("GET", "/other/", &[]), 200);
    let Some(disk) = Hangs::mount(other.path()) else { return };
    // What the kernel knows of it is too old after a second.
    thread::sleep(Duration::from_millis(1_500));
    disk.signal("-STOP");
    let http = share.http();
    let stuck = thread::spawn(move || {
        let _ = Request { method: "GET", target: "/other/", headers: &[], body: None }.send(http);
    });
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(2) {
        assert_eq!(share.status("GET", "/film", &[]), 200);
        assert!(began.elapsed() < Duration::from_secs(5), "it waited for the other disk");
    }
    disk.signal("-CONT");
    stuck.join().unwrap();
}

#[test]
fn disk_that_hangs_does_not_stop_changes_of_another() {
    let other = TempRoot::new();
    let Some(disk) = Hangs::mount(other.path()) else { return };
    let mut share = Share::new();
    share.pair.agent.program_mut().kill();
    fs::create_dir(other.join("deep")).unwrap();
    let named = format!("other={}", other.join("deep").to_str().unwrap());
    let arguments = ["--allow-write", "--share-rw", &named];
    let (root, config) = (share.root.path().to_owned(), share.pair.config());
    share.pair.agent = Agent::joined(&Builds::beside(), &root, &config, &arguments);
    wait_for_agent(share.http());
    fs::create_dir(share.root.join("dir")).unwrap();
    assert_eq!(share.put("/other/x", &[], b"x"), 201);
    thread::sleep(Duration::from_millis(1_500));
    disk.signal("-STOP");
    let began = Instant::now();
    for _ in 0..2 {
        assert_eq!(share.put("/new", &[], b"new"), 201);
        assert_eq!(move_to(&share, "/dir/", "/moved/", &[]), 201);
        assert_eq!(move_to(&share, "/moved/", "/dir/", &[]), 201);
        assert_eq!(share.status("DELETE", "/new", &[]), 204);
    }
    assert!(began.elapsed() < Duration::from_secs(8), "they waited for the other disk");
    disk.signal("-CONT");
}

#[test]
fn directory_with_an_unfinished_upload_stays_also_when_descriptors_run_out() {
    let share = Share::new();
    fs::create_dir_all(share.root.join("dir/in")).unwrap();
    let begun = share.send("PUT", "/dir/in/film", &[("upload-complete", "?0")], b"half");
    let upload = begun.headers["location"].clone();
    let pid = share.pair.agent.program().id().to_string();
    let limit = |files: usize| {
        let files = format!("--nofile={files}:4096");
        assert!(Command::new("prlimit").args(["--pid", &pid, &files]).status().unwrap().success());
    };
    let used = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count();
    for files in used..used + 12 {
        limit(files);
        let status = move_to(&share, "/dir/", "/other/", &[]);
        limit(1_024);
        assert!(matches!(status, 409 | 503), "{status} with {files} files");
        assert_eq!(share.status("HEAD", &upload, &[]), 204, "with {files} files");
    }
}
