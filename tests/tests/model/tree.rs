//! The directories that are served: what lies where, and by which paths clients reach it.
//!
//! It owns the layout, the aliases of each directory, the names that are used there, and reading
//! all of it back. What may lie there is the model's.

use std::{
    ffi::OsStr,
    fs,
    os::unix::{ffi::OsStrExt as _, fs::symlink},
    path::{Path, PathBuf},
    process::Command,
};

use spdy_tests::{fixture::TempRoot, skip::skipped_part};

use super::content::{Value, identify};

/// A physical directory.
#[derive(Clone, Debug)]
pub struct Directory {
    pub label: &'static str,
    pub path: PathBuf,
    /// Its paths in URLs, each with its slash.
    pub paths: Vec<String>,
    pub names: Vec<Vec<u8>>,
    /// Whether its filesystem ignores case.
    pub folds: bool,
    /// Whether no client may change it.
    pub is_protected: bool,
}

/// All of it.
#[derive(Debug)]
pub struct Tree {
    pub root: TempRoot,
    pub directories: Vec<Directory>,
    /// What the layout itself has: path, and what it is.
    fixtures: Vec<(PathBuf, Value)>,
    pub has_disks: bool,
}

/// Numbers of the directories with a role of their own.
pub const DOCS: usize = 1;
pub const INBOX: usize = 3;
pub const BENEATH: usize = 4;
pub const MEDIA: [usize; 3] = [BENEATH, 5, 6];
pub const PUBLIC: usize = 7;
pub const OUTSIDE: usize = 8;
pub const ELSEWHERE: usize = 9;
pub const TINY: usize = 10;
pub const FOLD: usize = 11;

impl Tree {
    /// Makes the directories, and the disks if `has_disks`.
    pub fn new(has_disks: bool) -> Self {
        let root = TempRoot::new();
        let mut tree = Self { root, directories: Vec::new(), fixtures: Vec::new(), has_disks };
        let deep = "root/a b/\u{fc}";
        for path in [
            "root",
            "root/docs",
            deep,
            "inbox",
            "disk",
            "media/beneath",
            "media/a",
            "media/b",
            "root/pub",
            "outside",
            "elsewhere",
            "root/trees",
        ] {
            fs::create_dir_all(tree.root.join(path)).unwrap();
        }
        for path in ["root/docs", "root/a b", deep, "root/pub", "root/trees"] {
            tree.fixtures.push((tree.root.join(path), Value::Directory));
        }
        let absolute = tree.root.join("root/docs").display().to_string();
        let follow = tree.root.join("outside").display().to_string();
        let away = tree.root.join("elsewhere").display().to_string();
        for (path, to) in [
            ("root/link", "docs"),
            ("root/absolute", &absolute),
            ("root/chain", "link"),
            ("root/docs/up", ".."),
            ("root/docs/to-file", "a.txt"),
            ("root/to-deep", "a b/\u{fc}"),
            ("root/to-pub", "pub"),
            ("root/out", &follow),
            ("root/away", &away),
            ("root/to-trees", "trees"),
            ("inbox/self", "."),
        ] {
            symlink(to, tree.root.join(path)).unwrap();
            tree.fixtures.push((tree.root.join(path), Value::Link(to.to_owned())));
        }
        let plain = names(false);
        tree.add("root", "root", &["/"], &plain);
        let docs = ["/docs/", "/link/", "/absolute/", "/chain/", "/docs/up/docs/", "/two/"];
        tree.add("docs", "root/docs", &docs, &plain);
        let deep_paths = ["/a%20b/%C3%BC/", "/to-deep/", "/link/up/to-deep/"];
        tree.add("deep", deep, &deep_paths, &plain);
        tree.add("inbox", "inbox", &["/inbox/", "/inbox/self/"], &plain);
        let few = names(false)[..4].to_vec();
        for (label, path) in
            [("beneath", "media/beneath"), ("disk-a", "media/a"), ("disk-b", "media/b")]
        {
            tree.add(label, path, &["/disk/"], &few);
        }
        tree.add("public", "root/pub", &["/pub/", "/to-pub/"], &few);
        tree.add("outside", "outside", &["/out/"], &few);
        tree.add("elsewhere", "elsewhere", &["/away/"], &few);
        for number in [PUBLIC, OUTSIDE, ELSEWHERE] {
            tree.directories[number].is_protected = true;
        }
        if has_disks {
            tree.mount_all(&few);
        }
        tree
    }

    fn mount_all(&mut self, few: &[Vec<u8>]) {
        let at = |path: &str| self.root.join(path).display().to_string();
        run("mount", &["--bind", &at("disk"), &at("media/beneath")]).unwrap();
        for disk in ["media/a", "media/b"] {
            run("mount", &["-t", "tmpfs", "-o", "size=64m", "tmpfs", &at(disk)]).unwrap();
        }
        fs::create_dir(self.root.join("tiny")).unwrap();
        run("mount", &["-t", "tmpfs", "-o", "size=8m", "tmpfs", &at("tiny")]).unwrap();
        self.add("tiny", "tiny", &["/tiny/"], few);
        match self.mount_folding() {
            Ok(()) => {
                let names = names(true);
                self.add("fold", "fold", &["/fold/"], &names);
                let paths = ["/fold/Dir/", "/fold/dir/", "/fold/DIR/"];
                // Its names are shown in lower case.
                self.add("fold-dir", "fold/dir", &paths, &names);
                self.fixtures.push((self.root.join("fold/dir"), Value::Directory));
                for number in [FOLD, FOLD + 1] {
                    self.directories[number].folds = true;
                }
            }
            Err(reason) => skipped_part(format_args!("a disk that ignores case: {reason}")),
        }
    }

    /// A disk that ignores case, as USB sticks do.
    fn mount_folding(&self) -> Result<(), String> {
        let (image, at) = (self.root.join("fold.img"), self.root.join("fold"));
        let file = fs::File::create(&image).map_err(|error| error.to_string())?;
        file.set_len(48 << 20).map_err(|error| error.to_string())?;
        let (image, mounted) = (image.display().to_string(), at.display().to_string());
        run("mkntfs", &["-q", "-Q", "-F", &image])?;
        fs::create_dir(&at).map_err(|error| error.to_string())?;
        run("lowntfs-3g", &["-o", "ignore_case", &image, &mounted])?;
        fs::create_dir(at.join("dir")).map_err(|error| error.to_string())?;
        if !at.join("dIR").is_dir() {
            return Err("the disk does not ignore case".to_owned());
        }
        Ok(())
    }

    fn add(&mut self, label: &'static str, path: &str, paths: &[&str], names: &[Vec<u8>]) {
        self.directories.push(Directory {
            label,
            path: self.root.join(path),
            paths: paths.iter().map(|path| (*path).to_owned()).collect(),
            names: names.to_vec(),
            folds: false,
            is_protected: false,
        });
    }

    /// Arguments of the agent.
    pub fn arguments(&self) -> Vec<String> {
        let at = |path: &str| self.root.join(path).display().to_string();
        let mut arguments = vec![
            "--allow-write".to_owned(),
            format!("--share-rw=inbox={}", at("inbox")),
            format!("--share-rw=two={}", at("root/docs")),
            format!("--share=pub={}", at("root/pub")),
            format!("--follow-into={}", at("outside")),
        ];
        if self.has_disks {
            arguments.push(format!("--share-rw=disk={}", at("disk")));
            arguments.push(format!("--share-rw=tiny={}", at("tiny")));
        }
        if self.directories.len() > FOLD {
            arguments.push(format!("--share-rw=fold={}", at("fold")));
        }
        arguments
    }

    /// Puts the disk `to` (a number of [`MEDIA`]) over the share, or takes away what is there.
    /// `lazily`: even from under those who use it.
    pub fn mount(&self, from: usize, to: usize, lazily: bool) -> bool {
        let at = self.root.join("disk").display().to_string();
        if from != BENEATH {
            let is_gone = !lazily && run("umount", &[&at]).is_ok();
            if !is_gone && !lazily {
                return false;
            }
            if !is_gone {
                run("umount", &["-l", &at]).unwrap();
            }
        }
        if to != BENEATH {
            let disk = self.directories[to].path.display().to_string();
            run("mount", &["--bind", &disk, &at]).unwrap();
        }
        true
    }

    /// Bytes free on the small disk, and how many uploads must leave there.
    pub fn room(&self) -> Option<(u64, u64)> {
        let stat = rustix::fs::statvfs(&self.directories.get(TINY)?.path).unwrap();
        Some((stat.f_bavail * stat.f_frsize, stat.f_blocks * stat.f_frsize / 100))
    }

    /// What kind of directory it is, for the list of violations.
    pub fn area(&self, dir: usize) -> &'static str {
        match dir {
            _ if MEDIA.contains(&dir) => "disk that comes and goes",
            TINY => "small disk",
            _ if dir >= FOLD => "disk that ignores case",
            _ => "share",
        }
    }

    /// A name as the filesystem of its directory tells it from others.
    pub fn fold(&self, dir: usize, name: &[u8]) -> Vec<u8> {
        let folds = self.directories.get(dir).is_some_and(|directory| directory.folds);
        if folds { name.to_ascii_lowercase() } else { name.to_vec() }
    }

    /// Names and values of everything in a directory but what the layout has there.
    pub fn read(&self, seed: u64, dir: usize) -> Vec<(Vec<u8>, Value)> {
        let directory = &self.directories[dir];
        let mut found = Vec::new();
        for entry in fs::read_dir(&directory.path).unwrap().flatten() {
            let path = entry.path();
            if !self.fixtures.iter().any(|(fixture, _)| *fixture == path) {
                let name = entry.file_name().as_bytes().to_vec();
                found.push((name, value(seed, &path)));
            }
        }
        found.sort();
        found
    }

    /// What of the layout itself is not as it was made.
    pub fn broken_fixtures(&self, seed: u64) -> Vec<String> {
        let is_broken = |(path, wanted): &(PathBuf, Value)| {
            let found = value(seed, path);
            (found != *wanted).then(|| format!("{}: {found:?}, not {wanted:?}", path.display()))
        };
        self.fixtures.iter().filter_map(is_broken).collect()
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        // The mounts would go with the namespace, but the files below them must go before.
        for path in ["disk", "media/beneath", "media/a", "media/b", "tiny", "fold"] {
            let path = self.root.join(path);
            if self.has_disks && path.exists() {
                let _ = run("umount", &["-l", &path.display().to_string()]);
            }
        }
    }
}

/// What lies at a path; links are not followed.
pub fn value(seed: u64, path: &Path) -> Value {
    match fs::symlink_metadata(path) {
        Err(_) => Value::Absent,
        Ok(meta) if meta.is_dir() => Value::Directory,
        Ok(meta) if meta.is_symlink() => {
            let to = fs::read_link(path).unwrap_or_default();
            Value::Link(to.to_string_lossy().into_owned())
        }
        Ok(_) => match fs::read(path) {
            Ok(bytes) => identify(seed, &bytes),
            Err(error) => Value::Broken(error.to_string()),
        },
    }
}

/// Names that differ in what filesystems, URLs and headers make of them.
fn names(folds: bool) -> Vec<Vec<u8>> {
    if folds {
        let names = ["a.txt", "A.txt", "A.TXT", "Read me", "READ ME", "other"];
        return names.iter().map(|name| name.as_bytes().to_vec()).collect();
    }
    let mut names: Vec<Vec<u8>> = [
        "a.txt",
        "A.txt",
        "b c",
        "hard1",
        "hard2",
        "\u{fc}",
        "u\u{308}",
        "%22",
        "q\"'#?&;<>\\.txt",
    ]
    .iter()
    .map(|name| name.as_bytes().to_vec())
    .collect();
    names.push(b"not \xff utf-8".to_vec());
    names.push([&b"long".repeat(63)[..], b".it"].concat());
    names
}

/// A name as a segment of a path. `eagerly`: also what need not be encoded.
pub fn encode(name: &[u8], eagerly: bool) -> String {
    let mut text = String::new();
    for byte in name {
        let is_plain = byte.is_ascii_alphanumeric() || b"-._~".contains(byte);
        if is_plain && !(eagerly && byte.is_ascii_alphabetic()) {
            text.push(char::from(*byte));
        } else {
            text += &format!("%{byte:02X}");
        }
    }
    text
}

/// A name for people.
pub fn shown(name: &[u8]) -> String {
    let text = encode(name, false);
    if text.len() > 40 { format!("{}...", &text[..40]) } else { text }
}

/// Runs a program of the machine; what it said if it failed.
pub fn run(program: &str, arguments: &[&str]) -> Result<(), String> {
    let output = Command::new(program).args(arguments.iter().map(OsStr::new)).output();
    let output = output.map_err(|error| format!("{program}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{program}: {}", String::from_utf8_lossy(&output.stderr).trim()))
}
