//! Codecs of sealed data: whole columns of values or timestamps, encoded once and read often.
//!
//! [`values`] packs float columns, `histograms` those of native histograms, [`ints`] the integer columns
//! below both, `bitpack` the bits below those. Open chunks, which grow sample by sample, have their own codec in `chunk`.

mod bitpack;
pub(crate) mod histograms;
pub mod ints;
pub mod values;

/// Why bytes are not an encoded column.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// The bytes end before the column does, or contradict themselves.
    #[error("a column is cut or malformed")]
    Malformed,
    /// The column was written by a codec that this program lacks.
    #[error("a column has codec {0}, which this program does not know")]
    UnknownCodec(u8),
}
