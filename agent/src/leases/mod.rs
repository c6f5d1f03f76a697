//! Which addresses a name stands for, and until when.
//!
//! Pure: no clock, no runtime, no file. Time is a [`Duration`] since boot
//! (`CLOCK_BOOTTIME`, which counts suspend), handed in by the caller. What changes is
//! returned as [`Change`]s; the engine writes them to the kernel maps *before* it lets
//! the gate answer from them, so a DNS answer never runs ahead of the maps.
//!
//! An address is leased until its TTL has ended and the grace after that has passed.
//! Nothing but that deadline, the bound of a name, and the policy takes it away: a name
//! that fails to resolve keeps what it has.

mod config;
mod guard;
#[cfg(test)]
mod model_tests;
mod snapshot;
mod status;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

pub use config::{CLIENT_TTL, LeaseConfig, LeaseConfigError};
pub use guard::canonical;
pub use snapshot::RestoreError;
pub use status::{LeaseView, NameState, NameStatus};

/// A host name in its canonical form: lower-case A-labels, no trailing dot.
pub type Name = Arc<str>;

/// Why a name could not be resolved.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum FailKind {
    /// The name does not exist (`NXDOMAIN`).
    NxDomain,
    /// The name exists and has no address.
    NoAddresses,
    /// The server could not resolve it (`SERVFAIL`).
    ServFail,
    /// The server refused to resolve it.
    Refused,
    /// No answer in time.
    Timeout,
    /// The server could not be reached.
    Network,
    /// No server is configured.
    NoUpstream,
    /// An answer that cannot be used: another error code, broken, truncated or forged.
    BadAnswer,
    /// Every address of the answer was one that no name may stand for.
    Rebind,
}

impl FailKind {
    /// Every kind, in the order of [`FailKind::index`].
    pub const ALL: [Self; 9] = [
        Self::NxDomain,
        Self::NoAddresses,
        Self::ServFail,
        Self::Refused,
        Self::Timeout,
        Self::Network,
        Self::NoUpstream,
        Self::BadAnswer,
        Self::Rebind,
    ];

    /// The word in status, log and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NxDomain => "nxdomain",
            Self::NoAddresses => "no_addresses",
            Self::ServFail => "servfail",
            Self::Refused => "refused",
            Self::Timeout => "timeout",
            Self::Network => "network",
            Self::NoUpstream => "no_upstream",
            Self::BadAnswer => "bad_answer",
            Self::Rebind => "rebind",
        }
    }

    /// Place in [`FailKind::ALL`].
    pub const fn index(self) -> usize {
        self as usize
    }
}

/// What happened to an address of a name.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum ChangeKind {
    /// The name stands for it from now on.
    Added,
    /// The name no longer stands for it.
    Removed,
}

/// One address that a name gained or lost.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Change {
    /// The name.
    pub name: Name,
    /// The address; never a v4-mapped one.
    pub addr: IpAddr,
    /// Gained or lost.
    pub kind: ChangeKind,
}

/// What was left out, since the daemon started.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct LeaseCounters {
    /// Addresses of answers that no name may stand for.
    pub rebind_dropped: u64,
    /// Addresses of a single answer beyond the bound of a name.
    pub answers_over_bound: u64,
    /// Leases that gave way to fresher ones before their deadline.
    pub evicted: u64,
    /// Names of the policy in force beyond the bound (a level, not a sum).
    pub names_over_bound: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Lease {
    deadline: Duration,
    /// Whether the name's latest answer holds it.
    fresh: bool,
}

#[derive(Clone, PartialEq, Eq, Debug, Default)]
struct Entry {
    addresses: BTreeMap<IpAddr, Lease>,
    /// When the latest answer's TTL ends, within the bounds for TTLs.
    refresh_at: Duration,
    last_success: Option<Duration>,
    failing: Option<Failing>,
    /// Addresses of the latest answer that were too many.
    left_out: usize,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Failing {
    since: Duration,
    count: u32,
    kind: FailKind,
}

/// The leases of every name of the policies in force.
#[derive(Clone, Debug)]
pub struct Leases {
    config: LeaseConfig,
    /// The latest time seen: boot time never goes back, so an earlier one is a mistake
    /// of the caller and must neither revive nor end a lease.
    now: Duration,
    names: BTreeMap<Name, Entry>,
    /// Every lease by its deadline, so that expiry does not walk all names.
    deadlines: BTreeSet<(Duration, Name, IpAddr)>,
    counters: LeaseCounters,
}

impl Leases {
    /// No names and no leases.
    ///
    /// # Errors
    /// When the configuration contradicts itself; see [`LeaseConfig::validate`].
    pub fn new(config: LeaseConfig) -> Result<Self, LeaseConfigError> {
        config.validate()?;
        Ok(Self {
            config,
            now: Duration::ZERO,
            names: BTreeMap::new(),
            deadlines: BTreeSet::new(),
            counters: LeaseCounters::default(),
        })
    }

    fn advance(&mut self, now: Duration) -> Duration {
        self.now = self.now.max(now);
        self.now
    }

    /// Takes the names of the policies in force. A name that left loses its leases at
    /// once; one that stayed keeps them. Beyond the bound the first names in their order
    /// are taken and the rest is counted.
    pub fn set_names(&mut self, names: &BTreeSet<Name>, now: Duration) -> Vec<Change> {
        self.advance(now);
        let taken: BTreeSet<&Name> = names.iter().take(self.config.max_names).collect();
        self.counters.names_over_bound = (names.len() - taken.len()) as u64;

        let mut changes = Vec::new();
        let deadlines = &mut self.deadlines;
        self.names.retain(|name, entry| {
            if taken.contains(name) {
                return true;
            }
            for (addr, lease) in &entry.addresses {
                deadlines.remove(&(lease.deadline, name.clone(), *addr));
                changes.push(Change {
                    name: name.clone(),
                    addr: *addr,
                    kind: ChangeKind::Removed,
                });
            }
            false
        });
        for name in taken {
            self.names.entry(name.clone()).or_default();
        }
        changes
    }

    /// Takes an answer: addresses with their TTL in seconds. Addresses that no name may
    /// stand for are dropped and counted; if nothing is left this is a failure. Removals
    /// come before additions, so that a map at its bound has the room.
    pub fn answered(
        &mut self,
        name: &Name,
        answer: &[(IpAddr, u32)],
        now: Duration,
    ) -> Vec<Change> {
        let now = self.advance(now);
        if !self.names.contains_key(name) {
            return Vec::new();
        }
        let mut usable: BTreeMap<IpAddr, u32> = BTreeMap::new();
        let mut dropped = 0;
        for (addr, ttl) in answer {
            match canonical(*addr) {
                Some(addr) => {
                    let known = usable.entry(addr).or_insert(*ttl);
                    *known = (*known).min(*ttl);
                }
                None => dropped += 1,
            }
        }
        self.counters.rebind_dropped += dropped;
        let mut left_out = 0;
        while usable.len() > self.config.max_addresses_per_name {
            usable.pop_last();
            left_out += 1;
        }
        self.counters.answers_over_bound += left_out as u64;
        let Some(ttl) = usable.values().min().copied() else {
            let kind = if dropped > 0 {
                FailKind::Rebind
            } else {
                FailKind::NoAddresses
            };
            self.failed(name, kind, now);
            return Vec::new();
        };
        let Some(entry) = self.names.get_mut(name) else {
            return Vec::new();
        };

        entry.last_success = Some(now);
        entry.failing = None;
        entry.left_out = left_out;
        entry.refresh_at = now + self.config.refresh_interval(ttl);
        for lease in entry.addresses.values_mut() {
            lease.fresh = false;
        }
        let mut added = Vec::new();
        for (addr, ttl) in usable {
            let deadline = now + self.config.lifetime(ttl);
            let lease = match entry.addresses.get_mut(&addr) {
                Some(lease) => {
                    self.deadlines.remove(&(lease.deadline, name.clone(), addr));
                    lease
                }
                None => {
                    added.push(Change {
                        name: name.clone(),
                        addr,
                        kind: ChangeKind::Added,
                    });
                    entry.addresses.entry(addr).or_insert(Lease {
                        deadline,
                        fresh: true,
                    })
                }
            };
            // A later answer with a shorter TTL does not take back what an earlier one
            // has promised to a client.
            lease.deadline = lease.deadline.max(deadline);
            lease.fresh = true;
            self.deadlines.insert((lease.deadline, name.clone(), addr));
        }

        let mut changes = Vec::new();
        while entry.addresses.len() > self.config.max_addresses_per_name {
            let stalest = entry
                .addresses
                .iter()
                .filter(|(_, lease)| !lease.fresh)
                .map(|(addr, lease)| (lease.deadline, *addr))
                .min();
            let Some((deadline, addr)) = stalest else {
                break;
            };
            entry.addresses.remove(&addr);
            self.deadlines.remove(&(deadline, name.clone(), addr));
            self.counters.evicted += 1;
            changes.push(Change {
                name: name.clone(),
                addr,
                kind: ChangeKind::Removed,
            });
        }
        changes.append(&mut added);
        changes
    }

    /// Notes that a name could not be resolved. Its addresses stay until their deadline.
    pub fn failed(&mut self, name: &Name, kind: FailKind, now: Duration) {
        let now = self.advance(now);
        if let Some(entry) = self.names.get_mut(name) {
            entry.failing = Some(match entry.failing {
                Some(before) => Failing {
                    since: before.since,
                    count: before.count.saturating_add(1),
                    kind,
                },
                None => Failing {
                    since: now,
                    count: 1,
                    kind,
                },
            });
        }
    }

    /// Ends every lease whose deadline has come.
    pub fn expire(&mut self, now: Duration) -> Vec<Change> {
        let now = self.advance(now);
        let mut changes = Vec::new();
        while self
            .deadlines
            .first()
            .is_some_and(|(deadline, ..)| *deadline <= now)
        {
            let Some((_, name, addr)) = self.deadlines.pop_first() else {
                break;
            };
            if let Some(entry) = self.names.get_mut(&name) {
                entry.addresses.remove(&addr);
            }
            changes.push(Change {
                name,
                addr,
                kind: ChangeKind::Removed,
            });
        }
        changes
    }

    /// When [`Leases::expire`] has work next.
    pub fn next_deadline(&self) -> Option<Duration> {
        self.deadlines.first().map(|(deadline, ..)| *deadline)
    }

    /// When the TTL of the name's latest answer ends, within the bounds for TTLs;
    /// [`Duration::ZERO`] when it never had one. `None`: the policy does not have it.
    pub fn next_refresh(&self, name: &Name) -> Option<Duration> {
        self.names.get(name).map(|entry| entry.refresh_at)
    }

    /// The addresses leased to a name: each with the time that is left (more than zero)
    /// and whether the name's latest answer holds it.
    pub fn addresses(
        &self,
        name: &Name,
        now: Duration,
    ) -> impl Iterator<Item = (IpAddr, Duration, bool)> + '_ {
        let now = self.now.max(now);
        self.names
            .get(name)
            .into_iter()
            .flat_map(|entry| entry.addresses.iter())
            .filter(move |(_, lease)| lease.deadline > now)
            .map(move |(addr, lease)| (*addr, lease.deadline - now, lease.fresh))
    }

    /// What the gate should say: the addresses of the latest answer, or when none of
    /// them is left every address that is still leased. `None`: not in the policy.
    pub fn answer(&self, name: &Name, now: Duration) -> Option<Vec<(IpAddr, Duration)>> {
        if !self.names.contains_key(name) {
            return None;
        }
        let all: Vec<_> = self.addresses(name, now).collect();
        let any_fresh = all.iter().any(|(.., fresh)| *fresh);
        Some(
            all.into_iter()
                .filter(|(.., fresh)| *fresh || !any_fresh)
                .map(|(addr, remaining, _)| (addr, remaining))
                .collect(),
        )
    }

    /// Number of leases held.
    pub fn len(&self) -> usize {
        self.deadlines.len()
    }

    /// Whether no lease is held.
    pub fn is_empty(&self) -> bool {
        self.deadlines.is_empty()
    }

    /// What was left out.
    pub fn counters(&self) -> LeaseCounters {
        self.counters
    }

    /// The bounds and times in force.
    pub fn config(&self) -> &LeaseConfig {
        &self.config
    }
}
