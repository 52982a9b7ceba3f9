//! Connections that fall silent, break or never begin: SIGSTOP, black holes, resets, handshakes.

use std::{
    thread,
    time::{Duration, Instant},
};

use spdy_protocol::limits::Timings;
use spdy_tests::{
    fixture::{TempRoot, wait_until},
    http::wait_for_agent,
    link::{Link, Settings, Way},
    observe::{Debug, Signal, descriptors, signal},
    visitor::{End, Visitor},
};

use crate::{
    BACK, SOME, agent, anonymous, assert_all_cut, back_after, content, plain,
    scaled::{self, ScaledAgent, ScaledProxy},
    slow, status, transfers,
};

#[test]
fn stopped_agent_is_noticed_and_comes_back() {
    let root = content();
    let proxy = ScaledProxy::start(|_| {});
    let link = slow(proxy.tunnel);
    let agent = agent(root.path(), link.address());
    wait_for_agent(proxy.http);
    // In a transfer; asked and not answered; idle.
    let transfers = transfers(proxy.http);
    let begun = Instant::now();
    signal(agent.program().id(), Signal::STOP);
    let mut asking = Visitor::get(proxy.http, "/small");
    assert_eq!(asking.head().status, 502);
    assert_all_cut(transfers);
    // What the link held has to pass first.
    let limit = scaled::OWED + scaled::ANSWER + Duration::from_millis(1_500);
    assert!(begun.elapsed() < limit, "{:?}", begun.elapsed());
    assert_eq!(status(proxy.http), Some(503));
    let continued = Instant::now();
    signal(agent.program().id(), Signal::CONT);
    let back = back_after(proxy.http, continued);
    assert!(back < BACK, "{back:?}");

    let begun = Instant::now();
    signal(agent.program().id(), Signal::STOP);
    wait_until("the idle tunnel is given up", || Debug::of(proxy.http).total("tunnels_now") == 0);
    let limit = scaled::IDLE + scaled::ANSWER + Duration::from_millis(500);
    assert!(begun.elapsed() < limit, "{:?}", begun.elapsed());
    signal(agent.program().id(), Signal::CONT);
    back_after(proxy.http, Instant::now());
}

#[test]
fn stopped_proxy_is_noticed_and_found_again() {
    let root = content();
    let proxy = anonymous();
    let agent = ScaledAgent::serve(root.path(), proxy.tunnel, |_| {});
    wait_for_agent(proxy.http);
    let mut paused = Visitor::get(proxy.http, "/large");
    paused.head();
    paused.read(SOME);
    let begun = Instant::now();
    signal(proxy.program().id(), Signal::STOP);
    agent.wait_for("event=tunnel_down", 1);
    let limit = scaled::IDLE + scaled::ANSWER + Duration::from_millis(500);
    assert!(begun.elapsed() < limit, "{:?}", begun.elapsed());
    // The kernel takes connections for a stopped proxy; only a deadline ends such a handshake.
    agent.wait_for("deadline passed in TLS", 1);
    signal(proxy.program().id(), Signal::CONT);
    back_after(proxy.http, Instant::now());
    assert_ne!(paused.finish().end, End::Whole);
}

#[test]
fn dead_tunnel_that_was_displaced_is_cut_without_waiting_for_its_silence() {
    let root = content();
    let probe = Duration::from_millis(400);
    let proxy = ScaledProxy::start(|settings| {
        settings.timings.session = Timings::default();
        settings.timings.probe = probe;
    });
    let dead = agent(root.path(), proxy.tunnel);
    wait_for_agent(proxy.http);
    let mut transfer = Visitor::get(proxy.http, "/large");
    transfer.head();
    transfer.read(SOME);
    signal(dead.program().id(), Signal::STOP);
    let begun = Instant::now();
    let _next = agent(root.path(), proxy.tunnel);
    assert_ne!(transfer.finish().end, End::Whole);
    // By itself it is found dead 10 s later at the earliest.
    assert!(begun.elapsed() < Timings::default().ping_answer / 2, "{:?}", begun.elapsed());
    assert_eq!(status(proxy.http), Some(200));
    signal(dead.program().id(), Signal::CONT);
}

#[test]
fn black_hole_is_noticed_by_both_ends() {
    let root = content();
    let proxy = ScaledProxy::start(|_| {});
    let link = slow(proxy.tunnel);
    let agent = ScaledAgent::serve(root.path(), link.address(), |_| {});
    wait_for_agent(proxy.http);
    let transfers = transfers(proxy.http);
    let begun = Instant::now();
    link.hold();
    assert_all_cut(transfers);
    agent.wait_for("event=tunnel_down", 1);
    let limit = scaled::OWED.max(scaled::IDLE) + scaled::ANSWER + Duration::from_millis(1_000);
    assert!(begun.elapsed() < limit, "{:?}", begun.elapsed());
    assert_eq!(status(proxy.http), Some(503));
    link.release();
    back_after(proxy.http, Instant::now());
}

#[test]
fn silence_in_a_transfer_ends_it_within_20_seconds() {
    let root = content();
    let proxy = anonymous();
    let link = slow(proxy.tunnel);
    let _agent = agent(root.path(), link.address());
    wait_for_agent(proxy.http);
    let transfers = transfers(proxy.http);
    link.hold();
    let begun = Instant::now();
    let mut asking = Visitor::get(proxy.http, "/small");
    assert!(matches!(asking.head().status, 502..=504));
    assert_all_cut(transfers);
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    // Not sooner either: a line may be silent for a while.
    assert!(begun.elapsed() > Duration::from_secs(10), "{:?}", begun.elapsed());
}

#[test]
#[ignore = "takes 40 s: stage long"]
fn silence_of_an_idle_tunnel_ends_it_within_40_seconds() {
    let root = content();
    let proxy = anonymous();
    let link = plain(proxy.tunnel);
    let agent = agent(root.path(), link.address());
    wait_for_agent(proxy.http);
    link.hold();
    let begun = Instant::now();
    while Debug::of(proxy.http).total("tunnels_now") > 0 {
        assert!(begun.elapsed() < Duration::from_secs(40), "the proxy still has it");
        thread::sleep(Duration::from_millis(50));
    }
    // Not sooner either: an idle line costs nothing but a PING now and then.
    assert!(begun.elapsed() > Duration::from_secs(30), "{:?}", begun.elapsed());
    link.release();
    back_after(proxy.http, Instant::now());
    drop(agent);
}

/// 256 kbit/s and as many downloads as there are streams: PING and its answer wait behind DATA.
#[test]
#[ignore = "takes a minute: stage long"]
fn slow_line_full_of_downloads_keeps_its_tunnel() {
    let root = content();
    let proxy = anonymous();
    let way = Way { rate: Some(32_000), queue: 32 << 10, ..Way::default() };
    let link = Link::start(proxy.tunnel, Settings { up: way, down: way }).unwrap();
    let _agent = agent(root.path(), link.address());
    wait_for_agent(proxy.http);
    let visitors: Vec<_> = (0..127).map(|_| Visitor::get(proxy.http, "/large")).collect();
    wait_until("all have asked", || Debug::of(proxy.http).total("streams_now") == 127);
    let (begun, before) = (Instant::now(), link.forwarded().0);
    while begun.elapsed() < Duration::from_secs(60) {
        assert_eq!((link.accepted(), link.connections()), (1, 1));
        thread::sleep(Duration::from_millis(100));
    }
    let passed = link.forwarded().0 - before;
    assert!(passed > 32_000 * 60 / 2, "the line stood still: {passed}");
    assert_eq!(Debug::of(proxy.http).total("streams_now"), 127);
    drop(visitors);
}

#[test]
fn reset_connection_is_noticed_at_once_and_replaced() {
    let root = content();
    let proxy = anonymous();
    let link = slow(proxy.tunnel);
    let _agent = agent(root.path(), link.address());
    wait_for_agent(proxy.http);
    let mut transfers = transfers(proxy.http);
    // A visitor who paused is told too, when it reads on.
    let paused = transfers.pop().unwrap();
    let cut = Instant::now();
    link.cut();
    assert_all_cut(transfers);
    assert!(cut.elapsed() < Duration::from_secs(1), "{:?}", cut.elapsed());
    let back = back_after(proxy.http, cut);
    assert!(back < BACK, "{back:?}");
    assert_all_cut(vec![paused]);
}

#[test]
fn handshake_that_is_cut_anywhere_is_tried_again() {
    let root = TempRoot::new();
    root.write("small", b"small");
    let proxy = anonymous();
    let idle = descriptors(proxy.program().id());
    // So slow that a handshake can be met in the middle: it has about 800 octets up, 1,100 down.
    let way = Way { rate: Some(8_000), split: Some(64), ..Way::default() };
    let link = Link::start(proxy.tunnel, Settings { up: way, down: way }).unwrap();
    let agent = ScaledAgent::serve(root.path(), link.address(), |_| {});
    let mut cuts = 0;
    for (up, down) in [(1, 0), (100, 0), (1, 1), (1, 400), (1, 800), (400, 1), (600, 1)] {
        let before = link.forwarded();
        wait_until("the handshake has come so far", || {
            let now = link.forwarded();
            now.0 >= before.0 + up && now.1 >= before.1 + down
        });
        let dialled = link.accepted();
        link.cut();
        cuts += 1;
        wait_until("it dials again", || link.accepted() > dialled);
    }
    assert!(link.accepted() > cuts);
    back_after(proxy.http, Instant::now());
    assert!(agent.count("event=connect_failed") > 0);
    wait_until("nothing of them is left", || {
        let debug = Debug::of(proxy.http);
        debug.total("tasks") == debug.total("connections_now") + 1
    });
    // The connection of the tunnel, and one that is about to be closed.
    wait_until("their sockets are closed", || descriptors(proxy.program().id()) <= idle + 2);
}

#[test]
fn slow_handshake_succeeds_in_time_and_is_given_up_after_it() {
    let root = TempRoot::new();
    root.write("small", b"small");
    let way = Way { rate: Some(1_500), split: Some(1), ..Way::default() };
    let settings = Settings { up: way, down: way };
    let patient = anonymous();
    let link = Link::start(patient.tunnel, settings).unwrap();
    let slow_one = agent(root.path(), link.address());
    let hasty = ScaledProxy::start(|settings| {
        settings.timings.handshake = Duration::from_millis(300);
    });
    let hasty_link = Link::start(hasty.tunnel, settings).unwrap();
    let given_up = ScaledAgent::serve(root.path(), hasty_link.address(), |_| {});
    given_up.wait_for("event=connect_failed", 1);
    // Others are served beside it.
    let _other = agent(root.path(), hasty.tunnel);
    back_after(hasty.http, Instant::now());
    let begun = Instant::now();
    back_after(patient.http, begun);
    // One handshake was enough.
    assert_eq!(link.accepted(), 1);
    assert_eq!(given_up.count("event=tunnel_up"), 0);
    drop(slow_one);
}
