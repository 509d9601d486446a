//! Native histograms in Prometheus's JSON.

use std::fmt::Write as _;

use quorate_storage::Histogram;

use super::number::{push_timestamp, push_value};

/// `[time,{"count":…,"sum":…,"buckets":[[boundaries,"lower","upper","count"],…]}]`; empty buckets are left out.
pub(super) fn push_point(out: &mut String, timestamp_ms: i64, histogram: &Histogram) {
    out.push('[');
    push_timestamp(out, timestamp_ms);
    out.push_str(",{\"count\":");
    push_quoted(out, histogram.count);
    out.push_str(",\"sum\":");
    push_quoted(out, histogram.sum);
    let mut any = false;
    for bucket in histogram.ascending().filter(|bucket| bucket.count != 0.0) {
        out.push_str(if any { "," } else { ",\"buckets\":[" });
        any = true;
        // Which bounds belong to the bucket: the upper, the lower, none, both.
        let boundaries = match (bucket.lower_inclusive, bucket.upper_inclusive) {
            (false, true) => 0,
            (true, false) => 1,
            (false, false) => 2,
            (true, true) => 3,
        };
        let _infallible = write!(out, "[{boundaries}");
        for number in [bucket.lower, bucket.upper, bucket.count] {
            out.push(',');
            push_quoted(out, number);
        }
        out.push(']');
    }
    out.push_str(if any { "]}]" } else { "}]" });
}

fn push_quoted(out: &mut String, value: f64) {
    out.push('"');
    push_value(out, value);
    out.push('"');
}
