//! The free space of disks, as far as uploads may still fill it.
//!
//! It owns what is promised: bytes that an upload may write without asking again are kept from all
//! others, so that many uploads side by side leave a disk the reserve that each of them would leave
//! alone. All of it may block.

use std::{
    os::fd::OwnedFd,
    sync::{Arc, Mutex, PoisonError},
};

use rustix::{
    fs::{fstat, fstatvfs},
    io::Errno,
};

/// What is promised on each disk.
#[derive(Debug, Default)]
pub(super) struct Room {
    /// By device. Each has a lock of its own, which is held while the disk is asked: one that
    /// hangs keeps only its own uploads.
    disks: Mutex<Vec<(u64, Arc<Mutex<u64>>)>>,
}

/// Bytes that one upload may still write. They are given back when it is dropped.
#[derive(Debug)]
pub(super) struct Promise {
    /// Bytes promised to all uploads on this disk.
    disk: Arc<Mutex<u64>>,
    left: u64,
}

impl Room {
    /// A promise of nothing on the disk of an open file or directory.
    #[allow(clippy::useless_conversion, reason = "narrower on 32-bit targets")]
    pub(super) fn at(&self, file: &OwnedFd) -> Result<Promise, Errno> {
        let device = u64::from(fstat(file)?.st_dev);
        let mut disks = self.disks.lock().unwrap_or_else(PoisonError::into_inner);
        // Nobody has a promise on them, or is about to get one.
        disks.retain(|(_, disk)| Arc::strong_count(disk) > 1);
        let known = disks.iter().find(|(known, _)| *known == device);
        let disk = known.map_or_else(Arc::default, |(_, disk)| Arc::clone(disk));
        if known.is_none() {
            disks.push((device, Arc::clone(&disk)));
        }
        Ok(Promise { disk, left: 0 })
    }
}

impl Promise {
    /// Promises `len` bytes more. `at` is on the disk.
    ///
    /// # Errors
    /// `NOSPC`: with what is promised already they would not leave the reserve.
    pub(super) fn reserve(&mut self, at: &OwnedFd, len: u64) -> Result<(), Errno> {
        self.grow(at, len, len)
    }

    /// Sees to it that `len` bytes may be written, and more beyond them where there is room.
    ///
    /// # Errors
    /// `NOSPC`: they would not leave the reserve.
    pub(super) fn extend(&mut self, at: &OwnedFd, len: u64) -> Result<(), Errno> {
        let missing = len.saturating_sub(self.left);
        if missing == 0 {
            return Ok(());
        }
        self.grow(at, missing, missing.max(STEP))
    }

    /// `len` bytes are on the disk, which counts them itself from now on.
    pub(super) fn spend(&mut self, len: u64) {
        let len = len.min(self.left);
        self.left -= len;
        let mut promised = self.disk.lock().unwrap_or_else(PoisonError::into_inner);
        *promised = promised.saturating_sub(len);
    }

    /// Promises `most` bytes or, by halves, fewer, at least `least`.
    fn grow(&mut self, at: &OwnedFd, least: u64, most: u64) -> Result<(), Errno> {
        if least == 0 {
            return Ok(());
        }
        let mut promised = self.disk.lock().unwrap_or_else(PoisonError::into_inner);
        let free = free(at);
        let mut len = most;
        // A filesystem that cannot say is written to until it is full.
        while free.is_some_and(|free| free < promised.saturating_add(len)) {
            if len == least {
                return Err(Errno::NOSPC);
            }
            len = (len / 2).max(least);
        }
        *promised = promised.saturating_add(len);
        self.left = self.left.saturating_add(len);
        Ok(())
    }
}

impl Drop for Promise {
    fn drop(&mut self) {
        self.spend(self.left);
    }
}

/// Bytes that may be written so that the reserve is left.
fn free(at: &OwnedFd) -> Option<u64> {
    let stat = fstatvfs(at).ok()?;
    let bytes = |blocks: u64| blocks.saturating_mul(stat.f_frsize);
    if stat.f_blocks == 0 {
        return None;
    }
    let reserve = RESERVE.min(bytes(stat.f_blocks) / 100);
    Some(bytes(stat.f_bavail).saturating_sub(reserve))
}

/// Bytes that uploads leave free on a disk; a hundredth of a disk below 6.4 GB.
const RESERVE: u64 = 64 << 20;
/// Bytes that an upload of unknown length is promised at a time.
const STEP: u64 = 8 << 20;

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    #[test]
    fn promises_of_all_uploads_count_together() {
        let room = Room::default();
        let at = OwnedFd::from(File::open(std::env::temp_dir()).unwrap());
        let mut one = room.at(&at).unwrap();
        // Others use the disk of the tests meanwhile: half of what is free, twice, and some more.
        let half = free(&at).unwrap() / 2;
        one.reserve(&at, half).unwrap();
        let mut other = room.at(&at).unwrap();
        assert_eq!(other.reserve(&at, half + half / 2), Err(Errno::NOSPC));
        other.reserve(&at, half / 2).unwrap();
        assert_eq!(room.at(&at).unwrap().reserve(&at, half), Err(Errno::NOSPC));
        drop(one);
        room.at(&at).unwrap().reserve(&at, half).unwrap();
    }

    #[test]
    fn what_was_written_is_promised_no_more() {
        let room = Room::default();
        let at = OwnedFd::from(File::open(std::env::temp_dir()).unwrap());
        let mut promise = room.at(&at).unwrap();
        promise.extend(&at, 10).unwrap();
        assert_eq!(promise.left, STEP);
        promise.spend(10);
        assert_eq!((promise.left, *promise.disk.lock().unwrap()), (STEP - 10, STEP - 10));
        promise.extend(&at, STEP - 10).unwrap();
        assert_eq!(promise.left, STEP - 10);
        promise.extend(&at, STEP).unwrap();
        let disk = Arc::clone(&promise.disk);
        drop(promise);
        assert_eq!(*disk.lock().unwrap(), 0);
    }
}
