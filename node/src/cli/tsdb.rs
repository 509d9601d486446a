//! `quorate tsdb`: what the stored series look like.

use clap::{Args, Subcommand};
use quorate_client::{CardinalityResponse, NamedCount, SeriesMemory};

use super::connect::ConnectArgs;
use super::table;

/// Look into what is stored.
#[derive(Debug, Args)]
pub struct TsdbArgs {
    #[command(subcommand)]
    command: TsdbCommand,
}

#[derive(Debug, Subcommand)]
enum TsdbCommand {
    /// Show which metrics and labels have the most series, and where one node's memory and disk go.
    Analyze {
        /// Entries of each list.
        #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=10_000))]
        limit: u32,
        #[command(flatten)]
        connect: ConnectArgs,
    },
}

/// Runs `quorate tsdb`.
pub async fn run(args: TsdbArgs) -> anyhow::Result<()> {
    match args.command {
        TsdbCommand::Analyze { limit, connect } => {
            let answer = connect.client()?.cardinality(limit).await?;
            print!("{}", describe(&answer));
            Ok(())
        }
    }
}

fn describe(answer: &CardinalityResponse) -> String {
    let mut out = format!(
        "Node {}, {} shards: {} active series (a sample in the last hour) of {} registered; {} label pairs.\n\n",
        answer.node, answer.shards, answer.active_series, answer.registered_series, answer.label_pairs
    );
    if let Some(memory) = &answer.memory {
        out += &memory_table(memory, answer.all_series);
    }
    let per = |bytes: u64, count: u64| table::show_rounded(bytes as f64 / count.max(1) as f64);
    out += &format!(
        "Unflushed: {} samples in {} chunks. Flushed: {} samples in {} chunks, {} bytes a sample before \
         RocksDB's compression.\n\n",
        answer.head_samples,
        answer.head_chunks,
        answer.flushed_samples,
        answer.flushed_chunks,
        per(answer.flushed_bytes, answer.flushed_samples),
    );
    for (what, count, list) in [
        ("metric", "series", &answer.series_by_metric),
        ("label", "values", &answer.values_by_label),
        (
            "label",
            "bytes of values, summed over series",
            &answer.value_bytes_by_label,
        ),
        ("label pair", "series", &answer.series_by_pair),
    ] {
        out += &list_table(what, count, list);
    }
    out
}

fn memory_table(memory: &SeriesMemory, series: u64) -> String {
    let mut rows = table::table(["memory", "bytes", "bytes a series"], &[1, 2]);
    let parts = [
        ("state of series", memory.series),
        ("lists of label pairs", memory.labels),
        ("names and values", memory.symbols),
        ("postings", memory.postings),
        ("unflushed samples", memory.chunks),
    ];
    for (part, bytes) in parts {
        let each = bytes as f64 / series.max(1) as f64;
        rows.add_row([part.to_owned(), bytes.to_string(), format!("{each:.1}")]);
    }
    format!("{rows}\n\n")
}

fn list_table(what: &str, count: &str, list: &[NamedCount]) -> String {
    let mut rows = table::table([what, count], &[1]);
    for entry in list {
        rows.add_row([entry.name.clone(), entry.count.to_string()]);
    }
    format!("{rows}\n\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_what_there_is() {
        let count = |name: &str, count| NamedCount {
            name: name.to_owned(),
            count,
        };
        let text = describe(&CardinalityResponse {
            node: 3,
            shards: 8,
            active_series: 90,
            registered_series: 95,
            all_series: 100,
            memory: Some(SeriesMemory {
                chunks: 6_400,
                ..SeriesMemory::default()
            }),
            flushed_samples: 1_000,
            flushed_bytes: 1_500,
            series_by_metric: vec![count("up", 60), count("node_load1", 30)],
            ..CardinalityResponse::default()
        });
        for part in [
            "Node 3, 8 shards: 90 active series (a sample in the last hour) of 95 registered",
            "64.0",
            "1.5",
            "node_load1",
        ] {
            assert!(text.contains(part), "{part:?} in {text}");
        }
    }
}
