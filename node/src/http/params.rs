//! Request parameters of the query API: form and URL merged, times and durations as Prometheus reads them.

use std::time::Duration;

use quorate_proto::ErrorCode;

use crate::api::{ApiError, ReadLevel, ReadOptions};
use crate::duration;

/// The earliest time there is, in milliseconds: Prometheus's `MinTime`.
pub(super) const MIN_TIME_MS: i64 = (i64::MIN / 1_000 + 62_135_596_801) * 1_000;
/// The latest time there is, in milliseconds: Prometheus's `MaxTime`.
pub(super) const MAX_TIME_MS: i64 = (i64::MAX / 1_000 - 62_135_596_801) * 1_000 + 999;
/// Most points of a series in one answer.
const MAX_POINTS: i64 = 11_000;
/// Most parameters of a request.
const MAX_PARAMETERS: usize = 10_000;

/// All parameters of a request. Those of the body come first, so they win where one is asked for.
#[derive(Debug, Default)]
pub(super) struct Params {
    pairs: Vec<(String, String)>,
}

impl Params {
    /// Decodes a form body and a URL's query.
    pub(super) fn new(body: &[u8], url_query: &str) -> Result<Params, ApiError> {
        let mut pairs = Vec::new();
        for encoded in [body, url_query.as_bytes()] {
            for pair in form_urlencoded::parse(encoded) {
                if pairs.len() == MAX_PARAMETERS {
                    return Err(bad_data(format!("expected at most {MAX_PARAMETERS} parameters")));
                }
                pairs.push((pair.0.into_owned(), pair.1.into_owned()));
            }
        }
        Ok(Params { pairs })
    }

    /// The first value of a parameter; an empty one counts as none.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        let first = self.pairs.iter().find(|(key, _)| key == name)?;
        Some(first.1.as_str()).filter(|value| !value.is_empty())
    }

    /// All values of a parameter.
    pub(super) fn all(&self, name: &str) -> Vec<String> {
        self.pairs
            .iter()
            .filter(|(key, _)| key == name)
            .map(|(_, value)| value.clone())
            .collect()
    }

    /// A time that must be there.
    pub(super) fn time(&self, name: &str) -> Result<i64, ApiError> {
        parse_time_ms(self.get(name).unwrap_or_default()).map_err(|message| invalid(name, &message))
    }

    /// A time with a default.
    pub(super) fn time_or(&self, name: &str, default_ms: i64) -> Result<i64, ApiError> {
        let Some(text) = self.get(name) else {
            return Ok(default_ms);
        };
        let explain = |message: String| invalid(name, &format!("invalid time value for '{name}': {message}"));
        parse_time_ms(text).map_err(explain)
    }

    /// A duration in milliseconds, if given.
    pub(super) fn duration_ms(&self, name: &str) -> Result<Option<i64>, ApiError> {
        let Some(text) = self.get(name) else {
            return Ok(None);
        };
        parse_duration_ms(text)
            .map(Some)
            .map_err(|message| invalid(name, &message))
    }

    /// The most results wanted; `None` for all.
    pub(super) fn limit(&self) -> Result<Option<usize>, ApiError> {
        let Some(text) = self.get("limit") else {
            return Ok(None);
        };
        match text.parse::<i64>() {
            Ok(limit) if limit < 0 => Err(invalid("limit", "limit must be non-negative")),
            Ok(0) => Ok(None),
            Ok(limit) => Ok(Some(usize::try_from(limit).unwrap_or(usize::MAX))),
            Err(_) => Err(invalid(
                "limit",
                &format!("cannot parse {text:?} to a whole number"),
            )),
        }
    }

    /// How long the query may take: what is asked for, at most `most`.
    pub(super) fn timeout(&self, most: Duration) -> Result<Duration, ApiError> {
        let Some(asked_ms) = self.duration_ms("timeout")? else {
            return Ok(most);
        };
        Ok(Duration::from_millis(u64::try_from(asked_ms).unwrap_or(0)).min(most))
    }

    /// `lookback_delta`, in milliseconds.
    pub(super) fn lookback_ms(&self) -> Result<Option<i64>, ApiError> {
        match self.duration_ms("lookback_delta")? {
            Some(lookback_ms) if lookback_ms <= 0 => {
                Err(invalid("lookback_delta", "lookback delta must be positive"))
            }
            lookback_ms => Ok(lookback_ms),
        }
    }

    /// `read` and `max_staleness`. Either alone will do: a bound asks for a bounded read.
    pub(super) fn read_options(&self) -> Result<ReadOptions, ApiError> {
        let max_staleness_ms = match self.duration_ms("max_staleness")? {
            None => None,
            Some(ms) if ms > 0 => u64::try_from(ms).ok(),
            Some(_) => return Err(invalid("max_staleness", "expected a duration above 0")),
        };
        let level = match self.get("read") {
            None => max_staleness_ms.map(|_| ReadLevel::Bounded),
            Some(name) => Some(ReadLevel::from_name(name).ok_or_else(|| {
                invalid(
                    "read",
                    &format!("expected linearizable, bounded or local, found {name:?}"),
                )
            })?),
        };
        if max_staleness_ms.is_some() && level != Some(ReadLevel::Bounded) {
            return Err(invalid(
                "max_staleness",
                "expected only together with read=bounded",
            ));
        }
        Ok(ReadOptions {
            level,
            max_staleness_ms,
        })
    }

    /// Start, end and step of a range query, in milliseconds.
    pub(super) fn range_ms(&self) -> Result<(i64, i64, i64), ApiError> {
        let (start_ms, end_ms) = (self.time("start")?, self.time("end")?);
        if end_ms < start_ms {
            return Err(invalid("end", "end timestamp must not be before start timestamp"));
        }
        let step = self.get("step").unwrap_or_default();
        let step_ms = parse_duration_ms(step).map_err(|message| invalid("step", &message))?;
        if step_ms <= 0 {
            let message =
                "zero or negative query resolution step widths are not accepted. Try a positive integer";
            return Err(invalid("step", message));
        }
        if end_ms.saturating_sub(start_ms) / step_ms > MAX_POINTS {
            let message = "exceeded maximum resolution of 11,000 points per timeseries. \
                           Try decreasing the query resolution (?step=XX)";
            return Err(bad_data(message.into()));
        }
        Ok((start_ms, end_ms, step_ms))
    }
}

/// The error of an unusable parameter, in Prometheus's words.
pub(super) fn invalid(name: &str, message: &str) -> ApiError {
    bad_data(format!("invalid parameter \"{name}\": {message}"))
}

fn bad_data(message: String) -> ApiError {
    ApiError::new(ErrorCode::BadData, message)
}

/// Seconds as a float, RFC 3339, or one of the two texts that Prometheus writes for its extreme times.
fn parse_time_ms(text: &str) -> Result<i64, String> {
    let unreadable = || format!("cannot parse {text:?} to a valid timestamp");
    if let Ok(seconds) = text.parse::<f64>() {
        let ms = (seconds * 1_000.0).round();
        let representable = ms.is_finite() && ms >= MIN_TIME_MS as f64 && ms <= MAX_TIME_MS as f64;
        return if representable {
            Ok(ms as i64)
        } else {
            Err(unreadable())
        };
    }
    match text {
        "-292273086-05-16T16:47:06Z" => return Ok(MIN_TIME_MS),
        "292277025-08-18T07:12:54.999999999Z" | "+292277025-08-18T07:12:54.999999999Z" => {
            return Ok(MAX_TIME_MS);
        }
        _ => {}
    }
    let timestamp: jiff::Timestamp = text.parse().map_err(|_| unreadable())?;
    Ok(timestamp.as_millisecond())
}

/// Seconds as a float or a Prometheus duration, in milliseconds.
fn parse_duration_ms(text: &str) -> Result<i64, String> {
    let unreadable = || format!("cannot parse {text:?} to a valid duration");
    if let Ok(seconds) = text.parse::<f64>() {
        let ms = seconds * 1_000.0;
        // Prometheus counts durations in nanoseconds in 64 bits.
        if ms.is_nan() || ms.abs() > i64::MAX as f64 / 1e6 {
            return Err(format!("{}. It overflows int64", unreadable()));
        }
        return Ok(ms as i64);
    }
    let duration = duration::parse(text).ok_or_else(unreadable)?;
    i64::try_from(duration.as_millis()).map_err(|_| unreadable())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn params(body: &str, url: &str) -> Params {
        Params::new(body.as_bytes(), url).unwrap()
    }

    #[test]
    fn body_and_url_are_merged_and_the_body_wins() {
        let merged = params("query=a%2Bb&match%5B%5D=x", "query=c&match[]=y&time=1&empty=");
        assert_eq!(merged.get("query"), Some("a+b"));
        assert_eq!(merged.all("match[]"), ["x", "y"]);
        assert_eq!(merged.get("time"), Some("1"));
        assert_eq!((merged.get("empty"), merged.get("none")), (None, None));
        let many = "a=1&".repeat(MAX_PARAMETERS + 1);
        assert!(Params::new(many.as_bytes(), "").is_err());
    }

    #[test]
    fn times() {
        for (text, ms) in [
            ("0", 0),
            ("1435781451.781", 1_435_781_451_781),
            ("1.0005", 1_001),
            ("-1.5", -1_500),
            ("1e3", 1_000_000),
            ("2015-06-03T13:21:58.555Z", 1_433_337_718_555),
            ("2015-06-03T14:21:58.555+01:00", 1_433_337_718_555),
            ("-292273086-05-16T16:47:06Z", MIN_TIME_MS),
            ("292277025-08-18T07:12:54.999999999Z", MAX_TIME_MS),
        ] {
            assert_eq!(parse_time_ms(text), Ok(ms), "{text}");
        }
        for text in ["", "x", "NaN", "inf", "1e300", "2015-06-03", "30s"] {
            assert!(parse_time_ms(text).is_err(), "{text}");
        }
        assert_eq!(params("", "").time_or("time", 5), Ok(5));
        assert_eq!(
            params("", "start=x").time("start").unwrap_err().message,
            "invalid parameter \"start\": cannot parse \"x\" to a valid timestamp"
        );
        assert_eq!(
            params("", "time=x").time_or("time", 5).unwrap_err().message,
            "invalid parameter \"time\": invalid time value for 'time': cannot parse \"x\" to a valid timestamp"
        );
    }

    #[test]
    fn durations() {
        for (text, ms) in [
            ("15", 15_000),
            ("0.5", 500),
            ("1m", 60_000),
            ("1h30m", 5_400_000),
            ("-1", -1_000),
            ("300ms", 300),
        ] {
            assert_eq!(parse_duration_ms(text), Ok(ms), "{text}");
        }
        for text in ["", "x", "1e300", "NaN", "-inf", "1 m"] {
            assert!(parse_duration_ms(text).is_err(), "{text}");
        }
    }

    #[test]
    fn ranges() {
        let range = |url: &str| params("", url).range_ms().map_err(|error| error.message);
        assert_eq!(range("start=0&end=11000&step=1"), Ok((0, 11_000_000, 1_000)));
        assert!(
            range("start=0&end=11001&step=1")
                .unwrap_err()
                .starts_with("exceeded maximum resolution")
        );
        assert!(
            range("start=2&end=1&step=1")
                .unwrap_err()
                .contains("must not be before")
        );
        for step in ["0", "-1", "0.0001"] {
            assert!(
                range(&format!("start=0&end=1&step={step}"))
                    .unwrap_err()
                    .contains("zero or negative"),
                "{step}"
            );
        }
        assert!(range("end=1&step=1").unwrap_err().contains("\"start\""));
        assert!(range("start=0&end=1").unwrap_err().contains("\"step\""));
        // The longest range must not overflow.
        let all = format!("start={}&end={}&step=1", MIN_TIME_MS / 1_000, MAX_TIME_MS / 1_000);
        assert!(range(&all).is_err());
    }

    #[test]
    fn read_options() {
        let read = |url: &str| params("", url).read_options();
        assert_eq!(read(""), Ok(ReadOptions::default()));
        assert_eq!(
            read("read=local"),
            Ok(ReadOptions {
                level: Some(ReadLevel::Local),
                max_staleness_ms: None
            })
        );
        let bounded = ReadOptions {
            level: Some(ReadLevel::Bounded),
            max_staleness_ms: Some(5_000),
        };
        assert_eq!(read("read=bounded&max_staleness=5s"), Ok(bounded));
        assert_eq!(read("max_staleness=5"), Ok(bounded));
        for url in [
            "read=strong",
            "read=local&max_staleness=5s",
            "max_staleness=0",
            "max_staleness=x",
        ] {
            assert!(read(url).is_err(), "{url}");
        }
    }

    #[test]
    fn limits_and_timeouts() {
        assert_eq!(params("", "limit=5").limit(), Ok(Some(5)));
        assert_eq!(params("", "limit=0").limit(), Ok(None));
        assert!(params("", "limit=-1").limit().is_err());
        assert!(params("", "limit=x").limit().is_err());
        let most = Duration::from_secs(30);
        assert_eq!(params("", "").timeout(most), Ok(most));
        assert_eq!(params("", "timeout=1s").timeout(most), Ok(Duration::from_secs(1)));
        assert_eq!(params("", "timeout=1h").timeout(most), Ok(most));
        assert!(params("", "lookback_delta=0").lookback_ms().is_err());
    }
}
