//! Two sessions joined by wires in virtual time: no sockets, no threads, no clock.

#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    clippy::disallowed_methods,
    reason = "a failed unwrap is a failed test; numbers here are small; time starts somewhere"
)]

mod hostile;
mod liveness;
mod pair;
mod stories;
mod walk;
