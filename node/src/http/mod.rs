//! The HTTP frontend: remote write, Prometheus's query API, health and figures.
//!
//! The node behind it is reached through the traits in [`crate::api`] alone, see [`Backend`].

mod admin;
mod ast;
mod backend;
mod body;
mod escape;
mod expressions;
mod features;
mod federate;
mod histogram;
mod json;
mod number;
mod origins;
mod params;
mod query;
mod remote_read;
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
use http::HeaderMap;
use quorate_proto::{DEFAULT_TENANT, TENANT_HEADER};
use quorate_query::Features;

pub use backend::{Apis, Backend, Running};
pub use server::serve;

use crate::api::{ApiError, check_tenant};
use crate::clock::Clock;
use crate::config::{Config, effective};
use crate::metrics::Metrics;
use body::BodyLimits;
use origins::Origins;

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
    lookback_ms: i64,
    features: Features,
    origins: Arc<Origins>,
    /// Every key of the configuration and its value.
    settings: Arc<[(String, String)]>,
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
            lookback_ms: i64::try_from(config.read.lookback.as_millis()).unwrap_or(i64::MAX),
            features: config.read.enable_features.0,
            origins: Arc::new(Origins::new(&config.http_cors_origin.0)),
            settings: effective(config).into(),
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
    started_ms: i64,
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
            started_ms: clock.now_ms(),
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
                "/api/v1/query_exemplars",
                self.observed(
                    "query_exemplars",
                    either(get(expressions::exemplars).post(expressions::exemplars)),
                ),
            )
            .route(
                "/api/v1/format_query",
                self.observed(
                    "format_query",
                    either(get(expressions::format).post(expressions::format)),
                ),
            )
            .route(
                "/api/v1/parse_query",
                self.observed(
                    "parse_query",
                    either(get(expressions::parse).post(expressions::parse)),
                ),
            )
            .route("/api/v1/read", self.observed("read", post(remote_read::read)))
            .route("/federate", self.observed("federate", get(federate::federate)))
            .merge(self.about_the_node())
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
            .layer(middleware::from_fn_with_state(self.clone(), origins::allow))
            .with_state(self.clone())
    }

    /// What pages and clients ask about a Prometheus before they trust it. There are no rules, targets or
    /// alertmanagers here, which is a valid answer.
    fn about_the_node(&self) -> Router<App> {
        let either = |handler: MethodRouter<App>| handler.options(admin::preflight);
        let mut router = Router::new()
            .route("/api/v1/status/buildinfo", either(get(admin::build_info)))
            .route("/api/v1/status/runtimeinfo", either(get(admin::runtime_info)))
            .route("/api/v1/status/config", either(get(admin::config)))
            .route("/api/v1/status/flags", either(get(admin::flags)))
            .route("/api/v1/features", either(get(features::features)));
        for (path, data) in admin::EMPTY {
            router = router.route(path, either(get(async move || query::constant(data))));
        }
        self.observe(router, "status")
    }

    /// Counts a route's requests under `handler` and lets shutdown wait for them.
    fn observed(&self, handler: &'static str, route: MethodRouter<App>) -> MethodRouter<App> {
        let observe =
            move |State(app): State<App>, request: Request, next: Next| observe(app, handler, request, next);
        route.layer(middleware::from_fn_with_state(self.clone(), observe))
    }

    /// The same for several routes that aren't told apart.
    fn observe(&self, routes: Router<App>, handler: &'static str) -> Router<App> {
        let observe =
            move |State(app): State<App>, request: Request, next: Next| observe(app, handler, request, next);
        routes.route_layer(middleware::from_fn_with_state(self.clone(), observe))
    }
}

async fn observe(app: App, handler: &'static str, request: Request, next: Next) -> Response {
    let started = Instant::now();
    let _running = app.backend.running(handler);
    let response = next.run(request).await;
    app.metrics
        .count_request(handler, response.status().as_u16(), started.elapsed());
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
