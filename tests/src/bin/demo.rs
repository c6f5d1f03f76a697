//! What `cargo xtask demo` runs, as root, with `EXEAT_BIN` naming the binary to show.

use std::process::ExitCode;

fn main() -> ExitCode {
    exeat_tests::demo::main()
}
