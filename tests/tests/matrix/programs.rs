//! Rows about the programs themselves: killed, hung, suspended.

use std::{thread, time::Instant};

use spdy_tests::observe::Signal;

use crate::site::{Pace, Site};

pub fn proxy_killed(pace: Pace) {
    let site = Site::start(pace);
    let mark = site.mark();
    site.kill_proxy();
    let [agent, _] = site.noticed(mark, true, false);
    site.start_proxy();
    let back = site.back_at_new(mark.at);
    site.row(
        "proxy killed (-9), restarted",
        [Some((agent.unwrap(), 1.0)), None, Some((back, 4.0))],
    );
}

pub fn proxy_hung(pace: Pace) {
    let site = Site::start(pace);
    let mark = site.mark();
    site.signal_proxy(Signal::STOP);
    let [agent, _] = site.noticed(mark, true, false);
    let continued = Instant::now();
    site.signal_proxy(Signal::CONT);
    let back = site.back(mark, continued);
    // A handshake that waits in the kernel is served; else the next step of the back-off.
    site.row("proxy hung (SIGSTOP)", [Some((agent.unwrap(), 40.0)), None, Some((back, 20.0))]);
}

pub fn agent_hung(pace: Pace) {
    let site = Site::start(pace);
    let mark = site.mark();
    site.signal_agent(Signal::STOP);
    let [_, proxy] = site.noticed(mark, false, true);
    let continued = Instant::now();
    site.signal_agent(Signal::CONT);
    let back = site.back(mark, continued);
    site.row("agent hung (SIGSTOP)", [None, Some((proxy.unwrap(), 40.0)), Some((back, 4.0))]);
}

pub fn both_suspended(pace: Pace) {
    let site = Site::start(pace);
    site.signal_agent(Signal::STOP);
    site.signal_proxy(Signal::STOP);
    // Longer than every timer of a session.
    thread::sleep(pace.time(60.0));
    let resumed = Instant::now();
    site.signal_proxy(Signal::CONT);
    site.signal_agent(Signal::CONT);
    // By the old tunnel or a new one.
    while site.status() != Some(200) {
        assert!(resumed.elapsed() < pace.time(60.0), "no service");
    }
    let back = resumed.elapsed();
    site.row("both suspended for 60 s", [None, None, Some((back, 15.0))]);
}
