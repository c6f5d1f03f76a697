use std::collections::BTreeMap;

use super::*;
use crate::control::status::tests::status;
use crate::control::status::{Health, LimitStatus, SinkStatus, Wall};

fn at(hours: i64) -> Timestamp {
    let started: Timestamp = "2026-03-04T12:00:00Z".parse().expect("time");
    started + SignedDuration::from_hours(hours)
}

fn found(s: &Status, wanted: &Wanted) -> Verdict {
    assess(s, wanted, at(1))
}

fn grade(verdict: &Verdict, check: Check) -> Grade {
    let one = verdict.checks.iter().find(|one| one.check == check);
    one.expect("every check is there").grade
}

fn reasoned(check: Check, reason: &str) -> Status {
    let mut s = status();
    s.health = Health {
        checks: vec![check],
        ..Health::from_reasons(vec![reason.to_owned()])
    };
    s
}

#[test]
fn words_and_codes_are_what_scripts_were_told() {
    // Never change a row: scripts of others hold these numbers. Add rows.
    let promised = [
        ("daemon", 4),
        ("walls", 10),
        ("policy", 11),
        ("policy_load", 12),
        ("requirements", 13),
        ("limits", 14),
        ("adoption", 15),
        ("audit", 16),
        ("recording", 30),
        ("detection", 17),
        ("bundle", 18),
        ("wanted_policy", 19),
        ("wanted_version", 20),
        ("wanted_walls", 21),
        ("sinks", 22),
        ("losses", 23),
        ("mode", 24),
        ("optional_walls", 25),
        ("names", 26),
        ("capacity", 27),
        ("asking", 28),
        ("held", 29),
        ("other", 3),
    ];
    let is: Vec<(&str, u8)> = Check::ALL.iter().map(|c| (c.as_str(), c.code())).collect();
    assert_eq!(is, promised);
    for check in Check::ALL {
        let word = serde_json::to_string(&check).expect("json");
        assert_eq!(word, format!("\"{check}\""));
    }
    let codes: BTreeSet<u8> = codes().into_iter().map(|(code, _)| code).collect();
    assert_eq!(codes.len(), promised.len() + 4, "no code stands for two");
    let unknown: Check = serde_json::from_str("\"of_a_later_daemon\"").expect("a word");
    assert_eq!(unknown, Check::Other);
}

#[test]
fn a_healthy_machine_is_zero_and_every_check_is_told() {
    let verdict = found(&status(), &Wanted::default());
    assert!(verdict.healthy);
    assert_eq!((verdict.exit, verdict.grade), (0, Grade::Ok));
    let told: Vec<Check> = verdict.checks.iter().map(|one| one.check).collect();
    assert_eq!(told, Check::ALL);
    let facts = verdict.facts.expect("facts");
    assert_eq!((facts.agents_enforced, facts.walls_up), (1, 1));
}

#[test]
fn a_silent_daemon_is_not_healthy_whatever_is_ignored() {
    let wanted = Wanted {
        ignore: Check::ALL.into(),
        ..Wanted::default()
    };
    for code in [4, 1, 5] {
        let verdict = silent(code, "nobody answers", &wanted);
        assert!(!verdict.healthy);
        assert_eq!((verdict.exit, verdict.grade), (code, Grade::Fail));
        assert_eq!(verdict.facts, None);
        assert_eq!(grade(&verdict, Check::Walls), Grade::Unknown);
    }
}

/// One way in which each check is not as it should be.
fn broken(check: Check) -> (Status, Wanted) {
    let mut s = status();
    let mut wanted = Wanted::default();
    match check {
        Check::Daemon => panic!("that is `silent`"),
        Check::Walls => s.enforcement.walls[0].state = WallState::Failed,
        Check::Policy => s.agents.clear(),
        Check::PolicyLoad => s.policy.last_error = Some("a.yaml:1:2: no".into()),
        Check::Limits => s.agents[0].limits.push(LimitStatus {
            limit: "memory".into(),
            value: "1 GiB".into(),
            holds: false,
            detail: "no controller".into(),
        }),
        Check::WantedPolicy => wanted.policy_digest = Some("ffffffff".into()),
        Check::WantedVersion => wanted.min_version = Some([0, 1, 1]),
        Check::WantedWalls => wanted.walls = ["lsm_bpf".to_owned()].into(),
        Check::Sinks => s.sinks.push(SinkStatus {
            name: "siem".into(),
            queued: 3,
            waiting_since: Some(at(-24)),
            ..SinkStatus::default()
        }),
        Check::Losses => {
            s.events.lost_ring = 2;
            wanted.max_losses = Some(1);
        }
        Check::Recording => s.sinks.push(SinkStatus {
            name: crate::store::SINK_NAME.into(),
            trouble: Some("no room".into()),
            ..SinkStatus::default()
        }),
        Check::Mode => s.agents[0].mode = "monitor".into(),
        Check::OptionalWalls => s.enforcement.walls.push(Wall {
            name: "lsm_bpf".into(),
            hook: "lsm/bpf".into(),
            state: WallState::Missing,
            detail: "no BPF LSM".into(),
            leaves_out: Vec::new(),
        }),
        Check::Held => s.agents[0].isolated = true,
        Check::Requirements
        | Check::Adoption
        | Check::Audit
        | Check::Detection
        | Check::Bundle
        | Check::Names
        | Check::Capacity
        | Check::Asking
        | Check::Other => s = reasoned(check, "the daemon says so"),
    }
    (s, wanted)
}

#[test]
fn each_check_is_found_alone_with_its_reason_and_its_code() {
    for check in Check::ALL.into_iter().filter(|c| *c != Check::Daemon) {
        let (s, mut wanted) = broken(check);
        let verdict = found(&s, &wanted);
        let usual = check.usual();
        assert_eq!(grade(&verdict, check), usual, "{check}");
        let bad: Vec<Check> = verdict
            .checks
            .iter()
            .filter(|one| one.grade != Grade::Ok)
            .map(|one| one.check)
            .collect();
        // A wall that fell stands for nothing else, and so on: one finding, one check.
        assert_eq!(bad, [check], "{verdict:?}");
        let one = verdict.checks.iter().find(|one| one.check == check);
        assert!(!one.expect("there").reasons.is_empty(), "{check}");
        let exit = |verdict: &Verdict| (verdict.healthy, verdict.exit);
        match usual {
            Grade::Fail => assert_eq!(exit(&verdict), (false, check.code())),
            _ => assert_eq!(exit(&verdict), (true, 0), "{check}"),
        }
        wanted.fail_on = [check].into();
        assert_eq!(exit(&found(&s, &wanted)), (false, check.code()), "{check}");
        wanted.fail_on.clear();
        wanted.ignore = [check].into();
        let verdict = found(&s, &wanted);
        assert_eq!(exit(&verdict), (true, 0), "{check}");
        assert_eq!(
            grade(&verdict, check),
            Grade::Warn,
            "what is ignored is still told"
        );
    }
}

#[test]
fn of_several_the_first_of_the_table_is_the_code() {
    let mut s = status();
    s.policy.last_error = Some("no".into());
    s.enforcement.walls[0].state = WallState::Failed;
    assert_eq!(found(&s, &Wanted::default()).exit, Check::Walls.code());
    s.enforcement.walls[0].state = WallState::Up;
    assert_eq!(found(&s, &Wanted::default()).exit, Check::PolicyLoad.code());
}

#[test]
fn the_daemons_own_words_are_told_once() {
    let mut s = reasoned(Check::PolicyLoad, "the last policy load failed: no");
    s.policy.last_error = Some("no".into());
    let verdict = found(&s, &Wanted::default());
    let told: BTreeMap<Check, Vec<String>> = verdict
        .checks
        .into_iter()
        .map(|one| (one.check, one.reasons))
        .collect();
    assert_eq!(
        told[&Check::PolicyLoad],
        ["the last policy load failed: no"]
    );
}

#[test]
fn a_reason_that_nobody_placed_fails() {
    let mut s = status();
    s.health = Health::from_reasons(vec!["something of an older daemon".into()]);
    let verdict = found(&s, &Wanted::default());
    assert_eq!(
        (verdict.healthy, verdict.exit),
        (false, Check::Other.code())
    );
    s.health.reasons.clear();
    assert!(!found(&s, &Wanted::default()).healthy, "degraded, and mute");
    let mut s = status();
    s.enforcement.active = false;
    assert_eq!(found(&s, &Wanted::default()).exit, Check::Walls.code());
    s.policy.digest.clear();
    assert_eq!(found(&s, &Wanted::default()).exit, Check::Policy.code());
}

#[test]
fn losses_and_receivers_fail_beyond_what_is_borne() {
    let mut s = status();
    s.events.lost_kernel = 3;
    s.sinks.push(SinkStatus {
        name: "siem".into(),
        dropped: 2,
        ..SinkStatus::default()
    });
    let borne = |most| Wanted {
        max_losses: most,
        ..Wanted::default()
    };
    for (most, wanted) in [
        (None, Grade::Warn),
        (Some(5), Grade::Warn),
        (Some(4), Grade::Fail),
    ] {
        let verdict = found(&s, &borne(most));
        assert_eq!(grade(&verdict, Check::Losses), wanted, "{most:?}");
        assert_eq!(verdict.facts.expect("facts").losses, 5);
    }
    let mut s = reasoned(Check::Sinks, "records do not reach siem (3 wait): refused");
    s.sinks.push(SinkStatus {
        name: "siem".into(),
        queued: 3,
        trouble: Some("refused".into()),
        waiting_since: Some(at(0)),
        ..SinkStatus::default()
    });
    let sinks = |now| grade(&assess(&s, &Wanted::default(), now), Check::Sinks);
    assert_eq!(sinks(at(24)), Grade::Warn);
    assert_eq!(sinks(at(25)), Grade::Fail);
    // The clock was set back.
    assert_eq!(sinks(at(-500)), Grade::Warn);
}

#[test]
fn versions_are_compared_as_numbers() {
    assert_eq!(version("0.10.2"), Some([0, 10, 2]));
    assert_eq!(version("1.2.3-rc.1"), Some([1, 2, 3]));
    assert_eq!(version("1.2.3~rc1"), Some([1, 2, 3]));
    for wrong in ["", "1", "1.2", "1.2.x", "1.2.3.4", "v1.2.3"] {
        assert_eq!(version(wrong), None, "{wrong}");
    }
    let mut s = status();
    s.daemon.version = "0.10.0".into();
    let least = |version| Wanted {
        min_version: Some(version),
        ..Wanted::default()
    };
    assert!(found(&s, &least([0, 9, 9])).healthy);
    assert!(!found(&s, &least([0, 10, 1])).healthy);
    s.daemon.version = "unreadable".into();
    assert!(!found(&s, &least([0, 0, 1])).healthy);
}

#[test]
fn a_verdict_comes_back_from_json() {
    let verdict = found(&status(), &Wanted::default());
    let json = serde_json::to_string(&verdict).expect("json");
    assert_eq!(
        serde_json::from_str::<Verdict>(&json).expect("back"),
        verdict
    );
}
