//! From a name to addresses.
//!
//! The system's resolver blocks, and may do so for minutes. It owns the one thread that may hang
//! there: whoever comes meanwhile waits, and nothing piles up. How long to wait is the caller's.

use std::{
    fmt, io,
    net::{SocketAddr, ToSocketAddrs},
    sync::Arc,
};

use crate::pool::{Job, Pool};

/// Finds addresses. Clones share its thread.
#[derive(Clone)]
pub struct Resolver {
    lookup: Arc<Lookup>,
    pool: Arc<Pool>,
}

/// Blocks until it knows the addresses of a host, each with this port.
pub type Lookup = dyn Fn(&str, u16) -> io::Result<Vec<SocketAddr>> + Send + Sync;

/// An answer to come.
pub type Answer = Job<io::Result<Vec<SocketAddr>>>;

impl Resolver {
    /// The system's.
    #[must_use]
    pub fn system() -> Self {
        Self::new(|host, port| Ok((host, port).to_socket_addrs()?.collect()))
    }

    /// Another one; for programs that embed the agent, and tests.
    #[must_use]
    pub fn new(
        lookup: impl Fn(&str, u16) -> io::Result<Vec<SocketAddr>> + Send + Sync + 'static,
    ) -> Self {
        Self { lookup: Arc::new(lookup), pool: Arc::new(Pool::new(1)) }
    }

    /// Waits for the thread and asks. Safe to drop; an answer that is dropped is still waited for
    /// by the thread.
    pub async fn ask(&self, host: &str, port: u16) -> Answer {
        let (lookup, host) = (self.lookup.clone(), host.to_owned());
        self.pool.begin(move || lookup(&host, port)).await
    }
}

impl fmt::Debug for Resolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Resolver").field("pool", &self.pool).finish_non_exhaustive()
    }
}
