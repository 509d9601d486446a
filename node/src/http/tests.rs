//! The frontend as clients see it: real sockets, a made-up node behind the traits.

mod endpoints;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use quorate_proto::ErrorCode;
use quorate_query::value::{Value, VectorSample};
use quorate_storage::{Labels, SampleColumns};
use tokio_util::sync::CancellationToken;

use super::*;
use crate::api::*;
use crate::cardinality::NodeCardinality;
use crate::config::ByteSize;

const NOW_MS: i64 = 1_700_000_000_123;
const MEDIA: &str = "application/x-protobuf";

struct FixedClock;

impl Clock for FixedClock {
    fn now_ms(&self) -> i64 {
        NOW_MS
    }
}

/// Remembers what it was asked and answers what it was told to.
#[derive(Default)]
struct Fake {
    writes: Mutex<Vec<(String, Vec<u8>)>>,
    asked: Mutex<Vec<String>>,
    write_outcome: Mutex<Option<Result<WriteReport, ApiError>>>,
    query_outcome: Mutex<Option<Result<Value, ApiError>>>,
    /// Queries and writes wait for it when it is set.
    hold: Mutex<Option<CancellationToken>>,
    pending: Mutex<Vec<String>>,
}

impl Fake {
    async fn held(&self) {
        let hold = self.hold.lock().clone();
        if let Some(hold) = hold {
            hold.cancelled().await;
        }
    }

    fn asked<T>(&self, question: String, value: T) -> Result<Answer<T>, ApiError> {
        self.asked.lock().push(question);
        let shard = ShardRead {
            shard: 1,
            node: 2,
            applied_before: 7,
            applied_after: 9,
            staleness_ms: Some(0),
        };
        let report = ReadReport {
            level: ReadLevel::Linearizable,
            shards: vec![shard],
        };
        Ok(Answer {
            value,
            warnings: vec![],
            infos: vec![],
            report,
            cost: QueryCost {
                samples: 12,
                ..QueryCost::default()
            },
        })
    }

    async fn value(&self, question: String) -> Result<Answer<Value>, ApiError> {
        self.held().await;
        let outcome = self.query_outcome.lock().clone();
        let value = outcome.unwrap_or(Ok(Value::Scalar {
            timestamp_ms: 1_500,
            value: 1e-7,
        }))?;
        self.asked(question, value)
    }
}

impl WriteApi for Fake {
    fn remote_write(&self, request: RemoteWrite) -> BoxFuture<'_, Result<WriteReport, ApiError>> {
        Box::pin(async move {
            self.held().await;
            assert_eq!(request.charge.bytes(), request.body.len() as u64);
            self.writes
                .lock()
                .push((request.caller.tenant.to_string(), request.body.to_vec()));
            self.write_outcome
                .lock()
                .clone()
                .unwrap_or(Ok(WriteReport::default()))
        })
    }
}

impl AdminApi for Fake {
    fn check(&self) -> Result<(), ApiError> {
        Ok(())
    }
    fn delete_series(&self, caller: Caller, params: DeleteParams) -> BoxFuture<'_, Result<(), ApiError>> {
        self.asked.lock().push(format!("{} {params:?}", caller.tenant));
        Box::pin(std::future::ready(Ok(())))
    }
}

impl QueryApi for Fake {
    fn instant(
        &self,
        caller: Caller,
        params: InstantParams,
    ) -> BoxFuture<'_, Result<Answer<Value>, ApiError>> {
        Box::pin(self.value(format!("{} {params:?}", caller.tenant)))
    }
    fn range(&self, caller: Caller, params: RangeParams) -> BoxFuture<'_, Result<Answer<Value>, ApiError>> {
        Box::pin(self.value(format!("{} {params:?}", caller.tenant)))
    }
    fn raw(&self, _: Caller, params: RawParams) -> BoxFuture<'_, Result<Answer<Vec<RawSeries>>, ApiError>> {
        Box::pin(async move {
            let question = format!("{:?} {} {}", params.matchers, params.start_ms, params.end_ms);
            let mut samples = SampleColumns::new();
            samples.push(NOW_MS - 1_000, 1.5);
            samples.push(NOW_MS, f64::from_bits(0x7ff0_0000_0000_0002));
            let series = |job: &str, samples: &SampleColumns| RawSeries {
                labels: Labels::from_pairs([("__name__", "up"), ("job", job)]).unwrap(),
                samples: samples.clone(),
            };
            let gone = series("a", &samples);
            samples.timestamps.pop();
            samples.values.pop();
            self.asked(question, vec![gone, series("b", &samples)])
        })
    }
    fn series(&self, _: Caller, params: MetaParams) -> BoxFuture<'_, Result<Answer<Vec<Labels>>, ApiError>> {
        let series =
            ["a", "b", "c"].map(|job| Labels::from_pairs([("__name__", "up"), ("job", job)]).unwrap());
        Box::pin(async move { self.asked(format!("{params:?}"), series.to_vec()) })
    }
    fn label_names(
        &self,
        _: Caller,
        params: MetaParams,
    ) -> BoxFuture<'_, Result<Answer<Vec<String>>, ApiError>> {
        Box::pin(async move { self.asked(format!("{params:?}"), vec!["__name__".into(), "job".into()]) })
    }
    fn label_values(
        &self,
        _: Caller,
        name: String,
        params: MetaParams,
    ) -> BoxFuture<'_, Result<Answer<Vec<String>>, ApiError>> {
        Box::pin(async move { self.asked(format!("{name} {params:?}"), vec![name]) })
    }
}

struct Server {
    // Dropped last, which closes the connections.
    runtime: tokio::runtime::Runtime,
    address: SocketAddr,
    backend: Arc<Backend>,
    metrics: Arc<Metrics>,
    fake: Arc<Fake>,
    agent: ureq::Agent,
}

struct Reply {
    status: u16,
    headers: http::HeaderMap,
    body: Vec<u8>,
}

impl Reply {
    fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }
}

#[test]
fn series_are_deleted_with_a_form_a_query_or_both() {
    let server = server();
    let path = "/api/v1/admin/tsdb/delete_series";
    let form = [("content-type", "application/x-www-form-urlencoded")];
    let reply = server.post(&format!("{path}?match[]=b&end=5"), &form, b"match[]=a&start=1.5");
    assert_eq!((reply.status, reply.text()), (204, ""));
    let asked = server.fake.asked.lock().pop().unwrap();
    let expected = DeleteParams {
        matches: vec!["a".into(), "b".into()],
        start_ms: 1_500,
        end_ms: 5_000,
    };
    assert_eq!(asked, format!("default {expected:?}"));
    assert_eq!(server.post(path, &form, b"match[]=a&start=x").status, 400);
    assert_eq!(server.get(path).status, 405);
    assert_eq!(
        server
            .post("/api/v1/admin/tsdb/clean_tombstones", &[], b"")
            .status,
        204
    );
}

fn server() -> Server {
    server_with(|_| {})
}

fn server_with(change: impl FnOnce(&mut Config)) -> Server {
    let mut config = Config::default();
    change(&mut config);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let listener = runtime
        .block_on(tokio::net::TcpListener::bind("127.0.0.1:0"))
        .unwrap();
    let address = listener.local_addr().unwrap();
    let (backend, metrics, fake) = (Backend::new(), Metrics::new(&config), Arc::new(Fake::default()));
    let pending = {
        let fake = fake.clone();
        Arc::new(move || fake.pending.lock().clone())
    };
    backend.open(Apis {
        write: fake.clone(),
        query: fake.clone(),
        admin: fake.clone(),
        pending,
        cardinality: Arc::new(|_| NodeCardinality {
            head_samples: 7,
            ..NodeCardinality::default()
        }),
    });
    let app = App::new(
        backend.clone(),
        metrics.clone(),
        HttpLimits::new(&config),
        Arc::new(FixedClock),
    );
    runtime.spawn(serve(listener, app, CancellationToken::new()));
    let agent = ureq::Agent::config_builder()
        .http_status_as_error(false)
        .timeout_global(Some(Duration::from_secs(20)))
        .build()
        .into();
    Server {
        runtime,
        address,
        backend,
        metrics,
        fake,
        agent,
    }
}

impl Server {
    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    fn read(outcome: Result<http::Response<ureq::Body>, ureq::Error>) -> Reply {
        let (parts, mut body) = outcome.unwrap().into_parts();
        Reply {
            status: parts.status.as_u16(),
            headers: parts.headers,
            body: body.read_to_vec().unwrap(),
        }
    }

    fn get(&self, path: &str) -> Reply {
        Self::read(self.agent.get(self.url(path)).call())
    }

    fn post(&self, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Reply {
        let mut request = self.agent.post(self.url(path));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        Self::read(request.send(body))
    }

    fn write(&self, body: &[u8]) -> Reply {
        self.post(
            "/api/v1/write",
            &[("content-type", MEDIA), ("content-encoding", "snappy")],
            body,
        )
    }

    fn raw(&self, text: &str) -> TcpStream {
        let mut stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream.write_all(text.as_bytes()).unwrap();
        stream
    }
}

fn read_all(mut stream: TcpStream) -> String {
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

#[test]
fn a_write_is_204_and_reaches_the_node_unchanged() {
    let server = server();
    let reply = server.write(b"compressed");
    assert_eq!((reply.status, reply.text()), (204, ""));
    let headers = [
        ("content-type", MEDIA),
        ("content-encoding", "snappy"),
        ("X-Scope-OrgID", "team-a"),
    ];
    assert_eq!(server.post("/api/v1/push", &headers, b"x").status, 204);
    let want = [
        ("default".to_string(), b"compressed".to_vec()),
        ("team-a".to_string(), b"x".to_vec()),
    ];
    assert_eq!(*server.fake.writes.lock(), want);
    assert_eq!(server.metrics.bytes_in_flight().used(), 0);
}

#[test]
fn other_media_is_415_before_the_body_is_judged() {
    let server = server();
    for (media, encoding) in [
        ("application/json", "snappy"),
        (
            "application/x-protobuf;proto=io.prometheus.write.v2.Request",
            "snappy",
        ),
        (MEDIA, "gzip"),
    ] {
        let reply = server.post(
            "/api/v1/write",
            &[("content-type", media), ("content-encoding", encoding)],
            b"junk",
        );
        assert_eq!(reply.status, 415, "{media} {encoding}");
        assert!(reply.text().contains("expected"), "{}", reply.text());
        assert_eq!(reply.header("retry-after"), "");
    }
    assert_eq!(server.get("/api/v1/write").status, 405);
    assert!(server.fake.writes.lock().is_empty());
}

#[test]
fn refused_samples_are_400_and_named() {
    let server = server();
    let refused = |reason, samples| Refused {
        reason,
        samples,
        first: format!("first {reason}"),
    };
    let report = WriteReport {
        stored: 5,
        duplicates: 1,
        rejections: vec![refused("too_old", 3), refused("series_limit", 1)],
    };
    *server.fake.write_outcome.lock() = Some(Ok(report));
    let reply = server.write(b"x");
    assert_eq!(reply.status, 400);
    assert_eq!(
        reply.text(),
        "4 of 10 samples were refused, the others are stored; 3 too_old, first: first too_old; 1 series_limit, first: first series_limit\n"
    );
    let figures = server.get("/metrics");
    assert!(
        figures
            .text()
            .contains("quorate_http_requests_total{handler=\"write\",code=\"400\"} 1\n")
    );
}

#[test]
fn passing_failures_are_503_with_retry_after() {
    let server = server();
    let error = ApiError::new(ErrorCode::NoQuorum, "2 of 3 replicas are gone");
    for (error, seconds) in [
        (error.clone(), "1"),
        (error.clone().retry_after(2_001), "3"),
        (error.retry_after(10), "1"),
    ] {
        *server.fake.write_outcome.lock() = Some(Err(error));
        let reply = server.write(b"x");
        assert_eq!((reply.status, reply.header("retry-after")), (503, seconds));
        assert_eq!(reply.text(), "no_quorum: 2 of 3 replicas are gone\n");
    }
}

#[test]
fn large_bodies_are_413_declared_or_not() {
    let server = server_with(|config| config.write.max_request_bytes = ByteSize(1_000));
    assert_eq!(server.write(&[7; 1_000]).status, 204);
    let reply = server.write(&[7; 1_001]);
    assert_eq!(
        (reply.status, reply.text()),
        (
            413,
            "too_large: expected a body of at most 1000 bytes, found 1001 or more\n"
        )
    );
    let head =
        "POST /api/v1/write HTTP/1.1\r\nhost: x\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n";
    let chunk = format!("258\r\n{}\r\n", "x".repeat(0x258));
    let text = read_all(server.raw(&format!("{head}{chunk}{chunk}0\r\n\r\n")));
    assert!(text.starts_with("HTTP/1.1 413"), "{text}");
    assert_eq!(server.metrics.bytes_in_flight().used(), 0);
}

#[test]
fn bytes_in_flight_are_bounded() {
    let server = server_with(|config| config.write.max_bytes_in_flight = ByteSize(100));
    let hold = CancellationToken::new();
    *server.fake.hold.lock() = Some(hold.clone());
    std::thread::scope(|scope| {
        let first = scope.spawn(|| server.write(&[7; 80]).status);
        while server.metrics.bytes_in_flight().used() != 80 {
            std::thread::yield_now();
        }
        let reply = server.write(&[7; 80]);
        assert_eq!((reply.status, reply.header("retry-after")), (503, "1"));
        assert!(reply.text().starts_with("overloaded: "), "{}", reply.text());
        hold.cancel();
        assert_eq!(first.join().unwrap(), 204);
    });
    assert_eq!(server.write(&[7; 80]).status, 204);
}

#[test]
fn a_slow_body_is_408() {
    let server = server_with(|config| config.write.read_body_timeout = Duration::from_millis(200));
    let head = "POST /api/v1/write HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 10\r\n\r\nabc";
    let text = read_all(server.raw(head));
    assert!(text.starts_with("HTTP/1.1 408"), "{text}");
    assert!(text.contains("took more than 200 ms"), "{text}");
    assert_eq!(server.metrics.bytes_in_flight().used(), 0);
}

#[test]
fn slow_headers_and_idle_connections_are_cut_off() {
    let server = server_with(|config| config.http_header_timeout = Duration::from_millis(200));
    for start in ["GET /-/healthy HTTP/1.1\r\nhost", ""] {
        let began = Instant::now();
        let text = read_all(server.raw(start));
        assert!(!text.contains("200 OK"), "{text}");
        assert!(began.elapsed() >= Duration::from_millis(190));
    }
}

#[test]
fn connections_are_bounded() {
    let server = server_with(|config| config.http_max_connections = 1);
    let first = server.raw("GET /-/healthy HTTP/1.1\r\nhost: x\r\n\r\n");
    let mut answered = [0; 12];
    (&first).read_exact(&mut answered).unwrap();
    let second = server.raw("GET /-/healthy HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    second.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    assert!((&second).read(&mut [0; 1]).is_err());
    drop(first);
    second.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    assert!(read_all(second).starts_with("HTTP/1.1 200"));
}

#[test]
fn a_node_that_starts_or_stops_says_so() {
    let server = server();
    *server.fake.pending.lock() = vec!["group 2: no leader".into()];
    let reply = server.get("/-/ready");
    assert_eq!(
        (reply.status, reply.text()),
        (503, "quorate is not ready:\ngroup 2: no leader\n")
    );
    server.fake.pending.lock().clear();
    assert_eq!(server.get("/-/ready").status, 200);
    server.backend.stop();
    assert_eq!(server.get("/-/ready").status, 503);
    assert_eq!(server.get("/-/healthy").status, 200);
    let reply = server.write(b"x");
    assert_eq!((reply.status, reply.header("retry-after")), (503, "1"));
    assert!(reply.text().starts_with("shutting_down: "));
    assert_eq!(server.get("/api/v1/query?query=1").status, 503);
}

#[test]
fn an_instant_query_in_prometheus_form() {
    let server = server();
    let reply = server.get("/api/v1/query?query=1e-7&time=1.5&lookback_delta=1m");
    assert_eq!(reply.status, 200);
    assert_eq!(
        reply.text(),
        r#"{"status":"success","data":{"resultType":"scalar","result":[1.5,"0.0000001"]}}"#
    );
    assert_eq!(reply.header("content-type"), "application/json");
    assert_eq!(reply.header("quorate-read-level"), "linearizable");
    let report = r#"{"level":"linearizable","shards":[{"shard":1,"node":2,"applied_before":7,"applied_after":9,"staleness_ms":0}]}"#;
    assert_eq!(reply.header("quorate-read-report"), report);
    server.get("/api/v1/query?query=up&read=bounded&max_staleness=5s");
    let params = |query: &str, time_ms, lookback_ms, read| {
        format!(
            "default {:?}",
            InstantParams {
                query: query.into(),
                time_ms,
                lookback_ms,
                read
            }
        )
    };
    let bounded = ReadOptions {
        level: Some(ReadLevel::Bounded),
        max_staleness_ms: Some(5_000),
    };
    let want = [
        params("1e-7", 1_500, Some(60_000), ReadOptions::default()),
        params("up", NOW_MS, None, bounded),
    ];
    assert_eq!(*server.fake.asked.lock(), want);
}

#[test]
fn forms_are_merged_with_the_url() {
    let server = server();
    let form = [
        ("content-type", "application/x-www-form-urlencoded"),
        ("x-scope-orgid", "t"),
    ];
    let reply = server.post(
        "/api/v1/query_range?step=15&query=no",
        &form,
        b"query=sum(up%7Bjob%3D%22a%22%7D)&start=10&end=20",
    );
    assert_eq!(reply.status, 200, "{}", reply.text());
    let params = RangeParams {
        query: "sum(up{job=\"a\"})".into(),
        start_ms: 10_000,
        end_ms: 20_000,
        step_ms: 15_000,
        lookback_ms: None,
        read: ReadOptions::default(),
    };
    assert_eq!(*server.fake.asked.lock(), [format!("t {params:?}")]);
    let json = [("content-type", "application/json")];
    assert_eq!(server.post("/api/v1/query", &json, b"{}").status, 415);
}

#[test]
fn failed_queries_in_prometheus_form() {
    let server = server();
    let fail =
        |code, message: &str| *server.fake.query_outcome.lock() = Some(Err(ApiError::new(code, message)));
    fail(ErrorCode::BadData, "1:5: parse error: unexpected end of input");
    let reply = server.get("/api/v1/query?query=sum(");
    assert_eq!(reply.status, 400);
    assert_eq!(
        reply.text(),
        r#"{"status":"error","errorType":"bad_data","error":"invalid parameter \"query\": 1:5: parse error: unexpected end of input"}"#
    );
    fail(ErrorCode::Execution, "many-to-many");
    let reply = server.get("/api/v1/query?query=a*b");
    assert_eq!(
        (reply.status, reply.text()),
        (
            422,
            r#"{"status":"error","errorType":"execution","error":"many-to-many"}"#
        )
    );
    fail(ErrorCode::NoLeader, "shard 3 has no leader");
    let reply = server.get("/api/v1/query?query=a");
    assert_eq!((reply.status, reply.header("retry-after")), (503, "1"));
    for (path, message) in [
        ("/api/v1/query?query=1&time=x", "invalid time value"),
        (
            "/api/v1/query?query=1&read=strong",
            "expected linearizable, bounded or local",
        ),
        ("/api/v1/query?query=1&limit=-1", "limit must be non-negative"),
        (
            "/api/v1/query_range?query=1&start=0&end=1&step=0",
            "zero or negative",
        ),
        (
            "/api/v1/query_range?query=1&start=0&end=11001&step=1",
            "11,000 points",
        ),
        ("/api/v1/series", "no match[] parameter provided"),
        ("/api/v1/labels?start=2&end=1", "must not be before"),
    ] {
        let reply = server.get(path);
        assert_eq!(reply.status, 400, "{path}");
        assert!(
            reply.text().contains(message) && reply.text().contains("\"bad_data\""),
            "{path} {}",
            reply.text()
        );
    }
    let reply = server.post("/api/v1/query?query=1", &[("x-scope-orgid", "a/b")], b"");
    assert_eq!(reply.status, 400);
    assert!(reply.text().contains("X-Scope-OrgID"));
    let reply = server.get("/api/v1/nothing");
    assert_eq!(reply.status, 404);
    assert!(reply.text().contains("\"errorType\":\"not_found\""));
}

#[test]
fn a_query_past_its_deadline_is_503_timeout() {
    let server = server();
    *server.fake.hold.lock() = Some(CancellationToken::new());
    let reply = server.get("/api/v1/query?query=1&timeout=100ms");
    assert_eq!(reply.status, 503);
    assert!(
        reply
            .text()
            .contains(r#""errorType":"timeout","error":"query timed out"#),
        "{}",
        reply.text()
    );
}

#[test]
fn a_client_that_leaves_cancels_its_query() {
    let server = server();
    let hold = CancellationToken::new();
    *server.fake.hold.lock() = Some(hold);
    let stream = server.raw("GET /api/v1/query?query=1 HTTP/1.1\r\nhost: x\r\n\r\n");
    while server.backend.still_running().is_empty() {
        std::thread::yield_now();
    }
    drop(stream);
    let (sender, gone) = std::sync::mpsc::channel();
    let backend = server.backend.clone();
    server.runtime.spawn(async move {
        backend.drained().await;
        let _receiver_waits = sender.send(());
    });
    gone.recv_timeout(Duration::from_secs(20)).unwrap();
}

#[test]
fn limits_truncate_with_a_warning() {
    let server = server();
    let reply = server.get("/api/v1/series?match[]=up&limit=2");
    assert_eq!(
        reply.text(),
        r#"{"status":"success","data":[{"__name__":"up","job":"a"},{"__name__":"up","job":"b"}],"warnings":["results truncated due to limit"]}"#
    );
    assert!(
        server
            .fake
            .asked
            .lock()
            .first()
            .unwrap()
            .contains("max_results: Some(3)")
    );
    let reply = server.get("/api/v1/labels?limit=2");
    assert_eq!(reply.text(), r#"{"status":"success","data":["__name__","job"]}"#);
    let sample = |value| VectorSample {
        labels: Labels::empty(),
        timestamp_ms: 0,
        value,
        histogram: None,
    };
    *server.fake.query_outcome.lock() = Some(Ok(Value::Vector(vec![sample(1.0), sample(2.0)])));
    let reply = server.get("/api/v1/query?query=up&limit=1");
    assert_eq!(
        reply.text(),
        r#"{"status":"success","data":{"resultType":"vector","result":[{"metric":{},"value":[0,"1"]}]},"warnings":["results truncated due to limit"]}"#
    );
}

#[test]
fn label_values_take_escaped_names() {
    let server = server();
    let reply = server.get("/api/v1/label/U__http_2e_status/values?match[]=up&match[]=down&start=1&end=2");
    assert_eq!(reply.text(), r#"{"status":"success","data":["http.status"]}"#);
    let meta = MetaParams {
        matches: vec!["up".into(), "down".into()],
        start_ms: 1_000,
        end_ms: 2_000,
        max_results: None,
        read: ReadOptions::default(),
    };
    assert_eq!(*server.fake.asked.lock(), [format!("http.status {meta:?}")]);
    assert_eq!(
        server.get("/api/v1/label/a%20b/values").text(),
        r#"{"status":"success","data":["a b"]}"#
    );
}

#[test]
fn answers_are_compressed_when_asked() {
    let server = server();
    let sample = VectorSample {
        labels: Labels::from_pairs([("a", "b".repeat(5_000).as_str())]).unwrap(),
        timestamp_ms: 0,
        value: 1.0,
        histogram: None,
    };
    *server.fake.query_outcome.lock() = Some(Ok(Value::Vector(vec![sample])));
    let request = "GET /api/v1/query?query=up HTTP/1.1\r\nhost: x\r\nconnection: close\r\naccept-encoding: gzip\r\n\r\n";
    let mut bytes = Vec::new();
    server.raw(request).read_to_end(&mut bytes).unwrap();
    let text = String::from_utf8_lossy(&bytes);
    assert!(text.contains("content-encoding: gzip"), "{text}");
    assert!(bytes.len() < 2_000, "{}", bytes.len());
}

#[test]
fn cardinality_has_the_shape_of_prometheus() {
    let server = server();
    let reply = server.get("/api/v1/status/tsdb?limit=5");
    let stats: serde_json::Value = serde_json::from_str(reply.text()).unwrap();
    assert_eq!(
        stats,
        serde_json::json!({"status": "success", "data": {
            "headStats": {
                "numSeries": 0, "numLabelPairs": 0, "chunkCount": 0,
                "minTime": i64::MAX, "maxTime": i64::MIN,
            },
            "seriesCountByMetricName": [],
            "labelValueCountByLabelName": [],
            "memoryInBytesByLabelName": [],
            "seriesCountByLabelValuePair": [],
        }})
    );
    for limit in ["0", "-1", "x", "10001"] {
        let reply = server.get(&format!("/api/v1/status/tsdb?limit={limit}"));
        assert_eq!(reply.status, 400, "{limit}");
    }
}

#[test]
fn what_grafana_and_browsers_ask_first() {
    let server = server();
    let reply = server.get("/api/v1/status/buildinfo");
    let info: serde_json::Value = serde_json::from_str(reply.text()).unwrap();
    assert_eq!(info["status"], "success");
    assert!(info["data"]["version"].as_str().unwrap().starts_with("3."));
    assert_eq!(
        server.get("/api/v1/metadata").text(),
        r#"{"status":"success","data":{}}"#
    );
    let text = read_all(server.raw("OPTIONS /api/v1/query HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"));
    assert!(text.starts_with("HTTP/1.1 204"), "{text}");
    assert!(text.contains("access-control-allow-origin: *"), "{text}");
    assert!(
        server
            .get("/metrics")
            .header("content-type")
            .starts_with("text/plain; version=0.0.4")
    );
}
