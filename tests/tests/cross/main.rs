//! The programs that `cross/build` makes: size, how they are linked, what they name, the lists
//! beside them, memory when idle, and an old kernel. `scripts/test cross` builds them first.
//!
//! That they run on their machines is shown by the tests of emulated ones.
#![expect(clippy::unwrap_used, reason = "a test that panics has failed, with its line")]

mod linked;

mod running;

mod twice;

use std::{fs, path::PathBuf, process::Command};

use spdy_tests::{fixture::Builds, source::workspace};

const AARCH64: &str = "aarch64-unknown-linux-musl";
const ARMV7: &str = "armv7-unknown-linux-musleabihf";
const I686: &str = "i686-unknown-linux-musl";
const X86_64: &str = "x86_64-unknown-linux-musl";

/// Those looked at: the two with a budget, one without 64-bit atomics, and the two that run here.
const TARGETS: [&str; 5] = [AARCH64, ARMV7, "armv5te-unknown-linux-musleabi", I686, X86_64];

/// An agent that was built for a target.
fn agent(target: &str) -> PathBuf {
    Builds::crossed(target).agent
}

fn octets(target: &str) -> Vec<u8> {
    fs::read(agent(target)).unwrap()
}

fn has(octets: &[u8], part: &[u8]) -> bool {
    octets.windows(part.len()).any(|window| window == part)
}

/// What a command prints.
fn said(command: &mut Command) -> String {
    let output = command.current_dir(workspace()).output();
    let output = output.unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn agents_fit_into_small_flash() {
    for (target, most) in [(AARCH64, 1_600_000), (ARMV7, 1_350_000)] {
        let len = fs::metadata(agent(target)).unwrap().len();
        println!("{target}: {len} octets of {most}");
        assert!(len <= most, "{target}: {len} octets, {} too many", len - most);
    }
}

#[test]
fn panics_still_say_what_and_where() {
    for target in TARGETS {
        let octets = octets(target);
        for part in ["agent/src/", "index out of bounds", "panicked at"] {
            assert!(has(&octets, part.as_bytes()), "{target}: no {part:?}");
        }
    }
}

#[test]
fn programs_name_no_folder_of_this_machine() {
    let home = std::env::var("HOME").unwrap_or_default();
    // Not the home alone: `/root` is a name that the agent knows.
    let hidden = [".cargo", ".rustup", ".cache"].map(|name| format!("{home}/{name}/"));
    let own = format!("{}/", workspace().display());
    for folder in hidden.into_iter().chain([own]).filter(|folder| folder.len() > 6) {
        for target in TARGETS {
            assert!(!has(&octets(target), folder.as_bytes()), "{target}: {folder}");
        }
    }
}

#[test]
fn sums_are_those_of_the_programs() {
    let dist = workspace().join("dist");
    let sums = fs::read_to_string(dist.join("SHA256SUMS")).unwrap();
    for target in TARGETS {
        assert!(sums.contains(&format!("  {target}/spdy-agent\n")), "{sums}");
    }
    said(Command::new("sh").args(["-c", "cd dist && sha256sum --quiet --strict -c SHA256SUMS"]));
}
