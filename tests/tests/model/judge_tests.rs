//! Made-up histories: the judgement must find each kind of violation, and nothing where all is well.

use super::{
    content::{Op, Value},
    judge::{Effect, Key, Model, Outcome, Time},
};

const OLD: Value = Value::File(1);

fn key(name: &str) -> Key {
    Key { dir: 0, name: name.as_bytes().to_vec() }
}

/// A model in which `a` holds [`OLD`].
fn model() -> Model {
    let mut model = Model::default();
    model.rebase(key("a"), OLD);
    model
}

trait History {
    fn event(&mut self, name: &str, op: Op, time: [Time; 2], outcome: Outcome, effect: Effect);
    fn write(&mut self, op: Op, time: [Time; 2], outcome: Outcome);
    fn rename(&mut self, from: &str, to: &str, op: Op, time: [Time; 2], outcome: Outcome);
    fn allowed(&self, name: &str) -> Vec<Value>;
}

impl History for Model {
    fn event(&mut self, name: &str, op: Op, time: [Time; 2], outcome: Outcome, effect: Effect) {
        self.begin(&key(name), op, "made up", time[0], effect);
        self.end(&key(name), op, time[1], outcome, "");
    }

    fn write(&mut self, op: Op, time: [Time; 2], outcome: Outcome) {
        self.event("a", op, time, outcome, Effect::Write(Value::File(op)));
    }

    fn rename(&mut self, from: &str, to: &str, op: Op, time: [Time; 2], outcome: Outcome) {
        if from == to {
            return self.event(to, op, time, outcome, Effect::Nothing);
        }
        self.event(to, op, time, outcome, Effect::MoveFrom(key(from)));
        self.event(from, op, time, outcome, Effect::Remove);
    }

    /// What of nothing, an empty file and the contents 1 to 9 may be there in the end.
    fn allowed(&self, name: &str) -> Vec<Value> {
        let mut model = self.clone();
        model.settle(END);
        let files = (1..10).map(Value::File);
        let all = [Value::Absent, Value::Empty, Value::Directory].into_iter().chain(files);
        all.filter(|value| model.allows(&key(name), value, END, END, &[])).collect()
    }
}

const END: Time = 1_000;
use Outcome::{Refused, Success, Unknown};

#[test]
fn what_nobody_named_stays() {
    let mut model = model();
    assert_eq!(model.allowed("a"), [OLD]);
    assert_eq!(model.allowed("never"), [Value::Absent]);
    model.write(2, [10, 20], Refused);
    assert_eq!(model.allowed("a"), [OLD]);
    // Foreign, short or empty content is of nobody.
    let broken = Value::Broken("short".to_owned());
    assert!(!model.allows(&key("a"), &broken, END, END, &[]));
}

#[test]
fn success_replaces_what_was_there_and_ends_before_it() {
    let mut model = model();
    model.write(2, [10, 20], Success);
    // Neither empty nor vanished, nor the old content again.
    assert_eq!(model.allowed("a"), [Value::File(2)]);
    model.write(3, [21, 30], Success);
    assert_eq!(model.allowed("a"), [Value::File(3)]);
    model.write(4, [29, 40], Success);
    assert_eq!(model.allowed("a"), [Value::File(3), Value::File(4)]);
    model.write(5, [41, 50], Refused);
    assert_eq!(model.allowed("a"), [Value::File(3), Value::File(4)]);
}

#[test]
fn unknown_may_or_may_not_have_been_until_it_is_hidden() {
    let mut model = model();
    model.write(2, [10, 20], Unknown);
    assert_eq!(model.allowed("a"), [OLD, Value::File(2)]);
    // It may still be under way when a later one succeeds.
    model.write(3, [30, 40], Success);
    assert_eq!(model.allowed("a"), [Value::File(2), Value::File(3)]);
    model.settle(50);
    model.write(4, [60, 70], Success);
    assert_eq!(model.allowed("a"), [Value::File(4)]);
}

#[test]
fn only_a_removal_explains_that_nothing_is_there() {
    let mut model = model();
    model.event("a", 2, [10, 20], Refused, Effect::Remove);
    assert_eq!(model.allowed("a"), [OLD]);
    model.event("a", 3, [21, 30], Unknown, Effect::Remove);
    assert_eq!(model.allowed("a"), [Value::Absent, OLD]);
    model.event("a", 4, [31, 40], Success, Effect::Remove);
    assert_eq!(model.allowed("a"), [Value::Absent]);
    model.event("a", 5, [41, 50], Success, Effect::Write(Value::Empty));
    model.settle(51);
    model.event("a", 6, [52, 55], Success, Effect::Write(Value::Directory));
    assert_eq!(model.allowed("a"), [Value::Directory]);
}

#[test]
fn move_takes_its_content_along() {
    let mut model = model();
    model.rebase(key("b"), Value::File(9));
    model.rename("a", "b", 2, [10, 20], Success);
    assert_eq!(model.allowed("a"), [Value::Absent]);
    assert_eq!(model.allowed("b"), [OLD]);
    model.rename("b", "c", 3, [30, 40], Success);
    model.rename("c", "a", 4, [50, 60], Unknown);
    assert_eq!(model.allowed("b"), [Value::Absent]);
    assert_eq!(model.allowed("c"), [Value::Absent, OLD]);
    assert_eq!(model.allowed("a"), [Value::Absent, OLD]);
    model.rename("b", "a", 5, [70, 80], Refused);
    assert_eq!(model.allowed("a"), [Value::Absent, OLD]);
}

#[test]
fn move_beside_a_write_takes_either() {
    let mut model = model();
    model.write(2, [10, 30], Success);
    model.rename("a", "b", 3, [20, 40], Success);
    assert_eq!(model.allowed("b"), [OLD, Value::File(2)]);
    assert_eq!(model.allowed("a"), [Value::Absent, Value::File(2)]);
    // Not what was written there only after it.
    model.write(4, [41, 50], Success);
    assert_eq!(model.allowed("b"), [OLD, Value::File(2)]);
}

#[test]
fn moves_in_a_circle_come_to_an_end() {
    let mut model = model();
    for (op, (from, to)) in (10..).zip([("a", "b"), ("b", "c"), ("c", "a"), ("b", "a")]) {
        model.rename(from, to, op, [10, 500], Unknown);
    }
    assert_eq!(model.allowed("a"), [Value::Absent, OLD]);
    assert_eq!(model.allowed("c"), [Value::Absent, OLD]);
}

#[test]
fn move_onto_itself_leaves_everything() {
    let mut model = model();
    model.rename("a", "a", 2, [10, 20], Success);
    assert_eq!(model.allowed("a"), [OLD]);
    assert_eq!(model.blame(&key("a"), &Value::Absent), "vanished-by-a-move-onto-itself");
}

#[test]
fn read_shows_what_was_there_while_it_ran() {
    let mut model = model();
    model.write(2, [10, 20], Success);
    let read = |model: &Model, op: Op, from: Time, to: Time| {
        model.allows(&key("a"), &Value::File(op), from, to, &[])
    };
    assert!(read(&model, 1, 5, 9) && !read(&model, 2, 5, 9));
    assert!(read(&model, 1, 5, 15) && read(&model, 2, 5, 15));
    assert!(read(&model, 1, 20, 25) && read(&model, 2, 20, 25));
    assert!(!read(&model, 1, 21, 25) && read(&model, 2, 21, 25));
    // One that has not ended may show already.
    model.begin(&key("a"), 3, "made up", 30, Effect::Write(Value::File(3)));
    assert!(read(&model, 2, 31, 32) && read(&model, 3, 31, 32) && !read(&model, 3, 21, 25));
}

#[test]
fn of_two_that_must_be_new_one_succeeds() {
    let mut model = Model::default();
    model.rebase(key("a"), Value::Absent);
    model.write(2, [10, 20], Success);
    model.write(3, [15, 30], Success);
    let was_absent = |model: &Model, op: Op, time: [Time; 2]| {
        model.allows(&key("a"), &Value::Absent, time[0], time[1], &[op])
    };
    // Side by side either may have been the first, but not one that began after the other.
    assert!(was_absent(&model, 2, [10, 20]) && was_absent(&model, 3, [15, 30]));
    model.write(4, [31, 40], Success);
    assert!(!was_absent(&model, 4, [31, 40]));
    model.event("a", 5, [41, 50], Success, Effect::Remove);
    assert!(was_absent(&model, 6, [51, 60]));
}

#[test]
fn violations_are_named_by_what_was_found() {
    let mut model = model();
    model.write(2, [10, 20], Success);
    model.write(3, [30, 40], Refused);
    model.event("b", 4, [10, 20], Success, Effect::Write(Value::File(4)));
    let blame = |value: Value| model.blame(&key("a"), &value);
    assert_eq!(blame(Value::Absent), "vanished");
    assert_eq!(blame(Value::Empty), "empty");
    assert_eq!(blame(Value::Broken(String::new())), "short-or-mixed");
    assert_eq!(blame(OLD), "stale");
    assert_eq!(blame(Value::File(3)), "refused-but-stored");
    assert_eq!(blame(Value::File(4)), "in-the-wrong-place");
    assert_eq!(blame(Value::File(9)), "unexplained");
}
