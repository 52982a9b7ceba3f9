//! Operations on single entries: PUT, GET, DELETE, MKCOL, MOVE and the form.

use std::time::Duration;

use fastrand::Rng;

use super::{
    client::{Cut, Framing, Plan},
    content::{Op, Value, identify},
    judge::{Effect, Key, Outcome, Time},
    tree::{DOCS, FOLD, INBOX, MEDIA, TINY, encode, shown},
    world::{Target, World},
};

/// Chooses what a request names: any directory but those that no client may change, any name.
pub fn choose(world: &World, rng: &mut Rng, dirs: &[usize]) -> Target {
    let dir = dirs[rng.usize(..dirs.len())];
    let names = &world.tree.directories[dir].names;
    let name = names[rng.usize(..names.len())].clone();
    named(world, rng, dir, &name)
}

/// A target by one of the paths that lead to an entry.
pub fn named(world: &World, rng: &mut Rng, dir: usize, name: &[u8]) -> Target {
    let directory = &world.tree.directories[dir];
    let prefix = &directory.paths[rng.usize(..directory.paths.len())];
    let path = format!("{prefix}{}", encode(name, rng.u8(..8) == 0));
    let key = Key { dir, name: world.tree.fold(dir, name) };
    Target { key, path }
}

/// The directories that files are put into, those with more to go wrong more often.
pub fn places(world: &World, rng: &mut Rng) -> Vec<usize> {
    let count = world.tree.directories.len();
    let of = |wanted: &[usize]| wanted.iter().copied().filter(|dir| *dir < count).collect();
    match rng.u8(..10) {
        0 if count > TINY => vec![TINY],
        1 | 2 if count > FOLD => of(&[FOLD, FOLD + 1]),
        3 => vec![0],
        4 => vec![2],
        5 | 6 => vec![INBOX],
        _ => vec![DOCS],
    }
}

/// How a body is sent: all at once, in pieces, slowly, cut.
pub fn manner(rng: &mut Rng, mut plan: Plan) -> Plan {
    let len = plan.body.len();
    match rng.u8(..20) {
        0..=8 => {}
        9..=11 => plan.pieces = rng.usize(1..4),
        12..=14 => {
            plan.pieces = rng.usize(2..9);
            plan.pause = Duration::from_millis(rng.u64(1..60));
        }
        15 => {
            plan.pieces = rng.usize(2..6);
            plan.pause = Duration::from_millis(rng.u64(200..600));
        }
        16 => plan.expect = true,
        _ => {
            plan.pieces = rng.usize(1..5);
            let at = if rng.u8(..3) == 0 { len } else { rng.usize(..len.max(1)) };
            plan.cut = Some((at, if rng.bool() { Cut::Close } else { Cut::Reset }));
        }
    }
    plan
}

pub fn length(rng: &mut Rng, dir: usize) -> usize {
    match rng.u8(..12) {
        0 => 0,
        1..=7 => rng.usize(20..2_000),
        8 if dir == TINY => rng.usize(100_000..400_000),
        8 | 9 => rng.usize(20..200_000),
        _ => rng.usize(20..40_000),
    }
}

pub fn framing(rng: &mut Rng) -> Framing {
    if rng.bool() { Framing::Length } else { Framing::Chunked }
}

/// What an operation that sends `len` bytes leaves.
pub fn sent(op: Op, len: usize) -> Value {
    if len == 0 { Value::Empty } else { Value::File(op) }
}

pub fn put(world: &World, rng: &mut Rng) {
    let dirs = places(world, rng);
    let target = choose(world, rng, &dirs);
    put_to(world, rng, &target);
}

pub fn put_to(world: &World, rng: &mut Rng, target: &Target) {
    let (op, len) = (world.op(), length(rng, target.key.dir));
    let mut plan = Plan::new("PUT", &target.path);
    let mut is_new_only = false;
    let mut matched = None;
    match rng.u8(..16) {
        0 | 1 => {
            plan = plan.with("If-None-Match", "*");
            is_new_only = true;
        }
        2 => {
            let (tag, value) = tag(world, target);
            if let Some(tag) = tag {
                plan = plan.with("If-Match", &tag);
                matched = value;
            }
        }
        3 => plan = plan.with("Upload-Complete", "?1"),
        _ => {}
    }
    let framing = framing(rng);
    plan = manner(rng, plan.body(framing, world.content(op, len)));
    let text = describe(&plan, target);
    let effect = Effect::Write(sent(op, len));
    let effects = [(target.key.clone(), effect.clone())];
    let start = world.now();
    let (exchange, outcome) = world.change(op, &plan, &text, &effects);
    may_come_late(world, target, (op, &text), start, &effect, outcome);
    let Some(answer) = exchange.answer.filter(|_| outcome == Outcome::Success) else { return };
    if answer.status == 201 || is_new_only {
        world.see(target, &Value::Absent, start, &[op], "before it the successful PUT of");
    }
    if let Some(value) = matched {
        world.see(target, &value, start, &[op], "by If-Match the successful PUT of");
    }
}

/// A request whose end nobody knows may be carried out when another disk is in the place.
fn may_come_late(
    world: &World,
    target: &Target,
    (op, text): (Op, &str),
    start: Time,
    effect: &Effect,
    outcome: Outcome,
) {
    if outcome != Outcome::Unknown || !MEDIA.contains(&target.key.dir) {
        return;
    }
    for dir in MEDIA.into_iter().filter(|dir| *dir != target.key.dir) {
        let key = Key { dir, name: target.key.name.clone() };
        world.model().begin(&key, op, text, start, effect.clone());
        world.model().end(&key, op, world.now(), outcome, "nobody knows, on another disk");
    }
}

/// The entity tag of a file, and what it is the tag of.
fn tag(world: &World, target: &Target) -> (Option<String>, Option<Value>) {
    let exchange = Plan::new("GET", &target.path).run(world.http, || ());
    let Some(answer) = exchange.answer.filter(|answer| answer.is_whole && answer.status == 200)
    else {
        return (None, None);
    };
    let value = identify(world.seed, &answer.body);
    (answer.header("etag").map(str::to_owned), Some(value))
}

/// A request for people.
pub fn describe(plan: &Plan, target: &Target) -> String {
    let mut text = format!("{} {}", plan.method, short(&target.path));
    if plan.framing != Framing::None {
        text += &format!(" {} bytes {:?}", plan.body.len(), plan.framing);
    }
    if plan.pieces > 0 {
        text += &format!(" in {} pieces", plan.pieces);
    }
    if !plan.pause.is_zero() {
        text += &format!(" every {} ms", plan.pause.as_millis());
    }
    if let Some((at, cut)) = plan.cut {
        text += &format!(" {cut:?} at {at}");
    }
    if plan.expect {
        text += " Expect";
    }
    for (name, value) in &plan.headers {
        text += &format!(" {name}: {}", short(value));
    }
    text
}

fn short(text: &str) -> String {
    if text.len() > 70 { format!("{}..{}", &text[..50], text.len()) } else { text.to_owned() }
}

pub fn get(world: &World, rng: &mut Rng) {
    let dirs = places(world, rng);
    let mut target = choose(world, rng, &dirs);
    if rng.u8(..10) == 0 {
        // A link to a file can be read.
        target = named(world, rng, DOCS, b"a.txt");
        target.path = "/docs/to-file".to_owned();
    }
    get_of(world, &target);
}

pub fn get_of(world: &World, target: &Target) {
    let start = world.now();
    let exchange = Plan::new("GET", &target.path).run(world.http, || ());
    world.count(&format!("GET {}", super::world::status(&exchange)));
    let Some(answer) = exchange.answer.filter(|answer| answer.is_whole) else { return };
    match answer.status {
        200 => {
            let found = identify(world.seed, &answer.body);
            world.see(target, &found, start, &[], "GET");
        }
        404 => missed(world, target, start, &[], "GET, 404,"),
        _ => {}
    }
}

/// There is nothing, it was said.
fn missed(world: &World, target: &Target, start: Time, besides: &[Op], how: &str) {
    // Links with an absolute path need not be followed.
    if !target.path.starts_with("/absolute/") {
        world.see(target, &Value::Absent, start, besides, how);
    }
}

pub fn delete(world: &World, rng: &mut Rng) {
    let dirs = places(world, rng);
    let target = choose(world, rng, &dirs);
    delete_of(world, &target);
}

pub fn delete_of(world: &World, target: &Target) {
    let (op, start) = (world.op(), world.now());
    let plan = Plan::new("DELETE", &target.path);
    let effects = [(target.key.clone(), Effect::Remove)];
    let text = describe(&plan, target);
    let (exchange, outcome) = world.change(op, &plan, &text, &effects);
    may_come_late(world, target, (op, &text), start, &Effect::Remove, outcome);
    if exchange.answer.is_some_and(|answer| answer.status == 404) {
        missed(world, target, start, &[op], "DELETE, 404,");
    }
}

pub fn make_directory(world: &World, rng: &mut Rng) {
    let dirs = places(world, rng);
    let target = choose(world, rng, &dirs);
    let (op, start) = (world.op(), world.now());
    let plan = Plan::new("MKCOL", &target.path);
    let effects = [(target.key.clone(), Effect::Write(Value::Directory))];
    let (_, outcome) = world.change(op, &plan, &describe(&plan, &target), &effects);
    if outcome == Outcome::Success {
        world.see(&target, &Value::Absent, start, &[op], "before it the successful MKCOL of");
    }
}

pub fn rename(world: &World, rng: &mut Rng) {
    let dirs = places(world, rng);
    let from = choose(world, rng, &dirs);
    let to = match rng.u8(..10) {
        // The same entry by any path, of another case where that does not matter.
        0..=3 => {
            let names = &world.tree.directories[from.key.dir].names;
            let same = |name: &&Vec<u8>| world.tree.fold(from.key.dir, name) == from.key.name;
            let same: Vec<_> = names.iter().filter(same).collect();
            let name = same[rng.usize(..same.len())].clone();
            named(world, rng, from.key.dir, &name)
        }
        // The other name of a hard link.
        4 if [DOCS, INBOX].contains(&from.key.dir) => {
            let (one, other) = if rng.bool() { ("hard1", "hard2") } else { ("hard2", "hard1") };
            let from = named(world, rng, from.key.dir, one.as_bytes());
            let to = named(world, rng, from.key.dir, other.as_bytes());
            return rename_to(world, rng, &from, &to);
        }
        5..=7 => choose(world, rng, &dirs),
        _ => {
            let dirs = places(world, rng);
            choose(world, rng, &dirs)
        }
    };
    rename_to(world, rng, &from, &to);
}

pub fn rename_to(world: &World, rng: &mut Rng, from: &Target, to: &Target) {
    let (op, start) = (world.op(), world.now());
    let destination = if rng.bool() { to.path.clone() } else { format!("http://nas1{}", to.path) };
    let mut plan = Plan::new("MOVE", &from.path).with("Destination", &destination);
    if rng.u8(..4) == 0 {
        plan = plan.with("Overwrite", if rng.bool() { "F" } else { "T" });
    }
    let effects = if from.key == to.key {
        vec![(from.key.clone(), Effect::Nothing)]
    } else {
        let moved = Effect::MoveFrom(from.key.clone());
        vec![(to.key.clone(), moved), (from.key.clone(), Effect::Remove)]
    };
    let text = describe(&plan, from);
    let (exchange, _) = world.change(op, &plan, &text, &effects);
    match exchange.answer.map(|answer| answer.status) {
        Some(404) if !to.path.starts_with("/absolute/") => {
            missed(world, from, start, &[op], "MOVE, 404,");
        }
        Some(201) if from.key != to.key => {
            world.see(to, &Value::Absent, start, &[op], "before it the MOVE, 201, to");
        }
        _ => {}
    }
}

/// The upload form of a listing, with a file or more.
pub fn form(world: &World, rng: &mut Rng) {
    let dir = [DOCS, INBOX, 2][rng.usize(..3)];
    let directory = &world.tree.directories[dir];
    let prefix = &directory.paths[rng.usize(..directory.paths.len())];
    let page = Plan::new("GET", prefix).with("Accept", "text/html").run(world.http, || ());
    let Some(page) = page.answer else { return };
    let text = page.text();
    let Some(token) = text.split("name=\"token\" value=\"").nth(1) else { return };
    let token = token.split('"').next().unwrap_or_default();
    let (op, replace) = (world.op(), rng.bool());
    let mut body = Vec::new();
    let mut field = |disposition: &str, value: &[u8]| {
        let head = format!("--XyZ\r\nContent-Disposition: form-data; {disposition}\r\n\r\n");
        body.extend([head.as_bytes(), value, b"\r\n"].concat());
    };
    field("name=\"token\"", token.as_bytes());
    if replace {
        field("name=\"replace\"", b"1");
    }
    let (mut names, mut effects) = (Vec::new(), Vec::new());
    for _ in 0..rng.usize(1..4) {
        let name = directory.names[rng.usize(..directory.names.len())].clone();
        // In a form these mean something.
        if name.iter().any(|byte| b"\"\\%\xff".contains(byte)) || names.contains(&name) {
            continue;
        }
        let (part, len) = (world.op(), rng.usize(20..20_000));
        let disposition = [&b"name=\"file\"; filename=\""[..], &name, b"\""].concat();
        field(&String::from_utf8(disposition).unwrap(), &world.content(part, len));
        effects.push((part, Key { dir, name: name.clone() }));
        names.push(name);
    }
    body.extend(b"--XyZ--\r\n");
    let plan = Plan::new("POST", prefix)
        .with("Content-Type", "multipart/form-data; boundary=XyZ")
        .body(framing(rng), body);
    let plan = manner(rng, plan);
    let start = world.now();
    let texts = names.iter().map(|name| shown(name)).collect::<Vec<_>>().join(", ");
    let text = format!("form to {prefix} replace {replace}: {texts}");
    {
        let mut model = world.model();
        for (part, key) in &effects {
            model.begin(key, *part, &text, start, Effect::Write(Value::File(*part)));
        }
    }
    let exchange = plan.run(world.http, || ());
    let status = super::world::status(&exchange);
    let mut outcome = super::world::outcome(&exchange);
    // Of several files some may have been stored, whatever the answer is.
    if outcome == Outcome::Refused && exchange.answer.as_ref().is_none_or(|a| a.status != 403) {
        outcome = Outcome::Unknown;
    }
    let now = world.now();
    let mut model = world.model();
    for (part, key) in &effects {
        model.end(key, *part, now, outcome, &status);
    }
    drop(model);
    world.note(&format!("op {op} {text} -> {status}"));
    world.count(&format!("POST {status}"));
}
