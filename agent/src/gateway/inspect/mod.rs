//! TLS that ends at the gateway, for rules that say `inspect`.
//!
//! ```text
//! program ── TLS, the machine's authority ── request: host, method, path, patterns ─┐
//!                                              403, in words ←───── refused ────────┤
//! server ─── TLS, verified, pins ────────── request anew: headers stripped ─────────┘
//! ```
//!
//! The server comes first: until it is verified the program gets nothing, and then only the
//! protocol that the server speaks. One connection of a program is one to its server; both
//! are driven by one task, so that nothing of either is left when that ends.
//!
//! What cannot be read is refused: other protocols than HTTP, WebSocket, compressed bodies
//! where patterns are to be found. A request's trailers do not leave.

mod authority;
mod body;
mod exchange;
mod judge;
mod scan;
mod serve;
mod tasks;
mod ticket;
mod upstream;

#[cfg(test)]
mod body_tests;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod way_tests;

pub use authority::{Authority, AuthorityError};
pub(super) use upstream::Servers;
