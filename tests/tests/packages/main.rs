//! The packages for machines with systemd: what is in them, and what they do to a machine from
//! their installation to their purge.
//!
//! They are made of what cross/build has put into dist/. Machines are those of
//! [`spdy_tests::machine`]; where there can be none, a test says why and passes.
#![expect(clippy::unwrap_used, reason = "a test that panics has failed, with its line")]

mod completions;
mod contents;
mod guides;
mod help;
mod install;
mod manual;
mod shares;
mod upgrade;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

use spdy_tests::{
    fixture::{TempRoot, finished},
    machine::{Init, Machine},
    source::workspace,
};

/// Both programs.
const PROGRAMS: [&str; 2] = ["spdy-agent", "spdy-proxy"];
/// Targets for which there are packages, and what dpkg and rpm call their processors.
const TARGETS: [(&str, &str, &str); 4] = [
    ("x86_64-unknown-linux-musl", "amd64", "x86_64"),
    ("aarch64-unknown-linux-musl", "arm64", "aarch64"),
    ("armv7-unknown-linux-musleabihf", "armhf", "armv7hl"),
    ("armv5te-unknown-linux-musleabi", "armel", "armv5tel"),
];

/// The target that runs here.
fn host() -> (&'static str, &'static str, &'static str) {
    let is_host = |target: &&(&str, _, _)| target.0.starts_with(std::env::consts::ARCH);
    *TARGETS.iter().find(is_host).expect("there are packages for this machine")
}

/// Packages of one version for one target.
struct Packages {
    folder: TempRoot,
    version: &'static str,
}

impl Packages {
    fn build(target: &str, version: &'static str) -> Self {
        let folder = TempRoot::new();
        package(&folder, version, target);
        Self { folder, version }
    }

    /// Two versions for this machine, one after the other.
    fn both() -> &'static [Self; 2] {
        static BOTH: OnceLock<[Packages; 2]> = OnceLock::new();
        BOTH.get_or_init(|| {
            let (target, _, _) = host();
            [Self::build(target, "0.0.1"), Self::build(target, "0.0.2~20261122.g1234567")]
        })
    }

    fn deb(&self, program: &str, architecture: &str) -> PathBuf {
        self.folder.join(&format!("{program}_{}-1_{architecture}.deb", self.version))
    }

    fn rpm(&self, program: &str, architecture: &str) -> PathBuf {
        self.folder.join(&format!("{program}-{}-1.{architecture}.rpm", self.version))
    }

    /// Copies all of them into a folder of a machine.
    fn put(&self, machine: &Machine, folder: &str) {
        machine.run(&format!("mkdir -p {folder}"));
        for entry in fs::read_dir(self.folder.path()).unwrap() {
            let from = entry.unwrap().path();
            let name = from.file_name().unwrap().to_str().unwrap();
            fs::copy(&from, machine.path(&format!("{folder}/{name}"))).unwrap();
        }
    }
}

/// Runs systemd/package for `target`.
fn package(folder: &TempRoot, version: &str, target: &str) {
    let mut command = Command::new(workspace().join("systemd/package"));
    command.env("PACKAGES", folder.path()).env("PACKAGE_VERSION", version).arg(target);
    finished(&mut command, "");
}

/// Where a machine can be made, it; else the reason is printed.
fn machine(init: Init) -> Option<Machine> {
    Machine::start(init).inspect_err(|reason| spdy_tests::skip::skipped(reason)).ok()
}

fn built(target: &str, name: &str) -> Option<PathBuf> {
    Some(workspace().join("dist").join(target).join(name)).filter(|path| path.is_file())
}

/// Files below a folder: their path from there, mode and content.
fn tree(folder: &Path) -> BTreeMap<String, (u32, Vec<u8>)> {
    use std::os::unix::fs::PermissionsExt as _;
    let mut files = BTreeMap::new();
    let mut open = vec![folder.to_owned()];
    while let Some(next) = open.pop() {
        for entry in fs::read_dir(next).unwrap() {
            let (path, kind) = entry.map(|entry| (entry.path(), entry.file_type())).unwrap();
            if kind.unwrap().is_dir() {
                open.push(path);
                continue;
            }
            let name = path.strip_prefix(folder).unwrap().to_str().unwrap().to_owned();
            let mode = fs::metadata(&path).unwrap().permissions().mode() & 0o7777;
            files.insert(name, (mode, fs::read(&path).unwrap()));
        }
    }
    files
}
