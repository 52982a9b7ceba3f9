//! What can be seen of a running program from outside: its memory, descriptors and processor time
//! by `/proc`, the proxy's counters by `/debug`. And the signals that stop and continue it.
//!
//! It looks; what the figures must be is the tests' business.

use std::{collections::BTreeMap, fs, net::SocketAddr, time::Duration};

pub use rustix::process::Signal;
use rustix::process::{Pid, kill_process};

use crate::{fixture::Cost, visitor::Visitor};

/// Sends a signal to a process that a test started.
///
/// # Panics
/// When it is gone.
pub fn signal(id: u32, signal: Signal) {
    let pid = i32::try_from(id).ok().and_then(Pid::from_raw);
    let sent = pid.map(|pid| kill_process(pid, signal));
    assert_eq!(sent, Some(Ok(())), "process {id}");
}

/// Resident memory of a process, in octets.
///
/// # Panics
/// When it is gone.
#[must_use]
pub fn memory(id: u32) -> u64 {
    cost(id).resident
}

/// Largest resident memory of a process since its start or [`forget_peak`], in octets.
///
/// # Panics
/// When it is gone.
#[must_use]
pub fn memory_peak(id: u32) -> u64 {
    cost(id).resident_peak
}

/// Makes the present resident memory the largest.
///
/// # Panics
/// When the process is gone.
pub fn forget_peak(id: u32) {
    let path = format!("/proc/{id}/clear_refs");
    fs::write(&path, "5").unwrap_or_else(|error| panic!("{path}: {error}"));
}

/// Descriptors that a process has open.
///
/// # Panics
/// When it is gone.
#[must_use]
pub fn descriptors(id: u32) -> usize {
    let path = format!("/proc/{id}/fd");
    fs::read_dir(&path).unwrap_or_else(|error| panic!("{path}: {error}")).count()
}

/// Octets that a process has read from files so far, also from those that lie in memory.
///
/// # Panics
/// When it is gone, or another user's.
#[must_use]
pub fn octets_read(id: u32) -> u64 {
    let path = format!("/proc/{id}/io");
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
    let value = text.lines().find_map(|line| line.strip_prefix("rchar: ")?.parse().ok());
    value.unwrap_or_else(|| panic!("no rchar in {text}"))
}

/// User and system time of all threads of a process, in steps of 10 ms.
///
/// # Panics
/// When it is gone.
#[must_use]
pub fn processor_time(id: u32) -> Duration {
    cost(id).cpu
}

/// The proxy's `/debug` page.
#[derive(Clone, Debug)]
pub struct Debug {
    /// The page.
    pub text: String,
    totals: BTreeMap<String, u64>,
}

impl Debug {
    /// Asks for the page.
    ///
    /// # Panics
    /// When there is none.
    #[must_use]
    pub fn of(http: SocketAddr) -> Self {
        let mut visitor = Visitor::connect(http);
        visitor.send("GET /debug HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        let (octets, _) = visitor.rest();
        let text = String::from_utf8_lossy(&octets).into_owned();
        assert!(text.starts_with("HTTP/1.1 200 "), "{text}");
        let text = text.split_once("\r\n\r\n").map_or("", |split| split.1).to_owned();
        let pairs = text.lines().filter_map(|line| line.split_once(' '));
        let totals = pairs.filter_map(|(name, value)| Some((name.to_owned(), value.parse().ok()?)));
        let totals = totals.collect();
        Self { text, totals }
    }

    /// A figure of the process.
    ///
    /// # Panics
    /// When the page does not have it.
    #[must_use]
    pub fn total(&self, name: &str) -> u64 {
        *self.totals.get(name).unwrap_or_else(|| panic!("no {name} in:\n{}", self.text))
    }

    /// A figure of the tunnels, summed up.
    #[must_use]
    pub fn tunnels(&self, name: &str) -> u64 {
        let lines = self.text.lines().filter(|line| line.starts_with("tunnel "));
        let words = lines.flat_map(str::split_whitespace).filter_map(|word| word.split_once('='));
        words.filter(|word| word.0 == name).filter_map(|word| word.1.parse::<u64>().ok()).sum()
    }
}

fn cost(id: u32) -> Cost {
    Cost::of(id).unwrap_or_else(|error| panic!("process {id}: {error}"))
}

#[cfg(test)]
mod tests {
    use std::{fs::File, hint::black_box, time::Duration};

    use super::{descriptors, forget_peak, memory, memory_peak, processor_time};

    #[test]
    fn this_process_is_seen() {
        let id = std::process::id();
        let block = black_box(vec![1_u8; 32 << 20]);
        let with = memory(id);
        assert!(with > 32 << 20 && memory_peak(id) >= with);
        drop(block);
        forget_peak(id);
        assert!(memory_peak(id) < with, "{} {with}", memory_peak(id));
        let before = descriptors(id);
        let files: Vec<_> = (0..20).map(|_| File::open("/dev/null").unwrap()).collect();
        assert!(descriptors(id) >= before + files.len() - 10);
        while processor_time(id) < Duration::from_millis(20) {
            black_box((0..100_000_u64).sum::<u64>());
        }
    }
}
