//! What the operator sees: the `/debug` page and the control socket.
//!
//! It owns the texts and who may read them. It does not own the counters ([`crate::registry`]).

use std::{
    fmt::Write as _,
    fs, io,
    os::unix::{fs::PermissionsExt, net::UnixListener, net::UnixStream},
    rc::Rc,
    sync::{Arc, atomic::Ordering::Relaxed},
    thread,
    time::{Duration, SystemTime},
};

use async_io::{Async, Timer};
use blocking::unblock;
use futures_lite::{AsyncReadExt, AsyncWriteExt, future};
use http::{HeaderValue, Request, Response, header};

use crate::{
    access::Access,
    log::{Escaped, Utc},
    registry::{ANONYMOUS, Totals, Upstream},
    relay::{Body, Visit},
    state::{ControlFolder, OriginState, State},
    stop::Phase,
    upstream,
    worker::{Shared, Worker},
};

/// The page, if `request` asks for it and the settings let everybody see it. Else `/debug` is a path
/// like any other and goes to the origin; the operator asks by the control socket.
pub(crate) fn answer<B>(visit: &Rc<Visit>, request: &Request<B>) -> Option<Response<Body>> {
    if request.uri().path() != "/debug" || !visit.shared().settings.debug {
        return None;
    }
    let mut response = Response::new(Body::text(page(visit.shared()), visit));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Some(response)
}

/// All that is counted, as text.
fn page(shared: &Shared) -> String {
    let mut page = String::new();
    // Writing to a String cannot fail.
    let _ = write_page(&mut page, shared);
    page
}

fn write_page(page: &mut String, shared: &Shared) -> std::fmt::Result {
    let now = SystemTime::now();
    let uptime = now.duration_since(shared.since).unwrap_or_default().as_secs();
    let (memory, threads) = process();
    let upstreams = shared.registry.upstreams();
    let streams: usize =
        upstreams.iter().map(|upstream| upstream.tunnel.counters().streams_now).sum();
    writeln!(page, "spdy-proxy {}", env!("CARGO_PKG_VERSION"))?;
    writeln!(page, "since {}", Utc(shared.since))?;
    writeln!(page, "uptime_seconds {uptime}")?;
    writeln!(page, "threads {threads}")?;
    let handshakes = shared.handshakes.census();
    let strangers = handshakes.inside + handshakes.waiting;
    let tasks = shared.connections.held() + shared.tunnels.held() + strangers;
    writeln!(page, "tasks {tasks}")?;
    writeln!(page, "memory_bytes {memory}")?;
    writeln!(page, "budget_bytes {}", shared.budget.used())?;
    writeln!(page, "connections_now {}", shared.connections.held())?;
    let visitors = shared.visitors.census();
    writeln!(page, "connections_silent {}", visitors.inside + visitors.waiting)?;
    writeln!(page, "connections_expelled {}", visitors.expelled)?;
    writeln!(page, "connections_accepted {}", shared.accepted.load(Relaxed))?;
    writeln!(page, "tunnels_now {}", shared.tunnels.held())?;
    writeln!(page, "streams_now {streams}")?;
    writeln!(page, "handshakes_now {}", handshakes.inside)?;
    writeln!(page, "handshakes_waiting {}", handshakes.waiting)?;
    writeln!(page, "handshakes_expelled {}", handshakes.expelled)?;
    writeln!(page, "requests_held_now {}", shared.held_requests.held())?;
    writeln!(page, "responses_held_now {}", shared.held_responses.held())?;
    writeln!(page, "replay_bytes {}", shared.replay.used())?;
    writeln!(page, "responses_spliced {}", shared.spliced.load(Relaxed))?;
    writeln!(page, "handshakes_refused {}", shared.registry.totals.refused())?;
    writeln!(page, "passwords_checked {}", shared.guard.checked())?;
    writeln!(page, "passwords_wrong {}", shared.guard.wrong())?;
    write_totals(page, "requests_", &shared.registry.totals, '\n')?;
    for upstream in upstreams {
        write!(page, "tunnel {} origin={} ", upstream.id, upstream.origin)?;
        write_upstream(page, &upstream)?;
        write_totals(page, "requests_", &upstream.totals, ' ')?;
        page.push('\n');
    }
    for (name, since) in shared.registry.away() {
        write!(page, "away origin={name}")?;
        match since {
            Some(since) => writeln!(page, " since={}", Utc(since))?,
            None => page.push('\n'),
        }
    }
    Ok(())
}

fn write_upstream(text: &mut String, upstream: &Upstream) -> std::fmt::Result {
    let counters = upstream.tunnel.counters();
    write!(
        text,
        "peer={} software={} profile={:?} since={} ",
        upstream.peer,
        Escaped(&upstream.software),
        upstream.tunnel.profile(),
        Utc(upstream.since),
    )?;
    if let Some(round_trip) = counters.round_trip {
        write!(text, "round_trip_us={} ", round_trip.as_micros())?;
    }
    write!(
        text,
        "streams_now={} streams_opened={} received_bytes={} sent_bytes={} \
         resets_received={} resets_sent={} stalled_cut={} waited_window_ms={} \
         waited_reader_ms={} waited_output_ms={} ",
        counters.streams_now,
        counters.streams_opened,
        counters.octets_received,
        counters.octets_sent,
        counters.resets_received,
        counters.resets_sent,
        counters.stalled_cut,
        counters.waited_window.as_millis(),
        counters.waited_reader.as_millis(),
        counters.waited_output.as_millis(),
    )
}

fn write_totals(
    text: &mut String,
    prefix: &str,
    totals: &Totals,
    between: char,
) -> std::fmt::Result {
    let equals = if between == '\n' { ' ' } else { '=' };
    for (class, count) in (1..).zip(totals.classes()) {
        write!(text, "{prefix}{class}xx{equals}{count}{between}")?;
    }
    write!(text, "{prefix}failed{equals}{}{between}", totals.failed())
}

/// Resident memory in octets and threads of this process; 0 where /proc does not say.
fn process() -> (u64, u64) {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let number = |key: &str| -> u64 {
        let line = status.lines().find_map(|line| line.strip_prefix(key)).unwrap_or_default();
        line.split_whitespace().next().and_then(|text| text.parse().ok()).unwrap_or(0)
    };
    (number("VmRSS:") * 1_024, number("Threads:"))
}

/// Answers on the control socket until the server is told to stop.
pub(crate) async fn control(worker: Rc<Worker>, listener: Async<UnixListener>) {
    let shared = Arc::clone(&worker.shared);
    let accepting = async {
        loop {
            match listener.accept().await {
                Ok((stream, _)) => {
                    let shared = Arc::clone(&shared);
                    worker.spawn(async move {
                        // Who asks and goes away has no answer: nothing to do about it.
                        let asked = async { converse(&shared, stream).await.is_ok() };
                        future::or(asked, async {
                            Timer::after(CONTROL_LIMIT).await;
                            false
                        })
                        .await;
                    });
                }
                Err(_) => {
                    Timer::after(CONTROL_PAUSE).await;
                }
            }
        }
    };
    future::or(accepting, shared.stop.reached(Phase::Draining)).await;
    if !shared.handed_over.load(Relaxed) {
        // A leftover would only cost the next `list` a failed connect.
        if let Ok(folder) = shared.state.control_folder() {
            let _ = fs::remove_file(folder.socket());
        }
    }
}

/// A control socket that nobody finds yet.
#[derive(Debug)]
pub(crate) struct Unpublished {
    listener: Async<UnixListener>,
    folder: ControlFolder,
}

/// Binds a control socket (mode 0600) beside the one that may be there.
///
/// # Errors
/// As the system says; `InvalidInput` where the folder is too deep for an address and there is no
/// /proc.
pub(crate) fn bind_control(state: &State) -> io::Result<Unpublished> {
    let folder = state.control_folder()?;
    let new = folder.new_socket();
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(&new)?;
    // The folder is 0700, so that nobody can come between these lines.
    fs::set_permissions(&new, fs::Permissions::from_mode(0o600))?;
    Ok(Unpublished { listener: Async::new(listener)?, folder })
}

impl Unpublished {
    /// Takes the place of the socket that is there: of one that nobody answers on, or of the process
    /// before.
    ///
    /// # Errors
    /// `AddrInUse` when another server answers there and `takes_over` is not set; others as the
    /// system says.
    pub(crate) fn publish(self, takes_over: bool) -> io::Result<Async<UnixListener>> {
        let (new, path) = (self.folder.new_socket(), self.folder.socket());
        if !takes_over && UnixStream::connect(&path).is_ok() {
            let _ = fs::remove_file(new);
            return Err(io::ErrorKind::AddrInUse.into());
        }
        fs::rename(new, path)?;
        Ok(self.listener)
    }
}

/// What came of asking the running server.
#[derive(Debug)]
pub enum Answer {
    /// What it said.
    Said(String),
    /// No server runs on this folder.
    NotRunning,
    /// One runs, and does not answer.
    Silent(io::Error),
}

/// Asks the running server, if there is one. Blocks, at most half a minute.
#[must_use]
pub fn ask(state: &State, command: Command) -> Answer {
    let mut tries = 0..ASKED_AGAIN;
    loop {
        let error = match ask_once(state, command) {
            Ok(answer) => return Answer::Said(answer),
            Err(error) => error,
        };
        match state.is_served() {
            // One from before it had a lock would have answered.
            Ok(false) => return Answer::NotRunning,
            Err(unknown) => return Answer::Silent(io::Error::other(unknown.to_string())),
            Ok(true) => {}
        }
        // While one process gives way to the next, nobody answers for a moment.
        let may_change =
            matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused);
        if !may_change || tries.next().is_none() {
            return Answer::Silent(error);
        }
        thread::sleep(CONTROL_PAUSE);
    }
}

fn ask_once(state: &State, command: Command) -> io::Result<String> {
    use io::{Read, Write};
    let folder = state.control_folder()?;
    let mut stream = UnixStream::connect(folder.socket())?;
    stream.set_read_timeout(Some(CONTROL_LIMIT))?;
    stream.set_write_timeout(Some(CONTROL_LIMIT))?;
    // The system calls it EAGAIN when the time of a socket is over.
    let late = |error: io::Error| match error.kind() {
        io::ErrorKind::WouldBlock => {
            let text = format!("no answer in {} seconds", CONTROL_LIMIT.as_secs());
            io::Error::new(io::ErrorKind::TimedOut, text)
        }
        _ => error,
    };
    stream.write_all(command.word().as_bytes()).map_err(late)?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).map_err(late)?;
    if answer.is_empty() && command != Command::List {
        // It gave up, or ended before it could answer.
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(answer)
}

/// What can be asked of a running server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// The origins and their tunnels.
    List,
    /// Reads again which origins are paired, and who may come in; the answer is [`RELOADED`].
    Reload,
    /// The `/debug` page.
    Debug,
}

impl Command {
    const ALL: [Self; 3] = [Self::List, Self::Reload, Self::Debug];

    const fn word(self) -> &'static str {
        match self {
            Self::List => "list\n",
            Self::Reload => "reload\n",
            Self::Debug => "debug\n",
        }
    }
}

async fn converse(shared: &Shared, mut stream: Async<UnixStream>) -> io::Result<()> {
    let mut word = Vec::new();
    let mut octets = [0; 16];
    let command = loop {
        let read = stream.read(&mut octets).await?;
        word.extend_from_slice(&octets[..read]);
        if let Some(command) = Command::ALL.into_iter().find(|c| c.word().as_bytes() == word) {
            break command;
        }
        if read == 0 || word.len() > octets.len() {
            return Ok(());
        }
    };
    let answer = match command {
        Command::Debug => page(shared),
        Command::Reload => {
            let is_read = upstream::refresh(shared).await;
            if is_read { RELOADED } else { "cannot read the state folder\n" }.to_owned()
        }
        Command::List => {
            let state = shared.state.clone();
            match unblock(move || state.origins()).await {
                Ok(origins) => listing(&origins, &shared.registry.upstreams()),
                Err(error) => format!("{error}\n"),
            }
        }
    };
    stream.write_all(answer.as_bytes()).await?;
    stream.close().await
}

/// One line per origin, by name.
#[must_use]
pub(crate) fn listing(origins: &[OriginState], upstreams: &[Arc<Upstream>]) -> String {
    let mut lines = Vec::new();
    for origin in origins {
        let mut line = origin.name.clone();
        let own = || upstreams.iter().filter(|upstream| upstream.origin == origin.name);
        let is_waiting = |upstream: &Upstream| upstream.is_standby.load(Relaxed);
        // One that drains is not there for anybody.
        let upstream = own().find(|upstream| upstream.tunnel.is_open() && !is_waiting(upstream));
        line.push_str(match (upstream.is_some(), origin.revoked.is_some(), origin.joined) {
            _ if origin.unreadable.is_some() => " unreadable",
            (true, ..) => " connected",
            (false, true, _) => " revoked",
            (false, false, true) => " away",
            (false, false, false) => " never-joined",
        });
        let _ = write!(line, " access={}", origin.access.name());
        if let Some(left) = origin.join_left {
            let _ = write!(line, " join_code_seconds={}", left.as_secs());
        }
        if let Some(revoked) = origin.revoked {
            let _ = write!(line, " revoked={}", Utc(revoked));
        }
        match (upstream, &origin.seen) {
            (Some(upstream), _) => {
                line.push(' ');
                let _ = write_upstream(&mut line, upstream);
            }
            (None, Some((seen, software))) => {
                let _ = write!(line, " seen={} software={}", Utc(*seen), Escaped(software));
            }
            (None, None) => {}
        }
        lines.push(line);
        for waiting in own().filter(|upstream| is_waiting(upstream)) {
            let mut line = format!("{} standby ", origin.name);
            let _ = write_upstream(&mut line, waiting);
            lines.push(line);
        }
    }
    for upstream in upstreams {
        if !origins.iter().any(|origin| origin.name == upstream.origin) {
            // The anonymous, and who was unpaired while its tunnel is up.
            let access = if upstream.origin == ANONYMOUS { Access::Open } else { Access::Locked };
            let mut line = format!("{} connected access={} ", upstream.origin, access.name());
            let _ = write_upstream(&mut line, upstream);
            lines.push(line);
        }
    }
    lines.sort();
    lines.iter().map(|line| format!("{}\n", line.trim_end())).collect()
}

/// Origins as the files alone tell, for when no server runs.
#[must_use]
pub fn listing_of_files(origins: &[OriginState]) -> String {
    listing(origins, &[])
}

/// What a server answers that has read again what was asked of it.
pub const RELOADED: &str = "ok\n";
/// Time for a question and its answer.
const CONTROL_LIMIT: Duration = Duration::from_secs(10);
const CONTROL_PAUSE: Duration = Duration::from_millis(100);
/// How often a server is asked again that runs and does not listen.
const ASKED_AGAIN: u32 = 50;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_are_listed_by_name_with_their_state() {
        let origin = |name: &str, joined, left| OriginState {
            name: name.to_owned(),
            joined,
            join_left: left,
            access: if joined { Access::Open } else { Access::Locked },
            revoked: None,
            unreadable: None,
            generation: 0,
            seen: None,
        };
        let hour = Some(Duration::from_secs(3_600));
        let mut seen = origin("c", true, None);
        seen.seen = Some((SystemTime::UNIX_EPOCH, "a/1".to_owned()));
        let mut revoked = origin("d", false, None);
        revoked.revoked = Some(SystemTime::UNIX_EPOCH);
        let all = [origin("b", true, None), origin("a", false, hour), seen, revoked];
        assert_eq!(
            listing_of_files(&all),
            "a never-joined access=locked join_code_seconds=3600\nb away access=open\n\
             c away access=open seen=1970-01-01T00:00:00Z software=\"a/1\"\n\
             d revoked access=locked revoked=1970-01-01T00:00:00Z\n"
        );
    }

    #[test]
    fn the_process_knows_its_memory_and_threads() {
        let (memory, threads) = process();
        assert!(memory > 100_000 && threads >= 1);
    }
}
