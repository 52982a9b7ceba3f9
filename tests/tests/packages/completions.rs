//! The completions offer what the programs have, in each shell.

use std::{collections::BTreeSet, fs, path::PathBuf, process::Command};

use spdy_tests::{
    fixture::{TempRoot, binary, finished},
    source::workspace,
};

use super::{PROGRAMS, help::helps};

/// What each word of a command line can be continued with, in one shell.
trait Shell {
    /// Candidates for the last word of `line`.
    fn candidates(&self, line: &str) -> BTreeSet<String>;
}

/// The completion of a program as its package has it.
fn source(folder: &TempRoot, shell: &str, program: &str) -> PathBuf {
    let text = fs::read_to_string(workspace().join(format!("systemd/completions/spdy.{shell}")));
    let path = folder.join(&format!("_{program}"));
    fs::write(&path, text.unwrap().replace("@PROGRAM@", program)).unwrap();
    path
}

/// A command of a shell that finds the programs under test.
fn command(shell: &str) -> Command {
    let mut command = Command::new(shell);
    let own = binary("spdy-agent").parent().unwrap().to_owned();
    let paths = std::env::var_os("PATH").unwrap();
    let paths = std::iter::once(own).chain(std::env::split_paths(&paths));
    command.env("PATH", std::env::join_paths(paths).unwrap()).env("LC_ALL", "C.UTF-8");
    command
}

struct Bash(PathBuf);

impl Shell for Bash {
    fn candidates(&self, line: &str) -> BTreeSet<String> {
        // What readline does with the function that `complete` has named.
        let script = r#"
            set -u
            source "$1"
            COMP_LINE=$2 COMP_POINT=${#2}
            read -ra COMP_WORDS <<<"$2"
            [[ $2 != *' ' ]] || COMP_WORDS+=('')
            COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
            function=$(complete -p "${COMP_WORDS[0]}" | sed 's/.*-F \([^ ]*\) .*/\1/')
            compopt() { compgen -f -- "${COMP_WORDS[-1]}"; }
            "$function" "${COMP_WORDS[0]}" "${COMP_WORDS[-1]}" "${COMP_WORDS[-2]}"
            printf '%s\n' "${COMPREPLY[@]}"
        "#;
        let said =
            finished(command("bash").args(["-c", script, "bash"]).arg(&self.0).arg(line), "");
        said.split_whitespace().map(str::to_owned).collect()
    }
}

struct Fish(PathBuf);

impl Shell for Fish {
    fn candidates(&self, line: &str) -> BTreeSet<String> {
        let script = "source $argv[1]; complete --do-complete $argv[2]";
        let mut fish = command("fish");
        let said = finished(fish.args(["--no-config", "-c", script]).arg(&self.0).arg(line), "");
        said.lines().map(|line| line.split('\t').next().unwrap().to_owned()).collect()
    }
}

struct Zsh(PathBuf);

impl Shell for Zsh {
    fn candidates(&self, line: &str) -> BTreeSet<String> {
        // An interactive shell on a terminal of its own; what would be shown is written down.
        let script = r#"
            zmodload zsh/zpty
            zpty shell zsh -f -i
            zpty -w shell "PS1=; fpath=(${1:h} \$fpath); autoload -Uz compinit; compinit -D -u"
            zpty -w shell "compadd() { local -a found; builtin compadd -O found \"\$@\"; \
                print -rl -- \$found >>$3; builtin compadd \"\$@\" }"
            zpty -w shell "done_() { : >$3.done }; zle -N done_; bindkey '^X' done_"
            zpty -n -w shell "$2"$'\t\x18'
            while [[ ! -e $3.done ]]; do zpty -r -t shell; done >/dev/null
            zpty -d shell
        "#;
        let folder = TempRoot::new();
        let out = folder.join("found");
        let mut zsh = command("zsh");
        finished(zsh.args(["-f", "-c", script, "zsh"]).arg(&self.0).arg(line).arg(&out), "");
        let said = fs::read_to_string(&out).unwrap_or_default();
        said.lines().map(str::to_owned).collect()
    }
}

fn check(name: &str, shell: impl Fn(PathBuf) -> Box<dyn Shell>) {
    let folder = TempRoot::new();
    for program in PROGRAMS {
        let shell = shell(source(&folder, name, program));
        for (words, help) in helps(program) {
            let line = std::iter::once(program).chain(words.iter().map(String::as_str));
            let line = line.collect::<Vec<_>>().join(" ");
            let flags: BTreeSet<_> = help.flags.keys().cloned().collect();
            let found = shell.candidates(&format!("{line} --"));
            assert_eq!(found, flags, "{name}: {line} --");
            let found = shell.candidates(&format!("{line} "));
            let commands: BTreeSet<_> = help.commands.iter().cloned().collect();
            if !commands.is_empty() {
                assert_eq!(found, commands, "{name}: {line}");
            }
        }
        let levels = BTreeSet::from(["debug", "error", "info", "warn"].map(str::to_owned));
        assert_eq!(shell.candidates(&format!("{program} --log ")), levels, "{name}");
        let files = shell.candidates(&format!("{program} --config {}/", folder.path().display()));
        assert!(
            files.iter().any(|file| file.ends_with(&format!("_{program}"))),
            "{name}: {files:?}"
        );
    }
    let proxy = shell(source(&folder, name, "spdy-proxy"));
    let rules = BTreeSet::from(["open", "password"].map(str::to_owned));
    assert_eq!(proxy.candidates("spdy-proxy pair --access "), rules, "{name}");
}

#[test]
fn bash_offers_every_flag_and_command() {
    finished(
        Command::new("bash").arg("-n").arg(workspace().join("systemd/completions/spdy.bash")),
        "",
    );
    check("bash", |path| Box::new(Bash(path)));
}

#[test]
fn zsh_offers_every_flag_and_command() {
    check("zsh", |path| Box::new(Zsh(path)));
}

#[test]
fn fish_offers_every_flag_and_command() {
    check("fish", |path| Box::new(Fish(path)));
}
