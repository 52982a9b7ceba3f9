//! What must be so when nothing is under way: everything on the disk against everything told.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    sync::atomic::Ordering::Relaxed,
    thread,
    time::{Duration, Instant},
};

use fastrand::Rng;
use spdy_tests::fixture::Sha256;

use super::{
    content::Value,
    judge::Key,
    pending::{self, Pending},
    rig::Rig,
    tree::{DOCS, INBOX, TINY, value},
    uploads,
    world::World,
};

/// Puts a file of its own under some names of each directory, and lets the model begin there.
pub fn begin(world: &World, rng: &mut Rng) {
    if let Some(small) = world.tree.directories.get(TINY) {
        // Less than a megabyte is left.
        fs::write(small.path.join("filler"), world.content(world.op(), 7 << 20)).unwrap();
    }
    for (number, directory) in world.tree.directories.iter().enumerate() {
        for name in &directory.names {
            let key = Key { dir: number, name: world.tree.fold(number, name) };
            let path = directory.path.join(os(name));
            if (directory.is_protected || rng.bool()) && !path.exists() {
                let op = world.op();
                fs::write(&path, world.content(op, rng.usize(100..5_000))).unwrap();
            }
            world.model().rebase(key, value(world.seed, &path));
        }
        for (name, value) in world.tree.read(world.seed, number) {
            let name = world.tree.fold(number, &name);
            world.model().rebase(Key { dir: number, name }, value);
        }
    }
    link(world, rng);
}

/// Makes two names of one file.
fn link(world: &World, rng: &mut Rng) {
    for dir in [DOCS, INBOX] {
        let path = &world.tree.directories[dir].path;
        let op = world.op();
        for name in ["hard1", "hard2"] {
            let _ = fs::remove_file(path.join(name));
            let _ = fs::remove_dir(path.join(name));
        }
        fs::write(path.join("hard1"), world.content(op, rng.usize(100..5_000))).unwrap();
        fs::hard_link(path.join("hard1"), path.join("hard2")).unwrap();
        for name in ["hard1", "hard2"] {
            let key = Key { dir, name: name.as_bytes().to_vec() };
            world.model().rebase(key, Value::File(op));
        }
    }
}

/// Waits until nothing is under way and compares. The clients have stopped.
pub fn check(world: &World, rig: &mut Rig, rng: &mut Rng) {
    for complaint in rig.complaints() {
        world.violate("program", &complaint);
    }
    // Nothing that was cut is written to any more, and nothing is left but what waits.
    rig.wait_until_served();
    thread::sleep(Duration::from_millis(300));
    rig.restart_agent();
    rig.wait_until_served();
    world.note("check");
    go_on_with_uploads(world, rng);
    let now = world.now();
    world.model().settle(now);
    check_temporaries(world);
    if let Some((free, reserve)) = world.tree.room()
        && free + ROOM_SLACK < reserve
    {
        world.violate("reserve-used", &format!("{free} bytes are free, {reserve} must be"));
    }
    let mut found = Vec::new();
    for dir in 0..world.tree.directories.len() {
        found.extend(check_directory(world, dir));
    }
    // Only now: of a moved file the history of its source is asked, too.
    for (key, value) in found {
        world.model().rebase(key, value);
    }
    for broken in world.tree.broken_fixtures(world.seed) {
        world.violate("layout-changed", &broken);
    }
    super::trees::check(world, &world.tree.root.join("root/trees"));
    link(world, rng);
}

/// Every upload that was told must be there; some are finished.
fn go_on_with_uploads(world: &World, rng: &mut Rng) {
    let all = world.pending.lock().unwrap().clone();
    for pending in all {
        let exchange = uploads::look(world, &pending);
        let is_over = exchange.answer.is_some_and(|answer| {
            answer.status == 404 || answer.header("upload-complete") == Some("?1")
        });
        if is_over || rng.bool() && uploads::finish(world, &pending) {
            pending::remove(world, pending.op);
        } else if rng.u8(..4) == 0 {
            uploads::cancel(world, pending);
        }
    }
    for pending in &mut *world.pending.lock().unwrap() {
        pending.is_busy = false;
    }
}

/// Compares a directory with the model; what is there.
fn check_directory(world: &World, dir: usize) -> Vec<(Key, Value)> {
    let directory = &world.tree.directories[dir];
    let mut found: BTreeMap<Vec<u8>, Value> = BTreeMap::new();
    for (name, value) in world.tree.read(world.seed, dir) {
        if name.starts_with(b".spdy-") {
            continue;
        }
        if value == Value::Directory {
            let path = directory.path.join(os(&name));
            let inner = fs::read_dir(&path).into_iter().flatten().flatten();
            let inner =
                inner.filter(|entry| !entry.file_name().as_encoded_bytes().starts_with(b".spdy-"));
            if let Some(entry) = inner.into_iter().next() {
                world.violate("unexplained", &format!("{}", entry.path().display()));
            }
        }
        if found.insert(world.tree.fold(dir, &name), value).is_some() {
            let text = format!("{}: two names that differ in case", directory.label);
            world.violate("two-of-one-name", &text);
        }
    }
    let now = world.now();
    let model = world.model();
    let mut values = Vec::new();
    let known = model.keys().into_iter().filter(|key| key.dir == dir);
    let known: BTreeSet<_> = known.filter(|key| key.name.first() != Some(&0)).collect();
    let seen = found.keys().map(|name| Key { dir, name: name.clone() });
    let all: BTreeSet<_> = known.into_iter().chain(seen).collect();
    for key in all {
        let value = found.get(&key.name).cloned().unwrap_or(Value::Absent);
        if directory.is_protected {
            if model.base(&key) != value {
                let kind = format!("{}-changed", directory.label);
                world.accuse(&model, &key, &kind, &format!("the disk has {value:?}"));
            }
        } else if !model.allows(&key, &value, now, now, &[]) {
            let kind = model.blame(&key, &value);
            world.accuse(&model, &key, kind, &format!("the disk has {value:?}"));
        }
        values.push((key, value));
    }
    values
}

/// No temporary without an upload that waits, none without its record, none of a PUT.
fn check_temporaries(world: &World) {
    let medium = *world.medium.read().unwrap();
    let places: Vec<_> = ["root", "inbox", "tiny", "fold"]
        .iter()
        .map(|name| world.tree.root.join(name))
        .chain([world.tree.directories[medium].path.clone()])
        .collect();
    let look = || {
        let mut found = Vec::new();
        for place in &places {
            walk(place, &mut found);
        }
        found
    };
    let is_put = |path: &PathBuf| name(path).starts_with(".spdy-put-");
    // The sweep of a start runs beside the first requests.
    let begun = Instant::now();
    let mut found = look();
    while found.iter().any(is_put) && begun.elapsed() < SWEEP {
        thread::sleep(Duration::from_millis(100));
        found = look();
    }
    let is_record = |path: &Path| path.parent().is_some_and(|at| name(at) == ".spdy-uploads");
    let records: BTreeSet<_> =
        found.iter().filter(|path| is_record(path)).map(|path| name(path)).collect();
    let pending = world.pending.lock().unwrap().clone();
    let waiting: BTreeMap<_, _> =
        pending.iter().map(|pending| (temporary(pending), pending)).collect();
    let untold = world.untold.swap(0, Relaxed);
    let mut strangers = Vec::new();
    for path in found.iter().filter(|path| !is_record(path)) {
        let own = name(path);
        if own == ".spdy-uploads" {
            continue;
        }
        let has_record = records.contains(own.trim_start_matches(".spdy-"));
        if own.starts_with(".spdy-put-") {
            let text = format!("{} (record: {has_record})", path.display());
            world.violate("temporary-left", &text);
        } else if !has_record {
            world.violate("temporary-without-record", &format!("{}", path.display()));
        } else if !waiting.contains_key(&own) {
            strangers.push(path.clone());
            continue;
        } else {
            continue;
        }
        let _ = fs::remove_file(path);
    }
    // Those of which a client did not hear wait for a week.
    if strangers.len() > untold {
        let text =
            format!("{} but {untold} uploads were begun untold: {strangers:?}", strangers.len());
        world.violate("temporary-left", &text);
    }
    for path in strangers {
        let record = name(&path).trim_start_matches(".spdy-").to_owned();
        for place in &places {
            let _ = fs::remove_file(place.join(".spdy-uploads").join(&record));
        }
        let _ = fs::remove_file(world.tree.root.join("root/docs/.spdy-uploads").join(&record));
        let _ = fs::remove_file(path);
    }
}

/// The name of an upload's temporary file.
fn temporary(pending: &Pending) -> String {
    let token = pending.location.split_once("upload=").map_or("", |(_, token)| token);
    let digest = Sha256::of(token.as_bytes());
    format!(".spdy-part-{}", &digest[..32])
}

/// All that is the agent's own below a directory.
fn walk(at: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(at).into_iter().flatten().flatten() {
        let path = entry.path();
        let is_own = name(&path).starts_with(".spdy-") || name(at) == ".spdy-uploads";
        if is_own {
            found.push(path.clone());
        }
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            walk(&path, found);
        }
    }
}

fn name(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

fn os(name: &[u8]) -> &std::ffi::OsStr {
    std::os::unix::ffi::OsStrExt::from_bytes(name)
}

/// Bytes that directories and records may take, of which nobody knows before.
const ROOM_SLACK: u64 = 24 << 10;
/// Longest time of a sweep.
const SWEEP: Duration = Duration::from_secs(10);
