//! A name in an open folder: where something is, or is to be.
//!
//! It owns which names may be made, what stands under a name now, and renaming. Everything is done
//! on (folder, name), so that nothing leads elsewhere when a folder above is replaced. All of it
//! may block.

use std::{
    os::fd::OwnedFd,
    sync::{Arc, Mutex, PoisonError, RwLock},
};

use rustix::{
    fs::{
        AtFlags, FileType, Mode, OFlags, RenameFlags, fstat, fsync, openat, renameat,
        renameat_with, statat,
    },
    io::Errno,
};
use spdy_protocol::headers::Headers;

use super::{
    super::{
        conditional::{Validators, Verdict, evaluate},
        date,
        file::{Belonging, DirectoryId, Kind, Meta, Root, id_of, stat_path},
        path::Target,
        share::Share,
    },
    Problem,
    room::Room,
};

/// What keeps changes apart that would undo one another, of all shares and for as long as the
/// agent runs. Each disk and each share has locks of its own: a disk that hangs while one is held
/// keeps only its own changes.
#[derive(Debug, Default)]
pub(super) struct Coordination {
    /// By device, held while a name is looked at and changed. No rename leaves a device.
    names: Locks<u64, Mutex<()>>,
    /// By the directory of a share, shared while an upload to it begins, exclusive while a directory
    /// below it may get another name.
    directories: Locks<DirectoryId, RwLock<()>>,
    pub(super) room: Room,
}

/// Locks by what they are for; there are only those that somebody has.
#[derive(Debug)]
struct Locks<K, L>(Mutex<Vec<(K, Arc<L>)>>);

impl<K, L> Default for Locks<K, L> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: PartialEq, L: Default> Locks<K, L> {
    fn of(&self, key: K) -> Arc<L> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|(_, lock)| Arc::strong_count(lock) > 1);
        if let Some((_, lock)) = known.iter().find(|(other, _)| *other == key) {
            return Arc::clone(lock);
        }
        let lock = Arc::<L>::default();
        known.push((key, Arc::clone(&lock)));
        lock
    }
}

/// A place before its folder was opened.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) root: Arc<Root>,
    /// The folder, below the root.
    pub(super) folder: Vec<u8>,
    pub(super) name: Vec<u8>,
}

/// A name in an open folder.
#[derive(Debug)]
pub(super) struct Spot {
    pub(super) root: Arc<Root>,
    pub(super) folder: OwnedFd,
    pub(super) name: Vec<u8>,
}

/// What stands under a name; links are not followed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Thing {
    File(Meta),
    Folder,
    Link,
}

/// The preconditions of a request, which may have to hold twice: when it comes and when it is done.
#[derive(Clone, Debug, Default)]
pub(super) struct Conditions(pub(super) Headers);

impl Place {
    pub(super) fn of(share: &Share, target: &Target) -> Result<Self, Problem> {
        let whole = Problem::new(403, "The share itself cannot be changed.");
        let (folder, name) = target.split().ok_or(whole)?;
        Ok(Self { root: share.root.clone(), folder: folder.to_vec(), name: name.to_vec() })
    }

    /// Whether the path of this place still leads to an open directory: not after a disk was mounted
    /// over it or above it, nor after somebody else gave one of them another name.
    pub(super) fn leads_to(&self, directory: &OwnedFd) -> bool {
        let id = |directory: &OwnedFd| fstat(directory).map(|stat| id_of(&stat));
        let there = self.root.open_folder(&self.folder).and_then(|there| id(&there));
        self.root.is_current() && there.is_ok() && there == id(directory)
    }

    /// Opens the directory of something that is to be: 409 without it.
    ///
    /// # Errors
    /// Also where a change would not be the share's: its path leads to another directory than the
    /// one that is open, or the place is another share's or outside.
    pub(super) fn open(self) -> Result<Spot, Problem> {
        if !self.root.is_current() {
            return Err(REPLACED);
        }
        let folder = self.root.open_folder(&self.folder).map_err(|error| match error {
            Errno::NOENT | Errno::NOTDIR => Problem::new(409, "There is no such folder."),
            error => error.into(),
        })?;
        match self.root.belonging(&folder)? {
            Belonging::Own => Ok(Spot { root: self.root, folder, name: self.name }),
            Belonging::ReadOnly => Err(Problem::new(403, "This folder is in a read-only share.")),
            Belonging::Outside => {
                Err(Problem::new(403, "A link leads out of the share here: it is read-only."))
            }
        }
    }

    /// Opens the folder of something that must be there: 404 without it.
    pub(super) fn open_existing(self) -> Result<Spot, Problem> {
        self.open().map_err(|problem| if problem.status == 409 { NOTHING } else { problem })
    }
}

impl Spot {
    /// The device of the directory.
    pub(super) fn device(&self) -> Result<u64, Errno> {
        fstat(&self.folder).map(|stat| id_of(&stat).0)
    }

    /// Which directory stands there.
    pub(super) fn id(&self) -> Result<DirectoryId, Errno> {
        statat(&self.folder, &*self.name, AtFlags::SYMLINK_NOFOLLOW).map(|stat| id_of(&stat))
    }

    /// What stands there; 404 for what is neither file, folder nor link.
    pub(super) fn look(&self) -> Result<Option<Thing>, Problem> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let opened = match openat(&self.folder, self.name.as_slice(), flags, Mode::empty()) {
            Ok(opened) => opened,
            Err(Errno::NOENT | Errno::NAMETOOLONG) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let stat = stat_path(&opened)?;
        if FileType::from_raw_mode(stat.st_mode) == FileType::Symlink {
            return Ok(Some(Thing::Link));
        }
        let meta = self.root.meta_of(&opened, &stat);
        match meta.kind {
            Kind::File => Ok(Some(Thing::File(meta))),
            Kind::Folder => Ok(Some(Thing::Folder)),
            Kind::Other => Err(NOTHING),
        }
    }

    /// The file that an upload replaces, if there is one; refuses what cannot be replaced, names
    /// that cannot be made, and what the conditions exclude.
    pub(super) fn look_for_upload(
        &self,
        conditions: &Conditions,
        key: u64,
    ) -> Result<Option<Meta>, Problem> {
        let found = self.look()?;
        conditions.check(found.as_ref(), key)?;
        match found {
            None => check_new(&self.name).map(|()| None),
            Some(Thing::File(meta)) => Ok(Some(meta)),
            Some(Thing::Folder) => Err(Problem::new(409, "There is a folder of this name.")),
            Some(Thing::Link) => Err(LINK),
        }
    }

    /// Gives something of this folder or another the name of this spot. Unless `replace`, nothing
    /// that is there is replaced, where the filesystem can see to that.
    pub(super) fn take(&self, from: &OwnedFd, name: &[u8], replace: bool) -> Result<(), Errno> {
        let own = self.name.as_slice();
        if !replace {
            match renameat_with(from, name, &self.folder, own, RenameFlags::NOREPLACE) {
                // Not on this filesystem, or senseless: the plain call tells.
                Err(Errno::INVAL | Errno::NOSYS) if !matches!(self.look(), Ok(Some(_))) => {}
                Err(Errno::INVAL | Errno::NOSYS) => return Err(Errno::EXIST),
                renamed => return renamed,
            }
        }
        renameat(from, name, &self.folder, own)
    }
}

impl Conditions {
    pub(super) fn of(headers: &Headers) -> Self {
        let mut own = Headers::new();
        for name in NAMES {
            for value in headers.get_all(name) {
                // It was carried once.
                let _ = own.push(name, value);
            }
        }
        Self(own)
    }

    /// That nothing is there yet.
    pub(super) fn new_only() -> Self {
        let mut own = Headers::new();
        let _ = own.push("if-none-match", b"*");
        Self(own)
    }

    pub(super) fn must_be_new(&self) -> bool {
        self.0.get("if-none-match").is_some_and(|tags| tags.trim_ascii() == b"*")
    }

    /// 412 if they do not hold.
    pub(super) fn check(&self, found: Option<&Thing>, key: u64) -> Result<(), Problem> {
        let now = now();
        let current = found.map(|thing| match thing {
            Thing::File(meta) => Validators::of(meta, now, key),
            Thing::Folder | Thing::Link => Validators::default(),
        });
        match evaluate(&self.0, false, current.as_ref(), now) {
            Verdict::Failed => Err(FAILED),
            _ => Ok(()),
        }
    }
}

/// Whether something new may have this name.
pub(super) fn check_new(name: &[u8]) -> Result<(), Problem> {
    if name.len() > NAME_MAX {
        return Err(Problem::new(400, "The name is longer than 255 octets."));
    }
    if name.iter().any(u8::is_ascii_control) {
        return Err(Problem::new(400, "The name holds control characters."));
    }
    Ok(())
}

/// Puts a change of a folder on the disk. A filesystem that cannot does not undo the change.
pub(super) fn sync(folder: &OwnedFd) {
    let _ = fsync(folder);
}

impl Coordination {
    /// Runs `change` while nothing else of ours changes a name on a device ([`Spot::device`]): what
    /// was looked at is what is changed.
    pub(super) fn with_names<T>(&self, device: u64, change: impl FnOnce() -> T) -> T {
        let names = self.names.of(device);
        let _names = names.lock().unwrap_or_else(PoisonError::into_inner);
        change()
    }

    /// Runs `begin` while no directory of a share gets another name.
    pub(super) fn keep_directories<T>(&self, share: DirectoryId, begin: impl FnOnce() -> T) -> T {
        let directories = self.directories.of(share);
        let _directories = directories.read().unwrap_or_else(PoisonError::into_inner);
        begin()
    }

    /// Runs `rename` while no upload to these shares begins: directories may get other names.
    pub(super) fn move_directories<T>(
        &self,
        mut shares: Vec<DirectoryId>,
        rename: impl FnOnce() -> T,
    ) -> T {
        // Whoever locks several locks them in this order.
        shares.sort_unstable();
        shares.dedup();
        let locks: Vec<_> = shares.into_iter().map(|share| self.directories.of(share)).collect();
        let held = locks.iter().map(|lock| lock.write().unwrap_or_else(PoisonError::into_inner));
        let _held: Vec<_> = held.collect();
        rename()
    }
}

pub(super) fn now() -> i64 {
    date::seconds(std::time::SystemTime::now())
}

pub(super) const NOTHING: Problem = Problem::new(404, "There is nothing of this name.");
/// The client asks again when the agent has looked at the directories.
pub(super) const REPLACED: Problem =
    Problem::new(503, "The disk of this share has just been changed.");
pub(super) const LINK: Problem = Problem::new(409, "There is a link of this name.");
pub(super) const FAILED: Problem =
    Problem::new(412, "What is there is not what the request expects.");
const NAMES: [&str; 3] = ["if-match", "if-none-match", "if-unmodified-since"];
/// Octets of a name, as Linux has it.
const NAME_MAX: usize = 255;
