//! Strangers who begin and do not go on, by the thousand, at both ports.

use std::{
    io::{Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream},
    sync::{Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use socket2::{Domain, SockAddr, Socket, Type};
use spdy_tests::{
    fixture::{Builds, Pair, TempRoot, join, wait_until},
    http::{Request, wait_for_agent},
    observe::{Debug, descriptors, forget_peak, memory, memory_peak},
};

use crate::{joined, scaled::ScaledProxy, served, who};

/// What each of them has said when it falls silent.
const BEGINNINGS: [&[u8]; 4] =
    [b"", &[0x16, 3, 1], &[0x16, 3, 1, 0x40, 0, 1], b"GET / HTTP/1.1\r\nHost: x\r\n"];

/// A connection from an address of the loopback.
fn connect(from: Ipv4Addr, to: SocketAddr) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&SockAddr::from(SocketAddr::new(IpAddr::V4(from), 0))).unwrap();
    socket.connect(&to.into()).unwrap();
    socket.into()
}

fn flood(count: usize, from: impl Fn(usize) -> Ipv4Addr, to: SocketAddr) -> Vec<TcpStream> {
    let begun = (0..count).map(|n| {
        let mut stream = connect(from(n), to);
        // Some are closed already.
        let _ = stream.write_all(BEGINNINGS[n % BEGINNINGS.len()]);
        stream
    });
    begun.collect()
}

/// The addresses of a flood: all one, or as many as there are.
type From = fn(usize) -> Ipv4Addr;

const ONE: From = |_| Ipv4Addr::LOCALHOST;
const MANY: From = |n| {
    let [.., high, low] = (n as u32 + 1).to_be_bytes();
    Ipv4Addr::new(127, 1, high, low)
};

/// Two floods at a time would need more descriptors than most machines give one process.
static TURN: Mutex<()> = Mutex::new(());

fn turn() -> MutexGuard<'static, ()> {
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A flood at the tunnel port: who is in is served, a new agent gets in, memory stays bounded.
fn flood_agents(count: usize) {
    let _turn = turn();
    let root = served("nas1");
    let pair = Pair::start(root.path());
    let proxy = &pair.proxy;
    let id = proxy.program().id();
    let (idle, open) = (memory(id), descriptors(id));
    let second = TempRoot::new();
    let config = second.join("agent.conf");
    join(&Builds::beside(), &proxy.pair("nas2"), &config);
    forget_peak(id);
    // That of the agent itself comes last: its failures count against it for a minute.
    for (kind, from) in [("an address each", MANY), ("one address", ONE)] {
        let held = flood(count, from, proxy.tunnel);
        let asked = Instant::now();
        assert_eq!(who(proxy), "nas1");
        assert!(asked.elapsed() < Duration::from_secs(1), "{kind}: {:?}", asked.elapsed());
        let begun = Instant::now();
        let mut agent = joined(&root, &config);
        agent
            .program()
            .wait_for("its tunnel", |line| line.contains("event=tunnel_up").then_some(()));
        let waited = begun.elapsed();
        let debug = Debug::of(proxy.http);
        let (inside, waiting) = (debug.total("handshakes_now"), debug.total("handshakes_waiting"));
        println!(
            "{count} from {kind}: a new agent after {waited:?}; {inside} inside, {waiting} wait, \
             {} descriptors, {} KiB more",
            descriptors(id) - open,
            memory_peak(id).saturating_sub(idle) >> 10
        );
        assert!(waited < Duration::from_secs(5), "{kind}: {waited:?}");
        assert!(inside <= 64 && waiting <= 1_024, "{kind}: {inside} {waiting}");
        assert!(descriptors(id) < open + 64 + 1_024 + 200, "{kind}");
        agent.program_mut().kill();
        drop(held);
        wait_until("its tunnel is gone", || Debug::of(proxy.http).total("tunnels_now") == 1);
    }
    assert!(memory_peak(id) < idle + (24 << 20), "{} KiB", memory_peak(id) >> 10);
    wait_until("all are closed", || descriptors(id) < open + 20);
    assert_eq!(Debug::of(proxy.http).total("handshakes_now"), 0);
}

#[test]
fn flood_of_half_open_agents_keeps_nobody_out() {
    flood_agents(1_500);
}

#[test]
#[ignore = "ten thousand connections: make test-long"]
fn ten_thousand_half_open_agents_keep_nobody_out() {
    flood_agents(10_000);
}

#[test]
fn agents_that_fail_again_and_again_come_behind_others() {
    let proxy = ScaledProxy::start(|settings| {
        settings.bounds.handshakes = 2;
        settings.timings.patience = Duration::from_secs(30);
    });
    let root = served("x");
    // Twenty handshakes that come to nothing, from one address.
    for _ in 0..20 {
        let mut stream = connect(Ipv4Addr::new(127, 0, 0, 2), proxy.tunnel);
        stream.write_all(b"no TLS at all\r\n\r\n").unwrap();
        let _ = stream.read_to_end(&mut Vec::new());
    }
    // Two more fill the places; others of theirs wait in front of us.
    let held = flood(2, |_| Ipv4Addr::new(127, 0, 0, 3), proxy.tunnel);
    let failing = flood(20, |_| Ipv4Addr::new(127, 0, 0, 2), proxy.tunnel);
    let agent = crate::scaled::ScaledAgent::serve(root.path(), proxy.tunnel, |_| {});
    wait_until("they wait", || Debug::of(proxy.http).total("handshakes_waiting") >= 21);
    drop(held);
    agent.wait_for("event=tunnel_up", 1);
    drop(failing);
}

/// A flood at the HTTP port: visitors who ask are answered.
fn flood_visitors(http: SocketAddr, count: usize, answered: impl Fn() -> bool) {
    let _turn = turn();
    for (kind, from) in [("one address", ONE), ("an address each", MANY)] {
        let held = flood(count, from, http);
        for _ in 0..5 {
            let asked = Instant::now();
            assert!(answered());
            println!("{count} from {kind}: an answer after {:?}", asked.elapsed());
            assert!(asked.elapsed() < Duration::from_secs(5), "{kind}: {:?}", asked.elapsed());
        }
        drop(held);
    }
}

#[test]
fn flood_of_half_open_visitors_keeps_nobody_out() {
    let root = served("here");
    let proxy = ScaledProxy::start(|settings| settings.bounds.connections = 400);
    let _agent = spdy_tests::fixture::Agent::serve(root.path(), proxy.tunnel);
    wait_for_agent(proxy.http);
    flood_visitors(proxy.http, 1_500, || {
        Request::get("/who").send(proxy.http).is_ok_and(|answer| answer.text() == "here")
    });
}

#[test]
#[ignore = "ten thousand connections: make test-long"]
fn ten_thousand_half_open_visitors_keep_nobody_out() {
    let root = served("nas1");
    let pair = Pair::start(root.path());
    let id = pair.proxy.program().id();
    let idle = memory(id);
    flood_visitors(pair.proxy.http, 10_000, || who(&pair.proxy) == "nas1");
    println!("{} KiB more", memory_peak(id).saturating_sub(idle) >> 10);
    assert!(memory_peak(id) < idle + (96 << 20), "{} KiB", memory_peak(id) >> 10);
}

#[test]
fn slow_handshakes_at_the_tls_port_of_visitors_hold_nobody_up() {
    let proxy = ScaledProxy::start(|settings| {
        settings.bounds.connections = 400;
        settings.tls = true;
    });
    // Each drips a record of TLS that never ends, as fast as a deadline could be renewed.
    let dripping = flood(300, ONE, proxy.http);
    let drip = thread::spawn(move || {
        for _ in 0..20 {
            for mut stream in &dripping {
                let _ = stream.write_all(&[0x16]);
            }
            thread::yield_now();
        }
        dripping
    });
    let asked = Instant::now();
    let (mut reader, writer) = spdy_tests::wire::tls::dial(proxy.http).unwrap();
    writer.write(b"GET /x HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    let mut start = [0; 12];
    reader.read_exact(&mut start).unwrap();
    assert_eq!(&start, b"HTTP/1.1 503");
    assert!(asked.elapsed() < Duration::from_secs(5), "{:?}", asked.elapsed());
    drop(drip.join().unwrap());
}
