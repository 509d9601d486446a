//! OpenMetrics text with a time for each sample.

use std::io::Write;

use quorate_client::SeriesData;
use quorate_storage::entry::STALE_NAN_BITS;

use super::quoted;

/// Writes series, those of a metric one after the other.
pub(super) struct Writer<W> {
    out: W,
    /// Markers of staleness that were left out.
    pub(super) stale: u64,
}

impl<W: Write> Writer<W> {
    pub(super) fn new(out: W) -> Writer<W> {
        Writer { out, stale: 0 }
    }

    pub(super) fn series(&mut self, series: &SeriesData) -> anyhow::Result<()> {
        let labels = label_text(series.labels.iter());
        for (timestamp_ms, value) in series.timestamps_ms.iter().zip(&series.values) {
            if value.to_bits() == STALE_NAN_BITS {
                self.stale += 1;
                continue;
            }
            writeln!(self.out, "{labels} {} {}", number(*value), seconds(*timestamp_ms))?;
        }
        Ok(())
    }

    pub(super) fn end(&mut self) -> anyhow::Result<&mut W> {
        writeln!(self.out, "# EOF")?;
        Ok(&mut self.out)
    }
}

fn label_text<'a>(labels: impl Iterator<Item = (&'a str, &'a str)>) -> String {
    let classic = |name: &str, colon: bool| {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || (colon && b == b':');
        name.bytes().all(allowed) && !name.starts_with(|c: char| c.is_ascii_digit()) && !name.is_empty()
    };
    let (mut name, mut parts) = (String::new(), Vec::new());
    for (label, value) in labels {
        match label {
            "__name__" if classic(value, true) => name = value.to_owned(),
            // Names outside of the classic set are written in quotes, within the braces.
            "__name__" => parts.insert(0, quoted(value)),
            _ if classic(label, false) => parts.push(format!("{label}={}", quoted(value))),
            _ => parts.push(format!("{}={}", quoted(label), quoted(value))),
        }
    }
    match parts.is_empty() {
        true => name,
        false => format!("{name}{{{}}}", parts.join(",")),
    }
}

/// The shortest form that gives the same value.
fn number(value: f64) -> String {
    if value.is_nan() {
        return "NaN".into();
    }
    if value.is_infinite() {
        return if value > 0.0 { "+Inf" } else { "-Inf" }.into();
    }
    let size = value.abs();
    match size == 0.0 || (1e-6..1e21).contains(&size) {
        true => format!("{value}"),
        false => format!("{value:e}"),
    }
}

fn seconds(timestamp_ms: i64) -> String {
    let sign = if timestamp_ms < 0 { "-" } else { "" };
    let ms = timestamp_ms.unsigned_abs();
    match ms % 1_000 {
        0 => format!("{sign}{}", ms / 1_000),
        rest => format!("{sign}{}.{rest:03}", ms / 1_000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_written_as_prometheus_reads_them() {
        let text = |labels: &[(&str, &str)]| label_text(labels.iter().copied());
        assert_eq!(text(&[("__name__", "a:b")]), "a:b");
        let labels = [("__name__", "up"), ("job", "a\"\\\n")];
        assert_eq!(text(&labels), "up{job=\"a\\\"\\\\\\n\"}");
        let labels = [("__name__", "my.metric"), ("x y", "1")];
        assert_eq!(text(&labels), "{\"my.metric\",\"x y\"=\"1\"}");
    }

    #[test]
    fn numbers_and_times_give_back_what_they_were() {
        for value in [
            0.0,
            -0.0,
            1.5,
            1e300,
            5e-324,
            0.1 + 0.2,
            f64::MAX,
            123_456_789.125,
            1e21,
        ] {
            let read: f64 = number(value).parse().unwrap();
            assert_eq!(read.to_bits(), value.to_bits(), "{}", number(value));
        }
        assert_eq!(number(f64::NEG_INFINITY), "-Inf");
        assert_eq!(seconds(1_700_000_000_123), "1700000000.123");
        assert_eq!((seconds(17_000), seconds(-1_005)), ("17".into(), "-1.005".into()));
    }
}
