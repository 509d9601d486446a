//! A pipelined stream of writes: many messages in flight, one acknowledgement for each.

use crate::call::Client;
use crate::encoded::EncodedCodec;
use crate::error::ClientError;
use crate::series::Series;
use crate::write::{WriteResult, encode};
use bytes::Bytes;
use quorate_proto::v1;
use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;

const WRITE_STREAM: &str = "/quorate.v1.Write/WriteStream";

/// Writes without waiting for each acknowledgement. At most a bounded number of messages is in flight.
///
/// When the connection breaks or stalls, every message without an acknowledgement is sent again on
/// another endpoint. Messages may therefore be applied in another order than they were sent; samples of one
/// series that must not be judged out of order belong into one message or wait for its acknowledgement.
#[derive(Debug)]
pub struct WriteStream {
    queue: mpsc::Sender<Message>,
    permits: Arc<Semaphore>,
    last_sequence: AtomicU64,
    timeout: Duration,
    driver: JoinHandle<()>,
}

/// The acknowledgement of one message of a [`WriteStream`]. Dropping it does not cancel the write.
#[derive(Debug)]
pub struct PendingWrite(oneshot::Receiver<Result<WriteResult, ClientError>>);

impl Future for PendingWrite {
    type Output = Result<WriteResult, ClientError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let received = Pin::new(&mut self.0).poll(context);
        received.map(|reply| reply.unwrap_or(Err(ClientError::StreamClosed)))
    }
}

impl Client {
    /// Opens a stream of writes with at most `max_in_flight` (at least 1) unacknowledged messages. Each message has
    /// the client's deadline.
    pub fn write_stream(&self, max_in_flight: usize) -> WriteStream {
        let max_in_flight = max_in_flight.clamp(1, Semaphore::MAX_PERMITS);
        let (queue, messages) = mpsc::channel(max_in_flight);
        let driver = Driver {
            client: self.clone(),
            max_in_flight,
            messages,
            open: true,
            sent: VecDeque::new(),
            waiting: VecDeque::new(),
        };
        WriteStream {
            queue,
            permits: Arc::new(Semaphore::new(max_in_flight)),
            last_sequence: AtomicU64::new(0),
            timeout: self.options().timeout,
            driver: tokio::spawn(driver.run()),
        }
    }
}

impl WriteStream {
    /// Sends a message, waiting while the stream is full. The result comes through the returned future.
    pub async fn send(&self, series: Vec<Series>) -> Result<PendingWrite, ClientError> {
        let permit = self
            .permits
            .clone()
            .acquire_owned()
            .await
            .map_err(|_| ClientError::StreamClosed)?;
        let sequence = self.last_sequence.fetch_add(1, Ordering::Relaxed) + 1;
        let (reply, pending) = oneshot::channel();
        let message = Message {
            sequence,
            encoded: encode(sequence, series),
            deadline: Instant::now() + self.timeout,
            attempts: 0,
            retry_at: Instant::now(),
            last: None,
            reply,
            _permit: permit,
        };
        self.queue
            .send(message)
            .await
            .map_err(|_| ClientError::StreamClosed)?;
        Ok(PendingWrite(pending))
    }

    /// Waits until every message is acknowledged or failed.
    pub async fn close(self) {
        drop(self.queue);
        // A driver that panicked has dropped its messages, which their futures report.
        let _ended = self.driver.await;
    }
}

#[derive(Debug)]
struct Message {
    sequence: u64,
    encoded: Bytes,
    deadline: Instant,
    /// Failures answered so far.
    attempts: u32,
    retry_at: Instant,
    last: Option<ClientError>,
    reply: oneshot::Sender<Result<WriteResult, ClientError>>,
    _permit: OwnedSemaphorePermit,
}

impl Message {
    fn finish(self, result: Result<WriteResult, ClientError>) {
        // The caller may have dropped its future.
        let _unwanted = self.reply.send(result);
    }

    fn expire(mut self, timeout: Duration) {
        let (attempts, last) = (self.attempts, self.last.take().map(Box::new));
        self.finish(Err(ClientError::DeadlineExceeded {
            timeout,
            attempts,
            last,
        }));
    }
}

/// Owns the messages in flight and moves them from endpoint to endpoint.
struct Driver {
    client: Client,
    max_in_flight: usize,
    messages: mpsc::Receiver<Message>,
    /// More messages may come.
    open: bool,
    /// On the current connection, in the order sent, which is the order of its responses.
    sent: VecDeque<Message>,
    /// Failed for now, to be sent again at their time.
    waiting: VecDeque<Message>,
}

/// An open stream at one endpoint.
struct Connection {
    endpoint: Arc<str>,
    requests: mpsc::Sender<Bytes>,
    responses: Streaming<v1::WriteResponse>,
    last_progress: Instant,
}

impl Driver {
    async fn run(mut self) {
        let mut failures = 0;
        let mut tried = Vec::new();
        while self.has_work().await {
            let pick = self.client.pool().pick(&tried);
            let mut progressed = false;
            let outcome = self.serve(&pick, &mut progressed).await;
            self.client.pool().report(&pick, outcome.as_ref().err());
            let Err(error) = outcome else { return };
            tracing::debug!(%error, "write stream failed, moving on");
            if progressed {
                failures = 0;
                tried.clear();
            }
            tried.push(pick.target);
            if tried.len() >= self.client.pool().len() {
                tried.clear();
                failures += 1;
                let pause = self.client.pause(failures, &error);
                tokio::time::sleep(pause.min(self.time_left())).await;
            }
            self.take_back(error);
        }
    }

    /// Waits for a message when there is none; false when there will be none.
    async fn has_work(&mut self) -> bool {
        while self.sent.is_empty() && self.waiting.is_empty() {
            match self.messages.recv().await {
                Some(message) => self.waiting.push_back(message),
                None => return false,
            }
        }
        true
    }

    /// To the earliest deadline of all messages.
    fn time_left(&self) -> Duration {
        let deadlines = self
            .sent
            .iter()
            .chain(&self.waiting)
            .map(|message| message.deadline);
        let earliest = deadlines.min().unwrap_or_else(Instant::now);
        earliest.saturating_duration_since(Instant::now())
    }

    /// Prepares all unacknowledged messages for the next connection, in their first order.
    fn take_back(&mut self, error: ClientError) {
        let now = Instant::now();
        let mut messages: Vec<Message> = self.sent.drain(..).chain(self.waiting.drain(..)).collect();
        messages.sort_by_key(|message| message.sequence);
        for mut message in messages {
            message.attempts = message.attempts.saturating_add(1);
            message.last = Some(error.clone());
            let used_up = message.attempts >= self.client.options().max_attempts;
            if message.deadline <= now {
                message.expire(self.client.options().timeout);
            } else if used_up || !(error.is_retryable() || error.blames_endpoint()) {
                message.finish(Err(error.clone()));
            } else {
                message.retry_at = now;
                self.waiting.push_back(message);
            }
        }
    }

    /// Serves one endpoint until all is done (`Ok`) or it fails.
    async fn serve(
        &mut self,
        pick: &crate::balance::Pick<usize>,
        progressed: &mut bool,
    ) -> Result<(), ClientError> {
        let mut connection = self.connect(pick).await?;
        loop {
            self.send_due(&connection)?;
            if !self.open && self.sent.is_empty() && self.waiting.is_empty() {
                return Ok(());
            }
            let retry_at = self.waiting.iter().map(|message| message.retry_at).min();
            let stalled_at = self.sent.front().map(|front| {
                front
                    .deadline
                    .min(connection.last_progress + self.client.options().attempt_timeout)
            });
            tokio::select! {
                message = self.messages.recv(), if self.open => match message {
                    Some(message) => {
                        if self.sent.is_empty() {
                            connection.last_progress = Instant::now();
                        }
                        self.waiting.push_back(message);
                    }
                    None => self.open = false,
                },
                response = connection.responses.message() => {
                    self.acknowledge(&mut connection, response)?;
                    *progressed = true;
                }
                () = sleep_until(retry_at), if retry_at.is_some() => {}
                () = sleep_until(stalled_at), if stalled_at.is_some() => {
                    let message = "the write stream makes no progress".to_owned();
                    return Err(ClientError::Transport { endpoint: connection.endpoint, message });
                }
            }
        }
    }

    async fn connect(&mut self, pick: &crate::balance::Pick<usize>) -> Result<Connection, ClientError> {
        let endpoint = self.client.pool().get(pick);
        let name = endpoint.name.clone();
        let (requests, outgoing) = mpsc::channel(self.max_in_flight);
        let mut grpc = Grpc::new(endpoint.channel.clone());
        let request = self.client.request(ReceiverStream::new(outgoing), None);
        let opening = async {
            grpc.ready().await.map_err(|error| ClientError::Transport {
                endpoint: name.clone(),
                message: error.to_string(),
            })?;
            let codec = EncodedCodec::<v1::WriteResponse>::default();
            let reply = grpc
                .streaming(request, PathAndQuery::from_static(WRITE_STREAM), codec)
                .await;
            reply.map_err(|status| ClientError::from_status(&name, &status))
        };
        let timeout = self.client.options().attempt_timeout.min(self.time_left());
        let opened = tokio::time::timeout(timeout, opening).await.unwrap_or_else(|_| {
            let message = format!("no write stream within {timeout:?}");
            Err(ClientError::Transport {
                endpoint: name.clone(),
                message,
            })
        });
        let responses = opened?.into_inner();
        Ok(Connection {
            endpoint: name,
            requests,
            responses,
            last_progress: Instant::now(),
        })
    }

    /// Sends what waits and is due; what is past its deadline fails.
    fn send_due(&mut self, connection: &Connection) -> Result<(), ClientError> {
        let now = Instant::now();
        for _ in 0..self.waiting.len() {
            let Some(message) = self.waiting.pop_front() else {
                break;
            };
            if message.deadline <= now {
                message.expire(self.client.options().timeout);
            } else if message.retry_at > now {
                self.waiting.push_back(message);
            } else {
                // The channel holds as many as may be in flight, so only a closed one refuses.
                let taken = connection.requests.try_send(message.encoded.clone());
                self.sent.push_back(message);
                taken.map_err(|_| ClientError::Transport {
                    endpoint: connection.endpoint.clone(),
                    message: "the write stream broke".to_owned(),
                })?;
            }
        }
        Ok(())
    }

    fn acknowledge(
        &mut self,
        connection: &mut Connection,
        response: Result<Option<v1::WriteResponse>, tonic::Status>,
    ) -> Result<(), ClientError> {
        let endpoint = connection.endpoint.clone();
        let received = response.map_err(|status| ClientError::from_status(&endpoint, &status))?;
        let response = received.ok_or_else(|| ClientError::Transport {
            endpoint: endpoint.clone(),
            message: "the server ended the write stream".to_owned(),
        })?;
        let expected = self.sent.front().map(|message| message.sequence);
        let Some(mut message) = self
            .sent
            .pop_front_if(|front| front.sequence == response.sequence)
        else {
            let message = format!("acknowledges {} where {expected:?} is due", response.sequence);
            return Err(ClientError::Protocol { endpoint, message });
        };
        connection.last_progress = Instant::now();
        match WriteResult::from_proto(&endpoint, response) {
            Err(error) if error.is_retryable() => {
                message.attempts = message.attempts.saturating_add(1);
                if message.attempts >= self.client.options().max_attempts {
                    message.finish(Err(error));
                    return Ok(());
                }
                message.retry_at = Instant::now() + self.client.pause(message.attempts, &error);
                message.last = Some(error.clone());
                self.waiting.push_back(message);
                if error.blames_endpoint() && self.client.pool().len() > 1 {
                    return Err(error);
                }
            }
            result => message.finish(result),
        }
        Ok(())
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
