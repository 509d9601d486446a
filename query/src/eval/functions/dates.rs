//! Parts of a date, in UTC.

use super::build;
use crate::ast::Expr;
use crate::eval::column::Column;
use crate::eval::context::Context;
use crate::eval::grid::Grid;
use crate::eval::vector::{Columns, Mapped, Vector, relabel};
use crate::value::EvalError;

const SECONDS_PER_DAY: i64 = 86_400;

/// Days of 400 years, after which the calendar repeats.
const DAYS_PER_ERA: i64 = 146_097;

/// From March 1st of the year -292,277,022,400, where Go's clock counts from, to the epoch: seconds.
const GO_ZERO_TO_EPOCH_SECONDS: i128 =
    (292_277_022_400 / 400 * DAYS_PER_ERA as i128 + 719_468) * SECONDS_PER_DAY as i128;

/// A point in time, taken apart.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Date {
    year: i64,
    /// From 1.
    month: i64,
    /// From 1.
    day: i64,
    /// From 1.
    day_of_year: i64,
    /// From Sunday, 0.
    day_of_week: i64,
    second_of_day: i64,
}

impl Date {
    /// From seconds since the epoch. Times far out wrap around as they do in Go.
    fn from_epoch_seconds(seconds: i64) -> Date {
        let wrapped = (i128::from(seconds) + GO_ZERO_TO_EPOCH_SECONDS) as u64;
        let since_epoch = i128::from(wrapped) - GO_ZERO_TO_EPOCH_SECONDS;
        let days = since_epoch.div_euclid(i128::from(SECONDS_PER_DAY)) as i64;
        let second_of_day = since_epoch.rem_euclid(i128::from(SECONDS_PER_DAY)) as i64;

        // Years that begin in March end with the leap day.
        let since_march_0 = days + 719_468;
        let era = since_march_0.div_euclid(DAYS_PER_ERA);
        let day_of_era = since_march_0.rem_euclid(DAYS_PER_ERA);
        let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_from_march = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let month_from_march = (5 * day_from_march + 2) / 153;
        let day = day_from_march - (153 * month_from_march + 2) / 5 + 1;
        let month = if month_from_march < 10 {
            month_from_march + 3
        } else {
            month_from_march - 9
        };
        let year = era * 400 + year_of_era + i64::from(month <= 2);
        let day_of_year = if month <= 2 {
            day_from_march - 305
        } else {
            day_from_march + 60 + i64::from(is_leap(year))
        };
        Date {
            year,
            month,
            day,
            day_of_year,
            day_of_week: (days + 4).rem_euclid(7),
            second_of_day,
        }
    }

    fn days_in_month(self) -> i64 {
        match self.month {
            2 => 28 + i64::from(is_leap(self.year)),
            4 | 6 | 9 | 11 => 30,
            _ => 31,
        }
    }
}

fn is_leap(year: i64) -> bool {
    year % 4 == 0 && (year % 100 != 0 || year % 400 == 0)
}

/// The part of a date that the function with this name gives.
pub(super) fn part(name: &str) -> Option<fn(Date) -> i64> {
    Some(match name {
        "day_of_month" => |date| date.day,
        "day_of_week" => |date| date.day_of_week,
        "day_of_year" => |date| date.day_of_year,
        "days_in_month" => Date::days_in_month,
        "hour" => |date| date.second_of_day / 3600,
        "minute" => |date| date.second_of_day / 60 % 60,
        "month" => |date| date.month,
        "year" => |date| date.year,
        _ => return None,
    })
}

/// Go's conversion of a float on x86-64: what doesn't fit becomes the lowest number.
fn go_int64(value: f64) -> i64 {
    // Both bounds are exact in f64; NaN is in no range.
    if (-9_223_372_036_854_775_808.0..9_223_372_036_854_775_808.0).contains(&value) {
        value as i64
    } else {
        i64::MIN
    }
}

/// The date's part of every sample, taken as seconds since the epoch; of the step's time if there is no argument.
pub(super) fn evaluate<'q>(
    ctx: &'q Context<'q>,
    argument: Option<&'q Expr>,
    grid: Grid,
    part: fn(Date) -> i64,
) -> Result<Vector<'q>, EvalError> {
    let Some(argument) = argument else {
        return Vector::new(ctx, vec![Default::default()], StepDates { grid, part });
    };
    let (labels, columns) = build::vector(ctx, argument, grid)?.split();
    let labels = labels.iter().map(|labels| ctx.drop_metadata(labels)).collect();
    let mapped = Mapped::new(columns, move |column: &mut Column<'q>| {
        column.filter_map(|_, value| Some(part(Date::from_epoch_seconds(go_int64(value))) as f64));
        Ok(())
    });
    relabel(ctx, labels, mapped)
}

struct StepDates {
    grid: Grid,
    part: fn(Date) -> i64,
}

impl<'q> Columns<'q> for StepDates {
    fn next(&mut self, out: &mut Column<'q>) -> Result<(), EvalError> {
        for step in 0..self.grid.count {
            // Prometheus cuts milliseconds towards zero.
            let seconds = self.grid.time_ms(step) / 1000;
            out.set(step, (self.part)(Date::from_epoch_seconds(seconds)) as f64);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn known_dates() {
        // 2024-02-29T23:59:59Z, a Thursday.
        let date = Date::from_epoch_seconds(1_709_251_199);
        let expected = Date {
            year: 2024,
            month: 2,
            day: 29,
            day_of_year: 60,
            day_of_week: 4,
            second_of_day: 86_399,
        };
        assert_eq!(date, expected);
        assert_eq!(date.days_in_month(), 29);
        // 1969-12-31T23:59:59Z, a Wednesday.
        let before = Date::from_epoch_seconds(-1);
        assert_eq!(
            (before.year, before.day_of_year, before.day_of_week),
            (1969, 365, 3)
        );
    }

    #[test]
    fn what_is_no_int64_becomes_the_lowest() {
        assert_eq!(go_int64(f64::NAN), i64::MIN);
        assert_eq!(go_int64(f64::INFINITY), i64::MIN);
        assert_eq!(go_int64(-1.9), -1);
        assert_eq!(go_int64(1e19), i64::MIN);
    }

    proptest! {
        #[test]
        fn agrees_with_jiff(seconds in -62_135_596_800_i64..253_402_207_200) {
            let date = Date::from_epoch_seconds(seconds);
            let time = jiff::Timestamp::from_second(seconds).unwrap().to_zoned(jiff::tz::TimeZone::UTC);
            prop_assert_eq!(date.year, i64::from(time.year()));
            prop_assert_eq!(date.month, i64::from(time.month()));
            prop_assert_eq!(date.day, i64::from(time.day()));
            prop_assert_eq!(date.day_of_year, i64::from(time.day_of_year()));
            prop_assert_eq!(date.day_of_week, i64::from(time.weekday().to_sunday_zero_offset()));
            prop_assert_eq!(date.days_in_month(), i64::from(time.days_in_month()));
            prop_assert_eq!(date.second_of_day / 3600, i64::from(time.hour()));
        }

        #[test]
        fn any_time_has_a_date(seconds: i64) {
            let date = Date::from_epoch_seconds(seconds);
            prop_assert!((1..=12).contains(&date.month) && (1..=date.days_in_month()).contains(&date.day));
            prop_assert!((1..=366).contains(&date.day_of_year));
        }
    }
}
