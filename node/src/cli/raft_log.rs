//! `quorate raft-log`: the logs in a data directory whose node does not run. It never repairs.

use std::io::{self, BufWriter, Write as _};
use std::ops::ControlFlow;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use quorate_raft_log::{EntryKind, LogKey, LogPosition, LogReport, describe_membership, inspect_logs};
use quorate_storage::inspect::describe_entry;

use super::offline;

/// Look at replicated logs. The node must not run; nothing is changed.
#[derive(Debug, Args)]
pub struct RaftLogArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Check that logs have no holes, that every entry can be read, and that positions agree.
    Verify(Where),
    /// Print votes, positions and entries.
    Dump(DumpArgs),
}

#[derive(Debug, Args)]
struct Where {
    /// The node's data directory, or a database in one.
    #[arg(value_name = "DIR")]
    dir: PathBuf,
    /// Only this group; 0 is the meta group, the others are shards.
    #[arg(long)]
    group: Option<u32>,
}

#[derive(Debug, Args)]
struct DumpArgs {
    #[command(flatten)]
    place: Where,
    /// Print a line for each entry.
    #[arg(long)]
    entries: bool,
}

/// Runs `quorate raft-log`.
pub async fn run(args: RaftLogArgs) -> anyhow::Result<()> {
    offline::run(move || match args.command {
        Command::Verify(place) => verify(&place),
        Command::Dump(args) => dump(&args),
    })
    .await
}

fn verify(place: &Where) -> anyhow::Result<()> {
    let offline = offline::open(&place.dir)?;
    let mut unreadable = Vec::new();
    let logs = inspect_logs(&offline.db, |log, position, kind, payload| {
        // Commands of the meta group are not storage's.
        if log.group > 0
            && kind == EntryKind::Command
            && let Err(error) = describe_entry(payload)
        {
            unreadable.push((log, format!("entry {}: {error}", position.index)));
        }
        ControlFlow::Continue(())
    })?;
    let mut out = io::stdout().lock();
    let mut written = Ok(());
    let mut problems = 0;
    for (log, report) in logs.iter().filter(|(log, _)| chosen(place, log)) {
        let own = unreadable
            .iter()
            .filter(|(of, _)| of == log)
            .map(|(_, problem)| problem);
        let found: Vec<&String> = report.problems.iter().chain(own).collect();
        let total = report.problems_total.max(found.len() as u64);
        let verdict = offline::verdict(total);
        // Whoever closed the pipe still learns by the exit code.
        written = written.and_then(|()| writeln!(out, "{log}: {verdict}; {}", positions(report)));
        for problem in found {
            written = written.and_then(|()| writeln!(out, "  {problem}"));
        }
        problems += total;
    }
    offline::printed(written)?;
    offline::conclude(problems)
}

fn chosen(place: &Where, log: &LogKey) -> bool {
    place.group.is_none_or(|group| group == log.group)
}

fn positions(report: &LogReport) -> String {
    let show =
        |at: Option<LogPosition>| at.map_or("none".to_owned(), |at| format!("{}.{}", at.term, at.index));
    format!(
        "{} entries from {} to {}, {} bytes; purged {}, committed {}, {} leftovers",
        report.entries,
        show(report.first),
        show(report.last),
        report.bytes,
        show(report.purged),
        show(report.committed),
        report.leftovers
    )
}

fn dump(args: &DumpArgs) -> anyhow::Result<()> {
    let offline = offline::open(&args.place.dir)?;
    let mut out = BufWriter::new(io::stdout().lock());
    let mut written = Ok(());
    let logs = inspect_logs(&offline.db, |log, position, kind, payload| {
        if args.entries && chosen(&args.place, &log) {
            let (term, index) = (position.term, position.index);
            written = writeln!(out, "{log} {term}.{index} {}", describe(log, kind, payload));
        }
        match written {
            Ok(()) => ControlFlow::Continue(()),
            Err(_) => ControlFlow::Break(()),
        }
    })?;
    for (log, report) in logs.iter().filter(|(log, _)| chosen(&args.place, log)) {
        let vote = report.vote.map_or("none".to_owned(), |vote| {
            format!("term {} for replica {}", vote.term, vote.voted_for)
        });
        written = written.and_then(|()| writeln!(out, "{log}: vote {vote}; {}", positions(report)));
    }
    offline::printed(written.and_then(|()| out.flush()))
}

fn describe(log: LogKey, kind: EntryKind, payload: &[u8]) -> String {
    match kind {
        EntryKind::Blank => "blank".to_owned(),
        EntryKind::Membership => match describe_membership(payload) {
            Ok((voters, learners)) => format!("membership: voters {voters:?}, learners {learners:?}"),
            Err(error) => format!("membership, unreadable: {error}"),
        },
        EntryKind::Command if log.group == 0 => format!("meta command, {} bytes", payload.len()),
        EntryKind::Command => match describe_entry(payload) {
            Ok(entry) if entry.kind == 1 => format!(
                "write at {}: {} samples, {} series with labels, {} parts, {} bytes",
                entry.now_ms,
                entry.samples,
                entry.new_series,
                entry.parts,
                payload.len()
            ),
            Ok(entry) => format!(
                "command of kind {} at {}, {} bytes",
                entry.kind,
                entry.now_ms,
                payload.len()
            ),
            Err(error) => format!("command, unreadable: {error}"),
        },
    }
}
