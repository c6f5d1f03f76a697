//! By which rule, and by which way, a connection at the gateway leaves for a name.

use super::host::folded;
use super::http::Http;
use super::inspect::Inspect;
use super::model::{Policy, Rule, Selector};
use super::pattern::HostPattern;
use super::ports::PortRange;
use super::tls::Tls;
use super::via::Via;
use agent_common::verdict::Action;
use agent_common::{Protocol, Reason};
use std::collections::HashMap;
use std::sync::Arc;

/// What a connection shows of the name that it is for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Shown {
    /// A TLS ClientHello with the name.
    Tls,
    /// A plain HTTP request for the name.
    Http,
    /// Neither: the name is only what a proxy was asked for, and the bytes are not read.
    Unread,
}

/// The rule that lets a connection out.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RouteRule {
    /// Its number in [`Policy::rules`].
    pub rule: u32,
    /// The rule in words, without its reason.
    pub text: Arc<str>,
    /// The way out of the gateway; [`Via::Direct`] and [`Via::Gateway`] mean the same here.
    pub via: Via,
    /// Whether a ClientHello may hold an encrypted one (ECH).
    pub ech: bool,
    /// Whether the name may stand for private and other special addresses: what the rules that
    /// mean the name say together, as for answers of the DNS.
    pub private: bool,
    /// What is asked of requests inside TLS.
    pub inspect: Option<Arc<Inspect>>,
}

impl From<&Rule> for RouteRule {
    fn from(rule: &Rule) -> Self {
        let answers = rule.answers.as_deref();
        Self {
            rule: rule.number,
            text: rule.without_reason().to_string().into(),
            via: rule.via.clone(),
            ech: answers.is_some_and(|answers| answers.keep_ech),
            private: answers.is_some_and(|answers| answers.private),
            inspect: rule.inspect.clone(),
        }
    }
}

/// The names of a policy as the gateway judges them. A look-up costs one step for the name and
/// one for each label above it. A clone shares everything.
#[derive(Clone, Debug, Default)]
pub struct Routes {
    slots: Arc<HashMap<Box<str>, Slot>>,
}

/// The rules for a name itself, and for those below it.
#[derive(Debug, Default)]
struct Slot {
    exact: Vec<Route>,
    below: Vec<Route>,
}

#[derive(Debug)]
struct Route {
    action: Action,
    /// Whether it speaks of TCP.
    tcp: bool,
    ports: Box<[PortRange]>,
    tls: Tls,
    http: Http,
    rule: RouteRule,
}

impl Route {
    fn new(rule: &Rule) -> Self {
        let protocols = rule.protocol.protocols(&rule.ports);
        Self {
            action: rule.action,
            tcp: protocols.contains(&Protocol::TCP),
            ports: rule.ports.as_slice().into(),
            tls: rule.tls,
            http: rule.http,
            rule: rule.into(),
        }
    }

    fn covers(&self, port: u16) -> bool {
        let inside = |(low, high): &PortRange| (*low..=*high).contains(&port);
        self.tcp && self.ports.iter().any(inside)
    }

    /// Why what is shown on a port that it covers may not leave by it.
    fn refuses(&self, port: u16, shown: Shown) -> Option<Reason> {
        let (tls, http) = (self.tls.covers(port), self.http.covers(port));
        match shown {
            Shown::Tls => None,
            Shown::Http if http || !tls => None,
            Shown::Http => Some(Reason::NotTls),
            Shown::Unread if tls => Some(Reason::NotTls),
            Shown::Unread if http => Some(Reason::HttpMalformed),
            Shown::Unread => None,
        }
    }

    /// How much it asks: of several rules for one name the one that asks most is taken.
    fn asks(&self) -> u8 {
        match (&self.rule.inspect, &self.rule.via) {
            (Some(_), _) => 2,
            (None, Via::Gateway | Via::Proxy(_)) => 1,
            (None, Via::Direct) => 0,
        }
    }
}

/// Of two refusals by different rules the one that came further: to the port, and there to the
/// kind of connection that is asked for before the name.
fn nearer(one: Reason, other: Reason) -> Reason {
    let reached = |reason| match reason {
        Reason::NotTls => 2,
        Reason::HttpMalformed => 1,
        _ => 0,
    };
    if reached(other) > reached(one) {
        other
    } else {
        one
    }
}

impl Routes {
    /// The rules of a policy that name hosts.
    pub fn new(policy: &Policy) -> Self {
        let mut slots: HashMap<Box<str>, Slot> = HashMap::new();
        for rule in &policy.rules {
            let Selector::Host(pattern) = &rule.selector else {
                continue;
            };
            let slot = slots.entry(pattern.base().as_str().into()).or_default();
            let side = match pattern {
                HostPattern::Exact(_) => &mut slot.exact,
                HostPattern::Below(_) => &mut slot.below,
            };
            side.push(Route::new(rule));
        }
        for side in slots
            .values_mut()
            .flat_map(|slot| [&mut slot.exact, &mut slot.below])
        {
            // Stable: of two that ask the same the first in the policy stays first.
            side.sort_by_key(|route| std::cmp::Reverse(route.asks()));
        }
        Self {
            slots: Arc::new(slots),
        }
    }

    /// The rule by which a TCP connection to a port (host order) leaves for a name, given what it
    /// shows: of the rules that let it the one with the name itself, or else the narrowest
    /// wildcard; of several such the one that looks into the connection, then one with a way out
    /// of its own, then the first. `name` is taken in any case, with or without the last dot.
    ///
    /// # Errors
    /// Why it may not leave: a deny rule, no rule for the name, none for the port, or none that
    /// lets out what is shown.
    pub fn find(&self, name: &str, port: u16, shown: Shown) -> Result<RouteRule, Reason> {
        let unknown = match shown {
            Shown::Tls => Reason::TlsName,
            Shown::Http => Reason::HttpHost,
            Shown::Unread => Reason::NoRule,
        };
        let Some(name) = folded(name) else {
            return Err(unknown);
        };
        let mut found: Option<&Route> = None;
        let mut refused = None;
        let mut private = false;
        for route in self.meaning(&name) {
            let covers = route.covers(port);
            match route.action {
                Action::Deny if covers => return Err(Reason::DenyRule),
                Action::Deny | Action::Listen => continue,
                Action::Allow => {}
            }
            private |= route.rule.private;
            let reason = match covers {
                true => route.refuses(port, shown),
                false => Some(Reason::Port),
            };
            match reason {
                None => found = found.or(Some(route)),
                Some(reason) => {
                    refused = Some(refused.map_or(reason, |other| nearer(other, reason)))
                }
            }
        }
        let route = found.ok_or(refused.unwrap_or(unknown))?;
        Ok(RouteRule {
            private,
            ..route.rule.clone()
        })
    }

    /// The rules that mean a name, its own first, then from the narrowest wildcard up.
    fn meaning<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Route> {
        let own = self.slots.get(name).map(|slot| &slot.exact);
        let mut rest = name;
        let parents = std::iter::from_fn(move || {
            let (_, parent) = rest.split_once('.')?;
            rest = parent;
            Some(parent)
        });
        let above = parents.filter_map(|base| self.slots.get(base).map(|slot| &slot.below));
        own.into_iter().chain(above).flatten()
    }
}
