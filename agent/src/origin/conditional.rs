//! Preconditions in the order of RFC 9110 13.2.2, and whether `Range` may be used.
//!
//! It owns the validators of a file. It reads no clock: the caller passes now.

use std::hash::Hasher as _;

use spdy_protocol::headers::Headers;

use super::{
    date,
    file::{Filesystem, Meta},
};

/// By what a client can tell whether a file is still the same.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Validators {
    /// Strong entity tag with its quotes; `None` while the file may still change unnoticed.
    pub(crate) etag: Option<String>,
    /// Seconds since 1970; `None` if it cannot be said or lies in the future.
    pub(crate) modified: Option<i64>,
}

impl Validators {
    /// The validators of a file. `key` keeps the tags of one NAS from being those of another. The
    /// number of the device is no part of the tag, because it moves when the box starts again.
    pub(crate) fn of(meta: &Meta, now: i64, key: u64) -> Self {
        // Seconds. A file whose change time is this second may be written again within the resolution of
        // the clock that stamps it: then two contents would have one tag.
        let resolution = if meta.filesystem == Filesystem::Fat { 4 } else { 2 };
        let settled = now.abs_diff(meta.changed.0) > resolution;
        let etag = settled.then(|| {
            // SipHash of the standard library: its keys are fixed, so a tag outlives a restart.
            let mut hasher = std::hash::DefaultHasher::new();
            hasher.write_u64(key);
            hasher.write_u64(meta.len);
            hasher.write_i64(meta.modified.0);
            hasher.write_u32(meta.modified.1);
            hasher.write_i64(meta.changed.0);
            hasher.write_u32(meta.changed.1);
            if meta.filesystem == Filesystem::KeepsInodes {
                hasher.write_u64(meta.inode);
            }
            format!("\"{:016x}\"", hasher.finish())
        });
        let modified = Some(meta.modified.0).filter(|at| *at <= now && *at >= 0);
        Self { etag, modified }
    }
}

/// The tag of something that is made from what has the tag `etag`: `"x"` becomes `"x-KIND"`.
pub(crate) fn variant(etag: &str, kind: &str) -> String {
    format!("{}-{kind}\"", etag.strip_suffix('"').unwrap_or(etag))
}

/// What the preconditions of a request come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Answer as if there were none; `ranges`: `Range` may be used.
    Proceed {
        /// Whether `Range` may be used.
        ranges: bool,
    },
    /// 304.
    NotModified,
    /// 412.
    Failed,
}

/// Evaluates the preconditions of a GET or HEAD (`read`) or of a write. `current` is `None` where
/// there is no file yet.
pub(crate) fn evaluate(
    headers: &Headers,
    read: bool,
    current: Option<&Validators>,
    now: i64,
) -> Verdict {
    let etag = current.and_then(|validators| validators.etag.as_deref());
    let modified = current.and_then(|validators| validators.modified);
    let dated = |name| headers.get(name).and_then(date::parse);
    if headers.get("if-match").is_some() {
        if !is_listed(headers, "if-match", current.is_some(), etag, Compare::Strong) {
            return Verdict::Failed;
        }
    } else if let Some(limit) = dated("if-unmodified-since")
        && modified.is_some_and(|modified| modified > limit)
    {
        return Verdict::Failed;
    }
    if headers.get("if-none-match").is_some() {
        if is_listed(headers, "if-none-match", current.is_some(), etag, Compare::Weak) {
            return if read { Verdict::NotModified } else { Verdict::Failed };
        }
    } else if read
        && let Some(limit) = dated("if-modified-since")
        && modified.is_some_and(|modified| modified <= limit)
    {
        return Verdict::NotModified;
    }
    Verdict::Proceed {
        ranges: headers.get("if-range").is_none_or(|value| {
            // Only a strong validator that is exactly ours (RFC 9110 13.1.5); a date is strong when
            // it was at least a second old when it was given (RFC 9110 8.8.2.2).
            let tag = value.trim_ascii();
            etag.is_some_and(|etag| etag.as_bytes() == tag)
                || date::parse(tag).is_some_and(|at| modified == Some(at) && at < now)
        }),
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Compare {
    Strong,
    Weak,
}

/// Whether a list of entity tags, or `*`, names the current one.
fn is_listed(
    headers: &Headers,
    name: &str,
    exists: bool,
    etag: Option<&str>,
    compare: Compare,
) -> bool {
    headers.get_all(name).any(|mut rest| {
        if rest.trim_ascii() == b"*" {
            return exists;
        }
        // Tags may hold commas, so the list is walked tag by tag.
        loop {
            rest = rest.trim_ascii_start();
            if let Some(after) = rest.strip_prefix(b",") {
                rest = after;
                continue;
            }
            let (weak, quoted) = match rest.strip_prefix(b"W/") {
                Some(quoted) => (true, quoted),
                None => (false, rest),
            };
            let Some(inner) = quoted.strip_prefix(b"\"") else { return false };
            let Some(end) = inner.iter().position(|octet| *octet == b'"') else { return false };
            let tag = &quoted[..end + 2];
            let comparable = compare == Compare::Weak || !weak;
            if comparable && etag.is_some_and(|etag| etag.as_bytes() == tag) {
                return true;
            }
            rest = &inner[end + 1..];
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const E: &str = "\"e\"";
    /// Sun, 06 Nov 1994 08:49:37 GMT.
    const LM: i64 = 784_111_777;
    const LM_TEXT: &str = "Sun, 06 Nov 1994 08:49:37 GMT";
    const OLD: &str = "Sat, 01 Jan 1994 00:00:00 GMT";
    const LATER: &str = "Mon, 07 Nov 1994 08:49:37 GMT";
    const PROCEED: Verdict = Verdict::Proceed { ranges: true };
    const WHOLE: Verdict = Verdict::Proceed { ranges: false };

    fn headers(pairs: &[(&str, &str)]) -> Headers {
        let mut headers = Headers::new();
        for (name, value) in pairs {
            headers.push(name, value.as_bytes()).unwrap();
        }
        headers
    }

    fn read(pairs: &[(&str, &str)]) -> Verdict {
        let current = Validators { etag: Some(E.to_owned()), modified: Some(LM) };
        evaluate(&headers(pairs), true, Some(&current), LM + 1_000)
    }

    #[test]
    fn preconditions_follow_the_order_of_the_standard() {
        let inm = "if-none-match";
        let ims = "if-modified-since";
        let ius = "if-unmodified-since";
        let cases: &[(&[(&str, &str)], Verdict)] = &[
            (&[], PROCEED),
            (&[(inm, E)], Verdict::NotModified),
            (&[(inm, "*")], Verdict::NotModified),
            (&[(inm, "W/\"e\"")], Verdict::NotModified),
            (&[(inm, "\"a\", \"e\" ,\"b\"")], Verdict::NotModified),
            (&[(inm, "\"a,\", W/\"x\",,\"e\"")], Verdict::NotModified),
            (&[(inm, "\"zz\""), (ims, LATER)], PROCEED),
            (&[(inm, E), (ims, OLD)], Verdict::NotModified),
            (&[(inm, "e")], PROCEED),
            (&[(inm, "\"e")], PROCEED),
            (&[(ims, LM_TEXT)], Verdict::NotModified),
            (&[(ims, OLD)], PROCEED),
            (&[(ims, "garbage")], PROCEED),
            (&[(ims, LATER)], Verdict::NotModified),
            (&[(ims, "Sunday, 06-Nov-94 08:49:37 GMT")], Verdict::NotModified),
            (&[(ims, "Sun Nov  6 08:49:37 1994")], Verdict::NotModified),
            (&[("if-match", E)], PROCEED),
            (&[("if-match", "\"zz\"")], Verdict::Failed),
            (&[("if-match", "W/\"e\"")], Verdict::Failed),
            (&[("if-match", "*")], PROCEED),
            (&[(ius, OLD)], Verdict::Failed),
            (&[(ius, LM_TEXT)], PROCEED),
            (&[("if-match", "*"), (ius, OLD)], PROCEED),
            (&[("if-match", "\"zz\""), (inm, "*")], Verdict::Failed),
        ];
        for (pairs, wanted) in cases {
            assert_eq!(read(pairs), *wanted, "{pairs:?}");
        }
    }

    #[test]
    fn if_range_needs_an_exact_strong_validator() {
        let cases = [
            (E, PROCEED),
            ("\"zz\"", WHOLE),
            ("W/\"e\"", WHOLE),
            (LM_TEXT, PROCEED),
            (LATER, WHOLE),
            (OLD, WHOLE),
            ("", WHOLE),
        ];
        for (value, wanted) in cases {
            assert_eq!(read(&[("if-range", value)]), wanted, "{value}");
        }
        let young = Validators { etag: None, modified: Some(LM) };
        let asked = headers(&[("if-range", LM_TEXT)]);
        assert_eq!(evaluate(&asked, true, Some(&young), LM), WHOLE);
        assert_eq!(evaluate(&asked, true, Some(&young), LM + 1), PROCEED);
    }

    #[test]
    fn writes_fail_instead_of_not_modified() {
        let current = Validators { etag: Some(E.to_owned()), modified: Some(LM) };
        let write = |pairs: &[(&str, &str)], current: Option<&Validators>| {
            evaluate(&headers(pairs), false, current, LM + 1_000)
        };
        assert_eq!(write(&[("if-none-match", "*")], Some(&current)), Verdict::Failed);
        assert_eq!(write(&[("if-none-match", "*")], None), PROCEED);
        assert_eq!(write(&[("if-match", "*")], None), Verdict::Failed);
        assert_eq!(write(&[("if-match", "\"stale\"")], Some(&current)), Verdict::Failed);
        assert_eq!(write(&[("if-match", E)], Some(&current)), PROCEED);
        assert_eq!(write(&[("if-modified-since", LATER)], Some(&current)), PROCEED);
    }

    #[test]
    fn tag_changes_with_everything_that_can_change() {
        let meta = Meta { len: 10, modified: (LM, 5), changed: (LM, 6), ..Meta::file() };
        let now = LM + 1_000;
        let tag = |meta: &Meta| Validators::of(meta, now, 1).etag.unwrap();
        let first = tag(&meta);
        assert_eq!(first.len(), 18);
        assert_eq!(first, tag(&meta.clone()));
        for changed in [
            Meta { len: 11, ..meta.clone() },
            Meta { modified: (LM, 6), ..meta.clone() },
            Meta { modified: (LM + 1, 5), ..meta.clone() },
            Meta { changed: (LM, 7), ..meta.clone() },
        ] {
            assert_ne!(first, tag(&changed), "{changed:?}");
        }
        assert_ne!(Validators::of(&meta, now, 2).etag, Some(first));
    }

    #[test]
    fn file_that_may_still_be_written_has_no_tag() {
        let meta = Meta { changed: (LM, 0), ..Meta::file() };
        for (now, settled) in [(LM, false), (LM + 2, false), (LM - 2, false), (LM + 3, true)] {
            assert_eq!(Validators::of(&meta, now, 1).etag.is_some(), settled, "{now}");
        }
    }

    #[test]
    fn impossible_dates_are_omitted() {
        for (at, said) in [(LM, true), (LM + 1, false), (-1, false), (i64::MAX, false)] {
            let meta = Meta { modified: (at, 0), changed: (0, 0), ..Meta::file() };
            assert_eq!(Validators::of(&meta, LM, 1).modified.is_some(), said, "{at}");
        }
    }
}
