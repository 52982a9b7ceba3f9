//! The HTTP port: visitors connect, and hyper speaks HTTP/1 with them.
//!
//! It owns accepting, TLS and the life of a connection: its deadlines, its end. It does not own
//! what a request leads to ([`crate::relay`], [`crate::admin`]).

use std::{
    cell::Cell,
    convert::Infallible,
    future::{Future, poll_fn},
    net::{SocketAddr, TcpListener, TcpStream},
    pin::pin,
    rc::Rc,
    sync::{Arc, atomic::Ordering::Relaxed},
    task::Poll,
    time::Duration,
};

use async_io::{Async, Timer};
use futures_lite::{AsyncRead, AsyncWrite, future};
use http::{Request, Response, Version};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use rustls::ServerConfig;

use crate::{
    admin,
    gate::Pass,
    identities::Live,
    lobby::Ticket,
    relay::{self, Body, Visit},
    request_line::Claim,
    settings::Settings,
    socket::{Socket, VisitorIo},
    stop::Phase,
    tls::TlsStream,
    watch::Wait,
    worker::Worker,
};

/// ALPN names of the HTTP port.
pub(crate) const ALPN: [&[u8]; 1] = [b"http/1.1"];

/// Accepts visitors, from when they are ours until the server is told to stop.
pub(crate) async fn accept(worker: Rc<Worker>, listener: Arc<Async<TcpListener>>) {
    let shared = Arc::clone(&worker.shared);
    let address = listener.get_ref().local_addr();
    let is_exposed = address.map_or(true, |address| is_exposed(&shared.settings, &address));
    let server = Rc::new(builder(shared.settings.bounds.buffer));
    let _accepts = shared.acceptors.enter().await;
    let accepting = async {
        loop {
            // Room comes first: who is too many waits in the kernel, and is not refused.
            shared.connections.room().await;
            match listener.accept().await {
                Ok((stream, peer)) => {
                    let pass = shared.connections.enter().await;
                    shared.accepted.fetch_add(1, Relaxed);
                    let (owner, server) = (Rc::clone(&worker), Rc::clone(&server));
                    let tls = shared.http_tls.as_ref().map(Live::config);
                    let places = (pass, shared.visitors.enter(peer.ip()));
                    worker.spawn(serve(owner, server, stream, peer, tls, is_exposed, places));
                }
                Err(error) => {
                    shared.http_errors.count(shared.settings.log, &error);
                    Timer::after(ACCEPT_PAUSE).await;
                }
            }
        }
    };
    shared.stop.reached(Phase::Running).await;
    future::or(accepting, shared.stop.reached(Phase::Draining)).await;
}

/// Whether a password that comes to `address` could be read on its way. The address that we listen
/// on counts, not that of who comes: 0.0.0.0 is there for all.
pub(crate) fn is_exposed(settings: &Settings, address: &SocketAddr) -> bool {
    let is_local = address.ip().to_canonical().is_loopback();
    !(settings.tls || settings.behind_tls || is_local)
}

fn builder(buffer: usize) -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder
        .half_close(true)
        .keep_alive(true)
        .max_buf_size(buffer.max(BUFFER_MIN))
        // Deadlines are ours (crate::watch): hyper's cost a timer per request.
        .header_read_timeout(None);
    // Not pipeline_flush: with it hyper takes a body without any bound and copies it once more.
    builder
}

async fn serve(
    worker: Rc<Worker>,
    server: Rc<http1::Builder>,
    stream: Async<TcpStream>,
    peer: SocketAddr,
    tls: Option<Arc<ServerConfig>>,
    is_exposed: bool,
    (pass, ticket): (Pass, Ticket),
) {
    // These fail only on a connection that is no more.
    let Ok(socket) = Socket::new(stream) else { return };
    if socket.probe().is_err() {
        return;
    }
    let visit = Rc::new(Visit {
        watch: worker.watches.add(worker.limits),
        peer,
        socket: socket.clone(),
        is_secure: tls.is_some(),
        is_exposed,
        must_reset: Cell::new(false),
        has_unread: Cell::new(false),
        _pass: pass,
        ticket,
        worker,
    });
    let speaking = async {
        if visit.ticket.admitted().await {
            shake_hands_and_speak(&visit, &server, socket, tls).await;
        }
    };
    future::or(speaking, visit.ticket.expelled()).await;
}

async fn shake_hands_and_speak(
    visit: &Rc<Visit>,
    server: &http1::Builder,
    socket: Socket,
    tls: Option<Arc<ServerConfig>>,
) {
    match tls {
        None => speak(visit, server, &socket, socket.clone()).await,
        Some(tls) => {
            let limit = visit.shared().settings.timings.head;
            let shaken =
                future::or(async { TlsStream::accept(tls, socket.clone()).await.ok() }, async {
                    Timer::after(limit).await;
                    None
                });
            if let Some(stream) = shaken.await {
                speak(visit, server, &socket, stream).await;
            }
        }
    }
}

/// Speaks HTTP over `stream`, which is `socket` or TLS over it, until either side has enough.
async fn speak<S>(visit: &Rc<Visit>, server: &http1::Builder, socket: &Socket, stream: S)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(|request| answer(visit, request));
    let io = VisitorIo::new(stream, Arc::clone(&visit.watch));
    let ended = {
        let mut connection = pin!(server.serve_connection(io, service).with_upgrades());
        let mut is_registered = false;
        let mut is_closing = false;
        let mut resets = false;
        poll_fn(|cx| {
            if !is_registered {
                visit.watch.register(cx.waker());
                is_registered = true;
            }
            if visit.watch.is_closing() && !visit.watch.is_fresh() && !is_closing {
                is_closing = true;
                connection.as_mut().graceful_shutdown();
            }
            if let Poll::Ready(ended) = connection.as_mut().poll(cx) {
                return Poll::Ready(ended.map_err(Some));
            }
            if visit.must_reset.get() != resets {
                resets = !resets;
                // Now and not in the end: if this process is killed, the kernel closes.
                socket.reset_on_close(resets);
            }
            match visit.watch.expired() {
                // The exchange itself answers for its agent.
                None | Some(Wait::Agent | Wait::Nothing) => Poll::Pending,
                Some(_) => Poll::Ready(Err(None)),
            }
        })
        .await
    };
    if ended.is_ok() {
        socket.reset_on_close(false);
    }
    match ended {
        Ok(()) if visit.has_unread.get() => linger(visit, socket).await,
        Ok(()) => {}
        Err(error) => {
            socket.reset_on_close(visit.must_reset.get());
            // A request that hyper has answered itself, and a response that was cut.
            let is_told = error.as_ref().is_some_and(|error| error.is_parse() || error.is_user());
            if is_told && visit.must_reset.get() {
                let limit = visit.shared().settings.timings.linger_silence;
                future::or(socket.sent(), async {
                    Timer::after(limit).await;
                })
                .await;
            } else if is_told {
                linger(visit, socket).await;
            }
            // Whatever is wrong with the agent's side was logged there; visitors come and go.
            let cause = error.map_or_else(|| "deadline".to_owned(), |error| error.to_string());
            let log = visit.shared().settings.log;
            log.debug(format_args!("visitor=gone peer={} cause={cause:?}", visit.peer));
        }
    }
}

/// Ends a connection on which a client may still be sending what nobody wants. A close with unread
/// bytes is an RST, which can overtake and destroy our answer; and a client that does not read
/// before it has sent everything must be able to. It keeps its place among the connections, so that
/// it costs what an upload costs; a server that drains waits for it no longer than for silence.
async fn linger(visit: &Visit, socket: &Socket) {
    let timings = &visit.shared().settings.timings;
    socket.finish();
    let too_long = async {
        Timer::after(timings.linger).await;
    };
    let ending = async {
        visit.shared().stop.reached(Phase::Draining).await;
        Timer::after(timings.linger_silence).await;
    };
    let discarded = socket.discard(timings.linger_silence);
    future::or(discarded, future::or(too_long, ending)).await;
}

async fn answer(
    visit: &Rc<Visit>,
    request: Request<Incoming>,
) -> Result<Response<Body>, Infallible> {
    visit.watch.begin_exchange();
    visit.ticket.known();
    let is_known = !visit.watch.has_claimed(Claim::OtherMajor);
    let page = is_known.then(|| admin::answer(visit, &request)).flatten();
    let is_old = request.version() < Version::HTTP_11;
    let response = match page {
        Some(page) => page,
        None => relay::exchange(visit, request).await,
    };
    if is_old {
        visit.watch.old_response.announce();
    }
    Ok(response)
}

/// Pause after a failed accept: the process has no descriptor left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// The least that hyper takes.
const BUFFER_MIN: usize = 8_192;
