//! From what gateways record to records of flows.

use std::sync::Arc;

use agent_common::Reason;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{directory::Directory, serving::next, watch::Buckets};
use crate::{
    dns::clock,
    flow::{
        ConnectionRecord, FlowRecord, FlowVerdict, GatewayFlow, InspectedRequest, RuleText,
        ServerCertificate,
    },
    gateway::{GatewayRecord, Kind, Outcome},
    kernel::object::Throttle,
    sink::Hub,
};

/// Why what ended so was refused; `None` where it was not.
fn reason(record: &GatewayRecord) -> Option<Reason> {
    let of_http = record.kind == Some(Kind::Http);
    let reason = match record.outcome {
        Outcome::NameNotAllowed => record.denied.unwrap_or(Reason::TlsName),
        Outcome::HostNotAllowed => match record.denied {
            Some(Reason::TlsName) | None => Reason::HttpHost,
            Some(reason) => reason,
        },
        Outcome::TunnelNotAllowed | Outcome::PolicyChanged => {
            record.denied.unwrap_or(Reason::NoRule)
        }
        Outcome::NoOrigin => Reason::Unsteered,
        Outcome::NoSni => Reason::TlsNoName,
        Outcome::IpLiteral | Outcome::BadName if of_http => Reason::HttpHost,
        Outcome::IpLiteral => Reason::TlsAddress,
        Outcome::BadName => Reason::TlsBadName,
        Outcome::NotTls => Reason::NotTls,
        Outcome::Malformed | Outcome::Oversize => Reason::TlsMalformed,
        Outcome::SecondHello => Reason::TlsTrailing,
        Outcome::Ech => Reason::TlsEncrypted,
        Outcome::NameMismatch => Reason::TlsName,
        Outcome::NoHost | Outcome::HostMismatch => Reason::HttpHost,
        Outcome::BadRequest | Outcome::Connect | Outcome::Http2 => Reason::HttpMalformed,
        Outcome::Unauthenticated | Outcome::BadSocks => Reason::ProxyAuth,
        Outcome::Rebind => Reason::Rebind,
        Outcome::RequestNotAllowed
        | Outcome::BodyTooLarge
        | Outcome::EncodedBody
        | Outcome::DataPattern
        | Outcome::NotInspectable => Reason::HttpRequest,
        Outcome::ServerUnverified | Outcome::PinMismatch => Reason::Server,
        // The program's own choice.
        Outcome::InspectionRefused => return None,
        outcome if outcome.is_refusal() => Reason::NoRule,
        // Late is refused too.
        Outcome::FirstByteTimeout | Outcome::HandshakeTimeout if record.rule_number.is_none() => {
            match record.kind {
                Some(Kind::Http) => Reason::HttpMalformed,
                Some(Kind::Tls) => Reason::TlsMalformed,
                Some(Kind::Tunnel) | None => Reason::NotTls,
            }
        }
        Outcome::Busy | Outcome::Broken => Reason::State,
        _ => return None,
    };
    Some(reason)
}

/// Whether there is nothing to tell: it was neither let out nor refused. It is counted.
fn said_nothing(record: &GatewayRecord) -> bool {
    let left = matches!(
        record.outcome,
        Outcome::Left | Outcome::Reset | Outcome::Stopped
    );
    left && record.rule_number.is_none()
}

fn connection(record: &GatewayRecord) -> ConnectionRecord {
    ConnectionRecord {
        door: record.door.as_str().to_owned(),
        kind: record.kind.map(|kind| kind.as_str().to_owned()),
        port: record.port,
        outcome: record.outcome.as_str().to_owned(),
        alpn: record.alpn.clone(),
        alpn_chosen: record.alpn_chosen.clone(),
        certificate: record
            .certificate
            .as_ref()
            .map(|certificate| ServerCertificate {
                sha256: data_encoding::HEXLOWER.encode(&certificate.sha256),
                issuer: certificate.issuer.clone(),
            }),
        connected: record.connected.map(Into::into),
        proxy: record.proxy.as_deref().map(str::to_owned),
        proxy_status: record.proxy_status,
        sent_bytes: record.sent,
        received_bytes: record.received,
        requests: record.requests,
        took_ms: u64::try_from(record.elapsed.as_millis()).unwrap_or(u64::MAX),
        detail: record.detail.clone(),
        request: record.request.clone().map(|request| InspectedRequest {
            method: request.method,
            path: request.path,
            status: request.status,
            sent_bytes: request.sent,
            received_bytes: request.received,
            patterns: request.patterns,
        }),
    }
}

/// The rule that let a connection out, as it was then: another policy may have come since, in
/// which its number means another rule.
fn rule_of(directory: &Directory, agent: u32, number: u32, text: &str) -> RuleText {
    let now = directory.rule(agent, number);
    now.filter(|rule| rule.text == text)
        .unwrap_or_else(|| RuleText {
            number,
            text: text.to_owned(),
            reason: None,
        })
}

/// Tells of the connections at one gateway until cancelled, refusals first.
pub(super) async fn tell(
    mut refusals: mpsc::Receiver<GatewayRecord>,
    mut flows: mpsc::Receiver<GatewayRecord>,
    throttle: Throttle,
    directory: Arc<Directory>,
    hub: Arc<Hub>,
    cancel: CancellationToken,
) {
    let mut buckets = Buckets::new(throttle);
    while let Some(record) = next(&mut refusals, &mut flows, &cancel).await {
        if said_nothing(&record) {
            continue;
        }
        let reason = reason(&record);
        let Some(suppressed) = buckets.of(reason).pass(clock::now()) else {
            continue;
        };
        let (agent, generation) = directory.agent(record.agent);
        let rule = record.rule_number.zip(record.rule.as_deref());
        let rule = rule.map(|(number, text)| rule_of(&directory, record.agent, number, text));
        hub.publish(FlowRecord::from_gateway(GatewayFlow {
            time: jiff::Timestamp::now(),
            agent,
            source: record.peer,
            dest: record.destination.map(Into::into),
            name: record.name.as_ref().map(ToString::to_string),
            server_name: match &record.sni {
                Some(name) => Some(name.to_string()),
                None => record.shown.clone(),
            },
            rule,
            generation,
            verdict: match reason {
                Some(_) => FlowVerdict::Deny,
                None => FlowVerdict::Allow,
            },
            reason,
            connection: connection(&record),
            suppressed,
        }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy;

    #[test]
    fn a_rule_is_told_as_it_was_when_it_decided() {
        let directory = Directory::default();
        let load = |host: &str| {
            let text = format!(
                "version: 1\nagents:\n  a:\n    allow:\n      - {{ host: {host}, ports: [443], reason: why }}\n"
            );
            let set = policy::parse("p.yaml", &text).expect("a policy");
            let policy = set.agents.into_values().next().expect("an agent");
            directory.update(1, |agent| agent.policy = Some(policy.into()));
        };
        let told = || rule_of(&directory, 1, 0, "allow tcp one.example:443");
        load("one.example");
        assert_eq!(told().reason.as_deref(), Some("why"));
        load("two.example");
        assert_eq!(told().text, "allow tcp one.example:443");
        assert_eq!(told().reason, None, "of the other rule nothing is told");
    }
}
