//! The life of `quorate server`: bind, start, serve, stop.

mod core;
mod listeners;
mod logging;
mod notify;
mod panics;
mod shutdown;
mod signals;
mod tasks;

use std::future::Future;
use std::sync::Arc;

use anyhow::Context;
use tokio_util::sync::CancellationToken;

pub use self::core::{Core, Start};
pub use listeners::Listeners;
pub use tasks::{Kind, Tasks};

use crate::clock::SystemClock;
use crate::cluster::Readiness;
use crate::config::Loaded;
use crate::http::{App, Backend, HttpLimits, serve};
use crate::metrics::{Metrics, VERSION};
use shutdown::Shutdown;
use signals::Signals;

/// Why the server stops.
enum End {
    Signal(&'static str),
    Failure(String),
}

/// Runs a node until a signal or a failure, then stops it in order. `start` makes the core; it may take
/// its time, HTTP answers meanwhile that the node is starting.
///
/// # Errors
/// What kept the node from starting, made it stop, or did not finish in time when it stopped.
pub async fn run<F>(loaded: Loaded, start: impl FnOnce(Start) -> F) -> anyhow::Result<()>
where
    F: Future<Output = anyhow::Result<Arc<dyn Core>>>,
{
    let config = Arc::new(loaded.config);
    logging::init(&config)?;
    panics::abort_on_panic();
    for warning in &loaded.warnings {
        tracing::warn!("{warning}");
    }
    let mut signals = Signals::install().context("can't listen to signals")?;
    let listeners = Listeners::bind(&config).await?;
    tracing::info!(
        version = VERSION,
        node = config.node_id,
        http = %listeners.http_address,
        grpc = %listeners.grpc_address,
        data_dir = %config.data_dir.display(),
        "starting"
    );

    let tasks = Tasks::new();
    let metrics = Metrics::new(&config);
    let readiness = Arc::new(Readiness::default());
    let backend = Backend::starting(readiness.clone());
    let app = App::new(
        backend.clone(),
        metrics.clone(),
        HttpLimits::new(&config),
        Arc::new(SystemClock),
    );
    let http_stop = CancellationToken::new();
    let http = tokio::spawn(serve(listeners.http, app, http_stop.clone()));

    let start = start(Start {
        config: config.clone(),
        grpc: listeners.grpc,
        http_address: listeners.http_address,
        grpc_address: listeners.grpc_address,
        metrics,
        tasks: tasks.clone(),
        readiness,
    });
    let started = tokio::select! {
        started = start => started.map_err(|error| End::Failure(format!("{error:#}"))),
        signal = signals.next() => Err(End::Signal(signal)),
        failure = tasks.failure() => Err(End::Failure(failure)),
    };
    let (core, end) = match started {
        Ok(core) => {
            backend.open(core.apis());
            notify::systemd("READY=1");
            tracing::info!("started");
            let end = tokio::select! {
                signal = signals.next() => End::Signal(signal),
                failure = tasks.failure() => End::Failure(failure),
            };
            (Some(core), end)
        }
        Err(end) => (None, end),
    };

    match &end {
        End::Signal(name) => tracing::info!(signal = name, "stopping; a second signal exits at once"),
        End::Failure(reason) => tracing::error!(reason, "stopping because of a failure"),
    }
    notify::systemd("STOPPING=1");
    signals.exit_on_next();
    let mut shutdown = Shutdown::begin(config.shutdown_timeout);
    shutdown
        .run(core.as_deref(), &backend, &tasks, http_stop, http)
        .await;
    let unfinished = shutdown.finish();
    match end {
        End::Failure(reason) => Err(anyhow::anyhow!(reason)),
        End::Signal(_) if unfinished.is_empty() => Ok(()),
        End::Signal(_) => Err(anyhow::anyhow!("not finished in time: {}", unfinished.join(", "))),
    }
}
