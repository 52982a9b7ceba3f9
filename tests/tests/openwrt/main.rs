//! The packages for boxes without systemd: OpenWrt's, and the tarball for all others.
//!
//! No OpenWrt runs here. The service's script runs in a folder with busybox and `tests/openwrt`, which
//! stands in for OpenWrt's own programs; the agent in it and the proxy outside are real.
#![expect(clippy::unwrap_used, reason = "a test that panics has failed, with its line")]

mod chroot;

mod feed;

mod package;

mod service;

mod tarball;

mod walk;
