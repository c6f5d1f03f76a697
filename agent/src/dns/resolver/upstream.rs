//! The servers that the daemon asks, by hickory.
//!
//! One hickory resolver a server, so that durations and failures are counted where they
//! belong, and the order of the servers is kept. hickory's cache is off: it would answer
//! a refresh from what the last one brought.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::MetadataExt;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::{Name as DnsName, RData, Record, RecordType};
use hickory_resolver::TokioResolver;
use hickory_resolver::config::{
    ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig as HickoryConfig,
};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::system_conf::parse_resolv_conf;

use super::{Found, Lookup, MAX_LOOKUPS, Resolution, ResolverConfig, ResolverConfigError};
use crate::dns::stats::{DnsStats, UpstreamStats};
use crate::leases::{FailKind, Name, canonical};

/// The port of servers in `resolv.conf`.
const DNS_PORT: u16 = 53;

/// The most servers taken from `resolv.conf`, as in the C library.
const MAX_SYSTEM_UPSTREAMS: usize = 3;

/// The longest chain of aliases that is followed.
const MAX_CHAIN: usize = 16;

/// Beyond hickory's own timeouts, which it does not apply to waiting for a busy
/// connection.
const SLACK: Duration = Duration::from_secs(1);

struct Upstream {
    label: Arc<str>,
    resolver: TokioResolver,
    stats: Arc<UpstreamStats>,
}

/// What `resolv.conf` was when it was read: device, inode, size, time of change in
/// seconds and nanoseconds. It is often replaced as a whole, or a link that moves.
type Stamp = Option<(u64, u64, u64, i64, i64)>;

struct System {
    stamp: Stamp,
    read: bool,
    servers: Arc<[Upstream]>,
}

enum Servers {
    Fixed(Arc<[Upstream]>),
    System(Mutex<System>),
}

/// The servers that the daemon asks.
pub struct Upstreams {
    config: ResolverConfig,
    servers: Servers,
    stats: Arc<DnsStats>,
}

impl Upstreams {
    /// The configured servers, or those of the system.
    ///
    /// # Errors
    /// When the configuration cannot work. A `resolv.conf` that is missing or names no
    /// server is no error here: names fail with [`FailKind::NoUpstream`] until it does.
    pub fn new(config: ResolverConfig, stats: Arc<DnsStats>) -> Result<Self, ResolverConfigError> {
        config.validate()?;
        let servers = if config.upstreams.is_empty() {
            Servers::System(Mutex::new(System {
                stamp: None,
                read: false,
                servers: Arc::new([]),
            }))
        } else {
            Servers::Fixed(build(&config, &config.upstreams, &stats))
        };
        Ok(Self {
            config,
            servers,
            stats,
        })
    }

    /// The servers in force, `address:port`, in the order they are asked.
    pub fn labels(&self) -> Vec<String> {
        self.current()
            .iter()
            .map(|up| up.label.to_string())
            .collect()
    }

    /// The servers to ask now. Costs a `stat` when they are the system's: a laptop's
    /// servers change with its network.
    fn current(&self) -> Arc<[Upstream]> {
        let system = match &self.servers {
            Servers::Fixed(servers) => return servers.clone(),
            Servers::System(system) => system,
        };
        let mut system = system.lock().unwrap_or_else(PoisonError::into_inner);
        let path = &self.config.resolv_conf;
        let stamp: Stamp = std::fs::metadata(path)
            .ok()
            .map(|m| (m.dev(), m.ino(), m.size(), m.mtime(), m.mtime_nsec()));
        if !system.read || system.stamp != stamp {
            let found = std::fs::read(path)
                .map_err(NetError::from)
                .and_then(|text| {
                    let (config, _) = parse_resolv_conf(text)?;
                    Ok(system_servers(&config))
                });
            let addresses = found.unwrap_or_else(|error| {
                tracing::warn!(path = %path.display(), %error, "no DNS servers can be read: names of the policies will not be resolved until this file lists some");
                Vec::new()
            });
            system.servers = build(&self.config, &addresses, &self.stats);
            system.stamp = stamp;
            system.read = true;
            let servers: Vec<_> = system.servers.iter().map(|up| up.label.as_ref()).collect();
            tracing::info!(path = %path.display(), ?servers, "DNS servers of the system");
        }
        system.servers.clone()
    }

    async fn ask(&self, upstream: &Upstream, name: &DnsName) -> Found {
        let (v4, v6) = tokio::join!(
            self.ask_family(upstream, name, RecordType::A),
            self.ask_family(upstream, name, RecordType::AAAA),
        );
        merge(v4, v6)
    }

    async fn ask_family(&self, upstream: &Upstream, name: &DnsName, family: RecordType) -> Found {
        let attempts = u32::try_from(self.config.attempts).unwrap_or(u32::MAX);
        let limit = self.config.timeout.saturating_mul(attempts) + SLACK;
        let begun = Instant::now();
        let looked_up = upstream.resolver.lookup(name.clone(), family);
        let result = match tokio::time::timeout(limit, looked_up).await {
            Ok(Ok(lookup)) => self.guard(follow(name, lookup.answers())),
            Ok(Err(error)) => {
                tracing::debug!(%name, %family, upstream = %upstream.label, %error, "a look-up failed");
                Err(kind(&error))
            }
            Err(_) => Err(FailKind::Timeout),
        };
        upstream.stats.request(begun.elapsed());
        match &result {
            Ok(_) | Err(FailKind::NoAddresses) => {}
            Err(kind) => upstream.stats.failure(*kind),
        }
        result
    }

    /// Drops and counts addresses that no name may stand for. The leases would drop them
    /// too; here it is known who gave them.
    fn guard(&self, found: Vec<(IpAddr, u32)>) -> Found {
        let total = found.len();
        let kept: Vec<_> = found
            .into_iter()
            .filter_map(|(addr, ttl)| Some((canonical(addr, true)?, ttl)))
            .collect();
        let dropped = total - kept.len();
        self.stats.rebind_dropped.fetch_add(dropped as u64, Relaxed);
        match (kept.is_empty(), dropped) {
            (false, _) => Ok(kept),
            (true, 0) => Err(FailKind::NoAddresses),
            (true, _) => Err(FailKind::Rebind),
        }
    }
}

impl Lookup for Upstreams {
    async fn lookup(&self, name: Name) -> Resolution {
        let begun = Instant::now();
        let mut resolution = Resolution {
            name: name.clone(),
            result: Err(FailKind::NoUpstream),
            upstream: String::new(),
            elapsed: Duration::ZERO,
        };
        // The dot makes it absolute, which keeps search domains off.
        match DnsName::from_ascii(format!("{name}.")) {
            Ok(absolute) => {
                for upstream in self.current().iter() {
                    resolution.result = self.ask(upstream, &absolute).await;
                    resolution.upstream = upstream.label.to_string();
                    if is_final(&resolution.result) {
                        break;
                    }
                }
            }
            Err(_) => resolution.result = Err(FailKind::BadAnswer),
        }
        resolution.elapsed = begun.elapsed();
        resolution
    }
}

/// Whether the next server has nothing to add.
fn is_final(result: &Found) -> bool {
    match result {
        Ok(_) | Err(FailKind::NxDomain | FailKind::NoAddresses | FailKind::Rebind) => true,
        Err(
            FailKind::ServFail
            | FailKind::Refused
            | FailKind::Timeout
            | FailKind::Network
            | FailKind::NoUpstream
            | FailKind::BadAnswer,
        ) => false,
    }
}

fn system_servers(config: &HickoryConfig) -> Vec<SocketAddr> {
    config
        .name_servers()
        .iter()
        .take(MAX_SYSTEM_UPSTREAMS)
        .map(|server| SocketAddr::new(server.ip, DNS_PORT))
        .collect()
}

fn build(config: &ResolverConfig, servers: &[SocketAddr], stats: &DnsStats) -> Arc<[Upstream]> {
    servers
        .iter()
        .filter_map(|server| {
            let label: Arc<str> = Arc::from(server.to_string());
            match resolver(config, *server) {
                Ok(resolver) => Some(Upstream {
                    stats: stats.upstream(&label),
                    label,
                    resolver,
                }),
                Err(error) => {
                    tracing::error!(upstream = %label, %error, "this DNS server will not be asked");
                    None
                }
            }
        })
        .collect()
}

fn resolver(config: &ResolverConfig, server: SocketAddr) -> Result<TokioResolver, NetError> {
    let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(|mut connection| {
        connection.port = server.port();
        connection
    });
    let server = NameServerConfig::new(server.ip(), true, connections.to_vec());
    let mut builder = TokioResolver::builder_with_config(
        HickoryConfig::from_name_servers(vec![server]),
        TokioRuntimeProvider::default(),
    );
    let options = builder.options_mut();
    options.timeout = config.timeout;
    // hickory counts attempts after the first.
    options.attempts = config.attempts.saturating_sub(1);
    options.cache_size = 0;
    options.use_hosts_file = ResolveHosts::Never;
    options.preserve_intermediates = true;
    options.case_randomization = config.case_randomization;
    options.num_concurrent_reqs = 1;
    // Both families of every look-up may share one TCP connection.
    options.max_active_requests = 2 * MAX_LOOKUPS;
    builder.build()
}

/// The addresses that the answer gives the name, by its chain of aliases. Records of
/// other names are left alone, whoever put them there. Each TTL is the shortest on its
/// way.
fn follow(name: &DnsName, records: &[Record]) -> Vec<(IpAddr, u32)> {
    let mut owners: BTreeMap<DnsName, u32> = BTreeMap::from([(name.to_lowercase(), u32::MAX)]);
    let mut current = name.to_lowercase();
    let mut ttl = u32::MAX;
    for _ in 0..MAX_CHAIN {
        let alias = records.iter().find_map(|record| match &record.data {
            RData::CNAME(target) if record.name == current => Some((target, record.ttl)),
            _ => None,
        });
        let Some((target, alias_ttl)) = alias else {
            break;
        };
        ttl = ttl.min(alias_ttl);
        current = target.to_lowercase();
        if owners.contains_key(&current) {
            break;
        }
        owners.insert(current.clone(), ttl);
    }
    records
        .iter()
        .filter_map(|record| {
            let addr = match &record.data {
                RData::A(a) => IpAddr::V4(a.0),
                RData::AAAA(a) => IpAddr::V6(a.0),
                _ => return None,
            };
            let chain_ttl = owners.get(&record.name.to_lowercase())?;
            Some((addr, record.ttl.min(*chain_ttl)))
        })
        .collect()
}

/// Both families of one server: addresses of either are a success. Otherwise what is
/// certain comes before what may pass, and what may pass before "no addresses".
fn merge(v4: Found, v6: Found) -> Found {
    match (v4, v6) {
        (Ok(mut v4), Ok(v6)) => {
            v4.extend(v6);
            Ok(v4)
        }
        (Ok(some), Err(_)) | (Err(_), Ok(some)) => Ok(some),
        (Err(FailKind::NxDomain), Err(_)) | (Err(_), Err(FailKind::NxDomain)) => {
            Err(FailKind::NxDomain)
        }
        (Err(FailKind::NoAddresses), Err(other)) => Err(other),
        (Err(kind), Err(_)) => Err(kind),
    }
}

fn kind(error: &NetError) -> FailKind {
    match error {
        NetError::Timeout => FailKind::Timeout,
        NetError::Io(_) | NetError::NoConnections | NetError::Busy => FailKind::Network,
        NetError::Dns(DnsError::NoRecordsFound(none)) => match none.response_code {
            ResponseCode::NXDomain => FailKind::NxDomain,
            ResponseCode::NoError => FailKind::NoAddresses,
            _ => FailKind::BadAnswer,
        },
        NetError::Dns(DnsError::ResponseCode(ResponseCode::ServFail)) => FailKind::ServFail,
        NetError::Dns(DnsError::ResponseCode(ResponseCode::Refused)) => FailKind::Refused,
        _ => FailKind::BadAnswer,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hickory_proto::rr::rdata::{A, CNAME};

    fn name(s: &str) -> DnsName {
        DnsName::from_ascii(s).expect("name")
    }

    fn a(owner: &str, ttl: u32, last: u8) -> Record {
        Record::from_rdata(name(owner), ttl, RData::A(A::new(192, 0, 2, last)))
    }

    fn alias(owner: &str, ttl: u32, target: &str) -> Record {
        Record::from_rdata(name(owner), ttl, RData::CNAME(CNAME(name(target))))
    }

    fn ip(last: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, last])
    }

    #[test]
    fn aliases_are_followed_in_any_order_with_the_shortest_ttl() {
        let records = [
            a("c.example.", 300, 1),
            alias("b.example.", 20, "C.example."),
            alias("A.example.", 60, "b.example."),
        ];
        assert_eq!(follow(&name("a.example."), &records), [(ip(1), 20)]);
    }

    #[test]
    fn records_of_other_names_are_left_alone() {
        let records = [
            a("a.example.", 60, 1),
            a("evil.example.", 60, 2),
            alias("evil.example.", 60, "a.example."),
        ];
        assert_eq!(follow(&name("a.example."), &records), [(ip(1), 60)]);
    }

    #[test]
    fn a_loop_of_aliases_ends() {
        let records = [
            alias("a.example.", 60, "b.example."),
            alias("b.example.", 60, "a.example."),
        ];
        assert_eq!(follow(&name("a.example."), &records), []);
    }

    #[test]
    fn hickory_reads_no_hosts_file_and_keeps_nothing() {
        let server = SocketAddr::from(([192, 0, 2, 53], 53));
        let resolver = resolver(&ResolverConfig::default(), server).expect("built");
        let options = resolver.options();
        assert_eq!(options.use_hosts_file, ResolveHosts::Never);
        assert_eq!(options.cache_size, 0);
        assert_eq!(options.attempts, 1, "after the first");
    }

    #[test]
    fn one_family_is_enough_and_certainty_comes_first() {
        use FailKind::{NoAddresses, NxDomain, ServFail, Timeout};
        let some = || Ok(vec![(ip(1), 60)]);
        assert_eq!(merge(some(), Err(Timeout)), some());
        assert_eq!(merge(Err(NoAddresses), some()), some());
        assert_eq!(merge(Err(Timeout), Err(NxDomain)), Err(NxDomain));
        assert_eq!(merge(Err(NoAddresses), Err(ServFail)), Err(ServFail));
        assert_eq!(merge(Err(ServFail), Err(NoAddresses)), Err(ServFail));
        assert_eq!(merge(Err(NoAddresses), Err(NoAddresses)), Err(NoAddresses));
    }
}
