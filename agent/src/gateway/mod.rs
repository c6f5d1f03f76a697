//! The gateway: connections that the policy sends this way are judged by the name that they
//! show, and leave by sockets of the daemon's own.
//!
//! Each agent has a gateway of its own: the kernel steers the agent's connections to that
//! gateway's sockets, so who asks follows from the socket that was asked.
//!
//! ```text
//! steered ────── origin ─┐            ┌ tunnel: unread, to the address, if the policy says so
//! HTTP CONNECT ─ token ──┼─ first byte┤ TLS: ClientHello read, name judged ─┐
//! SOCKS5 ─────── token ──┘            └ HTTP: each request's host judged ───┤
//!                        record ←── relay ←── connect ←── resolve the name ─┘
//! ```
//!
//! What cannot be read, judged, resolved or connected is closed. What is open is judged
//! again when the policy changes, and reset when it is no longer allowed.
//!
//! A name that was judged is a name that was *shown*. Inside TLS nobody looks: a server that
//! serves two names to one connection serves both. But for rules that say `inspect`: their TLS
//! ends here, and each request is judged (see `inspect/`).

mod auth;
mod backend;
mod certificate;
mod config;
mod dial;
mod door;
#[cfg(test)]
mod door_tests;
mod flow;
mod guard;
mod head;
mod hello;
mod http;
#[cfg(test)]
mod http_tests;
mod inspect;
mod name;
mod proxy;
#[cfg(test)]
mod proxy_tests;
mod record;
mod relay;
mod serve;
mod session;
mod sockets;
mod socks;
mod stats;
#[cfg(test)]
mod testing;
mod tls;
#[cfg(test)]
mod tls_tests;

pub use backend::{Ask, Backend, Credentials, Destination, Grant, Judged, Kind, Route};
pub use config::GatewayConfig;
pub use inspect::{Authority, AuthorityError};
pub use proxy::{Proxy, ProxyConfig, ProxyError};
pub use record::{Certificate, Door, GatewayRecord, Outcome, Records, RequestRecord};
pub use sockets::{GatewayPorts, GatewaySockets, Listening};
pub use stats::GatewayStats;
