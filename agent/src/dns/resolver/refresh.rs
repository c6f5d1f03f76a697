//! When each name is resolved again.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, mpsc, watch};
use tokio::task::{Id, JoinError, JoinSet};
use tokio_util::sync::CancellationToken;

use super::{Lookup, Resolution, ResolverConfig};
use crate::dns::clock::Clock;
use crate::leases::{FailKind, LeaseConfig, Name};

/// The most names that are being resolved at once.
pub const MAX_LOOKUPS: usize = 32;

/// The longest sleep. The runtime's timers stand still while a laptop sleeps and time
/// since boot does not, so it is looked at this often: after a resume every name whose
/// TTL ended meanwhile is asked within this time.
const TICK: Duration = Duration::from_secs(5);

/// How often names are asked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Pace {
    /// The least time between two refreshes of a name.
    pub min_ttl: Duration,
    /// The most.
    pub max_ttl: Duration,
    /// Pause after a first failure.
    pub retry_initial: Duration,
    /// The longest pause after failures.
    pub retry_max: Duration,
}

impl Pace {
    /// From the settings of both rooms.
    pub fn new(resolver: &ResolverConfig, leases: &LeaseConfig) -> Self {
        Self {
            min_ttl: leases.min_ttl,
            max_ttl: leases.max_ttl,
            retry_initial: resolver.retry_initial,
            retry_max: resolver.retry_max,
        }
    }

    /// Time until a name with this TTL (seconds) is asked again: 80 to 100 % of it, by
    /// `chance` from 0 to 1, so that names that were learnt together do not stay so.
    fn refresh(&self, ttl: u32, chance: f64) -> Duration {
        Duration::from_secs(u64::from(ttl))
            .min(self.max_ttl)
            .mul_f64(0.8 + 0.2 * chance.clamp(0.0, 1.0))
            .max(self.min_ttl)
    }

    /// Time until a name that failed this many times in a row is asked again: doubling,
    /// and by `chance` 50 to 100 % of that, so that a server that comes back is not met
    /// by every name at once.
    fn retry(&self, failures: u32, chance: f64) -> Duration {
        let doublings = failures.saturating_sub(1).min(30);
        self.retry_initial
            .saturating_mul(1 << doublings)
            .min(self.retry_max)
            .mul_f64(0.5 + 0.5 * chance.clamp(0.0, 1.0))
    }
}

/// Asks the [`Refresher`] to hurry.
#[derive(Clone, Debug)]
pub struct RefreshHandle(Arc<Notify>);

impl RefreshHandle {
    /// Resolves every name now: after a change of network, or because a person asked.
    pub fn refresh_now(&self) {
        self.0.notify_one();
    }
}

/// Keeps every name of the policies resolved; see [`Refresher::run`].
pub struct Refresher<L> {
    lookup: Arc<L>,
    pace: Pace,
    clock: Clock,
    names: watch::Receiver<Arc<BTreeSet<Name>>>,
    results: mpsc::Sender<Resolution>,
    hurry: Arc<Notify>,
    schedule: Schedule,
    lookups: JoinSet<Resolution>,
    /// Which name a look-up is for, to find it again should the look-up panic.
    under_way: HashMap<Id, Name>,
}

impl<L: Lookup> Refresher<L> {
    /// A refresher of `names`, which sends what it finds to `results`.
    pub fn new(
        lookup: Arc<L>,
        pace: Pace,
        clock: Clock,
        names: watch::Receiver<Arc<BTreeSet<Name>>>,
        results: mpsc::Sender<Resolution>,
    ) -> (Self, RefreshHandle) {
        let hurry = Arc::new(Notify::new());
        let refresher = Self {
            lookup,
            pace,
            clock,
            names,
            results,
            hurry: hurry.clone(),
            schedule: Schedule::default(),
            lookups: JoinSet::new(),
            under_way: HashMap::new(),
        };
        (refresher, RefreshHandle(hurry))
    }

    /// Resolves new names at once and each name again before its TTL ends, or after a
    /// growing pause when it fails; forgets names that left, and drops answers for them
    /// that were under way. Ends at `cancel`, or when either channel has lost its other
    /// end. A full `results` holds it up: no result is lost.
    pub async fn run(mut self, cancel: CancellationToken) {
        let names = self.names.borrow_and_update().clone();
        self.schedule.set_names(&names, (self.clock)());
        loop {
            let now = (self.clock)();
            self.launch(now);
            let pause = match self.schedule.next() {
                Some(due) if self.lookups.len() < MAX_LOOKUPS => due.saturating_sub(now).min(TICK),
                _ => TICK,
            };
            tokio::select! {
                () = cancel.cancelled() => break,
                changed = self.names.changed() => {
                    if changed.is_err() {
                        break;
                    }
                    let names = self.names.borrow_and_update().clone();
                    self.schedule.set_names(&names, (self.clock)());
                }
                () = self.hurry.notified() => self.schedule.all_due((self.clock)()),
                Some(done) = self.lookups.join_next_with_id() => {
                    let Some(resolution) = self.finished(done) else {
                        continue;
                    };
                    tokio::select! {
                        () = cancel.cancelled() => break,
                        sent = self.results.send(resolution) => if sent.is_err() {
                            break;
                        },
                    }
                }
                () = tokio::time::sleep(pause) => {}
            }
        }
        self.lookups.shutdown().await;
    }

    fn launch(&mut self, now: Duration) {
        while self.lookups.len() < MAX_LOOKUPS {
            let Some(name) = self.schedule.take_due(now) else {
                break;
            };
            let lookup = self.lookup.clone();
            let asked = name.clone();
            let task = self
                .lookups
                .spawn(async move { lookup.lookup(asked).await });
            self.under_way.insert(task.id(), name);
        }
    }

    /// Puts the name back into the schedule. `None` when the policy has lost it.
    fn finished(&mut self, done: Result<(Id, Resolution), JoinError>) -> Option<Resolution> {
        let (id, resolution) = match done {
            Ok((id, resolution)) => (id, Some(resolution)),
            Err(error) => {
                tracing::error!(%error, "a look-up broke off; its name will be asked again");
                (error.id(), None)
            }
        };
        let name = self.under_way.remove(&id)?;
        let resolution = resolution.unwrap_or_else(|| Resolution {
            name: name.clone(),
            result: Err(FailKind::BadAnswer),
            upstream: String::new(),
            elapsed: Duration::ZERO,
        });
        let now = (self.clock)();
        let chance = rand::random();
        let ttl = match &resolution.result {
            Ok(addresses) => addresses.iter().map(|(_, ttl)| *ttl).min(),
            Err(_) => None,
        };
        let pace = &self.pace;
        let kept = self.schedule.put_back(&name, |failures| match ttl {
            Some(ttl) => {
                *failures = 0;
                now + pace.refresh(ttl, chance)
            }
            None => {
                *failures = failures.saturating_add(1);
                now + pace.retry(*failures, chance)
            }
        });
        kept.then_some(resolution)
    }
}

#[derive(Default)]
struct Schedule {
    names: BTreeMap<Name, Planned>,
    /// Names that wait, by when they are due.
    queue: BTreeSet<(Duration, Name)>,
    /// Names that are being resolved and not in the queue. One that left the policy
    /// stays here until its look-up has ended, so that it is not asked twice at once
    /// should it come back.
    asked: BTreeSet<Name>,
}

struct Planned {
    due: Duration,
    failures: u32,
}

impl Schedule {
    fn set_names(&mut self, names: &BTreeSet<Name>, now: Duration) {
        let queue = &mut self.queue;
        self.names.retain(|name, planned| {
            let stays = names.contains(name);
            if !stays {
                queue.remove(&(planned.due, name.clone()));
            }
            stays
        });
        for name in names {
            if self.names.contains_key(name) {
                continue;
            }
            let planned = Planned {
                due: now,
                failures: 0,
            };
            self.names.insert(name.clone(), planned);
            if !self.asked.contains(name) {
                self.queue.insert((now, name.clone()));
            }
        }
    }

    fn next(&self) -> Option<Duration> {
        self.queue.first().map(|(due, _)| *due)
    }

    fn take_due(&mut self, now: Duration) -> Option<Name> {
        if self.next()? > now {
            return None;
        }
        let (_, name) = self.queue.pop_first()?;
        self.asked.insert(name.clone());
        Some(name)
    }

    fn all_due(&mut self, now: Duration) {
        for (_, name) in std::mem::take(&mut self.queue) {
            if let Some(planned) = self.names.get_mut(&name) {
                planned.due = now;
                self.queue.insert((now, name));
            }
        }
    }

    /// `plan` gets the number of failures in a row, to change, and says when it is due.
    fn put_back(&mut self, name: &Name, plan: impl FnOnce(&mut u32) -> Duration) -> bool {
        self.asked.remove(name);
        let Some(planned) = self.names.get_mut(name) else {
            return false;
        };
        planned.due = plan(&mut planned.failures);
        self.queue.insert((planned.due, name.clone()));
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_stay_within_their_bounds() {
        let secs = Duration::from_secs;
        let pace = Pace::new(&ResolverConfig::default(), &LeaseConfig::default());
        assert_eq!(pace.refresh(100, 0.0), secs(80));
        assert_eq!(pace.refresh(100, 1.0), secs(100));
        assert_eq!(pace.refresh(0, 0.5), secs(5));
        assert_eq!(pace.refresh(u32::MAX, 1.0), secs(3600));
        assert_eq!(pace.retry(1, 1.0), secs(1));
        assert_eq!(pace.retry(1, 0.0), Duration::from_millis(500));
        assert_eq!(pace.retry(4, 1.0), secs(8));
        assert_eq!(pace.retry(u32::MAX, 1.0), secs(60));
        assert_eq!(pace.retry(u32::MAX, 0.0), secs(30));
    }
}
