//! What an agent did not begin goes to its next tunnel; one that begins nothing loses its own.

use std::time::Duration;

use spdy_tests::{
    fixture::{Agent, TempRoot, wait_until},
    http::{Response, wait_for_agent},
    observe::Debug,
    raw::{Name, RawSession},
    visitor::Visitor,
    wire::Frame,
};

use crate::{anonymous, scaled::ScaledProxy};

/// RST_STREAM: the stream was not begun.
const REFUSED_STREAM: u32 = 3;

fn root() -> TempRoot {
    let root = TempRoot::new();
    root.write("small", b"small");
    root
}

fn opened(frame: &Frame) -> Option<u32> {
    match frame {
        Frame::SynStream { id, .. } => Some(*id),
        _ => None,
    }
}

#[test]
fn request_above_the_last_good_stream_goes_to_the_next_tunnel() {
    let (proxy, root) = (anonymous(&[]), root());
    let mut leaving = RawSession::dial(proxy.tunnel, Name::Own).unwrap();
    proxy.wait_for_tunnel("anonymous");
    let mut get = Visitor::get(proxy.http, "/small");
    leaving.wait_for(opened).unwrap();
    // Nothing of this body was taken from its visitor, who was told to go on all the same.
    let mut put = Visitor::connect(proxy.http);
    put.send("PUT /new HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n");
    leaving.wait_for(opened).unwrap();
    // Of this one something was, which the proxy still has.
    let mut begun = Visitor::connect(proxy.http);
    begun.send("PUT /other HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nsome");
    let stream = leaving.wait_for(opened).unwrap();
    let data =
        |frame: &Frame| matches!(frame, Frame::Data { id, .. } if *id == stream).then_some(());
    leaving.wait_for(data).unwrap();
    let mut gone = Visitor::connect(proxy.http);
    gone.send("PUT /gone HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nsome");
    leaving.wait_for(opened).unwrap();
    // Of this one more than the proxy keeps.
    let mut large = Visitor::connect(proxy.http);
    large.send("PUT /large HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n");
    large.send(vec![b'x'; 70_000]);
    let large_stream = leaving.wait_for(opened).unwrap();
    for id in [0, large_stream] {
        leaving.writer.write(&Frame::WindowUpdate(id, 65_536)).unwrap();
    }
    let mut left = 70_000;
    while left > 0 {
        left -= leaving
            .wait_for(|frame| match frame {
                Frame::Data { id, octets, .. } if *id == large_stream => Some(octets.len()),
                _ => None,
            })
            .unwrap();
    }
    wait_until("only the small ones are kept", || {
        Debug::of(proxy.http).total("replay_bytes") == 2 * 512
    });
    leaving.writer.write(&Frame::GoAway(0, 0)).unwrap();
    let refused = large.try_head("PUT").unwrap();
    assert_eq!((refused.status, refused.header("retry-after")), (503, Some("1")));
    wait_until("the others wait", || Debug::of(proxy.http).total("requests_held_now") == 4);
    drop(gone);
    wait_until("one waits no more", || Debug::of(proxy.http).total("requests_held_now") == 3);
    let _next = Agent::serve(root.path(), proxy.tunnel);
    let answer = Response::read(&mut get, "GET").unwrap();
    assert_eq!((answer.status, answer.text().as_str()), (200, "small"));
    assert_eq!(put.try_head("PUT").unwrap().status, 100);
    put.send("new");
    assert_eq!(put.try_head("PUT").unwrap().status, 201);
    assert_eq!(std::fs::read(root.join("new")).unwrap(), b"new");
    begun.send(" more");
    assert_eq!(begun.try_head("PUT").unwrap().status, 201);
    assert_eq!(std::fs::read(root.join("other")).unwrap(), b"some more");
    assert!(!root.join("large").exists() && !root.join("gone").exists());
    assert_eq!(Debug::of(proxy.http).total("replay_bytes"), 0);
}

#[test]
fn request_is_refused_twice_at_most() {
    let proxy = anonymous(&[]);
    let mut agent = RawSession::dial(proxy.tunnel, Name::Own).unwrap();
    proxy.wait_for_tunnel("anonymous");
    let mut visitor = Visitor::get(proxy.http, "/small");
    for _ in 0..2 {
        let stream = agent.wait_for(opened).unwrap();
        agent.writer.write(&Frame::RstStream(stream, REFUSED_STREAM)).unwrap();
    }
    let answer = Response::read(&mut visitor, "GET").unwrap();
    assert_eq!(answer.status, 503);
    assert_eq!(answer.headers["proxy-status"], "spdy-proxy; error=connection_refused");
}

#[test]
fn tunnel_that_answers_pings_and_no_request_is_recycled() {
    let limit = Duration::from_millis(500);
    let proxy = ScaledProxy::start(|settings| {
        settings.timings.progress = limit;
        settings.timings.hold = Duration::from_secs(20);
    });
    let root = root();
    let mut stuck = RawSession::dial(proxy.tunnel, Name::Own).unwrap();
    wait_until("it has a tunnel", || Debug::of(proxy.http).total("tunnels_now") == 1);
    let mut visitors: Vec<_> = (0..3).map(|_| Visitor::get(proxy.http, "/small")).collect();
    let begun = std::time::Instant::now();
    // It answers every PING, to the end.
    let gone = loop {
        match stuck.read().unwrap() {
            Some(Frame::Ping(id)) if id % 2 == 1 => {
                stuck.writer.write(&Frame::Ping(id)).unwrap();
            }
            Some(Frame::GoAway(..)) => break begun.elapsed(),
            Some(_) => {}
            None => panic!("closed without a word"),
        }
    };
    assert!(gone >= limit && gone < 2 * limit + Duration::from_secs(1), "{gone:?}");
    for visitor in &mut visitors {
        // They were asked of an agent that cannot splice: nobody knows what it did with them.
        assert_eq!(visitor.head().status, 502);
    }
    let _next = Agent::serve(root.path(), proxy.tunnel);
    wait_for_agent(proxy.http);
}

#[test]
fn two_requests_do_not_recycle_a_tunnel() {
    let limit = Duration::from_millis(200);
    let proxy = ScaledProxy::start(|settings| settings.timings.progress = limit);
    let mut slow = RawSession::dial(proxy.tunnel, Name::Own).unwrap();
    wait_until("it has a tunnel", || Debug::of(proxy.http).total("tunnels_now") == 1);
    let _visitors: Vec<_> = (0..2).map(|_| Visitor::get(proxy.http, "/small")).collect();
    let begun = std::time::Instant::now();
    while begun.elapsed() < 4 * limit {
        assert!(slow.is_alive(2));
        // A PING that comes at once is one of a flood.
        std::thread::sleep(limit / 10);
    }
    assert_eq!(Debug::of(proxy.http).total("streams_now"), 2);
}
