//! Rows about the way between the programs, and about the name that leads to the proxy.

use std::{
    net::Ipv4Addr,
    thread,
    time::{Duration, Instant},
};

use spdy_tests::{
    fixture::wait_until,
    netns::ELSEWHERE,
    observe::Debug,
    visitor::{End, Visitor},
};

use crate::{
    names::{Manner, Names},
    site::{Pace, Site},
};

/// Bound of design.md for a tunnel without anything under way.
const IDLE: f64 = 40.0;
/// The same in a transfer, or with a request pending.
const OWED: f64 = 20.0;
/// What the kernel tells: at most 6 s after it happened (docs/testing.md, "The matrix"), and a dial.
const TOLD: f64 = 10.0;
/// After a wait of some seconds: the next step of the back-off, and what was sent into the hole.
const STEPS: f64 = 20.0;

const PROXY: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);

pub fn black_hole_of_an_idle_tunnel(pace: Pace) {
    let site = Site::start(pace);
    let mark = site.mark();
    site.hole();
    let [agent, proxy] = site.noticed(mark, true, true);
    let healed = Instant::now();
    site.heal();
    let back = site.back(mark, healed);
    let cells = [(agent.unwrap(), IDLE), (proxy.unwrap(), IDLE), (back, STEPS)];
    site.row("black hole, idle", cells.map(Some));
}

pub fn black_hole_in_a_transfer(pace: Pace) {
    let site = Site::start(pace);
    site.limit(8_000_000);
    let mut visitor = Visitor::get(site.http, "/large");
    assert_eq!(visitor.head().status, 200);
    visitor.read(1 << 20);
    let reading = thread::spawn(move || visitor.finish());
    let mark = site.mark();
    site.hole();
    let [agent, proxy] = site.noticed(mark, true, true);
    assert_ne!(reading.join().unwrap().end, End::Whole);
    let healed = Instant::now();
    site.heal();
    let back = site.back(mark, healed);
    let cells = [(agent.unwrap(), OWED), (proxy.unwrap(), OWED), (back, STEPS)];
    site.row("black hole, in a transfer", cells.map(Some));
}

pub fn black_hole_with_a_request_pending(pace: Pace) {
    let site = Site::start(pace);
    let mark = site.mark();
    site.hole();
    let mut visitor = Visitor::get(site.http, "/small");
    // The agent hears nothing of the request: its tunnel is idle.
    let [agent, proxy] = site.noticed(mark, true, true);
    let healed = Instant::now();
    site.heal();
    let back = site.back(mark, healed);
    // It was held, and answered if the tunnel came back in time.
    assert!(matches!(visitor.head().status, 200 | 502..=504));
    let cells = [(agent.unwrap(), IDLE), (proxy.unwrap(), OWED), (back, STEPS)];
    site.row("black hole, a request pending", cells.map(Some));
}

pub fn cable_pulled(pace: Pace) {
    let Some(site) = Site::on_network(pace) else { return };
    let mark = site.mark();
    site.network().unplug();
    let [agent, proxy] = site.noticed(mark, true, true);
    let plugged = Instant::now();
    site.network().plug();
    let back = site.back(mark, plugged);
    // Its own kernel told the agent, both times.
    let cells = [(agent.unwrap(), OWED), (proxy.unwrap(), IDLE), (back, 8.0)];
    site.row("cable pulled at the NAS", cells.map(Some));
}

pub fn reset(pace: Pace) {
    let site = Site::start(pace);
    let mark = site.mark();
    site.reset();
    let [agent, proxy, back] = site.replaced(mark);
    let cells = [(agent, 1.0), (proxy, 1.0), (back, 3.0)];
    site.row("RST", cells.map(Some));
}

pub fn address_changed(pace: Pace) {
    let Some(site) = Site::on_network(pace) else { return };
    let mark = site.mark();
    site.network().renumber();
    let [agent, proxy, back] = site.replaced(mark);
    // Its own kernel told the agent that nothing can come from there.
    let cells = [(agent, TOLD), (proxy, IDLE), (back, TOLD)];
    site.row("address of the agent changed", cells.map(Some));
}

pub fn route_flipped(pace: Pace) {
    let Some(site) = Site::on_network(pace) else { return };
    let mark = site.mark();
    site.network().reroute();
    let [agent, proxy, back] = site.replaced(mark);
    let cells = [(agent, OWED), (proxy, IDLE), (back, OWED)];
    site.row("route flipped", cells.map(Some));
}

/// Starts a site whose agent knows a name only.
fn named(pace: Pace, names: &Names) -> Option<Site> {
    let site = Site::named(pace, names)?;
    site.start_agent();
    site.settle();
    Some(site)
}

pub fn dead_resolver(pace: Pace) {
    let names = Names::of(PROXY);
    let Some(site) = named(pace, &names) else { return };
    names.set(Manner::Dead);
    let mark = site.mark();
    site.reset();
    let [agent, _] = site.noticed(mark, true, false);
    // By the address of the last time.
    let back = site.back(mark, mark.at);
    site.row("DNS dead, then RST", [Some((agent.unwrap(), 1.0)), None, Some((back, 8.0))]);
}

pub fn dead_resolver_at_the_start(pace: Pace) {
    let names = Names::of(PROXY);
    let Some(site) = Site::named(pace, &names) else { return };
    names.set(Manner::Dead);
    let started = Instant::now();
    site.start_agent();
    wait_until("it says so", || site.agent_said("event=connect_failed") > 0);
    let said = started.elapsed();
    let alive = Instant::now();
    names.set(Manner::Answers(PROXY, Duration::ZERO));
    let back = site.back_at_new(alive);
    // A question that was asked before is waited for.
    site.row("DNS dead at the start", [Some((said, 11.0)), None, Some((back, 40.0))]);
}

pub fn changed_name(pace: Pace) {
    let names = Names::of(PROXY);
    let Some(site) = named(pace, &names) else { return };
    let mark = site.mark();
    site.network().proxy.run(|| {
        let mut command = std::process::Command::new("ip");
        let words = ["address", "del", "10.77.0.1/24", "dev", "net0"];
        spdy_tests::fixture::finished(command.args(words), "");
        let words = ["address", "add", "10.77.0.9/24", "dev", "net0"];
        let mut command = std::process::Command::new("ip");
        // Deleting the first address may have taken it along.
        let _ = command.args(words).output();
        let words = ["route", "replace", "default", "via", "10.77.0.2"];
        spdy_tests::fixture::finished(std::process::Command::new("ip").args(words), "");
    });
    names.set(Manner::Answers(ELSEWHERE, Duration::ZERO));
    let [agent, proxy, back] = site.replaced(mark);
    let cells = [(agent, IDLE), (proxy, IDLE), (back, IDLE + 5.0)];
    site.row("DNS and the proxy's address changed", cells.map(Some));
}

pub fn slow_resolver(pace: Pace) {
    let names = Names::of(PROXY);
    let Some(site) = named(pace, &names) else { return };
    names.set(Manner::Answers(PROXY, pace.time(4.0)));
    let mark = site.mark();
    site.reset();
    let [agent, _] = site.noticed(mark, true, false);
    let back = site.back(mark, mark.at);
    site.row("DNS takes 4 s, then RST", [Some((agent.unwrap(), 1.0)), None, Some((back, 8.0))]);
}

pub fn nat_that_forgets_after_30_seconds(pace: Pace) {
    let Some(site) = translated(pace) else { return };
    let mark = site.mark();
    let quiet = pace.time(100.0);
    // Three times as long as the router remembers; only a PING now and then may pass.
    watch_it_live(&site, quiet);
    assert_eq!(site.proxy_said("tunnel=up "), 2);
    assert_eq!(site.status(), Some(200));
    println!(
        "| NAT that forgets after 30 s | {pace:?} | never, in {:.0} s | never | at once |",
        mark.at.elapsed().as_secs_f64()
    );
}

pub fn nat_that_forgot(pace: Pace) {
    let Some(site) = translated(pace) else { return };
    let mark = site.mark();
    site.network().forget();
    let [agent, proxy, back] = site.replaced(mark);
    let cells = [(agent, IDLE), (proxy, IDLE), (back, IDLE)];
    site.row("NAT restarted", cells.map(Some));
}

/// A site behind a router that forgets after 30 s.
fn translated(pace: Pace) -> Option<Site> {
    let site = Site::on_network(pace)?;
    // Whole seconds: 4 s instead of 3.75 s when scaled, where a PING is due after 3.1 s.
    let after = Duration::from_secs_f64(pace.time(30.0).as_secs_f64().ceil());
    if let Err(error) = site.network().translate(after) {
        spdy_tests::skip::skipped(format_args!("no translation of addresses: {error}"));
        return None;
    }
    // The first tunnel is older than the rules.
    let mark = site.mark();
    site.reset();
    site.replaced(mark);
    site.settle();
    Some(site)
}

/// Looks all the time whether there is still the one tunnel of before.
fn watch_it_live(site: &Site, time: Duration) {
    let before = site.agent_said("event=tunnel_down");
    let begun = Instant::now();
    while begun.elapsed() < time {
        assert_eq!(site.agent_said("event=tunnel_down"), before, "lost {:?}", begun.elapsed());
        thread::sleep(Duration::from_millis(100));
    }
}

pub fn line_of_256_kbit_with_127_downloads(pace: Pace) {
    let site = Site::start(pace);
    site.limit(pace.rate(256_000));
    let visitors: Vec<_> = (0..127).map(|_| Visitor::get(site.http, "/large")).collect();
    wait_until("all have asked", || Debug::of(site.http).total("streams_now") == 127);
    let received = || Debug::of(site.http).tunnels("received_bytes");
    let (begun, before) = (Instant::now(), received());
    watch_it_live(&site, pace.time(90.0));
    let passed = (received() - before) as f64 / begun.elapsed().as_secs_f64();
    let rate = pace.rate(256_000) as f64 / 8.0;
    assert!(passed > rate / 2.0, "the line stood still: {passed} octets a second");
    assert_eq!(Debug::of(site.http).total("streams_now"), 127);
    println!(
        "| 256 kbit/s uplink, 127 downloads | {pace:?} | never, in {:.0} s at {:.0} % of the line \
         | never | - |",
        begun.elapsed().as_secs_f64(),
        100.0 * passed / rate
    );
    drop(visitors);
}
