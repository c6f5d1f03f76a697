//! The policies that come with Exeat.

use crate::policy::{Compiled, PolicySet, Selector, load};
use agent_common::verdict::Action;
use std::path::{Path, PathBuf};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../policies")
}

fn stock(name: &str) -> PolicySet {
    let path = folder().join(format!("{name}.yaml"));
    load(&[path]).unwrap_or_else(|errors| panic!("{errors}"))
}

const NAMES: &[&str] = &[
    "aider",
    "cargo",
    "claude-code",
    "codex",
    "cursor",
    "demo",
    "gemini-cli",
    "git-https",
    "git-ssh",
    "github-copilot-cli",
    "npm",
    "pip",
];

#[test]
fn each_loads_compiles_and_gives_its_reasons() {
    for name in NAMES {
        let set = stock(name);
        assert_eq!(set.warnings, [], "{name}");
        let policy = &set.agents[*name];
        assert_eq!(set.agents.len(), 1, "{name}");
        Compiled::new(policy).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert!(
            policy.rules.iter().any(|rule| rule.action == Action::Allow),
            "{name}"
        );
        for rule in &policy.rules {
            assert!(rule.reason.is_some(), "{name}: `{rule}` gives no reason");
            if rule.action == Action::Allow {
                assert!(
                    matches!(rule.selector, Selector::Host(_)),
                    "{name}: `{rule}`"
                );
            }
        }
    }
}

#[test]
fn the_folder_holds_exactly_these_and_loads_as_one() {
    let set = load(&[folder()]).unwrap_or_else(|errors| panic!("{errors}"));
    let names: Vec<&str> = set.agents.keys().map(|name| name.as_str()).collect();
    assert_eq!(names, NAMES);
}

#[test]
fn each_begins_with_its_schema_and_says_its_limits() {
    for name in NAMES {
        let text = std::fs::read_to_string(folder().join(format!("{name}.yaml"))).expect("file");
        assert!(
            text.starts_with(
                "# yaml-language-server: $schema=../agent/schema/policy.schema.json\n"
            ),
            "{name}"
        );
        assert!(
            text.contains("# Source") && text.contains("# Limits"),
            "{name}"
        );
    }
}

#[test]
fn the_demo_is_what_the_demo_runs_on() {
    let set = stock("demo");
    let rules: Vec<String> = set.agents["demo"]
        .rules
        .iter()
        .map(|rule| {
            let text = rule.to_string();
            text.split(" (").next().unwrap_or_default().to_owned()
        })
        .collect();
    assert_eq!(
        rules,
        [
            "allow tcp api.example.test:443",
            "allow tcp plain.example.test:80",
            "deny any 169.254.169.254"
        ]
    );
}
