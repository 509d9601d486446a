//! Retention of single tenants, shorter than that of all.
//!
//! What a tenant's samples are masked at follows from the log's time and from entries that set retentions,
//! so replicas agree on it. Rows that it hides go when they are merged.

use std::collections::BTreeMap;

use crate::entry::MAX_TENANT_BYTES;
use crate::meta::Clock;
use crate::varint::{Reader, put_bytes, put_i64, put_u64};

/// How long samples of tenants are kept, in milliseconds of the log's time. Who is not in it has the
/// retention of all.
pub type TenantRetentions = BTreeMap<String, u64>;

/// A tenant's own retention. `None` once it has none any more: what it hid stays hidden.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Own {
    retention_ms: Option<u64>,
    /// The cut when this was set.
    floor_ms: i64,
}

impl Own {
    fn cut_ms(&self, now_ms: i64) -> i64 {
        let cut_ms = self.retention_ms.map(|ms| now_ms.saturating_sub_unsigned(ms));
        self.floor_ms.max(cut_ms.unwrap_or(i64::MIN))
    }
}

/// Where the samples of tenants begin.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Retentions {
    by_tenant: BTreeMap<String, Own>,
}

impl Retentions {
    /// Samples of a tenant before it are gone. Never goes back.
    pub(crate) fn cut_ms(&self, tenant: &str, clock: &Clock) -> i64 {
        let own = self.by_tenant.get(tenant);
        clock
            .cut_ms
            .max(own.map_or(i64::MIN, |own| own.cut_ms(clock.now_ms)))
    }

    /// The tenants whose samples may begin later than those of others, with the cut.
    pub(crate) fn cuts(&self, clock: &Clock) -> impl Iterator<Item = (&str, i64)> {
        let own = self.by_tenant.iter();
        own.map(move |(tenant, own)| (tenant.as_str(), clock.cut_ms.max(own.cut_ms(clock.now_ms))))
    }

    /// The latest cut of any tenant.
    pub(crate) fn latest_cut_ms(&self, clock: &Clock) -> i64 {
        self.cuts(clock)
            .map(|(_, cut_ms)| cut_ms)
            .max()
            .unwrap_or(clock.cut_ms)
    }

    /// The log's time at which a tenant's cut that is now `cut_ms` reaches another time.
    pub(crate) fn reaches(&self, tenant: &str, time_ms: i64) -> i64 {
        let own = self.by_tenant.get(tenant).and_then(|own| own.retention_ms);
        own.map_or(i64::MAX, |ms| time_ms.saturating_add_unsigned(ms))
    }

    /// Takes up what an entry sets, for all tenants at once.
    pub(crate) fn replace(&mut self, wanted: TenantRetentions, clock: &Clock) {
        self.by_tenant.retain(|_, own| {
            own.floor_ms = own.cut_ms(clock.now_ms);
            own.retention_ms = None;
            own.floor_ms > clock.cut_ms
        });
        for (tenant, ms) in wanted {
            let floor_ms = i64::MIN;
            let own = self.by_tenant.entry(tenant).or_insert(Own {
                retention_ms: None,
                floor_ms,
            });
            own.retention_ms = Some(ms);
        }
    }

    /// What was set last.
    pub(crate) fn wanted(&self) -> impl Iterator<Item = (&str, u64)> {
        let own = self.by_tenant.iter();
        own.filter_map(|(tenant, own)| Some((tenant.as_str(), own.retention_ms?)))
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        put_u64(out, self.by_tenant.len() as u64);
        for (tenant, own) in &self.by_tenant {
            put_bytes(out, tenant.as_bytes());
            put_u64(out, own.retention_ms.unwrap_or(u64::MAX));
            put_i64(out, own.floor_ms);
        }
    }

    pub(crate) fn decode(reader: &mut Reader<'_>) -> Option<Self> {
        let mut by_tenant = BTreeMap::new();
        for _ in 0..reader.varint_usize().filter(|n| *n <= reader.remaining())? {
            let tenant = take_tenant(reader)?;
            let retention_ms = Some(reader.varint()?).filter(|ms| *ms < u64::MAX);
            let floor_ms = reader.varint_i64()?;
            by_tenant.insert(
                tenant,
                Own {
                    retention_ms,
                    floor_ms,
                },
            );
        }
        Some(Self { by_tenant })
    }
}

fn take_tenant(reader: &mut Reader<'_>) -> Option<String> {
    let tenant = std::str::from_utf8(reader.bytes()?).ok()?;
    (!tenant.is_empty() && tenant.len() <= MAX_TENANT_BYTES).then(|| tenant.to_owned())
}

/// Appends the body of the entry that sets retentions.
pub(crate) fn put_retentions(out: &mut Vec<u8>, retentions: &TenantRetentions) {
    put_u64(out, retentions.len() as u64);
    for (tenant, ms) in retentions {
        put_bytes(out, tenant.as_bytes());
        put_u64(out, *ms);
    }
}

/// Reads what [`put_retentions`] wrote.
pub(crate) fn take_retentions(reader: &mut Reader<'_>) -> Option<TenantRetentions> {
    let mut retentions = TenantRetentions::new();
    for _ in 0..reader.varint_usize().filter(|n| *n <= reader.remaining())? {
        let tenant = take_tenant(reader)?;
        retentions.insert(tenant, reader.varint().filter(|ms| *ms < u64::MAX)?);
    }
    Some(retentions)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR_MS: i64 = 3_600_000;

    fn clock(now_hours: i64, cut_hours: i64) -> Clock {
        Clock {
            now_ms: now_hours * HOUR_MS,
            cut_ms: cut_hours * HOUR_MS,
            limits: None,
        }
    }

    fn hours(of: &[(&str, i64)]) -> TenantRetentions {
        let of = of.iter();
        of.map(|(tenant, hours)| ((*tenant).to_owned(), (hours * HOUR_MS) as u64))
            .collect()
    }

    #[test]
    fn cuts_follow_the_time_and_never_go_back() {
        let mut all = Retentions::default();
        let cut = |all: &Retentions, tenant, clock| all.cut_ms(tenant, &clock) / HOUR_MS;
        assert_eq!(cut(&all, "a", clock(100, 20)), 20);
        all.replace(hours(&[("a", 10), ("b", 90)]), &clock(100, 20));
        assert_eq!(cut(&all, "a", clock(100, 20)), 90);
        assert_eq!(
            cut(&all, "b", clock(100, 20)),
            20,
            "that of all is the upper bound"
        );
        assert_eq!(cut(&all, "c", clock(100, 20)), 20);
        assert_eq!(all.reaches("a", 95 * HOUR_MS), 105 * HOUR_MS);
        assert_eq!(all.latest_cut_ms(&clock(101, 21)), 91 * HOUR_MS);
        // Longer again, then none of its own: what is gone stays gone until that of all passes it.
        all.replace(hours(&[("a", 50)]), &clock(101, 21));
        assert_eq!(cut(&all, "a", clock(110, 30)), 91);
        assert_eq!(all.wanted().collect::<Vec<_>>(), [("a", 50 * HOUR_MS as u64)]);
        all.replace(TenantRetentions::new(), &clock(110, 30));
        assert_eq!(all.wanted().count(), 0);
        assert_eq!(cut(&all, "a", clock(170, 90)), 91);
        assert_eq!(all.reaches("a", 95 * HOUR_MS), i64::MAX);
        let mut bytes = Vec::new();
        all.encode(&mut bytes);
        assert_eq!(Retentions::decode(&mut Reader::new(&bytes)), Some(all.clone()));
        all.replace(TenantRetentions::new(), &clock(172, 92));
        assert_eq!(all, Retentions::default(), "nothing is left to remember");
    }
}
