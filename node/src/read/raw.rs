//! Samples as they are stored, for remote read and federation.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use quorate_proto::ErrorCode;
use quorate_query::source::{SampleColumns, SelectHints, SelectRequest, Source as _};
use quorate_storage::{Labels, Matcher};
use tokio::runtime::Handle;

use super::queries::{Queries, SetOnDrop};
use super::source::ClusterSource;
use crate::api::{Answer, ApiError, Caller, QueryCost, RawParams, RawSeries};

/// Reads the series that any set of matchers selects, within the limits of a query.
pub(super) async fn read(
    queries: &Queries,
    caller: Caller,
    params: RawParams,
) -> Result<Answer<Vec<RawSeries>>, ApiError> {
    let deadline = queries.deadline(&caller);
    let permit = queries.turn(deadline).await?;
    let sets: Vec<&[Matcher]> = params.matchers.iter().map(Vec::as_slice).collect();
    let (view, session) = queries.session(&caller, params.read, &sets, deadline).await?;
    let source = ClusterSource {
        reader: queries.reader().clone(),
        session,
        view,
        runtime: Handle::current(),
    };
    let limits = queries.limits();
    let abandoned = Arc::new(AtomicBool::new(false));
    let guard = SetOnDrop(abandoned.clone());
    let work = tokio::task::spawn_blocking(move || {
        let _permit = permit;
        let mut room = Room {
            samples: limits.max_samples,
            bytes: limits.max_memory_bytes,
        };
        let mut found: BTreeMap<Labels, SampleColumns> = BTreeMap::new();
        for matchers in &params.matchers {
            let request = SelectRequest {
                start_ms: params.start_ms,
                end_ms: params.end_ms,
                matchers,
                hints: SelectHints::default(),
            };
            let cursors = source.select(&request).map_err(source_error)?;
            for mut cursor in cursors {
                match () {
                    () if abandoned.load(Ordering::Relaxed) => {
                        return Err(ApiError::new(ErrorCode::Canceled, "the client went away"));
                    }
                    () if Instant::now() >= deadline => {
                        return Err(ApiError::new(
                            ErrorCode::Timeout,
                            "query timed out while reading samples",
                        ));
                    }
                    () => {}
                }
                if found.contains_key(cursor.labels()) {
                    continue;
                }
                let mut samples = SampleColumns::new();
                cursor.samples(&mut samples).map_err(source_error)?;
                let samples = numbers_of(samples);
                if samples.is_empty() {
                    continue;
                }
                room.take(cursor.labels(), &samples)?;
                found.insert(cursor.labels().clone(), samples);
            }
        }
        let series = found
            .into_iter()
            .map(|(labels, samples)| RawSeries { labels, samples });
        Ok(Answer {
            value: series.collect(),
            warnings: Vec::new(),
            infos: Vec::new(),
            report: source.session.report(),
            cost: QueryCost::default(),
        })
    });
    let result = work.await;
    drop(guard);
    result.map_err(|_| ApiError::new(ErrorCode::ShuttingDown, "the node is stopping"))?
}

/// The samples that are numbers: neither reader can take histograms yet, and their sums would be wrong.
fn numbers_of(samples: SampleColumns) -> SampleColumns {
    if samples.histograms.is_empty() {
        return samples;
    }
    let mut numbers = SampleColumns::new();
    for (index, (timestamp_ms, value)) in samples.iter().enumerate() {
        let is_histogram = samples
            .histograms
            .binary_search_by_key(&index, |(at, _)| *at)
            .is_ok();
        if !is_histogram {
            numbers.push(timestamp_ms, value);
        }
    }
    numbers
}

/// What may be read yet.
struct Room {
    samples: u64,
    bytes: u64,
}

impl Room {
    fn take(&mut self, labels: &Labels, samples: &SampleColumns) -> Result<(), ApiError> {
        let exceeded = |limit: &str| {
            let message =
                format!("the selected series hold more than one query may read ({limit}); ask for less");
            ApiError::new(ErrorCode::QueryLimit, message)
        };
        let count = samples.len() as u64;
        self.samples = self
            .samples
            .checked_sub(count)
            .ok_or_else(|| exceeded("read.max_samples"))?;
        self.bytes = self
            .bytes
            .checked_sub(count * 16 + labels.as_bytes().len() as u64)
            .ok_or_else(|| exceeded("read.max_memory_bytes_per_query"))?;
        Ok(())
    }
}

fn source_error(error: quorate_query::SourceError) -> ApiError {
    match error.get::<ApiError>() {
        Some(known) => known.clone(),
        None => ApiError::new(ErrorCode::Internal, error.to_string()),
    }
}
