//! `quorate export`: samples as OpenMetrics text, or sent on by remote write.

mod openmetrics;
mod remote_write;

use std::io::{BufWriter, Write as _};
use std::path::PathBuf;

use anyhow::{Context as _, bail, ensure};
use clap::Args;
use quorate_client::{Client, LabelOptions, SeriesData};

use super::connect::{ConnectArgs, ReadArgs};
use super::time::{now_ms, parse_time};

/// Export samples as OpenMetrics text, or send them on by remote write
///
/// Metric by metric, so that no more than a part of one metric is in memory at a time. Metrics are read one
/// after the other: what is written meanwhile may be in some and not in others; give an end to have the same
/// moment for all.
#[derive(Debug, Args)]
#[group(id = "target", required = true, multiple = false, args = ["openmetrics", "remote_write"])]
pub struct ExportArgs {
    /// Write OpenMetrics text to a file, or to stdout with `-`. Markers of staleness have no form in it and are
    /// left out.
    #[arg(long, value_name = "FILE")]
    openmetrics: Option<PathBuf>,
    /// Send everything to a remote-write endpoint, such as http://host:9090/api/v1/write.
    #[arg(long, value_name = "URL")]
    remote_write: Option<String>,
    /// Only series that match this selector, may be repeated. Default: all.
    #[arg(long = "match", value_name = "SELECTOR")]
    matches: Vec<String>,
    /// The first time, RFC 3339 or Unix seconds. Default: the beginning.
    #[arg(long, value_parser = parse_time, allow_hyphen_values = true, value_name = "TIME")]
    start: Option<i64>,
    /// The last time. Default: now.
    #[arg(long, value_parser = parse_time, allow_hyphen_values = true, value_name = "TIME")]
    end: Option<i64>,
    #[command(flatten)]
    read: ReadArgs,
    #[command(flatten)]
    connect: ConnectArgs,
}

/// Runs `quorate export`.
pub async fn run(args: ExportArgs) -> anyhow::Result<()> {
    let client = args.connect.client()?;
    let (start_ms, end_ms) = (args.start.unwrap_or(0), args.end.unwrap_or_else(now_ms));
    ensure!(start_ms <= end_ms, "the end is before the start");
    let span = Span {
        matches: match args.matches.is_empty() {
            true => vec!["{__name__!=\"\"}".to_owned()],
            false => args.matches.clone(),
        },
        start_ms,
        end_ms,
        read: args.read.level(),
    };
    let counted = match (&args.openmetrics, &args.remote_write) {
        (Some(path), _) if path.as_os_str() == "-" => {
            let mut out = openmetrics::Writer::new(BufWriter::new(std::io::stdout()));
            let counted = span.each(&client, async |piece| out.series(&piece)).await?;
            out.end()?.flush()?;
            note_stale(out.stale);
            counted
        }
        (Some(path), _) => {
            let file =
                std::fs::File::create(path).with_context(|| format!("can't create {}", path.display()))?;
            let mut out = openmetrics::Writer::new(BufWriter::with_capacity(1 << 20, file));
            let counted = span.each(&client, async |piece| out.series(&piece)).await?;
            out.end()?.flush()?;
            note_stale(out.stale);
            counted
        }
        (None, Some(url)) => {
            let mut out = remote_write::Sender::new(url)?;
            let counted = span.each(&client, async |piece| out.series(&piece).await).await?;
            out.end().await?;
            counted
        }
        (None, None) => bail!("expected --openmetrics or --remote-write"),
    };
    eprintln!("{} samples of {} series", counted.samples, counted.series);
    Ok(())
}

fn note_stale(stale: u64) {
    if stale > 0 {
        eprintln!("{stale} markers of staleness were left out");
    }
}

#[derive(Debug, Default)]
struct Counted {
    series: u64,
    samples: u64,
}

/// What is exported.
struct Span {
    matches: Vec<String>,
    start_ms: i64,
    end_ms: i64,
    read: quorate_client::ReadLevel,
}

impl Span {
    /// Hands every series to `take`, in pieces that are in time order, metric by metric.
    async fn each(
        &self,
        client: &Client,
        mut take: impl AsyncFnMut(SeriesData) -> anyhow::Result<()>,
    ) -> anyhow::Result<Counted> {
        let options = LabelOptions {
            matches: self.matches.clone(),
            start_ms: self.start_ms,
            end_ms: self.end_ms,
            read: self.read,
            ..LabelOptions::default()
        };
        let metrics = client.label_values("__name__", &options).await?.strings;
        let mut counted = Counted::default();
        for metric in metrics {
            // Series that match several selectors are exported once.
            let mut seen = std::collections::HashSet::new();
            for (number, selector) in self.matches.iter().enumerate() {
                let selector = narrowed(selector, &metric)?;
                let mut stream = client
                    .read_stream(&selector, self.start_ms, self.end_ms, self.read)
                    .await
                    .with_context(|| format!("metric {metric}"))?;
                let mut last = None;
                let mut own = std::collections::HashSet::new();
                while let Some(piece) = stream.next().await? {
                    if seen.contains(&piece.labels) {
                        continue;
                    }
                    if last.as_ref() != Some(&piece.labels) {
                        counted.series += 1;
                        if number + 1 < self.matches.len() {
                            own.insert(piece.labels.clone());
                        }
                        last = Some(piece.labels.clone());
                    }
                    counted.samples += piece.values.len() as u64;
                    take(piece).await?;
                }
                seen.extend(own);
            }
        }
        Ok(counted)
    }
}

/// The selector with the metric's name added to its matchers.
fn narrowed(selector: &str, metric: &str) -> anyhow::Result<String> {
    let matchers = quorate_query::parse_selector(selector)
        .map_err(|error| anyhow::anyhow!("--match {selector}: {error}"))?;
    let mut parts = vec![format!("__name__={}", quoted(metric))];
    for matcher in matchers {
        let name = matcher.name();
        let plain = name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
            && !name.starts_with(|c: char| c.is_ascii_digit());
        let name = if plain { name.to_owned() } else { quoted(name) };
        parts.push(format!(
            "{name}{}{}",
            matcher.op().as_str(),
            quoted(matcher.value())
        ));
    }
    Ok(format!("{{{}}}", parts.join(",")))
}

/// A string as PromQL and OpenMetrics write it.
fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for character in text.chars() {
        match character {
            '\\' => out.push_str("\\\\"),
            '"' => out.push_str("\\\""),
            '\n' => out.push_str("\\n"),
            other => out.push(other),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selectors_are_narrowed_to_a_metric() {
        let text = narrowed("up{job=~\"a.*\",\"my label\"!=\"x\\\\y\"}", "up").unwrap();
        assert_eq!(
            text,
            r#"{__name__="up",job=~"a.*","my label"!="x\\y",__name__="up"}"#
        );
        assert!(quorate_query::parse_selector(&text).is_ok(), "{text}");
        assert!(narrowed("up{", "up").is_err());
    }
}
