//! What a detection rule finds, on the screen of a person.

use super::whole::governed;
use super::*;
use exeat_tests::stage::{AGENT, POLICY, Stage};

/// One rule tells people, the other does not.
const RULES: &str = "\
version: 1
rules:
  - id: told
    title: A canary name was touched
    severity: critical
    when: question.endsWith('.told.example')
    by: [agent, question]
    then: [event, notify, isolate]
  - id: silent
    title: A quiet one
    severity: high
    when: question.endsWith('.silent.example')
    then: [event]
";

/// A daemon with the rules, which may not act: the agent goes on to make them fire.
fn stage() -> (tempfile::TempDir, Stage) {
    let folder = tempfile::tempdir().expect("folder");
    std::fs::write(folder.path().join("mine.yaml"), RULES).expect("rules");
    let config = format!(
        "detect: {{starter: false, act: false, rules: ['{}']}}\n",
        folder.path().display()
    );
    (folder, Stage::new(POLICY, &config).expect("stage"))
}

/// The agent looks a name up, and the rule has told.
fn touch(stage: &Stage, name: &str, rule: &str) {
    let code = stage.curl_as(AGENT, &format!("https://{name}/"));
    assert_ne!(code.expect("run"), Some(0));
    let wanted = |event: &Value| {
        event["facts"]["rule"] == rule && (rule != "told" || event.to_string().contains(name))
    };
    stage.daemon.event(wanted).expect("a finding");
}

fn follows(notify: &Notify) {
    notify
        .says("follows the daemon's questions")
        .expect("it follows");
}

#[test]
fn what_a_rule_wants_told_is_shown_and_nothing_else() {
    let (_folder, stage) = stage();
    let desktop = Desktop::new().expect("desktop");
    let mut server = server(&desktop, &ALL);
    let notify = desktop
        .notify_with(&stage.daemon.config(), &[])
        .expect("notify");
    follows(&notify);
    touch(&stage, "x.silent.example", "silent");
    // Its follower of findings may come after that of questions: the first that is found is
    // looked for until one is seen.
    let mut n = 0;
    let shown = loop {
        n += 1;
        touch(&stage, &format!("first{n}.told.example"), "told");
        let wanted = |said: &Value| said[0] == "notify";
        if let Ok(said) = server.within(std::time::Duration::from_secs(2), wanted) {
            break said;
        }
        assert!(n < 40, "nothing is shown: {}", notify.log());
    };
    let (summary, body) = (shown[2].as_str(), shown[3].as_str().expect("a body"));
    assert_eq!(summary, Some("Exeat: critical of agent worker"));
    assert!(body.contains("A canary name was touched"), "{body}");
    assert!(body.contains(&format!("first{n}.told.example")), "{body}");
    assert!(body.contains("exeat events --agent worker"), "{body}");
    assert_eq!(shown[4], json!([]), "nothing to click");
    assert!(
        !server
            .rest()
            .iter()
            .any(|said| said.to_string().contains("quiet"))
    );
    // A daemon that comes back is followed again.
    let mut stage = stage;
    stage.daemon.kill9().expect("kill -9");
    notify.says("the daemon").expect("it is noticed");
    stage.daemon.restart().expect("restart");
    let mut n = 0;
    while server
        .within(std::time::Duration::from_secs(2), |said| {
            said[0] == "notify" && said.to_string().contains("again")
        })
        .is_err()
    {
        n += 1;
        assert!(n < 40, "nothing is shown: {}", notify.log());
        touch(&stage, &format!("again{n}.told.example"), "told");
    }
}

#[test]
fn a_governed_program_that_takes_the_servers_name_is_shown_no_finding() {
    let (_folder, stage) = stage();
    let desktop = Desktop::new().expect("desktop");
    let notifier = env!("CARGO_BIN_EXE_notifier");
    let mut fake = Notifier::start(governed(&desktop, &stage, notifier, &ALL)).expect("notifier");
    fake.order("own").expect("the name");
    let notify = desktop
        .notify_with(&stage.daemon.config(), &[])
        .expect("notify");
    follows(&notify);
    let mut n = 0;
    while !notify.log().contains("is not used: it is governed") {
        n += 1;
        assert!(n < 50, "{}", notify.log());
        touch(&stage, &format!("hidden{n}.told.example"), "told");
    }
    let rest = fake.rest();
    assert!(!rest.iter().any(|said| said[0] == "notify"), "{rest:?}");
    // An honest one is shown what waited.
    let mut honest = server(&desktop, &ALL);
    let shown = seen(&mut honest, "hidden");
    assert!(shown.actions.is_empty(), "{:?}", shown.actions);
}
