//! `cargo xtask setup`: gets what the build and the tests need, and nothing a
//! second time.

pub(crate) mod apt;
mod clients;
mod debian;
pub(crate) mod npm;
mod packages;
mod rust_src;
mod tools;

pub(crate) use debian::{codename, mirror_of};
pub(crate) use packages::{is_root, path_variable, search_path};
pub(crate) use rust_src::sha256;

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Result, bail};

use crate::project::Project;
use crate::step;

/// Get what the build and the tests need: rust-src, bpf-linker, cargo-deny, system packages
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Only say what is there and what is missing; exit 1 if something is
    #[arg(long)]
    check: bool,
    /// Fetch rust-src anew from this place into the cache, even if it is there
    #[arg(long, value_name = "PLACE", conflicts_with = "check")]
    rust_src_from: Option<rust_src::Place>,
}

/// What the BPF build needs.
pub(crate) struct BpfTools {
    /// The folder that holds bpf-linker.
    pub(crate) bin: PathBuf,
    /// The standard library's sources, where cargo does not find them by itself.
    pub(crate) library: Option<PathBuf>,
}

/// How much set-up tells about things that are already there.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tell {
    /// For `setup` itself: one line each.
    All,
    /// For a build: only what had to be done.
    Changes,
}

pub(crate) fn run(project: &Project, args: &Args) -> Result<()> {
    if args.check {
        return check(project);
    }
    let started = Instant::now();
    println!("set-up into {}", project.cache.display());
    if let Some(place) = args.rust_src_from {
        rust_src::fetch_from(project, place)?;
    }
    everything(project, Tell::All)?;
    println!("set-up is complete ({})", step::seconds(started.elapsed()));
    Ok(())
}

fn everything(project: &Project, tell: Tell) -> Result<()> {
    // First what fails fastest: a missing package may need the reader's hand.
    packages(tell)?;
    vm_packages(tell)?;
    clients(project, tell);
    bpf(project, tell)?;
    cargo_deny(project, tell)?;
    Ok(())
}

/// The programs that live-kernel tests, demo and bench run.
pub(crate) fn packages(tell: Tell) -> Result<()> {
    packages::ensure(&packages::TESTS, tell)
}

/// The clients that live tests run, as far as they can be had.
pub(crate) fn clients(project: &Project, tell: Tell) {
    clients::ensure(project, tell);
}

/// The programs that make the disks of `cargo xtask vm-test`.
pub(crate) fn vm_packages(tell: Tell) -> Result<()> {
    packages::ensure(&packages::VM, tell)
}

/// The compiler for programs of aarch64 guests.
pub(crate) fn cross_packages(tell: Tell) -> Result<()> {
    packages::ensure(&packages::CROSS_AARCH64, tell)
}

/// Returns the folder that holds cargo-deny.
pub(crate) fn cargo_deny(project: &Project, tell: Tell) -> Result<PathBuf> {
    tools::ensure(project, &tools::CARGO_DENY, tell)
}

/// Returns the folder that holds cargo-deb.
pub(crate) fn cargo_deb(project: &Project, tell: Tell) -> Result<PathBuf> {
    tools::ensure(project, &tools::CARGO_DEB, tell)
}

/// Returns the folder that holds cargo-generate-rpm.
pub(crate) fn cargo_generate_rpm(project: &Project, tell: Tell) -> Result<PathBuf> {
    tools::ensure(project, &tools::CARGO_GENERATE_RPM, tell)
}

/// Returns the folder that holds cargo-cyclonedx.
pub(crate) fn cargo_cyclonedx(project: &Project, tell: Tell) -> Result<PathBuf> {
    tools::ensure(project, &tools::CARGO_CYCLONEDX, tell)
}

/// What `cargo xtask build` needs.
pub(crate) fn bpf(project: &Project, tell: Tell) -> Result<BpfTools> {
    let library = rust_src::ensure(project, tell)?;
    let bin = tools::ensure(project, &tools::BPF_LINKER, tell)?;
    Ok(BpfTools { bin, library })
}

fn check(project: &Project) -> Result<()> {
    let mut missing = 0;
    let mut line = |what: &str, found: Result<String>| match found {
        Ok(found) => step::done(what, &found),
        Err(why) => {
            missing += 1;
            step::done(what, &format!("MISSING, {why:#}"));
        }
    };
    line("rust-src", rust_src::find(project).map(|at| at.to_string()));
    for tool in [&tools::BPF_LINKER, &tools::CARGO_DENY] {
        line(tool.name, tools::find(project, tool));
    }
    line("system packages", packages::check(&packages::TESTS));
    line("packages of vm-test", packages::check(&packages::VM));
    line("clients", clients::check(project));
    if missing > 0 {
        bail!("{missing} of 6 are missing: run `cargo xtask setup`");
    }
    Ok(())
}
