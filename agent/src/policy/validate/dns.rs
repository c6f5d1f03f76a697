//! What is said about the DNS: of a rule, and of an agent.

use super::super::dns::{Answers, BudgetLimits, DnsPolicy, OverBudget, Refuse};
use super::super::file::{At, DnsFile, EchFile, OverBudgetFile, RefuseFile, RuleFile};
use super::super::rrtype::BASE_TYPES;
use super::{Place, Validator};
use std::sync::Arc;

/// With the defaults for what is not said.
pub(super) fn dns_policy(file: &DnsFile) -> DnsPolicy {
    let default = DnsPolicy::default();
    let budget = file.budget.as_ref().map(|budget| &budget.value);
    let limit = |said: &Option<At<u32>>, default| said.as_ref().map_or(default, |said| said.value);
    DnsPolicy {
        refuse: match file.refuse.as_ref().map(|refuse| refuse.value) {
            None => default.refuse,
            Some(RefuseFile::Refused) => Refuse::Refused,
            Some(RefuseFile::NxDomain) => Refuse::NxDomain,
        },
        validate: file.dnssec.is_some(),
        budget: match budget {
            None => default.budget,
            Some(budget) => BudgetLimits {
                names: limit(&budget.names, default.budget.names),
                bytes: limit(&budget.bytes, default.budget.bytes),
                entropy_bits: limit(&budget.entropy_bits, default.budget.entropy_bits),
                repeat_bits: limit(&budget.repeat_bits, default.budget.repeat_bits),
            },
        },
        over_budget: match file.over_budget.as_ref().map(|over| over.value) {
            None => default.over_budget,
            Some(OverBudgetFile::Block) => OverBudget::Block,
            Some(OverBudgetFile::Report) => OverBudget::Report,
        },
    }
}

impl Validator<'_> {
    /// What the rule says about answers, `None` where that is nothing; an error where it is
    /// no rule for a host.
    pub(super) fn answers(&mut self, file: usize, rule: &RuleFile) -> Option<Arc<Answers>> {
        if rule.host.is_none() {
            if rule.cidr.is_some() {
                let help = "remove it, or write it in the rule with `host`: it is about a name";
                self.no_answers(file, rule, "a rule with `cidr`", help);
            } else if rule.group.is_some() {
                let help = "remove it: each rule of the group says its own";
                self.no_answers(file, rule, "a rule with `group`", help);
            }
            return None;
        }
        let mut answers = Answers {
            private: rule.private.as_ref().is_some_and(|private| private.value),
            keep_ech: matches!(&rule.ech, Some(ech) if ech.value == EchFile::Keep),
            types: rule
                .types
                .as_ref()
                .map(|types| types.value.0.clone())
                .unwrap_or_default(),
        };
        answers.types.retain(|number| !BASE_TYPES.contains(number));
        (answers != Answers::default()).then(|| Arc::new(answers))
    }

    /// An error for each key about a name that the rule has.
    pub(super) fn no_answers(&mut self, file: usize, rule: &RuleFile, what: &str, help: &str) {
        for (at, key) in [
            (rule.private.as_ref().map(|private| private.at), "private"),
            (rule.types.as_ref().map(|types| types.at), "types"),
            (rule.ech.as_ref().map(|ech| ech.at), "ech"),
            (rule.tls.as_ref().map(|tls| tls.at), "tls"),
            (rule.quic.as_ref().map(|quic| quic.at), "quic"),
            (rule.http.as_ref().map(|http| http.at), "http"),
            (rule.inspect.as_ref().map(|inspect| inspect.at), "inspect"),
        ] {
            if let Some(at) = at {
                self.error(Place { file, at }, format!("{what} has `{key}`"), help);
            }
        }
    }
}
