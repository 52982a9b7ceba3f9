//! Uploads in several requests of which clients know, and who works on them.

use fastrand::Rng;

use super::{
    client::Plan,
    content::Op,
    world::{Target, World},
};

/// An upload whose `Location` a client has.
#[derive(Clone, Debug)]
pub struct Pending {
    pub op: Op,
    pub target: Target,
    pub location: String,
    pub len: usize,
    /// Bytes that the server said it has.
    pub told: usize,
    /// Bytes that were ever sent of it.
    pub sent: usize,
    /// Whether a request was sent that may end it.
    pub may_be_over: bool,
    /// Whether somebody works on it who does not want company.
    pub is_busy: bool,
    /// For directories that are moved: it is looked for below all of these paths.
    pub elsewhere: Vec<String>,
    /// What happened to it, for people.
    pub story: String,
}

/// One that waits, for whoever goes on with it. `alone`: nobody else works on it.
pub fn pick(world: &World, rng: &mut Rng, alone: bool) -> Option<Pending> {
    let mut all = world.pending.lock().unwrap();
    let free: Vec<_> = (0..all.len()).filter(|at| !alone || !all[*at].is_busy).collect();
    let at = *free.get(rng.usize(..free.len().max(1)))?;
    all[at].is_busy = true;
    Some(all[at].clone())
}

pub fn take(world: &World, is_it: impl Fn(&Pending) -> bool) -> Option<Pending> {
    let mut all = world.pending.lock().unwrap();
    let found = all.iter_mut().find(|pending| is_it(pending) && !pending.is_busy)?;
    found.is_busy = true;
    Some(found.clone())
}

pub fn put_back(world: &World, pending: Pending) {
    update(world, pending.op, |pending| pending.is_busy = false);
    // What may be over is looked at no more often than it must be.
    let over = known(world, pending.op).is_some_and(|pending| pending.may_be_over);
    if over {
        let exchange = Plan::new("HEAD", &pending.location).run(world.http, || ());
        if exchange.answer.is_some_and(|answer| {
            answer.status == 404 || answer.header("upload-complete") == Some("?1")
        }) {
            remove(world, pending.op);
        }
    }
}

pub fn known(world: &World, op: Op) -> Option<Pending> {
    world.pending.lock().unwrap().iter().find(|pending| pending.op == op).cloned()
}

pub fn update(world: &World, op: Op, change: impl FnOnce(&mut Pending)) {
    let mut all = world.pending.lock().unwrap();
    if let Some(pending) = all.iter_mut().find(|pending| pending.op == op) {
        change(pending);
    }
}

pub fn remove(world: &World, op: Op) {
    world.pending.lock().unwrap().retain(|pending| pending.op != op);
}
