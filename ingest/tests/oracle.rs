//! The decoder against prost, which decodes the same bytes into the messages the schema describes.
#![allow(clippy::unwrap_used)] // Helpers of tests are not exempt as tests are.

use std::collections::BTreeMap;

use proptest::collection::vec;
use proptest::prelude::*;
use prost::Message;
use quorate_ingest::{
    Batch, BucketSpan, CacheHasher, CanonicalLabels, DecodeError, DecodeLimits, ExemplarRef, HistogramRef,
    InvalidReason, SeriesRef, WireCount, canonicalize, decode_snappy_write_request, decode_write_request,
};

/// `prometheus.WriteRequest`. Texts are bytes, because UTF-8 is judged per series and not here.
#[derive(Clone, PartialEq, Message)]
struct WriteRequest {
    #[prost(message, repeated, tag = "1")]
    timeseries: Vec<TimeSeries>,
    #[prost(message, repeated, tag = "3")]
    metadata: Vec<Metadata>,
}

#[derive(Clone, PartialEq, Message)]
struct TimeSeries {
    #[prost(message, repeated, tag = "1")]
    labels: Vec<Label>,
    #[prost(message, repeated, tag = "2")]
    samples: Vec<Sample>,
    #[prost(message, repeated, tag = "3")]
    exemplars: Vec<Exemplar>,
    #[prost(message, repeated, tag = "4")]
    histograms: Vec<Histogram>,
}

#[derive(Clone, PartialEq, Message)]
struct Exemplar {
    #[prost(message, repeated, tag = "1")]
    labels: Vec<Label>,
    #[prost(double, tag = "2")]
    value: f64,
    #[prost(int64, tag = "3")]
    timestamp: i64,
}

#[derive(Clone, PartialEq, Message)]
struct Metadata {
    #[prost(int32, tag = "1")]
    kind: i32,
    #[prost(bytes = "vec", tag = "2")]
    family: Vec<u8>,
    #[prost(bytes = "vec", tag = "4")]
    help: Vec<u8>,
    #[prost(bytes = "vec", tag = "5")]
    unit: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
struct Histogram {
    #[prost(oneof = "Count", tags = "1, 2")]
    count: Option<Count>,
    #[prost(double, tag = "3")]
    sum: f64,
    #[prost(sint32, tag = "4")]
    schema: i32,
    #[prost(double, tag = "5")]
    zero_threshold: f64,
    #[prost(oneof = "ZeroCount", tags = "6, 7")]
    zero_count: Option<ZeroCount>,
    #[prost(message, repeated, tag = "8")]
    negative_spans: Vec<Span>,
    #[prost(sint64, repeated, tag = "9")]
    negative_deltas: Vec<i64>,
    #[prost(double, repeated, tag = "10")]
    negative_counts: Vec<f64>,
    #[prost(message, repeated, tag = "11")]
    positive_spans: Vec<Span>,
    // Not packed, as old senders do; both forms are read.
    #[prost(sint64, repeated, packed = "false", tag = "12")]
    positive_deltas: Vec<i64>,
    #[prost(double, repeated, packed = "false", tag = "13")]
    positive_counts: Vec<f64>,
    #[prost(int32, tag = "14")]
    reset_hint: i32,
    #[prost(int64, tag = "15")]
    timestamp: i64,
    #[prost(double, repeated, tag = "16")]
    custom_values: Vec<f64>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum Count {
    #[prost(uint64, tag = "1")]
    Int(u64),
    #[prost(double, tag = "2")]
    Float(f64),
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum ZeroCount {
    #[prost(uint64, tag = "6")]
    Int(u64),
    #[prost(double, tag = "7")]
    Float(f64),
}

#[derive(Clone, PartialEq, Message)]
struct Span {
    #[prost(sint32, tag = "1")]
    offset: i32,
    #[prost(uint32, tag = "2")]
    length: u32,
}

#[derive(Clone, PartialEq, Message)]
struct Label {
    #[prost(bytes = "vec", tag = "1")]
    name: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
struct Sample {
    #[prost(double, tag = "1")]
    value: f64,
    #[prost(int64, tag = "2")]
    timestamp: i64,
}

/// Fields that no message here knows, of all wire types, and groups.
fn unknown_field() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        any::<u64>().prop_map(|value| {
            let mut bytes = vec![0xa0, 0x06]; // 100, varint
            prost::encoding::encode_varint(value, &mut bytes);
            bytes
        }),
        any::<[u8; 8]>().prop_map(|payload| [&[0xa1, 0x06], &payload[..]].concat()),
        any::<[u8; 4]>().prop_map(|payload| [&[0xa5, 0x06], &payload[..]].concat()),
        vec(any::<u8>(), 0..20).prop_map(|payload| field(100, &payload)),
        Just(vec![0xa3, 0x06, 0x08, 0x01, 0xab, 0x06, 0xac, 0x06, 0xa4, 0x06]), // group 100 { 1: 1, group 101 {} }
    ]
}

fn field(number: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    prost::encoding::encode_varint(u64::from(number) << 3 | 2, &mut bytes);
    prost::encoding::encode_varint(payload.len() as u64, &mut bytes);
    bytes.extend_from_slice(payload);
    bytes
}

fn label_fields() -> impl Strategy<Value = Vec<u8>> {
    let text = || prop_oneof![4 => vec(b'a'..b'e', 0..6), 1 => vec(any::<u8>(), 0..300)];
    (text(), text())
        .prop_map(|(name, value)| Label { name, value }.encode_to_vec())
        .prop_flat_map(|label| prop_oneof![4 => Just(label.clone()), 1 => with_extras(vec![label])])
        .prop_map(|label| field(1, &label))
}

fn sample_fields() -> impl Strategy<Value = Vec<u8>> {
    (any::<u64>(), any::<i64>(), 0u32..64)
        .prop_map(|(bits, timestamp, shift)| {
            let sample = Sample {
                value: f64::from_bits(bits),
                timestamp: timestamp >> shift,
            };
            sample.encode_to_vec()
        })
        .prop_flat_map(|sample| prop_oneof![4 => Just(sample.clone()), 1 => with_extras(vec![sample])])
        .prop_map(|sample| field(2, &sample))
}

/// The fields, some unknown ones, in any order.
fn with_extras(fields: Vec<Vec<u8>>) -> impl Strategy<Value = Vec<u8>> {
    vec(unknown_field(), 0..3)
        .prop_map(move |extras| [fields.clone(), extras].concat())
        .prop_shuffle()
        .prop_map(|fields| fields.concat())
}

fn exemplar_fields() -> impl Strategy<Value = Vec<u8>> {
    let value = (any::<u64>(), any::<i64>()).prop_map(|(bits, timestamp)| {
        let exemplar = Exemplar {
            labels: vec![],
            value: f64::from_bits(bits),
            timestamp,
        };
        exemplar.encode_to_vec()
    });
    (vec(label_fields(), 0..3), value)
        .prop_flat_map(|(mut fields, value)| {
            fields.push(value);
            with_extras(fields)
        })
        .prop_map(|exemplar| field(3, &exemplar))
}

fn spans() -> impl Strategy<Value = Vec<Span>> {
    vec(
        (any::<i32>(), any::<u32>()).prop_map(|(offset, length)| Span { offset, length }),
        0..3,
    )
}

fn doubles() -> impl Strategy<Value = Vec<f64>> {
    vec(any::<u64>().prop_map(f64::from_bits), 0..4)
}

fn histogram() -> impl Strategy<Value = Histogram> {
    let double = || any::<u64>().prop_map(f64::from_bits);
    let count = prop_oneof![
        Just(None),
        any::<u64>().prop_map(|n| Some(Count::Int(n))),
        double().prop_map(|n| Some(Count::Float(n))),
    ];
    let zero_count = prop_oneof![
        Just(None),
        any::<u64>().prop_map(|n| Some(ZeroCount::Int(n))),
        double().prop_map(|n| Some(ZeroCount::Float(n))),
    ];
    let fixed = (
        count,
        zero_count,
        double(),
        double(),
        any::<i32>(),
        any::<i32>(),
        any::<i64>(),
    );
    let integers = (vec(any::<i64>(), 0..4), vec(any::<i64>(), 0..4));
    let repeated = (spans(), spans(), integers, doubles(), doubles(), doubles());
    (fixed, repeated).prop_map(|(fixed, repeated)| {
        let (count, zero_count, sum, zero_threshold, schema, reset_hint, timestamp) = fixed;
        let (negative_spans, positive_spans, deltas, negative_counts, positive_counts, custom_values) =
            repeated;
        Histogram {
            count,
            sum,
            schema,
            zero_threshold,
            zero_count,
            negative_spans,
            negative_deltas: deltas.0,
            negative_counts,
            positive_spans,
            positive_deltas: deltas.1,
            positive_counts,
            reset_hint,
            timestamp,
            custom_values,
        }
    })
}

fn histogram_fields() -> impl Strategy<Value = Vec<u8>> {
    // Two of them in one field: what occurs twice counts once or adds up.
    let twice = (histogram(), histogram()).prop_map(|(a, b)| [a.encode_to_vec(), b.encode_to_vec()].concat());
    prop_oneof![4 => histogram().prop_map(|h| h.encode_to_vec()), 1 => twice]
        .prop_flat_map(
            |histogram| prop_oneof![2 => Just(histogram.clone()), 1 => with_extras(vec![histogram])],
        )
        .prop_map(|histogram| field(4, &histogram))
}

fn metadata_fields() -> impl Strategy<Value = Vec<u8>> {
    let text = || vec(any::<u8>(), 0..9);
    (any::<i32>(), text(), text(), text())
        .prop_map(|(kind, family, help, unit)| {
            Metadata {
                kind,
                family,
                help,
                unit,
            }
            .encode_to_vec()
        })
        .prop_flat_map(|metadata| with_extras(vec![metadata]))
        .prop_map(|metadata| field(3, &metadata))
}

fn series_fields() -> impl Strategy<Value = Vec<u8>> {
    let extras = (vec(exemplar_fields(), 0..3), vec(histogram_fields(), 0..3));
    (vec(label_fields(), 0..5), vec(sample_fields(), 0..4), extras)
        .prop_map(|(labels, samples, (exemplars, histograms))| {
            [labels, samples, exemplars, histograms].concat()
        })
        .prop_flat_map(|fields| prop_oneof![Just(fields.concat()), with_extras(fields)])
        .prop_map(|series| field(1, &series))
}

fn request() -> impl Strategy<Value = Vec<u8>> {
    (vec(series_fields(), 0..5), vec(metadata_fields(), 0..3)).prop_flat_map(|(mut fields, metadata)| {
        fields.extend(metadata);
        with_extras(fields)
    })
}

fn exemplar_message(exemplar: ExemplarRef<'_>) -> Exemplar {
    let labels = exemplar.labels().map(|(name, value)| Label {
        name: name.into(),
        value: value.into(),
    });
    Exemplar {
        labels: labels.collect(),
        value: exemplar.value,
        timestamp: exemplar.timestamp_ms,
    }
}

fn histogram_message(ours: &HistogramRef<'_>) -> Histogram {
    let spans = |spans: &[BucketSpan]| {
        let span = |s: &BucketSpan| Span {
            offset: s.offset,
            length: s.length,
        };
        spans.iter().map(span).collect()
    };
    Histogram {
        count: Some(match ours.count {
            WireCount::Int(n) => Count::Int(n),
            WireCount::Float(n) => Count::Float(n),
        }),
        sum: ours.sum,
        schema: ours.schema,
        zero_threshold: ours.zero_threshold,
        zero_count: Some(match ours.zero_count {
            WireCount::Int(n) => ZeroCount::Int(n),
            WireCount::Float(n) => ZeroCount::Float(n),
        }),
        negative_spans: spans(ours.negative_spans),
        negative_deltas: ours.negative_deltas.to_vec(),
        negative_counts: ours.negative_counts.to_vec(),
        positive_spans: spans(ours.positive_spans),
        positive_deltas: ours.positive_deltas.to_vec(),
        positive_counts: ours.positive_counts.to_vec(),
        reset_hint: ours.reset_hint,
        timestamp: ours.timestamp_ms,
        custom_values: ours.custom_values.to_vec(),
    }
}

/// The bytes of a histogram in which counts that were left out are integers.
fn with_defaults(theirs: &Histogram) -> Vec<u8> {
    let mut theirs = theirs.clone();
    theirs.count.get_or_insert(Count::Int(0));
    theirs.zero_count.get_or_insert(ZeroCount::Int(0));
    theirs.encode_to_vec()
}

/// Asserts that both decoders say the same about `raw`.
fn check_against_prost(raw: &[u8], batch: &mut Batch) {
    let ours = decode_write_request(raw, &DecodeLimits::DEFAULT, batch);
    let theirs = match (&ours, WriteRequest::decode(raw)) {
        (Ok(()), Ok(request)) => request,
        (Err(DecodeError::RemoteWrite2), _) => return,
        (Err(_), Err(_)) => {
            assert!(batch.is_empty() && batch.samples() == 0);
            return;
        }
        (ours, theirs) => panic!("ours {ours:?}, prost {theirs:?}"),
    };
    assert_eq!(batch.len(), theirs.timeseries.len());
    let metadata: Vec<Metadata> = batch
        .metadata()
        .map(|m| Metadata {
            kind: m.kind,
            family: m.family.into(),
            help: m.help.into(),
            unit: m.unit.into(),
        })
        .collect();
    assert_eq!(metadata, theirs.metadata);
    for (ours, theirs) in batch.iter().zip(&theirs.timeseries) {
        let labels = TimeSeries::decode(ours.raw_labels()).unwrap();
        assert_eq!(
            labels,
            TimeSeries {
                labels: theirs.labels.clone(),
                ..Default::default()
            }
        );
        let timestamps: Vec<i64> = theirs.samples.iter().map(|sample| sample.timestamp).collect();
        assert_eq!(ours.timestamps(), timestamps);
        let bits = |values: &[f64]| values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
        let values: Vec<f64> = theirs.samples.iter().map(|sample| sample.value).collect();
        assert_eq!(bits(ours.values()), bits(&values));
        let exemplars: Vec<Exemplar> = ours.exemplars().map(exemplar_message).collect();
        // Debug tells NaNs from numbers and -0 from 0; the bits are compared below.
        assert_eq!(format!("{exemplars:?}"), format!("{:?}", theirs.exemplars));
        let value = |bytes: &[Exemplar]| bytes.iter().map(|e| e.value.to_bits()).collect::<Vec<_>>();
        assert_eq!(value(&exemplars), value(&theirs.exemplars));
        // Encoded, so that all bits of all fields are compared.
        let histograms: Vec<Vec<u8>> = ours
            .histograms()
            .map(|h| histogram_message(&h).encode_to_vec())
            .collect();
        let expected: Vec<Vec<u8>> = theirs.histograms.iter().map(with_defaults).collect();
        assert_eq!(histograms, expected);
    }
    let columns: usize = batch.iter().map(|series| series.sample_range().len()).sum();
    assert_eq!(
        (columns, columns),
        (batch.timestamps().len(), batch.values().len())
    );
    let histograms: usize = batch.iter().map(|series| series.histograms().len()).sum();
    assert_eq!(batch.samples(), columns + histograms);
}

/// What canonicalisation has to say, by way of a map.
fn canonical_by_map(labels: &[(Vec<u8>, Vec<u8>)]) -> Result<Vec<(String, String)>, ()> {
    let mut map = BTreeMap::new();
    for (name, value) in labels {
        let name = String::from_utf8(name.clone()).map_err(drop)?;
        let value = String::from_utf8(value.clone()).map_err(drop)?;
        if name.is_empty() || map.insert(name, value).is_some() {
            return Err(());
        }
    }
    map.retain(|_, value| !value.is_empty());
    if map.contains_key("__name__") {
        Ok(map.into_iter().collect())
    } else {
        Err(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn any_field_order_decodes_as_with_prost(requests in vec(request(), 1..3)) {
        // One batch for all, so that nothing of one request shows in the next.
        let mut batch = Batch::new();
        for raw in &requests {
            check_against_prost(raw, &mut batch);
            prop_assert_eq!(batch.len(), WriteRequest::decode(&raw[..]).unwrap().timeseries.len());
            let body = snap::raw::Encoder::new().compress_vec(raw).unwrap();
            let labels: Vec<Vec<u8>> = batch.iter().map(|series| series.raw_labels().to_vec()).collect();
            decode_snappy_write_request(&body, &DecodeLimits::DEFAULT, &mut batch).unwrap();
            prop_assert!(batch.iter().map(|series| series.raw_labels().to_vec()).eq(labels));
        }
    }

    #[test]
    fn damaged_requests_are_judged_as_by_prost(
        raw in request(),
        flips in vec((any::<prop::sample::Index>(), prop_oneof![1u8..4, 253u8..=255, any::<u8>()]), 0..4),
        cut in any::<prop::sample::Index>(),
        cuts: bool,
    ) {
        let mut raw = raw;
        for (at, delta) in flips.iter().filter(|_| !raw.is_empty()).collect::<Vec<_>>() {
            let at = at.index(raw.len());
            raw[at] = raw[at].wrapping_add(*delta);
        }
        if cuts {
            raw.truncate(cut.index(raw.len() + 1));
        }
        check_against_prost(&raw, &mut Batch::new());
    }

    #[test]
    fn any_bytes_are_judged_as_by_prost(
        raw in vec(prop_oneof![any::<u8>(), prop::sample::select(&[0x0a, 0x12, 0x09, 0x10, 0x02, 0x04][..])], 0..64)
    ) {
        check_against_prost(&raw, &mut Batch::new());
        let _ = decode_snappy_write_request(&raw, &DecodeLimits::DEFAULT, &mut Batch::new());
    }

    #[test]
    fn any_label_bytes_never_panic(
        raw in vec(prop_oneof![any::<u8>(), prop::sample::select(&[0x0a, 0x12, 0x02, 0x04, b'a'][..])], 0..64)
    ) {
        let mut out = vec![1];
        let refused = canonicalize(&raw, &DecodeLimits::DEFAULT, &mut out).is_err();
        prop_assert_eq!(refused, out.is_empty());
        let view = CanonicalLabels::new(&raw);
        let _ = (view.get("a"), view.metric(), view.shard_labels(), view.iter().count());
    }

    #[test]
    fn canonical_labels_are_those_of_a_map(
        labels in vec((
            prop_oneof![
                8 => "[a-z]{1,3}".prop_map(String::into_bytes),
                2 => Just(b"__name__".to_vec()),
                1 => Just(b"job".to_vec()),
                1 => Just(b"instance".to_vec()),
                1 => "\\PC{0,60}".prop_map(String::into_bytes),
            ],
            prop_oneof![
                8 => "[a-z]{0,3}".prop_map(String::into_bytes),
                1 => "\\PC{0,60}".prop_map(String::into_bytes),
                1 => vec(any::<u8>(), 0..2),
            ],
        ), 0..8),
    ) {
        let series = TimeSeries {
            labels: labels.iter().cloned().map(|(name, value)| Label { name, value }).collect(),
            ..Default::default()
        };
        let mut out = Vec::new();
        let ours = canonicalize(&series.encode_to_vec(), &DecodeLimits::DEFAULT, &mut out);
        match (ours, canonical_by_map(&labels)) {
            (Ok(view), Ok(expected)) => {
                let find = |name: &str| expected.iter().find(|(n, _)| n == name).map(|(_, value)| &**value);
                prop_assert!(view.iter().eq(expected.iter().map(|(name, value)| (&**name, &**value))));
                for name in ["__name__", "job", "instance", "a", "", "zzzz"] {
                    prop_assert_eq!(view.get(name), find(name));
                }
                let shard = view.shard_labels();
                prop_assert_eq!(Some(shard.metric), find("__name__"));
                prop_assert_eq!((shard.job, shard.instance), (find("job"), find("instance")));
                prop_assert_eq!(view.metric(), shard.metric);
            }
            (Err(error), Err(())) => prop_assert_ne!(error.reason, InvalidReason::MalformedLabels),
            (ours, expected) => prop_assert!(false, "ours {ours:?}, expected {expected:?}"),
        }
    }

    #[test]
    fn pushed_series_equal_received_ones(
        series in vec((vec(("\\PC{0,150}", "\\PC{0,150}"), 0..5), vec((any::<i64>(), any::<u64>()), 0..4)), 0..4),
        histograms in vec(histogram(), 0..3),
    ) {
        let limits = DecodeLimits::DEFAULT;
        let mut pushed = Batch::new();
        let mut request = WriteRequest::default();
        for (labels, samples) in &series {
            let samples = samples.iter().map(|&(timestamp, bits)| (timestamp, f64::from_bits(bits)));
            let pairs = labels.iter().map(|(name, value)| (&**name, &**value));
            pushed.push_series(pairs, samples.clone(), &limits).unwrap();
            for histogram in &histograms {
                let mut one = Batch::new();
                let series = TimeSeries { histograms: vec![histogram.clone()], ..Default::default() };
                let alone = WriteRequest { timeseries: vec![series], metadata: vec![] };
                decode_write_request(&alone.encode_to_vec(), &limits, &mut one).unwrap();
                let histogram = one.get(0).unwrap().histograms().next().unwrap();
                pushed.push_histogram(&histogram, &limits).unwrap();
            }
            request.timeseries.push(TimeSeries {
                labels: labels
                    .iter()
                    .map(|(name, value)| Label { name: name.clone().into(), value: value.clone().into() })
                    .collect(),
                samples: samples.map(|(timestamp, value)| Sample { timestamp, value }).collect(),
                histograms: histograms.clone(),
                ..Default::default()
            });
        }
        let mut received = Batch::new();
        decode_write_request(&request.encode_to_vec(), &limits, &mut received).unwrap();
        prop_assert_eq!(pushed.len(), received.len());
        for (pushed, received) in pushed.iter().zip(received.iter()) {
            prop_assert_eq!(
                TimeSeries::decode(pushed.raw_labels()).unwrap(),
                TimeSeries::decode(received.raw_labels()).unwrap()
            );
            prop_assert_eq!(pushed.timestamps(), received.timestamps());
            let bits = |values: &[f64]| values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
            prop_assert_eq!(bits(pushed.values()), bits(received.values()));
            let histograms = |series: SeriesRef<'_>| -> Vec<Vec<u8>> {
                series.histograms().map(|h| histogram_message(&h).encode_to_vec()).collect()
            };
            prop_assert_eq!(histograms(pushed), histograms(received));
        }
    }
}

#[test]
fn the_cache_key_is_the_same_on_both_ways_in() {
    let request = WriteRequest {
        timeseries: vec![TimeSeries {
            labels: [("__name__", "up"), ("job", "node"), ("long", &*"x".repeat(500))]
                .map(|(name, value)| Label {
                    name: name.into(),
                    value: value.into(),
                })
                .into(),
            ..Default::default()
        }],
        metadata: vec![],
    };
    let limits = DecodeLimits::DEFAULT;
    let (mut received, mut pushed) = (Batch::new(), Batch::new());
    decode_write_request(&request.encode_to_vec(), &limits, &mut received).unwrap();
    let labels = [("__name__", "up"), ("job", "node"), ("long", &*"x".repeat(500))];
    pushed.push_series(labels, [], &limits).unwrap();
    let hasher = CacheHasher::new(7);
    let key = |batch: &Batch| hasher.hash(batch.get(0).unwrap().raw_labels());
    assert_eq!(key(&received), key(&pushed));
}
