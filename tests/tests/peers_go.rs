//! A peer over Debian's Go framer in both roles, strict about its windows of 65,536 octets and of
//! 1 MiB.

use spdy_tests::peers::{Stack, scenario};

const SMALL: &[&str] = &["--window", "65536"];
const LARGE: &[&str] = &["--window", "1048576"];
/// What npm's stack may overrun a window by: a chunk less one octet.
const LENIENT: &[&str] = &["--window", "65536", "--slack", "8191"];
/// Announces nothing at the start: only its silence tells it from an old peer.
const QUIET: &[&str] = &["--quiet"];

#[test]
fn go_agent_and_go_proxy_agree() {
    scenario::others_among_themselves((Stack::Go, SMALL), (Stack::Go, LARGE));
}

#[test]
fn go_agent_and_node_proxy_agree() {
    scenario::others_among_themselves((Stack::Go, LENIENT), (Stack::Node, SMALL));
}

#[test]
fn node_agent_and_go_proxy_agree() {
    scenario::others_among_themselves((Stack::Node, LARGE), (Stack::Go, LENIENT));
}

#[test]
fn our_proxy_fetches_from_go_agent_with_small_windows() {
    scenario::our_proxy_fetches_from(Stack::Go, SMALL);
}

#[test]
fn our_proxy_fetches_from_go_agent_with_large_windows() {
    scenario::our_proxy_fetches_from(Stack::Go, LARGE);
}

#[test]
fn our_proxy_finds_out_a_quiet_go_agent() {
    scenario::our_proxy_fetches_from(Stack::Go, QUIET);
}

#[test]
fn our_agent_serves_go_proxy_with_small_windows() {
    scenario::our_agent_serves(Stack::Go, SMALL);
}

#[test]
fn our_agent_serves_go_proxy_with_large_windows() {
    scenario::our_agent_serves(Stack::Go, LARGE);
}

#[test]
fn our_agent_finds_out_a_quiet_go_proxy() {
    scenario::our_agent_serves_a_quiet_proxy(Stack::Go, QUIET);
}
