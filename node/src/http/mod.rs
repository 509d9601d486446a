//! The HTTP frontend: remote write, Prometheus's query API, health and figures.
//!
//! The node behind it is reached through the traits in [`crate::api`] alone, see [`Backend`].

mod admin;
mod backend;
mod body;
mod escape;
mod json;
mod number;
mod params;
mod query;
mod server;
mod status;
mod write;

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::{Request, State};
use axum::middleware::{self, Next};
use axum::response::Response;
use axum::routing::{MethodRouter, get, post};
use http::{HeaderMap, HeaderValue};
use quorate_proto::{DEFAULT_TENANT, TENANT_HEADER};

pub use backend::{Apis, Backend, Running};
pub use server::serve;

use crate::api::{ApiError, check_tenant};
use crate::clock::Clock;
use crate::config::Config;
use crate::metrics::Metrics;
use body::BodyLimits;

/// Longest form of a query, in bytes.
const MAX_FORM_BYTES: u64 = 4 << 20;

/// The bounds of this frontend.
#[derive(Debug, Clone)]
pub struct HttpLimits {
    max_connections: u32,
    header_timeout: Duration,
    write_body: BodyLimits,
    write_timeout: Duration,
    query_body: BodyLimits,
    query_timeout: Duration,
}

impl HttpLimits {
    /// The bounds that follow from the configuration.
    pub fn new(config: &Config) -> HttpLimits {
        let timeout = config.write.read_body_timeout;
        HttpLimits {
            max_connections: config.http_max_connections,
            header_timeout: config.http_header_timeout,
            write_body: BodyLimits {
                max_bytes: config.write.max_request_bytes.0,
                timeout,
            },
            write_timeout: config.write.request_timeout,
            query_body: BodyLimits {
                max_bytes: MAX_FORM_BYTES,
                timeout,
            },
            query_timeout: config.read.timeout,
        }
    }
}

/// What handlers share.
#[derive(Clone)]
pub struct App {
    backend: Arc<Backend>,
    metrics: Arc<Metrics>,
    limits: HttpLimits,
    clock: Arc<dyn Clock>,
}

impl App {
    /// A frontend to `backend`. The clock tells queries what now is.
    pub fn new(
        backend: Arc<Backend>,
        metrics: Arc<Metrics>,
        limits: HttpLimits,
        clock: Arc<dyn Clock>,
    ) -> App {
        App {
            backend,
            metrics,
            limits,
            clock,
        }
    }

    /// Every endpoint.
    pub fn router(&self) -> Router {
        let either = |handler: MethodRouter<App>| handler.options(admin::preflight);
        let write = || post(write::remote_write);
        let query = || get(query::instant).post(query::instant);
        let range = || get(query::range).post(query::range);
        Router::new()
            .route("/api/v1/write", self.observed("write", write()))
            .route("/api/v1/push", self.observed("write", write()))
            .route("/api/v1/receive", self.observed("write", write()))
            .route("/api/v1/query", self.observed("query", either(query())))
            .route(
                "/api/v1/query_range",
                self.observed("query_range", either(range())),
            )
            .route(
                "/api/v1/series",
                self.observed("series", either(get(query::series).post(query::series))),
            )
            .route(
                "/api/v1/labels",
                self.observed("labels", either(get(query::label_names).post(query::label_names))),
            )
            .route(
                "/api/v1/label/{name}/values",
                self.observed("label_values", either(get(query::label_values))),
            )
            .route(
                "/api/v1/metadata",
                self.observed("metadata", either(get(admin::metadata))),
            )
            .route(
                "/api/v1/status/buildinfo",
                self.observed("buildinfo", either(get(admin::build_info))),
            )
            .route(
                "/api/v1/admin/tsdb/delete_series",
                self.observed(
                    "delete_series",
                    post(query::delete_series).put(query::delete_series),
                ),
            )
            .route(
                "/api/v1/admin/tsdb/clean_tombstones",
                self.observed(
                    "clean_tombstones",
                    post(query::clean_tombstones).put(query::clean_tombstones),
                ),
            )
            .route(
                "/api/v1/status/tsdb",
                self.observed("tsdb_status", either(get(status::tsdb))),
            )
            .route("/-/healthy", self.observed("healthy", get(admin::healthy)))
            .route("/-/ready", self.observed("ready", get(admin::ready)))
            .route("/metrics", self.observed("metrics", get(admin::metrics)))
            .fallback(admin::nothing_here)
            .method_not_allowed_fallback(admin::wrong_method)
            .layer(middleware::map_response(allow_origins))
            .with_state(self.clone())
    }

    /// Counts a route's requests under `handler` and lets shutdown wait for them.
    fn observed(&self, handler: &'static str, route: MethodRouter<App>) -> MethodRouter<App> {
        let observe = move |State(app): State<App>, request: Request, next: Next| async move {
            let started = Instant::now();
            let _running = app.backend.running(handler);
            let response = next.run(request).await;
            app.metrics
                .count_request(handler, response.status().as_u16(), started.elapsed());
            response
        };
        route.layer(middleware::from_fn_with_state(self.clone(), observe))
    }
}

/// Lets pages of any origin read answers, as Prometheus does by default. There are no cookies to steal.
async fn allow_origins(mut response: Response) -> Response {
    let headers = response.headers_mut();
    for (name, value) in [
        ("access-control-allow-origin", "*"),
        ("access-control-allow-methods", "GET, POST, OPTIONS"),
        (
            "access-control-allow-headers",
            "Accept, Authorization, Content-Type, Origin, X-Scope-OrgID",
        ),
        (
            "access-control-expose-headers",
            "Date, Quorate-Read-Level, Quorate-Read-Report",
        ),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}

/// The tenant of a request.
fn tenant(headers: &HeaderMap) -> Result<Arc<str>, ApiError> {
    let Some(value) = headers.get(TENANT_HEADER) else {
        return Ok(DEFAULT_TENANT.into());
    };
    let name = value.to_str().unwrap_or_default();
    check_tenant(name)?;
    Ok(name.into())
}
