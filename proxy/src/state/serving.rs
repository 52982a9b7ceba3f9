//! Which process serves on a state folder, and where it is asked.
//!
//! It owns the lock that each of them holds while it serves, and the address of the control socket
//! in a folder of any depth. It does not own what is asked there ([`crate::admin`]).

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::{
        fd::{AsRawFd as _, OwnedFd},
        unix::fs::OpenOptionsExt,
    },
    path::PathBuf,
};

use rustix::{
    fs::{FlockOperation, Mode, OFlags, flock, open},
    io::Errno,
};

use super::{State, StateError, give};

/// Held by a process that serves on the folder; dropped when it has ended or handed over.
#[derive(Debug)]
pub(crate) struct Serving {
    _lock: File,
}

/// The folder of the control socket, opened: an address has room for 107 bytes, a folder can have any
/// number. The address is good while this lives.
#[derive(Debug)]
pub(crate) struct ControlFolder {
    _folder: OwnedFd,
    path: PathBuf,
}

impl State {
    /// Takes the folder for a server. Several processes hold it together while one gives way to
    /// the next; one that is not a `successor` must be alone.
    ///
    /// # Errors
    /// [`StateError::Served`], [`StateError::Io`].
    pub(crate) fn serve(&self, successor: bool) -> Result<Serving, StateError> {
        // One at a time: another server that starts, or a command that looks.
        let _turn = self.lock()?;
        let lock = self.open_serving()?;
        let failed = |error: Errno| match error {
            Errno::WOULDBLOCK => StateError::Served,
            error => StateError::Io(self.serving_path(), error.into()),
        };
        if !successor {
            flock(&lock, FlockOperation::NonBlockingLockExclusive).map_err(failed)?;
        }
        flock(&lock, FlockOperation::NonBlockingLockShared).map_err(failed)?;
        Ok(Serving { _lock: lock })
    }

    /// Whether a process serves on the folder.
    ///
    /// # Errors
    /// [`StateError::Io`].
    pub(crate) fn is_served(&self) -> Result<bool, StateError> {
        let _turn = self.lock()?;
        let lock = self.open_serving()?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(false),
            Err(Errno::WOULDBLOCK) => Ok(true),
            Err(error) => Err(StateError::Io(self.serving_path(), error.into())),
        }
    }

    /// Opens the folder of the control socket.
    ///
    /// # Errors
    /// As the system says.
    pub(crate) fn control_folder(&self) -> io::Result<ControlFolder> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let folder = open(&self.folder, flags, Mode::empty())?;
        let short = PathBuf::from(format!("/proc/self/fd/{}", folder.as_raw_fd()));
        // Without /proc the path itself has to do, and the system says so if it is too long.
        let path = if fs::symlink_metadata(&short).is_ok() { short } else { self.folder.clone() };
        Ok(ControlFolder { _folder: folder, path })
    }

    fn open_serving(&self) -> Result<File, StateError> {
        let path = self.serving_path();
        let mut options = OpenOptions::new();
        let file = options.write(true).create(true).truncate(false).mode(0o600).open(&path);
        file.and_then(|file| give(&file, &self.folder).map(|()| file))
            .map_err(|error| StateError::Io(path, error))
    }

    fn serving_path(&self) -> PathBuf {
        self.folder.join("serving")
    }
}

impl ControlFolder {
    /// The address of the control socket.
    pub(crate) fn socket(&self) -> PathBuf {
        self.path.join("control.sock")
    }

    /// The name under which the next one is bound before it takes the place of the other.
    pub(crate) fn new_socket(&self) -> PathBuf {
        self.path.join("control.new")
    }
}
