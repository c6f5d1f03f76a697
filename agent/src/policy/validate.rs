//! From files as written to policies: names are checked, groups expanded, defaults said.

use super::diagnostic::{Diagnostic, Pos, Report, Source, near, shown};
use super::dns::Answers;
use super::file::{
    AgentFile, At, HttpFile, ListenFile, ModeFile, PolicyFile, PortsFile, ProtocolFile, RuleFile,
    ServicesFile, TlsFile,
};
use super::inspect::Inspect;
use super::lint;
use super::model::{Policy, Rule, Selector};
use super::name::{AgentName, MAX_NAME, is_name, nearest_name};
use super::ports::{self, ALL_PORTS, PortRange};
use super::services::Services;
use super::via::Via;
use super::{net, pattern::HostPattern};
use agent_common::layout::{MAX_AGENTS, Mode};
use agent_common::verdict::Action;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

mod ask;
mod dns;
mod finish;
mod gateway;
mod identity;
mod inspect;
mod limits;
mod sandbox;
use dns::dns_policy;
use gateway::gateway_policy;
use identity::identity;

/// The most characters of a reason: it travels with every event.
pub(crate) const MAX_REASON: u32 = 256;

/// A file that could be read.
pub(crate) struct Parsed {
    pub(crate) source: Source,
    pub(crate) file: PolicyFile,
}

/// The place of a rule: which file, and where in it.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Place {
    pub(crate) file: usize,
    pub(crate) at: Pos,
}

/// A rule before it is known whether it allows or denies.
#[derive(Clone)]
struct Draft {
    place: Place,
    target: Target,
    protocol: Option<ProtocolFile>,
    ports: Option<Vec<PortRange>>,
    answers: Option<Arc<Answers>>,
    tls: Option<TlsFile>,
    /// `quic: unchecked`.
    quic: bool,
    http: Option<HttpFile>,
    via: Option<Via>,
    inspect: Option<Arc<Inspect>>,
    reason: Option<Arc<str>>,
}

#[derive(Clone)]
enum Target {
    Selector(Selector),
    Group(At<String>),
}

struct Group {
    place: Place,
    rules: Vec<Draft>,
}

/// Checks all files together. Anything wrong is in the report; the policies then are
/// not to be used.
pub(crate) fn validate(files: &[Parsed], report: &mut Report) -> BTreeMap<AgentName, Policy> {
    let mut validator = Validator {
        files,
        report,
        groups: HashMap::new(),
        without_ports: HashSet::new(),
        wrong_quic: HashSet::new(),
    };
    validator.read_groups();
    validator.agents()
}

struct Validator<'a> {
    files: &'a [Parsed],
    report: &'a mut Report,
    groups: HashMap<Arc<str>, Group>,
    /// Rules of groups that were already reported for lacking ports.
    without_ports: HashSet<Place>,
    /// Rules of groups that were already reported for what they say of QUIC.
    wrong_quic: HashSet<Place>,
}

fn services(file: Option<&At<ServicesFile>>) -> Services {
    match file.map(|services| &services.value) {
        None => Services::default(),
        Some(ServicesFile::All) => Services::All,
        Some(ServicesFile::Paths(paths)) => {
            Services::Only(paths.iter().map(|path| path.value.clone()).collect())
        }
    }
}

impl Validator<'_> {
    fn diagnostic(
        &self,
        place: Place,
        message: impl Into<String>,
        help: impl Into<String>,
    ) -> Diagnostic {
        self.files[place.file]
            .source
            .diagnostic(place.at, message, help)
    }

    fn error(&mut self, place: Place, message: impl Into<String>, help: impl Into<String>) {
        let diagnostic = self.diagnostic(place, message, help);
        self.report.error(diagnostic);
    }

    fn place_text(&self, place: Place) -> String {
        let Place { file, at } = place;
        format!("{}:{}:{}", self.files[file].source.name, at.line, at.column)
    }

    fn read_groups(&mut self) {
        for (file, parsed) in self.files.iter().enumerate() {
            for (name, rules) in &parsed.file.groups {
                let place = Place { file, at: rules.at };
                self.check_name(place, name, "group");
                if rules.value.is_empty() {
                    let message = format!("group `{}` has no rules", shown(name));
                    let warning =
                        self.diagnostic(place, message, "write its rules below it, or remove it");
                    self.report.warn(warning);
                }
                let rules: Vec<_> = rules
                    .value
                    .iter()
                    .filter_map(|rule| self.draft(file, rule, true))
                    .collect();
                if let Some(before) = self.groups.get(name.as_str()) {
                    let message = format!(
                        "group `{}` is also in {}",
                        shown(name),
                        self.place_text(before.place)
                    );
                    self.error(
                        place,
                        message,
                        "give one of them another name, or put the rules of both in one place",
                    );
                    continue;
                }
                self.groups
                    .insert(name.as_str().into(), Group { place, rules });
            }
        }
    }

    fn agents(&mut self) -> BTreeMap<AgentName, Policy> {
        let mut agents: BTreeMap<AgentName, Policy> = BTreeMap::new();
        let mut places: BTreeMap<&str, Place> = BTreeMap::new();
        let mut selectors = Vec::new();
        for (file, parsed) in self.files.iter().enumerate() {
            for (name, agent) in &parsed.file.agents {
                let place = Place { file, at: agent.at };
                self.check_name(place, name, "agent");
                if let Some(before) = places.get(name.as_str()) {
                    let message = format!(
                        "agent `{}` is also in {}",
                        shown(name),
                        self.place_text(*before)
                    );
                    self.error(place, message, "an agent is written in one file: put its rules together, or give one another name");
                } else {
                    places.insert(name, place);
                    if places.len() == MAX_AGENTS as usize + 1 {
                        self.error(place, format!("more than {MAX_AGENTS} agents"), "one daemon governs at most that many: remove some, or let programs share an agent");
                    }
                }
                let (rules, rule_places) = self.rules(file, &agent.value);
                let Ok(name) = name.parse::<AgentName>() else {
                    continue;
                };
                let policy = Policy {
                    name: name.clone(),
                    mode: match agent.value.mode.as_ref().map(|mode| mode.value) {
                        None | Some(ModeFile::Enforce) => Mode::Enforce,
                        Some(ModeFile::Monitor) => Mode::Monitor,
                    },
                    rules,
                    services: services(agent.value.services.as_ref()),
                    limits: limits::limits(agent.value.limits.as_ref()),
                    dns: agent
                        .value
                        .dns
                        .as_ref()
                        .map(|dns| dns_policy(&dns.value))
                        .unwrap_or_default(),
                    gateway: agent
                        .value
                        .gateway
                        .as_ref()
                        .map(|gateway| gateway_policy(&gateway.value))
                        .unwrap_or_default(),
                    require: agent
                        .value
                        .require
                        .iter()
                        .flat_map(|require| require.value.0.iter().map(|wall| wall.value))
                        .collect(),
                    sandbox: sandbox::sandbox(agent.value.sandbox.as_ref()),
                    identity: identity(agent.value.identity.as_ref()),
                    matching: agent
                        .value
                        .matching
                        .iter()
                        .map(|selector| selector.value.0.clone())
                        .collect(),
                    ask: ask::ask(agent.value.ask.as_ref()),
                };
                for selector in &agent.value.matching {
                    let at = Place {
                        file,
                        at: selector.at,
                    };
                    selectors.push((name.clone(), selector.value.0.clone(), at));
                }
                let said = &agent.value;
                let about_ask = said.ask.iter();
                let about_services = said.services.iter();
                let about_limits = said.limits.iter();
                let about_sandbox = said.sandbox.iter();
                let about_identity = said.identity.iter();
                let of_the_agent = std::iter::empty()
                    .chain(
                        about_limits.flat_map(|limits| {
                            limits::lint(policy.name.as_str(), policy.mode, limits)
                        }),
                    )
                    .chain(about_ask.filter_map(|file| ask::lint(&policy, file)))
                    .chain(about_services.flat_map(|services| lint::services(&policy, services)))
                    .chain(about_sandbox.flat_map(|sandbox| lint::sandbox(&policy, sandbox)))
                    .chain(about_identity.filter_map(|identity| lint::identity(&policy, identity)))
                    .map(|(at, message, help)| (Place { file, at }, message, help));
                let warnings = lint::warnings(&policy, &rule_places)
                    .into_iter()
                    .chain(of_the_agent);
                for (place, message, help) in warnings {
                    let warning = self.diagnostic(place, message, help);
                    self.report.warn(warning);
                }
                agents.entry(name).or_insert(policy);
            }
        }
        for (place, message, help) in lint::matching(&selectors) {
            let warning = self.diagnostic(place, message, help);
            self.report.warn(warning);
        }
        agents
    }

    fn check_name(&mut self, place: Place, name: &str, what: &str) {
        if !is_name(name) {
            let message = format!(
                "`{}` is no name for {}",
                shown(name),
                if what == "agent" {
                    "an agent"
                } else {
                    "a group"
                }
            );
            let help = format!(
                "a name is 1 to {MAX_NAME} of `a-z 0-9 . _ -` and begins with a letter or digit, as in `{}`",
                nearest_name(name)
            );
            self.error(place, message, help);
        }
    }

    /// The rules of an agent in order, and the place of each.
    fn rules(&mut self, file: usize, agent: &AgentFile) -> (Vec<Rule>, Vec<Place>) {
        let mut rules =
            Vec::with_capacity(agent.allow.len() + agent.deny.len() + agent.listen.len());
        let mut places = Vec::with_capacity(rules.capacity());
        for (action, list) in [(Action::Allow, &agent.allow), (Action::Deny, &agent.deny)] {
            for rule in list {
                if action == Action::Deny {
                    self.no_answers(
                        file,
                        &rule.value,
                        "a deny rule",
                        "remove it: a name that is denied is not answered at all",
                    );
                    self.no_way(
                        file,
                        &rule.value,
                        "a deny rule",
                        "remove it: what is denied does not leave",
                    );
                }
                let Some(draft) = self.draft(file, rule, false) else {
                    continue;
                };
                match draft.target {
                    Target::Selector(_) => {
                        self.finish(draft, action, None, &mut rules, &mut places)
                    }
                    Target::Group(ref group) => {
                        for (member, group) in self.members(file, group, draft.reason.as_ref()) {
                            self.finish(member, action, Some(group), &mut rules, &mut places);
                        }
                    }
                }
            }
        }
        for rule in &agent.listen {
            if let Some(draft) = self.listen_draft(file, rule) {
                self.finish(draft, Action::Listen, None, &mut rules, &mut places);
            }
        }
        (rules, places)
    }

    /// The rules of a group; the reason of the reference is the one of rules that have
    /// none of their own.
    fn members(
        &mut self,
        file: usize,
        name: &At<String>,
        reason: Option<&Arc<str>>,
    ) -> Vec<(Draft, Arc<str>)> {
        if let Some((group, found)) = self.groups.get_key_value(name.value.as_str()) {
            return found
                .rules
                .iter()
                .cloned()
                .map(|mut draft| {
                    draft.reason = draft.reason.or_else(|| reason.cloned());
                    (draft, Arc::clone(group))
                })
                .collect();
        }
        let mut names: Vec<&str> = self.groups.keys().map(|name| &**name).collect();
        names.sort_unstable();
        let help = match near(&name.value, names.iter().copied()) {
            Some(near) => format!("did you mean `{near}`?"),
            None if names.is_empty() => {
                "write it below `groups:`, in this file or another that is loaded with it"
                    .to_owned()
            }
            None => format!(
                "write it below `groups:`, or name one of {}",
                names
                    .iter()
                    .take(8)
                    .map(|name| format!("`{}`", shown(name)))
                    .collect::<Vec<_>>()
                    .join(", ")
            ),
        };
        let place = Place { file, at: name.at };
        self.error(
            place,
            format!("there is no group `{}`", shown(&name.value)),
            help,
        );
        Vec::new()
    }

    fn draft(&mut self, file: usize, rule: &At<RuleFile>, in_group: bool) -> Option<Draft> {
        let place = |at| Place { file, at };
        let RuleFile {
            host,
            cidr,
            group,
            protocol,
            ports,
            private: _,
            types: _,
            ech: _,
            tls,
            quic,
            http,
            via,
            inspect,
            reason,
            broken,
        } = &rule.value;
        let mut named: Vec<_> = [("host", host), ("cidr", cidr), ("group", group)]
            .into_iter()
            .filter_map(|(key, value)| value.as_ref().map(|value| (value.at, key)))
            .collect();
        named.sort_unstable();
        match named.as_slice() {
            [] if *broken => {}
            [] => self.error(
                place(rule.at),
                "the rule names no destination",
                "write one of `host:`, `cidr:` and `group:`",
            ),
            [_] => {}
            [.., (at, _)] => {
                let keys = named
                    .iter()
                    .map(|(_, key)| format!("`{key}`"))
                    .collect::<Vec<_>>()
                    .join(" and ");
                self.error(
                    place(*at),
                    format!("the rule has {keys}"),
                    "a rule has one of `host`, `cidr` and `group`: make a rule of each",
                );
            }
        }
        let answers = self.answers(file, &rule.value);
        // Everything is looked at before anything ends it, to report all at once.
        let reason = self.reason(file, reason.as_ref());
        let host = host.as_ref().map(|host| self.host(file, host));
        let cidr = cidr.as_ref().map(|cidr| self.cidr(file, cidr));
        if let (Some(ports), Some(ProtocolFile::Icmp)) = (ports, protocol.as_ref().map(|p| p.value))
        {
            self.error(place(ports.at), "icmp has no ports", "remove `ports`");
            return None;
        }
        if let Some(group) = group {
            if in_group {
                self.error(
                    place(group.at),
                    "a group holds a group",
                    "write the rules of the other group here, or name both groups in the agent",
                );
            }
            for (at, key) in [
                (protocol.as_ref().map(|p| p.at), "protocol"),
                (ports.as_ref().map(|p| p.at), "ports"),
            ] {
                if let Some(at) = at {
                    self.error(
                        place(at),
                        format!("a rule with `group` has `{key}`"),
                        format!("remove it: each rule of the group says its own `{key}`"),
                    );
                }
            }
            self.no_way(
                file,
                &rule.value,
                "a rule with `group`",
                "remove it: each rule of the group says its own way out",
            );
        }
        let via = via.as_ref().map(|via| self.via(file, via));
        let not_tcp = self.of_tcp_alone(file, &rule.value);
        let inspect = match inspect {
            Some(inspect) if host.is_some() && !not_tcp => {
                Some(self.inspect(file, &rule.value, inspect))
            }
            _ => None,
        };
        if not_tcp || *broken {
            return None;
        }
        // Of what is not sound there is an error.
        let (via, inspect) = match (via, inspect) {
            (Some(None), _) | (_, Some(None)) => return None,
            (via, inspect) => (via.flatten(), inspect.flatten()),
        };
        let target = match (host, cidr, group) {
            (Some(host), None, None) => Target::Selector(host?),
            (None, Some(cidr), None) => Target::Selector(cidr?),
            (None, None, Some(group)) if !in_group => Target::Group(group.clone()),
            _ => return None,
        };
        Some(Draft {
            place: place(rule.at),
            target,
            protocol: protocol.as_ref().map(|protocol| protocol.value),
            ports: ports.as_ref().map(|ports| ranges(&ports.value)),
            answers,
            quic: quic.is_some(),
            http: http.as_ref().map(|http| http.value),
            via,
            inspect,
            tls: tls.as_ref().map(|tls| tls.value),
            reason,
        })
    }

    fn listen_draft(&mut self, file: usize, rule: &At<ListenFile>) -> Option<Draft> {
        let reason = self.reason(file, rule.value.reason.as_ref());
        Some(Draft {
            place: Place { file, at: rule.at },
            target: Target::Selector(self.cidr(file, &rule.value.cidr)?),
            protocol: Some(ProtocolFile::Tcp),
            ports: Some(ranges(&rule.value.ports.value)),
            answers: None,
            tls: None,
            quic: false,
            http: None,
            via: None,
            inspect: None,
            reason,
        })
    }

    fn host(&mut self, file: usize, host: &At<String>) -> Option<Selector> {
        match host.value.parse::<HostPattern>() {
            Ok(host) => Some(Selector::Host(host)),
            Err(error) => {
                self.error(Place { file, at: host.at }, error.to_string(), error.help());
                None
            }
        }
    }

    fn cidr(&mut self, file: usize, cidr: &At<String>) -> Option<Selector> {
        match net::parse(&cidr.value) {
            Ok(net) => Some(Selector::Net(net)),
            Err(error) => {
                self.error(Place { file, at: cidr.at }, error.to_string(), error.help());
                None
            }
        }
    }

    /// Line ends of a block of text become spaces; an empty reason is none.
    fn reason(&mut self, file: usize, reason: Option<&At<String>>) -> Option<Arc<str>> {
        let reason = reason?;
        let text = reason
            .value
            .split_whitespace()
            .collect::<Vec<_>>()
            .join(" ");
        let place = Place {
            file,
            at: reason.at,
        };
        if text.chars().count() > MAX_REASON as usize {
            self.error(
                place,
                format!("the reason is longer than {MAX_REASON} characters"),
                "shorten it: it is shown with every event; the rest may go into a comment",
            );
            return None;
        }
        if text.chars().any(char::is_control) {
            self.error(
                place,
                "the reason holds control characters",
                "write plain text",
            );
            return None;
        }
        (!text.is_empty()).then(|| text.into())
    }
}

fn ranges(ports: &PortsFile) -> Vec<PortRange> {
    match ports {
        PortsFile::All => vec![ALL_PORTS],
        PortsFile::Ranges(ranges) => ports::merge(ranges.clone()),
    }
}
