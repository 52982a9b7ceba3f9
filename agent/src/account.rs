//! Users and groups of this machine by name.
//!
//! It owns the form of `/etc/passwd` and `/etc/group`. It asks no directory service: a static
//! program cannot.

use std::{fs, path::Path};

/// The ids of a user and of its group, by name or `UID`. `etc`: `/etc`.
#[must_use]
pub fn user(etc: &Path, name: &str) -> Option<(u32, u32)> {
    let is_it = |fields: &[&str]| fields.first() == Some(&name) || fields.get(2) == Some(&name);
    match find(&etc.join("passwd"), is_it) {
        Some(ids) => Some((ids.0, ids.1?)),
        None => name.parse().ok().map(|id| (id, id)),
    }
}

/// The id of a group, by name or `GID`.
#[must_use]
pub fn group(etc: &Path, name: &str) -> Option<u32> {
    let found = find(&etc.join("group"), |fields| fields.first() == Some(&name));
    found.map_or_else(|| name.parse().ok(), |ids| Some(ids.0))
}

/// The numbers in the third and fourth field of the first line that is it.
fn find(file: &Path, is_it: impl Fn(&[&str]) -> bool) -> Option<(u32, Option<u32>)> {
    let text = fs::read_to_string(file).ok()?;
    text.lines().find_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        let number = |at: usize| fields.get(at)?.parse().ok();
        is_it(&fields).then(|| Some((number(2)?, number(3))))?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_are_found() {
        let etc = std::env::temp_dir().join(format!("spdy-agent-account-{}", std::process::id()));
        fs::create_dir_all(&etc).unwrap();
        fs::write(etc.join("passwd"), "root:x:0:0:::\n+nis\nalice:x:1000:100:A:/home/a:/b\n")
            .unwrap();
        fs::write(etc.join("group"), "users:x:100:alice\nmedia:x:1001:\n").unwrap();
        assert_eq!(user(&etc, "alice"), Some((1000, 100)));
        assert_eq!(user(&etc, "1000"), Some((1000, 100)));
        assert_eq!(user(&etc, "2000"), Some((2000, 2000)));
        assert_eq!(user(&etc, "bob"), None);
        assert_eq!(group(&etc, "media"), Some(1001));
        assert_eq!(group(&etc, "7"), Some(7));
        assert_eq!(group(&etc, "alice"), None);
        fs::remove_dir_all(&etc).unwrap();
    }
}
