//! Where things are pinned, and the bpffs that they are pinned in.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
};

use agent_common::layout::{HANDSHAKE_VERSION, LAYOUT_VERSION};
use nix::{
    mount::{MsFlags, mount},
    sys::statfs::{FsType, statfs},
};
use tracing::warn;

use super::KernelError;

/// `BPF_FS_MAGIC`, `include/uapi/linux/magic.h`.
const BPFFS_MAGIC: i64 = 0xcafe_4a11;

/// The layout that this process takes for its own.
static LAYOUT: AtomicU32 = AtomicU32::new(LAYOUT_VERSION);

/// Has this process name another layout than the one that it was built with, so that one tree
/// gives two builds for the tests of upgrades. Nothing of the product calls it.
#[doc(hidden)]
pub fn pretend_layout(version: u32) {
    LAYOUT.store(version, Ordering::Relaxed);
}

fn layout() -> u32 {
    LAYOUT.load(Ordering::Relaxed)
}

/// The folders of one instance below a bpffs.
#[derive(Clone, Debug)]
pub struct Pins {
    root: PathBuf,
}

impl Pins {
    /// Pins below `root`, which need not exist yet.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// The instance's own folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Folder of the maps; the layout's version is in its name, so that maps of another
    /// layout are never opened.
    pub fn maps(&self) -> PathBuf {
        self.root.join(format!("v{}", layout())).join("maps")
    }

    /// Folder of what outlives a change of the layout.
    fn connections(&self) -> PathBuf {
        self.root.join("connections")
    }

    /// What was read of the hellos of connections that are open. A daemon of another layout
    /// goes on with it: a name is said once, and without it the connection could only end.
    pub fn handshakes(&self) -> PathBuf {
        self.connections()
            .join(format!("HANDSHAKES_v{HANDSHAKE_VERSION}"))
    }

    /// Folder of the links.
    pub fn links(&self) -> PathBuf {
        self.root.join("links")
    }

    /// Folder of the links at cgroups outside the slice, each in a folder named by the id of
    /// its cgroup.
    pub fn adopted(&self) -> PathBuf {
        self.root.join("adopted")
    }

    /// Ids of the cgroups outside the slice that links are held at.
    pub fn adopted_ids(&self) -> Vec<u64> {
        let entries = fs::read_dir(self.adopted());
        entries
            .into_iter()
            .flatten()
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
            .collect()
    }

    /// Folder of the programs.
    pub fn programs(&self) -> PathBuf {
        self.root.join("programs")
    }

    /// Folder of the links of BPF LSM. Beside the others, because such a link cannot be given
    /// another program: a new one takes its place.
    pub fn walls(&self) -> PathBuf {
        self.root.join("walls")
    }

    /// Whether something is pinned.
    pub fn exist(&self) -> bool {
        self.links().is_dir()
    }

    /// Makes the folders, mounting a bpffs first where `/sys/fs/bpf` (or the parent that
    /// is named) has none.
    pub fn create(&self) -> Result<(), KernelError> {
        let parent = self.root.parent().unwrap_or(Path::new("/sys/fs/bpf"));
        fs::create_dir_all(parent).map_err(KernelError::path("create", parent))?;
        if !is_bpffs(parent).map_err(KernelError::path("examine", parent))? {
            mount(
                Some("bpf"),
                parent,
                Some("bpf"),
                MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC,
                Some("mode=0700"),
            )
            .map_err(|e| KernelError::path("mount a bpffs at", parent)(e.into()))?;
        }
        for folder in [
            self.maps(),
            self.connections(),
            self.links(),
            self.walls(),
            self.adopted(),
            self.programs(),
        ] {
            fs::create_dir_all(&folder).map_err(KernelError::path("create", &folder))?;
        }
        Ok(())
    }

    /// Removes maps of other layouts. Call it once every link runs a program of this one.
    pub fn remove_other_layouts(&self) -> Result<(), KernelError> {
        let kept = self.handshakes();
        for path in list(&self.connections())? {
            if path != kept {
                fs::remove_file(&path).map_err(KernelError::path("remove", &path))?;
            }
        }
        let entries = fs::read_dir(&self.root).map_err(KernelError::path("list", &self.root))?;
        let current = format!("v{}", layout());
        for entry in entries.filter_map(Result::ok) {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            let layout = name
                .strip_prefix('v')
                .is_some_and(|number| number.parse::<u32>().is_ok());
            if layout && name != current.as_str() {
                let path = entry.path();
                fs::remove_dir_all(&path).map_err(KernelError::path("remove", &path))?;
            }
        }
        Ok(())
    }

    /// Removes links and programs of names that this build does not have: another build left
    /// them, and nobody keeps their tables up to date. Call it once every link of this build
    /// runs a program of it, so that what such a link refused is refused by those.
    pub fn remove_strangers(&self, links: &[&str], walls: &[&str]) -> Result<(), KernelError> {
        let mut folders = vec![
            (self.links(), links),
            (self.programs(), links),
            (self.walls(), walls),
        ];
        folders.extend(
            list(&self.adopted())?
                .into_iter()
                .map(|folder| (folder, links)),
        );
        for (folder, names) in folders {
            for path in list(&folder)? {
                let name = path.file_name().and_then(|name| name.to_str());
                if name.is_none_or(|name| !names.contains(&name)) {
                    warn!(pin = %path.display(), "another build left this, and this one cannot keep it up: it is taken away");
                    fs::remove_file(&path).map_err(KernelError::path("remove", &path))?;
                }
            }
        }
        Ok(())
    }

    /// Removes everything that is pinned, links first: they go at once, and with the last
    /// reference the programs and maps.
    pub fn remove(&self) -> Result<(), KernelError> {
        for folder in [
            self.walls(),
            self.links(),
            self.adopted(),
            self.root.clone(),
        ] {
            match fs::remove_dir_all(&folder) {
                Ok(()) => {}
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => return Err(KernelError::path("remove", &folder)(e)),
            }
        }
        Ok(())
    }
}

fn list(folder: &Path) -> Result<Vec<PathBuf>, KernelError> {
    let entries = fs::read_dir(folder).map_err(KernelError::path("list", folder))?;
    Ok(entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .collect())
}

pub(super) fn is_bpffs(path: &Path) -> io::Result<bool> {
    Ok(statfs(path)?.filesystem_type() == FsType(BPFFS_MAGIC))
}
