//! The bounded output of a session: frames that wait for the transport.
//!
//! DATA is refused when [`OUTPUT`] octets wait; control frames have a little room of their own
//! above it. It does not decide what goes next.

use std::io;

use crate::{
    frame::{Control, HEADER, StreamId, data_header},
    limits::OUTPUT,
};

/// Encoded frames, in wire order.
#[derive(Debug)]
pub(super) struct Output {
    /// All of it is initialised, so that room for DATA costs no clearing; `start..end` waits.
    octets: Vec<u8>,
    start: usize,
    end: usize,
    scratch: Vec<u8>,
}

impl Output {
    /// Largest payload of one DATA frame.
    pub(super) const DATA_MAX: usize = OUTPUT - HEADER;
    /// Room for control frames above [`OUTPUT`]. Header blocks are let in while DATA would be, and
    /// may pass both bounds by one frame.
    const CONTROL: usize = 8_192;
    /// What is kept while nothing waits.
    const KEPT: usize = 4_096;

    pub(super) const fn new() -> Self {
        Self { octets: Vec::new(), start: 0, end: 0, scratch: Vec::new() }
    }

    /// Adds a control frame; callers see to the bounds.
    pub(super) fn control(&mut self, frame: &Control<'_>) {
        let mut scratch = std::mem::take(&mut self.scratch);
        frame.encode(&mut scratch);
        self.append(&scratch);
        scratch.clear();
        scratch.shrink_to(Self::KEPT);
        self.scratch = scratch;
    }

    /// Adds octets that are frames already.
    pub(super) fn append(&mut self, frames: &[u8]) {
        self.room_for(frames.len())[..frames.len()].copy_from_slice(frames);
        self.end += frames.len();
    }

    /// Adds an empty DATA frame with FIN.
    pub(super) fn fin(&mut self, stream: StreamId) {
        self.append(&data_header(stream, true, 0));
    }

    /// Adds a DATA frame of at most `limit` octets that `fill` writes, counts, and marks with FIN
    /// or not. Nothing is added for 0 octets or an error.
    pub(super) fn data(
        &mut self,
        stream: StreamId,
        limit: usize,
        fill: impl FnOnce(&mut [u8]) -> io::Result<(usize, bool)>,
    ) -> io::Result<usize> {
        let (head, payload) = self.room_for(HEADER + limit).split_at_mut(HEADER);
        let (count, fin) = fill(&mut payload[..limit])?;
        assert!(count <= limit, "fill counted more than it was given");
        if count > 0 {
            head.copy_from_slice(&data_header(stream, fin, count));
            self.end += HEADER + count;
        }
        Ok(count)
    }

    /// Octets of DATA that would be let in.
    pub(super) fn data_room(&self) -> usize {
        OUTPUT.saturating_sub(self.len() + HEADER)
    }

    /// Whether header blocks must wait.
    pub(super) fn is_full(&self) -> bool {
        self.data_room() == 0
    }

    /// Whether a small control frame is let in.
    pub(super) fn has_control_room(&self) -> bool {
        self.len() + 64 <= OUTPUT + Self::CONTROL
    }

    pub(super) fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// What waits.
    pub(super) fn waiting(&self) -> &[u8] {
        &self.octets[self.start..self.end]
    }

    /// Forgets the first octets: the transport has them.
    pub(super) fn advance(&mut self, count: usize) {
        self.start = (self.start + count).min(self.end);
        if self.is_empty() {
            (self.start, self.end) = (0, 0);
        }
    }

    /// Gives memory back while nothing is going on.
    pub(super) fn relax(&mut self) {
        if self.is_empty() && self.octets.len() > Self::KEPT {
            self.octets = Vec::new();
        }
    }

    fn len(&self) -> usize {
        self.end - self.start
    }

    fn room_for(&mut self, count: usize) -> &mut [u8] {
        if self.end + count > self.octets.len() && self.start > 0 {
            self.octets.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.len());
        }
        let needed = self.end + count;
        if needed > self.octets.len() {
            let size =
                if needed <= Self::KEPT { Self::KEPT } else { needed.max(OUTPUT + Self::CONTROL) };
            self.octets.resize(size, 0);
        }
        &mut self.octets[self.end..]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn full_output_takes_no_data_but_control_frames() {
        let mut output = Output::new();
        let id = StreamId::new(1).unwrap();
        assert_eq!(
            output.data(id, Output::DATA_MAX, |octets| Ok((octets.len(), false))).unwrap(),
            65_528
        );
        assert!(output.is_full() && output.has_control_room());
        assert_eq!(output.waiting().len(), OUTPUT);
        let mut frames = 0;
        while output.has_control_room() {
            output.control(&Control::Ping(1));
            frames += 1;
        }
        assert!(frames > 500);
        output.advance(OUTPUT);
        assert_eq!(output.waiting().len(), frames * 12);
        output.fin(id);
        assert_eq!(output.waiting()[frames * 12..], data_header(id, true, 0));
        output.advance(usize::MAX / 2);
        output.relax();
        assert!(output.is_empty() && output.octets.is_empty());
    }

    #[test]
    fn refused_fill_leaves_no_trace() {
        let mut output = Output::new();
        let id = StreamId::new(1).unwrap();
        assert!(output.data(id, 10, |_| Err(io::ErrorKind::WouldBlock.into())).is_err());
        assert_eq!(output.data(id, 10, |_| Ok((0, true))).unwrap(), 0);
        assert!(output.is_empty());
    }
}
