//! Fixtures of the integration tests and of the bench: programs as they are run, other people's
//! SPDY stacks, and the peers that stand in for stacks that can no longer be had.
//!
//! The modules stand in order, top to bottom: each uses only modules listed below its own.

pub mod amahi;

pub mod peers;

pub mod fuzz;

pub mod raw;

pub mod service;

pub mod wire;

pub mod local;

pub mod h1;

pub mod http;

pub mod observe;

pub mod browser;

pub mod visitor;

pub mod recorder;

pub mod media;

pub mod netns;

pub mod machine;

pub mod fixture;

pub mod link;

pub mod source;

pub mod skip;
