//! Which of the streams that wait for room in the output get how much of it.
//!
//! Stride scheduling: a stream that sends moves its pass on by octets over weight, and the lowest
//! pass goes first. So equals share evenly, a higher priority gets more, and nothing starves. It
//! does not know windows or frames.

use heapless::Vec;

use crate::limits::STREAMS;

/// Weights of the priorities 0 (highest) to 7: a stream gets its weight's share of what is sent.
pub const WEIGHTS: [u64; 8] = [64, 48, 32, 24, 16, 12, 8, 6];

/// The streams that wait for room, at most one entry each.
#[derive(Debug)]
pub struct Schedule<K> {
    waiting: Vec<Entry<K>, STREAMS>,
    now: u64,
}

#[derive(Debug)]
struct Entry<K> {
    pass: u64,
    priority: u8,
    key: K,
    dealt: usize,
}

impl<K: Copy + PartialEq> Schedule<K> {
    /// Nobody waits.
    #[must_use]
    pub const fn new() -> Self {
        Self { waiting: Vec::new(), now: 0 }
    }

    /// Lets a stream wait, and returns its pass: one that was idle starts from now, it may not
    /// save up what it did not use. There is one entry a stream slot, so the table cannot overflow.
    pub fn join(&mut self, key: K, pass: u64, priority: u8) -> u64 {
        let pass = pass.max(self.now);
        if !self.waiting.iter().any(|entry| entry.key == key) {
            let pushed = self.waiting.push(Entry { pass, priority, key, dealt: 0 });
            debug_assert!(pushed.is_ok(), "one entry for each of STREAMS slots");
        }
        pass
    }

    /// Forgets a stream.
    pub fn leave(&mut self, key: K) {
        self.waiting.retain(|entry| entry.key != key);
    }

    /// Deals out `shares` of `octets` each, the lowest pass first (among equals, who waited
    /// longest); a stream that is far behind gets several. They wait no more; `dealt` is told who
    /// got how many shares.
    pub fn deal(&mut self, shares: usize, octets: usize, mut dealt: impl FnMut(K, usize)) {
        for _ in 0..shares {
            let Some(entry) = self.waiting.iter_mut().min_by_key(|entry| entry.pass) else { break };
            self.now = self.now.max(entry.pass);
            entry.pass += cost(octets, entry.priority);
            entry.dealt += 1;
        }
        for entry in self.waiting.iter().filter(|entry| entry.dealt > 0) {
            dealt(entry.key, entry.dealt);
        }
        self.waiting.retain(|entry| entry.dealt == 0);
    }

    /// The pass of a stream after it sent what it was dealt.
    #[must_use]
    pub fn after_turn(&self, pass: u64, octets: usize, priority: u8) -> u64 {
        pass + cost(octets, priority)
    }

    /// The pass of a stream after it sent without having waited.
    pub fn after_extra(&mut self, pass: u64, octets: usize, priority: u8) -> u64 {
        self.now = self.now.max(pass);
        self.now + cost(octets, priority)
    }

    /// Whether nobody waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }
}

impl<K: Copy + PartialEq> Default for Schedule<K> {
    fn default() -> Self {
        Self::new()
    }
}

fn cost(octets: usize, priority: u8) -> u64 {
    ((octets as u64) << 8) / WEIGHTS[usize::from(priority & 7)]
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHARE: usize = 16_384;

    /// Octets that each of these priorities gets out of `batches` of four shares.
    fn shares(priorities: &[u8], batches: usize) -> std::vec::Vec<usize> {
        let mut schedule = Schedule::new();
        let mut passes = vec![0; priorities.len()];
        let mut sent = vec![0; priorities.len()];
        for _ in 0..batches {
            for (key, pass) in passes.iter_mut().enumerate() {
                *pass = schedule.join(key, *pass, priorities[key]);
            }
            let mut batch = vec![0; priorities.len()];
            schedule.deal(4, SHARE, |key, shares| batch[key] += shares * SHARE);
            for (key, octets) in batch.into_iter().enumerate().filter(|dealt| dealt.1 > 0) {
                sent[key] += octets;
                passes[key] = schedule.after_turn(passes[key], octets, priorities[key]);
            }
        }
        sent
    }

    #[test]
    fn equals_share_evenly() {
        for streams in [2, 3, 8, 128] {
            let sent = shares(&vec![3; streams], 300 * streams);
            let (least, most) = (sent.iter().min().unwrap(), sent.iter().max().unwrap());
            assert!(most - least <= 4 * SHARE, "{sent:?}");
        }
    }

    #[test]
    fn priorities_share_by_weight_and_nothing_starves() {
        let sent = shares(&[0, 7], 7_000);
        let ratio = sent[0] as f64 / sent[1] as f64;
        assert!((10.0..11.5).contains(&ratio), "{ratio}");
        let sent = shares(&[0, 3, 3, 7], 7_000);
        assert!(sent[0] > 2 * sent[1] && sent[3] > sent[1] / 5, "{sent:?}");
    }

    #[test]
    fn idle_stream_does_not_save_up_turns() {
        let mut schedule = Schedule::new();
        let mut busy = 0;
        for _ in 0..1_000 {
            busy = schedule.join('b', busy, 3);
            schedule.deal(1, SHARE, |_, _| ());
            busy = schedule.after_turn(busy, SHARE, 3);
        }
        for _ in 0..1_000 {
            busy = schedule.after_extra(busy, SHARE, 3);
        }
        let idle = schedule.join('i', 0, 3);
        assert!(idle + cost(SHARE, 3) >= busy, "{idle} {busy}");
    }

    #[test]
    fn who_left_gets_nothing() {
        let mut schedule = Schedule::new();
        schedule.join('a', 0, 0);
        schedule.join('b', 0, 0);
        schedule.leave('a');
        let mut got = vec![];
        schedule.deal(4, SHARE, |key, shares| got.push((key, shares)));
        assert_eq!(got, [('b', 4)]);
        assert!(schedule.is_empty());
    }
}
