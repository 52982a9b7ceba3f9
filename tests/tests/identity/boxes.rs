//! Several boxes, processes or connections want one name.

use std::{
    fs,
    time::{Duration, Instant},
};

use spdy_tests::{
    fixture::{Agent, Builds, Pair, Proxy, TempRoot, join, wait_until},
    observe::{Signal, signal},
    visitor::{End, Visitor},
};

use crate::{claim::Claim, copied, joined, served, token, wait_for_state, who};

const OTHER: &str = "0123456789abcdef0123456789abcdef";

#[test]
fn box_that_lost_power_gets_in_at_once() {
    let (before, after) = (served("before"), served("after"));
    let pair = Pair::start(before.path());
    assert_eq!(who(&pair.proxy), "before");
    // To the proxy it looks alive for a long time: no RST, no FIN.
    signal(pair.agent.program().id(), Signal::STOP);
    let begun = Instant::now();
    let _booted = joined(&after, &pair.config());
    pair.proxy.program().wait_for("its tunnel", |line| {
        line.contains("tunnel=up origin=nas1 tunnel=2 ").then_some(())
    });
    assert_eq!(who(&pair.proxy), "after");
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
    signal(pair.agent.program().id(), Signal::CONT);
}

#[test]
fn older_connection_of_a_run_comes_too_late() {
    let proxy = Proxy::start(&[]);
    let claim = Claim::joined(&proxy, "nas1", "token");
    let mut first = claim.of(1, 1, 7).offer(proxy.tunnel);
    assert_eq!(first.status(), 200);
    let late = claim.of(1, 1, 6).offer(proxy.tunnel);
    assert_eq!((late.status(), late.reason()), (409, "a newer connection of this agent is in use"));
    let second = claim.of(1, 1, 8).offer(proxy.tunnel);
    assert_eq!(second.status(), 200);
    assert!(first.is_sent_away());
    drop(second);
    wait_for_state(&proxy, "nas1", "away");
    // What the dead one leaves behind is still known.
    assert_eq!(claim.of(1, 1, 7).offer(proxy.tunnel).status(), 409);
    assert_eq!(claim.of(1, 1, 9).offer(proxy.tunnel).status(), 200);
}

#[test]
fn two_boxes_with_one_pairing_are_told_so() {
    let proxy = Proxy::start(&[]);
    let claim = Claim::joined(&proxy, "nas1", "token");
    let mut held = claim.of(1, 0, 1).offer(proxy.tunnel);
    for run in 1..=3 {
        let next = claim.of(1, run, 1).offer(proxy.tunnel);
        assert_eq!(next.status(), 200);
        assert!(held.is_sent_away());
        held = next;
    }
    let fourth = claim.of(1, 4, 1).offer(proxy.tunnel);
    assert_eq!((fourth.status(), fourth.reason()), (409, "two boxes use this pairing"));
    proxy.program().wait_for("its line", |line| {
        (line.contains("status=409") && line.contains("two boxes")).then_some(())
    });
    // A real second box says it in its own log.
    let root = served("second");
    let config = root.join("conf/agent.conf");
    join(&Builds::beside(), &proxy.pair("nas2"), &config);
    let copy = TempRoot::new();
    let text = fs::read_to_string(&config).unwrap().replace("name nas2", "name nas1");
    let lines = text.lines().map(|line| match line.starts_with("instance ") {
        true => format!("instance {}\n", "01".repeat(16)),
        false => format!("{line}\n"),
    });
    fs::write(copy.join("agent.conf"), lines.collect::<String>()).unwrap();
    let file = text.lines().find_map(|line| line.strip_prefix("token-file ")).unwrap();
    fs::write(copy.join(file), "token\n").unwrap();
    let agent = joined(&root, &copy.join("agent.conf"));
    agent.program().wait_for("why", |line| {
        (line.contains("409") && line.contains("two boxes use this pairing")).then_some(())
    });
    drop(held);
}

#[test]
fn another_box_has_to_wait_while_the_first_is_alive() {
    let root = served("first");
    let pair = Pair::start(root.path());
    let claim = Claim::by_token("nas1", &token(&pair.config()));
    let begun = Instant::now();
    let second = claim.of(2, 2, 1).offer(pair.proxy.tunnel);
    assert_eq!((second.status(), second.reason()), (409, "another box holds this name"));
    // It was asked, and answered: that takes no five seconds.
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
    assert_eq!(who(&pair.proxy), "first");
    signal(pair.agent.program().id(), Signal::STOP);
    let begun = Instant::now();
    let second = claim.of(2, 2, 2).offer(pair.proxy.tunnel);
    let took = begun.elapsed();
    assert_eq!(second.status(), 200, "{}", second.reason());
    assert!(took > Duration::from_secs(4) && took < Duration::from_secs(8), "{took:?}");
    signal(pair.agent.program().id(), Signal::CONT);
}

#[test]
fn box_that_stands_by_follows_at_once() {
    let (first, second) = (served("first"), served("second"));
    let mut pair = Pair::with(first.path(), &["--standby"], &[]);
    let folder = TempRoot::new();
    let _waiting = joined(&second, &copied(&pair.config(), &folder, Some(OTHER)));
    wait_for_state(&pair.proxy, "nas1", "standby");
    assert_eq!(who(&pair.proxy), "first");
    // There is one such seat.
    let third = Claim::by_token("nas1", &token(&pair.config())).of(3, 3, 1);
    assert_eq!(third.offer(pair.proxy.tunnel).status(), 409);
    let begun = Instant::now();
    pair.agent.program_mut().kill();
    wait_until("the second serves", || who(&pair.proxy) == "second");
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    // It holds the name now, and the first would wait behind it.
    let _back = joined(&first, &pair.config());
    wait_for_state(&pair.proxy, "nas1", "standby");
    assert_eq!(who(&pair.proxy), "second");
}

#[test]
fn displaced_box_finishes_what_it_sends() {
    let (before, after) = (served("before"), served("after"));
    let wanted = before.random_file("large", 24 << 20, 4);
    let pair = Pair::start(before.path());
    let mut visitor = Visitor::get(pair.proxy.http, "/large");
    visitor.head();
    visitor.read(100_000);
    let _next = joined(&after, &pair.config());
    wait_until("the next serves", || who(&pair.proxy) == "after");
    let body = visitor.finish();
    assert_eq!((body.end, body.sha256), (End::Whole, wanted));
}

#[test]
fn agents_that_say_goodbye_displace_nobody() {
    let root = served("one");
    let mut pair = Pair::start(root.path());
    // A restart by hand, again and again, is not two boxes.
    for _ in 0..5 {
        pair.agent.program().terminate();
        wait_for_state(&pair.proxy, "nas1", "away");
        pair.agent = Agent::joined(&Builds::beside(), root.path(), &pair.config(), &[]);
        wait_until("it is back", || who(&pair.proxy) == "one");
    }
    assert!(!pair.proxy.program().text().contains("status=409"));
}
