//! Settings of the resolver.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Upstream, Zone, ZoneName};

/// The most servers in one list.
pub const MAX_UPSTREAMS: usize = 8;
/// The most zones with servers of their own.
pub const MAX_ZONES: usize = 64;
const MAX_ATTEMPTS: usize = 10;
const LONGEST_TIMEOUT: Duration = Duration::from_secs(60);
const LONGEST_RETRY: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(86_400);
/// RFC 2308 asks for no more than three hours.
const LONGEST_NEGATIVE: Duration = Duration::from_secs(3 * 3600);
/// RFC 8767 asks for one to three days at most.
const LONGEST_STALE: Duration = Duration::from_secs(3 * 86_400);

/// Whom the daemon asks for names, how patiently, and how long it remembers. Durations
/// are written like `2s`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ResolverConfig {
    /// Servers in the order to ask them: a later one is asked when those before it give
    /// no usable answer. Default none: the servers of `resolv_conf`, read again whenever
    /// that file changes.
    pub upstreams: Vec<Upstream>,
    /// Names with servers of their own. Default none.
    pub zones: Vec<Zone>,
    /// Certificates (PEM) of the authorities that may vouch for encrypted servers.
    /// Default none: those of the system.
    pub ca_file: Option<PathBuf>,
    /// Where the system's servers are listed. Only its `nameserver` lines are used.
    /// Default `/etc/resolv.conf`.
    pub resolv_conf: PathBuf,
    /// How long to wait for an answer to one attempt. Default 2 seconds.
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub timeout: Duration,
    /// Attempts with each server over UDP. Default 2.
    pub attempts: usize,
    /// Pause after the first failure of a name; it doubles with each further one.
    /// Default 1 second.
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub retry_initial: Duration,
    /// The longest such pause. Default 1 minute.
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub retry_max: Duration,
    /// Mix the case of letters in queries over UDP and require the same mix in answers,
    /// which makes them hard to forge. Turn it off for a server that changes the case and
    /// has no TCP. Default true.
    pub case_randomization: bool,
    /// The least time that an answer is kept. Default 5 seconds.
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub min_ttl: Duration,
    /// The most. Default 1 hour.
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub max_ttl: Duration,
    /// The longest that "there is none" is kept. Default 5 minutes.
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub negative_max_ttl: Duration,
    /// How long an answer that has ended is still given while no server answers; zero is
    /// never. Default 1 hour.
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub serve_stale: Duration,
}

impl Default for ResolverConfig {
    fn default() -> Self {
        Self {
            upstreams: Vec::new(),
            zones: Vec::new(),
            ca_file: None,
            resolv_conf: PathBuf::from("/etc/resolv.conf"),
            timeout: Duration::from_secs(2),
            attempts: 2,
            retry_initial: Duration::from_secs(1),
            retry_max: Duration::from_secs(60),
            case_randomization: true,
            min_ttl: Duration::from_secs(5),
            max_ttl: Duration::from_secs(3600),
            negative_max_ttl: Duration::from_secs(300),
            serve_stale: Duration::from_secs(3600),
        }
    }
}

/// Resolver settings that cannot work.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ResolverConfigError {
    /// Too many servers.
    #[error("resolver.upstreams lists {0} servers: the most is {MAX_UPSTREAMS}")]
    Upstreams(usize),
    /// Too many zones.
    #[error("resolver.zones lists {0} zones: the most is {MAX_ZONES}")]
    Zones(usize),
    /// A zone with no server, or too many.
    #[error(
        "resolver.zones: {zone} lists {servers} servers: write 1 to {MAX_UPSTREAMS}; a zone without servers would leave its names to nobody"
    )]
    ZoneUpstreams {
        /// The zone.
        zone: ZoneName,
        /// How many it lists.
        servers: usize,
    },
    /// A zone that is there twice.
    #[error("resolver.zones lists {0} twice: put its servers into one entry")]
    ZoneTwice(ZoneName),
    /// Authorities for nothing.
    #[error(
        "resolver.ca_file is set, but no server is tls:// or https://: leave it out, or encrypt the way to a server"
    )]
    CaUnused,
    /// The authorities cannot be read.
    #[error("resolver.ca_file: {path} cannot be used: {why}; it must be a PEM file of certificates", path = path.display())]
    CaFile {
        /// The file.
        path: PathBuf,
        /// What went wrong.
        why: String,
    },
    /// The system has no authorities.
    #[error(
        "no certificate authority of the system can be read ({0}), so no tls:// or https:// server can be trusted: install ca-certificates, or set resolver.ca_file"
    )]
    NoRoots(String),
    /// Out of range.
    #[error("resolver.timeout is {0:?}: it must be more than zero and at most {LONGEST_TIMEOUT:?}")]
    Timeout(Duration),
    /// Out of range.
    #[error("resolver.attempts is {0}: it must be 1 to {MAX_ATTEMPTS}")]
    Attempts(usize),
    /// Out of range or order.
    #[error(
        "resolver.retry_initial is {initial:?} and resolver.retry_max {max:?}: the first must be more than zero and not above the second, the second at most {LONGEST_RETRY:?}"
    )]
    Retry {
        /// As set.
        initial: Duration,
        /// As set.
        max: Duration,
    },
    /// Out of range or order.
    #[error(
        "resolver.min_ttl is {min:?} and resolver.max_ttl {max:?}: the first must not be above the second, the second at most {DAY:?}"
    )]
    Ttl {
        /// As set.
        min: Duration,
        /// As set.
        max: Duration,
    },
    /// Out of range.
    #[error("resolver.negative_max_ttl is {0:?}: the most is {LONGEST_NEGATIVE:?}")]
    Negative(Duration),
    /// Out of range.
    #[error("resolver.serve_stale is {0:?}: the most is {LONGEST_STALE:?}, and 0 turns it off")]
    Stale(Duration),
}

impl ResolverConfig {
    /// Checks that the settings can work.
    ///
    /// # Errors
    /// The first that cannot.
    pub fn validate(&self) -> Result<(), ResolverConfigError> {
        use ResolverConfigError as Error;
        if self.upstreams.len() > MAX_UPSTREAMS {
            return Err(Error::Upstreams(self.upstreams.len()));
        }
        self.validate_zones()?;
        if self.ca_file.is_some() && !self.is_encrypted() {
            return Err(Error::CaUnused);
        }
        if self.timeout.is_zero() || self.timeout > LONGEST_TIMEOUT {
            return Err(Error::Timeout(self.timeout));
        }
        if self.attempts == 0 || self.attempts > MAX_ATTEMPTS {
            return Err(Error::Attempts(self.attempts));
        }
        let (initial, max) = (self.retry_initial, self.retry_max);
        if initial.is_zero() || initial > max || max > LONGEST_RETRY {
            return Err(Error::Retry { initial, max });
        }
        let (min, max) = (self.min_ttl, self.max_ttl);
        if min > max || max > DAY {
            return Err(Error::Ttl { min, max });
        }
        if self.negative_max_ttl > LONGEST_NEGATIVE {
            return Err(Error::Negative(self.negative_max_ttl));
        }
        if self.serve_stale > LONGEST_STALE {
            return Err(Error::Stale(self.serve_stale));
        }
        Ok(())
    }

    fn validate_zones(&self) -> Result<(), ResolverConfigError> {
        if self.zones.len() > MAX_ZONES {
            return Err(ResolverConfigError::Zones(self.zones.len()));
        }
        for (n, zone) in self.zones.iter().enumerate() {
            let servers = zone.upstreams.len();
            if servers == 0 || servers > MAX_UPSTREAMS {
                let zone = zone.zone.clone();
                return Err(ResolverConfigError::ZoneUpstreams { zone, servers });
            }
            if self.zones[..n].iter().any(|other| other.zone == zone.zone) {
                return Err(ResolverConfigError::ZoneTwice(zone.zone.clone()));
            }
        }
        Ok(())
    }

    /// Whether any server is reached by TLS.
    pub fn is_encrypted(&self) -> bool {
        let zones = self.zones.iter().flat_map(|zone| &zone.upstreams);
        self.upstreams
            .iter()
            .chain(zones)
            .any(Upstream::is_encrypted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn zone(name: &str, servers: usize) -> Zone {
        Zone {
            zone: ZoneName::try_from(name.to_owned()).expect("zone"),
            upstreams: vec![Upstream::Plain(([192, 0, 2, 1], 53).into()); servers],
            insecure: false,
        }
    }

    #[test]
    fn settings_that_cannot_work_are_refused() {
        assert_eq!(ResolverConfig::default().validate(), Ok(()));
        type Edit = fn(&mut ResolverConfig);
        let cases: [(&str, Edit); 14] = [
            ("the most is 8", |c| {
                c.upstreams = vec![Upstream::Plain(([192, 0, 2, 1], 53).into()); 9]
            }),
            ("the most is 64", |c| {
                c.zones = (0..65).map(|n| zone(&format!("z{n}"), 1)).collect()
            }),
            ("corp.example lists 0 servers", |c| {
                c.zones = vec![zone("corp.example", 0)]
            }),
            ("corp.example lists 9 servers", |c| {
                c.zones = vec![zone("corp.example", 9)]
            }),
            ("corp.example twice", |c| {
                c.zones = vec![zone("corp.example", 1), zone("Corp.example.", 1)]
            }),
            ("no server is tls://", |c| c.ca_file = Some("/ca".into())),
            ("resolver.timeout", |c| c.timeout = Duration::ZERO),
            ("resolver.timeout", |c| c.timeout = Duration::from_secs(61)),
            ("resolver.attempts", |c| c.attempts = 0),
            ("resolver.retry_initial", |c| {
                c.retry_initial = Duration::ZERO
            }),
            ("resolver.retry_initial", |c| {
                c.retry_max = Duration::from_millis(999)
            }),
            ("resolver.min_ttl", |c| c.max_ttl = Duration::from_secs(4)),
            ("resolver.negative_max_ttl", |c| {
                c.negative_max_ttl = Duration::from_secs(10_801)
            }),
            ("resolver.serve_stale", |c| {
                c.serve_stale = Duration::from_secs(259_201)
            }),
        ];
        for (what, edit) in cases {
            let mut config = ResolverConfig::default();
            edit(&mut config);
            let error = config.validate().expect_err(what).to_string();
            assert!(error.contains(what), "{what}: {error}");
        }
    }

    #[test]
    fn settings_are_read_and_unknown_keys_are_errors() {
        let text = "upstreams: [\"192.0.2.53:53\", \"tls://192.0.2.54#dns.example\"]\ntimeout: 1s\n\
                    zones: [{zone: corp.example, upstreams: [192.0.2.1]}]\nserve_stale: 0s\n";
        let config: ResolverConfig = serde_saphyr::from_str(text).expect("settings");
        assert_eq!(config.upstreams.len(), 2);
        assert!(config.is_encrypted());
        assert_eq!(config.timeout, Duration::from_secs(1));
        assert_eq!(config.zones, [zone("corp.example", 1)]);
        assert_eq!(config.serve_stale, Duration::ZERO);
        for bad in [
            "upstream: []\n",
            "zones: [{zone: a, upstreams: [], x: 1}]\n",
        ] {
            assert!(
                serde_saphyr::from_str::<ResolverConfig>(bad).is_err(),
                "{bad}"
            );
        }
    }
}
