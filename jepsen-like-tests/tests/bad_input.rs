//! Everything a client can do wrong: each mistake gets a clear answer, is counted, stores nothing it
//! shouldn't and costs nothing that is right.

use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use prost::Message;
use quorate_client::{Client, ReadLevel};
use quorate_jepsen_like_tests::cluster::{Cluster, await_leaders, client_of};
use quorate_jepsen_like_tests::http::{Answer, Http, post_in_pieces};
use quorate_jepsen_like_tests::remote_write::{self, HEADERS, PATH, TimeSeries, WriteRequest};
use quorate_jepsen_like_tests::report::say;
use quorate_jepsen_like_tests::turn;
use quorate_jepsen_like_tests::workload::now_ms;
use quorate_proto::v1;

const STALE_MARKER: f64 = f64::from_bits(0x7ff0_0000_0000_0002);
const MINUTE_MS: i64 = 60_000;

/// A cluster with the means to talk to its first node, and a name for each case's series.
struct Tester {
    node: String,
    http: Http,
    client: Client,
    runtime: tokio::runtime::Handle,
}

/// Stored samples: metric, timestamp, bits.
type Stored = Vec<(String, i64, u64)>;

impl Tester {
    /// Samples of all series with the label `case`.
    fn stored(&self, case: &str) -> Result<Stored> {
        let selector = format!("{{case=\"{case}\"}}");
        let answer = self.runtime.block_on(self.client.read(
            &selector,
            i64::MIN / 2,
            i64::MAX / 2,
            ReadLevel::Linearizable,
        ))?;
        let flatten = |series: quorate_client::SeriesData| {
            let metric = series.labels.metric_name().unwrap_or_default().to_owned();
            let samples: Vec<_> = series.samples().collect();
            samples
                .into_iter()
                .map(move |sample| (metric.clone(), sample.timestamp_ms, sample.value.to_bits()))
        };
        let mut stored: Stored = answer.series.into_iter().flat_map(flatten).collect();
        stored.sort();
        Ok(stored)
    }

    fn rejected(&self, reason: &str) -> Result<f64> {
        self.http
            .figure(&format!("quorate_rejected_samples_total{{reason=\"{reason}\"}}"))
    }

    /// Answers of this status to writes so far.
    fn answered(&self, status: u16) -> Result<f64> {
        let text = self.http.get("/metrics")?.text();
        let is_counted = |line: &&str| {
            line.starts_with("quorate_http_requests_total{")
                && line.contains("handler=\"write\"")
                && line.contains(&format!("code=\"{status}\""))
        };
        Ok(text
            .lines()
            .filter(is_counted)
            .filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok())
            .sum())
    }

    fn send(&self, series: Vec<TimeSeries>) -> Result<Answer> {
        remote_write::send(&self.http, &remote_write::encode(series)?)
    }
}

/// A body that is refused as a whole.
struct Unreadable {
    name: &'static str,
    headers: Vec<(&'static str, &'static str)>,
    body: Vec<u8>,
    status: u16,
    /// The answer says so.
    says: &'static str,
}

/// A request with a bad series next to a good one.
struct Refused {
    name: &'static str,
    bad: TimeSeries,
    /// The label of the counter, and part of the answer.
    reason: &'static str,
    /// Its samples, for the counter.
    samples: u64,
}

#[test]
fn every_mistake_is_answered_counted_and_stores_nothing() -> Result<()> {
    let runtime = tokio::runtime::Runtime::new()?;
    let _turn = turn::take()?;
    let cluster = Cluster::start(3)?;
    runtime.block_on(await_leaders(&cluster, Duration::from_secs(60)))?;
    let node = cluster.nodes().first().context("no node")?;
    let tester = {
        let _entered = runtime.enter();
        Tester {
            node: node.http.clone(),
            http: remote_write::sender(&node.http),
            client: client_of(node)?,
            runtime: runtime.handle().clone(),
        }
    };
    let now_ms = now_ms();
    let mut failures = Vec::new();
    let mut cases = 0;
    let mut judge = |name: &str, outcome: Result<()>| {
        cases += 1;
        failures.extend(outcome.err().map(|error| format!("{name}: {error:#}")));
    };
    for case in unreadable(now_ms)? {
        judge(case.name, refuse_whole(&tester, &case));
    }
    for case in refused(now_ms) {
        judge(case.name, refuse_part(&tester, &case, now_ms));
        judge(
            &format!("{} by gRPC", case.name),
            refuse_part_by_grpc(&tester, &case, now_ms),
        );
    }
    for (name, check) in SEQUENCES {
        judge(name, check(&tester, now_ms));
    }
    say(format_args!(
        "bad_input: {cases} cases, {} failed",
        failures.len()
    ));
    ensure!(
        failures.is_empty(),
        "{} of {cases} cases failed:\n{}",
        failures.len(),
        failures.join("\n")
    );
    cluster.stop()
}

fn labels(case: &str, metric: &str) -> Vec<(Vec<u8>, Vec<u8>)> {
    [("__name__", metric), ("case", case)]
        .map(|(name, value)| (name.into(), value.into()))
        .into()
}

fn good(case: &str, at_ms: i64) -> TimeSeries {
    TimeSeries::new(labels(case, "good"), [(at_ms, 1.0)])
}

fn unreadable(now_ms: i64) -> Result<Vec<Unreadable>> {
    let body = remote_write::encode(vec![good("unreadable", now_ms)])?;
    let truncated = body.get(..body.len() - 3).unwrap_or_default().to_vec();
    // A snappy block that declares 4 GiB less one byte, and one of 100 MiB that is what it says.
    let lying_bomb = vec![0xff, 0xff, 0xff, 0xff, 0x0f, 0x00, 0x61];
    let true_bomb = remote_write::compress(&vec![0; 100 << 20])?;
    let raw = WriteRequest {
        timeseries: vec![good("unreadable", now_ms)],
    }
    .encode_to_vec();
    let cut = remote_write::compress(raw.get(..raw.len() - 3).unwrap_or_default())?;
    let with = |changed: &[(&'static str, &'static str)]| {
        let kept = HEADERS
            .into_iter()
            .filter(|(name, _)| !changed.iter().any(|(other, _)| other == name));
        kept.chain(changed.iter().copied()).collect::<Vec<_>>()
    };
    let proper = || with(&[]);
    let case = |name, headers, body, status, says| Unreadable {
        name,
        headers,
        body,
        status,
        says,
    };
    Ok(vec![
        case("not snappy", proper(), raw.clone(), 400, "snappy"),
        case("truncated snappy", proper(), truncated, 400, "snappy"),
        case(
            "a bomb that lies",
            proper(),
            lying_bomb,
            413,
            "max_decompressed_bytes",
        ),
        case(
            "a bomb that is true",
            proper(),
            true_bomb,
            413,
            "max_decompressed_bytes",
        ),
        case(
            "random protobuf",
            proper(),
            remote_write::compress(&[0xfa; 64])?,
            400,
            "protobuf",
        ),
        case("truncated protobuf", proper(), cut, 400, "protobuf"),
        case(
            "JSON",
            with(&[("content-type", "application/json")]),
            body.clone(),
            415,
            "application/x-protobuf",
        ),
        case(
            "gzip",
            with(&[("content-encoding", "gzip")]),
            body.clone(),
            415,
            "snappy",
        ),
        case(
            "remote write 2.0",
            with(&[(
                "content-type",
                "application/x-protobuf;proto=io.prometheus.write.v2.Request",
            )]),
            body,
            415,
            "prometheus.WriteRequest",
        ),
    ])
}

/// The request is refused, says why, is counted, stores nothing, and a retry changes nothing.
fn refuse_whole(tester: &Tester, case: &Unreadable) -> Result<()> {
    for attempt in 1..=2 {
        let before = tester.answered(case.status)?;
        let answer = tester.http.post(PATH, &case.headers, &case.body)?;
        let text = answer.text();
        ensure!(
            answer.status == case.status,
            "attempt {attempt}: {} {text}",
            answer.status
        );
        ensure!(
            text.contains(case.says),
            "the answer does not mention {:?}: {text}",
            case.says
        );
        ensure!(tester.answered(case.status)? == before + 1.0, "not counted");
        let stored = tester.stored("unreadable")?;
        ensure!(stored.is_empty(), "stored: {stored:?}");
    }
    Ok(())
}

fn refused(now_ms: i64) -> Vec<Refused> {
    let case = |name, reason, extra: Vec<(&str, Vec<u8>)>| {
        let mut labels = labels(name, "bad");
        labels.extend(extra.into_iter().map(|(name, value)| (name.into(), value)));
        Refused {
            name,
            bad: TimeSeries::new(labels, [(now_ms, 2.0), (now_ms + 1, 3.0)]),
            reason,
            samples: 2,
        }
    };
    let timed = |name, reason, at_ms: i64| {
        let bad = TimeSeries::new(labels(name, "bad"), [(at_ms, 2.0)]);
        Refused {
            name,
            bad,
            reason,
            samples: 1,
        }
    };
    let mut nameless = case("no metric name", "missing_metric_name", Vec::new());
    nameless.bad.labels.retain(|label| label.name != b"__name__");
    let mut many = case("too many labels", "too_many_labels", Vec::new());
    let extra = (0..64).map(|number| (format!("label_{number}"), "x"));
    many.bad.labels.extend(TimeSeries::new(extra, []).labels);
    let mut long_name = case("a long label name", "label_name_too_long", Vec::new());
    long_name
        .bad
        .labels
        .extend(TimeSeries::new([("n".repeat(1_025), "x")], []).labels);
    let mut broken_name = case("a label name that is no UTF-8", "invalid_utf8", Vec::new());
    broken_name
        .bad
        .labels
        .extend(TimeSeries::new([(vec![b'n', 0xc3, 0x28], "x")], []).labels);
    vec![
        nameless,
        case(
            "two metric names",
            "duplicate_label_name",
            vec![("__name__", b"worse".to_vec())],
        ),
        case(
            "an empty label name",
            "empty_label_name",
            vec![("", b"x".to_vec())],
        ),
        case(
            "a label twice",
            "duplicate_label_name",
            vec![("zone", b"x".to_vec()), ("zone", b"x".to_vec())],
        ),
        case(
            "a label value that is no UTF-8",
            "invalid_utf8",
            vec![("zone", vec![0xff, 0xfe])],
        ),
        broken_name,
        case(
            "a long label value",
            "label_value_too_long",
            vec![("zone", vec![b'v'; 4_097])],
        ),
        long_name,
        many,
        timed(
            "a timestamp beyond retention",
            "too_old",
            now_ms - 16 * 24 * 60 * MINUTE_MS,
        ),
        timed("a negative timestamp", "too_old", -1),
        timed("the smallest timestamp", "too_old", i64::MIN),
        timed(
            "a timestamp too far ahead",
            "too_far_ahead",
            now_ms + 20 * MINUTE_MS,
        ),
        timed("the largest timestamp", "too_far_ahead", i64::MAX),
    ]
}

/// The bad series is refused and counted; the good one beside it is stored, once, whatever is retried.
fn refuse_part(tester: &Tester, case: &Refused, now_ms: i64) -> Result<()> {
    for attempt in 1..=2 {
        let before = tester.rejected(case.reason)?;
        let answer = tester.send(vec![
            good(case.name, now_ms),
            case.bad.clone(),
            good(case.name, now_ms + 1),
        ])?;
        let text = answer.text();
        ensure!(
            answer.status == 400,
            "attempt {attempt}: {} {text}",
            answer.status
        );
        ensure!(
            text.contains(case.reason),
            "the answer does not name {}: {text}",
            case.reason
        );
        let counted = tester.rejected(case.reason)? - before;
        ensure!(
            counted == case.samples as f64,
            "{counted} counted as {}",
            case.reason
        );
        let stored = tester.stored(case.name)?;
        let bits = 1_f64.to_bits();
        let expected = [
            ("good".to_owned(), now_ms, bits),
            ("good".to_owned(), now_ms + 1, bits),
        ];
        ensure!(stored == expected, "stored: {stored:?}");
    }
    Ok(())
}

/// The same over gRPC, as far as the protocol can carry it: its text fields are UTF-8 or the call fails.
fn refuse_part_by_grpc(tester: &Tester, case: &Refused, now_ms: i64) -> Result<()> {
    let name = format!("{} by gRPC", case.name);
    let mut bad = case.bad.clone();
    for label in bad.labels.iter_mut().filter(|label| label.name == b"case") {
        label.value = name.clone().into_bytes();
    }
    let request = RawWrite {
        sequence: 7,
        timeseries: vec![good(&name, now_ms), bad],
    };
    let before = tester.rejected(case.reason)?;
    let outcome = tester.runtime.block_on(write_raw(&tester.client, request));
    let stored = tester.stored(&name)?;
    if case.reason == "invalid_utf8" {
        ensure!(outcome.is_err(), "taken: {outcome:?}");
        ensure!(stored.is_empty(), "stored: {stored:?}");
        return Ok(());
    }
    let response = outcome.map_err(|status| anyhow::anyhow!("{status}"))?;
    ensure!(response.sequence == 7 && response.error.is_none(), "{response:?}");
    let rejections: Vec<_> = response
        .rejections
        .iter()
        .map(|one| (one.reason.as_str(), one.samples))
        .collect();
    ensure!(rejections == [(case.reason, case.samples)], "{rejections:?}");
    ensure!(
        response.rejections.iter().all(|one| !one.first.is_empty()),
        "nothing says which: {response:?}"
    );
    let counted = tester.rejected(case.reason)? - before;
    ensure!(
        counted == case.samples as f64,
        "{counted} counted as {}",
        case.reason
    );
    ensure!(
        stored == [("good".to_owned(), now_ms, 1_f64.to_bits())],
        "stored: {stored:?}"
    );
    Ok(())
}

/// `quorate.v1.WriteRequest` with labels of any bytes.
#[derive(Clone, PartialEq, Message)]
struct RawWrite {
    #[prost(uint64, tag = "1")]
    sequence: u64,
    #[prost(message, repeated, tag = "2")]
    timeseries: Vec<TimeSeries>,
}

async fn write_raw(client: &Client, request: RawWrite) -> Result<v1::WriteResponse, tonic::Status> {
    let address = client.endpoints().next().unwrap_or_default();
    let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{address}"));
    let connect = async { endpoint?.timeout(Duration::from_secs(15)).connect().await };
    let channel = connect
        .await
        .map_err(|error| tonic::Status::unavailable(error.to_string()))?;
    let mut grpc = tonic::client::Grpc::new(channel);
    grpc.ready()
        .await
        .map_err(|error| tonic::Status::unavailable(error.to_string()))?;
    let path = tonic::codegen::http::uri::PathAndQuery::from_static("/quorate.v1.Write/Write");
    let codec = tonic_prost::ProstCodec::<RawWrite, v1::WriteResponse>::default();
    Ok(grpc
        .unary(tonic::Request::new(request), path, codec)
        .await?
        .into_inner())
}

type Check = fn(&Tester, i64) -> Result<()>;

/// What takes more than one request, or is no mistake.
const SEQUENCES: [(&str, Check); 8] = [
    ("an empty request", empty),
    ("special values keep their bits", special_values),
    ("the same timestamp with another value", another_value),
    ("out of order", out_of_order),
    ("samples of one request in any order", unordered_request),
    ("a 64 MiB request", too_large),
    ("a slow sender", slow_sender),
    ("a sender that goes away", gone_sender),
];

fn expect(answer: &Answer, status: u16) -> Result<()> {
    ensure!(
        answer.status == status,
        "expected {status}, found {} {}",
        answer.status,
        answer.text()
    );
    Ok(())
}

fn empty(tester: &Tester, now_ms: i64) -> Result<()> {
    expect(&tester.send(Vec::new())?, 204)?;
    // A series without samples is no mistake, and leaves no series.
    expect(
        &tester.send(vec![TimeSeries::new(labels("empty", "hollow"), [])])?,
        204,
    )?;
    expect(
        &tester.send(vec![TimeSeries::new(labels("empty", "full"), [(now_ms, 1.0)])])?,
        204,
    )?;
    ensure!(
        tester.stored("empty")? == [("full".to_owned(), now_ms, 1_f64.to_bits())],
        "{:?}",
        tester.stored("empty")?
    );
    Ok(())
}

fn special_values(tester: &Tester, now_ms: i64) -> Result<()> {
    let bits = [
        STALE_MARKER.to_bits(),
        0x7ff8_0000_0000_0001,
        0xfff8_dead_beef_0001,
        0x8000_0000_0000_0000,
        0x7ff0_0000_0000_0000,
        0xfff0_0000_0000_0000,
        1,
    ];
    let samples: Vec<_> = bits
        .iter()
        .zip(now_ms..)
        .map(|(bits, at_ms)| (at_ms, f64::from_bits(*bits)))
        .collect();
    let series = TimeSeries::new(labels("special", "special"), samples);
    expect(&tester.send(vec![series.clone()])?, 204)?;
    let expected: Stored = bits
        .iter()
        .zip(now_ms..)
        .map(|(bits, at_ms)| ("special".to_owned(), at_ms, *bits))
        .collect();
    ensure!(
        tester.stored("special")? == expected,
        "{:x?}",
        tester.stored("special")?
    );
    // Equal is what has the same bits: NaN too.
    expect(&tester.send(vec![series])?, 204)?;
    ensure!(
        tester.stored("special")? == expected,
        "after a retry: {:x?}",
        tester.stored("special")?
    );
    // Another NaN is another value, and so is the other zero.
    let others = [(now_ms, f64::from_bits(0x7ff8_0000_0000_0001)), (now_ms + 3, 0.0)];
    let answer = tester.send(vec![TimeSeries::new(labels("special", "special"), others)])?;
    expect(&answer, 400)?;
    ensure!(
        tester.stored("special")? == expected,
        "the first must stay: {:x?}",
        tester.stored("special")?
    );
    Ok(())
}

fn another_value(tester: &Tester, now_ms: i64) -> Result<()> {
    let write = |value| {
        tester.send(vec![TimeSeries::new(
            labels("another", "value"),
            [(now_ms, value)],
        )])
    };
    let before = tester.rejected("duplicate_timestamp")?;
    expect(&write(1.0)?, 204)?;
    expect(&write(1.0)?, 204)?;
    let answer = write(2.0)?;
    expect(&answer, 400)?;
    ensure!(answer.text().contains("duplicate_timestamp"), "{}", answer.text());
    ensure!(
        tester.rejected("duplicate_timestamp")? == before + 1.0,
        "not counted once"
    );
    ensure!(
        tester.stored("another")? == [("value".to_owned(), now_ms, 1_f64.to_bits())],
        "{:?}",
        tester.stored("another")?
    );
    Ok(())
}

fn out_of_order(tester: &Tester, now_ms: i64) -> Result<()> {
    let write = |minutes: i64| {
        let at_ms = now_ms - minutes * MINUTE_MS;
        tester.send(vec![TimeSeries::new(
            labels("order", "order"),
            [(at_ms, minutes as f64)],
        )])
    };
    let before = tester.rejected("out_of_order")?;
    // In order at any age; then late within the window of 30 minutes, at its edge and beyond it.
    for (minutes, status) in [
        (600, 204),
        (60, 204),
        (0, 204),
        (29, 204),
        (31, 400),
        (5, 204),
        (600, 204),
    ] {
        let answer = write(minutes)?;
        expect(&answer, status).with_context(|| format!("{minutes} minutes ago"))?;
        ensure!(
            status == 204 || answer.text().contains("out_of_order"),
            "{}",
            answer.text()
        );
    }
    ensure!(
        tester.rejected("out_of_order")? == before + 1.0,
        "not counted once"
    );
    let minutes: Vec<i64> = tester
        .stored("order")?
        .iter()
        .map(|(_, at_ms, _)| (now_ms - at_ms) / MINUTE_MS)
        .collect();
    ensure!(minutes == [600, 60, 29, 5, 0], "stored: {minutes:?}");
    Ok(())
}

fn unordered_request(tester: &Tester, now_ms: i64) -> Result<()> {
    let samples = [3, 1, 2].map(|offset| (now_ms + offset, offset as f64));
    let series = || TimeSeries::new(labels("unordered", "unordered"), samples);
    // The same series twice in one request, too.
    expect(&tester.send(vec![series(), series()])?, 204)?;
    let stored = tester.stored("unordered")?;
    let times: Vec<i64> = stored.iter().map(|(_, at_ms, _)| at_ms - now_ms).collect();
    ensure!(times == [1, 2, 3], "{stored:?}");
    Ok(())
}

fn too_large(tester: &Tester, now_ms: i64) -> Result<()> {
    let total: usize = 64 << 20;
    let before = tester.answered(413)?;
    let pieces = std::iter::repeat_with(|| vec![0x55; 1 << 20]).take(total >> 20);
    let answer = post_in_pieces(
        &tester.node,
        PATH,
        &HEADERS,
        total,
        pieces,
        Duration::ZERO,
        Duration::from_secs(15),
    )?;
    expect(&answer, 413)?;
    ensure!(answer.text().contains("bytes"), "{}", answer.text());
    ensure!(tester.answered(413)? == before + 1.0, "not counted");
    expect(&tester.send(vec![good("large", now_ms)])?, 204)?;
    ensure!(tester.stored("large")?.len() == 1, "the node does not go on");
    Ok(())
}

fn slow_sender(tester: &Tester, now_ms: i64) -> Result<()> {
    let body = remote_write::encode(vec![good("slow", now_ms)])?;
    let bytes = body.iter().map(|byte| vec![*byte]).cycle();
    // A byte now and then of a body that never ends; the node waits ten seconds for all of it.
    let started = std::time::Instant::now();
    let until = Duration::from_secs(25);
    let pieces = bytes.take_while(|_| started.elapsed() < until);
    let answer = post_in_pieces(
        &tester.node,
        PATH,
        &HEADERS,
        1 << 20,
        pieces,
        Duration::from_millis(100),
        until,
    )?;
    expect(&answer, 408)?;
    ensure!(answer.text().contains("ms"), "{}", answer.text());
    ensure!(
        tester.stored("slow")?.is_empty(),
        "stored: {:?}",
        tester.stored("slow")?
    );
    // Meanwhile and after, others are served.
    expect(&tester.send(vec![good("slow", now_ms)])?, 204)
}

fn gone_sender(tester: &Tester, now_ms: i64) -> Result<()> {
    use std::io::Write as _;
    let body = remote_write::encode(vec![good("gone", now_ms)])?;
    let mut stream = std::net::TcpStream::connect(&tester.node)?;
    write!(
        stream,
        "POST {PATH} HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n",
        body.len()
    )?;
    stream.write_all(body.get(..body.len() - 1).unwrap_or_default())?;
    drop(stream);
    let stored = tester.stored("gone")?;
    if !stored.is_empty() {
        bail!("a request that broke off is stored: {stored:?}");
    }
    expect(&tester.send(vec![good("gone", now_ms)])?, 204)
}
