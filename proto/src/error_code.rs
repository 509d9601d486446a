//! The one table that maps an error to gRPC, HTTP, Prometheus's `errorType` and retry behaviour.

use tonic::Code;

macro_rules! error_codes {
    ($($(#[$doc:meta])* $variant:ident, $name:literal, $grpc:ident, $http:literal, $prom:literal, $retry:literal;)*) => {
        /// What went wrong, as clients see it. The name is stable; the numbers follow from it.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum ErrorCode {
            $($(#[$doc])* $variant,)*
        }

        impl ErrorCode {
            /// Every code, in table order.
            pub const ALL: &'static [ErrorCode] = &[$(ErrorCode::$variant,)*];

            /// The stable name, e.g. `no_leader`.
            pub const fn name(self) -> &'static str {
                match self { $(ErrorCode::$variant => $name,)* }
            }

            /// The gRPC status code.
            pub const fn grpc(self) -> Code {
                match self { $(ErrorCode::$variant => Code::$grpc,)* }
            }

            /// The HTTP status.
            pub const fn http(self) -> u16 {
                match self { $(ErrorCode::$variant => $http,)* }
            }

            /// The `errorType` of Prometheus's JSON errors.
            pub const fn prometheus_type(self) -> &'static str {
                match self { $(ErrorCode::$variant => $prom,)* }
            }

            /// Whether sending the same request again can succeed without a change to it.
            pub const fn retryable(self) -> bool {
                match self { $(ErrorCode::$variant => $retry,)* }
            }

            /// The code of this name.
            pub fn from_name(name: &str) -> Option<ErrorCode> {
                match name { $($name => Some(ErrorCode::$variant),)* _ => None }
            }
        }
    };
}

// A failure of ours is never a 4xx, because Prometheus drops data on those; nor a 500, because
// remote-write clients differ on whether that is retried. It is a 503.
error_codes! {
    /// The request can't be understood: body, parameter or expression.
    BadData, "bad_data", InvalidArgument, 400, "bad_data", false;
    /// Some samples were refused for good; the rest is stored.
    Rejected, "rejected", InvalidArgument, 400, "bad_data", false;
    /// The media type or encoding is not one we take.
    UnsupportedMedia, "unsupported_media", InvalidArgument, 415, "bad_data", false;
    /// The request is larger than a limit.
    TooLarge, "too_large", InvalidArgument, 413, "bad_data", false;
    /// The client was too slow to send its request.
    RequestTimeout, "request_timeout", DeadlineExceeded, 408, "timeout", true;
    /// A tenant's configured rate is used up.
    RateLimited, "rate_limited", ResourceExhausted, 429, "bad_data", true;
    /// Nothing of this name exists.
    NotFound, "not_found", NotFound, 404, "not_found", false;
    /// An interface that the configuration leaves off.
    Disabled, "disabled", FailedPrecondition, 503, "unavailable", false;
    /// The expression is valid and can't be evaluated.
    Execution, "execution", FailedPrecondition, 422, "execution", false;
    /// A query used up a limit of its own: samples, memory, steps.
    QueryLimit, "query_limit", FailedPrecondition, 422, "execution", false;
    /// The deadline passed.
    Timeout, "timeout", DeadlineExceeded, 503, "timeout", true;
    /// The client went away.
    Canceled, "canceled", Cancelled, 499, "canceled", false;
    /// The shard has no leader at the moment.
    NoLeader, "no_leader", Unavailable, 503, "unavailable", true;
    /// The callee does not lead the shard.
    NotLeader, "not_leader", Unavailable, 503, "unavailable", true;
    /// The leader can't reach a majority.
    NoQuorum, "no_quorum", Unavailable, 503, "unavailable", true;
    /// No replica is fresh enough for the bound.
    TooStale, "too_stale", Unavailable, 503, "unavailable", true;
    /// A bound on bytes in flight, queues or memory is reached.
    Overloaded, "overloaded", Unavailable, 503, "unavailable", true;
    /// The leader's clock is too far from its peers'.
    ClockSkew, "clock_skew", Unavailable, 503, "unavailable", true;
    /// The disk is down to its reserve.
    DiskReserve, "disk_reserve", Unavailable, 503, "unavailable", true;
    /// The disk does not answer.
    DiskStalled, "disk_stalled", Unavailable, 503, "unavailable", true;
    /// The sender's ring is of another epoch.
    StaleRing, "stale_ring", Unavailable, 503, "unavailable", true;
    /// The node is starting or its cluster is still forming.
    Starting, "starting", Unavailable, 503, "unavailable", true;
    /// The node is stopping.
    ShuttingDown, "shutting_down", Unavailable, 503, "unavailable", true;
    /// The caller belongs to another cluster.
    WrongCluster, "wrong_cluster", PermissionDenied, 403, "bad_data", false;
    /// A defect of ours.
    Internal, "internal", Unavailable, 503, "internal", true;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_round_trip() {
        for code in ErrorCode::ALL {
            assert_eq!(ErrorCode::from_name(code.name()), Some(*code));
        }
    }

    #[test]
    fn our_faults_are_503_and_theirs_never_retryable_4xx_but_for_waiting() {
        for code in ErrorCode::ALL {
            assert_ne!(code.http(), 500, "{code:?}");
            if code.retryable() {
                assert!(matches!(code.http(), 503 | 429 | 408), "{code:?}");
            }
        }
    }
}
