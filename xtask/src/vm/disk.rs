//! ext4 images for the guests.

use std::fs::{self, File};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::setup;
use crate::step;

const LIMIT: Duration = Duration::from_secs(300);

/// Free space beside what a disk is made of. Sparse, so it costs nothing here.
const ROOM: u64 = 256 << 20;

/// Makes an image of all in `folder`, with room to write.
pub(super) fn ext4(folder: &Path, image: &Path) -> Result<()> {
    ext4_by(Command::new("env"), folder, image, used(folder)?)
}

/// The same by a program that ends in `env` (sudo), for a folder that only root may read;
/// `used` in bytes.
pub(super) fn ext4_by(mut by: Command, folder: &Path, image: &Path, used: u64) -> Result<()> {
    let file =
        File::create(image).with_context(|| format!("could not make {}", image.display()))?;
    // A fifth and a bit for inodes, groups and half-filled blocks.
    file.set_len(used / 4 * 5 + ROOM)
        .with_context(|| format!("could not size {}", image.display()))?;
    drop(file);
    let path = setup::path_variable()?;
    let mut word = std::ffi::OsString::from("PATH=");
    word.push(path);
    // No journal: every boot writes into a snapshot that is thrown away.
    by.arg(word)
        .args(["mkfs.ext4", "-q", "-F", "-O", "^has_journal"])
        .args(["-E", "lazy_itable_init=1,root_owner=0:0", "-d"])
        .arg(folder)
        .arg(image);
    step::quiet(&format!("disk of {}", folder.display()), &mut by, LIMIT)
}

/// Bytes of all files below a folder, each rounded to a block.
fn used(folder: &Path) -> Result<u64> {
    let mut sum = 0;
    let entries =
        fs::read_dir(folder).with_context(|| format!("could not list {}", folder.display()))?;
    for entry in entries {
        let entry = entry.with_context(|| format!("could not list {}", folder.display()))?;
        let data = entry.metadata().context("could not look at a file")?;
        sum += if data.is_dir() {
            4096 + used(&entry.path())?
        } else {
            data.len().next_multiple_of(4096)
        };
    }
    Ok(sum)
}
