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

/// Upper bounds of the histogram of upstream requests, in microseconds (inclusive).
/// Everything slower is in the last bucket, which has no bound.
pub const BUCKET_MICROS: [u64; 10] = [
    1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 500_000, 1_000_000, 5_000_000,
];

/// Counters of all DNS rooms.
#[derive(Debug, Default)]
pub struct DnsStats {
    /// Addresses that upstream servers gave and that no name may stand for.
    pub rebind_dropped: AtomicU64,
    /// The resolver's cache.
    pub cache: CacheStats,
    upstreams: Mutex<BTreeMap<Arc<str>, Arc<UpstreamStats>>>,
    gates: Mutex<BTreeMap<u32, Arc<GateStats>>>,
}

// A panic elsewhere cannot leave a map of counters half-changed.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl DnsStats {
    /// The counters of an upstream server, made at zero when it is new.
    pub fn upstream(&self, label: &str) -> Arc<UpstreamStats> {
        let mut upstreams = lock(&self.upstreams);
        let label = if upstreams.contains_key(label) || upstreams.len() < MAX_UPSTREAMS {
            label
        } else {
            "other"
        };
        upstreams.entry(Arc::from(label)).or_default().clone()
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

/// Durations of requests.
#[derive(Debug, Default)]
pub struct Durations {
    /// Requests by duration; not cumulative. See [`BUCKET_MICROS`].
    pub buckets: [AtomicU64; BUCKET_MICROS.len() + 1],
    /// Sum of the durations, in microseconds.
    pub sum_micros: AtomicU64,
}

impl Durations {
    fn add(&self, took: Duration) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let bucket = BUCKET_MICROS.partition_point(|bound| *bound < micros);
        self.buckets[bucket].fetch_add(1, Relaxed);
        self.sum_micros.fetch_add(micros, Relaxed);
    }

    /// Requests, finished or timed out.
    pub fn count(&self) -> u64 {
        self.buckets.iter().map(|bucket| bucket.load(Relaxed)).sum()
    }
}

/// Counters of one upstream server. A request is one question by one transport, with its
/// attempts; an answer that is too long for UDP makes two.
#[derive(Debug, Default)]
pub struct UpstreamStats {
    transports: [Durations; Transport::ALL.len()],
    /// Questions that gave no answer for a reason, by [`FailKind::index`]. That there is
    /// no such name, or no such record of it, is an answer.
    pub failures: [AtomicU64; FailKind::ALL.len()],
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
        let counts: Vec<_> = udp.buckets.iter().map(|b| b.load(Relaxed)).collect();
        assert_eq!(counts, [1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
        assert_eq!(udp.sum_micros.load(Relaxed), 60_002_001);
        assert_eq!(stats.durations(Transport::Tls).count(), 1);
        assert_eq!(stats.requests(), 4);
    }

    #[test]
    fn upstreams_are_bounded() {
        let stats = DnsStats::default();
        for n in 0..100 {
            let upstream = stats.upstream(&n.to_string());
            upstream.request(Transport::Udp, Duration::ZERO);
        }
        let seen = stats.upstreams();
        assert_eq!(seen.len(), MAX_UPSTREAMS + 1);
        let other = stats.upstream("other");
        assert_eq!(other.requests(), 100 - MAX_UPSTREAMS as u64);
    }
}
