use proptest::prelude::*;

use super::*;
use crate::histogram::Histogram;
use crate::labels::Labels;

fn labels(job: &str) -> Labels {
    Labels::from_pairs([("__name__", "up"), ("job", job)]).unwrap()
}

fn sample_part() -> Bytes {
    let mut part = PartBuilder::new("acme", 7);
    for id in 10..14 {
        part.known(id, 1_700_000_000_000, id as f64 * 1.5);
    }
    part.known(3, 1_700_000_015_000, f64::from_bits(STALE_NAN_BITS));
    let a = part.series(labels("a").as_bytes());
    for step in 0..3 {
        part.sample(a, 1_700_000_000_000 + step * 15_000, 12345.67);
    }
    part.finish()
}

/// `(reference, timestamp, bits)` of every sample.
fn samples_of(part: &[u8]) -> Vec<(SeriesRef, i64, u64)> {
    let mut columns = Columns::default();
    PartView::decode(part, &mut columns).unwrap();
    let rows = columns.refs.iter().zip(&columns.timestamps).zip(&columns.values);
    rows.map(|((r, t), v)| (SeriesRef::of(*r), *t, v.to_bits()))
        .collect()
}

#[test]
fn golden_write_entry() {
    let entry = encode_write_entry(1_700_000_020_000, &[sample_part(), sample_part()]);
    crate::golden::check("entry-write-v1", &entry);
    let decoded = decode(&entry).unwrap();
    assert_eq!(decoded.now_ms, 1_700_000_020_000);
    let Command::Write(parts) = decoded.command else {
        panic!("not a write")
    };
    assert_eq!(parts, [sample_part(), sample_part()]);
    let info = check_part(parts[0]).unwrap();
    assert_eq!(
        info,
        PartInfo {
            tenant: "acme".into(),
            ring_epoch: 7,
            samples: 8,
            new_series: 1
        }
    );
}

fn part_with_histograms() -> Bytes {
    let mut part = PartBuilder::new("acme", 7);
    part.known(10, 1_700_000_000_000, 1.5);
    let a = part.series(labels("a").as_bytes());
    let mut histogram = Histogram {
        count: 12.0,
        zero_count: 12.0,
        sum: 18.4,
        ..Histogram::default()
    };
    for step in 0..3 {
        part.histogram(a, 1_700_000_000_000 + step * 15_000, &histogram);
        histogram.sum += 0.25;
    }
    part.known_histogram(3, 1_700_000_015_000, &Histogram::stale());
    part.known_histogram(4, 1_700_000_015_000, &histogram);
    part.finish()
}

#[test]
fn golden_write_entry_with_histograms() {
    let entry = encode_write_entry(1_700_000_020_000, &[part_with_histograms()]);
    crate::golden::check("entry-write-histograms-v2", &entry);
    let part = part_with_histograms();
    let mut columns = Columns::default();
    let view = PartView::decode(&part, &mut columns).unwrap();
    assert_eq!(columns.values, [1.5]);
    let rows: Vec<_> = view
        .histograms
        .iter()
        .map(|row| {
            (
                SeriesRef::of(row.series),
                row.timestamp_ms,
                Histogram::decode(row.encoded).unwrap().sum,
            )
        })
        .collect();
    let base = 1_700_000_000_000;
    assert_eq!(
        rows[..3],
        [
            (SeriesRef::Ordinal(0), base, 18.4),
            (SeriesRef::Ordinal(0), base + 15_000, 18.65),
            (SeriesRef::Ordinal(0), base + 30_000, 18.9),
        ]
    );
    assert_eq!(rows[3].2.to_bits(), STALE_NAN_BITS);
    assert_eq!((rows[3].0, rows[4].0), (SeriesRef::Id(3), SeriesRef::Id(4)));
}

#[test]
fn golden_limits_entry() {
    let entry = encode_limits_entry(-5, &Limits::default());
    crate::golden::check("entry-limits-v2", &entry);
    let decoded = decode(&entry).unwrap();
    assert_eq!(decoded.now_ms, -5);
    assert!(matches!(decoded.command, Command::Limits(limits) if limits == Limits::default()));
}

#[test]
fn golden_outcome() {
    let mut outcome = PartOutcome {
        stored: 5,
        duplicates: 2,
        ..PartOutcome::default()
    };
    outcome.new_ids = vec![1, UNREGISTERED, 300];
    outcome.unknown_ids = vec![9];
    outcome.reject(RejectReason::OutOfOrder, || "first".into());
    outcome.reject(RejectReason::TooOld, || "old".into());
    outcome.reject(RejectReason::OutOfOrder, || panic!("only the first is described"));
    assert_eq!(outcome.rejections[1].samples, 2);
    let mut bytes = Vec::new();
    outcome.encode(&mut bytes);
    crate::golden::check("outcome-v1", &bytes);
    bytes.push(0xaa);
    assert_eq!(PartOutcome::decode(&bytes).unwrap(), (outcome, &[0xaa][..]));
}

#[test]
fn a_scrape_is_one_run() {
    let mut part = PartBuilder::new("t", 1);
    for id in 1..=1000 {
        part.known(id, 5, 1.0);
    }
    assert!(part.finish().len() < 1030);
}

proptest! {
    #[test]
    fn parts_round_trip(
        samples in proptest::collection::vec((any::<bool>(), 0u64..6, prop_oneof![0i64..4, any::<i64>()], any::<u64>()), 0..60)
    ) {
        let mut part = PartBuilder::new("tenant", 3);
        for job in ["a", "b", "c", "d", "e", "f"] {
            part.series(labels(job).as_bytes());
        }
        let mut expected = Vec::new();
        for (known, series, timestamp, bits) in samples {
            let value = f64::from_bits(bits);
            if known {
                let id = series * series + 1;
                part.known(id, timestamp, value);
                expected.push((SeriesRef::Id(id), timestamp, bits));
            } else {
                part.sample(series as u32, timestamp, value);
                expected.push((SeriesRef::Ordinal(series as usize), timestamp, bits));
            }
        }
        prop_assert_eq!(part.samples(), expected.len() as u64);
        prop_assert_eq!(samples_of(&part.finish()), expected);
    }

    #[test]
    fn damaged_entries_are_refused(at in 0usize..200, xor in 1u8..=255, cut in 0usize..200) {
        let entry = encode_write_entry(1, &[sample_part()]).to_vec();
        let mut damaged = entry.clone();
        let at = at % entry.len();
        damaged[at] ^= xor;
        prop_assert!(decode(&damaged).is_err());
        prop_assert!(decode(&entry[..cut % entry.len()]).is_err());
    }

    #[test]
    fn parts_with_histograms_round_trip(
        histograms in proptest::collection::vec(
            (any::<bool>(), 0u64..4, prop_oneof![0i64..4, any::<i64>()], crate::histogram::tests::histograms()),
            1..20,
        )
    ) {
        let mut part = PartBuilder::new("tenant", 3);
        for job in ["a", "b", "c", "d"] {
            part.series(labels(job).as_bytes());
        }
        part.known(1, 2, 3.0);
        let mut expected = Vec::new();
        for (known, series, timestamp, histogram) in histograms {
            if known {
                let id = series * series + 1;
                part.known_histogram(id, timestamp, &histogram);
                expected.push((SeriesRef::Id(id), timestamp, histogram));
            } else {
                part.histogram(series as u32, timestamp, &histogram);
                expected.push((SeriesRef::Ordinal(series as usize), timestamp, histogram));
            }
        }
        prop_assert_eq!(part.samples(), expected.len() as u64 + 1);
        let bytes = part.finish();
        let view = PartView::decode(&bytes, &mut Columns::default()).unwrap();
        let rows = view.histograms.iter();
        let found: Vec<_> = rows
            .map(|row| (SeriesRef::of(row.series), row.timestamp_ms, Histogram::decode(row.encoded).unwrap()))
            .collect();
        prop_assert_eq!(found, expected);
    }

    #[test]
    fn damaged_parts_never_panic(
        changes in proptest::collection::vec((0usize..200, any::<u8>()), 1..4),
        cut in 0usize..200,
        with_histograms: bool,
    ) {
        let part = if with_histograms { part_with_histograms() } else { sample_part() };
        let mut part = part.to_vec();
        let len = part.len();
        for (at, byte) in changes {
            part[at % len] = byte;
        }
        part.truncate(len - (cut % len) / 50);
        let mut columns = Columns::default();
        if PartView::decode(&part, &mut columns).is_ok() {
            prop_assert_eq!(columns.refs.len(), columns.values.len());
            prop_assert_eq!(columns.refs.len(), columns.timestamps.len());
        }
    }

    #[test]
    fn garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
        let _ = decode(&bytes);
        let _ = PartOutcome::decode(&bytes);
        let mut columns = Columns::default();
        let mut part = vec![1, 1, b't'];
        part.extend(&bytes);
        let _ = PartView::decode(&part, &mut columns);
    }
}

#[test]
fn golden_quota_entry() {
    let quota = Quota {
        epoch: 3,
        series: 5_000,
    };
    let entry = encode_quota_entry(1_700_000_020_000, "acme", quota);
    crate::golden::check("entry-quota-v1", &entry);
    let decoded = decode(&entry).unwrap();
    assert!(matches!(decoded.command, Command::Quota("acme", found) if found == quota));
    assert!(decode(&encode_quota_entry(0, "", quota)).is_err());
}

#[test]
fn golden_retentions_entry() {
    let retentions: crate::TenantRetentions = [("acme".into(), 86_400_000), ("zoo".into(), 3_600_000)].into();
    let entry = encode_retentions_entry(1_700_000_020_000, &retentions);
    crate::golden::check("entry-retentions-v1", &entry);
    let decoded = decode(&entry).unwrap();
    assert!(matches!(decoded.command, Command::Retentions(found) if found == retentions));
    for bad in [("", 1), ("acme", u64::MAX)] {
        let retentions = [(bad.0.to_owned(), bad.1)].into();
        assert!(decode(&encode_retentions_entry(0, &retentions)).is_err());
    }
}

fn sample_deletion() -> Deletion {
    let matcher = |op, name, value| crate::matcher::Matcher::new(op, name, value).unwrap();
    use crate::matcher::MatchOp::{Eq, Ne, Nre, Re};
    Deletion {
        tenant: "acme".into(),
        matcher_sets: vec![
            vec![matcher(Eq, "__name__", "up"), matcher(Re, "job", "a.*|b")],
            vec![matcher(Ne, "job", ""), matcher(Nre, "instance", "x.+")],
        ],
        start_ms: -1_000,
        end_ms: 1_700_000_000_000,
    }
}

#[test]
fn golden_deletion_entry() {
    let entry = encode_deletion_entry(1_700_000_020_000, &sample_deletion());
    crate::golden::check("entry-deletion-v1", &entry);
    let decoded = decode(&entry).unwrap();
    assert_eq!(decoded.now_ms, 1_700_000_020_000);
    assert!(matches!(decoded.command, Command::Delete(found) if found == sample_deletion()));
    // Wherever the body is cut, with a fitting checksum, it is an error.
    for cut in 4..entry.len() - 4 {
        let mut cut = entry[..cut].to_vec();
        cut.extend(crc32c::crc32c(&cut).to_le_bytes());
        assert!(decode(&cut).is_err());
    }
}
