//! What the proxy keeps of one origin, and who may speak for it.
//!
//! It owns the rules: a join secret is used once and dies at its time; two tokens are valid from
//! a rotation until the new one was used once; what was revoked stays so. Only hashes are kept.
//! Beside them stands which visitors may come in ([`crate::access`]). It does not touch files.

use std::{
    fmt,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use data_encoding::HEXLOWER;

use crate::{
    access::{Access, equal},
    config,
};

/// SHA-256 of a token, of a join secret or of a certificate.
pub(crate) type Hash = [u8; 32];

/// One origin.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Record {
    /// Hash of the token in use.
    token: Option<Hash>,
    /// Hash of the token that a rotation registered and that was not used yet.
    next: Option<Hash>,
    /// The join secret that waits to be used.
    join: Option<Join>,
    /// When an agent joined.
    joined: Option<SystemTime>,
    /// When the agent was revoked, until the origin is paired again.
    revoked: Option<SystemTime>,
    /// Grows with all that voids what came before: whoever was let in under another one must go.
    generation: u64,
    /// Certificates that came in, the latest last.
    certificates: Vec<Hash>,
    /// Certificates that were revoked with their agent. They stay so.
    void: Vec<Hash>,
    /// Which visitors may come in.
    access: Access,
    /// Lines of a newer version's, or of somebody else's: they are kept as they are.
    foreign: Vec<String>,
}

/// A line of a record that cannot be what it says: who may come in is not known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damaged {
    line: usize,
    key: String,
}

impl fmt::Display for Damaged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: invalid {}", self.line, self.key)
    }
}

impl std::error::Error for Damaged {}

/// A join secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Join {
    secret: Hash,
    expires: SystemTime,
    /// Whether the token in use stays valid until that of the join was used.
    rotates: bool,
}

/// What a token is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It is the token in use.
    Valid,
    /// It is the new one of a rotation, seen for the first time: [`Record::promote`] is due.
    Fresh,
    /// It is neither.
    Refused,
}

impl Record {
    /// Reads a record. Lines that it does not know are kept for [`Record::format`].
    ///
    /// # Errors
    /// A value that its key cannot have, or a character that no text has. It might have been what
    /// locks somebody out.
    pub(crate) fn parse(text: &str) -> Result<Self, Damaged> {
        let mut record = Self::default();
        let (mut join, mut rotates) = ((None, None), false);
        for config::Entry { line, key, value } in config::parse(text) {
            if [&key, &value].iter().any(|text| text.contains(char::is_control)) {
                return Err(Damaged { line, key: "character".to_owned() });
            }
            let hash = || parse_hash(&value);
            let known = match key.as_str() {
                "token" => hash().map(|hash| record.token = Some(hash)),
                "next" => hash().map(|hash| record.next = Some(hash)),
                "join" => hash().map(|hash| join.0 = Some(hash)),
                "join-expires" => parse_time(&value).map(|time| join.1 = Some(time)),
                "join-rotates" => {
                    rotates = value == "yes";
                    Some(())
                }
                "revoked" => parse_time(&value).map(|time| record.revoked = Some(time)),
                "generation" => value.parse().ok().map(|number| record.generation = number),
                "certificate" => hash().map(|hash| record.certificates.push(hash)),
                "void" => hash().map(|hash| record.void.push(hash)),
                "joined" => parse_time(&value).map(|time| record.joined = Some(time)),
                "access" => {
                    record.access = Access::parse(&value);
                    if record.access == Access::Locked {
                        record.foreign.push(format!("access {value}"));
                    }
                    Some(())
                }
                _ => {
                    record.foreign.push(format!("{key} {value}").trim_end().to_owned());
                    Some(())
                }
            };
            known.ok_or(Damaged { line, key })?;
        }
        let made = join.0.zip(join.1);
        record.join = made.map(|(secret, expires)| Join { secret, expires, rotates });
        Ok(record)
    }

    /// The text that [`Record::parse`] reads.
    pub(crate) fn format(&self) -> String {
        let mut text = String::new();
        let mut line = |key: &str, value: String| {
            text.push_str(key);
            text.push(' ');
            text.push_str(&value);
            text.push('\n');
        };
        let seconds = |time: SystemTime| {
            time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()).to_string()
        };
        if let Some(hash) = self.token {
            line("token", HEXLOWER.encode(&hash));
        }
        if let Some(hash) = self.next {
            line("next", HEXLOWER.encode(&hash));
        }
        if let Some(join) = self.join {
            line("join", HEXLOWER.encode(&join.secret));
            line("join-expires", seconds(join.expires));
            if join.rotates {
                line("join-rotates", "yes".to_owned());
            }
        }
        if let Some(joined) = self.joined {
            line("joined", seconds(joined));
        }
        if let Some(revoked) = self.revoked {
            line("revoked", seconds(revoked));
        }
        if self.generation > 0 {
            line("generation", self.generation.to_string());
        }
        for (key, hashes) in [("certificate", &self.certificates), ("void", &self.void)] {
            for hash in hashes {
                line(key, HEXLOWER.encode(hash));
            }
        }
        if let Some(access) = self.access.text() {
            line("access", access);
        }
        for foreign in &self.foreign {
            text.push_str(foreign);
            text.push('\n');
        }
        text
    }

    /// A join secret may be used until `expires`; an earlier one dies. Tokens stay valid until it
    /// is used; with `rotates`, until the token that it registers is used.
    pub(crate) const fn expect(&mut self, secret: Hash, expires: SystemTime, rotates: bool) {
        self.join = Some(Join { secret, expires, rotates });
        self.revoked = None;
    }

    /// Uses a join secret: from now on `token` speaks for the origin. `false`: unknown, used or
    /// expired, and nothing changes.
    pub(crate) fn join(&mut self, secret: &Hash, token: Hash, now: SystemTime) -> bool {
        let valid = |join: &Join| equal(&join.secret, secret) && now < join.expires;
        let Some(join) = self.join.filter(valid) else { return false };
        self.join = None;
        self.joined = Some(now);
        if join.rotates && self.token.is_some() {
            self.next = Some(token);
        } else {
            (self.token, self.next) = (Some(token), None);
            self.generation += 1;
        }
        true
    }

    /// Nobody speaks for the origin any more, until it is paired again; the certificates that came
    /// in are void for ever.
    pub(crate) fn revoke(&mut self, now: SystemTime) {
        (self.token, self.next, self.join) = (None, None, None);
        self.revoked = Some(now);
        self.generation += 1;
        self.void.append(&mut self.certificates);
    }

    /// Whether the holder of a certificate, which its authority vouches for, may speak for the
    /// origin. `None`: it is revoked. `Some(true)`: it is new, and was noted.
    pub(crate) fn admit(&mut self, certificate: Hash) -> Option<bool> {
        if self.revoked.is_some() || self.void.contains(&certificate) {
            return None;
        }
        let is_new = !self.certificates.contains(&certificate);
        if is_new {
            if self.certificates.len() >= CERTIFICATES {
                self.certificates.remove(0);
            }
            self.certificates.push(certificate);
        }
        Some(is_new)
    }

    /// What `token` is worth. The time that it takes does not depend on it.
    pub(crate) fn verify(&self, token: &Hash) -> Verdict {
        let is = |held: Option<Hash>| equal(&held.unwrap_or_default(), token) & held.is_some();
        match (is(self.token), is(self.next)) {
            (true, _) => Verdict::Valid,
            (false, true) => Verdict::Fresh,
            (false, false) => Verdict::Refused,
        }
    }

    /// Registers the token that is to follow the one in use; both are valid for now.
    pub(crate) const fn rotate(&mut self, next: Hash) {
        self.next = Some(next);
    }

    /// The new token was used: the old one is worth nothing any more.
    pub(crate) const fn promote(&mut self) {
        if let Some(next) = self.next.take() {
            self.token = Some(next);
        }
    }

    /// Changes which visitors may come in.
    pub(crate) fn set_access(&mut self, access: Access) {
        self.foreign.retain(|line| !line.starts_with("access "));
        self.access = access;
    }

    /// Which visitors may come in.
    pub(crate) const fn access(&self) -> &Access {
        &self.access
    }

    /// Whether an agent has joined, or came in by a certificate.
    pub(crate) const fn is_joined(&self) -> bool {
        self.token.is_some() || !self.certificates.is_empty()
    }

    /// Whether a token is there to be rotated.
    pub(crate) const fn has_token(&self) -> bool {
        self.token.is_some()
    }

    /// When the agent was revoked.
    pub(crate) const fn revoked(&self) -> Option<SystemTime> {
        self.revoked
    }

    /// Whoever was let in under another one must go.
    pub(crate) const fn generation(&self) -> u64 {
        self.generation
    }

    /// How long a join code is still good for, if one waits.
    pub(crate) fn join_left(&self, now: SystemTime) -> Option<Duration> {
        self.join.and_then(|join| join.expires.duration_since(now).ok())
    }
}

fn parse_hash(text: &str) -> Option<Hash> {
    HEXLOWER.decode(text.as_bytes()).ok()?.try_into().ok()
}

fn parse_time(text: &str) -> Option<SystemTime> {
    UNIX_EPOCH.checked_add(Duration::from_secs(text.parse().ok()?))
}

/// Certificates that are noted; those from before are expired, or few come to have so many.
const CERTIFICATES: usize = 32;

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: Hash = [1; 32];
    const TOKEN: Hash = [2; 32];
    const NEXT: Hash = [3; 32];

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn joined() -> Record {
        let mut record = Record::default();
        record.expect(SECRET, at(100), false);
        assert!(record.join(&SECRET, TOKEN, at(99)));
        record
    }

    #[test]
    fn lines_that_no_text_has_are_damage() {
        // As a power cut can leave them; they would be kept as lines of a newer version's.
        for text in ["\0\0\0\0", "generation 1\nx\u{1}y z\n", "access open\nfuture \0\n"] {
            assert!(Record::parse(text).is_err(), "{text:?}");
        }
        assert!(Record::parse("future\ta  b\r\n").is_ok());
    }

    #[test]
    fn a_join_secret_works_once_and_in_time() {
        let mut record = Record::default();
        assert!(!record.join(&SECRET, TOKEN, at(0)));
        record.expect(SECRET, at(100), false);
        assert!(!record.join(&[9; 32], TOKEN, at(0)));
        assert!(!record.join(&SECRET, TOKEN, at(100)));
        assert!(!record.is_joined());
        assert_eq!(record.join_left(at(40)), Some(Duration::from_secs(60)));
        assert!(record.join(&SECRET, TOKEN, at(99)));
        assert!(!record.join(&SECRET, NEXT, at(99)));
        assert_eq!(record.verify(&TOKEN), Verdict::Valid);
        assert_eq!(record.verify(&SECRET), Verdict::Refused);
    }

    #[test]
    fn a_new_join_code_leaves_the_token_valid_until_it_is_used() {
        let mut record = joined();
        record.expect(NEXT, at(200), false);
        assert_eq!(record.verify(&TOKEN), Verdict::Valid);
        assert!(record.join(&NEXT, NEXT, at(150)));
        assert_eq!(record.verify(&TOKEN), Verdict::Refused);
    }

    #[test]
    fn both_tokens_of_a_rotation_are_valid_until_the_new_one_is_used() {
        let mut record = joined();
        record.rotate(NEXT);
        assert_eq!(record.verify(&TOKEN), Verdict::Valid);
        assert_eq!(record.verify(&NEXT), Verdict::Fresh);
        record.promote();
        assert_eq!(record.verify(&TOKEN), Verdict::Refused);
        assert_eq!(record.verify(&NEXT), Verdict::Valid);
    }

    #[test]
    fn a_join_that_rotates_leaves_the_old_token_valid_until_the_new_one_is_used() {
        let mut record = joined();
        let generation = record.generation();
        record.expect(SECRET, at(300), true);
        assert_eq!(Record::parse(&record.format()), Ok(record.clone()));
        assert!(record.join(&SECRET, NEXT, at(150)));
        assert_eq!(record.verify(&TOKEN), Verdict::Valid);
        assert_eq!(record.verify(&NEXT), Verdict::Fresh);
        assert_eq!(record.generation(), generation);
        // Where there is none yet it is an ordinary join.
        let mut fresh = Record::default();
        fresh.expect(SECRET, at(300), true);
        assert!(fresh.join(&SECRET, TOKEN, at(150)));
        assert_eq!(fresh.verify(&TOKEN), Verdict::Valid);
    }

    #[test]
    fn a_revoked_agent_has_nothing_left_until_its_origin_is_paired_again() {
        let mut record = joined();
        record.rotate(NEXT);
        record.expect(SECRET, at(300), false);
        record.set_access(Access::Open);
        assert_eq!(record.admit([7; 32]), Some(true));
        assert_eq!(record.admit([7; 32]), Some(false));
        let generation = record.generation();
        record.revoke(at(150));
        assert_eq!(Record::parse(&record.format()), Ok(record.clone()));
        for token in [TOKEN, NEXT] {
            assert_eq!(record.verify(&token), Verdict::Refused);
        }
        assert!(!record.join(&SECRET, TOKEN, at(151)));
        assert_eq!((record.admit([7; 32]), record.admit([8; 32])), (None, None));
        assert_eq!(record.revoked(), Some(at(150)));
        assert!(record.generation() > generation && !record.is_joined());
        assert_eq!(record.access(), &Access::Open);
        record.expect(NEXT, at(300), false);
        assert_eq!(record.revoked(), None);
        // A certificate that was revoked stays so; its authority may issue another one.
        assert_eq!((record.admit([7; 32]), record.admit([8; 32])), (None, Some(true)));
        assert!(record.join(&NEXT, NEXT, at(200)));
        assert_eq!(record.admit([7; 32]), None);
    }

    #[test]
    fn noted_certificates_are_bounded() {
        let mut record = Record::default();
        for n in 0..100 {
            assert_eq!(record.admit([n; 32]), Some(true));
        }
        assert_eq!(record.certificates.len(), CERTIFICATES);
        assert_eq!(record.admit([99; 32]), Some(false));
    }

    #[test]
    fn an_empty_record_lets_nobody_in() {
        assert_eq!(Record::default().verify(&[0; 32]), Verdict::Refused);
    }

    #[test]
    fn access_outlives_a_join_and_its_absence_lets_nobody_in() {
        let mut record = joined();
        assert_eq!(Record::parse(&record.format()).unwrap().access(), &Access::Locked);
        record.set_access(Access::Open);
        record.expect(SECRET, at(200), false);
        assert!(record.join(&SECRET, NEXT, at(150)));
        assert_eq!(record.access(), &Access::Open);
    }

    #[test]
    fn records_survive_their_text() {
        let mut record = joined();
        record.rotate(NEXT);
        record.expect(SECRET, at(1_000), false);
        record.set_access(Access::Open);
        assert_eq!(Record::parse(&record.format()), Ok(record.clone()));
    }

    #[test]
    fn unknown_lines_survive_a_change_and_damaged_ones_are_no_record() {
        let future = "access group family\nfuture  a  thing\nflag\n";
        let mut record = Record::parse(future).unwrap();
        assert_eq!(record.access(), &Access::Locked);
        record.expect(SECRET, at(100), false);
        assert!(record.join(&SECRET, TOKEN, at(99)));
        let text = record.format();
        for line in ["access group family", "future a  thing", "flag"] {
            assert!(text.lines().any(|held| held == line), "{line} in {text}");
        }
        assert_eq!(Record::parse(&text), Ok(record.clone()));
        record.set_access(Access::Open);
        assert!(record.format().contains("access open\n"));
        assert!(!record.format().contains("family") && record.format().contains("\nflag\n"));
        for damaged in [
            "token xyz",
            "next",
            "join 12",
            "join-expires soon",
            "revoked yes",
            "generation -1",
            "certificate 00",
            "void x",
            "joined now",
        ] {
            assert!(Record::parse(damaged).is_err(), "{damaged}");
        }
    }
}
