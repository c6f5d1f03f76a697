//! Answers that were given, until they end, and a while longer.
//!
//! moka bounds it and chooses what leaves (by use, so that a flood of names that are
//! asked once pushes out nothing that is in use); the ends of answers are kept here, by
//! the clock that counts a laptop's sleep.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::{Name as DnsName, Record, RecordType};
use hickory_proto::serialize::binary::BinEncodable;
use moka::sync::Cache as Moka;

use crate::leases::Name;

/// The most memory of answers, by [`weight`].
pub const MAX_CACHE_BYTES: u64 = 4 << 20;
/// What an entry weighs at least: keys, counters, moka's own.
const LEAST_WEIGHT: u32 = 512;
/// The most answers that follow from these. moka lets in a few dozen more for moments,
/// between two rounds of its housekeeping.
pub const MAX_CACHE_ENTRIES: u64 = MAX_CACHE_BYTES / LEAST_WEIGHT as u64;
/// The longest that a client is told to keep an answer that has ended (RFC 8767), in
/// seconds; also the time until servers that failed are asked for it again.
pub const STALE_TTL: u32 = 30;
/// How often an answer must have been asked for to be fetched anew before it ends.
const HOT: u32 = 2;

/// A question as the cache knows it.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct Key {
    /// Who is asked: another network's answer is another answer.
    pub(super) route: Arc<str>,
    pub(super) name: DnsName,
    pub(super) rtype: RecordType,
    pub(super) dnssec_ok: bool,
    pub(super) validate: bool,
}

/// An answer and its use.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) rcode: ResponseCode,
    pub(super) records: Arc<[Record]>,
    pub(super) authority: Arc<[Record]>,
    pub(super) authentic: bool,
    pub(super) chain: Vec<Name>,
    pub(super) upstream: Arc<str>,
    /// There is data at the end.
    pub(super) positive: bool,
    /// When it came, in time since boot.
    pub(super) at: Duration,
    /// How long it holds from then; zero is not kept.
    pub(super) life: Duration,
    hits: AtomicU32,
    prefetched: AtomicBool,
    /// Until when, in milliseconds since boot, servers are not asked again: they failed.
    recheck: AtomicU64,
}

impl Entry {
    pub(super) fn new(positive: bool, at: Duration, life: Duration) -> Self {
        Self {
            rcode: ResponseCode::NoError,
            records: Arc::new([]),
            authority: Arc::new([]),
            authentic: false,
            chain: Vec::new(),
            upstream: Arc::from(""),
            positive,
            at,
            life,
            hits: AtomicU32::new(0),
            prefetched: AtomicBool::new(false),
            recheck: AtomicU64::new(0),
        }
    }

    /// What is left, in seconds, rounded up: an answer in its last second still has one.
    pub(super) fn left(&self, now: Duration) -> u32 {
        let left = (self.at + self.life).saturating_sub(now);
        let seconds = left.as_secs() + u64::from(left.subsec_nanos() > 0);
        u32::try_from(seconds).unwrap_or(u32::MAX)
    }

    /// Whether it was asked often enough and is about to end; says so once.
    pub(super) fn take_prefetch(&self, now: Duration) -> bool {
        let left = (self.at + self.life).saturating_sub(now);
        left * 10 <= self.life
            && self.hits.load(Relaxed) >= HOT
            && !self.prefetched.swap(true, Relaxed)
    }

    /// The prefetch could not begin; another hit may try.
    pub(super) fn prefetch_later(&self) {
        self.prefetched.store(false, Relaxed);
    }

    fn is_fresh(&self, now: Duration) -> bool {
        now < self.at + self.life
    }

    /// Servers failed: for a while they are not asked again for this.
    pub(super) fn hold(&self, now: Duration) {
        let until = now + Duration::from_secs(STALE_TTL.into());
        self.recheck.store(
            u64::try_from(until.as_millis()).unwrap_or(u64::MAX),
            Relaxed,
        );
    }

    fn is_held(&self, now: Duration) -> bool {
        now.as_millis() < u128::from(self.recheck.load(Relaxed))
    }
}

/// What the cache knows.
pub(super) enum Known {
    /// Good.
    Fresh(Arc<Entry>),
    /// It has ended, and servers failed a moment ago.
    Held(Arc<Entry>),
    /// It has ended; of use should the servers fail.
    Ended(Arc<Entry>),
    Nothing,
}

pub(super) struct Cache {
    entries: Moka<Key, Arc<Entry>>,
    stale: Duration,
}

impl Cache {
    /// `stale`: how long an answer is kept beyond its end.
    pub(super) fn new(stale: Duration) -> Self {
        let entries = Moka::builder()
            .max_capacity(MAX_CACHE_BYTES)
            .weigher(|key: &Key, entry: &Arc<Entry>| weight(key, entry))
            .build();
        Self { entries, stale }
    }

    pub(super) fn look(&self, key: &Key, now: Duration) -> Known {
        let Some(entry) = self.entries.get(key) else {
            return Known::Nothing;
        };
        if entry.is_fresh(now) {
            entry.hits.fetch_add(1, Relaxed);
            return Known::Fresh(entry);
        }
        // What does not exist may have come to be; what existed is likely still there.
        if !entry.positive || now >= entry.at + entry.life + self.stale {
            self.entries.invalidate(key);
            return Known::Nothing;
        }
        if entry.is_held(now) {
            return Known::Held(entry);
        }
        Known::Ended(entry)
    }

    /// Keeps an answer. One that must not be kept takes the place of an older one too:
    /// what a server says now is what holds.
    pub(super) fn keep(&self, key: Key, entry: &Arc<Entry>) {
        if entry.life.is_zero() {
            self.entries.invalidate(&key);
        } else {
            self.entries.insert(key, entry.clone());
        }
    }

    /// Entries and their weight now: moka does first what it else does in time.
    pub(super) fn size(&self) -> (u64, u64) {
        self.entries.run_pending_tasks();
        (self.entries.entry_count(), self.entries.weighted_size())
    }
}

/// Bytes of an entry, roughly and rather too many.
fn weight(key: &Key, entry: &Entry) -> u32 {
    let records = entry.records.iter().chain(entry.authority.iter());
    // What a record has on the heap is about what it has on the wire.
    let records: usize = records
        .map(|record| size_of::<Record>() + record.to_bytes().map_or(0, |bytes| bytes.len()))
        .sum();
    let chain: usize = entry.chain.iter().map(|name| name.len() + 32).sum();
    let total = records + chain + key.name.len() + LEAST_WEIGHT as usize;
    u32::try_from(total).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dns::testing::address;

    const fn secs(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    fn key(name: &str) -> Key {
        Key {
            route: Arc::from("r"),
            name: DnsName::from_ascii(name).expect("name"),
            rtype: RecordType::A,
            dnssec_ok: false,
            validate: false,
        }
    }

    fn entry(at: u64, life: u64, positive: bool) -> Arc<Entry> {
        Arc::new(Entry::new(positive, secs(at), secs(life)))
    }

    fn word(known: Known) -> &'static str {
        match known {
            Known::Fresh(_) => "fresh",
            Known::Held(_) => "held",
            Known::Ended(_) => "ended",
            Known::Nothing => "nothing",
        }
    }

    #[test]
    fn an_answer_is_fresh_then_ended_then_gone() {
        let cache = Cache::new(secs(100));
        let entry = entry(1000, 60, true);
        cache.keep(key("a."), &entry);
        for (now, expected) in [
            (1000, "fresh"),
            (1059, "fresh"),
            (1060, "ended"),
            (1159, "ended"),
        ] {
            assert_eq!(word(cache.look(&key("a."), secs(now))), expected, "{now}");
        }
        entry.hold(secs(1060));
        assert_eq!(word(cache.look(&key("a."), secs(1089))), "held");
        assert_eq!(word(cache.look(&key("a."), secs(1090))), "ended");
        assert_eq!(word(cache.look(&key("a."), secs(1160))), "nothing");
        assert_eq!(entry.left(secs(1000)), 60);
        assert_eq!(entry.left(Duration::from_millis(1_059_999)), 1);
        assert_eq!(entry.left(secs(1060)), 0);
    }

    #[test]
    fn what_is_not_there_is_never_stale_and_what_has_no_life_is_not_kept() {
        let cache = Cache::new(secs(100));
        cache.keep(key("a."), &entry(0, 60, false));
        assert_eq!(word(cache.look(&key("a."), secs(59))), "fresh");
        assert_eq!(word(cache.look(&key("a."), secs(60))), "nothing");
        cache.keep(key("b."), &entry(0, 60, true));
        cache.keep(key("b."), &entry(1, 0, true));
        assert_eq!(word(cache.look(&key("b."), secs(1))), "nothing");
        let never = Cache::new(Duration::ZERO);
        never.keep(key("a."), &entry(0, 60, true));
        assert_eq!(word(never.look(&key("a."), secs(60))), "nothing");
    }

    #[test]
    fn only_what_is_hot_and_about_to_end_is_prefetched_and_once() {
        let cache = Cache::new(secs(0));
        let entry = entry(0, 100, true);
        cache.keep(key("a."), &entry);
        cache.look(&key("a."), secs(1));
        assert!(!entry.take_prefetch(secs(95)), "asked once");
        cache.look(&key("a."), secs(89));
        assert!(!entry.take_prefetch(secs(89)), "too early");
        assert!(entry.take_prefetch(secs(90)));
        assert!(!entry.take_prefetch(secs(91)));
        entry.prefetch_later();
        assert!(entry.take_prefetch(secs(92)));
    }

    #[test]
    fn it_is_bounded_in_bytes_and_entries() {
        let cache = Cache::new(secs(0));
        for n in 0..2 * MAX_CACHE_ENTRIES {
            cache.keep(key(&format!("n{n}.example.")), &entry(0, 60, true));
        }
        let (entries, bytes) = cache.size();
        assert!(
            entries <= MAX_CACHE_ENTRIES && bytes <= MAX_CACHE_BYTES,
            "{entries} {bytes}"
        );
        assert!(entries > MAX_CACHE_ENTRIES / 2, "{entries}");

        let records: Arc<[Record]> = (0..200)
            .map(|n| address("big.example.", 60, &format!("192.0.2.{n}")))
            .collect();
        let mut big = Entry::new(true, secs(0), secs(60));
        big.records = records;
        assert!(weight(&key("big.example."), &big) > 200 * 100);
    }
}
