//! `quorate check`: is a configuration right?

use std::path::PathBuf;

use clap::{Args, Subcommand};

use crate::config::{self, Config, Loaded, Sources};

/// Flags of `quorate check`.
#[derive(Debug, Args)]
pub struct CheckArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Check a configuration file and report every mistake in it with its line.
    Config {
        /// The file.
        file: PathBuf,
    },
    /// Print a configuration file with every key, its default and its meaning.
    Example,
}

/// Runs `quorate check`. The file alone is judged, not flags or the environment.
pub async fn run(args: CheckArgs) -> anyhow::Result<()> {
    match args.what {
        What::Example => print!("{}", config::example()),
        What::Config { file } => {
            let text = config::read_file(&file)?;
            let name = file.display().to_string();
            let sources = Sources {
                file: Some((&name, &text)),
                ..Sources::default()
            };
            let loaded =
                config::load(&sources).map_err(|mistakes| anyhow::anyhow!(config::report(&mistakes)))?;
            print!("{}", summary(&loaded));
        }
    }
    Ok(())
}

/// What the configuration amounts to.
fn summary(loaded: &Loaded) -> String {
    let config: &Config = &loaded.config;
    let mut out = String::from("the configuration is right\n");
    let nodes: Vec<String> = config
        .cluster_nodes()
        .iter()
        .map(|node| format!("{} at {}", node.id, node.grpc))
        .collect();
    let lines = [
        (
            "node",
            format!("{}, data in {}", config.node_id, config.data_dir.display()),
        ),
        (
            "HTTP",
            format!("{}, for others {}", config.http_listen, config.advertised_http()),
        ),
        (
            "gRPC",
            format!("{}, for others {}", config.grpc_listen, config.advertised_grpc()),
        ),
        ("cluster", nodes.join(", ")),
        (
            "shards",
            format!("{}, {} copies each", config.shards, config.replication_factor),
        ),
        (
            "set here",
            format!("{} keys, the others have their defaults", loaded.origins.len()),
        ),
    ];
    for (name, value) in lines {
        out.push_str(&format!("  {name}: {value}\n"));
    }
    for warning in &loaded.warnings {
        out.push_str(&format!("warning: {warning}\n"));
    }
    out
}
