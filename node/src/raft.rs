//! `raft-log` as this node runs it: tokio, RocksDB, gRPC.

/// The log of all groups of this node.
pub type RaftLog = std::sync::Arc<quorate_raft_log::RaftLog>;
/// One replica of one group.
pub type Group = quorate_raft_log::Group;

/// Storage's meta rows ride the log's synced batches; neither crate knows the other.
pub fn rider(row: quorate_storage::RiderRow) -> quorate_raft_log::RiderRow {
    quorate_raft_log::RiderRow {
        cf: row.cf,
        key: row.key,
        value: row.value,
    }
}
