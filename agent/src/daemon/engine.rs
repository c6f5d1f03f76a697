//! The engine: the only writer of the maps. Policies and leases meet here.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io,
    net::IpAddr,
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use anyhow::Context as _;
use jiff::Timestamp;
use tracing::{info, warn};

use super::{
    adopt::Adoption,
    agents::{self, Agent},
    asking::Asking,
    bundles::Bundles,
    directory::Directory,
    evidence,
    gates::Gates,
    gateways::Gateways,
    limits::Ledger,
    names::Unsaved,
    state::{AgentState, Held, Keeper, State},
    trust::{Trust, TrustError},
    walls,
};
use crate::{
    control::protocol::ReloadReport,
    error::chain,
    gateway::ProxyError,
    identity::Judged,
    incident::Incident,
    kernel::{Kernel, KernelError, limits::Unmet},
    leases::{LeaseConfig, Leases, Name, Snapshot},
    policy::{self, Policy, PolicyErrors, PolicySet},
    sink::Hub,
};

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
    /// A gateway's sockets could not be made.
    #[error("cannot open the gateway of agent {agent}")]
    Gateway {
        /// The agent.
        agent: String,
        /// Why not.
        source: io::Error,
    },
    /// Connections cannot be inspected, and a policy asks for it.
    #[error("connections cannot be inspected")]
    Trust(#[source] TrustError),
    /// A proxy of the policy cannot be used.
    #[error("agent {agent}: a proxy of its policy cannot be used")]
    Proxy {
        /// The agent.
        agent: String,
        /// Why not.
        source: ProxyError,
    },
}

/// Policies that did not come into force, by what was wrong.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct LoadFailures {
    pub(super) invalid: u64,
    pub(super) too_large: u64,
    pub(super) kernel: u64,
}

/// The ways out that lead through the daemon, and of what is told.
pub(super) struct Ways {
    pub(super) gates: Gates,
    pub(super) gateways: Gateways,
    pub(super) trust: Trust,
    /// Where events go.
    pub(super) hub: Arc<Hub>,
    /// Where people are asked.
    pub(super) desk: crate::asking::Desk,
}

/// What is in force, and what it was made from.
pub(super) struct Engine {
    pub(super) kernel: Kernel,
    pub(super) paths: Vec<PathBuf>,
    pub(super) agents: BTreeMap<String, Agent>,
    /// Agents that left the policy while something of theirs still ran: refused, but their
    /// index is not given away.
    pub(super) retired: BTreeMap<String, u32>,
    /// Cgroup ids in `AGENTS`, by name of the agent.
    pub(super) admitted: BTreeMap<String, u64>,
    /// Names of the agents, by index.
    pub(super) owners: BTreeMap<u32, String>,
    pub(super) leases: Leases,
    /// The last daemon's leases, and the addresses that sockets use, by agent: until a policy
    /// is in force.
    pub(super) last_leases: Option<(Snapshot, BTreeMap<String, BTreeSet<IpAddr>>)>,
    pub(super) unsaved: Unsaved,
    /// Where leases that come are written down until the next snapshot.
    pub(super) journal: Option<File>,
    /// When it was last asked which addresses live sockets use.
    pub(super) asked: Duration,
    pub(super) gates: Gates,
    pub(super) gateways: Gateways,
    pub(super) trust: Trust,
    /// Sockets of others that agents may connect to.
    pub(super) sockets: walls::Sockets,
    pub(super) directory: Arc<Directory>,
    /// When runs began, and what was told of their limits.
    pub(super) ledger: Ledger,
    /// Limits that do not hold, by agent.
    pub(super) unmet: BTreeMap<String, Vec<Unmet>>,
    /// The agents that are frozen, and since when.
    pub(super) held: Held,
    /// What runs were started from, by agent and run, where policies identify programs.
    pub(super) programs: BTreeMap<(String, String), Vec<Judged>>,
    /// Where incidents go, and flows.
    pub(super) hub: Arc<Hub>,
    pub(super) keeper: Keeper,
    pub(super) last: State,
    pub(super) generation: u32,
    pub(super) digest: String,
    pub(super) loaded_at: Timestamp,
    pub(super) loads_failed: LoadFailures,
    pub(super) last_error: Option<String>,
    pub(super) boot_id: String,
    /// Whether `exeat run` makes sandboxes (`sandbox` of the configuration).
    pub(super) sandbox: bool,
    /// Who makes the agents' scopes, where there is one.
    pub(super) systemd: Option<crate::systemd::Systemd>,
    /// No daemon has enforced anything here before.
    pub(super) nothing_pinned: bool,
    /// What people said, and are asked.
    pub(super) asking: Asking,
    /// Names whose latest attempt failed.
    pub(super) failing: BTreeSet<Name>,
    /// What is governed that no run began with.
    pub(super) adoption: Adoption,
    /// Where this network translates to IPv4.
    pub(super) nat64: crate::nat64::Nat64,
    /// The portal that is open.
    pub(super) portal: Option<super::portal::Portal>,
    /// The names that are to be resolved.
    pub(super) names: tokio::sync::watch::Sender<Arc<BTreeSet<Name>>>,
    /// The signed policy, if there is one.
    pub(super) bundles: Bundles,
}

impl Engine {
    pub(super) fn new(
        kernel: Kernel,
        paths: Vec<PathBuf>,
        leases: LeaseConfig,
        keeper: Keeper,
        Ways {
            gates,
            gateways,
            trust,
            hub,
            desk,
        }: Ways,
        directory: Arc<Directory>,
        names: tokio::sync::watch::Sender<Arc<BTreeSet<Name>>>,
    ) -> anyhow::Result<Self> {
        let last = keeper.load();
        let held = keeper
            .load_held()
            .context("cannot read which agents are frozen (`frozen.json` in the state folder)")?;
        // The file that says it may be lost; what the kernel holds is not.
        let generation = last.generation.max(kernel.newest_generation());
        let boot_id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
            .unwrap_or_default()
            .trim()
            .to_owned();
        let asking = Asking::load(desk, &keeper, &boot_id)?;
        let mut engine = Self {
            kernel,
            paths,
            agents: BTreeMap::new(),
            retired: BTreeMap::new(),
            admitted: BTreeMap::new(),
            programs: BTreeMap::new(),
            owners: BTreeMap::new(),
            leases: Leases::new(leases)?,
            last_leases: None,
            unsaved: Unsaved::default(),
            journal: None,
            asked: Duration::ZERO,
            gates,
            gateways,
            trust,
            sockets: walls::Sockets::default(),
            directory,
            ledger: keeper.load_ledger(),
            unmet: BTreeMap::new(),
            held,
            hub,
            keeper,
            generation,
            last,
            digest: String::new(),
            loaded_at: Timestamp::UNIX_EPOCH,
            loads_failed: LoadFailures::default(),
            last_error: None,
            boot_id,
            asking,
            failing: BTreeSet::new(),
            adoption: Adoption::default(),
            nat64: crate::nat64::Nat64::default(),
            portal: None,
            sandbox: true,
            systemd: None,
            nothing_pinned: false,
            names,
            bundles: Bundles::default(),
        };
        engine.recognise()?;
        engine.hold_again()?;
        engine.recognise_adopted();
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
            for run in self.kernel.slice().runs(&name)? {
                self.kernel.admit_run(run, index)?;
            }
            self.retired.insert(name.clone(), index);
            self.admitted.insert(name, id);
        }
        Ok(())
    }

    /// Reads the policy files and puts them in force, all or nothing.
    pub(super) fn reload(&mut self, now: Duration) -> Result<ReloadReport, EngineError> {
        let modes = evidence::modes(self);
        let result = self.compose(true).and_then(|(set, texts)| {
            let report = self.put_in_force(set, now)?;
            if let Err(error) = self.keeper.save_policy(&texts) {
                warn!(%error, "the policy could not be kept for a later start");
            }
            Ok(report)
        });
        match &result {
            Ok(report) => {
                self.last_error = None;
                self.tell_loaded(report, &modes, false);
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
                    EngineError::Policy(_) | EngineError::Proxy { .. } => {
                        &mut self.loads_failed.invalid
                    }
                    EngineError::Compile(_) => &mut self.loads_failed.too_large,
                    EngineError::Kernel(_)
                    | EngineError::Gate { .. }
                    | EngineError::Gateway { .. }
                    | EngineError::Trust(_) => &mut self.loads_failed.kernel,
                };
                *count += 1;
                self.close_idle_gates();
                let text = chain(error);
                warn!(error = text, "the policy was not changed");
                self.tell_refused(&text);
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
        let kept = match self.has_bundle() {
            true => self.compose(false).ok().map(|(set, _)| set),
            false => (self.keeper.load_policy()).and_then(|t| policy::parse_all(&t).ok()),
        };
        match kept {
            Some(set) => {
                let report = self.put_in_force(set, now)?;
                self.tell_loaded(&report, &BTreeMap::new(), true);
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

    /// Whether this machine has had no policy so far: then folders without a file are no mistake
    /// but a fresh installation. Once there was one, a folder that has become empty keeps it in
    /// force, as any other error does.
    pub(super) fn none_yet(&self) -> bool {
        let none_kept = match self.keeper.load_policy() {
            Some(texts) => texts.is_empty(),
            None => self.nothing_pinned,
        };
        none_kept && self.agents.is_empty() && policy::none_written(&self.paths)
    }

    /// An error before the first flip changes nothing that agents meet.
    pub(super) fn put_in_force(
        &mut self,
        mut set: PolicySet,
        now: Duration,
    ) -> Result<ReloadReport, EngineError> {
        let bases = self.join_grants(&mut set);
        let generation = self.generation + 1;
        let names: BTreeSet<Name> = set
            .agents
            .values()
            .flat_map(|policy| policy.hosts())
            .map(|host| Name::from(host.as_str()))
            .collect();
        let indices = self.indices(set.agents.keys().map(|name| name.as_str()))?;
        self.restore_leases(&indices, now);
        let inspects = set.agents.values().any(Policy::inspects);
        let authority = inspects.then(|| self.trust.open()).transpose();
        let authority = authority.map_err(EngineError::Trust)?;
        let mut candidates = Vec::new();
        for (name, policy) in set.agents {
            let index = indices
                .get(name.as_str())
                .copied()
                .unwrap_or(agent_common::layout::MAX_AGENTS);
            candidates.push(self.candidate(
                index,
                Arc::new(policy),
                generation,
                now,
                authority.as_ref(),
            )?);
        }
        let mut prepared = Vec::new();
        for candidate in &candidates {
            prepared.push(self.kernel.prepare(candidate.index, &candidate.image)?);
        }
        for (name, index) in &indices {
            if self.stays_cut(name) {
                self.kernel.isolate(*index, true)?;
            }
        }
        self.kernel.set_gates6(&self.ports6())?;
        for tables in prepared {
            self.kernel.flip(tables)?;
        }

        let rules = bases.values().map(|base| base.rules.len()).sum::<usize>();
        let before: BTreeSet<String> = self.agents.keys().cloned().collect();
        let mut changes = Vec::new();
        let mut after = BTreeMap::new();
        for candidate in candidates {
            let name = candidate.policy.name.as_str().to_owned();
            let base = bases.get(&name);
            match self.base(&name).filter(|_| self.agents.contains_key(&name)) {
                None => changes.push(format!("{name}: new")),
                Some(old) if base.is_some_and(|base| old.rules != base.rules) => {
                    changes.push(format!("{name}: rules changed"));
                }
                Some(old) if old.mode != candidate.policy.mode => {
                    changes.push(format!("{name}: mode changed"));
                }
                Some(_) => {}
            }
            self.retired.remove(&name);
            after.insert(name, self.settle(candidate, generation, now));
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
        self.last_leases = None;
        self.owners = self
            .agents
            .iter()
            .map(|(name, agent)| (agent.index, name.clone()))
            .collect();
        for agent in self.agents.values() {
            // The new tables were made without what goes here.
            let rule = |name: &str| agents::rule(&agent.hosts, &agent.names, name);
            self.leases.set_names(agent.index, &rule, now);
            agent.published.clear();
            self.publish_all(agent.index, now);
        }
        self.show_sockets();
        self.unsaved.touch();
        self.leases.watch(&names);
        self.failing.retain(|name| names.contains(name));
        // The receiver lives as long as the daemon does.
        let _ = self.names.send(Arc::new(names));
        self.generation = generation;
        self.digest = set.digest.clone();
        self.loaded_at = Timestamp::now();
        self.set_bases(bases);
        self.remember();
        self.apply_all_limits();
        self.match_anew();
        Ok(ReloadReport {
            generation: self.generation,
            digest: set.digest,
            agents: self.agents.len() as u32,
            rules: rules as u32,
            sources: self.paths.clone(),
            changes,
            warnings: set
                .warnings
                .iter()
                .map(ToString::to_string)
                .chain(self.limits_unmet())
                .collect(),
        })
    }

    /// Closes gates that were opened for a policy that then was not put in force.
    fn close_idle_gates(&mut self) {
        let used: BTreeSet<u32> = self.agents.values().map(|agent| agent.index).collect();
        for index in self.gates.ports().keys() {
            if !used.contains(index) {
                self.gates.close(*index);
            }
        }
        for index in self.gateways.agents() {
            if !used.contains(&index) {
                self.gateways.close(index);
            }
        }
    }

    /// Tells of an incident.
    pub(super) fn incident(&self, incident: Incident) {
        self.hub.incident(incident);
    }

    /// The agent of an index.
    pub(super) fn agent(&self, index: u32) -> Option<&Agent> {
        self.agents.get(self.owners.get(&index)?)
    }

    /// Agents by the ports of their gate and gateway at `::1`.
    pub(super) fn ports6(&self) -> BTreeMap<u16, u32> {
        let mut ports = self.gates.ports6();
        ports.extend(self.gateways.ports6());
        ports
    }

    /// An agent that the policy no longer has: whatever still runs is refused everything.
    fn retire(&mut self, name: &str) -> Result<(), KernelError> {
        if let Some(agent) = self.agents.get(name) {
            self.kernel.uninstall(agent.index)?;
            self.gates.close(agent.index);
            self.gateways.close(agent.index);
            self.leases.forget(agent.index);
            if self.admitted.contains_key(name) || self.adoption.has(name) {
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
            self.kernel.isolate(index, self.stays_cut(&name))?;
            found.insert(name, index);
        }
        Ok(found)
    }

    pub(super) fn remember(&mut self) {
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
                    gateway: self.gateways.remembered(agent.index),
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
            adopted: self.adoption.owners(),
        };
        if let Err(error) = self.keeper.save(&self.last) {
            warn!(%error, "the daemon's state could not be saved; a restart will resolve names anew");
        }
    }
}
