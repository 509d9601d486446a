//! One run: a cluster, load, faults that overlap, healing, and a judgement of everything that is left.
//!
//! [`run`] starts a bed, waits for leaders, puts load on it, lets a nemesis at it, heals it, has every shard
//! acknowledge writes again, reads all of it back from every node, restarts all nodes, and reads once more.
//! A run in which some kind of its mix never fired proves nothing, and is an error.

mod outcome;
mod totals;
mod verify;
mod watch;

pub use outcome::RunResult;
pub use totals::Totals;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use tokio::runtime::Runtime;

use crate::bed::{Bed, BedOptions, Medium};
use crate::cluster::Node;
use crate::history::{Action, Recorder, Stage};
use crate::nemesis::mixes::Mix;
use crate::nemesis::scene::Scene;
use crate::nemesis::{Deeds, Nemesis, RESERVE_BYTES};
use crate::report_html;
use crate::workload::{self, WorkloadOptions};

/// Of each node, in MiB: far more than a run writes, so that a full disk is always the nemesis's doing.
const DISK_MIB: u64 = 1_024;

/// What to run.
#[derive(Debug, Clone)]
pub struct RunOptions {
    /// Everything random comes from it, but what the machine decides.
    pub seed: u64,
    /// How long faults are begun. Healing and judging take their own time.
    pub duration: Duration,
    /// Which faults.
    pub mix: Mix,
    /// What the disks are made of.
    pub medium: Medium,
    /// Load in samples per second.
    pub rate: u64,
    /// The `quorate` under test.
    pub binary: PathBuf,
    /// Environment of the nodes, e.g. which bug a mutant has.
    pub environment: Vec<(String, String)>,
    /// Where a failing run leaves history, logs and configurations, and any run its result.
    pub out_dir: PathBuf,
}

/// The variable that tells nodes which file names the place where to crash.
pub const CRASH_FILE: &str = "QUORATE_CRASH_FILE";
/// Everything that happened, in the directory of the run.
const HISTORY: &str = "history.jsonl.zst";

/// Runs and judges. An error means that the run says nothing: the machine or the harness failed, or a kind
/// of fault never happened. What the cluster did wrong is in the result.
pub fn run(options: &RunOptions) -> Result<RunResult> {
    std::fs::create_dir_all(&options.out_dir)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let bed = Bed::start(bed_options(options)).context("the bed")?;
    let recorder = Recorder::to_file(&options.out_dir.join(HISTORY))?;
    recorder.record(
        Stage::Info,
        Action::Plan {
            seed: options.seed,
            wished: options.mix.kinds.to_vec(),
        },
    );
    let judged = torment_and_judge(options, &bed, &recorder, &runtime);
    runtime.shutdown_timeout(Duration::from_secs(10));
    recorder.finish()?;
    if !judged.as_ref().is_ok_and(RunResult::is_good) {
        keep_texts(&bed, &options.out_dir)?;
    }
    bed.stop()?;
    let result = judged?;
    let path = options.out_dir.join("result.json");
    serde_json::to_writer_pretty(File::create(path)?, &result)?;
    let page = options.out_dir.join("report.html");
    report_html::write(&page, &result.summary(options), &recorder.operations())?;
    result.ensure_not_void(options.mix.kinds)?;
    Ok(result)
}

fn bed_options(options: &RunOptions) -> BedOptions {
    let mut settings = vec![("disk_reserve_bytes".to_owned(), RESERVE_BYTES.to_string())];
    if options.mix.small_logs {
        settings.push(("flush.interval".to_owned(), "4s".to_owned()));
        settings.push(("flush.log_bytes".to_owned(), "1MiB".to_owned()));
    }
    BedOptions {
        nodes: 3,
        network: options.mix.wire,
        medium: options.medium,
        disk_mib: DISK_MIB,
        binary: options.binary.clone(),
        settings,
        environment: options.environment.clone(),
        keep: false,
        seed: options.seed,
    }
}

fn torment_and_judge(
    options: &RunOptions,
    bed: &Bed,
    recorder: &Recorder,
    runtime: &Runtime,
) -> Result<RunResult> {
    let nodes = bed.nodes();
    let shards = runtime
        .block_on(verify::await_leaders(&nodes))
        .context("at the start")?;
    let mut scene = Scene::new(bed, recorder.clone(), runtime.handle().clone())?;
    let variable = options.environment.iter().find(|(name, _)| name == CRASH_FILE);
    scene.crash_file = variable.map(|(_, path)| PathBuf::from(path));
    let load = WorkloadOptions {
        samples_per_second: options.rate,
        shards,
        seed: options.seed,
    };
    let workload = runtime.block_on(workload::start_all(&nodes, load, recorder))?;
    let (over, deeds, mut troubles) = torment(options, &scene);
    let mut result = RunResult::new(options, &deeds);
    // Whatever went wrong, the cluster has to come together now.
    let healed = over.and_then(|()| verify::heal(bed, &scene).context("after healing"));
    let is_whole = healed.is_ok();
    let writes = healed.and_then(|()| {
        let from = recorder.len();
        runtime
            .block_on(verify::await_writes(recorder, from, shards))
            .context("after healing")
    });
    runtime.block_on(workload.stop())?;
    result.loaded_s = recorder.now_us() as f64 / 1e6;
    result.troubles.append(&mut troubles);
    result
        .troubles
        .extend(writes.err().map(|error| format!("{error:#}")));
    if is_whole {
        judge(options, &scene, runtime, &nodes, &mut result)?;
    }
    result.measure(&recorder.operations());
    Ok(result)
}

/// Reads everything, restarts all nodes, and reads everything.
fn judge(
    options: &RunOptions,
    scene: &Scene<'_>,
    runtime: &Runtime,
    nodes: &[Node],
    result: &mut RunResult,
) -> Result<()> {
    let before = runtime.block_on(verify::read_all(nodes, &scene.recorder));
    result.add_reading("healed", before);
    let in_order = options.seed.is_multiple_of(2);
    match verify::restart_all(scene, in_order) {
        Ok(()) => {
            let after = runtime.block_on(verify::read_all(&scene.bed.nodes(), &scene.recorder));
            result.add_reading("restarted", after);
        }
        Err(error) => result
            .troubles
            .push(format!("after all nodes were restarted: {error:#}")),
    }
    Ok(())
}

/// Lets the nemesis at the cluster, and looks on.
fn torment(options: &RunOptions, scene: &Scene<'_>) -> (Result<()>, Deeds, Vec<String>) {
    let (stop_faults, stop_watching) = (AtomicBool::new(false), AtomicBool::new(false));
    let nemesis = Nemesis::new(scene, options.mix, options.seed, options.duration, &stop_faults);
    std::thread::scope(|scope| {
        let leaders = scope.spawn(|| watch::leaders(scene, &stop_watching));
        let processes = scope.spawn(|| watch::processes(scene, &stop_watching));
        let deeds = scope.spawn(|| nemesis.run()).join();
        stop_watching.store(true, Ordering::Relaxed);
        let troubles = processes
            .join()
            .unwrap_or_else(|_| vec!["the watch over processes panicked".into()]);
        let looked = leaders.join();
        match (deeds, looked) {
            (Ok(deeds), Ok(())) => (Ok(()), deeds, troubles),
            (deeds, _) => (
                Err(anyhow!("the nemesis or the watch over leaders panicked")),
                deeds.unwrap_or_default(),
                troubles,
            ),
        }
    })
}

/// Copies what the nodes said to where it stays.
fn keep_texts(bed: &Bed, out_dir: &Path) -> Result<()> {
    for id in bed.ids() {
        let log = bed.log(id)?;
        std::fs::copy(&log, out_dir.join(format!("node-{id}.log")))
            .with_context(|| log.display().to_string())?;
    }
    Ok(())
}
