//! From what was said to the report: no daemon, no clock.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;

use super::gather::Asked;
use super::model::{
    AgentPart, Amounts, Completeness, Destination, Hour, MissingWall, NewDestination, Refused,
    RefusedPart, Report,
};
use crate::asking::Grant;
use crate::control::Status;
use crate::control::status::{Wall, WallState};
use crate::flow::{FlowRecord, FlowVerdict};
use crate::incident::{Incident, IncidentKind};
use crate::store::SummaryRow;

/// Destinations of one agent that are shown.
const DESTINATIONS: usize = 25;
/// Kinds of refusal that are shown for one reason.
const EXAMPLES: usize = 12;
/// New destinations, and incidents, that are shown.
const LISTED: usize = 200;

/// What was said: from here on there is no daemon.
#[derive(Debug, Clone)]
pub(super) struct Said {
    pub(super) status: Status,
    pub(super) grants: Vec<Grant>,
    /// Of all time.
    pub(super) ever: Vec<SummaryRow>,
    /// Of the period.
    pub(super) agents: Vec<SummaryRow>,
    pub(super) verdicts: Vec<SummaryRow>,
    pub(super) hours: Vec<SummaryRow>,
    /// Of each agent: in the period, and before.
    pub(super) destinations: BTreeMap<String, (Vec<SummaryRow>, BTreeSet<String>)>,
    pub(super) refused: Vec<FlowRecord>,
    pub(super) incidents: Vec<Incident>,
    pub(super) incidents_since: Option<Timestamp>,
    pub(super) notes: Vec<String>,
}

fn amounts(row: &SummaryRow) -> Amounts {
    Amounts {
        allowed: row.allowed,
        refused: row.denied,
        sent_bytes: row.sent_bytes,
        received_bytes: row.received_bytes,
    }
}

pub(super) fn put_together(machine: &str, asked: &Asked, said: Said) -> Report {
    let history_begins = said.ever.iter().map(|row| row.first).min();
    let has_before = history_begins.is_some_and(|begin| begin < asked.since);
    let (agents, mut new) = agents(asked, &said, has_before);
    new.sort_by_key(|one| one.first);
    let mut notes = said.notes;
    let mut keep_newest = |count: usize, what: &str| {
        let cut = count.saturating_sub(LISTED);
        if cut > 0 {
            notes.push(format!(
                "The first {cut} {what} of the period are not listed."
            ));
        }
        cut
    };
    let (questions, incidents): (Vec<_>, Vec<_>) =
        said.incidents.into_iter().partition(is_of_asking);
    let in_order = |mut all: Vec<Incident>, cut: usize| {
        all.sort_by_key(|one| (one.time, one.seq));
        all.split_off(cut)
    };
    let cut = keep_newest(questions.len(), "questions and answers");
    let questions = in_order(questions, cut);
    let cut = keep_newest(incidents.len(), "incidents");
    let incidents = in_order(incidents, cut);
    let cut = keep_newest(new.len(), "new destinations");
    let new = new.split_off(cut);
    let events = &said.status.events;
    Report {
        machine: machine.to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        made: asked.now,
        since: asked.since,
        until: asked.until,
        only: asked.agent.clone(),
        total: said
            .agents
            .iter()
            .map(amounts)
            .fold(Amounts::default(), Amounts::and),
        agents,
        refused: refused(&said.verdicts, &said.refused),
        hours: hours(&said.hours),
        new,
        questions,
        incidents,
        grants: said.grants,
        walls: walls(&said.status, asked.agent.as_deref()),
        complete: Completeness {
            history_begins,
            incidents_since: said.incidents_since,
            everybody: asked.everybody,
            lost: events
                .lost_kernel
                .saturating_add(events.lost_ring)
                .saturating_add(events.lost_queue),
            throttled: said
                .agents
                .iter()
                .fold(0, |sum, row| sum.saturating_add(row.suppressed)),
            health: said.status.health.reasons.clone(),
            notes,
        },
    }
}

fn is_of_asking(incident: &Incident) -> bool {
    use IncidentKind as K;
    matches!(
        incident.kind,
        K::Asked | K::Answered | K::Granted | K::GrantEnded
    )
}

/// Those of the policy and those of the history.
fn agents(asked: &Asked, said: &Said, has_before: bool) -> (Vec<AgentPart>, Vec<NewDestination>) {
    let mut all: BTreeMap<&str, AgentPart> = BTreeMap::new();
    let wanted = |name: &str| asked.agent.as_deref().is_none_or(|only| only == name);
    for agent in said
        .status
        .agents
        .iter()
        .filter(|agent| wanted(&agent.name))
    {
        let part = all.entry(&agent.name).or_default();
        part.agent.clone_from(&agent.name);
        part.mode = Some(agent.mode.clone());
    }
    let mut new = Vec::new();
    for row in &said.agents {
        let part = all.entry(&row.key).or_default();
        part.agent.clone_from(&row.key);
        part.total = amounts(row);
        let Some((now, before)) = said.destinations.get(&row.key) else {
            continue;
        };
        for row in now {
            let is_new = has_before && !row.key.is_empty() && !before.contains(&row.key);
            if is_new {
                new.push(NewDestination {
                    agent: part.agent.clone(),
                    destination: row.key.clone(),
                    first: row.first,
                    amounts: amounts(row),
                });
            }
            if part.destinations.len() == DESTINATIONS {
                part.more += 1;
                continue;
            }
            part.destinations.push(Destination {
                destination: match row.key.is_empty() {
                    true => "(no destination)".to_owned(),
                    false => row.key.clone(),
                },
                amounts: amounts(row),
                last: row.last,
                new: is_new,
            });
        }
    }
    let mut all: Vec<AgentPart> = all.into_values().collect();
    // Stable: those with equal amounts stay in order of their names.
    all.sort_by_key(|part| {
        let flows = part.total.allowed.saturating_add(part.total.refused);
        std::cmp::Reverse((part.total.bytes(), flows))
    });
    (all, new)
}

/// What refusals have in common that are listed as one: reason, agent, what, program, and
/// whether monitor mode let them through.
type Kind<'a> = (&'a str, String, String, Option<String>, bool);

/// The numbers are those of the summary; the examples those of the records that were read.
fn refused(verdicts: &[SummaryRow], records: &[FlowRecord]) -> Vec<RefusedPart> {
    let mut all: BTreeMap<String, RefusedPart> = BTreeMap::new();
    for row in verdicts.iter().filter(|row| row.denied > 0) {
        let reason = row.detail.clone().unwrap_or_else(|| "unknown".to_owned());
        let part = all.entry(reason.clone()).or_insert(RefusedPart {
            reason,
            flows: 0,
            let_through: 0,
            examples: vec![],
            more: 0,
        });
        part.flows = part.flows.saturating_add(row.denied);
        if row.key == FlowVerdict::WouldDeny.as_str() {
            part.let_through = part.let_through.saturating_add(row.denied);
        }
    }
    let mut kinds: BTreeMap<Kind<'_>, (u64, Timestamp)> = BTreeMap::new();
    for flow in records {
        let Some(reason) = flow.reason else { continue };
        let let_through = flow.verdict == FlowVerdict::WouldDeny;
        let key = (
            reason.as_str(),
            flow.agent.clone(),
            what(flow),
            program(flow),
            let_through,
        );
        let (flows, last) = kinds.entry(key).or_insert((0, flow.time));
        *flows += 1;
        *last = flow.time.max(*last);
    }
    for ((reason, agent, what, program, let_through), (flows, last)) in kinds {
        if let Some(part) = all.get_mut(reason) {
            part.examples.push(Refused {
                agent,
                what,
                program,
                flows,
                last,
                let_through,
            });
        }
    }
    let mut all: Vec<RefusedPart> = all.into_values().collect();
    for part in &mut all {
        part.examples
            .sort_by_key(|one| std::cmp::Reverse(one.flows));
        part.more = part.examples.len().saturating_sub(EXAMPLES) as u64;
        part.examples.truncate(EXAMPLES);
    }
    all.sort_by_key(|part| std::cmp::Reverse(part.flows));
    all
}

/// What a flow wanted to reach, the same for those that differ in time and source only.
fn what(flow: &FlowRecord) -> String {
    if let Some(question) = &flow.dns {
        return format!("{} (name lookup, {})", question.name, question.qtype);
    }
    let port = |name: &str| match flow.dest {
        Some(dest) if dest.port != 0 => {
            format!("{name}, {} port {}", flow.protocol.as_str(), dest.port)
        }
        _ => format!("{name}, {}", flow.protocol.as_str()),
    };
    if let Some(name) = flow.server_name.as_ref().or(flow.names.first()) {
        return port(name);
    }
    match flow.dest {
        Some(dest) => port(&dest.ip.to_string()),
        None => flow.hook.as_str().replace('_', " "),
    }
}

fn program(flow: &FlowRecord) -> Option<String> {
    let process = flow.process.as_ref()?;
    Some(match &process.exe {
        Some(exe) => exe.to_string_lossy().into_owned(),
        None => process.comm.clone(),
    })
}

/// In order; an hour that two summaries have is one.
fn hours(rows: &[SummaryRow]) -> Vec<Hour> {
    let mut all: BTreeMap<Timestamp, Amounts> = BTreeMap::new();
    for row in rows {
        if let Ok(begin) = row.key.parse::<Timestamp>() {
            let sum = all.entry(begin).or_default();
            *sum = sum.and(amounts(row));
        }
    }
    let hours = all
        .into_iter()
        .filter(|(_, sum)| *sum != Amounts::default());
    hours
        .map(|(begin, amounts)| Hour { begin, amounts })
        .collect()
}

fn walls(status: &Status, only: Option<&str>) -> Vec<MissingWall> {
    let missing = |agent: Option<&str>, walls: &[Wall]| -> Vec<MissingWall> {
        let walls = walls.iter().filter(|wall| wall.state != WallState::Up);
        walls
            .map(|wall| MissingWall {
                agent: agent.map(str::to_owned),
                wall: wall.clone(),
            })
            .collect()
    };
    let mut all = missing(None, &status.enforcement.walls);
    let of_machine: BTreeSet<String> = all.iter().map(|one| one.wall.name.clone()).collect();
    for agent in &status.agents {
        if only.is_none_or(|only| only == agent.name) {
            let own = missing(Some(&agent.name), &agent.walls).into_iter();
            // What the machine does not have no agent has: said once.
            all.extend(own.filter(|one| !of_machine.contains(&one.wall.name)));
        }
    }
    all
}

#[cfg(test)]
#[path = "assemble_tests.rs"]
mod tests;
