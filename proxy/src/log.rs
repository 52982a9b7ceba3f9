//! Lines for people: `2026-01-01T00:00:00Z info tunnel=up origin=nas1`, on stderr.
//!
//! It owns levels, time stamps, the escaping of text that peers chose, and that no line waits for its
//! reader (`queue`). It does not own what is logged: one line per tunnel up or down and per failed
//! exchange, by whoever owns those.

mod queue;

use std::{
    fmt::{self, Write as _},
    str::FromStr,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use queue::QUEUE;

/// How much a line matters, most first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// The program cannot do its job.
    Error,
    /// Somebody should look at it.
    Warn,
    /// Tunnels up and down, failed exchanges. The default.
    Info,
    /// Everything else, cancelled downloads too.
    Debug,
}

/// The name is none of the four levels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnknownLevel;

/// Where lines go. Cheap to clone.
#[derive(Clone, Copy, Debug)]
pub struct Log {
    level: Option<Level>,
}

/// Text of a peer, made harmless for a log or a terminal: quoted, control octets and non-ASCII
/// escaped, cut at [`ESCAPED_MAX`] characters.
#[derive(Clone, Copy, Debug)]
pub struct Escaped<'a>(pub &'a str);

/// A moment as `2026-01-01T00:00:00Z`.
#[derive(Clone, Copy, Debug)]
pub struct Utc(pub SystemTime);

impl Level {
    const fn name(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
        }
    }
}

impl FromStr for Level {
    type Err = UnknownLevel;

    fn from_str(name: &str) -> Result<Self, UnknownLevel> {
        [Self::Error, Self::Warn, Self::Info, Self::Debug]
            .into_iter()
            .find(|level| level.name() == name)
            .ok_or(UnknownLevel)
    }
}

impl Log {
    /// Lines of `level` and above go to stderr, each by one write, on a thread that all such logs of
    /// the process share; it starts with the first line.
    #[must_use]
    pub const fn stderr(level: Level) -> Self {
        Self { level: Some(level) }
    }

    /// No lines at all: for programs that embed the proxy, and for tests.
    #[must_use]
    pub const fn silent() -> Self {
        Self { level: None }
    }

    /// Whether lines of `level` are written: saves building them.
    #[must_use]
    pub fn is_on(self, level: Level) -> bool {
        self.level.is_some_and(|most| level <= most)
    }

    /// Queues one line, and does not wait for stderr. A line that finds 256 KiB of others in the queue
    /// is lost; the next that is not says how many were (`dropped=N`). So are lines that a closed
    /// stderr refuses, without a count: there is nowhere to tell it.
    pub fn write(self, level: Level, text: fmt::Arguments<'_>) {
        if !self.is_on(level) {
            return;
        }
        QUEUE.push(format!("{} {} {text}", Utc(SystemTime::now()), level.name()));
    }

    /// [`Log::write`] at [`Level::Error`].
    pub fn error(self, text: fmt::Arguments<'_>) {
        self.write(Level::Error, text);
    }

    /// [`Log::write`] at [`Level::Warn`].
    pub fn warn(self, text: fmt::Arguments<'_>) {
        self.write(Level::Warn, text);
    }

    /// [`Log::write`] at [`Level::Info`].
    pub fn info(self, text: fmt::Arguments<'_>) {
        self.write(Level::Info, text);
    }

    /// [`Log::write`] at [`Level::Debug`].
    pub fn debug(self, text: fmt::Arguments<'_>) {
        self.write(Level::Debug, text);
    }
}

/// Queues a line that is not of the log, such as where the server listens, behind those of the log.
pub(crate) fn print(line: String) {
    QUEUE.push(line);
}

/// Waits until stderr has taken all lines so far, but not longer than `limit`. For the end of a
/// program: its last lines say why.
pub fn flush(limit: Duration) {
    QUEUE.flush(limit);
}

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_char('"')?;
        for char in self.0.chars().take(ESCAPED_MAX) {
            match char {
                '"' | '\\' => write!(f, "\\{char}")?,
                ' '..='~' => f.write_char(char)?,
                _ => write!(f, "{}", char.escape_unicode())?,
            }
        }
        f.write_char('"')
    }
}

impl fmt::Display for Utc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let (days, second) = (seconds / 86_400, seconds % 86_400);
        // Days to a civil date in eras of 400 years that begin in March: leap days come last.
        let day = days + 719_468;
        let (era, of_era) = (day / 146_097, day % 146_097);
        let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
        let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let shifted = (5 * of_year + 2) / 153;
        let day = of_year - (153 * shifted + 2) / 5 + 1;
        let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
        let year = era * 400 + year_of_era + u64::from(month <= 2);
        let (hour, minute, second) = (second / 3_600, second / 60 % 60, second % 60);
        write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
    }
}

/// Characters of a peer's text that are kept.
pub const ESCAPED_MAX: usize = 128;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn utc_is_right_at_leap_days_and_borders() {
        let text = |seconds| Utc(UNIX_EPOCH + Duration::from_secs(seconds)).to_string();
        assert_eq!(text(0), "1970-01-01T00:00:00Z");
        assert_eq!(text(951_782_399), "2000-02-28T23:59:59Z");
        assert_eq!(text(951_782_400), "2000-02-29T00:00:00Z");
        assert_eq!(text(1_767_225_600), "2026-01-01T00:00:00Z");
        assert_eq!(text(4_107_542_400), "2100-03-01T00:00:00Z");
    }

    #[test]
    fn text_of_a_peer_cannot_break_a_line_or_a_terminal() {
        let shown = Escaped("a\"b\\c\n\x1b[31mö").to_string();
        assert_eq!(shown, r#""a\"b\\c\u{a}\u{1b}[31m\u{f6}""#);
        assert_eq!(Escaped(&"x".repeat(1_000)).to_string().len(), ESCAPED_MAX + 2);
    }

    #[test]
    fn levels_are_ordered_and_named() {
        assert_eq!("warn".parse(), Ok(Level::Warn));
        assert_eq!("WARN".parse::<Level>(), Err(UnknownLevel));
        assert!(Log::stderr(Level::Info).is_on(Level::Warn));
        assert!(!Log::stderr(Level::Info).is_on(Level::Debug));
        assert!(!Log::silent().is_on(Level::Error));
    }
}
