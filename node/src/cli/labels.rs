//! `quorate labels`: label names, or the values of one.

use clap::Args;
use quorate_client::LabelOptions;

use super::connect::{ConnectArgs, ReadArgs};
use super::time::{SpanArgs, now_ms};
use super::{json, table};

/// List the names of labels, or the values of one label.
#[derive(Debug, Args)]
pub struct LabelsArgs {
    /// A label: lists its values.
    name: Option<String>,
    /// Only of series that match this selector; may be repeated.
    #[arg(long = "match", value_name = "SELECTOR")]
    matches: Vec<String>,
    /// Most names or values to list.
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

/// Runs `quorate labels`.
pub async fn run(args: LabelsArgs) -> anyhow::Result<()> {
    let (start_ms, end_ms) = args.span.span(now_ms());
    let options = LabelOptions {
        matches: args.matches,
        start_ms,
        end_ms,
        limit: args.limit,
        read: args.read.level(),
    };
    let client = args.connect.client()?;
    let found = match &args.name {
        Some(name) => client.label_values(name, &options).await?,
        None => client.label_names(&options).await?,
    };
    if args.json {
        println!(
            "{}",
            json::success(found.strings.into(), &found.warnings, &[], &found.report)
        );
        return Ok(());
    }
    table::show_notes(&found.warnings, &[]);
    for text in &found.strings {
        println!("{text}");
    }
    // The list alone is what one pipes.
    let what = if args.name.is_some() { "values" } else { "names" };
    eprintln!(
        "{} {what}; {}",
        found.strings.len(),
        table::show_report(&found.report)
    );
    Ok(())
}
