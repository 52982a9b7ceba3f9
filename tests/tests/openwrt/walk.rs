//! The pages for users, run: each command of docs/openwrt.md in its order, in a box with stand-ins.

use std::fs;

use spdy_tests::{fixture::Proxy, http::Request, source::workspace};

use crate::{
    chroot::{OWN_TARGET, VERSION, blocks, dist, served_again},
    service::openwrt,
};

#[test]
fn page_of_openwrt_leads_from_nothing_to_a_served_film_and_back() {
    let Some(own) = openwrt() else { return };
    let name = format!("spdy-agent_{VERSION}-r1_x86_64.ipk");
    fs::copy(dist().join("packages").join(&name), own.at("tmp").join(&name)).unwrap();
    for (path, text) in [("sda1/My films/film", "a film"), ("sda1/music/song", "a song")] {
        own.write(&format!("mnt/{path}"), text);
    }
    fs::create_dir_all(own.at("mnt/sda1/inbox")).unwrap();
    let proxy = Proxy::start(&[]);
    let code = proxy.pair("nas1");
    let before = own.listing();
    let mut installed = Vec::new();
    let mut ran = Vec::new();
    for (heading, block) in blocks("openwrt.md", "sh") {
        let said = own.run(&block, &format!("{code}\n"));
        assert_eq!(said.code, Some(0), "{block}\n{said:?}\nlog: {}", own.log());
        let is_first = ran.last() != Some(&heading);
        match heading.as_str() {
            "Install" if block.contains("print-architecture") => {
                assert!(said.out.contains("x86_64"), "{said:?}");
            }
            "Install" => {
                own.logged("not used: ");
                assert!(own.agent().is_none());
                assert!(own.at("etc/rc.d/S95spdy-agent").is_symlink());
                installed = own.listing();
            }
            "Join" => {
                assert!(said.out.contains("/etc/init.d/spdy-agent restart"), "{said:?}");
                assert_eq!(own.mode("etc/spdy-agent/agent.conf"), 0o600);
            }
            "What is served" if is_first => {
                proxy.wait_for_tunnel("nas1");
                for (path, text) in [("/films/film", "a film"), ("/music/song", "a song")] {
                    assert_eq!(Request::get(path).send(proxy.http).unwrap().text(), text);
                }
                for (path, status) in [("/inbox/new", 201), ("/films/new", 405)] {
                    let put = Request::with_body("PUT", path, b"new").send(proxy.http).unwrap();
                    assert_eq!(put.status, status, "{path}");
                }
                assert_eq!(own.read("mnt/sda1/inbox/new"), "new");
                // Settings, token, RAM and the share: nothing else was written to.
                let others = |listing: &[String]| {
                    let own = |line: &&String| {
                        !["/etc/config/spdy-agent", "/etc/spdy-agent"]
                            .iter()
                            .any(|own| line.starts_with(own))
                    };
                    listing.iter().filter(own).cloned().collect::<Vec<_>>()
                };
                assert_eq!(others(&own.listing()), others(&installed));
            }
            "What is served" => {
                assert!(own.read("etc/config/spdy-agent").contains("config proxy 'backup'"));
                assert!(!own.read("tmp/etc/spdy-agent.conf").contains("backup.example.com"));
            }
            "Check" => {
                if block.contains("status") {
                    assert!(said.out.contains("connected for"), "{said:?}");
                    assert!(said.out.contains("spdy-agent"), "{said:?}");
                }
                if block.contains("rotate") {
                    assert!(said.out.contains("the running agent knows"), "{said:?}");
                }
            }
            "Update" => {
                assert!(said.out.contains(&format!("spdy-agent {VERSION}")), "{said:?}");
                assert!(own.at("etc/config/spdy-agent-opkg").exists());
                served_again(&proxy);
            }
            "Remove" => {
                assert!(own.agent().is_none());
                assert_eq!(own.listing(), before);
            }
            other => panic!("nothing is known of {other}"),
        }
        ran.push(heading);
    }
    for heading in ["Install", "Join", "What is served", "Check", "Update", "Remove"] {
        assert!(ran.iter().any(|ran| ran == heading), "{heading} has no command");
    }
    let _ = proxy.tell(&["revoke", "nas1"]);
}

#[test]
fn section_of_a_second_proxy_is_taken_as_it_stands() {
    let Some(own) = openwrt() else { return };
    let sections = blocks("openwrt.md", "uci");
    assert_eq!(sections.len(), 1);
    own.overlay(&workspace().join("openwrt/files"));
    fs::copy(dist().join(OWN_TARGET).join("spdy-agent"), own.at("usr/bin/spdy-agent")).unwrap();
    let file = own.read("etc/config/spdy-agent").replace("#option root", "option root");
    own.write("etc/config/spdy-agent", &format!("{file}\n{}", sections[0].1));
    own.write("etc/spdy-agent/backup.token", "token\n");
    own.tell("/etc/init.d/spdy-agent start");
    let made = own.read("tmp/etc/spdy-agent.conf");
    assert!(made.contains("[proxy backup.example.com:1444]"), "{made}\n{}", own.log());
    own.running();
}
