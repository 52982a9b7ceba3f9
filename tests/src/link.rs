//! A link between two loopback ports, emulated in user space: delay, rate, silence, cuts.
//!
//! It forwards TCP connections byte for byte and releases every octet at its arrival plus the
//! delay of its direction. It does not drop, repeat or reorder octets: TCP hides those from the
//! programs under test, except as time. It knows neither TLS nor SPDY.
//!
//! One thread drives all connections of a link. A direction keeps what is under way in segments
//! that are reused, and beside them one mark (release time, octets) per read. Socket buffers are
//! left to the kernel: setting `SO_RCVBUF` would end its tuning at a smaller size.

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    future::{Future, poll_fn},
    io::{self, Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    pin::Pin,
    rc::{Rc, Weak},
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Poll, Waker},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use smol::{Async, LocalExecutor, Task, Timer, channel};
use socket2::SockRef;

/// How one direction of a link behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Way {
    /// Time between the arrival of an octet and its release. Default 0.
    pub delay: Duration,
    /// Octets per second that pass; `None` (default): as fast as the machine.
    pub rate: Option<u64>,
    /// Octets that may be under way; a full link stops reading, so that the sender's kernel fills.
    /// Default 64 MiB; keep it above rate times delay.
    pub queue: usize,
    /// Largest write towards the receiver, in octets; `None` (default): as large as possible.
    pub split: Option<usize>,
    /// Releases happen only at multiples of this time since the link began, so that small writes
    /// of the sender arrive as one. Default 0: at once.
    pub merge: Duration,
}

impl Default for Way {
    fn default() -> Self {
        Self { delay: Duration::ZERO, rate: None, queue: QUEUE, split: None, merge: Duration::ZERO }
    }
}

/// How a link behaves in its two directions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// From the side that dials to the link's target.
    pub up: Way,
    /// From the target back to the side that dialled.
    pub down: Way,
}

impl Settings {
    /// A link without rate limit whose two delays add up to `round_trip`.
    #[must_use]
    pub fn round_trip(round_trip: Duration) -> Self {
        let way = Way { delay: round_trip / 2, ..Way::default() };
        Self { up: way, down: way }
    }

    /// The same link with at most `rate` octets per second in each direction.
    #[must_use]
    pub fn rate(mut self, rate: u64) -> Self {
        self.up.rate = Some(rate);
        self.down.rate = Some(rate);
        self
    }

    /// The same link with writes of at most `octets` in each direction.
    #[must_use]
    pub fn split(mut self, octets: usize) -> Self {
        self.up.split = Some(octets);
        self.down.split = Some(octets);
        self
    }

    /// The same link with releases only every `interval` in each direction.
    #[must_use]
    pub fn merge(mut self, interval: Duration) -> Self {
        self.up.merge = interval;
        self.down.merge = interval;
        self
    }
}

/// A running link. Dropping it resets its connections and closes its port.
#[derive(Debug)]
pub struct Link {
    address: SocketAddr,
    counts: Arc<Counts>,
    commands: Option<channel::Sender<Command>>,
    thread: Option<JoinHandle<()>>,
}

impl Link {
    /// Opens a port on 127.0.0.1 whose connections lead to `target`.
    ///
    /// # Errors
    /// When the port or the thread cannot be had.
    pub fn start(target: SocketAddr, settings: Settings) -> io::Result<Self> {
        let listener = TcpListener::bind((std::net::Ipv4Addr::LOCALHOST, 0))?;
        let address = listener.local_addr()?;
        let counts = Arc::new(Counts::default());
        let (commands, receiver) = channel::unbounded();
        let shared = counts.clone();
        let thread = std::thread::Builder::new().name("link".into()).spawn(move || {
            let executor = Rc::new(LocalExecutor::new());
            let run = Runner {
                target,
                settings,
                executor: executor.clone(),
                counts: shared,
                gate: Rc::default(),
                connections: Vec::new(),
            };
            if let Err(error) = smol::block_on(executor.run(run.serve(listener, receiver))) {
                eprintln!("link to {target} ended: {error}");
            }
        })?;
        Ok(Self { address, counts, commands: Some(commands), thread: Some(thread) })
    }

    /// The address to dial instead of the target's.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Changes the link for connections that are made from now on.
    pub fn set(&self, settings: Settings) {
        self.command(|done| Command::Set(settings, done));
    }

    /// Black hole: nothing passes any more and nobody is told. New connections are taken by the
    /// kernel and stay silent. What was under way is kept, as TCP would repeat it.
    pub fn hold(&self) {
        self.command(|done| Command::Hold(true, done));
    }

    /// Ends [`hold`](Self::hold).
    pub fn release(&self) {
        self.command(|done| Command::Hold(false, done));
    }

    /// Resets every connection on both sides (RST); what was under way is lost. The link goes on.
    pub fn cut(&self) {
        self.command(Command::Cut);
    }

    /// Connections that are forwarded at this moment.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.counts.connections.load(Relaxed)
    }

    /// Connections that were taken since the start.
    #[must_use]
    pub fn accepted(&self) -> u64 {
        self.counts.accepted.load(Relaxed)
    }

    /// Octets released upwards and downwards since the start.
    #[must_use]
    pub fn forwarded(&self) -> (u64, u64) {
        (self.counts.up.load(Relaxed), self.counts.down.load(Relaxed))
    }

    /// Sends a command and waits until it has taken effect.
    fn command(&self, build: impl FnOnce(channel::Sender<()>) -> Command) {
        let (done, wait) = channel::bounded(1);
        if let Some(commands) = &self.commands
            && commands.send_blocking(build(done)).is_ok()
        {
            // An error means that the thread is gone: then nothing passes either.
            let _ = wait.recv_blocking();
        }
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.commands = None;
        if let Some(thread) = self.thread.take() {
            // The thread reported its own failure; there is nothing to add here.
            let _ = thread.join();
        }
    }
}

#[derive(Debug, Default)]
struct Counts {
    connections: AtomicUsize,
    accepted: AtomicU64,
    up: AtomicU64,
    down: AtomicU64,
}

enum Command {
    Set(Settings, channel::Sender<()>),
    Hold(bool, channel::Sender<()>),
    Cut(channel::Sender<()>),
}

/// Closed while the link is a black hole.
#[derive(Default)]
struct Gate {
    held: Cell<bool>,
    waiting: RefCell<Vec<Waker>>,
}

impl Gate {
    fn poll_open(&self, context: &Context<'_>) -> Poll<()> {
        if self.held.get() {
            self.waiting.borrow_mut().push(context.waker().clone());
            return Poll::Pending;
        }
        Poll::Ready(())
    }

    fn hold(&self, held: bool) {
        self.held.set(held);
        if !held {
            self.waiting.take().into_iter().for_each(Waker::wake);
        }
    }
}

/// The task owns the sockets: they close when it ends.
struct Connection {
    sides: [Weak<Async<TcpStream>>; 2],
    task: Task<()>,
}

struct Runner {
    target: SocketAddr,
    settings: Settings,
    executor: Rc<LocalExecutor<'static>>,
    counts: Arc<Counts>,
    gate: Rc<Gate>,
    connections: Vec<Connection>,
}

enum Input {
    Accepted(io::Result<(Async<TcpStream>, SocketAddr)>),
    Command(Result<Command, channel::RecvError>),
}

impl Runner {
    async fn serve(
        mut self,
        listener: TcpListener,
        commands: channel::Receiver<Command>,
    ) -> io::Result<()> {
        let listener = Async::new(listener)?;
        loop {
            let held = self.gate.held.get();
            let accept = async {
                if held {
                    std::future::pending::<()>().await;
                }
                Input::Accepted(listener.accept().await)
            };
            let command = async { Input::Command(commands.recv().await) };
            match smol::future::or(command, accept).await {
                Input::Accepted(accepted) => self.connect(accepted?.0),
                Input::Command(Ok(Command::Set(settings, done))) => {
                    self.settings = settings;
                    let _ = done.send(()).await;
                }
                Input::Command(Ok(Command::Hold(held, done))) => {
                    self.gate.hold(held);
                    let _ = done.send(()).await;
                }
                Input::Command(Ok(Command::Cut(done))) => {
                    self.cut().await;
                    let _ = done.send(()).await;
                }
                Input::Command(Err(channel::RecvError)) => {
                    self.cut().await;
                    return Ok(());
                }
            }
        }
    }

    /// Forwards one connection; a target that refuses is passed on as a reset.
    fn connect(&mut self, dialled: Async<TcpStream>) {
        self.connections.retain(|connection| !connection.task.is_finished());
        self.counts.accepted.fetch_add(1, Relaxed);
        // Blocking, but on loopback: the answer is there at once, or a refusal is.
        let target = TcpStream::connect(self.target).and_then(Async::new);
        let Ok(target) = target else {
            let _ = SockRef::from(&dialled).set_linger(Some(Duration::ZERO));
            return;
        };
        let _ = (dialled.get_ref().set_nodelay(true), target.get_ref().set_nodelay(true));
        let (dialled, target) = (Rc::new(dialled), Rc::new(target));
        let start = Instant::now();
        let pass = |from: &Rc<_>, to: &Rc<_>, way| Pass {
            from: Rc::clone(from),
            to: Rc::clone(to),
            gate: Rc::clone(&self.gate),
            way,
            start,
            under_way: UnderWay::default(),
            serialised: start,
            ended: false,
            timer: Timer::never(),
        };
        let mut up = pass(&dialled, &target, self.settings.up);
        let mut down = pass(&target, &dialled, self.settings.down);
        let counts = self.counts.clone();
        counts.connections.fetch_add(1, Relaxed);
        let live = Live(counts.clone());
        let sides = [Rc::downgrade(&dialled), Rc::downgrade(&target)];
        drop((dialled, target));
        let task = self.executor.spawn(async move {
            let _live = live;
            let upwards = poll_fn(|context| up.poll(context, &counts.up));
            let downwards = poll_fn(|context| down.poll(context, &counts.down));
            let both = smol::future::try_zip(upwards, downwards).await;
            if both.is_err() {
                // One side was reset: the other must not see an orderly end.
                for side in [&up.from, &up.to] {
                    let _ = SockRef::from(&**side).set_linger(Some(Duration::ZERO));
                }
            }
        });
        self.connections.push(Connection { sides, task });
    }

    async fn cut(&mut self) {
        for connection in self.connections.drain(..) {
            for side in connection.sides.iter().filter_map(Weak::upgrade) {
                let _ = SockRef::from(&*side).set_linger(Some(Duration::ZERO));
            }
            // The sockets close, and with that reset, when the task is gone.
            connection.task.cancel().await;
        }
    }
}

/// Counts a connection as long as its task lives.
struct Live(Arc<Counts>);

impl Drop for Live {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Relaxed);
    }
}

/// One direction of one connection.
struct Pass {
    from: Rc<Async<TcpStream>>,
    to: Rc<Async<TcpStream>>,
    gate: Rc<Gate>,
    way: Way,
    start: Instant,
    under_way: UnderWay,
    /// When the last octet that was read has passed the rate limit.
    serialised: Instant,
    /// The sender has finished; what is under way still passes.
    ended: bool,
    timer: Timer,
}

impl Pass {
    /// Moves octets until the sender's end was passed on. An error is that of a socket.
    fn poll(&mut self, context: &mut Context<'_>, count: &AtomicU64) -> Poll<io::Result<()>> {
        for _ in 0..TURNS {
            if self.gate.poll_open(context).is_pending() {
                return Poll::Pending;
            }
            let read = self.poll_input(context)?.is_ready();
            let written = self.poll_output(context, count)?.is_ready();
            if self.ended && self.under_way.is_empty() {
                let shut = self.to.get_ref().shutdown(Shutdown::Write);
                return Poll::Ready(shut.or_else(|error| match error.kind() {
                    io::ErrorKind::NotConnected => Ok(()),
                    _ => Err(error),
                }));
            }
            if !read && !written {
                return Poll::Pending;
            }
        }
        // Others have their turn: without this a fast connection would keep the thread.
        context.waker().wake_by_ref();
        Poll::Pending
    }

    /// Ready when something was read or the sender's end was seen.
    fn poll_input(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.ended || self.under_way.octets >= self.way.queue {
            return Poll::Pending;
        }
        loop {
            let room = self.under_way.room(self.way.queue, self.way.rate);
            match self.from.get_ref().read(room) {
                Ok(0) => {
                    self.ended = true;
                    let due = self.due(0);
                    self.under_way.mark(due, 0);
                    return Poll::Ready(Ok(()));
                }
                Ok(octets) => {
                    let due = self.due(octets);
                    self.under_way.mark(due, octets);
                    return Poll::Ready(Ok(()));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    match self.from.poll_readable(context) {
                        Poll::Ready(Ok(())) => {}
                        other => return other,
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    /// Ready when something was written.
    fn poll_output(
        &mut self,
        context: &mut Context<'_>,
        count: &AtomicU64,
    ) -> Poll<io::Result<()>> {
        loop {
            let Some(due) = self.under_way.due() else { return Poll::Pending };
            if due > Instant::now() {
                self.timer.set_at(due);
                match Pin::new(&mut self.timer).poll(context) {
                    Poll::Ready(_) => continue,
                    Poll::Pending => return Poll::Pending,
                }
            }
            let released = self.under_way.released(Instant::now(), self.way.split);
            if released.is_empty() {
                // The mark of the sender's end.
                self.under_way.take(0);
                return Poll::Ready(Ok(()));
            }
            match self.to.get_ref().write(released) {
                Ok(octets) => {
                    self.under_way.take(octets);
                    count.fetch_add(octets as u64, Relaxed);
                    return Poll::Ready(Ok(()));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    match self.to.poll_writable(context) {
                        Poll::Ready(Ok(())) => {}
                        other => return other,
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    /// When octets that arrive now come out.
    fn due(&mut self, octets: usize) -> Instant {
        let now = Instant::now();
        let passed = match self.way.rate {
            Some(rate) => {
                let time = Duration::from_secs_f64(octets as f64 / rate.max(1) as f64);
                self.serialised = self.serialised.max(now) + time;
                self.serialised
            }
            None => now,
        };
        let due = passed + self.way.delay;
        let grid = self.way.merge.as_nanos();
        if grid == 0 {
            return due;
        }
        let late = grid - (due - self.start).as_nanos() % grid;
        due + Duration::from_nanos(u64::try_from(late).unwrap_or(0))
    }
}

/// Octets between the two sockets of a direction.
#[derive(Default)]
struct UnderWay {
    octets: usize,
    marks: VecDeque<(Instant, usize)>,
    segments: VecDeque<Segment>,
    spare: Vec<Segment>,
}

/// `octets[from..to]` is under way.
struct Segment {
    octets: Box<[u8]>,
    from: usize,
    to: usize,
}

impl UnderWay {
    fn is_empty(&self) -> bool {
        self.marks.is_empty()
    }

    /// Release time of the first octet.
    fn due(&self) -> Option<Instant> {
        self.marks.front().map(|mark| mark.0)
    }

    /// Where the next octets are read to. With a rate, one read is at most 1 ms of it.
    fn room(&mut self, queue: usize, rate: Option<u64>) -> &mut [u8] {
        if self.segments.back().is_none_or(|segment| segment.octets.len() - segment.to < SMALL) {
            let fresh = || Segment { octets: vec![0; SEGMENT].into(), from: 0, to: 0 };
            let segment = self.spare.pop().unwrap_or_else(fresh);
            self.segments.push_back(segment);
        }
        let most = match rate.map(|rate| usize::try_from(rate / 1_000)) {
            Some(Ok(most)) => most.max(256),
            _ => SEGMENT,
        };
        let most = most.min(queue - self.octets);
        let segment = self.segments.back_mut().expect("one was pushed above if there was none");
        let end = segment.octets.len().min(segment.to + most);
        &mut segment.octets[segment.to..end]
    }

    /// Takes note of octets that were read into [`room`](Self::room).
    fn mark(&mut self, due: Instant, octets: usize) {
        if let Some(segment) = self.segments.back_mut() {
            segment.to += octets;
        }
        self.octets += octets;
        self.marks.push_back((due, octets));
    }

    /// Octets of the first segment that are due at `now`, at most `split`.
    fn released(&self, now: Instant, split: Option<usize>) -> &[u8] {
        let Some(segment) = self.segments.front() else { return &[] };
        let most = (segment.to - segment.from).min(split.map_or(usize::MAX, |split| split.max(1)));
        let mut octets = 0;
        for (due, marked) in &self.marks {
            if octets >= most || *due > now || *marked == 0 {
                break;
            }
            octets += marked;
        }
        &segment.octets[segment.from..segment.from + octets.min(most)]
    }

    /// Forgets octets that were written; 0 takes the mark of the sender's end.
    fn take(&mut self, octets: usize) {
        self.octets -= octets;
        let mut rest = octets;
        while let Some(mark) = self.marks.front_mut() {
            if mark.1 > rest {
                mark.1 -= rest;
                break;
            }
            rest -= mark.1;
            self.marks.pop_front();
            if rest == 0 {
                break;
            }
        }
        if let Some(segment) = self.segments.front_mut() {
            segment.from += octets;
            if segment.from == segment.to
                && (self.segments.len() > 1 || self.octets == 0)
                && let Some(mut segment) = self.segments.pop_front()
            {
                (segment.from, segment.to) = (0, 0);
                self.spare.push(segment);
            }
        }
    }
}

/// Default of [`Way::queue`]: more than 6 MiB at any delay that the tests use.
const QUEUE: usize = 64 << 20;
/// Octets of a segment: large enough that one read empties a socket.
const SEGMENT: usize = 256 << 10;
/// Room at the end of a segment below which a new one is begun.
const SMALL: usize = 16 << 10;
/// Reads and writes of one direction before the others have their turn.
const TURNS: usize = 16;

#[cfg(test)]
mod tests {
    use std::{sync::mpsc, thread};

    use super::*;

    /// A link to a port of our own, and both ends of one connection through it.
    fn joined(settings: Settings) -> (Link, TcpStream, TcpStream) {
        let target = TcpListener::bind("127.0.0.1:0").unwrap();
        let link = Link::start(target.local_addr().unwrap(), settings).unwrap();
        let dialled = TcpStream::connect(link.address()).unwrap();
        let accepted = target.accept().unwrap().0;
        for side in [&dialled, &accepted] {
            side.set_nodelay(true).unwrap();
            side.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        }
        (link, dialled, accepted)
    }

    fn content(octets: usize) -> Vec<u8> {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        (0..octets)
            .map(|_| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                state.to_le_bytes()[3]
            })
            .collect()
    }

    /// Writes and ends on a thread of its own, so that neither side waits for the other.
    fn send(mut to: TcpStream, octets: Vec<u8>) -> JoinHandle<TcpStream> {
        thread::spawn(move || {
            to.write_all(&octets).unwrap();
            to.shutdown(Shutdown::Write).unwrap();
            to
        })
    }

    #[test]
    fn octets_pass_unchanged_in_both_directions_and_so_do_the_ends() {
        for settings in [
            Settings::default(),
            Settings::round_trip(Duration::from_millis(4)).split(1_000),
            Settings::default().merge(Duration::from_millis(2)),
            Settings { up: Way { queue: 3_000, ..Way::default() }, ..Settings::default() },
        ] {
            let (link, dialled, accepted) = joined(settings);
            let octets = content(700_001);
            let up = send(dialled.try_clone().unwrap(), octets.clone());
            let down = send(accepted.try_clone().unwrap(), octets.clone());
            for mut side in [accepted, dialled] {
                let mut received = Vec::new();
                side.read_to_end(&mut received).unwrap();
                assert!(received == octets, "{settings:?}");
            }
            up.join().unwrap();
            down.join().unwrap();
            assert_eq!(link.forwarded(), (700_001, 700_001));
        }
    }

    #[test]
    fn an_octet_comes_out_after_the_delay_and_not_much_later() {
        let delay = Duration::from_millis(50);
        let (_link, mut dialled, mut accepted) = joined(Settings::round_trip(delay * 2));
        let mut late: Vec<Duration> = (0..8)
            .map(|_| {
                let start = Instant::now();
                dialled.write_all(b"x").unwrap();
                accepted.read_exact(&mut [0]).unwrap();
                start.elapsed().checked_sub(delay).expect("no octet comes early")
            })
            .collect();
        late.sort();
        // The median: a busy machine may hold up single ones.
        assert!(late[4] < Duration::from_millis(10), "{late:?}");
    }

    #[test]
    fn a_rate_spaces_what_is_sent_in_one_piece() {
        let (_link, dialled, mut accepted) = joined(Settings::default().rate(1_000_000));
        let start = Instant::now();
        let sender = send(dialled, content(300_000));
        let mut received = Vec::new();
        accepted.read_to_end(&mut received).unwrap();
        let time = start.elapsed();
        sender.join().unwrap();
        assert_eq!(received.len(), 300_000);
        assert!(time >= Duration::from_millis(290), "{time:?}");
        assert!(time < Duration::from_millis(900), "{time:?}");
    }

    #[test]
    fn a_black_hole_is_silent_and_keeps_what_was_under_way() {
        let (link, mut dialled, mut accepted) = joined(Settings::default());
        dialled.write_all(b"before").unwrap();
        accepted.read_exact(&mut [0; 6]).unwrap();
        link.hold();
        dialled.write_all(b"during").unwrap();
        accepted.set_read_timeout(Some(Duration::from_millis(150))).unwrap();
        let silent = accepted.read(&mut [0; 1]).unwrap_err();
        assert_eq!(silent.kind(), io::ErrorKind::WouldBlock);
        assert_eq!((link.forwarded().0, link.connections()), (6, 1));
        link.release();
        accepted.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let mut during = [0; 6];
        accepted.read_exact(&mut during).unwrap();
        assert_eq!(&during, b"during");
    }

    #[test]
    fn a_cut_resets_both_sides_and_the_next_connection_works() {
        let target = TcpListener::bind("127.0.0.1:0").unwrap();
        let link = Link::start(target.local_addr().unwrap(), Settings::default()).unwrap();
        let mut dialled = TcpStream::connect(link.address()).unwrap();
        let mut accepted = target.accept().unwrap().0;
        dialled.write_all(b"x").unwrap();
        accepted.read_exact(&mut [0]).unwrap();
        link.cut();
        for side in [&mut dialled, &mut accepted] {
            let error = side.read(&mut [0]).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
        }
        assert_eq!(link.connections(), 0);
        let mut again = TcpStream::connect(link.address()).unwrap();
        again.write_all(b"y").unwrap();
        let mut octet = [0];
        target.accept().unwrap().0.read_exact(&mut octet).unwrap();
        assert_eq!((&octet, link.accepted()), (b"y", 2));
    }

    #[test]
    fn a_reset_of_one_side_reaches_the_other_as_a_reset() {
        let (_link, mut dialled, accepted) = joined(Settings::default());
        SockRef::from(&accepted).set_linger(Some(Duration::ZERO)).unwrap();
        drop(accepted);
        let error = dialled.read(&mut [0]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    }

    #[test]
    fn a_target_that_refuses_is_seen_as_a_reset() {
        let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let link = Link::start(closed, Settings::default()).unwrap();
        let mut dialled = TcpStream::connect(link.address()).unwrap();
        dialled.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        assert_eq!(dialled.read(&mut [0]).unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    }

    #[test]
    fn a_receiver_that_does_not_read_stops_the_sender_at_the_queue() {
        let way = Way { queue: 100_000, ..Way::default() };
        let (link, dialled, mut accepted) = joined(Settings { up: way, down: way });
        let octets = 64 << 20;
        let (tell, told) = mpsc::channel();
        let sender = thread::spawn(move || {
            let mut dialled = dialled;
            let block = vec![7; 1 << 16];
            for _ in 0..octets / block.len() {
                dialled.write_all(&block).unwrap();
            }
            tell.send(()).unwrap();
        });
        assert!(told.recv_timeout(Duration::from_millis(300)).is_err(), "nobody stopped it");
        let before = link.forwarded().0;
        assert!(before < octets as u64 / 2, "{before}");
        let mut received = 0;
        let mut block = vec![0; 1 << 16];
        while received < octets {
            received += accepted.read(&mut block).unwrap();
        }
        told.recv_timeout(Duration::from_secs(20)).unwrap();
        sender.join().unwrap();
    }
}
