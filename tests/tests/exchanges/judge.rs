//! Whether a history is one that HTTP allows and the programs promise.
//!
//! It owns the rules, as functions without I/O; docs/testing.md ("Exchanges with services") gives
//! their reasons. Times are milliseconds since 1970, of one clock.

use crate::plan::{Disturbance, Ending, Exchange, Timing};

/// A request as it reached the service; one that was repeated has several.
#[derive(Clone, Debug)]
pub struct Arrival {
    pub began: u64,
    /// `X-Request-Id`, which both programs have in their logs.
    pub request: String,
    pub body: Received,
    /// When the last byte of the answer's head was with the kernel.
    pub status_sent: Option<u64>,
}

/// What the service got of a body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Received {
    /// It has not read it.
    Unread,
    /// A body that ended as its framing says: length and SHA-256.
    Whole(u64, String),
    /// The connection ended before the body did.
    Broken,
    /// What came is no body.
    Malformed(String),
}

/// What a client did and saw.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    pub began: u64,
    pub ended: u64,
    /// How often it sent the request, as far as it tells. A client that repeats by itself and in
    /// silence, because no byte of an answer came, tells of the last time only.
    pub attempts: Vec<Attempt>,
    /// Repetitions behind a status that the client does not tell of.
    pub untold: usize,
    /// Whether the client's own patience ended it.
    pub gave_up: bool,
    pub error: String,
}

/// One sending of a request by a client.
#[derive(Clone, Debug, Default)]
pub struct Attempt {
    pub status: Option<u16>,
    pub mark: Mark,
    pub body: Seen,
}

/// Whose answer it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Mark {
    /// It has no mark: the proxy's or the agent's.
    #[default]
    None,
    /// The service's, for the exchange of this id.
    Of(String),
    /// The client does not tell.
    Untold,
}

/// What a client got of an answer's body.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Seen {
    /// There was none to look at.
    #[default]
    Nothing,
    /// The client says that it was cut.
    Cut,
    /// The client took it for whole: its length, and whether it is made of the exchange's id.
    Whole(usize, bool),
}

/// When something was done to the programs, until they were back.
#[derive(Clone, Copy, Debug)]
pub struct Period {
    pub what: Disturbance,
    pub from: u64,
    pub to: u64,
}

/// What must not be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Violation {
    /// The service got a body for whole that is not what the client sent.
    WrongRequest,
    /// The service got a request more often than its client wanted.
    Repeated,
    /// A status had arrived at the agent, and the client did not see it.
    Swallowed,
    /// The service got the request, and the client no byte of an answer.
    Unanswered,
    /// A client took an answer for whole that is not, or is another's.
    WrongAnswer,
    /// A sound request was told to be unsound.
    Refused,
    /// A client waited to the end of its patience although nothing was done to the programs.
    Hung,
}

/// All that is wrong with one exchange; `digest`: SHA-256 of the request's body.
pub fn judge(
    exchange: &Exchange,
    digest: &str,
    arrivals: &[Arrival],
    outcome: &Outcome,
    periods: &[Period],
) -> Vec<Violation> {
    let mut found = Vec::new();
    let mut fault = |is_wrong: bool, violation| {
        if is_wrong {
            found.push(violation);
        }
    };
    let disturbed = |from: u64, to: u64, by: &[Disturbance]| {
        let meets = |period: &&Period| period.from <= to + SLACK_MS && from <= period.to + SLACK_MS;
        periods.iter().filter(meets).any(|period| by.contains(&period.what))
    };
    let is_wrong = |arrival: &Arrival| match &arrival.body {
        Received::Whole(len, sha256) => *len != exchange.len as u64 || sha256 != digest,
        Received::Malformed(_) => true,
        Received::Unread | Received::Broken => false,
    };
    fault(arrivals.iter().any(is_wrong), Violation::WrongRequest);

    // A body that was visibly broken off was not carried out.
    let carried: Vec<_> = arrivals.iter().filter(|a| a.body != Received::Broken).collect();
    if let [first, .., last] = carried[..] {
        let (_, before) = outcome.attempts.split_last().unwrap_or((&LOST, &[]));
        let wanted = 1 + outcome.untold + before.iter().filter(|a| a.status.is_some()).count();
        // Behind a lost tunnel the proxy may ask again for what may be asked twice (RFC 9110 9.2.2).
        let reasons = if IDEMPOTENT.contains(&exchange.method) {
            LOSES_ANSWERS
        } else {
            &[Disturbance::ProxyKilled]
        };
        let excused = disturbed(first.began, last.began, reasons);
        fault(carried.len() > wanted && !excused, Violation::Repeated);
    }

    let mut told: Vec<_> = outcome
        .attempts
        .iter()
        .filter(|attempt| match &attempt.mark {
            Mark::None => false,
            Mark::Of(id) => *id == exchange.id,
            Mark::Untold => true,
        })
        .filter_map(|attempt| attempt.status)
        .collect();
    let answered = arrivals.iter().filter_map(|a| a.status_sent.map(|sent| (a.began, sent)));
    let is_lost = |(began, sent): &(u64, u64)| disturbed(*began, *sent, LOSES_ANSWERS);
    // One whose answer may be lost must not count as seen by the status of another.
    for _ in answered.filter(|times| !is_lost(times)) {
        if let Some(at) = told.iter().position(|status| *status == exchange.answer.status) {
            told.swap_remove(at);
            continue;
        }
        let excused = outcome.gave_up
            || outcome.untold > 0
            // A reset may reach the agent before it has read what came ahead of it; it must be 502 then.
            || !arrives(exchange) && outcome.attempts.iter().any(|a| a.status == Some(502));
        fault(!excused, Violation::Swallowed);
    }

    let is_told = outcome.attempts.iter().any(|attempt| attempt.status.is_some());
    if let (Some(first), false) = (arrivals.first(), is_told || outcome.gave_up) {
        let killed = disturbed(first.began, outcome.ended, &[Disturbance::ProxyKilled]);
        fault(!killed, Violation::Unanswered);
    }

    for attempt in &outcome.attempts {
        fault(matches!(&attempt.mark, Mark::Of(id) if *id != exchange.id), Violation::WrongAnswer);
        let is_own = matches!(&attempt.mark, Mark::Of(id) if *id == exchange.id);
        if let (Seen::Whole(len, is_made), true) = (attempt.body, is_own) {
            fault(len != exchange.answer.len || !is_made, Violation::WrongAnswer);
        }
        let is_ours = attempt.mark == Mark::None;
        let is_wrong = attempt.status.is_some_and(|status| is_ours && !OURS.contains(&status));
        fault(is_wrong, Violation::Refused);
    }
    let is_quiet = !disturbed(outcome.began, outcome.ended, ALL);
    fault(outcome.gave_up && is_quiet, Violation::Hung);
    found.dedup();
    found
}

/// Whether what was sent of the answer is sure to be read before the connection's end is.
fn arrives(exchange: &Exchange) -> bool {
    let is_sure = match exchange.answer.ending {
        Ending::BehindHead(how) | Ending::InBody(how) => how.waits || !how.resets,
        _ => true,
    };
    // Closing with something unread is a reset, too; the service waits before it does.
    is_sure || exchange.answer.timing == Timing::EarlyThenCloses
}

/// Statuses of a gateway that could not do what it was asked.
const OURS: [u16; 3] = [502, 503, 504];
/// Methods of which two are as one.
const IDEMPOTENT: [&str; 3] = ["GET", "PUT", "DELETE"];
/// Behind which an answer may be lost on its way; the client is told 502 then.
const LOSES_ANSWERS: &[Disturbance] =
    &[Disturbance::AgentKilled, Disturbance::LinkCut, Disturbance::ProxyKilled];
const ALL: &[Disturbance] = &[
    Disturbance::AgentTerminated,
    Disturbance::AgentKilled,
    Disturbance::AgentReloaded,
    Disturbance::ProxyReloaded,
    Disturbance::ProxyHandedOver,
    Disturbance::ProxyKilled,
    Disturbance::LinkCut,
    Disturbance::UpgradesFull,
];
/// What comes so long before or behind a disturbance may be its doing.
const SLACK_MS: u64 = 1_000;
const LOST: Attempt = Attempt { status: None, mark: Mark::None, body: Seen::Nothing };

#[cfg(test)]
mod tests {
    use spdy_tests::fixture::Sha256;

    use super::*;
    use crate::plan::{Answer, Break, Framing, content};

    fn post() -> Exchange {
        Exchange {
            id: "a".to_owned(),
            method: "POST",
            framing: Framing::Chunked,
            len: 10,
            expects: false,
            is_slow: false,
            answer: Answer {
                status: 201,
                framing: Framing::Length,
                len: 5,
                has_interim: false,
                timing: Timing::AtTheEnd,
                pause_ms: 0,
                is_slow: false,
                ending: Ending::Whole,
                stops_proxy: false,
            },
        }
    }

    fn digest() -> String {
        Sha256::of(&content("a", 10))
    }

    fn arrival(began: u64) -> Arrival {
        let body = Received::Whole(10, digest());
        Arrival { began, request: String::new(), body, status_sent: Some(began + 1) }
    }

    fn attempt(status: u16) -> Attempt {
        let mark = Mark::Of("a".to_owned());
        Attempt { status: Some(status), mark, body: Seen::Whole(5, true) }
    }

    fn outcome(attempts: &[Attempt]) -> Outcome {
        Outcome { began: 10_000, ended: 10_100, attempts: attempts.to_vec(), ..Outcome::default() }
    }

    fn found(arrivals: &[Arrival], outcome: &Outcome, periods: &[Period]) -> Vec<Violation> {
        judge(&post(), &digest(), arrivals, outcome, periods)
    }

    fn during(what: Disturbance) -> Vec<Period> {
        vec![Period { what, from: 10_000, to: 10_050 }]
    }

    #[test]
    fn one_arrival_and_its_answer_are_right() {
        assert_eq!(found(&[arrival(10_010)], &outcome(&[attempt(201)]), &[]), []);
        let ours = Attempt { status: Some(502), ..LOST };
        assert_eq!(found(&[], &outcome(&[ours]), &[]), []);
        // The connection could not be made, or its end crossed the request.
        assert_eq!(found(&[], &outcome(&[LOST]), &[]), []);
    }

    #[test]
    fn a_body_is_what_was_sent_or_broken_off() {
        let seen = outcome(&[attempt(201)]);
        for (len, sha256) in [(0, Sha256::of(b"")), (9, digest()), (10, Sha256::of(b"other"))] {
            let wrong = Arrival { body: Received::Whole(len, sha256), ..arrival(10_010) };
            assert_eq!(found(&[wrong], &seen, &[]), [Violation::WrongRequest]);
        }
        let broken = Arrival { body: Received::Broken, status_sent: None, ..arrival(10_010) };
        let ours = Attempt { status: Some(502), ..LOST };
        assert_eq!(found(std::slice::from_ref(&broken), &outcome(&[ours]), &[]), []);
        // What was not whole was not carried out, and may come again.
        assert_eq!(found(&[broken, arrival(10_020)], &seen, &[]), []);
    }

    #[test]
    fn clients_repeat_for_their_own_reasons_only() {
        let both = [arrival(10_010), arrival(10_030)];
        // Behind a status that it saw, such as curl --retry behind a 503.
        assert_eq!(found(&both, &outcome(&[attempt(201), attempt(201)]), &[]), []);
        // Because no byte of an answer came, seen (curl) or unseen (browsers).
        let wanted = [Violation::Repeated, Violation::Swallowed];
        assert_eq!(found(&both, &outcome(&[LOST, attempt(201)]), &[]), wanted);
        assert_eq!(found(&both, &outcome(&[attempt(201)]), &[]), wanted);
        // That is nobody's fault when the proxy was killed meanwhile.
        let killed = during(Disturbance::ProxyKilled);
        assert_eq!(found(&both, &outcome(&[LOST, attempt(201)]), &killed), []);
        let lost = during(Disturbance::LinkCut);
        assert_eq!(found(&both, &outcome(&[attempt(201)]), &lost), [Violation::Repeated]);
        let put = Exchange { method: "PUT", ..post() };
        let seen = outcome(&[attempt(201)]);
        assert_eq!(judge(&put, &digest(), &both, &seen, &lost), []);
        assert_eq!(judge(&put, &digest(), &both, &seen, &[]), wanted);
    }

    #[test]
    fn a_lost_answer_does_not_take_the_place_of_one_that_was_seen() {
        let arrivals = [arrival(10_010), arrival(12_000)];
        let ours = Attempt { status: Some(502), ..LOST };
        let seen = outcome(&[ours, attempt(201)]);
        assert_eq!(found(&arrivals, &seen, &during(Disturbance::AgentKilled)), []);
        assert_eq!(found(&arrivals, &seen, &[]), [Violation::Swallowed]);
    }

    #[test]
    fn a_status_that_arrived_is_seen() {
        let ours = Attempt { status: Some(502), ..LOST };
        let arrivals = [arrival(10_010)];
        assert_eq!(
            found(&arrivals, &outcome(std::slice::from_ref(&ours)), &[]),
            [Violation::Swallowed]
        );
        for what in [Disturbance::AgentKilled, Disturbance::LinkCut] {
            assert_eq!(found(&arrivals, &outcome(std::slice::from_ref(&ours)), &during(what)), []);
        }
        for what in [Disturbance::AgentTerminated, Disturbance::ProxyHandedOver] {
            let found = found(&arrivals, &outcome(std::slice::from_ref(&ours)), &during(what));
            assert_eq!(found, [Violation::Swallowed], "{what:?}");
        }
        let nothing = found(&arrivals, &outcome(&[LOST]), &during(Disturbance::LinkCut));
        assert_eq!(nothing, [Violation::Unanswered]);
        let mut exchange = post();
        exchange.answer.ending = Ending::BehindHead(Break { resets: true, waits: false });
        assert_eq!(judge(&exchange, &digest(), &arrivals, &outcome(&[ours]), &[]), []);
    }

    #[test]
    fn an_answer_is_its_own_and_whole_or_cut() {
        let arrivals = [arrival(10_010)];
        let with = |body| outcome(&[Attempt { body, ..attempt(201) }]);
        assert_eq!(found(&arrivals, &with(Seen::Cut), &[]), []);
        for body in [Seen::Whole(4, true), Seen::Whole(5, false), Seen::Whole(0, true)] {
            assert_eq!(found(&arrivals, &with(body), &[]), [Violation::WrongAnswer]);
        }
        let other = Attempt { mark: Mark::Of("b".to_owned()), ..attempt(201) };
        let wanted = [Violation::Swallowed, Violation::WrongAnswer];
        assert_eq!(found(&arrivals, &outcome(&[other]), &[]), wanted);
    }

    #[test]
    fn gateways_answer_as_gateways_and_in_time() {
        let refused = Attempt { status: Some(400), ..LOST };
        assert_eq!(found(&[], &outcome(&[refused]), &[]), [Violation::Refused]);
        let mut late = outcome(&[LOST]);
        late.gave_up = true;
        assert_eq!(found(&[], &late, &[]), [Violation::Hung]);
        assert_eq!(found(&[], &late, &during(Disturbance::AgentKilled)), []);
    }
}
