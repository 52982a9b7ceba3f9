//! Changing a share through both programs: what visitors may do, and what is on the disk after it.
#![expect(clippy::unwrap_used, reason = "a test that panics has failed, with its line")]

mod disks;

mod form;

mod guard;

mod hangs;

mod names;

mod moves;

mod put;

mod resume;

mod together;

mod traces;

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
};

use spdy_tests::{
    fixture::{Pair, TempRoot, wait_until},
    http::{Request, Response},
    visitor::Visitor,
};

/// A share that may be changed, and who serves it.
struct Share {
    pair: Pair,
    root: TempRoot,
}

impl Share {
    fn new() -> Self {
        Self::with(&[])
    }

    fn with(args: &[&str]) -> Self {
        Self::of(TempRoot::new(), args)
    }

    fn of(root: TempRoot, args: &[&str]) -> Self {
        let args: Vec<_> = ["--allow-write"].iter().chain(args).copied().collect();
        Self { pair: Pair::with(root.path(), &["--trusted-front-end", "127.0.0.1"], &args), root }
    }

    fn http(&self) -> SocketAddr {
        self.pair.proxy.http
    }

    fn ask(&self, method: &str, target: &str, headers: &[(&str, &str)]) -> Response {
        Request { method, target, headers, body: None }.send(self.http()).unwrap()
    }

    fn status(&self, method: &str, target: &str, headers: &[(&str, &str)]) -> u16 {
        self.ask(method, target, headers).status
    }

    fn send(&self, method: &str, target: &str, headers: &[(&str, &str)], body: &[u8]) -> Response {
        Request { method, target, headers, body: Some(body) }.send(self.http()).unwrap()
    }

    fn put(&self, target: &str, headers: &[(&str, &str)], body: &[u8]) -> u16 {
        self.send("PUT", target, headers, body).status
    }

    /// The entity tag of a file, which comes two seconds after a change.
    fn tag(&self, target: &str) -> String {
        let tag = || self.ask("HEAD", target, &[]).headers.remove("etag");
        wait_until("the file has an entity tag", || tag().is_some());
        tag().unwrap()
    }

    /// Sends the head of a request and as much of its body as is given.
    fn begin(&self, method: &str, target: &str, headers: &str, body: &[u8]) -> Visitor {
        let mut visitor = Visitor::connect(self.http());
        visitor.send(format!("{method} {target} HTTP/1.1\r\nHost: nas1\r\n{headers}\r\n"));
        visitor.send(body);
        visitor
    }

    fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.root.join(name)).unwrap()
    }

    /// Names of everything below the root, hidden ones too, sorted.
    fn names(&self) -> Vec<String> {
        names(self.root.path())
    }
}

fn names(root: &Path) -> Vec<String> {
    fn walk(folder: &Path, root: &Path, names: &mut Vec<String>) {
        // What is under way may go meanwhile.
        for path in fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()) {
            names.push(path.strip_prefix(root).unwrap().to_str().unwrap().to_owned());
            if path.is_dir() && !path.is_symlink() {
                walk(&path, root, names);
            }
        }
    }
    let mut names = Vec::new();
    walk(root, root, &mut names);
    names.sort();
    names
}

/// A small disk below a folder; gone with its value.
struct Disk(PathBuf);

impl Disk {
    /// `None`, with the reason, where nothing may be mounted.
    fn mount(at: PathBuf, size: &str) -> Option<Self> {
        Self::with_options(at, &format!("size={size}"))
    }

    fn with_options(at: PathBuf, options: &str) -> Option<Self> {
        fs::create_dir_all(&at).unwrap();
        let mut command = Command::new("mount");
        let output = command.args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(&at).output();
        let output = output.unwrap();
        if output.status.success() {
            return Some(Self(at));
        }
        spdy_tests::skip::skipped(String::from_utf8_lossy(&output.stderr));
        None
    }

    fn make_read_only(&self) {
        let mut command = Command::new("mount");
        assert!(command.args(["-o", "remount,ro"]).arg(&self.0).status().unwrap().success());
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).output();
    }
}
