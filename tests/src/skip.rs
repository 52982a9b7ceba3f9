//! Tests that cannot run on this machine: they say so, and are not counted as passed.
//!
//! It owns the lines that `scripts/test` counts. Whether a test can run is the test's business.

use std::{
    env, fmt,
    io::{self, Write as _},
    thread,
};

/// Says that the running test is skipped, and why; it must return then. `scripts/test` counts it as
/// skipped instead of passed.
pub fn skipped(reason: impl fmt::Display) {
    tell("skipped", &reason);
}

/// Says that the running test leaves a part out, and why. It is counted as passed; the line is shown
/// again at the end.
pub fn skipped_part(reason: impl fmt::Display) {
    tell("skipped part", &reason);
}

/// Writes to standard error itself: what the macros of std write is captured while a test runs.
fn tell(what: &str, reason: &dyn fmt::Display) {
    let line = format!("{what}: {}: {}\n", name(), one_line(&reason.to_string()));
    // Without standard error there is nobody to tell.
    let _ = io::stderr().write_all(line.as_bytes());
}

/// `PROGRAM::TEST`; of a test that runs in the first thread (`--test-threads=1`), or of a thread of its
/// own, what is known of it.
fn name() -> String {
    let program = env::current_exe().ok();
    let program = program.as_deref().and_then(|path| path.file_stem()?.to_str());
    let program = program.map_or("?", without_hash);
    let thread = thread::current();
    format!("{program}::{}", thread.name().unwrap_or("?"))
}

/// The name that cargo gives a test program, without the hash behind it.
fn without_hash(file: &str) -> &str {
    match file.rsplit_once('-') {
        Some((name, hash)) if hash.len() == 16 && hash.bytes().all(|b| b.is_ascii_hexdigit()) => {
            name
        }
        _ => file,
    }
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::{name, one_line, without_hash};

    #[test]
    fn tests_are_named_by_program_and_thread() {
        assert!(name().starts_with("spdy_tests::"), "{}", name());
        assert_eq!(without_hash("writing-0123456789abcdef"), "writing");
        assert_eq!(without_hash("peers-zlib"), "peers-zlib");
    }

    #[test]
    fn reasons_are_one_line() {
        assert_eq!(one_line("mount: denied\n  (see dmesg)\n"), "mount: denied (see dmesg)");
    }
}
