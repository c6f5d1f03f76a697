//! What the names of numbers are: read by the tasks that turn events into records, written
//! by the engine.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use agent_common::{Addr, FlowEvent};

use super::agents::asked;
use crate::{
    flow::{Known, RuleText},
    leases::Name,
    policy::{Ask, HostName, Policy, Rule},
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

    /// Whether an address stands for a name now: the one element is changed, whatever else is
    /// known of the agent.
    pub(super) fn stands_for(&self, index: u32, addr: Addr, name: &HostName, now: bool) {
        self.update(index, |agent| {
            if now {
                let names = agent.names.entry(addr).or_default();
                names.insert(name.as_str().to_owned());
            } else if let Some(names) = agent.names.get_mut(&addr) {
                names.remove(name.as_str());
                if names.is_empty() {
                    agent.names.remove(&addr);
                }
            }
        });
    }

    /// An address stands for no name any more.
    pub(super) fn forget(&self, index: u32, addr: Addr) {
        self.update(index, |agent| {
            agent.names.remove(&addr);
        });
    }

    /// The name and generation of an agent.
    pub(super) fn agent(&self, index: u32) -> (String, u32) {
        let agents = self.agents.read().unwrap_or_else(PoisonError::into_inner);
        match agents.get(&index) {
            Some(agent) => (agent.name.clone(), agent.generation),
            None => (UNKNOWN.to_owned(), 0),
        }
    }

    /// Who is asked about what the policy of an agent does not decide.
    pub(super) fn ask(&self, index: u32) -> Ask {
        let agents = self.agents.read().unwrap_or_else(PoisonError::into_inner);
        let policy = agents.get(&index).and_then(|agent| agent.policy.as_ref());
        policy.map(|policy| asked(policy)).unwrap_or_default()
    }

    /// A rule of the policy that an agent has now.
    pub(super) fn rule(&self, index: u32, number: u32) -> Option<RuleText> {
        let agents = self.agents.read().unwrap_or_else(PoisonError::into_inner);
        let policy = agents.get(&index)?.policy.as_ref()?;
        policy.rule(number).map(text_of)
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
            .map(text_of);
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

fn text_of(rule: &Rule) -> RuleText {
    RuleText {
        number: rule.number,
        text: rule.without_reason().to_string(),
        reason: rule.reason.as_deref().map(str::to_owned),
    }
}

/// The name of processes in the slice that belong to no known agent.
pub(super) const UNKNOWN: &str = "(unknown)";

/// The addresses that the kernel holds for the names of an agent: what its gate may answer
/// with, written by the engine after the kernel holds them. Reading takes neither the
/// engine's lock nor that of another agent. It is bounded as the agent's leases are.
#[derive(Debug, Default)]
pub(super) struct Published {
    names: RwLock<HashMap<Name, Held>>,
}

/// Addresses, and until when (since boot) each is certain to be held: a client may be told a
/// TTL that ends before.
type Held = Arc<[(IpAddr, Duration)]>;

impl Published {
    /// Forgets what every name stands for.
    pub(super) fn clear(&self) {
        let mut names = self.names.write().unwrap_or_else(PoisonError::into_inner);
        names.clear();
    }

    /// Sets what a name stands for.
    pub(super) fn set(&self, name: &Name, held: Held) {
        let mut names = self.names.write().unwrap_or_else(PoisonError::into_inner);
        if held.is_empty() {
            names.remove(name);
        } else {
            names.insert(Name::clone(name), held);
        }
    }

    /// The addresses of a name. Whether the policy has it, and which of them are its
    /// addresses now, is for others to say.
    pub(super) fn granted(&self, name: &str) -> Held {
        let names = self.names.read().unwrap_or_else(PoisonError::into_inner);
        names.get(name).map(Arc::clone).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_held_is_shown_until_it_is_not() {
        let published = Published::default();
        let held = [([192, 0, 2, 1].into(), Duration::from_secs(9))];
        let name = Name::from("a.example");
        published.set(&name, held.into());
        assert_eq!(*published.granted("a.example"), held);
        assert!(published.granted("b.example").is_empty());
        published.set(&name, Held::default());
        assert!(published.granted("a.example").is_empty());
        published.set(&name, held.into());
        published.clear();
        assert!(published.granted("a.example").is_empty());
    }
}
