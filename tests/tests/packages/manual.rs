//! The manual pages say of every flag, command and key what the programs say of them.

use std::{collections::BTreeSet, fs, process::Command};

use spdy_tests::{
    fixture::{TempRoot, binary, output},
    source::workspace,
};

use super::{
    PROGRAMS,
    help::{Help, helps},
};

/// An item of a list (`.It`) and the text below it, up to the next macro.
struct Item {
    head: String,
    text: String,
}

fn page(name: &str) -> String {
    fs::read_to_string(workspace().join("systemd/man").join(name)).unwrap()
}

fn items(page: &str) -> Vec<Item> {
    let mut items = Vec::<Item>::new();
    let mut is_open = false;
    for line in page.lines() {
        if let Some(head) = line.strip_prefix(".It ") {
            items.push(Item { head: head.to_owned(), text: String::new() });
            is_open = true;
        } else if line.starts_with('.') {
            is_open = false;
        } else if let Some(item) = items.last_mut().filter(|_| is_open) {
            let line = line.replace("\\-", "-").replace("\\(aq", "'").replace("\\(ga", "`");
            item.text += &(line + " ");
        }
    }
    items
}

/// How a flag stands in the head of an item: `Fl r , Fl -root Ar`.
fn head(help: &Help, flag: &str) -> String {
    let flag = &help.flags[flag];
    let short = flag.short.as_ref().map_or(String::new(), |short| format!("Fl {} , ", &short[1..]));
    format!("{short}Fl {}", &flag.long[1..])
}

#[test]
fn pages_of_the_programs_say_what_their_help_says() {
    for program in PROGRAMS {
        let items = items(&page(&format!("{program}.8")));
        let is_told = |head: &str, text: &str| {
            items.iter().any(|item| {
                let rest = item.head.strip_prefix(head);
                let is_whole = rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(' '));
                is_whole && item.text.starts_with(&(text.to_owned() + " "))
            })
        };
        let mut known = BTreeSet::new();
        for (words, help) in helps(program) {
            for (name, flag) in &help.flags {
                known.insert(name.clone());
                let head = head(&help, name);
                if words.is_empty() {
                    assert!(is_told(&head, &flag.text), "{program}(8): .It {head}\n{}", flag.text);
                    continue;
                }
                if name == "--help" {
                    continue;
                }
                let own = is_told(&head, &flag.text);
                assert!(own, "{program}(8), for {words:?}: .It {head}\n{}", flag.text);
                let command = format!("Cm {}", words.join(" "));
                let used = items.iter().filter(|item| item.head.starts_with(&command));
                let is_used = |item: &Item| item.head.contains(&format!("Fl {}", &name[1..]));
                // `key` itself does nothing.
                let is_told = words == ["key"] || used.clone().any(is_used);
                assert!(is_told, "{program}(8): .It {command} lacks {name}");
            }
            if !words.is_empty() && words != ["key"] {
                let command = format!("Cm {}", words.join(" "));
                assert!(
                    is_told(&command, &help.about),
                    "{program}(8): .It {command}\n{}",
                    help.about
                );
            }
        }
        for item in items.iter().filter(|item| item.head.contains("Fl -")) {
            for word in item.head.split(' ').filter(|word| word.starts_with('-')) {
                assert!(known.contains(&format!("-{word}")), "{program}(8): no flag -{word}");
            }
        }
    }
}

#[test]
fn pages_of_the_configurations_have_every_key_and_no_other() {
    let folder = TempRoot::new();
    for program in PROGRAMS {
        let name = format!("{}.conf", program.trim_start_matches("spdy-"));
        let (_, main) = helps(program).remove(0);
        let items = items(&page(&(name.clone() + ".5")));
        let mut keys = BTreeSet::new();
        for (key, item) in items
            .iter()
            .filter_map(|item| Some((item.head.strip_prefix("Ic ")?.split(' ').next()?, item)))
        {
            keys.insert(key.to_owned());
            // The line behind it is wrong: reading ends there, if this one is right.
            let file = folder.join(&name);
            fs::write(&file, format!("{key}\nnonsense x\n")).unwrap();
            let done = output(Command::new(binary(program)).arg("--config").arg(&file), "");
            let said = String::from_utf8_lossy(&done.stderr);
            assert_eq!(done.status.code(), Some(64), "{said}");
            assert!(!said.contains(&format!("unknown key {key}")), "{name}(5): {key}: {said}");
            assert!(!said.contains(&format!("unknown key {key:?}")), "{name}(5): {key}: {said}");
            if let Some(flag) = main.flags.get(&format!("--{key}")) {
                assert!(item.text.starts_with(&flag.text), "{name}(5): {key}: {}", flag.text);
            } else {
                assert!(["instance", "include"].contains(&key), "{name}(5): {key}");
            }
        }
        for flag in main.flags.keys().map(|flag| flag.trim_start_matches('-')) {
            let is_key = !["config", "check", "version", "help"].contains(&flag);
            assert_eq!(keys.contains(flag), is_key, "{name}(5): {flag}");
        }
    }
}

#[test]
fn pages_are_without_fault() {
    for entry in fs::read_dir(workspace().join("systemd/man")).unwrap() {
        let path = entry.unwrap().path();
        let mut mandoc = Command::new("mandoc");
        let done = output(mandoc.args(["-T", "lint", "-W", "warning"]).arg(&path), "");
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stdout));
        let mut groff = Command::new("groff");
        groff.args(["-mandoc", "-Tascii", "-ww", "-z"]).arg(&path);
        let done = output(&mut groff, "");
        assert_eq!(String::from_utf8_lossy(&done.stderr), "");
    }
}

#[test]
fn units_name_pages_that_exist() {
    let pages = fs::read_dir(workspace().join("systemd/man")).unwrap();
    let pages: BTreeSet<_> =
        pages.map(|page| page.unwrap().file_name().into_string().unwrap()).collect();
    let mut named = 0;
    for entry in fs::read_dir(workspace().join("systemd")).unwrap() {
        let path = entry.unwrap().path();
        let Ok(text) = fs::read_to_string(&path) else { continue };
        let documentation = text.lines().filter_map(|line| line.strip_prefix("Documentation="));
        for page in documentation.flat_map(|line| line.split(' ')) {
            let page = page.strip_prefix("man:").and_then(|page| page.strip_suffix(')'));
            let Some((name, section)) = page.and_then(|page| page.split_once('(')) else {
                continue;
            };
            assert!(pages.contains(&format!("{name}.{section}")), "{}: {name}", path.display());
            named += 1;
        }
    }
    assert!(named >= 3, "{named}");
}
