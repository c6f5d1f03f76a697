//! What may be written but is probably a mistake.

use super::model::{Policy, Rule, RuleProtocol, Selector};
use super::ports;
use super::validate::Place;
use agent_common::Protocol;
use agent_common::verdict::Action;
use ipnet::IpNet;
use std::collections::{BTreeSet, HashMap};

/// The port that the gate answers.
const DNS: u16 = 53;

/// Place, message and help of every warning about a policy. `places` has the place of
/// each rule.
pub(crate) fn warnings(policy: &Policy, places: &[Place]) -> Vec<(Place, String, String)> {
    let mut warnings = Vec::new();
    let mut first: HashMap<_, u32> = HashMap::new();
    let denies = Denies::new(policy);
    for (rule, place) in policy.rules.iter().zip(places) {
        let mut warn =
            |message: String, help: &str| warnings.push((*place, message, help.to_owned()));
        let key = (rule.action, &rule.selector, rule.protocol, &rule.ports);
        if let Some(before) = first.get(&key).and_then(|number| policy.rule(*number)) {
            warn(
                format!(
                    "the rule `{}` of agent `{}` is also in {}",
                    Bare(rule),
                    policy.name,
                    before.origin
                ),
                "remove one of them",
            );
            continue;
        }
        first.insert(key, rule.number);
        if rule.action != Action::Allow {
            continue;
        }
        let on_gate = rule.protocol != RuleProtocol::Icmp && rule.ports.contains(&(DNS, DNS));
        if on_gate {
            warn(
                "port 53 is served by Exeat's gate, this rule never matches".to_owned(),
                "remove port 53: the gate answers the policy's own host names, whatever server the agent asks",
            );
        }
        if let Some(deny) = denies.whole(rule) {
            warn(
                format!(
                    "the rule `{}` of agent `{}` never matches: `{}` in {} denies all of it",
                    Bare(rule),
                    policy.name,
                    Bare(deny),
                    deny.origin
                ),
                "remove one of the two rules; deny beats allow",
            );
        }
        if let Selector::Net(net) = &rule.selector
            && net.prefix_len() == 0
        {
            warn(
                format!(
                    "`{net}` holds this machine, its network and the metadata services of clouds"
                ),
                "name the networks that are needed, or deny the others, as in `cidr: 127.0.0.0/8` and `cidr: 169.254.0.0/16`",
            );
        }
    }
    warnings
}

/// A rule without its reason.
struct Bare<'a>(&'a Rule);

impl std::fmt::Display for Bare<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut bare = self.0.clone();
        bare.reason = None;
        write!(f, "{bare}")
    }
}

/// Deny rules by what they name, and the prefix lengths that occur: a look-up costs one
/// step a length, so a million rules stay cheap.
struct Denies<'a> {
    by_selector: HashMap<Selector, Vec<&'a Rule>>,
    lengths: BTreeSet<u8>,
}

impl<'a> Denies<'a> {
    fn new(policy: &'a Policy) -> Self {
        let mut denies = Self {
            by_selector: HashMap::new(),
            lengths: BTreeSet::new(),
        };
        for rule in policy
            .rules
            .iter()
            .filter(|rule| rule.action == Action::Deny)
        {
            if let Selector::Net(net) = &rule.selector {
                denies.lengths.insert(net.prefix_len());
            }
            denies
                .by_selector
                .entry(rule.selector.clone())
                .or_default()
                .push(rule);
        }
        denies
    }

    /// A deny rule that covers all that this rule allows.
    fn whole(&self, allow: &Rule) -> Option<&'a Rule> {
        let covers = |selector: &Selector| {
            let denies = self.by_selector.get(selector)?;
            denies.iter().copied().find(|deny| {
                let protocols: &[Protocol] = deny.protocol.protocols(&deny.ports);
                allow
                    .protocol
                    .protocols(&allow.ports)
                    .iter()
                    .all(|p| protocols.contains(p))
                    && ports::contains(&deny.ports, &allow.ports)
            })
        };
        match &allow.selector {
            Selector::Host(_) => covers(&allow.selector),
            Selector::Net(net) => self
                .lengths
                .range(..=net.prefix_len())
                .filter_map(|length| IpNet::new(net.addr(), *length).ok())
                .find_map(|net| covers(&Selector::Net(net.trunc()))),
        }
    }
}
