//! What the program is made of: CycloneDX, by cargo-cyclonedx.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::Job;
use crate::setup::{self, Tell};
use crate::step;

/// Writes the list into the tree, and returns its path.
pub(super) fn write(job: &Job<'_>, tree: &Path) -> Result<PathBuf> {
    let bin = setup::cargo_cyclonedx(job.project, Tell::Changes)?;
    let manifest = job.project.root.join("agent/Cargo.toml");
    // It writes beside the manifest and takes no folder.
    let name = format!("sbom-{}-{}", job.arch.name(), std::process::id());
    let made = job.project.root.join(format!("agent/{name}.json"));
    let mut cyclonedx = job.project.cargo();
    cyclonedx
        .env("PATH", {
            let mut path = bin.into_os_string();
            path.push(":");
            path.push(setup::path_variable()?);
            path
        })
        .env("SOURCE_DATE_EPOCH", job.epoch.to_string())
        .args(["cyclonedx", "--format", "json", "--spec-version", "1.5"])
        .args(["--no-build-deps", "--target", job.arch.triple()])
        .args(["--override-filename", &name, "--manifest-path"])
        .arg(manifest);
    step::capture(&mut cyclonedx)?;
    let into = tree.join("usr/share/doc/exeat/sbom.cdx.json");
    let text =
        fs::read_to_string(&made).with_context(|| format!("could not read {}", made.display()))?;
    // It writes one for each member of the workspace.
    for member in super::stage::list(&job.project.root)? {
        let _ = fs::remove_file(member.join(format!("{name}.json")));
    }
    let text = portable(&text, &job.project.root, &job.version)?;
    fs::write(&into, text).with_context(|| format!("could not write {}", into.display()))?;
    Ok(into)
}

/// Without the path of the builder's workspace, and with the package's version.
fn portable(text: &str, root: &Path, version: &str) -> Result<String> {
    let text = text.replace(&format!("{}/", root.display()), "");
    let mut sbom: serde_json::Value =
        serde_json::from_str(&text).context("cargo-cyclonedx wrote no JSON")?;
    if let Some(own) = sbom.pointer_mut("/metadata/component/version") {
        *own = version.into();
    }
    Ok(format!("{sbom:#}\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_no_folder_of_the_builder() {
        let text = r#"{"metadata":{"component":{"bom-ref":"path+file:///home/me/src/agent#0.1.0",
            "version":"0.1.0"}}}"#;
        let made = portable(text, Path::new("/home/me/src"), "0.2.0").expect("JSON");
        assert!(!made.contains("/home/me"), "{made}");
        assert!(made.contains("\"0.2.0\""), "{made}");
    }
}
