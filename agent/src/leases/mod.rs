//! Which addresses a name of an agent stands for, and until when.
//!
//! Pure: no clock, no runtime, no file. Time is a [`Duration`] since boot
//! (`CLOCK_BOOTTIME`, which counts suspend), handed in by the caller. What changes is
//! returned as [`Change`]s; the engine writes them to the kernel maps *before* it lets
//! the gate answer from them, so a DNS answer never runs ahead of the maps.
//!
//! A lease is of an agent, a name and an address. Nothing that one agent does changes
//! another's. It has two times:
//!
//! ```text
//! answer ──── promise ───────────────── deadline
//!        TTL that a client may have │ TTL, then grace │ kept while a socket uses it
//!        never taken                │ taken for a fresher one when there is no room
//! ```
//!
//! The promise is as long as any client may keep the answer, and holds whatever happens
//! (but for a policy that no longer has the name). What then has no room is refused, and
//! counted: never an older promise broken. A name that fails to resolve keeps what it has.

mod agent;
mod config;
pub(crate) mod guard;
#[cfg(test)]
mod model_tests;
mod snapshot;
mod status;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use agent::AgentLeases;
pub use agent::LeaseView;
pub use config::{CLIENT_TTL, LeaseConfig, LeaseConfigError};
pub use guard::canonical;
pub use snapshot::{RestoreError, Snapshot, journal_head};
use status::Watched;
pub use status::{NameState, NameStatus};

/// A host name in its canonical form: lower-case A-labels, no trailing dot.
pub type Name = Arc<str>;

/// Why a name could not be resolved.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum FailKind {
    /// The name does not exist (`NXDOMAIN`).
    NxDomain,
    /// The name exists and has no address.
    NoAddresses,
    /// The server could not resolve it (`SERVFAIL`).
    ServFail,
    /// The server refused to resolve it.
    Refused,
    /// No answer in time.
    Timeout,
    /// The server could not be reached.
    Network,
    /// No server is configured.
    NoUpstream,
    /// An answer that cannot be used: another error code, broken, truncated or forged.
    BadAnswer,
    /// Every address of the answer was one that no name may stand for.
    Rebind,
}

impl FailKind {
    /// Every kind, in the order of [`FailKind::index`].
    pub const ALL: [Self; 9] = [
        Self::NxDomain,
        Self::NoAddresses,
        Self::ServFail,
        Self::Refused,
        Self::Timeout,
        Self::Network,
        Self::NoUpstream,
        Self::BadAnswer,
        Self::Rebind,
    ];

    /// The word in status, log and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NxDomain => "nxdomain",
            Self::NoAddresses => "no_addresses",
            Self::ServFail => "servfail",
            Self::Refused => "refused",
            Self::Timeout => "timeout",
            Self::Network => "network",
            Self::NoUpstream => "no_upstream",
            Self::BadAnswer => "bad_answer",
            Self::Rebind => "rebind",
        }
    }

    /// Place in [`FailKind::ALL`].
    pub const fn index(self) -> usize {
        self as usize
    }
}

/// What happened to an address of a name.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum ChangeKind {
    /// The name stands for it from now on.
    Added,
    /// The name no longer stands for it.
    Removed,
}

/// One address that a name of an agent gained or lost.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Change {
    /// Index of the agent.
    pub agent: u32,
    /// The name.
    pub name: Name,
    /// The address; never a v4-mapped one.
    pub addr: IpAddr,
    /// Gained or lost.
    pub kind: ChangeKind,
}

/// What became of an answer.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Answered {
    /// What the kernel has to hold or to give up. Removals come before additions, so that a
    /// map at its bound has the room.
    pub changes: Vec<Change>,
    /// Addresses that the name may not stand for, as they were in the answer.
    pub rebound: Vec<IpAddr>,
    /// Addresses that there is no room for.
    pub refused: usize,
}

/// What was left out, since the daemon started.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct LeaseCounters {
    /// Addresses of answers that no name may stand for.
    pub rebind_dropped: u64,
    /// Addresses of a single answer beyond the bound of a name.
    pub answers_over_bound: u64,
    /// Addresses that found no room, because nothing older could be taken for them, or
    /// because the kernel's table had none.
    pub refused: u64,
    /// Leases that gave way to fresher ones before their deadline.
    pub evicted: u64,
}

/// The leases of every agent.
#[derive(Clone, Debug)]
pub struct Leases {
    config: LeaseConfig,
    /// The latest time seen: boot time never goes back, so an earlier one is a mistake
    /// of the caller and must neither revive nor end a lease.
    now: Duration,
    agents: BTreeMap<u32, AgentLeases>,
    /// The names that are resolved unasked.
    watched: BTreeMap<Name, Watched>,
    counters: LeaseCounters,
}

impl Leases {
    /// No names and no leases.
    ///
    /// # Errors
    /// When the configuration contradicts itself; see [`LeaseConfig::validate`].
    pub fn new(config: LeaseConfig) -> Result<Self, LeaseConfigError> {
        config.validate()?;
        Ok(Self {
            config,
            now: Duration::ZERO,
            agents: BTreeMap::new(),
            watched: BTreeMap::new(),
            counters: LeaseCounters::default(),
        })
    }

    fn advance(&mut self, now: Duration) -> Duration {
        self.now = self.now.max(now);
        self.now
    }

    /// Takes an answer for an agent: addresses with their TTL in seconds, the largest where
    /// one is there twice. The agent's policy has the name; `private` is whether its rule
    /// lets it stand for private addresses.
    pub fn answered(
        &mut self,
        agent: u32,
        name: &Name,
        answer: &[(IpAddr, u32)],
        private: bool,
        now: Duration,
    ) -> Answered {
        let now = self.advance(now);
        let mut result = Answered::default();
        let mut usable: BTreeMap<IpAddr, u32> = BTreeMap::new();
        for (addr, ttl) in answer {
            match canonical(*addr, private) {
                Some(addr) => {
                    let known = usable.entry(addr).or_insert(*ttl);
                    *known = (*known).max(*ttl);
                }
                None => result.rebound.push(*addr),
            }
        }
        self.counters.rebind_dropped += result.rebound.len() as u64;
        while usable.len() > self.config.max_addresses_per_name {
            usable.pop_last();
            result.refused += 1;
        }
        self.counters.answers_over_bound += result.refused as u64;
        if usable.is_empty() {
            return result;
        }
        let leases = self.agents.entry(agent).or_default();
        let taken = leases.take(&self.config, name, &usable, now);
        self.counters.evicted += taken.gone.len() as u64;
        self.counters.refused += taken.refused as u64;
        result.refused += taken.refused;
        let change = |kind| {
            move |(name, addr)| Change {
                agent,
                name,
                addr,
                kind,
            }
        };
        let gone = taken.gone.into_iter().map(change(ChangeKind::Removed));
        let come = taken.come.into_iter().map(change(ChangeKind::Added));
        result.changes = gone.chain(come).collect();
        result
    }

    /// Takes back what [`Leases::answered`] gave, because the kernel has no room for it.
    pub fn revoke(&mut self, agent: u32, name: &Name, addr: IpAddr) {
        if let Some(leases) = self.agents.get_mut(&agent)
            && leases.remove(name, addr)
        {
            self.counters.refused += 1;
        }
    }

    /// Drops what the agent's policy no longer has. `rule` says of a name whether the policy
    /// has it (`None`: no), and whether it may stand for private addresses.
    pub fn set_names(
        &mut self,
        agent: u32,
        rule: &dyn Fn(&str) -> Option<bool>,
        now: Duration,
    ) -> Vec<Change> {
        self.advance(now);
        let Some(leases) = self.agents.get_mut(&agent) else {
            return Vec::new();
        };
        let mut changes = Vec::new();
        for (name, addresses) in leases.all() {
            let private = rule(&name);
            for addr in addresses {
                if private.is_none_or(|private| canonical(addr, private).is_none()) {
                    leases.remove(&name, addr);
                    changes.push(removed(agent, name.clone(), addr));
                }
            }
        }
        changes
    }

    /// The agent is gone: its leases end, and nobody needs to be told.
    pub fn forget(&mut self, agent: u32) {
        self.agents.remove(&agent);
    }

    /// Ends every lease whose deadline had come at `due`: when it was last asked what live
    /// sockets use ([`Leases::in_use`]). Until then a lease is usable, so that no socket can
    /// be opened unseen between the question and the end.
    pub fn expire(&mut self, due: Duration, now: Duration) -> Vec<Change> {
        let due = due.min(self.advance(now));
        let mut changes = Vec::new();
        for (agent, leases) in &mut self.agents {
            while let Some((name, addr)) = leases.pop_due(due) {
                changes.push(removed(*agent, name, addr));
            }
        }
        self.agents.retain(|_, leases| leases.len() > 0);
        changes
    }

    /// Addresses whose deadline has come, or that may be evicted because the agent is close
    /// to a bound: those of which it should be asked now whether a socket uses them.
    pub fn doubtful(&self, now: Duration) -> BTreeMap<u32, BTreeSet<IpAddr>> {
        let now = self.now.max(now);
        self.agents
            .iter()
            .map(|(agent, leases)| (*agent, leases.doubtful(&self.config, now)))
            .filter(|(_, addresses)| !addresses.is_empty())
            .collect()
    }

    /// What was found out about addresses: those of `asked` that are in `used` are kept for
    /// `hold` from now on at least, and not evicted; the others end when their time comes.
    pub fn in_use(
        &mut self,
        agent: u32,
        asked: &BTreeSet<IpAddr>,
        used: &BTreeSet<IpAddr>,
        hold: Duration,
        now: Duration,
    ) {
        let now = self.advance(now);
        if let Some(leases) = self.agents.get_mut(&agent) {
            leases.in_use(asked, used, now + hold);
        }
    }

    /// When [`Leases::expire`] has work next.
    pub fn next_deadline(&self) -> Option<Duration> {
        self.agents
            .values()
            .filter_map(AgentLeases::next_deadline)
            .min()
    }

    /// The addresses leased to a name of an agent.
    pub fn addresses(
        &self,
        agent: u32,
        name: &str,
        now: Duration,
    ) -> impl Iterator<Item = LeaseView> + '_ {
        let now = self.now.max(now);
        self.agents
            .get(&agent)
            .and_then(|leases| leases.addresses(name, now))
            .into_iter()
            .flatten()
    }

    fn lease(&self, agent: u32, name: &Name, addr: IpAddr) -> Option<&agent::Lease> {
        self.agents.get(&agent)?.lease(name, addr)
    }

    /// Every name of an agent that holds an address, in their order.
    pub fn names(&self, agent: u32) -> impl Iterator<Item = &Name> + '_ {
        self.agents
            .get(&agent)
            .into_iter()
            .flat_map(AgentLeases::names)
    }

    /// Number of leases held, over all agents.
    pub fn len(&self) -> usize {
        self.agents.values().map(AgentLeases::len).sum()
    }

    /// Whether no lease is held.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What was left out.
    pub fn counters(&self) -> LeaseCounters {
        self.counters
    }

    /// The bounds and times in force.
    pub fn config(&self) -> &LeaseConfig {
        &self.config
    }
}

fn removed(agent: u32, name: Name, addr: IpAddr) -> Change {
    Change {
        agent,
        name,
        addr,
        kind: ChangeKind::Removed,
    }
}
