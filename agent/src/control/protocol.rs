//! What crosses the control socket.
//!
//! A request is one line, `{"version":1,"method":"status"}`; its answer is one line, or
//! for `events` and `leases` any number of lines and then `end`. Receivers ignore
//! answer fields that they do not know; a request field that is not known is an error.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::dns::DnsReport;
use super::status::Status;
use crate::asking::{Choice, Grant, GrantSubject, Lasts, Question, Ruling, Settlement};
use crate::flow::{FlowRecord, FlowVerdict};
use crate::incident::Incident;
use crate::policy::{Sandbox, Services};
use crate::sink::Record;
use crate::store::{SummaryBy, SummaryRow};

/// Version of the requests. An answer to another version is [`Code::Version`].
pub const VERSION: u32 = 1;
/// The longest request, its end included. A request has a few words; what an unprivileged
/// user can make the daemon hold is this times the connections that it may have.
pub const MAX_LINE: usize = 64 << 10;
/// The longest line of an answer that a client reads: a status with every agent and name.
pub const MAX_ANSWER: usize = 16 << 20;
/// Leases in one line of an answer.
pub const LEASES_A_LINE: usize = 1000;
/// Hosts that one question to the history may name.
pub const MAX_NAMES: usize = 100;
/// Records that `events` shows when no limit is given.
pub const DEFAULT_LIMIT: u32 = 100;

/// What can be asked. `teardown` is not here: it is done by root, without the daemon.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "method", rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// The daemon's [`Status`]. For every local user.
    Status {},
    /// Recent refused flows and incidents. A user who does not administer sees those of own
    /// processes.
    Events {
        /// Stay, and send what happens from now on.
        #[serde(default)]
        follow: bool,
        /// Only records after this number.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        since_seq: Option<u64>,
        /// Only of this agent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        agent: Option<String>,
        /// At most so many of the remembered ones, the newest; [`DEFAULT_LIMIT`] if absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        limit: Option<u32>,
    },
    /// What detection rules find from now on and want people told of (`then: [notify]`). A user who
    /// does not administer gets what is of own processes.
    Findings {},
    /// Compile the policy anew and swap it in. For administrators.
    Reload {},
    /// Take the policy bundle of a file, or go back to the one before. For administrators.
    Bundle {
        /// The file, by its absolute path; none: back to the bundle before.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        file: Option<PathBuf>,
    },
    /// Put the asking process under this agent's policy. For every local user.
    Run {
        /// Name of the agent.
        agent: String,
        /// The files of its command, which it has open, in order: a script, then its
        /// interpreter. Empty where it cannot open them.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        program: Vec<ProgramFile>,
    },
    /// Addresses that names stand for. For every local user.
    Leases {
        /// Only of this agent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        agent: Option<String>,
    },
    /// What an agent's gate would answer. For every local user.
    Dns {
        /// Name of the agent.
        agent: String,
        /// The name, as a program would ask for it.
        name: String,
        /// The record type, such as `A`.
        qtype: String,
    },
    /// Cut an agent off from the network, then stop it. For root.
    Freeze {
        /// Name of the agent.
        agent: String,
    },
    /// Let a frozen agent go on. For root.
    Thaw {
        /// Name of the agent.
        agent: String,
    },
    /// Cut an agent off from the network, then end everything that it runs. For root.
    Kill {
        /// Name of the agent.
        agent: String,
    },
    /// The questions that stand. A user who does not administer sees those that are put to that
    /// user.
    Questions {
        /// Stay, and tell of every question and settlement from now on.
        #[serde(default)]
        follow: bool,
        /// Only of this agent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        agent: Option<String>,
    },
    /// Settle a question. For whoever it is put to, and for administrators.
    Answer {
        /// The question's id.
        question: String,
        /// The answer.
        choice: Choice,
        /// Through what: [`Who::via`](crate::asking::Who::via).
        via: String,
        /// Why, in the person's words.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        why: Option<String>,
    },
    /// The answers that hold. A user who does not administer sees own ones.
    Grants {
        /// Only of this agent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        agent: Option<String>,
    },
    /// Give a grant ahead, without a question. For administrators.
    Grant {
        /// Name of the agent.
        agent: String,
        /// About what.
        subject: GrantSubject,
        /// Only this far port.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        port: Option<u16>,
        /// Yes or no.
        ruling: Ruling,
        /// For how long; not for a run, because none asked.
        lasts: Lasts,
        /// Through what: [`Who::via`](crate::asking::Who::via).
        via: String,
        /// Why, in the person's words.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        why: Option<String>,
    },
    /// End grants, and the connections that nothing else allows. By id for whoever gave it; all
    /// of an agent for administrators.
    Revoke {
        /// One grant.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        grant: Option<String>,
        /// Every grant of this agent, and every connection that it has.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        agent: Option<String>,
    },
    /// Cut an agent off from the network, live connections too, and let its processes go on; or
    /// connect it again. For administrators.
    Isolate {
        /// Name of the agent.
        agent: String,
        /// Whether it is to be cut off.
        on: bool,
    },
    /// Open the portal of a network for a time, or close it. For administrators.
    Portal {
        /// For this agent; without it for the daemon's resolver.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        agent: Option<String>,
        /// For how long; without it, it is closed.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        seconds: Option<u64>,
        /// Hosts besides the network's gateways.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        hosts: Vec<String>,
    },
    /// Flows, and incidents, of the history: the newest that are wanted. A user who does not
    /// administer sees those of own processes.
    History {
        /// Only of this agent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        agent: Option<String>,
        /// Only from this time on.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        since: Option<Timestamp>,
        /// Only before this time.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        until: Option<Timestamp>,
        /// Only of one of these hosts: a name, an address, or `*.NAME`. At most
        /// [`MAX_NAMES`].
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        names: Vec<String>,
        /// Only with this outcome.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        verdict: Option<FlowVerdict>,
        /// Incidents too.
        #[serde(default)]
        incidents: bool,
        /// At most so many: [`store::DEFAULT_LIMIT`](crate::store::DEFAULT_LIMIT) if absent, and
        /// never more than [`store::MAX_LIMIT`](crate::store::MAX_LIMIT).
        #[serde(default, skip_serializing_if = "Option::is_none")]
        limit: Option<u32>,
        /// The page before that one: `last_seq` of its `end`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        before: Option<u64>,
    },
    /// The flows of the history, added up. A user who does not administer sees those of own
    /// processes.
    Summary {
        /// Only from this time on.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        since: Option<Timestamp>,
        /// Only before this time.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        until: Option<Timestamp>,
        /// Only of this agent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        agent: Option<String>,
        /// What the rows are by.
        by: SummaryBy,
        /// At most so many rows, those with the most bytes; never more than
        /// [`store::MAX_ROWS`](crate::store::MAX_ROWS), which is meant if absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        limit: Option<u32>,
    },
}

impl Request {
    /// The words that `method` can be.
    pub const METHODS: [&'static str; 20] = [
        "status",
        "events",
        "findings",
        "reload",
        "bundle",
        "run",
        "leases",
        "dns",
        "freeze",
        "thaw",
        "kill",
        "questions",
        "answer",
        "grants",
        "grant",
        "revoke",
        "isolate",
        "portal",
        "history",
        "summary",
    ];

    /// The request as a line, with the version and the line's end.
    pub fn to_line(&self) -> Result<Vec<u8>, serde_json::Error> {
        #[derive(Serialize)]
        struct Envelope<'a> {
            version: u32,
            #[serde(flatten)]
            request: &'a Request,
        }
        let mut line = serde_json::to_vec(&Envelope {
            version: VERSION,
            request: self,
        })?;
        line.push(b'\n');
        Ok(line)
    }

    /// Reads a line, with or without its end.
    pub fn from_line(line: &[u8]) -> Result<Self, Problem> {
        let bad = |e: &dyn fmt::Display| {
            let text = "send one JSON object a line, such as {\"version\":1,\"method\":\"status\"}";
            Problem::new(
                Code::BadRequest,
                format!("the request cannot be read: {e}"),
                text,
            )
        };
        let mut value: serde_json::Value = serde_json::from_slice(line).map_err(|e| bad(&e))?;
        let Some(object) = value.as_object_mut() else {
            return Err(bad(&"it is not an object"));
        };
        let version = object.remove("version");
        if version.as_ref().and_then(serde_json::Value::as_u64) != Some(u64::from(VERSION)) {
            let asked = version.map_or("none".to_owned(), |v| v.to_string());
            return Err(Problem::new(
                Code::Version,
                format!("this daemon speaks control version {VERSION}, not {asked}"),
                "use the exeat command of the same installation as the daemon",
            ));
        }
        let method = object.get("method").and_then(serde_json::Value::as_str);
        match method {
            Some(method) if Self::METHODS.contains(&method) => {}
            method => {
                return Err(Problem::new(
                    Code::UnknownMethod,
                    format!("there is no method `{}`", method.unwrap_or("")),
                    format!("the methods are {}", Self::METHODS.join(", ")),
                ));
            }
        }
        serde_json::from_value(value).map_err(|e| bad(&e))
    }
}

/// A file of the command that the asking process is going to execute.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProgramFile {
    /// The descriptor by which the asking process has it open for reading.
    pub fd: i32,
    /// Whether the kernel starts it; else it is a script of what follows.
    pub starts: bool,
}

/// What comes back.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Response {
    /// To `status`.
    Status(Box<Status>),
    /// To `events` and `history`: one record.
    Flow(Box<FlowRecord>),
    /// To `events` and `history`: one incident.
    Incident(Box<Incident>),
    /// To `events`: records that this reader does not get.
    Lost {
        /// How many, of every agent and user.
        records: u64,
        /// Why.
        cause: LossCause,
    },
    /// To `events` and `leases`: nothing follows.
    End {
        /// To `events` the number of the last record that was published: `since_seq` of
        /// the next question. To `history` the number that the page before this one is asked
        /// for by (`before`), 0 where there is none. Else 0.
        last_seq: u64,
    },
    /// To `bundle`: what became of it.
    Bundle(BundleReport),
    /// To `reload`: it is in force.
    Reload(ReloadReport),
    /// To `run`: the asking process is governed from now on.
    Run(RunTicket),
    /// To `freeze`, `thaw` and `kill`.
    Held(Box<HoldReport>),
    /// To `leases`: some of them, at most [`LEASES_A_LINE`].
    Leases {
        /// By agent, then name.
        leases: Vec<Lease>,
    },
    /// To `questions`: one that stands; of one that follows also when more joined it.
    Question(Box<Question>),
    /// To `questions` that follows: one ended.
    Settled(Box<Settlement>),
    /// To `answer` and `grant`: what holds from now on.
    Granted(Box<Grant>),
    /// To `grants`: all of them.
    Grants {
        /// By agent, then time.
        grants: Vec<Grant>,
    },
    /// To `summary`.
    Summary {
        /// The rows: by time where they are by hour, else those with the most bytes first.
        rows: Vec<SummaryRow>,
        /// Whether there are more than these.
        more: bool,
    },
    /// To `revoke` and `isolate`.
    Revoked(Box<RevokeReport>),
    /// To `portal`.
    Portal(Box<PortalReport>),
    /// To `dns`.
    Dns(Box<DnsReport>),
    /// To anything.
    Error(Problem),
}

impl From<&Record> for Response {
    fn from(record: &Record) -> Self {
        match record {
            Record::Flow(flow) => Self::Flow(Box::new(flow.clone())),
            Record::Incident(incident) => Self::Incident(Box::new(incident.clone())),
        }
    }
}

/// A bundle that was taken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BundleReport {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: u32,
    /// Until when it is to be believed.
    pub expires: Timestamp,
    /// `wait`, `monitor` or `enforce`: see its roll-out.
    pub stage: String,
    /// Whether it is another one than before.
    pub changed: bool,
    /// What changed, by agent.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub changes: Vec<String>,
}

/// Why a reader of events does not get some.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LossCause {
    /// They are older than what memory holds.
    Overwritten,
    /// The reader was too slow.
    SlowReader,
}

/// Why a request was not done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// For programs.
    pub code: Code,
    /// What happened, to what object.
    pub message: String,
    /// What to do next; may be empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub help: String,
}

impl Problem {
    /// A problem with its way out.
    pub fn new(code: Code, message: impl Into<String>, help: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            help: help.into(),
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        if !self.help.is_empty() {
            write!(f, "\n  {}", self.help)?;
        }
        Ok(())
    }
}

impl std::error::Error for Problem {}

/// The kinds of [`Problem`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Code {
    /// The line is no request.
    BadRequest,
    /// The line is longer than [`MAX_LINE`].
    TooLong,
    /// Another [`VERSION`].
    Version,
    /// No such method.
    UnknownMethod,
    /// The asking process is in a governed cgroup, or cannot be shown not to be.
    Governed,
    /// The user may not ask this.
    NotPermitted,
    /// No such agent.
    NoAgent,
    /// The policy is not valid; nothing was changed.
    Policy,
    /// What the policy requires cannot be enforced.
    NotEnforceable,
    /// The agent is frozen, and starts nothing.
    Frozen,
    /// No such question: it was settled, or never stood.
    NoQuestion,
    /// No such grant.
    NoGrant,
    /// The policy forbids what was to be granted.
    Forbidden,
    /// No history is kept.
    NoHistory,
    /// The program is not one that the policy identifies, or cannot be shown to be.
    Identity,
    /// Too many connections, or the daemon took too long.
    Busy,
    /// The daemon failed.
    Internal,
    /// A code that this version does not know.
    #[serde(other)]
    Unknown,
}

/// What a reload did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReloadReport {
    /// Generation in force now.
    pub generation: u32,
    /// SHA-256 of the policy in force, hexadecimal.
    pub digest: String,
    /// Number of agents.
    pub agents: u32,
    /// Number of rules.
    pub rules: u32,
    /// Files that it was read from.
    pub sources: Vec<PathBuf>,
    /// Agents whose rules changed, in words.
    #[serde(default)]
    pub changes: Vec<String>,
    /// What a person should know though it is no error.
    #[serde(default)]
    pub warnings: Vec<String>,
}

/// Leave to execute: the asking process is in the agent's cgroup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunTicket {
    /// Name of the agent.
    pub agent: String,
    /// Name of this run.
    pub run: String,
    /// Its cgroup, from the file system's root.
    pub cgroup: PathBuf,
    /// `enforce` or `monitor`.
    pub mode: String,
    /// Generation of the policy in force.
    pub generation: u32,
    /// What it sees of the machine's services.
    #[serde(default)]
    pub services: Services,
    /// What its sandbox leaves open.
    #[serde(default)]
    pub sandbox: Sandbox,
    /// What a person should know before the program starts.
    #[serde(default)]
    pub warnings: Vec<String>,
    /// The most files that a process of it may have open.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub open_files: Option<u64>,
    /// A file of the authorities (PEM) that the program is to trust: its TLS is inspected.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub authorities: Option<PathBuf>,
    /// The agent's proxy listeners, with what opens them.
    #[serde(default)]
    pub proxies: Vec<ProxyAddress>,
}

/// What is done with an agent as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Holding {
    /// Cut off from the network, then stopped.
    Frozen,
    /// Let go on.
    Thawed,
    /// Cut off from the network, then ended.
    Killed,
}

/// What became of an agent that was to be frozen, thawed or killed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HoldReport {
    /// Name of the agent.
    pub agent: String,
    /// What was to be done.
    pub did: Holding,
    /// Whether it was not so before.
    pub changed: bool,
    /// Whether the kernel says that all processes have stopped, go on, or are gone.
    pub confirmed: bool,
    /// Whether it is frozen now.
    pub frozen: bool,
    /// Processes that it was about; of a kill that is not confirmed, those that are left.
    pub processes: u32,
    /// What was done, in a sentence.
    pub message: String,
    /// What to do next; may be empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub next: String,
    /// What a person should know besides.
    #[serde(default)]
    pub warnings: Vec<String>,
}

/// A portal that was opened or closed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortalReport {
    /// For which agent; none for the daemon's resolver.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<String>,
    /// When it closes; none where it is closed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
    /// Hosts and addresses that were opened, or the servers that are asked.
    #[serde(default)]
    pub opened: Vec<String>,
    /// What was done, in a sentence.
    pub message: String,
    /// What a person should know besides.
    #[serde(default)]
    pub warnings: Vec<String>,
}

/// What was ended, and how fast.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RevokeReport {
    /// Name of the agent.
    pub agent: String,
    /// The grants that ended.
    #[serde(default)]
    pub grants: Vec<Grant>,
    /// Live connections that were ended.
    pub connections: u32,
    /// Whether the agent is cut off now.
    pub isolated: bool,
    /// From the request until the kernel refuses and the connections are gone, microseconds.
    pub took_us: u64,
    /// What was done, in a sentence.
    pub message: String,
    /// What a person should know besides.
    #[serde(default)]
    pub warnings: Vec<String>,
}

/// A proxy listener of an agent's gateway.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProxyAddress {
    /// The environment variable that is to hold the URL.
    pub variable: String,
    /// The URL, with the agent's token in it.
    pub url: String,
}

impl fmt::Debug for ProxyAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProxyAddress")
            .field("variable", &self.variable)
            .finish_non_exhaustive()
    }
}

/// An address that a name stands for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// Name of the agent.
    pub agent: String,
    /// The name.
    pub name: String,
    /// The address.
    pub address: IpAddr,
    /// Until when it may be used, if nothing renews it.
    pub expires: Timestamp,
    /// Whether it left the answer and only its grace is running.
    pub grace: bool,
    /// Whether it is kept because a live socket of the agent uses it.
    #[serde(default)]
    pub in_use: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(line: &str) -> Code {
        Request::from_line(line.as_bytes()).expect_err(line).code
    }

    #[test]
    fn every_request_comes_back() {
        let all = [
            Request::Status {},
            Request::Events {
                follow: true,
                since_seq: Some(7),
                agent: Some("a".into()),
                limit: Some(3),
            },
            Request::Events {
                follow: false,
                since_seq: None,
                agent: None,
                limit: None,
            },
            Request::Findings {},
            Request::Reload {},
            Request::Run {
                agent: "a".into(),
                program: vec![ProgramFile {
                    fd: 3,
                    starts: true,
                }],
            },
            Request::Leases { agent: None },
            Request::Dns {
                agent: "a".into(),
                name: "n.example".into(),
                qtype: "A".into(),
            },
            Request::Freeze { agent: "a".into() },
            Request::Thaw { agent: "a".into() },
            Request::Kill { agent: "a".into() },
            Request::History {
                agent: Some("a".into()),
                since: Some(Timestamp::UNIX_EPOCH),
                until: None,
                names: vec!["*.example.com".into()],
                verdict: Some(FlowVerdict::WouldDeny),
                incidents: true,
                limit: Some(5),
                before: Some(9),
            },
            Request::Summary {
                since: None,
                until: Some(Timestamp::UNIX_EPOCH),
                agent: None,
                by: SummaryBy::Destination,
                limit: None,
            },
            Request::Questions {
                follow: true,
                agent: Some("a".into()),
            },
            Request::Answer {
                question: "abcdef".into(),
                choice: Choice {
                    ruling: Ruling::Allow,
                    lasts: Lasts::For { seconds: 60 },
                    breadth: crate::asking::Breadth::Port { port: 443 },
                },
                via: "cli".into(),
                why: Some("w".into()),
            },
            Request::Grants { agent: None },
            Request::Grant {
                agent: "a".into(),
                subject: GrantSubject::Name {
                    name: "n.example".into(),
                },
                port: Some(443),
                ruling: Ruling::Deny,
                lasts: Lasts::Always,
                via: "cli".into(),
                why: None,
            },
            Request::Revoke {
                grant: Some("abcdef".into()),
                agent: None,
            },
            Request::Isolate {
                agent: "a".into(),
                on: true,
            },
            Request::Portal {
                agent: Some("a".into()),
                seconds: Some(300),
                hosts: vec!["n.example".into()],
            },
        ];
        for request in all {
            let line = request.to_line().expect("line");
            assert_eq!(line.iter().filter(|b| **b == b'\n').count(), 1);
            assert_eq!(Request::from_line(&line), Ok(request));
        }
        let text = String::from_utf8(Request::Status {}.to_line().expect("line")).expect("text");
        assert_eq!(text, "{\"version\":1,\"method\":\"status\"}\n");
    }

    #[test]
    fn what_is_not_a_request_is_named() {
        assert_eq!(code(""), Code::BadRequest);
        assert_eq!(code("[1]"), Code::BadRequest);
        assert_eq!(
            code("{\"version\":1,\"method\":\"status\"} {}"),
            Code::BadRequest
        );
        assert_eq!(code("{\"method\":\"status\"}"), Code::Version);
        assert_eq!(code("{\"version\":2,\"method\":\"status\"}"), Code::Version);
        assert_eq!(code("{\"version\":1}"), Code::UnknownMethod);
        assert_eq!(
            code("{\"version\":1,\"method\":\"teardown\"}"),
            Code::UnknownMethod
        );
        assert_eq!(code("{\"version\":1,\"method\":\"run\"}"), Code::BadRequest);
        assert_eq!(
            code("{\"version\":1,\"method\":\"status\",\"x\":1}"),
            Code::BadRequest
        );
        let limit = "{\"version\":1,\"method\":\"events\",\"limit\":-1}";
        assert_eq!(code(limit), Code::BadRequest);
    }

    #[test]
    fn a_newer_daemons_answer_can_be_read() {
        let line = r#"{"type":"error","code":"from_the_future","message":"m","more":1}"#;
        let Response::Error(problem) = serde_json::from_str(line).expect("answer") else {
            panic!("an error");
        };
        assert_eq!(problem.code, Code::Unknown);
        assert_eq!(problem.to_string(), "m");
    }
}
