//! What `--help` says, as values.

use std::{collections::BTreeMap, process::Command};

use spdy_tests::fixture::{binary, finished};

/// One flag.
pub(super) struct Flag {
    pub(super) short: Option<String>,
    pub(super) long: String,
    pub(super) text: String,
}

/// What a program or a command of it says of itself.
pub(super) struct Help {
    pub(super) about: String,
    /// By long name, `--` included.
    pub(super) flags: BTreeMap<String, Flag>,
    pub(super) commands: Vec<String>,
}

/// The program itself first, then each command, by its words.
pub(super) fn helps(program: &str) -> Vec<(Vec<String>, Help)> {
    let mut found = Vec::new();
    let mut open = vec![Vec::new()];
    while let Some(words) = open.pop() {
        let help = help(program, &words);
        for command in &help.commands {
            open.push(words.iter().cloned().chain([command.clone()]).collect());
        }
        found.push((words, help));
    }
    assert!(found.len() > 4, "{program} has no commands");
    found
}

fn help(program: &str, words: &[String]) -> Help {
    let text = finished(Command::new(binary(program)).args(words).arg("--help"), "");
    let mut help = Help {
        about: text.split("\n\n").nth(1).unwrap().split_whitespace().collect::<Vec<_>>().join(" "),
        flags: BTreeMap::new(),
        commands: Vec::new(),
    };
    let mut section = "";
    let mut last = String::new();
    for line in text.lines() {
        if line.ends_with(':') && !line.starts_with(' ') {
            section = line;
        } else if let Some(line) = line.strip_prefix("  ").filter(|line| !line.starts_with(' ')) {
            let (head, text) = line.split_once("  ").unwrap_or((line, ""));
            let (name, text) = match head.split_once(' ') {
                // The name is too long for its column, and the text follows on the next line.
                Some((name, text)) if !name.ends_with(',') => (name, text),
                _ => (head, text),
            };
            match section {
                "Options:" => {
                    let (short, long) =
                        name.split_once(", ").map_or((None, name), |(s, l)| (Some(s), l));
                    // `--allow-anonymous take`: one blank is all there was room for.
                    let (long, more) = long.split_once(' ').unwrap_or((long, ""));
                    last = long.to_owned();
                    let text = [more, text].join(" ").trim().to_owned();
                    let short = short.map(str::to_owned);
                    help.flags.insert(last.clone(), Flag { short, long: last.clone(), text });
                }
                "Commands:" => help.commands.push(name.to_owned()),
                _ => {}
            }
        } else if section == "Options:" && !line.is_empty() {
            let flag = help.flags.get_mut(&last).unwrap();
            flag.text = format!("{} {}", flag.text, line.trim()).trim().to_owned();
        }
    }
    assert!(help.flags.contains_key("--help"), "{text}");
    help
}
