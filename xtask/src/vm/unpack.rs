//! Kernel packages, taken apart: the image, the modules that the initramfs inserts, and a disk
//! with all modules.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

use super::disk;
use crate::setup;
use crate::step;

/// What the initramfs needs to see the disks; ext4 is built in.
const NEEDED: [&str; 2] = ["virtio_pci", "virtio_blk"];

/// A kernel's files in the cache.
#[derive(Clone, Debug)]
pub(super) struct Unpacked {
    /// `5.10.0-46-cloud-amd64`
    pub(super) release: String,
    pub(super) image: PathBuf,
    /// Uncompressed, in the order of insertion.
    pub(super) inserted: Vec<PathBuf>,
    /// An ext4 image of `/lib/modules`.
    pub(super) modules: PathBuf,
}

/// What an earlier run unpacked into `folder`.
pub(super) fn find(folder: &Path) -> Option<Unpacked> {
    let release = fs::read_to_string(folder.join("release")).ok()?;
    let mut inserted: Vec<_> = fs::read_dir(folder.join("insert"))
        .ok()?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .collect();
    inserted.sort();
    let found = Unpacked {
        release,
        image: folder.join("vmlinuz"),
        inserted,
        modules: folder.join("modules.img"),
    };
    (found.image.is_file() && found.modules.is_file()).then_some(found)
}

/// Unpacks into `folder`, which appears whole or not at all.
pub(super) fn unpack(debs: &[PathBuf], folder: &Path) -> Result<Unpacked> {
    let half = folder.with_extension(format!("half-{}", std::process::id()));
    let _ = fs::remove_dir_all(&half);
    let tree = half.join("tree");
    make(&tree)?;
    let outcome = take_apart(debs, &tree, &half).and_then(|()| {
        let _ = fs::remove_dir_all(folder);
        fs::rename(&half, folder).with_context(|| format!("could not name {}", folder.display()))
    });
    // Nothing is there after a success.
    let _ = fs::remove_dir_all(&half);
    outcome?;
    find(folder).context("the unpacked kernel is not complete")
}

fn take_apart(debs: &[PathBuf], tree: &Path, half: &Path) -> Result<()> {
    for deb in debs {
        step::capture(Command::new("dpkg-deb").arg("-x").arg(deb).arg(tree))?;
    }
    let (release, modules) = modules(tree)?;
    let image = [
        tree.join("boot").join(format!("vmlinuz-{release}")),
        modules.join("vmlinuz"),
    ];
    let image = image.iter().find(|path| path.is_file());
    let image = image.with_context(|| format!("the packages have no image of {release}"))?;
    fs::copy(image, half.join("vmlinuz")).context("could not copy the kernel's image")?;
    // depmod looks below lib/modules, wherever the package has them.
    let base = half.join("base");
    make(&base.join("lib/modules"))?;
    let modules_there = base.join("lib/modules").join(&release);
    fs::rename(&modules, &modules_there).context("could not move the modules")?;
    let mut depmod = Command::new("depmod");
    depmod.env("PATH", setup::path_variable()?);
    step::capture(depmod.arg("-b").arg(&base).arg(&release))?;
    let dependencies = modules_there.join("modules.dep");
    let dependencies = fs::read_to_string(&dependencies)
        .with_context(|| format!("could not read {}", dependencies.display()))?;
    make(&half.join("insert"))?;
    for (number, module) in order(&dependencies, &NEEDED).iter().enumerate() {
        let (name, bytes) = uncompressed(&modules_there.join(module))?;
        let into = half.join("insert").join(format!("{number:02}-{name}"));
        fs::write(&into, bytes).with_context(|| format!("could not write {}", into.display()))?;
    }
    // The image is in the guest by other ways.
    let _ = fs::remove_file(modules_there.join("vmlinuz"));
    disk::ext4(&base.join("lib/modules"), &half.join("modules.img"))?;
    fs::write(half.join("release"), &release).context("could not write the release")?;
    for rest in [base, tree.to_path_buf()] {
        fs::remove_dir_all(&rest)
            .with_context(|| format!("could not remove {}", rest.display()))?;
    }
    Ok(())
}

fn make(folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("could not make {}", folder.display()))
}

/// The one folder of modules; its name is the kernel's release.
fn modules(tree: &Path) -> Result<(String, PathBuf)> {
    for place in ["lib/modules", "usr/lib/modules"] {
        let Ok(entries) = fs::read_dir(tree.join(place)) else {
            continue;
        };
        for entry in entries.flatten() {
            if let Ok(release) = entry.file_name().into_string() {
                return Ok((release, entry.path()));
            }
        }
    }
    bail!("the packages have no lib/modules/*")
}

/// The modules `wanted` and all they need, each after what it needs. One that is built in is
/// not in `modules.dep`.
fn order(dependencies: &str, wanted: &[&str]) -> Vec<String> {
    let all: BTreeMap<&str, Vec<&str>> = dependencies
        .lines()
        .filter_map(|line| {
            let (module, needs) = line.split_once(':')?;
            Some((module, needs.split_whitespace().collect()))
        })
        .collect();
    let mut ordered = Vec::new();
    for name in wanted {
        let Some((module, needs)) = all.iter().find(|(path, _)| named(path) == *name) else {
            continue;
        };
        // modules.dep lists all that a module needs, what comes first in it last.
        for one in needs.iter().rev().chain([module]) {
            if !ordered.iter().any(|there| there == one) {
                ordered.push((*one).to_owned());
            }
        }
    }
    ordered
}

/// `virtio_pci` of `kernel/drivers/virtio/virtio-pci.ko.xz`.
fn named(path: &str) -> String {
    let file = path.rsplit('/').next().unwrap_or(path);
    file.split('.').next().unwrap_or(file).replace('-', "_")
}

/// A module's file name and bytes, without compression: old kernels cannot do that.
fn uncompressed(path: &Path) -> Result<(String, Vec<u8>)> {
    let name = path.file_name().and_then(|name| name.to_str());
    let name = name.with_context(|| format!("{} has no name", path.display()))?;
    let (program, stem) = match name.rsplit_once('.') {
        Some((stem, "xz")) => ("xz", stem),
        Some((stem, "zst")) => ("zstd", stem),
        _ => {
            let bytes = fs::read(path);
            let bytes = bytes.with_context(|| format!("could not read {}", path.display()))?;
            return Ok((name.to_owned(), bytes));
        }
    };
    let output = Command::new(program)
        .arg("-dc")
        .arg(path)
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("could not start {program}, which unpacks {name}: install it"))?;
    ensure!(
        output.status.success(),
        "{program} could not unpack {}: {}",
        path.display(),
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok((stem.to_owned(), output.stdout))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_come_after_what_they_need() {
        let dependencies = "\
kernel/drivers/block/virtio_blk.ko: kernel/drivers/virtio/virtio_ring.ko kernel/drivers/virtio/virtio.ko
kernel/drivers/virtio/virtio_pci.ko: kernel/drivers/virtio/virtio_ring.ko kernel/drivers/virtio/virtio.ko
kernel/drivers/virtio/virtio.ko:
kernel/drivers/virtio/virtio_ring.ko: kernel/drivers/virtio/virtio.ko
kernel/net/virtio-net.ko.xz:
";
        let names: Vec<_> = order(dependencies, &NEEDED)
            .iter()
            .map(|path| named(path))
            .collect();
        assert_eq!(names, ["virtio", "virtio_ring", "virtio_pci", "virtio_blk"]);
        assert_eq!(
            order(dependencies, &["virtio_net"]),
            ["kernel/net/virtio-net.ko.xz"]
        );
        assert!(order(dependencies, &["ext4"]).is_empty());
    }
}
