//! `quorate.v1.Query`: PromQL, metadata and raw samples.

use std::pin::Pin;
use std::time::{Duration, Instant};

use futures_util::Stream;
use quorate_proto::ErrorCode;
use quorate_proto::v1::query_server::Query;
use quorate_proto::v1::{self, instant_response};
use quorate_query::parse_selector;
use quorate_query::source::SampleColumns;
use quorate_query::value::Value;
use quorate_storage::{Labels, Matcher};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status};

use super::public::{Inside, caller};
use super::{Cells, api_status, histogram, status};
use crate::api::{
    Answer, ApiError, Caller, InstantParams, MetaParams, QueryApi as _, RangeParams, ReadOptions, ReadReport,
};
use crate::config::ReadLevel;
use crate::node::Node;
use crate::read::{Queries, ShardQuery, shards_of};

/// Longest query when the request sets no time; the node's own limit caps it further.
const MOST: Duration = Duration::from_secs(600);
/// Samples after which a message of a stream is closed.
const SAMPLES_PER_MESSAGE: usize = 64 * 1024;
/// Messages of a stream that wait for a slow client.
const STREAM_QUEUE: usize = 4;

/// The service.
pub(super) struct QueryService {
    /// The node, when it is up.
    pub cells: Cells,
}

type Messages<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

impl QueryService {
    fn enter(
        &self,
        metadata: &MetadataMap,
        read: Option<v1::ReadOptions>,
    ) -> Result<(Inside, std::sync::Arc<Node>, Caller, ReadOptions), Status> {
        let inside = self.cells.public.enter()?;
        let read = read.unwrap_or_default();
        let most = if read.timeout_ms == 0 {
            MOST
        } else {
            Duration::from_millis(read.timeout_ms)
        };
        let caller = caller(metadata, most)?;
        let level = match v1::ReadLevel::try_from(read.level) {
            Ok(v1::ReadLevel::Unspecified) => None,
            Ok(v1::ReadLevel::Linearizable) => Some(ReadLevel::Linearizable),
            Ok(v1::ReadLevel::Bounded) => Some(ReadLevel::Bounded),
            Ok(v1::ReadLevel::Local) => Some(ReadLevel::Local),
            Err(_) => {
                return Err(status(
                    ErrorCode::BadData,
                    format!("read level {} is unknown", read.level),
                ));
            }
        };
        let max_staleness_ms = (read.max_staleness_ms > 0).then_some(read.max_staleness_ms);
        Ok((
            inside,
            self.cells.node()?,
            caller,
            ReadOptions {
                level,
                max_staleness_ms,
            },
        ))
    }

    fn now_ms(&self) -> i64 {
        self.cells.clock.now_ms()
    }
}

#[tonic::async_trait]
impl Query for QueryService {
    async fn instant(
        &self,
        request: Request<v1::InstantRequest>,
    ) -> Result<Response<v1::InstantResponse>, Status> {
        let (_inside, node, caller, read) = self.enter(request.metadata(), request.get_ref().read)?;
        let request = request.into_inner();
        let limit = request.limit;
        let params = InstantParams {
            query: request.query,
            time_ms: request.time_ms.unwrap_or_else(|| self.now_ms()),
            lookback_ms: lookback(request.lookback_ms)?,
            read,
        };
        let mut answer = node.queries().instant(caller, params).await.map_err(api_status)?;
        let value = match answer.value {
            Value::Scalar { timestamp_ms, value } => instant_response::Value::Scalar(v1::ScalarValue {
                timestamp: timestamp_ms,
                value: Some(value),
            }),
            Value::String { timestamp_ms, value } => instant_response::Value::String(v1::StringValue {
                timestamp: timestamp_ms,
                value,
            }),
            Value::Vector(mut samples) => {
                truncate(&mut samples, limit, &mut answer.warnings);
                let samples = samples.into_iter().map(|s| v1::VectorSample {
                    labels: labels(&s.labels),
                    timestamp: s.timestamp_ms,
                    value: Some(s.value),
                });
                instant_response::Value::Vector(v1::Vector {
                    samples: samples.collect(),
                })
            }
            Value::Matrix(mut series) => {
                truncate(&mut series, limit, &mut answer.warnings);
                let series = series
                    .into_iter()
                    .map(|s| matrix_series(&s.labels, s.timestamps_ms, s.values));
                instant_response::Value::Matrix(v1::Matrix {
                    series: series.collect(),
                })
            }
        };
        Ok(Response::new(v1::InstantResponse {
            value: Some(value),
            warnings: answer.warnings,
            infos: answer.infos,
            report: Some(report(&answer.report)),
        }))
    }

    type RangeStream = Messages<v1::RangeResponse>;

    async fn range(&self, request: Request<v1::RangeRequest>) -> Result<Response<Self::RangeStream>, Status> {
        let (inside, node, caller, read) = self.enter(request.metadata(), request.get_ref().read)?;
        let request = request.into_inner();
        if request.step_ms <= 0 || request.end_ms < request.start_ms {
            return Err(status(
                ErrorCode::BadData,
                "step_ms must be positive and end_ms not before start_ms",
            ));
        }
        let params = RangeParams {
            query: request.query,
            start_ms: request.start_ms,
            end_ms: request.end_ms,
            step_ms: request.step_ms,
            lookback_ms: lookback(request.lookback_ms)?,
            read,
        };
        let answer = node.queries().range(caller, params).await.map_err(api_status)?;
        let (out, messages) = mpsc::channel(STREAM_QUEUE);
        tokio::spawn(async move {
            let _inside = inside;
            // A client that goes away needs no more messages.
            let _ = send_matrix(answer, request.limit, &out).await;
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(messages))))
    }

    async fn series(
        &self,
        request: Request<v1::SeriesRequest>,
    ) -> Result<Response<v1::SeriesResponse>, Status> {
        let (_inside, node, caller, read) = self.enter(request.metadata(), request.get_ref().read)?;
        let v1::SeriesRequest {
            r#match,
            start_ms,
            end_ms,
            limit,
            ..
        } = request.into_inner();
        let params = meta_params(r#match, start_ms, end_ms, limit, read);
        let mut answer = node.queries().series(caller, params).await.map_err(api_status)?;
        truncate(&mut answer.value, limit, &mut answer.warnings);
        let series = answer
            .value
            .iter()
            .map(|l| v1::LabelSet { labels: labels(l) })
            .collect();
        let report = Some(report(&answer.report));
        Ok(Response::new(v1::SeriesResponse {
            series,
            warnings: answer.warnings,
            report,
        }))
    }

    async fn label_names(
        &self,
        request: Request<v1::LabelNamesRequest>,
    ) -> Result<Response<v1::LabelNamesResponse>, Status> {
        let (_inside, node, caller, read) = self.enter(request.metadata(), request.get_ref().read)?;
        let v1::LabelNamesRequest {
            r#match,
            start_ms,
            end_ms,
            limit,
            ..
        } = request.into_inner();
        let params = meta_params(r#match, start_ms, end_ms, limit, read);
        let mut answer = node
            .queries()
            .label_names(caller, params)
            .await
            .map_err(api_status)?;
        truncate(&mut answer.value, limit, &mut answer.warnings);
        Ok(Response::new(v1::LabelNamesResponse {
            report: Some(report(&answer.report)),
            names: answer.value,
            warnings: answer.warnings,
        }))
    }

    async fn label_values(
        &self,
        request: Request<v1::LabelValuesRequest>,
    ) -> Result<Response<v1::LabelValuesResponse>, Status> {
        let (_inside, node, caller, read) = self.enter(request.metadata(), request.get_ref().read)?;
        let v1::LabelValuesRequest {
            name,
            r#match,
            start_ms,
            end_ms,
            limit,
            ..
        } = request.into_inner();
        let params = meta_params(r#match, start_ms, end_ms, limit, read);
        let mut answer = node
            .queries()
            .label_values(caller, name, params)
            .await
            .map_err(api_status)?;
        truncate(&mut answer.value, limit, &mut answer.warnings);
        Ok(Response::new(v1::LabelValuesResponse {
            report: Some(report(&answer.report)),
            values: answer.value,
            warnings: answer.warnings,
        }))
    }

    type ReadStream = Messages<v1::ReadResponse>;

    async fn read(&self, request: Request<v1::ReadRequest>) -> Result<Response<Self::ReadStream>, Status> {
        let (inside, node, caller, read) = self.enter(request.metadata(), request.get_ref().read)?;
        let request = request.into_inner();
        let matchers = parse_selector(&request.r#match)
            .map_err(|e| status(ErrorCode::BadData, format!("invalid parameter \"match\": {e}")))?;
        let (out, messages) = mpsc::channel(STREAM_QUEUE);
        tokio::spawn(async move {
            let _inside = inside;
            let queries = node.queries();
            if let Err(e) = raw_read(queries, caller, read, matchers, &request, &out).await {
                // The client may have gone.
                let _ = out.send(Err(api_status(e))).await;
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(messages))))
    }
}

async fn raw_read(
    queries: &Queries,
    caller: Caller,
    read: ReadOptions,
    matchers: Vec<Matcher>,
    request: &v1::ReadRequest,
    out: &mpsc::Sender<Result<v1::ReadResponse, Status>>,
) -> Result<(), ApiError> {
    let deadline = queries.deadline(&caller);
    let _turn = queries.turn(deadline).await?;
    let (view, session) = queries.session(&caller, read, &[&matchers], deadline).await?;
    let (reader, out, runtime) = (queries.reader().clone(), out.clone(), Handle::current());
    let (start_ms, end_ms) = (request.start_ms, request.end_ms);
    let work = tokio::task::spawn_blocking(move || -> Result<(), ApiError> {
        let mut message = v1::ReadResponse::default();
        let mut samples = 0;
        for shard in shards_of(&view.ring, session.shards(), &session.tenant, &matchers) {
            let query = ShardQuery {
                shard,
                matchers: &matchers,
                start_ms,
                end_ms,
                samples: true,
            };
            for mut cursor in runtime.block_on(reader.read(&session, query))? {
                let mut columns = SampleColumns::default();
                cursor.samples(&mut columns).map_err(|e| {
                    let known = e.get::<ApiError>().cloned();
                    known.unwrap_or_else(|| ApiError::new(ErrorCode::Internal, e.to_string()))
                })?;
                samples += columns.timestamps.len();
                let histograms = histogram::take(&mut columns);
                message.series.push(v1::MatrixSeries {
                    histograms,
                    ..matrix_series(cursor.labels(), columns.timestamps, columns.values)
                });
                if samples >= SAMPLES_PER_MESSAGE {
                    samples = 0;
                    if Instant::now() >= deadline {
                        return Err(ApiError::new(ErrorCode::Timeout, "the read timed out"));
                    }
                    if out.blocking_send(Ok(std::mem::take(&mut message))).is_err() {
                        return Ok(());
                    }
                }
            }
        }
        message.report = Some(report(&session.report()));
        // A client that has gone needs no report.
        let _ = out.blocking_send(Ok(message));
        Ok(())
    });
    work.await
        .map_err(|_| ApiError::new(ErrorCode::ShuttingDown, "the node is stopping"))?
}

async fn send_matrix(
    mut answer: Answer<Value>,
    limit: u64,
    out: &mpsc::Sender<Result<v1::RangeResponse, Status>>,
) -> Result<(), mpsc::error::SendError<Result<v1::RangeResponse, Status>>> {
    let mut message = v1::RangeResponse::default();
    if let Value::Matrix(mut all) = answer.value {
        truncate(&mut all, limit, &mut answer.warnings);
        let mut samples = 0;
        for series in all {
            samples += series.timestamps_ms.len();
            message
                .series
                .push(matrix_series(&series.labels, series.timestamps_ms, series.values));
            if samples >= SAMPLES_PER_MESSAGE {
                samples = 0;
                out.send(Ok(std::mem::take(&mut message))).await?;
            }
        }
    }
    message.warnings = answer.warnings;
    message.infos = answer.infos;
    message.report = Some(report(&answer.report));
    out.send(Ok(message)).await
}

fn meta_params(
    matches: Vec<String>,
    start_ms: i64,
    end_ms: i64,
    limit: u64,
    read: ReadOptions,
) -> MetaParams {
    MetaParams {
        matches,
        start_ms,
        // 0 is not given: a client that wants the epoch's first millisecond alone can say 1.
        end_ms: if end_ms == 0 { i64::MAX } else { end_ms },
        // One more, to know that there were more.
        max_results: usize::try_from(limit)
            .ok()
            .filter(|n| *n > 0)
            .map(|n| n.saturating_add(1)),
        read,
    }
}

fn truncate<T>(values: &mut Vec<T>, limit: u64, warnings: &mut Vec<String>) {
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    if limit > 0 && values.len() > limit {
        values.truncate(limit);
        warnings.push("results truncated due to limit".into());
    }
}

fn lookback(ms: u64) -> Result<Option<i64>, Status> {
    match i64::try_from(ms) {
        Ok(0) => Ok(None),
        Ok(ms) => Ok(Some(ms)),
        Err(_) => Err(status(ErrorCode::BadData, "lookback_ms is too large")),
    }
}

fn labels(labels: &Labels) -> Vec<v1::Label> {
    labels
        .iter()
        .map(|(name, value)| v1::Label {
            name: name.into(),
            value: value.into(),
        })
        .collect()
}

fn matrix_series(of: &Labels, timestamps: Vec<i64>, values: Vec<f64>) -> v1::MatrixSeries {
    let value_bits = values.into_iter().map(f64::to_bits).collect();
    v1::MatrixSeries {
        labels: labels(of),
        timestamps,
        value_bits,
        histograms: Vec::new(),
    }
}

fn report(report: &ReadReport) -> v1::ReadReport {
    let level = match report.level {
        ReadLevel::Linearizable => v1::ReadLevel::Linearizable,
        ReadLevel::Bounded => v1::ReadLevel::Bounded,
        ReadLevel::Local => v1::ReadLevel::Local,
    };
    let shards = report.shards.iter().map(|s| v1::ShardRead {
        shard: s.shard,
        node: s.node,
        applied_before: s.applied_before,
        applied_after: s.applied_after,
        staleness_ms: s.staleness_ms,
    });
    v1::ReadReport {
        level: level.into(),
        shards: shards.collect(),
    }
}
