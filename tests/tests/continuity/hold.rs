//! Requests for an origin that has just gone: they wait for it, not too many and not too long.

use std::time::{Duration, Instant};

use spdy_tests::{
    fixture::{Pair, Proxy, TempRoot, wait_until},
    http::{Request, Response, wait_for_agent},
    link::Link,
    observe::Debug,
    visitor::Visitor,
};

use crate::{
    anonymous, get, line, lose,
    scaled::{ScaledAgent, ScaledProxy},
};

/// Octets per second of the line.
const RATE: u64 = 1 << 20;
/// Requests that wait for one origin at a time.
const PLACES: usize = 64;

fn root() -> TempRoot {
    let root = TempRoot::new();
    root.write("small", b"small");
    root
}

/// A scaled proxy with its agent, and the line between them.
fn scaled(hold: Duration, recent: Duration) -> (ScaledProxy, Link, ScaledAgent, TempRoot) {
    let root = root();
    let proxy = ScaledProxy::start(|settings| {
        settings.timings.hold = hold;
        settings.timings.recent = recent;
    });
    let link = line(proxy.tunnel, RATE);
    let agent = ScaledAgent::serve(root.path(), link.address(), |_| {});
    wait_for_agent(proxy.http);
    (proxy, link, agent, root)
}

#[test]
fn requests_wait_for_the_return_and_no_more_than_there_are_places() {
    let (proxy, root) = (anonymous(&[]), root());
    let link = line(proxy.tunnel, RATE);
    let _agent = ScaledAgent::serve(root.path(), link.address(), |_| {});
    wait_for_agent(proxy.http);
    lose(&link, proxy.http);
    let mut held: Vec<_> = (0..PLACES).map(|_| Visitor::get(proxy.http, "/small")).collect();
    let held_now = || Debug::of(proxy.http).total("requests_held_now");
    wait_until("all wait", || held_now() == PLACES as u64);
    // One too many, and what nobody may send twice: at once.
    let asked = Instant::now();
    let answer = get(proxy.http, "/small");
    assert_eq!(answer.status, 503);
    assert!(answer.headers.contains_key("retry-after"));
    // A place that its visitor has left is the next one's.
    drop(held.pop());
    wait_until("it is free", || held_now() < PLACES as u64);
    let put = Request::with_body("PUT", "/new", b"new").send(proxy.http).unwrap();
    assert_eq!(put.status, 503);
    assert!(asked.elapsed() < Duration::from_secs(5), "{:?}", asked.elapsed());
    held.push(Visitor::get(proxy.http, "/small"));
    let mut head = Visitor::connect(proxy.http);
    link.release();
    for visitor in &mut held {
        let answer = Response::read(visitor, "GET").unwrap();
        assert_eq!((answer.status, answer.text().as_str()), (200, "small"));
    }
    head.send(b"HEAD /small HTTP/1.1\r\nHost: x\r\n\r\n");
    assert_eq!(head.try_head("HEAD").unwrap().status, 200);
    assert_eq!(held_now(), 0);
}

#[test]
fn request_waits_as_long_as_the_setting_says_and_is_told_since_when() {
    let hold = Duration::from_millis(600);
    let (proxy, link, _agent, _root) = scaled(hold, Duration::from_secs(60));
    lose(&link, proxy.http);
    let asked = Instant::now();
    let answer = get(proxy.http, "/small");
    let waited = asked.elapsed();
    assert_eq!(answer.status, 503);
    assert!(answer.headers.contains_key("retry-after"));
    assert!(answer.text().contains("since 20"), "{}", answer.text());
    assert!(waited >= hold && waited < hold + Duration::from_secs(1), "{waited:?}");
}

#[test]
fn origin_that_is_away_for_long_is_not_waited_for() {
    let recent = Duration::from_millis(300);
    let (proxy, link, _agent, _root) = scaled(Duration::from_secs(10), recent);
    let since = Instant::now();
    lose(&link, proxy.http);
    wait_until("it is away for long", || since.elapsed() > 2 * recent);
    let asked = Instant::now();
    assert_eq!(get(proxy.http, "/small").status, 503);
    assert!(asked.elapsed() < Duration::from_secs(1), "{:?}", asked.elapsed());
}

#[test]
fn nobody_waits_where_that_is_turned_off() {
    let (proxy, link, _agent, _root) = scaled(Duration::ZERO, Duration::from_secs(60));
    lose(&link, proxy.http);
    let asked = Instant::now();
    assert_eq!(get(proxy.http, "/small").status, 503);
    assert!(asked.elapsed() < Duration::from_secs(1), "{:?}", asked.elapsed());
}

#[test]
fn browser_is_shown_since_when_the_nas_is_away_if_it_may_come_in() {
    let root = root();
    let proxy = Proxy::start(&["--hold", "0"]);
    let address = proxy.tunnel;
    let mut pair = Pair::join(proxy, address, root.path(), &[]);
    let http = pair.proxy.http;
    pair.agent.program_mut().kill();
    wait_until("it is away", || Debug::of(http).total("tunnels_now") == 0);
    let accept = ("Accept", "text/html,*/*;q=0.8");
    let browse = |headers: &[(&str, &str)]| {
        Request { headers, ..Request::get("/small") }.send(http).unwrap()
    };
    let page = browse(&[accept]);
    assert_eq!((page.status, page.headers["retry-after"].as_str()), (503, "5"));
    assert_eq!(page.headers["refresh"], "5");
    assert_eq!(page.headers["content-type"], "text/html; charset=utf-8");
    assert!(page.headers["content-security-policy"].starts_with("default-src 'none';"));
    let text = page.text();
    assert!(text.contains("has not been connected since 20"), "{text}");
    assert!(text.contains("less than a minute ago") && !text.contains("<script"), "{text}");
    let plain = browse(&[("Accept", "*/*")]);
    assert_eq!(plain.headers["content-type"], "text/plain; charset=utf-8");
    assert!(!plain.headers.contains_key("refresh"));
    // Whether it is there is nobody's business who may not come in.
    let _password = pair.proxy.tell(&["access", "nas1", "password"]);
    let refused = browse(&[accept]);
    assert_eq!(refused.status, 401);
    assert!(!refused.text().contains("connected"), "{}", refused.text());
}

#[test]
fn request_that_a_lost_tunnel_left_unanswered_is_asked_again() {
    let (proxy, root) = (anonymous(&[]), root());
    let link = line(proxy.tunnel, RATE);
    let _agent = ScaledAgent::serve(root.path(), link.address(), |_| {});
    wait_for_agent(proxy.http);
    link.hold();
    let mut asking = Visitor::get(proxy.http, "/small");
    wait_until("it is asked", || Debug::of(proxy.http).total("streams_now") == 1);
    link.cut();
    link.release();
    let answer = Response::read(&mut asking, "GET").unwrap();
    assert_eq!((answer.status, answer.text().as_str()), (200, "small"));
}

#[test]
fn agent_that_is_restarted_is_waited_for() {
    let (proxy, root) = (anonymous(&[]), root());
    let mut first = spdy_tests::fixture::Agent::serve(root.path(), proxy.tunnel);
    wait_for_agent(proxy.http);
    first.program().terminate();
    assert_eq!(first.program_mut().wait_exit(Duration::from_secs(10)).code(), Some(0));
    let mut asking = Visitor::get(proxy.http, "/small");
    wait_until("it waits", || Debug::of(proxy.http).total("requests_held_now") == 1);
    let _second = spdy_tests::fixture::Agent::serve(root.path(), proxy.tunnel);
    assert_eq!(Response::read(&mut asking, "GET").unwrap().status, 200);
}
