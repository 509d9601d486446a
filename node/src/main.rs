//! The `quorate` binary.

#[cfg(feature = "mutants")]
compile_error!("`quorate` never contains planted bugs: build `--bin quorate-mutant` with this feature");

fn main() -> std::process::ExitCode {
    quorate_node::command_line::run()
}
