//! Control: one JSON object a line over `<runtime_dir>/control.sock`.
//!
//! ```text
//! exeat status, events, …  ─ client ─► Request ─► server ─► Handler (the engine)
//! exeat run                           Response ◄─────────────┘
//! ```
//!
//! Who may ask what is decided here and nowhere else. A process in a governed cgroup is
//! refused whatever its uid: its pid is held by a pidfd while its cgroup is read, and the
//! kernel's credentials on every message show that no other process speaks on a
//! connection that it was handed.

pub mod client;
pub mod dns;
mod past;
pub mod peer;
pub mod protocol;
pub mod server;
mod session;
pub mod status;
#[cfg(test)]
mod tests;

/// Name of the socket in the runtime directory.
pub const SOCKET_NAME: &str = "control.sock";
/// Name of the file in the runtime directory whose lock says that a daemon lives.
pub const LOCK_NAME: &str = "daemon.lock";

pub use client::{Client, ClientError};
pub use dns::{DnsRecord, DnsRemoved, DnsReport};
pub use peer::{CgroupReader, Peer, Standing};
pub use protocol::{
    Code, Lease, Problem, ProgramFile, ProxyAddress, ReloadReport, Request, Response, RunTicket,
};
pub use server::{DaemonLock, Handler, Server, ServerCounts, StartError};
pub use status::{PortalStatus, Status};
