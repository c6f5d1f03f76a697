//! The DNS server that agents see.
//!
//! Each agent has a gate of its own: the kernel steers the agent's queries to that
//! gate's sockets, so who asks follows from the socket that was asked and never from
//! what a packet says.
//!
//! ```text
//! a message ─ judge ─→ a finished reply: refused, or no query at all
//!               │ Asked: the policy has the name and the type
//!               ▼
//!     Backend: spend, resolve, grant ─→ answer: only addresses that were granted
//! ```
//!
//! `judge`, `answer`, `svcb` and `wire` are pure: no socket, no clock, no state. `serve`,
//! `stream` and `sockets` do the rest.

mod answer;
#[cfg(test)]
mod answer_tests;
mod ask;
#[cfg(test)]
mod ask_tests;
mod backend;
#[cfg(test)]
mod fuzz;
mod judge;
#[cfg(test)]
mod judge_tests;
mod record;
mod serve;
#[cfg(test)]
mod serve_tests;
#[cfg(test)]
mod signed_tests;
mod sockets;
mod stream;
mod svcb;
#[cfg(test)]
mod testing;
mod wire;

pub use answer::{addresses, answer, busy, failed, not_granted, over_budget};
pub use ask::{HELD_TIME, Lately, MAX_HELD, is_askable};
pub use backend::{Backend, Granted, NotGranted};
pub use judge::{Asked, Judged, judge};
pub use record::{GateEvent, GateRecord, Outcome, Rcode, Records, Transport, Verdict};
pub use serve::{LOOK_UP_TIME, MAX_LOOK_UPS};
pub use sockets::{GatePorts, GateSockets, SocketKind};
pub use stream::{MAX_CONNECTIONS, MAX_MESSAGE, MAX_PIPELINED, TCP_IDLE};
pub use wire::MAX_UDP_REPLY;

use super::resolver::{Answer, Failed, Question, Source};
use crate::policy::{NameRule, Refuse};
