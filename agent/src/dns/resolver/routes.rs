//! Which servers a name is asked of: those of its zone, or the general ones, which are
//! the configuration's or the system's.

use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hickory_proto::dnssec::TrustAnchors;
use hickory_proto::rr::Name as DnsName;
use hickory_resolver::config::ResolverConfig as HickoryConfig;
use hickory_resolver::net::NetError;
use hickory_resolver::system_conf::parse_resolv_conf;
use rustls::ClientConfig;

use super::route::{Route, Servers};
use super::server::Server;
use super::validate::Validator;
use super::{ResolverConfig, ResolverConfigError, Upstream, ZoneName, tls};
use crate::dns::clock::Clock;
use crate::dns::stats::DnsStats;

/// The port of servers in `resolv.conf`.
const DNS_PORT: u16 = 53;

/// The most servers taken from `resolv.conf`, as in the C library.
const MAX_SYSTEM_UPSTREAMS: usize = 3;

/// What `resolv.conf` was when it was read: device, inode, size, time of change in
/// seconds and nanoseconds. It is often replaced as a whole, or a link that moves.
type Stamp = Option<(u64, u64, u64, i64, i64)>;

struct System {
    stamp: Stamp,
    route: Option<Arc<Route>>,
}

enum General {
    Fixed(Arc<Route>),
    System,
}

pub(super) struct Routes {
    config: ResolverConfig,
    /// The longest names first.
    zones: Vec<(ZoneName, Arc<Route>)>,
    general: General,
    system: Mutex<System>,
    /// Until when the system's servers are asked whatever is configured: milliseconds since
    /// boot.
    portal: AtomicU64,
    tls: Option<Arc<ClientConfig>>,
    anchors: Arc<TrustAnchors>,
    clock: Clock,
    stats: Arc<DnsStats>,
}

impl Routes {
    pub(super) fn new(
        config: ResolverConfig,
        stats: Arc<DnsStats>,
        clock: Clock,
        anchors: TrustAnchors,
    ) -> Result<Self, ResolverConfigError> {
        config.validate()?;
        let mut routes = Self {
            tls: tls::client(&config)?,
            zones: Vec::new(),
            general: General::System,
            system: Mutex::new(System {
                stamp: None,
                route: None,
            }),
            portal: AtomicU64::new(0),
            anchors: Arc::new(anchors),
            config,
            clock,
            stats,
        };
        let mut zones: Vec<_> = routes
            .config
            .zones
            .iter()
            .map(|zone| {
                let name = zone.zone.to_string();
                let route = routes.route(&name, &zone.upstreams, zone.insecure);
                (zone.zone.clone(), route)
            })
            .collect();
        zones.sort_by_key(|(zone, _)| std::cmp::Reverse(zone.depth()));
        routes.zones = zones;
        if !routes.config.upstreams.is_empty() {
            let route = routes.route(".", &routes.config.upstreams, false);
            routes.general = General::Fixed(route);
        }
        Ok(routes)
    }

    /// The system's servers are asked until then, whatever is configured; `None`: not any more.
    pub(super) fn ask_the_network(&self, until: Option<Duration>) {
        let until = until.map_or(0, |until| until.as_millis());
        self.portal
            .store(u64::try_from(until).unwrap_or(u64::MAX), Relaxed);
    }

    fn route(&self, zone: &str, upstreams: &[Upstream], insecure: bool) -> Arc<Route> {
        let server = |way: &Upstream| {
            let clock = self.clock.clone();
            Server::new(
                way.clone(),
                &self.config,
                self.tls.as_ref(),
                clock,
                &self.stats,
            )
        };
        let servers = Servers::new(upstreams.iter().map(server).collect(), self.clock.clone());
        let validator =
            (!insecure).then(|| Validator::new(self.anchors.clone(), self.clock.clone()));
        Arc::new(Route::new(zone, servers, validator))
    }

    /// The servers for a name: those of the longest zone that holds it, else the general
    /// ones.
    pub(super) fn find(&self, name: &DnsName) -> Arc<Route> {
        let zone = self.zones.iter().find(|(zone, _)| zone.holds(name));
        match zone {
            Some((_, route)) => route.clone(),
            None => self.general(),
        }
    }

    /// Every route in force, the general one last.
    pub(super) fn all(&self) -> Vec<Arc<Route>> {
        let zones = self.zones.iter().map(|(_, route)| route.clone());
        zones.chain([self.general()]).collect()
    }

    /// The general servers. Costs a `stat` when they are the system's: a laptop's servers
    /// change with its network.
    pub(super) fn general(&self) -> Arc<Route> {
        let until = Duration::from_millis(self.portal.load(Relaxed));
        if let General::Fixed(route) = &self.general
            && (until.is_zero() || (self.clock)() >= until)
        {
            return route.clone();
        }
        let mut system = self.system.lock().unwrap_or_else(PoisonError::into_inner);
        let path = &self.config.resolv_conf;
        let stamp: Stamp = std::fs::metadata(path)
            .ok()
            .map(|m| (m.dev(), m.ino(), m.size(), m.mtime(), m.mtime_nsec()));
        if let Some(route) = &system.route
            && system.stamp == stamp
        {
            return route.clone();
        }
        let found = std::fs::read(path)
            .map_err(NetError::from)
            .and_then(|text| {
                let (config, _) = parse_resolv_conf(text)?;
                Ok(system_servers(&config))
            });
        let servers = found.unwrap_or_else(|error| {
            tracing::warn!(path = %path.display(), %error, "no DNS servers can be read: names of the policies will not be resolved until this file lists some");
            Vec::new()
        });
        tracing::info!(path = %path.display(), ?servers, "DNS servers of the system");
        let upstreams: Vec<_> = servers.into_iter().map(Upstream::Plain).collect();
        let route = self.route(".", &upstreams, false);
        system.stamp = stamp;
        system.route = Some(route.clone());
        route
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
