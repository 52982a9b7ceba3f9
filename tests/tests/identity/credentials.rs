//! Tokens and join codes: wrong, borrowed, used, revoked, replaced.

use std::{sync::Arc, time::Duration};

use rustls::HandshakeKind;
use spdy_protocol::handshake::Credentials;
use spdy_tests::{
    fixture::{Builds, Pair, Proxy, Sha256, TempRoot, join, wait_until},
    observe::Debug,
    visitor::{End, Visitor},
    wire::tls::client_config,
};

use crate::{claim::Claim, copied, joined, served, token, wait_for_state, who};

#[test]
fn nobody_gets_in_by_what_is_not_his() {
    let root = served("nas1");
    let pair = Pair::start(root.path());
    let proxy = &pair.proxy;
    let own = token(&pair.config());
    let borrowed = Claim::joined(proxy, "nas2", "token-of-nas2");
    let used = proxy.pair("nas3");
    assert_eq!(Claim::by_code(&used, "x").offer(proxy.tunnel).status(), 200);
    let expired = proxy.tell(&["pair", "nas4", "--valid", "0", "--access", "open"]);
    let expired = expired.lines().last().unwrap();
    let strangers = [
        Claim::new("nas1", Credentials::None),
        Claim::by_token("nas1", "wrong"),
        Claim::by_token("nas1", &own[1..]),
        Claim::by_token("nas1", &own.to_lowercase()),
        // What the proxy keeps of it.
        Claim::by_token("nas1", &Sha256::of(own.as_bytes())),
        Claim { origin: "nas1".to_owned(), ..borrowed.clone() },
        Claim::by_token("nas2", &own),
        Claim::by_token("nobody", &own),
        Claim::by_token("anonymous", &own),
        Claim::new("nas1", Credentials::Join(own.clone())),
        Claim::by_code(&used, "y"),
        Claim::by_code(expired, "y"),
        Claim { origin: "nas1".to_owned(), ..Claim::by_code(&proxy.pair("nas5"), "y") },
    ];
    let refused: Vec<_> = strangers.iter().map(|claim| claim.offer(proxy.tunnel)).collect();
    for (claim, refused) in strangers.iter().zip(&refused) {
        assert!(matches!(refused.status(), 400 | 401), "{claim:?}: {:?}", refused.answer);
    }
    // That a name is known does not show.
    assert_eq!(refused[1].answer, refused[7].answer);
    assert_eq!(who(proxy), "nas1");
    assert_eq!(Debug::of(proxy.http).total("tunnels_now"), 1);
    assert_eq!(borrowed.offer(proxy.tunnel).status(), 200);
}

#[test]
fn revoked_agent_is_cut_at_once_and_stays_out() {
    let root = served("nas1");
    root.random_file("large", 64 << 20, 7);
    let pair = Pair::start(root.path());
    let proxy = &pair.proxy;
    let claim = Claim::by_token("nas1", &token(&pair.config()));
    let config = Arc::new(client_config().unwrap());
    // Of another box, so that the agent keeps its tunnel; its TLS session can be resumed.
    let known = claim.of(2, 2, 1).offer_by(proxy.tunnel, &config).unwrap();
    assert_eq!((known.status(), known.tls), (409, HandshakeKind::Full));
    let mut visitor = Visitor::get(proxy.http, "/large");
    visitor.head();
    visitor.read(100_000);

    assert_eq!(proxy.tell(&["revoke", "nas1"]), "nas1 is revoked\n");
    assert_ne!(visitor.finish().end, End::Whole);
    let line = wait_for_state(proxy, "nas1", "revoked");
    assert!(line.contains("software=\"spdy-agent/") && line.contains("seen="), "{line}");
    pair.agent.program().wait_for("why", |line| line.contains("refused with 401").then_some(()));
    let resumed = claim.of(2, 2, 2).offer_by(proxy.tunnel, &config).unwrap();
    assert_eq!((resumed.status(), resumed.tls), (401, HandshakeKind::Resumed));
    assert_eq!(claim.offer(proxy.tunnel).status(), 401);
    assert_eq!(Debug::of(proxy.http).total("tunnels_now"), 0);

    // A new code, and nothing else, gives the name away again.
    join(&Builds::beside(), &proxy.pair("nas1"), &pair.config());
    let _back = joined(&root, &pair.config());
    wait_until("it is back", || who(proxy) == "nas1");
    assert_eq!(claim.offer(proxy.tunnel).status(), 401);
}

#[test]
fn rotated_token_ends_the_old_one_when_it_is_used() {
    let root = served("nas1");
    let mut pair = Pair::start(root.path());
    let old = Claim::by_token("nas1", &token(&pair.config())).of(2, 2, 1);
    let address = pair.proxy.tunnel.to_string();
    let code = pair.proxy.tell(&["rotate", "nas1", "--address", &address]);
    assert_eq!(code.lines().count(), 1);
    join(&Builds::beside(), code.trim(), &pair.config());
    assert_ne!(Claim::by_token("nas1", &token(&pair.config())).credentials, old.credentials);
    // Registered, and not used yet: both are right, and nobody was cut.
    assert_eq!(who(&pair.proxy), "nas1");
    assert_eq!(old.offer(pair.proxy.tunnel).status(), 409);
    pair.agent.program_mut().kill();
    pair.agent = joined(&root, &pair.config());
    wait_until("it is back", || {
        pair.proxy.program().text().matches("tunnel=up origin=nas1").count() == 2
    });
    assert_eq!(old.offer(pair.proxy.tunnel).status(), 401);
    assert_eq!(who(&pair.proxy), "nas1");
}

#[test]
fn box_that_was_replaced_is_cut_when_the_new_one_joins() {
    let (old, new) = (served("old"), served("new"));
    let pair = Pair::start(old.path());
    let folder = TempRoot::new();
    let config = folder.join("agent.conf");
    join(&Builds::beside(), &pair.proxy.pair("nas1"), &config);
    pair.agent.program().wait_for("why", |line| line.contains("refused with 401").then_some(()));
    let _new = joined(&new, &config);
    wait_until("the new one serves", || who(&pair.proxy) == "new");
}

#[test]
fn agent_that_moved_with_its_configuration_needs_no_new_code() {
    let (old, new) = (served("old"), served("new"));
    let mut pair = Pair::start(old.path());
    let folder = TempRoot::new();
    let config = copied(&pair.config(), &folder, None);
    pair.agent.program().terminate();
    pair.agent.program_mut().wait_exit(Duration::from_secs(10));
    let _moved = joined(&new, &config);
    wait_until("it serves from there", || who(&pair.proxy) == "new");
}

#[test]
fn commands_for_agents_that_are_not_there_say_so() {
    let proxy = Proxy::start(&[]);
    let fails = |args: &[&str]| {
        let mut command = std::process::Command::new(Builds::beside().proxy);
        let state = proxy.state_dir();
        let output = command.args(args).arg("--state-dir").arg(state).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        String::from_utf8(output.stderr).unwrap()
    };
    assert!(fails(&["revoke", "nas1"]).contains("nas1"));
    assert!(fails(&["rotate", "nas1"]).contains("nas1"));
    let _code = proxy.pair("nas1");
    assert!(fails(&["rotate", "nas1"]).contains("nas1"));
}
