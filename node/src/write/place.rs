//! Sorts a request's series into one part for each shard: known series as ids, others with labels.

use quorate_ingest::{Batch, CacheHasher, DecodeLimits, SeriesError};
use quorate_storage::PartBuilder;

use super::series_cache::{KnownSeries, SeriesCache};
use crate::api::Refused;
use crate::cluster::View;
use crate::shards::Shards;

/// What placing needs to know of the node.
pub(super) struct Placer<'a> {
    /// Ring and limits.
    pub view: &'a View,
    /// Local replicas, for ids of series that the cache lacks.
    pub shards: &'a Shards,
    /// Ids by hash of raw label bytes.
    pub cache: &'a SeriesCache,
    /// Makes the cache's keys.
    pub hasher: &'a CacheHasher,
    /// Limits of one series.
    pub limits: &'a DecodeLimits,
    /// The request's tenant.
    pub tenant: &'a str,
}

/// A series of the request and its place in a part.
#[derive(Debug, Clone, Copy)]
pub(super) struct Placed {
    /// Its position in the request.
    pub position: u32,
    /// Its key in the series cache.
    pub key: u128,
    /// How the part names it.
    pub name: Name,
}

/// How a part names a series.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Name {
    /// By the id that the shard gave it.
    Known(u64),
    /// By labels, under this ordinal of the part.
    New(u32),
}

/// The part of a request that one shard gets.
pub(super) struct ShardPart {
    /// The shard.
    pub shard: u32,
    /// The encoded samples, in the making.
    pub builder: PartBuilder,
    /// The series in it.
    pub series: Vec<Placed>,
}

/// A request, placed.
#[derive(Default)]
pub(super) struct PlacedRequest {
    /// One for each shard touched.
    pub parts: Vec<ShardPart>,
    /// What is refused before any shard sees it.
    pub refused: Vec<Refused>,
}

impl Placer<'_> {
    /// Places every series of `batch`.
    pub(super) fn place(&self, batch: &Batch) -> PlacedRequest {
        let mut request = PlacedRequest::default();
        // Shards are few and numbered from 1: position + 1 in `parts`, 0 for none yet.
        let mut part_of: Vec<usize> = Vec::new();
        let salt = self.hasher.hash(self.tenant.as_bytes());
        let mut canonical = Vec::new();
        for (position, series) in (0u32..).zip(batch.iter()) {
            refuse_unsupported(&mut request.refused, series.histograms(), series.exemplars());
            if series.timestamps().is_empty() {
                continue;
            }
            let key = self.hasher.hash(series.raw_labels()) ^ salt;
            let (shard, id) = match self.cache.get(key) {
                Some(known) => (known.shard, Some(known.id)),
                None => match self.look_up(&series, key, &mut canonical) {
                    Ok(found) => found,
                    Err(e) => {
                        let samples = series.timestamps().len() as u64;
                        refuse(&mut request.refused, e.reason.as_str(), samples, || e.detail);
                        continue;
                    }
                },
            };
            let part = self.part(&mut request.parts, &mut part_of, shard);
            let samples = series.timestamps().iter().zip(series.values());
            let name = match id {
                Some(id) => {
                    samples.for_each(|(ts, value)| part.builder.known(id, *ts, *value));
                    Name::Known(id)
                }
                None => {
                    let ordinal = part.builder.series(&canonical);
                    samples.for_each(|(ts, value)| part.builder.sample(ordinal, *ts, *value));
                    Name::New(ordinal)
                }
            };
            part.series.push(Placed { position, key, name });
        }
        request
    }

    /// A part that carries the labels of `series`, because the shard does not know their ids.
    pub(super) fn with_labels(&self, batch: &Batch, shard: u32, series: &[Placed]) -> ShardPart {
        let mut builder = PartBuilder::new(self.tenant, self.view.ring.epoch());
        let mut canonical = Vec::new();
        let mut placed = Vec::with_capacity(series.len());
        for one in series {
            let Some(source) = batch.get(one.position as usize) else {
                continue;
            };
            // These labels were valid when the id was learnt, so they still are, unless limits shrank;
            // then the shard keeps what it has and the series stays out.
            if source.canonicalize(self.limits, &mut canonical).is_err() {
                continue;
            }
            let ordinal = builder.series(&canonical);
            for (ts, value) in source.timestamps().iter().zip(source.values()) {
                builder.sample(ordinal, *ts, *value);
            }
            placed.push(Placed {
                name: Name::New(ordinal),
                ..*one
            });
        }
        ShardPart {
            shard,
            builder,
            series: placed,
        }
    }

    /// The shard of a series that the cache lacks and, when the local replica has applied its
    /// registration, its id. `canonical` holds its labels afterwards.
    fn look_up(
        &self,
        series: &quorate_ingest::SeriesRef<'_>,
        key: u128,
        canonical: &mut Vec<u8>,
    ) -> Result<(u32, Option<u64>), SeriesError> {
        let labels = series.canonicalize(self.limits, canonical)?;
        let by = labels.shard_labels();
        let ring = &self.view.ring;
        let hash = quorate_ring::shard_key(
            self.tenant,
            by.job,
            by.instance,
            by.metric,
            labels.as_bytes(),
            ring.spread(),
        );
        let shard = ring.shard_of_key(hash);
        let local = self.shards.get(shard);
        let id = local.and_then(|r| r.storage().find_series(self.tenant, labels.as_bytes()));
        if let Some(id) = id {
            self.cache.insert(key, KnownSeries { shard, id });
        }
        Ok((shard, id))
    }

    fn part<'p>(
        &self,
        parts: &'p mut Vec<ShardPart>,
        part_of: &mut Vec<usize>,
        shard: u32,
    ) -> &'p mut ShardPart {
        let slot = shard as usize;
        if part_of.len() <= slot {
            part_of.resize(slot + 1, 0);
        }
        if part_of[slot] == 0 {
            let builder = PartBuilder::new(self.tenant, self.view.ring.epoch());
            parts.push(ShardPart {
                shard,
                builder,
                series: Vec::new(),
            });
            part_of[slot] = parts.len();
        }
        &mut parts[part_of[slot] - 1]
    }
}

fn refuse_unsupported(refused: &mut Vec<Refused>, histograms: u32, exemplars: u32) {
    if histograms > 0 {
        refuse(refused, "native_histogram_unsupported", histograms.into(), || {
            "native histograms are not stored yet; send classic histograms".into()
        });
    }
    if exemplars > 0 {
        refuse(refused, "exemplar_unsupported", exemplars.into(), || {
            "exemplars are not stored yet; turn off send_exemplars".into()
        });
    }
}

/// Adds to the refusals of a request.
pub(super) fn refuse(
    refused: &mut Vec<Refused>,
    reason: &'static str,
    samples: u64,
    first: impl FnOnce() -> String,
) {
    match refused.iter_mut().find(|r| r.reason == reason) {
        Some(known) => known.samples += samples,
        None => refused.push(Refused {
            reason,
            samples,
            first: first(),
        }),
    }
}
