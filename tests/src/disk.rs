//! File systems that tests need mounted.

use crate::ns::Ns;
use anyhow::{Context, anyhow};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use std::io::Write;
use std::path::{Path, PathBuf};

/// Where the bpffs is.
pub const BPFFS: &str = "/sys/fs/bpf";

/// Mounts the bpffs at its usual place, if nobody has. It stays: it is the machine's.
///
/// # Errors
/// Those of mount.
pub fn mount_bpffs() -> anyhow::Result<()> {
    static ONCE: std::sync::Mutex<()> = std::sync::Mutex::new(());
    let _one_at_a_time = ONCE
        .lock()
        .map_err(|_| anyhow!("another test panicked while mounting"))?;
    let mounts = std::fs::read_to_string("/proc/self/mounts")?;
    if mounts
        .lines()
        .any(|line| line.split(' ').nth(1) == Some(BPFFS))
    {
        return Ok(());
    }
    mount(
        Some("bpf"),
        BPFFS,
        Some("bpf"),
        MsFlags::empty(),
        None::<&str>,
    )
    .context("mount bpffs")
}

/// A file system of a few pages in a laptop, to be filled; unmounted when dropped.
pub struct TinyDisk {
    ns: Ns,
    path: PathBuf,
}

impl TinyDisk {
    /// Mounts one of `bytes` at `path`.
    ///
    /// # Errors
    /// Those of mount.
    pub fn mount(ns: &Ns, path: &Path, bytes: usize) -> anyhow::Result<Self> {
        let options = format!("size={bytes}");
        ns.run_inside(|| {
            mount(
                Some("tmpfs"),
                path,
                Some("tmpfs"),
                MsFlags::empty(),
                Some(options.as_str()),
            )
            .with_context(|| format!("mount a tmpfs at {}", path.display()))
        })?;
        Ok(Self {
            ns: ns.clone(),
            path: path.to_owned(),
        })
    }

    /// Writes until nothing more fits.
    ///
    /// # Errors
    /// When it fails for another reason.
    pub fn fill(&self) -> anyhow::Result<()> {
        self.ns.run_inside(|| {
            let mut file = std::fs::File::create(self.path.join("filler"))?;
            loop {
                match file.write(&[0u8; 4096]) {
                    Ok(_) => {}
                    Err(error) if error.raw_os_error() == Some(libc::ENOSPC) => return Ok(()),
                    Err(error) => return Err(error.into()),
                }
            }
        })
    }
}

impl Drop for TinyDisk {
    fn drop(&mut self) {
        let gone = self
            .ns
            .run_inside(|| Ok(umount2(&self.path, MntFlags::MNT_DETACH)?));
        if let Err(error) = gone {
            eprintln!(
                "{} stays mounted in a namespace that ends soon: {error}",
                self.path.display()
            );
        }
    }
}
