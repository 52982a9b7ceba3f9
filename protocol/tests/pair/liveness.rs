//! Who is alive, and how soon it is noticed that nobody is.

use std::time::Duration;

use spdy_protocol::{error::Error, head::RequestHead, limits::Timings, session::Profile};

use crate::pair::Pair;

/// Seconds of virtual time until the client gives its silent peer up.
fn noticed_within(mut pair: Pair) -> u64 {
    pair.cut = true;
    let start = pair.now;
    while pair.client.session.error().is_none() {
        pair.advance(Duration::from_secs(1));
        assert!(pair.now - start < Duration::from_secs(100), "never noticed");
    }
    assert_eq!(pair.client.session.error(), Some(&Error::Silent));
    (pair.now - start).as_secs()
}

#[test]
fn black_hole_is_noticed_within_40_s_idle() {
    for profile in [Profile::Ours, Profile::Plain31, Profile::Amahi] {
        let mut pair = Pair::with(profile, profile, |_| {});
        pair.advance(Duration::from_secs(1));
        assert!(noticed_within(pair) <= 40);
    }
}

#[test]
fn black_hole_is_noticed_within_20_s_with_a_request_pending() {
    let mut pair = Pair::new();
    pair.advance(Duration::from_secs(20));
    let key = pair.client.get("/", pair.now);
    pair.settle();
    assert!(noticed_within(pair) <= 20);
    let _ = key;
}

#[test]
fn black_hole_is_noticed_within_20_s_in_a_transfer() {
    let mut pair = Pair::new();
    let key = pair.client.get("/", pair.now);
    pair.settle();
    let (served, _) = pair.server.take_opened();
    pair.server.reply(served, false);
    pair.server.write(served, b"first", false);
    pair.settle();
    pair.client.read(key, pair.now).unwrap();
    assert!(noticed_within(pair) <= 20);
}

#[test]
fn request_on_a_silent_tunnel_takes_a_ping_along() {
    let mut pair = Pair::new();
    let key = pair.client.get("/", pair.now);
    pair.settle();
    pair.advance(Duration::from_secs(6));
    pair.client.session.release(key);
    pair.advance(Duration::from_secs(6));
    pair.cut = true;
    pair.client.get("/", pair.now);
    let start = pair.now;
    while pair.client.session.error().is_none() {
        pair.advance(Duration::from_secs(1));
    }
    assert!(pair.now - start <= Duration::from_secs(11), "{:?}", pair.now - start);
}

#[test]
fn requests_are_neglected_only_while_nothing_moves() {
    let mut pair = Pair::new();
    let age = Duration::from_secs(60);
    let neglected = |pair: &Pair| pair.client.session.neglected(age, pair.now);
    let moving = pair.client.get("/film", pair.now);
    pair.settle();
    let (served, _) = pair.server.take_opened();
    pair.server.reply(served, false);
    pair.settle();
    let asked: Vec<_> = (0..3).map(|_| pair.client.get("/", pair.now)).collect();
    // The visitor owes the rest of it, not the agent.
    let uploading = pair.client.upload("/new", pair.now);
    pair.advance(age - Duration::from_millis(1));
    assert_eq!(neglected(&pair), 0);
    pair.advance(Duration::from_millis(1));
    assert_eq!(neglected(&pair), 3);
    pair.server.write(served, b"some", false);
    pair.settle();
    assert_eq!(neglected(&pair), 0);
    pair.advance(age);
    assert_eq!(neglected(&pair), 3);
    pair.client.session.release(asked[0]);
    assert_eq!(neglected(&pair), 2);
    assert!(!pair.client.session.is_closed(), "its PINGs are answered");
    pair.release_all([moving, asked[1], asked[2], uploading], [served]);
}

#[test]
fn idle_tunnel_lives_on_pings_alone() {
    let mut pair = Pair::new();
    let before = pair.client.session.counters().octets_sent;
    pair.advance(Duration::from_secs(3_600));
    assert!(!pair.client.session.is_closed() && !pair.server.session.is_closed());
    let octets = pair.client.session.counters().octets_sent - before;
    // One PING or answer of 12 octets every 25 s from either side.
    assert!(octets <= 2 * 12 * 3_600 / 25 + 100, "{octets} octets an hour");
}

#[test]
fn paused_viewer_is_not_cut() {
    let mut pair = Pair::new();
    let key = pair.client.get("/film", pair.now);
    pair.settle();
    let (served, _) = pair.server.take_opened();
    pair.server.reply(served, false);
    while pair.server.write(served, &[1; 65_528], false) > 0 {
        pair.settle();
    }
    pair.advance(Duration::from_secs(3_600));
    let (octets, _) = pair.client.read(key, pair.now).unwrap();
    assert_eq!(octets.len(), 262_144);
    pair.settle();
    assert!(pair.server.write(served, &[1; 65_528], false) > 0);
}

#[test]
fn slow_sender_hears_credit_every_second() {
    // 32 KiB a second with a window that half of would take minutes to use up.
    let mut pair = Pair::new();
    let key = pair.client.get("/film", pair.now);
    pair.settle();
    let (served, _) = pair.server.take_opened();
    pair.server.reply(served, false);
    pair.settle();
    let mut heard = pair.server.session.counters().octets_received;
    for _ in 0..60 {
        for _ in 0..8 {
            pair.server.write(served, &[1; 4_096], false);
            pair.advance(Duration::from_millis(125));
            pair.client.read(key, pair.now).unwrap();
        }
        pair.advance(Duration::from_millis(10));
        let now = pair.server.session.counters().octets_received;
        assert!(now > heard);
        heard = now;
    }
}

#[test]
fn deadline_is_never_in_the_past_while_the_output_is_stuffed() {
    // Credit is due and there is no room to send it: time alone changes nothing, so a deadline
    // that has passed would have the driver spin.
    let mut pair = Pair::new();
    let key = pair.client.upload("/file", pair.now);
    pair.settle();
    let (served, _) = pair.server.take_opened();
    pair.server.reply(served, false);
    pair.server.write(served, b"answer", false);
    let answer = pair.server.session.poll_transmit(pair.now).to_vec();
    pair.client.session.receive(&answer, pair.now).unwrap();
    assert_eq!(pair.client.write(key, &[0; 60_000], false), 60_000);
    let mut head = RequestHead::get("/");
    head.headers.push("cookie", &[b'x'; 30_000]).unwrap();
    pair.client.session.open(&head.to_headers().unwrap(), 3, true, pair.now).unwrap();
    pair.now += Timings::default().credit_delay;
    pair.client.session.handle_timeout(pair.now);
    assert!(!pair.client.session.poll_transmit(pair.now).is_empty());
    assert!(pair.client.session.poll_timeout().unwrap() > pair.now);
    // With room, it goes out.
    let before = pair.server.session.windows(None).unwrap().0;
    pair.settle();
    assert!(pair.server.session.windows(None).unwrap().0 > before);
}
