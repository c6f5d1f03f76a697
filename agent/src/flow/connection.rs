//! A connection at the gateway, as people and programs read it.

use std::fmt;
use std::net::SocketAddr;

use agent_common::{Hook, Protocol, Reason};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Endpoint, FlowRecord, FlowVerdict, RuleText, printable};

/// What became of a connection at the gateway.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConnectionRecord {
    /// How it came: `steered`, `http_proxy` or `socks5`.
    pub door: String,
    /// What it was judged as: `tls`, `http` or `tunnel`; none where it showed nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// The server's port.
    pub port: u16,
    /// How it ended, such as `closed` or `name_not_allowed`.
    pub outcome: String,
    /// The protocols that the program offers inside TLS (ALPN); its own words.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub alpn: Vec<String>,
    /// The one of them that the server chooses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alpn_chosen: Option<String>,
    /// The server's certificate, as a handshake of the gateway's own saw it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate: Option<ServerCertificate>,
    /// The server that the gateway connected to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connected: Option<Endpoint>,
    /// The enterprise proxy that it went through, `host:port`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxy: Option<String>,
    /// The status with which that proxy refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxy_status: Option<u16>,
    /// Bytes to the server.
    pub sent_bytes: u64,
    /// Bytes from the server.
    pub received_bytes: u64,
    /// HTTP requests that were passed on.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub requests: u64,
    /// From its beginning to its end, milliseconds.
    pub took_ms: u64,
    /// One request of an inspected connection: the record is about it alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<InspectedRequest>,
    /// More about the end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

/// A request inside TLS, where a rule says `inspect`. Nothing of its query, headers or body.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InspectedRequest {
    /// The method.
    pub method: String,
    /// The path without the query; none where one of the patterns is in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// The status of the answer; none where there was none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// Bytes of its body.
    pub sent_bytes: u64,
    /// Bytes of the answer's body.
    pub received_bytes: u64,
    /// Names of the patterns that were found in it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub patterns: Vec<String>,
}

/// The certificate that a server shows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerCertificate {
    /// SHA-256 of it (DER), in hexadecimal.
    pub sha256: String,
    /// Who issued it; the server's word.
    pub issuer: String,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde gives a reference")]
const fn is_zero(n: &u64) -> bool {
    *n == 0
}

/// A connection at the gateway, as the daemon knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GatewayFlow {
    /// When it ended.
    pub time: Timestamp,
    /// Name of the agent.
    pub agent: String,
    /// The program's end.
    pub source: SocketAddr,
    /// The server that the program asked for, where it said so by address.
    pub dest: Option<SocketAddr>,
    /// The name that was judged.
    pub name: Option<String>,
    /// What the program said of a name.
    pub server_name: Option<String>,
    /// The rule that allowed it.
    pub rule: Option<RuleText>,
    /// Generation of the policy that decided.
    pub generation: u32,
    /// What became of it.
    pub verdict: FlowVerdict,
    /// Why it was refused.
    pub reason: Option<Reason>,
    /// The rest.
    pub connection: ConnectionRecord,
    /// Records of its kind kept back before this one.
    pub suppressed: u64,
}

impl FlowRecord {
    /// From a connection at the gateway.
    pub fn from_gateway(flow: GatewayFlow) -> Self {
        Self {
            seq: 0,
            time: flow.time,
            agent: flow.agent,
            verdict: flow.verdict,
            reason: flow.reason,
            hook: Hook::Gateway,
            protocol: Protocol::TCP.class(),
            protocol_number: Protocol::TCP.number(),
            source: Some(flow.source.into()),
            dest: flow.dest.map(Into::into),
            names: flow.name.into_iter().collect(),
            server_name: flow.server_name,
            dns: None,
            connection: Some(flow.connection),
            rule: flow.rule,
            generation: flow.generation,
            process: None,
            cgroup: 0,
            socket_cookie: 0,
            detail: None,
            suppressed: flow.suppressed,
            traffic: None,
        }
    }
}

impl ConnectionRecord {
    /// `, 1200 B out, 53000 B in, 84 ms, closed`.
    pub(super) fn write(&self, out: &mut String) -> fmt::Result {
        use fmt::Write as _;
        if let Some(request) = &self.request {
            let path = request.path.as_deref().unwrap_or("…");
            write!(out, "  {} {}", printable(&request.method), printable(path))?;
            if let Some(status) = request.status {
                write!(out, " → {status}")?;
            }
        }
        if let Some(proxy) = &self.proxy {
            write!(out, " by {}", printable(proxy))?;
        }
        let (sent, received) = (self.sent_bytes, self.received_bytes);
        if sent + received > 0 {
            write!(out, "  {sent} B out, {received} B in")?;
        }
        if let Some(status) = self.proxy_status {
            write!(out, "  {status}")?;
        }
        write!(out, "  {}", printable(&self.outcome))?;
        if let Some(detail) = &self.detail {
            write!(out, " ({})", printable(detail))?;
        }
        Ok(())
    }
}
