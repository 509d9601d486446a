//! `format_query`, `parse_query`, `query_exemplars`: questions about an expression.

use axum::extract::{Request, State};
use axum::response::Response;
use quorate_proto::ErrorCode;
use quorate_query::ast::Expr;
use quorate_query::parse::{MAX_PRETTY_HEIGHT, prettify};
use quorate_query::parse_with;
use serde_json::Value;

use super::params::invalid;
use super::{App, ast, query};
use crate::api::ApiError;

/// The expression, written as Prometheus writes it.
pub(super) async fn format(State(app): State<App>, request: Request) -> Response {
    answer(&app, request, |expr| prettify(expr).map(Value::String)).await
}

/// The expression's tree.
pub(super) async fn parse(State(app): State<App>, request: Request) -> Response {
    answer(&app, request, |expr| {
        (expr.height() <= MAX_PRETTY_HEIGHT).then(|| ast::translate(expr))
    })
    .await
}

/// Exemplars of the selected series: none are kept.
pub(super) async fn exemplars(State(app): State<App>, request: Request) -> Response {
    answer(&app, request, |_| Some(Value::Array(Vec::new()))).await
}

async fn answer(app: &App, request: Request, make: impl FnOnce(&Expr) -> Option<Value>) -> Response {
    let made = async {
        let params = query::params(app, request).await?;
        let text = params.get("query").unwrap_or_default();
        let expr = parse_with(text, app.limits.features).map_err(|e| invalid("query", &e.to_string()))?;
        make(&expr).ok_or_else(|| {
            let message =
                format!("the expression nests deeper than the {MAX_PRETTY_HEIGHT} levels that are shown");
            ApiError::new(ErrorCode::BadData, message)
        })
    };
    match made.await {
        Ok(data) => query::constant(data.to_string()),
        Err(error) => query::failure(&error),
    }
}
