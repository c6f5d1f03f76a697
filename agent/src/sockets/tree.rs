//! From an agent's cgroup to the cgroups below it and the network namespaces of what runs
//! there.

use std::{
    collections::HashSet,
    fs::{self, File},
    io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use nix::sched::{CloneFlags, setns};

/// Cgroups of one agent that are looked at. An agent that may make its own can have more;
/// what their sockets use then ends with its lease.
const MOST_CGROUPS: usize = 4096;
/// Processes of one agent whose namespaces are looked at.
const MOST_PROCESSES: usize = 16_384;
/// Network namespaces of one agent that are looked at.
const MOST_NAMESPACES: usize = 64;

/// What is below an agent's cgroup.
#[derive(Debug, Default)]
pub(super) struct Below {
    /// Ids of its cgroups, its own among them.
    pub(super) ids: Vec<u64>,
    /// Numbers of its processes.
    pub(super) processes: Vec<u32>,
}

/// Reads the tree. What has gone meanwhile is left out.
pub(super) fn below(cgroup: &Path) -> Below {
    let mut found = Below::default();
    let mut folders: Vec<PathBuf> = vec![cgroup.to_owned()];
    while let Some(folder) = folders.pop() {
        if found.ids.len() == MOST_CGROUPS {
            break;
        }
        let Ok(metadata) = fs::metadata(&folder) else {
            continue;
        };
        found.ids.push(metadata.ino());
        let room = MOST_PROCESSES - found.processes.len();
        if let Ok(text) = fs::read_to_string(folder.join("cgroup.procs")) {
            let pids = text.lines().filter_map(|line| line.parse::<u32>().ok());
            found.processes.extend(pids.take(room));
        }
        let Ok(entries) = fs::read_dir(&folder) else {
            continue;
        };
        let children = entries
            .filter_map(Result::ok)
            .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
            .map(|entry| entry.path());
        folders.extend(children);
    }
    found
}

/// Network namespaces, each once.
#[derive(Debug, Default)]
pub(super) struct Namespaces {
    known: HashSet<(u64, u64)>,
    files: Vec<File>,
}

impl Namespaces {
    /// Adds those of one agent's processes.
    pub(super) fn add(&mut self, processes: &[u32]) {
        let mut own = HashSet::new();
        for pid in processes {
            if own.len() == MOST_NAMESPACES {
                return;
            }
            // A process that has ended needs no namespace.
            let Ok(file) = File::open(format!("/proc/{pid}/ns/net")) else {
                continue;
            };
            let Ok(metadata) = file.metadata() else {
                continue;
            };
            let id = (metadata.dev(), metadata.ino());
            own.insert(id);
            if self.known.insert(id) {
                self.files.push(file);
            }
        }
    }

    /// Their files.
    pub(super) fn into_files(self) -> Vec<File> {
        self.files
    }

    /// One after the other: the calling thread is in it when it is handed out.
    pub(super) fn into_entered(self) -> impl Iterator<Item = io::Result<()>> {
        self.files
            .into_iter()
            .map(|file| setns(&file, CloneFlags::CLONE_NEWNET).map_err(io::Error::from))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_cgroup_below_and_every_process_is_found_once() {
        let folder = tempfile::tempdir().expect("folder");
        let run = folder.path().join("run-0/deeper");
        fs::create_dir_all(&run).expect("folders");
        let me = std::process::id();
        fs::write(run.join("cgroup.procs"), format!("{me}\n{me}\n")).expect("write");
        let found = below(folder.path());
        assert_eq!(found.ids.len(), 3);
        let inode = fs::metadata(&run).expect("metadata").ino();
        assert!(found.ids.contains(&inode));
        assert_eq!(found.processes, [me, me]);
        let mut namespaces = Namespaces::default();
        namespaces.add(&found.processes);
        namespaces.add(&[0]);
        assert_eq!(namespaces.files.len(), 1);
    }
}
