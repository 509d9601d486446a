//! The series of the workload.

use std::collections::BTreeMap;

use quorate_storage::Labels;

use crate::model::Series;

/// The tenants.
pub const TENANTS: [&str; 2] = ["acme", "zoo"];
/// There are never more series than this.
pub const MAX_SERIES: u32 = 4_000;

/// Tenant and labels of every series, and back.
pub struct Catalogue {
    series: Vec<(usize, Labels)>,
    by_labels: BTreeMap<(usize, Vec<u8>), Series>,
}

impl Catalogue {
    /// All series that a run may use.
    pub fn new() -> Self {
        let series: Vec<(usize, Labels)> = (0..MAX_SERIES)
            .map(|number| {
                let (name, job, instance) = labels(number);
                let labels = Labels::from_pairs([
                    ("__name__", name.as_str()),
                    ("job", job.as_str()),
                    ("instance", instance.as_str()),
                ]);
                let tenant = number as usize % TENANTS.len();
                (tenant, labels.unwrap_or_else(|_| Labels::empty()))
            })
            .collect();
        let by_labels = (0..).zip(&series).map(|(number, (tenant, labels))| {
            let key = (*tenant, labels.as_bytes().to_vec());
            (key, number)
        });
        let by_labels = by_labels.collect();
        Self { series, by_labels }
    }

    /// The tenant's number and the labels of a series.
    pub fn get(&self, series: Series) -> &(usize, Labels) {
        &self.series[series as usize % self.series.len()]
    }

    /// The series with these labels.
    pub fn find(&self, tenant: usize, labels: &Labels) -> Option<Series> {
        self.by_labels.get(&(tenant, labels.as_bytes().to_vec())).copied()
    }
}

impl Default for Catalogue {
    fn default() -> Self {
        Self::new()
    }
}

/// Name, job and instance of a series: each pair of values is shared by some and not by others.
pub fn labels(series: Series) -> (String, String, String) {
    (
        format!("metric_{}", series % 7),
        format!("job_{}", series % 3),
        format!("host_{}", series / 6),
    )
}
