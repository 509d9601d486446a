//! What of PromQL Prometheus has behind flags (`--enable-feature`).

use std::fmt;

/// Which experimental parts of PromQL are accepted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Features {
    /// Functions and aggregations like `info`, `limitk` and `sort_by_label`.
    pub experimental_functions: bool,
    /// `anchored` and `smoothed`.
    pub extended_range_selectors: bool,
    /// `fill`, `fill_left` and `fill_right`.
    pub binop_fill_modifiers: bool,
    /// The metric name is dropped from the final result instead of by each function.
    pub delayed_name_removal: bool,
}

/// A name that is no feature of PromQL.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct UnknownFeature(String);

impl fmt::Display for UnknownFeature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:?} is no feature of PromQL; there are {}",
            self.0,
            Features::NAMES.join(", ")
        )
    }
}

impl std::error::Error for UnknownFeature {}

impl Features {
    /// Everything.
    pub const ALL: Features = Features {
        experimental_functions: true,
        extended_range_selectors: true,
        binop_fill_modifiers: true,
        delayed_name_removal: true,
    };

    /// What Prometheus accepts without flags.
    pub const NONE: Features = Features {
        experimental_functions: false,
        extended_range_selectors: false,
        binop_fill_modifiers: false,
        delayed_name_removal: false,
    };

    /// The names that Prometheus uses. Duration expressions need no flag any more.
    pub const NAMES: [&'static str; 5] = [
        "promql-experimental-functions",
        "promql-extended-range-selectors",
        "promql-binop-fill-modifiers",
        "promql-delayed-name-removal",
        "promql-duration-expr",
    ];

    /// The names of those that are on.
    pub fn names(self) -> Vec<&'static str> {
        let on = [
            self.experimental_functions,
            self.extended_range_selectors,
            self.binop_fill_modifiers,
            self.delayed_name_removal,
        ];
        let named = Features::NAMES.into_iter().zip(on);
        named.filter(|(_, on)| *on).map(|(name, _)| name).collect()
    }

    /// The features that these names switch on.
    pub fn from_names<S: AsRef<str>>(names: &[S]) -> Result<Features, UnknownFeature> {
        let mut features = Features::NONE;
        for name in names {
            match name.as_ref() {
                "promql-experimental-functions" => features.experimental_functions = true,
                "promql-extended-range-selectors" => features.extended_range_selectors = true,
                "promql-binop-fill-modifiers" => features.binop_fill_modifiers = true,
                "promql-delayed-name-removal" => features.delayed_name_removal = true,
                "promql-duration-expr" => {}
                other => return Err(UnknownFeature(other.to_owned())),
            }
        }
        Ok(features)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parse::parse_with;

    #[test]
    fn every_name_is_known_and_they_add_up_to_everything() {
        assert_eq!(Features::from_names(&Features::NAMES), Ok(Features::ALL));
        assert_eq!(Features::from_names::<&str>(&[]), Ok(Features::NONE));
        let unknown = Features::from_names(&["exemplar-storage"]).unwrap_err();
        assert!(unknown.to_string().contains("promql-duration-expr"));
    }

    #[test]
    fn what_is_off_is_refused() {
        let cases = [
            (
                "limitk(2, m)",
                "limitk() is experimental and must be enabled with --enable-feature=promql-experimental-functions",
            ),
            ("info(m)", "function \"info\" is not enabled"),
            ("m smoothed", "smoothed modifier is experimental and not enabled"),
            (
                "m[5m] anchored",
                "anchored modifier is experimental and not enabled",
            ),
            ("m + fill(0) n", "fill modifiers are experimental and not enabled"),
        ];
        for (query, expected) in cases {
            assert!(parse_with(query, Features::ALL).is_ok(), "{query}");
            let error = parse_with(query, Features::NONE).unwrap_err();
            assert_eq!(error.message(), expected, "{query}");
        }
    }
}
