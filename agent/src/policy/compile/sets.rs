//! Sets of entries: which entries a destination leads to, and where they lie.

use crate::policy::http::{HTTP, Http};
use crate::policy::model::{Policy, Rule, RuleProtocol};
use crate::policy::ports::PortRange;
use crate::policy::tls::{HTTPS, Tls};
use crate::policy::via::Via;
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
        type Shape<'a> = (
            Action,
            RuleProtocol,
            &'a [PortRange],
            (Tls, bool),
            Http,
            bool,
        );
        let mut known: HashMap<Shape<'_>, u32> = HashMap::new();
        let mut shapes = Vec::new();
        let of_rule = policy
            .rules
            .iter()
            .map(|rule| {
                let ports = rule.ports.as_slice();
                let outer = rule.answers.as_ref().is_some_and(|said| said.keep_ech);
                let tls = (rule.tls, outer);
                let steered = rule.via != Via::Direct;
                *known
                    .entry((rule.action, rule.protocol, ports, tls, rule.http, steered))
                    .or_insert_with(|| {
                        let ranges = pieces(rule);
                        let entries = rule.protocol.protocols(ports).iter().flat_map(|protocol| {
                            ranges.iter().map(|((low, high), check)| {
                                let entry = Entry::new(rule.action, *protocol, *low, *high, 0);
                                entry.checked(*check)
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

    /// The order in which a set holds entries: deny before allow before listen; what leaves by
    /// the gateway before what does not, because a connection that was not steered cannot be
    /// later, and the gateway lets pass what any rule allows; then what needs no name before
    /// what does; then the lower rule. So the deciding rule is the first that matches, and of
    /// two that allow from the agent's own socket it is the one that asks for less.
    fn order((entry, rule): &Ruled) -> (Action, u8, u32) {
        let check = match entry.check() {
            Check::Gateway => 0,
            Check::Relay => 1,
            Check::None => 2,
            Check::Name | Check::OuterName => 3,
        };
        (entry.action(), check, *rule)
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

/// The ports of a rule in order, in ranges of one check each.
fn pieces(rule: &Rule) -> Vec<(PortRange, Check)> {
    // Where a rule may say something else than for the port before.
    const CUTS: [u16; 4] = [HTTP, HTTP + 1, HTTPS, HTTPS + 1];
    let mut pieces = Vec::with_capacity(rule.ports.len());
    for (low, high) in &rule.ports {
        let mut from = *low;
        for cut in CUTS.into_iter().filter(|cut| low < cut && cut <= high) {
            if rule.check(cut) != rule.check(cut - 1) {
                pieces.push(((from, cut - 1), rule.check(from)));
                from = cut;
            }
        }
        pieces.push(((from, *high), rule.check(from)));
    }
    pieces
}

fn covers(outer: &Entry, inner: &Entry) -> bool {
    let (outer_ports, inner_ports) = (outer.ports(), inner.ports());
    outer.action() == inner.action()
        && match (outer.check(), inner.check()) {
            (Check::None, Check::Name | Check::OuterName) => true,
            (outer, inner) => outer == inner,
        }
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
