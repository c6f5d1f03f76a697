//! Settings of the resolver.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

const MAX_UPSTREAMS: usize = 8;
const MAX_ATTEMPTS: usize = 10;
const LONGEST_TIMEOUT: Duration = Duration::from_secs(60);
const LONGEST_RETRY: Duration = Duration::from_secs(3600);

/// Whom the daemon asks for names, and how patiently. Durations are written like `2s`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ResolverConfig {
    /// Servers as `address:port`, in the order to ask them: a later one is asked when
    /// those before it give no usable answer. Default none: the servers of
    /// `resolv_conf`, read again whenever that file changes.
    pub upstreams: Vec<SocketAddr>,
    /// Where the system's servers are listed. Only its `nameserver` lines are used.
    /// Default `/etc/resolv.conf`.
    pub resolv_conf: PathBuf,
    /// How long to wait for an answer to one attempt. Default 2 seconds.
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub timeout: Duration,
    /// Attempts with each server. Default 2.
    pub attempts: usize,
    /// Pause after the first failure of a name; it doubles with each further one.
    /// Default 1 second.
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub retry_initial: Duration,
    /// The longest such pause. Default 1 minute.
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub retry_max: Duration,
    /// Mix the case of letters in queries and require the same mix in answers, which
    /// makes them hard to forge. Turn it off for a server that changes the case and has
    /// no TCP. Default true.
    pub case_randomization: bool,
}

impl Default for ResolverConfig {
    fn default() -> Self {
        Self {
            upstreams: Vec::new(),
            resolv_conf: PathBuf::from("/etc/resolv.conf"),
            timeout: Duration::from_secs(2),
            attempts: 2,
            retry_initial: Duration::from_secs(1),
            retry_max: Duration::from_secs(60),
            case_randomization: true,
        }
    }
}

/// Resolver settings that cannot work.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ResolverConfigError {
    /// Too many servers.
    #[error("resolver.upstreams lists {0} servers: the most is {MAX_UPSTREAMS}")]
    Upstreams(usize),
    /// A server that cannot be sent to.
    #[error("resolver.upstreams lists {0}: give a server's address and a port above 0")]
    Upstream(SocketAddr),
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
}

impl ResolverConfig {
    /// Checks that the settings can work.
    ///
    /// # Errors
    /// The first that cannot.
    pub fn validate(&self) -> Result<(), ResolverConfigError> {
        if self.upstreams.len() > MAX_UPSTREAMS {
            return Err(ResolverConfigError::Upstreams(self.upstreams.len()));
        }
        for upstream in &self.upstreams {
            let ip = upstream.ip();
            if upstream.port() == 0 || ip.is_unspecified() || ip.is_multicast() {
                return Err(ResolverConfigError::Upstream(*upstream));
            }
        }
        if self.timeout.is_zero() || self.timeout > LONGEST_TIMEOUT {
            return Err(ResolverConfigError::Timeout(self.timeout));
        }
        if self.attempts == 0 || self.attempts > MAX_ATTEMPTS {
            return Err(ResolverConfigError::Attempts(self.attempts));
        }
        let (initial, max) = (self.retry_initial, self.retry_max);
        if initial.is_zero() || initial > max || max > LONGEST_RETRY {
            return Err(ResolverConfigError::Retry { initial, max });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_that_cannot_work_are_refused() {
        assert_eq!(ResolverConfig::default().validate(), Ok(()));
        type Edit = fn(&mut ResolverConfig);
        let cases: [(&str, Edit); 8] = [
            ("port 0", |c| c.upstreams = vec![([192, 0, 2, 1], 0).into()]),
            ("no address", |c| {
                c.upstreams = vec![([0, 0, 0, 0], 53).into()]
            }),
            ("nine servers", |c| {
                c.upstreams = vec![([192, 0, 2, 1], 53).into(); 9]
            }),
            ("no timeout", |c| c.timeout = Duration::ZERO),
            ("minutes", |c| c.timeout = Duration::from_secs(61)),
            ("no attempt", |c| c.attempts = 0),
            ("no pause", |c| c.retry_initial = Duration::ZERO),
            ("pauses reversed", |c| {
                c.retry_max = Duration::from_millis(999)
            }),
        ];
        for (what, edit) in cases {
            let mut config = ResolverConfig::default();
            edit(&mut config);
            assert!(config.validate().is_err(), "{what}");
        }
    }

    #[test]
    fn settings_are_read_and_unknown_keys_are_errors() {
        let text = "upstreams: [\"192.0.2.53:53\", \"[2001:db8::53]:5353\"]\ntimeout: 1s\n";
        let config: ResolverConfig = serde_saphyr::from_str(text).expect("settings");
        assert_eq!(config.upstreams.len(), 2);
        assert_eq!(config.timeout, Duration::from_secs(1));
        assert!(serde_saphyr::from_str::<ResolverConfig>("upstream: []\n").is_err());
    }
}
