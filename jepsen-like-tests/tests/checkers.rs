//! All workloads and all checkers against real nodes, one of which is killed: nothing is blamed, everything is
//! exercised, and the file says the same as the run.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use quorate_jepsen_like_tests::checker::check_file;
use quorate_jepsen_like_tests::cluster::{Cluster, await_leaders, client_of, led_by, shards};
use quorate_jepsen_like_tests::history::{Action, Form, Level, Operation, Recorder, Stage};
use quorate_jepsen_like_tests::report::{number_from_env, say};
use quorate_jepsen_like_tests::values::Kind;
use quorate_jepsen_like_tests::workload::{self, WorkloadOptions};
use quorate_jepsen_like_tests::{readback, turn};

/// Seconds of load before the kill, with a node less, and after. `QUORATE_TEST_SECONDS` sets another number.
const SECONDS: u64 = 6;
const HEAL: Duration = Duration::from_secs(120);

#[tokio::test(flavor = "multi_thread")]
async fn all_workloads_pass_all_checks_and_exercise_them() -> Result<()> {
    let seconds = Duration::from_secs(number_from_env("QUORATE_TEST_SECONDS", SECONDS));
    let _turn = turn::take()?;
    let mut cluster = Cluster::start(3)?;
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("checkers.jsonl.zst");
    let recorder = Recorder::to_file(&path)?;
    let shards = shards(&await_leaders(&cluster, HEAL).await?);
    let options = WorkloadOptions {
        samples_per_second: 10_000,
        shards,
        seed: rand::random(),
    };
    let workload = workload::start_all(cluster.nodes(), options, &recorder).await?;
    tokio::time::sleep(seconds).await;
    let victim = cluster.nodes().first().context("a node")?.clone();
    let orphaned = led_by(&client_of(&victim)?.status().await?, victim.id);
    let node = victim.id;
    recorder.record(Stage::Info, Action::Kill { node, orphaned });
    cluster.kill(node)?;
    tokio::time::sleep(seconds).await;
    cluster.restart(&[node])?;
    cluster.await_ready(HEAL)?;
    recorder.record(Stage::Info, Action::Restart { node });
    tokio::time::sleep(seconds).await;
    workload.stop().await?;

    let verdict = readback::final_check(cluster.nodes(), &recorder, HEAL).await?;
    recorder.finish()?;
    let history = recorder.operations();
    say(format_args!(
        "checkers: seed {}; {} operations; {verdict}; {}",
        options.seed,
        history.len(),
        exercised(&history)?
    ));
    let again = check_file(&path)?;
    ensure!(
        again.by_checker == verdict.by_checker && again.acked == verdict.acked,
        "the file says {again}, the run {verdict}"
    );
    verdict
        .into_result()
        .with_context(|| format!("history in {}", path.display()))?;
    cluster.stop()
}

/// What was done and answered, or an error that says what was not.
fn exercised(history: &[Operation]) -> Result<String> {
    let mut acked: BTreeMap<&str, u64> = BTreeMap::new();
    let mut refused = 0;
    let mut answered: BTreeMap<(Form, Level), u64> = BTreeMap::new();
    let (mut empty, mut unanswered) = (0, BTreeMap::new());
    for operation in history {
        match &operation.action {
            Action::Write { batch, .. } if operation.stage == Stage::Ok => {
                *acked.entry(Kind::of(batch.writer).job()).or_default() += 1;
            }
            Action::Write {
                counts: Some(counts), ..
            } => refused += counts.refused.len(),
            Action::Read(read) => match (&read.answer, &read.error) {
                (Some(answer), _) => {
                    *answered.entry((read.question.form, read.level)).or_default() += 1;
                    empty += usize::from(answer.series.is_empty() && answer.number.is_none());
                }
                (None, error) => {
                    let error = error.as_deref().unwrap_or("no error");
                    let what = error.split(": ").skip(1).collect::<Vec<_>>().join(": ");
                    *unanswered.entry(what).or_insert(0_u64) += 1;
                }
            },
            _ => {}
        }
    }
    let forms: BTreeSet<Form> = answered.keys().map(|(form, _)| *form).collect();
    let reads: u64 = answered.values().sum();
    ensure!(acked.len() == 7, "only {acked:?} wrote");
    ensure!(refused > 0, "no attempt to overwrite was refused");
    ensure!(
        forms.len() == 7 && answered.len() == 21,
        "only {answered:?} were answered"
    );
    ensure!(
        (empty as u64) < reads / 2,
        "{empty} of {reads} answers were empty"
    );
    Ok(format!(
        "acknowledged {acked:?}, {refused} refused; {reads} reads answered, {empty} of them empty; unanswered {unanswered:?}"
    ))
}
