//! Times on the command line and in tables.

use std::time::Duration;

use clap::Args;
use jiff::Timestamp;
use jiff::tz::TimeZone;

use super::connect::parse_duration;
use crate::clock::{Clock as _, SystemClock};

/// Now, milliseconds since the Unix epoch.
pub(super) fn now_ms() -> i64 {
    SystemClock.now_ms()
}

/// For clap: a time as milliseconds since the Unix epoch.
pub(super) fn parse_time(text: &str) -> Result<i64, String> {
    let expected = || "expected a time like 2026-11-21T12:00:00Z or 1763726400.5 (Unix seconds)".to_owned();
    if let Ok(seconds) = text.parse::<f64>() {
        let ms = (seconds * 1_000.0).round();
        // Beyond this a double can't tell milliseconds apart.
        return if ms.abs() < 9e15 {
            Ok(ms as i64)
        } else {
            Err(expected())
        };
    }
    text.parse::<Timestamp>()
        .map(|time| time.as_millisecond())
        .map_err(|_| expected())
}

/// A time in the machine's time zone, with what is needed of it: the date when `with_date`, the
/// milliseconds when there are any.
pub(super) fn show_time(timestamp_ms: i64, with_date: bool) -> String {
    let Ok(time) = Timestamp::from_millisecond(timestamp_ms) else {
        return timestamp_ms.to_string();
    };
    let format = match (with_date, timestamp_ms.rem_euclid(1_000)) {
        (true, 0) => "%Y-%m-%d %H:%M:%S",
        (true, _) => "%Y-%m-%d %H:%M:%S%.3f",
        (false, 0) => "%H:%M:%S",
        (false, _) => "%H:%M:%S%.3f",
    };
    time.to_zoned(TimeZone::system()).strftime(format).to_string()
}

/// Flags for the time span of questions about series and labels.
#[derive(Debug, Clone, Args)]
pub(super) struct SpanArgs {
    /// Only what has samples from this time on, RFC 3339 or Unix seconds.
    #[arg(long, value_parser = parse_time, allow_hyphen_values = true, value_name = "TIME")]
    start: Option<i64>,
    /// Only what has samples until this time. Default: now.
    #[arg(long, value_parser = parse_time, allow_hyphen_values = true, value_name = "TIME")]
    end: Option<i64>,
    /// Only what has samples in this time before the end. Default: all times.
    #[arg(long, value_parser = parse_duration, value_name = "DURATION", conflicts_with = "start")]
    range: Option<Duration>,
}

impl SpanArgs {
    /// Start and end in milliseconds since the Unix epoch.
    pub(super) fn span(&self, now_ms: i64) -> (i64, i64) {
        let end = self.end.unwrap_or(now_ms);
        let before =
            |range: Duration| end.saturating_sub(i64::try_from(range.as_millis()).unwrap_or(i64::MAX));
        let start = self.start.or_else(|| self.range.map(before)).unwrap_or(0);
        (start, end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_rfc_3339_or_unix_seconds() {
        assert_eq!(parse_time("1763726400.5"), Ok(1_763_726_400_500));
        assert_eq!(parse_time("-1"), Ok(-1_000));
        assert_eq!(parse_time("2025-11-21T12:00:00Z"), Ok(1_763_726_400_000));
        assert_eq!(parse_time("2025-11-21T13:00:00.25+01:00"), Ok(1_763_726_400_250));
        for wrong in ["", "now", "inf", "nan", "1e300", "2025-11-21"] {
            assert!(parse_time(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn spans() {
        let span = |start, end, range_s: Option<u64>| {
            SpanArgs {
                start,
                end,
                range: range_s.map(Duration::from_secs),
            }
            .span(100_000)
        };
        assert_eq!(span(None, None, None), (0, 100_000));
        assert_eq!(span(Some(5), Some(6), None), (5, 6));
        assert_eq!(span(None, Some(90_000), Some(30)), (60_000, 90_000));
    }
}
