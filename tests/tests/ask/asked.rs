//! Questions that agents really put, and who may answer them.

use super::*;
use exeat_tests::asked;

fn asking(who: &str) -> Stage {
    Stage::new(&asked::policy(who), "").expect("stage")
}

fn begin(puppet: &mut Puppet) {
    asked::begin(puppet, FAR).expect("it begins");
}

fn ended(puppet: &mut Puppet) -> i64 {
    asked::ended(puppet).expect("decided")
}

fn questions(stage: &Stage, uid: u32) -> Vec<Value> {
    asked::questions(stage, uid).expect("questions")
}

fn question(stage: &Stage) -> String {
    asked::question(stage).expect("a question")
}

fn answer(stage: &Stage, uid: u32, args: &[&str]) -> Output {
    let args = [&["ask"], args].concat();
    stage.daemon.cli_as(uid, &args).output().expect("ask")
}

fn done(output: Output) {
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}");
}

#[test]
fn an_answer_for_a_run_ends_with_it_and_is_not_the_next_ones() {
    let stage = asking("user");
    let _sinks = sinks(&stage);
    let mut first = stage.daemon.puppet(AGENT).expect("puppet");
    begin(&mut first);
    let id = question(&stage);
    assert_eq!(status(&stage)["questions"], 1);
    done(answer(
        &stage,
        PLAIN_USER,
        &["allow", &id, "--run", "--port", "7000"],
    ));
    assert_eq!(ended(&mut first), 0);
    let held = grants(&stage);
    assert_eq!(held[0]["by"]["uid"], PLAIN_USER);
    assert_eq!(held[0]["question"], id.as_str());
    assert!(held[0]["run"].is_string(), "{held:?}");
    drop(first);
    // The next run may get the same name: what it wants is asked anew.
    let mut next = stage.daemon.puppet(AGENT).expect("puppet");
    begin(&mut next);
    let again = question(&stage);
    assert_ne!(again, id);
    assert!(grants(&stage).is_empty());
    stage
        .daemon
        .event(|event| {
            event["kind"] == "grant_ended" && event["facts"]["because"] == "its run has ended"
        })
        .expect("it is told");
    done(answer(&stage, PLAIN_USER, &["deny", &again, "--once"]));
    assert_ne!(ended(&mut next), 0);
}

#[test]
fn nobody_answers_but_the_user_who_is_asked_and_administrators() {
    let stage = asking("user");
    let _sinks = sinks(&stage);
    let mut puppet = stage.daemon.puppet(AGENT).expect("puppet");
    begin(&mut puppet);
    let id = question(&stage);
    let stranger = PLAIN_USER + 1;
    assert!(questions(&stage, stranger).is_empty(), "it is not shown");
    assert!(refused(answer(&stage, stranger, &["allow", &id]), 1).contains("no question"));
    // The one who is asked may not open the door for good.
    assert_eq!(questions(&stage, PLAIN_USER).len(), 1);
    for much in [&["--always"][..], &["--for", "25h"]] {
        let args = [&["allow", id.as_str()], much].concat();
        assert!(refused(answer(&stage, PLAIN_USER, &args), 5).contains("administrator"));
    }
    // Nor may the agent answer itself, as its own user or as root, or see what stands.
    let (exeat, config) = (program(), stage.daemon.config());
    let (exeat, config) = (exeat.to_string_lossy(), config.to_string_lossy());
    let attempt = format!(
        "import subprocess; subprocess.run(['{exeat}', '--config', '{config}', 'ask', 'allow', '{id}'], stdout=-3, stderr=-3).returncode"
    );
    assert_eq!(puppet.value(&attempt).expect("ran"), 5);
    assert_eq!(questions(&stage, 0).len(), 1, "it stands");
    assert!(grants(&stage).is_empty());
    done(answer(
        &stage,
        PLAIN_USER,
        &["allow", &id, "--why", "it is me"],
    ));
    assert_eq!(ended(&mut puppet), 0);
}

#[test]
fn what_administrators_are_asked_no_user_answers_without_polkit() {
    let stage = asking("admin");
    let _sinks = sinks(&stage);
    let mut puppet = stage.daemon.puppet(AGENT).expect("puppet");
    begin(&mut puppet);
    let id = question(&stage);
    assert!(questions(&stage, PLAIN_USER).is_empty());
    refused(answer(&stage, PLAIN_USER, &["allow", &id]), 5);
    assert_eq!(questions(&stage, 0).len(), 1);
    done(answer(&stage, 0, &["allow", &id, "--for", "1h"]));
    assert_eq!(ended(&mut puppet), 0);
    // A policy that asks nobody takes what was answered along.
    stage
        .daemon
        .enforce("version: 1\nagents: { worker: {} }\n")
        .expect("policy");
    assert!(grants(&stage).is_empty());
    let errno = puppet.errno("held.settimeout(30); held.recv(1)");
    assert_eq!(errno.expect("answer"), libc::ECONNABORTED);
}
