//! What an agent's gate would answer, as `exeat dns` shows it.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// The answer that a question would get now, and why. Nothing is leased by asking.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DnsReport {
    /// Name of the agent.
    pub agent: String,
    /// The name, canonical.
    pub name: String,
    /// The record type, such as `A`.
    pub qtype: String,
    /// The gate's verdict, as in events: `answered`, `refused`, …
    pub verdict: String,
    /// The response code, as in events.
    pub rcode: String,
    /// The reason in a sentence.
    pub why: String,
    /// The rules that name it, as text; empty if none does.
    #[serde(default)]
    pub rules: Vec<String>,
    /// The records that the agent would see.
    #[serde(default)]
    pub records: Vec<DnsRecord>,
    /// What the upstream said and the agent would not see, each with its reason.
    #[serde(default)]
    pub removed: Vec<DnsRemoved>,
    /// The names that it is an alias of, in order.
    #[serde(default)]
    pub chain: Vec<String>,
    /// `cache`, `upstream` or `stale`; none if nobody was asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// Whom the answer is from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upstream: Option<String>,
    /// How long the upstream took, in microseconds.
    #[serde(default)]
    pub elapsed_us: u64,
}

/// One record of an answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DnsRecord {
    /// Whose it is.
    pub name: String,
    /// Its type.
    pub rtype: String,
    /// The TTL that the agent would see, in seconds.
    pub ttl: u32,
    /// Its data in the form of zone files.
    pub data: String,
    /// The address, if it is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<IpAddr>,
    /// Of an address: for how many seconds the agent has it leased already.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leased: Option<u64>,
}

/// Something that is left out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DnsRemoved {
    /// The address.
    pub address: IpAddr,
    /// Why.
    pub why: String,
}
