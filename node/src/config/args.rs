//! The flags of `quorate server`: `--config` and one for each key.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::Context;
use clap::{Arg, ArgMatches, Command};

use super::load::{Loaded, Mistake, Sources, environment_variable, flag, load};
use super::slot::{Item, Visit};
use super::{Config, document};

/// What was given on the command line.
#[derive(Debug, Clone, Default)]
pub struct ServerArgs {
    /// The configuration file.
    pub config: Option<PathBuf>,
    /// Given flags by key.
    pub flags: BTreeMap<String, String>,
}

impl ServerArgs {
    /// Reads the file, the environment and the flags. The error lists every mistake, a line each.
    pub fn load(&self) -> anyhow::Result<Loaded> {
        let file = match &self.config {
            Some(path) => Some((path.display().to_string(), read_file(path)?)),
            None => None,
        };
        let environment = |name: &str| std::env::var(name).ok();
        let sources = Sources {
            file: file.as_ref().map(|(name, text)| (name.as_str(), text.as_str())),
            environment: Some(&environment),
            flags: self.flags.clone(),
        };
        load(&sources).map_err(|mistakes| anyhow::anyhow!(report(&mistakes)))
    }
}

/// All mistakes, a line each, and how many.
pub(crate) fn report(mistakes: &[Mistake]) -> String {
    let mut out = String::from("the configuration can't be used:\n");
    for mistake in mistakes {
        out.push_str(&format!("{mistake}\n"));
    }
    let noun = if mistakes.len() == 1 {
        "mistake"
    } else {
        "mistakes"
    };
    out.push_str(&format!("{} {noun}", mistakes.len()));
    out
}

/// Reads a configuration file of bounded size.
pub(crate) fn read_file(path: &std::path::Path) -> anyhow::Result<String> {
    let context = || format!("can't read the configuration file {}", path.display());
    let size = std::fs::metadata(path).with_context(context)?.len();
    anyhow::ensure!(
        size <= document::MAX_FILE_BYTES as u64,
        "{} has {size} bytes, more than {}",
        path.display(),
        document::MAX_FILE_BYTES
    );
    std::fs::read_to_string(path).with_context(context)
}

impl clap::Args for ServerArgs {
    fn augment_args(command: Command) -> Command {
        let mut command = command.arg(
            Arg::new("config")
                .long("config")
                .value_name("FILE")
                .value_parser(clap::value_parser!(PathBuf))
                .help("Configuration file (YAML). Every key is also a flag and a variable [env: QUORATE_CONFIG=]")
                .env("QUORATE_CONFIG")
                .hide_env(true),
        );
        let mut heading = "Node".to_string();
        Config::default().visit("", &[], &mut |Item { path, doc, slot }| {
            let doc: String = doc.concat().trim().to_string();
            let Some(slot) = slot else {
                if !path.is_empty() {
                    heading = format!("Section {path}");
                }
                return;
            };
            if !path.contains('.') {
                heading = "Node".into();
            }
            let default = match slot.show() {
                value if value.is_empty() || path == "node_id" => String::new(),
                value => format!(" [default: {value}]"),
            };
            let help = format!("{doc}{default} [env: {}=]", environment_variable(path));
            let arg = Arg::new(path.to_string())
                .long(flag(path).trim_start_matches('-').to_string())
                .value_name("VALUE")
                .allow_hyphen_values(true)
                .help(help)
                .help_heading(heading.clone());
            let arg = match slot.expected() {
                "true or false" => arg
                    .num_args(0..=1)
                    .default_missing_value("true")
                    .require_equals(true),
                _ => arg,
            };
            command = command.clone().arg(arg);
        });
        command
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl clap::FromArgMatches for ServerArgs {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut args = ServerArgs::default();
        args.update_from_arg_matches(matches)?;
        Ok(args)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        if let Some(path) = matches.get_one::<PathBuf>("config") {
            self.config = Some(path.clone());
        }
        for key in super::load::keys() {
            if let Some(text) = matches.get_one::<String>(&key) {
                self.flags.insert(key, text.clone());
            }
        }
        Ok(())
    }
}
