//! The node itself: everything between the frontends and the disk, put together.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::Context as _;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use quorate_ingest::DecodeLimits;
use quorate_raft_log::{Hooks, RocksDevice};
use quorate_storage::{SelectLimits, Store, StoreOptions};
use rocksdb::{Cache, ColumnFamilyDescriptor, Options};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::admin::Admin;
use crate::bootstrap::bootstrap;
use crate::cardinality::NodeCardinality;
use crate::clock::{Clock, SystemClock};
use crate::cluster::meta::{self, MetaState};
use crate::cluster::{
    self, Binding, CurrentView, DataDir, Gate, Identity, MetaReplica, Peers, Readiness, Supervisor,
    SupervisorParts, Transport,
};
use crate::config::Config;
use crate::frontend::WriteFrontend;
use crate::grpc;
use crate::http::Apis;
use crate::memory::{MemoryBudget, watch_memory};
use crate::metrics::Metrics;
use crate::raft::{Group, RaftLog};
use crate::read::{Freshness, Queries, QueryLimits, ReadIndexes, Reader, ReaderOptions};
use crate::server::{Core, Kind, Start, Tasks};
use crate::shards::{self, CompactionStats, FlushPolicy, Shards};
use crate::write::{BatchLimits, Forwarder, Leaders, Quotas, ShardCommands, WritePath};
use crate::{Db, settings};

/// Bytes of write-ahead log that RocksDB keeps for column families that are rarely flushed.
const MAX_WAL_BYTES: u64 = 1 << 30;
/// Bounds of RocksDB's block cache and of its write buffers, each.
const LEAST_DATABASE_SHARE: u64 = 16 << 20;
const MOST_DATABASE_SHARE: u64 = 1 << 30;
/// Series whose ids a node remembers for the requests it receives.
const CACHED_SERIES: usize = 4_000_000;

/// A running node.
pub struct Node {
    peers: Arc<Peers>,
    view: Arc<CurrentView>,
    shards: Arc<Shards>,
    leaders: Arc<Leaders>,
    reader: Arc<Reader>,
    queries: Queries,
    write: Arc<WriteFrontend>,
    memory: Arc<MemoryBudget>,
    commands: Arc<ShardCommands>,
    admin: Arc<Admin>,
    log: RaftLog,
    db: Arc<Db>,
    meta: MetaReplica,
    gate: Arc<Gate>,
    compaction: Arc<CompactionStats>,
    readiness: Arc<Readiness>,
    clock: Arc<dyn Clock>,
    public: grpc::PublicGate,
}

/// Brings a node up: data directory, gRPC for peers, membership of the cluster, log, storage, shards.
pub async fn start(start: Start) -> anyhow::Result<Arc<dyn Core>> {
    let Start {
        config,
        grpc: listener,
        metrics,
        tasks,
        readiness,
        ..
    } = start;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let binding = Binding::open(DataDir::open(&config.data_dir)?, config.node_id)?;
    let nodes = settings::nodes(&config);
    let own = nodes
        .iter()
        .find(|n| n.id == config.node_id)
        .cloned()
        .context("this node is not in peers")?;
    let peers = Peers::new(config.node_id, nodes);

    // Peers ask who this node is before it belongs to anything, so gRPC comes first.
    let cells = grpc::Cells {
        peers: peers.clone(),
        binding: binding.clone(),
        clock: clock.clone(),
        log: Arc::new(OnceLock::new()),
        node: Arc::new(OnceLock::new()),
        public: grpc::PublicGate::default(),
        bytes_in_flight: metrics.bytes_in_flight().clone(),
        write_timeout: config.write.request_timeout,
        gate: Arc::new(Gate::new(clock.clone())),
    };
    // Stops with all other tasks: a node that is still starting has no one else to stop it.
    let server = tasks.stopping().clone();
    let serving = grpc::serve(listener, cells.clone(), server);
    tasks.spawn("gRPC server", Kind::Essential, move |_| serving);

    let identity = cluster::form(&binding, &own, &peers, &readiness).await?;
    if identity.founding.is_some() {
        let (binding, peers, readiness) = (binding.clone(), peers.clone(), readiness.clone());
        tasks.spawn("founding", Kind::Passing, move |stop| {
            until(stop, cluster::bind_peers(binding, peers, readiness))
        });
    }
    let node = Node::open(&config, identity, &binding, &cells, readiness, &metrics, &tasks).await?;
    // The cell is empty: this function runs once.
    let _ = cells.node.set(node.clone());
    node.opened().await;
    tracing::info!(
        cluster = peers.cluster_id().unwrap_or_default(),
        "every replica of this node is open"
    );
    Ok(node)
}

async fn until(stop: CancellationToken, work: impl Future<Output = ()>) -> anyhow::Result<()> {
    tokio::select! {
        () = stop.cancelled() => {}
        () = work => {}
    }
    Ok(())
}

impl Node {
    async fn open(
        config: &Arc<Config>,
        identity: Identity,
        binding: &Arc<Binding>,
        cells: &grpc::Cells,
        readiness: Arc<Readiness>,
        metrics: &Arc<Metrics>,
        tasks: &Tasks,
    ) -> anyhow::Result<Arc<Node>> {
        let (peers, clock) = (cells.peers.clone(), cells.clock.clone());
        let memory = MemoryBudget::new(config.memory.budget_bytes.0);
        let (db, store) = open_storage(config, binding, memory.bytes()).await?;
        let view = Arc::new(CurrentView::default());
        let network = Arc::new(Transport::new(
            peers.clone(),
            view.clone(),
            identity.meta_replicas.clone(),
        ));
        let device = Arc::new(RocksDevice::new(db.clone())?);
        let (hooks, stopped_group) = hooks();
        tasks.spawn("group watch", Kind::Essential, move |stop| {
            group_watch(stopped_group, stop)
        });
        let log: RaftLog = Arc::new(quorate_raft_log::RaftLog::open(
            device,
            network,
            settings::log_options(config),
            hooks,
        )?);
        // The cell is empty: this function runs once.
        let _ = cells.log.set(log.clone());
        let gate = cells.gate.clone();
        gate.follow_log(log.stalled());
        gate.follow_memory(memory.clone());
        let shards = Shards::new(BatchLimits::new(&config.write), gate.clone());
        let leaders = Leaders::new(
            shards.clone(),
            view.clone(),
            peers.clone(),
            settings::forward_policy(config),
        );
        let leaders = Arc::new(leaders);
        let (states, meta_states) = watch::channel(Arc::new(MetaState::default()));
        let group_config = settings::group_config(config);
        let meta = meta_replica(&log, db.clone(), &identity, states, group_config.clone()).await?;
        tokio::spawn(cluster::report_leader(
            meta.group.group(),
            meta.group.watch(),
            view.clone(),
        ));
        let indexes = Arc::new(ReadIndexes::new(shards.clone(), leaders.clone(), peers.clone()));
        let freshness = Arc::new(Freshness::default());
        let reader = Reader::new(
            shards.clone(),
            view.clone(),
            peers.clone(),
            indexes.clone(),
            freshness.clone(),
            ReaderOptions {
                policy: settings::replica_policy(config),
                select: SelectLimits::default(),
                max_samples: config.read.max_samples,
            },
        );
        let commands = Arc::new(ShardCommands::new(
            shards.clone(),
            leaders.clone(),
            peers.clone(),
            gate.clone(),
            Quotas::new(view.clone(), meta.clone(), peers.clone(), gate.clone()),
        ));
        let write = WritePath::new(
            view.clone(),
            commands.clone(),
            Forwarder::new(peers.clone()),
            CACHED_SERIES,
            DecodeLimits {
                max_decompressed_bytes: usize::try_from(config.write.max_decompressed_bytes.0)?,
                ..DecodeLimits::DEFAULT
            },
            rand::random(),
        );
        let node = Arc::new(Node {
            write: Arc::new(WriteFrontend::new(write, metrics.clone(), memory.clone())),
            admin: Arc::new(Admin::new(
                config.enable_admin_api,
                view.clone(),
                commands.clone(),
            )),
            commands,
            memory: memory.clone(),
            queries: Queries::new(reader.clone(), QueryLimits::new(&config.read)),
            public: cells.public.clone(),
            peers: peers.clone(),
            view: view.clone(),
            shards: shards.clone(),
            leaders,
            reader,
            log: log.clone(),
            db,
            meta,
            gate: gate.clone(),
            compaction: Arc::default(),
            readiness: readiness.clone(),
            clock: clock.clone(),
        });
        let supervisor = Supervisor::new(SupervisorParts {
            log: log.clone(),
            store,
            shards: shards.clone(),
            peers: peers.clone(),
            view,
            readiness,
            meta_replica: node.meta.replica,
            group_config,
        });
        let spawn = |name, work: BoxFuture<'static, ()>| {
            tasks.spawn(name, Kind::Essential, move |stop| until(stop, work));
        };
        let stop = tasks.stopping().clone();
        spawn("supervisor", supervisor.run(meta_states, stop.clone()).boxed());
        spawn(
            "reconciler",
            cluster::reconcile(node.clone(), stop.clone()).boxed(),
        );
        let own = peers
            .info(peers.own())
            .context("this node is not in its own peer table")?;
        spawn(
            "announcements",
            cluster::announce(node.clone(), own, stop.clone()).boxed(),
        );
        spawn(
            "freshness",
            freshness.run(shards.clone(), indexes, stop.clone()).boxed(),
        );
        let policy = FlushPolicy {
            interval: config.flush.interval,
            log_bytes: config.flush.log_bytes.0,
            compaction_rate: config.flush.compaction_rate.0,
        };
        let compaction = node.compaction.clone();
        spawn(
            "flushes",
            shards::run_flushes(
                shards,
                node.meta.clone(),
                log,
                policy,
                compaction,
                memory.clone(),
                stop.clone(),
            )
            .boxed(),
        );
        spawn("memory watch", watch_memory(memory, stop.clone()).boxed());
        let (dir, reserve) = (config.data_dir.clone(), config.disk_reserve_bytes.0);
        spawn(
            "disk watch",
            cluster::watch_disk(gate.clone(), dir, reserve, stop.clone()).boxed(),
        );
        spawn(
            "clock watch",
            cluster::watch_clock(gate, peers, stop.clone()).boxed(),
        );
        let bootstrapping = bootstrap(
            node.meta.group.clone(),
            node.meta.machine.clone(),
            config.clone(),
            identity,
        );
        tasks.spawn("bootstrap", Kind::Passing, move |stop| until(stop, bootstrapping));
        metrics.collect_from(Arc::new(crate::figures::NodeFigures::new(&node)));
        Ok(node)
    }

    /// Waits until the cluster is described and this node's replicas are open.
    async fn opened(&self) {
        let mut every = tokio::time::interval(Duration::from_millis(20));
        loop {
            let all_open = self.view.get().is_some_and(|view| {
                let own = self.peers.own();
                let mut held = view
                    .shards()
                    .filter(|s| view.groups.get(s).is_some_and(|g| g.on(own).is_some()));
                held.all(|shard| self.shards.get(shard).is_some())
            });
            if all_open {
                return;
            }
            every.tick().await;
        }
    }

    /// Nodes and their addresses.
    pub fn peers(&self) -> &Arc<Peers> {
        &self.peers
    }

    /// Ring and placement.
    pub fn view(&self) -> &Arc<CurrentView> {
        &self.view
    }

    /// What the merging of flushes did.
    pub fn compaction(&self) -> &CompactionStats {
        &self.compaction
    }

    /// Local shard replicas.
    pub fn shards(&self) -> &Arc<Shards> {
        &self.shards
    }

    /// Who leads what.
    pub fn leaders(&self) -> &Arc<Leaders> {
        &self.leaders
    }

    /// Reads shards.
    pub fn reader(&self) -> &Arc<Reader> {
        &self.reader
    }

    /// Answers queries.
    pub fn queries(&self) -> &Queries {
        &self.queries
    }

    /// Takes writes.
    pub fn write(&self) -> &Arc<WriteFrontend> {
        &self.write
    }

    /// What memory this node may use.
    pub fn memory(&self) -> &Arc<MemoryBudget> {
        &self.memory
    }

    /// Sends commands to shards.
    pub fn commands(&self) -> &Arc<ShardCommands> {
        &self.commands
    }

    /// Administers what is stored.
    pub fn admin(&self) -> &Arc<Admin> {
        &self.admin
    }

    /// The one log.
    pub fn log(&self) -> &RaftLog {
        &self.log
    }

    /// The local replica of the meta group.
    pub fn meta(&self) -> &MetaReplica {
        &self.meta
    }

    /// Whether this node may take writes.
    pub fn gate(&self) -> &Arc<Gate> {
        &self.gate
    }

    /// Wall clock.
    pub fn clock(&self) -> &Arc<dyn Clock> {
        &self.clock
    }

    /// Every group with a replica here, the meta group first.
    pub fn groups(&self) -> Vec<Group> {
        let shards = self.shards.all();
        std::iter::once(self.meta.group.clone())
            .chain(shards.iter().map(|r| r.group().clone()))
            .collect()
    }

    /// What keeps this node from being ready. A single leaderless shard does not: it would empty every
    /// load balancer at once.
    pub fn pending(&self) -> Vec<String> {
        pending(&self.readiness, &self.gate, &self.view, &self.leaders)
    }

    fn led(&self) -> Vec<String> {
        let groups = self.groups();
        let led = groups.iter().filter(|g| g.status().leader == Some(g.replica()));
        led.map(|g| format!("group {} is led here", g.group())).collect()
    }
}

impl Core for Node {
    fn apis(&self) -> Apis {
        Apis {
            write: self.write.clone(),
            query: Arc::new(self.queries.clone()),
            admin: self.admin.clone(),
            pending: {
                let (readiness, gate) = (self.readiness.clone(), self.gate.clone());
                let (view, leaders) = (self.view.clone(), self.leaders.clone());
                Arc::new(move || pending(&readiness, &gate, &view, &leaders))
            },
            cardinality: {
                let shards = self.shards.clone();
                Arc::new(move |tenant| {
                    let replicas = shards.all();
                    let shards: Vec<_> = replicas.iter().map(|r| r.storage().clone()).collect();
                    NodeCardinality::of(&shards, tenant)
                })
            },
        }
    }

    fn stop_taking(&self) -> BoxFuture<'_, ()> {
        async { tokio::join!(self.public.close(), cluster::say_goodbye(&self.peers)) }
            .map(drop)
            .boxed()
    }

    fn hand_over(&self) -> BoxFuture<'_, ()> {
        cluster::hand_over(self).boxed()
    }

    fn flush(&self) -> BoxFuture<'_, Result<(), String>> {
        async move {
            self.gate.stop();
            for replica in self.shards.all() {
                shards::flush(&replica, &self.log).await;
            }
            shards::flush_meta(&self.meta).await;
            Ok(())
        }
        .boxed()
    }

    fn close(&self) -> BoxFuture<'_, Result<(), String>> {
        async move {
            self.log.shutdown().await;
            // RocksDB's threads must not outlive its statics: the process exits soon after this.
            let db = self.db.clone();
            let stopped = tokio::task::spawn_blocking(move || db.cancel_all_background_work(true)).await;
            stopped.map_err(|e| e.to_string())
        }
        .boxed()
    }

    fn still_pending(&self) -> Vec<String> {
        let mut pending = self.public.running();
        pending.extend(self.led());
        pending
    }
}

fn pending(readiness: &Readiness, gate: &Gate, view: &CurrentView, leaders: &Leaders) -> Vec<String> {
    let mut pending = readiness.pending();
    if gate.log_stalled() {
        pending.push("the disk does not answer".into());
    }
    let shards = view
        .get()
        .map(|v| v.shards().collect::<Vec<_>>())
        .unwrap_or_default();
    if !shards.is_empty() && !shards.iter().any(|s| leaders.works(*s)) {
        pending.push("no shard has a leader that is followed by a majority".into());
    }
    pending
}

/// Hooks that abort when the log can't be written, and tell when a group stopped because of an error.
fn hooks() -> (Hooks, mpsc::UnboundedReceiver<String>) {
    let (tell, stopped) = mpsc::unbounded_channel();
    let on_group_fatal = move |group, replica, reason: &str| {
        // Nobody listens any more when the node is stopping.
        let _ = tell.send(format!("replica {replica} of group {group} stopped: {reason}"));
    };
    (
        Hooks {
            on_group_fatal: Arc::new(on_group_fatal),
            ..Hooks::default()
        },
        stopped,
    )
}

/// Fails when a group does: what is in memory of it can't be trusted, and a restart reads what is on disk.
async fn group_watch(
    mut stopped: mpsc::UnboundedReceiver<String>,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    tokio::select! {
        () = stop.cancelled() => Ok(()),
        Some(reason) = stopped.recv() => anyhow::bail!(reason),
    }
}

/// Opens the one RocksDB with every crate's column families.
/// RocksDB's caches and buffers get shares of the memory budget: an eighth each.
async fn open_storage(
    config: &Config,
    binding: &Arc<Binding>,
    memory_bytes: u64,
) -> anyhow::Result<(Arc<Db>, Arc<Store>)> {
    let share = (memory_bytes / 8).clamp(LEAST_DATABASE_SHARE, MOST_DATABASE_SHARE);
    let share = usize::try_from(share)?;
    let dir = config.data_dir.join("db");
    let scratch = config.data_dir.join("scratch");
    binding.database_expected(&dir)?;
    let opened = tokio::task::spawn_blocking(move || -> anyhow::Result<_> {
        let mut options = Options::default();
        options.create_if_missing(true);
        options.create_missing_column_families(true);
        options.set_max_total_wal_size(MAX_WAL_BYTES);
        options.set_db_write_buffer_size(share);
        let cache = Cache::new_lru_cache(share);
        quorate_raft_log::tune_database(&mut options);
        let mut families = vec![ColumnFamilyDescriptor::new("default", Options::default())];
        families.extend(quorate_raft_log::column_families());
        families.extend(Store::column_families_with_cache(&cache));
        families.push(meta::column_family());
        let db = Db::open_cf_descriptors(&options, &dir, families)
            .with_context(|| format!("can't open the database in {}; if its files are damaged, empty the data directory so that the node rejoins under new replica ids", dir.display()))?;
        let db = Arc::new(db);
        std::fs::create_dir_all(&scratch)?;
        let store = Store::open(db.clone(), &scratch, StoreOptions::default())?;
        Ok((db, store))
    });
    let opened = opened.await??;
    binding.database_created()?;
    Ok(opened)
}

async fn meta_replica(
    log: &RaftLog,
    db: Arc<Db>,
    identity: &Identity,
    states: watch::Sender<Arc<MetaState>>,
    config: quorate_raft_log::GroupConfig,
) -> anyhow::Result<MetaReplica> {
    let replica = identity
        .meta_replica
        .context("the node is bound but has no meta replica; empty the data directory so that it rejoins")?;
    cluster::open_meta(
        log,
        db,
        replica,
        &identity.meta_replicas,
        identity.node_id,
        states,
        config,
    )
    .await
}
