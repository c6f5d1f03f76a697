//! The answers that hold: until when, as which rules, and whether a policy lets them be given.
//! Pure: time is an argument.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use agent_common::verdict::Action;
use ipnet::IpNet;
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use super::desk::name_of;
use super::{AnswerError, Asks, Breadth, Choice, Grant, GrantSubject, Lasts, Question, Ruling};
use crate::leases::canonical;
use crate::policy::{
    ALL_PORTS, HostName, HostPattern, Http, Origin, Policy, PortRange, Rule, RuleProtocol,
    Selector, Tls, Via,
};

/// Answers of one agent that can hold at once.
pub const MOST: usize = 256;
/// The longest time that a user who does not administer may allow something for.
const USERS_LONGEST: u64 = 24 * 3600;
/// The port of QUIC, where no name is read.
const QUIC: u16 = 443;
/// Characters of the reason of a rule.
const REASON: usize = 200;

/// What a user who does not administer may answer, beside the narrow and short.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Users {
    /// For longer than a day, and for always.
    pub always: bool,
    /// For a whole domain.
    pub domain: bool,
}

/// Whether somebody may settle a question: whoever it is put to, and administrators.
pub fn may_answer(question: &Question, uid: u32, admin: bool) -> bool {
    admin || question.asks == Asks::User && question.uid == Some(uid)
}

/// Why a user who does not administer may not answer so. A denial always may be given.
pub fn too_much(choice: &Choice, users: Users) -> Option<&'static str> {
    if choice.ruling == Ruling::Deny {
        return None;
    }
    let long = match choice.lasts {
        Lasts::Always => true,
        Lasts::For { seconds } => seconds > USERS_LONGEST,
        Lasts::Once | Lasts::Run => false,
    };
    if long && !users.always {
        return Some("only an administrator may allow something for longer than a day");
    }
    if choice.breadth == Breadth::Domain && !users.domain {
        return Some("only an administrator may allow a whole domain");
    }
    None
}

/// Whether an address is one that nobody grants, or only administrators do.
pub fn check_address(address: IpAddr, admin: bool) -> Result<(), AnswerError> {
    if canonical(address, true).is_none() {
        return Err(AnswerError::Forbidden(format!(
            "{address} is this machine, its link or a metadata service: only the policy can allow it, by `cidr:`"
        )));
    }
    if canonical(address, false).is_none() && !admin {
        return Err(AnswerError::NotPermitted(format!(
            "{address} is in a private network: only an administrator may allow it"
        )));
    }
    Ok(())
}

/// An answer, and how much of its time is left. What is left only ever shrinks: by the time that
/// passed, sleep included, and by what the calendar says. A clock that is set back prolongs
/// nothing; one that is set forward ends what it says is over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Kept {
    grant: Grant,
    /// Milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    left: Option<u64>,
}

/// What is written down.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    version: u32,
    /// The boot that `at` counts from.
    boot: String,
    /// Milliseconds since that boot: when `left` was so.
    at: u64,
    grants: Vec<Kept>,
}

const VERSION: u32 = 1;

/// Why what was written down cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum Unreadable {
    /// It is no JSON of ours.
    #[error("it is not what was written: {0}")]
    Json(#[from] serde_json::Error),
    /// Another version.
    #[error("it is of version {0}, which this daemon does not know")]
    Version(u32),
    /// A grant in it is none.
    #[error("grant `{}` is none that could have been given", .0.escape_debug())]
    Grant(String),
}

/// The answers that hold.
#[derive(Debug, Clone, Default)]
pub struct Grants {
    kept: BTreeMap<String, Kept>,
    /// Time since boot at which what is left was so.
    at: Duration,
}

impl Grants {
    /// A new one holds. Its time begins now.
    pub fn add(&mut self, grant: Grant, now: Duration, wall: Timestamp) -> Result<(), AnswerError> {
        self.pass(now, wall);
        if self.of(&grant.agent).count() >= MOST {
            return Err(AnswerError::Failed(format!(
                "agent {} has {MOST} grants: revoke some (`exeat grants --agent {}`), or write them into its policy (`exeat grants --as-policy`)",
                grant.agent, grant.agent
            )));
        }
        let left = grant.until.map(|until| millis(until.duration_since(wall)));
        self.kept.insert(grant.id.clone(), Kept { grant, left });
        Ok(())
    }

    /// One of them.
    pub fn get(&self, id: &str) -> Option<&Grant> {
        self.kept.get(id).map(|kept| &kept.grant)
    }

    /// Takes one away.
    pub fn remove(&mut self, id: &str) -> Option<Grant> {
        self.kept.remove(id).map(|kept| kept.grant)
    }

    /// Those of an agent, oldest first.
    pub fn of<'a>(&'a self, agent: &'a str) -> impl Iterator<Item = &'a Grant> {
        let mut all: Vec<&Grant> = self
            .kept
            .values()
            .map(|kept| &kept.grant)
            .filter(|grant| grant.agent == agent)
            .collect();
        all.sort_by(|a, b| (a.given, &a.id).cmp(&(b.given, &b.id)));
        all.into_iter()
    }

    /// All of them, by agent, then time.
    pub fn all(&self) -> Vec<Grant> {
        let mut all: Vec<Grant> = self.kept.values().map(|kept| kept.grant.clone()).collect();
        all.sort_by(|a, b| (&a.agent, a.given, &a.id).cmp(&(&b.agent, b.given, &b.id)));
        all
    }

    /// Whether one has a time to keep.
    pub fn is_timed(&self) -> bool {
        self.kept.values().any(|kept| kept.left.is_some())
    }

    /// Takes away what is over now, and what `ended` says is.
    pub fn end(
        &mut self,
        now: Duration,
        wall: Timestamp,
        ended: impl Fn(&Grant) -> bool,
    ) -> Vec<Grant> {
        self.pass(now, wall);
        let over: Vec<String> = self
            .kept
            .iter()
            .filter(|(_, kept)| kept.left == Some(0) || ended(&kept.grant))
            .map(|(id, _)| id.clone())
            .collect();
        over.iter().filter_map(|id| self.remove(id)).collect()
    }

    /// Time has passed.
    fn pass(&mut self, now: Duration, wall: Timestamp) {
        let passed = now.saturating_sub(self.at).as_millis();
        let passed = u64::try_from(passed).unwrap_or(u64::MAX);
        self.at = self.at.max(now);
        for kept in self.kept.values_mut() {
            if let (Some(left), Some(until)) = (kept.left.as_mut(), kept.grant.until) {
                let by_calendar = millis(until.duration_since(wall));
                *left = left.saturating_sub(passed).min(by_calendar);
            }
        }
    }

    /// As it is written down.
    pub fn to_bytes(&self, boot: &str) -> Result<Vec<u8>, serde_json::Error> {
        serde_json::to_vec(&Written {
            version: VERSION,
            boot: boot.to_owned(),
            at: u64::try_from(self.at.as_millis()).unwrap_or(u64::MAX),
            grants: self.kept.values().cloned().collect(),
        })
    }

    /// From what was written down, all of it or nothing.
    pub fn from_bytes(
        bytes: &[u8],
        boot: &str,
        now: Duration,
        wall: Timestamp,
    ) -> Result<Self, Unreadable> {
        let written: Written = serde_json::from_slice(bytes)?;
        if written.version != VERSION {
            return Err(Unreadable::Version(written.version));
        }
        let mut grants = Self {
            kept: BTreeMap::new(),
            // How long the machine was off is not known but by the calendar.
            at: match written.boot == boot {
                true => Duration::from_millis(written.at).min(now),
                false => now,
            },
        };
        for kept in written.grants {
            let grant = &kept.grant;
            let timed = matches!(grant.lasts, Lasts::Once | Lasts::For { .. });
            if rules_of(grant).is_none()
                || timed != kept.left.is_some()
                || timed != grant.until.is_some()
            {
                return Err(Unreadable::Grant(grant.id.clone()));
            }
            grants.kept.insert(grant.id.clone(), kept);
        }
        grants.pass(now, wall);
        Ok(grants)
    }

    /// The policy with what its agent was granted and denied behind its own rules, whose numbers
    /// stay.
    pub fn join(&self, policy: &Policy) -> Policy {
        let mut joined = policy.clone();
        for grant in self.of(policy.name.as_str()) {
            append(&mut joined, grant);
        }
        joined
    }
}

fn millis(span: SignedDuration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(0)
}

/// Adds the rules of a grant.
fn append(policy: &mut Policy, grant: &Grant) {
    for rule in rules_of(grant).unwrap_or_default() {
        let number = policy.rules.len() as u32;
        policy.rules.push(Rule { number, ..rule });
    }
}

/// The policy with one more grant.
pub fn joined(policy: &Policy, grant: &Grant) -> Policy {
    let mut joined = policy.clone();
    append(&mut joined, grant);
    joined
}

fn selectors(subject: &GrantSubject) -> Option<Vec<Selector>> {
    let exact = |name: &str| {
        let host: HostName = name.parse().ok()?;
        Some(Selector::Host(HostPattern::Exact(host)))
    };
    Some(match subject {
        GrantSubject::Name { name } => vec![exact(name)?],
        GrantSubject::Domain { domain } => {
            let below: HostPattern = format!("*.{domain}").parse().ok()?;
            vec![exact(domain)?, Selector::Host(below)]
        }
        GrantSubject::Address { address } => {
            vec![Selector::Net(IpNet::from(address.to_canonical()))]
        }
    })
}

/// What a grant lets out or refuses, by protocol.
fn protocols(grant: &Grant) -> Vec<(RuleProtocol, Vec<PortRange>)> {
    let ports: Vec<PortRange> = match grant.port {
        Some(port) => vec![(port, port)],
        None => vec![ALL_PORTS],
    };
    if grant.ruling == Ruling::Deny {
        return vec![(RuleProtocol::Any, ports)];
    }
    let udp = match (&grant.subject, grant.port) {
        (GrantSubject::Address { .. }, _) => ports.clone(),
        // QUIC shows no name to the kernel: every host at the same address could be reached.
        // Programs use TCP then, where the name counts.
        (_, Some(QUIC)) => Vec::new(),
        (_, Some(_)) => ports.clone(),
        (_, None) => vec![(1, QUIC - 1), (QUIC + 1, u16::MAX)],
    };
    let mut all = vec![(RuleProtocol::Tcp, ports)];
    if !udp.is_empty() {
        all.push((RuleProtocol::Udp, udp));
    }
    all
}

/// The rules that a grant is, numbered from 0; none where it is no grant. The denial of one port
/// of a name is no rule: a deny rule for a name denies its look-up, and so every port. Nothing
/// allows it, and the desk does not ask about it again.
pub fn rules_of(grant: &Grant) -> Option<Vec<Rule>> {
    let selectors = selectors(&grant.subject)?;
    if grant.port == Some(0) {
        return None;
    }
    let of_a_name = !matches!(grant.subject, GrantSubject::Address { .. });
    if grant.ruling == Ruling::Deny && of_a_name && grant.port.is_some() {
        return Some(Vec::new());
    }
    let action = match grant.ruling {
        Ruling::Allow => Action::Allow,
        Ruling::Deny => Action::Deny,
    };
    let reason = reason_of(grant);
    let mut rules = Vec::new();
    for selector in &selectors {
        for (protocol, ports) in protocols(grant) {
            let names = of_a_name && protocol == RuleProtocol::Tcp && action == Action::Allow;
            rules.push(Rule {
                number: rules.len() as u32,
                action,
                selector: selector.clone(),
                protocol,
                ports,
                answers: None,
                tls: if names { Tls::Https } else { Tls::None },
                http: if names { Http::Port80 } else { Http::None },
                via: Via::Direct,
                inspect: None,
                reason: Some(Arc::clone(&reason)),
                group: None,
                origin: Origin {
                    file: format!("grant {}", grant.id).into(),
                    line: 1,
                },
            });
        }
    }
    Some(rules)
}

fn reason_of(grant: &Grant) -> Arc<str> {
    let verb = match grant.ruling {
        Ruling::Allow => "allowed",
        Ruling::Deny => "denied",
    };
    let mut text = format!("{verb} by {}", name_of(&grant.by));
    if let Some(why) = &grant.why {
        text = format!("{text}: {why}");
    }
    let clean: String = text
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    let clean = clean.split_whitespace().collect::<Vec<_>>().join(" ");
    clean.chars().take(REASON).collect::<String>().into()
}

/// The deny rule that makes an allowance of no use. Rules behind number `own` are denials that
/// people gave.
pub fn forbidden_by<'a>(policy: &'a Policy, grant: &Grant) -> Option<&'a Rule> {
    if grant.ruling == Ruling::Deny {
        return None;
    }
    let wanted = selectors(&grant.subject)?;
    let covers = |rule: &&Rule| {
        let selector = match (&rule.selector, wanted.last()) {
            (Selector::Host(denied), Some(Selector::Host(wanted))) => denied.covers(wanted),
            (Selector::Net(denied), Some(Selector::Net(wanted))) => denied.contains(wanted),
            _ => false,
        };
        // The look-up of a name that any deny rule means is refused, whatever its ports.
        let by_name = matches!(rule.selector, Selector::Host(_));
        let protocol = matches!(rule.protocol, RuleProtocol::Any | RuleProtocol::Tcp);
        let (low, high) = grant.port.map_or((1, u16::MAX), |port| (port, port));
        let ports = rule
            .ports
            .iter()
            .any(|range| range.0 <= low && high <= range.1);
        rule.action == Action::Deny && selector && (by_name || protocol && ports)
    };
    policy.rules.iter().find(covers)
}

/// The grants as lines of a policy file, for review. Of those that end by themselves it is said
/// until when they were to hold: in a policy they hold on.
pub fn as_policy(grants: &[Grant]) -> String {
    let mut agents: BTreeMap<&str, [Vec<String>; 2]> = BTreeMap::new();
    for grant in grants {
        let lists = agents.entry(&grant.agent).or_default();
        let list = match grant.ruling {
            Ruling::Allow => &mut lists[0],
            Ruling::Deny => &mut lists[1],
        };
        for rule in rules_of(grant).unwrap_or_default() {
            list.push(line_of(grant, &rule));
        }
    }
    let mut text =
        "# Grants as a policy, for review: see `exeat grants`.\nversion: 1\nagents:\n".to_owned();
    if agents.is_empty() {
        return text.replace("agents:\n", "agents: {}\n");
    }
    for (agent, lists) in agents {
        let empty = lists.iter().all(Vec::is_empty);
        text += &format!("  {agent}:{}\n", if empty { " {}" } else { "" });
        for (key, list) in ["allow", "deny"].iter().zip(lists) {
            if !list.is_empty() {
                text += &format!("    {key}:\n{}", list.concat());
            }
        }
    }
    text
}

fn line_of(grant: &Grant, rule: &Rule) -> String {
    let quote = |text: &str| serde_json::Value::from(text).to_string();
    let (key, what) = match &rule.selector {
        Selector::Host(host) => ("host", host.to_string()),
        Selector::Net(_) => ("cidr", rule.selector.to_string()),
    };
    let ports: Vec<String> = rule
        .ports
        .iter()
        .map(|(low, high)| match low == high {
            true => low.to_string(),
            false => format!("\"{low}-{high}\""),
        })
        .collect();
    let ports = match rule.ports == [ALL_PORTS] {
        true => "all".to_owned(),
        false => format!("[{}]", ports.join(", ")),
    };
    let protocol = match rule.protocol {
        RuleProtocol::Any => String::new(),
        other => format!(", protocol: {}", other.as_str()),
    };
    let until = match (grant.lasts, grant.until) {
        (_, Some(until)) => format!(" # it was to hold until {until}"),
        (Lasts::Run, None) => " # it was to hold for one run".to_owned(),
        (_, None) => String::new(),
    };
    let reason = rule.reason.as_deref().unwrap_or_default();
    format!(
        "      - {{ {key}: {}{protocol}, ports: {ports}, reason: {} }}{until}\n",
        quote(&what),
        quote(reason),
    )
}

#[cfg(test)]
#[path = "grants_tests.rs"]
mod tests;
