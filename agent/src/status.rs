//! How an agent is, as text for people and as JSON for programs.
//!
//! It owns the words and the format. What there is to say is [`crate::supervise::Report`]'s.

use std::{
    fmt::{self, Write as _},
    time::{Duration, Instant},
};

use crate::{
    log::Quoted,
    supervise::{ProxyReport, Report, ShareReport, Stage},
};

/// Whether nothing is wrong: every proxy of the configuration is connected, every share can be used.
#[must_use]
pub fn is_well(report: &Report) -> bool {
    report.proxies.iter().all(|proxy| proxy.is_peer || proxy.stage == Stage::Connected)
        && report.shares.iter().all(|share| share.problem.is_none() && share.read_only.is_none())
}

/// Lines for people.
#[must_use]
pub fn text(report: &Report) -> String {
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _ = write_text(&mut text, report);
    text
}

/// One line of JSON. Durations are whole seconds (`_s`) or milliseconds (`_ms`), sizes octets.
#[must_use]
pub fn json(report: &Report) -> String {
    let mut text = String::new();
    let _ = write_json(&mut text, report);
    text
}

fn write_text(text: &mut String, report: &Report) -> fmt::Result {
    let running = report.started.elapsed().unwrap_or_default();
    let version = env!("CARGO_PKG_VERSION");
    writeln!(text, "spdy-agent {version}: {} for {}", report.name, Span(running))?;
    for proxy in &report.proxies {
        write_proxy(text, proxy)?;
    }
    for share in &report.shares {
        write_share(text, share)?;
    }
    Ok(())
}

fn write_proxy(text: &mut String, proxy: &ProxyReport) -> fmt::Result {
    let kind = if proxy.is_peer { "peer" } else { "proxy" };
    write!(text, "{kind} {}: ", proxy.address)?;
    let since = Span(proxy.since.elapsed());
    match proxy.stage {
        Stage::Connected => write!(text, "connected for {since}")?,
        Stage::Connecting => write!(text, "connecting, away for {since}")?,
        Stage::Waiting(until) => {
            let left = Span(until.saturating_duration_since(Instant::now()));
            write!(text, "away for {since}, next try in {left}")?;
        }
        Stage::Stopped => write!(text, "stopped for {since}")?,
    }
    if let Some(peer) = proxy.peer {
        write!(text, ", at {peer}")?;
    }
    if !proxy.id.is_empty() {
        write!(text, ", id {}", Quoted(&proxy.id))?;
    }
    text.push('\n');
    if let Some(pin) = proxy.pin {
        writeln!(text, "  pin {pin}")?;
    }
    if proxy.tunnels > 0 {
        let counters = &proxy.counters;
        write!(
            text,
            "  {} tunnels, epoch {}; this one: {} streams of {}; all: {} received, {} sent",
            proxy.tunnels,
            proxy.epoch,
            counters.streams_now,
            counters.streams_opened,
            Size(proxy.octets.0),
            Size(proxy.octets.1)
        )?;
        if let Some(round_trip) = counters.round_trip {
            write!(text, "; round trip {} ms", round_trip.as_millis())?;
        }
        text.push('\n');
    }
    if let Some((cause, reason, at)) = &proxy.error {
        writeln!(text, "  last error ({cause}, {} ago): {}", Span(at.elapsed()), Quoted(reason))?;
    }
    Ok(())
}

fn write_share(text: &mut String, share: &ShareReport) -> fmt::Result {
    write!(text, "share {} in {}: ", share.path, Quoted(&share.folder.to_string_lossy()))?;
    match (&share.problem, share.writable, &share.read_only) {
        (Some(problem), ..) => write!(text, "cannot be read: {problem}")?,
        (None, false, _) => text.push_str("readable"),
        (None, true, None) => text.push_str("readable and writable"),
        (None, true, Some(problem)) => write!(text, "cannot be written: {problem}")?,
    }
    if let (Some(free), Some(size)) = (share.free, share.size) {
        write!(text, ", {} of {} free", Size(free), Size(size))?;
    }
    text.push('\n');
    Ok(())
}

fn write_json(text: &mut String, report: &Report) -> fmt::Result {
    let running = report.started.elapsed().unwrap_or_default().as_secs();
    write!(
        text,
        "{{\"version\":{},\"name\":{},\"well\":{},\"running_s\":{running},\"disk_wait_ms\":{},\
         \"proxies\":[",
        Json(env!("CARGO_PKG_VERSION")),
        Json(&report.name),
        is_well(report),
        report.disk_wait.as_millis()
    )?;
    for (at, proxy) in report.proxies.iter().enumerate() {
        text.push_str(if at == 0 { "" } else { "," });
        let counters = &proxy.counters;
        let (error, reason, ago) = match &proxy.error {
            Some((cause, reason, at)) => (Some(*cause), Some(&**reason), Some(at.elapsed())),
            None => (None, None, None),
        };
        let peer = proxy.peer.map(|peer| peer.to_string());
        let pin = proxy.pin.map(|pin| pin.to_string());
        write!(
            text,
            "{{\"address\":{},\"peer\":{},\"state\":{},\"since_s\":{},\"at\":{},\"pin\":{},\
             \"id\":{},\"error_cause\":{},\"error\":{},\"error_ago_s\":{},\"tunnels\":{},\
             \"epoch\":{},\"streams_now\":{},\"streams_opened\":{},\"octets_received\":{},\
             \"octets_sent\":{},\"round_trip_ms\":{},\"waited_window_ms\":{},\
             \"waited_reader_ms\":{},\"waited_output_ms\":{},\"clock_off_s\":{}}}",
            Json(&proxy.address.to_string()),
            proxy.is_peer,
            Json(proxy.stage.word()),
            proxy.since.elapsed().as_secs(),
            Maybe(peer.as_deref().map(Json)),
            Maybe(pin.as_deref().map(Json)),
            Json(&proxy.id),
            Maybe(error.map(Json)),
            Maybe(reason.map(Json)),
            Maybe(ago.map(|ago| ago.as_secs())),
            proxy.tunnels,
            proxy.epoch,
            counters.streams_now,
            counters.streams_opened,
            proxy.octets.0,
            proxy.octets.1,
            Maybe(counters.round_trip.map(|time| time.as_millis())),
            counters.waited_window.as_millis(),
            counters.waited_reader.as_millis(),
            counters.waited_output.as_millis(),
            Maybe(proxy.clock_off),
        )?;
    }
    text.push_str("],\"shares\":[");
    for (at, share) in report.shares.iter().enumerate() {
        text.push_str(if at == 0 { "" } else { "," });
        write!(
            text,
            "{{\"path\":{},\"folder\":{},\"readable\":{},\"writable\":{},\"problem\":{},\
             \"free\":{},\"size\":{}}}",
            Json(&share.path),
            Json(&share.folder.to_string_lossy()),
            share.problem.is_none(),
            share.writable && share.problem.is_none() && share.read_only.is_none(),
            Maybe(share.problem.as_deref().or(share.read_only.as_deref()).map(Json)),
            Maybe(share.free),
            Maybe(share.size),
        )?;
    }
    text.push_str("]}\n");
    Ok(())
}

/// A time as people say it: two units at most.
pub(crate) struct Span(pub(crate) Duration);

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.as_secs();
        let (minutes, hours, days) = (seconds / 60, seconds / 3_600, seconds / 86_400);
        match seconds {
            0..60 => write!(f, "{seconds} s"),
            60..3_600 => write!(f, "{minutes} min {} s", seconds % 60),
            3_600..86_400 => write!(f, "{hours} h {} min", minutes % 60),
            _ => write!(f, "{days} d {} h", hours % 24),
        }
    }
}

/// A number of octets with a unit.
pub(crate) struct Size(pub(crate) u64);

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut unit = 1;
        let mut names = ["B", "kB", "MB", "GB", "TB", "PB", "EB"].into_iter();
        let mut name = names.next().unwrap_or_default();
        for next in names {
            if self.0 / unit < 1_000 {
                break;
            }
            (unit, name) = (unit.saturating_mul(1_000), next);
        }
        match self.0 / unit {
            whole @ 0..10 if unit > 1 => write!(f, "{whole}.{} {name}", self.0 % unit * 10 / unit),
            whole => write!(f, "{whole} {name}"),
        }
    }
}

/// A text of JSON.
struct Json<'a>(&'a str);

impl fmt::Display for Json<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_char('"')?;
        for c in self.0.chars() {
            match c {
                '"' | '\\' => write!(f, "\\{c}")?,
                // Also what a terminal would obey.
                c if c.is_control() => write!(f, "\\u{:04x}", u32::from(c))?,
                c => f.write_char(c)?,
            }
        }
        f.write_char('"')
    }
}

/// A value of JSON, or null.
struct Maybe<T>(Option<T>);

impl<T: fmt::Display> fmt::Display for Maybe<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Some(value) => value.fmt(f),
            None => f.write_str("null"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_sizes_are_as_people_say_them() {
        let spans = [0, 59, 60, 3_599, 3_600, 86_400, 864_061]
            .map(|seconds| Span(Duration::from_secs(seconds)).to_string());
        let wanted =
            ["0 s", "59 s", "1 min 0 s", "59 min 59 s", "1 h 0 min", "1 d 0 h", "10 d 0 h"];
        assert_eq!(spans, wanted);
        let sizes =
            [0, 999, 1_000, 9_999, 12_345, 1_550_000, u64::MAX].map(|n| Size(n).to_string());
        assert_eq!(sizes, ["0 B", "999 B", "1.0 kB", "9.9 kB", "12 kB", "1.5 MB", "18 EB"]);
    }

    #[test]
    fn texts_of_json_hold_nothing_that_ends_them() {
        assert_eq!(
            Json("a\"b\\c\n\u{1b}\u{9b}\u{fc}").to_string(),
            r#""a\"b\\c\u000a\u001b\u009bü""#
        );
        assert_eq!(Maybe::<u8>(None).to_string(), "null");
    }
}
