//! What the keepers of one agent have in common, and what they do with a tunnel's streams.

use std::{
    cell::{Cell, RefCell},
    fmt,
    future::{Future, poll_fn},
    net::{IpAddr, SocketAddr},
    pin::{Pin, pin},
    rc::{Rc, Weak},
    sync::Arc,
    task::Poll,
    time::Duration,
};

use async_channel::Sender;
use async_executor::{LocalExecutor, Task};
use async_io::Timer;
use futures_lite::future::or;
use spdy_protocol::{
    budget::Budget,
    error::Error,
    frame::Reason,
    handshake::{Credentials, Features, Hello, Put},
    head::RequestHead,
    tunnel::{Incoming, Stream, Tunnel},
};

use super::{Naming, Proxy, SOFTWARE, Settings, shares::Shares, view::View};
use crate::{dial::Address, log::Log};

/// What the keepers of one agent have in common.
pub(super) struct Shared {
    /// Weak: the tasks hold this, and the executor holds the tasks.
    pub(super) executor: Weak<LocalExecutor<'static>>,
    pub(super) shares: Rc<Shares>,
    pub(super) budget: Arc<Budget>,
    pub(super) run: [u8; 8],
    pub(super) epoch: Cell<u64>,
    pub(super) naming: Sender<Naming>,
    /// Full if a tunnel has come or gone.
    pub(super) changes: Sender<()>,
    /// Where the proxies of the configuration answered last.
    pub(super) connected: RefCell<Vec<(Address, SocketAddr)>>,
    pub(super) settings: RefCell<Rc<Settings>>,
    pub(super) log: Log,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl Shared {
    /// What the tunnel announces. Without services there is nothing to change the protocol with,
    /// and a request that asks to would hold its stream open for nothing.
    pub(super) fn can(&self) -> Features {
        Features { stored: true, upgrade: self.settings().has_services(), splice: true }
    }

    pub(super) fn put(&self, proxy: &Proxy) -> Put {
        let epoch = self.epoch.get() + 1;
        self.epoch.set(epoch);
        let settings = self.settings();
        let token = proxy.token.as_ref().filter(|_| proxy.trust.is_verified());
        Put {
            host: proxy.address.to_string(),
            credentials: token
                .map_or(Credentials::None, |token| Credentials::Bearer(token.secret().to_owned())),
            hello: Some(Hello {
                origin: settings.name.clone(),
                instance: settings.instance,
                run: self.run,
                epoch,
                can: self.can(),
                software: SOFTWARE.to_owned(),
                register: None,
            }),
        }
    }

    /// Serves what the proxy asks for, until no more can come. A request's task ends with its
    /// stream, and every stream ends with its tunnel.
    pub(super) async fn accept(&self, tunnel: &Tunnel, incoming: &mut Incoming) -> Accepted {
        loop {
            let mut accept = pin!(incoming.accept());
            let next = poll_fn(|cx| match accept.as_mut().poll(cx) {
                Poll::Ready(Some(request)) => Poll::Ready(Ok(request)),
                Poll::Ready(None) => Poll::Ready(Err(Accepted::Ended)),
                // GOAWAY wakes who accepts.
                Poll::Pending if !tunnel.is_open() => Poll::Ready(Err(Accepted::Last)),
                Poll::Pending => Poll::Pending,
            });
            match next.await {
                Ok((head, stream)) => self.serve(head, stream),
                Err(last) => return last,
            }
        }
    }

    /// Waits for the end of a tunnel that drains; after `grace` it is cut.
    pub(super) async fn finish(
        &self,
        tunnel: &Tunnel,
        incoming: &mut Incoming,
        driver: &mut Task<Result<(), Error>>,
        grace: Duration,
    ) {
        let drained = async {
            while let Some((head, stream)) = incoming.accept().await {
                self.serve(head, stream);
            }
            true
        };
        let late = async {
            Timer::after(grace).await;
            false
        };
        if !or(drained, late).await {
            tunnel.close(Reason::Ok);
        }
        // The driver bounds the time that its last frames have.
        let _ = driver.await;
    }

    fn serve(&self, head: RequestHead, stream: Stream) {
        if let Some(look) = self.shares.look_again() {
            self.spawn(look).detach();
        }
        self.spawn(self.shares.clone().serve(head, stream)).detach();
    }

    pub(super) fn settings(&self) -> Rc<Settings> {
        self.settings.borrow().clone()
    }

    pub(super) fn name_peers(&self, by: Rc<View>, from: IpAddr, peers: Vec<String>) {
        // Fails when the agent is about to end.
        let _ = self.naming.try_send(Naming { by, from, peers });
    }

    pub(super) fn on_connected(&self, address: &Address, peer: SocketAddr) {
        let mut connected = self.connected.borrow_mut();
        connected.retain(|(known, _)| known != address);
        connected.push((address.clone(), peer));
    }

    /// Where the proxies of the configuration are. A tunnel there for a peer would be a second one
    /// to the same proxy, and take the name from the first.
    pub(super) fn occupied(&self) -> Vec<SocketAddr> {
        self.connected.borrow().iter().map(|(_, peer)| *peer).collect()
    }

    pub(super) fn spawn<T: 'static>(&self, task: impl Future<Output = T> + 'static) -> Task<T> {
        let executor = self.executor.upgrade();
        let task: Pin<Box<dyn Future<Output = T>>> = Box::pin(task);
        executor.expect("who calls this is a task of that executor").spawn(task)
    }
}

/// Why nothing is accepted any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Accepted {
    /// The proxy said GOAWAY; what it asked for before that still runs.
    Last,
    /// We did: the tunnel was agreed under other settings.
    Renewed,
    /// Our address is gone, and nothing that is sent from it arrives.
    Gone,
    /// The session has ended.
    Ended,
}
