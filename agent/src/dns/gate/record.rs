//! What is recorded of a message.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

use super::Source;
use crate::dns::budget::Exceeded;
use crate::leases::Name;

/// How a query came.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Transport {
    /// One datagram.
    Udp,
    /// One message of a stream.
    Tcp,
}

impl Transport {
    /// The label in events and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Udp => "udp",
            Self::Tcp => "tcp",
        }
    }
}

/// What the gate decided about a query.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub enum Verdict {
    /// The policy has the name and type; data was given.
    Answered = 0,
    /// The policy has the name and type; the DNS has nothing of it.
    NoData = 1,
    /// The policy has the name and type; it could not be resolved.
    Failed = 2,
    /// The policy does not have the name, or not the type.
    Refused = 3,
    /// Not a query that the gate can read or serve.
    Malformed = 4,
    /// A response, or too short to tell: no reply.
    #[default]
    Ignored = 5,
    /// The name matched a wildcard whose budget is spent.
    OverBudget = 6,
    /// Every address of the answer is one that the name may not stand for.
    Rebind = 7,
    /// The kernel's maps do not hold the addresses.
    NoRoom = 8,
    /// Too many look-ups of the agent are under way.
    Busy = 9,
    /// A person is asked about the name, and this query was held without an answer.
    Asked = 10,
    /// A person denied the name, or nobody answered in time.
    Denied = 11,
}

impl Verdict {
    /// Every verdict, in the order of its number.
    pub const ALL: [Self; 12] = [
        Self::Answered,
        Self::NoData,
        Self::Failed,
        Self::Refused,
        Self::Malformed,
        Self::Ignored,
        Self::OverBudget,
        Self::Rebind,
        Self::NoRoom,
        Self::Busy,
        Self::Asked,
        Self::Denied,
    ];

    /// Every pair of verdict and response code that occurs.
    pub const OUTCOMES: [(Self, Rcode); 20] = [
        (Self::Answered, Rcode::NoError),
        (Self::NoData, Rcode::NoError),
        (Self::NoData, Rcode::NxDomain),
        (Self::Failed, Rcode::ServFail),
        (Self::Refused, Rcode::Refused),
        (Self::Refused, Rcode::NxDomain),
        (Self::Refused, Rcode::NoError),
        (Self::OverBudget, Rcode::Refused),
        (Self::OverBudget, Rcode::NxDomain),
        (Self::Rebind, Rcode::NoError),
        (Self::NoRoom, Rcode::ServFail),
        (Self::Busy, Rcode::ServFail),
        (Self::Malformed, Rcode::FormErr),
        (Self::Malformed, Rcode::NotImp),
        (Self::Malformed, Rcode::BadVers),
        (Self::Malformed, Rcode::None),
        (Self::Ignored, Rcode::None),
        (Self::Asked, Rcode::None),
        (Self::Denied, Rcode::Refused),
        (Self::Denied, Rcode::NxDomain),
    ];

    /// The label in events and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Answered => "answered",
            Self::NoData => "no_data",
            Self::Failed => "failed",
            Self::Refused => "refused",
            Self::Malformed => "malformed",
            Self::Ignored => "ignored",
            Self::OverBudget => "over_budget",
            Self::Rebind => "rebind",
            Self::NoRoom => "no_room",
            Self::Busy => "busy",
            Self::Asked => "asked",
            Self::Denied => "denied",
        }
    }
}

/// The response code of the reply.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub enum Rcode {
    /// 0.
    NoError = 0,
    /// 1.
    FormErr = 1,
    /// 2.
    ServFail = 2,
    /// 4.
    NotImp = 3,
    /// 5.
    Refused = 4,
    /// 16.
    BadVers = 5,
    /// There was no reply.
    #[default]
    None = 6,
    /// 3.
    NxDomain = 7,
}

impl Rcode {
    /// Every code, in the order of its place here (which is not the number in a packet).
    pub const ALL: [Self; 8] = [
        Self::NoError,
        Self::FormErr,
        Self::ServFail,
        Self::NotImp,
        Self::Refused,
        Self::BadVers,
        Self::None,
        Self::NxDomain,
    ];

    /// The label in events and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NoError => "noerror",
            Self::FormErr => "formerr",
            Self::ServFail => "servfail",
            Self::NotImp => "notimp",
            Self::Refused => "refused",
            Self::BadVers => "badvers",
            Self::None => "none",
            Self::NxDomain => "nxdomain",
        }
    }
}

/// What one message was about. `name` and `qtype` are the agent's words, names in `chain`
/// and `targets` those of whoever runs the zones: escaped, bounded by the protocol, and
/// not to be trusted.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct GateRecord {
    /// The name asked, lower-case, no trailing dot, odd bytes escaped; empty when there
    /// was no readable question. At most 1 kB.
    pub name: String,
    /// The number of the type asked; 0 when there was no readable question.
    pub qtype: u16,
    /// The response code.
    pub rcode: Rcode,
    /// The decision.
    pub verdict: Verdict,
    /// The addresses given. A reply that was cut for UDP gave none.
    pub addresses: Vec<IpAddr>,
    /// The shortest TTL given, seconds; none when no record was.
    pub ttl: Option<u32>,
    /// The aliases that led to the data, in order, without the name that was asked.
    pub chain: Vec<Name>,
    /// The server that the answer, or the failure, came from.
    pub upstream: Option<Arc<str>>,
    /// Where the answer came from.
    pub source: Option<Source>,
    /// From the message's arrival to its reply.
    pub elapsed: Duration,
    /// Addresses taken out of the answer because the name may not stand for them.
    pub rebound: Vec<IpAddr>,
    /// Targets of HTTPS and SVCB records that were taken out because the policy does not
    /// have them.
    pub targets: Vec<String>,
    /// The budget that the name crossed.
    pub over: Option<Exceeded>,
    /// Why a look-up failed or addresses were not granted.
    pub detail: Option<String>,
}

impl GateRecord {
    /// Whether something was refused, wholly or in part.
    pub fn is_refusal(&self) -> bool {
        matches!(
            self.verdict,
            Verdict::Refused
                | Verdict::OverBudget
                | Verdict::Rebind
                | Verdict::NoRoom
                | Verdict::Busy
                | Verdict::Asked
                | Verdict::Denied
        ) || !self.rebound.is_empty()
            || !self.targets.is_empty()
            || self.over.is_some()
    }
}

/// A message dealt with.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Outcome {
    /// The bytes to send back, if any.
    pub reply: Option<Vec<u8>>,
    /// What to record.
    pub record: GateRecord,
}

/// A record with who asked and how.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct GateEvent {
    /// Index of the agent whose gate was asked.
    pub agent: u32,
    /// How it came.
    pub transport: Transport,
    /// The local socket of the asking process, to find it by.
    pub peer: SocketAddr,
    /// What it was about.
    pub record: GateRecord,
}

/// Where the records of one gate go: refusals by a queue of their own, so that no amount of
/// allowed questions can crowd one out. Messages that are no queries are only counted.
#[derive(Clone, Debug)]
pub struct Records {
    refusals: mpsc::Sender<GateEvent>,
    answers: mpsc::Sender<GateEvent>,
}

impl Records {
    /// Both queues, each with room for so many: where to put records, refusals, the rest.
    pub fn channel(room: usize) -> (Self, mpsc::Receiver<GateEvent>, mpsc::Receiver<GateEvent>) {
        let (refusals, refused) = mpsc::channel(room);
        let (answers, answered) = mpsc::channel(room);
        (Self { refusals, answers }, refused, answered)
    }

    /// Hands a record on without waiting; false if its queue had no room.
    pub(super) fn offer(&self, event: GateEvent) -> bool {
        let queue = match event.record.verdict {
            Verdict::Malformed | Verdict::Ignored => return true,
            _ if event.record.is_refusal() => &self.refusals,
            _ => &self.answers,
        };
        queue.try_send(event).is_ok()
    }
}
