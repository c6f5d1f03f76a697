//! `cargo xtask package`: a .deb and an .rpm of each architecture, with what is said of them.
//!
//! Everything is laid out once as it will be installed (`stage`); cargo-deb and
//! cargo-generate-rpm are given that tree by a manifest of their own (`manifest`), so that both
//! packages hold the same.

mod elf;
mod licenses;
mod lint;
mod manifest;
mod provenance;
mod repository;
mod sbom;
mod stage;
mod trial;
mod yard;

pub(crate) use repository::Args as RepositoryArgs;
pub(crate) use repository::run as run_repository;
pub(crate) use trial::Args as TrialArgs;
pub(crate) use trial::run as run_trial;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, ensure};

use crate::build;
use crate::project::Project;
use crate::setup::{self, Tell};
use crate::step;
use crate::vm::{Arch, cross, host_arch};

/// Build .deb and .rpm packages with SBOM and provenance into target/package
#[derive(clap::Args)]
pub(crate) struct Args {
    /// For which machines [default: this one]
    #[arg(long, value_enum, value_name = "ARCH")]
    arch: Vec<Arch>,
    /// Package this program instead of a release build (it has to be of the one ARCH)
    #[arg(long, value_name = "FILE")]
    binary: Option<PathBuf>,
    /// The program that writes manual pages and completions, if not the packaged one
    #[arg(long, value_name = "FILE")]
    writer: Option<PathBuf>,
    /// Version of the packages, if not the workspace's (to try upgrades)
    #[arg(long)]
    package_version: Option<String>,
    /// Leave lintian and rpmlint out
    #[arg(long)]
    no_lint: bool,
}

/// Where packages are, and all that belongs to them.
pub(super) fn folder(project: &Project) -> PathBuf {
    project.target().join("package")
}

/// What a package is made of.
struct Job<'a> {
    project: &'a Project,
    arch: Arch,
    version: String,
    /// Seconds since 1970 that every file carries, so that the same sources make the same
    /// package.
    epoch: u64,
    /// Everything of this architecture but the packages themselves.
    work: PathBuf,
}

pub(crate) fn run(project: &Project, args: &Args) -> Result<()> {
    let started = Instant::now();
    let archs = match (args.arch.as_slice(), host_arch()) {
        ([], Some(host)) => vec![host],
        (named, _) => named.to_vec(),
    };
    ensure!(!archs.is_empty(), "name the machines with --arch");
    ensure!(
        args.binary.is_none() || archs.len() == 1,
        "--binary is of one architecture: name that one with --arch"
    );
    let version = match &args.package_version {
        Some(version) => version.clone(),
        None => manifest::workspace_version(project)?,
    };
    let epoch = provenance::epoch(project)?;
    let mut made = Vec::new();
    for &arch in &archs {
        step::heading(&format!("{arch}"));
        let work = folder(project).join(arch.name());
        // What an earlier version had and this one has not would be packaged too.
        let _ = fs::remove_dir_all(&work);
        fs::create_dir_all(&work).with_context(|| format!("could not make {}", work.display()))?;
        let job = Job {
            project,
            arch,
            version: version.clone(),
            epoch,
            work,
        };
        made.extend(package(&job, args)?);
    }
    if !args.no_lint {
        step::heading("lintian, rpmlint");
        let yard = yard::ensure(project)?;
        lint::all(project, &yard, &made)?;
    }
    println!();
    for file in &made {
        println!("{}", file.display());
    }
    println!("done ({})", step::seconds(started.elapsed()));
    Ok(())
}

fn package(job: &Job<'_>, args: &Args) -> Result<Vec<PathBuf>> {
    let project = job.project;
    let binary = match &args.binary {
        Some(binary) => binary.clone(),
        None => release(project, job.arch)?,
    };
    let writer = match &args.writer {
        Some(writer) => writer.clone(),
        None if host_arch() == Some(job.arch) => binary.clone(),
        None => build::binary(project)?,
    };
    let tree = stage::lay_out(job, &binary, &writer)?;
    let sbom = sbom::write(job, &tree)?;
    licenses::write(job, &tree)?;
    let manifest = manifest::write(job, &tree)?;
    let deb = deb(job, &manifest)?;
    let rpm = rpm(job, &manifest)?;
    let beside = folder(project).join(format!(
        "exeat-{}-{}.cdx.json",
        job.version,
        job.arch.name()
    ));
    fs::copy(&sbom, &beside).with_context(|| format!("could not write {}", beside.display()))?;
    step::done("SBOM", &beside.display().to_string());
    let statement = provenance::write(job, &[&deb, &rpm, &beside])?;
    step::done("provenance", &statement.display().to_string());
    Ok(vec![deb, rpm])
}

/// The optimised program for a machine.
fn release(project: &Project, arch: Arch) -> Result<PathBuf> {
    let tools = setup::bpf(project, Tell::Changes)?;
    build::object(project, &tools)?;
    if host_arch() == Some(arch) {
        return build::binary(project);
    }
    let mut cargo = project.cargo();
    cargo.args(["build", "--release", "--package", "exeat", "--target"]);
    cargo.arg(arch.triple());
    cross::prepare(project, &tools, arch, &mut cargo)?;
    step::loud(&mut cargo)?;
    let target = project.target().join(arch.debian());
    Ok(target.join(arch.triple()).join("release/exeat"))
}

fn deb(job: &Job<'_>, manifest: &Path) -> Result<PathBuf> {
    let bin = setup::cargo_deb(job.project, Tell::Changes)?;
    let name = format!("exeat_{}-1_{}.deb", job.version, job.arch.debian());
    let file = folder(job.project).join(name);
    let mut deb = Command::new(bin.join("cargo-deb"));
    deb.args(["--no-build", "--no-strip", "--manifest-path"]);
    deb.arg(manifest.join("Cargo.toml"));
    deb.args(["--target", job.arch.triple(), "--output"]);
    deb.arg(&file)
        .env("SOURCE_DATE_EPOCH", job.epoch.to_string());
    step::capture(&mut deb)?;
    step::done(".deb", &file.display().to_string());
    Ok(file)
}

fn rpm(job: &Job<'_>, manifest: &Path) -> Result<PathBuf> {
    let bin = setup::cargo_generate_rpm(job.project, Tell::Changes)?;
    let name = format!("exeat-{}-1.{}.rpm", job.version, job.arch.name());
    let file = folder(job.project).join(name);
    let mut rpm = Command::new(bin.join("cargo-generate-rpm"));
    rpm.current_dir(manifest);
    rpm.args(["--arch", job.arch.name(), "--auto-req", "disabled"]);
    // Readable since rpm 4.14; zstd asks for more.
    rpm.args(["--payload-compress", "gzip", "--output"]);
    rpm.arg(&file)
        .env("SOURCE_DATE_EPOCH", job.epoch.to_string());
    step::capture(&mut rpm)?;
    step::done(".rpm", &file.display().to_string());
    Ok(file)
}
