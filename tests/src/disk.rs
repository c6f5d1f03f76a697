//! A disk that is easily full.

use anyhow::Context;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use std::io::Write;
use std::path::{Path, PathBuf};

/// A file system of a few pages, to be filled; unmounted when dropped. Mounted in the
/// test's own mount namespace, from where it reaches the laptop's.
pub struct TinyDisk(PathBuf);

impl TinyDisk {
    /// Mounts one of `bytes` at `path`.
    ///
    /// # Errors
    /// Those of mount.
    pub fn mount(path: &Path, bytes: usize) -> anyhow::Result<Self> {
        let options = format!("size={bytes}");
        mount(
            Some("tmpfs"),
            path,
            Some("tmpfs"),
            MsFlags::empty(),
            Some(options.as_str()),
        )
        .with_context(|| format!("mount a tmpfs at {}", path.display()))?;
        Ok(Self(path.to_owned()))
    }

    /// Writes until nothing more fits.
    ///
    /// # Errors
    /// When it fails for another reason.
    pub fn fill(&self) -> anyhow::Result<()> {
        let mut file = std::fs::File::create(self.0.join("filler"))?;
        loop {
            match file.write(&[0u8; 4096]) {
                Ok(_) => {}
                Err(error) if error.raw_os_error() == Some(libc::ENOSPC) => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
    }
}

impl Drop for TinyDisk {
    fn drop(&mut self) {
        let _ = umount2(&self.0, MntFlags::MNT_DETACH);
    }
}
