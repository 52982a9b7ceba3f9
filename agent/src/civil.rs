//! Seconds since 1970 as a calendar date in UTC.
//!
//! It does not know HTTP dates (`origin::date` does).

use std::time::{SystemTime, UNIX_EPOCH};

/// A date and time of day in UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Civil {
    /// Year, 0 to 9999.
    pub year: u16,
    /// Month, 1 to 12.
    pub month: u8,
    /// Day of the month, 1 to 31.
    pub day: u8,
    /// Hour, 0 to 23.
    pub hour: u8,
    /// Minute, 0 to 59.
    pub minute: u8,
    /// Second, 0 to 59.
    pub second: u8,
}

impl Civil {
    /// The date of a second since 1970; `None` outside the years 0 to 9999.
    #[must_use]
    pub fn from_unix(seconds: i64) -> Option<Self> {
        let days = seconds.div_euclid(DAY);
        let of_day = seconds.rem_euclid(DAY);
        // Counted from 1 March of year 0, so that the leap day is the last of its year and every
        // 400 years are alike.
        let shifted = days.checked_add(DAYS_TO_1970)?;
        let era = shifted.div_euclid(DAYS_OF_400_YEARS);
        let of_era = shifted.rem_euclid(DAYS_OF_400_YEARS);
        let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
        let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let month_from_march = (5 * of_year + 2) / 153;
        let day = of_year - (153 * month_from_march + 2) / 5 + 1;
        let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
        let year = year_of_era + era * 400 + i64::from(month <= 2);
        Some(Self {
            year: u16::try_from(year).ok().filter(|year| *year <= 9_999)?,
            month: u8::try_from(month).ok()?,
            day: u8::try_from(day).ok()?,
            hour: u8::try_from(of_day / 3_600).ok()?,
            minute: u8::try_from(of_day / 60 % 60).ok()?,
            second: u8::try_from(of_day % 60).ok()?,
        })
    }
}

/// The clock of this machine, in whole seconds since 1970; 0 before.
#[must_use]
pub fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

/// Whether a clock can be right: it is not before this program was written.
#[must_use]
pub const fn is_plausible(seconds: i64) -> bool {
    seconds > WRITTEN
}

/// 1 January 2026.
const WRITTEN: i64 = 1_767_225_600;
const DAY: i64 = 86_400;
const DAYS_OF_400_YEARS: i64 = 146_097;
/// Days from 1 March of year 0 to 1 January 1970.
const DAYS_TO_1970: i64 = 719_468;

#[cfg(test)]
mod tests {
    use super::*;

    fn text(seconds: i64) -> Option<String> {
        let c = Civil::from_unix(seconds)?;
        Some(format!(
            "{:04}-{:02}-{:02} {:02}:{:02}:{:02}",
            c.year, c.month, c.day, c.hour, c.minute, c.second
        ))
    }

    #[test]
    fn known_dates_are_right() {
        let cases = [
            (0, "1970-01-01 00:00:00"),
            (-1, "1969-12-31 23:59:59"),
            (951_782_400, "2000-02-29 00:00:00"),
            (4_107_542_400, "2100-03-01 00:00:00"),
            (1_767_225_600, "2026-01-01 00:00:00"),
            (253_402_300_799, "9999-12-31 23:59:59"),
            (-62_167_219_200, "0000-01-01 00:00:00"),
        ];
        for (seconds, date) in cases {
            assert_eq!(text(seconds).as_deref(), Some(date), "{seconds}");
        }
    }

    #[test]
    fn years_out_of_range_are_none() {
        for seconds in [253_402_300_800, -62_167_219_201, i64::MAX, i64::MIN] {
            assert_eq!(Civil::from_unix(seconds), None, "{seconds}");
        }
    }
}
