//! What was seen: which names and addresses, by whom, how often.

use std::collections::{BTreeMap, BTreeSet, HashSet, VecDeque};
use std::net::IpAddr;

use agent_common::protocol::ProtocolClass;
use agent_common::{Hook, Reason};
use jiff::Timestamp;

use crate::flow::{FlowRecord, FlowVerdict, printable};
use crate::leases::guard;
use crate::policy::HostName;

/// Different destinations that are remembered; more are counted.
const MOST_WANTS: usize = 4096;
/// Programs, addresses and other names that are remembered of each.
const MOST_OF_ONE: usize = 8;
/// Addresses whose names are remembered.
const MOST_ANSWERS: usize = 65_536;
/// Sockets whose flow was counted.
const MOST_SOCKETS: usize = 16_384;

/// A far end.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Target {
    /// By name.
    Name(HostName),
    /// By address: no name was seen for it.
    Address(IpAddr),
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name.as_str()),
            Self::Address(address) => write!(f, "{address}"),
        }
    }
}

/// What a rule could allow.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Want {
    /// The far end.
    pub target: Target,
    /// `tcp`, `udp` or `icmp`.
    pub protocol: &'static str,
    /// The far port; 0 of icmp.
    pub port: u16,
}

/// How often, when and by whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// How often.
    pub count: u64,
    /// The first time.
    pub first: Timestamp,
    /// The last time.
    pub last: Timestamp,
    /// Programs, with how often each; safe texts.
    pub programs: BTreeMap<String, u64>,
    /// Addresses that the name was used with.
    pub addresses: BTreeSet<IpAddr>,
    /// Other names of the same address.
    pub others: BTreeSet<String>,
    /// Only the program's own hello says the name: no answer of the DNS does.
    pub only_said: bool,
}

impl Seen {
    fn new(time: Timestamp) -> Self {
        Self {
            count: 0,
            first: time,
            last: time,
            programs: BTreeMap::new(),
            addresses: BTreeSet::new(),
            others: BTreeSet::new(),
            only_said: false,
        }
    }

    fn take(&mut self, flow: &FlowRecord) {
        self.count += 1;
        self.first = self.first.min(flow.time);
        self.last = self.last.max(flow.time);
        let program = program(flow);
        if self.programs.len() < MOST_OF_ONE || self.programs.contains_key(&program) {
            *self.programs.entry(program).or_default() += 1;
        }
    }
}

fn program(flow: &FlowRecord) -> String {
    match &flow.process {
        None => "a process that is not known".into(),
        Some(process) => match &process.exe {
            Some(exe) => printable(&exe.to_string_lossy()).into_owned(),
            None => printable(&process.comm).into_owned(),
        },
    }
}

/// Everything that was seen of one agent.
#[derive(Debug, Default)]
pub struct Lesson {
    /// What rules could allow.
    pub wants: BTreeMap<Want, Seen>,
    /// Names that were asked for and refused, so that no port was seen; with the record type.
    pub asked: BTreeMap<(HostName, String), Seen>,
    /// Servers that were asked by DNS: an enforced agent's questions go to the gate.
    pub servers: BTreeMap<IpAddr, Seen>,
    /// What no allow rule opens, in words: walls, deny rules, protocols.
    pub closed: BTreeMap<String, Seen>,
    /// Records that are about something that was not told: kept back by the throttle.
    pub kept_back: u64,
    /// Records beyond what is remembered.
    pub left_out: u64,
    /// Records that were looked at.
    pub records: u64,
    answers: BTreeMap<IpAddr, VecDeque<HostName>>,
    sockets: HashSet<(u64, IpAddr, u16)>,
}

impl Lesson {
    /// The DNS told the agent, or the machine, these addresses of a name.
    pub fn answer(&mut self, name: &str, addresses: &[IpAddr]) {
        let Some(name) = HostName::asked(name) else {
            return;
        };
        for address in addresses {
            let address = address.to_canonical();
            if self.answers.len() >= MOST_ANSWERS && !self.answers.contains_key(&address) {
                continue;
            }
            let names = self.answers.entry(address).or_default();
            names.retain(|known| *known != name);
            names.push_front(name.clone());
            names.truncate(MOST_OF_ONE);
        }
    }

    /// A record of the agent.
    pub fn flow(&mut self, flow: &FlowRecord) {
        self.records += 1;
        if let Some(dns) = &flow.dns {
            self.answer(&dns.name, &dns.addresses);
        }
        if flow.verdict == FlowVerdict::Allow {
            return;
        }
        self.kept_back = self.kept_back.saturating_add(flow.suppressed);
        match flow.hook {
            Hook::Dns => self.question(flow),
            Hook::Bind4 | Hook::Bind6 => {
                let end = flow.dest.map_or_else(String::new, |end| format!(" {end}"));
                self.close(flow, format!("listens at{end}: a `listen` rule"));
            }
            hook if hook.is_of_lsm() || matches!(hook, Hook::SockCreate | Hook::Setsockopt) => {
                let what = flow.reason.map_or("refused", Reason::as_str);
                self.close(flow, format!("wall {}: {what}", hook.as_str()));
            }
            _ => self.connection(flow),
        }
    }

    fn question(&mut self, flow: &FlowRecord) {
        let Some(dns) = &flow.dns else { return };
        let name = HostName::asked(&dns.name);
        match (flow.reason, name) {
            (Some(Reason::Name), Some(name)) if dns.outcome == "refused" => {
                let key = (name, printable(&dns.qtype).into_owned());
                let room = self.asked.len() < MOST_WANTS || self.asked.contains_key(&key);
                match room {
                    true => {
                        let seen = self.asked.entry(key);
                        seen.or_insert_with(|| Seen::new(flow.time)).take(flow);
                    }
                    false => self.left_out += 1,
                }
            }
            (reason, _) => {
                let reason = reason.map_or("refused", Reason::as_str);
                self.close(flow, format!("DNS: {reason} ({})", printable(&dns.outcome)));
            }
        }
    }

    fn connection(&mut self, flow: &FlowRecord) {
        let Some(end) = flow.dest else {
            let reason = flow.reason.map_or("refused", Reason::as_str);
            return self.close(flow, format!("{}: {reason}", flow.hook.as_str()));
        };
        // Monitor mode tells of a flow at the call and at its first packet.
        let socket = (flow.socket_cookie, end.ip, end.port);
        if flow.socket_cookie != 0 {
            if self.sockets.contains(&socket) {
                return;
            }
            if self.sockets.len() < MOST_SOCKETS {
                self.sockets.insert(socket);
            }
        }
        let protocol = match flow.protocol {
            ProtocolClass::Tcp => "tcp",
            ProtocolClass::Udp => "udp",
            ProtocolClass::Icmp => "icmp",
            ProtocolClass::Other => {
                let text = format!("IP protocol {}: no rule can name it", flow.protocol_number);
                return self.close(flow, text);
            }
        };
        if end.port == 53 {
            let seen = self.servers.entry(end.ip);
            return seen.or_insert_with(|| Seen::new(flow.time)).take(flow);
        }
        if end.ip.is_multicast() || is_broadcast(end.ip) {
            let text = format!("{protocol} to multicast or broadcast {end}");
            return self.close(flow, text);
        }
        let port = match protocol {
            "icmp" => 0,
            _ if end.port == 0 => {
                return self.close(flow, format!("{protocol} {end}: the port is not known"));
            }
            _ => end.port,
        };
        let target = match flow.reason {
            Some(Reason::NoRule | Reason::Port | Reason::Unsteered) => self.name_of(flow, end.ip),
            // The address is allowed, the name is not: the name is what was wanted.
            Some(Reason::TlsName | Reason::HttpHost) => {
                match flow.server_name.as_deref().and_then(HostName::asked) {
                    Some(name) => Target::Name(name),
                    None => return self.refused_for(flow, end),
                }
            }
            _ => return self.refused_for(flow, end),
        };
        self.want(
            flow,
            end.ip,
            Want {
                target,
                protocol,
                port,
            },
        );
    }

    fn refused_for(&mut self, flow: &FlowRecord, end: crate::flow::Endpoint) {
        let reason = flow.reason.map_or("refused", Reason::as_str);
        let rule = match &flow.rule {
            Some(rule) => format!(" by `{}`", printable(&rule.text)),
            None => String::new(),
        };
        self.close(
            flow,
            format!("{} {end}: {reason}{rule}", flow.protocol.as_str()),
        );
    }

    /// The name that an address stood for: what the DNS answered last, else what the agent's
    /// leases say. What may never come from the DNS has none.
    fn name_of(&self, flow: &FlowRecord, address: IpAddr) -> Target {
        let answered = self
            .answers
            .get(&address)
            .and_then(VecDeque::front)
            .cloned();
        let leased = || flow.names.iter().find_map(|name| HostName::asked(name));
        match guard::canonical(address, true).and_then(|_| answered.or_else(leased)) {
            Some(name) => Target::Name(name),
            None => Target::Address(address),
        }
    }

    fn want(&mut self, flow: &FlowRecord, address: IpAddr, want: Want) {
        if self.wants.len() >= MOST_WANTS && !self.wants.contains_key(&want) {
            self.left_out += 1;
            return;
        }
        let known = self.answers.get(&address);
        let mut others = BTreeSet::new();
        let mut only_said = false;
        if let Target::Name(name) = &want.target {
            let known = known.into_iter().flatten();
            others.extend(
                known
                    .clone()
                    .filter(|o| *o != name)
                    .map(|o| o.as_str().to_owned()),
            );
            let leased = flow.names.iter().any(|leased| leased == name.as_str());
            only_said = !leased && known.clone().all(|o| o != name);
        }
        let seen = self.wants.entry(want).or_insert_with(|| Seen {
            only_said,
            ..Seen::new(flow.time)
        });
        seen.take(flow);
        seen.only_said &= only_said;
        if seen.addresses.len() < MOST_OF_ONE {
            seen.addresses.insert(address);
        }
        seen.others.extend(others);
    }

    fn close(&mut self, flow: &FlowRecord, what: String) {
        if self.closed.len() >= MOST_WANTS && !self.closed.contains_key(&what) {
            self.left_out += 1;
            return;
        }
        let seen = self.closed.entry(what);
        seen.or_insert_with(|| Seen::new(flow.time)).take(flow);
    }
}

fn is_broadcast(address: IpAddr) -> bool {
    matches!(address, IpAddr::V4(v4) if v4.is_broadcast())
}
