//! What is in the packages, for every target that was built.

use std::{collections::BTreeMap, fs, process::Command};

use spdy_tests::{
    fixture::{TempRoot, finished, output},
    source::workspace,
};

use super::{PROGRAMS, Packages, TARGETS, built, host, tree};

/// Folders that are in every package of a program; the last one depends on who installs it.
fn files(program: &str, is_deb: bool) -> Vec<(String, u32)> {
    let conf = program.trim_start_matches("spdy-");
    let zsh = if is_deb { "vendor-completions" } else { "site-functions" };
    let mut files = vec![
        format!("usr/lib/systemd/system/{program}.service"),
        format!("usr/lib/sysusers.d/{program}.conf"),
        format!("usr/share/bash-completion/completions/{program}"),
        format!("usr/share/doc/{program}/changelog.gz"),
        format!("usr/share/doc/{program}/copyright"),
        format!("usr/share/doc/{program}/crates.cdx.json.gz"),
        format!("usr/share/doc/{program}/third-party.gz"),
        format!("usr/share/fish/vendor_completions.d/{program}.fish"),
        format!("usr/share/man/man5/{conf}.conf.5.gz"),
        format!("usr/share/man/man8/{program}.8.gz"),
        format!("usr/share/zsh/{zsh}/_{program}"),
    ];
    if is_deb {
        files.push(format!("usr/share/doc/{program}/changelog.Debian.gz"));
        files.push(format!("usr/share/lintian/overrides/{program}"));
    } else {
        files.push(format!("usr/share/licenses/{program}/LICENSE-APACHE"));
    }
    if program == "spdy-proxy" {
        files.push("usr/lib/systemd/system/spdy-proxy.socket".to_owned());
        files.push("etc/spdy-proxy/proxy.conf".to_owned());
    }
    let mut files: Vec<_> = files.into_iter().map(|file| (file, 0o644)).collect();
    files.push((format!("usr/bin/{program}"), 0o755));
    if program == "spdy-agent" {
        files.push(("usr/lib/spdy-agent/setup".to_owned(), 0o755));
    }
    files.sort();
    files
}

/// Looks at what a package was unpacked to.
fn check(program: &str, target: &str, is_deb: bool, found: &BTreeMap<String, (u32, Vec<u8>)>) {
    let modes: Vec<_> = found.iter().map(|(name, file)| (name.clone(), file.0)).collect();
    assert_eq!(modes, files(program, is_deb), "{program} for {target}");
    let binary = fs::read(built(target, program).unwrap()).unwrap();
    assert!(found[&format!("usr/bin/{program}")].1 == binary, "{program} for {target}");
    for (name, (_, content)) in found.iter().filter(|(name, _)| !name.starts_with("usr/bin")) {
        assert!(!content.is_empty(), "{name}");
        let text = String::from_utf8_lossy(content);
        assert!(!text.contains("@PROGRAM@") && !text.contains("@VERSION@"), "{name}");
    }
}

/// Looks at the scripts of a package, as they are in it.
fn check_scripts(control: &TempRoot, architecture: &str) {
    let scripts = ["preinst", "postinst", "prerm", "postrm"].map(|name| control.join(name));
    // A case or a loop that was filled in may have one word only.
    let mut shellcheck = Command::new("shellcheck");
    finished(shellcheck.args(["-s", "sh", "-e", "SC2043,SC2194,SC2195"]).args(&scripts), "");
    for (processor, is_taken) in [("armv5tel", false), ("armv6l", false), ("armv7l", true)] {
        let folder = TempRoot::new();
        let uname = folder.join("uname");
        fs::write(&uname, format!("#!/bin/sh\necho {processor}\n")).unwrap();
        finished(Command::new("chmod").arg("755").arg(&uname), "");
        let path = format!("{}:{}", folder.path().display(), std::env::var("PATH").unwrap());
        let done = output(Command::new("sh").arg(&scripts[0]).arg("install").env("PATH", path), "");
        assert_eq!(done.status.success(), is_taken || architecture != "armhf", "{processor}");
    }
}

#[test]
fn scripts_are_without_fault() {
    let files = ["systemd/package", "scripts/packages", "tests/src/machine.sh"];
    let mut shellcheck = Command::new("shellcheck");
    finished(shellcheck.current_dir(workspace()).args(files), "");
    let completion = "systemd/completions/spdy.bash";
    let mut shellcheck = Command::new("shellcheck");
    finished(shellcheck.current_dir(workspace()).args(["-s", "bash", completion]), "");
}

#[test]
fn every_package_holds_its_program_and_what_belongs_to_it() {
    let mut seen = 0;
    for (target, deb, rpm) in TARGETS {
        if built(target, "spdy-agent").is_none() {
            spdy_tests::skip::skipped_part(format_args!("cross/build {target} has not run"));
            continue;
        }
        let packages = Packages::build(target, "0.0.3");
        for program in PROGRAMS.into_iter().filter(|program| built(target, program).is_some()) {
            let folder = TempRoot::new();
            let file = packages.deb(program, deb);
            finished(Command::new("dpkg-deb").arg("-x").arg(&file).arg(folder.path()), "");
            check(program, target, true, &tree(folder.path()));
            let field = |name: &str| {
                let said = finished(Command::new("dpkg-deb").arg("-f").arg(&file).arg(name), "");
                said.trim().to_owned()
            };
            assert_eq!(field("Package"), program);
            assert_eq!(field("Architecture"), deb);
            assert_eq!(field("Version"), "0.0.3-1");
            assert_eq!(field("Depends"), "", "a static program needs nothing");
            let owners = finished(Command::new("dpkg-deb").arg("-c").arg(&file), "");
            assert!(owners.lines().all(|line| line.contains(" root/root ")), "{owners}");
            let control = TempRoot::new();
            finished(Command::new("dpkg-deb").arg("-e").arg(&file).arg(control.path()), "");
            let kept = fs::read_to_string(control.join("conffiles")).unwrap_or_default();
            let conf = if program == "spdy-proxy" { "/etc/spdy-proxy/proxy.conf" } else { "" };
            assert_eq!(kept.trim(), conf);
            check_scripts(&control, deb);
            let sums = control.join("md5sums");
            let mut md5sum = Command::new("md5sum");
            finished(md5sum.args(["--quiet", "-c"]).arg(sums).current_dir(folder.path()), "");

            let folder = TempRoot::new();
            let file = packages.rpm(program, rpm);
            // Not by bsdtar: what rpm itself reads is what counts.
            let unpack = format!("rpm2cpio '{}' | cpio -idm --quiet", file.display());
            finished(Command::new("sh").args(["-euc", &unpack]).current_dir(folder.path()), "");
            check(program, target, false, &tree(folder.path()));
            let query = |format: &str| {
                let mut command = Command::new("rpm");
                finished(command.args(["-qp", "--nosignature", "--qf", format]).arg(&file), "")
            };
            assert_eq!(
                query("%{NAME} %{VERSION} %{ARCH} %{OS}"),
                format!("{program} 0.0.3 {rpm} linux")
            );
            let owners = query("[%{FILEUSERNAME}:%{FILEGROUPNAME}\n]");
            assert!(owners.lines().all(|line| line == "root:root"), "{owners}");
            let kept = query("[%{FILEFLAGS:fflags} %{FILENAMES}\n]");
            let kept: Vec<_> = kept.lines().filter(|line| line.starts_with("cn ")).collect();
            let conf: &[_] =
                if program == "spdy-proxy" { &["cn /etc/spdy-proxy/proxy.conf"] } else { &[] };
            assert_eq!(kept, conf);
            seen += 1;
        }
    }
    assert!(seen >= 2, "nothing was built");
}

#[test]
fn what_is_linked_into_a_program_is_told_with_its_licences() {
    let folder = TempRoot::new();
    let (target, deb, _) = host();
    let [packages, _] = Packages::both();
    for program in PROGRAMS {
        let file = packages.deb(program, deb);
        finished(Command::new("dpkg-deb").arg("-x").arg(&file).arg(folder.path()), "");
        let path = folder.join(&format!("usr/share/doc/{program}/third-party.gz"));
        let text = finished(Command::new("gzip").arg("-dc").arg(path), "");
        let list =
            fs::read_to_string(workspace().join(format!("dist/{target}/{program}.cdx.json")));
        let list: serde_json::Value = serde_json::from_str(&list.unwrap()).unwrap();
        let mut crates = 0;
        for component in list["components"].as_array().unwrap() {
            let [name, version] = ["name", "version"].map(|key| component[key].as_str().unwrap());
            if component["purl"].as_str().unwrap().starts_with("pkg:cargo/spdy-") {
                continue;
            }
            let heads = match name {
                "std" => ["\n== standard library of Rust: ".to_owned(), String::new()],
                "musl" => ["\n== musl\n".to_owned(), String::new()],
                _ => [", ", ": "].map(|end| format!("\n== {name}-{version}{end}")),
            };
            let is_told = heads.iter().any(|head| !head.is_empty() && text.contains(head));
            assert!(is_told, "{program}: {name} {version} has no licence");
            crates += 1;
        }
        assert!(crates > 30 && text.contains("WITHOUT WARRANTY OF ANY KIND"), "{crates}");
    }
}

#[test]
fn lintian_finds_nothing() {
    let (_, deb, _) = host();
    for program in PROGRAMS {
        let mut command = Command::new("lintian");
        command.args(["--allow-root", "--fail-on", "error,warning", "--tag-display-limit", "0"]);
        // The address of whoever publishes the packages comes by MAINTAINER.
        command.args(["--suppress-tags", "bogus-mail-host"]);
        let done = output(command.arg(Packages::both()[0].deb(program, deb)), "");
        let said = String::from_utf8_lossy(&done.stdout);
        assert!(done.status.success(), "{said}{}", String::from_utf8_lossy(&done.stderr));
    }
}

#[test]
fn the_same_programs_give_the_same_packages() {
    let [first, _] = Packages::both();
    let again = TempRoot::new();
    // Neither the zone, the language nor the mask of files of who builds can be seen.
    let script =
        format!("umask 077; exec '{}' {}", workspace().join("systemd/package").display(), host().0);
    let mut command = Command::new("sh");
    command
        .args(["-c", &script])
        .env("PACKAGES", again.path())
        .env("PACKAGE_VERSION", first.version);
    finished(command.env("TZ", "Asia/Tokyo").env("LC_ALL", "C.UTF-8"), "");
    let (first, again) = (tree(first.folder.path()), tree(again.path()));
    let names: Vec<_> = first.keys().collect();
    assert_eq!(names.len(), 4, "{names:?}");
    assert_eq!(names, again.keys().collect::<Vec<_>>());
    for (name, (_, content)) in &first {
        assert!(again[name].1 == *content, "{name} differs");
    }
}

#[test]
fn a_target_without_programs_or_packages_is_refused() {
    let script = workspace().join("systemd/package");
    for arguments in [&["m68k-unknown-linux-gnu"][..], &[]] {
        let done = output(Command::new(&script).args(arguments), "");
        assert_eq!(done.status.code(), Some(64));
    }
}

#[test]
fn versions_grow_from_before_a_release_to_after_it() {
    let folder = TempRoot::new();
    fs::create_dir(folder.join("systemd")).unwrap();
    fs::copy(workspace().join("systemd/package"), folder.join("systemd/package")).unwrap();
    fs::copy(workspace().join("Cargo.toml"), folder.join("Cargo.toml")).unwrap();
    let version = || {
        let mut command = Command::new(folder.join("systemd/package"));
        finished(command.arg("--version").env_remove("PACKAGE_VERSION"), "").trim().to_owned()
    };
    let git = |words: &str| {
        let who = ["-c", "user.name=test", "-c", "user.email=test@localhost"];
        let words = words.split(' ');
        finished(Command::new("git").current_dir(folder.path()).args(who).args(words), "");
    };
    let number = env!("CARGO_PKG_VERSION");
    // An unpacked archive.
    assert_eq!(version(), number);
    git("init -q");
    git("add .");
    git("commit -q -m one --date=2026-01-01T00:00:00Z");
    let mut versions = vec![version()];
    assert!(versions[0].starts_with(&format!("{number}~20")), "{versions:?}");
    git(&format!("tag v{number}"));
    versions.push(version());
    assert_eq!(versions[1], number);
    for commit in ["two", "three"] {
        git(&format!("commit -q --allow-empty -m {commit}"));
        versions.push(version());
    }
    for pair in versions.windows(2) {
        let arguments = ["--compare-versions", &pair[0], "lt", &pair[1]];
        finished(Command::new("dpkg").args(arguments), "");
        let lua = format!("%{{lua: print(rpm.vercmp('{}', '{}'))}}", pair[0], pair[1]);
        let compared = finished(Command::new("rpm").args(["-E", &lua]), "");
        assert_eq!(compared.trim(), "-1", "{pair:?}");
    }
}
