//! Cgroups that are governed where they are: found by walking the tree, and by inotify when one
//! is made.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    fs, io,
    os::fd::AsFd as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::inotify::{AddWatchFlags, InitFlags, Inotify, WatchDescriptor},
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{Governed, judge_earlier};
use crate::{
    adopt::containers::Stores,
    daemon::{Shared, engine::Engine, wake::Bell},
    error::chain,
    incident::{Incident, IncidentKind},
    kernel::{
        adopted::level,
        cgroup::{self, Slice},
    },
};

/// How often the tree is walked where inotify is not to be had.
const ROUND: Duration = Duration::from_secs(1);
/// How often it is walked all the same.
const SOMETIMES: Duration = Duration::from_secs(30);
/// How many rounds of the housekeeping pass between two looks at the links.
const LOOK_EVERY: u64 = 10;
/// Cgroups that are looked at in one walk.
const MOST: usize = 65_536;

/// The folders below `top` that are not in the slice, itself first, those above before those
/// below, as long as `descend` says so.
fn walk(slice: &Slice, top: &Path, mut descend: impl FnMut(&Path) -> bool) {
    let mut folders = VecDeque::from([top.to_owned()]);
    let mut seen = 0;
    while let Some(folder) = folders.pop_front() {
        if folder.starts_with(slice.path()) {
            continue;
        }
        seen += 1;
        if seen > MOST || !descend(&folder) {
            continue;
        }
        let entries = fs::read_dir(&folder).into_iter().flatten().flatten();
        let below = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
        folders.extend(below.map(|entry| entry.path()));
    }
}

/// The daemon's own cgroup, which is never governed, nor is one that holds it.
fn own_cgroup(slice: &Slice) -> Option<PathBuf> {
    let text = fs::read_to_string("/proc/self/cgroup").ok()?;
    let path = text.lines().find_map(|line| line.strip_prefix("0::/"))?;
    Some(slice.root().join(path))
}

impl Engine {
    /// Finds the cgroups that an earlier daemon governed. Those that are gone are forgotten.
    pub(in crate::daemon) fn recognise_adopted(&mut self) {
        let known: BTreeMap<u64, u32> = self.kernel.adopted().into_iter().collect();
        let held: BTreeSet<u64> = known
            .keys()
            .copied()
            .chain(self.kernel.adopted_links())
            .collect();
        if held.is_empty() {
            return;
        }
        let mut paths = HashMap::new();
        let slice = self.kernel.slice().clone();
        walk(&slice, slice.root(), |folder| {
            if let Ok(id) = cgroup::id(folder)
                && held.contains(&id)
            {
                paths.insert(id, folder.to_owned());
            }
            true
        });
        for id in held {
            let Some(path) = paths.remove(&id) else {
                if let Err(error) = self.kernel.release(id) {
                    warn!(
                        error = chain(&error),
                        "the maps still know a cgroup that is gone"
                    );
                }
                continue;
            };
            let kept = self.last.adopted.get(&id).cloned();
            let by_name = || {
                self.last
                    .agents
                    .get(kept.as_ref()?)
                    .map(|agent| agent.index)
            };
            // Nobody knows whose it is: its packets are refused as long as the links stand.
            let Some(index) = known.get(&id).copied().or_else(by_name) else {
                continue;
            };
            let by_index = || {
                let mut agents = self.last.agents.iter();
                let found = agents.find(|(_, agent)| agent.index == index);
                found.map(|(name, _)| name.clone())
            };
            // No agent is called so: it stays refused until a policy matches it.
            let agent = kept.or_else(by_index).unwrap_or(format!("({index})"));
            if let Err(error) = self.kernel.admit_adopted(&path, index) {
                warn!(error = chain(&error), cgroup = %path.display(), "a cgroup that was governed is refused");
                continue;
            }
            self.retired.insert(agent.clone(), index);
            let by = None;
            self.adoption
                .governed
                .insert(id, Governed { path, agent, by });
        }
        self.narrow_levels();
    }

    /// Walks the whole tree.
    pub(in crate::daemon) fn adopt_cgroups(&mut self) {
        let root = self.kernel.slice().root().to_owned();
        self.adopt_below(&root);
    }

    /// Governs what matches at or below a folder. A cgroup below one that is governed is the
    /// same agent's, whatever its name.
    pub(in crate::daemon) fn adopt_below(&mut self, top: &Path) {
        let rules = self.adoption.rules.get();
        if !rules.has_cgroups() {
            return;
        }
        let slice = self.kernel.slice().clone();
        let own = own_cgroup(&slice);
        let stores = Stores::default();
        let mut wanted = Vec::new();
        let governed = &self.adoption.governed;
        let mut above: BTreeSet<&Path> = governed.values().map(|g| g.path.as_path()).collect();
        above.retain(|path| *path != top);
        if above.iter().any(|path| top.starts_with(path)) {
            return;
        }
        walk(&slice, top, |folder| {
            let Ok(below) = folder.strip_prefix(slice.root()) else {
                return false;
            };
            let Some(text) = below.to_str().filter(|text| !text.is_empty()) else {
                return true;
            };
            let found = rules.cgroup(text, |id| stores.find(id));
            let Some(found) = found else {
                // What was governed stays so, and what is below it is its own.
                return !governed.values().any(|g| g.path == folder);
            };
            wanted.push((
                folder.to_owned(),
                found.agent.to_owned(),
                found.by.to_string(),
            ));
            own.as_ref().is_some_and(|own| own.starts_with(folder))
        });
        let mut changed = false;
        for (path, agent, by) in wanted {
            if own.as_ref().is_some_and(|own| own.starts_with(&path)) {
                self.trouble(&path, "is not governed: the daemon itself runs in it");
                continue;
            }
            changed |= self.govern(path, agent, by);
        }
        if changed {
            self.remember();
        }
    }

    fn trouble(&mut self, path: &Path, why: &str) {
        let name = path.display().to_string();
        let news = self
            .adoption
            .troubles
            .insert(name, why.to_owned())
            .is_none();
        if news {
            warn!(cgroup = %path.display(), "a cgroup that matches {why}");
        }
    }

    /// Governs one cgroup; whether that is news.
    fn govern(&mut self, path: PathBuf, agent: String, by: String) -> bool {
        let Ok(id) = cgroup::id(&path) else {
            return false;
        };
        let Some(index) = self.agents.get(&agent).map(|agent| agent.index) else {
            return false;
        };
        if let Some(known) = self.adoption.governed.get_mut(&id)
            && known.agent == agent
        {
            known.by = Some(by.clone());
            if self.kernel.stands_at(id) {
                return false;
            }
        }
        if let Err(error) = self.kernel.govern(&path, index) {
            // Its own makers may have removed it meanwhile.
            if path.exists() {
                self.trouble(&path, &format!("is not governed whole: {}", chain(&error)));
            }
        }
        let below = path
            .strip_prefix(self.kernel.slice().root())
            .unwrap_or(&path);
        self.incident(Incident::new(
            IncidentKind::Adopted,
            agent.as_str(),
            format!(
                "the cgroup /{} is governed where it is, by `{by}`",
                below.display()
            ),
        ));
        let by = Some(by);
        self.adoption
            .governed
            .insert(id, Governed { path, agent, by });
        self.adoption.publish();
        self.adoption.unjudged.push(id);
        true
    }

    /// Forgets cgroups that are gone, and looks now and then whether the links of the others
    /// stand.
    pub(in crate::daemon) fn tend_adopted(&mut self) {
        let gone: Vec<u64> = self
            .adoption
            .governed
            .iter()
            .filter(|(id, found)| cgroup::id(&found.path).ok() != Some(**id))
            .map(|(id, _)| *id)
            .collect();
        for id in &gone {
            let Some(found) = self.adoption.governed.remove(id) else {
                continue;
            };
            if let Err(error) = self.kernel.release(*id) {
                warn!(
                    error = chain(&error),
                    "the maps still know a cgroup that is gone"
                );
            }
            info!(agent = found.agent, cgroup = %found.path.display(), "a governed cgroup is gone");
            if !self.adoption.has(&found.agent) && !self.admitted.contains_key(&found.agent) {
                self.retired.remove(&found.agent);
            }
        }
        if !gone.is_empty() {
            self.narrow_levels();
            self.remember();
        }
        self.adoption.rounds += 1;
        if !self.adoption.rounds.is_multiple_of(LOOK_EVERY) {
            return;
        }
        let fallen: Vec<(PathBuf, String)> = self
            .adoption
            .governed
            .iter()
            .filter(|(id, _)| !self.kernel.stands_at(**id))
            .map(|(_, found)| (found.path.clone(), found.agent.clone()))
            .collect();
        for (path, agent) in fallen {
            warn!(agent, cgroup = %path.display(), "links of a governed cgroup were taken down from outside; putting them back");
            let index = self.agents.get(&agent).map(|agent| agent.index);
            let Some(index) = index.or_else(|| self.retired.get(&agent).copied()) else {
                continue;
            };
            if let Err(error) = self.kernel.govern(&path, index) {
                warn!(error = chain(&error), "they could not be put back");
            }
        }
    }

    /// Has the programs look at no level where nothing is governed.
    fn narrow_levels(&mut self) {
        self.adoption.publish();
        let root = self.kernel.slice().root();
        let governed = self.adoption.governed.values();
        let levels = governed
            .map(|found| level(found.path.strip_prefix(root).unwrap_or(&found.path)))
            .filter(|level| *level < u64::BITS)
            .fold(0, |levels, level| levels | 1_u64 << level);
        if let Err(error) = self.kernel.set_levels(levels) {
            warn!(
                error = chain(&error),
                "the programs look at more levels than they need"
            );
        }
    }
}

/// Watches the tree for new cgroups until it is cancelled. Blocks.
pub(in crate::daemon) fn watch(shared: &Arc<Shared>, bell: &Bell, cancel: &CancellationToken) {
    let (slice, rules) = shared.with(|engine| {
        let slice = engine.kernel.slice().clone();
        (slice, engine.adoption.rules.clone())
    });
    let mut watches: Option<Watches> = None;
    let mut told = false;
    loop {
        judge_earlier(shared);
        if cancel.is_cancelled() {
            return;
        }
        if !rules.get().has_cgroups() {
            watches = None;
            wait(None, bell, None);
            continue;
        }
        if watches.is_none() {
            watches = Watches::new(&slice)
                .inspect_err(|error| {
                    if !told {
                        warn!(%error, "new cgroups are looked for once a second: inotify is not to be had");
                    }
                    told = true;
                })
                .ok();
            // What was made before it was watched.
            shared.with(|engine| engine.adopt_cgroups());
            judge_earlier(shared);
        }
        let patience = match watches {
            Some(_) => SOMETIMES,
            None => ROUND,
        };
        let inotify = watches.as_ref().map(|watches| &watches.inotify);
        if !wait(inotify, bell, Some(patience)) {
            shared.with(|engine| engine.adopt_cgroups());
            continue;
        }
        let Some(watching) = &mut watches else {
            continue;
        };
        match watching.made(&slice) {
            Ok(made) => shared.with(|engine| {
                for folder in &made {
                    engine.adopt_below(folder);
                }
            }),
            Err(error) => {
                warn!(%error, "new cgroups may have been missed; the tree is walked anew");
                watches = None;
            }
        }
    }
}

/// Waits for either; false when the time is over.
fn wait(inotify: Option<&Inotify>, bell: &Bell, patience: Option<Duration>) -> bool {
    let timeout = patience
        .and_then(|patience| PollTimeout::try_from(patience).ok())
        .unwrap_or(PollTimeout::NONE);
    let mut fds = vec![PollFd::new(bell.as_fd(), PollFlags::POLLIN)];
    if let Some(inotify) = inotify {
        fds.push(PollFd::new(inotify.as_fd(), PollFlags::POLLIN));
    }
    let woken = poll(&mut fds, timeout);
    bell.quiet();
    !matches!(woken, Ok(0))
}

/// A watch at every cgroup that is not in the slice.
struct Watches {
    inotify: Inotify,
    folders: HashMap<WatchDescriptor, PathBuf>,
}

impl Watches {
    fn new(slice: &Slice) -> io::Result<Self> {
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
        let mut watches = Self {
            inotify,
            folders: HashMap::new(),
        };
        watches.add(slice, slice.root())?;
        Ok(watches)
    }

    /// Watches a folder and what is below it.
    fn add(&mut self, slice: &Slice, top: &Path) -> io::Result<()> {
        let mut failed = None;
        walk(slice, top, |folder| {
            let flags =
                AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MOVED_TO | AddWatchFlags::IN_ONLYDIR;
            match self.inotify.add_watch(folder, flags) {
                Ok(watch) => {
                    self.folders.insert(watch, folder.to_owned());
                }
                // It is gone already.
                Err(Errno::ENOENT) => return false,
                Err(error) => failed = Some(error),
            }
            true
        });
        match failed {
            Some(error) => Err(error.into()),
            None => Ok(()),
        }
    }

    /// The cgroups that were made.
    fn made(&mut self, slice: &Slice) -> io::Result<Vec<PathBuf>> {
        let events = match self.inotify.read_events() {
            Ok(events) => events,
            Err(Errno::EAGAIN) => return Ok(Vec::new()),
            Err(error) => return Err(error.into()),
        };
        let mut made = Vec::new();
        for event in events {
            if event.mask.contains(AddWatchFlags::IN_Q_OVERFLOW) {
                return Err(io::Error::other("there were too many at once"));
            }
            if event.mask.contains(AddWatchFlags::IN_IGNORED) {
                self.folders.remove(&event.wd);
                continue;
            }
            if !event.mask.contains(AddWatchFlags::IN_ISDIR) {
                continue;
            }
            if let (Some(folder), Some(name)) = (self.folders.get(&event.wd), event.name) {
                let folder = folder.join(name);
                self.add(slice, &folder)?;
                made.push(folder);
            }
        }
        Ok(made)
    }
}
