//! Bounds and times of leases.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The longest TTL that the gate gives to a client. Short, so that a client asks again
/// well before the addresses that it was given can end.
pub const CLIENT_TTL: Duration = Duration::from_secs(30);

/// How long an address that was granted can not be taken for the sake of another one, if
/// its TTL is not shorter: so long that for [`CLIENT_TTL`] the gate may answer from it
/// without asking again, and give [`CLIENT_TTL`] each time.
const PROMISE: Duration = Duration::from_secs(60);
/// An answer with a TTL of 0 is used once: in this time, or in the grace after it.
const LEAST_PROMISE: Duration = Duration::from_secs(1);

/// A day: beyond it a "lease" would outlive any reason to believe in it.
const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);

/// All must stay within what the kernel's address tables may hold.
const MOST_NAMES: usize = 65_536;
const MOST_ADDRESSES: usize = 65_536;
const MOST_ADDRESSES_PER_NAME: usize = 1024;

/// How long addresses stay leased and how many there may be. Durations are written like
/// `10m` or `1h 30m`.
///
/// The bounds are an agent's own, so that no agent can fill what another needs. A lease
/// takes about 1.1 KB of the daemon's memory, with everything that is kept of it for events
/// and gates, and 160 bytes of the kernel's (80 in each of the two banks). So an agent that
/// fills the default bounds takes about 20 MB, one with a hundred leases 130 KB. The kernel's
/// part of what may come is taken when a policy comes into force: with a wildcard, whose names
/// nobody knows, that is all of it (2.6 MB by default).
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LeaseConfig {
    /// How long an address stays usable after the TTL of the last answer that held it
    /// has ended. Sockets that are open keep working meanwhile. Default 10 minutes.
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub grace: Duration,
    /// The least time between two refreshes of a name, however short its TTL. Default
    /// 5 seconds.
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub min_ttl: Duration,
    /// A TTL above this counts as this. Default 1 hour.
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub max_ttl: Duration,
    /// The most addresses that a name of an agent holds at once. Default 256: names that
    /// rotate through a hundred or two are common.
    pub max_addresses_per_name: usize,
    /// The most names of an agent that hold addresses. Default 4096.
    pub max_names: usize,
    /// The most addresses of an agent, over all its names; one that two names stand for
    /// counts twice. Default 16384.
    pub max_addresses: usize,
}

impl Default for LeaseConfig {
    fn default() -> Self {
        Self {
            grace: Duration::from_secs(600),
            min_ttl: Duration::from_secs(5),
            max_ttl: Duration::from_secs(3600),
            max_addresses_per_name: 256,
            max_names: 4096,
            max_addresses: 16_384,
        }
    }
}

/// Lease settings that contradict each other.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum LeaseConfigError {
    /// Leases could end between two refreshes.
    #[error("leases.grace is {grace:?}: it must be longer than leases.min_ttl, {min_ttl:?}")]
    GraceBelowMinTtl {
        /// As set.
        grace: Duration,
        /// As set.
        min_ttl: Duration,
    },
    /// No TTL fits.
    #[error(
        "leases.min_ttl is {min_ttl:?} and leases.max_ttl {max_ttl:?}: the first must be more than zero and not above the second"
    )]
    Ttl {
        /// As set.
        min_ttl: Duration,
        /// As set.
        max_ttl: Duration,
    },
    /// Longer than a day.
    #[error("leases.{0} is {1:?}: the longest is {LONGEST:?}")]
    TooLong(&'static str, Duration),
    /// A number out of its range.
    #[error("leases.{what} is {given}: it must be 1 to {most}")]
    Count {
        /// The key.
        what: &'static str,
        /// As set.
        given: usize,
        /// The highest that is allowed.
        most: usize,
    },
}

impl LeaseConfig {
    /// Checks that the settings go together.
    ///
    /// # Errors
    /// The first contradiction found.
    pub fn validate(&self) -> Result<(), LeaseConfigError> {
        if self.grace <= self.min_ttl {
            return Err(LeaseConfigError::GraceBelowMinTtl {
                grace: self.grace,
                min_ttl: self.min_ttl,
            });
        }
        if self.min_ttl.is_zero() || self.min_ttl > self.max_ttl {
            return Err(LeaseConfigError::Ttl {
                min_ttl: self.min_ttl,
                max_ttl: self.max_ttl,
            });
        }
        for (what, duration) in [("grace", self.grace), ("max_ttl", self.max_ttl)] {
            if duration > LONGEST {
                return Err(LeaseConfigError::TooLong(what, duration));
            }
        }
        for (what, given, most) in [
            (
                "max_addresses_per_name",
                self.max_addresses_per_name,
                MOST_ADDRESSES_PER_NAME,
            ),
            ("max_names", self.max_names, MOST_NAMES),
            ("max_addresses", self.max_addresses, MOST_ADDRESSES),
        ] {
            if given == 0 || given > most {
                return Err(LeaseConfigError::Count { what, given, most });
            }
        }
        Ok(())
    }

    /// How long after an answer with this TTL (seconds) a name should be asked again, at
    /// the latest.
    pub fn refresh_interval(&self, ttl: u32) -> Duration {
        Duration::from_secs(u64::from(ttl)).clamp(self.min_ttl, self.max_ttl)
    }

    /// How long an address of an answer with this TTL (seconds) can not be evicted: at
    /// least as long as any client may keep it.
    pub(super) fn promise(&self, ttl: u32) -> Duration {
        Duration::from_secs(ttl.into()).clamp(LEAST_PROMISE, PROMISE)
    }

    /// How long an address of an answer with this TTL (seconds) is leased.
    pub(super) fn lifetime(&self, ttl: u32) -> Duration {
        Duration::from_secs(ttl.into())
            .min(self.max_ttl)
            .max(self.promise(ttl))
            + self.grace
    }
}
