//! Strangers at a port: who is seen to now, and who waits.
//!
//! A guest is a connection that has not shown yet what it is: a handshake in progress, a visitor
//! before the first request. Some are inside at a time, others wait in a line; nobody is refused.
//! Under pressure the latest of the address that has the fewest inside comes next: who came long
//! ago has given up. Whoever is inside for longer than the patience may be put out in favour of
//! one that waits, the oldest of the busiest address first, and so is the oldest of a line that is
//! full. An address that failed a short while ago counts as a busy one.
//!
//! It owns the order and its bounds. It does not know what a guest is seen to for.

use std::{
    cell::Cell,
    cmp::Reverse,
    collections::{HashMap, VecDeque},
    future::poll_fn,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Poll, Waker},
    time::{Duration, Instant},
};

use async_io::Timer;
use futures_lite::future;

use crate::failures::{Failures, network};

/// A bound on the guests of one port. Clones are the same lobby.
#[derive(Clone, Debug)]
pub(crate) struct Lobby {
    state: Arc<Mutex<State>>,
    patience: Duration,
}

/// One guest; dropping it makes room.
#[derive(Debug)]
pub(crate) struct Ticket {
    lobby: Lobby,
    id: u64,
    address: IpAddr,
    is_known: Cell<bool>,
}

/// What is counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Census {
    /// Guests who are seen to.
    pub(crate) inside: usize,
    /// Guests who wait.
    pub(crate) waiting: usize,
    /// Guests who were put out, since the start.
    pub(crate) expelled: u64,
}

#[derive(Debug)]
struct State {
    places: usize,
    room: usize,
    next: u64,
    guests: HashMap<u64, Guest>,
    addresses: HashMap<IpAddr, Queues>,
    census: Census,
    /// Put out, and not gone yet: their places come free soon.
    going: usize,
    failures: Failures,
}

#[derive(Debug)]
struct Guest {
    standing: Standing,
    waker: Option<Waker>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    Waiting,
    Inside(Instant),
    /// Put out of the line or of its place.
    Out {
        was_inside: bool,
    },
}

/// Guests of one address by id, in the order of their coming.
#[derive(Debug, Default)]
struct Queues {
    waiting: VecDeque<u64>,
    inside: VecDeque<u64>,
    /// Failures when the first of them came, and since.
    failed: usize,
}

impl Queues {
    fn load(&self) -> usize {
        self.waiting.len() + self.inside.len() + self.failed
    }

    fn oldest_inside(&self) -> Option<u64> {
        self.inside.front().copied()
    }
}

impl Lobby {
    /// At most `places` guests inside (0 counts as 1) and `room` who wait; who is inside for
    /// longer than `patience` goes when another one waits.
    pub(crate) fn new(places: usize, room: usize, patience: Duration) -> Self {
        let state = State {
            places: places.max(1),
            room,
            next: 0,
            guests: HashMap::new(),
            addresses: HashMap::new(),
            census: Census::default(),
            going: 0,
            failures: Failures::default(),
        };
        Self { state: Arc::new(Mutex::new(state)), patience }
    }

    /// A guest from `address`.
    pub(crate) fn enter(&self, address: IpAddr) -> Ticket {
        let (now, address) = (Instant::now(), network(address));
        let mut state = self.lock();
        let id = state.next;
        state.next += 1;
        let failed = state.failures.recent(address, now);
        state.guests.insert(id, Guest { standing: Standing::Waiting, waker: None });
        let queues = state.addresses.entry(address).or_default();
        queues.failed = usize::try_from(failed).unwrap_or(usize::MAX);
        queues.waiting.push_back(id);
        state.census.waiting += 1;
        state.settle(now, self.patience);
        if state.census.waiting > state.room {
            state.shorten();
        }
        Ticket { lobby: self.clone(), id, address, is_known: Cell::new(false) }
    }

    /// What is counted now.
    pub(crate) fn census(&self) -> Census {
        self.lock().census
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it is held.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ticket {
    /// Waits for a place. `false`: the line was too long. Cancel safe.
    pub(crate) async fn admitted(&self) -> bool {
        loop {
            let placed = poll_fn(|cx| match self.standing(cx.waker()) {
                Standing::Waiting => Poll::Pending,
                standing => Poll::Ready(Some(matches!(standing, Standing::Inside(_)))),
            });
            // Somebody inside may have become too old without a word to us.
            let again = async {
                Timer::after(self.lobby.patience).await;
                None
            };
            if let Some(is_inside) = future::or(placed, again).await {
                return is_inside;
            }
            self.lobby.lock().settle(Instant::now(), self.lobby.patience);
        }
    }

    /// Waits until it is put out; for ever, once it is known. Cancel safe.
    pub(crate) async fn expelled(&self) {
        poll_fn(|cx| {
            let is_out =
                !self.is_known.get() && matches!(self.standing(cx.waker()), Standing::Out { .. });
            if is_out { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }

    /// It has shown what it is: it is no stranger any more and makes room.
    pub(crate) fn known(&self) {
        if !self.is_known.replace(true) {
            self.lobby.lock().leave(self.id, self.address, self.lobby.patience);
        }
    }

    /// It came to nothing: its address counts as busier for a while. Returns how often that was of
    /// late, this one included.
    pub(crate) fn failed(&self) -> u32 {
        let mut state = self.lobby.lock();
        if let Some(queues) = state.addresses.get_mut(&self.address) {
            queues.failed += 1;
        }
        state.failures.count(self.address, Instant::now())
    }

    fn standing(&self, waker: &Waker) -> Standing {
        let mut state = self.lobby.lock();
        let gone = Standing::Out { was_inside: false };
        state.guests.get_mut(&self.id).map_or(gone, |guest| {
            if !guest.waker.as_ref().is_some_and(|held| held.will_wake(waker)) {
                guest.waker = Some(waker.clone());
            }
            guest.standing
        })
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.known();
    }
}

impl State {
    /// Fills the places, and asks those who hold one too long to go.
    fn settle(&mut self, now: Instant, patience: Duration) {
        while self.census.waiting > 0 && self.census.inside < self.places {
            let waiting = self.addresses.values_mut().filter(|held| !held.waiting.is_empty());
            let rank = |held: &&mut Queues| {
                (held.inside.len() + held.failed, Reverse(held.waiting.back().copied()))
            };
            let Some(queues) = waiting.min_by_key(rank) else { return };
            let Some(id) = queues.waiting.pop_back() else { return };
            queues.inside.push_back(id);
            self.census.waiting -= 1;
            self.census.inside += 1;
            self.place(id, Standing::Inside(now));
        }
        while self.going < self.census.waiting {
            let held = self.addresses.values_mut().filter(|held| !held.inside.is_empty());
            let busiest = held.max_by_key(|held| (held.load(), Reverse(held.oldest_inside())));
            let Some(queues) = busiest else { return };
            let Some(id) = queues.oldest_inside() else { return };
            let is_old = self.guests.get(&id).is_some_and(|guest| match guest.standing {
                Standing::Inside(since) => now.duration_since(since) >= patience,
                _ => false,
            });
            // Nobody else goes in its place: it is not to blame that others keep coming anew.
            if !is_old {
                return;
            }
            queues.inside.pop_front();
            self.going += 1;
            self.census.expelled += 1;
            self.place(id, Standing::Out { was_inside: true });
        }
    }

    /// Puts one out of a line that is too long.
    fn shorten(&mut self) {
        let waiting = self.addresses.values_mut().filter(|held| !held.waiting.is_empty());
        let busiest =
            waiting.max_by_key(|held| (held.load(), Reverse(held.waiting.front().copied())));
        if let Some(id) = busiest.and_then(|held| held.waiting.pop_front()) {
            self.census.waiting -= 1;
            self.census.expelled += 1;
            self.place(id, Standing::Out { was_inside: false });
        }
    }

    fn place(&mut self, id: u64, standing: Standing) {
        let Some(guest) = self.guests.get_mut(&id) else { return };
        guest.standing = standing;
        if let Some(waker) = guest.waker.take() {
            waker.wake();
        }
    }

    fn leave(&mut self, id: u64, address: IpAddr, patience: Duration) {
        let Some(guest) = self.guests.remove(&id) else { return };
        if let Some(queues) = self.addresses.get_mut(&address) {
            match guest.standing {
                Standing::Waiting => queues.waiting.retain(|held| *held != id),
                Standing::Inside(_) => queues.inside.retain(|held| *held != id),
                Standing::Out { .. } => {}
            }
            if queues.waiting.is_empty() && queues.inside.is_empty() {
                self.addresses.remove(&address);
            }
        }
        match guest.standing {
            Standing::Waiting => self.census.waiting -= 1,
            Standing::Inside(_) => self.census.inside -= 1,
            Standing::Out { was_inside: true } => {
                self.census.inside -= 1;
                self.going -= 1;
            }
            Standing::Out { was_inside: false } => {}
        }
        self.settle(Instant::now(), patience);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(last: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, last])
    }

    fn stands(ticket: &Ticket) -> Standing {
        ticket.standing(Waker::noop())
    }

    fn is_inside(ticket: &Ticket) -> bool {
        matches!(stands(ticket), Standing::Inside(_))
    }

    fn is_out(ticket: &Ticket) -> bool {
        matches!(stands(ticket), Standing::Out { .. })
    }

    const LONG: Duration = Duration::from_secs(3_600);

    #[test]
    fn who_is_too_many_waits_and_the_latest_comes_next() {
        let lobby = Lobby::new(2, 8, LONG);
        let guests: Vec<_> = (0..5).map(|_| lobby.enter(ip(1))).collect();
        assert_eq!(guests.iter().map(is_inside).filter(|inside| *inside).count(), 2);
        assert_eq!(lobby.census(), Census { inside: 2, waiting: 3, expelled: 0 });
        assert!(future::block_on(guests[0].admitted()));
        let mut third = std::pin::pin!(guests[2].admitted());
        assert!(future::block_on(future::poll_once(third.as_mut())).is_none());
        guests[0].known();
        assert!(is_inside(&guests[4]) && !is_inside(&guests[3]));
        assert!(future::block_on(future::poll_once(guests[0].expelled())).is_none());
        guests[1].known();
        guests[4].known();
        assert!(future::block_on(third));
        guests.iter().for_each(Ticket::known);
        assert_eq!(lobby.census(), Census::default());
        assert!(lobby.lock().addresses.is_empty());
    }

    #[test]
    fn whose_address_has_the_fewest_inside_comes_first() {
        let lobby = Lobby::new(2, 8, LONG);
        let busy: Vec<_> = (0..4).map(|_| lobby.enter(ip(1))).collect();
        let quiet = lobby.enter(ip(2));
        let latest = lobby.enter(ip(1));
        busy[0].known();
        assert!(is_inside(&quiet) && !is_inside(&latest));
        // Who failed a short while ago counts as busy.
        let failing = lobby.enter(ip(3));
        assert_eq!(failing.failed(), 1);
        assert_eq!(failing.failed(), 2);
        drop(failing);
        let (again, other) = (lobby.enter(ip(3)), lobby.enter(ip(4)));
        quiet.known();
        assert!(is_inside(&other));
        busy[1].known();
        assert!(is_inside(&latest) && !is_inside(&again));
    }

    #[test]
    fn the_oldest_of_the_busiest_goes_when_another_one_waits() {
        let lobby = Lobby::new(3, 8, Duration::ZERO);
        let first = lobby.enter(ip(1));
        let busy = [lobby.enter(ip(2)), lobby.enter(ip(2))];
        assert!(future::block_on(future::poll_once(busy[0].expelled())).is_none());
        let newcomer = lobby.enter(ip(3));
        future::block_on(busy[0].expelled());
        assert!(is_inside(&first) && is_inside(&busy[1]) && !is_inside(&newcomer));
        // It has its place when that one has gone.
        drop(busy);
        assert!(is_inside(&newcomer));
        assert_eq!(lobby.census().expelled, 1);
        // Whoever is known is not put out any more.
        first.known();
        let _more: Vec<_> = (0..8).map(|_| lobby.enter(ip(4))).collect();
        assert!(future::block_on(future::poll_once(first.expelled())).is_none());
    }

    #[test]
    fn nobody_goes_before_the_patience_is_over() {
        let lobby = Lobby::new(1, 8, LONG);
        let first = lobby.enter(ip(1));
        let _more: Vec<_> = (0..5).map(|_| lobby.enter(ip(2))).collect();
        assert!(is_inside(&first));
        let late = Lobby::new(1, 8, Duration::from_millis(1));
        let first = late.enter(ip(1));
        let second = late.enter(ip(2));
        // Nothing else happens than that time passes.
        let leaves = async {
            first.expelled().await;
            drop(first);
            future::pending().await
        };
        assert!(future::block_on(future::or(leaves, second.admitted())));
    }

    #[test]
    fn a_line_that_is_too_long_loses_the_oldest_of_the_busiest() {
        let lobby = Lobby::new(1, 3, LONG);
        let _inside = lobby.enter(ip(9));
        let one = lobby.enter(ip(1));
        let busy = [lobby.enter(ip(2)), lobby.enter(ip(2))];
        let latest = lobby.enter(ip(3));
        assert!(is_out(&busy[0]) && !is_out(&one) && !is_out(&busy[1]) && !is_out(&latest));
        assert!(!future::block_on(busy[0].admitted()));
        assert_eq!(lobby.census(), Census { inside: 1, waiting: 3, expelled: 1 });
        for _ in 0..10_000 {
            std::mem::forget(lobby.enter(ip(2)));
        }
        // Those that were put out are forgotten here only: their tasks drop them.
        assert_eq!(lobby.census().waiting, 3);
        assert!(!is_out(&one) && !is_out(&latest));
    }
}
