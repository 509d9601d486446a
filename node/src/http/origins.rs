//! Which pages may read answers in a browser.

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;
use http::HeaderValue;
use http::header::{ACCESS_CONTROL_ALLOW_ORIGIN, ORIGIN, VARY};
use quorate_storage::GoRegex;

use super::App;

/// The origins that the configuration allows.
#[derive(Debug)]
pub(super) enum Origins {
    All,
    /// Nothing, if the pattern can't be read, which the configuration's check rules out.
    Matching(Option<GoRegex>),
}

impl Origins {
    pub(super) fn new(pattern: &str) -> Origins {
        match pattern {
            ".*" => Origins::All,
            _ => Origins::Matching(GoRegex::new_anchored(pattern).ok()),
        }
    }

    /// What to allow a page of this origin.
    fn answer(&self, origin: &HeaderValue) -> Option<HeaderValue> {
        match self {
            Origins::All => Some(HeaderValue::from_static("*")),
            Origins::Matching(pattern) => {
                let text = origin.to_str().ok()?;
                pattern.as_ref()?.is_match(text).then(|| origin.clone())
            }
        }
    }
}

/// Adds the headers that browsers ask for. There are no cookies to steal.
pub(super) async fn allow(State(app): State<App>, request: Request, next: Next) -> Response {
    let origin = request.headers().get(ORIGIN).cloned();
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    headers.append(VARY, HeaderValue::from_static("Origin"));
    let allowed = match (&origin, &*app.limits.origins) {
        (Some(origin), origins) => origins.answer(origin),
        (None, Origins::All) => Some(HeaderValue::from_static("*")),
        (None, Origins::Matching(_)) => None,
    };
    let Some(allowed) = allowed else { return response };
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, allowed);
    for (name, value) in [
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_is_for_the_whole_origin() {
        let origins = Origins::new("https?://grafana\\.example\\.org");
        let answer = |origin: &'static str| origins.answer(&HeaderValue::from_static(origin));
        let mine = "http://grafana.example.org";
        assert_eq!(answer(mine), Some(HeaderValue::from_static(mine)));
        assert_eq!(answer("http://grafana.example.org.evil"), None);
        assert_eq!(answer("http://evil/http://grafana.example.org"), None);
        let all = Origins::new(".*").answer(&HeaderValue::from_static("http://any"));
        assert_eq!(all, Some(HeaderValue::from_static("*")));
    }
}
