//! How the programs are linked, as `readelf` sees it, and the lists of what is in them.

use std::{collections::BTreeSet, fs, path::Path, process::Command};

use serde_json::Value;
use spdy_tests::source::workspace;

use super::{TARGETS, X86_64, agent, said};

/// Program headers: name, flags and alignment.
fn segments(program: &Path) -> Vec<(String, String, u64)> {
    let text = said(Command::new("readelf").arg("-lW").arg(program));
    let lines = text.lines().skip_while(|line| !line.contains("Type ")).skip(1);
    let lines = lines.take_while(|line| !line.trim().is_empty());
    lines
        .map(|line| {
            let words: Vec<_> = line.split_whitespace().collect();
            let hexadecimal = words.last().unwrap().trim_start_matches("0x");
            let align = u64::from_str_radix(hexadecimal, 16).unwrap();
            (words[0].to_owned(), words[6..words.len() - 1].concat(), align)
        })
        .collect()
}

#[test]
fn programs_are_static_and_their_memory_is_protected() {
    TARGETS.iter().for_each(|target| is_static_and_protected(target, &agent(target)));
}

#[test]
#[ignore = "wants the proxy as shipped"]
fn the_proxy_is_static_and_may_be_anywhere() {
    let proxy = agent(X86_64).with_file_name("spdy-proxy");
    is_static_and_protected(X86_64, &proxy);
    let head = said(Command::new("readelf").arg("-hW").arg(proxy));
    assert!(head.contains("DYN (Position-Independent Executable file)"), "{head}");
}

fn is_static_and_protected(target: &str, program: &Path) {
    let segments = segments(program);
    let of = |name: &str| segments.iter().filter(|found| found.0 == name).collect::<Vec<_>>();
    assert!(of("INTERP").is_empty(), "{target} wants a loader: {segments:?}");
    assert_eq!(of("GNU_RELRO").len(), 1, "{target}: {segments:?}");
    assert!(matches!(of("GNU_STACK")[..], [(_, flags, _)] if flags == "RW"), "{segments:?}");
    let loads = of("LOAD");
    assert!(loads.iter().any(|load| load.1 == "RE"), "{target}: {segments:?}");
    assert!(loads.iter().all(|load| !load.1.contains("WE")), "{target}: {segments:?}");
    // ARM boxes run kernels with pages of up to 64 KiB.
    let page = if target.starts_with('a') { 64 << 10 } else { 4 << 10 };
    assert!(loads.iter().all(|load| load.2 >= page), "{target}: {segments:?}");
    let text = said(Command::new("readelf").arg("-hdSW").arg(program));
    assert!(!text.contains("(NEEDED)") && !text.contains(".symtab"), "{text}");
    assert!(text.contains(machine(target)), "{target}: {text}");
}

/// What the head of a program for this target says.
fn machine(target: &str) -> &str {
    match target.split('-').next().unwrap() {
        "aarch64" => "Machine:                           AArch64",
        "i686" => "Machine:                           Intel 80386",
        "x86_64" => "Machine:                           Advanced Micro Devices X86-64",
        _ => "Machine:                           ARM",
    }
}

/// Name and version of what cargo links into the agent for a target.
fn tree(target: &str) -> BTreeSet<String> {
    let cargo = std::env::var_os("CARGO").unwrap_or("cargo".into());
    let text = said(Command::new(cargo).args(["tree", "--locked", "-p", "spdy-agent"]).args([
        "-e",
        "normal,no-proc-macro",
        "--prefix",
        "none",
        "--target",
        target,
    ]));
    let words = |line: &str| line.split_whitespace().take(2).collect::<Vec<_>>().join(" ");
    text.lines().map(words).map(|package| package.replace(" v", " ")).collect()
}

#[test]
fn lists_name_what_is_linked_and_nothing_else() {
    let lock = fs::read_to_string(workspace().join("Cargo.lock")).unwrap();
    for target in TARGETS {
        let path = agent(target).with_extension("cdx.json");
        let list: Value = serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
        assert_eq!(
            (&list["bomFormat"], &list["specVersion"]),
            (&"CycloneDX".into(), &"1.5".into())
        );
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let own = &list["metadata"]["component"];
        let sum = said(Command::new("sha256sum").arg(agent(target)));
        assert!(sum.starts_with(&text(&own["hashes"][0]["content"])), "{own}");
        let mut found =
            BTreeSet::from([format!("{} {}", text(&own["name"]), text(&own["version"]))]);
        let mut others = BTreeSet::new();
        for entry in list["components"].as_array().unwrap() {
            assert!(!text(&entry["licenses"][0]["expression"]).contains('/'), "{entry}");
            if !text(&entry["purl"]).starts_with("pkg:cargo/") {
                others.insert(text(&entry["name"]));
                continue;
            }
            found.insert(format!("{} {}", text(&entry["name"]), text(&entry["version"])));
            if text(&entry["name"]) != "spdy-protocol" {
                let sum = text(&entry["hashes"][0]["content"]);
                let line = format!("\nchecksum = \"{sum}\"\n");
                assert!(lock.contains(&line), "{entry}");
            }
        }
        assert_eq!(others, BTreeSet::from(["musl".to_owned(), "std".to_owned()]));
        assert_eq!(found, tree(target), "{target}: left: list, right: cargo tree");
    }
}
