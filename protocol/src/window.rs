//! A flow-control window: credit in octets that may go below zero (SPDY/3.1 2.6.8).
//!
//! It owns the arithmetic and its limits. What happens at them is the session's business.

use crate::frame::MAX_31;

/// Credit of one direction of a stream or a session, in octets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window(i64);

/// The window would exceed 2^31-1 octets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WindowOverflow;

impl Window {
    /// A window with this much credit.
    #[must_use]
    pub const fn new(octets: u32) -> Self {
        Self(octets as i64)
    }

    /// Takes credit; may leave the window below zero.
    pub fn consume(&mut self, octets: usize) {
        let octets = i64::try_from(octets).unwrap_or(i64::MAX);
        self.0 = self.0.saturating_sub(octets);
    }

    /// Gives credit.
    ///
    /// # Errors
    /// [`WindowOverflow`] above 2^31-1; the window is unchanged then.
    pub fn replenish(&mut self, octets: u32) -> Result<(), WindowOverflow> {
        self.shift(i64::from(octets))
    }

    /// Moves the window by the change of SETTINGS_INITIAL_WINDOW_SIZE, down or up.
    ///
    /// # Errors
    /// [`WindowOverflow`] above 2^31-1; the window is unchanged then.
    pub fn shift(&mut self, change: i64) -> Result<(), WindowOverflow> {
        let moved = self.0.saturating_add(change);
        if moved > i64::from(MAX_31) {
            return Err(WindowOverflow);
        }
        self.0 = moved;
        Ok(())
    }

    /// Octets that may be sent; 0 while the window is below zero.
    #[must_use]
    pub fn available(self) -> usize {
        usize::try_from(self.0).unwrap_or(0)
    }

    /// The window itself, below zero after an overrun or a lowered initial size.
    #[must_use]
    pub const fn value(self) -> i64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lowered_initial_size_takes_the_window_below_zero() {
        // The example of SPDY/3.1 2.6.8: 60 KB sent, then 16 KB set.
        let mut window = Window::new(65_536);
        window.consume(60 * 1024);
        window.shift(16 * 1024 - 65_536).unwrap();
        assert_eq!((window.value(), window.available()), (-44 * 1024, 0));
        window.replenish(44 * 1024).unwrap();
        assert_eq!(window.available(), 0);
        window.replenish(1).unwrap();
        assert_eq!(window.available(), 1);
    }

    #[test]
    fn window_never_exceeds_31_bits() {
        let mut window = Window::new(MAX_31 - 1);
        assert_eq!(window.replenish(1), Ok(()));
        assert_eq!(window.replenish(1), Err(WindowOverflow));
        assert_eq!(window.value(), i64::from(MAX_31));
    }
}
