//! Tunnels that answer every PING and no request: they are given up, so that the agent dials anew.
//!
//! It owns the rule and the look at all tunnels. What a tunnel has neglected is counted by its
//! session ([`spdy_protocol::session::Session::neglected`]).

use std::{future, time::Duration};

use async_io::Timer;
use spdy_protocol::frame::Reason;

use crate::worker::Shared;

/// Looks at all tunnels now and then, for ever.
pub(crate) async fn watch(shared: &Shared) {
    let limit = shared.settings.timings.progress;
    if limit.is_zero() {
        return future::pending().await;
    }
    loop {
        Timer::after((limit / LOOKS).max(LOOK_MIN)).await;
        for upstream in shared.registry.upstreams() {
            let neglected = upstream.tunnel.neglected(limit);
            if neglected >= REQUESTS {
                shared.settings.log.warn(format_args!(
                    "tunnel=recycled origin={} tunnel={} requests={neglected} seconds={}",
                    upstream.origin,
                    upstream.id,
                    limit.as_secs(),
                ));
                upstream.tunnel.close(Reason::InternalError);
            }
        }
    }
}

/// Requests that must have been neglected: one may be for a disk that hangs, three are the agent.
const REQUESTS: usize = 3;
/// Looks within the time that a tunnel may neglect requests.
const LOOKS: u32 = 12;
const LOOK_MIN: Duration = Duration::from_millis(10);
