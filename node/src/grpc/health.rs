//! The standard health service follows readiness.

use std::time::Duration;

use quorate_proto::v1::query_server::SERVICE_NAME as QUERY;
use quorate_proto::v1::write_server::SERVICE_NAME as WRITE;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use super::Cells;

const CHECK: Duration = Duration::from_millis(200);

/// Keeps the status of the whole server and of the public services up to date. Never ends.
pub(super) async fn follow(cells: Cells, reporter: HealthReporter) {
    let mut reported = None;
    loop {
        let ready = ready(&cells);
        if reported != Some(ready) {
            let status = if ready {
                ServingStatus::Serving
            } else {
                ServingStatus::NotServing
            };
            for service in ["", WRITE, QUERY] {
                reporter.set_service_status(service, status).await;
            }
            reported = Some(ready);
        }
        tokio::time::sleep(CHECK).await;
    }
}

fn ready(cells: &Cells) -> bool {
    let started = cells.node.get();
    started.is_some_and(|node| node.pending().is_empty()) && !cells.public.closed()
}
