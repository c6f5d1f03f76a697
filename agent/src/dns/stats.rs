//! What the DNS rooms count. The metrics room reads it; nothing here is reset.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::gate::{Rcode, Verdict};
use crate::leases::FailKind;

/// The most upstream servers that are counted apart. A laptop meets new ones with every
/// network; beyond this they share the label `other`.
const MAX_UPSTREAMS: usize = 32;

/// Upper bounds of the histogram of upstream requests, in microseconds (inclusive): from a
/// server of the same machine to the longest time-out of most settings.
const REQUEST_BOUNDS: &[u64] = &[
    500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000,
    5_000_000,
];

/// Upper bounds of the histogram of grants, in microseconds (inclusive): a write to a kernel
/// map takes a few, a table that is compiled anew thousands.
const GRANT_BOUNDS: &[u64] = &[
    2, 5, 10, 15, 20, 30, 50, 100, 250, 1_000, 5_000, 25_000, 100_000, 1_000_000,
];

/// Counters of all DNS rooms.
#[derive(Debug)]
pub struct DnsStats {
    /// Addresses that no name may stand for, left out of answers that went past the leases,
    /// which count theirs.
    pub rebind_dropped: AtomicU64,
    /// The resolver's cache.
    pub cache: CacheStats,
    /// How long queries waited until the kernel held the addresses of their answers, the
    /// wait for the engine included.
    pub grants: Durations,
    upstreams: Mutex<BTreeMap<Arc<str>, Arc<UpstreamStats>>>,
    gates: Mutex<BTreeMap<u32, Arc<GateStats>>>,
}

impl Default for DnsStats {
    fn default() -> Self {
        Self {
            rebind_dropped: AtomicU64::default(),
            cache: CacheStats::default(),
            grants: Durations::new(GRANT_BOUNDS),
            upstreams: Mutex::default(),
            gates: Mutex::default(),
        }
    }
}

// A panic elsewhere cannot leave a map of counters half-changed.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl DnsStats {
    /// The counters of an upstream server, made at zero when it is new, and the label that
    /// it is counted under: its own, or `other` when there are too many.
    pub fn upstream(&self, label: &str) -> (Arc<str>, Arc<UpstreamStats>) {
        let mut upstreams = lock(&self.upstreams);
        let label = if upstreams.contains_key(label) || upstreams.len() < MAX_UPSTREAMS {
            label
        } else {
            "other"
        };
        let label: Arc<str> = Arc::from(label);
        let stats = upstreams.entry(label.clone()).or_default().clone();
        (label, stats)
    }

    /// The counters of an agent's gate, made at zero when it is new.
    pub fn gate(&self, agent: u32) -> Arc<GateStats> {
        lock(&self.gates).entry(agent).or_default().clone()
    }

    /// Forgets an agent that is gone.
    pub fn forget_gate(&self, agent: u32) {
        lock(&self.gates).remove(&agent);
    }

    /// Every upstream server seen, with its counters.
    pub fn upstreams(&self) -> Vec<(Arc<str>, Arc<UpstreamStats>)> {
        lock(&self.upstreams)
            .iter()
            .map(|(label, stats)| (label.clone(), stats.clone()))
            .collect()
    }

    /// Every agent's gate, with its counters.
    pub fn gates(&self) -> Vec<(u32, Arc<GateStats>)> {
        lock(&self.gates)
            .iter()
            .map(|(agent, stats)| (*agent, stats.clone()))
            .collect()
    }
}

/// Counters of the resolver's cache.
#[derive(Debug, Default)]
pub struct CacheStats {
    /// Questions answered from it.
    pub hits: AtomicU64,
    /// Questions that it had no good answer to.
    pub misses: AtomicU64,
    /// Questions answered with what had ended, because no server answered. Not among the
    /// hits; among the misses when servers were asked first.
    pub stale: AtomicU64,
    /// Hot answers that were fetched anew before they ended.
    pub prefetches: AtomicU64,
    /// Questions that waited for a request that was under way for another asker.
    pub joined: AtomicU64,
}

/// How a request travels.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Transport {
    /// UDP.
    Udp,
    /// TCP.
    Tcp,
    /// DNS over TLS.
    Tls,
    /// DNS over HTTPS.
    Https,
}

impl Transport {
    /// Every transport, in the order of [`Transport::index`].
    pub const ALL: [Self; 4] = [Self::Udp, Self::Tcp, Self::Tls, Self::Https];

    /// The word in metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Udp => "udp",
            Self::Tcp => "tcp",
            Self::Tls => "tls",
            Self::Https => "https",
        }
    }

    /// Place in [`Transport::ALL`].
    pub const fn index(self) -> usize {
        self as usize
    }
}

/// How long something took, each time.
#[derive(Debug)]
pub struct Durations {
    bounds: &'static [u64],
    /// By duration, not cumulative; the last has no bound.
    buckets: Box<[AtomicU64]>,
    /// In nanoseconds: half a thousand years.
    sum: AtomicU64,
}

impl Durations {
    fn new(bounds: &'static [u64]) -> Self {
        Self {
            bounds,
            buckets: (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect(),
            sum: AtomicU64::new(0),
        }
    }

    /// Adds one.
    pub fn add(&self, took: Duration) {
        let bucket = self
            .bounds
            .partition_point(|bound| Duration::from_micros(*bound) < took);
        self.buckets[bucket].fetch_add(1, Relaxed);
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        self.sum.fetch_add(nanos, Relaxed);
    }

    /// How many there were.
    pub fn count(&self) -> u64 {
        self.buckets.iter().map(|bucket| bucket.load(Relaxed)).sum()
    }

    /// Their sum.
    pub fn sum(&self) -> Duration {
        Duration::from_nanos(self.sum.load(Relaxed))
    }

    /// How many took no longer than each bound (in microseconds), in order. What took longer
    /// than all of them is only in [`Durations::count`].
    pub fn within(&self) -> Vec<(u64, u64)> {
        let mut all = 0;
        let cumulative = self
            .bounds
            .iter()
            .zip(&self.buckets)
            .map(|(bound, bucket)| {
                all += bucket.load(Relaxed);
                (*bound, all)
            });
        cumulative.collect()
    }
}

/// Counters of one upstream server. A request is one question by one transport, with its
/// attempts; an answer that is too long for UDP makes two.
#[derive(Debug)]
pub struct UpstreamStats {
    transports: [Durations; Transport::ALL.len()],
    /// Questions that gave no answer for a reason, by [`FailKind::index`]. That there is
    /// no such name, or no such record of it, is an answer.
    pub failures: [AtomicU64; FailKind::ALL.len()],
}

impl Default for UpstreamStats {
    fn default() -> Self {
        Self {
            transports: std::array::from_fn(|_| Durations::new(REQUEST_BOUNDS)),
            failures: Default::default(),
        }
    }
}

impl UpstreamStats {
    /// Counts a finished request.
    pub fn request(&self, transport: Transport, took: Duration) {
        self.transports[transport.index()].add(took);
    }

    /// Counts a failure.
    pub fn failure(&self, kind: FailKind) {
        self.failures[kind.index()].fetch_add(1, Relaxed);
    }

    /// Durations of the requests by a transport.
    pub fn durations(&self, transport: Transport) -> &Durations {
        &self.transports[transport.index()]
    }

    /// Requests by all transports, finished or timed out.
    pub fn requests(&self) -> u64 {
        self.transports.iter().map(Durations::count).sum()
    }
}

/// Counters of one agent's gate.
#[derive(Debug, Default)]
pub struct GateStats {
    queries: [[AtomicU64; Rcode::ALL.len()]; Verdict::ALL.len()],
    /// Budgets of a domain that were crossed, each at most once an hour.
    pub budgets_crossed: AtomicU64,
    /// Records that found no room on their way to the engine.
    pub records_lost: AtomicU64,
    /// Replies that could not be sent.
    pub replies_lost: AtomicU64,
    /// TCP connections refused because the agent had too many.
    pub connections_refused: AtomicU64,
    /// TCP messages longer than the gate reads; their connection is closed.
    pub oversized: AtomicU64,
}

impl GateStats {
    /// Counts a query.
    pub fn query(&self, verdict: Verdict, rcode: Rcode) {
        self.queries[verdict as usize][rcode as usize].fetch_add(1, Relaxed);
    }

    /// Queries with this verdict, whatever the answer's code.
    pub fn verdicts(&self, verdict: Verdict) -> u64 {
        let queries = &self.queries[verdict as usize];
        queries.iter().map(|count| count.load(Relaxed)).sum()
    }

    /// Queries with this outcome. Only the pairs in [`Verdict::OUTCOMES`] occur.
    pub fn queries(&self, verdict: Verdict, rcode: Rcode) -> u64 {
        self.queries[verdict as usize][rcode as usize].load(Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_fall_into_their_bucket() {
        let stats = UpstreamStats::default();
        stats.request(Transport::Udp, Duration::from_micros(1_000));
        stats.request(Transport::Udp, Duration::from_micros(1_001));
        stats.request(Transport::Udp, Duration::from_secs(60));
        stats.request(Transport::Tls, Duration::from_secs(1));
        let udp = stats.durations(Transport::Udp);
        let within = udp.within();
        assert_eq!(within.len(), REQUEST_BOUNDS.len());
        assert_eq!(within[..3], [(500, 0), (1_000, 1), (2_500, 2)]);
        assert_eq!(within.last(), Some(&(5_000_000, 2)));
        assert_eq!(udp.count(), 3);
        assert_eq!(udp.sum(), Duration::from_micros(60_002_001));
        assert_eq!(stats.durations(Transport::Tls).count(), 1);
        assert_eq!(stats.requests(), 4);
    }

    #[test]
    fn upstreams_are_bounded() {
        let stats = DnsStats::default();
        for n in 0..100 {
            let (_, upstream) = stats.upstream(&n.to_string());
            upstream.request(Transport::Udp, Duration::ZERO);
        }
        let seen = stats.upstreams();
        assert_eq!(seen.len(), MAX_UPSTREAMS + 1);
        let (label, other) = stats.upstream("one more");
        assert_eq!(&*label, "other");
        assert_eq!(other.requests(), 100 - MAX_UPSTREAMS as u64);
    }
}
