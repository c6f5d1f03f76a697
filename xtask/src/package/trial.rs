//! `cargo xtask package-test`: installs from the repositories, in roots of their own.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};

use super::yard::{self, Yard};
use super::{folder, repository};
use crate::project::Project;
use crate::step;

/// Install, upgrade, downgrade, break, remove and purge the packages of target/package, from
/// signed repositories, in private roots of Debian
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Only this root: bookworm, trixie or dnf
    #[arg(long, value_name = "ROOT")]
    only: Option<String>,
}

pub(crate) fn run(project: &Project, args: &Args) -> Result<()> {
    let wanted = |name: &str| args.only.as_deref().is_none_or(|only| only == name);
    step::heading("repositories");
    let made = folder(project).join("trial");
    let made = repository::make(project, &made, None)?;
    step::done("apt and dnf", "made and signed");
    for suite in ["bookworm", "trixie"] {
        if wanted(suite) {
            step::heading(&format!("apt on {suite}"));
            within(
                project,
                suite,
                |at| yard::fresh(project, suite, at),
                &made,
                APT,
            )?;
        }
    }
    if wanted("dnf") {
        step::heading("dnf");
        let from = || yard::ensure(project);
        within(project, "dnf", |at| yard::copy_of(&from()?, at), &made, DNF)?;
    }
    Ok(())
}

fn within(
    project: &Project,
    name: &str,
    root: impl FnOnce(&std::path::Path) -> Result<Yard>,
    repositories: &std::path::Path,
    script: &str,
) -> Result<()> {
    let at: PathBuf = project
        .cache
        .join(format!("package/trial-{name}-{}", std::process::id()));
    let file = folder(project).join("trial.sh");
    fs::write(&file, format!("{COMMON}\n{script}"))
        .with_context(|| format!("could not write {}", file.display()))?;
    let room = root(&at)?;
    let outcome = room
        .bring(&[repositories.to_path_buf(), file.clone()], "/srv")
        .and_then(|()| {
            let words = ["sh", "-e", "/srv/trial.sh"];
            step::watched(&mut room.command(words)?, |_| {})
        });
    let _ = fs::remove_file(&file);
    yard::remove(&at)?;
    outcome.with_context(|| format!("the packages do not behave in the root {name}"))
}

const COMMON: &str = include_str!("trial/common.sh");
const APT: &str = include_str!("trial/apt.sh");
const DNF: &str = include_str!("trial/dnf.sh");
