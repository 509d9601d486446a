//! A node's life from outside: it listens before it is ready and stops in order on SIGTERM. One test
//! only, because signals and the panic hook are the process's.

#![expect(clippy::unwrap_used, reason = "helpers of a test fail it")]

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use quorate_node::api::*;
use quorate_node::cardinality::NodeCardinality;
use quorate_node::config::{Config, Loaded};
use quorate_node::http::Apis;
use quorate_node::server::{Core, Kind, Start, run};
use quorate_proto::ErrorCode;
use quorate_query::value::Value;
use quorate_storage::Labels;
use tokio::sync::mpsc::UnboundedSender;
use tokio_util::sync::CancellationToken;

/// A core that stores nothing and tells of its phases.
struct Hollow {
    phases: UnboundedSender<&'static str>,
}

fn nothing<T: Send + 'static>() -> BoxFuture<'static, Result<T, ApiError>> {
    Box::pin(async { Err(ApiError::new(ErrorCode::NoLeader, "there is nothing here")) })
}

impl WriteApi for Hollow {
    fn remote_write(&self, _: RemoteWrite) -> BoxFuture<'_, Result<WriteReport, ApiError>> {
        nothing()
    }
}

impl AdminApi for Hollow {
    fn check(&self) -> Result<(), ApiError> {
        Ok(())
    }
    fn delete_series(&self, _: Caller, _: DeleteParams) -> BoxFuture<'_, Result<(), ApiError>> {
        nothing()
    }
}

impl QueryApi for Hollow {
    fn instant(&self, _: Caller, _: InstantParams) -> BoxFuture<'_, Result<Answer<Value>, ApiError>> {
        nothing()
    }
    fn range(&self, _: Caller, _: RangeParams) -> BoxFuture<'_, Result<Answer<Value>, ApiError>> {
        nothing()
    }
    fn raw(&self, _: Caller, _: RawParams) -> BoxFuture<'_, Result<Answer<Vec<RawSeries>>, ApiError>> {
        nothing()
    }
    fn series(&self, _: Caller, _: MetaParams) -> BoxFuture<'_, Result<Answer<Vec<Labels>>, ApiError>> {
        nothing()
    }
    fn label_names(&self, _: Caller, _: MetaParams) -> BoxFuture<'_, Result<Answer<Vec<String>>, ApiError>> {
        nothing()
    }
    fn label_values(
        &self,
        _: Caller,
        _: String,
        _: MetaParams,
    ) -> BoxFuture<'_, Result<Answer<Vec<String>>, ApiError>> {
        nothing()
    }
}

impl Core for Hollow {
    fn apis(&self) -> Apis {
        let own = Arc::new(Hollow {
            phases: self.phases.clone(),
        });
        Apis {
            write: own.clone(),
            query: own.clone(),
            admin: own,
            pending: Arc::new(Vec::new),
            cardinality: Arc::new(|_| NodeCardinality::default()),
        }
    }
    fn stop_taking(&self) -> BoxFuture<'_, ()> {
        self.phases.send("stop_taking").unwrap();
        Box::pin(async {})
    }
    fn hand_over(&self) -> BoxFuture<'_, ()> {
        self.phases.send("hand_over").unwrap();
        Box::pin(async {})
    }
    fn flush(&self) -> BoxFuture<'_, Result<(), String>> {
        self.phases.send("flush").unwrap();
        Box::pin(async { Ok(()) })
    }
    fn close(&self) -> BoxFuture<'_, Result<(), String>> {
        self.phases.send("close").unwrap();
        Box::pin(async { Ok(()) })
    }
    fn still_pending(&self) -> Vec<String> {
        Vec::new()
    }
}

fn loaded(http_listen: std::net::SocketAddr) -> Loaded {
    let grpc_listen = "127.0.0.1:0".parse().unwrap();
    let config = Config {
        node_id: 1,
        replication_factor: 1,
        http_listen,
        grpc_listen,
        ..Config::default()
    };
    Loaded {
        config,
        origins: Default::default(),
        warnings: Vec::new(),
    }
}

async fn status(url: String) -> (u16, String) {
    let call = move || {
        let agent: ureq::Agent = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(Duration::from_secs(20)))
            .build()
            .into();
        let mut response = agent.get(url).call().unwrap();
        (
            response.status().as_u16(),
            response.body_mut().read_to_string().unwrap(),
        )
    };
    tokio::task::spawn_blocking(call).await.unwrap()
}

#[tokio::test]
async fn listens_at_once_and_stops_in_order() {
    let (phases, mut seen) = tokio::sync::mpsc::unbounded_channel();
    let (address, listening) = tokio::sync::oneshot::channel();
    let go_on = CancellationToken::new();
    let server = tokio::spawn({
        let go_on = go_on.clone();
        run(
            loaded("127.0.0.1:0".parse().unwrap()),
            async move |start: Start| {
                address.send(start.http_address).unwrap();
                start
                    .tasks
                    .spawn("ticker", Kind::Essential, async |stop: CancellationToken| {
                        stop.cancelled().await;
                        Ok(())
                    });
                go_on.cancelled().await;
                Ok(Arc::new(Hollow { phases }) as Arc<dyn Core>)
            },
        )
    });
    let address = listening.await.unwrap();
    let url = |path: &str| format!("http://{address}{path}");

    assert_eq!(status(url("/-/healthy")).await.0, 200);
    let (code, text) = status(url("/-/ready")).await;
    assert_eq!((code, text.as_str()), (503, "quorate is not ready:\nstarting\n"));
    assert_eq!(status(url("/api/v1/query?query=1")).await.0, 503);

    go_on.cancel();
    while status(url("/-/ready")).await.0 != 200 {
        tokio::task::yield_now().await;
    }
    assert!(
        status(url("/api/v1/query?query=1"))
            .await
            .1
            .contains("there is nothing here")
    );

    rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::TERM).unwrap();
    let ended = tokio::time::timeout(Duration::from_secs(30), server)
        .await
        .unwrap();
    ended.unwrap().unwrap();
    let mut order = Vec::new();
    while let Some(phase) = seen.recv().await {
        order.push(phase);
    }
    assert_eq!(order, ["stop_taking", "hand_over", "flush", "close"]);
}
