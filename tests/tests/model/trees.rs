//! Directories that are made, moved and deleted while files are put into them.
//!
//! Each file has a name of its own for the whole run, so that it is found wherever its directory
//! went: what was stored and never named by a DELETE must be in exactly one place.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use fastrand::Rng;

use super::{
    client::Plan,
    content::{Op, Value},
    files::{describe, framing, length, manner, sent},
    judge::{Key, Outcome},
    tree::value,
    uploads::create_at,
    world::{Target, World, outcome, status},
};

/// What is known of the files.
#[derive(Debug, Default)]
pub struct Trees {
    files: BTreeMap<Op, File>,
}

#[derive(Clone, Debug)]
struct File {
    stored: Outcome,
    len: usize,
    may_be_gone: bool,
    story: String,
}

impl File {
    /// What is wrong with what was found under its name.
    fn judge(&self, op: Op, found: &[Value]) -> Option<&'static str> {
        match (found, self.stored) {
            ([], Outcome::Success) if !self.may_be_gone => Some("tree-file-vanished"),
            ([], _) => None,
            ([_], Outcome::Refused) => Some("tree-refused-but-stored"),
            ([value], _) if *value == sent(op, self.len) => None,
            ([_], _) => Some("tree-content"),
            _ => Some("tree-file-twice"),
        }
    }
}

/// One operation on the directories below `/trees/`.
pub fn act(world: &World, rng: &mut Rng) {
    let slot = |rng: &mut Rng| {
        let prefix = if rng.u8(..3) == 0 { "/to-trees/" } else { "/trees/" };
        (prefix, NAMES[rng.usize(..NAMES.len())])
    };
    let (prefix, name) = slot(rng);
    let directory = format!("{prefix}{name}");
    match rng.u8(..16) {
        0..=2 => simple(world, &Plan::new("MKCOL", &directory)),
        3..=7 => put(world, rng, &directory),
        8 | 9 => {
            let op = world.op();
            let target = target(op, format!("{directory}/upload{op}"));
            // By the path that it began with it is known, wherever its directory is now.
            let paths = NAMES.iter().map(|name| format!("{prefix}{name}/upload{op}"));
            create_at(world, rng, target, paths.collect());
        }
        10..=12 => {
            let (prefix, to) = slot(rng);
            // Onto itself by another path, now and then.
            let to = if rng.u8(..4) == 0 { name } else { to };
            let plan = Plan::new("MOVE", &directory);
            simple(world, &plan.with("Destination", &format!("{prefix}{to}")));
        }
        13 => simple(world, &Plan::new("DELETE", &directory)),
        _ => delete(world, rng, &directory),
    }
}

fn target(op: Op, path: String) -> Target {
    // Nobody asks the model about these.
    let key = Key { dir: 0, name: format!("\0{op}").into_bytes() };
    Target { key, path }
}

fn simple(world: &World, plan: &Plan) {
    let exchange = plan.run(world.http, || ());
    let text = describe(plan, &target(0, plan.target.clone()));
    world.note(&format!("{text} -> {}", status(&exchange)));
    world.count(&format!("tree {} {}", plan.method, status(&exchange)));
}

fn put(world: &World, rng: &mut Rng, directory: &str) {
    let (op, len) = (world.op(), length(rng, 0).max(20));
    let plan = Plan::new("PUT", &format!("{directory}/file{op}"));
    let framing = framing(rng);
    let plan = manner(rng, plan.body(framing, world.content(op, len)));
    let text = describe(&plan, &target(op, plan.target.clone()));
    let file = File { stored: Outcome::Unknown, len, may_be_gone: false, story: text.clone() };
    world.trees.lock().unwrap().files.insert(op, file);
    let exchange = plan.run(world.http, || ());
    let line = format!(
        "{:.3} op {op} {text} -> {}",
        super::world::seconds(world.now()),
        status(&exchange)
    );
    world.note(&line);
    world.count(&format!("tree PUT {}", status(&exchange)));
    let mut trees = world.trees.lock().unwrap();
    if let Some(file) = trees.files.get_mut(&op) {
        (file.stored, file.story) = (outcome(&exchange), line);
    }
}

fn delete(world: &World, rng: &mut Rng, directory: &str) {
    let op = {
        let mut trees = world.trees.lock().unwrap();
        let count = trees.files.len();
        let Some((op, file)) = trees.files.iter_mut().nth(rng.usize(..count.max(1))) else {
            return;
        };
        file.may_be_gone = true;
        *op
    };
    simple(world, &Plan::new("DELETE", &format!("{directory}/file{op}")));
}

/// Compares with the disk what is known, and forgets what is gone. `uploads`: those that were
/// finished there.
pub fn check(world: &World, root: &Path) {
    let mut found: BTreeMap<String, Vec<(PathBuf, Value)>> = BTreeMap::new();
    walk(world.seed, root, &mut found);
    let mut trees = world.trees.lock().unwrap();
    let mut gone = Vec::new();
    for (op, file) in &mut trees.files {
        let places = found.remove(&format!("file{op}")).unwrap_or_default();
        let values: Vec<_> = places.iter().map(|(_, value)| value.clone()).collect();
        let wrong = file.judge(*op, &values);
        if values.is_empty() {
            gone.push(*op);
        }
        if let Some(kind) = wrong {
            world.violate(kind, &format!("{}; found: {places:?}", file.story));
            gone.push(*op);
            for (path, _) in places {
                let _ = fs::remove_file(path);
            }
        }
        file.stored = if file.stored == Outcome::Unknown { Outcome::Success } else { file.stored };
    }
    trees.files.retain(|op, _| !gone.contains(op));
    for (name, places) in found {
        // A finished upload, which is judged by its content alone.
        let op = name.strip_prefix("upload").and_then(|op| op.parse::<Op>().ok());
        let is_whole = places.iter().all(|(_, value)| matches!(value, Value::File(_)));
        if op.is_none() || places.len() > 1 || !is_whole {
            world.violate("tree-unexplained", &format!("{name}: {places:?}"));
            for (path, _) in places {
                let _ = fs::remove_file(path);
            }
        }
    }
}

fn walk(seed: u64, at: &Path, found: &mut BTreeMap<String, Vec<(PathBuf, Value)>>) {
    for entry in fs::read_dir(at).into_iter().flatten().flatten() {
        let (path, name) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
        match value(seed, &path) {
            Value::Directory if name == ".spdy-uploads" => {}
            Value::Directory => walk(seed, &path, found),
            // Temporaries are looked at elsewhere.
            _ if name.starts_with(".spdy-") => {}
            value => found.entry(name).or_default().push((path, value)),
        }
    }
}

/// So few that they meet.
const NAMES: [&str; 5] = ["one", "two", "three", "One", "f%C3%BCnf"];

#[test]
fn file_of_a_moved_directory_is_somewhere_once() {
    let file = |stored, may_be_gone| File { stored, len: 100, may_be_gone, story: String::new() };
    let (whole, short) = (Value::File(5), Value::Broken("short".to_owned()));
    let told = file(Outcome::Success, false);
    assert_eq!(told.judge(5, std::slice::from_ref(&whole)), None);
    assert_eq!(told.judge(5, &[]), Some("tree-file-vanished"));
    assert_eq!(told.judge(5, &[Value::Empty]), Some("tree-content"));
    assert_eq!(told.judge(5, &[Value::File(6)]), Some("tree-content"));
    assert_eq!(told.judge(5, &[whole.clone(), whole.clone()]), Some("tree-file-twice"));
    assert_eq!(file(Outcome::Success, true).judge(5, &[]), None);
    assert_eq!(file(Outcome::Unknown, false).judge(5, &[]), None);
    assert_eq!(file(Outcome::Unknown, false).judge(5, &[short]), Some("tree-content"));
    assert_eq!(file(Outcome::Refused, false).judge(5, &[]), None);
    assert_eq!(file(Outcome::Refused, false).judge(5, &[whole]), Some("tree-refused-but-stored"));
}
