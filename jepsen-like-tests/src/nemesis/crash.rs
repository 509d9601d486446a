//! Processes that die at a named place of the code: between a write and its sync, a flush and its meta row, and
//! so on. Only a binary with such places has them, see `docs/MUTANTS.md`.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use rand::RngExt as _;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;

use super::claims::Claim;
use super::damage::data_of;
use super::fault::Fault;
use super::scene::Scene;

/// Places that every node passes again and again under load, with small logs.
const UNDER_LOAD: [&str; 12] = [
    "log_before_write",
    "log_before_sync",
    "log_after_sync",
    "log_before_purge",
    "apply_before",
    "apply_after",
    "flush_before_slab",
    "flush_before_ingest",
    "flush_between_ingests",
    "flush_after_ingest",
    "flush_after_meta",
    "purge_before",
];
/// Places that are passed when an empty node is filled.
const WHILE_FILLED: [&str; 3] = ["snapshot_read", "install_before_switch", "install_after_switch"];
/// How long it may take until somebody gets there.
const PASSED: Duration = Duration::from_secs(60);

/// Whoever gets to the place first dies there.
pub(super) struct CrashPoint {
    point: &'static str,
    /// The file that names the place where to die.
    file: PathBuf,
    ids: Vec<u64>,
    /// The node that is filled, if the place is one of that.
    filled: Option<u64>,
    died: Vec<u64>,
}

impl CrashPoint {
    pub(super) fn new(scene: &Scene<'_>, rng: &mut StdRng) -> Result<CrashPoint> {
        let filled = rng.random_ratio(1, 4).then(|| scene.some_node(rng));
        let points = if filled.is_some() {
            &WHILE_FILLED[..]
        } else {
            &UNDER_LOAD[..]
        };
        let file = scene.crash_file.clone();
        Ok(CrashPoint {
            point: points.choose(rng).copied().unwrap_or("log_before_sync"),
            file: file.context("the nodes have no places to crash at")?,
            ids: scene.ids(),
            filled,
            died: Vec::new(),
        })
    }
}

impl Fault for CrashPoint {
    fn victims(&self) -> Vec<u64> {
        self.filled.map_or_else(|| self.ids.clone(), |id| vec![id])
    }

    fn detail(&self) -> String {
        format!("at {}: node {:?}", self.point, self.died)
    }

    fn claims(&self) -> Vec<Claim> {
        let all = self.ids.iter().map(|id| Claim::Process(*id));
        match self.filled {
            Some(id) => data_of(id).into_iter().chain(all).collect(),
            // Whoever is cut off has nothing to write.
            None => all.chain([Claim::Cuts]).collect(),
        }
    }

    fn begin(&mut self, scene: &Scene<'_>) -> Result<()> {
        scene.will_be_down(&self.ids);
        if let Some(id) = self.filled {
            scene.bed.kill(id)?;
            let others = scene.others(&[id]);
            scene.await_complete(&others)?;
            scene.await_purged(&others)?;
            scene.bed.wipe(id)?;
            scene.bed.start_node(id)?;
        }
        // Renamed into place: nobody may see half a name.
        let draft = self.file.with_extension("draft");
        std::fs::write(&draft, self.point)?;
        Ok(std::fs::rename(&draft, &self.file)?)
    }

    fn during(&mut self, scene: &Scene<'_>, hold: Duration) -> Result<()> {
        let dead = || -> Vec<u64> {
            let dead = self.ids.iter().copied();
            dead.filter(|id| !scene.bed.is_running(*id)).collect()
        };
        scene.hold(PASSED, || !dead().is_empty());
        self.died = dead();
        ensure!(
            !self.died.is_empty(),
            "nobody got to {} within {PASSED:?}",
            self.point
        );
        scene.hold(hold, || false);
        Ok(())
    }

    fn end(&mut self, scene: &Scene<'_>) -> Result<()> {
        // Gone already, unless nobody got there.
        let _gone = std::fs::remove_file(&self.file);
        for id in &self.ids {
            scene.revive(*id)?;
        }
        scene.await_complete(&self.ids)
    }
}
