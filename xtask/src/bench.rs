//! `cargo xtask bench`: builds what the benchmarks need, and starts them as root.

use std::ffi::OsString;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};

use crate::build;
use crate::project::Project;
use crate::setup::apt::{self, Of, PrivateApt};
use crate::setup::{self, Tell};
use crate::step;

/// The forwarders that the gate is measured beside, and the packages that have them.
const PEERS: [(&str, &str); 2] = [("unbound", "unbound"), ("dnsmasq", "dnsmasq-base")];

/// Measure Exeat beside nothing, empty BPF programs, nftables and plain DNS forwarders
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
    let mut variables = vec![
        ("PATH", setup::path_variable()?),
        ("EXEAT_BIN", exeat.into_os_string()),
    ];
    if let Some(peers) = peers(project, &args.args) {
        variables.push(("EXEAT_PEERS", peers.into_os_string()));
    }
    let mut bench = if setup::is_root() {
        let mut bench = Command::new(&program);
        bench.envs(variables);
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
        sudo.arg("env");
        sudo.args(variables.iter().map(|(name, value)| with(name, value)));
        sudo.arg(&program);
        sudo
    };
    bench.current_dir(&project.root).args(&args.args);
    step::loud(&mut bench)
}

/// A folder with those forwarders that the machine does not have, where the benchmark wants
/// them. Without them it measures beside what there is, and says what is absent.
fn peers(project: &Project, args: &[OsString]) -> Option<PathBuf> {
    let words: Vec<_> = args
        .iter()
        .filter_map(|word| word.to_str())
        .filter(|word| !word.starts_with('-') && !["text", "json"].contains(word))
        .collect();
    if !words.is_empty() && !words.contains(&"dns") {
        return None;
    }
    let folders = setup::search_path();
    let absent = PEERS
        .iter()
        .filter(|(program, _)| !folders.iter().any(|at| at.join(program).is_file()));
    let packages: Vec<&str> = absent.map(|(_, package)| *package).collect();
    if packages.is_empty() {
        return None;
    }
    match unpacked(project, &packages) {
        Ok(root) => Some(root),
        Err(why) => {
            eprintln!("{} cannot be had: {why:#}", packages.join(", "));
            None
        }
    }
}

/// Packages of this Debian, unpacked into the cache: the machine's own stay as they are.
fn unpacked(project: &Project, packages: &[&str]) -> Result<PathBuf> {
    let suite = setup::codename().context("this is no Debian: install them")?;
    let root = project
        .cache
        .join(format!("bench/{suite}-{}", packages.join("-")));
    if root.is_dir() {
        return Ok(root);
    }
    let mirror = setup::mirror_of(&suite);
    let folder = project.cache.join("bench/apt");
    let of = Of {
        mirror: &mirror,
        suite: &suite,
        architecture: None,
        // They run with the libraries of this machine, and those that it does not have.
        bare: false,
    };
    let apt = PrivateApt::new(&folder, &of)?;
    apt.update()
        .with_context(|| format!("{mirror} {suite} cannot be read: is the mirror reachable?"))?;
    let debs = apt.closure(packages)?;
    apt::unpack(&debs, &root)?;
    let _ = fs::remove_dir_all(&folder);
    let what = format!("{} packages unpacked into {}", debs.len(), root.display());
    step::done(&packages.join(", "), &what);
    Ok(root)
}
