//! Who may come in: the rule of an origin, its password, and the credentials that a visitor shows.
//!
//! It owns the text of a rule, the hash of a password and HTTP's Basic scheme (RFC 7617); `guard`
//! bounds what checking costs. It does not own where rules are kept ([`crate::state`]) nor when a
//! visitor is asked (`crate::relay`).

mod guard;

use std::{
    fmt,
    hint::black_box,
    sync::{Arc, OnceLock},
};

use argon2::{Algorithm, Argon2, Block, Params, Version};
use data_encoding::BASE64_NOPAD;
use http::{HeaderMap, header};
use ring::rand::{SecureRandom, SystemRandom};

pub(crate) use guard::{Denied, Guard};

/// Who may come in to an origin.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Access {
    /// Nobody: there is no rule, or one that cannot be read.
    #[default]
    Locked,
    /// Everybody who reaches the proxy.
    Open,
    /// Who shows the user and the password.
    Password(Arc<Password>),
}

/// The user and the hash of the password of one origin. Two are equal if their texts are.
pub struct Password {
    user: String,
    cost: Cost,
    salt: [u8; SALT],
    hash: [u8; HASH],
    /// What the guard remembers the right credentials by. It dies with this value, hence with a
    /// change of the password. One place is enough: no other credentials are right.
    remembered: OnceLock<[u8; HASH]>,
}

/// What computing a hash costs.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Cost {
    /// Blocks of 1 KiB.
    memory: u32,
    passes: u32,
    lanes: u32,
}

impl Access {
    /// Reads what [`Access::text`] wrote; anything else lets nobody in.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let mut words = text.split_whitespace();
        match (words.next(), words.next(), words.next(), words.next()) {
            (Some("open"), None, ..) => Self::Open,
            (Some("password"), Some(user), Some(hash), None) => Password::parse(user, hash)
                .map_or(Self::Locked, |password| Self::Password(Arc::new(password))),
            _ => Self::Locked,
        }
    }

    /// The rule in one line; `None` where there is none.
    #[must_use]
    pub fn text(&self) -> Option<String> {
        match self {
            Self::Locked => None,
            Self::Open => Some("open".to_owned()),
            Self::Password(password) => {
                Some(format!("password {} {}", password.user, password.phc()))
            }
        }
    }

    /// One word for people: `locked`, `open` or `password`.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Locked => "locked",
            Self::Open => "open",
            Self::Password(_) => "password",
        }
    }
}

impl Password {
    /// Makes a password for `user`, which is the name of the origin, and returns it beside what is
    /// kept of it. It has 90 random bits: 20 letters, in groups that can be read out and typed.
    ///
    /// It takes as long as checking one; `None` when the system has no random octets.
    #[must_use]
    pub fn generate(user: &str) -> Option<(Self, String)> {
        let random = SystemRandom::new();
        let (mut password, mut letters) = (String::new(), 0);
        while letters < GROUPS * GROUP {
            let mut octet = [0];
            random.fill(&mut octet).ok()?;
            // The octets above the largest multiple would make some letters likelier.
            if usize::from(octet[0]) < 256 / LETTERS.len() * LETTERS.len() {
                if letters > 0 && letters % GROUP == 0 {
                    password.push('-');
                }
                password.push(char::from(LETTERS[usize::from(octet[0]) % LETTERS.len()]));
                letters += 1;
            }
        }
        let mut salt = [0; SALT];
        random.fill(&mut salt).ok()?;
        let hash = COST.hash(password.as_bytes(), &salt)?;
        let remembered = OnceLock::new();
        Some((Self { user: user.to_owned(), cost: COST, salt, hash, remembered }, password))
    }

    /// Who is asked for: the name of the origin. It is the realm too.
    #[must_use]
    pub fn user(&self) -> &str {
        &self.user
    }

    /// Whether `credentials` (`user:password`) are right. Blocks for tens of milliseconds and takes
    /// 19 MiB meanwhile, whoever the user is.
    fn verify(&self, credentials: &[u8]) -> bool {
        let colon = credentials.iter().position(|octet| *octet == b':');
        let (user, password) = credentials.split_at(colon.unwrap_or(0));
        let hash = self.cost.hash(password.get(1..).unwrap_or_default(), &self.salt);
        let is_user = equal(user, self.user.as_bytes());
        hash.is_some_and(|hash| equal(&hash, &self.hash)) & is_user & colon.is_some()
    }

    /// The hash as other programs write it too: `$argon2id$v=19$m=19456,t=2,p=1$SALT$HASH`.
    fn phc(&self) -> String {
        let Cost { memory, passes, lanes } = self.cost;
        let (salt, hash) = (BASE64_NOPAD.encode(&self.salt), BASE64_NOPAD.encode(&self.hash));
        format!("{PHC_START}m={memory},t={passes},p={lanes}${salt}${hash}")
    }

    fn parse(user: &str, phc: &str) -> Option<Self> {
        let mut parts = phc.strip_prefix(PHC_START)?.split('$');
        let (cost, salt, hash) = (parts.next()?, parts.next()?, parts.next()?);
        let mut numbers = cost.split(',').zip(["m=", "t=", "p="]);
        let mut number =
            || numbers.next().and_then(|(part, key)| part.strip_prefix(key)?.parse().ok());
        let cost = Cost { memory: number()?, passes: number()?, lanes: number()? };
        let octets = |text: &str| BASE64_NOPAD.decode(text.as_bytes()).ok();
        let (salt, hash) = (octets(salt)?.try_into().ok()?, octets(hash)?.try_into().ok()?);
        let is_whole = parts.next().is_none() && cost.is_bearable();
        let remembered = OnceLock::new();
        is_whole.then(|| Self { user: user.to_owned(), cost, salt, hash, remembered })
    }
}

impl PartialEq for Password {
    fn eq(&self, other: &Self) -> bool {
        let fields = |of: &Self| (of.cost, of.salt, of.hash);
        self.user == other.user && fields(self) == fields(other)
    }
}

impl Eq for Password {}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Password").field("user", &self.user).finish_non_exhaustive()
    }
}

impl Cost {
    /// Whether a machine that runs this program can be asked to compute it: up to 64 MiB.
    const fn is_bearable(self) -> bool {
        self.memory <= 65_536 && self.passes <= 16 && self.lanes <= 16
    }

    /// `None` for a cost that argon2 does not have.
    fn hash(self, password: &[u8], salt: &[u8]) -> Option<[u8; HASH]> {
        let params = Params::new(self.memory, self.passes, self.lanes, Some(HASH)).ok()?;
        let count = params.block_count();
        // What is above is never touched, hence never there.
        let mut blocks = Vec::with_capacity(count.max(MAPPED));
        blocks.resize(count, Block::new());
        let mut hash = [0; HASH];
        let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
        argon2.hash_password_into_with_memory(password, salt, &mut hash, &mut *blocks).ok()?;
        Some(hash)
    }
}

/// What a request shows of the Basic scheme: `user:password`. `None`: nothing, or nothing that
/// could be right (another scheme, several, no base64, too long).
pub(crate) fn credentials(headers: &HeaderMap) -> Option<Vec<u8>> {
    let mut shown = headers.get_all(header::AUTHORIZATION).iter();
    let (first, None) = (shown.next()?.as_bytes(), shown.next()) else { return None };
    let (scheme, encoded) = first.split_at_checked(SCHEME.len())?;
    if !scheme.eq_ignore_ascii_case(SCHEME) || encoded.len() > CREDENTIALS {
        return None;
    }
    // Some clients leave the padding out.
    let encoded = encoded.trim_ascii();
    let end = encoded.iter().rposition(|octet| *octet != b'=').map_or(0, |last| last + 1);
    BASE64_NOPAD.decode(&encoded[..end]).ok()
}

/// Whether two texts are equal, in a time that tells nothing about where they differ.
pub(crate) fn equal(one: &[u8], other: &[u8]) -> bool {
    let differences = one.iter().zip(other).fold(0, |sum, (a, b)| sum | (a ^ b));
    (black_box(differences) == 0) & (one.len() == other.len())
}

/// The least that OWASP's Password Storage Cheat Sheet asks for: 19 MiB, 2 passes, 1 lane.
const COST: Cost = Cost { memory: 19_456, passes: 2, lanes: 1 };
/// Blocks of an allocation that goes back to the system as soon as it is freed. Smaller ones glibc
/// keeps for their thread once it has seen one: 300 MB after sixty guesses, on sixteen threads.
const MAPPED: usize = 33 << 10;
const SALT: usize = 16;
const HASH: usize = 32;
const PHC_START: &str = "$argon2id$v=19$";
/// Small letters but i, l and o, which look like others.
const LETTERS: &[u8] = b"abcdefghjkmnpqrstuvwxyz";
const GROUPS: usize = 4;
const GROUP: usize = 5;
const SCHEME: &[u8] = b"basic ";
/// Octets of credentials in base64: a name has up to 63, a password 23.
const CREDENTIALS: usize = 512;

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn shown(values: &[&str]) -> Option<String> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(header::AUTHORIZATION, HeaderValue::from_str(value).unwrap());
        }
        credentials(&headers).map(|octets| String::from_utf8(octets).unwrap())
    }

    #[test]
    fn rules_survive_their_text_and_odd_ones_let_nobody_in() {
        let (password, _) = Password::generate("nas1").unwrap();
        let rule = Access::Password(Arc::new(password));
        let text = rule.text().unwrap();
        assert!(text.starts_with("password nas1 $argon2id$v=19$m=19456,t=2,p=1$"), "{text}");
        assert_eq!(Access::parse(&text), rule);
        assert_eq!(Access::parse("open"), Access::Open);
        assert_eq!(Access::Locked.text(), None);
        for odd in [
            "",
            "Open",
            "open x",
            "password",
            "password nas1",
            "password nas1 secret",
            &text[..text.len() - 1],
            &format!("{text}$"),
            &format!("{text} x"),
            &text.replace("argon2id", "argon2i"),
            &text.replace("m=19456", "m=4294967295"),
            &text.replace("t=2,", ""),
        ] {
            assert_eq!(Access::parse(odd), Access::Locked, "{odd}");
        }
    }

    #[test]
    fn a_hash_is_the_one_that_the_reference_computes() {
        // `echo -n password | argon2 somesaltsomesalt -id -k 64 -t 2 -p 1 -l 32 -r`
        let expected = "1a98fba8e6394425c9bdc333a9c750aaf811df070f5fb4a5788e1cf4db5793a1";
        let cost = Cost { memory: 64, passes: 2, lanes: 1 };
        let hash = cost.hash(b"password", b"somesaltsomesalt").unwrap();
        assert_eq!(data_encoding::HEXLOWER.encode(&hash), expected);
    }

    #[test]
    fn passwords_are_typeable_and_never_twice_the_same() {
        let (kept, password) = Password::generate("nas1").unwrap();
        let groups: Vec<_> = password.split('-').collect();
        assert_eq!(groups.len(), GROUPS);
        for group in groups {
            assert!(group.len() == GROUP && group.bytes().all(|octet| LETTERS.contains(&octet)));
        }
        let (other, second) = Password::generate("nas1").unwrap();
        assert_ne!(password, second);
        assert_ne!(kept, other);
        assert!(!kept.phc().contains(&password) && !format!("{kept:?}").contains("argon2"));
        // log2(23 ^ 20)
        assert_eq!(LETTERS.len().pow(10).ilog2() * 2, 90);
    }

    #[test]
    fn only_the_right_user_with_the_right_password_is_right() {
        let (kept, password) = Password::generate("nas1").unwrap();
        let is_right = |credentials: &str| kept.verify(credentials.as_bytes());
        assert!(is_right(&format!("nas1:{password}")));
        for wrong in [
            format!("nas1:{password}x"),
            format!("nas1:{}", &password[1..]),
            format!("nas2:{password}"),
            format!(":{password}"),
            format!("nas1::{password}"),
            format!("nas1{password}"),
            password,
            "nas1:".to_owned(),
            String::new(),
        ] {
            assert!(!is_right(&wrong), "{wrong}");
        }
    }

    #[test]
    fn credentials_are_read_as_clients_write_them() {
        let right = Some("nas1:secret".to_owned());
        for value in ["Basic bmFzMTpzZWNyZXQ=", "basic bmFzMTpzZWNyZXQ", "BASIC  bmFzMTpzZWNyZXQ= "]
        {
            assert_eq!(shown(&[value]), right, "{value}");
        }
        let long = format!("Basic {}", "A".repeat(CREDENTIALS + 1));
        for value in ["Bearer bmFzMTpzZWNyZXQ=", "Basic", "Basic%bmFz", "Basic nas1:secret", &long]
        {
            assert_eq!(shown(&[value]), None, "{value}");
        }
        assert_eq!(shown(&["Basic bmFzMTpzZWNyZXQ="; 2]), None);
        assert_eq!(shown(&[]), None);
    }
}
