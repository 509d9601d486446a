//! What a call can fail with, and which failures another attempt may heal.

use quorate_proto::{ERROR_CODE_HEADER, ErrorCode, RETRY_AFTER_MS_HEADER, v1};
use std::sync::Arc;
use std::time::Duration;
use tonic::{Code, Status};

/// Why a call failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ClientError {
    /// An endpoint can't be parsed.
    #[error("invalid endpoint {endpoint:?}: {reason}")]
    InvalidEndpoint {
        /// As given.
        endpoint: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The builder was given no endpoint.
    #[error("no endpoint is configured")]
    NoEndpoints,
    /// The tenant can't be sent: it must be 1 to 128 visible ASCII characters.
    #[error("invalid tenant {0:?}")]
    InvalidTenant(String),
    /// The cluster answered with an error.
    #[error("{endpoint}: {}: {message}", code.name())]
    Server {
        /// Who answered.
        endpoint: Arc<str>,
        /// What it said.
        code: ErrorCode,
        /// For people.
        message: String,
        /// How long it asks to wait before a retry.
        retry_after: Option<Duration>,
    },
    /// The endpoint could not be reached, the connection broke, or nothing came in time.
    #[error("{endpoint}: {message}")]
    Transport {
        /// Who was asked.
        endpoint: Arc<str>,
        /// For people.
        message: String,
    },
    /// The endpoint answered with something that is not in Quorate's protocol.
    #[error("{endpoint}: unexpected answer: {message}")]
    Protocol {
        /// Who answered.
        endpoint: Arc<str>,
        /// For people.
        message: String,
    },
    /// The call's deadline passed, usually after several attempts.
    #[error("no success within {timeout:?} and {attempts} attempt(s){}", Self::after(last.as_deref()))]
    DeadlineExceeded {
        /// The call's whole time.
        timeout: Duration,
        /// How often it was tried.
        attempts: u32,
        /// What the last finished attempt failed with.
        last: Option<Box<ClientError>>,
    },
    /// The write stream ended before this message was acknowledged.
    #[error("the write stream is closed")]
    StreamClosed,
}

impl ClientError {
    /// The cluster's error code, if it gave one.
    pub fn code(&self) -> Option<ErrorCode> {
        match self {
            ClientError::Server { code, .. } => Some(*code),
            ClientError::DeadlineExceeded { last, .. } => last.as_ref().and_then(|last| last.code()),
            _ => None,
        }
    }

    /// Whether the same call can succeed later without a change to it.
    pub fn is_retryable(&self) -> bool {
        match self {
            ClientError::Server { code, .. } => code.retryable(),
            ClientError::Transport { .. } | ClientError::DeadlineExceeded { .. } => true,
            _ => false,
        }
    }

    /// How long the cluster asks to wait before a retry.
    pub(crate) fn retry_after(&self) -> Option<Duration> {
        match self {
            ClientError::Server { retry_after, .. } => *retry_after,
            _ => None,
        }
    }

    /// Whether the failure is the endpoint's own, so that another endpoint may do better at once.
    /// A shard without a leader, for example, has none wherever one asks.
    pub(crate) fn blames_endpoint(&self) -> bool {
        match self {
            ClientError::Transport { .. } | ClientError::Protocol { .. } => true,
            ClientError::Server { code, .. } => matches!(
                code,
                ErrorCode::Overloaded
                    | ErrorCode::Starting
                    | ErrorCode::ShuttingDown
                    | ErrorCode::ClockSkew
                    | ErrorCode::DiskReserve
                    | ErrorCode::TooStale
                    | ErrorCode::NoQuorum
                    | ErrorCode::Timeout
                    | ErrorCode::Internal
            ),
            _ => false,
        }
    }

    /// Reads a gRPC status. The metadata key `quorate-error` decides; without it the status was made by
    /// a transport on the way, by our own side or by a server that is not Quorate.
    pub(crate) fn from_status(endpoint: &Arc<str>, status: &Status) -> Self {
        let endpoint = endpoint.clone();
        let metadata = |key: &str| status.metadata().get(key).and_then(|value| value.to_str().ok());
        if let Some(code) = metadata(ERROR_CODE_HEADER).and_then(ErrorCode::from_name) {
            let wait = metadata(RETRY_AFTER_MS_HEADER).and_then(|value| value.parse().ok());
            let retry_after = wait.map(Duration::from_millis);
            return ClientError::Server {
                endpoint,
                code,
                message: status.message().to_owned(),
                retry_after,
            };
        }
        let made_on_our_side = std::error::Error::source(status).is_some();
        match status.code() {
            Code::Unavailable | Code::DeadlineExceeded => ClientError::Transport {
                endpoint,
                message: describe(status),
            },
            Code::Unknown | Code::Internal | Code::Cancelled if made_on_our_side => ClientError::Transport {
                endpoint,
                message: describe(status),
            },
            // tonic reports a connection that closes amid a stream so, without a source.
            Code::Unknown | Code::Internal | Code::Cancelled if is_broken_connection(status.message()) => {
                ClientError::Transport {
                    endpoint,
                    message: describe(status),
                }
            }
            code => {
                let message = format!("gRPC status {code:?}: {}", status.message());
                ClientError::Protocol { endpoint, message }
            }
        }
    }

    /// Reads the error inside a write response.
    pub(crate) fn from_response(endpoint: &Arc<str>, error: v1::Error) -> Self {
        let endpoint = endpoint.clone();
        let retry_after = (error.retry_after_ms > 0).then(|| Duration::from_millis(error.retry_after_ms));
        match ErrorCode::from_name(&error.code) {
            Some(code) => ClientError::Server {
                endpoint,
                code,
                message: error.message,
                retry_after,
            },
            // A newer server: its flag says what our table can't.
            None if error.retryable => {
                let message = format!("{}: {}", error.code, error.message);
                ClientError::Server {
                    endpoint,
                    code: ErrorCode::Internal,
                    message,
                    retry_after,
                }
            }
            None => {
                let message = format!("unknown error {:?}: {}", error.code, error.message);
                ClientError::Protocol { endpoint, message }
            }
        }
    }

    fn after(last: Option<&ClientError>) -> String {
        last.map(|last| format!("; the last failed with: {last}"))
            .unwrap_or_default()
    }
}

fn is_broken_connection(message: &str) -> bool {
    ["h2 protocol error", "transport error", "connection"]
        .iter()
        .any(|part| message.contains(part))
}

/// The status with its chain of causes: tonic's own message is often just "transport error".
fn describe(status: &Status) -> String {
    let mut text = status.message().to_owned();
    let mut source = std::error::Error::source(status);
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use tonic::metadata::{MetadataMap, MetadataValue};

    fn endpoint() -> Arc<str> {
        Arc::from("127.0.0.1:1")
    }

    fn with_code(code: ErrorCode, retry_after_ms: Option<u64>) -> Status {
        let mut metadata = MetadataMap::new();
        metadata.insert(ERROR_CODE_HEADER, MetadataValue::from_static(code.name()));
        if let Some(ms) = retry_after_ms {
            metadata.insert(RETRY_AFTER_MS_HEADER, ms.to_string().parse().unwrap());
        }
        Status::with_metadata(code.grpc(), "why", metadata)
    }

    #[test]
    fn every_code_survives_a_status_and_keeps_its_retryability() {
        for code in ErrorCode::ALL {
            let error = ClientError::from_status(&endpoint(), &with_code(*code, Some(250)));
            assert_eq!(error.code(), Some(*code));
            assert_eq!(error.is_retryable(), code.retryable(), "{code:?}");
            assert_eq!(error.retry_after(), Some(Duration::from_millis(250)));
        }
    }

    #[test]
    fn a_status_without_the_table_is_transport_or_protocol() {
        let unavailable = ClientError::from_status(&endpoint(), &Status::unavailable("connection refused"));
        assert!(unavailable.is_retryable() && unavailable.blames_endpoint());
        let unimplemented = ClientError::from_status(&endpoint(), &Status::unimplemented("no such method"));
        assert!(!unimplemented.is_retryable());
        assert!(matches!(unimplemented, ClientError::Protocol { .. }));
    }

    #[test]
    fn an_unknown_code_in_a_response_follows_its_flag() {
        let error = |retryable| v1::Error {
            code: "from_the_future".into(),
            retryable,
            ..Default::default()
        };
        assert!(ClientError::from_response(&endpoint(), error(true)).is_retryable());
        assert!(!ClientError::from_response(&endpoint(), error(false)).is_retryable());
    }
}
