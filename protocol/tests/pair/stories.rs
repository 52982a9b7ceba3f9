//! What a session does for its programs, told as stories.

use std::{task::Poll, time::Duration};

use spdy_protocol::{
    error::StreamError,
    frame::Status,
    limits::{
        CREDIT_STEP_MAX, INITIAL_WINDOW, STREAM_WINDOW_HEAD_START, STREAM_WINDOW_MAX, STREAMS,
        TUNNEL_BUDGET,
    },
    session::{Event, Key, OpenRefused, Profile, Side},
};

use crate::pair::{Pair, payload};

const PROFILES: [Profile; 3] = [Profile::Ours, Profile::Plain31, Profile::Amahi];

/// Serves `len` octets on a stream and reads them, checking each.
fn transfer(pair: &mut Pair, len: usize) -> usize {
    // An Amahi peer needs a pause first.
    pair.advance(Duration::from_millis(100));
    let key = pair.client.get("/file", pair.now);
    pair.advance(Duration::from_millis(200));
    let (served, _) = pair.server.take_opened();
    pair.server.reply(served, false);
    let (mut sent, mut received, mut rounds) = (0, 0, 0);
    loop {
        while sent < len {
            let octets = payload(key.id.value(), sent, (len - sent).min(70_000));
            let end = sent + octets.len() == len;
            match pair.server.write(served, &octets, end) {
                0 => break,
                count => sent += count,
            }
        }
        pair.settle();
        let (octets, fin) = pair.client.read(key, pair.now).unwrap();
        assert!(octets == payload(key.id.value(), received, octets.len()));
        received += octets.len();
        if fin {
            break;
        }
        rounds += 1;
        assert!(rounds < 1_000_000, "stalled at {sent} sent, {received} received");
        if sent < len && octets.is_empty() {
            pair.advance(Duration::from_millis(10));
        }
    }
    assert_eq!(received, len);
    pair.release_all([key], [served]);
    pair.assert_empty();
    rounds
}

#[test]
fn get_carries_a_file_in_every_pair_of_profiles() {
    for profile in PROFILES {
        let mut pair = Pair::with(profile, profile, |_| {});
        transfer(&mut pair, 3_000_001);
        assert_eq!(pair.client.error, None);
    }
}

#[test]
fn every_split_size_carries_the_same_octets() {
    for split in (1..40).chain([100, 1_000, 16_383, 16_384, 16_385, 65_535]) {
        let mut pair = Pair::new();
        pair.split = split;
        transfer(&mut pair, if split < 40 { 100_000 } else { 400_000 });
    }
}

#[test]
fn empty_answer_ends_with_the_reply() {
    let mut pair = Pair::new();
    let key = pair.client.get("/", pair.now);
    pair.settle();
    let (served, _) = pair.server.take_opened();
    pair.server.reply(served, true);
    pair.settle();
    assert!(matches!(pair.client.session.take_head(key), Poll::Ready(Ok(_))));
    assert_eq!(pair.client.read(key, pair.now), Ok((Vec::new(), true)));
    pair.release_all([key], [served]);
    pair.assert_empty();
    assert_eq!(pair.client.session.counters().resets_sent, 0);
}

#[test]
fn upload_and_answer_flow_at_the_same_time() {
    let mut pair = Pair::new();
    let key = pair.client.upload("/file", pair.now);
    pair.settle();
    let (served, _) = pair.server.take_opened();
    pair.server.reply(served, false);
    let (mut up, mut down) = ((0, 0), (0, 0));
    while up.1 < 500_000 || down.1 < 500_000 {
        up.0 += pair.client.write(key, &payload(1, up.0, 500_000 - up.0), true);
        down.0 += pair.server.write(served, &payload(2, down.0, 500_000 - down.0), true);
        pair.settle();
        let (octets, _) = pair.server.read(served, pair.now).unwrap();
        assert!(octets == payload(1, up.1, octets.len()));
        up.1 += octets.len();
        let (octets, _) = pair.client.read(key, pair.now).unwrap();
        assert!(octets == payload(2, down.1, octets.len()));
        down.1 += octets.len();
        pair.settle();
    }
    pair.release_all([key], [served]);
    pair.assert_empty();
    assert_eq!(pair.client.session.counters().resets_sent, 0);
}

#[test]
fn paused_stream_does_not_stall_its_neighbours() {
    let mut pair = Pair::new();
    let paused: Vec<Key> = (0..20).map(|_| pair.client.get("/paused", pair.now)).collect();
    pair.settle();
    let served: Vec<Key> = (0..20).map(|_| pair.server.take_opened().0).collect();
    for key in &served {
        pair.server.reply(*key, false);
        while pair.server.write(*key, &payload(0, 0, 65_528), false) > 0 {
            pair.settle();
        }
    }
    transfer_beside(&mut pair, 5_000_000);
    assert!(pair.client.session.counters().budget_used <= TUNNEL_BUDGET);
    pair.release_all(paused, served);
    pair.assert_empty();
}

fn transfer_beside(pair: &mut Pair, len: usize) {
    let key = pair.client.get("/file", pair.now);
    pair.settle();
    let (served, _) = pair.server.take_opened();
    pair.server.reply(served, false);
    let (mut sent, mut received) = (0, 0);
    for _ in 0..100_000 {
        let octets = payload(9, sent, (len - sent).min(65_528));
        sent += pair.server.write(served, &octets, sent + octets.len() == len);
        pair.settle();
        let (octets, fin) = pair.client.read(key, pair.now).unwrap();
        received += octets.len();
        if fin {
            break;
        }
    }
    assert_eq!(received, len);
    pair.release_all([key], [served]);
}

#[test]
fn window_grows_to_its_limit_while_the_reader_keeps_up() {
    let mut pair = Pair::new();
    pair.delay = Duration::from_millis(50);
    let key = pair.client.get("/film", pair.now);
    pair.advance(Duration::from_millis(100));
    let (served, _) = pair.server.take_opened();
    pair.server.reply(served, false);
    let mut per_round_trip = Vec::new();
    for _ in 0..20 {
        let mut received = 0;
        for _ in 0..100 {
            while pair.server.write(served, &[0; 65_528], false) > 0 {
                pair.settle();
            }
            pair.advance(Duration::from_millis(1));
            received += pair.client.read(key, pair.now).unwrap().0.len();
        }
        per_round_trip.push(received);
    }
    let reached = *per_round_trip.last().unwrap();
    let wanted = STREAM_WINDOW_MAX as usize * 9 / 10;
    assert!(reached >= wanted, "{per_round_trip:?}");
    assert_eq!(pair.client.session.counters().largest_window, STREAM_WINDOW_MAX);
}

#[test]
fn stream_that_was_not_read_for_a_second_falls_back_to_the_first_window() {
    let mut pair = Pair::new();
    let key = pair.client.get("/film", pair.now);
    pair.settle();
    let (served, _) = pair.server.take_opened();
    pair.server.reply(served, false);
    let write_all = |pair: &mut Pair| {
        let mut sent = 0;
        while let count @ 1.. = pair.server.write(served, &[0; 65_528], false) {
            sent += count;
            pair.settle();
        }
        sent
    };
    let head_start = (INITIAL_WINDOW + STREAM_WINDOW_HEAD_START) as usize;
    assert_eq!(write_all(&mut pair), head_start);
    pair.advance(Duration::from_secs(2));
    assert_eq!(pair.client.read(key, pair.now).unwrap().0.len(), head_start);
    pair.settle();
    assert_eq!(write_all(&mut pair), INITIAL_WINDOW as usize);
    assert_eq!(pair.client.session.counters().budget_used, INITIAL_WINDOW as usize);
}

#[test]
fn lowered_initial_window_makes_send_windows_negative_until_credit_comes() {
    // Frames by hand: no session of ours sends SETTINGS_INITIAL_WINDOW_SIZE.
    let mut pair = Pair::new();
    let key = pair.client.upload("/file", pair.now);
    pair.settle();
    let (served, _) = pair.server.take_opened();
    assert_eq!(pair.client.write(key, &[0; 60 * 1024], false), 60 * 1024);
    let mut settings = Vec::new();
    spdy_protocol::frame::encode_settings(&[(7, 16 * 1024)], &mut settings);
    pair.client.session.receive(&settings, pair.now).unwrap();
    assert_eq!(pair.client.write(key, &[0], false), 0);
    pair.settle();
    // 44 KiB are owed; what the server gives back for 60 KiB lifts the window above 0.
    assert_eq!(pair.server.read(served, pair.now).unwrap().0.len(), 60 * 1024);
    pair.settle();
    assert_eq!(pair.client.write(key, &[0; 65_528], false), 16 * 1024);
}

#[test]
fn streams_beyond_the_limit_wait_and_get_the_next_free_slot() {
    let mut pair = Pair::new();
    let keys: Vec<Key> = (0..STREAMS).map(|_| pair.client.get("/", pair.now)).collect();
    assert_eq!(pair.client.try_get("/", pair.now), Err(OpenRefused::Wait));
    pair.settle();
    assert_eq!(pair.server.opened.len(), STREAMS);
    pair.client.session.release(keys[0]);
    assert!(pair.client.try_get("/", pair.now).is_ok());
}

#[test]
fn freed_slot_reaches_the_peer_before_the_stream_that_takes_it() {
    let mut pair = Pair::new();
    let keys: Vec<Key> = (0..STREAMS).map(|_| pair.client.get("/", pair.now)).collect();
    pair.settle();
    pair.client.session.release(keys[0]);
    let next = pair.client.get("/", pair.now);
    pair.split = 1;
    while pair.client.session.wants_transmit() {
        let octets = pair.client.session.poll_transmit(pair.now).to_vec();
        pair.client.session.transmitted(octets.len());
        for octet in octets {
            pair.server.session.receive(&[octet], pair.now).unwrap();
            // The agent's task lets go as soon as it hears of the reset.
            let (first, _) = pair.server.opened[0];
            if pair.server.session.failure(first).is_some() {
                pair.server.session.release(first);
            }
        }
    }
    pair.settle();
    assert_eq!(pair.client.session.failure(next), None);
}

#[test]
fn turns_that_are_not_used_go_to_those_who_wait() {
    let mut pair = Pair::new();
    let keys: Vec<Key> = (0..7).map(|_| pair.client.get("/", pair.now)).collect();
    pair.settle();
    let served: Vec<Key> = keys.iter().map(|_| pair.server.take_opened().0).collect();
    served.iter().for_each(|key| pair.server.reply(*key, false));
    pair.settle();
    // The first fills the output; the others wait for a turn.
    assert!(pair.server.write(served[0], &[0; 65_528], false) > 0);
    for key in &served[1..] {
        assert_eq!(pair.server.write(*key, &[0; 65_528], false), 0);
    }
    let told = told_to_write(&mut pair);
    // Four are told, and their disk has nothing for them yet; nothing else is sent.
    assert_eq!(told.len(), 4);
    for key in told {
        let cold = || std::io::Error::from(std::io::ErrorKind::WouldBlock);
        let polled = pair.server.session.write_with(key, 65_528, false, |_| Err(cold()));
        assert!(matches!(polled, Poll::Ready(Err(_))));
    }
    assert!(!pair.server.session.wants_transmit());
    let events = std::iter::from_fn(|| pair.server.session.poll_event());
    assert_eq!(events.filter(|event| matches!(event, Event::Writable(_))).count(), 2);
}

#[test]
fn turns_of_streams_that_are_reset_go_to_those_who_wait() {
    let mut pair = Pair::new();
    let keys: Vec<Key> = (0..6).map(|_| pair.client.get("/", pair.now)).collect();
    pair.settle();
    let served: Vec<Key> = keys.iter().map(|_| pair.server.take_opened().0).collect();
    served.iter().for_each(|key| pair.server.reply(*key, false));
    pair.settle();
    assert!(pair.server.write(served[0], &[0; 65_528], false) > 0);
    for key in &served[1..] {
        assert_eq!(pair.server.write(*key, &[0; 65_528], false), 0);
    }
    let told = told_to_write(&mut pair);
    let waits = *served[1..].iter().find(|key| !told.contains(key)).unwrap();
    for key in told {
        let at = served.iter().position(|served| *served == key).unwrap();
        pair.client.session.release(keys[at]);
    }
    let resets = pair.client.session.poll_transmit(pair.now).to_vec();
    pair.server.session.receive(&resets, pair.now).unwrap();
    let mut events = std::iter::from_fn(|| pair.server.session.poll_event());
    assert!(events.any(|event| event == Event::Writable(waits)));
}

/// Takes the server's output, once, and returns who was told to write then.
fn told_to_write(pair: &mut Pair) -> Vec<Key> {
    while pair.server.session.poll_event().is_some() {}
    let len = pair.server.session.poll_transmit(pair.now).len();
    pair.server.session.transmitted(len);
    let events = std::iter::from_fn(|| pair.server.session.poll_event());
    events
        .filter_map(|event| match event {
            Event::Writable(key) => Some(key),
            _ => None,
        })
        .collect()
}

#[test]
fn agent_refuses_the_upload_that_is_one_too_many() {
    let mut pair = Pair::with(Profile::Ours, Profile::Ours, |config| {
        config.uploads = if config.side == Side::Server { 2 } else { STREAMS };
    });
    let keys: Vec<Key> = (0..3).map(|_| pair.client.upload("/file", pair.now)).collect();
    pair.settle();
    assert_eq!(pair.server.opened.len(), 2);
    assert_eq!(pair.client.session.failure(keys[2]), Some(StreamError::Refused));
    let get = pair.client.get("/", pair.now);
    pair.settle();
    assert_eq!(pair.client.session.failure(get), None);
}

#[test]
fn cancelled_stream_stops_its_sender_and_gives_all_credit_back() {
    let mut pair = Pair::new();
    for _ in 0..300 {
        let key = pair.client.get("/film", pair.now);
        pair.settle();
        let (served, _) = pair.server.take_opened();
        pair.server.reply(served, false);
        while pair.server.write(served, &[0; 65_528], false) > 0 {
            pair.step();
        }
        pair.client.session.release(key);
        pair.settle();
        assert_eq!(
            pair.server.session.failure(served),
            Some(StreamError::Reset(Status::Cancel as u32))
        );
        pair.server.session.release(served);
    }
    // 300 x 256 KiB went to streams that nobody read: the session window is still whole.
    pair.advance(Duration::from_secs(2));
    transfer(&mut pair, 20 << 20);
}

#[test]
fn draining_session_finishes_what_runs_and_ends() {
    let mut pair = Pair::new();
    let key = pair.client.get("/file", pair.now);
    pair.settle();
    let (served, _) = pair.server.take_opened();
    pair.server.session.drain();
    pair.settle();
    assert_eq!(pair.client.try_get("/", pair.now), Err(OpenRefused::Closed));
    pair.server.reply(served, false);
    assert_eq!(pair.server.write(served, b"rest", true), 4);
    pair.settle();
    assert_eq!(pair.client.read(key, pair.now), Ok((b"rest".to_vec(), true)));
    pair.release_all([key], [served]);
    assert!(pair.client.session.is_closed() && pair.server.session.is_closed());
    assert_eq!((pair.client.session.error(), pair.server.session.error()), (None, None));
}

#[test]
fn session_that_the_proxy_leaves_serves_until_it_is_drained() {
    let mut pair = Pair::new();
    pair.client.session.leave();
    pair.settle();
    // The agent knows, although nothing runs, and takes what comes.
    assert!(!pair.server.session.is_open() && !pair.server.session.is_closed());
    let key = pair.client.get("/file", pair.now);
    pair.settle();
    let (served, _) = pair.server.take_opened();
    pair.client.session.drain();
    assert_eq!(pair.client.try_get("/", pair.now), Err(OpenRefused::Closed));
    pair.server.reply(served, true);
    pair.settle();
    assert!(!pair.client.session.is_closed());
    pair.release_all([key], [served]);
    pair.settle();
    assert!(pair.client.session.is_closed());
    pair.server.session.transport_ended(std::io::ErrorKind::UnexpectedEof);
    assert_eq!((pair.client.session.error(), pair.server.session.error()), (None, None));
}

#[test]
fn stream_above_last_good_was_not_processed_and_may_be_repeated() {
    let mut pair = Pair::new();
    pair.delay = Duration::from_millis(10);
    pair.server.session.drain();
    let key = pair.client.get("/", pair.now);
    pair.advance(Duration::from_millis(50));
    assert_eq!(pair.client.session.failure(key), Some(StreamError::Refused));
    assert!(pair.server.opened.is_empty());
}

#[test]
fn lost_transport_fails_every_stream_and_empties_the_tables() {
    let mut pair = Pair::new();
    let key = pair.client.get("/", pair.now);
    pair.settle();
    let (served, _) = pair.server.take_opened();
    for end in [&mut pair.client, &mut pair.server] {
        end.session.transport_ended(std::io::ErrorKind::ConnectionReset);
        assert!(end.session.error().is_some());
    }
    assert_eq!(pair.client.session.failure(key), Some(StreamError::SessionEnded));
    pair.release_all([key], [served]);
    pair.assert_empty();
}

#[test]
fn amahi_peer_is_asked_one_thing_at_a_time_after_a_pause() {
    let mut pair = Pair::with(Profile::Amahi, Profile::Amahi, |_| {});
    assert_eq!(pair.client.try_get("/1", pair.now), Err(OpenRefused::Wait));
    pair.advance(Duration::from_millis(100));
    pair.client.get("/1", pair.now);
    assert_eq!(pair.client.try_get("/2", pair.now), Err(OpenRefused::Wait));
    pair.settle();
    let (served, _) = pair.server.take_opened();
    pair.server.reply(served, false);
    pair.settle();
    assert!(pair.client.try_get("/2", pair.now).is_ok());
}

#[test]
fn amahi_peer_gets_four_frames_of_16_kib_and_no_more_until_it_answers() {
    let mut pair = Pair::with(Profile::Amahi, Profile::Amahi, |_| {});
    pair.advance(Duration::from_millis(100));
    let key = pair.client.get("/listing", pair.now);
    pair.settle();
    let (served, _) = pair.server.take_opened();
    pair.server.reply(served, false);
    // Small pieces: the frames run out long before the window.
    let written = (0..10).filter(|_| pair.server.write(served, b"<li>", false) > 0).count();
    assert_eq!(written, 4);
    pair.settle();
    // What was read is below a credit step; nothing may be answered, and nothing sent.
    assert_eq!(pair.client.read(key, pair.now).unwrap().0.len(), 16);
}

#[test]
fn nameless_peer_that_stops_at_64_kib_is_given_session_credit() {
    // The server keeps session windows, the client does not know it yet.
    let mut pair = Pair::with(Profile::Amahi, Profile::Plain31, |_| {});
    pair.server.session.poll_transmit(pair.now);
    let greeting = pair.server.session.poll_transmit(pair.now).len();
    pair.server.session.transmitted(greeting);
    pair.advance(Duration::from_millis(100));
    let key = pair.client.get("/file", pair.now);
    pair.settle();
    let (served, _) = pair.server.take_opened();
    pair.server.reply(served, false);
    let mut received = 0;
    for _ in 0..40 {
        while pair.server.write(served, &[7; 16_384], false) > 0 {
            pair.settle();
        }
        received += pair.client.read(key, pair.now).unwrap().0.len();
        pair.advance(Duration::from_millis(100));
    }
    assert_eq!(pair.client.session.profile(), Profile::Plain31);
    assert!(received > 1_000_000, "{received}");
}

#[test]
fn credit_comes_in_steps_and_not_in_crumbs() {
    let mut pair = Pair::new();
    let key = pair.client.get("/file", pair.now);
    pair.settle();
    let (served, _) = pair.server.take_opened();
    pair.server.reply(served, false);
    let before = pair.client.session.counters().octets_sent;
    let mut total = 0;
    for _ in 0..1_000 {
        total += pair.server.write(served, &[0; 16_376], false);
        pair.settle();
        pair.client.read(key, pair.now).unwrap();
        pair.settle();
    }
    let frames = (pair.client.session.counters().octets_sent - before) / 16;
    let steps = total as u64 / u64::from(INITIAL_WINDOW / 2) + 8;
    assert!(frames <= steps, "{frames} frames for {total} octets, step {CREDIT_STEP_MAX}");
}

#[test]
fn higher_priority_goes_first_and_equals_share() {
    let mut pair = Pair::new();
    let head = spdy_protocol::head::RequestHead::get("/").to_headers().unwrap();
    let priorities = [0, 3, 3, 7];
    let keys: Vec<Key> = priorities
        .iter()
        .map(|priority| pair.client.session.open(&head, *priority, true, pair.now).unwrap())
        .collect();
    pair.settle();
    let served: Vec<Key> = keys.iter().map(|_| pair.server.take_opened().0).collect();
    served.iter().for_each(|key| pair.server.reply(*key, false));
    let mut sent = [0; 4];
    // Who is told to write, writes until it is told to wait: as a program would.
    pair.server.writable.extend(&served);
    for _ in 0..4_000 {
        for key in std::mem::take(&mut pair.server.writable) {
            let at = served.iter().position(|served| *served == key).unwrap();
            while let count @ 1.. = pair.server.write(key, &[0; 65_528], false) {
                sent[at] += count;
            }
        }
        pair.step();
        for key in &keys {
            pair.client.read(*key, pair.now).unwrap();
        }
    }
    let share = |at: usize| sent[at] as f64 / sent.iter().sum::<usize>() as f64;
    assert!(share(0) > share(1) * 1.5, "{sent:?}");
    assert!((share(1) - share(2)).abs() < 0.02, "{sent:?}");
    assert!(share(3) > 0.02 && share(3) < share(1), "{sent:?}");
}

#[test]
fn counters_tell_a_small_window_from_a_slow_reader() {
    // Milliseconds between two reads, and whether the window is what limits.
    for (pause, by_window) in [(1, true), (500, false)] {
        let mut pair = Pair::with(Profile::Ours, Profile::Ours, |config| config.grow = false);
        pair.delay = Duration::from_millis(20);
        let key = pair.client.get("/film", pair.now);
        pair.advance(Duration::from_millis(40));
        let (served, _) = pair.server.take_opened();
        pair.server.reply(served, false);
        for _ in 0..4_000 / pause {
            for _ in 0..pause.min(10) {
                while pair.server.write(served, &[0; 65_528], false) > 0 {
                    pair.settle();
                }
                pair.advance(Duration::from_millis(pause / pause.min(10)));
            }
            pair.client.read(key, pair.now).unwrap();
        }
        let counters = pair.server.session.counters();
        let (window, reader) = (counters.waited_window, counters.waited_reader);
        let share = |part: Duration| part.as_secs_f64() / (window + reader).as_secs_f64();
        let waited = if by_window { share(window) } else { share(reader) };
        assert!(waited > 0.8, "pause {pause}: window {window:?}, reader {reader:?}");
        assert!(window + reader > Duration::from_secs(3), "{window:?}, {reader:?}");
        assert_eq!(pair.client.session.counters().waited_reader, Duration::ZERO);
    }
}

#[test]
fn counters_tell_how_long_streams_waited_for_the_transport() {
    let mut pair = Pair::new();
    pair.client.get("/film", pair.now);
    pair.settle();
    let (served, _) = pair.server.take_opened();
    pair.server.reply(served, false);
    // The transport takes nothing for a second.
    while pair.server.write(served, &[0; 65_528], false) > 0 {}
    pair.now += Duration::from_secs(1);
    pair.settle();
    let counters = pair.server.session.counters();
    assert_eq!(counters.waited_output, Duration::from_secs(1));
    assert_eq!(counters.waited_window + counters.waited_reader, Duration::ZERO);
}
