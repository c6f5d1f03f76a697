//! What is governed that no run began with: cgroups that are governed where they are
//! ([`govern`]), and programs that are caught when they are executed ([`take`]).

mod govern;
mod take;

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
};

use agent_common::{
    Protocol,
    layout::Mode,
    verdict::{Check, Query, Verdict, judge, judge_reply},
};
use tracing::warn;

pub(super) use take::Kept;

use super::{Shared, agents::Agent, engine::Engine, wake::Wakes};
use crate::{
    adopt::Rules,
    control::{CgroupReader, peer::proc_cgroup, status::AdoptedStatus},
    kernel::cgroup::Slice,
    sockets::{self, Earlier},
};

/// The port of the DNS, which only the gate may be asked at.
const DNS: u16 = 53;
/// Runs whose program is remembered for status.
const REMEMBERED: usize = 4096;

/// A cgroup that is governed where it is.
#[derive(Clone, Debug)]
pub(super) struct Governed {
    /// Its folder, from the file system's root.
    pub(super) path: PathBuf,
    /// The agent.
    pub(super) agent: String,
    /// The selector that matched it; none of one that an earlier daemon found.
    pub(super) by: Option<String>,
}

/// A program that was moved into a run.
#[derive(Clone, Debug)]
pub(super) struct Taken {
    /// Its path.
    pub(super) path: PathBuf,
    /// The selector that matched it.
    pub(super) by: String,
}

/// The selectors in force, for those who match without the engine.
#[derive(Clone, Debug, Default)]
pub(super) struct InForce(Arc<RwLock<Arc<Rules>>>);

impl InForce {
    pub(super) fn get(&self) -> Arc<Rules> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn set(&self, rules: Rules) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(rules);
    }
}

/// Paths of the governed cgroups, for those who ask without the engine.
#[derive(Clone, Debug, Default)]
pub(super) struct Wards(Arc<RwLock<BTreeSet<PathBuf>>>);

impl Wards {
    fn cover(&self, path: &Path) -> bool {
        let paths = self.0.read().unwrap_or_else(PoisonError::into_inner);
        path.ancestors().any(|above| paths.contains(above))
    }

    /// Reads the cgroup of a process for the control socket, to which a program of a governed
    /// cgroup is one of the slice: none of them is spoken to.
    pub(super) fn reader(&self, slice: &Slice) -> CgroupReader {
        let (wards, slice) = (self.clone(), slice.clone());
        let read = proc_cgroup();
        Arc::new(move |pid| {
            let text = read(pid)?;
            let below = text.lines().find_map(|line| line.strip_prefix("0::/"));
            match below.is_some_and(|below| wards.cover(&slice.root().join(below))) {
                true => Ok(format!("0::/{}\n", slice.name())),
                false => Ok(text),
            }
        })
    }
}

/// What was adopted, and by what.
#[derive(Default)]
pub(super) struct Adoption {
    pub(super) rules: InForce,
    /// By the cgroup's id.
    pub(super) governed: BTreeMap<u64, Governed>,
    /// The same for those who ask without the engine.
    pub(super) wards: Wards,
    /// By agent and run.
    pub(super) taken: BTreeMap<(String, String), Taken>,
    /// Cgroups that match and cannot be governed, and why; and other trouble.
    pub(super) troubles: BTreeMap<String, String>,
    /// Governed cgroups whose sockets are not judged yet.
    unjudged: Vec<u64>,
    /// Who is to know that the selectors changed.
    pub(super) wakes: Wakes,
    /// Nothing is adopted: a daemon that serves one run.
    pub(super) off: bool,
    /// Rounds of the housekeeping.
    rounds: u64,
}

impl Adoption {
    /// Whether a cgroup is governed for this agent.
    pub(super) fn has(&self, agent: &str) -> bool {
        self.governed.values().any(|found| found.agent == agent)
    }

    /// The agents that cgroups are governed for, some of them more than once.
    pub(super) fn agents(&self) -> impl Iterator<Item = &String> {
        self.governed.values().map(|found| &found.agent)
    }

    /// Agents by the ids of their cgroups.
    pub(super) fn owners(&self) -> BTreeMap<u64, String> {
        let one = |(id, found): (&u64, &Governed)| (*id, found.agent.clone());
        self.governed.iter().map(one).collect()
    }

    /// Its cgroup in the slice is gone, and with it its runs.
    pub(super) fn forget_runs_of(&mut self, agent: &str) {
        self.taken.retain(|(owner, _), _| owner != agent);
    }

    /// The governed cgroups changed.
    fn publish(&self) {
        let mut paths = self.wards.0.write().unwrap_or_else(PoisonError::into_inner);
        *paths = self.governed.values().map(|g| g.path.clone()).collect();
    }

    fn remember_run(&mut self, agent: &str, run: &str, taken: Taken) {
        if self.taken.len() >= REMEMBERED {
            self.taken.pop_first();
        }
        self.taken.insert((agent.to_owned(), run.to_owned()), taken);
    }
}

impl Engine {
    /// Every cgroup of an agent: the one in the slice, and those that are governed elsewhere.
    pub(super) fn cgroups_of(&self, agent: &str) -> Vec<PathBuf> {
        let elsewhere = self.adoption.governed.values();
        let elsewhere = elsewhere.filter(|found| found.agent == agent);
        std::iter::once(self.kernel.slice().folder(agent))
            .chain(elsewhere.map(|found| found.path.clone()))
            .collect()
    }

    /// What of an agent no run began with.
    pub(super) fn adopted_status(&self, agent: &str) -> Vec<AdoptedStatus> {
        let count = |path: &Path| sockets::processes_below(path).len() as u32;
        let governed = self.adoption.governed.values();
        let governed = governed
            .filter(|found| found.agent == agent)
            .map(|found| AdoptedStatus {
                what: found.path.clone(),
                by: found.by.clone(),
                run: None,
                processes: count(&found.path),
            });
        let folder = self.kernel.slice().folder(agent);
        let taken = self.adoption.taken.iter();
        let taken = taken
            .filter(|((owner, _), _)| owner == agent)
            .map(|((_, run), taken)| AdoptedStatus {
                what: taken.path.clone(),
                by: Some(taken.by.clone()),
                processes: count(&folder.join(run)),
                run: Some(run.clone()),
            })
            .filter(|taken| taken.processes > 0);
        governed.chain(taken).collect()
    }

    /// A policy was put in force: its selectors are what counts from now on. What they do not
    /// match any more stays whose it is.
    pub(super) fn match_anew(&mut self) {
        if self.adoption.off {
            return;
        }
        let agents = self.agents.iter();
        let agents = agents.map(|(name, agent)| (name.as_str(), &agent.policy.matching));
        self.adoption.rules.set(Rules::new(agents));
        self.adoption.troubles.clear();
        self.adopt_cgroups();
        self.adoption.wakes.wake();
    }

    /// Those of an agent's earlier sockets that its policy does not allow. `own` are the ids of
    /// its cgroups, whose packets are judged one by one.
    fn not_allowed(&self, agent: &str, sockets: Vec<Earlier>, own: &[u64]) -> Vec<Earlier> {
        let own: HashSet<u64> = own.iter().copied().collect();
        let agent = self.agents.get(agent);
        let refused = |socket: &Earlier| match agent {
            Some(agent) => !may_stay(agent, socket, own.contains(&socket.cgroup)),
            None => true,
        };
        sockets.into_iter().filter(refused).collect()
    }
}

/// Whether a policy lets an earlier socket go on; `seen`: its packets are judged.
fn may_stay(agent: &Agent, socket: &Earlier, seen: bool) -> bool {
    if agent.policy.mode == Mode::Monitor {
        return true;
    }
    let Some(peer) = socket.peer else {
        // What connects or sends is asked then; what is accepted would be seen by nobody.
        return seen || !socket.listens;
    };
    let protocol = Protocol::new(socket.protocol);
    let query = |port| Query {
        addr: peer.ip().into(),
        port,
        protocol,
    };
    // A name that counts was said before anybody read it.
    let forward = matches!(
        judge(&agent.compiled, &query(peer.port())),
        Verdict::Allow { check: Check::None, .. } if peer.port() != DNS
    );
    let reply = || judge_reply(&agent.compiled, &query(socket.local.port())).is_allow();
    forward || protocol == Protocol::TCP && reply()
}

/// Judges the sockets that were there before their cgroups were governed, without the engine's
/// lock while they are read.
pub(super) fn judge_earlier(shared: &Shared) {
    loop {
        let next = shared.with(|engine| {
            let id = engine.adoption.unjudged.pop()?;
            let found = engine.adoption.governed.get(&id);
            Some(found.map(|found| (found.path.clone(), found.agent.clone())))
        });
        let Some(next) = next else {
            return;
        };
        let Some((path, agent)) = next else {
            continue;
        };
        let ids = sockets::cgroups_below(&path);
        let ended = sockets::earlier(&sockets::processes_below(&path), &ids).and_then(|held| {
            let refused = shared.with(|engine| engine.not_allowed(&agent, held.sockets, &ids));
            sockets::destroy(refused)
        });
        match ended {
            Ok(0) => {}
            Ok(ended) => {
                tracing::info!(agent, cgroup = %path.display(), ended, "sockets from before were ended");
            }
            Err(error) => {
                warn!(agent, cgroup = %path.display(), %error, "sockets from before are not ended; packets of those that were made in the cgroup are judged all the same");
            }
        }
    }
}

/// Starts the threads that watch for cgroups and programs.
pub(super) fn begin(
    shared: &Arc<Shared>,
    kept: Kept,
    tasks: &mut tokio::task::JoinSet<()>,
    cancel: &tokio_util::sync::CancellationToken,
) -> anyhow::Result<()> {
    use anyhow::Context as _;
    let wakes = shared.with(|engine| engine.adoption.wakes.clone());
    let bells = (
        wakes.bell().context("cannot make an eventfd")?,
        wakes.bell().context("cannot make an eventfd")?,
    );
    let ended = cancel.clone();
    tasks.spawn(async move {
        ended.cancelled().await;
        wakes.wake();
    });
    let (one, cancelled) = (Arc::clone(shared), cancel.clone());
    tasks.spawn_blocking(move || govern::watch(&one, &bells.0, &cancelled));
    let (two, cancelled) = (Arc::clone(shared), cancel.clone());
    tasks.spawn_blocking(move || take::watch(&two, kept, &bells.1, &cancelled));
    Ok(())
}
