//! Of which sources, by what, a package was made: an in-toto statement with the predicate of
//! SLSA provenance 1. It is as good as the signature on it (`cargo xtask repository` signs it).

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::{Job, folder};
use crate::project::Project;
use crate::setup::sha256;
use crate::step;

/// The time of the sources: $SOURCE_DATE_EPOCH, else that of the commit.
pub(super) fn epoch(project: &Project) -> Result<u64> {
    let said = match std::env::var("SOURCE_DATE_EPOCH") {
        Ok(said) => said,
        Err(_) => git(project, &["log", "-1", "--format=%ct"])?,
    };
    said.trim()
        .parse()
        .with_context(|| format!("{said:?} is no time in seconds"))
}

/// Writes the statement on some files beside them.
pub(super) fn write(job: &Job<'_>, files: &[&Path]) -> Result<PathBuf> {
    let project = job.project;
    let subjects = files
        .iter()
        .map(|file| {
            let name = file.file_name().unwrap_or_default().to_string_lossy();
            Ok(json!({ "name": name, "digest": { "sha256": sha256(file)? } }))
        })
        .collect::<Result<Vec<Value>>>()?;
    let revision = git(project, &["rev-parse", "HEAD"])?;
    let changed = !git(project, &["status", "--porcelain"])?.trim().is_empty();
    let lock = sha256(&project.root.join("Cargo.lock"))?;
    let statement = json!({
        "_type": "https://in-toto.io/Statement/v1",
        "subject": subjects,
        "predicateType": "https://slsa.dev/provenance/v1",
        "predicate": {
            "buildDefinition": {
                "buildType": "https://example.invalid/exeat/xtask-package/v1",
                "externalParameters": {
                    "architecture": job.arch.name(),
                    "version": job.version,
                },
                "internalParameters": { "sourceDateEpoch": job.epoch },
                "resolvedDependencies": [
                    {
                        "uri": "git+https://example.invalid/exeat",
                        "digest": { "gitCommit": revision.trim() },
                        // What is not in the commit cannot be built again.
                        "annotations": { "changedFiles": changed },
                    },
                    { "uri": "Cargo.lock", "digest": { "sha256": lock } },
                    {
                        "uri": "pkg:generic/rustc",
                        "annotations": { "version": project.compiler.version },
                    },
                ],
            },
            "runDetails": {
                "builder": { "id": "https://example.invalid/exeat/xtask" },
                "metadata": {},
            },
        },
    });
    let name = format!("exeat-{}-{}.intoto.json", job.version, job.arch.name());
    let path = folder(project).join(name);
    fs::write(&path, format!("{statement:#}\n"))
        .with_context(|| format!("could not write {}", path.display()))?;
    Ok(path)
}

fn git(project: &Project, arguments: &[&str]) -> Result<String> {
    let mut git = Command::new("git");
    git.current_dir(&project.root).args(arguments);
    step::capture(&mut git).context(
        "a package says of which commit it is; outside of git set SOURCE_DATE_EPOCH and build \
         from a checkout",
    )
}
