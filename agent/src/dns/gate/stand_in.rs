//! What other rooms define, with the fields of the contract, until they are joined. Then
//! this file goes and `gate/mod.rs` and `budget.rs` name the rooms' own.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::{Record, RecordType};

use crate::leases::{FailKind, Name};
use crate::policy::HostName;

/// `policy::NameRule`: what the rules that match a name allow of it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct NameRule {
    /// Numbers of the types that are allowed besides those that every name has.
    pub types: BTreeSet<u16>,
    /// Private addresses may stand for the name.
    pub private: bool,
    /// Keys of Encrypted Client Hello stay in its HTTPS and SVCB records.
    pub keep_ech: bool,
    /// What the wildcard stands on, when no exact rule matched.
    pub wildcard: Option<HostName>,
}

/// `policy::Refuse`: what a name outside the policy is answered.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Refuse {
    /// REFUSED.
    #[default]
    Refused,
    /// NXDOMAIN.
    NxDomain,
}

/// `policy::BudgetLimits`: an hour, for each registered domain.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BudgetLimits {
    /// Distinct names.
    pub names: u32,
    /// Bytes of the labels below the registered domain.
    pub bytes: u32,
    /// Bits of entropy of those labels.
    pub entropy_bits: u32,
}

impl Default for BudgetLimits {
    fn default() -> Self {
        Self {
            names: 300,
            bytes: 8192,
            entropy_bits: 24_000,
        }
    }
}

/// `policy::OverBudget`: what happens to a name that would cross a budget.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum OverBudget {
    /// It is refused.
    #[default]
    Block,
    /// It is answered, and told.
    Report,
}

/// `resolver::Question`.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Question {
    /// The name, canonical.
    pub name: Name,
    /// The type.
    pub rtype: RecordType,
    /// Signatures are wanted.
    pub dnssec_ok: bool,
    /// The answer must validate.
    pub validate: bool,
}

/// `resolver::Source`: where an answer comes from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Source {
    /// The cache.
    Cache,
    /// An upstream server, just now.
    Upstream,
    /// The cache, after its time, because no server answers.
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

/// `resolver::Answer`.
#[derive(Clone, Debug)]
pub struct Answer {
    /// NOERROR or NXDOMAIN.
    pub rcode: ResponseCode,
    /// The chain from the asked name, and the data at its end.
    pub records: Arc<[Record]>,
    /// The authority of a negative answer.
    pub authority: Arc<[Record]>,
    /// It validated.
    pub authentic: bool,
    /// What is left of its time now, seconds.
    pub ttl: u32,
    /// The names that aliases led to.
    pub chain: Vec<Name>,
    /// Where it comes from.
    pub source: Source,
    /// The server that gave it.
    pub upstream: Arc<str>,
    /// How long it took.
    pub elapsed: Duration,
}

/// `resolver::Failed`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Failed {
    /// Why.
    pub kind: FailKind,
    /// The server that was asked last.
    pub upstream: Arc<str>,
    /// How long it took.
    pub elapsed: Duration,
}

/// `daemon::Granted`: what the kernel holds after a grant.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Granted {
    /// Addresses and the time that each lease has left.
    pub held: Vec<(IpAddr, Duration)>,
    /// Addresses that there was no room for.
    pub refused: usize,
    /// Addresses that the name may not stand for.
    pub rebound: Vec<IpAddr>,
}
