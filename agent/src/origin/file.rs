//! Opening what a name means below the root, and nothing else.
//!
//! It owns the ways of opening (one system call where the kernel can, `super::walk` where it
//! cannot), whether the directory is still the one at its path, which share a directory belongs to,
//! what a file is, and the status that an error of the system becomes. All functions may block
//! except [`Root::open_cached`], [`Root::is_current_cached`] and, for what was opened cached,
//! [`Root::meta`].

use std::{
    fs::File,
    io,
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU8, Ordering},
    },
    time::{Duration, Instant},
};

use rustix::{
    fs::{
        AtFlags, CWD, FileType, Gid, Mode, OFlags, ResolveFlags, Stat, StatxFlags, Uid, fchown,
        fstat, fstatfs, makedev, open, openat, openat2, stat, statat, statx,
    },
    io::Errno,
    process::geteuid,
};

use super::walk::{self, Ground};

/// The folder that is served.
#[derive(Debug)]
pub(crate) struct Root {
    folder: Arc<OwnedFd>,
    id: DirectoryId,
    /// As its owner names it, from `/` on.
    given: PathBuf,
    /// Without links.
    path: PathBuf,
    /// The shares of the agent, this one among them.
    neighbours: Arc<[Neighbour]>,
    follow_into: Vec<PathBuf>,
    way: AtomicU8,
    /// Whether reading may leave the time of access alone: only for what is our own.
    noatime: AtomicBool,
    filesystems: Mutex<Vec<Known>>,
    owner: Option<(u32, u32)>,
}

impl Root {
    /// Opens the folder. `openat2`: use that system call if the kernel has it. `follow_into`:
    /// absolute paths of folders that links may lead into; they need not exist yet.
    pub(crate) fn open(
        path: &Path,
        use_openat2: bool,
        follow_into: &[PathBuf],
    ) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let folder = open(path, flags, Mode::empty())?;
        let root = Self {
            id: id_of(&fstat(&folder)?),
            folder: Arc::new(folder),
            given: std::path::absolute(path)?,
            path: path.canonicalize()?,
            neighbours: Arc::new([]),
            follow_into: follow_into.to_vec(),
            way: AtomicU8::new(Way::Segments as u8),
            noatime: AtomicBool::new(true),
            filesystems: Mutex::default(),
            owner: None,
        };
        if use_openat2 {
            root.set_way(root.best_way());
        }
        Ok(root)
    }

    /// User and group that what is made here is given to.
    pub(crate) fn with_owner(self, owner: Option<(u32, u32)>) -> Self {
        Self { owner, ..self }
    }

    /// The same directory among the shares of the agent, itself included: changes stay out of those
    /// that are read-only.
    pub(crate) fn among(&self, neighbours: Arc<[Neighbour]>) -> Self {
        Self {
            folder: self.folder.clone(),
            id: self.id,
            given: self.given.clone(),
            path: self.path.clone(),
            neighbours,
            follow_into: self.follow_into.clone(),
            way: AtomicU8::new(self.way() as u8),
            noatime: AtomicBool::new(true),
            filesystems: Mutex::default(),
            owner: self.owner,
        }
    }

    /// Itself, as other shares must know it.
    pub(crate) fn neighbour(&self, writable: bool) -> Neighbour {
        Neighbour { id: Some(self.id), path: self.path.clone(), writable }
    }

    /// Which directory it is.
    pub(crate) const fn id(&self) -> DirectoryId {
        self.id
    }

    /// Whether the share's path still leads to this directory: not after a disk was mounted over
    /// it, replaced or unmounted, nor after it was renamed.
    pub(crate) fn is_current(&self) -> bool {
        stat(&self.given).is_ok_and(|stat| id_of(&stat) == self.id)
    }

    /// [`Root::is_current`] where no disk is needed for the answer, else `None`. On a local
    /// filesystem the kernel keeps the way to a directory that is open. What was mounted over it
    /// meanwhile may be a program's or a server's that hangs: that is not asked what it knows, for
    /// the kernel alone tells that it is another directory.
    pub(crate) fn is_current_cached(&self) -> Option<bool> {
        if self.way() != Way::Cached || self.given != self.path {
            return None;
        }
        match id_at(&self.given) {
            Ok(now) => Some(now == self.id),
            // A filter refuses the call.
            Err(Errno::NOSYS | Errno::PERM) => None,
            Err(_) => Some(false),
        }
    }

    /// Whose a directory is that was opened below this root.
    ///
    /// # Errors
    /// What the system says of a directory above it.
    pub(crate) fn belonging(&self, directory: &OwnedFd) -> Result<Belonging, Errno> {
        let read_only = self.neighbours.iter().filter(|neighbour| !neighbour.writable);
        let read_only = read_only.flat_map(|neighbour| {
            // What is at its path now may be another directory, or a disk over it.
            let tops = [&self.path, &self.given];
            let is_within = tops.into_iter().any(|top| neighbour.path.starts_with(top));
            let now = is_within.then(|| id_at(&neighbour.path).ok()).flatten();
            [neighbour.id, now].into_iter().flatten()
        });
        let read_only: Vec<_> = read_only.collect();
        let found = find_above(directory, |id| {
            if id == self.id {
                Some(Belonging::Own)
            } else {
                read_only.contains(&id).then_some(Belonging::ReadOnly)
            }
        });
        Ok(found?.unwrap_or(Belonging::Outside))
    }

    /// Whether a directory is this root or lies above it.
    pub(crate) fn is_below(&self, directory: DirectoryId) -> Result<bool, Errno> {
        is_in(&self.folder, directory)
    }

    /// Whether this root may lie in another one, or be it: by their paths, which asks no disk.
    pub(crate) fn may_be_within(&self, other: &Self) -> bool {
        self.path.starts_with(&other.path)
    }

    /// Whether a directory is that of a share of the agent.
    pub(crate) fn is_share(&self, directory: DirectoryId) -> bool {
        self.neighbours.iter().any(|neighbour| neighbour.id == Some(directory))
    }

    /// Gives away what was just made. Best effort: some filesystems know no owners. Only what is
    /// open is given, and only what is ours: somebody else may have put another thing under its
    /// name meanwhile.
    pub(crate) fn give(&self, made: &OwnedFd) {
        if let Some((user, group)) = self.owner
            && fstat(made).is_ok_and(|stat| stat.st_uid == geteuid().as_raw())
        {
            let _ = fchown(made, Some(Uid::from_raw(user)), Some(Gid::from_raw(group)));
        }
    }

    /// Opens a name for reading only if that needs no disk: `None` means "ask [`Root::open_file`]
    /// on the pool". It does not leave the filesystem of the root, which is one that the kernel
    /// answers for alone.
    pub(crate) fn open_cached(&self, name: &[u8]) -> Option<OwnedFd> {
        if self.way() != Way::Cached {
            return None;
        }
        let resolve = BENEATH | ResolveFlags::CACHED | ResolveFlags::NO_XDEV;
        openat2(&self.folder, name, self.read_flags(), Mode::empty(), resolve).ok()
    }

    /// Opens a name for reading.
    pub(crate) fn open_file(&self, name: &[u8]) -> Result<OwnedFd, Errno> {
        let flags = self.read_flags();
        match self.open_with(name, flags) {
            Err(Errno::PERM) if flags.contains(OFlags::NOATIME) => {
                // Somebody else's file. Asking twice for each of them would cost more than it saves.
                self.noatime.store(false, Ordering::Relaxed);
                self.open_with(name, READ)
            }
            opened => opened,
        }
    }

    /// The same, and what the system says of it.
    pub(crate) fn open_with_meta(&self, name: &[u8]) -> Result<(OwnedFd, Meta), Errno> {
        let opened = self.open_file(name)?;
        self.meta(&opened).map(|meta| (opened, meta))
    }

    /// Opens a folder to work in.
    pub(crate) fn open_folder(&self, name: &[u8]) -> Result<OwnedFd, Errno> {
        self.open_with(name, READ | OFlags::DIRECTORY)
    }

    pub(crate) fn open_with(&self, name: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
        // EAGAIN: something was renamed meanwhile and the kernel cannot vouch for the way; a file
        // with a lease says the same.
        for _ in 0..RENAME_RETRIES {
            if self.way() == Way::Segments {
                return self.walk(name, flags);
            }
            match openat2(&self.folder, name, flags, Mode::empty(), BENEATH) {
                Err(Errno::AGAIN) => {}
                // A filter that came later than our start refuses the call itself.
                Err(Errno::NOSYS) => self.set_way(Way::Segments),
                Err(Errno::XDEV) if !self.follow_into.is_empty() => return self.walk(name, flags),
                opened => return opened,
            }
        }
        Err(Errno::AGAIN)
    }

    /// What the system says of an open file below this root.
    pub(crate) fn meta(&self, file: impl AsFd) -> Result<Meta, Errno> {
        let stat = fstat(&file)?;
        Ok(self.meta_of(file, &stat))
    }

    /// The same for who has asked the system already.
    pub(crate) fn meta_of(&self, file: impl AsFd, stat: &Stat) -> Meta {
        Meta { filesystem: self.filesystem(&file, stat.st_dev), ..Meta::from_stat(stat) }
    }

    fn walk(&self, name: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
        let (folder, path, allowed) = (self.folder.as_fd(), &*self.path, &*self.follow_into);
        walk::open(&Ground { folder, path, allowed }, name, flags)
    }

    /// The kind of filesystem of a device, which is asked for once a minute: numbers of devices are
    /// given again when disks are changed, and the question may go to a program of a user.
    fn filesystem(&self, file: impl AsFd, device: u64) -> Filesystem {
        let held = || self.filesystems.lock().unwrap_or_else(PoisonError::into_inner);
        let mut known = held();
        known.retain(|known| known.asked.elapsed() < FILESYSTEM_KNOWN);
        if let Some(known) = known.iter().find(|known| known.device == device) {
            return known.filesystem;
        }
        // Nobody waits for the lock while that program takes its time.
        drop(known);
        let filesystem = Filesystem::of(file);
        let mut known = held();
        if known.len() < FILESYSTEMS_MAX && known.iter().all(|known| known.device != device) {
            known.push(Known { device, filesystem, asked: Instant::now() });
        }
        filesystem
    }

    fn read_flags(&self) -> OFlags {
        if self.noatime.load(Ordering::Relaxed) { READ | OFlags::NOATIME } else { READ }
    }

    fn best_way(&self) -> Way {
        match openat2(&self.folder, ".", READ, Mode::empty(), BENEATH | ResolveFlags::CACHED) {
            // EAGAIN: the kernel knows the flag and has nothing cached. The flag is for the way to a
            // file: a program or a server that keeps the files is asked for the file all the same.
            Ok(_) | Err(Errno::AGAIN) if Filesystem::of(&self.folder).is_local() => Way::Cached,
            _ => match openat2(&self.folder, ".", READ, Mode::empty(), BENEATH) {
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

/// A directory as the kernel tells it from all others: device and inode. No two have the same while
/// one of them is open.
pub(crate) type DirectoryId = (u64, u64);

/// A share, as far as another one must know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Neighbour {
    /// `None` while it is not there.
    pub(crate) id: Option<DirectoryId>,
    /// Its path, without links if it is there.
    pub(crate) path: PathBuf,
    /// Whether clients may change it.
    pub(crate) writable: bool,
}

/// Whose a directory is that a path of a share leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Belonging {
    /// The share's own.
    Own,
    /// That of a share inside it which may not be changed.
    ReadOnly,
    /// Nobody's: a link leads out of the share.
    Outside,
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
    /// The number of the file on its filesystem.
    pub(crate) inode: u64,
    /// What its filesystem does; [`Filesystem::Other`] where nobody asked.
    pub(crate) filesystem: Filesystem,
}

impl Meta {
    pub(crate) fn of(file: impl AsFd) -> Result<Self, Errno> {
        let stat = fstat(&file)?;
        Ok(Self { filesystem: Filesystem::of(file), ..Self::from_stat(&stat) })
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
            inode: stat.st_ino.into(),
            filesystem: Filesystem::Other,
        }
    }

    #[cfg(test)]
    pub(crate) const fn file() -> Self {
        Self {
            kind: Kind::File,
            len: 0,
            modified: (0, 0),
            changed: (0, 0),
            mode: 0o644,
            inode: 1,
            filesystem: Filesystem::Other,
        }
    }
}

/// What a filesystem does to the numbers and times of files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Filesystem {
    /// Keeps the numbers of files for as long as they live.
    KeepsInodes,
    /// Makes numbers up, and keeps times to two seconds.
    Fat,
    /// May do anything.
    Other,
}

impl Filesystem {
    pub(crate) fn of(file: impl AsFd) -> Self {
        // As wide as the kernel's; the numbers are those of linux/magic.h and of OpenZFS.
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "32 bits count")]
        match fstatfs(file).map(|stat| stat.f_type as u32) {
            Ok(EXT | XFS | BTRFS | F2FS | ZFS | TMPFS) => Self::KeepsInodes,
            Ok(MSDOS | EXFAT) => Self::Fat,
            _ => Self::Other,
        }
    }

    /// Whether the kernel alone answers for it: neither a program (FUSE) nor a server.
    pub(crate) const fn is_local(self) -> bool {
        matches!(self, Self::KeepsInodes | Self::Fat)
    }
}

/// What was asked of a device.
#[derive(Debug)]
struct Known {
    device: u64,
    filesystem: Filesystem,
    asked: Instant,
}

/// Whether an open directory is the other one or lies below it. Blocks.
pub(crate) fn is_in(directory: &OwnedFd, other: DirectoryId) -> Result<bool, Errno> {
    find_above(directory, |id| (id == other).then_some(())).map(|found| found.is_some())
}

/// An open directory and those above it. Blocks.
pub(crate) fn ids_above(directory: &OwnedFd) -> Result<Vec<DirectoryId>, Errno> {
    let mut ids = Vec::new();
    find_above(directory, |id| {
        ids.push(id);
        None::<()>
    })?;
    Ok(ids)
}

/// The first answer that `find` has for a directory or one above it; `None` at the top.
fn find_above<T>(
    directory: &OwnedFd,
    mut find: impl FnMut(DirectoryId) -> Option<T>,
) -> Result<Option<T>, Errno> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let mut at = openat(directory, ".", flags, Mode::empty())?;
    let mut id = id_of(&stat_path(&at)?);
    for _ in 0..DEPTH_MAX {
        if let Some(found) = find(id) {
            return Ok(Some(found));
        }
        at = match openat(&at, "..", flags, Mode::empty()) {
            // No path of ours leads through there.
            Err(Errno::ACCESS) => return Ok(None),
            above => above?,
        };
        let above = id_of(&stat_path(&at)?);
        if above == id {
            return Ok(None);
        }
        id = above;
    }
    Err(Errno::LOOP)
}

/// Which directory is at a path, as the kernel knows it: a program or a server that keeps the files
/// of a disk mounted there is not asked.
fn id_at(path: &Path) -> Result<DirectoryId, Errno> {
    let flags = AtFlags::STATX_DONT_SYNC | AtFlags::NO_AUTOMOUNT;
    let now = statx(CWD, path, flags, StatxFlags::INO)?;
    Ok((makedev(now.stx_dev_major, now.stx_dev_minor), now.stx_ino))
}

/// The numbers of what `stat` tells of.
#[allow(clippy::useless_conversion, reason = "narrower on 32-bit targets")]
pub(crate) fn id_of(stat: &Stat) -> DirectoryId {
    (stat.st_dev.into(), stat.st_ino.into())
}

/// What the system says of something that was opened with `O_PATH`: before Linux 3.6 `fstat` refuses
/// it.
pub(crate) fn stat_path(opened: impl AsFd) -> Result<Stat, Errno> {
    statat(opened, "", AtFlags::EMPTY_PATH)
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
    /// [`walk::open`].
    Segments = 2,
}

/// Non-blocking, so that a FIFO does not hang the agent; it is refused by its kind afterwards.
const READ: OFlags =
    OFlags::RDONLY.union(OFlags::NONBLOCK).union(OFlags::NOCTTY).union(OFlags::CLOEXEC);
const BENEATH: ResolveFlags = ResolveFlags::BENEATH.union(ResolveFlags::NO_MAGICLINKS);
const RENAME_RETRIES: usize = 8;
/// Directories above one another that are looked at: as many as the longest path has, and more.
const DEPTH_MAX: usize = 4_096;
const FILESYSTEMS_MAX: usize = 16;
const FILESYSTEM_KNOWN: Duration = Duration::from_secs(60);
const EXT: u32 = 0xef53;
const XFS: u32 = 0x5846_5342;
const BTRFS: u32 = 0x9123_683e;
const F2FS: u32 = 0xf2f5_2010;
const ZFS: u32 = 0x2fc1_2fc1;
const TMPFS: u32 = 0x0102_1994;
const MSDOS: u32 = 0x4d44;
const EXFAT: u32 = 0x2011_bab0;

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
            symlink("../dir/../inside", top.join("root/dir/around")).unwrap();
            symlink("dir", top.join("root/indir")).unwrap();
            symlink("..", top.join("root/dir/up")).unwrap();
            symlink("../root/ten.txt", top.join("root/return")).unwrap();
            symlink(top.join("outside"), top.join("root/disk")).unwrap();
            symlink("../dir/inner", top.join("outside/within")).unwrap();
            symlink("secret", top.join("outside/beside")).unwrap();
            symlink("../root/ten.txt", top.join("outside/back")).unwrap();
            symlink("../outside/secret", top.join("root/out")).unwrap();
            symlink("../outside", top.join("root/outdir")).unwrap();
            symlink("/etc/passwd", top.join("root/absolute")).unwrap();
            symlink("loop", top.join("root/loop")).unwrap();
            mkfifoat(CWD, top.join("root/fifo"), Mode::RUSR).unwrap();
            Self(top)
        }

        fn root(&self, use_openat2: bool) -> Root {
            Root::open(&self.0.join("root"), use_openat2, &[]).unwrap()
        }

        fn following(&self, use_openat2: bool, into: &str) -> Root {
            Root::open(&self.0.join("root"), use_openat2, &[self.0.join(into)]).unwrap()
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
            let out = ["out", "outdir/secret", "absolute", "loop", "nope", "ten.txt/x", "return"];
            for name in out.into_iter().chain(["disk", "disk/secret", "dir/up/out", "inside/x"]) {
                assert_eq!(status(&root, name.as_bytes()), 404, "{name}");
                assert!(root.open_cached(name.as_bytes()).is_none());
            }
            let inside = [".", "ten.txt", "dir", "dir/inner", "inside", "indir", "indir/inner"];
            for name in inside.into_iter().chain(["dir/around", "dir/up", "dir/up/ten.txt"]) {
                assert_eq!(status(&root, name.as_bytes()), 200, "{name}");
                let looked_at = root.open_with(name.as_bytes(), OFlags::PATH).unwrap();
                assert_ne!(root.meta(looked_at).unwrap().kind, Kind::Other, "{name}");
            }
            assert_eq!(status(&root, &[b'a'; 300]), 404);
            let folder = root.open_folder(b"indir").unwrap();
            assert_eq!(root.meta(folder).unwrap().kind, Kind::Folder);
            assert_eq!(root.open_folder(b"inside").err(), Some(Errno::NOTDIR));
        }
    }

    #[test]
    fn links_lead_only_into_the_folders_that_the_owner_allows() {
        let tree = Tree::new("follow");
        for use_openat2 in [true, false] {
            let root = tree.following(use_openat2, "outside");
            for name in ["out", "outdir/secret", "disk/secret", "disk", "disk/beside", "inside"] {
                assert_eq!(status(&root, name.as_bytes()), 200, "{name}");
            }
            // Out of the allowed folder again, and to what is not allowed at all.
            for name in ["absolute", "disk/back", "disk/within", "loop", "return", "disk/nope"] {
                assert_eq!(status(&root, name.as_bytes()), 404, "{name}");
            }
            // A folder beside whose name begins alike is another one.
            assert_eq!(status(&tree.following(use_openat2, "outsid"), b"disk/secret"), 404);
            assert_eq!(status(&tree.following(use_openat2, "nowhere"), b"disk/secret"), 404);
        }
    }

    #[test]
    fn forty_links_are_followed_and_no_more() {
        let tree = Tree::new("links");
        symlink("dir/inner", tree.0.join("root/l0")).unwrap();
        for number in 1..41 {
            symlink(format!("l{}", number - 1), tree.0.join(format!("root/l{number}"))).unwrap();
        }
        for use_openat2 in [true, false] {
            let root = tree.root(use_openat2);
            assert!(root.open_file(b"l39").is_ok());
            assert_eq!(root.open_file(b"l40").err(), Some(Errno::LOOP));
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
            let meta = root.meta(&opened).unwrap();
            assert_eq!((meta.kind, meta.len), (Kind::File, 10));
        }
        assert!(tree.root(false).open_cached(b"ten.txt").is_none());
    }

    #[test]
    fn what_another_program_may_answer_is_opened_on_the_pool() {
        let name = b"self/status";
        let root = Root::open(Path::new("/proc"), true, &[]).unwrap();
        drop(root.open_file(name).unwrap());
        assert!(root.open_cached(name).is_none());
        // The same where it is mounted below a share.
        let root = Root::open(Path::new("/"), true, &[]).unwrap();
        drop(root.open_file(b"proc/self/status").unwrap());
        assert!(root.open_cached(b"proc/self/status").is_none());
    }

    #[test]
    fn root_must_be_a_folder() {
        let tree = Tree::new("root");
        assert!(Root::open(&tree.0.join("nope"), true, &[]).is_err());
        assert!(Root::open(&tree.0.join("root/ten.txt"), true, &[]).is_err());
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
