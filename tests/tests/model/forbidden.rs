//! Requests to what no client may change: they must not succeed, and nothing may come of them.
//!
//! Names that are hidden or the agent's own, a read-only share by a link of a writable one, what
//! lies outside, links themselves, and the directories of other shares.

use std::fs;

use fastrand::Rng;

use super::{
    client::Plan,
    content::Value,
    files::{choose, describe, framing, places},
    judge::{Effect, Key, Outcome},
    tree::{DOCS, ELSEWHERE, OUTSIDE, PUBLIC},
    world::{Target, World},
};

pub fn act(world: &World, rng: &mut Rng) {
    match rng.u8(..8) {
        0 | 1 => {
            let target = hidden(world, rng);
            change(world, rng, &target, "hidden-name-changed");
        }
        2 => onto_link(world, rng),
        3 => move_share(world, rng),
        _ => {
            let target = choose(world, rng, &[PUBLIC, OUTSIDE, ELSEWHERE]);
            let label = world.tree.directories[target.key.dir].label;
            change(world, rng, &target, &format!("{label}-changed"));
        }
    }
}

/// A name that exists for nobody.
fn hidden(world: &World, rng: &mut Rng) -> Target {
    let dir = places(world, rng)[0];
    let prefix = &world.tree.directories[dir].paths[0];
    let names =
        [".hidden", ".spdy-put-1", ".spdy-uploads", ".spdy-uploads/x", "%2e%2e/x", "%2espdy-x"];
    let long = "y".repeat(256);
    let name = if rng.u8(..6) == 0 { &long } else { names[rng.usize(..names.len())] };
    let key = Key { dir, name: name.as_bytes().to_vec() };
    Target { key, path: format!("{prefix}{name}") }
}

/// Any change of it.
fn change(world: &World, rng: &mut Rng, target: &Target, kind: &str) {
    let (op, key) = (world.op(), target.key.clone());
    let other = choose(world, rng, &[0, DOCS]);
    let moved = |from: &Key, to: &Key| {
        vec![(to.clone(), Effect::MoveFrom(from.clone())), (from.clone(), Effect::Remove)]
    };
    let (plan, effects) = match rng.u8(..4) {
        0 => (Plan::new("DELETE", &target.path), vec![(key, Effect::Remove)]),
        1 => {
            let plan = Plan::new("MOVE", &target.path).with("Destination", &other.path);
            (plan, moved(&key, &other.key))
        }
        2 => {
            let plan = Plan::new("MOVE", &other.path).with("Destination", &target.path);
            (plan, moved(&other.key, &key))
        }
        _ => {
            let plan = Plan::new("PUT", &target.path).body(framing(rng), world.content(op, 500));
            (plan, vec![(key, Effect::Write(Value::File(op)))])
        }
    };
    let text = describe(&plan, target);
    let (_, outcome) = world.change(op, &plan, &text, &effects);
    if outcome == Outcome::Success {
        world.violate(kind, &format!("{text} succeeded"));
    }
}

/// A link is not replaced, nor written through.
fn onto_link(world: &World, rng: &mut Rng) {
    let links = ["/link", "/docs/to-file", "/out", "/to-pub", "/link/up"];
    let path = links[rng.usize(..links.len())];
    // Nobody asks the model about it; the layout is looked at.
    let key = Key { dir: DOCS, name: b"\0link".to_vec() };
    change_onto(world, rng, &Target { key, path: path.to_owned() });
}

fn change_onto(world: &World, rng: &mut Rng, target: &Target) {
    let op = world.op();
    let (plan, effects) = if rng.bool() {
        let plan = Plan::new("PUT", &target.path).body(framing(rng), world.content(op, 500));
        (plan, Vec::new())
    } else {
        let from = choose(world, rng, &[0, DOCS]);
        let plan = Plan::new("MOVE", &from.path).with("Destination", &target.path);
        (plan, vec![(from.key, Effect::Remove)])
    };
    let text = describe(&plan, target);
    let (_, outcome) = world.change(op, &plan, &text, &effects);
    if outcome == Outcome::Success {
        world.violate("link-replaced", &format!("{text} succeeded"));
    }
}

/// The directory of another share gets no other name.
fn move_share(world: &World, rng: &mut Rng) {
    let (path, at) = [("/link/up/pub", "root/pub"), ("/docs", "root/docs")][rng.usize(..2)];
    let plan = Plan::new("MOVE", path).with("Destination", "/share-that-was-moved");
    let op = world.op();
    let (_, outcome) = world.change(op, &plan, &format!("MOVE {path} /share-that-was-moved"), &[]);
    let (at, moved) = (world.tree.root.join(at), world.tree.root.join("root/share-that-was-moved"));
    if outcome == Outcome::Success {
        world.violate(
            "share-moved",
            &format!("MOVE of {path}, the directory of a share, succeeded"),
        );
    }
    if moved.exists() && !at.exists() {
        let _ = fs::rename(moved, at);
    }
}
