//! Each rule of the starter set by replay: what it is for fires it, and what is near does not.

use std::path::Path;

use jiff::{SignedDuration, Timestamp};

use super::file::{self, LoadError};
use super::*;
use crate::flow::tests::record;
use crate::flow::{DnsQuestion, FlowRecord, FlowVerdict, Traffic};
use crate::incident::tests::incident;
use crate::incident::{Incident, IncidentKind};
use crate::sink::Record;
use agent_common::Hook;

fn engine() -> Engine {
    let rules = load(true, &[], true).expect("the starter set");
    Engine::new(rules, Seen::default())
}

fn at(seconds: f64) -> Timestamp {
    let begin: Timestamp = "2026-03-04T12:00:00Z".parse().expect("time");
    begin + SignedDuration::from_secs_f64(seconds)
}

fn flow(seconds: f64, verdict: FlowVerdict, name: &str) -> FlowRecord {
    FlowRecord {
        time: at(seconds),
        verdict,
        names: vec![name.to_owned()],
        server_name: None,
        ..record()
    }
}

fn question(seconds: f64, name: &str) -> FlowRecord {
    FlowRecord {
        hook: Hook::Dns,
        dns: Some(DnsQuestion {
            name: name.to_owned(),
            qtype: "A".into(),
            ..DnsQuestion::default()
        }),
        ..flow(seconds, FlowVerdict::Deny, name)
    }
}

fn event(seconds: f64, kind: IncidentKind) -> Incident {
    Incident {
        time: at(seconds),
        kind,
        ..incident()
    }
}

/// Rules that fired, in order.
fn fired(engine: &mut Engine, records: impl IntoIterator<Item = Record>) -> Vec<String> {
    let found: Vec<_> = (records.into_iter())
        .flat_map(|record| engine.feed(&record))
        .map(|detection| detection.rule)
        .collect();
    assert_eq!(engine.counts().errors, 0, "{:?}", engine.troubles());
    found
}

#[test]
fn no_rule_fails_for_any_kind_of_record() {
    let mut engine = engine();
    let all = IncidentKind::ALL
        .iter()
        .map(|kind| Record::Incident(event(0.0, *kind)));
    fired(&mut engine, all);
    for verdict in [
        FlowVerdict::Allow,
        FlowVerdict::Deny,
        FlowVerdict::WouldDeny,
    ] {
        let mut bare = flow(1.0, verdict, "a.example");
        (bare.process, bare.dest, bare.reason) = (None, None, None);
        fired(
            &mut engine,
            [Record::Flow(bare), Record::Flow(question(2.0, "x.example"))],
        );
    }
}

#[test]
fn many_refusals() {
    let refused = |n: i32, gap: f64| {
        (0..n).map(move |i| Record::Flow(flow(f64::from(i) * gap, FlowVerdict::Deny, "a.example")))
    };
    assert_eq!(fired(&mut engine(), refused(99, 0.1)), Vec::<String>::new());
    assert_eq!(fired(&mut engine(), refused(100, 0.1)), ["many-refusals"]);
    // It is not told again at once.
    assert_eq!(fired(&mut engine(), refused(1000, 0.1)), ["many-refusals"]);
    // As many, but slowly.
    assert_eq!(
        fired(&mut engine(), refused(200, 2.0)),
        Vec::<String>::new()
    );
    let scan = (0..30).map(|i| {
        Record::Flow(flow(
            f64::from(i),
            FlowVerdict::Deny,
            &format!("h{i}.example"),
        ))
    });
    assert_eq!(fired(&mut engine(), scan), ["many-refusals"]);
    let allowed =
        (0..500).map(|i| Record::Flow(flow(f64::from(i), FlowVerdict::Allow, "a.example")));
    assert_eq!(fired(&mut engine(), allowed), Vec::<String>::new());
}

#[test]
fn agents_are_counted_apart() {
    let mixed = (0..150).map(|i| {
        let mut one = flow(f64::from(i) * 0.1, FlowVerdict::Deny, "a.example");
        one.agent = format!("agent-{}", i % 2);
        Record::Flow(one)
    });
    assert_eq!(fired(&mut engine(), mixed), Vec::<String>::new());
}

#[test]
fn refused_approvals() {
    let answers = |outcome: &'static str| {
        (0..5).map(move |i| {
            let answered = event(f64::from(i) * 60.0, IncidentKind::Answered);
            Record::Incident(answered.with("outcome", outcome))
        })
    };
    assert_eq!(
        fired(&mut engine(), answers("denied")),
        ["refused-approvals"]
    );
    assert_eq!(
        fired(&mut engine(), answers("timed_out")),
        ["refused-approvals"]
    );
    assert_eq!(
        fired(&mut engine(), answers("allowed")),
        Vec::<String>::new()
    );
}

#[test]
fn high_outgoing_volume() {
    let sent = |megabytes: u64, gap: f64| {
        (0..6).map(move |i| {
            let mut ended = flow(f64::from(i) * gap, FlowVerdict::Allow, "drop.example");
            ended.traffic = Some(Traffic {
                sent_bytes: megabytes * 1_000_000,
                ..Traffic::default()
            });
            Record::Flow(ended)
        })
    };
    assert_eq!(
        fired(&mut engine(), sent(100, 30.0)),
        ["high-outgoing-volume"]
    );
    assert_eq!(fired(&mut engine(), sent(50, 30.0)), Vec::<String>::new());
    assert_eq!(fired(&mut engine(), sent(100, 400.0)), Vec::<String>::new());
}

#[test]
fn beaconing() {
    let ends = |times: Vec<f64>| {
        times.into_iter().map(|at| {
            let mut ended = flow(at, FlowVerdict::Allow, "c2.example");
            ended.traffic = Some(Traffic {
                sent_bytes: 900,
                ..Traffic::default()
            });
            Record::Flow(ended)
        })
    };
    // A minute, give or take a second.
    let clock = (0..12)
        .map(|i| f64::from(i) * 60.0 + f64::from(i % 3) - 1.0)
        .collect();
    assert_eq!(fired(&mut engine(), ends(clock)), ["beaconing"]);
    // A person: pauses of very different length.
    let person = (0..40).map(|i| f64::from(i * i) * 7.0).collect();
    assert_eq!(fired(&mut engine(), ends(person)), Vec::<String>::new());
    // A busy program: as regular, but many times a second.
    let busy = (0..100).map(|i| f64::from(i) * 0.5).collect();
    assert_eq!(fired(&mut engine(), ends(busy)), Vec::<String>::new());
}

#[test]
fn dns_entropy() {
    let data = (0..20u64).map(|i| {
        let label: String = (0..40u64)
            .map(|n| {
                let letter = (i * 7919 + n * 104_729 + n * n * 31) % 36;
                char::from_digit(u32::try_from(letter).expect("digit"), 36).expect("digit")
            })
            .collect();
        Record::Flow(question(i as f64, &format!("{label}.evil.example")))
    });
    assert!(fired(&mut engine(), data).contains(&"dns-entropy".to_owned()));
    let hosts = (0..200).map(|i| {
        Record::Flow(question(
            f64::from(i) * 3.0,
            &format!("ec2-{i}.eu-central-1.compute.amazonaws.com"),
        ))
    });
    assert!(!fired(&mut engine(), hosts).contains(&"dns-entropy".to_owned()));
}

#[test]
fn canary() {
    let touched = question(0.0, "x.canary.exeat.invalid");
    let mut engine = engine();
    let found = engine.feed(&Record::Flow(touched));
    assert_eq!(found.len(), 1);
    assert_eq!(
        found[0].actions,
        [Action::Event, Action::Notify, Action::Isolate]
    );
    let incident = found[0].incident();
    assert_eq!(incident.facts["rule"], "canary");
    assert_eq!(incident.facts["severity"], "critical");
    // What was found is not looked at again, or a finding could find itself.
    assert_eq!(
        fired(&mut engine, [Record::Incident(incident)]),
        Vec::<String>::new()
    );
    let near = question(100.0, "notcanary.exeat.invalid");
    assert_eq!(
        fired(&mut engine, [Record::Flow(near)]),
        Vec::<String>::new()
    );
}

#[test]
fn new_destinations_are_told_of_agents_that_are_known() {
    let day = 86_400.0;
    let mut engine = engine();
    let allowed = |seconds, name: &str| Record::Flow(flow(seconds, FlowVerdict::Allow, name));
    let first_week = (0..7).map(|i| allowed(f64::from(i) * day, &format!("api.d{i}.example")));
    assert_eq!(fired(&mut engine, first_week), Vec::<String>::new());
    assert_eq!(
        fired(&mut engine, [allowed(8.0 * day, "www.d3.example")]),
        Vec::<String>::new()
    );
    assert_eq!(
        fired(&mut engine, [allowed(8.0 * day, "api.new.example")]),
        ["new-destination"]
    );
    assert_eq!(
        fired(&mut engine, [allowed(20.0 * day, "api.new.example")]),
        Vec::<String>::new()
    );

    // It is remembered over a restart.
    let dir = tempfile::tempdir().expect("folder");
    let file = dir.path().join("detect/seen.json");
    assert!(engine.seen.is_dirty());
    engine.seen.save(&file).expect("saved");
    let seen = Seen::load(&file).expect("loaded");
    let mut again = Engine::new(load(true, &[], true).expect("rules"), seen);
    assert_eq!(
        fired(&mut again, [allowed(21.0 * day, "api.new.example")]),
        Vec::<String>::new()
    );
    assert_eq!(
        fired(&mut again, [allowed(21.0 * day, "x.other.example")]),
        ["new-destination"]
    );
}

#[test]
fn groups_are_bounded() {
    let mut engine = engine();
    for i in 0..5000 {
        let mut ended = flow(
            f64::from(i) * 0.001,
            FlowVerdict::Allow,
            &format!("h{i}.example"),
        );
        ended.traffic = Some(Traffic {
            sent_bytes: 900,
            ..Traffic::default()
        });
        engine.feed(&Record::Flow(ended));
    }
    assert!(engine.largest() <= 1024, "{}", engine.largest());
}

fn error(text: &str) -> String {
    let mut rules = Vec::new();
    let error = file::add(&mut rules, Path::new("my.yaml"), text).expect_err(text);
    assert!(!matches!(error, LoadError::Read { .. }));
    error.to_string()
}

fn rule(lines: &str) -> String {
    format!("version: 1\nrules:\n  - id: r\n    title: t\n{lines}")
}

#[test]
fn what_is_wrong_with_a_rule_is_said() {
    let said = error(&rule("    when: verdit == \"deny\"\n"));
    assert!(
        said.contains("rule `r`") && said.contains("`verdict`"),
        "{said}"
    );
    let said = error(&rule("    when: verdict ==\n"));
    assert!(said.contains("does not compile"), "{said}");
    let said = error(&rule("    when: frob(verdict)\n"));
    assert!(said.contains("`frob`"), "{said}");
    let said = error(&rule("    when: \"true\"\n    having: distinct > 3\n"));
    assert!(said.contains("`value`"), "{said}");
    let said = error(&rule("    when: \"true\"\n    within: 90\n"));
    assert!(said.contains("90s"), "{said}");
    let said = error(&rule("    when: \"true\"\n    then: [explode]\n"));
    assert!(
        said.contains("explode") && said.contains("isolate"),
        "{said}"
    );
    let said = error("version: 2\nrules: []\n");
    assert!(said.contains("write 1"), "{said}");
    let said = error(&rule("    when: count > 3\n"));
    assert!(said.contains("`count`"), "{said}");
}

#[test]
fn a_later_file_changes_a_rule_or_takes_it_away() {
    let dir = tempfile::tempdir().expect("folder");
    let off = "version: 1\nrules:\n  - {id: canary, title: off, when: 'false', enabled: false}\n";
    std::fs::write(dir.path().join("10.yaml"), off).expect("file");
    std::fs::write(dir.path().join("20.yaml"), rule("    when: 'true'\n")).expect("file");
    let rules = load(true, &[dir.path().to_owned()], false).expect("rules");
    let ids: Vec<_> = rules.iter().map(|rule| rule.id.as_str()).collect();
    assert!(!ids.contains(&"canary") && ids.contains(&"r"), "{ids:?}");
    let missing = load(false, &["/nonexistent/rules".into()], false).expect_err("missing");
    assert!(missing.to_string().contains("/nonexistent/rules"));
    assert!(
        load(false, &["/nonexistent/rules".into()], true)
            .expect("none")
            .is_empty()
    );
}
