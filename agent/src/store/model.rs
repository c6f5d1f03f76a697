//! What can be asked of the history, and what comes back.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::flow::FlowVerdict;
use crate::sink::Record;

/// Records that one answer holds when no limit is given.
pub const DEFAULT_LIMIT: u32 = 1000;
/// The most records of one answer; what is older is asked for by [`Wanted::before`].
pub const MAX_LIMIT: u32 = 10_000;
/// The most rows of a summary.
pub const MAX_ROWS: u32 = 1000;

/// Which records.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Only of this agent.
    pub agent: Option<String>,
    /// Only of this user's processes: what a user who does not administer may see.
    pub uid: Option<u32>,
    /// Only from this time on.
    pub since: Option<Timestamp>,
    /// Only before this time.
    pub until: Option<Timestamp>,
    /// Only of one of these hosts: a name, an address, or `*.NAME` for what is below it.
    pub names: Vec<String>,
    /// Only with this outcome.
    pub verdict: Option<FlowVerdict>,
    /// Incidents too.
    pub incidents: bool,
    /// At most so many, the newest.
    pub limit: Option<u32>,
    /// Only what was stored before this number.
    pub before: Option<u64>,
}

/// Records of the history, the oldest first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Page {
    /// The records.
    pub records: Vec<Record>,
    /// Where the next page begins ([`Wanted::before`]); 0 where there is none.
    pub next: u64,
}

/// What the rows of a summary are by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum SummaryBy {
    /// The agent.
    Agent,
    /// The host: its name as far as one is known, else its address.
    Destination,
    /// The outcome, with the reason of a refusal.
    Verdict,
    /// The hour, in UTC.
    Hour,
    /// The program, or the name that the process gave itself.
    Process,
}

/// One row of a summary.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SummaryRow {
    /// What it is about: an agent, a host, a verdict, the beginning of an hour (RFC 3339), or a
    /// program. Empty where that is not known.
    pub key: String,
    /// For a verdict: the reason.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// Flows that were let out and have ended.
    pub allowed: u64,
    /// Flows and questions that were refused, or would have been without monitor mode.
    pub denied: u64,
    /// Questions at the DNS gate that were answered.
    pub questions: u64,
    /// Records beside these that the throttle kept back.
    pub suppressed: u64,
    /// Bytes that left, IP headers included.
    pub sent_bytes: u64,
    /// Packets that left.
    pub sent_packets: u64,
    /// Bytes that came.
    pub received_bytes: u64,
    /// Packets that came.
    pub received_packets: u64,
    /// When the first of them happened.
    pub first: Timestamp,
    /// When the last of them happened.
    pub last: Timestamp,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum QueryError {
    /// It took longer than a question may.
    #[error("the history could not be searched in {} s", .0.as_secs())]
    TooSlow(std::time::Duration),
    /// Others ask at the moment.
    #[error("too many questions are put to the history at once")]
    Busy,
    /// The file cannot be opened or read.
    #[error("the history cannot be read: {0}")]
    Unreadable(String),
}
