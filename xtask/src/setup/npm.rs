//! Programs that npm has. Its registry's sums are checked by npm itself; no script of a package
//! runs.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::step;

const LIMIT: Duration = Duration::from_secs(300);

/// A package of one version, and the program of it that is wanted.
pub(crate) struct Package {
    pub(crate) name: &'static str,
    pub(crate) version: &'static str,
    pub(crate) program: &'static str,
}

/// Anthropic's sandbox-runtime: what the launcher is measured beside.
pub(crate) const SANDBOX_RUNTIME: Package = Package {
    name: "@anthropic-ai/sandbox-runtime",
    version: "0.0.83",
    program: "srt",
};

/// An agent that people run: the last version of it that is JavaScript whole.
pub(crate) const CLAUDE_CODE: Package = Package {
    name: "@anthropic-ai/claude-code",
    version: "1.0.128",
    program: "claude",
};

/// The program below `folder`, which is filled the first time.
pub(crate) fn bring(package: &Package, folder: &Path) -> Result<PathBuf> {
    let program = folder.join("node_modules/.bin").join(package.program);
    if is_there(package, folder) {
        return Ok(program);
    }
    fs::create_dir_all(folder).with_context(|| format!("could not make {}", folder.display()))?;
    let what = format!("{}@{}", package.name, package.version);
    let mut npm = Command::new("npm");
    npm.args(["install", "--ignore-scripts", "--no-audit", "--no-fund"]);
    npm.args(["--loglevel", "error", "--prefix"]).arg(folder);
    step::quiet(&what, npm.arg(&what), LIMIT)?;
    ensure!(
        is_there(package, folder),
        "{what} has no program {}",
        package.program
    );
    Ok(program)
}

/// Whether this version is there.
pub(crate) fn is_there(package: &Package, folder: &Path) -> bool {
    let described = folder
        .join("node_modules")
        .join(package.name)
        .join("package.json");
    let described = fs::read(described).unwrap_or_default();
    let described: serde_json::Value = serde_json::from_slice(&described).unwrap_or_default();
    let program = folder.join("node_modules/.bin").join(package.program);
    described["version"] == package.version && program.exists()
}
