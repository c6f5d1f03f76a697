//! `cargo xtask bench`: builds what the benchmarks need, and starts them as root.

use std::ffi::OsString;
use std::process::Command;

use anyhow::Result;

use crate::build;
use crate::project::Project;
use crate::setup::{self, Tell};
use crate::step;

/// Measure Exeat beside nothing, empty BPF programs and nftables
#[derive(clap::Args)]
#[command(disable_help_flag = true)]
pub(crate) struct Args {
    /// What the benchmarks themselves take: `cargo xtask bench --help` shows it
    #[arg(
        trailing_var_arg = true,
        allow_hyphen_values = true,
        value_name = "ARGS"
    )]
    args: Vec<OsString>,
}

pub(crate) fn run(project: &Project, args: &Args) -> Result<()> {
    setup::packages(Tell::Changes)?;
    let tools = setup::bpf(project, Tell::Changes)?;
    build::object(project, &tools)?;
    // The launcher and the daemon are measured as they are delivered.
    let exeat = build::binary(project)?;
    let mut cargo = project.cargo();
    cargo.args(["build", "--release", "--package", "exeat-tests"]);
    cargo.args(["--bin", "bench", "--target-dir"]);
    step::loud(cargo.arg(project.target()))?;
    let program = project.target().join("release/bench");
    let path = setup::path_variable()?;
    let mut bench = if setup::is_root() {
        let mut bench = Command::new(&program);
        bench.env("PATH", &path).env("EXEAT_BIN", &exeat);
        bench
    } else {
        // sudo replaces PATH and drops the rest.
        let with = |name: &str, value: &OsString| {
            let mut word = OsString::from(name);
            word.push("=");
            word.push(value);
            word
        };
        let mut sudo = Command::new("sudo");
        sudo.arg("env")
            .arg(with("PATH", &path))
            .arg(with("EXEAT_BIN", &exeat.into_os_string()))
            .arg(&program);
        sudo
    };
    bench.current_dir(&project.root).args(&args.args);
    step::loud(&mut bench)
}
