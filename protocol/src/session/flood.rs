//! The budget against floods of frames that cost a peer nothing.
//!
//! It counts; which frames are cheap is decided where they are handled.

use std::time::Instant;

use crate::{
    error::PeerFault,
    limits::{CHEAP_FRAMES, CHEAP_FRAMES_PER_SECOND},
};

/// Cheap frames that are still allowed. Useful frames and time give some back.
#[derive(Debug)]
pub(super) struct CheapFrames {
    left: u32,
    refilled: Instant,
}

impl CheapFrames {
    pub(super) const fn new(now: Instant) -> Self {
        Self { left: CHEAP_FRAMES, refilled: now }
    }

    /// A cheap frame came.
    ///
    /// # Errors
    /// [`PeerFault::CheapFrames`] when it is one too many.
    pub(super) fn on_cheap(&mut self, now: Instant) -> Result<(), PeerFault> {
        if self.left == 0 {
            let waited = now.saturating_duration_since(self.refilled).as_millis();
            let earned = waited.saturating_mul(u128::from(CHEAP_FRAMES_PER_SECOND)) / 1_000;
            self.left = u32::try_from(earned).unwrap_or(CHEAP_FRAMES).min(CHEAP_FRAMES);
            self.refilled = now;
        }
        self.left = self.left.checked_sub(1).ok_or(PeerFault::CheapFrames)?;
        Ok(())
    }

    /// We sent DATA or a reply: the peer may well answer it with a small frame.
    pub(super) fn on_useful(&mut self) {
        self.left = (self.left + 1).min(CHEAP_FRAMES);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn burst_is_bounded_and_time_gives_some_back() {
        let mut now = Instant::now();
        let mut cheap = CheapFrames::new(now);
        for _ in 0..CHEAP_FRAMES {
            assert_eq!(cheap.on_cheap(now), Ok(()));
        }
        assert_eq!(cheap.on_cheap(now), Err(PeerFault::CheapFrames));
        cheap.on_useful();
        assert_eq!(cheap.on_cheap(now), Ok(()));
        now += Duration::from_secs(1);
        let allowed = (0..200).take_while(|_| cheap.on_cheap(now).is_ok()).count();
        assert_eq!(allowed, CHEAP_FRAMES_PER_SECOND as usize);
    }
}
