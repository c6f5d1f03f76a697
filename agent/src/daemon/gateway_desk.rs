//! What one agent's gateway goes by: its rules, the servers that its steered connections asked
//! for, and the addresses that names stand for.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    sync::{Arc, Mutex, PoisonError, RwLock},
};

use agent_common::{Addr, Reason};
use tokio::sync::watch;

use super::{
    gates::{Desk as Gate, Means},
    serving::lock,
};
use crate::{
    gateway::{
        Ask, Authority, Backend, Credentials, Destination, Grant, Judged, Kind, Proxy, ProxyConfig,
        ProxyError, Route,
    },
    kernel::Steered,
    leases::{FailKind, Name, canonical},
    policy::{Policy, ProxyRule, RouteRule, Routes, Shown, Via},
    sockets::Peers,
};

/// The rules of a policy for the gateway, with the proxies that they name.
pub(super) struct Rules {
    routes: Routes,
    proxies: BTreeMap<Arc<ProxyRule>, Arc<Proxy>>,
    /// The policy in words, for refused programs.
    label: Arc<str>,
    /// Whether a listener is to be asked with a token.
    listens: bool,
    /// What signs for servers whose connections are inspected.
    authority: Option<Arc<Authority>>,
}

impl Rules {
    /// Reads what the policy's proxies need from their files.
    ///
    /// # Errors
    /// When a proxy cannot be used.
    pub(super) fn new(
        policy: &Policy,
        generation: u32,
        authority: Option<Arc<Authority>>,
    ) -> Result<Self, ProxyError> {
        let mut proxies = BTreeMap::new();
        for rule in &policy.rules {
            let Via::Proxy(proxy) = &rule.via else {
                continue;
            };
            if proxies.contains_key(proxy) {
                continue;
            }
            let made = Proxy::new(config(proxy))?;
            proxies.insert(Arc::clone(proxy), Arc::new(made));
        }
        Ok(Self {
            routes: Routes::new(policy),
            proxies,
            label: format!("of agent {}, generation {generation},", policy.name).into(),
            listens: policy.gateway.is_open(),
            authority,
        })
    }

    fn route(&self, via: &Via) -> Option<Route> {
        match via {
            Via::Direct | Via::Gateway => Some(Route::Direct),
            Via::Proxy(proxy) => self.proxies.get(proxy).cloned().map(Route::Proxy),
        }
    }

    /// What is granted under a rule; `None` where its way out is not there.
    fn grant(&self, rule: RouteRule) -> Option<Grant> {
        Some(Grant {
            number: rule.rule,
            rule: rule.text,
            route: self.route(&rule.via)?,
            ech: rule.ech,
            private: rule.private,
            inspect: rule.inspect,
        })
    }
}

fn config(rule: &ProxyRule) -> ProxyConfig {
    ProxyConfig {
        url: rule.url.clone(),
        ca: rule.ca.clone(),
        identity: rule.certificate.clone().zip(rule.key.clone()),
        credentials: rule.credentials.clone(),
    }
}

/// One agent's gateway as it decides, wherever it is asked.
pub(super) struct Desk {
    agent: u32,
    rules: RwLock<Arc<Rules>>,
    steered: Mutex<Steered>,
    gate: Arc<Gate>,
    means: Means,
    credentials: Credentials,
    changes: watch::Sender<u64>,
}

impl Desk {
    pub(super) fn new(
        agent: u32,
        rules: Rules,
        steered: Steered,
        gate: Arc<Gate>,
        means: Means,
        credentials: Credentials,
    ) -> Self {
        Self {
            agent,
            rules: RwLock::new(Arc::new(rules)),
            steered: Mutex::new(steered),
            gate,
            means,
            credentials,
            changes: watch::Sender::default(),
        }
    }

    fn rules(&self) -> Arc<Rules> {
        let rules = self.rules.read().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(&rules)
    }

    /// Puts other rules in force, and has every open connection judged by them.
    pub(super) fn set_rules(&self, new: Rules) {
        *self.rules.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(new);
        self.judge_again();
    }

    /// Has every open connection judged again: what is in force has changed.
    pub(super) fn judge_again(&self) {
        self.changes.send_modify(|count| *count += 1);
    }

    pub(super) fn credentials(&self) -> &Credentials {
        &self.credentials
    }

    /// What may pass unread to an address.
    fn unread(&self, addr: IpAddr, port: u16) -> Option<Grant> {
        let index = self.agent;
        let rule = self.means.shared()?.with(|engine| {
            let agent = engine.agent(index)?;
            // A number means something only in the policy that it came from.
            let number = agent.compiled.unread(Addr::from(addr), port)?;
            agent.policy.rule(number).map(RouteRule::from)
        })?;
        self.rules().grant(rule)
    }

    /// Whether a deny rule names an address; so it is where nothing can be asked.
    fn denies(&self, addr: IpAddr, port: u16) -> bool {
        let agent = self.agent;
        let denies = self.means.shared().and_then(|shared| {
            shared.with(|engine| {
                let compiled = &engine.agent(agent)?.compiled;
                Some(compiled.denies(Addr::from(addr), port))
            })
        });
        denies.unwrap_or(true)
    }

    /// Whether an address is one of ours: a gate or a gateway, of any agent.
    fn is_ours(&self, addr: IpAddr, port: u16) -> bool {
        if Addr::from(addr).is_gate_v4() {
            return true;
        }
        if addr != IpAddr::from(Ipv6Addr::LOCALHOST) {
            return false;
        }
        let ours = self
            .means
            .shared()
            .map(|shared| shared.with(|engine| engine.ports6().contains_key(&port)));
        ours.unwrap_or(true)
    }
}

/// A gateway's desk in one network namespace.
pub(super) struct Post {
    desk: Arc<Desk>,
    peers: Peers,
}

impl Post {
    /// `peers` are those of the namespace.
    pub(super) fn new(desk: Arc<Desk>, peers: Peers) -> Self {
        Self { desk, peers }
    }
}

impl Backend for Post {
    fn origin(&self, peer: SocketAddr, local: SocketAddr) -> Option<Destination> {
        let cookie = self.peers.cookie(peer, local).ok()?;
        let origin = lock(&self.desk.steered).take(cookie)?;
        Some(Destination {
            addr: IpAddr::from(origin.addr),
            port: u16::from_be(origin.port_be),
        })
    }

    fn judge(&self, ask: &Ask) -> Judged {
        let rules = self.desk.rules();
        let found = match (&ask.name, ask.addr) {
            (Some(name), _) => {
                let shown = match ask.kind {
                    Kind::Tls => Shown::Tls,
                    Kind::Http => Shown::Http,
                    Kind::Tunnel => Shown::Unread,
                };
                match rules.routes.find(name, ask.port, shown) {
                    Ok(rule) => rules.grant(rule),
                    Err(reason) => return Judged::Deny(reason),
                }
            }
            (None, Some(addr)) if ask.kind == Kind::Tunnel => {
                let ours = self.desk.is_ours(addr, ask.port);
                match ours {
                    true => None,
                    false => self.desk.unread(addr, ask.port),
                }
            }
            (None, _) => None,
        };
        match found {
            Some(grant) => Judged::Allow(grant),
            None => Judged::Deny(Reason::NoRule),
        }
    }

    fn may_reach(&self, _name: &Name, addr: IpAddr, port: u16, grant: &Grant) -> bool {
        canonical(addr, grant.private)
            .is_some_and(|addr| !self.desk.is_ours(addr, port) && !self.desk.denies(addr, port))
    }

    async fn resolve(&self, name: &Name, _grant: &Grant) -> Result<Vec<IpAddr>, FailKind> {
        self.desk.gate.look_up(name).await
    }

    async fn resolve_proxy(&self, name: &Name) -> Result<Vec<IpAddr>, FailKind> {
        self.desk.gate.look_up_freely(name).await
    }

    fn changed(&self) -> watch::Receiver<u64> {
        self.desk.changes.subscribe()
    }

    fn policy(&self) -> Arc<str> {
        Arc::clone(&self.desk.rules().label)
    }

    fn credentials(&self) -> Option<Credentials> {
        self.desk
            .rules()
            .listens
            .then(|| self.desk.credentials.clone())
    }

    fn authority(&self) -> Option<Arc<Authority>> {
        self.desk.rules().authority.clone()
    }
}
