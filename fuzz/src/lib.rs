//! The bodies of the targets, which the tests of the workspace use too.

#[path = "../../tests/src/fuzz.rs"]
mod bodies;

pub use bodies::{frame, handshake, headers, session};
