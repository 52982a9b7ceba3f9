//! Lines on their way to stderr, which may be a pipe that nobody reads.
//!
//! It owns the one queue of the process and the thread that writes it. It does not own what a line
//! says.

use std::{
    collections::VecDeque,
    fmt::Write as _,
    mem,
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, poll},
    io::Errno,
};

/// See the module.
pub(super) struct Queue {
    state: Mutex<State>,
    /// A line has come.
    filled: Condvar,
    /// All lines have gone.
    emptied: Condvar,
}

struct State {
    lines: VecDeque<String>,
    /// Bytes of them.
    bytes: usize,
    /// Lines that found no room since the last one that did.
    dropped: usize,
    /// Whether the thread has taken lines that it has not written yet.
    is_writing: bool,
    has_thread: bool,
}

/// The queue of this process: it has one stderr.
pub(super) static QUEUE: Queue = Queue::new();

impl Queue {
    const fn new() -> Self {
        let state = State {
            lines: VecDeque::new(),
            bytes: 0,
            dropped: 0,
            is_writing: false,
            has_thread: false,
        };
        Self { state: Mutex::new(state), filled: Condvar::new(), emptied: Condvar::new() }
    }

    /// Adds a line (without its end), if there is room. Never waits for the writer.
    pub(super) fn push(&'static self, line: String) {
        let mut state = self.lock();
        if !state.has_thread {
            let writer = thread::Builder::new().name("log".to_owned()).stack_size(STACK);
            // Without a thread lines are lost: the next one tries again.
            state.has_thread = writer.spawn(|| self.write()).is_ok();
        }
        state.add(line);
        drop(state);
        self.filled.notify_one();
    }

    /// Waits until all lines have gone, at most `limit`.
    pub(super) fn flush(&self, limit: Duration) {
        let end = Instant::now() + limit;
        let mut state = self.lock();
        while state.has_thread && (state.is_writing || !state.lines.is_empty()) {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            let waited = self.emptied.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// The thread's work, until the process ends.
    fn write(&self) {
        loop {
            let mut state = self.lock();
            while state.lines.is_empty() {
                state.is_writing = false;
                self.emptied.notify_all();
                state = self.filled.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
            state.is_writing = true;
            let line = state.take();
            drop(state);
            write_line(line.as_bytes());
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics while the lock is held.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn add(&mut self, mut line: String) {
        if self.bytes + line.len() > BYTES_MAX {
            self.dropped += 1;
            return;
        }
        let dropped = mem::take(&mut self.dropped);
        if dropped > 0 {
            // Writing to a String cannot fail.
            let _ = write!(line, " dropped={dropped}");
        }
        line.push('\n');
        self.bytes += line.len();
        self.lines.push_back(line);
    }

    fn take(&mut self) -> String {
        let line = self.lines.pop_front().unwrap_or_default();
        self.bytes -= line.len();
        if self.lines.is_empty() {
            // A burst does not keep its memory.
            self.lines = VecDeque::new();
        }
        line
    }
}

/// Writes a line by one call where that is possible; what stderr refuses is lost. Not by
/// [`std::io::Stderr`]: its lock would be held while this waits, and a panic needs it.
fn write_line(mut line: &[u8]) {
    let stderr = rustix::stdio::stderr();
    while !line.is_empty() {
        match rustix::io::write(stderr, line) {
            Ok(written) => line = &line[written..],
            Err(Errno::INTR) => {}
            // Somebody who shares it has made it non-blocking.
            Err(Errno::AGAIN) => {
                let mut fds = [PollFd::new(&stderr, PollFlags::OUT)];
                if poll(&mut fds, None).is_err_and(|error| error != Errno::INTR) {
                    return;
                }
            }
            Err(_) => return,
        }
    }
}

/// Bytes of lines that wait.
const BYTES_MAX: usize = 256 << 10;
/// Bytes of the thread's stack: it formats nothing.
const STACK: usize = 64 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_without_room_are_counted_and_told_by_the_next() {
        let mut state = State {
            lines: VecDeque::new(),
            bytes: 0,
            dropped: 0,
            is_writing: false,
            has_thread: false,
        };
        let long = "x".repeat(BYTES_MAX / 4 - 1);
        for _ in 0..4 {
            state.add(long.clone());
        }
        assert_eq!((state.lines.len(), state.bytes), (4, BYTES_MAX));
        state.add("a".to_owned());
        state.add("b".to_owned());
        assert_eq!((state.lines.len(), state.dropped), (4, 2));
        assert_eq!(state.take().len(), BYTES_MAX / 4);
        state.add("c".to_owned());
        assert_eq!(state.lines.back().map(String::as_str), Some("c dropped=2\n"));
        while !state.lines.is_empty() {
            state.take();
        }
        state.add("d".to_owned());
        assert_eq!((state.take().as_str(), state.bytes), ("d\n", 0));
    }
}
