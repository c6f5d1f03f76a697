//! From what the daemon says over the control socket to a [`Report`].

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use jiff::Timestamp;

use super::assemble::{Said, put_together};
use super::model::Report;
use crate::asking::Grant;
use crate::control::{Client, ClientError, Code, Request, Response};
use crate::flow::FlowVerdict;
use crate::sink::Record;
use crate::store::{MAX_LIMIT, SummaryBy, SummaryRow};

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
