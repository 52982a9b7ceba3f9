//! The units: read by systemd, and how much they allow.

use std::{fs, process::Command};

use spdy_tests::fixture::{TempRoot, binary, tool};

use crate::workspace;

/// A unit with our programs where the package will have them.
fn unit(root: &TempRoot, name: &str, more: &str) -> std::path::PathBuf {
    let text = fs::read_to_string(workspace().join("systemd").join(name)).unwrap();
    let program = name.split('.').next().unwrap();
    let installed = format!("/usr/bin/{program}");
    let built = binary(program);
    root.write(name, (text.replace(&installed, built.to_str().unwrap()) + more).as_bytes())
}

#[test]
fn units_are_read_by_systemd_without_a_word() {
    let root = TempRoot::new();
    let units = ["spdy-agent.service", "spdy-proxy.service", "spdy-proxy.socket"];
    let paths = units.map(|name| unit(&root, name, ""));
    let analyze = tool("systemd-analyze");
    let output = Command::new(analyze).args(["verify", "--man=no"]).args(paths).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    // Of other units of the machine it may have something to say.
    let ours: Vec<_> = said.lines().filter(|line| line.contains("spdy-")).collect();
    assert!(output.status.success() && ours.is_empty(), "{said}");
}

#[test]
fn units_allow_little() {
    let root = TempRoot::new();
    for (name, more) in [
        ("spdy-agent.service", ""),
        // As `join` leaves it at worst.
        (
            "spdy-agent.service",
            "\n[Service]\nUser=1000\nSupplementaryGroups=100\nBindPaths=-/srv\n",
        ),
        ("spdy-proxy.service", ""),
    ] {
        let path = unit(&root, name, more);
        let analyze = tool("systemd-analyze");
        let command = ["security", "--offline=true", "--threshold=15", "--no-pager"];
        let output = Command::new(analyze).args(command).arg(path).output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        let last = said.lines().last().unwrap_or_default();
        assert!(last.contains("Overall exposure level"), "{said}");
        let score: f32 = last.split_whitespace().find_map(|word| word.parse().ok()).unwrap();
        assert!(output.status.success() && score <= 1.5, "{name}: {last}");
    }
}
