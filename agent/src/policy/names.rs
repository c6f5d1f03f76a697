//! Which names the gate answers an agent, and what it may say about them.

use super::dns::Answers;
use super::host::{HostName, folded};
use super::model::{Policy, Selector};
use super::pattern::HostPattern;
use super::rrtype::BASE_TYPES;
use super::suffix::registered_domain;
use agent_common::verdict::Action;
use std::collections::{BTreeSet, HashMap};

/// What the rules together say about one name that they allow.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct NameRule {
    /// The types of records that are answered, [`BASE_TYPES`] included.
    pub types: BTreeSet<u16>,
    /// Whether some rule lets private and other special addresses pass.
    pub private: bool,
    /// Whether some rule keeps ECH keys and address hints.
    pub keep_ech: bool,
    /// The base of the narrowest wildcard, where no rule names the name itself.
    pub wildcard: Option<HostName>,
}

impl Default for NameRule {
    /// What a rule says that says nothing of answers.
    fn default() -> Self {
        Self {
            types: BASE_TYPES.into(),
            private: false,
            keep_ech: false,
            wildcard: None,
        }
    }
}

impl NameRule {
    /// The domain whose budget a question for `name` uses up: the registered one, or the
    /// base of the wildcard where that lies above it (`*.com`), because else every name
    /// there would bring a budget of its own. `None` for a name that a rule names itself:
    /// there is nothing to choose in it. `name` is in the form of [`HostName`], and this is
    /// what [`NameRules::find`] said about it.
    pub fn budget_of<'a>(&'a self, name: &'a str) -> Option<&'a str> {
        let base = self.wildcard.as_ref()?.as_str();
        let registered = registered_domain(name);
        // Both are ends of one name, so the shorter one lies above.
        Some(if base.len() < registered.len() {
            base
        } else {
            registered
        })
    }
}

/// The names of a policy, for look-ups: one for the name, one for each label above it.
/// Its size is that of the rules for hosts; it holds no reference to the policy.
#[derive(Clone, Debug, Default)]
pub struct NameRules {
    slots: HashMap<Box<str>, Slot>,
    wildcards: bool,
}

/// What the rules say about a name itself, and about those below it.
#[derive(Clone, Debug, Default)]
struct Slot {
    exact: Side,
    below: Side,
}

#[derive(Clone, Debug, Default)]
enum Side {
    #[default]
    Silent,
    Allow(Answers),
    Deny,
}

impl Side {
    fn allow(&mut self, answers: Option<&Answers>) {
        if matches!(self, Self::Silent) {
            *self = Self::Allow(Answers::default());
        }
        if let (Self::Allow(all), Some(answers)) = (self, answers) {
            all.types.extend(&answers.types);
            all.private |= answers.private;
            all.keep_ech |= answers.keep_ech;
        }
    }
}

impl NameRules {
    /// Whether it allows names that it does not name one by one.
    pub fn allows_wildcards(&self) -> bool {
        let allows = |slot: &Slot| matches!(slot.below, Side::Allow(_));
        self.wildcards && self.slots.values().any(allows)
    }

    pub(super) fn new(policy: &Policy) -> Self {
        let mut rules = Self::default();
        for rule in &policy.rules {
            let Selector::Host(pattern) = &rule.selector else {
                continue;
            };
            let slot = rules.slots.entry(pattern.base().as_str().into());
            let slot = slot.or_default();
            let side = match pattern {
                HostPattern::Exact(_) => &mut slot.exact,
                HostPattern::Below(_) => {
                    rules.wildcards = true;
                    &mut slot.below
                }
            };
            match rule.action {
                Action::Deny => *side = Side::Deny,
                Action::Allow => side.allow(rule.answers.as_deref()),
                // A listen rule names no host.
                Action::Listen => {}
            }
        }
        rules
    }

    /// Whether no rule says anything of a name, neither yes nor no.
    pub fn silent_of(&self, name: &str) -> bool {
        let Some(name) = folded(name) else {
            return false;
        };
        let silent = |base: &str, below: bool| match self.slots.get(base) {
            Some(slot) if below => matches!(slot.below, Side::Silent),
            Some(slot) => matches!(slot.exact, Side::Silent),
            None => true,
        };
        let mut rest: &str = &name;
        let mut all = silent(rest, false);
        while let Some((_, base)) = rest.split_once('.') {
            all &= silent(base, true);
            rest = base;
        }
        all
    }

    /// What the rules say about a name, in any case, with or without the last dot: all
    /// allow rules that mean it together. `None` where none does, where a deny rule means
    /// it (whatever its ports: deny beats allow), and for what is no host name
    /// ([`HostName::asked`]).
    pub fn find(&self, name: &str) -> Option<NameRule> {
        let name = folded(name)?;
        let mut found: Option<NameRule> = None;
        let mut merge = |side: &Side, wildcard: Option<&str>| match side {
            Side::Silent => true,
            Side::Deny => false,
            Side::Allow(answers) => {
                let rule = found.get_or_insert_with(|| NameRule {
                    types: BASE_TYPES.into(),
                    private: false,
                    keep_ech: false,
                    wildcard: wildcard.and_then(HostName::asked),
                });
                rule.types.extend(&answers.types);
                rule.private |= answers.private;
                rule.keep_ech |= answers.keep_ech;
                true
            }
        };
        if let Some(slot) = self.slots.get(&*name)
            && !merge(&slot.exact, None)
        {
            return None;
        }
        let mut rest: &str = &name;
        while let (true, Some((_, base))) = (self.wildcards, rest.split_once('.')) {
            if let Some(slot) = self.slots.get(base)
                && !merge(&slot.below, Some(base))
            {
                return None;
            }
            rest = base;
        }
        found
    }
}
