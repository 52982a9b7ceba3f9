//! Requests to the share whose disk comes, goes and is replaced, and those changes themselves.

use std::{sync::PoisonError, time::Duration};

use fastrand::Rng;

use super::{
    client::Plan,
    content::Value,
    files::{choose, delete_of, describe, framing, get_of, put_to},
    judge::{Effect, Key, Outcome},
    tree::{BENEATH, MEDIA},
    world::{World, outcome, status},
};

/// Puts another disk over the share, or takes it away.
pub fn change(world: &World, rng: &mut Rng) {
    let mut medium = world.medium.write().unwrap();
    let to = MEDIA[rng.usize(..MEDIA.len())];
    if to == *medium {
        return;
    }
    if world.tree.mount(*medium, to, rng.bool()) {
        let label = |dir: usize| world.tree.directories[dir].label;
        world.note(&format!("disk: {} instead of {}", label(to), label(*medium)));
        world.count("disk");
        *medium = to;
    }
}

/// PUT, GET, DELETE on the share whose disk comes and goes; all of one is served by one disk.
pub fn on_disk(world: &World, rng: &mut Rng) {
    let medium = world.medium.read().unwrap_or_else(PoisonError::into_inner);
    let target = choose(world, rng, &[*medium]);
    match rng.u8(..6) {
        0..=2 => put_to(world, rng, &target),
        3 | 4 => get_of(world, &target),
        _ => delete_of(world, &target),
    }
}

/// A slow PUT over changes of the disk: it may be stored on any of those that were there from the
/// moment that its last byte was sent, and on no other.
pub fn over_disks(world: &World, rng: &mut Rng) {
    let (op, len) = (world.op(), rng.usize(1_000..30_000));
    let target = choose(world, rng, &[BENEATH]);
    let mut plan = Plan::new("PUT", &target.path).body(framing(rng), world.content(op, len));
    (plan.pieces, plan.pause) = (rng.usize(4..12), Duration::from_millis(rng.u64(100..400)));
    let text = format!("{} over changes of the disk", describe(&plan, &target));
    let key = |dir: usize| Key { dir, name: target.key.name.clone() };
    let start = world.now();
    for dir in MEDIA {
        world.model().begin(&key(dir), op, &text, start, Effect::Write(Value::File(op)));
    }
    let mut held = None;
    // From here on the disk stays: what is told now is told of it.
    let exchange = plan.run(world.http, || held = world.medium.read().ok());
    let status = status(&exchange);
    let (outcome, now) = (outcome(&exchange), world.now());
    for dir in MEDIA {
        // An early answer may have come before any change.
        let is_there = held.as_deref().is_none_or(|medium| *medium == dir);
        let outcome = match outcome {
            Outcome::Success if !is_there => Outcome::Refused,
            Outcome::Success if held.is_none() => Outcome::Unknown,
            outcome => outcome,
        };
        world.model().end(&key(dir), op, now, outcome, &status);
    }
    drop(held);
    world.note(&format!("op {op} {text} -> {status}"));
    world.count(&format!("PUT over disks {status}"));
}
