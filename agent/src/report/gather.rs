//! From what the daemon says over the control socket to a [`Report`].

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use jiff::Timestamp;

use super::model::{
    AgentPart, Amounts, Completeness, Destination, Hour, MissingWall, NewDestination, Refused,
    RefusedPart, Report,
};
use crate::asking::Grant;
use crate::control::status::{Wall, WallState};
use crate::control::{Client, ClientError, Code, Request, Response, Status};
use crate::flow::{FlowRecord, FlowVerdict};
use crate::incident::{Incident, IncidentKind};
use crate::sink::Record;
use crate::store::{MAX_LIMIT, SummaryBy, SummaryRow};

/// Destinations of one agent that are shown.
const DESTINATIONS: usize = 25;
/// Kinds of refusal that are shown for one reason.
const EXAMPLES: usize = 12;
/// New destinations, and incidents, that are shown.
const LISTED: usize = 200;
/// Pages of records that are read for refusals, and as many for incidents.
const PAGES: usize = 10;
/// How often a daemon that answers others is asked again, and after how long.
const BUSY: (usize, Duration) = (5, Duration::from_millis(300));

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
    /// Whether who asks administers, and so sees flows of every user.
    pub everybody: bool,
}

/// What was said: from here on there is no daemon.
#[derive(Debug, Clone)]
struct Said {
    status: Status,
    grants: Vec<Grant>,
    /// Of all time.
    ever: Vec<SummaryRow>,
    /// Of the period.
    agents: Vec<SummaryRow>,
    verdicts: Vec<SummaryRow>,
    hours: Vec<SummaryRow>,
    /// Of each agent: in the period, and before.
    destinations: BTreeMap<String, (Vec<SummaryRow>, BTreeSet<String>)>,
    refused: Vec<FlowRecord>,
    incidents: Vec<Incident>,
    incidents_since: Option<Timestamp>,
    notes: Vec<String>,
}

/// Asks the daemon for everything.
///
/// # Errors
/// Where it does not answer, or refuses what the report cannot do without.
pub fn gather(socket: &Path, asked: &Asked) -> Result<Report, ClientError> {
    let client = Client::connect(socket)?;
    let mut questioner = Questioner {
        client,
        socket,
        asked,
        notes: Vec::new(),
    };
    let said = questioner.everything()?;
    let machine = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    Ok(put_together(machine.trim(), asked, said))
}

struct Questioner<'a> {
    client: Client,
    socket: &'a Path,
    asked: &'a Asked,
    notes: Vec<String>,
}

impl Questioner<'_> {
    fn everything(&mut self) -> Result<Said, ClientError> {
        let asked = self.asked;
        let (since, until) = (Some(asked.since), Some(asked.until));
        let status = match self.client.ask(&Request::Status {})? {
            Response::Status(status) => *status,
            _ => return Err(odd("no status")),
        };
        let agent = asked.agent.clone();
        let grants = self.grants(agent.clone());
        let ever = self.summary(None, None, agent.clone(), SummaryBy::Agent)?;
        let agents = self.summary(since, until, agent.clone(), SummaryBy::Agent)?;
        let verdicts = self.summary(since, until, agent.clone(), SummaryBy::Verdict)?;
        let hours = self.hours()?;
        let mut destinations = BTreeMap::new();
        for row in &agents {
            let name = Some(row.key.clone());
            let now = self.summary(since, until, name.clone(), SummaryBy::Destination)?;
            let before = self.summary(None, since, name, SummaryBy::Destination)?;
            let before = before.into_iter().map(|row| row.key).collect();
            destinations.insert(row.key.clone(), (now, before));
        }
        let mut refused = Vec::new();
        for verdict in [FlowVerdict::Deny, FlowVerdict::WouldDeny] {
            let (records, _) = self.history(Some(verdict), "refusals")?;
            refused.extend(records.into_iter().filter_map(|record| match record {
                Record::Flow(flow) => Some(flow),
                Record::Incident(_) => None,
            }));
        }
        let (records, whole) = self.history(None, "incidents")?;
        let incidents_since = match whole {
            true => ever
                .iter()
                .map(|row| row.first)
                .min()
                .map(|begin| begin.max(asked.since)),
            false => records.iter().map(time_of).min(),
        };
        let incidents = records.into_iter().filter_map(|record| match record {
            Record::Incident(incident) => Some(incident),
            Record::Flow(_) => None,
        });
        Ok(Said {
            status,
            grants,
            ever,
            agents,
            verdicts,
            hours,
            destinations,
            refused,
            incidents: incidents.collect(),
            incidents_since,
            notes: std::mem::take(&mut self.notes),
        })
    }

    /// A daemon that asks nobody has none, and one that lists none says why.
    fn grants(&mut self, agent: Option<String>) -> Vec<Grant> {
        match self.client.ask(&Request::Grants { agent }) {
            Ok(Response::Grants { grants }) => grants,
            Err(ClientError::Refused(problem)) if problem.code == Code::UnknownMethod => vec![],
            Err(error) => {
                self.notes
                    .push(format!("Answers of people could not be listed: {error}"));
                // The connection may be of no use any more.
                if let Ok(client) = Client::connect(self.socket) {
                    self.client = client;
                }
                vec![]
            }
            Ok(_) => vec![],
        }
    }

    fn summary(
        &mut self,
        since: Option<Timestamp>,
        until: Option<Timestamp>,
        agent: Option<String>,
        by: SummaryBy,
    ) -> Result<Vec<SummaryRow>, ClientError> {
        let (rows, more) = self.rows(&Request::Summary {
            since,
            until,
            agent: agent.clone(),
            by,
            limit: None,
        })?;
        if more {
            let of = agent.map_or(String::new(), |agent| format!(" of {agent}"));
            let when = match (since, until) {
                (None, Some(_)) => {
                    " before the period, so some destinations may be called new \
                                    that are not"
                }
                _ => ", the smallest are left out",
            };
            let what = match by {
                SummaryBy::Destination => "destinations",
                _ => "lines",
            };
            self.notes.push(format!(
                "There are more than {} {what}{of}{when}.",
                rows.len()
            ));
        }
        Ok(rows)
    }

    /// Each summary has so many rows, so a long period is asked for month by month.
    fn hours(&mut self) -> Result<Vec<SummaryRow>, ClientError> {
        const STEP: i64 = 30 * 86_400;
        let mut all: Vec<SummaryRow> = Vec::new();
        // From the begin of an hour on: no hour falls into two.
        let mut begin = self.asked.since;
        while begin < self.asked.until {
            let hour = begin.as_second().div_euclid(3600) * 3600;
            let next = Timestamp::from_second(hour.saturating_add(STEP));
            let next = next.map_or(self.asked.until, |next| next.min(self.asked.until));
            let agent = self.asked.agent.clone();
            all.extend(self.summary(Some(begin), Some(next), agent, SummaryBy::Hour)?);
            begin = next;
        }
        Ok(all)
    }

    fn rows(&mut self, request: &Request) -> Result<(Vec<SummaryRow>, bool), ClientError> {
        for _ in 0..BUSY.0 {
            match self.client.ask(request) {
                Ok(Response::Summary { rows, more }) => return Ok((rows, more)),
                Ok(_) => return Err(odd("no summary")),
                Err(ClientError::Refused(problem)) if problem.code == Code::Busy => {
                    std::thread::sleep(BUSY.1);
                }
                Err(ClientError::Refused(problem)) if problem.code == Code::NoHistory => {
                    let note = format!("{}.", problem.message);
                    if !self.notes.contains(&note) {
                        self.notes.push(note);
                    }
                    return Ok((vec![], false));
                }
                Err(error) => return Err(error),
            }
        }
        self.client.ask(request).and_then(|answer| match answer {
            Response::Summary { rows, more } => Ok((rows, more)),
            _ => Err(odd("no summary")),
        })
    }

    /// The newest records of the period, and whether they are all: with a verdict the flows,
    /// without one everything.
    fn history(
        &mut self,
        verdict: Option<FlowVerdict>,
        what: &str,
    ) -> Result<(Vec<Record>, bool), ClientError> {
        let (mut all, mut before) = (Vec::new(), None);
        for _ in 0..PAGES {
            let (records, next) = match self.page(verdict, before) {
                Ok(page) => page,
                Err(ClientError::Refused(problem)) if problem.code == Code::NoHistory => {
                    return Ok((all, false));
                }
                Err(ClientError::Refused(problem)) if problem.code == Code::Busy => break,
                Err(error) => return Err(error),
            };
            all.extend(records);
            match next {
                0 => return Ok((all, true)),
                next => before = Some(next),
            }
        }
        let from = all.iter().map(time_of).min();
        let from = from.map_or_else(|| "its end".to_owned(), |from| from.to_string());
        self.notes.push(match what {
            "incidents" => format!(
                "The period has too many records to list them all: incidents are listed from {from} on; \
                 earlier ones are in the audit log."
            ),
            _ => format!(
                "The period has too many refusals to look at each: the examples of refusals are from \
                 {from} on. Their number is right."
            ),
        });
        Ok((all, false))
    }

    fn page(
        &mut self,
        verdict: Option<FlowVerdict>,
        before: Option<u64>,
    ) -> Result<(Vec<Record>, u64), ClientError> {
        self.client.send(&Request::History {
            agent: self.asked.agent.clone(),
            since: Some(self.asked.since),
            until: Some(self.asked.until),
            names: vec![],
            verdict,
            incidents: verdict.is_none(),
            limit: Some(MAX_LIMIT),
            before,
        })?;
        let mut records = Vec::new();
        while let Some(answer) = self.client.next()? {
            match answer {
                Response::Flow(flow) => records.push(Record::Flow(*flow)),
                Response::Incident(incident) => records.push(Record::Incident(*incident)),
                Response::End { last_seq } => return Ok((records, last_seq)),
                _ => return Err(odd("no record")),
            }
        }
        Err(ClientError::Closed(self.socket.to_owned()))
    }
}

fn odd(what: &str) -> ClientError {
    ClientError::Protocol(format!("it is {what}"))
}

fn time_of(record: &Record) -> Timestamp {
    match record {
        Record::Flow(flow) => flow.time,
        Record::Incident(incident) => incident.time,
    }
}

fn amounts(row: &SummaryRow) -> Amounts {
    Amounts {
        allowed: row.allowed,
        refused: row.denied,
        sent_bytes: row.sent_bytes,
        received_bytes: row.received_bytes,
    }
}

fn put_together(machine: &str, asked: &Asked, said: Said) -> Report {
    let history_begins = said.ever.iter().map(|row| row.first).min();
    let has_before = history_begins.is_some_and(|begin| begin < asked.since);
    let (agents, mut new) = agents(asked, &said, has_before);
    new.sort_by(|a, b| a.first.cmp(&b.first));
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
    let mut kinds: BTreeMap<(&str, String, String, Option<String>, bool), (u64, Timestamp)> =
        BTreeMap::new();
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
    for agent in &status.agents {
        if only.is_none_or(|only| only == agent.name) {
            all.extend(missing(Some(&agent.name), &agent.walls));
        }
    }
    all
}

#[cfg(test)]
#[path = "gather_tests.rs"]
mod tests;
