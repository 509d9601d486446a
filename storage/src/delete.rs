//! Applying a deletion: out of memory at once, hidden by a tombstone where it is flushed.

use std::sync::Arc;

use roaring::RoaringBitmap;

use crate::chunk::{self, Chunk, ChunkError};
use crate::entry::Deletion;
use crate::error::StorageError;
use crate::histogram_chunk;
use crate::series::SeriesChunks;
use crate::series_rows::SeriesState;
use crate::shard::{Frozen, Shard, State};
use crate::tombstones::Tombstone;

impl Shard {
    /// Deletes what the shard holds of the series that match, in the window. Which series and samples
    /// those are follows from the log alone; only where they lie differs between replicas.
    pub(crate) fn apply_deletion(&self, state: &mut State, deletion: &Deletion) -> Result<(), StorageError> {
        let (start_ms, end_ms) = (deletion.start_ms, deletion.end_ms);
        if start_ms > end_ms {
            return Ok(());
        }
        let cut_ms = state.cut_ms(&deletion.tenant);
        let mut series = matching(state, deletion);
        for id in matching_in_window(state, &mut series, start_ms, end_ms) {
            self.delete_from_head(state, id, (start_ms, end_ms), cut_ms)?;
        }
        if series.is_empty() {
            return Ok(());
        }
        if let Some(frozen) = state.frozen.take() {
            let kept = without_frozen(&frozen, &series, start_ms, end_ms)
                .map_err(StorageError::chunk(self.key.shard, 0))?;
            state.frozen = Some(Arc::new(kept));
        }
        // What a flush has frozen gets a generation older than the bound.
        let tombstone = Tombstone {
            series,
            start_ms,
            end_ms,
            before: state.next_generation,
        };
        Arc::make_mut(&mut state.tombstones).add(tombstone);
        Ok(())
    }

    fn delete_from_head(
        &self,
        state: &mut State,
        id: u64,
        (start_ms, end_ms): (i64, i64),
        cut_ms: i64,
    ) -> Result<(), StorageError> {
        let damaged = || StorageError::chunk(self.key.shard, id);
        let taken = state.table.take_head(id).map_err(damaged())?;
        let (kept, removed) = without(&taken.floats, start_ms, end_ms).map_err(damaged())?;
        if !kept.is_empty() {
            let _ = state.table.put_back(id, &kept);
        }
        state.head_samples = state.head_samples.saturating_sub(removed);
        let (kept, removed) = without_histograms(&taken.histograms, start_ms, end_ms).map_err(damaged())?;
        if !kept.is_empty() {
            state.table.put_back_histograms(id, &kept);
        }
        state.head_samples = state.head_samples.saturating_sub(removed);
        let Some(known) = state.table.state_of(id).filter(|s| s.newest_ms <= end_ms) else {
            return Ok(());
        };
        // Ids fit, see `SERIES_MAX`.
        let short = id as u32;
        if start_ms <= known.oldest_ms.max(cut_ms) {
            // Nothing is left: the series is as if it had never had a sample.
            let nothing = SeriesState {
                oldest_ms: i64::MAX,
                newest_ms: i64::MIN,
                newest_bits: 0,
            };
            // It is registered: it was found by its labels.
            let _ = state.table.restore(id, nothing);
            state.vacant.remove(short);
        } else if start_ms <= known.newest_ms {
            // The newest time goes on to order the series; the sample there is gone.
            state.vacant.insert(short);
        }
        Ok(())
    }
}

fn matching(state: &State, deletion: &Deletion) -> RoaringBitmap {
    let table = &state.table;
    let mut all = RoaringBitmap::new();
    let Some(index) = table
        .tenant(&deletion.tenant)
        .and_then(|number| table.index(number))
    else {
        return all;
    };
    for matchers in &deletion.matcher_sets {
        all |= index.resolve(matchers, Some(index.all()), |id| table.pairs_of(u64::from(id)));
    }
    all
}

/// Leaves only series that may have samples in the window, and lists them.
fn matching_in_window(state: &State, series: &mut RoaringBitmap, start_ms: i64, end_ms: i64) -> Vec<u64> {
    let table = &state.table;
    let inside = |id: &u32| {
        let id = u64::from(*id);
        let newest_ms = table.head(id).map_or(i64::MIN, |head| head.newest_ms);
        let oldest_ms = table.oldest_ms(id).unwrap_or(i64::MAX);
        oldest_ms <= end_ms && newest_ms >= start_ms
    };
    *series = series.iter().filter(inside).collect();
    series.iter().map(u64::from).collect()
}

fn without_frozen(
    frozen: &Frozen,
    series: &RoaringBitmap,
    start_ms: i64,
    end_ms: i64,
) -> Result<Frozen, ChunkError> {
    let mut samples = frozen.samples;
    let mut kept_of = |all: &SeriesChunks, without: Without| -> Result<SeriesChunks, ChunkError> {
        let mut kept = Vec::with_capacity(all.len());
        for (id, chunks) in all {
            let meant = u32::try_from(*id).is_ok_and(|id| series.contains(id));
            if !meant {
                kept.push((*id, chunks.clone()));
                continue;
            }
            let (chunks, removed) = without(chunks, start_ms, end_ms)?;
            samples = samples.saturating_sub(removed);
            if !chunks.is_empty() {
                kept.push((*id, chunks));
            }
        }
        Ok(kept)
    };
    Ok(Frozen {
        series: kept_of(&frozen.series, without)?,
        histograms: kept_of(&frozen.histograms, without_histograms)?,
        samples,
        bytes: frozen.bytes,
    })
}

/// Leaves the samples of a window out of chunks of one kind; says how many those were.
type Without = fn(&[Chunk], i64, i64) -> Result<(Vec<Chunk>, u64), ChunkError>;

/// The chunks of histograms without those of the window, and how many those were.
fn without_histograms(chunks: &[Chunk], start_ms: i64, end_ms: i64) -> Result<(Vec<Chunk>, u64), ChunkError> {
    let (mut kept, mut removed) = (Vec::with_capacity(chunks.len()), 0);
    for chunk in chunks {
        if !chunk.overlaps(start_ms, end_ms) {
            kept.push(chunk.clone());
            continue;
        }
        let mut samples = histogram_chunk::decode(&chunk.bytes)?;
        let before = samples.len();
        samples.retain(|(t, _)| !(start_ms..=end_ms).contains(t));
        removed += (before - samples.len()) as u64;
        kept.extend(histogram_chunk::encode_all(&samples));
    }
    Ok((kept, removed))
}

/// The chunks without the samples of the window, and how many those were.
fn without(chunks: &[Chunk], start_ms: i64, end_ms: i64) -> Result<(Vec<Chunk>, u64), ChunkError> {
    let (mut kept, mut removed) = (Vec::with_capacity(chunks.len()), 0);
    let mut samples = Vec::new();
    for chunk in chunks {
        if !chunk.overlaps(start_ms, end_ms) {
            kept.push(chunk.clone());
            continue;
        }
        samples.clear();
        chunk::decode(&chunk.bytes, |t, bits| {
            match (start_ms..=end_ms).contains(&t) {
                true => removed += 1,
                false => samples.push((t, bits)),
            }
            true
        })?;
        kept.extend(chunk::encode_all(&samples));
    }
    Ok((kept, removed))
}
