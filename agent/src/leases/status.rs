//! What `exeat status` shows of a name.

use std::net::IpAddr;
use std::time::Duration;

use super::{Entry, FailKind, Leases};

/// How a name is doing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NameState {
    /// Not resolved yet.
    Pending,
    /// The latest attempt gave addresses.
    Fresh,
    /// The latest attempts failed. Addresses that it had are still usable.
    Failing {
        /// When the first of these failures was, since boot.
        since: Duration,
    },
    /// It had addresses and none is left.
    Expired,
}

impl NameState {
    /// The word in status and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Fresh => "fresh",
            Self::Failing { .. } => "failing",
            Self::Expired => "expired",
        }
    }
}

/// One address of a name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LeaseView {
    /// The address.
    pub addr: IpAddr,
    /// Time until it ends, more than zero.
    pub remaining: Duration,
    /// Whether the name's latest answer holds it.
    pub fresh: bool,
}

/// A name with its leases.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NameStatus {
    /// The name.
    pub name: String,
    /// How it is doing.
    pub state: NameState,
    /// When it last gave an address, since boot.
    pub last_success: Option<Duration>,
    /// Failures since then.
    pub failures: u32,
    /// Kind of the latest failure, if the latest attempt failed.
    pub last_failure: Option<FailKind>,
    /// When the TTL of its latest answer ends, since boot.
    pub next_refresh: Duration,
    /// Its addresses.
    pub addresses: Vec<LeaseView>,
    /// Addresses of its latest answer beyond the bound of a name: they are refused.
    pub left_out: usize,
}

fn state(entry: &Entry, any_address: bool) -> NameState {
    match (entry.last_success, entry.failing) {
        (Some(_), _) if !any_address => NameState::Expired,
        (_, Some(failing)) => NameState::Failing {
            since: failing.since,
        },
        (Some(_), None) => NameState::Fresh,
        (None, None) => NameState::Pending,
    }
}

impl Leases {
    /// Every name with its leases, in the order of the names.
    pub fn status(&self, now: Duration) -> Vec<NameStatus> {
        self.names
            .iter()
            .map(|(name, entry)| {
                let addresses: Vec<_> = self
                    .addresses(name, now)
                    .map(|(addr, remaining, fresh)| LeaseView {
                        addr,
                        remaining,
                        fresh,
                    })
                    .collect();
                NameStatus {
                    name: name.to_string(),
                    state: state(entry, !addresses.is_empty()),
                    last_success: entry.last_success,
                    failures: entry.failing.map_or(0, |failing| failing.count),
                    last_failure: entry.failing.map(|failing| failing.kind),
                    next_refresh: entry.refresh_at,
                    addresses,
                    left_out: entry.left_out,
                }
            })
            .collect()
    }
}
