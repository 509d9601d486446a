//! How many series a shard may register for each tenant. The cluster's limit of a tenant is shared out
//! to shards as quotas, whose sum never exceeds it. Quotas come by the log, so every replica of a shard
//! refuses the same series.

use std::collections::BTreeMap;

use crate::varint::{Reader, put_bytes, put_u64};

/// A shard's share of a tenant's limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quota {
    /// The setting of limits that it belongs to; see [`crate::Limits::quota_epoch`].
    pub epoch: u64,
    /// Series that may be registered, those that are included. `u64::MAX`: any number.
    pub series: u64,
}

/// The quotas of all tenants.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Quotas {
    by_tenant: BTreeMap<String, Quota>,
}

impl Quotas {
    /// The quota of a tenant in an epoch.
    pub(crate) fn get(&self, tenant: &str, epoch: u64) -> Option<u64> {
        let quota = self.by_tenant.get(tenant).filter(|quota| quota.epoch == epoch);
        quota.map(|quota| quota.series)
    }

    /// How many series a tenant may have here.
    pub(crate) fn most(&self, tenant: &str, epoch: u64) -> u64 {
        match epoch {
            0 => u64::MAX,
            epoch => self.get(tenant, epoch).unwrap_or(0),
        }
    }

    /// Takes a quota up if it belongs to the epoch in force. Within an epoch quotas only grow, and never
    /// below the `registered` series: whoever shares the limit out has to count those.
    pub(crate) fn set(&mut self, tenant: &str, quota: Quota, epoch: u64, registered: u64) {
        if quota.epoch != epoch || epoch == 0 {
            return;
        }
        let held = self.get(tenant, epoch).unwrap_or(registered);
        let series = quota.series.max(held);
        self.by_tenant.insert(tenant.to_owned(), Quota { epoch, series });
    }

    /// Forgets quotas of other epochs.
    pub(crate) fn enter(&mut self, epoch: u64) {
        self.by_tenant.retain(|_, quota| quota.epoch == epoch);
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        put_u64(out, self.by_tenant.len() as u64);
        for (tenant, quota) in &self.by_tenant {
            put_bytes(out, tenant.as_bytes());
            put_u64(out, quota.epoch);
            put_u64(out, quota.series);
        }
    }

    pub(crate) fn decode(reader: &mut Reader<'_>) -> Option<Self> {
        let count = reader.varint_usize().filter(|n| *n <= reader.remaining())?;
        let mut by_tenant = BTreeMap::new();
        for _ in 0..count {
            let tenant = std::str::from_utf8(reader.bytes()?).ok()?.to_owned();
            let (epoch, series) = (reader.varint()?, reader.varint()?);
            by_tenant.insert(tenant, Quota { epoch, series });
        }
        Some(Self { by_tenant })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotas_of_another_epoch_do_not_count() {
        let mut quotas = Quotas::default();
        let quota = |epoch, series| Quota { epoch, series };
        assert_eq!(quotas.most("t", 0), u64::MAX, "no tenant is limited");
        assert_eq!(quotas.most("t", 1), 0, "nothing is shared out yet");
        quotas.set("t", quota(2, 10), 1, 0);
        assert_eq!(quotas.most("t", 1), 0, "of an epoch that is not in force");
        // The first of an epoch fixes what there is, so that it can be counted.
        quotas.set("t", quota(1, 0), 1, 7);
        assert_eq!(quotas.most("t", 1), 7);
        quotas.set("t", quota(1, 9), 1, 7);
        quotas.set("t", quota(1, 8), 1, 7);
        assert_eq!(quotas.most("t", 1), 9, "an older grant comes late");
        quotas.enter(3);
        quotas.set("t", quota(1, 100), 3, 9);
        assert_eq!((quotas.get("t", 3), quotas.most("t", 3)), (None, 0));
        let mut bytes = Vec::new();
        quotas.set("t", quota(3, u64::MAX), 3, 9);
        quotas.encode(&mut bytes);
        assert_eq!(Quotas::decode(&mut Reader::new(&bytes)), Some(quotas));
    }
}
