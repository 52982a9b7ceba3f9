//! The agent as a service of systemd: what its package does, the program does not.
//!
//! It owns when a command of root's is left to the package. What is done then is
//! systemd/spdy-agent-setup's, which runs the command itself with `--config`.

use std::{
    ffi::{CStr, CString, OsStr, OsString},
    os::unix::ffi::OsStrExt as _,
    path::Path,
};

use nix::unistd::execv;
use rustix::process::geteuid;

/// Becomes the package's program, where there is one, if a whole command line is that of a command
/// for the service: `join`, `setup` and `rotate` of root's that name no configuration. Returns if
/// not, and why it cannot.
///
/// # Errors
/// One line.
pub fn hand_over(args: &[OsString]) -> Result<(), String> {
    let words = args.get(1..).unwrap_or_default();
    let is = |word: &OsString, known: &[&str]| known.iter().any(|known| word == known);
    let is_ours = words.first().is_some_and(|first| is(first, &["join", "setup", "rotate"]))
        && !words
            .iter()
            .any(|word| word.as_bytes().starts_with(b"--config") || is(word, &["-h", "--help"]));
    let program = Path::new(OsStr::from_bytes(SETUP.to_bytes()));
    if !is_ours || !geteuid().is_root() || !program.exists() {
        return Ok(());
    }
    // An argument ends at its first zero.
    let mut words: Vec<CString> =
        words.iter().map(|word| CString::new(word.as_bytes()).unwrap_or_default()).collect();
    words.insert(0, SETUP.to_owned());
    match execv(SETUP, &words) {
        Ok(never) => match never {},
        Err(error) => Err(format!("{}: {error}", program.display())),
    }
}

const SETUP: &CStr = c"/usr/lib/spdy-agent/setup";
