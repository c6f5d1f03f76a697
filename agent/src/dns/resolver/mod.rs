//! The daemon's own look-ups: every name of the policies, again before its TTL ends.
//!
//! Names are absolute: no search domain is ever appended. `/etc/hosts` is not read: it
//! would let anything that may write there (a container tool, an installer) widen what
//! agents may reach, with no TTL to end it, and its usual entries are loopback, which
//! no name may stand for. A machine-local name belongs into a policy as an address.
//! `localhost` and what is below it never resolve, for the same reason.

mod config;
mod refresh;
#[cfg(test)]
mod refresh_tests;
mod upstream;
#[cfg(test)]
mod upstream_tests;

use std::future::Future;
use std::net::IpAddr;
use std::time::Duration;

pub use config::{ResolverConfig, ResolverConfigError};
pub use refresh::{MAX_LOOKUPS, Pace, RefreshHandle, Refresher};
pub use upstream::Upstreams;

use crate::leases::{FailKind, Name};

/// The addresses of a name, each with its TTL in seconds (never empty), or why there are
/// none.
pub type Found = Result<Vec<(IpAddr, u32)>, FailKind>;

/// What came of resolving a name.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Resolution {
    /// The name.
    pub name: Name,
    /// Its addresses, or why there are none.
    pub result: Found,
    /// The server that said so last, `address:port`; empty when none is configured.
    pub upstream: String,
    /// How long it took, over all servers and attempts.
    pub elapsed: Duration,
}

/// Resolves one name; [`Upstreams`] does, and tests bring their own.
pub trait Lookup: Send + Sync + 'static {
    /// Resolves the name's A and AAAA records.
    fn lookup(&self, name: Name) -> impl Future<Output = Resolution> + Send;
}
