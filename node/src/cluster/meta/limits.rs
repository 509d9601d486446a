//! Limits that change while the cluster runs, and the sharing out of a tenant's series to shards.
//!
//! A tenant's limit of series counts for the whole cluster, but series are registered by shards that do
//! not ask each other. So each shard has a quota, and the meta group sees to it that the quotas of a
//! tenant never exceed its limit. A shard that needs more asks for it, in steps that are small against
//! the limit, so that little of it lies unused on shards when it is used up. After every change of such a
//! limit a new epoch begins: old quotas are void, and nothing is given out before every shard has said
//! how many series it has already.

use std::collections::BTreeMap;

use quorate_raft_log::GroupId;
use quorate_storage::TenantRetentions;
use serde::{Deserialize, Serialize};

use super::state::{Cluster, ClusterLimits, META_GROUP, Reply};

/// Of a tenant's limit, all shards together may hold 1/40 unused: 2.5 %.
const UNUSED_SHARE: u64 = 40;
/// Tenants that may have limits or quotas.
const MAX_TENANTS: usize = 100_000;
const HOUR_MS: u64 = 3_600_000;

/// A limit that can be changed: its name, and what it bounds.
#[derive(Debug, Clone, Copy)]
pub struct Limit {
    /// As in the configuration below `limits.`
    pub name: &'static str,
    /// Whether a tenant can have one of its own.
    pub by_tenant: bool,
    /// Whether the value is a time in milliseconds.
    pub is_time: bool,
    least: u64,
    most: u64,
}

const fn limit(name: &'static str, by_tenant: bool, is_time: bool, least: u64, most: u64) -> Limit {
    Limit {
        name,
        by_tenant,
        is_time,
        least,
        most,
    }
}

const YEARS_MS: u64 = 100 * 365 * 24 * HOUR_MS;
const U32: u64 = u32::MAX as u64;

/// Every limit that can be changed.
pub const LIMITS: &[Limit] = &[
    limit("ooo_window", false, true, 0, YEARS_MS),
    limit("retention", true, true, HOUR_MS, YEARS_MS),
    limit("max_ahead", false, true, 0, YEARS_MS),
    limit("max_series_per_shard", false, false, 1, U32),
    limit("max_series", true, false, 0, u64::MAX),
    limit("max_samples_per_second", true, false, 0, u64::MAX),
    limit("max_labels", true, false, 1, U32),
    limit("max_label_name_bytes", true, false, 8, U32),
    limit("max_label_value_bytes", true, false, 1, U32),
];

/// The limits in force for one tenant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TenantLimits {
    /// Series in the whole cluster; 0 is no limit.
    pub max_series: u64,
    /// Samples a second at one node; 0 is no limit.
    pub max_samples_per_second: u64,
    /// Labels of one series.
    pub max_labels: u64,
    /// Bytes of a label name.
    pub max_label_name_bytes: u64,
    /// Bytes of a label value.
    pub max_label_value_bytes: u64,
}

/// What tenants have of their own.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tenants {
    /// Limits that differ from those of all, by tenant and name.
    limits: BTreeMap<String, BTreeMap<String, u64>>,
    /// The quota of each shard that has told its own, by tenant.
    leases: BTreeMap<String, BTreeMap<GroupId, u64>>,
    /// How often a limit of series changed.
    changes: u64,
}

/// A shard asks for a larger share of a tenant's series.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseRequest {
    /// The tenant.
    pub tenant: String,
    /// The shard.
    pub shard: GroupId,
    /// The epoch that the shard is in.
    pub epoch: u64,
    /// Its quota by its own log.
    pub held: u64,
    /// How many more series it has to take; 0 only tells what is held.
    pub wanted: u64,
}

impl Tenants {
    /// The limits in force for a tenant, given those of all.
    pub fn limits_of(&self, tenant: &str, all: &ClusterLimits) -> TenantLimits {
        let own = self.limits.get(tenant);
        let value = |name: &str| own.and_then(|own| own.get(name).copied());
        TenantLimits {
            max_series: value("max_series").unwrap_or(all.max_series),
            max_samples_per_second: value("max_samples_per_second").unwrap_or(all.max_samples_per_second),
            max_labels: value("max_labels").unwrap_or(all.max_labels.into()),
            max_label_name_bytes: value("max_label_name_bytes").unwrap_or(all.max_label_name_bytes.into()),
            max_label_value_bytes: value("max_label_value_bytes").unwrap_or(all.max_label_value_bytes.into()),
        }
    }

    /// The limits that a tenant has of its own, by name.
    pub fn own(&self, tenant: &str) -> BTreeMap<String, u64> {
        self.limits.get(tenant).cloned().unwrap_or_default()
    }

    /// The tenants that have limits of their own.
    pub fn with_limits(&self) -> impl Iterator<Item = &str> {
        self.limits.keys().map(String::as_str)
    }

    /// The epoch of quotas that shards have to be in; 0 while no tenant's series are limited.
    pub fn quota_epoch(&self, all: &ClusterLimits) -> u64 {
        let own = |limits: &BTreeMap<String, u64>| limits.get("max_series").is_some_and(|most| *most > 0);
        match all.max_series > 0 || self.limits.values().any(own) {
            true => self.changes + 1,
            false => 0,
        }
    }

    /// The retentions of tenants that keep samples for a shorter time than all, which is the upper bound.
    pub fn retentions(&self, all: &ClusterLimits) -> TenantRetentions {
        let own = self.limits.iter();
        let own = own.filter_map(|(tenant, own)| Some((tenant.clone(), *own.get("retention")?)));
        own.filter(|(_, ms)| *ms < all.retention_ms).collect()
    }

    /// The sum of a tenant's quotas.
    pub fn leased(&self, tenant: &str) -> u64 {
        let leases = self.leases.get(tenant);
        leases.map_or(0, |leases| {
            leases.values().fold(0, |sum, held| sum.saturating_add(*held))
        })
    }
}

impl ClusterLimits {
    /// The value of a limit by its name.
    pub fn value(&self, name: &str) -> Option<u64> {
        Some(match name {
            "ooo_window" => self.ooo_window_ms,
            "retention" => self.retention_ms,
            "max_ahead" => self.max_ahead_ms,
            "max_series_per_shard" => self.max_series_per_shard,
            "max_series" => self.max_series,
            "max_samples_per_second" => self.max_samples_per_second,
            "max_labels" => self.max_labels.into(),
            "max_label_name_bytes" => self.max_label_name_bytes.into(),
            "max_label_value_bytes" => self.max_label_value_bytes.into(),
            _ => return None,
        })
    }

    /// Sets a limit by its name. The value was checked before.
    fn set(&mut self, name: &str, value: u64) {
        let small = u32::try_from(value).unwrap_or(u32::MAX);
        match name {
            "ooo_window" => self.ooo_window_ms = value,
            "retention" => self.retention_ms = value,
            "max_ahead" => self.max_ahead_ms = value,
            "max_series_per_shard" => self.max_series_per_shard = value,
            "max_series" => self.max_series = value,
            "max_samples_per_second" => self.max_samples_per_second = value,
            "max_labels" => self.max_labels = small,
            "max_label_name_bytes" => self.max_label_name_bytes = small,
            "max_label_value_bytes" => self.max_label_value_bytes = small,
            _ => {}
        }
    }
}

/// Changes limits, all or none. The error says which cannot be.
pub(super) fn set_limits(
    cluster: &mut Cluster,
    tenant: Option<&str>,
    changes: &[(String, Option<u64>)],
) -> Result<(), String> {
    for (name, value) in changes {
        check(tenant, name, *value)?;
    }
    let before = (cluster.limits.max_series, own_series(cluster));
    match tenant {
        None => {
            for (name, value) in changes {
                value.iter().for_each(|value| cluster.limits.set(name, *value));
            }
        }
        Some(tenant) => {
            let limits = &mut cluster.tenants.limits;
            if limits.len() >= MAX_TENANTS && !limits.contains_key(tenant) {
                return Err(format!("{MAX_TENANTS} tenants have limits of their own already"));
            }
            let own = limits.entry(tenant.to_owned()).or_default();
            for (name, value) in changes {
                match value {
                    Some(value) => own.insert(name.clone(), *value),
                    None => own.remove(name),
                };
            }
            if own.is_empty() {
                limits.remove(tenant);
            }
        }
    }
    if before != (cluster.limits.max_series, own_series(cluster)) {
        cluster.tenants.changes += 1;
        cluster.tenants.leases.clear();
    }
    Ok(())
}

fn own_series(cluster: &Cluster) -> BTreeMap<String, u64> {
    let limits = &cluster.tenants.limits;
    let own =
        |(tenant, own): (&String, &BTreeMap<String, u64>)| Some((tenant.clone(), *own.get("max_series")?));
    limits.iter().filter_map(own).collect()
}

fn check(tenant: Option<&str>, name: &str, value: Option<u64>) -> Result<(), String> {
    let Some(limit) = LIMITS.iter().find(|limit| limit.name == name) else {
        let names: Vec<&str> = LIMITS.iter().map(|limit| limit.name).collect();
        return Err(format!(
            "there is no limit {name}, expected one of {}",
            names.join(", ")
        ));
    };
    if tenant.is_some() && !limit.by_tenant {
        return Err(format!("{name} is the same for all tenants"));
    }
    match value {
        None if tenant.is_none() => Err(format!("{name} of all tenants has no default to go back to")),
        Some(value) if !(limit.least..=limit.most).contains(&value) => Err(format!(
            "expected {name} from {} to {}, found {value}",
            limit.least, limit.most
        )),
        _ => Ok(()),
    }
}

/// Notes what a shard holds, and gives it more while there is some.
pub(super) fn lease(cluster: &mut Cluster, request: LeaseRequest) -> Reply {
    let LeaseRequest {
        tenant,
        shard,
        epoch,
        held,
        wanted,
    } = request;
    let current = cluster.tenants.quota_epoch(&cluster.limits);
    if epoch != current {
        return Reply::Refused(format!(
            "the limits have changed (epoch {current}, not {epoch}); retry"
        ));
    }
    let limit = cluster.tenants.limits_of(&tenant, &cluster.limits).max_series;
    if limit == 0 {
        return Reply::Leased(u64::MAX);
    }
    let shards: Vec<GroupId> = cluster
        .groups
        .keys()
        .copied()
        .filter(|g| *g != META_GROUP)
        .collect();
    if !shards.contains(&shard) {
        return Reply::Refused(format!("there is no shard {shard}"));
    }
    let leases = &mut cluster.tenants.leases;
    if leases.len() >= MAX_TENANTS && !leases.contains_key(&tenant) {
        return Reply::Refused(format!("{MAX_TENANTS} tenants have series already"));
    }
    let of_tenant = leases.entry(tenant.clone()).or_default();
    let lease = of_tenant.entry(shard).or_insert(held);
    *lease = held.max(*lease);
    let mut series = *lease;
    if wanted == 0 || series > held {
        return Reply::Leased(series);
    }
    let missing: Vec<GroupId> = shards
        .iter()
        .copied()
        .filter(|s| !of_tenant.contains_key(s))
        .collect();
    if !missing.is_empty() {
        return Reply::LeaseAwaits(missing);
    }
    let left = limit.saturating_sub(cluster.tenants.leased(&tenant));
    let step = limit / (UNUSED_SHARE * shards.len() as u64);
    series = series.saturating_add(wanted.max(step).min(left));
    if let Some(lease) = cluster
        .tenants
        .leases
        .get_mut(&tenant)
        .and_then(|of| of.get_mut(&shard))
    {
        *lease = series;
    }
    Reply::Leased(series)
}

#[cfg(test)]
mod tests {
    use super::super::state::tests::cluster;
    use super::*;

    fn set(
        cluster: &mut Cluster,
        tenant: Option<&str>,
        name: &str,
        value: Option<u64>,
    ) -> Result<(), String> {
        set_limits(cluster, tenant, &[(name.to_owned(), value)])
    }

    fn three_shards() -> Cluster {
        let mut cluster = cluster();
        let group = cluster.groups[&1].clone();
        cluster.groups.insert(2, group.clone());
        cluster.groups.insert(3, group);
        cluster
    }

    fn ask(cluster: &mut Cluster, shard: GroupId, held: u64, wanted: u64) -> Reply {
        let epoch = cluster.tenants.quota_epoch(&cluster.limits);
        let request = LeaseRequest {
            tenant: "t".into(),
            shard,
            epoch,
            held,
            wanted,
        };
        lease(cluster, request)
    }

    #[test]
    fn limits_are_checked_and_a_tenants_own_count_first() {
        let mut cluster = cluster();
        assert!(set(&mut cluster, None, "colour", Some(1)).is_err());
        assert!(set(&mut cluster, Some("t"), "ooo_window", Some(HOUR_MS)).is_err());
        assert!(set(&mut cluster, None, "retention", Some(5)).is_err());
        assert!(set(&mut cluster, None, "max_series", None).is_err());
        set(&mut cluster, None, "max_labels", Some(9)).unwrap();
        set(&mut cluster, Some("t"), "max_labels", Some(20)).unwrap();
        let max_labels = |cluster: &Cluster, t| cluster.tenants.limits_of(t, &cluster.limits).max_labels;
        assert_eq!((max_labels(&cluster, "t"), max_labels(&cluster, "u")), (20, 9));
        assert_eq!(cluster.tenants.quota_epoch(&cluster.limits), 0);
        set(&mut cluster, Some("t"), "max_labels", None).unwrap();
        assert_eq!(cluster.tenants.with_limits().count(), 0);
        for limit in LIMITS {
            assert!(cluster.limits.value(limit.name).is_some(), "{}", limit.name);
        }
    }

    #[test]
    fn a_tenants_retention_counts_where_it_is_shorter() {
        let mut cluster = cluster();
        set(&mut cluster, None, "retention", Some(48 * HOUR_MS)).unwrap();
        for (tenant, hours) in [("short", 2), ("same", 48), ("long", 50)] {
            set(&mut cluster, Some(tenant), "retention", Some(hours * HOUR_MS)).unwrap();
        }
        let own = |cluster: &Cluster| cluster.tenants.retentions(&cluster.limits);
        assert_eq!(own(&cluster), [("short".to_owned(), 2 * HOUR_MS)].into());
        set(&mut cluster, None, "retention", Some(HOUR_MS)).unwrap();
        assert_eq!(own(&cluster).len(), 0);
        assert!(set(&mut cluster, Some("short"), "retention", Some(1)).is_err());
    }

    #[test]
    fn quotas_never_exceed_the_limit_and_little_lies_unused() {
        let mut cluster = three_shards();
        set(&mut cluster, None, "max_series", Some(10_000)).unwrap();
        // Shard 2 has series from before there was a limit.
        assert_eq!(ask(&mut cluster, 1, 0, 1), Reply::LeaseAwaits(vec![2, 3]));
        assert_eq!(ask(&mut cluster, 2, 3_000, 0), Reply::Leased(3_000));
        assert_eq!(ask(&mut cluster, 3, 0, 0), Reply::Leased(0));
        let mut held = [0, 3_000, 0];
        loop {
            let mut grown = false;
            for (at, shard) in [(0, 1), (2, 3), (0, 1)] {
                let Reply::Leased(series) = ask(&mut cluster, shard, held[at], 1) else {
                    panic!("nothing else is expected")
                };
                grown |= series > held[at];
                held[at] = series;
            }
            if !grown {
                break;
            }
        }
        assert_eq!(held.iter().sum::<u64>(), 10_000);
        // A shard has at most one step that it does not use, and all shards together 2.5 %.
        const { assert!(3 * (10_000 / (UNUSED_SHARE * 3)) <= 250) };
    }

    #[test]
    fn a_changed_limit_begins_anew() {
        let mut cluster = three_shards();
        set(&mut cluster, Some("t"), "max_series", Some(300)).unwrap();
        let epoch = cluster.tenants.quota_epoch(&cluster.limits);
        for shard in 1..=3 {
            assert_eq!(ask(&mut cluster, shard, 100, 0), Reply::Leased(100));
        }
        assert_eq!(ask(&mut cluster, 1, 100, 5), Reply::Leased(100), "it is used up");
        set(&mut cluster, Some("t"), "max_series", Some(400)).unwrap();
        let stale = LeaseRequest {
            tenant: "t".into(),
            shard: 1,
            epoch,
            held: 100,
            wanted: 1,
        };
        assert!(matches!(lease(&mut cluster, stale), Reply::Refused(_)));
        assert_eq!(ask(&mut cluster, 1, 100, 5), Reply::LeaseAwaits(vec![2, 3]));
        set(&mut cluster, Some("t"), "max_series", Some(0)).unwrap();
        assert_eq!(cluster.tenants.quota_epoch(&cluster.limits), 0);
        // Another tenant's limit puts this one into an epoch as well, without a limit of its own.
        set(&mut cluster, Some("u"), "max_series", Some(5)).unwrap();
        assert_eq!(ask(&mut cluster, 1, 100, 5), Reply::Leased(u64::MAX));
    }
}
