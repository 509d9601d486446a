//! gRPC client for a Quorate cluster.
//!
//! A [`Client`] knows several endpoints, spreads calls over them, leaves out those that fail and retries
//! what can succeed on a retry: writes are idempotent, so a resend is always harmless. Every call has a
//! deadline.
//!
//! ```no_run
//! # async fn example() -> Result<(), quorate_client::ClientError> {
//! use quorate_client::{Client, QueryOptions, Series};
//!
//! let client = Client::builder().endpoints(["127.0.0.1:9095", "127.0.0.1:9096"]).connect()?;
//! let temperature = Series::new("room_celsius").label("room", "lab").sample(1_700_000_000_000, 21.5);
//! let written = client.write(vec![temperature]).await?;
//! assert!(written.rejections.is_empty());
//! let answer = client.instant("avg(room_celsius)", &QueryOptions::default()).await?;
//! println!("{:?}", answer.value);
//! # Ok(())
//! # }
//! ```

pub mod balance;
mod call;
mod cluster;
mod encoded;
mod endpoints;
mod error;
mod options;
mod query;
mod series;
mod series_stream;
mod write;
mod write_stream;

pub use call::Client;
pub use error::ClientError;
pub use options::ClientBuilder;
pub use query::{
    Answer, LabelOptions, QueryOptions, RangeWindow, ReadLevel, ReadReport, ShardRead, Strings, Value,
};
pub use quorate_proto::ErrorCode;
pub use quorate_proto::v1::{
    CardinalityResponse, ChecksumResponse, GroupChecksum, GroupStatus, LimitValue, LimitsResponse,
    NamedCount, NodeStatus, ReplicaStatus, SeriesMemory, StatusResponse,
};
pub use series::{LabelSet, Sample, Series, SeriesData};
pub use series_stream::{SeriesAnswer, SeriesStream};
pub use write::{Receipt, Rejection, WriteResult};
pub use write_stream::{PendingWrite, WriteStream};
