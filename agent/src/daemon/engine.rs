//! The engine: the only writer of the maps. Policies and leases meet here.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::IpAddr,
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use agent_common::{Addr, layout::Bank};
use jiff::Timestamp;
use tracing::{info, warn};

use super::{
    directory::{Directory, Published},
    gates::Gates,
    state::{AgentState, Keeper, State},
};
use crate::{
    control::protocol::ReloadReport,
    kernel::{Kernel, KernelError, object::Leased, tables::Image},
    leases::{Change, ChangeKind, LeaseConfig, Leases, Name},
    policy::{self, Compiled, HostName, Policy, PolicyErrors, PolicySet},
};

/// Addresses that leases may add to a table in force, beyond those that it starts with: at
/// least this many.
const SPARE_LEAST: u32 = 1024;
/// And at the most: 64Ki elements of 24 bytes and their overhead are about 5 MB of kernel
/// memory.
const SPARE_MOST: u32 = 65_536;

/// Why a policy was not put in force.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The files are not a policy.
    #[error(transparent)]
    Policy(#[from] PolicyErrors),
    /// A policy is too large for the tables.
    #[error(transparent)]
    Compile(#[from] policy::CompileError),
    /// The kernel refused.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// A gate's sockets could not be made.
    #[error("cannot open the DNS gate of agent {agent}")]
    Gate {
        /// The agent.
        agent: String,
        /// Why not.
        source: io::Error,
    },
}

/// One agent of the policy.
pub(super) struct Agent {
    pub(super) index: u32,
    pub(super) policy: Arc<Policy>,
    compiled: Compiled,
    pub(super) generation: u32,
    /// The names that each address stands for, as the kernel holds it.
    held: BTreeMap<Addr, BTreeSet<HostName>>,
    /// Addresses that found no room.
    pub(super) overflow: BTreeSet<Addr>,
    published: Arc<Published>,
    hosts: BTreeSet<HostName>,
}

impl Agent {
    /// The names of its policy.
    pub(super) fn hosts(&self) -> &BTreeSet<HostName> {
        &self.hosts
    }

    pub(super) fn leases(&self) -> usize {
        self.held.len()
    }

    /// Names held for an address.
    pub(super) fn holds(&self, addr: IpAddr, name: &str) -> bool {
        self.held
            .get(&Addr::from(addr))
            .is_some_and(|names| names.iter().any(|held| held.as_str() == name))
    }
}

/// Policies that did not come into force, by what was wrong.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct LoadFailures {
    pub(super) invalid: u64,
    pub(super) too_large: u64,
    pub(super) kernel: u64,
}

/// What is in force, and what it was made from.
pub(super) struct Engine {
    pub(super) kernel: Kernel,
    paths: Vec<PathBuf>,
    pub(super) agents: BTreeMap<String, Agent>,
    /// Agents that left the policy while something of theirs still ran: refused, but their
    /// index is not given away.
    pub(super) retired: BTreeMap<String, u32>,
    /// Cgroup ids in `AGENTS`, by name of the agent.
    pub(super) admitted: BTreeMap<String, u64>,
    pub(super) leases: Leases,
    pub(super) gates: Gates,
    pub(super) directory: Arc<Directory>,
    keeper: Keeper,
    last: State,
    pub(super) generation: u32,
    pub(super) digest: String,
    pub(super) loaded_at: Timestamp,
    pub(super) loads_failed: LoadFailures,
    pub(super) last_error: Option<String>,
    boot_id: String,
    /// Names whose latest attempt failed.
    failing: BTreeSet<Name>,
    /// The names that are to be resolved.
    names: tokio::sync::watch::Sender<Arc<BTreeSet<Name>>>,
}

/// A policy that is ready to be put in force.
struct Candidate {
    index: u32,
    policy: Arc<Policy>,
    compiled: Compiled,
    held: BTreeMap<Addr, BTreeSet<HostName>>,
    overflow: BTreeSet<Addr>,
    image: Image,
}

impl Engine {
    pub(super) fn new(
        kernel: Kernel,
        paths: Vec<PathBuf>,
        leases: LeaseConfig,
        keeper: Keeper,
        gates: Gates,
        directory: Arc<Directory>,
        names: tokio::sync::watch::Sender<Arc<BTreeSet<Name>>>,
    ) -> anyhow::Result<Self> {
        let last = keeper.load();
        let mut engine = Self {
            kernel,
            paths,
            agents: BTreeMap::new(),
            retired: BTreeMap::new(),
            admitted: BTreeMap::new(),
            leases: Leases::new(leases)?,
            gates,
            directory,
            keeper,
            generation: last.generation,
            last,
            digest: String::new(),
            loaded_at: Timestamp::UNIX_EPOCH,
            loads_failed: LoadFailures::default(),
            last_error: None,
            boot_id: std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
                .unwrap_or_default()
                .trim()
                .to_owned(),
            failing: BTreeSet::new(),
            names,
        };
        engine.recognise()?;
        Ok(engine)
    }

    /// Finds the agents of an earlier daemon by their cgroups. Maps of a new layout do not know
    /// them yet; their index is then the one that was kept.
    fn recognise(&mut self) -> Result<(), KernelError> {
        let known: BTreeMap<u64, u32> = self.kernel.known_agents().into_iter().collect();
        for (name, id) in self.kernel.slice().agents()? {
            let kept = || self.last.agents.get(&name).map(|agent| agent.index);
            let Some(index) = known.get(&id).copied().or_else(kept) else {
                continue;
            };
            self.kernel.admit(id, index)?;
            self.retired.insert(name.clone(), index);
            self.admitted.insert(name, id);
        }
        Ok(())
    }

    /// Reads the policy files and puts them in force, all or nothing.
    pub(super) fn reload(&mut self, now: Duration) -> Result<ReloadReport, EngineError> {
        let result = policy::load_with_texts(&self.paths)
            .map_err(EngineError::from)
            .and_then(|(set, texts)| {
                let report = self.put_in_force(set, now)?;
                if let Err(error) = self.keeper.save_policy(&texts) {
                    warn!(%error, "the policy could not be kept for a later start");
                }
                Ok(report)
            });
        match &result {
            Ok(report) => {
                self.last_error = None;
                info!(
                    generation = report.generation,
                    agents = report.agents,
                    rules = report.rules,
                    digest = report.digest,
                    "policy in force"
                );
            }
            Err(error) => {
                let count = match error {
                    EngineError::Policy(_) => &mut self.loads_failed.invalid,
                    EngineError::Compile(_) => &mut self.loads_failed.too_large,
                    EngineError::Kernel(_) | EngineError::Gate { .. } => {
                        &mut self.loads_failed.kernel
                    }
                };
                *count += 1;
                self.close_idle_gates();
                let text = chain(error);
                warn!(error = text, "the policy was not changed");
                self.last_error = Some(text);
            }
        }
        result
    }

    /// Puts the policy files in force at the start or, where they are not a policy, the last
    /// ones that were. The error says why, and is what status shows until a reload succeeds.
    pub(super) fn begin(&mut self, now: Duration) -> Result<(), EngineError> {
        let Err(error) = self.reload(now) else {
            return Ok(());
        };
        let kept = self
            .keeper
            .load_policy()
            .and_then(|texts| policy::parse_all(&texts).ok());
        match kept {
            Some(set) => {
                let report = self.put_in_force(set, now)?;
                warn!(
                    generation = report.generation,
                    digest = report.digest,
                    "the last good policy is in force instead"
                );
                Ok(())
            }
            None => Err(error),
        }
    }

    /// An error before the first flip changes nothing that agents meet.
    fn put_in_force(&mut self, set: PolicySet, now: Duration) -> Result<ReloadReport, EngineError> {
        let generation = self.generation + 1;
        let names: BTreeSet<Name> = set
            .agents
            .values()
            .flat_map(|policy| policy.hosts())
            .map(|host| Name::from(host.as_str()))
            .collect();
        let indices = self.indices(set.agents.keys().map(|name| name.as_str()))?;
        let mut candidates = Vec::new();
        for (name, policy) in set.agents {
            let index = indices
                .get(name.as_str())
                .copied()
                .unwrap_or(agent_common::layout::MAX_AGENTS);
            candidates.push(self.candidate(index, Arc::new(policy), generation, now)?);
        }
        let mut prepared = Vec::new();
        for candidate in &candidates {
            prepared.push(self.kernel.prepare(candidate.index, &candidate.image)?);
        }
        self.kernel.set_gates6(&self.gates.ports6())?;
        for tables in prepared {
            self.kernel.flip(tables)?;
        }

        let rules = candidates
            .iter()
            .map(|c| c.policy.rules.len())
            .sum::<usize>();
        let before: BTreeSet<String> = self.agents.keys().cloned().collect();
        let mut changes = Vec::new();
        let mut after = BTreeMap::new();
        for candidate in candidates {
            let name = candidate.policy.name.as_str().to_owned();
            match self.agents.get(&name) {
                None => changes.push(format!("{name}: new")),
                Some(old) if old.policy.rules != candidate.policy.rules => {
                    changes.push(format!("{name}: rules changed"));
                }
                Some(old) if old.policy.mode != candidate.policy.mode => {
                    changes.push(format!("{name}: mode changed"));
                }
                Some(_) => {}
            }
            self.retired.remove(&name);
            after.insert(name, self.settle(candidate, generation));
        }
        for name in before.iter().filter(|name| !after.contains_key(*name)) {
            changes.push(format!("{name}: removed, refused from now on"));
            self.retire(name)?;
        }
        // An agent of an earlier daemon that is in no policy any more.
        for index in self.retired.values() {
            self.kernel.uninstall(*index)?;
        }
        self.agents = after;
        for change in self.leases.set_names(&names, now) {
            self.apply(&change, now);
        }
        self.failing.retain(|name| names.contains(name));
        // The receiver lives as long as the daemon does.
        let _ = self.names.send(Arc::new(names));
        self.generation = generation;
        self.digest = set.digest.clone();
        self.loaded_at = Timestamp::now();
        self.publish_all(now);
        self.remember();
        Ok(ReloadReport {
            generation,
            digest: set.digest,
            agents: self.agents.len() as u32,
            rules: rules as u32,
            sources: self.paths.clone(),
            changes,
            warnings: set.warnings.iter().map(ToString::to_string).collect(),
        })
    }

    /// Compiles one policy with the leases that its names have now, and opens its gate.
    fn candidate(
        &mut self,
        index: u32,
        policy: Arc<Policy>,
        generation: u32,
        now: Duration,
    ) -> Result<Candidate, EngineError> {
        let mut compiled = Compiled::new(&policy)?;
        let hosts = policy.hosts();
        let mut held: BTreeMap<Addr, BTreeSet<HostName>> = BTreeMap::new();
        for host in &hosts {
            for (addr, ..) in self.leases.addresses(&Name::from(host.as_str()), now) {
                held.entry(addr.into()).or_default().insert(host.clone());
            }
        }
        let mut overflow = BTreeSet::new();
        held.retain(|addr, names| match compiled.lease(*addr, names) {
            Ok(_) => true,
            Err(error) => {
                warn!(agent = policy.name.as_str(), %error, "an address has no room in the tables and stays refused");
                overflow.insert(*addr);
                false
            }
        });
        let remembered = self
            .last
            .agents
            .get(policy.name.as_str())
            .copied()
            .unwrap_or_default();
        let ports = self
            .gates
            .open(index, remembered.gate4, remembered.gate6)
            .map_err(|source| EngineError::Gate {
                agent: policy.name.to_string(),
                source,
            })?;
        let room = (hosts.len() as u32)
            .saturating_mul(self.leases.config().max_addresses_per_name as u32)
            .clamp(SPARE_LEAST, SPARE_MOST);
        let image = Image {
            exact: compiled.exact().collect(),
            prefixes: compiled.prefixes().collect(),
            entries: compiled.entries().to_vec(),
            bank: Bank {
                generation,
                mode: policy.mode as u8,
                icmp: u8::from(compiled.icmp()),
                gate4_port: ports.v4,
                gate6_port: ports.v6,
                listeners: compiled.listeners(),
                ..Bank::default()
            },
            spare: room,
        };
        Ok(Candidate {
            index,
            policy,
            compiled,
            held,
            overflow,
            image,
        })
    }

    /// Makes a candidate that is in force the agent.
    fn settle(&mut self, candidate: Candidate, generation: u32) -> Agent {
        let Candidate {
            index,
            policy,
            compiled,
            held,
            overflow,
            ..
        } = candidate;
        let published = self.gates.published(index);
        let hosts = policy.hosts();
        let denied: BTreeSet<String> = policy
            .rules
            .iter()
            .filter(|rule| rule.action == agent_common::verdict::Action::Deny)
            .filter_map(|rule| match &rule.selector {
                policy::Selector::Host(host) => Some(host.as_str().to_owned()),
                policy::Selector::Net(_) => None,
            })
            .collect();
        let allowed = policy
            .allowed_hosts()
            .into_iter()
            .map(|host| host.as_str().to_owned())
            .filter(|host| !denied.contains(host))
            .collect();
        published.set_names(&allowed);
        self.directory.update(index, |agent| {
            agent.name = policy.name.as_str().to_owned();
            agent.generation = generation;
            agent.policy = Some(Arc::clone(&policy));
            agent.names = names_of(&held);
        });
        Agent {
            index,
            policy,
            compiled,
            generation,
            held,
            overflow,
            published,
            hosts,
        }
    }

    /// Closes gates that were opened for a policy that then was not put in force.
    fn close_idle_gates(&mut self) {
        let used: BTreeSet<u32> = self.agents.values().map(|agent| agent.index).collect();
        for index in self.gates.ports().keys() {
            if !used.contains(index) {
                self.gates.close(*index);
            }
        }
    }

    /// An agent that the policy no longer has: whatever still runs is refused everything.
    fn retire(&mut self, name: &str) -> Result<(), KernelError> {
        if let Some(agent) = self.agents.get(name) {
            self.kernel.uninstall(agent.index)?;
            self.gates.close(agent.index);
            if self.admitted.contains_key(name) {
                self.retired.insert(name.to_owned(), agent.index);
            }
            self.directory
                .update(agent.index, |agent| agent.policy = None);
        }
        Ok(())
    }

    /// An index for every agent: the one that it has, had, or a free one.
    fn indices<'a>(
        &mut self,
        names: impl Iterator<Item = &'a str>,
    ) -> Result<BTreeMap<String, u32>, KernelError> {
        let mut taken: BTreeSet<u32> = self.retired.values().copied().collect();
        taken.extend(self.agents.values().map(|agent| agent.index));
        let mut found = BTreeMap::new();
        let mut fresh = Vec::new();
        for name in names {
            let has = self
                .agents
                .get(name)
                .map(|agent| agent.index)
                .or_else(|| self.retired.get(name).copied())
                .or_else(|| {
                    let last = self.last.agents.get(name)?.index;
                    (!taken.contains(&last)).then_some(last)
                });
            match has {
                Some(index) => {
                    taken.insert(index);
                    found.insert(name.to_owned(), index);
                }
                None => fresh.push(name.to_owned()),
            }
        }
        let mut free = (0..agent_common::layout::MAX_AGENTS).filter(|index| !taken.contains(index));
        for name in fresh {
            let index = free.next().ok_or(KernelError::TooManyAgents {
                max: agent_common::layout::MAX_AGENTS,
            })?;
            self.kernel.clear_stats(index)?;
            found.insert(name, index);
        }
        Ok(found)
    }

    /// Brings leases back that an earlier daemon had. Call it before the first reload.
    pub(super) fn restore_leases(&mut self, now: Duration) {
        let Some(json) = self.keeper.load_leases() else {
            return;
        };
        // Only names that are wanted are restored, so the names of the policy come first. If
        // the files do not load, `begin` will say why.
        let set = policy::load(&self.paths).ok().or_else(|| {
            let texts = self.keeper.load_policy()?;
            policy::parse_all(&texts).ok()
        });
        if let Some(set) = set {
            let names = set
                .agents
                .values()
                .flat_map(|policy| policy.hosts())
                .map(|host| Name::from(host.as_str()))
                .collect();
            self.leases.set_names(&names, now);
        }
        match self.leases.restore(&json, &self.boot_id, now) {
            Ok(changes) => info!(addresses = changes.len(), "leases of the last daemon"),
            Err(error) => warn!(%error, "the last daemon's leases cannot be used"),
        }
    }

    /// What the resolver found. The gate says it only after the kernel holds it.
    pub(super) fn resolved(
        &mut self,
        resolution: &crate::dns::resolver::Resolution,
        now: Duration,
    ) {
        match &resolution.result {
            Ok(addresses) => {
                if self.failing.remove(&resolution.name) {
                    info!(name = %resolution.name, "resolves again");
                }
                for change in self.leases.answered(&resolution.name, addresses, now) {
                    self.apply(&change, now);
                }
            }
            Err(kind) => {
                // Once for each time that it begins: the retries are in status and metrics.
                if self.failing.insert(resolution.name.clone()) {
                    warn!(
                        name = %resolution.name,
                        error = kind.as_str(),
                        upstream = resolution.upstream,
                        "does not resolve; its addresses stay until their grace ends"
                    );
                }
                self.leases.failed(&resolution.name, *kind, now);
            }
        }
        self.publish(&resolution.name, now);
        self.remember_leases();
    }

    /// Ends leases whose time has come.
    pub(super) fn expire(&mut self, now: Duration) {
        let changes = self.leases.expire(now);
        if changes.is_empty() {
            return;
        }
        for change in &changes {
            self.apply(change, now);
            self.publish(&change.name, now);
        }
        self.remember_leases();
    }

    /// Brings one change of a lease to every agent whose policy has the name.
    fn apply(&mut self, change: &Change, now: Duration) {
        let addr = Addr::from(change.addr);
        let wanted: Vec<String> = self
            .agents
            .iter()
            .filter(|(_, agent)| {
                agent
                    .hosts
                    .iter()
                    .any(|host| host.as_str() == change.name.as_ref())
            })
            .map(|(name, _)| name.clone())
            .collect();
        for name in wanted {
            if let Err(error) = self.apply_to(&name, addr, change, now) {
                warn!(agent = name, %error, "a lease could not be written; the address stays refused");
            }
        }
    }

    fn apply_to(
        &mut self,
        name: &str,
        addr: Addr,
        change: &Change,
        now: Duration,
    ) -> Result<(), EngineError> {
        let Some(agent) = self.agents.get_mut(name) else {
            return Ok(());
        };
        let mut names = agent.held.get(&addr).cloned().unwrap_or_default();
        let Ok(host) = change.name.parse::<HostName>() else {
            return Ok(());
        };
        match change.kind {
            ChangeKind::Added => names.insert(host),
            ChangeKind::Removed => names.remove(&host),
        };
        let update = match agent.compiled.lease(addr, &names) {
            Ok(update) => update,
            // Entries are only ever added to a table in force. A new table has room again,
            // if the policy itself leaves any.
            Err(_) => return self.rebuild(name, now),
        };
        let leased = self.kernel.lease(
            agent.index,
            addr,
            update.set,
            agent.compiled.entries(),
            update.appended,
        )?;
        match leased {
            Leased::Held => {
                agent.overflow.remove(&addr);
                if names.is_empty() {
                    agent.held.remove(&addr);
                } else {
                    agent.held.insert(addr, names);
                }
            }
            Leased::Full => {
                warn!(agent = name, address = %change.addr, "the table of addresses is full; the address stays refused");
                agent.held.remove(&addr);
                agent.overflow.insert(addr);
            }
        }
        let held = names_of(&agent.held);
        self.directory
            .update(agent.index, |agent| agent.names = held);
        Ok(())
    }

    /// Compiles an agent's policy anew and swaps it in.
    fn rebuild(&mut self, name: &str, now: Duration) -> Result<(), EngineError> {
        let Some(agent) = self.agents.get(name) else {
            return Ok(());
        };
        let (index, policy, generation) =
            (agent.index, Arc::clone(&agent.policy), agent.generation);
        let candidate = self.candidate(index, policy, generation, now)?;
        let prepared = self.kernel.prepare(index, &candidate.image)?;
        self.kernel.flip(prepared)?;
        let agent = self.settle(candidate, generation);
        self.agents.insert(name.to_owned(), agent);
        Ok(())
    }

    /// Tells the gates what they may answer for a name: only what the kernel holds.
    fn publish(&self, name: &Name, now: Duration) {
        for agent in self.agents.values() {
            let addresses = self
                .leases
                .answer(name, now)
                .unwrap_or_default()
                .into_iter()
                .filter(|(addr, _)| agent.holds(*addr, name))
                .map(|(addr, left)| (addr, now + left))
                .collect();
            agent.published.set(name, addresses);
        }
    }

    fn publish_all(&self, now: Duration) {
        let names = self.names.borrow().clone();
        for name in names.iter() {
            self.publish(name, now);
        }
    }

    fn remember(&mut self) {
        let ports = self.gates.ports();
        let mut agents: BTreeMap<String, AgentState> = self
            .agents
            .iter()
            .map(|(name, agent)| {
                let ports = ports.get(&agent.index).copied().unwrap_or_default();
                let state = AgentState {
                    index: agent.index,
                    gate4: ports.v4,
                    gate6: ports.v6,
                };
                (name.clone(), state)
            })
            .collect();
        for (name, index) in &self.retired {
            agents.entry(name.clone()).or_insert(AgentState {
                index: *index,
                ..AgentState::default()
            });
        }
        self.last = State {
            generation: self.generation,
            agents,
        };
        if let Err(error) = self.keeper.save(&self.last) {
            warn!(%error, "the daemon's state could not be saved; a restart will resolve names anew");
        }
    }

    pub(super) fn remember_leases(&self) {
        let saved = self
            .leases
            .snapshot(&self.boot_id)
            .map_err(io::Error::from)
            .and_then(|json| self.keeper.save_leases(&json));
        if let Err(error) = saved {
            warn!(%error, "the leases could not be saved; a restart will resolve names anew");
        }
    }
}

fn names_of(
    held: &BTreeMap<Addr, BTreeSet<HostName>>,
) -> std::collections::HashMap<Addr, BTreeSet<String>> {
    held.iter()
        .map(|(addr, names)| {
            let names = names.iter().map(|name| name.as_str().to_owned()).collect();
            (*addr, names)
        })
        .collect()
}

/// An error with its causes, in one line.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        let words = inner.to_string();
        if !text.contains(&words) {
            text.push_str(": ");
            text.push_str(&words);
        }
        source = inner.source();
    }
    text
}
