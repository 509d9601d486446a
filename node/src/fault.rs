//! Planted bugs and crash points, for tests that have to notice them (`docs/MUTANTS.md`). Without the
//! feature `mutants` both macros are nothing: no bug, no crash, and no name of one is in the program.

/// Whether the planted bug of this name is switched on.
#[cfg(not(feature = "mutants"))]
macro_rules! mutant {
    ($name:literal) => {
        false
    };
}

/// Ends the process here if this crash point is armed, after `$last` if there is one.
#[cfg(not(feature = "mutants"))]
macro_rules! crash_point {
    ($name:literal $(, $last:expr)?) => {};
}

#[cfg(feature = "mutants")]
macro_rules! mutant {
    ($name:literal) => {{
        const { assert!($crate::fault::lists($crate::fault::MUTANTS, $name)) };
        static REACHED: std::sync::Once = std::sync::Once::new();
        $crate::fault::is_on($name, &REACHED)
    }};
}

#[cfg(feature = "mutants")]
macro_rules! crash_point {
    ($name:literal $(, $last:expr)?) => {{
        const { assert!($crate::fault::lists($crate::fault::CRASH_POINTS, $name)) };
        static PASSED: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
        if $crate::fault::is_due($name, &PASSED) {
            $(let _ = $last;)?
            $crate::fault::crash($name);
        }
    }};
}

#[cfg(feature = "mutants")]
pub use switched::check;
#[cfg(feature = "mutants")]
pub(crate) use switched::{CRASH_POINTS, MUTANTS, crash, is_due, is_on, lists};

#[cfg(feature = "mutants")]
mod switched {
    use std::path::Path;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::sync::{Once, OnceLock};

    /// The bugs planted in this crate.
    pub(crate) const MUTANTS: &[&str] = &[
        "ack_before_quorum",
        "drop_400_for_retryable",
        "partial_acked_whole",
        "reply_before_apply",
        "wiped_keeps_id",
    ];

    /// Where this crate can be told to crash.
    pub(crate) const CRASH_POINTS: &[&str] = &["flush_after_meta", "merge_before_meta", "purge_before"];

    /// Whether `name` is in `names`, at compile time.
    pub(crate) const fn lists(names: &[&str], name: &str) -> bool {
        let mut at = 0;
        while at < names.len() {
            if same(names[at].as_bytes(), name.as_bytes()) {
                return true;
            }
            at += 1;
        }
        false
    }

    const fn same(left: &[u8], right: &[u8]) -> bool {
        if left.len() != right.len() {
            return false;
        }
        let mut at = 0;
        while at < left.len() {
            if left[at] != right[at] {
                return false;
            }
            at += 1;
        }
        true
    }

    /// Whether `QUORATE_MUTANT` is `name`. Says so once for each place, which shows that it was reached.
    pub(crate) fn is_on(name: &str, reached: &Once) -> bool {
        static ON: OnceLock<String> = OnceLock::new();
        let on = ON.get_or_init(|| std::env::var("QUORATE_MUTANT").unwrap_or_default()) == name;
        if on {
            reached.call_once(|| eprintln!("mutant {name} reached"));
        }
        on
    }

    /// Whether the process is to crash at the point `name`, which it has `passed` so often: because
    /// `QUORATE_CRASH_AT` is `name` or `name:nth`, or because the file that `QUORATE_CRASH_FILE` names holds
    /// `name`. Whoever takes the file away crashes, so of several processes one does, and only once.
    pub(crate) fn is_due(name: &str, passed: &AtomicU64) -> bool {
        static AT: OnceLock<(String, u64)> = OnceLock::new();
        static FILE: OnceLock<Option<String>> = OnceLock::new();
        let (at, nth) = AT.get_or_init(|| {
            let text = std::env::var("QUORATE_CRASH_AT").unwrap_or_default();
            match text.split_once(':') {
                Some((name, nth)) => (name.to_owned(), nth.parse().unwrap_or(1)),
                None => (text, 1),
            }
        });
        if at == name && passed.fetch_add(1, Ordering::Relaxed) + 1 == *nth {
            return true;
        }
        let file = FILE.get_or_init(|| std::env::var("QUORATE_CRASH_FILE").ok());
        let Some(file) = file.as_ref().map(Path::new) else {
            return false;
        };
        let armed = std::fs::read_to_string(file).is_ok_and(|text| text.trim() == name);
        armed && std::fs::remove_file(file).is_ok()
    }

    /// Ends the process as a crash would: nothing is written, closed or told to anyone.
    pub(crate) fn crash(name: &str) -> ! {
        eprintln!("crash point {name} reached");
        std::process::abort()
    }

    /// Ends the process when it was asked for a mutant or a crash point that there is not.
    pub fn check() {
        let mutants = [MUTANTS, quorate_raft_log::MUTANTS, quorate_storage::MUTANTS];
        let points = [
            CRASH_POINTS,
            quorate_raft_log::CRASH_POINTS,
            quorate_storage::CRASH_POINTS,
        ];
        for (variable, known) in [("QUORATE_MUTANT", mutants), ("QUORATE_CRASH_AT", points)] {
            let asked = std::env::var(variable).unwrap_or_default();
            let name = asked.split(':').next().unwrap_or_default();
            if !name.is_empty() && !known.concat().contains(&name) {
                eprintln!("{variable}={asked}: there are only {}", known.concat().join(", "));
                std::process::exit(2);
            }
        }
    }
}
