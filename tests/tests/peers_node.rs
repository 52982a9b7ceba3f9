//! npm's `spdy-transport` 3.0.0 in both roles, with windows of 65,536 octets and of 1 MiB.

use spdy_tests::peers::{Stack, scenario};

const SMALL: &[&str] = &["--window", "65536"];
const LARGE: &[&str] = &["--window", "1048576"];
/// With its largest frames, as Amahi's proxy would want them.
const LARGE_CHUNKS: &[&str] = &["--window", "65536", "--chunk", "16384"];

/// Above every file: credit for a stream whose data is all out is answered with RST by npm's
/// server, now and then ahead of the FIN, and npm's own client takes that for a failure.
const WHOLE: &[&str] = &["--window", "33554432"];

#[test]
fn node_agent_and_node_proxy_agree() {
    scenario::others_among_themselves((Stack::Node, SMALL), (Stack::Node, WHOLE));
}

#[test]
fn our_proxy_fetches_from_node_agent_with_small_windows() {
    scenario::our_proxy_fetches_from(Stack::Node, SMALL);
}

#[test]
fn our_proxy_fetches_from_node_agent_with_large_windows() {
    scenario::our_proxy_fetches_from(Stack::Node, LARGE);
}

#[test]
fn our_proxy_fetches_from_node_agent_with_large_chunks() {
    scenario::our_proxy_fetches_from(Stack::Node, LARGE_CHUNKS);
}

#[test]
fn our_agent_serves_node_proxy_with_small_windows() {
    scenario::our_agent_serves(Stack::Node, SMALL);
}

#[test]
fn our_agent_serves_node_proxy_with_large_windows() {
    scenario::our_agent_serves(Stack::Node, LARGE);
}
