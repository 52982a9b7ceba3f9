//! The agent: dials `spdy-proxy`, keeps the tunnel and serves a folder through it.
//!
//! A library with a thin main, so that a test can run many supervisors in one process; every
//! duration is a setting. All asynchronous work runs on one thread; what may block (files,
//! folders, name resolution) runs on a small bounded pool.
//!
//! The modules stand in order, top to bottom: each uses only modules listed below its own.
#![cfg_attr(not(test), warn(clippy::unwrap_used))]

pub mod args;

pub mod service;

pub mod command;

pub mod rotate;

pub mod daemon;

pub mod doctor;

pub mod status;

pub mod control;

pub mod notify;

pub mod join;

pub mod config;

pub mod supervise;

pub mod dial;

pub mod resolve;

pub mod socket;

pub mod network;

pub mod backoff;

pub mod origin;

pub mod verify;

pub mod pool;

pub mod log;

pub mod civil;

pub mod account;
