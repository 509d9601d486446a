//! What one request and one series may be.

/// The most a request may be once decompressed, whatever the configuration says: offsets into a
/// batch are 32 bits wide, and gathering labels can double the bytes.
pub const MAX_REQUEST_BYTES: usize = 1 << 30;

/// Bounds of one request and of one series. A request beyond its bounds is refused as a whole
/// ([`crate::DecodeError::TooLarge`]), a series beyond them alone ([`crate::SeriesError`]).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DecodeLimits {
    /// Size of a request after decompression, in bytes. Default: 32 MiB. Values above
    /// [`MAX_REQUEST_BYTES`] mean that.
    pub max_decompressed_bytes: usize,
    /// Series in a request, those without samples included; also the metadata of as many metrics.
    /// Default: 200,000.
    pub max_series_per_request: usize,
    /// Samples in a request, as many native histograms and as many exemplars. Default: 500,000. Values
    /// above `u32::MAX` mean that.
    pub max_samples_per_request: usize,
    /// Labels of a series as sent: the metric name and labels with empty values count. Default: 64.
    pub max_labels_per_series: usize,
    /// Length of a label name, in bytes. Default: 1,024.
    pub max_label_name_bytes: usize,
    /// Length of a label value other than the metric name, in bytes. Default: 4,096.
    pub max_label_value_bytes: usize,
    /// Length of a metric name, in bytes. Default: 1,024.
    pub max_metric_name_bytes: usize,
}

impl DecodeLimits {
    /// The limits in force when nothing is configured.
    pub const DEFAULT: DecodeLimits = DecodeLimits {
        max_decompressed_bytes: 32 << 20,
        max_series_per_request: 200_000,
        max_samples_per_request: 500_000,
        max_labels_per_series: 64,
        max_label_name_bytes: 1_024,
        max_label_value_bytes: 4_096,
        max_metric_name_bytes: 1_024,
    };

    pub(crate) fn request_bytes(&self) -> usize {
        self.max_decompressed_bytes.min(MAX_REQUEST_BYTES)
    }

    pub(crate) fn request_samples(&self) -> usize {
        self.max_samples_per_request.min(u32::MAX as usize)
    }
}

impl Default for DecodeLimits {
    fn default() -> Self {
        Self::DEFAULT
    }
}
