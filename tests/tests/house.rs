//! The rules of the house (docs/design.md, CONTRIBUTING.md) that a machine can hold.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    process::Command,
};

use spdy_tests::source::{self, workspace};

/// The crates that are shipped.
const CRATES: [&str; 3] = ["protocol", "agent", "proxy"];

/// Licences that allow what `Apache-2.0 OR MIT` allows.
const LICENCES: [&str; 8] = [
    "Apache-2.0",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "ISC",
    "MIT",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
];

fn read(path: impl AsRef<Path>) -> String {
    let path = workspace().join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn shown(path: &Path) -> String {
    path.strip_prefix(workspace()).unwrap_or(path).display().to_string()
}

/// Lines of `cargo tree` about what a crate is built from.
fn lines(package: &str, more: &[&str]) -> BTreeSet<String> {
    // One target, so that the lists are the same wherever the tests run.
    let target = "x86_64-unknown-linux-gnu";
    let output = Command::new(std::env::var_os("CARGO").unwrap_or("cargo".into()))
        .current_dir(workspace())
        .args(["tree", "--locked", "-e", "normal", "--prefix", "none", "--target", target])
        .args(["-p", package])
        .args(more)
        .output()
        .expect("cargo can be run: it runs this test");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8_lossy(&output.stdout);
    let lines: BTreeSet<_> =
        text.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect();
    assert!(lines.len() > 3, "cargo tree said: {text}");
    lines
}

/// Packages that a crate is built from, `name version` each.
fn tree(package: &str, more: &[&str]) -> BTreeSet<String> {
    let words = |line: &String| line.split_whitespace().take(2).collect::<Vec<_>>().join(" ");
    lines(package, more).iter().map(words).collect()
}

fn depends(tree: &BTreeSet<String>, name: &str) -> bool {
    tree.iter().any(|package| package.split(' ').next() == Some(name))
}

#[test]
fn dependency_lists_are_those_committed() {
    let mut wrong = String::new();
    for name in CRATES {
        let tree = tree(&format!("spdy-{name}"), &[]);
        // Our own crates have no place there: their version changes with each release.
        let tree: BTreeSet<_> =
            tree.into_iter().filter(|package| !package.starts_with("spdy-")).collect();
        let list = tree.iter().fold(String::new(), |list, package| list + package + "\n");
        let path = workspace().join(format!("tests/deps/{name}.txt"));
        if std::env::var_os("UPDATE_DEPS").is_some() {
            fs::write(&path, &list).unwrap();
        }
        let committed = fs::read_to_string(&path).unwrap_or_default();
        let old: BTreeSet<_> = committed.lines().map(str::to_owned).collect();
        for package in tree.difference(&old) {
            wrong += &format!("{name}: {package} is new\n");
        }
        for package in old.difference(&tree) {
            wrong += &format!("{name}: {package} is gone\n");
        }
    }
    assert!(wrong.is_empty(), "\n{wrong}run scripts/deps-update and commit with the reason");
}

#[test]
fn the_programs_do_not_depend_on_each_other() {
    let (agent, proxy) = (tree("spdy-agent", &[]), tree("spdy-proxy", &[]));
    assert!(depends(&agent, "spdy-protocol") && depends(&proxy, "spdy-protocol"));
    assert!(!depends(&agent, "spdy-proxy") && !depends(&proxy, "spdy-agent"));
    for name in ["hyper", "smol-hyper", "tokio", "async-h1"] {
        assert!(!depends(&agent, name), "the agent depends on {name}");
    }
    // Decided against, with the reasons in docs/decisions.md.
    for name in ["aws-lc-rs", "openssl", "openssl-sys", "miniz_oxide", "libz-sys"] {
        for tree in [&agent, &proxy] {
            assert!(!depends(tree, name), "{name} is among the dependencies");
        }
    }
}

#[test]
fn protocol_without_its_driver_has_no_io() {
    let core = tree("spdy-protocol", &["--no-default-features"]);
    assert!(depends(&core, "flate2"), "{core:?}");
    for package in &core {
        let name = package.split(' ').next().unwrap();
        let io = ["async-", "futures", "smol", "tokio", "mio", "polling", "rustix", "libc"];
        assert!(!io.iter().any(|io| name.starts_with(io)), "{package} does I/O");
    }
}

#[test]
fn packages_come_from_crates_io_under_licences_that_we_take() {
    for line in read("Cargo.lock").lines().filter(|line| line.starts_with("source = ")) {
        assert_eq!(line, "source = \"registry+https://github.com/rust-lang/crates.io-index\"");
    }
    for name in CRATES {
        let lines = lines(&format!("spdy-{name}"), &["--format", "{p} # {l}"]);
        for line in lines {
            let (package, licence) = line.trim_end_matches(" (*)").split_once(" # ").unwrap();
            // Every part of an `AND` must be taken, one part of an `OR` is enough.
            let taken = licence.split(" AND ").all(|part| {
                let part = part.trim_matches(['(', ')']);
                part.replace('/', " OR ").split(" OR ").any(|one| LICENCES.contains(&one.trim()))
            });
            assert!(taken, "{package}: {licence}");
        }
    }
}

#[test]
fn modules_use_only_modules_below_their_own() {
    let mut wrong = String::new();
    for name in CRATES.into_iter().chain(["tests"]) {
        let folder = workspace().join(name).join("src");
        let lib = source::code(&read(folder.join("lib.rs")));
        let order = source::modules(&lib);
        assert!(!order.is_empty(), "{name} has no modules");
        let rank: BTreeMap<_, _> = order.iter().zip(0..).collect();
        for file in source::files(&folder).unwrap() {
            let inner = file.strip_prefix(&folder).unwrap();
            let own = inner.iter().next().unwrap().to_str().unwrap().trim_end_matches(".rs");
            if ["lib", "main", "bin"].contains(&own) {
                continue;
            }
            let Some(own_rank) = rank.get(&own.to_owned()) else {
                wrong += &format!("{} is not declared in lib.rs\n", shown(&file));
                continue;
            };
            let code = source::without_tests(&source::code(&read(&file)));
            for used in source::uses(&code, inner.components().count() == 1) {
                if rank.get(&used).is_some_and(|used| used < own_rank) {
                    wrong += &format!("{} uses {used}, which stands above it\n", shown(&file));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "\n{wrong}");
}

#[test]
fn deviations_in_the_code_are_those_in_the_document() {
    let mut code = BTreeSet::new();
    for name in CRATES {
        for file in source::files(&workspace().join(name).join("src")).unwrap() {
            code.extend(source::deviations(&source::comments(&read(&file))));
        }
    }
    let document: BTreeSet<_> = source::deviations(&read("docs/protocol.md")).into_iter().collect();
    assert_eq!(code, document, "left: code, right: docs/protocol.md");
}

#[test]
fn long_files_say_why_they_are_one_thing() {
    let mut wrong = String::new();
    for name in CRATES.into_iter().chain(["tests"]) {
        for file in source::files(&workspace().join(name)).unwrap() {
            let text = read(&file);
            let code = source::without_tests(&source::code(&text));
            let head = source::head(&text);
            if head.is_empty() && !file.ends_with("build.rs") {
                wrong += &format!("{} has no head (//!)\n", shown(&file));
            }
            let lines = code.lines().count();
            if lines > 600 && !head.contains("one thing") {
                wrong += &format!("{}: {lines} lines without tests\n", shown(&file));
            }
        }
    }
    assert!(wrong.is_empty(), "\n{wrong}a head names why its file is still \"one thing\"");
}

#[test]
fn every_crate_forbids_unsafe_code_and_takes_the_lints() {
    let root = read("Cargo.toml");
    assert!(root.contains("\nunsafe_code = \"forbid\"\n"));
    for name in CRATES.into_iter().chain(["tests"]) {
        let manifest = read(format!("{name}/Cargo.toml"));
        assert!(manifest.contains("[lints]\nworkspace = true"), "{name}");
    }
    for name in CRATES {
        for file in source::files(&workspace().join(name)).unwrap() {
            let code = source::code(&read(&file));
            let unsafe_word = code.split(|c: char| !c.is_alphanumeric() && c != '_');
            assert!(!unsafe_word.clone().any(|word| word == "unsafe"), "{}", shown(&file));
        }
    }
}

#[test]
fn every_test_file_belongs_to_a_stage() {
    let table = read("scripts/stages");
    let lines = table.lines().filter(|line| !line.starts_with('#') && !line.trim().is_empty());
    let second = |line: &str| line.split_whitespace().nth(1).expect("STAGE FOLDER/FILE").to_owned();
    let staged: BTreeSet<_> = lines.map(second).collect();
    let mut files = BTreeSet::new();
    for folder in CRATES.into_iter().chain(["tests"]) {
        // A crate may have no test programs of its own.
        let Ok(entries) = fs::read_dir(workspace().join(folder).join("tests")) else { continue };
        for path in entries.map(|entry| entry.unwrap().path()) {
            let is_test = path.extension().is_some_and(|extension| extension == "rs")
                || path.join("main.rs").is_file();
            if is_test {
                files.insert(format!("{folder}/{}", path.file_stem().unwrap().to_str().unwrap()));
            }
        }
    }
    assert!(files.contains("tests/house"));
    assert_eq!(files, staged, "left: test programs, right: scripts/stages");
}

#[test]
fn stages_are_known_to_the_script_that_runs_them() {
    let script = read("scripts/test");
    let list = |prefix| {
        let list = script.lines().find_map(|line| line.strip_prefix(prefix)?.strip_suffix(')'));
        list.unwrap().split_whitespace()
    };
    let all: BTreeSet<_> = list("all=(").chain(list("by_name=(")).collect();
    for line in read("scripts/stages").lines().filter(|line| !line.starts_with('#')) {
        if let Some(stage) = line.split_whitespace().next() {
            assert!(all.contains(stage), "{line}");
        }
    }
}

#[test]
fn scripts_can_be_run_and_stop_at_the_first_fault() {
    use std::os::unix::fs::PermissionsExt as _;
    let folders =
        ["scripts", "cross"].map(|folder| fs::read_dir(workspace().join(folder)).unwrap());
    for entry in folders.into_iter().flatten() {
        let path = entry.unwrap().path();
        let is_list =
            ["stages", "skips", "requirements.txt"].iter().any(|name| path.ends_with(name));
        if is_list || path.is_dir() {
            continue;
        }
        let text = read(&path);
        if text.starts_with("#!/usr/bin/env python3\n") {
            continue;
        }
        let shell = ["#!/usr/bin/env bash\n", "#!/bin/sh\n"];
        assert!(shell.iter().any(|shell| text.starts_with(shell)), "{}", shown(&path));
        // The script that runs the stages goes on after a failure, and counts it.
        let stops = text.contains("\nset -eu") || path.ends_with("test");
        assert!(stops, "{}", shown(&path));
        assert_ne!(fs::metadata(&path).unwrap().permissions().mode() & 0o111, 0);
        let checked = Command::new("bash").arg("-n").arg(&path).status().unwrap();
        assert!(checked.success(), "{}", shown(&path));
    }
}

#[test]
fn nothing_committed_names_this_machine() {
    if !workspace().join(".git").exists() {
        return spdy_tests::skip::skipped("an unpacked archive: nothing is committed here");
    }
    // Whoever owns the checkout, git may list it.
    let command = ["-c", "safe.directory=*", "ls-files", "-z"];
    let output = Command::new("git").current_dir(workspace()).args(command).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let home = std::env::var("HOME").unwrap_or_default();
    for name in String::from_utf8(output.stdout).unwrap().split_terminator('\0') {
        let Ok(text) = fs::read_to_string(workspace().join(name)) else { continue };
        let own = workspace().to_str().unwrap();
        // Short folder names (/ or /src) would be found by chance.
        for folder in [own, &home].into_iter().filter(|folder| folder.len() > 6) {
            assert!(!text.contains(folder), "{name} names {folder}");
        }
    }
}
