//! What the names of numbers are: read by the tasks that turn events into records, written
//! by the engine.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use agent_common::{Addr, FlowEvent};

use crate::{
    flow::{Known, RuleText},
    leases::Name,
    policy::{HostName, Policy},
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

/// What one agent's gate may answer: written by the engine after the kernel holds the
/// addresses, never before. Reading takes neither the engine's lock nor that of another
/// agent. It has the names that hold addresses, so it is bounded as the agent's leases are.
#[derive(Debug, Default)]
pub(super) struct Published {
    names: RwLock<HashMap<Name, Shown>>,
    /// The names of the policy, exactly.
    wanted: RwLock<BTreeSet<String>>,
}

/// The addresses of a name, with times since boot.
#[derive(Clone, Debug, Default)]
pub(super) struct Shown {
    /// Every address that the kernel holds for the name, and until when it is certain to: a
    /// client may be told a TTL that ends before.
    pub(super) granted: Arc<[(IpAddr, Duration)]>,
    /// Those of the latest answer, or when none of them is left all, and until when each is
    /// leased.
    pub(super) offered: Vec<(IpAddr, Duration)>,
}

impl Published {
    /// Sets the names of the policy; those that leave it are refused from now on.
    pub(super) fn set_names(&self, wanted: &BTreeSet<String>) {
        wanted.clone_into(&mut self.wanted.write().unwrap_or_else(PoisonError::into_inner));
    }

    /// Forgets what every name stands for.
    pub(super) fn clear(&self) {
        let mut names = self.names.write().unwrap_or_else(PoisonError::into_inner);
        names.clear();
    }

    /// Sets what a name stands for.
    pub(super) fn set(&self, name: &Name, shown: Shown) {
        let mut names = self.names.write().unwrap_or_else(PoisonError::into_inner);
        if shown.granted.is_empty() {
            names.remove(name);
        } else {
            names.insert(Name::clone(name), shown);
        }
    }

    /// The addresses that the kernel holds for a name of the agent, and until when (since
    /// boot) each is certain to be held: what a hot name may be answered with, without the
    /// engine. Whether the policy has the name, and which of them are its addresses now, is
    /// for others to say.
    #[cfg_attr(
        not(test),
        expect(dead_code, reason = "the gate that has a fast path reads it")
    )]
    pub(super) fn granted(&self, name: &str) -> Arc<[(IpAddr, Duration)]> {
        let names = self.names.read().unwrap_or_else(PoisonError::into_inner);
        names
            .get(name)
            .map(|shown| Arc::clone(&shown.granted))
            .unwrap_or_default()
    }
}

impl crate::dns::gate::Answers for Published {
    fn lookup(&self, name: &str) -> Option<Vec<(IpAddr, Duration)>> {
        let wanted = self.wanted.read().unwrap_or_else(PoisonError::into_inner);
        if !wanted.contains(name) {
            return None;
        }
        drop(wanted);
        let now = crate::dns::clock::now();
        let names = self.names.read().unwrap_or_else(PoisonError::into_inner);
        let offered = names.get(name).map(|shown| shown.offered.as_slice());
        let left = |(addr, until): &(IpAddr, Duration)| {
            let left = until.checked_sub(now)?;
            (!left.is_zero()).then_some((*addr, left))
        };
        Some(
            offered
                .unwrap_or_default()
                .iter()
                .filter_map(left)
                .collect(),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dns::gate::Answers as _;

    #[test]
    fn what_is_granted_is_shown_and_what_is_not_wanted_is_not_answered() {
        let published = Published::default();
        let addr: IpAddr = "192.0.2.1".parse().expect("address");
        let later = crate::dns::clock::now() + Duration::from_secs(3600);
        let shown = Shown {
            granted: [(addr, later)].into(),
            offered: vec![
                (addr, later),
                ("192.0.2.2".parse().expect("address"), Duration::ZERO),
            ],
        };
        let name = Name::from("a.example");
        published.set(&name, shown.clone());
        assert_eq!(*published.granted("a.example"), [(addr, later)]);
        assert_eq!(published.lookup("a.example"), None);
        published.set_names(&["a.example".to_owned(), "b.example".to_owned()].into());
        let answer = published.lookup("a.example").expect("wanted");
        assert_eq!(answer.len(), 1, "the other's time is over");
        assert_eq!(published.lookup("b.example"), Some(Vec::new()));
        published.set(&name, Shown::default());
        assert!(published.granted("a.example").is_empty());
        published.set(&name, shown);
        published.clear();
        assert!(published.granted("a.example").is_empty());
    }
}
