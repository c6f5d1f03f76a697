//! The leases of one agent.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use super::{LeaseConfig, Name};

/// Names that are looked at to find one that can give way: an agent whose oldest names are
/// all in use is refused rather than searched.
const NAMES_TRIED: usize = 32;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Lease {
    pub(super) deadline: Duration,
    /// Until when it can not be evicted.
    pub(super) promised: Duration,
    /// Number of the last of its name's answers that held it.
    answer: u64,
    /// A live socket used it when that was last asked.
    in_use: bool,
}

#[derive(Clone, PartialEq, Eq, Debug, Default)]
struct Entry {
    addresses: BTreeMap<IpAddr, Lease>,
    /// Number of its latest answer.
    answer: u64,
    /// The latest promise of any of its addresses.
    promised: Duration,
}

/// One address of a name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LeaseView {
    /// The address.
    pub addr: IpAddr,
    /// Time until its deadline; zero when that has come and nobody has yet asked whether a
    /// socket uses it.
    pub remaining: Duration,
    /// When it ends, since boot, if nothing renews it.
    pub deadline: Duration,
    /// Until when it can not be taken for another, since boot: no client may be told to keep
    /// it for longer.
    pub promised: Duration,
    /// Whether the name's latest answer holds it.
    pub fresh: bool,
    /// Whether it is kept because a live socket uses it.
    pub in_use: bool,
}

/// What [`AgentLeases::take`] did.
#[derive(Debug, Default)]
pub(super) struct Taken {
    pub(super) gone: Vec<(Name, IpAddr)>,
    pub(super) come: Vec<(Name, IpAddr)>,
    pub(super) refused: usize,
}

/// The leases of one agent.
#[derive(Clone, Debug, Default)]
pub(super) struct AgentLeases {
    names: BTreeMap<Name, Entry>,
    /// Every lease by its deadline, so that expiry does not walk all names.
    deadlines: BTreeSet<(Duration, Name, IpAddr)>,
    /// Every lease that no socket is known to use, by its promise: the stalest first.
    stalest: BTreeSet<(Duration, Name, IpAddr)>,
    /// Every name, by the latest promise of its addresses.
    stalest_names: BTreeSet<(Duration, Name)>,
}

impl AgentLeases {
    /// Leases the addresses (with their TTL) to the name, as far as there is room.
    pub(super) fn take(
        &mut self,
        config: &LeaseConfig,
        name: &Name,
        answer: &BTreeMap<IpAddr, u32>,
        now: Duration,
    ) -> Taken {
        let mut taken = Taken::default();
        let number = self.names.get(name).map_or(1, |entry| entry.answer + 1);
        // Those that are held first: while the others look for room they are no stale ones.
        for (addr, ttl) in answer {
            self.renew(config, name, *addr, *ttl, number, now);
        }
        for (addr, ttl) in answer {
            if self.lease(name, *addr).is_some() {
                continue;
            }
            if !self.make_room(config, name, number, now, &mut taken.gone) {
                taken.refused += 1;
                continue;
            }
            let promised = now + config.promise(*ttl);
            let lease = Lease {
                deadline: now + config.lifetime(*ttl),
                promised,
                answer: number,
                in_use: false,
            };
            self.insert(name, *addr, lease);
            taken.come.push((name.clone(), *addr));
        }
        if let Some(entry) = self.names.get_mut(name) {
            entry.answer = number;
        }
        taken
    }

    /// Prolongs a lease that is there. A later answer with a shorter TTL does not take back
    /// what an earlier one has promised to a client.
    fn renew(
        &mut self,
        config: &LeaseConfig,
        name: &Name,
        addr: IpAddr,
        ttl: u32,
        number: u64,
        now: Duration,
    ) {
        let Some(entry) = self.names.get_mut(name) else {
            return;
        };
        let Some(lease) = entry.addresses.get_mut(&addr) else {
            return;
        };
        lease.answer = number;
        let deadline = now + config.lifetime(ttl);
        if deadline > lease.deadline {
            move_key(&mut self.deadlines, lease.deadline, deadline, name, addr);
            lease.deadline = deadline;
        }
        let promised = now + config.promise(ttl);
        if promised > lease.promised {
            if !lease.in_use {
                move_key(&mut self.stalest, lease.promised, promised, name, addr);
            }
            lease.promised = promised;
        }
        if promised > entry.promised {
            self.stalest_names.remove(&(entry.promised, name.clone()));
            self.stalest_names.insert((promised, name.clone()));
            entry.promised = promised;
        }
    }

    /// Puts a lease in that is not there; within the bounds, see [`AgentLeases::make_room`].
    pub(super) fn insert(&mut self, name: &Name, addr: IpAddr, lease: Lease) {
        let known = self.names.contains_key(name);
        let entry = self.names.entry(name.clone()).or_default();
        if !known || lease.promised > entry.promised {
            self.stalest_names.remove(&(entry.promised, name.clone()));
            entry.promised = lease.promised;
            self.stalest_names.insert((lease.promised, name.clone()));
        }
        entry.answer = entry.answer.max(lease.answer);
        entry.addresses.insert(addr, lease);
        self.deadlines.insert((lease.deadline, name.clone(), addr));
        if !lease.in_use {
            self.stalest.insert((lease.promised, name.clone(), addr));
        }
    }

    /// Takes a lease away; false if it is not there.
    pub(super) fn remove(&mut self, name: &Name, addr: IpAddr) -> bool {
        let Some(entry) = self.names.get_mut(name) else {
            return false;
        };
        let Some(lease) = entry.addresses.remove(&addr) else {
            return false;
        };
        self.deadlines.remove(&(lease.deadline, name.clone(), addr));
        self.stalest.remove(&(lease.promised, name.clone(), addr));
        if entry.addresses.is_empty() {
            self.stalest_names.remove(&(entry.promised, name.clone()));
            self.names.remove(name);
        }
        true
    }

    /// Room for one more address of the name. What gives way is stale, its promise is over,
    /// and no socket is known to use it; if there is nothing of the kind, there is no room.
    fn make_room(
        &mut self,
        config: &LeaseConfig,
        name: &Name,
        number: u64,
        now: Duration,
        gone: &mut Vec<(Name, IpAddr)>,
    ) -> bool {
        match self.names.get(name) {
            Some(entry) if entry.addresses.len() >= config.max_addresses_per_name => {
                let stalest = entry
                    .addresses
                    .iter()
                    .filter(|(_, lease)| {
                        lease.answer != number && !lease.in_use && lease.promised <= now
                    })
                    .map(|(addr, lease)| (lease.promised, *addr))
                    .min();
                let Some((_, addr)) = stalest else {
                    return false;
                };
                self.remove(name, addr);
                gone.push((name.clone(), addr));
                return true;
            }
            None if self.names.len() >= config.max_names => {
                let Some(name) = self.stale_name(now) else {
                    return false;
                };
                for addr in self.addresses_of(&name) {
                    self.remove(&name, addr);
                    gone.push((name.clone(), addr));
                }
                return true;
            }
            _ => {}
        }
        if self.deadlines.len() < config.max_addresses {
            return true;
        }
        match self.stalest.first().cloned() {
            Some((promised, name, addr)) if promised <= now => {
                self.remove(&name, addr);
                gone.push((name, addr));
                true
            }
            _ => false,
        }
    }

    /// The name whose addresses may all go, and that was asked longest ago.
    fn stale_name(&self, now: Duration) -> Option<Name> {
        self.stalest_names
            .iter()
            .take(NAMES_TRIED)
            .take_while(|(promised, _)| *promised <= now)
            .map(|(_, name)| name)
            .find(|name| {
                self.names
                    .get(*name)
                    .is_some_and(|entry| entry.addresses.values().all(|lease| !lease.in_use))
            })
            .cloned()
    }

    /// Takes a lease whose deadline has come.
    pub(super) fn pop_due(&mut self, due: Duration) -> Option<(Name, IpAddr)> {
        let (deadline, name, addr) = self.deadlines.first()?;
        if *deadline > due {
            return None;
        }
        let (name, addr) = (name.clone(), *addr);
        self.remove(&name, addr);
        Some((name, addr))
    }

    /// See [`super::Leases::doubtful`].
    pub(super) fn doubtful(&self, config: &LeaseConfig, now: Duration) -> BTreeSet<IpAddr> {
        let close = |count: usize, bound: usize| count * 4 > bound * 3;
        let mut addresses: BTreeSet<IpAddr> = self
            .deadlines
            .iter()
            .take_while(|(deadline, ..)| *deadline <= now)
            .map(|(.., addr)| *addr)
            .collect();
        let crowded = close(self.deadlines.len(), config.max_addresses)
            || close(self.names.len(), config.max_names);
        for entry in self.names.values() {
            if crowded || close(entry.addresses.len(), config.max_addresses_per_name) {
                let may_go = entry
                    .addresses
                    .iter()
                    .filter(|(_, lease)| lease.promised <= now);
                addresses.extend(may_go.map(|(addr, _)| *addr));
            }
        }
        addresses
    }

    /// See [`super::Leases::in_use`].
    pub(super) fn in_use(
        &mut self,
        asked: &BTreeSet<IpAddr>,
        used: &BTreeSet<IpAddr>,
        until: Duration,
    ) {
        for (name, entry) in &mut self.names {
            for (addr, lease) in &mut entry.addresses {
                if !asked.contains(addr) {
                    continue;
                }
                lease.in_use = used.contains(addr);
                let key = (lease.promised, name.clone(), *addr);
                if lease.in_use {
                    self.stalest.remove(&key);
                } else {
                    self.stalest.insert(key);
                }
                if lease.in_use && lease.deadline < until {
                    move_key(&mut self.deadlines, lease.deadline, until, name, *addr);
                    lease.deadline = until;
                }
            }
        }
    }

    pub(super) fn addresses(
        &self,
        name: &str,
        now: Duration,
    ) -> Option<impl Iterator<Item = LeaseView> + '_> {
        let entry = self.names.get(name)?;
        let views = entry.addresses.iter().map(move |(addr, lease)| LeaseView {
            addr: *addr,
            remaining: lease.deadline.saturating_sub(now),
            deadline: lease.deadline,
            promised: lease.promised,
            fresh: lease.answer == entry.answer,
            in_use: lease.in_use,
        });
        Some(views)
    }

    pub(super) fn lease(&self, name: &Name, addr: IpAddr) -> Option<&Lease> {
        self.names.get(name)?.addresses.get(&addr)
    }

    fn addresses_of(&self, name: &Name) -> Vec<IpAddr> {
        self.names
            .get(name)
            .map(|entry| entry.addresses.keys().copied().collect())
            .unwrap_or_default()
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &Name> + '_ {
        self.names.keys()
    }

    /// Every name with its addresses.
    pub(super) fn all(&self) -> Vec<(Name, Vec<IpAddr>)> {
        self.names
            .keys()
            .map(|name| (name.clone(), self.addresses_of(name)))
            .collect()
    }

    pub(super) fn next_deadline(&self) -> Option<Duration> {
        self.deadlines.first().map(|(deadline, ..)| *deadline)
    }

    pub(super) fn len(&self) -> usize {
        self.deadlines.len()
    }

    /// A lease of an earlier daemon, as far as there is room without taking another's; false
    /// if there is none, or if it is there already.
    pub(super) fn restore(&mut self, config: &LeaseConfig, name: &Name, view: LeaseView) -> bool {
        let (known, addresses) = match self.names.get(name) {
            Some(entry) => (true, entry.addresses.len()),
            None => (false, 0),
        };
        if self.lease(name, view.addr).is_some()
            || addresses >= config.max_addresses_per_name
            || self.deadlines.len() >= config.max_addresses
            || (!known && self.names.len() >= config.max_names)
        {
            return false;
        }
        let lease = Lease {
            deadline: view.deadline,
            promised: view.promised,
            answer: u64::from(view.fresh),
            in_use: view.in_use,
        };
        self.insert(name, view.addr, lease);
        if let Some(entry) = self.names.get_mut(name) {
            entry.answer = 1;
        }
        true
    }

    /// Whether what is kept twice agrees.
    #[cfg(test)]
    pub(super) fn check(&self, config: &LeaseConfig) {
        let leases = || {
            self.names.iter().flat_map(|(name, entry)| {
                entry
                    .addresses
                    .iter()
                    .map(move |(addr, lease)| (name.clone(), *addr, *lease))
            })
        };
        let deadlines: BTreeSet<_> = leases().map(|(n, a, l)| (l.deadline, n, a)).collect();
        assert_eq!(self.deadlines, deadlines);
        let stalest: BTreeSet<_> = leases()
            .filter(|(.., lease)| !lease.in_use)
            .map(|(n, a, l)| (l.promised, n, a))
            .collect();
        assert_eq!(self.stalest, stalest);
        let names: BTreeSet<_> = self
            .names
            .iter()
            .map(|(name, entry)| (entry.promised, name.clone()))
            .collect();
        assert_eq!(self.stalest_names, names);
        assert!(self.names.len() <= config.max_names);
        assert!(self.deadlines.len() <= config.max_addresses);
        for entry in self.names.values() {
            assert!(!entry.addresses.is_empty());
            assert!(entry.addresses.len() <= config.max_addresses_per_name);
        }
    }
}

fn move_key(
    set: &mut BTreeSet<(Duration, Name, IpAddr)>,
    from: Duration,
    to: Duration,
    name: &Name,
    addr: IpAddr,
) {
    let mut key = (from, name.clone(), addr);
    set.remove(&key);
    key.0 = to;
    set.insert(key);
}
