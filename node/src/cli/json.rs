//! Answers as JSON, in the shape of Prometheus's HTTP API, with what was read beside it.

use quorate_client::{Answer, LabelSet, ReadReport, Sample, SeriesAnswer, SeriesData, Value as QueryValue};
use serde_json::{Map, Value, json};

use super::table::show_value;

/// An instant query's answer.
pub(super) fn answer(answer: &Answer) -> Value {
    let (kind, result) = match &answer.value {
        QueryValue::Scalar(scalar) => ("scalar", sample(*scalar)),
        QueryValue::Vector(vector) => {
            let element =
                |(labels, at): &(LabelSet, Sample)| json!({"metric": metric(labels), "value": sample(*at)});
            ("vector", vector.iter().map(element).collect())
        }
        QueryValue::Matrix(matrix) => ("matrix", matrix.iter().map(series).collect()),
        QueryValue::String(time_ms, text) => ("string", json!([seconds(*time_ms), text])),
    };
    success(
        json!({"resultType": kind, "result": result}),
        &answer.warnings,
        &answer.infos,
        &answer.report,
    )
}

/// A range query's answer.
pub(super) fn matrix(answer: &SeriesAnswer) -> Value {
    let result: Value = answer.series.iter().map(series).collect();
    success(
        json!({"resultType": "matrix", "result": result}),
        &answer.warnings,
        &answer.infos,
        &answer.report,
    )
}

/// Any other answer.
pub(super) fn success(data: Value, warnings: &[String], infos: &[String], report: &ReadReport) -> Value {
    let shard = |shard: &quorate_client::ShardRead| {
        json!({
            "shard": shard.shard,
            "node": shard.node,
            "appliedBefore": shard.applied_before,
            "appliedAfter": shard.applied_after,
            "stalenessMs": shard.staleness.map(|staleness| staleness.as_millis() as u64),
        })
    };
    let shards: Value = report.shards.iter().map(shard).collect();
    let mut out =
        json!({"status": "success", "data": data, "read": {"level": report.level, "shards": shards}});
    for (key, notes) in [("warnings", warnings), ("infos", infos)] {
        if !notes.is_empty() {
            out[key] = notes.into();
        }
    }
    out
}

/// A label set.
pub(super) fn metric(labels: &LabelSet) -> Value {
    labels
        .iter()
        .map(|(name, value)| (name.to_owned(), Value::from(value)))
        .collect::<Map<_, _>>()
        .into()
}

fn series(series: &SeriesData) -> Value {
    let values: Value = series.samples().map(sample).collect();
    json!({"metric": metric(&series.labels), "values": values})
}

fn sample(sample: Sample) -> Value {
    json!([seconds(sample.timestamp_ms), show_value(sample.value)])
}

/// Prometheus's timestamps are Unix seconds, without a fraction where there is none.
fn seconds(timestamp_ms: i64) -> Value {
    match timestamp_ms % 1_000 {
        0 => (timestamp_ms / 1_000).into(),
        _ => (timestamp_ms as f64 / 1_000.0).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_have_the_shape_of_prometheus() {
        let labels: LabelSet = [("__name__", "up")].into_iter().collect();
        let series = SeriesData {
            labels: labels.clone(),
            timestamps_ms: vec![1_000, 1_500],
            values: vec![1.0, f64::NAN],
        };
        let range = SeriesAnswer {
            series: vec![series],
            warnings: vec!["w".into()],
            ..SeriesAnswer::default()
        };
        assert_eq!(
            matrix(&range).to_string(),
            r#"{"data":{"result":[{"metric":{"__name__":"up"},"values":[[1,"1"],[1.5,"NaN"]]}],"resultType":"matrix"},"read":{"level":"","shards":[]},"status":"success","warnings":["w"]}"#
        );
        let value = QueryValue::Vector(vec![(
            labels,
            Sample {
                timestamp_ms: 2_000,
                value: 0.5,
            },
        )]);
        let instant = Answer {
            value,
            warnings: vec![],
            infos: vec![],
            report: ReadReport::default(),
        };
        assert_eq!(
            answer(&instant)["data"]["result"][0]["value"].to_string(),
            r#"[2,"0.5"]"#
        );
    }
}
