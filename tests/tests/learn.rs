//! `exeat learn` against a daemon: what a program did becomes rules under which it may do it
//! again, and nothing else.

use exeat_tests::attack::PLAIN_USER;
use exeat_tests::stage::{AGENT, ALLOWED_V4, OTHER, OTHER_V4, POLICY, Stage};
use exeat_tests::wait;
use std::process::{Output, Stdio};

const MONITOR: &str = "\
version: 1
agents:
  worker:
    # a person wrote this
    mode: monitor
";

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn both(output: &Output) -> String {
    format!("{}\n{}", text(&output.stdout), text(&output.stderr))
}

fn learn(stage: &Stage, options: &[&str], command: &[String]) -> Output {
    let mut arguments = vec!["learn", "--agent", AGENT];
    arguments.extend(options);
    let mut learn = stage.daemon.cli(&arguments);
    if !command.is_empty() {
        learn.arg("--").args(command);
    }
    learn.stdin(Stdio::null()).output().expect("learn")
}

#[test]
fn a_command_is_watched_and_may_do_the_same_again_under_what_was_learned() {
    let stage = Stage::new(MONITOR, "").expect("stage");
    let before = std::fs::read_to_string(stage.daemon.policy_file()).expect("policy");
    let curl = stage.curl(&format!("https://{OTHER}/?token=very-secret"));

    let shown = learn(&stage, &[], &curl);
    let said = both(&shown);
    assert_eq!(shown.status.code(), Some(0), "{said}");
    for part in [
        "+    allow:",
        &format!("+      - host: {OTHER}"),
        "+        ports: [443]",
        "/curl: ",
        "     # a person wrote this",
    ] {
        assert!(text(&shown.stdout).contains(part), "{part}:\n{said}");
    }
    assert!(!said.contains("very-secret"), "{said}");
    let after = std::fs::read_to_string(stage.daemon.policy_file()).expect("policy");
    assert_eq!(before, after, "nothing is written without --write");

    let file = stage.daemon.policy_file().display().to_string();
    let written = learn(&stage, &["--write", &file], &curl);
    assert_eq!(written.status.code(), Some(0), "{}", both(&written));
    let learned = std::fs::read_to_string(&file).expect("policy");
    stage
        .daemon
        .enforce(&learned.replace("mode: monitor", "mode: enforce"))
        .expect("enforce");
    let to = |url: &str| stage.curl_as(AGENT, url).expect("curl");
    assert_eq!(to(&format!("https://{OTHER}/")), Some(0), "{learned}");
    assert_ne!(to(&format!("http://{OTHER}/")), Some(0), "{learned}");
    assert_ne!(to(&format!("http://{OTHER_V4}/")), Some(0), "{learned}");
    assert_ne!(to("https://allowed.example/"), Some(0), "{learned}");
}

#[test]
fn refusals_of_an_enforced_agent_are_learned_from() {
    let stage = Stage::new(POLICY, "").expect("stage");
    assert_ne!(
        stage
            .curl_as(AGENT, &format!("http://{OTHER_V4}/"))
            .expect("curl"),
        Some(0)
    );
    assert_ne!(
        stage
            .curl_as(AGENT, &format!("https://{OTHER}/"))
            .expect("curl"),
        Some(0)
    );
    // Records come after the verdict.
    stage
        .daemon
        .event(|event| event["dns"]["name"] == OTHER)
        .expect("a refused name");
    let learned = wait::until("both refusals", wait::patience(), || {
        let output = learn(&stage, &["--since", "1h", "--assume-port", "443"], &[]);
        let said = both(&output);
        (said.contains(OTHER_V4) && said.contains(&format!("- host: {OTHER}"))).then_some(output)
    })
    .expect("learned");
    let said = both(&learned);
    assert_eq!(learned.status.code(), Some(0), "{said}");
    for part in [
        "an address without a name",
        &format!("+      - cidr: \"{OTHER_V4}\""),
        "+        ports: [80]",
        "the port was not seen, it is assumed",
        "the one that is allowed",
    ] {
        assert!(said.contains(part), "{part}:\n{said}");
    }
    assert!(
        !said.contains(&format!("+      - cidr: \"{ALLOWED_V4}\"")),
        "{said}"
    );
}

#[test]
fn what_may_not_be_learned_is_refused_with_what_to_do() {
    let stage = Stage::new(POLICY, "").expect("stage");
    let command = ["/bin/true".to_owned()];
    let enforced = learn(&stage, &[], &command);
    assert_eq!(enforced.status.code(), Some(2), "{}", both(&enforced));
    assert!(
        text(&enforced.stderr).contains("mode: monitor"),
        "{}",
        both(&enforced)
    );

    let mut user = stage
        .daemon
        .cli_as(PLAIN_USER, &["learn", "--agent", AGENT, "--since", "1h"]);
    let output = user.stdin(Stdio::null()).output().expect("learn");
    assert_eq!(output.status.code(), Some(5), "{}", both(&output));
    assert!(text(&output.stderr).contains("sudo"), "{}", both(&output));

    let mut other = stage
        .daemon
        .cli(&["learn", "--agent", "nobody", "--for", "1s"]);
    let output = other.output().expect("learn");
    assert_eq!(output.status.code(), Some(2), "{}", both(&output));
    assert!(
        text(&output.stderr).contains("nobody:\n    mode: monitor"),
        "{}",
        both(&output)
    );
}
