//! How the names that are resolved unasked are doing, for `exeat status`.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use super::{FailKind, Leases, Name};

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
    /// Its addresses, over all agents, each with the longest time that is left.
    pub addresses: Vec<(IpAddr, Duration)>,
    /// Addresses of its latest answer beyond the bound of a name: they are refused.
    pub left_out: usize,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Failing {
    since: Duration,
    count: u32,
    kind: FailKind,
}

/// A name that is resolved unasked.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Watched {
    /// When the latest answer's TTL ends, within the bounds for TTLs.
    refresh_at: Duration,
    last_success: Option<Duration>,
    failing: Option<Failing>,
    /// Addresses of the latest answer that were too many.
    left_out: usize,
}

fn state(watched: &Watched, any_address: bool) -> NameState {
    match (watched.last_success, watched.failing) {
        (Some(_), _) if !any_address => NameState::Expired,
        (_, Some(failing)) => NameState::Failing {
            since: failing.since,
        },
        (Some(_), None) => NameState::Fresh,
        (None, None) => NameState::Pending,
    }
}

impl Leases {
    /// Takes the names that are resolved unasked; what is known of those that stay is kept.
    pub fn watch(&mut self, names: &BTreeSet<Name>) {
        self.watched.retain(|name, _| names.contains(name));
        for name in names {
            self.watched.entry(name.clone()).or_default();
        }
    }

    /// Notes that a name has an answer: the shortest of its TTLs, in seconds, and how many of
    /// its addresses found no room.
    pub fn succeeded(&mut self, name: &Name, ttl: u32, left_out: usize, now: Duration) {
        let now = self.advance(now);
        let refresh_at = now + self.config.refresh_interval(ttl);
        if let Some(watched) = self.watched.get_mut(name) {
            *watched = Watched {
                refresh_at,
                last_success: Some(now),
                failing: None,
                left_out,
            };
        }
    }

    /// Notes that a name could not be resolved. Its addresses stay until their deadline.
    pub fn failed(&mut self, name: &Name, kind: FailKind, now: Duration) {
        let now = self.advance(now);
        if let Some(watched) = self.watched.get_mut(name) {
            watched.failing = Some(match watched.failing {
                Some(before) => Failing {
                    since: before.since,
                    count: before.count.saturating_add(1),
                    kind,
                },
                None => Failing {
                    since: now,
                    count: 1,
                    kind,
                },
            });
        }
    }

    /// Every name that is resolved unasked, with its leases, in the order of the names.
    pub fn status(&self, now: Duration) -> Vec<NameStatus> {
        self.watched
            .iter()
            .map(|(name, watched)| {
                let mut addresses: BTreeMap<IpAddr, Duration> = BTreeMap::new();
                for agent in self.agents.keys() {
                    for view in self.addresses(*agent, name, now) {
                        let left = addresses.entry(view.addr).or_default();
                        *left = (*left).max(view.remaining);
                    }
                }
                NameStatus {
                    name: name.to_string(),
                    state: state(watched, !addresses.is_empty()),
                    last_success: watched.last_success,
                    failures: watched.failing.map_or(0, |failing| failing.count),
                    last_failure: watched.failing.map(|failing| failing.kind),
                    next_refresh: watched.refresh_at,
                    addresses: addresses.into_iter().collect(),
                    left_out: watched.left_out,
                }
            })
            .collect()
    }
}
