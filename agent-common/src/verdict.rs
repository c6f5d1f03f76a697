//! The verdict: a pure function over three look-ups.
//!
//! The tables are compiled so that the kernel never has to search: an exact address
//! or, failing that, the longest prefix that covers a destination leads to one *set*:
//! every entry of every rule that covers the destination, deny entries first. The
//! first entry that matches protocol and port decides. Deny therefore beats allow
//! however narrow the allow, and a miss anywhere denies.

use crate::{Addr, Protocol, Reason};

/// The most entries that one set may hold; the loop in the kernel is bounded by it.
pub const MAX_SET: u16 = 64;

/// Rule number of a verdict that no rule made.
pub const NO_RULE: u32 = u32::MAX;

/// What an entry does when it matches.
#[repr(u8)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Action {
    /// Refuse.
    Deny = 0,
    /// Let out.
    Allow = 1,
    /// Let an accepted connection on this *local* port answer its peer.
    Listen = 2,
}

/// What must still be seen before a connection that is allowed may carry data.
#[repr(u8)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Check {
    /// Nothing: the address was enough.
    None = 0,
    /// A TLS ClientHello whose server name is one that the policy allows and that the address
    /// is leased for.
    Name = 1,
    /// The same, and the hello may hold an encrypted one (ECH), which only its outer name is
    /// known of.
    OuterName = 2,
    /// The connection leaves by the gateway, which judges it by the name that it shows.
    Gateway = 3,
    /// The connection leaves by the gateway, and the address is enough there.
    Relay = 4,
}

impl Check {
    /// From the byte in a map: anything unknown asks for the most.
    #[inline(always)]
    pub const fn from_number(number: u8) -> Self {
        match number {
            0 => Self::None,
            2 => Self::OuterName,
            3 => Self::Gateway,
            4 => Self::Relay,
            _ => Self::Name,
        }
    }

    /// Whether the connection is to leave by the gateway.
    #[inline(always)]
    pub const fn is_steered(self) -> bool {
        matches!(self, Self::Gateway | Self::Relay)
    }
}

/// One line of a set: protocol, an inclusive port range (host order), what to do, and
/// the rule that it came from, relative to the set's own rule number.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Entry {
    low: u16,
    high: u16,
    protocol: u8,
    action: u8,
    check: u8,
    _zero: u8,
    rule: u32,
}

const _: () = assert!(size_of::<Entry>() == 12, "value of the ENTRIES maps");

impl Entry {
    /// An entry; `low..=high` is inclusive, in host order. ICMP has no ports: give
    /// `0..=65535`. `rule` is added to the number in the [`SetRef`] that leads here.
    pub const fn new(action: Action, protocol: Protocol, low: u16, high: u16, rule: u32) -> Self {
        Self {
            low,
            high,
            protocol: protocol.number(),
            action: action as u8,
            check: Check::None as u8,
            _zero: 0,
            rule,
        }
    }

    /// The same entry with a check.
    #[must_use]
    pub const fn checked(self, check: Check) -> Self {
        Self {
            check: check as u8,
            ..self
        }
    }

    /// The same entry of another rule, relative to the set's.
    #[must_use]
    pub const fn of_rule(self, rule: u32) -> Self {
        Self { rule, ..self }
    }

    /// What must still be seen of what it allows.
    #[inline(always)]
    pub const fn check(&self) -> Check {
        Check::from_number(self.check)
    }

    /// What it does; a number that is no [`Action`] denies.
    #[inline(always)]
    pub const fn action(&self) -> Action {
        match self.action {
            1 => Action::Allow,
            2 => Action::Listen,
            _ => Action::Deny,
        }
    }

    /// The protocol that it speaks of.
    pub const fn protocol(&self) -> Protocol {
        Protocol::new(self.protocol)
    }

    /// The inclusive port range.
    pub const fn ports(&self) -> (u16, u16) {
        (self.low, self.high)
    }

    /// The rule, relative to the set's.
    pub const fn rule(&self) -> u32 {
        self.rule
    }

    #[inline(always)]
    const fn covers(&self, protocol: Protocol, port: u16) -> bool {
        self.protocol == protocol.number() && self.low <= port && port <= self.high
    }

    #[inline(always)]
    const fn every_port(&self) -> bool {
        self.low == 0 && self.high == u16::MAX
    }
}

/// Where a set lies in the entries of its policy: first entry (16 bits), number of
/// entries (16 bits) and the rule number that its entries count from (32 bits), in one
/// word that the kernel reads in one load.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct SetRef(u64);

const _: () = assert!(size_of::<SetRef>() == 8, "value of the address maps");

impl SetRef {
    /// A set with nothing in it.
    pub const EMPTY: Self = Self::new(0, 0, NO_RULE);

    /// A set of `len` entries from `start`.
    pub const fn new(start: u16, len: u16, rule: u32) -> Self {
        Self(start as u64 | (len as u64) << 16 | (rule as u64) << 32)
    }

    /// The word that it is.
    #[inline(always)]
    pub const fn word(self) -> u64 {
        self.0
    }

    /// From that word.
    #[inline(always)]
    pub const fn from_word(word: u64) -> Self {
        Self(word)
    }

    /// Index of the first entry.
    #[inline(always)]
    pub const fn start(self) -> u16 {
        self.0 as u16
    }

    /// Number of entries.
    #[inline(always)]
    pub const fn len(self) -> u16 {
        (self.0 >> 16) as u16
    }

    /// Whether it holds no entry.
    pub const fn is_empty(self) -> bool {
        self.len() == 0
    }

    /// The number that the entries' rules count from. Where the set has more than one
    /// rule this is 0 and the entries hold absolute numbers.
    #[inline(always)]
    pub const fn rule(self) -> u32 {
        (self.0 >> 32) as u32
    }
}

/// The look-ups that a verdict rests on. The kernel answers them from maps, the host
/// from vectors.
pub trait Tables {
    /// The set of exactly this address.
    fn exact(&self, addr: &Addr) -> Option<SetRef>;
    /// The set of the longest prefix that covers this address.
    fn prefix(&self, addr: &Addr) -> Option<SetRef>;
    /// The entry at this index.
    fn entry(&self, index: u16) -> Option<Entry>;
}

/// A destination to be judged.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Query {
    /// The far end.
    pub addr: Addr,
    /// The far port (the local port in [`judge_reply`]), host order; 0 for ICMP.
    pub port: u16,
    /// The protocol.
    pub protocol: Protocol,
}

/// The outcome, with the rule that decided ([`NO_RULE`] if none did).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// Let out, by this rule.
    Allow {
        /// Number of the deciding rule.
        rule: u32,
        /// What must still be seen.
        check: Check,
    },
    /// Refused.
    Deny {
        /// Why.
        reason: Reason,
        /// Number of the deciding rule.
        rule: u32,
    },
}

impl Verdict {
    /// Let out by no rule, with nothing more to see.
    pub const FREE: Self = Self::Allow {
        rule: NO_RULE,
        check: Check::None,
    };

    /// Whether the flow may go.
    #[inline(always)]
    pub const fn is_allow(&self) -> bool {
        matches!(self, Self::Allow { .. })
    }
}

const fn deny(reason: Reason) -> Verdict {
    Verdict::Deny {
        reason,
        rule: NO_RULE,
    }
}

#[inline(always)]
fn set_of<T: Tables>(tables: &T, addr: &Addr) -> Option<SetRef> {
    match tables.exact(addr) {
        Some(set) => Some(set),
        None => tables.prefix(addr),
    }
}

/// Judges a flow that the agent opens: a connect, a send, or a packet that begins one.
#[inline(always)]
pub fn judge<T: Tables>(tables: &T, query: &Query) -> Verdict {
    match set_of(tables, &query.addr) {
        Some(set) => judge_set(tables, set, query.protocol, query.port),
        None => deny(Reason::NoRule),
    }
}

/// Judges by a set: the first entry that matches protocol and port (host order) decides.
#[inline(always)]
pub fn judge_set<T: Tables>(tables: &T, set: SetRef, protocol: Protocol, port: u16) -> Verdict {
    let mut index = 0;
    let mut named = false;
    while index < MAX_SET && index < set.len() {
        let Some(entry) = tables.entry(set.start().wrapping_add(index)) else {
            return deny(Reason::State);
        };
        match entry.action() {
            Action::Listen => {}
            action => {
                if entry.covers(protocol, port) {
                    let rule = set.rule().wrapping_add(entry.rule);
                    return match action {
                        Action::Allow => Verdict::Allow {
                            rule,
                            check: entry.check(),
                        },
                        Action::Deny | Action::Listen => Verdict::Deny {
                            reason: Reason::DenyRule,
                            rule,
                        },
                    };
                }
                named |= matches!(action, Action::Allow);
            }
        }
        index += 1;
    }
    deny(if named { Reason::Port } else { Reason::NoRule })
}

/// Judges what an agent sends on a connection that it *accepted*: `query.addr` is the
/// peer and `query.port` the agent's own port. Deny rules that cover every port of the
/// peer hold here too; deny rules for single far ports do not, because the far port
/// of an accepted connection is the peer's to choose.
#[inline(always)]
pub fn judge_reply<T: Tables>(tables: &T, query: &Query) -> Verdict {
    let Some(set) = set_of(tables, &query.addr) else {
        return deny(Reason::Listen);
    };
    let mut index = 0;
    while index < MAX_SET && index < set.len() {
        let Some(entry) = tables.entry(set.start().wrapping_add(index)) else {
            return deny(Reason::State);
        };
        let rule = set.rule().wrapping_add(entry.rule);
        match entry.action() {
            Action::Deny => {
                if entry.every_port() && entry.covers(query.protocol, query.port) {
                    return Verdict::Deny {
                        reason: Reason::DenyRule,
                        rule,
                    };
                }
            }
            Action::Listen => {
                if entry.covers(query.protocol, query.port) {
                    return Verdict::Allow {
                        rule,
                        check: Check::None,
                    };
                }
            }
            Action::Allow => {}
        }
        index += 1;
    }
    deny(Reason::Listen)
}

/// Judges a bind to a local port: some `listen` rule must name the port, whoever the
/// peers may be. `listeners` is the set of every listen entry of the policy.
#[inline(always)]
pub fn judge_bind<T: Tables>(
    tables: &T,
    listeners: SetRef,
    protocol: Protocol,
    port: u16,
) -> Verdict {
    let mut index = 0;
    while index < MAX_SET && index < listeners.len() {
        let Some(entry) = tables.entry(listeners.start().wrapping_add(index)) else {
            return deny(Reason::State);
        };
        if matches!(entry.action(), Action::Listen) && entry.covers(protocol, port) {
            return Verdict::Allow {
                rule: listeners.rule().wrapping_add(entry.rule),
                check: Check::None,
            };
        }
        index += 1;
    }
    deny(Reason::Listen)
}
