//! The wire protocol: generated gRPC code and the one table of error codes.
//!
//! `v1` is public and stable; `internal` is spoken between nodes of one cluster only.

/// The public services: Write, Query, Cluster.
#[allow(missing_docs, unreachable_pub, clippy::all)]
pub mod v1 {
    tonic::include_proto!("quorate.v1");
}

/// Node-to-node services.
#[allow(missing_docs, unreachable_pub, clippy::all)]
pub mod internal {
    tonic::include_proto!("quorate.internal.v1");
}

mod error_code;

pub use error_code::ErrorCode;

/// The encoded `FileDescriptorSet` of every service, for gRPC reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

/// Metadata key and HTTP header of the tenant.
pub const TENANT_HEADER: &str = "x-scope-orgid";
/// The tenant of requests without [`TENANT_HEADER`].
pub const DEFAULT_TENANT: &str = "default";
/// Metadata key of the sender's cluster id on node-to-node calls.
pub const CLUSTER_ID_HEADER: &str = "quorate-cluster-id";
/// Metadata key of the sender's node id on node-to-node calls.
pub const NODE_ID_HEADER: &str = "quorate-node-id";
/// Metadata key with the [`ErrorCode`] name on a failed call.
pub const ERROR_CODE_HEADER: &str = "quorate-error";
/// Metadata key with the milliseconds to wait before a retry on a failed call.
pub const RETRY_AFTER_MS_HEADER: &str = "quorate-retry-after-ms";
