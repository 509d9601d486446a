//! Retries, failover and deadlines of single calls, against scripted servers.

use crate::fake::{Fake, Step};
use quorate_client::{
    Client, ClientBuilder, ClientError, ErrorCode, QueryOptions, RangeWindow, Series, Value,
};
use quorate_proto::v1;
use std::time::{Duration, Instant};

fn client(fakes: &[&Fake]) -> ClientBuilder {
    Client::builder()
        .endpoints(fakes.iter().map(|fake| fake.address.clone()))
        .timeout(Duration::from_secs(20))
}

fn one_sample() -> Vec<Series> {
    vec![Series::new("up").label("job", "test").sample(1_000, 1.0)]
}

#[tokio::test]
async fn retries_retryable_codes_and_waits_as_asked() {
    let fake = Fake::start([
        Step::Fail(ErrorCode::NoLeader, Some(300)),
        Step::Respond(ErrorCode::NoQuorum),
        Step::Store,
    ]);
    let written = client(&[&fake])
        .connect()
        .unwrap()
        .write(one_sample())
        .await
        .unwrap();
    assert_eq!(written.samples_stored, 1);
    assert_eq!((written.receipts[0].shard, written.receipts[0].index), (3, 7));
    let arrivals = fake.arrivals();
    assert_eq!(arrivals.len(), 3);
    assert!(arrivals[1].at - arrivals[0].at >= Duration::from_millis(300));
}

#[tokio::test]
async fn every_code_is_retried_exactly_when_the_table_says_so() {
    for code in ErrorCode::ALL {
        for step in [Step::Fail(*code, None), Step::Respond(*code)] {
            let fake = Fake::start([step]);
            let result = client(&[&fake]).connect().unwrap().write(one_sample()).await;
            assert_eq!(result.is_ok(), code.retryable(), "{code:?}: {result:?}");
            assert_eq!(
                fake.arrivals().len(),
                1 + usize::from(code.retryable()),
                "{code:?}"
            );
            if let Err(error) = result {
                assert_eq!(error.code(), Some(*code));
            }
        }
    }
}

#[tokio::test]
async fn rejections_are_a_success_with_details() {
    let fake = Fake::start([Step::Reject(4)]);
    let written = client(&[&fake])
        .connect()
        .unwrap()
        .write(one_sample())
        .await
        .unwrap();
    assert_eq!(written.samples_rejected(), 4);
    assert_eq!(written.rejections[0].reason, "too_old");
}

#[tokio::test]
async fn sends_tenant_and_deadline() {
    let fake = Fake::start([]);
    let client = client(&[&fake]).connect().unwrap();
    client.write(one_sample()).await.unwrap();
    client
        .with_tenant("team-a")
        .unwrap()
        .write(one_sample())
        .await
        .unwrap();
    let arrivals = fake.arrivals();
    let tenants: Vec<_> = arrivals.iter().map(|arrival| arrival.tenant.as_deref()).collect();
    assert_eq!(tenants, [Some("default"), Some("team-a")]);
    assert!(arrivals.iter().all(|arrival| arrival.has_timeout));
}

#[tokio::test]
async fn a_dead_endpoint_is_left_out_and_taken_back() {
    let (alive, dying) = (Fake::start([]), Fake::start([]));
    let address = dying.address.clone();
    let client = client(&[&dying, &alive]).connect().unwrap();
    for _ in 0..10 {
        client.write(one_sample()).await.unwrap();
    }
    assert_eq!(dying.arrivals().len(), 5);
    drop(dying);
    for _ in 0..20 {
        client.write(one_sample()).await.unwrap();
    }
    assert_eq!(alive.arrivals().len(), 25);
    let back = Fake::start_at(&address, []);
    let deadline = Instant::now() + Duration::from_secs(15);
    while back.arrivals().is_empty() {
        assert!(Instant::now() < deadline, "the returned endpoint is never asked");
        client.write(one_sample()).await.unwrap();
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn an_endpoint_that_hangs_is_given_up_for_another() {
    let (hanging, alive) = (Fake::start([Step::Hang, Step::Hang]), Fake::start([]));
    let client = client(&[&hanging, &alive])
        .attempt_timeout(Duration::from_millis(200))
        .connect()
        .unwrap();
    let started = Instant::now();
    client.write(one_sample()).await.unwrap();
    client.write(one_sample()).await.unwrap();
    assert!(started.elapsed() < Duration::from_secs(5));
    assert_eq!(alive.arrivals().len(), 2);
}

#[tokio::test]
async fn an_overloaded_endpoint_is_passed_over_without_a_pause() {
    let (full, free) = (
        Fake::start([Step::Fail(ErrorCode::Overloaded, Some(60_000))]),
        Fake::start([]),
    );
    let client = client(&[&full, &free]).connect().unwrap();
    let started = Instant::now();
    client.write(one_sample()).await.unwrap();
    assert!(started.elapsed() < Duration::from_secs(10));
    assert_eq!((full.arrivals().len(), free.arrivals().len()), (1, 1));
}

#[tokio::test]
async fn the_deadline_bounds_all_attempts_and_tells_the_last_failure() {
    let fake = Fake::start(std::iter::repeat_n(Step::Fail(ErrorCode::NoLeader, None), 1_000));
    let client = client(&[&fake])
        .timeout(Duration::from_millis(600))
        .connect()
        .unwrap();
    let started = Instant::now();
    let error = client.write(one_sample()).await.unwrap_err();
    assert!(started.elapsed() < Duration::from_secs(3));
    assert!(
        matches!(error, ClientError::DeadlineExceeded { attempts: 2.., .. }),
        "{error:?}"
    );
    assert_eq!(error.code(), Some(ErrorCode::NoLeader));
}

#[tokio::test]
async fn a_hanging_server_and_no_other_ends_with_the_deadline() {
    let fake = Fake::start(std::iter::repeat_n(Step::Hang, 10));
    let client = client(&[&fake])
        .timeout(Duration::from_millis(300))
        .connect()
        .unwrap();
    let error = client.write(one_sample()).await.unwrap_err();
    assert!(
        matches!(error, ClientError::DeadlineExceeded { attempts: 1, .. }),
        "{error:?}"
    );
}

#[tokio::test]
async fn one_attempt_means_no_retry() {
    let fake = Fake::start([Step::Fail(ErrorCode::NoLeader, None)]);
    let client = client(&[&fake]).max_attempts(1).connect().unwrap();
    let error = client.write(one_sample()).await.unwrap_err();
    assert!(
        matches!(
            error,
            ClientError::Server {
                code: ErrorCode::NoLeader,
                ..
            }
        ),
        "{error:?}"
    );
    assert_eq!(fake.arrivals().len(), 1);
}

#[tokio::test]
async fn instant_answers_are_typed_and_retried() {
    let fake = Fake::start([]);
    let sample = v1::VectorSample {
        labels: vec![v1::Label {
            name: "__name__".into(),
            value: "up".into(),
        }],
        timestamp: 5,
        value: Some(2.5),
    };
    let answer = v1::InstantResponse {
        value: Some(v1::instant_response::Value::Vector(v1::Vector {
            samples: vec![sample],
        })),
        report: Some(v1::ReadReport {
            level: v1::ReadLevel::Local.into(),
            shards: vec![],
        }),
        ..Default::default()
    };
    fake.state.lock().unwrap().instant = [Err(ErrorCode::Starting), Ok(answer)].into();
    let client = client(&[&fake]).connect().unwrap();
    let answer = client.instant("up", &QueryOptions::default()).await.unwrap();
    let Value::Vector(samples) = &answer.value else {
        panic!("{answer:?}")
    };
    assert_eq!(
        (samples[0].0.to_string().as_str(), samples[0].1.value),
        ("up", 2.5)
    );
    assert_eq!(answer.report.level, "local");
}

fn piece(timestamp: i64, bits: u64) -> v1::MatrixSeries {
    let labels = vec![v1::Label {
        name: "a".into(),
        value: "b".into(),
    }];
    v1::MatrixSeries {
        labels,
        timestamps: vec![timestamp],
        value_bits: vec![bits],
        histograms: Vec::new(),
    }
}

#[tokio::test]
async fn pieces_of_a_series_are_joined_bit_for_bit() {
    let stale = 0x7ff0_0000_0000_0002;
    let fake = Fake::start([]);
    let first = v1::RangeResponse {
        series: vec![piece(1, stale)],
        ..Default::default()
    };
    let last = v1::RangeResponse {
        series: vec![piece(2, 1.5f64.to_bits())],
        report: Some(v1::ReadReport::default()),
        ..Default::default()
    };
    fake.state.lock().unwrap().range = [vec![first.clone(), last.clone()], vec![first, last]].into();
    let window = RangeWindow {
        start_ms: 0,
        end_ms: 2,
        step_ms: 1,
    };
    let client = client(&[&fake]).connect().unwrap();
    let answer = client.range("x", window, &QueryOptions::default()).await.unwrap();
    assert_eq!(answer.series.len(), 1);
    assert_eq!(answer.series[0].timestamps_ms, [1, 2]);
    assert_eq!(answer.series[0].values[0].to_bits(), stale);

    let mut stream = client
        .range_stream("x", window, &QueryOptions::default())
        .await
        .unwrap();
    assert_eq!(stream.next().await.unwrap().unwrap().timestamps_ms, [1]);
    assert_eq!(stream.next().await.unwrap().unwrap().timestamps_ms, [2]);
    assert_eq!(stream.next().await.unwrap(), None);
    assert!(stream.report().is_some());
}

#[tokio::test]
async fn an_answer_that_is_cut_short_or_crooked_is_an_error() {
    let fake = Fake::start([]);
    let cut = v1::RangeResponse {
        series: vec![piece(1, 0)],
        ..Default::default()
    };
    let crooked = v1::MatrixSeries {
        timestamps: vec![1, 2],
        value_bits: vec![0],
        ..Default::default()
    };
    let crooked = v1::RangeResponse {
        series: vec![crooked],
        ..Default::default()
    };
    fake.state.lock().unwrap().range = [vec![cut], vec![crooked]].into();
    let window = RangeWindow {
        start_ms: 0,
        end_ms: 2,
        step_ms: 1,
    };
    let client = client(&[&fake]).connect().unwrap();
    for _ in 0..2 {
        let error = client
            .range("x", window, &QueryOptions::default())
            .await
            .unwrap_err();
        assert!(matches!(error, ClientError::Protocol { .. }), "{error:?}");
    }
}
