//! The `exeat` command.

fn main() -> std::process::ExitCode {
    exeat::cli::main()
}
