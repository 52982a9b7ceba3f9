//! The faults of a network, a resolver and two programs, each with two figures: who notices within
//! which time, and when there is service again.
//!
//! A row is run twice: with every duration an eighth of its own in `make test`, and with the
//! programs as they are in `make test-long`. It prints a line of the table in docs/testing.md:
//! what was measured, the bound in brackets. Where there are no network namespaces it says so; rows
//! that need none use the link emulator then (`MATRIX_LINK=1` asks for that).
#![expect(clippy::unwrap_used, reason = "a test that panics has failed, with its line")]

mod names;
mod programs;
mod proxies;

mod site;
mod ways;

/// Makes the two tests of each row.
macro_rules! rows {
    ($($module:ident: $($name:ident),+;)+) => {
        mod scaled {
            $($(#[test] fn $name() { crate::$module::$name(crate::site::Pace::Scaled); })+)+
        }
        mod full {
            $($(#[test] #[ignore = "takes up to two minutes: stage long"]
            fn $name() { crate::$module::$name(crate::site::Pace::Full); })+)+
        }
    };
}

rows! {
    ways: black_hole_of_an_idle_tunnel, black_hole_in_a_transfer,
        black_hole_with_a_request_pending, cable_pulled, reset, address_changed, route_flipped,
        dead_resolver, dead_resolver_at_the_start, changed_name, slow_resolver,
        nat_that_forgets_after_30_seconds, nat_that_forgot, line_of_256_kbit_with_127_downloads;
    programs: proxy_killed, proxy_hung, agent_hung, both_suspended;
    proxies: slow_handshake, stall_in_tls, stall_after_put, refusal_of_put;
}
