//! One agent: from its policy and the leases of its names to tables that are ready to be put
//! in force.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    io,
    net::IpAddr,
    sync::Arc,
    time::Duration,
};

use agent_common::{
    Addr,
    layout::{Bank, Mode},
};
use tracing::warn;

use super::{
    directory::Published,
    engine::{Engine, EngineError},
    gateway_desk,
    gateways::Wanted,
    state::GatewayState,
    walls,
};
use crate::{
    asking::Asks,
    dns::gate::GatePorts,
    gateway::{Authority, Listening},
    kernel::tables::Image,
    leases::{Name, canonical},
    policy::{Ask, Compiled, HostName, NameRules, Policy},
};

/// Addresses that leases may add to a table in force, beyond those that it starts with: at
/// least this many.
const SPARE_LEAST: u32 = 1024;

/// One agent of the policy.
pub(super) struct Agent {
    pub(super) index: u32,
    pub(super) policy: Arc<Policy>,
    pub(super) compiled: Compiled,
    pub(super) generation: u32,
    /// The names that each address stands for, as the kernel holds it.
    pub(super) held: BTreeMap<Addr, BTreeSet<HostName>>,
    /// Addresses that found no room, and until when that is worth a word.
    pub(super) overflow: BTreeMap<Addr, Duration>,
    pub(super) published: Arc<Published>,
    /// The names that its policy names exactly, in deny rules too.
    pub(super) hosts: BTreeSet<HostName>,
    /// The names that it may ask for.
    pub(super) names: Arc<NameRules>,
    /// When its policy was last compiled anew because a table was full.
    pub(super) rebuilt: Option<Duration>,
}

/// Whether addresses of a name are of interest to a policy, and then whether the name may
/// stand for private ones. Of a name that is denied every address counts: it is denied too.
pub(super) fn rule(hosts: &BTreeSet<HostName>, names: &NameRules, name: &str) -> Option<bool> {
    match names.find(name) {
        Some(rule) => Some(rule.private),
        None => hosts.contains(name).then_some(true),
    }
}

impl Agent {
    /// The names of its policy.
    pub(super) fn hosts(&self) -> &BTreeSet<HostName> {
        &self.hosts
    }

    pub(super) fn leases(&self) -> usize {
        self.held.len()
    }

    /// See [`rule`].
    pub(super) fn rule(&self, name: &str) -> Option<bool> {
        rule(&self.hosts, &self.names, name)
    }

    /// Whether the kernel holds the address for the name.
    pub(super) fn holds(&self, addr: IpAddr, name: &str) -> bool {
        self.held
            .get(&Addr::from(addr))
            .is_some_and(|names| names.contains(name))
    }
}

/// A policy that is ready to be put in force.
pub(super) struct Candidate {
    pub(super) index: u32,
    pub(super) policy: Arc<Policy>,
    pub(super) names: Arc<NameRules>,
    pub(super) compiled: Compiled,
    pub(super) held: BTreeMap<Addr, BTreeSet<HostName>>,
    /// Addresses that found no room, with their names.
    pub(super) overflow: BTreeMap<Addr, BTreeSet<HostName>>,
    /// Rules for the gateway that it has already.
    pub(super) gateway: Option<gateway_desk::Rules>,
    pub(super) image: Image,
}

impl Engine {
    /// Compiles one policy with the leases that its names have now, and opens its gate.
    /// `authority` signs where it inspects.
    pub(super) fn candidate(
        &mut self,
        index: u32,
        policy: Arc<Policy>,
        generation: u32,
        now: Duration,
        authority: Option<&Arc<Authority>>,
    ) -> Result<Candidate, EngineError> {
        let mut compiled = Compiled::translated(&policy, self.nat64.clone())?;
        let hosts = policy.hosts();
        let names = Arc::new(policy.names());
        let mut held: BTreeMap<Addr, BTreeSet<HostName>> = BTreeMap::new();
        for name in self.leases.names(index) {
            let Some(private) = rule(&hosts, &names, name) else {
                continue;
            };
            let Some(host) = HostName::asked(name) else {
                continue;
            };
            for view in self.leases.addresses(index, name, now) {
                if canonical(view.addr, private).is_some() && self.may_lead_to(view.addr, private) {
                    held.entry(view.addr.into())
                        .or_default()
                        .insert(host.clone());
                }
            }
        }
        let mut overflow = BTreeMap::new();
        held.retain(|addr, names| match compiled.lease(*addr, names) {
            Ok(_) => true,
            Err(error) => {
                warn!(agent = policy.name.as_str(), %error, "an address has no room in the tables and stays refused");
                overflow.insert(*addr, std::mem::take(names));
                false
            }
        });
        let remembered = self
            .last
            .agents
            .get(policy.name.as_str())
            .cloned()
            .unwrap_or_default();
        let last = GatePorts {
            v4: remembered.gate4,
            v6: remembered.gate6,
        };
        let ports = self
            .gates
            .open(index, policy.name.as_str(), last)
            .map_err(|source| EngineError::Gate {
                agent: policy.name.to_string(),
                source,
            })?;
        let last = remembered.gateway;
        let gateway = self.open_gateway(index, &policy, generation, last, authority)?;
        let proxy = |on, kind| match on {
            true => self.gateway_port(index, kind),
            false => 0,
        };
        // As many as its leases can be, so that the kernel's table is not what is full first.
        let config = self.leases.config();
        let most = match names.allows_wildcards() {
            true => config.max_names,
            false => hosts.len(),
        };
        let room = (most as u32)
            .saturating_mul(config.max_addresses_per_name as u32)
            .min(config.max_addresses as u32)
            .max(SPARE_LEAST);
        let bank = Bank {
            generation,
            mode: policy.mode as u8,
            gate4_port: ports.v4,
            gate6_port: ports.v6,
            // As long as it is open, for connections that were steered by an earlier policy.
            gateway4_port: self.gateway_port(index, Listening::Steered4),
            gateway6_port: self.gateway_port(index, Listening::Steered6),
            proxy_ports: [
                proxy(policy.gateway.http, Listening::Http),
                proxy(policy.gateway.socks5, Listening::Socks),
            ],
            open: walls::open(self.sandbox, &policy),
            asks: asks(&policy),
            ..Bank::default()
        };
        let image = Image::new(&compiled, bank, room);
        Ok(Candidate {
            index,
            policy,
            names,
            compiled,
            held,
            overflow,
            gateway,
            image,
        })
    }

    /// Opens the gateway that a policy needs, with the rules of it. Rules for one that is open
    /// already are put in force with the policy.
    fn open_gateway(
        &mut self,
        index: u32,
        policy: &Arc<Policy>,
        generation: u32,
        last: Option<GatewayState>,
        authority: Option<&Arc<Authority>>,
    ) -> Result<Option<gateway_desk::Rules>, EngineError> {
        let open = self.gateways.ports(index).is_some();
        let in_force = self.agent(index).map(|agent| agent.generation);
        if open && in_force == Some(generation) || !open && !policy.uses_gateway() {
            return Ok(None);
        }
        let name = policy.name.as_str();
        let authority = authority.filter(|_| policy.inspects()).cloned();
        let rules = gateway_desk::Rules::new(policy, generation, authority);
        let rules = rules.map_err(|source| EngineError::Proxy {
            agent: name.to_owned(),
            source,
        })?;
        if open {
            return Ok(Some(rules));
        }
        let failed = |source| EngineError::Gateway {
            agent: name.to_owned(),
            source,
        };
        let steered = self.kernel.steered(index)?;
        let gate = self
            .gates
            .desk(index)
            .ok_or_else(|| failed(io::ErrorKind::NotFound.into()))?;
        let wanted = Wanted {
            agent: index,
            name,
            last,
            rules,
            gate,
        };
        self.gateways.open(wanted, steered).map_err(failed)?;
        Ok(None)
    }

    fn gateway_port(&self, index: u32, kind: Listening) -> u16 {
        let ports = self.gateways.ports(index);
        ports
            .and_then(|ports| ports.get(&kind))
            .copied()
            .unwrap_or(0)
    }

    /// Makes a candidate that is in force the agent. Leases that found no room in it end.
    pub(super) fn settle(&mut self, candidate: Candidate, generation: u32, now: Duration) -> Agent {
        let Candidate {
            index,
            policy,
            names,
            compiled,
            held,
            overflow,
            gateway,
            ..
        } = candidate;
        let config = self.leases.config();
        let worth_a_word = now + config.max_ttl + config.grace;
        for (addr, names) in &overflow {
            for name in names {
                let name = Name::from(name.as_str());
                self.leases.revoke(index, &name, IpAddr::from(*addr));
            }
        }
        let overflow = overflow
            .into_keys()
            .map(|addr| (addr, worth_a_word))
            .collect();
        let published = self.gates.published(index);
        let hosts = policy.hosts();
        self.gates
            .set_rules(index, &names, policy.dns, asked(&policy));
        if let Some(rules) = gateway {
            self.gateways.set_rules(index, rules);
        }
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
            names,
            rebuilt: None,
        }
    }

    /// Compiles an agent's policy anew and swaps it in.
    pub(super) fn rebuild(&mut self, name: &str, now: Duration) -> Result<(), EngineError> {
        let Some(agent) = self.agents.get(name) else {
            return Ok(());
        };
        let (index, policy, generation) =
            (agent.index, Arc::clone(&agent.policy), agent.generation);
        // Its gateway stays as it is.
        let candidate = self.candidate(index, policy, generation, now, None)?;
        let prepared = self.kernel.prepare(index, &candidate.image)?;
        self.kernel.flip(prepared)?;
        let mut agent = self.settle(candidate, generation, now);
        agent.rebuilt = Some(now);
        self.agents.insert(name.to_owned(), agent);
        self.publish_all(index, now);
        Ok(())
    }
}

/// Who is asked about what no rule decides: nobody where nothing is refused.
pub(super) fn asked(policy: &Policy) -> Ask {
    match policy.mode {
        Mode::Enforce => policy.ask,
        Mode::Monitor => Ask::default(),
    }
}

/// For how long a person is asked, as the kernel has it; 0 where nobody is.
fn asks(policy: &Policy) -> u16 {
    let ask = asked(policy);
    match ask.who {
        Asks::Nobody => 0,
        Asks::User | Asks::Admin => u16::try_from(ask.timeout).unwrap_or(u16::MAX).max(1),
    }
}

fn names_of(held: &BTreeMap<Addr, BTreeSet<HostName>>) -> HashMap<Addr, BTreeSet<String>> {
    held.iter()
        .map(|(addr, names)| {
            let names = names.iter().map(|name| name.as_str().to_owned()).collect();
            (*addr, names)
        })
        .collect()
}
