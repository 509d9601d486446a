//! The pipelined write stream, against scripted servers.

use crate::fake::{Fake, State, Step};
use quorate_client::{Client, ClientBuilder, ClientError, ErrorCode, Series};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

fn client(fakes: &[&Fake]) -> ClientBuilder {
    Client::builder()
        .endpoints(fakes.iter().map(|fake| fake.address.clone()))
        .timeout(Duration::from_secs(20))
        .attempt_timeout(Duration::from_millis(500))
}

fn sample(number: i64) -> Vec<Series> {
    vec![Series::new("up").sample(number, number as f64)]
}

fn stored(state: &State) -> impl Iterator<Item = i64> {
    state
        .stored
        .iter()
        .map(|request| request.timeseries[0].samples[0].timestamp)
}

#[tokio::test]
async fn acknowledges_every_message_and_bounds_those_in_flight() {
    let fake = Fake::start([]);
    fake.state.lock().unwrap().stream_delay = Duration::from_micros(200);
    let stream = client(&[&fake]).connect().unwrap().write_stream(8);
    let mut pending = Vec::new();
    for number in 0..500 {
        pending.push(stream.send(sample(number)).await.unwrap());
    }
    for acknowledged in pending {
        assert_eq!(acknowledged.await.unwrap().samples_stored, 1);
    }
    stream.close().await;
    let state = fake.state.lock().unwrap();
    assert!(
        stored(&state).eq(0..500),
        "each once and in order when nothing fails"
    );
    assert!(
        (2..=8).contains(&state.most_unanswered),
        "{} in flight",
        state.most_unanswered
    );
}

#[tokio::test]
async fn resends_what_was_not_acknowledged_on_another_endpoint() {
    let (first, second) = (Fake::start([]), Fake::start([]));
    first.state.lock().unwrap().stream_delay = Duration::from_millis(2);
    let stream = client(&[&first, &second]).connect().unwrap().write_stream(64);
    let mut pending = Vec::new();
    for number in 0..40 {
        pending.push(stream.send(sample(number)).await.unwrap());
    }
    let deadline = Instant::now() + Duration::from_secs(10);
    while first.state.lock().unwrap().stored.len() < 5 {
        assert!(Instant::now() < deadline, "nothing reached the first endpoint");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let before = first.kill();
    for number in 40..100 {
        pending.push(stream.send(sample(number)).await.unwrap());
    }
    for acknowledged in pending {
        acknowledged.await.unwrap();
    }
    stream.close().await;
    let (before, after) = (before.lock().unwrap(), second.state.lock().unwrap());
    let all: BTreeSet<i64> = stored(&before).chain(stored(&after)).collect();
    assert!(all.into_iter().eq(0..100));
    assert!(
        (5..40).contains(&before.stored.len()),
        "{} before the kill",
        before.stored.len()
    );
}

#[tokio::test]
async fn a_stalled_endpoint_is_left() {
    let (hanging, alive) = (Fake::start([Step::Store, Step::Hang]), Fake::start([]));
    let stream = client(&[&hanging, &alive]).connect().unwrap().write_stream(4);
    let mut pending = Vec::new();
    for number in 0..10 {
        pending.push(stream.send(sample(number)).await.unwrap());
    }
    for acknowledged in pending {
        acknowledged.await.unwrap();
    }
    assert_eq!(stored(&hanging.state.lock().unwrap()).collect::<Vec<_>>(), [0]);
    assert!(stored(&alive.state.lock().unwrap()).eq(1..10));
}

#[tokio::test]
async fn one_failed_message_does_not_disturb_the_others() {
    let fake = Fake::start([
        Step::Store,
        Step::Respond(ErrorCode::NoLeader),
        Step::Respond(ErrorCode::BadData),
        Step::Store,
        Step::Reject(1),
    ]);
    let stream = client(&[&fake]).connect().unwrap().write_stream(16);
    let mut pending = Vec::new();
    for number in 0..5 {
        pending.push(stream.send(sample(number)).await.unwrap());
    }
    let mut results = Vec::new();
    for acknowledged in pending {
        results.push(acknowledged.await);
    }
    assert_eq!(results[2].as_ref().unwrap_err().code(), Some(ErrorCode::BadData));
    assert_eq!(results[4].as_ref().unwrap().samples_rejected(), 1);
    let state = fake.state.lock().unwrap();
    assert_eq!(
        stored(&state).collect::<Vec<_>>(),
        [0, 3, 1],
        "the retryable one is sent again"
    );
    assert_eq!(state.arrivals.len(), 1, "on the same stream");
}

#[tokio::test]
async fn messages_fail_at_their_deadline_and_free_their_place() {
    let fake = Fake::start(std::iter::repeat_n(Step::Hang, 100));
    let stream = client(&[&fake])
        .timeout(Duration::from_millis(300))
        .connect()
        .unwrap()
        .write_stream(2);
    let started = Instant::now();
    for number in 0..4 {
        let pending = stream.send(sample(number)).await.unwrap();
        let error = pending.await.unwrap_err();
        assert!(matches!(error, ClientError::DeadlineExceeded { .. }), "{error:?}");
    }
    stream.close().await;
    assert!(started.elapsed() < Duration::from_secs(10));
}

#[tokio::test]
async fn closing_waits_for_what_is_in_flight() {
    let fake = Fake::start([]);
    fake.state.lock().unwrap().stream_delay = Duration::from_millis(20);
    let stream = client(&[&fake]).connect().unwrap().write_stream(16);
    for number in 0..10 {
        drop(stream.send(sample(number)).await.unwrap());
    }
    stream.close().await;
    assert_eq!(fake.state.lock().unwrap().stored.len(), 10);
}
