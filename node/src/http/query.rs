//! The query API: `query`, `query_range`, `series`, `labels`, `label/<name>/values`.

use std::borrow::Cow;
use std::future::Future;
use std::time::Instant;

use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::response::Response;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE, VARY};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use quorate_proto::ErrorCode;
use quorate_query::value::Value;

use super::backend::Apis;
use super::escape::unescape_label_name;
use super::json::{self, Data, Success};
use super::params::{MAX_TIME_MS, MIN_TIME_MS, Params, invalid};
use super::write::add_retry_after;
use super::{App, body, tenant};
use crate::api::{
    Answer, ApiError, Caller, DeleteParams, InstantParams, MetaParams, QueryCost, RangeParams, ReadReport,
};

const JSON: HeaderValue = HeaderValue::from_static("application/json");
const TRUNCATED: &str = "results truncated due to limit";
/// Response header: the promise that was kept.
const LEVEL_HEADER: &str = "quorate-read-level";
/// Response header: what was read of each shard, as JSON.
const REPORT_HEADER: &str = "quorate-read-report";
/// Longest [`REPORT_HEADER`]; proxies commonly refuse more than 8 KiB of headers.
const MAX_REPORT_BYTES: usize = 4 << 10;

/// A finished query, ready to be written.
struct Reply {
    data: Data,
    warnings: Vec<String>,
    infos: Vec<String>,
    report: ReadReport,
    /// What the query cost, if it was asked for.
    stats: Option<String>,
}

impl Reply {
    fn new<T>(answer: Answer<T>, truncated: bool, data: impl FnOnce(T) -> Data) -> Reply {
        let Answer {
            value,
            mut warnings,
            infos,
            report,
            cost: _,
        } = answer;
        if truncated {
            warnings.push(TRUNCATED.into());
        }
        Reply {
            data: data(value),
            warnings,
            infos,
            report,
            stats: None,
        }
    }

    fn with_stats(self, stats: Option<String>) -> Reply {
        Reply { stats, ..self }
    }
}

/// What a query cost, in Prometheus's shape, if the request asks for it. Sorting and reading are not told apart
/// from evaluation, and samples are counted once however many steps look at them.
fn stats(params: &Params, cost: &QueryCost) -> Option<String> {
    params.get("stats")?;
    let stats = serde_json::json!({
        "timings": {
            "evalTotalTime": (cost.prepared + cost.evaluated).as_secs_f64(),
            "resultSortTime": 0,
            "queryPreparationTime": cost.prepared.as_secs_f64(),
            "innerEvalTime": cost.evaluated.as_secs_f64(),
            "execQueueTime": cost.queued.as_secs_f64(),
            "execTotalTime": (cost.queued + cost.prepared + cost.evaluated).as_secs_f64(),
        },
        "samples": {
            "totalQueryableSamples": cost.samples,
            "peakSamples": cost.peak_samples,
        },
    });
    Some(stats.to_string())
}

/// What every query needs of its request.
pub(super) struct Asked {
    pub(super) apis: Apis,
    pub(super) caller: Caller,
    pub(super) params: Params,
}

pub(super) async fn instant(State(app): State<App>, request: Request) -> Response {
    answer(&app, request, async |app, asked: Asked| {
        let Asked { apis, caller, params } = asked;
        let limit = params.limit()?;
        let instant = InstantParams {
            time_ms: params.time_or("time", app.clock.now_ms())?,
            lookback_ms: params.lookback_ms()?,
            read: params.read_options()?,
            query: params.get("query").unwrap_or_default().to_string(),
        };
        let mut answer = apis
            .query
            .instant(caller, instant)
            .await
            .map_err(|error| about(error, "query"))?;
        let truncated = truncate_value(&mut answer.value, limit);
        let stats = stats(&params, &answer.cost);
        Ok(Reply::new(answer, truncated, Data::Value).with_stats(stats))
    })
    .await
}

pub(super) async fn range(State(app): State<App>, request: Request) -> Response {
    answer(&app, request, async |_, asked: Asked| {
        let Asked { apis, caller, params } = asked;
        let limit = params.limit()?;
        let (start_ms, end_ms, step_ms) = params.range_ms()?;
        let range = RangeParams {
            start_ms,
            end_ms,
            step_ms,
            lookback_ms: params.lookback_ms()?,
            read: params.read_options()?,
            query: params.get("query").unwrap_or_default().to_string(),
        };
        let mut answer = apis
            .query
            .range(caller, range)
            .await
            .map_err(|error| about(error, "query"))?;
        let truncated = truncate_value(&mut answer.value, limit);
        let stats = stats(&params, &answer.cost);
        Ok(Reply::new(answer, truncated, Data::Value).with_stats(stats))
    })
    .await
}

pub(super) async fn series(State(app): State<App>, request: Request) -> Response {
    answer(&app, request, async |_, asked: Asked| {
        let (limit, meta) = meta_params(&asked.params)?;
        if meta.matches.is_empty() {
            return Err(ApiError::new(ErrorCode::BadData, "no match[] parameter provided"));
        }
        let answer = asked.apis.query.series(asked.caller, meta).await;
        let mut answer = answer.map_err(|error| about(error, "match[]"))?;
        let truncated = truncate(&mut answer.value, limit);
        Ok(Reply::new(answer, truncated, Data::Series))
    })
    .await
}

pub(super) async fn label_names(State(app): State<App>, request: Request) -> Response {
    answer(&app, request, async |_, asked: Asked| {
        let (limit, meta) = meta_params(&asked.params)?;
        let answer = asked.apis.query.label_names(asked.caller, meta).await;
        let mut answer = answer.map_err(|error| about(error, "match[]"))?;
        let truncated = truncate(&mut answer.value, limit);
        Ok(Reply::new(answer, truncated, Data::Strings))
    })
    .await
}

pub(super) async fn label_values(
    State(app): State<App>,
    Path(name): Path<String>,
    request: Request,
) -> Response {
    answer(&app, request, async move |_, asked: Asked| {
        let (limit, meta) = meta_params(&asked.params)?;
        let name = unescape_label_name(&name);
        if name.is_empty() {
            return Err(ApiError::new(
                ErrorCode::BadData,
                format!("invalid label name: {name:?}"),
            ));
        }
        let answer = asked.apis.query.label_values(asked.caller, name, meta).await;
        let mut answer = answer.map_err(|error| about(error, "match[]"))?;
        let truncated = truncate(&mut answer.value, limit);
        Ok(Reply::new(answer, truncated, Data::Strings))
    })
    .await
}

/// Deletes series, in Prometheus's form.
pub(super) async fn delete_series(State(app): State<App>, request: Request) -> Response {
    let deleted = async {
        let (asked, _) = ask(&app, request).await?;
        let Asked { apis, caller, params } = asked;
        apis.admin.check()?;
        let delete = DeleteParams {
            matches: params.all("match[]"),
            start_ms: params.time_or("start", MIN_TIME_MS)?,
            end_ms: params.time_or("end", MAX_TIME_MS)?,
        };
        apis.admin.delete_series(caller, delete).await
    };
    no_content(deleted.await)
}

/// Deleted samples leave the disk when their rows are rewritten or expire; there is nothing to ask for.
pub(super) async fn clean_tombstones(State(app): State<App>) -> Response {
    no_content(app.backend.apis().and_then(|apis| apis.admin.check()))
}

fn no_content(done: Result<(), ApiError>) -> Response {
    match done {
        Ok(()) => {
            let mut response = Response::new(Body::empty());
            *response.status_mut() = StatusCode::NO_CONTENT;
            response
        }
        Err(error) => failure(&error),
    }
}

/// Reads the request, runs `run` within its deadline, and writes what came of it.
async fn answer<F, R>(app: &App, request: Request, run: F) -> Response
where
    F: FnOnce(App, Asked) -> R,
    R: Future<Output = Result<Reply, ApiError>>,
{
    let gzip = body::takes_gzip(request.headers());
    let outcome = async {
        let (asked, timeout) = ask(app, request).await?;
        let deadline = asked.caller.deadline;
        let finished = tokio::time::timeout_at(deadline.into(), run(app.clone(), asked)).await;
        finished.unwrap_or_else(|_| {
            let message = format!(
                "query timed out in query execution after {} ms",
                timeout.as_millis()
            );
            Err(ApiError::new(ErrorCode::Timeout, message))
        })
    };
    match outcome.await {
        Ok(reply) => success(reply, gzip),
        Err(error) => failure(&error),
    }
}

/// Reads a request.
pub(super) async fn ask(app: &App, request: Request) -> Result<(Asked, std::time::Duration), ApiError> {
    let arrived = Instant::now();
    let (parts, body) = request.into_parts();
    let params = read_params(app, &parts, body).await?;
    let tenant = tenant(&parts.headers)?;
    let apis = app.backend.apis()?.clone();
    let timeout = params.timeout(app.limits.query_timeout)?;
    Ok((
        Asked {
            apis,
            caller: Caller {
                tenant,
                deadline: arrived + timeout,
            },
            params,
        },
        timeout,
    ))
}

/// The parameters of a request that needs nothing else of the node.
pub(super) async fn params(app: &App, request: Request) -> Result<Params, ApiError> {
    let (parts, body) = request.into_parts();
    read_params(app, &parts, body).await
}

async fn read_params(app: &App, parts: &http::request::Parts, body: Body) -> Result<Params, ApiError> {
    let form = match parts.method {
        Method::POST | Method::PUT => read_form(app, &parts.headers, body).await?,
        _ => Default::default(),
    };
    Params::new(&form, parts.uri.query().unwrap_or_default())
}

async fn read_form(app: &App, headers: &HeaderMap, body: Body) -> Result<bytes::Bytes, ApiError> {
    let bytes = body::read(headers, body, app.limits.query_body).await?;
    let content_type = headers
        .get(CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    let media = content_type.split(';').next().unwrap_or_default().trim();
    match bytes.is_empty() || media.eq_ignore_ascii_case("application/x-www-form-urlencoded") {
        true => Ok(bytes),
        false => Err(ApiError::new(
            ErrorCode::UnsupportedMedia,
            format!("expected Content-Type application/x-www-form-urlencoded, found {content_type:?}"),
        )),
    }
}

/// The parameters of a question about series or labels, and how many results to return.
fn meta_params(params: &Params) -> Result<(Option<usize>, MetaParams), ApiError> {
    let limit = params.limit()?;
    let (start_ms, end_ms) = (
        params.time_or("start", MIN_TIME_MS)?,
        params.time_or("end", MAX_TIME_MS)?,
    );
    if end_ms < start_ms {
        return Err(invalid("end", "end timestamp must not be before start timestamp"));
    }
    let meta = MetaParams {
        matches: params.all("match[]"),
        start_ms,
        end_ms,
        max_results: limit.map(|limit| limit.saturating_add(1)),
        read: params.read_options()?,
    };
    Ok((limit, meta))
}

/// Says which parameter could not be understood.
fn about(error: ApiError, parameter: &str) -> ApiError {
    match error.code {
        ErrorCode::BadData => invalid(parameter, &error.message),
        _ => error,
    }
}

fn truncate<T>(items: &mut Vec<T>, limit: Option<usize>) -> bool {
    match limit {
        Some(limit) if items.len() > limit => {
            items.truncate(limit);
            true
        }
        _ => false,
    }
}

fn truncate_value(value: &mut Value, limit: Option<usize>) -> bool {
    match value {
        Value::Vector(samples) => truncate(samples, limit),
        Value::Matrix(series) => truncate(series, limit),
        Value::Scalar { .. } | Value::String { .. } => false,
    }
}

fn success(reply: Reply, gzip: bool) -> Response {
    let Reply {
        data,
        warnings,
        infos,
        report,
        stats,
    } = reply;
    let mut response = write_json(Success::new(data, &warnings, &infos).with_stats(stats), gzip);
    let headers = response.headers_mut();
    headers.insert(LEVEL_HEADER, HeaderValue::from_static(report.level.as_str()));
    let text = json::report(&report);
    if text.len() <= MAX_REPORT_BYTES
        && let Ok(value) = HeaderValue::from_str(&text)
    {
        headers.insert(REPORT_HEADER, value);
    }
    response
}

/// A successful answer that nothing was read for.
pub(super) fn constant(data: impl Into<Cow<'static, str>>) -> Response {
    write_json(Success::new(Data::Raw(data.into()), &[], &[]), false)
}

fn write_json(pieces: Success, gzip: bool) -> Response {
    let (body, compressed) = body::write(pieces, gzip);
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, JSON);
    headers.insert(VARY, HeaderValue::from_static("Accept-Encoding"));
    if compressed {
        headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    response
}

/// A failed answer in Prometheus's form.
pub(super) fn failure(error: &ApiError) -> Response {
    let mut response = Response::new(Body::from(json::error(
        error.code.prometheus_type(),
        &error.message,
    )));
    *response.status_mut() =
        StatusCode::from_u16(error.code.http()).unwrap_or(StatusCode::SERVICE_UNAVAILABLE);
    response.headers_mut().insert(CONTENT_TYPE, JSON);
    add_retry_after(&mut response, error);
    response
}
