//! Who started this process, and whether it may give way to another one.
//!
//! It owns which of them take the end of this process for the end of the service. It does not own the
//! handover ([`crate::handover`]).

use std::{env, fs, os::unix::process::parent_id, process};

/// Why this process must not give way to a new one, in words for the operator; `None`: it may.
/// `is_first`: no process of ours handed over to this one.
pub(super) fn objection(is_first: bool) -> Option<String> {
    if process::id() == 1 {
        return Some(
            "this process is PID 1, its end would be that of the container: restart the container"
                .to_owned(),
        );
    }
    if !is_first {
        // Who started the first one does not follow its child, or has been told of this one.
        return None;
    }
    let is_notified = env::var_os("NOTIFY_SOCKET").is_some();
    let ancestors = ancestors();
    let mut followers = ancestors.iter().enumerate();
    followers.find_map(|(at, ancestor)| ancestor.objection(at == 0, is_notified))
}

/// A process that may go by the end of this one.
#[derive(Debug)]
struct Ancestor {
    id: u32,
    /// As /proc has it: the first 15 bytes of its name.
    name: String,
}

impl Ancestor {
    /// Why its end, or what it does at ours, would be the end of the service.
    fn objection(&self, is_parent: bool, is_notified: bool) -> Option<String> {
        let Self { id, name } = self;
        let is_manager = FOLLOWING.contains(&name.as_str());
        let is_untold = is_parent && name == "systemd" && !is_notified;
        // A shell or a script as PID 1 ends with its last command, and the container with it.
        let is_container = *id == 1 && !HOST_INITS.contains(&name.as_str());
        (is_manager || is_untold || is_container).then(|| {
            format!(
                "{name} (process {id}) started this process and takes its end for that of the \
                 service: restart the service or container"
            )
        })
    }
}

/// The parent of this process and, as long as those are scripts, which end with their last command,
/// what is above.
fn ancestors() -> Vec<Ancestor> {
    let mut ancestors = Vec::new();
    let mut id = parent_id();
    while id != 0 && ancestors.len() < ANCESTORS {
        let Some(Stat { name, parent }) = Stat::of(id) else { break };
        // A script has the name of its file; what runs it has that of the shell.
        let exe = fs::read_link(format!("/proc/{id}/exe")).unwrap_or_default();
        let exe = exe.file_name().map(|exe| exe.to_string_lossy().into_owned());
        let is_script = SCRIPTS.contains(&exe.as_ref().unwrap_or(&name).as_str());
        ancestors.push(Ancestor { id, name });
        if !is_script {
            break;
        }
        id = parent;
    }
    ancestors
}

/// What `/proc/ID/stat` says of a process.
#[derive(Debug, PartialEq, Eq)]
struct Stat {
    name: String,
    parent: u32,
}

impl Stat {
    /// `None`: it has ended, or there is no /proc.
    fn of(id: u32) -> Option<Self> {
        let text = fs::read(format!("/proc/{id}/stat")).ok()?;
        Self::parse(&String::from_utf8_lossy(&text))
    }

    /// `ID (NAME) STATE PARENT ...`; a name may have spaces and parentheses.
    fn parse(text: &str) -> Option<Self> {
        let (start, rest) = text.rsplit_once(')')?;
        let (_, name) = start.split_once('(')?;
        let parent = rest.split_whitespace().nth(1)?.parse().ok()?;
        Some(Self { name: name.to_owned(), parent })
    }
}

/// Programs, as /proc names them, that run one child and go by its end.
const FOLLOWING: [&str; 13] = [
    "catatonit",
    "circusd",
    "docker-init",
    "dumb-init",
    "openrc-run",
    "podman-init",
    "procd",
    "runsv",
    "s6-supervise",
    "supervise",
    "supervise-daemo",
    "supervisord",
    "tini",
];

/// Names of a PID 1 that takes in what others started, and does not end with it.
const HOST_INITS: [&str; 2] = ["init", "systemd"];
/// Programs that end with the last command that they started.
const SCRIPTS: [&str; 10] =
    ["ash", "bash", "busybox", "dash", "ksh", "mksh", "sh", "timeout", "toybox", "zsh"];
/// Ancestors that are looked at.
const ANCESTORS: usize = 32;

#[cfg(test)]
mod tests {
    use super::*;

    fn objection_of(name: &str, id: u32, is_parent: bool, is_notified: bool) -> Option<String> {
        Ancestor { id, name: name.to_owned() }.objection(is_parent, is_notified)
    }

    #[test]
    fn service_managers_that_go_by_their_child_are_known() {
        for name in ["tini", "runsv", "s6-supervise", "supervise-daemo"] {
            assert!(objection_of(name, 7, true, false).is_some(), "{name}");
            assert!(objection_of(name, 1, false, true).is_some(), "{name}");
        }
        assert!(objection_of("systemd", 1, true, false).is_some());
        assert!(objection_of("systemd", 1, true, true).is_none());
        // Above a shell that was logged in to.
        assert!(objection_of("systemd", 1, false, false).is_none());
        assert!(objection_of("bash", 7, true, false).is_none());
        assert!(objection_of("init", 1, true, false).is_none());
    }

    #[test]
    fn whatever_is_first_in_a_container_ends_with_us() {
        for name in ["sh", "timeout", "entrypoint.sh", "python3"] {
            assert!(objection_of(name, 1, true, false).is_some(), "{name}");
            assert!(objection_of(name, 1, false, true).is_some(), "{name}");
        }
    }

    #[test]
    fn names_in_proc_may_have_spaces_and_parentheses() {
        let stat = Stat::parse("42 (a) b (c)) S 7 40 39 0 -1 4194560");
        assert_eq!(stat, Some(Stat { name: "a) b (c)".to_owned(), parent: 7 }));
        assert_eq!(Stat::parse("42 (a) S"), None);
        assert_eq!(Stat::parse(""), None);
        let own = Stat::of(process::id()).map(|stat| stat.parent);
        assert_eq!(own, Some(parent_id()));
    }
}
