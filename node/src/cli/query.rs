//! `quorate query`: PromQL at one time or over a range.

use std::io::IsTerminal as _;
use std::time::Duration;

use anyhow::ensure;
use clap::Args;
use quorate_client::{Answer, QueryOptions, RangeWindow, SeriesAnswer, SeriesData, Value};

use super::chart::{self, Frame, legend_mark};
use super::connect::{ConnectArgs, ReadArgs, parse_duration};
use super::time::{now_ms, parse_time, show_time};
use super::{json, table};

/// A range query has about as many steps unless told otherwise.
const DEFAULT_STEPS: i64 = 120;

/// Samples of a range vector's series that are listed, the last ones.
const MAX_LISTED_SAMPLES: usize = 20;

/// Evaluate a PromQL expression.
#[derive(Debug, Args)]
pub struct QueryArgs {
    /// The expression.
    expression: String,
    /// Evaluate over the time up to --end: draws a chart.
    #[arg(long, value_parser = parse_duration, value_name = "DURATION", conflicts_with = "start")]
    range: Option<Duration>,
    /// Evaluate from this time on: RFC 3339 or Unix seconds.
    #[arg(long, value_parser = parse_time, allow_hyphen_values = true, value_name = "TIME")]
    start: Option<i64>,
    /// The end of the range. Default: now.
    #[arg(long, value_parser = parse_time, allow_hyphen_values = true, value_name = "TIME", conflicts_with = "time")]
    end: Option<i64>,
    /// Between the steps of a range. Default: about 120 steps.
    #[arg(long, value_parser = parse_duration, value_name = "DURATION")]
    step: Option<Duration>,
    /// Evaluate at this one time. Default: now.
    #[arg(long, value_parser = parse_time, allow_hyphen_values = true, value_name = "TIME", conflicts_with_all = ["range", "start"])]
    time: Option<i64>,
    /// Most series to return.
    #[arg(long, default_value_t = 0, hide_default_value = true)]
    limit: u64,
    /// Print JSON as the HTTP API returns it.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    read: ReadArgs,
    #[command(flatten)]
    connect: ConnectArgs,
}

/// Runs `quorate query`.
pub async fn run(args: QueryArgs) -> anyhow::Result<()> {
    let client = args.connect.client()?;
    let mut options = QueryOptions {
        read: args.read.level(),
        time_ms: args.time,
        limit: args.limit,
        ..QueryOptions::default()
    };
    match args.window(now_ms())? {
        Some(window) => {
            options.time_ms = None;
            let answer = client.range(&args.expression, window, &options).await?;
            if args.json {
                println!("{}", json::matrix(&answer));
            } else {
                print_range(&answer, window);
            }
        }
        None => {
            let answer = client.instant(&args.expression, &options).await?;
            if args.json {
                println!("{}", json::answer(&answer));
            } else {
                print_instant(&answer);
            }
        }
    }
    Ok(())
}

impl QueryArgs {
    /// The steps of a range query; none for an instant query.
    fn window(&self, now_ms: i64) -> anyhow::Result<Option<RangeWindow>> {
        let as_ms = |duration: Duration| i64::try_from(duration.as_millis()).unwrap_or(i64::MAX);
        // Up to the next whole second: what was written just now is in, and the steps are at round times.
        let end_ms = self
            .end
            .unwrap_or_else(|| now_ms.div_euclid(1_000).saturating_add(1).saturating_mul(1_000));
        let before_end = |range: Duration| end_ms.saturating_sub(as_ms(range));
        let Some(start_ms) = self.start.or_else(|| self.range.map(before_end)) else {
            ensure!(
                self.end.is_none() && self.step.is_none(),
                "--end and --step need --range or --start"
            );
            return Ok(None);
        };
        ensure!(start_ms <= end_ms, "the start is after the end");
        // Whole seconds, so that the times in the answer are round.
        let default_ms = || (end_ms.saturating_sub(start_ms) / DEFAULT_STEPS / 1_000).max(1) * 1_000;
        let step_ms = self.step.map_or_else(default_ms, as_ms);
        Ok(Some(RangeWindow {
            start_ms,
            end_ms,
            step_ms,
        }))
    }
}

fn print_instant(answer: &Answer) {
    table::show_notes(&answer.warnings, &answer.infos);
    match &answer.value {
        Value::Scalar(scalar) => println!("{}", table::show_value(scalar.value)),
        Value::String(_, text) => println!("{text}"),
        Value::Vector(vector) => {
            let mut rows = table::table(["series", "value"], &[1]);
            for (labels, sample) in vector {
                rows.add_row([labels.to_string(), table::show_value(sample.value)]);
            }
            print_table(&rows, vector.len());
        }
        Value::Matrix(matrix) => {
            for series in matrix {
                println!("{} ({} samples)", series.labels, series.values.len());
                let skipped = series.values.len().saturating_sub(MAX_LISTED_SAMPLES);
                if skipped > 0 {
                    println!("  … {skipped} earlier");
                }
                for sample in series.samples().skip(skipped) {
                    println!(
                        "  {}  {}",
                        show_time(sample.timestamp_ms, true),
                        table::show_value(sample.value)
                    );
                }
            }
            if matrix.is_empty() {
                println!("no series");
            }
        }
    }
    println!("{}", table::show_report(&answer.report));
}

fn print_range(answer: &SeriesAnswer, window: RangeWindow) {
    table::show_notes(&answer.warnings, &answer.infos);
    let color = std::io::stdout().is_terminal();
    let RangeWindow {
        start_ms,
        end_ms,
        step_ms,
    } = window;
    let frame = Frame {
        start_ms,
        end_ms,
        step_ms,
        width: table::terminal_width(),
        color,
    };
    print!("{}", chart::draw(&answer.series, frame));
    if answer.series.len() > chart::MAX_SERIES {
        println!(
            "the chart has the first {} of {} series",
            chart::MAX_SERIES,
            answer.series.len()
        );
    }
    let mut rows = table::table(["", "series", "min", "mean", "max", "last"], &[2, 3, 4, 5]);
    for (at, series) in answer.series.iter().enumerate() {
        let [min, mean, max, last] = summary(series).map(table::show_rounded);
        rows.add_row([
            legend_mark(at, color),
            series.labels.to_string(),
            min,
            mean,
            max,
            last,
        ]);
    }
    print_table(&rows, answer.series.len());
    println!("{}", table::show_report(&answer.report));
}

fn print_table(rows: &comfy_table::Table, count: usize) {
    match count {
        0 => println!("no series"),
        _ => println!("{rows}"),
    }
}

/// Least, mean, greatest and last value; NaNs are left out of the first three.
fn summary(series: &SeriesData) -> [f64; 4] {
    let numbers: Vec<f64> = series
        .values
        .iter()
        .copied()
        .filter(|value| !value.is_nan())
        .collect();
    let min = numbers.iter().copied().fold(f64::NAN, f64::min);
    let max = numbers.iter().copied().fold(f64::NAN, f64::max);
    let mean = numbers.iter().sum::<f64>() / numbers.len() as f64;
    [min, mean, max, series.values.last().copied().unwrap_or(f64::NAN)]
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Cli {
        #[command(flatten)]
        query: QueryArgs,
    }

    fn window(flags: &[&str]) -> anyhow::Result<Option<RangeWindow>> {
        let args = Cli::try_parse_from(["quorate", "up"].iter().chain(flags))?;
        args.query.window(999_999_500)
    }

    #[test]
    fn flags_make_a_range_or_an_instant_query() {
        assert_eq!(window(&[]).unwrap(), None);
        assert_eq!(window(&["--time", "5"]).unwrap(), None);
        let range = |start_ms, end_ms, step_ms| {
            Some(RangeWindow {
                start_ms,
                end_ms,
                step_ms,
            })
        };
        assert_eq!(
            window(&["--range", "1h", "--step", "15s"]).unwrap(),
            range(996_400_000, 1_000_000_000, 15_000)
        );
        assert_eq!(
            window(&["--range", "1h"]).unwrap(),
            range(996_400_000, 1_000_000_000, 30_000)
        );
        assert_eq!(
            window(&["--start", "10", "--end", "20"]).unwrap(),
            range(10_000, 20_000, 1_000)
        );
        for wrong in [
            &["--end", "5"][..],
            &["--step", "5s"],
            &["--start", "20", "--end", "10"],
            &["--range", "1h", "--start", "5"],
            &["--range", "1h", "--time", "5"],
            &["--range", "soon"],
            &["--range", "1h", "--step", "0"],
        ] {
            assert!(window(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn summaries_leave_nans_out() {
        let values = vec![1.0, f64::NAN, 3.0];
        let series = SeriesData {
            timestamps_ms: vec![1, 2, 3],
            values,
            ..SeriesData::default()
        };
        assert_eq!(summary(&series), [1.0, 2.0, 3.0, 3.0]);
        assert!(summary(&SeriesData::default()).iter().all(|value| value.is_nan()));
    }
}
