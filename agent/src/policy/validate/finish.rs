//! From a draft to a rule, where it is known what the rule does.

use super::super::file::{HttpFile, ProtocolFile, TlsFile};
use super::super::http::Http;
use super::super::model::{Origin, Rule, RuleProtocol, Selector};
use super::super::ports::{ALL_PORTS, PortRange};
use super::super::tls::{HTTPS, Tls};
use super::super::via::Via;
use super::{Draft, Place, Target, Validator};
use agent_common::verdict::Action;
use std::sync::Arc;

impl Validator<'_> {
    /// The rule that a draft comes to under `allow`, `deny` or `listen`, and its place; an error
    /// where it cannot stand there.
    pub(super) fn finish(
        &mut self,
        draft: Draft,
        action: Action,
        group: Option<Arc<str>>,
        rules: &mut Vec<Rule>,
        places: &mut Vec<Place>,
    ) {
        let Draft {
            place,
            target: Target::Selector(selector),
            protocol,
            ports,
            answers,
            tls,
            quic,
            http,
            via,
            inspect,
            reason,
        } = draft
        else {
            return;
        };
        let protocol = match (protocol, action) {
            (Some(ProtocolFile::Tcp), _) | (None, Action::Allow | Action::Listen) => {
                RuleProtocol::Tcp
            }
            (Some(ProtocolFile::Udp), _) => RuleProtocol::Udp,
            (Some(ProtocolFile::Icmp), _) => RuleProtocol::Icmp,
            (None, Action::Deny) => RuleProtocol::Any,
        };
        let ports = match ports {
            // Nobody who denies every port means to leave port 0 open, and only a deny
            // that covers all of them holds for replies of accepted connections.
            Some(ports) if action == Action::Deny && ports == [(1, u16::MAX)] => vec![ALL_PORTS],
            Some(ports) => ports,
            None if action == Action::Deny || protocol == RuleProtocol::Icmp => vec![ALL_PORTS],
            None => {
                if group.is_none() || self.without_ports.insert(place) {
                    let message = format!("the rule for {selector} names no ports");
                    self.error(
                        place,
                        message,
                        "write `ports: [443]`, or `ports: all` for every port",
                    );
                }
                return;
            }
        };
        let Ok(number) = u32::try_from(rules.len()) else {
            return self.error(
                place,
                "more rules than a number can count",
                "remove some rules",
            );
        };
        let holds_https = |range: &PortRange| (range.0..=range.1).contains(&HTTPS);
        let to_quic = protocol == RuleProtocol::Udp && ports.iter().any(holds_https);
        let wrong = match (to_quic, quic) {
            _ if action != Action::Allow || !matches!(selector, Selector::Host(_)) => None,
            (true, false) => Some((
                format!(
                    "the rule for {selector} lets QUIC (udp port 443) out, and names in it are not read"
                ),
                "leave udp port 443 out: programs then use TCP, where the name counts; or write `quic: unchecked`, and every host at the same address can be reached",
            )),
            (false, true) => Some((
                format!("the rule for {selector} has `quic`, and no udp port 443"),
                "remove it: QUIC is udp, and its port is 443",
            )),
            (true, true) | (false, false) => None,
        };
        if let Some((message, help)) = wrong {
            if group.is_none() || self.wrong_quic.insert(place) {
                self.error(place, message, help);
            }
            return;
        }
        let names = action == Action::Allow
            && protocol == RuleProtocol::Tcp
            && matches!(selector, Selector::Host(_));
        let tls = match tls {
            _ if !names => Tls::None,
            None => Tls::Https,
            Some(TlsFile::Sni) => Tls::Every,
            Some(TlsFile::None) => Tls::None,
        };
        let http = match http {
            _ if !names || inspect.is_some() => Http::None,
            None => Http::Port80,
            Some(HttpFile::Host) => Http::Every,
            Some(HttpFile::None) => Http::None,
        };
        // A group may be used under deny too, where this means nothing.
        let goes_out = action == Action::Allow && protocol == RuleProtocol::Tcp;
        let inspect = inspect.filter(|_| names);
        let via = match via {
            _ if !goes_out => Via::Direct,
            None if inspect.is_some() => Via::Gateway,
            via => via.unwrap_or_default(),
        };
        places.push(place);
        rules.push(Rule {
            number,
            action,
            selector,
            protocol,
            ports,
            // A group may be used under deny too, where answers mean nothing.
            answers: answers.filter(|_| action == Action::Allow),
            tls,
            http,
            via,
            inspect,
            reason,
            group,
            origin: Origin {
                file: Arc::clone(&self.files[place.file].source.name),
                line: place.at.line,
            },
        });
    }
}
