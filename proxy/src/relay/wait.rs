//! The wait for an origin that is away.
//!
//! It owns who may wait, for how long, and that whoever goes away does not. It does not own the
//! places ([`crate::hold`]) nor what is asked then.

use std::{sync::Arc, time::Duration};

use async_io::Timer;
use futures_lite::future;

use super::{Visit, failure::Failure};
use crate::{
    access::Access,
    hold::{Hold, place},
    registry::{Route, Upstream, Way},
    stop::Phase,
};

/// Why a wait came to nothing before its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stopped {
    /// The visitor has gone.
    Gone,
    /// Another rule holds now.
    Access,
    /// No origin has the name any more.
    Unknown,
    /// Its agent was revoked.
    Revoked,
    /// This proxy ends: whoever comes back goes to another.
    Ending,
}

/// The tunnel for a request to `host`, for a visitor whom `way.access` let in. If there is none
/// and `may_wait`, waits for one as long as the setting says. Cancel safe.
///
/// # Errors
/// `failed`, or else [`Failure::Away`], where nobody waits; [`Failure::Away`] after a wait.
pub(super) async fn tunnel(
    visit: &Visit,
    host: &str,
    way: Way,
    may_wait: bool,
    failed: Option<Failure>,
) -> Result<Arc<Upstream>, Failure> {
    let since = match way.route {
        Route::Tunnel(upstream) if upstream.tunnel.is_open() => return Ok(upstream),
        // It ends; the next one is on its way.
        Route::Tunnel(_) => None,
        Route::Away(since) => Some(since),
        Route::Unknown => return Err(Failure::Unknown),
    };
    let (shared, limits) = (visit.shared(), &visit.shared().settings.timings);
    let away = Failure::Away(since.flatten());
    let is_recent = |hold: &&Arc<Hold>| since.is_none() || hold.is_lost_within(limits.recent);
    let hold = way.hold.as_ref().filter(|_| may_wait && !limits.hold.is_zero()).filter(is_recent);
    let places = hold.and_then(|hold| place(&hold.requests, &shared.held_requests));
    let (Some(hold), Some(_places)) = (hold, places) else { return Err(failed.unwrap_or(away)) };
    let too_long = async {
        Timer::after(limits.hold).await;
        None
    };
    let come = async { Some(arrival(visit, host, &way.access, hold).await) };
    match future::or(come, too_long).await {
        Some(Ok(upstream)) => Ok(upstream),
        Some(Err(Stopped::Access)) => Err(Failure::Refused),
        Some(Err(Stopped::Unknown)) => Err(Failure::Unknown),
        // If the visitor only listens, it is told.
        Some(Err(Stopped::Gone | Stopped::Ending | Stopped::Revoked)) => Err(away),
        None => match shared.registry.way(host).route {
            Route::Away(since) => Err(Failure::Away(since)),
            _ => Err(away),
        },
    }
}

/// Waits, without end, until an open tunnel leads to `host` for whom `access` let in. Cancel safe.
///
/// # Errors
/// [`Stopped`].
pub(super) async fn arrival(
    visit: &Visit,
    host: &str,
    access: &Access,
    hold: &Hold,
) -> Result<Arc<Upstream>, Stopped> {
    let shared = visit.shared();
    let before = visit.socket.presence();
    loop {
        let seen = hold.arrivals();
        let way = shared.registry.way(host);
        if way.access != *access {
            return Err(Stopped::Access);
        }
        match way.route {
            Route::Tunnel(upstream) if upstream.tunnel.is_open() => return Ok(upstream),
            Route::Unknown => return Err(Stopped::Unknown),
            _ if way.hold.is_none() => return Err(Stopped::Revoked),
            _ => {}
        }
        if shared.stop.phase() > Phase::Running {
            return Err(Stopped::Ending);
        }
        // hyper does not read while it waits for us; a FIN from before was one that listens.
        if visit.socket.presence() > before {
            return Err(Stopped::Gone);
        }
        future::or(hold.arrived(seen), async {
            Timer::after(LOOK).await;
        })
        .await;
    }
}

/// Time between two looks at what announces itself to nobody.
const LOOK: Duration = Duration::from_millis(250);
