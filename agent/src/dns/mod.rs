//! Names: resolved for the daemon, and answered to agents.
//!
//! ```text
//! an agent's query ─→ gate: judged by the policy, paid for out of the budget
//!                      │ Question            ▲ Answer
//!                      ▼                     │
//!                   resolver: cache, upstream servers
//!                      │ addresses           ▲ Granted
//!                      ▼                     │
//!                   the engine: Leases, then the kernel maps
//! ```
//!
//! The resolver is asked only for names and types that the policy allows, so nothing else
//! that an agent asks can reach a server; and the gate answers only addresses that were
//! granted, so an answer never runs ahead of the maps.

pub mod budget;
pub mod clock;
mod flights;
pub mod gate;
pub mod resolver;
pub mod stats;
#[cfg(test)]
mod testing;

pub use crate::leases::Name;
