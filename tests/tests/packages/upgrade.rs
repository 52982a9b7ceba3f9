//! What the packages do where systemd runs: services that start, go on with the next version, and
//! stay as somebody left them.

use std::fs;

use spdy_tests::{
    fixture::wait_until,
    machine::{Init, Machine},
};

use super::{Packages, machine};

/// A machine with the first version of both, an agent that has joined, and a film.
pub(super) fn installed() -> Option<Machine> {
    let machine = machine(Init::Systemd)?;
    let [first, second] = Packages::both();
    first.put(&machine, "/root/first");
    second.put(&machine, "/root/second");
    machine.run("dpkg --install /root/first/*.deb");
    machine.run("mkdir -p /srv/films && head -c 3000000 /dev/urandom >/srv/films/film");
    let code = machine.run("spdy-proxy pair nas1 --access open --address localhost:1444");
    let joined = machine.attempt("spdy-agent join --share films=/srv/films", &code);
    assert!(joined.status.success(), "{}{}", joined.output, joined.errors);
    Some(machine)
}

pub(super) fn property(machine: &Machine, unit: &str, name: &str) -> String {
    machine.run(&format!("systemctl show --property {name} --value {unit}")).trim().to_owned()
}

fn fetch(machine: &Machine) -> String {
    machine.run("curl -skf https://localhost:1443/films/film | cmp - /srv/films/film && echo same")
}

#[test]
fn upgrade_drops_no_visitor() {
    let Some(machine) = installed() else { return };
    assert_eq!(fetch(&machine), "same\n");
    let [agent, proxy] =
        ["spdy-agent", "spdy-proxy"].map(|unit| property(&machine, unit, "MainPID"));

    // Visitors come one after the other, each on a connection of its own, during all of it.
    let visitors = "while [ ! -e /tmp/enough ]; do \
                    curl -skf --max-time 30 https://localhost:1443/films/film \
                    | cmp - /srv/films/film >>/tmp/visits 2>&1 && echo served >>/tmp/visits \
                    || echo lost >>/tmp/visits; done";
    let mut command = machine.command();
    let visitors = std::thread::spawn(move || {
        command.args(["sh", "-c", visitors]).status().expect("there is a shell")
    });
    let visits = |word: &str| {
        let text = fs::read_to_string(machine.path("/tmp/visits")).unwrap_or_default();
        text.lines().filter(|line| *line == word).count()
    };
    wait_until("visitors come", || visits("served") > 3);
    machine.run("dpkg --install /root/second/*.deb");
    let is_new = || {
        property(&machine, "spdy-agent", "MainPID") != agent
            && property(&machine, "spdy-proxy", "MainPID") != proxy
    };
    wait_until("both are new processes", is_new);
    wait_until("the old proxy is gone", || {
        !machine.attempt(&format!("kill -0 {proxy}"), "").status.success()
    });
    let before = visits("served");
    wait_until("visitors come afterwards", || visits("served") > before + 3);
    fs::write(machine.path("/tmp/enough"), "").unwrap();
    visitors.join().unwrap();
    assert_eq!(
        visits("lost"),
        0,
        "{}",
        machine.run("sort /tmp/visits | uniq -c; journalctl -n 50")
    );
    for unit in ["spdy-agent", "spdy-proxy"] {
        assert_eq!(property(&machine, unit, "ActiveState"), "active");
        assert_eq!(property(&machine, unit, "NRestarts"), "0");
    }
}

#[test]
fn services_stay_as_somebody_left_them() {
    let Some(machine) = installed() else { return };
    let state = |unit: &str| property(&machine, unit, "ActiveState");
    machine.run("systemctl stop spdy-agent; systemctl disable --now --quiet spdy-proxy");
    machine.run("dpkg --install /root/second/*.deb");
    assert_eq!([state("spdy-agent"), state("spdy-proxy")], ["inactive", "inactive"]);
    assert_eq!(machine.run("systemctl is-enabled spdy-agent"), "enabled\n");
    assert_eq!(machine.attempt("systemctl is-enabled spdy-proxy", "").output, "disabled\n");

    machine.run("systemctl start spdy-agent; systemctl enable --now --quiet spdy-proxy");
    assert_eq!(fetch_again(&machine), "same\n");
    machine.run("dpkg --remove spdy-agent spdy-proxy");
    assert_eq!([state("spdy-agent"), state("spdy-proxy")], ["inactive", "inactive"]);
    assert_eq!(property(&machine, "spdy-agent", "LoadState"), "not-found");

    // Installed again, both go on where they were.
    machine.run("dpkg --install /root/first/*.deb");
    assert_eq!(fetch_again(&machine), "same\n");
    machine.run("dpkg --purge spdy-agent spdy-proxy");
    assert_eq!(machine.attempt("pgrep -x 'spdy-(agent|proxy)'", "").output, "");
}

#[test]
fn systemd_opens_the_ports_of_the_proxy() {
    let Some(machine) = installed() else { return };
    // As docs/operate.md says it.
    machine.run("systemctl stop spdy-proxy && systemctl enable --quiet --now spdy-proxy.socket");
    let state = || property(&machine, "spdy-proxy", "ActiveState");
    assert_eq!(state(), "inactive");
    // The agent, or this visitor, comes and finds it started.
    assert_eq!(fetch_again(&machine), "same\n");
    assert_eq!(state(), "active");
    machine.run("systemctl restart spdy-proxy");
    assert_eq!(fetch_again(&machine), "same\n");
    machine.run("dpkg --install /root/second/spdy-proxy_*.deb");
    assert_eq!(fetch_again(&machine), "same\n");
    assert_eq!(property(&machine, "spdy-proxy.socket", "ActiveState"), "active");
    machine.run("dpkg --purge spdy-proxy && ! systemctl is-active --quiet spdy-proxy.socket");
    assert_eq!(machine.run("find /etc -name 'spdy-proxy*'"), "");
}

#[test]
fn agent_is_not_started_before_it_has_joined() {
    let Some(machine) = machine(Init::Systemd) else { return };
    Packages::both()[0].put(&machine, "/root/first");
    let done = machine.attempt("dpkg --install /root/first/spdy-agent_*.deb", "");
    assert!(done.status.success(), "{}", done.errors);
    assert_eq!(property(&machine, "spdy-agent", "ActiveState"), "inactive");
    assert_eq!(property(&machine, "spdy-agent", "ConditionResult"), "no");
    assert_eq!(machine.run("systemctl list-units --failed --no-legend 'spdy*'"), "");
}

/// The same once the agent's tunnel is there.
fn fetch_again(machine: &Machine) -> String {
    wait_until("the agent is connected", || {
        machine.attempt("spdy-agent status", "").status.success()
    });
    fetch(machine)
}
