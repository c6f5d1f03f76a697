//! What a gateway counts.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::Outcome;

/// Counters of one agent's gateway. Nothing here is reset.
#[derive(Debug)]
pub struct GatewayStats {
    outcomes: [AtomicU64; Outcome::ALL.len()],
    /// Connections open now.
    pub open: AtomicU64,
    /// Bytes to servers.
    pub sent: AtomicU64,
    /// Bytes from servers.
    pub received: AtomicU64,
    /// HTTP requests that were passed on.
    pub requests: AtomicU64,
    /// Records that found no room.
    pub records_lost: AtomicU64,
    /// Handshakes for a look at a certificate.
    pub probes: AtomicU64,
    /// Those that were left out because too many were under way.
    pub probes_skipped: AtomicU64,
}

impl Default for GatewayStats {
    fn default() -> Self {
        Self {
            outcomes: [const { AtomicU64::new(0) }; Outcome::ALL.len()],
            open: AtomicU64::default(),
            sent: AtomicU64::default(),
            received: AtomicU64::default(),
            requests: AtomicU64::default(),
            records_lost: AtomicU64::default(),
            probes: AtomicU64::default(),
            probes_skipped: AtomicU64::default(),
        }
    }
}

impl GatewayStats {
    pub(super) fn ended(&self, outcome: Outcome) {
        self.outcomes[outcome.index()].fetch_add(1, Relaxed);
    }

    /// How many ended so.
    pub fn outcomes(&self, outcome: Outcome) -> u64 {
        self.outcomes[outcome.index()].load(Relaxed)
    }
}
