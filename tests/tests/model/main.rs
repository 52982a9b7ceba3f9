//! A model-based test of everything that changes files: random operations of several clients, under
//! faults, against the real programs, with a model of what each directory entry may hold.
//!
//! docs/testing.md, "The model", says how it is meant and how a violation is tried again.
#![expect(clippy::unwrap_used, reason = "a test that panics has failed, with its line")]

mod check;

mod client;

mod content;

mod disks;

mod files;

mod forbidden;

mod judge;

mod judge_tests;

mod pending;

mod rig;

mod storm;

mod trees;

mod tree;

mod uploads;

mod world;

use std::{
    env,
    io::{self, BufRead, BufReader, Read, Write as _},
    process::{Command, Stdio},
    sync::atomic::Ordering::Relaxed,
    thread,
    time::{Duration, Instant},
};

use fastrand::Rng;
use spdy_tests::skip::skipped_part;

use self::{
    client::{Framing, Plan},
    content::Value,
    judge::{Effect, Key},
    rig::{Fault, Rig},
    tree::{INBOX, Tree},
    world::World,
};

type Act = fn(&World, &mut Rng);

/// What clients do, and how often beside the others.
const OPERATIONS: [(&str, u32, Act); 13] = [
    ("put", 24, files::put),
    ("get", 12, files::get),
    ("delete", 5, files::delete),
    ("move", 20, files::rename),
    ("mkcol", 3, files::make_directory),
    ("form", 5, files::form),
    ("create", 6, |world, rng| {
        uploads::create(world, rng);
    }),
    ("patch", 12, uploads::go_on),
    ("together", 6, uploads::begin_together),
    ("trees", 10, trees::act),
    ("disk", 12, disks::on_disk),
    ("over-disks", 2, disks::over_disks),
    ("forbidden", 4, forbidden::act),
];

/// What happens to the programs, and how often.
const FAULTS: [(&str, u32, Option<Fault>); 11] = [
    ("agent-restart", 4, Some(Fault::AgentRestart)),
    ("agent-replace", 3, Some(Fault::AgentReplace)),
    ("agent-kill", 4, Some(Fault::AgentKill)),
    ("agent-reload", 2, Some(Fault::AgentReload)),
    ("proxy-restart", 2, Some(Fault::ProxyRestart)),
    ("proxy-kill", 2, Some(Fault::ProxyKill)),
    ("proxy-reload", 2, Some(Fault::ProxyReload)),
    ("proxy-handover", 2, Some(Fault::ProxyHandover)),
    ("cut", 4, Some(Fault::Cut)),
    ("silence", 1, Some(Fault::Silence)),
    ("crowd", 9, None),
];

#[test]
fn files_hold_what_was_told_with_a_seed_of_old() {
    within_mounts("files_hold_what_was_told_with_a_seed_of_old", || run(20_261_201, 60));
}

#[test]
fn files_hold_what_was_told_with_a_fresh_seed() {
    within_mounts("files_hold_what_was_told_with_a_fresh_seed", || run(fastrand::u64(..), 60));
}

#[test]
#[ignore = "takes half an hour: stage long"]
fn files_hold_what_was_told_for_half_an_hour() {
    within_mounts("files_hold_what_was_told_for_half_an_hour", || {
        run(fastrand::u64(..), 1_800);
    });
}

/// Runs a test in a process with mounts of its own, which end with it. Where that is not allowed it
/// runs without disks that come and go.
fn within_mounts(name: &str, test: impl FnOnce()) {
    if env::var_os(INSIDE).is_some() {
        return test();
    }
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private"]).arg(env::current_exe().unwrap());
    command.args([name, "--exact", "--include-ignored", "--nocapture"]).env(INSIDE, "disks");
    let can = Command::new("unshare").args(["--mount", "true"]).output();
    if !can.is_ok_and(|output| output.status.success()) {
        skipped_part("disks that come and go: no namespace of mounts");
        return test();
    }
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // Marked: these are not the lines of this process.
    let show = |pipe: Option<Box<dyn Read + Send>>| {
        for line in pipe.map(BufReader::new).into_iter().flat_map(BufRead::lines) {
            let line = line.unwrap();
            // Counted by whoever runs the tests: not to be captured.
            if line.starts_with("skipped part: ") {
                tell_runner(&line);
            }
            println!("| {line}");
        }
    };
    let (out, errors) = (child.stdout.take(), child.stderr.take());
    thread::scope(|scope| {
        scope.spawn(|| show(errors.map(|pipe| Box::new(pipe) as Box<dyn Read + Send>)));
        show(out.map(|pipe| Box::new(pipe) as Box<dyn Read + Send>));
    });
    assert!(child.wait().unwrap().success(), "see above");
}

fn tell_runner(line: &str) {
    // Without standard error there is nobody to tell.
    let _ = io::stderr().write_all(format!("{line}\n").as_bytes());
}

fn has_mounts() -> bool {
    env::var_os(INSIDE).is_some()
}

fn number(name: &str) -> Option<u64> {
    env::var(name).ok()?.parse().ok()
}

/// Whether something is among what `MODEL_ONLY` names, if that is there.
fn is_wanted(name: &str) -> bool {
    env::var("MODEL_ONLY").map_or(true, |only| only.split(',').any(|word| word == name))
}

fn run(seed: u64, for_seconds: u64) {
    let seed = number("MODEL_SEED").unwrap_or(seed);
    let length = Duration::from_secs(number("MODEL_SECONDS").unwrap_or(for_seconds));
    println!("seed {seed}, {} s", length.as_secs());
    let mut rng = Rng::with_seed(seed);
    let tree = Tree::new(has_mounts());
    let begun = Instant::now();
    let root = tree.root.join("root");
    let mut rig = Rig::start(root, tree.arguments(), Duration::from_millis(40));
    let world = World::new(seed, tree, rig.http());
    check::begin(&world, &mut rng);
    rig.wait_until_served();
    while begun.elapsed() < length {
        round(&world, &mut rig, &mut rng, begun + length);
        check::check(&world, &mut rig, &mut rng);
    }
    report(&world, &rig);
}

fn report(world: &World, rig: &Rig) {
    println!("{}", world.counts());
    println!("faults: {:?}", rig.counts);
    let violations = world.violations();
    if violations.is_empty() {
        return;
    }
    let path = env::temp_dir().join(format!("model-{}.log", world.seed));
    std::fs::write(&path, world.log().join("\n")).unwrap();
    println!("the log of operations: {}", path.display());
    let mut kinds: Vec<(&str, usize, f64)> = Vec::new();
    for violation in &violations {
        match kinds.iter_mut().find(|kind| kind.0 == violation.kind) {
            Some(kind) => kind.1 += 1,
            None => kinds.push((&violation.kind, 1, world::seconds(violation.at))),
        }
    }
    for (kind, count, first) in &kinds {
        println!("violated: {kind}, {count} times, first after {first:.1} s");
    }
    panic!("seed {}: {} violations", world.seed, violations.len());
}

/// Clients and faults at once for some seconds.
fn round(world: &World, rig: &mut Rig, rng: &mut Rng, end: Instant) {
    let time = Duration::from_millis(rng.u64(6_000..12_000));
    let end = end.min(Instant::now() + time);
    world.running.store(true, Relaxed);
    thread::scope(|scope| {
        for _ in 0..CLIENTS {
            let mut rng = rng.fork();
            scope.spawn(move || {
                while world.running.load(Relaxed) {
                    act(world, &mut rng);
                }
            });
        }
        let mut disks = rng.fork();
        scope.spawn(move || {
            while world.tree.has_disks && is_wanted("mount") && world.running.load(Relaxed) {
                thread::sleep(Duration::from_millis(disks.u64(300..2_500)));
                disks::change(world, &mut disks);
            }
        });
        // Also when a fault fails: the clients would go on for ever.
        let _stop = Stop(world);
        while Instant::now() < end {
            thread::sleep(Duration::from_millis(rng.u64(200..1_200)));
            happen(world, rig, rng);
        }
    });
}

/// Ends the clients of a round when it is dropped.
struct Stop<'a>(&'a World);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.running.store(false, Relaxed);
    }
}

fn act(world: &World, rng: &mut Rng) {
    let is_possible = |name: &str| {
        is_wanted(name) && (world.tree.has_disks || !["disk", "over-disks"].contains(&name))
    };
    let all = OPERATIONS.iter().filter(|operation| is_possible(operation.0));
    let sum: u32 = all.clone().map(|operation| operation.1).sum();
    assert!(sum > 0, "MODEL_ONLY names no operation");
    let mut at = rng.u32(..sum);
    for (_, weight, act) in all {
        if at < *weight {
            return act(world, rng);
        }
        at -= weight;
    }
}

fn happen(world: &World, rig: &mut Rig, rng: &mut Rng) {
    let all = FAULTS.iter().filter(|fault| is_wanted(fault.0));
    let sum: u32 = all.clone().map(|fault| fault.1).sum();
    if sum == 0 {
        return;
    }
    let mut at = rng.u32(..sum);
    for (_, weight, fault) in all {
        if at >= *weight {
            at -= weight;
            continue;
        }
        match fault {
            Some(fault) => {
                world.note(&format!("fault: {fault:?}"));
                rig.apply(*fault);
            }
            None => crowd(world, rng),
        }
        return;
    }
}

/// As many slow uploads as the agent takes at a time.
fn crowd(world: &World, rng: &mut Rng) {
    world.note("crowd");
    world.count("crowd");
    let pause = Duration::from_millis(rng.u64(80..300));
    thread::scope(|scope| {
        for number in 0..16 {
            scope.spawn(move || {
                let (op, len) = (world.op(), 2_000);
                let path = format!("/inbox/crowd{number}");
                let mut plan = Plan::new("PUT", &path);
                plan = plan.body(Framing::Length, world.content(op, len));
                (plan.pieces, plan.pause) = (8, pause);
                let key = Key { dir: INBOX, name: format!("crowd{number}").into_bytes() };
                let effects = [(key, Effect::Write(Value::File(op)))];
                world.change(op, &plan, &format!("PUT {path} slowly"), &effects);
            });
        }
    });
}

/// Clients at a time.
const CLIENTS: usize = 6;
/// Set in the process that has mounts of its own.
const INSIDE: &str = "MODEL_INSIDE";
