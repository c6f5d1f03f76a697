//! What is kept of a record beside itself, so that it can be searched and added up.

use std::collections::BTreeSet;

use agent_common::Hook;

use crate::flow::{FlowRecord, FlowVerdict};
use crate::sink::Record;

/// The columns of a record.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) time: i64,
    pub(super) incident: bool,
    pub(super) agent: String,
    pub(super) uid: Option<u32>,
    pub(super) verdict: Option<&'static str>,
    pub(super) reason: Option<&'static str>,
    /// The host, by its best name.
    pub(super) destination: Option<String>,
    /// Every name and address of the host: see [`needle`].
    pub(super) names: Option<String>,
    pub(super) process: Option<String>,
    /// A flow that was let out, once: at its end.
    pub(super) ended: bool,
    /// A question that was answered.
    pub(super) question: bool,
    pub(super) suppressed: i64,
    /// Sent bytes and packets, received bytes and packets.
    pub(super) traffic: [i64; 4],
    /// The record itself.
    pub(super) json: String,
}

/// Numbers of SQLite have a sign.
fn number(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

impl Row {
    pub(super) fn of(record: &Record) -> serde_json::Result<Self> {
        match record {
            Record::Flow(flow) => Self::of_flow(flow),
            Record::Incident(incident) => Ok(Self {
                time: incident.time.as_microsecond(),
                incident: true,
                agent: incident.agent.clone(),
                uid: incident.uid,
                json: serde_json::to_string(incident)?,
                ..Self::default()
            }),
        }
    }

    fn of_flow(flow: &FlowRecord) -> serde_json::Result<Self> {
        let names = names(flow);
        let traffic = flow.traffic.unwrap_or_default();
        let allowed = flow.verdict == FlowVerdict::Allow;
        Ok(Self {
            time: flow.time.as_microsecond(),
            incident: false,
            agent: flow.agent.clone(),
            uid: flow.uid(),
            verdict: Some(flow.verdict.as_str()),
            reason: flow.reason.map(|reason| reason.as_str()),
            destination: names.first().cloned(),
            names: joined(&names),
            process: process(flow),
            ended: allowed && flow.traffic.is_some(),
            question: allowed && flow.hook == Hook::Dns,
            suppressed: number(flow.suppressed),
            traffic: [
                traffic.sent_bytes,
                traffic.sent_packets,
                traffic.received_bytes,
                traffic.received_packets,
            ]
            .map(number),
            json: serde_json::to_string(flow)?,
        })
    }
}

/// What a host is called, the best first: the name that the connection is for, the name that was
/// asked, names that lease its address, the address.
fn names(flow: &FlowRecord) -> Vec<String> {
    let said = flow
        .server_name
        .iter()
        .chain(flow.dns.as_ref().map(|q| &q.name));
    let addr = flow.dest.map(|dest| dest.ip.to_string());
    let mut seen = BTreeSet::new();
    said.chain(&flow.names)
        .chain(&addr)
        .map(|name| name.trim_end_matches('.').to_ascii_lowercase())
        .filter(|name| !name.is_empty() && seen.insert(name.clone()))
        .collect()
}

/// Each name between line ends, which no name has in it: what the program chose is escaped.
fn joined(names: &[String]) -> Option<String> {
    if names.is_empty() {
        return None;
    }
    let mut text = String::from("\n");
    for name in names {
        text.push_str(&name.replace('\n', "\\n"));
        text.push('\n');
    }
    Some(text)
}

/// What is looked for in the names of a row that is about a host: `NAME`, or `*.NAME`.
pub(super) fn needle(name: &str) -> String {
    let name = name.trim_end_matches('.').to_ascii_lowercase();
    match name.strip_prefix('*') {
        Some(below) => format!("{below}\n"),
        None => format!("\n{name}\n"),
    }
}

fn process(flow: &FlowRecord) -> Option<String> {
    let process = flow.process.as_ref()?;
    Some(match &process.exe {
        Some(exe) => exe.to_string_lossy().into_owned(),
        None => process.comm.clone(),
    })
}
