//! Everything as it will be installed, in a folder.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::Job;
use crate::step;
use crate::vm::cross;

/// A folder (or file) of the sources, and where it goes. Folders with everything below them.
const COPIED: [(&str, &str); 16] = [
    ("dist/systemd/system", "usr/lib/systemd/system"),
    (
        "dist/systemd/system-generators",
        "usr/lib/systemd/system-generators",
    ),
    (
        "dist/systemd/system-preset",
        "usr/lib/systemd/system-preset",
    ),
    ("dist/systemd/user", "usr/lib/systemd/user"),
    ("dist/sysusers.d", "usr/lib/sysusers.d"),
    ("dist/tmpfiles.d", "usr/lib/tmpfiles.d"),
    ("dist/polkit", "usr/share/polkit-1/actions"),
    ("dist/apparmor", "usr/share/exeat/apparmor"),
    ("dist/mdm", "usr/share/exeat/mdm"),
    (
        "dist/exeat-notify.desktop",
        "etc/xdg/autostart/exeat-notify.desktop",
    ),
    ("dist/config.yaml", "etc/exeat/config.yaml"),
    ("dist/package/setup", "usr/lib/exeat/setup"),
    ("dist/package/copyright", "usr/share/doc/exeat/copyright"),
    ("policies", "usr/share/exeat/policies"),
    ("policies/detect", "usr/share/exeat/detect"),
    ("dashboards", "usr/share/exeat/dashboards"),
];

/// Rooms of the sources that other rooms of the project may not have made yet.
const OPTIONAL: [&str; 2] = ["dist/systemd/system-generators", "dist/mdm"];

/// Pages for people, beside the manual.
const PAGES: [&str; 3] = ["docs", "README.md", "SECURITY.md"];

/// Lays everything out and returns the folder.
pub(super) fn lay_out(job: &Job<'_>, binary: &Path, writer: &Path) -> Result<PathBuf> {
    let root = &job.project.root;
    let tree = job.work.join("tree");
    let program = tree.join("usr/bin/exeat");
    make(program.parent().unwrap_or(&tree))?;
    let mut strip = cross::strip(job.arch);
    strip.arg("--strip-all").arg("-o").arg(&program).arg(binary);
    step::capture(&mut strip)?;

    for (from, to) in COPIED {
        let source = root.join(from);
        if OPTIONAL.contains(&from) && !source.exists() {
            continue;
        }
        copy(&source, &tree.join(to))?;
    }
    // Detection rules are no policies.
    remove(&tree.join("usr/share/exeat/policies/detect"))?;
    for page in PAGES {
        let source = root.join(page);
        let doc = tree.join("usr/share/doc/exeat");
        if source.is_dir() {
            copy(&source, &doc)?;
        } else {
            copy(&source, &doc.join(page))?;
        }
    }
    manual(job, &tree, writer)?;
    completions(&tree, writer)?;
    changelog(job, &tree)?;
    modes(&tree, &tree)?;
    Ok(tree)
}

fn manual(job: &Job<'_>, tree: &Path, writer: &Path) -> Result<()> {
    let pages = job.work.join("man");
    step::capture(Command::new(writer).arg("man").arg(&pages))?;
    let into = tree.join("usr/share/man/man1");
    make(&into)?;
    for page in list(&pages)? {
        let name = page.file_name().unwrap_or_default().to_string_lossy();
        gzip(&page, &into.join(format!("{name}.gz")))?;
    }
    Ok(())
}

fn completions(tree: &Path, writer: &Path) -> Result<()> {
    for (shell, place) in [
        ("bash", "usr/share/bash-completion/completions/exeat"),
        ("zsh", "usr/share/zsh/vendor-completions/_exeat"),
        ("fish", "usr/share/fish/vendor_completions.d/exeat.fish"),
    ] {
        let text = step::capture(Command::new(writer).args(["completions", shell]))?;
        let path = tree.join(place);
        make(path.parent().unwrap_or(tree))?;
        fs::write(&path, text).with_context(|| format!("could not write {}", path.display()))?;
    }
    Ok(())
}

/// Debian's form, which says of which package version it is; the project's own changelog is
/// beside it.
fn changelog(job: &Job<'_>, tree: &Path) -> Result<()> {
    let doc = tree.join("usr/share/doc/exeat");
    let mut date = Command::new("date");
    date.args(["--utc", "-R", "-d", &format!("@{}", job.epoch)]);
    let date = step::capture(date.env("LC_ALL", "C"))?;
    let plain = job.work.join("changelog.Debian");
    let text = format!(
        "exeat ({}-1) unstable; urgency=medium\n\n  * See changelog.gz.\n\n -- Exeat \
         <packages@example.invalid>  {}\n",
        job.version,
        date.trim()
    );
    fs::write(&plain, text).with_context(|| format!("could not write {}", plain.display()))?;
    gzip(&plain, &doc.join("changelog.Debian.gz"))?;
    gzip(
        &job.project.root.join("CHANGELOG.md"),
        &doc.join("changelog.gz"),
    )
}

/// Without name and time, so that the same text makes the same file.
pub(super) fn gzip(from: &Path, to: &Path) -> Result<()> {
    let mut gzip = Command::new("gzip");
    let output = gzip
        .args(["-9", "-n", "-c"])
        .arg(from)
        .output()
        .context("could not start gzip")?;
    anyhow::ensure!(output.status.success(), "gzip failed on {}", from.display());
    fs::write(to, output.stdout).with_context(|| format!("could not write {}", to.display()))
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    if from.is_dir() {
        for entry in list(from)? {
            copy(&entry, &to.join(entry.file_name().unwrap_or_default()))?;
        }
        return Ok(());
    }
    make(to.parent().unwrap_or(to))?;
    fs::copy(from, to)
        .map(drop)
        .with_context(|| format!("could not copy {} to {}", from.display(), to.display()))
}

/// What is run is 0755, all else 0644, whatever the umask of who builds it.
fn modes(tree: &Path, folder: &Path) -> Result<()> {
    for path in list(folder)? {
        if path.is_dir() {
            modes(tree, &path)?;
            continue;
        }
        let place = path.strip_prefix(tree).unwrap_or(&path);
        let mode = if runs(place) { 0o755 } else { 0o644 };
        fs::set_permissions(&path, fs::Permissions::from_mode(mode))
            .with_context(|| format!("could not set the mode of {}", path.display()))?;
    }
    Ok(())
}

fn runs(place: &Path) -> bool {
    [
        "usr/bin",
        "usr/lib/exeat",
        "usr/lib/systemd/system-generators",
    ]
    .iter()
    .any(|folder| place.starts_with(folder))
        || (place.starts_with("usr/share/exeat/mdm")
            && place.extension().is_some_and(|end| end == "sh"))
}

/// In the order of the names.
pub(super) fn list(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found: Vec<PathBuf> = fs::read_dir(folder)
        .with_context(|| format!("could not list {}", folder.display()))?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .collect();
    found.sort();
    Ok(found)
}

fn make(folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("could not make {}", folder.display()))
}

fn remove(folder: &Path) -> Result<()> {
    fs::remove_dir_all(folder).with_context(|| format!("could not remove {}", folder.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_runs_may_be_run() {
        for place in [
            "usr/bin/exeat",
            "usr/lib/exeat/setup",
            "usr/lib/systemd/system-generators/exeat-generator",
            "usr/share/exeat/mdm/intune/check.sh",
        ] {
            assert!(runs(Path::new(place)), "{place}");
        }
        for place in [
            "usr/lib/systemd/system/exeat.service",
            "etc/exeat/config.yaml",
        ] {
            assert!(!runs(Path::new(place)), "{place}");
        }
    }

    #[test]
    fn every_source_is_there() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        for (from, _) in COPIED {
            assert!(
                OPTIONAL.contains(&from) || root.join(from).exists(),
                "{from}"
            );
        }
    }

    /// A policy in this folder is in force: a bare installation governs nobody.
    #[test]
    fn no_policy_is_laid_where_it_holds() {
        for (_, to) in COPIED {
            assert!(!to.starts_with("etc/exeat/policy.d"), "{to}");
        }
    }
}
