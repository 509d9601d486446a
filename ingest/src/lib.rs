//! Wire decoders: bytes in, columnar batch out.
//!
//! * [`decode_snappy_write_request`] reads Prometheus remote write 1.0 into a reusable [`Batch`];
//!   [`Batch::push_series`] takes the series of any other frontend through the same checks.
//! * [`SeriesRef::raw_labels`] is the key of the series cache, hashed by [`CacheHasher`]. On a hit
//!   nothing else of the labels is looked at.
//! * [`SeriesRef::canonicalize`], on a miss, validates the labels and writes the canonical bytes by
//!   which a series is identified.
//! * [`parse_text`] reads the Prometheus text exposition format.
//!
//! Everything here is pure: no clock, no randomness, no I/O. All input is hostile: a decoder answers
//! with an error, never with a panic, and allocates in proportion to bytes it was really given.

mod batch;
mod cache_key;
mod canonical;
mod error;
mod extras;
mod histogram;
mod limits;
mod remote_write;
mod snappy;
mod text;
mod wire;

pub use batch::{Batch, SeriesRef};
pub use cache_key::CacheHasher;
pub use canonical::{
    CanonicalLabels, InvalidReason, METRIC_NAME_LABEL, SeriesError, ShardLabels, canonicalize,
};
pub use error::DecodeError;
pub use extras::{ExemplarRef, MetadataRef};
pub use histogram::{BucketSpan, HistogramRef, WireCount};
pub use limits::{DecodeLimits, MAX_REQUEST_BYTES};
pub use remote_write::{decode_snappy_write_request, decode_write_request};
pub use snappy::decompress_snappy;
pub use text::{MAX_TEXT_LABELS, TextError, TextParser, TextSample, parse_text};
