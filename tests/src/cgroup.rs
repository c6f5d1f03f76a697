//! A cgroup that is gone when it is dropped.

use crate::{unique, wait};
use anyhow::{Context, anyhow};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Where cgroup2 is mounted.
///
/// # Errors
/// When it is not mounted anywhere.
pub fn root() -> anyhow::Result<PathBuf> {
    let info = std::fs::read_to_string("/proc/self/mountinfo").context("read mountinfo")?;
    info.lines()
        .find_map(|line| {
            let (mount, kind) = line.split_once(" - ")?;
            kind.starts_with("cgroup2 ")
                .then(|| mount.split(' ').nth(4).map(PathBuf::from))?
        })
        .ok_or_else(|| {
            anyhow!("cgroup2 is not mounted; mount -t cgroup2 none /sys/fs/cgroup/unified")
        })
}

/// A cgroup of its own directly below the root.
pub struct CgroupGuard {
    path: PathBuf,
}

impl CgroupGuard {
    /// Makes `<root>/<prefix>-<unique>`.
    ///
    /// # Errors
    /// When the folder cannot be made.
    pub fn new(prefix: &str) -> anyhow::Result<Self> {
        let path = root()?.join(unique::name(prefix));
        std::fs::create_dir(&path).with_context(|| format!("mkdir {}", path.display()))?;
        Ok(Self { path })
    }

    /// Its folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Moves a process with all its threads into it.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn add(&self, pid: u32) -> anyhow::Result<()> {
        add(&self.path, pid)
    }
}

impl Drop for CgroupGuard {
    fn drop(&mut self) {
        remove_tree(&self.path);
    }
}

/// Moves a process into the cgroup at `path`.
///
/// # Errors
/// When the kernel refuses.
pub fn add(path: &Path, pid: u32) -> anyhow::Result<()> {
    let procs = path.join("cgroup.procs");
    std::fs::write(&procs, pid.to_string())
        .with_context(|| format!("write {pid} to {}", procs.display()))
}

/// Kills every process of a cgroup and of those below it, then removes them. For use
/// in `drop`: failures are printed, not raised.
pub fn remove_tree(path: &Path) {
    if !path.exists() {
        return;
    }
    let limit = wait::scaled(Duration::from_secs(5));
    let gone = wait::until("a cgroup to become empty", limit, || {
        // Kernels before 5.14 have no such file; what a process forks while it is being
        // killed is there at the next look.
        if std::fs::write(path.join("cgroup.kill"), "1").is_err() {
            kill_each(path);
        }
        remove_folders(path).is_ok().then_some(())
    });
    if let Err(error) = gone {
        eprintln!("cgroup {} stays behind: {error}", path.display());
    }
}

fn kill_each(path: &Path) {
    let pids = std::fs::read_to_string(path.join("cgroup.procs")).unwrap_or_default();
    for pid in pids.lines().filter_map(|line| line.parse().ok()) {
        let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
    }
    let folders = std::fs::read_dir(path).into_iter().flatten().flatten();
    for folder in folders.filter(|entry| entry.path().is_dir()) {
        kill_each(&folder.path());
    }
}

fn remove_folders(path: &Path) -> std::io::Result<()> {
    for entry in std::fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_folders(&entry.path())?;
        }
    }
    std::fs::remove_dir(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_gone_with_its_processes_when_dropped() {
        let guard = CgroupGuard::new("exeat-test-guard").expect("cgroup");
        let path = guard.path().to_owned();
        std::fs::create_dir(path.join("below")).expect("mkdir");
        let mut child = std::process::Command::new("sleep")
            .arg("1000")
            .spawn()
            .expect("sleep");
        add(&path.join("below"), child.id()).expect("move");
        drop(guard);
        assert!(!path.exists());
        assert!(!child.wait().expect("wait").success());
    }
}
