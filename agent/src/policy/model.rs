//! A policy that has been judged sound: names are names, groups are expanded, ports are
//! sorted, every rule has its number and its origin.

use super::ask::Ask;
use super::diagnostic::Diagnostic;
use super::dns::{Answers, DnsPolicy};
use super::gateway::GatewayPolicy;
use super::host::HostName;
use super::http::{HTTP, Http};
use super::identity::Identity;
use super::inspect::Inspect;
use super::limits::Limits;
use super::matching::MatchBy;
use super::name::AgentName;
use super::names::NameRules;
use super::pattern::HostPattern;
use super::ports::{ALL_PORTS, PortRange};
use super::require::Wall;
use super::rrtype::type_name;
use super::sandbox::Sandbox;
use super::services::Services;
use super::tls::Tls;
use super::via::Via;
use agent_common::Protocol;
use agent_common::layout::Mode;
use agent_common::verdict::{Action, Check};
use ipnet::IpNet;
use serde::Serialize;
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

/// Every policy that was loaded together.
#[derive(Clone, Debug)]
pub struct PolicySet {
    /// The policies, by agent.
    pub agents: BTreeMap<AgentName, Policy>,
    /// SHA-256 (hexadecimal) of what is enforced: agents, modes, what is said of
    /// their DNS and gateway, and rules in order, with their reasons. Comments, layout and the names of files and groups do not count.
    pub digest: String,
    /// What is allowed to be written but is probably a mistake.
    pub warnings: Vec<Diagnostic>,
}

/// The policy of one agent. Without rules it refuses everything.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Policy {
    /// The agent.
    pub name: AgentName,
    /// Whether refusals are refused.
    pub mode: Mode,
    /// The rules: allow, deny, listen, each in the order of the file; a rule's number is
    /// its index.
    pub rules: Vec<Rule>,
    /// How the gate answers it.
    pub dns: DnsPolicy,
    /// Which sockets of local services it sees.
    pub services: Services,
    /// At which doors its gateway waits.
    pub gateway: GatewayPolicy,
    /// Walls without which `exeat run` starts nothing.
    pub require: BTreeSet<Wall>,
    /// What its sandbox leaves open.
    pub sandbox: Sandbox,
    /// How much of the machine it may take.
    pub limits: Limits,
    /// Which programs may be started as it.
    pub identity: Identity,
    /// What is the agent's, however it was started; each once, in order.
    pub matching: BTreeSet<MatchBy>,
    /// Whether a person is asked about what no rule decides.
    pub ask: Ask,
}

/// One rule.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rule {
    /// Index in [`Policy::rules`]; the number in verdicts and events.
    pub number: u32,
    /// What it does.
    pub action: Action,
    /// The far end.
    pub selector: Selector,
    /// The protocol.
    pub protocol: RuleProtocol,
    /// Far ports (of a listen rule: local ports): sorted, not empty, apart from each
    /// other. [`ALL_PORTS`] for ICMP.
    pub ports: Vec<PortRange>,
    /// What an allow rule for a host says about answers of the DNS; `None` where it says
    /// nothing.
    pub answers: Option<Arc<Answers>>,
    /// Where the name in the TLS ClientHello counts; [`Tls::None`] for everything but allow
    /// rules for a host and TCP.
    pub tls: Tls,
    /// Where the host of a plain HTTP request counts; [`Http::None`] for everything but allow
    /// rules for a host and TCP, and for those that look into TLS: they let nothing else out.
    pub http: Http,
    /// The way out; [`Via::Direct`] for everything but allow rules for TCP.
    pub via: Via,
    /// What is asked of requests inside TLS, where the gateway looks into it.
    pub inspect: Option<Arc<Inspect>>,
    /// Why it is there.
    pub reason: Option<Arc<str>>,
    /// The group that it came from.
    pub group: Option<Arc<str>>,
    /// Where it is written.
    pub origin: Origin,
}

/// The far end of a rule.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Selector {
    /// Whatever addresses the name, or a name below the wildcard, stands for at the time.
    Host(HostPattern),
    /// A network; an address is a network of one. IPv6 networks never hold IPv4
    /// addresses: what lies inside `::ffff:0:0/96` is an [`IpNet::V4`] here.
    Net(IpNet),
}

/// The protocols of a rule.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum RuleProtocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// ICMP and ICMPv6.
    Icmp,
    /// All of them: a deny rule that names none. If it names ports: TCP and UDP.
    Any,
}

impl RuleProtocol {
    /// The word in output.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Icmp => "icmp",
            Self::Any => "any",
        }
    }

    /// The protocols that it stands for, in a rule for these ports.
    pub fn protocols(self, ports: &[PortRange]) -> &'static [Protocol] {
        match self {
            Self::Tcp => &[Protocol::TCP],
            Self::Udp => &[Protocol::UDP],
            Self::Icmp => &[Protocol::ICMP],
            Self::Any if ports == [ALL_PORTS] => &[Protocol::TCP, Protocol::UDP, Protocol::ICMP],
            Self::Any => &[Protocol::TCP, Protocol::UDP],
        }
    }
}

/// Where a rule is written.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Origin {
    /// The file as it was named.
    pub file: Arc<str>,
    /// Line, from 1.
    pub line: u32,
}

impl Origin {
    /// Whether a person said it, and no file.
    pub fn is_grant(&self) -> bool {
        self.file.starts_with("grant ")
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file, self.line)
    }
}

/// The word for an action.
pub const fn action_str(action: Action) -> &'static str {
    match action {
        Action::Deny => "deny",
        Action::Allow => "allow",
        Action::Listen => "listen",
    }
}

/// The word for a mode.
pub const fn mode_str(mode: Mode) -> &'static str {
    match mode {
        Mode::Enforce => "enforce",
        Mode::Monitor => "monitor",
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host(host) => write!(f, "{host}"),
            Self::Net(net) if net.prefix_len() == net.max_prefix_len() => {
                write!(f, "{}", net.addr())
            }
            Self::Net(net) => write!(f, "{net}"),
        }
    }
}

struct Ports<'a>(&'a [PortRange]);

impl fmt::Display for Ports<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 == [ALL_PORTS] {
            return f.write_str("all");
        }
        for (index, (low, high)) in self.0.iter().enumerate() {
            let comma = if index > 0 { "," } else { "" };
            if low == high {
                write!(f, "{comma}{low}")?;
            } else {
                write!(f, "{comma}{low}-{high}")?;
            }
        }
        Ok(())
    }
}

impl fmt::Display for Answers {
    /// What follows a rule: `, private, types TXT MX, ech kept`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.private {
            f.write_str(", private")?;
        }
        for (index, number) in self.types.iter().enumerate() {
            let before = if index == 0 { ", types " } else { " " };
            write!(f, "{before}{}", type_name(*number))?;
        }
        if self.keep_ech {
            f.write_str(", ech kept")?;
        }
        Ok(())
    }
}

impl fmt::Display for Rule {
    /// One line: `allow tcp api.example.com:443 (model endpoint)`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (action, protocol) = (action_str(self.action), self.protocol.as_str());
        let ports = Ports(&self.ports);
        write!(f, "{action} {protocol} ")?;
        match (&self.selector, self.protocol, self.action) {
            (selector, _, Action::Listen) => write!(f, ":{ports} from {selector}")?,
            (selector, RuleProtocol::Icmp, _) => write!(f, "{selector}")?,
            (selector, RuleProtocol::Any, _) if self.ports == [ALL_PORTS] => {
                write!(f, "{selector}")?;
            }
            (selector @ Selector::Net(IpNet::V6(_)), ..) => write!(f, "[{selector}]:{ports}")?,
            (selector, ..) => write!(f, "{selector}:{ports}")?,
        }
        if let Some(answers) = &self.answers {
            write!(f, "{answers}")?;
        }
        if self.reads_names() {
            match self.tls {
                Tls::Https => {}
                Tls::Every => f.write_str(", tls sni")?,
                Tls::None => f.write_str(", tls none")?,
            }
            match self.http {
                Http::Port80 => {}
                Http::Every => f.write_str(", http host")?,
                Http::None if self.inspect.is_some() => {}
                Http::None => f.write_str(", http none")?,
            }
        }
        write!(f, "{}", self.via)?;
        if self.inspect.is_some() {
            f.write_str(", inspected")?;
        }
        match &self.reason {
            Some(reason) => write!(f, " ({reason})"),
            None => Ok(()),
        }
    }
}

impl Rule {
    /// Whether the name in a TLS ClientHello can count: an allow rule for a host and TCP.
    pub fn reads_names(&self) -> bool {
        self.action == Action::Allow
            && self.protocol == RuleProtocol::Tcp
            && matches!(self.selector, Selector::Host(_))
    }

    /// What must still be seen of a TCP connection to a port that this rule allows.
    pub fn check(&self, port: u16) -> Check {
        let http = self.http.covers(port);
        let tls = self.tls.covers(port);
        let outer = self
            .answers
            .as_ref()
            .is_some_and(|answers| answers.keep_ech);
        match &self.via {
            _ if http => Check::Gateway,
            Via::Direct if tls && outer => Check::OuterName,
            Via::Direct if tls => Check::Name,
            Via::Direct => Check::None,
            Via::Gateway | Via::Proxy(_) if tls => Check::Gateway,
            Via::Gateway | Via::Proxy(_) => Check::Relay,
        }
    }

    /// Whether it lets connections out by the gateway on some port.
    pub fn steers(&self) -> bool {
        let some = |(low, high): &PortRange| match self.http {
            Http::Every => true,
            Http::Port80 => (*low..=*high).contains(&HTTP),
            Http::None => false,
        };
        self.action == Action::Allow && (self.via != Via::Direct || self.ports.iter().any(some))
    }

    /// The same rule with its reason left out, for places that give the reason beside it.
    pub fn without_reason(&self) -> Self {
        Self {
            reason: None,
            ..self.clone()
        }
    }
}

impl Policy {
    /// The rule of this number.
    pub fn rule(&self, number: u32) -> Option<&Rule> {
        self.rules.get(usize::try_from(number).ok()?)
    }

    /// Every host that a rule names exactly, deny rules too: those that are kept resolved.
    /// What wildcards mean is learnt when it is asked for. Not what a person denied who was
    /// asked: the program chose that name, and resolving it would tell it to whoever serves it.
    pub fn hosts(&self) -> BTreeSet<HostName> {
        self.hosts_of(|rule| rule.action != Action::Deny || !rule.origin.is_grant())
    }

    /// Every host that an allow rule names exactly. Its addresses are still refused where a deny
    /// rule covers them.
    pub fn allowed_hosts(&self) -> BTreeSet<HostName> {
        self.hosts_of(|rule| rule.action == Action::Allow)
    }

    fn hosts_of(&self, wanted: impl Fn(&Rule) -> bool) -> BTreeSet<HostName> {
        self.rules
            .iter()
            .filter(|rule| wanted(rule))
            .filter_map(|rule| match &rule.selector {
                Selector::Host(HostPattern::Exact(host)) => Some(host.clone()),
                Selector::Host(HostPattern::Below(_)) | Selector::Net(_) => None,
            })
            .collect()
    }

    /// Which names the gate answers.
    pub fn names(&self) -> NameRules {
        NameRules::new(self)
    }

    /// Whether the agent needs a gateway: a rule lets connections out by it, or programs may
    /// ask it. While the agent is only monitored nothing is steered there.
    pub fn uses_gateway(&self) -> bool {
        self.gateway.is_open() || self.rules.iter().any(Rule::steers)
    }

    /// Whether some rule looks into TLS.
    pub fn inspects(&self) -> bool {
        self.rules.iter().any(|rule| rule.inspect.is_some())
    }

    /// Whether some allow rule has a wildcard, so that the budget is of use.
    pub fn has_wildcards(&self) -> bool {
        self.rules.iter().any(|rule| {
            rule.action == Action::Allow
                && matches!(rule.selector, Selector::Host(HostPattern::Below(_)))
        })
    }
}

impl PolicySet {
    /// From policies that are sound.
    pub fn new(agents: BTreeMap<AgentName, Policy>, warnings: Vec<Diagnostic>) -> Self {
        let digest = digest(&agents);
        Self {
            agents,
            digest,
            warnings,
        }
    }
}

/// The canonical form that the digest is made of. Its shape is part of what the digest
/// means: a change changes every digest.
#[derive(Serialize)]
struct Canonical<'a> {
    name: &'a str,
    mode: &'static str,
    refuse: &'static str,
    dnssec: bool,
    budget: [u32; 4],
    over_budget: &'static str,
    services: &'a Services,
    gateway: GatewayPolicy,
    require: &'a BTreeSet<Wall>,
    sandbox: &'a Sandbox,
    limits: &'a Limits,
    identity: &'a Identity,
    matching: &'a BTreeSet<MatchBy>,
    ask: Ask,
}

#[derive(Serialize)]
struct CanonicalRule<'a> {
    action: &'static str,
    host: Option<String>,
    net: Option<&'a IpNet>,
    protocol: &'static str,
    ports: &'a [PortRange],
    private: bool,
    types: Option<&'a BTreeSet<u16>>,
    keep_ech: bool,
    tls: Option<Tls>,
    http: Option<Http>,
    via: &'a Via,
    inspect: Option<&'a Inspect>,
    reason: Option<&'a str>,
}

fn digest(agents: &BTreeMap<AgentName, Policy>) -> String {
    let mut hash = Sha256::new();
    // Writing to a hash cannot fail, and these types hold nothing that JSON cannot.
    // One JSON value a line, rules below their agent, so that a million rules need no
    // second copy.
    let mut line = Vec::new();
    let mut put = |value: &dyn Fn(&mut Vec<u8>) -> serde_json::Result<()>| {
        line.clear();
        if value(&mut line).is_err() {
            line.clear();
        }
        line.push(b'\n');
        hash.update(&line);
    };
    for policy in agents.values() {
        let dns = &policy.dns;
        let head = Canonical {
            name: policy.name.as_str(),
            mode: mode_str(policy.mode),
            refuse: dns.refuse.as_str(),
            dnssec: dns.validate,
            budget: [
                dns.budget.names,
                dns.budget.bytes,
                dns.budget.entropy_bits,
                dns.budget.repeat_bits,
            ],
            over_budget: dns.over_budget.as_str(),
            services: &policy.services,
            gateway: policy.gateway,
            require: &policy.require,
            sandbox: &policy.sandbox,
            limits: &policy.limits,
            identity: &policy.identity,
            matching: &policy.matching,
            ask: policy.ask,
        };
        put(&|line| serde_json::to_writer(line, &head));
        for rule in &policy.rules {
            let (host, net) = match &rule.selector {
                Selector::Host(host) => (Some(host.to_string()), None),
                Selector::Net(net) => (None, Some(net)),
            };
            let answers = rule.answers.as_deref();
            let rule = CanonicalRule {
                action: action_str(rule.action),
                host,
                net,
                protocol: rule.protocol.as_str(),
                ports: &rule.ports,
                private: answers.is_some_and(|answers| answers.private),
                types: answers.map(|answers| &answers.types),
                keep_ech: answers.is_some_and(|answers| answers.keep_ech),
                tls: rule.reads_names().then_some(rule.tls),
                http: rule.reads_names().then_some(rule.http),
                via: &rule.via,
                inspect: rule.inspect.as_deref(),
                reason: rule.reason.as_deref(),
            };
            put(&|line| serde_json::to_writer(line, &rule));
        }
    }
    hash.finalize()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}
