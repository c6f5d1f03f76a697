//! `require` of an agent.

use super::errors::{agent, one};
use crate::policy::require::Wall;
use crate::policy::{PolicySet, parse};

fn read(body: &str) -> PolicySet {
    parse("p.yaml", &agent(body)).expect(body)
}

fn required(body: &str) -> Vec<Wall> {
    let set = read(body);
    let policy = set.agents.values().next().expect("agent");
    policy.require.iter().copied().collect()
}

#[test]
fn walls_are_named_one_or_more() {
    for body in ["", "    require: []\n"] {
        assert_eq!(required(body), []);
    }
    assert_eq!(required("    require: seccomp\n"), [Wall::Seccomp]);
    assert_eq!(
        required("    require: [seccomp, lsm_bpf, seccomp]\n"),
        [Wall::LsmBpf, Wall::Seccomp]
    );
}

#[test]
fn what_is_no_wall_is_an_error() {
    for (value, column, message, help) in [
        ("7", 14, "a wall is a number", "require: [seccomp]"),
        (
            "secomp",
            14,
            "`secomp` is no wall",
            "did you mean `seccomp`?",
        ),
        (
            "[seccomp, moat]",
            24,
            "`moat` is no wall",
            "there are `lsm_unix`",
        ),
        (
            "[connect4]",
            15,
            "`connect4` is no wall to require",
            "nothing is ever started without it",
        ),
    ] {
        one(
            &agent(&format!("    require: {value}\n")),
            4,
            column,
            message,
            help,
        );
    }
}

#[test]
fn every_hook_of_cgroups_is_known_as_always_required() {
    for attachment in crate::kernel::links::ATTACHMENTS {
        one(
            &agent(&format!("    require: {}\n", attachment.hook)),
            4,
            14,
            "is no wall to require",
            "nothing is ever started without it",
        );
    }
}

#[test]
fn the_words_of_lsm_are_those_of_its_walls() {
    let words: Vec<&str> = Wall::ALL.iter().map(|wall| wall.as_str()).collect();
    let lsm = crate::kernel::walls::WALLS.map(|wall| wall.name);
    assert_eq!(words[..lsm.len()], lsm);
}

#[test]
fn the_digest_tells_what_is_required() {
    let digest = |body: &str| read(body).digest;
    assert_ne!(digest(""), digest("    require: [lsm_mount]\n"));
    assert_eq!(digest(""), digest("    require: []\n"));
}
