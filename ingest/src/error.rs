//! Why a whole request can't be read.

/// The request is refused as a whole; nothing of it may be stored.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The body is not one snappy block, or it is cut short or corrupt.
    #[error("the body is not a valid snappy block: {what}")]
    Snappy {
        /// What the decompressor stumbled over.
        what: String,
    },
    /// The decompressed bytes are not a protobuf message of the expected type.
    #[error("invalid protobuf at byte {offset}: {what}")]
    Protobuf {
        /// Position in the decompressed request, in bytes.
        offset: usize,
        /// What is wrong there.
        what: &'static str,
    },
    /// The message is a remote write 2.0 request. Read as 1.0 it would look empty, and be
    /// acknowledged with nothing stored.
    #[error("the body is a remote write 2.0 request; this endpoint takes prometheus.WriteRequest (1.0)")]
    RemoteWrite2,
    /// A limit of [`crate::DecodeLimits`] is exceeded.
    #[error("the request exceeds {limit}: {value} > {max}")]
    TooLarge {
        /// Name of the limit, as in [`crate::DecodeLimits`].
        limit: &'static str,
        /// What the request has, or how far it was read when the limit was hit.
        value: u64,
        /// The limit.
        max: u64,
    },
}

impl DecodeError {
    pub(crate) fn too_large(limit: &'static str, value: usize, max: usize) -> Self {
        DecodeError::TooLarge {
            limit,
            value: value as u64,
            max: max as u64,
        }
    }
}
