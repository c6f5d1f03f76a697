//! `cargo xtask bench`: builds what the benchmarks need, and starts them as root.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};

use crate::build;
use crate::project::Project;
use crate::setup::apt::{self, Of, PrivateApt};
use crate::setup::{self, Tell, npm};
use crate::step;

/// A program that something is measured beside.
struct Peer {
    program: &'static str,
    /// The package that has it.
    package: &'static str,
}

/// What each benchmark is measured beside: forwarders for the gate, a proxy for the gateway,
/// a sandbox for the launcher (with what `srt` starts besides it).
const PEERS: [(&str, &[Peer]); 3] = [
    (
        "dns",
        &[
            Peer {
                program: "unbound",
                package: "unbound",
            },
            Peer {
                program: "dnsmasq",
                package: "dnsmasq-base",
            },
        ],
    ),
    (
        "tls",
        &[Peer {
            program: "squid",
            package: "squid",
        }],
    ),
    (
        "launch",
        &[
            Peer {
                program: "bwrap",
                package: "bubblewrap",
            },
            Peer {
                program: "socat",
                package: "socat",
            },
            Peer {
                program: "rg",
                package: "ripgrep",
            },
        ],
    ),
];

/// Measure Exeat beside nothing, empty BPF programs, nftables, DNS forwarders and a proxy
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
    let peers = peers(project, &args.args);
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
    if !peers.is_empty() {
        variables.push(("EXEAT_PEERS", env::join_paths(peers)?));
    }
    if asks_for("launch", &args.args) {
        let package = npm::SANDBOX_RUNTIME;
        match npm::bring(&package, &project.cache.join("bench").join(package.program)) {
            Ok(srt) => variables.push(("EXEAT_SRT", srt.into_os_string())),
            Err(why) => eprintln!("{} cannot be had: {why:#}", package.name),
        }
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

/// Folders with those peers that the machine does not have, for the benchmarks that are
/// asked for. Without them it measures beside what there is, and says what is absent.
fn peers(project: &Project, args: &[OsString]) -> Vec<PathBuf> {
    let folders = setup::search_path();
    let here = |program: &str| folders.iter().any(|at| at.join(program).is_file());
    let mut found = Vec::new();
    for peers in wanted(args) {
        let absent = peers.iter().filter(|peer| !here(peer.program));
        let packages: Vec<&str> = absent.map(|peer| peer.package).collect();
        if packages.is_empty() {
            continue;
        }
        match unpacked(project, &packages) {
            Ok(root) => found.push(root),
            Err(why) => eprintln!("{} cannot be had: {why:#}", packages.join(", ")),
        }
    }
    found
}

/// The peers of the benchmarks that these arguments name; of all where they name none.
fn wanted(args: &[OsString]) -> Vec<&'static [Peer]> {
    let asked = PEERS.iter().filter(|(name, _)| asks_for(name, args));
    asked.map(|(_, peers)| *peers).collect()
}

/// Whether these arguments name this benchmark, or none.
fn asks_for(name: &str, args: &[OsString]) -> bool {
    let words: Vec<_> = args
        .iter()
        .filter_map(|word| word.to_str())
        .filter(|word| !word.starts_with('-') && !["text", "json"].contains(word))
        .collect();
    words.is_empty() || words.contains(&name)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peers_are_brought_for_what_is_asked_for() {
        let brought = |words: &[&str]| -> Vec<&str> {
            let args: Vec<OsString> = words.iter().map(OsString::from).collect();
            let peers = wanted(&args).into_iter().flatten();
            peers.map(|peer| peer.program).collect()
        };
        assert_eq!(
            brought(&[]),
            ["unbound", "dnsmasq", "squid", "bwrap", "socat", "rg"]
        );
        assert_eq!(
            brought(&["--quick", "--output", "json"]),
            ["unbound", "dnsmasq", "squid", "bwrap", "socat", "rg"]
        );
        assert_eq!(brought(&["tls", "--quick"]), ["squid"]);
        assert_eq!(brought(&["udp", "dns"]), ["unbound", "dnsmasq"]);
        assert!(brought(&["udp"]).is_empty());
    }
}
