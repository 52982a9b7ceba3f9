//! What is wrong, in words that a person can use, and what to do about it: one finding a line.
//!
//! It owns the checks and the words. A running agent makes them itself, as the user that it is, and
//! knows what its tunnels have counted; without one the configuration is all there is to go by.

use std::{fmt, fs, io, os::unix::fs::PermissionsExt as _, path::Path, sync::Arc, time::Duration};

use spdy_protocol::handshake::{Credentials, Features, Hello, Put};

use crate::{
    backoff::Cause,
    config::{self, File},
    dial::{self, DialError, Dialer, Phase, Token},
    log::Quoted,
    resolve::Resolver,
    status::{Size, Span},
    supervise::{Proxy, ProxyReport, Report, SOFTWARE, ShareReport, Stage, examine_share},
    verify::{Trust, sha256},
};

/// One line of the doctor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    /// As it should be.
    Good(String),
    /// Worth knowing.
    Note(String),
    /// Wrong, and what to do.
    Wrong(String, String),
}

impl Finding {
    /// Whether somebody must do something.
    #[must_use]
    pub const fn is_wrong(&self) -> bool {
        matches!(self, Self::Wrong(..))
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Good(what) => write!(f, "ok     {what}"),
            Self::Note(what) => write!(f, "note   {what}"),
            Self::Wrong(what, advice) => write!(f, "WRONG  {what} -> {advice}"),
        }
    }
}

/// Who we are in a handshake of the doctor's.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The name we are reached by.
    pub name: String,
    /// The installation.
    pub instance: [u8; 16],
}

/// What a running agent says of itself. Proxies that it is not connected to are tried up to TLS and
/// no further: a handshake could take the name from its own.
pub async fn of_running(report: &Report, proxies: &[Proxy], dial: dial::Timings) -> Vec<Finding> {
    let mut findings = vec![Finding::Note(format!("the agent runs as {}", user()))];
    findings.extend(report.shares.iter().flat_map(of_share));
    for seen in &report.proxies {
        match seen.stage {
            Stage::Connected => {
                let since = Span(seen.since.elapsed());
                findings.push(Finding::Good(format!("{} is connected for {since}", seen.address)));
                findings.extend(seen.clock_off.map(of_clock));
            }
            _ => match proxies.iter().find(|proxy| proxy.address == seen.address) {
                Some(proxy) => findings.push(of_absent(seen, proxy, dial).await),
                None => findings.push(Finding::Note(format!("{} is away", seen.address))),
            },
        }
    }
    findings.push(of_speed(report));
    findings
}

/// What can be said of one proxy while no agent runs. It registers the token that it shows once
/// more, which proves the token, takes nobody's tunnel and leaves all as it was.
pub async fn of_proxy(proxy: &Proxy, me: &Identity, dial: dial::Timings) -> Vec<Finding> {
    let Some(mut dialer) = dialer(proxy, dial) else { return Vec::new() };
    let address = &proxy.address;
    let Some(token) = proxy.token.as_ref().filter(|_| proxy.trust.is_verified()) else {
        return match dialer.knock().await {
            Ok(peer) => vec![
                Finding::Good(format!("{address} answers, at {peer}")),
                Finding::Note(format!("{address} is given no token: it decides by itself")),
            ],
            Err(error) => vec![of_error(&error, proxy)],
        };
    };
    match dialer.dial(&|| put(proxy, me, token)).await {
        Ok(link) => {
            let good = format!("{address} answers and takes our token, at {}", link.peer);
            let clock = link.clock_off().map(of_clock);
            std::iter::once(Finding::Good(good)).chain(clock).collect()
        }
        Err(error) => vec![of_error(&error, proxy)],
    }
}

/// What can be said of a configuration while no agent runs with it. Blocks for its files.
pub async fn of_file(file: &File, dial: dial::Timings) -> Vec<Finding> {
    let none = config::Options::default();
    let wrong = |problem: &dyn fmt::Display| {
        Finding::Wrong(problem.to_string(), "correct the configuration".to_owned())
    };
    let mut findings = Vec::new();
    if file.options.root.is_none() && file.options.shares.is_empty() {
        let note = "the configuration names no folder: what the command line serves is not known";
        findings.push(Finding::Note(note.to_owned()));
    } else {
        match config::shares(&none, &file.options, true) {
            Ok(shares) => {
                findings.extend(shares.iter().flat_map(|share| of_share(&examine_share(share))));
            }
            Err(error) => findings.push(wrong(&error)),
        }
    }
    let me = config::name(&none, file).and_then(|name| {
        let instance = file.instance.map_or_else(config::new_instance, Ok)?;
        Ok(Identity { name, instance })
    });
    match (me, config::proxies(&none, file)) {
        (Ok(me), Ok(proxies)) => {
            for (proxy, _) in proxies {
                findings.extend(of_proxy(&proxy, &me, dial).await);
            }
        }
        (Err(error), _) | (_, Err(error)) => findings.push(wrong(&error)),
    }
    findings
}

/// What is wrong with the token files of a configuration. Blocks.
#[must_use]
pub fn of_token_files(file: &File) -> Vec<Finding> {
    file.token_files().filter_map(of_token_file).collect()
}

/// What is wrong with a share, or that nothing is.
#[must_use]
pub fn of_share(share: &ShareReport) -> Vec<Finding> {
    let at = format!("share {} in {}", share.path, Quoted(&share.folder.to_string_lossy()));
    if let Some(problem) = &share.problem {
        let advice = format!(
            "mount the disk, correct the path, or let {} read the folder; no restart is needed",
            user()
        );
        return vec![Finding::Wrong(format!("{at} cannot be read: {problem}"), advice)];
    }
    if let Some(problem) = &share.read_only {
        let advice = format!("let {} write there, or serve it without writing", user());
        return vec![Finding::Wrong(format!("{at} cannot be written: {problem}"), advice)];
    }
    match (share.free, share.size) {
        (Some(free), Some(size)) if share.writable && free < size / 100 => {
            let full = format!("{at} is full: {} of {} free", Size(free), Size(size));
            vec![Finding::Wrong(full, "make room".to_owned())]
        }
        _ => vec![Finding::Good(format!("{at} can be used"))],
    }
}

/// The user that this process runs as.
#[must_use]
pub fn user() -> String {
    let id = rustix::process::geteuid().as_raw();
    let users = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let name = users.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(id)).then(|| name.to_owned())
    });
    name.map_or_else(|| format!("user {id}"), |name| format!("user {}", Quoted(&name)))
}

/// Why a proxy is away: what the agent saw last, or what is found now.
async fn of_absent(seen: &ProxyReport, proxy: &Proxy, dial: dial::Timings) -> Finding {
    let knocked = match dialer(proxy, dial) {
        Some(mut dialer) => dialer.knock().await,
        None => return Finding::Note(format!("{} is away", seen.address)),
    };
    knocked.map_or_else(|error| of_error(&error, proxy), |_| of_answering(seen))
}

/// Why a proxy is away that can be reached.
fn of_answering(seen: &ProxyReport) -> Finding {
    let Some((cause, reason, at)) = &seen.error else {
        return Finding::Note(format!("{} can be reached; wait a moment", seen.address));
    };
    let (address, ago) = (&seen.address, Span(at.elapsed()));
    if *cause == GOAWAY {
        // Nothing is wrong: the agent was told when to come back.
        let waits = "the agent comes back in the time that it was given";
        return Finding::Note(format!("{address} can be reached; {ago} ago {reason}, {waits}"));
    }
    let reason_quoted = Quoted(reason);
    Finding::Wrong(
        format!("{address} can be reached, but its last answer was, {ago} ago: {reason_quoted}"),
        advice_for_refusal(reason).to_owned(),
    )
}

/// A dial that failed, in words.
fn of_error(error: &DialError, proxy: &Proxy) -> Finding {
    let (address, host) = (&proxy.address, proxy.address.host());
    let port = proxy.address.port();
    let (what, advice) = match error {
        DialError::Resolve(_) | DialError::Late(Phase::Resolve) => (
            format!("the name {host} cannot be resolved: {error}"),
            "check its spelling, and the DNS server of this machine (/etc/resolv.conf)".to_owned(),
        ),
        DialError::Connect(error) if error.kind() == io::ErrorKind::ConnectionRefused => (
            format!("{address} refuses connections: nothing listens there"),
            format!("start spdy-proxy there, with --tunnel-listen [::]:{port}"),
        ),
        DialError::Late(Phase::Connect | Phase::Whole) => (
            format!("{address} does not answer: TCP port {port} is blocked on the way"),
            "open that port in the server's firewall and its provider's, and outwards in ours"
                .to_owned(),
        ),
        DialError::Connect(error) => (
            format!("{address} cannot be reached: {error}"),
            "check cable, address and gateway of this machine".to_owned(),
        ),
        DialError::Late(_) | DialError::Transport(_) => (
            format!("{address} takes the connection and no more: {error}"),
            "see that this is the tunnel port, that nothing on the way looks into TLS, and how \
             busy the server is"
                .to_owned(),
        ),
        DialError::Tls(error) => of_trust(error, proxy),
        DialError::Clock => (
            format!("the clock of this machine is not set: no certificate of {address} is valid"),
            "set it (NTP), or use --pin, which needs no clock".to_owned(),
        ),
        DialError::Handshake(_) => {
            (format!("{address} speaks TLS and is no spdy-proxy"), TUNNEL_PORT.to_owned())
        }
        DialError::Forbidden => (error.to_string(), "none: it is not dialled".to_owned()),
        DialError::Refused { .. } => {
            let reason = error.to_string();
            let advice = advice_for_refusal(&reason).to_owned();
            (format!("{address}: {reason}"), advice)
        }
    };
    Finding::Wrong(what, advice)
}

fn of_trust(error: &async_rustls::rustls::Error, proxy: &Proxy) -> (String, String) {
    let address = &proxy.address;
    match (&proxy.trust, error) {
        (Trust::Pins(pins), async_rustls::rustls::Error::General(reason)) => {
            let pins: Vec<_> = pins.iter().map(ToString::to_string).collect();
            (
                format!("{address} is not who it was: {reason}; configured: {}", pins.join(", ")),
                "if you changed the key of the server, pair and join again; if not, somebody \
                 stands between"
                    .to_owned(),
            )
        }
        (_, async_rustls::rustls::Error::InvalidMessage(_)) => {
            (format!("{address} does not speak TLS"), TUNNEL_PORT.to_owned())
        }
        _ => (
            format!("{address}: TLS failed: {error}"),
            "compare the certificate of the server with --ca, and its name with --proxy".to_owned(),
        ),
    }
}

fn advice_for_refusal(reason: &str) -> &'static str {
    let with = |status: &str| reason.contains(&format!("refused with {status}"));
    if with("401") || with("403") {
        "on the server: spdy-proxy pair NAME; here: spdy-agent join"
    } else if with("409") {
        "another machine serves under this name or with a copy of this configuration: stop it, or \
         pair this one under a name of its own"
    } else if with("426") {
        "bring both programs to about the same version"
    } else if with("429") || with("503") {
        "the server has no room at the moment; the agent tries again by itself"
    } else {
        "look into the log of the server"
    }
}

fn of_clock(off: i64) -> Finding {
    let by = Span(Duration::from_secs(off.unsigned_abs()));
    let way = if off > 0 { "behind" } else { "ahead of" };
    if off.unsigned_abs() < CLOCK_OFF {
        return Finding::Good("the clock agrees with that of the proxy".to_owned());
    }
    Finding::Wrong(
        format!("the clock of this machine is {by} {way} that of the proxy"),
        "set it (NTP); dates of files are told wrong meanwhile".to_owned(),
    )
}

/// Which leg of the way limits the speed.
fn of_speed(report: &Report) -> Finding {
    let sum = |of: fn(&ProxyReport) -> Duration| report.proxies.iter().map(of).sum::<Duration>();
    let legs = [
        ("the line to the proxy (uplink)", sum(|proxy| proxy.counters.waited_output)),
        ("the distance to the proxy (window)", sum(|proxy| proxy.counters.waited_window)),
        ("the viewers", sum(|proxy| proxy.counters.waited_reader)),
        ("the disks", report.disk_wait),
    ];
    let all: Duration = legs.iter().map(|leg| leg.1).sum();
    if all < SPEED_MIN {
        return Finding::Note("nothing has held up an answer for long yet".to_owned());
    }
    let share = |part: Duration| part.as_millis() * 100 / all.as_millis().max(1);
    let most = legs.iter().max_by_key(|leg| leg.1).map_or("", |leg| leg.0);
    let parts: Vec<_> =
        legs.iter().map(|(name, part)| format!("{} % {name}", share(*part))).collect();
    Finding::Note(format!("{most} limits the speed: answers waited for {}", parts.join(", ")))
}

fn of_token_file(path: &Path) -> Option<Finding> {
    let at = format!("token file {}", Quoted(&path.to_string_lossy()));
    let again = "on the server: spdy-proxy pair NAME; here: spdy-agent join".to_owned();
    Some(match fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Finding::Wrong(format!("{at} is missing"), again)
        }
        Err(error) => Finding::Wrong(format!("{at}: {error}"), readable_by(path)),
        Ok(meta) if meta.permissions().mode() & 0o077 != 0 => Finding::Wrong(
            format!("{at} can be read by others (mode {:o})", meta.permissions().mode() & 0o777),
            format!("chmod 600 {}", Quoted(&path.to_string_lossy())),
        ),
        Ok(_) => match fs::read_to_string(path) {
            Err(error) => Finding::Wrong(format!("{at}: {error}"), readable_by(path)),
            Ok(text) if Token::parse(&text).is_none() => {
                Finding::Wrong(format!("{at} holds no token"), again)
            }
            Ok(_) => Finding::Good(format!("{at} is private and readable")),
        },
    })
}

fn readable_by(path: &Path) -> String {
    format!("let {} read {}", user(), Quoted(&path.to_string_lossy()))
}

fn dialer(proxy: &Proxy, timings: dial::Timings) -> Option<Dialer> {
    // What cannot be used was refused where the settings were made.
    let tls = Arc::new(proxy.client_config().ok()?);
    Some(Dialer::new(proxy.address.clone(), tls, timings, Resolver::system()))
}

fn put(proxy: &Proxy, me: &Identity, token: &Token) -> Put {
    Put {
        host: proxy.address.to_string(),
        credentials: Credentials::Bearer(token.secret().to_owned()),
        hello: Some(Hello {
            origin: me.name.clone(),
            instance: me.instance,
            run: [0; 8],
            epoch: 0,
            can: Features::default(),
            software: SOFTWARE.to_owned(),
            register: Some(sha256(token.secret().as_bytes())),
        }),
    }
}

/// The word of a proxy that said goodbye.
const GOAWAY: &str = Cause::Goaway { spread: Duration::ZERO }.word();
/// What to do about somebody else who answers.
const TUNNEL_PORT: &str =
    "see that this is the tunnel port (1444 unless changed), not the one for visitors";
/// Seconds that a clock may be off.
const CLOCK_OFF: u64 = 30;
/// Time that answers must have waited before anything is said of it.
const SPEED_MIN: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use async_rustls::rustls;
    use spdy_protocol::{handshake::HandshakeError, session::Counters};

    use super::*;
    use crate::{dial::Address, verify::Pin};

    fn proxy() -> Proxy {
        Proxy {
            address: Address::parse("proxy.example.com:1444").unwrap(),
            trust: Trust::Pins(vec![Pin([1; 32])]),
            token: None,
            card: None,
        }
    }

    #[test]
    fn every_way_to_fail_has_words_of_its_own_and_advice() {
        let io = |kind: io::ErrorKind| io::Error::from(kind);
        let refused = |status| DialError::Refused {
            status,
            reason: "because of this".to_owned(),
            retry_after: None,
        };
        let other_pin = format!("the key of the proxy, which is {}", Pin([2; 32]));
        let mut said = Vec::new();
        for (error, parts) in [
            (DialError::Resolve(io(io::ErrorKind::NotFound)), &["proxy.example.com", "DNS"][..]),
            (DialError::Late(Phase::Resolve), &["cannot be resolved", "name resolution"]),
            (
                DialError::Connect(io(io::ErrorKind::ConnectionRefused)),
                &["refuses", "nothing listens", "--tunnel-listen [::]:1444"],
            ),
            (DialError::Late(Phase::Connect), &["blocked", "firewall"]),
            (DialError::Connect(io(io::ErrorKind::NetworkUnreachable)), &["gateway"]),
            (DialError::Late(Phase::Tls), &["no more", "TLS"]),
            (DialError::Transport(io(io::ErrorKind::UnexpectedEof)), &["tunnel port"]),
            (
                DialError::Tls(rustls::Error::General(other_pin)),
                &[&"01".repeat(32), &"02".repeat(32), "stands between"],
            ),
            (
                DialError::Tls(rustls::Error::InvalidMessage(
                    rustls::InvalidMessage::InvalidContentType,
                )),
                &["does not speak TLS", "visitors"],
            ),
            (DialError::Clock, &["clock", "NTP"]),
            (DialError::Handshake(HandshakeError::Malformed), &["no spdy-proxy"]),
            (refused(401), &["because of this", "spdy-agent join"]),
            (refused(409), &["because of this", "another machine"]),
            (refused(426), &["because of this", "version"]),
            (refused(503), &["because of this", "no room"]),
            (refused(500), &["because of this", "log of the server"]),
        ] {
            let line = of_error(&error, &proxy()).to_string();
            assert!(line.starts_with("WRONG  ") && line.contains(" -> "), "{line}");
            assert!(!line.contains('\n'), "{line}");
            for part in parts {
                assert!(line.contains(part), "no {part:?} in {line}");
            }
            assert!(!said.contains(&line), "{line}");
            said.push(line);
        }
    }

    #[test]
    fn clock_is_told_by_how_much_and_which_way() {
        assert!(!of_clock(0).is_wrong() && !of_clock(-29).is_wrong());
        assert!(of_clock(7_260).to_string().contains("2 h 1 min behind that"));
        assert!(of_clock(-90_000).to_string().contains("1 d 1 h ahead of that"));
    }

    fn seen() -> ProxyReport {
        ProxyReport {
            address: proxy().address,
            is_peer: false,
            stage: Stage::Connected,
            since: std::time::Instant::now(),
            peer: None,
            pin: None,
            id: String::new(),
            error: None,
            epoch: 1,
            tunnels: 1,
            counters: Counters::default(),
            octets: (0, 0),
            clock_off: None,
        }
    }

    #[test]
    fn goodbye_is_nothing_wrong_and_a_refusal_is() {
        let after = |cause, reason: &str| {
            let error = Some((cause, reason.to_owned(), std::time::Instant::now()));
            of_answering(&ProxyReport { error, ..seen() })
        };
        assert!(!of_answering(&seen()).is_wrong());
        assert!(!after("goaway", "the proxy said goodbye").is_wrong());
        let refused = after("refused", "refused with 401: unknown").to_string();
        assert!(refused.starts_with("WRONG") && refused.contains("spdy-agent join"), "{refused}");
    }

    #[test]
    fn slowest_leg_is_named_once_there_is_something_to_say() {
        let report = |window, reader, output, disk| {
            let seconds = Duration::from_secs;
            let counters = Counters {
                waited_window: seconds(window),
                waited_reader: seconds(reader),
                waited_output: seconds(output),
                ..Counters::default()
            };
            let proxy = ProxyReport { counters, ..seen() };
            let started = std::time::SystemTime::now();
            let (name, disk_wait) = ("nas1".to_owned(), seconds(disk));
            of_speed(&Report { name, started, proxies: vec![proxy], shares: Vec::new(), disk_wait })
                .to_string()
        };
        assert!(report(0, 0, 0, 0).contains("nothing"));
        for (line, leg, percent) in [
            (report(6, 1, 2, 1), "the distance", "60 %"),
            (report(1, 7, 1, 1), "the viewers", "70 %"),
            (report(0, 1, 3, 0), "the line", "75 %"),
            (report(0, 0, 1, 99), "the disks", "99 %"),
        ] {
            assert!(line.starts_with(&format!("note   {leg}")) && line.contains(percent), "{line}");
        }
    }

    #[test]
    fn shares_are_told_with_who_cannot_use_them() {
        let share = ShareReport {
            path: "/films/".to_owned(),
            folder: PathBuf::from("/mnt/films"),
            problem: None,
            writable: true,
            read_only: None,
            free: Some(0),
            size: Some(1_000_000),
        };
        let told = |share| of_share(&share)[0].to_string();
        assert!(told(share.clone()).contains("is full"));
        let missing = ShareReport { problem: Some("gone".to_owned()), ..share.clone() };
        assert!(told(missing).contains(&user()));
        let read_only = ShareReport { read_only: Some("denied".to_owned()), ..share.clone() };
        assert!(told(read_only).contains("cannot be written: denied"));
        let good = ShareReport { free: Some(900_000), ..share };
        assert!(told(good).starts_with("ok     share /films/ in /mnt/films"));
    }
}
