//! The program as such: services beside it, its commands, its end, and the end of its proxy.

use std::fs;

use rustix::process::Signal;
use serde_json::Value;
use spdy_tests::{
    fixture::{PATIENCE, Random, Sha256, wait_until},
    local::Local,
};

use super::{GOODBYE, Nas};

pub(super) fn services_are_forwarded(nas: &Nas) {
    let service = Local::start(|call| match &*call.asked.method {
        "GET" => call.answer(Random::octets(400_000, 9)),
        _ => {
            let (len, digest) = call.body().unwrap();
            call.answer(format!("{len} {digest}"));
        }
    });
    let forward = format!("/tv=http://{}", service.address());
    let running = nas.serve(&["--forward", &forward]);
    let answer = running.get("/tv/a%20b?c=d");
    assert_eq!((answer.status, answer.sha256), (200, Sha256::of(&Random::octets(400_000, 9))));
    assert_eq!(service.last().target, "/a%20b?c=d");
    let body = Random::octets(250_000, 10);
    let answer = running.send("POST", "/tv/form", &[], &body);
    assert_eq!(answer.text(), format!("250000 {}", Sha256::of(&body)));
}

pub(super) fn agent_tells_how_it_is(nas: &Nas) {
    nas.write("file", b"served");
    let nobody = nas.tell(&["status"]);
    assert_eq!((nobody.code, nobody.text.is_empty()), (Some(1), true), "{nobody:?}");
    let running = nas.serve(&[]);
    assert_eq!(running.get("/file").text(), "served");
    wait_until("all is well", || nas.tell(&["status"]).code == Some(0));
    let text = nas.tell(&["status"]).text;
    for part in ["nas1", "connected for", &running.proxy.tunnel.to_string(), "share / in"] {
        assert!(text.contains(part), "no {part:?} in {text:?}");
    }
    let json: Value = serde_json::from_str(&nas.tell(&["status", "--json"]).text).unwrap();
    assert_eq!((&json["well"], &json["proxies"][0]["state"]), (&true.into(), &"connected".into()));
    assert!(json["proxies"][0]["octets_sent"].as_u64().unwrap() > 6, "{json}");
    // Disks are larger than 4 GiB.
    let (size, free) = (&json["shares"][0]["size"], &json["shares"][0]["free"]);
    let disk = rustix::fs::statvfs(nas.share()).unwrap();
    assert_eq!(size.as_u64().unwrap(), disk.f_frsize * disk.f_blocks, "{json}");
    assert!(free.as_u64().unwrap() <= size.as_u64().unwrap(), "{json}");
    let doctor = nas.tell(&["doctor"]);
    assert_eq!(doctor.code, Some(0), "{doctor:?}");
    // A new token, while it runs.
    assert_eq!(nas.tell(&["rotate"]).code, Some(0));
    assert_eq!(running.get("/file").text(), "served");
    // The configuration is read again.
    running.agent.signal(Signal::HUP).unwrap();
    running.agent.wait_for("that it has", |line| line.contains("event=reload").then_some(()));
    assert_eq!(running.get("/file").text(), "served");
}

pub(super) fn agent_comes_back_to_a_proxy_that_was_killed(nas: &Nas) {
    nas.write("file", b"served");
    let mut running = nas.serve(&[]);
    assert_eq!(running.get("/file").text(), "served");
    running.proxy.program_mut().kill();
    running.proxy.restart(GOODBYE);
    running.wait_back();
    assert_eq!(running.get("/file").text(), "served");
    assert_eq!(running.agent.try_exit().unwrap(), None);
}

pub(super) fn agent_comes_back_to_a_proxy_that_said_goodbye(nas: &Nas) {
    nas.write("file", b"served");
    let mut running = nas.serve(&[]);
    assert_eq!(running.get("/file").text(), "served");
    running.proxy.program().terminate();
    assert_eq!(running.proxy.program_mut().wait_exit(PATIENCE).code(), Some(0));
    running.proxy.restart(GOODBYE);
    running.wait_back();
    assert_eq!(running.get("/file").text(), "served");
    assert_eq!(running.agent.try_exit().unwrap(), None);
}

pub(super) fn agent_ends_and_leaves_nothing(nas: &Nas) {
    let mut running = nas.serve(&[]);
    wait_until("all is well", || nas.tell(&["status"]).code == Some(0));
    running.agent.terminate();
    assert_eq!(running.agent.wait_exit(PATIENCE).code(), Some(0));
    assert_eq!(fs::read_dir(nas.home.join("run")).unwrap().count(), 0);
}
