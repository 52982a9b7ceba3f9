//! Following a name segment by segment, where one system call cannot.
//!
//! It is for kernels without `openat2` (before 5.6, or behind strict filters) and for links to
//! other disks that the owner allows. It owns what a link may mean; every single step is taken with
//! `O_NOFOLLOW` from an open folder, so nothing leads out, whatever is renamed meanwhile.

use std::{
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::{Path, PathBuf},
};

use rustix::{
    fs::{CWD, FileType, Mode, OFlags, openat, readlinkat},
    io::Errno,
};

use super::file::stat_path;

/// A folder that is never left, and where else links may lead.
#[derive(Debug)]
pub(crate) struct Ground<'a> {
    /// The folder.
    pub(crate) folder: BorrowedFd<'a>,
    /// Its path without links, as far as it is known.
    pub(crate) path: &'a Path,
    /// Folders that links may lead into, absolute and without `..`.
    pub(crate) allowed: &'a [PathBuf],
}

/// Opens `name` below the ground. Blocks.
///
/// # Errors
/// `XDEV` for a link that leads out, `LOOP` behind the 40th link, and what the system says.
pub(crate) fn open(ground: &Ground<'_>, name: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
    let mut walk = Walk { ground, tree: None, trail: Vec::new(), at: None, left: Vec::new() };
    walk.push(name);
    let mut links = 0;
    while let Some(segment) = walk.left.pop() {
        match segment.as_slice() {
            b"" | b"." => continue,
            b".." => {
                walk.leave()?;
                continue;
            }
            _ => {}
        }
        let is_last = walk.left.is_empty();
        let step = if is_last { flags } else { FOLDER };
        let opened =
            openat(walk.here(), segment.as_slice(), step | OFlags::NOFOLLOW, Mode::empty());
        let failed = match opened {
            // O_PATH opens a link itself.
            Ok(opened) if !flags.contains(OFlags::PATH) || !is_last || !is_link(&opened)? => {
                if is_last {
                    return Ok(opened);
                }
                walk.trail.push(segment);
                walk.at = Some(opened);
                continue;
            }
            Ok(_) | Err(Errno::LOOP) => Errno::LOOP,
            // What is no folder may be a link to one.
            Err(Errno::NOTDIR) => Errno::NOTDIR,
            Err(error) => return Err(error),
        };
        let target = readlinkat(walk.here(), segment.as_slice(), Vec::new()).map_err(|_| failed)?;
        links += 1;
        if links > LINKS_MAX {
            return Err(Errno::LOOP);
        }
        match target.as_bytes() {
            [b'/', ..] => walk.jump(target.as_bytes())?,
            relative => walk.push(relative),
        }
    }
    // The last segment was a link to a folder that we stand in.
    openat(walk.here(), ".", flags, Mode::empty())
}

struct Walk<'a> {
    ground: &'a Ground<'a>,
    /// The allowed folder that a link led into, with its path; `None` on the ground itself.
    tree: Option<(OwnedFd, &'a Path)>,
    /// The way from there, no segment of it a link.
    trail: Vec<Vec<u8>>,
    /// The folder at the end of the trail; `None` if that is empty.
    at: Option<OwnedFd>,
    /// What is left to walk, the next last.
    left: Vec<Vec<u8>>,
}

impl<'a> Walk<'a> {
    fn push(&mut self, path: &[u8]) {
        self.left.extend(path.split(|octet| *octet == b'/').rev().map(<[u8]>::to_vec));
    }

    fn here(&self) -> BorrowedFd<'_> {
        match (&self.at, &self.tree) {
            (Some(at), _) => at.as_fd(),
            (None, Some((tree, _))) => tree.as_fd(),
            (None, None) => self.ground.folder,
        }
    }

    /// `..`: from the ground again, because the system's own may lead elsewhere after a rename.
    fn leave(&mut self) -> Result<(), Errno> {
        if self.trail.pop().is_none() {
            let top = self.tree.as_ref().map_or(self.ground.path, |(_, path)| path);
            let above = top.parent().ok_or(Errno::XDEV)?.as_os_str().as_bytes().to_vec();
            return self.jump(&above);
        }
        self.at = None;
        for segment in &self.trail {
            let next = openat(self.here(), &**segment, FOLDER | OFlags::NOFOLLOW, Mode::empty())?;
            self.at = Some(next);
        }
        Ok(())
    }

    /// Goes on at an absolute path with what is left, if the owner allows that folder.
    fn jump(&mut self, path: &[u8]) -> Result<(), Errno> {
        let mut whole: Vec<&[u8]> = Vec::new();
        let left = self.left.iter().rev().map(Vec::as_slice);
        for segment in path.split(|octet| *octet == b'/').chain(left) {
            match segment {
                b"" | b"." => {}
                b".." => drop(whole.pop()),
                segment => whole.push(segment),
            }
        }
        let inside = |allowed: &PathBuf| {
            let top: Vec<_> =
                allowed.as_os_str().as_bytes().split(|octet| *octet == b'/').collect();
            let top: Vec<_> = top.into_iter().filter(|segment| !segment.is_empty()).collect();
            whole.strip_prefix(top.as_slice()).map(|rest| rest.join(&b'/'))
        };
        let found = self.ground.allowed.iter().find_map(|top| Some((top, inside(top)?)));
        let (top, rest) = found.ok_or(Errno::XDEV)?;
        self.tree = Some((openat(CWD, top, FOLDER, Mode::empty())?, top.as_path()));
        self.trail.clear();
        self.left.clear();
        self.at = None;
        self.push(&rest);
        Ok(())
    }
}

fn is_link(opened: &OwnedFd) -> Result<bool, Errno> {
    Ok(FileType::from_raw_mode(stat_path(opened)?.st_mode) == FileType::Symlink)
}

/// Links that one name may lead over, as in the kernel.
const LINKS_MAX: usize = 40;
const FOLDER: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);
