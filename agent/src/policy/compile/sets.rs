//! Sets of entries: which entries a destination leads to, and where they lie.

use crate::policy::model::{Policy, RuleProtocol};
use crate::policy::ports::PortRange;
use crate::policy::tls::Tls;
use agent_common::layout::MAX_ENTRIES;
use agent_common::verdict::{Action, Check, Entry, MAX_SET, SetRef};
use std::collections::HashMap;

/// An entry with the absolute number of its rule apart.
pub(super) type Ruled = (Entry, u32);

/// The entries of every rule, kept once for all rules that differ only in destination.
pub(super) struct Shapes {
    /// Entries with rule 0.
    shapes: Vec<Box<[Entry]>>,
    /// Index into `shapes`, by rule.
    of_rule: Vec<u32>,
}

impl Shapes {
    pub(super) fn new(policy: &Policy) -> Self {
        type Shape<'a> = (Action, RuleProtocol, &'a [PortRange], Tls, Check);
        let mut known: HashMap<Shape<'_>, u32> = HashMap::new();
        let mut shapes = Vec::new();
        let of_rule = policy
            .rules
            .iter()
            .map(|rule| {
                let ports = rule.ports.as_slice();
                let check = match &rule.answers {
                    Some(answers) if answers.keep_ech => Check::OuterName,
                    _ => Check::Name,
                };
                *known
                    .entry((rule.action, rule.protocol, ports, rule.tls, check))
                    .or_insert_with(|| {
                        let ranges = rule.tls.split(ports);
                        let entries = rule.protocol.protocols(ports).iter().flat_map(|protocol| {
                            ranges.iter().map(|((low, high), named)| {
                                let entry = Entry::new(rule.action, *protocol, *low, *high, 0);
                                entry.checked(if *named { check } else { Check::None })
                            })
                        });
                        shapes.push(entries.collect());
                        shapes.len() as u32 - 1
                    })
            })
            .collect();
        Self { shapes, of_rule }
    }

    pub(super) fn of(&self, rule: u32) -> &[Entry] {
        &self.shapes[self.of_rule[rule as usize] as usize]
    }

    /// The order in which a set holds entries: deny before allow before listen, what needs no
    /// name before what does, then the lower rule. So the deciding rule is the first that
    /// matches, and of two that allow it is the one that asks for less.
    fn order((entry, rule): &Ruled) -> (Action, bool, u32) {
        (entry.action(), entry.check() != Check::None, *rule)
    }

    /// What `base` (already resolved) and more rules come to: in order, without entries
    /// that an earlier one of the same kind covers. Those can never decide: any flow that
    /// they match is matched before. That keeps sets small where many hosts share an
    /// address.
    pub(super) fn resolve(&self, base: &[Ruled], rules: &[u32]) -> Vec<Ruled> {
        let mut all: Vec<Ruled> = base.to_vec();
        for rule in rules {
            all.extend(self.of(*rule).iter().map(|entry| (*entry, *rule)));
        }
        all.sort_by_key(Self::order);
        let mut kept: Vec<Ruled> = Vec::with_capacity(all.len());
        for (entry, rule) in all {
            let covered = kept.iter().any(|(earlier, _)| covers(earlier, &entry));
            if !covered {
                kept.push((entry, rule));
            }
        }
        kept
    }
}

fn covers(outer: &Entry, inner: &Entry) -> bool {
    let (outer_ports, inner_ports) = (outer.ports(), inner.ports());
    outer.action() == inner.action()
        && (outer.check() == Check::None || outer.check() == inner.check())
        && outer.protocol() == inner.protocol()
        && outer_ports.0 <= inner_ports.0
        && inner_ports.1 <= outer_ports.1
}

/// The entries of a policy, append-only: what a set in force leads to never changes.
#[derive(Default)]
pub(super) struct Pool {
    entries: Vec<Entry>,
    starts: HashMap<Box<[Entry]>, u16>,
}

/// There is no room in the entries.
pub(super) struct Full;

impl Pool {
    pub(super) fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Where the set lies, adding it if no equal one is there. `set` holds at most
    /// [`MAX_SET`]. If it fails, nothing has changed.
    pub(super) fn intern(&mut self, set: &[Ruled]) -> Result<SetRef, Full> {
        debug_assert!(set.len() <= usize::from(MAX_SET));
        let Some((_, first)) = set.first() else {
            return Ok(SetRef::EMPTY);
        };
        // A set of one rule counts from that rule, so that all rules of one shape share
        // it; a set of several holds absolute numbers.
        let single = set.iter().all(|(_, rule)| rule == first);
        let base = if single { *first } else { 0 };
        let entries: Vec<Entry> = set
            .iter()
            .map(|(entry, rule)| entry.of_rule(rule - base))
            .collect();
        let start = self.start(&entries)?;
        Ok(SetRef::new(start, entries.len() as u16, base))
    }

    /// As [`Pool::intern`], for the entries of one rule.
    pub(super) fn intern_shape(&mut self, shape: &[Entry], rule: u32) -> Result<SetRef, Full> {
        let start = self.start(shape)?;
        Ok(SetRef::new(start, shape.len() as u16, rule))
    }

    fn start(&mut self, entries: &[Entry]) -> Result<u16, Full> {
        if let Some(start) = self.starts.get(entries) {
            return Ok(*start);
        }
        if self.entries.len() + entries.len() > MAX_ENTRIES as usize {
            return Err(Full);
        }
        let start = u16::try_from(self.entries.len()).map_err(|_| Full)?;
        self.entries.extend_from_slice(entries);
        self.starts.insert(entries.into(), start);
        Ok(start)
    }
}
