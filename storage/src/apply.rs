//! Applying log entries. Every decision depends on the entries alone; whether a sample lies in memory
//! or in RocksDB only changes where it is looked up.

use std::sync::Arc;

use bytes::Bytes;
use roaring::RoaringBitmap;

use crate::activity::{Activity, in_two_spans};
use crate::blocks::Blocks;
use crate::entry::{
    self, Command, EntryError, HistogramRow, PartOutcome, PartView, RejectReason, UNREGISTERED,
};
use crate::error::StorageError;
use crate::flushed::{Flushed, LookupCache};
use crate::head::{Head, find_in};
use crate::histogram_chunk;
use crate::histogram_head::encoded;
use crate::labels::Labels;
use crate::limits::Limits;
use crate::meta::Clock;
use crate::rows::{Db, ReplicaKey};
use crate::series::{SERIES_MAX, SeriesTable};
use crate::shard::{Frozen, LogPosition, Shard, State};
use crate::tombstones::Tombstones;

/// About what one head sample takes in memory.
const SAMPLE_BYTES: u64 = 4;
/// About what a late sample takes in its tree.
const LATE_BYTES: u64 = 32;
/// About what a histogram takes besides its encoded bytes.
const HISTOGRAM_BYTES: u64 = 64;

/// What an entry did, part by part.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ApplyOutcome {
    /// In the order of the entry's parts; empty for entries without parts.
    pub parts: Vec<PartOutcome>,
}

impl Shard {
    /// Applies one entry. Entries come in log order, each once.
    ///
    /// An error means failing I/O or an unreadable entry, never a rejected sample; after one the shard
    /// refuses all further work.
    pub fn apply(&self, position: LogPosition, entry: &[u8]) -> Result<ApplyOutcome, StorageError> {
        self.check_poison()?;
        let mut state = self.state.write();
        let result = self.check_order(&state, position).and_then(|()| {
            let parts = self.apply_entry(&mut state, position, entry)?;
            state.applied = Some(position);
            Ok(ApplyOutcome { parts })
        });
        drop(state);
        self.or_poison(result)
    }

    /// Applies an entry without content.
    pub fn apply_blank(&self, position: LogPosition) -> Result<(), StorageError> {
        self.apply_silent(position, |_| {})
    }

    /// Applies a change of membership, kept as opaque bytes for the log.
    pub fn apply_membership(&self, position: LogPosition, membership: Bytes) -> Result<(), StorageError> {
        self.apply_silent(position, |state| state.membership = Some(membership))
    }

    fn apply_silent(
        &self,
        position: LogPosition,
        change: impl FnOnce(&mut State),
    ) -> Result<(), StorageError> {
        self.check_poison()?;
        let mut state = self.state.write();
        let result = self.check_order(&state, position).map(|()| {
            change(&mut state);
            state.applied = Some(position);
        });
        drop(state);
        self.or_poison(result)
    }

    fn check_order(&self, state: &State, position: LogPosition) -> Result<(), StorageError> {
        match state.applied {
            Some(applied) if position.index <= applied.index => Err(StorageError::misuse(
                self.key.shard,
                format!(
                    "entry {} was applied after entry {}",
                    position.index, applied.index
                ),
            )),
            _ => Ok(()),
        }
    }

    fn apply_entry(
        &self,
        state: &mut State,
        position: LogPosition,
        bytes: &[u8],
    ) -> Result<Vec<PartOutcome>, StorageError> {
        let shard = self.key.shard;
        let unreadable = |source| StorageError::Entry {
            shard,
            index: position.index,
            source,
        };
        let entry = entry::decode(bytes).map_err(unreadable)?;
        let now_ms = if mutant!("apply_local_clock") {
            local_now_ms()
        } else {
            entry.now_ms
        };
        state.clock.advance(now_ms);
        self.apply_cut(state)?;
        let parts = match entry.command {
            Command::Limits(limits) => {
                state.clock.limits = Some(limits);
                state.quotas.enter(limits.quota_epoch);
                state.clock.advance(entry.now_ms);
                self.apply_cut(state)?;
                return Ok(Vec::new());
            }
            Command::Quota(tenant, quota) => {
                let epoch = state.clock.limits().quota_epoch;
                let registered = state.table.tenant_series(tenant);
                state.quotas.set(tenant, quota, epoch, registered);
                return Ok(Vec::new());
            }
            Command::Retentions(wanted) => {
                state.retentions.replace(wanted, &state.clock);
                state.tenant_cuts_due_ms = i64::MIN;
                self.apply_cut(state)?;
                return Ok(Vec::new());
            }
            Command::Delete(deletion) => {
                self.apply_deletion(state, &deletion)?;
                return Ok(Vec::new());
            }
            Command::Write(parts) => parts,
        };
        let mut outcomes = Vec::with_capacity(parts.len());
        for bytes in parts {
            let part = PartView::decode(bytes, &mut state.columns).map_err(unreadable)?;
            let mut outcome = PartOutcome::default();
            let limits = state.clock.limits();
            let quota = state.quotas.most(part.tenant, limits.quota_epoch);
            let registry = Registry {
                table: &mut state.table,
                activity: &mut state.activity,
                now_ms: state.clock.now_ms,
            };
            register(registry, &part, &limits, quota, &mut outcome).map_err(unreadable)?;
            outcomes.push(self.apply_part(state, &part, outcome)?);
        }
        Ok(outcomes)
    }

    /// Decides the samples of a part whose series are registered.
    fn apply_part(
        &self,
        state: &mut State,
        part: &PartView<'_>,
        mut outcome: PartOutcome,
    ) -> Result<PartOutcome, StorageError> {
        let limits = state.clock.limits();
        let quota = state.quotas.most(part.tenant, limits.quota_epoch);
        let tenant = state.table.tenant(part.tenant);
        let mut run = PartRun {
            rules: Rules::new(
                &state.clock,
                state.retentions.cut_ms(part.tenant, &state.clock),
                &limits,
            ),
            frozen: state.frozen.as_deref(),
            flushed: &state.flushed,
            lookups: &mut state.lookups,
            tombstones: &state.tombstones,
            vacant: &mut state.vacant,
            with_histograms: &mut state.with_histograms,
            db: &self.db,
            key: self.key,
            late: 0,
            histogram_bytes: 0,
        };
        let registration = Registration {
            part,
            limits: &limits,
            quota,
        };
        let columns = &state.columns;
        let samples = columns.refs.iter().zip(&columns.timestamps).zip(&columns.values);
        for (at, ((reference, timestamp_ms), value)) in samples.enumerate() {
            if let Some(later) = columns.refs.get(at + LOOK_AHEAD)
                && let entry::SeriesRef::Id(id) = entry::SeriesRef::of(*later)
            {
                state.table.prefetch(id);
            }
            let id = match entry::SeriesRef::of(*reference) {
                entry::SeriesRef::Id(id) => id,
                entry::SeriesRef::Ordinal(ordinal) => match outcome.new_ids[ordinal] {
                    UNREGISTERED => {
                        registration.reject(ordinal, &state.table, &mut outcome);
                        continue;
                    }
                    id => id,
                },
            };
            let Some((head, blocks)) = state.table.head_of(tenant, id) else {
                outcome.unknown_ids.push(id);
                continue;
            };
            let bits = if mutant!("canonical_nan") {
                canonical_bits(*value)
            } else {
                value.to_bits()
            };
            let verdict = if run.rules.in_order(*timestamp_ms, head.newest_ms) {
                // The path of nearly every sample.
                // A series has been active in the span of its newest sample.
                let newly_active = head.newest_ms == i64::MIN || in_two_spans(*timestamp_ms, head.newest_ms);
                head.append(blocks, *timestamp_ms, bits);
                if !newly_active {
                    outcome.stored += 1;
                    continue;
                }
                Verdict::Stored
            } else {
                run.decide((&mut *head, blocks), id, *timestamp_ms, Value::Float(bits))?
            };
            match verdict {
                Verdict::Stored => {
                    outcome.stored += 1;
                    state.table.note_oldest(id, *timestamp_ms);
                    state.activity.mark(id, *timestamp_ms);
                }
                Verdict::Duplicate => outcome.duplicates += 1,
                Verdict::Rejected(reason) => {
                    let newest_ms = head.newest_ms;
                    let table = &state.table;
                    outcome.reject(reason, || {
                        run.rules.describe(reason, table, id, *timestamp_ms, newest_ms)
                    });
                }
            }
        }
        // Floats first: of a series that has both in one part they count as sent before.
        for row in &part.histograms {
            let id = match entry::SeriesRef::of(row.series) {
                entry::SeriesRef::Id(id) => id,
                entry::SeriesRef::Ordinal(ordinal) => match outcome.new_ids[ordinal] {
                    UNREGISTERED => {
                        registration.reject(ordinal, &state.table, &mut outcome);
                        continue;
                    }
                    id => id,
                },
            };
            let head = state
                .table
                .head_mut(id)
                .filter(|(head, _)| Some(head.tenant) == tenant);
            let Some((head, blocks)) = head else {
                outcome.unknown_ids.push(id);
                continue;
            };
            match run.histogram((&mut *head, blocks), id, row)? {
                Verdict::Stored => {
                    outcome.stored += 1;
                    state.table.note_oldest(id, row.timestamp_ms);
                    state.activity.mark(id, row.timestamp_ms);
                }
                Verdict::Duplicate => outcome.duplicates += 1,
                Verdict::Rejected(reason) => {
                    let newest_ms = head.newest_ms;
                    let table = &state.table;
                    outcome.reject(reason, || {
                        run.rules.describe(reason, table, id, row.timestamp_ms, newest_ms)
                    });
                }
            }
        }
        state.head_samples += outcome.stored;
        state.head_bytes += outcome.stored * SAMPLE_BYTES + run.late * LATE_BYTES + run.histogram_bytes;
        outcome.unknown_ids.sort_unstable();
        outcome.unknown_ids.dedup();
        Ok(outcome)
    }
}

/// So many samples before its turn, what a sample is written to is fetched.
const LOOK_AHEAD: usize = 8;

/// What registering changes.
struct Registry<'a> {
    table: &'a mut SeriesTable,
    activity: &'a mut Activity,
    now_ms: i64,
}

/// What is said of a series that was not registered.
struct Registration<'a> {
    part: &'a PartView<'a>,
    limits: &'a Limits,
    quota: u64,
}

impl Registration<'_> {
    /// Refuses one sample of the series.
    #[cold]
    fn reject(&self, ordinal: usize, table: &SeriesTable, outcome: &mut PartOutcome) {
        let full = table.is_full(self.limits.max_series_per_shard);
        let reason = match full {
            true => RejectReason::SeriesLimit,
            false => RejectReason::TenantSeriesLimit,
        };
        outcome.reject(reason, || {
            describe_limit(self.part, ordinal, reason, self.limits, self.quota)
        });
    }
}

/// Gives every series of the part its id: the one it has, or the next. Checks the labels of those that
/// have none; the others' equal ones that were checked.
fn register(
    registry: Registry<'_>,
    part: &PartView<'_>,
    limits: &Limits,
    quota: u64,
    outcome: &mut PartOutcome,
) -> Result<(), EntryError> {
    let table = registry.table;
    if mutant!("ids_from_hash_order") {
        register_in_hash_order(table, part);
    }
    let mut of_tenant = match quota {
        u64::MAX => 0,
        _ => table.tenant_series(part.tenant),
    };
    outcome.new_ids.reserve(part.series.len());
    for bytes in &part.series {
        let registered = table.len();
        let room = registered.saturating_add(quota.saturating_sub(of_tenant));
        let id = table
            .find_or_register(part.tenant, bytes, limits.max_series_per_shard.min(room))
            .map_err(|_| entry::malformed("part", "a series' labels are not canonical"))?;
        if let Some(id) = id.filter(|_| table.len() > registered) {
            of_tenant += 1;
            registry.activity.mark(id, registry.now_ms);
        }
        outcome.new_ids.push(id.unwrap_or(UNREGISTERED));
    }
    Ok(())
}

/// Registers new series in the order in which a hash map of this process gives them.
fn register_in_hash_order(table: &mut SeriesTable, part: &PartView<'_>) {
    let series: std::collections::HashSet<&[u8]> = part.series.iter().map(|bytes| &bytes[..]).collect();
    for bytes in series {
        if table.find(part.tenant, bytes).is_none() {
            table.register(part.tenant, bytes);
        }
    }
}

/// The time of this machine instead of the log's.
fn local_now_ms() -> i64 {
    let since_epoch = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since_epoch.map_or(0, |since| i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}

/// One NaN for all, and no negative zero.
fn canonical_bits(value: f64) -> u64 {
    if value.is_nan() {
        return f64::NAN.to_bits();
    }
    (value + 0.0).to_bits()
}

fn describe_limit(
    part: &PartView<'_>,
    ordinal: usize,
    reason: RejectReason,
    limits: &Limits,
    quota: u64,
) -> String {
    let labels = Labels::from_canonical(part.series[ordinal]).unwrap_or_default();
    match reason {
        RejectReason::TenantSeriesLimit => format!(
            "{labels}: tenant {} has used up its quota of {quota} series on the shard",
            part.tenant
        ),
        _ => {
            let max = limits.max_series_per_shard.min(SERIES_MAX);
            format!("{labels}: the shard has its maximum of {max} series")
        }
    }
}

/// The bounds in force for one part.
#[derive(Clone, Copy, Debug)]
struct Rules {
    cut_ms: i64,
    ahead_ms: i64,
    ooo_window_ms: u64,
}

impl Rules {
    fn new(clock: &Clock, cut_ms: i64, limits: &Limits) -> Self {
        Self {
            cut_ms,
            ahead_ms: clock.now_ms.saturating_add_unsigned(limits.max_ahead_ms),
            ooo_window_ms: limits.ooo_window_ms,
        }
    }

    /// Whether a sample is later than the series' newest and within retention and lead.
    #[inline]
    fn in_order(&self, timestamp_ms: i64, newest_ms: i64) -> bool {
        timestamp_ms > newest_ms && timestamp_ms >= self.cut_ms && timestamp_ms <= self.ahead_ms
    }

    fn describe(
        &self,
        reason: RejectReason,
        table: &SeriesTable,
        id: u64,
        timestamp_ms: i64,
        newest_ms: i64,
    ) -> String {
        let labels = table.labels(id).unwrap_or_default();
        let bound = match reason {
            RejectReason::TooOld => format!("older than the retention, which begins at {}", self.cut_ms),
            RejectReason::OutOfOrder => format!(
                "older than the series' newest sample at {newest_ms} by more than the out-of-order window of {} ms",
                self.ooo_window_ms
            ),
            RejectReason::TooFarAhead => format!("later than the latest time accepted, {}", self.ahead_ms),
            RejectReason::DuplicateTimestamp => "another value is stored at this timestamp".to_owned(),
            RejectReason::SeriesLimit | RejectReason::TenantSeriesLimit => {
                "there is no room for another series".to_owned()
            }
        };
        format!("{labels} at {timestamp_ms}: {bound}")
    }
}

enum Verdict {
    Stored,
    Duplicate,
    Rejected(RejectReason),
}

/// What a sample says.
#[derive(Clone, Copy)]
enum Value<'a> {
    Float(u64),
    /// As [`crate::Histogram::encode`] writes it.
    Histogram(&'a [u8]),
}

/// What deciding the samples of one part needs.
struct PartRun<'a> {
    rules: Rules,
    frozen: Option<&'a Frozen>,
    flushed: &'a Flushed,
    lookups: &'a mut LookupCache,
    tombstones: &'a Tombstones,
    vacant: &'a mut RoaringBitmap,
    with_histograms: &'a mut RoaringBitmap,
    db: &'a Db,
    key: ReplicaKey,
    late: u64,
    histogram_bytes: u64,
}

impl PartRun<'_> {
    /// Decides a native histogram, and stores it if it is to be.
    fn histogram(
        &mut self,
        (head, blocks): (&mut Head, &mut Blocks),
        id: u64,
        row: &HistogramRow<'_>,
    ) -> Result<Verdict, StorageError> {
        let verdict = if self.rules.in_order(row.timestamp_ms, head.newest_ms) {
            head.append_histogram(blocks, row.timestamp_ms, row.encoded)
                .map_err(StorageError::chunk(self.key.shard, id))?;
            Verdict::Stored
        } else {
            self.decide(
                (head, blocks),
                id,
                row.timestamp_ms,
                Value::Histogram(row.encoded),
            )?
        };
        if matches!(verdict, Verdict::Stored) {
            self.histogram_bytes += row.encoded.len() as u64 + HISTOGRAM_BYTES;
            // Ids fit, see `SERIES_MAX`.
            self.with_histograms.insert(id as u32);
        }
        Ok(verdict)
    }

    /// Decides a sample that [`Rules::in_order`] does not take.
    fn decide(
        &mut self,
        (head, blocks): (&mut Head, &Blocks),
        id: u64,
        timestamp_ms: i64,
        value: Value<'_>,
    ) -> Result<Verdict, StorageError> {
        if timestamp_ms < self.rules.cut_ms || timestamp_ms == i64::MIN {
            // What is before the cut is gone, so presence cannot be asked there.
            return Ok(Verdict::Rejected(RejectReason::TooOld));
        }
        if timestamp_ms > head.newest_ms {
            return Ok(Verdict::Rejected(RejectReason::TooFarAhead));
        }
        if timestamp_ms < head.newest_ms {
            return self.decide_late((head, blocks), id, timestamp_ms, value);
        }
        match value {
            Value::Float(bits) if self.newest_is_known(id) => Ok(same_timestamp(head.newest_bits == bits)),
            _ => self.decide_newest((head, blocks), id, timestamp_ms, value),
        }
    }

    /// Whether the newest sample of a series is the float whose bits the head holds.
    fn newest_is_known(&self, id: u64) -> bool {
        // Ids fit, see `SERIES_MAX`.
        let id = id as u32;
        let doubtful = |set: &RoaringBitmap| !set.is_empty() && set.contains(id);
        !doubtful(self.vacant) && !doubtful(self.with_histograms)
    }

    /// A sample at the newest time of a series whose sample there may have been deleted, or where one of
    /// both is a histogram.
    fn decide_newest(
        &mut self,
        (head, blocks): (&mut Head, &Blocks),
        id: u64,
        timestamp_ms: i64,
        value: Value<'_>,
    ) -> Result<Verdict, StorageError> {
        let verdict = self.decide_late((&mut *head, blocks), id, timestamp_ms, value)?;
        if matches!(verdict, Verdict::Stored) {
            head.newest_bits = match value {
                Value::Float(bits) => bits,
                Value::Histogram(_) => 0,
            };
            self.vacant.remove(id as u32);
        }
        Ok(verdict)
    }

    /// A sample older than the series' newest: presence first, so that a resend is always harmless.
    fn decide_late(
        &mut self,
        (head, blocks): (&mut Head, &Blocks),
        id: u64,
        timestamp_ms: i64,
        value: Value<'_>,
    ) -> Result<Verdict, StorageError> {
        if let Some(same) = self.lookup((head, blocks), id, timestamp_ms, value)? {
            return Ok(same_timestamp(same));
        }
        if timestamp_ms < head.newest_ms.saturating_sub_unsigned(self.rules.ooo_window_ms) {
            return Ok(Verdict::Rejected(RejectReason::OutOfOrder));
        }
        if timestamp_ms > self.rules.ahead_ms {
            return Ok(Verdict::Rejected(RejectReason::TooFarAhead));
        }
        match value {
            Value::Float(bits) => head.insert_late(timestamp_ms, bits),
            Value::Histogram(encoded) => head.insert_late_histogram(timestamp_ms, encoded),
        }
        self.late += 1;
        Ok(Verdict::Stored)
    }

    /// Whether what is stored at a timestamp, if anything, is the value.
    fn lookup(
        &mut self,
        (head, blocks): (&Head, &Blocks),
        id: u64,
        timestamp_ms: i64,
        value: Value<'_>,
    ) -> Result<Option<bool>, StorageError> {
        if let Some(stored) = self.lookup_float((head, blocks), id, timestamp_ms)? {
            return Ok(Some(matches!(value, Value::Float(bits) if bits == stored)));
        }
        // Ids fit, see `SERIES_MAX`.
        if self.with_histograms.is_empty() || !self.with_histograms.contains(id as u32) {
            return Ok(None);
        }
        let stored = self.lookup_histogram(head, id, timestamp_ms)?;
        Ok(stored.map(|stored| matches!(value, Value::Histogram(encoded) if *encoded == *stored)))
    }

    fn lookup_float(
        &mut self,
        (head, blocks): (&Head, &Blocks),
        id: u64,
        timestamp_ms: i64,
    ) -> Result<Option<u64>, StorageError> {
        let shard = self.key.shard;
        if let Some(bits) = head
            .lookup(blocks, timestamp_ms)
            .map_err(StorageError::chunk(shard, id))?
        {
            return Ok(Some(bits));
        }
        let frozen = self.frozen.map_or(&[][..], |frozen| frozen.chunks_of(id));
        if let Some(bits) = find_in(frozen, timestamp_ms).map_err(StorageError::chunk(shard, id))? {
            return Ok(Some(bits));
        }
        let mask = self.tombstones.over(id);
        self.lookups
            .lookup(self.db, self.key, self.flushed, &mask, id, timestamp_ms)
    }

    fn lookup_histogram(
        &mut self,
        head: &Head,
        id: u64,
        timestamp_ms: i64,
    ) -> Result<Option<Arc<[u8]>>, StorageError> {
        let shard = self.key.shard;
        let damaged = || StorageError::chunk(shard, id);
        if let Some(histograms) = head.histograms()
            && let Some(stored) = histograms.lookup(timestamp_ms).map_err(damaged())?
        {
            return Ok(Some(stored));
        }
        let frozen = self.frozen.map_or(&[][..], |frozen| frozen.histograms_of(id));
        if let Some(stored) = histogram_chunk::find_in(frozen, timestamp_ms).map_err(damaged())? {
            return Ok(Some(encoded(&stored)));
        }
        let mask = self.tombstones.over(id);
        let stored =
            self.lookups
                .lookup_histogram(self.db, self.key, self.flushed, &mask, id, timestamp_ms)?;
        Ok(stored.map(|histogram| encoded(&histogram)))
    }
}

fn same_timestamp(same: bool) -> Verdict {
    match same {
        true => Verdict::Duplicate,
        false => Verdict::Rejected(RejectReason::DuplicateTimestamp),
    }
}
