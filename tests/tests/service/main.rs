//! Both programs as services: what systemd is told, what its units allow, what `join` as root leaves
//! behind. systemd itself runs in the machine of `make test-vm`; here its socket is the test's, and
//! `systemctl` a script that does what the unit says of users and folders.
#![expect(clippy::unwrap_used, reason = "a test that panics has failed, with its line")]

mod manager;
mod notify;
mod setup;
mod units;
mod uploads;

use std::path::{Path, PathBuf};

/// A folder of the source.
fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}
