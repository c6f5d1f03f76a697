//! Random operations on [`Leases`] and on a naive model of the same rules.

use super::*;
use proptest::prelude::*;

type Key = (u32, u8, u8);
type Flat = BTreeSet<Key>;

fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

const PER_NAME: usize = 3;
const NAMES: usize = 3;
const ADDRESSES: usize = 6;
const GRACE: u64 = 40;
const MAX_TTL: u64 = 50;
const HOLD: u64 = 7;
/// Addresses from here on are private ones.
const PRIVATE: u8 = 6;

#[derive(Clone, PartialEq, Debug)]
struct Held {
    key: Key,
    deadline: u64,
    promised: u64,
    fresh: bool,
    in_use: bool,
}

/// The same rules as [`Leases`], as a flat list that is searched for everything.
#[derive(Default)]
struct Naive {
    now: u64,
    held: Vec<Held>,
    /// The latest promise of each name that holds something.
    names: BTreeMap<(u32, u8), u64>,
    evicted: u64,
    refused: u64,
}

impl Naive {
    fn keep(&mut self, keep: impl Fn(&Held) -> bool) -> Flat {
        let gone = self
            .held
            .iter()
            .filter(|l| !keep(l))
            .map(|l| l.key)
            .collect();
        self.held.retain(keep);
        let held = &self.held;
        self.names
            .retain(|name, _| held.iter().any(|l| (l.key.0, l.key.1) == *name));
        gone
    }

    fn expire(&mut self, due: u64) -> Flat {
        self.keep(|l| l.deadline > due)
    }

    fn of_name(&self, agent: u32, name: u8) -> impl Iterator<Item = &Held> {
        self.held
            .iter()
            .filter(move |l| (l.key.0, l.key.1) == (agent, name))
    }

    fn make_room(&mut self, agent: u32, name: u8) -> Option<Flat> {
        let now = self.now;
        let may_go = |l: &&Held| !l.in_use && l.promised <= now;
        if self.of_name(agent, name).count() >= PER_NAME {
            let stalest = self
                .of_name(agent, name)
                .filter(|l| !l.fresh)
                .filter(may_go)
                .min_by_key(|l| (l.promised, l.key))?
                .key;
            return Some(self.keep(|l| l.key != stalest));
        }
        let known = self.names.contains_key(&(agent, name));
        let names = self.names.keys().filter(|n| n.0 == agent).count();
        if !known && names >= NAMES {
            let ((_, stalest), _) = self
                .names
                .iter()
                .filter(|(n, promised)| n.0 == agent && **promised <= now)
                .filter(|(n, _)| self.of_name(agent, n.1).all(|l| !l.in_use))
                .min_by_key(|(n, promised)| (**promised, n.1))?;
            let stalest = *stalest;
            return Some(self.keep(|l| (l.key.0, l.key.1) != (agent, stalest)));
        }
        if self.held.iter().filter(|l| l.key.0 == agent).count() < ADDRESSES {
            return Some(Flat::new());
        }
        let stalest = self
            .held
            .iter()
            .filter(|l| l.key.0 == agent)
            .filter(may_go)
            .min_by_key(|l| (l.promised, l.key))?
            .key;
        Some(self.keep(|l| l.key != stalest))
    }

    fn answered(&mut self, agent: u32, name: u8, answer: &[(u8, u32)]) -> (Flat, Flat, usize) {
        let (mut gone, mut come, mut refused) = (Flat::new(), Flat::new(), 0);
        let mut seen: Vec<u8> = answer.iter().map(|a| a.0).collect();
        seen.sort_unstable();
        seen.dedup();
        let over = seen.len().saturating_sub(PER_NAME);
        seen.truncate(PER_NAME);
        if seen.is_empty() {
            return (gone, come, 0);
        }
        let ttl = |addr: u8| {
            let ttls = answer.iter().filter(|a| a.0 == addr).map(|a| a.1);
            u64::from(ttls.max().expect("seen"))
        };
        let now = self.now;
        for lease in &mut self.held {
            if (lease.key.0, lease.key.1) != (agent, name) {
                continue;
            }
            lease.fresh = seen.contains(&lease.key.2);
            if lease.fresh {
                let (deadline, promised) = times(now, ttl(lease.key.2));
                lease.deadline = lease.deadline.max(deadline);
                lease.promised = lease.promised.max(promised);
                let newest = self.names.get_mut(&(agent, name)).expect("it holds this");
                *newest = (*newest).max(lease.promised);
            }
        }
        for addr in seen {
            let key = (agent, name, addr);
            if self.held.iter().any(|l| l.key == key) {
                continue;
            }
            match self.make_room(agent, name) {
                Some(evicted) => {
                    self.evicted += evicted.len() as u64;
                    gone.extend(evicted);
                }
                None => {
                    refused += 1;
                    self.refused += 1;
                    continue;
                }
            }
            let (deadline, promised) = times(now, ttl(addr));
            let newest = self.names.entry((agent, name)).or_default();
            *newest = (*newest).max(promised);
            self.held.push(Held {
                key,
                deadline,
                promised,
                fresh: true,
                in_use: false,
            });
            come.insert(key);
        }
        (gone, come, refused + over)
    }

    fn in_use(&mut self, agent: u32, asked: &BTreeSet<u8>, used: &BTreeSet<u8>) {
        let now = self.now;
        for lease in self.held.iter_mut().filter(|l| l.key.0 == agent) {
            if asked.contains(&lease.key.2) {
                lease.in_use = used.contains(&lease.key.2);
                if lease.in_use {
                    lease.deadline = lease.deadline.max(now + HOLD);
                }
            }
        }
    }

    fn restart(&mut self) {
        self.expire(self.now);
        self.names.clear();
        for lease in &mut self.held {
            lease.in_use = false;
            let newest = self.names.entry((lease.key.0, lease.key.1)).or_default();
            *newest = (*newest).max(lease.promised);
        }
    }
}

fn times(now: u64, ttl: u64) -> (u64, u64) {
    let promise = ttl.clamp(1, 60);
    (now + ttl.min(MAX_TTL).max(promise) + GRACE, now + promise)
}

#[derive(Clone, Debug)]
enum Op {
    /// What each name may stand for from now on.
    Names(u32, BTreeMap<u8, bool>),
    Answered(u32, u8, Vec<(u8, u32)>, bool),
    InUse(u32, BTreeSet<u8>, BTreeSet<u8>),
    Revoke(u32, u8, u8),
    Forget(u32),
    /// The sockets were asked so many seconds ago.
    Expire(u64),
    Restart,
}

fn op() -> impl Strategy<Value = Op> {
    let agent = || 0u32..2;
    let some = || prop::collection::btree_set(1u8..9, 0..6);
    prop_oneof![
        1 => (agent(), prop::collection::btree_map(0u8..5, any::<bool>(), 3..5))
            .prop_map(|(agent, names)| Op::Names(agent, names)),
        12 => (
            agent(),
            0u8..5,
            prop::collection::vec((1u8..9, prop_oneof![0u32..5, 0u32..80]), 0..6),
            any::<bool>()
        )
            .prop_map(|(agent, name, answer, private)| Op::Answered(agent, name, answer, private)),
        4 => (agent(), some(), some()).prop_map(|(agent, asked, used)| Op::InUse(agent, asked, used)),
        1 => (agent(), 0u8..5, 1u8..9).prop_map(|(agent, name, addr)| Op::Revoke(agent, name, addr)),
        1 => agent().prop_map(Op::Forget),
        4 => (0u64..9).prop_map(Op::Expire),
        1 => Just(Op::Restart),
    ]
}

fn model_name(n: u8) -> Name {
    Name::from(format!("n{n}.example"))
}

fn number_of(name: &str) -> u8 {
    name.as_bytes()[1] - b'0'
}

fn model_addr(n: u8) -> IpAddr {
    if n >= PRIVATE {
        IpAddr::from([192, 168, 0, n])
    } else {
        IpAddr::from([192, 0, 2, n])
    }
}

fn number_of_addr(addr: IpAddr) -> u8 {
    match addr {
        IpAddr::V4(v4) => v4.octets()[3],
        IpAddr::V6(_) => unreachable!("the model has none"),
    }
}

fn model_addrs(set: &BTreeSet<u8>) -> BTreeSet<IpAddr> {
    set.iter().map(|n| model_addr(*n)).collect()
}

fn split(changes: Vec<Change>) -> (Flat, Flat) {
    let (mut gone, mut come) = (Flat::new(), Flat::new());
    for change in changes {
        let key = (
            change.agent,
            number_of(&change.name),
            number_of_addr(change.addr),
        );
        let new = match change.kind {
            ChangeKind::Removed => {
                assert!(come.is_empty(), "removals come first");
                gone.insert(key)
            }
            ChangeKind::Added => come.insert(key),
        };
        assert!(new, "a change is told once");
    }
    (gone, come)
}

fn model_config() -> LeaseConfig {
    LeaseConfig {
        grace: secs(GRACE),
        min_ttl: secs(5),
        max_ttl: secs(MAX_TTL),
        max_addresses_per_name: PER_NAME,
        max_names: NAMES,
        max_addresses: ADDRESSES,
    }
}

fn new_leases() -> Leases {
    Leases::new(model_config()).expect("valid")
}

/// What is held now: address, deadline, promise, fresh, in use.
type Seen = BTreeMap<Key, (Duration, Duration, bool, bool)>;

fn seen(leases: &Leases, now: u64) -> Seen {
    let mut seen = Seen::new();
    for agent in 0..2 {
        for name in leases.names(agent) {
            for view in leases.addresses(agent, name, secs(now)) {
                let key = (agent, number_of(name), number_of_addr(view.addr));
                let times = (view.deadline, view.promised, view.fresh, view.in_use);
                seen.insert(key, times);
            }
        }
    }
    seen
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    #[test]
    fn leases_do_what_the_naive_model_does(steps in prop::collection::vec((op(), -10i64..15), 1..80)) {
        let mut leases = new_leases();
        let mut naive = Naive::default();
        // Until when a client may keep each address that it was told.
        let mut told: BTreeMap<Key, u64> = BTreeMap::new();
        let mut before = LeaseCounters::default();
        for (op, step) in steps {
            // Steps back in time must be as if the time had not moved.
            let given = naive.now.saturating_add_signed(step);
            if !matches!(op, Op::Revoke(..) | Op::Forget(_)) {
                naive.now = naive.now.max(given);
            }
            let now = secs(given);
            let others = |agent: u32| {
                seen(&leases, naive.now)
                    .into_iter()
                    .filter(|(key, _)| key.0 != agent)
                    .collect::<Seen>()
            };
            let mut untouched = None;
            match op {
                Op::Names(agent, names) => {
                    untouched = Some((agent, others(agent)));
                    let rule = |name: &str| names.get(&number_of(name)).copied();
                    let (gone, come) = split(leases.set_names(agent, &rule, now));
                    let stays = |l: &Held| {
                        let private = names.get(&l.key.1);
                        l.key.0 != agent
                            || private.is_some_and(|private| *private || l.key.2 < PRIVATE)
                    };
                    prop_assert_eq!(&gone, &naive.keep(stays));
                    prop_assert!(come.is_empty());
                    told.retain(|key, _| !gone.contains(key));
                }
                Op::Answered(agent, name, answer, private) => {
                    untouched = Some((agent, others(agent)));
                    let given: Vec<_> = answer.iter().map(|(a, ttl)| (model_addr(*a), *ttl)).collect();
                    let got = leases.answered(agent, &model_name(name), &given, private, now);
                    let usable: Vec<_> =
                        answer.iter().copied().filter(|a| private || a.0 < PRIVATE).collect();
                    prop_assert_eq!(got.rebound.len(), answer.len() - usable.len());
                    let (naive_gone, naive_come, refused) = naive.answered(agent, name, &usable);
                    prop_assert_eq!(got.refused, refused);
                    let (gone, come) = split(got.changes);
                    prop_assert_eq!(gone, naive_gone);
                    prop_assert_eq!(come, naive_come);
                    // The gate tells what is held of the answer, for its TTL and never longer
                    // than its own.
                    let held = seen(&leases, naive.now);
                    for (addr, ttl) in usable {
                        let key = (agent, name, addr);
                        if held.get(&key).is_some_and(|(_, _, fresh, _)| *fresh) {
                            let ttl = u64::from(ttl).clamp(1, CLIENT_TTL.as_secs());
                            let until = told.entry(key).or_default();
                            *until = (*until).max(naive.now + ttl);
                        }
                    }
                }
                Op::InUse(agent, asked, used) => {
                    untouched = Some((agent, others(agent)));
                    let (asked_addrs, used_addrs) = (model_addrs(&asked), model_addrs(&used));
                    leases.in_use(agent, &asked_addrs, &used_addrs, secs(HOLD), now);
                    naive.in_use(agent, &asked, &used);
                }
                Op::Revoke(agent, name, addr) => {
                    untouched = Some((agent, others(agent)));
                    leases.revoke(agent, &model_name(name), model_addr(addr));
                    let gone = naive.keep(|l| l.key != (agent, name, addr));
                    naive.refused += gone.len() as u64;
                    told.retain(|key, _| !gone.contains(key));
                }
                Op::Forget(agent) => {
                    untouched = Some((agent, others(agent)));
                    leases.forget(agent);
                    naive.keep(|l| l.key.0 != agent);
                    told.retain(|key, _| key.0 != agent);
                }
                Op::Expire(ago) => {
                    let due = naive.now.saturating_sub(ago);
                    let (gone, come) = split(leases.expire(secs(due), now));
                    prop_assert_eq!(gone, naive.expire(due));
                    prop_assert!(come.is_empty());
                }
                Op::Restart => {
                    // A new process has seen no time yet, and boot time is behind for none.
                    let now = secs(naive.now);
                    leases.expire(now, now);
                    naive.restart();
                    let names = [(0, "zero".to_owned()), (1, "one".to_owned())];
                    let json = leases.snapshot(&names.clone().into(), "boot").expect("snapshot");
                    let counters = leases.counters();
                    before.evicted += counters.evicted;
                    before.refused += counters.refused;
                    leases = new_leases();
                    let snapshot = Snapshot::parse(&json, "boot").expect("snapshot").expect("this boot");
                    let indices = names.into_iter().map(|(index, name)| (name, index)).collect();
                    let nothing = BTreeMap::new();
                    let count = leases.restore(&snapshot, &indices, &nothing, secs(HOLD), now);
                    prop_assert_eq!(count, naive.held.len());
                }
            }
            let held = seen(&leases, naive.now);
            if let Some((agent, untouched)) = untouched {
                let theirs: Seen =
                    held.clone().into_iter().filter(|(key, _)| key.0 != agent).collect();
                prop_assert_eq!(theirs, untouched, "another agent's leases changed");
            }
            let expected: Seen = naive
                .held
                .iter()
                .map(|l| (l.key, (secs(l.deadline), secs(l.promised), l.fresh, l.in_use)))
                .collect();
            prop_assert_eq!(&held, &expected);
            told.retain(|_, until| *until > naive.now);
            for key in told.keys() {
                prop_assert!(held.contains_key(key), "{:?} ended before what a client was told", key);
            }
            prop_assert_eq!(leases.len(), naive.held.len());
            prop_assert_eq!(leases.next_deadline(), naive.held.iter().map(|l| secs(l.deadline)).min());
            prop_assert_eq!(before.evicted + leases.counters().evicted, naive.evicted);
            prop_assert_eq!(before.refused + leases.counters().refused, naive.refused);
            for agent in leases.agents.values() {
                agent.check(&leases.config);
            }
        }
    }
}
