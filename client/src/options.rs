//! How a client is configured.

use crate::balance::{BackoffOptions, Policy};
use crate::call::Client;
use crate::endpoints::Endpoints;
use crate::error::ClientError;
use quorate_proto::DEFAULT_TENANT;
use std::sync::Arc;
use std::time::Duration;
use tonic::metadata::{Ascii, MetadataValue};

/// Most bytes of a tenant's name.
const MAX_TENANT_BYTES: usize = 128;

/// What holds for every call of a client.
#[derive(Debug, Clone)]
pub(crate) struct CallOptions {
    pub(crate) tenant: MetadataValue<Ascii>,
    /// For a call with all its attempts.
    pub(crate) timeout: Duration,
    /// For one attempt of a write or of a status call. Queries may take the whole `timeout`.
    pub(crate) attempt_timeout: Duration,
    pub(crate) max_attempts: u32,
    pub(crate) backoff: BackoffOptions,
}

/// Configures and makes a [`Client`].
#[derive(Debug, Clone)]
pub struct ClientBuilder {
    endpoints: Vec<(String, f64)>,
    policy: Policy,
    tenant: String,
    timeout: Duration,
    attempt_timeout: Duration,
    connect_timeout: Duration,
    max_attempts: u32,
    max_response_bytes: usize,
    backoff: BackoffOptions,
}

impl Default for ClientBuilder {
    fn default() -> Self {
        Self {
            endpoints: Vec::new(),
            policy: Policy::RoundRobin,
            tenant: DEFAULT_TENANT.to_owned(),
            timeout: Duration::from_secs(30),
            attempt_timeout: Duration::from_secs(10),
            connect_timeout: Duration::from_secs(2),
            max_attempts: u32::MAX,
            max_response_bytes: 64 * 1024 * 1024,
            backoff: BackoffOptions {
                initial_ms: 50,
                max_ms: 2_000,
                ..BackoffOptions::default()
            },
        }
    }
}

impl ClientBuilder {
    /// Adds an endpoint, `host:port` or `http://host:port`.
    #[must_use]
    pub fn endpoint(self, endpoint: impl Into<String>) -> Self {
        self.weighted_endpoint(endpoint, 1.0)
    }

    /// Adds several endpoints.
    #[must_use]
    pub fn endpoints<S: Into<String>>(self, endpoints: impl IntoIterator<Item = S>) -> Self {
        endpoints
            .into_iter()
            .fold(self, |builder, endpoint| builder.endpoint(endpoint))
    }

    /// Adds an endpoint with a weight for [`Policy::Weighted`].
    #[must_use]
    pub fn weighted_endpoint(mut self, endpoint: impl Into<String>, weight: f64) -> Self {
        self.endpoints.push((endpoint.into(), weight));
        self
    }

    /// How calls are spread over the endpoints. Default: round robin.
    #[must_use]
    pub fn policy(mut self, policy: Policy) -> Self {
        self.policy = policy;
        self
    }

    /// The tenant, see [`Client::with_tenant`]. Default: `default`.
    #[must_use]
    pub fn tenant(mut self, tenant: impl Into<String>) -> Self {
        self.tenant = tenant.into();
        self
    }

    /// The deadline of each call with all its attempts. Default: 30 s.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// After this time an attempt of a write or status call is given up and repeated elsewhere. Queries are
    /// exempt: a long one would never end. Default: 10 s.
    #[must_use]
    pub fn attempt_timeout(mut self, timeout: Duration) -> Self {
        self.attempt_timeout = timeout;
        self
    }

    /// The time to open a connection. Default: 2 s.
    #[must_use]
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// Most attempts of a call; 1 means no retries. Default: as many as the deadline allows.
    #[must_use]
    pub fn max_attempts(mut self, attempts: u32) -> Self {
        self.max_attempts = attempts.max(1);
        self
    }

    /// Largest response message taken, in bytes. Default: 64 MiB.
    #[must_use]
    pub fn max_response_bytes(mut self, bytes: usize) -> Self {
        self.max_response_bytes = bytes;
        self
    }

    /// Pauses between attempts and the time a failing endpoint is avoided. Default: 50 ms to 2 s.
    #[must_use]
    pub fn backoff(mut self, backoff: BackoffOptions) -> Self {
        self.backoff = backoff;
        self
    }

    /// Makes the client. Connections are opened when they are first needed. Needs a tokio runtime.
    pub fn connect(self) -> Result<Client, ClientError> {
        let tenant = tenant_value(&self.tenant)?;
        let endpoints = Endpoints::new(self.endpoints, self.policy, self.backoff, self.connect_timeout)?;
        let options = CallOptions {
            tenant,
            timeout: self.timeout,
            attempt_timeout: self.attempt_timeout,
            max_attempts: self.max_attempts,
            backoff: self.backoff,
        };
        Ok(Client::new(Arc::new(endpoints), options, self.max_response_bytes))
    }
}

/// The tenant as a metadata value.
pub(crate) fn tenant_value(tenant: &str) -> Result<MetadataValue<Ascii>, ClientError> {
    let fits = (1..=MAX_TENANT_BYTES).contains(&tenant.len());
    tenant
        .parse()
        .ok()
        .filter(|_| fits && tenant.bytes().all(|byte| byte.is_ascii_graphic()))
        .ok_or_else(|| ClientError::InvalidTenant(tenant.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn wrong_configuration_is_refused() {
        assert!(matches!(
            ClientBuilder::default().connect(),
            Err(ClientError::NoEndpoints)
        ));
        for endpoint in ["", "http://", "https://a:1", "no port", "::::"] {
            let error = ClientBuilder::default().endpoint(endpoint).connect().err();
            assert!(
                matches!(error, Some(ClientError::InvalidEndpoint { .. })),
                "{endpoint:?}: {error:?}"
            );
        }
        for tenant in ["", "two words", "ünï", &"x".repeat(129)] {
            let error = ClientBuilder::default()
                .endpoint("a:1")
                .tenant(tenant)
                .connect()
                .err();
            assert!(
                matches!(error, Some(ClientError::InvalidTenant(_))),
                "{tenant:?}: {error:?}"
            );
        }
    }
}
