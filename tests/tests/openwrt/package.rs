//! What is in the packages: files, modes, scripts, names; and that they are the same each time.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use spdy_tests::{
    fixture::{Sha256, TempRoot},
    source::workspace,
};

use crate::chroot::{VERSION, architectures, dist, package, targets};

/// `tar` of a file or of what another one gives, as lines of `MODE OWNER SIZE NAME`.
fn entries(archive: &[u8]) -> Vec<String> {
    let root = TempRoot::new();
    let file = root.write("archive", archive);
    let output = Command::new("tar").arg("-tvzf").arg(&file).arg("--numeric-owner").output();
    let text = String::from_utf8(output.unwrap().stdout).unwrap();
    let lines = text.lines().map(|line| {
        let words: Vec<_> = line.split_whitespace().collect();
        format!("{} {} {}", words[0], words[1], words[5..].join(" "))
    });
    lines.collect()
}

/// One file of an archive.
fn member(archive: &[u8], name: &str) -> Vec<u8> {
    let root = TempRoot::new();
    let file = root.write("archive", archive);
    let output = Command::new("tar").arg("-xzOf").arg(&file).arg(name).output().unwrap();
    assert!(output.status.success(), "no {name}");
    output.stdout
}

fn packages(dist: &Path) -> BTreeMap<String, PathBuf> {
    let entries = fs::read_dir(dist.join("packages")).unwrap().map(|entry| entry.unwrap().path());
    entries.map(|path| (path.file_name().unwrap().to_str().unwrap().to_owned(), path)).collect()
}

fn ipk(architecture: &str) -> Vec<u8> {
    let name = format!("packages/spdy-agent_{VERSION}-r1_{architecture}.ipk");
    fs::read(dist().join(name)).unwrap()
}

/// What the .ipk and the SDK's recipe install: mode and name.
pub const INSTALLED: [&str; 6] = [
    "-rw------- etc/config/spdy-agent",
    "-rw-r--r-- etc/hotplug.d/iface/95-spdy-agent",
    "-rw-r--r-- etc/hotplug.d/ntp/95-spdy-agent",
    "-rwxr-xr-x etc/init.d/spdy-agent",
    "-rw-r--r-- lib/upgrade/keep.d/spdy-agent",
    "-rwxr-xr-x usr/bin/spdy-agent",
];

#[test]
fn each_architecture_has_a_package_of_the_program_that_runs_there() {
    for (target, architecture) in architectures() {
        let ipk = ipk(&architecture);
        let parts: Vec<_> =
            entries(&ipk).iter().map(|line| line.replace("-rw-r--r-- 0/0 ", "")).collect();
        assert_eq!(parts, ["./debian-binary", "./control.tar.gz", "./data.tar.gz"]);
        assert_eq!(member(&ipk, "./debian-binary"), b"2.0\n");
        let data = member(&ipk, "./data.tar.gz");
        let all = entries(&data);
        let folders = all.iter().filter(|line| line.starts_with('d'));
        folders.for_each(|line| assert!(line.starts_with("drwxr-xr-x 0/0 ./"), "{line}"));
        let files: Vec<_> = all.iter().filter(|line| !line.starts_with('d')).collect();
        let wanted: Vec<_> =
            INSTALLED.iter().map(|line| line.replacen(' ', " 0/0 ./", 1)).collect();
        assert_eq!(files, wanted.iter().collect::<Vec<_>>());
        let program = fs::read(dist().join(&target).join("spdy-agent")).unwrap();
        assert!(member(&data, "./usr/bin/spdy-agent") == program, "{architecture}: {target}");

        let control = member(&ipk, "./control.tar.gz");
        let scripts = [
            "-rw-r--r-- 0/0 ./conffiles",
            "-rw-r--r-- 0/0 ./control",
            "-rwxr-xr-x 0/0 ./postinst",
            "-rwxr-xr-x 0/0 ./prerm",
        ];
        assert_eq!(entries(&control)[1..], scripts);
        let text = String::from_utf8(member(&control, "./control")).unwrap();
        for line in [
            "Package: spdy-agent",
            &format!("Version: {VERSION}-r1"),
            &format!("Architecture: {architecture}"),
        ] {
            assert!(text.lines().any(|own| own == line), "{line} in {text}");
        }
        assert_eq!(member(&control, "./conffiles"), b"/etc/config/spdy-agent\n");
        for (script, call) in [
            ("postinst", "default_postinst \"$0\" \"$@\""),
            ("prerm", "default_prerm \"$0\" \"$@\""),
        ] {
            let text = String::from_utf8(member(&control, &format!("./{script}"))).unwrap();
            assert!(text.contains("/lib/functions.sh") && text.contains(call), "{text}");
        }
    }
}

#[test]
fn names_of_architectures_stand_once_and_fit_their_processors() {
    let pairs = architectures();
    let names: BTreeSet<_> = pairs.iter().map(|(_, name)| name).collect();
    assert_eq!(names.len(), pairs.len());
    for (target, name) in &pairs {
        let machine = name.split('_').next().unwrap();
        let fits = match target.split('-').next().unwrap() {
            // Hard float: only where the name has a unit.
            "armv7" => {
                name.starts_with("arm_cortex-a") && (name.contains("vfp") || name.contains("neon"))
            }
            "arm" if target.ends_with("hf") => {
                name.starts_with("arm_arm11") && name.contains("vfp")
            }
            "arm" | "armv5te" => machine == "arm" && !name.contains("vfp"),
            other => machine == other || name == other,
        };
        assert!(fits, "{target} {name}");
    }
    assert_eq!(targets().len(), 6);
}

#[test]
fn what_is_built_for_packages_is_what_has_names() {
    let script = fs::read_to_string(workspace().join("scripts/packages")).unwrap();
    let words = script.split(|sign: char| sign.is_whitespace() || "()".contains(sign));
    let mut built: Vec<_> = words.filter(|word| word.contains("-unknown-linux-musl")).collect();
    built.sort_unstable();
    assert_eq!(built, targets());
}

#[test]
fn index_names_each_package_with_its_digest() {
    let folder = dist().join("packages");
    let index = fs::read_to_string(folder.join("Packages")).unwrap();
    let mut named = BTreeSet::new();
    for record in index.split("\n\n").filter(|record| !record.is_empty()) {
        let field = |key: &str| {
            let line = record.lines().find_map(|line| line.strip_prefix(&format!("{key}: ")));
            line.unwrap_or_else(|| panic!("no {key} in {record}")).to_owned()
        };
        let file = folder.join(field("Filename"));
        assert_eq!(field("SHA256sum"), Sha256::of_file(&file));
        assert_eq!(field("Size"), fs::metadata(&file).unwrap().len().to_string());
        assert!(field("Filename").ends_with(&format!("_{}.ipk", field("Architecture"))));
        named.insert(field("Filename"));
    }
    let made: BTreeSet<_> =
        packages(dist()).into_keys().filter(|name| name.ends_with(".ipk")).collect();
    assert_eq!(named, made);
}

#[test]
fn tarballs_hold_the_program_its_service_and_the_page() {
    for target in targets() {
        let name = format!("spdy-agent-{VERSION}-{target}");
        let archive = fs::read(dist().join(format!("packages/{name}.tar.gz"))).unwrap();
        let wanted = [
            ("-rw-r--r--", "LICENSE-APACHE"),
            ("-rw-r--r--", "LICENSE-MIT"),
            ("-rw-r--r--", "README.md"),
            ("-rw-r--r--", "agent.conf"),
            ("-rwxr-xr-x", "install.sh"),
            ("-rwxr-xr-x", "spdy-agent"),
            ("-rwxr-xr-x", "spdy-agent-service"),
            ("-rwxr-xr-x", "uninstall.sh"),
        ];
        let wanted: Vec<_> =
            wanted.iter().map(|(mode, file)| format!("{mode} 0/0 {name}/{file}")).collect();
        assert_eq!(entries(&archive)[1..], wanted);
        let program = fs::read(dist().join(&target).join("spdy-agent")).unwrap();
        assert!(member(&archive, &format!("{name}/spdy-agent")) == program);
    }
    // Which box takes which is said for each.
    let page = fs::read_to_string(workspace().join("docs/other-nas.md")).unwrap();
    for target in targets() {
        assert!(page.contains(&format!("| {target} |")), "{target}");
    }
}

#[test]
fn packages_of_the_same_programs_are_equal_wherever_they_are_made() {
    // Another folder, other times, another order on the disk, another umask.
    let source = TempRoot::new();
    for name in ["docs/other-nas.md", "LICENSE-MIT", "LICENSE-APACHE", "Cargo.toml"] {
        source.write(name, &fs::read(workspace().join(name)).unwrap());
    }
    let copied = Command::new("sh")
        .args(["-c", "umask 077; cp -r \"$1\" \"$2\" && chmod 700 \"$2\"/openwrt/package", "sh"])
        .args([&workspace().join("openwrt"), source.path()])
        .status();
    assert!(copied.unwrap().success());
    let other = TempRoot::new();
    for target in targets().iter().rev() {
        let program = dist().join(target).join("spdy-agent");
        fs::create_dir_all(other.join(target)).unwrap();
        fs::copy(program, other.join(target).join("spdy-agent")).unwrap();
    }
    package(source.path(), other.path());
    let digests = |dist: &Path| {
        let all = packages(dist).into_iter();
        all.map(|(name, path)| (name, Sha256::of_file(&path))).collect::<BTreeMap<_, _>>()
    };
    assert_eq!(digests(dist()), digests(other.path()));
    assert_eq!(packages(dist()).len(), architectures().len() + targets().len() + 2);
}

#[test]
fn packages_that_were_made_hold_programs_of_their_processors() {
    let made = fs::read_dir(workspace().join("dist/packages")).into_iter().flatten();
    let mut seen = 0;
    let names: BTreeMap<_, _> =
        architectures().into_iter().map(|(target, name)| (name, target)).collect();
    for path in made.map(|entry| entry.unwrap().path()) {
        if path.extension().is_none_or(|extension| extension != "ipk") {
            continue;
        }
        seen += 1;
        let file = path.file_stem().unwrap().to_str().unwrap();
        let architecture = file.splitn(3, '_').nth(2).unwrap();
        let target = &names[architecture];
        let program =
            member(&member(&fs::read(&path).unwrap(), "./data.tar.gz"), "./usr/bin/spdy-agent");
        // ELF: class, and e_machine of EM_ARM, EM_X86_64, EM_AARCH64.
        let wanted = match target.split('-').next().unwrap() {
            "aarch64" => (2, 183),
            "x86_64" => (2, 62),
            _ => (1, 40),
        };
        assert_eq!((program[4], u16::from_le_bytes([program[18], program[19]])), wanted, "{file}");
    }
    if seen == 0 {
        spdy_tests::skip::skipped("`make packages` was not run");
    }
}
