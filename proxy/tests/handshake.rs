//! Who gets a tunnel, who does not, and what they are told.

mod support;

use std::time::Duration;

use data_encoding::BASE64URL_NOPAD;
use spdy_protocol::handshake::{Answer, Credentials, Put};
use spdy_proxy::access::Access;
use support::{
    Proxy,
    agent::{Agent, Role, ask, dial, join, sha256, shake_hands},
    wait_until,
};

fn status(answer: &Answer) -> u16 {
    match answer {
        Answer::Established(_) => 200,
        Answer::Refused { status, .. } => *status,
    }
}

fn offer(proxy: &Proxy, put: &Put) -> Answer {
    ask(proxy.tunnel, proxy.pin, put)
}

#[test]
fn a_join_code_works_once_and_in_time() {
    let proxy = Proxy::start();
    let role = Role::new("nas1");
    let token = Some(sha256(role.token.as_bytes()));
    let code = |secret: &[u8]| Credentials::Join(BASE64URL_NOPAD.encode(secret));
    proxy.state.set_access("nas1", Access::Open).unwrap();
    let expired = proxy.state.pair("nas1", Duration::ZERO).unwrap();
    let refused = offer(&proxy, &role.put(code(&expired), token));
    assert_eq!(status(&refused), 401);
    let secret = proxy.state.pair("nas1", support::LIMIT).unwrap();
    assert_eq!(offer(&proxy, &role.put(code(&[0; 16]), token)), refused);
    assert_eq!(offer(&proxy, &role.put(Credentials::Join("%".to_owned()), token)), refused);
    assert_eq!(offer(&proxy, &Role::new("nas2").put(code(&secret), token)), refused);
    assert_eq!(status(&offer(&proxy, &role.put(code(&secret), None))), 400);
    assert_eq!(status(&offer(&proxy, &role.put(code(&secret), token))), 200);
    assert_eq!(offer(&proxy, &role.put(code(&secret), token)), refused);
    let _agent = Agent::connect(&proxy, &role);
}

#[test]
fn a_wrong_token_and_an_unknown_name_get_the_same_answer() {
    let proxy = Proxy::start();
    let role = Role::new("nas1");
    join(&proxy, &role);
    let wrong = offer(&proxy, &role.put(Credentials::Bearer("wrong".to_owned()), None));
    assert_eq!(status(&wrong), 401);
    let unknown = Role::new("nobody").put(Credentials::Bearer(role.token.clone()), None);
    assert_eq!(offer(&proxy, &unknown), wrong);
    assert_eq!(status(&offer(&proxy, &role.put(Credentials::None, None))), 401);
    assert!(proxy.get("/debug").text().contains("handshakes_refused 3\n"));
}

#[test]
fn a_rotated_token_replaces_the_old_one_when_it_is_used() {
    let proxy = Proxy::start();
    let mut role = Role::new("nas1");
    join(&proxy, &role);
    let old = role.put(Credentials::Bearer(role.token.clone()), None);
    let rotate = role.put(Credentials::Bearer(role.token.clone()), Some(sha256(b"new")));
    assert_eq!(status(&offer(&proxy, &rotate)), 200);
    drop(Agent::with_put(&proxy, old.clone()));
    role.token = "new".to_owned();
    drop(Agent::connect(&proxy, &role));
    assert_eq!(status(&offer(&proxy, &old)), 401);
}

#[test]
fn nameless_agents_need_leave_and_have_a_name_of_their_own() {
    let put = Put { host: "proxy".to_owned(), credentials: Credentials::None, hello: None };
    let strict = Proxy::start();
    assert_eq!(status(&offer(&strict, &put)), 401);
    let proxy = Proxy::with(|settings| settings.allow_anonymous = true);
    let named = Agent::start(&proxy, "nas1");
    // It claims a name without proof: it gets the tunnel, not the name.
    let claims = Agent::with_put(&proxy, Role::new("nas1").put(Credentials::None, None));
    let mut visitor = proxy.visit();
    let before = named.seen.requests.load(std::sync::atomic::Ordering::Relaxed);
    visitor.send("GET /ping HTTP/1.1\r\nHost: nas1\r\n\r\n");
    assert_eq!(visitor.answer().text(), "ok");
    assert_eq!(named.seen.requests.load(std::sync::atomic::Ordering::Relaxed), before + 1);
    drop(claims);
    let nameless = Agent::with_put(&proxy, put);
    visitor.send("GET /big/300000 HTTP/1.1\r\nHost: anonymous\r\n\r\n");
    assert!(visitor.answer().body == support::pattern(300_000));
    wait_until("it was asked", || {
        nameless.seen.requests.load(std::sync::atomic::Ordering::Relaxed) == 1
    });
}

#[test]
fn what_is_no_handshake_is_told_so() {
    use futures_lite::{AsyncReadExt, AsyncWriteExt};
    let proxy = Proxy::start();
    for (request, status) in [
        ("GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_owned(), "400"),
        ("nonsense\r\n\r\n".to_owned(), "400"),
        ("PUT / HTTP/1.1\r\nSpdy-Tunnel: v=9, origin=\"a\"\r\n\r\n".to_owned(), "426"),
        (format!("PUT / HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(9_000)), "431"),
    ] {
        let answer = async_io::block_on(async {
            let mut io = dial(proxy.tunnel, proxy.pin).await;
            io.write_all(request.as_bytes()).await.unwrap();
            io.flush().await.unwrap();
            let mut answer = String::new();
            let _ = io.read_to_string(&mut answer).await;
            answer
        });
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{request:.40}: {answer}");
    }
}

#[test]
fn a_handshake_that_takes_too_long_is_ended_and_others_are_not_refused() {
    let proxy = Proxy::with(|settings| {
        settings.bounds.handshakes = 1;
        settings.timings.handshake = Duration::from_millis(300);
    });
    let role = Role::new("nas1");
    let mut mute = std::net::TcpStream::connect(proxy.tunnel).unwrap();
    // It has to wait for the mute one, and gets its turn.
    join(&proxy, &role);
    mute.set_read_timeout(Some(support::LIMIT)).unwrap();
    assert_eq!(std::io::Read::read(&mut mute, &mut [0; 16]).unwrap_or(0), 0);
    let _agent = Agent::connect(&proxy, &role);
}

#[test]
fn tunnels_above_the_bound_are_told_to_come_later() {
    let proxy = Proxy::with(|settings| settings.bounds.tunnels = 1);
    let _agent = Agent::start(&proxy, "nas1");
    let role = Role::new("nas2");
    join(&proxy, &role);
    let answer = offer(&proxy, &role.put(Credentials::Bearer(role.token.clone()), None));
    assert!(matches!(answer, Answer::Refused { status: 503, retry_after: Some(_), .. }));
}

#[test]
fn octets_behind_the_put_belong_to_the_session() {
    // An agent may send its first frames without waiting for the answer.
    let proxy = Proxy::start();
    let role = Role::new("nas1");
    join(&proxy, &role);
    let answer = async_io::block_on(async {
        use futures_lite::{AsyncReadExt, AsyncWriteExt};
        let mut io = dial(proxy.tunnel, proxy.pin).await;
        let mut octets = role.put(Credentials::Bearer(role.token.clone()), None).encode();
        // PING 2: an even id is the agent's.
        octets.extend_from_slice(&[0x80, 3, 0, 6, 0, 0, 0, 4, 0, 0, 0, 2]);
        io.write_all(&octets).await.unwrap();
        io.flush().await.unwrap();
        let mut received = Vec::new();
        let ping = [0x80, 3, 0, 6, 0, 0, 0, 4, 0, 0, 0, 2];
        while !received.windows(ping.len()).any(|window| window == ping) {
            let mut chunk = [0; 512];
            let read = io.read(&mut chunk).await.unwrap();
            assert!(read > 0, "closed without a pong");
            received.extend_from_slice(&chunk[..read]);
        }
        received
    });
    assert!(answer.starts_with(b"HTTP/1.1 200 Connection Established\r\n"));
}

#[test]
fn the_welcome_says_what_the_proxy_can() {
    let proxy = Proxy::start();
    let role = Role::new("nas1");
    join(&proxy, &role);
    let put = role.put(Credentials::Bearer(role.token.clone()), None);
    async_io::block_on(async {
        let mut io = dial(proxy.tunnel, proxy.pin).await;
        let (answer, _) = shake_hands(&mut io, &put).await;
        let Answer::Established(Some(welcome)) = answer else { panic!("{answer:?}") };
        assert!(welcome.can.upgrade && welcome.can.stored);
        assert_eq!(welcome.streams, 128);
        assert_eq!(welcome.spread, Duration::from_secs(15));
        assert!(welcome.time.is_some());
    });
}
