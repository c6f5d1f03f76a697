//! What a report says, before it is a page: `--output json` prints it.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::asking::Grant;
use crate::control::status::Wall;
use crate::incident::Incident;

/// Flows and what went over them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Amounts {
    /// Flows that were let out.
    pub allowed: u64,
    /// Flows that were refused, or in monitor mode would have been.
    pub refused: u64,
    /// Bytes that left.
    pub sent_bytes: u64,
    /// Bytes that came.
    pub received_bytes: u64,
}

impl Amounts {
    /// The sum.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            allowed: self.allowed.saturating_add(other.allowed),
            refused: self.refused.saturating_add(other.refused),
            sent_bytes: self.sent_bytes.saturating_add(other.sent_bytes),
            received_bytes: self.received_bytes.saturating_add(other.received_bytes),
        }
    }

    /// Bytes of both ways.
    pub const fn bytes(&self) -> u64 {
        self.sent_bytes.saturating_add(self.received_bytes)
    }
}

/// What the agents did in a period.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Name of the machine.
    pub machine: String,
    /// Version that made the report.
    pub version: String,
    /// When it was made.
    pub made: Timestamp,
    /// Begin of the period.
    pub since: Timestamp,
    /// Its end.
    pub until: Timestamp,
    /// The one agent that it is about; none for all.
    pub only: Option<String>,
    /// Of all agents.
    pub total: Amounts,
    /// By bytes, the most first.
    pub agents: Vec<AgentPart>,
    /// By number, the most first.
    pub refused: Vec<RefusedPart>,
    /// Each hour of the period in which something happened, in order.
    pub hours: Vec<Hour>,
    /// Destinations that no flow before the period went to, nor tried to.
    pub new: Vec<NewDestination>,
    /// Questions, answers, and grants that were given and ended, in order of time.
    pub questions: Vec<Incident>,
    /// Other incidents, in order of time.
    pub incidents: Vec<Incident>,
    /// Answers of people that hold now.
    pub grants: Vec<Grant>,
    /// Walls that do not stand now.
    pub walls: Vec<MissingWall>,
    /// How far all this can be relied on.
    pub complete: Completeness,
}

/// One agent.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentPart {
    /// Its name.
    pub agent: String,
    /// `enforce` or `monitor`; none of an agent that the policy has no more.
    pub mode: Option<String>,
    /// All of its flows.
    pub total: Amounts,
    /// Where they went, by bytes and then by number, the most first.
    pub destinations: Vec<Destination>,
    /// Destinations that are left out here.
    pub more: u64,
}

/// A far end of an agent.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Destination {
    /// Its name, or its address.
    pub destination: String,
    /// The flows.
    pub amounts: Amounts,
    /// The last one.
    pub last: Timestamp,
    /// Whether it was first seen in the period.
    pub new: bool,
}

/// What was refused for one reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefusedPart {
    /// The reason's word.
    pub reason: String,
    /// How many flows.
    pub flows: u64,
    /// How many of them monitor mode let through.
    pub let_through: u64,
    /// To where, by number, the most first.
    pub examples: Vec<Refused>,
    /// Kinds of refusal that are left out here.
    pub more: u64,
}

/// Refusals that differ in their time only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused {
    /// The agent.
    pub agent: String,
    /// What it wanted to reach, or what else was refused.
    pub what: String,
    /// The program, where it is known.
    pub program: Option<String>,
    /// How many flows.
    pub flows: u64,
    /// The last one.
    pub last: Timestamp,
    /// Whether monitor mode let them through.
    pub let_through: bool,
}

/// One hour.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hour {
    /// Its begin.
    pub begin: Timestamp,
    /// What was in it.
    pub amounts: Amounts,
}

/// A destination that was not there before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewDestination {
    /// The agent.
    pub agent: String,
    /// The destination.
    pub destination: String,
    /// When it was first seen.
    pub first: Timestamp,
    /// What went there.
    pub amounts: Amounts,
}

/// A wall that does not stand.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MissingWall {
    /// The agent; none of a wall that is the machine's.
    pub agent: Option<String>,
    /// The wall.
    pub wall: Wall,
}

/// How far the report can be relied on.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Completeness {
    /// The oldest flow of the history that this user may see.
    pub history_begins: Option<Timestamp>,
    /// From when on incidents are listed.
    pub incidents_since: Option<Timestamp>,
    /// Whether the reader sees flows of every user.
    pub everybody: bool,
    /// Records that were lost on their way since the daemon started.
    pub lost: u64,
    /// Records of the period that were kept back and only counted.
    pub throttled: u64,
    /// Why the daemon does not call itself healthy.
    pub health: Vec<String>,
    /// What else the reader must know: what could not be asked, what was cut.
    pub notes: Vec<String>,
}

impl Completeness {
    /// Whether there is a time before the period that it can be held against.
    pub fn has_before(&self, since: Timestamp) -> bool {
        self.history_begins.is_some_and(|begin| begin < since)
    }

    /// Whether nothing is known to be missing from the period.
    pub fn is_whole(&self, since: Timestamp) -> bool {
        self.lost == 0
            && self.everybody
            && self.notes.is_empty()
            && self.history_begins.is_some_and(|begin| begin <= since)
    }
}
