//! Ephemeral workspaces: an agent with `sandbox: { project: copy }` changes a copy of the
//! project, and a person looks at the changes and takes them over or not.
//!
//! ```text
//! ~/.local/state/exeat/workspaces/ID/
//!     lock        held by whoever uses it: the run, or one who applies or discards
//!     meta.json   whose it is ([`Meta`])
//!     upper/      what changed, as overlayfs writes it: see [`changes`]
//!     work/       overlayfs' own
//! ```
//!
//! The agent sees only the merged folder, never this one. What it left here is nevertheless
//! read as a stranger's: no link in it is followed, and nothing of it is trusted for its name,
//! depth, size or mode.

pub mod apply;
pub mod changes;
pub mod text;
mod tree;

#[cfg(test)]
mod tests;

use std::{
    env,
    fs::{self, DirBuilder, File, OpenOptions, Permissions},
    io,
    os::unix::fs::{
        DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _,
    },
    path::{Path, PathBuf},
};

use jiff::Timestamp;
use nix::{
    time::{ClockId, clock_gettime},
    unistd::{User, geteuid},
};
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

/// The most bytes of a `meta.json`.
const MAX_META: u64 = 64 * 1024;

/// Where a workspace comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Meta {
    /// The project folder, without links.
    pub project: PathBuf,
    /// Device of that folder: another one at the same path is not the project.
    pub device: u64,
    /// Inode of that folder.
    pub inode: u64,
    /// The agent.
    pub agent: String,
    /// Its run.
    pub run: String,
    /// When the run began, by the clock that file systems stamp changes with.
    pub started: Timestamp,
}

/// A workspace of this user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Workspace {
    /// Its name.
    pub id: String,
    /// Its folder.
    pub folder: PathBuf,
    /// Where it comes from.
    pub meta: Meta,
}

/// The folders of an overlay mount. Whoever mounts it keeps this for as long as the mount is
/// in use: a fork keeps it too, exec closes it.
#[derive(Debug)]
pub struct Layers {
    /// Name of the workspace.
    pub id: String,
    /// `upperdir`.
    pub upper: PathBuf,
    /// `workdir`.
    pub work: PathBuf,
    /// Held while the workspace is in use.
    _lock: Lock,
}

/// The right to use a workspace: the kernel gives it back when the last descriptor of it is
/// closed.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

/// Why a workspace cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No folder for workspaces.
    #[error("cannot use {path} for workspaces", path = path.display())]
    Store {
        /// The folder.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// None of that name.
    #[error("there is no workspace `{0}`: `exeat workspace list` shows all")]
    Unknown(String),
    /// The name fits several.
    #[error("`{0}` may be any of several workspaces: write more of its name")]
    Ambiguous(String),
}

/// Makes a workspace for a run of `agent` on `project`, as the user that the command runs as.
///
/// # Errors
/// Of [`io::ErrorKind::InvalidInput`] when the project holds the folder of workspaces, or
/// lies in it, or its path is not UTF-8; else what the system says.
pub fn prepare(project: &Path, agent: &str, run: &str) -> io::Result<Layers> {
    Store::open()?.prepare(project, agent, run)
}

/// The folder that holds a user's workspaces.
#[derive(Clone, Debug)]
pub struct Store(PathBuf);

impl Store {
    /// This user's; made if it is missing.
    ///
    /// # Errors
    /// When it cannot be made, or is another's.
    pub fn open() -> io::Result<Self> {
        Self::at(&state_home()?.join("exeat/workspaces"))
    }

    /// The one at `folder`.
    fn at(folder: &Path) -> io::Result<Self> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)?;
        let folder = fs::canonicalize(folder)?;
        let found = fs::metadata(&folder)?;
        if found.uid() != geteuid().as_raw() {
            return Err(io::Error::new(
                io::ErrorKind::PermissionDenied,
                "the folder belongs to another user",
            ));
        }
        if found.mode() & 0o077 != 0 {
            fs::set_permissions(&folder, Permissions::from_mode(0o700))?;
        }
        Ok(Self(folder))
    }

    /// See [`prepare`].
    fn prepare(&self, project: &Path, agent: &str, run: &str) -> io::Result<Layers> {
        let odd = |why: &str| Err(io::Error::new(io::ErrorKind::InvalidInput, why));
        let project = fs::canonicalize(project)?;
        if self.0.starts_with(&project) || project.starts_with(&self.0) {
            return odd("the project holds Exeat's own files: start in a folder below it");
        }
        if project.to_str().is_none() {
            return odd("the project's path is not UTF-8");
        }
        self.sweep();
        let now = Timestamp::now().strftime("%Y%m%d-%H%M%S").to_string();
        let (id, folder) = loop {
            let id = format!("{now}-{:04x}", rand::random::<u16>());
            let folder = self.0.join(&id);
            match DirBuilder::new().mode(0o700).create(&folder) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                made => break made.map(|()| (id, folder))?,
            }
        };
        let lock = Lock::create(&folder)?;
        let found = fs::metadata(&project)?;
        let (upper, work) = (folder.join("upper"), folder.join("work"));
        fs::create_dir(&upper)?;
        fs::create_dir(&work)?;
        // The merged folder has the mode of its upper layer.
        fs::set_permissions(&upper, Permissions::from_mode(found.mode() & 0o1777))?;
        let meta = Meta {
            device: found.dev(),
            inode: found.ino(),
            agent: agent.to_owned(),
            run: run.to_owned(),
            started: file_clock()?,
            project,
        };
        // Its name comes last: until then the workspace is not listed.
        let beside = folder.join("meta.new");
        fs::write(&beside, serde_json::to_vec(&meta)?)?;
        fs::rename(&beside, folder.join("meta.json"))?;
        Ok(Layers {
            id,
            upper,
            work,
            _lock: lock,
        })
    }

    /// All, the oldest first.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub fn list(&self) -> io::Result<Vec<Workspace>> {
        let mut all: Vec<Workspace> = fs::read_dir(&self.0)?
            .filter_map(|entry| {
                let id = entry.ok()?.file_name().into_string().ok()?;
                let folder = self.0.join(&id);
                let meta = read_meta(&folder).ok()?;
                Some(Workspace { id, folder, meta })
            })
            .collect();
        all.sort_by(|a, b| (a.meta.started, &a.id).cmp(&(b.meta.started, &b.id)));
        Ok(all)
    }

    /// The one whose name is, or begins with, `id`.
    ///
    /// # Errors
    /// When there is none, or more than one.
    pub fn find(&self, id: &str) -> Result<Workspace, Error> {
        let mut fitting = self
            .list()
            .map_err(|source| Error::Store {
                path: self.0.clone(),
                source,
            })?
            .into_iter()
            .filter(|one| !id.is_empty() && one.id.starts_with(id));
        match (fitting.next(), fitting.next()) {
            (None, _) => Err(Error::Unknown(id.to_owned())),
            (Some(one), None) => Ok(one),
            (Some(_), Some(_)) => Err(Error::Ambiguous(id.to_owned())),
        }
    }

    /// Takes away workspaces that nobody uses and that hold nothing. It is of no account when
    /// that fails: they are seen in the list.
    fn sweep(&self) {
        for workspace in self.list().unwrap_or_default() {
            let empty = fs::read_dir(workspace.upper()).is_ok_and(|mut all| all.next().is_none());
            if empty && let Ok(Some(lock)) = workspace.lock() {
                let _ = workspace.discard(Some(lock));
            }
        }
    }
}

impl Workspace {
    /// The upper layer.
    pub fn upper(&self) -> PathBuf {
        self.folder.join("upper")
    }

    /// The right to it, unless another has it.
    ///
    /// # Errors
    /// When the lock's file cannot be opened.
    pub fn lock(&self) -> io::Result<Option<Lock>> {
        Lock::take(&self.folder, FlockOperation::NonBlockingLockExclusive)
    }

    /// Whether the run goes on, or another applies it.
    pub fn in_use(&self) -> bool {
        // Shared, so that two who only look do not see each other.
        let taken = Lock::take(&self.folder, FlockOperation::NonBlockingLockShared);
        matches!(taken, Ok(None))
    }

    /// Takes it away for good. `lock` is none where it is taken away although in use.
    ///
    /// # Errors
    /// When something stays: the workspace is then listed still.
    pub fn discard(&self, lock: Option<Lock>) -> io::Result<()> {
        for layer in ["upper", "work"] {
            tree::remove(&self.folder, layer.as_ref())?;
        }
        for file in ["meta.json", "meta.new", "lock"] {
            match fs::remove_file(self.folder.join(file)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        drop(lock);
        fs::remove_dir(&self.folder)
    }
}

impl Lock {
    fn create(folder: &Path) -> io::Result<Self> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(folder.join("lock"))?;
        flock(&file, FlockOperation::NonBlockingLockExclusive)?;
        Ok(Self { _file: file })
    }

    fn take(folder: &Path, how: FlockOperation) -> io::Result<Option<Self>> {
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NOFOLLOW)
            .open(folder.join("lock"))?;
        match flock(&file, how) {
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
            taken => Ok(taken.map(|()| Some(Self { _file: file }))?),
        }
    }
}

/// Reads where a workspace comes from. It must be this user's.
fn read_meta(folder: &Path) -> io::Result<Meta> {
    use io::Read as _;
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(folder.join("meta.json"))?;
    let found = file.metadata()?;
    if !found.is_file() || found.uid() != geteuid().as_raw() {
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    let mut text = Vec::new();
    file.take(MAX_META).read_to_end(&mut text)?;
    Ok(serde_json::from_slice(&text)?)
}

/// The time that the kernel would stamp a file with now. The exact clock is ahead of it by up
/// to a tick, and a change right after the start would look older than the start.
fn file_clock() -> io::Result<Timestamp> {
    let now = clock_gettime(ClockId::CLOCK_REALTIME_COARSE)?;
    let nanoseconds = i32::try_from(now.tv_nsec()).map_err(io::Error::other)?;
    Timestamp::new(now.tv_sec(), nanoseconds).map_err(io::Error::other)
}

/// `$XDG_STATE_HOME`, else `~/.local/state`. Under sudo the environment may still be the
/// user's: a home that is not ours is not used.
fn state_home() -> io::Result<PathBuf> {
    let mine = |path: &Path| {
        path.is_absolute() && fs::metadata(path).is_ok_and(|m| m.uid() == geteuid().as_raw())
    };
    let named = |variable| env::var_os(variable).map(PathBuf::from);
    if let Some(state) = named("XDG_STATE_HOME").filter(|path| mine(path)) {
        return Ok(state);
    }
    let home = match named("HOME").filter(|path| mine(path)) {
        Some(home) => home,
        None => User::from_uid(geteuid())?
            .map(|user| user.dir)
            .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "this user has no home"))?,
    };
    Ok(home.join(".local/state"))
}
