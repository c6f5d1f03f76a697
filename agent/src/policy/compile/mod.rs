//! From a policy to the tables of [`agent_common::verdict`].
//!
//! The set of an address or network holds the entries of *every* rule that covers it, so
//! the kernel needs one look-up and no search. A network's set therefore repeats what
//! the wider networks say, and an exact address repeats what its networks say.

mod hosts;
mod nets;
mod sets;

use super::host::HostName;
use super::model::{Policy, RuleProtocol};
use super::name::AgentName;
use crate::nat64::Nat64;
use agent_common::layout::MAX_ENTRIES;
use agent_common::verdict::{Action, Check, Entry, MAX_SET, SetRef, Tables};
use agent_common::{Addr, Protocol};
use hosts::Hosts;
use nets::Nets;
use sets::{Pool, Ruled, Shapes};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::ops::Range;

/// A policy that does not fit into the kernel's tables.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum CompileError {
    /// More entries than one destination may have.
    #[error(
        "agent `{agent}`: {entries} different port ranges and protocols apply to {destination}; at most {MAX_SET} fit"
    )]
    SetTooLarge {
        /// The agent.
        agent: AgentName,
        /// The host, network or address.
        destination: String,
        /// How many there are.
        entries: usize,
        /// One of the rules.
        rule: u32,
    },
    /// More listen rules than bind can look at.
    #[error(
        "agent `{agent}`: the listen rules name {entries} different port ranges; at most {MAX_SET} fit"
    )]
    TooManyListeners {
        /// The agent.
        agent: AgentName,
        /// How many there are.
        entries: usize,
        /// One of the rules.
        rule: u32,
    },
    /// No room for more entries.
    #[error(
        "agent `{agent}`: more than {MAX_ENTRIES} different combinations of rules, at {destination}"
    )]
    Full {
        /// The agent.
        agent: AgentName,
        /// Where it did not fit.
        destination: String,
        /// One of the rules.
        rule: u32,
    },
}

impl CompileError {
    /// A rule that takes part in it.
    pub const fn rule(&self) -> u32 {
        match self {
            Self::SetTooLarge { rule, .. }
            | Self::TooManyListeners { rule, .. }
            | Self::Full { rule, .. } => *rule,
        }
    }

    /// What to do.
    pub const fn help(&self) -> &'static str {
        match self {
            Self::SetTooLarge { .. } => "join ports into ranges, or remove rules that overlap",
            Self::TooManyListeners { .. } => "join ports into ranges, as in \"8000-8100\"",
            Self::Full { .. } => {
                "give rules the same ports, or avoid single addresses inside networks that have rules of their own"
            }
        }
    }
}

/// What changes in the tables when a lease does. Write the new entries first; then, of an
/// address that is leased, the names before the address, and of one that is not, the address
/// before the names.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Change {
    /// The address.
    pub addr: Addr,
    /// Its set from now on; `None`: remove it from the exact addresses, and the networks
    /// speak for it again.
    pub set: Option<SetRef>,
    /// The names that a connection to the address may be for where one counts, each with its set, for those
    /// that came; `None`: it may not any more.
    pub names: Vec<(HostName, Option<SetRef>)>,
    /// The indexes of [`Compiled::entries`] that are new.
    pub appended: Range<u16>,
}

/// A compiled policy: the tables of one bank. Entries are only ever added, so that a
/// table in force is never rewritten.
pub struct Compiled {
    agent: AgentName,
    shapes: Shapes,
    pool: Pool,
    nets: Nets,
    hosts: Hosts,
    leases: BTreeMap<Addr, SetRef>,
    /// The names of each leased address that a connection may be for where one counts.
    named: BTreeMap<Addr, BTreeMap<HostName, SetRef>>,
    listeners: SetRef,
    icmp: bool,
    /// Which rules deny, by number.
    denies: Vec<bool>,
    /// Where an address holds an IPv4 one that its packets are sent on to.
    nat64: Nat64,
    /// Entries that changes have told of.
    told: u16,
}

impl Compiled {
    /// Compiles a policy; no host has an address yet. The work grows with the number of
    /// rules times the logarithm of it.
    pub fn new(policy: &Policy) -> Result<Self, CompileError> {
        Self::translated(policy, Nat64::default())
    }

    /// The same on a network that translates to IPv4 like this: what is denied of IPv4 is denied
    /// of its translated form too, whether a name or a network allows it.
    pub fn translated(policy: &Policy, nat64: Nat64) -> Result<Self, CompileError> {
        let agent = &policy.name;
        let shapes = Shapes::new(policy);
        let mut pool = Pool::default();
        let nets = Nets::new(policy, &nat64, |inherited, own, selector| {
            if let (true, [rule]) = (inherited.is_empty(), own) {
                let shape = shapes.of(*rule);
                check_size(agent, shape.len(), || selector.to_string(), *rule)?;
                let set = pool
                    .intern_shape(shape, *rule)
                    .map_err(|_| full(agent, selector.to_string(), *rule))?;
                return Ok((shape.iter().map(|entry| (*entry, *rule)).collect(), set));
            }
            let kept = shapes.resolve(inherited, own);
            let rule = own.first().copied().unwrap_or_default();
            check_size(agent, kept.len(), || selector.to_string(), rule)?;
            let set = pool
                .intern(&kept)
                .map_err(|_| full(agent, selector.to_string(), rule))?;
            Ok((kept, set))
        })?;
        let hosts = Hosts::new(policy);
        for (host, rules) in hosts.every() {
            // Said now rather than when the name first resolves. Which names will share an
            // address cannot be known before.
            let entries = shapes.resolve(&[], &rules).len();
            let rule = rules.first().copied().unwrap_or_default();
            check_size(agent, entries, || host.to_string(), rule)?;
        }
        let listens: Vec<u32> = policy
            .rules
            .iter()
            .filter(|rule| rule.action == Action::Listen)
            .map(|rule| rule.number)
            .collect();
        let kept = shapes.resolve(&[], &listens);
        let rule = listens.first().copied().unwrap_or_default();
        if kept.len() > usize::from(MAX_SET) {
            return Err(CompileError::TooManyListeners {
                agent: agent.clone(),
                entries: kept.len(),
                rule,
            });
        }
        let listeners = pool
            .intern(&kept)
            .map_err(|_| full(agent, "the listen rules".to_owned(), rule))?;
        let icmp = policy
            .rules
            .iter()
            .any(|rule| rule.action == Action::Allow && rule.protocol == RuleProtocol::Icmp);
        let told = pool.entries().len() as u16;
        Ok(Self {
            agent: agent.clone(),
            shapes,
            pool,
            nets,
            hosts,
            leases: BTreeMap::new(),
            named: BTreeMap::new(),
            listeners,
            icmp,
            denies: policy
                .rules
                .iter()
                .map(|rule| rule.action == Action::Deny)
                .collect(),
            nat64,
            told,
        })
    }

    /// From now on the address stands for exactly those of the hosts that the policy
    /// names (none: for no host), each with the rules of its own name and of every wildcard
    /// above it. If it fails, nothing that a look-up finds has changed; giving up every host of an address never
    /// fails.
    pub fn lease(
        &mut self,
        addr: Addr,
        hosts: &BTreeSet<HostName>,
    ) -> Result<Change, CompileError> {
        let mut rules: Vec<u32> = Vec::new();
        for host in hosts {
            rules.extend(self.hosts.rules_of(host));
        }
        // Many names below one wildcard bring its rules once each.
        rules.sort_unstable();
        rules.dedup();
        let Some(rule) = rules.first().copied() else {
            self.leases.remove(&addr);
            return Ok(Change {
                addr,
                set: self.nets.exact(&addr).map(|node| node.set),
                names: self.renamed(addr, BTreeMap::new()),
                appended: self.untold(),
            });
        };
        let named = self.named_sets(&addr, hosts)?;
        for node in self.nets.covering(&addr) {
            rules.extend_from_slice(self.nets.rules_of(node));
        }
        for v4 in self.nat64.embedded(addr.into()) {
            for node in self.nets.covering(&Addr::from_v4(v4.octets())) {
                let own = self.nets.rules_of(node).iter().copied();
                let denied = own.filter(|rule| self.denies.get(*rule as usize) == Some(&true));
                let new: Vec<u32> = denied.filter(|rule| !rules.contains(rule)).collect();
                rules.extend(new);
            }
        }
        let kept: Vec<Ruled> = self.shapes.resolve(&[], &rules);
        let destination = || IpAddr::from(addr).to_string();
        check_size(&self.agent, kept.len(), destination, rule)?;
        let set = self
            .pool
            .intern(&kept)
            .map_err(|_| full(&self.agent, destination(), rule))?;
        self.leases.insert(addr, set);
        Ok(Change {
            addr,
            set: Some(set),
            names: self.renamed(addr, named),
            appended: self.untold(),
        })
    }

    /// The set of each host by its own rules alone, where a name can count: what another host at
    /// the same address may do is not this one's. If it fails, only entries have been added.
    fn named_sets(
        &mut self,
        addr: &Addr,
        hosts: &BTreeSet<HostName>,
    ) -> Result<BTreeMap<HostName, SetRef>, CompileError> {
        let mut sets = BTreeMap::new();
        for host in hosts {
            let rules: Vec<u32> = self.hosts.rules_of(host).collect();
            let kept = self.shapes.resolve(&[], &rules);
            let counts = |(entry, _): &Ruled| match entry.check() {
                Check::Name | Check::OuterName | Check::Gateway => true,
                Check::None | Check::Relay => false,
            };
            if !kept.iter().any(counts) {
                continue;
            }
            let rule = rules.first().copied().unwrap_or_default();
            let set = self.pool.intern(&kept).map_err(|_| {
                full(
                    &self.agent,
                    format!("{host} at {}", IpAddr::from(*addr)),
                    rule,
                )
            })?;
            sets.insert(host.clone(), set);
        }
        Ok(sets)
    }

    /// Takes the names of an address in place of those that it had, and says what changes.
    fn renamed(
        &mut self,
        addr: Addr,
        named: BTreeMap<HostName, SetRef>,
    ) -> Vec<(HostName, Option<SetRef>)> {
        let before = self.named.remove(&addr).unwrap_or_default();
        let gone = before.keys().filter(|name| !named.contains_key(*name));
        let mut changed: Vec<_> = gone.map(|name| (name.clone(), None)).collect();
        let come = named
            .iter()
            .filter(|(name, set)| before.get(*name) != Some(*set));
        changed.extend(come.map(|(name, set)| (name.clone(), Some(*set))));
        if !named.is_empty() {
            self.named.insert(addr, named);
        }
        changed
    }

    /// The rule by which TCP bytes to an address and port may pass unread, if one says so and
    /// none denies it: what the gateway asks where a connection shows no name.
    pub fn unread(&self, addr: Addr, port: u16) -> Option<u32> {
        let mut free = None;
        for (entry, rule) in self.tcp(addr, port) {
            match (entry.action(), entry.check()) {
                (Action::Deny, _) => return None,
                (Action::Allow, Check::None | Check::Relay) => free = free.or(Some(rule)),
                (Action::Allow, Check::Name | Check::OuterName | Check::Gateway)
                | (Action::Listen, _) => {}
            }
        }
        free
    }

    /// Whether a deny rule covers TCP to an address and port.
    pub fn denies(&self, addr: Addr, port: u16) -> bool {
        let mut entries = self.tcp(addr, port);
        entries.any(|(entry, _)| entry.action() == Action::Deny)
    }

    /// The entries that speak of TCP to an address and port, with their rules, in order.
    fn tcp(&self, addr: Addr, port: u16) -> impl Iterator<Item = (Entry, u32)> {
        let set = Tables::exact(self, &addr).or_else(|| self.prefix(&addr));
        let set = set.unwrap_or(SetRef::EMPTY);
        let all = (0..set.len()).filter_map(move |index| self.entry(set.start() + index));
        all.filter(move |entry| {
            let (low, high) = entry.ports();
            entry.protocol() == Protocol::TCP && (low..=high).contains(&port)
        })
        .map(move |entry| (entry, set.rule().wrapping_add(entry.rule())))
    }

    /// The names that connections may be for where one counts, by address.
    pub fn named(&self) -> impl Iterator<Item = (Addr, &HostName, SetRef)> {
        self.named.iter().flat_map(|(addr, names)| {
            let of_addr = names.iter();
            of_addr.map(|(name, set)| (*addr, name, *set))
        })
    }

    /// The entries that no change has told of, those of one that failed too.
    fn untold(&mut self) -> Range<u16> {
        // The pool holds at most MAX_ENTRIES.
        let count = self.pool.entries().len() as u16;
        std::mem::replace(&mut self.told, count)..count
    }

    /// Every entry; sets point into it. At most [`MAX_ENTRIES`].
    pub fn entries(&self) -> &[Entry] {
        self.pool.entries()
    }

    /// The exact addresses and their sets, leases included, in no particular order.
    pub fn exact(&self) -> impl Iterator<Item = (Addr, SetRef)> {
        let fixed = self
            .nets
            .nodes()
            .iter()
            .filter(|node| node.is_exact())
            .map(|node| (node.addr(), node.set))
            .filter(|(addr, _)| !self.leases.contains_key(addr));
        let leased = self.leases.iter().map(|(addr, set)| (*addr, *set));
        fixed.chain(leased)
    }

    /// The networks and their sets: first address, number of bits among the 128 of the
    /// v4-mapped space (0 to 127), set.
    pub fn prefixes(&self) -> impl Iterator<Item = (Addr, u8, SetRef)> {
        self.nets
            .nodes()
            .iter()
            .filter(|node| !node.is_exact())
            .map(|node| (node.addr(), node.bits(), node.set))
    }

    /// Every listen entry, for bind.
    pub fn listeners(&self) -> SetRef {
        self.listeners
    }

    /// Whether some rule allows ICMP.
    pub fn icmp(&self) -> bool {
        self.icmp
    }

    /// Number of exact addresses and networks.
    pub fn len(&self) -> usize {
        let new = |addr: &&Addr| self.nets.exact(addr).is_none();
        self.nets.nodes().len() + self.leases.keys().filter(new).count()
    }

    /// Whether there is no address and no network: everything is refused.
    pub fn is_empty(&self) -> bool {
        self.nets.nodes().is_empty() && self.leases.is_empty()
    }
}

impl Tables for Compiled {
    fn exact(&self, addr: &Addr) -> Option<SetRef> {
        match self.leases.get(addr) {
            Some(set) => Some(*set),
            None => self.nets.exact(addr).map(|node| node.set),
        }
    }

    fn prefix(&self, addr: &Addr) -> Option<SetRef> {
        let mut covering = self.nets.covering(addr);
        covering.find(|node| !node.is_exact()).map(|node| node.set)
    }

    fn entry(&self, index: u16) -> Option<Entry> {
        self.pool.entries().get(usize::from(index)).copied()
    }
}

fn check_size(
    agent: &AgentName,
    entries: usize,
    destination: impl FnOnce() -> String,
    rule: u32,
) -> Result<(), CompileError> {
    if entries <= usize::from(MAX_SET) {
        return Ok(());
    }
    Err(CompileError::SetTooLarge {
        agent: agent.clone(),
        destination: destination(),
        entries,
        rule,
    })
}

fn full(agent: &AgentName, destination: String, rule: u32) -> CompileError {
    CompileError::Full {
        agent: agent.clone(),
        destination,
        rule,
    }
}
