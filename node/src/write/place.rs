//! Sorts a request's series into one part for each shard: known series as ids, others with labels.

use quorate_ingest::{Batch, CacheHasher, DecodeLimits, SeriesError};
use quorate_storage::PartBuilder;

use super::histogram::histograms_of;
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
        let mut cached = self.cache.look_up();
        let salt = self.hasher.hash(self.tenant.as_bytes());
        let mut canonical = Vec::new();
        for (position, series) in (0u32..).zip(batch.iter()) {
            refuse_unsupported(&mut request.refused, series.exemplars().len() as u64);
            let histograms = histograms_of(&series, &mut request.refused);
            if series.timestamps().is_empty() && histograms.is_empty() {
                continue;
            }
            let key = self.hasher.hash(series.raw_labels()) ^ salt;
            let (shard, id) = match cached.get(key) {
                Some(known) => (known.shard, Some(known.id)),
                None => match self.look_up(&series, &mut canonical) {
                    Ok((shard, id)) => {
                        if let Some(id) = id {
                            cached.learn(key, KnownSeries { shard, id });
                        }
                        (shard, id)
                    }
                    Err(e) => {
                        let samples = (series.timestamps().len() + histograms.len()) as u64;
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
                    for (ts, histogram) in &histograms {
                        part.builder.known_histogram(id, *ts, histogram);
                    }
                    Name::Known(id)
                }
                None => {
                    let ordinal = part.builder.series(&canonical);
                    samples.for_each(|(ts, value)| part.builder.sample(ordinal, *ts, *value));
                    for (ts, histogram) in &histograms {
                        part.builder.histogram(ordinal, *ts, histogram);
                    }
                    Name::New(ordinal)
                }
            };
            part.series.push(Placed { position, key, name });
        }
        let learnt = cached.finish();
        self.cache.insert(learnt);
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
            // What is refused was counted when the request was placed.
            for (ts, histogram) in histograms_of(&source, &mut Vec::new()) {
                builder.histogram(ordinal, ts, &histogram);
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

fn refuse_unsupported(refused: &mut Vec<Refused>, exemplars: u64) {
    if exemplars > 0 {
        refuse(refused, "exemplar_unsupported", exemplars, || {
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use crate::clock::SystemClock;
    use crate::cluster::meta::test_cluster;
    use crate::cluster::{Gate, View};
    use crate::config::WriteConfig;
    use crate::write::BatchLimits;
    use quorate_ring::{Ring, ShardWeight, shard_key};
    use quorate_storage::{Labels, check_part};

    const SHARDS: u32 = 8;

    struct Bench {
        view: View,
        shards: Arc<Shards>,
        cache: SeriesCache,
        hasher: CacheHasher,
        limits: DecodeLimits,
    }

    impl Bench {
        fn new() -> Bench {
            let mut cluster = test_cluster();
            let weights: Vec<_> = (1..=SHARDS)
                .map(|shard| ShardWeight { shard, weight: 1.0 })
                .collect();
            cluster.ring = Ring::build(1, 8, &weights).unwrap().encode();
            let limits = BatchLimits::new(&WriteConfig::default());
            Bench {
                view: View::new(&cluster).unwrap(),
                shards: Shards::new(limits, Arc::new(Gate::new(Arc::new(SystemClock)))),
                cache: SeriesCache::new(1_000),
                hasher: CacheHasher::new(7),
                limits: DecodeLimits::DEFAULT,
            }
        }

        fn placer<'a>(&'a self, tenant: &'a str) -> Placer<'a> {
            let Bench {
                view,
                shards,
                cache,
                hasher,
                limits,
            } = self;
            Placer {
                view,
                shards,
                cache,
                hasher,
                limits,
                tenant,
            }
        }
    }

    fn batch(series: &[Vec<(&str, &str)>]) -> Batch {
        let mut batch = Batch::default();
        for labels in series {
            batch
                .push_series(
                    labels.iter().copied(),
                    [(1, 1.0), (2, 2.0)],
                    &DecodeLimits::DEFAULT,
                )
                .unwrap();
        }
        batch
    }

    #[test]
    fn every_series_goes_to_the_shard_of_its_key() {
        let bench = Bench::new();
        let names: Vec<String> = (0..100).map(|n| format!("m{n}")).collect();
        // The order of labels as they came is kept in the request, not in the key.
        let series: Vec<_> = names
            .iter()
            .map(|n| vec![("job", "a"), ("__name__", n.as_str())])
            .collect();
        let placed = bench.placer("t").place(&batch(&series));
        assert!(placed.refused.is_empty());
        let mut seen = 0;
        for part in placed.parts {
            for one in &part.series {
                let metric = names[one.position as usize].as_str();
                let labels = Labels::from_pairs([("__name__", metric), ("job", "a")]).unwrap();
                let key = shard_key("t", Some("a"), None, metric, labels.as_bytes(), 8);
                assert_eq!(bench.view.ring.shard_of_key(key), part.shard);
                seen += 1;
            }
            let (samples, bytes) = (part.series.len() as u64 * 2, part.builder.finish());
            let info = check_part(&bytes).unwrap();
            assert_eq!((info.samples, info.ring_epoch), (samples, 1));
        }
        assert_eq!(seen, names.len());
    }

    #[test]
    fn known_series_travel_as_ids_until_their_labels_are_asked_for() {
        let bench = Bench::new();
        let request = batch(&[vec![("__name__", "up")]]);
        let placer = bench.placer("t");
        let first = placer.place(&request).parts.remove(0);
        assert_eq!(first.series[0].name, Name::New(0));
        let known = KnownSeries {
            shard: first.shard,
            id: 42,
        };
        bench.cache.insert([(first.series[0].key, known)]);
        let second = placer.place(&request).parts.remove(0);
        assert_eq!(
            (second.shard, second.series[0].name),
            (first.shard, Name::Known(42))
        );
        assert!(second.builder.finish().len() < first.builder.finish().len());
        let again = placer.with_labels(&request, second.shard, &second.series);
        assert_eq!(again.series[0].name, Name::New(0));
        assert_eq!(again.builder.samples(), 2);
    }

    #[test]
    fn tenants_do_not_share_ids() {
        let bench = Bench::new();
        let request = batch(&[vec![("__name__", "up")]]);
        let part = bench.placer("t").place(&request).parts.remove(0);
        let known = KnownSeries {
            shard: part.shard,
            id: 42,
        };
        bench.cache.insert([(part.series[0].key, known)]);
        let other = bench.placer("u").place(&request).parts.remove(0);
        assert_eq!(other.series[0].name, Name::New(0));
    }

    #[test]
    fn bad_series_are_refused_by_reason_and_the_rest_is_kept() {
        let bench = Bench::new();
        let series = vec![
            vec![("__name__", "good")],
            vec![("job", "a")],
            vec![("job", "b")],
            vec![("__name__", "x"), ("a", "1"), ("a", "2")],
        ];
        let placed = bench.placer("t").place(&batch(&series));
        let kept: usize = placed.parts.iter().map(|p| p.series.len()).sum();
        assert_eq!(kept, 1);
        let refused: BTreeMap<_, _> = placed.refused.iter().map(|r| (r.reason, r.samples)).collect();
        assert_eq!(
            refused,
            BTreeMap::from([("missing_metric_name", 4), ("duplicate_label_name", 2)])
        );
    }
}
