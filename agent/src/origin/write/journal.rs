//! Records of changes that take more than one step, so that an interrupted one is taken up or taken
//! back.
//!
//! It owns the directory [`FOLDER`] in the root of a share: one record for each upload under way,
//! made before its temporary file and removed after it, and one for a file that gets its name in
//! two steps. So the start of the program finds what a power cut left without reading the whole
//! share, and nothing at all is there while nothing is under way. A record has its name only once
//! it is whole; one that cannot be read is kept and told. All of it may block.

use std::{os::fd::OwnedFd, sync::Arc};

use rustix::{
    fs::{
        AtFlags, Dir, FlockOperation, Mode, OFlags, RenameFlags, flock, fsync, mkdirat, openat,
        renameat, renameat_with, statat, unlinkat,
    },
    io::{Errno, read, write},
};
use spdy_protocol::headers::Headers;

use super::{
    super::{
        date,
        file::{DirectoryId, Root, is_in, status_of},
    },
    place::{Conditions, Place},
};
use crate::log::{Log, Quoted};

/// What a record says.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    /// Where the upload is to go. Its temporary file lies in the same folder.
    pub(super) place: Place,
    /// Octets that it will have, if that was said.
    pub(super) total: Option<u64>,
    pub(super) conditions: Conditions,
}

/// Who an upload is: its record's name is `put-` or `part-` and this.
pub(super) type Id = String;

/// Prefix of the records of uploads that end with their request.
pub(super) const PUT: &str = "put-";
/// Prefix of the records of uploads that can be taken up again.
pub(super) const PART: &str = "part-";
/// Prefix of the records of what has its temporary name between an old name and a new one.
pub(super) const MOVE: &str = "move-";
/// Prefix of records that are being written.
const NEW: &str = "new-";

impl Entry {
    /// Writes the record `name`; [`erase`] removes it. As long as the file that it returns is open no
    /// other process takes the record for one that was left.
    pub(super) fn record(&self, name: &str) -> Result<OwnedFd, Errno> {
        let top = self.place.root.open_folder(b".")?;
        for _ in 0..TRIES {
            match mkdirat(&top, FOLDER, Mode::RWXU) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(error) => return Err(error),
            }
            match open(&self.place.root).and_then(|records| self.make(&records, name)) {
                // The last upload but this one just ended and took the directory along.
                Err(Errno::NOENT) => {}
                Err(error) => {
                    // The directory may have been made for this record alone.
                    erase(&self.place.root, name);
                    return Err(error);
                }
                made => return made,
            }
        }
        Err(Errno::AGAIN)
    }

    /// Makes a record in an open directory. Others see it when it is whole, and not before.
    fn make(&self, records: &OwnedFd, name: &str) -> Result<OwnedFd, Errno> {
        let new = format!("{NEW}{name}");
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let file = openat(records, &new, flags, Mode::RUSR | Mode::WUSR)?;
        // Some filesystems have no locks.
        let _ = flock(&file, FlockOperation::NonBlockingLockExclusive);
        let made = self.write(&file).and_then(|()| renameat(records, &new, records, name));
        if made.is_err() {
            let _ = unlinkat(records, &new, AtFlags::empty());
        }
        made.map(|()| file)
    }

    fn write(&self, file: &OwnedFd) -> Result<(), Errno> {
        let total = self.total.map(|total| total.to_string()).unwrap_or_default();
        let mut text =
            [self.place.folder.as_slice(), &self.place.name, total.as_bytes()].join(&0_u8);
        for (name, value) in self.conditions.0.iter() {
            text.extend([&b"\0"[..], name.as_bytes(), b"\0", value].concat());
        }
        let mut rest = text.as_slice();
        while !rest.is_empty() {
            match write(file, rest) {
                Ok(len) => rest = rest.get(len..).unwrap_or_default(),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error),
            }
        }
        // It must be on the disk before the temporary file is: that is what it is for.
        fsync(file)
    }

    /// Reads the record `name`; `None` if there is none.
    ///
    /// # Errors
    /// `BADMSG` for one that says nothing of use, and what the system says.
    pub(super) fn read(root: &Arc<Root>, name: &str) -> Result<Option<Self>, Errno> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = match open(root).and_then(|dir| openat(dir, name, flags, Mode::empty())) {
            Err(Errno::NOENT) => return Ok(None),
            opened => opened?,
        };
        let mut text = vec![0; RECORD_MAX];
        let len = read(&file, &mut text)?;
        Self::parse(root, &text[..len]).map(Some).ok_or(Errno::BADMSG)
    }

    fn parse(root: &Arc<Root>, text: &[u8]) -> Option<Self> {
        let mut fields = text.split(|byte| *byte == 0);
        let (folder, name) = (fields.next()?.to_vec(), fields.next()?.to_vec());
        let total = str::from_utf8(fields.next()?).ok()?;
        let total = if total.is_empty() { None } else { Some(total.parse().ok()?) };
        let mut headers = Headers::new();
        while let (Some(name), Some(value)) = (fields.next(), fields.next()) {
            headers.push(str::from_utf8(name).ok()?, value).ok()?;
        }
        let place = Place { root: root.clone(), folder, name };
        Some(Self { place, total, conditions: Conditions(headers) })
    }
}

/// The name of the temporary file of a record. The dot hides it from readers.
pub(super) fn temporary(record: &str) -> String {
    format!(".spdy-{record}")
}

/// Removes a record, and the folder of records with the last one.
pub(super) fn erase(root: &Root, name: &str) {
    if let Ok(folder) = open(root) {
        let _ = unlinkat(&folder, name, AtFlags::empty());
    }
    if let Ok(top) = root.open_folder(b".") {
        // Fails while there are others.
        let _ = unlinkat(&top, FOLDER, AtFlags::REMOVEDIR);
    }
}

/// Removes what is left of uploads that ended with a former process, and of those that nobody took
/// up again for [`KEPT`]; finishes changes of names. Looks at [`RECORDS_MAX`] records at most.
pub(crate) fn sweep(root: &Arc<Root>, now: i64, log: &Log) {
    settle_unwritten(root);
    let looked = each(root, |name, read| match read {
        Err(error) => log.warn(format_args!(
            "event=upload_record_unreadable record={FOLDER}/{name} error={} action=\"kept\"",
            Quoted(&error.to_string())
        )),
        Ok(_) if is_held(root, name) => {}
        Ok(entry) if name.starts_with(MOVE) => finish_move(&entry, name),
        Ok(entry) if name.starts_with(PUT) || is_expired(&entry, name, now) => {
            discard(&entry, name, now);
        }
        Ok(_) => {}
    });
    if let Err(error) = looked {
        log.warn(format_args!(
            "event=upload_records_unreadable error={} action=\"kept\"",
            Quoted(&error.to_string())
        ));
    }
}

/// Makes room for one more upload that can be taken up again: removes those that nobody did for
/// [`KEPT`] and tells how many are left.
///
/// # Errors
/// What keeps us from knowing.
pub(super) fn count_parts(root: &Arc<Root>, now: i64) -> Result<usize, Errno> {
    let mut count = 0;
    each(root, |name, read| match read {
        Ok(entry) if name.starts_with(PART) && is_expired(&entry, name, now) => {
            discard(&entry, name, now);
        }
        // Whatever it says, it is one.
        _ if name.starts_with(PART) => count += 1,
        _ => {}
    })?;
    Ok(count)
}

/// Whether an upload that is not whole lies in a directory or below it.
///
/// # Errors
/// What keeps us from knowing, such as that no descriptor is left.
pub(super) fn has_below(root: &Arc<Root>, directory: DirectoryId) -> Result<bool, Errno> {
    let mut found = Ok(false);
    each(root, |_, read| {
        if found == Ok(false) {
            found =
                read.and_then(|entry| is_below(&entry, directory)).or_else(|error| match error {
                    // Nothing can find what it tells of.
                    Errno::BADMSG => Ok(false),
                    error => Err(error),
                });
        }
    })?;
    found
}

fn is_below(entry: &Entry, directory: DirectoryId) -> Result<bool, Errno> {
    match entry.place.root.open_folder(&entry.place.folder) {
        Ok(folder) => is_in(&folder, directory),
        // What cannot be reached has nothing to lose by another name.
        Err(error) if matches!(status_of(error), 403 | 404) => Ok(false),
        Err(error) => Err(error),
    }
}

fn each(root: &Arc<Root>, mut work: impl FnMut(&str, Result<Entry, Errno>)) -> Result<(), Errno> {
    let entries = match open(root).and_then(Dir::read_from) {
        // There are none.
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(()),
        entries => entries?,
    };
    for entry in entries.take(RECORDS_MAX) {
        let entry = entry?;
        let Ok(name) = entry.file_name().to_str() else { continue };
        if ![PUT, PART, MOVE].iter().any(|kind| name.starts_with(kind)) {
            continue;
        }
        // Whoever finishes removes its own.
        if let Some(read) = Entry::read(root, name).transpose() {
            work(name, read);
        }
    }
    Ok(())
}

/// Settles records that nobody writes any more. One that is whole was about to get its name: whether
/// its temporary file was made before the power went, only a filesystem that keeps the order of
/// changes can say. The others come to nothing, for they were told to nobody.
fn settle_unwritten(root: &Arc<Root>) {
    let Ok(records) = open(root) else { return };
    let Ok(entries) = Dir::read_from(&records) else { return };
    for entry in entries.take(RECORDS_MAX).flatten() {
        let new = entry.file_name().to_str().ok();
        let Some((new, name)) = new.and_then(|new| Some((new, new.strip_prefix(NEW)?))) else {
            continue;
        };
        if is_held(root, new) {
            continue;
        }
        let named = match Entry::read(root, new) {
            Ok(Some(_)) => renameat(&records, new, &records, name),
            _ => Err(Errno::BADMSG),
        };
        if named.is_err() {
            erase(root, new);
        }
    }
}

/// Whether somebody works with what a record tells of.
fn is_held(root: &Root, name: &str) -> bool {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let opened = open(root).and_then(|records| openat(records, name, flags, Mode::empty()));
    opened.is_ok_and(|record| {
        flock(record, FlockOperation::NonBlockingLockExclusive) == Err(Errno::WOULDBLOCK)
    })
}

/// Gives what a change of names left under its temporary name the new one; beside something else of
/// that name, one like it.
fn finish_move(entry: &Entry, name: &str) {
    let finished = entry.place.root.open_folder(&entry.place.folder).and_then(|folder| {
        let temporary = temporary(name);
        let mut wanted = entry.place.name.clone();
        for _ in 0..2 {
            let flags = RenameFlags::NOREPLACE;
            match renameat_with(&folder, &temporary, &folder, &*wanted, flags) {
                Err(Errno::EXIST) => wanted.extend_from_slice(&name.as_bytes()[MOVE.len()..]),
                Err(Errno::INVAL | Errno::NOSYS) => {
                    return renameat(&folder, &temporary, &folder, &*wanted);
                }
                renamed => return renamed,
            }
        }
        Err(Errno::EXIST)
    });
    // It is not there: it has its name.
    if matches!(finished, Ok(()) | Err(Errno::NOENT)) {
        erase(&entry.place.root, name);
    }
}

/// Removes temporary file and record, unless another process writes the file. A record whose file is
/// not there stays until it is too old: the file may be on a disk that comes later.
fn discard(entry: &Entry, name: &str, now: i64) {
    let is_expired = is_expired(entry, name, now);
    let removed = entry.place.root.open_folder(&entry.place.folder).and_then(|folder| {
        let temporary = temporary(name);
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        if let Ok(file) = openat(&folder, &temporary, flags, Mode::empty())
            && flock(file, FlockOperation::NonBlockingLockExclusive) == Err(Errno::WOULDBLOCK)
        {
            return Ok(false);
        }
        unlinkat(&folder, &temporary, AtFlags::empty()).map(|()| true)
    });
    if removed.unwrap_or(is_expired) {
        erase(&entry.place.root, name);
    }
}

/// Whether nobody has written to an upload for [`KEPT`]. Without a plausible clock nothing is too
/// old.
fn is_expired(entry: &Entry, name: &str, now: i64) -> bool {
    let root = &entry.place.root;
    let part = root
        .open_folder(&entry.place.folder)
        .and_then(|folder| statat(folder, temporary(name), AtFlags::SYMLINK_NOFOLLOW));
    let stat = part.or_else(|_| statat(open(root)?, name, AtFlags::SYMLINK_NOFOLLOW));
    #[allow(clippy::useless_conversion, reason = "narrower on 32-bit targets")]
    let at = stat.map_or(now, |stat| stat.st_mtime.into());
    date::is_plausible(now) && now.saturating_sub(at) > KEPT
}

fn open(root: &Root) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(root.open_folder(b".")?, FOLDER, flags, Mode::empty())
}

/// Seconds that an upload waits to be taken up again: a week.
pub(super) const KEPT: i64 = 7 * 86_400;
/// Uploads of one share that wait to be taken up again.
pub(super) const PARTS_MAX: usize = 64;
const FOLDER: &str = ".spdy-uploads";
const RECORDS_MAX: usize = 1_024;
/// Octets of a record: a path and three headers at their longest.
const RECORD_MAX: usize = 96 << 10;
/// Times that the folder of records may go away between making and using it.
const TRIES: usize = 16;
