//! What a gate needs of the rest of the daemon.

use std::future::Future;
use std::net::IpAddr;
use std::time::Duration;

use super::{Answer, Failed, NameRule, Question, Refuse};
use crate::asking::Ruling;
use crate::dns::budget::Spent;
use crate::leases::Name;

/// What became of addresses that an agent is to be told.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Granted {
    /// Those of the answer that the kernel holds for the agent, and how long each is certain
    /// to be held from now on: no client may be told a TTL that is longer.
    pub held: Vec<(IpAddr, Duration)>,
    /// How many there is no room for. Where nothing is held it is the reason.
    pub refused: usize,
    /// Those that the name may not stand for.
    pub rebound: Vec<IpAddr>,
}

/// Addresses could not be granted at all: the kernel or the engine did not take them.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{why}")]
pub struct NotGranted {
    /// What went wrong, for the log and for events.
    pub why: String,
}

/// The policy, the resolver and the engine, as one agent's gate sees them.
///
/// The plain functions are called for every message and must not wait. The futures may
/// take their time: other messages are served meanwhile.
pub trait Backend: Send + Sync + 'static {
    /// What the policy allows of a canonical name (lower-case A-labels, no trailing dot).
    /// `None`: the name is outside, and nothing about it leaves the machine.
    fn rule(&self, name: &str) -> Option<NameRule>;

    /// Whether a person may be asked about a name that [`Backend::rule`] does not have. Called
    /// once for each query.
    fn asks(&self, _name: &Name) -> bool {
        false
    }

    /// Asks a person about a name, together with who asks about it already. Dropping the future
    /// leaves the question where it is. The name is granted before it says so.
    fn ask(&self, _name: Name) -> impl Future<Output = Ruling> + Send {
        std::future::ready(Ruling::Deny)
    }

    /// How a name outside the policy is answered.
    fn refuse(&self) -> Refuse;

    /// Whether answers must validate. A client cannot turn it off (its CD bit is only
    /// copied): the policy is not the client's.
    fn validate(&self) -> bool {
        false
    }

    /// Pays for a name that `rule` matched by a wildcard; not called for other names.
    fn spend(&self, name: &str, rule: &NameRule) -> Spent;

    /// Pays for asking upstream again for a name that is [`Spent::Known`].
    fn repeat(&self, name: &str, rule: &NameRule) -> Spent;

    /// An answer that is at hand: the fast path of [`Backend::resolve`]. For a name that a
    /// wildcard matched it sends nothing upstream.
    fn cached(&self, _question: &Question, _rule: &NameRule) -> Option<Answer> {
        None
    }

    /// An answer that has ended and may still stand in.
    fn ended(&self, _question: &Question) -> Option<Answer> {
        None
    }

    /// The answer to a question. Called only for names and types that the policy allows,
    /// once for all clients that ask the same meanwhile.
    fn resolve(&self, question: Question) -> impl Future<Output = Result<Answer, Failed>> + Send;

    /// What [`Backend::grant`] would give if the kernel holds all of it already, for long
    /// enough: the fast path, which writes nothing.
    fn granted(
        &self,
        _name: &Name,
        _addresses: &[(IpAddr, u32)],
        _rule: &NameRule,
    ) -> Option<Granted> {
        None
    }

    /// Lets the agent use addresses (with TTLs in seconds) of a name. What it gives is in
    /// the kernel's maps when the future is ready. It may be called for addresses that are
    /// held already, and then should cost nothing.
    fn grant(
        &self,
        name: &Name,
        addresses: &[(IpAddr, u32)],
        rule: &NameRule,
    ) -> impl Future<Output = Result<Granted, NotGranted>> + Send;
}
