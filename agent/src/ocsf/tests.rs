use std::collections::BTreeSet;

use agent_common::{Hook, Reason};

use super::schema::Schema;
use super::*;
use crate::flow::{
    ConnectionRecord, DnsQuestion, FlowRecord, FlowVerdict, InspectedRequest, RuleText,
    ServerCertificate, Traffic,
};
use crate::incident::{DAEMON, Incident, IncidentKind, NO_AGENT};

pub(crate) fn device() -> Device {
    Device {
        hostname: "laptop".into(),
        os: "Some Linux 7".into(),
        os_version: "7".into(),
        kernel: "6.18.0".into(),
        uid: "0123456789abcdef".into(),
        start: "boot/1/2".into(),
        version: "0.1.0".into(),
    }
}

fn flow() -> FlowRecord {
    FlowRecord {
        seq: 7,
        ..crate::flow::tests::record()
    }
}

fn gateway() -> FlowRecord {
    FlowRecord {
        hook: Hook::Gateway,
        names: vec!["api.example".into()],
        server_name: Some("api.example".into()),
        verdict: FlowVerdict::Allow,
        reason: None,
        process: None,
        rule: Some(RuleText {
            number: 3,
            text: "allow api.example:443".into(),
            reason: Some("the build needs it".into()),
        }),
        connection: Some(ConnectionRecord {
            door: "steered".into(),
            kind: Some("tls".into()),
            port: 443,
            outcome: "closed".into(),
            alpn: vec!["h2".into()],
            alpn_chosen: Some("h2".into()),
            certificate: Some(ServerCertificate {
                sha256: "00".into(),
                issuer: "CN=x".into(),
            }),
            connected: Some(
                "203.0.113.9:443"
                    .parse::<std::net::SocketAddr>()
                    .expect("end")
                    .into(),
            ),
            proxy: Some("[2001:db8::1]:3128".into()),
            proxy_status: Some(407),
            sent_bytes: 5,
            received_bytes: 6,
            requests: 1,
            took_ms: 9,
            request: None,
            detail: Some("done".into()),
        }),
        ..flow()
    }
}

fn question() -> FlowRecord {
    FlowRecord {
        hook: Hook::Dns,
        dest: None,
        process: None,
        dns: Some(DnsQuestion {
            name: "a.example".into(),
            qtype: "A".into(),
            outcome: "answered".into(),
            rcode: "noerror".into(),
            addresses: vec![
                "203.0.113.9".parse().expect("ip"),
                "2001:db8::2".parse().expect("ip"),
            ],
            ttl: Some(60),
            chain: vec!["b.example".into()],
            left_out: vec!["10.0.0.1".into()],
            upstream: Some("9.9.9.9".into()),
            source: Some("upstream".into()),
            took_us: Some(2500),
            detail: None,
        }),
        verdict: FlowVerdict::Allow,
        reason: None,
        ..flow()
    }
}

/// Every shape of record there is, and every word of the closed lists.
fn all() -> Vec<Record> {
    let mut flows = vec![gateway(), question()];
    for hook in Hook::ALL {
        for verdict in [
            FlowVerdict::Deny,
            FlowVerdict::WouldDeny,
            FlowVerdict::Allow,
        ] {
            for bare in [false, true] {
                let mut flow = FlowRecord {
                    hook: *hook,
                    verdict,
                    ..flow()
                };
                if bare {
                    (flow.process, flow.dest, flow.source) = (None, None, None);
                }
                flows.push(flow);
            }
        }
    }
    for reason in Reason::ALL {
        flows.push(FlowRecord {
            reason: Some(*reason),
            ..flow()
        });
    }
    flows.push(FlowRecord {
        traffic: Some(Traffic::default()),
        ..flow()
    });
    let mut inspected = gateway();
    if let Some(connection) = &mut inspected.connection {
        connection.request = Some(InspectedRequest {
            method: "BREW".into(),
            path: Some("/pot".into()),
            status: Some(418),
            sent_bytes: 1,
            received_bytes: 2,
            patterns: vec!["keys".into()],
        });
    }
    flows.push(inspected.clone());
    if let Some(request) = inspected
        .connection
        .as_mut()
        .and_then(|c| c.request.as_mut())
    {
        (request.method, request.path) = ("POST".into(), None);
    }
    flows.push(inspected);
    for outcome in crate::gateway::Outcome::ALL {
        let mut flow = gateway();
        if let Some(connection) = &mut flow.connection {
            connection.outcome = outcome.as_str().into();
        }
        flows.push(flow);
    }
    for rcode in ["noerror", "nxdomain", "servfail", "refused", "", "yxdomain"] {
        let mut flow = question();
        if let Some(dns) = &mut flow.dns {
            dns.rcode = rcode.into();
        }
        flows.push(flow);
    }
    let mut records: Vec<Record> = flows.into_iter().map(Record::Flow).collect();
    for kind in IncidentKind::ALL {
        for agent in [NO_AGENT, DAEMON, "build-bot"] {
            let plain = Incident::new(kind, agent, "what happened");
            let full = plain
                .clone()
                .of_run("r1")
                .of_process(7, Some(1000))
                .with("question", "abc123")
                .with("rule", "beacon")
                .with("grant", "g1");
            records.extend([Record::Incident(plain), Record::Incident(full)]);
        }
    }
    records
}

#[test]
fn every_event_is_what_the_schema_says() {
    let schema = Schema::read();
    assert_eq!(schema.version, VERSION);
    let mut classes = BTreeSet::new();
    for record in all() {
        let event = event(&record, &device());
        let faults = schema.faults(&event);
        assert!(faults.is_empty(), "{faults:#?} in {event:#}");
        classes.insert(event["class_uid"].to_string());
        let type_uid = event["class_uid"].as_u64().expect("class") * 100
            + event["activity_id"].as_u64().expect("activity");
        assert_eq!(event["type_uid"].as_u64(), Some(type_uid));
    }
    let known: BTreeSet<_> = schema.classes.keys().cloned().collect();
    assert_eq!(classes, known, "no class is in the table for nothing");
}

/// The attributes that each class requires, by <https://schema.ocsf.io/1.8.0>: written out, so
/// that the table of the schema is held against something that a person can read.
#[test]
fn required_attributes_are_there() {
    let everywhere = [
        "activity_id",
        "category_uid",
        "class_uid",
        "metadata",
        "severity_id",
        "time",
        "type_uid",
    ];
    let more: &[(u64, &[&str])] = &[
        (1003, &["actor", "device", "kernel"]),
        (1007, &["actor", "device", "process"]),
        (2004, &["finding_info"]),
        (3004, &["entity"]),
        (4001, &["src_endpoint", "connection_info"]),
        (4003, &["src_endpoint", "dst_endpoint"]),
        (5019, &["device"]),
        (6002, &["app"]),
        (6008, &[]),
        (7001, &["command_uid"]),
    ];
    for record in all() {
        let event = event(&record, &device());
        let class = event["class_uid"].as_u64().expect("class");
        let (_, own) = more.iter().find(|(uid, _)| *uid == class).expect("class");
        for name in everywhere.iter().chain(*own) {
            // A packet that comes in has its far end as the source, if it is known at all.
            let ends = ["src_endpoint", "dst_endpoint"];
            let there = match ends.contains(name) {
                true => ends.iter().any(|end| event.get(end).is_some()),
                false => event.get(name).is_some(),
            };
            assert!(there, "{name} in {event:#}");
        }
        for name in ["version", "product", "uid", "sequence"] {
            assert!(event["metadata"].get(name).is_some(), "{name}");
        }
        assert!(serde_json::to_vec(&event).expect("json").len() <= MAX_BYTES);
    }
}

#[test]
fn the_schema_is_no_rubber_stamp() {
    let schema = Schema::read();
    let good = event(&Record::Flow(flow()), &device());
    let spoilt = |spoil: &dyn Fn(&mut Value)| {
        let mut event = good.clone();
        spoil(&mut event);
        schema.faults(&event).len()
    };
    assert_eq!(spoilt(&|_| {}), 0);
    assert_eq!(spoilt(&|e| drop(object_of(e).remove("time"))), 1);
    assert_eq!(spoilt(&|e| e["made_up"] = 1.into()), 1);
    assert_eq!(spoilt(&|e| e["severity_id"] = 7.into()), 1);
    assert_eq!(spoilt(&|e| e["severity_id"] = "1".into()), 1);
    assert_eq!(spoilt(&|e| e["src_endpoint"]["ip"] = "x".into()), 1);
    assert_eq!(spoilt(&|e| e["metadata"]["profiles"] = json!(["host"])), 6);
}

fn object_of(value: &mut Value) -> &mut Fields {
    value.as_object_mut().expect("object")
}

#[test]
fn a_denied_connect_reads_as_one() {
    let event = event(&Record::Flow(flow()), &device());
    assert_eq!(event["class_uid"], 4001);
    assert_eq!(event["type_name"], "Network Activity: Open");
    assert_eq!(
        (&event["action"], &event["disposition"]),
        (&"Denied".into(), &"Blocked".into())
    );
    assert_eq!(event["dst_endpoint"]["ip"], "203.0.113.9");
    assert_eq!(event["dst_endpoint"]["port"], 443);
    assert_eq!(event["connection_info"]["direction"], "Outbound");
    assert_eq!(event["actor"]["process"]["file"]["path"], "/usr/bin/curl");
    assert_eq!(event["actor"]["user"]["uid"], "1000");
    assert_eq!(event["actor"]["app_name"], "build-bot");
    assert_eq!(event["policy"]["version"], "9");
    assert_eq!(event["status_code"], "no_rule");
    assert_eq!(event["unmapped"]["hook"], "connect4");
    assert_eq!(event["metadata"]["sequence"], 7);
}

#[test]
fn names_bytes_and_proxies_have_their_places() {
    let event = event(&Record::Flow(gateway()), &device());
    assert_eq!(event["tls"]["sni"], "api.example");
    assert_eq!(event["dst_endpoint"]["hostname"], "api.example");
    assert_eq!(
        event["traffic"],
        json!({"bytes": 11, "bytes_out": 5, "bytes_in": 6})
    );
    assert_eq!(event["activity_name"], "Close");
    assert_eq!(event["firewall_rule"]["name"], "allow api.example:443");
    let behind = &event["proxy_endpoint"]["proxy_endpoint"];
    assert_eq!(behind, &json!({"hostname": "2001:db8::1", "port": 3128}));
    let dns = super::event(&Record::Flow(question()), &device());
    assert_eq!(dns["class_uid"], 4003);
    assert_eq!(dns["answers"].as_array().map(Vec::len), Some(3));
    assert_eq!(
        dns["response_time"].as_i64().expect("time") - dns["query_time"].as_i64().expect("time"),
        2
    );
}

#[test]
fn the_id_is_the_same_for_the_same_record_and_no_other() {
    let id = |seq, device: &Device| {
        let event = event(&Record::Flow(FlowRecord { seq, ..flow() }), device);
        event["metadata"]["uid"].as_str().expect("uid").to_owned()
    };
    let other = Device {
        start: "boot/1/3".into(),
        ..device()
    };
    let ids: BTreeSet<_> = [
        id(1, &device()),
        id(1, &device()),
        id(2, &device()),
        id(1, &other),
    ]
    .into();
    assert_eq!(ids.len(), 3);
    for id in ids {
        assert_eq!(id.parse::<uuid::Uuid>().expect("uuid").get_version_num(), 7);
    }
}

#[test]
fn endless_fields_are_cut_and_it_says_so() {
    let schema = Schema::read();
    let hostile = "\u{1}\u{1F608}".repeat(2_000);
    let mut flow = gateway();
    flow.server_name = Some(hostile.clone());
    flow.agent.clone_from(&hostile);
    flow.names = vec![hostile.clone(); 100];
    if let Some(connection) = &mut flow.connection {
        connection.alpn = vec![hostile.clone(); 16];
        connection.detail = Some(hostile.clone());
        connection.door.clone_from(&hostile);
    }
    let mut incident = Incident::new(IncidentKind::Detected, &*hostile, &*hostile);
    for n in 0..100 {
        incident = incident.with(&format!("fact{n}"), &*hostile);
    }
    for record in [Record::Flow(flow), Record::Incident(incident)] {
        let event = event(&record, &device());
        let length = serde_json::to_vec(&event).expect("json").len();
        assert!(length <= MAX_BYTES, "{length}");
        assert_eq!(event["metadata"]["is_truncated"], true);
        assert!(event["metadata"]["untruncated_size"].as_u64() > Some(100_000));
        assert!(
            schema.faults(&event).is_empty(),
            "{:?}",
            schema.faults(&event)
        );
    }
    let plain = event(&Record::Flow(super::tests::flow()), &device());
    assert!(plain["metadata"].get("is_truncated").is_none());
}

#[test]
fn what_matched_a_pattern_and_what_is_named_a_secret_stay_out() {
    let incident = Incident::new(IncidentKind::Granted, "a", "m")
        .with("webhook_token", "hunter2")
        .with("grant", "g1");
    let event = event(&Record::Incident(incident), &device());
    assert!(!event.to_string().contains("hunter2"));
    assert_eq!(event["entity"]["uid"], "g1");
}
