//! `cargo xtask docs`: everything that is written by the code itself.

use std::fs;
use std::process::Command;

use anyhow::{Context, Result};

use crate::build;
use crate::project::Project;
use crate::setup::{self, Tell};
use crate::step;

/// Write man pages into target/man, and the generated files in docs and agent/schema anew
#[derive(clap::Args)]
pub(crate) struct Args {}

pub(crate) fn run(project: &Project, _: &Args) -> Result<()> {
    let tools = setup::bpf(project, Tell::Changes)?;
    build::object(project, &tools)?;
    let exeat = build::binary(project)?;

    let man = project.target().join("man");
    step::capture(Command::new(&exeat).arg("man").arg(&man))?;
    step::done("man pages", &man.display().to_string());

    let schema = project.root.join("agent/schema/policy.schema.json");
    let text = step::capture(Command::new(&exeat).arg("schema"))?;
    fs::write(&schema, text).with_context(|| format!("could not write {}", schema.display()))?;
    step::done("schema", &schema.display().to_string());

    // The reference is made by the test that keeps it true: the product has no use for it.
    let mut cargo = project.cargo();
    cargo.args(["test", "--quiet", "--package", "exeat", "--lib"]);
    cargo.args(["the_reference_in_docs_is_this_one"]);
    step::loud(cargo.env("EXEAT_WRITE_DOCS", "1"))?;
    let metrics = project.root.join("docs/metrics.md");
    step::done("metrics reference", &metrics.display().to_string());
    Ok(())
}
