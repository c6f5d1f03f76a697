//! From what the daemon says over the control socket to a [`Report`].

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;

use jiff::Timestamp;

use super::model::{
    AgentPart, Amounts, Completeness, Destination, Hour, MissingWall, NewDestination, Refused,
    RefusedPart, Report,
};
use crate::asking::Grant;
use crate::control::status::{AgentStatus, WallState};
use crate::control::{Client, ClientError, Code, Request, Response, Status};
use crate::flow::{FlowRecord, FlowVerdict};
use crate::incident::{Incident, IncidentKind};

/// What the report is to be about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// Begin of the period.
    pub since: Timestamp,
    /// Its end.
    pub until: Timestamp,
    /// Only this agent.
    pub agent: Option<String>,
    /// The present.
    pub now: Timestamp,
}

/// Asks the daemon for everything.
///
/// # Errors
/// Where it does not answer, or refuses what the report cannot do without.
pub fn gather(_socket: &Path, _asked: &Asked) -> Result<Report, ClientError> {
    todo!()
}
