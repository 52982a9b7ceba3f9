//! Orderly ends: programs that are told to end, visitors who leave, pause or break off.

use std::{
    fs,
    net::TcpStream,
    thread,
    time::{Duration, Instant},
};

use spdy_tests::{
    fixture::{Agent, PATIENCE, Proxy, Random, Sha256, TempRoot, wait_until},
    http::wait_for_agent,
    observe::{Debug, descriptors},
    visitor::{End, Visitor},
};

use crate::{LARGE, SOME, agent, anonymous, back_after, content, plain, slow, status};

#[test]
fn terminated_agent_finishes_what_runs_and_exits_well() {
    let root = content();
    let wanted = Sha256::of(&fs::read(root.join("large")).unwrap());
    let proxy = anonymous();
    let mut agent = agent(root.path(), proxy.tunnel);
    wait_for_agent(proxy.http);
    let mut running = Visitor::get(proxy.http, "/large");
    running.head();
    running.read(SOME);
    agent.program().terminate();
    wait_until("nothing new is taken", || status(proxy.http) == Some(503));
    let body = running.finish();
    assert_eq!((body.end, body.sha256), (End::Whole, wanted));
    let finished = Instant::now();
    assert_eq!(agent.program_mut().wait_exit(PATIENCE).code(), Some(0));
    assert!(finished.elapsed() < Duration::from_secs(2), "{:?}", finished.elapsed());
}

#[test]
fn terminated_proxy_finishes_what_runs_and_exits_well() {
    let root = content();
    let wanted = Sha256::of(&fs::read(root.join("large")).unwrap());
    let mut proxy = anonymous();
    let _agent = agent(root.path(), proxy.tunnel);
    wait_for_agent(proxy.http);
    let mut kept = Visitor::get(proxy.http, "/small");
    kept.head();
    kept.read(5);
    let mut running = Visitor::get(proxy.http, "/large");
    running.head();
    running.read(SOME);
    proxy.program().terminate();
    // An idle connection is closed, and nobody can connect any more.
    assert_eq!(kept.rest().1, End::Cut);
    wait_until("the port is closed", || TcpStream::connect(proxy.http).is_err());
    let body = running.finish();
    assert_eq!((body.end, body.sha256), (End::Whole, wanted));
    let finished = Instant::now();
    assert_eq!(proxy.program_mut().wait_exit(PATIENCE).code(), Some(0));
    assert!(finished.elapsed() < Duration::from_secs(2), "{:?}", finished.elapsed());
}

#[test]
fn idle_programs_end_at_once() {
    let root = TempRoot::new();
    let mut proxy = anonymous();
    let mut served = agent(root.path(), proxy.tunnel);
    wait_for_agent(proxy.http);
    let folder = root.path().to_str().unwrap();
    let mut lonely = Agent::start(&["-r", folder, "--insecure", "--proxy", "127.0.0.1:1", "-s"]);
    lonely.program().wait_for("its try", |line| line.contains("connect_failed").then_some(()));
    let begun = Instant::now();
    for program in [served.program_mut(), lonely.program_mut(), proxy.program_mut()] {
        program.terminate();
        assert_eq!(program.wait_exit(PATIENCE).code(), Some(0));
    }
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
}

#[test]
fn grace_bounds_the_wait_for_a_paused_visitor() {
    let root = content();
    let mut proxy = Proxy::start(&["--allow-anonymous", "--grace", "1"]);
    let link = slow(proxy.tunnel);
    let agent = agent(root.path(), link.address());
    wait_for_agent(proxy.http);
    let mut paused = Visitor::get(proxy.http, "/large");
    paused.head();
    paused.read(SOME);
    let mut open = Visitor::get_1_0(proxy.http, "/many/");
    open.head();
    let begun = Instant::now();
    proxy.program().terminate();
    assert_eq!(proxy.program_mut().wait_exit(PATIENCE).code(), Some(0));
    let ended = begun.elapsed();
    assert!(ended > Duration::from_millis(900) && ended < Duration::from_secs(3), "{ended:?}");
    assert_ne!(paused.finish().end, End::Whole);
    assert_eq!(open.finish().end, End::Reset);
    drop(agent);
}

#[test]
fn agent_stops_reading_when_its_visitor_is_gone_or_pauses() {
    let root = content();
    let proxy = anonymous();
    let agent = agent(root.path(), proxy.tunnel);
    wait_for_agent(proxy.http);
    let idle = descriptors(agent.program().id());
    let resets = Debug::of(proxy.http).tunnels("resets_sent");
    let mut leaving: Vec<_> = (0..5).map(|_| Visitor::get(proxy.http, "/large")).collect();
    for visitor in &mut leaving {
        visitor.head();
        visitor.read(SOME);
    }
    assert_eq!(Debug::of(proxy.http).total("streams_now"), 5);
    drop(leaving);
    wait_until("their streams are reset", || {
        let debug = Debug::of(proxy.http);
        debug.total("streams_now") == 0 && debug.tunnels("resets_sent") == resets + 5
    });
    wait_until("their files are closed", || descriptors(agent.program().id()) == idle);

    let mut paused = Visitor::get(proxy.http, "/large");
    paused.head();
    paused.read(SOME);
    let held = settled(|| Debug::of(proxy.http).tunnels("received_bytes"));
    // No octet of the file crosses the tunnel any more, and the visitor still gets all of it.
    assert!(held < 5 * LARGE, "{held}");
    let body = paused.finish();
    assert_eq!((body.len, body.end), (LARGE, End::Whole));
}

/// The value of a figure that has stopped growing.
fn settled(figure: impl Fn() -> u64) -> u64 {
    let (mut last, mut since) = (figure(), Instant::now());
    while since.elapsed() < Duration::from_millis(500) {
        thread::sleep(Duration::from_millis(20));
        let now = figure();
        if now != last {
            (last, since) = (now, Instant::now());
        }
    }
    last
}

#[test]
fn upload_that_is_broken_off_leaves_the_old_file() {
    let root = TempRoot::new();
    root.write("kept", b"old");
    root.write("small", b"small");
    let proxy = anonymous();
    let link = plain(proxy.tunnel);
    let _agent = agent(root.path(), link.address());
    wait_for_agent(proxy.http);
    let content = Random::octets(600_000, 3);
    for cut in ["visitor", "tunnel"] {
        let mut uploading = Visitor::connect(proxy.http);
        uploading.send(b"PUT /kept HTTP/1.1\r\nHost: x\r\nContent-Length: 1200000\r\n\r\n");
        uploading.send(&content);
        // The file under way, and the folder that tells of it.
        wait_until("the agent writes", || fs::read_dir(root.path()).unwrap().count() == 4);
        if cut == "visitor" {
            drop(uploading);
        } else {
            link.cut();
            let answer = uploading.try_head("PUT");
            assert!(answer.is_err() || answer.is_ok_and(|head| head.status == 502));
        }
        wait_until("what was written is gone", || fs::read_dir(root.path()).unwrap().count() == 2);
        assert_eq!(fs::read(root.join("kept")).unwrap(), b"old");
        back_after(proxy.http, Instant::now());
    }
}
