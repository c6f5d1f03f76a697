//! What the demo made, so that it can be seen to be gone.

use super::kernel::{Object, pinned};
use crate::daemon::Daemon;
use crate::disk::BPFFS;
use crate::world::World;
use crate::{cgroup, wait};
use anyhow::Context;
use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Objects of the kernel go when their last user has passed a grace period.
fn patience() -> Duration {
    wait::scaled(Duration::from_secs(10))
}

/// Everything that is to be looked for at the end.
pub(super) struct Traces {
    /// Descriptors that were there at the beginning.
    own: BTreeSet<PathBuf>,
    bpffs_was_mounted: bool,
    folders: Vec<PathBuf>,
    objects: BTreeSet<Object>,
    /// Inodes of network and mount namespaces.
    namespaces: Vec<u64>,
}

impl Traces {
    /// To be called before anything is made.
    pub(super) fn new() -> anyhow::Result<Self> {
        Ok(Self {
            own: namespace_files()?,
            bpffs_was_mounted: is_mounted(Path::new(BPFFS))?,
            folders: Vec::new(),
            objects: BTreeSet::new(),
            namespaces: Vec::new(),
        })
    }

    pub(super) fn folder(&mut self, path: &Path) {
        self.folders.push(path.to_owned());
    }

    pub(super) fn world(&mut self, world: &World) -> anyhow::Result<()> {
        self.folder(world.folder());
        for ns in [&world.laptop, &world.internet] {
            let inode = std::fs::metadata(ns.net_path())?.ino();
            self.namespaces.push(inode);
        }
        let mount = world
            .laptop
            .run_inside(|| Ok(std::fs::metadata("/proc/thread-self/ns/mnt")?.ino()))?;
        self.namespaces.push(mount);
        Ok(())
    }

    /// Notes what is pinned now: a restart loads programs anew.
    pub(super) fn daemon(&mut self, daemon: &Daemon) -> anyhow::Result<()> {
        self.folder(daemon.bpffs());
        self.folder(&daemon.slice()?);
        for file in files(daemon.bpffs())? {
            self.objects.extend(pinned(&file)?);
        }
        Ok(())
    }

    /// How much is looked for, in words.
    pub(super) fn tally(&self) -> String {
        format!(
            "{} BPF objects, {} namespaces, cgroups, pins, files, processes",
            self.objects.len(),
            self.namespaces.len()
        )
    }

    /// What is still there, after a while.
    pub(super) fn left(&self) -> anyhow::Result<Vec<String>> {
        self.unmount()?;
        let mut left = Vec::new();
        let gone = wait::until("everything to be gone", patience(), || {
            left = self
                .look()
                .unwrap_or_else(|error| vec![format!("{error:#}")]);
            left.is_empty().then_some(())
        });
        Ok(match gone {
            Ok(()) => Vec::new(),
            Err(_) => left,
        })
    }

    /// The bpffs, if it is there because of us and nobody else has come to use it.
    fn unmount(&self) -> anyhow::Result<()> {
        let path = Path::new(BPFFS);
        if self.bpffs_was_mounted || !is_mounted(path)? || !files(path)?.is_empty() {
            return Ok(());
        }
        match nix::mount::umount(path) {
            Ok(()) | Err(nix::errno::Errno::EBUSY) => Ok(()),
            Err(error) => Err(error).context("unmount the bpffs"),
        }
    }

    fn look(&self) -> anyhow::Result<Vec<String>> {
        let mut left = Vec::new();
        let mut folders = self.folders.clone();
        // Also what a daemon made that did not get as far as to be noted here.
        folders.extend(ours(&cgroup::root()?)?);
        folders.extend(ours(Path::new(BPFFS)).unwrap_or_default());
        folders.sort();
        folders.dedup();
        for folder in folders.into_iter().filter(|folder| folder.exists()) {
            left.push(folder.display().to_string());
        }
        let objects = self.objects.iter().filter(|object| object.exists());
        left.extend(objects.map(Object::to_string));
        left.extend(processes(&self.namespaces)?);
        let files = namespace_files()?;
        let new = files.difference(&self.own);
        left.extend(new.map(|file| format!("a descriptor of {}", file.display())));
        Ok(left)
    }
}

/// Folders named after this process, as the fixtures name theirs.
fn ours(parent: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let prefix = format!("exeat-test-{}-", std::process::id());
    let mut found = Vec::new();
    for entry in std::fs::read_dir(parent)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(&prefix) {
            found.push(entry.path());
        }
    }
    Ok(found)
}

/// Processes in one of these namespaces.
fn processes(namespaces: &[u64]) -> anyhow::Result<Vec<String>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc")? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.parse::<u32>().is_err() {
            continue;
        }
        let inside = ["net", "mnt"].iter().any(|kind| {
            // A process that ends meanwhile is in none.
            let file = std::fs::metadata(entry.path().join("ns").join(kind));
            file.is_ok_and(|file| namespaces.contains(&file.ino()))
        });
        if inside {
            let comm = std::fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
            found.push(format!("process {name} ({})", comm.trim()));
        }
    }
    Ok(found)
}

/// Sockets and namespaces that this process has open: either keeps a namespace alive.
fn namespace_files() -> anyhow::Result<BTreeSet<PathBuf>> {
    let mut found = BTreeSet::new();
    for entry in std::fs::read_dir("/proc/self/fd")? {
        let Ok(target) = std::fs::read_link(entry?.path()) else {
            continue;
        };
        let text = target.to_string_lossy();
        if ["socket:", "net:", "mnt:"]
            .iter()
            .any(|kind| text.starts_with(kind))
        {
            found.insert(target);
        }
    }
    Ok(found)
}

fn is_mounted(path: &Path) -> anyhow::Result<bool> {
    let mounts = std::fs::read_to_string("/proc/self/mounts")?;
    let path = path.to_string_lossy();
    Ok(mounts
        .lines()
        .any(|line| line.split(' ').nth(1) == Some(&*path)))
}

fn files(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).with_context(|| format!("read {}", folder.display()))? {
        let entry = entry?;
        match entry.file_type()?.is_dir() {
            true => found.extend(files(&entry.path())?),
            false => found.push(entry.path()),
        }
    }
    Ok(found)
}
