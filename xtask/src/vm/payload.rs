//! The disk with the programs under test, `/payload` in the guest.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::arch::Arch;
use super::cross;
use super::disk;
use super::programs::Programs;
use crate::step;

/// Makes the disk of `programs` in `work`. Debug information stays here: with it the disk
/// would be six times as large, and the names that a backtrace shows are kept anyway.
pub(super) fn make(work: &Path, arch: Arch, programs: &Programs) -> Result<PathBuf> {
    let folder = work.join(format!("payload-{arch}"));
    let image = work.join(format!("payload-{arch}.img"));
    fs::create_dir_all(&folder).with_context(|| format!("could not make {}", folder.display()))?;
    for old in fs::read_dir(&folder)
        .with_context(|| format!("could not list {}", folder.display()))?
        .flatten()
    {
        if old
            .file_name()
            .to_str()
            .is_none_or(|name| !programs.contains_key(name))
        {
            fs::remove_file(old.path()).context("could not remove an old program")?;
        }
    }
    let mut changed = !image.is_file();
    for (name, path) in programs {
        let into = folder.join(name);
        if is_newer(&into, path) {
            continue;
        }
        changed = true;
        let mut strip = cross::strip(arch);
        strip.arg("--strip-debug").arg("-o").arg(&into).arg(path);
        // Without binutils the disk is larger, and nothing else.
        if step::capture(&mut strip).is_err() {
            fs::copy(path, &into).with_context(|| format!("could not copy {}", path.display()))?;
        }
    }
    if changed {
        disk::ext4(&folder, &image)?;
    }
    Ok(image)
}

fn is_newer(one: &Path, than: &Path) -> bool {
    let time = |path: &Path| fs::metadata(path).and_then(|data| data.modified());
    match (time(one), time(than)) {
        (Ok(one), Ok(than)) => one > than,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_not_there_is_not_newer() {
        let folder = tempfile::tempdir().expect("a folder");
        let there = folder.path().join("there");
        fs::write(&there, "").expect("write");
        assert!(!is_newer(&folder.path().join("none"), &there));
        assert!(!is_newer(&there, &there));
    }
}
