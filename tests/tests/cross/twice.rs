//! That programs can be built again, in any folder, octet by octet.

use std::{fs, process::Command};

use spdy_tests::{fixture::TempRoot, source::workspace};

use super::{X86_64, agent, said};

#[test]
#[ignore = "builds both programs once more, from nothing"]
fn two_folders_give_equal_programs() {
    let root = TempRoot::new();
    // A folder that a shell would take for two.
    let other = root.join("other folder");
    // What is committed and what is about to be, but nothing that was built.
    let listed = said(Command::new("git").args([
        "-c",
        "safe.directory=*",
        "ls-files",
        "--cached",
        "--others",
        "--exclude-standard",
    ]));
    for name in listed.lines().filter(|name| workspace().join(name).is_file()) {
        let copy = other.join(name);
        fs::create_dir_all(copy.parent().unwrap()).unwrap();
        fs::copy(workspace().join(name), copy).unwrap();
    }
    // The first one anew as well: what lies in dist may be of another state of the sources.
    for folder in [workspace(), &other] {
        let mut command = Command::new(folder.join("cross/build"));
        command.env_remove("CARGO_TARGET_DIR").arg(X86_64);
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    for name in ["spdy-agent", "spdy-agent.cdx.json", "spdy-proxy", "spdy-proxy.cdx.json"] {
        let twin = other.join(format!("dist/{X86_64}/{name}"));
        let own = agent(X86_64).with_file_name(name);
        assert!(fs::read(own).unwrap() == fs::read(twin).unwrap(), "{name} differs");
    }
}
