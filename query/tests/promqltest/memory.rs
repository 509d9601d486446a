//! A source of samples in memory.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result};
use quorate_query::source::{SelectRequest, SeriesCursor, Source, SourceError};
use quorate_storage::{Labels, LabelsBuilder, Matcher, SampleColumns};

use crate::script::Load;

/// Everything loaded so far.
#[derive(Default)]
pub(crate) struct Memory {
    series: BTreeMap<Labels, BTreeMap<i64, f64>>,
    /// Series that hold native histograms, which are left out of `series`.
    histograms: BTreeSet<Labels>,
}

impl Memory {
    pub(crate) fn load(&mut self, load: &Load) -> Result<()> {
        for series in &load.series {
            let labels = Labels::from_pairs(
                series
                    .description
                    .labels
                    .iter()
                    .map(|(n, v)| (n.as_str(), v.as_str())),
            )
            .context("labels of a series")?;
            if load.with_native {
                self.histograms.extend(native_name(&labels));
            }
            if series.has_histograms {
                self.series.remove(&labels);
                self.histograms.insert(labels);
                continue;
            }
            let samples = self.series.entry(labels).or_default();
            let times = (0..).map(|index: i64| index * load.step_ms);
            for (time, value) in times.zip(&series.description.values) {
                if let Some(value) = value {
                    samples.insert(time, *value);
                }
            }
        }
        Ok(())
    }

    /// Whether a selector would find a series of native histograms.
    pub(crate) fn selects_histograms(&self, matchers: &[Matcher]) -> bool {
        self.histograms.iter().any(|labels| all_match(labels, matchers))
    }
}

/// The native histogram that a series of a classic one belongs to.
fn native_name(labels: &Labels) -> Option<Labels> {
    let name = labels.get("__name__")?;
    let base = ["_bucket", "_count", "_sum"]
        .into_iter()
        .find_map(|suffix| name.strip_suffix(suffix))?;
    let mut builder = LabelsBuilder::from(labels);
    builder.set("__name__", base);
    builder.del("le");
    Some(builder.build())
}

fn all_match(labels: &Labels, matchers: &[Matcher]) -> bool {
    matchers
        .iter()
        .all(|matcher| matcher.matches(labels.get(matcher.name()).unwrap_or_default()))
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
