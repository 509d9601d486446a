//! A source of samples in memory.

use std::collections::BTreeMap;
use std::sync::Arc;

use quorate_query::promqltest::{ScriptError, TestStorage, all_match};
use quorate_query::source::{SelectRequest, SeriesCursor, Source, SourceError};
use quorate_storage::{Histogram, Labels, SampleColumns};

/// A stored value.
#[derive(Clone)]
enum Sample {
    Number(f64),
    Histogram(Arc<Histogram>),
}

/// Everything loaded so far.
#[derive(Default)]
pub(crate) struct Memory {
    series: BTreeMap<Labels, BTreeMap<i64, Sample>>,
}

impl TestStorage for Memory {
    fn clear(&mut self) -> Result<(), ScriptError> {
        self.series.clear();
        Ok(())
    }

    fn append(&mut self, series: &[(Labels, SampleColumns)]) -> Result<(), ScriptError> {
        for (labels, columns) in series {
            let samples = self.series.entry(labels.clone()).or_default();
            for (index, (time, value)) in columns.iter().enumerate() {
                let sample = match columns.histogram(index) {
                    None => Sample::Number(value),
                    Some(histogram) => Sample::Histogram(Arc::clone(histogram)),
                };
                samples.insert(time, sample);
            }
            set_hints(samples);
        }
        Ok(())
    }

    fn source(&self) -> &dyn Source {
        self
    }
}

/// Gives histograms the hints that they have when they are read back.
fn set_hints(samples: &mut BTreeMap<i64, Sample>) {
    let mut previous: Option<Arc<Histogram>> = None;
    for sample in samples.values_mut() {
        previous = match sample {
            Sample::Number(_) => None,
            Sample::Histogram(histogram) => {
                *histogram = Arc::new(Histogram {
                    counter_reset_hint: histogram.stored_hint(previous.as_deref()),
                    ..Histogram::clone(histogram)
                });
                Some(Arc::clone(histogram))
            }
        };
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
        *out = std::mem::take(&mut self.samples);
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
            for (time, sample) in all.range(request.start_ms..=request.end_ms) {
                match sample {
                    Sample::Number(value) => samples.push(*time, *value),
                    Sample::Histogram(histogram) => samples.push_histogram(*time, Arc::clone(histogram)),
                }
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
