//! The DNS server that agents see.
//!
//! Each agent has a gate of its own: the kernel steers the agent's queries to that
//! gate's sockets, so who asks follows from the socket that was asked and never from
//! what a packet says. The gate answers the names of the agent's policy from what the
//! engine has published, refuses the rest, and forwards nothing.
//!
//! `respond` judges one message and knows no socket; `sockets` and `serve` do the rest.

mod respond;
#[cfg(test)]
mod respond_tests;
mod serve;
#[cfg(test)]
mod serve_tests;
mod sockets;

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

pub use respond::{MAX_UDP_REPLY, respond};
pub use serve::{MAX_CONNECTIONS, MAX_MESSAGE, TCP_IDLE};
pub use sockets::{GatePorts, GateSockets};

/// What an agent's names stand for, as published by the engine after the kernel maps
/// held it.
pub trait Answers {
    /// The addresses of a canonical name (lower-case A-labels, no trailing dot), each
    /// with the time that its lease has left. `None`: the agent's policy does not have
    /// the name. Empty: it does, and no address is known.
    fn lookup(&self, name: &str) -> Option<Vec<(IpAddr, Duration)>>;
}

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
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Verdict {
    /// The name is in the policy; addresses were given.
    Answered = 0,
    /// The name is in the policy; it has nothing of the type asked.
    NoData = 1,
    /// The name is in the policy; nothing is known of it (yet).
    Unresolved = 2,
    /// The name is not in the policy.
    Refused = 3,
    /// Not a query that the gate can read or serve.
    Malformed = 4,
    /// A response, or too short to tell: no reply.
    Ignored = 5,
}

impl Verdict {
    /// Every verdict, in the order of its number.
    pub const ALL: [Self; 6] = [
        Self::Answered,
        Self::NoData,
        Self::Unresolved,
        Self::Refused,
        Self::Malformed,
        Self::Ignored,
    ];

    /// Every pair of verdict and response code that occurs.
    pub const OUTCOMES: [(Self, Rcode); 9] = [
        (Self::Answered, Rcode::NoError),
        (Self::NoData, Rcode::NoError),
        (Self::Unresolved, Rcode::ServFail),
        (Self::Refused, Rcode::Refused),
        (Self::Malformed, Rcode::FormErr),
        (Self::Malformed, Rcode::NotImp),
        (Self::Malformed, Rcode::BadVers),
        (Self::Malformed, Rcode::None),
        (Self::Ignored, Rcode::None),
    ];

    /// The label in events and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Answered => "answered",
            Self::NoData => "no_data",
            Self::Unresolved => "unresolved",
            Self::Refused => "refused",
            Self::Malformed => "malformed",
            Self::Ignored => "ignored",
        }
    }
}

/// The response code of the reply.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
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
    None = 6,
}

impl Rcode {
    /// Every code, in the order of its place here (which is not the number in a packet).
    pub const ALL: [Self; 7] = [
        Self::NoError,
        Self::FormErr,
        Self::ServFail,
        Self::NotImp,
        Self::Refused,
        Self::BadVers,
        Self::None,
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
        }
    }
}

/// What one message was about. `name` and `qtype` are the agent's words: escaped,
/// bounded by the protocol, and not to be trusted.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct GateRecord {
    /// The name asked, lower-case, no trailing dot, odd bytes escaped; empty when there
    /// was no readable question. At most 1 kB.
    pub name: String,
    /// The number of the type asked; 0 when there was no readable question.
    pub qtype: u16,
    /// The response code.
    pub rcode: Rcode,
    /// The addresses given. A reply that was cut for UDP gave none.
    pub addresses: Vec<IpAddr>,
    /// The decision.
    pub verdict: Verdict,
}

/// A message judged.
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
