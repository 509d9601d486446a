//! `quorate` with planted bugs and crash points, for tests that have to notice them (`docs/MUTANTS.md`).

fn main() -> std::process::ExitCode {
    quorate_node::check_faults();
    quorate_node::command_line::run()
}
