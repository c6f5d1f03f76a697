//! The manifest that cargo-deb and cargo-generate-rpm read.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use toml::{Table, Value};

use super::{Job, elf, stage};
use crate::project::Project;

/// The version of the workspace.
pub(super) fn workspace_version(project: &Project) -> Result<String> {
    let table = read(&project.root.join("Cargo.toml"))?;
    let version = table
        .get("workspace")
        .and_then(|table| table.get("package")?.get("version")?.as_str());
    Ok(version
        .context("Cargo.toml has no workspace.package.version")?
        .to_owned())
}

/// Writes the manifest for a tree, and returns its folder.
pub(super) fn write(job: &Job<'_>, tree: &Path) -> Result<PathBuf> {
    let root = &job.project.root;
    let scripts = root.join("dist/package");
    let mut table = read(&scripts.join("Cargo.toml"))?;
    let (major, minor) = elf::glibc(&tree.join("usr/bin/exeat"))?;
    let mut files = Vec::new();
    walk(tree, tree, &mut files)?;

    let package = of(&mut table, &["package"])?;
    package.insert("version".into(), job.version.clone().into());
    let deb = of(&mut table, &["package", "metadata", "deb"])?;
    let depends = format!("libc6 (>= {major}.{minor}), libgcc-s1");
    deb.insert("depends".into(), depends.into());
    deb.insert(
        "maintainer-scripts".into(),
        shown(&scripts.join("debian")).into(),
    );
    let assets = files.iter().map(|file| {
        let mode = format!("{:o}", file.mode);
        Value::Array(vec![
            shown(&file.from).into(),
            file.to.clone().into(),
            mode.into(),
        ])
    });
    deb.insert("assets".into(), Value::Array(assets.collect()));

    let rpm = of(&mut table, &["package", "metadata", "generate-rpm"])?;
    for (key, name) in [
        ("post_install_script", "post.sh"),
        ("pre_uninstall_script", "preun.sh"),
        ("post_uninstall_script", "postun.sh"),
    ] {
        rpm.insert(key.into(), shown(&scripts.join("rpm").join(name)).into());
    }
    let mut requires = Table::new();
    requires.insert("glibc".into(), format!(">= {major}.{minor}").into());
    for name in ["libgcc", "shadow-utils", "systemd"] {
        requires.insert(name.into(), "*".into());
    }
    rpm.insert("requires".into(), Value::Table(requires));
    let assets = files.iter().filter_map(File::of_rpm);
    rpm.insert("assets".into(), Value::Array(assets.collect()));

    let folder = job.work.join("manifest");
    fs::create_dir_all(&folder)
        .and_then(|()| fs::write(folder.join("lib.rs"), ""))
        .and_then(|()| fs::write(folder.join("Cargo.toml"), table.to_string()))
        .with_context(|| format!("could not write {}", folder.display()))?;
    Ok(folder)
}

/// A file of the tree.
struct File {
    from: PathBuf,
    /// Without the first slash.
    to: String,
    mode: u32,
}

impl File {
    fn of_rpm(&self) -> Option<Value> {
        // Debian's own.
        if self.to.ends_with("/changelog.Debian.gz") {
            return None;
        }
        let mut asset = Table::new();
        asset.insert("source".into(), shown(&self.from).into());
        let to = self
            .to
            .replacen("zsh/vendor-completions", "zsh/site-functions", 1);
        asset.insert("dest".into(), format!("/{to}").into());
        asset.insert("mode".into(), format!("{:o}", self.mode).into());
        if to.starts_with("etc/") {
            asset.insert("config".into(), "noreplace".into());
        }
        if to.starts_with("usr/share/doc/") || to.starts_with("usr/share/man/") {
            asset.insert("doc".into(), true.into());
        }
        Some(Value::Table(asset))
    }
}

fn walk(tree: &Path, folder: &Path, files: &mut Vec<File>) -> Result<()> {
    for from in stage::list(folder)? {
        if from.is_dir() {
            walk(tree, &from, files)?;
            continue;
        }
        let mode = fs::metadata(&from)
            .with_context(|| format!("could not look at {}", from.display()))?
            .permissions()
            .mode();
        let to = from.strip_prefix(tree).unwrap_or(&from);
        files.push(File {
            to: shown(to),
            mode: mode & 0o777,
            from,
        });
    }
    Ok(())
}

fn read(path: &Path) -> Result<Table> {
    let text =
        fs::read_to_string(path).with_context(|| format!("could not read {}", path.display()))?;
    text.parse()
        .with_context(|| format!("could not read {}", path.display()))
}

fn of<'a>(table: &'a mut Table, keys: &[&str]) -> Result<&'a mut Table> {
    keys.iter().try_fold(table, |table, key| {
        table
            .get_mut(*key)
            .and_then(Value::as_table_mut)
            .with_context(|| format!("dist/package/Cargo.toml has no table {}", keys.join(".")))
    })
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}
