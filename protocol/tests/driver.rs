//! The driver over transports that give way in every place: the Nth read or write fails, once and
//! for ever, data comes in crumbs. Afterwards nothing is left.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::{
    collections::VecDeque,
    future::Future,
    io,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll, Waker},
    time::Duration,
};

use futures_lite::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, future};
use spdy_protocol::{
    budget::Budget,
    error::Error,
    frame::Reason,
    head::{RequestHead, ResponseHead},
    limits::PROCESS_BUDGET,
    session::{Config, Profile, Side},
    tunnel::{Incoming, OpenError, Stream, Tunnel, tunnel},
};

/// One direction of an in-memory transport.
#[derive(Default)]
struct Wire {
    octets: VecDeque<u8>,
    closed: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

const WIRE: usize = 50_000;

/// When an end fails: counts its reads and writes.
#[derive(Clone, Copy)]
struct Fault {
    at: usize,
    for_ever: bool,
}

struct End {
    input: Arc<Mutex<Wire>>,
    output: Arc<Mutex<Wire>>,
    fault: Option<Fault>,
    calls: usize,
    crumb: usize,
    /// Octets that it has on the way.
    room: usize,
}

fn wires(fault: Option<Fault>, crumb: usize) -> (End, End) {
    let (one, other) = (Arc::<Mutex<Wire>>::default(), Arc::<Mutex<Wire>>::default());
    let client = End {
        input: Arc::clone(&one),
        output: Arc::clone(&other),
        fault,
        calls: 0,
        crumb,
        room: WIRE,
    };
    (client, End { input: other, output: one, fault: None, calls: 0, crumb, room: WIRE })
}

impl End {
    fn fails(&mut self) -> bool {
        self.calls += 1;
        self.fault
            .is_some_and(|fault| self.calls == fault.at || fault.for_ever && self.calls > fault.at)
    }
}

impl AsyncRead for End {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let mut wire = self.input.lock().unwrap();
        if wire.octets.is_empty() && !wire.closed {
            wire.reader = Some(cx.waker().clone());
            return Poll::Pending;
        }
        drop(wire);
        if self.fails() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        let mut wire = self.input.lock().unwrap();
        let count = wire.octets.len().min(buf.len()).min(self.crumb);
        for (to, from) in buf.iter_mut().zip(wire.octets.drain(..count)) {
            *to = from;
        }
        if let Some(writer) = wire.writer.take() {
            writer.wake();
        }
        Poll::Ready(Ok(count))
    }
}

impl AsyncWrite for End {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.fails() {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let mut wire = self.output.lock().unwrap();
        if wire.closed {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let count = buf.len().min(self.room - wire.octets.len()).min(self.crumb);
        if count == 0 {
            wire.writer = Some(cx.waker().clone());
            return Poll::Pending;
        }
        wire.octets.extend(&buf[..count]);
        if let Some(reader) = wire.reader.take() {
            reader.wake();
        }
        Poll::Ready(Ok(count))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut wire = self.output.lock().unwrap();
        wire.closed = true;
        if let Some(reader) = wire.reader.take() {
            reader.wake();
        }
        Poll::Ready(Ok(()))
    }
}

impl Drop for End {
    fn drop(&mut self) {
        for wire in [&self.input, &self.output] {
            let mut wire = wire.lock().unwrap();
            wire.closed = true;
            for waker in [wire.reader.take(), wire.writer.take()].into_iter().flatten() {
                waker.wake();
            }
        }
    }
}

const DOWN: usize = 300_000;
const UP: usize = 200_000;

async fn serve(mut incoming: Incoming) {
    while let Some((head, mut stream)) = incoming.accept().await {
        let served = async {
            if head.method == "PUT" {
                let mut body = Vec::new();
                stream.read_to_end(&mut body).await?;
                assert_eq!(body.len(), UP, "a short upload must fail");
            }
            stream.reply(&ResponseHead::new(200), false).await?;
            stream.write_all(&vec![5; DOWN]).await?;
            stream.close().await
        };
        let _: io::Result<()> = served.await;
    }
}

async fn ask(tunnel: &Tunnel, upload: bool) -> io::Result<()> {
    let mut head = RequestHead::get("/");
    if upload {
        head.method = "PUT".to_owned();
    }
    let stream = tunnel.open(&head, 3, !upload).await.map_err(io::Error::other)?;
    if upload {
        let mut writer = &stream;
        writer.write_all(&vec![6; UP]).await?;
        writer.close().await?;
    }
    assert_eq!(stream.response().await?.status, 200);
    let mut body = Vec::new();
    let mut reader: &Stream = &stream;
    reader.read_to_end(&mut body).await?;
    assert_eq!(body.len(), DOWN, "a body that ended short must fail");
    Ok(())
}

/// One run: whether the requests succeeded; panics if anything is left or hangs.
fn run(fault: Option<Fault>, crumb: usize) -> bool {
    let (client, server) = wires(fault, crumb);
    let budgets = [(); 2].map(|()| Arc::new(Budget::new(PROCESS_BUDGET)));
    let config = |side, at: usize| Config::new(side, Profile::Ours, Arc::clone(&budgets[at]));
    let (near, _, near_driver) = tunnel(client, config(Side::Client, 0), Vec::new());
    let (far, incoming, far_driver) = tunnel(server, config(Side::Server, 1), Vec::new());
    let requests = async {
        let (down, up) = future::zip(ask(&near, false), ask(&near, true)).await;
        near.drain();
        down.is_ok() && up.is_ok()
    };
    let drivers = future::zip(near_driver, far_driver);
    let (ok, ends) = future::block_on(future::zip(future::zip(requests, serve(incoming)), drivers));
    for handle in [&near, &far] {
        assert_eq!((handle.counters().streams_now, handle.counters().budget_used), (0, 0));
    }
    assert_eq!(budgets.map(|budget| budget.used()), [0, 0]);
    assert_eq!(ends.0.is_ok(), ok.0, "{ends:?}");
    ok.0
}

#[test]
fn transfers_succeed_in_any_crumbs() {
    for crumb in [1_000_000, 16_384, 1_000, 77] {
        assert!(run(None, crumb));
    }
}

#[test]
fn nth_read_or_write_fails_once_and_for_ever() {
    for for_ever in [false, true] {
        let mut at = 1;
        while !run(Some(Fault { at, for_ever }), 16_384) {
            at += 1;
            assert!(at < 10_000, "the transfer never succeeds");
        }
        assert!(at > 20, "only {at} reads and writes were tried");
    }
}

#[test]
fn octets_behind_the_handshake_belong_to_the_session() {
    // The server's greeting arrives with the handshake: the client must not lose it.
    let (client, server) = wires(None, 1_000_000);
    let budget = Arc::new(Budget::new(PROCESS_BUDGET));
    let mut settings = Vec::new();
    spdy_protocol::frame::encode_settings(&[(4, 0)], &mut settings);
    let config = Config::new(Side::Client, Profile::Ours, Arc::clone(&budget));
    let (near, _, driver) = tunnel(client, config, settings);
    let _server = server;
    let mut driver = std::pin::pin!(driver);
    future::block_on(async {
        assert!(future::poll_once(&mut driver).await.is_none());
        // The setting allows no stream at all, so this one waits.
        let head = RequestHead::get("/");
        let open = near.open(&head, 3, true);
        assert!(future::poll_once(open).await.is_none());
    });
    drop(near);
}

/// A peer that never stops sending and never hears that it is over.
struct Chatter;

impl AsyncRead for Chatter {
    fn poll_read(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        buf.fill(0);
        Poll::Ready(Ok(buf.len()))
    }
}

impl AsyncWrite for Chatter {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[test]
fn peer_that_never_stops_sending_holds_no_thread_after_the_end() {
    let (sent, ended) = std::sync::mpsc::channel();
    #[expect(clippy::disallowed_methods, reason = "what hangs must fail and not hang the test")]
    std::thread::spawn(move || {
        let budget = Arc::new(Budget::new(PROCESS_BUDGET));
        let mut config = Config::new(Side::Client, Profile::Ours, budget);
        config.timings.ping_answer = Duration::from_millis(50);
        let (near, _, driver) = tunnel(Chatter, config, Vec::new());
        near.close(Reason::Ok);
        sent.send(future::block_on(driver))
    });
    assert!(ended.recv_timeout(Duration::from_secs(20)).is_ok(), "the driver never came back");
}

#[test]
fn openers_that_gave_up_leave_nothing_behind() {
    struct Count;
    impl std::task::Wake for Count {
        fn wake(self: Arc<Self>) {}
    }
    let (client, _server) = wires(None, 1_000_000);
    let budget = Arc::new(Budget::new(PROCESS_BUDGET));
    let mut config = Config::new(Side::Client, Profile::Ours, budget);
    config.streams = 1;
    let (near, _, _driver) = tunnel(client, config, Vec::new());
    let head = RequestHead::get("/");
    let _held = future::block_on(near.open(&head, 3, true)).unwrap();
    let count = Arc::new(Count);
    let waker = Waker::from(Arc::clone(&count));
    for _ in 0..10 {
        let mut open = Box::pin(near.open(&head, 3, true));
        for _ in 0..10 {
            assert!(open.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
        }
    }
    drop(waker);
    // The reactor lets go of timers that were dropped when it next looks at its timers.
    future::block_on(async_io::Timer::after(Duration::from_millis(10)));
    assert_eq!(Arc::strong_count(&count), 1, "a waker keeps the memory of its task");
}

#[test]
fn dropped_driver_ends_everything() {
    let (client, server) = wires(None, 1_000_000);
    let budget = Arc::new(Budget::new(PROCESS_BUDGET));
    let config = Config::new(Side::Client, Profile::Ours, Arc::clone(&budget));
    let (near, mut incoming, driver) = tunnel(client, config, Vec::new());
    let head = RequestHead::get("/");
    let stream = future::block_on(near.open(&head, 3, true)).unwrap();
    drop((driver, server));
    assert!(future::block_on(stream.response()).is_err());
    assert_eq!(future::block_on(near.open(&head, 3, true)).err(), Some(OpenError::Closed));
    assert!(future::block_on(incoming.accept()).is_none());
    drop(stream);
    assert_eq!(budget.used(), 0);
}

#[test]
fn check_asks_a_peer_that_was_not_silent_and_ends_without_an_answer() {
    let (client, _mute) = wires(None, 1_000_000);
    let budget = Arc::new(Budget::new(PROCESS_BUDGET));
    let mut config = Config::new(Side::Client, Profile::Ours, budget);
    config.timings.ping_answer = Duration::from_millis(20);
    let (near, _, driver) = tunnel(client, config, Vec::new());
    // Ages before the first PING by itself.
    near.check();
    assert_eq!(future::block_on(driver), Err(Error::Silent));
    near.check();
    assert!(!near.is_open());
}

#[test]
fn silence_is_noticed_when_nothing_but_credit_is_owed() {
    let (client, mut server) = wires(None, 1_000_000);
    // All that the windows allow goes out: nothing waits for the transport.
    server.room = usize::MAX;
    let budget = Arc::new(Budget::new(PROCESS_BUDGET));
    let config = |side| Config::new(side, Profile::Ours, Arc::clone(&budget));
    let mut timed = config(Side::Server);
    timed.timings.idle_ping = Duration::from_secs(3_600);
    timed.timings.owed_ping = Duration::from_millis(300);
    timed.timings.ping_answer = Duration::from_millis(300);
    let (near, _, mut near_driver) = tunnel(client, config(Side::Client), Vec::new());
    let (far, mut incoming, mut far_driver) = tunnel(server, timed, Vec::new());
    let head = RequestHead::get("/");
    let accepted = async {
        let asking = near.open(&head, 3, true).await.unwrap();
        let (_, accepted) = incoming.accept().await.unwrap();
        // The way is measured, so the end of the credit is no reason to ask.
        far.check();
        while far.counters().round_trip.is_none() {
            future::yield_now().await;
        }
        (asking, accepted)
    };
    let driven = async {
        let ends = future::zip(&mut near_driver, &mut far_driver).await;
        panic!("{ends:?}");
    };
    let (_asking, mut accepted) = future::block_on(future::or(accepted, driven));
    // From here on nobody moves the peer.
    let served = async {
        accepted.reply(&ResponseHead::new(200), false).await?;
        accepted.write_all(&vec![5; 64 << 20]).await
    };
    let (end, served) = future::block_on(future::zip(&mut far_driver, served));
    assert_eq!(end, Err(Error::Silent));
    assert!(served.is_err());
}
