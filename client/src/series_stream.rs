//! Answers that arrive as a stream of series.

use crate::call::Attempt;
use crate::error::ClientError;
use crate::query::ReadReport;
use crate::series::SeriesData;
use futures_util::stream::{BoxStream, StreamExt as _};
use quorate_proto::v1;
use std::collections::VecDeque;
use tokio::time::Instant;
use tonic::{Status, Streaming};

/// A whole answer made of series.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct SeriesAnswer {
    /// In label order.
    pub series: Vec<SeriesData>,
    /// What may be wrong with the result.
    pub warnings: Vec<String>,
    /// What is worth knowing about the query.
    pub infos: Vec<String>,
    /// What was read.
    pub report: ReadReport,
}

/// Series as they arrive. It has the deadline of the call that opened it.
pub struct SeriesStream {
    messages: BoxStream<'static, Result<Piece, Status>>,
    ready: VecDeque<SeriesData>,
    attempt: Attempt,
    deadline: Instant,
    warnings: Vec<String>,
    infos: Vec<String>,
    report: Option<ReadReport>,
    ended: bool,
}

/// A message of either streaming answer.
pub(crate) struct Piece {
    series: Vec<v1::MatrixSeries>,
    warnings: Vec<String>,
    infos: Vec<String>,
    report: Option<v1::ReadReport>,
}

impl From<v1::RangeResponse> for Piece {
    fn from(response: v1::RangeResponse) -> Self {
        let v1::RangeResponse {
            series,
            warnings,
            infos,
            report,
        } = response;
        Self {
            series,
            warnings,
            infos,
            report,
        }
    }
}

impl From<v1::ReadResponse> for Piece {
    fn from(response: v1::ReadResponse) -> Self {
        let v1::ReadResponse { series, report } = response;
        Self {
            series,
            warnings: Vec::new(),
            infos: Vec::new(),
            report,
        }
    }
}

impl SeriesStream {
    /// Waits for the first message, so that an error in its place can still be retried.
    pub(crate) async fn open<M: Into<Piece> + Send + 'static>(
        messages: Streaming<M>,
        attempt: Attempt,
    ) -> Result<Self, ClientError> {
        let mut stream = Self {
            messages: messages.map(|message| message.map(Into::into)).boxed(),
            ready: VecDeque::new(),
            deadline: Instant::now() + attempt.timeout,
            attempt,
            warnings: Vec::new(),
            infos: Vec::new(),
            report: None,
            ended: false,
        };
        stream.receive().await?;
        Ok(stream)
    }

    /// The next series, or the next piece of one; none at the end of a complete answer.
    pub async fn next(&mut self) -> Result<Option<SeriesData>, ClientError> {
        while self.ready.is_empty() && !self.ended {
            self.receive().await?;
        }
        Ok(self.ready.pop_front())
    }

    /// What was read; known after the end.
    pub fn report(&self) -> Option<&ReadReport> {
        self.report.as_ref()
    }

    /// What may be wrong with the result, as far as it has arrived.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// What is worth knowing about the query, as far as it has arrived.
    pub fn infos(&self) -> &[String] {
        &self.infos
    }

    /// All that is left, with the pieces of each series joined.
    pub(crate) async fn collect(mut self) -> Result<SeriesAnswer, ClientError> {
        let mut series: Vec<SeriesData> = Vec::new();
        while let Some(piece) = self.next().await? {
            match series.last_mut() {
                Some(last) if last.labels == piece.labels => {
                    last.timestamps_ms.extend(piece.timestamps_ms);
                    last.values.extend(piece.values);
                }
                _ => series.push(piece),
            }
        }
        let report = self.report.unwrap_or_default();
        Ok(SeriesAnswer {
            series,
            warnings: self.warnings,
            infos: self.infos,
            report,
        })
    }

    async fn receive(&mut self) -> Result<(), ClientError> {
        let endpoint = &self.attempt.endpoint;
        let Ok(message) = tokio::time::timeout_at(self.deadline, self.messages.next()).await else {
            let message = format!("no complete answer within {:?}", self.attempt.timeout);
            return Err(ClientError::Transport {
                endpoint: endpoint.clone(),
                message,
            });
        };
        let Some(piece) = message
            .transpose()
            .map_err(|status| self.attempt.error(&status))?
        else {
            self.ended = true;
            // The report is on the last message: without it the answer may have been cut short.
            if self.report.is_none() {
                let message = "the answer ended without its report".to_owned();
                return Err(ClientError::Protocol {
                    endpoint: endpoint.clone(),
                    message,
                });
            }
            return Ok(());
        };
        for series in piece.series {
            let data = SeriesData::from_proto(series).ok_or_else(|| ClientError::Protocol {
                endpoint: endpoint.clone(),
                message: "columns of unequal length".to_owned(),
            })?;
            self.ready.push_back(data);
        }
        self.warnings.extend(piece.warnings);
        self.infos.extend(piece.infos);
        if piece.report.is_some() {
            self.report = Some(piece.report.into());
        }
        Ok(())
    }
}
