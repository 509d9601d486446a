//! Putting a question to a node, in the protocol's terms, and reading its answer in the model's.

use std::time::Duration;

use quorate_client::{
    Client, ClientError, LabelSet, QueryOptions, RangeWindow, ReadLevel, ReadReport, Sample, SeriesData,
    Value,
};

use crate::history::{Answer, BOUND_US, Form, Level, Question, SeriesPoints, ShardRead};
use crate::values::SeriesId;

/// The level as the client has it.
pub fn read_level(level: Level) -> ReadLevel {
    match level {
        Level::Linearizable => ReadLevel::Linearizable,
        Level::Bounded => ReadLevel::Bounded(Duration::from_micros(BOUND_US)),
        Level::Local => ReadLevel::Local,
    }
}

/// Asks one question.
pub(super) async fn ask(
    client: &Client,
    question: &Question,
    level: Level,
) -> Result<(Answer, Vec<ShardRead>), ClientError> {
    let read = read_level(level);
    let expression = question.expression();
    let (answer, report) = match question.form {
        Form::Raw => {
            let (start_ms, end_ms) = (question.after_ms + 1, question.until_ms);
            let answer = client.read(&expression, start_ms, end_ms, read).await?;
            (of_series(answer.series), answer.report)
        }
        Form::Steps => {
            let steps: Vec<(i64, i64)> = question.steps().collect();
            let times = || steps.iter().map(|(_, until_ms)| *until_ms);
            let (start_ms, end_ms) = (times().min().unwrap_or(0), times().max().unwrap_or(0));
            let step_ms = times().nth(1).map_or(1, |second_ms| second_ms - start_ms).max(1);
            let window = RangeWindow {
                start_ms,
                end_ms,
                step_ms,
            };
            let lookback_ms = u64::try_from(question.until_ms - question.after_ms).unwrap_or(1);
            let options = QueryOptions {
                read,
                lookback: Some(Duration::from_millis(lookback_ms)),
                ..QueryOptions::default()
            };
            let answer = client.range(&expression, window, &options).await?;
            (of_series(answer.series), answer.report)
        }
        _ => {
            let options = QueryOptions {
                read,
                time_ms: Some(question.until_ms),
                ..QueryOptions::default()
            };
            let answer = client.instant(&expression, &options).await?;
            (of_value(answer.value, question.form), answer.report)
        }
    };
    Ok((answer, shards_of(&report)))
}

fn of_series(series: Vec<SeriesData>) -> Answer {
    let mut answer = Answer::default();
    for series in series {
        let samples = series.samples();
        let points = samples
            .map(|sample| (sample.timestamp_ms, sample.value.to_bits()))
            .collect();
        add(&mut answer, &series.labels, points, false);
    }
    answer
}

fn of_value(value: Value, form: Form) -> Answer {
    let mut answer = Answer::default();
    match value {
        Value::Matrix(series) => return of_series(series),
        Value::Vector(samples) => {
            for (labels, Sample { timestamp_ms, value }) in samples {
                if matches!(form, Form::TotalCount | Form::Sum) && labels.is_empty() {
                    answer.number = Some(value);
                    continue;
                }
                let points = vec![(timestamp_ms, value.to_bits())];
                add(&mut answer, &labels, points, form == Form::Count);
            }
        }
        Value::Scalar(sample) => answer.number = Some(sample.value),
        Value::String(_, text) => answer.strangers.push(text),
    }
    answer
}

fn add(answer: &mut Answer, labels: &LabelSet, points: Vec<(i64, u64)>, is_nameless: bool) {
    let id = match is_nameless {
        true => SeriesId::from_labels_without_name(labels.iter()),
        false => SeriesId::from_labels(labels.iter()),
    };
    match id {
        Some(SeriesId { writer, number }) => answer.series.push(SeriesPoints {
            writer,
            number,
            points,
        }),
        None => answer.strangers.push(labels.to_string()),
    }
}

fn shards_of(report: &ReadReport) -> Vec<ShardRead> {
    let shard = |read: &quorate_client::ShardRead| ShardRead {
        shard: read.shard,
        node: read.node,
        before: read.applied_before,
        after: read.applied_after,
        staleness_ms: read
            .staleness
            .map(|age| u64::try_from(age.as_millis()).unwrap_or(u64::MAX)),
    };
    report.shards.iter().map(shard).collect()
}
