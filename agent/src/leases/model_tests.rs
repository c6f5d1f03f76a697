//! Random operations on [`Leases`] and on a naive model of the same rules.

use super::*;
use proptest::prelude::*;

type Flat = BTreeSet<(u8, u8)>;
type Named = BTreeSet<(Name, IpAddr)>;

fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// The same rules as [`Leases`], as a flat list that is searched for everything.
#[derive(Default)]
struct Naive {
    now: u64,
    names: BTreeSet<u8>,
    held: Vec<(u8, u8, u64, bool)>,
    evicted: u64,
}

const BOUND: usize = 3;
const GRACE: u64 = 40;
const MAX_TTL: u64 = 50;

impl Naive {
    fn keep(&mut self, keep: impl Fn(&(u8, u8, u64, bool)) -> bool) -> Flat {
        let gone = self
            .held
            .iter()
            .filter(|l| !keep(l))
            .map(|l| (l.0, l.1))
            .collect();
        self.held.retain(keep);
        gone
    }

    fn set_names(&mut self, names: BTreeSet<u8>) -> Flat {
        self.names = names.clone();
        self.keep(|l| names.contains(&l.0))
    }

    fn expire(&mut self) -> Flat {
        let now = self.now;
        self.keep(|l| l.2 > now)
    }

    fn answered(&mut self, name: u8, answer: &[(u8, u32)]) -> (Flat, Flat) {
        let mut gone = BTreeSet::new();
        let mut come = BTreeSet::new();
        if !self.names.contains(&name) || answer.is_empty() {
            return (gone, come);
        }
        let mut seen: Vec<u8> = answer.iter().map(|a| a.0).collect();
        seen.sort_unstable();
        seen.dedup();
        seen.truncate(BOUND);
        for lease in self.held.iter_mut().filter(|l| l.0 == name) {
            lease.3 = false;
        }
        for addr in seen {
            let ttl = answer
                .iter()
                .filter(|a| a.0 == addr)
                .map(|a| a.1)
                .min()
                .expect("seen");
            let deadline = self.now + u64::from(ttl).min(MAX_TTL) + GRACE;
            match self.held.iter_mut().find(|l| (l.0, l.1) == (name, addr)) {
                Some(lease) => {
                    lease.2 = lease.2.max(deadline);
                    lease.3 = true;
                }
                None => {
                    self.held.push((name, addr, deadline, true));
                    come.insert((name, addr));
                }
            }
        }
        while self.held.iter().filter(|l| l.0 == name).count() > BOUND {
            let stalest = *self
                .held
                .iter()
                .filter(|l| l.0 == name && !l.3)
                .min_by_key(|l| (l.2, l.1))
                .expect("fresh ones fit the bound");
            gone.extend(self.keep(|l| *l != stalest));
            self.evicted += 1;
        }
        (gone, come)
    }
}

#[derive(Clone, Debug)]
enum Op {
    Names(BTreeSet<u8>),
    Answered(u8, Vec<(u8, u32)>),
    Failed(u8),
    Expire,
    Restart,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        1 => prop::collection::btree_set(0u8..4, 0..5).prop_map(Op::Names),
        6 => (0u8..4, prop::collection::vec((1u8..8, 0u32..80), 0..6))
            .prop_map(|(name, answer)| Op::Answered(name, answer)),
        1 => (0u8..4).prop_map(Op::Failed),
        3 => Just(Op::Expire),
        1 => Just(Op::Restart),
    ]
}

fn model_name(n: u8) -> Name {
    Name::from(format!("n{n}.example"))
}

fn model_addr(n: u8) -> IpAddr {
    IpAddr::from([192, 0, 2, n])
}

fn split(changes: Vec<Change>) -> (Named, Named) {
    let mut gone = BTreeSet::new();
    let mut come = BTreeSet::new();
    let mut adding = false;
    for change in changes {
        let new = match change.kind {
            ChangeKind::Removed => {
                assert!(!adding, "removals come first");
                gone.insert((change.name, change.addr))
            }
            ChangeKind::Added => {
                adding = true;
                come.insert((change.name, change.addr))
            }
        };
        assert!(new, "a change is told once");
    }
    (gone, come)
}

fn real(set: Flat) -> Named {
    set.into_iter()
        .map(|(n, a)| (model_name(n), model_addr(a)))
        .collect()
}

fn model_config() -> LeaseConfig {
    LeaseConfig {
        grace: secs(GRACE),
        min_ttl: secs(5),
        max_ttl: secs(MAX_TTL),
        max_addresses_per_name: BOUND,
        max_names: 16,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn leases_do_what_the_naive_model_does(steps in prop::collection::vec((op(), -10i64..30), 1..60)) {
        let mut leases = Leases::new(model_config()).expect("valid");
        let mut naive = Naive::default();
        let mut evicted_before = 0;
        for (op, step) in steps {
            // Steps back in time must be as if the time had not moved.
            let given = naive.now.saturating_add_signed(step);
            naive.now = naive.now.max(given);
            let now = secs(given);
            match op {
                Op::Names(set) => {
                    let wanted = set.iter().map(|n| model_name(*n)).collect();
                    let (gone, come) = split(leases.set_names(&wanted, now));
                    prop_assert_eq!(gone, real(naive.set_names(set)));
                    prop_assert!(come.is_empty());
                }
                Op::Answered(name, answer) => {
                    let given: Vec<_> = answer.iter().map(|(a, ttl)| (model_addr(*a), *ttl)).collect();
                    let (gone, come) = split(leases.answered(&model_name(name), &given, now));
                    let (naive_gone, naive_come) = naive.answered(name, &answer);
                    prop_assert_eq!(gone, real(naive_gone));
                    prop_assert_eq!(come, real(naive_come));
                }
                Op::Failed(name) => leases.failed(&model_name(name), FailKind::Timeout, now),
                Op::Expire => {
                    let (gone, come) = split(leases.expire(now));
                    prop_assert_eq!(gone, real(naive.expire()));
                    prop_assert!(come.is_empty());
                }
                Op::Restart => {
                    // A new process has seen no time yet, and boot time is behind for none.
                    let now = secs(naive.now);
                    leases.expire(now);
                    naive.expire();
                    let json = leases.snapshot("boot").expect("snapshot");
                    evicted_before += leases.counters().evicted;
                    leases = Leases::new(model_config()).expect("valid");
                    leases.set_names(&naive.names.iter().map(|n| model_name(*n)).collect(), now);
                    let (gone, come) = split(leases.restore(&json, "boot", now).expect("restore"));
                    prop_assert!(gone.is_empty());
                    prop_assert_eq!(come.len(), naive.held.len());
                }
            }
            let mut held = BTreeSet::new();
            for n in 0..4 {
                for (addr, remaining, fresh) in leases.addresses(&model_name(n), secs(naive.now)) {
                    held.insert((model_name(n), addr, secs(naive.now) + remaining, fresh));
                }
            }
            let expected: BTreeSet<_> = naive
                .held
                .iter()
                .filter(|l| l.2 > naive.now)
                .map(|l| (model_name(l.0), model_addr(l.1), secs(l.2), l.3))
                .collect();
            prop_assert_eq!(held, expected);
            prop_assert_eq!(leases.len(), naive.held.len());
            prop_assert_eq!(leases.next_deadline(), naive.held.iter().map(|l| secs(l.2)).min());
            prop_assert_eq!(evicted_before + leases.counters().evicted, naive.evicted);
        }
    }
}
