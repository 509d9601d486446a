//! Every fault that a bed offers, done to real nodes: it must really happen, and end when it should.

use std::time::Duration;

use anyhow::Result;
use quorate_jepsen_like_tests::bed::{Bed, BedOptions, Wire};
use quorate_jepsen_like_tests::report::skip;
use quorate_jepsen_like_tests::{cluster, turn};

const READY: Duration = Duration::from_secs(60);

fn await_ready(bed: &Bed) -> Result<()> {
    let nodes = bed.nodes();
    nodes
        .iter()
        .try_for_each(|node| cluster::await_ready(&node.http, READY))
}

#[test]
fn a_cluster_comes_back_after_a_power_cut() -> Result<()> {
    if let Some(missing) = Bed::missing() {
        skip("bed", missing);
        return Ok(());
    }
    let _turn = turn::take()?;
    for network in [Wire::Bridge, Wire::Switch] {
        let bed = Bed::start(BedOptions {
            network,
            ..BedOptions::default()
        })?;
        await_ready(&bed)?;
        bed.power_cut(&bed.ids())?;
        bed.ids().into_iter().try_for_each(|id| bed.start_node(id))?;
        await_ready(&bed)?;
        bed.stop()?;
    }
    Ok(())
}
