//! Log lines: `time level key=value ...`, to stderr or syslog.
//!
//! It owns where lines go and that writing one never blocks: what cannot be written at once is
//! dropped and counted. How stderr is written without waiting is `stderr`'s work; what is said, and
//! that it holds no secret, is the caller's.

mod stderr;

use std::{
    fmt::{self, Write as _},
    io,
    os::unix::net::UnixDatagram,
    path::Path,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU8, AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use syslog::{Facility, LogFormat, Logger, LoggerBackend, Severity};

use crate::civil::Civil;
use stderr::Stderr;

/// How important a line is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Somebody must act.
    Error,
    /// Something is not as it should be.
    Warn,
    /// Changes of state. The default.
    Info,
    /// One line per request.
    Debug,
}

impl Level {
    /// Reads `error`, `warn`, `info` or `debug`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Error, Self::Warn, Self::Info, Self::Debug]
            .into_iter()
            .find(|level| level.as_str() == text)
    }

    /// The word in the log.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
        }
    }
}

/// Where lines go. Clones share one sink.
#[derive(Clone)]
pub struct Log {
    inner: Arc<Inner>,
}

impl Log {
    /// Lines to stderr.
    #[must_use]
    pub fn stderr(level: Level) -> Self {
        Self::new(level, Sink::Stderr(Stderr::new()))
    }

    /// Lines to whatever `writer` is; for programs that embed the agent, and tests.
    #[must_use]
    pub fn writer(level: Level, writer: Box<dyn io::Write + Send>) -> Self {
        Self::new(level, Sink::Writer(writer))
    }

    /// No lines.
    #[must_use]
    pub fn discard() -> Self {
        Self::new(Level::Error, Sink::Writer(Box::new(io::sink())))
    }

    /// What suits the place: stderr on a terminal, under systemd's journal or when `verbose`;
    /// else the syslog socket if there is one; else stderr.
    #[must_use]
    pub fn detect(level: Level, verbose: bool) -> Self {
        let journal = std::env::var_os("JOURNAL_STREAM").is_some();
        if verbose || journal || rustix::termios::isatty(io::stderr()) {
            return Self::stderr(level);
        }
        Syslog::open(Path::new(SYSLOG))
            .map_or_else(|_| Self::stderr(level), |syslog| Self::new(level, Sink::Syslog(syslog)))
    }

    /// Writes an error line.
    pub fn error(&self, line: fmt::Arguments<'_>) {
        self.write(Level::Error, line);
    }

    /// Writes a warning.
    pub fn warn(&self, line: fmt::Arguments<'_>) {
        self.write(Level::Warn, line);
    }

    /// Writes a line about a change of state.
    pub fn info(&self, line: fmt::Arguments<'_>) {
        self.write(Level::Info, line);
    }

    /// Writes a line for who looks for a fault.
    pub fn debug(&self, line: fmt::Arguments<'_>) {
        self.write(Level::Debug, line);
    }

    /// Whether lines of this level are written: to save the work of making one.
    #[must_use]
    pub fn is_on(&self, level: Level) -> bool {
        level as u8 <= self.inner.level.load(Ordering::Relaxed)
    }

    /// The least important level that is written.
    #[must_use]
    pub fn level(&self) -> Level {
        let level = self.inner.level.load(Ordering::Relaxed);
        let levels = [Level::Error, Level::Warn, Level::Info];
        levels.into_iter().find(|one| *one as u8 == level).unwrap_or(Level::Debug)
    }

    /// Writes lines of this level and above from now on, for all clones.
    pub fn set_level(&self, level: Level) {
        self.inner.level.store(level as u8, Ordering::Relaxed);
    }

    /// Lines that could not be written so far.
    #[must_use]
    pub fn dropped(&self) -> usize {
        self.inner.dropped.load(Ordering::Relaxed)
    }

    fn new(level: Level, sink: Sink) -> Self {
        let level = AtomicU8::new(level as u8);
        let inner = Inner { level, sink: Mutex::new(sink), dropped: AtomicUsize::new(0) };
        Self { inner: Arc::new(inner) }
    }

    fn write(&self, level: Level, line: fmt::Arguments<'_>) {
        if !self.is_on(level) {
            return;
        }
        let mut text = String::with_capacity(160);
        // Writing to a String cannot fail.
        let _ = write!(text, "{} {line}", level.as_str());
        let lost = self.dropped();
        if lost > 0 {
            let _ = write!(text, " dropped={lost}");
        }
        truncate(&mut text, LINE_MAX);
        let mut sink = self.inner.sink.lock().unwrap_or_else(PoisonError::into_inner);
        if sink.write(level, &text).is_err() {
            self.inner.dropped.fetch_add(1, Ordering::Relaxed);
        } else if lost > 0 {
            self.inner.dropped.fetch_sub(lost, Ordering::Relaxed);
        }
    }
}

/// Says why the program ends, on stderr; gives up when that is not taken within a second.
pub fn last_line(line: &str) {
    let (mut stderr, end) = (Stderr::new(), Instant::now() + LAST_LINE);
    while stderr.write_line(format!("{line}\n").into_bytes()).is_err_and(is_full) {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return;
        }
        thread::sleep(left.min(PAUSE));
    }
    while stderr.flush().is_err_and(is_full) && Instant::now() < end {
        thread::sleep(PAUSE);
    }
}

fn is_full(error: io::Error) -> bool {
    error.kind() == io::ErrorKind::WouldBlock
}

impl fmt::Debug for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Log").field("level", &self.level()).finish_non_exhaustive()
    }
}

/// A value from outside, as one word of the log: quoted where it is not plain, what is neither a
/// letter nor ASCII escaped, cut after `VALUE_MAX` characters.
#[derive(Clone, Copy, Debug)]
pub struct Quoted<'a>(pub &'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plain = |c: char| c.is_ascii_graphic() && !matches!(c, '"' | '\\' | '=');
        if !self.0.is_empty() && self.0.len() <= VALUE_MAX && self.0.chars().all(plain) {
            return f.write_str(self.0);
        }
        f.write_char('"')?;
        for c in self.0.chars().take(VALUE_MAX) {
            match c {
                '"' | '\\' => write!(f, "\\{c}")?,
                ' '..='~' => f.write_char(c)?,
                // Letters of all scripts, which are names of people's folders.
                _ if c.is_alphanumeric() => f.write_char(c)?,
                _ => write!(f, "{}", c.escape_unicode())?,
            }
        }
        if self.0.chars().nth(VALUE_MAX).is_some() {
            f.write_str("...")?;
        }
        f.write_char('"')
    }
}

struct Inner {
    level: AtomicU8,
    sink: Mutex<Sink>,
    dropped: AtomicUsize,
}

enum Sink {
    Stderr(Stderr),
    Syslog(Syslog),
    Writer(Box<dyn io::Write + Send>),
}

impl Sink {
    fn write(&mut self, level: Level, text: &str) -> io::Result<()> {
        match self {
            Self::Stderr(stderr) => stderr.write_line(stamped(text).into_bytes()),
            Self::Syslog(syslog) => syslog.write(level, text),
            Self::Writer(writer) => writer.write_all(stamped(text).as_bytes()),
        }
    }
}

/// The system's log socket; opened again when the daemon behind it was restarted.
struct Syslog {
    logger: Logger<LoggerBackend, Format>,
    path: Box<Path>,
}

impl Syslog {
    fn open(path: &Path) -> io::Result<Self> {
        let backend = LoggerBackend::Unix(connect(path)?);
        Ok(Self { logger: Logger::new(backend, Format), path: path.into() })
    }

    fn write(&mut self, level: Level, text: &str) -> io::Result<()> {
        let Err(error) = self.send(level, text) else { return Ok(()) };
        if error == io::ErrorKind::WouldBlock {
            return Err(error.into());
        }
        self.logger.backend = LoggerBackend::Unix(connect(&self.path)?);
        self.send(level, text).map_err(io::Error::from)
    }

    fn send(&mut self, level: Level, text: &str) -> Result<(), io::ErrorKind> {
        let sent = match level {
            Level::Error => self.logger.err(text),
            Level::Warn => self.logger.warning(text),
            Level::Info => self.logger.info(text),
            Level::Debug => self.logger.debug(text),
        };
        sent.map_err(|error| match error {
            syslog::Error::Write(error) | syslog::Error::Io(error) => error.kind(),
            _ => io::ErrorKind::Other,
        })
    }
}

/// `<priority>tag[pid]: text`. The crate's own formatters need the local time zone and panic where
/// it cannot be had, which is always once a second thread runs; the daemon adds the time itself.
struct Format;

impl LogFormat<&str> for Format {
    fn format<W: io::Write>(
        &self,
        out: &mut W,
        severity: Severity,
        message: &str,
    ) -> syslog::Result<()> {
        let priority = Facility::LOG_DAEMON as i32 | severity as i32;
        write!(out, "<{priority}>spdy-agent[{}]: {message}", std::process::id())
            .map_err(syslog::Error::Write)
    }
}

fn connect(path: &Path) -> io::Result<UnixDatagram> {
    let socket = UnixDatagram::unbound()?;
    socket.connect(path)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

fn stamped(text: &str) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let seconds = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
    let Some(at) = Civil::from_unix(seconds) else { return format!("{text}\n") };
    format!(
        "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:03}Z {text}\n",
        at.year,
        at.month,
        at.day,
        at.hour,
        at.minute,
        at.second,
        now.subsec_millis()
    )
}

fn truncate(text: &mut String, max: usize) {
    if text.len() > max {
        let end = (0..=max).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
        text.truncate(end);
    }
}

const SYSLOG: &str = "/dev/log";
/// Time for stderr to take the line that says why the program ends.
const LAST_LINE: Duration = Duration::from_secs(1);
const PAUSE: Duration = Duration::from_millis(20);
/// Longest line, in octets: below the 4,096 that a pipe which is ready always takes.
const LINE_MAX: usize = 4_000;
/// Longest value of a peer, in characters.
const VALUE_MAX: usize = 200;

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Default)]
    struct Shared(Arc<Mutex<Vec<u8>>>, Arc<Mutex<bool>>);

    impl io::Write for Shared {
        fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
            if *self.1.lock().unwrap() {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            self.0.lock().unwrap().extend_from_slice(octets);
            Ok(octets.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Shared {
        fn text(&self) -> String {
            String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
        }
    }

    #[test]
    fn lines_below_the_level_are_not_written() {
        let out = Shared::default();
        let log = Log::writer(Level::Info, Box::new(out.clone()));
        log.debug(format_args!("event=no"));
        log.info(format_args!("event=yes"));
        assert!(out.text().ends_with("Z info event=yes\n"), "{}", out.text());
        assert_eq!(out.text().lines().count(), 1);
    }

    #[test]
    fn level_can_be_changed_for_all_clones() {
        let out = Shared::default();
        let log = Log::writer(Level::Error, Box::new(out.clone()));
        for level in [Level::Debug, Level::Info, Level::Warn, Level::Error] {
            log.clone().set_level(level);
            assert_eq!(log.level(), level);
        }
        log.warn(format_args!("event=no"));
        log.set_level(Level::Warn);
        log.warn(format_args!("event=yes"));
        assert_eq!(out.text().lines().count(), 1);
    }

    #[test]
    fn dropped_lines_are_counted_and_told() {
        let out = Shared::default();
        let log = Log::writer(Level::Info, Box::new(out.clone()));
        *out.1.lock().unwrap() = true;
        log.info(format_args!("event=a"));
        log.info(format_args!("event=b"));
        assert_eq!(log.dropped(), 2);
        *out.1.lock().unwrap() = false;
        log.info(format_args!("event=c"));
        assert!(out.text().ends_with("event=c dropped=2\n"));
        assert_eq!(log.dropped(), 0);
    }

    #[test]
    fn values_from_outside_stay_one_word() {
        assert_eq!(Quoted("plain-1.2").to_string(), "plain-1.2");
        assert_eq!(Quoted("").to_string(), "\"\"");
        assert_eq!(Quoted("a b\"\n\u{1b}").to_string(), "\"a b\\\"\\u{a}\\u{1b}\"");
        assert_eq!(Quoted("K\u{f6}ln\u{202e}").to_string(), "\"K\u{f6}ln\\u{202e}\"");
        assert_eq!(Quoted(&"x".repeat(500)).to_string().len(), VALUE_MAX + 5);
    }

    #[test]
    fn syslog_is_opened_again_and_never_blocks() {
        let folder = std::env::temp_dir().join(format!("spdy-agent-log-{}", std::process::id()));
        let _ = std::fs::create_dir(&folder);
        let path = folder.join("log");
        let daemon = UnixDatagram::bind(&path).unwrap();
        let log = Log::new(Level::Info, Sink::Syslog(Syslog::open(&path).unwrap()));
        log.warn(format_args!("event=first"));
        let mut buf = [0; 256];
        let len = daemon.recv(&mut buf).unwrap();
        let line = str::from_utf8(&buf[..len]).unwrap();
        assert!(line.starts_with("<28>spdy-agent["), "{line}");
        assert!(line.ends_with("]: warn event=first"), "{line}");

        drop(daemon);
        std::fs::remove_file(&path).unwrap();
        log.info(format_args!("event=lost"));
        assert_eq!(log.dropped(), 1);
        let daemon = UnixDatagram::bind(&path).unwrap();
        log.info(format_args!("event=again"));
        let len = daemon.recv(&mut buf).unwrap();
        assert!(str::from_utf8(&buf[..len]).unwrap().ends_with("event=again dropped=1"));

        for _ in 0..10_000 {
            log.info(format_args!("event=flood"));
        }
        assert!(log.dropped() > 0);
        drop(daemon);
        let _ = std::fs::remove_dir_all(&folder);
    }
}
