//! Gives the query engine the shards as one source.

use std::sync::Arc;

use quorate_query::source::{SampleColumns, SelectRequest, SeriesCursor, Source, SourceError};
use quorate_storage::{Labels, SelectedSeries};
use tokio::runtime::Handle;

use super::local::storage_error;
use super::pinning::shards_of;
use super::reader::{Reader, ShardQuery};
use super::session::Session;
use crate::cluster::View;

/// All shards of the cluster, read for one query. Its calls block, so it is used on a thread of its own.
pub(super) struct ClusterSource {
    /// Reads shards.
    pub reader: Arc<Reader>,
    /// The query's reads.
    pub session: Arc<Session>,
    /// Ring and placement when the query began.
    pub view: Arc<View>,
    /// Runs what has to be awaited.
    pub runtime: Handle,
}

impl Source for ClusterSource {
    fn select(&self, request: &SelectRequest<'_>) -> Result<Vec<Box<dyn SeriesCursor>>, SourceError> {
        let session = &self.session;
        let shards = shards_of(
            &self.view.ring,
            session.shards(),
            &session.tenant,
            request.matchers,
        );
        let mut all = Vec::new();
        for shard in shards {
            let query = ShardQuery {
                shard,
                matchers: request.matchers,
                start_ms: request.start_ms,
                end_ms: request.end_ms,
                samples: true,
            };
            all.extend(
                self.runtime
                    .block_on(self.reader.read(session, query))
                    .map_err(SourceError::new)?,
            );
        }
        all.sort_by(|a, b| a.labels().cmp(b.labels()));
        Ok(all)
    }
}

/// A series of a local replica.
pub(crate) struct LocalCursor(SelectedSeries);

impl LocalCursor {
    /// Wraps a selected series.
    pub(crate) fn new(series: SelectedSeries) -> LocalCursor {
        LocalCursor(series)
    }
}

impl SeriesCursor for LocalCursor {
    fn labels(&self) -> &Labels {
        &self.0.labels
    }

    fn samples(&mut self, out: &mut SampleColumns) -> Result<(), SourceError> {
        self.0
            .samples(out)
            .map_err(|e| SourceError::new(storage_error(&e)))
    }
}

/// A series that came from another node.
pub(super) struct RemoteCursor {
    /// Its labels.
    pub labels: Labels,
    /// Its samples.
    pub columns: SampleColumns,
}

impl SeriesCursor for RemoteCursor {
    fn labels(&self) -> &Labels {
        &self.labels
    }

    fn samples(&mut self, out: &mut SampleColumns) -> Result<(), SourceError> {
        let before = out.timestamps.len();
        out.timestamps.append(&mut self.columns.timestamps);
        out.values.append(&mut self.columns.values);
        let histograms = self.columns.histograms.drain(..);
        out.histograms
            .extend(histograms.map(|(at, histogram)| (before + at, histogram)));
        Ok(())
    }
}
