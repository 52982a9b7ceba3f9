//! What systemd is told of the agent as a service, and how often it wants to hear of it.
//!
//! One datagram for each message, to `$NOTIFY_SOCKET`; without that, nothing. When what is said is
//! [`crate::daemon`]'s.

use std::{
    env, io,
    os::{
        linux::net::SocketAddrExt as _,
        unix::{
            ffi::OsStrExt as _,
            net::{SocketAddr, UnixDatagram},
        },
    },
    process,
    time::Duration,
};

use nix::time::{ClockId, clock_gettime};

/// Sends lines of `KEY=value`. Who does not take them within a moment misses them.
///
/// # Errors
/// When nobody takes them.
pub fn notify(lines: &str) -> io::Result<()> {
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
#[must_use]
pub fn reloading() -> String {
    // The kernel has this clock.
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(Duration::ZERO, Duration::from);
    format!("RELOADING=1\nMONOTONIC_USEC={}{:06}", now.as_secs(), now.subsec_micros())
}

/// How often to say `WATCHDOG=1`: half of the time after which systemd misses it. `None` where
/// nobody does.
#[must_use]
pub fn interval() -> Option<Duration> {
    let number = |name| env::var(name).ok()?.parse::<u64>().ok();
    let is_ours = number("WATCHDOG_PID").is_none_or(|id| id == process::id().into());
    let limit = number("WATCHDOG_USEC").filter(|limit| is_ours && *limit > 0)?;
    Some(Duration::from_micros(limit / 2))
}

/// A socket that takes nothing for so long belongs to a service manager that hangs.
const MOMENT: Duration = Duration::from_secs(1);
