//! `quorate cluster limits`: what tenants may send, looked at and changed while the cluster runs.

use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::Subcommand;
use quorate_client::{LimitValue, LimitsResponse};
use serde_json::{Value, json};

use super::connect::ConnectArgs;
use super::table;
use crate::cluster::meta::LIMITS;
use crate::duration;

/// `quorate cluster limits …`
#[derive(Debug, Subcommand)]
pub(super) enum LimitsCommand {
    /// Show the limits that count for all tenants, or for one.
    Get {
        /// The tenant; absent: what counts for all that have none of their own.
        #[arg(long = "for", value_name = "TENANT")]
        tenant: Option<String>,
        /// Print JSON.
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        connect: ConnectArgs,
    },
    /// Change limits, at once and in the whole cluster.
    Set {
        /// NAME=VALUE, such as max_series=500000 or retention=30d. NAME=default gives a tenant the limit of
        /// all again. 0 is no limit for max_series and max_samples_per_second.
        #[arg(required = true, value_name = "NAME=VALUE")]
        changes: Vec<String>,
        /// The tenant; absent: all that have none of their own.
        #[arg(long = "for", value_name = "TENANT")]
        tenant: Option<String>,
        #[command(flatten)]
        connect: ConnectArgs,
    },
}

/// Runs it.
pub(super) async fn run(command: LimitsCommand) -> anyhow::Result<()> {
    match command {
        LimitsCommand::Get {
            tenant,
            json,
            connect,
        } => {
            let limits = connect.client()?.limits(tenant.as_deref()).await?;
            match json {
                true => println!("{}", as_json(&limits)),
                false => print!("{}", describe(&limits)),
            }
        }
        LimitsCommand::Set {
            changes,
            tenant,
            connect,
        } => {
            let changes = changes
                .iter()
                .map(|change| parse(change))
                .collect::<anyhow::Result<Vec<_>>>()?;
            let limits = connect.client()?.set_limits(tenant.as_deref(), &changes).await?;
            print!("{}", describe(&limits));
        }
    }
    Ok(())
}

fn parse(change: &str) -> anyhow::Result<(String, Option<u64>)> {
    let (name, value) = change
        .split_once('=')
        .with_context(|| format!("expected NAME=VALUE, found {change:?}"))?;
    let Some(limit) = LIMITS.iter().find(|limit| limit.name == name) else {
        let names: Vec<&str> = LIMITS.iter().map(|limit| limit.name).collect();
        bail!("there is no limit {name}, expected one of {}", names.join(", "));
    };
    let value = match (value, limit.is_time) {
        ("default", _) => None,
        (text, true) => {
            let time = duration::parse(text).with_context(|| {
                format!("expected a duration such as 30m or 15d for {name}, found {text:?}")
            })?;
            Some(u64::try_from(time.as_millis())?)
        }
        (text, false) => Some(
            text.parse()
                .with_context(|| format!("expected a whole number for {name}, found {text:?}"))?,
        ),
    };
    Ok((name.to_owned(), value))
}

fn show(limit: &LimitValue) -> String {
    match (limit.time, limit.value) {
        (true, ms) => duration::format(Duration::from_millis(ms)),
        (false, 0) => "none".to_owned(),
        (false, value) => value.to_string(),
    }
}

fn describe(limits: &LimitsResponse) -> String {
    let mut rows = table::table(["limit", "value", "of"], &[1]);
    for limit in &limits.limits {
        let of = match (limit.own, limit.by_tenant) {
            (true, _) => "the tenant",
            (false, true) => "all tenants",
            (false, false) => "the cluster",
        };
        rows.add_row([limit.name.clone(), show(limit), of.to_owned()]);
    }
    let mut text = format!("{rows}\n");
    if !limits.tenants.is_empty() {
        text.push_str(&format!(
            "tenants with limits of their own: {}\n",
            limits.tenants.join(", ")
        ));
    }
    text
}

fn as_json(limits: &LimitsResponse) -> Value {
    let value = |limit: &LimitValue| json!({"name": limit.name, "value": limit.value, "own": limit.own, "milliseconds": limit.time});
    json!({"limits": limits.limits.iter().map(value).collect::<Value>(), "tenants": limits.tenants})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_read_by_the_kind_of_limit() {
        assert_eq!(parse("max_series=5").unwrap(), ("max_series".into(), Some(5)));
        assert_eq!(
            parse("retention=1d").unwrap(),
            ("retention".into(), Some(86_400_000))
        );
        assert_eq!(parse("max_labels=default").unwrap(), ("max_labels".into(), None));
        for bad in [
            "max_series",
            "max_series=-1",
            "max_series=1d",
            "retention=5",
            "colour=1",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn own_limits_are_told_from_those_of_all() {
        let limit = |name: &str, value, own, time, by_tenant| LimitValue {
            name: name.into(),
            value,
            own,
            time,
            by_tenant,
        };
        let limits = LimitsResponse {
            limits: vec![
                limit("max_series", 0, false, false, true),
                limit("max_labels", 9, true, false, true),
                limit("retention", 86_400_000, false, true, false),
            ],
            tenants: vec!["acme".into()],
        };
        let text = describe(&limits);
        for part in ["none", "the tenant", "all tenants", "1d", "the cluster", "acme"] {
            assert!(text.contains(part), "{part} is not in\n{text}");
        }
        assert_eq!(as_json(&limits)["limits"][1]["own"], true);
    }
}
