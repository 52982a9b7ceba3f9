//! A running agent that is told something: other settings, a changed network, other proxies; and
//! shares that come late.
#![allow(clippy::unwrap_used, reason = "a helper that fails is a failed test")]

mod fixture;

use std::{fs, time::Duration};

use async_io::Timer;
use fixture::{
    Accepted, Folder, Proxy,
    agent::{Agent, pinned},
    exchange, naming, request,
};
use futures_lite::future::{or, zip};
use spdy_agent::{
    dial::{Address, Token},
    log::Level,
    origin::ShareOptions,
    supervise::{self, Settings, Stage},
    verify::Trust,
};
use spdy_protocol::handshake::{Answer, Credentials, Welcome};

const NEVER: Duration = Duration::from_secs(3_600);

fn epoch(accepted: &Accepted) -> u64 {
    accepted.put.hello.as_ref().unwrap().epoch
}

/// Waits in vain for nobody: ready as soon as `other` is, and fails if the proxy is dialled before.
async fn not_dialled<T>(proxy: &Proxy, other: impl Future<Output = T>) -> T {
    let dialled = async {
        let _ = proxy.accept().await;
        panic!("a proxy was dialled that must not be");
    };
    or(dialled, other).await
}

#[test]
fn changed_network_ends_the_wait_for_it_and_no_other() {
    let folder = Folder::new();
    let proxy = Proxy::new();
    let mut agent = Agent::new(&folder, &[(&proxy, pinned(&proxy))]);
    let steps = &mut agent.settings.backoff;
    // Full jitter over a year: a test that waits is a test that hangs.
    (steps.network, steps.network_max) = (NEVER * 9_000, NEVER * 9_000);
    (steps.denied, steps.denied_max) = (NEVER, NEVER);
    agent.run_told(async |_, lines, told| {
        drop(proxy.accept().await.unwrap());
        lines.wait_for("event=connect_failed").await;
        told.network_changed();
        proxy.accept().await.unwrap().refuse(401, None).await;
        lines.wait_for("refused with 401").await;
        // The proxy's mind is not changed by a new route, but may be by its owner.
        told.network_changed();
        let settings = Settings::clone(&told.settings());
        told.reload(settings).await.unwrap();
        let third = proxy.accept().await.unwrap();
        assert_eq!(epoch(&third), 3);
    });
}

#[test]
fn changed_network_ends_a_dial_by_the_old_way() {
    let folder = Folder::new();
    let proxy = Proxy::new();
    let mut agent = Agent::new(&folder, &[(&proxy, pinned(&proxy))]);
    agent.settings.dial.handshake = NEVER;
    agent.settings.dial.whole = NEVER;
    agent.run_told(async |executor, _, told| {
        let stuck = proxy.accept().await.unwrap();
        told.network_changed();
        let (put, _tunnel) = proxy.tunnel(&executor).await;
        assert_eq!((epoch(&stuck), put.hello.unwrap().epoch), (1, 2));
    });
}

#[test]
fn changed_network_asks_the_other_end_of_a_tunnel_at_once() {
    let folder = Folder::new();
    let proxy = Proxy::new();
    let mut agent = Agent::new(&folder, &[(&proxy, pinned(&proxy))]);
    // By itself it would not ask for an hour.
    agent.settings.session.idle_ping = NEVER;
    agent.settings.session.ping_answer = Duration::from_secs(1);
    agent.run_told(async |executor, lines, told| {
        let mut gone = proxy.accept().await.unwrap();
        gone.answer(&naming(&[])).await;
        lines.wait_for("event=tunnel_up").await;
        told.network_changed();
        let (_, tunnel) = proxy.tunnel(&executor).await;
        assert_eq!(lines.count("event=tunnel_down"), 1);
        // One that answers stays.
        exchange(&tunnel, "GET", "/", &[], None).await;
        told.network_changed();
        exchange(&tunnel, "GET", "/", &[], None).await;
        assert_eq!(lines.count("event=tunnel_up"), 2);
    });
}

#[test]
fn idle_tunnel_makes_progress_by_its_pings() {
    let folder = Folder::new();
    let proxy = Proxy::new();
    let mut agent = Agent::new(&folder, &[(&proxy, pinned(&proxy))]);
    let moment = Duration::from_millis(50);
    agent.settings.session.idle_ping = moment;
    agent.settings.session.ping_answer = Duration::from_secs(1);
    agent.settings.slack = 4 * moment;
    agent.run_told(async |executor, lines, told| {
        let (_, tunnel) = proxy.tunnel(&executor).await;
        lines.wait_for("event=tunnel_up").await;
        assert!(told.line().starts_with("connected to "));
        let before = tunnel.counters().octets_received;
        // Longer than a tunnel without an octet would live, and its supervisor be late.
        let silence = told.settings().session.ping_answer + 10 * moment;
        let begun = std::time::Instant::now();
        while begun.elapsed() < silence {
            async_io::Timer::after(moment).await;
            assert_eq!(told.stuck(), None);
        }
        assert!(tunnel.counters().octets_received > before);
    });
}

#[test]
fn reload_keeps_what_stays_drains_what_goes_and_dials_what_comes() {
    let folder = Folder::new();
    folder.write("old/name", "old");
    folder.write("new/name", "new");
    let (stays, goes, comes) = (Proxy::new(), Proxy::new(), Proxy::new());
    let mut agent = Agent::new(&folder, &[(&stays, pinned(&stays)), (&goes, pinned(&goes))]);
    agent.settings.origin.shares[0].path = folder.path().join("old");
    agent.run_told(async |executor, lines, told| {
        let (kept, left) = zip(stays.tunnel(&executor), goes.tunnel(&executor)).await;
        assert_eq!(exchange(&kept.1, "GET", "/name", &[], None).await.text(), "old");
        // A request that runs while all changes.
        let running = left.1.open(&request("GET", "/name", &[]), 3, true).await.unwrap();
        running.response().await.unwrap();

        let mut settings = Settings::clone(&told.settings());
        settings.origin.shares[0].path = folder.path().join("new");
        settings.proxies[0].token = Token::parse("second-token");
        settings.proxies[1] = supervise::Proxy {
            address: Address::parse(&comes.address()).unwrap(),
            trust: pinned(&comes),
            token: None,
            card: None,
        };
        let reloading = async { told.reload(settings).await.unwrap() };
        let ((), (_, new)) = zip(reloading, comes.tunnel(&executor)).await;
        receive_rest(&running).await.unwrap();
        for tunnel in [&kept.1, &new] {
            assert_eq!(exchange(tunnel, "GET", "/name", &[], None).await.text(), "new");
        }
        assert_eq!(lines.count("event=tunnel_down"), 1);
        let proxies = told.report().await.proxies;
        let states: Vec<_> = proxies.iter().map(|proxy| (proxy.stage, proxy.tunnels)).collect();
        assert_eq!(states, [(Stage::Connected, 1), (Stage::Connected, 1)]);
        // The new token is for the next handshake.
        kept.1.drain();
        let again = not_dialled(&goes, stays.accept()).await.unwrap();
        assert!(again.put.credentials == Credentials::Bearer("second-token".to_owned()));
    });
}

#[test]
fn reload_with_another_name_or_pin_makes_the_tunnel_anew() {
    let folder = Folder::new();
    folder.write("file", "x");
    let proxy = Proxy::new();
    let agent = Agent::new(&folder, &[(&proxy, pinned(&proxy))]);
    agent.run_told(async |executor, lines, told| {
        // It would have its agents come back in a minute; but it is us who went.
        let spread = Duration::from_secs(60);
        let answer = Answer::Established(Some(Welcome { spread, ..fixture::welcome() }));
        let accepted = proxy.accept().await.unwrap();
        assert_eq!(accepted.put.hello.as_ref().unwrap().origin, "nas1");
        let _first = accepted.establish_as(&answer, &executor).await;
        lines.wait_for("event=tunnel_up").await;
        Timer::after(Duration::from_millis(20)).await;
        let mut settings = Settings::clone(&told.settings());
        settings.name = "nas2".to_owned();
        told.reload(settings.clone()).await.unwrap();
        let (put, second) = proxy.tunnel(&executor).await;
        assert_eq!(put.hello.unwrap().origin, "nas2");
        assert_eq!(exchange(&second, "GET", "/file", &[], None).await.text(), "x");
        // Not the same trust any more, and nobody there who could be trusted.
        settings.proxies[0].trust = Trust::Pins(vec![spdy_agent::verify::Pin([1; 32])]);
        told.reload(settings).await.unwrap();
        assert!(proxy.accept().await.is_err());
        lines.wait_for("not trusted").await;
    });
}

#[test]
fn reload_changes_the_level_of_the_log() {
    let folder = Folder::new();
    let proxy = Proxy::new();
    let agent = Agent::new(&folder, &[(&proxy, pinned(&proxy))]);
    agent.run_told(async |executor, lines, told| {
        let (_, first) = proxy.tunnel(&executor).await;
        lines.wait_for("event=tunnel_up").await;
        let settings = Settings::clone(&told.settings());
        let log = spdy_agent::log::Log::writer(Level::Error, Box::new(std::io::sink()));
        told.reload(Settings { log, ..settings }).await.unwrap();
        first.drain();
        let (_, _second) = proxy.tunnel(&executor).await;
        assert_eq!(lines.count("event=tunnel_up"), 1);
    });
}

#[test]
fn share_that_comes_late_is_waited_for_and_told_of_once() {
    let folder = Folder::new();
    folder.write("here/name", "here");
    let proxy = Proxy::new();
    let mut agent = Agent::new(&folder, &[(&proxy, pinned(&proxy))]);
    let share = |name: &str| ShareOptions {
        name: name.to_owned(),
        path: folder.path().join(name),
        writable: false,
    };
    agent.settings.origin.shares = vec![share("here"), share("late")];
    agent.settings.look = Duration::ZERO;
    let lines = agent.run_told(async |executor, lines, told| {
        let (_, tunnel) = proxy.tunnel(&executor).await;
        let get = async |path: &str| exchange(&tunnel, "GET", path, &[], None).await;
        for path in ["/late/name", "/late/", "/%6cate/name", "/late?x"] {
            let absent = get(path).await;
            assert_eq!(absent.status(), 503, "{path}");
            assert!(absent.header("retry-after").is_some() && absent.text().contains("disk"));
        }
        let head = exchange(&tunnel, "HEAD", "/late/name", &[], None).await;
        assert_eq!((head.status(), head.body.len()), (503, 0));
        let put = exchange(&tunnel, "PUT", "/late/name", &[], Some(&[0; 100_000])).await;
        assert_eq!(put.status(), 503);
        assert_eq!(get("/here/name").await.text(), "here");
        assert_eq!(get("/nowhere").await.status(), 404);
        let problems = async || told.report().await.shares.map_problems();
        assert_eq!(problems().await, [false, true]);

        folder.write("late/name", "late");
        assert_eq!(get("/late/name").await.text(), "late");
        assert_eq!(problems().await, [false, false]);
        lines.wait_for("event=share_present").await;
        // Another disk under the same name: who asks first may still get the old one.
        fs::rename(folder.path().join("late"), folder.path().join("gone")).unwrap();
        folder.write("late/name", "other");
        while get("/late/name").await.text() != "other" {}
    });
    assert_eq!(lines.count("warn event=share_absent path=/late"), 1);
    assert_eq!(lines.count("event=share_changed path=/late"), 1);
}

trait Problems {
    fn map_problems(self) -> Vec<bool>;
}

impl Problems for Vec<supervise::ShareReport> {
    fn map_problems(self) -> Vec<bool> {
        self.into_iter().map(|share| share.problem.is_some()).collect()
    }
}

#[test]
fn folders_are_looked_at_no_more_often_than_said() {
    let folder = Folder::new();
    let proxy = Proxy::new();
    let mut agent = Agent::new(&folder, &[(&proxy, pinned(&proxy))]);
    agent.settings.origin.shares[0].path = folder.path().join("late");
    agent.settings.look = NEVER;
    agent.run_told(async |executor, _, told| {
        let (_, tunnel) = proxy.tunnel(&executor).await;
        folder.write("late/name", "late");
        let get = async || exchange(&tunnel, "GET", "/name", &[], None).await;
        assert_eq!(get().await.status(), 503);
        let settings = Settings::clone(&told.settings());
        told.reload(settings).await.unwrap();
        assert_eq!(get().await.text(), "late");
    });
}

#[test]
fn proxy_that_stays_away_gets_one_line_and_then_a_summary() {
    let folder = Folder::new();
    for (summary, wanted) in [(NEVER, 0), (Duration::ZERO, 4)] {
        let proxy = Proxy::new();
        let mut agent = Agent::new(&folder, &[(&proxy, pinned(&proxy))]);
        agent.settings.summary = summary;
        let lines = agent.run(async |_, lines| {
            for _ in 0..3 {
                proxy.accept().await.unwrap().refuse(503, None).await;
                drop(proxy.accept().await.unwrap());
            }
            while lines.count("event=still_down") < wanted {
                drop(proxy.accept().await.unwrap());
            }
        });
        // Two reasons that take turns are two lines.
        assert_eq!(lines.count("event=connect_failed"), 2);
        assert!(lines.count("event=still_down") >= wanted);
        assert!(wanted > 0 || lines.count("event=still_down") == 0);
    }
}

/// Proxies with one key, the first of which names others, and the agent that follows it.
struct Peers {
    key: rcgen::KeyPair,
    first: Proxy,
    folder: Folder,
}

impl Peers {
    fn new() -> Self {
        let key = rcgen::KeyPair::generate().unwrap();
        let first = Proxy::at([127, 0, 0, 1].into(), &key);
        Self { key, first, folder: Folder::new() }
    }

    fn more(&self) -> Proxy {
        Proxy::at([127, 0, 0, 1].into(), &self.key)
    }

    fn agent(&self, follow_peers: bool) -> Agent {
        let mut agent = Agent::new(&self.folder, &[(&self.first, pinned(&self.first))]);
        agent.settings.follow_peers = follow_peers;
        agent
    }
}

#[test]
fn named_peers_are_dialled_only_if_that_was_asked_for() {
    for follow in [false, true] {
        let peers = Peers::new();
        let peer = peers.more();
        peers.agent(follow).run_told(async |executor, lines, told| {
            let accepted = peers.first.accept().await.unwrap();
            let names = naming(&[peer.address(), peers.first.address(), "nonsense".to_owned()]);
            let first = accepted.establish_as(&names, &executor).await;
            if follow {
                let (put, tunnel) = peer.tunnel(&executor).await;
                assert!(put.credentials == Credentials::Bearer("secret-token".to_owned()));
                exchange(&tunnel, "GET", "/", &[], None).await;
                lines.wait_for(&format!("event=tunnel_up proxy={}", peer.address())).await;
            } else {
                let asked = exchange(&first, "GET", "/", &[], None);
                not_dialled(&peer, asked).await;
            }
            let report = told.report().await.proxies;
            let kinds: Vec<_> = report.iter().map(|proxy| proxy.is_peer).collect();
            assert_eq!(kinds, if follow { vec![false, true] } else { vec![false] });
        });
    }
}

#[test]
fn lying_proxy_leads_the_agent_nowhere() {
    let peers = Peers::new();
    let stranger = Proxy::new();
    // The right key, but on this machine, where the first one is not.
    let inside = Proxy::at([127, 0, 0, 2].into(), &peers.key);
    let spare = peers.more();
    let ungreeted = peers.more();
    let lines = peers.agent(true).run(async |executor, lines| {
        let accepted = peers.first.accept().await.unwrap();
        let mut names = vec![stranger.address(), inside.address()];
        names.extend(["192.0.2.1:1".to_owned(), spare.address(), ungreeted.address()]);
        let _first = accepted.establish_as(&naming(&names), &executor).await;
        // A stranger sees TLS and not one octet more.
        assert!(stranger.accept().await.is_err());
        not_dialled(&inside, spare.tunnel(&executor)).await;
        lines.wait_for("must be another one").await;
        // The fifth is one too many.
        not_dialled(&ungreeted, lines.wait_for("not trusted")).await;
    });
    assert_eq!(lines.count("event=peer "), 4);
}

#[test]
fn peers_are_forgotten_with_the_session_that_named_them() {
    let peers = Peers::new();
    let (peer, idle) = (peers.more(), peers.more());
    peers.agent(true).run_told(async |executor, lines, told| {
        let accepted = peers.first.accept().await.unwrap();
        let names = naming(&[peer.address(), idle.address()]);
        let first = accepted.establish_as(&names, &executor).await;
        let (_, tunnel) = peer.tunnel(&executor).await;
        lines.wait_for(&format!("event=tunnel_up proxy={}", peer.address())).await;
        first.close(spdy_protocol::frame::Reason::Ok);
        let (_, first) = peers.first.tunnel(&executor).await;
        // A tunnel that is there serves on.
        exchange(&tunnel, "GET", "/", &[], None).await;
        // Once it ends, nobody dials it again.
        tunnel.close(spdy_protocol::frame::Reason::Ok);
        lines.wait_for(&format!("event=tunnel_down proxy={}", peer.address())).await;
        let other = async {
            for _ in 0..20 {
                exchange(&first, "GET", "/", &[], None).await;
            }
            first.drain();
            peers.first.tunnel(&executor).await
        };
        let (_, _first) = not_dialled(&peer, other).await;
        assert_eq!(told.report().await.proxies.len(), 1);
    });
}

#[test]
fn peer_that_goes_away_is_dialled_again_while_it_is_named() {
    let peers = Peers::new();
    let peer = peers.more();
    peers.agent(true).run(async |executor, _| {
        let accepted = peers.first.accept().await.unwrap();
        let _first = accepted.establish_as(&naming(&[peer.address()]), &executor).await;
        for _ in 0..3 {
            let (_, tunnel) = peer.tunnel(&executor).await;
            tunnel.close(spdy_protocol::frame::Reason::Ok);
        }
    });
}

#[test]
fn flood_of_goodbyes_costs_few_tunnels_at_a_time() {
    let folder = Folder::new();
    folder.write("file", "x".repeat(1 << 20));
    let proxy = Proxy::new();
    let agent = Agent::new(&folder, &[(&proxy, pinned(&proxy))]);
    agent.run(async |executor, _| {
        let mut held = Vec::new();
        for _ in 0..8 {
            let (_, tunnel) = proxy.tunnel(&executor).await;
            // A response that nobody reads keeps the drained tunnel.
            let stream = tunnel.open(&request("GET", "/file", &[]), 3, true).await.unwrap();
            stream.response().await.unwrap();
            tunnel.drain();
            held.push((tunnel, stream));
        }
        let (_, last) = proxy.tunnel(&executor).await;
        exchange(&last, "GET", "/file", &[], None).await;
        for (_, stream) in &held[..3] {
            assert!(receive_rest(stream).await.is_err());
        }
        assert!(receive_rest(&held[7].1).await.is_ok());
    });
}

async fn receive_rest(
    stream: &spdy_protocol::tunnel::Stream,
) -> Result<(), spdy_protocol::error::StreamError> {
    while std::future::poll_fn(|cx| stream.poll_read_chunk(cx)).await?.is_some() {}
    Ok(())
}
