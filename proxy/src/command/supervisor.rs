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
    let parent = fs::read_to_string(format!("/proc/{}/comm", parent_id())).unwrap_or_default();
    objection_of(parent.trim(), env::var_os("NOTIFY_SOCKET").is_some())
}

fn objection_of(parent: &str, is_notified: bool) -> Option<String> {
    let follows = FOLLOWING.contains(&parent) || parent == "systemd" && !is_notified;
    follows.then(|| {
        format!(
            "{parent} started this process and takes its end for that of the service: restart the \
             service"
        )
    })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn service_managers_that_go_by_their_child_are_known() {
        for parent in ["tini", "runsv", "s6-supervise", "supervise-daemo"] {
            assert!(objection_of(parent, false).is_some(), "{parent}");
        }
        assert!(objection_of("systemd", false).is_some());
        assert!(objection_of("systemd", true).is_none());
        assert!(objection_of("bash", false).is_none() && objection_of("", false).is_none());
    }
}
