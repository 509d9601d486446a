//! Simulates the replicated core under faults, seed by seed.

#[cfg(feature = "mutants")]
compile_error!("`sim` contains no mutants; build `sim-mutant`");

use std::process::ExitCode;

fn main() -> ExitCode {
    quorate_sim::command::main()
}
