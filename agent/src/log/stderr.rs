//! Standard error without waiting for its reader, and without a thread.
//!
//! It owns how each kind of file takes a line or refuses it. It does not own what becomes of a line
//! that was refused.

use std::{
    io,
    os::fd::{BorrowedFd, OwnedFd},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{FileType, Mode, OFlags, fstat, open},
    io::Errno,
    net::SendFlags,
};

/// See the module.
pub(super) struct Stderr {
    way: Way,
    /// What is left of a line that was taken in part; it goes before the next.
    rest: Vec<u8>,
}

/// How to write without waiting. Never by `O_NONBLOCK` on stderr itself: that would change the
/// terminal or pipe for all programs that share it.
enum Way {
    /// Pipes and terminals, opened anew: the flag is the new description's own.
    Own(OwnedFd),
    /// Sockets, with a flag for each call.
    Socket,
    /// Everything else, and where the file cannot be opened anew (no /proc, another user's): when it
    /// is ready. That is exact for pipes, which then take a whole page, unless others write to them
    /// in the same moment.
    Ready,
}

impl Stderr {
    pub(super) fn new() -> Self {
        let kind = fstat(stderr()).map(|stat| FileType::from_raw_mode(stat.st_mode));
        let reopen = || {
            let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
            open(OWN, flags, Mode::empty()).map_or(Way::Ready, Way::Own)
        };
        let way = match kind {
            Ok(FileType::Fifo | FileType::CharacterDevice) => reopen(),
            Ok(FileType::Socket) => Way::Socket,
            _ => Way::Ready,
        };
        Self { way, rest: Vec::new() }
    }

    /// Writes a line. One that was taken in part counts as written.
    ///
    /// # Errors
    /// `WouldBlock`: nothing of it was written; others as the system says.
    pub(super) fn write_line(&mut self, line: Vec<u8>) -> io::Result<()> {
        self.flush()?;
        let written = self.write(&line)?;
        self.rest = line;
        self.rest.drain(..written);
        // What is left may fit now, or before the next line.
        let _ = self.flush();
        Ok(())
    }

    /// Writes what is left of the last line.
    ///
    /// # Errors
    /// `WouldBlock`: there is more; others as the system says, and it is given up.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        while !self.rest.is_empty() {
            match self.write(&self.rest) {
                Ok(written) => drop(self.rest.drain(..written)),
                Err(error) => {
                    if error.kind() != io::ErrorKind::WouldBlock {
                        self.rest = Vec::new();
                    }
                    return Err(error);
                }
            }
        }
        self.rest = Vec::new();
        Ok(())
    }

    fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            let written = match &self.way {
                Way::Own(own) => rustix::io::write(own, bytes),
                Way::Socket => {
                    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
                    rustix::net::send(stderr(), bytes, flags)
                }
                Way::Ready => {
                    let mut fds = [PollFd::from_borrowed_fd(stderr(), PollFlags::OUT)];
                    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
                    match poll(&mut fds, Some(&now)) {
                        Ok(_) if fds[0].revents().contains(PollFlags::OUT) => {
                            rustix::io::write(stderr(), bytes)
                        }
                        Ok(_) => Err(Errno::AGAIN),
                        Err(error) => Err(error),
                    }
                }
            };
            match written {
                Err(Errno::INTR) => {}
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                written => return Ok(written?),
            }
        }
    }
}

fn stderr() -> BorrowedFd<'static> {
    rustix::stdio::stderr()
}

/// Where Linux has the file behind our stderr.
const OWN: &str = "/proc/self/fd/2";
