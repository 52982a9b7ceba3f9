//! One dial over several addresses, with resolvers and proxies that misbehave.
#![allow(clippy::unwrap_used, reason = "a helper that fails is a failed test")]

mod fixture;

use std::{
    cell::Cell,
    io,
    net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    time::Duration,
};

use async_io::Timer;
use fixture::{Proxy, agent::pinned, established};
use futures_lite::future::{or, zip};
use spdy_agent::{
    backoff::Cause,
    dial::{Address, DialError, Dialer, Phase, Timings},
    resolve::Resolver,
    verify::Trust,
};
use spdy_protocol::handshake::{Credentials, Features, Hello, Put};

/// Deadlines that only a wrong order of things can meet.
const NEVER: Duration = Duration::from_secs(3_600);
const SOON: Duration = Duration::from_millis(20);

fn patient() -> Timings {
    Timings {
        resolve: NEVER,
        fallback: NEVER,
        connect: NEVER,
        stagger: NEVER,
        tls: NEVER,
        stall: NEVER,
        handshake: NEVER,
        whole: NEVER,
    }
}

fn dialer(trust: &Trust, timings: Timings, resolver: Resolver) -> Dialer {
    let tls = Arc::new(trust.client_config().unwrap());
    Dialer::new(Address::parse("proxy.test:1444").unwrap(), tls, timings, resolver)
}

/// A resolver that always finds these.
fn finds(addresses: &[SocketAddr]) -> Resolver {
    let addresses = addresses.to_vec();
    Resolver::new(move |_, _| Ok(addresses.clone()))
}

fn put(epoch: u64) -> Put {
    Put {
        host: "proxy.test:1444".to_owned(),
        credentials: Credentials::None,
        hello: Some(Hello {
            origin: "nas1".to_owned(),
            instance: [7; 16],
            run: [0; 8],
            epoch,
            can: Features::default(),
            software: "test".to_owned(),
            register: None,
        }),
    }
}

fn run(test: impl Future<Output = ()>) {
    async_io::block_on(or(test, async {
        Timer::after(Duration::from_secs(20)).await;
        panic!("test takes too long");
    }));
}

fn closed() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// Takes connections into its queue and says nothing.
fn mute() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").unwrap()
}

async fn serve(proxy: &Proxy) {
    proxy.accept().await.unwrap().answer(&established()).await;
}

/// Dials beside a proxy that answers once.
async fn dial_beside(dialer: &mut Dialer, proxy: &Proxy) -> SocketAddr {
    let answer = put(1);
    let (link, ()) = zip(dialer.dial(&|| answer.clone()), serve(proxy)).await;
    link.unwrap().peer
}

#[test]
fn refused_address_starts_the_next_at_once() {
    let proxy = Proxy::new();
    let addresses = [closed(), closed(), proxy.socket_addr()];
    run(async {
        let mut dialer = dialer(&pinned(&proxy), patient(), finds(&addresses));
        assert_eq!(dial_beside(&mut dialer, &proxy).await, proxy.socket_addr());
    });
}

#[test]
fn silent_address_has_a_head_start_and_no_more() {
    // A listener whose queue is full drops SYNs: connecting to it neither fails nor succeeds.
    let full = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    full.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    full.listen(0).unwrap();
    let silent = full.local_addr().unwrap().as_socket().unwrap();
    let _fill = TcpStream::connect(silent).unwrap();
    let proxy = Proxy::new();
    let timings = Timings { stagger: SOON, ..patient() };
    run(async {
        let mut both =
            dialer(&pinned(&proxy), timings, finds(&[silent, silent, proxy.socket_addr()]));
        assert_eq!(dial_beside(&mut both, &proxy).await, proxy.socket_addr());
        let late = Timings { connect: SOON, ..patient() };
        let mut alone = dialer(&pinned(&proxy), late, finds(&[silent]));
        let error = alone.dial(&|| put(1)).await.unwrap_err();
        assert!(matches!(error, DialError::Late(Phase::Connect)), "{error}");
    });
}

#[test]
fn address_that_stalls_in_tls_does_not_hold_up_the_next() {
    let (stalled, proxy) = (mute(), Proxy::new());
    let addresses = [stalled.local_addr().unwrap(), proxy.socket_addr()];
    run(async {
        let timings = Timings { stagger: Duration::ZERO, stall: SOON, ..patient() };
        let mut beside = dialer(&pinned(&proxy), timings, finds(&addresses));
        assert_eq!(dial_beside(&mut beside, &proxy).await, proxy.socket_addr());
        // And where nobody goes beside it, its own deadline is the next one's start.
        let timings = Timings { tls: SOON, ..patient() };
        let mut after = dialer(&pinned(&proxy), timings, finds(&addresses));
        assert_eq!(dial_beside(&mut after, &proxy).await, proxy.socket_addr());
        let mut alone = dialer(&pinned(&proxy), timings, finds(&addresses[..1]));
        let error = alone.dial(&|| put(1)).await.unwrap_err();
        assert!(matches!(error, DialError::Late(Phase::Tls)), "{error}");
    });
}

#[test]
fn address_that_stalls_in_the_handshake_is_left_with_a_new_epoch() {
    let (stalled, proxy) = (Proxy::new(), Proxy::new());
    let trust = Trust::Pins(vec![stalled.pin, proxy.pin]);
    let addresses = [stalled.socket_addr(), proxy.socket_addr()];
    run(async {
        let timings = Timings { handshake: SOON, ..patient() };
        let mut dialer = dialer(&trust, timings, finds(&addresses));
        let epoch = Cell::new(0);
        let next = || {
            epoch.set(epoch.get() + 1);
            put(epoch.get())
        };
        let proxies = async {
            let first = stalled.accept().await.unwrap();
            let mut second = proxy.accept().await.unwrap();
            second.answer(&established()).await;
            [first, second].map(|accepted| accepted.put.hello.unwrap().epoch)
        };
        let (link, epochs) = zip(dialer.dial(&next), proxies).await;
        assert_eq!((link.unwrap().peer, epochs), (proxy.socket_addr(), [1, 2]));
    });
}

#[test]
fn stranger_among_the_addresses_gets_nothing_and_is_what_is_told() {
    let (stranger, proxy) = (Proxy::new(), Proxy::new());
    let addresses = [stranger.socket_addr(), closed(), proxy.socket_addr()];
    run(async {
        let mut found = dialer(&pinned(&proxy), patient(), finds(&addresses));
        let (peer, put) = zip(dial_beside(&mut found, &proxy), stranger.accept()).await;
        assert_eq!(peer, proxy.socket_addr());
        assert!(put.is_err());
        let mut lost = dialer(&pinned(&proxy), patient(), finds(&addresses[..2]));
        let (error, put) = zip(lost.dial(&|| unreachable!()), stranger.accept()).await;
        let error = error.unwrap_err();
        assert!(put.is_err() && error.cause() == Cause::Tls, "{error}");
        assert!(error.to_string().contains(&stranger.pin.to_string()), "{error}");
    });
}

#[test]
fn refusal_is_the_answer_of_all_addresses() {
    let (refusing, unasked) = (Proxy::new(), Proxy::new());
    let trust = Trust::Pins(vec![refusing.pin, unasked.pin]);
    run(async {
        let addresses = [refusing.socket_addr(), unasked.socket_addr()];
        let mut dialer = dialer(&trust, patient(), finds(&addresses));
        let refuse = async { refusing.accept().await.unwrap().refuse(409, None).await };
        let (error, ()) = zip(dialer.dial(&|| put(1)), refuse).await;
        assert!(matches!(error, Err(DialError::Refused { status: 409, .. })));
        let asked = or(async { unasked.accept().await.is_ok() }, async {
            Timer::after(SOON).await;
            false
        });
        assert!(!asked.await);
    });
}

#[test]
fn whole_dial_has_a_deadline() {
    let mute = mute();
    let proxy = Proxy::new();
    run(async {
        let timings = Timings { whole: SOON, ..patient() };
        let resolver = finds(&[mute.local_addr().unwrap()]);
        let error = dialer(&pinned(&proxy), timings, resolver).dial(&|| put(1)).await.unwrap_err();
        assert!(matches!(error, DialError::Late(Phase::Whole)), "{error}");
    });
}

#[test]
fn both_families_are_tried_in_turns() {
    let key = rcgen::KeyPair::generate().unwrap();
    let proxy = Proxy::at(IpAddr::V6(Ipv6Addr::LOCALHOST), &key);
    run(async {
        // Many of one family do not keep the other waiting.
        let addresses: Vec<_> = (0..20).map(|_| closed()).chain([proxy.socket_addr()]).collect();
        let mut dialer = dialer(&pinned(&proxy), patient(), finds(&addresses));
        assert_eq!(dial_beside(&mut dialer, &proxy).await, proxy.socket_addr());
    });
}

#[test]
fn hung_resolver_is_asked_once_however_often_and_by_whomever_it_is_needed() {
    let proxy = Proxy::new();
    let found = proxy.socket_addr();
    let calls = Arc::new(AtomicUsize::new(0));
    let (release, released) = mpsc::channel::<()>();
    let released = Mutex::new(released);
    let counted = calls.clone();
    let resolver = Resolver::new(move |_, _| {
        counted.fetch_add(1, Ordering::SeqCst);
        released.lock().unwrap().recv().map_err(io::Error::other)?;
        Ok(vec![found])
    });
    run(async {
        let timings = Timings { resolve: SOON, ..patient() };
        let mut one = dialer(&pinned(&proxy), timings, resolver.clone());
        let mut other = dialer(&pinned(&proxy), timings, resolver);
        for _ in 0..3 {
            for dialer in [&mut one, &mut other] {
                let error = dialer.dial(&|| put(1)).await.unwrap_err();
                assert!(matches!(error, DialError::Late(Phase::Resolve)), "{error}");
            }
        }
        assert_eq!(calls.load(Ordering::SeqCst), 1);
        // The late answer is as good as any, and the thread is free for the next question.
        release.send(()).unwrap();
        release.send(()).unwrap();
        for dialer in [&mut one, &mut other] {
            dialer.set(Arc::new(pinned(&proxy).client_config().unwrap()), patient());
            assert_eq!(dial_beside(dialer, &proxy).await, found);
        }
        assert_eq!(calls.load(Ordering::SeqCst), 2);
    });
}

#[test]
fn name_is_resolved_anew_and_the_last_good_address_helps_out() {
    let (first, second) = (Proxy::new(), Proxy::new());
    let trust = Trust::Pins(vec![first.pin, second.pin]);
    let answers = Mutex::new(vec![
        Err(io::Error::other("the resolver is dead")),
        Err(io::Error::other("the resolver is dead")),
        Ok(vec![second.socket_addr()]),
        Ok(vec![first.socket_addr()]),
    ]);
    let resolver = Resolver::new(move |host, port| {
        assert_eq!((host, port), ("proxy.test", 1444));
        answers.lock().unwrap().pop().unwrap()
    });
    run(async {
        let mut dialer = dialer(&trust, patient(), resolver);
        assert_eq!(dial_beside(&mut dialer, &first).await, first.socket_addr());
        assert_eq!(dial_beside(&mut dialer, &second).await, second.socket_addr());
        assert_eq!(dial_beside(&mut dialer, &second).await, second.socket_addr());
        // Where the old address does not help, the resolver is what is missing.
        drop(second);
        let error = dialer.dial(&|| put(1)).await.unwrap_err();
        assert!(matches!(error, DialError::Resolve(_)), "{error}");
    });
}

#[test]
fn last_good_address_is_dialled_beside_a_slow_resolver_whose_answer_joins_in() {
    let (first, second) = (Proxy::new(), Proxy::new());
    let trust = Trust::Pins(vec![first.pin, second.pin]);
    let (release, released) = mpsc::channel::<SocketAddr>();
    let released = Mutex::new(released);
    let resolver = Resolver::new(move |_, _| {
        Ok(vec![released.lock().unwrap().recv().map_err(io::Error::other)?])
    });
    run(async {
        let mut dialer = dialer(&trust, Timings { fallback: SOON, ..patient() }, resolver);
        release.send(first.socket_addr()).unwrap();
        assert_eq!(dial_beside(&mut dialer, &first).await, first.socket_addr());
        // Nothing is known yet of where it is now: the old address will do.
        assert_eq!(dial_beside(&mut dialer, &first).await, first.socket_addr());
        // It refuses: the answer is still waited for.
        drop(first);
        let answer = async {
            Timer::after(SOON * 2).await;
            release.send(second.socket_addr()).unwrap();
        };
        let (peer, ()) = zip(dial_beside(&mut dialer, &second), answer).await;
        assert_eq!(peer, second.socket_addr());
        // And where it never comes, that is what is told.
        drop(second);
        let timings = Timings { fallback: SOON, resolve: SOON * 2, ..patient() };
        dialer.set(Arc::new(trust.client_config().unwrap()), timings);
        let error = dialer.dial(&|| unreachable!()).await.unwrap_err();
        assert!(matches!(error, DialError::Late(Phase::Resolve)), "{error}");
    });
}

#[test]
fn named_proxy_is_not_looked_for_inside_but_where_the_one_is_that_named_it() {
    let key = rcgen::KeyPair::generate().unwrap();
    let proxy = Proxy::at([127, 0, 0, 2].into(), &key);
    let found = proxy.socket_addr();
    run(async {
        let named = |inside: [u8; 4]| {
            dialer(&pinned(&proxy), patient(), finds(&[found])).of_peer(inside.into())
        };
        for outside in [[127, 0, 0, 1], [203, 0, 113, 7]] {
            let error = named(outside).dial(&|| unreachable!()).await.unwrap_err();
            assert!(matches!(error, DialError::Forbidden), "{error}");
        }
        let mut allowed = named([127, 0, 0, 2]);
        assert_eq!(dial_beside(&mut allowed, &proxy).await, found);
        allowed.avoid(vec![found]);
        let error = allowed.dial(&|| unreachable!()).await.unwrap_err();
        assert!(matches!(error, DialError::Forbidden), "{error}");
    });
}
