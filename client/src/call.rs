//! The client and its one retry loop.

use crate::balance::Pick;
use crate::endpoints::Endpoints;
use crate::error::ClientError;
use crate::options::{CallOptions, ClientBuilder, tenant_value};
use quorate_proto::TENANT_HEADER;
use quorate_proto::v1::cluster_client::ClusterClient;
use quorate_proto::v1::query_client::QueryClient;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;
use tonic::Request;
use tonic::transport::Channel;

/// A client of one cluster. Clones are cheap and share connections.
#[derive(Debug, Clone)]
pub struct Client {
    endpoints: Arc<Endpoints>,
    options: CallOptions,
    max_response_bytes: usize,
}

/// One try of a call at one endpoint.
#[derive(Debug, Clone)]
pub(crate) struct Attempt {
    pub(crate) endpoint: Arc<str>,
    pub(crate) channel: Channel,
    /// What is left for this attempt.
    pub(crate) timeout: Duration,
    max_response_bytes: usize,
}

impl Attempt {
    pub(crate) fn query(&self) -> QueryClient<Channel> {
        QueryClient::new(self.channel.clone()).max_decoding_message_size(self.max_response_bytes)
    }

    pub(crate) fn cluster(&self) -> ClusterClient<Channel> {
        ClusterClient::new(self.channel.clone()).max_decoding_message_size(self.max_response_bytes)
    }

    pub(crate) fn error(&self, status: &tonic::Status) -> ClientError {
        ClientError::from_status(&self.endpoint, status)
    }
}

/// How long one attempt may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Patience {
    /// The configured time of an attempt: a slow endpoint is given up for another.
    Attempt,
    /// All that is left to the deadline: the work itself may take long.
    WholeCall,
}

impl Client {
    pub(crate) fn new(endpoints: Arc<Endpoints>, options: CallOptions, max_response_bytes: usize) -> Self {
        Self {
            endpoints,
            options,
            max_response_bytes,
        }
    }

    /// Configures a client.
    pub fn builder() -> ClientBuilder {
        ClientBuilder::default()
    }

    /// The same client for another tenant.
    pub fn with_tenant(&self, tenant: &str) -> Result<Self, ClientError> {
        let mut client = self.clone();
        client.options.tenant = tenant_value(tenant)?;
        Ok(client)
    }

    /// The same client with another deadline of a call with all its attempts.
    #[must_use]
    pub fn with_timeout(&self, timeout: Duration) -> Self {
        let mut client = self.clone();
        client.options.timeout = timeout;
        client
    }

    /// The endpoints as `host:port`.
    pub fn endpoints(&self) -> impl Iterator<Item = &str> {
        self.endpoints.names().map(|name| &**name)
    }

    pub(crate) fn pool(&self) -> &Endpoints {
        &self.endpoints
    }

    pub(crate) fn options(&self) -> &CallOptions {
        &self.options
    }

    /// A request with this client's tenant and the attempt's time as its gRPC timeout.
    pub(crate) fn request<T>(&self, message: T, timeout: Option<Duration>) -> Request<T> {
        let mut request = Request::new(message);
        request
            .metadata_mut()
            .insert(TENANT_HEADER, self.options.tenant.clone());
        if let Some(timeout) = timeout {
            request.set_timeout(timeout);
        }
        request
    }

    /// Runs `attempt` until it succeeds, fails for good, or the deadline or the attempts are used up.
    ///
    /// A failure that is the endpoint's own moves on to an endpoint not tried yet without a pause; else
    /// the pause grows exponentially with jitter and is at least what the server asks for.
    pub(crate) async fn call<R, F, Fut>(&self, patience: Patience, attempt: F) -> Result<R, ClientError>
    where
        F: Fn(Attempt) -> Fut,
        Fut: Future<Output = Result<R, ClientError>>,
    {
        let deadline = Instant::now() + self.options.timeout;
        let mut tried = Vec::new();
        let mut pauses = 0;
        let mut last = None;
        for attempts in 1..=self.options.max_attempts {
            let pick = self.endpoints.pick(&tried);
            let outcome = self.attempt(&pick, patience, deadline, &attempt).await;
            self.endpoints.report(&pick, outcome.as_ref().err());
            let error = match outcome {
                Ok(reply) => return Ok(reply),
                Err(error) if !error.is_retryable() || attempts == self.options.max_attempts => {
                    return Err(error);
                }
                Err(error) => error,
            };
            tracing::debug!(%error, attempts, "attempt failed");
            tried.push(pick.target);
            let more_endpoints = tried.len() < self.endpoints.len();
            let pause = if error.blames_endpoint() && more_endpoints {
                Duration::ZERO
            } else {
                tried.clear();
                pauses += 1;
                self.pause(pauses, &error)
            };
            last = Some(Box::new(error));
            if Instant::now() + pause >= deadline {
                return Err(ClientError::DeadlineExceeded {
                    timeout: self.options.timeout,
                    attempts,
                    last,
                });
            }
            tokio::time::sleep(pause).await;
        }
        let (timeout, attempts) = (self.options.timeout, self.options.max_attempts);
        Err(ClientError::DeadlineExceeded {
            timeout,
            attempts,
            last,
        })
    }

    async fn attempt<R, F, Fut>(
        &self,
        pick: &Pick<usize>,
        patience: Patience,
        deadline: Instant,
        attempt: &F,
    ) -> Result<R, ClientError>
    where
        F: Fn(Attempt) -> Fut,
        Fut: Future<Output = Result<R, ClientError>>,
    {
        let endpoint = self.endpoints.get(pick);
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = match patience {
            Patience::Attempt => left.min(self.options.attempt_timeout),
            Patience::WholeCall => left,
        };
        let name = endpoint.name.clone();
        let running = attempt(Attempt {
            endpoint: name.clone(),
            channel: endpoint.channel.clone(),
            timeout,
            max_response_bytes: self.max_response_bytes,
        });
        tokio::time::timeout(timeout, running).await.unwrap_or_else(|_| {
            Err(ClientError::Transport {
                endpoint: name,
                message: format!("no answer within {timeout:?}"),
            })
        })
    }

    /// The pause before the next attempt: full jitter over the upper half of the exponential time.
    pub(crate) fn pause(&self, pauses: u32, error: &ClientError) -> Duration {
        let own = self.options.backoff.pause_ms(pauses, rand::random::<f64>());
        Duration::from_millis(own).max(error.retry_after().unwrap_or_default())
    }
}
