//! Everything that a server holds, through the HTTP API that its users have.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;
use serde_json::Value;

use super::server::Subject;
use crate::http::Http;
use crate::values::{Entry, SeriesId};

/// How long an answer may take.
const ANSWER: Duration = Duration::from_secs(120);
/// Added on both sides of the window, so that it does not matter which of its ends an API counts in.
const MARGIN_MS: i64 = 2_000;

/// All samples of the writers in a window, the ends included.
pub fn read_all(
    subject: Subject,
    address: &str,
    writers: &[u32],
    window_ms: (i64, i64),
) -> Result<Vec<Entry>> {
    let http = Http::new(address, ANSWER);
    let (from_ms, to_ms) = (window_ms.0 - MARGIN_MS, window_ms.1 + MARGIN_MS);
    let mut all = Vec::new();
    for writer in writers {
        let selector = SeriesId::selector_of(*writer);
        let samples = match subject {
            Subject::VictoriaMetrics => export(&http, &selector, from_ms, to_ms),
            Subject::Prometheus | Subject::Quorate => range_selector(&http, &selector, from_ms, to_ms),
        };
        all.extend(samples.with_context(|| selector)?);
    }
    Ok(all)
}

/// Prometheus's query API: a range selector at the window's end returns samples as they are.
fn range_selector(http: &Http, selector: &str, from_ms: i64, to_ms: i64) -> Result<Vec<Entry>> {
    let query = format!("{selector}[{}ms]", to_ms - from_ms);
    let time = format!("{}.{:03}", to_ms / 1_000, to_ms % 1_000);
    let data = http.api("/api/v1/query", &[("query", &query), ("time", &time)])?;
    ensure!(data["resultType"] == "matrix", "not a matrix: {data}");
    let mut entries = Vec::new();
    for series in data["result"].as_array().context("no result")? {
        let id = series_of(&series["metric"])?;
        for sample in series["values"].as_array().context("no values")? {
            let (time_s, value) = (sample[0].as_f64(), sample[1].as_str());
            let value: f64 = value.context("no value")?.parse()?;
            entries.push(Entry {
                series: id,
                timestamp_ms: (time_s.context("no time")? * 1e3).round() as i64,
                bits: value.to_bits(),
            });
        }
    }
    Ok(entries)
}

/// VictoriaMetrics's own way to raw samples: its query API would fill gaps and cut off what is newest.
fn export(http: &Http, selector: &str, from_ms: i64, to_ms: i64) -> Result<Vec<Entry>> {
    let seconds = |ms: i64| format!("{}.{:03}", ms / 1_000, ms % 1_000);
    let parameters = form_urlencoded::Serializer::new(String::new())
        .extend_pairs([
            ("match[]", selector),
            ("start", &seconds(from_ms)),
            ("end", &seconds(to_ms)),
        ])
        .finish();
    let answer = http.get(&format!("/api/v1/export?{parameters}"))?;
    ensure!(
        answer.status == 200,
        "export: {} {}",
        answer.status,
        answer.text()
    );
    exported(&answer.text())
}

/// A line of an export.
#[derive(Deserialize)]
struct Exported {
    metric: Value,
    values: Vec<f64>,
    timestamps: Vec<i64>,
}

fn exported(lines: &str) -> Result<Vec<Entry>> {
    let mut entries = Vec::new();
    for line in lines.lines() {
        let line: Exported = serde_json::from_str(line).with_context(|| line.to_owned())?;
        ensure!(
            line.values.len() == line.timestamps.len(),
            "times and values differ in number"
        );
        let series = series_of(&line.metric)?;
        let samples = line.timestamps.iter().zip(&line.values);
        entries.extend(samples.map(|(timestamp_ms, value)| Entry {
            series,
            timestamp_ms: *timestamp_ms,
            bits: value.to_bits(),
        }));
    }
    Ok(entries)
}

fn series_of(labels: &Value) -> Result<SeriesId> {
    let labels = labels.as_object().context("no labels")?;
    let pairs = labels
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str().unwrap_or_default()));
    SeriesId::from_labels(pairs).with_context(|| format!("a series that nobody wrote: {labels:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exports_come_in_pieces() {
        let metric = r#"{"__name__":"probe_value","instance":"writer-1000","job":"probe","series":"3"}"#;
        let lines = format!(
            "{{\"metric\":{metric},\"values\":[1,2],\"timestamps\":[1000,2000]}}\n{{\"metric\":{metric},\"values\":[3],\"timestamps\":[3000]}}\n"
        );
        let series = SeriesId {
            writer: 1_000,
            number: 3,
        };
        let entry = |second: i64| Entry {
            series,
            timestamp_ms: second * 1_000,
            bits: (second as f64).to_bits(),
        };
        assert_eq!(exported(&lines).unwrap(), [entry(1), entry(2), entry(3)]);
        assert!(exported("{\"metric\":{},\"values\":[],\"timestamps\":[]}").is_err());
    }
}
