//! `exeat health`, and Intune's script and rules.

use crate::{grade, health, mdm, read, run, stage, text};
use exeat_tests::attack::PLAIN_USER;
use exeat_tests::daemon::program;
use exeat_tests::stage::{AGENT, POLICY};
use exeat_tests::wait;
use serde_json::{Value, json};
use std::cmp::Ordering;

const FAILING: &str = "version: 1\nagents:\n  worker:\n    allow:\n      - host: not_a_host!\n";

#[test]
fn each_thing_that_goes_wrong_has_its_code_and_is_in_the_json() {
    let mut stage = stage();
    let daemon = &stage.daemon;
    let (code, verdict) = health(daemon, &[]);
    assert_eq!((code, &verdict["healthy"]), (0, &json!(true)), "{verdict}");
    assert_eq!(verdict["format"], 1);
    assert_eq!(verdict["facts"]["agents_enforced"], 1);
    let digest = verdict["facts"]["policy_digest"].as_str().expect("digest");

    // What is wanted beyond that.
    for (more, wanted) in [
        (vec!["--policy-digest", &digest[..16]], 0),
        (vec!["--policy-digest", "ffffffff"], 19),
        (vec!["--min-version", "0.0.1"], 0),
        (vec!["--min-version", "99.0.0"], 20),
        (vec!["--wall", "connect4,egress"], 0),
        (vec!["--wall", "no_such_wall"], 21),
        (vec!["--max-losses", "0"], 0),
    ] {
        let (code, verdict) = health(daemon, &more);
        assert_eq!(code, wanted, "{more:?}: {verdict}");
        assert_eq!(verdict["exit"], wanted);
    }

    // A policy that cannot be loaded: the older one is in force, and that is not well.
    daemon.write_policy(FAILING).expect("write");
    assert!(!daemon.reload().expect("reload").status.success());
    let (code, verdict) = health(daemon, &[]);
    assert_eq!(
        (code, grade(&verdict, "policy_load").as_str()),
        (12, "fail")
    );
    assert_eq!(verdict["facts"]["policy_digest"], digest);
    assert_eq!(grade(&verdict, "other"), "ok", "it is told once: {verdict}");
    let (code, verdict) = health(daemon, &["--ignore", "policy_load"]);
    assert_eq!((code, grade(&verdict, "policy_load").as_str()), (0, "warn"));

    // An agent that is only watched, or cut off.
    daemon
        .enforce(&POLICY.replace("mode: enforce", "mode: monitor"))
        .expect("monitor");
    let (code, verdict) = health(daemon, &[]);
    assert_eq!(
        (code, grade(&verdict, "mode").as_str()),
        (0, "warn"),
        "{verdict}"
    );
    assert_eq!(health(daemon, &["--fail-on", "mode"]).0, 24);
    daemon.enforce(POLICY).expect("enforce");
    let isolate = run(&mut daemon.cli(&["isolate", "--agent", AGENT]));
    assert!(isolate.status.success(), "{}", text(&isolate));
    assert_eq!(health(daemon, &["--fail-on", "held"]).0, 29);

    // An agent gets no answer, whoever runs it; another user does.
    let config = daemon.config().display().to_string();
    let path = program().display().to_string();
    let output = daemon.run_as(AGENT, 0, &[&path, "--config", &config, "health"]);
    let output = output.expect("run");
    assert_eq!(output.status.code(), Some(5), "{}", text(&output));
    let output = run(&mut daemon.cli_as(PLAIN_USER, &["health"]));
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));

    // Nobody answers.
    stage.daemon.kill9().expect("kill");
    let (code, verdict) = health(&stage.daemon, &["--ignore", "walls,policy"]);
    assert_eq!((code, &verdict["healthy"]), (4, &json!(false)));
    assert_eq!(grade(&verdict, "daemon"), "fail");
    assert_eq!(grade(&verdict, "walls"), "unknown");
    assert_eq!(verdict["facts"], Value::Null);
}

#[test]
fn a_receiver_that_takes_nothing_is_behind_since_its_oldest_record() {
    let config = "ship:\n  - { name: siem, to: \"otlp+http://127.0.0.1:9\" }\n";
    let stage = exeat_tests::stage::Stage::new(POLICY, config).expect("stage");
    stage
        .curl_as(AGENT, "https://203.0.113.20/")
        .expect("a refusal");
    let verdict = wait::until("records that wait", wait::patience(), || {
        let (code, verdict) = health(&stage.daemon, &[]);
        assert_eq!(code, 0, "within the time that is borne: {verdict}");
        (grade(&verdict, "sinks") == "warn").then_some(verdict)
    });
    let verdict = verdict.expect("sinks");
    assert!(verdict["facts"]["queued"].as_u64() > Some(0), "{verdict}");
    wait::until("the receiver to be late", wait::patience(), || {
        (health(&stage.daemon, &["--sink-grace", "1s"]).0 == 22).then_some(())
    })
    .expect("late");
}

/// Whether one rule is met, as Intune's documentation defines operators and types.
fn met(rule: &Value, found: &Value) -> bool {
    let operand = &rule["Operand"];
    let order = match rule["DataType"].as_str().expect("a type") {
        "Boolean" => return found.as_bool().expect("a boolean") == operand.as_bool().expect("one"),
        "String" => found
            .as_str()
            .expect("a string")
            .cmp(operand.as_str().expect("one")),
        "Version" => version(found).cmp(&version(operand)),
        other => panic!("no rule here has the type {other}"),
    };
    match rule["Operator"].as_str().expect("an operator") {
        "IsEquals" => order == Ordering::Equal,
        "GreaterEquals" => order != Ordering::Less,
        other => panic!("no rule here has the operator {other}"),
    }
}

fn version(value: &Value) -> Vec<u64> {
    let text = value.as_str().expect("a version");
    let numbers = text.split('.').map(|part| part.parse().expect("a number"));
    numbers.collect()
}

#[test]
fn intunes_script_and_rules_tell_a_compliant_laptop_from_others() {
    let rules: Value = serde_json::from_str(&read(&mdm("intune/compliance.json"))).expect("JSON");
    let rules = rules["Rules"].as_array().expect("rules").clone();
    for rule in &rules {
        for text in ["SettingName", "Operator", "DataType", "MoreInfoUrl"] {
            assert!(rule[text].is_string(), "{text} of {rule}");
        }
        let strings = rule["RemediationStrings"].as_array().expect("strings");
        assert!(
            strings.iter().any(|one| one["Language"] == "en_US"),
            "{rule}"
        );
    }
    let mut stage = stage();
    let config = stage.daemon.config();
    let broken = |stage: &exeat_tests::stage::Stage, program: &std::path::Path| {
        // As the user who is logged in, as Intune's agent runs it.
        let mut script = stage.world.laptop.command_as(PLAIN_USER, "/bin/sh");
        script.arg(mdm("intune/discover.sh")).arg(program);
        let output = run(script.arg("--config").arg(&config));
        assert!(output.status.success(), "{}", text(&output));
        let line = String::from_utf8(output.stdout).expect("UTF-8");
        assert_eq!(line.matches('\n').count(), 1, "one line: {line}");
        let found: Value = serde_json::from_str(&line).expect("JSON");
        let missed = rules.iter().filter(|rule| {
            let name = rule["SettingName"].as_str().expect("a name");
            let value = found.get(name);
            !met(
                rule,
                value.unwrap_or_else(|| panic!("no {name} in {found}")),
            )
        });
        let names = missed.map(|rule| rule["SettingName"].as_str().expect("a name").to_owned());
        names.collect::<Vec<String>>()
    };
    assert_eq!(broken(&stage, &program()), [""; 0]);
    stage.daemon.write_policy(FAILING).expect("write");
    stage.daemon.reload().expect("reload");
    let load = ["exeat_check_policy_load", "exeat_healthy"];
    assert_eq!(broken(&stage, &program()), load);
    stage.daemon.kill9().expect("kill");
    assert_eq!(broken(&stage, &program()).len(), rules.len(), "no daemon");
    let gone = std::path::Path::new("/nowhere/exeat");
    assert_eq!(broken(&stage, gone).len(), rules.len(), "not installed");
}

#[test]
fn scripts_that_fleet_and_landscape_run_end_as_the_machine_is() {
    let mut stage = stage();
    let code = |stage: &exeat_tests::stage::Stage, name: &str| {
        let mut script = stage.world.laptop.command(mdm(name));
        script.env("EXEAT_TRIES", "0").arg(program());
        let output = run(script.arg("--config").arg(stage.daemon.config()));
        (output.status.code().expect("a code"), text(&output))
    };
    let (post, health) = ("fleet/post-install.sh", "landscape/health.sh");
    assert_eq!(code(&stage, post).0, 0);
    let (sound, said) = code(&stage, health);
    assert_eq!(sound, 0, "{said}");
    assert!(said.starts_with("healthy (exit code 0)"), "{said}");
    // No reason to roll an installation back, but for a person to look at.
    stage.daemon.write_policy(FAILING).expect("write");
    stage.daemon.reload().expect("reload");
    assert_eq!(code(&stage, post).0, 0);
    let (sound, said) = code(&stage, health);
    assert_eq!(sound, 12, "{said}");
    assert!(said.contains("fail policy_load (12)"), "{said}");
    stage.daemon.kill9().expect("kill");
    assert_eq!((code(&stage, post).0, code(&stage, health).0), (4, 4));
}
