//! lintian and rpmlint: nothing that either of them has to say is let pass, but for what
//! `dist/package/lintian.txt` and `dist/package/rpmlint.toml` name with a reason.

use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};

use super::yard::Yard;
use crate::project::Project;
use crate::step;

pub(super) fn all(project: &Project, yard: &Yard, packages: &[PathBuf]) -> Result<()> {
    let of = project.root.join("dist/package");
    yard.bring(&[of.join("lintian.txt"), of.join("rpmlint.toml")], "/check")?;
    for package in packages {
        let name = package.file_name().and_then(|name| name.to_str());
        let name = name.context("a package without a name")?;
        yard.bring(std::slice::from_ref(package), "/check")?;
        let inside = format!("/check/{name}");
        let outcome = if name.ends_with(".deb") {
            lintian(yard, &inside)
        } else {
            rpmlint(yard, &inside)
        };
        yard.says(&["rm", &inside])?;
        outcome.with_context(|| name.to_owned())?;
        step::done(name, "clean");
    }
    Ok(())
}

fn lintian(yard: &Yard, package: &str) -> Result<()> {
    let said = yard.says(&[
        "lintian",
        "--allow-root",
        "--fail-on=none",
        "--suppress-tags-from-file=/check/lintian.txt",
        "--pedantic",
        package,
    ])?;
    let bad: Vec<&str> = said
        .lines()
        .filter(|line| !line.trim().is_empty() && !line.starts_with("N:"))
        .collect();
    ensure!(bad.is_empty(), "lintian says:\n{}", bad.join("\n"));
    Ok(())
}

fn rpmlint(yard: &Yard, package: &str) -> Result<()> {
    // It fails where there is an error, so that its words have to be asked for.
    let said = yard.script(&format!(
        "rpmlint --config /check/rpmlint.toml {package} 2>&1 || true"
    ))?;
    if !said.contains(" 0 errors, 0 warnings") {
        bail!("rpmlint says:\n{said}");
    }
    Ok(())
}
