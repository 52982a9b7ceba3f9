//! The version that hyper writes into a response to HTTP/1.0.
//!
//! A server says the highest version that it has (RFC 9110 6.2); hyper's encoder says that of the
//! request, whatever the response says. It owns finding that digit where it cannot be anything else:
//! in the first bytes that are written after everything before them was flushed, for a response
//! that was announced. It does not own who announces ([`crate::downstream`]).

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

/// Whether the next bytes that are written begin the head of a response to HTTP/1.0.
#[derive(Debug, Default)]
pub(crate) struct Announcement(AtomicBool);

/// What was written so far, as far as it matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Written {
    /// All of it was flushed: what follows begins a message or goes on with a body.
    Flushed,
    /// The first bytes of a head of ours, [`OLD`] long at most, the digit among what follows.
    Start(usize),
    /// Anything else.
    Some,
}

impl Announcement {
    /// A response to HTTP/1.0 is about to be written.
    pub(crate) fn announce(&self) {
        self.0.store(true, Relaxed);
    }

    fn take(&self) -> bool {
        self.0.load(Relaxed) && self.0.swap(false, Relaxed)
    }
}

impl Written {
    /// What `bytes`, which are to be written now, are to be replaced by; `None`: they stay.
    pub(crate) fn replace(self, bytes: &[u8], announcement: &Announcement) -> Option<Replaced> {
        let begun = match self {
            Self::Flushed if announcement.take() && bytes.starts_with(OLD) => 0,
            Self::Start(begun) => begun,
            _ => return None,
        };
        let mut text = bytes.to_vec();
        *text.get_mut(OLD.len() - 1 - begun)? = b'1';
        Some(Replaced { text, begun })
    }
}

/// Bytes with the digit replaced.
#[derive(Debug)]
pub(crate) struct Replaced {
    pub(crate) text: Vec<u8>,
    begun: usize,
}

impl Replaced {
    /// Where the response stands when `written` of the bytes were written.
    pub(crate) fn after(&self, written: usize) -> Written {
        let begun = self.begun + written;
        if begun < OLD.len() { Written::Start(begun) } else { Written::Some }
    }
}

const OLD: &[u8] = b"HTTP/1.0";

#[cfg(test)]
mod tests {
    use super::*;

    /// Writes `parts`, each by as much as `at_once` allows, with a flush before the first.
    fn write(parts: &[&[u8]], at_once: usize, announced: bool) -> Vec<u8> {
        let announcement = Announcement::default();
        if announced {
            announcement.announce();
        }
        let (mut state, mut out) = (Written::Flushed, Vec::new());
        for part in parts {
            let mut rest = *part;
            while !rest.is_empty() {
                let len = rest.len().min(at_once);
                match state.replace(rest, &announcement) {
                    Some(replaced) => {
                        out.extend_from_slice(&replaced.text[..len]);
                        state = replaced.after(len);
                    }
                    None => {
                        out.extend_from_slice(&rest[..len]);
                        state = Written::Some;
                    }
                }
                rest = &rest[len..];
            }
        }
        out
    }

    #[test]
    fn version_of_an_announced_head_is_ours_however_it_is_written() {
        let (head, body): (&[u8], &[u8]) = (b"HTTP/1.0 200 OK\r\n\r\n", b"HTTP/1.0 is old");
        for at_once in 1..40 {
            let written = write(&[head, body], at_once, true);
            assert_eq!(written, b"HTTP/1.1 200 OK\r\n\r\nHTTP/1.0 is old", "{at_once}");
            assert_eq!(write(&[head, body], at_once, false), [head, body].concat());
        }
        // Nothing else is touched, and what was announced is announced no more.
        assert_eq!(write(&[b"HTTP/1.1 200 OK\r\n", head], 99, true)[17..], *head);
    }

    #[test]
    fn what_follows_unflushed_bytes_is_left_alone() {
        let announcement = Announcement::default();
        announcement.announce();
        assert!(Written::Some.replace(b"HTTP/1.0 200", &announcement).is_none());
        assert!(Written::Flushed.replace(b"HTTP/1.0 200", &announcement).is_some());
        assert!(Written::Flushed.replace(b"HTTP/1.0 200", &announcement).is_none());
    }
}
