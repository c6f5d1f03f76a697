//! What the DNS gate says to a name, and which rules say it.

use crate::policy::{HostName, HostPattern, NameRule, Policy, Rule, Selector, type_name};
use agent_common::layout::Mode;
use agent_common::verdict::Action;
use serde::Serialize;

/// What the DNS gate says to a name.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NameAnswer<'a> {
    policy: &'a Policy,
    name: HostName,
    /// The allow rules that mean it: those that name it, then from the narrowest wildcard
    /// up.
    pub rules: Vec<&'a Rule>,
    /// A deny rule that means it.
    pub denied_by: Option<&'a Rule>,
    /// What the gate answers, if it does.
    pub answered: Option<NameRule>,
}

/// As JSON.
#[derive(Serialize)]
pub(super) struct NameReport {
    rules: Vec<u32>,
    denied_by: Option<u32>,
    /// Whether the agent's questions come to the gate.
    steered: bool,
    answered: bool,
    /// The answer to every question where it is not answered.
    rcode: Option<&'static str>,
    wildcard: Option<String>,
    types: Vec<String>,
    private: bool,
    ech_kept: bool,
    budget_domain: Option<String>,
}

impl<'a> NameAnswer<'a> {
    pub(super) fn new(policy: &'a Policy, name: &HostName) -> Self {
        let exact = HostPattern::Exact(name.clone());
        let meant = |action: Action| {
            let mut rules: Vec<(&HostPattern, &Rule)> = policy
                .rules
                .iter()
                .filter(|rule| rule.action == action)
                .filter_map(|rule| match &rule.selector {
                    Selector::Host(pattern) => pattern.covers(&exact).then_some((pattern, rule)),
                    Selector::Net(_) => None,
                })
                .collect();
            // All bases are ends of the name: the longest is the nearest.
            rules.sort_by_key(|(pattern, rule)| {
                let length = pattern.base().as_str().len();
                (std::cmp::Reverse(length), rule.number)
            });
            rules.into_iter().map(|(_, rule)| rule).collect::<Vec<_>>()
        };
        Self {
            policy,
            name: name.clone(),
            rules: meant(Action::Allow),
            denied_by: meant(Action::Deny).first().copied(),
            answered: policy.names().find(name.as_str()),
        }
    }

    fn budget_domain(&self) -> Option<&str> {
        self.answered.as_ref()?.budget_of(self.name.as_str())
    }

    fn types(&self) -> Vec<String> {
        let types = self.answered.iter().flat_map(|rule| &rule.types);
        types
            .map(|number| type_name(*number).into_owned())
            .collect()
    }

    pub(super) fn report(&self) -> NameReport {
        let answered = self.answered.as_ref();
        NameReport {
            rules: self.rules.iter().map(|rule| rule.number).collect(),
            denied_by: self.denied_by.map(|rule| rule.number),
            steered: self.policy.mode == Mode::Enforce,
            answered: answered.is_some(),
            rcode: match answered {
                Some(_) => None,
                None => Some(self.policy.dns.refuse.as_str()),
            },
            wildcard: answered
                .and_then(|rule| rule.wildcard.clone())
                .map(|base| HostPattern::Below(base).to_string()),
            types: self.types(),
            private: answered.is_some_and(|rule| rule.private),
            ech_kept: answered.is_some_and(|rule| rule.keep_ech),
            budget_domain: self.budget_domain().map(str::to_owned),
        }
    }

    /// For people.
    pub(super) fn lines(&self) -> Vec<String> {
        let mut lines: Vec<String> = self
            .rules
            .iter()
            .map(|rule| {
                let (number, origin) = (rule.number, &rule.origin);
                format!("named by `{}` (rule {number}, {origin})", rule.selector)
            })
            .collect();
        if self.policy.mode == Mode::Monitor {
            lines.push(
                "dns: the agent is monitored, so its questions do not come to the gate".to_owned(),
            );
            return lines;
        }
        let rcode = self.policy.dns.refuse.as_str();
        let refused = format!("so the answer is {rcode} and nothing is asked");
        let Some(answered) = &self.answered else {
            lines.push(match self.denied_by {
                Some(rule) => format!(
                    "dns: `{}` (rule {}, {}) refuses the name, {refused}",
                    rule.without_reason(),
                    rule.number,
                    rule.origin
                ),
                None => format!("dns: no rule names it, {refused}"),
            });
            return lines;
        };
        lines.push(format!(
            "dns: answers {}; private addresses {}, ECH keys {}",
            self.types().join(" "),
            if answered.private {
                "pass"
            } else {
                "are removed"
            },
            if answered.keep_ech {
                "stay"
            } else {
                "are removed"
            },
        ));
        if let Some(domain) = self.budget_domain() {
            lines.push(format!(
                "dns: below a wildcard the name uses the budget of `{domain}`: {} an hour, then {}",
                self.policy.dns.budget,
                self.policy.dns.over_budget.as_str()
            ));
        }
        lines
    }
}
