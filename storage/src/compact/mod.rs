//! Merging generations in the background.
//!
//! A merge reads live generations and ingests one of its own, to which nothing refers yet; apply, reads
//! and flushes go on meanwhile. [`Shard::begin_swap`] then proposes a meta row with the new generation in
//! place of its inputs, which takes effect like that of a flush: with the log's next synced batch. A
//! crash before it leaves the inputs, and reopening deletes the new rows; a crash after it leaves the new
//! generation, and reopening deletes the inputs. Readers that began before keep the inputs.
//!
//! The merged generation gets its number while the tombstones are looked at, and only if all of them are
//! durable: what they hide is left out, and the number is above their bounds; a deletion that comes later
//! has a higher bound and hides it in the result too.

mod merge;
mod plan;

use std::ops::ControlFlow;
use std::sync::Arc;

use roaring::RoaringBitmap;

use crate::error::StorageError;
use crate::flush::PendingFlush;
use crate::flushed::{Flushed, chunk_range};
use crate::meta::{Generation, ShardMeta};
use crate::shard::{Gate, Shard, delete_range};
use crate::slab::{GenerationWriter, WrittenGeneration};
use merge::Inputs;
use plan::Plan;

pub use plan::Merge;

/// A generation that is ingested and takes effect by [`Shard::begin_swap`]. Dropping it deletes it.
#[derive(Debug)]
pub struct MergedGeneration {
    shard: Arc<Shard>,
    number: u64,
    /// `None` when nothing was left of the inputs.
    generation: Option<Generation>,
    inputs: Vec<Generation>,
    epoch: u64,
    listed: bool,
}

impl MergedGeneration {
    /// How many generations it replaces.
    pub fn inputs(&self) -> usize {
        self.inputs.len()
    }

    /// How many samples it holds.
    pub fn samples(&self) -> u64 {
        self.generation.map_or(0, |generation| generation.samples)
    }
}

impl Drop for MergedGeneration {
    fn drop(&mut self) {
        if !self.listed {
            // Left over otherwise until the shard is opened the next time.
            let range = chunk_range(self.shard.key, self.number);
            let _ = delete_range(&self.shard.db, self.shard.key.shard, &range);
        }
    }
}

/// What is decided under the lock.
struct Begun {
    plan: Plan,
    number: u64,
    flushed: Arc<Flushed>,
    meta: ShardMeta,
    /// Series whose tenants keep samples for a shorter time than others, and from when on.
    shorter: Vec<(RoaringBitmap, i64)>,
}

impl Shard {
    /// Whether [`Self::merge`] would find generations to merge.
    pub fn merge_due(&self) -> bool {
        let state = self.state.read();
        plan::plan(state.flushed.generations(), state.clock.now_ms, Merge::Due).is_some()
    }

    /// Merges the generations of one bucket. Blocks for as long as that takes, and changes nothing that
    /// anyone sees. `pace` is told how many bytes were read since it was last called, may wait, and may
    /// break off. `None` when it did or when there is nothing to merge.
    pub fn merge(
        self: &Arc<Self>,
        merge: Merge,
        pace: &mut dyn FnMut(u64) -> ControlFlow<()>,
    ) -> Result<Option<MergedGeneration>, StorageError> {
        self.check_poison()?;
        let Some(begun) = self.begin_merge(merge) else {
            return Ok(None);
        };
        let Begun {
            plan,
            number,
            flushed,
            meta,
            shorter,
        } = begun;
        let mut merged = MergedGeneration {
            shard: self.clone(),
            number,
            generation: None,
            inputs: plan.inputs,
            epoch: meta.epoch,
            listed: false,
        };
        let inputs = Inputs {
            shard: self,
            flushed: &flushed,
            meta: &meta,
            shorter: &shorter,
            generations: &merged.inputs,
        };
        let writer = GenerationWriter::new(self, number, plan.level);
        let Some(mut written) = merge::merge(&inputs, writer, pace)? else {
            return Ok(None);
        };
        crash_point!("merge_before_ingest");
        written.as_mut().map_or(Ok(()), WrittenGeneration::ingest)?;
        crash_point!("merge_after_ingest");
        merged.generation = written.map(|written| written.generation);
        Ok(Some(merged))
    }

    fn begin_merge(&self, merge: Merge) -> Option<Begun> {
        let mut state = self.state.write();
        let meta = state.flushed.meta.clone()?;
        // A deletion that is not durable would be undone by the higher number.
        if *state.tombstones != meta.tombstones {
            return None;
        }
        let plan = plan::plan(&meta.generations, state.clock.now_ms, merge)?;
        let number = state.next_generation;
        state.next_generation += 1;
        // By the cuts that are durable: what a restart asks for has to be there.
        let cuts = meta.retentions.cuts(&meta.clock);
        let of_tenant = |(tenant, cut_ms): (&str, i64)| {
            let index = state.table.index(state.table.tenant(tenant)?)?;
            Some((index.all().clone(), cut_ms))
        };
        let shorter = cuts.filter_map(of_tenant).collect();
        Some(Begun {
            plan,
            number,
            flushed: state.flushed.clone(),
            shorter,
            meta,
        })
    }

    /// Proposes a meta row with a merged generation in place of its inputs, to be committed or aborted
    /// like a flush. `None` when that makes no sense any more, since a snapshot or the retention took
    /// the inputs away, or a flush is under way: the merged generation is then given up.
    pub fn begin_swap(
        self: &Arc<Self>,
        mut merged: MergedGeneration,
    ) -> Result<Option<PendingFlush>, StorageError> {
        self.check_poison()?;
        {
            let mut gate = self.gate.lock();
            if *gate != Gate::Idle {
                return Ok(None);
            }
            *gate = Gate::Flushing;
        }
        let pending = self.swapped(&merged);
        if pending.is_none() {
            self.open_gate();
        } else {
            merged.listed = true;
        }
        Ok(pending)
    }

    fn swapped(self: &Arc<Self>, merged: &MergedGeneration) -> Option<PendingFlush> {
        let state = self.state.read();
        let mut meta = state.flushed.meta.clone()?;
        let live = |input: &Generation| meta.generations.contains(input);
        if meta.epoch != merged.epoch || !merged.inputs.iter().all(live) {
            return None;
        }
        meta.generations.retain(|g| !merged.inputs.contains(g));
        meta.generations.extend(merged.generation);
        meta.generations.sort_by_key(|g| g.number);
        meta.next_generation = state.next_generation;
        meta.tombstones.prune(&meta.generations);
        let metrics = state.flushed.metrics.clone();
        drop(state);
        Some(PendingFlush::of_swap(self, meta, metrics, merged.number))
    }
}
