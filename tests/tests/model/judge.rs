//! The model: what each directory entry may hold, by the operations that named it.
//!
//! It owns the judgement and nothing else: no clock, file or socket. An entry is a register. What
//! is seen of it must be the effect of an operation that succeeded, or whose fate is unknown, and
//! that is not followed by another that began after its end and succeeded before it was looked at.
//! That is necessary for linearizability, not sufficient; what it misses is told in
//! docs/testing.md.

use std::collections::BTreeMap;

use super::content::{Op, Value};

/// Microseconds since the start of the run.
pub type Time = u64;

/// A directory entry by what is on the disk: whatever path a client used, aliases through links
/// and shares have one key.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    /// Number of the physical directory.
    pub dir: usize,
    /// Name, as its filesystem tells names apart.
    pub name: Vec<u8>,
}

/// What a client was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is done.
    Success,
    /// It is not done, and nothing was changed.
    Refused,
    /// There was no answer, or one that leaves it open.
    Unknown,
}

/// What an operation does to one entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Puts something there.
    Write(Value),
    /// Takes away what is there.
    Remove,
    /// Puts there what another entry held.
    MoveFrom(Key),
    /// Changes nothing, as the move of an entry onto itself.
    Nothing,
}

/// One operation, as one entry sees it.
#[derive(Clone, Debug)]
pub struct Event {
    pub op: Op,
    /// For people.
    pub text: String,
    pub start: Time,
    pub end: Time,
    pub outcome: Outcome,
    pub effect: Effect,
}

#[derive(Clone, Debug)]
struct Register {
    base: Value,
    events: Vec<Event>,
}

/// All entries.
#[derive(Clone, Debug, Default)]
pub struct Model {
    registers: BTreeMap<Key, Register>,
}

impl Model {
    /// Starts the history of an entry anew with what is there now.
    pub fn rebase(&mut self, key: Key, base: Value) {
        self.registers.insert(key, Register { base, events: Vec::new() });
    }

    /// An operation on an entry begins; its fate is unknown, and it ends when everything has come
    /// to rest, unless it is heard of.
    pub fn begin(&mut self, key: &Key, op: Op, text: &str, start: Time, effect: Effect) {
        let text = text.to_owned();
        let event = Event { op, text, start, end: Time::MAX, outcome: Outcome::Unknown, effect };
        let empty = || Register { base: Value::Absent, events: Vec::new() };
        self.registers.entry(key.clone()).or_insert_with(empty).events.push(event);
    }

    /// What its client knows of an operation at `now`.
    pub fn end(&mut self, key: &Key, op: Op, now: Time, outcome: Outcome, status: &str) {
        let Some(register) = self.registers.get_mut(key) else { return };
        for event in register.events.iter_mut().filter(|event| event.op == op) {
            event.text += &format!(" -> {status}");
            event.outcome = outcome;
            event.end = if outcome == Outcome::Unknown { Time::MAX } else { now };
        }
    }

    /// Nothing is under way any more: operations of an unknown fate have ended by `now`.
    pub fn settle(&mut self, now: Time) {
        for event in self.registers.values_mut().flat_map(|register| &mut register.events) {
            event.end = event.end.min(now);
        }
    }

    /// All entries that there ever was a word about.
    pub fn keys(&self) -> Vec<Key> {
        self.registers.keys().cloned().collect()
    }

    /// The history of an entry.
    pub fn history(&self, key: &Key) -> Vec<Event> {
        self.registers.get(key).map(|register| register.events.clone()).unwrap_or_default()
    }

    /// What an entry held when its history began.
    pub fn base(&self, key: &Key) -> Value {
        self.registers.get(key).map_or(Value::Absent, |register| register.base.clone())
    }

    /// Whether an entry may have held `found` at some time from `from` to `to`. `besides`: what the
    /// operation that saw it does itself is not asked.
    pub fn allows(&self, key: &Key, found: &Value, from: Time, to: Time, besides: &[Op]) -> bool {
        self.explains(key, found, from, to, &mut besides.to_vec())
    }

    fn explains(
        &self,
        key: &Key,
        found: &Value,
        from: Time,
        to: Time,
        besides: &mut Vec<Op>,
    ) -> bool {
        let Some(register) = self.registers.get(key) else { return *found == Value::Absent };
        // One that succeeded after this was over hides it.
        let is_hidden = |end: Time, besides: &[Op]| {
            let hides = |event: &&Event| {
                event.outcome == Outcome::Success
                    && event.effect != Effect::Nothing
                    && event.start > end
                    && event.end < from
                    && !besides.contains(&event.op)
            };
            register.events.iter().find(hides).is_some()
        };
        if register.base == *found && !is_hidden(0, besides) {
            return true;
        }
        for event in &register.events {
            if event.outcome == Outcome::Refused
                || event.start > to
                || besides.contains(&event.op)
                || is_hidden(event.end, besides)
            {
                continue;
            }
            let gives = match &event.effect {
                Effect::Write(value) => value == found,
                Effect::Remove => *found == Value::Absent,
                Effect::Nothing => false,
                Effect::MoveFrom(_) if *found == Value::Absent => false,
                Effect::MoveFrom(source) => {
                    besides.push(event.op);
                    let given = self.explains(source, found, event.start, event.end, besides);
                    besides.pop();
                    given
                }
            };
            if gives {
                return true;
            }
        }
        false
    }

    /// Names what is wrong with what was found, for the list of violations.
    pub fn blame(&self, key: &Key, found: &Value) -> &'static str {
        let wrote = |outcome: Outcome| {
            self.registers.values().flat_map(|register| &register.events).any(|event| {
                event.outcome == outcome && event.effect == Effect::Write(found.clone())
            })
        };
        let is_onto_itself =
            |event: &Event| event.effect == Effect::Nothing && event.outcome != Outcome::Refused;
        let here = |event: &Event| event.effect == Effect::Write(found.clone());
        match found {
            Value::Absent if self.history(key).iter().any(is_onto_itself) => {
                "vanished-by-a-move-onto-itself"
            }
            Value::Absent => "vanished",
            Value::Empty => "empty",
            Value::Broken(_) => "short-or-mixed",
            _ if self.history(key).iter().any(|e| here(e) && e.outcome == Outcome::Refused) => {
                "refused-but-stored"
            }
            _ if self.history(key).iter().any(here) || self.base(key) == *found => "stale",
            _ if wrote(Outcome::Success) || wrote(Outcome::Unknown) => "in-the-wrong-place",
            _ => "unexplained",
        }
    }
}
