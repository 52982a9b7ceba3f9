//! A folder with all that is below it, one name after the other.
//!
//! It owns the order (a folder before what it holds, names as the filesystem gives them), the
//! bounds and the list of what was left out. It holds one descriptor and one batch of names for
//! each level and reads no file.

use std::{
    ffi::CString,
    fmt::Write as _,
    mem::MaybeUninit,
    os::fd::{AsFd, OwnedFd},
    vec,
};

use rustix::{
    fs::{AtFlags, FileType, Mode, OFlags, RawDir, fstat, openat, statat},
    io::Errno,
};

use super::super::{
    file::{Kind, Meta},
    path::is_hidden,
};

/// A walk under way. No link is followed: each name is opened in its own folder, by `O_NOFOLLOW`.
#[derive(Debug)]
pub(crate) struct Walk {
    levels: Vec<Level>,
    path: Vec<u8>,
    hidden: bool,
    omitted: Omitted,
}

/// What a step came to; [`Walk::path`] says where.
#[derive(Debug)]
pub(crate) enum Found {
    /// A folder; what it holds follows.
    Folder(Meta),
    /// What seems to be a file: [`Walk::open_file`] knows.
    File,
    /// Nothing that is served.
    Nothing,
    /// There is nothing more.
    End,
}

impl Walk {
    /// Begins in an open folder, which is called `top` in all paths. `hidden`: names with a dot are
    /// names like others.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub(crate) fn open(folder: impl AsFd, top: &[u8], hidden: bool) -> Result<Self, Errno> {
        // Anew, because places in a folder are those of its descriptor.
        let folder = openat(folder, ".", FOLDER, Mode::empty())?;
        let path = [top, b"/"].concat();
        let level = Level { folder, names: Vec::new().into_iter(), path_len: path.len() };
        Ok(Self { levels: vec![level], path, hidden, omitted: Omitted::default() })
    }

    /// Blocks, for one name: opens it if it is a folder.
    pub(crate) fn step(&mut self) -> Found {
        let depth = self.levels.len();
        let Some(level) = self.levels.last_mut() else { return Found::End };
        self.path.truncate(level.path_len);
        let (kind, name) = match level.next() {
            Ok(Some(next)) => next,
            Ok(None) => {
                self.levels.pop();
                return Found::Nothing;
            }
            Err(error) => {
                self.omitted.push(&self.path, error);
                self.levels.pop();
                return Found::Nothing;
            }
        };
        let is_dots = matches!(name.as_bytes(), b"." | b"..");
        if is_dots || is_hidden(name.as_bytes(), self.hidden) {
            return Found::Nothing;
        }
        self.path.extend_from_slice(name.as_bytes());
        match kind {
            FileType::RegularFile => Found::File,
            FileType::Directory if depth > DEPTH_MAX => {
                self.omitted.push_for(&self.path, "too deep");
                Found::Nothing
            }
            FileType::Directory => {
                let opened = openat(&level.folder, &name, FOLDER, Mode::empty());
                let opened = opened.and_then(|folder| fstat(&folder).map(|stat| (folder, stat)));
                match opened {
                    Ok((folder, stat)) => {
                        self.path.push(b'/');
                        let names = Vec::new().into_iter();
                        self.levels.push(Level { folder, names, path_len: self.path.len() });
                        Found::Folder(Meta::from_stat(&stat))
                    }
                    Err(error) => self.omit(error),
                }
            }
            FileType::Symlink => {
                self.omitted.links += 1;
                Found::Nothing
            }
            _ => Found::Nothing,
        }
    }

    /// Blocks. Opens the file that the last step found; `None` if it is none or cannot be read.
    pub(crate) fn open_file(&mut self) -> Option<(OwnedFd, Meta)> {
        let level = self.levels.last()?;
        let name = self.path.get(level.path_len..)?;
        let opened = openat(&level.folder, name, FILE, Mode::empty());
        match opened.and_then(|file| Ok((Meta::from_stat(&fstat(&file)?), file))) {
            Ok((meta, file)) => (meta.kind == Kind::File).then_some((file, meta)),
            Err(error) => {
                self.omit(error);
                None
            }
        }
    }

    /// Where the last step was, from the top; that of a folder ends with a slash.
    pub(crate) fn path(&self) -> &[u8] {
        &self.path
    }

    /// What was left out, for people; empty if nothing.
    pub(crate) fn omitted(&self) -> String {
        self.omitted.text()
    }

    fn omit(&mut self, error: Errno) -> Found {
        match error {
            // Gone since its name was read.
            Errno::NOENT => {}
            // A link since then.
            Errno::LOOP | Errno::NOTDIR => self.omitted.links += 1,
            error => self.omitted.push(&self.path, error),
        }
        Found::Nothing
    }
}

/// A folder that is being read.
#[derive(Debug)]
struct Level {
    folder: OwnedFd,
    names: vec::IntoIter<(FileType, CString)>,
    path_len: usize,
}

impl Level {
    fn next(&mut self) -> Result<Option<(FileType, CString)>, Errno> {
        if self.names.as_slice().is_empty() {
            self.names = read_names(&self.folder)?.into_iter();
        }
        let Some((kind, name)) = self.names.next() else { return Ok(None) };
        if kind != FileType::Unknown {
            return Ok(Some((kind, name)));
        }
        // This filesystem does not say it with the name.
        match statat(&self.folder, &name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some((FileType::from_raw_mode(stat.st_mode), name))),
            // Whoever opens it will be told why not.
            Err(_) => Ok(Some((FileType::RegularFile, name))),
        }
    }
}

/// The names of one call to the kernel; none at the end.
fn read_names(folder: &OwnedFd) -> Result<Vec<(FileType, CString)>, Errno> {
    let mut room = [MaybeUninit::uninit(); BATCH];
    let mut entries = RawDir::new(folder, &mut room);
    let mut names = Vec::new();
    while let Some(entry) = entries.next() {
        let entry = entry?;
        names.push((entry.file_type(), entry.file_name().to_owned()));
        if entries.is_buffer_empty() {
            break;
        }
    }
    Ok(names)
}

/// What is not in the archive although a visitor might look for it there.
#[derive(Debug, Default)]
struct Omitted {
    lines: String,
    more: u64,
    links: u64,
}

impl Omitted {
    fn push(&mut self, path: &[u8], error: Errno) {
        match error {
            Errno::ACCESS | Errno::PERM => self.push_for(path, "may not be read"),
            error => self.push_for(path, &format!("cannot be read: {error}")),
        }
    }

    fn push_for(&mut self, path: &[u8], why: &str) {
        if self.lines.len() >= OMITTED_MAX {
            self.more += 1;
            return;
        }
        let path = String::from_utf8_lossy(path);
        let shown = path.chars().map(|c| if c.is_control() { '?' } else { c });
        self.lines.extend(shown);
        let _ = writeln!(self.lines, ": {why}");
    }

    fn text(&self) -> String {
        let mut text = String::new();
        if self.more + self.links == 0 && self.lines.is_empty() {
            return text;
        }
        text.push_str("Not in this archive:\n\n");
        text.push_str(&self.lines);
        if self.more > 0 {
            let _ = writeln!(text, "... and {} more", self.more);
        }
        if self.links > 0 {
            let _ = writeln!(text, "Links, which are not followed: {}", self.links);
        }
        text
    }
}

/// Levels below the top that are walked. Each holds a descriptor and a batch of names.
pub(crate) const DEPTH_MAX: usize = 32;
/// Octets of names that one call to the kernel may give.
const BATCH: usize = 4 << 10;
/// Octets of the list of what was left out, from which on it is only counted.
const OMITTED_MAX: usize = 16 << 10;

const FOLDER: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
/// Non-blocking, so that a FIFO that took the name meanwhile hangs nobody.
const FILE: OFlags = OFlags::RDONLY
    .union(OFlags::NOFOLLOW)
    .union(OFlags::NONBLOCK)
    .union(OFlags::NOCTTY)
    .union(OFlags::CLOEXEC);

#[cfg(test)]
mod tests {
    use std::{
        fs,
        os::unix::fs::symlink,
        path::{Path, PathBuf},
    };

    use rustix::fs::{CWD, mkfifoat};

    use super::*;

    struct Tree(PathBuf);

    impl Tree {
        fn new(name: &str) -> Self {
            let unique = format!("spdy-agent-walk-{name}-{}", std::process::id());
            let top = std::env::temp_dir().join(unique);
            let _ = fs::remove_dir_all(&top);
            fs::create_dir(&top).unwrap();
            Self(top)
        }

        fn walk(&self, hidden: bool) -> Walk {
            Walk::open(fs::File::open(&self.0).unwrap(), b"top", hidden).unwrap()
        }
    }

    impl Drop for Tree {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    /// All paths, and what was left out.
    fn paths(mut walk: Walk) -> (Vec<String>, String) {
        let mut paths = Vec::new();
        loop {
            match walk.step() {
                Found::End => break,
                Found::Nothing => continue,
                Found::Folder(meta) => assert_eq!(meta.kind, Kind::Folder),
                Found::File => {
                    let Some((_, meta)) = walk.open_file() else { continue };
                    assert_eq!(meta.kind, Kind::File);
                }
            }
            paths.push(String::from_utf8(walk.path().to_vec()).unwrap());
        }
        (paths, walk.omitted())
    }

    fn write(path: &Path) {
        fs::write(path, "x").unwrap();
    }

    #[test]
    fn files_and_folders_come_and_nothing_else() {
        let tree = Tree::new("kinds");
        fs::create_dir_all(tree.0.join("a/b")).unwrap();
        for name in ["a/b/deep", "a/file", ".hidden", "last", "a/.spdy-put-0"] {
            write(&tree.0.join(name));
        }
        symlink("a", tree.0.join("folder-link")).unwrap();
        symlink("last", tree.0.join("a/file-link")).unwrap();
        mkfifoat(CWD, tree.0.join("fifo"), Mode::RUSR).unwrap();
        let (mut found, omitted) = paths(tree.walk(false));
        let position = |name| found.iter().position(|path| path == name).unwrap();
        assert!(position("top/a/") < position("top/a/b/"));
        assert!(position("top/a/b/") < position("top/a/b/deep"));
        found.sort();
        let wanted = ["top/a/", "top/a/b/", "top/a/b/deep", "top/a/file", "top/last"];
        assert_eq!(found, wanted);
        assert!(omitted.ends_with("not followed: 2\n"), "{omitted}");
        let all = paths(tree.walk(true)).0;
        assert!(all.contains(&"top/.hidden".to_owned()) && all.len() == wanted.len() + 1);
    }

    #[test]
    fn large_folder_is_walked_whole_in_batches() {
        let tree = Tree::new("large");
        for number in 0..1_000 {
            write(&tree.0.join(format!("a rather long name, number {number:04}")));
        }
        let mut walk = tree.walk(false);
        let mut found = Vec::new();
        loop {
            assert!(walk.levels.last().is_none_or(|level| level.names.len() < 200));
            match walk.step() {
                Found::End => break,
                Found::File => found.push(walk.path().to_vec()),
                _ => {}
            }
        }
        found.sort();
        found.dedup();
        assert_eq!(found.len(), 1_000);
        assert_eq!(walk.omitted(), "");
    }

    #[test]
    fn folders_below_the_last_level_are_named_and_left_out() {
        let tree = Tree::new("deep");
        let folder = |levels: usize| tree.0.join(vec!["d"; levels].join("/"));
        fs::create_dir_all(folder(DEPTH_MAX + 1)).unwrap();
        write(&folder(DEPTH_MAX).join("file"));
        write(&folder(DEPTH_MAX + 1).join("lost"));
        let (found, omitted) = paths(tree.walk(false));
        assert_eq!(found.len(), DEPTH_MAX + 1, "{found:?}");
        assert!(found.contains(&format!("top/{}file", "d/".repeat(DEPTH_MAX))));
        let lost = format!("top/{}d: too deep\n", "d/".repeat(DEPTH_MAX));
        assert!(omitted.ends_with(&lost), "{omitted}");
    }

    #[test]
    fn what_became_a_link_meanwhile_is_not_followed() {
        let tree = Tree::new("swap");
        write(&tree.0.join("file"));
        let mut walk = tree.walk(false);
        while !matches!(walk.step(), Found::File) {}
        fs::remove_file(tree.0.join("file")).unwrap();
        symlink("/etc/passwd", tree.0.join("file")).unwrap();
        assert!(walk.open_file().is_none());
        assert!(walk.omitted().ends_with("not followed: 1\n"));
        fs::remove_file(tree.0.join("file")).unwrap();
        assert!(walk.open_file().is_none());
    }

    #[test]
    fn list_of_what_was_left_out_is_bounded() {
        let mut omitted = Omitted::default();
        for _ in 0..10_000 {
            omitted.push(b"top/new\nline\xff", Errno::ACCESS);
        }
        let text = omitted.text();
        assert!(text.len() < OMITTED_MAX + 200, "{}", text.len());
        assert!(text.contains("\ntop/new?line\u{fffd}: may not be read\n"), "{text}");
        let listed = text.matches("may not").count() as u64;
        assert!(text.ends_with(&format!("... and {} more\n", 10_000 - listed)));
    }
}
