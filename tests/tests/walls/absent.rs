//! What is told of walls that this kernel does not have, and of those that it has.

use crate::scene::{WALLS, policy, state};
use exeat_tests::attack::PLAIN_USER;
use exeat_tests::stage::{AGENT, POLICY, Stage};
use serde_json::Value;

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn status_lists_every_wall_with_its_reason() {
    let stage = Stage::new(POLICY, "").expect("stage");
    let cli = |arguments: &[&str]| stage.daemon.cli(arguments).output().expect("status");
    let status = stage.daemon.status().expect("status");
    let output = cli(&["status", "--agent", AGENT, "--output", "json"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let agent: Value = serde_json::from_slice(&output.stdout).expect("json");
    assert_eq!(agent["name"], AGENT);
    let walls = agent["walls"].as_array().expect("walls");
    let of = |name: &str| {
        walls
            .iter()
            .find(|wall| wall["name"] == name)
            .expect("a wall")
    };
    for hook in ["connect4", "egress"] {
        assert_eq!(of(hook)["state"], "up", "{hook}");
    }
    for wall in WALLS {
        // The fixture says `sandbox: false`, and so none of them holds for the agent.
        assert_eq!(of(wall)["state"], "missing", "{wall}");
        let (of_all, why) = state(&status, wall);
        let detail = of(wall)["detail"].as_str().expect("a detail");
        match of_all.as_str() {
            "missing" => {
                assert!(why.len() > 10, "{wall}: {why:?}");
                assert_eq!(detail, why);
            }
            "up" => assert!(detail.contains("sandbox: false"), "{wall}: {detail}"),
            other => panic!("{wall} is {other}: {why}"),
        }
    }
    for wall in ["namespaces", "landlock", "capabilities", "seccomp"] {
        assert_eq!(of(wall)["state"], "missing", "{wall}");
        assert!(
            text(of(wall)["detail"].as_str().unwrap_or_default().as_bytes())
                .contains("sandbox: false")
        );
    }
    // What cannot be had is no fault: it is enforced all the same.
    assert_eq!(status["enforcement"]["active"], true);
    assert_eq!(status["health"]["state"], "ok", "{}", status["health"]);
    let said = text(&cli(&["status", "--agent", AGENT]).stdout);
    for word in ["WALL", "connect4", "lsm_mount", "seccomp", "missing"] {
        assert!(said.contains(word), "no {word} in {said}");
    }
    let output = cli(&["status", "--agent", "nobody-knows"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("nobody-knows"));
    for wall in WALLS {
        let up = f64::from(u8::from(state(&status, wall).0 == "up"));
        let of = format!("wall=\"{wall}\"");
        let metric = |state| {
            stage
                .daemon
                .metric("exeat_walls", &[of.as_str(), state])
                .expect("metric")
        };
        assert_eq!(
            (metric("state=\"up\""), metric("state=\"missing\"")),
            (up, 1.0 - up),
            "{wall}"
        );
    }
}

#[test]
fn doctor_has_a_finding_for_each_wall() {
    let stage = Stage::new(POLICY, "").expect("stage");
    let status = stage.daemon.status().expect("status");
    let output = stage
        .daemon
        .cli(&["doctor", "--output", "json"])
        .output()
        .expect("doctor");
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let report: Value = serde_json::from_slice(&output.stdout).expect("json");
    let findings = report["findings"].as_array().expect("findings");
    for wall in WALLS {
        let finding = findings
            .iter()
            .find(|one| one["feature"] == wall)
            .expect(wall);
        let detail = finding["detail"].as_str().expect("a detail");
        let (of_all, why) = state(&status, wall);
        match of_all.as_str() {
            "up" => assert_eq!(finding["grade"], "ok", "{finding}"),
            _ => {
                assert_eq!(finding["grade"], "missing", "{finding}");
                assert!(
                    detail.starts_with("leaves open ") && detail.contains(&why),
                    "{detail}"
                );
                assert!(!finding["advice"].as_str().unwrap_or_default().is_empty());
            }
        }
    }
}

#[test]
fn a_required_wall_that_is_missing_starts_nothing() {
    let stage = Stage::new(&policy("    require: [lsm_mount, seccomp]\n"), "").expect("stage");
    let run = || {
        stage
            .daemon
            .run_as(AGENT, PLAIN_USER, &["/bin/true"])
            .expect("run")
    };
    let output = run();
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(125), "{said}");
    for word in [
        "`worker` requires",
        "`lsm_mount` is missing: ",
        "`seccomp` is missing: ",
        "status --agent worker",
    ] {
        assert!(said.contains(word), "no {word} in {said}");
    }
    let incident = stage.daemon.event(|event| event["kind"] == "wall_missing");
    let incident = incident.expect("an incident");
    assert_eq!(incident["agent"], AGENT);
    let status = stage.daemon.status().expect("status");
    assert_eq!(status["health"]["state"], "degraded");
    assert!(
        status["health"]
            .to_string()
            .contains("worker requires `seccomp`"),
        "{}",
        status["health"]
    );
    // In monitor mode nothing is enforced, and so nothing is required.
    let monitor =
        policy("    require: [lsm_mount, seccomp]\n").replace("mode: enforce", "mode: monitor");
    stage.daemon.enforce(&monitor).expect("reload");
    assert_eq!(run().status.code(), Some(0), "{}", text(&run().stderr));
    stage.daemon.enforce(POLICY).expect("reload");
    assert_eq!(run().status.code(), Some(0), "{}", text(&run().stderr));
}

#[test]
fn check_knows_the_walls() {
    let stage = Stage::new(POLICY, "").expect("stage");
    let file = stage.world.folder().join("require.yaml");
    std::fs::write(&file, policy("    require: [secomp]\n")).expect("a file");
    let file = file.display().to_string();
    let output = stage.daemon.cli(&["check", &file]).output().expect("check");
    assert_ne!(output.status.code(), Some(0));
    let said = text(&output.stdout) + &text(&output.stderr);
    assert!(said.contains("did you mean `seccomp`?"), "{said}");
}
