//! Bounds and times of a gateway.

use std::path::PathBuf;
use std::time::Duration;

/// Bounds and times. Each connection costs about 40 KiB while it relays. One that is inspected
/// costs eight MiB at most: 64 streams, each with two frames each way and what waits for
/// patterns.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct GatewayConfig {
    /// The most connections of the agent at once, over all doors; more are closed as they
    /// come.
    pub connections: usize,
    /// How long a connection may say nothing at its beginning or between two HTTP requests,
    /// and how long the head of a request may take. Programs connect ahead of need, and
    /// seldom further ahead than this.
    pub first_byte: Duration,
    /// How long a ClientHello or the talk at the SOCKS5 door may take.
    pub handshake: Duration,
    /// How long looking up a name may take, and connecting after that.
    pub connect: Duration,
    /// How long an open connection may be silent both ways. An hour is what middle boxes
    /// at large give, and answers of models come after minutes.
    pub idle: Duration,
    /// Whether the gateway makes a handshake of its own with a server that it has not met
    /// for an hour, to record its certificate and protocol.
    pub probe: bool,
    /// More authorities (PEM) that such servers' certificates may come from, beside the
    /// system's. They are read with the system's when the first such connection comes.
    pub roots: Option<PathBuf>,
}

impl Default for GatewayConfig {
    fn default() -> Self {
        Self {
            connections: 1024,
            first_byte: Duration::from_secs(60),
            handshake: Duration::from_secs(10),
            connect: Duration::from_secs(15),
            idle: Duration::from_secs(3600),
            probe: true,
            roots: None,
        }
    }
}
