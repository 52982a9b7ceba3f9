//! Folders as people have them, with systemd itself: how it reads what `spdy-agent setup` writes is
//! its own, and differs from key to key.

use std::{fs, time::Duration};

use spdy_tests::{
    fixture::{PATIENCE, wait_within},
    machine::Machine,
};

use super::upgrade::{installed, property};

/// Makes a folder with a file in it.
fn folder(machine: &Machine, path: &str) {
    fs::create_dir_all(machine.path(path)).unwrap();
    fs::write(machine.path(path).join("file"), path).unwrap();
}

fn fetch(machine: &Machine, share: &str) -> String {
    let url = format!("https://localhost:1443/{share}/file");
    machine.attempt(&format!("curl -sk --max-time 20 {url}"), "").output
}

/// Shares folders in place of those that were shared, which must work.
fn share(machine: &Machine, lines: &[&str]) -> String {
    let path = machine.path("/etc/spdy-agent/agent.conf");
    let text = fs::read_to_string(&path).unwrap();
    let rest = text.lines().filter(|line| !line.starts_with("share"));
    let lines: Vec<_> = lines.iter().copied().chain(rest).collect();
    fs::write(path, lines.join("\n") + "\n").unwrap();
    let done = machine.attempt("spdy-agent setup", "");
    assert!(done.status.success(), "{lines:?}: {}{}", done.output, done.errors);
    done.output
}

#[test]
fn folders_of_all_kinds_are_served() {
    let Some(machine) = installed() else { return };
    machine.run("useradd --create-home ann && chmod 700 /home/ann");
    let folders = [
        r#"/srv/Köln & "Bonn" (1080p)"#,
        r"/home/ann/Ferien's Bilder: 100% $HOME;#x",
        r"/home/ann/back\slash",
        r#"/mnt/closed:a\b %d "q"/films"#,
        "/tmp/try",
        "/var/tmp/try",
        "/home/ann/linked",
    ];
    for path in folders {
        folder(&machine, path);
    }
    machine.run("chmod 700 /mnt/closed* && ln -s /home/ann/linked /srv/link");
    let named = |path: &str| path.replace("/home/ann/linked", "/srv/link");
    let shares = folders.iter().enumerate();
    let lines: Vec<_> = shares.map(|(at, path)| format!("share s{at}={}", named(path))).collect();
    let said = share(&machine, &lines.iter().map(String::as_str).collect::<Vec<_>>());
    assert_eq!(said, "connected to localhost:1444\n");
    for (at, path) in folders.iter().enumerate() {
        assert_eq!(fetch(&machine, &format!("s{at}")), *path);
    }
    assert_eq!(machine.run("ls -A /proc/$(pidof spdy-agent)/root/tmp"), "try\n");

    // The folder above another home may be entered.
    machine.run("chmod 755 /home/ann");
    share(&machine, &["share link=/srv/link"]);
    assert_eq!(fetch(&machine, "link"), "/home/ann/linked");

    // Both ways at once, and one below the other.
    machine.run("mkdir -m 777 /home/ann/both /home/ann/linked/in");
    let both = ["share r=/home/ann/both", "share-rw w=/home/ann/both"];
    let nested = ["share o=/home/ann/linked", "share-rw in=/home/ann/linked/in"];
    share(&machine, &[both, nested].concat());
    for name in ["w", "in"] {
        let url = format!("https://localhost:1443/{name}/new");
        let put = "curl -sk -o /dev/null -w '%{http_code}' --upload-file /etc/hostname";
        assert_eq!(machine.run(&format!("{put} {url}")), "201");
    }

    // A disk from elsewhere: nobody here has its ids. The others are served.
    folder(&machine, "/srv/strange");
    machine.run("chown -R 5555:5556 /srv/strange && chmod 750 /srv/strange");
    let said = share(&machine, &["share s=/srv/strange", "share link=/srv/link"]);
    assert!(said.contains("/srv/strange cannot be used by the service -> setfacl"), "{said}");
    assert_eq!(fetch(&machine, "link"), "/home/ann/linked");
    assert_eq!(property(&machine, "spdy-agent", "NRestarts"), "0");
}

#[test]
fn disk_that_comes_later_is_served_where_it_comes() {
    let Some(machine) = installed() else { return };
    machine.run("mkdir -p /mnt/usb /mnt/closed/usb && chmod 700 /mnt/closed");
    machine.run("mkdir -m 777 /mnt/written");
    let lines = ["share a=/mnt/usb", "share b=/mnt/closed/usb", "share-rw c=/mnt/written"];
    share(&machine, &lines);
    let places = ["/mnt/usb", "/mnt/closed/usb", "/mnt/written"];
    for place in places {
        machine.run(&format!("mount -t tmpfs -o mode=777 disk {place}"));
        folder(&machine, place);
    }
    for (share, place) in ["a", "b", "c"].iter().zip(places) {
        // Visitors make the agent look, every ten seconds at most.
        let pause = Duration::from_millis(200);
        wait_within(PATIENCE, pause, "the disk is served", || fetch(&machine, share) == place);
    }
    let put = "curl -sk -o /dev/null -w '%{http_code}' --upload-file /etc/hostname";
    assert_eq!(machine.run(&format!("{put} https://localhost:1443/c/new")), "201");
    // It can be taken away when nobody has it open.
    machine.run("systemctl stop spdy-agent && umount /mnt/usb /mnt/closed/usb /mnt/written");

    // A folder that has gone keeps no other from being served.
    machine.run("rm -rf /mnt/closed && systemctl start spdy-agent");
    machine.run("mkdir -p /srv/new && echo new >/srv/new/file");
    share(&machine, &["share new=/srv/new", "share b=/mnt/closed/usb"]);
    assert_eq!(fetch(&machine, "new"), "new\n");
}
