//! The bed on which clusters suffer: real nodes, each in a network namespace of its own, with its data on a disk
//! of its own that can lose power, and a clock and `fsync` that can lie.
//!
//! The orchestrator, which is the test's process, stays outside of the namespaces and reaches the nodes through
//! the wire ([`Peer::Clients`]). Whatever it made is removed when the [`Bed`] is dropped, and also when the
//! orchestrator is killed: a shell that outlives it cleans up. Two beds can be in use side by side.

mod bridge;
mod capability;
mod cgroup;
mod command;
mod damage;
mod disk;
mod faults;
mod host;
mod names;
mod network;
mod options;
mod reaper;
mod shim;
mod switch;
mod tap;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use rustix::process::Signal;

use self::cgroup::CpuGroup;
use self::disk::{Disk, Image};
use self::host::{Host, Launch, State};
use self::names::Names;
use self::network::Network;
use self::reaper::Reaper;
use self::shim::Control;
use crate::cluster::Node;
use crate::process;

pub use self::disk::power_off;
pub use self::options::{
    BedOptions, Clock, DiskFault, Disturbance, Faked, Medium, Peer, Rot, Switched, Wire,
};

/// Every node has an address of its own, so all use the same ports.
const HTTP_PORT: u16 = 7400;
const GRPC_PORT: u16 = 7401;
/// How long an orderly end of all nodes may take.
const STOP: Duration = Duration::from_secs(60);

/// A cluster on its bed.
#[derive(Debug)]
pub struct Bed {
    hosts: Vec<Host>,
    network: Option<Network>,
    names: Names,
    binary: PathBuf,
    reaper: Reaper,
}

impl Bed {
    /// Why no bed can be made on this machine; `None` if it can.
    pub fn missing() -> Option<String> {
        capability::missing()
    }

    /// Makes namespaces, wire and disks, and starts the nodes. Doesn't wait for them.
    pub fn start(options: BedOptions) -> Result<Bed> {
        let bed = Bed::prepare(&options)?;
        bed.hosts
            .iter()
            .try_for_each(|host| host.start(&bed.binary, &[]))?;
        Ok(bed)
    }

    /// As [`Bed::start`], but starts no node.
    pub fn prepare(options: &BedOptions) -> Result<Bed> {
        options.check()?;
        let binary = match options.binary.as_os_str().is_empty() {
            true => process::quorate_binary()?,
            false => options.binary.clone(),
        };
        let ids: Vec<u64> = (1..).take(options.nodes).collect();
        let names = Names::reserve()?;
        let images = match options.medium {
            Medium::Memory => names.in_memory(),
            Medium::Disk => names.on_disk(),
        };
        let mut bed = Bed {
            hosts: Vec::new(),
            network: None,
            reaper: Reaper::start(&names, &ids, &images, options.keep)?,
            binary,
            names,
        };
        // From here on, whatever fails, dropping the bed removes what there is.
        std::fs::create_dir(&images).with_context(|| images.display().to_string())?;
        let library = shim::compile(&bed.names.directory)?;
        bed.network = Some(Network::create(&bed.names, &ids, options.network, options.seed)?);
        bed.hosts = at_once(&ids, |id| host(*id, &ids, &bed.names, &images, &library, options))?;
        Ok(bed)
    }

    /// Ends all nodes that run in order, which must succeed, and removes everything.
    pub fn stop(mut self) -> Result<()> {
        let running = self.hosts.iter().filter(|host| self.is_running(host.id));
        let running: Vec<&Host> = running.collect();
        // All at once: one after another, the last would be without a majority.
        at_once(&running, |host| host.stop(STOP))?;
        self.remove()
    }

    /// The nodes as clients see them.
    pub fn nodes(&self) -> Vec<Node> {
        let node = |host: &Host| {
            let state = host.lock();
            Node {
                id: host.id,
                pid: state.pid,
                http: host.http.clone(),
                grpc: host.grpc.clone(),
                dir: host.data(&state),
            }
        };
        self.hosts.iter().map(node).collect()
    }

    /// Ids of the nodes, from 1.
    pub fn ids(&self) -> Vec<u64> {
        self.hosts.iter().map(|host| host.id).collect()
    }

    /// Where logs are, and the mounted disks.
    pub fn directory(&self) -> &Path {
        &self.names.directory
    }

    /// The ends of all logs.
    pub fn logs(&self) -> String {
        let log = |host: &Host| format!("--- node {}\n{}\n", host.id, process::tail(&host.log));
        self.hosts.iter().map(log).collect()
    }

    /// The file with all that a node has said.
    pub fn log(&self, id: u64) -> Result<PathBuf> {
        Ok(self.host(id)?.log.clone())
    }

    /// The network namespace that a node lives in.
    pub fn namespace(&self, id: u64) -> Result<PathBuf> {
        Ok(self.host(id)?.launch.namespace.clone())
    }

    /// Where a node's disk is mounted.
    pub fn mountpoint(&self, id: u64) -> Result<PathBuf> {
        Ok(self.host(id)?.lock().disk.mountpoint().to_owned())
    }

    fn host(&self, id: u64) -> Result<&Host> {
        let host = self.hosts.iter().find(|host| host.id == id);
        host.with_context(|| format!("no node {id}"))
    }

    fn hosts(&self, ids: &[u64]) -> Result<Vec<&Host>> {
        ids.iter().map(|id| self.host(*id)).collect()
    }

    fn network(&self) -> Result<&Network> {
        self.network.as_ref().context("the bed has no network")
    }

    fn remove(&mut self) -> Result<()> {
        for host in &self.hosts {
            host.lock().kill()?;
        }
        if let Some(network) = &self.network {
            network.stop();
        }
        self.reaper.finish()
    }
}

/// Deaths and starts.
impl Bed {
    /// SIGKILL. Returns when the process is gone. Nothing if it is already.
    pub fn kill(&self, id: u64) -> Result<()> {
        self.host(id)?.lock().kill()
    }

    /// SIGKILL to all nodes at once. Returns when all are gone.
    pub fn kill_all(&self) -> Result<()> {
        let hosts: Vec<&Host> = self.hosts.iter().collect();
        at_once(&hosts, |host| host.lock().kill()).map(|_| ())
    }

    /// Starts a node that doesn't run. Doesn't wait for it.
    pub fn start_node(&self, id: u64) -> Result<()> {
        self.start_node_with(id, &[])
    }

    /// As [`Bed::start_node`], with more environment for this time only.
    pub fn start_node_with(&self, id: u64, environment: &[(String, String)]) -> Result<()> {
        self.host(id)?.start(&self.binary, environment)
    }

    /// As [`Bed::start_node`], with another binary for this time only.
    pub fn start_node_as(&self, id: u64, binary: &Path) -> Result<()> {
        self.host(id)?.start(binary, &[])
    }

    /// Starts another program where the node would run, with its address and its disk: see [`Bed::nodes`].
    pub fn start_program(&self, id: u64, program: &Path, arguments: &[String]) -> Result<()> {
        self.host(id)?.start_program(program, arguments)
    }

    /// SIGTERM; the process must end with status 0 within `limit`.
    pub fn stop_node(&self, id: u64, limit: Duration) -> Result<()> {
        self.host(id)?.stop(limit)
    }

    /// Whether its process has not ended; it may be paused.
    pub fn is_running(&self, id: u64) -> bool {
        self.host(id)
            .is_ok_and(|host| host.lock().running_pid(id).is_ok())
    }

    /// How the last process of a node that doesn't run has ended.
    pub fn exit_of(&self, id: u64) -> Option<String> {
        let mut state = self.host(id).ok()?.lock();
        state.look();
        state.last_exit.map(host::describe)
    }

    /// Waits until the process of a node has ended by itself, and says how.
    pub fn await_exit(&self, id: u64, limit: Duration) -> Result<String> {
        Ok(host::describe(self.host(id)?.await_end(limit)?))
    }

    /// SIGSTOP. Returns when none of its threads runs.
    pub fn pause(&self, id: u64) -> Result<()> {
        self.host(id)?.lock().pause(id)
    }

    /// SIGCONT.
    pub fn resume(&self, id: u64) -> Result<()> {
        self.host(id)?.lock().signal(id, Signal::CONT)
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.logs());
        }
        if let Err(error) = self.remove() {
            eprintln!("{error:#}");
        }
    }
}

/// Makes a node's disk and files.
fn host(
    id: u64,
    ids: &[u64],
    names: &Names,
    images: &Path,
    library: &Path,
    options: &BedOptions,
) -> Result<Host> {
    let image = Image::path_in(images, id);
    let disk = Disk::create(&image, names.mountpoint(id), options.medium, options.disk_mib)?;
    let control_path = names.file(id, ".faults");
    let address = |port| format!("{}:{port}", names.node_address(id));
    let mut environment = options.environment.clone();
    environment.push(("LD_PRELOAD".to_owned(), library.display().to_string()));
    environment.push((
        "QUORATE_SHIM_CONTROL".to_owned(),
        control_path.display().to_string(),
    ));
    let state = State {
        control: Control::create(&control_path)?,
        cpu: CpuGroup::new(&names.base(), id),
        running: None,
        pid: 0,
        last_exit: None,
        disk,
    };
    let launch = Launch {
        namespace: names.namespace_path(id),
        arguments: arguments(id, ids, names, options),
        environment,
    };
    let addresses = (address(HTTP_PORT), address(GRPC_PORT));
    Ok(Host::new(id, addresses, names.file(id, ".log"), launch, state))
}

fn arguments(id: u64, ids: &[u64], names: &Names, options: &BedOptions) -> Vec<String> {
    let at = |node, port| format!("{}:{port}", names.node_address(node));
    let peers: Vec<String> = ids
        .iter()
        .map(|peer| format!("{peer}={}", at(*peer, GRPC_PORT)))
        .collect();
    let data = names.mountpoint(id).join("data");
    let mut settings = vec![
        ("node_id".to_owned(), id.to_string()),
        ("peers".to_owned(), peers.join(",")),
        ("http_listen".to_owned(), at(id, HTTP_PORT)),
        ("grpc_listen".to_owned(), at(id, GRPC_PORT)),
        ("data_dir".to_owned(), data.display().to_string()),
        ("insecure".to_owned(), "true".to_owned()),
    ];
    let given = |key: &str| options.settings.iter().any(|(name, _)| name == key);
    // So that the few targets of a test reach every shard.
    if !given("spread") {
        settings.push(("spread".to_owned(), "8".to_owned()));
    }
    if !given("replication_factor") {
        settings.push(("replication_factor".to_owned(), ids.len().min(3).to_string()));
    }
    // The default is as much as a whole disk of ours.
    if !given("disk_reserve_bytes") {
        settings.push((
            "disk_reserve_bytes".to_owned(),
            format!("{}", options.disk_mib << 20 >> 4),
        ));
    }
    settings.extend(options.settings.iter().cloned());
    let flag = |(key, value): &(String, String)| format!("--{}={value}", key.replace(['.', '_'], "-"));
    std::iter::once("server".to_owned())
        .chain(settings.iter().map(flag))
        .collect()
}

/// Does something to several nodes in parallel.
fn at_once<T: Sync, R: Send>(all: &[T], act: impl Fn(&T) -> Result<R> + Sync) -> Result<Vec<R>> {
    std::thread::scope(|scope| {
        let running: Vec<_> = all.iter().map(|one| scope.spawn(|| act(one))).collect();
        let outcomes = running.into_iter().map(|thread| match thread.join() {
            Ok(outcome) => outcome,
            Err(panic) => std::panic::resume_unwind(panic),
        });
        // All are waited for before the first error is returned.
        outcomes.collect::<Vec<_>>().into_iter().collect()
    })
}
