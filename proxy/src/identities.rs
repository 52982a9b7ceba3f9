//! The keys and certificates in use, and their change while the server runs.
//!
//! It owns when they are read again. It does not own the files ([`crate::state`]) nor what makes a
//! key and a certificate fit ([`crate::tls`]).

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use data_encoding::HEXLOWER;
use rustls::ServerConfig;

use crate::{
    log::Log,
    state::{Port, Stamp, State},
    tls::{Clients, Identity, IdentityError},
};

/// What a port shows of itself.
#[derive(Debug)]
pub(crate) struct Live {
    port: Port,
    protocols: &'static [&'static [u8]],
    /// Whose certificates are asked for.
    clients: Option<Arc<Clients>>,
    state: Mutex<Held>,
}

#[derive(Debug)]
struct Held {
    config: Arc<ServerConfig>,
    /// The files that `config`, or the last complaint, was made from.
    used: Option<Stamp>,
    /// The files at the last look: who writes two files has a moment between them.
    seen: Option<Stamp>,
}

impl Live {
    /// Shows `identity`, which was read from `state`, by TLS that offers `protocols` and
    /// asks for certificates of `clients`.
    ///
    /// # Errors
    /// When key and certificate do not fit.
    pub(crate) fn new(
        state: &State,
        port: Port,
        identity: &Identity,
        protocols: &'static [&'static [u8]],
        clients: Option<Arc<Clients>>,
    ) -> Result<Self, IdentityError> {
        let config = identity.server_config(protocols, clients.clone())?;
        let stamp = state.stamp(port);
        let held = Held { config, used: stamp.clone(), seen: stamp };
        Ok(Self { port, protocols, clients, state: Mutex::new(held) })
    }

    /// For a connection that begins.
    pub(crate) fn config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.lock().config)
    }

    /// Reads the files again if they have changed and, unless `now`, have stayed the same since
    /// the last look. What is wrong is told once, and what was stays. It blocks.
    pub(crate) fn reload(&self, state: &State, log: Log, now: bool) {
        // Missing files are not made anew here: agents have pinned the key that there was.
        let Some(stamp) = state.stamp(self.port) else { return };
        {
            let mut held = self.lock();
            let is_settled = held.seen.replace(stamp.clone()).as_ref() == Some(&stamp);
            if held.used.as_ref() == Some(&stamp) || !(is_settled || now) {
                return;
            }
            held.used = Some(stamp);
        }
        let port = match self.port {
            Port::Tunnel => "tunnel",
            Port::Http => "http",
        };
        let read = state.identity(self.port).map_err(|error| error.to_string());
        let made = read.and_then(|identity| {
            let config = identity.server_config(self.protocols, self.clients.clone());
            config.map(|config| (config, identity.pin())).map_err(|error| error.to_string())
        });
        match made {
            Ok((config, pin)) => {
                self.lock().config = config;
                let pin = HEXLOWER.encode(&pin);
                log.info(format_args!("certificate=replaced port={port} pin={pin}"));
            }
            Err(error) => {
                log.error(format_args!("certificate=refused port={port} reason={error:?}"));
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Held> {
        // Nothing panics while it is held.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
