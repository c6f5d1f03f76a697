//! Adoption: what a policy's `match` names is the agent's, however it was started.

mod attacks;
mod cgroups;
mod programs;

use exeat_tests::attack::PLAIN_USER;
use exeat_tests::cgroup;
use exeat_tests::puppet::{self, Puppet};
use exeat_tests::stage::{ALLOWED_V4, OTHER_V4, Stage};
use exeat_tests::wait;
use serde_json::Value;
use std::path::Path;

/// A policy of one agent that may reach one address, with these selectors.
fn policy(selectors: &[String]) -> String {
    let selectors: String = selectors
        .iter()
        .map(|selector| format!("      - {{ {selector} }}\n"))
        .collect();
    format!(
        "version: 1\nagents:\n  worker:\n    match:\n{selectors}    allow:\n      - {{ cidr: {ALLOWED_V4}/32, ports: [80] }}\n"
    )
}

/// The same without selectors.
fn policy_without() -> String {
    format!(
        "version: 1\nagents:\n  worker:\n    allow:\n      - {{ cidr: {ALLOWED_V4}/32, ports: [80] }}\n"
    )
}

/// A puppet of an ordinary user that nobody confines.
fn free(stage: &Stage) -> Puppet {
    let argv = puppet::arguments();
    let mut command = stage.world.laptop.command_as(PLAIN_USER, &argv[0]);
    command.args(&argv[1..]);
    Puppet::start(command).expect("puppet")
}

/// One that is in a cgroup.
fn inside(stage: &Stage, cgroup: &Path) -> Puppet {
    let puppet = free(stage);
    cgroup::add(cgroup, puppet.pid()).expect("move");
    puppet
}

/// What the agent's status shows as adopted.
fn adopted(stage: &Stage) -> Vec<Value> {
    let status = stage.daemon.status().expect("status");
    let agents = status["agents"].as_array().expect("agents").clone();
    let worker = agents.into_iter().find(|agent| agent["name"] == "worker");
    let adopted = worker.expect("worker")["adopted"].clone();
    adopted.as_array().cloned().unwrap_or_default()
}

fn until_adopted(stage: &Stage, what: &Path) -> Value {
    let what = Value::from(what.display().to_string());
    wait::until("it to be adopted", wait::patience(), || {
        adopted(stage)
            .into_iter()
            .find(|found| found["what"] == what)
    })
    .unwrap_or_else(|error| {
        panic!(
            "{what}: {error}: {:?}\n{}",
            adopted(stage),
            stage.daemon.log()
        )
    })
}

const TO_OTHER: &str = "tcp('203.0.113.20', 80).close()";
const TO_ALLOWED: &str = "tcp('203.0.113.10', 80).close()";

/// It is the agent: what the policy allows goes, the rest does not.
fn assert_governed(puppet: &mut Puppet, about: &str) {
    assert_eq!(OTHER_V4, "203.0.113.20");
    assert_eq!(
        puppet.errno(TO_OTHER).expect("answer"),
        libc::EPERM,
        "{about}"
    );
    assert_eq!(puppet.errno(TO_ALLOWED).expect("answer"), 0, "{about}");
}

/// It is nobody's.
fn assert_free(puppet: &mut Puppet, about: &str) {
    assert_eq!(puppet.errno(TO_OTHER).expect("answer"), 0, "{about}");
}
