//! What is asked, answered and granted, as it crosses the control socket.

use std::fmt;
use std::net::IpAddr;

use agent_common::protocol::ProtocolClass;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::flow::ProcessRecord;

/// Who is asked about what no rule of an agent decides.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum Asks {
    /// Nobody: it is refused.
    #[default]
    Nobody,
    /// The person whose process it is.
    User,
    /// Who may administer.
    Admin,
}

/// The destination that a question is about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Subject {
    /// A host, by the name that the program asked for: lower case, no final dot.
    Name {
        /// The name.
        name: String,
    },
    /// An address that no name of the agent stands for.
    Address {
        /// The address; IPv4 never in its mapped form.
        address: IpAddr,
    },
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name { name } => f.write_str(name),
            Self::Address { address } => write!(f, "{address}"),
        }
    }
}

/// One question. It stands until it is settled ([`Settlement`]).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Question {
    /// Six letters or digits that a person can type; never used twice while one stands.
    pub id: String,
    /// Name of the agent.
    pub agent: String,
    /// The run, where it is known: what "for this run" is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<String>,
    /// The destination.
    pub subject: Subject,
    /// The registered domain of a name (public suffix list), if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub domain: Option<String>,
    /// The far port; none for a question of the DNS, which comes before any connection.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// The protocol; of a question of the DNS that of the name lookup means nothing, and is left out.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        with = "crate::flow::word::protocol_if_any"
    )]
    pub protocol: Option<ProtocolClass>,
    /// The process that wants it, where it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub process: Option<ProcessRecord>,
    /// Who is asked.
    pub asks: Asks,
    /// The user that is asked, where [`Question::asks`] is [`Asks::User`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
    /// When it was first asked.
    pub asked: Timestamp,
    /// When it is denied if nobody answers.
    pub expires: Timestamp,
    /// Flows and name lookups that wait for the answer, or did.
    pub waiting: u64,
}

/// Yes or no.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ruling {
    /// It may go out.
    Allow,
    /// It may not.
    Deny,
}

/// How long an answer holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Lasts {
    /// For what waits now, and what follows from it within a minute.
    Once,
    /// Until the run that asked ends (of an adopted agent: until its processes end).
    Run,
    /// For this long; suspended time counts.
    For {
        /// Seconds.
        seconds: u64,
    },
    /// Until it is revoked.
    Always,
}

/// What of the destination an answer is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Breadth {
    /// This name (or address), any port.
    This,
    /// This name (or address), this port only.
    Port {
        /// The port.
        port: u16,
    },
    /// The registered domain and every name below it; not for addresses.
    Domain,
}

/// An answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Choice {
    /// Yes or no.
    pub ruling: Ruling,
    /// For how long.
    pub lasts: Lasts,
    /// About what.
    pub breadth: Breadth,
}

/// Who answered, as the kernel says, not as anybody claims.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Who {
    /// User id.
    pub uid: u32,
    /// The user's name, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Through what: `cli`, `notification`, `top`, `web`, `hook`, `webhook`.
    pub via: String,
}

/// What a grant is about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum GrantSubject {
    /// One host.
    Name {
        /// The name.
        name: String,
    },
    /// A registered domain and every name below it.
    Domain {
        /// The domain.
        domain: String,
    },
    /// One address.
    Address {
        /// The address.
        address: IpAddr,
    },
}

/// An answer that holds: an addition to the agent's policy, which no deny rule of the policy
/// gives way to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    /// Its name, as a question's.
    pub id: String,
    /// Name of the agent.
    pub agent: String,
    /// The run that it is for, where [`Grant::lasts`] is [`Lasts::Run`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<String>,
    /// Yes or no.
    pub ruling: Ruling,
    /// About what.
    pub subject: GrantSubject,
    /// Only this far port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// For how long.
    pub lasts: Lasts,
    /// Who gave it.
    pub by: Who,
    /// Why, in that person's words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// The question that it answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub question: Option<String>,
    /// The program that asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub program: Option<String>,
    /// When.
    pub given: Timestamp,
    /// Until when; none where nothing but its run's end or a person ends it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
}

/// How a question ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// A person allowed it.
    Allowed,
    /// A person denied it.
    Denied,
    /// Nobody answered in time: denied.
    TimedOut,
    /// Nothing waits for it any more, or the policy decides it now.
    Withdrawn,
}

/// The end of a question.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settlement {
    /// The question.
    pub question: String,
    /// Name of the agent.
    pub agent: String,
    /// How.
    pub outcome: Outcome,
    /// By whom, if by a person.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<Who>,
}

/// What who watches the questions is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DeskEvent {
    /// A question stands; also when more joined it.
    Asked(Question),
    /// It ended.
    Settled(Settlement),
}
