//! One agent: from its policy and the leases of its names to tables that are ready to be put
//! in force.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
    sync::Arc,
    time::Duration,
};

use agent_common::{Addr, layout::Bank};
use tracing::warn;

use super::{
    directory::Published,
    engine::{Engine, EngineError},
};
use crate::{
    kernel::tables::Image,
    leases::Name,
    policy::{Compiled, HostName, Policy},
};

/// Addresses that leases may add to a table in force, beyond those that it starts with: at
/// least this many.
const SPARE_LEAST: u32 = 1024;
/// And at the most: 64Ki elements of 24 bytes and their overhead are about 5 MB of kernel
/// memory.
const SPARE_MOST: u32 = 65_536;

/// One agent of the policy.
pub(super) struct Agent {
    pub(super) index: u32,
    pub(super) policy: Arc<Policy>,
    pub(super) compiled: Compiled,
    pub(super) generation: u32,
    /// The names that each address stands for, as the kernel holds it.
    pub(super) held: BTreeMap<Addr, BTreeSet<HostName>>,
    /// Addresses that found no room.
    pub(super) overflow: BTreeSet<Addr>,
    pub(super) published: Arc<Published>,
    pub(super) hosts: BTreeSet<HostName>,
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

/// A policy that is ready to be put in force.
pub(super) struct Candidate {
    pub(super) index: u32,
    pub(super) policy: Arc<Policy>,
    pub(super) compiled: Compiled,
    pub(super) held: BTreeMap<Addr, BTreeSet<HostName>>,
    pub(super) overflow: BTreeSet<Addr>,
    pub(super) image: Image,
}

impl Engine {
    /// Compiles one policy with the leases that its names have now, and opens its gate.
    pub(super) fn candidate(
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
    pub(super) fn settle(&mut self, candidate: Candidate, generation: u32) -> Agent {
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
        let names = policy.names();
        let allowed = policy
            .allowed_hosts()
            .into_iter()
            .map(|host| host.as_str().to_owned())
            .filter(|host| names.find(host).is_some())
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

    /// Compiles an agent's policy anew and swaps it in.
    pub(super) fn rebuild(&mut self, name: &str, now: Duration) -> Result<(), EngineError> {
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
}

pub(super) fn names_of(
    held: &BTreeMap<Addr, BTreeSet<HostName>>,
) -> HashMap<Addr, BTreeSet<String>> {
    held.iter()
        .map(|(addr, names)| {
            let names = names.iter().map(|name| name.as_str().to_owned()).collect();
            (*addr, names)
        })
        .collect()
}
