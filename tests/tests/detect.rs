//! Detection rules as an admin lives with them: what they find is told and done, and what is
//! wrong with them is said.

use std::io::Write as _;
use std::process::Stdio;

use exeat_tests::stage::{AGENT, POLICY, Stage};
use exeat_tests::wait;
use serde_json::Value;

/// curl's exit codes: https://curl.se/docs/manpage.html#EXIT
const CANNOT_RESOLVE: i32 = 6;

/// A rule that isolates, in a folder of the stage.
fn with_rules(rules: &str) -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().expect("folder");
    std::fs::write(folder.path().join("mine.yaml"), rules).expect("rules");
    let config = format!("detect: {{rules: ['{}']}}\n", folder.path().display());
    (folder, config)
}

const CANARY: &str = "\
version: 1
rules:
  - id: canary
    title: A canary name was touched
    severity: critical
    lists: {canaries: [canary.example]}
    when: lists.canaries.exists(c, question == c || question.endsWith('.' + c))
    then: [event, isolate]
";

fn found(stage: &Stage, rule: &str) -> Value {
    stage
        .daemon
        .event(|event| event["kind"] == "detected" && event["facts"]["rule"] == rule)
        .expect("a finding")
}

#[test]
fn a_canary_name_cuts_the_agent_off() {
    let (_folder, config) = with_rules(CANARY);
    let stage = Stage::new(POLICY, &config).expect("stage");
    let code = |url: &str| stage.curl_as(AGENT, url).expect("run");
    assert_eq!(code("https://allowed.example/"), Some(0));
    assert_eq!(code("https://x.canary.example/"), Some(CANNOT_RESOLVE));
    let finding = found(&stage, "canary");
    assert_eq!(finding["agent"], AGENT);
    assert_eq!(finding["facts"]["severity"], "critical");
    assert!(
        finding["message"]
            .as_str()
            .expect("text")
            .contains("canary"),
        "{finding}"
    );
    wait::until("the cut", wait::patience(), || {
        let status = stage.daemon.status().ok()?;
        let agents = status["agents"].as_array()?.clone();
        (agents.iter())
            .any(|a| a["name"] == AGENT && a["isolated"] == true)
            .then_some(())
    })
    .expect("isolated");
    assert_ne!(code("https://allowed.example/"), Some(0));
}

#[test]
fn rules_only_tell_where_they_may_not_act() {
    let (_folder, config) = with_rules(CANARY);
    let config = config.replace("detect: {", "detect: {act: false, ");
    let stage = Stage::new(POLICY, &config).expect("stage");
    stage
        .curl_as(AGENT, "https://canary.example/")
        .expect("run");
    found(&stage, "canary");
    let code = stage
        .curl_as(AGENT, "https://allowed.example/")
        .expect("run");
    assert_eq!(code, Some(0));
    let counted = stage
        .daemon
        .metric("exeat_incidents_total", &["kind=\"detected\""]);
    assert!(counted.expect("metric") >= 1.0);
}

#[test]
fn rules_that_are_not_sound_are_told_and_cost_no_enforcement() {
    let (folder, config) =
        with_rules("version: 1\nrules: [{id: r, title: t, when: verdit == 'x'}]\n");
    let stage = Stage::new(POLICY, &config).expect("stage");
    let status = stage.daemon.status().expect("status").to_string();
    assert!(
        status.contains("no detection rule is in force") && status.contains("`verdict`"),
        "{status}"
    );
    let code = stage
        .curl_as(AGENT, "https://allowed.example/")
        .expect("run");
    assert_eq!(code, Some(0));
    let rules = folder.path().to_str().expect("path");
    let checked = stage
        .daemon
        .cli(&["detect", "check", rules])
        .output()
        .expect("run");
    assert_eq!(checked.status.code(), Some(2));
    let said = String::from_utf8_lossy(&checked.stderr);
    assert!(
        said.contains("mine.yaml") && said.contains("rule `r`"),
        "{said}"
    );
}

#[test]
fn recorded_events_are_replayed() {
    let stage = Stage::new(POLICY, "").expect("stage");
    for _ in 0..3 {
        stage
            .curl_as(AGENT, "https://x.canary.exeat.invalid/")
            .expect("run");
    }
    stage
        .daemon
        .event(|event| event["dns"]["name"] == "x.canary.exeat.invalid")
        .expect("asked");
    let events = stage
        .daemon
        .cli(&["events", "-n", "1000", "--output", "json"])
        .output()
        .expect("run");
    let mut test = stage
        .daemon
        .cli(&["detect", "test", "--output", "json"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("run");
    test.stdin
        .take()
        .expect("stdin")
        .write_all(&events.stdout)
        .expect("written");
    let output = test.wait_with_output().expect("ended");
    assert_eq!(output.status.code(), Some(1));
    let findings: Value = serde_json::from_slice(&output.stdout).expect("json");
    let rules: Vec<_> = findings
        .as_array()
        .expect("list")
        .iter()
        .map(|f| &f["facts"]["rule"])
        .collect();
    assert!(rules.contains(&&Value::from("canary")), "{rules:?}");
    let listed = stage
        .daemon
        .cli(&["detect", "check"])
        .output()
        .expect("run");
    let text = String::from_utf8_lossy(&listed.stdout);
    assert!(
        text.contains("canary") && text.contains("beaconing"),
        "{text}"
    );
}
