//! Programs that are caught when they are executed, before their first instruction, and moved
//! into a run of their agent.
//!
//! ```text
//! exec ─► kernel asks ─► reader ─┬─ nobody's ────────────────────────────────► go on
//!                                ├─ by digest? ─► hashers ─┬─ nobody's ───────► go on
//!                                └─ an agent's ────────────┴─► mover ─► moved ► go on
//! ```
//!
//! The reader takes no lock that anybody works under, so a program that is nobody's never waits
//! for the daemon's other work. A question that is dropped is answered all the same: with no
//! where its path is an agent's, else with yes.
//!
//! Two groups are asked. One has a mark at every file system, and ends with the daemon: what is
//! executed while none runs is found by the next one's scan. The other has a mark at each file
//! that `executable` names, and is kept by the service manager: those wait for the next daemon,
//! and nothing else does.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    fs::{self, File},
    io,
    os::{
        fd::{AsFd as _, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd},
        unix::fs::MetadataExt as _,
    },
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{Receiver, SyncSender, TrySendError, sync_channel},
    },
    thread,
    time::Duration,
};

use agent_common::layout::Mode;
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::fanotify::{
        EventFFlags, Fanotify, FanotifyEvent, FanotifyResponse, InitFlags, MarkFlags, MaskFlags,
        Response,
    },
};
use procfs::process::Process;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::{InForce, Taken};
use crate::{
    adopt::Rules,
    control::protocol::Problem,
    daemon::{
        Shared,
        engine::Engine,
        fd_store::{FdStore, Owner, Service},
        runs::{Candidate, fallen},
        wake::Bell,
    },
    error::chain,
    identity,
    incident::{Incident, IncidentKind},
    kernel::KernelError,
    policy::Policy,
    sockets,
};

/// Programs that may wait to be hashed, and to be moved.
const ROOM: usize = 4096;
/// Threads that hash.
const HASHERS: usize = 3;
/// How often running programs are looked for where the kernel cannot be asked.
const ROUND: Duration = Duration::from_secs(1);
/// Scans that follow each other while programs start others.
const SCANS: usize = 5;
/// Descriptors of questions that a daemon before may have taken and not answered.
const NUMBERS: i32 = 65_536;
/// A glob that names more programs than this holds up none while no daemon runs: it would hold
/// up the machine.
const MOST_KEPT: usize = 64;
/// Files that one glob is looked for in.
const MOST_FILES: usize = 65_536;

/// File systems without programs, or that are the kernel's own.
const NO_PROGRAMS: &[&str] = &[
    "autofs",
    "binfmt_misc",
    "bpf",
    "cgroup",
    "cgroup2",
    "configfs",
    "debugfs",
    "devpts",
    "efivarfs",
    "fusectl",
    "hugetlbfs",
    "mqueue",
    "nsfs",
    "proc",
    "pstore",
    "rpc_pipefs",
    "securityfs",
    "selinuxfs",
    "sysfs",
    "tracefs",
];

/// The group that outlives the daemon; none where the kernel has no such thing.
pub(in crate::daemon) struct Kept(Option<Fanotify>);

fn group() -> nix::Result<Fanotify> {
    let flags = InitFlags::FAN_CLASS_CONTENT
        | InitFlags::FAN_CLOEXEC
        | InitFlags::FAN_NONBLOCK
        | InitFlags::FAN_UNLIMITED_QUEUE
        | InitFlags::FAN_UNLIMITED_MARKS;
    let files = EventFFlags::O_RDONLY | EventFFlags::O_LARGEFILE | EventFFlags::O_CLOEXEC;
    Fanotify::init(flags, files)
}

impl Kept {
    /// The one that the last daemon left, else a new one.
    pub(in crate::daemon) fn open(store: &Mutex<FdStore>) -> Self {
        const KIND: &str = "fanotify";
        let owner = Owner::new(Service::Programs, "exec", 0);
        let left = |mut kept: BTreeMap<String, OwnedFd>| {
            let fd = kept.remove(KIND).ok_or(io::ErrorKind::NotFound)?;
            // SAFETY: what is kept under this name was made by `group`.
            let kept = unsafe { Fanotify::from_owned_fd(fd) };
            refuse_unanswered(&kept);
            Ok(kept)
        };
        let mut store = store.lock().unwrap_or_else(PoisonError::into_inner);
        let opened = store.take_or_open(
            &owner,
            left,
            || group().map_err(io::Error::from),
            |kept| vec![(KIND.to_owned(), kept.as_fd())],
        );
        match opened {
            Ok(kept) => Self(Some(kept)),
            Err(error) => {
                debug!(%error, "no fanotify");
                Self(None)
            }
        }
    }
}

/// Says no to what the last daemon had taken up and did not answer: nobody else can, and each is
/// a program that a selector names. The kernel knows questions by their descriptor's number.
fn refuse_unanswered(kept: &Fanotify) {
    for number in 0..NUMBERS {
        // SAFETY: only the number is used, and nothing is read, written or closed by it.
        let number = unsafe { BorrowedFd::borrow_raw(number) };
        // ENOENT: there is no such question.
        let _ = kept.write_response(FanotifyResponse::new(number, Response::FAN_DENY));
    }
}

/// A program that waits in its exec.
struct Held {
    group: Arc<Fanotify>,
    event: FanotifyEvent,
    /// What is answered if nobody else does.
    fallback: Response,
}

impl Held {
    fn answer(mut self, response: Response) {
        self.fallback = response;
    }

    fn pid(&self) -> u32 {
        u32::try_from(self.event.pid()).unwrap_or(0)
    }

    /// Its program, open to be read.
    fn file(&self) -> io::Result<File> {
        let fd = self.event.fd().ok_or(io::ErrorKind::NotFound)?;
        fd.try_clone_to_owned().map(File::from)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(fd) = self.event.fd() {
            // It was killed while it waited.
            let _ = self
                .group
                .write_response(FanotifyResponse::new(fd, self.fallback));
        }
    }
}

/// A program that is an agent's.
struct Matched {
    held: Held,
    path: PathBuf,
    agent: String,
    by: String,
}

/// The groups and what they are marked at.
struct Groups {
    all: Arc<Fanotify>,
    kept: Option<Arc<Fanotify>>,
    /// Whether file systems are marked.
    marked: bool,
}

impl Groups {
    fn new(kept: Kept) -> nix::Result<Self> {
        Ok(Self {
            all: Arc::new(group()?),
            kept: kept.0.map(Arc::new),
            marked: false,
        })
    }

    /// Marks what the selectors need, and no more: without one of programs nothing on this
    /// machine is asked about.
    fn settle(&mut self, rules: &Rules) {
        if !rules.has_programs() {
            if std::mem::take(&mut self.marked) {
                self.flush(&self.all, MarkFlags::FAN_MARK_FILESYSTEM);
            }
        } else {
            self.marked = true;
            self.mark_file_systems();
        }
        let Some(kept) = &self.kept else {
            return;
        };
        let wanted: BTreeSet<PathBuf> = rules
            .executables()
            .map(files_of)
            .filter(|files| files.len() <= MOST_KEPT)
            .flatten()
            .filter(|path| may_wait(path))
            .collect();
        // A mark goes with its file's inode, so those of an earlier daemon and those of files
        // that were replaced are made anew.
        self.flush(kept, MarkFlags::empty());
        for path in &wanted {
            if let Err(error) = mark(kept, MarkFlags::empty(), path) {
                debug!(path = %path.display(), %error, "a program is not watched over a restart");
            }
        }
    }

    fn flush(&self, group: &Fanotify, kind: MarkFlags) {
        let flags = MarkFlags::FAN_MARK_FLUSH | kind;
        let flushed = group.mark(flags, MaskFlags::empty(), nix::fcntl::AT_FDCWD, Some("/"));
        if let Err(error) = flushed {
            warn!(%error, "the kernel still asks about programs");
        }
    }

    /// Every file system that this mount namespace shows. A mark goes with its file system, so
    /// all are made anew.
    fn mark_file_systems(&self) {
        let mounts = Process::myself().and_then(|me| me.mountinfo());
        let mounts = match mounts {
            Ok(mounts) => mounts,
            Err(error) => {
                warn!(%error, "new file systems are not watched for programs");
                return;
            }
        };
        for mount in mounts {
            if NO_PROGRAMS.contains(&mount.fs_type.as_str()) {
                continue;
            }
            if let Err(error) = mark(
                &self.all,
                MarkFlags::FAN_MARK_FILESYSTEM,
                &mount.mount_point,
            ) {
                debug!(path = %mount.mount_point.display(), %error, "programs of a file system are not watched");
            }
        }
    }
}

fn mark(group: &Fanotify, kind: MarkFlags, path: &Path) -> nix::Result<()> {
    group.mark(
        MarkFlags::FAN_MARK_ADD | kind,
        MaskFlags::FAN_OPEN_EXEC_PERM,
        nix::fcntl::AT_FDCWD,
        Some(path),
    )
}

/// Whether a program may wait as long as no daemon runs: not what starts the daemon itself.
fn may_wait(path: &Path) -> bool {
    let own = fs::read_link("/proc/self/exe").unwrap_or_default();
    let own = own.to_string_lossy();
    let own = Path::new(own.trim_end_matches(" (deleted)"));
    let same = |path: &Path| {
        let found = fs::metadata(path).ok();
        found.map(|found| (found.dev(), found.ino())) == itself()
    };
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let starts = ["/lib/systemd", "/usr/lib/systemd"];
    let loader = name.starts_with("ld-") || name.starts_with("ld.so");
    path != own
        && !same(path)
        && path.file_name() != own.file_name()
        && !loader
        && !starts.iter().any(|folder| path.starts_with(folder))
}

/// The files that a glob of paths names now.
fn files_of(glob: &str) -> Vec<PathBuf> {
    let whole = Path::new(glob);
    if !glob.contains(['*', '?']) {
        return vec![whole.to_owned()];
    }
    let mut folders = vec![PathBuf::from("/")];
    let mut looked = 0;
    for part in whole.components().skip(1) {
        let part = part.as_os_str().to_string_lossy();
        // Any depth: what is there is caught while a daemon runs.
        if part == "**" {
            return Vec::new();
        }
        if !part.contains(['*', '?']) {
            folders.iter_mut().for_each(|folder| folder.push(&*part));
            continue;
        }
        let Ok(glob) = globset::Glob::new(&part) else {
            return Vec::new();
        };
        let glob = glob.compile_matcher();
        let mut found = Vec::new();
        for folder in folders {
            for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
                looked += 1;
                if looked > MOST_FILES {
                    return Vec::new();
                }
                if glob.is_match(entry.file_name()) {
                    found.push(entry.path());
                }
            }
        }
        folders = found;
    }
    folders.into_iter().filter(|path| path.is_file()).collect()
}

/// Catches programs until it is cancelled. Blocks.
pub(in crate::daemon) fn watch(
    shared: &Arc<Shared>,
    kept: Kept,
    bell: &Bell,
    cancel: &CancellationToken,
) {
    let rules = shared.with(|engine| engine.adoption.rules.clone());
    let groups = Groups::new(kept);
    let (to_hash, hashing) = sync_channel(ROOM);
    let (to_move, moving) = sync_channel(ROOM);
    // One scan may wait for the one that is under way.
    let (to_scan, scanning) = sync_channel(1);
    let hashing = Mutex::new(hashing);
    thread::scope(|scope| {
        for _ in 0..HASHERS {
            let to_move = to_move.clone();
            let (hashing, rules) = (&hashing, &rules);
            spawn(scope, "hash", move || hash(hashing, &to_move, rules));
        }
        spawn(scope, "move", move || {
            for matched in moving {
                move_in(shared, matched);
            }
        });
        let in_force = &rules;
        spawn(scope, "scan", move || {
            for () in scanning {
                scan(shared, in_force);
            }
        });
        match groups {
            Ok(groups) => Reader {
                groups,
                rules: &rules,
                to_hash,
                to_move,
                to_scan,
                itself: itself(),
            }
            .run(bell, cancel),
            Err(error) => {
                let why = format!(
                    "programs are looked for once a second, and not caught when they are executed: no fanotify ({error})"
                );
                drop((to_hash, to_move));
                look(shared, &rules, &why, &to_scan, bell, cancel);
            }
        }
    });
}

fn spawn<'scope>(
    scope: &'scope thread::Scope<'scope, '_>,
    name: &str,
    work: impl FnOnce() + Send + 'scope,
) {
    let thread = thread::Builder::new().name(format!("programs-{name}"));
    if let Err(error) = thread.spawn_scoped(scope, work) {
        warn!(%error, name, "a thread that programs wait for cannot be started: they are refused");
    }
}

/// Device and inode of this program: it is never moved.
fn itself() -> Option<(u64, u64)> {
    let found = fs::metadata("/proc/self/exe").ok()?;
    Some((found.dev(), found.ino()))
}

/// Without the kernel's questions.
fn look(
    shared: &Arc<Shared>,
    rules: &InForce,
    why: &str,
    to_scan: &SyncSender<()>,
    bell: &Bell,
    cancel: &CancellationToken,
) {
    while !cancel.is_cancelled() {
        let programs = rules.get().has_programs();
        if programs {
            shared.with(|engine| {
                let troubles = &mut engine.adoption.troubles;
                if troubles.insert("fanotify".into(), why.into()).is_none() {
                    warn!("{why}");
                }
            });
            let _ = to_scan.try_send(());
        }
        let patience = match programs {
            true => PollTimeout::try_from(ROUND).unwrap_or(PollTimeout::MAX),
            false => PollTimeout::NONE,
        };
        let _ = poll(
            &mut [PollFd::new(bell.as_fd(), PollFlags::POLLIN)],
            patience,
        );
        bell.quiet();
    }
}

struct Reader<'a> {
    groups: Groups,
    rules: &'a InForce,
    to_hash: SyncSender<(Held, PathBuf)>,
    to_move: SyncSender<Matched>,
    to_scan: SyncSender<()>,
    itself: Option<(u64, u64)>,
}

impl Reader<'_> {
    fn run(mut self, bell: &Bell, cancel: &CancellationToken) {
        let mounts = File::open("/proc/self/mountinfo").ok();
        self.begin();
        loop {
            let mut fds = vec![
                PollFd::new(bell.as_fd(), PollFlags::POLLIN),
                PollFd::new(self.groups.all.as_fd(), PollFlags::POLLIN),
            ];
            if let Some(kept) = &self.groups.kept {
                fds.push(PollFd::new(kept.as_fd(), PollFlags::POLLIN));
            }
            if let Some(mounts) = &mounts {
                fds.push(PollFd::new(mounts.as_fd(), PollFlags::POLLPRI));
            }
            let _ = poll(&mut fds, PollTimeout::NONE);
            let rung = |fd: &PollFd<'_>| fd.revents().is_some_and(|events| !events.is_empty());
            let bell_rings = fds.first().is_some_and(rung);
            let mounted = mounts.is_some() && fds.last().is_some_and(rung);
            drop(fds);
            if cancel.is_cancelled() {
                return;
            }
            for group in std::iter::once(&self.groups.all).chain(&self.groups.kept) {
                self.read(group);
            }
            if bell_rings {
                bell.quiet();
                self.begin();
            } else if mounted && self.rules.get().has_programs() {
                self.groups.mark_file_systems();
            }
        }
    }

    /// The selectors are new.
    fn begin(&mut self) {
        let rules = self.rules.get();
        self.groups.settle(&rules);
        if rules.has_programs() {
            let _ = self.to_scan.try_send(());
        }
    }

    fn read(&self, group: &Arc<Fanotify>) {
        loop {
            let events = match group.read_events() {
                Ok(events) if events.is_empty() => return,
                Ok(events) => events,
                Err(Errno::EAGAIN) => return,
                Err(error) => {
                    warn!(%error, "questions about programs cannot be read");
                    return;
                }
            };
            for event in events {
                if event.mask().contains(MaskFlags::FAN_Q_OVERFLOW) {
                    warn!(
                        "the kernel lost questions about programs; those that run are looked for"
                    );
                    let _ = self.to_scan.try_send(());
                    continue;
                }
                let held = Held {
                    group: Arc::clone(group),
                    event,
                    fallback: Response::FAN_ALLOW,
                };
                self.decide(held);
            }
        }
    }

    fn decide(&self, mut held: Held) {
        if held.pid() == std::process::id() {
            return;
        }
        let Some(fd) = held.event.fd() else {
            return;
        };
        let Ok(path) = fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd())) else {
            return;
        };
        let rules = self.rules.get();
        let found = rules.program(&path, None);
        if found.is_none() && !rules.has_digests() {
            return;
        }
        let identity = held.file().and_then(|file| file.metadata());
        if identity.is_ok_and(|found| Some((found.dev(), found.ino())) == self.itself) {
            return;
        }
        if found.is_some() {
            held.fallback = Response::FAN_DENY;
        }
        match found {
            Some(found) if !rules.has_digests() => {
                let matched = Matched {
                    agent: found.agent.to_owned(),
                    by: found.by.to_string(),
                    held,
                    path,
                };
                self.hand_over(matched);
            }
            _ => {
                if let Err(TrySendError::Full((held, path))) = self.to_hash.try_send((held, path)) {
                    warn!(path = %path.display(), pid = held.pid(), "too many programs at once: one is judged by its path alone");
                    let _ = self.to_scan.try_send(());
                }
            }
        }
    }

    fn hand_over(&self, matched: Matched) {
        if let Err(TrySendError::Full(matched)) = self.to_move.try_send(matched) {
            warn!(agent = matched.agent, path = %matched.path.display(), "too many programs of agents at once: one is refused");
        }
    }
}

/// Whose the programs are, by their digests too.
fn hash(
    hashing: &Mutex<Receiver<(Held, PathBuf)>>,
    to_move: &SyncSender<Matched>,
    rules: &InForce,
) {
    loop {
        let next = hashing
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .recv();
        let Ok((held, path)) = next else {
            return;
        };
        let digest = held.file().and_then(|file| identity::digest(&file));
        let digest = digest
            .map(|digest| digest.to_string())
            .inspect_err(|error| {
                warn!(path = %path.display(), %error, "a program cannot be hashed, and is judged by its path alone");
            })
            .ok();
        let rules = rules.get();
        let Some(found) = rules.program(&path, digest.as_deref()) else {
            held.answer(Response::FAN_ALLOW);
            continue;
        };
        let mut held = held;
        held.fallback = Response::FAN_DENY;
        let matched = Matched {
            agent: found.agent.to_owned(),
            by: found.by.to_string(),
            held,
            path,
        };
        if let Err(TrySendError::Full(matched)) = to_move.try_send(matched) {
            warn!(agent = matched.agent, path = %matched.path.display(), "too many programs of agents at once: one is refused");
        }
    }
}

fn move_in(shared: &Shared, matched: Matched) {
    let Matched {
        held,
        path,
        agent,
        by,
    } = matched;
    let fit = shared
        .with(|engine| (!engine.governs(held.pid())).then(|| engine.policy_of(&agent)))
        .flatten()
        .map_or(Ok(()), |policy| is_fit(shared, &held, &path, &policy));
    if fit.is_err() {
        held.answer(Response::FAN_DENY);
        return;
    }
    match take(shared, held.pid(), &path, &agent, &by) {
        Ok(()) => held.answer(Response::FAN_ALLOW),
        Err(why) => {
            shared.hub.incident(
                Incident::new(
                    IncidentKind::Adopted,
                    agent,
                    format!(
                        "{} was refused: it could not be put under its policy: {why}",
                        path.display()
                    ),
                )
                .of_process(held.pid(), None),
            );
            held.answer(Response::FAN_DENY);
        }
    }
}

/// Whether a program may be its agent's by what the policy says of programs and of walls. An
/// incident tells of one that may not; in monitor mode it starts all the same.
fn is_fit(shared: &Shared, held: &Held, path: &Path, policy: &Policy) -> Result<(), ()> {
    let (pid, name) = (held.pid(), policy.name.as_str());
    shared
        .with(|engine| engine.check_required(name, policy, pid))
        .map_err(drop)?;
    let launchers = policy.require.iter().find(|wall| wall.is_of_the_launcher());
    if let (Some(wall), Mode::Enforce) = (launchers, policy.mode) {
        let message = format!(
            "{} was refused: the policy requires `{}`, which only `exeat run` puts up",
            path.display(),
            wall.as_str()
        );
        let incident = Incident::new(IncidentKind::WallMissing, name, message);
        shared.hub.incident(incident.of_process(pid, None));
        return Err(());
    }
    if !policy.identity.says_something() {
        return Ok(());
    }
    let verdict = match held.file() {
        Ok(file) => {
            let root = PathBuf::from(format!("/proc/{pid}/root"));
            identity::judge(&policy.identity, &file, path, &root)
        }
        Err(error) => {
            warn!(path = %path.display(), %error, "a program cannot be judged, and is refused");
            return Err(());
        }
    };
    let identity::Verdict::Refused(refused) = verdict else {
        return Ok(());
    };
    let incident = Incident::new(IncidentKind::IdentityMismatch, name, refused.to_string());
    shared.hub.incident(incident.of_process(pid, None));
    match policy.mode {
        Mode::Enforce => Err(()),
        Mode::Monitor => Ok(()),
    }
}

/// Moves a process into a run of its agent, unless it is somebody's already, and ends what it
/// was connected to that the policy does not allow.
fn take(shared: &Shared, pid: u32, path: &Path, agent: &str, by: &str) -> Result<(), String> {
    let pidfd = pidfd(pid).map_err(|error| format!("its process is not to be had ({error})"))?;
    if shared.with(|engine| engine.governs(pid)) {
        return Ok(());
    }
    let candidate = Candidate {
        pid,
        pidfd: pidfd.as_fd(),
    };
    let taken = Taken {
        path: path.to_owned(),
        by: by.to_owned(),
    };
    let _scope = shared.keep_scope(agent);
    shared
        .with(|engine| engine.take(&candidate, agent, taken))
        .map_err(|problem| problem.message)?;
    let held = sockets::earlier(&[pid], &[]).map_err(|error| chain(&error))?;
    let enforced = shared.with(|engine| engine.enforces(agent));
    if enforced && let Some(kind) = held.others.first() {
        return Err(format!(
            "it holds a socket ({kind}) that no rule can speak of"
        ));
    }
    let refused = shared.with(|engine| engine.not_allowed(agent, held.sockets, &[]));
    let ended = sockets::destroy(refused)
        .map_err(|error| format!("a socket that it holds cannot be ended: {}", chain(&error)))?;
    if ended > 0 {
        info!(agent, pid, ended, "sockets from before were ended");
    }
    Ok(())
}

/// A descriptor of a process.
fn pidfd(pid: u32) -> io::Result<OwnedFd> {
    if pid == 0 {
        return Err(io::ErrorKind::NotFound.into());
    }
    // SAFETY: it takes numbers, and answers with a new descriptor, which is ours alone.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    match i32::try_from(fd) {
        // SAFETY: as above.
        Ok(fd) if fd >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Path of a process's cgroup below the cgroup2 root.
fn cgroup_of(pid: u32) -> Option<PathBuf> {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    let path = text.lines().find_map(|line| line.strip_prefix("0::/"))?;
    // What systemd shows of one that was removed under its process.
    Some(path.trim_end_matches(" (deleted)").into())
}

impl Engine {
    /// Whether a process is somebody's.
    fn governs(&self, pid: u32) -> bool {
        let Some(below) = cgroup_of(pid) else {
            return false;
        };
        let slice = self.kernel.slice();
        let path = slice.root().join(below);
        path.starts_with(slice.path()) && path != slice.path()
            || self
                .adoption
                .governed
                .values()
                .any(|found| path.starts_with(&found.path))
    }

    fn policy_of(&self, agent: &str) -> Option<Arc<Policy>> {
        let agent = self.agents.get(agent)?;
        Some(Arc::clone(&agent.policy))
    }

    fn enforces(&self, agent: &str) -> bool {
        let agent = self.agents.get(agent);
        agent.is_none_or(|agent| agent.policy.mode == Mode::Enforce)
    }

    /// Moves a process into a new run of an agent.
    fn take(&mut self, process: &Candidate<'_>, name: &str, taken: Taken) -> Result<(), Problem> {
        use crate::control::protocol::Code;
        let refuse = |why: String| Problem::new(Code::NotEnforceable, why, "");
        let Some(agent) = self.agents.get(name) else {
            return Err(refuse("the policy has no such agent any more".to_owned()));
        };
        let index = agent.index;
        if self.held.contains_key(name) {
            return Err(refuse(format!("agent {name} is frozen")));
        }
        let fallen = fallen(self);
        if !fallen.is_empty() {
            return Err(refuse(fallen.join("; ")));
        }
        let run = self
            .join(process, name, index)
            .map_err(|error: KernelError| refuse(chain(&error)))?;
        if !process.is_alive() {
            return Err(refuse("it ended while it was being moved".to_owned()));
        }
        let run = run.path.file_name().unwrap_or_default().to_string_lossy();
        let uid = fs::metadata(format!("/proc/{}", process.pid)).map(|found| found.uid());
        self.incident(
            Incident::new(
                IncidentKind::Adopted,
                name,
                format!(
                    "{} runs under its policy, by `{}`",
                    taken.path.display(),
                    taken.by
                ),
            )
            .of_run(&*run)
            .of_process(process.pid, uid.ok()),
        );
        self.adoption.remember_run(name, &run, taken);
        Ok(())
    }
}

/// A process as a scan finds it.
struct Seen {
    parent: u32,
    exe: PathBuf,
}

/// Moves what runs already and is an agent's, and what it has started.
fn scan(shared: &Shared, rules: &InForce) {
    let mut hopeless = HashSet::new();
    for _ in 0..SCANS {
        let rules = rules.get();
        let found = matching(shared, &rules);
        let mut moved = false;
        for (pid, path, agent, by) in found {
            if hopeless.contains(&pid) {
                continue;
            }
            match take(shared, pid, &path, &agent, &by) {
                Ok(()) => moved = true,
                Err(why) => {
                    hopeless.insert(pid);
                    if Path::new(&format!("/proc/{pid}")).exists() {
                        warn!(agent, pid, path = %path.display(), why, "a program that runs already could not be put under its policy whole");
                    }
                }
            }
        }
        if !moved {
            return;
        }
    }
}

/// Every process that is to be moved.
fn matching(shared: &Shared, rules: &Rules) -> Vec<(u32, PathBuf, String, String)> {
    let mut all: BTreeMap<u32, Seen> = BTreeMap::new();
    let own = std::process::id();
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    for pid in pids.filter(|pid| *pid != own && *pid != 1) {
        // A kernel thread has no program.
        let Ok(exe) = fs::read_link(format!("/proc/{pid}/exe")) else {
            continue;
        };
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let parent = status.lines().find_map(|line| line.strip_prefix("PPid:"));
        let parent = parent.and_then(|text| text.trim().parse().ok());
        let parent = parent.unwrap_or(0);
        all.insert(pid, Seen { parent, exe });
    }
    let mut owners: HashMap<u32, (String, String)> = HashMap::new();
    for (pid, seen) in &all {
        let file = File::open(format!("/proc/{pid}/exe"));
        if let Ok(found) = file
            .as_ref()
            .map_err(drop)
            .and_then(|f| f.metadata().map_err(drop))
            && itself() == Some((found.dev(), found.ino()))
        {
            continue;
        }
        let digest = match rules.has_digests() {
            true => file
                .and_then(|file| identity::digest(&file))
                .map(|digest| digest.to_string())
                .ok(),
            false => None,
        };
        // A program whose file was replaced is still what it was.
        let text = seen.exe.to_string_lossy();
        let path = Path::new(text.trim_end_matches(" (deleted)"));
        if let Some(found) = rules.program(path, digest.as_deref()) {
            owners.insert(*pid, (found.agent.to_owned(), found.by.to_string()));
        }
    }
    // What a program of an agent has started is the agent's, whatever it is.
    let mut found = Vec::new();
    for (pid, seen) in &all {
        let mut at = *pid;
        let mut steps = 0;
        while let Some(seen) = all.get(&at)
            && !owners.contains_key(&at)
            && steps < all.len()
        {
            (at, steps) = (seen.parent, steps + 1);
        }
        if let Some((agent, by)) = owners.get(&at) {
            found.push((*pid, seen.exe.clone(), agent.clone(), by.clone()));
        }
    }
    found.retain(|(pid, ..)| !shared.with(|engine| engine.governs(*pid)));
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn globs_of_programs_are_found_on_the_disk() {
        let folder = tempfile::tempdir().expect("folder");
        let root = folder.path();
        for name in ["a/1/bin", "a/2/bin", "a/2/other", "b/1/bin"] {
            let path = root.join(name);
            fs::create_dir_all(path.parent().expect("parent")).expect("folders");
            fs::write(path, "").expect("write");
        }
        let of = |glob: &str| {
            let mut found = files_of(&format!("{}/{glob}", root.display()));
            found.sort();
            found
        };
        assert_eq!(of("a/*/bin"), [root.join("a/1/bin"), root.join("a/2/bin")]);
        assert_eq!(of("a/2/oth??"), [root.join("a/2/other")]);
        assert!(of("c/*").is_empty() && of("a/**").is_empty());
        // It may come later.
        assert_eq!(of("plain"), [root.join("plain")]);
    }

    #[test]
    fn a_process_is_known_by_its_cgroup() {
        assert!(cgroup_of(std::process::id()).is_some());
        assert_eq!(cgroup_of(0), None);
        assert!(pidfd(std::process::id()).is_ok());
        assert!(pidfd(0).is_err());
    }
}
