//! Failures by the address that they came from: wrong passwords, handshakes that came to nothing.
//!
//! It owns the count and its bound. It reads no clock, and does not know what failed.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    time::{Duration, Instant},
};

/// Counts of the addresses that failed within the last [`WINDOW`]; [`ADDRESSES`] at most, above
/// which the oldest is forgotten: what checking costs is bounded elsewhere.
#[derive(Debug, Default)]
pub(crate) struct Failures {
    held: HashMap<IpAddr, Window>,
}

#[derive(Clone, Copy, Debug)]
struct Window {
    begun: Instant,
    count: u32,
}

impl Failures {
    /// One more from `address`. Returns how many there were in its window, this one included.
    pub(crate) fn count(&mut self, address: IpAddr, now: Instant) -> u32 {
        let address = network(address);
        let is_over = |window: &Window| now.duration_since(window.begun) >= WINDOW;
        if self.held.get(&address).is_none_or(is_over) {
            if self.held.len() >= ADDRESSES {
                self.held.retain(|_, window| !is_over(window));
            }
            if self.held.len() >= ADDRESSES {
                let oldest = self.held.iter().min_by_key(|(_, window)| window.begun);
                let oldest = oldest.map(|(address, _)| *address);
                oldest.map(|oldest| self.held.remove(&oldest));
            }
            self.held.insert(address, Window { begun: now, count: 0 });
        }
        self.held.get_mut(&address).map_or(1, |window| {
            window.count = window.count.saturating_add(1);
            window.count
        })
    }

    /// How many came from `address` in its window.
    pub(crate) fn recent(&self, address: IpAddr, now: Instant) -> u32 {
        let window = self.held.get(&network(address));
        let window = window.filter(|window| now.duration_since(window.begun) < WINDOW);
        window.map_or(0, |window| window.count)
    }

    /// How long `address` has to wait until it is looked at again.
    pub(crate) fn wait(&self, address: IpAddr, now: Instant) -> Option<Duration> {
        let window = self.held.get(&network(address))?;
        let left = WINDOW.saturating_sub(now.duration_since(window.begun));
        (window.count >= LIMIT && !left.is_zero()).then_some(left)
    }
}

/// What counts as one address: of IPv6 a /64, because that is what one subscriber gets.
pub(crate) fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
        address => address,
    }
}

/// Failures of an address in a [`WINDOW`] that are nothing unusual.
pub(crate) const LIMIT: u32 = 10;
/// Time from the first failure until an address begins anew.
const WINDOW: Duration = Duration::from_secs(60);
/// Addresses that are held.
const ADDRESSES: usize = 4_096;

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn an_address_that_fails_ten_times_waits_for_the_end_of_its_minute() {
        let (mut failures, begun) = (Failures::default(), Instant::now());
        let at = |seconds| begun + Duration::from_secs(seconds);
        for second in 0..9_u32 {
            assert_eq!(failures.count(ip("192.0.2.1"), at(second.into())), second + 1);
        }
        assert_eq!(failures.wait(ip("192.0.2.1"), at(9)), None);
        assert_eq!(failures.count(ip("192.0.2.1"), at(9)), LIMIT);
        assert_eq!(failures.recent(ip("192.0.2.1"), at(59)), LIMIT);
        assert_eq!(failures.recent(ip("192.0.2.1"), at(60)), 0);
        assert_eq!(failures.wait(ip("192.0.2.1"), at(10)), Some(Duration::from_secs(50)));
        assert_eq!(failures.wait(ip("::ffff:192.0.2.1"), at(59)), Some(Duration::from_secs(1)));
        assert_eq!(failures.wait(ip("192.0.2.2"), at(10)), None);
        assert_eq!(failures.count(ip("192.0.2.1"), at(11)), LIMIT + 1);
        assert_eq!(failures.wait(ip("192.0.2.1"), at(60)), None);
        assert_eq!(failures.count(ip("192.0.2.1"), at(60)), 1);
        assert_eq!(failures.wait(ip("192.0.2.1"), at(61)), None);
    }

    #[test]
    fn a_network_of_ipv6_is_one_address() {
        let (mut failures, now) = (Failures::default(), Instant::now());
        for host in 1..=LIMIT {
            failures.count(ip(&format!("2001:db8:0:1::{host:x}")), now);
        }
        assert!(failures.wait(ip("2001:db8:0:1:ffff::1"), now).is_some());
        assert!(failures.wait(ip("2001:db8:0:2::1"), now).is_none());
    }

    #[test]
    fn the_oldest_of_too_many_is_forgotten() {
        let (mut failures, begun) = (Failures::default(), Instant::now());
        let address = |at: u32| IpAddr::from(at.to_be_bytes());
        for at in 0..4_096 {
            for _ in 0..LIMIT {
                failures.count(address(at), begun + Duration::from_millis(at.into()));
            }
        }
        let now = begun + Duration::from_secs(5);
        assert!(failures.wait(address(0), now).is_some());
        failures.count(address(1 << 20), now);
        assert_eq!(failures.held.len(), ADDRESSES);
        assert!(failures.wait(address(0), now).is_none());
        assert!(failures.wait(address(1), now).is_some());
        // Those whose time is over go first.
        failures.count(address(2 << 20), begun + WINDOW + Duration::from_secs(1));
        assert!(failures.held.len() < ADDRESSES);
    }
}
