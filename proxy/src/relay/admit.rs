//! Whether a visitor may come in, before anything of the origin is told.
//!
//! It owns the order of the questions. It does not own what is right ([`crate::access`]) nor how
//! the answer is told ([`super::failure`]).

use std::sync::Arc;

use http::request::Parts;

use super::{Visit, client::Client, failure::Failure, host::Host};
use crate::{
    access::{self, Access},
    registry::Way,
};

/// The way for `host`, if this visitor may take it. Cancel safe.
///
/// # Errors
/// Why not; the same whether the origin is connected or not.
pub(super) async fn admit(
    visit: &Visit,
    parts: &Parts,
    host: Host<'_>,
    client: Client<'_>,
) -> Result<Way, Failure> {
    let shared = visit.shared();
    let mut way = shared.registry.way(host.as_str());
    loop {
        let password = match &way.access {
            Access::Open => return Ok(way),
            Access::Locked => return Err(Failure::Locked),
            Access::Password(password) => password,
        };
        if visit.is_exposed {
            shared.guard.warn_exposed();
            return Err(Failure::Exposed);
        }
        let user = password.user();
        let Some(credentials) = access::credentials(&parts.headers) else {
            return Err(Failure::Password(user.to_owned()));
        };
        if shared.guard.knows(password, &credentials) {
            return Ok(way);
        }
        let from = client.address(&parts.headers);
        // Boxed: hardly a request comes here, and all would have to hold it.
        let checked = Box::pin(shared.guard.check(Arc::clone(password), credentials, from)).await;
        checked.map_err(|denied| Failure::denied(denied, user))?;
        // That took time, in which the password may have changed.
        let now = shared.registry.way(host.as_str());
        if now.access == way.access {
            return Ok(now);
        }
        way = now;
    }
}
