//! The addresses of a name against each other, up to TLS, in the spirit of RFC 8305.
//!
//! It owns the order of the addresses and when the next one starts: a head start after the one
//! before, at once after a failure. An address that took the connection and then stalls in TLS
//! stops nobody: after a while the next goes on beside it. What the resolver finds while old
//! addresses race joins in. The handshake is not raced, because a proxy would take two of them for
//! two tunnels; that is [`super::Dialer`]'s.

use std::{
    cell::Cell,
    future::{Future, poll_fn},
    io,
    net::{SocketAddr, TcpStream},
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
    time::{Duration, Instant},
    vec,
};

use async_io::{Async, Timer};
use async_rustls::{TlsConnector, client::TlsStream, rustls::pki_types::ServerName};

use super::{DialError, Phase, Timings, deadline};
use crate::socket;

/// A connection whose other end is trusted.
pub(super) type Secured = (TlsStream<Async<TcpStream>>, SocketAddr);

/// An address on its way.
type Attempt = Pin<Box<dyn Future<Output = Result<Secured, DialError>>>>;

/// An answer of the resolver's to come.
type Asking<'a> = Pin<Box<dyn Future<Output = Result<Vec<SocketAddr>, DialError>> + 'a>>;

/// See the module.
pub(super) struct Race<'a> {
    track: Track,
    /// What was found last.
    addresses: Vec<SocketAddr>,
    waiting: vec::IntoIter<SocketAddr>,
    running: Vec<Attempt>,
    timer: Timer,
    failure: DialError,
    /// Nobody has lost before this is here.
    asking: Option<Asking<'a>>,
    /// Why old addresses had to do.
    unresolved: Option<DialError>,
}

impl<'a> Race<'a> {
    pub(super) fn new(
        connector: TlsConnector,
        name: ServerName<'static>,
        timings: Timings,
    ) -> Self {
        Self {
            track: Track { connector, name, timings, lead: Rc::default() },
            addresses: Vec::new(),
            waiting: Vec::new().into_iter(),
            running: Vec::new(),
            timer: Timer::after(Duration::ZERO),
            failure: DialError::Connect(io::ErrorKind::AddrNotAvailable.into()),
            asking: None,
            unresolved: None,
        }
    }

    /// Between these; those that run already run on.
    pub(super) fn between(mut self, addresses: Vec<SocketAddr>) -> Self {
        self.join(addresses);
        self
    }

    /// What the resolver finds joins in.
    pub(super) fn beside(self, asking: Asking<'a>) -> Self {
        Self { asking: Some(asking), ..self }
    }

    /// The resolver finds nothing.
    pub(super) fn without_answer(self, error: DialError) -> Self {
        Self { unresolved: Some(error), ..self }
    }

    /// Why old addresses had to do, if they had.
    pub(super) fn unresolved(&mut self) -> Option<DialError> {
        self.unresolved.take()
    }

    /// What was found last.
    pub(super) fn into_addresses(self) -> Vec<SocketAddr> {
        self.addresses
    }

    /// The next address that is trusted; the others stand still until this is called again.
    ///
    /// # Errors
    /// Nobody is left: what came farthest.
    pub(super) async fn next(&mut self) -> Result<Secured, DialError> {
        poll_fn(|cx| self.poll_next(cx)).await
    }

    /// What the last one came to, if it came to nothing.
    pub(super) fn failed(&mut self, error: DialError) {
        if !error.is_of_connect() {
            // Who led fell: those go on that held for it.
            self.track.lead.set(None);
        }
        if error.depth() >= self.failure.depth() {
            self.failure = error;
        }
        self.timer.set_after(Duration::ZERO);
    }

    fn join(&mut self, addresses: Vec<SocketAddr>) {
        let is_new = |address: &SocketAddr| !self.addresses.contains(address);
        let new = addresses.iter().copied().filter(is_new);
        self.waiting = self.waiting.by_ref().chain(new).collect::<Vec<_>>().into_iter();
        self.addresses = addresses;
        self.timer.set_after(Duration::ZERO);
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Secured, DialError>> {
        if let Some(Poll::Ready(answer)) =
            self.asking.as_mut().map(|asking| asking.as_mut().poll(cx))
        {
            self.asking = None;
            match answer {
                Ok(addresses) => self.join(addresses),
                Err(error) => self.unresolved = Some(error),
            }
        }
        loop {
            let mut at = 0;
            let mut failed = false;
            while at < self.running.len() {
                match self.running[at].as_mut().poll(cx) {
                    Poll::Pending => at += 1,
                    Poll::Ready(outcome) => {
                        drop(self.running.swap_remove(at));
                        match outcome {
                            Ok(secured) => return Poll::Ready(Ok(secured)),
                            Err(error) => self.failed(error),
                        }
                        failed = true;
                    }
                }
            }
            if failed {
                continue;
            }
            if self.waiting.len() == 0 {
                if self.running.is_empty() && self.asking.is_none() {
                    let last = DialError::Connect(io::ErrorKind::AddrNotAvailable.into());
                    return Poll::Ready(Err(std::mem::replace(&mut self.failure, last)));
                }
                return Poll::Pending;
            }
            if !self.running.is_empty() && Pin::new(&mut self.timer).poll(cx).is_pending() {
                return Poll::Pending;
            }
            match self.track.held_until() {
                Some(until) if !self.running.is_empty() => self.timer.set_at(until),
                _ => {
                    let track = self.track.clone();
                    let next =
                        self.waiting.next().map(|address| Box::pin(track.run(address)) as Attempt);
                    self.running.extend(next);
                    self.timer.set_after(self.track.timings.stagger);
                }
            }
        }
    }
}

/// What all attempts of a race have in common.
#[derive(Clone)]
struct Track {
    connector: TlsConnector,
    name: ServerName<'static>,
    timings: Timings,
    /// Until when the others hold for the one that does TLS.
    lead: Rc<Cell<Option<Instant>>>,
}

impl Track {
    async fn run(self, address: SocketAddr) -> Result<Secured, DialError> {
        let connecting = Async::<TcpStream>::connect(address);
        let tcp = deadline(self.timings.connect, Phase::Connect, connecting)
            .await?
            .map_err(DialError::Connect)?;
        socket::tune(&tcp);
        let mut timer = Timer::never();
        poll_fn(|cx| {
            while let Some(until) = self.held_until() {
                timer.set_at(until);
                if Pin::new(&mut timer).poll(cx).is_pending() {
                    return Poll::Pending;
                }
            }
            Poll::Ready(())
        })
        .await;
        self.lead.set(Instant::now().checked_add(self.timings.stall));
        let securing = self.connector.connect(self.name, tcp);
        let tls = deadline(self.timings.tls, Phase::Tls, securing).await?;
        Ok((tls.map_err(DialError::from_tls)?, address))
    }

    fn held_until(&self) -> Option<Instant> {
        self.lead.get().filter(|until| *until > Instant::now())
    }
}
