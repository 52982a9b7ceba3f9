//! `scripts/test` counts tests as what they were: passed, failed or skipped.
#![expect(clippy::unwrap_used, reason = "a test that panics has failed, with its line")]

use std::{
    env, fs,
    os::unix::fs::PermissionsExt as _,
    process::{Command, Stdio},
};

use spdy_tests::{fixture::TempRoot, source::workspace};

/// The last lines of `scripts/test` where every program of tests prints `said`, and whether it ends well.
fn counted(said: &str, is_ci: bool) -> (Vec<String>, bool) {
    let root = TempRoot::new();
    let cargo = root.write("cargo", b"#!/bin/sh\n[ \"$1\" != test ] || cat \"${0%/*}/said\"\n");
    fs::set_permissions(&cargo, fs::Permissions::from_mode(0o755)).unwrap();
    root.write("said", said.as_bytes());
    let path = format!("{}:{}", root.path().display(), env::var("PATH").unwrap());
    let mut command = Command::new(workspace().join("scripts/test"));
    // A stage of one program.
    command.arg("players").env("PATH", path).env("CI", is_ci.to_string()).stdin(Stdio::null());
    let done = command.output().unwrap();
    let text = String::from_utf8(done.stdout).unwrap();
    let (_, end) = text.split_once("==== players: ").unwrap_or_else(|| panic!("{text}"));
    (end.lines().skip(1).map(str::to_owned).collect(), done.status.success())
}

const RESULT: &str = "test result: ok. 5 passed; 0 failed; 2 ignored; 0 measured; 0 filtered out\n";

#[test]
fn tests_that_pass_are_counted_and_ignored_ones_are_not() {
    assert_eq!(counted(RESULT, true), (vec!["5 passed, 0 failed".to_owned()], true));
}

#[test]
fn skipped_tests_have_not_passed_and_are_told_at_the_end() {
    let said = "skipped: players::a: no mounts\n\
                skipped: players::a: no namespaces\n\
                test b ... skipped: players::b: not root\nok\n\
                skipped part: players::c: no H.264\n";
    let lines = [
        "skipped part: players::c: no H.264",
        "skipped: players::a: no mounts",
        "skipped: players::a: no namespaces",
        "skipped: players::b: not root",
    ];
    let (mut told, is_well) = counted(&format!("{said}{RESULT}"), false);
    assert_eq!(told.pop().unwrap(), "3 passed, 0 failed, 2 skipped");
    told.sort();
    assert_eq!((told, is_well), (lines.map(str::to_owned).to_vec(), true));
}

#[test]
fn unexpected_skips_fail_where_everything_must_run() {
    let expected = "skipped part: players::c: this Chromium was built without video/mp4\n";
    let (told, is_well) = counted(&format!("{expected}{RESULT}"), true);
    assert_eq!((told.last().unwrap().as_str(), is_well), ("5 passed, 0 failed", true));
    let other = "skipped: players::a: no mounts\n";
    let (told, is_well) = counted(&format!("{expected}{other}{RESULT}"), true);
    assert_eq!((told.last().unwrap().as_str(), is_well), ("4 passed, 1 failed, 1 skipped", false));
    assert!(told.contains(&"failed: unexpected: skipped: players::a: no mounts".to_owned()));
}
