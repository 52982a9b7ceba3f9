//! A file that comes in.
//!
//! It owns the temporary file in the folder of the target, which takes the target's name only when
//! everything arrived and is on the disk. Whatever happens before leaves the old file as it was
//! and nothing else behind, unless the upload is to be taken up again.

use std::{os::fd::OwnedFd, sync::Arc};

use ring::rand::{SecureRandom, SystemRandom};
use rustix::{
    fs::{AtFlags, FlockOperation, Mode, OFlags, fchmod, flock, fsync, openat, unlinkat},
    io::Errno,
};
use spdy_protocol::digits::HEX;

use super::{
    super::conditional::Validators,
    Problem,
    journal::{self, Entry, Id, PART, PUT},
    place::{Coordination, FAILED, REPLACED, Spot, Thing, now, sync},
    receive::Sink,
    room::Promise,
};
use crate::pool::Pool;

/// An upload under way. Dropping it settles what becomes of the temporary file; that blocks, so it
/// is dropped on the pool where there is still time for that.
#[derive(Debug)]
pub(super) struct Upload {
    pub(super) file: Arc<OwnedFd>,
    pub(super) entry: Entry,
    spot: Spot,
    record: String,
    /// Whether the record could be written.
    has_record: bool,
    /// The record, held so that no other process takes the upload for one that was left.
    held: Option<OwnedFd>,
    /// What it may write, until its sink has it.
    promise: Option<Promise>,
    fate: Fate,
}

/// What becomes of the temporary file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// It is removed.
    Removed,
    /// It waits for its rest.
    Kept,
    /// It has become the target.
    Renamed,
}

/// An upload that has become its target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Committed {
    /// Whether there was a file of this name.
    pub(super) replaced: bool,
    /// Strong entity tag. A file that changed within the last seconds has none: another program
    /// could change it again without a difference in its times.
    pub(super) etag: Option<String>,
}

impl Upload {
    /// Blocks. Looks at the target and makes the temporary file for `len` bytes, if they fit.
    pub(super) fn begin(
        entry: Entry,
        len: u64,
        coordination: &Coordination,
        key: u64,
    ) -> Result<Self, Problem> {
        let record = format!("{PUT}{}", HEX.encode(&random()?));
        Self::make(entry, record, len, coordination, key)
    }

    /// Blocks. The same for one that can be taken up again.
    pub(super) fn begin_part(
        entry: Entry,
        id: &Id,
        len: u64,
        coordination: &Coordination,
        key: u64,
    ) -> Result<Self, Problem> {
        if journal::count_parts(&entry.place.root, now())? >= journal::PARTS_MAX {
            return Err(Problem::new(507, "Too many uploads of this share are unfinished."));
        }
        let upload = Self::make(entry, format!("{PART}{id}"), len, coordination, key)?;
        if upload.has_record {
            return Ok(upload);
        }
        Err(Problem::new(403, "The agent may not write to the root of this share."))
    }

    fn make(
        entry: Entry,
        record: String,
        len: u64,
        coordination: &Coordination,
        key: u64,
    ) -> Result<Self, Problem> {
        // The record names the directory by its path: that must not change before it is there.
        let share = entry.place.root.id();
        coordination
            .keep_directories(share, || Self::make_here(entry, record, len, coordination, key))
    }

    fn make_here(
        entry: Entry,
        record: String,
        len: u64,
        coordination: &Coordination,
        key: u64,
    ) -> Result<Self, Problem> {
        let spot = entry.place.clone().open()?;
        spot.look_for_upload(&entry.conditions, key)?;
        let mut promise = coordination.room.at(&spot.folder)?;
        promise.reserve(&spot.folder, len)?;
        let promise = Some(promise);
        let held = match entry.record(&record) {
            Ok(held) => Some(held),
            // A root that the agent may not write to, or that has something else in the place of
            // the records, does not forbid the folders below it; only the sweep after a power cut
            // is lost.
            Err(Errno::ACCESS | Errno::PERM | Errno::ROFS | Errno::NOTDIR | Errno::LOOP) => None,
            Err(error) => return Err(error.into()),
        };
        let has_record = held.is_some();
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let temporary = journal::temporary(&record);
        match openat(&spot.folder, &temporary, flags | OFlags::APPEND, MODE) {
            Ok(file) => {
                let file = Arc::new(file);
                let fate = Fate::Removed;
                let upload = Self { file, entry, spot, record, has_record, held, promise, fate };
                lock(&upload.file)?;
                upload.spot.root.give(&upload.file);
                Ok(upload)
            }
            Err(error) => {
                if has_record {
                    journal::erase(&entry.place.root, &record);
                }
                Err(error.into())
            }
        }
    }

    /// Where its bytes go, behind `len` that are there; it may grow to `limit`.
    pub(super) fn sink<'a>(&mut self, pool: &'a Pool, len: u64, limit: Option<u64>) -> Sink<'a> {
        Sink::new(pool, self.file.clone(), self.promise.take(), len, limit)
    }

    /// Blocks. Sees to it that `len` more bytes fit, and promises them.
    pub(super) fn reserve(&mut self, len: u64) -> Result<(), Errno> {
        match &mut self.promise {
            Some(promise) => promise.reserve(&self.file, len),
            None => Ok(()),
        }
    }

    /// Blocks. Takes up an upload; `None` if there is none.
    ///
    /// # Errors
    /// [`WRITTEN_TO`] while another process or a request that was just given up writes to it, and
    /// whatever keeps us from knowing.
    pub(super) fn resume(
        entry: Entry,
        id: &Id,
        coordination: &Coordination,
    ) -> Result<Option<Self>, Problem> {
        let record = format!("{PART}{id}");
        let spot = match entry.place.clone().open() {
            Err(problem) if problem.status == 409 => return Ok(None),
            spot => spot?,
        };
        let flags = OFlags::WRONLY | OFlags::APPEND | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = match openat(&spot.folder, journal::temporary(&record), flags, Mode::empty()) {
            Err(Errno::NOENT) => return Ok(None),
            opened => opened?,
        };
        lock(&file).map_err(|_| WRITTEN_TO)?;
        let promise = Some(coordination.room.at(&file)?);
        let (file, has_record, fate) = (Arc::new(file), true, Fate::Kept);
        Ok(Some(Self { file, entry, spot, record, has_record, held: None, promise, fate }))
    }

    /// Blocks. Gives the file its name once it is on the disk, if the conditions still hold.
    pub(super) fn commit(
        &mut self,
        coordination: &Coordination,
        key: u64,
    ) -> Result<Committed, Problem> {
        if let Some(Thing::File(old)) = self.spot.look()? {
            // Best effort: who may write the folder need not own the old file.
            let _ = fchmod(&self.file, Mode::from_bits_truncate(old.mode & 0o777));
        }
        fsync(&self.file)?;
        let device = self.spot.device()?;
        let replaced = coordination.with_names(device, || self.take_name(key))?;
        sync(&self.spot.folder);
        let meta = self.spot.root.meta(&self.file).ok();
        let etag = meta.and_then(|meta| Validators::of(&meta, now(), key).etag);
        Ok(Committed { replaced, etag })
    }

    /// Whether a file of the name was there.
    fn take_name(&mut self, key: u64) -> Result<bool, Problem> {
        // It took its time, in which a disk may have been mounted over the directory.
        if !self.entry.place.leads_to(&self.spot.folder) {
            return Err(REPLACED);
        }
        let conditions = &self.entry.conditions;
        let replaced = self.spot.look_for_upload(conditions, key)?.is_some();
        let temporary = journal::temporary(&self.record);
        let replace = !conditions.must_be_new();
        self.spot.take(&self.spot.folder, temporary.as_bytes(), replace).map_err(|error| {
            match error {
                Errno::EXIST => FAILED,
                // Some filesystems take fewer names than others.
                Errno::INVAL | Errno::ILSEQ => Problem::new(400, "The disk takes no such name."),
                Errno::ISDIR => Problem::new(409, "There is a folder of this name."),
                error => error.into(),
            }
        })?;
        self.fate = Fate::Renamed;
        Ok(replaced)
    }

    /// Blocks. The temporary file stays for who takes the upload up again, as it is on the disk.
    pub(super) fn keep(&mut self) -> Result<(), Errno> {
        self.fate = Fate::Kept;
        fsync(&self.file)
    }

    /// The temporary file does not stay.
    pub(super) fn discard(mut self) {
        self.fate = Fate::Removed;
    }

    /// Octets that have arrived.
    pub(super) fn len(&self) -> Result<u64, Errno> {
        self.spot.root.meta(&self.file).map(|meta| meta.len)
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        if self.fate == Fate::Removed {
            let temporary = journal::temporary(&self.record);
            let _ = unlinkat(&self.spot.folder, temporary, AtFlags::empty());
        }
        // First: some filesystems keep what is removed while it is open under another name.
        drop(self.held.take());
        if self.fate != Fate::Kept && self.has_record {
            journal::erase(&self.spot.root, &self.record);
        }
    }
}

/// 128 random bits.
pub(super) fn random() -> Result<[u8; 16], Problem> {
    let mut random = [0; 16];
    let filled = SystemRandom::new().fill(&mut random);
    filled.map_err(|_| Problem::new(500, "The system has no random numbers."))?;
    Ok(random)
}

/// As long as the file is open nobody sweeps it, not another process either.
fn lock(file: &OwnedFd) -> Result<(), Errno> {
    match flock(file, FlockOperation::NonBlockingLockExclusive) {
        Err(Errno::WOULDBLOCK) => Err(Errno::AGAIN),
        // A filesystem without locks.
        _ => Ok(()),
    }
}

pub(super) const WRITTEN_TO: Problem =
    Problem::new(503, "Another request still writes to this upload.");
const MODE: Mode = Mode::from_bits_truncate(0o666);

#[cfg(test)]
mod tests {
    use std::{fs, sync::Barrier, thread, time::SystemTime};

    use super::{
        super::{
            super::file::Root,
            place::{Conditions, Place},
        },
        *,
    };

    #[test]
    fn of_two_that_replace_the_same_file_one_comes_too_late() {
        let name = format!("spdy-agent-upload-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        let _ = fs::remove_dir_all(&path);
        fs::create_dir(&path).unwrap();
        let root = Arc::new(Root::open(&path, true, &[]).unwrap());
        let mut conditions = Conditions::default();
        conditions.0.push("if-unmodified-since", b"Thu, 01 Jan 1970 00:00:00 GMT").unwrap();
        let place = Place { root, folder: b".".to_vec(), name: b"a".to_vec() };
        let entry = Entry { place, total: None, conditions };
        let (coordination, barrier) = (Coordination::default(), Barrier::new(2));
        for _ in 0..200 {
            let old = fs::File::create(path.join("a")).unwrap();
            old.set_modified(SystemTime::UNIX_EPOCH).unwrap();
            let commit = || {
                let mut upload = Upload::begin(entry.clone(), 0, &coordination, 0).unwrap();
                barrier.wait();
                upload.commit(&coordination, 0).map(|committed| committed.replaced)
            };
            let (one, other) = thread::scope(|scope| {
                let other = scope.spawn(commit);
                (commit(), other.join().unwrap())
            });
            assert!(one.is_ok() != other.is_ok(), "{one:?} {other:?}");
            assert_eq!(one.and(other), Err(FAILED));
        }
        assert_eq!(fs::read_dir(&path).unwrap().count(), 1);
        fs::remove_dir_all(&path).unwrap();
    }
}
