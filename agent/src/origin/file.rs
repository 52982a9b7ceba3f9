//! Opening what a name means below the root, and nothing else.
//!
//! It owns the ways of opening (one system call where the kernel can, segment by segment where it
//! cannot), what a file is, and the status that an error of the system becomes. All functions may
//! block except [`Root::open_cached`] and [`Meta::of`].

use std::{
    fs::File,
    io,
    os::fd::{AsFd, OwnedFd},
    path::Path,
    sync::atomic::{AtomicU8, Ordering},
};

use rustix::{
    fs::{CWD, FileType, Mode, OFlags, ResolveFlags, Stat, fstat, open, openat, openat2},
    io::Errno,
};

/// The folder that is served.
#[derive(Debug)]
pub(crate) struct Root {
    folder: OwnedFd,
    way: AtomicU8,
}

impl Root {
    /// Opens the folder. `openat2`: use that system call if the kernel has it; else, and without
    /// it, links below the root are not followed at all.
    pub(crate) fn open(path: &Path, use_openat2: bool) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let folder = open(path, flags, Mode::empty())?;
        let root = Self { folder, way: AtomicU8::new(Way::Segments as u8) };
        if use_openat2 {
            root.set_way(root.best_way());
        }
        Ok(root)
    }

    /// Opens a name for reading only if that needs no disk: `None` means "ask [`Root::open_file`]
    /// on the pool". Never blocks on local filesystems.
    pub(crate) fn open_cached(&self, name: &[u8]) -> Option<OwnedFd> {
        if self.way() != Way::Cached {
            return None;
        }
        openat2(&self.folder, name, READ, Mode::empty(), BENEATH | ResolveFlags::CACHED).ok()
    }

    /// Opens a name for reading.
    pub(crate) fn open_file(&self, name: &[u8]) -> Result<OwnedFd, Errno> {
        self.open_with(name, READ)
    }

    /// Opens a folder to work in.
    pub(crate) fn open_folder(&self, name: &[u8]) -> Result<OwnedFd, Errno> {
        self.open_with(name, READ | OFlags::DIRECTORY)
    }

    pub(crate) fn open_with(&self, name: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
        if self.way() == Way::Segments {
            return self.open_by_segments(name, flags);
        }
        // EAGAIN: something was renamed meanwhile and the kernel cannot vouch for the way; a file
        // with a lease says the same.
        for _ in 0..RENAME_RETRIES {
            match openat2(&self.folder, name, flags, Mode::empty(), BENEATH) {
                Err(Errno::AGAIN) => {}
                // A filter that came later than our start refuses the call itself.
                Err(Errno::NOSYS) => {
                    self.set_way(Way::Segments);
                    return self.open_by_segments(name, flags);
                }
                opened => return opened,
            }
        }
        Err(Errno::AGAIN)
    }

    /// For kernels before 5.6 and strict seccomp filters: no segment may be a link, so nothing can
    /// lead out, whatever is renamed meanwhile.
    fn open_by_segments(&self, name: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
        let mut segments = name.split(|octet| *octet == b'/').peekable();
        let mut at: Option<OwnedFd> = None;
        while let Some(segment) = segments.next() {
            let flags = match segments.peek() {
                Some(_) => OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
                None => flags,
            };
            let from = at.as_ref().map_or(self.folder.as_fd(), AsFd::as_fd);
            at = Some(openat(from, segment, flags | OFlags::NOFOLLOW, Mode::empty())?);
        }
        at.ok_or(Errno::NOENT)
    }

    fn best_way(&self) -> Way {
        match openat2(&self.folder, ".", READ, Mode::empty(), BENEATH | ResolveFlags::CACHED) {
            // EAGAIN: the kernel knows the flag and has nothing cached.
            Ok(_) | Err(Errno::AGAIN) => Way::Cached,
            Err(_) => match openat2(&self.folder, ".", READ, Mode::empty(), BENEATH) {
                Ok(_) => Way::Beneath,
                Err(_) => Way::Segments,
            },
        }
    }

    fn way(&self) -> Way {
        match self.way.load(Ordering::Relaxed) {
            0 => Way::Cached,
            1 => Way::Beneath,
            _ => Way::Segments,
        }
    }

    fn set_way(&self, way: Way) {
        self.way.store(way as u8, Ordering::Relaxed);
    }
}

/// What can be served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A regular file.
    File,
    /// A folder.
    Folder,
    /// A device, socket or FIFO: never.
    Other,
}

/// What the system says of an open file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Meta {
    pub(crate) kind: Kind,
    pub(crate) len: u64,
    /// Seconds since 1970 and nanoseconds of the last change of content.
    pub(crate) modified: (i64, u32),
    /// The same of the last change of anything.
    pub(crate) changed: (i64, u32),
    /// Permission bits.
    pub(crate) mode: u32,
}

impl Meta {
    pub(crate) fn of(file: impl AsFd) -> Result<Self, Errno> {
        fstat(file).map(|stat| Self::from_stat(&stat))
    }

    /// The fields have other widths on other targets, hence the conversions.
    #[allow(clippy::useless_conversion, reason = "needed on 32-bit targets")]
    #[allow(clippy::unnecessary_fallible_conversions, reason = "needed on 64-bit targets")]
    pub(crate) fn from_stat(stat: &Stat) -> Self {
        let nanoseconds = |value| u32::try_from(value).unwrap_or(0);
        Self {
            kind: match FileType::from_raw_mode(stat.st_mode) {
                FileType::RegularFile => Kind::File,
                FileType::Directory => Kind::Folder,
                _ => Kind::Other,
            },
            len: u64::try_from(stat.st_size).unwrap_or(0),
            modified: (stat.st_mtime.into(), nanoseconds(stat.st_mtime_nsec)),
            changed: (stat.st_ctime.into(), nanoseconds(stat.st_ctime_nsec)),
            mode: stat.st_mode & 0o7777,
        }
    }

    #[cfg(test)]
    pub(crate) const fn file() -> Self {
        Self { kind: Kind::File, len: 0, modified: (0, 0), changed: (0, 0), mode: 0o644 }
    }
}

/// The status that tells a client what went wrong, without telling it what is there.
pub(crate) const fn status_of(error: Errno) -> u16 {
    match error {
        Errno::NOENT
        | Errno::NOTDIR
        | Errno::NAMETOOLONG
        | Errno::LOOP
        | Errno::XDEV
        | Errno::INVAL
        | Errno::NXIO
        | Errno::NODEV => 404,
        Errno::ACCESS | Errno::PERM => 403,
        Errno::MFILE | Errno::NFILE | Errno::NOMEM | Errno::AGAIN => 503,
        Errno::NOSPC | Errno::DQUOT => 507,
        Errno::FBIG => 413,
        Errno::ROFS => 403,
        _ => 500,
    }
}

/// Opens a folder by its path in the system, for the start of the program.
pub(crate) fn is_folder(path: &Path) -> io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    openat(CWD, path, flags, Mode::empty()).map(|folder| drop(File::from(folder)))?;
    Ok(())
}

/// How names are opened; the number is kept in an atomic because the pool reads it too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// `openat2`, with `RESOLVE_CACHED` (Linux 5.12).
    Cached = 0,
    /// `openat2` (Linux 5.6).
    Beneath = 1,
    /// `openat` for each segment.
    Segments = 2,
}

/// Non-blocking, so that a FIFO does not hang the agent; it is refused by its kind afterwards.
const READ: OFlags =
    OFlags::RDONLY.union(OFlags::NONBLOCK).union(OFlags::NOCTTY).union(OFlags::CLOEXEC);
const BENEATH: ResolveFlags = ResolveFlags::BENEATH.union(ResolveFlags::NO_MAGICLINKS);
const RENAME_RETRIES: usize = 8;

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink, path::PathBuf};

    use rustix::fs::mkfifoat;

    use super::*;

    struct Tree(PathBuf);

    impl Tree {
        fn new(name: &str) -> Self {
            let unique = format!("spdy-agent-file-{name}-{}", std::process::id());
            let top = std::env::temp_dir().join(unique);
            let _ = fs::remove_dir_all(&top);
            fs::create_dir_all(top.join("root/dir")).unwrap();
            fs::create_dir(top.join("outside")).unwrap();
            fs::write(top.join("outside/secret"), "secret").unwrap();
            fs::write(top.join("root/ten.txt"), "0123456789").unwrap();
            fs::write(top.join("root/dir/inner"), "inner").unwrap();
            symlink("dir/inner", top.join("root/inside")).unwrap();
            symlink("../outside/secret", top.join("root/out")).unwrap();
            symlink("../outside", top.join("root/outdir")).unwrap();
            symlink("/etc/passwd", top.join("root/absolute")).unwrap();
            symlink("loop", top.join("root/loop")).unwrap();
            mkfifoat(CWD, top.join("root/fifo"), Mode::RUSR).unwrap();
            Self(top)
        }

        fn root(&self, use_openat2: bool) -> Root {
            Root::open(&self.0.join("root"), use_openat2).unwrap()
        }
    }

    impl Drop for Tree {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn status(root: &Root, name: &[u8]) -> u16 {
        match root.open_file(name) {
            Ok(_) => 200,
            Err(error) => status_of(error),
        }
    }

    #[test]
    fn nothing_outside_the_root_is_opened_either_way() {
        let tree = Tree::new("outside");
        for use_openat2 in [true, false] {
            let root = tree.root(use_openat2);
            for name in [&b"out"[..], b"outdir/secret", b"absolute", b"loop", b"nope", b"ten.txt/x"]
            {
                assert_eq!(status(&root, name), 404, "{}", name.escape_ascii());
                assert!(root.open_cached(name).is_none());
            }
            for name in [&b"."[..], b"ten.txt", b"dir", b"dir/inner"] {
                assert_eq!(status(&root, name), 200, "{}", name.escape_ascii());
            }
            assert_eq!(status(&root, &[b'a'; 300]), 404);
            assert_eq!(status(&root, b"inside"), if use_openat2 { 200 } else { 404 });
        }
    }

    #[test]
    fn fifo_opens_at_once_and_is_no_file() {
        let tree = Tree::new("fifo");
        for use_openat2 in [true, false] {
            let opened = tree.root(use_openat2).open_file(b"fifo").unwrap();
            assert_eq!(Meta::of(&opened).unwrap().kind, Kind::Other);
        }
    }

    #[test]
    fn known_names_open_without_the_pool() {
        let tree = Tree::new("cached");
        let root = tree.root(true);
        drop(root.open_file(b"ten.txt").unwrap());
        if root.way() == Way::Cached {
            let opened = root.open_cached(b"ten.txt").unwrap();
            let meta = Meta::of(&opened).unwrap();
            assert_eq!((meta.kind, meta.len), (Kind::File, 10));
        }
        assert!(tree.root(false).open_cached(b"ten.txt").is_none());
    }

    #[test]
    fn root_must_be_a_folder() {
        let tree = Tree::new("root");
        assert!(Root::open(&tree.0.join("nope"), true).is_err());
        assert!(Root::open(&tree.0.join("root/ten.txt"), true).is_err());
        assert!(is_folder(&tree.0.join("nope")).is_err());
        assert!(is_folder(&tree.0).is_ok());
    }

    #[test]
    fn errors_become_the_statuses_of_the_catalogue() {
        for (error, status) in [
            (Errno::NOENT, 404),
            (Errno::LOOP, 404),
            (Errno::XDEV, 404),
            (Errno::ACCESS, 403),
            (Errno::MFILE, 503),
            (Errno::IO, 500),
            (Errno::STALE, 500),
            (Errno::NOSPC, 507),
            (Errno::DQUOT, 507),
        ] {
            assert_eq!(status_of(error), status);
        }
    }
}
