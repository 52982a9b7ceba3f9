//! Requests to services behind `--forward`, by programs that people use, while both programs and
//! the line between them are disturbed: each request reaches its service once, whole or visibly
//! broken off, and each client sees the status that its service sent.
//!
//! A seed gives a plan (`plan`); clients (`clients`) and a service (`service`) carry it out at the
//! same time as the programs are disturbed (`world`); what both saw is the history, which is judged
//! (`judge`). `EXCHANGES_SEED` repeats a plan, `EXCHANGES_SECONDS` says how long, `MODEL_BUILDS`
//! names a directory with other builds of the programs.
#![expect(clippy::unwrap_used, reason = "a test that panics has failed, with its line")]

mod clients;
mod judge;
mod plan;
mod service;
mod world;

use std::{
    collections::BTreeMap,
    env,
    sync::Mutex,
    time::{Duration, Instant},
};

use crate::{service::lock, world::World};

/// One run at a time: they measure the same processors.
static ALONE: Mutex<()> = Mutex::new(());

#[test]
fn requests_of_a_known_plan_are_carried_out_once() {
    run(FIXED, Duration::from_secs(30));
}

#[test]
fn requests_of_a_new_plan_are_carried_out_once() {
    run(fastrand::u64(..), Duration::from_secs(30));
}

#[test]
#[ignore = "takes half an hour"]
fn requests_of_a_long_plan_are_carried_out_once() {
    run(fastrand::u64(..), Duration::from_secs(1_800));
}

/// Carries out the plan of a seed and fails with what was wrong, if anything was.
fn run(seed: u64, duration: Duration) {
    let _alone = lock(&ALONE);
    let number = |name| env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
    let seed = number("EXCHANGES_SEED").unwrap_or(seed);
    let duration = number("EXCHANGES_SECONDS").map_or(duration, Duration::from_secs);
    println!("EXCHANGES_SEED={seed} EXCHANGES_SECONDS={}", duration.as_secs());
    let begun = Instant::now();
    let mut world = World::start(seed);
    let mut wrong = BTreeMap::<_, Vec<String>>::new();
    let mut round = 0;
    let started = Instant::now();
    while started.elapsed() < duration {
        let left = duration.saturating_sub(started.elapsed()).min(ROUND);
        for (violation, story) in world.round(round, left) {
            wrong.entry(violation).or_default().push(format!("{:?}: {story}", begun.elapsed()));
        }
        round += 1;
    }
    println!("{}", world.summary());
    if !wrong.is_empty() {
        println!("the programs' logs: {}", world.save_log().display());
    }
    let unknown = world.unknown();
    assert!(unknown.is_empty(), "seed {seed}: requests that nobody sent: {unknown:?}");
    let counts: Vec<_> = wrong.iter().map(|(what, stories)| (what, stories.len())).collect();
    let shown: String = wrong
        .iter()
        .flat_map(|(what, stories)| {
            stories.iter().take(SHOWN).map(move |s| format!("{what:?} {s}\n"))
        })
        .collect();
    assert!(counts.is_empty(), "seed {seed}: {counts:?}\n{shown}");
}

/// The plan that every run of the tests carries out.
const FIXED: u64 = 20_261_201;
/// After which the history is judged, and begins anew.
const ROUND: Duration = Duration::from_secs(10);
/// Stories of one kind that are printed.
const SHOWN: usize = 5;
