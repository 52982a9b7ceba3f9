//! OpenWrt's service: what it tells procd, the file that it makes of UCI, and when it is told again.

use std::{fs, path::PathBuf};

use spdy_tests::{fixture::wait_until, source::workspace};

use crate::chroot::{Chroot, checked, dist};

/// A box with OpenWrt's programs.
pub fn openwrt() -> Option<Chroot> {
    let own = Chroot::new()?;
    own.overlay(&workspace().join("tests/openwrt"));
    own.tell("syslogd -O /tmp/log");
    wait_until("the log listens", || own.at("dev/log").exists());
    own.write("etc/opkg.conf", "arch all 1\narch noarch 1\narch x86_64 10\n");
    // As at each start of a box.
    own.write("etc/config/system", "config system\n\toption hostname 'OpenWrt'\n");
    own.tell("reload_config");
    Some(own)
}

/// The same with our files in their places, and the agent of this build.
fn with_service(settings: &str) -> Option<Chroot> {
    let own = openwrt()?;
    own.overlay(&workspace().join("openwrt/files"));
    fs::copy(
        dist().join(crate::chroot::OWN_TARGET).join("spdy-agent"),
        own.at("usr/bin/spdy-agent"),
    )
    .unwrap();
    own.write("etc/config/spdy-agent", settings);
    Some(own)
}

fn calls(own: &Chroot) -> Vec<String> {
    let text = fs::read_to_string(own.at("tmp/procd/calls")).unwrap_or_default();
    let _ = fs::remove_file(own.at("tmp/procd/calls"));
    text.lines().map(str::to_owned).collect()
}

/// The generated file without the line that says so.
fn made(own: &Chroot) -> Vec<String> {
    own.read("tmp/etc/spdy-agent.conf").lines().skip(1).map(str::to_owned).collect()
}

const PIN: &str = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";
const INIT: &str = "/etc/init.d/spdy-agent";
const STARTED: [&str; 7] = [
    "open_instance [main]",
    "set_param [command] [/usr/bin/spdy-agent] [--config] [/var/etc/spdy-agent.conf]",
    "set_param [respawn] [3600] [5] [0]",
    "set_param [term_timeout] [30]",
    "set_param [stderr] [1]",
    "close_instance",
    "add_reload_trigger [spdy-agent]",
];

/// A proxy where nobody listens, known by a pin.
fn nowhere() -> String {
    format!("config proxy\n\toption address '127.0.0.1:9'\n\tlist pin '{PIN}'\n")
}

#[test]
fn scripts_are_clean_and_busybox_reads_them() {
    let at = |path: &str| workspace().join(path);
    let folders = ["openwrt/files/etc", "openwrt/control", "openwrt/tarball", "tests/openwrt"];
    let mut files = vec![at("openwrt/package")];
    fn walk(folder: PathBuf, files: &mut Vec<PathBuf>) {
        for path in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
            match fs::read_to_string(&path) {
                Err(_) => walk(path, files),
                Ok(text) if text.starts_with("#!") || text.starts_with("# shellcheck") => {
                    files.push(path);
                }
                Ok(_) => {}
            }
        }
    }
    folders.into_iter().for_each(|folder| walk(at(folder), &mut files));
    assert!(files.len() > 15, "{files:?}");
    checked("shellcheck", &[], &files);
    for file in &files[1..] {
        checked("busybox", &["ash", "-n"], std::slice::from_ref(file));
    }
}

#[test]
fn settings_become_a_file_that_the_agent_takes() {
    let settings = format!(
        "config agent 'main'
\toption log \"warn\"
\tlist share 'films=/mnt/sda1/My  films'
\tlist share \"music=/mnt/it's $(touch /tmp/harm) `touch /tmp/harm`\"
\tlist share_rw 'inbox=/mnt/in'
\toption root /mnt
\toption write 'on'
\toption max_upload '4000000000'
\toption no_index '0'
\toption show_hidden '1'
\tlist forward '/tv=http://127.0.0.1:8096'
\tlist forward '/wiki=http://127.0.0.1:81/w,keep-host'
\toption follow_into '/mnt/disk two'
\toption harmless 'of another version'

config proxy
\toption address 'a.example.com:1444'
\tlist pin '{PIN}'
\tlist pin '{PIN}'
\toption token_file '/etc/spdy-agent/a b.token'

config proxy
\toption pin '{PIN}'

config proxy
\toption address 'd.example.com:1444
'
\toption insecure '1'

config proxy 'second'
\toption address '[2001:db8::1]:1444'
\toption insecure 'yes'

config proxy 'fourth'
\toption address 'e.example.com:1444'
\toption pin '{PIN}'

config proxy 'third'
\toption enabled '0'
\toption address 'c.example.com:1444'
"
    );
    // What the shell would run is quoted as uci quotes it.
    let settings = settings.replace(
        "\"music=/mnt/it's $(touch /tmp/harm) `touch /tmp/harm`\"",
        "'music=/mnt/it'\\''s $(touch /tmp/harm) `touch /tmp/harm`'",
    );
    let Some(own) = with_service(&settings) else { return };
    own.write("etc/spdy-agent/a b.token", "token\n");
    own.write("etc/spdy-agent/agent.conf", "name nas1\n[proxy b:1]\npin AA\ntoken-file x\n");
    // What join wrote is wrong: nothing is started, and the log says how.
    let said = own.run(&format!("{INIT} start"), "");
    assert_eq!(said.code, Some(0), "{said:?}");
    own.logged("not used: spdy-agent: ");
    own.logged("pin AA is not a SHA-256");
    assert_eq!(calls(&own), ["add_reload_trigger [spdy-agent]"]);
    assert!(own.agent().is_none() && !own.at("tmp/etc/spdy-agent.conf").exists());

    own.write(
        "etc/spdy-agent/agent.conf",
        &format!("name nas1\n[proxy b:1]\npin {PIN}\ntoken-file x\n"),
    );
    own.write("etc/spdy-agent/x", "token\n");
    own.tell(&format!("{INIT} start"));
    assert_eq!(calls(&own), STARTED);
    let wanted = format!(
        "log warn
root /mnt
max-upload 4000000000
allow-write yes
show-hidden yes
share films=/mnt/sda1/My  films
share music=/mnt/it's $(touch /tmp/harm) `touch /tmp/harm`
share-rw inbox=/mnt/in
forward /tv=http://127.0.0.1:8096
forward /wiki=http://127.0.0.1:81/w,keep-host
follow-into /mnt/disk two
include /etc/spdy-agent/agent.conf
[proxy a.example.com:1444]
pin {PIN}
pin {PIN}
token-file /etc/spdy-agent/a b.token
[proxy [2001:db8::1]:1444]
insecure yes
[proxy e.example.com:1444]
pin {PIN}"
    );
    assert_eq!(made(&own), wanted.lines().collect::<Vec<_>>());
    assert_eq!(own.mode("tmp/etc/spdy-agent.conf"), 0o600);
    assert!(!own.at("tmp/harm").exists());
    // The agent runs with it: its status names all four proxies, and the shares.
    wait_until("it answers", || own.run("spdy-agent status", "").out.contains("share /inbox"));
    let status = own.run("spdy-agent status", "").out;
    for part in [
        "nas1",
        "a.example.com:1444",
        "[2001:db8::1]:1444",
        "e.example.com:1444",
        "b:1",
        "/mnt/sda1/My  films",
    ] {
        assert!(status.contains(part), "{part} in {status}");
    }
    assert!(!status.contains("c.example.com"), "{status}");
    // Nothing of a proxy that is none went to its neighbour.
    own.logged("ignored: a line break in [proxy");
    own.logged("ignored: a proxy without an address");
    // Its socket is in RAM, though there is no /run.
    assert_eq!(fs::read_dir(own.at("tmp/run/spdy-agent")).unwrap().count(), 1);
    own.tell(&format!("{INIT} stop"));
    assert!(own.agent().is_none());
}

#[test]
fn disabled_service_does_not_run_and_one_that_is_disabled_ends() {
    let settings = |enabled: u8| {
        let root = "\toption root '/mnt'\n";
        format!("config agent 'main'\n\toption enabled '{enabled}'\n{root}\n{}", nowhere())
    };
    let Some(own) = with_service(&settings(0)) else { return };
    own.tell(&format!("{INIT} start"));
    assert_eq!(calls(&own), ["add_reload_trigger [spdy-agent]"]);
    assert!(own.agent().is_none());
    // A reload starts what is enabled now, and ends what is not any more.
    own.write("etc/config/spdy-agent", &settings(1));
    own.tell(&format!("{INIT} reload"));
    assert_eq!(calls(&own), STARTED);
    own.running();
    own.write("etc/config/spdy-agent", &settings(0));
    own.tell(&format!("{INIT} reload"));
    assert!(own.agent().is_none());
}

#[test]
fn changed_settings_reach_the_agent_without_a_restart() {
    let settings =
        |more: &str| format!("config agent 'main'\n\toption log 'info'\n{more}\n{}", nowhere());
    let share = |name: &str| format!("\tlist share '{name}=/mnt/{name} disk'\n");
    let Some(own) = with_service(&settings(&share("a"))) else { return };
    own.tell(&format!("{INIT} start"));
    let id = own.running();
    own.logged("event=start");
    calls(&own);
    own.write("etc/config/spdy-agent", &settings(&(share("a") + &share("b"))));
    own.tell(&format!("{INIT} reload"));
    wait_until("it knows", || {
        own.log().lines().any(|line| line.contains("event=reloaded") && line.contains("shares=2"))
    });
    assert_eq!(own.agent(), Some(id));
    let told = calls(&own);
    assert_eq!(told.last().unwrap(), "send_signal [spdy-agent] [main] [HUP]");
    assert_eq!(told[..7], STARTED);

    // A mistake is one line in the log, and what was stays: the agent, and its file.
    let before = made(&own);
    for wrong in ["\toption log 'loud'\n", "\tlist share 'nothing'\n", "\toption max_upload 'x'\n"]
    {
        own.write("etc/config/spdy-agent", &settings(&(share("a") + wrong)));
        own.tell(&format!("{INIT} reload"));
        assert_eq!((own.agent(), made(&own)), (Some(id), before.clone()));
    }
    wait_until("each is logged", || own.log().matches("not used: ").count() == 3);
    // A line break would be another setting.
    own.write(
        "etc/config/spdy-agent",
        &settings("\tlist share 'a=/mnt/a\nroot /'\n\toption root /mnt\n"),
    );
    own.tell(&format!("{INIT} reload"));
    own.logged("ignored: a line break in share");
    assert!(!made(&own).iter().any(|line| line == "root /"), "{:?}", made(&own));
}

#[test]
fn reload_config_finds_changes_of_settings_that_it_knew() {
    let settings = |log: &str| {
        format!("config agent 'main'\n\toption log '{log}'\n\toption root '/mnt'\n\n{}", nowhere())
    };
    let Some(own) = with_service(&settings("info")) else { return };
    own.tell(&format!("{INIT} start"));
    own.tell("reload_config");
    assert!(made(&own).contains(&"log info".to_owned()));
    own.write("etc/config/spdy-agent", &settings("warn"));
    own.tell("reload_config");
    assert!(made(&own).contains(&"log warn".to_owned()), "{:?}", made(&own));
}

#[test]
fn networks_and_the_clock_make_it_try_now() {
    let settings = format!("config agent 'main'\n\toption root '/mnt'\n\n{}", nowhere());
    let Some(own) = with_service(&settings) else { return };
    let signals = |script: &str| {
        own.tell(script);
        calls(&own).iter().filter(|call| *call == "send_signal [spdy-agent] [main] [HUP]").count()
    };
    // Nobody runs: nobody is told, and nothing fails.
    assert_eq!(signals("ACTION=ifup INTERFACE=wan hotplug-call iface"), 0);
    own.tell(&format!("{INIT} start"));
    let id = own.running();
    own.logged("event=start");
    for (script, wanted) in [
        ("ACTION=ifup INTERFACE=wan hotplug-call iface", 1),
        ("ACTION=ifdown INTERFACE=wan hotplug-call iface", 0),
        ("ACTION=ifup INTERFACE=loopback hotplug-call iface", 0),
        ("ACTION=stratum hotplug-call ntp", 1),
        ("ACTION=step hotplug-call ntp", 1),
        ("ACTION=periodic hotplug-call ntp", 0),
        ("/etc/init.d/spdy-agent retry", 1),
    ] {
        assert_eq!(signals(script), wanted, "{script}");
    }
    own.logged("event=reloaded");
    assert_eq!(own.agent(), Some(id));
}
