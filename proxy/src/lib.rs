//! The public server: HTTP clients on one side, agents that dialled in on the other.
//!
//! A library that other programs can embed ([`server::Server`]) and, in [`command`], the program
//! `spdy-proxy`. The modules stand in order, top to bottom: each uses only modules listed below
//! its own (`scripts/check-order` holds that).
//!
//! ```no_run
//! use spdy_proxy::{server::Server, settings::Settings};
//!
//! let mut settings = Settings::new("/var/lib/my-program/spdy-proxy");
//! settings.listen = vec![([0, 0, 0, 0], 8080).into()];
//! let server = Server::bind(settings)?;
//! let stop = server.handle();
//! let serving = std::thread::spawn(move || server.run());
//! // ... the program does its own work, then:
//! stop.stop();
//! # let _ = serving.join();
//! # Ok::<(), spdy_proxy::server::StartError>(())
//! ```
#![cfg_attr(not(test), warn(clippy::unwrap_used))]

pub mod command;

pub mod args;

mod status;

pub mod server;

pub mod handover;

mod downstream;

pub mod admin;

mod relay;

mod upstream;

mod recycle;

mod worker;

mod identities;

pub mod registry;

pub mod state;

pub mod tls;

pub mod settings;

pub mod config;

pub mod inherit;

pub mod access;

mod lobby;

mod failures;

mod accept_errors;

mod socket;

mod watch;

mod request_line;

mod status_line;

mod hold;

mod replay;

pub mod gate;

pub mod stop;

mod notify;

pub mod address_range;

pub mod log;
