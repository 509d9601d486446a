//! `quorate promqltest`: Prometheus's own kind of test scripts, run over this program's storage and engine.

mod storage;

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use clap::Args;
use quorate_query::promqltest::{Outcome, Settings, run_script};

use storage::ScriptStorage;

/// Run Prometheus's PromQL test scripts.
///
/// Samples take the way of a replica: entries are applied, a part of them is flushed, queries read both. There is no
/// retention, and no network.
#[derive(Debug, Args)]
pub struct PromqltestArgs {
    /// Scripts: `load`, `clear`, `eval`.
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Spread the series over so many shards.
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=64))]
    shards: u32,
    /// Switch on what Prometheus has behind flags; several with commas. Without the option, everything is on, as in
    /// Prometheus's own runs of these scripts. `none` switches everything off.
    #[arg(long, value_name = "FEATURE", value_delimiter = ',')]
    enable_feature: Option<Vec<String>>,
}

/// Runs `quorate promqltest`.
pub async fn run(args: PromqltestArgs) -> anyhow::Result<()> {
    let done = tokio::task::spawn_blocking(move || run_all(&args));
    done.await.context("the run was cut off")?
}

fn run_all(args: &PromqltestArgs) -> anyhow::Result<()> {
    let settings = settings(args.enable_feature.as_deref())?;
    let (mut passed, mut failed) = (0, 0);
    for file in &args.files {
        let outcomes = match run_file(file, args.shards, &settings) {
            Ok(outcomes) => outcomes,
            Err(error) => {
                println!("{}: {error:#}", file.display());
                failed += 1;
                continue;
            }
        };
        for outcome in outcomes {
            match &outcome.failure {
                None => passed += 1,
                Some(failure) => {
                    failed += 1;
                    println!(
                        "{}:{}: {}\n  {failure}",
                        file.display(),
                        outcome.line,
                        outcome.query
                    );
                }
            }
        }
    }
    println!("{passed} passed, {failed} failed");
    if failed > 0 {
        bail!("{failed} evaluations differ from what the scripts expect");
    }
    Ok(())
}

fn settings(features: Option<&[String]>) -> anyhow::Result<Settings> {
    let Some(names) = features else {
        return Ok(Settings::default());
    };
    let named: Vec<&str> = names
        .iter()
        .map(String::as_str)
        .filter(|name| *name != "none")
        .collect();
    let features = quorate_query::Features::from_names(&named)
        .map_err(|unknown| anyhow::anyhow!("--enable-feature: {unknown}"))?;
    Ok(Settings { features })
}

fn run_file(file: &Path, shards: u32, settings: &Settings) -> anyhow::Result<Vec<Outcome>> {
    let text = std::fs::read_to_string(file).context("can't read the script")?;
    let mut storage = ScriptStorage::open(shards)?;
    Ok(run_script(&text, &mut storage, settings)?)
}
