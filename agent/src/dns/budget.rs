//! How much an agent may say by asking.
//!
//! A wildcard rule lets the agent choose labels, and every label that it chooses reaches
//! the name servers of that domain: a way out for data that no address table sees. So
//! names that a wildcard matched are paid for, by agent and registered domain, out of
//! three budgets of a sliding hour: distinct names, bytes of the labels below the
//! registered domain, and the Shannon entropy of those labels. A name that was paid for
//! costs nothing more of them until its hour has passed.
//!
//! Which of these names is asked *again* carries data too. So a question for one that has to
//! go upstream takes from a fourth budget as many bits as choosing it among all of them can
//! carry; that one fills up steadily ([`BudgetLimits::repeat_bits`] an hour). *When* a
//! question is asked is not paid for.
//!
//! Pure: no clock; time is an argument (any clock that does not go back).
//!
//! **Bounds.** A name that is paid for takes 40 bytes or so, a domain 400 more. An agent has
//! at most [`MAX_NAMES`] names over all its domains (or as many as its policy allows one
//! domain, if that is more): 0.3 MiB when they are of few domains, 3.6 MiB when each is of
//! its own. What does not fit is over budget: nothing is let through for want of memory.

use std::collections::hash_map::RandomState;
use std::collections::{HashMap, HashSet, VecDeque};
use std::hash::BuildHasher;
use std::sync::Arc;
use std::time::Duration;

use crate::policy::{BudgetLimits, OverBudget};
use crate::throttle::Bucket;

/// What a budget is counted over.
pub const WINDOW: Duration = Duration::from_secs(60 * 60);

/// Names that one agent may have paid for at once, over all registered domains.
pub const MAX_NAMES: usize = 8_192;

/// The least time between two walks over all domains to find room.
const SWEEP_PAUSE: Duration = Duration::from_secs(1);

/// The part of [`BudgetLimits::repeat_bits`] that may be used at once.
const REPEATS_AT_ONCE: u32 = 6;

/// Which budget was crossed.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Measure {
    /// Distinct names of one domain.
    Names,
    /// Bytes of the labels below the registered domain.
    Bytes,
    /// Bits of entropy of those labels.
    Entropy,
    /// Names over all domains: the bound of memory.
    Total,
    /// Bits of the choice among names that were paid for.
    Repeats,
}

impl Measure {
    /// The words in events and replies.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Names => "distinct names",
            Self::Bytes => "bytes of labels",
            Self::Entropy => "entropy of labels",
            Self::Total => "distinct names of all wildcards",
            Self::Repeats => "bits of names asked again",
        }
    }
}

/// A budget that a name would cross.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Exceeded {
    /// The registered domain.
    pub domain: Arc<str>,
    /// What was crossed.
    pub measure: Measure,
    /// What the policy allows an hour.
    pub limit: u64,
    /// Whether this is the first time in an hour for this domain: the one to tell.
    pub tell: bool,
}

impl Exceeded {
    /// One line for a person.
    pub fn text(&self) -> String {
        let (domain, limit, what) = (&self.domain, self.limit, self.measure.as_str());
        format!("{domain}: more than {limit} {what} an hour")
    }
}

/// What became of a name.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Spent {
    /// Paid for, or free.
    Within,
    /// Paid for earlier: should it have to be asked upstream again, [`Budget::repeat`] says
    /// whether it may.
    Known,
    /// Over, let through because the policy only wants to know.
    Reported(Exceeded),
    /// Over, and not to be asked.
    Blocked(Exceeded),
}

#[derive(Clone, Copy, Debug)]
struct Paid {
    at: Duration,
    name: u64,
    bytes: u32,
    bits: u32,
}

#[derive(Debug)]
struct Domain {
    /// In the order in which they were paid for.
    paid: VecDeque<Paid>,
    /// Keyed hashes of the names in `paid`.
    names: HashSet<u64>,
    bytes: u64,
    bits: u64,
    /// Bits that repeats may still use.
    repeats: Bucket,
    told: Option<Duration>,
}

impl Domain {
    fn new(limits: &BudgetLimits) -> Self {
        let (rate, burst) = repeats(limits);
        Self {
            paid: VecDeque::new(),
            names: HashSet::new(),
            bytes: 0,
            bits: 0,
            repeats: Bucket::with(rate, burst),
            told: None,
        }
    }

    fn expire(&mut self, now: Duration) {
        while let Some(oldest) = self.paid.front() {
            if now.saturating_sub(oldest.at) < WINDOW {
                break;
            }
            self.names.remove(&oldest.name);
            self.bytes -= u64::from(oldest.bytes);
            self.bits -= u64::from(oldest.bits);
            self.paid.pop_front();
        }
        if self
            .told
            .is_some_and(|told| now.saturating_sub(told) >= WINDOW)
        {
            self.told = None;
        }
    }

    fn idle(&self) -> bool {
        self.paid.is_empty() && self.told.is_none()
    }
}

/// The budgets of one agent.
#[derive(Debug)]
pub struct Budget {
    limits: BudgetLimits,
    over: OverBudget,
    domains: HashMap<Arc<str>, Domain>,
    /// Names paid for, over all domains.
    total: usize,
    /// When a domain that has nothing paid for was last told of.
    told_other: Option<Duration>,
    swept: Option<Duration>,
    /// Keyed, so that an agent cannot look for two names with one hash.
    hasher: RandomState,
}

impl Budget {
    /// A budget from which nothing was spent.
    pub fn new(limits: BudgetLimits, over: OverBudget) -> Self {
        Self {
            limits,
            over,
            domains: HashMap::new(),
            total: 0,
            told_other: None,
            swept: None,
            hasher: RandomState::new(),
        }
    }

    /// Takes the limits of a new policy. What was spent stays spent.
    pub fn set_limits(&mut self, limits: BudgetLimits, over: OverBudget) {
        self.limits = limits;
        self.over = over;
        let (rate, burst) = repeats(&limits);
        for domain in self.domains.values_mut() {
            domain.repeats.set_limits(rate, burst);
        }
    }

    /// Pays for a name that a wildcard matched. `name` is canonical, and `domain` what
    /// [`NameRule::budget_of`](crate::policy::NameRule::budget_of) says of it.
    pub fn spend(&mut self, name: &str, domain: &str, now: Duration) -> Spent {
        let hash = self.hasher.hash_one(name);
        if let Some(known) = self.known(domain, now)
            && known.names.contains(&hash)
        {
            return Spent::Known;
        }
        let below = below(name, domain);
        let bytes = u32::try_from(below.len()).unwrap_or(u32::MAX);
        let bits = entropy_bits(below);
        match self.crossed(domain, bytes, bits, now) {
            Some((measure, limit)) => self.exceeded(domain, measure, limit, now),
            None => {
                let paid = Paid {
                    at: now,
                    name: hash,
                    bytes,
                    bits,
                };
                let domain = self.domains.entry(Arc::from(domain));
                let domain = domain.or_insert_with(|| Domain::new(&self.limits));
                domain.paid.push_back(paid);
                domain.names.insert(hash);
                domain.bytes += u64::from(bytes);
                domain.bits += u64::from(bits);
                self.total += 1;
                Spent::Within
            }
        }
    }

    /// Pays for asking upstream again for a name that is [`Spent::Known`]. `ways`: how many
    /// different questions there can be for one name.
    pub fn repeat(&mut self, domain: &str, ways: usize, now: Duration) -> Spent {
        let Some(known) = self.known(domain, now) else {
            return Spent::Within;
        };
        let choices = known.paid.len().saturating_mul(ways).max(1);
        // The logarithm, rounded up.
        let bits = choices.next_power_of_two().trailing_zeros();
        if known.repeats.take(now, bits) {
            return Spent::Within;
        }
        let limit = self.limits.repeat_bits.into();
        self.exceeded(domain, Measure::Repeats, limit, now)
    }

    /// What is known of a domain, without what was paid for more than an hour ago.
    fn known(&mut self, domain: &str, now: Duration) -> Option<&mut Domain> {
        let known = self.domains.get_mut(domain)?;
        let before = known.paid.len();
        known.expire(now);
        self.total -= before - known.paid.len();
        Some(known)
    }

    /// Names paid for and still counted, over all domains (those of domains that were not
    /// asked for lately may have had their hour).
    pub fn len(&self) -> usize {
        self.total
    }

    /// Whether nothing is counted.
    pub fn is_empty(&self) -> bool {
        self.total == 0
    }

    /// Names, bytes and bits spent for a registered domain in the hour before `now`.
    pub fn spent(&mut self, domain: &str, now: Duration) -> (u64, u64, u64) {
        let Some(known) = self.known(domain, now) else {
            return (0, 0, 0);
        };
        (known.paid.len() as u64, known.bytes, known.bits)
    }

    fn room(&self) -> usize {
        MAX_NAMES.max(usize::try_from(self.limits.names).unwrap_or(usize::MAX))
    }

    fn crossed(
        &mut self,
        domain: &str,
        bytes: u32,
        bits: u32,
        now: Duration,
    ) -> Option<(Measure, u64)> {
        let (names, spent_bytes, spent_bits) = self
            .domains
            .get(domain)
            .map_or((0, 0, 0), |d| (d.paid.len() as u64, d.bytes, d.bits));
        let limits = [
            (Measure::Names, names + 1, self.limits.names),
            (
                Measure::Bytes,
                spent_bytes + u64::from(bytes),
                self.limits.bytes,
            ),
            (
                Measure::Entropy,
                spent_bits + u64::from(bits),
                self.limits.entropy_bits,
            ),
        ];
        for (measure, would_be, limit) in limits {
            if would_be > u64::from(limit) {
                return Some((measure, u64::from(limit)));
            }
        }
        if self.total >= self.room() {
            // A walk for each name would be a way to keep the daemon busy.
            let due = |swept| now.saturating_sub(swept) >= SWEEP_PAUSE;
            if self.swept.is_none_or(due) {
                self.tidy(now);
            }
            if self.total >= self.room() {
                return Some((Measure::Total, self.room() as u64));
            }
        }
        None
    }

    /// Forgets what was paid an hour ago. Call it now and then (once a minute will do) to
    /// give memory back; budgets are exact without.
    pub fn tidy(&mut self, now: Duration) {
        self.swept = Some(now);
        let mut total = 0;
        self.domains.retain(|_, domain| {
            domain.expire(now);
            total += domain.paid.len();
            !domain.idle()
        });
        self.total = total;
    }

    fn exceeded(&mut self, domain: &str, measure: Measure, limit: u64, now: Duration) -> Spent {
        // A domain that has nothing paid for is not made just to remember that it was told.
        let told = match self.domains.get_mut(domain) {
            Some(known) => &mut known.told,
            None => &mut self.told_other,
        };
        let tell = told.is_none_or(|told| now.saturating_sub(told) >= WINDOW);
        if tell {
            *told = Some(now);
        }
        let exceeded = Exceeded {
            domain: Arc::from(domain),
            measure,
            limit,
            tell,
        };
        match self.over {
            OverBudget::Block => Spent::Blocked(exceeded),
            OverBudget::Report if tell => Spent::Reported(exceeded),
            OverBudget::Report => Spent::Within,
        }
    }
}

/// Bits a second, and at once.
fn repeats(limits: &BudgetLimits) -> (f64, u32) {
    let rate = f64::from(limits.repeat_bits) / WINDOW.as_secs_f64();
    (rate, limits.repeat_bits.div_ceil(REPEATS_AT_ONCE))
}

/// The labels of a name that are below a domain, without the dot between.
fn below<'a>(name: &'a str, domain: &str) -> &'a str {
    match name.strip_suffix(domain) {
        Some(below) => below.strip_suffix('.').unwrap_or(below),
        None => name,
    }
}

/// Shannon entropy of a text over its own characters, times its length: the bits that it
/// takes to write the text down once the frequencies are known. Rounded up.
pub fn entropy_bits(text: &str) -> u32 {
    let mut counts = [0u32; 256];
    for byte in text.bytes() {
        counts[usize::from(byte)] += 1;
    }
    let len = text.len() as f64;
    let bits: f64 = counts
        .iter()
        .filter(|count| **count > 0)
        .map(|count| f64::from(*count) * (len / f64::from(*count)).log2())
        .sum();
    // Names are at most 253 bytes: 253 × log2(253) bits fit by far.
    bits.ceil() as u32
}

#[cfg(test)]
#[path = "budget_tests.rs"]
mod tests;
