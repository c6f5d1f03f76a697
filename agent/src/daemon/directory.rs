//! What the names of numbers are: read by the tasks that turn events into records, written
//! by the engine.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
    sync::{Arc, PoisonError, RwLock},
};

use agent_common::{Addr, FlowEvent};

use crate::{
    flow::{Known, RuleText},
    policy::Policy,
    process,
};

/// One agent as events know it.
#[derive(Clone, Debug, Default)]
pub(super) struct AgentNames {
    /// Its name.
    pub(super) name: String,
    /// Generation of `policy`.
    pub(super) generation: u32,
    /// Its policy, for the text of rules; none once the agent has left the policy files.
    pub(super) policy: Option<Arc<Policy>>,
    /// What each address stands for.
    pub(super) names: HashMap<Addr, BTreeSet<String>>,
}

/// The names of every agent, by index.
#[derive(Debug, Default)]
pub(super) struct Directory {
    agents: RwLock<BTreeMap<u32, AgentNames>>,
}

impl Directory {
    /// Changes what is known of an agent.
    pub(super) fn update(&self, index: u32, change: impl FnOnce(&mut AgentNames)) {
        let mut agents = self.agents.write().unwrap_or_else(PoisonError::into_inner);
        change(agents.entry(index).or_default());
    }

    /// The name and generation of an agent.
    pub(super) fn agent(&self, index: u32) -> (String, u32) {
        let agents = self.agents.read().unwrap_or_else(PoisonError::into_inner);
        match agents.get(&index) {
            Some(agent) => (agent.name.clone(), agent.generation),
            None => (UNKNOWN.to_owned(), 0),
        }
    }

    /// Everything that is known of an event; `paths` are those of its process.
    pub(super) fn known(&self, event: &FlowEvent, paths: process::Paths) -> Known {
        let agents = self.agents.read().unwrap_or_else(PoisonError::into_inner);
        let agent = agents.get(&event.agent);
        let names = agent
            .and_then(|agent| agent.names.get(&event.dest))
            .map(|names| names.iter().cloned().collect())
            .unwrap_or_default();
        // A rule's number means something only in its own generation.
        let rule = agent
            .filter(|agent| agent.generation == event.generation)
            .and_then(|agent| agent.policy.as_ref())
            .zip(event.rule())
            .and_then(|(policy, number)| policy.rule(number))
            .map(|rule| RuleText {
                number: rule.number,
                text: rule.without_reason().to_string(),
                reason: rule.reason.as_deref().map(str::to_owned),
            });
        let name = agent.map_or_else(|| UNKNOWN.to_owned(), |agent| agent.name.clone());
        drop(agents);
        Known {
            agent: name,
            names,
            rule,
            paths,
        }
    }
}

/// The name of processes in the slice that belong to no known agent.
pub(super) const UNKNOWN: &str = "(unknown)";

/// What one agent's gate answers: written by the engine after the kernel holds the
/// addresses, never before.
#[derive(Debug, Default)]
pub(super) struct Published {
    names: RwLock<HashMap<String, BTreeMap<IpAddr, std::time::Duration>>>,
}

impl Published {
    /// Sets the names of the policy; those that leave it are refused from now on.
    pub(super) fn set_names(&self, wanted: &BTreeSet<String>) {
        let mut names = self.names.write().unwrap_or_else(PoisonError::into_inner);
        names.retain(|name, _| wanted.contains(name));
        for name in wanted {
            names.entry(name.clone()).or_default();
        }
    }

    /// Sets the addresses of a name and the boot time until which each may be used. A name
    /// that is not in the policy stays unknown.
    pub(super) fn set(&self, name: &str, addresses: BTreeMap<IpAddr, std::time::Duration>) {
        let mut names = self.names.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = names.get_mut(name) {
            *known = addresses;
        }
    }

    /// The addresses of a canonical name, each with the time that its lease has left.
    /// `None`: the agent's policy does not have the name. Empty: it does, and no address
    /// is known.
    pub(super) fn lookup(&self, name: &str) -> Option<Vec<(IpAddr, std::time::Duration)>> {
        let now = crate::dns::clock::now();
        let names = self.names.read().unwrap_or_else(PoisonError::into_inner);
        let addresses = names.get(name)?;
        Some(
            addresses
                .iter()
                .filter_map(|(addr, until)| {
                    let left = until.checked_sub(now)?;
                    (!left.is_zero()).then_some((*addr, left))
                })
                .collect(),
        )
    }
}
