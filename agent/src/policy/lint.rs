//! What may be written but is probably a mistake.

use super::diagnostic::Pos;
use super::file::{At, IdentityFile, ServicesFile};
use super::host::HostName;
use super::http::{HTTP, Http};
use super::model::{Policy, Rule, RuleProtocol, Selector};
use super::pattern::HostPattern;
use super::ports::{self, PortRange};
use super::providers;
use super::suffix::{Below, below};
use super::tls::{HTTPS, Tls};
use super::validate::Place;
use super::via::Via;
use agent_common::Protocol;
use agent_common::layout::Mode;
use agent_common::verdict::Action;
use ipnet::IpNet;
use std::collections::{BTreeSet, HashMap};

mod sandbox;
pub(crate) use sandbox::sandbox;

/// The port that the gate answers.
const DNS: u16 = 53;

/// Place, message and help of every warning about a policy. `places` has the place of
/// each rule.
pub(crate) fn warnings(policy: &Policy, places: &[Place]) -> Vec<(Place, String, String)> {
    let mut warnings = Vec::new();
    let mut first: HashMap<_, u32> = HashMap::new();
    let denies = Denies::new(policy);
    let reach = Reach::of(policy);
    for (rule, place) in policy.rules.iter().zip(places) {
        let mut warn =
            |message: String, help: &str| warnings.push((*place, message, help.to_owned()));
        let key = (
            rule.action,
            &rule.selector,
            rule.protocol,
            &rule.ports,
            &rule.answers,
        );
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
        if reach.first_wildcard_deny == Some(rule.number) && reach.allows {
            let others = match reach.wildcard_denies {
                1 => String::new(),
                count => format!(" (and {} more like it)", count - 1),
            };
            warn(
                format!(
                    "`{}`{others} refuses names; the addresses behind them are not known, and stay open where another rule allows them",
                    Bare(rule)
                ),
                "for addresses that must stay closed write a deny rule with `cidr`, or the exact name, which is kept resolved",
            );
        }
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
        if let Selector::Host(pattern) = &rule.selector {
            about_names(rule, pattern, &mut warn);
            if let Some(help) = by_address(rule) {
                let many = match providers::of_host(pattern) {
                    Some(provider) => {
                        format!("it is {provider}'s, which has thousands of others behind one")
                    }
                    None => "a CDN has thousands behind one".to_owned(),
                };
                warn(
                    format!(
                        "`{}` goes by the address alone: whoever shares it with `{pattern}` can be reached too, and {many}",
                        Bare(rule)
                    ),
                    help,
                );
            }
        }
        about_the_way(policy, rule, &mut warn);
        if let Some(deny) = denies.name(rule) {
            warn(
                format!(
                    "the rule `{}` of agent `{}` never matches: `{}` in {} refuses the name, whatever the port",
                    Bare(rule),
                    policy.name,
                    Bare(deny),
                    deny.origin
                ),
                "remove one of the two rules, or deny addresses with `cidr`; deny beats allow, and a denied name is not answered",
            );
        } else if let Some(deny) = denies.whole(rule) {
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
            && let Some(provider) = providers::of_net(net)
        {
            warn(
                format!(
                    "`{}` goes by the address alone, and `{net}` is {provider}'s: every site that it serves there can be reached",
                    Bare(rule)
                ),
                "write a rule with `host` for each site that is meant: then its name counts",
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

/// Place, message and help of every warning about local services.
pub(crate) fn services(policy: &Policy, services: &At<ServicesFile>) -> Vec<(Pos, String, String)> {
    match &services.value {
        ServicesFile::All => vec![(
            services.at,
            format!(
                "agent `{}` sees the sockets of every local service: some of them resolve names that the policy does not allow, or start programs outside the agent",
                policy.name
            ),
            "name those that are needed, as in `services: [/run/cups/cups.sock]`".to_owned(),
        )],
        ServicesFile::Paths(paths) => paths
            .iter()
            .filter_map(|path| {
                let does = super::services::broker(&path.value)?;
                Some((
                    path.at,
                    format!(
                        "what answers at `{}` {does}, whatever the rules say",
                        path.value
                    ),
                    "remove it, unless the agent cannot work without it".to_owned(),
                ))
            })
            .collect(),
    }
}

/// Place, message and help of what is said about programs and does not do what it seems to.
pub(crate) fn identity(
    policy: &Policy,
    identity: &At<IdentityFile>,
) -> Option<(Pos, String, String)> {
    if policy.mode == Mode::Monitor {
        return Some((
            identity.at,
            format!(
                "agent `{}` is in monitor mode: a program that is another one is told of, and runs",
                policy.name
            ),
            "write `mode: enforce` when it is not to start".to_owned(),
        ));
    }
    let any = identity.value.package.as_ref()?;
    let any = any.value.0.iter().find(|package| package.value == "*")?;
    (!policy.identity.all).then(|| {
        (
            any.at,
            format!(
                "every unchanged file of every package may be started as agent `{}`, shells and interpreters too",
                policy.name
            ),
            "name the packages of its programs, or add what else must hold and `all: true`".to_owned(),
        )
    })
}

/// What to do about a rule for a host that lets out TLS or plain HTTP by the address alone, on
/// the ports that are known for them.
fn by_address(rule: &Rule) -> Option<&'static str> {
    let holds = |port| {
        let inside = |range: &PortRange| (range.0..=range.1).contains(&port);
        rule.reads_names() && rule.ports.iter().any(inside)
    };
    let tls = rule.tls == Tls::None && holds(HTTPS);
    let http = rule.http == Http::None && !rule.tls.covers(HTTP) && holds(HTTP);
    match (tls, http) {
        (true, true) => {
            Some("remove `tls: none` and `http: none` if the program speaks TLS and HTTP there")
        }
        (true, false) => Some("remove `tls: none` if the program speaks TLS there"),
        (false, true) => Some("remove `http: none` if the program speaks HTTP there"),
        (false, false) => None,
    }
}

/// Ways out that are not what they seem.
fn about_the_way(policy: &Policy, rule: &Rule, warn: &mut impl FnMut(String, &str)) {
    if rule.via != Via::Direct && policy.mode == Mode::Monitor {
        warn(
            format!(
                "`{}` leaves without the gateway: agent `{}` is in monitor mode, where nothing is steered",
                Bare(rule),
                policy.name
            ),
            "write `mode: enforce` when the gateway is to carry it",
        );
    }
    if let Via::Proxy(proxy) = &rule.via
        && proxy.credentials.is_some()
        && proxy.url.starts_with("http://")
    {
        warn(
            format!(
                "user and password go to {} in clear, where the network can read them",
                proxy.url
            ),
            "write `https://` if the proxy speaks TLS",
        );
    }
}

/// Wildcards below which anybody may take a name.
fn about_names(rule: &Rule, pattern: &HostPattern, warn: &mut impl FnMut(String, &str)) {
    let base = pattern.base();
    let anybody = match below(pattern) {
        Below::Owner => return,
        Below::Anybody => format!("anybody may register a name below `{base}`"),
        Below::AnybodyInParts => {
            format!("`{base}` has public suffixes below it, where anybody may get a name")
        }
    };
    warn(
        format!("`{pattern}` allows strangers: {anybody}, and receive what the agent sends there"),
        "name the hosts that are needed, or the part that is yours, as in `host: \"*.me.github.io\"`",
    );
    if rule.answers.as_ref().is_some_and(|answers| answers.private) {
        warn(
            format!(
                "`private: true` on `{pattern}` lets strangers name hosts of your network: {anybody}, and let it point to a private address"
            ),
            "keep `private: true` for names whose DNS is yours",
        );
    }
}

/// What of a policy a wildcard under deny is looked at with.
struct Reach {
    allows: bool,
    wildcard_denies: usize,
    first_wildcard_deny: Option<u32>,
}

impl Reach {
    fn of(policy: &Policy) -> Self {
        let denies = || {
            policy.rules.iter().filter(|rule| {
                let wildcard =
                    matches!(&rule.selector, Selector::Host(pattern) if pattern.is_wildcard());
                wildcard && rule.action == Action::Deny
            })
        };
        Self {
            allows: policy.rules.iter().any(|rule| rule.action == Action::Allow),
            wildcard_denies: denies().count(),
            first_wildcard_deny: denies().next().map(|rule| rule.number),
        }
    }
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

    /// A deny rule for some ports or protocols that means every name of this rule, so that
    /// none is answered.
    fn name(&self, allow: &Rule) -> Option<&'a Rule> {
        let Selector::Host(pattern) = &allow.selector else {
            return None;
        };
        if self.by_selector.is_empty() || self.whole(allow).is_some() {
            return None;
        }
        same_or_above(pattern).find_map(|pattern| {
            let denies = self.by_selector.get(&Selector::Host(pattern))?;
            denies.first().copied()
        })
    }

    /// A deny rule that covers all that this rule allows.
    fn whole(&self, allow: &Rule) -> Option<&'a Rule> {
        if self.by_selector.is_empty() {
            return None;
        }
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
            Selector::Host(pattern) => {
                same_or_above(pattern).find_map(|pattern| covers(&Selector::Host(pattern)))
            }
            Selector::Net(net) => self
                .lengths
                .range(..=net.prefix_len())
                .filter_map(|length| IpNet::new(net.addr(), *length).ok())
                .find_map(|net| covers(&Selector::Net(net.trunc()))),
        }
    }
}

/// The pattern, and every wildcard that holds all of it.
fn same_or_above(pattern: &HostPattern) -> impl Iterator<Item = HostPattern> {
    let mut rest = Some(pattern.base().as_str());
    let above = std::iter::from_fn(move || {
        let (_, base) = rest?.split_once('.')?;
        rest = Some(base);
        HostName::asked(base).map(HostPattern::Below)
    });
    std::iter::once(pattern.clone()).chain(above)
}
