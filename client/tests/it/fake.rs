//! A scripted server that speaks Quorate's public services, on a runtime of its own so that dropping it cuts
//! every connection as a killed process does.

use quorate_proto::v1::query_server::{Query, QueryServer};
use quorate_proto::v1::write_server::{Write, WriteServer};
use quorate_proto::v1::*;
use quorate_proto::{ERROR_CODE_HEADER, ErrorCode, RETRY_AFTER_MS_HEADER, TENANT_HEADER};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{Request, Response, Status, Streaming};

/// What happens to one write message.
#[derive(Debug, Clone)]
pub(crate) enum Step {
    Store,
    /// A failed call, as a status with metadata.
    Fail(ErrorCode, Option<u64>),
    /// A call that succeeds with an error inside.
    Respond(ErrorCode),
    Reject(u64),
    /// Never an answer.
    Hang,
}

#[derive(Debug, Default)]
pub(crate) struct State {
    pub(crate) script: VecDeque<Step>,
    /// For every write message that arrived.
    pub(crate) arrivals: Vec<Arrival>,
    /// Of messages answered with `Store`.
    pub(crate) stored: Vec<WriteRequest>,
    /// Stream messages received and not answered yet, at most.
    pub(crate) most_unanswered: usize,
    /// Each stream answer is held back this long.
    pub(crate) stream_delay: Duration,
    pub(crate) instant: VecDeque<Result<InstantResponse, ErrorCode>>,
    pub(crate) range: VecDeque<Vec<RangeResponse>>,
}

#[derive(Debug, Clone)]
pub(crate) struct Arrival {
    pub(crate) at: Instant,
    pub(crate) tenant: Option<String>,
    pub(crate) has_timeout: bool,
}

pub(crate) struct Fake {
    pub(crate) address: String,
    pub(crate) state: Arc<Mutex<State>>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Fake {
    pub(crate) fn start(script: impl IntoIterator<Item = Step>) -> Self {
        Self::start_at("127.0.0.1:0", script)
    }

    pub(crate) fn start_at(address: &str, script: impl IntoIterator<Item = Step>) -> Self {
        let state = Arc::new(Mutex::new(State {
            script: script.into_iter().collect(),
            ..State::default()
        }));
        let listener = std::net::TcpListener::bind(address).unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (stop, stopped) = oneshot::channel::<()>();
        let service = Service(state.clone());
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async {
                let incoming = TcpListenerStream::new(tokio::net::TcpListener::from_std(listener).unwrap());
                let server = tonic::transport::Server::builder()
                    .add_service(WriteServer::new(service.clone()))
                    .add_service(QueryServer::new(service))
                    .serve_with_incoming(incoming);
                tokio::select! {
                    result = server => result.unwrap(),
                    _ = stopped => {}
                }
            });
            // Without waiting for connections.
            runtime.shutdown_background();
        });
        Self {
            address,
            state,
            stop: Some(stop),
            thread: Some(thread),
        }
    }

    /// Returns when the port is closed.
    pub(crate) fn kill(mut self) -> Arc<Mutex<State>> {
        self.stop();
        self.state.clone()
    }

    fn stop(&mut self) {
        if let (Some(stop), Some(thread)) = (self.stop.take(), self.thread.take()) {
            let _ = stop.send(());
            thread.join().unwrap();
        }
    }

    pub(crate) fn arrivals(&self) -> Vec<Arrival> {
        self.state.lock().unwrap().arrivals.clone()
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.stop();
    }
}

fn failed(code: ErrorCode, retry_after_ms: Option<u64>) -> Status {
    let mut status = Status::new(code.grpc(), "scripted");
    status
        .metadata_mut()
        .insert(ERROR_CODE_HEADER, code.name().parse().unwrap());
    if let Some(ms) = retry_after_ms {
        status
            .metadata_mut()
            .insert(RETRY_AFTER_MS_HEADER, ms.to_string().parse().unwrap());
    }
    status
}

#[derive(Clone)]
struct Service(Arc<Mutex<State>>);

impl Service {
    /// None means that no answer will come.
    fn step(&self, request: WriteRequest) -> Option<Result<WriteResponse, Status>> {
        let mut state = self.0.lock().unwrap();
        let samples = request
            .timeseries
            .iter()
            .map(|series| series.samples.len() as u64)
            .sum();
        let mut response = WriteResponse {
            sequence: request.sequence,
            ..WriteResponse::default()
        };
        match state.script.pop_front().unwrap_or(Step::Store) {
            Step::Store => {
                response.samples_stored = samples;
                response.receipts = vec![Receipt {
                    shard: 3,
                    epoch: 1,
                    term: 2,
                    index: 7,
                    samples,
                }];
                state.stored.push(request);
            }
            Step::Fail(code, retry_after_ms) => return Some(Err(failed(code, retry_after_ms))),
            Step::Respond(code) => {
                let (code, retryable) = (code.name().to_owned(), code.retryable());
                response.error = Some(Error {
                    code,
                    retryable,
                    ..Error::default()
                });
            }
            Step::Reject(samples) => {
                let (reason, first) = ("too_old".to_owned(), "up{} at 1".to_owned());
                response.rejections = vec![Rejection {
                    reason,
                    samples,
                    first,
                }];
            }
            Step::Hang => return None,
        }
        Some(Ok(response))
    }

    fn arrived<T>(&self, request: &Request<T>) {
        let metadata = request.metadata();
        let arrival = Arrival {
            at: Instant::now(),
            tenant: metadata
                .get(TENANT_HEADER)
                .map(|tenant| tenant.to_str().unwrap().to_owned()),
            has_timeout: metadata.contains_key("grpc-timeout"),
        };
        self.0.lock().unwrap().arrivals.push(arrival);
    }
}

#[tonic::async_trait]
impl Write for Service {
    async fn write(&self, request: Request<WriteRequest>) -> Result<Response<WriteResponse>, Status> {
        self.arrived(&request);
        match self.step(request.into_inner()) {
            Some(answer) => answer.map(Response::new),
            None => std::future::pending().await,
        }
    }

    type WriteStreamStream = ReceiverStream<Result<WriteResponse, Status>>;

    async fn write_stream(
        &self,
        request: Request<Streaming<WriteRequest>>,
    ) -> Result<Response<Self::WriteStreamStream>, Status> {
        self.arrived(&request);
        let mut messages = request.into_inner();
        let (received, mut unanswered) = mpsc::unbounded_channel::<WriteRequest>();
        let (answers, responses) = mpsc::channel(1_000);
        let outstanding = Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let (service, counter) = (self.clone(), outstanding.clone());
        tokio::spawn(async move {
            while let Ok(Some(message)) = messages.message().await {
                let now = counter.fetch_add(1, std::sync::atomic::Ordering::SeqCst) + 1;
                let mut state = service.0.lock().unwrap();
                state.most_unanswered = state.most_unanswered.max(now);
                drop(state);
                received.send(message).unwrap();
            }
        });
        let service = self.clone();
        tokio::spawn(async move {
            while let Some(message) = unanswered.recv().await {
                let delay = service.0.lock().unwrap().stream_delay;
                if !delay.is_zero() {
                    tokio::time::sleep(delay).await;
                }
                let Some(answer) = service.step(message) else {
                    std::future::pending().await
                };
                outstanding.fetch_sub(1, std::sync::atomic::Ordering::SeqCst);
                if answers.send(answer).await.is_err() {
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
    async fn instant(&self, _: Request<InstantRequest>) -> Result<Response<InstantResponse>, Status> {
        let answer = self.0.lock().unwrap().instant.pop_front();
        answer
            .expect("scripted")
            .map(Response::new)
            .map_err(|code| failed(code, None))
    }

    type RangeStream = Messages<RangeResponse>;

    async fn range(&self, _: Request<RangeRequest>) -> Result<Response<Self::RangeStream>, Status> {
        let messages = self.0.lock().unwrap().range.pop_front().expect("scripted");
        let messages: Vec<_> = messages.into_iter().map(Ok).collect();
        Ok(Response::new(tokio_stream::iter(messages)))
    }

    async fn series(&self, _: Request<SeriesRequest>) -> Result<Response<SeriesResponse>, Status> {
        Err(Status::unimplemented("not scripted"))
    }

    async fn label_names(
        &self,
        _: Request<LabelNamesRequest>,
    ) -> Result<Response<LabelNamesResponse>, Status> {
        Err(Status::unimplemented("not scripted"))
    }

    async fn label_values(
        &self,
        _: Request<LabelValuesRequest>,
    ) -> Result<Response<LabelValuesResponse>, Status> {
        Err(Status::unimplemented("not scripted"))
    }

    type ReadStream = Messages<ReadResponse>;

    async fn read(&self, _: Request<ReadRequest>) -> Result<Response<Self::ReadStream>, Status> {
        Err(Status::unimplemented("not scripted"))
    }
}
