//! HTTP dates (RFC 9110 5.6.7) that cannot panic.
//!
//! `httpdate` panics before 1970 and after 9999, and a single file with such a date must not end
//! the agent. It does not read a clock.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A second as an HTTP date; `None` outside 1970 to 9999.
pub(crate) fn format(seconds: i64) -> Option<String> {
    let seconds = u64::try_from(seconds).ok().filter(|seconds| *seconds < YEAR_10000)?;
    Some(httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(seconds)))
}

/// Reads all three forms, as seconds since 1970; `None` for anything else and for dates before.
pub(crate) fn parse(value: &[u8]) -> Option<i64> {
    let time = httpdate::parse_http_date(str::from_utf8(value).ok()?).ok()?;
    i64::try_from(time.duration_since(UNIX_EPOCH).ok()?.as_secs()).ok()
}

/// A clock's time as seconds since 1970, negative before.
pub(crate) fn seconds(time: SystemTime) -> i64 {
    match time.duration_since(UNIX_EPOCH) {
        Ok(after) => i64::try_from(after.as_secs()).unwrap_or(i64::MAX),
        Err(before) => {
            i64::try_from(before.duration().as_secs()).map_or(i64::MIN, |before| -before)
        }
    }
}

/// Whether a clock may be right. A box without one starts in 1970 or at the date of its firmware;
/// a wrong Date is worse than none, which the proxy adds.
pub(crate) const fn is_plausible(now: i64) -> bool {
    now > YEAR_2025 && now < YEAR_2100
}

const YEAR_2025: i64 = 1_735_689_600;
const YEAR_2100: i64 = 4_102_444_800;
const YEAR_10000: u64 = 253_402_300_800;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extreme_dates_are_omitted() {
        for seconds in [-1, i64::MIN, 253_402_300_800, i64::MAX, -315_619_200] {
            assert_eq!(format(seconds), None, "{seconds}");
        }
        assert_eq!(format(0).as_deref(), Some("Thu, 01 Jan 1970 00:00:00 GMT"));
        assert_eq!(format(253_402_300_799).as_deref(), Some("Fri, 31 Dec 9999 23:59:59 GMT"));
    }

    #[test]
    fn all_three_forms_are_read() {
        for text in [
            "Sun, 06 Nov 1994 08:49:37 GMT",
            "Sunday, 06-Nov-94 08:49:37 GMT",
            "Sun Nov  6 08:49:37 1994",
        ] {
            assert_eq!(parse(text.as_bytes()), Some(784_111_777), "{text}");
        }
        for text in ["", "garbage", "Thu, 01 Jan 1960 00:00:00 GMT", "0", "\u{fc}"] {
            assert_eq!(parse(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn times_before_1970_are_negative() {
        assert_eq!(seconds(UNIX_EPOCH - Duration::from_secs(5)), -5);
        assert_eq!(seconds(UNIX_EPOCH + Duration::from_millis(1_999)), 1);
    }

    #[test]
    fn clock_of_a_box_without_one_is_not_believed() {
        assert!(!is_plausible(0));
        assert!(!is_plausible(YEAR_2025));
        assert!(is_plausible(1_767_225_600));
        assert!(!is_plausible(YEAR_2100));
    }
}
