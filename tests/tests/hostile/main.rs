//! Peers and visitors that do what they must not: the programs neither die nor hang, keep within
//! their memory and go on serving everybody else.
//!
//! The programs are those that are run, with real TLS; the other end is written by hand.
#![expect(clippy::unwrap_used, reason = "a test that panics has failed, with its line")]

mod agents;
mod attacks;
mod breaks;
mod handshakes;
mod proxies;
#[path = "../scaled/mod.rs"]
mod scaled;
mod visitors;

use std::{net::SocketAddr, thread};

use attacks::{After, Sees, octets, opened};
use spdy_tests::{
    fixture::{Agent, Program, Proxy, TempRoot, wait_until},
    http::{Request, wait_for_agent},
    observe::{Debug, descriptors, forget_peak, memory, memory_peak},
    raw::{Name, RawProxy, RawSession},
    visitor::{End, Visitor},
    wire::Frame,
};

/// What a program may need beyond what it had when idle, whatever one peer or visitor does: less
/// than half of what a header bomb or an upload would take that was held whole.
const GROWTH: u64 = 16 << 20;

#[test]
fn proxy_outlives_every_agent() {
    let proxy = Proxy::start(&["--allow-anonymous", "--hold", "0"]);
    let id = proxy.program().id();
    let (idle, open) = (memory(id), descriptors(id));
    forget_peak(id);
    for &(name, act, after) in attacks::ANYBODY {
        let mut session = RawSession::dial(proxy.tunnel, Name::Own).unwrap();
        let mut visitor = Visitor::get(proxy.http, "/x");
        let stream = session.wait_for(opened).unwrap();
        act(&mut session, stream);
        look(name, &mut session, after, 2);
        session.octets.shutdown();
        let status = visitor.head().status;
        assert!(matches!(status, 502 | 503), "{name}: {status}");
        assert_eq!(visitor.finish().end, End::Whole);
    }
    for &(name, act, sees, after) in agents::AGENTS {
        let mut session = RawSession::dial(proxy.tunnel, Name::Own).unwrap();
        let mut visitor = Visitor::get(proxy.http, "/x");
        let stream = session.wait_for(opened).unwrap();
        let seen = thread::spawn(move || {
            let head = visitor.try_head("GET");
            head.map(|head| (head, visitor.finish()))
        });
        act(&mut session, stream);
        look(name, &mut session, after, 2);
        session.octets.shutdown();
        match (seen.join().unwrap(), sees) {
            (Ok((head, body)), Sees::Error) => {
                assert!(matches!(head.status, 502 | 503), "{name}: {head:?}");
                assert_eq!(body.end, End::Whole, "{name}");
            }
            (Ok((head, body)), Sees::Cut) if head.status == 200 => {
                assert_ne!(body.end, End::Whole, "{name}");
            }
            (Ok((head, _)), Sees::Cut) => assert_eq!(head.status, 502, "{name}"),
            (Err(_), Sees::Cut) => {}
            (Ok((head, body)), Sees::Status(status)) => {
                assert_eq!((head.status, body.end), (status, End::Whole), "{name}");
                for hidden in ["x-secret", "keep-alive", "set-cookie", "transfer-encoding"] {
                    assert_eq!(head.header(hidden), None, "{name}");
                }
            }
            (Err(error), sees) => panic!("{name}: {error} in place of {sees:?}"),
        }
        assert_sound(proxy.program());
    }
    assert_settled(proxy.http);
    let grown = memory_peak(id).saturating_sub(idle);
    println!("the proxy grew by at most {} KiB", grown >> 10);
    assert!(grown < GROWTH, "{grown}");
    wait_until("its sockets are closed", || descriptors(id) <= open + 1);

    let root = TempRoot::new();
    root.write("small", b"small");
    let _agent = Agent::serve(root.path(), proxy.tunnel);
    wait_for_agent(proxy.http);
    assert_eq!(Request::get("/small").send(proxy.http).unwrap().text(), "small");
    assert_sound(proxy.program());
}

#[test]
fn agent_outlives_every_proxy() {
    let root = TempRoot::new();
    root.write("small", b"small");
    root.random_file("large", 4 << 20, 5);
    let good = Proxy::start(&["--allow-anonymous", "--hold", "0"]);
    let attacks: Vec<_> = attacks::ANYBODY.iter().chain(proxies::PROXIES).copied().collect();
    let hostile: Vec<_> = attacks.iter().map(|_| RawProxy::new()).collect();
    // One tunnel to each: what one of them does must not be felt by the others.
    let mut args = vec!["-r".to_owned(), root.path().to_str().unwrap().to_owned()];
    args.extend(["--insecure", "--allow-write"].map(str::to_owned));
    for address in hostile.iter().map(|proxy| proxy.address).chain([good.tunnel]) {
        args.extend(["--proxy".to_owned(), address.to_string()]);
    }
    let agent = Agent::start(&args);
    let id = agent.program().id();
    let sessions: Vec<_> = hostile.iter().map(|proxy| proxy.session(Name::Own).unwrap()).collect();
    wait_for_agent(good.http);
    let idle = memory(id);
    forget_peak(id);
    for (&(name, act, after), mut session) in attacks.iter().zip(sessions) {
        act(&mut session, 1);
        look(name, &mut session, after, 1);
        session.octets.shutdown();
        assert_sound(agent.program());
        let answer = Request::get("/small").send(good.http).unwrap();
        assert_eq!(answer.text(), "small", "{name}");
    }
    let grown = memory_peak(id).saturating_sub(idle);
    println!("the agent grew by at most {} KiB", grown >> 10);
    assert!(grown < GROWTH, "{grown}");
    let left = || {
        let entries = std::fs::read_dir(root.path()).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect::<Vec<_>>()
    };
    wait_until("broken uploads are gone", || left().len() == 2);
    assert_eq!(Debug::of(good.http).total("tunnels_now"), 1);
}

/// Streams of octets that may be anything: what comes out is not known, but that all goes on.
#[test]
fn noise_is_outlived_by_both() {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let root = TempRoot::new();
    root.write("small", b"small");
    let proxy = Proxy::start(&["--allow-anonymous", "--hold", "0"]);
    let rounds = 60;
    let hostile: Vec<_> = (0..rounds).map(|_| RawProxy::new()).collect();
    let mut args = vec!["-r".to_owned(), root.path().to_str().unwrap().to_owned()];
    args.push("--insecure".to_owned());
    for proxy in &hostile {
        args.extend(["--proxy".to_owned(), proxy.address.to_string()]);
    }
    let agent = Agent::start(&args);
    for (round, hostile) in hostile.iter().enumerate() {
        let noise = noise(&mut random);
        let session = hostile.session(Name::Own).unwrap();
        octets(&session, &noise);
        session.octets.shutdown();

        let name = if round % 2 == 0 { Name::Own } else { Name::None };
        let mut session = RawSession::dial(proxy.tunnel, name).unwrap();
        let mut visitor = Visitor::get(proxy.http, "/x");
        session.wait_for(opened).unwrap();
        octets(&session, &noise);
        session.octets.shutdown();
        let head = visitor.try_head("GET");
        if let Ok(head) = head {
            assert!(matches!(head.status, 502 | 503), "round {round} of seed {seed}");
            assert_eq!(visitor.finish().end, End::Whole);
        }
    }
    assert_sound(agent.program());
    assert_sound(proxy.program());
    assert_settled(proxy.http);
    let _good = Agent::serve(root.path(), proxy.tunnel);
    wait_for_agent(proxy.http);
    assert_eq!(Request::get("/small").send(proxy.http).unwrap().text(), "small");
}

/// Frames whose heads are sound now and then, so that noise gets behind the first check.
fn noise(random: &mut fastrand::Rng) -> Vec<u8> {
    let mut all = Vec::new();
    for _ in 0..random.usize(1..40) {
        let len = random.usize(0..200);
        let mut payload: Vec<u8> = (0..len).map(|_| random.u8(..)).collect();
        if random.bool() && len >= 4 {
            payload[..4].copy_from_slice(&random.u32(0..6).to_be_bytes());
        }
        let said = u32::try_from(len).unwrap() + if random.u8(..) < 16 { 1 } else { 0 };
        let said = said.to_be_bytes();
        let head = match random.u8(0..4) {
            0 => [0, 0, 0, random.u8(0..6), random.u8(0..4), said[1], said[2], said[3]],
            _ => [0x80, 3, 0, random.u8(0..12), random.u8(0..4), said[1], said[2], said[3]],
        };
        all.extend_from_slice(&head);
        all.extend_from_slice(&payload);
    }
    all
}

/// Looks at a session after an attack; `ping` is an id of our own parity.
fn look(name: &str, session: &mut RawSession, after: After, ping: u32) {
    if after == After::Lives {
        assert!(session.is_alive(ping), "{name}: the session has ended");
        return;
    }
    let frames = session.ends();
    let said = frames.iter().rev().find_map(|frame| match frame {
        Frame::GoAway(_, status) => Some(*status),
        _ => None,
    });
    if after == After::GoAway {
        assert_eq!(said, Some(1), "{name}: {frames:?}");
    }
}

fn assert_sound(program: &Program) {
    let text = program.text();
    assert!(!text.contains("panicked") && !text.contains("overflow"), "{text}");
}

/// Nothing that is left over from attacks is held.
fn assert_settled(http: SocketAddr) {
    wait_until("the proxy holds nothing", || {
        let debug = Debug::of(http);
        debug.total("streams_now") == 0
            && debug.total("budget_bytes") == 0
            && debug.total("connections_now") == 1
            && debug.total("tasks") == 1 + debug.total("tunnels_now")
    });
}
