//! Answers in Prometheus's JSON, written piece by piece so that a large result is never held twice.

use std::borrow::Cow;
use std::fmt::Write;

use quorate_query::value::{MatrixSeries, Value};
use quorate_storage::Labels;

use super::histogram;
use super::number::{push_decimal, push_float_timestamp, push_timestamp, push_value};
use crate::api::ReadReport;

/// Size from which a piece is handed on, in bytes.
const PIECE_BYTES: usize = 64 << 10;

/// What stands under `data`.
#[derive(Debug)]
pub(super) enum Data {
    /// Of query and query_range.
    Value(Value),
    /// Of series.
    Series(Vec<Labels>),
    /// Of labels and label values.
    Strings(Vec<String>),
    /// Ready-made JSON.
    Raw(Cow<'static, str>),
}

/// A successful answer, as an iterator over pieces of its text.
#[derive(Debug)]
pub(super) struct Success {
    data: Data,
    /// JSON beside a query's result.
    stats: Option<String>,
    tail: String,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Start,
    /// Before this item of the list; for a matrix also before this point of the series.
    Item {
        item: usize,
        point: usize,
    },
    Tail,
    End,
}

impl Success {
    pub(super) fn new(data: Data, warnings: &[String], infos: &[String]) -> Success {
        let mut tail = String::new();
        for (key, texts) in [("warnings", warnings), ("infos", infos)] {
            if texts.is_empty() {
                continue;
            }
            let _infallible = write!(tail, ",\"{key}\":[");
            for (position, text) in texts.iter().enumerate() {
                push_comma(&mut tail, position);
                push_string(&mut tail, text);
            }
            tail.push(']');
        }
        tail.push('}');
        Success {
            data,
            stats: None,
            tail,
            state: State::Start,
        }
    }

    /// The same with what the query cost, as JSON.
    pub(super) fn with_stats(self, stats: Option<String>) -> Success {
        Success { stats, ..self }
    }

    /// Closes the object around a query's result.
    fn close_result(&self, out: &mut String) {
        if let Some(stats) = &self.stats {
            out.push_str(",\"stats\":");
            out.push_str(stats);
        }
        out.push('}');
    }

    /// Opens `data`.
    fn start(&self, out: &mut String) -> State {
        out.push_str("{\"status\":\"success\",\"data\":");
        let kind = match &self.data {
            Data::Value(Value::Vector(_)) => "vector",
            Data::Value(Value::Matrix(_)) => "matrix",
            Data::Value(Value::Scalar { timestamp_ms, value }) => {
                out.push_str("{\"resultType\":\"scalar\",\"result\":[");
                push_float_timestamp(out, *timestamp_ms);
                out.push_str(",\"");
                push_decimal(out, *value);
                out.push_str("\"]");
                self.close_result(out);
                return State::Tail;
            }
            Data::Value(Value::String { timestamp_ms, value }) => {
                out.push_str("{\"resultType\":\"string\",\"result\":[");
                push_float_timestamp(out, *timestamp_ms);
                out.push(',');
                push_string(out, value);
                out.push(']');
                self.close_result(out);
                return State::Tail;
            }
            Data::Series(_) | Data::Strings(_) => {
                out.push('[');
                return State::Item { item: 0, point: 0 };
            }
            Data::Raw(json) => {
                out.push_str(json);
                return State::Tail;
            }
        };
        let _infallible = write!(out, "{{\"resultType\":\"{kind}\",\"result\":[");
        State::Item { item: 0, point: 0 }
    }

    /// Writes one item, or one point of one, and says what follows. `None` after the last item.
    fn item(&self, out: &mut String, item: usize, point: usize) -> Option<State> {
        let next = State::Item {
            item: item + 1,
            point: 0,
        };
        match &self.data {
            Data::Value(Value::Vector(samples)) => {
                let sample = samples.get(item)?;
                push_comma(out, item);
                out.push_str("{\"metric\":");
                push_labels(out, &sample.labels);
                match &sample.histogram {
                    Some(histogram) => {
                        out.push_str(",\"histogram\":");
                        histogram::push_point(out, sample.timestamp_ms, histogram);
                    }
                    None => {
                        out.push_str(",\"value\":");
                        push_point(out, sample.timestamp_ms, sample.value);
                    }
                }
                out.push('}');
                Some(next)
            }
            Data::Value(Value::Matrix(series)) => {
                let series = series.get(item)?;
                if point == 0 {
                    push_comma(out, item);
                    out.push_str("{\"metric\":");
                    push_labels(out, &series.labels);
                }
                match series.timestamps_ms.get(point).zip(series.values.get(point)) {
                    Some((timestamp_ms, value)) => {
                        push_number_of(out, series, point, *timestamp_ms, *value);
                        Some(State::Item {
                            item,
                            point: point + 1,
                        })
                    }
                    None => {
                        push_histograms(out, series);
                        out.push('}');
                        Some(next)
                    }
                }
            }
            Data::Series(series) => {
                let labels = series.get(item)?;
                push_comma(out, item);
                push_labels(out, labels);
                Some(next)
            }
            Data::Strings(texts) => {
                let text = texts.get(item)?;
                push_comma(out, item);
                push_string(out, text);
                Some(next)
            }
            Data::Value(_) | Data::Raw(_) => None,
        }
    }
}

/// Writes a point that is a number into the list of its series, which the first of them opens and the last closes.
fn push_number_of(out: &mut String, series: &MatrixSeries, point: usize, timestamp_ms: i64, value: f64) {
    let histograms_before = series.histograms.partition_point(|(index, _)| *index < point);
    let is_histogram = series
        .histograms
        .get(histograms_before)
        .is_some_and(|(index, _)| *index == point);
    if is_histogram {
        return;
    }
    let numbers_before = point - histograms_before;
    out.push_str(if numbers_before == 0 { ",\"values\":[" } else { "," });
    push_point(out, timestamp_ms, value);
    if numbers_before + 1 + series.histograms.len() == series.values.len() {
        out.push(']');
    }
}

fn push_histograms(out: &mut String, series: &MatrixSeries) {
    for (position, (index, histogram)) in series.histograms.iter().enumerate() {
        let Some(timestamp_ms) = series.timestamps_ms.get(*index) else {
            continue;
        };
        out.push_str(if position == 0 { ",\"histograms\":[" } else { "," });
        histogram::push_point(out, *timestamp_ms, histogram);
    }
    if !series.histograms.is_empty() {
        out.push(']');
    }
}

impl Iterator for Success {
    type Item = String;

    fn next(&mut self) -> Option<String> {
        let mut out = String::new();
        while out.len() < PIECE_BYTES && self.state != State::End {
            self.state = match self.state {
                State::Start => self.start(&mut out),
                State::Item { item, point } => self.item(&mut out, item, point).unwrap_or_else(|| {
                    out.push(']');
                    if matches!(self.data, Data::Value(_)) {
                        self.close_result(&mut out);
                    }
                    State::Tail
                }),
                State::Tail => {
                    out.push_str(&self.tail);
                    State::End
                }
                State::End => State::End,
            };
        }
        (!out.is_empty()).then_some(out)
    }
}

/// The body of a failed query.
pub(super) fn error(error_type: &str, message: &str) -> String {
    let mut out = String::from("{\"status\":\"error\",\"errorType\":");
    push_string(&mut out, error_type);
    out.push_str(",\"error\":");
    push_string(&mut out, message);
    out.push('}');
    out
}

/// A read report on one line, for a response header.
pub(super) fn report(report: &ReadReport) -> String {
    let mut out = format!("{{\"level\":\"{}\",\"shards\":[", report.level.as_str());
    for (position, shard) in report.shards.iter().enumerate() {
        push_comma(&mut out, position);
        let _infallible = write!(
            out,
            "{{\"shard\":{},\"node\":{},\"applied_before\":{},\"applied_after\":{}",
            shard.shard, shard.node, shard.applied_before, shard.applied_after
        );
        if let Some(staleness_ms) = shard.staleness_ms {
            let _infallible = write!(out, ",\"staleness_ms\":{staleness_ms}");
        }
        out.push('}');
    }
    out.push_str("]}");
    out
}

fn push_comma(out: &mut String, position: usize) {
    if position > 0 {
        out.push(',');
    }
}

fn push_point(out: &mut String, timestamp_ms: i64, value: f64) {
    out.push('[');
    push_timestamp(out, timestamp_ms);
    out.push_str(",\"");
    push_value(out, value);
    out.push_str("\"]");
}

fn push_labels(out: &mut String, labels: &Labels) {
    out.push('{');
    for (position, (name, value)) in labels.iter().enumerate() {
        push_comma(out, position);
        push_string(out, name);
        out.push(':');
        push_string(out, value);
    }
    out.push('}');
}

/// A JSON string, escaping only what JSON demands.
pub(super) fn push_string(out: &mut String, text: &str) {
    out.push('"');
    let mut plain_from = 0;
    for (position, byte) in text.bytes().enumerate() {
        let escape = match byte {
            b'"' => "\\\"",
            b'\\' => "\\\\",
            b'\n' => "\\n",
            b'\r' => "\\r",
            b'\t' => "\\t",
            0..=0x1f => "",
            _ => continue,
        };
        out.push_str(text.get(plain_from..position).unwrap_or_default());
        plain_from = position + 1;
        match escape {
            "" => {
                let _infallible = write!(out, "\\u{byte:04x}");
            }
            _ => out.push_str(escape),
        }
    }
    out.push_str(text.get(plain_from..).unwrap_or_default());
    out.push('"');
}

#[cfg(test)]
mod tests {
    use quorate_query::parse::series::{DescribedValue, parse_series};
    use quorate_query::value::VectorSample;

    use super::*;
    use crate::api::{ReadLevel, ShardRead};

    fn text(data: Data, warnings: &[&str], infos: &[&str]) -> String {
        let owned = |texts: &[&str]| texts.iter().map(|text| text.to_string()).collect::<Vec<_>>();
        let out: String = Success::new(data, &owned(warnings), &owned(infos)).collect();
        serde_json::from_str::<serde_json::Value>(&out).unwrap();
        out
    }

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        Labels::from_pairs(pairs.iter().copied()).unwrap()
    }

    #[test]
    fn vectors() {
        let up = VectorSample {
            labels: labels(&[("__name__", "up"), ("job", "a\"\\\n\u{1}ü<")]),
            timestamp_ms: 1_500,
            value: 1e-7,
            histogram: None,
        };
        let sum = VectorSample {
            labels: labels(&[]),
            timestamp_ms: 2_000,
            value: f64::NAN,
            histogram: None,
        };
        assert_eq!(
            text(Data::Value(Value::Vector(vec![up, sum])), &[], &[]),
            r#"{"status":"success","data":{"resultType":"vector","result":[{"metric":{"__name__":"up","job":"a\"\\\n\u0001ü<"},"value":[1.500,"1e-07"]},{"metric":{},"value":[2,"NaN"]}]}}"#
        );
        assert_eq!(
            text(Data::Value(Value::Vector(vec![])), &["w"], &["i", "j"]),
            r#"{"status":"success","data":{"resultType":"vector","result":[]},"warnings":["w"],"infos":["i","j"]}"#
        );
    }

    #[test]
    fn histograms() {
        let described =
            parse_series("m {{schema:0 sum:2.5 count:3 z_bucket:1 z_bucket_w:0.001 buckets:[2 0]}}");
        let Some(Some(DescribedValue::Histogram { histogram, .. })) = described.unwrap().values.pop() else {
            panic!("a histogram was described")
        };
        let mixed = MatrixSeries {
            labels: labels(&[]),
            timestamps_ms: vec![1_000, 2_000, 3_000],
            values: vec![1.0, 2.5, 3.0],
            histograms: vec![(1, histogram.clone())],
        };
        let shown = r#"[2,{"count":"3","sum":"2.5","buckets":[[3,"-0.001","0.001","1"],[0,"0.5","1","2"]]}]"#;
        assert_eq!(
            text(Data::Value(Value::Matrix(vec![mixed])), &[], &[]),
            format!(
                r#"{{"status":"success","data":{{"resultType":"matrix","result":[{{"metric":{{}},"values":[[1,"1"],[3,"3"]],"histograms":[{shown}]}}]}}}}"#
            )
        );
        let sample = VectorSample {
            labels: labels(&[]),
            timestamp_ms: 2_000,
            value: 2.5,
            histogram: Some(histogram),
        };
        assert_eq!(
            text(Data::Value(Value::Vector(vec![sample])), &[], &[]),
            format!(
                r#"{{"status":"success","data":{{"resultType":"vector","result":[{{"metric":{{}},"histogram":{shown}}}]}}}}"#
            )
        );
    }

    #[test]
    fn matrices() {
        let one = MatrixSeries {
            labels: labels(&[("a", "b")]),
            timestamps_ms: vec![1_000, 2_001],
            values: vec![1.0, f64::INFINITY],
            histograms: Vec::new(),
        };
        let two = MatrixSeries {
            labels: labels(&[("a", "c")]),
            timestamps_ms: vec![3_000],
            values: vec![-0.5],
            histograms: Vec::new(),
        };
        assert_eq!(
            text(Data::Value(Value::Matrix(vec![one, two])), &[], &[]),
            r#"{"status":"success","data":{"resultType":"matrix","result":[{"metric":{"a":"b"},"values":[[1,"1"],[2.001,"+Inf"]]},{"metric":{"a":"c"},"values":[[3,"-0.5"]]}]}}"#
        );
    }

    #[test]
    fn scalars_and_strings() {
        assert_eq!(
            text(
                Data::Value(Value::Scalar {
                    timestamp_ms: 1_500,
                    value: 1e-7
                }),
                &[],
                &[]
            ),
            r#"{"status":"success","data":{"resultType":"scalar","result":[1.5,"0.0000001"]}}"#
        );
        assert_eq!(
            text(
                Data::Value(Value::String {
                    timestamp_ms: 0,
                    value: "a\"b".into()
                }),
                &[],
                &[]
            ),
            r#"{"status":"success","data":{"resultType":"string","result":[0,"a\"b"]}}"#
        );
    }

    #[test]
    fn lists() {
        assert_eq!(
            text(Data::Strings(vec!["a".into(), "b".into()]), &[], &[]),
            r#"{"status":"success","data":["a","b"]}"#
        );
        assert_eq!(
            text(Data::Strings(vec![]), &[], &[]),
            r#"{"status":"success","data":[]}"#
        );
        assert_eq!(
            text(Data::Series(vec![labels(&[("a", "b")])]), &[], &[]),
            r#"{"status":"success","data":[{"a":"b"}]}"#
        );
        assert_eq!(
            error("bad_data", "no \"x\""),
            r#"{"status":"error","errorType":"bad_data","error":"no \"x\""}"#
        );
    }

    #[test]
    fn large_answers_come_in_pieces() {
        let points = 100_000;
        let series = MatrixSeries {
            labels: labels(&[("a", "b")]),
            timestamps_ms: (0..points).collect(),
            values: (0..points).map(|point| point as f64).collect(),
            histograms: Vec::new(),
        };
        let pieces: Vec<String> = Success::new(Data::Value(Value::Matrix(vec![series])), &[], &[]).collect();
        assert!(pieces.len() > 10);
        assert!(pieces.iter().all(|piece| piece.len() < PIECE_BYTES + 256));
        let parsed: serde_json::Value = serde_json::from_str(&pieces.concat()).unwrap();
        assert_eq!(
            parsed["data"]["result"][0]["values"].as_array().unwrap().len(),
            points as usize
        );
    }

    #[test]
    fn reports() {
        let shard = ShardRead {
            shard: 3,
            node: 2,
            applied_before: 10,
            applied_after: 12,
            staleness_ms: None,
        };
        let fresh = ShardRead {
            shard: 4,
            staleness_ms: Some(7),
            ..shard
        };
        assert_eq!(
            report(&ReadReport {
                level: ReadLevel::Local,
                shards: vec![shard, fresh]
            }),
            r#"{"level":"local","shards":[{"shard":3,"node":2,"applied_before":10,"applied_after":12},{"shard":4,"node":2,"applied_before":10,"applied_after":12,"staleness_ms":7}]}"#
        );
    }
}
