//! The endpoints besides queries and writes.

use super::*;

fn json(reply: &Reply) -> serde_json::Value {
    serde_json::from_str(reply.text()).unwrap_or_else(|error| panic!("{error}: {}", reply.text()))
}

#[test]
fn expressions_are_formatted_and_parsed() {
    let server = server();
    let reply = server.get("/api/v1/format_query?query=sum+by(job)(%20rate(a%5B5m%5D))%3E1e6");
    assert_eq!(json(&reply)["data"], "sum by (job) (rate(a[5m])) > 1e+06");
    let form = [("content-type", "application/x-www-form-urlencoded")];
    let reply = server.post("/api/v1/parse_query", &form, b"query=-a");
    assert_eq!(json(&reply)["data"]["type"], "unaryExpr");
    for path in ["format_query", "parse_query", "query_exemplars"] {
        let reply = server.get(&format!("/api/v1/{path}?query=foo("));
        assert_eq!(reply.status, 400);
        let error = "invalid parameter \"query\": 1:5: parse error: unclosed left parenthesis";
        assert_eq!(json(&reply)["error"], error, "{path}");
    }
    assert_eq!(
        json(&server.get("/api/v1/query_exemplars?query=a"))["data"],
        serde_json::json!([])
    );
}

#[test]
fn experimental_parts_follow_the_configuration() {
    let path = "/api/v1/format_query?query=limitk(1,a)";
    assert_eq!(server().get(path).status, 400);
    let on = server_with(|config| config.read.enable_features.0 = Features::ALL);
    assert_eq!(on.get(path).status, 200);
    let features = json(&on.get("/api/v1/features"));
    assert_eq!(features["data"]["promql"]["anchored"], true);
    assert_eq!(features["data"]["promql_functions"]["rate"], true);
    let features = json(&server().get("/api/v1/features"));
    assert_eq!(features["data"]["promql_functions"]["info"], false);
}

#[test]
fn what_is_not_here_is_answered_empty() {
    let server = server();
    for (path, data) in [
        ("alerts", serde_json::json!({"alerts": []})),
        ("rules", serde_json::json!({"groups": []})),
        (
            "alertmanagers",
            serde_json::json!({"activeAlertmanagers": [], "droppedAlertmanagers": []}),
        ),
        ("scrape_pools", serde_json::json!({"scrapePools": []})),
        (
            "status/walreplay",
            serde_json::json!({"min": 0, "max": 0, "current": 0}),
        ),
    ] {
        let reply = server.get(&format!("/api/v1/{path}"));
        assert_eq!((reply.status, &json(&reply)["data"]), (200, &data), "{path}");
    }
    assert_eq!(
        json(&server.get("/api/v1/targets"))["data"]["activeTargets"],
        serde_json::json!([])
    );
}

#[test]
fn the_configuration_is_shown() {
    let server = server();
    let yaml = json(&server.get("/api/v1/status/config"))["data"]["yaml"].clone();
    assert!(
        yaml.as_str()
            .unwrap()
            .contains("read:\n  level: \"linearizable\"\n"),
        "{yaml}"
    );
    let flags = json(&server.get("/api/v1/status/flags"));
    assert_eq!(flags["data"]["read-max-concurrent"], "20");
    let info = json(&server.get("/api/v1/status/runtimeinfo"));
    assert_eq!(info["data"]["storageRetention"], "15d");
    assert_eq!(info["data"]["startTime"], "2023-11-14T22:13:20.123Z");
}

#[test]
fn federation_gives_the_newest_sample_of_series_that_go_on() {
    let server = server();
    let reply = server.get("/federate?match[]=up&match[]=%7Bjob%3D%22b%22%7D&lookback_delta=1m");
    let expected = format!(
        "# TYPE up untyped\nup{{job=\"b\",instance=\"\"}} 1.5 {}\n",
        NOW_MS - 1_000
    );
    assert_eq!((reply.status, reply.text()), (200, expected.as_str()));
    assert!(
        reply
            .header("content-type")
            .starts_with("text/plain; version=0.0.4")
    );
    let asked = server.fake.asked.lock().pop().unwrap();
    assert!(
        asked.ends_with(&format!(" {} {NOW_MS}", NOW_MS - 59_999)),
        "{asked}"
    );
    assert_eq!(server.get("/federate?match[]=up%7B").status, 400);
    assert_eq!(server.get("/federate").text(), "");
}

#[test]
fn a_query_tells_what_it_cost_when_it_is_asked() {
    let server = server();
    let reply = server.get("/api/v1/query?query=1&stats=all");
    let stats = &json(&reply)["data"]["stats"];
    assert_eq!(stats["samples"]["totalQueryableSamples"], 12);
    assert!(stats["timings"]["execTotalTime"].is_number());
    assert!(json(&server.get("/api/v1/query?query=1"))["data"]["stats"].is_null());
}

#[test]
fn a_remote_read_that_is_none_is_refused() {
    let server = server();
    assert_eq!(server.post("/api/v1/read", &[], b"junk").status, 400);
    assert_eq!(server.get("/api/v1/read").status, 405);
    let bomb = [0xff, 0xff, 0xff, 0xff, 0x0f, 0];
    let reply = server.post("/api/v1/read", &[], &bomb);
    assert!(matches!(reply.status, 400 | 413), "{}", reply.status);
}

#[test]
fn only_pages_of_allowed_origins_may_read() {
    let server = server_with(|config| config.http_cors_origin.0 = "https://ok".to_owned());
    let ask = |origin: &str| {
        let head = "GET /api/v1/status/buildinfo HTTP/1.1\r\nhost: x\r\nconnection: close\r\n";
        read_all(server.raw(&format!("{head}origin: {origin}\r\n\r\n")))
    };
    assert!(ask("https://ok").contains("access-control-allow-origin: https://ok\r\n"));
    assert!(!ask("https://evil").contains("access-control-allow-origin"));
}
