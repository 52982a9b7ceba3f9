//! Uploads in several requests: begun, gone on with by one client or several, given up, finished.

use std::{sync::Barrier, thread, time::Duration};

use fastrand::Rng;

use super::{
    client::{Answer, Exchange, Framing, Plan},
    content::{Op, Value},
    files::{choose, describe, framing, manner, places},
    judge::{Effect, Outcome, Time},
    pending::{Pending, known, pick, put_back, remove, take, update},
    world::{Target, World, outcome, seconds, status},
};

/// Begins an upload; with a first part or without, its length told or not.
pub fn create(world: &World, rng: &mut Rng) -> Option<Op> {
    let dirs = places(world, rng);
    let target = choose(world, rng, &dirs);
    create_at(world, rng, target, Vec::new())
}

pub fn create_at(
    world: &World,
    rng: &mut Rng,
    target: Target,
    elsewhere: Vec<String>,
) -> Option<Op> {
    if world.pending.lock().unwrap().len() > PENDING_MAX {
        finish_one(world, rng);
        return None;
    }
    let (op, len) = (world.op(), rng.usize(200..60_000));
    let first = if rng.bool() { 0 } else { rng.usize(..len / 2) };
    let body = world.content(op, len)[..first].to_vec();
    let mut plan = Plan::new("PUT", &target.path).with("Upload-Complete", "?0");
    if rng.bool() {
        plan = plan.with("Upload-Length", &len.to_string());
    }
    let framing = if first == 0 { Framing::Length } else { framing(rng) };
    plan = manner(rng, plan.body(framing, body));
    let text = format!("begin upload of {len}: {}", describe(&plan, &target));
    let exchange = plan.run(world.http, || ());
    let status = status(&exchange);
    world.note(&format!("op {op} {text} -> {status}"));
    world.count(&format!("create {status}"));
    let location = exchange.answer.as_ref().filter(|answer| answer.status == 201);
    let Some(location) = location.and_then(|answer| answer.header("location")) else {
        if outcome(&exchange) == Outcome::Unknown {
            world.untold.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        }
        return None;
    };
    let story = format!("{} {text}", seconds(world.now()));
    let told = exchange.answer.as_ref().and_then(offset).unwrap_or(first);
    world.pending.lock().unwrap().push(Pending {
        op,
        target,
        location: location.to_owned(),
        len,
        told,
        sent: first,
        may_be_over: false,
        is_busy: false,
        elsewhere,
        story,
    });
    if told != first {
        world.violate("offset", &format!("op {op} {text}: told {told} of {first}"));
    }
    Some(op)
}

/// Several that begin in the same moment.
pub fn begin_together(world: &World, rng: &mut Rng) {
    let count = rng.usize(2..6);
    let barrier = Barrier::new(count);
    let seeds: Vec<u64> = (0..count).map(|_| rng.u64(..)).collect();
    let begun: Vec<_> = thread::scope(|scope| {
        let begin = |seed: u64| {
            let barrier = &barrier;
            scope.spawn(move || {
                let mut rng = Rng::with_seed(seed);
                let target = choose(world, &mut rng, &[super::tree::INBOX]);
                let len = rng.usize(200..2_000);
                barrier.wait();
                begin_empty(world, target, len)
            })
        };
        let threads: Vec<_> = seeds.into_iter().map(begin).collect();
        threads.into_iter().filter_map(|thread| thread.join().unwrap()).collect()
    });
    for op in begun {
        if let Some(pending) = take(world, |pending| pending.op == op) {
            let exchange = look(world, &pending);
            let is_there = exchange.answer.is_some_and(|answer| answer.status == 204);
            // A share takes only so many.
            if is_there && rng.u8(..6) > 0 {
                cancel(world, pending)
            } else {
                put_back(world, pending)
            }
        }
    }
}

fn begin_empty(world: &World, target: Target, len: usize) -> Option<Op> {
    let op = world.op();
    let plan = Plan::new("PUT", &target.path)
        .with("Upload-Complete", "?0")
        .body(Framing::Length, Vec::new());
    let exchange = plan.run(world.http, || ());
    let text = format!("begin upload of {len} beside others: {}", describe(&plan, &target));
    let status = status(&exchange);
    world.note(&format!("op {op} {text} -> {status}"));
    world.count(&format!("create {status}"));
    let Some(answer) = exchange.answer.filter(|answer| answer.status == 201) else {
        world.untold.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        return None;
    };
    let location = answer.header("location")?.to_owned();
    let story = format!("{} {text}", seconds(world.now()));
    world.pending.lock().unwrap().push(Pending {
        op,
        target,
        location,
        len,
        told: 0,
        sent: 0,
        may_be_over: false,
        is_busy: false,
        elsewhere: Vec::new(),
        story,
    });
    Some(op)
}

/// Goes on with an upload that waits; now and then two clients do at once.
pub fn go_on(world: &World, rng: &mut Rng) {
    let alone = rng.u8(..5) > 0;
    let Some(pending) = pick(world, rng, alone) else {
        create(world, rng);
        return;
    };
    let at = if rng.u8(..4) > 0 {
        let exchange = look(world, &pending);
        exchange.answer.as_ref().and_then(offset)
    } else {
        Some(pending.told)
    };
    if let Some(at) = at.filter(|at| *at <= pending.len) {
        if rng.u8(..12) == 0 && alone {
            return cancel(world, pending);
        }
        append(world, rng, &pending, at);
    }
    put_back(world, pending);
}

/// Sends more, perhaps to the end.
pub fn append(world: &World, rng: &mut Rng, pending: &Pending, at: usize) {
    let is_last = rng.u8(..3) == 0;
    let to = if is_last { pending.len } else { at + rng.usize(..=pending.len - at) };
    let body = world.content(pending.op, pending.len)[at..to].to_vec();
    let plan = patch(&pending.location, at, is_last).body(framing(rng), body);
    send(world, pending, &manner(rng, plan), to, is_last);
}

/// Finishes one as a client does that means it: asks for the offset, sends the rest, and again.
/// Whether it is over.
pub fn finish(world: &World, pending: &Pending) -> bool {
    for _ in 0..20 {
        let exchange = look(world, pending);
        let Some(answer) = exchange.answer else { continue };
        if answer.status == 404 || answer.header("upload-complete") == Some("?1") {
            return true;
        }
        let Some(at) = offset(&answer).filter(|at| *at <= pending.len) else {
            thread::sleep(Duration::from_millis(100));
            continue;
        };
        let body = world.content(pending.op, pending.len)[at..].to_vec();
        let plan = patch(&pending.location, at, true).body(Framing::Length, body);
        let outcome = send(world, pending, &plan, pending.len, true);
        if outcome.is_some_and(|status| matches!(status, 201 | 204 | 412)) {
            return true;
        }
        if outcome.is_some_and(|status| matches!(status, 409 | 403 | 507)) {
            return false;
        }
    }
    false
}

fn finish_one(world: &World, rng: &mut Rng) {
    if let Some(pending) = pick(world, rng, true)
        && !finish(world, &pending)
    {
        cancel(world, pending);
    }
}

fn patch(location: &str, at: usize, is_last: bool) -> Plan {
    Plan::new("PATCH", location)
        .with("Content-Type", "application/partial-upload")
        .with("Upload-Offset", &at.to_string())
        .with("Upload-Complete", if is_last { "?1" } else { "?0" })
}

/// Sends a PATCH and lets everybody know; its status.
fn send(world: &World, pending: &Pending, plan: &Plan, to: usize, is_last: bool) -> Option<u16> {
    let (op, start) = (pending.op, world.now());
    let text = format!("upload of op {op}: {}", describe(plan, &pending.target));
    update(world, op, |pending| {
        pending.sent = pending.sent.max(to);
        pending.may_be_over |= is_last;
    });
    let key = &pending.target.key;
    // Several may try to finish it; it is one event for each.
    let event = world.op();
    if is_last {
        world.model().begin(key, event, &text, start, Effect::Write(Value::File(op)));
    }
    let exchange = plan.run(world.http, || ());
    let status = status(&exchange);
    if is_last {
        // That a newer request took over says nothing about what that one did.
        let outcome = match outcome(&exchange) {
            Outcome::Success if is_over(&exchange) => Outcome::Success,
            Outcome::Success => Outcome::Unknown,
            outcome => outcome,
        };
        world.model().end(key, event, world.now(), outcome, &status);
    }
    world.note(&format!("op {event} {text} -> {status}"));
    world.count(&format!("PATCH {status}"));
    update(world, op, |pending| {
        pending.story += &format!("\n    {:.3} {text} -> {status}", seconds(start));
    });
    let answer = exchange.answer?;
    if !is_last && answer.status == 204 && exchange.sent_all {
        let told = offset(&answer);
        if told != Some(to) {
            world.violate("offset", &format!("{text}: told {told:?}, not {to}"));
        }
        update(world, op, |pending| pending.told = pending.told.max(to));
    }
    if is_last && answer.status < 300 && !exchange.sent_all && !plan.body.is_empty() {
        world.violate("told-before-whole", &format!("{text} -> {status}"));
    }
    if answer.status == 404 {
        missed(world, pending, start, "PATCH");
    }
    Some(answer.status)
}

fn is_over(exchange: &Exchange) -> bool {
    let answer = exchange.answer.as_ref();
    answer.and_then(|answer| answer.header("upload-complete")) == Some("?1")
}

/// HEAD of an upload. It must be there, with what was told at least.
pub fn look(world: &World, pending: &Pending) -> Exchange {
    let start = world.now();
    let exchange = Plan::new("HEAD", &pending.location).run(world.http, || ());
    world.count(&format!("HEAD {}", status(&exchange)));
    let Some(answer) = &exchange.answer else { return exchange };
    if answer.status == 404 {
        missed(world, pending, start, "HEAD");
    } else if answer.status == 204 && answer.header("upload-complete") == Some("?0") {
        let (told, sent) =
            (pending.told, known(world, pending.op).map_or(pending.sent, |p| p.sent));
        let at = offset(answer);
        if at.is_none_or(|at| at < told || at > sent) {
            let story = known(world, pending.op).map(|pending| pending.story);
            // Told once.
            update(world, pending.op, |pending| pending.told = at.unwrap_or(0));
            world.violate(
                "offset",
                &format!(
                    "HEAD of op {} says {at:?}; {told} were told and {sent} sent\n    {}",
                    pending.op,
                    story.unwrap_or_else(|| pending.story.clone())
                ),
            );
        }
    }
    exchange
}

/// An upload is 404: allowed only when something was sent that may have ended it.
fn missed(world: &World, pending: &Pending, start: Time, how: &str) {
    // Another client may have ended it meanwhile.
    let Some(now) = known(world, pending.op).filter(|now| !now.may_be_over) else { return };
    // Its directory may have been moved; then it must have gone along.
    for path in now.elsewhere.iter().chain(&now.elsewhere) {
        let query = now.location.split_once('?').map_or("", |(_, query)| query);
        let exchange = Plan::new("HEAD", &format!("{path}?{query}")).run(world.http, || ());
        match exchange.answer {
            Some(answer) if answer.status == 404 => {}
            _ => return,
        }
    }
    let kind = if now.elsewhere.is_empty() { "upload-vanished" } else { "moved-upload-vanished" };
    // Told once.
    update(world, now.op, |pending| pending.may_be_over = true);
    world.violate(
        kind,
        &format!(
            "{how} of {} at {:.3} is 404, and nothing has ended it\n    {}",
            now.location,
            seconds(start),
            now.story
        ),
    );
}

pub fn cancel(world: &World, pending: Pending) {
    update(world, pending.op, |pending| pending.may_be_over = true);
    let exchange = Plan::new("DELETE", &pending.location).run(world.http, || ());
    let status = status(&exchange);
    world.note(&format!("op {} cancel -> {status}", pending.op));
    world.count(&format!("cancel {status}"));
    if exchange.answer.is_none_or(|answer| answer.status != 204) {
        return put_back(world, pending);
    }
    remove(world, pending.op);
}

fn offset(answer: &Answer) -> Option<usize> {
    answer.header("upload-offset")?.parse().ok()
}

/// Uploads that wait at a time. A share takes 64.
const PENDING_MAX: usize = 24;
