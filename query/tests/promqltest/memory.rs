//! A source of samples in memory.

use std::collections::BTreeMap;

use quorate_query::promqltest::{ScriptError, TestStorage, all_match};
use quorate_query::source::{SelectRequest, SeriesCursor, Source, SourceError};
use quorate_storage::{Labels, SampleColumns};

/// Everything loaded so far.
#[derive(Default)]
pub(crate) struct Memory {
    series: BTreeMap<Labels, BTreeMap<i64, f64>>,
}

impl TestStorage for Memory {
    fn clear(&mut self) -> Result<(), ScriptError> {
        self.series.clear();
        Ok(())
    }

    fn append(&mut self, series: &[(Labels, SampleColumns)]) -> Result<(), ScriptError> {
        for (labels, columns) in series {
            let samples = self.series.entry(labels.clone()).or_default();
            samples.extend(
                columns
                    .timestamps
                    .iter()
                    .copied()
                    .zip(columns.values.iter().copied()),
            );
        }
        Ok(())
    }

    fn source(&self) -> &dyn Source {
        self
    }
}

struct Cursor {
    labels: Labels,
    samples: SampleColumns,
}

impl SeriesCursor for Cursor {
    fn labels(&self) -> &Labels {
        &self.labels
    }

    fn samples(&mut self, out: &mut SampleColumns) -> Result<(), SourceError> {
        out.timestamps.extend_from_slice(&self.samples.timestamps);
        out.values.extend_from_slice(&self.samples.values);
        Ok(())
    }
}

impl Source for Memory {
    fn select(&self, request: &SelectRequest<'_>) -> Result<Vec<Box<dyn SeriesCursor>>, SourceError> {
        let mut selected: Vec<Box<dyn SeriesCursor>> = Vec::new();
        if request.start_ms > request.end_ms {
            return Ok(selected);
        }
        for (labels, all) in &self.series {
            if !all_match(labels, request.matchers) {
                continue;
            }
            let mut samples = SampleColumns::new();
            for (time, value) in all.range(request.start_ms..=request.end_ms) {
                samples.push(*time, *value);
            }
            if !samples.timestamps.is_empty() {
                selected.push(Box::new(Cursor {
                    labels: labels.clone(),
                    samples,
                }));
            }
        }
        Ok(selected)
    }
}
