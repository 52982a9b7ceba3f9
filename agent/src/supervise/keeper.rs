//! Keeps the tunnel to one proxy: its states, and the tasks of a tunnel.
//!
//! No state of a failed connection survives it, except how long we have been away and the last
//! addresses that worked.

use std::{
    future::{Future, pending},
    net::IpAddr,
    rc::Rc,
    time::{Duration, Instant},
};

use async_channel::Receiver;
use async_executor::Task;
use async_io::Timer;
use futures_lite::future::{or, zip};
use ring::rand::{SecureRandom, SystemRandom};
use spdy_protocol::{
    error::Error,
    handshake::{Features, agreed},
    limits,
    session::{Config, Side, Trace},
    tunnel::{self, Incoming, Tunnel},
};

use super::{
    shared::{Accepted, Shared},
    view::View,
};
use crate::{
    backoff::{Absence, Cause},
    dial::{Dialer, Link},
    log::Quoted,
    network,
    origin::forward,
    verify::Trust,
};

/// Where a keeper stands.
///
/// ```text
///        start
///          |
///          v        handshake done
///     Connecting <------------------ (look again)
///       ^    |  \------------------> Connected --\
///  wait |    |                           |       | look again: PING, if our address is there
///  over,|    | failed      GOAWAY, lost, |  <----/
///  look |    |             other settings|
/// again |    v                           |
///     Disconnected <---------------------+
///
///  stop: from Connected after draining, from the others at once
///  a peer that nobody names any more: stop instead of Disconnected
/// ```
///
/// A tunnel that drains does so beside: the next one is dialled while it still serves.
enum State {
    /// Waits before the next dial.
    Disconnected(Cause),
    /// Resolves, dials, shakes hands: [`Dialer`] bounds each of it.
    Connecting,
    /// Serves.
    Connected(Box<Link>),
    /// Was told to end.
    Stopped,
}

/// What a keeper is told while it works.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Nudge {
    /// Addresses or routes of this machine changed.
    Network,
    /// Somebody wants it to try now.
    Asked,
    /// The tunnel must be made anew: it was agreed under other settings.
    Renew,
}

/// See the module.
pub(super) struct Keeper {
    shared: Rc<Shared>,
    view: Rc<View>,
    dialer: Dialer,
    stopped: Receiver<()>,
    nudges: Receiver<Nudge>,
    /// What the last handshake announced.
    can: Features,
    absence: Absence,
    /// Whether a change of the network has started the dial under way anew.
    is_restarted: bool,
    /// Whether the network has changed during a dial that went on.
    has_missed: bool,
    /// Tunnels that drain: they finish what runs while a new one is dialled.
    draining: Vec<(Tunnel, Task<()>)>,
}

impl Keeper {
    /// `inside`: see [`Dialer::of_peer`].
    pub(super) fn new(
        shared: Rc<Shared>,
        view: Rc<View>,
        inside: Option<IpAddr>,
        stopped: Receiver<()>,
        nudges: Receiver<Nudge>,
    ) -> Self {
        let (target, settings) = (view.target(), shared.settings());
        let (address, tls) = (target.proxy.address.clone(), target.tls.clone());
        let mut dialer = Dialer::new(address, tls, settings.dial, settings.resolver.clone());
        if let Some(inside) = inside {
            dialer = dialer.of_peer(inside);
        }
        Self {
            shared,
            view,
            dialer,
            stopped,
            nudges,
            can: Features::default(),
            absence: Absence::new(Instant::now()),
            is_restarted: false,
            has_missed: false,
            draining: Vec::new(),
        }
    }

    pub(super) async fn run(mut self) {
        let mut state = State::Connecting;
        loop {
            state = match state {
                State::Disconnected(_) if !self.view.is_wanted.get() => break,
                State::Disconnected(cause) => self.wait(cause).await,
                State::Connecting => self.connect().await,
                State::Connected(link) => self.serve(*link).await,
                State::Stopped => break,
            };
        }
        self.view.on_stopped();
        self.end_draining().await;
    }

    async fn wait(&mut self, cause: Cause) -> State {
        let settings = self.shared.settings();
        let attempt = settings.backoff.attempt(self.absence.so_far(Instant::now()));
        let delay = settings.backoff.delay(cause, attempt, random());
        self.view.on_waiting(delay);
        let nudged = async {
            loop {
                match self.nudges.recv().await {
                    // What the proxy asked for is not undone by a new route.
                    Ok(Nudge::Network) if !cause.is_of_network() => {}
                    Ok(_) => return State::Connecting,
                    Err(_) => pending().await,
                }
            }
        };
        let waited = async {
            Timer::after(delay).await;
            State::Connecting
        };
        let next = or(stop(&self.stopped, State::Stopped), or(nudged, waited)).await;
        self.absence.on_waited(Instant::now(), cause);
        next
    }

    async fn connect(&mut self) -> State {
        // Whoever nudged before this wanted no more than this.
        while self.nudges.try_recv().is_ok() {}
        let (target, settings) = (self.view.target(), self.shared.settings());
        self.view.on_connecting(settings.dial.resolve.saturating_add(settings.dial.whole));
        self.dialer.set(target.tls.clone(), settings.dial);
        self.dialer.avoid(self.shared.occupied());
        self.can = self.shared.can();
        let (shared, view) = (self.shared.clone(), self.view.clone());
        let put = || shared.put(&target.proxy);
        let dialled = async {
            match self.dialer.dial(&put).await {
                Ok(link) => State::Connected(Box::new(link)),
                Err(error) => {
                    view.on_failed(&error, &shared.log, settings.summary);
                    State::Disconnected(error.cause())
                }
            }
        };
        // A dial that began by the old route would only run into its deadline: it starts anew, but
        // once. A network that changes all the time must not keep every dial from its end.
        let (is_restarted, has_missed) = (&mut self.is_restarted, &mut self.has_missed);
        let nudged = async {
            loop {
                match self.nudges.recv().await {
                    Ok(Nudge::Network) if *is_restarted => *has_missed = true,
                    Ok(nudge) => {
                        *is_restarted = nudge == Nudge::Network;
                        return None;
                    }
                    Err(_) => pending().await,
                }
            }
        };
        let dialled = async { Some(dialled.await) };
        let stopped = stop(&self.stopped, Some(State::Stopped));
        let Some(next) = or(stopped, or(dialled, nudged)).await else { return State::Connecting };
        self.is_restarted = false;
        match next {
            // What it found by the old route says nothing of the new one.
            State::Disconnected(cause) if cause.is_of_network() && self.has_missed => {
                self.has_missed = false;
                State::Connecting
            }
            next => next,
        }
    }

    async fn serve(&mut self, link: Link) -> State {
        let born = Instant::now();
        self.absence.on_tunnel(born);
        let (from, local) = (link.peer.ip(), link.local);
        let spread = link.welcome.as_ref().map_or(Duration::ZERO, |welcome| welcome.spread);
        self.view.on_connected(&link, self.shared.epoch.get());
        if !self.view.is_peer {
            self.announce(&link);
        }
        let (tunnel, mut incoming, driver) = self.start(link);
        self.view.on_tunnel(tunnel.clone(), self.shared.settings().silence());
        if std::mem::take(&mut self.has_missed) {
            tunnel.check();
        }
        let mut driver = self.shared.spawn(driver);

        let shared = self.shared.clone();
        let accepting = async { Some(shared.accept(&tunnel, &mut incoming).await) };
        let nudged = async {
            loop {
                match self.nudges.recv().await {
                    Ok(Nudge::Network) if !local.is_none_or(network::is_own) => {
                        return Some(Accepted::Gone);
                    }
                    Ok(Nudge::Network | Nudge::Asked) => tunnel.check(),
                    Ok(Nudge::Renew) => {
                        tunnel.drain();
                        return Some(Accepted::Renewed);
                    }
                    Err(_) => pending().await,
                }
            }
        };
        let ended = or(stop(&self.stopped, None), or(accepting, nudged)).await;
        if !self.view.is_peer {
            self.shared.name_peers(self.view.clone(), from, Vec::new());
        }
        let Some(ended) = ended else {
            tunnel.drain();
            let grace = shared.settings().grace;
            let finished = shared.finish(&tunnel, &mut incoming, &mut driver, grace);
            zip(finished, self.end_draining()).await;
            self.down(&tunnel, born, "stopped", "this end was told to".to_owned());
            return State::Stopped;
        };
        let settings = self.shared.settings();
        self.absence.on_lost(Instant::now(), &settings.backoff);
        // A proxy that says goodbye as soon as it has said hello is in trouble.
        let is_brief = born.elapsed() < settings.backoff.network;
        let goaway = if is_brief { Cause::Network } else { Cause::Goaway { spread } };
        if ended == Accepted::Gone {
            // Nothing is left to say or to wait for.
            driver.cancel().await;
            self.down(&tunnel, born, "network", GONE.to_owned());
            return State::Disconnected(Cause::Network);
        }
        if ended != Accepted::Ended {
            let is_renewed = ended == Accepted::Renewed;
            let (cause, reason) = if is_renewed { RENEWED } else { GOODBYE };
            self.down(&tunnel, born, cause, reason.to_owned());
            // It serves until the next one does.
            let grace = settings.backoff.spread(spread).saturating_add(settings.grace);
            let held = tunnel.clone();
            self.drain_beside(held, async move {
                shared.finish(&tunnel, &mut incoming, &mut driver, grace).await;
            });
            return if is_renewed { State::Connecting } else { State::Disconnected(goaway) };
        }
        // The driver bounds the time that its last frames have.
        match driver.await {
            Err(error) => {
                self.down(&tunnel, born, "network", error.to_string());
                State::Disconnected(Cause::Network)
            }
            Ok(()) => {
                self.down(&tunnel, born, GOODBYE.0, GOODBYE.1.to_owned());
                State::Disconnected(goaway)
            }
        }
    }

    /// Lets a tunnel finish while the next one is dialled. There are few of them at a time: the
    /// oldest is cut for the newest.
    fn drain_beside(&mut self, tunnel: Tunnel, finish: impl Future<Output = ()> + 'static) {
        self.draining.retain(|(_, task)| !task.is_finished());
        if self.draining.len() == DRAINING_MAX {
            drop(self.draining.remove(0));
        }
        self.draining.push((tunnel, self.shared.spawn(finish)));
    }

    /// Lets what still runs on tunnels that drain finish, and no more begin.
    fn end_draining(&mut self) -> impl Future<Output = ()> + 'static {
        let draining = std::mem::take(&mut self.draining);
        draining.iter().for_each(|(tunnel, _)| tunnel.drain());
        let grace = self.shared.settings().grace;
        async move {
            let finished = async {
                for (_, task) in draining {
                    task.await;
                }
            };
            let late = async {
                Timer::after(grace).await;
            };
            or(finished, late).await;
        }
    }

    /// Tells the agent where a proxy of the configuration is, and which others it named.
    fn announce(&self, link: &Link) {
        let target = self.view.target();
        self.shared.on_connected(&target.proxy.address, link.peer);
        let is_pinned = matches!(target.proxy.trust, Trust::Pins(_));
        if let Some(welcome) = link.welcome.as_ref().filter(|_| is_pinned) {
            let (from, peers) = (link.peer.ip(), welcome.peers.clone());
            self.shared.name_peers(self.view.clone(), from, peers);
        }
    }

    /// Starts the session.
    fn start(
        &self,
        link: Link,
    ) -> (Tunnel, Incoming, impl Future<Output = Result<(), Error>> + 'static) {
        let (settings, log) = (self.shared.settings(), self.shared.log.clone());
        let theirs = link.welcome.as_ref().map(|welcome| welcome.can);
        let (profile, features) = agreed(self.can, theirs);
        let mut config = Config::new(Side::Server, profile, self.shared.budget.clone());
        config.stored_only = features.stored;
        config.uploads = if self.can.upgrade { forward::UPLOADS } else { limits::UPLOADS };
        config.grow = false;
        config.timings = settings.session;
        let address = self.dialer.address();
        if settings.session_debug {
            let (log, proxy) = (log.clone(), address.clone());
            config.trace = Some(Trace::new(move |direction, frame| {
                log.debug(format_args!("event=frame proxy={proxy} {direction:?} {frame}"));
            }));
        }
        let id = link.welcome.as_ref().map_or("", |welcome| welcome.id.as_str());
        log.info(format_args!(
            "event=tunnel_up proxy={address} peer={} id={} name={} epoch={}",
            link.peer,
            Quoted(id),
            settings.name,
            self.shared.epoch.get()
        ));
        log.debug(format_args!(
            "event=session proxy={address} profile={profile:?} features={features:?}"
        ));
        tunnel::tunnel(link.io, config, link.received)
    }

    fn down(&self, tunnel: &Tunnel, born: Instant, cause: &'static str, reason: String) {
        self.log_down(tunnel, born, if cause == "network" { &reason } else { cause });
        self.view.on_down(tunnel.counters(), cause, reason);
    }

    fn log_down(&self, tunnel: &Tunnel, born: Instant, reason: &str) {
        let counters = tunnel.counters();
        self.shared.log.info(format_args!(
            "event=tunnel_down proxy={} reason={} lived_s={} received={} sent={} requests={}",
            self.dialer.address(),
            Quoted(reason),
            born.elapsed().as_secs(),
            counters.octets_received,
            counters.octets_sent,
            counters.streams_opened
        ));
    }
}

/// Ready when the keeper is told to end.
async fn stop<T>(stopped: &Receiver<()>, value: T) -> T {
    // Closed: the only message there is.
    let _ = stopped.recv().await;
    value
}

fn random() -> u32 {
    let mut octets = [0; 4];
    // Without random numbers the longest wait is the polite one.
    match SystemRandom::new().fill(&mut octets) {
        Ok(()) => u32::from_ne_bytes(octets),
        Err(_) => u32::MAX,
    }
}

/// How a tunnel ended: the word of its cause, and the reason.
const GOODBYE: (&str, &str) = ("goaway", "the proxy said goodbye");
const RENEWED: (&str, &str) = ("renewed", "the settings have changed");
const GONE: &str = "our address is gone";
/// Tunnels of one proxy that drain at a time.
const DRAINING_MAX: usize = 4;
