//! `GET /api/v1/features`: which parts of Prometheus's API and language are here.

use axum::extract::State;
use axum::response::Response;
use quorate_query::parse::functions::FUNCTIONS;
use serde_json::{Map, Value, json};

use super::{App, query};

pub(super) async fn features(State(app): State<App>) -> Response {
    let on = app.limits.features;
    let functions: Map<String, Value> = FUNCTIONS
        .iter()
        .map(|spec| {
            let usable = !spec.experimental || on.experimental_functions;
            (spec.name.to_owned(), usable.into())
        })
        .collect();
    let data = json!({
        "api": {
            "admin": true,
            "label_values_match": true,
            "query_stats": true,
            "remote_read": true,
            "remote_write": true,
            "time_range_labels": true,
            "time_range_series": true,
        },
        "promql": {
            "anchored": on.extended_range_selectors,
            "at_modifier": true,
            "bool": true,
            "by": true,
            "delayed_name_removal": on.delayed_name_removal,
            "duration_expr": true,
            "fill": on.binop_fill_modifiers,
            "group_left": true,
            "group_right": true,
            "ignoring": true,
            "negative_offset": true,
            "offset": true,
            "on": true,
            "smoothed": on.extended_range_selectors,
            "subqueries": true,
            "without": true,
        },
        "promql_functions": functions,
    });
    query::constant(data.to_string())
}
