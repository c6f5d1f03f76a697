//! Names: resolved for the daemon, and answered to agents.
//!
//! ```text
//! policy's names ─→ resolver::Refresher ─→ hickory ─→ upstream servers
//!                          │ Resolution
//!                          ▼
//!                   the engine: Leases, then the kernel maps, then what Answers reads
//!                          ▲ Answers
//! an agent's query ─→ gate ┘
//! ```
//!
//! The gate forwards nothing: it reads what the engine has published after the maps
//! held it, so an answer never runs ahead of the maps. The resolver asks only for names
//! of the policy, so nothing that an agent asks can reach a server.

pub mod clock;
pub mod gate;
pub mod resolver;
pub mod stats;
#[cfg(test)]
mod testing;

pub use crate::leases::Name;
