//! `quorate series`: which series there are.

use clap::Args;
use quorate_client::LabelOptions;

use super::connect::{ConnectArgs, ReadArgs};
use super::time::{SpanArgs, now_ms};
use super::{json, table};

/// List the series that match any of the selectors.
#[derive(Debug, Args)]
pub struct SeriesArgs {
    /// Selectors, for example 'up{job="node"}'.
    #[arg(required = true, value_name = "MATCH")]
    matches: Vec<String>,
    /// Most series to list.
    #[arg(long, default_value_t = 0, hide_default_value = true)]
    limit: u64,
    /// Print JSON as the HTTP API returns it.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    span: SpanArgs,
    #[command(flatten)]
    read: ReadArgs,
    #[command(flatten)]
    connect: ConnectArgs,
}

/// Runs `quorate series`.
pub async fn run(args: SeriesArgs) -> anyhow::Result<()> {
    let (start_ms, end_ms) = args.span.span(now_ms());
    let options = LabelOptions {
        matches: args.matches,
        start_ms,
        end_ms,
        limit: args.limit,
        read: args.read.level(),
    };
    let (series, report) = args.connect.client()?.series(&options).await?;
    if args.json {
        let data = series.iter().map(json::metric).collect();
        println!("{}", json::success(data, &[], &[], &report));
        return Ok(());
    }
    for labels in &series {
        println!("{labels}");
    }
    // The list alone is what one pipes.
    eprintln!("{} series; {}", series.len(), table::show_report(&report));
    Ok(())
}
