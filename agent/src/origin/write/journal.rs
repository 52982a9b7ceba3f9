//! What is told of uploads under way, so that those that nobody finishes do not stay for ever.
//!
//! It owns the folder [`FOLDER`] in the root of a share: one record for each upload under way, made
//! before its temporary file and removed after it. So the start of the program finds what a power
//! cut left without reading the whole share, and nothing at all is there while nothing is under
//! way. All of it may block.

use std::{os::fd::OwnedFd, sync::Arc};

use rustix::{
    fs::{
        AtFlags, Dir, FlockOperation, Mode, OFlags, flock, fsync, mkdirat, openat, statat, unlinkat,
    },
    io::{Errno, read, write},
};
use spdy_protocol::headers::Headers;

use super::{
    super::{date, file::Root},
    place::{Conditions, Place},
};

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

impl Entry {
    /// Writes the record `name`; [`Entry::erase`] removes it.
    pub(super) fn record(&self, name: &str) -> Result<(), Errno> {
        let top = self.place.root.open_folder(b".")?;
        for _ in 0..TRIES {
            match mkdirat(&top, FOLDER, Mode::RWXU) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(error) => return Err(error),
            }
            let made = open(&self.place.root).and_then(|folder| {
                let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
                openat(&folder, name, flags, Mode::RUSR | Mode::WUSR)
            });
            match made {
                // The last upload but this one just ended and took the folder along.
                Err(Errno::NOENT) => {}
                Err(error) => return Err(error),
                Ok(file) => {
                    let written = self.write(&file);
                    if written.is_err() {
                        erase(&self.place.root, name);
                    }
                    return written;
                }
            }
        }
        Err(Errno::AGAIN)
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

    /// Reads the record `name`; `None` if there is none or it is not whole.
    pub(super) fn read(root: &Arc<Root>, name: &str) -> Option<Self> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = openat(open(root).ok()?, name, flags, Mode::empty()).ok()?;
        let mut text = vec![0; RECORD_MAX];
        let len = read(&file, &mut text).ok()?;
        let mut fields = text[..len].split(|octet| *octet == 0);
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
/// up again for [`KEPT`]. Looks at [`RECORDS_MAX`] records at most.
pub(crate) fn sweep(root: &Arc<Root>, now: i64) {
    each(root, |name, entry| {
        let is_left = name.starts_with(PUT) || is_expired(&entry, name, now);
        if is_left {
            discard(&entry, name, now);
        }
    });
}

/// Makes room for one more upload that can be taken up again: removes those that nobody did for
/// [`KEPT`] and tells how many are left.
pub(super) fn count_parts(root: &Arc<Root>, now: i64) -> usize {
    let mut count = 0;
    each(root, |name, entry| {
        if name.starts_with(PART) {
            if is_expired(&entry, name, now) {
                discard(&entry, name, now);
            } else {
                count += 1;
            }
        }
    });
    count
}

fn each(root: &Arc<Root>, mut work: impl FnMut(&str, Entry)) {
    let Ok(entries) = open(root).and_then(Dir::read_from) else { return };
    for entry in entries.take(RECORDS_MAX).flatten() {
        let Ok(name) = entry.file_name().to_str() else { continue };
        if !name.starts_with(PUT) && !name.starts_with(PART) {
            continue;
        }
        match Entry::read(root, name) {
            Some(entry) => work(name, entry),
            // Its temporary file was to come after it.
            None => erase(root, name),
        }
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
