//! Queries and their typed answers.

use crate::call::{Attempt, Client, Patience};
use crate::error::ClientError;
use crate::series::{LabelSet, Sample, SeriesData};
use crate::series_stream::{SeriesAnswer, SeriesStream};
use quorate_proto::v1;
use std::sync::Arc;
use std::time::Duration;

/// How fresh an answer has to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ReadLevel {
    /// The server's default, linearizable unless configured otherwise.
    #[default]
    ServerDefault,
    /// Every write acknowledged before the query began is visible on every shard it touches.
    Linearizable,
    /// No replica read is older than this.
    Bounded(Duration),
    /// Whatever a replica has.
    Local,
}

/// What holds for any query.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct QueryOptions {
    /// How fresh the answer has to be.
    pub read: ReadLevel,
    /// When an instant query is evaluated, milliseconds since the Unix epoch. Default: now, by the server's clock.
    pub time_ms: Option<i64>,
    /// How far back a sample is taken as current. Default: the server's, 5 minutes.
    pub lookback: Option<Duration>,
    /// Most series to return; 0 means all.
    pub limit: u64,
}

/// The steps of a range query, in milliseconds since the Unix epoch; both ends are inclusive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RangeWindow {
    /// The first step.
    pub start_ms: i64,
    /// No step is later.
    pub end_ms: i64,
    /// Between steps; positive.
    pub step_ms: i64,
}

/// What questions about labels and series are restricted to.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LabelOptions {
    /// Series selectors, e.g. `up{job="node"}`; none means all series.
    pub matches: Vec<String>,
    /// Earliest time, milliseconds since the Unix epoch.
    pub start_ms: i64,
    /// Latest time, milliseconds since the Unix epoch.
    pub end_ms: i64,
    /// Most results; 0 means all.
    pub limit: u64,
    /// How fresh the answer has to be.
    pub read: ReadLevel,
}

/// The value of an instant query.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// A number.
    Scalar(Sample),
    /// A number for each series.
    Vector(Vec<(LabelSet, Sample)>),
    /// Samples of each series.
    Matrix(Vec<SeriesData>),
    /// A text, and when it was evaluated in milliseconds since the Unix epoch.
    String(i64, String),
}

/// The answer to an instant query.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// The result.
    pub value: Value,
    /// What may be wrong with the result.
    pub warnings: Vec<String>,
    /// What is worth knowing about the query.
    pub infos: Vec<String>,
    /// What was read.
    pub report: ReadReport,
}

/// Label names or values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Strings {
    /// Sorted.
    pub strings: Vec<String>,
    /// What may be wrong with the result.
    pub warnings: Vec<String>,
    /// What was read.
    pub report: ReadReport,
}

/// What was read to answer.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ReadReport {
    /// The level that held: `linearizable`, `bounded`, `local`; empty if the server did not say.
    pub level: &'static str,
    /// Every shard touched.
    pub shards: Vec<ShardRead>,
}

/// A shard's replica that was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ShardRead {
    /// The shard.
    pub shard: u32,
    /// The node whose replica was read.
    pub node: u64,
    /// Applied log index before the first touch.
    pub applied_before: u64,
    /// Applied log index after the last touch.
    pub applied_after: u64,
    /// Upper bound of the age of what was read; unknown for local reads.
    pub staleness: Option<Duration>,
}

impl ReadLevel {
    fn to_proto(self, timeout: Duration) -> v1::ReadOptions {
        let (level, bound) = match self {
            ReadLevel::ServerDefault => (v1::ReadLevel::Unspecified, Duration::ZERO),
            ReadLevel::Linearizable => (v1::ReadLevel::Linearizable, Duration::ZERO),
            ReadLevel::Bounded(bound) => (v1::ReadLevel::Bounded, bound),
            ReadLevel::Local => (v1::ReadLevel::Local, Duration::ZERO),
        };
        let max_staleness_ms = as_ms(bound);
        v1::ReadOptions {
            level: level.into(),
            max_staleness_ms,
            timeout_ms: as_ms(timeout).max(1),
        }
    }
}

impl From<Option<v1::ReadReport>> for ReadReport {
    fn from(report: Option<v1::ReadReport>) -> Self {
        let Some(report) = report else {
            return Self::default();
        };
        let level = match report.level() {
            v1::ReadLevel::Unspecified => "",
            v1::ReadLevel::Linearizable => "linearizable",
            v1::ReadLevel::Bounded => "bounded",
            v1::ReadLevel::Local => "local",
        };
        let shard = |read: v1::ShardRead| ShardRead {
            shard: read.shard,
            node: read.node,
            applied_before: read.applied_before,
            applied_after: read.applied_after,
            staleness: read.staleness_ms.map(Duration::from_millis),
        };
        Self {
            level,
            shards: report.shards.into_iter().map(shard).collect(),
        }
    }
}

impl Client {
    /// Evaluates a PromQL expression at one time.
    pub async fn instant(&self, query: &str, options: &QueryOptions) -> Result<Answer, ClientError> {
        self.call(Patience::WholeCall, async |attempt| {
            let message = v1::InstantRequest {
                query: query.to_owned(),
                time_ms: options.time_ms,
                lookback_ms: as_ms(options.lookback.unwrap_or_default()),
                read: Some(options.read.to_proto(attempt.timeout)),
                limit: options.limit,
            };
            let reply = attempt
                .query()
                .instant(self.request(message, Some(attempt.timeout)))
                .await;
            answer(
                &attempt.endpoint,
                reply.map_err(|status| attempt.error(&status))?.into_inner(),
            )
        })
        .await
    }

    /// Evaluates a PromQL expression at every step of a window.
    pub async fn range(
        &self,
        query: &str,
        window: RangeWindow,
        options: &QueryOptions,
    ) -> Result<SeriesAnswer, ClientError> {
        self.call(Patience::WholeCall, async |attempt| {
            self.open_range(attempt, query, window, options)
                .await?
                .collect()
                .await
        })
        .await
    }

    /// As [`Client::range`], series by series as they arrive. Retried only until the first message came.
    pub async fn range_stream(
        &self,
        query: &str,
        window: RangeWindow,
        options: &QueryOptions,
    ) -> Result<SeriesStream, ClientError> {
        self.call(Patience::WholeCall, |attempt| {
            self.open_range(attempt, query, window, options)
        })
        .await
    }

    /// Stored samples of the series that a selector matches, bit for bit, stale markers included. The
    /// range is in milliseconds since the Unix epoch and inclusive.
    pub async fn read(
        &self,
        selector: &str,
        start_ms: i64,
        end_ms: i64,
        level: ReadLevel,
    ) -> Result<SeriesAnswer, ClientError> {
        self.call(Patience::WholeCall, async |attempt| {
            self.open_read(attempt, selector, start_ms, end_ms, level)
                .await?
                .collect()
                .await
        })
        .await
    }

    /// As [`Client::read`], piece by piece as they arrive: a long series may come in several pieces, in time
    /// order. Retried only until the first message came.
    pub async fn read_stream(
        &self,
        selector: &str,
        start_ms: i64,
        end_ms: i64,
        level: ReadLevel,
    ) -> Result<SeriesStream, ClientError> {
        self.call(Patience::WholeCall, |attempt| {
            self.open_read(attempt, selector, start_ms, end_ms, level)
        })
        .await
    }

    /// The label sets of matching series.
    pub async fn series(&self, options: &LabelOptions) -> Result<(Vec<LabelSet>, ReadReport), ClientError> {
        self.call(Patience::WholeCall, async |attempt| {
            let message = v1::SeriesRequest {
                r#match: options.matches.clone(),
                start_ms: options.start_ms,
                end_ms: options.end_ms,
                limit: options.limit,
                read: Some(options.read.to_proto(attempt.timeout)),
            };
            let reply = attempt
                .query()
                .series(self.request(message, Some(attempt.timeout)))
                .await;
            let response = reply.map_err(|status| attempt.error(&status))?.into_inner();
            let series = response.series.into_iter().map(|set| set.labels.into()).collect();
            Ok((series, response.report.into()))
        })
        .await
    }

    /// The names of labels of matching series.
    pub async fn label_names(&self, options: &LabelOptions) -> Result<Strings, ClientError> {
        self.call(Patience::WholeCall, async |attempt| {
            let message = v1::LabelNamesRequest {
                r#match: options.matches.clone(),
                start_ms: options.start_ms,
                end_ms: options.end_ms,
                limit: options.limit,
                read: Some(options.read.to_proto(attempt.timeout)),
            };
            let reply = attempt
                .query()
                .label_names(self.request(message, Some(attempt.timeout)))
                .await;
            let response = reply.map_err(|status| attempt.error(&status))?.into_inner();
            let (strings, warnings) = (response.names, response.warnings);
            Ok(Strings {
                strings,
                warnings,
                report: response.report.into(),
            })
        })
        .await
    }

    /// The values of one label in matching series.
    pub async fn label_values(&self, name: &str, options: &LabelOptions) -> Result<Strings, ClientError> {
        self.call(Patience::WholeCall, async |attempt| {
            let message = v1::LabelValuesRequest {
                name: name.to_owned(),
                r#match: options.matches.clone(),
                start_ms: options.start_ms,
                end_ms: options.end_ms,
                limit: options.limit,
                read: Some(options.read.to_proto(attempt.timeout)),
            };
            let reply = attempt
                .query()
                .label_values(self.request(message, Some(attempt.timeout)))
                .await;
            let response = reply.map_err(|status| attempt.error(&status))?.into_inner();
            let (strings, warnings) = (response.values, response.warnings);
            Ok(Strings {
                strings,
                warnings,
                report: response.report.into(),
            })
        })
        .await
    }

    async fn open_range(
        &self,
        attempt: Attempt,
        query: &str,
        window: RangeWindow,
        options: &QueryOptions,
    ) -> Result<SeriesStream, ClientError> {
        let message = v1::RangeRequest {
            query: query.to_owned(),
            start_ms: window.start_ms,
            end_ms: window.end_ms,
            step_ms: window.step_ms,
            lookback_ms: as_ms(options.lookback.unwrap_or_default()),
            read: Some(options.read.to_proto(attempt.timeout)),
            limit: options.limit,
        };
        let reply = attempt
            .query()
            .range(self.request(message, Some(attempt.timeout)))
            .await;
        let stream = reply.map_err(|status| attempt.error(&status))?.into_inner();
        SeriesStream::open(stream, attempt).await
    }

    async fn open_read(
        &self,
        attempt: Attempt,
        selector: &str,
        start_ms: i64,
        end_ms: i64,
        level: ReadLevel,
    ) -> Result<SeriesStream, ClientError> {
        let read = Some(level.to_proto(attempt.timeout));
        let message = v1::ReadRequest {
            r#match: selector.to_owned(),
            start_ms,
            end_ms,
            read,
        };
        let reply = attempt
            .query()
            .read(self.request(message, Some(attempt.timeout)))
            .await;
        let stream = reply.map_err(|status| attempt.error(&status))?.into_inner();
        SeriesStream::open(stream, attempt).await
    }
}

fn answer(endpoint: &Arc<str>, response: v1::InstantResponse) -> Result<Answer, ClientError> {
    let incomplete = |message: &str| ClientError::Protocol {
        endpoint: endpoint.clone(),
        message: message.to_owned(),
    };
    let value = match response
        .value
        .ok_or_else(|| incomplete("an answer without a value"))?
    {
        v1::instant_response::Value::Scalar(scalar) => Value::Scalar(Sample {
            timestamp_ms: scalar.timestamp,
            value: scalar.value.unwrap_or_default(),
        }),
        v1::instant_response::Value::Vector(vector) => {
            let element = |sample: v1::VectorSample| {
                (
                    sample.labels.into(),
                    Sample {
                        timestamp_ms: sample.timestamp,
                        value: sample.value.unwrap_or_default(),
                    },
                )
            };
            Value::Vector(vector.samples.into_iter().map(element).collect())
        }
        v1::instant_response::Value::Matrix(matrix) => {
            let series: Option<Vec<_>> = matrix.series.into_iter().map(SeriesData::from_proto).collect();
            Value::Matrix(series.ok_or_else(|| incomplete("columns of unequal length"))?)
        }
        v1::instant_response::Value::String(string) => Value::String(string.timestamp, string.value),
    };
    let (warnings, infos) = (response.warnings, response.infos);
    Ok(Answer {
        value,
        warnings,
        infos,
        report: response.report.into(),
    })
}

fn as_ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
