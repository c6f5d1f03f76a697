//! The rules of a name: those that name it, and those of every wildcard above it.

use crate::policy::host::HostName;
use crate::policy::model::{Policy, Selector};
use crate::policy::pattern::HostPattern;
use std::collections::HashMap;

/// Numbers of rules by what they name.
#[derive(Default)]
pub(super) struct Hosts {
    exact: HashMap<HostName, Vec<u32>>,
    below: HashMap<HostName, Vec<u32>>,
}

impl Hosts {
    pub(super) fn new(policy: &Policy) -> Self {
        let mut hosts = Self::default();
        for rule in &policy.rules {
            let Selector::Host(pattern) = &rule.selector else {
                continue;
            };
            let side = match pattern {
                HostPattern::Exact(_) => &mut hosts.exact,
                HostPattern::Below(_) => &mut hosts.below,
            };
            side.entry(pattern.base().clone())
                .or_default()
                .push(rule.number);
        }
        hosts
    }

    /// The rules that mean the name, its own first, then from the narrowest wildcard up.
    pub(super) fn rules_of<'a>(&'a self, name: &'a HostName) -> impl Iterator<Item = u32> {
        let own = self.exact.get(name).into_iter().flatten();
        own.chain(self.above(name.as_str())).copied()
    }

    fn above<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a u32> {
        let mut rest = name;
        let parents = std::iter::from_fn(move || {
            let (_, parent) = rest.split_once('.')?;
            rest = parent;
            Some(parent)
        });
        parents.filter_map(|base| self.below.get(base)).flatten()
    }

    /// Every pattern of the policy with all rules that a name which only it means has,
    /// in the order of the names.
    pub(super) fn every(&self) -> Vec<(HostPattern, Vec<u32>)> {
        let exact = self.exact.keys().map(|name| {
            let rules = self.rules_of(name).collect();
            (HostPattern::Exact(name.clone()), rules)
        });
        let below = self.below.iter().map(|(base, own)| {
            let rules = own.iter().chain(self.above(base.as_str())).copied();
            (HostPattern::Below(base.clone()), rules.collect())
        });
        let mut every: Vec<_> = exact.chain(below).collect();
        every.sort();
        every
    }
}
