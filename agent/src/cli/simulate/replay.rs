//! Judging what was recorded by another policy. Pure: the records come from outside.
//!
//! The same flow may have left several records (a question for its name, its hello, its end), and
//! a host that is asked for every second many thousands: they are gathered by agent and
//! destination first, and each destination is judged once.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use agent_common::layout::Mode;
use agent_common::protocol::ProtocolClass;
use agent_common::verdict::{Check, NO_RULE, Query, Verdict, judge};
use agent_common::{Addr, Hook, Protocol, Reason};
use jiff::Timestamp;
use serde::Serialize;

use super::super::explain::imaginary;
use crate::flow::{FlowRecord, FlowVerdict};
use crate::policy::{CompileError, Compiled, HostName, NameRules, Policy, PolicySet};

/// Processes that are named for one destination.
const PROCESSES: usize = 5;
/// Destinations that are told apart, so that a program that has tried a million does not fill
/// the memory of who asks.
const DESTINATIONS: usize = 200_000;

/// Something that would be decided otherwise.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Change {
    /// `newly_refused` or `newly_allowed`.
    pub(super) change: &'static str,
    pub(super) agent: String,
    /// `tcp`, `udp`, `icmp`, or `dns` for a question.
    pub(super) protocol: String,
    /// The host's name, if one is known.
    pub(super) name: Option<String>,
    /// The host's address, if one is known.
    pub(super) address: Option<IpAddr>,
    pub(super) port: u16,
    /// How many flows, those that were kept back by the throttle among them.
    pub(super) flows: u64,
    pub(super) first: Timestamp,
    pub(super) last: Timestamp,
    pub(super) processes: BTreeSet<String>,
    /// The deciding rule, or the reason of a refusal.
    pub(super) why: String,
}

impl Change {
    pub(super) fn is_refusal(&self) -> bool {
        self.change == REFUSED
    }

    pub(super) fn destination(&self) -> String {
        let address = self.address.map(|address| address.to_string());
        let host = self.name.clone().or(address).unwrap_or_default();
        match (self.protocol.as_str(), self.port) {
            ("dns", _) => format!("query {host}"),
            (protocol, 0) => format!("{protocol} {host}"),
            (protocol, port) if host.contains(':') => format!("{protocol} [{host}]:{port}"),
            (protocol, port) => format!("{protocol} {host}:{port}"),
        }
    }
}

const REFUSED: &str = "newly_refused";
const ALLOWED: &str = "newly_allowed";

/// What came of it.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    pub(super) judged: u64,
    pub(super) not_judged: u64,
    pub(super) changes: Vec<Change>,
    pub(super) monitored: BTreeSet<String>,
}

/// What is judged.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    agent: String,
    allowed: bool,
    /// A question at the gate.
    question: bool,
    protocol: u8,
    addr: Option<Addr>,
    port: u16,
    /// Names by which it may be meant: the one that was said, else those that leased the
    /// address.
    names: BTreeSet<String>,
}

struct Seen {
    /// Records of flows that have ended, and of anything else: a flow may have left both.
    ended: u64,
    others: u64,
    first: Timestamp,
    last: Timestamp,
    processes: BTreeSet<String>,
}

/// One agent's changed policy.
struct Judge<'a> {
    policy: &'a Policy,
    compiled: Compiled,
    names: NameRules,
}

/// The replay.
pub(super) struct Replay<'a> {
    judges: BTreeMap<String, Judge<'a>>,
    seen: BTreeMap<Key, Seen>,
    outcome: Outcome,
}

/// Whether a refusal was one by the rules, which others might not make.
fn by_rules(reason: Option<Reason>) -> bool {
    use Reason as R;
    let Some(reason) = reason else { return true };
    matches!(
        reason,
        R::NoRule | R::DenyRule | R::Port | R::Name | R::TlsName | R::NoPolicy
    )
}

impl<'a> Replay<'a> {
    pub(super) fn new(set: &'a PolicySet) -> Result<Self, CompileError> {
        let mut judges = BTreeMap::new();
        let mut outcome = Outcome::default();
        for (name, policy) in &set.agents {
            if policy.mode == Mode::Monitor {
                outcome.monitored.insert(name.as_str().to_owned());
            }
            let judge = Judge {
                policy,
                compiled: Compiled::new(policy)?,
                names: policy.names(),
            };
            judges.insert(name.as_str().to_owned(), judge);
        }
        Ok(Self {
            judges,
            seen: BTreeMap::new(),
            outcome,
        })
    }

    /// Takes a record.
    pub(super) fn take(&mut self, flow: &FlowRecord) {
        let key = key_of(flow)
            .filter(|key| self.seen.len() < DESTINATIONS || self.seen.contains_key(key));
        let Some(key) = key else {
            self.outcome.not_judged += 1;
            return;
        };
        self.outcome.judged += 1;
        let seen = self.seen.entry(key).or_insert_with(|| Seen {
            ended: 0,
            others: 0,
            first: flow.time,
            last: flow.time,
            processes: BTreeSet::new(),
        });
        // Of what was refused each record stands for those that were kept back too; of what was
        // let out they are of any destination.
        match flow.hook {
            Hook::FlowEnd => seen.ended += 1,
            _ if flow.verdict == FlowVerdict::Allow => seen.others += 1,
            _ => seen.others += 1 + flow.suppressed,
        }
        seen.first = seen.first.min(flow.time);
        seen.last = seen.last.max(flow.time);
        if let Some(process) = &flow.process
            && seen.processes.len() < PROCESSES
        {
            let exe = process
                .exe
                .as_ref()
                .map(|exe| exe.to_string_lossy().into_owned());
            seen.processes
                .insert(exe.unwrap_or_else(|| process.comm.clone()));
        }
    }

    /// Judges what was taken.
    pub(super) fn finish(mut self) -> Outcome {
        let mut gathered: BTreeMap<(bool, String, String), Change> = BTreeMap::new();
        for (key, seen) in std::mem::take(&mut self.seen) {
            let (allowed, why) = match self.judges.get_mut(&key.agent) {
                Some(judge) => judge.says(&key),
                None => (false, "no policy for the agent".to_owned()),
            };
            if allowed == key.allowed {
                continue;
            }
            let change = Change {
                change: if allowed { ALLOWED } else { REFUSED },
                protocol: match key.question {
                    true => "dns".to_owned(),
                    false => Protocol::new(key.protocol).class().as_str().to_owned(),
                },
                name: key.names.first().cloned(),
                address: key.addr.map(IpAddr::from),
                port: key.port,
                flows: seen.ended.max(seen.others),
                first: seen.first,
                last: seen.last,
                processes: seen.processes,
                agent: key.agent,
                why,
            };
            // One line for a name, whatever addresses it had.
            let at = (allowed, change.agent.clone(), change.destination());
            match gathered.get_mut(&at) {
                None => drop(gathered.insert(at, change)),
                Some(same) => {
                    same.flows += change.flows;
                    same.first = same.first.min(change.first);
                    same.last = same.last.max(change.last);
                    same.processes.extend(change.processes);
                }
            }
        }
        self.outcome.changes = gathered.into_values().collect();
        self.outcome.changes.sort_by(|a, b| {
            b.is_refusal()
                .cmp(&a.is_refusal())
                .then(b.flows.cmp(&a.flows))
        });
        self.outcome
    }
}

/// What a record is about; `None` where no rule decides it.
fn key_of(flow: &FlowRecord) -> Option<Key> {
    let allowed = flow.verdict == FlowVerdict::Allow;
    if !allowed && !by_rules(flow.reason) {
        return None;
    }
    let key = Key {
        agent: flow.agent.clone(),
        allowed,
        question: false,
        protocol: flow.protocol_number,
        addr: flow.dest.map(|dest| Addr::from(dest.ip)),
        port: flow.dest.map_or(0, |dest| dest.port),
        names: BTreeSet::new(),
    };
    if let Some(question) = &flow.dns {
        return Some(Key {
            question: true,
            protocol: 0,
            addr: None,
            port: 0,
            names: [question.name.to_ascii_lowercase()].into(),
            ..key
        });
    }
    if !matches!(
        flow.hook,
        Hook::Connect4
            | Hook::Connect6
            | Hook::Sendmsg4
            | Hook::Sendmsg6
            | Hook::Egress
            | Hook::Gateway
            | Hook::FlowEnd
    ) {
        return None;
    }
    let said = flow
        .server_name
        .as_ref()
        .map(|name| name.to_ascii_lowercase());
    let port = match &flow.connection {
        Some(connection) => connection.port,
        None => key.port,
    };
    let names: BTreeSet<String> = match (said, &flow.connection) {
        // The gateway has judged by the name that it tells first.
        (_, Some(_)) if !flow.names.is_empty() => flow.names.iter().cloned().collect(),
        (Some(said), _) => [said].into(),
        (None, _) => flow.names.iter().cloned().collect(),
    };
    if key.addr.is_none() && names.is_empty() {
        return None;
    }
    Some(Key { port, names, ..key })
}

impl Judge<'_> {
    /// Whether the policy would let it out, and by or for what.
    fn says(&mut self, key: &Key) -> (bool, String) {
        if key.question {
            let name = key.names.first().map(String::as_str).unwrap_or_default();
            return match self.names.find(name) {
                Some(_) => (true, "a rule names it".to_owned()),
                None => (false, Reason::Name.as_str().to_owned()),
            };
        }
        let hosts: BTreeSet<HostName> = key
            .names
            .iter()
            .filter_map(|name| HostName::asked(name))
            .collect();
        let addr = key.addr.unwrap_or_else(|| imaginary(&self.compiled));
        // A policy whose tables are full would refuse the address too.
        if self.compiled.lease(addr, &hosts).is_err() {
            return (false, Reason::State.as_str().to_owned());
        }
        let query = Query {
            addr,
            port: key.port,
            protocol: match Protocol::new(key.protocol).class() {
                ProtocolClass::Icmp => Protocol::ICMP,
                _ => Protocol::new(key.protocol),
            },
        };
        let verdict = judge(&self.compiled, &query);
        // Giving up every host of an address never fails.
        let _ = self.compiled.lease(addr, &BTreeSet::new());
        match verdict {
            // A name counts there, and none of those is known to be said.
            Verdict::Allow { check, .. }
                if hosts.is_empty() && matches!(check, Check::Name | Check::OuterName) =>
            {
                (false, Reason::TlsName.as_str().to_owned())
            }
            Verdict::Allow { rule, .. } => (true, self.rule(rule)),
            Verdict::Deny { rule, reason } if rule == NO_RULE => {
                (false, reason.as_str().to_owned())
            }
            Verdict::Deny { rule, .. } => (false, self.rule(rule)),
        }
    }

    fn rule(&self, number: u32) -> String {
        match self.policy.rule(number) {
            Some(rule) => format!("{rule} ({})", rule.origin),
            None => "the agent's own gate".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::{DnsQuestion, Traffic, tests::record};
    use crate::policy;

    const POLICY: &str = "version: 1
agents:
  a:
    allow:
      - {host: kept.example, ports: [443]}
      - {host: '*.wild.example', ports: [443]}
      - {cidr: 198.51.100.0/24, ports: [22]}
    deny:
      - {host: bad.wild.example}
";

    fn flow(to: &str, names: &[&str], allowed: bool) -> FlowRecord {
        let mut flow = record();
        flow.agent = "a".into();
        flow.hook = if allowed {
            Hook::FlowEnd
        } else {
            Hook::Connect4
        };
        flow.protocol = ProtocolClass::Tcp;
        flow.protocol_number = 6;
        flow.dest = Some(to.parse::<std::net::SocketAddr>().expect("address").into());
        flow.names = names.iter().map(|name| (*name).to_owned()).collect();
        flow.server_name = None;
        (flow.dns, flow.rule, flow.suppressed) = (None, None, 0);
        if allowed {
            (flow.verdict, flow.reason) = (FlowVerdict::Allow, None);
            flow.traffic = Some(Traffic::default());
        } else {
            (flow.verdict, flow.reason) = (FlowVerdict::Deny, Some(Reason::NoRule));
        }
        flow
    }

    fn changes(flows: &[FlowRecord]) -> Vec<(String, String, u64)> {
        let set = policy::parse("p.yaml", POLICY).expect("policy");
        let mut replay = Replay::new(&set).expect("compiled");
        for flow in flows {
            replay.take(flow);
        }
        let outcome = replay.finish();
        outcome
            .changes
            .iter()
            .map(|c| (c.change.to_owned(), c.destination(), c.flows))
            .collect()
    }

    fn one(flow: FlowRecord) -> Option<(String, String)> {
        let all = changes(&[flow]);
        assert!(all.len() < 2, "{all:?}");
        all.into_iter().next().map(|(change, to, _)| (change, to))
    }

    fn refused(to: &str) -> Option<(String, String)> {
        Some((REFUSED.into(), to.into()))
    }

    fn allowed(to: &str) -> Option<(String, String)> {
        Some((ALLOWED.into(), to.into()))
    }

    #[test]
    fn what_stays_as_it_is_is_no_change() {
        assert_eq!(one(flow("192.0.2.1:443", &["kept.example"], true)), None);
        assert_eq!(one(flow("192.0.2.1:443", &["x.wild.example"], true)), None);
        assert_eq!(one(flow("198.51.100.7:22", &[], true)), None);
        assert_eq!(one(flow("192.0.2.1:443", &["other.example"], false)), None);
        assert_eq!(
            one(flow("192.0.2.1:443", &["bad.wild.example"], false)),
            None
        );
        assert_eq!(one(flow("192.0.2.1:80", &["kept.example"], false)), None);
    }

    #[test]
    fn what_the_rules_would_say_otherwise_is_a_change() {
        for (flow, wanted) in [
            (
                flow("192.0.2.1:443", &["gone.example"], true),
                refused("tcp gone.example:443"),
            ),
            (
                flow("192.0.2.1:80", &["kept.example"], true),
                refused("tcp kept.example:80"),
            ),
            (
                flow("192.0.2.1:443", &["bad.wild.example"], true),
                refused("tcp bad.wild.example:443"),
            ),
            (
                flow("[2001:db8::1]:443", &[], true),
                refused("tcp [2001:db8::1]:443"),
            ),
            (
                flow("198.51.100.7:22", &[], false),
                allowed("tcp 198.51.100.7:22"),
            ),
            (
                flow("192.0.2.1:443", &["y.wild.example"], false),
                allowed("tcp y.wild.example:443"),
            ),
        ] {
            assert_eq!(one(flow), wanted);
        }
        let mut other = flow("192.0.2.1:443", &["kept.example"], true);
        other.agent = "nobody".into();
        assert_eq!(one(other), refused("tcp kept.example:443"));
    }

    #[test]
    fn the_name_that_was_said_counts_more_than_the_address() {
        let mut said = flow("192.0.2.1:443", &["kept.example", "gone.example"], true);
        said.server_name = Some("gone.example".into());
        assert_eq!(one(said), refused("tcp gone.example:443"));
    }

    #[test]
    fn questions_are_judged_by_names() {
        let mut asked = flow("192.0.2.1:53", &[], false);
        (asked.hook, asked.dest, asked.reason) = (Hook::Dns, None, Some(Reason::Name));
        let named = |name: &str| {
            let mut asked = asked.clone();
            asked.dns = Some(DnsQuestion {
                name: name.into(),
                ..DnsQuestion::default()
            });
            asked
        };
        assert_eq!(one(named("gone.example")), None);
        assert_eq!(
            one(named("z.wild.example")),
            allowed("query z.wild.example")
        );
    }

    #[test]
    fn what_no_rule_decides_is_left_out_and_a_flow_is_counted_once() {
        let mut wall = flow("192.0.2.1:443", &["kept.example"], false);
        wall.reason = Some(Reason::SocketType);
        assert_eq!(one(wall), None);
        let ended = flow("192.0.2.1:443", &["gone.example"], true);
        let mut hello = ended.clone();
        (hello.hook, hello.traffic) = (Hook::Egress, None);
        let elsewhere = flow("192.0.2.2:443", &["gone.example"], true);
        let all = changes(&[ended.clone(), hello, ended, elsewhere]);
        assert_eq!(
            all,
            [(REFUSED.to_owned(), "tcp gone.example:443".to_owned(), 3)]
        );
    }
}
