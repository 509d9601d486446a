//! `sim` with the deliberate defects of raft-log and storage built in; `QUORATE_MUTANT` names the one to run.

use std::process::ExitCode;

fn main() -> ExitCode {
    quorate_sim::command::main()
}
