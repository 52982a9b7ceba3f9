//! The tarball for other boxes: docs/other-nas.md, command by command, in a busybox system.

use std::fs;

use rustix::process::{Pid, Signal, kill_process};
use spdy_tests::{
    fixture::{Proxy, wait_until},
    http::Request,
};

use crate::chroot::{Chroot, OWN_TARGET, VERSION, blocks, dist, served_again};

/// A box with the tarball in /root, and the folder that it unpacks to.
fn with_tarball() -> Option<(Chroot, String)> {
    let own = Chroot::new()?;
    let name = format!("spdy-agent-{VERSION}-{OWN_TARGET}");
    let file = format!("{name}.tar.gz");
    fs::copy(dist().join("packages").join(&file), own.at("root").join(&file)).unwrap();
    own.write("volume1/My films/film", "a film");
    fs::create_dir_all(own.at("volume1/inbox")).unwrap();
    Some((own, format!("/root/{name}")))
}

#[test]
fn page_of_other_boxes_leads_from_nothing_to_a_served_film_and_back() {
    let Some((own, folder)) = with_tarball() else { return };
    // As Synology has it.
    fs::create_dir_all(own.at("usr/local/etc/rc.d")).unwrap();
    fs::create_dir_all(own.at("usr/local/bin")).unwrap();
    let proxy = Proxy::start(&[]);
    let code = proxy.pair("nas1");
    own.tell("tar xzf spdy-agent-*.tar.gz");
    let before = own.listing();
    let mut ran = Vec::new();
    for (heading, block) in blocks("other-nas.md", "sh") {
        let at = if ran.is_empty() { "/root" } else { &folder };
        let said = own.run_in(at, &block, &format!("{code}\n"));
        let status = heading == "Check";
        assert!(said.code == Some(0) || status, "{block}\n{said:?}");
        let is_first = ran.last() != Some(&heading);
        match heading.as_str() {
            "Install" => {
                assert!(said.out.contains("/usr/local/etc/rc.d/spdy-agent.sh"), "{said:?}");
                assert_eq!(own.mode("usr/local/etc/rc.d/spdy-agent.sh"), 0o755);
                assert_eq!(own.mode("etc/spdy-agent/agent.conf"), 0o600);
            }
            "Join" if block.contains("join") => assert!(said.out.contains("joined"), "{said:?}"),
            "Join" if block.contains("start") => {
                proxy.wait_for_tunnel("nas1");
                let film = Request::get("/films/film").send(proxy.http).unwrap();
                assert_eq!(film.text(), "a film");
                let runs = Some(own.running());
                // Twice does no harm.
                let again = own.tell("/usr/local/etc/rc.d/spdy-agent.sh start");
                assert!(again.is_empty() && own.agent() == runs);
                assert_eq!(own.processes().len(), 2, "{:?}", own.processes());
            }
            "Join" => wait_until("the inbox takes files", || {
                let put = Request::with_body("PUT", "/inbox/new", b"new").send(proxy.http);
                put.is_ok_and(|response| response.status == 201)
            }),
            "Check" => {
                assert_eq!(said.code, Some(0), "{said:?}");
                assert!(said.out.contains("connected for"), "{said:?}");
                // It is started again, however it ended.
                let id = own.running();
                kill_process(Pid::from_raw(id).unwrap(), Signal::KILL).unwrap();
                wait_until("it runs again", || own.agent().is_some_and(|new| new != id));
                served_again(&proxy);
            }
            "Update" => {
                assert!(said.out.contains("updated to spdy-agent"), "{said:?}");
                served_again(&proxy);
            }
            "Remove" => {
                assert!(is_first && said.out.contains("kept: /etc/spdy-agent"), "{said:?}");
                assert!(own.processes().is_empty(), "{:?}", own.processes());
                assert_eq!(own.listing(), before);
            }
            other => panic!("nothing is known of {other}"),
        }
        ran.push(heading);
    }
    for heading in ["Install", "Join", "Check", "Update", "Remove"] {
        assert!(ran.iter().any(|ran| ran == heading), "{heading} has no command");
    }
    let _ = proxy.tell(&["revoke", "nas1"]);
}

#[test]
fn folder_of_its_own_holds_everything_where_etc_is_made_anew() {
    let Some((own, folder)) = with_tarball() else { return };
    let proxy = Proxy::start(&[]);
    let code = proxy.pair("nas1");
    own.tell("tar xzf spdy-agent-*.tar.gz");
    let before = own.listing();
    let prefix = "/share/CACHEDEV1_DATA/spdy-agent";
    own.write("share/Public/film", "a film");
    let [install, start] = &blocks("other-nas.md", "sh folder")[..] else { panic!("two blocks") };
    let installed = own.run_in(&folder, &install.1, &format!("{code}\n"));
    assert_eq!(installed.code, Some(0), "{installed:?}");
    assert!(installed.out.contains("nothing known starts programs"), "{installed:?}");

    // Nothing to serve: it says so, and does not start.
    let service = format!("{prefix}/bin/spdy-agent-service");
    let refused = own.run(&format!("{service} start"), "");
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(refused.err.contains("nothing to serve"), "{refused:?}");
    assert_eq!(own.run(&format!("{service} status"), "").code, Some(3));

    own.tell(&start.1);
    proxy.wait_for_tunnel("nas1");
    assert_eq!(Request::get("/film").send(proxy.http).unwrap().text(), "a film");
    let id = own.running();
    own.tell(&format!("{service} restart"));
    wait_until("another one runs", || own.agent().is_some_and(|new| new != id));
    // A process that has the number of a service before the box was started anew is not it.
    own.tell(&format!("{service} stop"));
    assert!(own.processes().is_empty(), "{:?}", own.processes());
    own.write("var/run/spdy-agent.pid", &format!("{}\n", std::process::id()));
    assert_eq!(own.run(&format!("{service} status"), "").code, Some(3));
    own.tell(&format!("{service} start; {service} stop"));

    // The root was not written to at any time.
    assert_eq!(own.listing(), before);
    let removed = own.run_in(&folder, &format!("./uninstall.sh {prefix} --purge"), "");
    assert_eq!(removed.code, Some(0), "{removed:?}");
    assert_eq!(own.tell(&format!("find {prefix} -type f")), "");
}

#[test]
fn service_is_hung_into_what_starts_the_box() {
    let Some((own, folder)) = with_tarball() else { return };
    own.tell("tar xzf spdy-agent-*.tar.gz");
    own.write("etc/init.d/rcS", "");
    let before = own.listing();
    let installed = own.run_in(&folder, "./install.sh", "");
    assert!(installed.out.contains("/etc/init.d/S95spdy-agent"), "{installed:?}");
    own.tell("sh -n /etc/init.d/S95spdy-agent");
    assert_eq!(own.run_in(&folder, "./uninstall.sh --purge", "").code, Some(0));

    // A folder may have a space in its name.
    assert_eq!(own.run_in(&folder, "./install.sh '/mnt/a disk'", "").code, Some(0));
    own.tell("sh -n /etc/init.d/S95spdy-agent; '/mnt/a disk/bin/spdy-agent-service' stop");
    assert_eq!(own.run_in(&folder, "./uninstall.sh '/mnt/a disk' --purge", "").code, Some(0));

    // With links for System V, which update-rc.d makes.
    own.write("bin/update-rc.d", "#!/bin/sh\necho \"$*\" >>/tmp/links\n");
    own.tell("chmod 755 /bin/update-rc.d");
    let installed = own.run_in(&folder, "./install.sh", "");
    assert!(installed.out.contains("/etc/init.d/spdy-agent"), "{installed:?}");
    assert_eq!(own.run_in(&folder, "./uninstall.sh --purge", "").code, Some(0));
    assert_eq!(own.read("tmp/links"), "spdy-agent defaults\nspdy-agent remove\n");
    own.tell("rm /bin/update-rc.d");
    assert_eq!(own.listing(), before);

    // A program of another processor is not installed, nor a folder that means another one later.
    own.write(&format!("{folder}/spdy-agent"), "\x7fELF of another processor");
    let refused = own.run_in(&folder, "./install.sh", "");
    assert!(refused.code == Some(1) && refused.err.contains("another tarball"), "{refused:?}");
    for wrong in [
        "./install.sh here",
        "./install.sh '/mnt/R&D'",
        "./install.sh \"/mnt/it's\"",
        "./install.sh '/mnt/$HOME'",
        "./uninstall.sh here",
        "./uninstall.sh --all",
    ] {
        assert_eq!(own.run_in(&folder, wrong, "").code, Some(64), "{wrong}");
    }
    assert_eq!(own.run_in(&folder, "./uninstall.sh /mnt", "").code, Some(1));
    assert_eq!(own.listing(), before);
}

#[test]
fn what_fails_does_not_end_what_runs() {
    let Some((own, folder)) = with_tarball() else { return };
    own.tell("tar xzf spdy-agent-*.tar.gz");
    let installed = own.run_in(&folder, "PATH=/bin; ./install.sh", "");
    assert!(installed.out.contains("/usr/local/bin is not in PATH"), "{installed:?}");
    let pin = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";
    let right = format!("name nas1\nroot /volume1\n[proxy 127.0.0.1:9]\npin {pin}\n");
    own.write("etc/spdy-agent/agent.conf", &right);
    let said = own.run("spdy-agent-service reload", "");
    assert!(said.code == Some(3) && said.err.contains("does not run"), "{said:?}");

    // A script and a task of the box start it at the same time: one of them does.
    own.tell("for n in 1 2 3 4; do spdy-agent-service start & done; wait");
    let id = own.running();
    wait_until("one is left", || own.processes().len() == 2);
    // It has read its configuration, of which it is to be given a wrong one.
    wait_until("it answers", || own.run("spdy-agent status", "").out.contains("127.0.0.1:9"));

    // A wrong configuration, and a disk that is full.
    own.write("etc/spdy-agent/agent.conf", &format!("share nothing\n{right}"));
    for command in ["restart", "reload"] {
        let said = own.run(&format!("spdy-agent-service {command}"), "");
        assert!(said.code == Some(64) && said.err.contains("share"), "{said:?}");
    }
    own.write("etc/spdy-agent/agent.conf", &right);
    let said = own.run_in(&folder, "ulimit -f 100; ./install.sh", "");
    assert!(said.code.is_some_and(|code| code != 0), "{said:?}");
    assert_eq!(own.agent(), Some(id));
    assert_eq!(own.tell("ls -A /usr/local/bin"), "spdy-agent\nspdy-agent-service\n");
    own.tell("spdy-agent --version; spdy-agent-service stop");
}
