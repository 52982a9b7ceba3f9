//! What the proxy keeps of one origin, and who may speak for it.
//!
//! It owns the rules: a join secret is used once and dies at its time; two tokens are valid from
//! a rotation until the new one was used once. Only hashes are kept. Beside them stands which
//! visitors may come in ([`crate::access`]). It does not touch files.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use data_encoding::HEXLOWER;

use crate::{
    access::{Access, equal},
    config,
};

/// SHA-256 of a token or of a join secret.
pub(crate) type Hash = [u8; 32];

/// One origin.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Record {
    /// Hash of the token in use.
    token: Option<Hash>,
    /// Hash of the token that a rotation registered and that was not used yet.
    next: Option<Hash>,
    /// Hash of the join secret that waits to be used, and when it dies.
    join: Option<(Hash, SystemTime)>,
    /// When an agent joined.
    joined: Option<SystemTime>,
    /// Which visitors may come in.
    access: Access,
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
    /// Reads a record; lines that it does not know are dropped, an odd value refuses nobody but
    /// those whom it would have let in.
    pub(crate) fn parse(text: &str) -> Self {
        let mut record = Self::default();
        let mut join = (None, None);
        for entry in config::parse(text) {
            match entry.key.as_str() {
                "token" => record.token = parse_hash(&entry.value),
                "next" => record.next = parse_hash(&entry.value),
                "join" => join.0 = parse_hash(&entry.value),
                "join-expires" => join.1 = parse_time(&entry.value),
                "joined" => record.joined = parse_time(&entry.value),
                "access" => record.access = Access::parse(&entry.value),
                _ => {}
            }
        }
        record.join = join.0.zip(join.1);
        record
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
        if let Some((hash, expires)) = self.join {
            line("join", HEXLOWER.encode(&hash));
            line("join-expires", seconds(expires));
        }
        if let Some(joined) = self.joined {
            line("joined", seconds(joined));
        }
        if let Some(access) = self.access.text() {
            line("access", access);
        }
        text
    }

    /// A join secret may be used until `expires`; an earlier one dies. Tokens stay valid until it
    /// is used.
    pub(crate) const fn expect(&mut self, secret: Hash, expires: SystemTime) {
        self.join = Some((secret, expires));
    }

    /// Uses a join secret: from now on `token` speaks for the origin. `false`: unknown, used or
    /// expired, and nothing changes.
    pub(crate) fn join(&mut self, secret: &Hash, token: Hash, now: SystemTime) -> bool {
        let valid = self.join.is_some_and(|(held, expires)| equal(&held, secret) && now < expires);
        if valid {
            let access = std::mem::take(&mut self.access);
            *self = Self { token: Some(token), joined: Some(now), access, ..Self::default() };
        }
        valid
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
        self.access = access;
    }

    /// Which visitors may come in.
    pub(crate) const fn access(&self) -> &Access {
        &self.access
    }

    /// Whether an agent has joined.
    pub(crate) const fn is_joined(&self) -> bool {
        self.token.is_some()
    }

    /// How long a join code is still good for, if one waits.
    pub(crate) fn join_left(&self, now: SystemTime) -> Option<Duration> {
        self.join.and_then(|(_, expires)| expires.duration_since(now).ok())
    }
}

fn parse_hash(text: &str) -> Option<Hash> {
    HEXLOWER.decode(text.as_bytes()).ok()?.try_into().ok()
}

fn parse_time(text: &str) -> Option<SystemTime> {
    UNIX_EPOCH.checked_add(Duration::from_secs(text.parse().ok()?))
}

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
        record.expect(SECRET, at(100));
        assert!(record.join(&SECRET, TOKEN, at(99)));
        record
    }

    #[test]
    fn a_join_secret_works_once_and_in_time() {
        let mut record = Record::default();
        assert!(!record.join(&SECRET, TOKEN, at(0)));
        record.expect(SECRET, at(100));
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
        record.expect(NEXT, at(200));
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
    fn an_empty_record_lets_nobody_in() {
        assert_eq!(Record::default().verify(&[0; 32]), Verdict::Refused);
    }

    #[test]
    fn access_outlives_a_join_and_its_absence_lets_nobody_in() {
        let mut record = joined();
        assert_eq!(Record::parse(&record.format()).access(), &Access::Locked);
        record.set_access(Access::Open);
        record.expect(SECRET, at(200));
        assert!(record.join(&SECRET, NEXT, at(150)));
        assert_eq!(record.access(), &Access::Open);
    }

    #[test]
    fn records_survive_their_text() {
        let mut record = joined();
        record.rotate(NEXT);
        record.expect(SECRET, at(1_000));
        record.set_access(Access::Open);
        assert_eq!(Record::parse(&record.format()), record);
        assert_eq!(Record::parse("token xyz\nfuture thing\n"), Record::default());
    }
}
