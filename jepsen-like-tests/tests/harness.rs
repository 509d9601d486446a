//! The harness itself: it finds nothing wrong with a server that keeps its promises, and finds the right thing
//! with servers that break one each.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use quorate_client::ReadLevel;
use quorate_jepsen_like_tests::checker::{Verdict, Violation};
use quorate_jepsen_like_tests::cluster::Node;
use quorate_jepsen_like_tests::history::Recorder;
use quorate_jepsen_like_tests::probes::Probes;
use quorate_jepsen_like_tests::workload::{Load, LoadOptions};
use quorate_jepsen_like_tests::{readback, wait};
use quorate_proto::v1::query_server::{Query, QueryServer};
use quorate_proto::v1::write_server::{Write, WriteServer};
use quorate_proto::v1::*;
use tokio::sync::mpsc;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{Request, Response, Status, Streaming};

const SHARDS: u32 = 4;
/// The faults that concern samples hit one in so many.
const ONE_IN: u64 = 997;

/// What a server does wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    None,
    /// Acknowledges a sample and forgets it; not of a probe, whose reads would be found stale too.
    Forgets,
    /// Returns a sample that was never sent.
    Invents,
    /// Keeps that something is not a number, and not its bits.
    OneNan,
    /// Loses the sign of zero.
    OneZero,
    /// Returns a sample twice.
    Repeats,
    /// Lists a series that nobody wrote.
    Haunted,
    /// Answers queries without the newest sample.
    Stale,
    /// Says of one commit that two leaders made it.
    SplitBrain,
}

type Labels = Vec<(String, String)>;

#[derive(Debug)]
struct Server {
    fault: Fault,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    series: BTreeMap<Labels, BTreeMap<i64, u64>>,
    samples: u64,
    commits: u64,
}

impl Server {
    /// Stores a request and says where.
    fn store(&self, request: WriteRequest) -> WriteResponse {
        let mut state = self.state.lock().unwrap();
        let mut receipts: BTreeMap<u32, u64> = BTreeMap::new();
        let mut stored = 0;
        for series in request.timeseries {
            let labels: Labels = series
                .labels
                .into_iter()
                .map(|label| (label.name, label.value))
                .collect();
            *receipts.entry(shard_of(&labels)).or_default() += series.samples.len() as u64;
            for sample in series.samples {
                state.samples += 1;
                stored += 1;
                let is_load = labels.iter().any(|(_, value)| value == "load");
                let forgotten =
                    self.fault == Fault::Forgets && is_load && state.samples.is_multiple_of(ONE_IN);
                let bits = match self.fault {
                    Fault::OneNan if sample.value.is_nan() => f64::NAN.to_bits(),
                    Fault::OneZero if sample.value == 0.0 => 0,
                    _ => sample.value.to_bits(),
                };
                if !forgotten {
                    state
                        .series
                        .entry(labels.clone())
                        .or_default()
                        .insert(sample.timestamp, bits);
                }
            }
        }
        state.commits += 1;
        let commits = state.commits;
        let receipt = |(shard, samples)| {
            let (mut term, mut index) = (1, commits);
            if self.fault == Fault::SplitBrain && commits.is_multiple_of(50) {
                (term, index) = (2, commits - 1);
            }
            Receipt {
                shard,
                epoch: 1,
                term,
                index,
                samples,
            }
        };
        WriteResponse {
            sequence: request.sequence,
            receipts: receipts.into_iter().map(receipt).collect(),
            samples_stored: stored,
            ..WriteResponse::default()
        }
    }
}

fn shard_of(labels: &Labels) -> u32 {
    let bytes = labels.iter().flat_map(|(_, value)| value.bytes());
    1 + bytes.fold(7_u32, |hash, byte| hash.wrapping_mul(31) ^ u32::from(byte)) % SHARDS
}

fn proto(labels: &Labels) -> Vec<Label> {
    let label = |(name, value): &(String, String)| Label {
        name: name.clone(),
        value: value.clone(),
    };
    labels.iter().map(label).collect()
}

fn report() -> Option<ReadReport> {
    Some(ReadReport {
        level: v1_level().into(),
        shards: Vec::new(),
    })
}

fn v1_level() -> quorate_proto::v1::ReadLevel {
    quorate_proto::v1::ReadLevel::Linearizable
}

struct Service(Arc<Server>);

#[tonic::async_trait]
impl Write for Service {
    async fn write(&self, request: Request<WriteRequest>) -> Result<Response<WriteResponse>, Status> {
        Ok(Response::new(self.0.store(request.into_inner())))
    }

    type WriteStreamStream = ReceiverStream<Result<WriteResponse, Status>>;

    async fn write_stream(
        &self,
        request: Request<Streaming<WriteRequest>>,
    ) -> Result<Response<Self::WriteStreamStream>, Status> {
        let mut messages = request.into_inner();
        let (answers, responses) = mpsc::channel(16);
        let server = self.0.clone();
        tokio::spawn(async move {
            while let Ok(Some(message)) = messages.message().await {
                if answers.send(Ok(server.store(message))).await.is_err() {
                    return;
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(responses)))
    }
}

type Messages<T> = tokio_stream::Iter<std::vec::IntoIter<Result<T, Status>>>;

#[tonic::async_trait]
impl Query for Service {
    /// Only ever asked for the probes.
    async fn instant(&self, request: Request<InstantRequest>) -> Result<Response<InstantResponse>, Status> {
        let metric = request.into_inner().query;
        let state = self.0.state.lock().unwrap();
        let back = usize::from(self.0.fault == Fault::Stale);
        let newest = |(labels, samples): (&Labels, &BTreeMap<i64, u64>)| {
            labels.iter().any(|(_, value)| *value == metric).then_some(())?;
            let (timestamp, bits) = samples.iter().nth_back(back)?;
            Some(VectorSample {
                labels: proto(labels),
                timestamp: *timestamp,
                value: Some(f64::from_bits(*bits)),
            })
        };
        let samples = state.series.iter().filter_map(newest).collect();
        let value = Some(instant_response::Value::Vector(Vector { samples }));
        Ok(Response::new(InstantResponse {
            value,
            report: report(),
            ..InstantResponse::default()
        }))
    }

    type RangeStream = Messages<RangeResponse>;

    async fn range(&self, _: Request<RangeRequest>) -> Result<Response<Self::RangeStream>, Status> {
        Err(Status::unimplemented("nobody asks"))
    }

    async fn series(&self, _: Request<SeriesRequest>) -> Result<Response<SeriesResponse>, Status> {
        let state = self.0.state.lock().unwrap();
        let mut series: Vec<LabelSet> = state
            .series
            .keys()
            .map(|labels| LabelSet {
                labels: proto(labels),
            })
            .collect();
        if self.0.fault == Fault::Haunted {
            series.push(LabelSet {
                labels: proto(&vec![("__name__".into(), "ghost".into())]),
            });
        }
        Ok(Response::new(SeriesResponse {
            series,
            report: report(),
            ..SeriesResponse::default()
        }))
    }

    async fn label_names(
        &self,
        _: Request<LabelNamesRequest>,
    ) -> Result<Response<LabelNamesResponse>, Status> {
        Err(Status::unimplemented("nobody asks"))
    }

    async fn label_values(
        &self,
        _: Request<LabelValuesRequest>,
    ) -> Result<Response<LabelValuesResponse>, Status> {
        Err(Status::unimplemented("nobody asks"))
    }

    type ReadStream = Messages<ReadResponse>;

    /// Selectors are `{instance="..."}` always.
    async fn read(&self, request: Request<ReadRequest>) -> Result<Response<Self::ReadStream>, Status> {
        let selector = request.into_inner().r#match;
        let instance = selector
            .split('"')
            .nth(1)
            .ok_or_else(|| Status::invalid_argument(selector.clone()))?;
        let state = self.0.state.lock().unwrap();
        let mut messages = Vec::new();
        for (labels, samples) in &state.series {
            if !labels
                .iter()
                .any(|(name, value)| name == "instance" && value == instance)
            {
                continue;
            }
            let mut columns: Vec<(i64, u64)> = samples
                .iter()
                .map(|(timestamp, bits)| (*timestamp, *bits))
                .collect();
            match (self.0.fault, columns.last().copied()) {
                (Fault::Invents, Some((timestamp, bits))) => columns.push((timestamp + 1, bits)),
                (Fault::Repeats, Some(last)) => columns.push(last),
                _ => {}
            }
            let (timestamps, value_bits) = columns.into_iter().unzip();
            let series = vec![MatrixSeries {
                labels: proto(labels),
                timestamps,
                value_bits,
                histograms: Vec::new(),
            }];
            messages.push(Ok(ReadResponse { series, report: None }));
        }
        messages.push(Ok(ReadResponse {
            series: Vec::new(),
            report: report(),
        }));
        Ok(Response::new(tokio_stream::iter(messages)))
    }
}

/// Loads a server with this fault, reads it back, and judges.
async fn verdict(fault: Fault) -> Result<Verdict> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    listener.set_nonblocking(true)?;
    let grpc = listener.local_addr()?.to_string();
    let server = Arc::new(Server {
        fault,
        state: Mutex::default(),
    });
    let incoming = TcpListenerStream::new(tokio::net::TcpListener::from_std(listener)?);
    let serving = tonic::transport::Server::builder()
        .add_service(WriteServer::new(Service(server.clone())))
        .add_service(QueryServer::new(Service(server.clone())))
        .serve_with_incoming(incoming);
    let serving = tokio::spawn(serving);
    let nodes = [Node {
        id: 1,
        pid: 0,
        http: grpc.clone(),
        grpc,
        dir: "/nonexistent".into(),
    }];
    let recorder = Recorder::default();
    let probes = Probes::start(&nodes, SHARDS, &recorder).await?;
    // Two writers speak gRPC only.
    let options = LoadOptions {
        samples_per_second: 20_000,
        writers: 2,
        series: 100,
    };
    let load = Load::start(&nodes, options, &recorder)?;
    wait::until_async("enough load", Duration::from_secs(60), async || {
        let (samples, commits) = {
            let state = server.state.lock().unwrap();
            (state.samples, state.commits)
        };
        ensure!(
            samples > 10_000 && commits > 200,
            "{samples} samples in {commits} commits"
        );
        Ok(())
    })
    .await?;
    load.stop().await?;
    probes.stop().await?;
    let verdict = readback::judge(&nodes, ReadLevel::Linearizable, &recorder.operations()).await?;
    serving.abort();
    Ok(verdict)
}

async fn first_violation(fault: Fault) -> Result<Violation> {
    let verdict = verdict(fault).await?;
    let kinds: Vec<_> = verdict.shown.iter().map(Violation::checker).collect();
    ensure!(
        kinds.windows(2).all(|pair| pair[0] == pair[1]),
        "{fault:?} is taken for several things: {verdict:#?}"
    );
    verdict
        .shown
        .into_iter()
        .next()
        .with_context(|| format!("{fault:?} is not found"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_faults_passes() -> Result<()> {
    let verdict = verdict(Fault::None).await?.into_result()?;
    ensure!(
        verdict.acked > 10_000 && verdict.unknown_absent + verdict.unknown_stored == 0,
        "{verdict}"
    );
    Ok(())
}

macro_rules! finds {
    ($($test:ident: $fault:ident => $violation:pat,)*) => {$(
        #[tokio::test(flavor = "multi_thread")]
        async fn $test() -> Result<()> {
            let found = first_violation(Fault::$fault).await?;
            ensure!(matches!(found, $violation), "{found:?}");
            Ok(())
        }
    )*};
}

finds! {
    finds_a_forgotten_sample: Forgets => Violation::Lost(_),
    finds_an_invented_sample: Invents => Violation::Invented(_),
    finds_a_changed_nan: OneNan => Violation::Altered { .. },
    finds_a_changed_zero: OneZero => Violation::Altered { .. },
    finds_a_sample_twice: Repeats => Violation::Repeated(_),
    finds_a_series_of_nobody: Haunted => Violation::UnknownSeries(_),
    finds_a_stale_read: Stale => Violation::Stale { .. },
    finds_two_leaders: SplitBrain => Violation::TwoTerms { .. } | Violation::LogWentBack { .. },
}
