//! `quorate.v1.Write`: unary, and a stream with one acknowledgement for each message.

use std::pin::Pin;

use futures_util::{Stream, StreamExt as _};
use prost::Message as _;
use quorate_ingest::Batch;
use quorate_proto::ErrorCode;
use quorate_proto::v1::write_server::Write;
use quorate_proto::v1::{Error, Receipt, Rejection, TimeSeries, WriteRequest, WriteResponse};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::public::caller;
use super::{Cells, RETRY_AFTER_MS, api_status, histogram};
use crate::api::{ApiError, Caller};
use crate::frontend::{WriteFrontend, decode_error};
use crate::write::WriteOutcome;

/// Messages of one stream that are worked on at a time; more wait in the stream.
const STREAM_IN_FLIGHT: usize = 16;

/// The service.
pub(super) struct WriteService {
    /// The node, when it is up.
    pub cells: Cells,
}

#[tonic::async_trait]
impl Write for WriteService {
    async fn write(&self, request: Request<WriteRequest>) -> Result<Response<WriteResponse>, Status> {
        let _inside = self.cells.public.enter()?;
        let caller = caller(request.metadata(), self.cells.write_timeout)?;
        let outcome = store(&self.cells, caller, request.get_ref())
            .await
            .map_err(api_status)?;
        let response = response(request.get_ref().sequence, outcome);
        match &response.error {
            // Nothing of it is acknowledged: a failed call. Partly acknowledged: a response that says so.
            Some(error) if response.receipts.is_empty() => {
                let code = ErrorCode::from_name(&error.code).unwrap_or(ErrorCode::Internal);
                Err(super::status(code, error.message.clone()))
            }
            _ => Ok(Response::new(response)),
        }
    }

    type WriteStreamStream = Pin<Box<dyn Stream<Item = Result<WriteResponse, Status>> + Send>>;

    async fn write_stream(
        &self,
        request: Request<Streaming<WriteRequest>>,
    ) -> Result<Response<Self::WriteStreamStream>, Status> {
        let inside = self.cells.public.enter()?;
        // The stream's own timeout bounds the stream; each message has its time.
        let who = caller(request.metadata(), self.cells.write_timeout)?;
        let cells = self.cells.clone();
        let messages = request.into_inner();
        let (out, responses) = mpsc::channel(STREAM_IN_FLIGHT);
        tokio::spawn(async move {
            let _inside = inside;
            let mut answers = std::pin::pin!(
                messages
                    // A stopping node takes no more messages; what is in flight is answered.
                    .take_while(|_| std::future::ready(!cells.public.closed()))
                    .map(|message| answer(&cells, &who, message))
                    .buffered(STREAM_IN_FLIGHT)
            );
            while let Some(answer) = answers.next().await {
                let last = answer.is_err();
                if out.send(answer).await.is_err() || last {
                    return;
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(responses))))
    }
}

async fn answer(
    cells: &Cells,
    who: &Caller,
    message: Result<WriteRequest, Status>,
) -> Result<WriteResponse, Status> {
    let message = message?;
    let caller = Caller {
        tenant: who.tenant.clone(),
        deadline: std::time::Instant::now() + cells.write_timeout,
    };
    let outcome = store(cells, caller, &message)
        .await
        .unwrap_or_else(|failure| WriteOutcome {
            failure: Some(failure),
            ..WriteOutcome::default()
        });
    Ok(response(message.sequence, outcome))
}

async fn store(cells: &Cells, caller: Caller, request: &WriteRequest) -> Result<WriteOutcome, ApiError> {
    let node = cells
        .node
        .get()
        .cloned()
        .ok_or_else(|| ApiError::new(ErrorCode::Starting, "this node is still starting; retry"))?;
    let frontend = node.write();
    frontend.shed()?;
    let _charge = cells.bytes_in_flight.charge(request.encoded_len() as u64)?;
    let mut batch = frontend.batch();
    let filled = fill(&mut batch, frontend, &caller.tenant, &request.timeseries);
    let outcome = match filled {
        Ok(()) => Ok(frontend
            .store("grpc", &caller.tenant, &batch, caller.deadline)
            .await),
        Err(e) => Err(e),
    };
    frontend.recycle(batch);
    outcome
}

fn fill(
    batch: &mut Batch,
    frontend: &WriteFrontend,
    tenant: &str,
    timeseries: &[TimeSeries],
) -> Result<(), ApiError> {
    let limits = frontend.decode_limits(tenant);
    for series in timeseries {
        let labels = series.labels.iter().map(|l| (l.name.as_str(), l.value.as_str()));
        let samples = series.samples.iter().map(|s| (s.timestamp, s.value));
        batch
            .push_series(labels, samples, &limits)
            .map_err(|e| decode_error(&e))?;
        for sent in &series.histograms {
            histogram::push(batch, sent, &limits).map_err(|e| decode_error(&e))?;
        }
    }
    Ok(())
}

fn response(sequence: u64, outcome: WriteOutcome) -> WriteResponse {
    let WriteOutcome {
        report,
        receipts,
        failure,
    } = outcome;
    WriteResponse {
        sequence,
        receipts: receipts
            .into_iter()
            .map(|r| Receipt {
                shard: r.shard,
                epoch: r.epoch,
                term: r.term,
                index: r.index,
                samples: r.samples,
            })
            .collect(),
        samples_stored: report.stored,
        samples_duplicate: report.duplicates,
        rejections: report
            .rejections
            .into_iter()
            .map(|r| Rejection {
                reason: r.reason.into(),
                samples: r.samples,
                first: r.first,
            })
            .collect(),
        error: failure.map(|e| Error {
            code: e.code.name().into(),
            message: e.message,
            retryable: e.code.retryable(),
            retry_after_ms: e.retry_after_ms.unwrap_or(RETRY_AFTER_MS),
        }),
    }
}
