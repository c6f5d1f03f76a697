//! What the page says of gateways.

use prometheus::Result;

use super::Builder;
use super::snapshot::Snapshot;
use crate::gateway::Outcome;

/// What one agent's gateway counted; of an agent without one, zeroes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GatewaySample {
    /// Connections and refused requests by how they ended, in the order of [`Outcome::ALL`].
    pub outcomes: [u64; Outcome::ALL.len()],
    /// Connections open now.
    pub open: u64,
    /// Bytes to servers.
    pub sent: u64,
    /// Bytes from servers.
    pub received: u64,
    /// HTTP requests passed on.
    pub requests: u64,
    /// Records that found no room in their queue.
    pub records_lost: u64,
}

impl Default for GatewaySample {
    fn default() -> Self {
        Self {
            outcomes: [0; Outcome::ALL.len()],
            open: 0,
            sent: 0,
            received: 0,
            requests: 0,
            records_lost: 0,
        }
    }
}

pub(super) fn register(r: &Builder, s: &Snapshot) -> Result<()> {
    let ended = r.counter(
        "exeat_gateway_connections_total",
        "Connections at the gateway, and HTTP requests that it refused, by how they ended: the same words as in events.",
        &["agent", "outcome"],
    )?;
    let open = r.gauge(
        "exeat_gateway_connections_open",
        "Connections open at the gateway.",
        &["agent"],
    )?;
    let sent = r.counter(
        "exeat_gateway_sent_bytes_total",
        "Bytes that the gateway sent to servers.",
        &["agent"],
    )?;
    let received = r.counter(
        "exeat_gateway_received_bytes_total",
        "Bytes that the gateway received from servers.",
        &["agent"],
    )?;
    let requests = r.counter(
        "exeat_gateway_requests_total",
        "HTTP requests that the gateway passed on.",
        &["agent"],
    )?;
    let lost = r.counter(
        "exeat_gateway_records_lost_total",
        "Records of the gateway that found no room in their queue.",
        &["agent"],
    )?;
    for agent in &s.agents {
        let (name, gateway) = (agent.name.as_str(), &agent.gateway);
        for (outcome, count) in Outcome::ALL.iter().zip(gateway.outcomes) {
            ended
                .with_label_values(&[name, outcome.as_str()])
                .inc_by(count);
        }
        open.with_label_values(&[name])
            .set(super::gauge(gateway.open));
        for (counter, count) in [
            (&sent, gateway.sent),
            (&received, gateway.received),
            (&requests, gateway.requests),
            (&lost, gateway.records_lost),
        ] {
            counter.with_label_values(&[name]).inc_by(count);
        }
    }
    Ok(())
}
