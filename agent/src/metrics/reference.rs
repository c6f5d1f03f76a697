//! `docs/metrics.md`, made from the registry.

use std::fmt::Write as _;

use prometheus::Result;
use prometheus::proto::MetricType;

use super::dns::{DnsSample, GateDrop, HistogramSample, UpstreamSample};
use super::snapshot::{AgentSample, MapSample, ProcessSample, Snapshot};
use crate::control::status::{Wall, WallState};
use crate::dns::{gate::Verdict, stats::Transport};
use crate::gateway::Outcome;

/// The text of `docs/metrics.md`.
pub fn reference() -> Result<String> {
    let mut text = String::from(
        "# Metrics\n\n\
         The daemon serves them at `http://127.0.0.1:9479/metrics` (`metrics:` in \
         `/etc/exeat/config.yaml`), and its health at `/healthz`: 200 `ok`, or 503 with the \
         reasons.\n\n\
         Children of closed label sets exist from the start, at 0, so that `rate()` sees \
         the first event. No label holds a host, an address or a pid, but `upstream`, which \
         is a DNS server as the configuration or `/etc/resolv.conf` has it (the first 32 \
         that are met; all others share `other`). This page is made from the code \
         (`exeat::metrics::reference`); a test keeps it true.\n\n\
         | name | type | labels | meaning |\n|---|---|---|---|\n",
    );
    for family in super::registry(&one_of_each())?.gather() {
        let kind = match family.get_field_type() {
            MetricType::COUNTER => "counter",
            MetricType::GAUGE => "gauge",
            MetricType::HISTOGRAM => "histogram",
            MetricType::SUMMARY => "summary",
            MetricType::UNTYPED => "untyped",
        };
        let mut labels: Vec<String> = Vec::new();
        for label in family.get_metric().iter().flat_map(|m| m.get_label()) {
            let name = format!("`{}`", label.name());
            if !labels.contains(&name) {
                labels.push(name);
            }
        }
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "| `{}` | {kind} | {} | {} |",
            family.name(),
            labels.join(", "),
            family.help()
        );
    }
    text.push_str("\n## Closed labels\n\n| label | values |\n|---|---|\n");
    for (label, values) in closed_labels() {
        let values: Vec<String> = values.iter().map(|v| format!("`{v}`")).collect();
        let _ = writeln!(text, "| {label} | {} |", values.join(", "));
    }
    Ok(text)
}

fn closed_labels() -> Vec<(&'static str, Vec<&'static str>)> {
    use super::snapshot::*;
    use agent_common::{Reason, protocol::ProtocolClass};
    vec![
        (
            "`reason` of `exeat_flows_blocked_total`",
            Reason::ALL.iter().map(|v| v.as_str()).collect(),
        ),
        ("`protocol`", ProtocolClass::ALL.map(|v| v.as_str()).into()),
        (
            "`state` of `exeat_walls`",
            WallState::ALL.map(|v| v.as_str()).into(),
        ),
        (
            "`verdict` of `exeat_dns_queries_total`",
            DnsVerdict::ALL.map(|v| v.as_str()).into(),
        ),
        ("`rcode`", Rcode::ALL.map(|v| v.as_str()).into()),
        (
            "`outcome` of `exeat_gateway_connections_total`",
            Outcome::ALL.iter().map(|o| o.as_str()).collect(),
        ),
        (
            "`outcome` of `exeat_dns_outcomes_total`",
            Verdict::ALL.map(|v| v.as_str()).into(),
        ),
        (
            "`kind` of `exeat_dns_gate_drops_total`",
            GateDrop::ALL.map(|v| v.as_str()).into(),
        ),
        ("`transport`", Transport::ALL.map(|v| v.as_str()).into()),
        (
            "`reason` of `exeat_dns_upstream_failures_total`",
            UpstreamFailure::ALL.map(|v| v.as_str()).into(),
        ),
        (
            "`kind` of `exeat_policy_rules`",
            RuleKind::ALL.map(|v| v.as_str()).into(),
        ),
        (
            "`reason` of `exeat_policy_load_failures_total`",
            LoadFailure::ALL.map(|v| v.as_str()).into(),
        ),
        (
            "`reason` of `exeat_bundles_refused_total`",
            crate::bundle::RefusalKind::ALL.map(|v| v.as_str()).into(),
        ),
        (
            "`kind` of `exeat_incidents_total`",
            crate::incident::IncidentKind::ALL
                .map(|v| v.as_str())
                .into(),
        ),
        (
            "`stage` of `exeat_events_lost_total`",
            LossStage::ALL.map(|v| v.as_str()).into(),
        ),
        (
            "`outcome` of `exeat_sandbox_launches_total`",
            Launch::ALL.map(|v| v.as_str()).into(),
        ),
    ]
}

/// A snapshot with one of everything that can be several, so that no family is empty.
pub(super) fn one_of_each() -> Snapshot {
    Snapshot {
        version: "0".into(),
        revision: "0".into(),
        walls: vec![Wall {
            name: "connect4".into(),
            hook: String::new(),
            state: WallState::Up,
            detail: String::new(),
            leaves_out: Vec::new(),
        }],
        governed: 1,
        agents: vec![AgentSample {
            name: "agent".into(),
            ..AgentSample::default()
        }],
        dns: DnsSample {
            upstreams: vec![UpstreamSample {
                label: "192.0.2.53:53".into(),
                well: Some(true),
                requests: vec![(Transport::Udp, HistogramSample::default())],
                ..UpstreamSample::default()
            }],
            ..DnsSample::default()
        },
        policy_digest: "0".into(),
        policy_sources: vec!["0".into()],
        programs: vec![("connect4".into(), 1)],
        maps: vec![MapSample {
            map: "exact".into(),
            ..MapSample::default()
        }],
        process: Some(ProcessSample::default()),
        places: vec![crate::sink::SinkState {
            name: "siem".into(),
            ..Default::default()
        }],
        ..Snapshot::default()
    }
}
