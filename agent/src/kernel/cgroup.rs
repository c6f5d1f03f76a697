//! The cgroup tree: `<cgroup2 root>/<slice>/<agent>/<run>`. Where systemd runs, an agent's folder
//! is the cgroup of a scope, which has another name ([`scope_name`]).

use std::{
    collections::HashSet,
    fs::{self, File},
    io::{self, Write as _},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use nix::{
    sys::signal::{self, Signal},
    unistd::Pid,
};
use procfs::process::{MountInfos, Process};

use super::KernelError;

/// Where the cgroup2 hierarchy is mounted: alone (`/sys/fs/cgroup`) or beside v1
/// (`/sys/fs/cgroup/unified`).
pub fn cgroup2_root() -> Result<PathBuf, KernelError> {
    Process::myself()
        .and_then(|me| me.mountinfo())
        .ok()
        .and_then(whole_tree)
        .ok_or(KernelError::NoCgroup2)
}

/// The first mount of the whole tree: a bind mount of one of its folders is not the root.
fn whole_tree(mounts: MountInfos) -> Option<PathBuf> {
    mounts
        .into_iter()
        .find(|mount| mount.fs_type == "cgroup2" && mount.root == "/")
        .map(|mount| mount.mount_point)
}

/// The part of the tree that belongs to one instance.
#[derive(Clone, Debug)]
pub struct Slice {
    root: PathBuf,
    path: PathBuf,
    name: String,
}

/// A cgroup that was made for one run of an agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunCgroup {
    /// Folder of the run.
    pub path: PathBuf,
    /// Id of the agent's cgroup, the parent: what the `AGENTS` map is keyed by.
    pub agent_id: u64,
}

/// What a scope's name begins with. No agent's name holds a colon, so a folder's name tells which
/// of the two it is.
const SCOPE: &str = "exeat:";
/// What it ends with.
const SCOPE_END: &str = ".scope";

/// The scope of an agent, where systemd runs; its cgroup is called so too.
pub fn scope_name(agent: &str) -> String {
    format!("{SCOPE}{agent}{SCOPE_END}")
}

/// The agent of a folder in the slice.
fn agent_name(folder: &str) -> &str {
    let scope = folder.strip_prefix(SCOPE);
    scope
        .and_then(|rest| rest.strip_suffix(SCOPE_END))
        .unwrap_or(folder)
}

/// The folder of an agent below the slice: that of its scope, if only that one is there.
pub fn agent_folder(slice: &Path, agent: &str) -> PathBuf {
    let plain = slice.join(agent);
    let scope = slice.join(scope_name(agent));
    match !plain.is_dir() && scope.is_dir() {
        true => scope,
        false => plain,
    }
}

impl Slice {
    /// The slice `name` (one path component) below the cgroup2 root.
    pub fn new(root: impl Into<PathBuf>, name: &str) -> Self {
        let root = root.into();
        Self {
            path: root.join(name),
            root,
            name: name.to_owned(),
        }
    }

    /// The cgroup2 root.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The slice's folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The slice's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Makes the slice if it is not there; its id.
    pub fn create(&self) -> Result<u64, KernelError> {
        make(&self.path)?;
        id(&self.path)
    }

    /// The folder of an agent, which need not be there.
    pub fn folder(&self, agent: &str) -> PathBuf {
        agent_folder(&self.path, agent)
    }

    /// The folder that systemd makes for an agent.
    pub fn scope(&self, agent: &str) -> PathBuf {
        self.path.join(scope_name(agent))
    }

    /// Makes a new cgroup below the agent's for one run.
    pub fn create_run(&self, agent: &str) -> Result<RunCgroup, KernelError> {
        let folder = self.folder(agent);
        make(&folder)?;
        let agent_id = id(&folder)?;
        for number in 0_u64.. {
            let path = folder.join(format!("run-{number}"));
            match fs::create_dir(&path) {
                Ok(()) => return Ok(RunCgroup { path, agent_id }),
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                Err(e) => return Err(KernelError::path("create the cgroup", path)(e)),
            }
        }
        unreachable!("a folder cannot hold 2^64 runs")
    }

    /// The agents that have a cgroup, with its id.
    pub fn agents(&self) -> Result<Vec<(String, u64)>, KernelError> {
        children(&self.path)?
            .into_iter()
            .map(|path| {
                let name = path
                    .file_name()
                    .map(|name| agent_name(&name.to_string_lossy()).to_owned())
                    .unwrap_or_default();
                id(&path).map(|id| (name, id))
            })
            .collect()
    }

    /// Ids of the cgroups of an agent's runs.
    pub fn runs(&self, agent: &str) -> Result<HashSet<u64>, KernelError> {
        let runs = children(&self.folder(agent))?;
        // One that has just been removed is none any more.
        Ok(runs.iter().filter_map(|run| id(run).ok()).collect())
    }

    /// Number of processes below an agent's cgroup.
    pub fn processes(&self, agent: &str) -> Result<usize, KernelError> {
        Ok(processes(&self.folder(agent))?.len())
    }

    /// Removes the cgroups of an agent that hold no process; true if the agent's own is
    /// gone too. That of a scope is left to systemd, which removes it with the scope.
    pub fn collect(&self, agent: &str) -> Result<bool, KernelError> {
        let folder = self.folder(agent);
        if folder != self.scope(agent) {
            return remove_empty(&folder);
        }
        for run in children(&folder)? {
            remove_empty(&run)?;
        }
        Ok(!folder.exists())
    }

    /// Kills every process of every agent. They need a moment to be gone, and before kernel
    /// 5.14 one that forks meanwhile may need another call.
    pub fn kill(&self) -> Result<(), KernelError> {
        kill(&self.path)
    }

    /// The folders of cgroups outside the slice, by their ids; those that are gone are left
    /// out.
    pub fn elsewhere(&self, ids: &[u64]) -> Result<Vec<PathBuf>, KernelError> {
        let mut found = Vec::new();
        let mut folders = match ids.is_empty() {
            true => Vec::new(),
            false => children(&self.root)?,
        };
        while let Some(folder) = folders.pop() {
            if folder == self.path {
                continue;
            }
            match id(&folder) {
                Ok(id) if ids.contains(&id) => found.push(folder),
                _ => folders.extend(children(&folder)?),
            }
        }
        Ok(found)
    }

    /// Removes the slice and what is below, as far as it holds no process.
    pub fn remove(&self) -> Result<bool, KernelError> {
        remove_empty(&self.path)
    }
}

/// Kills every process of a cgroup and of those below it; one that is not there has none. They
/// need a moment to be gone, and before kernel 5.14 one that forks meanwhile may need another
/// call.
pub fn kill(path: &Path) -> Result<(), KernelError> {
    let file = path.join("cgroup.kill");
    if file.exists() {
        return gone_is_fine(write(&file, b"1", "kill by"));
    }
    if !path.exists() {
        return Ok(());
    }
    // A frozen process cannot fork, and does die: this freezer lets SIGKILL through.
    // Freezing is begun here and not waited for.
    gone_is_fine(write(&path.join("cgroup.freeze"), b"1", "freeze by"))?;
    for pid in processes(path)? {
        // Only somebody else's SIGKILL can have ended a frozen process meanwhile, and that
        // is what was wanted. 0 would be our own process group.
        if pid > 0 {
            let _ = signal::kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
    Ok(())
}

/// Stops every process of a cgroup and of those below it, or lets them go on; one that is not
/// there has none. It is begun here: see [`is_frozen`].
pub fn freeze(path: &Path, on: bool) -> Result<(), KernelError> {
    let word: &[u8] = if on { b"1" } else { b"0" };
    gone_is_fine(write(&path.join("cgroup.freeze"), word, "freeze by"))
}

/// Whether everything in a cgroup has stopped: there is nothing, or the kernel says so.
pub fn is_frozen(path: &Path) -> bool {
    event(path, "frozen") || !path.exists()
}

/// Whether a cgroup, or one below it, has a live process.
pub fn is_populated(path: &Path) -> bool {
    event(path, "populated")
}

/// Number of processes of a cgroup and of those below it.
pub fn processes_of(path: &Path) -> usize {
    processes(path).map_or(0, |all| all.len())
}

fn event(path: &Path, key: &str) -> bool {
    let text = fs::read_to_string(path.join("cgroup.events")).unwrap_or_default();
    text.lines()
        .filter_map(|line| line.split_once(' '))
        .any(|(name, value)| name == key && value == "1")
}

fn gone_is_fine(result: Result<(), KernelError>) -> Result<(), KernelError> {
    match result {
        Err(KernelError::Path { source, .. })
            if source.kind() == io::ErrorKind::NotFound
                || source.raw_os_error() == Some(libc::ENODEV) =>
        {
            Ok(())
        }
        other => other,
    }
}

/// Moves a process, with all its threads, into a cgroup.
pub fn move_process(cgroup: &Path, pid: u32) -> Result<(), KernelError> {
    let procs = cgroup.join("cgroup.procs");
    write(&procs, pid.to_string().as_bytes(), "move the process into")
}

fn write(file: &Path, text: &[u8], action: &'static str) -> Result<(), KernelError> {
    File::options()
        .write(true)
        .open(file)
        .and_then(|mut file| file.write_all(text))
        .map_err(KernelError::path(action, file))
}

/// Id of a cgroup: its inode number (`cgroup_id`, `kernfs_node.id`; 64 bits since 5.5).
pub fn id(path: &Path) -> Result<u64, KernelError> {
    fs::metadata(path)
        .map(|metadata| metadata.ino())
        .map_err(KernelError::path("examine the cgroup", path))
}

fn make(path: &Path) -> Result<(), KernelError> {
    match fs::create_dir(path) {
        Ok(()) => Ok(()),
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(e) => Err(KernelError::path("create the cgroup", path)(e)),
    }
}

fn children(path: &Path) -> Result<Vec<PathBuf>, KernelError> {
    let entries = match fs::read_dir(path) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(KernelError::path("list the cgroup", path)(e)),
    };
    Ok(entries
        .filter_map(Result::ok)
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path())
        .collect())
}

/// The processes of a cgroup and of those below it. 0 stands for one of another pid namespace.
fn processes(path: &Path) -> Result<Vec<i32>, KernelError> {
    // One that cannot be read is being removed, or it is threaded, and then the cgroup above
    // has its processes (Documentation/admin-guide/cgroup-v2.rst, "Threads").
    let text = fs::read_to_string(path.join("cgroup.procs")).unwrap_or_default();
    let mut found: Vec<i32> = text.lines().map(|pid| pid.parse().unwrap_or(0)).collect();
    for child in children(path)? {
        found.extend(processes(&child)?);
    }
    Ok(found)
}

/// A cgroup with a process in it is EBUSY and stays, and so do its parents: one that is
/// being joined is never pulled away.
fn remove_empty(path: &Path) -> Result<bool, KernelError> {
    let mut all = true;
    for child in children(path)? {
        all &= remove_empty(&child)?;
    }
    if !all {
        return Ok(false);
    }
    match fs::remove_dir(path) {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(true),
        Err(e) if e.raw_os_error() == Some(libc::EBUSY) => Ok(false),
        Err(e) => Err(KernelError::path("remove the cgroup", path)(e)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processes_are_those_of_the_whole_tree() {
        let root = tempfile::tempdir().expect("a folder");
        let file = |folder: &str, text: &str| {
            let folder = root.path().join(folder);
            fs::create_dir_all(&folder).expect("a folder");
            fs::write(folder.join("cgroup.procs"), text).expect("a file");
        };
        file("agent/run-0", "7\n8\n");
        file("agent/run-0/deeper", "0\n9\n");
        fs::create_dir(root.path().join("agent/unreadable")).expect("a folder");
        let mut found = processes(root.path()).expect("a tree");
        found.sort_unstable();
        assert_eq!(found, [0, 7, 8, 9]);
    }

    #[test]
    fn a_scope_is_known_by_its_name_and_no_agent_is_called_so() {
        let root = tempfile::tempdir().expect("a folder");
        let slice = Slice::new(root.path(), "s.slice");
        slice.create().expect("the slice");
        assert_eq!(slice.folder("a-b"), slice.path().join("a-b"));
        fs::create_dir(slice.path().join("exeat:a-b.scope")).expect("a scope");
        assert_eq!(slice.folder("a-b"), slice.scope("a-b"));
        let names = |slice: &Slice| {
            let mut names: Vec<String> = slice
                .agents()
                .expect("agents")
                .into_iter()
                .map(|(name, _)| name)
                .collect();
            names.sort();
            names
        };
        assert_eq!(names(&slice), ["a-b"]);
        let run = slice.create_run("a-b").expect("a run");
        assert_eq!(run.path, slice.scope("a-b").join("run-0"));
        assert_eq!(run.agent_id, id(&slice.scope("a-b")).expect("an id"));
        // The scope's own is systemd's to remove.
        assert!(!slice.collect("a-b").expect("collected"));
        assert!(!run.path.exists() && slice.scope("a-b").exists());
        // What an agent may be called is never taken for a scope.
        fs::create_dir(slice.path().join("exeat-a.scope")).expect("an agent");
        assert_eq!(names(&slice), ["a-b", "exeat-a.scope"]);
        assert!("exeat:a.scope".parse::<crate::policy::AgentName>().is_err());
        // One that is not of systemd goes on to be used.
        fs::create_dir(slice.path().join("a-b")).expect("an agent");
        assert_eq!(slice.folder("a-b"), slice.path().join("a-b"));
    }

    #[test]
    fn the_cgroup_root_is_the_whole_tree() {
        use procfs::FromBufRead;
        let text: &[u8] = b"30 23 0:26 /sub /mnt/part rw - cgroup2 cgroup2 rw\n\
            31 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw\n";
        let mounts = procfs::process::MountInfos::from_buf_read(text).expect("mountinfo");
        assert_eq!(whole_tree(mounts), Some("/sys/fs/cgroup".into()));
        let none = procfs::process::MountInfos::from_buf_read(&b""[..]).expect("mountinfo");
        assert_eq!(whole_tree(none), None);
    }
}
