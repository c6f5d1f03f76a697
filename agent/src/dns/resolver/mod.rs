//! Who is asked for a name, what is believed of the answer, and how long.
//!
//! ```text
//! Question ─→ cache ─→ flight (one for all who ask the same) ─→ route (by zone)
//!                ↑                                                │ servers in order
//!             Answer ←─ reduce (the asked name's chain only) ←─ hickory ─→ upstream
//! ```
//!
//! Names are absolute: no search domain is ever appended. `/etc/hosts` is not read: it
//! would let anything that may write there (a container tool, an installer) widen what
//! agents may reach, with no TTL to end it, and its usual entries are loopback, which
//! no name may stand for. A machine-local name belongs into a policy as an address.
//! `localhost` and what is below it never resolve, for the same reason.

mod ask;
#[cfg(test)]
mod ask_tests;
mod cache;
mod config;
#[cfg(test)]
mod dnssec_tests;
mod health;
#[cfg(test)]
mod hostile_tests;
mod reduce;
#[cfg(test)]
mod reduce_tests;
mod refresh;
#[cfg(test)]
mod refresh_tests;
mod route;
mod routes;
#[cfg(test)]
mod secure_tests;
mod server;
mod socket;
mod target;
mod tls;
mod upstream;
#[cfg(test)]
mod upstream_tests;
mod validate;
mod zone;

use std::future::Future;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::{Record, RecordType};

pub use ask::{MAX_FLIGHTS, MAX_PREFETCHES, Prefetch, Resolver, ServerState};
pub use cache::{MAX_CACHE_BYTES, MAX_CACHE_ENTRIES, STALE_TTL};
pub use config::{MAX_UPSTREAMS, MAX_ZONES, ResolverConfig, ResolverConfigError};
pub use reduce::MAX_CHAIN;
pub use refresh::{MAX_LOOKUPS, Pace, RefreshHandle, Refresher};
pub use target::Upstream;
pub use upstream::{Upstreams, addresses, merge};
pub use zone::{Zone, ZoneName};

use crate::leases::{FailKind, Name};

/// What is asked; its class is always IN.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Question {
    /// The name.
    pub name: Name,
    /// The type of the records.
    pub rtype: RecordType,
    /// Ask for signatures and proofs (EDNS DO), and keep them in the answer.
    pub dnssec_ok: bool,
    /// Check signatures up to the root's keys; what does not hold fails.
    pub validate: bool,
}

/// What a server said, reduced to what was asked.
#[derive(Clone, PartialEq, Debug)]
pub struct Answer {
    /// NOERROR or NXDOMAIN; everything else is a [`Failed`].
    pub rcode: ResponseCode,
    /// The chain from the asked name (CNAME; a DNAME with the CNAME that it makes), in
    /// order, then the data at its end; with `dnssec_ok` their signatures. Owners are in
    /// lower case. Nothing about other names. Their TTLs are those that the server gave:
    /// a client is told no more than [`Answer::ttl`].
    pub records: Arc<[Record]>,
    /// The SOA of a negative answer; with `dnssec_ok` the proofs of it or of a wildcard,
    /// and signatures.
    pub authority: Arc<[Record]>,
    /// Every record was validated. Never true of what was not asked with `validate`: a
    /// server's own word (AD) is not taken.
    pub authentic: bool,
    /// What is left of its life now, in seconds. Zero for a negative answer without an SOA:
    /// it is for whoever waits for it and is never kept (RFC 2308, section 5: such answers
    /// "SHOULD NOT be cached"), so each question for such a name goes upstream anew.
    pub ttl: u32,
    /// The names that the asked one is an alias of, in order; empty when it is none.
    pub chain: Vec<Name>,
    /// Where it comes from.
    pub source: Source,
    /// The server that said it, as in the configuration, in full. Empty for names that
    /// nobody is asked for.
    pub upstream: Arc<str>,
    /// How long this asker waited.
    pub elapsed: Duration,
}

/// Where an answer comes from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Source {
    /// Asked earlier, and still good.
    Cache,
    /// Asked now.
    Upstream,
    /// It has ended, and no server answers.
    Stale,
}

impl Source {
    /// The word in events.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Cache => "cache",
            Self::Upstream => "upstream",
            Self::Stale => "stale",
        }
    }
}

/// No answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Failed {
    /// Why. [`FailKind::ServFail`] is also what did not validate.
    pub kind: FailKind,
    /// The server that was asked last; empty when none was.
    pub upstream: Arc<str>,
    /// How long the asker waited.
    pub elapsed: Duration,
}

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
    /// The server that said so last; empty when none is configured.
    pub upstream: String,
    /// How long it took, over all servers and attempts.
    pub elapsed: Duration,
}

/// Resolves one name; [`Upstreams`] does, and tests bring their own.
pub trait Lookup: Send + Sync + 'static {
    /// Resolves the name's A and AAAA records.
    fn lookup(&self, name: Name) -> impl Future<Output = Resolution> + Send;
}

/// Why there is no answer, inside this room.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Fault {
    kind: FailKind,
    /// It did not validate. An old answer is no help then: somebody answers, wrongly.
    bogus: bool,
    upstream: Arc<str>,
}

impl Fault {
    fn new(kind: FailKind, upstream: Arc<str>) -> Self {
        Self {
            kind,
            bogus: false,
            upstream,
        }
    }
}
