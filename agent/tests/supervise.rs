//! Supervisors against a proxy with a real certificate, over loopback.
#![allow(clippy::unwrap_used, reason = "a helper that fails is a failed test")]

mod fixture;

use std::{
    cell::RefCell,
    rc::Rc,
    time::{Duration, Instant},
};

use async_executor::LocalExecutor;
use async_io::Timer;
use fixture::{
    Folder, Proxy,
    agent::{Agent, pinned},
    exchange, noise, receive, request,
};
use futures_lite::future::{or, zip};
use spdy_agent::{
    supervise,
    verify::{Pin, Trust},
};
use spdy_protocol::handshake::{Answer, Credentials, Welcome};

#[test]
fn agent_serves_under_a_pin_and_says_who_it_is() {
    let folder = Folder::new();
    let octets = noise(1_000_000);
    folder.write("file", &octets);
    let proxy = Proxy::new();
    let spare = Trust::Pins(vec![Pin([0; 32]), proxy.pin]);
    let lines = Agent::new(&folder, &[(&proxy, spare)]).run(async |executor, _| {
        let (put, tunnel) = proxy.tunnel(&executor).await;
        let hello = put.hello.unwrap();
        assert_eq!((hello.origin.as_str(), hello.instance), ("nas1", [7; 16]));
        assert!(hello.software.starts_with("spdy-agent/") && hello.can.stored);
        assert!(put.credentials == Credentials::Bearer("secret-token".to_owned()));
        let response = exchange(&tunnel, "GET", "/file", &[], None).await;
        assert!(response.body == octets);
    });
    assert_eq!(lines.count("info event=tunnel_up"), 1);
    assert_eq!(lines.count("event=tunnel_down proxy="), 1);
    assert_eq!(lines.count("reason=stopped"), 1);
    assert_eq!(lines.count("secret-token"), 0);
}

#[test]
fn ca_file_is_honoured() {
    let folder = Folder::new();
    folder.write("file", "x");
    let (proxy, other) = (Proxy::new(), Proxy::new());
    let ca = folder.write("ca.pem", &proxy.pem);
    let trust = Trust::from_ca_file(&ca).unwrap();
    Agent::new(&folder, &[(&proxy, trust.clone())]).run(async |executor, _| {
        let (_, tunnel) = proxy.tunnel(&executor).await;
        assert_eq!(exchange(&tunnel, "GET", "/file", &[], None).await.text(), "x");
    });
    Agent::new(&folder, &[(&other, trust)]).run(async |_, lines| {
        assert!(other.accept().await.is_err());
        lines.wait_for("error event=connect_failed").await;
    });
}

#[test]
fn wrong_pin_and_stolen_certificate_are_refused_in_one_line() {
    let folder = Folder::new();
    let wrong = Proxy::new();
    let (owner, thief) = (rcgen::KeyPair::generate().unwrap(), rcgen::KeyPair::generate().unwrap());
    let (stolen, pin) = Proxy::with_key_of(&owner, &thief);
    for (proxy, trust) in
        [(&wrong, Trust::Pins(vec![Pin([1; 32])])), (&stolen, Trust::Pins(vec![pin]))]
    {
        let lines = Agent::new(&folder, &[(proxy, trust)]).run(async |_, lines| {
            for _ in 0..3 {
                assert!(proxy.accept().await.is_err());
            }
            lines.wait_for("event=connect_failed").await;
        });
        assert_eq!(lines.count("error event=connect_failed"), 1);
        assert_eq!(lines.count("tunnel_up"), 0);
    }
}

#[test]
fn insecure_agent_sends_no_token() {
    let folder = Folder::new();
    let proxy = Proxy::new();
    Agent::new(&folder, &[(&proxy, Trust::Insecure)]).run(async |executor, _| {
        let (put, _tunnel) = proxy.tunnel(&executor).await;
        assert!(put.credentials == Credentials::None);
    });
}

#[test]
fn agent_comes_back_after_every_kind_of_end() {
    let folder = Folder::new();
    folder.write("file", "x");
    let proxy = Proxy::new();
    let lines = Agent::new(&folder, &[(&proxy, pinned(&proxy))]).run(async |executor, _| {
        let mut epochs = Vec::new();
        // Lost before, in and after TLS; refused; answered with nonsense.
        drop(proxy.accept().await.unwrap());
        for status in [401, 403, 409, 426, 429, 503, 500] {
            let accepted = proxy.accept().await.unwrap();
            epochs.push(accepted.put.hello.as_ref().unwrap().epoch);
            accepted.refuse(status, Some(Duration::from_millis(1))).await;
        }
        let mut nonsense = proxy.accept().await.unwrap();
        let answer = Answer::Refused { status: 500, reason: String::new(), retry_after: None };
        nonsense.answer(&answer).await;
        drop(nonsense);
        // Cut, closed with GOAWAY, drained.
        let accepted = proxy.accept().await.unwrap();
        epochs.push(accepted.put.hello.as_ref().unwrap().epoch);
        {
            let own = LocalExecutor::new();
            let tunnel = accepted.establish(&own).await;
            drop(own);
            drop(tunnel);
        }
        let (_, tunnel) = proxy.tunnel(&executor).await;
        tunnel.close(spdy_protocol::frame::Reason::Ok);
        let (_, tunnel) = proxy.tunnel(&executor).await;
        tunnel.drain();
        let (put, tunnel) = proxy.tunnel(&executor).await;
        epochs.push(put.hello.unwrap().epoch);
        assert_eq!(exchange(&tunnel, "GET", "/file", &[], None).await.text(), "x");
        assert!(epochs.windows(2).all(|pair| pair[0] < pair[1]), "{epochs:?}");
    });
    assert_eq!(lines.count("event=tunnel_up"), 4);
    assert_eq!(lines.count("event=tunnel_down"), 4);
}

#[test]
fn network_that_changes_all_the_time_keeps_no_dial_from_its_end() {
    let folder = Folder::new();
    folder.write("file", "x");
    let proxy = Proxy::new();
    let agent = Agent::new(&folder, &[(&proxy, pinned(&proxy))]);
    let lines = agent.run_told(async |executor, _, told| {
        for _ in 0..3 {
            // The first change starts a dial that is under way anew; those behind it do not.
            let begun = proxy.accept().await.unwrap();
            told.network_changed();
            let accepted = proxy.accept().await.unwrap();
            drop(begun);
            for _ in 0..20 {
                told.network_changed();
                Timer::after(Duration::from_millis(5)).await;
            }
            let tunnel = accepted.establish(&executor).await;
            assert_eq!(exchange(&tunnel, "GET", "/file", &[], None).await.text(), "x");
            tunnel.close(spdy_protocol::frame::Reason::Ok);
        }
    });
    assert_eq!(lines.count("event=tunnel_up"), 3);
}

#[test]
fn drained_tunnel_finishes_while_the_next_one_serves() {
    let folder = Folder::new();
    let octets = noise(4 << 20);
    folder.write("file", &octets);
    let proxy = Proxy::new();
    Agent::new(&folder, &[(&proxy, pinned(&proxy))]).run(async |executor, _| {
        let (_, first) = proxy.tunnel(&executor).await;
        let stream = first.open(&request("GET", "/file", &[]), 3, true).await.unwrap();
        first.drain();
        let (_, second) = proxy.tunnel(&executor).await;
        let head = exchange(&second, "HEAD", "/file", &[], None).await;
        assert_eq!(head.header("content-length"), Some("4194304"));
        let response = receive(&stream).await.unwrap();
        assert!(response.end.is_ok() && response.body == octets);
    });
}

#[test]
fn tunnel_that_was_said_goodbye_to_serves_until_the_next_one_is_due() {
    let folder = Folder::new();
    folder.write("file", "x");
    let proxy = Proxy::new();
    let mut agent = Agent::new(&folder, &[(&proxy, pinned(&proxy))]);
    agent.settings.grace = Duration::from_millis(100);
    agent.run(async |executor, lines| {
        let spread = Duration::from_secs(3);
        let answer = Answer::Established(Some(Welcome { spread, ..fixture::welcome() }));
        let tunnel = proxy.accept().await.unwrap().establish_as(&answer, &executor).await;
        lines.wait_for("event=tunnel_up").await;
        // Longer than what would count as trouble.
        Timer::after(Duration::from_millis(20)).await;
        tunnel.leave();
        lines.wait_for("event=tunnel_down").await;
        let said = Instant::now();
        while said.elapsed() < Duration::from_millis(500) {
            assert_eq!(exchange(&tunnel, "GET", "/file", &[], None).await.text(), "x");
        }
    });
}

#[test]
fn stop_does_not_wait_for_a_tunnel_that_was_said_goodbye_to() {
    let folder = Folder::new();
    let proxy = Proxy::new();
    let mut agent = Agent::new(&folder, &[(&proxy, pinned(&proxy))]);
    agent.settings.grace = Duration::from_secs(60);
    agent.run(async |executor, lines| {
        let spread = Duration::from_secs(60);
        let answer = Answer::Established(Some(Welcome { spread, ..fixture::welcome() }));
        let tunnel = proxy.accept().await.unwrap().establish_as(&answer, &executor).await;
        lines.wait_for("event=tunnel_up").await;
        Timer::after(Duration::from_millis(20)).await;
        tunnel.leave();
        lines.wait_for("event=tunnel_down").await;
    });
}

#[test]
fn stop_lets_running_requests_finish() {
    let folder = Folder::new();
    let octets = noise(4 << 20);
    folder.write("file", &octets);
    let proxy = Proxy::new();
    let rest = Rc::new(RefCell::new(None));
    let kept = rest.clone();
    Agent::new(&folder, &[(&proxy, pinned(&proxy))]).run(async move |executor, _| {
        let (_, tunnel) = proxy.tunnel(&executor).await;
        let stream = tunnel.open(&request("GET", "/file", &[]), 3, true).await.unwrap();
        stream.response().await.unwrap();
        // Read on by a task: the agent is told to end when this test returns.
        let task = executor.spawn(async move {
            let mut received = Vec::new();
            while let Some(chunk) =
                std::future::poll_fn(|cx| stream.poll_read_chunk(cx)).await.unwrap()
            {
                received.extend_from_slice(&chunk);
            }
            assert!(received == octets);
            *kept.borrow_mut() = Some(received.len());
        });
        task.detach();
    });
    assert_eq!(*rest.borrow(), Some(4 << 20));
}

#[test]
fn one_agent_keeps_a_tunnel_to_each_proxy() {
    let folder = Folder::new();
    folder.write("file", "x");
    let (a, b) = (Proxy::new(), Proxy::new());
    let agent = Agent::new(&folder, &[(&a, pinned(&a)), (&b, pinned(&b))]);
    agent.run(async |executor, _| {
        let (first, second) = zip(a.tunnel(&executor), b.tunnel(&executor)).await;
        for tunnel in [first.1, second.1] {
            assert_eq!(exchange(&tunnel, "GET", "/file", &[], None).await.text(), "x");
        }
    });
}

#[test]
fn proxy_without_a_name_is_served_too() {
    let folder = Folder::new();
    folder.write("file", noise(200_000));
    let proxy = Proxy::new();
    Agent::new(&folder, &[(&proxy, pinned(&proxy))]).run(async |executor, _| {
        let mut accepted = proxy.accept().await.unwrap();
        accepted.answer(&Answer::Established(None)).await;
        let mut config = fixture::config(spdy_protocol::session::Side::Client);
        config.profile = spdy_protocol::session::Profile::Plain31;
        let (tunnel, _incoming, driver) =
            spdy_protocol::tunnel::tunnel(accepted.io, config, accepted.received);
        executor.spawn(driver).detach();
        let response = exchange(&tunnel, "GET", "/file", &[], None).await;
        assert_eq!(response.body.len(), 200_000);
    });
}

#[test]
fn agent_that_is_dropped_cuts_its_tunnels() {
    let folder = Folder::new();
    let proxy = Proxy::new();
    let agent = Agent::new(&folder, &[(&proxy, pinned(&proxy))]);
    let executor = Rc::new(LocalExecutor::new());
    let test = async {
        let running = executor.spawn(supervise::run(agent.settings, std::future::pending()));
        let mut accepted = proxy.accept().await.unwrap();
        accepted.answer(&fixture::established()).await;
        agent.lines.wait_for("event=tunnel_up").await;
        drop(running);
        // Its greeting, then the end.
        let mut octets = Vec::new();
        let _ = futures_lite::AsyncReadExt::read_to_end(&mut accepted.io, &mut octets).await;
    };
    let late = async {
        Timer::after(Duration::from_secs(20)).await;
        panic!("the tunnel outlives its agent");
    };
    async_io::block_on(executor.run(or(test, late)));
}
