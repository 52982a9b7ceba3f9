//! Two sessions joined by wires in virtual time: no sockets, no threads, no clock.

mod hostile;
mod liveness;
mod pair;
mod stories;
mod walk;
