//! The signatures of all functions Prometheus knows, whether or not they can be evaluated here.

use crate::ast::ValueType;

/// How many arguments beyond the listed ones a function takes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Variadic {
    /// Exactly the listed ones.
    Fixed,
    /// The last listed argument may be missing, or there and repeated up to this many times.
    UpTo(usize),
    /// The last listed argument may be missing or repeated without limit.
    Unlimited,
}

/// A function's signature.
#[derive(PartialEq, Eq, Debug)]
pub struct FunctionSpec {
    /// The name in PromQL.
    pub name: &'static str,
    /// The types of the arguments; the last one repeats as `variadic` says.
    pub arg_types: &'static [ValueType],
    /// How many arguments beyond the listed ones there may be.
    pub variadic: Variadic,
    /// What a call evaluates to.
    pub return_type: ValueType,
    /// Whether Prometheus hides it behind a feature flag.
    pub experimental: bool,
}

/// The function with this name, which is case-sensitive.
pub fn find_function(name: &str) -> Option<&'static FunctionSpec> {
    FUNCTIONS
        .binary_search_by(|spec| spec.name.cmp(name))
        .ok()
        .map(|index| &FUNCTIONS[index])
}

use ValueType::{Matrix as M, Scalar as S, String as T, Vector as V};

const fn stable(name: &'static str, arg_types: &'static [ValueType], return_type: ValueType) -> FunctionSpec {
    FunctionSpec {
        name,
        arg_types,
        variadic: Variadic::Fixed,
        return_type,
        experimental: false,
    }
}

const fn variadic(name: &'static str, arg_types: &'static [ValueType], variadic: Variadic) -> FunctionSpec {
    FunctionSpec {
        name,
        arg_types,
        variadic,
        return_type: V,
        experimental: false,
    }
}

const fn experimental(
    name: &'static str,
    arg_types: &'static [ValueType],
    variadic: Variadic,
) -> FunctionSpec {
    FunctionSpec {
        name,
        arg_types,
        variadic,
        return_type: V,
        experimental: true,
    }
}

const fn experimental_scalar(name: &'static str, arg_types: &'static [ValueType]) -> FunctionSpec {
    FunctionSpec {
        name,
        arg_types,
        variadic: Variadic::Fixed,
        return_type: S,
        experimental: true,
    }
}

/// Every function, sorted by name.
pub static FUNCTIONS: &[FunctionSpec] = &[
    stable("abs", &[V], V),
    stable("absent", &[V], V),
    stable("absent_over_time", &[M], V),
    stable("acos", &[V], V),
    stable("acosh", &[V], V),
    stable("asin", &[V], V),
    stable("asinh", &[V], V),
    stable("atan", &[V], V),
    stable("atanh", &[V], V),
    stable("avg_over_time", &[M], V),
    stable("ceil", &[V], V),
    stable("changes", &[M], V),
    stable("clamp", &[V, S, S], V),
    stable("clamp_max", &[V, S], V),
    stable("clamp_min", &[V, S], V),
    stable("cos", &[V], V),
    stable("cosh", &[V], V),
    stable("count_over_time", &[M], V),
    variadic("day_of_month", &[V], Variadic::UpTo(1)),
    variadic("day_of_week", &[V], Variadic::UpTo(1)),
    variadic("day_of_year", &[V], Variadic::UpTo(1)),
    variadic("days_in_month", &[V], Variadic::UpTo(1)),
    stable("deg", &[V], V),
    stable("delta", &[M], V),
    stable("deriv", &[M], V),
    experimental("double_exponential_smoothing", &[M, S, S], Variadic::Fixed),
    experimental_scalar("end", &[]),
    stable("exp", &[V], V),
    experimental("first_over_time", &[M], Variadic::Fixed),
    stable("floor", &[V], V),
    stable("histogram_avg", &[V], V),
    stable("histogram_count", &[V], V),
    stable("histogram_fraction", &[S, S, V], V),
    stable("histogram_quantile", &[S, V], V),
    experimental("histogram_quantiles", &[V, T, S, S], Variadic::UpTo(9)),
    stable("histogram_stddev", &[V], V),
    stable("histogram_stdvar", &[V], V),
    stable("histogram_sum", &[V], V),
    variadic("hour", &[V], Variadic::UpTo(1)),
    stable("idelta", &[M], V),
    stable("increase", &[M], V),
    experimental("info", &[V, V], Variadic::UpTo(1)),
    stable("irate", &[M], V),
    variadic("label_join", &[V, T, T, T], Variadic::Unlimited),
    stable("label_replace", &[V, T, T, T, T], V),
    stable("last_over_time", &[M], V),
    stable("ln", &[V], V),
    stable("log10", &[V], V),
    stable("log2", &[V], V),
    experimental("mad_over_time", &[M], Variadic::Fixed),
    experimental_scalar("max_of", &[S, S]),
    stable("max_over_time", &[M], V),
    experimental_scalar("min_of", &[S, S]),
    stable("min_over_time", &[M], V),
    variadic("minute", &[V], Variadic::UpTo(1)),
    variadic("month", &[V], Variadic::UpTo(1)),
    stable("pi", &[], S),
    stable("predict_linear", &[M, S], V),
    stable("present_over_time", &[M], V),
    stable("quantile_over_time", &[S, M], V),
    stable("rad", &[V], V),
    experimental_scalar("range", &[]),
    stable("rate", &[M], V),
    stable("resets", &[M], V),
    variadic("round", &[V, S], Variadic::UpTo(1)),
    stable("scalar", &[V], S),
    stable("sgn", &[V], V),
    stable("sin", &[V], V),
    stable("sinh", &[V], V),
    stable("sort", &[V], V),
    experimental("sort_by_label", &[V, T], Variadic::Unlimited),
    experimental("sort_by_label_desc", &[V, T], Variadic::Unlimited),
    stable("sort_desc", &[V], V),
    stable("sqrt", &[V], V),
    experimental_scalar("start", &[]),
    stable("stddev_over_time", &[M], V),
    stable("stdvar_over_time", &[M], V),
    experimental_scalar("step", &[]),
    stable("sum_over_time", &[M], V),
    stable("tan", &[V], V),
    stable("tanh", &[V], V),
    stable("time", &[], S),
    stable("timestamp", &[V], V),
    experimental("ts_of_first_over_time", &[M], Variadic::Fixed),
    experimental("ts_of_last_over_time", &[M], Variadic::Fixed),
    experimental("ts_of_max_over_time", &[M], Variadic::Fixed),
    experimental("ts_of_min_over_time", &[M], Variadic::Fixed),
    stable("vector", &[S], V),
    variadic("year", &[V], Variadic::UpTo(1)),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_sorted_and_every_name_is_found() {
        assert!(FUNCTIONS.is_sorted_by(|a, b| a.name < b.name));
        for spec in FUNCTIONS {
            assert_eq!(find_function(spec.name), Some(spec));
        }
        assert_eq!(find_function("Rate"), None);
    }
}
