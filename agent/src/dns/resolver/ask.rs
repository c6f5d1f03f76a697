//! A question's way: the cache, then one request for all who ask the same.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use hickory_proto::dnssec::TrustAnchors;
use hickory_proto::op::{Query, ResponseCode};
use hickory_proto::rr::{Name as DnsName, RecordType};
use tokio::task::JoinSet;

use super::cache::{Cache, Entry, Key, Known, STALE_TTL};
use super::reduce::{End, MAX_CHAIN, reduce};
use super::routes::Routes;
use super::{Answer, Failed, Fault, Question, ResolverConfig, ResolverConfigError, Source};
use crate::dns::clock::{self, Clock};
use crate::dns::flights::{Flights, Joined};
use crate::dns::stats::{DnsStats, Transport};
use crate::leases::{FailKind, Name};

/// The most questions that are under way upstream; beyond it one fails at once. The gates
/// bound each agent further below.
pub const MAX_FLIGHTS: usize = 1024;
/// The most answers that are being fetched anew before they end.
pub const MAX_PREFETCHES: usize = 8;
/// The longest that a question takes, over all servers and aliases. Clients give up
/// earlier.
const LONGEST: Duration = Duration::from_secs(30);

/// A server that questions may be sent to now.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ServerState {
    /// Its label in metrics.
    pub label: Arc<str>,
    /// How requests travel to it.
    pub transports: Vec<Transport>,
    /// Its last request was answered, or there was none yet.
    pub well: bool,
}

/// Answers questions from its cache or from the servers.
pub struct Resolver {
    inner: Arc<Inner>,
    /// They end with the resolver.
    prefetches: Mutex<JoinSet<()>>,
}

struct Inner {
    routes: Routes,
    cache: Cache,
    flights: Arc<Flights<Key, Landed>>,
    min_ttl: Duration,
    max_ttl: Duration,
    negative_max_ttl: Duration,
    clock: Clock,
    stats: Arc<DnsStats>,
}

/// Whether an answer that is often asked for is fetched anew shortly before it ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Prefetch {
    /// It is, within a tokio runtime.
    Hot,
    /// No: taking it from the cache sends nothing upstream.
    Never,
}

/// What comes of a flight; every asker gets it.
type Landed = Result<Arc<Entry>, Fault>;

impl Resolver {
    /// A resolver; it asks nothing by itself.
    ///
    /// # Errors
    /// When the configuration cannot work, or certificates that it needs cannot be read.
    /// A `resolv.conf` that is missing or names no server is no error here: questions
    /// fail with [`FailKind::NoUpstream`] until it does.
    pub fn new(config: ResolverConfig, stats: Arc<DnsStats>) -> Result<Self, ResolverConfigError> {
        Self::with(config, stats, clock::boottime(), TrustAnchors::default())
    }

    /// With a clock (for TTLs and health) and keys to trust for the root.
    pub(super) fn with(
        config: ResolverConfig,
        stats: Arc<DnsStats>,
        clock: Clock,
        anchors: TrustAnchors,
    ) -> Result<Self, ResolverConfigError> {
        let inner = Inner {
            cache: Cache::new(config.serve_stale),
            flights: Arc::default(),
            min_ttl: config.min_ttl,
            max_ttl: config.max_ttl,
            negative_max_ttl: config.negative_max_ttl,
            routes: Routes::new(config, stats.clone(), clock.clone(), anchors)?,
            clock,
            stats,
        };
        Ok(Self {
            inner: Arc::new(inner),
            prefetches: Mutex::default(),
        })
    }

    /// Until then (time since boot) the system's servers are asked in place of the general ones
    /// of the configuration; `None`: not any more. Zones keep theirs.
    pub fn ask_the_network(&self, until: Option<Duration>) {
        self.inner.routes.ask_the_network(until);
    }

    /// The general servers in force, in the order of the configuration.
    pub fn labels(&self) -> Vec<String> {
        let route = self.inner.routes.general();
        route.servers.labels().map(ToString::to_string).collect()
    }

    /// Every server in force, those of zones too. One that several routes have is well when
    /// it is for all of them; so is the label that those share of which there are too many.
    pub fn servers(&self) -> Vec<ServerState> {
        let mut servers: Vec<ServerState> = Vec::new();
        for route in self.inner.routes.all() {
            for server in route.servers.iter() {
                let (label, well) = (server.counted_as(), server.health().is_well());
                let at = servers.iter().position(|known| known.label == *label);
                let at = at.unwrap_or_else(|| {
                    servers.push(ServerState {
                        label: label.clone(),
                        transports: Vec::new(),
                        well: true,
                    });
                    servers.len() - 1
                });
                let known = &mut servers[at];
                known.well &= well;
                for transport in server.way().transports() {
                    if !known.transports.contains(transport) {
                        known.transports.push(*transport);
                    }
                }
            }
        }
        servers
    }

    /// What the cache holds: answers, and their bytes as they are counted against
    /// [`super::MAX_CACHE_BYTES`].
    pub fn cached_now(&self) -> (u64, u64) {
        self.inner.cache.size()
    }

    /// The answer when it needs nobody: it is in the cache, or the name is nobody's to
    /// answer. Never waits.
    pub fn cached(&self, question: &Question, prefetch: Prefetch) -> Option<Answer> {
        let begun = Instant::now();
        match self.inner.key(question, begun) {
            Ok(key) => self.hit(&key, prefetch, begun),
            Err(done) => done.ok(),
        }
    }

    /// An answer that has ended, where it may still stand in ([`Source::Stale`]).
    pub fn ended(&self, question: &Question) -> Option<Answer> {
        let begun = Instant::now();
        let key = self.inner.key(question, begun).ok()?;
        match self.inner.cache.look(&key, (self.inner.clock)()) {
            Known::Ended(entry) => Some(self.inner.stale(&entry, begun)),
            _ => None,
        }
    }

    /// The answer. However many ask for the same at once, servers are asked once; the
    /// request goes on as long as one of them waits.
    ///
    /// # Errors
    /// When no server gives a usable answer and no earlier one may stand in.
    pub async fn ask(&self, question: &Question) -> Result<Answer, Failed> {
        let begun = Instant::now();
        let key = match self.inner.key(question, begun) {
            Ok(key) => key,
            Err(done) => return *done,
        };
        if let Some(answer) = self.hit(&key, Prefetch::Never, begun) {
            return Ok(answer);
        }
        self.inner.stats.cache.misses.fetch_add(1, Relaxed);
        match self.inner.flight(&key).await {
            Ok(entry) => Ok(self.inner.answer(&entry, Source::Upstream, begun)),
            Err(fault) => {
                let now = (self.inner.clock)();
                match self.inner.cache.look(&key, now) {
                    Known::Ended(entry) | Known::Held(entry) if !fault.bogus => {
                        entry.hold(now);
                        Ok(self.inner.stale(&entry, begun))
                    }
                    _ => Err(failed(fault, begun)),
                }
            }
        }
    }

    /// The answer from a server, whatever is in the cache, which keeps it. Never stale.
    ///
    /// # Errors
    /// When no server gives a usable answer.
    pub async fn refresh(&self, question: &Question) -> Result<Answer, Failed> {
        let begun = Instant::now();
        let key = match self.inner.key(question, begun) {
            Ok(key) => key,
            Err(done) => return *done,
        };
        match self.inner.flight(&key).await {
            Ok(entry) => Ok(self.inner.answer(&entry, Source::Upstream, begun)),
            Err(fault) => Err(failed(fault, begun)),
        }
    }

    fn hit(&self, key: &Key, prefetch: Prefetch, begun: Instant) -> Option<Answer> {
        let now = (self.inner.clock)();
        match self.inner.cache.look(key, now) {
            Known::Fresh(entry) => {
                self.inner.stats.cache.hits.fetch_add(1, Relaxed);
                if prefetch == Prefetch::Hot && entry.take_prefetch(now) && !self.prefetch(key) {
                    entry.prefetch_later();
                }
                Some(self.inner.answer(&entry, Source::Cache, begun))
            }
            Known::Held(entry) => Some(self.inner.stale(&entry, begun)),
            Known::Ended(_) | Known::Nothing => None,
        }
    }

    fn prefetch(&self, key: &Key) -> bool {
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            return false;
        };
        let mut tasks = self
            .prefetches
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        while tasks.try_join_next().is_some() {}
        if tasks.len() >= MAX_PREFETCHES {
            return false;
        }
        self.inner.stats.cache.prefetches.fetch_add(1, Relaxed);
        let (inner, key) = (self.inner.clone(), key.clone());
        let task = async move {
            // What came is in the cache; what failed is asked again by who needs it.
            let _ = inner.flight(&key).await;
        };
        tasks.spawn_on(task, &runtime);
        true
    }
}

impl Inner {
    /// What the cache and the flights know the question by; or what comes of it, where nobody is
    /// to be asked.
    fn key(&self, question: &Question, begun: Instant) -> Result<Key, Box<Result<Answer, Failed>>> {
        let Some(name) = absolute(&question.name) else {
            let fault = Fault::new(FailKind::BadAnswer, Arc::from(""));
            return Err(Box::new(Err(failed(fault, begun))));
        };
        if is_special(&name) {
            return Err(Box::new(Ok(nobodys(begun))));
        }
        Ok(Key {
            route: self.routes.find(&name).id.clone(),
            name,
            rtype: question.rtype,
            dnssec_ok: question.dnssec_ok,
            validate: question.validate,
        })
    }

    /// The answer of an entry that has ended.
    fn stale(&self, entry: &Entry, begun: Instant) -> Answer {
        self.stats.cache.stale.fetch_add(1, Relaxed);
        self.answer(entry, Source::Stale, begun)
    }

    fn answer(&self, entry: &Entry, source: Source, begun: Instant) -> Answer {
        let ttl = match source {
            Source::Stale => STALE_TTL,
            Source::Cache | Source::Upstream => entry.left((self.clock)()),
        };
        Answer {
            rcode: entry.rcode,
            records: entry.records.clone(),
            authority: entry.authority.clone(),
            authentic: entry.authentic,
            ttl,
            chain: entry.chain.clone(),
            source,
            upstream: entry.upstream.clone(),
            elapsed: begun.elapsed(),
        }
    }

    /// Joins the request for this that is under way, or makes it.
    async fn flight(self: &Arc<Self>, key: &Key) -> Landed {
        let request = || {
            let (inner, key) = (self.clone(), key.clone());
            async move {
                let landed = tokio::time::timeout(LONGEST, inner.fly(&key)).await;
                let fault = |_| Err(Fault::new(FailKind::Timeout, Arc::from("")));
                let landed = landed.unwrap_or_else(fault);
                if let Ok(entry) = &landed {
                    inner.cache.keep(key, entry);
                }
                landed
            }
        };
        match self.flights.join(key.clone(), MAX_FLIGHTS, request) {
            Joined::Earlier(flight) => {
                self.stats.cache.joined.fetch_add(1, Relaxed);
                flight.await
            }
            Joined::Begun(flight) => flight.await,
            Joined::Full => Err(Fault::new(FailKind::Timeout, Arc::from(""))),
        }
    }

    /// Asks, and asks again where a chain leads to a name that was not answered with it.
    async fn fly(&self, key: &Key) -> Landed {
        let mut name = key.name.clone();
        let (mut records, mut chain, mut ttl) = (Vec::new(), Vec::<DnsName>::new(), u32::MAX);
        let mut authentic = true;
        let mut upstream: Arc<str> = Arc::from("");
        loop {
            if is_special(&name) {
                // An alias to this machine stands for nothing.
                let mut entry = Entry::new(false, (self.clock)(), Duration::ZERO);
                entry.rcode = ResponseCode::NXDomain;
                entry.records = records.into();
                entry.chain = chain.iter().map(relative).collect();
                entry.upstream = upstream;
                return Ok(Arc::new(entry));
            }
            let route = self.routes.find(&name);
            let query = Query::query(name.clone(), key.rtype);
            let (message, label, validated) =
                route.ask(&query, key.dnssec_ok, key.validate).await?;
            let ours = |target: &DnsName| {
                !is_special(target) && Arc::ptr_eq(&self.routes.find(target), &route)
            };
            let part = reduce(&name, key.rtype, key.dnssec_ok, &message, ours)
                .map_err(|kind| Fault::new(kind, label.clone()))?;
            upstream = label;
            authentic &= validated && part.secure;
            ttl = ttl.min(part.ttl);
            records.extend(part.records);
            let met = |target: &DnsName| *target == key.name || chain.contains(target);
            if part.chain.iter().any(met) || chain.len() + part.chain.len() > MAX_CHAIN {
                return Err(Fault::new(FailKind::BadAnswer, upstream));
            }
            chain.extend(part.chain);
            let (rcode, life) = match part.end {
                End::Follow(next) => {
                    name = next;
                    continue;
                }
                End::Data => {
                    let ttl = Duration::from_secs(ttl.into());
                    (
                        ResponseCode::NoError,
                        ttl.max(self.min_ttl).min(self.max_ttl),
                    )
                }
                End::None { code, ttl: none } => {
                    let ttl = Duration::from_secs(none.unwrap_or(0).min(ttl).into());
                    (code, ttl.min(self.negative_max_ttl))
                }
            };
            let positive = matches!(part.end, End::Data);
            let mut entry = Entry::new(positive, (self.clock)(), life);
            entry.rcode = rcode;
            // Nothing at all is no proof.
            entry.authentic = authentic && !(records.is_empty() && part.authority.is_empty());
            entry.records = records.into();
            entry.authority = part.authority.into();
            entry.chain = chain.iter().map(relative).collect();
            entry.upstream = upstream;
            return Ok(Arc::new(entry));
        }
    }
}

/// The name with its dot, which keeps search domains off, in lower case.
fn absolute(name: &Name) -> Option<DnsName> {
    let bare = name.strip_suffix('.').unwrap_or(name);
    let name = DnsName::from_ascii(format!("{bare}.")).ok()?;
    Some(name.to_lowercase())
}

fn relative(name: &DnsName) -> Name {
    let text = name.to_ascii();
    Name::from(text.strip_suffix('.').unwrap_or(&text))
}

/// Names that no server may be asked for (RFC 6761, RFC 7686).
fn is_special(name: &DnsName) -> bool {
    name.iter().next_back().is_some_and(|top| {
        [&b"localhost"[..], b"onion", b"invalid"]
            .iter()
            .any(|special| top.eq_ignore_ascii_case(special))
    })
}

fn nobodys(begun: Instant) -> Answer {
    Answer {
        rcode: ResponseCode::NXDomain,
        records: Arc::new([]),
        authority: Arc::new([]),
        authentic: false,
        ttl: 0,
        chain: Vec::new(),
        source: Source::Cache,
        upstream: Arc::from(""),
        elapsed: begun.elapsed(),
    }
}

fn failed(fault: Fault, begun: Instant) -> Failed {
    Failed {
        kind: fault.kind,
        upstream: fault.upstream,
        elapsed: begun.elapsed(),
    }
}

/// The question of a name's addresses of one family, as the refresher asks it.
pub(super) fn plain(name: &Name, rtype: RecordType) -> Question {
    Question {
        name: name.clone(),
        rtype,
        dnssec_ok: false,
        validate: false,
    }
}

#[cfg(test)]
impl Resolver {
    /// Requests that are under way.
    pub(super) fn flights(&self) -> usize {
        self.inner.flights.len()
    }
}
