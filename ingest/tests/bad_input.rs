//! Each way in which a request or a series can be bad, by name.
#![allow(clippy::unwrap_used)] // Helpers of tests are not exempt as tests are.

use quorate_ingest::{
    Batch, DecodeError, DecodeLimits, InvalidReason, MetadataRef, SeriesError, WireCount,
    decode_snappy_write_request, decode_write_request,
};

fn field(key: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![key];
    let mut len = payload.len();
    while len >= 0x80 {
        bytes.push(len as u8 | 0x80);
        len >>= 7;
    }
    bytes.push(len as u8);
    bytes.extend_from_slice(payload);
    bytes
}

fn label(name: &[u8], value: &[u8]) -> Vec<u8> {
    field(0x0a, &[field(0x0a, name), field(0x12, value)].concat())
}

fn sample(timestamp_ms: u8, bits: u64) -> Vec<u8> {
    field(
        0x12,
        &[&[0x09], &bits.to_le_bytes()[..], &[0x10, timestamp_ms]].concat(),
    )
}

fn series(labels: &[(&[u8], &[u8])]) -> Vec<u8> {
    let mut fields: Vec<u8> = labels
        .iter()
        .flat_map(|(name, value)| label(name, value))
        .collect();
    fields.extend(sample(1, 2f64.to_bits()));
    field(0x0a, &fields)
}

fn compress(raw: &[u8]) -> Vec<u8> {
    snap::raw::Encoder::new().compress_vec(raw).unwrap()
}

fn decode(raw: &[u8], limits: &DecodeLimits) -> Result<Batch, DecodeError> {
    let mut batch = Batch::new();
    let result = decode_snappy_write_request(&compress(raw), limits, &mut batch);
    assert_eq!(result, decode_write_request(raw, limits, &mut Batch::new()));
    result.map(|()| batch)
}

/// Decodes one series, which has to work, and canonicalises it, which must not.
fn refusal(labels: &[(&[u8], &[u8])], limits: &DecodeLimits) -> SeriesError {
    let batch = decode(&series(labels), limits).unwrap();
    let mut out = vec![1];
    let error = batch.get(0).unwrap().canonicalize(limits, &mut out).unwrap_err();
    assert!(out.is_empty());
    assert!(error.detail.len() < 600, "{}", error.detail);
    error
}

fn assert_refused(labels: &[(&[u8], &[u8])], reason: InvalidReason, detail: &str) {
    let error = refusal(labels, &DecodeLimits::DEFAULT);
    assert_eq!((error.reason, &*error.detail), (reason, detail));
}

#[test]
fn not_snappy() {
    let mut batch = Batch::new();
    for body in [&b""[..], b"GET / HTTP/1.1", &series(&[(b"__name__", b"m")])] {
        let error = decode_snappy_write_request(body, &DecodeLimits::DEFAULT, &mut batch).unwrap_err();
        assert!(matches!(error, DecodeError::Snappy { .. }), "{error}");
    }
}

#[test]
fn truncated_snappy() {
    let body = compress(&series(&[(b"__name__", b"m")]).repeat(10));
    let mut batch = Batch::new();
    for len in 0..body.len() {
        let error =
            decode_snappy_write_request(&body[..len], &DecodeLimits::DEFAULT, &mut batch).unwrap_err();
        assert!(matches!(error, DecodeError::Snappy { .. }), "{error}");
        assert!(batch.is_empty());
    }
}

#[test]
fn bomb() {
    let limits = DecodeLimits {
        max_decompressed_bytes: 1 << 20,
        ..DecodeLimits::DEFAULT
    };
    let mut batch = Batch::new();
    let error = decode_snappy_write_request(&compress(&vec![0; 1 << 21]), &limits, &mut batch).unwrap_err();
    assert_eq!(
        error,
        DecodeError::TooLarge {
            limit: "max_decompressed_bytes",
            value: 1 << 21,
            max: 1 << 20
        }
    );
    assert_eq!(
        error.to_string(),
        "the request exceeds max_decompressed_bytes: 2097152 > 1048576"
    );
    assert_eq!(batch.retained_bytes(), 0);
    // Raw bytes are held to the same limit.
    assert_eq!(
        decode_write_request(&vec![0; 1 << 21], &limits, &mut batch),
        Err(error)
    );
}

#[test]
fn empty_request() {
    let batch = decode(b"", &DecodeLimits::DEFAULT).unwrap();
    assert!(batch.is_empty() && batch.samples() == 0);
}

#[test]
fn invalid_protobuf_names_the_byte() {
    let valid = series(&[(b"__name__", b"m")]);
    let in_series = |fields: &[u8]| [&valid[..], &field(0x0a, fields)].concat();
    let at = valid.len() + 2;
    // The value reaches beyond its series: to the end of the request, or into the next series.
    let overrun = field(0x0a, &[0x0a, 0x06, 0x0a, 0x01, b'a', 0x12, 0x01]);
    for (raw, offset, what) in [
        (overrun.clone(), 3, "length beyond the end of the message"),
        (
            [overrun, valid.clone()].concat(),
            3,
            "length beyond the end of the message",
        ),
        (vec![0x0a], 1, "truncated varint"),
        (vec![0x0a, 0x05, 0x0a], 1, "length beyond the end of the message"),
        (vec![0x00], 0, "field number 0"),
        (vec![0x0b], 1, "wrong wire type of a known field"),
        (vec![0x18, 0x01], 1, "wrong wire type of a known field"),
        (vec![0x57], 1, "unknown wire type"),
        (vec![0x54], 1, "end of a group that was not started"),
        (vec![0x51, 0x00], 1, "truncated 8-byte field"),
        (vec![0x55, 0x00], 1, "truncated 4-byte field"),
        (
            vec![0x50, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02],
            1,
            "varint longer than 64 bits",
        ),
        (vec![0xf8, 0xff, 0xff, 0xff, 0x7f], 0, "field number out of range"),
        (
            in_series(&[0x0a, 0x04, 0x0a, 0x03, b'a', b'b']),
            at + 3,
            "length beyond the end of the message",
        ),
        (
            in_series(&[0x0a, 0x02, 0x08, 0x00]),
            at + 3,
            "wrong wire type of a known field",
        ),
        (
            in_series(&[0x12, 0x03, 0x09, 0x00, 0x00]),
            at + 3,
            "truncated 8-byte field",
        ),
        (in_series(&[0x12, 0x02, 0x10, 0x80]), at + 3, "truncated varint"),
    ] {
        let error = decode(&raw, &DecodeLimits::DEFAULT).map(drop).unwrap_err();
        assert_eq!(error, DecodeError::Protobuf { offset, what }, "{raw:x?}");
    }
}

#[test]
fn remote_write_2_is_not_taken_for_an_empty_request() {
    for raw in [field(0x22, b""), field(0x2a, &[0x0a, 0x02, 0x01, 0x02])] {
        assert_eq!(
            decode(&raw, &DecodeLimits::DEFAULT).map(drop),
            Err(DecodeError::RemoteWrite2)
        );
    }
}

#[test]
fn too_many_series_or_samples() {
    let limits = DecodeLimits {
        max_series_per_request: 3,
        max_samples_per_request: 4,
        ..DecodeLimits::DEFAULT
    };
    let one = series(&[(b"__name__", b"m")]);
    assert_eq!(decode(&one.repeat(3), &limits).unwrap().len(), 3);
    assert_eq!(
        decode(&one.repeat(4), &limits).map(drop),
        Err(DecodeError::TooLarge {
            limit: "max_series_per_request",
            value: 4,
            max: 3
        })
    );
    let samples = |count: usize| field(0x0a, &sample(1, 0).repeat(count));
    assert_eq!(decode(&samples(4), &limits).unwrap().samples(), 4);
    assert_eq!(
        decode(&[one, samples(4)].concat(), &limits).map(drop),
        Err(DecodeError::TooLarge {
            limit: "max_samples_per_request",
            value: 5,
            max: 4
        })
    );
}

#[test]
fn no_metric_name() {
    let detail = r#"the metric name (label __name__) is missing or empty in series {"a"="b"}"#;
    assert_refused(&[(b"a", b"b")], InvalidReason::MissingMetricName, detail);
    let detail = r#"the metric name (label __name__) is missing or empty in series {"__name__"=""}"#;
    assert_refused(&[(b"__name__", b"")], InvalidReason::MissingMetricName, detail);
    let detail = "the metric name (label __name__) is missing or empty in series {}";
    assert_refused(&[], InvalidReason::MissingMetricName, detail);
}

#[test]
fn two_metric_names() {
    let detail = r#"the label name "__name__" occurs twice in series {"__name__"="a", "__name__"="b"}"#;
    assert_refused(
        &[(b"__name__", b"a"), (b"__name__", b"b")],
        InvalidReason::DuplicateLabelName,
        detail,
    );
}

#[test]
fn duplicate_label_name() {
    for second in [&b"1"[..], b"2", b""] {
        let labels: [(&[u8], &[u8]); 3] = [(b"a", b"1"), (b"__name__", b"m"), (b"a", second)];
        let error = refusal(&labels, &DecodeLimits::DEFAULT);
        assert_eq!(error.reason, InvalidReason::DuplicateLabelName);
    }
}

#[test]
fn empty_label_name() {
    let detail = r#"a label without name, of value "v", in series {"__name__"="m", ""="v"}"#;
    assert_refused(
        &[(b"__name__", b"m"), (b"", b"v")],
        InvalidReason::EmptyLabelName,
        detail,
    );
}

#[test]
fn invalid_utf8() {
    let detail = "the value of label \"a\" is not UTF-8 in series {\"__name__\"=\"m\", \"a\"=\"\u{fffd}\"}";
    assert_refused(
        &[(b"__name__", b"m"), (b"a", b"\xff")],
        InvalidReason::InvalidUtf8,
        detail,
    );
    let error = refusal(&[(b"__name__", b"m"), (b"\xc3", b"v")], &DecodeLimits::DEFAULT);
    assert_eq!(error.reason, InvalidReason::InvalidUtf8);
    // Each half alone: a character may not begin in a name and end in its value.
    let error = refusal(
        &[(b"__name__", b"m"), (b"a\xc3", b"\xa9")],
        &DecodeLimits::DEFAULT,
    );
    assert_eq!(error.reason, InvalidReason::InvalidUtf8);
}

#[test]
fn names_values_and_label_counts_at_and_over_the_limit() {
    let limits = DecodeLimits::DEFAULT;
    let text = vec![b'x'; 5000];
    let check = |labels: &[(&[u8], &[u8])], over: Option<InvalidReason>| {
        let batch = decode(&series(labels), &limits).unwrap();
        let result = batch
            .get(0)
            .unwrap()
            .canonicalize(&limits, &mut Vec::new())
            .map(drop);
        assert_eq!(result.map_err(|error| error.reason).err(), over);
    };
    check(&[(b"__name__", b"m"), (&text[..1024], b"v")], None);
    check(
        &[(b"__name__", b"m"), (&text[..1025], b"v")],
        Some(InvalidReason::LabelNameTooLong),
    );
    check(&[(b"__name__", b"m"), (b"a", &text[..4096])], None);
    check(
        &[(b"__name__", b"m"), (b"a", &text[..4097])],
        Some(InvalidReason::LabelValueTooLong),
    );
    check(&[(b"__name__", &text[..1024])], None);
    check(
        &[(b"__name__", &text[..1025])],
        Some(InvalidReason::MetricNameTooLong),
    );

    let names: Vec<String> = (0..64).map(|i| format!("l{i:02}")).collect();
    let mut labels: Vec<(&[u8], &[u8])> = vec![(b"__name__", b"m")];
    labels.extend(names.iter().map(|name| (name.as_bytes(), &b"v"[..])));
    check(&labels[..64], None);
    check(&labels, Some(InvalidReason::TooManyLabels));
    let error = refusal(&labels, &limits);
    assert!(
        error
            .detail
            .starts_with("more than 64 labels in series {\"__name__\"=\"m\", "),
        "{}",
        error.detail
    );
    assert!(error.detail.ends_with(", …}"), "{}", error.detail);
}

#[test]
fn one_bad_series_does_not_spoil_its_neighbours() {
    let limits = DecodeLimits::DEFAULT;
    let raw = [
        series(&[(b"__name__", b"a")]),
        series(&[]),
        series(&[(b"__name__", b"b")]),
    ]
    .concat();
    let batch = decode(&raw, &limits).unwrap();
    let mut out = Vec::new();
    let mut metric = |index: usize| {
        let labels = batch.get(index).unwrap().canonicalize(&limits, &mut out)?;
        Ok::<_, SeriesError>(labels.metric().to_string())
    };
    assert_eq!(metric(0).unwrap(), "a");
    assert_eq!(metric(1).unwrap_err().reason, InvalidReason::MissingMetricName);
    assert_eq!(metric(2).unwrap(), "b");
}

#[test]
fn canonical_bytes_are_sorted_and_without_empty_values() {
    let limits = DecodeLimits::DEFAULT;
    let labels: [(&[u8], &[u8]); 5] = [
        (b"job", b"n"),
        ("é".as_bytes(), b"1"),
        (b"__name__", b"m"),
        (b"gone", b""),
        (b"Z", b"z"),
    ];
    let batch = decode(&series(&labels), &limits).unwrap();
    let mut out = Vec::new();
    let labels = batch.get(0).unwrap().canonicalize(&limits, &mut out).unwrap();
    assert_eq!(
        labels.as_bytes(),
        b"\x01Z\x01z\x08__name__\x01m\x03job\x01n\x02\xc3\xa9\x011"
    );
    let detached = quorate_ingest::CanonicalLabels::new(labels.as_bytes());
    assert_eq!(detached.get("é"), Some("1"));
    assert_eq!(detached.get("gone"), None);
}

#[test]
fn nan_payloads_and_negative_zero_keep_their_bits() {
    // A quiet NaN, Prometheus's staleness marker, a signalling NaN with sign, -0.0.
    let all = [
        0x7ff8_0000_0000_0001,
        0x7ff0_0000_0000_0002,
        0xfff0_0000_0000_0001,
        1 << 63,
    ];
    let fields: Vec<u8> = all.iter().flat_map(|&bits| sample(1, bits)).collect();
    let batch = decode(&field(0x0a, &fields), &DecodeLimits::DEFAULT).unwrap();
    assert_eq!(
        batch
            .values()
            .iter()
            .map(|value| value.to_bits())
            .collect::<Vec<_>>(),
        all
    );
}

#[test]
fn exemplars_and_histograms_belong_to_their_series() {
    let labels = label(b"__name__", b"m");
    let exemplar = [
        &label(b"trace_id", b"x")[..],
        &[0x11],
        &2.5f64.to_le_bytes(),
        &[0x18, 7],
    ]
    .concat();
    let histogram = [&[0x08, 3, 0x20, 4, 0x78, 9][..], &field(0x62, &[2, 1, 0])].concat();
    let both = field(
        0x0a,
        &[
            &labels[..],
            &field(0x1a, &exemplar),
            &field(0x22, b""),
            &field(0x22, &histogram),
        ]
        .concat(),
    );
    let metadata = [
        &[0x08, 1][..],
        &field(0x12, b"m"),
        &field(0x22, b"help"),
        &field(0x2a, b"s"),
    ]
    .concat();
    let raw = [series(&[(b"__name__", b"m")]), both, field(0x1a, &metadata)].concat();
    let batch = decode(&raw, &DecodeLimits::DEFAULT).unwrap();
    let counts: Vec<_> = batch
        .iter()
        .map(|s| (s.values().len(), s.exemplars().len(), s.histograms().len()))
        .collect();
    assert_eq!(counts, [(1, 0, 0), (0, 1, 2)]);
    assert_eq!((batch.samples(), batch.exemplars()), (3, 1));
    let series = batch.get(1).unwrap();
    let exemplar = series.exemplars().next().unwrap();
    assert_eq!((exemplar.timestamp_ms, exemplar.value), (7, 2.5));
    assert!(exemplar.labels().eq([(&b"trace_id"[..], &b"x"[..])]));
    let histograms: Vec<_> = series.histograms().collect();
    assert_eq!(
        (histograms[0].count, histograms[0].timestamp_ms),
        (WireCount::Int(0), 0)
    );
    assert_eq!(
        (histograms[1].count, histograms[1].timestamp_ms),
        (WireCount::Int(3), 9)
    );
    assert_eq!(
        (histograms[1].schema, histograms[1].positive_deltas),
        (2, &[1, -1, 0][..])
    );
    let metadata: Vec<_> = batch.metadata().collect();
    let expected = MetadataRef {
        kind: 1,
        family: b"m",
        help: b"help",
        unit: b"s",
    };
    assert_eq!(metadata, [expected]);
}

#[test]
fn broken_histograms_exemplars_and_metadata_refuse_the_request() {
    for broken in [
        field(0x0a, &field(0x22, b"z")),
        // A packed column that ends within a number.
        field(0x0a, &field(0x22, &field(0x52, &[0; 7]))),
        // Spans of a varint.
        field(0x0a, &field(0x22, &[0x40, 1])),
        field(0x0a, &field(0x1a, b"z")),
        field(0x1a, b"metadata"),
    ] {
        let raw = [series(&[(b"__name__", b"m")]), broken].concat();
        assert!(matches!(
            decode(&raw, &DecodeLimits::DEFAULT).map(drop),
            Err(DecodeError::Protobuf { .. })
        ));
    }
}

#[test]
fn too_many_histograms_exemplars_or_metadata() {
    let limits = DecodeLimits {
        max_series_per_request: 2,
        max_samples_per_request: 2,
        ..DecodeLimits::DEFAULT
    };
    let limit_of = |raw: &[u8]| match decode(raw, &limits) {
        Ok(_) => None,
        Err(DecodeError::TooLarge { limit, .. }) => Some(limit),
        Err(other) => panic!("{other}"),
    };
    for (key, limit) in [
        (0x22, "max_samples_per_request"),
        (0x1a, "max_samples_per_request"),
    ] {
        assert_eq!(limit_of(&field(0x0a, &field(key, b"").repeat(2))), None);
        assert_eq!(limit_of(&field(0x0a, &field(key, b"").repeat(3))), Some(limit));
    }
    assert_eq!(limit_of(&field(0x1a, b"").repeat(2)), None);
    assert_eq!(
        limit_of(&field(0x1a, b"").repeat(3)),
        Some("max_series_per_request")
    );
}

#[test]
fn reasons_are_distinct_snake_case_names() {
    let names: std::collections::HashSet<_> =
        InvalidReason::ALL.iter().map(|reason| reason.as_str()).collect();
    assert_eq!(names.len(), InvalidReason::ALL.len());
    let snake = |name: &str| {
        name.bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
    };
    assert!(names.iter().all(|name| snake(name)));
}
