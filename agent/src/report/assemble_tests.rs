//! What was said, put together.

use agent_common::{Hook, Reason};

use super::*;
use crate::control::status::tests::status;
use crate::flow::Endpoint;
use crate::flow::tests::record;

fn at(text: &str) -> Timestamp {
    text.parse().expect("time")
}

fn row(key: &str, allowed: u64, denied: u64, sent: u64) -> SummaryRow {
    SummaryRow {
        key: key.into(),
        allowed,
        denied,
        suppressed: 1,
        sent_bytes: sent,
        received_bytes: sent / 2,
        first: at("2026-03-02T10:00:00Z"),
        last: at("2026-03-03T10:00:00Z"),
        ..SummaryRow::default()
    }
}

fn asked() -> Asked {
    Asked {
        since: at("2026-03-01T00:00:00Z"),
        until: at("2026-03-08T00:00:00Z"),
        agent: None,
        now: at("2026-03-08T00:00:01Z"),
        everybody: true,
    }
}

fn said() -> Said {
    let denied = |detail: &str, verdict: &str, denied| SummaryRow {
        detail: Some(detail.into()),
        ..row(verdict, 0, denied, 0)
    };
    let destinations = vec![
        row("api.example.com", 3, 0, 900),
        row("evil.example", 0, 4, 0),
        row("", 0, 2, 0),
    ];
    let before = BTreeSet::from(["api.example.com".to_owned()]);
    let ever = SummaryRow {
        first: at("2026-02-01T00:00:00Z"),
        ..row("gone-bot", 9, 9, 9)
    };
    Said {
        status: status(),
        grants: vec![],
        ever: vec![ever],
        agents: vec![row("gone-bot", 3, 6, 900)],
        verdicts: vec![
            denied("no_rule", "deny", 5),
            denied("no_rule", "would_deny", 1),
            denied("port", "deny", 9),
            row("allow", 3, 0, 900),
        ],
        hours: vec![
            row("2026-03-02T10:00:00Z", 1, 0, 100),
            row("2026-03-02T09:00:00Z", 1, 0, 100),
            row("2026-03-02T10:00:00Z", 2, 6, 700),
            row("no hour", 2, 6, 700),
        ],
        destinations: [("gone-bot".to_owned(), (destinations, before))].into(),
        refused: vec![],
        incidents: vec![],
        incidents_since: None,
        notes: vec![],
    }
}

#[test]
fn what_was_not_there_before_is_new() {
    let report = put_together("laptop", &asked(), said());
    let new: Vec<_> = report
        .new
        .iter()
        .map(|one| one.destination.as_str())
        .collect();
    assert_eq!(new, ["evil.example"]);
    assert!(report.complete.is_whole(report.since));
    assert_eq!(report.complete.throttled, 1);
    let agents: Vec<_> = report
        .agents
        .iter()
        .map(|a| (a.agent.as_str(), a.mode.as_deref()))
        .collect();
    assert_eq!(agents, [("gone-bot", None), ("build-bot", Some("enforce"))]);
    assert_eq!(
        report.agents[0].destinations[2].destination,
        "(no destination)"
    );
    let hours: Vec<_> = report
        .hours
        .iter()
        .map(|h| (h.begin.to_string(), h.amounts.allowed))
        .collect();
    let expected = [
        ("2026-03-02T09:00:00Z".to_owned(), 1),
        ("2026-03-02T10:00:00Z".to_owned(), 3),
    ];
    assert_eq!(hours, expected);
}

#[test]
fn without_a_time_before_nothing_is_called_new() {
    let mut said = said();
    said.ever[0].first = at("2026-03-02T00:00:00Z");
    let report = put_together("laptop", &asked(), said);
    assert!(report.new.is_empty());
    assert!(!report.complete.is_whole(report.since));
}

#[test]
fn refusals_are_grouped_and_their_numbers_are_those_of_the_summary() {
    let mut said = said();
    let flow = |port, second: i64| {
        let mut flow = record();
        flow.reason = Some(Reason::NoRule);
        flow.time = at("2026-03-02T10:00:00Z") + jiff::SignedDuration::from_secs(second);
        flow.names = vec!["evil.example".into()];
        flow.server_name = None;
        flow.dns = None;
        flow.dest = Some(Endpoint {
            ip: "192.0.2.9".parse().expect("address"),
            port,
        });
        flow
    };
    said.refused = vec![flow(443, 1), flow(443, 9), flow(443, 5), flow(80, 0)];
    let mut socket = flow(0, 0);
    (socket.hook, socket.dest, socket.names) = (Hook::SockCreate, None, vec![]);
    said.refused.push(socket);
    for port in 1000..1020 {
        said.refused.push(flow(port, 0));
    }
    let report = put_together("laptop", &asked(), said);
    let reasons: Vec<_> = report
        .refused
        .iter()
        .map(|p| (p.reason.as_str(), p.flows))
        .collect();
    assert_eq!(reasons, [("port", 9), ("no_rule", 6)]);
    let part = &report.refused[1];
    assert_eq!((part.let_through, part.more), (1, 23 - EXAMPLES as u64));
    let first = &part.examples[0];
    assert_eq!(first.what, "evil.example, tcp port 443");
    assert_eq!((first.flows, first.last), (3, at("2026-03-02T10:00:09Z")));
}

#[test]
fn incidents_are_parted_from_questions_and_the_newest_stay() {
    let mut said = said();
    for n in 0..LISTED as u64 + 5 {
        said.incidents.push(Incident {
            seq: 1000 - n,
            ..Incident::new(IncidentKind::LimitHit, "a", "m")
        });
        said.incidents
            .push(Incident::new(IncidentKind::Asked, "a", "q"));
    }
    let time = said.incidents[0].time;
    for incident in &mut said.incidents {
        incident.time = time;
    }
    let report = put_together("laptop", &asked(), said);
    assert_eq!(
        (report.questions.len(), report.incidents.len()),
        (LISTED, LISTED)
    );
    assert_eq!(report.incidents[LISTED - 1].seq, 1000);
    assert_eq!(report.complete.notes.len(), 2);
}

#[test]
fn one_agent_has_its_own_walls_and_the_machines() {
    let mut said = said();
    let wall = |name: &str, state| Wall {
        name: name.into(),
        hook: String::new(),
        state,
        detail: String::new(),
        leaves_out: vec![],
    };
    said.status.enforcement.walls = vec![wall("a", WallState::Missing), wall("b", WallState::Up)];
    let own = [wall("a", WallState::Missing), wall("c", WallState::Failed)];
    said.status.agents[0].walls = own.into();
    let names = |agent: Option<&str>| -> Vec<String> {
        let walls = walls(&said.status, agent);
        walls.into_iter().map(|missing| missing.wall.name).collect()
    };
    assert_eq!(names(None), ["a", "c"]);
    assert_eq!(names(Some("other")), ["a"]);
}
