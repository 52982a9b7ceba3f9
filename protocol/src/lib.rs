//! SPDY/3.1 between `spdy-proxy` and `spdy-agent`: a machine without I/O and the driver above it.
//!
//! Bytes and time go in; bytes, events and one deadline come out ([`session`]). The driver
//! ([`tunnel`], feature `driver`) moves bytes between that machine and any `AsyncRead +
//! AsyncWrite`. Nothing below the driver knows sockets, clocks, threads, files or logs.
//!
//! The modules stand in order, top to bottom: each uses only modules listed below its own
//! (a test of the workspace holds that).
#![cfg_attr(
    test,
    allow(clippy::disallowed_methods, reason = "a test in virtual time needs a first instant")
)]

#[cfg(feature = "driver")]
pub mod tunnel;

pub mod handshake;

pub mod join;

pub mod address;

pub mod digits;

pub mod session;

pub mod schedule;

pub mod stream;

pub mod budget;

pub mod window;

pub mod head;

pub mod headers;

pub mod dictionary;

pub mod frame;

pub mod error;

pub mod limits;
