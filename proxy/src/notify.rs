//! What systemd is told of a service of `Type=notify`, and how often it wants to hear of it.
//!
//! One datagram for each message, to `$NOTIFY_SOCKET`; without that, nothing.

use std::{
    env, io,
    os::{
        linux::net::SocketAddrExt,
        unix::{
            ffi::OsStrExt,
            net::{SocketAddr, UnixDatagram},
        },
    },
    process,
    time::Duration,
};

use rustix::time::{ClockId, clock_gettime};

/// Sends lines of `KEY=value`.
///
/// # Errors
/// When nobody takes them.
pub(crate) fn notify(lines: &str) -> io::Result<()> {
    let Some(path) = env::var_os("NOTIFY_SOCKET").filter(|path| !path.is_empty()) else {
        return Ok(());
    };
    let address = match path.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        _ => SocketAddr::from_pathname(&path)?,
    };
    let socket = UnixDatagram::unbound()?;
    socket.set_write_timeout(Some(MOMENT))?;
    socket.send_to_addr(lines.as_bytes(), &address)?;
    Ok(())
}

/// What begins a reload; `READY=1` ends it. With the time it may also be one that systemd asked
/// for (`Type=notify-reload`).
pub(crate) fn reloading() -> String {
    let now = clock_gettime(ClockId::Monotonic);
    // Positive, and less than a second.
    let (seconds, nanos) = (now.tv_sec.unsigned_abs(), now.tv_nsec.unsigned_abs());
    format!("RELOADING=1\nMONOTONIC_USEC={seconds}{:06}", nanos / 1_000)
}

/// How often to say `WATCHDOG=1`: half of the time after which systemd misses it. `None` where
/// nobody does.
pub(crate) fn interval() -> Option<Duration> {
    let number = |name| env::var(name).ok()?.parse::<u64>().ok();
    let is_ours = number(WATCHDOG_PID).is_none_or(|id| id == process::id().into());
    let limit = number("WATCHDOG_USEC").filter(|limit| is_ours && *limit > 0)?;
    Some(Duration::from_micros(limit / 2))
}

/// Whom systemd asks for `WATCHDOG=1`; a process that takes over must not be told that it is another.
pub(crate) const WATCHDOG_PID: &str = "WATCHDOG_PID";
/// A socket that takes nothing for so long belongs to a service manager that hangs.
const MOMENT: Duration = Duration::from_secs(1);
