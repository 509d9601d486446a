//! The command line of the program.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::config::ServerArgs;
use crate::{cli, dev, node, server};

/// A metrics database that keeps every acknowledged sample on a majority of its nodes.
#[derive(Debug, Parser)]
#[command(name = "quorate", version, about, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a node.
    Server(ServerArgs),
    /// Check a configuration file, or print an example of one.
    Check(cli::check::CheckArgs),
    /// Run a cluster on this machine, to try things out.
    Dev(dev::DevArgs),
    /// Evaluate a PromQL expression.
    Query(cli::query::QueryArgs),
    /// List the series that match selectors.
    Series(cli::series::SeriesArgs),
    /// List label names, or the values of one.
    Labels(cli::labels::LabelsArgs),
    /// Look into what is stored.
    Tsdb(cli::tsdb::TsdbArgs),
    /// Send samples in the text exposition format.
    Write(cli::write::WriteArgs),
    /// Take over what a Prometheus has stored, or OpenMetrics text.
    Import(cli::import::ImportArgs),
    /// Write samples out as OpenMetrics text, or send them on by remote write.
    Export(cli::export::ExportArgs),
    /// Show the cluster, compare replicas, move leaders.
    Cluster(cli::cluster::ClusterArgs),
    /// Look at stored samples. The node must not run; nothing is changed.
    Storage(cli::storage::StorageArgs),
    /// Run Prometheus's PromQL test scripts.
    Promqltest(cli::promqltest::PromqltestArgs),
    /// Look at replicated logs. The node must not run; nothing is changed.
    RaftLog(cli::raft_log::RaftLogArgs),
}

/// Half of the cores. A write is many small tasks that wake each other, which is dear across threads; what is
/// long has threads of its own, and the log writer another.
fn workers() -> usize {
    std::thread::available_parallelism().map_or(1, |cores| cores.get().div_ceil(2))
}

/// Reads the command line, does what it says, and gives the process's exit code.
pub fn run() -> ExitCode {
    let command = Cli::parse().command;
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    if std::env::var_os("TOKIO_WORKER_THREADS").is_none() {
        builder.worker_threads(workers());
    }
    let runtime = match builder.enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: can't start: {error}");
            return ExitCode::FAILURE;
        }
    };
    let outcome = runtime.block_on(async {
        match command {
            Command::Server(args) => server::run(args.load()?, node::start).await,
            Command::Check(args) => cli::check::run(args).await,
            Command::Dev(args) => dev::run(args).await,
            Command::Query(args) => cli::query::run(args).await,
            Command::Series(args) => cli::series::run(args).await,
            Command::Labels(args) => cli::labels::run(args).await,
            Command::Tsdb(args) => cli::tsdb::run(args).await,
            Command::Write(args) => cli::write::run(args).await,
            Command::Import(args) => cli::import::run(args).await,
            Command::Export(args) => cli::export::run(args).await,
            Command::Cluster(args) => cli::cluster::run(args).await,
            Command::Storage(args) => cli::storage::run(args).await,
            Command::Promqltest(args) => cli::promqltest::run(args).await,
            Command::RaftLog(args) => cli::raft_log::run(args).await,
        }
    });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
