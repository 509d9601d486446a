//! Writing samples, one request at a time.

use crate::call::{Attempt, Client, Patience};
use crate::encoded::EncodedCodec;
use crate::error::ClientError;
use crate::series::{Series, TimeSeriesMessage};
use bytes::Bytes;
use prost::Message as _;
use quorate_proto::v1;
use std::sync::Arc;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;

const WRITE: &str = "/quorate.v1.Write/Write";

/// A write that was acknowledged: every sample is stored on a majority, was stored before, or is
/// listed as rejected.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct WriteResult {
    /// Where its parts were committed.
    pub receipts: Vec<Receipt>,
    /// Samples newly stored. After a retry, what an earlier attempt stored counts as duplicate.
    pub samples_stored: u64,
    /// Samples that were stored already with the same bits.
    pub samples_duplicate: u64,
    /// Samples refused for good, by reason.
    pub rejections: Vec<Rejection>,
}

/// Where a part of a write was committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Receipt {
    /// The shard.
    pub shard: u32,
    /// The ring epoch that placed it.
    pub epoch: u64,
    /// Raft term of the log entry.
    pub term: u64,
    /// Raft index of the log entry.
    pub index: u64,
    /// Samples in this part.
    pub samples: u64,
}

/// Samples refused for good; a retry can't help them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejection {
    /// Machine-readable, e.g. `too_old`.
    pub reason: String,
    /// How many.
    pub samples: u64,
    /// The first one: series, timestamp, bound.
    pub first: String,
}

impl WriteResult {
    /// Samples rejected for any reason.
    pub fn samples_rejected(&self) -> u64 {
        self.rejections.iter().map(|rejection| rejection.samples).sum()
    }

    /// The result in a response, or the error inside it.
    pub(crate) fn from_proto(endpoint: &Arc<str>, response: v1::WriteResponse) -> Result<Self, ClientError> {
        if let Some(error) = response.error {
            return Err(ClientError::from_response(endpoint, error));
        }
        let receipt = |receipt: v1::Receipt| Receipt {
            shard: receipt.shard,
            epoch: receipt.epoch,
            term: receipt.term,
            index: receipt.index,
            samples: receipt.samples,
        };
        let rejection = |rejection: v1::Rejection| Rejection {
            reason: rejection.reason,
            samples: rejection.samples,
            first: rejection.first,
        };
        Ok(Self {
            receipts: response.receipts.into_iter().map(receipt).collect(),
            samples_stored: response.samples_stored,
            samples_duplicate: response.samples_duplicate,
            rejections: response.rejections.into_iter().map(rejection).collect(),
        })
    }
}

impl Client {
    /// Stores samples. `Ok` means that they are fsynced on a majority of every shard involved, but for
    /// the ones in [`WriteResult::rejections`]. After an `Err` any part of them may be stored; writing the same
    /// again is harmless.
    pub async fn write(&self, series: Vec<Series>) -> Result<WriteResult, ClientError> {
        let encoded = encode(0, series);
        self.call(Patience::Attempt, |attempt| {
            self.write_once(attempt, encoded.clone())
        })
        .await
    }

    async fn write_once(&self, attempt: Attempt, encoded: Bytes) -> Result<WriteResult, ClientError> {
        let mut grpc = Grpc::new(attempt.channel.clone());
        grpc.ready().await.map_err(|error| {
            let endpoint = attempt.endpoint.clone();
            ClientError::Transport {
                endpoint,
                message: error.to_string(),
            }
        })?;
        let request = self.request(encoded, Some(attempt.timeout));
        let codec = EncodedCodec::<v1::WriteResponse>::default();
        let reply = grpc.unary(request, PathAndQuery::from_static(WRITE), codec).await;
        let response = reply.map_err(|status| attempt.error(&status))?.into_inner();
        WriteResult::from_proto(&attempt.endpoint, response)
    }
}

/// A write request in its wire form.
pub(crate) fn encode(sequence: u64, series: Vec<Series>) -> Bytes {
    let timeseries = series.into_iter().map(Series::into_message).collect();
    WriteRequestMessage { sequence, timeseries }
        .encode_to_vec()
        .into()
}

/// `quorate.v1.WriteRequest`.
#[derive(Clone, PartialEq, prost::Message)]
struct WriteRequestMessage {
    #[prost(uint64, tag = "1")]
    sequence: u64,
    #[prost(message, repeated, tag = "2")]
    timeseries: Vec<TimeSeriesMessage>,
}
